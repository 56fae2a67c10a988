/** The study of forecasting: what it decides where the answer is planted, and once whole at a toy size. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { forecasting, ForecastingConfig, type ForecastingFound } from "../../../pipelines/studies/forecasting.ts"
import { run } from "../../../pipelines/study.ts"
import { resultsOf } from "../../../pipelines/study/Study.ts"
import { DataConfig } from "../../../src/data/stream/DataConfig.ts"
import { forecast, kMemorization } from "../../../src/measures/Extraction.ts"
import { ModelConfig } from "../../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../../src/node.ts"
import { random } from "../../../src/Random.ts"

describe("memory as a forecast", () => {
  it("has the precision and recall that counting gives", () => {
    const [t, f] = [true, false]
    expect(forecast([t, t, t, f, f, f, f], [t, t, f, t, f, f, f])).toEqual({
      precision: 2 / 3,
      predicted: 3,
      recall: 2 / 3,
      actual: 3,
      falsePositives: 1 / 4
    })
    expect(forecast([f, f], [t, f])).toMatchObject({ precision: NaN, recall: 0 })
    expect(forecast([f], [f]).recall).toBeNaN()
  })

  it("has scores of what is said in its place", () => {
    expect(kMemorization([1, 2, 3, 4], [1, 2, 3, 4])).toBe(1)
    expect(kMemorization([1, 9, 3], [1, 2, 3, 4])).toBe(0.5)
    expect(kMemorization([], [1, 2])).toBe(0)
  })
})

const config = new ForecastingConfig({})
const count = 240

/** Sequences of which the final model has memorized half; a predictor has some of these, and some others. */
const world = (seed: number,
  { early, kept, small }: { readonly early: number; readonly kept: number; readonly small: number }) =>
{
  const draw = random(seed, "forecasting")
  const times = Array.from({ length: count }, (_, i) => i < count / 2 ? 4 : 16)
  const ease = times.map(() => draw.uniform())
  const final = times.map((_, i) => i % 2 === 0)
  const some = (share: number, wrong: number) => final.map((one) => draw.uniform() < (one ? share : wrong))
  const loss = (noise: number) => ease.map((x) => 1 + x + noise * draw.uniform())
  const looks = (last: ReadonlyArray<boolean>, off: boolean): ForecastingFound["looks"] =>
    Array.from({ length: 8 }, (_, i) => ({
      step: 10 * (i + 1),
      heldOut: 3,
      states: {
        own: { memorized: i === 7 ? last : some((early * (i + 1)) / 4, 1 - kept), loss: loss(5) },
        ...(off
          ? { off: { memorized: final.map(() => false), loss: loss(0.01).map((x) => x + 0.2 * Math.abs(i - 2)) } }
          : {})
      }
    }))
  const found = (last: ReadonlyArray<boolean>, operations: number, off = false): ForecastingFound => ({
    times,
    looks: looks(last, off),
    operations,
    scores: last.map((one) => one ? 1 : 0.3),
    heldOut: 0
  })
  return {
    "width 16": found(some(small / 2, 0.01), 10),
    "width 32": found(some(small, 0.01), 40),
    "width 64": found(final, 100),
    sinks: found(final, 120, true)
  }
}

const decide = (plant: Parameters<typeof world>[1]) => {
  const found = [1, 2, 3].flatMap((seed) =>
    Object.entries(world(seed, plant)).map(([part, found]) => ({ part, seed, found }))
  )
  const { claims } = forecasting.findings(resultsOf([1, 2, 3], found), config)
  return (words: string) => claims.find(({ claim }) => claim.includes(words))!.result
}

describe("the study of forecasting", () => {
  it("decides what is planted, and its contrary", () => {
    const here = decide({ early: 0.5, kept: 0.99, small: 0.04 })
    for (const words of ["halfway stays: ", "memorized later", "misses most", "never shown", "something to forecast",
      "At equal operations", "all or little", "next to nothing", "which sequences leak", "rises again"])
    {
      expect([words, here(words)]).toEqual([words, "held"])
    }
    const there = decide({ early: 0.9, kept: 0.1, small: 0.95 })
    for (const words of ["halfway stays: ", "memorized later", "misses most", "At equal operations"]) {
      expect([words, there(words)]).toEqual([words, "did not hold"])
    }
  })

  it("says what it needs", () => {
    const problem = (more: object) => forecasting.problem!(new ForecastingConfig(more))
    expect(problem({})).toBeUndefined()
    expect(problem({ sizes: [64] })).toContain("below model.hiddenSize (64)")
    expect(problem({ promptTokens: 33 })).toContain("33, got 33")
    expect(problem({ data: new DataConfig({ seqLen: 32 }) })).toContain("data.repeat")
    expect(
      problem({
        model: new ModelConfig({ vocabSize: 256, hiddenSize: 64, numHiddenLayers: 1, numAttentionHeads: 2,
          intermediateSize: 32 })
      })
    ).toContain("model.sinks is missing")
  })

  it("runs whole at a toy size, and sees the same again", { timeout: 60_000 }, async () => {
    const toy = new ForecastingConfig({
      seeds: 1,
      looks: 2,
      sizes: [8],
      promptTokens: 4,
      data: new DataConfig({ batchSize: 8, seqLen: 16, singleSequences: 8, heldOutSequences: 4, tokenizer: "bytes",
        repeat: [{ sequences: 2, times: 2 }, { sequences: 2, times: 6 }] }),
      model: new ModelConfig({ vocabSize: 256, hiddenSize: 16, numHiddenLayers: 1, numAttentionHeads: 2,
        intermediateSize: 32 + 64, sinks: { pool: 64, active: 16 } })
    })
    const again = () =>
      Effect.runPromise(run(forecasting, toy, { device: NodeDevice.layer() }).pipe(Effect.provide(NodeContext.layer)))
    const report = await again()
    expect(report.failures).toEqual([])
    expect(report.tables[0]!.rows.map(([name]) => name)).toEqual(["width 8", "step 2", "step 3"])
    expect(report.numbers["memorized, final"]!.mean).toBeGreaterThanOrEqual(0)
    expect(report.charts[1]!.lines.every(({ points }) => points.length === 2)).toBe(true)
  })
})
