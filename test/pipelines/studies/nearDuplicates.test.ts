/** The study of ids of edited copies: its edits and ids, what it decides where the answer is planted, and parts at a toy size. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { edit, idsByLikeness, nearDuplicates, NearDuplicatesConfig,
  type NearDuplicatesFound } from "../../../pipelines/studies/nearDuplicates.ts"
import { run } from "../../../pipelines/study.ts"
import { resultsOf } from "../../../pipelines/study/Study.ts"
import { DataConfig } from "../../../src/data/stream/DataStream.ts"
import * as NodeDevice from "../../../src/node.ts"
import { random } from "../../../src/Random.ts"

const config = new NearDuplicatesConfig({})

/** A standard model knows 2 nats; by the parts' names a share of them is left with sinks off, else `other`. */
const decide = (left: Readonly<Record<string, number>>, other: number) => {
  const draw = random(1, "noise")
  const near = (value: number) => value + 0.01 * (draw.uniform() - 0.5)
  const found = [1, 2, 3].flatMap((seed) =>
    nearDuplicates.parts!(config).map((part) => {
      const own = part === "standard, never" ? 0 : 2
      const off = part.startsWith("standard") ? own : 2 * (left[part] ?? other)
      const one: NearDuplicatesFound = {
        passages: { own: near(3.9 - own), off: near(3.9 - off), placebo: near(3.9 - off) },
        foils: near(4),
        joined: part.startsWith("oracle") ? 1 : 0.2,
        mistaken: 0
      }
      return { part, seed, found: one }
    })
  )
  return nearDuplicates.findings(resultsOf([1, 2, 3], found), config)
}

describe("ids of edited copies", () => {
  it("is decided by what is planted", () => {
    const results = (left: Readonly<Record<string, number>>, other: number) =>
      decide(left, other).claims.map(({ result }) => result)
    const held = { "oracle, 0.01": 0.2, "near, 0.01": 0.25, "oracle, 0.05": 0.2, "loose, 0.05": 0.25,
      "oracle, 0.2": 0.2 }
    expect(results(held, 0.8)).toEqual(Array.from({ length: 10 }, () => "held"))
    expect(
      results({ "near, 0.01": 0.9, "near, 0.05": 0.5, "loose, 0.05": 0.9, "exact, 0.01": 0.5, "exact, 0.05": 0.5,
        "loose, 0.2": 0.5 }, 0.7)
    ).toEqual(["held", ...Array.from({ length: 7 }, () => "did not hold"), "held", "did not hold"])
    const { charts, numbers, tables } = decide(held, 0.8)
    expect(numbers["near, 0.01: share left"]!.mean).toBeCloseTo(0.25, 1)
    expect(numbers["oracle, 0.2: pairs joined"]!.mean).toBe(1)
    expect(tables[0]!.rows).toHaveLength(15)
    expect(charts[0]!.lines[0]!.points.map(({ x }) => x)).toEqual([0.01, 0.05, 0.2])
  })

  it("edits a share of the tokens, and gives ids by likeness", () => {
    const tokens = Uint32Array.from({ length: 1000 }, () => 1)
    const edited = edit(tokens, 0.2, Uint32Array.of(2, 3), random(1, "edits"))
    expect(edited.filter((token) => token !== 1).length / 1000).toBeCloseTo(0.2, 1)
    expect(edit(tokens, 0, Uint32Array.of(2), random(1, "edits"))).toEqual(tokens)
    const words = Array.from({ length: 60 }, (_, i) => `word${i}`)
    const changed = words.with(30, "other")
    const unlike = Array.from({ length: 60 }, (_, i) => `thing${i}`)
    const [a, b, c] = idsByLikeness([words, changed, unlike].map((text) => text.join(" ")), { threshold: 0.5,
      shingle: 5 })
    expect(a).toBe(b)
    expect(a).not.toBe(c)
  })

  it("refuses what has no answer", () => {
    const problem = (over: object) => nearDuplicates.problem!(new NearDuplicatesConfig({ ...config, ...over }))
    expect(problem({})).toBeUndefined()
    expect(problem({ edits: [0.2, 0.1] })).toMatch(/rise/)
    expect(problem({ copies: 200 })).toMatch(/lower copies/)
  })

  it("runs, of likeness and exact bytes", async () => {
    const small = new NearDuplicatesConfig({ seeds: 1, edits: [0.05], steps: 6, passages: 2, copies: 4, foils: 2,
      data: new DataConfig({ tokenizer: "bytes", seqLen: 32, batchSize: 2, singleSequences: 12, heldOutSequences: 8,
        repeatedSequences: 0 }),
      model: { vocabSize: 256, hiddenSize: 16, numHiddenLayers: 1, numAttentionHeads: 1, intermediateSize: 32 + 64,
        sinks: { pool: 64, active: 16 } } })
    const some = { ...nearDuplicates, parts: () => ["standard, never", "standard, 0.05", "loose, 0.05", "exact, 0.05"] }
    const report = await Effect.runPromise(
      run(some, small, { device: NodeDevice.layer() }).pipe(Effect.provide(NodeContext.layer))
    )
    expect(report.failures).toEqual([])
    expect(Object.keys(report.numbers)).toContain("loose, 0.05: share left")
  }, 60_000)
})
