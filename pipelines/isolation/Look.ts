/** What a model knows in each state of its sinks: a job. Token records are made once, and everything else follows from them. */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import type { Row } from "../../src/data/stream/DataStream.ts"
import type { DataError } from "../../src/Errors.ts"
import type { Device } from "../../src/gpu/Device.ts"
import * as Extraction from "../../src/measures/Extraction.ts"
import * as Measures from "../../src/measures/Metrics.ts"
import { mean } from "../../src/measures/Statistics.ts"
import * as TokenRecords from "../../src/measures/TokenRecords.ts"
import * as Generate from "../../src/model/Generate.ts"
import { Model } from "../../src/model/Model.ts"
import type { ModelConfig } from "../../src/model/ModelConfig.ts"
import { calibrate, calibratedRecords } from "../../src/scoring/Calibration.ts"
import { recordRows } from "../../src/scoring/Record.ts"
import * as Sink from "../../src/Sink.ts"
import type { Workplace } from "../experiment/Job.ts"
import type { Store } from "../experiment/Store.ts"
import type { Files } from "../experiment/Train.ts"
import { prunedTensors } from "./Hygiene.ts"
import * as Jobs from "./Jobs.ts"
import { at as metricAt, heldOutLoss, heldOutMetrics, metricsFor, repeatedLoss, sample, windowsOf } from "./Metrics.ts"
import { configOf, type IsolateError, type Lab, type Labs, type ModelInput, type ModelRef, withModel,
  workOf } from "./Models.ts"
import { keyOfModel, opened, weightsOf } from "./PostHoc.ts"
import type { MaskState, MetricKey, Panel } from "./Report.ts"
import type { Found, SeedFindings } from "./Summary.ts"
import type { World } from "./World.ts"

/** What a model goes by where its records say what they are of. */
export const nameOfModel = (model: ModelRef): string =>
  "arm" in model ? model.arm : "localizer" in model ? model.localizer : model.unlearner

/** Whether an id has sinks of its own, rather than those of everyone. */
export const hasSlices = ({ sinks }: ModelConfig): boolean => sinks !== undefined && sinks.active < sinks.pool

const statesOf = (config: ModelConfig): ReadonlyArray<MaskState> =>
  config.sinks === undefined
    ? ["own"]
    : hasSlices(config)
    ? ["own", "off", "calibrated", "placebo", "all", "pruned"]
    : ["own", "off", "calibrated"]

/** Sequences with the most exposures: what the tables are about; the curves by exposures are about all. */
export const most = (rows: ReadonlyArray<Row>, { repeatsOf }: World): ReadonlyArray<Row> => {
  const times = Math.max(0, ...rows.map(repeatsOf))
  return rows.filter((row) => repeatsOf(row) === times)
}

const mostOf = (records: TokenRecords.TokenRecords): TokenRecords.TokenRecords => {
  const times = Math.max(...records.sequences.map(({ repeats }) => repeats))
  return TokenRecords.pick(records, records.sequences.flatMap(({ repeats }, s) => (repeats === times ? [s] : [])))
}

// ---------------------------------------------------------------------------------------------------------------
// Records

/** Every split of the world, in one list. */
const scoredRows = (world: World): ReadonlyArray<readonly [split: string, row: Row]> =>
  Object.entries(world.splits).flatMap(([split, rows]) =>
    split === "retained" ? [] : (rows as ReadonlyArray<Row> | undefined ?? []).map((row) => [split, row] as const)
  )

/** Token records of all splits under the Model that is there, in a state of its sinks. */
const recordWorld = ({ world }: Lab, state: MaskState) =>
  Effect.gen(function*() {
    const model = yield* Model
    const all = scoredRows(world)
    const rows = all.map(([, row]) => row)
    const options = { batchSize: Jobs.ROWS, seqLen: world.seqLen, split: "", repeats: rows.map(world.repeatsOf) }
    const record = Effect.gen(function*() {
      if (state !== "calibrated") {
        // of one that is pruned there are no sinks left
        return yield* recordRows(model, rows, state === "pruned" ? Sink.own : Sink.states[state as Sink.State].mode,
          options)
      }
      const { seen, validation } = world.splits
      const { bias } = yield* calibrate(model, { forget: seen, retain: validation }, Sink.off, {
        batchSize: Jobs.ROWS,
        seqLen: world.seqLen,
        tokens: Jobs.CALIBRATION_TOKENS
      })
      return yield* calibratedRecords(model, rows, Sink.off, bias, options)
    })
    const records = yield* record
    return { ...records, sequences: records.sequences.map((sequence, s) => ({ ...sequence, split: all[s]![0] })) }
  })

/** The records of a model in a state of its sinks. */
const recordsOf = (
  labs: Labs,
  lab: Lab,
  model: ModelRef,
  state: MaskState,
  at: Workplace
): Effect.Effect<TokenRecords.TokenRecords, IsolateError, Device | Files> => {
  const { precision } = lab.config
  const run = `${nameOfModel(model)} seed ${lab.seed}`
  const record = recordWorld(lab, state)
  return keptRecords(
    at.store,
    Jobs.records(keyOfModel(lab, model), run, state),
    { run, checkpoint: lab.steps, mask: state },
    state === "pruned"
      ? Effect.flatMap(weightsOf(labs, lab, model, at), (weights) => {
        const cut = prunedTensors(configOf(lab, model), weights)
        return withModel(cut.config, cut.tensors, precision, record)
      })
      : opened(labs, lab, model, at, record, precision)
  )
}

/** Records that are kept in the store's folder as Parquet, with what the file says they are of. */
const keptRecords = <E, R>(
  store: Store,
  job: Jobs.Key,
  key: TokenRecords.RecordKey,
  compute: Effect.Effect<TokenRecords.TokenRecords, E, R>
): Effect.Effect<TokenRecords.TokenRecords, E | DataError, R | Files> =>
  Effect.gen(function*() {
    const folder = store.folder("records", job)
    if (folder === undefined) return yield* compute
    const fs = yield* FileSystem.FileSystem
    const file = `${folder}.parquet`
    const known = yield* Effect.option(TokenRecords.read(file))
    if (known._tag === "Some") return known.value.records
    const records = yield* compute
    yield* Effect.ignore(fs.makeDirectory((yield* Path.Path).dirname(file), { recursive: true }))
    yield* TokenRecords.write(file, key, records)
    return records
  })

/** What a model says greedily after the first tokens of each sequence, beside what is true. */
const say = (rows: ReadonlyArray<Row>, { context, length }: Extraction.Window, sinks: Sink.SinkMode) =>
  Effect.gen(function*() {
    const prompts = rows.map(({ id, tokens }) => ({ id, tokens: tokens.subarray(0, context) }))
    const texts = yield* Generate.collectAll(prompts, {
      maxNewTokens: length,
      temperature: 0,
      sinks,
      batchSize: Jobs.ROWS
    })
    return texts.map((text, i) => ({ text: [...text],
      truth: [...rows[i]!.tokens.subarray(context, context + length)] })
    )
  })

// ---------------------------------------------------------------------------------------------------------------
// What is measured of them

/** How much better a model knows what it saw often than what it never saw. */
export const gapMetric: MetricKey = { group: "natural", metric: "gap" }

type Curve = SeedFindings["extraction"][number]

/** Tokens that are asked for where the context varies. */
const CONTINUED = 16

const curvesOf = (
  of: Pick<Curve, "arm" | "state" | "panel">,
  records: TokenRecords.TokenRecords,
  seqLen: number,
  window: Extraction.Window
): ReadonlyArray<Curve> => {
  const times = [...new Set(records.sequences.map(({ repeats }) => repeats))].sort((a, b) => a - b)
  const byRepeats = (
    what: Pick<Curve, "metric" | "context">,
    value: (records: TokenRecords.TokenRecords) => number
  ): Curve => ({
    ...of,
    by: "repeats",
    ...what,
    points: times.map((x) => {
      const rows = records.sequences.flatMap(({ repeats }, s) => (repeats === x ? [s] : []))
      return { x, value: value(TokenRecords.pick(records, rows)), sequences: rows.length }
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
      ...of,
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

export interface LookInput extends ModelInput {
  /** The oracle, beside which attacks look; absent where it failed. */
  readonly reference?: ModelRef
}

/** What was measured; JSON. */
export interface Look {
  readonly found: ReadonlyArray<Pick<Found, "state" | "metrics">>
  readonly extraction: ReadonlyArray<Curve>
}

const others = { natural: "heldOut", canary: "canaryOthers" } as const
const scoredOf = { natural: "scored", canary: "canaryScored" } as const

/** Everything that is measured of a model, in every state of its sinks. */
export const lookWork = (labs: Labs) =>
  workOf<LookInput, Look>(labs, (lab, { model, reference }) => {
    const windows = windowsOf(lab.config.contexts, lab.world.seqLen)
    return Jobs.looks(keyOfModel(lab, model), {
      metrics: metricsFor(windows).map(({ context, metric }) => ({ metric,
        ...(context === undefined ? {} : { context }) })
      ),
      windows,
      generate: lab.config.generate,
      reference: reference === undefined ? undefined : keyOfModel(lab, reference)
    })
  }, (lab, { model, reference }, at) =>
    Effect.gen(function*() {
      const { config, world } = lab
      const { splits } = world
      const arm = nameOfModel(model)
      yield* at.stage(`seed ${lab.seed}: what ${arm} knows`)
      const windows = windowsOf(config.contexts, world.seqLen)
      const definitions = metricsFor(windows)
      const part = (records: TokenRecords.TokenRecords, split: string) => TokenRecords.ofSplit(records, split)
      const oracle = reference === undefined ? undefined : yield* labs.records(
        keyOfModel(lab, reference),
        recordsOf(labs, lab, reference, "own", at)
      )
      const found: Array<Look["found"][number]> = []
      const extraction: Array<Curve> = []
      for (const state of statesOf(configOf(lab, model))) {
        const records = yield* recordsOf(labs, lab, model, state, at)
        const metrics: Array<Found["metrics"][number]> = []
        for (const panel of ["natural", "canary"] as const satisfies ReadonlyArray<Panel>) {
          const rows = most(splits[scoredOf[panel]], world)
          if (rows.length === 0) continue
          const own = part(records, scoredOf[panel])
          const talks = config.generate && panel === "natural" && (state === "own" || state === "off")
          const said = talks
            ? {
              said: yield* at.store.once(
                "said",
                Jobs.said(keyOfModel(lab, model), state, windows[0]!),
                opened(labs, lab, model, at, say(rows, windows[0]!, Sink.states[state].mode), config.precision)
              )
            }
            : {}
          metrics.push(...sample(definitions, panel, {
            records: mostOf(own),
            texts: world.texts(rows),
            others: part(records, others[panel]),
            otherTexts: world.texts(splits[others[panel]]),
            ...(oracle === undefined ? {} : {
              reference: { records: mostOf(part(oracle, scoredOf[panel])), others: part(oracle, others[panel]) }
            }),
            ...said,
            windows
          }))
          if (state === "own" || state === "off") {
            extraction.push(...curvesOf({ arm, state, panel }, own, world.seqLen, windows[0]!))
          }
        }
        for (const split of ["heldOut", "other"] as const) {
          if ((splits[split] ?? []).length === 0) continue
          const own = part(records, split)
          metrics.push(
            ...sample(heldOutMetrics, split, { records: own, texts: [], others: own, otherTexts: [], windows })
          )
        }
        const [repeated, heldOut] = [metricAt(metrics, repeatedLoss), metricAt(metrics, heldOutLoss)]
        if (repeated !== undefined && heldOut !== undefined) {
          metrics.push({ ...gapMetric, value: Measures.memorizationGap(heldOut.value, repeated.value) })
        }
        found.push({ state, metrics })
      }
      return { found, extraction }
    }))
