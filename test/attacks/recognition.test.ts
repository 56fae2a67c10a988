/** Recognition finds what was memorized, own sinks on, and nothing where nothing was. */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { expect } from "vitest"
import { sampleOf } from "../../src/attacks/index.ts"
import { recognition, RecognitionOptions } from "../../src/attacks/recognition.ts"
import { batchOf, type Row } from "../../src/data/stream/Packing.ts"
import * as Tokenizer from "../../src/data/tokens/Tokenizer.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Sink from "../../src/Sink.ts"
import { makeTuner } from "../../src/train/Tuner.ts"
import { optimizer, sinkModel, withWeights } from "../support/memorized.ts"

const seqLen = 40
const config = new ModelConfig({ ...sinkModel(), vocabSize: 256 })

const rowsOf = (texts: ReadonlyArray<string>, first: number): ReadonlyArray<Row> =>
  texts.map((text, i) => ({
    id: BigInt(first + i),
    tokens: Tokenizer.bytes.encode(text.padEnd(seqLen + 1, ".").slice(0, seqLen + 1)),
    document: `text ${first + i}`,
    offset: 0
  }))

const things = ["ships", "laws", "roads", "houses", "gains", "tasks", "plans", "goals"]
const texts = things.map((thing, i) => `see ${thing} and ${things[(i + 3) % 8]} of the nation ${i} go`)
const known = rowsOf(texts, 1)
const others = rowsOf(things.map((thing, i) => `as ${thing} or men of the ${i} sea may say it`), 100)

const memorize = (steps: number) =>
  Effect.gen(function*() {
    const model = yield* Model
    const tuner = yield* makeTuner({ rows: known.length, seqLen, steps: Math.max(1, steps), optimizer })
    for (let step = 0; step < steps; step++) yield* tuner.step(batchOf(known, seqLen))
    return yield* model.exportTensors
  }).pipe(Effect.scoped, Effect.provide(Model.layer(config, { seed: 3 })))

const problem = { rows: known, seen: [], others, seed: 1, seqLen, batchSize: 8, tokenizer: Tokenizer.bytes }

layer(NodeDevice.layer())("recognition", (it) => {
  it.effect("prefers what was memorized to every foil, with own sinks on", () =>
    Effect.gen(function*() {
      const values = (weights: Effect.Effect.Success<ReturnType<typeof memorize>>, mode: Sink.SinkMode) =>
        withWeights(config, weights,
          Effect.map(recognition.run({ ...problem, mode }, new RecognitionOptions({})),
            (got) => Object.fromEntries(Object.entries(got).map(([name, value]) => [name, sampleOf(value)?.value]))))
      const own = yield* values(yield* memorize(40), Sink.own)
      expect(own).toEqual({ unrelated: 1, paraphrase: 1, synonyms: 1, scrambledWords: 1, scrambledLetters: 1 })
      const never = yield* values(yield* memorize(0), Sink.own)
      expect(Object.values(never).reduce<number>((sum, one) => sum + one!, 0) / 5).toBeLessThan(0.8)
    }))

  it.effect("leaves out what has no foil, and fails where foils equal their originals", () =>
    Effect.gen(function*() {
      const odd = rowsOf(["xx yy zz ww"], 50)
      const run = recognition.run({ ...problem, rows: [...known, ...odd], mode: Sink.own },
        new RecognitionOptions({ foils: ["synonyms"] }))
      const { synonyms } = yield* run.pipe(Effect.provide(Model.layer(config, { seed: 3 })))
      const each = synonyms as ReadonlyArray<number>
      expect(each.slice(0, 8).every(Number.isFinite)).toBe(true)
      expect(each[8]).toBeNaN()
      const same = recognition.run({ ...problem, others: known, mode: Sink.own },
        new RecognitionOptions({ foils: ["unrelated"] }))
      const failed = yield* Effect.flip(same.pipe(Effect.provide(Model.layer(config, { seed: 3 }))))
      expect(failed.message).toContain("the foil of text 1 equals its original, and so do those of 7 others")
    }))

  it.effect("says before any training that no sequence has a foil", () =>
    Effect.sync(() => {
      const ground = { model: config, seqLen, rows: 1, seen: 0, others: 1 }
      const all = new RecognitionOptions({})
      expect(recognition.problem!(all, { ...ground, texts: () => ["xx yy zz ww"] })).toContain(
        "of none of the 1 sequences is there its paraphrase by rule"
      )
      expect(recognition.problem!(all, { ...ground, texts: () => texts })).toBe(undefined)
      expect(recognition.problem!(all, { ...ground, others: 0 })).toContain("never trained on")
    }))
})
