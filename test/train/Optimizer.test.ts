import { describe, expect, it } from "vitest"
import { learningRateAt, OptimizerConfig, scheduleProblem } from "../../src/train/Optimizer.ts"

const peak = 0.01

/** The rate at some steps, in units of the peak. */
const rates = (config: Partial<OptimizerConfig>, steps: number, at: ReadonlyArray<number>) => {
  const optimizer = new OptimizerConfig({ learningRate: peak, ...config })
  return at.map((step) => learningRateAt(optimizer, step, steps) / peak)
}

const expectRates = (got: ReadonlyArray<number>, want: ReadonlyArray<number>): void => {
  expect(got.length).toBe(want.length)
  got.forEach((rate, i) => expect(rate).toBeCloseTo(want[i]!, 12))
}

describe("warm-up", () => {
  it("rises in equal steps from peak / warmupSteps, and the first step after it has the peak", () => {
    for (const schedule of ["cosine", "linear", "constant", "wsd"] as const) {
      expectRates(rates({ schedule, warmupSteps: 4 }, 104, [0, 1, 2, 3, 4]), [0.25, 0.5, 0.75, 1, 1])
    }
  })

  it("takes 5 % of the steps by default, and may be left out", () => {
    expectRates(rates({ schedule: "constant" }, 200, [0, 4, 9, 10]), [0.1, 0.5, 1, 1])
    expectRates(rates({ schedule: "cosine", warmupSteps: 0 }, 100, [0]), [1])
  })
})

describe("cosine", () => {
  it("is at the peak, half way and at the end where a cosine is, and falls by quarters as it does", () => {
    // 100 steps after 4 of warm-up, down to a tenth: half way (1 + .1) / 2, a quarter .1 + .45 * (1 + sqrt(1/2))
    const quarter = 0.1 + 0.45 * (1 + Math.SQRT1_2)
    const config = { schedule: "cosine", warmupSteps: 4 } as const
    expectRates(rates(config, 104, [4, 29, 54, 79, 104]), [1, quarter, 0.55, 1.1 - quarter, 0.1])
    expectRates(rates({ ...config, minLearningRateRatio: 0 }, 104, [54, 104]), [0.5, 0])
  })

  it("stays at its end for whoever trains on", () => {
    expectRates(rates({ schedule: "cosine", warmupSteps: 4 }, 104, [105, 1000]), [0.1, 0.1])
  })
})

describe("linear", () => {
  it("falls by equal amounts to the end", () => {
    const config = { schedule: "linear", warmupSteps: 4, minLearningRateRatio: 0.2 } as const
    expectRates(rates(config, 104, [4, 5, 54, 104, 200]), [1, 0.992, 0.6, 0.2, 0.2])
  })
})

describe("constant", () => {
  it("stays at the peak, whatever the minimum", () => {
    expectRates(
      rates({ schedule: "constant", warmupSteps: 2, minLearningRateRatio: 0.3 }, 10, [2, 5, 9, 10]),
      [1, 1, 1, 1]
    )
  })
})

describe("wsd", () => {
  it("is stable until the last decayRatio of the steps, then falls by equal amounts to the end", () => {
    const config = { schedule: "wsd", warmupSteps: 10 } as const
    // the last 20 of 100 steps
    expectRates(rates(config, 100, [10, 79, 80, 81, 90, 99, 100, 150]), [1, 1, 1, 0.955, 0.55, 0.145, 0.1, 0.1])
    expectRates(rates({ ...config, decayRatio: 0.5, minLearningRateRatio: 0 }, 100, [50, 75, 100]), [1, 0.5, 0])
  })
})

describe("a schedule that does not fit into the steps", () => {
  const problem = (config: Partial<OptimizerConfig>, steps: number) =>
    scheduleProblem(new OptimizerConfig(config), steps)

  it("is refused by the names of the fields", () => {
    for (const field of ["warmupSteps", "decayRatio", "training.steps"]) {
      expect(problem({ schedule: "wsd", warmupSteps: 81 }, 100)).toContain(field)
    }
    expect(problem({ schedule: "wsd", decayRatio: 1 }, 100)).toMatch(/5 steps of warm-up.* and 100 of decay/)
    for (const schedule of ["cosine", "linear", "constant"] as const) {
      expect(problem({ schedule, warmupSteps: 11 }, 10)).toMatch(/warmupSteps of 11 are more than the 10 steps/)
      expect(problem({ schedule, warmupSteps: 10 }, 10)).toBe(undefined)
    }
  })

  it("is none of those that a default or a few steps make", () => {
    expect(problem({ schedule: "wsd", warmupSteps: 80 }, 100)).toBe(undefined)
    for (const schedule of ["cosine", "linear", "constant", "wsd"] as const) {
      for (let steps = 1; steps < 50; steps++) expect(problem({ schedule }, steps)).toBe(undefined)
    }
  })
})

describe("any schedule", () => {
  it("is positive and at most the peak in runs of a few steps", () => {
    for (const schedule of ["cosine", "linear", "constant", "wsd"] as const) {
      for (const steps of [1, 2, 3, 5, 21]) {
        for (const rate of rates(
          { schedule },
          steps,
          Array.from({ length: steps }, (_, i) => i)
        )) {
          expect(rate).toBeGreaterThan(0)
          expect(rate).toBeLessThan(1 + 1e-12)
        }
      }
    }
  })

  it("scales with the peak", () => {
    const at = (learningRate: number) => learningRateAt(new OptimizerConfig({ learningRate, warmupSteps: 1 }), 7, 20)
    expect(at(0.02) / at(0.01)).toBeCloseTo(2, 12)
  })
})

describe("OptimizerConfig", () => {
  it("refuses rates, shares and decays that make no sense", () => {
    for (const bad of [
      { learningRate: 0 },
      { minLearningRateRatio: 1.1 },
      { warmupSteps: -1 },
      { beta2: 2 },
      { weightDecay: -1 }
    ]) {
      expect(() => new OptimizerConfig(bad)).toThrow()
    }
  })
})
