import { readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"

/** The entry points of a file, each to the next one. */
const functionsOf = (source: string): ReadonlyArray<string> => source.split(/^@compute /m).slice(1)

/** A letter and a number: m0 is m[0]. `i4` counts groups of four. */
const REGISTER = /\b([a-hj-z])([0-7])\b/g

const registersOf = (line: string): ReadonlyArray<number> => [...line.matchAll(REGISTER)].map(([, , n]) => Number(n))

/** A line for any number: its registers, and where `literals`, the whole numbers equal to theirs. */
const templateOf = (line: string, n: number, literals: boolean): string =>
  line.replace(REGISTER, "$1#").replaceAll(literals ? new RegExp(`\\b${n}u\\b`, "g") : /$^/g, "#u")

/** Statements on registers of one number that do not stand once for each. */
const missing = (body: string): ReadonlyArray<string> => {
  const lines = body.split(/\n|(?<=;) (?=store)/).map((line) => line.trim()).filter((line) => line !== "")
  // where the first token is `first`, and others are `first + n`
  const whole = lines.map((line) =>
    line.replaceAll(/\btile(?! \+)/g, "tile + 0u").replaceAll(/\bfirst(?! \+)/g, "first + 0u")
  )
  const found = whole.flatMap((line) => {
    const numbers = new Set(registersOf(line))
    const [n] = numbers
    return n === undefined || numbers.size !== 1 ? [] : [{ line, n }]
  })
  const numbersBy = (literals: boolean) => {
    const seen = new Map<string, Set<number>>()
    for (const { line, n } of found) {
      const template = templateOf(line, n, literals)
      seen.set(template, (seen.get(template) ?? new Set()).add(n))
    }
    return seen
  }
  const [plain, literal] = [numbersBy(false), numbersBy(true)]
  return found.filter(({ line, n }) =>
    plain.get(templateOf(line, n, false))!.size < 8 && literal.get(templateOf(line, n, true))!.size < 8
  ).map(({ line }) => line)
}

/** Blocks that read one token of the tile, for any token. */
const blocksOf = (body: string): ReadonlyArray<{ readonly n: number; readonly text: string }> =>
  [...body.matchAll(/\{\s*let at = [^;]*min\(first(?: \+ (\d)u)?,/g)].map((match) => {
    let depth = 0
    let end = match.index
    do {
      if (body[end] === "{") depth++
      if (body[end] === "}") depth--
      end++
    } while (depth > 0)
    const n = Number(match[1] ?? 0)
    const text = body.slice(match.index, end).replaceAll(/\s+/g, " ")
      .replace(/min\(first(?: \+ \du)?,/, "min(first + #u,")
      .replaceAll(`, ${n}u)`, ", #u)")
    return { n, text }
  })

describe("attention_subgroup.wgsl", () => {
  const bodies = functionsOf(readFileSync("kernels/attention_subgroup.wgsl", "utf8"))

  it("has every statement on a register for all eight of them", () => {
    expect(bodies.map((body) => registersOf(body).length > 100)).toEqual([true, true, true])
    expect(bodies.flatMap(missing)).toEqual([])
  })

  it("reads every token of a tile alike", () => {
    for (const body of bodies) {
      const blocks = blocksOf(body)
      expect(blocks.map(({ n }) => n)).toEqual([0, 1, 2, 3, 4, 5, 6, 7])
      for (const { text } of blocks) expect(text).toBe(blocks[0]!.text)
    }
  })
})
