/**
 * A `tokenizer.json` as a tokenizer: byte-level BPE runs here, all else in `@huggingface/tokenizers`. Apart from
 * Tokenizer so that a worker thread loads no more than it needs.
 */
import { Tokenizer as Library } from "@huggingface/tokenizers"
import { BYTE_SYMBOLS, type ByteLevelEncoder, type ByteLevelModel, makeEncoder } from "./ByteLevel.ts"

/** Encodes text as token ids below `vocabSize`, and decodes them. Adds no beginning- or end-of-text token. */
export interface Tokenizer {
  /** One more than the largest id: the number of rows an embedding needs. */
  readonly vocabSize: number
  readonly encode: (text: string) => Uint32Array
  /** Ids of special tokens by name. A text that spells one is encoded as it, as in Hugging Face's tokenizers. */
  readonly specialTokens: ReadonlyMap<string, number>
  /** Bytes that are not valid UTF-8 (half a character, say) come out as U+FFFD. */
  readonly decode: (ids: Iterable<number>) => string
  /** The `tokenizer.json` text that `fromJSON` reads back. */
  readonly toJSON: () => string
}

/** A token that is matched as it is written and has no text of its own. */
export const specialFlags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }

/** Byte-level parts of a `tokenizer.json` around a vocabulary, some of which may be special, and its merges. */
export const tokenizerJson = (
  vocabulary: ReadonlyArray<string>,
  merges: ReadonlyArray<readonly [string, string]>,
  unknown: string | null,
  special: ReadonlyArray<string> = []
): string => {
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true }
  return JSON.stringify({
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: special.map((content) => ({ id: vocabulary.indexOf(content), content, ...specialFlags })),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: unknown,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(vocabulary.map((token, id) => [token, id])),
      merges
    }
  })
}

export interface AddedToken {
  readonly id: number
  readonly content: string
  readonly special?: boolean
  readonly lstrip?: boolean
  readonly rstrip?: boolean
}

/** The parts of a parsed `tokenizer.json` that decide whether a text may be encoded word by word. */
interface TokenizerJson {
  readonly normalizer?: unknown
  readonly added_tokens?: ReadonlyArray<AddedToken>
  readonly pre_tokenizer?: { readonly type?: string; readonly add_prefix_space?: boolean; readonly use_regex?: boolean }
  readonly model: {
    readonly type?: string
    readonly vocab: Readonly<Record<string, number>>
    readonly merges: ReadonlyArray<string | readonly [string, string]>
    readonly unk_token?: string | null
  }
}

/** The vocabulary of a tokenizer that splits with GPT-2's rule and does nothing else to the text; else undefined. */
const byteLevelModel = (json: TokenizerJson): ByteLevelModel | undefined => {
  const { added_tokens = [], model, normalizer, pre_tokenizer } = json
  const plain = pre_tokenizer?.type === "ByteLevel" &&
    pre_tokenizer.add_prefix_space === false &&
    pre_tokenizer.use_regex !== false &&
    (normalizer ?? null) === null &&
    added_tokens.every(({ lstrip, rstrip }) => lstrip !== true && rstrip !== true) &&
    model.type === "BPE" &&
    ["dropout", "continuing_subword_prefix", "continuing_subword_suffix", "end_of_word_suffix", "fuse_unk",
      "byte_fallback", "ignore_merges"]
      .every((option) => !(model as Readonly<Record<string, unknown>>)[option])
  if (!plain) return undefined
  const idOf = new Map(Object.entries(model.vocab))
  const merges: Array<readonly [number, number, number]> = []
  for (const merge of model.merges) {
    const [left, right] = typeof merge === "string" ? merge.split(" ", 2) : merge
    const ids = [idOf.get(left), idOf.get(right), idOf.get(left + right)] as const
    if (ids.includes(undefined)) return undefined
    merges.push(ids as readonly [number, number, number])
  }
  const unknown = typeof model.unk_token === "string" ? idOf.get(model.unk_token) ?? -1 : -1
  return { bytes: BYTE_SYMBOLS.map((symbol) => idOf.get(symbol) ?? -1), unknown, merges }
}

/** Encodes texts with a byte-level model; added tokens are found first, at each place the longest. */
const byteLevel = (model: ByteLevelModel, added: ReadonlyArray<AddedToken>): Tokenizer["encode"] => {
  let made: ByteLevelEncoder | undefined
  const ids = new Map(added.map(({ content, id }) => [content, id]))
  const contents = added.map(({ content }) => content).sort((a, b) => b.length - a.length)
  const anyAdded = new RegExp(contents.map((one) => one.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|"), "g")
  return (text) => {
    const encoder = made ??= makeEncoder(model)
    let at = 0
    if (added.length > 0) {
      for (const { 0: content, index } of text.matchAll(anyAdded)) {
        encoder.encode(text, at, index)
        encoder.push(ids.get(content)!)
        at = index + content.length
      }
    }
    encoder.encode(text, at, text.length)
    return encoder.take()
  }
}

/** Reads a `tokenizer.json`. Throws when it is none. */
export const parseTokenizer = (text: string): Tokenizer => {
  const json = JSON.parse(text) as TokenizerJson
  // Without this setting the library drops spaces before punctuation when it decodes.
  const library = new Library(json, { clean_up_tokenization_spaces: false })
  const model = byteLevelModel(json)
  let largest = -1
  for (const id of library.get_vocab().values()) largest = Math.max(largest, id)
  if (largest < 0) throw new Error("its vocabulary is empty")
  return {
    vocabSize: largest + 1,
    encode: model === undefined
      ? (text) => Uint32Array.from(library.encode(text, { add_special_tokens: false }).ids)
      : byteLevel(model, json.added_tokens ?? []),
    specialTokens: new Map(
      (json.added_tokens ?? []).filter(({ special }) => special).map(({ content, id }) => [content, id])
    ),
    decode: (ids) => {
      const array = Array.from(ids)
      return array.length === 0 ? "" : library.decode(array)
    },
    toJSON: () => text
  }
}
