/**
 * A resumable stream of batches in which every token carries the id of the sequence, or document, it belongs to.
 *
 * Text is cut into sequences once, and the sequences are shuffled before some of them are chosen to be repeated, to be
 * seen once, or to be held out: the three differ in nothing but how often they are trained on. An epoch is every
 * planned exposure, in an order drawn from the seed and the epoch alone, so any batch can be made without the ones
 * before it, and the same configuration gives the same batches in every process.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import type { Batch } from "./Batch.ts"
import { type CanaryDocument, canaryDocuments } from "./Canary.ts"
import { decodeConfig } from "./Config.ts"
import * as Corpus from "./Corpus.ts"
import { DataConfig, type DataConfigInput, resolve, type SamplePlan, type WholePlan } from "./DataConfig.ts"
import { DataError } from "./Errors.ts"
import { sourceHash } from "./Identity.ts"
import type { Part } from "./Mixture.ts"
import { batchOf, packedBatch, type Row } from "./Packing.ts"
import { cut, join, type Pieces, type TokenDocuments } from "./Pieces.ts"
import { schedule } from "./Schedule.ts"
import { cutting, sample, SAMPLE, type Selection, type Split, timesIn, whole } from "./Selection.ts"
import { prepare, prepareAll, type TokenizerFor } from "./TextDocuments.ts"
import * as Tokenizer from "./Tokenizer.ts"
import * as TokenShards from "./TokenShards.ts"

export { batchOf, DataConfig, type DataConfigInput, type Row, type Split, type TokenDocuments }

/** The place of a batch in the endless stream. Plain JSON: it travels in every checkpoint. */
export interface Cursor {
  readonly epoch: number
  readonly batch: number
}

/** A group of repeated sequences, and those of it that are handed out for evaluation. */
export interface RepeatedGroup {
  /** Exposures of each in an epoch, in arm `repeats`. */
  readonly times: number
  /** Sequences it has. */
  readonly sequences: number
  /** All of them, or of a large group of documents the first 512. */
  readonly rows: ReadonlyArray<Row>
}

/** What an epoch holds of a source. */
export interface SourceReport {
  readonly name: string
  /** Targets scored in an epoch, and their share of all. */
  readonly scoredTokens: number
  readonly share: number
}

/** What a data stream is made of, for logs and reports. */
export interface DataReport {
  /** Documents in the corpus, and how many of them were used, the last perhaps only in part. */
  readonly documentsAvailable: number
  readonly documents: number
  /** Documents that are held out whole. */
  readonly heldOutDocuments: number
  /** Text used, in UTF-8 bytes (undefined where only its tokens are known) and in tokens. */
  readonly bytes: number | undefined
  readonly tokens: number
  readonly bytesPerToken: number | undefined
  /** Distinct sequences the text gave, and copies of them that were left out. */
  readonly rows: number
  readonly duplicateRows: number
  /** Sequences trained on in an epoch, counted as often as they are. */
  readonly exposures: number
  readonly batchesPerEpoch: number
  /** Targets that are scored in an epoch, and the share of places in its batches that are padding instead. */
  readonly scoredTokens: number
  readonly padding: number
  /** What an id stands for. */
  readonly identity: "row" | "document" | "source" | "content" | "near"
  /** Distinct ids in an epoch, not counting the fresh ones of `idNoise`. */
  readonly distinctIds: number
  /** Exposures of each repeated sequence in an epoch; of several groups, of the one with most. */
  readonly repeatsPerId: number
  /** Repeated groups: sequences, and exposures of each in an epoch of this arm. */
  readonly groups: ReadonlyArray<{ readonly sequences: number; readonly exposures: number }>
  readonly canaries: number
  /** The sources of an epoch, the largest first, 64 at most. */
  readonly sources: ReadonlyArray<SourceReport>
}

/** Tokenized documents, and what is known of where they come from. */
interface Loaded {
  readonly corpus: TokenDocuments
  readonly parts: ReadonlyArray<Part>
  readonly tokenizer: Tokenizer.Tokenizer
  readonly path: string | undefined
  readonly documents: number
  readonly bytes: number | undefined
  readonly tokens: number
  /** The sequences that text was cut into; tokens are cut as the plan says. */
  readonly cut: { readonly pieces: Pieces; readonly duplicates: number } | undefined
}

type Plan = SamplePlan | WholePlan

const count = (array: Uint8Array): number => array.reduce((sum, one) => sum + one, 0)

const distinctOf = (ids: BigUint64Array): number => {
  const halves = new Uint32Array(ids.sort().buffer)
  let found = Math.min(1, ids.length)
  for (let i = 2; i < halves.length; i += 2) {
    if (halves[i] !== halves[i - 2] || halves[i + 1] !== halves[i - 1]) found++
  }
  return found
}

/** What an id stands for, and what the data would need for it to do so. */
const identityOf = (corpus: TokenDocuments, plan: Plan): { readonly is: DataReport["identity"] } | string => {
  const is = plan.identity ?? (corpus.content === undefined ? "document" : "content")
  if (is === "content" && corpus.content === undefined) {
    return `identity "content" needs hashes of the texts, and these tokens have none. Make them with memsinks ` +
      `tokenize, or set identity to "document"`
  }
  if (is === "near" && corpus.near === undefined) {
    return `identity "near" needs clusters of near-duplicates, and these tokens have none. Make them with memsinks ` +
      `tokenize --near, or set identity to "content"`
  }
  return { is }
}

/** The id of a piece. */
const idsBy = (
  identity: DataReport["identity"],
  corpus: TokenDocuments,
  pieces: Pieces,
  canaries: ReadonlyArray<CanaryDocument>
): (piece: number) => bigint => {
  const firstCanary = corpus.documents - canaries.length
  const sourceIds = new Map<number, bigint>()
  const sourceId = (source: number): bigint => {
    const id = sourceIds.get(source) ?? sourceHash(corpus.sources[source])
    sourceIds.set(source, id)
    return id
  }
  const own: (piece: number) => bigint = {
    row: (piece: number) => BigInt(1 + piece),
    document: (piece: number) => BigInt(1 + pieces.document[piece]),
    source: (piece: number) => sourceId(corpus.source(pieces.document[piece])),
    content: (piece: number) => corpus.content!(pieces.document[piece]),
    near: (piece: number) => BigInt(1 + corpus.near!(pieces.document[piece]))
  }[identity]
  return (piece) => {
    const canary = pieces.document[piece] - firstCanary
    return (canary < 0 ? undefined : canaries[canary].id) ?? own(piece)
  }
}

/** The canaries as documents behind the others. */
const withCanaries = (corpus: TokenDocuments, canaries: ReadonlyArray<CanaryDocument>): TokenDocuments => {
  if (canaries.length === 0) return corpus
  const sources = [...new Set(canaries.map(({ source }) => source))]
  const read = (document: number, offset: number, length: number) =>
    canaries[document].tokens.subarray(offset, offset + length)
  return join([corpus, {
    documents: canaries.length,
    length: (document) => canaries[document].tokens.length,
    read,
    name: (document) => canaries[document].name,
    sources,
    source: (document) => sources.indexOf(canaries[document].source),
    content: (document) => canaries[document].content,
    near: (document) => document
  }])
}

/** Everything after the text is tokenized: plain functions of the configuration and the sequences. */
const assemble = (loaded: Loaded, plan: Plan) => {
  const { config } = plan
  const { batchSize, seqLen, segmentAlignment } = config
  const canaries = canaryDocuments(config.canaries ?? [], loaded.tokenizer, seqLen, config.seed)
  if (typeof canaries === "string") return canaries
  const corpus = withCanaries(loaded.corpus, canaries)
  const known = identityOf(corpus, plan)
  if (typeof known === "string") return known
  const identity = known.is
  const selection = plan.kind === "whole"
    ? whole(loaded.corpus, loaded.parts, plan, canaries)
    : sampled(loaded, plan, canaries)
  if (typeof selection === "string") return selection
  const { exposures, groups, pieces, repeatedExposures, splits } = selection
  const idOf = idsBy(identity, corpus, pieces, canaries)

  const lengthOf = (piece: number): number =>
    Math.min(seqLen + 1, corpus.length(pieces.document[piece]) - pieces.offset[piece])
  const { vocabSize } = loaded.tokenizer
  const read = (piece: number): Uint32Array => {
    const document = pieces.document[piece]
    const tokens = corpus.read(document, pieces.offset[piece], lengthOf(piece))
    for (const token of tokens) {
      if (token >= vocabSize) {
        throw new DataError({
          detail: `document ${JSON.stringify(corpus.name(document))} has token ${token}, but the tokenizer has ` +
            `${vocabSize} entries. Was it made with another tokenizer?`
        })
      }
    }
    return tokens
  }
  const rows = (numbers: Uint32Array): ReadonlyArray<Row> =>
    Array.from(numbers, (piece) => ({
      id: idOf(piece),
      tokens: read(piece),
      document: corpus.name(pieces.document[piece]),
      offset: pieces.offset[piece]
    }))

  const close = plan.rowSequences < Infinity
  const epochs = schedule({
    exposures,
    repeatedExposures,
    targets: (piece) => lengthOf(piece) - 1,
    packing: plan.packing === "row" ? "one" : close ? "close" : "next",
    rowSequences: plan.rowSequences,
    seqLen,
    segmentAlignment,
    batchSize,
    idNoise: config.idNoise,
    seed: config.seed
  })
  const firstFreshId = 1 + (identity === "row" ? pieces.document.length : corpus.documents)
  const batchAt = ({ batch, epoch }: Cursor): Batch => {
    const members = epochs.batch(epoch, batch).map((row) =>
      row.map(({ fresh, sequence }) => ({
        id: fresh === undefined ? idOf(sequence) : BigInt(firstFreshId + fresh),
        tokens: read(sequence)
      }))
    )
    return packedBatch(members, batchSize, seqLen, segmentAlignment)
  }

  const seen = new Uint8Array(identity === "row" ? pieces.document.length : corpus.documents)
  const ofSource = new Float64Array(corpus.sources.length)
  let scoredTokens = 0
  for (const piece of exposures) {
    const targets = lengthOf(piece) - 1
    scoredTokens += targets
    ofSource[corpus.source(pieces.document[piece])] += targets
    seen[identity === "row" ? piece : pieces.document[piece]] = 1
  }
  const ids = new BigUint64Array(count(seen))
  let next = 0
  for (let piece = 0; piece < pieces.document.length && next < ids.length; piece++) {
    const at = identity === "row" ? piece : pieces.document[piece]
    if (seen[at] === 0) continue
    seen[at] = 0
    ids[next++] = idOf(piece)
  }
  const report: DataReport = {
    documentsAvailable: loaded.corpus.documents,
    documents: loaded.documents,
    heldOutDocuments: selection.heldOutDocuments,
    bytes: loaded.bytes,
    tokens: loaded.tokens,
    bytesPerToken: loaded.bytes === undefined ? undefined : loaded.bytes / loaded.tokens,
    rows: loaded.cut?.pieces.document.length ?? pieces.document.length - canaries.length,
    duplicateRows: loaded.cut?.duplicates ?? 0,
    exposures: exposures.length,
    batchesPerEpoch: epochs.batchesPerEpoch,
    scoredTokens,
    padding: 1 - scoredTokens / (epochs.batchesPerEpoch * batchSize * seqLen),
    identity,
    distinctIds: distinctOf(ids),
    repeatsPerId: timesIn(config.arm, groups.reduce((most, { times }) => Math.max(most, times), 0)),
    groups: groups.map((group) => ({
      sequences: group.pieces.length,
      exposures: timesIn(config.arm, group.times)
    })),
    canaries: canaries.length,
    sources: Array.from(ofSource, (tokens, i) => ({
      name: corpus.sources[i],
      scoredTokens: tokens,
      share: tokens / scoredTokens
    })).filter((source) => source.scoredTokens > 0).sort((a, b) => b.scoredTokens - a.scoredTokens).slice(0, 64)
  }
  return {
    split: {
      repeated: rows(splits.repeated),
      singles: rows(splits.singles),
      heldOut: rows(splits.heldOut),
      canaries: rows(splits.canaries)
    },
    groups: groups.map(({ pieces, times }): RepeatedGroup => ({
      times,
      sequences: pieces.length,
      rows: rows(pieces.subarray(0, SAMPLE))
    })),
    batchesPerEpoch: epochs.batchesPerEpoch,
    maxSegments: batchSize * epochs.widest,
    batchAt,
    report
  }
}

/** A sample of sequences of text, or of tokens. */
const sampled = (
  { corpus, cut: made, path }: Loaded,
  plan: SamplePlan,
  canaries: ReadonlyArray<CanaryDocument>
): Selection | string => {
  if (made !== undefined) return sample(made.pieces, plan, corpus.documents, canaries)
  // Of many sequences only those that are chosen are looked at: copies among them would undo the experiment.
  const all = cut(corpus, cutting(plan))
  const seen = new Set<string>()
  const width = plan.config.seqLen + 1
  const selection = sample(all, plan, corpus.documents, canaries, (piece) => {
    const [document, offset] = [all.document[piece], all.offset[piece]]
    const key = corpus.read(document, offset, Math.min(width, corpus.length(document) - offset)).join()
    return !seen.has(key) && seen.add(key) !== undefined
  })
  const found = selection.pieces.document.length - canaries.length
  if (found === plan.sequences) return selection
  return `${plan.sequences} sequences are asked for (repeated, singleSequences and heldOutSequences together), but ` +
    `${path ?? "the tokens"} has ${found} distinct ones of ${plan.packing === "row" ? "" : "up to "}${width} tokens. ` +
    `Ask for fewer, shorten seqLen, or set singleSequences to "all"`
}

const make = Effect.fnUntraced(function*(loaded: Loaded, plan: Plan) {
  const { config } = plan
  const at = loaded.path === undefined ? {} : { path: loaded.path }
  const assembled = yield* attempt(() => assemble(loaded, plan))
  if (typeof assembled === "string") return yield* new DataError({ ...at, detail: assembled })
  const { batchAt, batchesPerEpoch, groups, maxSegments, report, split } = assembled
  if (batchesPerEpoch === 0) {
    return yield* new DataError({
      ...at,
      detail: plan.kind === "whole"
        ? `there is nothing to train on: ${report.heldOutDocuments} of ${report.documentsAvailable} documents are held ` +
          `out, the others ${plan.packing === "row" ? "are shorter than a row" : "have fewer than 2 tokens"} or are ` +
          "left out by sources"
        : `there is nothing to train on: arm "${config.arm}" with ${report.groups.length} repeated groups and ` +
          "singleSequences 0 has no sequence. Raise singleSequences"
    })
  }

  const batches = (cursor: Cursor): Stream.Stream<{ batch: Batch; cursor: Cursor }, DataError> => {
    const { batch, epoch } = cursor
    const inside = Number.isSafeInteger(epoch) && epoch >= 0 && Number.isInteger(batch) && batch >= 0 &&
      batch < batchesPerEpoch
    if (!inside) {
      return Stream.fail(
        new DataError({
          detail: `there is no batch ${batch} of epoch ${epoch}: an epoch has ${batchesPerEpoch} batches, counted ` +
            "from 0. Was the cursor saved with another data configuration?"
        })
      )
    }
    return Stream.unfoldEffect(cursor, (at) =>
      attempt(() => {
        const next = at.batch + 1 < batchesPerEpoch
          ? { epoch: at.epoch, batch: at.batch + 1 }
          : { epoch: at.epoch + 1, batch: 0 }
        return Option.some([{ batch: batchAt(at), cursor: next }, next] as const)
      })).pipe(Stream.buffer({ capacity: 2 }))
  }

  return DataStream.of({
    tokenizer: loaded.tokenizer,
    batchSize: config.batchSize,
    seqLen: config.seqLen,
    batchesPerEpoch,
    maxSegments,
    batches,
    split: (name) => split[name],
    groups,
    report
  })
})

/** Runs what may fail to read tokens. */
const attempt = <A>(run: () => A): Effect.Effect<A, DataError> =>
  Effect.try({
    try: run,
    catch: (cause) => {
      if (cause instanceof DataError) return cause
      // Only reading fails with an error code; all else is a bug.
      if (!(cause instanceof Error) || !("code" in cause)) throw cause
      return new DataError({ detail: `tokens cannot be read: ${cause.message}`, cause })
    }
  })

/** Settles the defaults, which depend on what the data is. */
const planFor = (config: DataConfig, data: "text" | "tokens"): Effect.Effect<Plan, DataError> => {
  const plan = resolve(config, data)
  return typeof plan === "string" ? Effect.fail(new DataError({ detail: plan })) : Effect.succeed(plan)
}

/** Checks what only concerns the tokenizer, before any text is read. */
const checkTokenizer = (config: DataConfig): Effect.Effect<void, DataError> =>
  config.tokenizer === "bytes" && (config.vocabSize ?? 256) !== 256
    ? Effect.fail(
      new DataError({
        detail: `vocabSize is ${config.vocabSize}, but tokenizer "bytes" always has 256 entries. Leave vocabSize ` +
          `out, or set tokenizer to "bpe"`
      })
    )
    : Effect.void

const fromFile = (path: string) =>
  Corpus.readText(path).pipe(
    Effect.flatMap(Tokenizer.fromJSON),
    Effect.mapError(({ cause, detail }) =>
      new DataError({
        path,
        detail: `no tokenizer: ${detail}. Set tokenizer to "bpe", "bytes", or the path of a tokenizer.json`,
        cause
      })
    )
  )

/** Text, tokenized as the plan needs it. */
const loadText = Effect.fnUntraced(function*<R>(
  documents: ReadonlyArray<Corpus.Document>,
  parts: ReadonlyArray<Part>,
  config: DataConfig,
  tokenizerFor: TokenizerFor<R>
) {
  const plan = yield* planFor(config, "text")
  const path = typeof config.data === "string" ? config.data : undefined
  if (plan.kind === "whole") {
    const { bytes, corpus, documents: used, tokenizer, tokens } = yield* prepareAll(documents, config, tokenizerFor)
    return yield* make({ corpus, parts, tokenizer, path, documents: used, bytes, tokens, cut: undefined }, plan)
  }
  const { bytes, corpus, documents: used, duplicates, pieces, tokenizer, tokens } = yield* prepare(
    documents,
    plan,
    tokenizerFor
  )
  return yield* make({ corpus, parts, tokenizer, path, documents: used, bytes, tokens, cut: { pieces, duplicates } }, plan)
})

/** Parts of so many documents, one after the other. */
const partsOf = (parts: ReadonlyArray<readonly [path: string, documents: number]>): ReadonlyArray<Part> => {
  let end = 0
  return parts.map(([path, documents]) => ({ path, first: end, end: end += documents }))
}

/** The documents of text files, and a tokenizer for them. */
const fromText = Effect.fnUntraced(function*(config: DataConfig, options: LayerOptions) {
  yield* checkTokenizer(config)
  const tokenizer = config.tokenizer ?? "bpe"
  const fixed = tokenizer === "bpe" ? undefined : tokenizer === "bytes" ? Tokenizer.bytes : yield* fromFile(tokenizer)
  const paths = typeof config.data === "string" ? [config.data] : config.data ?? [undefined]
  const corpora = yield* Effect.forEach(paths, (path) => Corpus.documents(path))
  const parts = partsOf(corpora.map((documents, i) => [paths[i] ?? Corpus.DEFAULT_CORPUS, documents.length]))
  const { cacheDirectory } = options
  const vocabSize = config.vocabSize ?? 256
  return yield* loadText(corpora.flat(), parts, config, (texts) => {
    if (fixed !== undefined) return Effect.succeed(fixed)
    return cacheDirectory === undefined
      ? Tokenizer.trainBpe(texts, { vocabSize })
      : Tokenizer.cachedBpe(cacheDirectory, texts, { vocabSize })
  })
})

/** The tokenizer that a configuration names for the shards of others, which do not name theirs. */
const foreignTokenizer = ({ tokenizer }: DataConfig, path: string) =>
  tokenizer === undefined || tokenizer === "bpe"
    ? Effect.fail(
      new DataError({
        path,
        detail: `these shards do not say which tokenizer made them: set tokenizer to the path of its tokenizer.json, or ` +
          `to "bytes"`
      })
    )
    : tokenizer === "bytes"
    ? Effect.succeed(Tokenizer.bytes)
    : fromFile(tokenizer)

/** Token shards, one or several that were made with the same tokenizer. */
const fromShards = Effect.fnUntraced(function*(paths: ReadonlyArray<string>, config: DataConfig) {
  const opened: Array<TokenShards.TokenShards> = []
  let tokenizer: Tokenizer.Tokenizer | undefined
  for (const path of paths) {
    const endOfText = config.endOfText === undefined ? {} : { endOfText: config.endOfText }
    const named = config.tokenizer === undefined ? {} : { vocabSize: (yield* foreignTokenizer(config, path)).vocabSize }
    const shards = yield* Effect.acquireRelease(
      TokenShards.open(path, { ...endOfText, ...named }),
      ({ close }) => Effect.sync(close)
    )
    opened.push(shards)
    for (const field of ["tokenizer", "endOfText"] as const) {
      if (shards.dataset !== undefined && config[field] !== undefined) {
        return yield* new DataError({
          path,
          detail: `${field} is ${JSON.stringify(config[field])}, but these tokens were made with a tokenizer of their own. ` +
            `Leave ${field} out`
        })
      }
    }
    if (opened.length > 1 && shards.tokenizer !== opened[0].tokenizer) {
      return yield* new DataError({ path, detail: `was made with another tokenizer than ${paths[0]}` })
    }
    tokenizer ??= shards.tokenizer === undefined
      ? yield* foreignTokenizer(config, path)
      : yield* Tokenizer.fromJSON(shards.tokenizer).pipe(
        Effect.mapError(({ cause, detail }) => new DataError({ path, detail: `no tokenizer: ${detail}`, cause }))
      )
  }
  yield* checkTokens(config, tokenizer!)
  const parts = partsOf(opened.map(({ documents }, i) => [paths[i], documents]))
  const bytes = opened.reduce<number | undefined>(
    (sum, { dataset }) => sum === undefined || dataset?.bytes === undefined ? undefined : sum + dataset.bytes,
    0
  )
  return yield* loadTokens(join(opened), parts, tokenizer!, config, bytes)
})

const fromFiles = Effect.fnUntraced(function*(input: DataConfigInput, options: LayerOptions) {
  const config = yield* decodeConfig(DataConfig, input)
  const paths = typeof config.data === "string" ? [config.data] : config.data ?? []
  const tokens = yield* Effect.forEach(paths, (path) => TokenShards.isTokens(path))
  if (!tokens.includes(true)) return yield* fromText(config, options)
  const text = paths[tokens.indexOf(false)]
  if (text === undefined) return yield* fromShards(paths, config)
  return yield* new DataError({
    path: text,
    detail: `is text, and ${paths[tokens.indexOf(true)]} is tokens: tokenize it too, so that data is all of one kind`
  })
})

const fromMemory = Effect.fnUntraced(function*(documents: ReadonlyArray<Corpus.Document>, input: DataConfigInput) {
  const config = yield* decodeConfig(DataConfig, input)
  yield* checkTokenizer(config)
  if (documents.length === 0) return yield* new DataError({ detail: "there are no documents to train on" })
  const tokenizer = config.tokenizer ?? "bpe"
  if (config.data !== undefined || (tokenizer !== "bpe" && tokenizer !== "bytes")) {
    return yield* new DataError({
      detail: `layerMemory reads no files: leave data out, and set tokenizer to "bpe" or "bytes"`
    })
  }
  return yield* loadText(documents, partsOf([["memory", documents.length]]), config, (texts) =>
    tokenizer === "bytes"
      ? Effect.succeed(Tokenizer.bytes)
      : Tokenizer.trainBpe(texts, { vocabSize: config.vocabSize ?? 256 }))
})

/** What the tokens say themselves is not to be said otherwise. */
const checkTokens = (config: DataConfig, { vocabSize }: Tokenizer.Tokenizer): Effect.Effect<void, DataError> =>
  config.vocabSize !== undefined && config.vocabSize !== vocabSize
    ? Effect.fail(
      new DataError({ detail: `vocabSize is ${config.vocabSize}, but the tokens have ${vocabSize}. Leave vocabSize out` })
    )
    : Effect.void

const fromTokens = Effect.fnUntraced(function*(
  corpus: TokenDocuments,
  tokenizer: Tokenizer.Tokenizer,
  input: DataConfigInput
) {
  const config = yield* decodeConfig(DataConfig, input)
  if (config.data !== undefined || config.tokenizer !== undefined) {
    return yield* new DataError({
      detail: "layerTokens has its tokens and their tokenizer already: leave data and tokenizer out"
    })
  }
  yield* checkTokens(config, tokenizer)
  return yield* loadTokens(corpus, partsOf([["tokens", corpus.documents]]), tokenizer, config)
})

const loadTokens = Effect.fnUntraced(function*(
  corpus: TokenDocuments,
  parts: ReadonlyArray<Part>,
  tokenizer: Tokenizer.Tokenizer,
  config: DataConfig,
  bytes?: number
) {
  const plan = yield* planFor(config, "tokens")
  let tokens = 0
  for (let d = 0; d < corpus.documents; d++) tokens += corpus.length(d)
  const path = typeof config.data === "string" ? config.data : undefined
  return yield* make(
    { corpus, parts, tokenizer, path, documents: corpus.documents, bytes, tokens, cut: undefined },
    plan
  )
})

/** Facts of the machine, not of the experiment. */
export interface LayerOptions {
  /** Where trained tokenizers are remembered. Default: nowhere, they are trained each time. */
  readonly cacheDirectory?: string
}

export class DataStream extends Context.Tag("memsinks/DataStream")<DataStream, {
  readonly tokenizer: Tokenizer.Tokenizer
  readonly batchSize: number
  readonly seqLen: number
  /**
   * Batches that hold every planned exposure once. When the rows do not divide by `batchSize`, the last batch ends in
   * rows of padding (targets `IGNORE`, the id of the row before), so that no exposure is dropped.
   */
  readonly batchesPerEpoch: number
  /** Sequences that a batch may hold at most: `batchSize` unless rows are packed. */
  readonly maxSegments: number
  /**
   * The batches from a cursor on, `batchSize` rows each, epoch after epoch without end. The cursor that comes with a
   * batch is where to resume after it. Fails with a `DataError` when the cursor lies outside an epoch.
   */
  readonly batches: (cursor: Cursor) => Stream.Stream<{ readonly batch: Batch; readonly cursor: Cursor }, DataError>
  /**
   * The sequences of a kind; the same in every arm. With identity `row`, their ids count from 1: first the repeated
   * ones, then the singles, then those held out. With identity `document`, an id is one plus the place of the
   * document in the corpus.
   */
  readonly split: (name: Split) => ReadonlyArray<Row>
  /** The repeated sequences by group. */
  readonly groups: ReadonlyArray<RepeatedGroup>
  readonly report: DataReport
}>() {
  /**
   * Reads the corpus that `data` names, text or tokens. Of token shards the index is read now, and tokens when a batch
   * needs them. Fails with a `DataError` on bad configuration, files, or too little text.
   */
  static readonly layer = (
    config: DataConfigInput = {},
    options: LayerOptions = {}
  ): Layer.Layer<DataStream, DataError, FileSystem.FileSystem> =>
    Layer.scoped(DataStream, fromFiles(config, options))

  /** `layer` for the text at a path. */
  static readonly layerText = (
    path: string,
    overrides: DataConfigInput = {},
    options: LayerOptions = {}
  ): Layer.Layer<DataStream, DataError, FileSystem.FileSystem> =>
    DataStream.layer({ ...overrides, data: path }, options)

  /** Tokenized documents that are at hand, and the tokenizer they were made with. */
  static readonly layerTokens = (
    corpus: TokenDocuments,
    tokenizer: Tokenizer.Tokenizer,
    config: DataConfigInput = {}
  ): Layer.Layer<DataStream, DataError> =>
    Layer.effect(DataStream, fromTokens(corpus, tokenizer, config))

  /** Documents that are at hand. Reads no file, so `data` and a tokenizer path are refused. */
  static readonly layerMemory = (
    documents: ReadonlyArray<Corpus.Document>,
    config: DataConfigInput = {}
  ): Layer.Layer<DataStream, DataError> =>
    Layer.effect(DataStream, fromMemory(documents, config))
}
