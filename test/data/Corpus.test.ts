import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { type Document, documents } from "../../src/data/Corpus.ts"
import type { DataError } from "../../src/Errors.ts"

type Files = Readonly<Record<string, string | Uint8Array>>

/** Writes files to a temporary folder, reads the corpus `name` in it, and gives documents or the error. */
const read = (files: Files, name: string): Promise<ReadonlyArray<Document> | DataError> =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const folder = yield* fs.makeTempDirectoryScoped()
    for (const [path, content] of Object.entries(files)) {
      yield* fs.makeDirectory(`${folder}/${path}`.replace(/\/[^/]*$/, ""), { recursive: true })
      const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content
      yield* fs.writeFile(`${folder}/${path}`, bytes)
    }
    const found = yield* documents(`${folder}/${name}`).pipe(Effect.merge)
    // Names of single files begin with the folder, which is new each time.
    return Array.isArray(found)
      ? (found as ReadonlyArray<Document>).map((d) => ({ ...d, name: d.name.replace(`${folder}/`, "") }))
      : found as DataError
  }).pipe(Effect.scoped, Effect.provide(NodeFileSystem.layer), Effect.runPromise)

const message = async (files: Files, name: string): Promise<string> => {
  const found = await read(files, name)
  expect(found).toHaveProperty("_tag", "DataError")
  return (found as DataError).message
}

describe("the default corpus", () => {
  it("is the 233 addresses in the order of their years", async () => {
    const found = await Effect.runPromise(documents(undefined).pipe(Effect.provide(NodeFileSystem.layer)))
    expect(found).toHaveLength(233)
    expect(found[0]!.name).toBe("1790_george_washington_n.txt")
    expect(found[0]!.text.startsWith("Fellow-Citizens of the Senate")).toBe(true)
    const years = found.map(({ name }) => Number(name.slice(0, 4)))
    expect(years).toEqual([...years].sort((a, b) => a - b))
    expect(found.every(({ text }) => text === text.trim() && text.length > 5000)).toBe(true)
  })
})

describe("a text file", () => {
  it("is one document without surrounding white space", async () => {
    expect(await read({ "a.txt": "\ufeff\n one\n\ntwo \n" }, "a.txt")).toEqual([{ name: "a.txt", text: "one\n\ntwo" }])
  })

  it("is split at lines of <|endoftext|>, and only there", async () => {
    const end = "<|endoftext|>"
    const text = `one\n${end}\ntwo ${end} still\r\n${end} \r\n\n${end}\nthree\n${end}`
    expect(await read({ "a.txt": text }, "a.txt")).toEqual([
      { name: "a.txt#1", text: "one" },
      { name: "a.txt#2", text: "two <|endoftext|> still" },
      { name: "a.txt#4", text: "three" }
    ])
  })

  it("that is missing, empty, or binary is explained with its path", async () => {
    expect(await message({}, "gone.txt")).toMatch(/gone\.txt: there is no such file or folder/)
    expect(await message({ "a.txt": " \n" }, "a.txt")).toMatch(/a\.txt: the file is empty/)
    expect(await message({ "a.txt": Uint8Array.of(0x61, 0x62, 0, 0x63) }, "a.txt")).toMatch(/zero byte at offset 2/)
  })

  it("that is not UTF-8 is refused with the offset of the first bad byte", async () => {
    const cases: ReadonlyArray<readonly [ReadonlyArray<number>, string]> = [
      [[0xff, 0x61], "byte 0xff at offset 0"],
      // Latin-1 é before a letter, an é cut off by the end, and a 4-byte character broken at its third byte.
      [[0x61, 0x62, 0xe9, 0x63, 0xff], "byte 0xe9 at offset 2"],
      [[0x61, 0xc3, 0xa9, 0xc3], "byte 0xc3 at offset 3"],
      [[0x61, 0xf0, 0x9f, 0x61, 0x62], "byte 0xf0 at offset 1"]
    ]
    for (const [bytes, expected] of cases) {
      expect(await message({ "a.txt": Uint8Array.from(bytes) }, "a.txt")).toContain(expected)
    }
  })
})

describe("a folder", () => {
  it("gives its .txt and .md files, also from below, sorted by path", async () => {
    const taken = { "c/b.txt": "B", "c/sub/a.md": "A", "c/a.txt": "first", "c/Z.TXT": "Z" }
    expect(await read({ ...taken, "c/skip.json": "{}", "c/empty.txt": "" }, "c")).toEqual([
      { name: "Z.TXT", text: "Z" },
      { name: "a.txt", text: "first" },
      { name: "b.txt", text: "B" },
      { name: "sub/a.md", text: "A" }
    ])
  })

  it("with nothing to read is explained", async () => {
    expect(await message({ "c/a.json": "{}" }, "c")).toMatch(/no \.txt or \.md files/)
    expect(await message({ "c/a.txt": "\n", "c/b.md": "" }, "c")).toMatch(/2 text files, all of them empty/)
  })

  it("names the file that is not text", async () => {
    expect(await message({ "c/a.txt": "fine", "c/b.txt": Uint8Array.of(0x61, 0xff) }, "c")).toMatch(
      /c\/b\.txt: is not UTF-8 text: byte 0xff at offset 1/
    )
  })
})

describe("a JSONL file", () => {
  it("gives the text of each line, named by id or line", async () => {
    const text = `{"id":"x","text":"one"}\n\n{"text":" two "}\r\n{"id":7,"text":"three","more":1}\n{"text":""}\n`
    expect(await read({ "a.jsonl": text }, "a.jsonl")).toEqual([
      { name: "x", text: "one" },
      { name: "a.jsonl:3", text: "two" },
      { name: "7", text: "three" }
    ])
  })

  it("names the line that is not JSON, not an object, or has no text", async () => {
    const after = (line: string) => message({ "a.ndjson": `{"text":"fine"}\n${line}\n` }, "a.ndjson")
    expect(await after(`{"text":`)).toMatch(/a\.ndjson: line 2 is not JSON/)
    expect(await after(`"text"`)).toMatch(/line 2 must be an object with a field "text"/)
    expect(await after(`{"body":"x","title":"y"}`)).toMatch(/line 2 has no field "text"; it has: body, title/)
    expect(await after(`{"text":3}`)).toMatch(/line 2 has a field "text" that is not a string/)
    expect(await after(`{}`)).toMatch(/it has: no fields/)
  })
})
