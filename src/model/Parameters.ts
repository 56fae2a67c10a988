/** The parameters of a decoder: their handles in its internal layout, their memory, their initial values. */
import * as Effect from "effect/Effect"
import { availableParallelism } from "node:os"
import { attempt, DeviceError } from "../Errors.ts"
import type { DeviceService, Limits } from "../gpu/Device.ts"
import * as Tensor from "../gpu/Tensor.ts"
import { upload } from "../gpu/Upload.ts"
import type { Slice } from "../Sink.ts"
import { type Draw, drawers, normals } from "./Init.ts"
import type { ModelConfig } from "./ModelConfig.ts"
import type * as Ops from "./Ops.ts"

export interface Parameters {
  readonly embed: Ops.Parameter
  readonly layers: ReadonlyArray<{
    readonly norm1: Ops.Parameter
    readonly qkv: Ops.Parameter
    readonly o: Ops.Parameter
    readonly norm2: Ops.Parameter
    readonly gateUp: Ops.Parameter
    readonly down: Ops.Parameter
  }>
  readonly norm: Ops.Parameter
  readonly head: Ops.Parameter
}

const parameter = (name: string, shape: ReadonlyArray<number>, sinkRow0?: number): Ops.Parameter => ({
  name,
  value: Tensor.make(name, shape),
  gradient: Tensor.make(`${name}.gradient`, shape),
  decay: shape.length === 2,
  sinkRow0
})

/** The norms' weights, which are small and many: they lie together, so that one dispatch updates all. */
const normsOf = (c: ModelConfig): (name: string) => Ops.Parameter => {
  const names = [
    ...Array.from({ length: c.numHiddenLayers }, (_, i) => [`layers.${i}.norm1`, `layers.${i}.norm2`]).flat(),
    "norm"
  ]
  const values = Tensor.together("norms", names, [c.hiddenSize]).parts
  const gradients = Tensor.together("norms.gradient", names.map((name) => `${name}.gradient`), [c.hiddenSize]).parts
  const at = new Map(names.map((name, i) => [name, i]))
  return (name) => {
    const i = at.get(name)!
    return { name, value: values[i]!, gradient: gradients[i]!, decay: false, sinkRow0: undefined }
  }
}

/** Sinks of every MLP that are in a slice of the pool; all where there is none. */
const poolOf = (c: ModelConfig, slice: Slice | undefined): number =>
  slice === undefined ? c.pool : (slice.to - slice.from) * c.sinks!.block

/**
 * Handles of all parameters, with the sinks of a slice of the pool alone where there is one. Internal layout: fused qkv and
 * gateUp, neuron-major down (see Ops.mlp).
 */
export const parametersOf = (c: ModelConfig, slice?: Slice): Parameters => {
  const d = c.hiddenSize
  const width = c.general + poolOf(c, slice)
  const attention = c.numAttentionHeads * c.headSize
  const sinks = (row: number) => (c.pool === 0 ? undefined : row)
  const embed = parameter("embed", [c.vocabSize, d])
  const norm = normsOf(c)
  return {
    embed,
    layers: Array.from({ length: c.numHiddenLayers }, (_, i) => ({
      norm1: norm(`layers.${i}.norm1`),
      qkv: parameter(`layers.${i}.qkv`, [attention + 2 * c.kvHeads * c.headSize, d]),
      o: parameter(`layers.${i}.o`, [d, attention]),
      norm2: norm(`layers.${i}.norm2`),
      gateUp: parameter(`layers.${i}.gateUp`, [2 * width, d], sinks(2 * c.general)),
      down: parameter(`layers.${i}.down`, [width, d], sinks(c.general))
    })),
    norm: norm("norm"),
    head: c.tieWordEmbeddings ? embed : parameter("head", [c.vocabSize, d])
  }
}

/** Every parameter once, in a fixed order. */
export const listParameters = (p: Parameters): ReadonlyArray<Ops.Parameter> => [
  ...new Set([
    p.embed,
    ...p.layers.flatMap((l) => [l.norm1, l.qkv, l.o, l.norm2, l.gateUp, l.down]),
    p.norm,
    p.head
  ])
]

/** Elements that a parameter's value has in common with that of the whole pool, and where they begin in the two. */
export interface Stretch {
  readonly own: number
  readonly whole: number
  readonly length: number
}

/** What a parameter's value with a slice of the pool is of that with all: general neurons first, then sinks, in each half. */
export const stretchesOf = (
  c: ModelConfig,
  { sinkRow0, value }: Pick<Ops.Parameter, "sinkRow0" | "value">,
  slice: Slice | undefined
): ReadonlyArray<Stretch> => {
  const size = Tensor.size(value)
  if (sinkRow0 === undefined) return [{ own: 0, whole: 0, length: size }]
  const split = sinkRow0 * c.hiddenSize
  const dense = { own: 0, whole: 0, length: split }
  if (slice === undefined) return [dense, { own: split, whole: split, length: size - split }]
  const length = poolOf(c, slice) * c.hiddenSize
  const first = slice.from * c.sinks!.block * c.hiddenSize
  return [
    dense,
    ...Array.from({ length: (size - split) / length }, (_, half): Stretch => ({
      own: split + half * length,
      whole: split + half * c.pool * c.hiddenSize + first,
      length
    }))
  ]
}

/** A parameter's value, or a moment of it, with a slice of the pool, out of that with all of it. */
export const cut = (
  c: ModelConfig,
  parameter: Pick<Ops.Parameter, "sinkRow0" | "value">,
  whole: Float32Array,
  slice: Slice | undefined
): Float32Array => {
  if (slice === undefined || parameter.sinkRow0 === undefined) return whole
  const out = new Float32Array(Tensor.size(parameter.value))
  for (const { length, own, whole: at } of stretchesOf(c, parameter, slice)) {
    out.set(whole.subarray(at, at + length), own)
  }
  return out
}

/** What a parameter's initial weights are drawn from, one part behind the other; nothing for a norm, whose weights are 1. */
const drawsOf = (c: ModelConfig, p: Ops.Parameter, seed: number, slice: Slice | undefined): ReadonlyArray<Draw> => {
  if (p.value.shape.length === 1) return []
  const kind = p.name.split(".").at(-1)!
  const residual = kind === "o" || kind === "down" ? 1 / Math.sqrt(2 * c.numHiddenLayers) : 1
  const fanIn = kind === "down" ? c.intermediateSize : p.value.shape[1]!
  const std = (c.initializerRange ?? (kind === "embed" ? 0.05 : 1 / Math.sqrt(fanIn))) * residual
  // general and sink neurons draw from streams of their own, so that the general ones start alike with and without sinks
  return stretchesOf(c, p, slice).map(({ length: size, whole }, i, [dense]) =>
    i === 0
      ? { stream: `${seed} ${p.name}`, std, size }
      : { stream: `${seed} ${p.name} sinks`, std, first: whole - dense!.length, size }
  )
}

/** Initial weights of one parameter, in the internal layout; of a slice of the pool those that it has in all of it. */
export const initialValue = (c: ModelConfig, p: Ops.Parameter, seed: number, slice?: Slice): Float32Array => {
  const value = new Float32Array(Tensor.size(p.value))
  const draws = drawsOf(c, p, seed, slice)
  if (draws.length === 0) value.fill(1)
  let at = 0
  for (const draw of draws) normals(value.subarray(at, at += draw.size), draw)
  return value
}

/** Weights from which on threads draw them: a sixth of a second's work for one, where starting some takes a tenth. */
const MANY = 2 ** 24

/** Weights that a thread draws at a time. */
const PART = 2 ** 20

/** Threads that draw at most: by count, so many take less than a nanosecond a weight. */
const MOST_THREADS = 16

/** Write the initial weights into parameters on a device; many of them are drawn by threads, one a processor. */
export const initialize = (
  device: Pick<DeviceService, "write" | "idle">,
  c: ModelConfig,
  parameters: ReadonlyArray<Ops.Parameter>,
  seed: number,
  { many = MANY, slice }: { readonly many?: number; readonly slice?: Slice | undefined } = {}
): Effect.Effect<void, DeviceError> =>
  Effect.scoped(Effect.gen(function*() {
    const weights = parameters.reduce((sum, p) => sum + Tensor.size(p.value), 0)
    const threads = weights < many ? 0 : Math.min(MOST_THREADS, availableParallelism())
    if (threads < 2) {
      return yield* upload(device,
        parameters.map((p) => [p.value, attempt(() => initialValue(c, p, seed, slice), DeviceError)]))
    }
    const drawn = yield* drawers(threads)
    const parts = parameters.flatMap((p): Array<readonly [Tensor.Tensor, Effect.Effect<Float32Array>, number]> => {
      const draws = drawsOf(c, p, seed, slice)
      if (draws.length === 0) return [[p.value, Effect.sync(() => initialValue(c, p, seed)), 0]]
      let end = 0
      return draws.flatMap((draw) => {
        const at = end
        end += draw.size
        return Array.from({ length: Math.ceil(draw.size / PART) }, (_, j) => {
          const part = { ...draw, first: (draw.first ?? 0) + j * PART, size: Math.min(PART, draw.size - j * PART) }
          const here = () => {
            const out = new Float32Array(part.size)
            normals(out, part)
            return out
          }
          return [p.value, Effect.map(drawn(part), (out) => out ?? here()), at + j * PART] as const
        })
      })
    })
    // one that each thread draws, and one that waits for it
    yield* upload(device, parts, 2 * threads)
  }))

/** Memory that a config's parameters take on a device, with gradients and AdamW's moments when training. */
export const stateTensors = (c: ModelConfig): ReadonlyArray<Tensor.Tensor> =>
  listParameters(parametersOf(c)).map((p) => p.value)

/** The largest pool of sinks, smaller than a config's, with which all its weights fit an adapter's buffers. */
export const largestPool = (c: ModelConfig, limits: Limits): number | undefined => {
  const buffer = Math.min(limits.maxBufferSize, limits.maxStorageBufferBindingSize)
  // gate and up of a neuron lie in one tensor
  const neurons = Math.floor(buffer / (2 * c.hiddenSize * 4))
  const pool = Math.floor((neurons - c.general) / c.poolUnit) * c.poolUnit
  if (c.sinks === undefined || pool < c.sinks.active || pool >= c.pool) return undefined
  return stateTensors(c.withPool(pool)).every((tensor) => Tensor.byteLength(tensor) <= buffer) ? pool : undefined
}
