import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { describe, expect, it as test } from "vitest"
import { prunedTensors } from "../../../pipelines/isolation/Hygiene.ts"
import { emptiedBy, interference, type InterferenceInput, leakage } from "../../../pipelines/isolation/Interference.ts"
import { batchOf, type Row } from "../../../src/data/stream/Packing.ts"
import { mean } from "../../../src/measures/Statistics.ts"
import { Model } from "../../../src/model/Model.ts"
import * as NodeDevice from "../../../src/node.ts"
import * as Sink from "../../../src/Sink.ts"
import { expectClose } from "../../reference/compare.ts"
import { memorize, repeated, seqLen, singles, sinkModel, withWeights } from "../../support/memorized.ts"

const config = sinkModel()
const sinks = config.sinks!
// one is shorter, and a last batch of 5 rows has one row only
const rows: ReadonlyArray<Row> = [...repeated.slice(0, 5), { ...repeated[5]!, tokens: repeated[5]!.tokens.slice(0, 9) }]
const input: InterferenceInput = {
  rows,
  others: [...repeated, ...singles],
  ladder: [1, 10, 100],
  seqLen,
  batchSize: 5,
  seed: 4
}

const lossIn = (row: Row, mode: Sink.SinkMode) =>
  Effect.gen(function*() {
    const { loss } = yield* (yield* Model).evaluate(batchOf([row], seqLen), mode)
    return loss.reduce((sum, one) => sum + one, 0) / (row.tokens.length - 1)
  })

const lossesIn = (mode: (row: Row) => Sink.SinkMode) => Effect.forEach(rows, (row) => lossIn(row, mode(row)))

const common = (a: bigint, b: bigint) =>
  Sink.unitsOf(sinks, a).filter((unit) => Sink.unitsOf(sinks, b).includes(unit)).length

const close = (got: ReadonlyArray<number>, want: ReadonlyArray<number>, name: string) =>
  expectClose(Float64Array.from(got), Float64Array.from(want), { name, atol: 2e-5, rtol: 2e-5 })

layer(NodeDevice.layer())("interference in a model that has memorized", (it) => {
  const once = Effect.cached(Effect.gen(function*() {
    const weights = yield* memorize(config)
    return { weights, result: yield* withWeights(config, weights, interference(input)) }
  })).pipe(Effect.runSync)

  it.effect("scores each sequence as the model does in that mode", () =>
    Effect.gen(function*() {
      const { result, weights } = yield* once
      yield* withWeights(config, weights, Effect.gen(function*() {
        const { losses } = result
        close(losses.own, yield* lossesIn(() => Sink.own), "own")
        close(losses.off, yield* lossesIn(() => Sink.off), "off")
        close(losses.placebo, yield* lossesIn(() => ({ mode: "placebo", seed: 4 })), "placebo")
        // of 24 ids 23 are others
        expect(result.ladder.map(({ others }) => others)).toEqual([1, 10, 23])
        const ids = input.others.map(({ id }) => id)
        close(result.ladder[2]!.losses, yield* lossesIn(() => ({ mode: "only", ids })), "all others")
        for (const { loss, losses } of result.ladder) expect(loss).toBeCloseTo(mean(losses), 12)
        // the one other is somebody
        for (const [r, row] of rows.entries()) {
          const candidates = yield* Effect.forEach(ids.filter((id) => id !== row.id),
            (id) => lossIn(row, { mode: "only", ids: [row.id, id] }))
          const nearest = Math.min(...candidates.map((loss) => Math.abs(loss - result.ladder[0]!.losses[r]!)))
          expect(nearest).toBeLessThan(5e-5)
        }
      }))
    }))

  it.effect("finds that own sinks hold the memory, random ones do not, and others disturb", () =>
    Effect.gen(function*() {
      const { result: { ladder, losses, ownContent, sliceContent } } = yield* once
      expect(sliceContent.own).toBeCloseTo(mean(losses.off) - mean(losses.own), 12)
      expect(sliceContent.placebo).toBeCloseTo(mean(losses.off) - mean(losses.placebo), 12)
      expect(ownContent.value).toBeCloseTo(sliceContent.own - sliceContent.placebo, 12)
      expect(ownContent.passed).toBe(true)
      expect(ownContent.low).toBeGreaterThan(0.1)
      expect(ladder[2]!.loss).toBeGreaterThan(mean(losses.own))
    }))

  it.effect("finds nothing changed by deletion of an id that shares no sink", () =>
    Effect.gen(function*() {
      expect((yield* once).result.placeboOff).toBe(0)
    }))

  it.effect("lists what deletion of each id adds to the others that share sinks with it", () =>
    Effect.gen(function*() {
      const { result, weights } = yield* once
      yield* withWeights(config, weights, Effect.gen(function*() {
        const own = yield* lossesIn(() => Sink.own)
        expect(result.deletion.ids.map(({ id }) => id).sort()).toEqual(rows.map(({ id }) => String(id)).sort())
        let pairs = 0
        for (const one of result.deletion.ids) {
          const id = BigInt(one.id)
          const without = yield* lossesIn(() => ({ mode: "own", except: [id] }))
          const added = without.map((loss, r) => loss - own[r]!)
          const self = rows.findIndex((row) => row.id === id)
          const others = added.filter((_, r) => r !== self)
          close([one.own, one.mean, one.worst], [added[self]!, mean(others), Math.max(...others)], `deletion of ${id}`)
          expect(one.own).toBeGreaterThan(0.5)
          expect(one.units).toBe(4)
          for (const { added: change, row, shared } of one.losses) {
            expect(shared).toBe(common(id, rows[row]!.id))
            close([change], [added[row]!], "an overlap")
          }
          const sharing = rows.filter((row) => row.id !== id && common(id, row.id) > 0).length
          expect(one.losses).toHaveLength(sharing)
          pairs += sharing
          if (one.shared > 0) expect(one.losses.find(({ added }) => added === one.worst)!.shared).toBe(one.shared)
        }
        // otherwise all that is nothing
        expect(pairs).toBeGreaterThan(3)
        const { ids, mean: average, placebo, worst } = result.deletion
        expect(average).toBeCloseTo(mean(ids.map((one) => one.mean)), 12)
        expect(worst).toBe(Math.max(...ids.map((one) => one.worst)))
        const strangers = yield* Effect.forEach(ids, ({ id }) =>
          Effect.map(lossesIn(() => ({ mode: "own", except: [Sink.placeboId(BigInt(id), 4)] })), (losses) =>
            mean(losses.map((loss, r) => loss - own[r]!))))
        close([placebo], [mean(strangers)], "random ids")
      }))
    }))

  it.effect("is plain JSON, the same for the same seed, with as many deletions as are asked for", () =>
    Effect.gen(function*() {
      const { result, weights } = yield* once
      expect(JSON.parse(JSON.stringify(result))).toEqual(result)
      const again = yield* withWeights(config, weights, interference(input))
      expect(again).toEqual(result)
      const other = yield* withWeights(config, weights, interference({ ...input, seed: 5, deletions: 2, ladder: [] }))
      expect(other.deletion.ids).toHaveLength(2)
      expect(other.ladder.map(({ others }) => others)).toEqual([23])
      expect(other.losses.own).toEqual(result.losses.own)
      expect(other.losses.placebo).not.toEqual(result.losses.placebo)
    }))

  it.effect("of sinks that everyone lights fails: they hold nothing of one id, and no id is disjoint", () =>
    Effect.gen(function*() {
      const everyone = sinkModel({ pool: 32, active: 32 })
      const result = yield* withWeights(everyone, yield* memorize(everyone), interference({ ...input, deletions: 2 }))
      expect(result.ownContent).toMatchObject({ value: 0, passed: false })
      expect(result.sliceContent.own).toBe(result.sliceContent.placebo)
      expect(result.placeboOff).toBeNull()
      // one is deleted, all are off
      const { losses, mean: added } = result.deletion.ids[0]!
      expect(losses.map(({ shared }) => shared)).toEqual([4, 4, 4, 4, 4])
      const self = rows.findIndex(({ id }) => String(id) === result.deletion.ids[0]!.id)
      const gaps = rows.map((_, r) => result.losses.off[r]! - result.losses.own[r]!).filter((_, r) => r !== self)
      expect(added).toBeCloseTo(mean(gaps), 12)
    }))

  it.effect("of a model that was never trained fails: own sinks hold no more than random ones", () =>
    Effect.gen(function*() {
      const { ownContent } = yield* withWeights(config, yield* memorize(config, 0), interference(input))
      expect(ownContent.passed).toBe(false)
      expect(Math.abs(ownContent.value)).toBeLessThan(0.05)
    }))

  it.effect("refuses a model without sinks, no sequences, and sequences that do not fit", () =>
    Effect.gen(function*() {
      const { weights } = yield* once
      const plain = prunedTensors(config, weights)
      const message = (over: Partial<InterferenceInput>, model = { config, tensors: weights }) =>
        withWeights(model.config, model.tensors, Effect.flip(interference({ ...input, ...over }))).pipe(
          Effect.map((error) => error.message)
        )
      expect(yield* message({}, plain)).toContain("the model has none")
      expect(yield* message({ rows: [] })).toContain("rows is empty")
      expect(yield* message({ seqLen: 15 })).toContain("sequence sequence 1 has 17 tokens: rows of 15 take 2 to 16")
    }))
})

describe("deleting many ids", () => {
  test("empties as much of the pool as independent masks: nearly all at p = 0.3, a quarter at 0.013", () => {
    const ids = Array.from({ length: 20 }, (_, i) => BigInt(i))
    for (const [active, share] of [[308, 0.999], [13, 0.23]] as const) {
      const emptied = emptiedBy(new Sink.SinkConfig({ pool: 1024, active, block: 1 }), ids)
      expect(emptied.map(({ deleted }) => deleted)).toEqual([1, 2, 5, 10, 20])
      expect(emptied[0]!.share).toBe(active / 1024)
      expect(emptied.at(-1)!.expected).toBeCloseTo(share, 2)
      for (const { expected, share } of emptied) expect(Math.abs(share - expected)).toBeLessThan(0.02)
    }
    // ids that are the same empty no more
    const sinks = new Sink.SinkConfig({ pool: 1024, active: 128 })
    expect(emptiedBy(sinks, [3n, 3n, 3n]).map(({ share }) => share)).toEqual([0.125, 0.125, 0.125])
    expect(emptiedBy(sinks, [])).toEqual([])
  })
})

describe("leakage", () => {
  test("is the share of the memory that is left with sinks off", () => {
    const oracle = [3, 4]
    expect(leakage({ oracle, memorized: [1, 1], off: [3, 4] })).toEqual({ share: 0, nats: [0, 0] })
    expect(leakage({ oracle, memorized: [1, 1], off: [1, 1] })).toEqual({ share: 1, nats: [2, 3] })
    expect(leakage({ oracle, memorized: [1, 1], off: [2, 4] })).toEqual({ share: 0.2, nats: [1, 0] })
    // worse than never trained
    expect(leakage({ oracle, memorized: [1, 1], off: [4, 4] }).share).toBeCloseTo(-0.2, 12)
    expect(leakage({ oracle, memorized: oracle, off: oracle }).share).toBeNull()
  })
})
