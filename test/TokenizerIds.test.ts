import { readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import { translate } from "../src/data/tokens/Oniguruma.ts"
import { parseTokenizer } from "../src/data/tokens/TokenizerJson.ts"
import { normalForm } from "../src/data/tokens/Unicode.ts"
import { fuzzers } from "./fuzz/tokens.ts"
import { makeRandom } from "./reference/random.ts"

const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }
const byteLevel = readFileSync(new URL("./fixtures/byte-level-600.json", import.meta.url), "utf8")
const changed = (text: string, change: (json: any) => void) => {
  const json = JSON.parse(text)
  change(json)
  return JSON.stringify(json)
}
const ids = (json: string, text: string, options = {}) => Array.from(parseTokenizer(json).encode(text, options))

const words = (parts: Record<string, unknown>, ...vocabulary: ReadonlyArray<string>): string =>
  JSON.stringify({
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: null,
    ...parts,
    model: {
      type: "WordLevel",
      vocab: Object.fromEntries(["<unk>", ...vocabulary].map((word, id) => [word, id])),
      unk_token: "<unk>"
    }
  })

describe("ids of Hugging Face's tokenizers", () => {
  it("knows words as Rust does: letters of all scripts, and joiners", () => {
    const json = words({ pre_tokenizer: { type: "Whitespace" } }, "naïve", "café", "Straße", "a\u200db", "…")
    expect(ids(json, "naïve café")).toEqual([1, 2])
    expect(ids(json, "Straße… a\u200db")).toEqual([3, 5, 4])
  })

  it("knows white space as Oniguruma does: U+0085 is, U+FEFF is not", () => {
    expect(ids(byteLevel, "a \u0085b")).toEqual([65, 221, 309, 66])
    expect(ids(byteLevel, "a \ufeffb")).toEqual([65, 492, 66])
    expect(ids(byteLevel, "a\n\n\u0085b")).toEqual([65, 317, 309, 66])
  })

  it("finds added tokens as single words, and as text where that is asked for", () => {
    const json = changed(byteLevel, (it) => {
      it.added_tokens.push(
        { id: 600, content: "<mask>", ...flags, single_word: true },
        { id: 601, content: "quick brown", ...flags, normalized: true, special: false },
        { id: 602, content: "  ", ...flags, special: false }
      )
    })
    expect(ids(json, "x<mask>y <mask> z")).toEqual([88, 28, 290, 30, 89, 221, 600, 221, 90])
    const text = ids(json, " <mask> quick brown", { specialAsText: true })
    expect(text).not.toContain(600)
    expect(text.at(-1)).toBe(601)
    expect(ids(json, "<|endoftext|>", { specialAsText: true })).not.toContain(0)
  })

  it("agrees with their native binding on tokenizers and texts made at random", { timeout: 30_000 }, async () => {
    const draw = makeRandom(5)
    expect(await fuzzers[0]!.run(() => draw.uniform(), 1200, () => {})).toEqual([])
  })

  it("normalizes by the Unicode version of Rust's crate", () => {
    expect(normalForm("ﬁ ÅÅ", "NFKC")).toBe("fi ÅÅ")
    // composed since Unicode 13, in the crate never
    expect(normalForm("\u{11935}\u{11930}", "NFC")).toBe("\u{11935}\u{11930}")
  })
})

describe("what is refused by name", () => {
  const refused: ReadonlyArray<readonly [string, (json: any) => void]> = [
    ["Precompiled", (it) => (it.normalizer = { type: "Precompiled", precompiled_charsmap: "" })],
    ["UnicodeScripts", (it) => (it.pre_tokenizer = { type: "UnicodeScripts" })],
    ["Unigram", (it) => (it.model = { type: "Unigram", unk_id: 0, vocab: [["<unk>", 0]] })],
    ["dropout", (it) => (it.model.dropout = 0.1)],
    ["surprise", (it) => (it.model.surprise = true)],
    ["both have id 5", (it) => (it.model.vocab["\u2603"] = 5)],
    ["has id 2147483648", (it) => (it.added_tokens[0].id = 2 ** 31)],
    ["give it 600", (it) => it.added_tokens.push({ id: 700, content: "<late>", ...flags })],
    ["vocab lacks", (it) => it.model.merges.push(["a", "\u2603"])],
    ["exponential time",
      (it) => (it.pre_tokenizer = { type: "Split", pattern: { Regex: "(a+)+b" }, behavior: "Isolated", invert: false })]
  ]
  it.each(refused)("%s", (message, change) => {
    expect(() => parseTokenizer(changed(byteLevel, change))).toThrow(message)
  })

  it("a key that is there twice", () => {
    const text = byteLevel.replace("{", "{\"decoder\":null,")
    expect(() => parseTokenizer(text)).toThrow("it has the key \"decoder\" twice")
  })

  it.each(["(a|a)+b", "(a?a){1,9}", "a*", "^a", "a$", "\\bx", "(?i:ss)", "(?i:é)", "[[:alpha:]]", "[a&&b]", "\\p{Foo}",
    "(?<n>a)", "a**"])(
      "the regular expression %s",
      (pattern) => expect(() => translate(pattern)).toThrow("the regular expression")
    )
})
