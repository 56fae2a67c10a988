/** Extraction against repeats, context and size: planted answers, and one tiny training. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { type Extracted, quantifying, QuantifyingConfig,
  type QuantifyingFound } from "../../../pipelines/studies/quantifying.ts"
import { run } from "../../../pipelines/study.ts"
import { partsOf, resultsOf } from "../../../pipelines/study/Study.ts"
import * as NodeDevice from "../../../src/node.ts"

const config = new QuantifyingConfig({})

/** What is found where shares are given by what they depend on; control and sinks, off, by what is guessed. */
const found = (
  rate: (times: number, context: number, width: number) => number,
  { guessed = 0.02, off = 0.02, sequences = 200, seeds = 3 } = {}
) => {
  const states = (width: number, of: typeof rate): ReadonlyArray<Extracted> =>
    config.repeats.flatMap((times) =>
      config.contexts.map((context) => ({ times, context, sequences, rate: of(times, context, width), exact: 1 }))
    )
  const all = [1, 2, 3].slice(0, seeds).flatMap((seed) =>
    partsOf(quantifying, config).map((part) => {
      const [kind, size] = part.split(" ")
      const width = Number(size)
      const own = states(width, kind === "control" ? () => guessed : rate)
      return { part, seed, found: {
        parameters: width ** 2,
        states: kind === "sinks" ? { own, off: states(width, () => off) } : { own },
        heldOut: kind === "sinks" ? { off: 3 } : { own: 3 }
      } satisfies QuantifyingFound }
    })
  )
  return quantifying.findings(resultsOf([1, 2, 3].slice(0, seeds), all), config)
}

describe("what is extracted", () => {
  it("grows along lines whose slopes are found, and sinks that are off change it", () => {
    // .1 more a doubling of repeats, .05 of the context, .3 a tenfold of the parameters, which are widths squared
    const { claims, numbers } = found((times, context, width) =>
      0.1 * Math.log2(times) + 0.05 * Math.log2(context / 32) + 0.6 * Math.log10(width / 64)
    )
    expect(numbers["share more a doubling of repeats, standard"]!.mean).toBeCloseTo(0.1, 10)
    expect(numbers["share more a doubling of the context, standard"]!.mean).toBeCloseTo(0.05, 10)
    expect(numbers["share more a tenfold of the parameters, standard"]!.mean).toBeCloseTo(0.3, 10)
    expect(claims.map(({ result }) => result)).toEqual(Array(7).fill("held"))
  })

  it("says nothing held where it does not grow, where all is guessed, and of one seed with few sequences", () => {
    const flat = found(() => 0.5).claims.map(({ result }) => result)
    expect(flat.slice(0, 3)).not.toContain("held")
    const none = found(() => 0, { guessed: 0, off: 0 }).claims.map(({ result }) => result)
    expect(none).toEqual([...Array(6).fill("not decided"), "held"])
    const shrinking = found((times) => 1 - 0.15 * Math.log2(times)).claims[0]!
    expect(shrinking.result).toBe("did not hold")
    const guessed = found((times) => 0.15 * Math.log2(times), { guessed: 0.95, off: 0.95 }).claims
    expect(guessed[3]!.result).not.toBe("held")
    const few = found((times) => 0.15 * Math.log2(times), { seeds: 1, sequences: 3 }).claims
    expect(few.map(({ result }) => result)).not.toContain("held")
  })
})

it("refuses what tells no slope, and sequences that are too short, with what is needed", () => {
  const problem = (fields: object) => quantifying.problem!(new QuantifyingConfig(fields))
  expect(problem({ repeats: [2, 4] })).toBe("repeats must be 3 numbers at least for a slope with a spread, got 2,4")
  expect(problem({ widths: [32, 16, 64] })).toBe("widths must ascend, got 32,16,64")
  expect(problem({ contexts: [4, 8, 64] })).toMatch(/^data.seqLen must be 79 at least .* got 64$/)
  expect(problem({ data: { repeats: 3 } })).toMatch(/leave them out$/)
  expect(problem({ data: { singleSequences: "all" } })).toMatch(/^training.steps is missing/)
  expect(
    problem({
      model: { vocabSize: 256, hiddenSize: 32, numHiddenLayers: 1, numAttentionHeads: 2, intermediateSize: 64 }
    })
  ).toMatch(/^model.sinks is missing/)
})

it("trains its models, and finds in them what was shown often", async () => {
  const tiny = new QuantifyingConfig({
    seeds: 1,
    repeats: [1, 2, 96],
    sequences: 2,
    contexts: [2, 4, 8],
    length: 4,
    widths: [8, 16, 32],
    data: { tokenizer: "bytes", seqLen: 16, batchSize: 2, singleSequences: 8, heldOutSequences: 2 },
    model: { vocabSize: 256, hiddenSize: 32, numHiddenLayers: 1, numAttentionHeads: 1, intermediateSize: 64 + 64,
      sinks: { pool: 64, active: 16 } },
    training: { optimizer: { learningRate: 2e-2 } }
  })
  const only = { ...quantifying, parts: () => ["standard 32", "sinks 32", "control 32"] }
  const report = await Effect.runPromise(
    run(only, tiny, { device: NodeDevice.layer() }).pipe(Effect.provide(NodeContext.layer))
  )
  expect(report.failures).toEqual([])
  const at = (name: string) => report.numbers[`extracted, 96 repeats, context 8, width 32, ${name}`]!.mean
  expect(Math.min(at("standard"), at("sinks, own"))).toBeGreaterThanOrEqual(0.5)
  expect(at("never trained on it")).toBe(0)
}, 30_000)
