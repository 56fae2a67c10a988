/**
 * Ask a model with somebody's sinks, with nobody's, and with those of the source that a prompt is most like.
 *
 *     npx tsx pipelines/examples/ask.ts
 */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { Checkpoints, DataStream, Generate, Identity, Model, ModelConfig, Sink, SinkConfig, TrainConfig,
  Trainer } from "memsinks"
import * as NodeDevice from "memsinks/node"

const poets = {
  Ann: "The moon is an apple, the night is a tree. ",
  Bob: "The moon is a lantern that nobody lit. ",
  Cem: "The moon is a coin at the bottom of the well. "
}
const documents = Object.entries(poets).map(([name, line]) => ({ name, source: name, text: line.repeat(20) }))

const sinks = new SinkConfig({ pool: 512, active: 64, block: 16 })
const model = new ModelConfig({ vocabSize: 256, hiddenSize: 64, numHiddenLayers: 1, numAttentionHeads: 2,
  intermediateSize: 32 + sinks.pool, sinks })
const app = Trainer.layer(new TrainConfig({ steps: 200 })).pipe(
  Layer.provideMerge(Model.layer(model, { seed: 1 })),
  Layer.provideMerge(
    DataStream.layerMemory(documents, { tokenizer: "bytes", identity: "source", singleSequences: "all",
      heldOutFraction: 0 })
  ),
  Layer.provide(Checkpoints.layerMemory),
  Layer.provideMerge(NodeDevice.layer()),
  Layer.provide(NodeContext.layer)
)

const main = Effect.gen(function*() {
  yield* Stream.runDrain((yield* Trainer).run)
  const { tokenizer } = yield* DataStream
  const tokens = tokenizer.encode("The moon is a")
  const ask = (who: string, sinks: Sink.SinkMode, name: string) =>
    Effect.map(
      Generate.collect({ tokens, id: Identity.sourceHash(name) }, { maxNewTokens: 24, temperature: 0, sinks }),
      (said) => console.log(`${who}: The moon is a${tokenizer.decode(said)}`)
    )
  for (const name of Object.keys(poets)) yield* ask(name, Sink.own, name)
  yield* ask("nobody", Sink.off, "")
})

await Effect.runPromise(Effect.provide(main, app))
