/**
 * Runs as their folders tell them: what runs, what is finished, how far it came. Reads small files and the headers of
 * large ones, and changes nothing, so a run may go on meanwhile.
 */
import * as Schema from "effect/Schema"
import * as fs from "node:fs"
import { basename, dirname, join } from "node:path"
import * as AtomicFile from "../AtomicFile.ts"
import { stepsOf } from "../checkpoints/Checkpoints.ts"
import type { DataConfigInput } from "../data/stream/DataConfig.ts"
import { cachedJson } from "../Json.ts"
import { keyOf, shortKey } from "../Key.ts"
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

const entriesOf = (folder: string): ReadonlyArray<fs.Dirent> =>
  attempt(() => fs.readdirSync(folder, { withFileTypes: true })) ?? []

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

/** The curves that events tell: `train`, and every loss that was evaluated, by its name. */
export const curvesOf = (
  events: ReadonlyArray<TrainEvent>,
  tokensPerStep = events.find((event) => event._tag === "Started")?.tokensPerStep ?? 0
): ReadonlyArray<Curve> => {
  const curves = new Map<string, Array<Point>>()
  for (const event of events) {
    const { step } = event
    const tokens = event._tag === "Stepped" ? event.tokens : step * tokensPerStep
    const named = event._tag === "Stepped" && event.loss !== undefined
      ? { train: event.loss }
      : event._tag === "Evaluated"
      ? event.losses
      : {}
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

/** The seed of a folder such as `seed-3`; undefined for any other. */
const seedOf = (folder: string): number | undefined => {
  const seed = /^seed-(-?\d+)$/.exec(basename(folder))?.[1]
  return seed === undefined ? undefined : Number(seed)
}

/** What a file of a run says; undefined where it does not say it in so many words. */
const saysOf = <A, I>(schema: Schema.Schema<A, I>, file: string): A | undefined =>
  attempt(() => cachedJson(schema, AtomicFile.readText(file)))

/** The name of an arm: that of its folder, or one of `arms` where it was too long for a folder, whose name has its hash. */
const nameOf = (folder: string, arms: ReadonlyArray<string>): string =>
  arms.find((arm) => folder.endsWith(`~${shortKey(keyOf(arm))}`)) ?? basename(folder)

/** The training in a folder that holds metrics.jsonl or checkpoints; undefined in any other. */
export const readTraining = (path: string, arms = runAbove(path)?.arms ?? []): Training | undefined => {
  const names = entriesOf(path).map((entry) => entry.name)
  const checkpoints = stepsOf(names)
  if (!names.includes(eventsFile) && checkpoints.length === 0) return undefined
  const { events: lines, torn } = attempt(() => readEvents(join(path, eventsFile))) ?? { events: [], torn: 0 }
  const started = lines.findLast((line) => line._tag === "Started")
  const stepped = lines.findLast((line) => line._tag === "Stepped")
  const curves = curvesOf(lines)
  const best = lowest(curves)
  const seed = seedOf(dirname(path))
  const step = Math.max(stepped?.step ?? started?.step ?? 0, checkpoints.at(-1)?.step ?? 0)
  return {
    path,
    ...(seed === undefined ? {} : { seed }),
    arm: nameOf(path, arms),
    finished: names.includes("result.json") || lines.some((line) => line._tag === "Finished"),
    step,
    ...(started?.steps === undefined ? {} : { steps: started.steps }),
    ...(started?.parameters === undefined ? {} : { parameters: started.parameters }),
    ...(started?.activeParameters === undefined ? {} : { activeParameters: started.activeParameters }),
    ...(stepped?.loss === undefined ? {} : { loss: stepped.loss }),
    ...(best === undefined ? {} : { best }),
    ...(stepped?.tokensPerSecond === undefined ? {} : { tokensPerSecond: stepped.tokensPerSecond }),
    curves,
    checkpoints: checkpoints.map(({ name }) => name),
    ...(torn === 0 ? {} : { torn })
  }
}

/** What a store says of a model that is trained: of isolate, or of a sweep, whose arm says more. */
const StoredModel = Schema.Struct({
  key: Schema.Struct({ seed: Schema.Int }),
  value: Schema.Union(Schema.Struct({ name: Schema.String }),
    Schema.Struct({ arm: Schema.Struct({ name: Schema.String }) }))
})

/** The file in the folder of a store that says of which job it is, before there is a result. */
export const jobFile = "job.json"

/** Whose training it is: an arm of an experiment. */
export interface JobOf {
  readonly arm: string
  readonly seed: number
}
const JobOf = Schema.Struct({ arm: Schema.String, seed: Schema.Int })

/**
 * The models in the store of an experiment, each beside what says whose it is: `store/models/<hash>` and `<hash>.json` of
 * isolate, `store/pretrain/<hash>` of a sweep; of one that is not finished `job.json` in its folder.
 */
const storedIn = (path: string): ReadonlyArray<Training> =>
  ["models", "pretrain"].flatMap((kind) => {
    const models = join(path, "store", kind)
    return entriesOf(models).filter((entry) => entry.isDirectory()).flatMap(({ name }) => {
      const training = readTraining(join(models, name))
      if (training === undefined) return []
      const stored = saysOf(StoredModel, join(models, `${name}.json`))
      if (stored === undefined) return [{ ...training, ...saysOf(JobOf, join(models, name, jobFile)) }]
      const arm = "name" in stored.value ? stored.value.name : stored.value.arm.name
      return [{ ...training, seed: stored.key.seed, arm, finished: true }]
    })
  })

const trainingsOf = (path: string, record: RunRecord): ReadonlyArray<Training> => {
  const rank = (arm: string) => (record.arms ?? []).indexOf(arm)
  return entriesOf(path)
    .filter((seed) => seed.isDirectory() && seed.name.startsWith("seed-"))
    .flatMap((seed) =>
      entriesOf(join(path, seed.name)).flatMap((arm) =>
        readTraining(join(path, seed.name, arm.name), record.arms) ?? []
      )
    )
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
    state: record.state === "running" && (lock === "free" || lock === "stale")
      ? "interrupted"
      : record.state ?? "interrupted",
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

// ---------------------------------------------------------------------------------------------------------------
// What a checkpoint was trained on

/** What a folder of a model without something says of the checkpoint that it was made of. */
export const forgetFile = "forget.json"

/** The checkpoint of a run that a model without something was made of; of any other, its own folder. */
export const originOf = (folder: string, deep = 64): string => {
  for (const at of [folder, dirname(folder)]) {
    try {
      const { from } = Object(JSON.parse(fs.readFileSync(join(at, forgetFile), "utf8"))) as { readonly from?: unknown }
      if (typeof from === "string" && deep > 0) return originOf(from, deep - 1)
    } catch {
      // there is none, or it is of something else
    }
  }
  return folder
}

/** The run that a checkpoint, or any other folder of it, lies in: the nearest run.json above. */
export const runAbove = (folder: string): RunRecord | undefined => {
  let at = folder
  for (let up = 0; up < 4; up++) {
    const record = readRecord(at)
    if (record !== undefined) return record
    at = dirname(at)
  }
  return undefined
}

const Groups = Schema.Array(Schema.Struct({ sequences: Schema.Int }))

/** The data section of a run's configuration, for the seed of the checkpoint's folder. */
export const dataOf = (record: RunRecord, folder: string): DataConfigInput => {
  const { data = {}, groups } = Object(record.config) as {
    readonly data?: DataConfigInput
    readonly groups?: unknown
  }
  const seed = /[\\/]seed-(\d+)[\\/]/.exec(folder)?.[1]
  // of dynamics: what is shown is the timetable's
  const shown = record.kind === "dynamics" && Schema.is(Groups)(groups)
    ? { repeatedSequences: groups.reduce((sum, { sequences }) => sum + sequences, 0), repeats: 2 }
    : {}
  return { ...data, ...shown, ...(seed === undefined ? {} : { seed: Number(seed) }) }
}

/** What the key of a model in the store of an experiment has of the data that it was trained on. */
const StoredWorld = Schema.Struct({ key: Schema.Struct({ world: Schema.Unknown, seed: Schema.Int }) })

/** What the store of an experiment says that a model in it, or a checkpoint of one, was trained on; undefined outside of one. */
export const storedAbove = (folder: string): { readonly world: unknown; readonly seed: number } | undefined =>
  (saysOf(StoredWorld, `${folder}.json`) ?? saysOf(StoredWorld, `${dirname(folder)}.json`))?.key

/** A model that a run has trained, as far as it was saved. */
export interface SavedModel {
  readonly arm: string
  readonly seed: number
  /** Its own folder, and the name of it. */
  readonly folder: string
  readonly name: string
  /** By rising step, at least one. */
  readonly saved: ReadonlyArray<{ readonly step: number; readonly path: string }>
}

/** The checkpoints in the folder of one model, by rising step. */
export const savedIn = (folder: string): SavedModel["saved"] =>
  stepsOf(entriesOf(folder).map(({ name }) => name)).map(({ name, step }) => ({ step, path: join(folder, name) }))

/**
 * The models that have checkpoints in the folder of a run, of one of its seeds, or of one model, by their seeds, then in the
 * order of the run's arms.
 *
 * @param folderOf the name of an arm's folder
 */
export const savedModels = (
  from: string,
  record: RunRecord,
  folderOf: (arm: string) => string
): ReadonlyArray<SavedModel> => {
  const inside = (folder: string) => entriesOf(folder).map(({ name }) => join(folder, name))
  const folders = savedIn(from).length > 0
    ? [from]
    : seedOf(from) !== undefined
    ? inside(from)
    : inside(from).filter((folder) => seedOf(folder) !== undefined).flatMap(inside)
  const known = record.arms ?? []
  const first = (Object(record.config) as { readonly data?: { readonly seed?: unknown } }).data?.seed
  const rank = ({ arm }: SavedModel) => known.includes(arm) ? known.indexOf(arm) : known.length
  return folders.flatMap((folder): ReadonlyArray<SavedModel> => {
    const saved = savedIn(folder)
    const name = basename(folder)
    const seed = seedOf(dirname(folder)) ?? (typeof first === "number" ? first : 1)
    const arm = known.find((arm) => arm === name || folderOf(arm) === name) ?? (known.length === 1 ? known[0]! : name)
    return saved.length === 0 ? [] : [{ arm, seed, folder, name, saved }]
  }).sort((a, b) => a.seed - b.seed || rank(a) - rank(b) || a.name.localeCompare(b.name))
}
