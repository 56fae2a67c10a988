/**
 * A `tokenizer.json` as a tokenizer. Text becomes the ids that Hugging Face's `tokenizers` gives it: every component is
 * run as it is there, or refused by its name; ids come back as text in `@huggingface/tokenizers`. Apart from Tokenizer so
 * that a worker thread loads no more than it needs.
 */
import { Tokenizer as Library } from "@huggingface/tokenizers"
import * as Either from "effect/Either"
import { isObject, type Json, parseJson } from "../../Json.ts"
import { type AddedToken, makeMatchers, readAdded } from "./AddedTokens.ts"
import { type ByteLevelEncoder, makeEncoder } from "./ByteLevel.ts"
import { makeNormalizer, toSymbols } from "./Normalizers.ts"
import { makePreTokenizer } from "./PreTokenizers.ts"
import { makeModel } from "./TokenModels.ts"

export type { AddedToken }

export interface EncodeOptions {
  /**
   * Names of special tokens in a text are text like any other. Default false: as in Hugging Face's tokenizers a text that
   * spells one is encoded as it.
   */
  readonly specialAsText?: boolean
}

/**
 * Encodes text as token ids below `vocabSize`, and decodes them. Adds no beginning- or end-of-text token, and neither
 * cuts nor pads, whatever the file says of that: documents are encoded whole.
 */
export interface Tokenizer {
  /** One more than the largest id: the number of rows an embedding needs. */
  readonly vocabSize: number
  /** Tokens of a text, without any that begin or end it. */
  readonly encode: (text: string, options?: EncodeOptions) => Uint32Array
  /** Ids of special tokens by name. */
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

/** Half a character in UTF-16, which UTF-8 has not: it stands for nothing that can be known. */
const LONE = /[\ud800-\udfff]/
const wellFormed = (text: string): string => LONE.test(text) ? text.replace(/\p{Surrogate}/gu, "\ufffd") : text

/** Encodes as `tokenizers` does: added tokens, normalizer, added tokens, pre-tokenizer, model. */
const makeEncode = (json: Json) => {
  const model = makeModel(json["model"])
  const normalizer = makeNormalizer(json["normalizer"])
  const pre = makePreTokenizer(json["pre_tokenizer"], normalizer !== undefined)
  const added = readAdded(json["added_tokens"], model.vocabulary)
  const matchers = makeMatchers(added, normalizer)
  const fast = pre.bytes ? model.byteLevel : undefined
  let made: ByteLevelEncoder | undefined
  const encode: Tokenizer["encode"] = (given, { specialAsText = false } = {}) => {
    const ids: Array<number> = []
    const encoder = fast === undefined ? undefined : made ??= makeEncoder(fast)
    const push = encoder?.push ?? ((id: number): void => {
      ids.push(id)
    })
    const word = encoder?.word ??
      ((text: string): void => model.encode(pre.bytes ? toSymbols(text) : text, push))
    const text = encoder !== undefined && pre.words ? given : wellFormed(given)
    const pieces = (text: string, first: boolean): void => {
      if (text !== "") pre.split({ text, first }, (part) => word(part.text))
    }
    try {
      matchers.raw(text, specialAsText, (from, to) => {
        const part = from === 0 && to === text.length ? text : text.slice(from, to)
        const normal = normalizer === undefined ? part : normalizer(part)
        matchers.normalized(normal, specialAsText, (start, end) => {
          if (encoder !== undefined && pre.words) encoder.encode(normal, start, end)
          else pieces(normal.slice(start, end), from === 0 && start === 0)
        }, push)
      }, push)
      return encoder?.take() ?? Uint32Array.from(ids)
    } catch (cause) {
      encoder?.take()
      throw cause
    }
  }
  return { encode, added, vocabulary: model.vocabulary }
}

/** Decodes by the library, which is given nothing that only encoding needs. */
const makeDecode = (json: Json, tokens: ReadonlyMap<number, string>, added: ReadonlyArray<AddedToken>) => {
  // merges and the rest would be compiled, and fail where encoding has no use for them either
  const parts = {
    ...json,
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: json["decoder"] ?? null,
    added_tokens: added,
    model: { ...json["model"] as object, merges: [] }
  }
  let library: Library | undefined
  return (ids: Iterable<number>): string => {
    // Without this setting the library drops spaces before punctuation.
    library ??= new Library(parts as never, { clean_up_tokenization_spaces: false })
    const known = Array.from(ids).filter((id) => tokens.has(id))
    return known.length === 0 ? "" : library.decode(known)
  }
}

const jsonOf = (text: string): unknown =>
  Either.getOrThrowWith(parseJson(text), (problem) => new Error(`it ${problem}`))

/** Bytes, or characters, that a `tokenizer.json` has at most: those of the largest vocabularies have about 35 million. */
export const MOST_TOKENIZER = 2 ** 28

/** Reads a `tokenizer.json`. Throws when it is none, and an Error that names what is not supported in it. */
export const parseTokenizer = (text: string): Tokenizer => {
  if (text.length > MOST_TOKENIZER) {
    throw new Error(`it has ${text.length} characters, more than the ${MOST_TOKENIZER} that are read`)
  }
  const json = jsonOf(text)
  if (!isObject(json) || !isObject(json["model"])) throw new Error("it has no model")
  const { added, encode, vocabulary } = makeEncode(json)
  const tokens = new Map<number, string>()
  for (const [token, id] of vocabulary) tokens.set(id, token)
  for (const { content, id } of added) tokens.set(id, content)
  if (tokens.size === 0) throw new Error("its vocabulary is empty")
  let largest = -1
  for (const id of tokens.keys()) largest = Math.max(largest, id)
  return {
    vocabSize: largest + 1,
    encode,
    specialTokens: new Map(added.filter(({ special }) => special).map(({ content, id }) => [content, id])),
    decode: makeDecode(json, tokens, added),
    toJSON: () => text
  }
}

/**
 * The ids that a tokenizer itself puts before a text and after it: what its `post_processor` says. Throws an Error where
 * that is of a kind that is not known.
 */
export const framing = (
  text: string
): { readonly before: ReadonlyArray<number>; readonly after: ReadonlyArray<number> } => {
  const of = (value: unknown): { before: ReadonlyArray<number>; after: ReadonlyArray<number> } => {
    if (!isObject(value)) return { before: [], after: [] }
    switch (value["type"]) {
      case "ByteLevel":
        return { before: [], after: [] }
      case "BertProcessing":
      case "RobertaProcessing": {
        const [begin, end] = [value["cls"], value["sep"]] as ReadonlyArray<ReadonlyArray<unknown> | undefined>
        return { before: [Number(begin?.[1])], after: [Number(end?.[1])] }
      }
      case "TemplateProcessing": {
        const sides: [Array<number>, Array<number>] = [[], []]
        let side: 0 | 1 = 0
        for (const piece of Array.isArray(value["single"]) ? value["single"] : []) {
          const name = isObject(piece) && isObject(piece["SpecialToken"]) ? piece["SpecialToken"]["id"] : undefined
          if (name === undefined) {
            side = 1
            continue
          }
          const token = isObject(value["special_tokens"]) ? value["special_tokens"][String(name)] : undefined
          const ids = isObject(token) ? token["ids"] : undefined
          if (!Array.isArray(ids)) throw new Error(`its post_processor does not say which id ${String(name)} has`)
          sides[side].push(...ids as ReadonlyArray<number>)
        }
        return { before: sides[0], after: sides[1] }
      }
      case "Sequence":
        return (Array.isArray(value["processors"]) ? value["processors"] : []).map(of).reduce(
          (all, one) => ({ before: [...one.before, ...all.before], after: [...all.after, ...one.after] }),
          { before: [], after: [] }
        )
      default:
        throw new Error(`its post_processor is ${JSON.stringify(value["type"])}, which is not known here`)
    }
  }
  const json = jsonOf(text)
  const found = of(isObject(json) ? json["post_processor"] : undefined)
  for (const id of [...found.before, ...found.after]) {
    if (!Number.isSafeInteger(id) || id < 0) throw new Error("its post_processor names a token without an id")
  }
  return found
}

/**
 * Whether a `tokenizer_config.json` says itself that a text begins with `bos`, or ends with `eos`: classes of tokenizers
 * that make their post-processor anew from that go by it, whatever `tokenizer.json` says. Undefined where it does not.
 */
export const addsToken = (tokenizerConfig: unknown, which: "bos" | "eos"): boolean | undefined => {
  if (!isObject(tokenizerConfig)) return undefined
  const rebuilt = /^(Llama|Gemma|CodeLlama)Tokenizer/.test(String(tokenizerConfig["tokenizer_class"]))
  const asked = rebuilt ? tokenizerConfig[`add_${which}_token`] : undefined
  return typeof asked === "boolean" ? asked : undefined
}

/** The name of a token that a `tokenizer_config.json` gives, as a text or with flags. */
export const namedToken = (file: unknown, field: string): string | undefined => {
  const value = isObject(file) ? file[field] : undefined
  const content = isObject(value) ? value["content"] : value
  return typeof content === "string" ? content : undefined
}
