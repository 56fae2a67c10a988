import * as FastCheck from "effect/FastCheck"
import { describe, expect, it } from "vitest"
import * as Identity from "../src/Identity.ts"
import { contentHash, normalize } from "../src/Identity.ts"
import { random } from "../src/Random.ts"

const WORDS = "the of and to in that is was for on with as it be by at from this are or an have not they which one all"
  .split(" ")

/** Texts of the fixed seed: `words` words each. */
const texts = (count: number, words: number, seed = 1): ReadonlyArray<string> => {
  const draw = random(seed, "texts")
  return Array.from({ length: count }, () => Array.from({ length: words }, () => WORDS[draw.below(WORDS.length)]).join(" "))
}

const bitCount = (x: bigint): number => x.toString(2).replaceAll("0", "").length

describe("normalize", () => {
  it("keeps words in lower case with one space between them", () => {
    expect(normalize("  “Don’t”,\n\tshe  SAID -- twice (2)! ")).toBe("don t she said twice 2")
    expect(normalize("Don't, she said; twice: 2.")).toBe("don t she said twice 2")
    expect(normalize("a_b+c")).toBe("a b c")
  })

  it("takes characters for the same however they are encoded", () => {
    expect(normalize("nai\u0308ve Cafe\u0301")).toBe("na\u00efve caf\u00e9")
    expect(normalize("\uff26\uff55\uff4c\uff4c \ufb01x x\u00b2 \u2160")).toBe("full fix x2 i")
    expect(normalize("\ufeffco\u00adope\u200brate")).toBe("cooperate")
    expect(normalize("ΟΔΟΣ Ёлка 東京、大阪")).toBe("οδος ёлка 東京 大阪")
  })

  it("keeps different words, digits and word orders apart", () => {
    const different = ["a b", "b a", "ab", "a b 1", "a b 2", "a b b", "á b", ""]
    expect(new Set(different.map(normalize)).size).toBe(different.length)
  })

  it("keeps the punctuation of texts that have nothing else", () => {
    expect(normalize(" *  --\n*")).toBe("* -- *")
    expect(normalize("\u{1F600}")).toBe("\u{1F600}")
    expect(normalize(" \n\u0000 \u200b")).toBe("")
    expect(normalize("\u2014 \u2014")).toBe("\u2014 \u2014")
  })

  it("gives the same when applied twice, and for other case and white space", () => {
    const text = FastCheck.oneof(
      FastCheck.string({ unit: "binary", maxLength: 40 }),
      FastCheck.string({ unit: "grapheme", maxLength: 40 }),
      FastCheck.string({ unit: "binary-ascii", maxLength: 40 })
    )
    FastCheck.assert(
      FastCheck.property(text, (t) => {
        const once = normalize(t)
        expect(normalize(once)).toBe(once)
        expect(normalize(`\n${t}\t `)).toBe(once)
      }),
      { numRuns: 2000, seed: 1 }
    )
    // the quick way for ASCII and the way for all others agree
    FastCheck.assert(
      FastCheck.property(FastCheck.string({ unit: "binary-ascii", minLength: 1, maxLength: 60 }), (t) => {
        if (!/[A-Za-z0-9]/.test(t)) return
        expect(`${normalize(t)} é`).toBe(normalize(`${t} é`))
        expect(normalize(t.toUpperCase())).toBe(normalize(t))
      }),
      { numRuns: 2000, seed: 1 }
    )
  })
})

describe("contentHash", () => {
  it("is the beginning of the SHA-256 of the normalized text", () => {
    // printf 'abc' | sha256sum | cut -c1-16
    expect(contentHash("")).toBe(0xe3b0c44298fc1c14n)
    expect(contentHash(" ABC!")).toBe(0xba7816bf8f01cfean)
    expect(Identity.sourceHash("ABC")).toBe(0xb5d4045c3f466fa9n)
    expect(contentHash("NAI\u0308VE, cafe\u0301")).toBe(contentHash("na\u00efve caf\u00e9"))
  })

  it("gives different texts different ids, spread over all 64 bits", () => {
    const hashes = texts(20_000, 12).map(contentHash)
    expect(new Set(hashes).size).toBe(new Set(texts(20_000, 12)).size)
    for (let bit = 0n; bit < 64n; bit++) {
      const ones = hashes.filter((hash) => (hash >> bit) & 1n).length
      // five standard errors of 20,000 coins
      expect(Math.abs(ones - 10_000)).toBeLessThan(5 * Math.sqrt(5_000))
    }
  })

  it("moves half of the bits when one letter changes", () => {
    const changed = texts(2_000, 8).map((text, i) => {
      const at = i % text.length
      return bitCount(contentHash(text) ^ contentHash(`${text.slice(0, at)}q${text.slice(at + 1)}`))
    })
    const mean = changed.reduce((a, b) => a + b, 0) / changed.length
    // 64 coins, 2,000 times: the standard error is 4 / sqrt(2000) = .09
    expect(Math.abs(mean - 32)).toBeLessThan(0.45)
    expect(Math.min(...changed)).toBeGreaterThan(8)
  })
})
