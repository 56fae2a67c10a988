import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { describe, expect, it } from "vitest"
import { IGNORE } from "../../../src/Batch.ts"
import { DataStream } from "../../../src/data/stream/DataStream.ts"
import * as Synthetic from "../../../src/data/stream/Synthetic.ts"
import * as Tokenizer from "../../../src/data/tokens/Tokenizer.ts"
import * as Membership from "../../../src/measures/Membership.ts"

const countBy = <A>(items: ReadonlyArray<A>, of: (item: A) => string): Record<string, number> => {
  const counts: Record<string, number> = {}
  for (const item of items) counts[of(item)] = (counts[of(item)] ?? 0) + 1
  return counts
}

describe("modular arithmetic", () => {
  const { sequences, vocabSize } = Synthetic.modular({ seed: 1, modulus: 23, trained: 0.5, corrupted: 0.3, repeats: 4 })

  it("has every pair once, in the shares asked for", () => {
    expect(vocabSize).toBe(24)
    expect(new Set(sequences.map(({ tokens }) => `${tokens[0]} ${tokens[1]}`)).size).toBe(23 * 23)
    // 529 / 2 = 264.5 and 0.3 of 265
    expect(countBy(sequences, ({ split }) => split)).toEqual({ corrupted: 80, rule: 185, heldOut: 264 })
    expect(sequences.every(({ repeats, split }) => repeats === (split === "heldOut" ? 0 : 4))).toBe(true)
    expect(sequences.every(({ tokens }) => tokens.length === 4 && tokens[2] === 23)).toBe(true)
  })

  it("scores answers alone, of documents, too", () => {
    expect(sequences.every(({ scoredFrom }) => scoredFrom === 3)).toBe(true)
    const documents = Synthetic.tokenDocuments(sequences)
    expect([documents.documents, documents.scoredFrom?.(0), documents.scoredFrom?.(264)]).toEqual([265, 3, 3])
    const others = Synthetic.tokenDocuments(Synthetic.twoDomains({ common: 2, rare: 1, heldOut: 0 }).sequences)
    expect(others.scoredFrom?.(2)).toBe(1)
  })

  it("can be read as words, by a tokenizer that is kept as JSON", async () => {
    const words = Synthetic.wordTokenizer([...Synthetic.numerals(23), "="])
    expect(words.vocabSize).toBe(24)
    expect(words.decode([3, 21, 23, 1])).toBe("3 21 = 1")
    expect([...words.encode("3 21 = 1")]).toEqual([3, 21, 23, 1])
    const again = await Effect.runPromise(Tokenizer.fromJSON(words.toJSON()))
    for (const { tokens } of sequences.slice(0, 50)) expect(again.encode(words.decode(tokens))).toEqual(tokens)
  })

  it("says the truth, but in corrupted answers, which are right by luck alone", () => {
    for (const { answer, split, tokens } of sequences) {
      expect(answer).toBe((tokens[0]! + tokens[1]!) % 23)
      if (split !== "corrupted") expect(tokens[3]).toBe(answer)
    }
    const corrupted = Synthetic.modular({ corrupted: 1, trained: 1 }).sequences
    const right = corrupted.filter(({ answer, tokens }) => tokens[3] === answer).length / corrupted.length
    expect(Math.abs(right - 1 / 97)).toBeLessThan(4 * Math.sqrt(1 / 97 / corrupted.length))
    expect(Math.max(...corrupted.map(({ tokens }) => tokens[3]!))).toBe(96)
  })

  it("depends on the seed alone", () => {
    const of = (seed: number) => Synthetic.modular({ seed, modulus: 11 })
    expect(of(2)).toEqual(of(2))
    expect(of(2)).not.toEqual(of(3))
  })
})

describe("two domains", () => {
  const { sequences } = Synthetic.twoDomains({ common: 300, rare: 20, heldOut: 30, branches: 4, vocabSize: 32 })
  const pairs = (split: string) =>
    new Set(
      sequences.filter((one) => one.split === split)
        .flatMap(({ tokens }) => [...tokens].slice(1).map((token, t) => `${tokens[t]} ${token}`))
    )

  it("have their own transitions, which held-out sequences share and other domains do not", () => {
    expect(countBy(sequences, ({ repeats, split }) => `${split} ${repeats}`)).toEqual({
      "common 1": 300,
      "commonHeldOut 0": 30,
      "rare 10": 20,
      "rareHeldOut 0": 30
    })
    // four for each token, but perhaps of one that none leads to
    expect(pairs("common").size).toBeGreaterThan(31 * 4 - 1)
    expect(pairs("common").size).toBeLessThanOrEqual(32 * 4)
    const known = (split: string, of: string) => {
      const [own, others] = [pairs(split), pairs(of)]
      return [...own].filter((pair) => others.has(pair)).length / own.size
    }
    expect(known("commonHeldOut", "common")).toBeGreaterThan(0.99)
    expect(known("rareHeldOut", "rare")).toBeGreaterThan(0.9)
    // 4 of 32 by chance
    expect(known("rare", "common")).toBeLessThan(0.3)
    expect(new Set(sequences.map(({ tokens }) => tokens.join())).size).toBe(sequences.length)
  })

  it("favour the first of a token's followers, as 1 to 1/2 to 1/3 to 1/4", () => {
    const counts = new Map<string, number>()
    for (const { split, tokens } of sequences) {
      if (split !== "common") continue
      tokens.forEach((token, t) => {
        if (t > 0 && tokens[t - 1] === 5) counts.set(String(token), (counts.get(String(token)) ?? 0) + 1)
      })
    }
    const all = [...counts.values()].sort((a, b) => b - a)
    const total = all.reduce((a, b) => a + b)
    const expected = [1, 1 / 2, 1 / 3, 1 / 4].map((w) => w / (25 / 12))
    all.forEach((count, i) => expect(Math.abs(count / total - expected[i]!)).toBeLessThan(5 * Math.sqrt(0.25 / total)))
  })

  it("flow through the data stream as often as planned, held-out ones never", async () => {
    const corpus = Synthetic.twoDomains({ common: 12, rare: 3, repeats: 5, heldOut: 4, length: 17, vocabSize: 40 })
    const seen = await Effect.runPromise(
      Effect.gen(function*() {
        const data = yield* DataStream
        const rows: Array<string> = []
        yield* data.batches({ epoch: 0, batch: 0 }).pipe(
          Stream.take(data.batchesPerEpoch),
          Stream.runForEach(({ batch }) =>
            Effect.sync(() => {
              for (let r = 0; r < batch.rows; r++) {
                const at = r * batch.seqLen
                if (batch.targets[at] === IGNORE) continue
                rows.push([batch.tokens[at], ...batch.targets.subarray(at, at + batch.seqLen)].join())
              }
            })
          )
        )
        return rows
      }).pipe(
        Effect.provide(
          DataStream.layerTokens(Synthetic.tokenDocuments(corpus.sequences), Tokenizer.bytes, {
            seqLen: 16,
            batchSize: 3,
            singleSequences: "all",
            heldOutFraction: 0,
            heldOutSequences: 0,
            rowSequences: 1,
            sources: Synthetic.mixture(corpus.sequences)
          })
        )
      )
    )
    const counts = countBy(seen, (row) => row)
    for (const { repeats, tokens } of corpus.sequences) expect(counts[tokens.join()] ?? 0).toBe(repeats)
    expect(seen).toHaveLength(12 + 15)
  })
})

describe("a corpus with nothing to train on", () => {
  it("has no mixture", () => {
    expect(() => Synthetic.mixture([])).toThrow("no sequence is trained on")
  })
})

describe("canaries", () => {
  const options = {
    seed: 1,
    vocabSize: 50,
    length: 12,
    plan: [{ times: 0, count: 2 }, { times: 1, count: 3 }, { times: 8, count: 4 }],
    references: 400
  }
  const { sequences } = Synthetic.canaries(options)

  it("are uniform random tokens, seen as planned, and no two the same", () => {
    expect(countBy(sequences, ({ repeats, split }) => `${split} ${repeats}`)).toEqual({
      "canary 0": 2,
      "canary 1": 3,
      "canary 8": 4,
      "reference 0": 400
    })
    expect(new Set(sequences.map(({ tokens }) => tokens.join())).size).toBe(409)
    expect(new Set(sequences.map(({ name }) => name)).size).toBe(409)
    const tokens = sequences.flatMap((one) => [...one.tokens])
    const mean = tokens.reduce((a, b) => a + b) / tokens.length
    expect(Math.abs(mean - 24.5)).toBeLessThan(5 * 14.43 / Math.sqrt(tokens.length))
  })

  it("stay the same when more are planned behind them", () => {
    const more = Synthetic.canaries({ ...options, plan: [...options.plan, { times: 16, count: 5 }], references: 10 })
    expect(more.sequences.slice(0, 9)).toEqual(sequences.slice(0, 9))
    expect(more.sequences.at(-1)).toEqual(sequences[18])
  })

  it("are exposed by a model that knows them, and not by one that does not", () => {
    const lossOf = (known: boolean) => (one: Synthetic.SyntheticSequence) =>
      (one.tokens.reduce((a, b) => a + b) % 97) / 97 + (known && one.repeats === 8 ? -1 : 0)
    for (const known of [true, false]) {
      const references = sequences.filter(({ split }) => split === "reference").map(lossOf(known))
      const exposures = sequences.slice(5, 9).map((one) => Membership.exposure(lossOf(known)(one), references))
      if (known) expect(exposures).toEqual(Array(4).fill(Math.log2(401)))
      else expect(Math.max(...exposures)).toBeLessThan(Math.log2(401))
    }
  })
})
