/** What everything that a forgetting experiment keeps depends on, as plain data. */
import * as Schema from "effect/Schema"
import type { Input } from "../../src/data/stream/DataStream.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { TrainConfig } from "../../src/train/Trainer.ts"
import { modelOf, streamOf, trainingOf } from "../experiment/Arms.ts"
import { type DynamicsArm, DynamicsConfig, type Plan } from "./Config.ts"

/** Numbers of the code: raise one when its computation gives other values. */
const versions = { shown: 1, arm: 1, contents: 1 } as const

/** What an arm shows when. */
export const shownOf = ({ config, steps }: Pick<Plan, "config" | "steps">, arm: DynamicsArm, seed: number) => ({
  version: versions.shown,
  groups: config.groups.map((group) => ({ ...group })),
  steps,
  seed,
  stream: streamOf(arm),
  intervening: arm.intervening
})

/** A trained arm with its traces. */
export const armOf = (
  { config, steps }: Pick<Plan, "config" | "steps">,
  arm: DynamicsArm,
  seed: number,
  vocabSize: number,
  inputs: ReadonlyArray<Input>
) => {
  // an interval over resamplings, the other arms and seeds, and what is looked at when all is done are no part of it
  const { arms: _, contents: __, data, intervals: ___, model, resamples: ____, seeds: _____, training, ...probed } =
    Schema
      .encodeSync(DynamicsConfig)(config)
  void model
  void training
  const { saveBest: _a, saveEvery: _b, saveLogSpaced: _c, ...trained } = Schema.encodeSync(TrainConfig)(
    trainingOf(config.training, arm)
  )
  return {
    version: versions.arm,
    ...probed,
    // the first seed, which is told apart by `seed`
    data: { ...data, seed: 0 },
    inputs: inputs.map(({ sha256 }) => sha256),
    shown: shownOf({ config, steps }, arm, seed),
    model: Schema.encodeSync(ModelConfig)(modelOf(config.model, vocabSize, arm)),
    training: trained,
    seed
  }
}

/** The same, and what its sinks are found to hold. */
export const lookedAt = (arm: ReturnType<typeof armOf>, { contents }: DynamicsConfig) => ({
  of: arm,
  contents: contents ? versions.contents : 0
})
