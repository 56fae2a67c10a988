/** On Deno, through npm webgpu: a tiny model against float64, and a short training. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import assert from "node:assert/strict"
import { Checkpoints, type Snapshot } from "../../src/checkpoints/Checkpoints.ts"
import * as DenoDevice from "../../src/deno.ts"
import { Device } from "../../src/gpu/Device.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { HYPER } from "../../src/model/Pass.ts"
import * as Segments from "../../src/model/Segments.ts"
import * as Sink from "../../src/Sink.ts"
import { TrainConfig, Trainer } from "../../src/train/Trainer.ts"
import { expectClose } from "../reference/compare.ts"
import * as Reference from "../reference/model.ts"
import { makeRandom } from "../reference/random.ts"
import { batchOfDocuments, miniatureData, miniatureModel, referenceConfig } from "../support/support.ts"

declare const Deno: { readonly test: (name: string, body: () => Promise<void>) => void }

const config = new ModelConfig({
  vocabSize: 61,
  hiddenSize: 32,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  headDim: 12,
  intermediateSize: 40 + 64,
  sinks: new Sink.SinkConfig({ pool: 64, active: 16, block: 8 })
})

for (const compute of ["gathered", "masked"] as const) {
  Deno.test(`${compute} sinks: loss and every gradient of a tiny model match float64`, () =>
    Effect.gen(function*() {
      const device = yield* Device
      const random = makeRandom(3)
      const reference = referenceConfig(config)
      const params = Object.fromEntries(
        Object.entries(Reference.randomParameters(reference, random, 0.3)).map(([name, value]) => [
          name,
          Float64Array.from(Float32Array.from(value))
        ])
      )
      const batch = batchOfDocuments([[[8, 1n], [8, 2n]], [[16, 1n]]], 16, config.vocabSize, random)
      const segments = Segments.segmentsOf(batch)
      const coef = Float64Array.from(
        Segments.maskedCoefficients(config.sinks, config.general, Sink.own, segments, segments.ids.length)
      )
      const want = Reference.forward(reference, params, batch, coef, segments.segment)
      const gradients = Reference.backward(reference, params, batch, coef, segments.segment, want)

      const model = yield* Model.make(config)
      yield* device.allocate(model.parameters.map((p) => p.gradient))
      for (const p of model.parameters) device.write(p.value, Float32Array.from(params[p.name]!))
      const pass = yield* model.compile({ rows: 2, seqLen: 16, maxSegments: 4, output: "train", compute })
      assert.equal(pass.gathered, compute === "gathered")
      const { scored } = pass.load(batch, Sink.own)
      device.write(model.hyper, Float32Array.of(1 / scored, 1 / scored), HYPER.lossScale)
      device.submit(pass.prepared)
      const loss = (yield* device.read(pass.tensors.loss)) as Float32Array
      expectClose(loss, want.tokenLoss, { name: "loss", rtol: 2e-5, atol: 2e-5 })
      for (const p of model.parameters) {
        const gradient = (yield* device.read(p.gradient)) as Float32Array
        const scale = Math.max(...gradients[p.name]!.map(Math.abs))
        assert.ok(scale > 0)
        expectClose(gradient, gradients[p.name]!, { name: `gradient of ${p.name}`, rtol: 1e-4, atol: 2e-5 * scale })
      }
    }).pipe(Effect.scoped, Effect.provide(DenoDevice.layer()), Effect.runPromise))
}

/** Trains the miniature to its 20th step, or until it is interrupted after `stop` steps, on what `store` holds. */
const train = (store: Layer.Layer<Checkpoints>, stop = Infinity) =>
  Effect.gen(function*() {
    const trainer = yield* Trainer
    const losses: Array<number> = []
    yield* trainer.run.pipe(
      Stream.runForEach((event) => Effect.sync(() => event._tag === "Stepped" && losses.push(event.loss!))),
      Effect.catchAllCause((cause) => Cause.isInterruptedOnly(cause) ? Effect.void : Effect.failCause(cause))
    )
    return { losses, snapshot: yield* Effect.flatMap(Checkpoints, (checkpoints) => checkpoints.load("latest")) }
  }).pipe(Effect.provide(
    Trainer.layer(new TrainConfig({ steps: 20, logEvery: 1 }), {
      observer: { due: (step) => step === stop, look: () => Effect.interrupt }
    }).pipe(
      Layer.provide(Model.layer(miniatureModel, { seed: 5 })),
      Layer.provide(miniatureData()),
      Layer.provideMerge(store),
      Layer.provide(DenoDevice.layer())
    )
  ))

const bitsOf = (snapshot: Snapshot) =>
  [snapshot.model, snapshot.optimizer].flatMap((part) =>
    Object.entries(part).map(([name, { data }]) =>
      `${name} ${Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("base64")}`
    )
  )

Deno.test("twenty steps lower the loss, and a resumed run equals the uninterrupted one bit for bit", () =>
  Effect.gen(function*() {
    const straight = yield* train(Checkpoints.layerMemory)
    assert.equal(straight.losses.length, 20)
    const mean = (losses: ReadonlyArray<number>) => losses.reduce((a, b) => a + b, 0) / losses.length
    assert.ok(
      mean(straight.losses.slice(-3)) < mean(straight.losses.slice(0, 3)) - 1,
      `losses ${straight.losses.map((loss) => loss.toFixed(2)).join(" ")}`
    )
    // a store that outlives the interrupted run
    const store = Layer.succeed(Checkpoints, yield* Effect.scoped(Effect.provide(Checkpoints, Checkpoints.layerMemory)))
    const first = yield* train(store, 10)
    assert.equal(first.snapshot.step, 10)
    const resumed = yield* train(store)
    assert.deepEqual(resumed.losses, straight.losses.slice(10))
    assert.equal(resumed.snapshot.step, 20)
    assert.deepEqual(bitsOf(resumed.snapshot), bitsOf(straight.snapshot))
  }).pipe(Effect.runPromise))
