import { describe, expect, it } from "vitest"
import * as Metrics from "../src/measures/Metrics.ts"
import * as TokenRecords from "../src/measures/TokenRecords.ts"
import { random } from "../src/Random.ts"
import { generate, recordsOf, toyModel } from "./support/toyModel.ts"

/** Records of one sequence a row of ranks, every token of one loss. */
const withRanks = (rows: ReadonlyArray<ReadonlyArray<number>>, nats = 1): TokenRecords.TokenRecords => {
  const records = TokenRecords.makeRecords(
    rows.map((_, s) => ({ name: `${s}`, split: "repeated", id: BigInt(s), repeats: 1 })),
    rows.map((ranks) => ranks.length)
  )
  records.rank.set(rows.flat())
  records.logProb.fill(-nats)
  return records
}

describe("loss", () => {
  const model = toyModel(1, 7, 2)
  const sequences = [[0, 1, 2, 3], [6, 5], [1, 1, 1, 1, 1, 2, 0]]
  const records = recordsOf(model, sequences)
  const nllOf = (tokens: ReadonlyArray<number>): ReadonlyArray<number> =>
    tokens.slice(1).map((token, t) => {
      const logits = [...model.logits(tokens[t]!)]
      return Math.log(logits.reduce((sum, z) => sum + Math.exp(z), 0)) - logits[token]!
    })
  const meanOf = (values: ReadonlyArray<number>) => values.reduce((a, b) => a + b) / values.length

  it("is a sequence's mean in nats; over tokens, long sequences weigh more", () => {
    expect([...Metrics.loss(records)]).toEqual(sequences.map((s) => expect.closeTo(meanOf(nllOf(s)), 5)))
    expect(Metrics.tokenLoss(records)).toBeCloseTo(meanOf(sequences.flatMap(nllOf)), 5)
    expect([...Metrics.probability(records)]).toEqual(
      sequences.map((s) => expect.closeTo(Math.exp(-meanOf(nllOf(s))), 5))
    )
    expect(Metrics.lossPerCharacter(records, [30, 1, 60])[0]).toBeCloseTo(meanOf(nllOf(sequences[0]!)) / 10, 5)
  })

  it("of a uniform model over v tokens is ln v, its perplexity v", () => {
    const flat = recordsOf({ vocabSize: 50, logits: () => new Float64Array(50) }, [[1, 2, 3]])
    expect(Metrics.perplexity(Metrics.tokenLoss(flat))).toBeCloseTo(50, 4)
  })

  it("is compared before and after removal with the paper's signs", () => {
    // the paper's figure 4: repeated loss 0.03 standard, 1.83 with sinks off, 2.98 never repeated
    expect(Metrics.recovery(1.83, { oracle: 2.98, standard: 0.03 })).toBeCloseTo(1.15 / 2.95, 12)
    expect(Metrics.recovery(2.98, { oracle: 2.98, standard: 0.03 })).toBeCloseTo(0, 14)
    expect(Metrics.recovery(0.03, { oracle: 2.98, standard: 0.03 })).toBe(1)
    expect(Metrics.recovery(1, { oracle: 2, standard: 2 })).toBeNaN()
    // Fig 6a: .18 to .08 closes 56 %
    const gap = Metrics.memorizationGap(2.37, 2.29)
    expect(Metrics.fractionClosed(gap, Metrics.memorizationGap(2.12, 1.94))).toBeCloseTo(1 - 0.08 / 0.18, 10)
    expect(Metrics.sequenceForgetting(0.03, 1.93)).toBeCloseTo(1.9, 12)
    expect(Metrics.modelDegradation(2.7, 2.75)).toBeCloseTo(-0.05, 12)
  })
})

describe("the average likelihood ratio", () => {
  it("is 1 of what is known no better, and e to minus what is gained", () => {
    expect(Metrics.averageLikelihoodRatio([2, 3], [2, 3])).toBe(1)
    expect(Metrics.averageLikelihoodRatio([1, 3], [2, 3])).toBeCloseTo((Math.exp(-1) + 1) / 2, 12)
    expect([...Metrics.likelihoodRatios([1, 3], [2, 3])]).toEqual([Math.exp(-1), 1])
    expect(Metrics.averageLikelihoodRatio([], [])).toBeNaN()
    expect(() => Metrics.averageLikelihoodRatio([1], [])).toThrow(/got 1 and 0/)
  })
})

describe("verbatim memory", () => {
  it("has extraction strength 1 of all right, 0 of the last wrong, a half of the first half wrong", () => {
    const records = withRanks([[0, 0, 0, 0], [0, 0, 0, 3], [1, 9, 0, 0], [0, 1, 0, 0], [2]])
    expect([...Metrics.extractionStrength(records)]).toEqual([1, 0, 0.5, 0.5, 0])
    // and open-unlearning's floor of one token
    expect([...Metrics.extractionStrength(records, { openUnlearning: true })]).toEqual([1, 0.25, 0.5, 0.5, 1])
    expect([...Metrics.extractionStrength(records, { dropLast: true })]).toEqual([1, 1, 1 / 3, 1 / 3, NaN])
  })

  it("has exact memorization 1 of a model that copies itself, and the share of first choices else", () => {
    const model = toyModel(2, 20, 3)
    const copied = Array.from({ length: 5 }, (_, i) => [i, ...generate(model, [i], 12, "greedy", random(0))])
    expect([...Metrics.exactMemorization(recordsOf(model, copied))]).toEqual([1, 1, 1, 1, 1])
    expect([...Metrics.extractionStrength(recordsOf(model, copied))]).toEqual([1, 1, 1, 1, 1])
    expect([...Metrics.exactMemorization(withRanks([[0, 1, 0, 0, 5]]))]).toEqual([0.6])
  })

  it("says how often the first choice is a matter of rounding", () => {
    const records = withRanks([[0, 0, 0, 0]])
    records.margin.set([1, 5e-4, 0, 2])
    expect(Metrics.nearTies(records)).toBe(0.5)
  })
})

describe("truth ratios", () => {
  it("stand any way up, by either mean", () => {
    const answers = { right: 1, wrong: [2, 4] }
    expect(Metrics.truthRatio(answers)).toBeCloseTo(Math.exp(-2), 14)
    expect(Metrics.truthRatio(answers, "right/wrong")).toBeCloseTo(Math.exp(2), 12)
    expect(Metrics.truthRatio(answers, "right/(right+wrong)")).toBeCloseTo(1 / (1 + Math.exp(-2)), 14)
    const arithmetic = (Math.exp(-2) + Math.exp(-4)) / 2
    expect(Metrics.truthRatio(answers, "wrong/right", "arithmetic")).toBeCloseTo(arithmetic / Math.exp(-1), 14)
  })

  it("of two equal models give forget quality 1, of very different ones next to 0", () => {
    const ratios = Array.from({ length: 30 }, (_, i) => i / 30)
    expect(Metrics.forgetQuality(ratios, ratios)).toBe(1)
    expect(Metrics.forgetQuality(ratios, ratios.map((x) => x + 2))).toBeLessThan(1e-15)
  })
})

describe("participation", () => {
  it("is 1 of a cosine of any phase, 1/49 of a flat spectrum over 97 residues, 1/2 of two frequencies", () => {
    const wave = (frequency: number, phase = 0) => (_: unknown, i: number) =>
      Math.cos((2 * Math.PI * frequency * i) / 97 + phase)
    expect(Metrics.participation(Array.from({ length: 97 }, wave(14, 0.7)))).toBeCloseTo(1, 12)
    expect(Metrics.participation(Array.from({ length: 97 }, (_, i) => (i === 5 ? 3 : 0)))).toBeCloseTo(1 / 49, 12)
    const two = Array.from({ length: 97 }, (_, i) => wave(3)(0, i) + wave(20, 1)(0, i))
    expect(Metrics.participation(two)).toBeCloseTo(1 / 2, 12)
  })
})

describe("results in open-unlearning's shape", () => {
  it("hold the mean and each sequence's value, null where there is none", () => {
    expect(Metrics.metricResult([0.5, null, 1])).toEqual({
      agg_value: 0.75,
      value_by_index: { "0": { score: 0.5 }, "1": { score: null }, "2": { score: 1 } }
    })
    expect(Metrics.metricResult([0.5, NaN, 1])).toEqual({
      agg_value: null,
      value_by_index: { "0": { score: 0.5 }, "1": { score: null }, "2": { score: 1 } }
    })
    expect(Metrics.metricResult([0.5], "prob").value_by_index).toEqual({ "0": { prob: 0.5 } })
    expect(JSON.parse(JSON.stringify(Metrics.metricResult([])))).toEqual({ agg_value: null, value_by_index: {} })
  })

  it("are put together by the harmonic mean", () => {
    const result = (agg_value: number | null) => ({ agg_value })
    expect(Metrics.hmAggregate({ a: result(0.5), b: result(1) }).agg_value).toBeCloseTo(2 / 3, 14)
    expect(Metrics.hmAggregate({ a: result(null), b: result(1) }).agg_value).toBe(null)
    expect(Metrics.hmAggregate({ a: result(0), b: result(1) }).agg_value).toBe(0)
    expect(
      Metrics.memorizationAggregate({ extraction_strength: result(0.5), exact_memorization: result(0) }).agg_value
    ).toBeCloseTo(2 / 3, 14)
    expect(Metrics.closeness(0.5, 0.5)).toBe(1)
    expect(Metrics.closeness(1, 0.5)).toBe(0)
    expect(Metrics.closeness(0.7, 0.6)).toBeCloseTo(1 - 0.1 / 0.6, 14)
  })
})
