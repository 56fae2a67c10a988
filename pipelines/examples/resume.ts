/**
 * Stop at any moment, go on later: the resumed run ends with the same weights as one that was never stopped, bit for bit.
 *
 *     npx tsx pipelines/examples/resume.ts
 */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { Checkpoints, DataStream, Model, ModelConfig, SinkConfig, TrainConfig, Trainer } from "memsinks"
import * as NodeDevice from "memsinks/node"
import { createHash } from "node:crypto"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

const model = new ModelConfig({
  vocabSize: 256,
  hiddenSize: 32,
  numHiddenLayers: 1,
  numAttentionHeads: 2,
  intermediateSize: 32 + 256,
  sinks: new SinkConfig({ pool: 256, active: 32 })
})

const folder = mkdtempSync(join(tmpdir(), "memsinks-resume-"))
const device = NodeDevice.layer() // one GPU for all three runs

/** Trains in a folder up to a step, where it is left, and gives a hash of the weights. */
const train = (name: string, until: number) =>
  Effect.gen(function*() {
    const trainer = yield* Trainer
    // leaving the stream interrupts the training, as Ctrl-C does: it saves and ends
    yield* trainer.run.pipe(Stream.takeUntil((event) => event.step >= until), Stream.runDrain)
    console.log(`${name}: stands at step ${yield* trainer.step}`)
    const weights = Object.entries(yield* (yield* Model).exportTensors).sort(([a], [b]) => a < b ? -1 : 1)
    return weights.reduce((hash, [, { data }]) => hash.update(data), createHash("sha256")).digest("hex").slice(0, 16)
  }).pipe(Effect.provide(
    Trainer.layer(new TrainConfig({ steps: 40, logEvery: 5 })).pipe(
      Layer.provideMerge(Model.layer(model, { seed: 7 })),
      Layer.provide(DataStream.layer({ repeatedSequences: 2, repeats: 20, singleSequences: 120 })),
      Layer.provide(Checkpoints.layerFileSystem(join(folder, name), { resume: true }))
    )
  ))

const main = Effect.gen(function*() {
  yield* train("stopped", 15)
  const hashes = [yield* train("stopped", Infinity), yield* train("whole", Infinity)]
  console.log(`weights ${hashes.join(" and ")}: ${hashes[0] === hashes[1] ? "equal" : "different"}`)
})

await Effect.runPromise(main.pipe(Effect.provide(Layer.merge(device, NodeContext.layer))))
rmSync(folder, { recursive: true })
