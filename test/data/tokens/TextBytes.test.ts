import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { batchOf } from "../../../src/data/stream/Packing.ts"
import { textBytes } from "../../../src/data/tokens/TextBytes.ts"
import * as Tokenizer from "../../../src/data/tokens/Tokenizer.ts"
import { framing } from "../../../src/data/tokens/TokenizerJson.ts"
import { textEnds } from "../../../src/model/HuggingFace.ts"
import { rowScores } from "../../../src/scoring/Score.ts"

const withEnd = Effect.runSync(Tokenizer.withSpecialToken(Tokenizer.bytes, Tokenizer.END_OF_TEXT))

describe("bytes of text", () => {
  it("are one an id where ids are bytes, at every place of a cut; an end of text has none", () => {
    const text = "日本語のテキスト"
    const tokens = [...withEnd.encode(text), 256]
    const bytes = textBytes(withEnd).of
    for (const width of [2, 4, 9]) {
      let sum = 0
      for (let at = 0; at + 1 < tokens.length; at += width - 1) sum += bytes(tokens.slice(at, at + width), 1)
      expect(sum).toBe(new TextEncoder().encode(text).length - 1)
    }
  })

  it("makes log2 of the vocabulary of equal logits, whatever the length", () => {
    const tokens = Uint32Array.from([...withEnd.encode("日本語"), 256])
    for (const seqLen of [8, 16]) {
      const part = tokens.subarray(0, seqLen + 1)
      const batch = batchOf([{ id: 0n, tokens: part, document: "a", offset: 0 }], seqLen)
      const equal = new Float32Array(seqLen).fill(Math.log(257))
      const [score] = rowScores(batch, { loss: equal, rank: new Uint32Array(seqLen) } as never, 1, 0, new Set([256]))
      expect(score!.textLoss / Math.LN2 / textBytes(withEnd).of(part, 1)).toBeCloseTo(Math.log2(257), 5)
    }
  })
})

describe("bytes of a text that its tokens do not tell", () => {
  const file = (model: object, rest: object = {}) =>
    Effect.runSync(Tokenizer.fromJSON(JSON.stringify({
      added_tokens: [],
      normalizer: null,
      pre_tokenizer: { type: "Whitespace" },
      post_processor: null,
      decoder: null,
      model,
      ...rest
    })))
  const words = { type: "WordLevel", vocab: { "[UNK]": 0, the: 1, sea: 2 }, unk_token: "[UNK]" }

  it("are one each of bytes that a byte-level vocabulary lacks, and not those of the name of what is unknown", () => {
    const small = Effect.runSync(Tokenizer.trainBpe(["aaaa bbbb"], { vocabSize: 8 }))
    const text = "ab日"
    expect(small.decode(small.encode(text))).toContain(Tokenizer.UNKNOWN)
    expect(textBytes(small).of(small.encode(text), 0)).toBe(5)
  })

  it("are not known of a word that the vocabulary lacks", () => {
    const { exact, of } = textBytes(file(words))
    expect(exact).toBe(true)
    expect(of([1, 2], 0)).toBe(7)
    expect(of([1, 0, 2], 0)).toBeNaN()
  })

  it.each([
    [{ type: "Lowercase" }, false],
    [{ type: "NFKC" }, false],
    [{ type: "Sequence", normalizers: [{ type: "Prepend", prepend: "\u2581" }, { type: "StripAccents" }] }, false],
    [{ type: "Replace", pattern: { String: "``" }, content: "\"" }, false],
    [{ type: "Sequence", normalizers: [
      { type: "Prepend", prepend: "\u2581" },
      { type: "Replace", pattern: { String: " " }, content: "\u2581" }
    ] }, true]
  ])("are not those of the text where it is normalized by %j", (normalizer, exact) => {
    expect(textBytes(file(words, { normalizer })).exact).toBe(exact)
  })
})

describe("what begins and ends a text", () => {
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }
  const json = JSON.parse(withEnd.toJSON())
  json.added_tokens.push({ id: 257, content: "<s>", ...flags }, { id: 258, content: "<|im_end|>", ...flags })
  json.post_processor = {
    type: "TemplateProcessing",
    single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
    pair: [],
    special_tokens: { "<s>": { id: "<s>", ids: [257], tokens: ["<s>"] } }
  }
  const text = JSON.stringify(json)

  it("is what a model's files say, before any usual name", () => {
    expect(textEnds(text, {}).eos).toEqual([256])
    const said = { config: { eos_token_id: 258 }, generation: { eos_token_id: 258 },
      tokenizerConfig: { eos_token: "<|im_end|>" } }
    expect(textEnds(text, said).eos).toEqual([258])
    expect(textEnds(text, { tokenizerConfig: { eos_token: { content: "<|im_end|>" } } }).eos).toEqual([258])
    expect(textEnds(text, { generation: { eos_token_id: [256, 258] }, config: { eos_token_id: 2 } }).eos).toEqual([256,
      258])
    expect(textEnds(text, { config: { eos_token_id: 900 } }, 259).eos).toEqual([256])
  })

  it("is put before and behind a text where tokenizer_config.json says so, of classes that go by it", () => {
    const llama = { tokenizer_class: "LlamaTokenizerFast", bos_token: "<s>", eos_token: "<|im_end|>" }
    const without = { tokenizerConfig: { ...llama, add_bos_token: false } }
    expect(textEnds(text, without).addBos).toBe(false)
    expect(Tokenizer.beginsWith(Effect.runSync(Tokenizer.fromJSON(text)), without.tokenizerConfig)).toBeUndefined()
    const withBoth = { tokenizerConfig: { ...llama, add_bos_token: true, add_eos_token: true } }
    expect(textEnds(withEnd.toJSON(), withBoth)).toMatchObject({ addEos: true })
    expect(Tokenizer.beginsWith(withEnd, withBoth.tokenizerConfig)).toBe("<s>")
    const fast = { ...llama, tokenizer_class: "PreTrainedTokenizerFast", add_bos_token: false }
    expect(Tokenizer.beginsWith(Effect.runSync(Tokenizer.fromJSON(text)), fast)).toBe("<s>")
  })

  it("is put before a text where the tokenizer does so itself", () => {
    expect(framing(text)).toEqual({ before: [257], after: [] })
    expect(textEnds(text, {})).toMatchObject({ bos: 257, addBos: true, addEos: false })
    expect(textEnds(withEnd.toJSON(), {})).toMatchObject({ bos: 256, addBos: false })
  })
})
