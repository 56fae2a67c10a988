/** `memsinks runs`: the runs in a folder, what became of them, and how far they came. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { existsSync, statSync } from "node:fs"
import process from "node:process"
import { CheckpointError } from "../Errors.ts"
import * as Runs from "../runs/Runs.ts"
import { bytes, columns, hasColor, NOTHING, oneLine, painter, withoutCredentials } from "../Terminal.ts"
import type { RunsOptions } from "./commands/runs.ts"
import * as Edge from "./Edge.ts"

/** `5 s`, `3 min`, `7 h`, `12 d`: how long ago. */
export const ago = (ms: number): string => {
  const s = Math.max(0, ms / 1000)
  const [amount, unit] = s < 90
    ? [s, "s"]
    : s < 5400
    ? [s / 60, "min"]
    : s < 48 * 3600
    ? [s / 3600, "h"]
    : [s / 86400, "d"]
  return `${Math.round(amount)} ${unit}`
}

const loss = (value: number | undefined): string => value === undefined ? NOTHING : value.toFixed(3)

const head = ["run", "state", "training", "step", "loss", "best held out", "tokens/s", "age", "size"]

/** One line of the table: of several trainings the one that runs, or ran last. */
const row = (run: Runs.Run): ReadonlyArray<string> => {
  const { count, state, trainings } = run
  const last = trainings.at(-1)
  const several = (run.record.seeds?.length ?? 1) > 1
  const seed = several && last?.seed !== undefined ? ` of seed ${last.seed}` : ""
  const heldOut = trainings.flatMap(({ best }) => best?.name.startsWith("heldOut") ? [best] : [])
    .sort((a, b) => a.loss - b.loss)[0]
  const finished = trainings.filter((training) => training.finished).length
  // models of an experiment may lie in a store that several share, or be one for two arms: it is finished all the same
  const done = state === "finished" && (run.record.kind === "isolate" || run.record.kind === "sweep") ? count : finished
  return [
    oneLine(run.path),
    state === "running" && run.holder !== undefined ? `running (${run.holder.pid})` : state,
    last === undefined
      ? `${done}/${count}`
      : state === "finished"
      ? `${done}/${count}`
      : `${last.arm}${seed} ${trainings.length}/${count}`,
    last === undefined ? NOTHING : `${last.step}/${last.steps ?? "?"}`,
    loss(last?.loss),
    `${loss(heldOut?.loss)}${heldOut?.name === "heldOut.off" ? " off" : ""}`,
    last?.tokensPerSecond === undefined ? NOTHING : Math.round(last.tokensPerSecond).toLocaleString("en"),
    ago(Date.now() - run.updated),
    bytes(run.bytes)
  ]
}

const toJson = (run: Runs.Run) => {
  const { config: _, ...record } = run.record
  return { ...run, record, trainings: run.trainings.map(({ curves: _, ...training }) => training) }
}

/** Prints the runs in a folder. Fails with CheckpointError Missing where there is no such folder. */
export const runs = (options: RunsOptions) =>
  Effect.gen(function*() {
    const folder = Option.getOrElse(options.folder, () => "runs")
    if (Option.isSome(options.folder) && !existsSync(folder)) {
      return yield* new CheckpointError({ reason: "Missing", path: folder, detail: "there is no such folder" })
    }
    if (existsSync(folder) && !statSync(folder).isDirectory()) {
      return yield* new CheckpointError({ reason: "Missing", path: folder,
        detail: "is a file, and runs lie in a folder" })
    }
    const found = Runs.listRuns(folder)
    if (options.json) return yield* Edge.print(JSON.stringify(found.map(toJson)))
    if (found.length === 0) return yield* Edge.print(`no runs in ${folder}`)
    const paint = painter(hasColor(process.stdout, process.env))
    const rows = found.map(row)
    const [first, ...others] = columns([head, ...rows], (column) => column < 3)
    yield* Edge.print([paint("bold", first!), ...others].join("\n"))
    for (const run of found) {
      if (run.state === "failed" && run.record.error !== undefined) {
        yield* Edge.print(
          paint("dim", oneLine(withoutCredentials(`${run.path}: ${run.record.error.split("\n", 1)[0]}`)))
        )
      }
    }
  })
