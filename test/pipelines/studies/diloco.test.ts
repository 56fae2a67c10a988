/** The study of sinks under DiLoCo: what it decides where the answer is planted, and parts at a toy size. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { diloco, DilocoConfig, type DilocoFound } from "../../../pipelines/studies/diloco.ts"
import { run } from "../../../pipelines/study.ts"
import { resultsOf } from "../../../pipelines/study/Study.ts"
import { DataConfig } from "../../../src/data/stream/DataStream.ts"
import * as NodeDevice from "../../../src/node.ts"
import { random } from "../../../src/Random.ts"

const config = new DilocoConfig({})

/** One process's own sinks know 3 nats; by ranks they know `lost` less and leave `leak` more without them, unless it is mended. */
const decide = ({ cost, leak, lost }: Record<"cost" | "leak" | "lost", number>) => {
  const draw = random(1, "noise")
  const near = (value: number) => value + 0.01 * (draw.uniform() - 0.5)
  const found = [1, 2, 3].flatMap((seed) =>
    diloco.parts!(config).map((part) => {
      const several = part.includes("ranks")
      const mended = part.includes("who moved")
      const own = part === "oracle" ? 0 : part.startsWith("standard") ? 2 : 3 - (several && !mended ? lost : 0)
      const off = part.startsWith("sinks") ? 0.4 + (several ? leak : 0) : own
      const one: DilocoFound = { repeated: { own: near(4 - own), off: near(4 - off), placebo: near(4 - off) },
        heldOut: near(4 + (several ? cost : 0)), curve: [{ step: 100, heldOut: near(4.5) }] }
      return { part, seed, found: one }
    })
  )
  return diloco.findings(resultsOf([1, 2, 3], found), config)
}

describe("sinks under exchange from time to time", () => {
  it("is decided by what is planted", () => {
    const results = (planted: Parameters<typeof decide>[0]) => decide(planted).claims.map(({ result }) => result)
    expect(results({ cost: 0, lost: 1, leak: 0.4 })).toEqual(Array.from({ length: 8 }, () => "held"))
    expect(results({ cost: 0.2, lost: -1, leak: -0.2 })).toEqual([
      "held",
      ...Array.from({ length: 6 }, () => "did not hold"),
      "held"
    ])
    const { charts, numbers, tables } = decide({ cost: 0, lost: 1, leak: 0.4 })
    expect(numbers["sinks: share left"]!.mean).toBeCloseTo(0.2, 1)
    expect(numbers["sinks, 4 ranks, every 10, mean: share left"]!.mean).toBeCloseTo(0.4, 1)
    expect(tables[0]!.rows).toHaveLength(12)
    expect(charts[1]!.lines[0]!.points.map(({ x }) => x)).toEqual([1, 10, 50, 100])
  })

  it("refuses what cannot be shared out", () => {
    const problem = (over: object) => diloco.problem!(new DilocoConfig({ ...config, ...over }))
    expect(problem({})).toBeUndefined()
    expect(problem({ steps: 150 })).toMatch(/multiple of every syncEvery, such as 100/)
    expect(problem({ compared: [20] })).toMatch(/not in syncEvery/)
    expect(problem({ fewerRanks: 3 })).toMatch(/batches 4 must be a multiple of 3/)
    expect(problem({ fewerRanks: 4 })).toMatch(/from 2 to 3/)
  })

  it("trains by ranks of one process, and by those that moved", async () => {
    const small = new DilocoConfig({ seeds: 1, steps: 4, ranks: 4, fewerRanks: 2, syncEvery: [2], compared: [2],
      data: new DataConfig({ tokenizer: "bytes", seqLen: 16, batchSize: 2, singleSequences: 32, heldOutSequences: 4,
        repeatedSequences: 2, repeats: 4 }),
      model: { vocabSize: 256, hiddenSize: 16, numHiddenLayers: 1, numAttentionHeads: 1, intermediateSize: 32 + 128,
        sinks: { pool: 128, active: 16 } } })
    const names = ["oracle", "sinks", "sinks, 4 ranks, every 2, mean", "sinks, 4 ranks, every 2, mean, of who moved"]
    const report = await Effect.runPromise(
      run({ ...diloco, parts: () => names }, small, { device: NodeDevice.layer() }).pipe(
        Effect.provide(NodeContext.layer)
      )
    )
    expect(report.failures).toEqual([])
    const own = names.slice(1).map((name) => report.numbers[`${name}: memory, own sinks`]!.mean)
    expect(new Set(own).size).toBe(3)
  }, 60_000)
})
