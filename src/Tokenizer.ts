/**
 * Text to token ids and back. Every tokenizer is a Hugging Face `tokenizer.json`: our own byte-level BPE is trained
 * here and written in that format, one trained elsewhere is read from it, and both run in `@huggingface/tokenizers`.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import { Tokenizer as Library } from "@huggingface/tokenizers"
import * as Effect from "effect/Effect"
import { DataError } from "./Errors.ts"

/** Encodes text as token ids below `vocabSize`, and decodes them. Adds no beginning- or end-of-text token. */
export interface Tokenizer {
  /** One more than the largest id: the number of rows an embedding needs. */
  readonly vocabSize: number
  readonly encode: (text: string) => Uint32Array
  /** Bytes that are not valid UTF-8 (half a character, say) come out as U+FFFD. */
  readonly decode: (ids: Iterable<number>) => string
  /** The `tokenizer.json` text that `fromJSON` reads back. */
  readonly toJSON: () => string
}

/** How a byte-level BPE is trained. */
export interface BpeOptions {
  /**
   * Entries at most; fewer when the text runs out of pairs that occur twice. From 512 on all 256 bytes are in the
   * vocabulary and every text comes back exactly. Below, bytes that never occur would crowd out merges: only the
   * bytes of the training text get an entry, and entry 0 is `<unk>`, which stands for any other byte.
   */
  readonly vocabSize: number
  /** Called every 256 merges with the number of entries so far. */
  readonly onProgress?: (entries: number) => void
}

/** The entry that stands for a byte outside a restricted alphabet. It decodes to its own name. */
export const UNKNOWN = "<unk>"

/** Below this size a vocabulary holds only the bytes that occur: 256 bytes would be more than half of it. */
const FULL_ALPHABET_FROM = 512

/** A pair that occurs once is no pattern: merging it would only write the text into the vocabulary. */
const MIN_PAIR_COUNT = 2

/** The splitting rule of GPT-2: contractions, then runs of letters, of digits, of neither, with one space before. */
const WORDS = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu

/**
 * The printable character that stands for each byte in a byte-level vocabulary: itself where Latin-1 prints it,
 * otherwise the next free code point from U+0100 on.
 */
const BYTE_SYMBOLS: ReadonlyArray<string> = (() => {
  let free = 0x100
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
    return String.fromCharCode(printable ? byte : free++)
  })
})()

/** Byte-level parts of a `tokenizer.json` around a vocabulary and its merges. */
const tokenizerJson = (
  vocabulary: ReadonlyArray<string>,
  merges: ReadonlyArray<readonly [string, string]>,
  unknown: string | null
): string => {
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true }
  return JSON.stringify({
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [],
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

/** One id per byte of the UTF-8 text, 256 entries, nothing to train. */
export const bytes: Tokenizer = {
  vocabSize: 256,
  encode: (text) => Uint32Array.from(new TextEncoder().encode(text)),
  decode: (ids) => new TextDecoder().decode(Uint8Array.from(ids)),
  toJSON: () => tokenizerJson(BYTE_SYMBOLS, [], null)
}

/** The parts of a parsed `tokenizer.json` that decide whether a text may be encoded word by word. */
interface TokenizerJson {
  readonly normalizer?: unknown
  readonly post_processor?: unknown
  readonly added_tokens?: ReadonlyArray<unknown>
  readonly pre_tokenizer?: { readonly type?: string; readonly add_prefix_space?: boolean; readonly use_regex?: boolean }
}

/** Whether a tokenizer splits with GPT-2's rule and does nothing else to the text: then words are independent. */
const splitsIntoWords = (json: TokenizerJson): boolean =>
  json.pre_tokenizer?.type === "ByteLevel" &&
  json.pre_tokenizer.add_prefix_space === false &&
  json.pre_tokenizer.use_regex !== false &&
  (json.normalizer ?? null) === null &&
  (json.post_processor ?? null) === null &&
  (json.added_tokens ?? []).length === 0

/** Distinct words remembered while encoding; the memory starts over when it is full. */
const REMEMBERED_WORDS = 1 << 17

/**
 * Encodes each distinct word once. A megabyte of prose has some ten thousand distinct words, so this is about ten
 * times as fast as handing the library the whole text.
 */
const wordByWord = (encodeWord: (word: string) => ReadonlyArray<number>) => {
  const known = new Map<string, ReadonlyArray<number>>()
  return (text: string): Uint32Array => {
    const ids: Array<number> = []
    for (const word of text.match(WORDS) ?? []) {
      let encoded = known.get(word)
      if (encoded === undefined) {
        encoded = encodeWord(word)
        if (known.size === REMEMBERED_WORDS) known.clear()
        known.set(word, encoded)
      }
      for (const id of encoded) ids.push(id)
    }
    return Uint32Array.from(ids)
  }
}

const reasonOf = (cause: unknown): string => cause instanceof Error ? cause.message : String(cause)

/** Reads a `tokenizer.json` (any model the library knows). Fails with a `DataError` when it is not one. */
export const fromJSON = (text: string): Effect.Effect<Tokenizer, DataError> =>
  Effect.try({
    try: (): Tokenizer => {
      const json = JSON.parse(text) as TokenizerJson
      // Without this setting the library drops spaces before punctuation when it decodes.
      const library = new Library(json, { clean_up_tokenization_spaces: false })
      const encode = (text: string) => library.encode(text, { add_special_tokens: false }).ids
      let largest = -1
      for (const id of library.get_vocab().values()) largest = Math.max(largest, id)
      if (largest < 0) throw new Error("its vocabulary is empty")
      return {
        vocabSize: largest + 1,
        encode: splitsIntoWords(json) ? wordByWord(encode) : (text) => Uint32Array.from(encode(text)),
        decode: (ids) => {
          const array = Array.from(ids)
          return array.length === 0 ? "" : library.decode(array)
        },
        toJSON: () => text
      }
    },
    catch: (cause) => new DataError({ detail: `not a tokenizer.json that can be read: ${reasonOf(cause)}`, cause })
  })

/** A distinct word of the training text: its symbols, merged as training goes on, and how often it occurs. */
interface Word {
  symbols: Array<number>
  readonly count: number
}

/** A pair of symbols and its count at the time it was queued. */
interface Candidate {
  readonly count: number
  readonly pair: number
}

/** Two ids as one number, so that pairs are cheap keys that sort by left, then right. */
const PAIR = 0x4000000
const pairOf = (left: number, right: number): number => left * PAIR + right

/** The most frequent pair first, the lowest ids among equals: what makes training deterministic. */
const before = (a: Candidate, b: Candidate): boolean => a.count > b.count || (a.count === b.count && a.pair < b.pair)

const push = (heap: Array<Candidate>, candidate: Candidate): void => {
  let at = heap.length
  while (at > 0) {
    const parent = (at - 1) >> 1
    if (!before(candidate, heap[parent])) break
    heap[at] = heap[parent]
    at = parent
  }
  heap[at] = candidate
}

const pop = (heap: Array<Candidate>): Candidate | undefined => {
  const top = heap[0]
  const last = heap.pop()
  if (last === undefined || heap.length === 0) return top
  let at = 0
  for (let child = 1; child < heap.length; child = 2 * at + 1) {
    if (child + 1 < heap.length && before(heap[child + 1], heap[child])) child++
    if (!before(heap[child], last)) break
    heap[at] = heap[child]
    at = child
  }
  heap[at] = last
  return top
}

const countWords = (texts: Iterable<string>): Map<string, number> => {
  const counts = new Map<string, number>()
  for (const text of texts) {
    for (const word of text.match(WORDS) ?? []) counts.set(word, (counts.get(word) ?? 0) + 1)
  }
  return counts
}

/** Pair counts over all words, kept up to date while symbols merge, and the most frequent pair at any time. */
const pairTable = (words: ReadonlyArray<Word>) => {
  const counts = new Map<number, number>()
  const holders = new Map<number, Set<Word>>()
  const heap: Array<Candidate> = []
  let raised = new Set<number>()

  const add = (word: Word, sign: 1 | -1): void => {
    for (let i = 1; i < word.symbols.length; i++) {
      const pair = pairOf(word.symbols[i - 1], word.symbols[i])
      counts.set(pair, (counts.get(pair) ?? 0) + sign * word.count)
      if (sign < 0) continue
      raised.add(pair)
      const holding = holders.get(pair)
      if (holding === undefined) holders.set(pair, new Set([word]))
      else holding.add(word)
    }
  }
  const queueRaised = (): void => {
    for (const pair of raised) push(heap, { pair, count: counts.get(pair)! })
    raised = new Set()
  }

  for (const word of words) add(word, 1)
  queueRaised()
  return {
    /** The most frequent pair, or undefined when none occurs often enough. */
    best: (): number | undefined => {
      for (let top = pop(heap); top !== undefined; top = pop(heap)) {
        const count = counts.get(top.pair) ?? 0
        if (count === top.count) return count < MIN_PAIR_COUNT ? undefined : top.pair
        // Fallen since it was queued; one that rose was queued again when it did.
        if (count < top.count && count >= MIN_PAIR_COUNT) push(heap, { pair: top.pair, count })
      }
      return undefined
    },
    merge: (pair: number, merged: number): void => {
      const left = Math.floor(pair / PAIR)
      const right = pair % PAIR
      for (const word of holders.get(pair)!) {
        add(word, -1)
        const symbols: Array<number> = []
        for (let i = 0; i < word.symbols.length; i++) {
          const found = word.symbols[i] === left && word.symbols[i + 1] === right
          symbols.push(found ? merged : word.symbols[i])
          if (found) i++
        }
        word.symbols = symbols
        add(word, 1)
      }
      counts.delete(pair)
      holders.delete(pair)
      queueRaised()
    }
  }
}

/**
 * Trains a byte-level BPE. The same texts in any order, with the same options, give the same tokenizer: ties go to
 * the pair with the lowest ids. Fails with a `DataError` when there is no text, or when `vocabSize` cannot even hold
 * the bytes that occur.
 */
export const trainBpe = Effect.fnUntraced(function*(texts: Iterable<string>, options: BpeOptions) {
  const { onProgress, vocabSize } = options
  const encoder = new TextEncoder()
  const encoded = Array.from(countWords(texts), ([word, count]) => ({ bytes: encoder.encode(word), count }))
  if (encoded.length === 0) return yield* new DataError({ detail: "there is no text to train a tokenizer on" })

  const restricted = vocabSize < FULL_ALPHABET_FROM
  const occurring = new Set<number>()
  for (const { bytes } of encoded) for (const byte of bytes) occurring.add(byte)
  const alphabet = Array.from({ length: 256 }, (_, byte) => byte).filter((byte) => !restricted || occurring.has(byte))
  const vocabulary = [...(restricted ? [UNKNOWN] : []), ...alphabet.map((byte) => BYTE_SYMBOLS[byte])]
  if (vocabulary.length > vocabSize) {
    return yield* new DataError({
      detail: `the text has ${alphabet.length} distinct bytes: with ${UNKNOWN} a vocabulary of them needs ` +
        `${vocabulary.length} entries, vocabSize is ${vocabSize}. Raise vocabSize to ${vocabulary.length} or more`
    })
  }

  const idOf = new Map(vocabulary.map((token, id) => [token, id]))
  const words = encoded.map(({ bytes, count }): Word => ({
    symbols: Array.from(bytes, (byte) => idOf.get(BYTE_SYMBOLS[byte])!),
    count
  }))
  const pairs = pairTable(words)
  const merges: Array<readonly [string, string]> = []
  while (vocabulary.length < vocabSize) {
    const pair = pairs.best()
    if (pair === undefined) break
    const left = vocabulary[Math.floor(pair / PAIR)]
    const right = vocabulary[pair % PAIR]
    merges.push([left, right])
    // Always a new entry: what lies between two token boundaries has merged as it would alone, so only in one way.
    pairs.merge(pair, vocabulary.push(left + right) - 1)
    if (merges.length % 256 === 0) onProgress?.(vocabulary.length)
  }
  return yield* fromJSON(tokenizerJson(vocabulary, merges, restricted ? UNKNOWN : null))
})

const sha256 = async (parts: Iterable<string>): Promise<string> => {
  // Lengths keep two texts apart from one that is both in a row.
  const text = Array.from(parts, (part) => `${part.length}:${part}`).join("")
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text))
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("")
}

/** Raised when training changes, so that no tokenizer of an older rule is taken from a cache. */
const TRAINING_VERSION = 1

/**
 * `trainBpe`, remembered in `directory` under the SHA-256 of the texts and options. A damaged entry is trained again,
 * and a folder that cannot be written costs a warning, never the run.
 */
export const cachedBpe = Effect.fnUntraced(function*(
  directory: string,
  texts: ReadonlyArray<string>,
  options: BpeOptions
) {
  const fs = yield* FileSystem.FileSystem
  const key = yield* Effect.promise(() => sha256([String(TRAINING_VERSION), String(options.vocabSize), ...texts]))
  const path = `${directory}/bpe-${key}.json`
  const remembered = yield* fs.readFileString(path).pipe(Effect.flatMap(fromJSON), Effect.option)
  if (remembered._tag === "Some") return remembered.value

  const trained = yield* trainBpe(texts, options)
  const temporary = `${path}.${crypto.randomUUID()}.tmp`
  yield* fs.makeDirectory(directory, { recursive: true }).pipe(
    Effect.zipRight(fs.writeFileString(temporary, trained.toJSON())),
    Effect.zipRight(fs.rename(temporary, path)),
    Effect.catchAll((cause) => Effect.logWarning(`the tokenizer was not cached in ${directory}: ${cause.message}`))
  )
  return trained
})
