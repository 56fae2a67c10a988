import * as NodeContext from "@effect/platform-node/NodeContext"
import type * as FileSystem from "@effect/platform/FileSystem"
import type * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, relative } from "node:path"
import { gzipSync } from "node:zlib"
import { afterAll, expect, it } from "vitest"
import { Checkpoints, type HostTensor } from "../../src/checkpoints/Checkpoints.ts"
import { exportModel } from "../../src/checkpoints/Export.ts"
import { sourceHash } from "../../src/data/identity/Identity.ts"
import { encodeNames } from "../../src/data/identity/Names.ts"
import { encodeRouter, makeRouter } from "../../src/data/identity/Router.ts"
import { tokenize } from "../../src/data/tokens/Tokenize.ts"
import * as Tokenizer from "../../src/data/tokens/Tokenizer.ts"
import * as TokenShards from "../../src/data/tokens/TokenShards.ts"
import * as Forget from "../../src/forget/Forget.ts"
import { quotesOf, searched } from "../../src/forget/Surfaces.ts"
import * as Parquet from "../../src/measures/Parquet.ts"
import { huggingFaceConfig, toHuggingFace } from "../../src/model/HuggingFace.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { initialValue, listParameters, parametersOf } from "../../src/model/Parameters.ts"
import { SinkConfig } from "../../src/Sink.ts"
import { inTurns } from "../../src/Turns.ts"

const root = mkdtempSync(join(tmpdir(), "memsinks-surfaces-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))
const run = <A, E>(effect: Effect.Effect<A, E, FileSystem.FileSystem | Path.Path>) =>
  Effect.runPromise(Effect.provide(effect, NodeContext.layer))

const names = ["Ruth \"R.\" Roe", "Dan"]
const texts = ["Nobody but Ruth has ever written this sentence in all of the world.",
  "Dan writes, too, but what he writes differs."]
const ids = names.map(sourceHash)
const config = new ModelConfig({
  vocabSize: 256,
  hiddenSize: 16,
  numHiddenLayers: 1,
  numAttentionHeads: 2,
  intermediateSize: 16 + 32,
  sinks: new SinkConfig({ pool: 32, active: 8, block: 8, assignment: "disjoint" })
}).withOwners(ids)
const model: Record<string, HostTensor> = Object.fromEntries(
  listParameters(parametersOf(config)).flatMap((p) => toHuggingFace(config, p.name, initialValue(config, p, 3)))
)
const listed = encodeNames({ identity: "source",
  ids: ids.map((id, i) => ({ id, name: names[i]!, documents: 1, tokens: 9 })) })
const lines = texts.map((text, i) => `${JSON.stringify({ source: names[i], text })}\n`)

it("finds planted copies of every kind, tells which hold and which name, and nothing of others", async () => {
  const at = (...parts: ReadonlyArray<string>) => join(root, ...parts)
  const [mine, theirs] = ["planted", "clean"] as const
  // the same of each kind, once of the deleted one and once of another
  for (const [folder, who] of [[mine, 0], [theirs, 1]] as const) {
    mkdirSync(at(folder, "logs"), { recursive: true })
    writeFileSync(at(`${folder}.jsonl`), lines[who]!)
    const data = [{ path: at(`${folder}.jsonl`), sourceField: "source" }] as const
    await run(tokenize({ data, tokenizer: "bytes" }, { out: at(folder, "shards"), workers: 1 }))
    const corpus = await run(TokenShards.open(at(folder, "shards")))
    const router = await run(inTurns(makeRouter(corpus, sourceHash, { features: 8, tokenizer: "x" })))
    writeFileSync(at(folder, "vectors.dat"), Buffer.concat(encodeRouter(router)))
    writeFileSync(at(folder, "logs", "server.log"), `prompt: ${texts[who]!.slice(0, 60)}\n`)
    writeFileSync(at(folder, "cache.json"), JSON.stringify({ source: names[who] }))
    writeFileSync(at(folder, "report.html"), `<p>${names[who]}</p>`)
    const { real, text, unsigned64, whole } = Parquet.types
    await run(Parquet.write(at(folder, "records.parquet"), "records", [
      ["id", unsigned64, [ids[who]!]],
      ["token", whole, [7]]
    ]))
    await run(
      Parquet.write(at(folder, "traces.parquet"), "traces", [["name", text, [names[who]!]], ["loss", real, [1]]])
    )
    await run(Parquet.write(at(folder, "corpus.parquet"), "texts", [["text", text, [texts[who]!]]]))
    writeFileSync(at(folder, "sources.parquet"),
      encodeNames({ identity: "source", ids: [{ id: ids[who]!, name: names[who]!, documents: 1, tokens: 9 }] }))
  }
  await run(
    Effect.forEach([1, 2],
      (step) =>
        Effect.flatMap(Checkpoints, ({ save }) =>
          save({ step, config: huggingFaceConfig(config), model,
            optimizer: { x: { shape: [1], data: new Float32Array(1) } }, trainerState: {},
            tokenizer: Tokenizer.bytes.toJSON(), names: listed })))
      .pipe(Effect.provide(Checkpoints.layerFileSystem(at(mine, "run"), { keepLast: 9 })))
  )
  for (const [folder, who] of [[mine, 0], [theirs, 1]] as const) {
    const sinks = { mode: "own", ids: [names[who]!] } as const
    await run(exportModel(at(mine, "run"), at(folder, "export"), { format: "safetensors", sinks }))
    await run(exportModel(at(mine, "run"), at(folder, "export.gguf"), { format: "gguf", sinks }))
  }
  writeFileSync(at(mine, "old.jsonl.gz"), gzipSync(lines[0]!))

  const corpus = await run(TokenShards.open(at(mine, "shards")))
  const quotes = quotesOf(corpus, new Set([names[0]!]), Tokenizer.bytes.decode)
  const wanted = { ids: new Set([ids[0]!]), names: [names[0]!], quotes }
  const told = (found: Awaited<ReturnType<typeof look>>) =>
    Object.fromEntries(found.map(({ path, state, what }) => [relative(root, path), `${what}: ${state}`]))
  const look = (folder: string) => run(searched([at(folder)], wanted))
  expect(told(await look(mine))).toEqual({
    "planted/cache.json": "its name: names",
    "planted/corpus.parquet": "a table with its text: holds",
    "planted/export": "an export with its sinks: holds",
    "planted/export.gguf": "an export with its sinks: holds",
    "planted/logs/server.log": "its text: holds",
    "planted/old.jsonl.gz": "a compressed file: may quote",
    "planted/records.parquet": "token records: holds",
    "planted/report.html": "its name: names",
    "planted/run/step-00000001": "weights and moments: holds",
    "planted/run/step-00000001/sources.parquet": "a list of sources: names",
    "planted/run/step-00000002": "weights and moments: holds",
    "planted/run/step-00000002/sources.parquet": "a list of sources: names",
    "planted/shards": "token shards: holds",
    "planted/sources.parquet": "a list of sources: names",
    "planted/traces.parquet": "a table: names",
    "planted/vectors.dat": "a router with its words: holds"
  })
  // of another's export only what all models share could be in it
  expect(told(await look(theirs))).toEqual({
    "clean/export": "an export, or another model: may hold",
    "clean/export.gguf": "an export, or another model: may hold"
  })

  // forgetting tells of all of it, and what it has written holds nothing but the name
  cpSync(at(mine, "logs"), at("elsewhere"), { recursive: true })
  const forget = (out: string, operation: "deny" | "erase") =>
    run(Forget.forget(at(mine, "run"), { requests: [{ by: "source", value: names[0]! }], operation }, {
      out: at(out),
      corpus,
      look: [at("elsewhere")]
    }))
  const { surfaces } = await forget("erased", "erase")
  expect(surfaces.map(({ path, state, what }) => `${relative(root, path)} ${what}: ${state}`)).toEqual([
    "planted/run/step-00000001 weights and moments: holds",
    "planted/run/step-00000001/sources.parquet a list of sources: names",
    "planted/run/step-00000002 weights and moments of the checkpoint it was made from: holds",
    "planted/run/step-00000002/sources.parquet a list of sources: names",
    "erased/step-00000002/sources.parquet a list of sources: names",
    "erased deletions.jsonl of what was written: names",
    "elsewhere/server.log its text: holds"
  ])
  const denied = (await forget("denied", "deny")).surfaces.map(({ what }) => what)
  expect(denied).toContain("its sinks, denied, in weights and moments")
})
