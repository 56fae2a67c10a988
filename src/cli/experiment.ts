/** What commands that run an experiment have in common: the configuration from its sources, progress, signals, the report. */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import process from "node:process"
import type { RunOptions } from "../../pipelines/experiment/Experiment.ts"
import type { Files } from "../../pipelines/experiment/Train.ts"
import type { Failure } from "../../pipelines/report/Failure.ts"
import { toTerminal } from "../../pipelines/report/render.ts"
import type { View } from "../../pipelines/report/View.ts"
import * as AtomicFile from "../AtomicFile.ts"
import { decodeConfig } from "../Config.ts"
import { because, CheckpointError, DataError } from "../Errors.ts"
import { decodeJson } from "../Json.ts"
import { readRecord } from "../runs/RunRecord.ts"
import { hasColor, widthOf } from "../Terminal.ts"
import * as Progress from "../terminal/Progress.ts"
import type { TrainError } from "../train/Trainer.ts"
import type { DynamicsOptions } from "./commands/dynamics.ts"
import type { IsolateOptions } from "./commands/isolate.ts"
import type { PretrainOptions } from "./commands/pretrain.ts"
import type { SweepOptions } from "./commands/sweep.ts"
import * as Config from "./config.ts"
import * as Edge from "./Edge.ts"
import { type Where, whereOf } from "./resume.ts"

/** What every experiment is asked with, and what some are. */
type Options =
  & Pick<SweepOptions,
    "config" | "overrides" | "outDir" | "resume" | "force" | "adapter" | "json" | "quiet" | "verbose">
  & Partial<Pick<DynamicsOptions, "jobs" | "arms" | "seeds" | "steps" | "lr" | "batch" | "seq" | "watch">>
  & Partial<Pick<IsolateOptions, "store" | "subject" | "queue" | "tries">>
  & Partial<Pick<PretrainOptions, "data" | "textField" | "sourceField" | "onMissingText" | "seed">>

const Saved = Schema.Struct({ config: Schema.Record({ key: Schema.String, value: Schema.Unknown }) })

/** The configuration of the run that a folder holds. */
const savedConfig = (folder: string) =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const file = path.join(folder, "run.json")
    const missing = new CheckpointError({
      reason: "Missing",
      path: folder,
      detail: "holds no run to resume: leave --resume out to start one there"
    })
    if (!(yield* Effect.orElseSucceed(fs.exists(file), () => false))) return yield* missing
    const corrupt = (detail: string) =>
      new CheckpointError({ reason: "Corrupt", path: file, detail: `${detail}. Choose another --out-dir` })
    const text = yield* Effect.try({
      try: () => AtomicFile.readText(file),
      catch: (cause) => corrupt(`cannot be read: ${because(cause)}`)
    })
    const { config } = yield* Either.mapLeft(decodeJson(Saved, text), corrupt)
    return config as Config.Tree
  })

/** What a configuration begins with: `defaults`, or what the run that goes on has. */
export const baseOf = ({ folder, resume }: Where, defaults: Config.Tree) =>
  resume ? savedConfig(folder) : Effect.succeed(defaults)

/**
 * What is given of a configuration, the file first, then options, then key=value.
 *
 * @param inWorld the data are those of a world, which may be without text
 */
export const givenOf = (options: Options, { inWorld = false }: { readonly inWorld?: boolean } = {}) =>
  Effect.gen(function*() {
    const file = Option.isSome(options.config) ? yield* Config.readConfig(options.config.value) : {}
    const names = options.arms && Option.map(options.arms, (arms) => arms.split(",").map((arm) => arm.trim()))
    const data = Config.dataOf(options)
    return [
      file,
      Edge.given({ seeds: options.seeds, subject: options.subject, arms: names }),
      ...Config.filled(inWorld ? { world: { data } } : { data }),
      ...Config.filled({ training: Config.trainingOf(options) }),
      ...yield* Effect.forEach(options.overrides, Config.override)
    ]
  })

/**
 * The configuration of an experiment from its sources, decoded; what is wrong with it is wrong usage.
 *
 * @param how `check`: fails where its fields do not go together
 */
export const configOf = <A, I, R>(
  schema: Schema.Schema<A, I>,
  options: Options,
  where: Where,
  how: {
    readonly defaults: Config.Tree
    readonly inWorld?: boolean
    readonly check: (config: A) => Effect.Effect<unknown, DataError, R>
  }
) =>
  Effect.gen(function*() {
    const base = yield* baseOf(where, how.defaults)
    return yield* givenOf(options, how).pipe(
      Effect.flatMap((given) => decodeConfig(schema, given.reduce<unknown>(Config.merge, base))),
      Effect.tap(how.check),
      Effect.mapError(Edge.usage)
    )
  })

/** How jobs are handed out, where a queue is named. Loaded there alone, as it needs packages that nothing else does. */
export const queueOf = (
  { queue, store, tries }: Partial<Pick<IsolateOptions, "queue" | "store" | "tries">>
): Effect.Effect<Pick<RunOptions, "queue">> =>
  queue?._tag !== "Some" ? Effect.succeed({}) : Effect.map(
    Effect.promise(() => import("../../pipelines/experiment/Asker.ts")),
    ({ throughQueue }) => ({ queue: throughQueue(queue.value, Edge.given({ store, tries })) })
  )

/** A run that is ready to begin, and how what comes of it is shown. */
export interface Ready<Report> {
  /** What it does: `pretraining`. */
  readonly doing: string
  readonly run: (options: RunOptions) => Effect.Effect<Report, TrainError, Files>
  readonly view: (report: Report) => View
  readonly toJson: (report: Report) => string
  /** What its folder holds then: `report, curves and checkpoints`. */
  readonly leaves: string
  /** Columns that it is shown in at most. Default 100. */
  readonly width?: number
  /** Options that it goes on with besides the folder. */
  readonly again?: string
  /** Who else is told, and what of. */
  readonly watched?: {
    readonly onEvent: (event: Progress.ProgressEvent) => Effect.Effect<void>
    readonly layer: Layer.Layer<never>
    readonly telling: ReadonlyArray<string>
  }
}

/**
 * Runs an experiment for a person: prints its report on stdout and leaves it, with all else, in the run's folder. `prepare`
 * gives nothing where there is nothing to run. Fails where arms failed: the report tells of the others, and of why.
 */
export const runExperiment = <Report extends { readonly failures?: ReadonlyArray<Failure> }, E, R>(
  kind: Parameters<typeof whereOf>[1],
  options: Options,
  prepare: (where: Where) => Effect.Effect<Ready<Report> | void, E, R>
) =>
  Effect.gen(function*() {
    const progress = yield* Progress.scoped({ output: process.stderr, env: process.env, ...options })
    const say = (message: string) => progress.event({ _tag: "Stage", message })
    // the step that runs is finished and saved first
    yield* Edge.onSignal(() =>
      Effect.runSync(progress.log("stopping after this step, and saving; once more to stop at once"))
    )
    const where = yield* whereOf(options, kind)
    const { folder, resume } = where
    const ready = yield* prepare(where)
    if (ready === undefined) return
    const { watched } = ready
    yield* say(`memsinks ${Edge.version}: ${ready.doing}, results go to ${folder}`)
    for (const line of watched?.telling ?? []) yield* say(line)
    const logger = Logger.make<unknown, void>((line) => Effect.runSync(progress.log(Edge.logLine(line))))
    const again = `memsinks ${kind}${ready.again ?? ""} --resume --out-dir ${folder}`
    const report = yield* ready.run({
      device: (yield* Edge.runtime).layer(Edge.given({ adapter: options.adapter })),
      outDir: folder,
      resume,
      force: options.force,
      concurrency: options.jobs ?? 1,
      ...Edge.given({ store: options.store }),
      ...yield* queueOf(options),
      onEvent: (event) => Effect.zipRight(progress.event(event), watched?.onEvent(event) ?? Effect.void),
      versions: Edge.versions()
    }).pipe(
      Effect.withSpan(kind, { attributes: { folder } }),
      Effect.provide(watched?.layer ?? Layer.empty),
      Effect.provide(Logger.replace(Edge.logger, logger)),
      Effect.onInterrupt(() =>
        Effect.suspend(() =>
          progress.log(readRecord(folder) === undefined ? "interrupted" : `interrupted; go on with: ${again}`)
        )
      )
    )
    yield* progress.clear
    const color = hasColor(process.stdout, process.env)
    const width = widthOf(process.stdout.columns, ready.width ?? 100, ready.width ?? 100)
    // drawing it may fail, and costs nothing but the picture
    yield* Effect.try(() => options.json ? ready.toJson(report) : toTerminal(ready.view(report), { color, width }))
      .pipe(
        Effect.flatMap(Edge.print),
        Effect.catchTag("UnknownException",
          ({ cause }) => Effect.logWarning(`the report cannot be shown: ${because(cause)}`))
      )
    yield* say(`\n${ready.leaves}: ${(yield* Path.Path).join(folder, "report.html")}`)
    const failures = report.failures ?? []
    if (failures.length === 0) return
    return yield* new DataError({
      detail: `${failures.length} ${failures.length === 1 ? "arm" : "arms"} failed: ` +
        `${failures.map(({ arm, seed }) => `${arm} (seed ${seed})`).join(", ")}; the report says why`
    })
  }).pipe(Effect.scoped)
