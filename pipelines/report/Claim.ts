/**
 * How claims and verdicts are decided by numbers over seeds: by their intervals, never by their means alone, so that noise
 * never helps. Pure.
 */
import * as Schema from "effect/Schema"
import { decide, type Decision } from "../../src/measures/Statistics.ts"
import { type Estimate, intervalOf, isKnown, seedsToDecide, written } from "./Estimate.ts"

/** A claim of the papers, as it went here. */
export const Claim = Schema.Struct({
  /** As in the list of pipelines/README.md. */
  number: Schema.Number,
  /** In a sentence. */
  claim: Schema.String,
  /** How it went here. */
  result: Schema.Literal("held", "did not hold", "not decided", "not tested"),
  /** The numbers it rests on, in words. */
  evidence: Schema.String
})
export interface Claim extends Schema.Schema.Type<typeof Claim> {}

export type Result = Claim["result"]

export interface Outcome {
  readonly result: Result
  readonly evidence: string
}

export const untested = (...missing: ReadonlyArray<string>): Outcome => ({
  result: "not tested",
  evidence: `needs ${missing.join(" and ")}`
})

/** Held where all parts held; failed where one did. */
export const all = (...results: ReadonlyArray<Result>): Result =>
  results.includes("did not hold") ? "did not hold" : results.every((one) => one === "held") ? "held" : "not decided"

export const compare = (a: Estimate, b: Estimate): Decision => decide(intervalOf(a), intervalOf(b))

/** That a is higher, or lower, than b. */
export const is = (wanted: "higher" | "lower", a: Estimate, b: Estimate): Result => {
  const found = compare(a, b)
  return found === wanted ? "held" : found === "not decided" ? "not decided" : "did not hold"
}

/** What a number must keep to, both ends included. */
export interface Bound {
  /** Default -Infinity. */
  readonly least?: number
  /** Default Infinity. */
  readonly most?: number
}

/** Whether a bound is kept: where the whole interval is inside it is, where the whole is outside it is not. */
export type Kept = "pass" | "fail" | "undecided"

/** The one rule by which a bound is decided. What is not a number, or has no interval, decides nothing. */
export const keeps = (value: Estimate, { least = -Infinity, most = Infinity }: Bound): Kept => {
  const { high, low } = intervalOf(value)
  return !isKnown(value)
    ? "undecided"
    : low >= least && high <= most
    ? "pass"
    : high < least || low > most
    ? "fail"
    : "undecided"
}

/** Of bounds that must all be kept, whether they are, where one that is broken is not said to break the others. */
export const both = (a: Kept, b: Kept): Kept => a === b ? a : "undecided"

const result: Readonly<Record<Kept, Result>> = { pass: "held", fail: "did not hold", undecided: "not decided" }

export const isWithin = (value: Estimate, bound: Bound): Result => result[keeps(value, bound)]

export const isAtMost = (value: Estimate, most: number): Result => isWithin(value, { most })

export const isAtLeast = (value: Estimate, least: number): Result => isWithin(value, { least })

/** About how many seeds in all would decide whether a bound is kept, by the end of it that is nearest; see `seedsToDecide`. */
export const seedsFor = (value: Estimate, { least, most }: Bound): number => {
  const ends = [least, most].filter((end) => end !== undefined)
  const nearest = ends.reduce((a, b) => Math.abs(b - value.mean) < Math.abs(a - value.mean) ? b : a)
  return seedsToDecide(value, nearest)
}

/** A number of seeds no more exact than it is known: upwards to 5, 10 or 100. */
const about = (seeds: number): number => {
  const step = seeds <= 10 ? 1 : seeds <= 50 ? 5 : seeds <= 100 ? 10 : 100
  return Math.ceil(seeds / step) * step
}

/** What `seedsFor` says, in words. */
export const seedsInWords = (seeds: number): string =>
  Number.isNaN(seeds)
    ? "one seed does not tell how seeds differ: run 3 or more"
    : seeds > 1000
    ? "more than 1,000 seeds would be needed to decide it: it lies on the bound"
    : `about ${about(seeds)} seeds in all would decide it`

export const list = (...entries: ReadonlyArray<readonly [name: string, value: Estimate | undefined]>): string =>
  entries.filter(([, value]) => value !== undefined).map(([name, value]) => `${name} ${written(value)}`).join("; ")
