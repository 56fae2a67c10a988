/**
 * Runs as their folders tell them: what runs, what is finished, how far it came. Reads small files and the headers of
 * large ones, and changes nothing, so a run may go on meanwhile.
 */
import * as fs from "node:fs"
import { basename, dirname, join } from "node:path"
import type { TrainEvent } from "../train/TrainEvent.ts"
import { eventsFile, readEvents } from "./EventLog.ts"
import * as RunLock from "./RunLock.ts"
import { readRecord, type RunRecord, type RunState } from "./RunRecord.ts"

/** One point of a curve. */
export interface Point {
  readonly step: number
  readonly tokens: number
  readonly loss: number
}

/** Training and evaluated losses along a training; `train`, or as evaluated: `heldOut.off`. */
export interface Curve {
  readonly name: string
  readonly points: ReadonlyArray<Point>
}

/** How far one model's training came. */
export interface Training {
  /** Its folder, where checkpoints and metrics.jsonl are. */
  readonly path: string
  readonly seed?: number
  readonly arm: string
  readonly finished: boolean
  readonly step: number
  /** Undefined before it was started. */
  readonly steps?: number
  readonly parameters?: number
  readonly activeParameters?: number
  /** Last training loss, nats a token. */
  readonly loss?: number
  /**
   * Lowest held-out loss, of a model with sinks with its sinks off, which the name says: `heldOut.off`; or where nothing
   * is held out, lowest training loss.
   */
  readonly best?: { readonly name: string; readonly step: number; readonly loss: number }
  readonly tokensPerSecond?: number
  readonly curves: ReadonlyArray<Curve>
  /** Names of its checkpoints, by rising step. */
  readonly checkpoints: ReadonlyArray<string>
  /** Lines of metrics.jsonl that are no events and were passed over, where there are any. */
  readonly torn?: number
}

/** One run. */
export interface Run {
  readonly path: string
  /** A run that says `running` but whose process is gone was interrupted. */
  readonly state: RunState
  /** Who holds the folder; of a run on another machine this is all that is known. */
  readonly holder?: RunLock.Holder
  readonly record: RunRecord
  /** Trainings that were begun, in the order they run. */
  readonly trainings: ReadonlyArray<Training>
  /** How many there will be. */
  readonly count: number
  /** When a file of it was written last, ms since 1970. */
  readonly updated: number
  readonly bytes: number
}

const attempt = <A>(body: () => A): A | undefined => {
  try {
    return body()
  } catch {
    return undefined
  }
}

const entriesOf = (folder: string): ReadonlyArray<fs.Dirent> => attempt(() => fs.readdirSync(folder, { withFileTypes: true })) ?? []

/** Bytes of all files in a folder, and when one was written last. */
const usage = (folder: string): { readonly bytes: number; readonly updated: number } => {
  let [bytes, updated] = [0, 0]
  for (const entry of entriesOf(folder)) {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) {
      const inside = usage(path)
      bytes += inside.bytes
      updated = Math.max(updated, inside.updated)
    } else if (entry.isFile()) {
      const stat = attempt(() => fs.statSync(path))
      bytes += stat?.size ?? 0
      updated = Math.max(updated, stat?.mtimeMs ?? 0)
    }
  }
  return { bytes, updated }
}

const curvesOf = (events: ReadonlyArray<TrainEvent>): ReadonlyArray<Curve> => {
  const curves = new Map<string, Array<Point>>()
  const tokensPerStep = events.find((event) => event._tag === "Started")?.tokensPerStep ?? 0
  for (const event of events) {
    const { step } = event
    const tokens = event._tag === "Stepped" ? event.tokens : step * tokensPerStep
    const named = event._tag === "Stepped" ? { train: event.loss } : event._tag === "Evaluated" ? event.losses : {}
    for (const [name, loss] of Object.entries(named)) {
      const points = curves.get(name) ?? []
      points.push({ step, tokens, loss })
      curves.set(name, points)
    }
  }
  return [...curves].map(([name, points]) => ({ name, points }))
}

const lowest = (curves: ReadonlyArray<Curve>): Training["best"] => {
  // with sinks off where there are any, as reports have it: own sinks of a held-out sequence were never trained
  const off = curves.filter(({ name }) => name === "heldOut.off")
  const heldOut = off.length > 0 ? off : curves.filter(({ name }) => name.startsWith("heldOut"))
  let best: Training["best"]
  for (const { name, points } of heldOut.length > 0 ? heldOut : curves.filter(({ name }) => name === "train")) {
    for (const { loss, step } of points) if (best === undefined || loss < best.loss) best = { name, step, loss }
  }
  return best
}

const isStep = (name: string) => /^step-\d{8,}$/.test(name)

/** The name of an arm: what its folder says, which may be too short for it, else the folder's own. */
const nameOf = (folder: string): string => {
  const found = attempt(() => JSON.parse(fs.readFileSync(join(folder, "arm.json"), "utf8")) as { readonly arm?: unknown } | null)
  return typeof found?.arm === "string" ? found.arm : basename(folder)
}

/** The training in a folder that holds metrics.jsonl or checkpoints; undefined in any other. */
export const readTraining = (path: string): Training | undefined => {
  const names = entriesOf(path).map((entry) => entry.name)
  const checkpoints = names.filter(isStep).sort()
  if (!names.includes(eventsFile) && checkpoints.length === 0) return undefined
  const { events: lines, torn } = attempt(() => readEvents(join(path, eventsFile))) ?? { events: [], torn: 0 }
  const started = lines.findLast((line) => line._tag === "Started")
  const stepped = lines.findLast((line) => line._tag === "Stepped")
  const curves = curvesOf(lines)
  const best = lowest(curves)
  const seed = /^seed-(-?\d+)$/.exec(basename(dirname(path)))?.[1]
  const step = Math.max(stepped?.step ?? started?.step ?? 0, Number(checkpoints.at(-1)?.slice("step-".length) ?? 0))
  return {
    path,
    ...(seed === undefined ? {} : { seed: Number(seed) }),
    arm: nameOf(path),
    finished: names.includes("result.json") || lines.some((line) => line._tag === "Finished"),
    step,
    ...(started?.steps === undefined ? {} : { steps: started.steps }),
    ...(started?.parameters === undefined ? {} : { parameters: started.parameters }),
    ...(started?.activeParameters === undefined ? {} : { activeParameters: started.activeParameters }),
    ...(stepped?.loss === undefined ? {} : { loss: stepped.loss }),
    ...(best === undefined ? {} : { best }),
    ...(stepped?.tokensPerSecond === undefined ? {} : { tokensPerSecond: stepped.tokensPerSecond }),
    curves,
    checkpoints,
    ...(torn === 0 ? {} : { torn })
  }
}

/** The models in the store of an experiment, each beside what says whose it is: `store/models/<hash>` and `<hash>.json`. */
const storedIn = (path: string): ReadonlyArray<Training> => {
  const models = join(path, "store", "models")
  return entriesOf(models).filter((entry) => entry.isDirectory()).flatMap(({ name }) => {
    const training = readTraining(join(models, name))
    if (training === undefined) return []
    const { key, value } = (attempt(() => JSON.parse(fs.readFileSync(join(models, `${name}.json`), "utf8"))) ?? {}) as {
      readonly key?: { readonly seed?: unknown }
      readonly value?: { readonly name?: unknown }
    }
    return [{
      ...training,
      ...(typeof key?.seed === "number" ? { seed: key.seed } : {}),
      ...(typeof value?.name === "string" ? { arm: value.name } : {}),
      finished: value !== undefined || training.finished
    }]
  })
}

const trainingsOf = (path: string, record: RunRecord): ReadonlyArray<Training> => {
  const rank = (arm: string) => (record.arms ?? []).indexOf(arm)
  return entriesOf(path)
    .filter((seed) => seed.isDirectory() && seed.name.startsWith("seed-"))
    .flatMap((seed) => entriesOf(join(path, seed.name)).flatMap((arm) => readTraining(join(path, seed.name, arm.name)) ?? []))
    .concat(storedIn(path))
    .sort((a, b) => (a.seed ?? 0) - (b.seed ?? 0) || rank(a.arm) - rank(b.arm))
}

/** The run in a folder; undefined where there is none. */
export const readRun = (path: string): Run | undefined => {
  const record = readRecord(path)
  if (record === undefined) return undefined
  const { holder, state: lock } = RunLock.peek(path)
  const trainings = trainingsOf(path, record)
  return {
    path,
    state: record.state === "running" && (lock === "free" || lock === "stale") ? "interrupted" : record.state ?? "interrupted",
    ...(holder === undefined || lock === "stale" ? {} : { holder }),
    record,
    trainings,
    count: Math.max(trainings.length, (record.seeds?.length ?? 1) * (record.arms?.length ?? 1)),
    ...usage(path)
  }
}

/** The runs in a folder and in folders in it, newest first; or the folder itself if it is one. */
export const listRuns = (folder: string, depth = 3): ReadonlyArray<Run> => {
  const run = readRun(folder)
  if (run !== undefined) return [run]
  if (depth === 0) return []
  return entriesOf(folder)
    .filter((entry) => entry.isDirectory() && !entry.name.startsWith(".") && entry.name !== "node_modules")
    .flatMap((entry) => listRuns(join(folder, entry.name), depth - 1))
    .sort((a, b) => (b.record.started ?? "").localeCompare(a.record.started ?? ""))
}
