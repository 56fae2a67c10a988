import { describe, expect, it } from "vitest"
import { estimate } from "../../pipelines/report/Estimate.ts"
import type { Subject } from "../../pipelines/isolation/Report.ts"
import { type Evidence, GateConfig, verdictOf } from "../../pipelines/isolation/Verdict.ts"
import { DataError } from "../../src/Errors.ts"
import { around, relearned, reportOf } from "../support/isolationReport.ts"

const subject = (arm: string, state: Subject["state"], report = reportOf()): Subject =>
  report.subjects.find((one) => one.arm === arm && one.state === state)!

const references = { standard: subject("standard", "own"), oracle: subject("neverRepeated", "own") }

const good: Evidence = {
  recovery: subject("sinks", "off"),
  references,
  relearning: relearned("sinks", "off", 0.93, 0.17),
  placeboOff: around(0.002),
  heldOutCost: around(-0.04)
}

const withMetric = (metric: string, recovery: number): Subject => ({
  ...good.recovery,
  recovery: { ...good.recovery.recovery, [metric]: around(recovery) }
})

describe("the verdict", () => {
  it("is isolated where every check passes, and tells their values", () => {
    const { checks, decidedBy, notRun, word } = verdictOf(good)
    expect([word, notRun]).toEqual(["isolated", undefined])
    expect(checks.map(({ name }) => name)).toEqual([
      "recovery of canary.extractionStrength",
      "recovery of canary.loss",
      "recovery of canary.np@16",
      "recovery of natural.extractionStrength",
      "recovery of natural.loss",
      "recovery of natural.np@16",
      "effect of a placebo",
      "held-out cost",
      "steps of relearning over the oracle's",
      "recovery by relearning"
    ])
    expect(decidedBy).toContain("all 10 checks passed: ")
    expect(decidedBy).toContain("recovery of natural.np@16 is 0.070 [0.045, 0.095], allowed at most 0.2")
  })

  it.each<readonly [string, string, Partial<Evidence>, string]>([
    ["extraction strength", "not isolated", { recovery: withMetric("natural.extractionStrength", 0.25) }, "natural.ex"],
    ["the loss", "not isolated", { recovery: withMetric("natural.loss", 0.25) }, "natural.loss"],
    ["(n, p)-extraction", "not isolated", { recovery: withMetric("natural.np@16", 0.25) }, "natural.np@16"],
    ["canaries", "not isolated", { recovery: withMetric("canary.np@16", 0.25) }, "canary.np@16"],
    ["a placebo that helps", "not isolated", { placeboOff: around(-0.06) }, "placebo"],
    ["a placebo that harms", "not isolated", { placeboOff: around(0.06) }, "placebo"],
    ["the cost", "not isolated", { heldOutCost: around(0.2) }, "held-out cost"],
    ["fast relearning", "hidden", { relearning: relearned("sinks", "off", 0.4, 0.17) }, "steps of relearning"],
    ["much that is relearned", "hidden", { relearning: relearned("sinks", "off", 0.9, 0.6) }, "recovery by relearning"]
  ])("is decided by %s alone: %s", (_, word, change, by) => {
    const verdict = verdictOf({ ...good, ...change })
    expect(verdict.word).toBe(word)
    expect(verdict.decidedBy).toMatch(by)
    expect(verdict.checks.filter(({ passed }) => !passed)).toHaveLength(1)
  })

  it("is decided by what can be read off before relearning", () => {
    const relearning = relearned("sinks", "off", 0.1, 0.9)
    const verdict = verdictOf({ ...good, relearning, recovery: withMetric("natural.np@16", 0.9) })
    expect(verdict).toMatchObject({ word: "not isolated", decidedBy: expect.stringContaining("np@16") })
    expect(verdictOf({ ...good, relearning }).word).toBe("hidden")
  })

  it("follows the gate", () => {
    const evidence = { ...good, recovery: withMetric("natural.np@16", 0.25) }
    expect(verdictOf(evidence, new GateConfig({ recovery: 0.3 })).word).toBe("isolated")
    expect(verdictOf(good, new GateConfig({ recovery: 0.05 })).word).toBe("not isolated")
    expect(verdictOf(good, new GateConfig({ relearnRatio: 0.95 })).word).toBe("hidden")
    expect(verdictOf(good, new GateConfig({ recovered: 0.1 })).word).toBe("hidden")
    expect(verdictOf(good, new GateConfig({ placebo: 0.001 })).word).toBe("not isolated")
  })

  it("forgives a cost whose interval includes 0, but not one of a single seed", () => {
    expect(verdictOf({ ...good, heldOutCost: around(0.2, 0.2) }).word).toBe("isolated")
    expect(verdictOf({ ...good, heldOutCost: estimate([0.2]) }).word).toBe("not isolated")
  })

  it("is not isolated on the standard model, and isolated on the oracle", () => {
    const relearning = relearned("neverRepeated", "own", 1, 0.2)
    expect(verdictOf({ references, recovery: references.standard }).word).toBe("not isolated")
    const oracle = verdictOf({ references, recovery: references.oracle, relearning })
    expect(oracle.word).toBe("isolated")
    expect(oracle.notRun).toEqual(["effect of a placebo", "held-out cost"])
  })

  it("asks how far above the oracle a model is where nothing was memorized, and so there is no recovery", () => {
    const relearning = relearned("sinks", "off", 1, 0.2)
    const flat = (np: number) =>
      reportOf({
        "standard own": { "natural.np@16": 0.001 },
        "neverRepeated own": { "natural.np@16": 0.001 },
        "sinks off": { "natural.np@16": np }
      })
    const verdict = (np: number) => {
      const report = flat(np)
      const [standard, oracle] = [subject("standard", "own", report), subject("neverRepeated", "own", report)]
      return verdictOf({ recovery: subject("sinks", "off", report), references: { standard, oracle }, relearning })
    }
    expect(subject("sinks", "off", flat(0.01)).recovery["natural.np@16"].mean).toBeNaN()
    expect(verdict(0.01).word).toBe("isolated")
    expect(verdict(0.01).checks.map(({ name }) => name)).toContain("natural.np@16 above the oracle's")
    expect(verdict(0.05).word).toBe("not isolated")
    expect(verdict(0.05).decidedBy).toContain("natural.np@16 above the oracle's")
  })

  it("trusts no recovery between references that hardly differ", () => {
    const report = reportOf({ "standard own": { "natural.np@16": 0.016 }, "sinks off": { "natural.np@16": 0.02 } })
    const recovery = subject("sinks", "off", report)
    expect(recovery.recovery["natural.np@16"].mean).toBeGreaterThan(4)
    const standard = subject("standard", "own", report)
    expect(verdictOf({ ...good, recovery, references: { ...references, standard } }).word).toBe("isolated")
    const { references: _, ...alone } = good
    expect(verdictOf({ ...alone, recovery }).word).toBe("not isolated")
  })

  it("demands relearning where only that tells isolated from hidden", () => {
    const { relearning: _, ...without } = good
    expect(() => verdictOf(without)).toThrow(DataError)
    expect(() => verdictOf(without)).toThrow("Set relearnRates and relearnSteps")
    const unknown = { ...relearned("sinks", "off", 1, 0), ratio: estimate([null, null, null]) }
    expect(() => verdictOf({ ...good, relearning: unknown })).toThrow("relearning")
    expect(verdictOf({ ...without, placeboOff: around(1) })).toMatchObject({
      word: "not isolated",
      notRun: ["steps of relearning over the oracle's", "recovery by relearning"]
    })
  })

  it("is refused where no memory was measured", () => {
    const recovery = { ...good.recovery, metrics: { "heldOut.loss": around(3) }, recovery: {} }
    expect(() => verdictOf({ ...good, recovery })).toThrow("Add the arms standard and neverRepeated")
  })
})
