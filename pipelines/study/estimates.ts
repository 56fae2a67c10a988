/** What studies make of numbers over seeds: claims of their signs, and points of their charts. */
import type { Point } from "../report/Chart.ts"
import { is, type Result } from "../report/Claim.ts"
import { type Estimate, intervalOf, isKnown } from "../report/Estimate.ts"

const ZERO: Estimate = { mean: 0, low: 0, high: 0, values: [] }

/** That a number is above 0: its whole interval is. Not tested where there is none. */
export const isPositive = (value: Estimate | undefined): Result =>
  isKnown(value) ? is("higher", value, ZERO) : "not tested"

/** A point with its interval, where it has one; none where the number is not known. */
export const pointOf = (x: number, y: Estimate): ReadonlyArray<Point> => {
  if (!isKnown(y)) return []
  const { high, low } = intervalOf(y)
  return [{ x, y: y.mean, ...(Number.isFinite(low) ? { low, high } : {}) }]
}
