/** What commands that run for long have in common: the saved configuration, signals, and reports beside the run. */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import process from "node:process"
import { CheckpointError } from "../Errors.ts"
import type * as Progress from "../Progress.ts"
import type * as Config from "./config.ts"

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
    const text = yield* Effect.mapError(fs.readFileString(file), () => missing)
    return yield* Effect.try({
      try: () => (JSON.parse(text) as { readonly config: Config.Tree }).config,
      catch: () =>
        new CheckpointError({ reason: "Corrupt", path: file, detail: "is not JSON: choose another --out-dir" })
    })
  })

/** Leaves a report in a run's folder, and says where. */
export const writeReports = (folder: string, markdown: string, html: string) =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const write = (name: string, text: string) =>
      Effect.mapError(fs.writeFileString(path.join(folder, name), text), (error) =>
        new CheckpointError({ reason: "Write", path: folder, detail: `cannot hold the report: ${error.message}` }))
    yield* write("report.md", markdown)
    yield* write("report.html", html)
    return path.join(folder, "report.html")
  })

/** Tells at once that a signal was heard: the step that runs is finished and saved first. */
export const tellSignals = (progress: Progress.Progress) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const tell = () => Effect.runSync(progress.log("stopping after this step, and saving; once more to stop at once"))
      for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, tell)
      return tell
    }),
    (tell) =>
      Effect.sync(() => {
        for (const signal of ["SIGINT", "SIGTERM"] as const) process.removeListener(signal, tell)
      })
  )
