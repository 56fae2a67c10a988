/**
 * Gradients of batches by all parameters, taken beside a training: the pass adds to gradient tensors of its own, and the
 * training's parameters, moments and gradients keep every bit. And sums over the parts of a model that they are compared by.
 */
import * as Effect from "effect/Effect"
import * as Scope from "effect/Scope"
import type { Batch } from "../Batch.ts"
import { batchOf, type Row } from "../data/stream/Packing.ts"
import { misfit } from "../data/stream/Rows.ts"
import { attempt, DataError, DeviceError, type KernelError } from "../Errors.ts"
import { Device } from "../gpu/Device.ts"
import * as Program from "../gpu/Program.ts"
import * as Tensor from "../gpu/Tensor.ts"
import type { HostTensor } from "../HostTensor.ts"
import { toHuggingFace } from "../model/HuggingFace.ts"
import { Model } from "../model/Model.ts"
import type { ModelConfig } from "../model/ModelConfig.ts"
import type * as Ops from "../model/Ops.ts"
import { listParameters, type Parameters, parametersOf } from "../model/Parameters.ts"
import { gathers, HYPER } from "../model/Pass.ts"
import type { SinkMode } from "../Sink.ts"
import { checkLosses } from "./Sound.ts"

/** What gradients fail with. */
export type GradientsError = DeviceError | KernelError | DataError

/** An array for each parameter of a Model, by its name and in the Model's layout: weights, their gradients or changes. */
export type ParameterMap = ReadonlyMap<string, Float32Array>

// ---------------------------------------------------------------------------------------------------------------
// Parts of a model. Pure.

/** Embedding and head; attention and all norms; neurons that are always on; the pool. */
export const PARTS = ["embedding", "attention", "general", "sinks"] as const
/** A part of a model whose gradients are told apart. */
export type PartName = (typeof PARTS)[number]

/** Elements [from, to) of a parameter, all of one part. */
export interface PartSlice {
  readonly parameter: string
  /** Block, counted from 0; -1: of none (embedding, head, final norm). */
  readonly layer: number
  readonly part: PartName
  readonly from: number
  readonly to: number
}

/** A model's parameters cut into parts: every element is in one slice. The pool's slices are absent without sinks. */
export const partsOf = (config: ModelConfig): ReadonlyArray<PartSlice> =>
  listParameters(parametersOf(config)).flatMap(({ name, value }): ReadonlyArray<PartSlice> => {
    const [, index, kind] = /^(?:layers\.(\d+)\.)?(.+)$/.exec(name)!
    const layer = index === undefined ? -1 : Number(index)
    const size = Tensor.size(value)
    const slice = (part: PartName, from: number, to: number): PartSlice => ({ parameter: name, layer, part, from, to })
    if (kind === "embed" || kind === "head") return [slice("embedding", 0, size)]
    if (kind !== "gateUp" && kind !== "down") return [slice("attention", 0, size)]
    // both have the rows of general neurons first; gateUp two a neuron
    const split = (kind === "gateUp" ? 2 : 1) * config.general * config.hiddenSize
    return [slice("general", 0, split), ...(split < size ? [slice("sinks", split, size)] : [])]
  })

/** The values of a parameter. Throws a DataError where a map lacks them or they are not as many as the config asks for. */
const valuesOf = (what: string, values: ParameterMap, name: string, size: number): Float32Array => {
  const data = values.get(name)
  if (data?.length === size) return data
  throw new DataError({
    detail: `${what}: expected ${size} values of parameter ${name}, got ${data?.length ?? "none"}: ` +
      "it must be a map of all parameters of a model of this config"
  })
}

/** Slices with the arrays they cut, checked. */
const slicesOf = (config: ModelConfig, maps: Readonly<Record<string, ParameterMap>>) => {
  const slices = partsOf(config)
  const sizes = new Map<string, number>()
  for (const { parameter, to } of slices) sizes.set(parameter, Math.max(to, sizes.get(parameter) ?? 0))
  return slices.map((slice) => ({
    ...slice,
    arrays: Object.entries(maps).map(([what, map]) =>
      valuesOf(what, map, slice.parameter, sizes.get(slice.parameter)!).subarray(slice.from, slice.to)
    )
  }))
}

/**
 * Sums of products a_i b_i over the elements of each part and over all, in float64; 0 for a part that the model lacks.
 * With a gradient and a change of the weights: the change of the loss to first order. Throws a DataError for maps that
 * are not of this config.
 */
export const innerProducts = (
  a: ParameterMap,
  b: ParameterMap,
  config: ModelConfig
): Readonly<Record<PartName | "all", number>> => {
  const sums = { embedding: 0, attention: 0, general: 0, sinks: 0 }
  for (const { arrays: [x, y], part } of slicesOf(config, { a, b })) {
    let sum = 0
    for (let i = 0; i < x!.length; i++) sum += x![i]! * y![i]!
    sums[part] += sum
  }
  return { ...sums, all: PARTS.reduce((sum, part) => sum + sums[part], 0) }
}

/** A number for a part of a layer. */
export interface PartValue {
  /** -1: of none. */
  readonly layer: number
  readonly part: PartName
  readonly value: number
}

/** Sums of f over the elements of each layer and part, and how many they are; in the order of layers, then PARTS. */
const sumsOf = (values: ParameterMap, config: ModelConfig, f: (x: number) => number) => {
  const sums = new Map<string, { readonly layer: number; readonly part: PartName; sum: number; count: number }>()
  for (const { arrays: [x], layer, part } of slicesOf(config, { values })) {
    const key = `${layer} ${part}`
    const entry = sums.get(key) ?? { layer, part, sum: 0, count: 0 }
    for (let i = 0; i < x!.length; i++) entry.sum += f(x![i]!)
    entry.count += x!.length
    sums.set(key, entry)
  }
  return [...sums.values()].sort((a, b) => a.layer - b.layer || PARTS.indexOf(a.part) - PARTS.indexOf(b.part))
}

/**
 * Root mean square of the values of each layer and part: the size of weights, or of what they moved by. The final norm is
 * the `attention` of layer -1. Throws a DataError for a map that is not of this config.
 */
export const rms = (values: ParameterMap, config: ModelConfig): ReadonlyArray<PartValue> =>
  sumsOf(values, config, (x) => x * x).map(({ count, layer, part, sum }) => ({
    layer,
    part,
    value: Math.sqrt(sum / count)
  }))

/** Sum of |x| of each layer and part: where a gradient falls. Throws a DataError for a map that is not of this config. */
export const absoluteMass = (gradient: ParameterMap, config: ModelConfig): ReadonlyArray<PartValue> =>
  sumsOf(gradient, config, Math.abs).map(({ layer, part, sum }) => ({ layer, part, value: sum }))

/** after - before, of every parameter. Throws a DataError where they are not of the same parameters. */
export const difference = (after: ParameterMap, before: ParameterMap): ParameterMap =>
  new Map([...after].map(([name, data]) => {
    const was = valuesOf("before", before, name, data.length)
    return [name, data.map((x, i) => x - was[i]!)]
  }))

// ---------------------------------------------------------------------------------------------------------------
// Gradients of the Model.

/** The values of all parameters of the Model. */
export const weights: Effect.Effect<ParameterMap, DeviceError, Model | Device> = Effect.gen(function*() {
  const device = yield* Device
  const model = yield* Model
  const read = yield* Effect.forEach(model.parameters,
    ({ name, value }) => Effect.map(device.read(value), (data) => [name, data as Float32Array] as const))
  return new Map(read)
})

/** The shape of the batches, and whose gradients are kept. */
export interface GradientsOptions {
  /** Rows of a batch, and tokens of a row. */
  readonly rows: number
  readonly seqLen: number
  /** Documents a batch may hold at most. Default: one a row. */
  readonly maxSegments?: number
}

/** A batch's mean loss and the gradient of it. */
export interface Gradient {
  /** Mean over the scored tokens, nats; 0 when none is scored. */
  readonly loss: number
  /** d loss / d parameter. */
  readonly gradients: ParameterMap
}

/** Computes gradients of batches without changing a weight; it holds memory on the device while its scope is open. */
export interface Gradients {
  /** Fails with a DataError for a batch of another shape or with too many documents. One call at a time. */
  readonly of: (batch: Batch, mode: SinkMode) => Effect.Effect<Gradient, GradientsError>
}

/** The same parameters with gradients of their own. */
const withGradients = (parameters: Parameters): Parameters => {
  const made = new Map(
    listParameters(parameters).map((p): readonly [Ops.Parameter, Ops.Parameter] => [
      p,
      { ...p, gradient: Tensor.make(`${p.name}.probe`, p.value.shape) }
    ])
  )
  // embedding and head may be one parameter: then they stay one
  const of = (p: Ops.Parameter): Ops.Parameter => made.get(p)!
  return {
    embed: of(parameters.embed),
    layers: parameters.layers.map(({ down, gateUp, norm1, norm2, o, qkv }) => ({
      norm1: of(norm1),
      qkv: of(qkv),
      o: of(o),
      norm2: of(norm2),
      gateUp: of(gateUp),
      down: of(down)
    })),
    norm: of(parameters.norm),
    head: of(parameters.head)
  }
}

/**
 * Gradients by the Model's parameters as they are at each call, in f32 whatever the Model's precision: small ones would
 * lose their digits in f16, and nothing scales the loss. Takes as much memory as the weights, and that of a training pass
 * (two when dense modes like `all` are asked for, too); freed when the scope closes. A training beside it goes on as if
 * nothing had happened: only the scalar `gradientScale` of `model.hyper` is written, and every training step begins by
 * writing all of them.
 */
export const makeGradients = (
  options: GradientsOptions
): Effect.Effect<Gradients, GradientsError, Model | Device | Scope.Scope> =>
  Effect.gen(function*() {
    const device = yield* Device
    const model = yield* Model
    const scope = yield* Effect.scope
    const { maxSegments, rows, seqLen } = options
    const handles = withGradients(model.handles)
    const parameters = listParameters(handles)
    yield* device.allocate(parameters.map(({ gradient }) => gradient))
    // passes add to gradients
    const recorder = Program.record("clear gradients", device.target)
    for (const { gradient } of parameters) recorder.clear(gradient)
    const clear = yield* device.prepare(recorder.finish())
    const compile = (compute?: "masked") =>
      Effect.cached(
        model.compile({
          rows,
          seqLen,
          output: "train",
          precision: "f32",
          ...(maxSegments === undefined ? {} : { maxSegments }),
          ...(compute === undefined ? {} : { compute })
        }, handles).pipe(Scope.extend(scope))
      )
    const sparse = yield* compile()
    const masked = yield* compile("masked")

    const of: Gradients["of"] = Effect.fnUntraced(function*(batch, mode) {
      const pass = yield* (gathers(model.config, batch, mode) || model.config.sinks === undefined ? sparse : masked)
      const scored = yield* attempt(() => {
        const { scored } = pass.load(batch, mode)
        device.write(model.hyper, Float32Array.of(1 / Math.max(1, scored)), HYPER.gradientScale)
        device.submit(clear, pass.prepared)
        return scored
      }, DataError, DeviceError)
      const losses = (yield* device.read(pass.tensors.loss)) as Float32Array
      yield* checkLosses(device, model, batch, losses)
      const gradients = yield* Effect.forEach(parameters,
        ({ gradient, name }) => Effect.map(device.read(gradient), (data) => [name, data as Float32Array] as const))
      return { loss: losses.reduce((sum, loss) => sum + loss, 0) / Math.max(1, scored), gradients: new Map(gradients) }
    })
    return { of }
  })

/**
 * The Model's diagonal Fisher information: the mean over sequences of the squared gradient of each one's mean loss, by the
 * names and in the layout of `exportTensors`. The empirical one, of the tokens that are there.
 */
export const fisher = (
  rows: ReadonlyArray<Row>,
  { mode, seqLen }: { readonly mode: SinkMode; readonly seqLen: number }
): Effect.Effect<Readonly<Record<string, HostTensor>>, GradientsError, Model | Device> =>
  Effect.gen(function*() {
    const wrong = rows.length === 0 ? "there is none: give at least one" : misfit(rows, seqLen)
    if (wrong !== undefined) return yield* new DataError({ detail: `Fisher information of sequences: ${wrong}` })
    const { config } = yield* Model
    const { of } = yield* makeGradients({ rows: 1, seqLen })
    const sums = new Map<string, Float64Array>()
    for (const row of rows) {
      const { gradients } = yield* of(batchOf([row], seqLen), mode)
      for (const [name, gradient] of gradients) {
        const sum = sums.get(name) ?? new Float64Array(gradient.length)
        sums.set(name, sum)
        for (let i = 0; i < sum.length; i++) sum[i]! += gradient[i]! ** 2 / rows.length
      }
    }
    return Object.fromEntries(
      [...sums].flatMap(([name, sum]) => toHuggingFace(config, name, Float32Array.from(sum)))
    )
  }).pipe(Effect.scoped)
