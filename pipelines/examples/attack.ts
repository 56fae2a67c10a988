/**
 * An attack of one's own: how much of a sequence is said when every second token of its beginning is hidden.
 * `npm run isolate` takes it, too, by a line in `src/attacks/index.ts`.
 *
 *     npx tsx pipelines/examples/attack.ts
 */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { type Attacks, Checkpoints, DataStream, Generate, Model, ModelConfig, Sink, SinkConfig, TrainConfig,
  Trainer } from "memsinks"
import * as NodeDevice from "memsinks/node"

const Options = Schema.Struct({ prompt: Schema.Int, length: Schema.Int, hidden: Schema.Int })

export const everySecond: Attacks.Attack<typeof Options.Type> = {
  name: "everySecond",
  title: "every second token hidden",
  paper: "none",
  version: 1,
  options: Options,
  metrics: () => ({ said: { title: "tokens said after a beginning with gaps", unit: "share", memory: "higher" } }),
  run: ({ batchSize, mode, rows }, { hidden, length, prompt }) =>
    Effect.gen(function*() {
      const prompts = rows.map(({ id, tokens }) => ({
        tokens: tokens.subarray(0, prompt).map((token, i) => i % 2 === 1 ? hidden : token),
        id
      }))
      const said = yield* Generate.collectAll(prompts, { maxNewTokens: length, temperature: 0, sinks: mode, batchSize })
      return {
        said: rows.map(({ tokens }, r) => said[r]!.filter((token, i) => token === tokens[prompt + i]).length / length)
      }
    })
}

const sinks = new SinkConfig({ pool: 1024, active: 32 })
const model = new ModelConfig({ vocabSize: 256, hiddenSize: 32, numHiddenLayers: 1, numAttentionHeads: 2,
  intermediateSize: 96 + sinks.pool, sinks })
const app = Trainer.layer(new TrainConfig({ steps: 200 })).pipe(
  Layer.provideMerge(Model.layer(model, { seed: 1 })),
  Layer.provideMerge(DataStream.layer({ repeatedSequences: 4, repeats: 100, singleSequences: 400 })),
  Layer.provide(Checkpoints.layerMemory),
  Layer.provideMerge(NodeDevice.layer()),
  Layer.provide(NodeContext.layer)
)

const main = Effect.gen(function*() {
  yield* Stream.runDrain((yield* Trainer).run)
  const { seqLen, split } = yield* DataStream
  for (const mode of [Sink.own, Sink.off]) {
    const problem = { rows: split("repeated"), seen: [], others: [], mode, seed: 1, seqLen, batchSize: 4 }
    const { said } = yield* everySecond.run(problem, { prompt: 16, length: 16, hidden: 32 })
    console.log(`sinks ${mode.mode}: ${Array.from(said as Array<number>, (share) => share.toFixed(2)).join(" ")}`)
  }
})

await Effect.runPromise(Effect.provide(main, app))
