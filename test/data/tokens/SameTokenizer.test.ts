import { describe, expect, it } from "vitest"
import { fingerprint, sameTokenizer } from "../../../src/data/tokens/SameTokenizer.ts"
import { tokenizerJson } from "../../../src/data/tokens/TokenizerJson.ts"

describe("sameTokenizer", () => {
  const text = tokenizerJson(["a", "b", "ab", "<|end|>"], [["a", "b"]], null, ["<|end|>"])
  const changed = (change: (json: any) => void): string => {
    const json = JSON.parse(text)
    change(json)
    return JSON.stringify(json, null, 1)
  }
  it("sees through what changes no id", () => {
    const equal = [
      changed(() => {}),
      changed((json) => (json.decoder = null)),
      changed((json) => (json.padding = { strategy: "BatchLongest" })),
      changed((json) => (json.post_processor = { type: "ByteLevel" })),
      changed((json) => (json.model.merges = ["a b"])),
      changed((json) => (json.model.vocab = Object.fromEntries(Object.entries(json.model.vocab).reverse()))),
      changed((json) => delete json.model.dropout),
      changed((json) => delete json.pre_tokenizer.use_regex),
      changed((json) => delete json.added_tokens[0].single_word)
    ]
    for (const other of equal) expect(sameTokenizer(text, other)).toBe(true)
    expect(new Set(equal.map(fingerprint)).size).toBe(1)
  })
  it("tells apart what changes an id", () => {
    const different = [
      changed((json) => (json.normalizer = { type: "NFC" })),
      changed((json) => (json.pre_tokenizer.add_prefix_space = true)),
      changed((json) => (json.model.merges = [])),
      changed((json) => (json.model.ignore_merges = true)),
      changed((json) => (json.model.vocab = { ...json.model.vocab, a: 1, b: 0 })),
      changed((json) => (json.added_tokens[0].single_word = true)),
      changed((json) => (json.added_tokens = [])),
      // what is left out is true
      changed((json) => (json.pre_tokenizer.use_regex = false)),
      // null: as lowercase has it
      changed((json) => (json.normalizer = { type: "BertNormalizer", lowercase: true, strip_accents: null })),
      changed((json) => (json.normalizer = { type: "BertNormalizer", lowercase: true, strip_accents: false })),
      // tokens with spaces in them: the same letters, another pair
      changed((json) => (json.model.merges = [["a a", "b"]])),
      changed((json) => (json.model.merges = [["a", "a b"]]))
    ]
    for (const other of different) expect(sameTokenizer(text, other)).toBe(false)
    expect(new Set(different.map(fingerprint)).size).toBe(different.length)
  })
})
