import { it as effectIt } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { parquetWriteBuffer } from "hyparquet-writer"
import { describe, expect, it } from "vitest"
import { IGNORE } from "../../../src/Batch.ts"
import { sourceHash } from "../../../src/data/identity/Identity.ts"
import { decodeNames, encodeNames, type NamedId, type NamedIds, resolveId,
  splitIds } from "../../../src/data/identity/Names.ts"
import { tallyOf } from "../../../src/data/identity/NamesFile.ts"
import { documentsOf } from "../../../src/data/Pieces.ts"
import { batchOf, type DataConfigInput, DataStream } from "../../../src/data/stream/DataStream.ts"
import { rowsOf } from "../../../src/data/stream/Packing.ts"
import { bytes } from "../../../src/data/tokens/Tokenizer.ts"
import { exposureLines, MUCH, sinkExposure, SOME, tokenShares } from "../../../src/data/tokens/TokenShares.ts"

const books: NamedIds = {
  identity: "source",
  ids: ["Genesis", "Exodus", "Psalms", "1 Samuel, first half", "Übersicht"].map((name, i) => ({
    id: sourceHash(name),
    name,
    documents: i + 1,
    tokens: 100 * (i + 1)
  }))
}
/** The same, whatever order its fields are in. */
const text = (_: string, value: unknown): unknown =>
  typeof value === "bigint"
    ? `${value}`
    : Object.prototype.toString.call(value) === "[object Object]"
    ? Object.entries(value as object).sort()
    : value
const open = (names: NamedIds) => decodeNames(encodeNames(names), "step-1/sources.parquet")

describe("names of ids", () => {
  effectIt.effect("come back from their file by number and by name, in any order written",
    () =>
      Effect.gen(function*() {
        expect(encodeNames({ ...books, ids: [...books.ids].reverse() })).toEqual(encodeNames(books))
        const names = yield* open(books)
        expect(names.identity).toBe("source")
        expect(names.count).toBe(5)
        for (const one of books.ids) {
          expect(yield* names.get(one.id)).toEqual(one)
          expect(yield* names.find(one.name)).toEqual(one)
        }
        expect(yield* names.get(1n)).toBeUndefined()
        expect((yield* names.largest(2)).map(({ name }) => name)).toEqual(["Übersicht", "1 Samuel, first half"])
      }))

  effectIt.effect("are found among many groups of rows, the largest ids too", () =>
    Effect.gen(function*() {
      const ids = Array.from({ length: 40_000 }, (_, i) => ({
        id: i % 2 === 0 ? 2n ** 64n - 1n - BigInt(i) : BigInt(i),
        name: `d${i}`,
        documents: 1,
        tokens: i
      }))
      const names = yield* open({ identity: "document", ids })
      expect(names.count).toBe(40_000)
      for (const i of [0, 1, 2, 39_999, 39_998, 20_001]) expect(yield* names.get(ids[i]!.id)).toEqual(ids[i])
      expect(yield* names.find("d31234")).toEqual(ids[31_234])
      expect(yield* names.nearest("d3123x")).toMatch(/^d3123/)
      expect((yield* names.largest(1))[0]).toEqual(ids[39_999])
    }))

  effectIt.effect("are refused with the nearest where nothing was trained under them", () =>
    Effect.gen(function*() {
      const names = yield* open(books)
      expect(yield* resolveId("Psalms", names)).toEqual({ id: sourceHash("Psalms"), name: "Psalms" })
      expect(yield* resolveId(`0x${sourceHash("Exodus").toString(16)}`, names)).toEqual({ id: sourceHash("Exodus"),
        name: "Exodus" })
      const said = (asked: string | bigint) =>
        Effect.map(Effect.flip(resolveId(asked, names)), ({ message }) => message)
      expect(yield* said("genesis")).toContain("Did you mean \"Genesis\"?")
      expect(yield* said("Nowhere")).toContain("It has 5 ids, each of a source, such as \"Übersicht\"")
      expect(yield* said("7")).toContain("was not trained with the id 7")
      for (const wide of ["18446744073709551617", "0x10000000000000000", "-1", 2n ** 64n]) {
        expect(yield* said(wide)).toContain("from 0 to 2^64 - 1")
      }
      // names may be numbers
      const years = ["1984", "-7", "18446744073709551617"]
      const numbered = yield* open({ identity: "source",
        ids: years.map((name) => ({ id: sourceHash(name), name, documents: 1, tokens: 1 })) })
      for (const name of years) expect(yield* resolveId(name, numbered)).toEqual({ id: sourceHash(name), name })
      expect(yield* Effect.flip(resolveId(1984n, numbered))).toMatchObject({ _tag: "DataError" })
      // nothing is known of a model without names, but 64 bits are 64 bits
      expect(yield* resolveId("Nowhere", undefined, "name")).toEqual({ id: sourceHash("Nowhere") })
      expect((yield* Effect.flip(resolveId("3.5", undefined))).message).toContain("an id is a whole number")
      expect((yield* Effect.flip(resolveId("18446744073709551617", undefined))).message).toContain("from 0 to 2^64 - 1")
    }))

  effectIt.effect("are read where the bytes lie inside of others, as those of a small file do that Node reads",
    () =>
      Effect.gen(function*() {
        const file = encodeNames(books)
        const pool = Buffer.concat([Buffer.alloc(8), file, Buffer.alloc(8)])
        const names = yield* decodeNames(pool.subarray(8, 8 + file.length), "step-1/sources.parquet")
        expect(names.count).toBe(5)
      }))

  effectIt.effect("are refused as damaged where the file is another", () =>
    Effect.gen(function*() {
      const bytes = encodeNames(books)
      for (const cut of [0, 3, 40, bytes.length - 1]) {
        expect((yield* Effect.flip(decodeNames(bytes.subarray(0, cut), "a/sources.parquet"))).message)
          .toContain("a/sources.parquet: does not list the ids of a model")
      }
    }))

  effectIt.effect("are read from files of before more was told of them, and of others that write a text for a list",
    () =>
      Effect.gen(function*() {
        const write = (columnData: Parameters<typeof parquetWriteBuffer>[0]["columnData"]) =>
          decodeNames(new Uint8Array(parquetWriteBuffer({ columnData })), "sources.parquet")
        const id = { name: "id", data: [7n, 9n], type: "INT64" as const }
        const name = { name: "name", data: ["a", "b"], type: "STRING" as const }
        const documents = { name: "documents", data: [1, 2], type: "INT32" as const }
        const tokens = { name: "tokens", data: [10n, 20n], type: "INT64" as const }
        const plain = yield* write([id, name, documents, tokens, { name: "owners", data: ["Ada", null], type: "STRING",
          nullable: true }, { name: "unheard", data: [true, false], type: "BOOLEAN" }])
        expect(yield* plain.largest(2)).toEqual([{ id: 9n, name: "b", documents: 2, tokens: 20 }, { id: 7n, name: "a",
          documents: 1, tokens: 10, owners: ["Ada"] }])
        const refused = (...columns: Parameters<typeof write>[0]) =>
          Effect.map(Effect.flip(Effect.flatMap(write(columns), ({ largest }) => largest(1))), ({ message }) => message)
        expect(yield* refused({ ...id, data: [7n, -1n] }, name, documents, tokens))
          .toContain(
            "sources.parquet: does not list the ids of a model: row 2 of group 1: id must be a whole number of 64 bits without"
          )
        expect(yield* refused({ ...id, data: [7n, 7n] }, name, documents, tokens)).toContain(
          "rows must rise by id, each there once"
        )
        expect(yield* refused({ ...id, data: [9n, 7n] }, name, documents, tokens)).toContain(
          "row 2 of group 1 has the id 7 behind 9"
        )
        expect(yield* refused(id, { name: "name", data: [1, 2], type: "INT32" }, documents, tokens))
          .toContain("name must be a text, got 1")
        expect(yield* refused(id, name, { name: "documents", data: [1, NaN], type: "DOUBLE" }, tokens))
          .toContain("row 2 of group 1: documents must be a number, 0 or more, got NaN")
        expect(yield* refused(id, name, documents, tokens, { name: "owners", data: [1, 2], type: "INT32" }))
          .toContain("owners must be a list of texts, got 1")
        expect(yield* refused(id, name, documents)).toContain("it has no column \"tokens\"")
      }))

  effectIt.effect("keep all that is known of them, many groups of rows of them, and what is counted later",
    () =>
      Effect.gen(function*() {
        const ids = Array.from({ length: 17_000 }, (_, i): NamedId => ({
          id: sourceHash(`s${i}`),
          name: i === 5 ? "a \0\n\ud83d\ude00 b" : `s${i}`,
          documents: 1 + i % 3,
          tokens: i,
          exposures: 0,
          ...(i % 3 === 0 ? {} : { owners: i % 3 === 1 ? [] : ["Ada", `owner ${i}`] }),
          ...(i % 2 === 0
            ? {}
            : { licences: ["CC0"], nearDuplicates: i, nearSources: ["s1", "s2"], sinks: 4, sharedSinks: i % 5 })
        }))
        const tally = tallyOf({ identity: "source", ids })
        const seen = [ids[16_500]!.id, ids[16_500]!.id, 3n, ids[7]!.id]
        const batch = { ids: BigUint64Array.from(seen), targets: Uint32Array.of(1, IGNORE, 1, IGNORE) }
        for (const step of [4, 5, 9]) tally.add(batch, step)
        const bytes = tally.encode()
        const told = new Map<bigint, NamedId>()
        yield* (yield* decodeNames(bytes, "sources.parquet")).each((one) => told.set(one.id, one))
        const expected = ids.map((one, i): NamedId =>
          i === 16_500 ? { ...one, exposures: 3, firstStep: 4, lastStep: 9 } : one
        )
        expect(told.size).toBe(ids.length)
        expect(expected.find((one) => JSON.stringify(one, text) !== JSON.stringify(told.get(one.id), text)))
          .toBeUndefined()
        expect(Buffer.from(tally.encode()).equals(bytes)).toBe(true)
      }))

  it("stand in lists, with commas in quotes", () => {
    expect(splitIds("1, 0xff,Psalms ")).toEqual(["1", "0xff", "Psalms"])
    expect(splitIds("\"1 Samuel, first half\",7")).toEqual(["1 Samuel, first half", "7"])
    expect(splitIds("\"say \\\"a\\\", b\"")).toEqual(["say \"a\", b"])
    for (const wrong of ["", ",", "1,", ",1", "1,,2", "\"a", "\"a\"b", " "]) {
      expect(splitIds(wrong), wrong).toBeUndefined()
    }
  })
})

describe("data", () => {
  effectIt.scoped("knows what its ids are called, by source as by sequence", () =>
    Effect.gen(function*() {
      const documents = ["a", "b", "a", "c"].map((source, i) => ({ name: `d${i}`, source,
        text: `text number ${i} `.repeat(4) })
      )
      const namesOf = (config: DataConfigInput) =>
        Effect.flatMap(DataStream, ({ names }) => names).pipe(Effect.provide(DataStream.layerMemory(documents, {
          tokenizer: "bytes",
          seqLen: 16,
          singleSequences: "all",
          heldOutFraction: 0,
          ...config
        })))
      const bySource = (yield* namesOf({ identity: "source" }))!
      const found = bySource.ids.map(({ documents, id, name }) => [name, id, documents])
      expect(found).toEqual([["a", sourceHash("a"), 2], ["b", sourceHash("b"), 1], ["c", sourceHash("c"), 1]].sort())
      // every token but a document's first is scored once
      const all = documents.reduce((sum, { text }) => sum + text.length - 1, 0)
      expect(bySource.ids.reduce((sum, { tokens }) => sum + tokens, 0)).toBe(all)
      const byRow = (yield* namesOf({ identity: "row" }))!
      expect(byRow.identity).toBe("row")
      const { split } = yield* Effect.provide(DataStream,
        DataStream.layerMemory(documents, { tokenizer: "bytes", seqLen: 16, singleSequences: "all" }))
      expect(() => split("heldout" as "heldOut")).toThrow("did you mean \"heldOut\"?")
      expect(byRow.ids.find(({ name }) => name === "d1+16")).toMatchObject({ documents: 1, tokens: 16 })
    }))

  effectIt.scoped("takes arrays of tokens with the ids that are given", () =>
    Effect.gen(function*() {
      const corpus = documentsOf([
        { tokens: [1, 2, 3, 4, 5], id: 7, name: "ours" },
        { tokens: [6, 7, 8], id: 2n ** 64n - 1n },
        { tokens: [9, 10, 11] }
      ])
      const config = { seqLen: 4, batchSize: 1, singleSequences: "all", heldOutFraction: 0,
        identity: "document" } as const
      const layer = DataStream.layerTokens(corpus, bytes, { ...config, packing: "documents" })
      const rows = (yield* Effect.provide(DataStream, layer)).split("singles")
      const ids = new Map(rows.map(({ id, tokens }) => [tokens.join(), id]))
      expect(ids).toEqual(new Map([["1,2,3,4,5", 7n], ["6,7,8", 2n ** 64n - 1n], ["9,10,11", 3n]]))
      const batch = batchOf([...rowsOf([1, 2, 3, 4, 5, 6], 7, 4), ...rowsOf(Uint32Array.of(8, 9), 0xffn, 4)], 4)
      expect([...batch.tokens]).toEqual([1, 2, 3, 4, 5, 0, 0, 0, 8, 0, 0, 0])
      expect([...batch.targets].filter((target) => target !== IGNORE)).toEqual([2, 3, 4, 5, 6, 9])
      expect([...batch.ids]).toEqual([...Array(8).fill(7n), ...Array(4).fill(255n)])
      expect(() => rowsOf([1, 2], 2n ** 64n, 4)).toThrow("from 0 to 2^64 - 1")
      expect(() => documentsOf([{ tokens: [1, 2], id: -1 }])).toThrow("from 0 to 2^64 - 1")
    }))
})

describe("what sinks off will cost", () => {
  const sharesOf = (tokens: ReadonlyArray<number>) =>
    tokenShares((use) => tokens.forEach((n, i) => use(BigInt(i), n, () => `s${i}`)))
  const equal = (n: number) => sharesOf(Array.from({ length: n }, () => 10))

  it("follows from shares of tokens, the pool and the active sinks", () => {
    expect(sharesOf([50, 25, 25])).toEqual({
      ids: 3,
      effectiveIds: 100 ** 2 / (50 ** 2 + 2 * 25 ** 2),
      largest: { id: "0", name: "s0", share: 0.5 }
    })
    // one id: its sinks are on for all tokens, as general neurons are
    expect(sinkExposure(equal(1), { active: 64, general: 96, pool: 1024 })).toEqual({ onFor: 1, sinkShare: 0.4,
      exposure: 0.4 })
    // the runs of pipelines/results/sinks-by-source.md, by what they cost
    const exposures = [[1, 64, 1024], [2, 64, 1024], [4, 64, 1024], [64, 64, 256], [2, 16, 1024], [16, 64, 1024], [64,
      64, 1024]]
      .map(([ids, active, pool]) => sinkExposure(equal(ids!), { active: active!, general: 96, pool: pool! }).exposure)
    expect(exposures).toEqual([...exposures].sort((a, b) => b - a))
    expect(exposures.map((one) => one >= MUCH ? "much" : one >= SOME ? "some" : "none"))
      .toEqual(["much", "much", "some", "some", "some", "none", "none"])
  })

  it("is said in words, with what helps", () => {
    const text = exposureLines(sharesOf([500, ...Array.from({ length: 65 }, () => 8)]), { active: 128, general: 192,
      pool: 8192 }).join("\n")
    expect(text).toContain("66 ids as concentrated as 4.1 equal ones; the largest, s0, has 49 %")
    expect(text).toContain("of 320 neurons on for a token 128 are sinks (40 %)")
    expect(text).toContain("warning: sinks learn some of what all data has in common")
    expect(text).toContain("identity document or row")
    expect(exposureLines(equal(1000), { active: 32, general: 96, pool: 8192 }).join("\n")).not.toContain("warning")
  })
})
