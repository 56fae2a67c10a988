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
import { range, sample, type Split, timesIn } from "./Selection.ts"
import { prepare, type Tokenized, type TokenizerFor } from "./TextDocuments.ts"
import * as Tokenizer from "./Tokenizer.ts"

export { batchOf, DataConfig, type DataConfigInput, type Row, type Split }

/** The place of a batch in the endless stream. Plain JSON: it travels in every checkpoint. */
export interface Cursor {
  readonly epoch: number
  readonly batch: number
}

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

/** Everything after the text is tokenized: plain functions of the configuration and the sequences. */
const plan = (used: Tokenized, config: DataConfig) => {
  const { batchSize, packing, segmentAlignment, seqLen } = config
  const { corpus } = used
  const { exposures, pieces, repeatedExposures, splits } = sample(used.pieces, config)
  const tokensOf = (piece: number): number =>
    Math.min(seqLen + 1, corpus.length(pieces.document[piece]) - pieces.offset[piece])
  const idOf = (piece: number): bigint => BigInt(1 + (config.identity === "row" ? piece : pieces.document[piece]))
  const read = (piece: number): Uint32Array =>
    corpus.read(pieces.document[piece], pieces.offset[piece], tokensOf(piece))

  const rows = (numbers: Uint32Array): ReadonlyArray<Row> =>
    Array.from(numbers, (piece) => ({
      id: idOf(piece),
      tokens: read(piece),
      document: corpus.name(pieces.document[piece]),
      offset: pieces.offset[piece]
    }))

  const order = range(0, exposures.length)
  const packs = packing === "row"
    ? { starts: range(0, exposures.length + 1), members: order }
    : pack(random(config.seed, "packing").shuffle(order), (i) => tokensOf(exposures[i]) - 1, seqLen, segmentAlignment)
  const packCount = packs.starts.length - 1
  const batchesPerEpoch = Math.ceil(packCount / batchSize)
  const firstFreshId = 1 + (config.identity === "row" ? pieces.document.length : corpus.documents)

  /** Order of the packs, and which exposures carry a fresh id. */
  const epochPlan = (epoch: number) => {
    const noise = random(config.seed, "idNoise", epoch)
    return {
      epoch,
      order: random(config.seed, "order", epoch).shuffle(range(0, packCount)),
      fresh: config.idNoise === 0
        ? undefined
        : Uint8Array.from({ length: repeatedExposures }, () => noise.uniform() < config.idNoise ? 1 : 0)
    }
  }
  let current = epochPlan(0)

  const batchAt = ({ batch, epoch }: Cursor): Batch => {
    if (current.epoch !== epoch) current = epochPlan(epoch)
    const { fresh, order } = current
    const exposed = (exposure: number) => ({
      id: fresh?.[exposure] === 1
        ? BigInt(firstFreshId + epoch * repeatedExposures + exposure)
        : idOf(exposures[exposure]),
      tokens: read(exposures[exposure])
    })
    const members = Array.from(
      order.subarray(batch * batchSize, (batch + 1) * batchSize),
      (p) => Array.from(packs.members.subarray(packs.starts[p], packs.starts[p + 1]), exposed)
    )
    return packedBatch(members, batchSize, seqLen, segmentAlignment)
  }

  const report: DataReport = {
    documentsAvailable: corpus.documents,
    documents: used.documents,
    bytes: used.bytes,
    tokens: used.tokens,
    bytesPerToken: used.bytes / used.tokens,
    rows: used.pieces.document.length,
    duplicateRows: used.duplicates,
    exposures: exposures.length,
    batchesPerEpoch,
    scoredTokens: exposures.reduce((sum, piece) => sum + tokensOf(piece) - 1, 0),
    distinctIds: new Set(Array.from(exposures, idOf)).size,
    repeatsPerId: timesIn(config.arm, config.repeats)
  }
  let widest = 1
  for (let p = 0; p < packCount; p++) widest = Math.max(widest, packs.starts[p + 1] - packs.starts[p])
  const rowsOf = { repeated: rows(splits.repeated), singles: rows(splits.singles), heldOut: rows(splits.heldOut) }
  return { splits: rowsOf, batchesPerEpoch, maxSegments: batchSize * widest, batchAt, report }
}

const make = Effect.fnUntraced(function*<R>(
  documents: ReadonlyArray<Corpus.Document>,
  config: DataConfig,
  tokenizerFor: TokenizerFor<R>
) {
  const used = yield* prepare(documents, config, tokenizerFor)
  const { batchAt, batchesPerEpoch, maxSegments, report, splits } = plan(used, config)
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
