import { describe, expect, it } from "vitest"
import * as Extraction from "../../src/measures/Extraction.ts"
import type { Scheme } from "../../src/measures/TokenRecords.ts"
import { random } from "../../src/Random.ts"
import { generate, recordsOf, toyModel } from "../support/toyModel.ts"

const schemes: ReadonlyArray<Exclude<Scheme, "greedy">> = [
  { temperature: 0.5 },
  { temperature: 0.7, topK: 5 },
  { temperature: 1, topK: 3 },
  { temperature: 1, topP: 0.9 }
]

describe("(n, p)-discoverable extraction", () => {
  it("needs the draws that the paper's formula gives", () => {
    const needed = (p: number) => [0.1, 0.5, 0.9].map((share) => Extraction.samplesNeeded(Math.log(p), share))
    expect(needed(0.162)).toEqual([1, 4, 14])
    expect(needed(1e-3)).toEqual([106, 693, 2302])
    expect(needed(1)).toEqual([1, 1, 1])
    expect(needed(0)).toEqual([Infinity, Infinity, Infinity])
    // as many draws as make p exactly: a whole number that rounding puts above itself
    for (const [p, n] of [[0.5, 2], [1 / 3, 9], [1 / 4, 3], [1 / 9, 5]] as const) {
      expect(Extraction.samplesNeeded(Math.log(p), 1 - (1 - p) ** n)).toBe(n)
    }
    expect(Extraction.samplesNeeded(Math.log(0.5), 1 - 2 ** -20)).toBe(20)
  })

  it("stays right where p_z is too small for a number", () => {
    expect(Extraction.samplesNeeded(-1000, 0.5)).toBe(Infinity)
    expect(Extraction.samplesNeeded(-700, 0.5) / (Math.LN2 * Math.exp(700))).toBeCloseTo(1, 12)
    expect(Extraction.samplesNeeded(-40, 0.9) / (Math.log(10) * Math.exp(40))).toBeCloseTo(1, 12)
  })

  it("is the complement of never, and the two ways round agree", () => {
    expect(Extraction.extractionProbability(Math.log(0.162), 4)).toBeCloseTo(1 - 0.838 ** 4, 14)
    expect(Extraction.extractionProbability(Math.log(1e-18), 1000)).toBeCloseTo(1e-15, 25)
    expect(Extraction.extractionProbability(0, 1)).toBe(1)
    expect(Extraction.extractionProbability(-Infinity, 1e9)).toBe(0)
    for (const logP of [-0.1, -1, -3, -9]) {
      for (const p of [0.1, 0.5, 0.9, 0.999]) {
        const n = Extraction.samplesNeeded(logP, p)
        expect(Extraction.extractionProbability(logP, n)).toBeGreaterThanOrEqual(p)
        if (n > 1) expect(Extraction.extractionProbability(logP, n - 1)).toBeLessThan(p)
      }
    }
  })

  it("gives p_z as often as sampling draws the continuation, under every scheme", () => {
    const model = toyModel(3, 8, 2)
    const window = { context: 2, length: 3 }
    const trials = 1500
    for (const scheme of [{ temperature: 1 }, ...schemes]) {
      const draw = random(5, "sampling", JSON.stringify(scheme))
      // suffixes that the scheme draws now and then, and one it never does where it leaves tokens out
      const sequences = Array.from({ length: 4 }, (_, i) => [i, i + 1, ...generate(model, [i + 1], 3, scheme, draw), 0])
      const worst = [...model.logits(1).keys()].sort((a, b) => model.logits(1)[a]! - model.logits(1)[b]!)[0]!
      sequences.push([0, 1, worst, 0, 0])
      const records = recordsOf(model, sequences, schemes)
      const logP = Extraction.suffixLogProb(records, scheme, window)
      sequences.forEach((tokens, s) => {
        const wanted = tokens.slice(2, 5).join()
        let hits = 0
        for (let t = 0; t < trials; t++) {
          if (generate(model, tokens.slice(0, 2), 3, scheme, draw).join() === wanted) hits++
        }
        const p = Math.exp(logP[s]!)
        // five standard errors, and a hit or two
        expect(Math.abs(hits / trials - p)).toBeLessThan(5 * Math.sqrt((p * (1 - p)) / trials) + 8e-4)
        if (p === 0) expect(hits).toBe(0)
      })
      if (scheme.topK !== undefined || scheme.topP !== undefined) expect(logP[4]).toBe(-Infinity)
    }
  })

  it("counts rates over sequences long enough, and has greedy and the ceiling as its ends", () => {
    const logP = [0, Math.log(0.5), Math.log(1e-3), -Infinity, NaN]
    expect([...Extraction.extractable(logP, 1, 0.5)]).toEqual([1, 1, 0, 0, NaN])
    expect([...Extraction.extractable(logP, 1, 1)]).toEqual([1, 0, 0, 0, NaN])
    const { ceiling, points } = Extraction.extractionCurve(logP, [1, 1000], [0.5, 0.9])
    expect(ceiling).toBe(0.75)
    expect(points).toEqual([
      { n: 1, p: 0.5, rate: 0.5 },
      { n: 1000, p: 0.5, rate: 0.75 },
      { n: 1, p: 0.9, rate: 0.25 },
      { n: 1000, p: 0.9, rate: 0.5 }
    ])
    expect(Extraction.rate([NaN])).toBeNaN()
  })
})

describe("greedy extraction", () => {
  const model = toyModel(4, 12, 3)
  const draw = random(9, "greedy")
  // beginnings of any kind, continued by the model for some tokens and then again not
  const sequences = Array.from({ length: 40 }, (_, i) => {
    const start = Array.from({ length: 3 }, () => draw.below(12))
    const said = generate(model, start, i % 9, "greedy", draw)
    return [...start, ...said, ...Array.from({ length: 9 - (i % 9) }, () => draw.below(12))]
  })
  const records = recordsOf(model, sequences)

  it("is what the model really writes, over contexts and lengths", () => {
    for (const context of [1, 3, 5]) {
      for (const length of [1, 2, 6]) {
        const wrote = sequences.map((tokens) => {
          const text = generate(model, tokens.slice(0, context), length, "greedy", draw)
          return text.join() === tokens.slice(context, context + length).join() ? 1 : 0
        })
        expect([...Extraction.greedyExtraction(records, { context, length })]).toEqual(wrote)
      }
    }
    const rate = Extraction.rate(Extraction.greedyExtraction(records, { context: 3, length: 6 }))
    expect(rate).toBeGreaterThan(0.2)
    expect(rate).toBeLessThan(0.8)
  })

  it("has no value where a sequence is too short, or scored from later on", () => {
    expect([...Extraction.greedyExtraction(records, { context: 3, length: 9 })].some(Number.isNaN)).toBe(false)
    expect([...Extraction.greedyExtraction(records, { context: 4, length: 9 })].every(Number.isNaN)).toBe(true)
    expect([...Extraction.greedyExtraction(records, { context: 0, length: 2 })].every(Number.isNaN)).toBe(true)
    const later = recordsOf(model, sequences.slice(0, 1))
    later.first[0] = 30
    expect(Extraction.greedyExtraction(later, { context: 29, length: 1 })[0]).toBeNaN()
    expect(Extraction.greedyExtraction(later, { context: 30, length: 1 })[0]).toBe(
      Extraction.greedyExtraction(records, { context: 1, length: 1 })[0]
    )
  })
})
