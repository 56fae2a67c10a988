/**
 * A resumable stream of batches in which every token carries the id of the sequence, document or source it belongs to.
 *
 * It is made of a sample of sequences, or of all documents. Of a sample, the sequences are shuffled before some of them
 * are chosen to be repeated, to be seen once, or to be held out: the three differ in nothing but how often they are
 * trained on. Of all documents, some are held out, and an epoch holds every token of the others, as often as the
 * mixture and the repeated groups say.
 *
 * An epoch is every planned exposure, in an order drawn from the seed and the epoch alone, so any batch can be made
 * without the ones before it, and the same configuration gives the same batches in every process, wherever the tokens
 * come from.
 */
import type * as FileSystem from "@effect/platform/FileSystem"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import type { Batch } from "../../Batch.ts"
import { decodeConfig, expectOptions, nearest } from "../../Config.ts"
import { because, DataError, told } from "../../Errors.ts"
import { keyOf } from "../../Key.ts"
import { named, withFiles } from "../../Missing.ts"
import * as Corpus from "../Corpus.ts"
import type { NamedIds } from "../identity/Names.ts"
import { join, type TokenDocuments } from "../Pieces.ts"
import { sameTokenizer } from "../tokens/SameTokenizer.ts"
import { readTokenizer } from "../tokens/Tokenize.ts"
import * as Tokenizer from "../tokens/Tokenizer.ts"
import * as TokenShards from "../tokens/TokenShards.ts"
import { DataConfig, type DataConfigInput, resolve } from "./DataConfig.ts"
import { assemble, type Cursor, type DataReport, type Loaded, type Plan, type RepeatedGroup } from "./DataPlan.ts"
import { type Input, textSha256, tokensSha256 } from "./Inputs.ts"
import type { Part } from "./Mixture.ts"
import { batchOf, type Row } from "./Packing.ts"
import type { Split } from "./Selection.ts"
import { prepare, prepareAll, type TokenizerFor } from "./TextDocuments.ts"

export { batchOf, DataConfig }
export type { Cursor, DataConfigInput, DataReport, Input, RepeatedGroup, Row, Split, TokenDocuments }

/** What the data holds, and whether that is still so on the disk. */
interface Contents {
  readonly inputs: Effect.Effect<ReadonlyArray<Input>, DataError>
  readonly verify: Effect.Effect<void, DataError>
}

/** Of text, which is in memory as a whole. */
const contentsOfText = (documents: ReadonlyArray<Corpus.Document>, parts: ReadonlyArray<Part>): Contents => {
  const inputs = parts.map(({ end, first, path }): Input => ({ what: path,
    sha256: textSha256(documents.slice(first, end)) })
  )
  return { inputs: Effect.succeed(inputs), verify: Effect.void }
}

/** A configuration without where things are: those are told apart by what they hold. */
const settingsOf = (config: DataConfig): unknown => {
  const { data: _, tokenizer: __, ...settings } = Schema.encodeSync(DataConfig)(config)
  return settings
}

const make = Effect.fnUntraced(function*(loaded: Loaded, plan: Plan, contents: Contents) {
  const { config } = plan
  const inputs = yield* Effect.cached(Effect.map(contents.inputs, (all): ReadonlyArray<Input> => [
    ...all,
    { what: "the tokenizer", sha256: keyOf(loaded.tokenizer.toJSON()) },
    { what: "the data configuration", sha256: keyOf(settingsOf(config)) }
  ]))
  const at = loaded.path === undefined ? {} : { path: loaded.path }
  const assembled = yield* attempt(() => assemble(loaded, plan))
  if (typeof assembled === "string") return yield* new DataError({ ...at, detail: assembled })
  const { batchAt, batchesPerEpoch, groups, maxSegments, names, recurringIds, repeatedIds, report, split } = assembled
  if (batchesPerEpoch === 0) {
    return yield* new DataError({
      ...at,
      detail: plan.kind === "whole"
        ? `there is nothing to train on: ${report.heldOutDocuments} of ${report.documentsAvailable} documents are ` +
          `held out, the others ${plan.packing === "row" ? "are shorter than a row" : "have fewer than 2 tokens"} or ` +
          "are left out by sources"
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
    split: (name) => {
      if (Object.hasOwn(split, name)) return split[name]
      const meant = nearest(name, Object.keys(split))
      throw new DataError({
        detail: `there is no split ${JSON.stringify(name)}: ` +
          (meant === undefined
            ? `there are ${Object.keys(split).join(", ")}`
            : `did you mean ${JSON.stringify(meant)}?`)
      })
    },
    groups,
    repeatedIds: Effect.suspend(() => {
      const ids = repeatedIds()
      return typeof ids !== "string" ? Effect.succeed(ids) : new DataError({
        ...at,
        detail: `${ids}, since an id stands for a ${report.identity}: set identity to "row", or to "document" where ` +
          "whole documents are repeated"
      })
    }),
    recurringIds: Effect.suspend(() => {
      const ids = recurringIds()
      return typeof ids !== "string" ? Effect.succeed(ids) : new DataError({ ...at, detail: ids })
    }),
    names: yield* Effect.cached(attempt(names)),
    report,
    inputs,
    verify: contents.verify
  })
})

/** Runs what may fail to read tokens. */
const attempt = <A>(run: () => A): Effect.Effect<A, DataError> =>
  Effect.try({
    try: run,
    catch: told((cause) => new DataError({ detail: `tokens cannot be read: ${because(cause)}`, cause }))
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

/** A tokenizer that is not trained here. */
const namedTokenizer = (name: string): Effect.Effect<Tokenizer.Tokenizer, DataError, FileSystem.FileSystem> =>
  name === "bytes" ? Effect.succeed(Tokenizer.bytes) : name === "gpt2" ? Tokenizer.gpt2 : readTokenizer(name)

/** The token between documents in shards of nanoGPT and llm.c. */
const GPT2_END = 50256

/** Text, tokenized as the plan needs it. */
const loadText = Effect.fnUntraced(function*<R>(
  documents: ReadonlyArray<Corpus.Document>,
  parts: ReadonlyArray<Part>,
  config: DataConfig,
  tokenizerFor: TokenizerFor<R>
) {
  const plan = yield* planFor(config, "text")
  const path = typeof config.data === "string" ? config.data : undefined
  const contents = contentsOfText(documents, parts)
  if (plan.kind === "whole") {
    const { bytes, corpus, documents: used, tokenizer, tokens } = yield* prepareAll(documents, config, tokenizerFor)
    return yield* make({ corpus, parts, tokenizer, path, documents: used, bytes, tokens, cut: undefined }, plan,
      contents)
  }
  const { bytes, corpus, documents: used, duplicates, pieces, tokenizer, tokens } = yield* prepare(
    documents,
    plan,
    tokenizerFor
  )
  return yield* make(
    { corpus, parts, tokenizer, path, documents: used, bytes, tokens, cut: { pieces, duplicates } },
    plan,
    contents
  )
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
  const fixed = tokenizer === "bpe" ? undefined : yield* namedTokenizer(tokenizer)
  const paths = typeof config.data === "string" ? [config.data] : config.data ?? [undefined]
  const corpora = yield* Effect.forEach(paths, (path) =>
    Corpus.documents(path, {
      textField: config.textField,
      sourceField: config.sourceField,
      ownerField: config.ownerField,
      licenceField: config.licenceField,
      onMissingText: config.onMissingText
    }))
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

/** The tokenizer of the shards of others, which do not name it: what the configuration says, else GPT-2's. */
const foreignTokenizer = Effect.fnUntraced(function*(config: DataConfig, path: string, divided: boolean) {
  const { endOfText, tokenizer } = config
  if (tokenizer !== undefined && tokenizer !== "bpe") return yield* namedTokenizer(tokenizer)
  if (tokenizer === undefined && divided && (endOfText ?? GPT2_END) === GPT2_END) return yield* Tokenizer.gpt2
  const why = tokenizer === "bpe" || divided
    ? ""
    : `, and they have no end-of-text token ${endOfText ?? GPT2_END} of GPT-2`
  return yield* new DataError({
    path,
    detail:
      `these shards do not say which tokenizer made them${why}: set tokenizer to the path of its tokenizer.json, ` +
      `to "gpt2" or "bytes"`
  })
})

/** Token shards, one or several that were made with the same tokenizer. */
const fromShards = Effect.fnUntraced(function*(paths: ReadonlyArray<string>, config: DataConfig) {
  const opened: Array<TokenShards.TokenShards> = []
  let tokenizer: Tokenizer.Tokenizer | undefined
  for (const path of paths) {
    // Without a tokenizer the vocabulary is not known yet: 16 bits hold no more.
    const endOfText = config.endOfText === undefined ? {} : { endOfText: config.endOfText, vocabSize: 2 ** 16 }
    const named = config.tokenizer === undefined || config.tokenizer === "bpe"
      ? {}
      : { vocabSize: (yield* namedTokenizer(config.tokenizer)).vocabSize }
    const shards = yield* Effect.acquireRelease(
      TokenShards.open(path, { ...endOfText, ...named }),
      ({ close }) => Effect.sync(close)
    )
    opened.push(shards)
    for (const field of ["tokenizer", "endOfText"] as const) {
      if (shards.dataset !== undefined && config[field] !== undefined) {
        return yield* new DataError({
          path,
          detail:
            `${field} is ${JSON.stringify(config[field])}, but these tokens were made with a tokenizer of their ` +
            `own. Leave ${field} out`
        })
      }
    }
    const [first, own] = [opened[0]!.tokenizer, shards.tokenizer]
    if (first === undefined || own === undefined ? first !== own : !sameTokenizer(first, own)) {
      return yield* new DataError({ path, detail: `was made with another tokenizer than ${paths[0]}` })
    }
    tokenizer ??= shards.tokenizer === undefined
      ? yield* foreignTokenizer(config, path, shards.documents > shards.sources.length)
      : yield* Tokenizer.fromJSON(shards.tokenizer).pipe(
        Effect.mapError(({ cause, detail }) => new DataError({ path, detail: `no tokenizer: ${detail}`, cause }))
      )
  }
  yield* checkTokens(config, tokenizer!)
  const parts = partsOf(opened.map(({ documents }, i) => [paths[i]!, documents]))
  const bytes = opened.reduce<number | undefined>(
    (sum, { dataset }) => sum === undefined || dataset?.bytes === undefined ? undefined : sum + dataset.bytes,
    0
  )
  return yield* loadTokens(join(opened), parts, tokenizer!, config, bytes, {
    inputs: Effect.succeed(opened.map(({ identity, path }): Input => ({ what: path, sha256: identity }))),
    verify: Effect.forEach(opened, ({ verify }) => verify, { discard: true })
  })
})

const LayerOptions = Schema.Struct({ cacheDirectory: Schema.optional(Schema.String) })

const fromFiles = Effect.fnUntraced(function*(input: DataConfigInput, options: LayerOptions) {
  yield* expectOptions(LayerOptions, options, "DataStream.layer")
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
  if (!Array.isArray(documents) ||
    !documents.every((one) => typeof one?.text === "string" && typeof one.name === "string"))
  {
    return yield* new DataError({ detail: "layerMemory takes a list of documents, each { name, text }, with texts" })
  }
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
      new DataError({
        detail: `vocabSize is ${config.vocabSize}, but the tokens have ${vocabSize}. Leave vocabSize out`
      })
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
  return yield* loadTokens(corpus, partsOf([["tokens", corpus.documents]]), tokenizer, config, undefined, {
    inputs: attempt(() => [{ what: "the tokens", sha256: tokensSha256(corpus) }]),
    verify: Effect.void
  })
})

const loadTokens = Effect.fnUntraced(function*(
  corpus: TokenDocuments,
  parts: ReadonlyArray<Part>,
  tokenizer: Tokenizer.Tokenizer,
  config: DataConfig,
  bytes: number | undefined,
  contents: Contents
) {
  const plan = yield* planFor(config, "tokens")
  let tokens = 0
  for (let d = 0; d < corpus.documents; d++) tokens += corpus.length(d)
  const path = typeof config.data === "string" ? config.data : undefined
  return yield* make(
    { corpus, parts, tokenizer, path, documents: corpus.documents, bytes, tokens, cut: undefined },
    plan,
    contents
  )
})

/** Facts of the machine, not of the experiment. */
export interface LayerOptions {
  /** Where trained tokenizers are remembered. Default: nowhere, they are trained each time. */
  readonly cacheDirectory?: string
}

/**
 * The batches of a training, and the sequences that it is judged by. From text or token shards by `layer`, from texts or
 * tokens at hand by `layerMemory` and `layerTokens`; all fail with a DataError that names the field or the file.
 *
 * @example
 * ```ts
 * import * as Effect from "effect/Effect"
 * import * as Stream from "effect/Stream"
 * import { DataStream } from "memsinks"
 *
 * const texts = ["one fish", "two fish", "red fish", "blue fish"].map((text, i) => ({ name: `page ${i}`, text }))
 *
 * const main = Effect.gen(function*() {
 *   const { batches, batchesPerEpoch, split } = yield* DataStream
 *   console.log(batchesPerEpoch, split("heldOut").length)
 *   yield* batches({ epoch: 0, batch: 0 }).pipe( // without end; the cursor of a batch is where to go on behind it
 *     Stream.take(1),
 *     Stream.runForEach(({ batch, cursor }) =>
 *       Effect.sync(() => console.log(batch.rows, batch.seqLen, batch.tokens.length, cursor.batch))
 *     )
 *   )
 * })
 *
 * const data = DataStream.layerMemory(texts, {
 *   tokenizer: "bytes", seqLen: 7, batchSize: 2,
 *   repeatedSequences: 1, repeats: 4, singleSequences: 2, heldOutSequences: 1
 * })
 * await Effect.runPromise(Effect.provide(main, data))
 * // 3 1
 * // 2 7 14 1
 * ```
 */
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
   * The sequences of a kind; the same in every arm. Of a sample, these are all, and with identity `row` their ids count
   * from 1: first the repeated ones, then the singles, those held out, the canaries.
   *
   * Of all documents it is a random choice: of each repeated group 512 at most (with no group: 512 sequences of
   * documents that have a copy, or a near-duplicate where those share an id), 512 others that are trained on, as many
   * of held-out documents as `heldOutSequences` says, and all canaries. With identity `row` ids count the sequences of
   * the corpus in its order, from 1.
   *
   * Several groups take turns, so that the first few sequences are of all of them. With identity `document`, an id is
   * one plus the place of the document in the corpus.
   */
  readonly split: (name: Split) => ReadonlyArray<Row>
  /** The repeated sequences by group. */
  readonly groups: ReadonlyArray<RepeatedGroup>
  /**
   * Ids of the sequences that are trained on more than once an epoch in arm `repeats`: of groups and of canaries. Fails
   * with a `DataError` where a sequence that is not repeated has one of them, too.
   */
  readonly repeatedIds: Effect.Effect<ReadonlySet<bigint>, DataError>
  /**
   * Ids that an epoch of arm `repeats` shows more than once: of groups and canaries, of copies that share an id, and of what the mixture holds
   * several times. Fails with a `DataError` where an id stands for a source, which is no sequence.
   */
  readonly recurringIds: Effect.Effect<ReadonlySet<bigint>, DataError>
  /**
   * The ids of an epoch and what each is called, which checkpoints keep. Undefined where they are more than 65,536 and
   * stand for no source. Found when first asked for, with one look at every sequence.
   */
  readonly names: Effect.Effect<NamedIds | undefined, DataError>
  readonly report: DataReport
  /**
   * Everything that batches and splits depend on: what each path of `data` holds, the tokenizer, and the configuration
   * besides. Two streams with equal checksums, in order, give the same batches. Of token shards it is their `identity`;
   * `verify` looks whether that is still so.
   */
  readonly inputs: Effect.Effect<ReadonlyArray<Input>, DataError>
  /** Reads every file of token shards; fails with a `DataError` that names the one that has changed. */
  readonly verify: Effect.Effect<void, DataError>
}>() {
  /**
   * Reads the corpus that `data` names, text or tokens. Of token shards the index is read now, and tokens when a batch
   * needs them. Fails with a `DataError` on bad configuration, files, or too little text.
   */
  static readonly layer = (
    config: DataConfigInput = {},
    options: LayerOptions = {}
  ): Layer.Layer<DataStream, DataError, FileSystem.FileSystem> =>
    Layer.scoped(DataStream, withFiles(fromFiles(config, options)))

  /** `layer` for the text at a path. */
  static readonly layerText = (
    path: string,
    overrides: DataConfigInput = {},
    options: LayerOptions = {}
  ): Layer.Layer<DataStream, DataError, FileSystem.FileSystem> =>
    path === undefined
      ? Layer.fail(new DataError({ detail: "DataStream.layerText takes the path of a text, got undefined" }))
      : DataStream.layer({ ...overrides, data: path }, options)

  /** Tokenized documents that are at hand, and the tokenizer they were made with. */
  static readonly layerTokens = (
    corpus: TokenDocuments,
    tokenizer: Tokenizer.Tokenizer,
    config: DataConfigInput = {}
  ): Layer.Layer<DataStream, DataError> => Layer.effect(DataStream, fromTokens(corpus, tokenizer, config))

  /** Documents that are at hand. Reads no file, so `data` and a tokenizer path are refused. */
  static readonly layerMemory = (
    documents: ReadonlyArray<Corpus.Document>,
    config: DataConfigInput = {}
  ): Layer.Layer<DataStream, DataError> => Layer.effect(DataStream, fromMemory(documents, config))
}

named(DataStream, "DataStream", "DataStream.layer(), or DataStream.layerText(path)")
