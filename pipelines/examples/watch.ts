/**
 * Training is a Stream of events: filter it, draw it, stop it when enough is learned. Leaving a stream stops the training.
 *
 *     npx tsx pipelines/examples/watch.ts
 */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { Checkpoints, DataStream, Model, ModelConfig, TrainConfig, Trainer } from "memsinks"
import * as NodeDevice from "memsinks/node"

const model = new ModelConfig({
  vocabSize: 256,
  hiddenSize: 32,
  numHiddenLayers: 1,
  numAttentionHeads: 2,
  intermediateSize: 96
})

const app = Trainer.layer(new TrainConfig({ steps: 400, logEvery: 5 })).pipe(
  Layer.provide(Model.layer(model)),
  Layer.provide(DataStream.layer({ repeatedSequences: 0, singleSequences: 400 })),
  Layer.provide(Checkpoints.layerMemory),
  Layer.provide(NodeDevice.layer()),
  Layer.provide(NodeContext.layer)
)

const main = Effect.gen(function*() {
  const trainer = yield* Trainer
  const last = yield* trainer.run.pipe(
    Stream.filter((event) => event._tag === "Stepped"),
    Stream.tap(({ loss = NaN, step }) =>
      Effect.sync(() =>
        console.log(`${String(step).padStart(3)} ${"#".repeat(Math.round(loss * 10))} ${loss.toFixed(2)}`)
      )
    ),
    Stream.takeUntil(({ loss = NaN }) => loss < 4.8),
    Stream.runLast
  )
  if (last._tag === "Some") console.log(`below 4.8 nats a token after ${last.value.step} of ${trainer.steps} steps`)
})

await Effect.runPromise(Effect.provide(main, app))
