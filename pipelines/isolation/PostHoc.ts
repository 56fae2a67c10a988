/**
 * Methods that come after training, swept: the standard model is taken further and further, and a rule chooses where to
 * stop by data that is not scored. The rule (that of MUSE): the first point at which the seen half of the repeated
 * sequences is no better known than to the oracle; of several learning rates that get there, the one that costs least on
 * the validation sequences; where none gets there, the point that forgets most.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type { HostTensor } from "../../src/checkpoints/Checkpoints.ts"
import type { Row } from "../../src/data/DataStream.ts"
import type { DataError, DeviceError, KernelError } from "../../src/Errors.ts"
import { type LocalizerName, localizers, topFraction, withoutNeurons } from "../../src/localizers/index.ts"
import { scoreRows, summarize } from "../../src/measures/Score.ts"
import { Model } from "../../src/Model.ts"
import type { SinkMode } from "../../src/Sink.ts"
import { own } from "../../src/Sink.ts"
import { type UnlearnerName, unlearners } from "../../src/unlearners/index.ts"
import { type Laboratory, type TrainedModel, withModel } from "./Models.ts"
import type { Panel } from "./Report.ts"

/** Mean losses by split. */
export type SplitLosses = Readonly<Record<string, number>>

/** A point of a sweep. JSON. */
export interface SweepPoint {
  /** `fraction 0.02`, `step 8 at 0.0005`. */
  readonly setting: string
  readonly fraction?: number
  readonly step?: number
  readonly learningRate?: number
  readonly losses: SplitLosses
}

const ROWS = 16

/** Mean loss a scored token of each list of sequences under the Model that is there; those that are empty are left out. */
export const lossesOf = (
  splits: Readonly<Record<string, ReadonlyArray<Row>>>,
  seqLen: number,
  mode: SinkMode
): Effect.Effect<SplitLosses, DataError | DeviceError | KernelError, Model> =>
  Effect.gen(function*() {
    const model = yield* Model
    const all = Object.entries(splits).flatMap(([split, rows]) => rows.map((row) => ({ split, row })))
    const scores = yield* scoreRows(model, all.map(({ row }) => row), mode, { batchSize: ROWS, seqLen })
    return Object.fromEntries(Object.keys(splits).flatMap((split) => {
      const summary = summarize(scores.filter((_, i) => all[i]!.split === split))
      return summary === undefined ? [] : [[split, summary.loss]]
    }))
  })

/** What a sweep is looked at by. The lists that are scored only draw the curve; the rule sees `seen` and `validation`. */
export const watched = ({ world }: Pick<Laboratory, "world">) => {
  const { canaryScored, canarySeen, heldOut, scored, seen, validation } = world.splits
  return { seen, scored, canarySeen, canaryScored, validation, heldOut }
}

/** Which point of a sweep to stop at; `forget` names the split that must become unknown. */
export const choose = (points: ReadonlyArray<SweepPoint>, oracle: SplitLosses, forget: string): number => {
  const target = oracle[forget]!
  const first = new Map<number | undefined, number>()
  points.forEach(({ learningRate, losses }, i) => {
    // a diverged model knows nothing, but is no way to forget
    const known = Object.values(losses).every(Number.isFinite)
    if (known && losses[forget]! >= target && !first.has(learningRate)) first.set(learningRate, i)
  })
  const reached = [...first.values()]
  const cost = (i: number) => points[i]!.losses["validation"] ?? 0
  if (reached.length > 0) return reached.reduce((best, i) => (cost(i) < cost(best) ? i : best))
  return points.reduce((best, { losses }, i) => {
    const [one, other] = [losses[forget] ?? -Infinity, points[best]!.losses[forget] ?? -Infinity]
    return one > other ? i : best
  }, 0)
}

/** Tensors of the model at a point of a sweep. */
export type AtPoint = Readonly<Record<string, HostTensor>>

/** With the seconds it took: kept with it, so that a resumed run tells them, too. */
const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.timed(effect), ([duration, value]) => ({ value, seconds: Duration.toSeconds(duration) }))

const promptOf = ({ world }: Laboratory) => Math.max(1, Math.floor(world.seqLen / 4))

/** The scores of a localizer on the sequences of a panel. */
const scoresOf = (lab: Laboratory, standard: TrainedModel, tensors: AtPoint, name: LocalizerName, panel: Panel) => {
  const { canaryScored, canarySeen, scored, seen } = lab.world.splits
  const rows = panel === "canary" ? [...canarySeen, ...canaryScored] : [...seen, ...scored]
  const options = { seqLen: lab.world.seqLen, promptTokens: promptOf(lab), batchSize: ROWS, seed: lab.seed }
  return lab.store.once(
    "localizers",
    { model: standard.key, name, panel, options },
    withModel(
      standard.config,
      tensors,
      "f32",
      timed(Effect.map(localizers[name].localize(rows, options), (scores) => scores.map((layer) => [...layer])))
    )
  ).pipe(Effect.map(({ seconds, value }) => ({ seconds, scores: value.map((layer) => Float32Array.from(layer)) })))
}

/** Drops more and more of the neurons that a localizer ranks highest. */
export const sweepLocalizer = (
  lab: Laboratory,
  standard: TrainedModel,
  tensors: AtPoint,
  oracle: SplitLosses,
  name: LocalizerName,
  panel: Panel
) =>
  Effect.gen(function*() {
    const { scores, seconds } = yield* scoresOf(lab, standard, tensors, name, panel)
    const { fractions } = lab.config
    const points = yield* lab.store.once(
      "sweeps",
      { model: standard.key, name, panel, fractions },
      withModel(standard.config, tensors, "f32", Effect.gen(function*() {
        const model = yield* Model
        return yield* Effect.forEach([0, ...fractions], (fraction) =>
          Effect.gen(function*() {
            yield* model.importTensors(withoutNeurons(tensors, topFraction(scores, fraction)))
            const losses = yield* lossesOf(watched(lab), lab.world.seqLen, own)
            return { setting: `fraction ${fraction}`, fraction, losses }
          }))
      }))
    )
    const chosen = choose(points, oracle, panel === "canary" ? "canarySeen" : "seen")
    const at = withoutNeurons(tensors, topFraction(scores, points[chosen]!.fraction!))
    return { points, chosen, at, seconds }
  })

/** The steps after which an unlearner is looked at. */
const lookedAt = (steps: number): ReadonlySet<number> => {
  const at = new Set([0, steps])
  for (let step = 1; step < steps; step *= 2) at.add(step)
  return at
}

const problemOf = ({ seed, world }: Laboratory) => {
  const { canaryScored, canarySeen, retained, scored, seen } = world.splits
  return {
    forget: [...seen, ...scored, ...canarySeen, ...canaryScored],
    retain: retained,
    seqLen: world.seqLen,
    seed
  }
}

/** Runs an unlearner for so many steps; `look` is called after those in `at`. */
const unlearn = <E, R>(
  lab: Laboratory,
  name: UnlearnerName,
  learningRate: number,
  steps: number,
  look: (step: number) => Effect.Effect<void, E, R>,
  at: ReadonlySet<number>
) =>
  Effect.scoped(Effect.gen(function*() {
    const { unlearnBatchSize: batchSize, unlearnSteps } = lab.config
    const { step } = yield* unlearners[name].start(problemOf(lab), { learningRate, batchSize, steps: unlearnSteps })
    if (at.has(0)) yield* look(0)
    for (let i = 1; i <= steps; i++) {
      yield* step
      if (at.has(i)) yield* look(i)
    }
  }))

/** Unlearns step by step, at every learning rate. */
export const sweepUnlearner = (
  lab: Laboratory,
  standard: TrainedModel,
  tensors: AtPoint,
  oracle: SplitLosses,
  name: UnlearnerName
) =>
  Effect.gen(function*() {
    const { unlearnBatchSize, unlearnRates, unlearnSteps } = lab.config
    const swept = yield* Effect.forEach(unlearnRates, (learningRate) =>
      lab.store.once(
        "sweeps",
        { model: standard.key, name, learningRate, unlearnBatchSize, unlearnSteps, seed: lab.seed },
        withModel(standard.config, tensors, "f32", timed(Effect.gen(function*() {
          const points: Array<SweepPoint> = []
          yield* unlearn(lab, name, learningRate, unlearnSteps, (step) =>
            Effect.map(lossesOf(watched(lab), lab.world.seqLen, own), (losses) => {
              points.push({ setting: `step ${step} at ${learningRate}`, step, learningRate, losses })
            }), lookedAt(unlearnSteps))
          return points
        })))
      ))
    const points = swept.flatMap(({ value }) => value)
    const chosen = choose(points, oracle, "seen")
    const { learningRate, step } = points[chosen]!
    // the same steps again, which are the same bit for bit
    const at = yield* withModel(standard.config, tensors, "f32", Effect.gen(function*() {
      yield* unlearn(lab, name, learningRate!, step!, () => Effect.void, new Set())
      return yield* (yield* Model).exportTensors
    }))
    return { points, chosen, at, seconds: swept.reduce((sum, { seconds }) => sum + seconds, 0) }
  })
