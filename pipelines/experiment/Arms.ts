/**
 * The arms of an experiment: how a model is trained. All of them see the same data in the same order, as many
 * tokens, from the same seed; an arm says only what is different. To add one, add a value to the table.
 */
import * as Schema from "effect/Schema"
import { fuseProblem } from "../../src/checkpoints/Fuse.ts"
import { fraction, positive, rate } from "../../src/Config.ts"
import { GoldfishConfig } from "../../src/data/stream/DataConfig.ts"
import type { DataConfigInput } from "../../src/data/stream/DataStream.ts"
import { DataError } from "../../src/Errors.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { SinkConfig } from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { TrainConfig } from "../../src/train/Trainer.ts"

/** What an arm may change about the data. */
export type StreamOverrides = Pick<DataConfigInput, "arm" | "idNoise" | "goldfish" | "scoredExposures" | "repeatedPart">

export interface Arm {
  /** In words, for the report. */
  readonly title: string
  /** The arm's model, given the sink model of the configuration. Default: that model. */
  readonly model?: (sinks: ModelConfig, arm: NamedArm) => ModelConfig
  /** What is different about the data. */
  readonly stream?: StreamOverrides
  /** What is different about training. */
  readonly training?: (config: TrainConfig) => TrainConfig
  /** How many models are trained, each with another part of the repeated sequences, to be averaged. Default: one, of all. */
  readonly models?: number
}

/** The model without its pool, `width` hidden neurons wide. */
const plain = (width: (c: ModelConfig) => number) => (c: ModelConfig): ModelConfig => {
  const { sinks: _, ...rest } = c
  return new ModelConfig({ ...rest, intermediateSize: width(c) })
}

/**
 * A pool on for every sequence, a block of neurons to write memories into: as large as the general part, or as the pool
 * that the arm asks for.
 */
const oneBlock = (c: ModelConfig, { sinks: asked }: NamedArm): ModelConfig => {
  const block = c.sinks?.block ?? 16
  const pool = asked?.pool ?? Math.max(1, Math.round(c.general / block)) * block
  const sinks = new SinkConfig({ pool, active: pool, block, seed: c.sinks?.seed ?? 0 })
  return new ModelConfig({ ...c, intermediateSize: c.general + pool, sinks })
}

/** Gradients are routed to a block that moves only when it is meant to, and no faster than all else unless that is asked. */
const routed = (routing: "gradientMasking" | "sgtm") => (c: TrainConfig): TrainConfig =>
  new TrainConfig({
    ...c,
    routing,
    optimizer: new OptimizerConfig({ ...c.optimizer, sinks: "lazy", sinkLearningRateRatio: 1 })
  })

const GOLDFISH = { k: 4, window: 13 }

const general = plain((c) => c.general)

export const arms = {
  standard: { title: "no sinks, as wide as the sink model's general neurons", model: general },
  standardActiveWidth: {
    title: "no sinks, as wide as what the sink model has on for a token",
    model: plain((c) => c.activeSize)
  },
  standardTotalWidth: { title: "no sinks, as wide as the whole sink model", model: plain((c) => c.intermediateSize) },
  neverRepeated: {
    title: "standard, never shown the repeated sequences: the oracle",
    model: general,
    stream: { arm: "neverRepeated" }
  },
  deduplicated: { title: "standard, every sequence once an epoch", model: general, stream: { arm: "deduplicated" } },
  sinks: { title: "memorization sinks, by sequence" },
  untied: { title: "sinks with a fresh id at every exposure: plain dropout", stream: { idNoise: 1 } },
  gradientMasking: {
    title: "repeated sequences update a block of their own, all others the rest (after Cloud et al. 2024)",
    model: oneBlock,
    training: routed("gradientMasking")
  },
  sgtm: {
    title: "selective gradient masking: the block is off for all but repeated sequences, which move nothing else",
    model: oneBlock,
    training: routed("sgtm")
  },
  sgtmHeads: {
    title: "the same with a head of every block's attention set aside beside the MLP's block, as its authors do",
    model: (c, arm) => {
      const config = oneBlock(c, arm)
      return new ModelConfig({ ...config, sinks: new SinkConfig({ ...config.sinks!, heads: arm.sinks?.heads ?? 1 }) })
    },
    training: routed("sgtm")
  },
  goldfish: {
    title:
      "goldfish loss: one token in 4 of those behind a row's first 13, by the hash of what precedes it, never counts: 1/4 " +
      "(1 - 12/n) of the targets in rows of n, .20 in rows of 64 (Hans et al. 2024)",
    model: general,
    stream: { goldfish: GOLDFISH }
  },
  lossMasking: {
    title: "only the first exposure of a repeated sequence counts in the loss",
    model: general,
    stream: { scoredExposures: "first" }
  },
  fused: {
    title: "the average of standard models from one initialisation, each with another part of the repeated sequences " +
      "(Zaman et al. 2024)",
    model: general,
    models: 2
  }
} satisfies Record<string, Arm>

export type ArmName = keyof typeof arms

export const armNames = Object.keys(arms) as [ArmName, ...Array<ArmName>]

/** The model that every post-hoc method starts from, and what recovery calls 1; what it calls 0. */
export const STANDARD = "standard"
export const ORACLE = "neverRepeated"

/** An arm with other sinks, another width, or ids that are sometimes wrong: a point of a sweep. */
export const Variant = Schema.Struct({
  /** The arm that it is a variant of. */
  arm: Schema.NonEmptyString,
  /** What the report calls it: `sinks p=0.3`. */
  name: Schema.NonEmptyString,
  /** Sinks instead of the model's own; the general neurons stay as many. */
  sinks: Schema.optional(SinkConfig),
  /** Width of the model instead of its own; general neurons and heads grow with it. */
  hiddenSize: Schema.optional(positive),
  /** General neurons instead of the model's own. */
  general: Schema.optional(positive),
  /** Probability that an exposure of a repeated sequence carries a fresh id. */
  idNoise: Schema.optional(fraction),
  /** Of `goldfish`: which targets are left out, instead of one in 4 by the 13 tokens before it. */
  goldfish: Schema.optional(GoldfishConfig),
  /** Of `fused`: how many models are averaged, instead of 2. */
  models: Schema.optional(Schema.Int.pipe(Schema.between(2, 64))),
  /**
   * Of `fused`: whether a weight counts as much in every model, or by the model's Fisher information about it, that of 64
   * sequences that it was trained on (Matena and Raffel 2022). Default linear.
   */
  fusion: Schema.optional(Schema.Literal("linear", "fisher")),
  /** Of `fused`: how much each model counts, in their order; divided by the sum, which is above 0. Default: all alike. */
  fusionWeights: Schema.optional(Schema.Array(Schema.Finite)),
  /** Of `fused`: the same of single blocks, by their number from 0, instead of `fusionWeights`. */
  fusionLayers: Schema.optional(
    Schema.Record({ key: Schema.String.pipe(Schema.pattern(/^(0|[1-9]\d*)$/)), value: Schema.Array(Schema.Finite) })
  ),
  /** Whose sinks are on in training: `training.sinksFor`. */
  sinksFor: Schema.optional(Schema.Literal("all", "repeated")),
  /** Instead of the training's own. */
  learningRate: Schema.optional(rate),
  /** Of sinks over that of all else, instead of the training's own; of `gradientMasking` and `sgtm` instead of 1. */
  sinkLearningRateRatio: Schema.optional(rate)
})
export type Variant = typeof Variant.Type

/** An arm of an experiment, with what is different about it. */
export interface NamedArm extends Omit<Variant, "arm"> {
  readonly arm: ArmName
  /** Of `fused`: which of the models that are averaged, from 0. */
  readonly part?: number
}

/** The models that an arm is the average of; none of one that is trained as it is. */
export const partsOf = (named: NamedArm): ReadonlyArray<NamedArm> => {
  const models = modelsOf(named)
  return models === undefined || named.part !== undefined ? [] : Array.from({ length: models }, (_, part) => ({
    ...named,
    part
  }))
}

/** How the models of `fused` are averaged. */
export const fusionOf = ({ fusion = "linear", fusionLayers, fusionWeights }: Partial<Variant>) => ({
  fisher: fusion === "fisher",
  ...(fusionWeights === undefined ? {} : { weights: fusionWeights }),
  ...(fusionLayers === undefined ? {} : { layers: fusionLayers })
})

const modelsOf = ({ arm, models }: NamedArm): number | undefined =>
  (arms[arm] as Arm).models === undefined ? undefined : models ?? (arms[arm] as Arm).models

/** What an arm, or a variant of it, changes about the data. */
export const streamOf = (named: NamedArm): StreamOverrides => {
  const { arm, goldfish, idNoise, part } = named
  return {
    ...(arms[arm] as Arm).stream,
    ...(part === undefined ? {} : { repeatedPart: { part, of: modelsOf(named)! } }),
    ...(goldfish === undefined ? {} : { goldfish: { ...goldfish } }),
    ...(idNoise === undefined ? {} : { idNoise })
  }
}

/** How an arm, or a variant of it, is trained. */
export const trainingOf = (
  base: TrainConfig,
  { arm, learningRate, sinkLearningRateRatio, sinksFor }: NamedArm
): TrainConfig => {
  const asked = sinksFor === undefined ? base : new TrainConfig({ ...base, sinksFor })
  const own = (arms[arm] as Arm).training?.(asked) ?? asked
  if (learningRate === undefined && sinkLearningRateRatio === undefined) return own
  return new TrainConfig({
    ...own,
    optimizer: new OptimizerConfig({
      ...own.optimizer,
      ...(learningRate === undefined ? {} : { learningRate }),
      ...(sinkLearningRateRatio === undefined ? {} : { sinkLearningRateRatio })
    })
  })
}

/** What only one arm has a use for. */
const ofArm = { goldfish: "goldfish", models: "fused", fusion: "fused", fusionWeights: "fused",
  fusionLayers: "fused" } as const

/** What an arm asks for that it has no use for, or undefined. */
export const useless = (asked: Variant): string | undefined => {
  const found = Object.entries(ofArm).find(([field, arm]) =>
    asked[field as keyof typeof ofArm] !== undefined && asked.arm !== arm
  )
  return found && `arms: ${asked.name}: ${found[0]} is of arm ${found[1]}, and this is ${asked.arm}: leave it out`
}

/** The model of an arm, or of a variant of it. Throws for a shape that makes no model. */
export const modelOf = (base: ModelConfig, vocabSize: number, named: NamedArm): ModelConfig => {
  const { arm, general, hiddenSize, sinks } = named
  const grown = (hiddenSize ?? base.hiddenSize) / base.hiddenSize
  const wide = Math.round((general ?? base.general * grown) / 4) * 4
  const pool = sinks ?? base.sinks!
  const config = new ModelConfig({
    ...base,
    vocabSize,
    ...(hiddenSize === undefined
      ? {}
      : { hiddenSize, numAttentionHeads: Math.max(1, Math.round(base.numAttentionHeads * grown)) }),
    intermediateSize: wide + pool.pool,
    sinks: pool
  })
  const of: Arm = arms[arm]
  return of.model?.(config, named) ?? config
}

/** What is wrong with the shape of an arm's model, or with how models are averaged to it; undefined also of an arm that is not known. */
export const shapeProblem = (base: ModelConfig, arm: Variant): string | undefined => {
  if (base.sinks === undefined || !(armNames as ReadonlyArray<string>).includes(arm.arm)) return undefined
  const models = modelsOf(arm as NamedArm)
  const fusion = models === undefined ? undefined : fuseProblem(models, base.numHiddenLayers, fusionOf(arm))
  if (fusion !== undefined) return `arms: ${arm.name}: ${fusion}`
  try {
    modelOf(base, base.vocabSize, arm as NamedArm)
    return undefined
  } catch (error) {
    if (!(error instanceof DataError)) throw error
    // without its head: a line a problem
    const problems = error.detail.split("\n").slice(1).map((line) => line.trim())
    return `arms: ${arm.name}: ${problems.join("; ")}`
  }
}
