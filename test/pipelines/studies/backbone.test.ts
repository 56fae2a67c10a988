/** The study of sinks left out in training: what it decides where the answer is planted, and once whole at a toy size. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { describe, expect, it } from "vitest"
import { backbone, BackboneConfig, type BackboneFound } from "../../../pipelines/studies/backbone.ts"
import { run } from "../../../pipelines/study.ts"
import { resultsOf } from "../../../pipelines/study/Study.ts"
import * as NodeDevice from "../../../src/node.ts"
import { random } from "../../../src/Random.ts"

const config = new BackboneConfig({})

/** Own sinks know trained passages 4 nats better; of that `remains` stays without them, and `more` of it where a share is left out. */
const decide = ({ gain, more, price, remains }: Record<"gain" | "more" | "price" | "remains", number>) => {
  const draw = random(1, "noise")
  const near = (value: number) => value + 0.02 * (draw.uniform() - 0.5)
  const found = [1, 2, 3].flatMap((seed) =>
    backbone.parts!(config).map((part) => {
      const left = /sequences|units/.test(part)
      const off = (left ? remains + more : remains) * 4
      const one: BackboneFound = {
        own: { seen: near(1), unseen: near(5) },
        nearest: { seen: near(5 - off / 2), unseen: near(5) },
        off: { seen: near(6 - off), unseen: near(6) },
        outsider: { nearest: near(left ? 5 + price : 5), off: near(left ? 6 - gain : 6) }
      }
      return { part, seed, found: one }
    })
  )
  return backbone.findings(resultsOf([1, 2, 3], found), config)
}

describe("sinks left out in training", () => {
  it("is decided by what is planted", () => {
    const results = (planted: Parameters<typeof decide>[0]) => decide(planted).claims.map(({ result }) => result)
    expect(results({ remains: 0.1, more: 0.3, gain: 0.5, price: -0.1 })).toEqual(
      ["held", "held", "held", "held", "held", "held"]
    )
    expect(results({ remains: 0.5, more: -0.3, gain: -0.5, price: 0.3 })).toEqual(
      ["held", "did not hold", "did not hold", "did not hold", "did not hold", "did not hold"]
    )
    const { numbers, tables } = decide({ remains: 0.25, more: 0.25, gain: 0, price: 0 })
    expect(numbers["base: share that remains"]!.mean).toBeCloseTo(0.25, 1)
    expect(numbers["sequences 0.25, exposures 4: share that remains"]!.mean).toBeCloseTo(0.5, 1)
    expect(numbers["units 0.5: share that remains, the nearest source's sinks"]!.mean).toBeCloseTo(0.25, 1)
    expect(tables.map(({ rows }) => rows.length)).toEqual([6, 6, 9])
  })

  it("trains each setting once, whatever it is compared in", () => {
    const parts = backbone.parts!(config)
    expect(new Set(parts).size).toBe(parts.length)
    expect(parts).toHaveLength(4 + 2 + 3 * 2 * 2)
    expect(parts).toContain("sequences 0.25, width 96")
    const problem = (over: object) => backbone.problem!(new BackboneConfig({ ...config, ...over }))
    expect(problem({})).toBeUndefined()
    expect(problem({ share: 0.3 })).toMatch(/share 0.3 must be one of sequences/)
    expect(problem({ sequences: [0.1, 0.25] })).toMatch(/must begin with 0/)
    expect(problem({ units: [0] })).toMatch(/leave 0 out/)
  })

  it("runs whole", async () => {
    const small = new BackboneConfig({ seeds: 1, sources: 2, passages: 3, unseen: 2, exposures: 2, width: 16,
      seqLen: 16, vocabSize: 300, sequences: [0, 0.25], units: [], otherSources: [], otherExposures: [],
      otherWidths: [] })
    const report = await Effect.runPromise(
      run(backbone, small, { device: NodeDevice.layer() }).pipe(Effect.provide(NodeContext.layer))
    )
    expect(report.failures).toEqual([])
    expect(Object.keys(report.numbers)).toContain("sequences 0.25: memory, own sinks")
    expect(Schema.encodeSync(BackboneConfig)(small)).toMatchObject({ share: 0.25 })
  }, 60_000)
})
