/**
 * Statistics over seeds, sequences and scores: intervals, tests and fits in float64. Pure; whatever is drawn at random
 * comes from a seed.
 */
import { random } from "../Random.ts"

/** An estimate and the interval that holds the true value with the confidence asked for. */
export interface Interval {
  readonly value: number
  readonly low: number
  readonly high: number
}

type Numbers = ArrayLike<number>

const lazily = <A>(make: () => A): () => A => {
  let made: A | undefined
  return () => made ??= make()
}

const list = (values: Numbers): Float64Array => Float64Array.from(values)

const sorted = (values: Numbers): Float64Array => list(values).sort()

/** The mean; NaN of nothing. */
export const mean = (values: Numbers): number => {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += values[i]!
  return sum / values.length
}

/** The unbiased variance (divided by n - 1); NaN of fewer than two values. */
export const variance = (values: Numbers): number => {
  const middle = mean(values)
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += (values[i]! - middle) ** 2
  return values.length < 2 ? NaN : sum / (values.length - 1)
}

/** The quantile at share `q` of sorted values, between neighbours linear. */
const quantileOf = (values: Float64Array, q: number): number => {
  if (values.length === 0) return NaN
  const at = q * (values.length - 1)
  const low = Math.floor(at)
  // a value itself is that, also where the next one is infinite
  return at === low ? values[low]! : values[low]! + (at - low) * (values[low + 1]! - values[low]!)
}

/** Whether all values are numbers: what is computed of any other is NaN, never a number that leaves it out. */
export const known = (values: Numbers): boolean => {
  for (let i = 0; i < values.length; i++) if (Number.isNaN(values[i])) return false
  return true
}

/** Whether all values are numbers and none is infinite. */
export const finite = (values: Numbers): boolean => {
  for (let i = 0; i < values.length; i++) if (!Number.isFinite(values[i])) return false
  return true
}

/** The quantile at share `q` of values in any order; NaN of nothing, and where a value is. */
export const quantile = (values: Numbers, q: number): number => known(values) ? quantileOf(sorted(values), q) : NaN

// ---------------------------------------------------------------------------------------------------------------
// Distributions

/** log Gamma(x) for x > 0, to 14 digits: Stirling's series, moved up to where it converges. */
export const logGamma = (x: number): number => {
  let shift = 0
  for (; x < 12; x++) shift += Math.log(x)
  const r = 1 / (x * x)
  const series = (1 / 12 - r * (1 / 360 - r * (1 / 1260 - r * (1 / 1680 - r * (1 / 1188 - r * 691 / 360360))))) / x
  return (x - 0.5) * Math.log(x) - x + 0.5 * Math.log(2 * Math.PI) + series - shift
}

/** The regularized incomplete beta function I_x(a, b): a continued fraction, evaluated by Lentz's method. */
const incompleteBeta = (x: number, a: number, b: number): number => {
  if (x <= 0) return 0
  if (x >= 1) return 1
  // the fraction converges fast on one side of the mean only
  if (x > (a + 1) / (a + b + 2)) return 1 - incompleteBeta(1 - x, b, a)
  const tiny = 1e-300
  const away = (v: number): number => (Math.abs(v) < tiny ? tiny : v)
  let c = 1
  let d = 1 / away(1 - ((a + b) * x) / (a + 1))
  let fraction = d
  for (let m = 1; m < 500; m++) {
    const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m))
    d = 1 / away(1 + even * d)
    c = away(1 + even / c)
    fraction *= c * d
    const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1))
    d = 1 / away(1 + odd * d)
    c = away(1 + odd / c)
    fraction *= c * d
    if (Math.abs(c * d - 1) < 1e-15) break
  }
  const front = logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log1p(-x)
  return (Math.exp(front) * fraction) / a
}

/** P(T <= t) of Student's t with any positive degrees of freedom. */
export const tDistribution = (t: number, freedom: number): number => {
  const tail = incompleteBeta(freedom / (freedom + t * t), freedom / 2, 0.5) / 2
  return t > 0 ? 1 - tail : tail
}

/** The x at which a rising function reaches a value, by bisection; `low` and `high` must enclose it. */
const invert = (f: (x: number) => number, value: number, low: number, high: number): number => {
  for (let i = 0; i < 200 && high - low > 1e-14 * Math.abs(high); i++) {
    const middle = (low + high) / 2
    if (f(middle) < value) low = middle
    else high = middle
  }
  return (low + high) / 2
}

/** The t below which Student's distribution has the share `p`, for 0.5 <= p < 1. */
export const tQuantile = (p: number, freedom: number): number => {
  let high = 2
  while (tDistribution(high, freedom) < p) high *= 2
  return invert((t) => tDistribution(t, freedom), p, 0, high)
}

/**
 * log P(Z <= z) of the standard normal distribution, exact to 1e-13 relative also where the probability itself would be
 * too small for a number.
 */
export const logNormalDistribution = (z: number): number => {
  const density = -0.5 * z * z - 0.5 * Math.log(2 * Math.PI)
  if (z < -2) {
    // continued fraction of the tail (Laplace)
    let fraction = -z
    for (let k = 120; k >= 1; k--) fraction = -z + k / fraction
    return density - Math.log(fraction)
  }
  if (z > 3) return Math.log1p(-Math.exp(logNormalDistribution(-z)))
  // 1/2 + density (z + z^3/3 + z^5/15 + ...)
  let term = z
  let sum = z
  for (let k = 1; Math.abs(term) > 1e-17 * Math.abs(sum); k++) {
    term *= (z * z) / (2 * k + 1)
    sum += term
  }
  return Math.log(0.5 + Math.exp(density) * sum)
}

const normalQuantile = (p: number): number => invert((z) => Math.exp(logNormalDistribution(z)), p, -40, 40)

// ---------------------------------------------------------------------------------------------------------------
// Intervals and decisions

/**
 * The mean with Student's interval: for the seeds of an arm. Of one value the interval is unbounded, since one seed is
 * not a result; of none all is NaN.
 */
export const tInterval = (values: Numbers, level = 0.95): Interval => {
  const value = mean(values)
  if (values.length === 1) return { value, low: -Infinity, high: Infinity }
  const half = tQuantile((1 + level) / 2, values.length - 1) * Math.sqrt(variance(values) / values.length)
  return { value, low: value - half, high: value + half }
}

/**
 * Wilson's interval of a share: `successes` of `trials`. Unlike the mean's, it is right at 0 and 1 and for few trials.
 */
export const shareInterval = (successes: number, trials: number, level = 0.95): Interval => {
  const z = normalQuantile((1 + level) / 2)
  const value = successes / trials
  const middle = (value + (z * z) / (2 * trials)) / (1 + (z * z) / trials)
  const spread = Math.sqrt((value * (1 - value)) / trials + (z * z) / (4 * trials * trials))
  const half = (z * spread) / (1 + (z * z) / trials)
  return { value, low: Math.max(0, middle - half), high: Math.min(1, middle + half) }
}

/** Where a number must lie: what is outside of it is left out of its interval. */
export interface Within {
  /** Default -Infinity. */
  readonly least?: number
  /** Default Infinity. */
  readonly most?: number
}

/**
 * The mean over seeds with Student's interval, from which what is impossible is left out: the true value cannot lie
 * there, so the interval holds it as often as before. Where `errors` are given, the standard errors of the values, it is
 * not narrower than they make it: over few sequences seeds agree by chance, and then Student's is too narrow. Of one
 * value it is that of its error, or all that is possible where there is none; of none all is NaN.
 */
export const meanOverSeeds = (
  values: Numbers,
  { errors, least = -Infinity, level = 0.95, most = Infinity }: Within & {
    readonly errors?: Numbers
    readonly level?: number
  } = {}
): Interval => {
  const n = values.length
  const ofErrors = errors === undefined
    ? (n === 1 ? Infinity : 0)
    : normalQuantile((1 + level) / 2) * Math.sqrt(mean(list(errors).map((error) => error ** 2)) / n)
  const { high, value } = tInterval(values, level)
  const half = Math.max(n === 1 ? 0 : high - value, ofErrors)
  return { value, low: Math.max(least, value - half), high: Math.min(most, value + half) }
}

/** Shares at which the posterior of `shareOverSeeds` is computed: in equal steps of the angle whose squared sine they are. */
const SHARES = 128
/** Correlations within a seed, as many quantiles of Beta(1/2, 4). */
const CORRELATIONS = 16

/** What the posterior needs of each share and correlation, whatever the data: a and b of Beta(a, b), and their logGammas. */
const gridOfShares = lazily(() => {
  const at = (q: number) => invert((x) => incompleteBeta(x, 0.5, 4), q, 0, 1)
  const strengths = Array.from({ length: CORRELATIONS }, (_, r) => 1 / at((r + 0.5) / CORRELATIONS) - 1)
  return Array.from({ length: SHARES }, (_, m) => {
    const share = Math.sin(((m + 0.5) / SHARES) * (Math.PI / 2)) ** 2
    return strengths.map((strength) => {
      const [a, b] = [share * strength, (1 - share) * strength]
      return { a, b, strength, constant: logGamma(strength) - logGamma(a) - logGamma(b) }
    })
  })
})

/**
 * A share over seeds, each of which has its own and shows it in so many trials: sequences. The interval is that of the
 * posterior of their common mean in the beta-binomial model, so it takes both seeds and trials into account, lies in
 * [0, 1] and is never without width. A priori the mean is Jeffreys' Beta(1/2, 1/2), and the correlation of the trials of
 * a seed Beta(1/2, 4): two seeds hardly tell it, and it is rarely above a third. `shares[s]` of `trials[s]`, which need
 * not be whole: of sequences whose own values are shares, as many trials as vary as much. NaN of nothing, and where a
 * share is.
 */
export const shareOverSeeds = (shares: Numbers, trials: Numbers, level = 0.95): Interval => {
  const value = mean(shares)
  if (!(value >= 0 && value <= 1) || !known(trials)) return { value: NaN, low: NaN, high: NaN }
  const yes = Array.from(shares, (share, s) => share * trials[s]!)
  const grid = gridOfShares()
  const ends = grid[0]!.map(({ strength }) => {
    let sum = 0
    for (let s = 0; s < yes.length; s++) sum += logGamma(strength + trials[s]!)
    return sum
  })
  const logs = grid.map((row) =>
    row.map(({ a, b, constant }, r) => {
      let sum = yes.length * constant - ends[r]!
      for (let s = 0; s < yes.length; s++) sum += logGamma(a + yes[s]!) + logGamma(b + trials[s]! - yes[s]!)
      return sum
    })
  )
  const top = Math.max(...logs.map((row) => Math.max(...row)))
  const masses = logs.map((row) => row.reduce((sum, log) => sum + Math.exp(log - top), 0))
  const all = masses.reduce((sum, mass) => sum + mass, 0)
  const quantileAt = (q: number): number => {
    let [m, below] = [0, 0]
    while (m < SHARES - 1 && below + masses[m]! < q * all) below += masses[m++]!
    return Math.sin(((m + Math.min(1, (q * all - below) / masses[m]!)) / SHARES) * (Math.PI / 2)) ** 2
  }
  return {
    value,
    // where none of the trials, or all, succeeded, nothing speaks against 0, or 1
    low: value === 0 ? 0 : Math.min(value, quantileAt((1 - level) / 2)),
    high: value === 1 ? 1 : Math.max(value, quantileAt((1 + level) / 2))
  }
}

/**
 * How many seeds would be needed in all for Student's interval to end before a bound, if mean and spread stayed as they
 * are: of a mean at `distance` from it, and values with a standard deviation of `spread`. Infinity where it lies on it.
 */
export const seedsNeeded = (distance: number, spread: number, level = 0.95): number => {
  if (!(distance > 0) || !Number.isFinite(spread)) return Infinity
  const enough = (n: number) => tQuantile((1 + level) / 2, n - 1) * spread / Math.sqrt(n) <= distance
  let high = 2
  while (!enough(high)) {
    high *= 2
    if (high > 2 ** 20) return Infinity
  }
  let low = high / 2
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2)
    if (middle >= 2 && enough(middle)) high = middle
    else low = middle
  }
  return high
}

/** How often, and from which seed, a bootstrap draws. */
export interface BootstrapOptions {
  readonly seed?: number
  /** Default 1000. */
  readonly resamples?: number
  /** Default 0.95. */
  readonly level?: number
}

/**
 * The percentile bootstrap of a statistic of items, by their indices: `statistic` is given as many indices as there are
 * items, drawn with replacement. Resamples in which it is not a number are left out; where it is none of the items as
 * they are, the interval is NaN too.
 */
export const bootstrapIndices = (
  items: number,
  statistic: (indices: Uint32Array) => number,
  { level = 0.95, resamples = 1000, seed = 0 }: BootstrapOptions = {}
): Interval => {
  const draw = random(seed, "bootstrap")
  const indices = Uint32Array.from({ length: items }, (_, i) => i)
  const value = statistic(indices)
  if (Number.isNaN(value)) return { value, low: NaN, high: NaN }
  const drawn: Array<number> = []
  for (let r = 0; r < resamples; r++) {
    for (let i = 0; i < items; i++) indices[i] = draw.below(items)
    const one = statistic(indices)
    if (!Number.isNaN(one)) drawn.push(one)
  }
  const all = sorted(drawn)
  return { value, low: quantileOf(all, (1 - level) / 2), high: quantileOf(all, (1 + level) / 2) }
}

/** The bootstrap interval of the mean. */
export const bootstrap = (values: Numbers, options?: BootstrapOptions): Interval =>
  bootstrapIndices(values.length, (indices) => mean(pick(values, indices)), options)

const pick = (values: Numbers, indices: Uint32Array): Float64Array => Float64Array.from(indices, (i) => values[i]!)

/**
 * The mean of a[i] - b[i] with its bootstrap interval: both are of the same sequences, which are drawn together, so
 * that what makes a sequence easy or hard cancels. Throws a RangeError when the lengths differ.
 */
export const pairedBootstrap = (a: Numbers, b: Numbers, options?: BootstrapOptions): Interval => {
  if (a.length !== b.length) throw new RangeError(`pairs need two lists of one length, got ${a.length} and ${b.length}`)
  return bootstrap(Float64Array.from(a, (x, i) => x - b[i]!), options)
}

/** What an interval says of a difference: its whole is above 0, below 0, or it holds 0. */
export type Decision = "higher" | "lower" | "not decided"

/** Whether a is higher or lower than b, that is, whether their intervals do not overlap. NaN decides nothing. */
export const decide = (a: Interval, b: Interval): Decision =>
  !known([a.value, a.low, a.high, b.value, b.low, b.high])
    ? "not decided"
    : a.low > b.high
    ? "higher"
    : a.high < b.low
    ? "lower"
    : "not decided"

// ---------------------------------------------------------------------------------------------------------------
// Tests

/**
 * The two-sample test of Kolmogorov and Smirnov: the largest distance of the two distributions, and the probability of
 * one at least as large where both samples come from one distribution. Exact for up to a million pairs and samples
 * without ties (with ties p is on the high side), asymptotic above. NaN of nothing, and where a value is.
 */
export const kolmogorovSmirnov = (a: Numbers, b: Numbers): { readonly distance: number; readonly p: number } => {
  const [x, y] = [sorted(a), sorted(b)]
  const [n, m] = [x.length, y.length]
  if (n === 0 || m === 0 || !known(a) || !known(b)) return { distance: NaN, p: NaN }
  let steps = 0
  for (let i = 0, j = 0; i < n && j < m;) {
    const at = Math.min(x[i]!, y[j]!)
    while (i < n && x[i]! <= at) i++
    while (j < m && y[j]! <= at) j++
    // in steps of 1 / (n m), which are whole numbers
    steps = Math.max(steps, Math.abs(i * m - j * n))
  }
  const distance = steps / (n * m)
  if (steps === 0) return { distance, p: 1 }
  if (n * m > 1e6) {
    const lambda = distance * Math.sqrt((n * m) / (n + m))
    let p = 0
    for (let k = 1; k <= 100; k++) p += 2 * (k % 2 === 1 ? 1 : -1) * Math.exp(-2 * k * k * lambda * lambda)
    return { distance, p: Math.min(1, Math.max(0, p)) }
  }
  // Of all orders, which are equally likely and a path over the grid each, the share that gets as far apart.
  const apart = new Float64Array(m + 1)
  for (let i = 0; i <= n; i++) {
    for (let j = 0; j <= m; j++) {
      if (Math.abs(i * m - j * n) >= steps) apart[j] = 1
      // the last of the i + j places belongs to x with probability i / (i + j)
      else if (i + j > 0) apart[j] = (apart[j]! * i + (j === 0 ? 0 : apart[j - 1]! * j)) / (i + j)
    }
  }
  return { distance, p: apart[m]! }
}

/** Ranks from 1; equal values share the mean of their ranks. All are NaN where a value is: nothing is above or below it. */
export const ranks = (values: Numbers): Float64Array => {
  if (!known(values)) return new Float64Array(values.length).fill(NaN)
  const order = Array.from({ length: values.length }, (_, i) => i).sort((i, j) =>
    values[i]! < values[j]! ? -1 : values[i]! > values[j]! ? 1 : 0
  )
  const rank = new Float64Array(values.length)
  for (let from = 0; from < order.length;) {
    let to = from + 1
    while (to < order.length && values[order[to]!] === values[order[from]!]) to++
    for (let i = from; i < to; i++) rank[order[i]!] = (from + 1 + to) / 2
    from = to
  }
  return rank
}

/** Pearson's correlation; NaN where one of the lists does not vary. */
export const pearson = (a: Numbers, b: Numbers): number => {
  const [x, y] = [mean(a), mean(b)]
  let [ab, aa, bb] = [0, 0, 0]
  for (let i = 0; i < a.length; i++) {
    ab += (a[i]! - x) * (b[i]! - y)
    aa += (a[i]! - x) ** 2
    bb += (b[i]! - y) ** 2
  }
  return ab / Math.sqrt(aa * bb)
}

/** Spearman's rank correlation. */
export const spearman = (a: Numbers, b: Numbers): number => pearson(ranks(a), ranks(b))

/** Kendall's rank correlation, tau-b: ties count for neither order. */
export const kendall = (a: Numbers, b: Numbers): number => {
  let [agree, x, y] = [0, 0, 0]
  for (let i = 0; i < a.length; i++) {
    for (let j = 0; j < i; j++) {
      const [s, t] = [Math.sign(a[i]! - a[j]!), Math.sign(b[i]! - b[j]!)]
      agree += s * t
      x += s * s
      y += t * t
    }
  }
  return agree / Math.sqrt(x * y)
}

// ---------------------------------------------------------------------------------------------------------------
// Fits

/** A line y = alpha + beta x. */
export interface LinearFit {
  readonly alpha: Interval
  readonly beta: Interval
  /** Share of the variance of y that the line explains. */
  readonly r2: number
}

/** The least-squares line with Student's intervals: three points or more, not all of one x, else NaN. */
export const linearFit = (x: Numbers, y: Numbers, level = 0.95): LinearFit => {
  const n = x.length
  const [mx, my] = [mean(x), mean(y)]
  let [xx, xy, yy] = [0, 0, 0]
  for (let i = 0; i < n; i++) {
    xx += (x[i]! - mx) ** 2
    xy += (x[i]! - mx) * (y[i]! - my)
    yy += (y[i]! - my) ** 2
  }
  const slope = xy / xx
  const residual = Math.max(0, yy - slope * xy)
  const sigma = n > 2 ? Math.sqrt(residual / (n - 2)) : NaN
  const t = n > 2 ? tQuantile((1 + level) / 2, n - 2) : NaN
  const around = (value: number, error: number): Interval => {
    const half = t * error
    return { value, low: value - half, high: value + half }
  }
  return {
    alpha: around(my - slope * mx, sigma * Math.sqrt(1 / n + (mx * mx) / xx)),
    beta: around(slope, sigma / Math.sqrt(xx)),
    r2: yy === 0 ? NaN : 1 - residual / yy
  }
}

/** P(success) = 1 / (1 + exp(-(alpha + beta x))). */
export interface LogisticFit {
  readonly alpha: Interval
  readonly beta: Interval
  /** False where the likelihood has no maximum (a threshold of x divides all successes from all failures): no fit. */
  readonly converged: boolean
}

/** The likeliest logistic curve for `successes[i]` of `trials[i]` at `x[i]`, by Newton, with Wald's intervals. */
export const logisticFit = (x: Numbers, successes: Numbers, trials: Numbers, level = 0.95): LogisticFit => {
  const z = normalQuantile((1 + level) / 2)
  let [alpha, beta] = [0, 0]
  let converged = false
  let [va, vb] = [NaN, NaN]
  for (let round = 0; round < 100 && !converged; round++) {
    let [ga, gb, haa, hab, hbb] = [0, 0, 0, 0, 0]
    for (let i = 0; i < x.length; i++) {
      const p = 1 / (1 + Math.exp(-(alpha + beta * x[i]!)))
      const miss = successes[i]! - trials[i]! * p
      const weight = trials[i]! * p * (1 - p)
      ga += miss
      gb += miss * x[i]!
      haa += weight
      hab += weight * x[i]!
      hbb += weight * x[i]! * x[i]!
    }
    const det = haa * hbb - hab * hab
    // Where successes and failures are apart the curve gets ever steeper and its weights vanish.
    if (!(det > 1e-9 * (haa * hbb)) || Math.abs(beta) > 1e4) break
    const [da, db] = [(hbb * ga - hab * gb) / det, (haa * gb - hab * ga) / det]
    alpha += da
    beta += db
    va = hbb / det
    vb = haa / det
    converged = Math.abs(da) + Math.abs(db) < 1e-10 * (1 + Math.abs(alpha) + Math.abs(beta))
  }
  const around = (value: number, spread: number): Interval => {
    const half = z * Math.sqrt(spread)
    return converged ? { value, low: value - half, high: value + half } : { value: NaN, low: NaN, high: NaN }
  }
  return { alpha: around(alpha, va), beta: around(beta, vb), converged }
}

/** The harmonic mean; 0 where a value is 0, NaN of nothing or of a negative value. */
export const harmonicMean = (values: Numbers): number => {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += values[i]! < 0 ? NaN : 1 / values[i]!
  return values.length / sum
}
