/**
 * Everything that is asked of one seed: arms are trained, methods that come after training are swept, and each model is
 * looked at in each state of its sinks. What fails is told and left out; the others go on.
 */
import type * as FileSystem from "@effect/platform/FileSystem"
import type * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import type { Row } from "../../src/data/stream/DataStream.ts"
import type { CheckpointError } from "../../src/Errors.ts"
import type { Device } from "../../src/gpu/Device.ts"
import * as Extraction from "../../src/measures/Extraction.ts"
import * as Measures from "../../src/measures/Metrics.ts"
import { mean } from "../../src/measures/Statistics.ts"
import * as TokenRecords from "../../src/measures/TokenRecords.ts"
import { Model } from "../../src/model/Model.ts"
import type { ModelConfig } from "../../src/model/ModelConfig.ts"
import { localizers, recall, sinkNeurons } from "../../src/removal/localizers/index.ts"
import { relearn, relearnRatio, stepsToBack } from "../../src/removal/Relearn.ts"
import { calibrate, calibratedRecords } from "../../src/scoring/Calibration.ts"
import * as Sink from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import type { TrainEvent } from "../../src/train/TrainEvent.ts"
import { type NamedArm, ORACLE, STANDARD } from "../experiment/Arms.ts"
import * as Failures from "../experiment/Failures.ts"
import type { Plan } from "./Config.ts"
import { hygiene, prunedTensors } from "./Hygiene.ts"
import { interference } from "./Interference.ts"
import * as Jobs from "./Jobs.ts"
import { at, heldOutLoss, heldOutMetrics, metricsFor, repeatedLoss, sample, windowsOf } from "./Metrics.ts"
import { type IsolateError, keptRecords, type Laboratory, named, recordWorld, say, scoredRows, sinkMode,
  type TrainedModel, trainOnce, withModel } from "./Models.ts"
import { type AtPoint, localizing, lossesOf, type SplitLosses, sweepLocalizer, type SweepPoint, sweepUnlearner,
  type Swept, watched } from "./PostHoc.ts"
import type { Failure, Hygiene, MaskState, MetricKey, Panel, Subject } from "./Report.ts"
import type { Found, SeedFindings } from "./Summary.ts"
import type { LocalizerMethod } from "./Sweeps.ts"

type Files = FileSystem.FileSystem | Path.Path
type Mutable<T> = { -readonly [K in keyof T]: T[K] extends ReadonlyArray<infer A> ? Array<A> : T[K] }
type Item<K extends keyof SeedFindings> = SeedFindings[K] extends ReadonlyArray<infer A> ? A : never

/** A model that is looked at: trained, or made from the standard one. */
interface Examined {
  readonly name: string
  readonly kind: Subject["kind"]
  readonly setting?: string
  readonly key: Jobs.Key
  readonly config: ModelConfig
  /** Loaded when they are needed: not all models fit the host at once. */
  readonly tensors: Effect.Effect<AtPoint, CheckpointError, Files>
}

/** Runs something with a model that is looked at. */
const opened = <A, E, R>({ config, tensors }: Examined, precision: "f32" | "f16", use: Effect.Effect<A, E, R>) =>
  Effect.flatMap(tensors, (loaded) => withModel(config, loaded, precision, use))

/** Whether an id has sinks of its own, rather than those of everyone. */
const hasSlices = ({ sinks }: ModelConfig): boolean => sinks !== undefined && sinks.active < sinks.pool

const statesOf = (config: ModelConfig): ReadonlyArray<MaskState> =>
  config.sinks === undefined
    ? ["own"]
    : hasSlices(config)
    ? ["own", "off", "calibrated", "placebo", "all", "pruned"]
    : ["own", "off", "calibrated"]

/** The records of a model in a state of its sinks. */
const recordsOf = (lab: Laboratory, one: Examined, state: MaskState) => {
  const { config, key, name, tensors } = one
  const { precision } = lab.config
  const { seen, validation } = lab.world.splits
  const shape = { batchSize: Jobs.ROWS, seqLen: lab.world.seqLen }
  const compute = () => {
    if (state === "calibrated") {
      return opened(one, precision, Effect.gen(function*() {
        const model = yield* Model
        const { bias } = yield* calibrate(model, { forget: seen, retain: validation }, Sink.off, {
          ...shape,
          tokens: Jobs.CALIBRATION_TOKENS
        })
        const rows = scoredRows(lab.world)
        const records = yield* calibratedRecords(model, rows.map(([, row]) => row), Sink.off, bias, {
          ...shape,
          split: "",
          repeats: rows.map(([, row]) => lab.world.repeatsOf(row))
        })
        return named(records, rows)
      }))
    }
    if (state === "pruned") {
      return Effect.flatMap(tensors, (whole) => {
        const cut = prunedTensors(config, whole)
        return withModel(cut.config, cut.tensors, precision, recordWorld(lab, Sink.own))
      })
    }
    return opened(one, precision, recordWorld(lab, sinkMode[state as keyof typeof sinkMode]))
  }
  const run = `${name} seed ${lab.seed}`
  return keptRecords(
    lab.store,
    Jobs.records(key, run, state),
    { run, checkpoint: lab.steps, mask: state },
    Effect.suspend(compute)
  )
}

/** What a model says in a state, of the sequences that are scored. */
const saidBy = (lab: Laboratory, one: Examined, state: MaskState, rows: ReadonlyArray<Row>) => {
  const [window] = windowsOf(lab.config.contexts, lab.world.seqLen)
  return lab.store.once(
    "said",
    Jobs.said(one.key, state, window!),
    opened(one, lab.config.precision, say(rows, window!, sinkMode[state as keyof typeof sinkMode]))
  )
}

/** Sequences with the most exposures: what the tables are about; the curves by exposures are about all. */
const most = (rows: ReadonlyArray<Row>, repeatsOf: (row: Row) => number): ReadonlyArray<Row> => {
  const times = Math.max(0, ...rows.map(repeatsOf))
  return rows.filter((row) => repeatsOf(row) === times)
}

const mostOf = (records: TokenRecords.TokenRecords): TokenRecords.TokenRecords => {
  const times = Math.max(...records.sequences.map(({ repeats }) => repeats))
  return TokenRecords.pick(records, records.sequences.flatMap(({ repeats }, s) => (repeats === times ? [s] : [])))
}

/** Tokens that are asked for where the context varies. */
const CONTINUED = 16

/** How much better a model knows what it saw often than what it never saw. */
const gap: MetricKey = { group: "natural", metric: "gap" }

const curvesOf = (
  arm: string,
  state: MaskState,
  panel: Panel,
  records: TokenRecords.TokenRecords,
  seqLen: number,
  window: Extraction.Window
): ReadonlyArray<Item<"extraction">> => {
  const times = [...new Set(records.sequences.map(({ repeats }) => repeats))].sort((a, b) => a - b)
  const byRepeats = (
    what: Pick<Item<"extraction">, "metric" | "context">,
    of: (records: TokenRecords.TokenRecords) => number
  ): Item<"extraction"> => ({
    arm,
    state,
    panel,
    by: "repeats",
    ...what,
    points: times.map((x) => {
      const rows = records.sequences.flatMap(({ repeats }, s) => (repeats === x ? [s] : []))
      return { x, value: of(TokenRecords.pick(records, rows)), sequences: rows.length }
    })
  })
  const greedy = (window: Extraction.Window) => (some: TokenRecords.TokenRecords) =>
    Extraction.rate(Extraction.greedyExtraction(some, window))
  const top = mostOf(records)
  const contexts: Array<number> = []
  for (let context = 4; context + CONTINUED <= seqLen; context *= 2) contexts.push(context)
  return [
    ...(times.length < 2 ? [] : [
      byRepeats({ metric: "greedy", context: window.context }, greedy(window)),
      byRepeats({ metric: "extractionStrength" }, (some) => mean(Measures.extractionStrength(some)))
    ]),
    {
      arm,
      state,
      panel,
      by: "context",
      metric: "greedy",
      length: CONTINUED,
      points: contexts.map((x) => ({
        x,
        value: greedy({ context: x, length: CONTINUED })(top),
        sequences: top.sequences.length
      }))
    }
  ]
}

/** Runs the whole of a seed. Only what concerns every arm fails it: a lost device, a folder that cannot be written. */
export const investigate = (
  lab: Laboratory,
  plan: Plan,
  options: {
    readonly concurrency: number
    /** The run's folder. */
    readonly outDir: string | undefined
    readonly onEvent: (arm: NamedArm, index: number, event: TrainEvent) => Effect.Effect<void>
    readonly onFailure: (failure: Failure) => Effect.Effect<void>
  }
): Effect.Effect<SeedFindings, IsolateError, Device | Files> =>
  Effect.gen(function*() {
    const { config, seed, world } = lab
    const { seqLen, splits } = world
    const findings: Mutable<SeedFindings> = {
      seed,
      found: [],
      curves: [],
      tradeoffs: [],
      extraction: [],
      relearning: [],
      interference: [],
      hygiene: [],
      localizers: [],
      costs: []
    }
    /** What becomes of an arm or a method is its own affair, unless it concerns all. */
    const attempt = <A, R>(arm: string, effect: Effect.Effect<A, IsolateError, R>) =>
      Failures.attempt({ arm, seed }, effect, options)

    // ---- arms
    const trained = new Map<string, TrainedModel>()
    yield* Effect.forEach(plan.arms, (arm, index) =>
      Effect.map(
        attempt(arm.name, trainOnce(lab, arm, (event) => options.onEvent(arm, index, event)).pipe(
          Effect.withSpan("train", { attributes: { arm: arm.name, seed } })
        )),
        Option.map((model) => trained.set(arm.name, model))
      ), { concurrency: options.concurrency, discard: true })
    const examined: Array<Examined> = []
    for (const arm of plan.arms) {
      const model = trained.get(arm.name)
      if (model === undefined) continue
      const { activeParameters, curves, parameters, seconds, steps, tokens } = model.result
      examined.push({ name: arm.name, kind: "trained", key: model.key, config: model.config, tensors: model.tensors })
      const variant = Jobs.variantOf(arm)
      findings.costs.push({
        name: arm.name,
        ...(variant === undefined ? {} : { variant }),
        kind: "trained",
        title: Jobs.titleOf(arm),
        parameters,
        activeParameters,
        steps,
        tokens,
        seconds
      })
      findings.curves.push(...curves.map(({ name, points }) => ({ arm: arm.name, series: name, points: [...points] })))
    }
    const byName = (name: string) => examined.find((one) => one.name === name)
    const standard = byName(STANDARD)
    const oracle = byName(ORACLE)

    // ---- after training
    /** The setting of each localizer that was chosen. */
    const localized = new Map<string, LocalizerMethod["settings"][number]>()
    const reference = (one: Examined): Effect.Effect<SplitLosses, IsolateError, Device | Files> =>
      lab.store.once(
        "losses",
        Jobs.losses(one.key, "own"),
        opened(one, "f32", lossesOf(watched(lab), seqLen, Sink.own))
      )
    if (standard !== undefined && oracle !== undefined) {
      const target = yield* reference(oracle)
      const before = yield* reference(standard)
      const from = yield* standard.tensors
      const model = trained.get(STANDARD)!
      const panels: ReadonlyArray<Panel> = splits.canaryScored.length > 0 ? ["natural", "canary"] : ["natural"]
      const scoredBy = { natural: "scored", canary: "canaryScored", other: "other" } as const
      const trade = (
        arm: string,
        panel: Panel,
        points: ReadonlyArray<Pick<SweepPoint, "setting" | "losses"> & Partial<Pick<SweepPoint, "series">>>,
        chosen: number
      ) =>
        findings.tradeoffs.push({
          arm,
          panel,
          points: points.map(({ losses, series = "", setting }, i) => ({
            setting,
            ...(series === "" ? {} : { series }),
            degradation: losses["heldOut"]! - before["heldOut"]!,
            forgetting: losses[scoredBy[panel]]! - before[scoredBy[panel]]!,
            chosen: i === chosen
          }))
        })
      const add = (
        name: string,
        kind: Examined["kind"],
        { at, chosen, key, points, seconds }: Swept<unknown>,
        settings: number,
        tokens: number
      ) => {
        examined.push({ name, kind, setting: points[chosen]!.setting, key, config: model.config,
          tensors: Effect.succeed(at) })
        findings.costs.push({
          name,
          kind,
          title: `${kind} on ${STANDARD}`,
          parameters: model.config.numParameters,
          activeParameters: model.config.numActiveParameters,
          steps: 0,
          tokens,
          seconds,
          settings
        })
      }
      for (const method of plan.localizers) {
        const { name, settings } = method
        for (const panel of panels) {
          yield* lab.stage(`seed ${seed}: ${name} on ${panel} sequences`)
          const swept = yield* attempt(name, sweepLocalizer(lab, model, from, target, method, panel))
          if (Option.isNone(swept)) break
          trade(name, panel, swept.value.points, swept.value.chosen)
          if (panel !== "natural") continue
          add(name, "localizer", swept.value, settings.length, 0)
          localized.set(name, swept.value.setting)
        }
      }
      for (const method of plan.unlearners) {
        const { name, settings } = method
        yield* lab.stage(`seed ${seed}: ${name}`)
        const swept = yield* attempt(name, sweepUnlearner(lab, model, from, target, method))
        if (Option.isNone(swept)) continue
        const { chosen, points, setting } = swept.value
        for (const panel of panels) trade(name, panel, points, chosen)
        const tokens = (points[chosen]!.step ?? 0) * 2 * setting.options.batchSize * seqLen
        add(name, "unlearner", swept.value, settings.length, tokens)
      }
      // every other arm is a point on the same plane
      for (const one of examined.filter(({ kind, name }) => kind === "trained" && name !== STANDARD)) {
        const losses = yield* lab.store.once(
          "losses",
          Jobs.losses(one.key, "off"),
          opened(one, "f32", lossesOf(watched(lab), seqLen, Sink.off))
        )
        for (const panel of panels) {trade(one.name, panel, [{ setting: one.config.sinks === undefined ? "" : "off",
            losses }], 0)}
      }
    }

    // ---- what each knows, in each state
    const windows = windowsOf(config.contexts, seqLen)
    const definitions = metricsFor(windows)
    const textsOf = (split: keyof typeof splits) => world.texts(splits[split] ?? [])
    const others = { natural: "heldOut", canary: "canaryOthers", other: "heldOut" } as const
    const scoredOf = { natural: "scored", canary: "canaryScored" } as const
    const rowsOf = (panel: "natural" | "canary") => most(splits[scoredOf[panel]], world.repeatsOf)
    const oracleRecords = oracle === undefined ? undefined : yield* recordsOf(lab, oracle, "own")
    const part = (records: TokenRecords.TokenRecords, split: string) => TokenRecords.ofSplit(records, split)
    for (const one of examined) {
      yield* lab.stage(`seed ${seed}: what ${one.name} knows`)
      yield* attempt(one.name, Effect.gen(function*() {
        for (const state of statesOf(one.config)) {
          const records = yield* recordsOf(lab, one, state)
          const metrics: Array<Found["metrics"][number]> = []
          for (const panel of ["natural", "canary"] as const) {
            const rows = rowsOf(panel)
            if (rows.length === 0) continue
            const panelRecords = part(records, scoredOf[panel])
            const talks = config.generate && panel === "natural" && (state === "own" || state === "off")
            metrics.push(...sample(definitions, panel, {
              records: mostOf(panelRecords),
              texts: world.texts(rows),
              others: part(records, others[panel]),
              otherTexts: textsOf(others[panel]),
              ...(oracleRecords === undefined ? {} : {
                reference: {
                  records: mostOf(part(oracleRecords, scoredOf[panel])),
                  others: part(oracleRecords, others[panel])
                }
              }),
              ...(talks ? { said: yield* saidBy(lab, one, state, rows) } : {}),
              windows
            }))
            if (state === "own" || state === "off") {
              findings.extraction.push(...curvesOf(one.name, state, panel, panelRecords, seqLen, windows[0]!))
            }
          }
          for (const split of ["heldOut", "other"] as const) {
            if ((splits[split] ?? []).length === 0) continue
            const own = part(records, split)
            const nothing = { records: own, texts: [], others: own, otherTexts: [], windows }
            metrics.push(...sample(heldOutMetrics, split, nothing))
          }
          const [repeated, heldOut] = [at(metrics, repeatedLoss), at(metrics, heldOutLoss)]
          if (repeated !== undefined && heldOut !== undefined) {
            metrics.push({ ...gap, value: Measures.memorizationGap(heldOut.value, repeated.value) })
          }
          findings.found.push({
            arm: one.name,
            kind: one.kind,
            state,
            metrics,
            ...(one.setting === undefined ? {} : { setting: one.setting })
          })
        }
      }))
    }
    const known = (arm: string, state: MaskState, key: MetricKey) =>
      at(findings.found.find((one) => one.arm === arm && one.state === state)?.metrics, key)?.value
    const open = known(STANDARD, "own", gap)
    if (open !== undefined) {
      findings.found = findings.found.map((found): Found => {
        const own = at(found.metrics, gap)?.value
        return own === undefined ?
          found :
          { ...found,
            metrics: [...found.metrics, { ...gap, metric: "closed", value: Measures.fractionClosed(own, open) }] }
      })
    }

    // ---- whether it comes back
    if (config.relearnRates.length > 0 && standard !== undefined && oracle !== undefined) {
      const levels = { oracle: (yield* reference(oracle))["scored"]!,
        standard: (yield* reference(standard))["scored"]! }
      let oracleSteps: number | undefined
      for (const one of [oracle, ...examined.filter((one) => one !== oracle)]) {
        yield* lab.stage(`seed ${seed}: ${one.name} learns again`)
        const state: MaskState = one.config.sinks === undefined ? "own" : "off"
        const options = {
          learningRates: config.relearnRates,
          steps: config.relearnSteps,
          batchSize: config.unlearnBatchSize,
          seqLen,
          seed
        }
        const relearned = yield* attempt(one.name, lab.store.once(
          "relearning",
          Jobs.relearning(one.key, options),
          opened(
            one,
            "f32",
            Effect.map(
              Stream.runCollect(relearn({
                ...options,
                mode: Sink.off,
                train: splits.seen,
                score: { seen: splits.seen, scored: splits.scored,
                  heldOut: splits.heldOut.slice(0, Jobs.RELEARN_HELD_OUT) }
              })),
              (points) => [...points]
            )
          )
        ))
        if (Option.isNone(relearned)) continue
        const points = relearned.value
        const steps = stepsToBack(points, { ...levels, set: "scored", share: config.relearnBack })
        if (one === oracle) oracleSteps = steps
        const best = Math.min(...points.map(({ losses }) => losses["scored"]!))
        findings.relearning.push({
          arm: one.name,
          state,
          points: points.map(({ learningRate, losses, step }) => ({
            learningRate,
            step,
            seen: losses["seen"]!,
            scored: losses["scored"]!,
            heldOut: losses["heldOut"]!
          })),
          steps: steps ?? null,
          recovered: (best - levels.oracle) / (levels.standard - levels.oracle),
          ratio: relearnRatio(steps, oracleSteps, config.relearnSteps)
        })
      }
    }

    // ---- whether sinks keep to themselves
    for (const one of examined.filter(({ config }) => hasSlices(config))) {
      const arm = plan.arms.find(({ name }) => name === one.name)!
      const { optimizer } = Jobs.trainingOfArm(lab, arm)
      yield* lab.stage(`seed ${seed}: whether the sinks of ${one.name} keep to themselves`)
      const rows = { repeated: [...splits.seen, ...splits.scored], singles: splits.retained, heldOut: splits.heldOut }
      const checks = yield* attempt(one.name, lab.store.once(
        "hygiene",
        Jobs.hygiene(one.key, Schema.encodeSync(OptimizerConfig)(optimizer), seed),
        opened(one, "f32", hygiene({ optimizer, rows, seqLen, batchSize: Jobs.CHECKED_ROWS, seed }))
      ))
      if (Option.isSome(checks)) {
        findings.hygiene.push({ arm: one.name, seed, checks: checks.value } satisfies Hygiene)
      }
      const between = yield* attempt(one.name, lab.store.once(
        "interference",
        Jobs.interference(one.key, config.interference, seed),
        opened(one, "f32", interference({
          rows: most(splits.scored, world.repeatsOf),
          others: rows.repeated.concat(rows.singles),
          ladder: config.interference,
          seqLen,
          batchSize: Jobs.CHECKED_ROWS,
          seed
        }))
      ))
      if (Option.isSome(between)) {
        const { deletion, ladder, placeboOff, sliceContent } = between.value
        const [off, memorized, never] = [known(one.name, "off", repeatedLoss), known(STANDARD, "own", repeatedLoss),
          known(ORACLE, "own", repeatedLoss)]
        findings.interference.push({
          arm: one.name,
          ladder,
          ...sliceContent,
          ...(placeboOff === null ? {} : { placeboOff }),
          deletionMean: deletion.mean,
          deletionWorst: deletion.worst,
          ...(off === undefined || memorized === undefined || never === undefined
            ? {}
            : { leakage: (off - never) / (memorized - never) })
        })
      }
      if (one.name !== "sinks") continue
      // the truth is known here: which sinks the scored sequences were given
      const scored = most(splits.scored, world.repeatsOf)
      const litSinks = sinkNeurons(one.config, scored.map(({ id }) => id))
      const truth = Array.from({ length: one.config.numHiddenLayers }, () => litSinks)
      const share = litSinks.reduce((sum, sink) => sum + sink, 0) / litSinks.length
      // a pass for every neuron of the whole pool is out of proportion
      for (const { method, name, settings } of plan.localizers.filter(({ method }) => method !== "zeroOut")) {
        const { options } = localized.get(name) ?? settings[0]!
        const ranked = yield* attempt(name, lab.store.once(
          "recall",
          Jobs.recall(Jobs.localizer(one.key, method, options, "natural", localizing(lab))),
          opened(one, "f32", Effect.map(
            localizers[method].localize(scored, { ...localizing(lab), batchSize: Jobs.ROWS, ...options }),
            (scores) => recall(scores, truth, share)
          ))
        ))
        if (Option.isSome(ranked)) {
          findings.localizers.push({ localizer: name, arm: one.name, recall: ranked.value, chance: share })
        }
      }
    }
    return findings
  })
