/**
 * What a checkpoint makes of data, with its sinks in several states side by side: loss, perplexity, bits per byte,
 * accuracy of the next token, and how many sequences it says verbatim. Of the run's own data by split, of any other by
 * source.
 */
import type * as FileSystem from "@effect/platform/FileSystem"
import type * as Path from "@effect/platform/Path"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import { openCheckpoint } from "../src/checkpoints/OpenCheckpoint.ts"
import { contentHash, documentIds, type Identity, sourceHash } from "../src/data/identity/Identity.ts"
import { foreignIds, type Names } from "../src/data/identity/Names.ts"
import { cut, type TokenDocuments } from "../src/data/Pieces.ts"
import * as Source from "../src/data/Source.ts"
import type { DataConfigInput } from "../src/data/stream/DataConfig.ts"
import { DataStream, type Row } from "../src/data/stream/DataStream.ts"
import { sameTokenizer } from "../src/data/tokens/SameTokenizer.ts"
import { textBytes } from "../src/data/tokens/TextBytes.ts"
import { gpt2 } from "../src/data/tokens/Tokenizer.ts"
import type { Tokenizer } from "../src/data/tokens/Tokenizer.ts"
import * as TokenShards from "../src/data/tokens/TokenShards.ts"
import { type CheckpointError, DataError, type DeviceError, type KernelError } from "../src/Errors.ts"
import { Device } from "../src/gpu/Device.ts"
import type { TextEnds } from "../src/model/HuggingFace.ts"
import { Model } from "../src/model/Model.ts"
import { random } from "../src/Random.ts"
import { dataOf, originOf, runAbove } from "../src/runs/Runs.ts"
import { type RowScore, scoreRows, summarize } from "../src/scoring/Score.ts"
import * as Sink from "../src/Sink.ts"

/** States of the sinks that are compared; see Sink.SinkMode. */
export type EvaluatedSinks = Sink.State

/** What is evaluated on, and how. All but the device has a default. */
export interface EvaluateOptions {
  readonly device: Layer.Layer<Device, DeviceError>
  /**
   * Text (a file, a folder, .jsonl, .parquet) or token shards of the checkpoint's tokenizer. Default: what the run that
   * saved the checkpoint was trained and validated on, by split.
   */
  readonly data?: string
  /** Field of JSONL and Parquet that says which source a text is from. Default: its file is. */
  readonly sourceField?: string
  /** Of text: names of special tokens in it are text like any other. Default false: a text that spells one has it. */
  readonly specialAsText?: boolean
  /** Default: own, off and placebo; no own where nothing says whose they are, off alone where there are no sinks. */
  readonly sinks?: ReadonlyArray<EvaluatedSinks>
  /** Whose sinks are a document's own, for `data`. Default: as the run's data has it. */
  readonly identity?: Identity
  /** Tokens a sequence is scored on at most. Default: as in training, else 512, or what the model has positions for. */
  readonly seqLen?: number
  /** Sequences at once. Default 8. */
  readonly batchSize?: number
  /** Of each split, or of the data, as many sequences as this, drawn by the seed. Default 512. */
  readonly sequences?: number
  /** Tokens that are given before a sequence must be said verbatim. Default 16. */
  readonly promptTokens?: number
  /** Default 1. */
  readonly seed?: number
  readonly precision?: "f32" | "f16"
  readonly cacheDirectory?: string
  /** Told after every batch. */
  readonly onProgress?: (done: number, of: number) => Effect.Effect<void>
}

/** What a model makes of a set of sequences, in one state of its sinks. */
export interface Score {
  /** Mean negative log-likelihood in nats a token. */
  readonly loss: number
  /** exp(loss). */
  readonly perplexity: number
  /**
   * Bits of log-likelihood a UTF-8 byte of the text that is scored; comparable between tokenizers. Special tokens, as that
   * of the end of a text, are no text: neither their loss nor a byte of theirs counts. Left out where the tokens do not say
   * how many bytes the text has: a normalizer changed it, or they stand for what the vocabulary does not have.
   */
  readonly bitsPerByte?: number
  /** Share of tokens that are the likeliest. */
  readonly accuracy: number
  /**
   * Share of sequences longer than the prompt whose other tokens are all the likeliest: said verbatim. Left out where no
   * sequence is.
   */
  readonly extraction?: number
}

/** The scores of all sequences, of one split, or of one source, by the states of the sinks. */
export interface EvaluatedGroup {
  readonly by: "all" | "split" | "source"
  readonly name: string
  /** Of a source: the id it has by identity `source`, and whether the model was trained with it, where that is known. */
  readonly id?: string
  readonly trained?: boolean
  readonly sequences: number
  /** Tokens that are scored, and bytes of their text; left out where the tokens do not say. */
  readonly tokens: number
  readonly bytes?: number
  readonly scores: Readonly<Partial<Record<EvaluatedSinks, Score>>>
}

/** What `memsinks evaluate --json` prints. */
export interface EvaluationReport {
  readonly checkpoint: string
  readonly step: number | undefined
  readonly data: string
  readonly adapter: string
  readonly sinks: ReadonlyArray<EvaluatedSinks>
  /** Whose sinks are `own`, where they are compared and the run or the caller says so. */
  readonly identity: Identity | undefined
  /** Tokens of a row: those that stand before the last scored one at most. The longer, the lower losses tend to be. */
  readonly seqLen: number
  /** The same in the training of the run that the checkpoint lies in; undefined where it lies in none. */
  readonly trainedSeqLen: number | undefined
  readonly promptTokens: number
  /**
   * Of data by source: all of it, then its sources, that with most tokens first. A source of which no sequence was drawn
   * has 0 of them, and no scores.
   */
  readonly groups: ReadonlyArray<EvaluatedGroup>
  /** Sequences that there are, of which those of `groups` were drawn. */
  readonly available: number
  readonly seconds: number
}

/** What an evaluation fails with: the device, a kernel, the data or the checkpoint. */
export type EvaluateError = DeviceError | KernelError | DataError | CheckpointError

/** Sequences to score, read when it is their turn, and the groups that each is in. */
interface Task {
  readonly data: string
  readonly groups: ReadonlyArray<Pick<EvaluatedGroup, "by" | "name">>
  readonly count: number
  readonly available: number
  readonly row: (i: number) => Row
  readonly groupsOf: (i: number) => ReadonlyArray<number>
  /** Of text that is at hand: whether the tokens of a sequence's document give back that very text. */
  readonly isWhole?: (i: number) => boolean
}

/** `count` of the numbers below `n` (all, where there are no more), drawn and then in rising order. */
const draw = (n: number, count: number, seed: number, what: string): Uint32Array => {
  const numbers = Uint32Array.from({ length: n }, (_, i) => i)
  return n <= count ? numbers : random(seed, "evaluate", what).shuffle(numbers).slice(0, count).sort()
}

/** The splits of the data that a run was trained on. */
const ownData = Effect.fnUntraced(function*(
  config: DataConfigInput,
  tokenizer: Tokenizer,
  options: EvaluateOptions
) {
  const stream = yield* Effect.provide(
    DataStream,
    DataStream.layer(config, options.cacheDirectory === undefined ? {} : { cacheDirectory: options.cacheDirectory })
  )
  if (!sameTokenizer(stream.tokenizer.toJSON(), tokenizer.toJSON())) {
    return yield* new DataError({
      detail: "the data of the run is not what it was: its tokenizer comes out different. Name other data with --data"
    })
  }
  const { seed = 1, sequences = 512 } = options
  const splits = (["repeated", "heldOut", "singles", "canaries"] as const).flatMap((name) => {
    const rows = stream.split(name)
    const drawn = Array.from(draw(rows.length, sequences, seed, name), (i) => rows[i]!)
    return drawn.length === 0 ? [] : [{ name, rows: drawn }]
  })
  const available = (["repeated", "heldOut", "singles", "canaries"] as const).reduce(
    (sum, name) => sum + stream.split(name).length,
    0
  )
  const rows = splits.flatMap(({ rows }, split) => rows.map((row) => ({ row, split })))
  return {
    data: typeof config.data === "string" ? config.data : "the run's data",
    groups: splits.map(({ name }) => ({ by: "split" as const, name })),
    count: rows.length,
    available,
    row: (i: number) => rows[i]!.row,
    groupsOf: (i: number) => [rows[i]!.split]
  } satisfies Task
})

/** Text as tokenized documents, each behind what its tokenizer puts before a text. */
const textDocuments = Effect.fnUntraced(function*(
  path: string,
  { sourceField, specialAsText = false }: Pick<EvaluateOptions, "sourceField" | "specialAsText">,
  tokenizer: Tokenizer,
  { addBos, bos }: TextEnds
) {
  const spec = { path, ...(sourceField === undefined ? {} : { sourceField }) }
  const documents = Chunk.toReadonlyArray(yield* Stream.runCollect(Source.stream(spec)))
  const ids = documents.map(({ text }) => {
    const tokens = tokenizer.encode(text, { specialAsText })
    if (!addBos || bos === undefined) return tokens
    const all = new Uint32Array(tokens.length + 1)
    all[0] = bos
    all.set(tokens, 1)
    return all
  })
  const sources = [...new Set(documents.map(({ source }) => source))]
  const places = new Map(sources.map((name, i) => [name, i]))
  const whole = new Map<number, boolean>()
  const corpus = {
    documents: documents.length,
    length: (document) => ids[document]!.length,
    read: (document, offset, length) => ids[document]!.slice(offset, offset + length),
    name: (document) => documents[document]!.name,
    sources,
    source: (document) => places.get(documents[document]!.source)!,
    content: (document) => contentHash(documents[document]!.text)
  } satisfies TokenDocuments
  const isWhole = (document: number): boolean => {
    let is = whole.get(document)
    if (is === undefined) {
      const tokens = ids[document]!
      is = tokenizer.decode(addBos && bos !== undefined ? tokens.subarray(1) : tokens) === documents[document]!.text
      whole.set(document, is)
    }
    return is
  }
  return { corpus, isWhole }
})

/** Token shards, if they are of the model's tokenizer; of those of others, which do not say whose they are, as far as is known. */
const openShards = Effect.fnUntraced(
  function*(path: string, tokenizer: Tokenizer, trained: DataConfigInput | undefined) {
    const shards = yield* Effect.acquireRelease(
      TokenShards.open(path, { vocabSize: tokenizer.vocabSize }),
      ({ close }) => Effect.sync(close)
    )
    if (shards.tokenizer !== undefined && !sameTokenizer(shards.tokenizer, tokenizer.toJSON())) {
      return yield* new DataError({
        path,
        detail:
          "was made with another tokenizer than the model's, so its tokens mean other text: tokenize the text with " +
          "the checkpoint's tokenizer.json (memsinks tokenize --tokenizer)"
      })
    }
    // whoever trained on such shards has said what made them, or they were GPT-2's
    const before = trained?.tokenizer === undefined ? [] : [trained.data ?? []].flat()
    const wasSaid = Effect.exists(before, (path) => Effect.orElseSucceed(TokenShards.isTokens(path), () => false))
    if (shards.tokenizer === undefined && !(yield* wasSaid)) {
      const known = yield* Effect.option(gpt2)
      if (Option.isNone(known) || !sameTokenizer(known.value.toJSON(), tokenizer.toJSON())) {
        return yield* new DataError({
          path,
          detail:
            "does not say which tokenizer made it, as shards of nanoGPT and llm.c do not, and the model's is not " +
            "GPT-2's: tokenize the text with the checkpoint's tokenizer.json (memsinks tokenize --tokenizer)"
        })
      }
    }
    return shards
  }
)

/**
 * Text or token shards as documents in a model's tokens; shards are closed with the scope. `trained`: what the model was
 * trained on, where that is known.
 */
export const openCorpus = Effect.fnUntraced(function*(
  path: string,
  tokenizer: Tokenizer,
  ends: TextEnds,
  trained: DataConfigInput | undefined,
  options: Pick<EvaluateOptions, "sourceField" | "specialAsText"> = {}
) {
  const isTokens = yield* TokenShards.isTokens(path)
  if (isTokens && options.specialAsText === true) {
    const detail = "is tokenized: --special-as-text is for text, and for memsinks tokenize"
    return yield* new DataError({ path, detail })
  }
  const opened: { readonly corpus: TokenDocuments; readonly isWhole?: (document: number) => boolean } = isTokens
    ? { corpus: yield* openShards(path, tokenizer, trained) }
    : yield* textDocuments(path, options, tokenizer, ends)
  return opened
})

/** Other data, cut into sequences that hold every token once as a target but the first of a document. */
const otherData = Effect.fnUntraced(function*(
  path: string,
  seqLen: number,
  identity: Exclude<Identity, "row">,
  tokenizer: Tokenizer,
  ends: TextEnds,
  trained: DataConfigInput | undefined,
  names: Names | undefined,
  options: EvaluateOptions
) {
  const { corpus, isWhole } = yield* openCorpus(path, tokenizer, ends, trained, options)
  const pieces = cut(corpus, { width: seqLen + 1, stride: seqLen, shortest: 2 })
  if (pieces.document.length === 0) {
    return yield* new DataError({ path, detail: "holds no document of two tokens or more: there is nothing to score" })
  }
  const foreign = names === undefined || identity !== "source" ? undefined : yield* foreignIds(names, corpus.sources)
  const idOf = documentIds(identity, corpus, foreign)
  if (idOf === undefined) {
    const detail = `does not say which documents are the same for identity ${identity}: choose another --identity`
    return yield* new DataError({ path, detail })
  }
  const numbers = draw(pieces.document.length, options.sequences ?? 512, options.seed ?? 1, "data")
  const apart = corpus.sources.length > 1
  return {
    data: path,
    groups: [
      { by: "all" as const, name: "all" },
      ...(apart ? corpus.sources.map((name) => ({ by: "source" as const, name })) : [])
    ],
    count: numbers.length,
    available: pieces.document.length,
    row: (i: number) => {
      const [document, offset] = [pieces.document[numbers[i]!]!, pieces.offset[numbers[i]!]!]
      const length = Math.min(seqLen + 1, corpus.length(document) - offset)
      const tokens = corpus.read(document, offset, length)
      return { id: idOf(document), tokens, document: corpus.name(document), offset }
    },
    groupsOf: (i: number) => apart ? [0, 1 + corpus.source(pieces.document[numbers[i]!]!)] : [0],
    ...(isWhole === undefined ? {} : { isWhole: (i: number) => isWhole(pieces.document[numbers[i]!]!) })
  } satisfies Task
})

/** Fails with a DataError for a number, by its name, that is not whole, below 1 or above `most`, a model's positions. */
export const requireWhole = (
  numbers: Readonly<Record<string, number>>,
  most = Infinity
): Effect.Effect<void, DataError> =>
  Effect.forEach(Object.entries(numbers), ([name, value]) =>
    Number.isSafeInteger(value) && value >= 1 && value <= most
      ? Effect.void
      : new DataError({
        detail: most === Infinity
          ? `${name} must be a whole number of at least 1, got ${value}`
          : `${name} must be a whole number from 1 to the model's maxPositionEmbeddings of ${most}, got ${value}`
      }), { discard: true })

/**
 * Score a checkpoint on its run's own data, or on other data. Fails with a DataError for data that cannot be read, for
 * tokens beyond the model's vocabulary, and for states of the sinks that the model or the data does not have.
 */
export const evaluate = (
  checkpointPath: string,
  options: EvaluateOptions
): Effect.Effect<EvaluationReport, EvaluateError, FileSystem.FileSystem | Path.Path> =>
  Effect.gen(function*() {
    const began = performance.now()
    const checkpoint = yield* openCheckpoint(checkpointPath, { precision: options.precision ?? "f32" })
    const { config, names, path, step, tokenizer } = checkpoint
    if (tokenizer === undefined) {
      const detail = "holds no tokenizer.json, and data needs one: put it beside config.json"
      return yield* new DataError({ path, detail })
    }
    const { batchSize = 8, promptTokens = 16 } = options
    yield* requireWhole({ batchSize, promptTokens, sequences: options.sequences ?? 1 })
    const origin = originOf(path)
    const run = runAbove(origin)
    const trained = run === undefined ? undefined : dataOf(run, origin)
    if (options.data === undefined && trained === undefined) {
      const detail = "lies in no folder of a run that says what it was trained on: name data with --data"
      return yield* new DataError({ path, detail })
    }
    if (options.data === undefined && options.specialAsText === true) {
      return yield* new DataError({ detail: "the run's own data is read as it was: --special-as-text is for --data" })
    }
    if (options.data === undefined && (options.seqLen !== undefined || options.identity !== undefined)) {
      const detail = "the run's own data has its own sequences and ids: leave --seq and --identity out, or name " +
        "other data with --data"
      return yield* new DataError({ detail })
    }
    const seqLen = options.seqLen ??
      (trained === undefined ? Math.min(512, config.maxPositionEmbeddings) : trained.seqLen ?? 64)
    yield* requireWhole({ seqLen }, config.maxPositionEmbeddings)
    if (config.sinks === undefined && options.sinks?.some((sinks) => sinks !== "off")) {
      return yield* new DataError({ path, detail: "the model has no sinks that could be on: leave --sinks out" })
    }
    const said = options.identity ?? trained?.identity
    // sinks of rows are those of the run's own sequences
    const identity = said === "row" ? undefined : said
    const known = options.data === undefined || identity !== undefined
    const modes: ReadonlyArray<EvaluatedSinks> = config.sinks === undefined
      ? ["off"]
      : options.sinks ?? (known ? ["own", "off", "placebo"] : ["off", "placebo"])
    if (modes.includes("own") && !known) {
      const detail = said === "row"
        ? "own sinks are here those of the run's own sequences: leave --data out to score them"
        : "nothing says whose sinks the data lights: say it with --identity"
      return yield* new DataError({ path, detail })
    }

    return yield* Effect.gen(function*() {
      const task: Task = options.data === undefined
        ? yield* ownData(trained!, tokenizer, options)
        : yield* otherData(options.data, seqLen, identity ?? "document", tokenizer, checkpoint.ends, trained, names,
          options)
      const model = yield* Model
      const device = yield* Device
      const sizes = textBytes(tokenizer)
      const silent = new Set(tokenizer.specialTokens.values())
      const totals = task.groups.map(() => ({
        sequences: 0,
        bytes: 0,
        of: Object.fromEntries(modes.map((mode) => [mode, []])) as unknown as Record<EvaluatedSinks, Array<RowScore>>
      }))
      const size = Math.min(batchSize, task.count)
      for (let first = 0; first < task.count; first += size) {
        const count = Math.min(size, task.count - first)
        const rows = Array.from({ length: count }, (_, r) => task.row(first + r))
        rows.forEach(({ tokens }, r) => {
          const isKnown = sizes.exact || task.isWhole?.(first + r) === true
          const bytes = isKnown ? sizes.of(tokens, 1) : NaN
          for (const group of task.groupsOf(first + r)) {
            const total = totals[group]!
            total.sequences++
            total.bytes += bytes
          }
        })
        for (const mode of modes) {
          const scores = yield* scoreRows(model, rows, Sink.states[mode].mode, {
            batchSize: size,
            seqLen,
            promptTokens,
            silent
          })
          scores.forEach((score, r) => {
            for (const group of task.groupsOf(first + r)) totals[group]!.of[mode].push(score)
          })
        }
        yield* options.onProgress?.(first + count, task.count) ?? Effect.void
      }
      /** A source's id, and whether the model knows it. */
      const sources = identity === "source" ? task.groups.filter(({ by }) => by === "source") : []
      const foreign = names === undefined ? undefined : yield* foreignIds(names, sources.map(({ name }) => name))
      const ids = new Map(yield* Effect.forEach(
        sources,
        ({ name }) => {
          const id = foreign?.get(name) ?? sourceHash(name)
          return Effect.map(names === undefined ? Effect.succeed(undefined) : names.get(id), (found) =>
            [name, {
              id: `${id}`,
              ...(names === undefined || names.identity !== "source" ? {} : { trained: found !== undefined })
            }] as const)
        }
      ))
      return {
        checkpoint: path,
        step,
        data: task.data,
        adapter: device.name,
        sinks: modes,
        identity: modes.includes("own") ? said : undefined,
        seqLen,
        trainedSeqLen: trained === undefined ? undefined : trained.seqLen ?? 64,
        promptTokens,
        groups: task.groups.flatMap((group, i) => {
          const { bytes, of, sequences } = totals[i]!
          const size = Number.isNaN(bytes) ? {} : { bytes }
          if (sequences === 0) {
            // a source of which nothing was drawn is told all the same
            return group.by === "source"
              ? [{ ...group, ...ids.get(group.name), sequences, tokens: 0, ...size, scores: {} }]
              : []
          }
          let tokens = 0
          const scores = Object.fromEntries(modes.map((mode) => {
            const all = summarize(of[mode])!
            tokens = all.tokens
            return [mode, {
              loss: all.loss,
              perplexity: Math.exp(all.loss),
              ...(bytes > 0
                ? { bitsPerByte: of[mode].reduce((sum, { textLoss }) => sum + textLoss, 0) / Math.LN2 / bytes }
                : {}),
              accuracy: all.accuracy,
              ...(all.extractionRate === undefined ? {} : { extraction: all.extractionRate })
            }]
          }))
          return [{ ...group, ...(group.by === "source" ? ids.get(group.name) : {}), sequences, tokens, ...size,
            scores }]
        }).sort((a, b) => (a.by === "source" && b.by === "source" ? b.tokens - a.tokens : 0)),
        available: task.available,
        seconds: (performance.now() - began) / 1000
      }
    }).pipe(Effect.provide(checkpoint.layer), Effect.provide(options.device))
  }).pipe(Effect.scoped)
