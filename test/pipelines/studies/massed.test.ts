/** The study of exposures in a row: what it decides where the answer is planted, and some of its parts at a toy size. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { massed, MassedConfig, type MassedFound } from "../../../pipelines/studies/massed.ts"
import { run } from "../../../pipelines/study.ts"
import { resultsOf } from "../../../pipelines/study/Study.ts"
import { DataConfig } from "../../../src/data/stream/DataStream.ts"
import * as NodeDevice from "../../../src/node.ts"
import { random } from "../../../src/Random.ts"

const config = new MassedConfig({})

/** What is left of a standard model's 3 nats without sinks, by part; `other` where none is given. */
const decide = (left: Readonly<Record<string, number>>, other: number) => {
  const draw = random(1, "noise")
  const near = (value: number) => value + 0.02 * (draw.uniform() - 0.5)
  const found = [1, 2, 3].flatMap((seed) =>
    massed.parts!(config).map((part) => {
      // passages are easier than foils by 0.2 for every model
      const loss = (memory: number) => Array.from({ length: 4 }, () => near(4 - 0.2 - memory))
      const own = part === "standard, never" ? 0 : 3
      const off = part.startsWith("standard") ? own : 3 * (left[part] ?? other)
      const one: MassedFound = { fresh: { own: loss(own), off: loss(off), placebo: loss(off) }, foils: [4, 4, 4, 4],
        other: near(4) }
      return { part, seed, found: one }
    })
  )
  return massed.findings(resultsOf([1, 2, 3], found), config)
}

describe("exposures in a row", () => {
  it("is decided by what is planted", () => {
    const results = (left: Readonly<Record<string, number>>, other: number) =>
      decide(left, other).claims.map(({ result }) => result)
    const held = { "sinks, spread": 0.1, "sinks, massed": 0.6, high: 0.3, low: 0.8, wide: 0.4, ids: 0.8, sequences: 0.7,
      units: 0.8, cycles: 0.3, gradientMasking: 0.4, sgtm: 0.02 }
    expect(new Set(results(held, 0.5))).toEqual(new Set(["held"]))
    expect(results({ "sinks, spread": 0.6, "sinks, massed": 0.3, low: 0.1, ids: 0.1, sequences: 0.1, units: 0.1 }, 0.5))
      .toEqual(["held", ...Array.from({ length: 11 }, () => "did not hold")])
    const { charts, numbers, tables } = decide(held, 0.5)
    expect(numbers["sinks, massed: share left"]!.mean).toBeCloseTo(0.6, 1)
    expect(numbers["sinks' rate fourfold: memory, sinks off"]!.mean).toBeCloseTo(0.9, 1)
    expect(tables[0]!.rows).toHaveLength(14)
    expect(charts[0]!.lines.map(({ points }) => points.map(({ x }) => x))).toEqual([[1, 4, 16], [1, 4, 16]])
  })

  it("refuses what has no answer", () => {
    const problem = (over: object) => massed.problem!(new MassedConfig({ ...config, ...over }))
    expect(problem({})).toBeUndefined()
    expect(problem({ exposures: 2 })).toMatch(/four blocks/)
    expect(problem({ steps: 20 })).toMatch(/raise steps/)
    expect(problem({ model: { ...config.model, sinks: { pool: 64, active: 32 } } })).toMatch(/must fit the pool of 64/)
  })

  it("runs, with ids that take turns and gradients that are routed", async () => {
    const small = new MassedConfig({ seeds: 1, steps: 12, passages: 2, exposures: 4, foils: 2,
      data: new DataConfig({ tokenizer: "bytes", seqLen: 16, batchSize: 4, singleSequences: 48, heldOutSequences: 12,
        repeatedSequences: 0 }),
      model: { vocabSize: 256, hiddenSize: 16, numHiddenLayers: 1, numAttentionHeads: 1, intermediateSize: 32 + 128,
        sinks: { pool: 128, active: 16 } } })
    const some = { ...massed, parts: () => ["standard, never", "standard, massed", "ids", "sgtm"] }
    const report = await Effect.runPromise(
      run(some, small, { device: NodeDevice.layer() }).pipe(Effect.provide(NodeContext.layer))
    )
    expect(report.failures).toEqual([])
    expect(Object.keys(report.numbers)).toContain("four ids a passage, in turn: memory, own sinks")
  }, 60_000)
})
