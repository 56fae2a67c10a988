/** What a study found: the type its renderers and the command line share. */
import * as Schema from "effect/Schema"
import { Chart } from "../report/Chart.ts"
import { Claim } from "../report/Claim.ts"
import { Estimate } from "../report/Estimate.ts"
import { Failure } from "../report/Failure.ts"
import { Table } from "../report/View.ts"
import { About } from "./Study.ts"

/** A sentence that was decided by intervals, and how. */
const StudyClaim = Schema.Struct({
  /** What the paper found, what sinks change about it, or a control: whether the world can tell at all. */
  about: About,
  /** In a sentence, which may be false. */
  claim: Schema.String,
  /** How it went here. */
  result: Claim.fields.result,
  /** The numbers it rests on, in words. */
  evidence: Schema.String
})
export interface StudyClaim extends Schema.Schema.Type<typeof StudyClaim> {}

const found = {
  /** Of the study, as the command line has it. */
  study: Schema.String,
  /** What it is called. */
  title: Schema.String,
  /** Authors, year and title. */
  paper: Schema.String,
  /** That is asked. */
  question: Schema.String,
  /** What the paper found, in a sentence. */
  finding: Schema.String,
  /** Whether that held here: where all claims about the paper held; not where one did not. */
  word: Claim.fields.result,
  /** By the intervals of the numbers. */
  claims: Schema.Array(StudyClaim),
  /** By their names: what the claims rest on, and else is worth keeping. */
  numbers: Schema.Record({ key: Schema.String, value: Estimate }),
  /** The paper's figure first. */
  charts: Schema.Array(Chart),
  /** The same in numbers. */
  tables: Schema.Array(Table),
  /** Words of charts and tables, and what they mean. */
  terms: Schema.Record({ key: Schema.String, value: Schema.String }),
  /** What it does not say. */
  limits: Schema.Array(Schema.String)
}

/** What one of several studies found. */
export const StudyFound = Schema.Struct(found)
export interface StudyFound extends Schema.Schema.Type<typeof StudyFound> {}

const ended = {
  /** What failed, and why: a part in a seed. */
  failures: Schema.Array(Failure),
  /** Of worlds, weights and their order. */
  seeds: Schema.Array(Schema.Number),
  /** What computed it. */
  adapter: Schema.String,
  /** Of this process. */
  seconds: Schema.Number,
  /** Everything that was configured, so that it can be repeated. */
  config: Schema.Unknown,
  /** What ran it: memsinks, runtime, webgpu. */
  versions: Schema.Record({ key: Schema.String, value: Schema.String })
}

/** What `report.json` of a study holds. */
export const StudyReport = Schema.Struct({
  /** Of this file. */
  format: Schema.Literal(1),
  ...found,
  ...ended
})
/** What `report.json` of a study holds. */
export interface StudyReport extends Schema.Schema.Type<typeof StudyReport> {}

/** What `report.json` of several studies holds. */
export const StudiesReport = Schema.Struct({
  /** Of this file. */
  format: Schema.Literal(1),
  /** In the order of the list; one that failed as a whole is missing. */
  studies: Schema.Array(StudyFound),
  ...ended
})
/** What `report.json` of several studies holds. */
export interface StudiesReport extends Schema.Schema.Type<typeof StudiesReport> {}
