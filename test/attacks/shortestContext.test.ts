import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { sampleOf } from "../../src/attacks/index.ts"
import { shortest, shortestContext, ShortestContextOptions } from "../../src/attacks/shortestContext.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Sink from "../../src/Sink.ts"
import { heldOut, memorize, repeated, seqLen, sinkModel, withWeights } from "../support/memorized.ts"

describe("a value of an attack", () => {
  it("is the mean over the sequences that have one, with its standard error", () => {
    expect(sampleOf([1, NaN, 3, 5])).toEqual({ value: 3, sequences: 3, error: Math.sqrt(4 / 3) })
    expect(sampleOf([NaN, 7])).toEqual({ value: 7, sequences: 1 })
    expect(sampleOf([NaN])).toBeUndefined()
    expect(sampleOf({ value: 0.75, sequences: 9 })).toEqual({ value: 0.75, sequences: 9 })
  })
})

describe("the shortest context", () => {
  it("is the least after which all is said, in whatever order they were tried", () => {
    expect([...shortest([4, 1, 2], [[true, true, false], [false, true, false], [true, false, false]])])
      .toEqual([2, 1, NaN])
  })

  const options = new ShortestContextOptions({ length: 4, contexts: [13, 2] })
  const attack = (mode: Sink.SinkMode, rows = repeated) =>
    shortestContext.run({ rows, seen: [], others: heldOut, mode, seed: 1, seqLen, batchSize: 3 }, options)

  layer(NodeDevice.layer())((it) => {
    it.effect("finds what was planted in sinks, and nothing where they are off or nothing was", () =>
      Effect.gen(function*() {
        const config = sinkModel()
        const weights = yield* memorize(config, 60)
        const [own, off, never] = yield* withWeights(config, weights,
          Effect.all([attack(Sink.own), attack(Sink.off), attack(Sink.own, heldOut)]))
        expect(sampleOf(own!["found"]!)!.value).toBeGreaterThan(0.8)
        expect(sampleOf(off!["found"]!)!.value).toBe(0)
        expect(sampleOf(never!["found"]!)!.value).toBe(0)
        expect(sampleOf(never!["tokens"]!)).toBeUndefined()
      }))
  })

  it("asks for sequences that are long enough", () => {
    const ground = { model: sinkModel(), seqLen: 15, rows: 1, seen: 1, others: 1 }
    expect(shortestContext.problem!(options, ground)).toContain("more than the 16 of a sequence")
    expect(shortestContext.problem!(options, { ...ground, seqLen: 16 })).toBeUndefined()
  })
})
