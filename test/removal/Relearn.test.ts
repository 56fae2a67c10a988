/** Relearning: what the points say, worked out by hand; and that a hidden memory is back sooner than one never had. */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { describe, expect, it } from "vitest"
import { quantized } from "../../src/checkpoints/Quantize.ts"
import { batchOf, type Row } from "../../src/data/stream/Packing.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import { logSpaced, relearn, type RelearnOptions, type RelearnPoint, relearnRatio,
  stepsToBack } from "../../src/removal/Relearn.ts"
import { off } from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { makeTuner } from "../../src/train/Tuner.ts"
import { makeRandom } from "../reference/random.ts"
import { miniatureModel } from "../support/support.ts"

describe("points of relearning", () => {
  const curve = (learningRate: number, losses: Readonly<Record<number, number>>): ReadonlyArray<RelearnPoint> =>
    Object.entries(losses).map(([step, other]) => ({ learningRate, step: Number(step), losses: { other, seen: 0 } }))
  const level = { set: "other", oracle: 4, standard: 0, share: 0.5 }

  it("are at steps spaced by their logarithm, the last of them the most", () => {
    expect(logSpaced(20)).toEqual([1, 2, 3, 4, 6, 8, 11, 16, 20])
    expect(logSpaced(16, 1)).toEqual([1, 2, 4, 8, 16])
    expect(logSpaced(1)).toEqual([1])
  })

  it("say when half of the way is gone, in a straight line over log(1 + step)", () => {
    expect(stepsToBack(curve(1, { 0: 5, 1: 3, 7: 1, 15: 0 }), level)).toBeCloseTo(3, 12)
    expect(stepsToBack(curve(1, { 0: 3, 1: 1 }), level)).toBeCloseTo(Math.SQRT2 - 1, 12)
    expect(stepsToBack(curve(1, { 0: 3, 1: 2.5, 3: 2, 7: 0 }), level)).toBeCloseTo(3, 12)
    // nine tenths unless told
    expect(stepsToBack(curve(1, { 0: 4, 1: 0.4, 3: 0 }), { set: "other", oracle: 4, standard: 0 })).toBeCloseTo(1, 12)
  })

  it("say 0 where it never was gone, and nothing where it does not come back", () => {
    expect(stepsToBack(curve(1, { 0: 1.9, 1: 3 }), level)).toBe(0)
    expect(stepsToBack(curve(1, { 0: 4, 1: 3, 9: 2.1 }), level)).toBeUndefined()
    // a loss that is not a number is not back
    expect(stepsToBack(curve(1, { 0: 4, 1: NaN, 3: NaN }), level)).toBeUndefined()
  })

  it("count at the worst rate, the one that brings it back soonest, and when it is first back", () => {
    const slow = curve(1e-5, { 0: 4, 1: 3.9, 8: 3.5 })
    const fast = curve(1e-3, { 0: 4, 1: 2, 8: 6 })
    expect(stepsToBack([...slow, ...fast, ...curve(1e-4, { 0: 4, 1: 3, 8: 2 })], level)).toBe(1)
    expect(stepsToBack(slow, level)).toBeUndefined()
  })

  it("compare with the oracle: 1 is as slow as never trained", () => {
    expect(relearnRatio(5, 20, 64)).toBe(0.25)
    expect(relearnRatio(20, 20, 64)).toBe(1)
    expect(relearnRatio(undefined, undefined, 64)).toBe(1)
    expect(relearnRatio(16, undefined, 64)).toBe(0.25)
    expect(relearnRatio(undefined, 16, 64)).toBe(4)
    expect(relearnRatio(0, undefined, 64)).toBe(0)
    expect(relearnRatio(0, 0, 64)).toBe(1)
  })
})

describe("quantized weights", () => {
  const random = makeRandom(6)
  const data = Float32Array.from(random.normals(40))
  data.fill(0, 10, 20)
  const tensors = { matrix: { shape: [4, 10], data }, norm: { shape: [10], data: data.slice(20, 30) } }

  it("are whole multiples of a step for each row, half a step off at most, and the largest as it was", () => {
    for (const [bits, most] of [[8, 127], [4, 7]] as const) {
      const got = quantized(tensors, bits)
      expect(got.norm).toEqual(tensors.norm)
      expect(got.matrix!.shape).toEqual([4, 10])
      for (const r of [0, 2, 3]) {
        const before = [...data.subarray(r * 10, (r + 1) * 10)]
        const after = [...got.matrix!.data.subarray(r * 10, (r + 1) * 10)]
        const largest = Math.max(...before.map(Math.abs))
        const step = largest / most
        expect(Math.max(...after.map(Math.abs))).toBeCloseTo(largest, 6)
        after.forEach((x, i) => {
          expect(x / step).toBeCloseTo(Math.round(x / step), 4)
          expect(Math.abs(x - before[i]!)).toBeLessThanOrEqual(step / 2 + 1e-6)
        })
        expect(after).not.toEqual(before)
      }
      expect([...got.matrix!.data.subarray(10, 20)]).toEqual(Array.from({ length: 10 }, () => 0))
    }
    const values = (bits: 8 | 4) => new Set(quantized(tensors, bits).matrix!.data).size
    expect(values(4)).toBeLessThan(values(8))
  })
})

const config = new ModelConfig({ ...miniatureModel, vocabSize: 32 })
const seqLen = 16

const halves = (() => {
  const random = makeRandom(2)
  return [0, 1, 2].map((i) => {
    const tokens = random.ints(33, config.vocabSize)
    const half = (offset: number): Row => ({
      id: BigInt(i),
      tokens: tokens.slice(offset, offset + 17),
      document: `removed ${i}`,
      offset
    })
    return { seen: half(0), other: half(16) }
  })
})()
const seen = halves.map(({ seen }) => seen)
const other = halves.map(({ other }) => other)
const options = {
  train: seen,
  score: { other, seen },
  learningRates: [1e-3, 5e-3],
  steps: 6,
  at: [1, 4, 6],
  batchSize: 2,
  seqLen
} satisfies RelearnOptions

const withModel = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.provide(effect, Model.layer(config, { seed: 5 }))

layer(NodeDevice.layer())("relearning", (it) => {
  it.effect("goes on with the other rates where a model does not survive one", () =>
    withModel(Effect.gen(function*() {
      const got = yield* Stream.runCollect(relearn({ ...options, learningRates: [1e30, 1e-3] }))
      const points = [...got]
      expect(points.filter(({ learningRate }) => learningRate === 1e-3).map(({ step }) => step)).toEqual([0, 1, 4, 6])
      expect(points.filter(({ learningRate }) => learningRate === 1e30).length).toBeLessThan(4)
      for (const { losses } of points) expect(Object.values(losses).every(Number.isFinite)).toBe(true)
    })))

  const lossOf = (rows: ReadonlyArray<Row>) =>
    Effect.gen(function*() {
      const { loss } = yield* (yield* Model).evaluate(batchOf(rows, seqLen), off)
      return loss.reduce((a, b) => a + b) / loss.length
    })

  it.effect("scores every set at step 0 and where asked, from the same weights at each rate, and puts them back", () =>
    withModel(Effect.gen(function*() {
      const model = yield* Model
      const before = yield* model.exportTensors
      const untouched = { other: yield* lossOf(other), seen: yield* lossOf(seen) }
      const points = [...(yield* Stream.runCollect(relearn(options)))]
      expect(points.map(({ learningRate, step }) => [learningRate, step])).toEqual(
        [1e-3, 5e-3].flatMap((rate) => [0, 1, 4, 6].map((step) => [rate, step]))
      )
      for (const at of [0, 4]) {
        expect(points[at]!.losses.other).toBeCloseTo(untouched.other, 5)
        expect(points[at]!.losses.seen).toBeCloseTo(untouched.seen, 5)
      }
      expect(points[3]!.losses.seen).toBeLessThan(untouched.seen)
      expect(points[7]!.losses.seen).toBeLessThan(points[3]!.losses.seen!)
      expect(yield* model.exportTensors).toEqual(before)
      // the second rate alone is the same as after another
      const alone = [...(yield* Stream.runCollect(relearn({ ...options, learningRates: [5e-3] })))]
      expect(alone).toEqual(points.slice(4))
      // stopped half-way
      yield* Stream.runDrain(Stream.take(relearn(options), 3))
      expect(yield* model.exportTensors).toEqual(before)
    })))

  it.effect("with sinks off moves none of them", () =>
    withModel(Effect.gen(function*() {
      const model = yield* Model
      const sinks = Effect.map(model.exportTensors, (tensors) => {
        const { data } = tensors["model.layers.0.mlp.gate_proj.weight"]!
        return data.slice(config.general * config.hiddenSize)
      })
      const before = yield* sinks
      let last = before
      yield* Stream.runForEach(relearn({ ...options, learningRates: [5e-3] }), () =>
        Effect.map(sinks, (now) => {
          last = now
        }))
      expect(last).toEqual(before)
      yield* Stream.runForEach(relearn({ ...options, learningRates: [5e-3], mode: { mode: "own" } }), () =>
        Effect.map(sinks, (now) => {
          last = now
        }))
      expect(last).not.toEqual(before)
    })))

  it.effect("brings a memory that is only hidden back sooner than one that never was there", () =>
    withModel(Effect.gen(function*() {
      const steps = 32
      const tune = (learningRate: number, count: number, sign: number) =>
        Effect.scoped(Effect.gen(function*() {
          const optimizer = new OptimizerConfig({ learningRate, schedule: "constant", weightDecay: 0 })
          const batch = batchOf([...seen, ...other], seqLen)
          const tuner = yield* makeTuner({ rows: 6, seqLen, steps: count, mode: off, head: "weighted", optimizer })
          const weights = new Float32Array(6 * seqLen).fill(sign / (6 * seqLen))
          for (let s = 0; s < count; s++) yield* tuner.step(batch, { weights })
        }))
      const curve = Effect.map(
        Stream.runCollect(relearn({ ...options, at: logSpaced(steps), learningRates: [2e-3], steps })),
        (points) => [...points]
      )
      const oracle = yield* lossOf(other)
      const never = yield* curve
      yield* tune(1e-2, 60, 1)
      const standard = yield* lossOf(other)
      expect(standard).toBeLessThan(0.5)
      // a few steps up hide it
      yield* tune(2e-3, 12, -1)
      expect(yield* lossOf(other)).toBeGreaterThan(0.7 * oracle)
      const hidden = yield* curve
      const back = { set: "other", oracle, standard, share: 0.4 }
      const ratio = relearnRatio(stepsToBack(hidden, back), stepsToBack(never, back), steps)
      expect(stepsToBack(never, back)).toBeUndefined()
      expect(ratio).toBeGreaterThan(0)
      expect(ratio).toBeLessThan(0.5)
    })))

  it.effect("is refused for options that make no sense, before any step", () =>
    withModel(Effect.gen(function*() {
      const refusal = (changes: Partial<RelearnOptions>) =>
        Effect.map(Effect.flip(Stream.runDrain(relearn({ ...options, ...changes }))), ({ message }) => message)
      expect(yield* refusal({ train: [] })).toContain("there are no sequences to relearn from")
      expect(yield* refusal({ score: {} })).toContain("there is no set of sequences to score")
      expect(yield* refusal({ score: { other: [] } })).toContain("the scored set other has no sequences")
      expect(yield* refusal({ seqLen: 8 })).toContain("sequence removed 0 has 17 tokens; rows of 8 take 2 to 9")
      expect(yield* refusal({ learningRates: [] })).toContain("learningRates must be positive numbers, at least one")
      expect(yield* refusal({ learningRates: [1, 0] })).toContain("got 0")
      expect(yield* refusal({ batchSize: 0.5 })).toContain("batchSize must be a whole number of sequences, got 0.5")
      expect(yield* refusal({ steps: 0, at: [] })).toContain("steps must be a whole number, got 0")
      for (const [at, wrong] of [[[0, 1], 0], [[1, 1], 1], [[3, 7], 7], [[2.5], 2.5]] as const) {
        const said = `at must be rising whole numbers up to steps, which are 6; got ${wrong}`
        expect(yield* refusal({ at })).toContain(said)
      }
    })))
})
