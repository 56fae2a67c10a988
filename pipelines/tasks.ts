/** What checkpoints answer to the questions of benchmarks, with their sinks in several states side by side. */
import type * as FileSystem from "@effect/platform/FileSystem"
import type * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import { openCheckpoint } from "../src/checkpoints/OpenCheckpoint.ts"
import { resolveWhose, type Whose } from "../src/data/identity/Whose.ts"
import { DataError, type DeviceError } from "../src/Errors.ts"
import { Device } from "../src/gpu/Device.ts"
import { Model } from "../src/model/Model.ts"
import { random } from "../src/Random.ts"
import { readTasks, type TaskItem, type TaskKind } from "../src/scoring/TaskFile.ts"
import { scoreTasks, summarizeTask, taskRows, type TaskScore } from "../src/scoring/Tasks.ts"
import * as Sink from "../src/Sink.ts"
import { type EvaluatedSinks, type EvaluateError, requireWhole } from "./evaluate.ts"

/** Which questions are asked, and how. All but the device and the questions has a default. */
export interface TasksOptions {
  readonly device: Layer.Layer<Device, DeviceError>
  /** Questions as JSONL: see `src/scoring/TaskFile.ts`. */
  readonly tasks: string
  /** Default: own where every question says whose sinks it lights, off and placebo; off alone where there are no sinks. */
  readonly sinks?: ReadonlyArray<EvaluatedSinks>
  /** Whose sinks are own, for questions that do not say it: the number or name of an id. */
  readonly id?: string
  /** Tokens that are read before the last one scored, at most. Default: what the model has positions for. */
  readonly seqLen?: number
  /** Sequences at once. Default 8. */
  readonly batchSize?: number
  /** Questions of each task at most, drawn by the seed. Default: all. */
  readonly sequences?: number
  /** Default 1. */
  readonly seed?: number
  readonly precision?: "f32" | "f16"
  /** Names of special tokens are text like any other. Default false. */
  readonly specialAsText?: boolean
  /** Told after every batch. */
  readonly onProgress?: (done: number, of: number) => Effect.Effect<void>
}

/** What a model answers to the questions of one task, by the states of its sinks. */
export interface EvaluatedTask {
  readonly task: string
  readonly kind: TaskKind
  /** Questions that were asked, of so many. */
  readonly questions: number
  readonly available: number
  /** Of a choice: the share that guessing gets right. */
  readonly chance?: number
  /** Questions of which the beginning was cut off, since the model does not read so much. */
  readonly truncated: number
  /** Questions whose own sinks were deleted, where own sinks are asked for. Own scores are there if there is none. */
  readonly deleted: number
  readonly scores: Readonly<Partial<Record<EvaluatedSinks, TaskScore>>>
}

/** What `memsinks evaluate --tasks FILE --json` prints of one checkpoint. */
export interface TasksReport {
  readonly checkpoint: string
  readonly step: number | undefined
  readonly file: string
  readonly adapter: string
  readonly sinks: ReadonlyArray<EvaluatedSinks>
  readonly seqLen: number
  /** In the order in which the file names them. */
  readonly tasks: ReadonlyArray<EvaluatedTask>
  readonly seconds: number
}

/** The questions that are asked, task by task. */
const groupsOf = (items: ReadonlyArray<TaskItem>, most: number, seed: number) => {
  const all = new Map<string, Array<TaskItem>>()
  for (const item of items) {
    if (!all.has(item.task)) all.set(item.task, [])
    all.get(item.task)!.push(item)
  }
  return [...all].map(([task, items]) => ({
    task,
    available: items.length,
    items: items.length <= most
      ? items
      : random(seed, "tasks", task).shuffle([...items]).slice(0, most).sort((a, b) => a.line - b.line)
  }))
}

/**
 * Asks a checkpoint the questions of a file. Fails with a DataError that names the line and the field of one that cannot be
 * asked, and for states of the sinks that the model or the questions do not have.
 */
export const evaluateTasks = (
  checkpointPath: string,
  options: TasksOptions
): Effect.Effect<TasksReport, EvaluateError, FileSystem.FileSystem | Path.Path> =>
  Effect.gen(function*() {
    const began = performance.now()
    const { batchSize = 8, seed = 1, sequences = Infinity, tasks: file } = options
    // the file first: it is sooner read than weights
    const groups = groupsOf(yield* readTasks(file), sequences, seed)
    const checkpoint = yield* openCheckpoint(checkpointPath, { precision: options.precision ?? "f32" })
    const { config, ends, names, path, step, tokenizer } = checkpoint
    if (tokenizer === undefined) {
      const detail = "holds no tokenizer.json, and questions need one: put it beside config.json"
      return yield* new DataError({ path, detail })
    }
    const seqLen = options.seqLen ?? config.maxPositionEmbeddings
    yield* requireWhole({ batchSize, ...(options.sequences === undefined ? {} : { sequences }) })
    yield* requireWhole({ seqLen }, config.maxPositionEmbeddings)
    if (config.sinks === undefined && (options.id !== undefined || options.sinks?.some((one) => one !== "off"))) {
      return yield* new DataError({ path,
        detail: "the model has no sinks that could be on: leave --sinks and --id out" })
    }
    const fallback: Whose | undefined = options.id === undefined ? undefined : { id: options.id }
    const nameless = groups.flatMap(({ items }) => items).find(({ whose }) => (whose ?? fallback) === undefined)
    const sinks: ReadonlyArray<EvaluatedSinks> = config.sinks === undefined
      ? ["off"]
      : options.sinks ?? [...(nameless === undefined ? ["own" as const] : []), "off", "placebo"]
    const lights = sinks.includes("own")
    if (lights && nameless !== undefined) {
      const detail =
        `line ${nameless.line} has no field id or source, and own sinks are those of one: add it, or name ` +
        "one for all lines with --id"
      return yield* new DataError({ path: file, detail })
    }
    const found = new Map<string, bigint | undefined>()
    /** Undefined: was deleted. */
    const idOf = (item: TaskItem) =>
      Effect.gen(function*() {
        const whose = item.whose ?? fallback!
        const key = JSON.stringify(whose)
        if (found.has(key)) return found.get(key)
        const { id } = yield* resolveWhose(whose, names)
        found.set(key, Sink.isDenied(config.sinks!, id) ? undefined : id)
        return found.get(key)
      }).pipe(
        Effect.mapError((error) => error._tag === "DataError"
          ? new DataError({ path: file, detail: `line ${item.line}, asked of ${path}: ${error.message}` })
          : error
        )
      )
    const how = { tokenizer, ends, seqLen, specialAsText: options.specialAsText ?? false }
    const asked = yield* Effect.forEach(groups, (group) =>
      Effect.gen(function*() {
        let deleted = 0
        const rows = yield* Effect.forEach(group.items, (item) =>
          Effect.flatMap(lights ? idOf(item) : Effect.succeed(0n), (id) => {
            if (id === undefined) deleted++
            return taskRows(item, id ?? 0n, file, how)
          }))
        return { ...group, rows, deleted }
      }))
    /** What is asked in a state. */
    const rowsOf = (state: EvaluatedSinks) =>
      asked.map(({ deleted, rows }) => state === "own" && deleted > 0 ? [] : rows)
    const count = sinks.flatMap(rowsOf).flat().reduce((sum, { rows }) => sum + rows.length, 0)

    return yield* Effect.gen(function*() {
      const model = yield* Model
      const device = yield* Device
      let done = 0
      const scored = yield* Effect.forEach(sinks, (state) =>
        Effect.map(
          scoreTasks(model, rowsOf(state).flat(), Sink.states[state].mode, {
            batchSize,
            seqLen,
            onProgress: (more) => options.onProgress?.(done += more, count) ?? Effect.void
          }),
          (scores) => {
            let at = 0
            return [state, rowsOf(state).map(({ length }) => scores.slice(at, at += length))] as const
          }
        ))
      return {
        checkpoint: path,
        step,
        file,
        adapter: device.name,
        sinks,
        seqLen,
        tasks: asked.map(({ available, deleted, items, rows, task }, t): EvaluatedTask => {
          const { kind } = items[0]!
          return {
            task,
            kind,
            questions: items.length,
            available,
            ...(kind === "multiple_choice"
              ? {
                chance: items.reduce((sum, { choices, gold }) => sum + gold.length / choices.length, 0) / items.length
              }
              : {}),
            truncated: rows.filter(({ cut }) => cut > 0).length,
            deleted,
            scores: Object.fromEntries(
              scored.flatMap(([state, scores]) =>
                scores[t]!.length === 0 ? [] : [[state, summarizeTask(kind, items, scores[t]!)]]
              )
            )
          }
        }),
        seconds: (performance.now() - began) / 1000
      }
    }).pipe(Effect.provide(checkpoint.layer), Effect.provide(options.device))
  })
