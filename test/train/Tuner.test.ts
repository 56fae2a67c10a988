import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { expect } from "vitest"
import { IGNORE } from "../../src/Batch.ts"
import { Device } from "../../src/gpu/Device.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as Segments from "../../src/model/Segments.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Sink from "../../src/Sink.ts"
import { learningRateAt, OptimizerConfig } from "../../src/train/Optimizer.ts"
import { makeTuner, type TunerOptions, type TunerTargets } from "../../src/train/Tuner.ts"
import { expectClose } from "../reference/compare.ts"
import * as Reference from "../reference/model.ts"
import { globalNorm } from "../reference/ops.ts"
import { makeRandom } from "../reference/random.ts"
import { batchOfDocuments, miniatureModel, referenceConfig } from "../support/support.ts"

const config = new ModelConfig({ ...miniatureModel, vocabSize: 61, numHiddenLayers: 2 })
const { hiddenSize: d, general } = config

/** Batches of ragged documents whose ids return. */
const batches = (() => {
  const random = makeRandom(3)
  return Array.from({ length: 3 },
    () => batchOfDocuments([[[6, 1n], [10, 2n]], [[16, 3n]]], 16, config.vocabSize, random))
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

  /** Weights of both signs. */
  const signed = Float32Array.from({ length: 32 }, (_, t) => 0.1 * Math.sin(t))

  it.effect("descends the weighted sum of losses as the float64 reference does", () =>
    Effect.scoped(Effect.gen(function*() {
      let state = Reference.initialState(
        Object.fromEntries(Object.entries(yield* weights).map(([name, value]) => [name, Float64Array.from(value)]))
      )
      const tuner = yield* makeTuner({ ...shape, head: "weighted" })
      for (const [i, batch] of batches.entries()) {
        const segments = Segments.segmentsOf(batch)
        const coef = Float64Array.from(Segments.maskedCoefficients(config.sinks, general, Sink.own, segments, 3))
        const { tokenLoss } = Reference.forward(referenceConfig(config), state.params, batch, coef, segments.segment)
        const want = Reference.trainStep(referenceConfig(config), state, batch, coef, segments.segment, {
          ...adamw(i),
          weights: signed
        })
        const got = yield* tuner.step(batch, { weights: signed })
        expectClose(got.loss, tokenLoss, { name: "token losses, unweighted", rtol: 1e-3, atol: 1e-4 })
        expectClose([got.gradNorm], [want.gradNorm], { name: "gradient norm", rtol: 1e-3 })
        state = want.state
      }
      for (const [name, value] of Object.entries(yield* weights)) {
        expectClose(value, state.params[name]!, { name, rtol: 1e-2, atol: 2e-3 })
      }
    })).pipe(withModel))

  it.effect("weights of one over the scored tokens are no weights, bit for bit; negative ones raise the loss", () =>
    Effect.gen(function*() {
      // as many as a power of two, so that nothing is rounded whichever comes first: times one over them, or else
      let left = 16
      const targets = batches[0]!.targets.map((target) => target !== IGNORE && left-- > 0 ? target : IGNORE)
      const batch = { ...batches[0]!, targets }
      const after = (head: "crossEntropy" | "weighted", weight?: number) =>
        Effect.scoped(Effect.gen(function*() {
          const tuner = yield* makeTuner({ ...shape, head })
          const targets = weight === undefined ? {} : { weights: new Float32Array(32).fill(weight) }
          const losses: Array<number> = []
          for (let i = 0; i < 3; i++) losses.push((yield* tuner.step(batch, targets)).loss.reduce((a, b) => a + b))
          return { losses, weights: yield* weights }
        })).pipe(withModel)
      const plain = yield* after("crossEntropy")
      const mean = 1 / 16
      for (const other of [yield* after("weighted", mean), yield* after("weighted")]) {
        expect(other.losses).toHaveLength(3)
        expect(other.losses).toEqual(plain.losses)
        for (const [name, value] of Object.entries(plain.weights)) {
          expect(same(value, other.weights[name]!), name).toBe(true)
        }
      }
      expect(plain.losses[2]).toBeLessThan(plain.losses[0]!)
      const { losses: raised } = yield* after("weighted", -mean)
      expect(raised[0]).toBe(plain.losses[0])
      expect(raised[1]).toBeGreaterThan(raised[0]!)
      expect(raised[2]).toBeGreaterThan(raised[1]!)
    }))

  it.effect("learns soft targets, one-hot ones as hard ones, and hidden ones by their mean square", () =>
    Effect.gen(function*() {
      const batch = batches[0]!
      const { vocabSize } = config
      const run = (options: Partial<TunerOptions>, targets: TunerTargets) =>
        Effect.scoped(Effect.gen(function*() {
          const before = yield* weights
          const { gradNorm, loss } = yield* Effect.flatMap(
            makeTuner({ ...shape, ...options }),
            (tuner) => tuner.step(batch, targets)
          )
          return { before, gradNorm, loss, after: yield* weights }
        })).pipe(withModel)
      const hot = new Float32Array(32 * vocabSize)
      batch.targets.forEach((target, t) => {
        if (target !== IGNORE) hot[t * vocabSize + target] = 1
      })
      const hard = yield* run({}, {})
      const soft = yield* run({ head: "soft" }, { soft: hot })
      expectClose(soft.loss, hard.loss, { name: "loss of one-hot targets", rtol: 1e-4, atol: 1e-5 })
      expectClose([soft.gradNorm], [hard.gradNorm], { name: "norm of one-hot targets", rtol: 1e-4 })

      const params = Object.fromEntries(
        Object.entries(hard.before).map(([name, value]) => [name, Float64Array.from(value)])
      )
      const segments = Segments.segmentsOf(batch)
      const coef = Float64Array.from(Segments.maskedCoefficients(config.sinks, general, Sink.own, segments, 3))
      const pass = Reference.forward(referenceConfig(config), params, batch, coef, segments.segment)
      const gradNorm = (aim: Reference.Forward) =>
        globalNorm(
          Object.values(Reference.backward(referenceConfig(config), params, batch, coef, segments.segment, aim))
        )
      const q = Float32Array.from(hot, (_, i) => 0.02 + 0.01 * Math.sin(i))
      const spread = Reference.soft(pass, batch, q, signed)
      const spreading = yield* run({ head: "soft" }, { soft: q, weights: signed })
      expectClose(spreading.loss, spread.tokenLoss, { name: "loss of soft targets", rtol: 1e-4, atol: 1e-5 })
      expectClose([spreading.gradNorm], [gradNorm(spread)], { name: "norm of soft targets", rtol: 1e-3 })

      const hidden = Float32Array.from({ length: 32 * d }, (_, i) => 0.3 * Math.cos(i))
      const toward = Reference.towards(pass, batch, 0, hidden, signed)
      const near = yield* run({ head: { hidden: 0 } }, { hidden, weights: signed })
      expectClose(near.loss, toward.tokenLoss, { name: "mean square", rtol: 1e-4, atol: 1e-6 })
      expectClose([near.gradNorm], [gradNorm(toward)], { name: "norm of hidden targets", rtol: 1e-3 })
    }))

  it.effect("refuses targets that do not go with the head", () =>
    Effect.gen(function*() {
      const refuse = (head: NonNullable<TunerOptions["head"]>, targets: TunerTargets) =>
        Effect.scoped(Effect.flatMap(makeTuner({ ...shape, head }), (tuner) =>
          Effect.map(Effect.flip(tuner.step(batches[0]!, targets)), (error) =>
            `${error._tag}: ${error.message}`)))
      expect(yield* refuse("crossEntropy", { weights: signed }))
        .toBe("DataError: targets.weights: a step with head \"crossEntropy\" has none")
      expect(yield* refuse("weighted", { weights: new Float32Array(3) }))
        .toContain("head \"weighted\" takes 32 values, one a token, got 3")
      expect(yield* refuse("soft", {})).toContain("targets.soft: a step with head \"soft\" needs 1952 values, got none")
      expect(yield* refuse({ hidden: 1 }, { hidden: signed }))
        .toContain("targets.hidden: a step with head { hidden: 1 } takes 1024 values, 32 a token, got 32")
    }).pipe(withModel))
})
