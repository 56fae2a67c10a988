/**
 * Where gradients fall (Stoehr et al. 2024, Localizing Paragraph Memorization): the weights of a model in components, as
 * small as a head's queries, and the sum of the gradient's absolute values and squares over each. And self-influence, which
 * is the sum of its squares over all. Pure but for `selfInfluence`.
 */
import * as Effect from "effect/Effect"
import { batchOf, type Row } from "../data/stream/Packing.ts"
import { misfit } from "../data/stream/Rows.ts"
import { DataError } from "../Errors.ts"
import type { Device } from "../gpu/Device.ts"
import { Model } from "../model/Model.ts"
import type { ModelConfig } from "../model/ModelConfig.ts"
import { type SinkMode, unitsOf } from "../Sink.ts"
import { type GradientsError, makeGradients } from "./Gradients.ts"

/** 1 for each neuron [general + pool] of an MLP that is a sink of one of the ids, the same in every layer. */
export const sinkNeurons = (config: ModelConfig, ids: ReadonlyArray<bigint>): Uint8Array => {
  const neurons = new Uint8Array(config.intermediateSize)
  const { general, sinks } = config
  if (sinks === undefined) return neurons
  for (const id of ids) {
    for (const unit of unitsOf(sinks, id)) {
      neurons.fill(1, general + unit * sinks.block, general + (unit + 1) * sinks.block)
    }
  }
  return neurons
}

/**
 * Kinds of components. Of attention each head has its own (keys and values belong to a head of keys); `In` is gate and up of
 * MLP neurons, `Out` their rows of the down-projection. Embedding, head and norms are `embedding` and `norms`.
 */
export const COMPONENTS = ["query", "key", "value", "output", "generalIn", "generalOut", "ownSinksIn", "ownSinksOut",
  "otherSinksIn", "otherSinksOut", "norms", "embedding"] as const
/** Where in a model a gradient lies. */
export type ComponentName = (typeof COMPONENTS)[number]

/** What falls on a component. */
export interface ComponentMass {
  /** Block, counted from 0; -1: of none. */
  readonly layer: number
  readonly component: ComponentName
  /** Counted from 0; of attention alone. */
  readonly head: number | undefined
  /** Weights. */
  readonly count: number
  /** Sum and largest of the gradient's absolute values, and the sum of its squares. */
  readonly sum: number
  readonly largest: number
  readonly squares: number
}

type Gradients = ReadonlyMap<string, ArrayLike<number>>

/** A gradient by components: each element in one. Own sinks are those of the id. */
export const componentMass = (
  config: ModelConfig,
  gradients: Gradients,
  id: bigint
): ReadonlyArray<ComponentMass> => {
  const found = new Map<string, { -readonly [K in keyof ComponentMass]: ComponentMass[K] }>()
  const { general, headSize, hiddenSize: d, kvHeads, numAttentionHeads: heads, pool } = config
  const mine = sinkNeurons(config, [id])
  const add = (layer: number, component: ComponentName, head: number | undefined, x: number) => {
    const key = `${layer} ${component} ${head}`
    const entry = found.get(key) ?? { layer, component, head, count: 0, sum: 0, largest: 0, squares: 0 }
    found.set(key, entry)
    const size = Math.abs(x)
    entry.count++
    entry.sum += size
    entry.squares += x * x
    entry.largest = Math.max(entry.largest, size)
  }
  const neuron = (i: number, end: "In" | "Out"): ComponentName =>
    `${i < general ? "general" : mine[i] === 1 ? "ownSinks" : "otherSinks"}${end}`
  for (const [name, gradient] of gradients) {
    const [, index, kind] = /^(?:layers\.(\d+)\.)?(.+)$/.exec(name)!
    const layer = index === undefined ? -1 : Number(index)
    /** The component, and head, of row and column of the parameter's matrix. */
    const place = (row: number, column: number): readonly [ComponentName, number | undefined] => {
      switch (kind) {
        case "qkv": {
          const head = Math.floor(row / headSize)
          return head < heads
            ? ["query", head]
            : head < heads + kvHeads
            ? ["key", head - heads]
            : ["value", head - heads - kvHeads]
        }
        case "o":
          return ["output", Math.floor(column / headSize)]
        case "gateUp":
          // gate and up of the general neurons, then gate and up of the pool
          return [neuron(row < 2 * general ? row % general : general + (row - 2 * general) % pool, "In"), undefined]
        case "down":
          return [neuron(row, "Out"), undefined]
        default:
          return [kind === "embed" || kind === "head" ? "embedding" : "norms", undefined]
      }
    }
    const width = kind === "o" ? heads * headSize : d
    for (let i = 0; i < gradient.length; i++) {
      const column = i % width
      add(layer, ...place((i - column) / width, column), gradient[i]!)
    }
  }
  return [...found.values()].sort((a, b) =>
    a.layer - b.layer || COMPONENTS.indexOf(a.component) - COMPONENTS.indexOf(b.component) || a.head! - b.head!
  )
}

/** Which weights self-influence is summed over: all of them, or those behind the last block but one. */
export type InfluencePart = "all" | "last"

/** The squared norm of a gradient, over all weights or those of the last block, the final norm and an untied head. */
export const squaredNorm = (config: ModelConfig, gradients: Gradients, part: InfluencePart): number => {
  let sum = 0
  for (const [name, gradient] of gradients) {
    const last = name.startsWith(`layers.${config.numHiddenLayers - 1}.`) || name === "norm" || name === "head"
    if (part === "last" && !last) continue
    for (let i = 0; i < gradient.length; i++) sum += gradient[i]! ** 2
  }
  return sum
}

/**
 * Self-influence of sequences at one checkpoint (TracIn; Pruthi et al. 2020): the squared norm of the gradient of each
 * one's mean loss by all weights, exactly, or by those of `part` alone. Over a training it is the sum over checkpoints of
 * the learning rate times this: see `tracIn`.
 */
export const selfInfluence = (
  rows: ReadonlyArray<Row>,
  { mode, part = "all", seqLen }: { readonly mode: SinkMode; readonly seqLen: number; readonly part?: InfluencePart }
): Effect.Effect<Float64Array, GradientsError, Model | Device> =>
  eachGradient(rows, { mode, seqLen }, (config, gradients) => squaredNorm(config, gradients, part)).pipe(
    Effect.map((norms) => Float64Array.from(norms))
  )

/** What is made of the gradient of each sequence's mean loss, one after the other. */
export const eachGradient = <A>(
  rows: ReadonlyArray<Row>,
  { mode, seqLen }: { readonly mode: SinkMode; readonly seqLen: number },
  of: (config: ModelConfig, gradients: Gradients, row: Row) => A
): Effect.Effect<ReadonlyArray<A>, GradientsError, Model | Device> =>
  Effect.gen(function*() {
    const wrong = misfit(rows, seqLen)
    if (wrong !== undefined) return yield* new DataError({ detail: wrong })
    const { config } = yield* Model
    const gradients = yield* makeGradients({ rows: 1, seqLen })
    return yield* Effect.forEach(rows,
      (row) => Effect.map(gradients.of(batchOf([row], seqLen), mode), (found) => of(config, found.gradients, row)))
  }).pipe(Effect.scoped)

/**
 * TracIn of each sequence with itself: the sum over checkpoints of the learning rate there times the squared norm of its
 * gradient there.
 */
export const tracIn = (
  checkpoints: ReadonlyArray<{ readonly learningRate: number; readonly squaredNorms: ArrayLike<number> }>
): Float64Array =>
  Float64Array.from(checkpoints[0]?.squaredNorms ?? [], (_, s) =>
    checkpoints.reduce((sum, { learningRate, squaredNorms }) => sum + learningRate * squaredNorms[s]!, 0))
