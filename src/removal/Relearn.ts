/**
 * Relearning: how few steps of fine-tuning on a part of what was removed bring back the rest of it. Where a memory is
 * gone, that takes as long as for a model that never had it.
 */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { batchOf, type Row } from "../data/stream/Packing.ts"
import { countScored, endless, misfit } from "../data/stream/Rows.ts"
import { type CheckpointError, DataError, type DeviceError, type Diverged, type KernelError } from "../Errors.ts"
import type { Device } from "../gpu/Device.ts"
import { Model } from "../model/Model.ts"
import { random } from "../Random.ts"
import { off, type SinkMode } from "../Sink.ts"
import { makeTuner } from "../train/Tuner.ts"
import { constantRate, sequenceLosses } from "./unlearners/Unlearner.ts"

/** What a model is fine-tuned on after removal, and what is scored meanwhile. */
export interface RelearnOptions {
  /** Fine-tuned on: one half of each removed sequence, say. */
  readonly train: ReadonlyArray<Row>
  /** Scored, by name: the other halves (true recovery), those trained on (plain learning). */
  readonly score: Readonly<Record<string, ReadonlyArray<Row>>>
  /** AdamW's, constant and with fresh moments, tried one after the other: the removal is judged by the worst. */
  readonly learningRates: ReadonlyArray<number>
  /** Most steps, at each rate. */
  readonly steps: number
  /** Steps after which all is scored, rising, besides step 0. Default: `logSpaced(steps)`. */
  readonly at?: ReadonlyArray<number>
  /** Sequences a step, drawn at random; or all if they are fewer. */
  readonly batchSize: number
  /** Tokens of a row of a batch; sequences have at most one more. */
  readonly seqLen: number
  /** State of the sinks, in training and scoring. Default off: can what is left relearn it? */
  readonly mode?: SinkMode
  /** Of the order of sequences, which is the same at every rate. Default 0. */
  readonly seed?: number
}

/** Losses after some steps at one rate. */
export interface RelearnPoint {
  readonly learningRate: number
  readonly step: number
  /** Mean over all tokens of each set that is scored, in nats. */
  readonly losses: Readonly<Record<string, number>>
}

/** What relearning fails with. */
export type RelearnError = DeviceError | KernelError | DataError | CheckpointError | Diverged

/** Whole numbers from 1 to `most`, about `perDoubling` between each and its double. */
export const logSpaced = (most: number, perDoubling = 2): ReadonlyArray<number> => {
  const count = Math.floor(perDoubling * Math.log2(most))
  const steps = Array.from({ length: count + 1 }, (_, i) => Math.round(2 ** (i / perDoubling)))
  return [...new Set([...steps, most])]
}

const problemOf = (options: RelearnOptions): string | undefined => {
  const { at, batchSize, learningRates, score, seqLen, steps, train } = options
  const whole = (value: number) => Number.isInteger(value) && value >= 1
  if (train.length === 0) return "there are no sequences to relearn from"
  if (Object.keys(score).length === 0) return "there is no set of sequences to score"
  const empty = Object.keys(score).find((name) => score[name]!.length === 0)
  if (empty !== undefined) return `the scored set ${empty} has no sequences`
  const unfit = misfit([...train, ...Object.values(score).flat()], seqLen)
  if (unfit !== undefined) return unfit
  const rate = learningRates.find((rate) => !(rate > 0 && rate < Infinity))
  if (learningRates.length === 0 || rate !== undefined) {
    return `learningRates must be positive numbers, at least one${rate === undefined ? "" : `; got ${rate}`}`
  }
  if (!whole(batchSize)) return `batchSize must be a whole number of sequences, got ${batchSize}`
  if (!whole(steps)) return `steps must be a whole number, got ${steps}`
  const wrong = (at ?? []).find((step, i, all) => !whole(step) || step > steps || (i > 0 && step <= all[i - 1]!))
  if (wrong !== undefined) return `at must be rising whole numbers up to steps, which are ${steps}; got ${wrong}`
  return undefined
}

/**
 * Points of each rate in turn, each beginning at step 0 from the weights that the Model has now; it has them again at
 * the end, and when the stream fails or is interrupted. A rate at which the model diverges has no points from there on.
 * Fails with a DataError for options that make no sense and for
 * sequences that do not fit into rows.
 */
export const relearn = (options: RelearnOptions): Stream.Stream<RelearnPoint, RelearnError, Model | Device> =>
  Stream.unwrapScoped(Effect.gen(function*() {
    const problem = problemOf(options)
    if (problem !== undefined) return yield* new DataError({ detail: `relearning: ${problem}` })
    const { learningRates, mode = off, score, seed = 0, seqLen, steps, train } = options
    const size = Math.min(options.batchSize, train.length)
    const at = options.at ?? logSpaced(steps)
    const model = yield* Model
    const weights = yield* model.exportTensors
    const restore = model.importTensors(weights)
    yield* Effect.addFinalizer(() => Effect.ignore(restore))

    const losses = Effect.map(
      Effect.forEach(Object.entries(score), ([name, rows]) =>
        Effect.gen(function*() {
          const batchSize = Math.min(options.batchSize, rows.length)
          const sums = yield* sequenceLosses(model, rows, { batchSize, seqLen, mode })
          return [name, sums.reduce((a, b) => a + b, 0) / countScored(rows)] as const
        })),
      (all): RelearnPoint["losses"] => Object.fromEntries(all)
    )
    const before = yield* losses

    const atRate = (learningRate: number) =>
      Stream.unwrapScoped(Effect.gen(function*() {
        yield* restore
        const next = endless(train, random(seed, "relearn"))
        const tuner = yield* makeTuner({
          rows: size,
          seqLen,
          steps,
          mode,
          optimizer: constantRate(learningRate)
        })
        const points = at.map((step, i) =>
          Effect.gen(function*() {
            for (let s = at[i - 1] ?? 0; s < step; s++) yield* tuner.step(batchOf(next(size), seqLen))
            return { learningRate, step, losses: yield* losses }
          })
        )
        // a rate that the model does not survive has no points from there on, and is no way to relearn
        const later = Stream.mapEffect(Stream.fromIterable(points), (point) => point).pipe(
          Stream.catchTags({ Diverged: () => Stream.empty, DataError: () => Stream.empty })
        )
        return Stream.concat(Stream.make<[RelearnPoint]>({ learningRate, step: 0, losses: before }), later)
      }))
    return Stream.flatMap(Stream.fromIterable(learningRates), atRate)
  }))

// ---------------------------------------------------------------------------------------------------------------
// What the points say. Pure.

/** How far back is back. */
export interface BackOptions {
  /** Name of the scored set. */
  readonly set: string
  /** Loss of it under the model that never saw the repeats. */
  readonly oracle: number
  /** Loss of it under the standard model, which memorized it. */
  readonly standard: number
  /** Share of the way from the oracle's loss to the standard model's. Default 0.9. */
  readonly share?: number
}

const byRate = (points: ReadonlyArray<RelearnPoint>): ReadonlyArray<ReadonlyArray<RelearnPoint>> => {
  const rates = new Map<number, Array<RelearnPoint>>()
  for (const point of points) {
    const list = rates.get(point.learningRate) ?? []
    rates.set(point.learningRate, list)
    list.push(point)
  }
  return [...rates.values()]
}

/**
 * Steps until the loss of a set first is back at a share of the standard model's memory, at the worst rate, that is,
 * the one at which it is soonest; 0 where it never was gone, undefined where no rate gets there. Between points the
 * loss is taken to fall in a straight line over log(1 + step).
 */
export const stepsToBack = (
  points: ReadonlyArray<RelearnPoint>,
  { oracle, set, share = 0.9, standard }: BackOptions
): number | undefined => {
  const level = oracle + share * (standard - oracle)
  const first = (one: ReadonlyArray<RelearnPoint>): number | undefined => {
    const sorted = [...one].sort((a, b) => a.step - b.step)
    const found = sorted.findIndex(({ losses }) => losses[set]! <= level)
    if (found <= 0) return found === 0 ? sorted[0]!.step : undefined
    const [a, b] = [sorted[found - 1], sorted[found]]
    const part = (a!.losses[set]! - level) / (a!.losses[set]! - b!.losses[set]!)
    return Math.expm1(Math.log1p(a!.step) + part * (Math.log1p(b!.step) - Math.log1p(a!.step)))
  }
  const all = byRate(points).map(first).filter((steps) => steps !== undefined)
  return all.length === 0 ? undefined : Math.min(...all)
}

/**
 * Steps that an arm takes to be back over those that the oracle takes: 1 is as slow as never trained, less is a memory
 * that was hidden. Where one of them is not back within `budget` steps it counts with those, so the ratio is then a
 * bound (a lower one without the arm's, an upper one without the oracle's); both: 1.
 */
export const relearnRatio = (
  steps: number | undefined,
  oracleSteps: number | undefined,
  budget: number
): number => {
  const [arm, oracle] = [steps ?? budget, oracleSteps ?? budget]
  return arm === oracle ? 1 : arm / oracle
}
