/** What commands that run for long have in common: the saved configuration, signals, and reports beside the run. */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Schema from "effect/Schema"
import * as AtomicFile from "../AtomicFile.ts"
import { because, CheckpointError, DataError } from "../Errors.ts"
import { decodeJson } from "../Json.ts"
import { readRecord } from "../runs/RunRecord.ts"
import type * as Progress from "../terminal/Progress.ts"
import type * as Config from "./config.ts"
import * as Edge from "./Edge.ts"

const Saved = Schema.Struct({ config: Schema.Record({ key: Schema.String, value: Schema.Unknown }) })

/** The configuration of the run that a folder holds. */
export const savedConfig = (folder: string) =>
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

/** Leaves a report in a run's folder, and says where. */
export const writeReports = (folder: string, markdown: string, html: string) =>
  Effect.gen(function*() {
    const path = yield* Path.Path
    const write = (name: string, text: string) =>
      Effect.try({
        try: () => AtomicFile.write(path.join(folder, name), text),
        catch: (cause) =>
          new CheckpointError({ reason: "Write", path: folder, detail: `cannot hold the report: ${because(cause)}`,
            cause })
      })
    yield* write("report.md", markdown)
    yield* write("report.html", html)
    return path.join(folder, "report.html")
  })

/** Fails where arms failed: the report tells of the others, and of why. */
export const failedArms = (failures: ReadonlyArray<{ readonly arm: string; readonly seed: number }>) =>
  Effect.fail(new DataError({
    detail: `${failures.length} ${failures.length === 1 ? "arm" : "arms"} failed: ` +
      `${failures.map(({ arm, seed }) => `${arm} (seed ${seed})`).join(", ")}; the report says why`
  }))

/** Tells at once that a signal was heard: the step that runs is finished and saved first. */
export const tellSignals = (progress: Progress.Progress) =>
  Edge.onSignal(() => Effect.runSync(progress.log("stopping after this step, and saving; once more to stop at once")))

/** Says how to go on with an interrupted run, where one has been begun. */
export const tellInterrupted = (progress: Progress.Progress, folder: string, command: string) =>
  Effect.suspend(() =>
    progress.log(readRecord(folder) === undefined ? "interrupted" : `interrupted; go on with: ${command}`)
  )

/** What a run that is done shows. */
export interface Shown {
  /** Printed on stdout; drawing it may fail, and costs nothing but the picture. */
  readonly text: () => string
  readonly markdown: () => string
  readonly html: () => string | Promise<string>
  /** What the folder holds: `report, curves and checkpoints`. */
  readonly what: string
}

/** Leaves the report in the run's folder, and then shows it. */
export const showReport = (progress: Progress.Progress, folder: string, shown: Shown) =>
  Effect.gen(function*() {
    const html = yield* Effect.promise(async () => shown.html())
    const file = yield* writeReports(folder, shown.markdown(), html)
    yield* progress.clear
    yield* Effect.try(shown.text).pipe(
      Effect.flatMap(Edge.print),
      Effect.catchTag("UnknownException",
        ({ cause }) => Effect.logWarning(`the report cannot be shown: ${because(cause)}`))
    )
    yield* progress.event({ _tag: "Stage", message: `\n${shown.what}: ${file}` })
  })
