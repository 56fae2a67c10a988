import { describe, expect, it } from "vitest"
import { ofLosses, ofShares } from "../measures/coverage.ts"

/** Lets the test runner hear from this process, which it gives up after a minute of silence. */
const breathe = () => new Promise((resolve) => setImmediate(resolve))

const DRAWS = 1000

/** Three standard errors of a share of .95 of so many draws. */
const luck = 3 * Math.sqrt(0.05 * 0.95 / DRAWS)

describe.each([2, 3, 5, 10])("intervals of 95 %% over %i seeds", (seeds) => {
  it.each([
    ["near 0", 0.005, 0.08],
    ["at a half", 0.4, 0.6],
    ["near 1", 0.92, 0.995]
  ])("hold shares %s in 90 to 98 %%", async (_, from, to) => {
    for (const sequences of [16, 64]) {
      for (const correlation of [0.05, 0.1]) {
        await breathe()
        const covered = ofShares(DRAWS, { seeds, from, to, correlation, sequences })
        expect(covered).toBeGreaterThan(0.9 - luck)
        expect(covered).toBeLessThan(0.98 + luck)
      }
      await breathe()
      // seeds that differ by less than the model holds possible: more, never fewer
      expect(ofShares(500, { seeds, from, to, correlation: 0, sequences })).toBeGreaterThan(0.93)
    }
  })

  it("hold losses in 90 to 98 %", async () => {
    for (const sequences of [16, 64]) {
      for (const bySeed of [0, 0.05, 0.2]) {
        await breathe()
        const covered = ofLosses(DRAWS, { seeds, loss: 2, bySeed, sequences })
        expect(covered).toBeGreaterThan(0.9 - luck)
        expect(covered).toBeLessThan(0.98 + luck)
      }
    }
  })
})
