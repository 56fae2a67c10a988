/**
 * Text in memory as tokenized documents: as much of it as the sequences need, in an order drawn from the seed, so that
 * a tokenizer is trained on the text that the model sees and on no more.
 */
import * as Effect from "effect/Effect"
import type { Document } from "./Corpus.ts"
import type { DataConfig } from "./DataConfig.ts"
import { DataError } from "./Errors.ts"
import { cut, pick, type Pieces, type TokenDocuments } from "./Pieces.ts"
import { random } from "./Random.ts"
import type { Tokenizer } from "./Tokenizer.ts"

/** Gives the tokenizer for a text: trains one, or hands out the one there is. */
export type TokenizerFor<R> = (texts: ReadonlyArray<string>) => Effect.Effect<Tokenizer, DataError, R>

/** The text that was used, tokenized and cut. */
export interface Tokenized {
  readonly tokenizer: Tokenizer
  /** All documents of the corpus, by their place in it; those that were not used have no tokens. */
  readonly corpus: TokenDocuments
  readonly pieces: Pieces
  /** Pieces left out, because their tokens had been seen before. */
  readonly duplicates: number
  /** Documents used, the last perhaps only in part. */
  readonly documents: number
  readonly bytes: number
  readonly tokens: number
  readonly longest: number
}

/** A part of a corpus: indices of documents, and their texts. */
type Texts = ReadonlyArray<{ readonly document: number; readonly text: string }>

/** Documents in order until they have `characters`; the last is cut at a space. */
const takeText = (documents: ReadonlyArray<Document>, order: Uint32Array, characters: number): Texts => {
  const taken: Array<{ document: number; text: string }> = []
  let left = characters
  for (const document of order) {
    if (left <= 0) break
    const { text } = documents[document]
    const space = text.length > left ? text.lastIndexOf(" ", left) : -1
    taken.push({ document, text: space > 0 ? text.slice(0, space) : text })
    left -= text.length
  }
  return taken
}

/** Numbers of the pieces whose tokens no earlier piece has. */
export const distinct = (corpus: TokenDocuments, { document, offset }: Pieces, width: number): Uint32Array => {
  // A copy of a repeated sequence among the singles or held-out ones would undo the experiment.
  const seen = new Set<string>()
  return Uint32Array.from(document.keys()).filter((i) => {
    const length = Math.min(width, corpus.length(document[i]) - offset[i])
    const key = corpus.read(document[i], offset[i], length).join()
    return !seen.has(key) && seen.add(key)
  })
}

const tokenize = (
  documents: ReadonlyArray<Document>,
  texts: Texts,
  tokenizer: Tokenizer,
  config: DataConfig
): Tokenized => {
  const encoder = new TextEncoder()
  const none = new Uint32Array(0)
  const ids: Array<Uint32Array> = documents.map(() => none)
  let [bytes, tokens, longest] = [0, 0, 0]
  for (const { document, text } of texts) {
    ids[document] = tokenizer.encode(text)
    bytes += encoder.encode(text).length
    tokens += ids[document].length
    longest = Math.max(longest, ids[document].length)
  }
  const corpus: TokenDocuments = {
    documents: documents.length,
    length: (document) => ids[document].length,
    read: (document, offset, length) => ids[document].subarray(offset, offset + length),
    name: (document) => documents[document].name,
    sources: [],
    source: () => 0,
    content: () => 0n
  }
  const width = config.seqLen + 1
  const shortest = config.packing === "row" ? width : 2
  const all = cut(corpus, { width, stride: width, shortest }, Uint32Array.from(texts, ({ document }) => document))
  const kept = distinct(corpus, all, width)
  const pieces = pick(all, kept)
  const duplicates = all.document.length - kept.length
  return { tokenizer, corpus, pieces, duplicates, documents: texts.length, bytes, tokens, longest }
}

const tooLittle = (config: DataConfig, { documents, longest, pieces, tokens }: Tokenized): DataError => {
  const { heldOutSequences, repeatedSequences, seqLen, sequences, singleSequences } = config
  const at = config.data === undefined ? {} : { path: config.data }
  const count = pieces.document.length
  if (count === 0) {
    return new DataError({
      ...at,
      detail: `no document is as long as a row: the longest has ${longest} tokens, a row of seqLen ${seqLen} needs ` +
        (config.packing === "row"
          ? `${seqLen + 1}. Set seqLen to ${Math.max(1, longest - 1)} or less, or packing to "documents"`
          : "at least 2. Give longer texts")
    })
  }
  const text = `the text (${documents} documents, ${tokens} tokens) gives ${count} distinct sequences of ` +
    `${config.packing === "row" ? "" : "up to "}${seqLen + 1} tokens`
  if (repeatedSequences > count) {
    return new DataError({
      ...at,
      detail: `repeatedSequences is ${repeatedSequences}, but ${text}. Set it below ${count}, ` +
        "shorten seqLen, or give more text"
    })
  }
  const singles = count - repeatedSequences - heldOutSequences
  return new DataError({
    ...at,
    detail: `${sequences} sequences are asked for (repeatedSequences ${repeatedSequences} + singleSequences ` +
      `${singleSequences} + heldOutSequences ${heldOutSequences}), but ${text}. ` +
      (singles > 0 ? `Set singleSequences to ${singles} or less` : "Lower singleSequences and heldOutSequences") +
      ", shorten seqLen, or give more text"
  })
}

/** Tokenizes as much text as the sequences of a configuration need. Fails when there is too little. */
export const prepare = Effect.fnUntraced(function*<R>(
  documents: ReadonlyArray<Document>,
  config: DataConfig,
  tokenizerFor: TokenizerFor<R>
) {
  const order = random(config.seed, "documents").shuffle(Uint32Array.from(documents.keys()))
  const available = documents.reduce((sum, { text }) => sum + text.length, 0)
  // A first guess at characters a token, on the low side; each round then scales by what the last one gave.
  const guess = config.tokenizer === "bpe" ? Math.max(1, Math.log2(config.vocabSize) / 3.6) : 1
  let characters = Math.ceil(Math.max(1, config.sequences) * (config.seqLen + 1) * guess)
  while (true) {
    const texts = takeText(documents, order, characters)
    const used = tokenize(documents, texts, yield* tokenizerFor(texts.map(({ text }) => text)), config)
    const count = used.pieces.document.length
    if (count >= Math.max(1, config.sequences)) return used
    if (characters >= available) return yield* tooLittle(config, used)
    const short = config.sequences / Math.max(1, count)
    characters = Math.ceil(characters * Math.min(4, Math.max(1.1, short * 1.05)))
  }
})
