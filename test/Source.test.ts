import * as FileSystem from "@effect/platform/FileSystem"
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import { compress, init } from "@bokuweb/zstd-wasm"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { parquetWriteBuffer } from "hyparquet-writer"
import { Buffer } from "node:buffer"
import { brotliCompressSync, gzipSync } from "node:zlib"
import { beforeAll, describe, expect, it } from "vitest"
import type { DataError } from "../src/Errors.ts"
import { type Document, type SourceSpecInput, stream } from "../src/Source.ts"
import type { SourceFile } from "../src/source/Files.ts"
import { linesOf } from "../src/source/Lines.ts"
import { makeRandom } from "./reference/random.ts"

type Files = Readonly<Record<string, string | Uint8Array>>

beforeAll(() => init())

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)

/** Writes files to a temporary folder and streams the source `path` in it; its name is taken out of names. */
const read = (files: Files, spec: SourceSpecInput): Promise<ReadonlyArray<Document> | DataError> =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const folder = yield* fs.makeTempDirectoryScoped()
    for (const [path, content] of Object.entries(files)) {
      yield* fs.makeDirectory(`${folder}/${path}`.replace(/\/[^/]*$/, ""), { recursive: true })
      yield* fs.writeFile(`${folder}/${path}`, typeof content === "string" ? bytes(content) : content)
    }
    const found = yield* stream({ ...spec, path: `${folder}/${spec.path}` }).pipe(Stream.runCollect, Effect.merge)
    if (!Chunk.isChunk(found)) return found
    const plain = (name: string): string => name.replace(`${folder}/`, "")
    return Chunk.toReadonlyArray(found).map((d) => ({ ...d, name: plain(d.name), source: plain(d.source) }))
  }).pipe(Effect.scoped, Effect.provide(NodeFileSystem.layer), Effect.runPromise)

const message = async (files: Files, spec: SourceSpecInput): Promise<string> => {
  const found = await read(files, spec)
  expect(found).toHaveProperty("_tag", "DataError")
  return (found as DataError).message
}

const jsonl = (records: ReadonlyArray<unknown>): string => records.map((record) => `${JSON.stringify(record)}\n`).join("")

const concat = (...parts: ReadonlyArray<Uint8Array>): Uint8Array => new Uint8Array(Buffer.concat(parts))

/** A zstd frame whose block is stored or compressed as the encoder sees fit. */
const zstd = (text: string): Uint8Array => compress(bytes(text), 3)

const records = Array.from({ length: 500 }, (_, i) => ({
  id: `d${i}`,
  text: `“${i}” ${"naïve words, ünd 文字 🙂 ".repeat(i % 40)}.`,
  meta: { site: i % 2 ? "odd" : "even" }
}))

const expected = records.map(({ id, meta, text }) => ({ name: id, text, source: meta.site }))

const parquet = (options: Partial<Parameters<typeof parquetWriteBuffer>[0]> = {}): Uint8Array =>
  new Uint8Array(parquetWriteBuffer({
    columnData: [
      { name: "id", data: records.map(({ id }) => id), type: "STRING" },
      { name: "unused", data: records.map((_, i) => i), type: "INT32" },
      { name: "text", data: records.map(({ text }) => text), type: "STRING" },
      { name: "site", data: records.map(({ meta }) => meta.site), type: "STRING" }
    ],
    rowGroupSize: 150,
    ...options
  }))

describe("JSONL", () => {
  it("gives text, id and source of each line, whichever fields they are in", async () => {
    expect(await read({ "a.jsonl": jsonl(records) }, { path: "a.jsonl", sourceField: "meta.site" })).toEqual(expected)
    const others = jsonl([{ "body.raw": "one", key: 5, url: null }, { body: { raw: "two" }, url: 7 }])
    expect(
      await read({ "b.ndjson": others }, { path: "b.ndjson", textField: "body.raw", idField: "key", sourceField: "url" })
    ).toEqual([
      { name: "5", text: "one", source: "b.ndjson" },
      { name: "b.ndjson:2", text: "two", source: "7" }
    ])
  })

  it("is the same plain, in gzip and in zstd, in one member or frame or several", async () => {
    const text = jsonl(records)
    const half = text.length >> 1
    const parts = [text.slice(0, half), text.slice(half)]
    const kinds: Files = {
      "a.jsonl": text,
      "a.jsonl.gz": gzipSync(text),
      "b.ndjson.gz": concat(...parts.map((part) => gzipSync(part))),
      "a.jsonl.zst": zstd(text),
      "b.json.zst": concat(...parts.map(zstd)),
      "a.json": text
    }
    for (const path of Object.keys(kinds)) {
      expect([path, await read(kinds, { path, sourceField: "meta.site" })]).toEqual([path, expected])
    }
  })

  it("names the line that has no such field, and lists those it has", async () => {
    const after = (record: unknown, spec: Partial<SourceSpecInput> = {}) =>
      message({ "a.jsonl": jsonl([{ text: "fine", site: "x" }, record]) }, { path: "a.jsonl", ...spec })
    expect(await after({ body: 1, site: "x" })).toMatch(/a\.jsonl: line 2 has no field "text"; it has: body, site$/)
    expect(await after({ text: "t", url: 1 }, { sourceField: "site" })).toMatch(
      /line 2 has no field "site"; it has: text, url$/
    )
    expect(await after({ text: "t", site: {} }, { sourceField: "site" })).toMatch(/"site" that names no source: \{\}/)
    expect(await after({ text: null })).toMatch(/line 2 has a field "text" that is not a string/)
  })

  it("that is one JSON array is told apart", async () => {
    expect(await message({ "a.json": `[\n{"text": "a"}]` }, { path: "a.json" })).toMatch(
      /line 1 is not JSON.*an object a line/
    )
  })
})

describe("Parquet", () => {
  it("gives text, id and source of each row, whatever compresses it", async () => {
    const codecs = {
      UNCOMPRESSED: (input: Uint8Array) => input,
      SNAPPY: undefined,
      GZIP: (input: Uint8Array) => new Uint8Array(gzipSync(input)),
      BROTLI: (input: Uint8Array) => new Uint8Array(brotliCompressSync(input)),
      ZSTD: (input: Uint8Array) => compress(Buffer.from(input), 3)
    } as const
    for (const codec of ["UNCOMPRESSED", "SNAPPY", "GZIP", "BROTLI", "ZSTD"] as const) {
      const compressor = codecs[codec]
      const file = parquet({ codec, ...(compressor ? { compressors: { [codec]: compressor } } : {}) })
      expect([codec, await read({ "a.parquet": file }, { path: "a.parquet", sourceField: "site" })]).toEqual([
        codec,
        expected
      ])
    }
  })

  it("names columns that are not there, and rows without text", async () => {
    const files = {
      "a.parquet": parquet(),
      "null.parquet": new Uint8Array(
        parquetWriteBuffer({ columnData: [{ name: "text", data: ["a", "b", null, "d"], type: "STRING" }] })
      )
    }
    expect(await message(files, { path: "a.parquet", textField: "body" })).toMatch(
      /a\.parquet: has no column "body"; it has: id, unused, text, site$/
    )
    expect(await message(files, { path: "a.parquet", sourceField: "url" })).toMatch(/has no column "url"/)
    expect(await message(files, { path: "a.parquet", textField: "unused" })).toMatch(
      /row 1 has a field "unused" that is not a string/
    )
    expect(await message(files, { path: "null.parquet" })).toMatch(/null\.parquet: row 3 has a field "text" that is not/)
  })
})

describe("a folder", () => {
  it("gives files of all kinds sorted by path, and passes over what is not data", async () => {
    const files: Files = {
      "f/b.txt": "text",
      "f/a/z.jsonl.gz": gzipSync(jsonl([{ text: "one" }, { text: " " }, { text: "two" }])),
      "f/Z.parquet": new Uint8Array(
        parquetWriteBuffer({ columnData: [{ name: "text", data: ["row"], type: "STRING" }] })
      ),
      "f/a.md.zst": zstd("note\n<|endoftext|>\nnext"),
      "f/a/empty.txt": " \n",
      "f/config.json": "{}",
      "f/a.parquet.gz": "no",
      "f/table.csv": "a,b"
    }
    expect(await read(files, { path: "f" })).toEqual([
      { name: "Z.parquet:1", text: "row", source: "Z.parquet" },
      { name: "a.md.zst#1", text: "note", source: "a.md.zst" },
      { name: "a.md.zst#2", text: "next", source: "a.md.zst" },
      { name: "a/z.jsonl.gz:1", text: "one", source: "a/z.jsonl.gz" },
      { name: "a/z.jsonl.gz:3", text: "two", source: "a/z.jsonl.gz" },
      { name: "b.txt", text: "text", source: "b.txt" }
    ])
  })

  it("without data says what it has instead", async () => {
    expect(await message({ "f/a.json": "{}", "f/b.csv": "" }, { path: "f" })).toMatch(
      /f: the folder has no .*\.parquet\. It has: a\.json, b\.csv$/
    )
  })
})
