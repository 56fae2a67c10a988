/** How a claim is decided by numbers over seeds: by their intervals, never by their means alone. Pure. */
import * as Schema from "effect/Schema"
import { type Decision, decide } from "../../src/measures/Statistics.ts"
import { type Estimate, intervalOf, written } from "./Estimate.ts"

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

export const isAtMost = (value: Estimate, bound: number): Result => {
  const { high, low } = intervalOf(value)
  return high <= bound ? "held" : low > bound ? "did not hold" : "not decided"
}

export const isAtLeast = (value: Estimate, bound: number): Result => {
  const { high, low } = intervalOf(value)
  return low >= bound ? "held" : high < bound ? "did not hold" : "not decided"
}

export const list = (...entries: ReadonlyArray<readonly [name: string, value: Estimate | undefined]>): string =>
  entries.filter(([, value]) => value !== undefined).map(([name, value]) => `${name} ${written(value)}`).join("; ")
