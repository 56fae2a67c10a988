/** The study of insertions: what it decides where the answer is planted, and once whole at a toy size. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { insertion, InsertionConfig, type InsertionFound } from "../../../pipelines/studies/insertion.ts"
import { run } from "../../../pipelines/study.ts"
import { resultsOf } from "../../../pipelines/study/Study.ts"
import * as NodeDevice from "../../../src/node.ts"
import { random } from "../../../src/Random.ts"

const config = new InsertionConfig({})
const draw = random(1, "noise")
/** Passages some of which are hard: that is no memory. */
const hard = [0, 1, -1, 0.5, -0.5, 0, 0.2, -0.2]
const known = (memory: number) => ({
  losses: hard.map((more) => 3 + more - memory + 0.02 * (draw.uniform() - 0.5)),
  accuracies: hard.map(() => 0.5)
})

interface Memories {
  readonly parts: ReadonlyArray<number>
  /** Of 2, 8 and 32 exposures. */
  readonly throughout: ReadonlyArray<number>
}

const groups = ({ parts, throughout }: Memories) =>
  Object.fromEntries([
    ...[2, 8, 32].map((count, i) => [`${count} throughout`, known(throughout[i]!)]),
    ...parts.map((memory, q) => [`part ${q + 1}`, known(memory)]),
    ["never", known(0)]
  ])

/** One seed: memories of the standard model in the text and in three times as much, alone, and of sinks. */
const decide = (of: Readonly<Record<"plain" | "diluted" | "alone" | "sinks" | "sinksDiluted" | "off", Memories>>) => {
  const found = [1, 2, 3].flatMap((seed) => {
    const state = (memories: Memories) => ({ foils: 3, groups: groups(memories) })
    const parts: Readonly<Record<string, InsertionFound>> = {
      "standard none": { states: { own: state({ parts: [0, 0, 0, 0], throughout: [0, 0, 0] }) } },
      "standard x1": { states: { own: state(of.plain) } },
      "standard x3": { states: { own: state(of.diluted) } },
      "standard alone": { states: { own: state(of.alone) } },
      "sinks x1": { states: { own: state(of.sinks), off: state(of.off) } },
      "sinks x3": { states: { own: state(of.sinksDiluted), off: state(of.off) } }
    }
    return Object.entries(parts).map(([part, found]) => ({ part, seed, found }))
  })
  return insertion.findings(resultsOf([1, 2, 3], found), config).claims
}

const fades: Memories = { parts: [0.2, 0.4, 0.8, 1.6], throughout: [0.3, 1, 2.5] }
const less: Memories = { parts: [0.1, 0.2, 0.4, 1.2], throughout: [0.1, 0.5, 1.5] }
const flat: Memories = { parts: [1, 1, 1, 1], throughout: [0.3, 1, 2.5] }
const none: Memories = { parts: [0, 0, 0, 0], throughout: [0, 0, 0.1] }

describe("timing, dilution and interference", () => {
  it("hold where they are planted", () => {
    const claims = decide({ plain: fades, diluted: less, alone: fades, sinks: flat, sinksDiluted: flat, off: none })
    expect(claims.map(({ claim, result }) => `${result}: ${claim}`).filter((one) => !one.startsWith("held"))).toEqual(
      []
    )
  })

  it("do not hold where early passages stay, more text makes no difference, and others take away", () => {
    const early: Memories = { ...fades, parts: [1.6, 0.8, 0.4, 0.2] }
    const claims = decide({
      plain: early,
      diluted: { ...early, throughout: [0.3, 1.3, 2.5] },
      alone: { ...early, throughout: [1, 3, 5] },
      sinks: fades,
      sinksDiluted: { ...none, throughout: [0, 0.2, 0.1] },
      off: fades
    })
    expect(claims.filter(({ about }) => about === "paper").map(({ result }) => result))
      .toEqual(["did not hold", "did not hold", "did not hold"])
    expect(claims.filter(({ about }) => about === "sinks").map(({ result }) => result))
      .toEqual(["did not hold", "did not hold", "did not hold"])
  })
})

it("what does not fit is told before any training", () => {
  const problem = (overrides: object) => insertion.problem!(new InsertionConfig({ ...overrides }))
  expect(problem({})).toBe(undefined)
  expect(problem({ steps: 20 })).toContain("32 exposures do not fit between steps 0 and 20")
  expect(problem({ timed: 4 })).toContain("must have 4, which is timed")
  expect(problem({ dilutions: [2, 4] })).toContain("must begin with 1")
  expect(problem({ exposures: [8, 2] })).toContain("must rise")
})

it("a toy run shows each passage as often as it says, and measures every group in every part", async () => {
  const toy = new InsertionConfig({
    seeds: 1,
    steps: 8,
    dilutions: [1, 2],
    passages: 1,
    exposures: [1, 2],
    timed: 2,
    quarters: 2,
    foils: 2,
    data: { batchSize: 4, seqLen: 16, tokenizer: "bytes", singleSequences: 40, heldOutSequences: 6,
      repeatedSequences: 0 },
    model: { vocabSize: 256, hiddenSize: 16, numHiddenLayers: 1, numAttentionHeads: 1, intermediateSize: 16 + 128,
      sinks: { pool: 128, active: 16 } }
  })
  const report = await Effect.runPromise(
    run(insertion, toy, { device: NodeDevice.layer() }).pipe(Effect.provide(NodeContext.layer))
  )
  expect(report.failures).toEqual([])
  // 2 by exposures, 2 parts and those that are never shown, in 2 + 1 + 2 x 2 columns; alone has memories of two of them
  expect(Object.keys(report.numbers).filter((name) => name.endsWith("memory")).length).toBe(6 * 5 + 2)
}, 60_000)
