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
import { decodeConfig } from "./Config.ts"
import * as Corpus from "./Corpus.ts"
import { DataConfig, type DataConfigInput } from "./DataConfig.ts"
import { DataError } from "./Errors.ts"
import { batchOf, pack, packedBatch, type Row } from "./Packing.ts"
import { random } from "./Random.ts"
import * as Tokenizer from "./Tokenizer.ts"

export { batchOf, DataConfig, type DataConfigInput, type Row }

/** The place of a batch in the endless stream. Plain JSON: it travels in every checkpoint. */
export interface Cursor {
  readonly epoch: number
  readonly batch: number
}

/** The three kinds of sequences. */
export type Split = "repeated" | "heldOut" | "singles"

/** What a data stream is made of, for logs and reports. */
export interface DataReport {
  /** Documents in the corpus, and how many of them were used, the last perhaps only in part. */
  readonly documentsAvailable: number
  readonly documents: number
  /** Text used, in UTF-8 bytes and in tokens. */
  readonly bytes: number
  readonly tokens: number
  readonly bytesPerToken: number
  /** Distinct sequences the text gave, and copies of them that were left out. */
  readonly rows: number
  readonly duplicateRows: number
  /** Sequences trained on in an epoch, counted as often as they are. */
  readonly exposures: number
  readonly batchesPerEpoch: number
  /** Targets that are scored in an epoch. */
  readonly scoredTokens: number
  /** Distinct ids in an epoch, not counting the fresh ones of `idNoise`. */
  readonly distinctIds: number
  /** Exposures of each repeated sequence in an epoch. */
  readonly repeatsPerId: number
}

/** A sequence before it has an id. */
interface Piece {
  readonly tokens: Uint32Array
  /** Index of its document in the corpus. */
  readonly document: number
  readonly offset: number
}

/** The text that was used, tokenized and cut. */
interface Cut {
  readonly tokenizer: Tokenizer.Tokenizer
  readonly pieces: ReadonlyArray<Piece>
  readonly duplicates: number
  readonly documents: number
  readonly bytes: number
  readonly tokens: number
  readonly longest: number
}

/** A part of a corpus: indices of documents, and their texts. */
type Texts = ReadonlyArray<{ readonly document: number; readonly text: string }>

/** Documents in order until they have `characters`; the last is cut at a space. */
const takeText = (documents: ReadonlyArray<Corpus.Document>, order: Uint32Array, characters: number): Texts => {
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

const cut = (texts: Texts, tokenizer: Tokenizer.Tokenizer, config: DataConfig): Cut => {
  const width = config.seqLen + 1
  const shortest = config.packing === "row" ? width : 2
  const encoder = new TextEncoder()
  const pieces: Array<Piece> = []
  const seen = new Set<string>()
  let [duplicates, bytes, tokens, longest] = [0, 0, 0, 0]
  for (const { document, text } of texts) {
    const ids = tokenizer.encode(text)
    bytes += encoder.encode(text).length
    tokens += ids.length
    longest = Math.max(longest, ids.length)
    for (let offset = 0; offset + shortest <= ids.length; offset += width) {
      const piece = ids.subarray(offset, offset + width)
      // A copy of a repeated sequence among the singles or held-out ones would undo the experiment.
      const key = piece.join()
      if (seen.has(key)) {
        duplicates++
        continue
      }
      seen.add(key)
      pieces.push({ tokens: piece, document, offset })
    }
  }
  return { tokenizer, pieces, duplicates, documents: texts.length, bytes, tokens, longest }
}

const tooLittle = (config: DataConfig, { documents, longest, pieces, tokens }: Cut): DataError => {
  const { heldOutSequences, repeatedSequences, seqLen, sequences, singleSequences } = config
  const at = config.data === undefined ? {} : { path: config.data }
  if (pieces.length === 0) {
    return new DataError({
      ...at,
      detail: `no document is as long as a row: the longest has ${longest} tokens, a row of seqLen ${seqLen} needs ` +
        (config.packing === "row"
          ? `${seqLen + 1}. Set seqLen to ${Math.max(1, longest - 1)} or less, or packing to "documents"`
          : "at least 2. Give longer texts")
    })
  }
  const text = `the text (${documents} documents, ${tokens} tokens) gives ${pieces.length} distinct sequences of ` +
    `${config.packing === "row" ? "" : "up to "}${seqLen + 1} tokens`
  if (repeatedSequences > pieces.length) {
    return new DataError({
      ...at,
      detail: `repeatedSequences is ${repeatedSequences}, but ${text}. Set it below ${pieces.length}, ` +
        "shorten seqLen, or give more text"
    })
  }
  const singles = pieces.length - repeatedSequences - heldOutSequences
  return new DataError({
    ...at,
    detail: `${sequences} sequences are asked for (repeatedSequences ${repeatedSequences} + singleSequences ` +
      `${singleSequences} + heldOutSequences ${heldOutSequences}), but ${text}. ` +
      (singles > 0 ? `Set singleSequences to ${singles} or less` : "Lower singleSequences and heldOutSequences") +
      ", shorten seqLen, or give more text"
  })
}

/** Gives the tokenizer for a text: trains one, or hands out the one there is. */
type TokenizerFor<R> = (texts: ReadonlyArray<string>) => Effect.Effect<Tokenizer.Tokenizer, DataError, R>

/**
 * Uses as much text as the sequences need, in an order drawn from the seed, so that a tokenizer is trained on the text
 * that the model sees and on no more.
 */
const prepare = Effect.fnUntraced(function*<R>(
  documents: ReadonlyArray<Corpus.Document>,
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
    const used = cut(texts, yield* tokenizerFor(texts.map(({ text }) => text)), config)
    if (used.pieces.length >= Math.max(1, config.sequences)) return used
    if (characters >= available) return yield* tooLittle(config, used)
    const short = config.sequences / Math.max(1, used.pieces.length)
    characters = Math.ceil(characters * Math.min(4, Math.max(1.1, short * 1.05)))
  }
})

/** Everything after the text is tokenized: plain functions of the configuration and the sequences. */
const plan = (documents: ReadonlyArray<Corpus.Document>, config: DataConfig, used: Cut) => {
  const { batchSize, heldOutSequences, packing, repeatedSequences, segmentAlignment, seqLen, singleSequences } = config
  const chosen = random(config.seed, "rows").shuffle(used.pieces.slice()).slice(0, config.sequences)
  const rows = chosen.map(({ document, offset, tokens }, i): Row => ({
    id: BigInt(1 + (config.identity === "row" ? i : document)),
    tokens,
    document: documents[document].name,
    offset
  }))
  const singles = rows.slice(repeatedSequences, repeatedSequences + singleSequences)
  const splits: Record<Split, ReadonlyArray<Row>> = {
    repeated: rows.slice(0, repeatedSequences),
    singles,
    heldOut: rows.slice(rows.length - heldOutSequences)
  }

  const repeats = { repeats: config.repeats, deduplicated: 1, neverRepeated: 0 }[config.arm]
  const repeatedExposures = repeats * repeatedSequences
  // Exposures of the repeated sequences come first: an exposure is a repeated one if its number is below that count.
  const exposures: ReadonlyArray<Row> = [
    ...Array.from({ length: repeats }, () => splits.repeated).flat(),
    ...singles
  ]
  const packs = packing === "row"
    ? exposures.map((_, i): ReadonlyArray<number> => [i])
    : (() => {
      const order = random(config.seed, "packing").shuffle(Array.from(exposures.keys()))
      return pack(order.map((i) => exposures[i].tokens.length - 1), seqLen, segmentAlignment)
        .map((members) => members.map((i) => order[i]))
    })()
  const batchesPerEpoch = Math.ceil(packs.length / batchSize)
  const firstFreshId = 1 + (config.identity === "row" ? rows.length : documents.length)

  /** Order of the packs, and which exposures carry a fresh id. */
  const epochPlan = (epoch: number) => {
    const noise = random(config.seed, "idNoise", epoch)
    return {
      epoch,
      order: random(config.seed, "order", epoch).shuffle(Uint32Array.from(packs.keys())),
      fresh: Array.from({ length: repeatedExposures }, () => noise.uniform() < config.idNoise)
    }
  }
  let current = epochPlan(0)

  const batchAt = ({ batch, epoch }: Cursor): Batch => {
    if (current.epoch !== epoch) current = epochPlan(epoch)
    const { fresh, order } = current
    const exposed = (i: number): Row =>
      fresh[i] === true ? { ...exposures[i], id: BigInt(firstFreshId + epoch * repeatedExposures + i) } : exposures[i]
    const members = Array.from(order.subarray(batch * batchSize, (batch + 1) * batchSize), (p) => packs[p].map(exposed))
    return packedBatch(members, batchSize, seqLen, segmentAlignment)
  }

  const report: DataReport = {
    documentsAvailable: documents.length,
    documents: used.documents,
    bytes: used.bytes,
    tokens: used.tokens,
    bytesPerToken: used.bytes / used.tokens,
    rows: used.pieces.length,
    duplicateRows: used.duplicates,
    exposures: exposures.length,
    batchesPerEpoch,
    scoredTokens: exposures.reduce((sum, { tokens }) => sum + tokens.length - 1, 0),
    distinctIds: new Set(exposures.map(({ id }) => id)).size,
    repeatsPerId: repeats
  }
  const maxSegments = batchSize * packs.reduce((most, members) => Math.max(most, members.length), 1)
  return { splits, batchesPerEpoch, maxSegments, batchAt, report }
}

const make = Effect.fnUntraced(function*<R>(
  documents: ReadonlyArray<Corpus.Document>,
  config: DataConfig,
  tokenizerFor: TokenizerFor<R>
) {
  const used = yield* prepare(documents, config, tokenizerFor)
  const { batchAt, batchesPerEpoch, maxSegments, report, splits } = plan(documents, config, used)
  if (batchesPerEpoch === 0) {
    return yield* new DataError({
      detail: `there is nothing to train on: arm "${config.arm}" with repeatedSequences ` +
        `${config.repeatedSequences} and singleSequences 0 has no sequence. Raise singleSequences`
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
    return Stream.unfold(cursor, (at) => {
      const next = at.batch + 1 < batchesPerEpoch
        ? { epoch: at.epoch, batch: at.batch + 1 }
        : { epoch: at.epoch + 1, batch: 0 }
      return Option.some([{ batch: batchAt(at), cursor: next }, next] as const)
    }).pipe(Stream.buffer({ capacity: 2 }))
  }

  return DataStream.of({
    tokenizer: used.tokenizer,
    batchSize: config.batchSize,
    seqLen: config.seqLen,
    batchesPerEpoch,
    maxSegments,
    batches,
    split: (name) => splits[name],
    report
  })
})

/** Checks what only concerns the tokenizer, before any text is read. */
const checkTokenizer = (config: DataConfig): Effect.Effect<void, DataError> =>
  config.tokenizer === "bytes" && config.vocabSize !== 256
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

const fromFiles = Effect.fnUntraced(function*(input: DataConfigInput, options: LayerOptions) {
  const config = yield* decodeConfig(DataConfig, input)
  yield* checkTokenizer(config)
  const fixed = config.tokenizer === "bpe"
    ? undefined
    : config.tokenizer === "bytes"
    ? Tokenizer.bytes
    : yield* fromFile(config.tokenizer)
  const documents = yield* Corpus.documents(config.data)
  const { cacheDirectory } = options
  return yield* make(documents, config, (texts) => {
    if (fixed !== undefined) return Effect.succeed(fixed)
    return cacheDirectory === undefined
      ? Tokenizer.trainBpe(texts, { vocabSize: config.vocabSize })
      : Tokenizer.cachedBpe(cacheDirectory, texts, { vocabSize: config.vocabSize })
  })
})

const fromMemory = Effect.fnUntraced(function*(documents: ReadonlyArray<Corpus.Document>, input: DataConfigInput) {
  const config = yield* decodeConfig(DataConfig, input)
  yield* checkTokenizer(config)
  if (documents.length === 0) return yield* new DataError({ detail: "there are no documents to train on" })
  if (config.data !== undefined || (config.tokenizer !== "bpe" && config.tokenizer !== "bytes")) {
    return yield* new DataError({
      detail: `layerMemory reads no files: leave data out, and set tokenizer to "bpe" or "bytes"`
    })
  }
  return yield* make(documents, config, (texts) =>
    config.tokenizer === "bytes"
      ? Effect.succeed(Tokenizer.bytes)
      : Tokenizer.trainBpe(texts, { vocabSize: config.vocabSize }))
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
  readonly report: DataReport
}>() {
  /** Reads the corpus that `data` names. Fails with a `DataError` on bad configuration, files, or too little text. */
  static readonly layer = (
    config: DataConfigInput = {},
    options: LayerOptions = {}
  ): Layer.Layer<DataStream, DataError, FileSystem.FileSystem> =>
    Layer.effect(DataStream, fromFiles(config, options))

  /** `layer` for the text at a path. */
  static readonly layerText = (
    path: string,
    overrides: DataConfigInput = {},
    options: LayerOptions = {}
  ): Layer.Layer<DataStream, DataError, FileSystem.FileSystem> =>
    DataStream.layer({ ...overrides, data: path }, options)

  /** Documents that are at hand. Reads no file, so `data` and a tokenizer path are refused. */
  static readonly layerMemory = (
    documents: ReadonlyArray<Corpus.Document>,
    config: DataConfigInput = {}
  ): Layer.Layer<DataStream, DataError> =>
    Layer.effect(DataStream, fromMemory(documents, config))
}
