/** The study of what sinks lose to deduplication: what it decides where the answer is planted, and some parts at a toy size. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { oracleGap, OracleGapConfig, type OracleGapFound } from "../../../pipelines/studies/oracleGap.ts"
import { run } from "../../../pipelines/study.ts"
import { resultsOf } from "../../../pipelines/study/Study.ts"
import { DataConfig } from "../../../src/data/stream/DataStream.ts"
import * as NodeDevice from "../../../src/node.ts"
import { random } from "../../../src/Random.ts"

const config = new OracleGapConfig({})

/** Held-out losses by part. */
const decide = (losses: Readonly<Record<string, number>>) => {
  const draw = random(1, "noise")
  const near = (value: number) => value + 0.01 * (draw.uniform() - 0.5)
  const found = [1, 2, 3].flatMap((seed) =>
    oracleGap.parts!(config).map((part) => {
      const one: OracleGapFound = { heldOut: near(losses[part]!), text: near(3), off: near(3), own: near(1), passes: 1 }
      return { part, seed, found: one }
    })
  )
  return oracleGap.findings(resultsOf([1, 2, 3], found), config)
}

describe("what sinks lose to deduplication", () => {
  it("is decided by what is planted", () => {
    const held = { standard: 4.4, deduplicated: 3.5, once: 4.1, fresh: 3.3, sinks: 4, standardLonger: 4, longer: 3.52,
      freshSinks: 3.4, onlyPassages: 3.8, sgtm: 3.9, faster: 3.9 }
    const results = (over: object) => decide({ ...held, ...over }).claims.map(({ result }) => result)
    // the finding is that the gap is small, which the others take to be large
    expect(results({})).toEqual(["did not hold", ...Array.from({ length: 9 }, () => "held")])
    expect(results({ sinks: 3.55 })[0]).toBe("held")
    expect(
      results({ once: 3.6, longer: 3.9, standardLonger: 3.7, onlyPassages: 4.1, sgtm: 4.1, faster: 3.6, freshSinks: 4 })
    )
      .toEqual(["did not hold", "held", ...Array.from({ length: 8 }, () => "did not hold")])
    const { charts, numbers, tables } = decide(held)
    expect(numbers["sinks: share of the gap"]!.mean).toBe(1)
    expect(numbers["deduplicated, one pass: share of the gap"]!.mean).toBeCloseTo(1.2, 1)
    expect(tables[0]!.rows).toHaveLength(11)
    expect(charts[0]!.lines.map(({ points }) => points.length)).toEqual([2, 2, 2])
  })

  it("refuses what has no answer", () => {
    const problem = (over: object) => oracleGap.problem!(new OracleGapConfig({ ...config, ...over }))
    expect(problem({})).toBeUndefined()
    expect(problem({ model: { ...config.model, intermediateSize: 96, sinks: undefined } })).toMatch(/give it some/)
    expect(problem({ exposures: 64, passages: 1, text: 8 })).toMatch(/do not fit 9 steps of 8 rows/)
  })

  it("shows the text as often as it says, and lights sinks of the passages alone where it is to", async () => {
    const small = new OracleGapConfig({ seeds: 1, passages: 2, exposures: 8, text: 24,
      data: new DataConfig({ tokenizer: "bytes", seqLen: 16, batchSize: 4, heldOutSequences: 8, repeatedSequences: 0 }),
      model: { vocabSize: 256, hiddenSize: 16, numHiddenLayers: 1, numAttentionHeads: 1, intermediateSize: 32 + 128,
        sinks: { pool: 128, active: 16 } } })
    const some = { ...oracleGap, parts: () => ["deduplicated", "once", "sinks", "longer", "onlyPassages", "sgtm"] }
    const report = await Effect.runPromise(
      run(some, small, { device: NodeDevice.layer() }).pipe(Effect.provide(NodeContext.layer))
    )
    expect(report.failures).toEqual([])
    const passes = (part: string) => report.numbers[`${part}: passes`]!.mean
    expect(passes("deduplicated")).toBeCloseTo(40 / 26, 5)
    expect(passes("deduplicated, one pass")).toBeCloseTo(28 / 26, 5)
    expect(passes("sinks")).toBeCloseTo(24 / 24, 5)
    expect(passes("sinks, text as often")).toBeCloseTo(passes("deduplicated"), 0)
    expect(Object.keys(report.numbers)).toContain("only what is repeated has sinks: loss of the passages, own sinks")
  }, 60_000)
})
