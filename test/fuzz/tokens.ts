/**
 * Tokenizers made at random, and texts: the ids must be those of Hugging Face's own tokenizers, read from npm by their
 * native binding. Then damaged `tokenizer.json` texts and damaged shards: an error of the right kind, or a correct read.
 */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Stream from "effect/Stream"
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { BYTE_SYMBOLS } from "../../src/data/tokens/ByteLevel.ts"
import { tokenize } from "../../src/data/tokens/Tokenize.ts"
import { parseTokenizer } from "../../src/data/tokens/TokenizerJson.ts"
import * as TokenShards from "../../src/data/tokens/TokenShards.ts"
import { DataError } from "../../src/Errors.ts"
import { type Fuzzer, outcomeOf } from "./fuzz.ts"

type Random = () => number

const below = (random: Random, n: number): number => Math.floor(random() * n)
const pick = <A>(random: Random, list: ReadonlyArray<A>): A => list[below(random, list.length)]!
const chance = (random: Random, p: number): boolean => random() < p

const CHARACTERS = Array.from(
  "aabbccdeEßſKkστΣςIİıé日本語한кЖ0123٣²½,.!?'-_#$+<>|[]()\u0301\u0308\u0345\u1df6\u{11930}\u{11935}\u{11938}" +
    "\u{1d400}\u{1f600}\u{10d4a}\u{10940}\u2581\u0085\u00a0\u2028\u3000\ufeff\u200b\u200c\u200d\u00ad\ufffd\u0000\u0295" +
    "\u166d\u061d\u0890\ufb01\uff21\u212b\u1e9b\u0323\u0f73"
)
const PIECES = [" ", " ", "  ", "\n", "\t", "\r\n", "   \n\n", "'s", "'ſ", "'LL", " the", "ab", "abc", "<s>", "</s>",
  "<mask>", "quick brown"]

/** Text of a few pieces, most of them awkward. */
const textOf = (random: Random): string =>
  Array.from({ length: 1 + below(random, 14) }, () =>
    chance(random, 0.5)
      ? pick(random, PIECES)
      : chance(random, 0.05)
      ? String.fromCodePoint(below(random, 0xd800))
      : pick(random, CHARACTERS)).join("")

const REGEXES = [
  "\\s+",
  "\\w+",
  "\\d",
  "[^\\w\\s]+",
  "\\p{L}+|\\p{N}{1,3}",
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|" +
  "\\s+(?!\\S)|\\s+",
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|" +
  "\\s+(?!\\S)|\\s+",
  "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|\\p{N}{1,3}|\\s+",
  "[一-龥぀-ゟ゠-ヿ]+",
  "\\p{Han}|\\P{L}",
  "(?<=a)b|[a-c]+?",
  "'s|'t| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
  "(?>a+)b|a"
]

const patternOf = (random: Random): unknown =>
  chance(random, 0.4) ? { String: pick(random, [" ", "a", "ab", "\n", "."]) } : { Regex: pick(random, REGEXES) }

const normalizerOf = (random: Random, deep = true): unknown => {
  const kinds: ReadonlyArray<() => unknown> = [
    () => ({ type: pick(random, ["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt"]) }),
    () => ({ type: "Strip", strip_left: chance(random, 0.5), strip_right: chance(random, 0.5) }),
    () => ({ type: "Replace", pattern: patternOf(random), content: pick(random, ["", "▁", "x", "$&"]) }),
    () => ({ type: "Prepend", prepend: "▁" }),
    () => ({
      type: "BertNormalizer",
      clean_text: chance(random, 0.5),
      handle_chinese_chars: chance(random, 0.5),
      strip_accents: pick(random, [null, true, false]),
      lowercase: chance(random, 0.5)
    }),
    () => ({ type: "Sequence",
      normalizers: Array.from({ length: below(random, 3) }, () => normalizerOf(random, false)) })
  ]
  return kinds[below(random, deep ? kinds.length : kinds.length - 1)]!()
}

const behaviorOf = (random: Random): string =>
  pick(random, ["Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext"])

const preTokenizerOf = (random: Random, deep = true): unknown => {
  const kinds: ReadonlyArray<() => unknown> = [
    () => ({
      type: "ByteLevel",
      add_prefix_space: chance(random, 0.5),
      trim_offsets: true,
      use_regex: chance(random, 0.7)
    }),
    () => ({ type: pick(random, ["Whitespace", "WhitespaceSplit", "BertPreTokenizer"]) }),
    () => ({ type: "Split", pattern: patternOf(random), behavior: behaviorOf(random), invert: chance(random, 0.5) }),
    () => ({ type: "Punctuation", behavior: behaviorOf(random) }),
    () => ({ type: "Digits", individual_digits: chance(random, 0.5) }),
    () => ({
      type: "Metaspace",
      replacement: "▁",
      prepend_scheme: pick(random, ["always", "never", "first"]),
      split: chance(random, 0.5)
    }),
    () => ({ type: "CharDelimiterSplit", delimiter: pick(random, [" ", "a"]) }),
    () => ({ type: "Sequence",
      pretokenizers: Array.from({ length: below(random, 3) }, () => preTokenizerOf(random, false)) })
  ]
  return kinds[below(random, deep ? kinds.length : kinds.length - 1)]!()
}

const modelOf = (random: Random, bytes: boolean): { vocab: Record<string, number> } & Record<string, unknown> => {
  const alphabet = (bytes ? [...BYTE_SYMBOLS] : [...new Set([...CHARACTERS, "▁", " ", "\n"])])
    .filter(() => chance(random, bytes ? 0.97 : 0.85))
  const kind = pick(random, ["BPE", "BPE", "BPE", "WordPiece", "WordLevel"])
  const tokens = ["<unk>", ...alphabet]
  if (kind === "WordLevel") tokens.push("ab", "abc", "the", "Ġthe", "日本", "été")
  if (kind !== "BPE") {
    if (kind === "WordPiece") tokens.push(...alphabet.map((one) => `##${one}`), "ab", "##bc", "##cd")
    const vocab = Object.fromEntries([...new Set(tokens)].map((token, id) => [token, id]))
    return kind === "WordLevel"
      ? { type: kind, vocab, unk_token: "<unk>" }
      : { type: kind, vocab, unk_token: "<unk>", continuing_subword_prefix: "##", max_input_chars_per_word: 8 }
  }
  const affix = !bytes && chance(random, 0.3)
  const prefix = affix && chance(random, 0.5) ? "##" : ""
  const suffix = affix && prefix === "" ? "</w>" : ""
  if (prefix !== "") tokens.push(...alphabet.map((one) => prefix + one))
  if (suffix !== "") tokens.push(...alphabet.map((one) => one + suffix))
  const fallback = chance(random, 0.3)
  if (fallback) {
    for (let byte = 0; byte < 256; byte++) tokens.push(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`)
  }
  const all = new Set(tokens)
  const merges: Array<string | [string, string]> = []
  const pairs = chance(random, 0.5)
  for (let i = 0; i < 60; i++) {
    const left = pick(random, tokens)
    const right = pick(random, tokens)
    if (/^<|[ \n]/.test(left + right) || !right.startsWith(prefix) || right === prefix || left.endsWith("</w>")) {
      continue
    }
    const token = left + right.slice(prefix.length)
    merges.push(pairs ? [left, right] : `${left} ${right}`)
    if (!all.has(token)) tokens.push(token)
    all.add(token)
  }
  return {
    type: "BPE",
    dropout: null,
    unk_token: chance(random, 0.5) ? "<unk>" : null,
    continuing_subword_prefix: prefix === "" ? null : prefix,
    end_of_word_suffix: suffix === "" ? null : suffix,
    fuse_unk: chance(random, 0.5),
    byte_fallback: fallback,
    ignore_merges: chance(random, 0.3),
    vocab: Object.fromEntries([...all].map((token, id) => [token, id])),
    merges
  }
}

const tokenizerOf = (random: Random): Record<string, unknown> => {
  const pre_tokenizer = chance(random, 0.1) ? null : preTokenizerOf(random)
  const bytes = JSON.stringify(pre_tokenizer).includes("ByteLevel")
  const model = modelOf(random, bytes)
  let id = Object.keys(model.vocab).length
  // both at once can make Hugging Face's own abort the process
  const left = chance(random, 0.5)
  const contents = ["<s>", "</s>", "<mask>", "quick brown", "  ", "ab", "b<", "Σ", " a", "the"].filter(() =>
    chance(random, 0.3)
  )
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: contents.map((content) => ({
      id: Object.hasOwn(model.vocab, content) ? model.vocab[content] : id++,
      content,
      single_word: chance(random, 0.3),
      lstrip: left && chance(random, 0.3),
      rstrip: !left && chance(random, 0.3),
      normalized: chance(random, 0.3),
      special: chance(random, 0.5)
    })),
    normalizer: chance(random, 0.5) ? null : normalizerOf(random),
    pre_tokenizer,
    post_processor: null,
    decoder: null,
    model
  }
}

/** Of the native binding, what is used. */
interface Native {
  readonly Tokenizer: {
    readonly fromString: (json: string) => {
      readonly encode: (text: string, pair: null, options: object) => Promise<{ readonly getIds: () => Array<number> }>
    }
  }
}

const native = async (): Promise<Native | undefined> => {
  try {
    const name = "tokenizers"
    return (await import(name)) as Native
  } catch {
    return undefined
  }
}

const message = (cause: unknown): string => cause instanceof Error ? cause.message : String(cause)

const againstNative: Fuzzer = {
  name: "tokenizers: ids as Hugging Face's own",
  run: async (random, inputs, note) => {
    const library = await native()
    if (library === undefined) return ["the package tokenizers is not installed: npm install"]
    const failures: Array<string> = []
    for (let done = 0; done < inputs;) {
      const json = JSON.stringify(tokenizerOf(random))
      const texts = Array.from({ length: 12 }, () => textOf(random))
      done += texts.length
      let ours: ReturnType<typeof parseTokenizer>
      try {
        ours = parseTokenizer(json)
      } catch {
        note("refused")
        continue // by name
      }
      let theirs: ReturnType<Native["Tokenizer"]["fromString"]>
      try {
        theirs = library.Tokenizer.fromString(json)
      } catch (cause) {
        failures.push(`accepted what they refuse (${message(cause)}): ${json}`)
        continue
      }
      for (const text of texts) {
        const expected = await theirs.encode(text, null, { addSpecialTokens: false }).then((e) => e.getIds(), message)
        let found: ReadonlyArray<number> | string
        try {
          found = Array.from(ours.encode(text))
        } catch (cause) {
          found = message(cause)
        }
        note(typeof found === "string" ? "no ids" : found.join(" "))
        if (typeof expected === "string" && typeof found === "string") continue
        if (String(expected) !== String(found)) {
          failures.push(`${JSON.stringify(text)}: ${found}, expected ${expected}: ${json}`)
        }
      }
    }
    return failures
  }
}

/** A text with a few characters changed, left out, doubled, or cut off. */
const damaged = (random: Random, text: string): string => {
  let out = text
  for (let i = 0; i < 1 + below(random, 3); i++) {
    const at = below(random, out.length)
    const end = at + below(random, 20)
    const parts = ["", pick(random, ["\"", "null", "-1", "1e99", "2147483648", "[", "}", "true", "\\u0000"]),
      out.slice(at, end).repeat(2)]
    out = out.slice(0, at) + pick(random, parts) + out.slice(chance(random, 0.05) ? out.length : end)
  }
  return out
}

const mutated: Fuzzer = {
  name: "tokenizers: damaged tokenizer.json",
  run: async (random, inputs, note) => {
    const failures: Array<string> = []
    for (let i = 0; i < inputs; i++) {
      const json = damaged(random, JSON.stringify(tokenizerOf(random)))
      const began = performance.now()
      try {
        const tokenizer = parseTokenizer(json)
        const text = textOf(random)
        const ids = Array.from(tokenizer.encode(text))
        note(ids.join(" "))
        if (ids.some((id) => id >= tokenizer.vocabSize)) failures.push(`an id beyond: ${json}`)
      } catch (cause) {
        note("refused")
        const wrong = !(cause instanceof Error) || cause instanceof TypeError || cause instanceof RangeError ||
          cause instanceof ReferenceError
        if (wrong) failures.push(`${String(cause)}: ${json}`)
      }
      if (performance.now() - began > 5000) failures.push(`took ${performance.now() - began} ms: ${json}`)
    }
    return failures
  }
}

const shards: Fuzzer = {
  name: "tokens: damaged shards",
  run: async (random, inputs, note) => {
    const failures: Array<string> = []
    const folder = mkdtempSync(join(tmpdir(), "tokens-"))
    const documents = Array.from({ length: 20 },
      (_, i) => ({ name: `${i}`, source: `${i % 3}`, text: `text ${i} ${textOf(random)}` }))
    const run = <A>(effect: Effect.Effect<A, DataError, NodeContext.NodeContext>) =>
      Effect.runPromiseExit(Effect.provide(effect, NodeContext.layer))
    try {
      await run(tokenize({ data: [{ path: "none" }], tokenizer: "bytes", shardTokens: 100 }, {
        out: folder,
        workers: 1,
        source: () => Stream.fromIterable(documents)
      }) as Effect.Effect<unknown, DataError, NodeContext.NodeContext>)
      const files = readdirSync(folder).sort()
      for (let i = 0; i < inputs; i++) {
        const file = join(folder, pick(random, files))
        const before = readFileSync(file)
        const after = Buffer.from(before)
        const what = `${file.slice(folder.length)}, input ${i}`
        const cut = chance(random, 0.2) ? after.subarray(0, below(random, after.length)) : after
        if (cut.length > 0) cut[below(random, cut.length)]! ^= 1 << below(random, 8)
        writeFileSync(file, cut)
        const exit = await run(
          Effect.gen(function*() {
            const opened = yield* TokenShards.open(folder)
            yield* opened.verify
            opened.close()
          })
        )
        writeFileSync(file, before)
        note(`${file.slice(folder.length)} ${outcomeOf(exit)}`)
        if (Exit.isSuccess(exit)) failures.push(`${what}: a change went unseen`)
        else if (!(Cause.squash(exit.cause) instanceof DataError)) failures.push(`${what}: ${Cause.pretty(exit.cause)}`)
      }
    } finally {
      rmSync(folder, { recursive: true })
    }
    return failures
  }
}

export const fuzzers: ReadonlyArray<Fuzzer> = [againstNative, mutated, shards]
