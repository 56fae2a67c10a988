/** Sparse unlearning: which weights move, how, and what that does. */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { batchOf } from "../../src/data/stream/Packing.ts"
import { weights as weightsOf } from "../../src/inside/Gradients.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import { editedTargets, editSparsely, unlearners, type UnlearnOptions } from "../../src/removal/unlearners/index.ts"
import { largest } from "../../src/removal/unlearners/sparse.ts"
import { scoreRows } from "../../src/scoring/Score.ts"
import { off, own } from "../../src/Sink.ts"
import { makeTuner } from "../../src/train/Tuner.ts"
import { heldOut, optimizer, repeated, seqLen, sinkModel } from "../support/memorized.ts"

describe("the largest of several arrays", () => {
  it("are so many, of whatever sign, the first of equal ones", () => {
    const values = new Map([["a", [1, -5, 2, 3]], ["b", [-3, 4, 3]]])
    const of = (count: number) => [...largest(values, count)].map(([name, places]) => [name, ...places])
    expect(of(2)).toEqual([["a", 1], ["b", 1]])
    expect(of(3)).toEqual([["a", 1, 3], ["b", 1]])
    expect(of(4)).toEqual([["a", 1, 3], ["b", 0, 1]])
    expect(of(0)).toEqual([["a"], ["b"]])
    expect(of(99)).toEqual([["a", 0, 1, 2, 3], ["b", 0, 1, 2]])
  })
})

const plain = new ModelConfig({ ...sinkModel(), sinks: undefined, intermediateSize: 64 })
const [forget, retain] = [repeated.slice(0, 4), repeated.slice(4)]

layer(NodeDevice.layer())("sparse unlearning", (it) => {
  it.effect("moves the chosen weights alone, forgets, and keeps the rest better than all weights do",
    () =>
      Effect.scoped(Effect.gen(function*() {
        const model = yield* Model
        yield* Effect.scoped(Effect.gen(function*() {
          const tuner = yield* makeTuner({ rows: repeated.length, seqLen, steps: 120, optimizer })
          for (let step = 0; step < 120; step++) yield* tuner.step(batchOf(repeated, seqLen))
        }))
        const memorized = yield* model.exportTensors
        const before = yield* weightsOf
        const total = [...before.values()].reduce((sum, { length }) => sum + length, 0)
        const prompt = 6
        const suffixes = (rows: typeof forget) =>
          Effect.map(scoreRows(model, rows, own, { batchSize: 4, seqLen, promptTokens: prompt }),
            (scores) => scores.reduce((sum, { run, suffix }) => sum + run / suffix, 0) / rows.length)
        expect(yield* suffixes(forget)).toBeGreaterThan(0.9)

        const edited = yield* editedTargets(forget, { prompt, batchSize: 4, mode: own, seed: 3 })
        edited.forEach((row, r) => {
          const { tokens } = forget[r]!
          expect([...row.tokens.subarray(0, prompt)]).toEqual([...tokens.subarray(0, prompt)])
          expect(row.tokens).toHaveLength(tokens.length)
          expect(row.tokens.subarray(prompt)).not.toEqual(tokens.subarray(prompt))
          expect(row.scoredFrom).toBe(prompt)
        })

        const after = (options: Partial<UnlearnOptions>, targets = edited) =>
          Effect.scoped(Effect.gen(function*() {
            yield* model.importTensors(memorized)
            const problem = { forget: targets, retain, seqLen, seed: 3 }
            const { step } = yield* editSparsely(problem, { steps: 16, learningRate: 0.03, ...options })
            const steps = []
            for (let s = 0; s < 16; s++) steps.push(yield* step)
            const moved = [...yield* weightsOf].map(([name, now]) =>
              now.reduce((sum, x, i) => sum + (x === before.get(name)![i] ? 0 : 1), 0)
            ).reduce((a, b) => a + b)
            return { steps, moved, forgotten: yield* suffixes(forget), kept: yield* suffixes(retain) }
          }))
        const few = yield* after({ share: 0.02 })
        const random = yield* after({ share: 0.02, among: "random" })
        const all = yield* after({ among: "all" })
        expect(few.moved).toBeLessThanOrEqual(Math.round(0.02 * total))
        expect(few.moved).toBeGreaterThan(0.019 * total)
        expect(random.moved).toBeLessThanOrEqual(Math.round(0.02 * total))
        expect(all.moved).toBeGreaterThan(0.9 * total)
        // Kullback-Leibler of the model from itself, and a target that it does not say
        expect(Math.abs(few.steps[0]!.retainLoss)).toBeLessThan(1e-4)
        expect(few.steps[0]!.forgetLoss).toBeGreaterThan(1)
        expect(few.steps.at(-1)!.retainLoss).toBeGreaterThan(0)
        expect(few.forgotten).toBeLessThan(0.6)
        expect(random.forgotten).toBeGreaterThan(few.forgotten + 0.2)
        expect(few.kept).toBeGreaterThan(few.forgotten + 0.2)
        expect(few.kept).toBeGreaterThanOrEqual(all.kept)
        // the other direction: a sequence that was never seen is written in
        const written = heldOut.map((row) => ({ ...row, scoredFrom: prompt }))
        expect(yield* suffixes(written)).toBeLessThan(0.2)
        const write = yield* after({ share: 0.05, gamma: 1 }, written)
        expect(write.steps.at(-1)!.forgetLoss).toBeLessThan(0.7 * write.steps[0]!.forgetLoss)

        // the same from the unlearner, bit for bit each time
        const unlearned = Effect.scoped(Effect.gen(function*() {
          yield* model.importTensors(memorized)
          const { step } = yield* unlearners.sparse.start({ forget, retain, seqLen, seed: 3 }, { share: 0.02, prompt,
            learningRate: 0.03, steps: 16 })
          const steps = []
          for (let s = 0; s < 16; s++) steps.push(yield* step)
          return steps
        }))
        expect(yield* unlearned).toEqual(few.steps)
        const refusal = (options: Partial<UnlearnOptions>) =>
          Effect.map(Effect.flip(unlearners.sparse.start({ forget, retain, seqLen, seed: 3 }, options)),
            (e) => e.message)
        expect(yield* refusal({ share: 2 })).toContain("share must be in (0, 1], got 2")
        expect(yield* refusal({ prompt: 17 })).toMatch(/prompt must be "half" or a whole number below the 17 tokens/)
        expect(yield* refusal({ among: "some" as "all" })).toContain("among must be gradient, random or all, got some")
        expect(yield* refusal({ beta: 2 })).toContain("it has no option beta")
      })).pipe(Effect.provide(Model.layer(plain, { seed: 3 }))), 20_000)

  it.effect("with the sinks off moves none of them", () =>
    Effect.scoped(Effect.gen(function*() {
      const { config } = yield* Model
      const before = yield* weightsOf
      const { step } = yield* editSparsely({ forget, retain, seqLen, seed: 1, mode: off }, { share: 0.2, steps: 2 })
      yield* step
      yield* step
      const [was, is] = [before, yield* weightsOf].map((all) => all.get("layers.0.down")!)
      const general = config.general * config.hiddenSize
      expect(is!.subarray(general)).toEqual(was!.subarray(general))
      expect(is!.subarray(0, general)).not.toEqual(was!.subarray(0, general))
    })).pipe(Effect.provide(Model.layer(sinkModel(), { seed: 3 }))))
})
