/**
 * Sinks that survivors have lost, given back: units that were erased although somebody who stays lights them, too, begin afresh,
 * and learn from the data of those survivors alone. By default nothing else moves, so nobody who lost none changes by a bit, and
 * what general neurons know of the deleted is as it was.
 */
import type * as FileSystem from "@effect/platform/FileSystem"
import type * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Checkpoints from "../checkpoints/Checkpoints.ts"
import { modelWith } from "../checkpoints/OpenCheckpoint.ts"
import { atLeast0, decodeWith, natural, positive, rate, seed as seedOf } from "../Config.ts"
import type { Names } from "../data/identity/Names.ts"
import { cut } from "../data/Pieces.ts"
import { batchOf, type Row } from "../data/stream/Packing.ts"
import { endless } from "../data/stream/Rows.ts"
import { sameTokenizer } from "../data/tokens/SameTokenizer.ts"
import type { TokenShards } from "../data/tokens/TokenShards.ts"
import { type CheckpointError, DataError, type DeviceError, type Diverged, type KernelError } from "../Errors.ts"
import { Device } from "../gpu/Device.ts"
import type { HostTensor } from "../HostTensor.ts"
import { Model } from "../model/Model.ts"
import { ModelConfig } from "../model/ModelConfig.ts"
import { Sha256 } from "../Paths.ts"
import { random } from "../Random.ts"
import { dataOf, originOf, runAbove } from "../runs/Runs.ts"
import { scoreRows, summarize } from "../scoring/Score.ts"
import * as Sink from "../Sink.ts"
import { OptimizerConfig } from "../train/Optimizer.ts"
import { readMoments, writeMoments } from "../train/Resume.ts"
import { makeTuner } from "../train/Tuner.ts"
import { isCopy } from "./Copies.ts"

type Tensors = Readonly<Record<string, HostTensor>>

/** What moves: the fresh units (default), all sinks that the survivors light, or the whole model. */
export const trained = ["fresh", "sinks", "all"] as const

/** How survivors are refreshed. */
export interface RefreshOptions {
  /** Where their texts are: token shards of the model's tokenizer. */
  readonly corpus: TokenShards
  readonly device: Layer.Layer<Device, DeviceError>
  /** Default 100. */
  readonly steps?: number
  /** Peak of a cosine. Default: that of the run, else of `OptimizerConfig`. */
  readonly learningRate?: number
  /** Rows of a batch, and tokens of a row. Default: those of the run, else 8 of 64. */
  readonly batchSize?: number
  readonly seqLen?: number
  /** Of the fresh weights, and of the order of texts. Default 1. */
  readonly seed?: number
  /** Default `fresh`. */
  readonly train?: typeof trained[number]
  /** Steps after which it can go on where it was killed. Default 25. */
  readonly saveEvery?: number
  /** Told after each step. */
  readonly onStep?: (step: number, steps: number, loss: number) => Effect.Effect<void>
}

const Losses = Schema.Struct({ before: atLeast0, erased: atLeast0, after: atLeast0 })

/** What was done, as the ledger keeps it. */
export const Refreshed = Schema.Struct({
  /** Units that began afresh, survivors that light some of them, and those of them whose texts there were. */
  units: natural,
  survivors: natural,
  withText: natural,
  train: Schema.Literal(...trained),
  steps: positive,
  learningRate: rate,
  batchSize: positive,
  seqLen: positive,
  seed: seedOf,
  /** The checksum of the data. */
  data: Sha256,
  /**
   * Mean losses in nats a token, of up to 64 rows, with own sinks: before, after erasing, after training. `deleted`: as if
   * nobody denied it, where there is text of it.
   */
  loss: Schema.Struct({ survivors: Losses, deleted: Schema.optionalWith(Losses, { exact: true }) })
})
export type Refreshed = typeof Refreshed.Type

type Losses = typeof Losses.Type

export type RefreshError = DeviceError | KernelError | DataError | CheckpointError | Diverged

/** A refresh that can begin. */
export interface Prepared {
  readonly units: ReadonlySet<number>
  readonly settings: Omit<Refreshed, "loss">
  readonly optimizer: OptimizerConfig
  readonly options: RefreshOptions
  /** How many rows there are to train on, and each of them. */
  readonly rows: number
  readonly row: (i: number) => Row
  /** Rows of the deleted. */
  readonly deleted: ReadonlyArray<Row>
}

/** Rows that losses are of, at most. */
const SCORED = 64

const few = (count: number, seed: number, what: string): ReadonlyArray<number> =>
  random(seed, "refresh", what).shuffle(Array.from({ length: count }, (_, i) => i)).slice(0, SCORED)
    .sort((a, b) => a - b)

/**
 * Finds the texts of the survivors that light some of the units. Fails with a DataError where there are none, or they are of
 * another tokenizer; documents that are equal or near to one of the deleted are left out, since they would bring it back.
 */
export const prepare = (
  model: {
    readonly path: string
    readonly config: ModelConfig
    readonly names: Names
    readonly tokenizer: string | undefined
  },
  gone: ReadonlyMap<bigint, string>,
  units: ReadonlyArray<number>,
  options: RefreshOptions
): Effect.Effect<Prepared, DataError> =>
  Effect.gen(function*() {
    const { corpus, seed = 1, steps = 100, train = "fresh" } = options
    const { config, names, path, tokenizer } = model
    const refuse = (detail: string) => new DataError({ path: corpus.path, detail })
    if (names.identity !== "source") {
      return yield* new DataError({
        path,
        detail:
          `its ids stand for a ${names.identity}, and survivors are refreshed by source: erase instead, and train further`
      })
    }
    if (corpus.tokenizer === undefined || tokenizer === undefined || !sameTokenizer(corpus.tokenizer, tokenizer)) {
      return yield* refuse(
        "is not of the model's tokenizer, or does not say so: survivors are refreshed on tokens that the model knows. " +
          `Tokenize it with --tokenizer ${path}/tokenizer.json`
      )
    }
    const fresh = new Set(units)
    const sinks = config.sinks!
    let survivors = 0
    const touched = new Map<string, bigint>()
    yield* names.each(({ id, name }) => {
      if (gone.has(id) || Sink.isDenied(sinks, id) || !Sink.unitsOf(sinks, id).some((unit) => fresh.has(unit))) return
      survivors++
      touched.set(name, id)
    })
    const origin = originOf(path)
    const run = runAbove(origin)
    const data = run === undefined ? {} : dataOf(run, origin)
    const asked = Object(Object(run?.config).training).optimizer as unknown
    const trainedWith = Either.getOrElse(decodeWith(OptimizerConfig, asked ?? {}), () => new OptimizerConfig())
    const seqLen = Math.min(options.seqLen ?? data.seqLen ?? 64, config.maxPositionEmbeddings)
    const pieces = cut(corpus, { width: seqLen + 1, stride: seqLen, shortest: Math.min(seqLen + 1, 8) })
    const idOf = corpus.sources.map((name) => touched.get(name))
    const names_ = new Set(gone.values())
    const isTheirs = corpus.sources.map((name) => names_.has(name))
    const copies = isCopy(corpus, names_)
    const mine: Array<number> = []
    const theirs: Array<number> = []
    const met = new Set<bigint>()
    for (const [piece, document] of pieces.document.entries()) {
      const source = corpus.source(document)
      if (isTheirs[source]!) theirs.push(piece)
      const id = idOf[source]
      if (id === undefined || copies?.(document) !== undefined) continue
      met.add(id)
      mine.push(piece)
    }
    if (mine.length === 0) {
      return yield* refuse(
        `holds no text of the survivors that lose sinks (such as ${
          [...touched.keys()].slice(0, 3).map((name) => JSON.stringify(name)).join(", ")
        }): they can only be refreshed on their own`
      )
    }
    const row = (piece: number, id: bigint): Row => {
      const [document, offset] = [pieces.document[piece]!, pieces.offset[piece]!]
      const tokens = corpus.read(document, offset, Math.min(seqLen + 1, corpus.length(document) - offset))
      return { id, tokens: Uint32Array.from(tokens), document: corpus.name(document), offset }
    }
    const sourceOf = (piece: number) => corpus.source(pieces.document[piece]!)
    const idOfGone = new Map([...gone].map(([id, name]) => [name, id]))
    return {
      units: fresh,
      settings: {
        units: units.length,
        survivors,
        withText: met.size,
        train,
        steps,
        learningRate: options.learningRate ?? trainedWith.learningRate,
        batchSize: Math.min(options.batchSize ?? data.batchSize ?? 8, mine.length),
        seqLen,
        seed,
        data: corpus.identity
      },
      optimizer: trainedWith,
      options,
      rows: mine.length,
      row: (i) => row(mine[i]!, idOf[sourceOf(mine[i]!)]!),
      deleted: few(theirs.length, seed, "deleted").map((i) =>
        row(theirs[i]!, idOfGone.get(corpus.sources[sourceOf(theirs[i]!)]!)!)
      )
    }
  })

const meanLoss = (rows: ReadonlyArray<Row>, { batchSize, seqLen }: Prepared["settings"]) =>
  Effect.gen(function*() {
    const scores = yield* scoreRows(yield* Model, rows, Sink.own, { batchSize: Math.min(batchSize, rows.length),
      seqLen })
    return summarize(scores)!.loss
  })

/** Losses of rows by each of several weights. */
const lossesOf = (rows: ReadonlyArray<Row>, prepared: Prepared, all: Readonly<Record<keyof Losses, Tensors>>) =>
  Effect.gen(function*() {
    const { importTensors } = yield* Model
    const loss = (tensors: Tensors) => Effect.zipRight(importTensors(tensors), meanLoss(rows, prepared.settings))
    return { before: yield* loss(all.before), erased: yield* loss(all.erased), after: yield* loss(all.after) }
  })

const isMlp = (name: string): boolean => /\.mlp\.(gate|up|down)_proj\.weight/.test(name)

const only = (tensors: Tensors, keep: (name: string) => boolean): Tensors =>
  Object.fromEntries(Object.entries(tensors).filter(([name]) => keep(name)))

/**
 * Trains the fresh units of `erased`, whose configuration is `config`. Killed, it goes on from what it left in `folder`. Gives
 * the weights, and what the ledger keeps; `before` are the weights before the deletion, for their losses.
 */
export const refresh = (
  config: ModelConfig,
  { before, erased }: { readonly before: Tensors; readonly erased: Tensors },
  prepared: Prepared,
  folder: string
): Effect.Effect<
  { readonly tensors: Tensors; readonly refreshed: Refreshed },
  RefreshError,
  FileSystem.FileSystem | Path.Path
> =>
  Effect.gen(function*() {
    const { deleted, options, row, settings, units } = prepared
    const { batchSize, learningRate, seed, seqLen, steps, train } = settings
    const whole = train === "all"
    const kept = yield* Effect.provide(Checkpoints.Checkpoints,
      Checkpoints.Checkpoints.layerFileSystem(folder, { resume: true, keepLast: 1, keepBest: false }))
    const last = (yield* kept.list).at(-1)
    const saved = last === undefined ? undefined : yield* kept.load(last.step)
    const tuned = Effect.gen(function*() {
      const model = yield* Model
      const device = yield* Device
      yield* model.importTensors({ ...erased, ...saved?.model })
      const tuner = yield* makeTuner({
        rows: batchSize,
        seqLen,
        steps,
        from: last?.step ?? 0,
        optimizer: new OptimizerConfig({
          ...prepared.optimizer,
          learningRate,
          schedule: "cosine",
          warmupSteps: Math.round(0.05 * steps),
          sinks: "lazy",
          ...(whole ? {} : { weightDecay: 0 })
        }),
        ...(train === "fresh" ? { units } : {}),
        ...(whole
          ? {}
          : {
            update: { general: false, sinks: true, rest: false },
            trainable: (name: string) => /\.(gateUp|down)$/.test(name)
          })
      })
      const moving = { device, model, optimizer: tuner.optimizer }
      if (saved !== undefined) yield* writeMoments(moving, saved.optimizer, folder)
      const next = endless(Array.from({ length: prepared.rows }, (_, i) => i), random(seed, "refresh"))
      let taken = last?.step ?? 0
      next(taken * batchSize)
      const save = Effect.gen(function*() {
        const tensors = yield* model.exportTensors
        yield* kept.save({
          step: taken,
          config: {},
          model: whole ? tensors : only(tensors, isMlp),
          optimizer: yield* readMoments(moving),
          trainerState: settings,
          tokenizer: undefined
        })
      })
      const every = options.saveEvery ?? 25
      const step = Effect.gen(function*() {
        const { loss } = yield* tuner.step(batchOf(next(batchSize).map(row), seqLen))
        taken++
        const scored = loss.filter((one) => one > 0)
        yield* options.onStep?.(taken, steps, scored.reduce((a, b) => a + b, 0) / Math.max(1, scored.length)) ??
          Effect.void
        if (taken % every === 0 || taken === steps) yield* save
      })
      // interrupted, it goes on from where it is; killed, from where it was saved
      yield* Effect.whileLoop({ while: () => taken < steps, body: () => Effect.uninterruptible(step), step: () => {} })
        .pipe(Effect.onInterrupt(() => taken === 0 ? Effect.void : Effect.ignore(save)))
      const tensors = yield* model.exportTensors
      const rows = few(prepared.rows, seed, "survivors").map(row)
      return { tensors, survivors: yield* lossesOf(rows, prepared, { before, erased, after: tensors }) }
    })
    const on = (config: ModelConfig) => Layer.provideMerge(modelWith(config, erased), options.device)
    const { survivors, tensors } = yield* Effect.scoped(Effect.provide(tuned, on(config)))
    const { denied: _, ...sinks } = { ...config.sinks! }
    const open = new ModelConfig({ ...config, sinks: new Sink.SinkConfig(sinks) })
    const theirs = deleted.length === 0
      ? undefined
      : yield* Effect.scoped(Effect.provide(lossesOf(deleted, prepared, { before, erased, after: tensors }), on(open)))
    return {
      tensors,
      refreshed: { ...settings, loss: { survivors, ...(theirs === undefined ? {} : { deleted: theirs }) } }
    }
  })
