import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { expect } from "vitest"
import { Device } from "../src/gpu/Device.ts"
import { Model } from "../src/Model.ts"
import { ModelConfig } from "../src/ModelConfig.ts"
import * as NodeDevice from "../src/node.ts"
import { learningRateAt, OptimizerConfig } from "../src/Optimizer.ts"
import * as Segments from "../src/Segments.ts"
import * as Sink from "../src/Sink.ts"
import { makeTuner, type TunerOptions } from "../src/Tuner.ts"
import { expectClose } from "./reference/compare.ts"
import * as Reference from "./reference/model.ts"
import { makeRandom } from "./reference/random.ts"
import { batchOfDocuments, miniatureModel, referenceConfig } from "./support.ts"

const config = new ModelConfig({ ...miniatureModel, vocabSize: 61, numHiddenLayers: 2 })
const { hiddenSize: d, general } = config

/** Batches of ragged documents whose ids return. */
const batches = (() => {
  const random = makeRandom(3)
  return Array.from({ length: 3 }, () =>
    batchOfDocuments([[[6, 1n], [10, 2n]], [[16, 3n]]], 16, config.vocabSize, random))
})()

const optimizer = new OptimizerConfig({ learningRate: 1e-2, gradClip: 0.5 })
const shape = { rows: 2, seqLen: 16, maxSegments: 3, steps: 3, optimizer } satisfies TunerOptions

const withModel = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.provide(effect, Model.layer(config, { seed: 5 }))

/** All parameters by name. */
const weights = Effect.gen(function*() {
  const device = yield* Device
  const model = yield* Model
  const out: Record<string, Float32Array> = {}
  for (const { name, value } of model.parameters) out[name] = (yield* device.read(value)) as Float32Array
  return out
})

const bits = (data: Float32Array) => Buffer.from(data.buffer, data.byteOffset, data.byteLength)
const same = (a: Float32Array, b: Float32Array) => bits(a).equals(bits(b))

/** The rows of general neurons and those of sinks. */
const halves = (name: string, value: Float32Array) => {
  const row = (name.endsWith("gateUp") ? 2 : 1) * general * d
  return { general: value.slice(0, row), sinks: value.slice(row) }
}

const adamw = (step: number) => ({
  lr: learningRateAt(optimizer, step, shape.steps),
  beta1: 0.9,
  beta2: 0.95,
  eps: 1e-8,
  weightDecay: 0.1,
  clip: 0.5
})

layer(NodeDevice.layer())("a tuner", (it) => {
  for (const [how, mode] of [
    ["own", Sink.own],
    ["off", Sink.off],
    ["all", Sink.all],
    ["own but for a deleted id", { mode: "own", except: [2n] }]
  ] as const) {
    it.effect(`follows the float64 reference in token losses, norm and weights, sinks ${how}`, () =>
      Effect.scoped(Effect.gen(function*() {
        const before = yield* weights
        const tuner = yield* makeTuner({ ...shape, mode })
        let state = Reference.initialState(
          Object.fromEntries(Object.entries(before).map(([name, value]) => [name, Float64Array.from(value)]))
        )
        for (const [i, batch] of batches.entries()) {
          const segments = Segments.segmentsOf(batch)
          const coef = Float64Array.from(Segments.maskedCoefficients(config.sinks, general, mode, segments, 3))
          const forward = Reference.forward(referenceConfig(config), state.params, batch, coef, segments.segment)
          const want = Reference.trainStep(referenceConfig(config), state, batch, coef, segments.segment, adamw(i))
          const got = yield* tuner.step(batch)
          expectClose(got.loss, forward.tokenLoss, { name: "token losses", rtol: 1e-3, atol: 1e-4 })
          expectClose([got.gradNorm], [want.gradNorm], { name: "gradient norm", rtol: 1e-3 })
          state = want.state
        }
        const after = yield* weights
        for (const [name, value] of Object.entries(after)) {
          // in mode off the reference decays sinks, the tuner leaves them alone
          const off = mode.mode === "off" && /gateUp|down/.test(name)
          const [got, want] = off
            ? [halves(name, value).general, halves(name, Float32Array.from(state.params[name]!)).general]
            : [value, state.params[name]!]
          expectClose(got, want, { name, rtol: 1e-2, atol: 2e-3 })
        }
        expect(Math.max(...after.embed!.map((x, i) => Math.abs(x - before.embed![i]!)))).toBeGreaterThan(0.01)
      })).pipe(withModel))
  }

  for (const [how, options] of [
    ["in mode off", { mode: Sink.off }],
    ["without updates of sinks", { update: { sinks: false } }]
  ] as const) {
    it.effect(`${how}: sinks keep every bit, decay and momentum included, and all else moves`, () =>
      Effect.scoped(Effect.gen(function*() {
        const before = yield* weights
        const tuner = yield* makeTuner({ ...shape, ...options })
        for (const batch of batches) yield* tuner.step(batch)
        for (const [name, value] of Object.entries(yield* weights)) {
          if (!/gateUp|down/.test(name)) {
            expect(same(value, before[name]!), name).toBe(false)
            continue
          }
          expect(same(halves(name, value).sinks, halves(name, before[name]!).sinks), `sinks of ${name}`).toBe(true)
          expect(same(halves(name, value).general, halves(name, before[name]!).general), name).toBe(false)
        }
      })).pipe(withModel))
  }

  it.effect("trains only what it is told to, and measures the gradient of nothing else", () =>
    Effect.scoped(Effect.gen(function*() {
      const before = yield* weights
      const all = yield* Effect.scoped(Effect.flatMap(makeTuner(shape), (tuner) => tuner.step(batches[0]!)))
      const device = yield* Device
      for (const { name, value } of (yield* Model).parameters) device.write(value, before[name]!)
      const tuner = yield* makeTuner({ ...shape, trainable: (name) => name === "layers.1.down" })
      const { gradNorm } = yield* tuner.step(batches[0]!)
      expect(gradNorm).toBeGreaterThan(0)
      expect(gradNorm).toBeLessThan(0.9 * all.gradNorm)
      const after = yield* weights
      expect(Object.keys(after).filter((name) => !same(after[name]!, before[name]!))).toEqual(["layers.1.down"])
      const none = yield* Effect.flip(makeTuner({ ...shape, trainable: () => false }))
      expect(none.message).toMatch(/trainable leaves no parameter to train: the model's are embed, .*norm/)
    })).pipe(withModel))

  it.effect("starts afresh on a model that another tuner has trained, and frees its memory", () =>
    Effect.gen(function*() {
      const device = yield* Device
      const model = yield* Model
      const before = yield* weights
      const restore = Effect.sync(() => {
        for (const { name, value } of model.parameters) device.write(value, before[name]!)
      })
      const tune = Effect.scoped(Effect.gen(function*() {
        const tuner = yield* makeTuner(shape)
        const steps = []
        for (const batch of batches) steps.push(yield* tuner.step(batch))
        return steps
      }))
      const first = yield* tune
      const [trained, bytes] = [yield* weights, device.counters.bytes]
      yield* restore
      const second = yield* tune
      expect(second).toEqual(first)
      const again = yield* weights
      for (const [name, value] of Object.entries(trained)) expect(same(value, again[name]!), name).toBe(true)
      expect(device.counters.bytes).toBe(bytes)
    }).pipe(withModel))

  it.effect("says which batch it cannot take, and when training diverges", () =>
    Effect.scoped(Effect.gen(function*() {
      const narrow = yield* makeTuner({ rows: 2, seqLen: 8, steps: 1, optimizer })
      expect((yield* Effect.flip(narrow.step(batches[0]!))).message).toContain("a batch of 2 rows of 16 tokens")
      const wild = yield* makeTuner({
        ...shape,
        optimizer: new OptimizerConfig({ learningRate: 1e30, warmupSteps: 0, gradClip: 0, weightDecay: 0 })
      })
      const diverged = yield* Effect.flip(Effect.forEach(batches, (batch) => wild.step(batch)))
      expect(diverged._tag).toBe("Diverged")
    })).pipe(withModel))
})
