/** The data stream over token shards on disk, and over whole texts. */
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as Chunk from "effect/Chunk"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { type Batch, IGNORE } from "../../../src/Batch.ts"
import type { Document } from "../../../src/data/Corpus.ts"
import { contentHash, sourceHash } from "../../../src/data/identity/Identity.ts"
import { makeNearIndex } from "../../../src/data/identity/NearDuplicates.ts"
import { type DataConfigInput, DataStream } from "../../../src/data/stream/DataStream.ts"
import * as Tokenizer from "../../../src/data/tokens/Tokenizer.ts"

type Service = typeof DataStream.Service

let root = ""
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "memsinks-shards-"))
})
afterAll(() => rmSync(root, { recursive: true, force: true }))

const texts: ReadonlyArray<Document> = Array.from({ length: 60 }, (_, i) => ({
  name: `doc${i}`,
  source: ["web", "books"][i % 2]!,
  text: `${i} is the number of this document; ${"so it goes on ".repeat(i % 7)}and ends with ${i * i}.`
}))

/** Writes texts as a folder of token shards, `perShard` documents each. */
const write = (
  name: string,
  documents: ReadonlyArray<Document>,
  perShard: number,
  near?: (i: number) => number
): string => {
  const folder = join(root, name)
  mkdirSync(folder)
  const sources = [...new Set(documents.map(({ source }) => source!))]
  const sha256: Record<string, string> = { "tokenizer.json": "0".repeat(64) }
  const shards: Array<{ file: string; tokens: number; documents: number }> = []
  let all = 0
  for (let first = 0; first < documents.length; first += perShard) {
    const some = documents.slice(first, first + perShard)
    const ids = some.map(({ text }) => Tokenizer.bytes.encode(text))
    const stem = `shard-0000${shards.length}`
    const index = new DataView(new ArrayBuffer(32 * some.length))
    let start = 0
    for (const [i, { source, text }] of some.entries()) {
      index.setBigUint64(32 * i, BigInt(start), true)
      index.setUint32(32 * i + 8, ids[i]!.length, true)
      index.setUint32(32 * i + 12, sources.indexOf(source!), true)
      index.setBigUint64(32 * i + 16, contentHash(text), true)
      index.setBigUint64(32 * i + 24, BigInt(near?.(first + i) ?? first + i), true)
      start += ids[i]!.length
    }
    writeFileSync(join(folder, `${stem}.bin`), Uint16Array.from(ids.flatMap((one) => Array.from(one))))
    writeFileSync(join(folder, `${stem}.idx`), new Uint8Array(index.buffer))
    writeFileSync(join(folder, `${stem}.names.jsonl`), some.map(({ name }) => `${JSON.stringify(name)}\n`).join(""))
    for (const end of ["bin", "idx", "names.jsonl"]) sha256[`${stem}.${end}`] = "0".repeat(64)
    shards.push({ file: `${stem}.bin`, tokens: start, documents: some.length })
    all += start
  }
  writeFileSync(join(folder, "tokenizer.json"), Tokenizer.bytes.toJSON())
  writeFileSync(
    join(folder, "dataset.json"),
    JSON.stringify({
      format: 1,
      tokenizer: "tokenizer.json",
      vocabSize: 256,
      dtype: "uint16",
      tokens: all,
      documents: documents.length,
      bytes: all,
      sources,
      ...(near === undefined
        ? {}
        : { near: { threshold: 0.8, numHashes: 128, shingle: 5, clusters: 1, documents: 2 } }),
      shards,
      sha256
    })
  )
  return folder
}

const load = (config: DataConfigInput): Promise<Service> =>
  Effect.runPromise(
    DataStream.pipe(
      Effect.provide(DataStream.layer({ seqLen: 32, batchSize: 4, ...config })),
      Effect.provide(NodeFileSystem.layer)
    )
  )
const failure = async (config: DataConfigInput): Promise<string> => {
  const error = await Effect.runPromise(
    DataStream.pipe(
      Effect.provide(DataStream.layer({ seqLen: 32, batchSize: 4, ...config })),
      Effect.provide(NodeFileSystem.layer),
      Effect.flip
    )
  )
  expect(error._tag).toBe("DataError")
  return error.message
}
const inMemory = (config: DataConfigInput, documents = texts): Service =>
  Effect.runSync(
    DataStream.pipe(
      Effect.provide(DataStream.layerMemory(documents, { tokenizer: "bytes", seqLen: 32, batchSize: 4, ...config }))
    )
  )

const epoch = (service: Service, number = 0): Promise<ReadonlyArray<Batch>> =>
  service.batches({ epoch: number, batch: 0 }).pipe(
    Stream.take(service.batchesPerEpoch),
    Stream.runCollect,
    Effect.map((chunk) => Chunk.toReadonlyArray(chunk).map(({ batch }) => batch)),
    Effect.runPromise
  )

describe("token shards on disk", () => {
  it("give the batches of the same text in memory, whatever their size", async () => {
    const whole = inMemory({ singleSequences: "all", identity: "content" })
    const wanted = await epoch(whole, 1)
    expect(wanted.length).toBeGreaterThan(10)
    for (const [k, perShard] of [60, 7].entries()) {
      const service = await load({ data: write(`same${k}`, texts, perShard) })
      expect(service.tokenizer.decode(service.tokenizer.encode("héllo"))).toBe("héllo")
      expect(await epoch(service, 1)).toEqual(wanted)
      expect(service.report).toEqual(whole.report)
      for (const split of ["singles", "heldOut"] as const) expect(service.split(split)).toEqual(whole.split(split))
      expect(service.split("singles")[0]!.document).toMatch(/^doc\d+$/)
    }
  })

  it("may be several folders, whose sources of one name are one", async () => {
    const [a, b] = [write("a", texts.slice(0, 25), 9), write("b", texts.slice(25), 20)]
    const service = await load({ data: [a, b], heldOutFraction: 0 })
    const one = inMemory({ singleSequences: "all", heldOutFraction: 0 })
    expect(await epoch(service)).toEqual(await epoch(one))
    const mixed = await load({ data: [a, b], heldOutFraction: 0, sources: [{ name: a, epochs: 3 }] })
    const tokens = (some: ReadonlyArray<Document>) => some.reduce((sum, { text }) => sum + text.length - 1, 0)
    expect(mixed.report.scoredTokens).toBe(3 * tokens(texts.slice(0, 25)) + tokens(texts.slice(25)))
    expect(mixed.report.sources.map(({ name }) => name).sort()).toEqual(["books", "web"])
    expect(await failure({ data: [a, b], sources: [{ name: `${a}/`, epochs: 3 }] })).toContain(`Did you mean "${a}"?`)
    expect(await failure({ data: [a, b], sources: [{ name: a, epochs: 3 }, { name: "web", epochs: 1 }] })).toContain(
      "documents belong to both"
    )
  })

  it("of nanoGPT are divided by end-of-text tokens, and made with GPT-2's tokenizer unless told", async () => {
    const file = join(root, "train.bin")
    const ids = texts.slice(0, 8).flatMap(({ text }) => [...Tokenizer.bytes.encode(text), 0])
    writeFileSync(file, Uint16Array.from(ids))
    expect(await failure({ data: file })).toMatch(/no end-of-text token 50256 of GPT-2: set tokenizer to the path/)
    expect(await failure({ data: file, endOfText: 0 })).toContain("do not say which tokenizer made them:")
    const service = await load({ data: file, tokenizer: "bytes", endOfText: 0, heldOutFraction: 0 })
    expect(service.report).toMatchObject({
      documents: 8,
      tokens: ids.length,
      scoredTokens: ids.length - 8,
      identity: "document",
      distinctIds: 8,
      bytes: undefined
    })
    expect(service.tokenizer.vocabSize).toBe(256)
    const gpt2 = join(root, "gpt2.bin")
    writeFileSync(gpt2, Uint16Array.of(15496, 995, 50256, 31373, 50256))
    const hello = await load({ data: gpt2, heldOutFraction: 0 })
    const first = hello.split("singles").find(({ document }) => document === "gpt2.bin#1")!
    expect(hello.tokenizer.decode(first.tokens)).toBe("Hello world<|endoftext|>")
    const big = join(root, "big.bin")
    writeFileSync(big, Uint16Array.of(5, 700, 8, 0))
    expect(await failure({ data: big, tokenizer: "bytes", endOfText: 0 })).toContain("700")
  })

  it("contradict a configuration that says otherwise", async () => {
    const data = write("named", texts, 60)
    const text = join(root, "a.txt")
    writeFileSync(text, "some text")
    expect(await failure({ data, vocabSize: 300 })).toContain("vocabSize is 300, but the tokens have 256")
    expect(await failure({ data, tokenizer: "bytes" })).toContain(`tokenizer is "bytes", but these tokens were made`)
    expect(await failure({ data, endOfText: 3 })).toContain("endOfText is 3")
    expect(await failure({ data, identity: "near" })).toContain("memsinks tokenize --near")
    expect(await failure({ data: [data, text] })).toMatch(/a\.txt: is text, and .*named is tokens/)
    expect(await failure({ data: text, endOfText: 3 })).toContain("not with text")
    const clustered = write("clustered", texts, 60, (i) => i - (i % 2))
    expect((await load({ data: clustered, identity: "near", heldOutFraction: 0 })).report.distinctIds).toBe(30)
    const other = write("other", texts, 60)
    const tokenizer = (text: string) => writeFileSync(join(other, "tokenizer.json"), text)
    // white space gives no text other ids
    tokenizer(Tokenizer.bytes.toJSON().replace("null", "null "))
    expect((await load({ data: [data, other], heldOutFraction: 0 })).report.documents).toBe(120)
    tokenizer(Tokenizer.bytes.toJSON().replace(`"add_prefix_space":false`, `"add_prefix_space":true`))
    expect(await failure({ data: [data, other] })).toContain("was made with another tokenizer than")
  })

  it("that are cut off while a run reads them stop it with the file's name", async () => {
    const folder = write("cut", texts, 60)
    const scope = Effect.runSync(Scope.make())
    const context = await Effect.runPromise(
      Layer.buildWithScope(Layer.provide(DataStream.layer({ data: folder, seqLen: 32 }), NodeFileSystem.layer), scope)
    )
    const service = Context.get(context, DataStream)
    truncateSync(join(folder, "shard-00000.bin"), 100)
    const error = await Effect.runPromise(Effect.flip(Stream.runDrain(service.batches({ epoch: 0, batch: 0 }))))
    expect(error.message).toMatch(/shard-00000\.bin: cannot be read: it ends before offset \d+/)
    await Effect.runPromise(Scope.close(scope, Exit.void))
  })
})

describe("whole texts", () => {
  it("are covered by pieces that overlap by a token, so that each is a target once", async () => {
    const service = inMemory({ singleSequences: "all", heldOutFraction: 0 })
    expect(service.report).toMatchObject({ documents: 60, identity: "content", heldOutDocuments: 0 })
    const total = texts.reduce((sum, { text }) => sum + text.length - 1, 0)
    const targets = (await epoch(service)).flatMap((batch) => Array.from(batch.targets).filter((t) => t !== IGNORE))
    expect([service.report.scoredTokens, targets.length]).toEqual([total, total])
  })

  it("have ids of content, source and near-duplicates, of samples, too", () => {
    const copies = [...texts, { ...texts[7], name: "copy", text: texts[7]!.text.toUpperCase() }]
    const index = makeNearIndex()
    for (const { text } of copies) index.add(text)
    const { near } = index.clusters()
    expect(near[60]).toBe(near[7])
    expect(new Set(near).size).toBeGreaterThan(3)
    for (const config of [{ singleSequences: "all", heldOutFraction: 0 }, { singleSequences: 60 }] as const) {
      const rows = (identity: "content" | "source" | "near") => {
        const service = inMemory({
          ...config,
          identity,
          packing: "documents",
          seqLen: 512,
          repeatedSequences: 0,
          heldOutSequences: 0
        }, copies)
        return new Map([...service.split("repeated"), ...service.split("singles")].map((row) => [row.document, row.id]))
      }
      const content = rows("content")
      expect(content.get("doc9")).toBe(contentHash(texts[9]!.text))
      expect(content.get("copy") ?? content.get("doc7")).toBe(contentHash(texts[7]!.text))
      expect(rows("source").get("doc9")).toBe(sourceHash("books"))
      for (const [document, id] of rows("near")) {
        expect(id).toBe(1n + BigInt(near[copies.findIndex(({ name }) => name === document)]!))
      }
    }
  })

  it("hold out near-duplicates together where they are looked for, and name canaries that cannot be written", () => {
    const fail = (config: DataConfigInput) =>
      Effect.runSync(
        DataStream.pipe(
          Effect.provide(DataStream.layerMemory(texts, { seqLen: 32, singleSequences: "all", ...config })),
          Effect.flip
        )
      ).message
    const config = { singleSequences: "all", heldOutFraction: 0.4, seqLen: 512, heldOutSequences: 100 } as const
    const numbers = (service: Service) => service.split("heldOut").map(({ document }) => Number(document.slice(3)))
    const index = makeNearIndex({ threshold: 0.7 })
    for (const { text } of texts) index.add(text)
    const { near } = index.clusters()
    const together = numbers(inMemory({ ...config, nearThreshold: 0.7 }))
    const clusters = new Set(together.map((d) => near[d]))
    expect(together.length).toBe(near.filter((cluster) => clusters.has(cluster)).length)
    expect(numbers(inMemory({ ...config, nearThreshold: 0.7, nearShingle: 5 }))).toEqual(together)
    // they say the same words: by shingles of one word all are near
    expect(fail({ ...config, nearThreshold: 0.7, nearShingle: 1 })).toContain("holds out none of them")
    expect(fail({ nearShingle: 2 })).toContain("nearShingle says how near-duplicates are found")
    const alone = new Set(numbers(inMemory(config)))
    expect(near.some((cluster, d) => alone.has(d) !== alone.has(cluster))).toBe(true)
    expect(fail({ vocabSize: 60, canaries: [{ text: "Ω is no byte of it" }] })).toContain(
      "canary/1 has characters that the tokenizer does not know"
    )
  })
})
