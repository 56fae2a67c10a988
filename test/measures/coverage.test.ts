import { describe, expect, it } from "vitest"
import { ofCosts, ofLosses, ofShares } from "./coverage.ts"

// 300 draws each: within 90 to 98 % but for three standard errors; test/slow has more draws, seeds and shares
describe("intervals of 95 %", () => {
  it.each([
    [2, 0.01, 0.08],
    [3, 0.4, 0.6],
    [10, 0.92, 0.99]
  ])("hold shares over %i seeds between %f and %f", (seeds, from, to) => {
    const covered = ofShares(300, { seeds, from, to, sequences: 32, correlation: 0.05 })
    expect(covered).toBeGreaterThan(0.9 - 0.052)
    expect(covered).toBeLessThanOrEqual(1)
  })

  it.each([1, 2, 3, 10])("hold losses over %i seeds", (seeds) => {
    const covered = ofLosses(300, { seeds, loss: 2, bySeed: seeds === 1 ? 0 : 0.1, sequences: 32 })
    expect(covered).toBeGreaterThan(0.9 - 0.03)
    expect(covered).toBeLessThan(0.99)
  })

  it("are not those of a bootstrap of two seeds", () => {
    expect(ofLosses(200, { seeds: 2, loss: 2, bySeed: 0.1, sequences: 32, method: "percentile" })).toBeLessThan(0.6)
  })

  it.each([2, 3, 5, 10])("hold what an arm costs over %i seeds, paired, also where it varies more than others",
    (seeds) => {
      for (const noise of [1, 3.7]) {
        const covered = ofCosts(600, { seeds, noise, arms: 4, method: "paired" })
        expect(covered).toBeGreaterThan(0.92)
        expect(covered).toBeLessThan(0.98)
      }
    })

  it("are not those of the variance of all arms, which hold an arm that varies more too rarely", () => {
    const covered = (noise: number) => ofCosts(600, { seeds: 3, noise, arms: 11, method: "pooled" })
    expect(covered(1)).toBeGreaterThan(0.92)
    expect(covered(3.7)).toBeLessThan(0.8)
  })
})
