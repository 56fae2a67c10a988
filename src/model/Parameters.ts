/** The parameters of a decoder: their handles in its internal layout, their memory, their initial values. */
import * as Effect from "effect/Effect"
import { availableParallelism } from "node:os"
import { attempt, DeviceError } from "../Errors.ts"
import type { DeviceService, Limits } from "../gpu/Device.ts"
import * as Tensor from "../gpu/Tensor.ts"
import { upload } from "../gpu/Upload.ts"
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

/** Handles of all parameters. Internal layout: fused qkv and gateUp, neuron-major down (see Ops.mlp). */
export const parametersOf = (c: ModelConfig): Parameters => {
  const d = c.hiddenSize
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
      gateUp: parameter(`layers.${i}.gateUp`, [2 * c.intermediateSize, d], sinks(2 * c.general)),
      down: parameter(`layers.${i}.down`, [c.intermediateSize, d], sinks(c.general))
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

/** What a parameter's initial weights are drawn from, one part behind the other; nothing for a norm, whose weights are 1. */
const drawsOf = (c: ModelConfig, p: Ops.Parameter, seed: number): ReadonlyArray<Draw> => {
  if (p.value.shape.length === 1) return []
  const size = Tensor.size(p.value)
  const kind = p.name.split(".").at(-1)!
  const residual = kind === "o" || kind === "down" ? 1 / Math.sqrt(2 * c.numHiddenLayers) : 1
  const fanIn = kind === "down" ? c.intermediateSize : p.value.shape[1]!
  const std = (c.initializerRange ?? (kind === "embed" ? 0.05 : 1 / Math.sqrt(fanIn))) * residual
  // general and sink neurons draw from streams of their own, so that the general ones start alike with and without sinks
  const split = p.sinkRow0 === undefined ? size : p.sinkRow0 * c.hiddenSize
  return [
    { stream: `${seed} ${p.name}`, std, size: split },
    ...(split < size ? [{ stream: `${seed} ${p.name} sinks`, std, size: size - split }] : [])
  ]
}

/** Initial weights of one parameter, in the internal layout. */
export const initialValue = (c: ModelConfig, p: Ops.Parameter, seed: number): Float32Array => {
  const value = new Float32Array(Tensor.size(p.value))
  const draws = drawsOf(c, p, seed)
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
  many = MANY
): Effect.Effect<void, DeviceError> =>
  Effect.scoped(Effect.gen(function*() {
    const weights = parameters.reduce((sum, p) => sum + Tensor.size(p.value), 0)
    const threads = weights < many ? 0 : Math.min(MOST_THREADS, availableParallelism())
    if (threads < 2) {
      return yield* upload(device,
        parameters.map((p) => [p.value, attempt(() => initialValue(c, p, seed), DeviceError)]))
    }
    const drawn = yield* drawers(threads)
    const parts = parameters.flatMap((p): Array<readonly [Tensor.Tensor, Effect.Effect<Float32Array>, number]> => {
      const draws = drawsOf(c, p, seed)
      if (draws.length === 0) return [[p.value, Effect.sync(() => initialValue(c, p, seed)), 0]]
      return draws.flatMap((draw, i) => {
        const at = i === 0 ? 0 : draws[0]!.size
        return Array.from({ length: Math.ceil(draw.size / PART) }, (_, j) => {
          const part = { ...draw, first: j * PART, size: Math.min(PART, draw.size - j * PART) }
          const here = () => {
            const out = new Float32Array(part.size)
            normals(out, part)
            return out
          }
          return [p.value, Effect.map(drawn(part), (out) => out ?? here()), at + part.first] as const
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
