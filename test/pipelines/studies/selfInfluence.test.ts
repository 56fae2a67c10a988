/** The study of self-influence: what it decides where the answer is planted, and once whole at a toy size. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { counterfactual, selfInfluence, SelfInfluenceConfig,
  type SelfInfluenceFound } from "../../../pipelines/studies/selfInfluence.ts"
import { run } from "../../../pipelines/study.ts"
import { resultsOf } from "../../../pipelines/study/Study.ts"
import * as NodeDevice from "../../../src/node.ts"

describe("counterfactual memorization", () => {
  it("is the loss without a sequence minus that with it", () => {
    const models = [
      { losses: [1, 5, 2], trained: [true, false, true] },
      { losses: [3, 1, 2], trained: [false, true, true] },
      { losses: [5, 2, 4], trained: [false, true, true] }
    ]
    expect(counterfactual(models)).toEqual([3, 3.5, NaN])
  })
})

const config = new SelfInfluenceConfig({ candidates: 8, pairs: 1 })
const places = Array.from({ length: 8 }, (_, i) => i)

/** Candidate i is memorized by (i + 1) / 4 nats; `influence` says what its score is. */
const decide = (
  influence: (i: number) => number,
  [highest, random, lowest]: readonly [number, number, number],
  own: readonly [number, number]
) => {
  const found = [1, 2, 3].flatMap((seed) => {
    const heldOut = (more: number) => ({ mean: 3 + more + seed / 1000, error: 0.001, sequences: 90 })
    const of = (trained: ReadonlyArray<boolean>, more = 0): SelfInfluenceFound => ({
      losses: places.map((i) => trained[i] === true ? 4 - (i + 1 + seed / 100) / 4 : 4),
      heldOut: heldOut(more),
      trained
    })
    const everyone = places.map(() => true)
    const half = places.map((i) => i % 2 === 0)
    const parts: Readonly<Record<string, SelfInfluenceFound>> = {
      all: { ...of(everyone), influence: places.map((i) => influence(i)) },
      "half 1": of(half),
      "half 2": of(half.map((one) => !one)),
      "without highest": of(everyone, highest),
      "without random": of(everyone, random),
      "without lowest": of(everyone, lowest),
      sinks: { ...of(everyone), off: places.map((i) => influence(i) > 0 ? 4 : 3 - (i + 1) / 2),
        own: { candidates: own[0] + seed / 1000, heldOut: own[1] + seed / 1000 } }
    }
    return Object.entries(parts).map(([part, found]) => ({ part, seed, found }))
  })
  return selfInfluence.findings(resultsOf([1, 2, 3], found), config).claims
    .map(({ claim, result }) => `${result}: ${claim}`)
}

describe("what is decided", () => {
  it("holds where it is planted", () => {
    const claims = decide((i) => i + 1, [0.5, 0.2, 0.05], [0.5, 0.1])
    expect(claims).toHaveLength(6)
    expect(claims.filter((one) => !one.startsWith("held"))).toEqual([])
  })

  it("does not hold where the opposite is", () => {
    const claims = decide((i) => -i - 1, [0.05, 0.2, 0.5], [0.1, 0.5])
    expect(claims.slice(1).filter((one) => !one.startsWith("did not hold"))).toEqual([])
  })
})

it("a toy run trains with all, with halves, without some and with sinks", async () => {
  const toy = new SelfInfluenceConfig({
    seeds: 1,
    steps: 12,
    candidates: 4,
    exposures: 4,
    checkpoints: 2,
    pairs: 1,
    data: { batchSize: 4, seqLen: 16, tokenizer: "bytes", singleSequences: 40, heldOutSequences: 8,
      repeatedSequences: 0 },
    model: { vocabSize: 256, hiddenSize: 16, numHiddenLayers: 1, numAttentionHeads: 1, intermediateSize: 16 + 128,
      sinks: { pool: 128, active: 16 } }
  })
  const report = await Effect.runPromise(
    run(selfInfluence, toy, { device: NodeDevice.layer() }).pipe(Effect.provide(NodeContext.layer))
  )
  expect(report.failures).toEqual([])
  expect(report.numbers["counterfactual memorization, mean"]!.mean).toBeGreaterThan(0)
  expect(Math.abs(report.numbers["rank correlation, self-influence"]!.mean)).toBeLessThanOrEqual(1)
  expect(report.charts[1]!.lines[0]!.points).toHaveLength(4)
  const problem = selfInfluence.problem!(new SelfInfluenceConfig({ ...toy, exposures: 20 }))
  expect(problem).toMatch(/candidates: .*raise steps \(12\)/)
}, 60_000)
