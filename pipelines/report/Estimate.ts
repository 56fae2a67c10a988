/** Numbers over seeds: described, made, combined, compared and written. Pure. */
import * as Schema from "effect/Schema"
import { type Interval, mean, meanOverSeeds, seedsNeeded, shareInterval, shareOverSeeds, variance,
  type Within } from "../../src/measures/Statistics.ts"
import { NOTHING } from "../../src/Terminal.ts"

/** A number that may be undefined: NaN, of a share of nothing; null in JSON. */
export const Real = Schema.transform(Schema.NullOr(Schema.Number), Schema.Number, {
  strict: true,
  decode: (value) => value ?? NaN,
  encode: (value) => Number.isFinite(value) ? value : null
})

/**
 * What a number can be: a share is in [0, 1], a loss (nats a token, or another amount) at least 0, all else any number:
 * differences, recoveries.
 */
export const Kind = Schema.Literal("share", "loss", "real")
export type Kind = typeof Kind.Type

/** How an interval was made. */
export const Method = Schema.Literal("beta-binomial", "t", "sequences")
export type Method = typeof Method.Type

/** The methods in words. */
export const methods: Readonly<Record<Method, string>> = {
  "beta-binomial": "beta-binomial over seeds and sequences",
  t: "Student's t over seeds",
  sequences: "over the sequences of one seed: it says nothing of other seeds"
}

/** A number over seeds: its mean, and its 95 % interval. */
export const Estimate = Schema.Struct({
  /** Over the seeds that have it; null where it is not a number in one of them. */
  mean: Real,
  /** Lower end of the 95 % interval; absent where there is none: of one seed without sequences. */
  low: Schema.optionalWith(Real, { exact: true }),
  /** Upper end of it. */
  high: Schema.optionalWith(Real, { exact: true }),
  /**
   * How the interval was made: `beta-binomial` of shares of sequences, over seeds and sequences; `t`, Student's over
   * seeds, not beyond what the number can be; `sequences`, over those of the only seed, of which other seeds may differ.
   */
  method: Schema.optionalWith(Method, { exact: true }),
  /** What the number can be; absent: any. */
  kind: Schema.optionalWith(Kind, { exact: true }),
  /** One value a seed, in the order of `seeds`; null where the seed's arm failed or has no such number. */
  values: Schema.Array(Schema.NullOr(Schema.Number)),
  /** The standard error of each value over its sequences, where it is known. */
  errors: Schema.optionalWith(Schema.Array(Schema.NullOr(Schema.Number)), { exact: true })
}).annotations({ identifier: "Estimate" })
export interface Estimate extends Schema.Schema.Type<typeof Estimate> {}

/** How much a value of one seed depends on which sequences it is of. */
export interface Spread {
  /** So many. */
  readonly sequences: number
  /** The standard error of their mean; absent: of shares that of as many trials. */
  readonly error?: number
}

const bounds: Readonly<Record<Kind, Within>> = { share: { least: 0, most: 1 }, loss: { least: 0 }, real: {} }

/** Trials that vary as much as the sequences of a seed: as many where each is a success or not, more where it is a share. */
const trialsOf = (share: number, { error, sequences }: Spread): number => {
  const most = share * (1 - share)
  // the error divides by one less than there are sequences
  return error === undefined || !(most > 0) || sequences < 2
    ? sequences
    : Math.min(1e4, Math.max(sequences, most / Math.max(1e-12, error ** 2) + 1))
}

/** The standard error of a share of trials, not 0 where all went alike. */
const shareError = (share: number, trials: number): number => {
  const p = (share * trials + 1) / (trials + 2)
  return Math.sqrt((p * (1 - p)) / trials)
}

/**
 * A number over seeds. Values that are absent (null, undefined: the arm failed, or has no such number) do not count. A
 * value that is not finite is told and not left out: the mean is then NaN, and there is no interval.
 */
export const estimate = (
  values: ReadonlyArray<number | null | undefined>,
  { kind = "real", spreads }: { readonly kind?: Kind; readonly spreads?: ReadonlyArray<Spread | undefined> } = {}
): Estimate => {
  const all = values.map((value) => (typeof value === "number" && Number.isFinite(value) ? value : null))
  const there = values.flatMap((value, seed) => typeof value === "number" ? [{ seed, value }] : [])
  const numbers = there.map(({ value }) => value)
  const given = there.map(({ seed }) => spreads?.[seed])
  const named = kind === "real" ? {} : { kind }
  const sampled = given.length > 0 && given.every((one) => one !== undefined)
  const trials = sampled && kind === "share" ? given.map((one, i) => trialsOf(numbers[i]!, one)) : undefined
  const own = trials?.map((n, i) => shareError(numbers[i]!, n)) ?? given.map((one) => one?.error)
  const errors = sampled && own.every((error) => error !== undefined && Number.isFinite(error))
    ? { errors: all.map((value, seed) => value === null ? null : own[there.findIndex((one) => one.seed === seed)]!) }
    : {}
  const made = (method: Method, { high, low, value }: Interval): Estimate => ({ mean: value, low, high, method,
    ...named, values: all, ...errors })
  if (numbers.length === 0 || !numbers.every(Number.isFinite)) return { mean: NaN, ...named, values: all }
  if (trials !== undefined) {
    return numbers.length === 1
      ? made("sequences", shareInterval(numbers[0]! * trials[0]!, trials[0]!))
      : made("beta-binomial", shareOverSeeds(numbers, trials))
  }
  if (numbers.length > 1) return made("t", meanOverSeeds(numbers, bounds[kind]))
  return errors.errors === undefined
    ? { mean: numbers[0]!, ...named, values: all }
    : made("sequences", meanOverSeeds(numbers, { ...bounds[kind], errors: own as ReadonlyArray<number> }))
}

/** Whether the number is known: in any seed, and finite wherever it is. */
export const isKnown = (one: Estimate | undefined): one is Estimate => one !== undefined && Number.isFinite(one.mean)

/** The interval of a number; unbounded where there is none, since one seed is not a result. */
export const intervalOf = ({ high, low, mean }: Estimate): Interval => ({
  value: mean,
  low: low ?? -Infinity,
  high: high ?? Infinity
})

/**
 * Where a value is moved by its error the result moves by so much, to first order; errors are taken for independent but
 * where two numbers are one: `same[i]` is the first that number i is.
 */
const errorOf = (
  of: (...values: ReadonlyArray<number>) => number,
  values: ReadonlyArray<number>,
  errors: ReadonlyArray<number>,
  same: ReadonlyArray<number>
): number =>
  Math.hypot(...errors.map((error, i) => {
    const at = (by: number) => of(...values.map((value, k) => same[k] === i ? value + by : value))
    return same[i] === i ? at(error / 2) - at(-error / 2) : 0
  }))

/**
 * A number made of others seed by seed: what the seeds have in common cancels. Undefined where one is unknown. Its
 * interval is Student's, and over several seeds not narrower than the errors of shares make it, since a share of few
 * sequences is the same in two seeds by chance; of one seed it is that of all errors.
 */
export const perSeed = (
  of: (...values: ReadonlyArray<number>) => number,
  ...from: ReadonlyArray<Estimate | undefined>
): Estimate | undefined => {
  if (!from.every(isKnown)) return undefined
  const seeds = from[0]!.values.map((_, seed) => {
    const values = from.map((one) => one.values[seed])
    if (!values.every((value) => typeof value === "number")) return undefined
    const errors = from.map((one) => one.errors?.[seed] ?? undefined)
    return { value: of(...values), values, errors }
  })
  const there = seeds.filter((one) => one !== undefined)
  const plain = estimate(seeds.map((one) => one?.value))
  if (!isKnown(plain)) return undefined
  // errors of losses are of use to a single seed only: the spread of several has them in it, and is never 0 by chance
  const counts = from.map(({ kind }) => there.length === 1 || kind !== "loss")
  const known = there.length === 1
    ? there[0]!.errors.every((error) => error !== undefined)
    : there.every(({ errors }) => errors.some((error, i) => counts[i] && error !== undefined))
  if (!known) return plain
  const same = from.map((one) => from.indexOf(one))
  const errors = seeds.map((one) =>
    one === undefined ? null : errorOf(of, one.values, one.errors.map((error, i) => counts[i] ? error ?? 0 : 0), same)
  )
  const given = errors.filter((error) => error !== null)
  if (!given.every(Number.isFinite)) return plain
  const { high, low } = meanOverSeeds(there.map(({ value }) => value), { errors: given })
  return { ...plain, low, high, method: there.length === 1 ? "sequences" : "t", errors }
}

export const minus = (a: Estimate | undefined, b: Estimate | undefined): Estimate | undefined =>
  perSeed((x, y) => x - y, a, b)

/**
 * About how many seeds in all would decide on which side of a bound a number is, if its mean and spread stayed. NaN where
 * the spread is unknown, as one seed leaves it; Infinity where the number lies on the bound.
 */
export const seedsToDecide = ({ errors, mean: middle, values }: Estimate, bound: number): number => {
  const numbers = values.filter((value) => value !== null)
  const known = (errors ?? []).filter((error) => error !== null)
  const sampling = known.length === 0 ? 0 : Math.sqrt(mean(known.map((error) => error ** 2)))
  const spread = numbers.length < 2
    ? (known.length === 0 ? NaN : sampling)
    : Math.max(sampling, Math.sqrt(variance(numbers)))
  return Number.isNaN(spread) ? NaN : Math.max(numbers.length + 1, seedsNeeded(Math.abs(middle - bound), spread))
}

export type Format = (value: number) => string

export const digits = (places: number): Format => (value) => {
  const text = value.toFixed(places)
  return Number(text) === 0 ? text.replace("-", "") : text
}

/** `0.123 [0.111, 0.135]`; `-` where nothing is known, without brackets where there is no interval. */
export const written = (one: Estimate | undefined, format: Format = digits(3)): string =>
  !isKnown(one)
    ? NOTHING
    : one.low === undefined || one.high === undefined
    ? format(one.mean)
    : `${format(one.mean)} [${format(one.low)}, ${format(one.high)}]`

/** `0.123 ± 0.012`, for tables, where an interval is as wide to both sides, else as `written`. `-`: nothing is known. */
export const plusMinus = (one: Estimate | undefined, format: Format = digits(3)): string => {
  if (!isKnown(one) || one.low === undefined || one.high === undefined) return written(one, format)
  const half = (one.high - one.low) / 2
  const isEven = Math.abs(one.high - one.mean - half) <= 1e-9 * Math.max(1, Math.abs(half))
  return isEven ? `${format(one.mean)} ± ${format(half)}` : written(one, format)
}
