/** Files that are damaged in some bytes: each is read, or refused with a `DataError` that names it. */
import { compress, init } from "@bokuweb/zstd-wasm"
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as Stream from "effect/Stream"
import { gzipSync } from "fflate"
import { decompress } from "fzstd"
import { parquetWriteBuffer } from "hyparquet-writer"
import { Buffer } from "node:buffer"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { stream } from "../../src/data/Source.ts"
import { loadZstd, unzstd } from "../../src/data/source/Zstd.ts"
import { DataError } from "../../src/Errors.ts"
import { type Fuzzer, outcomeOf } from "./fuzz.ts"

type Random = () => number

/** The encoder is loaded once: a second time it would be replaced while it is used. */
let loading: Promise<void> | undefined
export const ready = (): Promise<void> => loading ??= init()

const int = (random: Random, below: number): number => Math.floor(random() * below)

/** Bytes with some changed, cut out, repeated, or put in: mostly one, mostly small. */
const damage = (bytes: Uint8Array, random: Random): Uint8Array => {
  let all = Buffer.from(bytes)
  for (let times = 1 + int(random, 3); times > 0; times--) {
    const at = int(random, all.length + 1)
    const length = 1 + int(random, 1 + int(random, 40))
    switch (int(random, 6)) {
      case 0:
        all = all.subarray(0, at)
        break
      case 1:
        all = Buffer.concat([all.subarray(0, at), all.subarray(at + length)])
        break
      case 2:
        all = Buffer.concat([all.subarray(0, at), all.subarray(Math.max(0, at - length), at), all.subarray(at)])
        break
      case 3:
        all = Buffer.concat([all.subarray(0, at), Buffer.from(Uint8Array.from({ length }, () => int(random, 256))),
          all.subarray(at)])
        break
      default:
        if (at < all.length) {
          all = Buffer.from(all)
          all[at] = random() < 0.5 ? all[at]! ^ (1 << int(random, 8)) : int(random, 256)
        }
    }
  }
  return all
}

interface Outcome {
  readonly texts: ReadonlyArray<string> | undefined
  readonly failure: string | undefined
  /** As it is noted. */
  readonly came: string
}

/** What reading a file gives: its texts, or neither where it is refused as it should be. */
const read = async (path: string): Promise<Outcome> => {
  const exit = await stream({ path, ...(path.endsWith(".txt") ? {} : { sourceField: "user" }) }).pipe(
    Stream.runCollect,
    Effect.provide(Logger.remove(Logger.defaultLogger)),
    Effect.provide(NodeFileSystem.layer),
    Effect.runPromiseExit
  )
  const came = outcomeOf(exit, (documents) =>
    JSON.stringify(
      Array.from(documents, ({ name, source, text }) => [name.replace(path, ""), source.replace(path, ""), text])
    ))
  if (exit._tag === "Success") {
    return { texts: Chunk.toReadonlyArray(exit.value).map(({ text }) => text), failure: undefined, came }
  }
  const { cause } = exit
  if (cause._tag !== "Fail") {
    return { came, texts: undefined, failure: `no typed error: ${String(cause).slice(0, 300)}` }
  }
  const { error } = cause
  return {
    came,
    texts: undefined,
    failure: error instanceof DataError && error.message.startsWith(path) && error.detail.length > 10
      ? undefined
      : `a message that names no file: ${error.message}`
  }
}

/** Damages what `make` gives, which must itself be read. */
const fuzzer = (name: string, file: string, make: (random: Random) => Uint8Array): Fuzzer => ({
  name,
  run: async (random, inputs, note) => {
    await ready()
    const folder = mkdtempSync(join(tmpdir(), "memsinks-"))
    const path = join(folder, file)
    const failures: Array<string> = []
    try {
      let sound: Uint8Array = new Uint8Array(0)
      for (let i = 0; i < inputs; i++) {
        if (i % 50 === 0) {
          sound = make(random)
          writeFileSync(path, sound)
          const { came, failure, texts } = await read(path)
          note(came)
          if (texts === undefined) failures.push(`${name}: the file itself is refused: ${failure}`)
        }
        const bad = damage(sound, random)
        writeFileSync(path, bad)
        const began = performance.now()
        const { came, failure } = await read(path)
        note(came)
        const seconds = (performance.now() - began) / 1000
        const problem = failure ?? (seconds > 10 ? `${seconds.toFixed(1)} s` : undefined)
        if (problem !== undefined) failures.push(`${name}: ${problem}: ${Buffer.from(bad).toString("base64")}`)
      }
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
    return failures
  }
})

const words = ["one", "zwei", "trois", "四", "🙂", "\\", "\"", "<|endoftext|>", "\u2028", "{", "[1e9,"]

const text = (random: Random): string =>
  Array.from({ length: 1 + int(random, 30) }, () => words[int(random, words.length)]).join(" ")

const records = (random: Random) =>
  Array.from({ length: 1 + int(random, 20) }, (_, i) => ({
    id: `d${i}`,
    text: text(random),
    user: String(9007199254740992n + BigInt(int(random, 5)))
  }))

const jsonl = (random: Random): Uint8Array =>
  Buffer.from(
    records(random).map(({ user, ...rest }) => `${JSON.stringify(rest).slice(0, -1)},"user":${user}}`).join("\n")
  )

const parquet = (codec: "UNCOMPRESSED" | "SNAPPY" | "GZIP" | "ZSTD") => (random: Random): Uint8Array => {
  const rows = records(random)
  const compressors = {
    // not that of the runtime, whose bytes are its own
    GZIP: (bytes: Uint8Array) => gzipSync(bytes, { mtime: 0 }),
    ZSTD: (bytes: Uint8Array) => compress(Buffer.from(bytes), 3)
  }
  return new Uint8Array(parquetWriteBuffer({
    columnData: [
      { name: "id", data: rows.map(({ id }) => id), type: "STRING" },
      { name: "text", data: rows.map((row) => row.text), type: "STRING" },
      { name: "user", data: rows.map(({ user }) => BigInt(user)), type: "INT64" }
    ],
    codec,
    compressors,
    rowGroupSize: 7
  }))
}

/** Bytes of text that compress in many ways. */
const compressible = (random: Random): Uint8Array => {
  const parts = Array.from({ length: 1 + int(random, 20) }, () => {
    const part = random() < 0.3
      ? Buffer.alloc(int(random, 300_000), int(random, 256))
      : Buffer.from(text(random).repeat(1 + int(random, 50)))
    return random() < 0.2 ? Buffer.from(part.map(() => int(random, 256))) : part
  })
  return Buffer.concat([...parts, ...parts.slice(0, int(random, 5))])
}

const agreement: Fuzzer = {
  name: "zstd of two decoders",
  run: async (random, inputs, note) => {
    await ready()
    await loadZstd()
    const failures: Array<string> = []
    for (let i = 0; i < inputs; i++) {
      const wanted = compressible(random)
      const level = 1 + int(random, 15)
      const frame = compress(Buffer.from(wanted), level)
      note(Buffer.from(frame).toString("base64"))
      const differs = (found: Uint8Array): boolean => Buffer.compare(found, wanted) !== 0
      if (differs(unzstd(frame, wanted.length))) {
        failures.push(`input ${i}, level ${level}: other bytes than compressed`)
      }
      if (differs(decompress(frame))) failures.push(`input ${i}, level ${level}: fzstd gives other bytes`)
    }
    return failures
  }
}

/** Fuzzers of all kinds of files that data is read from. */
export const fuzzers: ReadonlyArray<Fuzzer> = [
  fuzzer("text", "a.txt", (random) => Buffer.from(text(random).replaceAll(/ (<.*?>) /g, "\n$1\n"))),
  fuzzer("JSONL", "a.jsonl", jsonl),
  fuzzer("JSONL in gzip", "a.jsonl.gz", (random) => gzipSync(jsonl(random), { mtime: 0 })),
  fuzzer("JSONL in zstd", "a.jsonl.zst", (random) => compress(Buffer.from(jsonl(random)), 3)),
  fuzzer(
    "text in zstd with a checksum",
    "a.txt.zst",
    () => Buffer.from("KLUv/QRY9QAAwGEgdGV4dCB3aXRoIGEgY2hlY2tzdW0sIAEArDLHFGTq5A==", "base64")
  ),
  ...(["UNCOMPRESSED", "SNAPPY", "GZIP", "ZSTD"] as const).map((codec) =>
    fuzzer(`Parquet, ${codec}`, "a.parquet", parquet(codec))
  ),
  agreement
]
