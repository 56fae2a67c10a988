/**
 * What an isolation experiment depends on: the data, the sink model, the arms, the post-hoc methods, the checks.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { configuration, decodeConfig, fraction, MOST_SEEDS, natural, nearest, positive, rate, twice, upTo,
  withDefault } from "../../src/Config.ts"
import { DataConfig } from "../../src/data/stream/DataConfig.ts"
import { DataError } from "../../src/Errors.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { SinkConfig } from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { TrainConfig } from "../../src/train/Trainer.ts"
import { armNames, type NamedArm, ORACLE, shapeProblem, STANDARD, useless, Variant } from "../experiment/Arms.ts"
import { AttackConfig, type AttackMethod, attackMethod, attackNames } from "./AttackConfig.ts"
import { LocalizerConfig, type LocalizerMethod, localizerMethod, localizerNames, UnlearnerConfig, type UnlearnerMethod,
  unlearnerMethod, unlearnerNames } from "./Sweeps.ts"
import { GateConfig } from "./Verdict.ts"
import { textWorld, WorldConfig } from "./World.ts"

/** Everything that an isolation experiment depends on. Its defaults are the experiment of `npm run isolate`. */
export class IsolateConfig extends configuration(Schema.Class<IsolateConfig>("IsolateConfig")({
  /** What is trained on and scored. */
  world: withDefault(WorldConfig, () => textWorld),
  /** The sink model. The vocabulary follows the data. */
  model: withDefault(ModelConfig, () => miniature),
  /** How to train; all arms take as many steps: one epoch of the repeated data, unless `steps` says otherwise. */
  training: withDefault(TrainConfig, () =>
    new TrainConfig({
      optimizer: new OptimizerConfig({ learningRate: 7e-3, sinks: "lazy", sinkLearningRateRatio: 4 }),
      evalSequences: 16
    })),
  /** Names of arms, and variants of them. */
  arms: withDefault(Schema.NonEmptyArray(Schema.Union(Schema.NonEmptyString, Variant)), () => armNames),
  /** The arm or method that the verdict at the head is about. Default: `sinks`, else the last of the arms. */
  subject: Schema.optional(Schema.NonEmptyString),
  /** Seeds; the first is that of the world's data. Intervals need at least 2. Default 3. */
  seeds: withDefault(upTo(MOST_SEEDS), () => 3),
  /** Report intervals over seeds. Default true; a single seed is refused unless it is false. */
  intervals: withDefault(Schema.Boolean, () => true),
  /**
   * Localizers that are tried on the standard model, by name or with options of their own, each of which may be a list that
   * is swept: `{ localizer: hardConcrete, learningRate: [0.001, 0.01] }`. Default: all of them.
   */
  localizers: withDefault(Schema.Array(Schema.Union(Schema.NonEmptyString, LocalizerConfig)), () => localizerNames),
  /** Shares of each layer's neurons that are dropped in turn. */
  fractions: withDefault(Schema.NonEmptyArray(fraction), () => [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4] as const),
  /**
   * Unlearners that are tried on the standard model: by name, swept over what its authors sweep, or with options of their
   * own, each of which may be a list: `{ unlearner: rmu, alpha: [1, 3, 10], layer: [0, 1], rates: [0.001] }`. The stopping
   * rule chooses among all settings. Default: all of them.
   */
  unlearners: withDefault(Schema.Array(Schema.Union(Schema.NonEmptyString, UnlearnerConfig)), () => unlearnerNames),
  /** Learning rates of each unlearner that names none of its own. Default: those of each one's sweep. */
  unlearnRates: Schema.optional(Schema.NonEmptyArray(rate)),
  /** Steps of an unlearner at most; it is looked at after 1, 2, 4, 8, ... of them. Default 64. */
  unlearnSteps: withDefault(positive, () => 64),
  /** Sequences to forget a step, and as many to retain; also those of a step of relearning. Default 4. */
  unlearnBatchSize: withDefault(positive, () => 4),
  /** Learning rates of relearning; the worst case counts. */
  relearnRates: withDefault(Schema.NonEmptyArray(rate), () => [5e-4, 2e-3] as const),
  /** Steps of relearning at most. Default 64. */
  relearnSteps: withDefault(positive, () => 64),
  /** Share of the memory of the other half that counts as back. Default 0.5. */
  relearnBack: withDefault(fraction, () => 0.5),
  /**
   * Attacks on every model in every state of its sinks, by name or with options of their own:
   * `{ attack: shortestContext, length: 16, states: [off] }`. Default: none.
   */
  attacks: withDefault(Schema.Array(Schema.Union(Schema.NonEmptyString, AttackConfig)), () => []),
  /** Given tokens, after which a sequence must be continued verbatim to its end. Default: 16 and half of a sequence. */
  contexts: Schema.optional(Schema.NonEmptyArray(positive)),
  /** Let the models continue the repeated sequences themselves, for edit distance and BLEU. Default true. */
  generate: withDefault(Schema.Boolean, () => true),
  /** Other ids whose sinks are lit besides a sequence's own, in turn. Default 1, 10, 100. */
  interference: withDefault(Schema.Array(positive), () => [1, 10, 100] as const),
  /** Evaluations along training, for the learning curves. Default 16. */
  evaluations: withDefault(natural, () => 16),
  /** When the verdict is `isolated`. */
  gate: withDefault(GateConfig, () => new GateConfig({})),
  /** Type of activations. Default f32. */
  precision: withDefault(Schema.Literal("f32", "f16"), () => "f32" as const)
})) {}

/** Two layers of width 64 with 192 general neurons and 2,048 sinks, of which a sequence lights 32. */
const miniature = new ModelConfig({
  vocabSize: 256,
  hiddenSize: 64,
  numHiddenLayers: 2,
  numAttentionHeads: 2,
  intermediateSize: 192 + 2048,
  sinks: new SinkConfig({ pool: 2048, active: 32 })
})

/** Experiments by size. */
export const presets = {
  /** Every arm and method. */
  full: new IsolateConfig({}),
  /** A few of each, small enough for two cores and a software adapter. */
  quick: new IsolateConfig({
    world: {
      world: "text",
      data: new DataConfig({
        batchSize: 8,
        repeat: [{ sequences: 12, times: 72 }, { sequences: 4, times: 6 }],
        singleSequences: 384,
        heldOutSequences: 128
      })
    },
    model: new ModelConfig({
      vocabSize: 256,
      hiddenSize: 32,
      numHiddenLayers: 2,
      numAttentionHeads: 2,
      intermediateSize: 96 + 2048,
      sinks: new SinkConfig({ pool: 2048, active: 32 })
    }),
    training: new TrainConfig({
      optimizer: new OptimizerConfig({ learningRate: 1e-2, sinks: "lazy", sinkLearningRateRatio: 4 }),
      evalSequences: 16
    }),
    arms: ["standard", "neverRepeated", "sinks", "goldfish"],
    localizers: ["integratedGradients"],
    unlearners: [{ unlearner: "npo" }],
    unlearnRates: [1e-3],
    unlearnSteps: 32,
    relearnRates: [1e-3],
    relearnSteps: 32,
    evaluations: 8,
    interference: [1, 10]
  })
} as const

/** A configuration whose names are all known. */
export interface Plan {
  readonly config: IsolateConfig
  readonly arms: ReadonlyArray<NamedArm>
  readonly localizers: ReadonlyArray<LocalizerMethod>
  readonly unlearners: ReadonlyArray<UnlearnerMethod>
  readonly attacks: ReadonlyArray<AttackMethod>
  readonly subject: string
}

const unknown = (what: string, name: string, known: ReadonlyArray<string>): string | undefined => {
  if (known.includes(name)) return undefined
  const meant = nearest(name, known)
  return `${what}: there is no ${JSON.stringify(name)}` +
    (meant === undefined ? `; known: ${known.join(", ")}` : `. Did you mean ${meant}?`)
}

/** Decodes a configuration and checks what its fields ask of each other. Fails with one DataError, before any training. */
export const planOf = (input: unknown): Effect.Effect<Plan, DataError> =>
  Effect.gen(function*() {
    const config = input instanceof IsolateConfig ? input : yield* decodeConfig(IsolateConfig, input)
    const arms = config.arms.map((arm) => typeof arm === "string" ? { arm, name: arm } : arm)
    const names = arms.map(({ name }) => name)
    const { unlearnBatchSize: batchSize, unlearnRates: rates, unlearnSteps: steps } = config
    const unknownMethods = [
      ...config.localizers.map((one) =>
        unknown("localizers", typeof one === "string" ? one : one.localizer, localizerNames)
      ),
      ...config.unlearners.map((one) =>
        unknown("unlearners", typeof one === "string" ? one : one.unlearner, unlearnerNames)
      )
    ].filter((problem) => problem !== undefined)
    const tried = unknownMethods.length > 0 ? [] : [
      ...config.localizers.map(localizerMethod),
      ...config.unlearners.map((one) => unlearnerMethod(one, { rates, steps, batchSize }, config.model))
    ]
    const methods = tried.filter((one) => typeof one !== "string")
    const postHoc = methods.map(({ name }) => name)
    const subject = config.subject ?? (names.includes("sinks") ? "sinks" : names.at(-1)!)
    const repeated = twice([...names, ...postHoc])
    const unknownAttacks = config.attacks.flatMap((one) =>
      unknown("attacks", typeof one === "string" ? one : one.attack, attackNames) ?? []
    )
    const attacked = unknownAttacks.length > 0 ? [] : config.attacks.map(attackMethod)
    const attacks = attacked.filter((one) => typeof one !== "string")
    const sameAttack = twice(attacks.map(({ name }) => name))
    const problems = [
      ...arms.map(({ arm }) => unknown("arms", arm, armNames)),
      ...arms.map(useless),
      ...unknownMethods,
      ...tried.filter((one) => typeof one === "string"),
      repeated === undefined
        ? undefined
        : `${JSON.stringify(repeated)} is named twice: leave one out, or give it another name`,
      unknownMethods.length > 0 ? undefined : unknown("subject", subject, [...names, ...postHoc]),
      ...unknownAttacks,
      ...attacked.filter((one) => typeof one === "string"),
      sameAttack === undefined
        ? undefined
        : `attacks: ${JSON.stringify(sameAttack)} is named twice: leave one out, or give it another name`,
      ...(unknownMethods.length > 0 ?
        [] :
        attacks.flatMap(({ models = [], name }) =>
          models.map((model) => unknown(`attacks: ${name}: models`, model, [...names, ...postHoc]))
        )),
      config.intervals && config.seeds < 2
        ? `seeds is ${config.seeds}: an interval needs at least 2. Raise seeds, or set intervals to false`
        : undefined,
      config.model.sinks === undefined
        ? "model.sinks is missing: an isolation experiment is about a model with sinks"
        : config.model.sinks.problem,
      ...arms.map((arm) => shapeProblem(config.model, arm)),
      ...[STANDARD, ORACLE].map((name) =>
        names.includes(name) ? undefined : `arms: ${name} is missing: recovery is measured between ` +
          `${STANDARD} and ${ORACLE}, and post-hoc methods start from ${STANDARD}. Add it`
      )
    ].filter((problem) => problem !== undefined)
    if (problems.length > 0) {
      return yield* new DataError({
        detail: ["the experiment cannot be made:", ...problems.map((p) => `  ${p}`)].join("\n")
      })
    }
    return {
      config,
      arms: arms as ReadonlyArray<NamedArm>,
      localizers: methods.slice(0, config.localizers.length) as ReadonlyArray<LocalizerMethod>,
      unlearners: methods.slice(config.localizers.length) as ReadonlyArray<UnlearnerMethod>,
      attacks,
      subject
    }
  })
