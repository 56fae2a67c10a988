/**
 * Text in memory as tokenized documents: as much of it as the sequences need, in an order drawn from the seed, so that
 * a tokenizer is trained on the text that the model sees and on no more.
 */
import * as Effect from "effect/Effect"
import { DataError } from "../../Errors.ts"
import { random } from "../../Random.ts"
import type { Document } from "../Corpus.ts"
import { contentHash } from "../identity/Identity.ts"
import { makeNearIndex } from "../identity/NearDuplicates.ts"
import { cut, gather, pick, type Pieces, type TokenDocuments } from "../Pieces.ts"
import type { Tokenizer } from "../tokens/Tokenizer.ts"
import type { DataConfig, SamplePlan } from "./DataConfig.ts"
import { cutting } from "./Selection.ts"

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
    const { text } = documents[document]!
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
    const length = Math.min(width, corpus.length(document[i]!) - offset[i]!)
    const key = corpus.read(document[i]!, offset[i]!, length).join()
    return !seen.has(key) && seen.add(key)
  })
}

/** What is computed when it is asked for, and then kept. */
const remembered = <A>(compute: () => A): () => A => {
  let value: { readonly is: A } | undefined
  return () => (value ??= { is: compute() }).is
}

/** What two tokenized texts have in common, whatever is cut from them. */
interface Encoded extends Omit<Tokenized, "pieces" | "duplicates"> {}

const tokenize = (
  documents: ReadonlyArray<Document>,
  texts: Texts,
  tokenizer: Tokenizer,
  { identity, nearShingle, nearThreshold }: DataConfig
): Encoded => {
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
  const sourceOf = documents.map(({ name, source }) => source ?? name)
  const sources = [...new Set(sourceOf)]
  const places = new Map(sources.map((name, i) => [name, i]))
  const told = gather()
  documents.forEach((document, i) => told.add(sourceOf[i]!, document))
  const [owners, licences] = [told.owners(sources), told.licences(sources)]
  const contents = new Map<number, bigint>()
  const near = remembered(() => {
    const index = makeNearIndex({
      ...(nearThreshold === undefined ? {} : { threshold: nearThreshold }),
      ...(nearShingle === undefined ? {} : { shingle: nearShingle })
    })
    for (const { text } of documents) index.add(text)
    return index.clusters(0).near
  })
  const corpus: TokenDocuments = {
    documents: documents.length,
    length: (document) => ids[document]!.length,
    read: (document, offset, length) => ids[document]!.subarray(offset, offset + length),
    name: (document) => documents[document]!.name,
    sources,
    source: (document) => places.get(sourceOf[document]!)!,
    owners: owners && ((source) => owners[source]!),
    licences: licences && ((source) => licences[source]!),
    content: (document) => {
      const known = contents.get(document) ?? contentHash(documents[document]!.text)
      contents.set(document, known)
      return known
    },
    near: identity === "near" || nearThreshold !== undefined ? (document) => near()[document]! : undefined
  }
  return { tokenizer, corpus, documents: texts.length, bytes, tokens, longest }
}

const tooLittle = (plan: SamplePlan, { documents, longest, pieces, tokens }: Tokenized): DataError => {
  const { config: { data, seqLen }, groups, heldOutSequences, packing, sequences, singleSequences } = plan
  const at = typeof data === "string" ? { path: data } : {}
  const repeatedSequences = groups.reduce((sum, group) => sum + group.count, 0)
  const count = pieces.document.length
  if (count === 0) {
    return new DataError({
      ...at,
      detail: `no document is as long as a row: the longest has ${longest} tokens, a row of seqLen ${seqLen} needs ` +
        (packing === "row"
          ? `${seqLen + 1}. Set seqLen to ${Math.max(1, longest - 1)} or less, or packing to "documents"`
          : "at least 2. Give longer texts")
    })
  }
  const text = `the text (${documents} documents, ${tokens} tokens) gives ${count} distinct sequences of ` +
    `${packing === "row" ? "" : "up to "}${seqLen + 1} tokens`
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

/** Tokenizes as much text as a sample of sequences needs. Fails when there is too little. */
export const prepare = Effect.fnUntraced(function*<R>(
  documents: ReadonlyArray<Document>,
  plan: SamplePlan,
  tokenizerFor: TokenizerFor<R>
) {
  const { config, sequences } = plan
  const order = random(config.seed, "documents").shuffle(Uint32Array.from(documents.keys()))
  const available = documents.reduce((sum, { text }) => sum + text.length, 0)
  // A first guess at characters a token, on the low side; each round then scales by what the last one gave.
  const guess = (config.tokenizer ?? "bpe") === "bpe" ? Math.max(1, Math.log2(config.vocabSize ?? 256) / 3.6) : 1
  let characters = Math.ceil(Math.max(1, sequences) * (config.seqLen + 1) * guess)
  while (true) {
    const texts = takeText(documents, order, characters)
    const tokenizer = yield* tokenizerFor(texts.map(({ text }) => text))
    const encoded = tokenize(documents, texts, tokenizer, config)
    const all = cut(encoded.corpus, cutting(plan), Uint32Array.from(texts, ({ document }) => document))
    const kept = distinct(encoded.corpus, all, config.seqLen + 1)
    const used: Tokenized = { ...encoded, pieces: pick(all, kept), duplicates: all.document.length - kept.length }
    if (kept.length >= Math.max(1, sequences)) return used
    if (characters >= available) return yield* tooLittle(plan, used)
    const short = sequences / Math.max(1, kept.length)
    characters = Math.ceil(characters * Math.min(4, Math.max(1.1, short * 1.05)))
  }
})

/** Tokenizes all of a text. */
export const prepareAll = Effect.fnUntraced(function*<R>(
  documents: ReadonlyArray<Document>,
  config: DataConfig,
  tokenizerFor: TokenizerFor<R>
) {
  const tokenizer = yield* tokenizerFor(documents.map(({ text }) => text))
  const texts = documents.map(({ text }, document) => ({ document, text }))
  return tokenize(documents, texts, tokenizer, config)
})
