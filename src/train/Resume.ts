/**
 * What a checkpoint keeps of a run, and going on from it: the saved state's schema, what may change in between, and all
 * that must be the same.
 */
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Schema from "effect/Schema"
import { Checkpoints, type Snapshot } from "../checkpoints/Checkpoints.ts"
import { atLeast0, decodeWith, fraction, natural, rate } from "../Config.ts"
import { decodeNames, type NamedId, type Names, namesFile } from "../data/identity/Names.ts"
import { type Tally, tallyOf } from "../data/identity/NamesFile.ts"
import { ownedSinks } from "../data/identity/OwnedSinks.ts"
import type { Cursor, DataStream } from "../data/stream/DataStream.ts"
import { changedInputs, type Input, notTheSameData } from "../data/stream/Inputs.ts"
import { sameTokenizer } from "../data/tokens/SameTokenizer.ts"
import { attempt, CheckpointError, DataError, type DeviceError } from "../Errors.ts"
import type { DeviceService } from "../gpu/Device.ts"
import { machineOf, sameMachine } from "../gpu/Machine.ts"
import type * as Tensor from "../gpu/Tensor.ts"
import { upload } from "../gpu/Upload.ts"
import type { HostTensor } from "../HostTensor.ts"
import { firstNotFinite } from "../HostTensor.ts"
import { differences } from "../Json.ts"
import { endIds, fromHuggingFace, huggingFaceConfig, type TextEnds, toHuggingFace } from "../model/HuggingFace.ts"
import type { ModelService } from "../model/Model.ts"
import type * as Ops from "../model/Ops.ts"
import { cut } from "../model/Parameters.ts"
import { isDenied } from "../Sink.ts"
import * as Optimizer from "./Optimizer.ts"

/** A field of a run's configuration that a resumed run may change. */
export interface Changeable {
  readonly field: string
  /** `more`: only to a greater number. */
  readonly to: "any" | "more"
  /** Why it is the same run still, in words. */
  readonly why: string
}

const watched = "what is looked at and kept, not what is learned"

/** All that a resumed run may change; everything else decides what was learned. */
export const mayChange: ReadonlyArray<Changeable> = [
  {
    field: "training.steps",
    to: "more",
    why:
      "the schedule is that of the new total from the next step on: a constant rate stays what it was, wsd goes back to " +
      "its peak and decays at the new end, cosine and linear are stretched, so that the rate rises to where they would be"
  },
  ...["logEvery", "evalEvery", "evalSequences", "saveEvery", "saveLogSpaced", "saveBest"].map((name) => ({
    field: `training.${name}`,
    to: "any" as const,
    why: watched
  }))
]

const isScaler = Schema.is(Schema.partial(Schema.Tuple(rate, atLeast0, fraction, fraction, atLeast0, atLeast0)))

/** trainer_state.json: what a checkpoint keeps of a run beside weights and moments. */
const TrainerState = Schema.Struct({
  step: natural,
  cursor: Schema.Struct({ epoch: natural, batch: natural }),
  steps: natural,
  config: Schema.Unknown,
  /** Of mixed precision: see `Optimizer.scaler`. Earlier versions kept fewer of them. */
  lossScale: Schema.optional(Schema.Array(Schema.Number).pipe(
    Schema.filter((values) => isScaler(values) || "expected the state of a loss scale, of numbers that it can have")
  )),
  /** It was interrupted before the evaluation that its step was due for. */
  unsettled: Schema.optional(Schema.Boolean),
  /** What the run has been trained on; runs of before this was kept go on without. */
  inputs: Schema.optional(Schema.Array(Schema.Struct({ what: Schema.String, sha256: Schema.String }))),
  /** What computes it. */
  machine: Schema.optional(Schema.Struct({ adapter: Schema.String, kernels: Schema.String }))
})
type TrainerState = typeof TrainerState.Type

/** What `trainer_state.json` of a checkpoint of a step says. Left says in words what cannot be. */
export const decodeState = (value: unknown, step: number): Either.Either<TrainerState, string> =>
  decodeWith(TrainerState, value, "ignore").pipe(
    Either.mapLeft((lines) => lines.slice(0, 5).join("; ")),
    Either.filterOrLeft(
      (state) => state.step === step && step <= state.steps,
      (state) => `it is of step ${state.step} of ${state.steps}, the checkpoint of step ${step}`
    )
  )

/** Where a run stands. */
export interface Place {
  /** Steps taken. */
  readonly step: number
  /** The batch that comes next. */
  readonly cursor: Cursor
  /** Its last step has been trained, and what is due after it is not done. */
  readonly unsettled: boolean
}

/** All of a run that its checkpoints hold, or are compared with. */
export interface Resumable {
  readonly device: DeviceService
  /** The values of a weight or moment with all sinks, where ranks share these out. Default: as they are on the device. */
  readonly read?: (tensor: Tensor.Tensor) => Effect.Effect<Float32Array, DeviceError>
  readonly model: ModelService
  readonly data: Context.Tag.Service<DataStream>
  readonly optimizer: Optimizer.Optimizer
  /** Of DiLoCo: what its outer optimizer keeps of every parameter. */
  readonly outer?: ReadonlyArray<{ readonly parameter: Ops.Parameter; readonly momentum: Float32Array }> | undefined
  readonly settings: Optimizer.OptimizerConfig
  /** Its TrainConfig, encoded. */
  readonly training: object
  /** Of the whole run. */
  readonly steps: number
  /** What begins and ends a text, where the files of the model that training started from say it. */
  readonly ends: TextEnds | undefined
  /** What was deleted from the model that training started from. */
  readonly deletions: string | undefined
  readonly inputs: ReadonlyArray<Input>
  /** What `sources.parquet` tells, and counts, where there are sinks. */
  readonly names: Tally | undefined
}

/** A training stream's inputs, and what its ids are called: with those of the model it starts from that it does not show. */
export const contentsOf = ({ data, model }: Pick<Resumable, "data" | "model">, before?: Names): Effect.Effect<
  Pick<Resumable, "inputs" | "names">,
  DataError
> =>
  Effect.gen(function*() {
    // whose sinks they are matters where there are any
    const named = model.config.sinks === undefined ? undefined : yield* data.names
    const inputs = yield* data.inputs
    if (named === undefined) return { names: undefined, inputs }
    const back = named.ids.filter(({ id }) => isDenied(model.config.sinks!, id))
    if (before !== undefined && !["source", "content"].includes(named.identity)) {
      for (const one of back) {
        const was = yield* before.get(one.id)
        if (was?.name === one.name) continue
        return yield* new DataError({
          detail:
            `the model's id ${one.id} was deleted${
              was === undefined ? "" : ` as ${JSON.stringify(was.name)}`
            }, and stands ` +
            `for ${
              JSON.stringify(one.name)
            } in this data, whose sinks would stay off: numbers of rows and documents mean ` +
            "others in other data. Set data.identity to \"content\" or \"source\", whose ids follow from texts and names"
        })
      }
    }
    if (back.length > 0) {
      yield* Effect.logWarning(
        `the data holds ${back.length} of what was deleted from the model, such as ${
          JSON.stringify(back[0]!.name)
        }: it ` +
          "lights no sinks, so the general neurons learn it again. Leave it out of the data"
      )
    }
    const ids: Array<NamedId> = named.ids.map((one) => ({ ...one, exposures: 0 }))
    // numbers of rows and documents mean others in other data
    if (before?.identity === named.identity && ["source", "content"].includes(named.identity)) {
      const shown = new Set(named.ids.map(({ id }) => id))
      yield* before.each((one) => {
        if (!shown.has(one.id)) ids.push(one)
      })
    }
    const owned = ownedSinks(model.config.sinks!, ids)
    const all = owned === undefined ? ids : ids.map((one, i): NamedId => ({ ...one, ...owned(i) }))
    return { names: tallyOf({ identity: named.identity, ids: all }), inputs }
  })

const trainingOf = ({ model, training }: Resumable) => ({ ...training, precision: model.precision })

const suffixes = [["exp_avg", "m"], ["exp_avg_sq", "v"]] as const

/** What moments are of. */
export type Moving = Pick<Resumable, "device" | "model" | "optimizer" | "outer" | "read">

const OUTER = "outer_momentum"

const wholeValues = ({ device, read }: Moving, tensor: Tensor.Tensor) =>
  read?.(tensor) ?? Effect.map(device.read(tensor), (values) => values as Float32Array)

/** The optimizer's moments, as a checkpoint has them. */
export const readMoments = (run: Moving) =>
  Effect.gen(function*() {
    const { model, optimizer, outer = [] } = run
    const out: Record<string, HostTensor> = {}
    for (const moments of optimizer.moments) {
      for (const [suffix, key] of suffixes) {
        const values = yield* wholeValues(run, moments[key])
        for (const [name, host] of toHuggingFace(model.config, moments.parameter.name, values)) {
          out[`${name}.${suffix}`] = host
        }
      }
    }
    for (const { momentum, parameter } of outer) {
      for (const [name, host] of toHuggingFace(model.config, parameter.name, momentum.slice())) {
        out[`${name}.${OUTER}`] = host
      }
    }
    return out
  })

/** The tensors of a checkpoint's optimizer with a suffix, without it. */
const withSuffix = (saved: Snapshot["optimizer"], suffix: string): Snapshot["optimizer"] =>
  Object.fromEntries(
    Object.entries(saved)
      .filter(([name]) => name.endsWith(`.${suffix}`))
      .map(([name, tensor]) => [name.slice(0, -suffix.length - 1), tensor])
  )

/** A parameter's value out of tensors of a checkpoint. */
export const savedValue = (
  { config }: Pick<ModelService, "config">,
  { name }: Ops.Parameter,
  named: Snapshot["optimizer"],
  path: string
): Effect.Effect<Float32Array, CheckpointError> =>
  attempt(() => fromHuggingFace(config, name, named, path), CheckpointError)

/** The moments that a checkpoint has, each with the parameter that it is of. */
const savedMoments = ({ model, optimizer }: Moving, saved: Snapshot["optimizer"], path: string) =>
  suffixes.flatMap(([suffix, key]) => {
    const named = withSuffix(saved, suffix)
    return optimizer.moments.map(({ parameter, [key]: tensor }) => ({ parameter, tensor,
      whole: savedValue(model, parameter, named, path) })
    )
  })

/** The weights and moments that a checkpoint has, of parameters with sinks. */
export const savedSinks = (run: Moving, { model, optimizer }: Pick<Snapshot, "model" | "optimizer">, path: string) =>
  [
    ...run.model.parameters.map((parameter) => ({ parameter, tensor: parameter.value,
      whole: savedValue(run.model, parameter, model, path) })
    ),
    ...savedMoments(run, optimizer, path)
  ].filter(({ parameter }) => parameter.sinkRow0 !== undefined)

/** Puts back what `readMoments` gave. */
export const writeMoments = (
  run: Moving,
  saved: Snapshot["optimizer"],
  path: string
): Effect.Effect<void, CheckpointError | DeviceError> => {
  const { device, model, outer = [] } = run
  return Effect.gen(function*() {
    yield* upload(
      device,
      savedMoments(run, saved, path).map(({ parameter, tensor, whole }) =>
        [tensor, Effect.map(whole, (values) => cut(model.config, parameter, values, model.slice))] as const
      )
    )
    const named = withSuffix(saved, OUTER)
    for (const { momentum, parameter } of outer) momentum.set(yield* savedValue(model, parameter, named, path))
  })
}

/** Reads everything that a checkpoint holds; `loss` is that of an evaluation at this very step. */
export const capture = (run: Resumable, place: Place, loss: number | undefined): Effect.Effect<Snapshot, DeviceError> =>
  Effect.gen(function*() {
    const { data, deletions, device, ends, inputs, model, names, optimizer, steps } = run
    const { cursor, step, unsettled } = place
    const tensors: Record<string, HostTensor> = {}
    for (const { name, value } of model.parameters) {
      const values = yield* wholeValues(run, value)
      for (const [key, tensor] of toHuggingFace(model.config, name, values)) tensors[key] = tensor
    }
    const moments = yield* readMoments(run)
    const lossScale = optimizer.scaler === undefined ? undefined : yield* device.read(optimizer.scaler)
    const trainerState: TrainerState = {
      step,
      cursor,
      steps,
      config: trainingOf(run),
      ...(unsettled ? { unsettled } : {}),
      inputs,
      machine: machineOf(device),
      ...(lossScale === undefined ? {} : { lossScale: [...lossScale] })
    }
    return {
      step,
      config: { ...huggingFaceConfig(model.config), ...(ends === undefined ? {} : endIds(ends)) },
      model: tensors,
      optimizer: moments,
      trainerState,
      tokenizer: data.tokenizer.toJSON(),
      names: names?.encode(),
      deletions,
      ...(loss === undefined ? {} : { loss })
    }
  })

/** What was changed of a configuration and may not be, a line each. */
const forbidden = (run: Resumable, snapshot: Snapshot, state: TrainerState): ReadonlyArray<string> => {
  const free = (field: string): boolean => {
    const rule = mayChange.find((one) => one.field === field)
    // steps are the only number that may but grow
    return rule !== undefined && (rule.to === "any" || run.steps > state.steps)
  }
  // which tokens end a text decides nothing of what was learned
  const { bos_token_id: _, eos_token_id: __, ...model } = Object(snapshot.config) as Record<string, unknown>
  return differences(
    { config: huggingFaceConfig(run.model.config), training: { ...trainingOf(run), steps: run.steps } },
    // runs of before there was a choice were f32
    { config: model, training: { precision: "f32", ...(state.config as object), steps: state.steps } }
  ).filter((line) => !free(line.split(" ")[0]!))
}

/** The saved state of a checkpoint that this very run may go on from: same configuration, data, machine, sound numbers. */
const check = (run: Resumable, snapshot: Snapshot,
  path: string): Effect.Effect<TrainerState, CheckpointError | DataError> =>
  Effect.gen(function*() {
    const { data, device, inputs } = run
    const mismatch = (detail: string) => new CheckpointError({ reason: "Mismatch", path, detail })
    const state = yield* Either.mapLeft(decodeState(snapshot.trainerState, snapshot.step),
      (detail) => mismatch(`trainer_state.json is not one of a training run: ${detail}`))
    const differing = forbidden(run, snapshot, state)
    if (differing.length > 0) {
      return yield* mismatch(
        `the run was started with another configuration:\n  ${differing.join("\n  ")}\n` +
          "Resume with the same one, or start in another folder"
      )
    }
    if (snapshot.tokenizer !== undefined && !sameTokenizer(snapshot.tokenizer, data.tokenizer.toJSON())) {
      return yield* mismatch("the run's tokenizer is not the one of this data: resume with the same data")
    }
    // what is on the disk must be what its checksums say, before those are compared
    yield* data.verify
    const changed = state.inputs === undefined ? [] : changedInputs(inputs, state.inputs)
    if (changed.length > 0) return yield* mismatch(notTheSameData(changed))
    yield* sameMachine(machineOf(device), state.machine, path)
    for (const [name, { data }] of [...Object.entries(snapshot.model), ...Object.entries(snapshot.optimizer)]) {
      const at = firstNotFinite(data)
      if (at < 0) continue
      const detail = `tensor ${name} holds ${data[at]} at ${at}: training cannot go on from it. Resume from an ` +
        "earlier checkpoint (remove this one), with a lower learningRate"
      return yield* new CheckpointError({ reason: "Corrupt", path, detail })
    }
    return state
  })

/** What becomes of the learning rate of a run that was to be shorter. */
const stretched = (schedule: Optimizer.OptimizerConfig["schedule"], step: number, before: number,
  steps: number): string =>
  `the run was planned for ${before} steps and now has ${steps}: from step ${step} on its learning rate ` + (
    schedule === "constant"
      ? "stays what it was"
      : schedule === "wsd"
      ? `is that of ${steps} steps (wsd): at its peak again, with its decay at the new end`
      : `is that of ${steps} steps (${schedule}): it rises to where such a run would be, and differs from one planned so at first`
  )

/** Where a resumed run stands. */
export interface Resumed extends Place {
  /** The checkpoint it goes on from. */
  readonly path: string
  /** The lowest validation loss of the checkpoints that are still there; Infinity where none has one. */
  readonly best: number
}

/**
 * Goes on from the latest checkpoint: weights and moments are written to the device. Undefined where there is none yet; else where
 * it stands, and what the checkpoint holds. A checkpoint that is not of this run is refused with a CheckpointError Mismatch,
 * before anything is written.
 */
export const restore = (run: Resumable): Effect.Effect<
  { readonly resumed: Resumed; readonly snapshot: Snapshot } | undefined,
  CheckpointError | DataError | DeviceError,
  Checkpoints
> =>
  Effect.gen(function*() {
    const checkpoints = yield* Checkpoints
    const existing = yield* checkpoints.list
    if (existing.length === 0) return undefined
    const snapshot = yield* checkpoints.load("latest")
    const path = existing.find((saved) => saved.step === snapshot.step)?.path ?? checkpoints.location
    const state = yield* check(run, snapshot, path)
    if (run.names !== undefined) {
      run.names.restore(undefined)
      const before = snapshot.names === undefined
        ? undefined
        : yield* decodeNames(snapshot.names, `${path}/${namesFile}`)
      yield* before?.each(run.names.restore) ?? Effect.void
    }
    yield* run.model.importTensors(snapshot.model)
    yield* writeMoments(run, snapshot.optimizer, path)
    if (run.optimizer.scaler !== undefined) {
      run.device.write(run.optimizer.scaler, Optimizer.scalerState(run.settings, state.step, state.lossScale))
    }
    if (run.steps > state.steps) {
      yield* Effect.logWarning(stretched(run.settings.schedule, state.step, state.steps, run.steps))
    }
    const best = existing.reduce((lowest, { loss }) => Math.min(lowest, loss ?? Infinity), Infinity)
    const { cursor, step, unsettled = false } = state
    return { snapshot, resumed: { step, cursor, unsettled, path, best } }
  })
