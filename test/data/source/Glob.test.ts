import { describe, expect, it } from "vitest"
import { matcher } from "../../../src/data/source/Glob.ts"
import { makeRandom } from "../../reference/random.ts"

const fits = (pattern: string, path: string): boolean => matcher(pattern)(path)

describe("a pattern of paths", () => {
  it.each([
    ["*.jsonl", "a.jsonl", true],
    ["*.jsonl", "x/a.jsonl", false],
    ["**/*.jsonl", "a.jsonl", true],
    ["**/*.jsonl", "x/y/a.jsonl", true],
    ["**/a", "xa", false],
    ["x/**", "x/y/z", true],
    ["x/**/z", "x/z", true],
    ["./x/*", "x/y", true],
    ["x", "x/y/z", true],
    ["x*", "xy/z", true],
    ["x", "xy", false],
    ["a?c", "abc", true],
    ["a?c", "a/c", false],
    ["[!a-c]1", "d1", true],
    ["[!a-c]1", "b1", false],
    ["[]x]1", "]1", true],
    ["[a", "[a", true],
    ["{a,b{c,d}}.txt", "bd.txt", true],
    ["{a,b}.txt", "c.txt", false],
    ["a,b.txt", "a,b.txt", true],
    ["a,b.txt", "a", false],
    ["{a.txt", "{a.txt", true],
    ["a.b*", "axb", false],
    ["*", "é☕", true]
  ])("%s: %s %s", (pattern, path, expected) => {
    expect(fits(pattern, path)).toBe(expected)
  })

  it("takes as long as it is long, whatever it repeats", () => {
    const began = performance.now()
    expect(fits(`${"**/".repeat(300)}x.jsonl`, `${"a/".repeat(400)}y.jsonl`)).toBe(false)
    expect(fits(`${"*a".repeat(400)}b`, "a".repeat(1000))).toBe(false)
    expect(fits(`${"{a,aa}".repeat(150)}b`, "a".repeat(1000))).toBe(false)
    expect(performance.now() - began).toBeLessThan(1000)
    expect(() => fits("*".repeat(1025), "a")).toThrow("longer than 1024")
    const few = matcher("*a*a*a*", { steps: 50 })
    expect(() => few("a".repeat(100))).toThrow("too many steps")
  })

  it("agrees with a regular expression where that is short", () => {
    const random = makeRandom(7)
    const pieces = ["a", "b", "/", "*", "?", "**", "**/", "{a,b/}", "[ab]", "[!a]"]
    const meant: Readonly<Record<string, string>> = {
      "*": "[^/]*",
      "?": "[^/]",
      "**": ".*",
      "{a,b/}": "(?:a|b/)",
      "[ab]": "[ab]",
      "[!a]": "[^a/]"
    }
    const paths = Array.from({ length: 200 },
      () => Array.from({ length: 1 + random.int(6) }, () => "ab/"[random.int(3)]).join(""))
    for (let i = 0; i < 300; i++) {
      // a slash between, so that pieces do not run into one another
      const parts = Array.from({ length: 1 + random.int(3) }, () => pieces[random.int(pieces.length)]!)
        .filter((part) => !part.includes("**/"))
      const pattern = `x/${parts.join("/")}`
      const source = parts.map((part) => meant[part] ?? part).join("/")
        .replace(/(^|\/)\.\*\//g, "$1(?:.*/)?").replace(/(\(\?:\.\*\/\)\?)+/g, "(?:.*/)?")
      const expected = new RegExp(`^x/${source}(?:/.*)?$`)
      const test = matcher(pattern)
      expect([pattern, ...paths.filter((path) => test(`x/${path}`) !== expected.test(`x/${path}`))]).toEqual([pattern])
    }
  })
})
