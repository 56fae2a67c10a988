/**
 * A pass of the decoder: forward, and backward when training, recorded as a Program with no GPU in sight; and what carries a
 * batch into it.
 */
import { type Batch, IGNORE } from "../Batch.ts"
import { DataError } from "../Errors.ts"
import type { DeviceService, Prepared } from "../gpu/Device.ts"
import * as Program from "../gpu/Program.ts"
import { portable, type Target } from "../gpu/Target.ts"
import * as Tensor from "../gpu/Tensor.ts"
import { type Sampling, schemeName } from "../measures/TokenRecords.ts"
import * as Sink from "../Sink.ts"
import * as Kernels from "./Kernels.ts"
import type { ModelConfig } from "./ModelConfig.ts"
import * as Ops from "./Ops.ts"
import type { Parameters } from "./Parameters.ts"
import * as Segments from "./Segments.ts"

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
  /** Most bytes of logits that exist at once. Default 64 MiB, on a GPU 512 MiB or the largest buffer. */
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
  /**
   * Leave out the embedding and so many blocks: the pass begins with the residual stream behind them, which is given in
   * `tensors.entry`. With `train` the gradient by it is left in `tensors.entryGradient`, and no parameter may be updated. Not
   * with gates, residual or head.hidden. Default: the whole model.
   */
  readonly skip?: number
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
  /** Where the rest is not: of attention, the heads that are set aside with the sinks. Default: as the rest. */
  readonly heads?: boolean
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
  /** What attention's outputs are multiplied with, f32 [maxSegments, heads * headSize]; where heads are set aside. */
  readonly heads: Tensor.Tensor | undefined
  /** The residual stream that a pass with skip begins with, f32 [n, hiddenSize]. The caller writes it. */
  readonly entry: Tensor.Tensor | undefined
  /** Of a training pass with skip: the gradient of the loss by `entry`, f32 [n, hiddenSize]. */
  readonly entryGradient: Tensor.Tensor | undefined
  /** f32 [maxSegments, general + pool] for each recorded block. The caller writes them. */
  readonly gates: ReadonlyArray<Tensor.Tensor> | undefined
  /** Gradients of the gates by segment, overwritten (segments that the batch lacks get 0); for "train" with gates. */
  readonly gateGradients: ReadonlyArray<Tensor.Tensor> | undefined
  /** Activations of the neurons before gating, with their sink coefficients, f32 [n, general + pool]; with gates. */
  readonly hidden: ReadonlyArray<Tensor.Tensor> | undefined
  /** First token and number of tokens of each segment, u32 [maxSegments, 2]; with gates. */
  readonly segmentRange: Tensor.Tensor | undefined
}

const listedIn = (value: object | undefined): ReadonlyArray<Tensor.Tensor> =>
  value === undefined ? [] : "shape" in value ? [value as Tensor.Tensor] : Object.values(value).flatMap(listedIn)

/** Every tensor of a pass that must be allocated, each once. */
export const listTensors = (tensors: PassTensors): ReadonlyArray<Tensor.Tensor> => listedIn(tensors)

export interface Pass {
  readonly shape: PassShape
  readonly gathered: boolean
  readonly maxSegments: number
  readonly tensors: PassTensors
  readonly program: Program.Program
}

/** Whether the gathered kernels can compute a config's sinks at all. */
export const canGather = (c: ModelConfig): boolean => c.sinks !== undefined && Sink.slotsOf(c.sinks) !== undefined

/** Whether a gathered pass can compute every batch in a mode, whatever its ids. */
export const gathersAll = (c: ModelConfig, mode: Sink.SinkMode): boolean =>
  Sink.isSparse(mode) && (c.sinks === undefined || c.sinks.exact)

/** Whether a gathered pass can compute a batch in a mode: it needs a sparse mode, and room for the sinks of every id. */
export const gathers = (c: ModelConfig, batch: Batch, mode: Sink.SinkMode): boolean =>
  gathersAll(c, mode) || Sink.isSparse(mode) && Segments.fits(c.sinks, Segments.segmentsOf(batch), mode)

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
  const { compute, gates = false, head = "crossEntropy", output, precision = "f32", residual = false, seqLen, skip } =
    shape
  const { general = true, rest = true, sinks = true } = shape.update ?? {}
  const layers = c.numHiddenLayers
  const wrong = seqLen > c.maxPositionEmbeddings
    ? `rows of ${seqLen} tokens exceed the model's maxPositionEmbeddings of ${c.maxPositionEmbeddings}`
    : compute === "gathered" && !canGather(c)
    ? "gathered sinks need a block that is 1, 2, 4 or a multiple of 8, and a pool of at least twice what an id lights"
    : head !== "crossEntropy" && output !== "train" && output !== "loss"
    ? `a pass with output "${output}" has no loss: leave out head, got ${JSON.stringify(head)}`
    : typeof head === "object" && !(Number.isInteger(head.hidden) && head.hidden >= 0 && head.hidden < layers)
    ? `head.hidden must be a block from 0 to ${layers - 1}, got ${head.hidden}`
    : gates && compute === "gathered"
    ? "gates need every neuron of the pool: use compute \"masked\""
    : c.sinks?.heads !== undefined && precision !== "f32"
    ? `heads that are set aside with sinks (sinks.heads) are computed in f32, got precision "${precision}"`
    : gates && precision !== "f32"
    ? `gates are computed in f32, got precision "${precision}"`
    : residual && (output === "train" || typeof head === "object")
    ? "residual keeps the stream of a whole forward pass: leave it out with output \"train\" and with head.hidden"
    : skip !== undefined && !(Number.isInteger(skip) && skip >= 0 && skip <= layers)
    ? `skip must be a number of blocks from 0 to ${layers}, got ${skip}`
    : skip !== undefined && (gates || residual || typeof head === "object")
    ? "skip leaves out blocks of a plain pass: not with gates, residual or head.hidden"
    : skip !== undefined && output === "train" && (general || sinks || rest)
    ? "a training pass with skip has gradients by its entry alone: set update's general, sinks and rest to false"
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
  const { general = true, rest = true, sinks: ofSinks = true, heads: ofHeads = rest } = shape.update ?? {}
  const train = shape.output === "train"
  const gathered = shape.compute === undefined ? canGather(c) && !gates : shape.compute === "gathered"
  const n = rows * seqLen
  const maxSegments = Math.min(n, shape.maxSegments ?? rows)
  const sinks = c.sinks
  const u32 = (name: string, ...dims: Array<number>) => Tensor.make(name, dims, { type: "u32" })
  const slots = gathered ? Sink.slotsOf(sinks!)! : 0
  const active = slots * (sinks?.block ?? 1)
  // of several ranks each may have a slice of the pool
  const pool = parameters.layers[0]!.down.value.shape[0]! - c.general
  const units = sinks === undefined ? 0 : pool / sinks.block
  const maxTouched = gathered ? Math.min(units, maxSegments * slots) : 0
  const layers = parameters.layers.slice(0, typeof head === "object" ? head.hidden + 1 : undefined)
  const width = c.general + pool
  const perBlock = (name: string, ...dims: Array<number>) =>
    layers.map((_, i) => Tensor.make(`layers.${i}.${name}`, dims))
  const ldLogits = Math.ceil(c.vocabSize / 4) * 4
  const tensors: PassTensors = {
    tokens: u32("tokens", n),
    targets: u32("targets", n),
    positions: u32("positions", n),
    documentStart: u32("documentStart", n),
    segment: u32("segment", n),
    start: u32("start", c.vocabSize + 1),
    order: u32("order", n),
    coef: Tensor.make("coef", [maxSegments, 1 + (gathered ? slots : units)]),
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
        uses: u32("uses", maxSegments * slots, 2),
        packed: sinks!.block % 8 === 0 ? undefined : {
          count: u32("packedCount", 1),
          order: u32("packedOrder", maxSegments * active / 16 + 1),
          uses: u32("packedUses", maxSegments * active / 16, 2)
        }
      }
      : undefined,
    weights: head === "crossEntropy" ? undefined : Tensor.make("weights", [n]),
    soft: head === "soft" ? Tensor.make("soft", [n, ldLogits]) : undefined,
    hiddenTarget: typeof head === "object" ? Tensor.make("hiddenTarget", [n, c.hiddenSize]) : undefined,
    stream: typeof head === "object" && !train ? Tensor.make("stream", [n, c.hiddenSize]) : undefined,
    residual: shape.residual === true
      ? Array.from({ length: 2 * layers.length + 1 }, (_, i) => Tensor.make(`residual.${i}`, [n, c.hiddenSize]))
      : undefined,
    heads: sinks?.heads === undefined
      ? undefined
      : Tensor.make("heads", [maxSegments, c.numAttentionHeads * c.headSize]),
    entry: shape.skip === undefined ? undefined : Tensor.make("entry", [n, c.hiddenSize]),
    entryGradient: shape.skip === undefined || !train ? undefined : Tensor.make("entry.gradient", [n, c.hiddenSize]),
    gates: gates ? perBlock("gates", maxSegments, width) : undefined,
    gateGradients: gates && train ? perBlock("gates.gradient", maxSegments, width) : undefined,
    hidden: gates ? perBlock("hidden", n, width) : undefined,
    segmentRange: gates ? u32("segmentRange", maxSegments, 2) : undefined
  }
  const mlpShape: Ops.MlpShape = {
    general: c.general,
    pool,
    block: sinks?.block ?? 1,
    gathered: gathered ? { active, maxSegments, inputs: tensors.gather! } : undefined,
    update: { general, sinks: ofSinks }
  }
  const attentionShape = { heads: c.numAttentionHeads, kvHeads: c.kvHeads, headSize: c.headSize }

  const p = Program.record(`${shape.output} ${rows}x${seqLen}${gathered ? "" : " masked"}`, target)
  const type: Tensor.ElementType = shape.precision ?? "f32"
  const attentionWidth = c.numAttentionHeads * c.headSize
  const aside = (sinks?.heads ?? 0) * c.headSize
  const left = attentionWidth - aside
  /** What of a block's two matrices of attention gets a gradient: all, none, or the heads that are set aside. */
  const update = rest || aside === 0 || !ofHeads ? { qkv: rest, o: rest } : {
    // queries, keys and values of these heads, of which each is as many
    qkv: [0, 1, 2].map((part) => ({ row: part * attentionWidth + left, rows: aside, column: 0,
      columns: c.hiddenSize })
    ),
    o: [{ row: 0, rows: c.hiddenSize, column: left, columns: aside }]
  }
  const norms = train && rest
    ? Ops.normSums(p, 2 * layers.length + (typeof head === "object" ? 0 : 1), n, c.hiddenSize)
    : undefined
  const ofNorms = { update: rest, sums: norms }
  const block = (i: number, x: Tensor.Tensor) => {
    p.scope(`layers.${i}`)
    const layer = parameters.layers[i]!
    const plain = Ops.plainNeurons(mlpShape)
    const sums: Array<Ops.SplitSum> = []
    const [ofQkv, ofO, ofGateUp, ofDown] = Ops.factors(p, [
      { w: layer.qkv, rows: layer.qkv.value.shape[0]! },
      { w: layer.o, rows: layer.o.value.shape[0]! },
      { w: layer.gateUp, rows: 2 * plain },
      { w: layer.down, rows: plain }
    ], type)
    const norm1 = Ops.rmsNorm(p, x, layer.norm1, n, c.rmsNormEps, type, ofNorms)
    const qkv = Ops.linear(p, norm1.y, layer.qkv, n, { update: update.qkv, factor: ofQkv, sums })
    const attention = Ops.attention(p, qkv.y, n, attentionShape, tensors)
    const gate = tensors.heads && Ops.gateColumns(p, attention.y, n, { gate: tensors.heads, segment: tensors.segment })
    const o = Ops.linear(p, gate?.y ?? attention.y, layer.o, n, { residual: x, update: update.o, factor: ofO, sums })
    const norm2 = Ops.rmsNorm(p, o.y, layer.norm2, n, c.rmsNormEps, type, ofNorms)
    const mlp = Ops.mlp(p, norm2.y, o.y, layer, n, mlpShape, tensors, {
      factors: [ofGateUp!, ofDown!],
      sums,
      gates: tensors.gates && {
        gate: tensors.gates[i]!,
        hidden: tensors.hidden![i]!,
        gradient: tensors.gateGradients?.[i],
        segmentRange: tensors.segmentRange!
      }
    })
    return {
      /** The residual stream between attention and MLP, and behind the block. */
      middle: o.y,
      y: mlp.y,
      /**
       * Takes the gradient of the residual stream behind the block and leaves that before it, in place: it and, where
       * there is one, its copy in the type of products.
       */
      backward: (dx: Tensor.Tensor, copy: Tensor.Tensor | undefined) => {
        p.scope(`layers.${i}`)
        const middle = norm2.backward(mlp.backward(dx, copy), dx, true)
        const attended = o.backward(dx, middle)
        const dqkv = attention.backward(gate?.backward(attended) ?? attended)
        const before = norm1.backward(qkv.backward(dqkv), dx, true)
        Ops.addUp(p, sums)
        return before
      }
    }
  }

  const embedding = tensors.entry === undefined ? Ops.embedding(p, parameters.embed, n, tensors) : undefined
  const skip = shape.skip ?? 0
  /** The residual stream before each block that is not left out, and behind the last. */
  const stream = [embedding?.y ?? tensors.entry!]
  const blocks = layers.slice(skip).map((_, i) => {
    const recorded = block(skip + i, stream[i]!)
    stream.push(recorded.y)
    return recorded
  })
  p.scope("")
  /** Records what is behind the last block; the gradient of the residual stream there, for a training pass. */
  const behind = (): { readonly dx: Tensor.Tensor; readonly copy: Tensor.Tensor | undefined } | undefined => {
    const x = stream.at(-1)!
    if (tensors.hiddenTarget !== undefined) {
      const { hiddenTarget, loss, targets, weights } = tensors
      const dx = Ops.hiddenLoss(p, x, n, { targets, hyper, weights: weights!, hiddenTarget, loss })
      return train ? { dx, copy: undefined } : undefined
    }
    const norm = Ops.rmsNorm(p, x, parameters.norm, n, c.rmsNormEps, type, ofNorms)
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
    const dx = tensors.entryGradient ?? p.scratch("dx", [n, c.hiddenSize])
    return { dx, copy: norm.backward(dnorm, dx, false) }
  }
  // the gradient of the residual stream, updated in place from the last block to the first
  const last = behind()
  if (last !== undefined) {
    const { dx } = last
    let { copy } = last
    for (let i = blocks.length - 1; i >= 0; i--) {
      const recorded = shape.recompute === true ? block(skip + i, stream[i]!) : blocks[i]!
      copy = recorded.backward(dx, copy)
    }
    p.scope("")
    if (rest) {
      norms?.add()
      embedding!.backward(dx)
    }
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

/**
 * Copies a batch to a pass's tensors; ordered with submits. Throws DataError for a batch that does not fit the pass, or lights
 * sinks outside of a slice of the pool.
 */
export const loadBatch = (
  device: Pick<DeviceService, "target" | "write">,
  config: ModelConfig,
  pass: Pass,
  batch: Batch,
  mode: Sink.SinkMode,
  slice?: Sink.Slice
): Loaded => {
  const { shape, tensors: { gather, heads, segmentRange, ...rest } } = pass
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
  if (heads !== undefined) {
    const gates = new Float32Array(heads.shape[0]! * heads.shape[1]!)
    const shape = { heads: config.numAttentionHeads, headSize: config.headSize }
    segments.ids.forEach((id, s) =>
      gates.set(Sink.headGates(config.sinks!, shape, Segments.modeOf(segments, s, mode), id), s * heads.shape[1]!)
    )
    device.write(heads, gates)
  }
  let units: Uint32Array = new Uint32Array()
  if (gather !== undefined) {
    const tooMany = segments.ids.find((id) => !Sink.fits(config.sinks!, mode, id))
    if (tooMany !== undefined) {
      throw new DataError({
        detail: `id ${tooMany} lights more sinks than a gathered pass has room for: compute its batch "masked"`
      })
    }
    const g = Segments.gather(config.sinks!, config.general, mode, segments, pass.maxSegments, slice)
    units = slice === undefined ? g.units : g.units.map((unit) => slice.from + unit)
    device.write(rest.coef, g.coef)
    device.write(gather.activeUnits, g.activeUnits)
    device.write(gather.segmentCount, Uint32Array.of(segments.ids.length))
    device.write(gather.tiles, Segments.tilesOf(segments, Kernels.tileRows(device.target), gather.tiles.shape[0]!))
    device.write(gather.segmentRange, segments.range)
    device.write(gather.touchedCount, Uint32Array.of(g.units.length))
    device.write(gather.units, g.units)
    device.write(gather.unitStart, g.unitStart)
    device.write(gather.uses, g.uses)
    if (gather.packed !== undefined) {
      device.write(gather.packed.count,
        Uint32Array.of(segments.ids.length * gather.packed.uses.shape[0]! / pass.maxSegments))
    }
  } else {
    device.write(
      rest.coef,
      Segments.maskedCoefficients(config.sinks, config.general, mode, segments, pass.maxSegments, slice)
    )
    if (shape.output === "train" && config.sinks !== undefined) units = Segments.litUnits(config.sinks, segments)
  }
  let scored = 0
  for (const target of batch.targets) if (target !== IGNORE) scored++
  return { scored, units }
}

/** A pass with memory and pipelines. */
export interface CompiledPass extends Pass {
  readonly prepared: Prepared
  /** Copy a batch in; ordered with submits. Throws DataError for a batch that does not fit the pass. */
  readonly load: (batch: Batch, mode: Sink.SinkMode) => Loaded
}
