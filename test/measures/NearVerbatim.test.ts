import { describe, expect, it } from "vitest"
import { matchingBlocks, nearVerbatim } from "../../src/measures/NearVerbatim.ts"
import { random } from "../../src/Random.ts"

const block = (source: number, text: number, length: number) => ({
  source,
  text,
  sourceLength: length,
  textLength: length,
  matched: length
})

/** The same by the definition: all runs there are, the longest, then before and behind it. */
const slowly = (a: ReadonlyArray<number>, b: ReadonlyArray<number>, s = 0, t = 0): ReturnType<typeof block>[] => {
  let best = [0, 0, 0] as readonly [number, number, number]
  for (let i = 0; i < a.length; i++) {
    for (let j = 0; j < b.length; j++) {
      let n = 0
      while (i + n < a.length && j + n < b.length && a[i + n] === b[j + n]) n++
      if (n > best[2]) best = [i, j, n]
    }
  }
  const [i, j, n] = best
  if (n === 0) return []
  return [
    ...slowly(a.slice(0, i), b.slice(0, j), s, t),
    block(s + i, t + j, n),
    ...slowly(a.slice(i + n), b.slice(j + n), s + i + n, t + j + n)
  ]
}

const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i)

describe("blocks that two sequences share", () => {
  it("are the longest, and those on each side of it", () => {
    expect(matchingBlocks([..."abxcd"], [..."abcd"])).toEqual([block(0, 0, 2), block(3, 2, 2)])
    // the private x of both stands before the longest in one and behind it in the other: it is out of order
    expect(matchingBlocks([..."xabcd"], [..."abcdx"])).toEqual([block(1, 0, 4)])
    expect(matchingBlocks([], [1])).toEqual([])
    expect(matchingBlocks([1], [2])).toEqual([])
  })

  it("are those of brute force", () => {
    const draw = random(3, "blocks")
    for (let i = 0; i < 60; i++) {
      const of = () => Array.from({ length: draw.below(14) }, () => draw.below(4))
      const [a, b] = [of(), of()]
      expect(matchingBlocks(a, b)).toEqual(slowly(a, b))
    }
  })
})

describe("near-verbatim recall", () => {
  const source = range(0, 200)

  it("of a copy is 1, of another text 0, and of a short quotation 0", () => {
    expect(nearVerbatim(source, source)).toMatchObject({ recall: 1, matched: 200, longest: 200 })
    expect(nearVerbatim(source, range(500, 700))).toMatchObject({ recall: 0, matched: 0, longest: 0, blocks: [] })
    // 99 words are one too few; 100 are a passage
    expect(nearVerbatim(source, range(20, 119)).recall).toBe(0)
    expect(nearVerbatim(source, range(20, 120)).recall).toBe(0.5)
  })

  it("joins over one or two other words, and counts equal ones alone", () => {
    // a word replaced after every 30: blocks of 30 with gaps of 1
    const slips = source.map((word) => word % 31 === 30 ? 999 : word)
    expect(nearVerbatim(source, slips)).toMatchObject({ matched: 194, recall: 0.97, longest: 194 })
    expect(nearVerbatim(source, slips).blocks).toHaveLength(1)
    // of 15 words each no block has 20, but the first round joins them before it drops any
    const many = source.map((word) => word % 16 === 15 ? 999 : word)
    expect(nearVerbatim(source, many).matched).toBe(188)
  })

  it("drops blocks between gaps that are too wide, or too unequal, and joins passages over 10 words", () => {
    const half = [...range(0, 60), ...range(900, 908), ...range(68, 128)]
    // 8 words replaced: 60 and 60 are each longer than 20, and the second round joins them
    expect(nearVerbatim(source, half).matched).toBe(120)
    const wide = [...range(0, 60), ...range(900, 911), ...range(71, 131)]
    expect(nearVerbatim(source, wide).matched).toBe(0)
    // 4 words left out of the text: gaps of 4 and 0 differ by more than 3
    expect(nearVerbatim(source, [...range(0, 60), ...range(64, 124)]).matched).toBe(0)
    expect(nearVerbatim(source, [...range(0, 60), ...range(63, 123)]).matched).toBe(120)
    const short = [{ gap: 0, drift: 0, length: 3 }]
    expect(nearVerbatim(range(0, 10), [0, 1, 2, 77, 4, 5, 78, 7, 8, 9], short)).toMatchObject({ matched: 6,
      recall: 0.6 })
  })
})
