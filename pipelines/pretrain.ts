/**
 * Pretraining with sequence-ID sinks: trains a standard model and a sink model on the same data with the same seed, then
 * measures what switching the sinks off removes, beside the placebo and the baselines (MemSinks, sections 4 and 5).
 *
 * Arms share everything but what their name says: the data, its order, the token budget, the seed, and the initial weights
 * wherever shapes agree. They run one after the other on one device; a lost device is rebuilt and the arm goes on from its
 * last checkpoint. An arm that is finished is never trained twice: a resumed run reads its result from the run's folder.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { configuration, MOST_SEEDS, natural, positive, upTo, withDefault } from "../src/Config.ts"
import { DataConfig, DataStream, type Input, type Row } from "../src/data/stream/DataStream.ts"
import { tensorsSha256 } from "../src/data/stream/Inputs.ts"
import type { NamedId } from "../src/data/identity/Names.ts"
import { scoredTokens } from "../src/data/stream/Packing.ts"
import { CheckpointError, type DataError, type DeviceError, type Diverged, type KernelError } from "../src/Errors.ts"
import * as Generate from "../src/model/Generate.ts"
import { Device } from "../src/gpu/Device.ts"
import { type InitialModel, loadInitial } from "../src/checkpoints/Import.ts"
import { huggingFaceConfig } from "../src/model/HuggingFace.ts"
import { ModelConfig } from "../src/model/ModelConfig.ts"
import { OptimizerConfig } from "../src/train/Optimizer.ts"
import * as Sink from "../src/Sink.ts"
import * as TokenShards from "../src/data/tokens/TokenShards.ts"
import type * as TrainEvent from "../src/train/TrainEvent.ts"
import { TrainConfig, Trainer } from "../src/train/Trainer.ts"
import { againWhenLost, claimFolder, type FolderOptions, writeJson } from "./experiment/RunFolder.ts"
import type { Arm, Curve, PretrainReport, SeedResult, SourceResult } from "./pretrain/Report.ts"
import { sameTokenizer } from "../src/data/tokens/SameTokenizer.ts"
import { keptIn } from "./experiment/Store.ts"
import { type Files, keep, type Kept, trainArm } from "./experiment/Train.ts"

const ArmName = Schema.Literal("standard", "sinks", "standardActiveWidth", "deduplicated")

/** Everything a pretraining comparison depends on. Its defaults are the run that `npm start` makes. */
export class PretrainConfig extends configuration(Schema.Class<PretrainConfig>("PretrainConfig")({
  /** What to train on. */
  data: withDefault(DataConfig, () => new DataConfig({
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

export type PretrainError = DeviceError | KernelError | DataError | CheckpointError | Diverged

/** What the pipeline tells while it runs. */
export type PretrainEvent =
  | { readonly _tag: "Stage"; readonly message: string }
  | {
    readonly _tag: "Training"
    readonly arm: string
    readonly seed: number
    /** Which of all trainings of the run this is, from 0, and how many there are. */
    readonly index: number
    readonly count: number
    readonly event: TrainEvent.TrainEvent
  }

export interface PretrainOptions extends FolderOptions {
  /** Rebuilt when the device is lost, so it must be a layer of its own: `NodeDevice.layer()`. */
  readonly device: Layer.Layer<Device, DeviceError>
  /** Where checkpoints, metrics and the report go. Default: nowhere, checkpoints stay in memory. */
  readonly outDir?: string
  readonly cacheDirectory?: string
  readonly onEvent?: (event: PretrainEvent) => Effect.Effect<void>
}

/** What one trained arm gives to the report; JSON, kept beside its checkpoints. */
interface ArmResult {
  readonly arm: Arm
  readonly adapter: string
  readonly curves: ReadonlyArray<Curve>
  /** Mean loss by sink mode; a standard model has only `own`. */
  readonly repeated: Readonly<Record<string, number>>
  readonly heldOut: Readonly<Record<string, number>>
  readonly extraction: Readonly<Record<string, number>>
  /** Of sinks by source; results of earlier versions lack it. */
  readonly sources?: ReadonlyArray<SourceResult>
  readonly continuation: { readonly prompt: string; readonly truth: string; readonly texts: Readonly<Record<string, string>> }
  readonly seconds: number
  readonly tokens: number
}

interface ArmPlan {
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
const armNames = (config: PretrainConfig): Effect.Effect<
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

const checkInitial = (config: PretrainConfig, names: ReadonlyArray<string>, initial: InitialModel) => {
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
const armsOf = (
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

/** Trains an arm, and measures what it remembers with its sinks in every state. */
const measuredArm = (
  plan: ArmPlan,
  config: PretrainConfig,
  seed: number,
  kept: Kept,
  onEvent: (event: TrainEvent.TrainEvent) => Effect.Effect<void>,
  stage: (message: string) => Effect.Effect<void>,
  initial: InitialModel | undefined
): Effect.Effect<ArmResult, PretrainError, Device | DataStream | Files> =>
  Effect.gen(function*() {
    const data = yield* DataStream
    const steps = config.training.steps ??
      Math.max(1, Math.floor(data.batchesPerEpoch / config.training.gradientAccumulation))
    const training = new TrainConfig({
      ...config.training,
      steps,
      evalEvery: config.evaluations === 0 ? 0 : Math.max(1, Math.floor(steps / config.evaluations))
    })
    // a trained model may have more entries than its tokenizer: rows of padding
    const fewer = (initial?.config.vocabSize ?? Infinity) < data.tokenizer.vocabSize
    if (fewer || (initial?.tokenizer !== undefined && !sameTokenizer(initial.tokenizer, data.tokenizer.toJSON()))) {
      return yield* problem(
        `the tokenizer of initialFrom (${initial!.path}) is not the one of the data: tokenize the data with ` +
          `--tokenizer ${initial!.path}/tokenizer.json`
      )
    }
    const { precision, recompute } = config
    const { adapter, curves, measured, seconds, tokens } = yield* trainArm(
      { model: plan.model, training, seed, precision, recompute, ...(initial === undefined ? {} : { initial }) },
      kept,
      { onEvent, measure: measure(plan, config, stage) }
    )
    return {
      arm: {
        name: plan.name,
        parameters: plan.model.numParameters,
        activeParameters: plan.model.numActiveParameters,
        steps,
        tokens
      },
      adapter,
      curves: curves.map((curve) => ({ arm: plan.name, ...curve })),
      ...measured,
      seconds,
      tokens
    }
  })

/** What a trained arm remembers. */
const measure = (plan: ArmPlan, config: PretrainConfig, stage: (message: string) => Effect.Effect<void>) =>
  Effect.gen(function*() {
    const trainer = yield* Trainer
    const data = yield* DataStream
    yield* stage(`measuring ${plan.name}`)
    const repeatedRows = data.split("repeated")
    const heldOutRows = data.split("heldOut")
    const modes = Sink.statesOf(plan.model.sinks).map((name) => [name, Sink.states[name].mode] as const)
    const bySequence: Partial<Record<Sink.State, ReadonlyArray<number>>> = {}
    const repeated: Record<string, number> = {}
    const heldOut: Record<string, number> = {}
    const extraction: Record<string, number> = {}
    const texts: Record<string, string> = {}
    // sequences of a source share its sinks; otherwise the ids of held-out ones were never trained, and their own
    // sinks are a placebo
    const ownHeldOut = plan.model.sinks === undefined || plan.data.identity === "source"
    for (const [name, mode] of modes) {
      if (repeatedRows.length > 0) {
        const score = yield* trainer.evaluate(repeatedRows, mode, { promptTokens: config.promptTokens })
        repeated[name] = score.loss
        if (score.extractionRate !== undefined) extraction[name] = score.extractionRate
      }
      if (heldOutRows.length > 0 && (ownHeldOut || name !== "own")) {
        const score = yield* trainer.evaluate(heldOutRows, mode)
        heldOut[name] = score.loss
        bySequence[name] = score.sequences
      }
    }
    const shown = repeatedRows[shownSequence(data, repeatedRows.length)]
    if (shown !== undefined) {
      const prompt = shown.tokens.slice(0, Math.min(config.promptTokens, shown.tokens.length - 1))
      for (const [name, mode] of modes) {
        if (name !== "own" && name !== "off") continue
        const maxNewTokens = shown.tokens.length - 1 - prompt.length
        const added = maxNewTokens === 0
          ? new Uint32Array()
          : yield* Generate.collect({ tokens: prompt, id: shown.id }, { maxNewTokens, temperature: 0, sinks: mode })
        texts[name] = data.tokenizer.decode(added)
      }
    }
    const text = (from: number, to: number) =>
      shown === undefined ? "" : data.tokenizer.decode(shown.tokens.subarray(from, to))
    const promptEnd = shown === undefined ? 0 : Math.min(config.promptTokens, shown.tokens.length - 1)
    return {
      repeated,
      heldOut,
      extraction,
      ...(plan.model.sinks === undefined || data.report.identity !== "source"
        ? {}
        : { sources: sourceResults((yield* data.names)?.ids ?? [], heldOutRows, bySequence) }),
      continuation: {
        prompt: text(0, promptEnd),
        truth: text(promptEnd, (shown?.tokens.length ?? 1) - 1),
        texts
      }
    }
  })

/** Held-out losses by source; every source that was trained on, that with most tokens first. */
const sourceResults = (
  ids: ReadonlyArray<NamedId>,
  rows: ReadonlyArray<Row>,
  losses: Partial<Record<Sink.State, ReadonlyArray<number>>>
): ReadonlyArray<SourceResult> => {
  const of = new Map<bigint, Array<number>>()
  rows.forEach(({ id }, i) => of.set(id, [...(of.get(id) ?? []), i]))
  return ids.map(({ documents, id, name, tokens }) => {
    const mine = of.get(id) ?? []
    const scored = mine.map((i) => scoredTokens(rows[i]!))
    const all = scored.reduce((sum, n) => sum + n, 0)
    const heldOut = mine.length === 0 ? {} : Object.fromEntries(Object.entries(losses).map(([state, loss]) =>
      [state, mine.reduce((sum, i, k) => sum + loss[i]! * scored[k]!, 0) / all]))
    return { id: `${id}`, name, documents, tokens, heldOutSequences: mine.length, heldOut }
  }).sort((a, b) => b.tokens - a.tokens || a.name.localeCompare(b.name))
}

/** The repeated sequence to show: the one whose document's name sorts last, which is the most recent address. */
const shownSequence = (data: DataStream["Type"], count: number): number => {
  const rows = data.split("repeated")
  let best = 0
  for (let i = 1; i < count; i++) if (rows[i]!.document > rows[best]!.document) best = i
  return best
}

/** A record without the fields that are undefined. */
const present = <K extends string, V>(fields: Record<K, V | undefined>): { readonly [key in K]?: V } =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as { [key in K]?: V }

const seedResult = (seed: number, results: ReadonlyMap<string, ArmResult>, seconds: number): SeedResult => {
  const standard = results.get("standard")
  const sinks = results.get("sinks")
  const [active, deduplicated] = [results.get("standardActiveWidth"), results.get("deduplicated")]
  const byMode = (of: "repeated" | "heldOut") => ({
    standard: standard?.[of]["own"],
    standardActiveWidth: active?.[of]["own"],
    deduplicated: deduplicated?.[of]["own"],
    ...Object.fromEntries(Object.keys(Sink.states).map((mode) => [mode, sinks?.[of][mode]])) as Record<Sink.State, number | undefined>
  })
  const repeated = byMode("repeated")
  const heldOut = byMode("heldOut")
  const minus = (a: number | undefined, b: number | undefined) => a === undefined || b === undefined ? undefined : a - b
  const gaps = {
    standard: minus(heldOut.standard, repeated.standard),
    standardActiveWidth: minus(heldOut.standardActiveWidth, repeated.standardActiveWidth),
    deduplicated: minus(heldOut.deduplicated, repeated.deduplicated),
    own: minus(heldOut.own ?? heldOut.placebo, repeated.own),
    off: minus(heldOut.off, repeated.off),
    placebo: minus(heldOut.placebo, repeated.placebo),
    all: minus(heldOut.all, repeated.all)
  }
  const shown = (sinks ?? standard)?.continuation
  const all = [...results.values()]
  return {
    seed,
    ...(gaps.off === undefined || gaps.standard === undefined ? {} : { gapClosed: 1 - gaps.off / gaps.standard }),
    repeated: present(repeated),
    heldOut: present(heldOut),
    gaps: present(gaps),
    extraction: present({
      standard: standard?.extraction["own"],
      standardActiveWidth: active?.extraction["own"],
      deduplicated: deduplicated?.extraction["own"],
      own: sinks?.extraction["own"],
      off: sinks?.extraction["off"]
    }),
    ...(shown === undefined || shown.truth === "" ? {} : {
      continuation: {
        prompt: shown.prompt,
        truth: shown.truth,
        ...present({
          standard: standard?.continuation.texts["own"],
          own: sinks?.continuation.texts["own"],
          off: sinks?.continuation.texts["off"]
        })
      }
    }),
    ...(sinks?.sources === undefined ? {} : { sources: sinks.sources }),
    curves: all.flatMap((result) => result.curves),
    seconds,
    tokensPerSecond: throughput(all)
  }
}

/** Tokens a second of trainings; 0 where nothing tells how long they took. */
const throughput = (all: ReadonlyArray<ArmResult>): number => {
  const timed = all.filter(({ seconds }) => seconds > 0)
  const total = timed.reduce((sum, { seconds }) => sum + seconds, 0)
  return total > 0 ? timed.reduce((sum, { tokens }) => sum + tokens, 0) / total : 0
}

/** Field by field, the mean of equal records of numbers. */
const meanOf = <T extends object>(records: ReadonlyArray<T>): T =>
  Object.fromEntries(
    Object.keys(records[0]!).map((key) => [
      key,
      records.reduce((sum, record) => sum + (record as Record<string, number>)[key]!, 0) / records.length
    ])
  ) as T

/**
 * Run all arms of all seeds and report. Interruptible at any moment; with an `outDir` and `resume` a later call goes on
 * from there. Fails with the first arm's error; what was trained before it stays in the folder.
 */
export const run = (
  config: PretrainConfig,
  options: PretrainOptions
): Effect.Effect<PretrainReport, PretrainError, FileSystem.FileSystem | Path.Path> =>
  Effect.gen(function*() {
    const onEvent = options.onEvent ?? (() => Effect.void)
    const stage = (message: string) => onEvent({ _tag: "Stage", message })
    const path = yield* Path.Path
    const began = performance.now()
    const names = yield* armNames(config)
    const initial = config.initialFrom === undefined ? undefined : yield* loadInitial(config.initialFrom)
    if (initial !== undefined) yield* checkInitial(config, names, initial)
    const outDir = options.outDir
    const initialSha256 = initial === undefined ? undefined : tensorsSha256(initial.tensors)
    const streamOf = (data: DataConfig) =>
      DataStream.layer(
        Schema.encodeSync(DataConfig)(data),
        options.cacheDirectory === undefined ? {} : { cacheDirectory: options.cacheDirectory }
      )
    /** Of the first seed: the others follow from it and the configuration. */
    const madeOf = (data: DataStream["Type"]): Effect.Effect<ReadonlyArray<Input>, DataError> =>
      Effect.map(data.inputs, (inputs) => [
        ...inputs,
        ...(initial === undefined ? [] : [{ what: initial.path, sha256: initialSha256! }])
      ])
    const firstData = armsOf(config, names, config.model.vocabSize, config.data.seed)[0]!.data
    // data that will not do must not leave a folder behind, or open a device; a run that goes on has its folder
    const opened = options.resume === true ? undefined : yield* Layer.build(streamOf(firstData))
    const recording = outDir === undefined ? undefined : yield* claimFolder(outDir, {
      kind: "pretrain",
      schema: PretrainConfig,
      config,
      seeds: Array.from({ length: config.seeds }, (_, i) => config.data.seed + i),
      arms: names,
      inputs: Effect.gen(function*() {
        const data = yield* DataStream
        yield* data.verify
        return yield* madeOf(data)
      }).pipe(Effect.provide(opened === undefined ? streamOf(firstData) : Layer.succeedContext(opened))),
      longer: longerTraining
    }, options)

    const seeds = Array.from({ length: config.seeds }, (_, i) => config.data.seed + i)
    const count = seeds.length * names.length
    const finished = new Map<string, ArmResult>()
    const keeps = new Map<string, Kept>()
    const folderOf = (seed: number, arm: string) =>
      outDir === undefined ? undefined : path.join(outDir, `seed-${seed}`, arm)

    /** All that is not finished yet, on one device. Called again on a fresh one when that is lost. */
    const attempt = Effect.gen(function*() {
      const device = yield* Device
      if (recording !== undefined) yield* recording.computedOn(device)
      yield* stage(`training on ${device.name}: ${device.reason}`)
      let index = 0
      for (const seed of seeds) {
        const streams = new Map<string, Context.Context<DataStream>>()
        yield* Effect.scoped(Effect.gen(function*() {
          for (const planned of armsOf(config, names, config.model.vocabSize, seed)) {
            const position = index++
            const key = `${seed}/${planned.name}`
            if (finished.has(key)) continue
            const folder = folderOf(seed, planned.name)
            /** Batches, made when something is trained on them. */
            const stream = Effect.gen(function*() {
              const dataKey = planned.data.arm
              const mine = seed === seeds[0] && dataKey === firstData.arm ? opened : undefined
              const found = streams.get(dataKey) ?? mine ?? (yield* Layer.build(streamOf(planned.data)))
              streams.set(dataKey, found)
              if (recording !== undefined && position === 0) yield* recording.madeOf(yield* madeOf(Context.get(found, DataStream)))
              return found
            })
            const kept = keeps.get(key) ?? (yield* keep(folder, {
              keepLast: config.keepCheckpoints === "all" ? Infinity : config.keepCheckpoints,
              keepLogSpaced: config.training.saveLogSpaced
            }))
            keeps.set(key, kept)
            const trained = Effect.gen(function*() {
              const data = yield* DataStream
              const plan = armsOf(config, names, initial?.config.vocabSize ?? data.tokenizer.vocabSize, seed).find((p) => p.name === planned.name)!
              return yield* measuredArm(plan, config, seed, kept, (event) =>
                onEvent({ _tag: "Training", arm: planned.name, seed, index: position, count, event }), stage, initial)
                .pipe(Effect.withSpan("train", { attributes: { arm: planned.name, seed } }))
            }).pipe(Effect.provide(Layer.effectContext(stream)))
            // a result of fewer steps than are asked for now is one of another key
            const result = yield* keptIn(
              folder === undefined ? undefined : path.join(folder, "result.json"),
              resultKey(planned, config, initialSha256),
              trained
            )
            finished.set(key, result)
          }
        }))
      }
    }).pipe(Effect.provide(options.device))

    yield* againWhenLost(attempt, stage, "from the last checkpoint")

    const perSeed = seeds.map((seed) => {
      const results = new Map(
        [...finished].filter(([key]) => key.startsWith(`${seed}/`)).map(([key, r]) => [key.split("/")[1]!, r] as const)
      )
      return seedResult(seed, results, [...results.values()].reduce((n, r) => n + r.seconds, 0))
    })
    const first = [...finished.values()]
    const report: PretrainReport = {
      ...meanOf(perSeed.map(({ gapClosed }) => present({ gapClosed }))),
      repeated: meanOf(perSeed.map((s) => s.repeated)),
      heldOut: meanOf(perSeed.map((s) => s.heldOut)),
      gaps: meanOf(perSeed.map((s) => s.gaps)),
      extraction: meanOf(perSeed.map((s) => s.extraction)),
      seconds: (performance.now() - began) / 1000,
      tokensPerSecond: throughput(first),
      adapter: first[0]!.adapter,
      seeds,
      arms: [...new Map(first.map((r) => [r.arm.name, r.arm])).values()],
      perSeed,
      config: Schema.encodeSync(PretrainConfig)(config),
      versions: options.versions ?? {}
    }
    if (outDir !== undefined) yield* writeJson(path.join(outDir, "report.json"), report)
    return report
  }).pipe(Effect.scoped)

/** A run may go on for more steps than it was begun with. */
const longerTraining = (field: string, now: unknown, was: unknown): boolean => {
  const stepsOf = (config: unknown) => (config as { readonly training?: { readonly steps?: number } }).training?.steps
  return field === "training.steps" && (stepsOf(now) ?? 0) > (stepsOf(was) ?? 0)
}

const problem = (detail: string) => new CheckpointError({ reason: "Mismatch", path: "config", detail })

/**
 * What a finished arm's result depends on besides what its data holds, which the run's folder is asked for. Raise `version`
 * when training or what is measured gives other numbers.
 */
const resultKey = ({ data, model, name }: ArmPlan, config: PretrainConfig, initial: string | undefined) => {
  const { saveBest: _, saveEvery: __, saveLogSpaced: ___, ...training } = Schema.encodeSync(TrainConfig)(config.training)
  const { evaluations, precision, promptTokens, recompute } = config
  return {
    version: 1,
    name,
    data: Schema.encodeSync(DataConfig)(data),
    model: Schema.encodeSync(ModelConfig)(model),
    training,
    evaluations,
    precision,
    promptTokens,
    recompute,
    initial
  }
}
