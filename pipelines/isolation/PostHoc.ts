/**
 * Methods that come after training, swept: the standard model is taken further and further, and a rule chooses where to
 * stop by data that is not scored. The rule (that of MUSE): the first point at which the seen half of the repeated
 * sequences is no better known than to the oracle; of several settings that get there, the one that costs least on
 * the validation sequences; where none gets there, the point that forgets most.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type { HostTensor } from "../../src/checkpoints/Checkpoints.ts"
import type { Row } from "../../src/data/stream/DataStream.ts"
import type { DataError, DeviceError, KernelError } from "../../src/Errors.ts"
import { Model } from "../../src/model/Model.ts"
import { localizers, topFraction, withoutNeurons } from "../../src/removal/localizers/index.ts"
import { unlearners } from "../../src/removal/unlearners/index.ts"
import { scoreRows, summarize } from "../../src/scoring/Score.ts"
import type { SinkMode } from "../../src/Sink.ts"
import { own } from "../../src/Sink.ts"
import * as Jobs from "./Jobs.ts"
import { type Laboratory, type TrainedModel, withModel } from "./Models.ts"
import type { Panel } from "./Report.ts"
import type { LocalizerMethod, UnlearnerMethod } from "./Sweeps.ts"

/** Mean losses by split. */
export type SplitLosses = Readonly<Record<string, number>>

/** A point of a sweep. JSON. */
export interface SweepPoint {
  /** `fraction 0.02`, `step 8 at 0.0005, alpha 3`. */
  readonly setting: string
  /** The setting of the method that it is a point of, as the method's `settings` label it. */
  readonly series: string
  readonly fraction?: number
  readonly step?: number
  readonly losses: SplitLosses
}

/** Mean loss a scored token of each list of sequences under the Model that is there; those that are empty are left out. */
export const lossesOf = (
  splits: Readonly<Record<string, ReadonlyArray<Row>>>,
  seqLen: number,
  mode: SinkMode
): Effect.Effect<SplitLosses, DataError | DeviceError | KernelError, Model> =>
  Effect.gen(function*() {
    const model = yield* Model
    const all = Object.entries(splits).flatMap(([split, rows]) => rows.map((row) => ({ split, row })))
    const scores = yield* scoreRows(model, all.map(({ row }) => row), mode, { batchSize: Jobs.ROWS, seqLen })
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
  const first = new Map<string, number>()
  // a diverged model knows nothing, but is no way to forget
  const sound = points.map(({ losses }) => Object.values(losses).every(Number.isFinite))
  points.forEach(({ losses, series }, i) => {
    if (sound[i]! && losses[forget]! >= target && !first.has(series)) first.set(series, i)
  })
  const reached = [...first.values()]
  const cost = (i: number) => points[i]!.losses["validation"] ?? 0
  if (reached.length > 0) return reached.reduce((best, i) => (cost(i) < cost(best) ? i : best))
  const forgotten = (i: number) => sound[i]! ? points[i]!.losses[forget] ?? -Infinity : -Infinity
  return points.reduce((best, _, i) => forgotten(i) > forgotten(best) ? i : best, 0)
}

/** Tensors of the model at a point of a sweep. */
export type AtPoint = Readonly<Record<string, HostTensor>>

/** With the seconds it took: kept with it, so that a resumed run tells them, too. */
const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.timed(effect), ([duration, value]) => ({ value, seconds: Duration.toSeconds(duration) }))

/** What localizers are given besides their own options. */
export const localizing = ({ seed, world: { seqLen } }: Laboratory) => ({
  seqLen,
  promptTokens: Math.max(1, Math.floor(seqLen / 4)),
  seed
})

/** The scores of a localizer on the sequences of a panel, and the key they are kept under. */
const scoresOf = (
  lab: Laboratory,
  standard: TrainedModel,
  tensors: AtPoint,
  { method }: LocalizerMethod,
  { options }: LocalizerMethod["settings"][number],
  panel: Panel
) => {
  const { canaryScored, canarySeen, scored, seen } = lab.world.splits
  const rows = panel === "canary" ? [...canarySeen, ...canaryScored] : [...seen, ...scored]
  const key = Jobs.localizer(standard.key, method, options, panel, localizing(lab))
  return lab.store.once(
    "localizers",
    key,
    withModel(
      standard.config,
      tensors,
      "f32",
      timed(Effect.map(
        localizers[method].localize(rows, { ...localizing(lab), batchSize: Jobs.ROWS, ...options }),
        (scores) => scores.map((layer) => [...layer])
      ))
    )
  ).pipe(Effect.map(({ seconds, value }) => ({ key, seconds, scores: value.map((layer) => Float32Array.from(layer)) })))
}

/** Where a sweep was stopped. */
export interface Swept<Setting> {
  readonly points: ReadonlyArray<SweepPoint>
  readonly chosen: number
  /** The model there, and all that it depends on. */
  readonly at: AtPoint
  readonly key: Jobs.Key
  /** The setting that the point is of. */
  readonly setting: Setting
  readonly seconds: number
}

const sum = (values: ReadonlyArray<number>): number => values.reduce((a, b) => a + b, 0)

/** Drops more and more of the neurons that a localizer ranks highest, with each of its settings. */
export const sweepLocalizer = (
  lab: Laboratory,
  standard: TrainedModel,
  tensors: AtPoint,
  oracle: SplitLosses,
  method: LocalizerMethod,
  panel: Panel
) =>
  Effect.gen(function*() {
    const { fractions } = lab.config
    const swept = yield* Effect.forEach(method.settings, (setting) =>
      Effect.gen(function*() {
        const { key: scoresKey, scores, seconds } = yield* scoresOf(lab, standard, tensors, method, setting, panel)
        const key = Jobs.localizerSweep(scoresKey, fractions)
        const points = yield* lab.store.once(
          "sweeps",
          key,
          withModel(standard.config, tensors, "f32", Effect.gen(function*() {
            const model = yield* Model
            return yield* Effect.forEach([0, ...fractions], (fraction) =>
              Effect.gen(function*() {
                yield* model.importTensors(withoutNeurons(tensors, topFraction(scores, fraction)))
                return { fraction, losses: yield* lossesOf(watched(lab), lab.world.seqLen, own) }
              }))
          }))
        )
        return { key, scores, seconds, setting, points: points.map((point): SweepPoint => ({
          ...point,
          series: setting.label,
          setting: `fraction ${point.fraction}${setting.label === "" ? "" : ` at ${setting.label}`}`
        })) }
      }))
    const points = swept.flatMap(({ points }) => points)
    const chosen = choose(points, oracle, panel === "canary" ? "canarySeen" : "seen")
    const { fraction, series } = points[chosen]!
    const from = swept.find(({ setting }) => setting.label === series)!
    return {
      points,
      chosen,
      at: withoutNeurons(tensors, topFraction(from.scores, fraction!)),
      key: Jobs.atPoint(from.key, { fraction: fraction! }),
      setting: from.setting,
      seconds: sum(swept.map(({ seconds }) => seconds))
    } satisfies Swept<LocalizerMethod["settings"][number]>
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
  { method }: UnlearnerMethod,
  { options }: UnlearnerMethod["settings"][number],
  steps: number,
  look: (step: number) => Effect.Effect<void, E, R>,
  at: ReadonlySet<number>
) =>
  Effect.scoped(Effect.gen(function*() {
    const { step } = yield* unlearners[method].start(problemOf(lab), options)
    if (at.has(0)) yield* look(0)
    for (let i = 1; i <= steps; i++) {
      yield* step
      if (at.has(i)) yield* look(i)
    }
  }))

/** Unlearns step by step, with each setting; one that diverges has the points before. */
export const sweepUnlearner = (
  lab: Laboratory,
  standard: TrainedModel,
  tensors: AtPoint,
  oracle: SplitLosses,
  method: UnlearnerMethod
) =>
  Effect.gen(function*() {
    const swept = yield* Effect.forEach(method.settings, (setting) => {
      const key = Jobs.unlearning(standard.key, method.method, setting.options, lab.seed)
      return lab.store.once(
        "unlearning",
        key,
        withModel(standard.config, tensors, "f32", timed(Effect.gen(function*() {
          const points: Array<{ readonly step: number; readonly losses: SplitLosses }> = []
          yield* unlearn(lab, method, setting, setting.options.steps, (step) =>
            Effect.map(lossesOf(watched(lab), lab.world.seqLen, own), (losses) => {
              points.push({ step, losses })
            }), lookedAt(setting.options.steps)).pipe(
              // a model that was sound at step 0 and has diverged since: this setting ends there
              Effect.catchIf(
                ({ _tag }) => points.length > 0 && (_tag === "Diverged" || _tag === "DataError"),
                () => Effect.void
              )
            )
          return points
        })))
      ).pipe(Effect.map(({ seconds, value }) => ({ key, seconds, setting, points: value.map((point): SweepPoint => ({
        ...point,
        series: setting.label,
        setting: `step ${point.step} at ${setting.label}`
      })) })))
    })
    const points = swept.flatMap(({ points }) => points)
    const chosen = choose(points, oracle, "seen")
    const { series, step } = points[chosen]!
    const { key, setting } = swept.find(({ setting }) => setting.label === series)!
    // the same steps again, which are the same bit for bit
    const at = yield* withModel(standard.config, tensors, "f32", Effect.gen(function*() {
      yield* unlearn(lab, method, setting, step!, () => Effect.void, new Set())
      return yield* (yield* Model).exportTensors
    }))
    return {
      points,
      chosen,
      at,
      key: Jobs.atPoint(key, { step: step! }),
      setting,
      seconds: sum(swept.map(({ seconds }) => seconds))
    } satisfies Swept<UnlearnerMethod["settings"][number]>
  })
