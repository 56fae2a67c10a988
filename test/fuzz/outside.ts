/**
 * What servers and other people's folders say: answers of a hub, and the JSON of checkpoints, token shards and runs, with
 * something wrong in them. Each is a typed error or a correct read; nothing outside the folder is read or written.
 */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import { createHash } from "node:crypto"
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { keptIn } from "../../pipelines/experiment/Store.ts"
import { loadFolder, saveModel } from "../../src/checkpoints/Checkpoints.ts"
import { loadInitial } from "../../src/checkpoints/Import.ts"
import { hubFiles } from "../../src/data/source/Hub.ts"
import { tokenize } from "../../src/data/tokens/Tokenize.ts"
import * as TokenShards from "../../src/data/tokens/TokenShards.ts"
import { DataError } from "../../src/Errors.ts"
import { huggingFaceConfig, toHuggingFace } from "../../src/model/HuggingFace.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { initialValue, listParameters, parametersOf } from "../../src/model/Parameters.ts"
import { inspectCheckpoint } from "../../src/runs/Inspect.ts"
import * as RunLock from "../../src/runs/RunLock.ts"
import { listRuns } from "../../src/runs/Runs.ts"
import { type Fuzzer, outcomeOf } from "./fuzz.ts"

/** Stands in a file that nobody may read. */
const SECRET = "secret-5b1f"

const nasty: ReadonlyArray<unknown> = [
  null,
  true,
  -1,
  0,
  1.5,
  1e300,
  2 ** 53,
  2 ** 60,
  "",
  "..",
  "../../secret.json",
  "../../../../secret.json",
  "/etc/passwd",
  "C:\\x",
  "a\u0000b",
  "\u001b[2J",
  "\ud800",
  "x".repeat(5000),
  [],
  {},
  [[[]]],
  { __proto__: null, "": 1 }
]

const pick = <A>(random: () => number, items: ReadonlyArray<A>): A => items[Math.floor(random() * items.length)]!

/** A copy of a JSON value with one place in it changed, left out, or doubled. */
const changed = (value: unknown, random: () => number): unknown => {
  const inner = typeof value === "object" && value !== null ? Object.keys(value) : []
  if (inner.length === 0 || random() < 0.15) return pick(random, nasty)
  const key = pick(random, inner)
  const copy = (Array.isArray(value) ? [...value] : { ...(value as object) }) as Record<string, unknown>
  const how = random()
  if (how < 0.1 && Array.isArray(value)) (copy as unknown as Array<unknown>).push(copy[key])
  else if (how < 0.2) delete copy[key]
  else if (how < 0.3 && !Array.isArray(value)) copy[String(pick(random, nasty))] = copy[key]
  else copy[key] = changed(copy[key], random)
  return copy
}

/** A damaged text: its JSON changed, a key twice, a byte flipped, or cut off. */
const damaged = (text: string, random: () => number): string => {
  const how = random()
  const at = Math.floor(random() * text.length)
  if (how < 0.7) {
    try {
      return JSON.stringify(changed(JSON.parse(text), random)) ?? "null"
    } catch {
      // a line of several: as bytes, then
    }
  }
  if (how < 0.8) return text.replace(/"[^"]*":/, (key) => `${key}null,${key}`)
  if (how < 0.9) return text.slice(0, at)
  return text.slice(0, at) + String.fromCharCode(Math.floor(random() * 128)) + text.slice(at + 1)
}

const errors = ["DataError", "CheckpointError"]

/** What went wrong with a read: a stack, an untyped error, or a secret that was read. */
const wrong = (exit: Exit.Exit<unknown, unknown>): string | undefined => {
  if (Exit.isSuccess(exit)) return shows(exit.value) ? "read a file outside the folder" : undefined
  const failure = Option.getOrUndefined(Cause.failureOption(exit.cause)) as { readonly _tag?: string;
    readonly message: string } | undefined
  if (failure === undefined) return `a defect: ${Cause.pretty(exit.cause).slice(0, 400)}`
  if (!errors.includes(failure._tag ?? "")) return `an untyped error: ${String(failure).slice(0, 400)}`
  return shows(failure.message) ? `a message with a file outside: ${failure.message.slice(0, 400)}` : undefined
}

const shows = (value: unknown): boolean =>
  (JSON.stringify(value, (_, one) => typeof one === "bigint" ? String(one) : ArrayBuffer.isView(one) ? "" : one) ?? "")
    .includes(SECRET)

/** Every path below a folder. */
const paths = (folder: string): string => (readdirSync(folder, { recursive: true, encoding: "utf8" })).sort().join("\n")

const config = new ModelConfig({
  vocabSize: 300,
  hiddenSize: 8,
  numHiddenLayers: 1,
  numAttentionHeads: 1,
  intermediateSize: 8,
  maxPositionEmbeddings: 16
})

/** A folder of each kind: a checkpoint in two files, the same as Hugging Face has it, token shards, and a run. */
const make = (root: string) =>
  Effect.gen(function*() {
    const model = Object.fromEntries(
      listParameters(parametersOf(config)).flatMap((
        parameter
      ) => [...toHuggingFace(config, parameter.name, initialValue(config, parameter, 1))])
    )
    const checkpoint = yield* saveModel(join(root, "checkpoint"), { config: huggingFaceConfig(config), model,
      tokenizer: undefined }, 9_700)
    cpSync(checkpoint, join(root, "llama"), { recursive: true })
    rmSync(join(root, "llama/manifest.json"))
    writeFileSync(join(root, "text.jsonl"), `{"text":"one"}\n{"text":"two and more"}\n`)
    yield* tokenize({ data: [{ path: join(root, "text.jsonl") }], tokenizer: "bytes" }, { out: join(root, "shards"),
      workers: 1 })
    const failing = () => Stream.concat(Stream.fromIterable(halves), Stream.fail(new DataError({ detail: "stopped" })))
    yield* Effect.exit(tokenize(halfConfig, { out: join(root, "half"), workers: 1, batch: 10, source: failing }))
    const arm = join(root, "run/seed-1/sinks")
    mkdirSync(arm, { recursive: true })
    cpSync(checkpoint, join(arm, "step-00000000"), { recursive: true })
    const record = { kind: "pretrain", state: "running", started: "2026-01-01T00:00:00Z", versions: {}, seeds: [1],
      arms: ["sinks"], config: {} }
    writeFileSync(join(root, "run/run.json"), JSON.stringify(record))
    yield* keptIn(join(root, "run/result.json"), { seed: 1 }, Effect.succeed(RESULT))
    const holder = { pid: 1, host: "elsewhere", since: "2026-01-01T00:00:00Z",
      token: "0123456789abcdef0123456789abcdef" }
    writeFileSync(join(root, "run/lock"), JSON.stringify(holder))
    const stepped = { _tag: "Evaluated", step: 1, losses: { "heldOut.off": 2 } }
    writeFileSync(join(arm, "metrics.jsonl"), `${JSON.stringify(stepped)}\n`)
  })

const openShards = (path: string) =>
  Effect.gen(function*() {
    const shards = yield* TokenShards.open(path)
    yield* Effect.ensuring(
      Effect.zipRight(
        shards.verify,
        Effect.try({
          try: () =>
            Array.from({ length: shards.documents },
              (_, i) => [shards.name(i), shards.read(i, 0, shards.length(i)).length]),
          catch: (cause) => cause
        })
      ),
      Effect.sync(shards.close)
    )
  })

/** Documents of which some are in finished shards when it stops. */
const halves = Array.from({ length: 8 }, (_, i) => ({ name: `${i}`, source: `${i % 2}`, text: `text ${i}` }))
const halfConfig = { data: [{ path: "none" }], tokenizer: "bytes", shardTokens: 10 } as const

/** Goes on in a copy: what is read is not what it was then. */
const goOn: Reader = (path) =>
  Effect.gen(function*() {
    const copy = mkdtempSync(join(tmpdir(), "memsinks-half-"))
    cpSync(path, copy, { recursive: true })
    const source = () => Stream.fromIterable(halves)
    return yield* Effect.ensuring(
      Effect.zipRight(tokenize(halfConfig, { out: copy, workers: 1, batch: 10, source }), openShards(copy)),
      Effect.sync(() => rmSync(copy, { recursive: true }))
    )
  })

/** What is kept of a result: what is read of it is what was written, whatever is in the file. */
const kept: Reader = (path) =>
  Effect.flatMap(keptIn(`${path}/result.json`, { seed: 1 }, Effect.succeed("anew")), (value) =>
    Effect.try({
      try: () => {
        const text = JSON.stringify(value)
        if (text !== JSON.stringify(RESULT) && value !== "anew") throw new Error(`another result: ${text}`)
        return value
      },
      catch: (cause) => cause
    }))

const RESULT = { arm: "sinks", losses: [1.5, 2], sha256: { a: "b" } }

type Reader = (path: string) => Effect.Effect<unknown, unknown, NodeContext.NodeContext>

/** Who reads which file of which folder. */
const reads: ReadonlyArray<readonly [folder: string, file: string, readers: ReadonlyArray<Reader>]> = [
  ["checkpoint", "manifest.json", [loadFolder, loadInitial]],
  ["checkpoint", "config.json", [loadFolder, loadInitial, inspectCheckpoint]],
  ["llama", "config.json", [loadInitial, inspectCheckpoint]],
  ["llama", "model.safetensors.index.json", [loadInitial]],
  ["llama", "model-00001-of-00002.safetensors", [loadInitial, inspectCheckpoint]],
  ["shards", "dataset.json", [openShards]],
  ["shards", "shard-00000.names.jsonl", [openShards]],
  ["shards", "shard-00000.idx", [openShards]],
  ["half", "tokenize.json", [goOn]],
  ["run", "result.json", [kept]],
  ["run", "run.json", [(path) => Effect.sync(() => listRuns(path))]],
  ["run", "lock", [(path) => Effect.sync(() => RunLock.peek(path)), (path) => Effect.sync(() => listRuns(path))]],
  ["run", "seed-1/sinks/metrics.jsonl", [(path) => Effect.sync(() => listRuns(path))]]
]

/** Changes a header of safetensors as JSON, with its length made right or wrong; other binary files as bytes. */
const damagedBytes = (bytes: Uint8Array, isTensors: boolean, random: () => number): Uint8Array => {
  if (!isTensors || random() < 0.2) {
    const copy = Uint8Array.from(bytes)
    for (let n = 0; n < 4; n++) copy[Math.floor(random() * Math.min(copy.length, 400))] = Math.floor(random() * 256)
    return copy
  }
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true))
  const header = new TextEncoder().encode(
    damaged(new TextDecoder().decode(bytes.subarray(8, 8 + length)).trim(), random)
  )
  const prefix = new Uint8Array(8)
  const stated = pick(random, [BigInt(header.length), BigInt(header.length), BigInt(header.length), 2n ** 60n,
    2n ** 64n - 1n, 0n])
  new DataView(prefix.buffer).setBigUint64(0, stated, true)
  return Buffer.concat([prefix, header, bytes.subarray(8 + length)])
}

/** A manifest that says it is whole, whatever it lists. */
const signed = (text: string): string => {
  try {
    const { self: _, ...manifest } = JSON.parse(text) as { readonly self: unknown }
    const self = createHash("sha256").update(JSON.stringify(manifest)).digest("hex")
    return `${JSON.stringify({ ...manifest, self }, null, 2)}\n`
  } catch {
    return text
  }
}

const folders: Fuzzer = {
  name: "JSON of checkpoints, shards and runs",
  run: async (random, inputs, note) => {
    const root = mkdtempSync(join(tmpdir(), "memsinks-outside-"))
    const failures: Array<string> = []
    try {
      const inside = join(root, "in/side")
      mkdirSync(inside, { recursive: true })
      for (const place of [root, join(root, "in")]) {
        writeFileSync(join(place, "secret.json"), JSON.stringify({ [SECRET]: SECRET }))
      }
      await Effect.runPromise(Effect.provide(make(inside), NodeContext.layer))
      const before = paths(root)
      for (let i = 0; i < inputs; i++) {
        const [folder, file, readers] = pick(random, reads)
        const at = join(inside, folder, file)
        const whole = readFileSync(at)
        const isTensors = file.endsWith(".safetensors")
        const text = isTensors || file.endsWith(".idx") ? undefined : damaged(whole.toString("utf8"), random)
        const bytes = text === undefined
          ? damagedBytes(whole, isTensors, random)
          : new TextEncoder().encode(file === "manifest.json" ? signed(text) : text)
        writeFileSync(at, bytes)
        for (const read of readers) {
          const exit = await Effect.runPromiseExit(Effect.provide(read(join(inside, folder)), NodeContext.layer))
          note(outcomeOf(exit))
          const what = wrong(exit)
          if (what !== undefined) {
            failures.push(`${folder}/${file} as ${Buffer.from(bytes).toString("base64").slice(0, 2000)}: ${what}`)
          }
        }
        writeFileSync(at, whole)
      }
      if (paths(root) !== before) failures.push(`files came or went: ${paths(root)}`)
    } finally {
      rmSync(root, { recursive: true, force: true })
    }
    return failures
  }
}

const COMMIT = "0123456789abcdef0123456789abcdef01234567"
const CONTENT = `{"text":"content"}\n`

const hub: Fuzzer = {
  name: "answers of a hub",
  run: async (random, inputs, note) => {
    const root = mkdtempSync(join(tmpdir(), "memsinks-outside-"))
    const cache = join(root, "in/side")
    const failures: Array<string> = []
    let answers: Readonly<Record<"revision" | "tree" | "file", string>> = { revision: "", tree: "", file: "" }
    const server = createServer(({ url = "" }, response) => {
      response.end(url.includes("/revision/") ? answers.revision : url.includes("/tree/") ? answers.tree : answers.file)
    })
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
    const known = ["HF_ENDPOINT", "HF_HOME", "HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"]
    const kept = known.map((name) => [name, process.env[name]] as const)
    try {
      for (const name of known) delete process.env[name]
      process.env["HF_ENDPOINT"] = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
      process.env["HF_HOME"] = cache
      const secret = `{"text":"${SECRET}"}`
      writeFileSync(join(root, "secret.json"), secret)
      const oid = createHash("sha1").update(`blob ${CONTENT.length}\0${CONTENT}`).digest("hex")
      const sound = {
        revision: JSON.stringify({ sha: COMMIT }),
        tree: JSON.stringify([{ type: "file", path: "a.jsonl", size: CONTENT.length, oid }]),
        file: CONTENT
      }
      for (let i = 0; i < inputs; i++) {
        rmSync(cache, { recursive: true, force: true })
        const one = pick(random, ["revision", "tree", "tree", "tree", "file"] as const)
        answers = { ...sound, [one]: one === "file" && random() < 0.5 ? secret : damaged(sound[one], random) }
        const exit = await Effect.runPromiseExit(Effect.tryPromise({
          try: async (signal) => {
            const files = await hubFiles("hf://datasets/ann/odd", undefined, { signal, pauseMillis: 1 })
            return Promise.all(files.map(async (file) => readFileSync(await file.locate(signal), "utf8")))
          },
          catch: (cause) => cause
        }))
        note(outcomeOf(exit, (texts) => texts.join("")))
        const what = wrong(exit) ??
          (Exit.isSuccess(exit) && exit.value.some((text) => text !== CONTENT) ? "other data" : undefined)
        const touched = readdirSync(root).filter((name) => !["in", "secret.json"].includes(name))
        const beside = existsSync(join(root, "in"))
          ? readdirSync(join(root, "in")).filter((name) => name !== "side")
          : []
        if (what !== undefined || touched.length + beside.length > 0) {
          failures.push(`${JSON.stringify(answers)}: ${what ?? `wrote ${[...touched, ...beside].join(", ")}`}`)
        }
      }
    } finally {
      for (const [name, value] of kept) {
        if (value === undefined) delete process.env[name]
        else process.env[name] = value
      }
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
      rmSync(root, { recursive: true, force: true })
    }
    return failures
  }
}

export const fuzzers: ReadonlyArray<Fuzzer> = [hub, folders]
