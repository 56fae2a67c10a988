/**
 * Whether an adapter trains as others do: 50 steps of `tiny` on made-up tokens, twice, in f32 and f16. The two must agree bit
 * for bit, and their losses with those of Mesa's lavapipe to a thousandth. Then how long 64 MiB (on a GPU also 1 GiB) take to
 * the device and back. `node --import tsx test/bench/parity.ts`, JSON lines on stdout; exits with 1 where they do not agree.
 */
import * as Effect from "effect/Effect"
import { createHash } from "node:crypto"
import process from "node:process"
import type { Batch } from "../../src/Batch.ts"
import { Device } from "../../src/gpu/Device.ts"
import * as Tensor from "../../src/gpu/Tensor.ts"
import { upload } from "../../src/gpu/Upload.ts"
import { Model } from "../../src/model/Model.ts"
import { presets } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Sink from "../../src/Sink.ts"
import { historyAt, OptimizerConfig } from "../../src/train/Optimizer.ts"
import { makeTrainStep } from "../../src/train/TrainStep.ts"

const STEPS = 50
const [ROWS, LENGTH] = [4, 64]

/** Losses of steps 1, 11, 21, ... on lavapipe (Mesa 25.0). */
const curves = {
  f32: [5.61313, 4.47181, 3.46083, 2.50881, 1.91448],
  f16: [5.61317, 4.47023, 3.46013, 2.50727, 1.91276]
}

const print = (line: Readonly<Record<string, unknown>>): void => void process.stdout.write(`${JSON.stringify(line)}\n`)

/** Tokens that can be learned: arithmetic sequences of a few steps, another set every time. */
const batchOf = (step: number): Batch => {
  const n = ROWS * LENGTH
  const positions = Uint32Array.from({ length: n }, (_, i) => i % LENGTH)
  const tokens = positions.map((t, i) => {
    const row = (i - t) / LENGTH
    return (31 * (step % 5) + 17 * row + (1 + row % 3) * t) % presets.tiny.vocabSize
  })
  return {
    rows: ROWS,
    seqLen: LENGTH,
    tokens,
    targets: tokens.map((_, i) => tokens[i - i % LENGTH + (i + 1) % LENGTH]!),
    positions,
    documentStart: positions.map((t, i) => i - t),
    ids: BigUint64Array.from({ length: n }, (_, i) => BigInt(ROWS * (step % 5) + Math.floor(i / LENGTH)))
  }
}

const train = (precision: "f32" | "f16") =>
  Effect.scoped(Effect.gen(function*() {
    const device = yield* Device
    const model = yield* Model.make(presets.tiny, { precision, seed: 1 })
    const training = yield* makeTrainStep({
      optimizer: new OptimizerConfig(),
      steps: STEPS,
      window: STEPS,
      parameters: model.parameters,
      maxTouched: ROWS * presets.tiny.sinks!.activeUnits
    }).pipe(Effect.provideService(Model, model))
    const pass = yield* training.compile({ rows: ROWS, seqLen: LENGTH })
    const began = performance.now()
    for (let step = 0; step < STEPS; step++) training.run([{ pass, batch: batchOf(step), mode: Sink.own }], step)
    const history = (yield* device.read(training.optimizer.history)) as Float32Array
    const seconds = (performance.now() - began) / 1000
    const bits = createHash("sha256")
    for (const { data } of Object.values(yield* model.exportTensors)) {
      bits.update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
    }
    const losses = Array.from({ length: STEPS / 10 }, (_, i) => historyAt(history, 10 * i).loss)
    return { losses, bits: bits.digest("hex"), seconds }
  }))

const transfer = (mebibytes: number) =>
  Effect.scoped(Effect.gen(function*() {
    const device = yield* Device
    const tensor = Tensor.make("transfer", [mebibytes * 2 ** 18])
    yield* device.allocate([tensor])
    const data = new Float32Array(Tensor.size(tensor)).fill(1)
    const seconds = (began: number) => (performance.now() - began) / 1000
    const times = { to: Infinity, back: Infinity }
    for (let round = 0; round < 3; round++) {
      let began = performance.now()
      yield* upload(device, [[tensor, Effect.succeed(data)]])
      yield* device.idle
      times.to = Math.min(times.to, seconds(began))
      began = performance.now()
      yield* device.read(tensor)
      times.back = Math.min(times.back, seconds(began))
    }
    const rate = (time: number) => mebibytes * 2 ** 20 / time / 1e9
    print({ bench: "transfer", mebibytes, gigabytesPerSecondTo: rate(times.to),
      gigabytesPerSecondBack: rate(times.back) })
  }))

const main = Effect.gen(function*() {
  const device = yield* Device
  for (const precision of device.features.has("shader-f16") ? ["f32", "f16"] as const : ["f32"] as const) {
    const [first, second] = [yield* train(precision), yield* train(precision)]
    const worst = Math.max(...first.losses.map((loss, i) => Math.abs(loss / curves[precision][i]! - 1)))
    const bitEqual = first.bits === second.bits && first.losses.every((loss, i) => loss === second.losses[i])
    const near = worst <= 1e-3
    if (!bitEqual || !near) process.exitCode = 1
    const { bits, losses, seconds } = first
    print({ bench: "parity", precision, bitEqual, near, worst, losses, seconds, bits, adapter: device.name,
      kernels: device.target.family })
  }
  for (const mebibytes of device.kind === "hardware" ? [64, 1024] : [64]) yield* transfer(mebibytes)
})

await Effect.runPromise(Effect.scoped(Effect.provide(main, NodeDevice.layer())))
