import { describe, expect, it } from "vitest"
import type { Fit } from "../../pipelines/dynamics/Report.ts"
import { DataError } from "../../src/Errors.ts"
import * as Retention from "../../src/measures/Retention.ts"
import { type Random, random } from "../../src/Random.ts"

/** 0, 1, 2, 4, ..., 512. */
const doubling = [0, ...Array.from({ length: 10 }, (_, i) => 2 ** i)]
/** 0, 1, 4, ..., 361. */
const squares = Array.from({ length: 20 }, (_, i) => i * i)

const normal = (draw: Random): number =>
  Math.sqrt(-2 * Math.log(1 - draw.uniform())) * Math.cos(2 * Math.PI * draw.uniform())

interface Truth {
  readonly law: Retention.RetentionLaw
  readonly initial: number
  readonly residual: number
  readonly memory: (t: number) => number
  /** Where memory is half of what it was at 0, by hand. */
  readonly halfLife: number
}

const truths: ReadonlyArray<Truth> = [
  { law: "exponential", initial: 2, residual: 0, memory: (t) => 2 * Math.exp(-t / 60), halfLife: 60 * Math.LN2 },
  // 0.6 + 1.4 f = 1
  {
    law: "exponential",
    initial: 2,
    residual: 0.3,
    memory: (t) => 0.6 + 1.4 * Math.exp(-t / 60),
    halfLife: 60 * Math.log(1.4 / 0.4)
  },
  // (1 + t / 10)^-0.5 = 1/2 at t = 30
  { law: "power", initial: 3, residual: 0, memory: (t) => 3 / Math.sqrt(1 + t / 10), halfLife: 30 },
  // 0.2 + 1.8 / (1 + t / 10) = 1
  { law: "power", initial: 2, residual: 0.1, memory: (t) => 0.2 + 1.8 / (1 + t / 10), halfLife: 12.5 }
]

const sampled = (
  memory: (t: number) => number,
  times: ReadonlyArray<number>,
  noise = 0,
  draw = random(0, "noise")
): ReadonlyArray<Retention.RetentionPoint> =>
  times.map((since) => ({ since, memory: memory(since) + noise * normal(draw) }))

const median = (values: ReadonlyArray<number>): number => [...values].sort((a, b) => a - b)[values.length >> 1]!

/** Sequences whose memories share a shape but not a size, with noise of their own at each time. */
const sequences = (
  memory: (t: number, seed: number) => number,
  { each, noise = 0.3, seeds, times = squares }: {
    readonly seeds: number
    readonly each: number
    readonly noise?: number
    readonly times?: ReadonlyArray<number>
  },
  draw: Random
): ReadonlyArray<Retention.SequenceRetention> =>
  Array.from({ length: seeds * each }, (_, i) => {
    const seed = i % seeds
    const size = 0.5 + draw.uniform()
    return { seed, points: sampled((t) => size * memory(t, seed), times, noise, draw) }
  })

describe("the fit of one curve", () => {
  it("of a curve without noise is that curve, whatever the law and the times", () => {
    const draw = random(1, "exact")
    const ragged = [0, 3, 3.5, 11, 12, 40, 95, 96, 200, 333, 500]
    for (const times of [doubling, squares, ragged]) {
      for (const { halfLife, initial, law, memory, residual } of truths) {
        const fit = Retention.fitRetention(draw.shuffle([...sampled(memory, times)]))!
        expect(fit.law).toBe(law)
        expect(fit.initial / initial).toBeCloseTo(1, 4)
        expect(fit.residual).toBeCloseTo(residual, 3)
        expect(fit.halfLife! / halfLife).toBeCloseTo(1, 3)
        expect(fit.observed).toBe(times.at(-1))
        expect(fit.rmse).toBeLessThan(1e-4)
        expect(fit.psi === undefined).toBe(law === "exponential")
        for (const t of [0, 7, 77, halfLife]) {
          expect(Math.abs(fit.at(t) - memory(t))).toBeLessThan(1e-3)
          expect(Retention.memoryAt(fit, t)).toBe(fit.at(t))
        }
        // an exact fit is as good as any: no -Infinity
        expect(Number.isFinite(fit.aic.exponential) && Number.isFinite(fit.aic.power)).toBe(true)
      }
    }
  })

  it("finds half-lives, residuals and the law through noise of 1 % of the memory", () => {
    for (const times of [doubling, squares]) {
      for (const { halfLife, law, memory, residual } of truths) {
        const fits = Array.from({ length: 30 }, (_, seed) =>
          Retention.fitRetention(sampled(memory, times, 0.02, random(seed, "fit")))!)
        const errors = fits.map((fit) => Math.abs(fit.halfLife! / halfLife - 1))
        // 30 draws: half of them within 5 %, all within 20 %
        expect(median(errors)).toBeLessThan(0.05)
        expect(Math.max(...errors)).toBeLessThan(0.2)
        expect(median(fits.map((fit) => Math.abs(fit.residual - residual)))).toBeLessThan(0.03)
        expect(fits.filter((fit) => fit.law === law).length).toBeGreaterThanOrEqual(27)
        for (const fit of fits) expect(fit.aic[fit.law]).toBe(Math.min(fit.aic.exponential, fit.aic.power))
        // less than the noise, of which three or four parameters take their part: of 11 times up to 20 %
        const rmse = median(fits.map((fit) => fit.rmse))
        expect(rmse).toBeLessThan(0.02)
        expect(rmse).toBeGreaterThan(0.0135)
      }
    }
  })

  it("is the lowest of all allowed curves, and AICc is of its errors", () => {
    const draw = random(2, "brute force")
    const log = (low: number, high: number, count: number) =>
      Array.from({ length: count }, (_, i) => low * (high / low) ** (i / (count - 1)))
    for (let round = 0; round < 6; round++) {
      const times = round % 2 === 0 ? doubling : squares
      const { memory } = truths[round % 4]!
      // every other curve has its level far below 0, where b would be negative
      const points = sampled((t) => memory(t) - (round < 3 ? 0 : 0.3), times, 0.1, draw)
      const n = points.length
      const lowest = (fs: ReadonlyArray<(t: number) => number>) => {
        let least = Infinity
        for (const f of fs) {
          const values = points.map(({ since }) => f(since))
          // all mixtures on a fine fan of levels; the best slope for each, not below 0
          for (let b = 0; b < 1; b += 0.02) {
            const fy = points.reduce((sum, { memory }, i) => sum + values[i]! * (memory - b), 0)
            const a = Math.max(0, fy / values.reduce((sum, v) => sum + v * v, 0))
            least = Math.min(least, points.reduce((sum, { memory }, i) => sum + (memory - b - a * values[i]!) ** 2, 0))
          }
        }
        return least
      }
      const taus = log(0.2, 30 * times.at(-1)!, 120)
      const exponential = lowest(taus.map((tau) => (t) => Math.exp(-t / tau)))
      const power = lowest(
        taus.flatMap((tau) => log(0.05, 5, 40).map((psi) => (t: number) => (1 + t / tau) ** -psi))
      )
      const fit = Retention.fitRetention(points)!
      const aicc = (rss: number, k: number) => n * Math.log(rss / n) + 2 * k + (2 * k * (k + 1)) / (n - k - 1)
      // never above what brute force finds, and below it by no more than its coarseness
      expect(fit.aic.exponential).toBeLessThan(aicc(exponential, 4) + 1e-3)
      expect(fit.aic.exponential).toBeGreaterThan(aicc(exponential, 4) - 0.5)
      expect(fit.aic.power).toBeLessThan(aicc(power, 5) + 1e-3)
      expect(fit.aic.power).toBeGreaterThan(aicc(power, 5) - 0.5)
      const own = points.reduce((sum, { memory, since }) => sum + (memory - fit.at(since)) ** 2, 0)
      expect(fit.rmse).toBeCloseTo(Math.sqrt(own / n), 12)
      expect(fit.aic[fit.law]).toBeCloseTo(aicc(own, fit.law === "power" ? 5 : 4), 6)
    }
  })

  it("never has a negative part, also where memory ends below 0", () => {
    for (let seed = 0; seed < 20; seed++) {
      const points = sampled((t) => 1.5 * Math.exp(-t / 30) - 0.2, doubling, 0.05, random(seed, "negative"))
      const fit = Retention.fitRetention(points)!
      expect(fit.residual).toBe(0)
      expect(fit.initial).toBeGreaterThan(0)
      for (const t of [0, 100, 1e6]) expect(fit.at(t)).toBeGreaterThanOrEqual(0)
    }
    // rises: only a constant, its mean, is allowed
    const rising = Retention.fitRetention(sampled((t) => 1 + t / 512, doubling))!
    expect([rising.residual, rising.halfLife]).toEqual([1, undefined])
    expect(rising.at(40)).toBeCloseTo(1 + 1023 / 512 / 11, 12)
  })

  it("has no half-life where more than half is never forgotten, or not within what was observed", () => {
    for (let seed = 0; seed < 10; seed++) {
      const draw = random(seed, "residual")
      const fit = Retention.fitRetention(sampled((t) => 1.2 + 0.8 * Math.exp(-t / 60), squares, 0.02, draw))!
      expect(Math.abs(fit.residual - 0.6)).toBeLessThan(0.05)
      expect(fit.halfLife).toBeUndefined()
    }
    const slow = (t: number) => 2 * Math.exp(-t / 200)
    const until = (last: number) => Retention.fitRetention(sampled(slow, squares.filter((t) => t <= last)))!.halfLife
    // 200 log 2 = 138.6
    expect(until(121)).toBeUndefined()
    expect(until(144)).toBeCloseTo(200 * Math.LN2, 1)
  })

  it("of a curve that does not fall is the constant", () => {
    const exact = Retention.fitRetention(sampled(() => 1.5, doubling))!
    expect(exact).toMatchObject({ law: "exponential", initial: 1.5, residual: 1, halfLife: undefined, rmse: 0,
      tau: NaN })
    expect([exact.at(0), exact.at(1e9)]).toEqual([1.5, 1.5])
    expect(Number.isFinite(exact.aic.exponential) && Number.isFinite(exact.aic.power)).toBe(true)
    const fits = Array.from({ length: 100 },
      (_, seed) => Retention.fitRetention(sampled(() => 1.5, squares, 0.1, random(seed, "flat")))!)
    for (const fit of fits) {
      expect(fit.residual).toBeGreaterThan(0.5)
      expect(fit.halfLife).toBeUndefined()
    }
    // at most the 5 % of the test, of 100 draws
    expect(fits.filter(({ residual }) => residual < 1).length).toBeLessThanOrEqual(10)
    // and yet a fall of that size is seen
    const falling = Retention.fitRetention(
      sampled((t) => 1 + 0.5 * Math.exp(-t / 40), squares, 0.1, random(3, "flat"))
    )!
    expect(falling.residual).toBeLessThan(0.9)
  })

  it("takes a power law from 7 points on, and an exponential from 4", () => {
    const memory = truths[2]!.memory
    for (const count of [4, 5, 6, 7, 8, 10]) {
      const fit = Retention.fitRetention(sampled(memory, doubling.slice(0, count)))!
      expect(Number.isFinite(fit.aic.exponential)).toBe(count > 5)
      expect(Number.isFinite(fit.aic.power)).toBe(count > 6)
      expect(fit.law).toBe(count > 6 ? "power" : "exponential")
    }
  })

  it("is undefined of too few times, or where there is hardly anything to forget", () => {
    const memory = truths[0]!.memory
    expect(Retention.fitRetention([])).toBeUndefined()
    expect(Retention.fitRetention(sampled(memory, [0, 1, 2]))).toBeUndefined()
    expect(Retention.fitRetention(sampled(memory, [0, 1, 2, 2, 1, 0]))).toBeUndefined()
    expect(Retention.fitRetention(sampled(memory, [0, 10, 20, 40]))).toBeDefined()
    const small = sampled((t) => 0.1 * Math.exp(-t / 60), squares)
    expect(Retention.fitRetention(small)).toBeUndefined()
    expect(Retention.fitRetention(small, { least: 0.09 })!.halfLife).toBeCloseTo(60 * Math.LN2, 1)
    // it is the first time that counts, wherever it is listed
    expect(Retention.fitRetention([...sampled(memory, [5, 10, 20, 40]), { since: 0, memory: 0 }])).toBeUndefined()
  })

  it("does not guess wildly at t = 0 where the first time is later", () => {
    // What fell between the first two times would fit a memory of e^(36 / 3) at 0 as well; allowed is 2^5 at most.
    const times = squares.filter((t) => t >= 36)
    for (let seed = 0; seed < 10; seed++) {
      const draw = random(seed, "late")
      const fit = Retention.fitRetention(sampled((t) => t === 36 ? 1.2 : 0.8, times, 0.01, draw))!
      expect(fit.residual).toBeLessThan(1)
      expect(fit.initial).toBeLessThan(0.8 + 0.5 * 32)
    }
  })

  it("names what it cannot fit", () => {
    const points = sampled(truths[0]!.memory, doubling)
    const bad = (point: Retention.RetentionPoint) => () => Retention.fitRetention([...points, point])
    expect(bad({ since: -1, memory: 1 })).toThrow(DataError)
    expect(bad({ since: -1, memory: 1 })).toThrow("since must be 0 or more steps after the last exposure, got -1")
    expect(bad({ since: Infinity, memory: 1 })).toThrow("got Infinity")
    expect(bad({ since: 7, memory: NaN })).toThrow("memory must be a finite number of nats, got NaN at since 7")
  })
})

describe("the fit of many sequences", () => {
  it("has the shape of the report's, and the curve of the mean", () => {
    const draw = random(3, "many")
    for (const { law, memory } of truths) {
      const curves = sequences(memory, { seeds: 2, each: 6, noise: 0.02, times: doubling }, draw)
      const fit: Fit = Retention.retentionOf(curves)!
      const mean = doubling.map((since, t) => ({
        since,
        memory: curves.reduce((sum, { points }) => sum + points[t]!.memory, 0) / curves.length
      }))
      const one = Retention.fitRetention(mean)!
      expect(fit.law).toBe(law)
      expect(Object.keys(fit).sort()).toEqual(
        ["aic", "halfLife", "initial", "law", "observed", ...(law === "power" ? ["psi"] : []), "residual", "rmse",
          "tau"]
      )
      expect(fit.halfLife.value! / one.halfLife!).toBeCloseTo(1, 6)
      expect(fit.residual.value).toBeCloseTo(one.residual, 6)
      expect(fit.tau / one.tau).toBeCloseTo(1, 6)
      expect(fit.halfLife.low!).toBeLessThan(fit.halfLife.value!)
      expect(fit.halfLife.high!).toBeGreaterThan(fit.halfLife.value!)
    }
  })

  it("holds the truth in its intervals as often as it says", () => {
    for (const [{ halfLife, memory, residual }, seeds, each] of [[truths[1]!, 1, 24], [truths[3]!, 3, 8]] as const) {
      let [times, shares] = [0, 0]
      for (let round = 0; round < 40; round++) {
        const data = sequences(memory, { seeds, each }, random(round, "coverage"))
        const fit = Retention.retentionOf(data, { resamples: 100, seed: round })!
        const { high, low } = fit.halfLife
        if (low !== null && low <= halfLife && (high === null || high >= halfLife)) times++
        if (fit.residual.low <= residual && fit.residual.high >= residual) shares++
      }
      // 95 % of 40 is 38, less four standard errors
      expect(times).toBeGreaterThanOrEqual(33)
      expect(shares).toBeGreaterThanOrEqual(33)
    }
  })

  it("is wider at a higher level, with fewer sequences, and where seeds differ", () => {
    const width = (curves: ReadonlyArray<Retention.SequenceRetention>, level = 0.95) => {
      const { high, low } = Retention.retentionOf(curves, { level })!.halfLife
      return high! - low!
    }
    const { memory } = truths[0]!
    const draw = random(5, "width")
    const many = sequences(memory, { seeds: 4, each: 20 }, draw)
    expect(width(many, 0.99)).toBeGreaterThan(width(many, 0.8) * 1.5)
    expect(width(many.slice(0, 12))).toBeGreaterThan(width(many) * 1.5)
    // the seeds' tau are 30, 50, 70, 90: of one run, no interval could know
    const apart = sequences((t, seed) => 2 * Math.exp(-t / (30 + 20 * seed)), { seeds: 4, each: 20 }, draw)
    const strangers = width(apart)
    const alike = width(apart.map(({ points }) => ({ seed: 0, points })))
    expect(strangers).toBeGreaterThan(alike * 1.5)
  })

  it("has ends of null where a half-life is beyond what was observed", () => {
    // half is left at 60 log 11 = 144, the last time but two: noise may hide it
    const near = sequences(
      (t) => 2 * (0.45 + 0.55 * Math.exp(-t / 60)),
      { seeds: 1, each: 8, times: squares.filter((t) => t < 200) },
      random(6, "near")
    )
    const unsure = Retention.retentionOf(near)!
    expect(unsure.halfLife.low).toBeGreaterThan(30)
    expect(unsure.halfLife.high).toBeNull()
    const never = sequences((t) => 2 * (0.7 + 0.3 * Math.exp(-t / 60)), { seeds: 1, each: 30 }, random(7, "never"))
    const sure = Retention.retentionOf(never)!
    expect(sure.halfLife).toEqual({ value: null, low: null, high: null })
    expect(sure.residual.low).toBeGreaterThan(0.5)
    const flat = Retention.retentionOf(sequences(() => 2, { seeds: 2, each: 10 }, random(8, "flat")))!
    expect(flat.residual.high).toBe(1)
    expect(flat.halfLife).toEqual({ value: null, low: null, high: null })
  })

  it("uses the times that every sequence has, and no others", () => {
    const { memory } = truths[0]!
    const full = sequences(memory, { seeds: 2, each: 4 }, random(9, "ragged"))
    const common = squares.filter((_, t) => t % 3 !== 1)
    const ragged = full.map(({ points, seed }, i) => ({
      seed,
      // what only some have is absurd
      points: points.map((point, t) => t % 3 === 1 ? { ...point, memory: 1000 } : point)
        .filter((_, t) => i > 0 || t % 3 !== 1)
    }))
    const only = full.map(({ points, seed }) => ({ seed,
      points: points.filter(({ since }) => common.includes(since)) })
    )
    expect(Retention.retentionOf(ragged)).toEqual(Retention.retentionOf(only))
    expect(Retention.retentionOf([...full, { seed: 0, points: sampled(memory, [0, 1, 4]) }])).toBeUndefined()
  })

  it("depends on the seed alone", () => {
    const curves = sequences(truths[3]!.memory, { seeds: 2, each: 5 }, random(10, "same"))
    expect(Retention.retentionOf(curves, { seed: 1 })).toEqual(Retention.retentionOf(curves, { seed: 1 }))
    const [one, two] = [1, 2].map((seed) => Retention.retentionOf(curves, { seed })!)
    expect(one!.halfLife.value).toBe(two!.halfLife.value)
    expect(one!.halfLife).not.toEqual(two!.halfLife)
  })

  it("of one sequence claims nothing, of none is nothing", () => {
    const [one] = sequences(truths[0]!.memory, { seeds: 1, each: 1, noise: 0.02 }, random(11, "one"))
    const fit = Retention.retentionOf([one!])!
    expect([fit.residual.low, fit.residual.high]).toEqual([0, 1])
    expect(fit.halfLife).toEqual({ value: fit.halfLife.value, low: 0, high: null })
    expect(fit.halfLife.value).toBeGreaterThan(30)
    expect(Retention.retentionOf([])).toBeUndefined()
    const small = sequences(() => 0.05, { seeds: 1, each: 4, noise: 0.001 }, random(12, "small"))
    expect(Retention.retentionOf(small)).toBeUndefined()
    expect(Retention.retentionOf(small, { least: 0 })).toBeDefined()
  })

  it("names a sequence with two memories at one time", () => {
    const points = sampled(truths[0]!.memory, [0, 1, 1, 2, 3])
    expect(() => Retention.retentionOf([{ seed: 0, points }])).toThrow("two memories at one time")
    expect(() => Retention.retentionOf([{ seed: 0, points: [{ since: -1, memory: 1 }] }])).toThrow("got -1")
  })
})

describe("the saw-tooth", () => {
  it("of four exposures, by hand", () => {
    const { late, teeth } = Retention.teethOf([
      { before: 5, after: 4 },
      { before: 4.75, after: 3 },
      { before: 4, after: 2.5 },
      { before: 3, after: 1 }
    ])
    expect(teeth).toEqual([
      { before: 5, after: 4, amplitude: 1, decay: 0.75 },
      { before: 4.75, after: 3, amplitude: 1.75, decay: 1 },
      { before: 4, after: 2.5, amplitude: 1.5, decay: 0.5 },
      { before: 3, after: 1, amplitude: 2 }
    ])
    // a third of four, rounded up, is the last two; the last has no decay
    expect(late).toEqual({ before: 3.5, after: 1.75, amplitude: 1.75, decay: 0.5 })
  })

  it("of one exposure has no decay, and of none no numbers", () => {
    expect(Retention.teethOf([{ before: 2, after: 1 }])).toEqual({
      teeth: [{ before: 2, after: 1, amplitude: 1 }],
      late: { before: 2, after: 1, amplitude: 1, decay: NaN }
    })
    expect(Retention.teethOf([])).toEqual({ teeth: [], late: { before: NaN, after: NaN, amplitude: NaN, decay: NaN } })
  })

  it("averages over a third", () => {
    const draw = random(13, "teeth")
    const exposures = Array.from({ length: 9 }, () => ({ before: 3 + draw.uniform(), after: draw.uniform() }))
    const { late } = Retention.teethOf(exposures)
    expect(late.after).toBeCloseTo((exposures[6]!.after + exposures[7]!.after + exposures[8]!.after) / 3, 14)
    const back = exposures[7]!.before - exposures[6]!.after + exposures[8]!.before - exposures[7]!.after
    expect(late.decay).toBeCloseTo(back / 2, 14)
  })
})

describe("recognition", () => {
  it("is the share of pairs with the lower loss, ties a half", () => {
    expect(Retention.recognition([1, 2, 3, 4], [2, 2, 2, 5])).toBe(0.625)
    expect(Retention.recognition(Float32Array.of(1, 1), Float64Array.of(2, 3))).toBe(1)
    expect(Retention.recognition([3], [2])).toBe(0)
    expect(Retention.recognition([1, NaN], [2, 2])).toBeNaN()
  })

  it("names lists that are no pairs", () => {
    expect(() => Retention.recognition([1, 2], [1])).toThrow(DataError)
    expect(() => Retention.recognition([1, 2], [1])).toThrow("got 2 losses and 1 foils")
    expect(() => Retention.recognition([], [])).toThrow("at least one")
  })
})
