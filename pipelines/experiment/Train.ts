/**
 * Training an arm to its end, once for all experiments: its memory is checked before its weights are allocated, and its events
 * are kept, so that a resumed arm's curves begin where the arm did.
 */
import type * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as AtomicFile from "../../src/AtomicFile.ts"
import { Checkpoints, type FileSystemOptions } from "../../src/checkpoints/Checkpoints.ts"
import type { InitialModel } from "../../src/checkpoints/Import.ts"
import { deadUnits, freshUnits } from "../../src/checkpoints/Units.ts"
import { Collective } from "../../src/collective/Collective.ts"
import { LISTED } from "../../src/data/identity/Names.ts"
import { DataStream } from "../../src/data/stream/DataStream.ts"
import { because, type CheckpointError, DataError } from "../../src/Errors.ts"
import { Device } from "../../src/gpu/Device.ts"
import { Model } from "../../src/model/Model.ts"
import type { ModelConfig } from "../../src/model/ModelConfig.ts"
import { appendLine, readEvents } from "../../src/runs/EventLog.ts"
import * as RunLock from "../../src/runs/RunLock.ts"
import { type Curve, curvesOf } from "../../src/runs/Runs.ts"
import * as TensorBoard from "../../src/runs/TensorBoard.ts"
import { isDenied, unitsOf } from "../../src/Sink.ts"
import { plural } from "../../src/Terminal.ts"
import * as DataParallel from "../../src/train/DataParallel.ts"
import { checkTraining } from "../../src/train/MemoryPlan.ts"
import * as Sharding from "../../src/train/Sharding.ts"
import { type TrainConfig, Trainer, type TrainerOptions, type TrainError,
  type TrainerService } from "../../src/train/Trainer.ts"
import * as TrainEvent from "../../src/train/TrainEvent.ts"

/** The files of runs. */
export type Files = FileSystem.FileSystem | Path.Path

/** An arm's events, kept beside its checkpoints. */
export interface EventLog {
  /** Forget what came after a step, and return what came before. */
  readonly rewind: (step: number) => Effect.Effect<ReadonlyArray<TrainEvent.TrainEvent>>
  readonly append: (event: TrainEvent.TrainEvent) => Effect.Effect<void>
}

/** What a run that goes on from a step keeps. Whatever else was told of the step is told again. */
const upTo = (events: ReadonlyArray<TrainEvent.TrainEvent>, step: number) =>
  step === 0 ?
    [] :
    events.filter((event) =>
      event.step < step || (event.step === step && event._tag !== "Finished" && event._tag !== "Started")
    )

export const eventsInMemory = (): EventLog => {
  let events: Array<TrainEvent.TrainEvent> = []
  return {
    rewind: (step) => Effect.sync(() => (events = upTo(events, step))),
    append: (event) => Effect.sync(() => void events.push(event))
  }
}

/**
 * One encoded event a line, and the same for TensorBoard. A file that cannot be read or written must not end hours of
 * training: it is logged once, and again when it is another reason.
 */
export const eventFile = (file: string, board: TensorBoard.Writer): EventLog => {
  let said = ""
  const warn = (problem: string) =>
    Effect.suspend(() => said === problem ? Effect.void : Effect.logWarning(`${file}: ${said = problem}`))
  return {
    rewind: (step) =>
      Effect.try(() => {
        const { events, torn } = readEvents(file)
        const before = upTo(events, step)
        AtomicFile.write(file, before.map(TrainEvent.toJsonLine).join(""))
        return { before, torn }
      }).pipe(
        Effect.tap(({ torn }) =>
          torn === 0 ? Effect.void : warn(`${torn === 1 ? "a line is" : `${torn} lines are`} damaged and left out`)
        ),
        Effect.map(({ before }) => before),
        Effect.catchAll(({ cause }) => Effect.as(warn(because(cause)), []))
      ),
    append: (event) =>
      Effect.try(() => appendLine(file, TrainEvent.toJsonLine(event))).pipe(
        Effect.catchAll(({ cause }) => warn(`an event is lost: ${because(cause)}`)),
        Effect.zipRight(board.write(event))
      )
  }
}

/** What a training leaves besides its weights. */
export interface Training {
  /** `train`, and evaluated losses such as `repeated.off`. */
  readonly curves: ReadonlyArray<Curve>
  /** Of all processes that took part, without evaluation and saving; 0 where nothing tells. */
  readonly seconds: number
}

/** Seconds that the steps up to one took, as their events tell; undefined where none does. */
const secondsUntil = (events: ReadonlyArray<TrainEvent.TrainEvent>, step: number): number | undefined => {
  if (step === 0) return 0
  const last = events.findLast((event) => event._tag === "Stepped")
  if (last === undefined) return undefined
  const seconds = last.seconds ?? last.tokens / last.tokensPerSecond
  // the steps of a window that was cut short are not told
  return Number.isFinite(seconds) && last.step > 0 ? seconds * step / last.step : undefined
}

/** Runs a trainer to its end. Events are kept before they are told: each once, in the order of their steps. */
export const trainToEnd = (
  trainer: TrainerService,
  tokensPerStep: number,
  log: EventLog,
  onEvent: (event: TrainEvent.TrainEvent) => Effect.Effect<void>
): Effect.Effect<Training, TrainError> =>
  Effect.gen(function*() {
    const told: Array<TrainEvent.TrainEvent> = []
    let seconds = 0
    /** Where this process began, and the seconds until then. */
    let first = 0
    let earlier: number | undefined = 0
    /** The step of the last checkpoint that was told of. */
    let saved = -1
    const note = (event: TrainEvent.TrainEvent) => {
      if (event._tag === "Stepped" || event._tag === "Evaluated") told.push(event)
      if (event._tag === "Saved") saved = event.step
    }
    /** With the time of the whole run. */
    const total = (own: number, step: number): number => {
      // of what was lost the speed of this process is the best guess
      const before = earlier ?? (step > first ? own * first / (step - first) : 0)
      return before + own
    }
    const withTotal = (event: TrainEvent.TrainEvent): TrainEvent.TrainEvent => {
      if (event._tag === "Stepped" && event.seconds !== undefined) {
        return new TrainEvent.Stepped({ ...event, seconds: total(event.seconds, event.step) })
      }
      if (event._tag !== "Finished") return event
      seconds = total(event.seconds, event.step)
      const tokensPerSecond = seconds > 0 ? event.step * tokensPerStep / seconds : 0
      return new TrainEvent.Finished({ ...event, seconds, tokensPerSecond })
    }
    const append = (event: TrainEvent.TrainEvent) => {
      if (event._tag === "Saved" && event.step === saved) return Effect.void
      note(event)
      return log.append(event)
    }
    /** Events that come together are kept together, before anyone who listens can be interrupted. */
    const keep = (events: ReadonlyArray<TrainEvent.TrainEvent>) =>
      Effect.uninterruptible(Effect.forEach(events, (event) =>
        Effect.gen(function*() {
          // a resumed arm's curves begin where the arm did; what ran after its checkpoint runs again
          if (event._tag === "Started") {
            const before = yield* log.rewind(event.step)
            before.forEach(note)
            first = event.step
            earlier = secondsUntil(before, first)
            // a process may have been killed when a checkpoint was complete and not told of yet
            if (event.from !== undefined && saved !== first) {
              yield* append(new TrainEvent.Saved({ step: first, path: event.from }))
            }
          }
          yield* append(event)
        }), { discard: true }))
    yield* trainer.run.pipe(
      Stream.chunks,
      Stream.map((events) => Array.from(events, withTotal)),
      Stream.tap((events) => Effect.zipRight(keep(events), Effect.forEach(events, onEvent, { discard: true }))),
      Stream.runDrain,
      // before it is told that the run was interrupted
      Effect.ensuring(Effect.flatMap(trainer.untold, (events) => keep(events.map(withTotal))))
    )
    return { curves: curvesOf(told, tokensPerStep), seconds }
  })

/** What a training arm keeps, and what outlives a lost device. */
export interface Kept {
  /** Undefined: all is kept in memory. */
  readonly folder: string | undefined
  readonly checkpoints: Layer.Layer<Checkpoints, CheckpointError, Files>
  readonly events: EventLog
}

/** What an arm keeps in a folder, where what is there goes on, or in memory. */
export const keep = (
  folder: string | undefined,
  options: Omit<FileSystemOptions, "resume"> = {}
): Effect.Effect<Kept, CheckpointError, Path.Path> =>
  Effect.gen(function*() {
    if (folder === undefined) {
      // built once and kept, so that it outlives a lost device
      const memory = yield* Effect.scoped(Effect.provide(Checkpoints, Checkpoints.layerMemory))
      return { folder, checkpoints: Layer.succeed(Checkpoints, memory), events: eventsInMemory() }
    }
    /** Whoever was stopped for so long that another process went on in its place saves nothing over it. */
    const ours = (checkpoints: typeof Checkpoints.Service): typeof Checkpoints.Service => ({
      ...checkpoints,
      save: (snapshot) => Effect.zipRight(RunLock.stillOurs(folder), checkpoints.save(snapshot))
    })
    return {
      folder,
      checkpoints: Layer.map(Checkpoints.layerFileSystem(folder, { ...options, resume: true }),
        (context) => Context.make(Checkpoints, ours(Context.get(context, Checkpoints)))),
      events: eventFile((yield* Path.Path).join(folder, "metrics.jsonl"), TensorBoard.writer(folder))
    }
  })

/** What is trained, and how. */
export interface ArmTraining {
  readonly model: ModelConfig
  readonly training: TrainConfig
  readonly seed: number
  /** Of activations. Default f32. */
  readonly precision?: "f32" | "f16"
  /** Keep less and compute each block once more on the way back. Default false. */
  readonly recompute?: boolean
  /** A model to begin with: its weights, what ends a text for it, its names and deletions. Default: drawn from the seed. */
  readonly initial?: Pick<InitialModel, "deletions" | "ends" | "names" | "tensors">
}

/** What a training leaves besides its weights; JSON. */
export interface TrainedArm extends Training {
  readonly adapter: string
  readonly parameters: number
  readonly activeParameters: number
  readonly steps: number
  readonly tokens: number
  /** Of several ranks, what each did; of a resumed training since then. */
  readonly ranks?: ReadonlyArray<DataParallel.RankReport>
}

/**
 * Weights to go on from, in which units of sinks that were erased begin afresh: what is all 0 cannot learn, and whoever lights it,
 * new or old, would have so many sinks less without being told.
 */
export const revived = (
  model: ModelConfig,
  data: Pick<typeof DataStream.Service, "names">,
  tensors: InitialModel["tensors"],
  seed: number
): Effect.Effect<InitialModel["tensors"], DataError> =>
  Effect.gen(function*() {
    const dead = deadUnits(model, tensors)
    if (dead.length === 0) return tensors
    const erased = new Set(dead)
    const lit = ((yield* data.names)?.ids ?? []).filter(({ id }) =>
      !isDenied(model.sinks!, id) && unitsOf(model.sinks!, id).some((unit) => erased.has(unit))
    )
    yield* Effect.logWarning(
      `${plural(dead.length, "block")} of sinks were erased: they begin afresh, and ${
        lit.length === 0
          ? "none of the data's ids lights them"
          : `${plural(lit.length, "id")} of the data light some, such as ${JSON.stringify(lit[0]!.name)}`
      }`
    )
    return freshUnits(model, tensors, dead, seed)
  })

/** A model whose sinks are shared out over the ids of the data, where that is to be known before. */
export const withOwners = (
  model: ModelConfig,
  data: Pick<typeof DataStream.Service, "names">
): Effect.Effect<ModelConfig, DataError> =>
  model.sinks?.assignment !== "disjoint" ?
    Effect.succeed(model) :
    Effect.flatMap(data.names, (names) =>
      names === undefined
        ? Effect.fail(
          new DataError({
            detail:
              `sinks.assignment "disjoint" lists every id, and the data has more than ${
                LISTED.toLocaleString("en")
              }: ` +
              "let ids stand for sources (data.identity), or set it to \"permutation\""
          })
        )
        : Effect.succeed(model.withOwners(names.ids.map(({ id }) => id))))

/**
 * Trains an arm on the data that is there, from where its checkpoints stand to its end. Fails before any weight is allocated
 * where the model, its gradients, optimizer and activations do not fit the device.
 *
 * @param hooks `observe` looks at the model between the steps; `measure` is done with the Trainer at the end of training,
 *   `after` with the model alone, when all that training took is free again
 */
export const trainArm = <A = undefined, B = undefined>(
  { initial, model: asked, precision = "f32", recompute = false, seed, training }: ArmTraining,
  kept: Pick<Kept, "checkpoints" | "events">,
  hooks: {
    readonly onEvent: (event: TrainEvent.TrainEvent) => Effect.Effect<void>
    readonly observe?: Effect.Effect<TrainerOptions, TrainError, Device | DataStream | Files | Model | Scope.Scope>
    readonly measure?: Effect.Effect<A, TrainError,
      Device | DataStream | Files | Model | Trainer | Checkpoints | Scope.Scope>
    readonly after?: Effect.Effect<B, TrainError, Device | DataStream | Files | Model | Scope.Scope>
  }
): Effect.Effect<
  TrainedArm & { readonly measured: A; readonly after: B },
  TrainError,
  Device | DataStream | Files
> =>
  Effect.gen(function*() {
    const data = yield* DataStream
    const device = yield* Device
    const collective = yield* Collective
    const { context, model, observed, tensors } = yield* DataParallel.onAll(
      collective,
      Effect.gen(function*() {
        const model = yield* withOwners(asked, data)
        yield* checkTraining(model, data, device, training, { precision, recompute })
        const divided = training.diloco === undefined
        const context = yield* Layer.build(Model.layer(model, { seed, precision, recompute, divided }))
        // a resumed run goes over these with its checkpoint
        const tensors = initial && (yield* revived(model, data, initial.tensors, seed))
        if (tensors !== undefined) yield* Context.get(context, Model).importTensors(tensors)
        const observed = hooks.observe === undefined ? {} : yield* Effect.provide(hooks.observe, context)
        return { context, model, observed, tensors }
      })
    )
    yield* Sharding.dealInitial(collective, device, Context.get(context, Model), tensors)
    const options: TrainerOptions = {
      ...observed,
      ...(initial === undefined ? {} : { ends: initial.ends, names: initial.names, deletions: initial.deletions })
    }
    const trained = yield* Effect.gen(function*() {
      const trainer = yield* Trainer
      const tokensPerStep = data.batchSize * data.seqLen * training.gradientAccumulation
      const exchanged = DataParallel.measured(collective)
      const { curves, seconds } = yield* DataParallel.onAll(
        collective,
        trainToEnd(trainer, tokensPerStep, kept.events, hooks.onEvent)
      )
      const { rank, size } = collective
      const tokens = yield* trainer.computed
      const own = { rank, host: collective.hosts[rank]!, adapter: device.name, seconds, tokens, ...exchanged() }
      const ranks = size === 1 ? undefined : yield* DataParallel.gathered(collective, own)
      return {
        ...(ranks === undefined ? {} : { ranks }),
        adapter: device.name,
        curves,
        parameters: model.numParameters,
        activeParameters: model.numActiveParameters,
        steps: trainer.steps,
        tokens: trainer.steps * tokensPerStep,
        seconds,
        measured: (hooks.measure === undefined ? undefined : yield* hooks.measure) as A
      }
    }).pipe(Effect.provide(
      Trainer.layer(training, options).pipe(
        Layer.provideMerge(Layer.merge(Layer.succeedContext(context), kept.checkpoints))
      )
    ))
    const after = (hooks.after === undefined ? undefined : yield* Effect.provide(hooks.after, context)) as B
    return { ...trained, after }
  }).pipe(Effect.scoped)
