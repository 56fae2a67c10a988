/** A small run into the folder given, resumed where it stands, that tells what it starts from and hashes what it saves. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { createHash } from "node:crypto"
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as Pretrain from "../../pipelines/pretrain.ts"
import { DataConfig } from "../../src/data/stream/DataStream.ts"
import * as NodeDevice from "../../src/node.ts"
import { TrainConfig } from "../../src/train/Trainer.ts"
import { makeRandomText, miniatureModel } from "../support/support.ts"

const [root, name] = process.argv.slice(2) as [string, string]
const text = join(root, "text.txt")
if (!existsSync(text)) writeFileSync(text, makeRandomText(3)(20_000))

const config = new Pretrain.PretrainConfig({
  data: new DataConfig({
    data: text,
    tokenizer: "bytes",
    seqLen: 16,
    batchSize: 2,
    repeatedSequences: 4,
    repeats: 12,
    singleSequences: 80,
    heldOutSequences: 4
  }),
  model: miniatureModel,
  training: new TrainConfig({ steps: 20, logEvery: 2, saveEvery: 2, evalSequences: 2 }),
  arms: ["standard", "sinks"],
  evaluations: 4,
  promptTokens: 4
})

const say = (...words: ReadonlyArray<string | number>) => process.stdout.write(`${words.join(" ")}\n`)

const outDir = join(root, name)
say("up")
const report = await Pretrain.run(config, {
  device: NodeDevice.layer(),
  outDir,
  resume: existsSync(outDir),
  onEvent: (it) =>
    Effect.sync(() => {
      if (it._tag !== "Training") return
      const { arm, event } = it
      if (event._tag === "Started") say("started", arm, event.step)
      if (event._tag !== "Saved") return
      // names every file with its sha256: weights, moments, step, place in the data
      const manifest = readFileSync(join(event.path, "manifest.json"))
      say("saved", arm, event.step, createHash("sha256").update(manifest).digest("hex"))
    })
}).pipe(Effect.provide(NodeContext.layer), Effect.runPromise)
const measured = report.perSeed.map((seed) => ({ ...seed, seconds: 0, tokensPerSecond: 0 }))
say("report", createHash("sha256").update(JSON.stringify(measured)).digest("hex"))
writeFileSync(join(root, `${name}.json`), JSON.stringify(measured, undefined, 1))
process.exit(0)
