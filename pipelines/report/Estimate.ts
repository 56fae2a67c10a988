/** Numbers over seeds: described, made, combined, compared and written. Pure. */
import * as Schema from "effect/Schema"
import { type Interval, mean, tInterval } from "../../src/measures/Statistics.ts"

/** A number that may be undefined: NaN, of a share of nothing; null in JSON. */
export const Real = Schema.transform(Schema.NullOr(Schema.Number), Schema.Number, {
  strict: true,
  decode: (value) => value ?? NaN,
  encode: (value) => Number.isFinite(value) ? value : null
})

/** A number over seeds: its mean, and its 95 % interval (Student's t). */
export const Estimate = Schema.Struct({
  /** Over the seeds that have it. */
  mean: Real,
  /** Lower end of the 95 % interval (Student's t); absent where there are fewer than 2 seeds. */
  low: Schema.optionalWith(Real, { exact: true }),
  /** Upper end of it. */
  high: Schema.optionalWith(Real, { exact: true }),
  /** One value a seed, in the order of `seeds`; null where the seed's arm failed or has no such number. */
  values: Schema.Array(Schema.NullOr(Schema.Number))
}).annotations({ identifier: "Estimate" })
export interface Estimate extends Schema.Schema.Type<typeof Estimate> {}

/** A number over seeds. Values that are absent or not finite do not count, and are null. */
export const estimate = (values: ReadonlyArray<number | null | undefined>): Estimate => {
  const given = values.map((value) => (typeof value === "number" && Number.isFinite(value) ? value : null))
  const numbers = given.filter((value) => value !== null)
  if (numbers.length < 2) return { mean: mean(numbers), values: given }
  const { high, low, value } = tInterval(numbers)
  return { mean: value, low, high, values: given }
}

/** Whether any seed has the number. */
export const isKnown = (one: Estimate | undefined): one is Estimate => one !== undefined && Number.isFinite(one.mean)

/** The interval of a number; unbounded where there is none, since one seed is not a result. */
export const intervalOf = ({ high, low, mean }: Estimate): Interval => ({
  value: mean,
  low: low ?? -Infinity,
  high: high ?? Infinity
})

/** A number made of others seed by seed: what the seeds have in common cancels. Undefined where one is unknown. */
export const perSeed = (
  of: (...values: ReadonlyArray<number>) => number,
  ...from: ReadonlyArray<Estimate | undefined>
): Estimate | undefined => {
  if (!from.every(isKnown)) return undefined
  const combined = estimate(from[0].values.map((_, seed) => {
    const values = from.map((one) => one.values[seed])
    return values.every((value) => typeof value === "number") ? of(...values) : null
  }))
  return isKnown(combined) ? combined : undefined
}

export const minus = (a: Estimate | undefined, b: Estimate | undefined): Estimate | undefined =>
  perSeed((x, y) => x - y, a, b)

export type Format = (value: number) => string

export const digits = (places: number): Format => (value) => {
  const text = value.toFixed(places)
  return Number(text) === 0 ? text.replace("-", "") : text
}

/** `0.123 [0.111, 0.135]`; `-` where nothing is known, without brackets where there is no interval. */
export const written = (one: Estimate | undefined, format: Format = digits(3)): string =>
  !isKnown(one)
    ? "-"
    : one.low === undefined || one.high === undefined
    ? format(one.mean)
    : `${format(one.mean)} [${format(one.low)}, ${format(one.high)}]`

/** `0.123 ± 0.012`, for tables: Student's interval is as wide to both sides. `-` where nothing is known. */
export const plusMinus = (one: Estimate | undefined, format: Format = digits(3)): string =>
  !isKnown(one)
    ? "-"
    : one.low === undefined || one.high === undefined
    ? format(one.mean)
    : `${format(one.mean)} ± ${format((one.high - one.low) / 2)}`
