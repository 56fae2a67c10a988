/** Localizers that need nothing of a model but its gates. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Row } from "../../data/stream/Packing.ts"
import { attempt, DataError } from "../../Errors.ts"
import type { Device } from "../../gpu/Device.ts"
import { type NeuronGates, neuronGates } from "../../inside/NeuronGates.ts"
import type { Model } from "../../model/Model.ts"
import { own } from "../../Sink.ts"
import { checkOptions, type LocalizeError, type LocalizeOptions, type Localizer,
  type NeuronScores } from "./Localizer.ts"

/** The gates of the Model for the options' rows; options are checked before anything is compiled. */
export const gatesFor = (
  rows: ReadonlyArray<Row>,
  options: LocalizeOptions
): Effect.Effect<NeuronGates, LocalizeError, Model | Device | Scope.Scope> => {
  const { batchSize, mode = own, seqLen } = options
  return Effect.zipRight(
    attempt(() => checkOptions(rows, options), DataError),
    neuronGates({ rows: batchSize, seqLen, mode })
  )
}

/** An algorithm on gates as a localizer of the Model. */
export const withGates = (
  name: string,
  scores: (
    gates: NeuronGates,
    rows: ReadonlyArray<Row>,
    options: LocalizeOptions
  ) => Effect.Effect<NeuronScores, LocalizeError>
): Localizer => ({
  name,
  localize: (rows, options) =>
    gatesFor(rows, options).pipe(
      Effect.flatMap((gates) => scores(gates, rows, options)),
      Effect.scoped
    )
})
