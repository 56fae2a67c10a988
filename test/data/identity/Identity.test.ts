import * as FastCheck from "effect/FastCheck"
import { describe, expect, it } from "vitest"
import * as Identity from "../../../src/data/identity/Identity.ts"
import { contentHash, normalize } from "../../../src/data/identity/Identity.ts"
import { type Random, random } from "../../../src/Random.ts"
import { generated, measure, plant } from "../../bench/near.ts"

const WORDS = "the of and to in that is was for on with as it be by at from this are or an have not they which one all"
  .split(" ")

/** Texts of the fixed seed: `words` words each. */
const texts = (count: number, words: number, seed = 1): ReadonlyArray<string> => {
  const draw = random(seed, "texts")
  const word = (): string => WORDS[draw.below(WORDS.length)]!
  return Array.from({ length: count }, () => Array.from({ length: words }, word).join(" "))
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
    // composed only once it is in lower case
    expect(normalize("\u03aa\u0301")).toBe("\u0390")
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
      { numRuns: 700, seed: 1 }
    )
    // the quick way for ASCII and the way for all others agree
    FastCheck.assert(
      FastCheck.property(FastCheck.string({ unit: "binary-ascii", minLength: 1, maxLength: 60 }), (t) => {
        if (!/[A-Za-z0-9]/.test(t)) return
        expect(`${normalize(t)} é`).toBe(normalize(`${t} é`))
        expect(normalize(t.toUpperCase())).toBe(normalize(t))
      }),
      { numRuns: 700, seed: 1 }
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

describe("bands", () => {
  it("are those of the least weighted area beside the step", () => {
    expect(Identity.bandsFor(0.5, 128)).toEqual({ bands: 42, rows: 3 })
    expect(Identity.bandsFor(0.8, 128)).toEqual({ bands: 18, rows: 7 })
    expect(Identity.bandsFor(1, 128)).toEqual({ bands: 1, rows: 128 })
    for (const numHashes of [64, 128, 200]) {
      for (const threshold of [0.3, 0.5, 0.7, 0.8, 0.9]) {
        const bands = Identity.bandsFor(threshold, numHashes)
        expect(bands.bands * bands.rows).toBeLessThanOrEqual(numHashes)
        expect(Identity.collisionProbability(threshold + 0.05, bands)).toBeGreaterThan(0.97)
      }
    }
    expect(Identity.collisionProbability(0.5, { bands: 2, rows: 2 })).toBeCloseTo(1 - 0.75 ** 2, 12)
  })
})

describe("signatures", () => {
  const word = (draw: Random) => `w${draw.below(1e9).toString(36)}`

  it("estimate the Jaccard index without bias, for short texts and long ones, within its standard error", () => {
    const draw = random(3, "estimates")
    for (const [size, common] of [[20, 13], [60, 53], [400, 267], [2000, 667]] as const) {
      // two sets of `size` single words, of which they share `common`
      const truth = common / (2 * size - common)
      const index = Identity.makeNearIndex({ shingle: 1 })
      const shared = (): ReadonlyArray<string> => Array.from({ length: common }, () => word(draw))
      const own = (): ReadonlyArray<string> => Array.from({ length: size - common }, () => word(draw))
      const errors = Array.from({ length: 150 }, (_, pair) => {
        const both = shared()
        index.add([...both, ...own()].join(" "))
        index.add(draw.shuffle([...both, ...own()]).join(" "))
        return index.similarity(2 * pair, 2 * pair + 1) - truth
      })
      const standard = Math.sqrt(truth * (1 - truth) / 128)
      const bias = errors.reduce((a, b) => a + b, 0) / errors.length
      const rms = Math.sqrt(errors.reduce((a, b) => a + b * b, 0) / errors.length)
      expect(Math.abs(bias)).toBeLessThan(4 * standard / Math.sqrt(errors.length))
      expect(rms).toBeLessThan(1.25 * standard)
      expect(rms).toBeGreaterThan(0.4 * standard)
    }
  })

  it("do not take the slots that agree by accident for likeness", () => {
    const draw = random(4, "accidents")
    const index = Identity.makeNearIndex({ shingle: 1, numHashes: 2048 })
    const list = (length: number): ReadonlyArray<string> => Array.from({ length }, () => word(draw))
    const estimates = Array.from({ length: 150 }, (_, pair) => {
      const both = list(100)
      index.add([...both, ...list(200)].join(" "))
      index.add([...both, ...list(200)].join(" "))
      return index.similarity(2 * pair, 2 * pair + 1)
    })
    // uncorrected, .2 would come out as .2031; the standard error is at most .0088 / sqrt(150)
    const mean = estimates.reduce((a, b) => a + b, 0) / estimates.length
    expect(Math.abs(mean - 0.2)).toBeLessThan(0.002)
  })

  it("are of the set of shingles: repeats, case and punctuation change nothing, the order of words does", () => {
    const sign = Identity.makeSigner({ shingle: 2 })
    const of = (text: string) => sign(normalize(text)).join()
    expect(of("a b c a b c a b")).toBe(of("a b c a b"))
    expect(of("A, b; C!")).toBe(of("a b c"))
    expect(of("a b c")).not.toBe(of("c b a"))
    expect(of("b a b")).not.toBe(of("a b"))
    // a text that says the same thousands of times is still two shingles
    expect(of("a b ".repeat(100_000))).toBe(of("a b a"))
  })

  it("tell short texts apart and give exact repeats the same", () => {
    const index = Identity.makeNearIndex({ threshold: 0.5 })
    const short = ["", "a", "b", "a b", "b a", "a b c d", "a b c d e", "a b c d e f", "b c d e f"]
    for (const text of [...short, ...short]) index.add(text)
    const { near } = index.clusters()
    // of the last three, "a b c d e f" has both others as shingles: half of the union each
    expect([...near.slice(0, 6)]).toEqual([0, 1, 2, 3, 4, 5])
    expect([...near.slice(short.length)]).toEqual([...near.slice(0, short.length)])
  })

  it("take every character of a script without spaces for a word", () => {
    const index = Identity.makeNearIndex({ threshold: 0.5 })
    const text = "我们在这里讨论一个关于语言模型的问题它们记住了太多不应该记住的东西所以我们要让它们学会忘记"
    index.add(text)
    index.add(text.replace("太多", "很多"))
    expect(index.similarity(0, 1)).toBeGreaterThan(0.6)
    expect([...index.clusters().near]).toEqual([0, 0])
  })
})

describe("near-duplicate clusters", () => {
  const originals = generated(600, 150, random(5, "originals"))
  const planted = plant(originals, random(6, "edits"))

  it.each([0.5, 0.8])("find planted copies at threshold %d as the theory says, and little else", (threshold) => {
    const found = measure(planted, threshold)
    expect(found.recallAbove).toBeGreaterThan(0.985)
    expect(found.recall).toBeGreaterThan(0.93)
    expect(found.precisionNear).toBeGreaterThan(0.985)
    expect(found.precision).toBeGreaterThan(0.93)
    for (const { candidates, expected, from, joined, pairs, sCurve } of found.bins) {
      // four standard errors of the share, and the spread of rare events where the theory says nearly 0 or 1
      const spread = (p: number) => 4 * Math.sqrt(p * (1 - p) / pairs) + 4 / pairs
      expect(Math.abs(candidates - sCurve), `in a band, from ${from}`).toBeLessThan(spread(sCurve))
      expect(Math.abs(joined - expected), `joined, from ${from}`).toBeLessThan(spread(expected))
    }
    // all bins come up, so that the curve was really looked at
    expect(found.bins.length).toBeGreaterThan(14)
  })

  it("are what comparing every pair would give: those that agree in a band and are alike enough", () => {
    const some = Array.from({ length: 150 }, (_, i) => [planted.texts[i], planted.texts[originals.length + i]]).flat()
    const sign = Identity.makeSigner()
    const signatures = some.map((text) => sign(normalize(text!)))
    const index = Identity.makeNearIndex({ threshold: 0.5 })
    signatures.forEach(index.addSignature)
    const { bands, rows } = index.bands
    const first = some.map((_, i) => i)
    let pairs = 0
    for (let i = 0; i < some.length; i++) {
      for (let j = 0; j < i; j++) {
        const band = Array.from({ length: bands }, (_, b) => b * rows).some((from) => {
          for (let k = from; k < from + rows; k++) if (signatures[i]![k] !== signatures[j]![k]) return false
          return true
        })
        if (!band || index.similarity(i, j) < 0.5) continue
        pairs++
        const [low, high] = [Math.min(first[i]!, first[j]!), Math.max(first[i]!, first[j]!)]
        first.forEach((one, d) => {
          if (one === high) first[d] = low
        })
      }
    }
    expect(pairs).toBeGreaterThan(80)
    expect([...index.clusters().near]).toEqual(first)
  })

  it("find every exact repeat among thousands", () => {
    const index = Identity.makeNearIndex({ threshold: 1, numHashes: 16 })
    const documents = 12_000
    for (let i = 0; i < 2 * documents; i++) index.add(`text ${i % documents}`)
    const { near } = index.clusters(0)
    expect(near.every((first, i) => first === i % documents)).toBe(true)
  })

  it("depend on texts and their numbers only, not on batches or on who signed", () => {
    const index = Identity.makeNearIndex()
    for (const text of planted.texts) index.add(text)
    const once = index.clusters()
    expect([...index.clusters().near]).toEqual([...once.near])

    const inBatches = Identity.makeNearIndex()
    const draw = random(7, "batches")
    for (let from = 0; from < planted.texts.length;) {
      const to = Math.min(planted.texts.length, from + 1 + draw.below(100))
      // a signer of its own for each batch, which signs it backwards
      const sign = Identity.makeSigner()
      const signatures = planted.texts.slice(from, to).reverse().map((text) => sign(normalize(text))).reverse()
      inBatches.addSignature(Uint8Array.from(signatures.flatMap((one) => [...one])))
      if (draw.below(4) === 0) inBatches.clusters()
      from = to
    }
    expect(inBatches.size()).toBe(planted.texts.length)
    expect([...inBatches.clusters().near]).toEqual([...once.near])
    expect(inBatches.clusters().pairs).toEqual(once.pairs)
  })

  it("come from signatures that are the same in every process and on every runtime", () => {
    const sign = Identity.makeSigner()
    const hex = (text: string) => [...sign(normalize(text))].map((byte) => byte.toString(16).padStart(2, "0")).join("")
    expect(hex("one two three four five six seven").slice(0, 32)).toBe("2ed03f1f5a636af6b6b453a92b3fc63e")
    expect(hex("").slice(0, 32)).toBe("065d92d6c63eb39a5a0477d83919f342")
    const long = "the quick brown fox jumps over the lazy dog ".repeat(3) + "東京"
    expect(Identity.hash64(hex(long))).toBe(0x12dc4e754a95877an)
  })

  it("are numbered by their first document, and join friends of friends", () => {
    const base = originals[0]!.split(" ")
    const index = Identity.makeNearIndex({ threshold: 0.7 })
    // each 20 words further along the same text: a neighbour has .76 in common, one further on .56
    const walk = [0, 1, 2, 3].map((i) => [...base, ...originals[1]!.split(" ")].slice(20 * i, 20 * i + 145).join(" "))
    for (const text of [originals[2], walk[2], originals[3], walk[0], walk[3], walk[1], originals[3]]) index.add(text!)
    const { near, pairs } = index.clusters()
    expect([...near]).toEqual([0, 1, 2, 1, 1, 1, 2])
    expect(index.similarity(1, 3)).toBeLessThan(0.7)
    expect(pairs).toHaveLength(4)
    expect(pairs[0]).toEqual({ a: 2, b: 6, jaccard: 1 })
    for (const { a, b, jaccard } of pairs) expect(jaccard).toBe(index.similarity(a, b))
    expect(index.clusters(1).pairs).toEqual([pairs[0]])
  })

  it("stay linear where thousands have a band in common", () => {
    const draw = random(8, "form")
    const index = Identity.makeNearIndex({ threshold: 0.9 })
    const form = originals[4]!.split(" ")
    const documents = 3000
    // a Jaccard index of .75
    for (let i = 0; i < documents; i++) {
      const own = Array.from({ length: 20 }, () => draw.below(1e6).toString(36))
      index.add([...form, ...own].join(" "))
    }
    const { compared, near } = index.clusters()
    // all pairs that share a band would be about four times as many
    expect(compared).toBeGreaterThan(100_000)
    expect(compared).toBeLessThan(600_000)
    expect(new Set(near).size).toBeGreaterThan(0.95 * documents)
  })

  it("refuse signatures of another length and options out of range", () => {
    const index = Identity.makeNearIndex({ numHashes: 64 })
    expect(() => index.addSignature(new Uint8Array(65))).toThrow(/65 bytes, expected 64/)
    expect(() => index.addSignature(new Uint8Array(0))).toThrow(/expected 64/)
    expect(() => Identity.makeNearIndex({ threshold: 1.5 })).toThrow(/threshold/)
    expect(() => Identity.makeSigner({ shingle: 0 })).toThrow(/shingle/)
    expect([...index.clusters().near]).toEqual([])
  })
})
