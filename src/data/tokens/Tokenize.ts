/**
 * Text to token shards, once: documents are read one after the other, tokenized on worker threads, and written in their
 * order. What is written depends on the configuration and the data alone, never on the number of workers, and a run
 * that was killed goes on behind the last shard that it has finished.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { Buffer } from "node:buffer"
import { createHash } from "node:crypto"
import { availableParallelism } from "node:os"
import { dirname, join } from "node:path"
import { takenBack } from "../../BegunFolder.ts"
import { aFunction, decodeConfig, expectOptions, positive, upTo, withDefault } from "../../Config.ts"
import { because, DataError, dataError as fail, told } from "../../Errors.ts"
import { parseJson } from "../../Json.ts"
import { keyOf } from "../../Key.ts"
import * as Corpus from "../Corpus.ts"
import { Dataset, dtypeOf, RECORD, shardFiles, widthOf } from "../Dataset.ts"
import { makeNearIndex, NearConfig } from "../identity/NearDuplicates.ts"
import { gather } from "../Pieces.ts"
import { SourceSpec, stream, type Tally } from "../Source.ts"
import { some } from "../source/Files.ts"
import { readable, sizeOf } from "./ShardReader.ts"
import { type NewFile, newFile, newShard, type ShardWriter, TEMPORARY, withNear, writeDataset,
  writeWhole } from "./ShardWriter.ts"
import { makePool } from "./TokenizePool.ts"
import * as Tokenizer from "./Tokenizer.ts"
import type { EncodedTexts } from "./TokenizeWorker.ts"
import * as TokenShards from "./TokenShards.ts"

/** Gives the documents of a source, in an order that is the same each time, and counts what is none of them. */
export type DocumentSource = (
  spec: SourceSpec,
  tally: Tally
) => Stream.Stream<Corpus.Document, DataError, FileSystem.FileSystem>

/** What is tokenized, and how: all that the shards depend on. */
export const TokenizeConfig = Schema.Struct({
  /** Where documents come from, one source after the other. */
  data: Schema.NonEmptyArray(SourceSpec),
  /** `gpt2`, `bpe` (trained on the data), `bytes`, or the path of a `tokenizer.json` or its folder. Default gpt2. */
  tokenizer: Schema.optionalWith(Schema.NonEmptyString, { default: () => "gpt2" }),
  /** Entries of a `bpe` tokenizer at most, the special token counted. Default 16384. */
  vocabSize: withDefault(Schema.Int.pipe(Schema.between(2, 2 ** 24)), 16384),
  /** Text that a `bpe` tokenizer is trained on, in characters: an equal share from the beginning of each source. */
  trainCharacters: Schema.optionalWith(positive, { default: () => 50_000_000 }),
  /**
   * Name of the special token before each document, `auto` for the usual one, or `none`. Default: the one that the
   * tokenizer itself puts before a text, by the post-processor of its `tokenizer.json`; gpt2, bpe and bytes put none.
   */
  bos: Schema.optional(Schema.NonEmptyString),
  /** The same for the token after each document. Default auto, which is `<|endoftext|>` but for foreign tokenizers. */
  eos: Schema.optionalWith(Schema.NonEmptyString, { default: () => "auto" }),
  /**
   * Names of special tokens in a text are text like any other. Default false: as Hugging Face's tokenizers do, a text that
   * spells one is encoded as it.
   */
  specialAsText: Schema.optional(Schema.Boolean),
  /** Tokens, or bytes of tokens, of a shard at most; a longer document has its own. Default 100,000,000 tokens. */
  shardTokens: Schema.optional(positive),
  shardBytes: Schema.optional(positive),
  /** Also find near-duplicates. */
  near: Schema.optional(NearConfig)
}).pipe(
  Schema.filter((it) =>
    it.shardTokens === undefined || it.shardBytes === undefined ||
    "expected one of shardTokens and shardBytes"
  )
)
export type TokenizeConfig = typeof TokenizeConfig.Type
/** One whose defaults are known: what the shards say they were made by. */
type Resolved = TokenizeConfig & { readonly bos: string }
/** A TokenizeConfig as it is written: fields with a default may be left out. */
export type TokenizeInput = typeof TokenizeConfig.Encoded

/** How much was done: all that is in the folder, or all that this process did. */
export interface Amount {
  readonly documents: number
  readonly tokens: number
  /** UTF-8 bytes of text. */
  readonly bytes: number
}

/** What tokenizing tells while it runs. */
export type TokenizeEvent =
  /** A tokenizer is trained. */
  | { readonly _tag: "Training"; readonly entries: number; readonly vocabSize: number }
  /** An interrupted run goes on; its documents are read again up to where it stopped. */
  | { readonly _tag: "Resumed"; readonly shards: number; readonly documents: number }
  | ({ readonly _tag: "Progress" } & Speed)
  | { readonly _tag: "Shard"; readonly file: string; readonly tokens: number; readonly documents: number }
  /** Near-duplicates are looked for among all documents. */
  | { readonly _tag: "Clustering"; readonly documents: number }

export interface Speed extends Amount {
  /** Of this process. */
  readonly seconds: number
  readonly tokensPerSecond: number
  readonly bytesPerSecond: number
}

/** What was tokenized, and what was left out. */
export interface TokenizeReport extends Amount {
  readonly folder: string
  readonly dataset: Dataset
  /** Documents without any text, which were left out. */
  readonly blanks: number
  /** Records whose text was null or not there, which `onMissingText` had passed over. */
  readonly missing: number
  readonly tokensPerByte: number
  /** What this process has done of it; undefined where everything was there already. */
  readonly speed: Speed | undefined
}

/** Where tokens go, and who works on them. */
export interface TokenizeOptions {
  /** The folder for the shards: new, empty, or that of an interrupted run. */
  readonly out: string
  /** Threads that tokenize. Default: one less than there are cores. */
  readonly workers?: number
  /** UTF-16 units of text that go to a worker at once, at least. Default 262,144. */
  readonly batch?: number
  /** Told how far it is; called often. Default: nobody. */
  readonly onEvent?: (event: TokenizeEvent) => void
  /** Where documents come from. Default: `stream` of Source. */
  readonly source?: DocumentSource
}

const Options = Schema.Struct({
  out: Schema.NonEmptyString,
  workers: Schema.optional(upTo(1024)),
  batch: Schema.optional(positive),
  onEvent: Schema.optional(aFunction),
  source: Schema.optional(aFunction)
})

// ---------------------------------------------------------------------------------------------------------------
// The journal: what is finished

const JOURNAL = "tokenize.json"

const Journal = Schema.Struct({
  format: Schema.Literal(1),
  config: Schema.Unknown,
  /** Whether `tokenizer.json` is there. */
  tokenizer: Schema.Boolean,
  /** Documents read, blank ones too, up to the last one in a finished shard, and a SHA-256 of their names and texts. */
  consumed: Dataset.fields.tokens,
  digest: Schema.String,
  bytes: Dataset.fields.tokens,
  tokens: Dataset.fields.tokens,
  documents: Dataset.fields.documents,
  sources: Dataset.fields.sources,
  shards: Dataset.fields.shards,
  sha256: Dataset.fields.sha256
})
type Journal = typeof Journal.Type

/** With a checksum: what it counts goes into `dataset.json` unseen. */
const Sealed = Schema.Struct({ ...Journal.fields, self: Schema.String })

const journalText = (journal: Journal): string => JSON.stringify({ ...journal, self: keyOf(journal) })

const EMPTY: Omit<Journal, "config"> = {
  format: 1,
  tokenizer: false,
  consumed: 0,
  digest: "",
  bytes: 0,
  tokens: 0,
  documents: 0,
  sources: [],
  shards: [],
  sha256: {}
}

const attempt = <A>(path: string, body: () => A): Effect.Effect<A, DataError> =>
  Effect.try({
    try: body,
    catch: told((cause) => fail(path, `cannot be written: ${because(cause)}`, cause))
  })

/** What tells two configurations apart, a line each. */
const differences = (before: unknown, now: unknown): ReadonlyArray<string> => {
  const [a, b] = [Object(before) as Record<string, unknown>, Object(now) as Record<string, unknown>]
  const show = (value: unknown) => value === undefined ? "not set" : JSON.stringify(value)
  return [...new Set([...Object.keys(a), ...Object.keys(b)])]
    .filter((key) => JSON.stringify(a[key]) !== JSON.stringify(b[key]))
    .map((key) => `  ${key}: ${show(a[key])} then, ${show(b[key])} now`)
}

const expectSame = (folder: string, state: string, before: unknown, now: unknown) => {
  const lines = differences(before, now)
  return lines.length === 0 ? Effect.void : Effect.fail(
    fail(
      folder,
      [`holds ${state} of another configuration. Give it again, or choose another folder:`, ...lines].join("\n")
    )
  )
}

/** SHA-256 of documents' names and texts, and whose they are where that is known, in their order, one after the other. */
const chained = (digest: Uint8Array, { licence, name, owner, text }: Corpus.Document): Uint8Array =>
  createHash("sha256").update(digest).update(name).update("\0").update(text)
    // shards of before these were known have none
    .update(owner === undefined && licence === undefined ? "" : JSON.stringify([owner, licence])).digest()

/**
 * Whether documents are those that finished shards were made of. Shards of before this was written down, and data that
 * is not there any more, tell nothing else.
 */
const expectUnchanged = Effect.fnUntraced(function*(
  folder: string,
  { documentsSha256 }: Dataset,
  config: TokenizeConfig,
  source: DocumentSource
) {
  if (documentsSha256 === undefined) return
  let digest: Uint8Array = new Uint8Array(0)
  const read = yield* Effect.either(
    Effect.forEach(config.data,
      (spec) =>
        Stream.runForEach(source(spec, { missing: 0, blank: 0 }), (document) =>
          Effect.sync(() => void (digest = chained(digest, document)))))
  )
  if (read._tag === "Left" || Buffer.from(digest).toString("hex") === documentsSha256) return
  return yield* fail(
    folder,
    "holds the finished shards of other text: the data has changed since it was tokenized. Choose another folder for what " +
      "it is now, or remove this one"
  )
})

/** What the folder holds: everything, a part, or nothing. */
const examine = Effect.fnUntraced(function*(folder: string, config: unknown) {
  const fs = yield* FileSystem.FileSystem
  yield* Effect.mapError(fs.makeDirectory(folder, { recursive: true }),
    (cause) => fail(folder, `cannot be made: ${because(cause)}`, cause))
  const names = yield* readable(folder, fs.readDirectory(folder))
  if (names.includes("dataset.json")) {
    const shards = yield* TokenShards.open(folder)
    yield* expectSame(folder, "the finished shards", shards.dataset!.config, config)
    return { finished: shards.dataset!, journal: undefined }
  }
  const path = `${folder}/${JOURNAL}`
  if (!names.includes(JOURNAL)) {
    const other = names.find((name) => !name.endsWith(TEMPORARY) && !/^lock(\.|$)/.test(name))
    if (other === undefined) return { finished: undefined, journal: undefined }
    return yield* fail(folder, `is not empty, it holds ${other}: choose a folder that is empty or not there yet`)
  }
  const text = yield* readable(path, fs.readFileString(path))
  const advice = "Remove the folder and tokenize again"
  const { self, ...journal } = yield* parseJson(text).pipe(
    Effect.flatMap((json) => decodeConfig(Sealed, json)),
    Effect.mapError((cause) => fail(path, `is no record of an interrupted run. ${advice}`, cause))
  )
  if (self !== keyOf(journal)) return yield* fail(path, `is not as it was written. ${advice}`)
  // what never came to a shard is no loss: the next attempt may be another
  if (journal.shards.length === 0 && differences(journal.config, config).length > 0) {
    return { finished: undefined, journal: undefined }
  }
  yield* expectSame(folder, "a part of the shards", journal.config, config)
  return { finished: undefined, journal }
})

const expectShards = Effect.fnUntraced(function*(folder: string, { shards }: Journal, width: number) {
  for (const { documents, file, tokens } of shards) {
    const { bin, idx } = shardFiles(file)
    for (const [name, bytes] of [[bin, width * tokens], [idx, RECORD * documents]] as const) {
      const size = yield* sizeOf(`${folder}/${name}`)
      if (size !== bytes) {
        const detail = `has ${size} bytes, ${bytes} were written. Remove the folder and begin anew`
        return yield* fail(`${folder}/${name}`, detail)
      }
    }
  }
})

// ---------------------------------------------------------------------------------------------------------------
// The tokenizer

const trained = Effect.fnUntraced(function*(
  config: TokenizeConfig,
  source: DocumentSource,
  onEvent: (event: TokenizeEvent) => void
) {
  const { data, trainCharacters, vocabSize } = config
  const texts: Array<string> = []
  for (const spec of data) {
    let left = trainCharacters / data.length
    // What is passed over is said when all of it is read.
    yield* source(spec, { missing: 0, blank: 0 }).pipe(
      Stream.takeWhile(() => left > 0),
      Stream.runForEach(({ text }) =>
        Effect.sync(() => {
          texts.push(text)
          left -= text.length
        })
      ),
      Logger.withMinimumLogLevel(LogLevel.Error)
    )
  }
  onEvent({ _tag: "Training", entries: 0, vocabSize })
  return yield* Tokenizer.trainBpe(texts, {
    vocabSize: vocabSize - 1,
    reserved: 1,
    onProgress: (entries) => onEvent({ _tag: "Training", entries, vocabSize })
  })
})

const withEnd = Effect.flatMap((it: Tokenizer.Tokenizer) => Tokenizer.withSpecialToken(it, Tokenizer.END_OF_TEXT))

const makeTokenizer = (config: Resolved, source: DocumentSource, onEvent: (event: TokenizeEvent) => void) => {
  switch (config.tokenizer) {
    case "gpt2":
      return Tokenizer.gpt2
    case "bytes":
      return withEnd(Effect.succeed(Tokenizer.bytes))
    case "bpe":
      // it has the special tokens of bytes: what they are not is said before it is trained
      return withEnd(Effect.succeed(Tokenizer.bytes)).pipe(
        Effect.flatMap((bytes) => specialIds(bytes, config)),
        Effect.zipRight(withEnd(trained(config, source, onEvent)))
      )
    default:
      return readTokenizer(config.tokenizer)
  }
}

/** The file of a tokenizer that was named by itself, or by the folder of shards, a checkpoint or a model that holds it. */
const tokenizerFile = Effect.fnUntraced(function*(named: string) {
  const fs = yield* FileSystem.FileSystem
  const inside = join(named, "tokenizer.json")
  return (yield* Effect.orElseSucceed(fs.exists(inside), () => false)) ? inside : named
})

/** The tokenizer of a `tokenizer.json`, which a path names, or the folder that holds it. */
export const readTokenizer = (named: string) =>
  Effect.flatMap(tokenizerFile(named), (path) =>
    Corpus.readText(path).pipe(
      Effect.flatMap(Tokenizer.fromJSON),
      Effect.mapError(({ cause, detail }) =>
        new DataError({
          path,
          detail: `no tokenizer: ${detail}. Set tokenizer to gpt2, bpe, bytes, or the path of a tokenizer.json`,
          cause
        })
      )
    ))

/** The `tokenizer_config.json` beside a `tokenizer.json`; undefined where there is none. */
const configBeside = Effect.fnUntraced(function*(path: string) {
  const fs = yield* FileSystem.FileSystem
  const file = join(dirname(path), "tokenizer_config.json")
  if (!(yield* Effect.orElseSucceed(fs.exists(file), () => false))) return undefined
  return yield* Effect.mapError(parseJson(yield* Corpus.readText(file)), (detail) => fail(file, detail))
})

/** A configuration whose `bos` is what the tokenizer puts before a text, where it is left out. */
const resolved = Effect.fnUntraced(function*(given: TokenizeConfig) {
  // what is no different from the default must not look like another configuration
  const { bos, specialAsText, ...config } = given
  const isFile = !["gpt2", "bytes", "bpe"].includes(config.tokenizer)
  const tokenizer = isFile ? yield* tokenizerFile(config.tokenizer) : config.tokenizer
  const own = bos !== undefined || !isFile
    ? undefined
    : Tokenizer.beginsWith(yield* readTokenizer(tokenizer), yield* configBeside(tokenizer))
  const all: Resolved = { ...config, tokenizer, bos: bos ?? own ?? "none",
    ...(specialAsText === true ? { specialAsText } : {}) }
  return all
})

/** The id of a special token by its name, undefined for none. */
const specialId = (tokenizer: Tokenizer.Tokenizer, which: "bos" | "eos", name: string) => {
  if (name === "none") return Effect.succeed(undefined)
  const id = name === "auto" ? Tokenizer.specialId(tokenizer, which) : tokenizer.specialTokens.get(name)
  if (id !== undefined) return Effect.succeed(id)
  const names = [...tokenizer.specialTokens.keys()]
  const missing = name === "auto" ? `no ${which} token under a usual name` : `no special token ${name}`
  const has = names.length === 0 ? "it has none" : `it has ${some(names, 20)}`
  const detail = `${which}: the tokenizer has ${missing}; ${has}. Give one of them, or none`
  return Effect.fail(new DataError({ detail }))
}

const specialIds = (tokenizer: Tokenizer.Tokenizer, { bos, eos }: Resolved) =>
  Effect.all({ bos: specialId(tokenizer, "bos", bos), eos: specialId(tokenizer, "eos", eos) })

// ---------------------------------------------------------------------------------------------------------------
// Documents in, shards out

/** What the journal must know when a shard ends behind a document. */
interface Mark {
  readonly consumed: number
  readonly digest: Uint8Array
  /** Sources known by then. */
  readonly sources: number
}

interface Batch {
  readonly texts: Array<string>
  readonly names: Array<string>
  readonly sources: Array<number>
  readonly marks: Array<Mark>
}

const newBatch = (): Batch => ({ texts: [], names: [], sources: [], marks: [] })

/** Cuts documents into batches, without the blank ones and those that are in finished shards. */
const makeBatcher = (folder: string, journal: Journal, enough: number) => {
  const sources = [...journal.sources]
  const places = new Map(sources.map((name, i) => [name, i]))
  const gathered = gather()
  let consumed = 0
  let digest: Uint8Array = new Uint8Array(0)
  let batch = newBatch()
  let size = 0

  const changed = (): DataError =>
    fail(
      folder,
      `the data is not what it was when this was begun: its first ${journal.consumed} documents differ. ` +
        "Restore it, or choose another folder"
    )
  const flush = (): ReadonlyArray<Batch> => {
    const full = batch
    batch = newBatch()
    size = 0
    return full.texts.length === 0 ? [] : [full]
  }
  /** Throws `DataError` where documents that were tokenized before have changed. */
  const add = (spec: SourceSpec, documents: Iterable<Corpus.Document>): ReadonlyArray<Batch> => {
    const ready: Array<Batch> = []
    for (const document of documents) {
      const { name, source = spec.path, text } = document
      digest = chained(digest, document)
      consumed++
      if (consumed === journal.consumed && Buffer.from(digest).toString("hex") !== journal.digest) throw changed()
      if (text.trim() === "") continue
      gathered.add(source, document)
      if (consumed <= journal.consumed) continue
      let place = places.get(source)
      if (place === undefined) {
        place = sources.push(source) - 1
        places.set(source, place)
      }
      batch.texts.push(text)
      batch.names.push(name)
      batch.sources.push(place)
      batch.marks.push({ consumed, digest, sources: sources.length })
      size += text.length
      if (size >= enough) ready.push(...flush())
    }
    return ready
  }
  const end = (): ReadonlyArray<Batch> => {
    if (consumed < journal.consumed) throw changed()
    return flush()
  }
  /** What `dataset.json` tells of sources besides their names. */
  const told = (sources: ReadonlyArray<string>) => {
    const [owners, licences] = [gathered.owners(sources), gathered.licences(sources)]
    return { ...(owners === undefined ? {} : { owners }), ...(licences === undefined ? {} : { licences }) }
  }
  return { sources, add, end, told, consumed: () => consumed, sha256: () => Buffer.from(digest).toString("hex") }
}

/** Signatures of a shard's documents, kept until clusters are made. */
const signatureFile = (file: string): string => file.replace(/\.bin$/, ".sig")

/** Writes batches in their order. Methods throw `DataError`; what is finished is in the journal. */
const makeWriter = (folder: string, begun: Journal, sources: ReadonlyArray<string>, options: {
  readonly dtype: Dataset["dtype"]
  readonly shardTokens: number
  readonly numHashes: number
  readonly onShard: (shard: Journal["shards"][number]) => void
}) => {
  const { dtype, numHashes, onShard, shardTokens } = options
  let journal = begun
  let shard: { readonly writer: ShardWriter; readonly signatures: NewFile | undefined } | undefined
  let [bytes, mark] = [0, undefined as Mark | undefined]

  const open = () => {
    const writer = newShard(folder, journal.shards.length, dtype, journal.documents)
    shard = {
      writer,
      signatures: numHashes === 0 ? undefined : newFile(`${folder}/${signatureFile(writer.file)}`)
    }
    return shard
  }
  const finishShard = (): void => {
    if (shard === undefined) return
    const { signatures, writer } = shard
    signatures?.finish()
    const sha256 = writer.finish()
    shard = undefined
    const entry = { file: writer.file, tokens: writer.tokens(), documents: writer.documents() }
    journal = {
      ...journal,
      consumed: mark!.consumed,
      digest: Buffer.from(mark!.digest).toString("hex"),
      sources: sources.slice(0, mark!.sources),
      bytes: journal.bytes + bytes,
      tokens: journal.tokens + entry.tokens,
      documents: journal.documents + entry.documents,
      shards: [...journal.shards, entry],
      sha256: { ...journal.sha256, ...sha256 }
    }
    bytes = 0
    writeWhole(`${folder}/${JOURNAL}`, journalText(journal))
    onShard(entry)
  }
  const write = (batch: Batch, encoded: EncodedTexts): void => {
    const all = { ...encoded, sources: Uint32Array.from(batch.sources), names: batch.names }
    const documents = batch.names.length
    let token = 0
    for (let from = 0; from < documents;) {
      const { signatures, writer } = shard ?? open()
      let [to, end] = [from, token]
      let room = shardTokens - writer.tokens()
      // one that is longer than a shard has one of its own
      while (to < documents && (encoded.lengths[to]! <= room || (to === from && writer.tokens() === 0))) {
        room -= encoded.lengths[to]!
        end += encoded.lengths[to]!
        bytes += encoded.bytes[to]!
        mark = batch.marks[to++]
      }
      writer.append(all, from, to, token)
      signatures?.write(encoded.signatures.subarray(numHashes * from, numHashes * to))
      if (to < documents) finishShard()
      from = to
      token = end
    }
  }
  return {
    write,
    /** Finishes the last shard; gives the journal of all. */
    finish: (): Journal => {
      finishShard()
      return journal
    },
    abandon: (): void => {
      shard?.writer.abandon()
      shard?.signatures?.abandon()
      shard = undefined
    }
  }
}

/** Finds near-duplicates among all documents and writes their clusters into the indexes. */
const cluster = Effect.fnUntraced(function*(folder: string, journal: Journal, near: NearConfig) {
  const fs = yield* FileSystem.FileSystem
  const index = makeNearIndex(near)
  for (const { file } of journal.shards) {
    const path = `${folder}/${signatureFile(file)}`
    const signatures = yield* readable(path, fs.readFile(path))
    yield* attempt(path, () => index.addSignature(signatures))
  }
  const { near: clusters } = index.clusters(0)
  const sha256: Record<string, string> = { ...journal.sha256 }
  let first = 0
  for (const { documents, file } of journal.shards) {
    const { idx } = shardFiles(file)
    const path = `${folder}/${idx}`
    const records = withNear(yield* readable(path, fs.readFile(path)), clusters.subarray(first, first + documents))
    sha256[idx] = yield* attempt(path, () => {
      const written = newFile(path)
      written.write(records)
      return written.finish()
    })
    first += documents
  }
  const sizes = new Uint32Array(clusters.length)
  for (const one of clusters) sizes[one]!++
  const large = sizes.filter((size) => size > 1)
  const found = { clusters: large.length, documents: large.reduce((sum, size) => sum + size, 0) }
  const { numHashes, shingle, threshold } = index.config
  return { sha256, near: { threshold, numHashes, shingle, ...found } }
})

const reportOf = (
  folder: string,
  dataset: Dataset,
  { blank: blanks, missing }: Tally,
  speed: Speed | undefined
): TokenizeReport => {
  const { documents, tokens } = dataset
  const bytes = dataset.bytes ?? 0
  return { folder, dataset, documents, tokens, bytes, blanks, missing, tokensPerByte: tokens / bytes, speed }
}

/**
 * Tokenizes documents into shards in the folder `out` (see TokenShards). Killed at any moment, it goes on behind the
 * last finished shard when it is called again with the same configuration, and writes the same bytes as if it had not
 * been killed; a folder that is complete is left as it is, and one where no shard was finished as it was before a failure.
 *
 * Fails with a `DataError` on a bad configuration, bad or changed data, a folder that holds anything else or the shards
 * of another configuration, and when nothing can be written; then finished shards stay.
 */
export const tokenize = (
  input: TokenizeInput,
  options: TokenizeOptions
): Effect.Effect<TokenizeReport, DataError, FileSystem.FileSystem> =>
  Effect.gen(function*() {
    yield* expectOptions(Options, options, "tokenize")
    const { onEvent = () => {}, out: folder, source = stream } = options
    const workers = options.workers ?? Math.max(1, availableParallelism() - 1)
    const fs = yield* FileSystem.FileSystem
    const config = yield* resolved(yield* decodeConfig(TokenizeConfig, input))
    const encoded: unknown = JSON.parse(JSON.stringify(Schema.encodeSync(TokenizeConfig)(config)))
    const journalFile = `${folder}/${JOURNAL}`
    const tokenizerFile = `${folder}/tokenizer.json`

    const removeLeftovers = Effect.gen(function*() {
      const names = yield* readable(folder, fs.readDirectory(folder))
      const extra = names.filter((name) => name === JOURNAL || name.endsWith(".sig") || name.endsWith(TEMPORARY))
      yield* Effect.mapError(
        Effect.forEach(extra, (name) => fs.remove(`${folder}/${name}`), { discard: true }),
        (cause) => fail(folder, `cannot be tidied: ${because(cause)}`, cause)
      )
    })

    yield* takenBack(folder, [JOURNAL, "tokenizer.json"])
    const { finished, journal: found } = yield* examine(folder, encoded)
    if (finished !== undefined) {
      yield* expectUnchanged(folder, finished, config, source)
      yield* removeLeftovers
      return reportOf(folder, finished, { blank: 0, missing: 0 }, undefined)
    }
    let journal: Journal = found ?? { ...EMPTY, config: encoded }
    if (found === undefined) yield* attempt(journalFile, () => writeWhole(journalFile, journalText(journal)))
    else onEvent({ _tag: "Resumed", shards: found.shards.length, documents: found.documents })

    // A trained tokenizer is not trained again; any other must still be the same.
    const saved = journal.tokenizer ? yield* readable(tokenizerFile, fs.readFileString(tokenizerFile)) : undefined
    const tokenizer = saved !== undefined && config.tokenizer === "bpe"
      ? yield* Tokenizer.fromJSON(saved)
      : yield* makeTokenizer(config, source, onEvent)
    if (saved !== undefined && saved !== tokenizer.toJSON()) {
      return yield* fail(tokenizerFile, `is not the tokenizer ${config.tokenizer} any more. Choose another folder`)
    }
    const { bos, eos } = yield* specialIds(tokenizer, config)
    const { vocabSize } = tokenizer
    const dtype = dtypeOf(vocabSize)
    if (saved === undefined) {
      journal = yield* attempt(tokenizerFile, () => {
        const sha256 = { "tokenizer.json": writeWhole(tokenizerFile, tokenizer.toJSON()) }
        const next = { ...journal, tokenizer: true, sha256 }
        writeWhole(journalFile, journalText(next))
        return next
      })
    }
    yield* expectShards(folder, journal, widthOf(dtype))

    const tally: Tally = { missing: 0, blank: 0 }
    const began = performance.now()
    const done = { documents: 0, tokens: 0, bytes: 0 }
    const speed = (): Speed => {
      const seconds = (performance.now() - began) / 1000
      return { ...done, seconds, tokensPerSecond: done.tokens / seconds, bytesPerSecond: done.bytes / seconds }
    }
    const batcher = makeBatcher(folder, journal, options.batch ?? 1 << 18)
    const writer = makeWriter(folder, journal, batcher.sources, {
      dtype,
      shardTokens: config.shardTokens ?? (config.shardBytes === undefined
        ? 100_000_000
        : Math.max(1, Math.floor(config.shardBytes / widthOf(dtype)))),
      numHashes: config.near?.numHashes ?? 0,
      onShard: (shard) => onEvent({ _tag: "Shard", ...shard })
    })

    yield* Effect.scoped(Effect.gen(function*() {
      yield* Effect.addFinalizer(() => Effect.sync(writer.abandon))
      const pool = yield* makePool({ tokenizer: tokenizer.toJSON(), dtype, bos, eos, near: config.near,
        specialAsText: config.specialAsText === true }, workers)
      const batches = Stream.fromIterable(config.data).pipe(
        Stream.flatMap((spec) =>
          Stream.chunks(source(spec, tally)).pipe(
            Stream.mapEffect((chunk) => attempt(folder, () => batcher.add(spec, chunk)))
          )
        ),
        Stream.concat(Stream.fromEffect(Effect.suspend(() => attempt(folder, batcher.end)))),
        Stream.mapConcatChunk(Chunk.unsafeFromArray)
      )
      yield* batches.pipe(
        Stream.mapEffect((batch) => Effect.map(pool.encode(batch.texts), (encoded) => ({ batch, encoded })), {
          concurrency: pool.concurrency
        }),
        Stream.runForEach(({ batch, encoded }) =>
          Effect.zipRight(
            attempt(folder, () => writer.write(batch, encoded)),
            Effect.sync(() => {
              done.documents += batch.names.length
              done.tokens += encoded.tokens.length
              done.bytes += encoded.bytes.reduce((sum, bytes) => sum + bytes, 0)
              onEvent({ _tag: "Progress", ...speed() })
            })
          )
        )
      )
      journal = yield* attempt(folder, writer.finish)
    }))
    if (journal.documents === 0) return yield* new DataError({ detail: "there is no text: every document is blank" })

    if (config.near !== undefined) onEvent({ _tag: "Clustering", documents: journal.documents })
    const near = config.near === undefined ? undefined : yield* cluster(folder, journal, config.near)
    const dataset: Dataset = {
      format: 1,
      tokenizer: "tokenizer.json",
      vocabSize,
      dtype,
      ...(bos === undefined ? {} : { bos }),
      ...(eos === undefined ? {} : { eos }),
      tokens: journal.tokens,
      documents: journal.documents,
      bytes: journal.bytes,
      documentsSha256: batcher.sha256(),
      sources: journal.sources,
      ...batcher.told(journal.sources),
      ...(near === undefined ? {} : { near: near.near }),
      shards: journal.shards,
      sha256: near?.sha256 ?? journal.sha256,
      config: encoded
    }
    yield* attempt(folder, () => writeDataset(folder, dataset))
    yield* removeLeftovers
    const blank = tally.blank + batcher.consumed() - journal.documents
    return reportOf(folder, dataset, { blank, missing: tally.missing }, speed())
  }).pipe(Effect.scoped)
