/**
 * How long adversarial compression of one string takes: `node --import tsx test/bench/acr.ts`. The string is 20 random tokens
 * that the preset `tiny` was never trained on, so that every length up to 20 is tried to its last step: the worst case. A JSON
 * line on stdout; `device` is the share of the time between handing the device work and reading its result.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import process from "node:process"
import { acr, AcrOptions } from "../../src/attacks/acr.ts"
import { Device, type DeviceService } from "../../src/gpu/Device.ts"
import { Model } from "../../src/model/Model.ts"
import { presets } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import { random } from "../../src/Random.ts"
import * as Sink from "../../src/Sink.ts"

const option = (name: string): string | undefined =>
  process.argv.find((argument) => argument.startsWith(`--${name}=`))?.slice(name.length + 3)

const search = option("search") === "random" ? "random" as const : "gcg" as const
const draw = random(1, "bench")
const { vocabSize } = presets.tiny
const rows = [{ id: 7n, tokens: Uint32Array.from({ length: 65 }, () => draw.below(vocabSize)), document: "random",
  offset: 0 }]

/** Milliseconds from a submit to the end of the first read behind it. */
let busy = 0
let since: number | undefined
const timed = Layer.effect(Device, Effect.map(Device, (device): DeviceService => ({
  ...device,
  submit: (...prepared) => {
    since ??= performance.now()
    device.submit(...prepared)
  },
  read: (tensor) =>
    Effect.tap(device.read(tensor), () =>
      Effect.sync(() => {
        if (since !== undefined) busy += performance.now() - since
        since = undefined
      }))
}))).pipe(Layer.provide(NodeDevice.layer()))

const run = Effect.gen(function*() {
  const device = yield* Device
  const options = new AcrOptions({ search,
    ...(option("steps") === undefined ? {} : { steps: Number(option("steps")) }) })
  const [began, cpu] = [performance.now(), process.cpuUsage()]
  busy = 0
  const values = yield* acr.run({ rows, seen: [], others: [], mode: Sink.own, seed: 1, seqLen: 64, batchSize: 16 },
    options)
  const seconds = (performance.now() - began) / 1000
  const { system, user } = process.cpuUsage(cpu)
  process.stdout.write(`${
    JSON.stringify({
      bench: "acr",
      adapter: device.name,
      preset: "tiny",
      search,
      tokens: options.length,
      ...values,
      seconds,
      processorSeconds: (system + user) / 1e6,
      device: busy / 1000 / seconds
    })
  }\n`)
})
await Effect.runPromise(run.pipe(Effect.provide(Model.layer(presets.tiny, { seed: 1 })), Effect.provide(timed)))
