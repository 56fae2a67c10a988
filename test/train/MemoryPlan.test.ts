import { layer } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { describe, expect, it as test } from "vitest"
import { Checkpoints } from "../../src/checkpoints/Checkpoints.ts"
import { keptBytes } from "../../src/collective/Group.ts"
import { ranksInProcess } from "../../src/collective/InProcess.ts"
import type { DataConfigInput } from "../../src/data/stream/DataStream.ts"
import { DataError, type DeviceError } from "../../src/Errors.ts"
import { Device, type Limits } from "../../src/gpu/Device.ts"
import * as Program from "../../src/gpu/Program.ts"
import { portable } from "../../src/gpu/Target.ts"
import * as Tensor from "../../src/gpu/Tensor.ts"
import { Model, type ModelOptions } from "../../src/model/Model.ts"
import { ModelConfig, presets } from "../../src/model/ModelConfig.ts"
import { listParameters, parametersOf } from "../../src/model/Parameters.ts"
import * as NodeDevice from "../../src/node.ts"
import { DiLoCoConfig, fragmentsOf, makeOuter, outerBytes } from "../../src/train/DiLoCo.ts"
import { makeExchange } from "../../src/train/Exchange.ts"
import { checkFits, checkTraining, type Fit, fit, formatBytes, formatMemoryPlan, isTooLarge, memoryPlan,
  tooLarge } from "../../src/train/MemoryPlan.ts"
import * as Optimizer from "../../src/train/Optimizer.ts"
import type { RoutingName } from "../../src/train/Routing.ts"
import { TrainConfig, Trainer } from "../../src/train/Trainer.ts"
import { miniatureData, miniatureModel } from "../support/support.ts"

layer(NodeDevice.layer())("the memory plan", (it) => {
  const wider = new ModelConfig({ ...miniatureModel, hiddenSize: 128, intermediateSize: 256 + 64, numHiddenLayers: 3 })
  for (const [name, config, options] of [
    ["a miniature", miniatureModel, {}],
    ["a wider model", wider, {}],
    ["a wider model that recomputes its blocks", wider, { recompute: true }],
    ["a wider model that computes the whole pool", wider, { compute: "masked" }]
  ] as const) {
    it.scoped(`says within 5 % what the device really allocates for ${name}`, () =>
      Effect.gen(function*() {
        const device = yield* Device
        const before = device.counters.bytes
        const trainer = yield* Trainer.pipe(
          Effect.provide(yield* Layer.build(
            Trainer.layer(new TrainConfig({ steps: 2 })).pipe(
              Layer.provide(Model.layer(config, options)),
              Layer.provide(miniatureData()),
              Layer.provide(Checkpoints.layerMemory)
            )
          ))
        )
        const allocated = device.counters.bytes - before
        const plan = memoryPlan(config, { rows: 2, seqLen: 16, ...options }, { target: device.target })
        expect(plan.peak / allocated).toBeGreaterThan(0.95)
        expect(plan.peak / allocated).toBeLessThan(1.05)
        expect(plan.peak).toBe(plan.weights + plan.gradients + plan.optimizer + plan.activations + plan.other)
        yield* Stream.runDrain(trainer.run)
      }))
  }

  it.effect("needs no adapter for the largest preset", () =>
    Effect.sync(() => {
      const plan = memoryPlan(presets["smol-1.7b"], { rows: 1, seqLen: 128 })
      expect(plan.weights / 4).toBeCloseTo(presets["smol-1.7b"].numParameters, -3)
      expect(plan.optimizer).toBe(2 * plan.weights)
      expect(plan.gradients).toBe(plan.weights)
      expect(plan.largest.bytes).toBe(49152 * 2048 * 4)
      expect(formatMemoryPlan(plan)).toMatch(/^weights +6\.\d\d GiB\n[\s\S]*\nlargest buffer: /)
    }))
})

// the null device computes nothing, but allocates, and has f16
layer(NodeDevice.layer({ adapter: "null" }))("the memory plan, on a device with every feature,", (it) => {
  const wide = new ModelConfig({ ...miniatureModel, hiddenSize: 128, numHiddenLayers: 3 }).withPool(4096)
  const planned = (config: ModelConfig, options: ModelOptions, gradientAccumulation = 1, routing?: RoutingName) =>
    Effect.gen(function*() {
      const device = yield* Device
      expect([...device.features]).toContain("shader-f16")
      const before = device.counters.bytes
      yield* Layer.build(
        Trainer.layer(new TrainConfig({ steps: 2, gradientAccumulation, routing })).pipe(
          Layer.provide(Model.layer(config, options)),
          Layer.provide(miniatureData()),
          Layer.provide(Checkpoints.layerMemory)
        )
      )
      const shape = { rows: 2, seqLen: 16, ...options }
      const plan = memoryPlan(config, shape, { target: device.target, gradientAccumulation, routing })
      expect(plan.peak).toBe(device.counters.bytes - before)
      return plan
    })

  it.scoped("says to the byte what is allocated in f32, f16, and with recomputed blocks, which take less", () =>
    Effect.gen(function*() {
      const f32 = yield* planned(wide, {})
      const recomputed = yield* planned(wide, { recompute: true })
      expect(recomputed.activations).toBeLessThan(f32.activations)
      const f16 = yield* planned(wide, { precision: "f16" })
      // packed weights and activations of half the size; weights, gradients and moments stay f32
      expect(f16.activations).toBeLessThan(f32.activations)
      expect([f16.weights, f16.gradients, f16.optimizer]).toEqual([f32.weights, f32.gradients, f32.optimizer])
    }))

  it.scoped("says to the byte what ranks take to exchange gradients, and DiLoCo to keep parameters", () =>
    Effect.gen(function*() {
      const device = yield* Device
      const { target } = device
      const parameters = listParameters(parametersOf(wide))
      const optimizer = Optimizer.record(new Optimizer.OptimizerConfig(), wide, parameters, Tensor.make("hyper", [16]),
        10, {
        target,
        maxTouched: 2 * wide.sinks!.activeUnits
      })
      yield* device.allocate(optimizer.tensors)
      const before = device.counters.bytes
      const [collective] = ranksInProcess(2)
      yield* makeExchange(collective!, optimizer, Program.record("pass", target).finish())
      const shape = { rows: 2, seqLen: 16 }
      const one = memoryPlan(wide, shape, { target })
      const two = memoryPlan(wide, shape, { target, ranks: 2 })
      expect(two.exchange).toBe(device.counters.bytes - before)
      // of sinks those alone that a step touches
      expect(two.exchange! / one.gradients).toBeLessThan(0.2)
      expect(two.peak).toBe(one.peak + two.exchange!)
      expect([one.exchange, one.host]).toEqual([undefined, undefined])

      for (const config of [{}, { fragments: 3, fragmentSyncDelay: 40 }]) {
        const diloco = new DiLoCoConfig({ syncEvery: 60, ...config })
        const { kept } = makeOuter(diloco, collective!, device, optimizer, 100)
        const held = kept.reduce((sum, { met, momentum }) => sum + met.byteLength + momentum.byteLength, 0)
        const sizes = kept.map(({ met }) => met.length)
        expect(outerBytes(diloco, sizes).kept).toBe(held)
        const [largest, ...smaller] = fragmentsOf(sizes, (n) => n, 3).map((part) => part.reduce((a, b) => a + b, 0))
          .sort((a, b) => b - a) as [number, number, number]
        const moved = 4 * ("fragments" in config ? largest + smaller[0]! + smaller[1]! : Math.max(...sizes))
        expect(outerBytes(diloco, sizes).moved).toBe(moved)
        const plan = memoryPlan(wide, shape, { target, diloco: { config: diloco, ranks: 2 } })
        expect(plan.host).toBe(held + moved + keptBytes(2, "f32", Math.max(...sizes)))
        expect(plan.peak).toBe(one.peak)
      }
    }))

  it.scoped("says to the byte what the two passes of a routing take", () =>
    Effect.gen(function*() {
      const one = yield* planned(wide, {})
      for (const routing of ["gradientMasking", "sgtm"] as const) {
        const two = yield* planned(wide, {}, 1, routing)
        expect(two.activations).toBeGreaterThan(1.5 * one.activations)
      }
    }))

  it.scoped("refuses an arm by its own training: two passes where one would fit", () =>
    Effect.gen(function*() {
      const device = yield* Device
      const data = { batchSize: 2, seqLen: 16, maxSegments: 2 }
      const limited = (buffer: number) => ({
        ...device,
        limits: { ...device.limits, maxBufferSize: buffer, maxStorageBufferBindingSize: buffer }
      })
      const training = new TrainConfig({ steps: 2 })
      const { largest } = memoryPlan(wide, { rows: 2, seqLen: 16, maxSegments: 2 }, { target: device.target })
      yield* checkTraining(wide, data, limited(largest.bytes), training, {})
      for (const routing of ["gradientMasking", "sgtm"] as const) {
        const refused = yield* Effect.flip(
          checkTraining(wide, data, limited(largest.bytes - 1), new TrainConfig({ ...training, routing }), {})
        )
        const { peak } = memoryPlan(wide, { rows: 2, seqLen: 16, maxSegments: 2 }, { target: device.target, routing })
        // what it would take is that of two passes
        expect(refused.message).toContain(`peak`.padEnd(12) + formatBytes(peak).padStart(12))
      }
    }))

  it.scoped("counts the units that the batches of a step light, and no others", () =>
    Effect.gen(function*() {
      const one = yield* planned(wide, {})
      const eight = yield* planned(wide, {}, 8)
      // a batch's two documents light a unit each, of four bytes; buffers come in multiples of 16
      expect(eight.other - one.other).toBe(8 * 2 * 4 - 16)
    }))
})

describe("the nearest setting that fits", () => {
  const config = miniatureModel
  const shape = { rows: 16, seqLen: 64, maxSegments: 32 }
  const unlimited = { buffer: Infinity }
  const largest = (c: ModelConfig, rows: number, seqLen: number) => memoryPlan(c, { rows, seqLen }).largest.bytes
  const peak = (c: ModelConfig, rows: number, seqLen: number) => memoryPlan(c, { rows, seqLen }).peak
  const summary = ({ nearest }: Fit) =>
    nearest && [nearest.shape.rows, nearest.gradientAccumulation, nearest.shape.seqLen, nearest.config.pool]

  test("is the one asked for where it fits", () => {
    expect(fit(config, shape, unlimited, { gradientAccumulation: 3 })).toMatchObject({
      nearest: { config, shape, gradientAccumulation: 3 },
      asAsked: true
    })
  })

  test("takes fewer rows and more batches a step, so that a step has as many tokens", () => {
    const found = fit(config, shape, { buffer: largest(config, 6, 64) }, { gradientAccumulation: 3 })
    expect(summary(found)).toEqual([6, 8, 64, 64])
    // documents a batch shrink with it
    expect(found.nearest!.shape.maxSegments).toBe(12)
    expect(found.asAsked).toBe(false)
    expect(found.sentence).toBe(
      "The nearest setting that fits: batchSize 6, gradientAccumulation 8 (3,072 tokens a step as before)."
    )
    // a byte less, and it is the next smaller number that divides 48 rows
    expect(summary(fit(config, shape, { buffer: largest(config, 6, 64) - 1 }, { gradientAccumulation: 3 }))).toEqual(
      [4, 12, 64, 64]
    )
  })

  test("keeps the peak within a memory as well", () => {
    const memory = peak(config, 8, 64) + 4096
    expect(memory).toBeLessThan(peak(config, 16, 64))
    expect(summary(fit(config, shape, { buffer: Infinity, memory }))).toEqual([8, 2, 64, 64])
  })

  test("takes shorter rows, one at a time, where one row is too long", () => {
    const wide = config.withPool(128)
    const long = new ModelConfig({ ...wide, intermediateSize: 256 + 128, hiddenSize: 8 })
    // its weights are smaller than the activations of a row of 64
    expect(largest(long, 1, 16)).toBeLessThan(largest(long, 1, 48))
    const found = fit(long, shape, { buffer: largest(long, 1, 48) })
    expect(summary(found)).toEqual([1, 22, 48, 128])
    expect(found.sentence).toMatch(/batchSize 1, seqLen 48, .* \(1,056 tokens a step instead of 1,024\)/)
  })

  test("takes the largest pool whose weights fit, and no smaller batch than that needs", () => {
    const wide = config.withPool(4096)
    const buffer = 2 * (32 + 1024) * 32 * 4
    const found = fit(wide, { rows: 2, seqLen: 16 }, { buffer })
    expect(summary(found)).toEqual([2, 1, 16, 1024])
    expect(found.sentence).toMatch(/: sinks\.pool 1024, intermediateSize 1056 \(32 tokens/)
    // both at once: logits of five rows are larger than the weights
    expect(summary(fit(wide, { rows: 64, seqLen: 64 }, { buffer }))).toEqual([4, 16, 64, 1024])
  })

  test("is none where the model's widths are too much: then it says which", () => {
    const vocabulary = new ModelConfig({ ...config, vocabSize: 4096 })
    expect(fit(vocabulary, shape, { buffer: 4096 * 32 * 4 - 1 })).toEqual({
      nearest: undefined,
      asAsked: false,
      sentence: "Nothing fits, not even one row of 16 tokens and a pool of 16 sinks: embed f32[4096, 32] takes " +
        "0.50 MiB, so that vocabSize or hiddenSize would have to shrink."
    })
    expect(fit(config, shape, { buffer: Infinity, memory: 1000 }).sentence).toMatch(
      /which takes 0\.\d\d MiB: numHiddenLayers or hiddenSize would have to shrink/
    )
  })

  test("is found at once for a batch that no grid of workgroups could hold", () => {
    const { nearest, sentence } = fit(config, { rows: 65536, seqLen: 2048 }, unlimited)
    expect(nearest!.shape.rows * nearest!.gradientAccumulation, sentence).toBe(65536)
    expect(nearest!.gradientAccumulation).toBeGreaterThan(1)
    let refusal: unknown
    try {
      memoryPlan(nearest!.config, { ...nearest!.shape, rows: 2 * nearest!.shape.rows })
    } catch (error) {
      refusal = error
    }
    expect(isTooLarge(refusal), String(refusal)).toBe(true)
  })

  test("lets through what is wrong in the planning itself: a RangeError of another kind is no refusal", () => {
    const broken = Object.create(config, { hiddenSize: { get: () => {
      throw new RangeError("of no sense")
    } } }) as ModelConfig
    expect(() => fit(broken, shape, { buffer: Infinity })).toThrow("of no sense")
    const limits = { maxBufferSize: 1, maxStorageBufferBindingSize: 1 } as Limits
    const exit = Effect.runSyncExit(checkFits(broken, shape, { name: "a device", limits, target: portable }))
    expect(Exit.isFailure(exit) && Cause.isDie(exit.cause)).toBe(true)
  })

  test("takes the processor's seconds for none of the presets", () => {
    const before = process.cpuUsage()
    const limits = { buffer: 2 ** 30, memory: 80 * 2 ** 30 }
    const found = fit(presets["smol-1.7b"], { rows: 64, seqLen: 2048 }, limits)
    const { system, user } = process.cpuUsage(before)
    expect(summary(found)).toEqual([4, 16, 2048, 0])
    expect((user + system) / 1e6).toBeLessThan(5)
  })
})

test("tensors above a limit are listed once for all layers, the largest first", () => {
  const config = new ModelConfig({ ...miniatureModel, numHiddenLayers: 3 })
  const plan = memoryPlan(config, { rows: 1, seqLen: 16 })
  expect(tooLarge(plan, 192 * 32 * 4).map(({ name }) => name)).toEqual(["embed", "embed.transposed"])
  expect(tooLarge(plan, 192 * 32 * 4 - 1).map(({ name }) => name)).toEqual([
    "embed",
    "embed.transposed",
    "layers.*.gateUp"
  ])
  expect(tooLarge(plan, plan.largest.bytes)).toEqual([])
})

layer(NodeDevice.layer({ adapter: "null" }))("a run that exceeds its adapter", (it) => {
  /** Builds model and trainer on the null device, which claims that its buffers hold so much. */
  const refusal = (config: ModelConfig, data: DataConfigInput, buffer: number) =>
    Effect.gen(function*() {
      const own = yield* Device
      const device = { ...own, limits: { ...own.limits, maxStorageBufferBindingSize: buffer } }
      const model = yield* Layer.build(Model.layer(config)).pipe(Effect.provideService(Device, device))
      const before = { ...device.counters }
      const error = yield* Layer.build(Trainer.layer(new TrainConfig({ steps: 2, gradientAccumulation: 3 }))).pipe(
        Effect.provide(model),
        Effect.provide(miniatureData(data)),
        Effect.provide(Checkpoints.layerMemory),
        Effect.provideService(Device, device),
        Effect.flip
      )
      expect(device.counters).toEqual(before)
      return error
    })

  it.scoped("is refused before it takes memory: what is too large, the whole, and what would fit", () =>
    Effect.gen(function*() {
      const error = (yield* refusal(miniatureModel, { batchSize: 8 }, 32 * 1024)) as DeviceError
      expect(error).toMatchObject({ _tag: "DeviceError", reason: "Limit" })
      expect(error.message).toMatch(
        /^a batch of 8 rows of 16 tokens does not fit null backend, whose .* hold 0\.03 MiB/
      )
      expect(error.message).toMatch(/^layers\.\*\.gate_up f32\[128, 96\] +48\.0 KiB +32\.0 KiB$/m)
      expect(error.message).toMatch(/^activations +0\.\d\d MiB$/m)
      expect(error.message).toMatch(
        /^The nearest setting that fits: batchSize 2, gradientAccumulation 12 \(384 tokens a step as before\)\./m
      )
    }))

  it.scoped("is refused as a matter of data where rows are longer than the model's context", () =>
    Effect.gen(function*() {
      const config = new ModelConfig({ ...miniatureModel, maxPositionEmbeddings: 8 })
      const error = yield* refusal(config, {}, 2 ** 27)
      expect(error).toBeInstanceOf(DataError)
      expect(error.message).toBe("rows of 16 tokens exceed the model's maxPositionEmbeddings of 8")
    }))

  it.scoped("is refused with the largest pool that fits where its sinks are too many", () =>
    Effect.gen(function*() {
      const device = yield* Device
      const before = { ...device.counters }
      const refused = (config: ModelConfig) =>
        Effect.map(Effect.flip(Layer.build(Model.layer(config))), (error) => error.message)
      // gate and up of 2^19 neurons of width 32 fill the 128 MiB of the null backend
      expect(yield* refused(miniatureModel.withPool(2 ** 20))).toMatch(
        /gateUp f32\[2097216, 32\][\s\S]*weights fit with sinks\.pool 524256 and intermediateSize 524288 \[/
      )
      // no pool helps against a vocabulary
      const vocabulary = new ModelConfig({ ...miniatureModel, vocabSize: 2 ** 21 })
      expect(yield* refused(vocabulary)).not.toContain("sinks.pool")
      expect(yield* refused(new ModelConfig({ ...vocabulary.withPool(2 ** 20) }))).not.toContain("sinks.pool")
      expect(device.counters).toEqual(before)
    }))

  test("says of a vocabulary beyond a kernel's grid that it has to shrink", () => {
    const config = new ModelConfig({ ...presets.tiny, vocabSize: 600_000 })
    const { nearest, sentence } = fit(config, { rows: 4, seqLen: 64 }, { buffer: Infinity })
    expect(nearest).toBeUndefined()
    expect(sentence).toMatch(
      /^Nothing fits, not even one row of 16 tokens: .* exceeds 65535, so that vocabSize .* shrink\.$/
    )
  })
})
