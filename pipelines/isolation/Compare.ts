/**
 * What one checkpoint knows of its training data, in each state of its sinks, beside another one, which never saw it
 * repeated, or from which it was removed: every metric that a teacher-forced pass gives, on any two checkpoints with one
 * tokenizer.
 */
import type * as FileSystem from "@effect/platform/FileSystem"
import type * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import { openCheckpoint } from "../../src/checkpoints/OpenCheckpoint.ts"
import { DataStream, type Row } from "../../src/data/stream/DataStream.ts"
import { sameTokenizer } from "../../src/data/tokens/SameTokenizer.ts"
import { type CheckpointError, DataError, type DeviceError, type KernelError } from "../../src/Errors.ts"
import type { Device } from "../../src/gpu/Device.ts"
import * as Measures from "../../src/measures/Metrics.ts"
import * as Statistics from "../../src/measures/Statistics.ts"
import type { TokenRecords } from "../../src/measures/TokenRecords.ts"
import { Model } from "../../src/model/Model.ts"
import { dataOf, runAbove, storedAbove } from "../../src/runs/Runs.ts"
import { recordRows } from "../../src/scoring/Record.ts"
import * as Sink from "../../src/Sink.ts"
import { ROWS } from "./Jobs.ts"
import { at, heldOutMetrics, metricsFor, sample, windowsOf } from "./Metrics.ts"
import type { MetricKey } from "./Report.ts"
import { decodeWorld, makeWorld } from "./World.ts"

export interface CompareOptions {
  readonly device: Layer.Layer<Device, DeviceError>
  /** Given tokens, after which a sequence must be continued to its end. Default: a quarter and half of a sequence. */
  readonly contexts?: ReadonlyArray<number>
  readonly precision?: "f32" | "f16"
}

/** States of the sinks that are compared. */
export type ComparedState = Sink.State

/** A metric of one checkpoint in a state of its sinks, beside the other's. */
export interface Compared extends MetricKey {
  readonly state: ComparedState
  readonly value: number
  /** Of the other checkpoint, with its sinks off where it has any. */
  readonly against: number | undefined
}

export interface Comparison {
  readonly checkpoint: string
  readonly against: string
  /** Sequences of each kind that are scored. */
  readonly sequences: Readonly<Record<string, number>>
  readonly metrics: ReadonlyArray<Compared>
  /** Loss minus the other's on the same sequences, with a 95 % bootstrap interval over them, nats a token. */
  readonly differences: ReadonlyArray<{ readonly state: ComparedState; readonly split: string } & Statistics.Interval>
}

export type CompareError = DeviceError | KernelError | DataError | CheckpointError

interface Scored {
  readonly seqLen: number
  readonly splits: Readonly<Record<"natural" | "canary" | "heldOut" | "canaryOthers", ReadonlyArray<Row>>>
  readonly texts: (rows: ReadonlyArray<Row>) => ReadonlyArray<string>
}

/** The sequences that a checkpoint was trained on repeatedly, and those that it never saw. */
const scoredOf = (folder: string, tokenizer: string) =>
  Effect.gen(function*() {
    const stored = storedAbove(folder)
    if (stored !== undefined) {
      const world = yield* makeWorld(yield* decodeWorld(stored.world), stored.seed)
      const { canaryOthers, canaryScored, canarySeen, heldOut, scored, seen } = world.splits
      return {
        seqLen: world.seqLen,
        splits: { natural: [...seen, ...scored], canary: [...canarySeen, ...canaryScored], heldOut, canaryOthers },
        texts: world.texts
      } satisfies Scored
    }
    const run = runAbove(folder)
    if (run?.kind !== "pretrain") {
      return yield* new DataError({
        path: folder,
        detail: "lies in no run of memsinks pretrain or isolate, which would say what it was trained on: name a " +
          "checkpoint in such a run's folder"
      })
    }
    const data = yield* Effect.provide(DataStream, DataStream.layer(dataOf(run, folder)))
    if (!sameTokenizer(data.tokenizer.toJSON(), tokenizer)) {
      return yield* new DataError({
        path: folder,
        detail:
          "the data of its run is not what it was: its tokenizer comes out different. Restore it, or name another checkpoint"
      })
    }
    // where nothing was repeated, as in a run by source, what it was trained on is what it may remember
    const trained = data.split("repeated").length > 0 ? data.split("repeated") : data.split("singles")
    if (trained.length === 0) {
      return yield* new DataError({ path: folder, detail: "was trained on no sequence that could be looked at" })
    }
    return {
      seqLen: data.seqLen,
      splits: {
        natural: trained,
        canary: data.split("canaries"),
        heldOut: data.split("heldOut"),
        canaryOthers: []
      },
      texts: (rows: ReadonlyArray<Row>) => rows.map(({ tokens }) => data.tokenizer.decode(tokens))
    } satisfies Scored
  }).pipe(Effect.scoped)

/**
 * Compares two checkpoints on the first one's training data. Fails with a DataError for checkpoints with different
 * tokenizers, and for one that lies in no run that says what it was trained on.
 */
export const compare = (
  checkpoint: string,
  against: string,
  { contexts, device, precision = "f32" }: CompareOptions
): Effect.Effect<Comparison, CompareError, FileSystem.FileSystem | Path.Path> =>
  Effect.gen(function*() {
    const [one, other] = [yield* openCheckpoint(checkpoint, { precision }),
      yield* openCheckpoint(against, { precision })]
    if (one.tokenizer === undefined || !sameTokenizer(one.tokenizer.toJSON(), other.tokenizer?.toJSON() ?? "")) {
      return yield* new DataError({
        path: other.path,
        detail:
          `has another tokenizer than ${one.path}, so their tokens are not the same: compare checkpoints that were ` +
          "trained with one tokenizer"
      })
    }
    const { seqLen, splits, texts } = yield* scoredOf(one.path, one.tokenizer.toJSON())
    const windows = windowsOf(contexts, seqLen)
    const definitions = metricsFor(windows)
    const recordAll = (mode: Sink.SinkMode) =>
      Effect.gen(function*() {
        const model = yield* Model
        const all: Record<string, TokenRecords> = {}
        for (const [split, rows] of Object.entries(splits)) {
          if (rows.length > 0) all[split] = yield* recordRows(model, rows, mode, { batchSize: ROWS, seqLen, split })
        }
        return all
      })
    const metricsOf = (records: Readonly<Record<string, TokenRecords>>,
      reference?: Readonly<Record<string, TokenRecords>>) =>
    {
      const panels = ([["natural", "heldOut"], ["canary", "canaryOthers"]] as const).flatMap(([panel, others]) => {
        const nobody = records[others] ?? records["heldOut"]
        return records[panel] === undefined || nobody === undefined ? [] : sample(definitions, panel, {
          records: records[panel],
          texts: texts(splits[panel]),
          others: nobody,
          otherTexts: texts(records[others] === undefined ? splits.heldOut : splits[others]),
          ...(reference?.[panel] === undefined || reference[others] === undefined
            ? {}
            : { reference: { records: reference[panel], others: reference[others] } }),
          windows
        })
      })
      const heldOut = records["heldOut"]
      return heldOut === undefined ?
        panels :
        [...panels,
          ...sample(heldOutMetrics, "heldOut", { records: heldOut, texts: [], others: heldOut, otherTexts: [],
            windows })]
    }
    return yield* Effect.gen(function*() {
      const reference = yield* Effect.provide(recordAll(Sink.off), other.layer)
      const there = metricsOf(reference)
      const metrics: Array<Compared> = []
      const differences: Array<Comparison["differences"][number]> = []
      yield* Effect.provide(Effect.gen(function*() {
        for (const state of Sink.statesOf(one.config.sinks)) {
          const records = yield* recordAll(Sink.states[state].mode)
          for (const { error: _, sequences: __, ...one } of metricsOf(records, reference)) {
            metrics.push({ state, ...one, against: at(there, one)?.value })
          }
          for (const split of Object.keys(records)) {
            const interval = Statistics.pairedBootstrap(Measures.loss(records[split]!),
              Measures.loss(reference[split]!))
            differences.push({ state, split, ...interval })
          }
        }
      }), one.layer)
      return {
        checkpoint: one.path,
        against: other.path,
        sequences: Object.fromEntries(Object.entries(splits).map(([name, rows]) => [name, rows.length])),
        metrics,
        differences
      }
    }).pipe(Effect.provide(device))
  })
