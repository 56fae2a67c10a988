import { it, layer } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { expect } from "vitest"
import { Checkpoints, type Snapshot } from "../../src/checkpoints/Checkpoints.ts"
import { Collective, type CollectiveService } from "../../src/collective/Collective.ts"
import { ranksInProcess } from "../../src/collective/InProcess.ts"
import { type DataConfigInput } from "../../src/data/stream/DataStream.ts"
import { batchOf } from "../../src/data/stream/Packing.ts"
import { CollectiveError, DataError } from "../../src/Errors.ts"
import { Device, type DeviceService } from "../../src/gpu/Device.ts"
import * as Tensor from "../../src/gpu/Tensor.ts"
import { toHuggingFace } from "../../src/model/HuggingFace.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import { random } from "../../src/Random.ts"
import { shardOf, SinkConfig, SinkDropout } from "../../src/Sink.ts"
import { shareOf, unevenShare } from "../../src/train/DataParallel.ts"
import { DiLoCoConfig, dilocoProblem, fragmentsOf, makeOuter, outerStep } from "../../src/train/DiLoCo.ts"
import { memoryPlan } from "../../src/train/MemoryPlan.ts"
import { type Optimizer, OptimizerConfig } from "../../src/train/Optimizer.ts"
import * as Sharding from "../../src/train/Sharding.ts"
import { type Observer, TrainConfig, Trainer } from "../../src/train/Trainer.ts"
import type { TrainEvent } from "../../src/train/TrainEvent.ts"
import { makeTrainStep } from "../../src/train/TrainStep.ts"
import { miniatureData, miniatureModel } from "../support/support.ts"

interface Setup {
  readonly training?: Partial<ConstructorParameters<typeof TrainConfig>[0]>
  readonly model?: ModelConfig
  readonly data?: DataConfigInput
  readonly precision?: "f32" | "f16"
  readonly observer?: Observer
  readonly seed?: number
}

/** A training, by one rank or as one of several: its events, and what it leaves. */
const train = (
  { data = {}, model = miniatureModel, observer, precision = "f32", seed = 5, training = {} }: Setup,
  checkpoints: Layer.Layer<Checkpoints>,
  collective?: CollectiveService,
  onEvent: (event: TrainEvent) => Effect.Effect<void> = () => Effect.void,
  divided = training.diloco === undefined
) =>
  Effect.gen(function*() {
    const trainer = yield* Trainer
    const told: Array<TrainEvent> = []
    yield* Stream.runForEach(trainer.run, (event) => {
      told.push(event)
      return onEvent(event)
    })
    const own = yield* Model
    const device = yield* Device
    const ofAll = own.parameters.filter(({ sinkRow0 }) => sinkRow0 === undefined)
    const weights = own.slice === undefined || collective?.rank === 0
      ? yield* (yield* trainer.model).exportTensors
      : Object.fromEntries((yield* Effect.forEach(ofAll, ({ name, value }) =>
        Effect.map(device.read(value), (data) =>
          toHuggingFace(own.config, name, data as Float32Array)))).flat())
    return { told, weights, exchanged: collective?.times }
  }).pipe(Effect.provide(
    Trainer.layer(
      new TrainConfig({ steps: 6, logEvery: 1, gradientAccumulation: 4, ...training }),
      observer === undefined ? {} : { observer }
    ).pipe(
      Layer.provideMerge(Model.layer(model, { seed, precision, divided })),
      Layer.provideMerge(miniatureData({ batchSize: 2, ...data })),
      Layer.provideMerge(checkpoints),
      (all) =>
        collective === undefined ? all : Layer.provideMerge(all, Layer.succeed(Collective, collective))
    )
  ))

const memory = Effect.map(
  Effect.scoped(Effect.provide(Checkpoints, Checkpoints.layerMemory)),
  (checkpoints) => Layer.succeed(Checkpoints, checkpoints)
)

/** The same by ranks of this process. Only the first of them may write. */
const trainTogether = (size: number, setup: Setup, checkpoints: Layer.Layer<Checkpoints>) =>
  Effect.gen(function*() {
    return yield* Effect.forEach(ranksInProcess(size), (collective) =>
      Effect.flatMap(memory, (own) => train(setup, collective.rank === 0 ? checkpoints : own, collective)), {
      concurrency: "unbounded"
    })
  })

const losses = (told: ReadonlyArray<TrainEvent>) =>
  told.flatMap((event) => event._tag === "Stepped" ? [event.loss!] : [])

const bits = (weights: Snapshot["model"]) => Object.values(weights).map(({ data }) => Array.from(data as Float32Array))

const far = (a: ReadonlyArray<number>, b: ReadonlyArray<number>) =>
  Math.max(...a.map((value, i) => Math.abs(value - b[i]!)))

const lazy = new OptimizerConfig({ learningRate: 5e-3, sinks: "lazy" })

it("shares a step's batches out in one piece each", () => {
  expect([0, 1, 2].map((rank) => shareOf([1, 2, 3, 4, 5, 6], { rank, size: 3 }))).toEqual([[1, 2], [3, 4], [5, 6]])
  expect(unevenShare(6, 3)).toBeUndefined()
  expect(unevenShare(3, 2)?.message).toContain("make it a multiple of 2, such as 4")
  expect(unevenShare(1, 8)?.message).toContain("such as 8")
})

it("takes Nesterov's steps outside", () => {
  const kept = { met: Float32Array.of(1, 2), momentum: Float32Array.of(0.5, 0) }
  // two ranks went from 1 by -0.2 and -0.4, from 2 by 1 and -1
  outerStep(new DiLoCoConfig({ outerLearningRate: 0.5, outerMomentum: 0.8 }), kept, Float32Array.of(-0.6, 0), 2)
  // gradient 0.3: momentum 0.8 * 0.5 + 0.3 = 0.7, and 1 - 0.5 (0.3 + 0.8 * 0.7) = 0.57
  expect([...kept.momentum]).toEqual([Math.fround(0.7), 0])
  expect([...kept.met]).toEqual([Math.fround(0.57), 2])
})

for (const sinks of ["touched", "mean"] as const) {
  it(`averages sinks over whom their definition says: ${sinks}`, async () => {
    const [size, rows, width, sinkRow0, pool, block] = [3, 14, 2, 2, 6, 2]
    const draw = random(7, "moved")
    const began = Array.from({ length: rows * width }, () => Math.fround(draw.uniform()))
    // what each rank moves: row 2 h of unit u of either half, of unit 0 no rank, of unit 1 the first, of unit 2 all but the first
    const touches = (rank: number, unit: number) => unit === 1 ? rank === 0 : unit === 2 && rank !== 0
    const unitOf = (row: number) => Math.floor(((row - sinkRow0) % pool) / block)
    const moved = Array.from({ length: size }, (_, rank) =>
      began.map((_, i) => {
        const row = Math.floor(i / width)
        // a value of a touched unit that did not move counts, too
        return row >= sinkRow0 && (!touches(rank, unitOf(row)) || row === 6) ? 0 : draw.uniform() - 0.5
      }))
    const names = ["value", "m", "v"] as const
    const after = await Promise.all(ranksInProcess(size).map(async (collective, rank) => {
      const [value, m, v] = names.map((name) => Tensor.make(name, [rows, width])) as [Tensor.Tensor, Tensor.Tensor,
        Tensor.Tensor]
      const on = new Map([value, m, v].map((tensor) => [tensor, Float32Array.from(began)]))
      const device = {
        read: (tensor: Tensor.Tensor) => Effect.sync(() => on.get(tensor)!.slice()),
        write: (tensor: Tensor.Tensor, values: Float32Array) => void on.set(tensor, values.slice()),
        idle: Effect.void
      } as unknown as DeviceService
      const parameter = { name: "w", value, gradient: value, decay: false, sinkRow0 }
      const touched = { pool, block } as Optimizer["gradients"]["touched"]
      const outer = makeOuter(
        new DiLoCoConfig({ syncEvery: 1, outerLearningRate: 1, outerMomentum: 0,
          ...sinks === "mean" ? { sinks } : {} }),
        collective,
        device,
        { moments: [{ parameter, m, v }], scaler: undefined, gradients: { touched } as Optimizer["gradients"] },
        1
      )
      await Effect.runPromise(outer.begin)
      on.set(value, Float32Array.from(began, (one, i) => one + moved[rank]![i]!))
      on.set(m, Float32Array.from(moved[rank]!))
      on.set(v, Float32Array.from(moved[rank]!, (one) => one ** 2))
      await Effect.runPromise(outer.after(1))
      return [value, m, v].map((tensor) => [...on.get(tensor)!])
    }))
    const meanOf = (of: (rank: number) => number, row: number) => {
      const all = [0, 1, 2]
      const who = sinks === "mean" || row < sinkRow0 ? all : all.filter((rank) => touches(rank, unitOf(row)))
      return who.length === 0 ? 0 : who.reduce((sum, rank) => sum + of(rank), 0) / who.length
    }
    for (const [value, m, v] of after) {
      began.forEach((one, i) => {
        const row = Math.floor(i / width)
        expect(value![i]).toBeCloseTo(one + meanOf((rank) => moved[rank]![i]!, row), 6)
        expect(m![i]).toBeCloseTo(meanOf((rank) => moved[rank]![i]!, row), 6)
        expect(v![i]).toBeCloseTo(meanOf((rank) => moved[rank]![i]! ** 2, row), 6)
      })
    }
    expect(after[1]).toEqual(after[0])
  })
}

it("exchanges fragments of about the same size", () => {
  const fragments = fragmentsOf([5, 100, 40, 30, 30], (size) => size, 2)
  expect(fragments).toEqual([[5, 100], [40, 30, 30]])
  expect(fragmentsOf([3, 2, 1], (size) => size, 3)).toEqual([[3], [2], [1]])
})

it("says what a timetable of fragments cannot be", () => {
  const problem = (config: ConstructorParameters<typeof DiLoCoConfig>[0]) =>
    dilocoProblem(new DiLoCoConfig({ syncEvery: 12, ...config }), 8)
  expect(problem({})).toBeUndefined()
  expect(problem({ fragments: 4, fragmentSyncDelay: 11, fragmentUpdateAlpha: 0.5, meetEvery: 24 })).toBeUndefined()
  expect(problem({ fragmentSyncDelay: 2, meetEvery: 24 })).toBeUndefined()
  expect(problem({ fragments: 5 })).toContain("make it a multiple of 5")
  expect(problem({ fragments: 12 })).toContain("the model has 8 parameter tensors")
  expect(problem({ meetEvery: 18 })).toContain("make it a multiple of syncEvery, 12")
  expect(problem({ fragments: 2, fragmentSyncDelay: 12 })).toContain("a fragment must be back before it leaves again")
  expect(problem({ fragmentSyncDelay: 2 })).toContain("have no effect where every exchange is a meeting")
})

/** Looks at every step, and does something behind one. */
const behind = (step: number, then: Effect.Effect<void, never>): Observer => ({
  due: (at) => at === step,
  look: () => then
})

layer(NodeDevice.layer())("ranks that train one model", (it) => {
  for (const sinks of ["dense", "lazy"] as const) {
    it.effect(`learn what one learns, to rounding, whatever their number: ${sinks} sinks`, () =>
      Effect.gen(function*() {
        const setup: Setup = { training: { optimizer: new OptimizerConfig({ learningRate: 5e-3, sinks }) } }
        const alone = yield* train(setup, yield* memory)
        for (const size of [2, 4]) {
          const ranks = yield* trainTogether(size, setup, yield* memory)
          // all of them are the same, bit for bit
          for (const one of ranks) expect(bits(one.weights)).toEqual(bits(ranks[0]!.weights))
          expect(losses(ranks[0]!.told)).toHaveLength(6)
          expect(far(losses(ranks[0]!.told), losses(alone.told))).toBeLessThan(2e-5)
          expect(ranks.map(({ exchanged }) => exchanged!.bytes > 0)).not.toContain(false)
          const [a, b] = [ranks[0]!, alone].map(({ weights }) => bits(weights).flat())
          expect(far(a!, b!)).toBeLessThan(2e-3)
          // from run to run, too
          const again = yield* trainTogether(size, setup, yield* memory)
          expect(bits(again[0]!.weights)).toEqual(bits(ranks[0]!.weights))
        }
      }))
  }

  it.effect("go on at another number from what they saved, as one would that was never interrupted", () =>
    Effect.gen(function*() {
      const setup: Setup = { training: { optimizer: lazy } }
      const alone = yield* train(setup, yield* memory)
      const kept = yield* memory
      const first = { ...setup, training: { ...setup.training, saveEvery: 2 } }
      yield* Effect.flip(trainTogether(2, {
        ...first,
        observer: behind(3, Effect.interrupt)
      }, kept).pipe(Effect.sandbox))
      // interrupted after step 3, by four ranks from there, then by one
      yield* Effect.flip(
        trainTogether(4, { ...first, observer: behind(5, Effect.interrupt) }, kept).pipe(Effect.sandbox)
      )
      const steps = (yield* Effect.flatMap(Effect.provide(Checkpoints, kept), ({ list }) => list)).map(({ step }) =>
        step
      )
      expect(steps).toContain(3)
      expect(steps).toContain(5)
      const last = yield* train(first, kept)
      expect(last.told[0]).toMatchObject({ _tag: "Started", step: 5 })
      expect(far(losses(last.told), losses(alone.told).slice(5))).toBeLessThan(2e-5)
      const [a, b] = [last, alone].map(({ weights }) => bits(weights).flat())
      expect(far(a!, b!)).toBeLessThan(2e-3)
    }))

  it.effect("stop together, after the same step, when one of them is interrupted", () =>
    Effect.gen(function*() {
      const ranks = ranksInProcess(3)
      const kept = yield* memory
      const reached = yield* Deferred.make<void>()
      const fibers = yield* Effect.forEach(ranks, (collective) =>
        Effect.gen(function*() {
          const own = collective.rank === 0 ? kept : yield* memory
          return yield* train(
            { training: { steps: 400, gradientAccumulation: 3, logEvery: 1 } },
            own,
            collective,
            (event) => event.step === 4 ? Effect.asVoid(Deferred.succeed(reached, undefined)) : Effect.void
          )
        }).pipe(Effect.fork))
      yield* Deferred.await(reached)
      // not the one that saves
      yield* Fiber.interrupt(fibers[2]!)
      const exits = yield* Effect.forEach(fibers, Fiber.await)
      expect(exits.map((exit) => Exit.isInterrupted(exit))).toEqual([true, true, true])
      const saved = yield* Effect.flatMap(Effect.provide(Checkpoints, kept), ({ list }) => list)
      expect(saved).toHaveLength(1)
      expect(saved[0]!.step).toBeGreaterThanOrEqual(4)
      expect(new Set(ranks.map(({ times }) => times.calls)).size).toBe(1)
    }))

  it.effect("stop with the reason of the one that fails, and keep what was saved", () =>
    Effect.gen(function*() {
      const ranks = ranksInProcess(2)
      const kept = yield* memory
      const exits = yield* Effect.forEach(ranks, (collective) =>
        Effect.gen(function*() {
          const own = collective.rank === 0 ? kept : yield* memory
          const full = new DataError({ detail: "the disk is full" })
          return yield* Effect.exit(train(
            { training: { saveEvery: 2, gradientAccumulation: 2 } },
            own,
            collective,
            (event) =>
              event._tag === "Stepped" && event.step === 4 && collective.rank === 0 ?
                Effect.die(full) :
                Effect.void
          ))
        }), { concurrency: "unbounded" })
      expect(exits.every(Exit.isFailure)).toBe(true)
      expect(String(Exit.isFailure(exits[1]!) ? exits[1].cause : "")).toContain("the disk is full")
      const saved = yield* Effect.flatMap(Effect.provide(Checkpoints, kept), ({ list }) => list)
      expect(saved.map(({ step }) => step)).toContain(2)
    }))

  it.effect("say which of them has another configuration or other data, and which field it is", () =>
    Effect.gen(function*() {
      const refused = (other: Setup) =>
        Effect.gen(function*() {
          const exits = yield* Effect.forEach(ranksInProcess(2), (collective) =>
            Effect.flatMap(memory, (own) => Effect.either(train(collective.rank === 0 ? {} : other, own, collective))),
            { concurrency: "unbounded" })
          return exits.map((exit) => exit._tag === "Left" ? exit.left.message : "")
        })
      for (const message of yield* refused({ training: { optimizer: lazy } })) {
        expect(message).toContain("rank 1 (host1) is not like rank 0 (host0): training.optimizer.sinks")
      }
      for (const message of yield* refused({ data: { seed: 9 } })) expect(message).toContain("data.")
    }))

  it.effect("tell an accumulation that they cannot share out", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(trainTogether(2, { training: { gradientAccumulation: 3 } }, yield* memory))
      expect(error.message).toContain("2 ranks share out the batches of a step: make it a multiple of 2, such as 4")
    }))

  it.effect("notice when the bits of one drift apart", () =>
    Effect.gen(function*() {
      const [first, second] = ranksInProcess(2)
      // a link that turns a bit of a sum around
      const drifting: CollectiveService = {
        ...second!,
        allReduce: async (values) => {
          await second!.allReduce(values)
          if (values.length > 1) (values as Float32Array)[0]! *= 1.001
        }
      }
      const exits = yield* Effect.forEach([first!, drifting],
        (collective) => Effect.flatMap(memory, (own) => Effect.either(train({}, own, collective))), {
        concurrency: "unbounded"
      })
      for (const exit of exits) {
        expect(exit._tag === "Left" && exit.left instanceof CollectiveError && exit.left.message).toContain(
          "loss and norm of rank 1 (host1) are not those of rank 0"
        )
      }
    }))

  it.effect("share out routed gradients", () =>
    Effect.gen(function*() {
      const setup: Setup = { training: { routing: "sgtm", optimizer: lazy } }
      const alone = yield* train(setup, yield* memory)
      const [first, second] = yield* trainTogether(2, setup, yield* memory)
      expect(bits(second!.weights)).toEqual(bits(first!.weights))
      expect(far(losses(first!.told), losses(alone.told))).toBeLessThan(2e-5)
    }))

  it.effect("equal it in DiLoCo that meets at every step, where steps are linear in the gradient", () =>
    Effect.gen(function*() {
      // so large an eps that AdamW divides by nothing else: plain gradient descent
      const optimizer = new OptimizerConfig({ learningRate: 50, eps: 1000, beta1: 0, weightDecay: 0, gradClip: 0,
        schedule: "constant", warmupSteps: 0 })
      const outer = { syncEvery: 1, outerLearningRate: 1, outerMomentum: 0 }
      // where every rank lights all sinks it does not matter over whom they are averaged
      const lit = new ModelConfig({ ...miniatureModel, sinks: new SinkConfig({ pool: 64, active: 64 }) })
      let a: ReadonlyArray<number> = []
      for (const [model, sinks] of [[lit, "touched"], [miniatureModel, "mean"]] as const) {
        const diloco = new DiLoCoConfig({ ...outer, sinks })
        const [exact] = yield* trainTogether(2, { model, training: { optimizer } }, yield* memory)
        const apart = yield* trainTogether(2, { model, training: { optimizer, diloco } }, yield* memory)
        const b = bits(apart[0]!.weights).flat()
        a = bits(exact!.weights).flat()
        expect(bits(apart[1]!.weights)).toEqual(bits(apart[0]!.weights))
        expect(far(a, b)).toBeLessThan(1e-5)
      }
      // over those that lit them they move further, and all else moves as far
      const one = (sinks: "mean" | "touched") =>
        Effect.flatMap(memory, (own) =>
          trainTogether(2, { training: { steps: 1, optimizer, diloco: new DiLoCoConfig({ ...outer, sinks }) } }, own))
      const [[mean], [touched]] = [yield* one("mean"), yield* one("touched")]
      const differ = Object.keys(mean!.weights).filter((name) =>
        far(
          ...[mean, touched].map((all) => Array.from(all!.weights[name]!.data as Float32Array)) as [Array<number>,
            Array<number>]
        ) > 0
      )
      expect(differ.map((name) => name.split(".").at(-2))).toEqual(["gate_proj", "up_proj", "down_proj"])
      const still = yield* train({ training: { steps: 1, optimizer: new OptimizerConfig({ learningRate: 1e-12 }) } },
        yield* memory)
      expect(far(a, bits(still.weights).flat())).toBeGreaterThan(1e-3)
    }))

  it.effect("meet every few steps in DiLoCo, and save and go on from there, bit for bit, with any number of them", () =>
    Effect.gen(function*() {
      const diloco = new DiLoCoConfig({ syncEvery: 3 })
      const training = { steps: 8, saveEvery: 2, diloco, optimizer: lazy }
      const kept = yield* memory
      const [whole, other] = yield* trainTogether(2, { training }, kept)
      expect(bits(other!.weights)).toEqual(bits(whole!.weights))
      const saved = yield* Effect.flatMap(Effect.provide(Checkpoints, kept), ({ list }) => list)
      expect(saved.map(({ step }) => step)).toEqual([3, 6, 8])
      // the same without an end of its own, interrupted in the middle between two meetings
      const half = yield* memory
      const ranks = ranksInProcess(2)
      const exits = yield* Effect.forEach(ranks, (collective) =>
        Effect.flatMap(memory, (own) =>
          Effect.exit(train({ training }, collective.rank === 0 ? half : own, collective, (event) =>
            event._tag === "Stepped" && event.step === 3 && collective.rank === 1 ?
              Effect.interrupt :
              Effect.void))), { concurrency: "unbounded" })
      expect(exits.map((exit) =>
        Exit.isInterrupted(exit)
      )).toEqual([true, true])
      const [stopped] = (yield* Effect.flatMap(Effect.provide(Checkpoints, half), ({ list }) => list)).slice(-1)
      expect([3, 6]).toContain(stopped!.step)
      const [again] = yield* trainTogether(2, { training }, half)
      expect(again!.told[0]).toMatchObject({ step: stopped!.step })
      expect(bits(again!.weights)).toEqual(bits(whole!.weights))
    }))

  it.effect("learn as well from gradients in bf16, alike, the same from run to run, for half the bytes", () =>
    Effect.gen(function*() {
      const setup = (exchange: "f32" | "bf16"): Setup => ({ training: { optimizer: lazy, exchange } })
      const [exact] = yield* trainTogether(2, setup("f32"), yield* memory)
      const [first, second] = yield* trainTogether(2, setup("bf16"), yield* memory)
      expect(bits(second!.weights)).toEqual(bits(first!.weights))
      const away = far(losses(first!.told), losses(exact!.told))
      expect(away).toBeLessThan(5e-3)
      expect(away).toBeGreaterThan(0)
      const [again] = yield* trainTogether(2, setup("bf16"), yield* memory)
      expect(bits(again!.weights)).toEqual(bits(first!.weights))
      const share = first!.exchanged!.bytes / exact!.exchanged!.bytes
      expect(share).toBeGreaterThanOrEqual(0.5)
      expect(share).toBeLessThan(0.51)
    }))

  it.effect("refuse to send the gradients of single steps in 8 bits", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(train({ training: { exchange: "int8" } }, yield* memory))
      expect(error.message).toContain("training.exchange \"int8\" is too coarse for the gradients of single steps")
    }))

  it.effect("exchange fragments in DiLoCo while they go on, and go on from a meeting, bit for bit", () =>
    Effect.gen(function*() {
      const diloco = new DiLoCoConfig({ syncEvery: 2, fragments: 2, fragmentSyncDelay: 1, fragmentUpdateAlpha: 0.25,
        meetEvery: 4 })
      const training = { steps: 9, saveEvery: 2, diloco, optimizer: lazy, exchange: "int8",
        gradientAccumulation: 2 } as const
      const kept = yield* memory
      const [whole, other] = yield* trainTogether(2, { training }, kept)
      expect(bits(other!.weights)).toEqual(bits(whole!.weights))
      const saved = yield* Effect.flatMap(Effect.provide(Checkpoints, kept), ({ list }) => list)
      expect(saved.map(({ step }) => step)).toEqual([4, 8, 9])
      // interrupted between two meetings, with a fragment on its way
      const half = yield* memory
      const exits = yield* Effect.forEach(ranksInProcess(2), (collective) =>
        Effect.flatMap(memory, (own) =>
          Effect.exit(train({ training }, collective.rank === 0 ? half : own, collective, (event) =>
            event._tag === "Stepped" && event.step === 1 && collective.rank === 1
              ? Effect.interrupt
              : Effect.void))), { concurrency: "unbounded" })
      expect(exits.map((exit) =>
        Exit.isInterrupted(exit)
      )).toEqual([true, true])
      const again = yield* trainTogether(2, { training }, half)
      expect([4, 8]).toContain(again[0]!.told[0]!.step)
      expect(bits(again[0]!.weights)).toEqual(bits(whole!.weights))
      expect(bits(again[1]!.weights)).toEqual(bits(whole!.weights))
    }))

  it.effect("go on in fragments at another number, from a meeting, alike, and to the end", () =>
    Effect.gen(function*() {
      const diloco = new DiLoCoConfig({ syncEvery: 2, fragments: 2, fragmentSyncDelay: 1, meetEvery: 4 })
      const training = { steps: 9, saveEvery: 2, diloco, optimizer: lazy, gradientAccumulation: 4 } as const
      const [whole] = yield* trainTogether(2, { training }, yield* memory)
      for (const size of [1, 4]) {
        const half = yield* memory
        yield* Effect.forEach(ranksInProcess(2), (collective) =>
          Effect.flatMap(memory, (own) =>
            Effect.exit(train({ training }, collective.rank === 0 ? half : own, collective, (event) =>
              event._tag === "Stepped" && event.step === 1 && collective.rank === 1
                ? Effect.interrupt
                : Effect.void))), { concurrency: "unbounded" })
        const again = size === 1 ? [yield* train({ training }, half)] : yield* trainTogether(size, { training }, half)
        const { told, weights } = again[0]!
        expect(told[0]!.step).toBe(4)
        expect(told.at(-1)!.step).toBe(9)
        for (const other of again) {
          expect(bits(other!.weights)).toEqual(bits(weights))
        }
        // other shares of the same batches, and another number of steps by each, lead not to the same, but on
        expect(losses(told).at(-1)!).toBeLessThan(losses(whole!.told)[0]!)
      }
    }))

  it.effect("give one rank what it learns, by the mean of itself, in fragments, too", () =>
    Effect.gen(function*() {
      const own = { outerLearningRate: 1, outerMomentum: 0 }
      const training = { optimizer: lazy, gradientAccumulation: 1, steps: 5 }
      const plain = yield* train({ training }, yield* memory)
      for (const more of [{ syncEvery: 2 }, { syncEvery: 2, fragments: 2, meetEvery: 4 }]) {
        const diloco = new DiLoCoConfig({ ...own, ...more })
        const outer = yield* train({ training: { ...training, diloco } }, yield* memory)
        const [a, b] = [outer, plain].map(({ weights }) => bits(weights).flat())
        expect(far(a!, b!)).toBeLessThan(1e-5)
      }
    }))

  /** A pool of 8 blocks in so many slices, and rows whose ids are spread over them. */
  const inShards = (shards: number, sinks: object = {}) =>
    new ModelConfig({
      ...miniatureModel,
      intermediateSize: 32 + 128,
      sinks: new SinkConfig({ pool: 128, active: 16, block: 16, shards, ...sinks })
    })

  for (
    const [title, setup] of [
      ["dense sinks", { model: inShards(4) }],
      ["lazy sinks", { model: inShards(4), training: { optimizer: lazy } }],
      ["documents in rows", { model: inShards(4), training: { optimizer: lazy },
        data: { repeatedSequences: 0, singleSequences: "all", packing: "documents", seqLen: 64, segmentAlignment: 8,
          identity: "document" } }],
      ["sinks by coins", { model: inShards(4, { assignment: "bernoulli", block: 8 }), training: { optimizer: lazy } }],
      ["sinks left out", { model: inShards(4, { block: 8 }),
        training: { optimizer: lazy, sinkDropout: new SinkDropout({ sequences: 0.3, units: 0.3 }) } }],
      ["routed gradients", { model: inShards(4), training: { optimizer: lazy, routing: "sgtm" } }]
    ] satisfies ReadonlyArray<readonly [string, Setup]>
  ) {
    it.effect(`with sinks of their own learn what one learns, to rounding, and no sink travels: ${title}`, () =>
      Effect.gen(function*() {
        const alone = yield* train(setup, yield* memory)
        const whole = { ...setup,
          model: new ModelConfig({ ...setup.model, sinks: new SinkConfig({ pool: 128, active: 16 }) }) }
        const everything = title === "lazy sinks" ? yield* trainTogether(2, whole, yield* memory) : undefined
        for (const size of title === "lazy sinks" ? [2, 4] : [2]) {
          const [first, second] = yield* trainTogether(size, setup, yield* memory)
          expect(losses(first!.told)).toHaveLength(6)
          expect(far(losses(first!.told), losses(alone.told))).toBeLessThan(2e-5)
          // rank 0 has all of them at the end
          expect(far(bits(first!.weights).flat(), bits(alone.weights).flat())).toBeLessThan(2e-3)
          // the others have their own, and the rest of the model
          const name = "model.embed_tokens.weight"
          expect(second!.weights[name]).toEqual(first!.weights[name])
          if (size > 2) continue
          if (everything !== undefined) {
            expect(first!.exchanged!.bytes).toBeLessThan(0.9 * everything[0]!.exchanged!.bytes)
          }
          const [again] = yield* trainTogether(size, setup, yield* memory)
          expect(bits(again!.weights)).toEqual(bits(first!.weights))
        }
      }))
  }

  it.effect("with sinks of their own go on at another number that divides the shards, from checkpoints that hold all", () =>
    Effect.gen(function*() {
      const training = { optimizer: lazy, saveEvery: 2 }
      const setup: Setup = { model: inShards(4), training }
      const alone = yield* train(setup, yield* memory)
      const kept = yield* memory
      const until = (step: number) => ({ ...setup, observer: behind(step, Effect.interrupt) })
      yield* Effect.flip(trainTogether(2, until(2), kept).pipe(Effect.sandbox))
      yield* Effect.flip(train(until(3), kept).pipe(Effect.sandbox))
      // one that looks at nothing is interrupted, all of them give theirs to what is saved
      const exits = yield* Effect.forEach(ranksInProcess(4), (collective) =>
        Effect.flatMap(memory, (own) =>
          Effect.exit(
            train({ model: setup.model!, training: { optimizer: lazy } }, collective.rank === 0 ? kept : own,
              collective, (event) =>
              event._tag === "Stepped" && event.step === 4 && collective.rank === 3 ? Effect.interrupt : Effect.void)
          )), { concurrency: "unbounded" })
      expect(exits.map(Exit.isInterrupted)).toEqual([true, true, true, true])
      const steps = (yield* Effect.flatMap(Effect.provide(Checkpoints, kept), ({ list }) =>
        list)).map(({ step }) =>
          step
        )
      expect(steps.slice(0, 2)).toEqual([2, 3])
      expect([4, 5]).toContain(steps.at(-1))
      const [last] = yield* trainTogether(2, setup, kept)
      expect(last!.told[0]).toMatchObject({ _tag: "Started", step: steps.at(-1) })
      expect(far(losses(last!.told), losses(alone.told).slice(steps.at(-1)))).toBeLessThan(2e-5)
      expect(far(bits(last!.weights).flat(), bits(alone.weights).flat())).toBeLessThan(2e-3)
    }))

  it.effect("with sinks of their own show all of them to who looks at the model, and keep all of them in checkpoints", () =>
    Effect.gen(function*() {
      const setup: Setup = { model: inShards(2), training: { optimizer: lazy, evalEvery: 3, saveLogSpaced: true } }
      const evaluated = (told: ReadonlyArray<TrainEvent>) =>
        told.flatMap((event) => event._tag === "Evaluated" ? Object.values(event.losses) : [])
      const alone = yield* train(setup, yield* memory)
      const kept = yield* memory
      const [first] = yield* trainTogether(2, setup, kept)
      expect(evaluated(first!.told)).toHaveLength(8)
      expect(far(evaluated(first!.told), evaluated(alone.told))).toBeLessThan(1e-4)
      const saved = yield* Effect.flatMap(Effect.provide(Checkpoints, kept), ({ list }) => list)
      expect(saved.map(({ step }) => step)).toEqual([0, 1, 2, 4, 6])
    }))

  it.effect("with sinks of their own have memory for these alone, and for their gradients and moments", () =>
    Effect.gen(function*() {
      const model = inShards(4)
      const device = yield* Device
      const sinkBytes = 4 * 3 * model.numHiddenLayers * model.pool * model.hiddenSize
      const took = (collective: CollectiveService | undefined) =>
        Effect.gen(function*() {
          const before = device.counters.bytes
          const made = yield* Model.make(model, { divided: true })
          const weights = device.counters.bytes - before
          const { optimizer } = yield* makeTrainStep({ optimizer: lazy, steps: 1, window: 1,
            parameters: made.parameters })
            .pipe(Effect.provideService(Model, made))
          const ofSinks = optimizer.moments.filter(({ parameter }) => parameter.sinkRow0 !== undefined)
          return {
            weights,
            training: device.counters.bytes - before - weights,
            moments: ofSinks.reduce((sum, { m, v }) => sum + Tensor.byteLength(m) + Tensor.byteLength(v), 0),
            plan: memoryPlan(model, { rows: 2, seqLen: 16 }, { optimizer: lazy, ranks: collective?.size ?? 1 })
          }
        }).pipe(Effect.scoped, (all) =>
          collective === undefined ? all : Effect.provideService(all, Collective, collective))
      const whole = yield* took(undefined)
      const dense = whole.weights - sinkBytes
      const denseMoments = whole.moments - 2 * sinkBytes
      const two = yield* Effect.forEach(ranksInProcess(2), took)
      const four = yield* Effect.forEach(ranksInProcess(4), took)
      for (const [size, ranks] of [[2, two], [4, four]] as const) {
        for (const one of ranks) {
          expect(one.weights).toBe(dense + sinkBytes / size)
          expect(one.moments).toBe(denseMoments + 2 * sinkBytes / size)
          expect(one.plan.weights).toBe(whole.plan.weights - sinkBytes * (1 - 1 / size))
          expect(one.plan.optimizer).toBe(whole.plan.optimizer - 2 * sinkBytes * (1 - 1 / size))
        }
      }
      // gradients and two moments; what tells touched units has buffers of the least size there is
      for (const [i, { training }] of four.entries()) {
        expect(two[i % 2]!.training - training).toBe(3 * sinkBytes / 4)
      }
    }))

  it.effect("with sinks of their own say that others' are not there, rather than to compute without", () =>
    Effect.gen(function*() {
      const model = inShards(2)
      const whole = yield* Effect.flip(
        Effect.forEach(ranksInProcess(2), (collective) =>
          Effect.flatMap(memory, (own) => train({ model }, own, collective, undefined, false)), {
          concurrency: "unbounded"
        })
      )
      expect(whole.message).toContain(
        "model.sinks.shards is 2, and 2 ranks share them out: make the Model with divided"
      )
      const two = yield* Effect.flip(
        Effect.forEach(ranksInProcess(2), (collective) =>
          Effect.flatMap(memory, (own) => train({ model, seed: 5 + collective.rank }, own, collective)), {
          concurrency: "unbounded"
        })
      )
      expect(two.message).toContain("rank 1 (host1) begins with other weights than rank 0")
      const own = yield* Effect.provideService(Model.make(model, { divided: true }), Collective, ranksInProcess(2)[1]!)
      const idOf = (shard: number) =>
        [...Array(64).keys()].map(BigInt).find((id) =>
          shardOf(model.sinks!, id) === shard
        )!
      const row = (id: bigint) => ({ tokens: Uint32Array.of(1, 2, 3, 4, 5), id, document: "one", offset: 0 })
      expect((yield* own.evaluate(batchOf([row(idOf(1))], 4), { mode: "own" })).loss.every(Number.isFinite)).toBe(true)
      expect((yield* own.evaluate(batchOf([row(idOf(0))], 4), { mode: "off" })).loss.every(Number.isFinite)).toBe(true)
      for (const mode of [{ mode: "own" }, { mode: "all" }] as const) {
        const error = yield* Effect.flip(own.evaluate(batchOf([row(idOf(0))], 4), mode))
        expect(error.message).toMatch(/lights unit \d of the pool, and units 4 to 7 are here/)
      }
      expect((yield* Effect.flip(own.exportTensors)).message).toContain("units 4 to 7 of the pool's 8 are here")
      const uneven = Effect.provideService(Model.make(model, { divided: true }), Collective, ranksInProcess(4)[0]!)
      expect((yield* Effect.flip(uneven)).message).toContain("model.sinks.shards is 2, and 4 ranks share them out")
    }).pipe(Effect.scoped))

  it.effect("with sinks of their own begin with what rank 0 imported", () =>
    Effect.gen(function*() {
      const model = inShards(4)
      const device = yield* Device
      const tensors = yield* Effect.scoped(
        Effect.flatMap(Model.make(model, { seed: 9 }), ({ exportTensors }) => exportTensors)
      )
      const [gathered] = yield* Effect.forEach(ranksInProcess(4), (collective) =>
        Effect.gen(function*() {
          const own = yield* Model.make(model, { divided: true })
          const given = collective.rank === 0 ? tensors : undefined
          if (given !== undefined) yield* own.importTensors(given)
          yield* Sharding.dealInitial(collective, device, own, given)
          const held = own.parameters.filter(({ sinkRow0 }) => sinkRow0 !== undefined)
            .map((parameter) => ({ parameter, tensor: parameter.value }))
          const all = yield* Sharding.gather(collective, device, own, held)
          const embedding = (yield* device.read(own.handles.embed.value)) as Float32Array
          expect(embedding).toEqual(tensors["model.embed_tokens.weight"]!.data)
          return held.flatMap(({ parameter: { name }, tensor }) =>
            all.has(tensor) ? toHuggingFace(model, name, all.get(tensor)!) : []
          )
        }).pipe(Effect.scoped, Effect.provideService(Collective, collective)), { concurrency: "unbounded" })
      expect(gathered).toHaveLength(3 * model.numHiddenLayers)
      for (const [name, { data }] of gathered!) expect(data, name).toEqual(tensors[name]!.data)
    }))

  it.effect("with sinks of their own add up the dense part in a step, and nothing else of size", () =>
    Effect.gen(function*() {
      const model = inShards(2)
      const dense = model.numParameters - 3 * model.numHiddenLayers * model.pool * model.hiddenSize
      let bytes = 0
      const [first, second] = ranksInProcess(2)
      const counting: CollectiveService = {
        ...first!,
        allReduce: (values) => {
          bytes += values.byteLength
          return first!.allReduce(values)
        }
      }
      yield* Effect.forEach([counting, second!], (collective) =>
        Effect.flatMap(memory, (own) => train({ model, training: { steps: 3 } }, own, collective)), {
        concurrency: "unbounded"
      })
      // besides losses, squares of sinks' gradients, and votes
      expect(bytes / 3).toBe(62_984)
      expect(bytes / 3 - 4 * dense).toBe(1160)
    }))

  it.effect("tell shards that they cannot share out", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(
        trainTogether(4, { model: inShards(2) }, yield* memory)
      )
      expect(error.message).toContain("model.sinks.shards is 2, and 4 ranks share them out")
    }))
})
