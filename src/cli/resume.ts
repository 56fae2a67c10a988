/** Where a run goes, and whether it goes on with one that is there. */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { CheckpointError } from "../Errors.ts"
import { readRecord } from "../runs/RunRecord.ts"
import type { PretrainOptions } from "./commands/pretrain.ts"
import * as Edge from "./Edge.ts"

export interface Where {
  readonly folder: string
  /** The folder holds the run to go on with. */
  readonly resume: boolean
}

/**
 * The folder of a run. `latest`: the run in `outDir`, else the latest in runs/, which must be there. `auto`: the run in
 * `outDir`, else the latest in runs/ that is not finished, else a fresh one. Anything else is the folder of a run.
 */
export const whereOf = (
  options: Pick<PretrainOptions, "outDir" | "resume">,
  kind: "pretrain" | "isolate" | "dynamics" | "sweep" | `study ${string}`,
  runs = "runs"
) =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const outDir = Option.getOrUndefined(options.outDir)
    const name = kind.replace(/[^A-Za-z]+/g, "-")
    const fresh: Where = {
      folder: outDir ?? path.join(runs, `${name}-${new Date().toISOString().slice(0, 19).replaceAll(":", "-")}`),
      resume: false
    }
    if (Option.isNone(options.resume)) return fresh
    const asked = options.resume.value
    if (asked !== "latest" && asked !== "auto") {
      if (outDir === undefined) return { folder: asked, resume: true }
      const message = `--resume ${asked} and --out-dir ${outDir} are two ways to name the run's folder: leave one out`
      return yield* Effect.fail(Edge.usage({ message }))
    }
    if (outDir !== undefined) return { folder: outDir, resume: asked === "latest" || readRecord(outDir) !== undefined }
    const names = yield* Effect.orElseSucceed(fs.readDirectory(runs), () => [])
    const found = names
      .filter((one) => one.startsWith(`${name}-`))
      .sort()
      .map((one) => path.join(runs, one))
      .findLast((folder) => asked === "latest" || (readRecord(folder)?.state ?? "finished") !== "finished")
    if (found !== undefined) return { folder: found, resume: true }
    if (asked === "auto") return fresh
    return yield* new CheckpointError({
      reason: "Missing",
      path: runs,
      detail: "there is no run to resume: name its folder with --resume or --out-dir, or leave --resume out"
    })
  })
