/** The study of memory in attention: what it swaps, what it decides where the answer is planted, and with sinks once at a toy size. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { attentionMemory, AttentionMemoryConfig, type AttentionMemoryFound,
  swapped } from "../../../pipelines/studies/attentionMemory.ts"
import { run } from "../../../pipelines/study.ts"
import { resultsOf } from "../../../pipelines/study/Study.ts"
import { DataConfig } from "../../../src/data/stream/DataStream.ts"
import { ModelConfig } from "../../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../../src/node.ts"
import { random } from "../../../src/Random.ts"

const tied = new AttentionMemoryConfig({})
const config = new AttentionMemoryConfig({ model: { ...tied.model, tieWordEmbeddings: false } })

/** Two nats, of which attention takes and brings a share; of what is left without sinks it takes another. */
const decide = ({ brings, left, takes }: Record<"brings" | "left" | "takes", number>) => {
  const draw = random(1, "noise")
  const near = (value: number) => value + 0.01 * (draw.uniform() - 0.5)
  const looked = (own: number, off: number) => ({ passages: { own: near(0.1 + own), off: near(0.1 + off) },
    placebo: near(0), foils: near(4) })
  const found = [1, 2, 3].flatMap((seed) =>
    ["standard", "sinks"].map((part) => {
      const off = part === "sinks" ? 0.5 : 2
      const one: AttentionMemoryFound = {
        shown: looked(2, off),
        never: looked(0, 0),
        without: {
          attention: looked(2 * (1 - takes), off * (1 - (part === "sinks" ? left : takes))),
          general: looked(1, off * 0.7),
          ...(part === "sinks" ? { sinks: looked(0.5, off) } : {}),
          embedding: looked(1.8, off),
          head: looked(1, off * 0.1)
        },
        alone: {
          attention: looked(2 * brings, off * brings),
          general: looked(0.4, 0.1),
          ...(part === "sinks" ? { sinks: looked(1, 0) } : {}),
          embedding: looked(0.1, 0.1),
          head: looked(0.5, 0.2)
        }
      }
      return { part, seed, found: one }
    })
  )
  return attentionMemory.findings(resultsOf([1, 2, 3], found), config)
}

describe("memory in attention", () => {
  it("is decided by what is planted", () => {
    const results = (planted: Parameters<typeof decide>[0]) => decide(planted).claims.map(({ result }) => result)
    expect(results({ takes: 0.3, brings: 0.05, left: 0.6 })).toEqual(Array.from({ length: 8 }, () => "held"))
    expect(results({ takes: 0.05, brings: 0.5, left: 0.01 })).toEqual(
      ["held", "held", "did not hold", "did not hold", "held", "did not hold", "did not hold", "held"]
    )
    // where the head is the embedding nothing tells them apart
    expect(attentionMemory.findings(resultsOf([], []), tied).claims).toHaveLength(7)
    const { numbers, tables } = decide({ takes: 0.3, brings: 0.05, left: 0.6 })
    expect(numbers["standard, attention: share that goes"]!.mean).toBeCloseTo(0.3, 1)
    expect(numbers["own sinks, sinks: share that comes"]!.mean).toBeCloseTo(0.5, 1)
    expect(tables.map(({ rows }) => rows.length)).toEqual([3, 2])
  })

  it("swaps one group and nothing else, neurons by their place", () => {
    const model = new ModelConfig({ vocabSize: 8, hiddenSize: 4, numHiddenLayers: 1, numAttentionHeads: 1,
      intermediateSize: 8, sinks: { pool: 4, active: 4, block: 4 } })
    const names = { "model.layers.0.mlp.down_proj.weight": [4, 8], "model.layers.0.mlp.gate_proj.weight": [8, 4],
      "model.layers.0.self_attn.q_proj.weight": [4, 4], "lm_head.weight": [8, 4] }
    const of = (value: number) =>
      Object.fromEntries(
        Object.entries(names).map((
          [name, shape]
        ) => [name, { shape, data: new Float32Array(shape[0]! * shape[1]!).fill(value) }])
      )
    const [down, gate, q, head] = Object.values(swapped(model, of(0), of(1), "sinks")).map(({ data }) => [...data])
    expect(down!.slice(0, 8)).toEqual([0, 0, 0, 0, 1, 1, 1, 1])
    expect(gate!.indexOf(1)).toBe(16)
    expect([...q!, ...head!].every((value) => value === 0)).toBe(true)
    const all = ["attention", "general", "sinks", "embedding", "head"] as const
    // every weight is of one group
    const end = all.reduce<Parameters<typeof swapped>[1]>((now, group) => swapped(model, now, of(1), group), of(0))
    expect(Object.values(end).every(({ data }) => data.every((value) => value === 1))).toBe(true)
  })

  it("runs with sinks", async () => {
    const small = new AttentionMemoryConfig({ seeds: 1, steps: 8, passages: 2, exposures: 3, foils: 2,
      data: new DataConfig({ tokenizer: "bytes", seqLen: 16, batchSize: 4, singleSequences: 40, heldOutSequences: 12,
        repeatedSequences: 0 }),
      model: { vocabSize: 256, hiddenSize: 16, numHiddenLayers: 1, numAttentionHeads: 1, intermediateSize: 32 + 64,
        sinks: { pool: 64, active: 16 } } })
    const report = await Effect.runPromise(
      run({ ...attentionMemory, parts: () => ["sinks"] }, small, { device: NodeDevice.layer() }).pipe(
        Effect.provide(NodeContext.layer)
      )
    )
    expect(report.failures).toEqual([])
    expect(Object.keys(report.numbers)).toContain("own sinks, sinks: share that goes")
    expect(attentionMemory.problem!(new AttentionMemoryConfig({ exposures: 400 }))).toMatch(/raise steps/)
  }, 60_000)
})
