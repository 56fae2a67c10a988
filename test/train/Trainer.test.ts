import { it, layer } from "@effect/vitest"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import { spawn } from "node:child_process"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { describe, expect } from "vitest"
import { IGNORE } from "../../src/Batch.ts"
import { Checkpoints, type Snapshot } from "../../src/checkpoints/Checkpoints.ts"
import { decodeNames } from "../../src/data/identity/Names.ts"
import { type DataConfigInput, DataStream } from "../../src/data/stream/DataStream.ts"
import { DataError } from "../../src/Errors.ts"
import { Device } from "../../src/gpu/Device.ts"
import { toHuggingFace } from "../../src/model/HuggingFace.ts"
import { Model, type ModelOptions } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { initialValue, listParameters, parametersOf } from "../../src/model/Parameters.ts"
import * as Segments from "../../src/model/Segments.ts"
import * as NodeDevice from "../../src/node.ts"
import { scoreRows } from "../../src/scoring/Score.ts"
import * as Sink from "../../src/Sink.ts"
import { learningRateAt, OptimizerConfig } from "../../src/train/Optimizer.ts"
import { evalRows, type Observer, TrainConfig, Trainer } from "../../src/train/Trainer.ts"
import type { TrainEvent } from "../../src/train/TrainEvent.ts"
import { expectClose } from "../reference/compare.ts"
import * as Reference from "../reference/model.ts"
import { miniatureData, miniatureModel, referenceConfig } from "../support/support.ts"

const device = NodeDevice.layer()

/** Everything a run needs but the device and the checkpoints. */
const app = (
  training: Partial<ConstructorParameters<typeof TrainConfig>[0]> = {},
  model: ModelConfig = miniatureModel,
  data: DataConfigInput = {},
  options: ModelOptions = {},
  observer?: Observer
) =>
  Trainer.layer(new TrainConfig({ steps: 12, logEvery: 3, ...training }), observer && { observer }).pipe(
    Layer.provideMerge(Model.layer(model, { seed: 5, ...options })),
    Layer.provideMerge(miniatureData(data))
  )

const checkpointsLayer = Effect.map(
  Effect.scoped(Effect.provide(Checkpoints, Checkpoints.layerMemory)),
  (checkpoints) => Layer.succeed(Checkpoints, checkpoints)
)

const events = (stream: Stream.Stream<TrainEvent, unknown>) =>
  Effect.map(Stream.runCollect(stream), Chunk.toReadonlyArray)

const runToEnd = Effect.flatMap(Trainer, (trainer) => Stream.runDrain(trainer.run))

const latest = Effect.flatMap(Checkpoints, (checkpoints) => checkpoints.load("latest"))

/** Two snapshots hold the same bits everywhere. */
const expectSameBits = (a: Snapshot, b: Snapshot) => {
  expect(a.step).toBe(b.step)
  expect(a.trainerState).toEqual(b.trainerState)
  expect(a.names !== undefined && Buffer.from(a.names).equals(b.names!), "sources.parquet").toBe(true)
  for (const part of ["model", "optimizer"] as const) {
    expect(Object.keys(a[part])).toEqual(Object.keys(b[part]))
    for (const [name, tensor] of Object.entries(a[part])) {
      const bits = (data: Float32Array | Uint32Array) => Buffer.from(data.buffer, data.byteOffset, data.byteLength)
      expect(bits(tensor.data).equals(bits(b[part][name]!.data)), `${part} ${name}`).toBe(true)
    }
  }
}

layer(device)("training", (it) => {
  it.effect("packs sinks that a hash shares out, and computes the whole pool where an id lights all of it", () =>
    Effect.gen(function*() {
      const model = new ModelConfig({
        ...miniatureModel,
        intermediateSize: 32 + 256,
        sinks: new Sink.SinkConfig({ pool: 256, active: 20, block: 1, assignment: "reference" })
      })
      // every fourth id is 0, which lights the whole pool
      const zeroed = (data: DataStream["Type"]): DataStream["Type"] => ({
        ...data,
        batches: (cursor) =>
          Stream.map(data.batches(cursor), ({ batch, cursor }) => ({
            batch: { ...batch, ids: batch.ids.map((id) => id % 4n === 0n ? 0n : id) },
            cursor
          }))
      })
      const losses = (options: ModelOptions) =>
        Effect.gen(function*() {
          const all = yield* events((yield* Trainer).run)
          return Float32Array.from(all.flatMap((event) => event._tag === "Stepped" ? [event.loss] : []))
        }).pipe(
          Effect.provide(Trainer.layer(new TrainConfig({ steps: 12, logEvery: 3 }))),
          Effect.provide(Model.layer(model, { seed: 5, ...options })),
          Effect.provide(Layer.effect(DataStream, Effect.map(DataStream, zeroed)).pipe(Layer.provide(miniatureData()))),
          Effect.provide(Checkpoints.layerMemory)
        )
      const packed = yield* losses({})
      const masked = yield* losses({ compute: "masked" })
      expect(packed).toHaveLength(12 / 3)
      expectClose(packed, Float64Array.from(masked), { name: "loss", rtol: 1e-5, atol: 0 })
    }))

  for (const family of ["the adapter's own", "gpu"] as const) {
    it.effect(`ten steps follow the float64 reference in loss, norm and every weight, ${family} kernels`, () =>
      Effect.gen(function*() {
        const steps = 10
        const optimizer = new OptimizerConfig({ learningRate: 1e-2, gradClip: 0.5 })
        const reference = referenceConfig(miniatureModel)
        const handles = listParameters(parametersOf(miniatureModel))
        let state = Reference.initialState(
          Object.fromEntries(handles.map((p) => [p.name, Float64Array.from(initialValue(miniatureModel, p, 5))]))
        )
        yield* Effect.gen(function*() {
          const trainer = yield* Trainer
          const data = yield* DataStream
          const model = yield* Model
          const dev = yield* Device
          const batches = yield* data.batches({ epoch: 0, batch: 0 }).pipe(Stream.take(steps), Stream.runCollect)
          const want: Array<number> = []
          for (const [step, { batch }] of Chunk.toReadonlyArray(batches).entries()) {
            const segments = Segments.segmentsOf(batch)
            const coef = Segments.maskedCoefficients(miniatureModel.sinks, miniatureModel.general, Sink.own, segments,
              segments.ids.length)
            const next = Reference.trainStep(reference, state, batch, Float64Array.from(coef), segments.segment, {
              lr: learningRateAt(optimizer, step, steps),
              beta1: 0.9,
              beta2: 0.95,
              eps: 1e-8,
              weightDecay: 0.1,
              clip: 0.5
            })
            want.push(next.loss, next.gradNorm)
            state = next.state
          }
          const got = (yield* events(trainer.run)).flatMap((e) => (e._tag === "Stepped" ? [e.loss!, e.gradNorm!] : []))
          expectClose(got, want, { name: "loss and norm of ten steps", rtol: 2e-4 })
          for (const p of model.parameters) {
            const value = (yield* dev.read(p.value)) as Float32Array
            expectClose(value, state.params[p.name]!, { name: p.name, rtol: 1e-2, atol: 2e-3 })
          }
          // ten steps of 1e-2 move weights by far more than that tolerance
          const moved = (yield* dev.read(model.parameters[0]!.value)) as Float32Array
          const before = initialValue(miniatureModel, model.parameters[0]!, 5)
          expect(Math.max(...moved.map((x, i) =>
            Math.abs(x - before[i]!)
          ))).toBeGreaterThan(0.02)
        }).pipe(Effect.provide(app({ steps, logEvery: 1, optimizer })))
      }).pipe(
        Effect.provide(Checkpoints.layerMemory),
        (effect) =>
          Effect.flatMap(Device, (own) =>
            Effect.provideService(
              effect,
              Device,
              family === "gpu" ? { ...own, target: { ...own.target, family } } : own
            ))
      ), 120_000)
  }

  it.effect("a resumed run equals the uninterrupted one bit for bit, wherever it stopped", () =>
    Effect.gen(function*() {
      const straight = yield* Effect.zipRight(runToEnd, latest).pipe(
        Effect.provide(Layer.provideMerge(app(), Checkpoints.layerMemory))
      )
      for (const stop of [1, 5, 11]) {
        const store = yield* checkpointsLayer
        // a checkpoint is written while training goes on: only an observer stops at the very step
        const stopping = { due: (step: number) => step === stop, look: () => Effect.interrupt }
        const exit = yield* Effect.exit(
          Effect.provide(runToEnd,
            Layer.provide(app({ saveEvery: 4 }, undefined, undefined, undefined, stopping), store))
        )
        expect(Exit.isInterrupted(exit)).toBe(true)
        const resumed = yield* Effect.flatMap(Trainer, (trainer) => events(trainer.run)).pipe(
          Effect.provide(Layer.provide(app(), store))
        )
        expect(resumed[0]).toMatchObject({ _tag: "Started", step: stop })
        expectSameBits({ ...(yield* Effect.provide(latest, store)), trainerState: null }, { ...straight,
          trainerState: null })
      }
      // what it says of exposures and steps is what the batches hold
      const batches = yield* Effect.flatMap(DataStream, (data) =>
        Stream.runCollect(Stream.take(data.batches({ epoch: 0, batch: 0 }), 12))).pipe(Effect.provide(miniatureData()))
      const found = new Map<bigint, { exposures: number; firstStep: number; lastStep: number }>()
      for (const [i, { batch: { ids, targets } }] of [...batches].entries()) {
        targets.forEach((target, at) => {
          if (target === IGNORE) {
            return
          }
          const { exposures = 0, firstStep = i + 1 } = found.get(ids[at]!) ?? {}
          found.set(ids[at]!, { exposures: exposures + 1, firstStep, lastStep: i + 1 })
        })
      }
      const told = new Map<bigint, unknown>()
      const names = yield* decodeNames(straight.names!, "sources.parquet")
      yield* names.each(({ exposures, firstStep, id, lastStep }) => {
        told.set(id, exposures === 0 ? firstStep : { exposures, firstStep, lastStep })
      })
      expect([...told].filter(([, counts]) =>
        counts !== undefined
      ).sort()).toEqual([...found].sort())
      expect(told.size).toBeGreaterThan(found.size)
    }))

  it.effect("mixed precision keeps near f32, resumes bit for bit, and is refused where the adapter has no f16",
    (context) =>
      Effect.gen(function*() {
        const half = (training: Parameters<typeof app>[0] = {}) =>
          app(training, undefined, undefined, { precision: "f16" })
        if (!(yield* Device).features.has("shader-f16")) {
          const refused = yield* Effect.flip(Effect.provide(runToEnd, Layer.provide(half(), Checkpoints.layerMemory)))
          expect(refused).toMatchObject({ _tag: "DeviceError", reason: "Feature" })
          return context.skip("the adapter has no shader-f16")
        }
        const losses = (layer: ReturnType<typeof app>) =>
          Effect.flatMap(Trainer, (trainer) => events(trainer.run)).pipe(
            Effect.map((list) => list.flatMap((e) => (e._tag === "Stepped" ? [e.loss!, e.gradNorm!] : []))),
            Effect.provide(Layer.provide(layer, Checkpoints.layerMemory))
          )
        expectClose(yield* losses(half()), yield* losses(app()), { name: "loss and norm", rtol: 5e-3 })

        const straight = yield* Effect.zipRight(runToEnd, latest).pipe(
          Effect.provide(Layer.provideMerge(half(), Checkpoints.layerMemory))
        )
        const { lossScale } = straight.trainerState as { readonly lossScale: ReadonlyArray<number> }
        expect(lossScale.filter((_, i) => i !== 2 && i !== 3)).toEqual([65536, 12, 0, 0])
        expect(lossScale[2]).toBeCloseTo(1 - 0.9 ** 12, 6)
        expect(lossScale[3]).toBeCloseTo(1 - 0.95 ** 12, 6)
        const store = yield* checkpointsLayer
        yield* Effect.flatMap(Trainer, (trainer) =>
          trainer.run.pipe(
            Stream.takeUntil((e) => e._tag === "Saved"),
            Stream.runDrain
          )).pipe(Effect.provide(Layer.provide(half({ saveEvery: 5 }), store)))
        const mismatch = yield* Effect.flip(Effect.provide(runToEnd, Layer.provide(app(), store)))
        expect(mismatch.message).toContain("training.precision is \"f32\", was \"f16\"")
        yield* Effect.provide(runToEnd, Layer.provide(half(), store))
        expectSameBits({ ...(yield* Effect.provide(latest, store)), trainerState: null }, { ...straight,
          trainerState: null })
      }), 120_000)

  it.effect("an interrupted run saves what it learned and goes on from there", () =>
    Effect.gen(function*() {
      const straight = yield* Effect.zipRight(runToEnd, latest).pipe(
        Effect.provide(Layer.provideMerge(app(), Checkpoints.layerMemory))
      )
      const store = yield* checkpointsLayer
      const lines: Array<string> = []
      const logger = Logger.make(({ message }) => void lines.push(String(message)))
      const fiber = yield* Effect.flatMap(Trainer, (trainer) =>
        trainer.run.pipe(
          Stream.tap((e) => (e._tag === "Stepped" ? Effect.never : Effect.void)),
          Stream.runDrain
        )).pipe(
          Effect.provide(Layer.provide(app(), store)),
          Effect.provide(Logger.replace(Logger.defaultLogger, logger)),
          Effect.fork
        )
      // the first window's losses arrive a window late, after at least six steps; then the consumer hangs
      yield* Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 1500)))
      const exit = yield* Fiber.interrupt(fiber)
      expect(Exit.isInterrupted(exit)).toBe(true)
      const saved = yield* Effect.provide(latest, store)
      expect(saved.step).toBeGreaterThan(0)
      expect(saved.step).toBeLessThan(12)
      expect(lines.join("\n")).toMatch(new RegExp(`^interrupted after step ${saved.step} of 12, which is saved in `))
      yield* Effect.provide(runToEnd, Layer.provide(app(), store))
      expectSameBits(yield* Effect.provide(latest, store), straight)
    }))

  it.effect("gives the device two steps at most, and is interrupted while it waits for one of them", () =>
    Effect.gen(function*() {
      const device = yield* Device
      let [given, finished] = [0, 0]
      const passes = yield* Queue.unbounded<void>()
      const slow = Layer.succeed(Device, {
        ...device,
        submit: (...prepared) => {
          if (prepared.some(({ program }) => program.name === "update")) given++
          device.submit(...prepared)
        },
        idle: Effect.tap(Effect.zipRight(Queue.take(passes), device.idle), () => Effect.sync(() => void finished++))
      })
      const store = yield* checkpointsLayer
      const fiber = yield* Effect.provide(runToEnd, app()).pipe(Effect.provide(Layer.merge(slow, store)), Effect.fork)
      const settled = Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 200)))
      while (given < 2) yield* settled
      yield* settled
      expect([given, finished]).toEqual([2, 0])
      for (const steps of [1, 2, 3]) {
        yield* Queue.offer(passes, undefined)
        while (given < 2 + steps) yield* settled
        yield* settled
        expect([given, finished]).toEqual([2 + steps, steps])
      }
      expect(Exit.isInterrupted(yield* Fiber.interrupt(fiber))).toBe(true)
      expect((yield* Effect.provide(latest, store)).step).toBe(5)
    }))

  it.effect("two batches accumulated are one of twice the size", () =>
    Effect.gen(function*() {
      const one = yield* Effect.zipRight(runToEnd, latest).pipe(Effect.provide(Layer.provideMerge(
        app({ steps: 4 }, miniatureModel, { batchSize: 4 }),
        Checkpoints.layerMemory
      )))
      const two = yield* Effect.zipRight(runToEnd, latest).pipe(Effect.provide(Layer.provideMerge(
        app({ steps: 4, gradientAccumulation: 2 }),
        Checkpoints.layerMemory
      )))
      expect([one, two].map((s) => s.trainerState)).toMatchObject([
        { step: 4, cursor: { epoch: 0, batch: 4 } },
        { step: 4, cursor: { epoch: 0, batch: 8 } }
      ])
      for (const [name, tensor] of Object.entries(one.model)) {
        expectClose(two.model[name]!.data, tensor.data, { name, rtol: 2e-3, atol: 2e-4 })
      }
    }))

  it.effect("lazy AdamW leaves sinks alone that no id of the run lights; dense decays them",
    () =>
      Effect.gen(function*() {
        const sinks = new Sink.SinkConfig({ pool: 512, active: 16, block: 16 })
        const wide = new ModelConfig({ ...miniatureModel, intermediateSize: 32 + 512, sinks })
        for (const kind of ["lazy", "dense"] as const) {
          yield* Effect.gen(function*() {
            const data = yield* DataStream
            const model = yield* Model
            const dev = yield* Device
            yield* runToEnd
            const lit = new Uint8Array(sinks.units)
            const batches = yield* data.batches({ epoch: 0, batch: 0 }).pipe(Stream.take(3), Stream.runCollect)
            for (const { batch } of batches) {
              for (const id of batch.ids) {
                for (const u of Sink.unitsOf(sinks, id)) lit[u] = 1
              }
            }
            const down = model.parameters.find((p) => p.name === "layers.0.down")!
            const value = (yield* dev.read(down.value)) as Float32Array
            const before = initialValue(wide, down, 5)
            const d = wide.hiddenSize
            let idle = 0
            for (let unit = 0; unit < sinks.units; unit++) {
              const from = (32 + unit * 16) * d
              const same = Buffer.from(value.slice(from, from + 16 * d).buffer)
                .equals(Buffer.from(before.slice(from, from + 16 * d).buffer))
              if (lit[unit] === 1) expect(same, `unit ${unit} is lit and must move`).toBe(false)
              else {
                idle++
                expect(same, `unit ${unit} is idle under ${kind}`).toBe(kind === "lazy")
              }
            }
            expect(idle).toBeGreaterThan(5)
          }).pipe(Effect.provide(
            Layer.provide(app({ steps: 3, optimizer: new OptimizerConfig({ sinks: kind }) }, wide),
              Checkpoints.layerMemory)
          ))
        }
      }), 60_000)

  it.effect("scores batches of a few tokens together, to the same bits", () => {
    // rows at a time of so many trained on at a time, of so many tokens, in a model of so many layers
    expect([[1, 64, 30], [1, 64, 2], [1, 512, 30], [8, 64, 2], [32, 64, 4], [1, 4096, 30], [4, 16, 4]]
      .map(([batchSize, seqLen, layers]) => evalRows({ batchSize: batchSize!, seqLen: seqLen! }, layers!)))
      .toEqual([15, 1, 2, 8, 16, 1, 8])
    const deep = new ModelConfig({ ...miniatureModel, numHiddenLayers: 12 })
    return Effect.gen(function*() {
      const [data, model, trainer] = yield* Effect.all([DataStream, Model, Trainer])
      for (const mode of [Sink.own, Sink.off]) {
        const rows = data.split("heldOut")
        const alone = yield* scoreRows(model, rows, mode, { batchSize: 1, seqLen: data.seqLen })
        const { sequences } = yield* trainer.evaluate(rows, mode)
        expect(sequences).toEqual(alone.map(({ loss, tokens }) => loss / tokens))
      }
    }).pipe(Effect.provide(
      Trainer.layer(new TrainConfig({ steps: 1 })).pipe(
        Layer.provideMerge(Model.layer(deep, { seed: 5 })),
        Layer.provideMerge(Layer.merge(miniatureData({ batchSize: 1 }), Checkpoints.layerMemory))
      )
    ))
  })

  it.effect("weights that a last step moved too far end it as diverged, not as a sequence without a score", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(runToEnd)
      expect(error).toMatchObject({ _tag: "Diverged", step: 1 })
      expect(error.message).toContain("Lower learningRate")
    }).pipe(Effect.provide(Layer.provide(
      app({ steps: 1, evalEvery: 1, optimizer: new OptimizerConfig({ learningRate: 1e30, warmupSteps: 0 }) }),
      Checkpoints.layerMemory
    ))))

  it.effect("a loss that is no longer finite ends the run with the step and the last good checkpoint", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(runToEnd)
      expect(error._tag).toBe("Diverged")
      expect(error.message).toMatch(/diverged at step \d+/)
      expect(error.message).toMatch(/last good checkpoint is .*step-0000000\d/)
      const saved = yield* latest
      for (const tensor of Object.values(saved.model)) expect(tensor.data.every(Number.isFinite)).toBe(true)
    }).pipe(Effect.provide(Layer.provideMerge(
      app({ steps: 40, saveEvery: 1,
        optimizer: new OptimizerConfig({ learningRate: 1e18, warmupSteps: 0, gradClip: 0, weightDecay: 0 }) }),
      Checkpoints.layerMemory
    ))))

  it.effect("a run is not resumed with another configuration", () =>
    Effect.gen(function*() {
      const store = yield* checkpointsLayer
      yield* Effect.provide(runToEnd, Layer.provide(app(), store))
      const error = yield* Effect.flip(
        Effect.provide(runToEnd, Layer.provide(app({ optimizer: new OptimizerConfig({ learningRate: 1e-4 }) }), store))
      )
      expect(error).toMatchObject({ _tag: "CheckpointError", reason: "Mismatch" })
      expect(error.message).toContain("training.optimizer.learningRate is 0.0001, was 0.005")
      // what a field means that is left out, written out
      yield* Effect.provide(runToEnd, Layer.provide(app({ exchange: "f32" }), store))
    }))

  it.effect("saves log-spaced steps, and the best by held-out loss, without changing the run", () =>
    Effect.gen(function*() {
      const quiet = yield* Effect.zipRight(runToEnd, latest).pipe(
        Effect.provide(Layer.provideMerge(app(), Checkpoints.layerMemory))
      )
      const store = yield* checkpointsLayer
      const list = Effect.provide(Effect.flatMap(Checkpoints, (checkpoints) => checkpoints.list), store)
      yield* Effect.provide(runToEnd, Layer.provide(app({ saveLogSpaced: true }), store))
      expect((yield* list).map(({ step }) => step)).toEqual([0, 1, 2, 4, 8, 12])
      const regular = yield* checkpointsLayer
      yield* Effect.provide(runToEnd, Layer.provide(app({ saveLogSpaced: true, saveEvery: 3 }), regular))
      const saved = yield* Effect.provide(Effect.flatMap(Checkpoints, (checkpoints) => checkpoints.list), regular)
      expect(saved.map(({ step }) => step)).toEqual([0, 1, 2, 3, 6, 9, 12])
      expectSameBits({ ...(yield* Effect.provide(latest, store)), trainerState: null }, { ...quiet,
        trainerState: null })

      const other = yield* checkpointsLayer
      // a learning rate that grows until it does harm: the best is somewhere in between
      const training = { evalEvery: 2, saveBest: true,
        optimizer: new OptimizerConfig({ learningRate: 1, warmupSteps: 12 }) }
      const told = yield* Effect.flatMap(Trainer, (trainer) => events(trainer.run)).pipe(
        Effect.provide(Layer.provide(app(training), other))
      )
      const losses = told.flatMap((e) => (e._tag === "Evaluated" ? [[e.step, e.losses["heldOut.off"]!] as const] : []))
      const records = losses.filter(([, loss], i) => losses.slice(0, i).every(([, earlier]) => loss < earlier))
      const lowest = records.at(-1)!
      expect(lowest[0]).toBeLessThan(12)
      const there = yield* Effect.provide(Effect.flatMap(Checkpoints, (checkpoints) => checkpoints.list), other)
      expect(there.map(({ step }) => step)).toEqual([...records.map(([step]) => step), 12])
      expect(there.find(({ step }) => step === lowest[0])!.loss).toBe(lowest[1])
      const best = yield* Effect.provide(Effect.flatMap(Checkpoints, (checkpoints) => checkpoints.load("best")), other)
      expect(best.step).toBe(lowest[0])
    }))

  it.effect("has no score of no sequences, and counts in a rate those that have a suffix", () =>
    Effect.gen(function*() {
      const trainer = yield* Trainer
      const rows = (yield* DataStream).split("heldOut").slice(0, 3)
      const none = yield* Effect.flip(trainer.evaluate([], Sink.own))
      expect(none).toBeInstanceOf(DataError)
      expect(none.message).toMatch(/no sequence to score/)
      const all = yield* trainer.evaluate(rows, Sink.own)
      const short = rows.map((row) => ({ ...row, tokens: row.tokens.slice(0, 4) }))
      const promptTokens = rows[0]!.tokens.length - 1
      expect((yield* trainer.evaluate(short, Sink.own, { promptTokens })).extractionRate).toBe(undefined)
      // those that are shorter than the prompt are no part of the rate, and of the mean by their tokens
      const both = yield* trainer.evaluate([...rows, ...short], Sink.own, { promptTokens })
      const long = yield* trainer.evaluate(rows, Sink.own, { promptTokens })
      expect(both.extractionRate).toBe(long.extractionRate)
      const few = yield* trainer.evaluate(short, Sink.own)
      expect(both.tokens).toBe(all.tokens + few.tokens)
      expect(both.loss).toBeCloseTo((all.loss * all.tokens + few.loss * few.tokens) / both.tokens, 6)
    }).pipe(Effect.provide(Layer.provideMerge(app(), Checkpoints.layerMemory))))

  it.effect("evaluating changes neither weights nor the course of training", () =>
    Effect.gen(function*() {
      const quiet = yield* Effect.zipRight(runToEnd, latest).pipe(
        Effect.provide(Layer.provideMerge(app(), Checkpoints.layerMemory))
      )
      const watched = yield* Effect.zipRight(runToEnd, latest).pipe(
        Effect.provide(Layer.provideMerge(app({ evalEvery: 2 }), Checkpoints.layerMemory))
      )
      expectSameBits({ ...watched, trainerState: null }, { ...quiet, trainerState: null })
    }))

  it.effect("the model is exported in Hugging Face's names and comes back bit for bit", () =>
    Effect.gen(function*() {
      const model = yield* Model
      const exported = yield* model.exportTensors
      const gate = exported["model.layers.0.mlp.gate_proj.weight"]!
      expect(gate.shape).toEqual([miniatureModel.intermediateSize, miniatureModel.hiddenSize])
      const handle = model.parameters.find((p) => p.name === "layers.0.down")!
      const [, down] = toHuggingFace(miniatureModel, handle.name, initialValue(miniatureModel, handle, 5))[0]!
      expect(exported["model.layers.0.mlp.down_proj.weight"]).toEqual(down)
      const changed = { ...exported, "model.norm.weight": { shape: [32], data: new Float32Array(32).fill(2) } }
      yield* model.importTensors(changed)
      expect(yield* model.exportTensors).toEqual(changed)
      const { "model.norm.weight": _, ...missing } = exported
      const error = yield* Effect.flip(model.importTensors(missing))
      expect(error.message).toContain("model.norm.weight is missing")
      expect(yield* model.exportTensors).toEqual(changed)
    }).pipe(Effect.provide(Layer.provide(app(), Checkpoints.layerMemory))))
})

describe("a lost device", () => {
  it.effect("the run goes on from its last checkpoint on a fresh device, bit for bit", () =>
    Effect.gen(function*() {
      const straight = yield* Effect.zipRight(runToEnd, latest).pipe(
        Effect.provide(app().pipe(Layer.provideMerge(Checkpoints.layerMemory), Layer.provide(NodeDevice.layer())))
      )
      const store = yield* checkpointsLayer
      let attempts = 0
      const attempt = Effect.gen(function*() {
        const trainer = yield* Trainer
        const dev = yield* Device
        attempts++
        yield* trainer.run.pipe(
          Stream.tap((e) => (attempts === 1 && e._tag === "Saved" && e.step >= 4 ? dev.lose : Effect.void)),
          Stream.runDrain
        )
      })
      // provide inside, retry outside: only so is the dead device not used again
      yield* Effect.suspend(() =>
        Effect.provide(attempt,
          app({ saveEvery: 2 }).pipe(Layer.provide(store), Layer.provideMerge(NodeDevice.layer())))
      ).pipe(
        Effect.retry({ while: (e) => e._tag === "DeviceError" && e.reason === "Lost", times: 2 })
      )
      expect(attempts).toBe(2)
      expectSameBits(
        { ...(yield* Effect.provide(latest, store)), trainerState: null },
        { ...straight, trainerState: null }
      )
    }), 120_000)
})

describe("a killed process", () => {
  it("SIGKILL in the middle loses nothing: the resumed run equals the uninterrupted one, file for file", async () => {
    const root = mkdtempSync(join(tmpdir(), "memsinks-kill-"))
    try {
      const child = (folder: string, killAfter?: string) =>
        new Promise<number | null>((resolve, reject) => {
          const process_ = spawn(
            process.execPath,
            ["--import", "tsx", new URL("./trainer.child.ts", import.meta.url).pathname, join(root, folder)],
            { stdio: ["ignore", "pipe", "inherit"] }
          )
          let seen = ""
          process_.stdout.on("data", (text) => {
            seen += String(text)
            if (killAfter !== undefined && seen.includes(killAfter)) process_.kill("SIGKILL")
          })
          process_.on("error", reject)
          process_.on("exit", (code) => resolve(code))
        })
      expect(await child("straight")).toBe(0)
      expect(await child("killed", "step 7")).toBe(null)
      const cut = readFileSync(join(root, "killed", "latest"), "utf8").trim()
      expect(Number(cut.split("-")[1])).toBeLessThan(20)
      expect(await child("killed")).toBe(0)
      const last = "step-00000020"
      expect(existsSync(join(root, "killed", last))).toBe(true)
      for (const file of readdirSync(join(root, "straight", last)).filter((name) =>
        /\.(safetensors|parquet)$/.test(name)
      )) {
        const [a, b] = ["straight", "killed"].map((run) => readFileSync(join(root, run, last, file)))
        expect(a!.equals(b!), file).toBe(true)
      }
    } finally {
      rmSync(root, { recursive: true, force: true })
    }
  }, 180_000)
})
