import { execFileSync } from "node:child_process"
import { linkSync, mkdirSync, readFileSync, symlinkSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { readIn, readOf, withFolder } from "../../support/sources.ts"

const line = (text: string): string => `${JSON.stringify({ text })}\n`
const names = (read: Awaited<ReturnType<typeof readIn>>): ReadonlyArray<string> => {
  expect(read.error?.message).toBeUndefined()
  return read.documents.map(({ name }) => name)
}

describe("a folder with links", () => {
  it("gives each file once, by its own name, however many links lead to it and wherever they lead", async () => {
    const files = { "f/b.jsonl": line("one"), "f/sub/c.jsonl": line("two"), "out/d.jsonl": line("three") }
    await withFolder(files, async (at) => {
      symlinkSync(".", join(at, "f/self"))
      symlinkSync("..", join(at, "f/up"))
      symlinkSync("../..", join(at, "f/sub/further"))
      symlinkSync("/", join(at, "f/root"))
      symlinkSync("sub", join(at, "f/a"))
      symlinkSync("b.jsonl", join(at, "f/a.jsonl"))
      linkSync(join(at, "f/b.jsonl"), join(at, "f/z.jsonl"))
      symlinkSync("../out", join(at, "f/other"))
      symlinkSync("../out", join(at, "f/other-too"))
      const read = await readIn(at, { path: "f" })
      expect(names(read)).toEqual(["b.jsonl:1", "other/d.jsonl:1", "sub/c.jsonl:1"])
      expect(read.logged).toHaveLength(1)
      expect(read.logged[0]).toContain(
        "links to what is there already are passed over: a, a.jsonl, other-too, root, self, sub/further, up, z.jsonl"
      )
    })
  })

  it("that lead nowhere, or to themselves, is refused where they would be data", async () => {
    await withFolder({ "f/b.jsonl": line("one") }, async (at) => {
      symlinkSync("gone", join(at, "f/notes"))
      expect(names(await readIn(at, { path: "f" }))).toEqual(["b.jsonl:1"])
      symlinkSync("c.jsonl", join(at, "f/c.jsonl"))
      expect((await readIn(at, { path: "f" })).error?.message).toMatch(/f\/c\.jsonl: is a link to what is not there/)
      expect((await readIn(at, { path: "f/c.jsonl" })).error?.message).toMatch(/is a link that leads back to itself/)
    })
  })
})

describe("a folder that holds more than data", () => {
  it("gives what is not hidden, and says what is", async () => {
    const read = await readOf({
      "f/a.jsonl": line("one"),
      "f/.ipynb_checkpoints/a-checkpoint.jsonl": line("old"),
      "f/.cache/x.txt": "cached",
      "f/sub/._a.jsonl": "\0",
      "f/_SUCCESS": ""
    }, { path: "f" })
    expect(names(read)).toEqual(["a.jsonl:1"])
    expect(read.logged.join()).toMatch(/passed over: \.cache\/, \.ipynb_checkpoints\/, _SUCCESS, sub\/\._a\.jsonl$/)
  })

  it("gives the parts of a folder that is called as a file", async () => {
    const part = readFileSync(new URL("../../fixtures/pages-v1.parquet", import.meta.url))
    const files = { "d/data.PARQUET/part-0.snappy.parquet": part, "d/data.PARQUET/_SUCCESS": "" }
    for (const path of ["d", "d/data.PARQUET"]) {
      const read = await readOf(files, { path })
      expect(names(read)).toHaveLength(300)
      expect(read.documents[1]!.text).toBe("“1” naïve 文字 🙂")
    }
  })

  it("gives records, and leaves out the text that is about them", async () => {
    const files = { "f/README.md": "# About", "f/train.json": line("one") + line("two"), "f/config.json": "{}" }
    const read = await readOf(files, { path: "f" })
    expect(names(read)).toEqual(["train.json:1", "train.json:2"])
    expect(read.logged).toEqual([expect.stringMatching(/f: text beside records is left out: README\.md$/)])
    const array = await readOf({ "f/README.md": "# About", "f/train.json": `[{"text":"one"}]` }, { path: "f" })
    expect(array.error?.message).toMatch(/f\/train\.json: is one JSON array: it must be made into JSONL/)
    // What stands beside each text says something of it.
    const pairs = { "f/a.txt": "one", "f/a.json": `{"text":"one","year":1}`, "f/b.txt": "two", "f/b.json": "{}" }
    expect(names(await readOf(pairs, { path: "f" }))).toEqual(["a.txt", "b.txt"])
    expect((await readOf(pairs, { path: "f" })).logged).toEqual([])
  })
})

describe("what is no file", () => {
  it("is refused, and not waited for, by itself and in a folder", async () => {
    await withFolder({}, async (at) => {
      mkdirSync(join(at, "f"))
      for (const name of ["pipe.jsonl", "pipe.parquet", "pipe.txt.gz"]) {
        execFileSync("mkfifo", [join(at, "f", name)])
        expect((await readIn(at, { path: `f/${name}` })).error?.message).toMatch(/is a pipe, which can be read once/)
      }
      expect((await readIn(at, { path: "f" })).error?.message).toMatch(/f\/pipe\.jsonl: is a pipe/)
      expect((await readIn("/dev", { path: "zero" })).error?.message).toBe("/dev/zero: is a device, not a file")
    })
  })

  it("is told from a path that goes through a file", async () => {
    const { error } = await readOf({ "a.jsonl": line("one") }, { path: "a.jsonl/b.jsonl" })
    expect(error?.message).toMatch(/a part of its path is a file, not a folder/)
  })
})
