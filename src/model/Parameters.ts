/** The parameters of a decoder: their handles in its internal layout, their memory, their initial values. */
import type { Limits } from "../gpu/Device.ts"
import * as Tensor from "../gpu/Tensor.ts"
import { normals } from "./Init.ts"
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

/** Initial weights of one parameter, in the internal layout. */
export const initialValue = (c: ModelConfig, p: Ops.Parameter, seed: number): Float32Array => {
  const size = Tensor.size(p.value)
  if (p.value.shape.length === 1) return new Float32Array(size).fill(1)
  const d = c.hiddenSize
  const kind = p.name.split(".").at(-1)!
  const residual = kind === "o" || kind === "down" ? 1 / Math.sqrt(2 * c.numHiddenLayers) : 1
  const fanIn = kind === "down" ? c.intermediateSize : p.value.shape[1]!
  const std = (c.initializerRange ?? (kind === "embed" ? 0.05 : 1 / Math.sqrt(fanIn))) * residual
  const value = new Float32Array(size)
  // general and sink neurons draw from streams of their own, so that the general ones start alike with and without sinks
  const split = p.sinkRow0 === undefined ? size : p.sinkRow0 * d
  normals(value.subarray(0, split), `${seed} ${p.name}`, std)
  if (split < size) normals(value.subarray(split), `${seed} ${p.name} sinks`, std)
  return value
}

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
