/**
 * Methods that come after training, swept: the standard model is taken further and further, and a rule chooses where to
 * stop by data that is not scored. The rule (that of MUSE): the first point at which the seen half of the repeated
 * sequences is no better known than to the oracle; of several settings that get there, the one that costs least on
 * the validation sequences; where none gets there, the point that forgets most.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type { Row } from "../../src/data/stream/DataStream.ts"
import type { DataError, DeviceError, KernelError } from "../../src/Errors.ts"
import type { Device } from "../../src/gpu/Device.ts"
import { Model } from "../../src/model/Model.ts"
import { localizers, topFraction, withoutNeurons } from "../../src/removal/localizers/index.ts"
import { unlearners } from "../../src/removal/unlearners/index.ts"
import { scoreRows, summarize } from "../../src/scoring/Score.ts"
import * as Sink from "../../src/Sink.ts"
import { STANDARD } from "../experiment/Arms.ts"
import type { Work, Workplace } from "../experiment/Job.ts"
import type { Files } from "../experiment/Train.ts"
import * as Jobs from "./Jobs.ts"
import { configOf, type IsolateError, type Lab, type Labs, type LocalizerRef, type ModelInput, type ModelRef, originOf,
  type SeedInput, trainedWeights, type UnlearnerRef, type Weights, withModel, workOf } from "./Models.ts"
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
  mode: Sink.SinkMode
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
const watched = ({ world }: Lab) => {
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

export const settingOf = <M extends LocalizerMethod | UnlearnerMethod>(
  methods: ReadonlyArray<M>,
  name: string,
  label: string
): { readonly method: M["method"]; readonly options: M["settings"][number]["options"] } => {
  const { method, settings } = methods.find((one) => one.name === name)!
  return { method, options: settings.find((setting) => setting.label === label)!.options }
}

// ---------------------------------------------------------------------------------------------------------------
// Models

const STANDARD_MODEL: ModelRef = { arm: STANDARD }

/** All that a model depends on. */
export const keyOfModel = (lab: Lab, model: ModelRef): Jobs.Key =>
  "arm" in model
    ? Jobs.model(lab, originOf(lab, model))
    : "localizer" in model
    ? Jobs.atPoint(sweepKey(lab, model), { fraction: model.fraction })
    : Jobs.atPoint(unlearningKey(lab, model), { step: model.step })

/** The weights of a model, made where they are not at hand. */
export const weightsOf = (
  labs: Labs,
  lab: Lab,
  model: ModelRef,
  at: Workplace
): Effect.Effect<Weights, IsolateError, Device | Files> =>
  Effect.gen(function*() {
    const standard = trainedWeights(labs, keyOfModel(lab, "arm" in model ? model : STANDARD_MODEL), at)
    if ("arm" in model) return yield* standard
    if ("localizer" in model) {
      const { value } = yield* scoresOf(labs, lab, model, at)
      return withoutNeurons(yield* standard,
        topFraction(value.map((layer) => Float32Array.from(layer)), model.fraction))
    }
    // the same steps again, which are the same bit for bit
    return yield* labs.unlearned(
      keyOfModel(lab, model),
      opened(labs, lab, STANDARD_MODEL, at, Effect.gen(function*() {
        yield* unlearn(lab, model, model.step, () => Effect.void, new Set())
        return yield* (yield* Model).exportTensors
      }))
    )
  })

/** Does something with a model on the device, or with its weights. */
export const opened = <A, E, R>(
  labs: Labs,
  lab: Lab,
  model: ModelRef,
  at: Workplace,
  use: Effect.Effect<A, E, R> | ((weights: Weights) => Effect.Effect<A, E, R>),
  precision: "f32" | "f16" = "f32"
): Effect.Effect<A, E | IsolateError, Exclude<R, Model> | Device | Files> =>
  Effect.flatMap(weightsOf(labs, lab, model, at), (weights) =>
    withModel(configOf(lab, model), weights, precision, typeof use === "function" ? use(weights) : use))

/** A job on a model, of which the key and the work are said. */
export const onModel = <Input extends ModelInput, A>(
  labs: Labs,
  key: (lab: Lab, of: Jobs.Key, input: Input) => Jobs.Key,
  what: (lab: Lab, input: Input) => string | undefined,
  use: (lab: Lab, input: Input) => Effect.Effect<A, IsolateError, Model | Device | Files>
): Work<Input, A> =>
  workOf<Input, A>(labs, (lab, input) => key(lab, keyOfModel(lab, input.model), input), (lab, input, at) => {
    const said = what(lab, input)
    const told = said === undefined ? Effect.void : at.stage(`seed ${lab.seed}: ${said}`)
    return Effect.zipRight(told, opened(labs, lab, input.model, at, use(lab, input)))
  })

/** With the seconds it took: kept with it, so that a resumed run tells them, too. */
const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.timed(effect), ([duration, value]) => ({ value, seconds: Duration.toSeconds(duration) }))

export interface LossesInput extends ModelInput {
  readonly state: "own" | "off"
}

/** Mean losses of the splits that sweeps are looked at by. */
export const lossesWork = (labs: Labs): Work<LossesInput, SplitLosses> =>
  onModel(labs, (_, of, { state }) => Jobs.losses(of, state), () => undefined, (lab, { state }) =>
    lossesOf(watched(lab), lab.world.seqLen, Sink.states[state].mode))

// ---------------------------------------------------------------------------------------------------------------
// Localizers

/** What localizers are given besides their own options. */
export const localizing = ({ seed, world: { seqLen } }: Lab) => ({
  seqLen,
  promptTokens: Math.max(1, Math.floor(seqLen / 4)),
  seed
})

const localizerKey = (lab: Lab, { localizer, panel, setting }: LocalizerRef): Jobs.Key => {
  const { method, options } = settingOf(lab.localizers, localizer, setting)
  return Jobs.localizer(keyOfModel(lab, STANDARD_MODEL), method, options, panel, localizing(lab))
}

const sweepKey = (lab: Lab, of: LocalizerRef): Jobs.Key =>
  Jobs.localizerSweep(localizerKey(lab, of), lab.config.fractions)

export type LocalizerInput = SeedInput & LocalizerRef

/** The scores of a localizer on the sequences of a panel. */
export const localizerWork = (labs: Labs) =>
  workOf<LocalizerInput, Scores>(labs, localizerKey, (lab, input, at) => localize(labs, lab, input, at))

interface Scores {
  /** By layer and neuron. */
  readonly value: ReadonlyArray<ReadonlyArray<number>>
  readonly seconds: number
}

const localize = (labs: Labs, lab: Lab, { localizer, panel, setting }: LocalizerRef, at: Workplace) => {
  const { canaryScored, canarySeen, scored, seen } = lab.world.splits
  const rows = panel === "canary" ? [...canarySeen, ...canaryScored] : [...seen, ...scored]
  const { method, options } = settingOf(lab.localizers, localizer, setting)
  return Effect.zipRight(
    at.stage(`seed ${lab.seed}: ${localizer} on ${panel} sequences`),
    opened(labs, lab, STANDARD_MODEL, at, timed(Effect.map(
      localizers[method].localize(rows, { ...localizing(lab), batchSize: Jobs.ROWS, ...options }),
      (scores) => scores.map((layer) => [...layer])
    )))
  )
}

const scoresOf = (labs: Labs, lab: Lab, of: LocalizerRef,
  at: Workplace): Effect.Effect<Scores, IsolateError, Device | Files> =>
  at.store.once("localizers", localizerKey(lab, of), localize(labs, lab, of, at))

/** Losses after each share of the neurons that a localizer ranks highest is dropped. */
export const localizerSweepWork = (labs: Labs) =>
  workOf<LocalizerInput, ReadonlyArray<{ readonly fraction: number; readonly losses: SplitLosses }>>(labs, sweepKey,
    (lab, input, at) =>
      Effect.gen(function*() {
        const scores = (yield* scoresOf(labs, lab, input, at)).value.map((layer) => Float32Array.from(layer))
        return yield* opened(labs, lab, STANDARD_MODEL, at, (weights) =>
          Effect.gen(function*() {
            const model = yield* Model
            return yield* Effect.forEach([0, ...lab.config.fractions], (fraction) =>
              Effect.gen(function*() {
                yield* model.importTensors(withoutNeurons(weights, topFraction(scores, fraction)))
                return { fraction, losses: yield* lossesOf(watched(lab), lab.world.seqLen, Sink.own) }
              }))
          }))
      }))

// ---------------------------------------------------------------------------------------------------------------
// Unlearners

/** The steps after which an unlearner is looked at. */
const lookedAt = (steps: number): ReadonlySet<number> => {
  const at = new Set([0, steps])
  for (let step = 1; step < steps; step *= 2) at.add(step)
  return at
}

const unlearningKey = (lab: Lab, { setting, unlearner }: UnlearnerRef): Jobs.Key => {
  const { method, options } = settingOf(lab.unlearners, unlearner, setting)
  return Jobs.unlearning(keyOfModel(lab, STANDARD_MODEL), method, options, lab.seed)
}

/** Runs an unlearner for so many steps; `look` is called after those in `at`. */
const unlearn = <E, R>(
  lab: Lab,
  { setting, unlearner }: UnlearnerRef,
  steps: number,
  look: (step: number) => Effect.Effect<void, E, R>,
  at: ReadonlySet<number>
) =>
  Effect.scoped(Effect.gen(function*() {
    const { method, options } = settingOf(lab.unlearners, unlearner, setting)
    const { seed, world: { seqLen, splits: { canaryScored, canarySeen, retained, scored, seen } } } = lab
    const { step } = yield* unlearners[method].start({
      forget: [...seen, ...scored, ...canarySeen, ...canaryScored],
      retain: retained,
      seqLen,
      seed
    }, options)
    if (at.has(0)) yield* look(0)
    for (let i = 1; i <= steps; i++) {
      yield* step
      if (at.has(i)) yield* look(i)
    }
  }))

export type UnlearnerInput = SeedInput & UnlearnerRef

interface Unlearned {
  readonly value: ReadonlyArray<{ readonly step: number; readonly losses: SplitLosses }>
  readonly seconds: number
}

/** Losses along the steps of an unlearner; of one that diverges those before. */
export const unlearnerWork = (labs: Labs) =>
  workOf<UnlearnerInput, Unlearned>(labs, unlearningKey, (lab, input, at) =>
    Effect.gen(function*() {
      const { steps } = settingOf(lab.unlearners, input.unlearner, input.setting).options
      yield* at.stage(`seed ${lab.seed}: ${input.unlearner} at ${input.setting}`)
      return yield* opened(labs, lab, STANDARD_MODEL, at, timed(Effect.gen(function*() {
        const points: Array<Unlearned["value"][number]> = []
        yield* unlearn(lab, input, steps, (step) =>
          Effect.map(lossesOf(watched(lab), lab.world.seqLen, Sink.own), (losses) => {
            points.push({ step, losses })
          }), lookedAt(steps)).pipe(
            // a model that was sound at step 0 and has diverged since: this setting ends there
            Effect.catchIf(
              ({ _tag }) => points.length > 0 && (_tag === "Diverged" || _tag === "DataError"),
              () => Effect.void
            )
          )
        return points
      })))
    }))
