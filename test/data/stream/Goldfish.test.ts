import { describe, expect, it } from "vitest"
import { arms } from "../../../pipelines/experiment/Arms.ts"
import { type Batch, IGNORE } from "../../../src/Batch.ts"
import { goldfishKept, goldfishTargets } from "../../../src/data/stream/Goldfish.ts"
import { random } from "../../../src/Random.ts"
import { makeRandom } from "../../reference/random.ts"
import { batchOfDocuments } from "../../support/support.ts"

const text = (seed: number, length: number, vocabSize = 500): Uint32Array => {
  const draw = random(seed, "text")
  return Uint32Array.from({ length }, () => draw.below(vocabSize))
}

const dropped = (kept: Uint8Array): number => kept.filter((one) => one === 0).length

describe("the goldfish mask", () => {
  it("leaves out one token in k, within what chance allows", () => {
    for (const k of [3, 4, 8, 32.5]) {
      for (const decidedBy of ["preceding", "including"] as const) {
        const tokens = 40000
        const share = dropped(goldfishKept(text(1, tokens), { k, window: 4, decidedBy })) / tokens
        expect(Math.abs(share - 1 / k)).toBeLessThan(4 * Math.sqrt((1 / k) * (1 - 1 / k) / tokens))
      }
    }
  })

  it("leaves out as many targets of a row as the arm's title says", () => {
    for (const n of [16, 64]) {
      let lost = 0
      for (let i = 0; i < 4000; i++) {
        // what a row of n is cut from: its first token is no target
        const kept = goldfishKept(text(i, n + 1), { k: 4, window: 13 })
        lost += kept.subarray(1).filter((one) => one === 0).length
      }
      expect(lost / (4000 * n)).toBeCloseTo((1 - 12 / n) / 4, 2)
    }
    expect(arms.goldfish.title).toContain("1/4 (1 - 12/n) of the targets in rows of n, .20 in rows of 64")
  })

  it("of an infinite k is the standard loss", () => {
    expect(dropped(goldfishKept(text(1, 5000), { k: Infinity }))).toBe(0)
  })

  it("falls on the same tokens of a text wherever it stands", () => {
    for (const decidedBy of ["preceding", "including"] as const) {
      const options = { k: 3, window: 5, decidedBy } as const
      const passage = text(2, 200)
      const alone = goldfishKept(passage, options).subarray(5)
      expect(dropped(alone)).toBeGreaterThan(40)
      for (const offset of [1, 7, 64]) {
        const inside = Uint32Array.of(...text(offset, offset), ...passage, ...text(99, 9))
        expect(goldfishKept(inside, options).subarray(offset + 5, offset + 200)).toEqual(alone)
      }
    }
  })

  it("keeps the tokens whose window the text does not hold", () => {
    // k just above 1 leaves out all others
    const kept = (
      decidedBy: "preceding" | "including"
    ) => [...goldfishKept(text(3, 9), { k: 1 + 1e-12, window: 4, decidedBy })]
    expect(kept("preceding")).toEqual([1, 1, 1, 1, 0, 0, 0, 0, 0])
    expect(kept("including")).toEqual([1, 1, 1, 0, 0, 0, 0, 0, 0])
    expect(dropped(goldfishKept(text(3, 3), { k: 1.1, window: 4 }))).toBe(0)
  })

  it("is decided before the token is known, unless it is asked to include it", () => {
    const after = (last: number, decidedBy: "preceding" | "including") =>
      [5, 6, 7].map((c) => goldfishKept([1, 2, 3, c, last], { k: 2, window: 2, decidedBy })[4])
    const decisions = (decidedBy: "preceding" | "including") =>
      new Set(Array.from({ length: 20 }, (_, last) => after(last, decidedBy).join())).size
    expect(decisions("preceding")).toBe(1)
    expect(decisions("including")).toBeGreaterThan(1)
  })

  it("sees the order of its window, and is no worse for zeros", () => {
    const last = (window: ReadonlyArray<number>, seed: number) =>
      goldfishKept([...window, 9], { k: 2, window: 3, seed })[3]!
    const over = (window: ReadonlyArray<number>) => Array.from({ length: 64 }, (_, seed) => last(window, seed))
    expect(over([1, 2, 3])).not.toEqual(over([3, 2, 1]))
    expect(over([0, 5, 6])).not.toEqual(over([0, 6, 5]))
    expect(over([0, 5, 6])).not.toEqual(over([0, 7, 8]))
    const zeros = over([0, 0, 0]).reduce((a, b) => a + b)
    expect(zeros).toBeGreaterThan(16)
    expect(zeros).toBeLessThan(48)
  })

  it("refuses a k that leaves nothing, or no window", () => {
    expect(() => goldfishKept([1], { k: 1 })).toThrow("k above 1")
    expect(() => goldfishKept([1], { k: 4, window: 0 })).toThrow("a window of at least 1")
  })
})

describe("a batch", () => {
  const options = { k: 2, window: 3, seed: 1 }

  it("loses the targets that each document by itself loses, and changes nothing else", () => {
    const rows = [[[20, 1n], [12, 2n]], [[5, 3n], [27, 4n]]] as const
    const batch: Batch = batchOfDocuments(rows, 32, 50, makeRandom(3))
    const before = batch.targets.slice()
    const masked = goldfishTargets(batch, options)
    expect(batch.targets).toEqual(before)
    const expected = before.slice()
    for (const [from, length] of [[0, 20], [20, 12], [32, 5], [37, 27]] as const) {
      goldfishKept(batch.tokens.subarray(from, from + length), options).forEach((kept, i) => {
        if (kept === 0) expected[from + i - 1] = IGNORE
      })
    }
    expect(masked).toEqual(expected)
    expect(masked.filter((t, i) => t !== before[i]).length).toBeGreaterThan(15)
  })

  it("may lose its last target, which no token of it shows", () => {
    const tokens = text(5, 9)
    const lost = Array.from({ length: 20 }, (_, seed) => {
      const batch: Batch = {
        rows: 1,
        seqLen: 8,
        tokens: tokens.subarray(0, 8),
        targets: tokens.slice(1),
        positions: Uint32Array.from({ length: 8 }, (_, i) => i),
        documentStart: new Uint32Array(8),
        ids: new BigUint64Array(8)
      }
      const masked = goldfishTargets(batch, { ...options, seed })
      expect(masked[7] === IGNORE).toBe(goldfishKept(tokens, { ...options, seed })[8] === 0)
      return masked[7] === IGNORE
    })
    expect(lost).toContain(true)
    expect(lost).toContain(false)
  })
})
