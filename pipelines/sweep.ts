/**
 * A sweep: the pretraining comparison at many values of any fields of its configuration, with several seeds, and which of them
 * are best by any metric. Every training is known by all that it depends on, so that points that share an arm train it once,
 * and a sweep that was interrupted, or is made larger with the same `store`, trains only what is new.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { DataStream } from "../src/data/stream/DataStream.ts"
import { scoredTokens } from "../src/data/stream/Packing.ts"
import type { CheckpointError, DataError } from "../src/Errors.ts"
import { keyOf } from "../src/Key.ts"
import type { TrainError } from "../src/train/Trainer.ts"
import * as Experiment from "./experiment/Experiment.ts"
import { makeStreams, type Streams } from "./experiment/Streams.ts"
import type { Files } from "./experiment/Train.ts"
import type { PretrainConfig } from "./pretrain/Config.ts"
import { armJob, armPlan, type ArmResult, armWork, sharedArmWork, trainingOf } from "./pretrain/measure.ts"
import type { SeedResult } from "./pretrain/Report.ts"
import { seedResult } from "./pretrain/summary.ts"
import { estimate } from "./report/Estimate.ts"
import { highestIsBest, kindOf, nameOfMetric, type Point, pointsOf, SweepConfig, type SweepMetric,
  valueText } from "./sweep/Config.ts"
import { toCsv, toParquet } from "./sweep/data.ts"
import { type PointResult, SweepReport } from "./sweep/Report.ts"
import { view } from "./sweep/view.ts"

export { SweepConfig, SweepReport }

/** What a sweep as a whole fails with; a point that fails is told in the report. */
export type SweepError = TrainError

/** Where the sweep runs and what it leaves: the device, the run's folder, the store of trained models. */
export type SweepOptions = Experiment.RunOptions

const encoded = Schema.encodeSync(SweepReport)

/** A report as JSON: numbers that are not finite are null. */
export const toJson = (report: SweepReport): string => JSON.stringify(encoded(report))

/** The metrics of a seed; only those that could be measured. */
const metricsOf = ({ extraction, gapClosed, gaps, heldOut, repeated }: SeedResult) => [
  ...(gapClosed === undefined ? [] : [{ group: "fractionClosed" as const, value: gapClosed }]),
  ...Object.entries({ repeated, heldOut, gaps, extraction }).flatMap(([group, values]) =>
    Object.entries(values as Readonly<Record<string, number | undefined>>).flatMap(([state, value]) =>
      value === undefined ? [] : [{ group: group as SweepMetric["group"], state, value }]
    )
  )
]

/** The jobs of a sweep: every arm of every point with every seed. */
const jobsOf = (points: ReadonlyArray<Point>, { arms, seeds }: SweepConfig) =>
  points.flatMap((point, p) =>
    Array.from({ length: seeds }, (_, s) =>
      arms.map((arm) => ({ ...armJob(point.config, arm, point.config.data.seed + s), point: p }))).flat()
  )

/** What a point is called where it is told of: `training.steps=100`. */
const nameOf = ({ values }: Point): string =>
  Object.entries(values).map(([path, value]) => `${path}=${valueText(value)}`).join(", ")

/** What a sweep will take, before anything is trained. */
export interface SweepCost {
  readonly points: number
  /** Trainings, and how many of them are different. */
  readonly trainings: { readonly all: number; readonly different: number }
  /** Optimizer steps and tokens of all different trainings together. */
  readonly steps: number
  readonly tokens: number
  /** Multiplications and additions of the passes forward and backward: six a parameter that is on, and token. */
  readonly operations: number
}

/** How many different trainings there are among jobs: those with one key. */
const distinct = (jobs: ReturnType<typeof jobsOf>, streams: Streams) =>
  Effect.map(
    Effect.forEach(jobs, (job) =>
      Effect.map(armWork.key(job.input, { streams, machine: { adapter: "", kernels: "" } }), (key) =>
        [keyOf({ key, seed: job.seed }), job] as const)),
    (all) => [...new Map(all).values()]
  )

/** Counts what a sweep will take; reads its data, and trains nothing. */
export const costOf = (config: SweepConfig): Effect.Effect<SweepCost, CheckpointError | DataError, Files> =>
  Effect.gen(function*() {
    const points = yield* pointsOf(config)
    const jobs = jobsOf(points, config)
    const streams = yield* makeStreams()
    const different = yield* distinct(jobs, streams)
    const costs = yield* Effect.forEach(different, ({ input }) => {
      const { config, plan } = armPlan(input)
      return streams.use(plan.data, Effect.map(DataStream, (data) => {
        const { gradientAccumulation, steps } = trainingOf(config, data)
        const tokens = steps! * data.batchSize * data.seqLen * gradientAccumulation
        const { plan: { model } } = armPlan(input, data.tokenizer.vocabSize)
        return { steps: steps!, tokens, operations: 6 * tokens * model.numActiveParameters }
      }))
    })
    const sum = (of: (cost: typeof costs[number]) => number) => costs.reduce((all, cost) => all + of(cost), 0)
    return {
      points: points.length,
      trainings: { all: jobs.length, different: different.length },
      steps: sum(({ steps }) => steps),
      tokens: sum(({ tokens }) => tokens),
      operations: sum(({ operations }) => operations)
    }
  }).pipe(Effect.scoped)

/** The sweep as an experiment. */
const sweep: Experiment.Experiment<
  SweepConfig,
  SweepConfig,
  ReadonlyArray<Option.Option<ArmResult>>,
  SweepReport
> = {
  kind: "sweep",
  schema: SweepConfig,
  again: "from what is kept",
  encode: encoded,
  view,
  files: async (report) => ({
    "sweep.csv": toCsv(report),
    "sweep.parquet": toParquet(report)
  }),
  plan: (config, { streams }) =>
    Effect.gen(function*() {
      const points = yield* pointsOf(config)
      const jobs = jobsOf(points, config)
      const of = (base: PretrainConfig) => Array.from({ length: config.seeds }, (_, i) => base.data.seed + i)
      const seeds = of(points[0]!.config)
      const different = yield* distinct(jobs, streams)
      /** Of every point's data with its first seed. */
      const data = [
        ...new Map(points.map(({ config: { data } }) => [keyOf({ data: JSON.stringify(data) }), data])).values()
      ]
      const each = <A>(use: (data: typeof DataStream.Service) => Effect.Effect<A, DataError>) =>
        Effect.forEach(data, (one) => streams.use(one, Effect.flatMap(DataStream, use)))
      // data that will not do is told before a folder is claimed
      const sequences = yield* Effect.forEach(points, ({ config: { data, promptTokens } }) =>
        streams.use(data, Effect.map(DataStream, ({ split }) =>
          // those that have something behind the prompt
          split("repeated").filter((row) => row.tokens.length > promptTokens && scoredTokens(row) > 0).length)))
      return {
        config,
        seeds,
        arms: points.map(nameOf),
        inputs: Effect.map(each(({ inputs }) => inputs),
          (all) => [...new Map(all.flat().map((input) => [`${input.what} ${input.sha256}`, input])).values()]),
        verify: Effect.asVoid(each(({ verify }) => verify)),
        title: `a sweep of ${points.length} point${points.length === 1 ? "" : "s"}, ${
          different.length === jobs.length
            ? `${jobs.length} trainings`
            : `${jobs.length} trainings of which ${different.length} are different`
        },`,
        work: ({ perform }) =>
          perform(sharedArmWork, jobs.map((job) => ({ ...job, arm: `${nameOf(points[job.point]!)}: ${job.arm}` }))),
        report: (trained, run, error) =>
          Effect.gen(function*() {
            const results = points.map(({ values }, p): PointResult => {
              const found = seeds.flatMap((_, s) => {
                const seed = points[p]!.config.data.seed + s
                const own = trained.flatMap((one, i) =>
                  jobs[i]!.point === p && jobs[i]!.seed === seed && Option.isSome(one) ? [one.value] : []
                )
                return own.length === 0
                  ? []
                  : [{ seed, metrics: metricsOf(seedResult(seed, new Map(own.map((one) => [one.arm.name, one])), 0)) }]
              })
              const perSeed = found.map(({ metrics, seed }) => ({ seed,
                metrics: Object.fromEntries(metrics.map((one) => [nameOfMetric(one), one.value])) })
              )
              const met = new Map(found.flatMap(({ metrics }) => metrics.map((one) => [nameOfMetric(one), one])))
              return {
                point: p + 1,
                values,
                metrics: Object.fromEntries([...met].map(([name, metric]) => [
                  name,
                  estimate(perSeed.map(({ metrics }) => metrics[name]), {
                    kind: kindOf(metric),
                    ...(metric.group === "extraction"
                      ? { spreads: perSeed.map(() => ({ sequences: sequences[p]! })) }
                      : {})
                  })
                ])),
                perSeed
              }
            })
            if (results.every(({ perSeed }) => perSeed.length === 0)) {
              return yield* Effect.fail(error)
            }
            const [first] = config.metrics
            const sign = highestIsBest(config) ? -1 : 1
            const valueOf = ({ metrics }: PointResult) => metrics[first!]?.mean ?? NaN
            const ranked = results.filter((one) => Number.isFinite(valueOf(one))).sort((a, b) =>
              sign * (valueOf(a) - valueOf(b))
            )
            return {
              format: 1 as const,
              fields: Object.keys(config.fields),
              metrics: config.metrics,
              best: highestIsBest(config) ? "highest" as const : "lowest" as const,
              points: [
                ...ranked.map((one, i) => ({ ...one, rank: i + 1 })),
                ...results.filter((one) => !ranked.includes(one))
              ],
              trainings: { all: jobs.length, different: different.length },
              arms: config.arms,
              ...run
            }
          })
      }
    })
}

/**
 * Trains every point and reports, best first. Interruptible at any moment: what is trained lies in the store, and a later call
 * goes on from there. A point that fails is reported, and the others go on. Fails with a DataError, before anything is
 * trained, for fields that a configuration does not have, and for points that make no configuration.
 */
export const run = (config: SweepConfig, options: SweepOptions): Effect.Effect<SweepReport, SweepError, Files> =>
  Experiment.run(sweep, config, options)
