import { readFileSync } from "node:fs"
import { gzipSync } from "node:zlib"
import { describe, expect, it } from "vitest"
import type { SourceSpecInput } from "../../../src/data/Source.ts"
import { decimal, unrounded } from "../../../src/data/source/Decimal.ts"
import { readOf } from "../../support/sources.ts"

const fixture = (name: string): Uint8Array => readFileSync(new URL(`../../fixtures/${name}`, import.meta.url))

const sources = async (lines: ReadonlyArray<string>, spec: Partial<SourceSpecInput> = {}) => {
  const read = await readOf({ "a.jsonl": lines.join("\n") }, { path: "a.jsonl", sourceField: "user", ...spec })
  expect(read.error?.message).toBeUndefined()
  return read.documents.map(({ source }) => source)
}

describe("numbers that name something", () => {
  it("keep all their digits in JSONL, and are one where they are equal", async () => {
    const numbers = [
      ["9007199254740992", "9007199254740992"],
      ["9007199254740993", "9007199254740993"],
      ["9007199254740993.0", "9007199254740993"],
      ["90071992547409930e-1", "9007199254740993"],
      ["-18446744073709551617", "-18446744073709551617"],
      ["5", "5"],
      ["5.00", "5"],
      ["5e0", "5"],
      ["-0", "0"],
      ["0.1", "0.1"],
      ["0.1000000000000000000001", "0.1000000000000000000001"],
      ["1.0000000000000000000001", "1.0000000000000000000001"],
      ["1e400", "1e400"],
      [`1${"0".repeat(400)}`, "1e400"],
      ["1e401", "1e401"],
      ["1e-400", "1e-400"],
      ["1e21", "1000000000000000000000"],
      ["true", "true"],
      ["\"9007199254740993\"", "9007199254740993"],
      ["null", "a.jsonl"]
    ]
    const lines = numbers.map(([number]) => `{"text":"a \\"1e999\\\\\\" 12345678901234567890","user":${number}}`)
    expect(await sources(lines)).toEqual(numbers.map(([, name]) => name))
    expect(await sources([`{"text":"a","o":{"user":[1],"x":{"id":9007199254740993}}}`], { sourceField: "o.x.id" }))
      .toEqual(["9007199254740993"])
    const ids = await readOf({ "a.jsonl": `{"text":"a","id":9007199254740993}` }, { path: "a.jsonl" })
    expect(ids.documents[0]!.name).toBe("9007199254740993")
  })

  it("are the same in Parquet, whatever type they have", async () => {
    // written by pyarrow 25
    const big = ["9007199254740992", "9007199254740993", "-9223372036854775808", "9223372036854775807", "N", "0"]
    const wanted = {
      "i64": big,
      "meta.user": big,
      "u64": ["18446744073709551615", "18446744073709551614", "0", "9223372036854775808", "N", "1"],
      "dec": [...[6, 7].map((last) => `12345678901234567890123456789012.345${last}`), "-0.0001", "5", "N", "0"],
      "dec9": ["1.5", "-1.5", "0.01", "100", "N", "0"],
      "us": ["00.000001", "01.000001", "59.999999", "20.123456", "N", "00.000"],
      "ns": ["00.000000001", "01.000000001", "59.999999999", "20.123456789", "N", "00.000"],
      "day": ["1970-01-01", "1970-01-02", "1969-12-31", "2022-01-08", "N", "1970-01-03"],
      "bool": ["true", "false", "true", "true", "N", "false"]
    }
    for (const [sourceField, expected] of Object.entries(wanted)) {
      for (const file of ["types.parquet", ...(/i64|ns/.test(sourceField) ? ["int96.parquet"] : [])]) {
        const { documents } = await readOf({ [file]: fixture(file) }, { path: file, sourceField })
        const found = documents.map(({ source }) => source === file ? "N" : source.replace(/.*T.*:(.*)Z/, "$1"))
        expect([sourceField, found]).toEqual([sourceField, expected])
      }
    }
    const files = { "t.parquet": fixture("types.parquet") }
    const { error } = await readOf(files, { path: "t.parquet", sourceField: "price.of" })
    expect(error?.message).toMatch(/t\.parquet: the column "price" has decimals inside/)
  })

  it("have one form", () => {
    expect(["120e-1", "0.00", "-0.5e1", "00012"].map(decimal)).toEqual(["12", "0", "-5", "12"])
    const kept = `{"a":"\\\\","b":"9007199254740993","c":[1.5,-2e3,"\\""]}`
    expect(unrounded(kept)).toBe(kept)
    expect(JSON.parse(unrounded(`{"a":[9007199254740993,1e999],"9007199254740993":"\\"1e999"}`))).toEqual({
      a: ["9007199254740993", "1e999"],
      "9007199254740993": "\"1e999"
    })
  })
})

describe("records without text", () => {
  const lines = [`{"text":"one"}`, `{"text":null}`, `{"body":1}`, `{"text":"two"}`, `{"text":" "}`].join("\n")

  it("are an error that says how to pass over them, and are passed over and counted then", async () => {
    const files = { "a.jsonl": lines, "t.parquet": fixture("types.parquet") }
    expect((await readOf(files, { path: "a.jsonl" })).error?.message).toMatch(
      /line 2 has a field "text" that is not a string but null.*set onMissingText to skip/
    )
    const skip = { path: "a.jsonl", onMissingText: "skip" } as const
    const read = await readOf(files, skip)
    expect(read.documents.map(({ name }) => name)).toEqual(["a.jsonl:1", "a.jsonl:4"])
    expect(read.logged).toEqual([expect.stringMatching(/a\.jsonl: 2 records without text passed over$/)])
    const tally = { missing: 0, blank: 0 }
    expect((await readOf(files, skip, tally)).logged).toEqual([])
    expect(tally).toEqual({ missing: 2, blank: 1 })
    expect((await readOf({ "a.jsonl": `{"text":3}` }, skip)).error?.message).toMatch(/line 1 .* not a string but 3/)
    expect((await readOf(files, { ...skip, textField: "t" })).error?.message).toMatch(/none of its records has a text/)
  })
})

describe("bounds", () => {
  it("hold for a line, a document and a value, and are said with what to do", async () => {
    const long = "word ".repeat(50)
    const files = {
      "a.jsonl": `${JSON.stringify({ text: long })}\n`,
      "a.txt": `short\n<|endoftext|>\n${"words\n".repeat(50)}`,
      "v.parquet": fixture("pages-v1.parquet")
    }
    for (const path of Object.keys(files)) {
      expect((await readOf(files, { path })).error).toBeUndefined()
      expect((await readOf(files, { path, maxDocumentBytes: 10 })).error?.message).toMatch(
        new RegExp(`${path.replace(".", "\\.")}: .*maxDocumentBytes`)
      )
    }
  })

  it("hold for what is nested, or of many values, before it fills memory", async () => {
    const nested = (depth: number): string => `{"text":"a","x":${"[".repeat(depth)}${"]".repeat(depth)}}\n`
    expect((await readOf({ "a.jsonl": nested(999) }, { path: "a.jsonl" })).documents).toHaveLength(1)
    expect((await readOf({ "a.jsonl": nested(1000) }, { path: "a.jsonl" })).error?.message).toMatch(
      /line 1 is nested deeper than 1000 levels/
    )
    const bomb = gzipSync("[".repeat(20_000_000))
    expect((await readOf({ "a.jsonl.gz": bomb }, { path: "a.jsonl.gz" })).error?.message).toMatch(/nested deeper/)
    const many = gzipSync(`{"text":"a","x":[${"{},".repeat(4_000_001)}0]}`)
    expect((await readOf({ "a.jsonl.gz": many }, { path: "a.jsonl.gz" })).error?.message).toMatch(/more than 4000000/)
    const brackets = JSON.stringify({ text: "[{\"\\".repeat(5000) })
    expect((await readOf({ "a.jsonl": brackets }, { path: "a.jsonl" })).documents).toHaveLength(1)
  })
})

describe("a page of Parquet", () => {
  it("is checked against its checksum", async () => {
    const sound = fixture("int96.parquet")
    const wanted = [0, 1, 2, 3, 4, 5].map((i) => `text ${i}`)
    let caught = 0
    for (let at = 60; at < 120; at++) {
      const bad = sound.slice()
      bad[at]! ^= 1
      const { documents, error } = await readOf({ "a.parquet": bad }, { path: "a.parquet" })
      if (error === undefined) expect(documents.map(({ text }) => text)).toEqual(wanted)
      else if (error.message.includes("a page has not its checksum")) caught++
    }
    expect(caught).toBeGreaterThan(10)
  })
})
