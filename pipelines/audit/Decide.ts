/** What remains of a memory, and what may be said of it: intervals, and words by them alone. Pure. */
import { auc } from "../../src/measures/Membership.ts"
import { type Interval, logNormalDistribution, mean, quantile, shareInterval,
  tQuantile } from "../../src/measures/Statistics.ts"
import { normal, random } from "../../src/Random.ts"
import type { Known, Word } from "./Report.ts"

/** What a model answers to a way of asking. */
export type Value =
  /** A number for every passage, source or fact; NaN of those that have none. */
  | { readonly is: "each"; readonly values: ReadonlyArray<number> }
  /** Scores of passages that it was trained on, and of others: the value is the AUC between them. */
  | { readonly is: "scores"; readonly members: ReadonlyArray<number>; readonly others: ReadonlyArray<number> }
  /** One number of all of them, with its standard error where that is known. */
  | { readonly is: "one"; readonly value: number; readonly sequences: number; readonly error?: number | undefined }

/** A number as JSON has it: null where it is none. */
const finite = (value: number): number | null => (Number.isFinite(value) ? value : null)
export const known = ({ high, low, value }: Interval): Known => ({ value: finite(value), low: finite(low),
  high: finite(high) })
export const UNKNOWN: Known = { value: null, low: null, high: null }

/** Fewer do not bound what is in their middle at 95 %, not even by the least and the most of them: 2 / 2^5 > 0.05. */
export const LEAST = 6

const RESAMPLES = 1000

/** How many a value is of. */
export const sizeOf = (value: Value): number =>
  value.is === "each" ? value.values.length : value.is === "scores" ? value.members.length : value.sequences

interface Draw {
  readonly members: ArrayLike<number>
  readonly others: ArrayLike<number>
  readonly noise: () => number
}

/** What a value is of those that were drawn. */
const drawnFrom = (value: Value): (draw: Draw) => number => {
  switch (value.is) {
    case "each":
      return ({ members }) => mean(Float64Array.from(members, (i) => value.values[i]!))
    case "scores": {
      // who wins against whom, once for all draws
      const { members: own, others: rest } = value
      if (![...own, ...rest].every(Number.isFinite)) return () => NaN
      const wins = own.map((a) => Float64Array.from(rest, (b) => a > b ? 1 : a === b ? 0.5 : 0))
      return ({ members, others }) => {
        let sum = 0
        for (let i = 0; i < members.length; i++) {
          const row = wins[members[i]!]!
          for (let j = 0; j < others.length; j++) sum += row[others[j]!]!
        }
        return sum / (members.length * others.length)
      }
    }
    case "one":
      return ({ noise }) => value.value + (value.error ?? NaN) * noise()
  }
}

/** The number that a value is. */
export const plainly = (value: Value): number =>
  value.is === "each" ? mean(value.values) : value.is === "scores" ? auc(value.members, value.others) : value.value

/** The same with those alone that all of them have. */
const aligned = (
  values: ReadonlyArray<Value>,
  sources: ReadonlyArray<number>
): readonly [values: ReadonlyArray<Value>, sources: ReadonlyArray<number>] => {
  const there = sources.flatMap((_, i) =>
    values.every((one) => one.is !== "each" || Number.isFinite(one.values[i])) ? [i] : []
  )
  return [
    values.map((one) => one.is === "each" ? { is: "each", values: there.map((i) => one.values[i]!) } : one),
    there.map((i) => sources[i]!)
  ]
}

/** Fewer sources than this are drawn again by their passages, not as a whole. */
const CLUSTERS = LEAST

/**
 * A statistic of several models' values with its bootstrap interval, of so many units: passages are drawn again, or whole
 * sources where there are several, the same ones of all models; percentiles lie further out for few, as Student's t does
 * (Hesterberg 2015).
 */
const interval = (
  values: ReadonlyArray<Value>,
  sources: ReadonlyArray<number>,
  seed: number,
  of: (...values: ReadonlyArray<number>) => number
): Interval & { readonly units: number } => {
  const members = sources.map((_, i) => i)
  const others = values.reduce((most, one) => one.is === "scores" ? Math.max(most, one.others.length) : most, 0)
  const groups = [...new Set(sources)].map((s) => members.filter((i) => sources[i] === s))
  const whole = groups.length >= CLUSTERS
  const units = whole ? groups.length : members.length
  const value = of(...values.map(plainly))
  if (units < 2 || Number.isNaN(value)) return { value, low: NaN, high: NaN, units }
  const draw = random(seed, "audit", "bootstrap")
  const again = (count: number) => Array.from({ length: count }, () => draw.below(count))
  const each = values.map(drawnFrom)
  const drawn = Float64Array.from({ length: RESAMPLES }, () => {
    const some: Draw = {
      members: whole ? again(groups.length).flatMap((g) => groups[g]!) : again(members.length),
      others: again(others),
      noise: () => normal(draw)
    }
    return of(...each.map((one) => one(some)))
  }).filter((one) => !Number.isNaN(one))
  const tail = Math.exp(logNormalDistribution(-Math.sqrt(units / (units - 1)) * tQuantile(0.975, units - 1)))
  return { value, low: quantile(drawn, tail), high: quantile(drawn, 1 - tail), units }
}

export interface DecideOptions {
  /** Of what is drawn. */
  readonly seed: number
  /** Whether numbers are shares of passages, which are known no better than so many trials tell. Default false. */
  readonly share?: boolean
}

const shareOf = (value: Value): Interval | undefined =>
  value.is === "each" && value.values.length > 0
    ? shareInterval(value.values.reduce((a, b) => a + b, 0), value.values.length)
    : undefined

const wider = <I extends Interval>(one: I, ...by: ReadonlyArray<number>): I => ({ ...one, low: Math.min(one.low, ...by),
  high: Math.max(one.high, ...by) })

/** One model's value with its interval. */
export const valueOf = (
  value: Value,
  sources: ReadonlyArray<number>,
  { seed, share = false }: DecideOptions
): Known => {
  const [[one], kept] = aligned([value], sources)
  const found = interval([one!], kept, seed, (x) => x)
  const bounds = share ? shareOf(one!) : undefined
  return known(bounds === undefined ? found : wider(found, bounds.low, bounds.high))
}

/** The mean of differences after - before, with its interval. */
export const changeOf = (
  before: ReadonlyArray<number>,
  after: ReadonlyArray<number>,
  sources: ReadonlyArray<number>,
  seed: number
): Known => known(interval([{ is: "each", values: after.map((one, i) => one - before[i]!) }], sources, seed, (x) => x))

/**
 * What remains of a memory, and what may be said of it. Values are of the same passages, and of which source each is, `sources`
 * says; `memory`: whether more of them means more memory.
 */
export const decide = (
  { after, before, oracle, sources }: {
    readonly before: Value
    readonly after: Value
    readonly oracle: Value | undefined
    readonly sources: ReadonlyArray<number>
  },
  tolerance: number,
  { memory = "higher", seed, share = false }: DecideOptions & { readonly memory?: "higher" | "lower" }
): { readonly remains: Known; readonly word: Word } => {
  if (oracle === undefined) return { remains: UNKNOWN, word: "no baseline" }
  const [[b, a, o], kept] = aligned([before, after, oracle], sources)
  const sign = memory === "higher" ? 1 : -1
  const [plainB, plainO] = [plainly(b!), plainly(o!)]
  const [ofBefore, ofAfter] = share ? [shareOf(b!), shareOf(a!)] : []
  let gone = interval([b!, o!], kept, seed, (b, o) => sign * (b - o))
  if (ofBefore !== undefined) gone = wider(gone, sign * (ofBefore.low - plainO), sign * (ofBefore.high - plainO))
  const few = gone.units < LEAST || Number.isNaN(gone.low)
  if (Number.isNaN(gone.value)) return { remains: UNKNOWN, word: "undecided" }
  if (!few && !(gone.low > 0)) return { remains: UNKNOWN, word: "nothing to recover" }
  if (few && !(gone.value > 0)) return { remains: UNKNOWN, word: "undecided" }
  let remains = interval([b!, a!, o!], kept, seed, (b, a, o) => (a - o) / (b - o))
  if (ofAfter !== undefined) {
    const share = (x: number) => (x - plainO) / (plainB - plainO)
    remains = wider(remains, share(ofAfter.low), share(ofAfter.high))
  }
  return {
    remains: known(remains),
    word: few || Number.isNaN(remains.low) || Number.isNaN(remains.high)
      ? "undecided"
      : remains.high <= tolerance
      ? "not recovered"
      : remains.low > tolerance
      ? "recovered"
      : "undecided"
  }
}

const severity: ReadonlyArray<Word> = ["recovered", "undecided", "no baseline", "not recovered", "nothing to recover"]

/** The worst of several. */
export const worst = (words: ReadonlyArray<Word>): Word =>
  severity.find((word) => words.includes(word)) ?? "no baseline"
