/** Training one arm of a comparison, and measuring what it remembers: a job. */
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { type InitialModel, loadInitial } from "../../src/checkpoints/Import.ts"
import { Collective } from "../../src/collective/Collective.ts"
import type { NamedId } from "../../src/data/identity/Names.ts"
import { DataConfig, DataStream, type Row } from "../../src/data/stream/DataStream.ts"
import { scoredTokens } from "../../src/data/stream/Packing.ts"
import { sameTokenizer } from "../../src/data/tokens/SameTokenizer.ts"
import { specialId } from "../../src/data/tokens/Tokenizer.ts"
import type { DataError, DeviceError } from "../../src/Errors.ts"
import type { Device } from "../../src/gpu/Device.ts"
import * as Generate from "../../src/model/Generate.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as Sink from "../../src/Sink.ts"
import * as DataParallel from "../../src/train/DataParallel.ts"
import { TrainConfig, Trainer, type TrainError } from "../../src/train/Trainer.ts"
import type { PlannedTraining } from "../experiment/Experiment.ts"
import type { Job, Work, Workplace } from "../experiment/Job.ts"
import type { Streams } from "../experiment/Streams.ts"
import { type Files, keep, trainArm } from "../experiment/Train.ts"
import { type ArmName, type ArmPlan, armsOf, PretrainConfig, problem } from "./Config.ts"
import type { Arm, Curve, SourceResult } from "./Report.ts"

/** What one trained arm gives to the report; JSON, kept beside its checkpoints. */
export interface ArmResult {
  readonly arm: Arm
  readonly adapter: string
  readonly curves: ReadonlyArray<Curve>
  /** Mean loss by sink mode; a standard model has only `own`. */
  readonly repeated: Readonly<Record<string, number>>
  readonly heldOut: Readonly<Record<string, number>>
  readonly extraction: Readonly<Record<string, number>>
  /** Of sinks by source; results of earlier versions lack it. */
  readonly sources?: ReadonlyArray<SourceResult>
  readonly continuation: { readonly prompt: string; readonly truth: string;
    readonly texts: Readonly<Record<string, string>> }
  readonly seconds: number
  readonly tokens: number
  /** Of several ranks, what each did. */
  readonly ranks?: ReadonlyArray<DataParallel.RankReport>
}

/** What rank 0 asks the others to train their share of; null: there is nothing left. */
export interface Asked {
  readonly input: ArmInput
  /** Of the model it starts from, where it does not start from drawn weights. */
  readonly vocabSize?: number
}

/** How an arm is trained, all defaults spelled out. */
export const trainingOf = (
  { evaluations, training }: PretrainConfig,
  { batchesPerEpoch }: Pick<typeof DataStream.Service, "batchesPerEpoch">
): TrainConfig => {
  const steps = training.steps ?? Math.max(1, Math.floor(batchesPerEpoch / training.gradientAccumulation))
  return new TrainConfig({
    ...training,
    steps,
    evalEvery: evaluations === 0 ? 0 : Math.max(1, Math.floor(steps / evaluations))
  })
}

/** Trains an arm, and measures what it remembers with its sinks in every state. */
const measuredArm = (
  plan: ArmPlan,
  config: PretrainConfig,
  { kept, onEvent, stage }: Workplace,
  initial: InitialModel | undefined,
  input: ArmInput
): Effect.Effect<ArmResult, TrainError, Device | DataStream | Files> =>
  Effect.gen(function*() {
    const data = yield* DataStream
    const training = trainingOf(config, data)
    // a trained model may have more entries than its tokenizer: rows of padding
    const fewer = (initial?.config.vocabSize ?? Infinity) < data.tokenizer.vocabSize
    if (fewer || (initial?.tokenizer !== undefined && !sameTokenizer(initial.tokenizer, data.tokenizer.toJSON()))) {
      return yield* problem(
        `the tokenizer of initialFrom (${initial!.path}) is not the one of the data: tokenize the data with ` +
          `--tokenizer ${initial!.path}/tokenizer.json`
      )
    }
    const { precision, recompute } = config
    const collective = yield* Collective
    const asked: Asked = { input, ...(initial === undefined ? {} : { vocabSize: initial.config.vocabSize }) }
    if (collective.size > 1) yield* DataParallel.shared(collective, asked)
    const { adapter, curves, measured, ranks, seconds, steps, tokens } = yield* trainArm(
      { model: plan.model, training, seed: config.data.seed, precision, recompute,
        ...(initial === undefined ? {} : { initial }) },
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
      ...(ranks === undefined ? {} : { ranks }),
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
    const eos = specialId(data.tokenizer, "eos")
    if (shown !== undefined) {
      const prompt = shown.tokens.slice(0, Math.min(config.promptTokens, shown.tokens.length - 1))
      for (const [name, mode] of modes) {
        if (name !== "own" && name !== "off") continue
        const maxNewTokens = shown.tokens.length - 1 - prompt.length
        const added = maxNewTokens === 0
          ? new Uint32Array()
          : yield* Generate.collect({ tokens: prompt, id: shown.id }, { maxNewTokens, temperature: 0, sinks: mode })
            .pipe(
              Effect.provideServiceEffect(Model, trainer.model)
            )
        texts[name] = data.tokenizer.decode(uptoEnd(added, shown.tokens.subarray(prompt.length), eos))
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

/** A continuation up to its first end of a text, and with it, unless what it is to continue goes on behind one. */
export const uptoEnd = (added: Uint32Array, truth: Uint32Array, eos: number | undefined): Uint32Array => {
  const end = eos === undefined || truth.includes(eos) ? -1 : added.indexOf(eos)
  return end < 0 ? added : added.subarray(0, end + 1)
}

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
    const heldOut = mine.length === 0 ?
      {} :
      Object.fromEntries(
        Object.entries(losses).map((
          [state, loss]
        ) => [state, mine.reduce((sum, i, k) => sum + loss[i]! * scored[k]!, 0) / all])
      )
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

/**
 * What a finished arm's result depends on besides what its data holds, which the run's folder is asked for. Raise `version`
 * when training or what is measured gives other numbers.
 */
const resultKey = ({ data, model, name }: ArmPlan, config: PretrainConfig, initial: string | undefined) => {
  const { saveBest: _, saveEvery: __, saveLogSpaced: ___, ...training } = Schema.encodeSync(TrainConfig)(
    config.training
  )
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

/** One arm with one seed: a configuration of that arm alone, encoded. */
export interface ArmInput {
  readonly name: typeof ArmName.Type
  readonly config: typeof PretrainConfig.Encoded
  /** Of the weights that it starts from, where it does not start from drawn ones. */
  readonly initial?: string
}

/** The job of an arm with a seed. */
export const armJob = (
  config: PretrainConfig,
  name: typeof ArmName.Type,
  seed: number,
  initial?: string
): Job<ArmInput> => ({
  kind: "pretrain",
  arm: name,
  seed,
  input: {
    name,
    config: Schema.encodeSync(PretrainConfig)(
      new PretrainConfig({ ...config, arms: [name], seeds: 1, data: new DataConfig({ ...config.data, seed }) })
    ),
    ...(initial === undefined ? {} : { initial })
  }
})

/** An input decoded, and its arm; the vocabulary is that of the configuration unless it is given. */
export const armPlan = ({ config, name }: ArmInput, vocabSize?: number) => {
  const decoded = Schema.decodeSync(PretrainConfig)(config)
  return { config: decoded, plan: armsOf(decoded, [name], vocabSize ?? decoded.model.vocabSize, decoded.data.seed)[0]! }
}

/** Trains an arm and measures it, in a run of its own. */
export const armWork: Work<ArmInput, ArmResult> = {
  key: (input) =>
    Effect.sync(() => {
      const { config, plan } = armPlan(input)
      return resultKey(plan, config, input.initial)
    }),
  run: (input, at) =>
    Effect.gen(function*() {
      const { config, plan: { data } } = armPlan(input)
      const initial = config.initialFrom === undefined ? undefined : yield* loadInitial(config.initialFrom)
      return yield* at.streams.use(data, Effect.flatMap(DataStream, ({ tokenizer }) =>
        measuredArm(armPlan(input, initial?.config.vocabSize ?? tokenizer.vocabSize).plan, config, at, initial, input)))
    })
}

/** A rank's share of what rank 0 asks for, until there is nothing left. It keeps nothing. */
export const follow = (
  device: Layer.Layer<Device, DeviceError>,
  streams: Streams
): Effect.Effect<void, TrainError, Files> =>
  Effect.gen(function*() {
    const collective = yield* Collective
    while (true) {
      const asked = yield* DataParallel.shared<Asked | null>(collective, undefined)
      if (asked === null) return
      const { config, plan: { data } } = armPlan(asked.input)
      let met = false
      const share = Effect.gen(function*() {
        met = true
        const stream = yield* DataStream
        const { plan } = armPlan(asked.input, asked.vocabSize ?? stream.tokenizer.vocabSize)
        const { precision, recompute } = config
        yield* trainArm(
          { model: plan.model, training: trainingOf(config, stream), seed: config.data.seed, precision, recompute },
          yield* keep(undefined),
          { onEvent: () => Effect.void }
        )
      })
      yield* streams.use(data, Effect.provide(share, device)).pipe(
        Effect.catchAll((error) => {
          // they have agreed on why it ended; without its data or device a rank cannot even meet the others
          if (met) return Effect.logDebug(`a training ended: ${error.message}`)
          collective.abort(error.message)
          return Effect.fail(error)
        })
      )
    }
  })

/** The same where results are shared with other runs, which may be of other data, or of another machine. */
export const sharedArmWork: Work<ArmInput, ArmResult> = {
  ...armWork,
  key: (input, at) =>
    Effect.gen(function*() {
      const inputs = yield* at.streams.use(armPlan(input).plan.data, Effect.flatMap(DataStream, ({ inputs }) => inputs))
      return {
        of: yield* armWork.key(input, at),
        seed: armPlan(input).config.data.seed,
        inputs: inputs.map(({ sha256 }) => sha256),
        machine: { ...at.machine }
      }
    })
}

/** What an arm will train, for its memory to be checked. */
export const plannedArm = (
  config: PretrainConfig,
  plan: ArmPlan,
  streams: Streams,
  vocabSize?: number
): Effect.Effect<PlannedTraining, DataError, Files> =>
  streams.use(plan.data, Effect.map(DataStream, (data) => {
    const { precision, recompute } = config
    const model = new ModelConfig({ ...plan.model, vocabSize: vocabSize ?? data.tokenizer.vocabSize })
    return { model, data, training: trainingOf(config, data), precision, recompute }
  }))
