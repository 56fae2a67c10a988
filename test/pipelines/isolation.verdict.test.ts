import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { IsolateConfig, planOf } from "../../pipelines/isolation/Config.ts"
import { heldOutLoss, nameOf } from "../../pipelines/isolation/Metrics.ts"
import type { Subject } from "../../pipelines/isolation/Report.ts"
import { type Evidence, GateConfig, verdictOf } from "../../pipelines/isolation/Verdict.ts"
import { leftOf, warningsOf } from "../../pipelines/isolation/Verdicts.ts"
import { type Estimate, estimate } from "../../pipelines/report/Estimate.ts"
import { DataError } from "../../src/Errors.ts"
import { random } from "../../src/Random.ts"
import { around, metricOf, relearned, reportOf } from "../support/isolationReport.ts"

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

const changed = ({ metrics }: Subject, name: string, to: Partial<Subject["metrics"][number]>): Subject["metrics"] =>
  metrics.map((one) => nameOf(one) === name ? { ...one, ...to } : one)

const withMetric = (metric: string, recovery: number): Subject => ({
  ...good.recovery,
  metrics: changed(good.recovery, metric, { recovery: around(recovery) })
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
    ["a placebo that helps", "not isolated", { placeboOff: around(-0.08) }, "placebo"],
    ["a placebo that harms", "not isolated", { placeboOff: around(0.08) }, "placebo"],
    ["the cost", "not isolated", { heldOutCost: around(0.2) }, "held-out cost"],
    ["fast relearning", "hidden", { relearning: relearned("sinks", "off", 0.4, 0.17) }, "steps of relearning"],
    ["much that is relearned", "hidden", { relearning: relearned("sinks", "off", 0.9, 0.6) }, "recovery by relearning"]
  ])("is decided by %s alone: %s", (_, word, change, by) => {
    const verdict = verdictOf({ ...good, ...change })
    expect(verdict.word).toBe(word)
    expect(verdict.decidedBy).toMatch(by)
    expect(verdict.checks.filter(({ result }) => result !== "pass").map(({ result }) => result)).toEqual(["fail"])
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
    expect(verdictOf(good, new GateConfig({ recovery: 0.04 })).word).toBe("not isolated")
    expect(verdictOf(good, new GateConfig({ relearnRatio: 0.97 })).word).toBe("hidden")
    expect(verdictOf(good, new GateConfig({ recovered: 0.1 })).word).toBe("hidden")
    expect(verdictOf({ ...good, placeboOff: around(0.03) }, new GateConfig({ placebo: 0.001 })).word).toBe(
      "not isolated"
    )
  })

  it("is undecided where an interval has the bound in it, and says how many seeds would decide it", () => {
    // within .07: (4.30 * .06 / sqrt(3) = .149), 2.57 * .06 / sqrt(6) = .063
    const { checks, decidedBy, word } = verdictOf({ ...good, heldOutCost: around(0.03, 0.06) })
    expect(word).toBe("undecided")
    expect(decidedBy).toBe(
      "held-out cost is 0.030 [-0.119, 0.179], allowed at most 0.1: about 6 seeds in all would decide it"
    )
    expect(checks.filter(({ result }) => result === "undecided")).toMatchObject([{ name: "held-out cost", seeds: 6 }])
    // gradient masking: 5.47 ± 2.46 against 4.61 ± .67, two seeds
    const masked = verdictOf({ ...good, heldOutCost: estimate([1.05, 0.67]) })
    expect(masked.word).toBe("undecided")
    expect(masked.decidedBy).toContain("held-out cost is 0.860 [-1.554, 3.274], allowed at most 0.1: about 3 seeds")
  })

  it("names the check that takes most seeds, and those that are open besides", () => {
    const { decidedBy, word } = verdictOf({ ...good, heldOutCost: around(0.03, 0.06), placeboOff: around(0.049, 0.01) })
    expect(word).toBe("undecided")
    expect(decidedBy).toMatch(
      /^effect of a placebo is .*: about 400 seeds in all would decide it; undecided, too: held-out cost$/
    )
    const on = verdictOf({ ...good, placeboOff: around(0.05, 0.01) }).decidedBy
    expect(on).toContain("more than 1,000 seeds would be needed to decide it: it lies on the bound")
  })

  it("is undecided by a number of one seed without sequences, but not by one of a seed with them", () => {
    const one = (value: number, error: number) =>
      verdictOf({ ...good, heldOutCost: estimate([value], { spreads: [{ sequences: 64, error }] }) })
    expect(verdictOf({ ...good, heldOutCost: estimate([-0.2]) }).decidedBy).toContain("run 3 or more")
    expect([one(0.02, 0.01), one(0.2, 0.01), one(0.09, 0.01)].map(({ word }) => word))
      .toEqual(["isolated", "not isolated", "undecided"])
  })

  it("is hidden only where what can be read off is decided", () => {
    const relearning = relearned("sinks", "off", 0.1, 0.9)
    expect(verdictOf({ ...good, relearning, heldOutCost: around(0.1) }).word).toBe("undecided")
    expect(verdictOf({ ...good, relearning, heldOutCost: around(0.1), placeboOff: around(1) }).word).toBe(
      "not isolated"
    )
    expect(verdictOf({ ...good, relearning: { ...relearning, recovered: around(0.5) } }).word).toBe("hidden")
  })

  it("takes what is not a number for no sign of anything", () => {
    const metrics = changed(good.recovery, "natural.loss", { value: estimate([2.8, NaN, 2.8]) })
    const { decidedBy, word } = verdictOf({ ...good, recovery: { ...good.recovery, metrics } })
    expect([word, decidedBy]).toEqual(["undecided", "recovery of natural.loss is not a number, allowed at most 0.2"])
    expect(verdictOf({ ...good, heldOutCost: estimate([NaN]) }).decidedBy).toContain("held-out cost is not a number")
  })

  it("is never helped by noise", () => {
    const order = { pass: 2, undecided: 1, fail: 0 } as const
    const draw = random(1, "noise")
    const noisy = (one: Estimate, by: number): Estimate =>
      estimate(one.values.map((value) => value === null ? null : one.mean + (value - one.mean) * by))
    const subjectBy = (one: Subject, by: number): Subject => ({
      ...one,
      metrics: one.metrics.map(({ recovery, value, ...key }) => ({ ...key, value: noisy(value, by),
        ...(recovery === undefined ? {} : { recovery: noisy(recovery, by) }) })
      )
    })
    const seen = new Set<string>()
    for (let i = 0; i < 300; i++) {
      const value = (least: number, most: number) =>
        around(least + draw.uniform() * (most - least), 0.03 * draw.uniform())
      const evidence = (by: number): Evidence => ({
        recovery: subjectBy(base.recovery, by),
        references: { standard: subjectBy(references.standard, by), oracle: subjectBy(references.oracle, by) },
        relearning: { ...base.relearning!, ratio: noisy(base.relearning!.ratio, by),
          recovered: noisy(base.relearning!.recovered, by) },
        placeboOff: noisy(base.placeboOff!, by),
        heldOutCost: noisy(base.heldOutCost!, by)
      })
      const base = {
        ...good,
        recovery: {
          ...good.recovery,
          metrics: changed(good.recovery, "natural.np@16", { value: value(0, 0.1), recovery: value(0, 0.4) })
        },
        relearning: { ...good.relearning!, ratio: value(0.3, 1), recovered: value(0, 0.7) },
        placeboOff: value(-0.08, 0.08),
        heldOutCost: value(-0.1, 0.2)
      }
      const [calm, loud] = [verdictOf(evidence(1)), verdictOf(evidence(1 + 9 * draw.uniform()))]
      calm.checks.forEach(({ result }, k) =>
        expect(order[loud.checks[k]!.result]).toBeLessThanOrEqual(Math.max(1, order[result]))
      )
      calm.checks.forEach(({ result }, k) => {
        if (result !== "fail") return
        expect(loud.checks[k]!.result).not.toBe("pass")
      })
      if (calm.word !== "isolated") expect(loud.word).not.toBe("isolated")
      seen.add(`${calm.word} ${loud.word}`)
    }
    expect(seen.size).toBeGreaterThan(4)
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
    expect(metricOf(subject("sinks", "off", flat(0.01)), "natural.np@16").recovery!.mean).toBeNaN()
    expect(verdict(0.01).word).toBe("isolated")
    expect(verdict(0.01).checks.map(({ name }) => name)).toContain("natural.np@16 above the oracle's")
    expect(verdict(0.05).word).toBe("not isolated")
    expect(verdict(0.05).decidedBy).toContain("natural.np@16 above the oracle's")
  })

  it("trusts no recovery between references that hardly differ", () => {
    const report = reportOf({ "standard own": { "natural.np@16": 0.016 }, "sinks off": { "natural.np@16": 0.02 } })
    const recovery = subject("sinks", "off", report)
    expect(metricOf(recovery, "natural.np@16").recovery!.mean).toBeGreaterThan(4)
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
    const recovery = { ...good.recovery, metrics: [{ ...heldOutLoss, value: around(3) }] }
    expect(() => verdictOf({ ...good, recovery })).toThrow("Add the arms standard and neverRepeated")
  })
})

describe("warnings", () => {
  const said = (splits: Readonly<Record<string, number>>, singles: number) =>
    Effect.runSync(
      Effect.map(planOf({}), (plan) => warningsOf(reportOf(), plan, { ...reportOf().data, splits }, singles).join("\n"))
    )

  it("say how many of how many sequences a check looks at, where it is not all", () => {
    const all = said({ scored: 16, heldOut: 32 }, 512)
    for (const word of ["to be retained", "Relearning scores", "deleted one at a time"]) expect(all).not.toContain(word)
    const cut = said({ scored: 17, heldOut: 33 }, 513)
    expect(cut).toContain("Of 513 sequences that are not repeated, the first 512 are taken to be retained")
    expect(cut).toContain("Relearning scores the first 32 of 33 held-out sequences")
    expect(cut).toContain("Ids are deleted one at a time, 16 of those of 17 scored sequences")
  })
})

describe("what an attack gets after removal", () => {
  const metrics = [
    { metric: "probe.never", title: "", unit: "share", memory: "higher", group: "heldOut", kind: "share" },
    { metric: "probe.tokens", title: "", unit: "tokens", memory: "lower", group: "natural", kind: "loss" },
    { metric: "probe.found", title: "", unit: "share", memory: "higher", group: "natural", kind: "share" }
  ] as const
  const resultOf = (off: number, oracle = 0.1, standard = 0.9, spread = 0.02) => {
    const subject = (arm: string, state: "own" | "off", value: number): Subject => ({
      arm,
      kind: "trained",
      state,
      metrics: [{
        group: "natural",
        metric: "probe.found",
        value: around(value, spread),
        recovery: around((value - oracle) / (standard - oracle), spread / (standard - oracle))
      }]
    })
    const subjects = [subject("standard", "own", standard), subject("neverRepeated", "own", oracle),
      subject("sinks", "own", standard), subject("sinks", "off", off)]
    return leftOf({ subjects }, { config: new IsolateConfig({}) }, { metrics })
  }
  it("is hidden where it is above the oracle's by the gate's bound, removed where it is not, and else undecided", () => {
    expect(resultOf(0.8)).toMatchObject([{ arm: "sinks", state: "off", metric: "probe.found", result: "hidden" }])
    expect(resultOf(0.1)).toMatchObject([{ result: "removed" }])
    expect(resultOf(0.26)).toMatchObject([{ result: "undecided" }])
    expect(resultOf(0.8, 0.1, 0.9, 3)).toMatchObject([{ result: "undecided" }])
  })
  it("is asked of no model where there is no oracle's", () => {
    expect(leftOf({ subjects: [] }, { config: new IsolateConfig({}) }, { metrics })).toEqual([])
  })
})
