/** Sinks that training leaves out. */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { describe, expect, it } from "vitest"
import { Checkpoints, type Snapshot } from "../../src/checkpoints/Checkpoints.ts"
import { Model } from "../../src/model/Model.ts"
import * as Segments from "../../src/model/Segments.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Sink from "../../src/Sink.ts"
import { withDropout } from "../../src/train/Dropout.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { type Observer, TrainConfig, Trainer } from "../../src/train/Trainer.ts"
import { makeRandom } from "../reference/random.ts"
import { batchOfDocuments, miniatureData, miniatureModel } from "../support/support.ts"

const sinks = miniatureModel.sinks!
const rows = Array.from({ length: 64 }, (_, i) => [[6, BigInt(i)], [10, BigInt(1000 + i)]] as const)
const batchFrom = (from: number, to: number) => batchOfDocuments(rows.slice(from, to), 16, 256, makeRandom(1))
const dropout = new Sink.SinkDropout({ sequences: 0.25, units: 0.5, seed: 3 })

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

const app = (training: Partial<ConstructorParameters<typeof TrainConfig>[0]>, observer?: Observer) =>
  Trainer.layer(new TrainConfig({ steps: 8, logEvery: 4, ...training }), observer && { observer }).pipe(
    Layer.provideMerge(Model.layer(miniatureModel, { seed: 5 })),
    Layer.provideMerge(miniatureData())
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
})
