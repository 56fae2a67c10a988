import { it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { describe, expect } from "vitest"
import { csvField } from "../../src/Csv.ts"
import { contentHash, type Identity, sourceHash } from "../../src/data/identity/Identity.ts"
import { decodeNames, encodeNames, type NamedId } from "../../src/data/identity/Names.ts"
import type { TokenDocuments } from "../../src/data/Pieces.ts"
import { ownershipOf } from "../../src/forget/Ownership.ts"
import { parseRequests, type Request, resolve } from "../../src/forget/Request.ts"
import { SinkConfig } from "../../src/Sink.ts"

const row = (name: string, more: Partial<NamedId> = {}): NamedId => ({ id: sourceHash(name), name, documents: 1,
  tokens: 10, ...more })
const open = (ids: ReadonlyArray<NamedId>, identity: Identity = "source") =>
  decodeNames(encodeNames({ identity, ids }), "sources.parquet")
const by = (by: Request["by"], ...values: ReadonlyArray<string>): ReadonlyArray<Request> =>
  values.map((value) => ({ by, value }))
const said = <A>(effect: Effect.Effect<A, { readonly message: string }>) =>
  Effect.map(Effect.flip(effect), ({ message }) => message)

const nasty = ["a\0b", "a,\n\"b\"", "Ü\u2028", "a\rb", " a "]
const rows = [
  row("Genesis", { owners: ["Moses"] }),
  row("Exodus", { owners: ["Moses", "Aaron, \"the\" scribe"] }),
  row("Ruth", { owners: ["Samuel"] }),
  row("Mark"),
  ...nasty.map((name) => row(name, { owners: [`of ${name}`] }))
]
const texts = [["Genesis", "In the beginning"], ["Ruth", "Whither thou goest"], ["Mark", "in the BEGINNING!"], [
  "Nobody",
  "Never trained on"
]] as const
const sources = texts.map(([source]) => source)
const corpus = {
  documents: texts.length,
  name: (d: number) => `${sources[d]} 1`,
  sources,
  source: (d: number) => d,
  content: (d: number) => contentHash(texts[d]![1])
} as unknown as TokenDocuments
const hash = (text: string) => contentHash(text).toString(16).padStart(16, "0")
const namesOf = (found: ReadonlyArray<NamedId>) => found.map(({ name }) => name).sort()

describe("requests", () => {
  it.effect("by owner mean all sources of theirs, and name the nearest owner there is", () =>
    Effect.gen(function*() {
      const names = yield* open(rows)
      const found = yield* resolve([...by("owner", "Moses", "Aaron, \"the\" scribe"), ...by("source", "Ruth")], names)
      expect(new Map(found.map(({ name, requests }) => [name, requests]))).toEqual(
        new Map([["Genesis", [0]], ["Exodus", [0, 1]], ["Ruth", [2]]])
      )
      const message = yield* said(resolve(by("owner", "moses", "Nobody at all"), names))
      expect(message).toContain("owner \"moses\": did you mean \"Moses\"?")
      expect(message).toContain("owner \"Nobody at all\": nobody is called so")
      expect(yield* said(resolve(by("owner", "Moses"), yield* open([row("a"), row("b")]))))
        .toContain("does not say whose its sources are")
    }))

  it.effect("by document mean whoever holds an equal text, and no other", () =>
    Effect.gen(function*() {
      const names = yield* open(rows)
      const whole = `0x${hash("in the beginning")}`
      expect(namesOf(yield* resolve(by("document", whole), names, corpus))).toEqual(["Genesis", "Mark"])
      expect(namesOf(yield* resolve(by("document", `${hash("in the beginning")}${"0".repeat(48)}`), names, corpus)))
        .toEqual(["Genesis", "Mark"])
      const near = hash("in the beginning").replace(/.$/, (digit) => digit === "0" ? "1" : "0")
      const message = yield* said(resolve(by("document", near, "12", hash("Never trained on")), names, corpus))
      expect(message).toContain(`did you mean ${hash("in the beginning")}?`)
      expect(message).toContain("document \"12\": it is no hash of a text: 16 hexadecimal digits")
      expect(message).toContain("no source that was trained on holds it")
      expect(yield* said(resolve(by("document", whole), names))).toContain("--data")
      expect(yield* said(resolve(by("document", whole), names, { ...corpus, content: undefined }))).toContain(
        "no hashes"
      )
      // of equal texts the hash is the id; a document is known by its number and name; a near-duplicate by neither
      const content = yield* open([{ ...row("Genesis 1"), id: contentHash(texts[0][1]) }, row("other")], "content")
      expect(namesOf(yield* resolve(by("document", whole), content))).toEqual(["Genesis 1"])
      const documents = yield* open(texts.map((_, d) => ({ ...row(`${sources[d]} 1`), id: BigInt(d + 1) })), "document")
      expect(namesOf(yield* resolve(by("document", whole), documents, corpus))).toEqual(["Genesis 1", "Mark 1"])
      for (const identity of ["near", "row"] as const) {
        expect(yield* said(resolve(by("document", whole), yield* open(rows, identity), corpus)))
          .toContain("a document does not tell the number")
      }
    }))

  it.effect("keep what names hold, through CSV and JSON Lines", () =>
    Effect.gen(function*() {
      const names = yield* open(rows)
      for (const field of ["source", "owner"] as const) {
        const wanted = nasty.map((name) => field === "owner" ? `of ${name}` : name)
        const csv = yield* parseRequests(
          `${field},reference\r\n${wanted.map((one) => `${csvField(one)},7\r\n`).join("")}`,
          "r.csv"
        )
        expect(csv.map(({ value }) => value)).toEqual(wanted)
        const jsonl = yield* parseRequests(wanted.map((one) => JSON.stringify({ [field]: one })).join("\n"), "r.jsonl")
        expect(jsonl.map(({ value }) => value)).toEqual(wanted)
        expect(namesOf(yield* resolve(csv, names))).toEqual([...nasty].sort())
      }
    }))

  it.effect("are refused where they name nobody, with the line, a quotation over several counted", () =>
    Effect.gen(function*() {
      const wrong = (text: string, path = "r.csv") => said(parseRequests(text, path))
      expect(yield* wrong("{\"owner\": \"\"}", "r.jsonl")).toContain(
        "line 1 must have exactly one of source, owner, prefix"
      )
      expect(yield* wrong("{\"owner\": 7}", "r.jsonl")).toContain("line 1 has an owner that is no text")
      expect(yield* wrong("owner\n\"a\nb\"\n\nc,d\n")).toContain("line 5 has 2 fields, the first line names 1")
      expect(yield* wrong("owner,owner\na,b\n")).toContain("line 1 names \"owner\" twice")
      expect(yield* wrong("sourc,reference\nRuth,7\n")).toContain("line 1 has the field \"sourc\"; known: source")
      expect(yield* wrong("reference\n7\n")).toContain("line 1 must name at least one of source, owner")
      expect(yield* wrong(`owner\n"${"a".repeat(2_000_000)}`)).toContain(
        "line 2 has a quotation mark that does not end"
      )
    }))

  it.effect("of thousands look once at every id", () =>
    Effect.gen(function*() {
      const many = 3000
      const names = yield* open(
        Array.from({ length: 2 * many }, (_, i) => row(`https://site-${i}.org/`, { owners: [`owner ${i}`] }))
      )
      let seen = 0
      const counting = { ...names, each: (use: (one: NamedId) => void) => names.each((one) => (seen++, use(one))) }
      const lines = Array.from({ length: many }, (_, i) =>
        JSON.stringify(i % 3 === 0
          ? { source: `https://site-${i}.org/` }
          : i % 3 === 1
          ? { owner: `owner ${i}` }
          : { prefix: `https://site-${i}.` }))
      const found = yield* resolve(yield* parseRequests(lines.join("\n"), "r.jsonl"), counting)
      expect(found).toHaveLength(many)
      expect(found.every(({ name, requests }) => name === `https://site-${requests[0]}.org/`)).toBe(true)
      expect(seen).toBe(names.count)
    }))

  it.effect("are not carried out by a manifest of another model", () =>
    Effect.gen(function*() {
      const sinks = new SinkConfig({ pool: 64, active: 8, block: 8, assignment: "disjoint" })
        .withOwners(rows.slice(1).map(({ id }) => id))
      expect(yield* said(ownershipOf(sinks, yield* open(rows), new Set([rows[1]!.id]), new Set())))
        .toContain("sources.parquet is of another model: it lists \"Genesis\"")
    }))
})
