/** Folders that others have made: nothing is read through a link that leads out of them. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { cpSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { loadFolder, loadModel, saveModel } from "../src/checkpoints/Checkpoints.ts"
import { loadInitial } from "../src/checkpoints/Import.ts"
import { tokenize } from "../src/data/tokens/Tokenize.ts"
import * as Tokenizer from "../src/data/tokens/Tokenizer.ts"
import * as TokenShards from "../src/data/tokens/TokenShards.ts"
import { huggingFaceConfig, toHuggingFace } from "../src/model/HuggingFace.ts"
import { ModelConfig } from "../src/model/ModelConfig.ts"
import { initialValue, listParameters, parametersOf } from "../src/model/Parameters.ts"
import { inspectCheckpoint } from "../src/runs/Inspect.ts"

type Reader = (path: string) => Effect.Effect<unknown, { readonly message: string }, NodeContext.NodeContext>

const root = mkdtempSync(join(tmpdir(), "memsinks-links-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))
const [checkpoint, shards] = [join(root, "checkpoint"), join(root, "shards")]

const run = <A>(effect: Effect.Effect<A, unknown, NodeContext.NodeContext>) =>
  Effect.runPromiseExit(Effect.provide(effect, NodeContext.layer))

const openShards: Reader = (path) =>
  Effect.gen(function*() {
    const found = yield* TokenShards.open(path)
    yield* Effect.ensuring(found.verify, Effect.sync(found.close))
  })

beforeAll(async () => {
  const config = new ModelConfig({
    vocabSize: 256,
    hiddenSize: 8,
    numHiddenLayers: 1,
    numAttentionHeads: 1,
    intermediateSize: 8,
    maxPositionEmbeddings: 16
  })
  const model = Object.fromEntries(
    listParameters(parametersOf(config)).flatMap((
      parameter
    ) => [...toHuggingFace(config, parameter.name, initialValue(config, parameter, 1))])
  )
  const saved = { config: huggingFaceConfig(config), model, tokenizer: Tokenizer.bytes.toJSON() }
  writeFileSync(join(root, "text.jsonl"), `{"text":"one"}\n{"text":"two and more"}\n`)
  const made = await run(Effect.zipRight(
    saveModel(checkpoint, saved, 9_700),
    tokenize({ data: [{ path: join(root, "text.jsonl") }], tokenizer: "bytes" }, { out: shards, workers: 1 })
  ))
  expect(Exit.isSuccess(made), String(made)).toBe(true)
})

/** A copy of a folder in which one file is a link to `target`, by default to the very file, moved out. */
const withLink = (folder: string, file: string, target?: string): string => {
  const home = mkdtempSync(join(root, "copy-"))
  const copy = join(home, "folder")
  cpSync(folder, copy, { recursive: true })
  const out = target ?? join(home, file)
  renameSync(join(copy, file), join(home, file))
  symlinkSync(out, join(copy, file))
  return copy
}

const refusal = async (read: Reader, path: string): Promise<string> => {
  const exit = await run(Effect.flip(read(path)))
  return Exit.isSuccess(exit) ? exit.value.message : `read, or ${String(exit)}`
}

describe("a link that leads out of a folder", () => {
  it("is refused in a checkpoint, whatever file it stands for, also where its checksum is right", async () => {
    for (const file of readdirSync(checkpoint)) {
      const path = withLink(checkpoint, file)
      const message = join(path, file)
      expect(await refusal(loadFolder, path)).toContain(`${message}: is a link that leads out of its folder`)
      if (!/^(manifest|config|model|tokenizer)\b.*(json|safetensors)$/.test(file)) continue
      expect(await refusal(loadModel, path)).toContain("is a link that leads out of its folder")
      if (/^(manifest|config)\.json$|safetensors$/.test(file)) {
        expect(await refusal(inspectCheckpoint, path)).toContain("is a link that leads out of its folder")
      }
    }
  })
  it("is refused in token shards, before a word of it is read", async () => {
    const secret = join(root, "secret.json")
    writeFileSync(secret, "secret-5b1f")
    for (const file of readdirSync(shards)) {
      expect(await refusal(openShards, withLink(shards, file))).toContain(
        `${file}: is a link that leads out of its folder`
      )
      const told = await refusal(openShards, withLink(shards, file, secret))
      expect(told).toContain("is a link that leads out of its folder")
      expect(told).not.toContain("secret-5b1f")
    }
  })
  it("is none where it stays inside, where the folder itself is one, and in a cache of the Hub", async () => {
    const inside = join(root, "inside")
    cpSync(checkpoint, inside, { recursive: true })
    mkdirSync(join(inside, "blobs"))
    renameSync(join(inside, "config.json"), join(inside, "blobs/config"))
    symlinkSync("blobs/config", join(inside, "config.json"))
    const link = join(root, "link")
    symlinkSync(inside, link)
    const snapshot = join(root, "hub/snapshots", "0123456789abcdef0123456789abcdef01234567")
    cpSync(checkpoint, snapshot, { recursive: true })
    rmSync(join(snapshot, "manifest.json"))
    mkdirSync(join(root, "hub/blobs"))
    renameSync(join(snapshot, "config.json"), join(root, "hub/blobs/c0ffee"))
    symlinkSync("../../blobs/c0ffee", join(snapshot, "config.json"))
    const places: ReadonlyArray<readonly [path: string, readers: ReadonlyArray<Reader>]> = [
      [inside, [loadFolder, inspectCheckpoint]],
      [link, [loadFolder, inspectCheckpoint]],
      [snapshot, [loadInitial, inspectCheckpoint]]
    ]
    for (const [path, readers] of places) {
      for (const read of readers) {
        const exit = await run(read(path))
        expect(Exit.isSuccess(exit), String(exit)).toBe(true)
      }
    }
  })
})
