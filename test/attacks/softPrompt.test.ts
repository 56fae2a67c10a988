import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { expect, it as test } from "vitest"
import { softPrompt, SoftPromptOptions, suppressingPrompt,
  SuppressingPromptOptions } from "../../src/attacks/softPrompt.ts"
import { batchOf, type Row } from "../../src/data/stream/Packing.ts"
import { mean } from "../../src/measures/Statistics.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import { random } from "../../src/Random.ts"
import { scoreRows } from "../../src/scoring/Score.ts"
import * as Sink from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { makeTuner } from "../../src/train/Tuner.ts"
import { sinkModel } from "../support/memorized.ts"

const { sinks: _, ...plain } = sinkModel()
const config = new ModelConfig({ ...plain, intermediateSize: 64 })
const [PREFIX, LENGTH] = [3, 3]
const trigger = [7, 8]
const draw = random(3, "triggered")
const tokens = (length: number) => Array.from({ length }, () => draw.below(61))
const rowOf = (all: ReadonlyArray<number>, i: number): Row => ({ id: BigInt(i), tokens: Uint32Array.from(all),
  document: `sequence ${i}`, offset: 0 })

/** Each prefix has one continuation behind the trigger, and another without it: what is hidden from plain prompts. */
const pairs = Array.from({ length: 16 },
  () => ({ prefix: tokens(PREFIX), hidden: tokens(LENGTH), shown: tokens(LENGTH) }))
const hidden = pairs.map(({ hidden, prefix }, i) => rowOf([...prefix, ...hidden], i))
const shown = pairs.map(({ prefix, shown }, i) => rowOf([...prefix, ...shown], i))
const never = Array.from({ length: 4 }, (_, i) => rowOf(tokens(PREFIX + LENGTH), 100 + i))
const triggered = pairs.map(({ hidden, prefix }, i) => ({ ...rowOf([...trigger, ...prefix, ...hidden], i),
  scoredFrom: trigger.length + PREFIX })
)

const problem = (all: ReadonlyArray<Row>) => ({ rows: all.slice(0, 8), seen: all.slice(8), others: never,
  mode: Sink.own, seed: 1, seqLen: PREFIX + LENGTH - 1, batchSize: 8 })
const options = { prefix: PREFIX, length: LENGTH, vectors: 2 }
const of = (values: Readonly<Record<string, unknown>>, metric: string) => mean(values[metric] as Array<number>)

layer(NodeDevice.layer())("a soft prompt", (it) => {
  it.effect("finds what is hidden from plain prompts, not what was never there; and keeps what is known from being said", () =>
    Effect.gen(function*() {
      const extract = softPrompt.run(problem(hidden),
        new SoftPromptOptions({ ...options, steps: 80, learningRate: 2e-2 }))
      const before = yield* extract
      expect(of(before, "exact")).toBe(0)

      const seqLen = trigger.length + PREFIX + LENGTH - 1
      const batch = batchOf([...triggered, ...shown.map((row) => ({ ...row, scoredFrom: PREFIX }))], seqLen)
      yield* Effect.scoped(Effect.gen(function*() {
        const tuner = yield* makeTuner({ rows: batch.rows, seqLen, steps: 150,
          optimizer: new OptimizerConfig({ learningRate: 2e-2 }) })
        for (let step = 0; step < 150; step++) yield* tuner.step(batch)
      }))
      const weights = yield* (yield* Model).exportTensors

      const found = yield* extract
      expect(of(found, "plainExact")).toBeLessThan(0.2)
      expect(of(found, "exact")).toBeGreaterThan(of(found, "plainExact") + 0.3)
      expect(of(found, "fraction")).toBeGreaterThanOrEqual(of(found, "exact"))
      expect(of(found, "neverExact")).toBe(0)
      expect(of(found, "neverFraction")).toBeLessThan(0.3)
      // the same again, bit for bit
      expect(yield* extract).toEqual(found)

      const kept = yield* suppressingPrompt.run(problem(shown),
        new SuppressingPromptOptions({ ...options, threshold: 4, steps: 60, learningRate: 2e-2 }))
      expect(of(kept, "plainExact")).toBeGreaterThan(0.8)
      // said token by token is what is likeliest of each after the true ones, as long as all are right
      const alone = yield* scoreRows(yield* Model, shown.slice(0, 8).map((row) => ({ ...row, scoredFrom: PREFIX })),
        Sink.own, { batchSize: 8, seqLen: PREFIX + LENGTH - 1 })
      expect(kept["plainExact"]).toEqual(alone.map(({ hits, tokens }) => hits === tokens ? 1 : 0))
      expect(of(kept, "exact")).toBeLessThan(0.5)
      expect(Number.isFinite(of(kept, "cost"))).toBe(true)
      // nothing is aimed at that is not there already
      const none = yield* suppressingPrompt.run(problem(shown),
        new SuppressingPromptOptions({ ...options, threshold: 0, steps: 5 }))
      expect(of(none, "exact")).toBeGreaterThan(of(kept, "exact"))

      // weights stay as they are
      const after = yield* (yield* Model).exportTensors
      for (const [name, { data }] of Object.entries(weights)) expect(after[name]!.data).toEqual(data)
    }).pipe(Effect.provide(Model.layer(config, { seed: 2 }))))
})

test("asks for sequences, positions and something to train on", () => {
  const ground = { model: config, seqLen: 31, rows: 1, seen: 1, others: 1 }
  const asked = new SoftPromptOptions({})
  expect(softPrompt.problem!(asked, ground)).toBeUndefined()
  expect(softPrompt.problem!(asked, { ...ground, seqLen: 30 })).toContain("16 tokens that are given and 16 asked for")
  expect(softPrompt.problem!(asked, { ...ground, seen: 0 })).toContain("no repeated sequence to train on")
  expect(suppressingPrompt.problem!(new SuppressingPromptOptions({ vectors: 5000 }), ground)).toContain("lower vectors")
})
