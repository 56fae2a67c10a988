/** The floor that every localizer must beat: scores drawn at random, per layer. */
import * as Effect from "effect/Effect"
import { Model } from "../../model/Model.ts"
import { random as randomOf } from "../../Random.ts"
import type { Localizer, NeuronScores } from "./Localizer.ts"

/** Uniform scores in [0, 1), the same for the same seed whatever the sequences. */
export const randomScores = (layers: number, width: number, seed: number): NeuronScores =>
  Array.from({ length: layers }, (_, layer) => {
    const draw = randomOf(seed, "localizer", "random", layer)
    return Float32Array.from({ length: width }, draw.uniform)
  })

export const random: Localizer = {
  name: "random",
  localize: (_, { seed }) =>
    Effect.map(Model, ({ config }) => randomScores(config.numHiddenLayers, config.intermediateSize, seed))
}
