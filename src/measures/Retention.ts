/**
 * What is left of a memory as it ages: forgetting curves, half-lives and recognition, from losses. Pure; whatever is drawn
 * at random comes from a seed.
 *
 * Memory is in nats a token: the loss of foils, never trained on, minus that of the sequences. Times are optimizer steps.
 */
import { DataError } from "../Errors.ts"
import { random } from "../Random.ts"
import * as Statistics from "./Statistics.ts"

// ---------------------------------------------------------------------------------------------------------------
// One curve

/** A memory at an age. */
export interface RetentionPoint {
  /** Steps since the last exposure, 0 or more. */
  readonly since: number
  /** Nats a token; may be negative. */
  readonly memory: number
}

/** How a memory decays: exp(-t / tau), or (1 + t / tau)^-psi (Wixted and Ebbesen, 1991). */
export type RetentionLaw = "exponential" | "power"

/** The parameters of memory(t) = b + a f(t / tau). */
export interface RetentionCurve {
  readonly law: RetentionLaw
  /** Steps; NaN of a curve that does not fall. */
  readonly tau: number
  /** Of the power law. */
  readonly psi?: number
  /** a + b: memory at t = 0, nats. */
  readonly initial: number
  /** b / (a + b): the share that is never forgotten. */
  readonly residual: number
}

/** A curve, and how well it fits. */
export interface RetentionFit extends RetentionCurve {
  /** Corrected for few points (AICc), of each law; Infinity of a law that the points are too few for. */
  readonly aic: { readonly exponential: number; readonly power: number }
  /** Steps until half of the memory at t = 0 is left; undefined: not before the last time that was observed. */
  readonly halfLife: number | undefined
  /** Root mean square error, nats. */
  readonly rmse: number
  /** The longest time that was observed, steps. */
  readonly observed: number
  /** The memory that the fit has at a time, nats. */
  readonly at: (since: number) => number
}

const decayed = (t: number, tau: number, psi: number | undefined): number =>
  psi === undefined ? Math.exp(-t / tau) : Math.exp(-psi * Math.log1p(t / tau))

/** The memory of a curve `since` steps after the last exposure, nats. */
export const memoryAt = ({ initial, psi, residual, tau }: RetentionCurve, since: number): number =>
  // nothing decays
  Number.isNaN(tau) ? initial : initial * (residual + (1 - residual) * decayed(since, tau, psi))

/** Steps until half of the memory at t = 0 is left; Infinity where half of it is never forgotten. */
const halfLifeOf = ({ psi, residual, tau }: RetentionCurve): number => {
  if (!(residual < 0.5)) return Infinity
  const left = (0.5 - residual) / (1 - residual)
  return psi === undefined ? -tau * Math.log(left) : tau * Math.expm1(-Math.log(left) / psi)
}

/** Numbers, and the sums of them that least squares needs. */
interface Column {
  readonly values: Float64Array
  readonly mean: number
  /** Sum of squares, and of squared distances from the mean. */
  readonly squares: number
  readonly spread: number
}

const columnOf = (values: Float64Array): Column => {
  const n = values.length
  let sum = 0
  for (let i = 0; i < n; i++) sum += values[i]!
  const mean = sum / n
  let spread = 0
  for (let i = 0; i < n; i++) spread += (values[i]! - mean) ** 2
  return { values, mean, squares: spread + n * mean * mean, spread }
}

interface Linear {
  readonly a: number
  readonly b: number
  /** Sum of squared errors, to 1e-15 of the sum of squares. */
  readonly rss: number
}

/** Least squares of y = b + a f, neither of them negative. */
const project = (f: Column, y: Column): Linear => {
  const n = y.values.length
  let fy = 0
  for (let i = 0; i < n; i++) fy += (f.values[i]! - f.mean) * (y.values[i]! - y.mean)
  const a = f.spread > 0 ? fy / f.spread : 0
  const b = y.mean - a * f.mean
  if (a >= 0 && b >= 0) return { a, b, rss: y.spread - a * fy }
  // The errors are convex: where the best point is forbidden, the best allowed one has one of the two at 0.
  const level = Math.max(0, y.mean)
  const product = fy + n * f.mean * y.mean
  const slope = f.squares > 0 ? Math.max(0, product / f.squares) : 0
  const [flat, falling] = [y.squares - n * level * y.mean, y.squares - slope * product]
  return falling < flat ? { a: slope, b: 0, rss: falling } : { a: 0, b: level, rss: flat }
}

/** A box that is searched, one range a dimension. */
type Box = ReadonlyArray<readonly [low: number, high: number]>

/** The lowest point of a function in a box, near `start`, by the simplex of Nelder and Mead (1965). */
const descend = (
  f: (x: ReadonlyArray<number>) => number,
  start: ReadonlyArray<number>,
  step: ReadonlyArray<number>,
  box: Box
): ReadonlyArray<number> => {
  const inside = (x: ReadonlyArray<number>) => x.map((v, d) => Math.min(box[d]![1], Math.max(box[d]![0], v)))
  const at = (x: ReadonlyArray<number>) => {
    const point = inside(x)
    return { x: point, value: f(point) }
  }
  // away from a wall, which would flatten the simplex
  const corner = (d: number) =>
    start.map((v, e) => e !== d ? v : v + step[d]! > box[d]![1] ? v - step[d]! : v + step[d]!)
  const simplex = [at(start), ...start.map((_, d) => at(corner(d)))]
  const last = start.length
  for (let round = 0; round < 200; round++) {
    simplex.sort((p, q) => p.value - q.value)
    const [best, worst] = [simplex[0], simplex[last]]
    // near the lowest point of errors that are noise, a step of a hundredth is nothing
    const near = worst!.value - best!.value <= 1e-7 * best!.value ? 1e-2 : 1e-5
    if (simplex.every(({ x }) => x.every((v, d) => Math.abs(v - best!.x[d]!) < near))) break
    const middle = start.map((_, d) => {
      let sum = 0
      for (let i = 0; i < last; i++) sum += simplex[i]!.x[d]!
      return sum / last
    })
    const along = (by: number) => at(middle.map((v, d) => v + by * (v - worst!.x[d]!)))
    const reflected = along(1)
    if (reflected.value < best!.value) {
      const expanded = along(2)
      simplex[last] = expanded.value < reflected.value ? expanded : reflected
    } else if (reflected.value < simplex[last - 1]!.value) {
      simplex[last] = reflected
    } else {
      const contracted = reflected.value < worst!.value ? along(0.5) : along(-0.5)
      if (contracted.value < Math.min(reflected.value, worst!.value)) simplex[last] = contracted
      else for (let i = 1; i <= last; i++) simplex[i] = at(simplex[i]!.x.map((v, d) => (v + best!.x[d]!) / 2))
    }
  }
  return simplex.reduce((p, q) => q.value < p.value ? q : p).x
}

/** `count` numbers from the one to the other, evenly. */
const spread = ([low, high]: readonly [number, number], count: number): ReadonlyArray<number> =>
  Array.from({ length: count }, (_, i) => low + ((high - low) * i) / (count - 1))

const taus = 32
const psis = 10
/** Where nothing falls, a fall is found this often. */
const falseAlarm = 0.05

/** Akaike's criterion corrected for few points (Hurvich and Tsai, 1989); `k` counts the variance of the errors too. */
const aicc = (rss: number, n: number, k: number): number =>
  n - k - 1 > 0 ? n * Math.log(rss / n) + 2 * k + (2 * k * (k + 1)) / (n - k - 1) : Infinity

/**
 * A fit of memories at given times. What depends on the times alone is done once, so that the many resamples of a bootstrap
 * are fitted as thoroughly as the curve itself.
 */
const fitter = (times: Float64Array): (memory: Float64Array) => RetentionFit => {
  const n = times.length
  const distinct = [...new Set(times)].sort((x, y) => x - y)
  const observed = distinct.at(-1)!
  const gap = Math.min(...distinct.slice(1).map((t, i) => t - distinct[i]!))
  // Decay that is over before the first point says nothing about t = 0.
  const tauRange = [Math.log(Math.max(gap / 5, distinct[0]!)), Math.log(30 * observed)] as const
  const psiRange = [Math.log(0.05), Math.log(5)] as const
  const column = (tau: number, psi: number | undefined): Column => {
    const values = new Float64Array(n)
    for (let i = 0; i < n; i++) values[i] = decayed(times[i]!, tau, psi)
    return columnOf(values)
  }
  const at = (x: ReadonlyArray<number>) => column(Math.exp(x[0]!), x.length > 1 ? Math.exp(x[1]!) : undefined)
  const search = (box: Box, grid: ReadonlyArray<ReadonlyArray<number>>) => {
    const columns = grid.map(at)
    const step = box.map(([low, high], d) => (high - low) / ((d === 0 ? taus : psis) - 1) / 2)
    return (y: Column) => {
      let [best, lowest] = [0, Infinity]
      for (let i = 0; i < columns.length; i++) {
        const { rss } = project(columns[i]!, y)
        if (rss < lowest) [best, lowest] = [i, rss]
      }
      const x = descend((x) => project(at(x), y).rss, grid[best]!, step, box)
      return { tau: Math.exp(x[0]!), psi: x.length > 1 ? Math.exp(x[1]!) : undefined, ...project(at(x), y) }
    }
  }
  const tauGrid = spread(tauRange, taus)
  const exponential = search([tauRange], tauGrid.map((tau) => [tau]))
  const power = search(
    [tauRange, psiRange],
    tauGrid.flatMap((tau) => spread(psiRange, psis).map((psi) => [tau, psi]))
  )
  const none = columnOf(new Float64Array(n))

  return (memory) => {
    const y = columnOf(memory)
    const found = { exponential: exponential(y), power: power(y) }
    // Of two curves that are exact but for rounding, the one with less rounding is not the better one.
    const floor = 1e-12 * y.squares
    const errors = (law: RetentionLaw) => Math.max(floor, found[law].rss)
    const aic = {
      exponential: aicc(errors("exponential"), n, 4),
      power: aicc(errors("power"), n, 5)
    }
    // Does it fall at all? Else tau is noise, and the residual with it. The F test of a and tau, with 2 and n - 3 degrees of
    // freedom, has its probability in closed form.
    const flat = project(none, y)
    const p = (errors("exponential") / Math.max(floor, flat.rss)) ** ((n - 3) / 2)
    const falls = p < falseAlarm
    const law = falls && aic.power < aic.exponential ? "power" : "exponential"
    const { a, b, psi, tau } = falls ? found[law] : { ...flat, psi: undefined, tau: NaN }
    const curve: RetentionCurve = {
      law,
      tau,
      ...(psi === undefined ? {} : { psi }),
      initial: a + b,
      residual: b / (a + b)
    }
    const half = halfLifeOf(curve)
    return {
      ...curve,
      aic,
      halfLife: half < observed ? half : undefined,
      rmse: Math.sqrt(Statistics.mean(times.map((t, i) => (memory[i]! - memoryAt(curve, t)) ** 2))),
      observed,
      at: (since) => memoryAt(curve, since)
    }
  }
}

/** Points with numbers that can be fitted. */
const checked = (points: ReadonlyArray<RetentionPoint>): ReadonlyArray<RetentionPoint> => {
  for (const { memory, since } of points) {
    if (!(since >= 0 && since < Infinity)) {
      throw new DataError({
        detail:
          `retention: since must be 0 or more steps after the last exposure, got ${since}. Leave out probes of a ` +
          "sequence before it was shown"
      })
    }
    if (!Number.isFinite(memory)) {
      throw new DataError({
        detail:
          `retention: memory must be a finite number of nats, got ${memory} at since ${since}. Leave out probes ` +
          "whose loss is not finite"
      })
    }
  }
  return points
}

const byTime = (points: ReadonlyArray<RetentionPoint>): ReadonlyArray<RetentionPoint> =>
  [...checked(points)].sort((p, q) => p.since - q.since)

/** Whether there is something to forget, and enough to see how. */
const fits = (points: ReadonlyArray<RetentionPoint>, least: number): boolean => {
  if (new Set(points.map(({ since }) => since)).size < 4) return false
  const first = points.filter(({ since }) => since === points[0]!.since)
  return Statistics.mean(first.map(({ memory }) => memory)) > least
}

/** When a curve is worth a fit. */
export interface RetentionFitOptions {
  /** The memory at the first time must be above it, nats a token: else there is hardly anything to forget. Default 0.1. */
  readonly least?: number
}

/**
 * The law of forgetting that fits best: memory(t) = b + a f(t / tau), with a and b not negative, by least squares. Of the
 * exponential and the power law it is that with the lower AICc, from the squared errors, which counts the power law's psi
 * against it; so a power law needs 7 points. tau is between a fifth of the smallest distance of two times (or the first
 * time, where there is none at 0) and 30 times the longest time, psi between 0.05 and 5.
 *
 * A curve that does not fall more than noise does (F test of the exponential law against a constant, 5 %) is the constant:
 * residual 1, no half-life, tau NaN. Where the memory has not levelled off before the last time the residual is an
 * extrapolation; trust its interval (`retentionOf`), not its value. So is the initial memory where there is no time at 0.
 *
 * Undefined with fewer than 4 different times, or where the memory at the first of them is not above `least`. Throws a
 * DataError for a time that is negative, or a number that is not finite.
 */
export const fitRetention = (
  points: ReadonlyArray<RetentionPoint>,
  { least = 0.1 }: RetentionFitOptions = {}
): RetentionFit | undefined => {
  const sorted = byTime(points)
  if (!fits(sorted, least)) return undefined
  return fitter(Float64Array.from(sorted, ({ since }) => since))(Float64Array.from(sorted, ({ memory }) => memory))
}

// ---------------------------------------------------------------------------------------------------------------
// Curves of many sequences

/** How the memory of one sequence aged. */
export interface SequenceRetention {
  /** Of the run that it was measured in. */
  readonly seed: number
  /** At different times, in any order. */
  readonly points: ReadonlyArray<RetentionPoint>
}

/** How curves of forgetting are fitted, and their intervals drawn. */
export interface RetentionOptions extends RetentionFitOptions {
  /** Default 200. */
  readonly resamples?: number
  /** Of the resampling. Default 0. */
  readonly seed?: number
  /** Of the intervals. Default 0.95. */
  readonly level?: number
}

/** The fit of a mean curve, with intervals. */
export interface Retention extends Omit<RetentionCurve, "residual">, Pick<RetentionFit, "aic" | "rmse" | "observed"> {
  /** b / (a + b). */
  readonly residual: Statistics.Interval
  /** Steps until half of the memory at t = 0 is left; null: not before the last time that was observed. */
  readonly halfLife: { readonly value: number | null; readonly low: number | null; readonly high: number | null }
}

/**
 * The forgetting of many sequences: `fitRetention` of their mean curve, at the times that every sequence has; all count
 * alike, whatever their seed. Undefined where that is.
 *
 * Intervals are percentiles of a bootstrap that draws the sequences of each seed anew and, from two seeds on, the seeds
 * too (Davison and Hinkley, 1997, section 3.8), and chooses the law each time. So they cover which sequences were planted
 * and, with several seeds, how much runs differ. They do not cover a shape that neither law has, nor, of one seed, other
 * runs; of two or three seeds they understate how runs differ (by a factor of sqrt(1 - 1 / seeds)) and overstate how
 * sequences do. A half-life's end is null where it is beyond what was observed. Of a single sequence nothing can be drawn
 * anew: the intervals hold all that is possible.
 *
 * Takes about a tenth of a second for 200 resamples at 20 times. Throws a DataError for a time that is negative or twice
 * in a sequence, or a number that is not finite.
 */
export const retentionOf = (
  curves: ReadonlyArray<SequenceRetention>,
  { least = 0.1, level = 0.95, resamples = 200, seed = 0 }: RetentionOptions = {}
): Retention | undefined => {
  const seen = new Map<number, number>()
  for (const { points } of curves) {
    for (const { since } of checked(points)) seen.set(since, (seen.get(since) ?? 0) + 1)
    if (new Set(points.map(({ since }) => since)).size < points.length) {
      throw new DataError({ detail: "retention: a sequence has two memories at one time; give one curve a sequence" })
    }
  }
  const times = [...seen].flatMap(([since, count]) => count === curves.length ? [since] : []).sort((s, t) => s - t)
  // a row a sequence, by seed
  const seeds = new Map<number, Array<Float64Array>>()
  for (const { points, seed } of curves) {
    const memories = new Map(points.map(({ memory, since }) => [since, memory]))
    seeds.set(seed, [...seeds.get(seed) ?? [], Float64Array.from(times, (t) => memories.get(t)!)])
  }
  const strata = [...seeds.values()]
  const meanOf = (rows: ReadonlyArray<Float64Array>): Float64Array => {
    const sum = new Float64Array(times.length)
    for (const row of rows) for (let t = 0; t < sum.length; t++) sum[t]! += row[t]!
    return sum.map((v) => v / rows.length)
  }
  const whole = meanOf(strata.flat())
  if (!fits(times.map((since, t) => ({ since, memory: whole[t]! })), least)) return undefined
  const fit = fitter(Float64Array.from(times))
  const { at: _, halfLife, residual, ...main } = fit(whole)
  const { observed } = main
  const around = (residualEnds: readonly [number, number],
    ends: readonly [number | null, number | null]): Retention => ({
      ...main,
      residual: { value: residual, low: residualEnds[0], high: residualEnds[1] },
      halfLife: { value: halfLife ?? null, low: ends[0], high: ends[1] }
    })
  if (curves.length < 2) return around([0, 1], [0, null])

  const draw = random(seed, "retention")
  const drawn: Array<RetentionFit> = []
  for (let r = 0; r < resamples; r++) {
    const rows = strata.flatMap((own) => {
      const stratum = strata.length > 1 ? strata[draw.below(strata.length)]! : own
      return stratum.map(() => stratum[draw.below(stratum.length)]!)
    })
    const one = fit(meanOf(rows))
    // a resample without any memory has no share of it
    if (one.initial > 0) drawn.push(one)
  }
  const [low, high] = [(1 - level) / 2, (1 + level) / 2]
  const residuals = drawn.map((one) => one.residual)
  // What lies beyond is at least `observed`, and any size: the interval's ends are as far out as that allows.
  const end = (q: number, beyond: number): number | null => {
    const value = Statistics.quantile(drawn.map((one) => one.halfLife ?? beyond), q)
    return value < observed ? value : null
  }
  return around(
    [Statistics.quantile(residuals, low), Statistics.quantile(residuals, high)],
    [end(low, observed), end(high, Number.MAX_VALUE)]
  )
}

// ---------------------------------------------------------------------------------------------------------------
// Exposures and pairs

/** What an exposure of a sequence did, and what was lost until the next. Losses in nats a token. */
export interface Tooth {
  /** Loss just before the step that shows the sequence. */
  readonly before: number
  /** Loss just after it. */
  readonly after: number
  /** What the exposure took off the loss: before - after. */
  readonly amplitude: number
  /** What came back until the next exposure: its before - this after; absent at the last. */
  readonly decay?: number
}

/** The saw-tooth of a sequence that is shown again and again (MemSinks, figure 7). */
export interface Teeth {
  readonly teeth: ReadonlyArray<Tooth>
  /** Means over the last third of the exposures, rounded up; NaN of nothing, so the decay of one exposure is. */
  readonly late: {
    readonly before: number
    readonly after: number
    readonly amplitude: number
    readonly decay: number
  }
}

/** The saw-tooth of losses around each exposure, in the order of the exposures. */
export const teethOf = (exposures: ReadonlyArray<Pick<Tooth, "before" | "after">>): Teeth => {
  const teeth = exposures.map(({ after, before }, i): Tooth => ({
    before,
    after,
    amplitude: before - after,
    ...(i + 1 < exposures.length ? { decay: exposures[i + 1]!.before - after } : {})
  }))
  const last = teeth.slice(teeth.length - Math.ceil(teeth.length / 3))
  const meanOf = (name: keyof Tooth) => Statistics.mean(last.flatMap((tooth) => tooth[name] ?? []))
  return {
    teeth,
    late: {
      before: meanOf("before"),
      after: meanOf("after"),
      amplitude: meanOf("amplitude"),
      decay: meanOf("decay")
    }
  }
}

/**
 * Recognition, by two-alternative forced choice (Orhan, 2023): the share of pairs in which the sequence has a lower loss
 * than its foil, which was never trained on; ties are half. 0.5 is guessing. NaN where a loss is. Throws a DataError when
 * there are no pairs, or not as many foils as losses.
 */
export const recognition = (losses: ArrayLike<number>, foils: ArrayLike<number>): number => {
  if (losses.length !== foils.length || losses.length === 0) {
    throw new DataError({
      detail: `recognition: losses and foils must be pairs, at least one, got ${losses.length} losses and ` +
        `${foils.length} foils. Give the foil of each sequence at the place of its sequence`
    })
  }
  let sum = 0
  for (let i = 0; i < losses.length; i++) {
    const margin = foils[i]! - losses[i]!
    sum += margin > 0 ? 1 : margin < 0 ? 0 : margin === 0 ? 0.5 : NaN
  }
  return sum / losses.length
}
