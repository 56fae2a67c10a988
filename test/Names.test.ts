import { it as effectIt } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { sourceHash } from "../src/data/Identity.ts"
import { decodeNames, encodeNames, type NamedIds, resolveId, splitIds } from "../src/data/Names.ts"

const books: NamedIds = {
  identity: "source",
  ids: ["Genesis", "Exodus", "Psalms", "1 Samuel, first half", "Übersicht"].map((name, i) => ({
    id: sourceHash(name),
    name,
    documents: i + 1,
    tokens: 100 * (i + 1)
  }))
}
const open = (names: NamedIds) => decodeNames(encodeNames(names), "step-1/sources.parquet")

describe("names of ids", () => {
  effectIt.effect("come back from their file by number and by name, in any order written", () =>
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
      expect(yield* resolveId(`0x${sourceHash("Exodus").toString(16)}`, names)).toEqual({ id: sourceHash("Exodus"), name: "Exodus" })
      const said = (asked: string | bigint) => Effect.map(Effect.flip(resolveId(asked, names)), ({ message }) => message)
      expect(yield* said("genesis")).toContain("Did you mean \"Genesis\"?")
      expect(yield* said("Nowhere")).toContain("It has 5 ids, each of a source, such as \"Übersicht\"")
      expect(yield* said("7")).toContain("was not trained with the id 7")
      for (const wide of ["18446744073709551617", "0x10000000000000000", "-1", 2n ** 64n]) {
        expect(yield* said(wide)).toContain("from 0 to 2^64 - 1")
      }
      // nothing is known of a model without names, but 64 bits are 64 bits
      expect(yield* resolveId("Nowhere", undefined, "name")).toEqual({ id: sourceHash("Nowhere") })
      expect((yield* Effect.flip(resolveId("3.5", undefined))).message).toContain("an id is a whole number")
      expect((yield* Effect.flip(resolveId("18446744073709551617", undefined))).message).toContain("from 0 to 2^64 - 1")
    }))

  effectIt.effect("are refused as damaged where the file is another", () =>
    Effect.gen(function*() {
      const bytes = encodeNames(books)
      for (const cut of [0, 3, 40, bytes.length - 1]) {
        expect((yield* Effect.flip(decodeNames(bytes.subarray(0, cut), "a/sources.parquet"))).message)
          .toContain("a/sources.parquet: does not list the ids of a model")
      }
    }))

  it("stand in lists, with commas in quotes", () => {
    expect(splitIds("1, 0xff,Psalms ")).toEqual(["1", "0xff", "Psalms"])
    expect(splitIds("\"1 Samuel, first half\",7")).toEqual(["1 Samuel, first half", "7"])
    expect(splitIds("\"say \\\"a\\\", b\"")).toEqual(["say \"a\", b"])
    for (const wrong of ["", ",", "1,", ",1", "1,,2", "\"a", "\"a\"b", " "]) expect(splitIds(wrong), wrong).toBeUndefined()
  })
})
