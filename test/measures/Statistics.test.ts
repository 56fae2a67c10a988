import { describe, expect, it } from "vitest"
import * as Statistics from "../../src/measures/Statistics.ts"
import { random } from "../../src/Random.ts"

const normals = (seed: number, count: number): Float64Array => {
  const draw = random(seed, "normals")
  return Float64Array.from({ length: count },
    () => Math.sqrt(-2 * Math.log(1 - draw.uniform())) * Math.cos(2 * Math.PI * draw.uniform()))
}

/** Every way to choose `k` of the numbers 0 .. n - 1. */
const subsets = (n: number, k: number): ReadonlyArray<ReadonlyArray<number>> =>
  k === 0 ? [[]] : n < k ? [] : [...subsets(n - 1, k), ...subsets(n - 1, k - 1).map((s) => [...s, n - 1])]

describe("distributions", () => {
  it("have the values of tables", () => {
    expect(Statistics.logGamma(0.5)).toBeCloseTo(Math.log(Math.sqrt(Math.PI)), 13)
    expect(Statistics.logGamma(11)).toBeCloseTo(Math.log(3628800), 12)
    // two-sided 95 %: the textbook column, to its three decimals; one degree of freedom is Cauchy's distribution
    const table = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262]
    table.forEach((t, i) => expect(Statistics.tQuantile(0.975, i + 1)).toBeCloseTo(t, 3))
    expect(Statistics.tQuantile(0.975, 1e6)).toBeCloseTo(1.95996, 4)
    expect(Statistics.tQuantile(0.9, 1)).toBeCloseTo(Math.tan(Math.PI * 0.4), 11)
    expect(Statistics.tDistribution(-1.5, 7) + Statistics.tDistribution(1.5, 7)).toBeCloseTo(1, 14)
    expect(Math.exp(Statistics.logNormalDistribution(1.959963984540054))).toBeCloseTo(0.975, 14)
    expect(Statistics.logNormalDistribution(0)).toBeCloseTo(-Math.LN2, 15)
    // the tail where the probability is below the smallest float64, 1 - z^-2 + 3 z^-4 times density over z
    const z = 50
    const expected = -0.5 * z * z - Math.log(z * Math.sqrt(2 * Math.PI)) + Math.log(1 - z ** -2 + 3 * z ** -4)
    expect(Statistics.logNormalDistribution(-z)).toBeCloseTo(expected, 8)
  })

  it("of the normal have no seam where the method changes", () => {
    for (const z of [-2, 3]) {
      const [below, above] = [z - 1e-7, z + 1e-7].map(Statistics.logNormalDistribution)
      const slope = Math.exp(-0.5 * z * z - 0.5 * Math.log(2 * Math.PI) - Statistics.logNormalDistribution(z))
      expect(((above! - below!) / 2e-7 - slope) / slope).toBeCloseTo(0, 6)
    }
  })
})

describe("intervals", () => {
  it("of three seeds are Student's", () => {
    const { high, low, value } = Statistics.tInterval([1, 2, 4])
    expect(value).toBeCloseTo(7 / 3, 14)
    // t(0.975, 2) * sqrt(variance / 3), variance 7/3
    expect(high - value).toBeCloseTo(4.302652729911275 * Math.sqrt(7 / 9), 9)
    expect(value - low).toBeCloseTo(high - value, 12)
    expect(Statistics.tInterval([5, 5, 5])).toEqual({ value: 5, low: 5, high: 5 })
  })

  it("of one seed decide nothing, of none are no numbers", () => {
    const one = Statistics.tInterval([3])
    expect(one).toEqual({ value: 3, low: -Infinity, high: Infinity })
    expect(Statistics.decide(one, Statistics.tInterval([9, 9.01, 9.02]))).toBe("not decided")
    expect(Statistics.tInterval([]).value).toBeNaN()
    expect(Statistics.decide(Statistics.tInterval([]), { value: 0, low: 0, high: 0 })).toBe("not decided")
  })

  it("decide by not overlapping", () => {
    const at = (low: number, high: number) => ({ value: (low + high) / 2, low, high })
    expect(Statistics.decide(at(1, 2), at(3, 4))).toBe("lower")
    expect(Statistics.decide(at(3, 4), at(1, 2))).toBe("higher")
    expect(Statistics.decide(at(1, 3), at(3, 4))).toBe("not decided")
    // values far apart, and yet
    expect(Statistics.decide(at(2, 9), at(1, 3))).toBe("not decided")
    expect(Statistics.decide(at(1, 3), at(2, 9))).toBe("not decided")
  })

  it("hold the truth as often as they say: t, bootstrap and share", () => {
    let [t, boot, share] = [0, 0, 0]
    const rounds = 300
    for (let r = 0; r < rounds; r++) {
      const values = normals(r, 8)
      const one = Statistics.tInterval(values, 0.9)
      if (one.low <= 0 && one.high >= 0) t++
      const two = Statistics.bootstrap(normals(r, 40), { seed: r, resamples: 120, level: 0.9 })
      if (two.low <= 0 && two.high >= 0) boot++
      const draw = random(r, "share")
      let successes = 0
      for (let i = 0; i < 40; i++) if (draw.uniform() < 0.1) successes++
      const three = Statistics.shareInterval(successes, 40, 0.9)
      if (three.low <= 0.1 && three.high >= 0.1) share++
    }
    // 90 % within four standard errors; the percentile bootstrap is a little short, the share's a step function
    expect(Math.abs(t / rounds - 0.9)).toBeLessThan(0.06)
    expect(Math.abs(boot / rounds - 0.88)).toBeLessThan(0.06)
    expect(Math.abs(share / rounds - 0.92)).toBeLessThan(0.06)
  })

  it("of a share stay in 0 .. 1 and do not vanish at its ends", () => {
    expect(Statistics.shareInterval(0, 10).low).toBe(0)
    // z^2 / (n + z^2)
    expect(Statistics.shareInterval(0, 10).high).toBeCloseTo(3.841459 / 13.841459, 6)
    expect(Statistics.shareInterval(10, 10).low).toBeCloseTo(10 / 13.841459, 6)
  })

  it("of pairs do without what the pairs have in common", () => {
    const hard = normals(1, 50).map((x) => 10 * x)
    const better = hard.map((x, i) => x - 0.5 + 0.1 * normals(2, 50)[i]!)
    const paired = Statistics.pairedBootstrap(better, hard, { seed: 3 })
    expect(paired.high).toBeLessThan(-0.4)
    expect(Statistics.decide(Statistics.bootstrap(better), Statistics.bootstrap(hard))).toBe("not decided")
    expect(() => Statistics.pairedBootstrap([1], [1, 2])).toThrow("one length, got 1 and 2")
  })

  it("of a bootstrap depend on the seed alone", () => {
    const values = normals(4, 30)
    expect(Statistics.bootstrap(values, { seed: 1 })).toEqual(Statistics.bootstrap(values, { seed: 1 }))
    expect(Statistics.bootstrap(values, { seed: 1 })).not.toEqual(Statistics.bootstrap(values, { seed: 2 }))
  })
})

describe("the test of Kolmogorov and Smirnov", () => {
  it("gives p = 1 for equal lists", () => {
    expect(Statistics.kolmogorovSmirnov([3, 1, 2, 2], [2, 3, 1, 2])).toEqual({ distance: 0, p: 1 })
  })

  it("counts the orders that are as far apart, as enumeration does", () => {
    const a = [0.1, 0.2, 0.3, 0.9]
    const b = [0.15, 0.6, 0.7, 0.8, 1]
    const { distance, p } = Statistics.kolmogorovSmirnov(a, b)
    const all = [...a, ...b].sort()
    const distanceOf = (chosen: ReadonlyArray<number>): number => {
      let [x, y, most] = [0, 0, 0]
      all.forEach((_, i) => {
        if (chosen.includes(i)) x += 1 / 4
        else y += 1 / 5
        most = Math.max(most, Math.abs(x - y))
      })
      return most
    }
    const orders = subsets(9, 4)
    expect(orders).toHaveLength(126)
    expect(distance).toBeCloseTo(distanceOf(a.map((x) => all.indexOf(x))), 12)
    expect(p).toBeCloseTo(orders.filter((o) => distanceOf(o) > distance - 1e-9).length / 126, 12)
  })

  it("tells tiny probabilities apart: all of 20 below all of 20 is 2 of 40 choose 20", () => {
    const low = Float64Array.from({ length: 20 }, (_, i) => i)
    const { distance, p } = Statistics.kolmogorovSmirnov(low, low.map((x) => x + 100))
    expect(distance).toBe(1)
    expect(p / (2 / 137846528820)).toBeCloseTo(1, 9)
  })

  it("of large samples is near the exact one", () => {
    const [a, b] = [normals(5, 950), normals(6, 1050).map((x) => x + 0.06)]
    const exact = Statistics.kolmogorovSmirnov(a, b)
    const more = Statistics.kolmogorovSmirnov(normals(5, 1050), normals(6, 1050).map((x) => x + 0.06))
    const lambda = exact.distance * Math.sqrt((950 * 1050) / 2000)
    const asymptotic = (l: number) => 2 * (Math.exp(-2 * l * l) - Math.exp(-8 * l * l) + Math.exp(-18 * l * l))
    expect(Math.abs(exact.p - asymptotic(lambda))).toBeLessThan(0.02)
    expect(more.p).toBeCloseTo(asymptotic(more.distance * Math.sqrt(1050 / 2)), 3)
  })
})

describe("rank correlations", () => {
  it("share ranks among equals", () => {
    expect([...Statistics.ranks([10, 30, 10, 20])]).toEqual([1.5, 4, 1.5, 3])
  })

  it("are 1 for any rising relation, and follow the formula", () => {
    expect(Statistics.spearman([1, 2, 3, 4], [1, 10, 100, 1000])).toBeCloseTo(1, 14)
    // 1 - 6 sum d^2 / (n (n^2 - 1)), d = 0 1 1 0 -> 1 - 12/60
    expect(Statistics.spearman([1, 2, 3, 4], [1, 3, 2, 4])).toBeCloseTo(0.8, 14)
    // five pairs of six agree
    expect(Statistics.kendall([1, 2, 3, 4], [1, 3, 2, 4])).toBeCloseTo(4 / 6, 14)
    // a tie in x: 4 of the 5 other pairs agree, sqrt(5 * 6) below
    expect(Statistics.kendall([1, 1, 2, 3], [1, 2, 4, 3])).toBeCloseTo(3 / Math.sqrt(30), 14)
    expect(Statistics.pearson([1, 1], [1, 2])).toBeNaN()
  })
})

describe("fits", () => {
  it("find a line exactly, and hold its slope as often as they say", () => {
    const exact = Statistics.linearFit([0, 1, 2, 5], [1, 3, 5, 11])
    expect(exact.beta.value).toBeCloseTo(2, 14)
    expect(exact.alpha.value).toBeCloseTo(1, 13)
    expect(exact.beta.high - exact.beta.low).toBeLessThan(1e-6)
    expect(exact.r2).toBeCloseTo(1, 14)
    // residuals 1/6, -1/3, 1/6 with one degree of freedom; t(0.975, 1) = 12.706
    const three = Statistics.linearFit([1, 2, 3], [1, 2, 4])
    expect(three.beta.value).toBeCloseTo(1.5, 13)
    expect(three.beta.high - 1.5).toBeCloseTo((12.7062047 * Math.sqrt(1 / 6)) / Math.SQRT2, 5)
    expect(three.alpha.high - three.alpha.value).toBeCloseTo(12.7062047 * Math.sqrt((1 / 6) * (1 / 3 + 4 / 2)), 5)
    expect(three.r2).toBeCloseTo(1 - 1 / 6 / (14 / 3), 13)
    const x = [0, 1, 2, 3, 4, 5, 6]
    let [slope, start] = [0, 0]
    for (let r = 0; r < 400; r++) {
      const noise = normals(r, 7)
      const fit = Statistics.linearFit(x, x.map((v, i) => 0.3 + 0.1 * v + noise[i]!), 0.9)
      if (fit.beta.low <= 0.1 && fit.beta.high >= 0.1) slope++
      if (fit.alpha.low <= 0.3 && fit.alpha.high >= 0.3) start++
    }
    expect(Math.abs(slope / 400 - 0.9)).toBeLessThan(0.06)
    expect(Math.abs(start / 400 - 0.9)).toBeLessThan(0.06)
    expect(Statistics.linearFit([0, 1], [0, 1]).beta.low).toBeNaN()
  })

  it("find a logistic curve from its own expectations, and its spread from counts", () => {
    const x = [0, 1, 2, 3, 4]
    const trials = x.map(() => 1000)
    const rate = (v: number) => 1 / (1 + Math.exp(2 - 0.8 * v))
    const fit = Statistics.logisticFit(x, x.map((v) => 1000 * rate(v)), trials)
    expect(fit.converged).toBe(true)
    expect(fit.alpha.value).toBeCloseTo(-2, 8)
    expect(fit.beta.value).toBeCloseTo(0.8, 8)
    // at one point of x = 0 the intercept's information is n p (1 - p), the odds' logarithm's
    const wide = Statistics.logisticFit([0, 0, 1, 1], [30, 20, 60, 70], [100, 100, 100, 100])
    expect((wide.alpha.high - wide.alpha.low) / 2).toBeCloseTo(1.959964 / Math.sqrt(200 * 0.25 * 0.75), 5)
    expect(wide.beta.value).toBeCloseTo(Math.log(65 / 35) - Math.log(25 / 75), 8)
  })

  it("of data that a threshold divides do not pretend to have converged", () => {
    const fit = Statistics.logisticFit([0, 1, 2, 3], [0, 0, 10, 10], [10, 10, 10, 10])
    expect(fit.converged).toBe(false)
    expect(fit.beta.value).toBeNaN()
  })
})

describe("means", () => {
  it("harmonic are 0 where one value is, and pulled to the smallest", () => {
    expect(Statistics.harmonicMean([0.5, 1])).toBeCloseTo(2 / 3, 14)
    expect(Statistics.harmonicMean([0, 1, 1])).toBe(0)
    expect(Statistics.harmonicMean([-0.1, 1])).toBeNaN()
    expect(Statistics.harmonicMean([])).toBeNaN()
  })

  it("and quantiles are those of numpy", () => {
    expect(Statistics.variance([1, 2, 4])).toBeCloseTo(7 / 3, 14)
    expect(Statistics.quantile([4, 1, 3, 2], 0.25)).toBeCloseTo(1.75, 14)
    expect(Statistics.quantile([4, 1, 3, 2], 1)).toBe(4)
  })
})
