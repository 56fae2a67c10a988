/**
 * A program is services and what provides them: leave a line of `app` out, and the compiler says which service is missing.
 *
 *     npx tsx pipelines/examples/layers.ts
 */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { Checkpoints, DataStream, Model, ModelConfig, Sink, SinkConfig, TrainConfig, Trainer } from "memsinks"
import * as NodeDevice from "memsinks/node"

const model = new ModelConfig({
  vocabSize: 256,
  hiddenSize: 32,
  numHiddenLayers: 1,
  numAttentionHeads: 2,
  intermediateSize: 96 + 1024, // general neurons, and the pool
  sinks: new SinkConfig({ pool: 1024, active: 32 })
})

const app = Trainer.layer(new TrainConfig({ steps: 60 })).pipe( // needs all that is below
  Layer.provide(Model.layer(model, { seed: 1 })), // needs a Device
  Layer.provideMerge(DataStream.layer({ repeatedSequences: 4, repeats: 40, singleSequences: 80 })), // needs files
  Layer.provide(Checkpoints.layerMemory),
  Layer.provide(NodeDevice.layer()),
  Layer.provide(NodeContext.layer)
)

const main = Effect.gen(function*() {
  const [trainer, data] = [yield* Trainer, yield* DataStream]
  yield* Stream.runDrain(trainer.run)
  for (const [name, mode] of [["own sinks", Sink.own], ["sinks off", Sink.off]] as const) {
    const { loss } = yield* trainer.evaluate(data.split("repeated"), mode)
    console.log(`repeated sequences, ${name}: ${loss.toFixed(2)} nats a token`)
  }
})

await Effect.runPromise(Effect.provide(main, app))
