/** Sinks that training leaves out. */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { describe, expect, it } from "vitest"
import type { Batch } from "../../src/Batch.ts"
import { Checkpoints, type Snapshot } from "../../src/checkpoints/Checkpoints.ts"
import { type DataConfigInput, DataStream } from "../../src/data/stream/DataStream.ts"
import { Model } from "../../src/model/Model.ts"
import * as Segments from "../../src/model/Segments.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Sink from "../../src/Sink.ts"
import { type Place, withDropout as withLeftOut } from "../../src/train/Dropout.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { type Observer, TrainConfig, Trainer } from "../../src/train/Trainer.ts"
import { makeRandom } from "../reference/random.ts"
import { batchOfDocuments, miniatureData, miniatureModel } from "../support/support.ts"

const sinks = miniatureModel.sinks!
const rows = Array.from({ length: 64 }, (_, i) => [[6, BigInt(i)], [10, BigInt(1000 + i)]] as const)
const batchFrom = (from: number, to: number) => batchOfDocuments(rows.slice(from, to), 16, 256, makeRandom(1))
const dropout = new Sink.SinkDropout({ sequences: 0.25, units: 0.5, seed: 3 })

const withDropout = (batch: Batch, some: Sink.SinkDropout, place: Place) =>
  withLeftOut(batch, { dropout: some, lit: undefined }, place)

describe("a dropout of sinks", () => {
  it("is drawn for a sequence by the epoch and its place there, however rows are shared out", () => {
    const all = withDropout(batchFrom(0, 64), dropout, { epoch: 2, row: 100 }).dropped!
    for (const count of [1, 4, 32]) {
      const parts = Array.from({ length: 64 / count }, (_, i) => [
        ...withDropout(batchFrom(i * count, (i + 1) * count), dropout, { epoch: 2, row: 100 + i * count }).dropped!
          .draws
      ])
      expect(parts.flat()).toEqual([...all.draws])
    }
    const segments = Segments.segmentsOf(withDropout(batchFrom(0, 64), dropout, { epoch: 2, row: 100 }))
    expect(segments.ids).toHaveLength(128)
    // all tokens of a sequence have its draw, and each sequence another
    expect(new Set(all.draws).size).toBe(128)
    const other = withDropout(batchFrom(0, 64), dropout, { epoch: 3, row: 100 }).dropped!
    expect(other.draws.filter((draw, i) => draw === all.draws[i])).toHaveLength(0)
    const whole = batchFrom(0, 4)
    expect(withDropout(whole, new Sink.SinkDropout({}), { epoch: 0, row: 0 })).toBe(whole)
  })

  it("leaves out all but the ids that are lit, beside what it draws", () => {
    const place = { epoch: 2, row: 100 }
    const batch = batchFrom(0, 64)
    const lit = new Set(Array.from({ length: 32 }, (_, i) => BigInt(2 * i)))
    const some = withLeftOut(batch, { dropout: undefined, lit }, place)
    const unitsOf = (batch: Batch) => {
      const segments = Segments.segmentsOf(batch)
      const gathered = Segments.gather(sinks, 32, Sink.own, segments, 128)
      return [...segments.ids].map((id, s) => [id, gathered.coef[2 * s + 1]] as const)
    }
    for (const [id, on] of unitsOf(some)) expect(on).toBe(lit.has(id) ? 1 : 0)
    const drawn = unitsOf(withDropout(batch, dropout, place))
    for (const [i, [id, on]] of unitsOf(withLeftOut(batch, { dropout, lit }, place)).entries()) {
      expect(on).toBe(lit.has(id) ? drawn[i]![1] : 0)
    }
    expect(withLeftOut(batch, { dropout: undefined, lit: new Set(batch.ids) }, place)).toBe(batch)
  })

  it("has the same of what is denied, or off for everybody: it takes part in nothing", () => {
    const segments = Segments.segmentsOf(batchFrom(0, 2))
    const [one, other, ...rest] = [...segments.ids]
    const off = Sink.unitsOf(sinks, other!)[0]!
    const less = new Sink.SinkConfig({ ...sinks, denied: [`${one}`], excluded: [off] })
    const wanted = [...new Set([other!, ...rest].flatMap((id) => [...Sink.unitsOf(sinks, id)]))].filter((unit) =>
      unit !== off
    )
    const rising = wanted.sort((a, b) => a - b)
    expect([...Segments.gather(less, 32, Sink.own, segments, 128).units]).toEqual(rising)
    expect([...Segments.litUnits(less, segments)]).toEqual(rising)
    expect([...Segments.litUnits(sinks, segments)]).toContain(off)
  })

  it("leaves out the shares that are asked for, and what is left out gets no gradient", () => {
    const draws = Uint32Array.from({ length: 4000 }, (_, i) => Math.imul(i + 1, 0x9e3779b9) >>> 0)
    const kept = Array.from(draws, (draw) => Sink.kept({ ...dropout, draws }, draw))
    expect(kept.filter((one) => one === "none").length / 4000).toBeCloseTo(0.25, 1)
    const lit = kept.flatMap((one) =>
      typeof one === "function" ? Array.from({ length: 8 }, (_, unit) => one(unit)) : []
    )
    expect(lit.filter(Boolean).length / lit.length).toBeCloseTo(0.5, 1)

    const segments = Segments.segmentsOf(withDropout(batchFrom(0, 64), dropout, { epoch: 0, row: 0 }))
    const gathered = Segments.gather(sinks, 32, Sink.own, segments, 128)
    const masked = Segments.maskedCoefficients(sinks, 32, Sink.own, segments, 128)
    const used = new Set<number>()
    segments.ids.forEach((id, s) => {
      const wanted = [...Sink.unitsOf(sinks, id)].filter((unit) => masked[s * (1 + sinks.units) + 1 + unit] === 1)
      const slots = [...gathered.coef.subarray(s * 2 + 1, s * 2 + 2)].flatMap((coef, slot) =>
        coef === 1 ? [gathered.activeUnits[s + slot]!] : []
      )
      expect(slots).toEqual(wanted)
      for (const unit of wanted) used.add(unit)
    })
    const uses = gathered.uses.length / 2
    expect(uses).toBe(gathered.coef.filter((coef, i) => i % 2 === 1 && coef === 1).length)
    expect([...gathered.units]).toEqual([...used].sort((a, b) => a - b))
    expect([...Segments.litUnits(sinks, segments)]).toEqual([...gathered.units])
  })
})

const app = (training: Partial<ConstructorParameters<typeof TrainConfig>[0]>, observer?: Observer,
  data: DataConfigInput = {}) =>
  Trainer.layer(new TrainConfig({ steps: 8, logEvery: 4, ...training }), observer && { observer }).pipe(
    Layer.provideMerge(Model.layer(miniatureModel, { seed: 5 })),
    Layer.provideMerge(miniatureData(data))
  )
const runToEnd = Effect.flatMap(Trainer, (trainer) => Stream.runDrain(trainer.run))
const latest = Effect.flatMap(Checkpoints, (checkpoints) => checkpoints.load("latest"))
const trained = (training: Parameters<typeof app>[0]) =>
  Effect.provide(Effect.zipRight(runToEnd, latest), Layer.provideMerge(app(training), Checkpoints.layerMemory))
const bits = ({ model, optimizer }: Snapshot) =>
  Buffer.concat(
    [model, optimizer].flatMap((part) =>
      Object.values(part).map(({ data }) => Buffer.from(data.buffer, data.byteOffset, data.byteLength))
    )
  )

layer(NodeDevice.layer())("training with a dropout of sinks", (it) => {
  it.effect("of nothing is training as ever, of some goes on from a checkpoint to the same bits", () =>
    Effect.gen(function*() {
      const plain = yield* trained({})
      const nothing = yield* trained({ sinkDropout: new Sink.SinkDropout({}) })
      expect(bits(plain).equals(bits(nothing))).toBe(true)
      const some = yield* trained({ sinkDropout: dropout })
      expect(bits(plain).equals(bits(some))).toBe(false)
      const checkpoints = yield* Effect.scoped(Effect.provide(Checkpoints, Checkpoints.layerMemory))
      const store = Layer.succeed(Checkpoints, checkpoints)
      const stopping = { due: (step: number) => step === 3, look: () => Effect.interrupt }
      const exit = yield* Effect.exit(
        Effect.provide(runToEnd, Layer.provide(app({ sinkDropout: dropout }, stopping), store))
      )
      expect(Exit.isInterrupted(exit)).toBe(true)
      const resumed = yield* Effect.provide(Effect.zipRight(runToEnd, latest),
        Layer.provideMerge(app({ sinkDropout: dropout }), store))
      expect(bits(some).equals(bits(resumed))).toBe(true)
      const routed = yield* Effect.flip(trained({ sinkDropout: dropout, routing: "sgtm" }))
      expect(`${routed}`).toMatch(/routing "sgtm" says itself whose sinks are on/)
    }))

  it.effect("of all leaves lazy sinks and their moments as they were", () =>
    Effect.gen(function*() {
      const optimizer = new OptimizerConfig({ sinks: "lazy" })
      const before = yield* trained({ optimizer, steps: 1, sinkDropout: new Sink.SinkDropout({ sequences: 1 }) })
      const after = yield* trained({ optimizer, sinkDropout: new Sink.SinkDropout({ sequences: 1 }) })
      const { general } = miniatureModel
      const d = miniatureModel.hiddenSize
      const gate = (s: Snapshot) => s.model["model.layers.0.mlp.gate_proj.weight"]!.data
      expect(gate(after).subarray(general * d)).toEqual(gate(before).subarray(general * d))
      expect(gate(after).subarray(0, general * d)).not.toEqual(gate(before).subarray(0, general * d))
      const own = yield* trained({ optimizer })
      expect(gate(own).subarray(general * d)).not.toEqual(gate(before).subarray(general * d))
    }))

  it.effect("for repeated sequences alone lights and teaches no sinks of others", () =>
    Effect.gen(function*() {
      const optimizer = new OptimizerConfig({ sinks: "lazy" })
      const data = { repeatedSequences: 1, singleSequences: 40 }
      const moved = (training: Parameters<typeof app>[0]) =>
        Effect.gen(function*() {
          const at = (steps: number) =>
            Effect.provide(Effect.zipRight(runToEnd, latest), Layer.provideMerge(
              app({ optimizer, ...training, steps }, undefined, data),
              Checkpoints.layerMemory
            ))
          const [before, after] = [yield* at(1), yield* at(24)]
          const { general, hiddenSize } = miniatureModel
          const { block, units } = sinks
          const gate = (s: Snapshot) => s.model["model.layers.0.mlp.gate_proj.weight"]!.data
          return Array.from({ length: units }, (_, unit) => unit).filter((unit) => {
            const from = (general + unit * block) * hiddenSize
            const of = (s: Snapshot) => [...gate(s).subarray(from, from + block * hiddenSize)]
            return of(before).some((value, i) => value !== of(after)[i])
          })
        })
      const [repeated] = yield* Effect.provide(Effect.map(DataStream, ({ split }) => split("repeated")),
        miniatureData(data))
      const own = [...Sink.unitsOf(sinks, repeated!.id)]
      expect(yield* moved({ sinksFor: "repeated" })).toEqual(own)
      expect((yield* moved({ sinksFor: "all" })).length).toBeGreaterThan(own.length)
      const refused = (training: Parameters<typeof app>[0], over: DataConfigInput) =>
        Effect.map(
          Effect.flip(
            Effect.provide(runToEnd,
              Layer.provideMerge(app({ sinksFor: "repeated", ...training }, undefined, over), Checkpoints.layerMemory))
          ),
          (error) => `${error}`
        )
      expect(yield* refused({}, { repeatedSequences: 0 })).toMatch(
        /sinksFor "repeated" .* none is repeated: set data\.rep/
      )
      expect(yield* refused({}, { identity: "source" })).toMatch(
        /sinksFor .* but an id stands for a source: set identity/
      )
      expect(yield* refused({ routing: "sgtm" }, {})).toMatch(/routing "sgtm" .*: leave training\.sinksFor out/)
    }))
})
