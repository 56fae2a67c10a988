/**
 * What a step costs the host, in milliseconds of time and of processor: a training step of `nulls-1b` at 8 x 1,024 in f16 with
 * the kernels of matrix units, on the null backend, which computes nothing. The model has all layers and all sinks, but is
 * narrow, so that it fits that backend. `node --import tsx test/bench/host.ts`, JSON lines on stdout; `--steps=300` takes more.
 */
import * as Effect from "effect/Effect"
import process from "node:process"
import { Device } from "../../src/gpu/Device.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig, presets } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Sink from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { madeUp } from "../../src/train/Profile.ts"
import { makeTrainStep } from "../../src/train/TrainStep.ts"

const [ROWS, LENGTH] = [8, 1024]
const steps = Number(process.argv.find((argument) => argument.startsWith("--steps="))?.slice("--steps=".length) ?? 100)

const nulls = presets["nulls-1b"]
const narrow = new ModelConfig({
  ...nulls,
  vocabSize: 512,
  hiddenSize: 8,
  numAttentionHeads: 1,
  numKeyValueHeads: 1,
  headDim: 16,
  intermediateSize: nulls.pool + 20
})

const spread = (times: ReadonlyArray<number>) => {
  const sorted = [...times].sort((a, b) => a - b)
  return { best: sorted[0]!, median: sorted[sorted.length >> 1]!, worst: sorted.at(-1)! }
}

/** Steps whose rows have the same ids every time, or others, whose sinks nobody has asked for before. */
const measured = (ids: "same" | "new") =>
  Effect.scoped(Effect.gen(function*() {
    const device = yield* Device
    const model = yield* Model.make(narrow, { precision: "f16", initialize: false })
    const training = yield* makeTrainStep({
      optimizer: new OptimizerConfig({ sinks: "lazy" }),
      steps: 1000,
      window: 10,
      parameters: model.parameters
    }).pipe(Effect.provideService(Model, model))
    const pass = yield* training.compile({ rows: ROWS, seqLen: LENGTH })
    const batch = madeUp(ROWS, LENGTH, narrow.vocabSize)
    const times: Array<number> = []
    const processor: Array<number> = []
    const before = { ...device.counters }
    for (let step = 0; step < steps; step++) {
      const own = ids === "same" ? batch : { ...batch, ids: batch.ids.map((id) => id + BigInt(1000 * step)) }
      const cpu = process.cpuUsage()
      const began = performance.now()
      training.run([{ pass, batch: own, mode: Sink.own }], step)
      times.push(performance.now() - began)
      const { system, user } = process.cpuUsage(cpu)
      processor.push((system + user) / 1000)
      yield* device.idle
    }
    const after = device.counters
    return {
      bench: "host",
      ids,
      dispatches: after.bindGroups,
      submits: (after.submits - before.submits) / steps,
      newObjects: after.buffers - before.buffers + after.bindGroups - before.bindGroups + after.pipelines -
        before.pipelines,
      ...spread(times),
      processor: spread(processor)
    }
  }))

const main = Effect.gen(function*() {
  const device = yield* Device
  const target = { family: "tensor", subgroupSize: 32, matrices: true } as const
  for (const ids of ["same", "new"] as const) {
    const line = yield* Effect.provideService(measured(ids), Device, { ...device, target })
    process.stdout.write(`${JSON.stringify(line)}\n`)
  }
})

await Effect.runPromise(Effect.scoped(Effect.provide(main, NodeDevice.layer({ adapter: "null" }))))
