/**
 * An experiment is a value: what it plans, what it does on a device, and what it makes of that. What all experiments have in
 * common is done here, once: the folder and its lock, data that is recorded, memory that is checked before anything is
 * trained, the store, devices that are lost, arms that fail, and the report in every form.
 */
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { Input } from "../../src/data/stream/Inputs.ts"
import { because, type CheckpointError, DataError, type DeviceError } from "../../src/Errors.ts"
import { Device } from "../../src/gpu/Device.ts"
import { type Machine, machineOf } from "../../src/gpu/Machine.ts"
import { checkTraining } from "../../src/train/MemoryPlan.ts"
import type { TrainError } from "../../src/train/Trainer.ts"
import type { Failure } from "../report/Failure.ts"
import { toHtml, toMarkdown } from "../report/render.ts"
import type { View } from "../report/View.ts"
import { doJob, keeping, noDevice } from "./Doing.ts"
import type { Event } from "./Event.ts"
import * as Failures from "./Failures.ts"
import { type Ask, type HandOut, inProcess, type Job, type Once, type Place, type Runner, type Work } from "./Job.ts"
import { againWhenLost, claimFolder, type FolderOptions, writeJson, writeText } from "./RunFolder.ts"
import { memoryStore, openStore, type Store } from "./Store.ts"
import { makeStreams, type Streams } from "./Streams.ts"
import type { ArmTraining, Files, keep } from "./Train.ts"

export interface RunOptions extends FolderOptions {
  /** Rebuilt when the device is lost, so it must be a layer of its own: `NodeDevice.layer()`. */
  readonly device: Layer.Layer<Device, DeviceError>
  /** Where the report, and what jobs keep, go. Default: nowhere, all stays in memory. */
  readonly outDir?: string
  /** A folder, or `s3://bucket/prefix`, of results that several experiments share. Default: `store` in the run's folder. */
  readonly store?: string
  /** Where trained tokenizers are remembered. Default: nowhere. */
  readonly cacheDirectory?: string
  /** Arms that are trained at once, as far as memory goes. Default 1. */
  readonly concurrency?: number
  /** What does the jobs. Default: this process, `concurrency` at a time. */
  readonly runner?: Runner
  /** Has workers do the jobs, wherever they are, in place of this process. They must share `store` and `outDir`. */
  readonly queue?: HandOut
  readonly onEvent?: (event: Event) => Effect.Effect<void>
}

/** What something is an affair of: an arm with a seed. */
export type Named = Pick<Job, "arm" | "seed">

/** What an experiment does its work with. */
export interface Engine {
  readonly outDir: string | undefined
  readonly machine: Machine
  readonly streams: Streams
  readonly store: Store
  readonly runner: Runner
  readonly stage: (message: string) => Effect.Effect<void>
  readonly onEvent: (event: Event) => Effect.Effect<void>
  /** Tells what failed, and keeps it for the report. */
  readonly onFailure: (failure: Failure) => Effect.Effect<void>
  /**
   * Does what is one arm's own affair: none where it failed, which is told, and does not take the others with it. Fails where
   * that concerns all. `what`: the part of it that is done, which the failure's message begins with.
   */
  readonly attempt: <A, E extends TrainError, R>(
    of: Named & { readonly what?: string },
    effect: Effect.Effect<A, E, R>
  ) => Effect.Effect<Option.Option<A>, E, R>
  /** What is made once a run, by a name of its own: it outlives a lost device. What failed is made again. */
  readonly once: Once
  /**
   * Does jobs, each only where its result is not known. None of one that failed, which is told, and does not take the others
   * with it.
   */
  readonly perform: <Input, Output>(
    work: Work<Input, Output>,
    jobs: ReadonlyArray<Job<Input>>,
    options?: {
      /** Where a job's result and what it keeps lie in the run's folder. Default: in the store, by the hash of its key. */
      readonly folderOf?: (job: Named) => string
      /** What of a job's checkpoints stays. Default: the last one. */
      readonly keep?: Parameters<typeof keep>[1]
      /** What a trace calls it. Default `train`. */
      readonly span?: string
    }
  ) => Effect.Effect<ReadonlyArray<Option.Option<Output>>, TrainError, Device | Files>
}

/** A training that a run will do, with its own model, batches, schedule and routing. */
export type PlannedTraining = Omit<ArmTraining, "seed" | "initial"> & {
  readonly data: { readonly batchSize: number; readonly seqLen: number; readonly maxSegments: number }
}

/** What a configuration comes to, before a device is opened. */
export interface Plan<Config, Found, Report> {
  readonly config: Config
  readonly seeds: ReadonlyArray<number>
  readonly arms: ReadonlyArray<string>
  /** What the run is made of. */
  readonly inputs: Effect.Effect<ReadonlyArray<Input>, DataError, Files>
  /** That the data is as it was written, which is asked before anything is made. Default: it is. */
  readonly verify?: Effect.Effect<void, DataError, Files>
  /** Told with the name of the device: `training`. */
  readonly title: string
  /** Whether all is computed on the host, so that no device is opened. Default false. */
  readonly onHost?: boolean
  /** All that is trained: each must fit the device before any is begun. Default: nothing. */
  readonly trainings?: Effect.Effect<ReadonlyArray<PlannedTraining>, TrainError, Files>
  readonly work: (engine: Engine) => Effect.Effect<Found, TrainError, Device | Files>
  /** `error`: why, where nothing is left, which is that of the first that failed, unless it was a bug. */
  readonly report: (found: Found, run: Ended, error: TrainError) => Effect.Effect<Report, TrainError>
}

/** What every report says of how it came about. */
export interface Ended {
  readonly adapter: string
  readonly seeds: ReadonlyArray<number>
  /** The configuration, encoded. */
  readonly config: any
  /** What failed, in the order in which it was told. */
  readonly failures: ReadonlyArray<Failure>
  readonly seconds: number
  readonly versions: Readonly<Record<string, string>>
}

/** `Given`: what it is asked for with, which its plan makes a `Config` of. */
export interface Experiment<Given, Config, Found, Report> {
  /** The command that runs it. */
  readonly kind: string
  readonly schema: Schema.Schema<Config, any>
  /** Whether a run may go on although this field, by its path, differs from what it was. Default: it may not. */
  readonly longer?: (field: string, now: unknown, was: unknown) => boolean
  /** How it goes on when a device is lost: `from the last checkpoint`. */
  readonly again: string
  readonly plan: (
    given: Given,
    context: { readonly resume: boolean; readonly streams: Streams; readonly stage: Engine["stage"] }
  ) => Effect.Effect<Plan<Config, Found, Report>, TrainError, Files | Scope.Scope>
  /** What `report.json` holds. */
  readonly encode: (report: Report) => unknown
  /** What `report.md` and `report.html` show. */
  readonly view: (report: Report) => View
  /** Other files of a report in the run's folder, by their names: `sweep.csv`. */
  readonly files?: (report: Report) => Promise<Readonly<Record<string, string | Uint8Array>>>
}

const NOTHING = Effect.succeed<ReadonlyArray<PlannedTraining>>([])

/** Leaves a report in a run's folder, in every form. */
const writeReport = <Report>(
  outDir: string,
  { encode, files, view }: Pick<Experiment<never, never, never, Report>, "encode" | "files" | "view">,
  report: Report
): Effect.Effect<void, CheckpointError, Path.Path> =>
  Effect.gen(function*() {
    const path = yield* Path.Path
    yield* writeJson(path.join(outDir, "report.json"), encode(report))
    const drawn = Effect.promise(async (): Promise<Readonly<Record<string, string | Uint8Array>>> => {
      const shown = view(report)
      return { "report.md": toMarkdown(shown), "report.html": await toHtml(shown), ...await files?.(report) }
    })
    // a picture that cannot be drawn costs no numbers
    const all = yield* Effect.catchAllDefect(drawn,
      (defect) => Effect.as(Effect.logWarning(`the report cannot be drawn: ${because(defect)}`), {}))
    yield* Effect.forEach(Object.entries(all), ([name, data]) => writeText(path.join(outDir, name), data), {
      discard: true
    })
  })

/**
 * Runs an experiment and reports. Interruptible at any moment: what is done is kept, and a later call with `resume` goes on
 * from there. An arm that fails is reported and does not take the others with it.
 */
export const run = <Given, Config, Found, Report>(
  experiment: Experiment<Given, Config, Found, Report>,
  given: Given,
  options: RunOptions
): Effect.Effect<Report, TrainError, Files> =>
  Effect.gen(function*() {
    const began = performance.now()
    const { concurrency = 1, outDir, runner = inProcess(concurrency) } = options
    if (!(Number.isSafeInteger(concurrency) && concurrency >= 1)) {
      return yield* new DataError({ detail: `concurrency must be a whole number of at least 1, got ${concurrency}` })
    }
    const path = yield* Path.Path
    const onEvent = options.onEvent ?? (() => Effect.void)
    const stage = (message: string) => onEvent({ _tag: "Stage", message })
    const streams = yield* makeStreams(
      options.cacheDirectory === undefined ? {} : { cacheDirectory: options.cacheDirectory }
    )
    // data that will not do must not leave a folder behind, or open a device
    const plan = yield* experiment.plan(given, { resume: options.resume ?? false, streams, stage })
    // whatever has a checksum is read once as a whole: damaged shards would train another model without a word
    yield* plan.verify ?? Effect.void
    const recording = outDir === undefined ? undefined : yield* claimFolder(outDir, {
      kind: experiment.kind,
      schema: experiment.schema,
      config: plan.config,
      seeds: plan.seeds,
      arms: plan.arms,
      inputs: plan.inputs,
      ...(experiment.longer === undefined ? {} : { longer: experiment.longer })
    }, options)
    if (recording !== undefined) yield* recording.madeOf(yield* plan.inputs)
    const storeFolder = options.store ?? (outDir === undefined ? undefined : path.join(outDir, "store"))
    const store = storeFolder === undefined
      ? memoryStore()
      : yield* openStore(storeFolder, { force: options.force ?? false }, outDir && path.join(outDir, "store"))

    const once = keeping()
    let failures: Array<Failure> = []
    let first: TrainError | undefined
    let adapter = ""
    const onFailure: Engine["onFailure"] = (failure) =>
      Effect.zipRight(
        Effect.sync(() => void failures.push(failure)),
        stage(`seed ${failure.seed}: ${failure.arm} failed: ${failure.message}`)
      )
    const attempt: Engine["attempt"] = (of, effect) =>
      Failures.attempt(of, Effect.tapError(effect, (error) => Effect.sync(() => void (first ??= error))), {
        outDir,
        onFailure
      })
    const perform = (machine: Machine, ask: Ask | undefined): Engine["perform"] =>
    <Input, Output>(
      work: Work<Input, Output>,
      jobs: ReadonlyArray<Job<Input>>,
      { folderOf, keep, span = "train" }: Parameters<Engine["perform"]>[2] = {}
    ) => {
      const placeOf = (job: Job<Input>): Place => ({
        span,
        ...(keep === undefined ? {} : { keep }),
        ...(folderOf === undefined || outDir === undefined ? {} : { folder: path.join(outDir, folderOf(job)) })
      })
      if (ask !== undefined) {
        return Effect.forEach(jobs, (job) =>
          Effect.gen(function*() {
            const key = yield* attempt(job, work.key(job.input, { machine, streams }))
            if (Option.isNone(key)) return Option.none<Output>()
            // what happens to the queue concerns all; what comes back is the arm's own affair
            return yield* attempt(job, yield* ask<Output>(job, key.value, placeOf(job)))
          }), { concurrency: "unbounded" })
      }
      return runner(jobs, (job, index) =>
        attempt(job, doJob(work, job, {
          machine,
          streams,
          store,
          once,
          stage,
          tell: onEvent,
          onEvent: (event) =>
            onEvent({ _tag: "Training", arm: job.arm, seed: job.seed, index, count: jobs.length, event })
        }, placeOf(job))))
    }

    const all = Effect.scoped(Effect.gen(function*() {
      const device = yield* Device
      const machine = machineOf(device)
      adapter = device.name
      failures = []
      first = undefined
      if (recording !== undefined && plan.onHost !== true) yield* recording.computedOn(device)
      yield* stage(`${plan.title} on ${device.name}${plan.onHost === true ? "" : `: ${device.reason}`}`)
      for (const { data, model, precision = "f32", recompute = false, training } of yield* plan.trainings ?? NOTHING) {
        yield* checkTraining(model, data, device, training, { precision, recompute })
      }
      const asking = options.queue === undefined
        ? undefined
        : yield* options.queue({ machine, outDir, store, stage, versions: options.versions ?? {} })
      return yield* plan.work({ outDir, machine, streams, store, runner, stage, onEvent, onFailure, attempt, once,
        perform: perform(machine, asking) })
    })).pipe(Effect.provide(plan.onHost === true ? noDevice : options.device))
    const found = yield* Effect.raceFirst(againWhenLost(all, stage, experiment.again), recording?.lost ?? Effect.never)
    const report = yield* plan.report(found, {
      adapter,
      seeds: plan.seeds,
      config: Schema.encodeSync(experiment.schema)(plan.config),
      failures,
      seconds: (performance.now() - began) / 1000,
      versions: options.versions ?? {}
    }, first ?? Failures.allFailed(failures))
    if (outDir !== undefined) yield* writeReport(outDir, experiment, report)
    return report
  }).pipe(Effect.scoped)
