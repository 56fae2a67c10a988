/**
 * The shape of a Llama-style decoder, in Hugging Face's names. Decoding is the only validation.
 */
import * as Schema from "effect/Schema"
import { configuration, rate, upTo, withDefault } from "../Config.ts"
import { SinkConfig } from "../Sink.ts"

/** Bounds far above any model, and below where a number of weights or of bytes is no exact integer any more. */
const MOST_NEURONS = 2 ** 24

const fields = {
  /** Entries of the vocabulary; a training run takes its tokenizer's. */
  vocabSize: upTo(2 ** 24),
  /** Width of the residual stream, a multiple of 4. */
  hiddenSize: upTo(2 ** 16).pipe(Schema.multipleOf(4)),
  /** Layers, each of attention and an MLP. */
  numHiddenLayers: upTo(1024),
  /** Query heads. */
  numAttentionHeads: upTo(4096),
  /** Key and value heads; must divide `numAttentionHeads`. Default: as many as those. */
  numKeyValueHeads: Schema.optional(upTo(4096)),
  /** Size of a head, independent of width and heads. Default hiddenSize / numAttentionHeads. */
  headDim: Schema.optional(upTo(4096).pipe(Schema.multipleOf(4))),
  /** MLP width: general neurons plus the whole sink pool. */
  intermediateSize: upTo(MOST_NEURONS).pipe(Schema.multipleOf(4)),
  /** Longest position. Default 2048. */
  maxPositionEmbeddings: withDefault(upTo(2 ** 24), 2048),
  /** Default 1e-5. */
  rmsNormEps: withDefault(rate, 1e-5),
  /** Default 10000. */
  ropeTheta: withDefault(rate, 10000),
  /** One matrix for embedding and head. Default true. */
  tieWordEmbeddings: withDefault(Schema.Boolean, true),
  /**
   * Standard deviation of initial weights. Default: scaled by fan-in (1/sqrt(in)), embeddings .05. Either way the two
   * matrices that write to the residual stream are divided by sqrt(2 * numHiddenLayers).
   */
  initializerRange: Schema.optional(rate),
  /** Memorization sinks; none: a standard decoder. */
  sinks: Schema.optional(SinkConfig)
}

type Fields = Schema.Schema.Type<Schema.Struct<typeof fields>>

const problem = (c: Fields): string | undefined => {
  const kv = c.numKeyValueHeads ?? c.numAttentionHeads
  if (c.numAttentionHeads % kv !== 0) {
    return `numKeyValueHeads ${kv} must divide numAttentionHeads ${c.numAttentionHeads}`
  }
  if (c.headDim === undefined && c.hiddenSize % (4 * c.numAttentionHeads) !== 0) {
    return `hiddenSize ${c.hiddenSize} does not divide into ${c.numAttentionHeads} heads of a multiple of 4: ` +
      "choose another numAttentionHeads or give headDim"
  }
  if (c.sinks?.problem !== undefined) return c.sinks.problem
  const { heads } = { ...c.sinks }
  if (heads !== undefined && (heads >= c.numAttentionHeads || kv !== c.numAttentionHeads)) {
    return `sinks.heads sets aside ${heads} of ${c.numAttentionHeads} heads: some must be left, and each must have keys ` +
      `and values of its own (numKeyValueHeads ${kv})`
  }
  const general = c.intermediateSize - (c.sinks?.pool ?? 0)
  if (general < 4) {
    return `intermediateSize ${c.intermediateSize} must exceed sinks.pool ${c.sinks?.pool}: it counts general neurons and pool`
  }
  if (general % 4 !== 0) return `intermediateSize - sinks.pool must be a multiple of 4, got ${general}`
  return undefined
}

/** Shapes of a Llama-style decoder, in Hugging Face's words, and its sinks. Widths are multiples of 4. */
export class ModelConfig extends configuration(Schema.Class<ModelConfig>("ModelConfig")(
  Schema.Struct(fields).pipe(Schema.filter((c) => problem(c)))
)) {
  /** Heads of keys and values: those of queries, unless `numKeyValueHeads` says fewer (grouped-query attention). */
  get kvHeads(): number {
    return this.numKeyValueHeads ?? this.numAttentionHeads
  }
  /** Numbers of a head: `headDim`, else `hiddenSize / numAttentionHeads`. */
  get headSize(): number {
    return this.headDim ?? this.hiddenSize / this.numAttentionHeads
  }
  /** Sink neurons in every MLP; 0 without sinks. */
  get pool(): number {
    return this.sinks?.pool ?? 0
  }
  /** Neurons that are always on. */
  get general(): number {
    return this.intermediateSize - this.pool
  }
  /** Neurons that are on for one token in training: general plus the id's own. */
  get activeSize(): number {
    return this.general + (this.sinks?.active ?? 0)
  }
  /** Trainable parameters. */
  get numParameters(): number {
    return this.countWith(this.intermediateSize)
  }
  /** Parameters that one token's forward pass multiplies with. */
  get numActiveParameters(): number {
    return this.countWith(this.activeSize)
  }
  /** A pool is a multiple of it: whole blocks in every shard, and a multiple of 4. */
  get poolUnit(): number {
    return this.sinks?.poolUnit ?? 4
  }
  /** The same model with another pool of sinks: its general neurons stay as many. A model without sinks stays as it is. */
  withPool(pool: number): ModelConfig {
    if (this.sinks === undefined) return this
    const sinks = new SinkConfig({ ...this.sinks, pool })
    return new ModelConfig({ ...this, intermediateSize: this.general + pool, sinks })
  }
  /** The same model with more owners of its sinks, where they are shared out by `disjoint`: see SinkConfig. */
  withOwners(ids: Iterable<bigint>): ModelConfig {
    if (this.sinks?.assignment !== "disjoint") return this
    return new ModelConfig({ ...this, sinks: this.sinks.withOwners(ids) })
  }
  private countWith(width: number): number {
    const d = this.hiddenSize
    const attention = d * this.headSize * (2 * this.numAttentionHeads + 2 * this.kvHeads)
    const embeddings = this.vocabSize * d * (this.tieWordEmbeddings ? 1 : 2)
    return embeddings + d + this.numHiddenLayers * (attention + 3 * width * d + 2 * d)
  }
}

/** A configuration before decoding. */
export type ModelConfigInput = Schema.Schema.Encoded<typeof ModelConfig>

const smol = (c: {
  layers: number
  width: number
  heads: number
  kv: number
  mlp: number
}) =>
  new ModelConfig({
    vocabSize: 49152,
    hiddenSize: c.width,
    numHiddenLayers: c.layers,
    numAttentionHeads: c.heads,
    numKeyValueHeads: c.kv,
    headDim: 64,
    intermediateSize: c.mlp,
    initializerRange: 0.02
  })

/** Presets are typed values. `tiny` trains in a minute on a CPU; the others are the published shapes. */
export const presets = {
  /** Two layers of width 64: 192 general neurons, 2,048 sinks, of which an id lights 32. */
  tiny: new ModelConfig({
    vocabSize: 256,
    hiddenSize: 64,
    numHiddenLayers: 2,
    numAttentionHeads: 2,
    intermediateSize: 192 + 2048,
    sinks: new SinkConfig({ pool: 2048, active: 32 })
  }),
  /** SmolLM 135M. */
  "smol-135m": smol({ layers: 30, width: 576, heads: 9, kv: 3, mlp: 1536 }),
  /** SmolLM 360M. */
  "smol-360m": smol({ layers: 32, width: 960, heads: 15, kv: 5, mlp: 2560 }),
  /** SmolLM 1.7B. */
  "smol-1.7b": smol({ layers: 24, width: 2048, heads: 32, kv: 32, mlp: 8192 }),
  /** The released NULLs model: 500 general neurons, 7,692 sinks, of which a source lights 100 (1.3 %) on average. */
  "nulls-1b": new ModelConfig({
    vocabSize: 49152,
    hiddenSize: 960,
    numHiddenLayers: 32,
    numAttentionHeads: 15,
    numKeyValueHeads: 5,
    headDim: 128,
    intermediateSize: 8192,
    maxPositionEmbeddings: 8192,
    ropeTheta: 100000,
    tieWordEmbeddings: false,
    initializerRange: 0.02,
    sinks: new SinkConfig({ pool: 7692, active: 100, block: 1, assignment: "reference", maskProbability: 0.013 })
  })
} as const

/** The name of a preset. */
export type Preset = keyof typeof presets
