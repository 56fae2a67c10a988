/** What `memsinks pretrain` is told, and the arms that follow from it. */
import type * as FileSystem from "@effect/platform/FileSystem"
import type * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { InitialModel } from "../../src/checkpoints/Import.ts"
import { configuration, MOST_SEEDS, natural, positive, upTo, withDefault } from "../../src/Config.ts"
import { DataConfig } from "../../src/data/stream/DataStream.ts"
import * as TokenShards from "../../src/data/tokens/TokenShards.ts"
import { CheckpointError } from "../../src/Errors.ts"
import { huggingFaceConfig } from "../../src/model/HuggingFace.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as Sink from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { TrainConfig } from "../../src/train/Trainer.ts"

export const ArmName = Schema.Literal("standard", "sinks", "standardActiveWidth", "deduplicated")

/** Everything a pretraining comparison depends on. Its defaults are the run that `npm start` makes. */
export class PretrainConfig extends configuration(Schema.Class<PretrainConfig>("PretrainConfig")({
  /** What to train on. */
  data: withDefault(DataConfig, () =>
    new DataConfig({
      batchSize: 8,
      repeatedSequences: 8,
      repeats: 80,
      singleSequences: 1536,
      heldOutSequences: 128
    })),
  /** The sink model. The standard model is the same without its pool. The vocabulary follows the tokenizer. */
  model: withDefault(ModelConfig, () => demoModel),
  /** How long and how to train. */
  training: withDefault(TrainConfig, () =>
    new TrainConfig({
      optimizer: new OptimizerConfig({ learningRate: 1e-2, sinks: "lazy", sinkLearningRateRatio: 4 }),
      evalSequences: 16
    })),
  /**
   * The folder of a run, a checkpoint, an imported model or a plain Llama, whose weights the one arm starts from; the
   * optimizer starts afresh, and `model` is the model's own shape. Default: initial weights drawn from the seed.
   */
  initialFrom: Schema.optional(Schema.NonEmptyString),
  /** Type of activations: `f16` needs an adapter that has it. Default f32. */
  precision: withDefault(Schema.Literal("f32", "f16"), () => "f32" as const),
  /** Keep less and compute each block once more on the way back. Default false. */
  recompute: withDefault(Schema.Boolean, () => false),
  /**
   * What to train. `standard`: without the pool; `sinks`: the model; `standardActiveWidth`: without a pool, as wide as
   * what the sink model has on for a token; `deduplicated`: `standard` on every repeated sequence once. Default: on text,
   * `standard`, `sinks` and `deduplicated`, a comparison; on token shards the model alone.
   */
  arms: Schema.optional(Schema.NonEmptyArray(ArmName)),
  /** Evaluations along training, for the curves. Default 6. */
  evaluations: withDefault(natural, 6),
  /** How many of the last checkpoints of an arm stay, besides the best and those of `saveLogSpaced`. Default 2. */
  keepCheckpoints: withDefault(Schema.Union(positive, Schema.Literal("all")), () => 2),
  /** Tokens of a repeated sequence that are given before it must continue verbatim. Default 16. */
  promptTokens: withDefault(positive, () => 16),
  /** How many seeds to run; the first is `data.seed`. Default 1. */
  seeds: withDefault(upTo(MOST_SEEDS), 1)
})) {}

/** Two layers of width 32 with 96 general neurons and 8,192 sinks, of which a sequence lights 32. */
const demoModel = new ModelConfig({
  vocabSize: 256,
  hiddenSize: 32,
  numHiddenLayers: 2,
  numAttentionHeads: 2,
  intermediateSize: 96 + 8192,
  sinks: new Sink.SinkConfig({ pool: 8192, active: 32 })
})

/** What is wrong with a configuration. */
export const problem = (detail: string) => new CheckpointError({ reason: "Mismatch", path: "config", detail })

/** An arm of one seed. */
export interface ArmPlan {
  readonly name: string
  readonly model: ModelConfig
  readonly data: DataConfig
}

/** The sink model's config with the pool taken out and `width` neurons left. */
const withoutSinks = (c: ModelConfig, width: number): ModelConfig => {
  const { sinks: _, ...rest } = c
  return new ModelConfig({ ...rest, intermediateSize: width })
}

/** The arms that a configuration asks for. */
export const armNames = (config: PretrainConfig): Effect.Effect<
  ReadonlyArray<typeof ArmName.Type>,
  CheckpointError,
  FileSystem.FileSystem | Path.Path
> =>
  Effect.gen(function*() {
    // token shards are a corpus to train on, text an experiment to compare arms in
    const tokens = yield* Effect.exists([config.data.data ?? []].flat(), (path) => TokenShards.isTokens(path))
    const alone = config.model.sinks === undefined ? "standard" : "sinks"
    const usual = tokens || alone === "standard" ? [alone] as const : ["standard", "sinks", "deduplicated"] as const
    const names = config.arms ?? usual
    const twice = names.find((name, i) => names.indexOf(name) !== i)
    if (twice !== undefined) return yield* problem(`arms names ${twice} twice: leave one out`)
    if (config.model.sinks === undefined && names.some((name) => name === "sinks" || name === "standardActiveWidth")) {
      return yield* problem("model.sinks is missing: set it, or set arms to [standard]")
    }
    if (names.includes("standard") && names.includes("sinks") && !tokens && config.data.repeatedSequences === 0) {
      return yield* problem("data.repeatedSequences must be at least 1: without repeats nothing is memorized")
    }
    return names
  })

/** That a model to start from is the one that is configured, and there is one arm to start. */
export const checkInitial = (config: PretrainConfig, names: ReadonlyArray<string>,
  initial: Pick<InitialModel, "config" | "path">) =>
{
  if (names.length > 1) {
    return problem(`initialFrom starts one arm, and there are ${names.join(", ")}: set arms to the one to go on with`)
  }
  // with every default spelled out
  const [asked, there] = [config.model, initial.config].map((c) => JSON.stringify(huggingFaceConfig(c)))
  return asked === there ? Effect.void : problem(
    `model is not the one of initialFrom (${initial.path}): leave model out on the command line, or set it to\n` +
      JSON.stringify(Schema.encodeSync(ModelConfig)(initial.config))
  )
}

/** The arms of one seed, in the order they run. */
export const armsOf = (
  config: PretrainConfig,
  names: ReadonlyArray<typeof ArmName.Type>,
  vocabSize: number,
  seed: number
): ReadonlyArray<ArmPlan> => {
  const model = new ModelConfig({ ...config.model, vocabSize })
  const data = new DataConfig({ ...config.data, seed })
  const standard = withoutSinks(model, model.general)
  const plans: Record<typeof ArmName.Type, Omit<ArmPlan, "name">> = {
    standard: { model: standard, data },
    sinks: { model, data },
    standardActiveWidth: { model: withoutSinks(model, model.activeSize), data },
    deduplicated: { model: standard, data: new DataConfig({ ...data, arm: "deduplicated" }) }
  }
  return names.map((name) => ({ name, ...plans[name] }))
}

/** A run may go on for more steps than it was begun with. */
export const longerTraining = (field: string, now: unknown, was: unknown): boolean => {
  const stepsOf = (config: unknown) => (config as { readonly training?: { readonly steps?: number } }).training?.steps
  return field === "training.steps" && (stepsOf(now) ?? 0) > (stepsOf(was) ?? 0)
}
