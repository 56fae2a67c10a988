import { describe, expect, it } from "vitest"
import * as Text from "../../src/measures/TextMetrics.ts"
import { random } from "../../src/Random.ts"

const words = (text: string): ReadonlyArray<string> => text.split(" ")

/** By the definition, without a table. */
const naiveDistance = (a: ReadonlyArray<number>, b: ReadonlyArray<number>): number =>
  a.length === 0 || b.length === 0
    ? a.length + b.length
    : a[0] === b[0]
    ? naiveDistance(a.slice(1), b.slice(1))
    : 1 + Math.min(
      naiveDistance(a.slice(1), b),
      naiveDistance(a, b.slice(1)),
      naiveDistance(a.slice(1), b.slice(1))
    )

const subsequences = (a: ReadonlyArray<number>): ReadonlyArray<ReadonlyArray<number>> =>
  a.length === 0 ? [[]] : subsequences(a.slice(1)).flatMap((rest) => [rest, [a[0]!, ...rest]])

describe("edit distance", () => {
  it("is the definition's, and so are common subsequences and runs", () => {
    const draw = random(1, "pairs")
    for (let r = 0; r < 60; r++) {
      const [a, b] = [draw.below(7), draw.below(7)].map((length) => Array.from({ length }, () => draw.below(3)))
      expect(Text.editDistance(a!, b!)).toBe(naiveDistance(a!, b!))
      const of = new Set(subsequences(b!).map(String))
      const common = Math.max(...subsequences(a!).filter((s) => of.has(String(s))).map((s) => s.length))
      expect(Text.rougeL(a!, b!).recall).toBeCloseTo(b!.length === 0 ? 0 : common / b!.length, 14)
      const runs = a!.flatMap((_, i) => a!.map((_, j) => a!.slice(i, j + 1)))
        .filter((run) => `,${b},`.includes(`,${run},`))
      expect(Text.longestCommonRun(a!, b!)).toBe(Math.max(0, ...runs.map((run) => run.length)))
    }
  })

  it("counts characters of strings and tokens of lists; normalized, the longer one is 1", () => {
    expect(Text.editDistance("kitten", "sitting")).toBe(3)
    expect(Text.editDistance([..."🙂a"], [..."🙃a"])).toBe(1)
    expect(Text.normalizedEditDistance("abcd", "abxd")).toBe(0.25)
    expect(Text.normalizedEditDistance("", "ab")).toBe(1)
    expect(Text.normalizedEditDistance("", "")).toBe(0)
  })
})

describe("BLEU", () => {
  it("is 1 of a copy and 0 of nothing in common, however short", () => {
    for (const text of ["a", "a b", "the cat sat on the mat"].map(words)) {
      expect(Text.bleu(text, text)).toBeCloseTo(1, 14)
    }
    expect(Text.bleu(words("a b c d e"), words("v w x y z"))).toBe(0)
    expect(Text.bleu([], words("a"))).toBe(0)
  })

  it("clips repeated n-grams, adds one above 1-grams, and punishes brevity", () => {
    // 2 of 7 "the" count; no longer n-gram: (0 + 1) / (6, 5, 4 + 1)
    const the = Text.bleu(words("the the the the the the the"), words("the cat is on the mat x"))
    expect(the).toBeCloseTo((2 / 7 * 1 / 7 * 1 / 6 * 1 / 5) ** 0.25, 12)
    // five of ten words, all right: exp(1 - 10/5)
    expect(Text.bleu(words("a b c d e"), words("a b c d e f g h i j"))).toBeCloseTo(Math.exp(-1), 12)
    // longer than the reference: 4/5, (3+1)/(4+1), (2+1)/(3+1), (1+1)/(2+1)
    expect(Text.bleu(words("a b c d x"), words("a b c d"))).toBeCloseTo((0.8 * 0.8 * 0.75 * 2 / 3) ** 0.25, 12)
  })
})

describe("ROUGE", () => {
  it("has precision, recall and f1, in order or not", () => {
    const [text, reference] = [words("police kill the gunman"), words("the gunman kill police")]
    expect(Text.rougeL(text, reference)).toEqual({ precision: 0.5, recall: 0.5, f1: 0.5 })
    expect(Text.rouge1(text, reference)).toEqual({ precision: 1, recall: 1, f1: 1 })
    expect(Text.rougeL(words("a b"), words("a x b y")).recall).toBe(0.5)
    expect(Text.rougeL(words("a b"), words("a x b y")).precision).toBe(1)
    expect(Text.rougeL([], words("a"))).toEqual({ precision: 0, recall: 0, f1: 0 })
  })
})

describe("repetition", () => {
  it("is what distinct n-grams leave", () => {
    expect(Text.distinctN(words("a b a b a"), 2)).toBe(0.5)
    expect(Text.repetitionRate(words("a b a b a b a b a b a"), 4)).toBeCloseTo(1 - 2 / 8, 14)
    expect(Text.repetitionRate(words("a b c d e f"))).toBe(0)
    expect(Text.distinctN(words("a"), 2)).toBeNaN()
    // numbers are not taken for digits of each other
    expect(Text.distinctN([1, 23, 12, 3], 2)).toBe(1)
  })
})

describe("a copy", () => {
  it("is scored place by place and as a whole", () => {
    const truth = Array.from({ length: 20 }, (_, i) => i)
    expect(Text.copy(truth, truth)).toEqual({
      exact: true,
      matched: 1,
      prefix: 20,
      longestRun: 20,
      editDistance: 0,
      bleu: expect.closeTo(1, 12),
      rougeL: 1,
      approximate: true
    })
    // one token left out: no place behind it is right, yet it is an approximate copy
    const shifted = truth.filter((t) => t !== 10)
    expect(Text.copy(shifted, truth)).toMatchObject({
      exact: false,
      matched: 0.5,
      prefix: 10,
      longestRun: 10,
      editDistance: 0.05,
      approximate: true
    })
    expect(Text.copy(truth.map((t) => t + (t % 5 === 0 ? 50 : 0)), truth).approximate).toBe(false)
    // a text that goes on is not exact
    expect(Text.copy([...truth, 1], truth)).toMatchObject({ exact: false, matched: 1, prefix: 20 })
  })
})

describe("peakedness", () => {
  it("is the share of samples next to the greedy text", () => {
    const greedy = Array.from({ length: 40 }, (_, i) => i)
    const near = greedy.map((t) => (t === 3 || t === 9 ? 99 : t))
    const far = greedy.map((t) => (t % 10 === 3 ? 99 : t))
    expect(Text.peakedness([greedy, near, far, []], greedy)).toBe(0.5)
    expect(Text.peakedness([greedy, near, far, []], greedy, 0)).toBe(0.25)
  })

  it("is, of tokens that are each the greedy one by chance, what the binomial distribution says", () => {
    const draw = random(9, "peak")
    const [length, chance, trials] = [40, 0.95, 4000]
    const greedy = Array.from({ length }, (_, i) => i)
    // what is not the greedy token occurs in no text, so that edits are differences
    const samples = Array.from({ length: trials },
      () => greedy.map((token) => draw.uniform() < chance ? token : 1000 + token))
    // at most 2 of 40 differ: .95^40 + 40 .95^39 .05 + 780 .95^38 .05^2
    const expected = chance ** 40 + 40 * chance ** 39 * 0.05 + 780 * chance ** 38 * 0.05 ** 2
    expect(expected).toBeCloseTo(0.6767, 4)
    const four = 4 * Math.sqrt(expected * (1 - expected) / trials)
    expect(Math.abs(Text.peakedness(samples, greedy) - expected)).toBeLessThan(four)
  })

  it("goes where TED takes the peak away: samples that are the same, and those near the greedy text", () => {
    const greedy = [1, 2, 3, 4, 5, 6]
    const near = [1, 2, 3, 4, 9, 9]
    const [far, shorter] = [[1, 2, 3, 9, 9, 9], [1, 2, 3]]
    expect(Text.withoutPeak([greedy, near, far, shorter, far, near], greedy)).toEqual([far, shorter])
    expect(Text.withoutPeak([greedy, near, far], greedy, 0)).toEqual([near, far])
    expect(Text.withoutPeak([greedy, greedy], greedy)).toEqual([])
  })
})

describe("the score of a prompt", () => {
  it("is half of what it brings forth less what it gives away, each weighed", () => {
    const target = [1, 2, 3, 4]
    // ROUGE-L F1: of the copy 1, of half of it 2 * 1 * .5 / 1.5
    expect(Text.promptScore({ output: target, prompt: [9], target })).toBe(0.25)
    expect(Text.promptScore({ output: target, prompt: target, target })).toBe(0)
    expect(Text.promptScore({ output: [1, 2], prompt: [9, 9], target }, 0.8, 0.2)).toBeCloseTo(0.8 * (2 / 3) / 2, 12)
    expect(Text.promptScore({ output: [8], prompt: [1, 2], target }, 0.8, 0.2)).toBeCloseTo(-0.2 * (2 / 3) / 2, 12)
  })

  it("counts n-grams of any length", () => {
    expect(Text.rougeN([1, 2, 3, 4, 5], [1, 2, 3, 9, 5], 3)).toEqual({ precision: 1 / 3, recall: 1 / 3, f1: 1 / 3 })
    expect(Text.rougeN([1, 2], [1, 2, 3], 3).f1).toBe(0)
  })
})
