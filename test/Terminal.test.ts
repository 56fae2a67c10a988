import { describe, expect, it } from "vitest"
import { because, DataError, DeviceError, isOfGpu, lacking, told } from "../src/Errors.ts"
import { bytes, cells, columns, limitBytes, painter, printable, table, truncate, widthOf,
  wrap } from "../src/Terminal.ts"
import { fuzzers } from "./fuzz/runs.ts"
import { makeRandom } from "./reference/random.ts"

describe("text on a terminal", () => {
  it("takes the cells that it is seen to take", () => {
    expect(["abc", "日本", "e\u0301", "👩‍👩‍👧", "\u001b[1mx\u001b[22m"].map(cells)).toEqual([3, 4, 1, 2, 1])
    expect(truncate("日本語日本語", 8)).toBe("日本...")
    expect(wrap([["日本語 e\u0301x"]], 4, painter(false))).toEqual(["日本", "語", "e\u0301x"])
    expect(wrap([["日本"]], 1, painter(false))).toEqual(["日", "本"])
    for (const width of [0, -1, NaN, 0.5]) expect(wrap([["ab"]], width, painter(false))).toEqual(["a", "b"])
  })

  it("stands in columns, whatever it is, and shows no escape of others", () => {
    expect(columns([["", "n"], ["日本", "1"], ["a\u001b[2Jb\nc", "100"]])).toEqual([
      `${" ".repeat(17)}n`,
      `日本${" ".repeat(13)}1`,
      "a\\u001b[2Jb c  100"
    ])
  })

  it("stands in a table of any width: cells are wrapped, then columns go below, and nothing is lost", () => {
    const paint = painter(false)
    const [head, rows] = [["task", "loss", "accuracy of choices"], [["a long name", "1.25 [1, 2]", "50.0 %"], ["b", "-",
      "8.0 %"]]]
    expect(table(head, rows, { width: 80, paint })).toEqual(columns([head, ...rows]))
    expect(table(head, rows, { width: 30, paint })).toEqual([
      "task           loss   accuracy",
      "                            of",
      "                       choices",
      "a long         1.25     50.0 %",
      "name         [1, 2]",
      "b                 -      8.0 %"
    ])
    for (const width of [1, 5, 9, 12, 20, 40]) {
      const lines = table(head, rows, { width, paint })
      expect(Math.max(...lines.map(cells))).toBeLessThanOrEqual(Math.max(width, 4))
      const letters = (text: string) => [...text].filter((c) => c.trim() !== "").sort().join("")
      if (width >= 30) expect(letters(lines.join(""))).toBe(letters([head, ...rows].flat().join("")))
    }
    expect(table(["a"], [], { width: 9, paint: painter(true) })).toEqual(["\u001b[1ma\u001b[22m"])
  })

  it("has a width in any terminal", () => {
    expect([0, 1, 2, NaN, undefined, -3, 80, 1e9].map((width) => widthOf(width))).toEqual([80, 1, 2, 80, 80, 80, 80,
      10_000])
    expect([2 ** 31, 2 ** 31 - 4, 2 ** 27, 2 ** 31 - 2 ** 20].map((n) => limitBytes(n, (x) => bytes(x, 1)))).toEqual([
      "2.0 GiB",
      "2.0 GiB - 4 B",
      "128.0 MiB",
      "2.0 GiB"
    ])
    expect([0, 1023, 1024, 1023.7 * 1024, 5.5 * 2 ** 30, NaN, -1].map((n) => bytes(n))).toEqual([
      "0 B",
      "1023 B",
      "1.0 KiB",
      "1.0 MiB",
      "5.5 GiB",
      "0 B",
      "0 B"
    ])
  })
})

describe("what a machine lacks", () => {
  it("is told with what to do, and nothing else is", () => {
    expect(because(new Error("EMFILE: too many open files, open 'x'"))).toContain("ulimit -n")
    expect(because(new RangeError("Array buffer allocation failed"))).toContain("no more memory")
    expect(because(new Error("ENOSPC: no space left on device, write"))).toContain("the disk is full")
    expect(because(new Error("Cannot find package 'vega' imported from /a/still.ts"))).toContain("npm install it")
    expect(lacking(new Error("Cannot find module './gone.ts' imported from /a/still.ts"))).toBeUndefined()
    expect(lacking(new RangeError("Invalid array length"))).toBeUndefined()
    expect(because("plain")).toBe("plain")
  })
})

describe("a few tries of each fuzzer", () => {
  it.each(fuzzers)("$name", async ({ name, run }) => {
    const { uniform } = makeRandom(20)
    expect(await run(uniform, name.startsWith("damaged") ? 3 : 15, () => {})).toEqual([])
  })
})

it("writes out even its own styles where a text has none of ours: a name may hold them", () => {
  expect(printable("\u001b[31mred\u001b[2J")).toBe("\u001b[31mred\\u001b[2J")
  expect(printable("\u001b[31mred\u001b[2J", false)).toBe("\\u001b[31mred\\u001b[2J")
})

describe("what is told as a failure", () => {
  const file = told((cause) => new DataError({ path: "a.txt", detail: because(cause), cause }))
  const missing = Object.assign(new Error("ENOENT: no such file"), { code: "ENOENT" })

  it("is what the system says, and one of the five as it is", () => {
    expect(file(missing)).toMatchObject({ _tag: "DataError", path: "a.txt" })
    const five = new DataError({ detail: "of its own" })
    expect(file(five)).toBe(five)
    expect(file(new RangeError("Array buffer allocation failed"))).toMatchObject({ _tag: "DataError" })
  })

  it.each([new TypeError("x is undefined"), new Error("a plain one"), new SyntaxError("of a regular expression"),
    Object.assign(new TypeError("of an argument"), { code: "ERR_INVALID_ARG_TYPE" }), "a text"])(
      "is no mistake of a program, which is thrown on: %s",
      (bug) => expect(() => file(bug)).toThrow(bug instanceof Error ? bug : String(bug))
    )

  it("is of a GPU whatever it says, but for a mistake", () => {
    const gpu = told((cause) => new DeviceError({ reason: "Lost", detail: because(cause) }), isOfGpu)
    expect(gpu(new DOMException("mapping was aborted", "AbortError"))).toMatchObject({ reason: "Lost" })
    expect(() => gpu(new TypeError("undefined is no buffer"))).toThrow(TypeError)
  })
})
