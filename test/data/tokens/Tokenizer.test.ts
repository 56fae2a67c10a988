import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as FileSystem from "@effect/platform/FileSystem"
import { Tokenizer as Library } from "@huggingface/tokenizers"
import * as Effect from "effect/Effect"
import * as FastCheck from "effect/FastCheck"
import { readFileSync } from "node:fs"
import { createRequire } from "node:module"
import { beforeAll, describe, expect, it } from "vitest"
import * as Tokenizer from "../../../src/data/tokens/Tokenizer.ts"
import { makeRandom } from "../../reference/random.ts"

const prose = "the cat sat on the mat. The cat's hat isn't the rat's; they'll see 1234 cats,\n\n  and 56 rats! "
const corpus = [prose.repeat(20), "Übermaß – naïve café 東京 🙂 ".repeat(8)]

const train = (texts: ReadonlyArray<string>, vocabSize: number) =>
  Effect.runSync(Tokenizer.trainBpe(texts, { vocabSize }))
const failure = <A, E>(effect: Effect.Effect<A, E>): E => Effect.runSync(Effect.flip(effect))
const model = (tokenizer: Tokenizer.Tokenizer) =>
  JSON.parse(tokenizer.toJSON()).model as { vocab: Record<string, number>; merges: ReadonlyArray<[string, string]> }

/** What the library makes of the whole text at once, without our memory of words. */
const oracle = (tokenizer: Tokenizer.Tokenizer) => {
  const library = new Library(JSON.parse(tokenizer.toJSON()), { clean_up_tokenization_spaces: false })
  return (text: string): ReadonlyArray<number> => library.encode(text, { add_special_tokens: false }).ids
}

/** Text from pieces that are hard to split: white space, contractions, digits, other scripts, emoji. */
const pieces = ["the", " cat", "'s", "'ll", "  ", "\n", "\t", "é", "東", "🙂", "1", "23", "!", " ?", "<unk>", "\u00a0"]
const awkward = FastCheck.array(FastCheck.constantFrom(...pieces), { maxLength: 30 }).map((parts) => parts.join(""))

describe("training", () => {
  it("merges the most frequent pair first, and the lowest ids among equals", () => {
    // Alphabet: <unk> 0, space 1, a 2, b 3, c 4, d 5. "ab" and "cd" occur 3 times each, " a" and the rest less often.
    const tokenizer = train(["ab", "ab", "ab", "cd", "cd", "cd", "bd bd"], 9)
    expect(model(tokenizer).merges).toEqual([["a", "b"], ["c", "d"], ["b", "d"]])
    expect(Array.from(tokenizer.encode("abcdbd"))).toEqual([6, 7, 8])
  })

  it("counts overlapping runs as they are left after each merge", () => {
    const tokenizer = train(["aaaa aaaa aaaa"], 5)
    // " aaaa" twice and "aaaa" once: "aa" first (9 pairs of a), then "aa" + "aa" beats " " + "aa", 3 to 2.
    expect(model(tokenizer).merges).toEqual([["a", "a"], ["aa", "aa"]])
  })

  it("gives the same file whatever the order of the texts", () => {
    expect(train(corpus, 400).toJSON()).toBe(train([...corpus].reverse(), 400).toJSON())
  })

  it("agrees with counting every pair anew before every merge", () => {
    const naive = (text: string, count: number): ReadonlyArray<[string, string]> => {
      let words = text.match(/ ?[a-z]+/g)!.map((word) => word.replace(" ", "Ġ").split(""))
      const ids = new Map(["Ġ", ..."abc"].map((symbol, id) => [symbol, id]))
      const merges: Array<[string, string]> = []
      while (merges.length < count) {
        const pairs = new Map<string, { pair: [string, string]; count: number }>()
        for (const word of words) {
          for (let i = 1; i < word.length; i++) {
            const pair: [string, string] = [word[i - 1]!, word[i]!]
            const entry = pairs.get(pair.join(" ")) ?? { pair, count: 0 }
            entry.count++
            pairs.set(pair.join(" "), entry)
          }
        }
        const [best] = [...pairs.values()].filter((p) => p.count >= 2).sort((p, q) =>
          q.count - p.count || ids.get(p.pair[0])! - ids.get(q.pair[0])! || ids.get(p.pair[1])! - ids.get(q.pair[1])!
        )
        if (best === undefined) break
        const [left, right] = best.pair
        merges.push(best.pair)
        if (!ids.has(left + right)) ids.set(left + right, ids.size)
        words = words.map((word) => {
          const merged: Array<string> = []
          for (const symbol of word) merged.push(symbol)
          for (let i = 0; i + 1 < merged.length; i++) {
            if (merged[i] === left && merged[i + 1] === right) merged.splice(i, 2, left + right)
          }
          return merged
        })
      }
      return merges
    }
    const words = FastCheck.array(FastCheck.stringMatching(/^[abc]{1,8}$/), { minLength: 5, maxLength: 25 })
    FastCheck.assert(
      FastCheck.property(words, (list) => {
        const text = ["a b c", ...list].join(" ")
        const tokenizer = train([text], 25)
        expect(model(tokenizer).merges).toEqual(naive(text, model(tokenizer).merges.length))
      }),
      { seed: 1, numRuns: 60 }
    )
  })

  it("stops at pairs that occur once instead of writing the text into the vocabulary", () => {
    expect(train(["abcdef"], 100).vocabSize).toBe(7)
  })

  it("holds all bytes from 512 entries on, and only those that occur below", () => {
    expect(Object.keys(model(train(corpus, 512)).vocab)).toEqual(expect.arrayContaining(["Ā", "z", "ÿ"]))
    expect(model(train(corpus, 512)).vocab).not.toHaveProperty("<unk>")
    expect(model(train(["abcab"], 511)).vocab).toEqual({ "<unk>": 0, a: 1, b: 2, c: 3, ab: 4 })
  })

  it("says which vocabSize the bytes of the text need", () => {
    const error = failure(Tokenizer.trainBpe(["abcdef"], { vocabSize: 5 }))
    expect(error._tag).toBe("DataError")
    expect(error.message).toContain("6 distinct bytes")
    expect(error.message).toContain("Raise vocabSize to 7 or more")
    expect(train(["abcdef"], 7).vocabSize).toBe(7)
  })

  it("refuses to train on nothing", () => {
    expect(failure(Tokenizer.trainBpe(["", ""], { vocabSize: 300 })).message).toContain("no text")
  })

  it("reports progress every 256 merges", () => {
    const seen: Array<number> = []
    const text = Array.from({ length: 3000 }, (_, i) => `w${(i * 7919) % 1500}x`).join(" ")
    Effect.runSync(Tokenizer.trainBpe([text], { vocabSize: 1024, onProgress: (entries) => seen.push(entries) }))
    expect(seen).toEqual([512, 768, 1024])
  })
})

describe("encoding", () => {
  const full = train(corpus, 600)
  const restricted = train(corpus, 300)

  it("agrees with the library on whole texts", () => {
    for (const tokenizer of [full, restricted]) {
      const whole = oracle(tokenizer)
      FastCheck.assert(
        FastCheck.property(awkward, (text) => {
          expect(Array.from(tokenizer.encode(text))).toEqual(whole(text))
        }),
        { seed: 2, numRuns: 200 }
      )
      expect(Array.from(tokenizer.encode(corpus.join("")))).toEqual(whole(corpus.join("")))
    }
  })

  it("brings every text back when all bytes have an entry", () => {
    for (const tokenizer of [full, Tokenizer.bytes]) {
      FastCheck.assert(
        FastCheck.property(FastCheck.oneof(awkward, FastCheck.string({ unit: "binary" })), (text) => {
          expect(tokenizer.decode(tokenizer.encode(text))).toBe(text)
        }),
        { seed: 3, numRuns: 200 }
      )
    }
  })

  it("uses the merges: fewer tokens than bytes", () => {
    expect(full.encode(prose).length).toBeLessThan(prose.length / 2)
  })

  it("gives one <unk> for each byte that a restricted alphabet lacks", () => {
    const tokenizer = train(["abcab"], 300)
    expect(Array.from(tokenizer.encode("aéb"))).toEqual([1, 0, 0, 2])
    expect(tokenizer.decode([1, 0, 2])).toBe("a<unk>b")
  })

  it("reads text that spells <unk> as text", () => {
    expect(Array.from(full.encode("<unk>"))).toHaveLength(5)
    expect(full.decode(full.encode("a <unk> b"))).toBe("a <unk> b")
  })

  it("leaves spaces before punctuation alone when it decodes", () => {
    expect(full.decode(full.encode("the cat , the hat ."))).toBe("the cat , the hat .")
  })

  it("takes nothing as well", () => {
    expect(full.encode("")).toEqual(new Uint32Array(0))
    expect(full.decode([])).toBe("")
  })
})

/** Any text: all scripts, letters and digits beyond the first plane, every kind of space and apostrophe. */
const anyText = FastCheck.array(
  FastCheck.oneof(
    FastCheck.constantFrom(...pieces),
    FastCheck.constantFrom("'", "'re", "'ve", "'m", "'t", "'d", "'Ve", " '"),
    FastCheck.constantFrom("𝒜𝒷", "𝟘", " 𝟙", "𐐀", "\u0301", "\ufeff", "\u3000", "\r\n", "½"),
    FastCheck.string({ unit: "binary", maxLength: 6 })
  ),
  { maxLength: 20 }
).map((parts) => parts.join(""))

describe("GPT-2", () => {
  let gpt2: Tokenizer.Tokenizer
  beforeAll(async () => void (gpt2 = await Effect.runPromise(Effect.provide(Tokenizer.gpt2, NodeFileSystem.layer))))
  const packaged = createRequire(import.meta.url)("gpt-3-encoder") as { encode: (text: string) => Array<number> }

  it("gives the ids that are known of it", () => {
    const known: ReadonlyArray<readonly [string, ReadonlyArray<number>]> = [
      ["Hello world", [15496, 995]],
      ["Hello, world!", [15496, 11, 995, 0]],
      ["The quick brown fox jumps over the lazy dog", [464, 2068, 7586, 21831, 18045, 625, 262, 16931, 3290]],
      ["<|endoftext|>", [50256]],
      ["a<|endoftext|> b", [64, 50256, 275]]
    ]
    for (const [text, ids] of known) {
      expect(Array.from(gpt2.encode(text))).toEqual(ids)
      expect(gpt2.decode(ids)).toBe(text)
    }
    expect(gpt2.vocabSize).toBe(50257)
    expect([Tokenizer.specialId(gpt2, "bos"), Tokenizer.specialId(gpt2, "eos")]).toEqual([50256, 50256])
  })

  it("agrees with the package's own encoder, and with the library, where white space is the same in all", () => {
    const whole = oracle(gpt2)
    const texts = [...corpus, readFileSync(new URL("../../../src/data/tokens/Tokenizer.ts", import.meta.url), "utf8")
      .replaceAll("<|endoftext|>", "")]
    for (const text of texts) {
      expect(Array.from(gpt2.encode(text))).toEqual(packaged.encode(text))
      expect(Array.from(gpt2.encode(text))).toEqual(whole(text))
    }
    FastCheck.assert(
      FastCheck.property(anyText, (any) => {
        // white space in Rust and not in JavaScript, and the other way round
        const text = any.replace(/[\u0085\ufeff]/g, "")
        const ids = Array.from(gpt2.encode(text))
        expect(ids).toEqual(whole(text))
        expect(ids).toEqual(packaged.encode(text))
      }),
      { seed: 4, numRuns: 300 }
    )
  })

  it("brings every text back", () => {
    FastCheck.assert(
      FastCheck.property(anyText, (text) => {
        expect(gpt2.decode(gpt2.encode(text))).toBe(text)
      }),
      { seed: 5, numRuns: 300 }
    )
  })

  it("merges long words as it merges short ones, and in time", () => {
    const whole = oracle(gpt2)
    for (const word of ["ab".repeat(30), "aaaaaaab".repeat(40), "the".repeat(33), "=".repeat(300), "ééà".repeat(50)]) {
      expect(Array.from(gpt2.encode(word))).toEqual(whole(word))
    }
    const long = "abcdefghij".repeat(50_000)
    expect(gpt2.decode(gpt2.encode(long))).toBe(long)
  })

  it("tells words of equal hashes apart, forgets words when there are too many, encodes them the same", () => {
    const vocabulary = Object.entries(model(gpt2).vocab)
    const tokens = new Map(vocabulary.map(([token, id]) => [id, token]))
    const spell = (ids: Uint32Array) => Array.from(ids, (id) => tokens.get(id)).join("").replaceAll("Ġ", " ")
    const random = makeRandom(7)
    // of so many words of one length some have the same hash of 32 bits
    const word = () => String.fromCharCode(...random.ints(7, 26).map((letter) => 97 + letter))
    const text = Array.from({ length: 260_000 }, word).join(" ")
    const first = gpt2.encode(text)
    expect(spell(first) === text).toBe(true)
    const second = gpt2.encode(text)
    expect(second.length).toBe(first.length)
    expect(second.every((id, i) => id === first[i])).toBe(true)
  })
})

describe("special tokens", () => {
  const end = Tokenizer.END_OF_TEXT
  const trained = train(corpus, 599)
  const last = trained.vocabSize
  const special = Effect.runSync(Tokenizer.withSpecialToken(trained, end))

  it("are added behind the vocabulary, once", () => {
    expect([special.vocabSize, special.specialTokens.get(end)]).toEqual([last + 1, last])
    expect(Effect.runSync(Tokenizer.withSpecialToken(special, end))).toBe(special)
    expect(Effect.runSync(Tokenizer.fromJSON(special.toJSON())).specialTokens.get(end)).toBe(last)
    expect([Tokenizer.specialId(trained, "eos"), Tokenizer.specialId(special, "eos")]).toEqual([undefined, last])
  })

  it("are found in a text, the longest first, and leave the rest as it was", () => {
    const longer = Effect.runSync(Tokenizer.withSpecialToken(special, `${end}!`))
    const whole = oracle(longer)
    const text = `the cat ${end}! and ${end} the hat${end}${end}`
    expect(Array.from(longer.encode(text))).toEqual(whole(text))
    expect(longer.decode(longer.encode(text))).toBe(text)
    expect(Array.from(longer.encode(text)).filter((id) => id >= last)).toEqual([last + 1, last, last, last])
    const some = FastCheck.constantFrom(end, `${end}!`, "<|end", "oftext|>", ...pieces)
    const parts = FastCheck.array(some, { maxLength: 12 })
    FastCheck.assert(
      FastCheck.property(parts, (some) => {
        expect(Array.from(longer.encode(some.join("")))).toEqual(whole(some.join("")))
      }),
      { seed: 6, numRuns: 200 }
    )
  })

  it("can be added to bytes", () => {
    const bytes = Effect.runSync(Tokenizer.withSpecialToken(Tokenizer.bytes, end))
    expect([bytes.vocabSize, bytes.specialTokens.get(end)]).toEqual([257, 256])
    expect(bytes.encode("naïve")).toEqual(Tokenizer.bytes.encode("naïve"))
    expect(bytes.decode([...bytes.encode("é"), 256])).toBe(`é${end}`)
  })
})

describe("tokenizer.json", () => {
  it("gives the same tokenizer back", () => {
    for (const tokenizer of [train(corpus, 600), train(corpus, 300), Tokenizer.bytes]) {
      const again = Effect.runSync(Tokenizer.fromJSON(tokenizer.toJSON()))
      expect(again.vocabSize).toBe(tokenizer.vocabSize)
      expect(again.encode(corpus.join(" "))).toEqual(tokenizer.encode(corpus.join(" ")))
      expect(again.toJSON()).toBe(tokenizer.toJSON())
    }
  })

  it("normalizes what is between special tokens", () => {
    const json = JSON.parse(train(corpus, 300).toJSON())
    const end = Object.keys(json.model.vocab).length
    json.normalizer = { type: "Lowercase" }
    json.added_tokens = [
      { id: end, content: "<|end|>", special: true, normalized: false, lstrip: false, rstrip: false }
    ]
    const tokenizer = Effect.runSync(Tokenizer.fromJSON(JSON.stringify(json)))
    expect(tokenizer.vocabSize).toBe(end + 1)
    expect(tokenizer.encode("THE CAT<|end|>").at(-1)).toBe(end)
    expect(tokenizer.decode(tokenizer.encode("THE CAT<|end|>"))).toBe("the cat<|end|>")
  })

  it("explains what it cannot read", () => {
    for (const text of ["{", "[]", "{}", `{"model":{"type":"BPE","vocab":{},"merges":[]},"added_tokens":[]}`]) {
      const error = failure(Tokenizer.fromJSON(text))
      expect(error._tag).toBe("DataError")
      expect(error.message).toContain("not a tokenizer.json")
    }
  })
})

describe("training", () => {
  it("lets a signal, or whoever else waits, have its turn", async () => {
    const many = Array.from({ length: 30_000 }, (_, i) => `word${(i * 7919) % 30_011}x${(i * 104_729) % 1_299_709}`)
    const error = await Effect.runPromise(
      Effect.either(Effect.timeoutFail(Tokenizer.trainBpe([many.join(" ")], { vocabSize: 30_000 }), {
        duration: 150,
        onTimeout: () => "in time"
      }))
    )
    expect(error).toMatchObject({ _tag: "Left", left: "in time" })
  })
})

describe("the cache", () => {
  const inFolder = <A, E>(use: (folder: string) => Effect.Effect<A, E, FileSystem.FileSystem>) =>
    FileSystem.FileSystem.pipe(
      Effect.flatMap((fs) => fs.makeTempDirectoryScoped()),
      Effect.flatMap(use),
      Effect.scoped,
      Effect.provide(NodeFileSystem.layer),
      Effect.runPromise
    )
  const cached = (folder: string, vocabSize = 90) => Tokenizer.cachedBpe(`${folder}/cache`, corpus, { vocabSize })

  it("is taken when it fits, and made anew for other texts or options", () =>
    inFolder(Effect.fnUntraced(function*(folder) {
      const fs = yield* FileSystem.FileSystem
      const first = yield* cached(folder)
      const [name] = yield* fs.readDirectory(`${folder}/cache`)
      // Something else under the same name shows whether the file is used.
      yield* fs.writeFileString(`${folder}/cache/${name}`, Tokenizer.bytes.toJSON())
      expect((yield* cached(folder)).toJSON()).toBe(Tokenizer.bytes.toJSON())
      expect((yield* cached(folder, 100)).vocabSize).toBe(100)
      yield* Tokenizer.cachedBpe(`${folder}/cache`, [corpus.join("")], { vocabSize: 90 })
      expect((yield* fs.readDirectory(`${folder}/cache`)).length).toBe(3)
      expect(first.vocabSize).toBe(90)
    })))

  it("is trained and written again when it is damaged", () =>
    inFolder(Effect.fnUntraced(function*(folder) {
      const fs = yield* FileSystem.FileSystem
      const first = yield* cached(folder)
      const [name] = yield* fs.readDirectory(`${folder}/cache`)
      yield* fs.writeFileString(`${folder}/cache/${name}`, first.toJSON().slice(0, 100))
      expect((yield* cached(folder)).toJSON()).toBe(first.toJSON())
      expect(yield* fs.readFileString(`${folder}/cache/${name}`)).toBe(first.toJSON())
      expect(yield* fs.readDirectory(`${folder}/cache`)).toEqual([name])
    })))

  it("does not fail a run when it cannot be written", () =>
    inFolder(Effect.fnUntraced(function*(folder) {
      const fs = yield* FileSystem.FileSystem
      yield* fs.writeFileString(`${folder}/cache`, "a file where the folder should be")
      expect((yield* cached(folder)).vocabSize).toBe(90)
    })))
})
