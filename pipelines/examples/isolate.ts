/**
 * Is a checkpoint's memory in its sinks? The same sequences with their own sinks, without, and with those of others.
 *
 *     npx tsx pipelines/examples/isolate.ts [FOLDER OF A RUN]
 */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { DataStream, Extraction, Metrics, Model, openCheckpoint, recordRows, Sink, Statistics } from "memsinks"
import * as NodeDevice from "memsinks/node"
import * as Pretrain from "memsinks/pipelines/pretrain"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

const device = NodeDevice.layer()
const data = { repeatedSequences: 6, repeats: 60, singleSequences: 400, batchSize: 8 }
const made = mkdtempSync(join(tmpdir(), "memsinks-isolate-"))

/** The experiment of `npm start`, smaller: one arm of it. */
const train = Effect.gen(function*() {
  const config = new Pretrain.PretrainConfig({ arms: ["sinks"], data: data as never })
  yield* Pretrain.run(config, { device, outDir: join(made, "run") })
  return join(made, "run")
})

const look = Effect.gen(function*() {
  const [model, stream] = [yield* Model, yield* DataStream]
  const rows = stream.split("repeated")
  for (const [state, { mode, title }] of Object.entries(Sink.states)) {
    const records = yield* recordRows(model, rows, mode, { batchSize: 8, seqLen: stream.seqLen, split: "repeated" })
    const said = Extraction.greedyExtraction(records, { context: 16, length: 48 })
    const loss = Statistics.mean(Metrics.loss(records))
    console.log(
      `${state} (${title}): loss ${loss.toFixed(2)}, said verbatim ${
        said.filter((x) => x === 1).length
      } of ${rows.length}`
    )
  }
})

const main = Effect.gen(function*() {
  const run = process.argv[2] ?? (yield* train)
  const { layer, names, step } = yield* openCheckpoint(run)
  console.log(`${names === undefined ? 0 : names.count} ids, step ${step}`)
  yield* Effect.provide(look, Layer.merge(Layer.provide(layer, device), DataStream.layer(data)))
})

await Effect.runPromise(Effect.provide(main, NodeContext.layer))
rmSync(made, { recursive: true })
