/**
 * The Model: parameters and Programs of a Llama-style decoder with sinks on one Device.
 *
 * `recordPass` writes a whole pass (forward, and backward when training) as a Program, with no GPU in sight; the service
 * gives it memory, feeds it batches and reads what it computed.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { type Batch, IGNORE } from "../Batch.ts"
import { attempt, CheckpointError, DataError, DeviceError, type KernelError } from "../Errors.ts"
import { Device, type DeviceService, type Limits, type Prepared } from "../gpu/Device.ts"
import * as Program from "../gpu/Program.ts"
import * as Tensor from "../gpu/Tensor.ts"
import { portable, type Target } from "../gpu/Target.ts"
import { normals } from "./Init.ts"
import * as Kernels from "./Kernels.ts"
import type { ModelConfig } from "./ModelConfig.ts"
import * as Ops from "./Ops.ts"
import type { HostTensor } from "../HostTensor.ts"
import * as Segments from "./Segments.ts"
import * as Sink from "../Sink.ts"
import { type Sampling, schemeName, type TokenRecords } from "../measures/TokenRecords.ts"

/** A step's scalars on the device; the kernels index them by these places. */
export const HYPER = {
  learningRate: 0,
  beta1: 1,
  beta2: 2,
  eps: 3,
  weightDecay: 4,
  correction1: 5,
  correction2: 6,
  gradClip: 7,
  /** One over the scored tokens of a step: makes a mean of a sum of losses. */
  lossScale: 8,
  /** What gradients are scaled by: the same, times the loss scale of mixed precision. */
  gradientScale: 9,
  slot: 10
} as const

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

/** Handles of all parameters. Internal layout: fused qkv and gateUp, neuron-major down (see Ops.mlp). */
export const parametersOf = (c: ModelConfig): Parameters => {
  const d = c.hiddenSize
  const attention = c.numAttentionHeads * c.headSize
  const sinks = (row: number) => (c.pool === 0 ? undefined : row)
  const embed = parameter("embed", [c.vocabSize, d])
  return {
    embed,
    layers: Array.from({ length: c.numHiddenLayers }, (_, i) => ({
      norm1: parameter(`layers.${i}.norm1`, [d]),
      qkv: parameter(`layers.${i}.qkv`, [attention + 2 * c.kvHeads * c.headSize, d]),
      o: parameter(`layers.${i}.o`, [d, attention]),
      norm2: parameter(`layers.${i}.norm2`, [d]),
      gateUp: parameter(`layers.${i}.gateUp`, [2 * c.intermediateSize, d], sinks(2 * c.general)),
      down: parameter(`layers.${i}.down`, [c.intermediateSize, d], sinks(c.general))
    })),
    norm: parameter("norm", [d]),
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

export type Precision = "f32" | "f16"

/** The shape of a pass. */
export interface PassShape {
  readonly rows: number
  readonly seqLen: number
  /** Segments (documents and ids) a batch may hold at most. Default: a document a row. */
  readonly maxSegments?: number
  /** Compute only the sinks that are on (`gathered`) or the whole pool, masked. Default: gathered where possible. */
  readonly compute?: "gathered" | "masked"
  /** `train` also records the backward pass; `logits` also writes all logits; `records` writes token records instead. */
  readonly output: "train" | "loss" | "logits" | "records"
  /** Sampling schemes of token records, `topK` at most 40. Default none. */
  readonly schemes?: ReadonlyArray<Sampling>
  /** Most bytes of logits that exist at once. Default 64 MiB. */
  readonly logitsBytes?: number
  /**
   * Type of activations and of the weights they are multiplied with. Weights themselves, their gradients, the residual
   * stream and every sum are f32. Default f32.
   */
  readonly precision?: Precision
  /** Keep only the residual stream and compute each block once more on the way back: less memory, a third more work. */
  readonly recompute?: boolean
  /**
   * What the loss of a token is, and so what `train` takes gradients of; for `train` and `loss` only. A target of IGNORE
   * has no loss and no gradient in any of them. All but the first weigh each token's gradient by `tensors.weights`, the
   * loss that is read stays unweighted. Default "crossEntropy".
   * - "crossEntropy": -log p(target).
   * - "weighted": the same.
   * - "soft": -sum over tokens v of q[v] log p[v], with q of `tensors.soft`, which need not sum to 1. No ranks.
   * - hidden: the mean over dimensions of (h - `tensors.hiddenTarget`)^2, h the residual stream behind that block, counted
   *   from 0. Blocks above it are not recorded. No ranks.
   */
  readonly head?: Head
  /** Whose gradients a training pass records; those of activations always flow through everything. Default: all. */
  readonly update?: Update
  /**
   * Multiply every hidden neuron of every MLP, after its sink coefficient, by a gate of its own per segment; with `train`
   * the gates' gradients are computed. Computes the whole pool, masked; f32 only. Default false.
   */
  readonly gates?: boolean
  /** Keep the residual stream around every attention and MLP, in `tensors.residual`; not for training. Default false. */
  readonly residual?: boolean
}

/** What the loss is taken of: see PassShape. */
export type Head = "crossEntropy" | "weighted" | "soft" | { readonly hidden: number }

/** Whose parameter gradients are recorded; those of others are neither read nor written. Each true by default. */
export interface Update {
  /** Rows of gateUp and down that belong to general neurons. */
  readonly general?: boolean
  /** Rows of gateUp and down that belong to the pool. */
  readonly sinks?: boolean
  /** Attention, norms, embedding, head. */
  readonly rest?: boolean
}

const PASS_STATE = ["tokens", "targets", "positions", "documentStart", "segment", "start", "order"] as const

/** The tensors that carry a batch in and its results out. */
export interface PassTensors extends Record<(typeof PASS_STATE)[number], Tensor.Tensor> {
  readonly coef: Tensor.Tensor
  readonly rope: Tensor.Tensor
  readonly loss: Tensor.Tensor
  readonly rank: Tensor.Tensor
  readonly logits: Tensor.Tensor | undefined
  /** [fields, tokens] and [schemes, 4], see Ops.headRecords. */
  readonly records: { readonly record: Tensor.Tensor; readonly schemes: Tensor.Tensor } | undefined
  readonly gather: Ops.GatherInputs | undefined
  /** What each token's gradient is multiplied with, f32 [n]; for every head but "crossEntropy". The caller writes it. */
  readonly weights: Tensor.Tensor | undefined
  /** q of the soft head, f32 [n, vocabulary padded to a multiple of 4]; padding is ignored. The caller writes it. */
  readonly soft: Tensor.Tensor | undefined
  /** What the hidden head compares the residual stream with, f32 [n, hiddenSize]. The caller writes it. */
  readonly hiddenTarget: Tensor.Tensor | undefined
  /** That residual stream itself, f32 [n, hiddenSize]; of the hidden head with output "loss". */
  readonly stream: Tensor.Tensor | undefined
  /**
   * The residual stream behind the embedding, then behind the attention and behind the MLP of each block: 2 * layers + 1
   * of f32 [n, hiddenSize]; with residual.
   */
  readonly residual: ReadonlyArray<Tensor.Tensor> | undefined
  /** f32 [maxSegments, general + pool] for each recorded block. The caller writes them. */
  readonly gates: ReadonlyArray<Tensor.Tensor> | undefined
  /** Gradients of the gates by segment, overwritten (segments that the batch lacks get 0); for "train" with gates. */
  readonly gateGradients: ReadonlyArray<Tensor.Tensor> | undefined
  /** Activations of the neurons before gating, with their sink coefficients, f32 [n, general + pool]; with gates. */
  readonly hidden: ReadonlyArray<Tensor.Tensor> | undefined
  /** First token and number of tokens of each segment, u32 [maxSegments, 2]; with gates. */
  readonly segmentRange: Tensor.Tensor | undefined
}

/** Every tensor of a pass that must be allocated, each once. */
export const listTensors = (tensors: PassTensors): ReadonlyArray<Tensor.Tensor> =>
  Object.values(tensors).flatMap((value: object | undefined): ReadonlyArray<Tensor.Tensor> =>
    value === undefined ? [] : "shape" in value ? [value as Tensor.Tensor] : Object.values(value)
  )

export interface Pass {
  readonly shape: PassShape
  readonly gathered: boolean
  readonly maxSegments: number
  readonly tensors: PassTensors
  readonly program: Program.Program
}

/** Whether the gathered kernels can compute a config's sinks at all. */
export const canGather = (c: ModelConfig): boolean =>
  c.sinks !== undefined && c.sinks.assignment === "permutation" && c.sinks.block % 8 === 0

/** Throws a DataError for a scheme that the device cannot record. */
const refuseScheme = (scheme: Sampling): void => {
  const { temperature, topK = 1, topP = 1 } = scheme
  const wrong = !(temperature > 0 && temperature < Infinity)
    ? `its temperature must be positive, got ${temperature}`
    : !(Number.isInteger(topK) && topK >= 1 && topK <= Ops.RECORD_LARGEST)
    ? `its topK must be a whole number from 1 to ${Ops.RECORD_LARGEST}, got ${topK}: leave it out to draw from all`
    : !(topP > 0 && topP <= 1)
    ? `its topP must be above 0 and at most 1, got ${topP}`
    : undefined
  if (wrong !== undefined) {
    throw new DataError({ detail: `token records of the sampling scheme "${schemeName(scheme)}": ${wrong}` })
  }
}

/** Throws a DataError for what cannot be combined in one pass. */
const refuseShape = (c: ModelConfig, shape: PassShape): void => {
  const { compute, gates = false, head = "crossEntropy", output, precision = "f32", residual = false, seqLen } = shape
  const layers = c.numHiddenLayers
  const wrong = seqLen > c.maxPositionEmbeddings
    ? `rows of ${seqLen} tokens exceed the model's maxPositionEmbeddings of ${c.maxPositionEmbeddings}`
    : compute === "gathered" && !canGather(c)
    ? "gathered sinks need assignment \"permutation\" and a block that is a multiple of 8"
    : head !== "crossEntropy" && output !== "train" && output !== "loss"
    ? `a pass with output "${output}" has no loss: leave out head, got ${JSON.stringify(head)}`
    : typeof head === "object" && !(Number.isInteger(head.hidden) && head.hidden >= 0 && head.hidden < layers)
    ? `head.hidden must be a block from 0 to ${layers - 1}, got ${head.hidden}`
    : gates && compute === "gathered"
    ? "gates need every neuron of the pool: use compute \"masked\""
    : gates && precision !== "f32"
    ? `gates are computed in f32, got precision "${precision}"`
    : residual && (output === "train" || typeof head === "object")
    ? "residual keeps the stream of a whole forward pass: leave it out with output \"train\" and with head.hidden"
    : undefined
  if (wrong !== undefined) throw new DataError({ detail: wrong })
}

/** Record one pass of the decoder. Pure: needs no adapter, and its tensors own no memory yet. */
export const recordPass = (
  c: ModelConfig,
  parameters: Parameters,
  hyper: Tensor.Tensor,
  shape: PassShape,
  target: Target = portable
): Pass => {
  refuseShape(c, shape)
  const { gates = false, head = "crossEntropy", rows, schemes = [], seqLen } = shape
  for (const scheme of schemes) refuseScheme(scheme)
  const { general = true, rest = true, sinks: ofSinks = true } = shape.update ?? {}
  const train = shape.output === "train"
  const gathered = shape.compute === undefined ? canGather(c) && !gates : shape.compute === "gathered"
  const n = rows * seqLen
  const maxSegments = Math.min(n, shape.maxSegments ?? rows)
  const sinks = c.sinks
  const u32 = (name: string, ...dims: Array<number>) => Tensor.make(name, dims, { type: "u32" })
  const slots = gathered ? sinks!.activeUnits : 0
  const maxTouched = gathered ? Math.min(sinks!.units, maxSegments * slots) : 0
  const layers = parameters.layers.slice(0, typeof head === "object" ? head.hidden + 1 : undefined)
  const width = c.general + c.pool
  const perBlock = (name: string, ...dims: Array<number>) => layers.map((_, i) => Tensor.make(`layers.${i}.${name}`, dims))
  const ldLogits = Math.ceil(c.vocabSize / 4) * 4
  const tensors: PassTensors = {
    tokens: u32("tokens", n),
    targets: u32("targets", n),
    positions: u32("positions", n),
    documentStart: u32("documentStart", n),
    segment: u32("segment", n),
    start: u32("start", c.vocabSize + 1),
    order: u32("order", n),
    coef: Tensor.make("coef", [maxSegments, 1 + (gathered ? slots : (sinks?.units ?? 0))]),
    rope: Tensor.make("rope", [seqLen, c.headSize / 2, 2]),
    loss: Tensor.make("loss", [n]),
    rank: u32("rank", n),
    logits: shape.output === "logits" ? Tensor.make("logits", [n, ldLogits]) : undefined,
    records: shape.output === "records"
      ? {
        record: Tensor.make("record", [Ops.RECORD_FIELDS.length + schemes.length, n]),
        schemes: Tensor.make("schemes", [Math.max(1, schemes.length), 4])
      }
      : undefined,
    gather: gathered
      ? {
        activeUnits: u32("activeUnits", maxSegments, slots),
        segmentCount: u32("segmentCount", 1),
        tiles: u32("tiles", Segments.maxTiles(n, maxSegments, Kernels.tileRows(target)), 4),
        segmentRange: u32("segmentRange", maxSegments, 2),
        touchedCount: u32("touchedCount", 1),
        units: u32("units", maxTouched),
        unitStart: u32("unitStart", maxTouched + 1),
        uses: u32("uses", maxSegments * slots, 2)
      }
      : undefined,
    weights: head === "crossEntropy" ? undefined : Tensor.make("weights", [n]),
    soft: head === "soft" ? Tensor.make("soft", [n, ldLogits]) : undefined,
    hiddenTarget: typeof head === "object" ? Tensor.make("hiddenTarget", [n, c.hiddenSize]) : undefined,
    stream: typeof head === "object" && !train ? Tensor.make("stream", [n, c.hiddenSize]) : undefined,
    residual: shape.residual === true
      ? Array.from({ length: 2 * layers.length + 1 }, (_, i) => Tensor.make(`residual.${i}`, [n, c.hiddenSize]))
      : undefined,
    gates: gates ? perBlock("gates", maxSegments, width) : undefined,
    gateGradients: gates && train ? perBlock("gates.gradient", maxSegments, width) : undefined,
    hidden: gates ? perBlock("hidden", n, width) : undefined,
    segmentRange: gates ? u32("segmentRange", maxSegments, 2) : undefined
  }
  const mlpShape: Ops.MlpShape = {
    general: c.general,
    pool: c.pool,
    block: sinks?.block ?? 1,
    gathered: gathered ? { active: sinks!.active, maxSegments, inputs: tensors.gather! } : undefined,
    update: { general, sinks: ofSinks }
  }
  const attentionShape = { heads: c.numAttentionHeads, kvHeads: c.kvHeads, headSize: c.headSize }

  const p = Program.record(`${shape.output} ${rows}x${seqLen}${gathered ? "" : " masked"}`, target)
  const type: Tensor.ElementType = shape.precision ?? "f32"
  const block = (i: number, x: Tensor.Tensor) => {
    p.scope(`layers.${i}`)
    const layer = parameters.layers[i]!
    const norm1 = Ops.rmsNorm(p, x, layer.norm1, n, c.rmsNormEps, type, rest)
    const qkv = Ops.linear(p, norm1.y, layer.qkv, n, { update: rest })
    const attention = Ops.attention(p, qkv.y, n, attentionShape, tensors)
    const o = Ops.linear(p, attention.y, layer.o, n, { residual: x, update: rest })
    const norm2 = Ops.rmsNorm(p, o.y, layer.norm2, n, c.rmsNormEps, type, rest)
    const mlp = Ops.mlp(p, norm2.y, o.y, layer, n, mlpShape, tensors, tensors.gates && {
      gate: tensors.gates[i]!,
      hidden: tensors.hidden![i]!,
      gradient: tensors.gateGradients?.[i],
      segmentRange: tensors.segmentRange!
    })
    return {
      /** The residual stream between attention and MLP, and behind the block. */
      middle: o.y,
      y: mlp.y,
      /** Takes the gradient of the residual stream behind the block and leaves that before it, in place. */
      backward: (dx: Tensor.Tensor) => {
        p.scope(`layers.${i}`)
        norm2.backward(mlp.backward(dx), dx, true)
        norm1.backward(qkv.backward(attention.backward(o.backward(dx))), dx, true)
      }
    }
  }

  const embedding = Ops.embedding(p, parameters.embed, n, tensors)
  /** The residual stream before each block, and behind the last. */
  const stream = [embedding.y]
  const blocks = layers.map((_, i) => {
    const recorded = block(i, stream[i]!)
    stream.push(recorded.y)
    return recorded
  })
  p.scope("")
  /** Records what is behind the last block; the gradient of the residual stream there, for a training pass. */
  const behind = (): Tensor.Tensor | undefined => {
    const x = stream.at(-1)!
    if (tensors.hiddenTarget !== undefined) {
      const { hiddenTarget, loss, targets, weights } = tensors
      const dx = Ops.hiddenLoss(p, x, n, { targets, hyper, weights: weights!, hiddenTarget, loss })
      return train ? dx : undefined
    }
    const norm = Ops.rmsNorm(p, x, parameters.norm, n, c.rmsNormEps, type, rest)
    if (tensors.logits !== undefined) Ops.headLogits(p, norm.y, parameters.head, n, tensors.logits)
    if (tensors.records !== undefined) {
      Ops.headRecords(p, norm.y, parameters.head, n, { ...tensors, ...tensors.records }, shape.logitsBytes)
      return undefined
    }
    const dnorm = Ops.headLoss(p, norm.y, parameters.head, n, { ...tensors, hyper }, {
      train,
      update: rest,
      ...(shape.logitsBytes === undefined ? {} : { chunkBytes: shape.logitsBytes })
    })
    if (dnorm === undefined) return undefined
    const dx = p.scratch("dx", [n, c.hiddenSize])
    norm.backward(dnorm, dx, false)
    return dx
  }
  // the gradient of the residual stream, updated in place from the last block to the first
  const dx = behind()
  if (dx !== undefined) {
    for (let i = blocks.length - 1; i >= 0; i--) {
      const recorded = shape.recompute === true ? block(i, stream[i]!) : blocks[i]!
      recorded.backward(dx)
    }
    p.scope("")
    if (rest) embedding.backward(dx)
  }
  const all = p.finish()
  const kept = tensors.residual ?? []
  const around = [stream[0]!, ...blocks.flatMap(({ middle, y }) => [middle, y])]
  const program = kept.reduce(
    (program, tensor, i) => Program.replace(program, around[i]!, tensor),
    tensors.stream === undefined ? all : Program.replace(all, stream.at(-1)!, tensors.stream)
  )
  // what only leads to gradients that nobody asked for, or is computed again anyway
  const prune = shape.recompute === true || (train && !(general && ofSinks && rest))
  return { shape, gathered, maxSegments, tensors, program: prune ? Program.prune(program) : program }
}

/** cos and sin of every position and pair, [seqLen, half, 2]; computed in float64. */
export const ropeTable = (seqLen: number, headSize: number, theta: number): Float32Array => {
  const half = headSize / 2
  const table = new Float32Array(seqLen * half * 2)
  for (let t = 0; t < seqLen; t++) {
    for (let i = 0; i < half; i++) {
      const angle = t * theta ** ((-2 * i) / headSize)
      table[(t * half + i) * 2] = Math.cos(angle)
      table[(t * half + i) * 2 + 1] = Math.sin(angle)
    }
  }
  return table
}

/** What loading a batch into a compiled pass found. */
export interface Loaded {
  /** Targets that are scored. */
  readonly scored: number
  /** Units of the pool that the batch's ids light, rising; none without sinks. */
  readonly units: Uint32Array
}

/** A pass with memory and pipelines. */
export interface CompiledPass extends Pass {
  readonly prepared: Prepared
  /** Copy a batch in; ordered with submits. Throws DataError for a batch that does not fit the pass. */
  readonly load: (batch: Batch, mode: Sink.SinkMode) => Loaded
}

/** Per-token results, flattened like the batch. */
export interface Scores {
  /** Negative log-likelihood in nats, f32 [tokens]; 0 where nothing is scored. */
  readonly loss: Float32Array
  /** How many tokens the model finds likelier than the true one; 0: greedy decoding says it. u32 [tokens]. */
  readonly rank: Uint32Array
}

/** Token records of a batch's scored tokens in the batch's order, without the sequences they belong to. */
export type RecordColumns = Omit<TokenRecords, "sequences" | "start" | "first">

type ModelError = DeviceError | KernelError | DataError

export interface ModelService {
  readonly config: ModelConfig
  readonly parameters: ReadonlyArray<Ops.Parameter>
  /** The same by their places in the model. */
  readonly handles: Parameters
  /** The step's scalars, places as in HYPER. */
  readonly hyper: Tensor.Tensor
  readonly precision: Precision
  /** What every pass is recorded with, unless its shape says otherwise. */
  readonly defaults: Pick<PassShape, "precision" | "recompute" | "compute">
  /**
   * Record, allocate and compile a pass; it lives until the scope closes. Gradients are added to those of `parameters`, by
   * default the Model's own `handles`; the caller allocates them.
   */
  readonly compile: (
    shape: PassShape,
    parameters?: Parameters
  ) => Effect.Effect<CompiledPass, ModelError, Scope.Scope>
  /**
   * Score a batch with the sinks in a mode. Passes are compiled on first use and kept. Where a scored token's loss is
   * infinite or not a number, this, `records` and `logits` fail with a DataError that names the sequence, and the tensor
   * or the block where numbers end: such a model has no score.
   */
  readonly evaluate: (batch: Batch, mode: Sink.SinkMode) => Effect.Effect<Scores, ModelError>
  /**
   * Token records of a batch's scored tokens, in its order, with the sinks in a mode. Memory on the device does not grow
   * with the vocabulary. A DataError for a scheme it cannot record (`topK` above 40). `recordRows` does it for sequences.
   */
  readonly records: (
    batch: Batch,
    mode: Sink.SinkMode,
    schemes: ReadonlyArray<Sampling>
  ) => Effect.Effect<RecordColumns, ModelError>
  /** Logits of every token of a batch, f32 [tokens, vocabSize]. */
  readonly logits: (batch: Batch, mode: Sink.SinkMode) => Effect.Effect<Float32Array, ModelError>
  /** All parameters on the host, in Hugging Face's names and layout. */
  readonly exportTensors: Effect.Effect<Record<string, HostTensor>, DeviceError>
  /** Replace all parameters; fails with Mismatch when a name or shape differs, before anything is changed. */
  readonly importTensors: (tensors: Readonly<Record<string, HostTensor>>) => Effect.Effect<void, CheckpointError>
}

export interface ModelOptions {
  /** Seed of the initial weights. Default 0. Arms with the same seed start alike wherever their shapes agree. */
  readonly seed?: number
  /** False leaves the weights at 0, for those who import others. Default true. */
  readonly initialize?: boolean
  /** Force every pass to gather or to mask. Default: gather where possible. */
  readonly compute?: "gathered" | "masked"
  /** Of every pass; `f16` needs an adapter with `shader-f16`, and the Trainer then scales the loss. Default f32. */
  readonly precision?: Precision
  /** Of the training pass: see PassShape. Default false. */
  readonly recompute?: boolean
}

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

const rowsOf = (data: Float32Array, from: number, to: number, width: number): Float32Array =>
  data.slice(from * width, to * width)

const concat = (...parts: ReadonlyArray<Float32Array>): Float32Array => {
  const out = new Float32Array(parts.reduce((n, part) => n + part.length, 0))
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.length
  }
  return out
}

const transpose = (data: Float32Array, rows: number, columns: number): Float32Array => {
  const out = new Float32Array(data.length)
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) out[c * rows + r] = data[r * columns + c]!
  return out
}

/** One internal parameter as Hugging Face's tensors, or the same for its moments (`suffix`). */
export const toHuggingFace = (
  c: ModelConfig,
  name: string,
  data: Float32Array
): ReadonlyArray<readonly [string, HostTensor]> => {
  const d = c.hiddenSize
  const [, index, kind] = /^layers\.(\d+)\.(.+)$/.exec(name) ?? [undefined, undefined, name]
  const at = `model.layers.${index}`
  const { general, intermediateSize: width, pool } = c
  switch (kind) {
    case "embed":
      return [["model.embed_tokens.weight", { shape: [c.vocabSize, d], data }]]
    case "head":
      return [["lm_head.weight", { shape: [c.vocabSize, d], data }]]
    case "norm":
      return [["model.norm.weight", { shape: [d], data }]]
    case "norm1":
      return [[`${at}.input_layernorm.weight`, { shape: [d], data }]]
    case "norm2":
      return [[`${at}.post_attention_layernorm.weight`, { shape: [d], data }]]
    case "o":
      return [[`${at}.self_attn.o_proj.weight`, { shape: [d, c.numAttentionHeads * c.headSize], data }]]
    case "qkv": {
      const q = c.numAttentionHeads * c.headSize
      const kv = c.kvHeads * c.headSize
      return [
        [`${at}.self_attn.q_proj.weight`, { shape: [q, d], data: rowsOf(data, 0, q, d) }],
        [`${at}.self_attn.k_proj.weight`, { shape: [kv, d], data: rowsOf(data, q, q + kv, d) }],
        [`${at}.self_attn.v_proj.weight`, { shape: [kv, d], data: rowsOf(data, q + kv, q + 2 * kv, d) }]
      ]
    }
    case "gateUp": {
      const gate = concat(rowsOf(data, 0, general, d), rowsOf(data, 2 * general, 2 * general + pool, d))
      const up = concat(rowsOf(data, general, 2 * general, d), rowsOf(data, 2 * general + pool, 2 * width, d))
      return [
        [`${at}.mlp.gate_proj.weight`, { shape: [width, d], data: gate }],
        [`${at}.mlp.up_proj.weight`, { shape: [width, d], data: up }]
      ]
    }
    case "down":
      return [[`${at}.mlp.down_proj.weight`, { shape: [d, width], data: transpose(data, width, d) }]]
    default:
      throw new Error(`no Hugging Face name for parameter ${name}`)
  }
}

/** The inverse: one internal parameter out of Hugging Face's tensors. */
export const fromHuggingFace = (
  c: ModelConfig,
  name: string,
  tensors: Readonly<Record<string, HostTensor>>,
  path = "checkpoint"
): Float32Array => {
  const size = (shape: ReadonlyArray<number>) => shape.reduce((a, b) => a * b, 1)
  const empty = new Float32Array(Tensor.size(
    listParameters(parametersOf(c)).find((p) => p.name === name)!.value
  ))
  const parts = toHuggingFace(c, name, empty).map(([hfName, want]) => {
    const got = tensors[hfName]
    if (got === undefined) {
      throw new CheckpointError({ reason: "Mismatch", path, detail: `tensor ${hfName} is missing` })
    }
    if (got.shape.join() !== want.shape.join() || got.data.length !== size(want.shape)) {
      throw new CheckpointError({
        reason: "Mismatch",
        path,
        detail: `tensor ${hfName} is [${got.shape.join(", ")}], the model's config asks for [${want.shape.join(", ")}]`
      })
    }
    return got.data as Float32Array
  })
  const { general, intermediateSize: width } = c
  const d = c.hiddenSize
  if (name.endsWith(".gateUp")) {
    const [gate, up] = parts as [Float32Array, Float32Array]
    return concat(
      rowsOf(gate, 0, general, d),
      rowsOf(up, 0, general, d),
      rowsOf(gate, general, width, d),
      rowsOf(up, general, width, d)
    )
  }
  if (name.endsWith(".down")) return transpose(parts[0]!, d, width)
  return parts.length === 1 ? parts[0]! : concat(...parts)
}

/** config.json: Hugging Face's LlamaForCausalLM, with what is ours in a `memsinks` block. */
export const huggingFaceConfig = (c: ModelConfig): Record<string, unknown> => ({
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_act: "silu",
  attention_bias: false,
  mlp_bias: false,
  vocab_size: c.vocabSize,
  hidden_size: c.hiddenSize,
  intermediate_size: c.intermediateSize,
  num_hidden_layers: c.numHiddenLayers,
  num_attention_heads: c.numAttentionHeads,
  num_key_value_heads: c.kvHeads,
  head_dim: c.headSize,
  max_position_embeddings: c.maxPositionEmbeddings,
  rms_norm_eps: c.rmsNormEps,
  rope_theta: c.ropeTheta,
  tie_word_embeddings: c.tieWordEmbeddings,
  torch_dtype: "float32",
  memsinks: { general: c.general, sinks: c.sinks === undefined ? null : { ...c.sinks } }
})

/** Memory that a config's parameters take on a device, with gradients and AdamW's moments when training. */
export const stateTensors = (c: ModelConfig): ReadonlyArray<Tensor.Tensor> =>
  listParameters(parametersOf(c)).map((p) => p.value)

/** The largest pool of sinks, smaller than a config's, with which all its weights fit an adapter's buffers. */
const largestPool = (c: ModelConfig, limits: Limits): number | undefined => {
  const buffer = Math.min(limits.maxBufferSize, limits.maxStorageBufferBindingSize)
  // gate and up of a neuron lie in one tensor
  const neurons = Math.floor(buffer / (2 * c.hiddenSize * 4))
  const pool = Math.floor((neurons - c.general) / c.poolUnit) * c.poolUnit
  if (c.sinks === undefined || pool < c.sinks.active || pool >= c.pool) return undefined
  return stateTensors(c.withPool(pool)).every((tensor) => Tensor.byteLength(tensor) <= buffer) ? pool : undefined
}

/** The first value that is infinite or not a number, or -1. */
export const firstNotFinite = (values: ArrayLike<number>): number => {
  for (let i = 0; i < values.length; i++) if (!Number.isFinite(values[i])) return i
  return -1
}

/**
 * The first weight of a model on a device that is infinite or not a number: `model.norm.weight holds NaN at 3`; undefined
 * where all are sound.
 */
export const damagedWeight = (
  device: Pick<DeviceService, "read">,
  config: ModelConfig,
  parameters: ReadonlyArray<Ops.Parameter>
): Effect.Effect<string | undefined, DeviceError> =>
  Effect.gen(function*() {
    for (const { name, value } of parameters) {
      const tensors = toHuggingFace(config, name, (yield* device.read(value)) as Float32Array)
      for (const [name, { data }] of tensors) {
        const at = firstNotFinite(data)
        if (at >= 0) return `tensor ${name} holds ${data[at]} at ${at}`
      }
    }
    return undefined
  })

/** What to do about activations that are no numbers although the weights are. */
export const overflowAdvice = (precision: Precision): string =>
  precision === "f16"
    ? "the weights are sound, but activations overflow in f16, which ends at 65504: use precision f32"
    : "the weights are sound, but activations overflow: the model has diverged, or its weights are of another model"

const make = (config: ModelConfig, options: ModelOptions = {}): Effect.Effect<
  ModelService,
  DeviceError,
  Device | Scope.Scope
> =>
  Effect.gen(function*() {
    const device = yield* Device
    const scope = yield* Effect.scope
    const { precision = "f32", recompute = false } = options
    if (precision === "f16" && !device.features.has("shader-f16")) {
      return yield* new DeviceError({
        reason: "Feature",
        detail: `${device.name} has no f16 (the WebGPU feature shader-f16): choose precision "f32" or another adapter`
      })
    }
    const defaults = { precision, recompute, ...(options.compute === "masked" ? { compute: options.compute } : {}) }
    const handles = parametersOf(config)
    const parameters = listParameters(handles)
    const hyper = Tensor.make("hyper", [16])
    yield* device.allocate([hyper, ...parameters.map((p) => p.value)]).pipe(
      Effect.mapError((error) => {
        const pool = error.reason === "Limit" ? largestPool(config, device.limits) : undefined
        return pool === undefined ? error : new DeviceError({
          reason: "Limit",
          detail: `${error.detail}. Its weights fit with sinks.pool ${pool} and intermediateSize ${config.general + pool}`
        })
      })
    )
    if (options.initialize !== false) {
      for (const p of parameters) device.write(p.value, initialValue(config, p, options.seed ?? 0))
    }

    const compile: ModelService["compile"] = Effect.fnUntraced(function*(shape, of = handles) {
      const pass = yield* attempt(
        () => recordPass(config, of, hyper, { ...defaults, ...shape }, device.target),
        DataError,
        DeviceError
      )
      const { gather, records, segmentRange, ...rest } = pass.tensors
      yield* device.allocate(listTensors(pass.tensors))
      if (records !== undefined && shape.schemes !== undefined) {
        device.write(records.schemes, Ops.encodeSchemes(shape.schemes))
      }
      device.write(rest.rope, ropeTable(shape.seqLen, config.headSize, config.ropeTheta))
      const prepared = yield* device.prepare(pass.program)

      const load: CompiledPass["load"] = (batch, mode) => {
        if (batch.rows !== shape.rows || batch.seqLen !== shape.seqLen) {
          throw new DataError({
            detail: `a batch of ${batch.rows} rows of ${batch.seqLen} tokens was given to a pass compiled for ` +
              `${shape.rows} of ${shape.seqLen}`
          })
        }
        const segments = Segments.segmentsOf(batch)
        if (segments.ids.length > pass.maxSegments) {
          throw new DataError({
            detail: `the batch holds ${segments.ids.length} documents, the pass was compiled for ${pass.maxSegments}: ` +
              "raise maxSegments or pack fewer documents into a row"
          })
        }
        const sorted = Segments.positionsByToken(batch.tokens, config.vocabSize)
        device.write(rest.tokens, batch.tokens)
        device.write(rest.targets, batch.targets)
        device.write(rest.positions, batch.positions)
        device.write(rest.documentStart, batch.documentStart)
        device.write(rest.segment, segments.segment)
        device.write(rest.start, sorted.start)
        device.write(rest.order, sorted.order)
        if (segmentRange !== undefined) {
          const range = new Uint32Array(2 * pass.maxSegments)
          range.set(segments.range)
          device.write(segmentRange, range)
        }
        let units: Uint32Array = new Uint32Array()
        if (gather !== undefined) {
          const g = Segments.gather(config.sinks!, config.general, mode, segments, pass.maxSegments)
          units = g.units
          device.write(rest.coef, g.coef)
          device.write(gather.activeUnits, g.activeUnits)
          device.write(gather.segmentCount, Uint32Array.of(segments.ids.length))
          device.write(gather.tiles, Segments.tilesOf(segments, Kernels.tileRows(device.target), gather.tiles.shape[0]!))
          device.write(gather.segmentRange, segments.range)
          device.write(gather.touchedCount, Uint32Array.of(g.units.length))
          device.write(gather.units, g.units)
          device.write(gather.unitStart, g.unitStart)
          device.write(gather.uses, g.uses)
        } else {
          device.write(
            rest.coef,
            Segments.maskedCoefficients(config.sinks, config.general, mode, segments, pass.maxSegments)
          )
          if (shape.output === "train" && config.sinks !== undefined) units = Segments.litUnits(config.sinks, segments)
        }
        let scored = 0
        for (const target of batch.targets) if (target !== IGNORE) scored++
        return { scored, units }
      }
      return { ...pass, prepared, load }
    })

    const cache = new Map<string, CompiledPass>()
    type Output = Pick<PassShape, "output" | "schemes">
    const compiled = (batch: Batch, mode: Sink.SinkMode, output: Output) => {
      const segments = Segments.segmentsOf(batch)
      const compute = Sink.isSparse(mode) ? undefined : "masked" as const
      let documents = segments.ids.length
      documents = documents <= batch.rows ? batch.rows : 2 ** Math.ceil(Math.log2(documents))
      const key = [batch.rows, batch.seqLen, documents, compute, JSON.stringify(output)].join()
      const hit = cache.get(key)
      if (hit !== undefined) return Effect.succeed(hit)
      return compile({
        rows: batch.rows,
        seqLen: batch.seqLen,
        maxSegments: documents,
        ...output,
        ...(compute === undefined ? {} : { compute })
      }).pipe(
        Scope.extend(scope),
        Effect.tap((pass) => Effect.sync(() => cache.set(key, pass)))
      )
    }

    const runPass = (batch: Batch, mode: Sink.SinkMode, output: Output) =>
      Effect.gen(function*() {
        const pass = yield* compiled(batch, mode, output)
        yield* attempt(() => {
          pass.load(batch, mode)
          device.submit(pass.prepared)
        }, DataError, DeviceError)
        return pass
      })

    /** The first block behind which the residual stream of a row is no number any more; undefined: none, or unknown. */
    const brokenBlock = (batch: Batch, mode: Sink.SinkMode, row: number) =>
      Effect.gen(function*() {
        const width = batch.seqLen * config.hiddenSize
        for (let hidden = 0; hidden < config.numHiddenLayers; hidden++) {
          const found = yield* Effect.scoped(Effect.gen(function*() {
            const pass = yield* compile({
              rows: batch.rows,
              seqLen: batch.seqLen,
              maxSegments: Math.max(batch.rows, Segments.segmentsOf(batch).ids.length),
              output: "loss",
              head: { hidden },
              ...(Sink.isSparse(mode) ? {} : { compute: "masked" as const })
            })
            yield* attempt(() => {
              pass.load(batch, mode)
              device.submit(pass.prepared)
            })
            const stream = (yield* device.read(pass.tensors.stream!)) as Float32Array
            return firstNotFinite(stream.subarray(row * width, (row + 1) * width)) >= 0
          }))
          if (found) return hidden
        }
        return undefined
      }).pipe(Effect.catchAll(() => Effect.succeed(undefined)))

    /** Fails where `sound` is false of a scored token, and finds out why. */
    const checkSound = Effect.fnUntraced(function*(batch: Batch, mode: Sink.SinkMode, sound: (token: number) => boolean) {
      const at = batch.targets.findIndex((target, t) => target !== IGNORE && !sound(t))
      if (at < 0) return
      const row = Math.floor(at / batch.seqLen)
      const name = batch.names?.[row] ?? `in row ${row} of the batch, of id ${batch.ids[at]},`
      const damaged = yield* damagedWeight(device, config, parameters)
      const block = damaged === undefined ? yield* brokenBlock(batch, mode, row) : undefined
      const why = damaged ?? overflowAdvice(precision) + (block === undefined ? "" : `. The first are those of block ${block}`)
      return yield* new DataError({
        detail: `sequence ${name} has no score: the loss of its token ${batch.positions[at]! + 1} is not a number; ${why}`
      })
    })

    const evaluate: ModelService["evaluate"] = Effect.fnUntraced(function*(batch, mode) {
      const pass = yield* runPass(batch, mode, { output: "loss" })
      const [loss, rank] = yield* Effect.all([device.read(pass.tensors.loss), device.read(pass.tensors.rank)])
      yield* checkSound(batch, mode, (t) => Number.isFinite(loss[t]))
      return { loss: loss as Float32Array, rank: rank as Uint32Array }
    })

    const records: ModelService["records"] = Effect.fnUntraced(function*(batch, mode, schemes) {
      const pass = yield* runPass(batch, mode, { output: "records", schemes })
      const [record, rank] = yield* Effect.all([
        device.read(pass.tensors.records!.record),
        device.read(pass.tensors.rank)
      ])
      yield* checkSound(batch, mode, (t) => Number.isFinite(record[t]))
      const n = batch.tokens.length
      const scored = Uint32Array.from(batch.targets.keys()).filter((t) => batch.targets[t] !== IGNORE)
      const field = (f: number): Float32Array => Float32Array.from(scored, (t) => record[f * n + t]!)
      const [logProb, mean, variance, massAbove, margin] = Ops.RECORD_FIELDS.map((_, f) => field(f)) as [
        Float32Array, Float32Array, Float32Array, Float32Array, Float32Array
      ]
      return {
        token: scored.map((t) => batch.targets[t]!),
        logProb,
        rank: scored.map((t) => rank[t]!),
        mean,
        variance,
        massAbove,
        margin,
        schemes,
        schemeLogProb: schemes.map((_, s) =>
          field(Ops.RECORD_FIELDS.length + s).map((x) => (x <= Ops.RECORD_NEVER ? -Infinity : x))
        )
      }
    })

    const logits: ModelService["logits"] = Effect.fnUntraced(function*(batch, mode) {
      const pass = yield* runPass(batch, mode, { output: "logits" })
      const data = (yield* device.read(pass.tensors.logits!)) as Float32Array
      const ld = pass.tensors.logits!.shape[1]!
      yield* checkSound(batch, mode, (t) => firstNotFinite(data.subarray(t * ld, t * ld + config.vocabSize)) < 0)
      if (ld === config.vocabSize) return data
      const out = new Float32Array(batch.tokens.length * config.vocabSize)
      for (let t = 0; t < batch.tokens.length; t++) {
        out.set(data.subarray(t * ld, t * ld + config.vocabSize), t * config.vocabSize)
      }
      return out
    })

    return {
      config,
      parameters,
      handles,
      hyper,
      precision,
      defaults,
      compile,
      evaluate,
      records,
      logits,
      exportTensors: Effect.gen(function*() {
        const out: Record<string, HostTensor> = {}
        for (const p of parameters) {
          const data = (yield* device.read(p.value)) as Float32Array
          for (const [name, tensor] of toHuggingFace(config, p.name, data)) out[name] = tensor
        }
        return out
      }),
      importTensors: (tensors) =>
        attempt(() => {
          const values = parameters.map((p) => fromHuggingFace(config, p.name, tensors))
          parameters.forEach((p, i) => device.write(p.value, values[i]!))
        }, CheckpointError)
    }
  })

export class Model extends Context.Tag("memsinks/Model")<Model, ModelService>() {
  /** A freshly initialised model on the Device; it lives until the scope closes. */
  static readonly make = make
  static readonly layer = (config: ModelConfig, options?: ModelOptions): Layer.Layer<Model, DeviceError, Device> =>
    Layer.scoped(Model, make(config, options))
}
