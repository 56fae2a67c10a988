/**
 * Models of an isolation experiment: trained once, opened to be looked at, and what is recorded of them.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { Checkpoints, type HostTensor } from "../../src/checkpoints/Checkpoints.ts"
import { DataStream, type Row } from "../../src/data/stream/DataStream.ts"
import type { CheckpointError, DataError, DeviceError, KernelError } from "../../src/Errors.ts"
import * as Generate from "../../src/model/Generate.ts"
import { Device } from "../../src/gpu/Device.ts"
import type { Machine } from "../../src/gpu/Machine.ts"
import { keyOf } from "../../src/Key.ts"
import type { Window } from "../../src/measures/Extraction.ts"
import { recordRows } from "../../src/scoring/Record.ts"
import * as TokenRecords from "../../src/measures/TokenRecords.ts"
import { Model } from "../../src/model/Model.ts"
import type { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as TensorBoard from "../../src/runs/TensorBoard.ts"
import * as Sink from "../../src/Sink.ts"
import { type TrainError, Trainer } from "../../src/train/Trainer.ts"
import type { TrainEvent } from "../../src/train/TrainEvent.ts"
import type { Curve } from "../pretrain/Report.ts"
import { eventFile, eventsInMemory, trainToEnd } from "../training.ts"
import { modelOf, type NamedArm, streamOf, type StreamOverrides } from "../experiment/Arms.ts"
import type { IsolateConfig } from "./Config.ts"
import * as Jobs from "./Jobs.ts"
import type { MaskState } from "./Report.ts"
import type { Store } from "./Store.ts"
import type { World } from "./World.ts"

export type IsolateError = TrainError

type Files = FileSystem.FileSystem | Path.Path

/** What all arms of a seed share. */
export interface Laboratory {
  readonly config: IsolateConfig
  readonly seed: number
  readonly world: World
  /** What computes it all. */
  readonly machine: Machine
  readonly store: Store
  /** Checkpoints that are in memory because the store is. */
  readonly checkpoints: Map<string, Layer.Layer<Checkpoints, CheckpointError, Files>>
  /** The batches of an arm, made once. */
  readonly stream: (overrides: StreamOverrides) => Effect.Effect<Context.Context<DataStream>, DataError>
  /** Steps of every arm: those of one epoch of the repeated data, unless the configuration says otherwise. */
  readonly steps: number
  readonly stage: (message: string) => Effect.Effect<void>
}

/** What a training leaves besides its weights; JSON. */
export interface Trained {
  readonly name: string
  readonly adapter: string
  readonly curves: ReadonlyArray<Omit<Curve, "arm">>
  readonly parameters: number
  readonly activeParameters: number
  readonly steps: number
  readonly tokens: number
  readonly seconds: number
}

/** What all keys of a seed are made of. */
export const setupOf = ({ config, machine, seed, steps, world }: Laboratory): Jobs.Setup => ({
  config, machine, seed, steps, vocabSize: world.tokenizer.vocabSize, inputs: world.inputs
})

/** A trained model, and everything that it depends on. */
export interface TrainedModel {
  readonly name: string
  readonly key: Jobs.Key
  readonly config: ModelConfig
  readonly result: Trained
  readonly tensors: Effect.Effect<Readonly<Record<string, HostTensor>>, CheckpointError, Files>
}

/** Trains an arm, or finds it trained. */
export const trainOnce = (
  lab: Laboratory,
  named: NamedArm,
  onEvent: (event: TrainEvent) => Effect.Effect<void>
): Effect.Effect<TrainedModel, IsolateError, Device | Files> =>
  Effect.gen(function*() {
    const { config, seed, store, world } = lab
    const overrides = streamOf(named)
    const model = modelOf(config.model, world.tokenizer.vocabSize, named)
    const training = Jobs.trainingOfArm(lab, named)
    const key = Jobs.model(setupOf(lab), named)
    const name = keyOf(key)
    const folder = store.folder("models", key)
    const checkpoints = lab.checkpoints.get(name) ?? (folder === undefined
      // built once and kept, so that it outlives a lost device
      ? Layer.succeed(Checkpoints, yield* Effect.scoped(Effect.provide(Checkpoints, Checkpoints.layerMemory)))
      : Checkpoints.layerFileSystem(folder, { resume: true, keepLast: 1 }))
    lab.checkpoints.set(name, checkpoints)
    const result = yield* store.once("models", key, Effect.gen(function*() {
      const trainer = yield* Trainer
      const data = yield* DataStream
      const device = yield* Device
      const path = yield* Path.Path
      const tokensPerStep = data.batchSize * data.seqLen * training.gradientAccumulation
      const log = folder === undefined
        ? eventsInMemory()
        : eventFile(path.join(folder, "metrics.jsonl"), TensorBoard.writer(folder))
      const { curves, seconds } = yield* trainToEnd(trainer, tokensPerStep, log, onEvent)
      return {
        name: named.name,
        adapter: device.name,
        curves,
        parameters: model.numParameters,
        activeParameters: model.numActiveParameters,
        steps: trainer.steps,
        tokens: trainer.steps * tokensPerStep,
        seconds
      }
    }).pipe(Effect.provide(
      Trainer.layer(training).pipe(
        Layer.provideMerge(Model.layer(model, { seed, precision: config.precision })),
        Layer.provideMerge(Layer.merge(Layer.effectContext(lab.stream(overrides)), checkpoints))
      )
    )), { alone: true })
    return {
      name: named.name,
      key,
      config: model,
      result,
      tensors: Effect.map(
        Effect.flatMap(Layer.build(checkpoints), (context) => Context.get(context, Checkpoints).load("latest")),
        ({ model }) => model
      ).pipe(Effect.scoped)
    }
  })

/** Runs something with a model on the device that has these weights. */
export const withModel = <A, E, R>(
  config: ModelConfig,
  tensors: Readonly<Record<string, HostTensor>>,
  precision: "f32" | "f16",
  use: Effect.Effect<A, E, R>
): Effect.Effect<A, E | DeviceError | CheckpointError, Exclude<R, Model> | Device> =>
  Effect.provide(
    use,
    Layer.scoped(
      Model,
      Effect.tap(Model.make(config, { precision, initialize: false }), (model) => model.importTensors(tensors))
    )
  )

/** The sinks that a state lights. */
export const sinkMode: Readonly<Record<Exclude<MaskState, "calibrated" | "placeboOff">, Sink.SinkMode>> = {
  own: Sink.own,
  all: Sink.all,
  off: Sink.off,
  placebo: Sink.placebo,
  // there are none left
  pruned: Sink.own
}

/** Every split of the world, in one list. */
export const scoredRows = (world: World): ReadonlyArray<readonly [split: string, row: Row]> =>
  Object.entries(world.splits).flatMap(([split, rows]) =>
    split === "retained" ? [] : (rows as ReadonlyArray<Row> | undefined ?? []).map((row) => [split, row] as const))

/** Records, with what the sequences are scored as. */
export const named = (
  records: TokenRecords.TokenRecords,
  rows: ReadonlyArray<readonly [split: string, row: Row]>
): TokenRecords.TokenRecords => ({
  ...records,
  sequences: records.sequences.map((sequence, s) => ({ ...sequence, split: rows[s]![0] }))
})

/** Token records of all splits under the Model that is there. */
export const recordWorld = (
  { world }: Pick<Laboratory, "world">,
  mode: Sink.SinkMode
): Effect.Effect<TokenRecords.TokenRecords, DataError | DeviceError | KernelError, Model> =>
  Effect.gen(function*() {
    const rows = scoredRows(world)
    const records = yield* recordRows(yield* Model, rows.map(([, row]) => row), mode, {
      batchSize: Jobs.ROWS,
      seqLen: world.seqLen,
      split: "",
      repeats: rows.map(([, row]) => world.repeatsOf(row))
    })
    return named(records, rows)
  })

/** Records that are kept in the store's folder as Parquet, with what the file says they are of. */
export const keptRecords = <E, R>(
  store: Store,
  job: Jobs.Key,
  key: TokenRecords.RecordKey,
  compute: Effect.Effect<TokenRecords.TokenRecords, E, R>
): Effect.Effect<TokenRecords.TokenRecords, E | DataError, R | Files> =>
  Effect.gen(function*() {
    const folder = store.folder("records", job)
    if (folder === undefined) return yield* compute
    const fs = yield* FileSystem.FileSystem
    const file = `${folder}.parquet`
    const known = yield* Effect.option(TokenRecords.read(file))
    if (known._tag === "Some") return known.value.records
    const records = yield* compute
    yield* Effect.ignore(fs.makeDirectory((yield* Path.Path).dirname(file), { recursive: true }))
    yield* TokenRecords.write(file, key, records)
    return records
  })

/** What a model says greedily after the first tokens of each sequence, beside what is true. */
export const say = (
  rows: ReadonlyArray<Row>,
  { context, length }: Window,
  mode: Sink.SinkMode
): Effect.Effect<
  ReadonlyArray<{ readonly text: ReadonlyArray<number>; readonly truth: ReadonlyArray<number> }>,
  Generate.GenerateError,
  Model | Device
> =>
  Effect.gen(function*() {
    const texts = rows.map((): Array<number> => [])
    const prompts = rows.map(({ id, tokens }) => ({ id, tokens: tokens.subarray(0, context) }))
    yield* Stream.runForEach(
      Generate.generate(prompts, { maxNewTokens: length, temperature: 0, sinks: mode, batchSize: Jobs.ROWS }),
      ({ prompt, token }) => Effect.sync(() => void texts[prompt]!.push(token))
    )
    return texts.map((text, i) => ({ text, truth: [...rows[i]!.tokens.subarray(context, context + length)] }))
  })
