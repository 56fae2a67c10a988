/** Localizers that need nothing of a model but its gates. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Batch } from "../Batch.ts"
import type { Row } from "../data/Packing.ts"
import type { Device } from "../gpu/Device.ts"
import type { Model } from "../Model.ts"
import {
  attempt,
  checkOptions,
  type LocalizeError,
  type LocalizeOptions,
  type Localizer,
  type NeuronScores
} from "./Localizer.ts"

export interface NeuronGates {
  readonly layers: number
  readonly width: number
  readonly loss: (batch: Batch, gates?: ReadonlyArray<Float32Array>) => Effect.Effect<Float32Array, LocalizeError>
  readonly gradients: (batch: Batch, weights: Float32Array, gates?: ReadonlyArray<Float32Array>) => Effect.Effect<
    { readonly loss: Float32Array; readonly gates: ReadonlyArray<Float32Array> },
    LocalizeError
  >
  readonly activations: (
    batch: Batch,
    gates?: ReadonlyArray<Float32Array>
  ) => Effect.Effect<ReadonlyArray<Float32Array>, LocalizeError>
}

/** The gates of the Model for the options' rows. */
export const gatesOf = (
  _: LocalizeOptions
): Effect.Effect<NeuronGates, LocalizeError, Model | Device | Scope.Scope> =>
  Effect.dieMessage("gates of neurons are still to come")

/** An algorithm on gates as a localizer of the Model: options are checked before any pass is compiled. */
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
    attempt(() => checkOptions(rows, options)).pipe(
      Effect.zipRight(gatesOf(options)),
      Effect.flatMap((gates) => scores(gates, rows, options)),
      Effect.scoped
    )
})
