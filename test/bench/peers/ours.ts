/**
 * Our step, whole: packing and lists on the host, forward, backward, clipping and AdamW, with rotary positions.
 * `ours.ts dense` is the standard model that jax-js and tfjs are compared with, `ours.ts sinks` the one for PyTorch.
 */
import * as Effect from "effect/Effect"
import process from "node:process"
import versions from "../../../package.json" with { type: "json" }
import type { Batch } from "../../../src/Batch.ts"
import { Device } from "../../../src/gpu/Device.ts"
import * as Tensor from "../../../src/gpu/Tensor.ts"
import { Model } from "../../../src/model/Model.ts"
import { ModelConfig } from "../../../src/model/ModelConfig.ts"
import { HYPER } from "../../../src/model/Pass.ts"
import * as NodeDevice from "../../../src/node.ts"
import * as Sink from "../../../src/Sink.ts"
import * as Optimizer from "../../../src/train/Optimizer.ts"
import { serve, type Session } from "./child.ts"
import { batchOf, dense, sinks, toggles } from "./step.ts"

const common = { ropeTheta: 1e5, tieWordEmbeddings: false }

const models = {
  dense: {
    shape: dense,
    config: new ModelConfig({
      ...common,
      vocabSize: dense.vocab,
      hiddenSize: dense.width,
      numHiddenLayers: dense.layers,
      numAttentionHeads: dense.heads,
      intermediateSize: dense.mlp
    })
  },
  sinks: {
    shape: sinks,
    config: new ModelConfig({
      ...common,
      vocabSize: sinks.vocab,
      hiddenSize: sinks.width,
      numHiddenLayers: sinks.layers,
      numAttentionHeads: sinks.heads,
      intermediateSize: sinks.mlp,
      sinks: new Sink.SinkConfig({ pool: sinks.pool, active: sinks.active, block: sinks.block })
    })
  }
} as const

const { config, shape } = models[process.argv[2] as keyof typeof models]

const open = Effect.gen(function*() {
  const device = yield* Device
  const { rows, seqLen } = shape
  const n = rows * seqLen
  const model = yield* Model.make(config)
  // every neuron is updated in every step, as the peers' optimizers do
  const optimizer = new Optimizer.OptimizerConfig({ schedule: "constant", sinks: "dense" })
  const recorded = Optimizer.record(optimizer, config, model.parameters, model.hyper, 1, { target: device.target })
  yield* device.allocate(recorded.tensors)
  for (const [tensor, data] of recorded.initial) device.write(tensor, data)
  const pass = yield* model.compile({ rows, seqLen, output: "train" })
  const [begin, accumulate, update] = yield* Effect.all([
    device.prepare(recorded.begin),
    device.prepare(recorded.accumulate(pass.tensors.loss)),
    device.prepare(recorded.update)
  ])
  const batch: Batch = {
    rows,
    seqLen,
    ...batchOf(shape),
    positions: Uint32Array.from({ length: n }, (_, i) => i % seqLen),
    documentStart: Uint32Array.from({ length: n }, (_, i) => i - (i % seqLen)),
    ids: BigUint64Array.from({ length: n }, (_, i) => BigInt(1 + Math.floor(i / seqLen)))
  }
  const hyper = new Float32Array(Tensor.size(model.hyper))
  const { beta1, beta2, eps, gradClip, learningRate, weightDecay } = optimizer
  let step = 0
  const session: Session = {
    name: "memsinks",
    version: versions.version,
    adapter: device.name,
    parameters: config.numParameters,
    tokens: n,
    step: () => {
      step++
      hyper[HYPER.learningRate] = learningRate
      hyper[HYPER.beta1] = beta1
      hyper[HYPER.beta2] = beta2
      hyper[HYPER.eps] = eps
      hyper[HYPER.weightDecay] = weightDecay
      hyper[HYPER.correction1] = 1 / (1 - beta1 ** step)
      hyper[HYPER.correction2] = 1 / (1 - beta2 ** step)
      hyper[HYPER.gradClip] = gradClip
      hyper[HYPER.lossScale] = hyper[HYPER.gradientScale] = 1 / n
      device.write(model.hyper, hyper)
      const { units } = pass.load(batch, Sink.own)
      for (const [tensor, data] of recorded.touch(Uint32Array.from(units).sort())) device.write(tensor, data)
      device.submit(begin, pass.prepared, accumulate, update)
    },
    loss: () => Effect.runPromise(Effect.map(device.read(recorded.history), (history) => history[0]!))
  }
  return session
})

const main = Effect.flatMap(open, (session) => Effect.promise(() => serve(session)))
await Effect.runPromise(Effect.scoped(Effect.provide(main, NodeDevice.layer({ enableToggles: toggles }))))
