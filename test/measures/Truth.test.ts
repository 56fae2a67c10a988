/** Truth ratios against numbers computed by hand. */
import { describe, expect, it } from "vitest"
import * as Metrics from "../../src/measures/Metrics.ts"
import * as Truth from "../../src/measures/Truth.ts"

describe("the truth ratio", () => {
  it("is the geometric mean likelihood of the right completion over that of the wrong ones", () => {
    // right: two tokens of probability 1/2 and 1/8, a geometric mean of 1/4; wrong: 1/16 and 1/64, of which it is 1/32
    const answers = { right: Math.log(4), wrong: [Math.log(16), Math.log(64)] }
    expect(Math.exp(Truth.logTruthRatio(answers))).toBeCloseTo(8, 12)
    // TOFU's stands on its head
    expect(Metrics.truthRatio(answers)).toBeCloseTo(1 / 8, 12)
    expect(Metrics.truthRatio(answers, "right/wrong")).toBeCloseTo(8, 12)
  })

  it("is below 1 where the model prefers what is wrong, and 1 where it has no preference", () => {
    expect(Math.exp(Truth.logTruthRatio({ right: Math.log(10), wrong: [Math.log(5)] }))).toBeCloseTo(0.5, 12)
    expect(Truth.logTruthRatio({ right: 2, wrong: [2, 1, 3] })).toBe(0)
  })
})

describe("the choice", () => {
  it("is right where no completion is likelier, by shares where some are as likely", () => {
    expect(Truth.choosesTruth({ right: 1, wrong: [2, 3] })).toBe(1)
    expect(Truth.choosesTruth({ right: 1, wrong: [0.5, 3] })).toBe(0)
    expect(Truth.choosesTruth({ right: 1, wrong: [1, 1, 3] })).toBeCloseTo(1 / 3, 12)
    expect(Truth.choosesTruth({ right: NaN, wrong: [1] })).toBeNaN()
    expect(Truth.choosesTruth({ right: 1, wrong: [NaN] })).toBeNaN()
  })
})

describe("a class of facts", () => {
  it("has the geometric mean of its facts' ratios, each over its wordings", () => {
    // ratios 4 and 1/4 in two wordings: 1; ratio 16 in one: together 4
    const facts = [
      [{ right: 0, wrong: [Math.log(4)] }, { right: Math.log(4), wrong: [0] }],
      [{ right: 0, wrong: [Math.log(16)] }]
    ]
    const found = Truth.truthOf(facts)
    expect(found.facts).toBe(2)
    expect(found.ratio.value).toBeCloseTo(4, 12)
    expect(found.accuracy.value).toBeCloseTo(0.75, 12)
    expect(found.ratio.low).toBeCloseTo(1, 12)
    expect(found.ratio.high).toBeCloseTo(16, 12)
  })

  it("has an interval by facts that is narrower the more there are", () => {
    const some = (count: number) =>
      Truth.truthOf(Array.from({ length: count }, (_, i) => [{ right: 1, wrong: [1 + (i % 4)] }])).logRatio
    expect(some(16).value).toBeCloseTo(1.5, 12)
    expect(some(400).high - some(400).low).toBeLessThan((some(16).high - some(16).low) / 3)
  })

  it("is NaN of nothing, and refused where nothing is asked", () => {
    expect(Truth.truthOf([]).ratio.value).toBeNaN()
    expect(() => Truth.truthOf([[]])).toThrow("asked at least once")
    expect(() => Truth.factTruth([{ right: 1, wrong: [] }])).toThrow("at least one wrong answer")
  })
})
