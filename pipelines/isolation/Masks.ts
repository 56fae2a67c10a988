/**
 * Which units ids light: the checks of hygiene that need no device, among them what the reference code's hash gets wrong.
 * Pure.
 */
import { logGamma, mean } from "../../src/measures/Statistics.ts"
import * as Sink from "../../src/Sink.ts"

export interface HygieneCheck {
  readonly name: string
  readonly passed: boolean
  /** What was found; `bound` says what of, and what was expected. */
  readonly value: number
  readonly bound: string
  /** In words; also what could not be looked at, where masks leave nothing to look at. */
  readonly detail: string
}

/** How many units two sets have in common. */
export const common = (a: ReadonlySet<number>, b: ReadonlySet<number>): number => {
  let count = 0
  for (const unit of a) if (b.has(unit)) count++
  return count
}

const logChoose = (n: number, k: number): number =>
  k < 0 || k > n ? -Infinity : logGamma(n + 1) - logGamma(k + 1) - logGamma(n - k + 1)

/** Probability that two ids share at least `count` units. */
const sharing = (sinks: Sink.SinkConfig, count: number): number => {
  const { activeUnits: k, shards = 1, sliceProbability: p, sliceUnits: n } = sinks
  if (count === 0) return 1
  let tail = 0
  for (let i = count; i <= n; i++) {
    tail += Math.exp(
      sinks.exact
        ? logChoose(k, i) + logChoose(n - k, k - i) - logChoose(n, k)
        : logChoose(n, i) + 2 * i * Math.log(p) + (i === n ? 0 : (n - i) * Math.log1p(-p * p))
    )
  }
  // both of one shard
  return tail / shards
}

/** Five standard errors: a right mask is outside once in two million models. */
const ERRORS = 5

/** Three digits, for people. */
export const round = (x: number): string => String(Number(x.toPrecision(3)))

/**
 * The checks that ask only which units an id lights: density, overlap, collisions, id 0 and the placebo. `ids` are
 * those of the data, `apart` those of which no two may have all sinks in common. Pure.
 */
export const maskChecks = (
  sinks: Sink.SinkConfig,
  ids: ReadonlyArray<bigint>,
  apart: ReadonlyArray<bigint> = ids
): ReadonlyArray<HygieneCheck> => {
  const { exact, probability: p, shards = 1, sliceProbability, sliceUnits, units: n } = sinks
  const all = new Set(ids)
  const looked = [...all].slice(0, 256)
  const masks = looked.map((id) => new Set(Sink.unitsOf(sinks, id)))
  const expected = n * p
  /** Five standard errors of the number of units of an id. */
  const spread = exact ? 0 : ERRORS * Math.sqrt(n * p * (1 - sliceProbability))

  const sizes = masks.map((units) => units.size)
  const off = Math.max(...sizes.map((size) => Math.abs(size - expected)))
  const density: HygieneCheck = {
    name: "mask density",
    passed: exact ? off === 0 : off <= spread,
    value: mean(sizes) * sinks.block,
    bound: exact
      ? `exactly ${sinks.active} sinks for every id`
      : `${round(expected * sinks.block)} sinks in the mean, within ${round(spread * sinks.block)} for every id`,
    detail: `${Math.min(...sizes) * sinks.block} to ${Math.max(...sizes) * sinks.block} of ${sinks.pool} sinks for ` +
      `${looked.length} ids`
  }

  const overlaps: Array<number> = []
  masks.forEach((a, i) => {
    for (const b of masks.slice(0, i)) overlaps.push(common(a, b))
  })
  const most = Math.max(0, ...overlaps)
  // Masks of one size overlap independently of each other. Others do not: a large one overlaps with all.
  const k = sinks.activeUnits
  /** Of two ids of one shard; then of any two, of which one in so many pairs is of one. */
  const inSlice = exact
    ? (sliceUnits === 1 ? 0 : (k * (k / sliceUnits) * (1 - k / sliceUnits) * (sliceUnits - k)) / (sliceUnits - 1))
    : sliceUnits * sliceProbability ** 2 * (1 - sliceProbability ** 2)
  const ofPair = inSlice / shards + (expected * sliceProbability) ** 2 * (1 - 1 / shards) / shards
  const variance = ofPair / overlaps.length +
    (exact ? 0 : (4 / masks.length) * expected * sliceProbability ** 2 * (1 - sliceProbability))
  const error = ERRORS * Math.sqrt(variance) / expected + 1e-12
  const share = mean(overlaps) / expected
  const overlap: HygieneCheck = {
    name: "mean overlap",
    passed: Math.abs(share - p) <= error,
    value: share,
    bound: `active / pool = ${round(p)} of an id's sinks, within ${round(error)}`,
    detail: `of ${overlaps.length} pairs of ids`
  }
  const chance = overlaps.length * sharing(sinks, most)
  const largest: HygieneCheck = {
    name: "largest overlap",
    passed: chance >= 1e-6,
    value: most / (expected * p),
    bound: "multiples of the mean overlap; no more than chance gives once in a million models",
    detail:
      `the two most alike of ${looked.length} ids${
        all.size > looked.length ? ` (of ${all.size})` : ""
      } share ${most} of ${round(expected)} units; chance gives ` +
      `${round(Math.min(1, chance))} such pairs`
  }

  const sets = new Map<string, number>()
  const distinct = [...new Set(apart)]
  for (const id of distinct) {
    const key = Sink.unitsOf(sinks, id).join()
    sets.set(key, (sets.get(key) ?? 0) + 1)
  }
  const pairs = [...sets.values()].reduce((sum, count) => sum + (count * (count - 1)) / 2, 0)
  const expectedPairs = (distinct.length * (distinct.length - 1) / 2) * Math.exp(-logChoose(sliceUnits, k)) / shards
  const collisions: HygieneCheck = {
    name: "collisions",
    passed: pairs === 0,
    value: pairs,
    bound: "no two of the repeated ids light all the same sinks",
    detail: `${distinct.length} ids, ${pairs} pairs alike` + (exact
      ? `; a pool of ${n} units, of which an id lights ${k}, gives ${round(expectedPairs)} by chance` +
        (pairs > 0 ? ". More units (a larger pool, smaller blocks, more active) tell them apart" : "")
      : "")
  }

  const zero = new Set(Sink.unitsOf(sinks, 0n))
  const zeroShares = mean(masks.filter((_, i) => looked[i] !== 0n).map((units) => common(zero, units))) / expected
  const zeroError = ERRORS * Math.sqrt(ofPair / masks.length) / expected + 1e-12
  const id0: HygieneCheck = {
    name: "id 0",
    passed: Math.abs(zero.size - expected) <= spread && Math.abs(zeroShares - p * (zero.size / expected)) <= zeroError,
    value: zero.size * sinks.block,
    bound: `as many sinks as any id, ${round(expected * sinks.block)}` +
      `${exact ? "" : ` within ${round(spread * sinks.block)}`}, and no more of them shared with others`,
    detail: `it shares ${round(zeroShares)} of an id's sinks with others, any two ids ${round(share)}`
  }

  const same = [...new Set(ids)].filter((id) => [0, 1, 2].some((seed) => Sink.placeboId(id, seed) === id)).length
  const placebo: HygieneCheck = {
    name: "placebo ids",
    passed: same === 0,
    value: same,
    bound: "no id is its own placebo",
    detail: `${new Set(ids).size} ids, three seeds`
  }
  return [density, overlap, largest, collisions, id0, placebo]
}
