import { compress, init } from "@bokuweb/zstd-wasm"
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as FileSystem from "@effect/platform/FileSystem"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { parquetWriteBuffer } from "hyparquet-writer"
import { Buffer } from "node:buffer"
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { brotliCompressSync, gzipSync } from "node:zlib"
import { beforeAll, describe, expect, it } from "vitest"
import { type Document, type SourceSpecInput, stream } from "../../src/data/Source.ts"
import { decompressed } from "../../src/data/source/Bytes.ts"
import { kindOf, type SourceFile } from "../../src/data/source/Files.ts"
import { jsonlDocuments } from "../../src/data/source/Jsonl.ts"
import { linesOf } from "../../src/data/source/Lines.ts"
import { parquetDocuments } from "../../src/data/source/Parquet.ts"
import { textDocuments } from "../../src/data/source/Text.ts"
import type { DataError } from "../../src/Errors.ts"
import { makeRecords, measured, toJsonl } from "../bench/source.ts"
import { makeRandom } from "../reference/random.ts"

const pagesV1 = new URL("../fixtures/pages-v1.parquet", import.meta.url)

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

const jsonl = (records: ReadonlyArray<unknown>): string =>
  records.map((record) => `${JSON.stringify(record)}\n`).join("")

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
    const spec = { path: "b.ndjson", textField: "body.raw", idField: "key", sourceField: "url" }
    expect(await read({ "b.ndjson": others }, spec)).toEqual([
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
    expect(await after({ body: 1, site: "x" })).toMatch(/a\.jsonl: line 2 has no field "text"; it has: body, site\. To/)
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

  it("is read as others write it: pages of version 1, dictionaries, nulls", async () => {
    // written by pyarrow 25 in 2 groups of rows, pages of 512 bytes, zstd
    expect(await read({ "v1.parquet": readFileSync(pagesV1) }, { path: "v1.parquet", sourceField: "site" })).toEqual(
      Array.from({ length: 300 }, (_, i) => ({
        name: i % 5 === 0 ? `v1.parquet:${i + 1}` : `d${i}`,
        text: i % 3 === 0 ? "again and again" : `“${i}” naïve 文字 🙂`,
        source: i % 2 ? "odd" : "even"
      }))
    )
  })

  it("gives fields inside others, and columns whose names have dots", async () => {
    const sites = ["x", null, "y"]
    const nested = new Uint8Array(parquetWriteBuffer({
      columnData: [
        { name: "a.text", data: ["one", "two", "three"] },
        { name: "meta", data: sites.map((site) => ({ site })) }
      ],
      rowGroupSize: 2,
      schema: [
        { name: "root", num_children: 2 },
        { name: "a.text", type: "BYTE_ARRAY", converted_type: "UTF8", repetition_type: "REQUIRED" },
        { name: "meta", repetition_type: "OPTIONAL", num_children: 1 },
        { name: "site", type: "BYTE_ARRAY", converted_type: "UTF8", repetition_type: "OPTIONAL" }
      ]
    }))
    const spec = { path: "n.parquet", textField: "a.text", sourceField: "meta.site" }
    expect(await read({ "n.parquet": nested }, spec)).toEqual([
      { name: "n.parquet:1", text: "one", source: "x" },
      { name: "n.parquet:2", text: "two", source: "n.parquet" },
      { name: "n.parquet:3", text: "three", source: "y" }
    ])
  })

  it("is decoded a page at a time: what is before a damaged one has been given", async () => {
    const file = parquet({ codec: "UNCOMPRESSED", rowGroupSize: 500, pageSize: 4000 })
    const last = Buffer.from(file).lastIndexOf(bytes("“499”"))
    file[last] = 0xff
    const seen: Array<string> = []
    const reading = (async () => {
      const path = join(mkdtempSync(join(tmpdir(), "memsinks-")), "a.parquet")
      try {
        writeFileSync(path, file)
        for await (const batch of parquetDocuments(path, fileOf("a.parquet"), fields, noTally)) {
          seen.push(...batch.map((d) => d.name))
        }
      } finally {
        rmSync(dirname(path), { recursive: true })
      }
    })()
    await expect(reading).rejects.toThrow(/a\.parquet: row 4\d\d: cannot be read as Parquet: a text is not UTF-8/)
    expect(seen.length).toBeGreaterThan(400)
    expect(seen).toEqual(records.slice(0, seen.length).map(({ id }) => id))
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
    expect(await message(files, { path: "null.parquet" })).toMatch(/null\.parquet: row 3 has a field "text" that/)
  })
})

describe("a folder", () => {
  it("gives records of all kinds sorted by path, and passes over what is not data", async () => {
    const files: Files = {
      "f/b.txt": "text",
      "f/a/z.jsonl.gz": gzipSync(jsonl([{ text: "one" }, { text: " " }, { text: "two" }])),
      "f/Z.parquet": new Uint8Array(
        parquetWriteBuffer({ columnData: [{ name: "text", data: ["row"], type: "STRING" }] })
      ),
      "f/a.json.zst": zstd(jsonl([{ text: "note" }, { text: "next" }])),
      "f/a/empty.ndjson": " \n",
      "f/config.json": "{}",
      "f/a.parquet.gz": "no",
      "f/table.csv": "a,b"
    }
    expect(await read(files, { path: "f" })).toEqual([
      { name: "Z.parquet:1", text: "row", source: "Z.parquet" },
      { name: "a.json.zst:1", text: "note", source: "a.json.zst" },
      { name: "a.json.zst:2", text: "next", source: "a.json.zst" },
      { name: "a/z.jsonl.gz:1", text: "one", source: "a/z.jsonl.gz" },
      { name: "a/z.jsonl.gz:3", text: "two", source: "a/z.jsonl.gz" }
    ])
  })

  it("that is laid out in splits gives the one that is asked for", async () => {
    const files = { "f/train/a.txt": "A", "f/train/b.txt": "B", "f/dev/c.txt": "C", "f/README.md": "D" }
    expect((await read(files, { path: "f" }) as ReadonlyArray<Document>).map((d) => d.text).join("")).toBe("DCAB")
    expect((await read(files, { path: "f", split: "train" }) as ReadonlyArray<Document>).map((d) => d.name)).toEqual([
      "train/a.txt",
      "train/b.txt"
    ])
    expect(await message(files, { path: "f", split: "test" })).toMatch(/f: has no split "test"; it has: train, valid/)
    expect(await message(files, { path: "f/README.md", split: "test" })).toMatch(/is a file; a split \("test"\) is of/)
  })

  it("without data says what it has instead", async () => {
    expect(await message({ "f/a.json": "{}", "f/b.csv": "" }, { path: "f" })).toMatch(
      /f: the folder has no .*\.parquet\. It has: a\.json, b\.csv$/
    )
  })
})

/** A generator of bytes cut at places. */
async function* cut(all: Uint8Array, places: ReadonlyArray<number>): AsyncGenerator<Uint8Array> {
  const ends = [...places, all.length]
  for (let i = 0; i < ends.length; i++) yield all.slice(i === 0 ? 0 : ends[i - 1], ends[i])
}

const fileOf = (name: string): SourceFile => ({
  name,
  label: name,
  ...kindOf(name)!,
  locate: () => Promise.resolve(name)
})

const fields = {
  textField: "text",
  idField: "id",
  sourceField: undefined,
  onMissingText: "error",
  maxDocumentBytes: 2 ** 28
} as const

const noTally = { missing: 0, blank: 0 }

/** All documents of a file, trimmed as the stream does, whose bytes come in pieces; or its error. */
const inPieces = async (name: string, all: Uint8Array, places: ReadonlyArray<number>) => {
  const file = fileOf(name)
  const pieces = decompressed(cut(all, places), file)
  const found: Array<Document> = []
  try {
    const batches = file.kind === "jsonl"
      ? jsonlDocuments(pieces, file, fields, noTally)
      : textDocuments(pieces, file, fields)
    for await (const batch of batches) for (const one of batch) found.push({ ...one, text: one.text.trim() })
    return found
  } catch (error) {
    return (error as DataError).message
  }
}

describe("however a file is read in pieces", () => {
  const mark = "\ufeff"
  const end = "<|endoftext|>"
  const text = `${mark}é\r\n${end}\r\n文字 ${end} no\n${end} \n\n🙂${end}\n${end}\nlast\u2028line`
  const lines = `${mark}{"text":"é 文"}\r\n\n {"id":"🙂","text":"a\\n"}\n\r\n{"text":"no line end"}`
  const broken = concat(bytes(`{"text":"é"}\n{"text":"`), Uint8Array.of(0xe6, 0x96, 0x22), bytes(`"}\n`))
  const cases: ReadonlyArray<readonly [name: string, all: () => Uint8Array, expected: unknown]> = [
    [
      "a.txt",
      () => bytes(text),
      [["a.txt#1", "é"], ["a.txt#2", `文字 ${end} no`], ["a.txt#3", `🙂${end}`], ["a.txt#4", "last\u2028line"]]
    ],
    ["one.txt", () => bytes(`${mark}wörd\r\n<|endoftext|\r\n`), [["one.txt", "wörd\r\n<|endoftext|"]]],
    ["a.jsonl", () => bytes(lines), [["a.jsonl:1", "é 文"], ["🙂", "a"], ["a.jsonl:5", "no line end"]]],
    ["a.jsonl.gz", () => gzipSync(lines), [["a.jsonl.gz:1", "é 文"], ["🙂", "a"], ["a.jsonl.gz:5", "no line end"]]],
    [
      "a.jsonl.zst",
      () => concat(zstd(lines), skippable, zstd("\n{\"text\":\"more\"}")),
      [["a.jsonl.zst:1", "é 文"], ["🙂", "a"], ["a.jsonl.zst:5", "no line end"], ["a.jsonl.zst:6", "more"]]
    ],
    ["bad.jsonl", () => broken, "bad.jsonl: is not UTF-8 text: byte 0xe6 at offset 23. Convert the file to UTF-8"],
    ["bad.jsonl", () => bytes(`{"text":"é"}\n{"text":"é\n}`), /^bad\.jsonl: line 2 is not JSON/]
  ]
  /** A frame that says nothing, as some programs put between others. */
  const skippable = Uint8Array.of(0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3)

  for (const [i, [name, make, expected]] of cases.entries()) {
    it(`it gives the same, cut at every byte and at any (${name}, case ${i + 1})`, async () => {
      const all = make()
      const check = async (places: ReadonlyArray<number>): Promise<void> => {
        const found = await inPieces(name, all, places)
        if (typeof found === "string") {
          if (expected instanceof RegExp) expect(found, places.join()).toMatch(expected)
          else expect(found, places.join()).toBe(expected)
        } else {
          const shown = found.filter((d) => d.text !== "").map((d) => [d.name, d.text])
          expect(shown, places.join()).toEqual(expected)
        }
      }
      await check([])
      await check(Array.from({ length: all.length - 1 }, (_, at) => at + 1))
      for (let at = 0; at <= all.length; at++) await check([at])
      const random = makeRandom(5 + i)
      for (let round = 0; round < 40; round++) await check(random.sample(1 + random.int(6), all.length))
    })
  }

  it("a line that is longer than a document can be is named before all of it is held", async () => {
    const read = async (all: string, longest: number): Promise<string> => {
      const found: Array<string> = []
      const places = Array.from({ length: all.length }, (_, at) => at)
      for await (const line of linesOf(cut(bytes(all), places), fileOf("a.txt"), longest)) found.push(`${line.bytes}`)
      return found.join("|")
    }
    expect(await read("four\nfour", 4)).toBe("four\n|four")
    await expect(read("four\nfives", 4)).rejects.toThrow("a.txt: line 2 is longer than 4 bytes")
    await expect(read("four\n\0five", 4)).rejects.toThrow("is a binary file, not text: it has a zero byte at offset 5")
  })
})

describe("damage", () => {
  const cutShort: ReadonlyArray<readonly [name: string, all: () => Uint8Array, message: RegExp]> = [
    ["a.jsonl.gz", () => gzipSync(jsonl(records)), /\.gz: is cut short: its gzip data ends in the middle, \d+ bytes/],
    ["a.jsonl.zst", () => zstd(jsonl(records)), /\.zst: is cut short: its zstd data ends in the middle, \d+ bytes/],
    ["a.parquet", () => parquet(), /a\.parquet: cannot be read as Parquet/]
  ]
  it("by cutting a file short is said, wherever it is cut", async () => {
    for (const [name, make, expected] of cutShort) {
      const all = make()
      for (const at of [1, 7, 17, 100, all.length >> 1, all.length - 9, all.length - 1]) {
        expect(await message({ [name]: all.subarray(0, at) }, { path: name }), `${name} cut at ${at}`).toMatch(expected)
      }
    }
  })

  it("of compressed data is said", async () => {
    const bad = (all: Uint8Array): Uint8Array => all.map((byte, i) => i === all.length >> 1 ? byte ^ 0x55 : byte)
    const text = "plain text, not compressed"
    const files = { "a.txt.gz": bad(gzipSync("a".repeat(9999))), "text.txt.gz": text, "text.txt.zst": text }
    expect(await message(files, { path: "a.txt.gz" })).toMatch(/a\.txt\.gz: is damaged: gzip says/)
    expect(await message(files, { path: "text.txt.gz" })).toMatch(/damaged: gzip says incorrect header check, 0 bytes/)
    expect(await message(files, { path: "text.txt.zst" })).toMatch(/is damaged: zstd says/)
    expect(await message({ "a.txt.gz": gzipSync(Uint8Array.of(0x61, 0xff)) }, { path: "a.txt.gz" })).toMatch(
      /byte 0xff at offset 1\. That is of the decompressed text/
    )
  })

  it("of the counts in a Parquet page is said before it is believed", async () => {
    const file = parquet({ codec: "UNCOMPRESSED", rowGroupSize: 100 })
    // Variable-length numbers: 100 rows is 200 1 in a header, and so is a run of 100 levels, each followed by what is.
    const put = (before: ReadonlyArray<number>, value: number, after: ReadonlyArray<number>): Uint8Array => {
      const at = Buffer.from(file).indexOf(Buffer.from([...before, 200, 1, ...after]))
      expect(at).toBeGreaterThan(0)
      return file.map((byte, i) => i === at + before.length ? value : i === at + before.length + 1 ? 0x7f : byte)
    }
    const files = { "rows.parquet": put([0x15], 0xfe, [0x15, 0]), "run.parquet": put([0], 0xfe, [1]) }
    expect(await message(files, { path: "rows.parquet" })).toMatch(/row 1: .*a page has 8191 rows where 100 are left/)
    expect(await message(files, { path: "run.parquet" })).toMatch(/row 1: .*a run has 8191 values where 100 are left/)
  })

  it("of any bytes of any file gives documents or a DataError that names it, never anything else", async () => {
    const small = records.slice(0, 30)
    const kinds: Files = {
      "a.jsonl": jsonl(small),
      "a.jsonl.gz": gzipSync(jsonl(small)),
      "a.jsonl.zst": zstd(jsonl(small)),
      "a.txt": `one\n<|endoftext|>\nzwö`,
      "a.parquet": parquet({ rowGroupSize: 1000 }),
      "b.parquet": parquet({ codec: "UNCOMPRESSED", rowGroupSize: 100, pageSize: 2000 }),
      "v1.parquet": readFileSync(pagesV1)
    }
    const random = makeRandom(1)
    const outcomes = { documents: 0, errors: 0 }
    for (const [name, content] of Object.entries(kinds)) {
      const all = typeof content === "string" ? bytes(content) : content
      for (let round = 0; round < 20; round++) {
        const mutated = all.slice()
        // The footer of Parquet says how the rest is read: half of the damage goes there.
        const low = round % 2 && name.endsWith(".parquet") ? Math.max(0, all.length - 1500) : 0
        for (let i = 0; i <= round % 4; i++) mutated[low + random.int(all.length - low)] = random.int(256)
        const found = await read({ [name]: mutated }, { path: name })
        if (Array.isArray(found)) outcomes.documents++
        else {
          outcomes.errors++
          expect(found).toHaveProperty("_tag", "DataError")
          expect((found as DataError).message).toContain(name)
        }
      }
    }
    expect(outcomes.errors).toBeGreaterThan(70)
    expect(outcomes.documents).toBeGreaterThan(10)
  })
})

describe("a source", () => {
  it("of a kind that is not read is refused, and an unknown name is text", async () => {
    const files = {
      "a.csv": "text\n1",
      "a.tar.gz": gzipSync("x"),
      "notes": "plain",
      "a.py.gz": gzipSync("code"),
      "b.gz": gzipSync(" ")
    }
    expect(await message(files, { path: "a.csv" })).toMatch(/a\.csv: is a kind of file that is not read\. Known are/)
    expect(await message(files, { path: "a.tar.gz" })).toMatch(/is a kind of file that is not read/)
    expect(await message(files, { path: "b.gz" })).toMatch(/b\.gz: the file is empty/)
    expect(await read(files, { path: "notes" })).toEqual([{ name: "notes", text: "plain", source: "notes" }])
    expect(await read(files, { path: "a.py.gz" })).toEqual([{ name: "a.py.gz", text: "code", source: "a.py.gz" }])
  })

  it("that is missing, or configured wrongly, is explained", async () => {
    expect(await message({}, { path: "gone.jsonl" })).toMatch(/gone\.jsonl: there is no such file or folder/)
    expect(await message({}, { path: "a", textfield: "b" } as SourceSpecInput)).toMatch(/Did you mean textField\?/)
  })

  it("takes no more memory when it is larger", () => {
    const folder = mkdtempSync(join(tmpdir(), "memsinks-"))
    try {
      const block = toJsonl(makeRecords(1))
      const path = join(folder, "a.jsonl")
      writeFileSync(path, "")
      for (let i = 0; i < 16; i++) appendFileSync(path, block)
      const { characters, heap } = measured(path, 64)
      expect(characters).toBeGreaterThan(64e6)
      expect(heap).toBeLessThan(90e6)
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  it("gives what comes before the damage, and closes its files when no more is taken", async () => {
    const taken = await Effect.gen(function*() {
      const fs = yield* FileSystem.FileSystem
      const folder = yield* fs.makeTempDirectoryScoped()
      const path = `${folder}/a.jsonl`
      const many = Array.from({ length: 3000 }, (_, i) => ({ text: `${i} ${"words ".repeat(200)}` }))
      yield* fs.writeFileString(path, `${jsonl(many)}damage\n`)
      const open = Effect.map(fs.readDirectory("/proc/self/fd"), (names) => names.length)
      const before = yield* open
      const some = yield* stream({ path }).pipe(Stream.take(1100), Stream.runCount)
      const after = yield* open
      const all = yield* stream({ path }).pipe(Stream.runCount, Effect.flip)
      const leaked = Math.max(after, yield* open) - before
      return { some, leaked, message: all.message }
    }).pipe(Effect.scoped, Effect.provide(NodeFileSystem.layer), Effect.runPromise)
    expect(taken).toMatchObject({ some: 1100, leaked: 0 })
    expect(taken.message).toMatch(/line 3001 is not JSON/)
  })
})
