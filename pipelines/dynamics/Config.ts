/**
 * What a forgetting experiment depends on: the data, which of it is shown when, the models, what is probed.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { configuration, decodeConfig, fraction, MOST_SEEDS, natural, nearest, positive, twice, upTo,
  withDefault } from "../../src/Config.ts"
import { DataConfig } from "../../src/data/stream/DataConfig.ts"
import { type Showing, showingProblem } from "../../src/data/stream/Timetable.ts"
import { DataError } from "../../src/Errors.ts"
import { FoilKind } from "../../src/measures/Foils.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { SinkConfig } from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { TrainConfig } from "../../src/train/Trainer.ts"
import { armNames, type NamedArm, shapeProblem, useless, Variant } from "../experiment/Arms.ts"
import { MaskState } from "./Report.ts"

/** Sequences that are shown alike: when, and how often. */
export const GroupConfig = Schema.Struct({
  /** What the report calls it. */
  name: Schema.NonEmptyString,
  /** How many sequences. */
  sequences: positive,
  /** Exposures of each; or `every`. */
  exposures: Schema.optional(positive),
  /** Steps between two exposures of a sequence; or `exposures`. */
  every: Schema.optional(positive),
  /**
   * The exposures come in so many blocks: as many as exposures (default) are spaced, 1 is massed, in between are cycles
   * of study and rest.
   */
  blocks: Schema.optional(positive),
  /** Shown from this share of training on. Default 0. */
  from: withDefault(fraction, () => 0),
  /** And up to this one; from there on it is never shown again, and what is left of it is retention. Default 1. */
  until: withDefault(fraction, () => 1),
  /** Probe just before and just after each block of exposures. Default: where there are several, and they go on to the end or come in cycles. */
  teeth: Schema.optional(Schema.Boolean)
})
export type GroupConfig = typeof GroupConfig.Type

/** An arm as isolation checks know it; or with another learning rate, or other data behind the last exposures. */
export const DynamicsVariant = Schema.Struct({
  ...Variant.fields,
  /**
   * From when the first withheld group is left alone, the background is the half of its sequences that is most, or least,
   * similar to the withheld ones (by the share of its pairs of neighbouring tokens that they have, too).
   */
  intervening: Schema.optional(Schema.Literal("similar", "different"))
})
export type DynamicsVariant = typeof DynamicsVariant.Type

/** Everything that a forgetting experiment depends on. Its defaults are the experiment of `npm run dynamics`. */
export class DynamicsConfig extends configuration(Schema.Class<DynamicsConfig>("DynamicsConfig")({
  /**
   * The corpus; `singleSequences` fill the steps' other rows, of `heldOutSequences` foils and held-out loss are taken.
   * What is repeated is said by `groups`. `seed` is the first of the experiment's seeds.
   */
  data: withDefault(DataConfig, () => corpus),
  /** The sink model. The vocabulary follows the data. */
  model: withDefault(ModelConfig, () => miniature(64)),
  /** How to train. `steps` must be given; `gradientAccumulation` must be 1. */
  training: withDefault(TrainConfig, () => training(640, 7e-3)),
  /** What is shown when. */
  groups: withDefault(Schema.NonEmptyArray(GroupConfig), () => groups),
  /** Names of arms, and variants of them. */
  arms: withDefault(
    Schema.NonEmptyArray(Schema.Union(Schema.NonEmptyString, DynamicsVariant)),
    () => ["standard", "sinks", "untied"] as const
  ),
  /** Seeds; the first is that of the data. Intervals need at least 2. Default 3. */
  seeds: withDefault(upTo(MOST_SEEDS), () => 3),
  /** Report intervals over seeds. Default true; a single seed is refused unless it is false. */
  intervals: withDefault(Schema.Boolean, () => true),
  /** States in which a model with sinks is probed; one without has `own` alone. Default own and off. */
  masks: withDefault(Schema.NonEmptyArray(MaskState), () => ["own", "off"] as const),
  /** Probe everything every so many steps, besides steps that exposures and retention ask for. Default 16. */
  probeEvery: withDefault(positive, () => 16),
  /** Held-out sequences that are probed: foils of recognition, and the ground that memory is measured from. Default 32. */
  foils: withDefault(positive, () => 32),
  /**
   * Of text: foils by rule that withheld sequences are told from, too, as they age: see `Foils`. Default: none, sequences are
   * told from held-out ones.
   */
  recognition: Schema.optional(Schema.NonEmptyArray(FoilKind)),
  /** Background sequences that are probed. Default 16. */
  backgroundProbes: withDefault(natural, () => 16),
  /** Tokens given before recall and recitation count. Default 16. */
  promptTokens: withDefault(positive, () => 16),
  /** Points along training at which norms of weights and shares of logits are taken; 0: none. Default 10. */
  accumulation: withDefault(natural, () => 10),
  /** Sequences of a group whose logits are taken apart, at most. Default 2. */
  decomposed: withDefault(positive, () => 2),
  /** Steps behind the last exposure of each withheld group in which gradients are compared; 0: none. Default 16. */
  interference: withDefault(natural, () => 16),
  /** Look at what single sinks hold when training ends. Default true. */
  contents: withDefault(Schema.Boolean, () => true),
  /** Resamplings of sequences behind an interval of a half-life. Default 200. */
  resamples: withDefault(upTo(1e6), () => 200),
  /** Type of activations. Default f32. */
  precision: withDefault(Schema.Literal("f32", "f16"), () => "f32" as const)
})) {}

/** Two layers with 3 general neurons a dimension and 2,048 sinks, of which a sequence lights 32. */
const miniature = (hiddenSize: number) =>
  new ModelConfig({
    vocabSize: 256,
    hiddenSize,
    numHiddenLayers: 2,
    numAttentionHeads: 2,
    intermediateSize: 3 * hiddenSize + 2048,
    sinks: new SinkConfig({ pool: 2048, active: 32 })
  })

const training = (steps: number, learningRate: number) =>
  new TrainConfig({
    steps,
    // a rate that falls would slow forgetting down, too
    optimizer: new OptimizerConfig({ learningRate, schedule: "constant", sinks: "lazy", sinkLearningRateRatio: 4 }),
    saveLogSpaced: true,
    saveEvery: 1000
  })

const corpus = new DataConfig({ batchSize: 8, singleSequences: 2048, heldOutSequences: 256 })

const groups: readonly [GroupConfig, ...ReadonlyArray<GroupConfig>] = [
  { name: "every 10", sequences: 4, every: 10, from: 0, until: 1 },
  { name: "every 40", sequences: 4, every: 40, from: 0, until: 1 },
  { name: "k=48", sequences: 6, exposures: 48, from: 0, until: 0.5 },
  { name: "k=16", sequences: 6, exposures: 16, from: 0, until: 0.5 },
  { name: "k=4", sequences: 6, exposures: 4, from: 0, until: 0.5 },
  { name: "massed 16", sequences: 6, exposures: 16, blocks: 1, from: 0, until: 0.5 },
  { name: "cycles", sequences: 4, exposures: 48, blocks: 4, from: 0, until: 1 }
]

/** Experiments by size. */
export const presets = {
  /** All five experiments. */
  full: new DynamicsConfig({}),
  /** Saw-teeth, retention and accumulation, small enough for two cores and a software adapter. */
  quick: new DynamicsConfig({
    data: new DataConfig({ ...corpus, singleSequences: 1024, heldOutSequences: 64 }),
    model: miniature(32),
    training: training(280, 1e-2),
    groups: [
      { name: "every 8", sequences: 4, every: 8, from: 0, until: 1 },
      { name: "k=48", sequences: 6, exposures: 48, from: 0, until: 0.5 },
      { name: "k=12", sequences: 6, exposures: 12, from: 0, until: 0.5 }
    ],
    arms: ["standard", "sinks"],
    probeEvery: 16,
    foils: 12,
    backgroundProbes: 4,
    accumulation: 5,
    interference: 0,
    contents: false
  })
} as const

/** An arm of the experiment, with what is different about it. */
export interface DynamicsArm extends NamedArm, Pick<DynamicsVariant, "intervening"> {}

/** A group, in steps. */
export interface PlannedGroup extends GroupConfig {
  readonly showing: Showing
  /** Left alone for at least an eighth of training. */
  readonly withheld: boolean
  readonly teeth: boolean
}

/** A configuration that makes an experiment. */
export interface Plan {
  readonly config: DynamicsConfig
  readonly arms: ReadonlyArray<DynamicsArm>
  readonly steps: number
  readonly groups: ReadonlyArray<PlannedGroup>
}

/** Names that groups of the pipeline's own have. */
export const FOILS = "foils"
export const BACKGROUND = "background"
export const RULED = "foils by rule"

const planGroup = (group: GroupConfig, steps: number): PlannedGroup | string => {
  const { blocks, every, from, name, until } = group
  const [first, end] = [Math.round(from * steps), Math.round(until * steps)]
  if (end <= first) return `groups: ${name}: from ${from} to until ${until} is no time at all: until must be later`
  if ((group.exposures === undefined) === (every === undefined)) {
    return `groups: ${name}: give either exposures or every, got ${every === undefined ? "neither" : "both"}`
  }
  if (every !== undefined && every > end - first) {
    return `groups: ${name}: every is ${every} steps, but it is shown between steps ${first} and ${end} of ${steps}: ` +
      "lower every, or raise training.steps"
  }
  const exposures = group.exposures ?? Math.floor((end - first) / every!)
  const showing: Showing = { exposures, first, end, ...(blocks === undefined ? {} : { blocks }) }
  const problem = showingProblem(showing)
  if (problem !== undefined) return `groups: ${name}: ${problem}`
  const withheld = steps - end >= steps / 8
  const cycles = blocks !== undefined && blocks > 1 && blocks < exposures
  return { ...group, showing, withheld, teeth: group.teeth ?? (exposures > 1 && (cycles || !withheld)) }
}

/** Decodes a configuration and checks what its fields ask of each other. Fails with one DataError, before any training. */
export const planOf = (input: unknown): Effect.Effect<Plan, DataError> =>
  Effect.gen(function*() {
    const config = input instanceof DynamicsConfig ? input : yield* decodeConfig(DynamicsConfig, input)
    const arms = config.arms.map((arm) => typeof arm === "string" ? { arm, name: arm } : arm)
    const steps = config.training.steps ?? 0
    const planned = steps === 0 ? [] : config.groups.map((group) => planGroup(group, steps))
    const groups = planned.filter((group) => typeof group !== "string")
    const groupNames = [...config.groups.map(({ name }) => name), FOILS, BACKGROUND, RULED]
    const repeatedArm = twice(arms.map(({ name }) => name))
    const repeatedGroup = twice(groupNames)
    const sinkless = config.model.sinks === undefined
    const problems = [
      steps === 0 ? "training.steps is missing: groups are shown at shares of it" : undefined,
      config.training.gradientAccumulation !== 1
        ? `training.gradientAccumulation is ${config.training.gradientAccumulation}, but exposures are counted in steps of ` +
          "one batch: leave it out, and raise data.batchSize"
        : undefined,
      config.training.routing === undefined ? undefined : "training.routing is not for this experiment: leave it out",
      ...arms.map(({ arm }) => {
        if ((armNames as ReadonlyArray<string>).includes(arm)) return undefined
        const meant = nearest(arm, armNames)
        return `arms: there is no ${JSON.stringify(arm)}` +
          (meant === undefined ? `; known: ${armNames.join(", ")}` : `. Did you mean ${meant}?`)
      }),
      ...arms.map(useless),
      ...arms.filter(({ arm }) =>
        ["neverRepeated", "deduplicated", "goldfish", "lossMasking", "gradientMasking", "sgtm", "sgtmHeads", "fused"]
          .includes(arm)
      )
        .map(({ arm }) =>
          `arms: ${arm} changes which sequences are shown or count, and here the groups say that: leave it out`
        ),
      repeatedArm === undefined
        ? undefined
        : `arms: ${JSON.stringify(repeatedArm)} is named twice: give one another name`,
      repeatedGroup === undefined
        ? undefined
        : `groups: ${JSON.stringify(repeatedGroup)} is named twice, or a name of the pipeline's own: choose another`,
      ...planned.filter((group) => typeof group === "string"),
      config.intervals && config.seeds < 2
        ? `seeds is ${config.seeds}: an interval needs at least 2. Raise seeds, or set intervals to false`
        : undefined,
      config.data.arm !== "repeats"
        ? `data.arm is "${config.data.arm}", but the arms say that: leave it out`
        : undefined,
      sinkless
        ? "model.sinks is missing: the experiment compares models with sinks to one without"
        : config.model.sinks!.problem,
      ...(sinkless ? [] : arms.map((arm) => shapeProblem(config.model, arm))),
      config.probeEvery > steps && steps > 0
        ? `probeEvery is ${config.probeEvery}, but the run has ${steps} steps: lower it`
        : undefined,
      config.promptTokens >= config.data.seqLen
        ? `promptTokens is ${config.promptTokens}, but a sequence has ${config.data.seqLen + 1} tokens: lower it`
        : undefined,
      config.data.heldOutSequences !== undefined && config.data.heldOutSequences < config.foils
        ? `foils is ${config.foils}, but data.heldOutSequences is ${config.data.heldOutSequences}: probes must be in the data`
        : undefined,
      typeof config.data.singleSequences === "number" && config.data.singleSequences < config.backgroundProbes
        ? `backgroundProbes is ${config.backgroundProbes}, but data.singleSequences is ${config.data.singleSequences}: ` +
          "probes must be in the data"
        : undefined
    ].filter((problem) => problem !== undefined)
    if (problems.length > 0) {
      return yield* new DataError({
        detail: ["the experiment cannot be made:", ...problems.map((p) => `  ${p}`)].join("\n")
      })
    }
    return { config, arms: arms as ReadonlyArray<DynamicsArm>, steps, groups }
  })
