/** The study of grokking at a size that takes no time: what is planted is found, and what is wrong is told. */
import { describe, expect, it } from "vitest"
import { grok, grokking, GrokkingConfig } from "../../../pipelines/studies/grokking.ts"
import { partsOf, resultsOf } from "../../../pipelines/study/Study.ts"
import { SinkConfig } from "../../../src/Sink.ts"
import { atOnce } from "../../../src/Turns.ts"

const small = { modulus: 11, trained: 0.8, general: 32, steps: 60, learningRate: 0.01 }

describe("the study of grokking", () => {
  it("finds a rule where there is one, and none in noise; sinks hold what they alone can", () => {
    const of = (more: Parameters<typeof grok>[0]) => atOnce(grok({ ...small, seed: 1, ...more }))
    const [clean, noise] = [of({ corrupted: 0, steps: 150 }), of({ corrupted: 1, steps: 150 })]
    expect(clean.off.corrupted).toBeNull()
    expect(clean.off.train).toBe(1)
    expect(clean.off.test).toBeGreaterThan(2 * noise.off.test)
    // without a neuron the answer is the same for all
    for (const curve of [clean.ascending, clean.descending]) {
      expect(curve[0]).toMatchObject(clean.off)
      expect(curve.at(-1)!.dropped).toBe(1)
      expect(curve.at(-1)!.train).toBeLessThan(0.3)
    }
    const sinks = new SinkConfig({ pool: 240, active: 2, block: 2 })
    const held = of({ corrupted: 1, general: 2, steps: 150, sinks })
    expect(held.own.corrupted!).toBeGreaterThan(held.off.corrupted! + 0.3)
    expect(held.pool).not.toBeNull()
  })

  it("decides by its seeds, and has a row and a line for all that was tried", () => {
    const config = new GrokkingConfig({ ...small, steps: 20, seeds: 2, noises: [0, 0.3], decays: [0, 5],
      sinks: [new SinkConfig({ pool: 16, active: 2, block: 1 })] })
    const parts = partsOf(grokking, config)
    expect(parts).toEqual(["noise 0, decay 0", "noise 0, decay 5", "noise 0.3, decay 0", "noise 0.3, decay 5",
      "2 of 16 sinks"])
    const options = { ...small, steps: 20 }
    const found = [1, 2].flatMap((seed) =>
      parts.map((part) => ({
        part,
        seed,
        found: atOnce(
          grok({ ...options, seed, corrupted: part.startsWith("noise 0,") ? 0 : 0.3,
            ...(part.endsWith("sinks") ? { sinks: config.sinks[0]! } : {}) })
        )
      }))
    )
    const { charts, claims, tables } = grokking.findings(resultsOf([1, 2], found), config)
    expect(claims.every(({ result }) => result !== "not tested")).toBe(true)
    expect(tables[0]!.rows.length).toBe(4)
    expect(tables[1]!.rows.length).toBe(3)
    expect(charts[0]!.lines.every(({ points }) => points.length > 0)).toBe(true)
  })

  it("says what it needs", () => {
    const problem = (more: Partial<GrokkingConfig>) =>
      grokking.problem!(new GrokkingConfig({ ...more } as GrokkingConfig))
    expect(problem({})).toBeUndefined()
    expect(problem({ modulus: 15 })).toContain("prime")
    expect(problem({ trained: 1 })).toContain("leave a pair")
    expect(problem({ noise: 0 })).toContain("corrupt a pair")
    expect(problem({ decays: [5, 0] })).toContain("ascend")
    expect(problem({ decays: [0] })).toContain("2 at least")
    expect(problem({ sinks: [new SinkConfig({ pool: 10, active: 4, block: 4 })] })).toContain("multiple")
  })
})
