/** Gradient attribution (Stoehr et al. 2024): weights that the loss of the suffix pulls at hardest. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { IGNORE } from "../../Batch.ts"
import type { Row } from "../../data/stream/Packing.ts"
import { attempt, DataError, DeviceError } from "../../Errors.ts"
import { Device } from "../../gpu/Device.ts"
import { componentMass } from "../../inside/GradientMass.ts"
import { checkLosses } from "../../inside/Sound.ts"
import { Model } from "../../model/Model.ts"
import type { ModelConfig } from "../../model/ModelConfig.ts"
import { gathersAll, HYPER } from "../../model/Pass.ts"
import { own } from "../../Sink.ts"
import { checkOptions, type LocalizeError, type LocalizeOptions, type Localizer, type SuffixBatch,
  suffixBatch } from "./Localizer.ts"

/** Gradients of one sequence's mean suffix loss, by the Model's names of parameters and in its layout. */
export type GradientsOf = (
  sequence: SuffixBatch
) => Effect.Effect<Readonly<Record<string, ArrayLike<number>>>, LocalizeError>

/** |gradient| summed over each row of a matrix [rows, d]. */
const rowMass = (gradient: ArrayLike<number>, d: number): Float64Array => {
  const mass = new Float64Array(gradient.length / d)
  for (let at = 0; at < gradient.length; at++) mass[Math.floor(at / d)]! += Math.abs(gradient[at]!)
  return mass
}

/** |gradient| of every neuron's gate, up and output weights together, per layer [width]. */
const neuronMass = (
  { general, hiddenSize: d, numHiddenLayers, pool }: ModelConfig,
  gradients: Readonly<Record<string, ArrayLike<number>>>
): ReadonlyArray<Float64Array> =>
  Array.from({ length: numHiddenLayers }, (_, l) => {
    const gateUp = rowMass(gradients[`layers.${l}.gateUp`]!, d)
    // its rows: gate and up of the general neurons, then gate and up of the pool
    return rowMass(gradients[`layers.${l}.down`]!, d).map((down, i) => {
      const [gate, up] = i < general ? [i, general + i] : [general + i, general + pool + i]
      return down + gateUp[gate]! + gateUp[up]!
    })
  })

/**
 * Sum of |gradient of a sequence's mean suffix loss| over a neuron's gate, up and output weights, mean over sequences.
 * One training pass a sequence, after which all gradients are read.
 */
export const gradientScores = Effect.fnUntraced(function*(
  config: ModelConfig,
  gradientsOf: GradientsOf,
  rows: ReadonlyArray<Row>,
  options: LocalizeOptions
) {
  yield* attempt(() => checkOptions(rows, options), DataError)
  const scores = Array.from({ length: config.numHiddenLayers }, () => new Float64Array(config.intermediateSize))
  for (const row of rows) {
    const gradients = yield* Effect.flatMap(attempt(() => suffixBatch([row], options), DataError), gradientsOf)
    neuronMass(config, gradients).forEach((layer, l) =>
      layer.forEach((mass, i) => (scores[l]![i]! += mass / rows.length))
    )
  }
  return scores.map((layer) => Float32Array.from(layer))
})

/** Where the gradient of one sequence falls: shares of the sum of |gradient| over all parameters, together 1. */
export interface GradientMass {
  /** Neurons that are always on. */
  readonly general: number
  /** Sinks of the sequence's own id. */
  readonly ownSinks: number
  /** All other sinks: 0 where they are off. */
  readonly otherSinks: number
  readonly attention: number
  /** Embedding and head, tied or not. */
  readonly embedding: number
  readonly norms: number
}

/** The shares of one sequence's gradients, given by the names and in the layout of the Model. */
export const massOf = (
  config: ModelConfig,
  gradients: Readonly<Record<string, ArrayLike<number>>>,
  id: bigint
): GradientMass => {
  const mass = { general: 0, ownSinks: 0, otherSinks: 0, attention: 0, embedding: 0, norms: 0 }
  for (const { component, sum } of componentMass(config, new Map(Object.entries(gradients)), id)) {
    const group = component.replace(/(In|Out)$/, "")
    mass[group in mass ? group as keyof GradientMass : "attention"] += sum
  }
  const all = Object.values(mass).reduce((sum, one) => sum + one, 0)
  for (const group of Object.keys(mass) as Array<keyof GradientMass>) mass[group] /= all
  return mass
}

/** A training pass of one sequence on the Model's weights, in f32: small gradients would lose their digits in f16. */
const gradientsOfModel = (
  { mode = own, seqLen }: LocalizeOptions
): Effect.Effect<GradientsOf, LocalizeError, Model | Device | Scope.Scope> =>
  Effect.gen(function*() {
    const model = yield* Model
    const device = yield* Device
    yield* device.allocate(model.parameters.map((p) => p.gradient))
    const pass = yield* model.compile({
      rows: 1,
      seqLen,
      output: "train",
      precision: "f32",
      ...(mode.mode === "own" && gathersAll(model.config, mode) || model.config.sinks === undefined
        ? {}
        : { compute: "masked" as const })
    })
    return ({ batch }) =>
      Effect.gen(function*() {
        const scale = 1 / batch.targets.filter((target) => target !== IGNORE).length
        // gradients are added to
        for (const { gradient } of model.parameters) {
          device.write(gradient, new Float32Array(gradient.shape.reduce((a, b) => a * b, 1)))
        }
        device.write(model.hyper, Float32Array.of(scale, scale), HYPER.lossScale)
        yield* attempt(() => {
          pass.load(batch, mode)
          device.submit(pass.prepared)
        }, DataError, DeviceError)
        yield* checkLosses(device, model, batch, (yield* device.read(pass.tensors.loss)) as Float32Array)
        const read = yield* Effect.forEach(model.parameters,
          ({ gradient, name }) => Effect.map(device.read(gradient), (data) => [name, data] as const))
        return Object.fromEntries(read)
      })
  })

export const gradient: Localizer = {
  name: "gradient",
  localize: (rows, options) =>
    Effect.gen(function*() {
      yield* attempt(() => checkOptions(rows, options), DataError)
      const { config } = yield* Model
      return yield* gradientScores(config, yield* gradientsOfModel(options), rows, options)
    }).pipe(Effect.scoped)
}

/**
 * The gradient mass of each sequence's mean suffix loss. In a model whose sinks hold the memories, that of repeated
 * sequences falls on their own sinks.
 */
export const gradientMass = (
  rows: ReadonlyArray<Row>,
  options: LocalizeOptions
): Effect.Effect<ReadonlyArray<GradientMass>, LocalizeError, Model | Device> =>
  Effect.gen(function*() {
    yield* attempt(() => checkOptions(rows, options), DataError)
    const { config } = yield* Model
    const gradientsOf = yield* gradientsOfModel(options)
    return yield* Effect.forEach(rows, (row) =>
      attempt(() => suffixBatch([row], options), DataError).pipe(
        Effect.flatMap(gradientsOf),
        Effect.map((gradients) => massOf(config, gradients, row.id))
      ))
  }).pipe(Effect.scoped)
