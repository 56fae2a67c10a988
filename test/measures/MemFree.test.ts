import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { fingerprint } from "../../src/data/tokens/SameTokenizer.ts"
import { bytes } from "../../src/data/tokens/Tokenizer.ts"
import * as MemFree from "../../src/measures/MemFree.ts"
import { random } from "../../src/Random.ts"

const folder = mkdtempSync(join(tmpdir(), "memsinks-memfree-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const draw = random(1, "MemFree")
const text = (length: number, vocabulary = 1000) => Uint32Array.from({ length }, () => draw.below(vocabulary))
const completes = (filter: MemFree.NgramFilter, gram: ArrayLike<number>): boolean =>
  filter.after(Array.from(gram).slice(0, -1))(gram[gram.length - 1]!)

describe("the Bloom filter of n-grams", () => {
  it("never misses one that was put in, wherever it stands", () => {
    for (const n of [2, 3, 10]) {
      for (const falsePositives of [0.5, 0.01, 1e-6]) {
        const texts = [text(40), text(n), text(n - 1), text(25)]
        const filter = MemFree.bloomFilter(texts, { n, falsePositives })
        for (const one of texts) {
          for (let from = 0; from + n <= one.length; from++) {
            expect(filter.after(one.subarray(0, from + n - 1))(one[from + n - 1]!)).toBe(true)
          }
        }
      }
    }
  })

  it("takes others for protected as often as was asked for, and as it says", () => {
    for (const falsePositives of [0.1, 0.01]) {
      const filter = MemFree.bloomFilter([text(4000)], { n: 4, falsePositives })
      const trials = 40_000
      let taken = 0
      for (let i = 0; i < trials; i++) if (completes(filter, text(4))) taken++
      const four = 4 * Math.sqrt(falsePositives * (1 - falsePositives) / trials)
      expect(Math.abs(taken / trials - falsePositives), `${falsePositives}`).toBeLessThan(four + 0.03 * falsePositives)
      expect(MemFree.falsePositiveRate(filter)).toBeCloseTo(falsePositives, 3)
      // m / N = 1.44 log2(1 / share)
      expect(32 * filter.bits.length / filter.ngrams).toBeCloseTo(1.44 * Math.log2(1 / falsePositives), 1)
    }
  })

  it("tells the order of tokens, counts different n-grams once, and lets a text begin", () => {
    const filter = MemFree.bloomFilter([[1, 2, 3, 4], [1, 2, 3]], { n: 3, falsePositives: 1e-6 })
    expect(filter.ngrams).toBe(2)
    expect([[1, 2, 3], [2, 3, 4], [2, 1, 3], [3, 2, 1], [1, 2, 4]].map((gram) => completes(filter, gram))).toEqual([
      true,
      true,
      false,
      false,
      false
    ])
    expect(filter.after([2])(3)).toBe(false)
    expect(filter.after([9, 9, 1, 2])(3)).toBe(true)
  })

  it("refuses options out of range and texts without an n-gram", () => {
    expect(() => MemFree.bloomFilter([[1, 2, 3]], { n: 1 })).toThrow("n must be a whole number of tokens from 2")
    expect(() => MemFree.bloomFilter([[1, 2, 3]], { falsePositives: 1 })).toThrow("falsePositives must be above 0")
    expect(() => MemFree.bloomFilter([[1, 2, 3], [1]])).toThrow("no 10-gram to protect: the longest text has 3 tokens")
  })
})

describe("its file", () => {
  const tokenizer = fingerprint(bytes.toJSON())
  const filter = MemFree.bloomFilter([text(60), text(30)], { n: 5, tokenizer })
  const run = <A, E>(effect: Effect.Effect<A, E, NodeContext.NodeContext>) =>
    Effect.runPromise(Effect.provide(effect, NodeContext.layer))

  it("brings back the filter, and names n, the n-grams and the tokenizer at fixed places", async () => {
    const path = join(folder, "filter.memfree")
    await run(MemFree.write(path, filter))
    const back = await run(MemFree.read(path, tokenizer))
    expect({ ...back, after: 0 }).toEqual({ ...filter, after: 0 })
    const file = readFileSync(path)
    expect(file.toString("latin1", 0, 8)).toBe("MEMFREE\n")
    expect([file.readUint32LE(12), file.readBigUint64LE(16), file.toString("hex", 40, 72)]).toEqual([
      5,
      BigInt(filter.ngrams),
      tokenizer
    ])
    expect(file.length).toBe(104 + 4 * filter.bits.length)
  })

  it("is refused, by its name, where it is missing, another's, or damaged at any byte", async () => {
    const path = join(folder, "damaged.memfree")
    const whole = MemFree.toBytes(filter)
    const refused = async (content: Uint8Array | undefined, digest?: string) => {
      if (content !== undefined) writeFileSync(path, content)
      const error = await run(Effect.flip(MemFree.read(content === undefined ? join(folder, "none") : path, digest)))
      expect(error._tag).toBe("DataError")
      return error.message
    }
    expect(await refused(undefined)).toContain("none")
    expect(await refused(whole, "f".repeat(64))).toMatch(/damaged\.memfree: holds n-grams of another tokenizer's/)
    expect(await refused(whole.subarray(0, 200))).toContain("it was cut off")
    expect(await refused(new TextEncoder().encode("not one"))).toContain("is no filter of MemFree decoding")
    const newer = whole.slice()
    newer[8] = 2
    expect(await refused(newer)).toContain("has version 2, this program reads 1")
    for (let at = 0; at < whole.length; at += 7) {
      const broken = whole.slice()
      broken[at]! ^= 4
      expect(() => MemFree.fromBytes(broken), `byte ${at}`).toThrow()
    }
  })
})
