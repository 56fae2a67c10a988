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
import { modelWith } from "../../src/checkpoints/OpenCheckpoint.ts"
import { type DataStream, type Row } from "../../src/data/stream/DataStream.ts"
import type { CheckpointError, DataError, DeviceError, KernelError } from "../../src/Errors.ts"
import { type Device } from "../../src/gpu/Device.ts"
import type { Machine } from "../../src/gpu/Machine.ts"
import { keyOf } from "../../src/Key.ts"
import type { Window } from "../../src/measures/Extraction.ts"
import * as TokenRecords from "../../src/measures/TokenRecords.ts"
import * as Generate from "../../src/model/Generate.ts"
import { Model } from "../../src/model/Model.ts"
import type { ModelConfig } from "../../src/model/ModelConfig.ts"
import { recordRows } from "../../src/scoring/Record.ts"
import * as Sink from "../../src/Sink.ts"
import type { TrainError } from "../../src/train/Trainer.ts"
import type { TrainEvent } from "../../src/train/TrainEvent.ts"
import { modelOf, type NamedArm, streamOf, type StreamOverrides } from "../experiment/Arms.ts"
import type { Store } from "../experiment/Store.ts"
import { type Files, keep, type Kept, trainArm, type TrainedArm } from "../experiment/Train.ts"
import type { IsolateConfig } from "./Config.ts"
import * as Jobs from "./Jobs.ts"
import type { MaskState } from "./Report.ts"
import type { World } from "./World.ts"

export type IsolateError = TrainError

/** What all arms of a seed share. */
export interface Laboratory {
  readonly config: IsolateConfig
  readonly seed: number
  readonly world: World
  /** What computes it all. */
  readonly machine: Machine
  readonly store: Store
  /** What arms keep while they are trained, by the hash of their keys: it outlives a lost device. */
  readonly kept: Map<string, Kept>
  /** The batches of an arm, made once. */
  readonly stream: (overrides: StreamOverrides) => Effect.Effect<Context.Context<DataStream>, DataError>
  /** Steps of every arm: those of one epoch of the repeated data, unless the configuration says otherwise. */
  readonly steps: number
  readonly stage: (message: string) => Effect.Effect<void>
}

/** What a training leaves besides its weights; JSON. */
export interface Trained extends TrainedArm {
  readonly name: string
}

/** What all keys of a seed are made of. */
export const setupOf = ({ config, machine, seed, steps, world }: Laboratory): Jobs.Setup => ({
  config,
  machine,
  seed,
  steps,
  vocabSize: world.tokenizer.vocabSize,
  inputs: world.inputs
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
    const kept = lab.kept.get(name) ?? (yield* keep(store.folder("models", key), { keepLast: 1 }))
    lab.kept.set(name, kept)
    const result = yield* store.once("models", key, Effect.gen(function*() {
      const data = yield* lab.stream(overrides)
      const { after: _, measured: __, ...trained } = yield* Effect.provide(
        trainArm({ model, training, seed, precision: config.precision }, kept, { onEvent }),
        data
      )
      return { name: named.name, ...trained }
    }), { alone: true })
    return {
      name: named.name,
      key,
      config: model,
      result,
      tensors: Effect.map(
        Effect.flatMap(Layer.build(kept.checkpoints), (context) => Context.get(context, Checkpoints).load("latest")),
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
  Effect.provide(use, modelWith(config, tensors, { precision }))

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
    split === "retained" ? [] : (rows as ReadonlyArray<Row> | undefined ?? []).map((row) => [split, row] as const)
  )

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
