/** The study of localizing: what it decides where the answer is planted, and once whole at a toy size. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { localizing, LocalizingConfig, type LocalizingFound } from "../../../pipelines/studies/localizing.ts"
import { run } from "../../../pipelines/study.ts"
import { resultsOf } from "../../../pipelines/study/Study.ts"
import * as NodeDevice from "../../../src/node.ts"
import { random } from "../../../src/Random.ts"

const config = new LocalizingConfig({})
const draw = random(1, "noise")
const about = (mean: number) => ({ mean: mean + 0.01 * draw.uniform(), sequences: 12, error: 0.01 })
const both = (memorized: number, control: number) => ({ memorized: about(memorized), control: about(control) })

interface Planted {
  readonly lost: readonly [number, number]
  readonly lower: readonly [number, number]
  readonly head: readonly [number, number]
  readonly own: readonly [number, number]
  /** Said of memorized, kept of control: top, random, all, off. */
  readonly top: readonly [number, number]
  readonly random: readonly [number, number]
  readonly all: readonly [number, number]
  readonly off: readonly [number, number]
  /** Nats written in by top and random. */
  readonly written: readonly [number, number]
}

const decide = (of: Planted) => {
  const common = { mass: { memorized: [], control: [] }, lost: both(...of.lost), places: [], lower: both(...of.lower),
    head: both(...of.head) }
  const found = [1, 2, 3].flatMap((seed) => {
    const parts: Readonly<Record<string, LocalizingFound>> = {
      standard: { ...common, own: both(0, 0),
        said: { before: both(0.9, 0.95), "top 0.1 %": both(...of.top), "random 0.1 %": both(...of.random),
          "all weights": both(...of.all) },
        written: { "top 0.1 %": { before: 4, after: 4 - about(of.written[0]).mean },
          "random 0.1 %": { before: 4, after: 4 - about(of.written[1]).mean },
          "all weights": { before: 4, after: 1 } } },
      sinks: { ...common, own: both(...of.own), said: { before: both(0.9, 0.95), "sinks off": both(...of.off) },
        written: {} }
    }
    return Object.entries(parts).map(([part, found]) => ({ part, seed, found }))
  })
  return localizing.findings(resultsOf([1, 2, 3], found), config).claims.map(({ claim, result }) =>
    `${result}: ${claim}`
  )
}

describe("what is decided", () => {
  it("holds where it is planted", () => {
    const claims = decide({ lost: [0.2, 0.5], lower: [0.8, 0.5], head: [0.5, 0.2], own: [0.4, 0.1], top: [0.1, 0.9],
      random: [0.8, 0.9], all: [0.05, 0.4], off: [0.02, 0.8], written: [2, 0.5] })
    expect(claims).toHaveLength(11)
    expect(claims.filter((one) => !one.startsWith("held"))).toEqual([])
  })

  it("does not hold where the opposite is", () => {
    const claims = decide({ lost: [0.5, 0.2], lower: [0.5, 0.8], head: [0.2, 0.5], own: [0.1, 0.4], top: [0.8, 0.3],
      random: [0.1, 0.9], all: [0.05, 0.9], off: [0.88, 0.2], written: [0.5, 2] })
    expect(claims.slice(1).filter((one) => !one.startsWith("did not hold"))).toEqual([])
  })
})

it("refuses what cannot be compared", () => {
  const problem = (changes: Partial<LocalizingConfig>) =>
    localizing.problem!(new LocalizingConfig({ ...config, ...changes }))
  expect(problem({})).toBe(undefined)
  expect(problem({ sequences: 40 })).toContain("data.heldOutSequences must be 80 at least")
  expect(problem({ shares: [0.1, 0.1] })).toContain("names one twice")
})

it("a toy run measures gradients, edits and sinks", async () => {
  const toy = new LocalizingConfig({
    seeds: 1,
    steps: 30,
    sequences: 2,
    shares: [0.05],
    editSteps: 2,
    data: { batchSize: 4, seqLen: 16, tokenizer: "bytes", singleSequences: 8, heldOutSequences: 8, repeatedSequences: 3,
      repeats: 40 },
    model: { vocabSize: 256, hiddenSize: 16, numHiddenLayers: 2, numAttentionHeads: 2, intermediateSize: 16 + 128,
      sinks: { pool: 128, active: 16 } }
  })
  const report = await Effect.runPromise(
    run(localizing, toy, { device: NodeDevice.layer() }).pipe(Effect.provide(NodeContext.layer))
  )
  expect(report.failures).toEqual([])
  const value = (name: string) => report.numbers[name]!.mean
  expect(value("gradient on own sinks, memorized")).toBeGreaterThan(0)
  expect(value("all weights: nats a token written in")).toBeGreaterThan(0)
  expect(value("standard, as trained: own words of other text kept")).toBe(1)
  expect(report.charts[0]!.lines).toHaveLength(4)
  expect(report.charts[1]!.lines.map(({ points }) => points.length)).toEqual([2, 2, 2, 2])
  // all of a gradient is somewhere
  const share = (table: typeof report.tables[number], column: number) =>
    table.rows.reduce((sum, row) => sum + (Number.parseFloat(row[column]!) || 0), 0)
  expect(share(report.tables[1]!, 1)).toBeCloseTo(1, 1)
}, 60_000)
