/** Clozes through the one scoring loop: what was learned is preferred, what was not is not. */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { expect } from "vitest"
import { batchOf } from "../../src/data/stream/Packing.ts"
import * as Truth from "../../src/measures/Truth.ts"
import { Model } from "../../src/model/Model.ts"
import * as NodeDevice from "../../src/node.ts"
import { clozeRows, scoreClozes } from "../../src/scoring/Cloze.ts"
import * as Sink from "../../src/Sink.ts"
import { memorize, repeated, seqLen, sequences, sinkModel, withWeights } from "../support/memorized.ts"

const cloze = (row: typeof repeated[number], tokens: number) => ({
  id: row.id,
  name: row.document,
  prompt: row.tokens.slice(0, seqLen + 1 - tokens),
  right: row.tokens.slice(seqLen + 1 - tokens),
  wrong: [1, 2, 3].map((by) => row.tokens.slice(seqLen + 1 - tokens).map((token) => (token + 7 * by) % 61))
})

layer(NodeDevice.layer())("clozes", (it) => {
  it.effect("are scored on their completions alone, as a pass by hand has it", () =>
    Effect.gen(function*() {
      const model = yield* Model
      const clozes = repeated.slice(0, 3).map((row, i) => cloze(row, 1 + i))
      const found = yield* scoreClozes(model, clozes, Sink.own, { batchSize: 5, seqLen })
      for (const [i, one] of clozes.entries()) {
        const all = clozeRows(one)
        const { loss } = yield* model.evaluate(batchOf(all, seqLen), Sink.own)
        const byHand = all.map((_, r) => {
          const last = loss.slice(r * seqLen + seqLen - (1 + i), (r + 1) * seqLen)
          return last.reduce((a, b) => a + b) / last.length
        })
        expect(found[i]!.right).toBeCloseTo(byHand[0]!, 5)
        Array.from(found[i]!.wrong).forEach((loss, k) => expect(loss).toBeCloseTo(byHand[k + 1]!, 5))
      }
    }).pipe(Effect.provide(Model.layer(sinkModel(), { seed: 3 }))))

  it.effect("prefer what the model learned, and what it never saw no more than chance", () =>
    Effect.gen(function*() {
      const weights = yield* memorize(sinkModel())
      yield* withWeights(sinkModel(), weights, Effect.gen(function*() {
        const model = yield* Model
        const of = (rows: ReadonlyArray<typeof repeated[number]>) =>
          Effect.map(scoreClozes(model, rows.map((row) => cloze(row, 2)), Sink.own, { batchSize: 8, seqLen }),
            (all) => Truth.truthOf(all.map((one) => [one])))
        const known = yield* of(repeated)
        expect(known.ratio.low).toBeGreaterThan(2)
        expect(known.accuracy.value).toBeGreaterThan(0.9)
        const unknown = yield* of(sequences(24, 5000))
        expect(unknown.logRatio.low).toBeLessThan(0.5)
        expect(unknown.accuracy.value).toBeLessThan(0.6)
      }))
    }))
})
