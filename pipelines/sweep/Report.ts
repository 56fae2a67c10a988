/** What a sweep found: the type its renderers, its tables of data and the command line share. */
import * as Schema from "effect/Schema"
import { Estimate, Real } from "../report/Estimate.ts"
import { Failure } from "../report/Failure.ts"

/** One seed of a point. */
const SeedOfPoint = Schema.Struct({
  /** Of data, weights and their order. */
  seed: Schema.Number,
  /** By their names: `heldOut.off`, `fractionClosed`. One that could not be measured is left out. */
  metrics: Schema.Record({ key: Schema.String, value: Real })
})

/** One combination of values. */
const PointResult = Schema.Struct({
  /** Its number in the order of the sweep, from 1. */
  point: Schema.Number,
  /** Its place by the first metric, from 1; absent where that could not be measured. */
  rank: Schema.optional(Schema.Number),
  /** By the paths of the fields. */
  values: Schema.Record({ key: Schema.String, value: Schema.Unknown }),
  /** Over the seeds, by the names of the metrics. */
  metrics: Schema.Record({ key: Schema.String, value: Estimate }),
  /** Each seed that could be measured. */
  perSeed: Schema.Array(SeedOfPoint)
})
export interface PointResult extends Schema.Schema.Type<typeof PointResult> {}

/** What `report.json` of a sweep holds; losses are nats a token. */
export const SweepReport = Schema.Struct({
  /** Of this file. */
  format: Schema.Literal(1),
  /** Paths of the fields that vary, in their order. */
  fields: Schema.Array(Schema.String),
  /** Names of the metrics that are shown, the first of which ranks the points. */
  metrics: Schema.Array(Schema.String),
  /** Which value of the first metric is best. */
  best: Schema.Literal("lowest", "highest"),
  /** Best first; those without a rank last. */
  points: Schema.Array(PointResult),
  /** What failed, and why: an arm of a point. */
  failures: Schema.Array(Failure),
  /** Trainings that the sweep is made of, and how many are different: equal ones are trained once. */
  trainings: Schema.Struct({
    /** Arms times points times seeds. */
    all: Schema.Number,
    /** Of which no two are equal. */
    different: Schema.Number
  }),
  /** Of the first point; every point has as many. */
  seeds: Schema.Array(Schema.Number),
  /** What is trained at every point. */
  arms: Schema.Array(Schema.String),
  /** What computed it. */
  adapter: Schema.String,
  /** Of this process. */
  seconds: Schema.Number,
  /** Everything that was configured, so that the sweep can be repeated. */
  config: Schema.Unknown,
  /** What ran it: memsinks, runtime, webgpu. */
  versions: Schema.Record({ key: Schema.String, value: Schema.String })
})
/** What `report.json` of a sweep holds; losses are nats a token. */
export interface SweepReport extends Schema.Schema.Type<typeof SweepReport> {}
