/** `memsinks inspect`: what a run did and what a checkpoint holds, in the terminal, as JSON, or as one HTML page. */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { dirname, join } from "node:path"
import process from "node:process"
import { CheckpointError } from "../Errors.ts"
import { type CheckpointInfo, inspectCheckpoint, type TensorInfo } from "../runs/Inspect.ts"
import * as Runs from "../runs/Runs.ts"
import { bytes as size, columns as aligned, count, hasColor, oneLine, painter, plural, widthOf,
  withoutCredentials } from "../Terminal.ts"
import type { InspectOptions } from "./commands/inspect.ts"
import * as Edge from "./Edge.ts"
import { ago } from "./runs.ts"

/** What was found at a path: a run, one training of it, or one checkpoint. */
interface Found {
  readonly run?: Runs.Run
  readonly trainings: ReadonlyArray<Runs.Training>
  /** The last checkpoint of each training, or the one that was asked for. */
  readonly checkpoints: ReadonlyArray<CheckpointInfo>
}

const lastOf = (training: Runs.Training): ReadonlyArray<string> => {
  const name = training.checkpoints.at(-1)
  return name === undefined ? [] : [join(training.path, name)]
}

const find = (path: string): Effect.Effect<Found, CheckpointError> =>
  Effect.gen(function*() {
    const run = Runs.readRun(path)
    const training = run === undefined ? Runs.readTraining(path) : undefined
    if (run === undefined && training === undefined) {
      const checkpoint = yield* inspectCheckpoint(path)
      const around = Runs.readTraining(dirname(path))
      return { trainings: around === undefined ? [] : [around], checkpoints: [checkpoint] }
    }
    const trainings = run?.trainings ?? [training!]
    // a checkpoint that the run replaces while we look
    const last = (training: Runs.Training) =>
      Effect.forEach(lastOf(training), inspectCheckpoint).pipe(
        Effect.catchAll((error) => {
          const now = Runs.readTraining(training.path)
          return now !== undefined && now.checkpoints.at(-1) !== training.checkpoints.at(-1)
            ? Effect.forEach(lastOf(now), inspectCheckpoint)
            : Effect.fail(error)
        })
      )
    const checkpoints = (yield* Effect.forEach(trainings, last)).flat()
    return { ...(run === undefined ? {} : { run }), trainings, checkpoints }
  })

const record = (value: unknown): Readonly<Record<string, unknown>> => Object(value) as Readonly<Record<string, unknown>>

type Fact = readonly [name: string, value: string]

const runFacts = ({ count: trainings, record, state, updated, ...run }: Runs.Run): ReadonlyArray<Fact> => [
  [
    "state",
    `${state}${run.holder === undefined ? "" : ` (process ${run.holder.pid} on ${run.holder.host})`}, ` +
    `last written ${ago(Date.now() - updated)} ago`
  ],
  ...(record.error === undefined || state !== "failed" ? [] : [["error", withoutCredentials(record.error)] as const]),
  ["started", record.started],
  ...(record.resumed === undefined
    ? []
    : [["resumed", `${plural(record.resumed.length, "time")}, last ${record.resumed.at(-1)}`] as const]),
  ...(record.finished === undefined ? [] : [["ended", record.finished] as const]),
  ["trained", `${run.trainings.filter(({ finished }) => finished).length} of ${trainings}`],
  ...(record.adapter === undefined ? [] : [["adapter", record.adapter] as const]),
  ["versions", Object.entries(record.versions ?? {}).map((entry) => entry.join(" ")).join(", ")],
  ...(record.git === undefined
    ? []
    : [["git", `${record.git.sha}${record.git.dirty ? ", with changes" : ""}`] as const]),
  ["size", size(run.bytes)]
]

const checkpointFacts = (info: CheckpointInfo): ReadonlyArray<Fact> => {
  const { config, cursor, loss, optimizer, step, steps, tensors, training } = info
  const memsinks = record(config["memsinks"])
  const sinks = record(memsinks["sinks"])
  const [pool, active] = [Number(sinks["pool"] ?? 0), Number(sinks["active"] ?? 0)]
  const [denied, excluded] = ["denied", "excluded"].map((key) => Object(sinks[key]).length ?? 0) as [number, number]
  const bytes = tensors.reduce((sum, tensor) => sum + tensor.bytes, 0)
  const adam = record(training?.["optimizer"])
  return [
    ["step",
      `${count(step)}${steps === undefined ? "" : ` of ${count(steps)}`}${
        loss === undefined ? "" : `, loss ${loss.toFixed(4)}`
      }`],
    ...(cursor === undefined
      ? []
      : [["data", `epoch ${cursor.epoch}, ${count(cursor.batch)} of its batches taken`] as const]),
    [
      "model",
      `${config["model_type"]}: ${config["num_hidden_layers"]} layers of width ${config["hidden_size"]}, ` +
      `${config["num_attention_heads"]} heads (${config["num_key_value_heads"]} of keys and values) of ${
        config["head_dim"]
      }, ` +
      `vocabulary ${count(Number(config["vocab_size"]))}, context ${count(Number(config["max_position_embeddings"]))}`
    ],
    ["parameters",
      `${count(info.parameters)}, ${size(bytes)} as ${[...new Set(tensors.map(({ dtype }) => dtype))].join(", ")}`],
    ["MLP", pool === 0
      ? `${config["intermediate_size"]} neurons, no sinks`
      : `${memsinks["general"]} general neurons, ${count(pool)} sinks, of which an id lights ${active} ` +
        `(${(100 * active / pool).toFixed(1)} %) in blocks of ${sinks["block"]} by ${sinks["assignment"]}, seed ${
          sinks["seed"]
        }`],
    ...(info.ids === undefined ? [] : [[
      "ids",
      `${count(info.ids.count)}, one a ${info.ids.identity}` + (info.ids.largest.length === 0 ?
        "" :
        `; with most tokens: ${
          info.ids.largest.map(({ name, tokens }) => `${oneLine(name)} (${count(tokens)})`).join(", ")
        }`) +
      (info.ids.count > info.ids.largest.length ? "; all in sources.parquet" : "")
    ] as const]),
    ...(denied === 0 ? [] : [[
      "deleted",
      plural(denied, "id") + (excluded === 0 ? "" : `, and ${plural(excluded, "block")} of sinks off for all`) +
      ": memsinks sources tells which"
    ] as const]),
    ...(training === undefined ? [] : [[
      "optimizer",
      `AdamW, learning rate ${adam["learningRate"]} (${adam["schedule"]}), ${adam["sinks"]} sinks; ` +
      `${optimizer.tensors} moments, ${size(optimizer.bytes)}`
    ] as const]),
    ["size", `${size(info.files.reduce((sum, { bytes }) => sum + bytes, 0))} in ${info.files.length} files`]
  ]
}

/** Tensors of all layers as one line each: `model.layers.*.mlp.up_proj.weight`. */
const tensorRows = (tensors: ReadonlyArray<TensorInfo>): ReadonlyArray<ReadonlyArray<string>> => {
  const groups = new Map<string, { readonly first: TensorInfo; count: number; bytes: number }>()
  for (const tensor of tensors) {
    const name = tensor.name.replace(/\.\d+\./g, ".*.")
    const key = `${name} ${tensor.dtype} ${tensor.shape}`
    const group = groups.get(key) ?? { first: { ...tensor, name }, count: 0, bytes: 0 }
    group.count++
    group.bytes += tensor.bytes
    groups.set(key, group)
  }
  return [...groups.values()].map((
    { bytes, count, first: { dtype, name, shape } }
  ) => [name, String(count), dtype, `[${shape.join(", ")}]`, size(bytes)])
}

const tensorHead = ["tensor", "layers", "type", "shape", "size"]

/** A curve in one line of at most `width` characters: the mean of what falls into each. */
export const sparkline = (values: ReadonlyArray<number>, width: number): string => {
  const bars = "▁▂▃▄▅▆▇█"
  const cells = Math.min(widthOf(width, 1), values.length)
  const means = Array.from({ length: cells }, (_, i) => {
    const part = values.slice(Math.floor(i * values.length / cells), Math.floor((i + 1) * values.length / cells))
    return part.reduce((a, b) => a + b, 0) / part.length
  })
  const [low, high] = [Math.min(...means), Math.max(...means)]
  return means.map((mean) => bars[high > low ? Math.round((mean - low) / (high - low) * (bars.length - 1)) : 0]).join(
    ""
  )
}

const curveRows = ({ curves }: Runs.Training, width: number): ReadonlyArray<ReadonlyArray<string>> =>
  curves.map(({ name, points }) => {
    const losses = points.map(({ loss }) => loss)
    return [name, sparkline(losses, width), losses[0]!.toFixed(3), losses.at(-1)!.toFixed(3),
      Math.min(...losses).toFixed(3)]
  })

const curveHead = ["loss, nats a token", "", "first", "last", "lowest"]

const columns = (rows: ReadonlyArray<ReadonlyArray<string>>): ReadonlyArray<string> => aligned(rows, () => true)

const titleOf = ({ arm, finished, seed, step, steps, torn }: Runs.Training): string =>
  `${arm}${seed === undefined ? "" : `, seed ${seed}`}: step ${count(step)}${
    steps === undefined ? "" : ` of ${count(steps)}`
  }` +
  `${finished ? ", finished" : ""}${
    torn === undefined
      ? ""
      : `, ${torn === 1 ? "a damaged line" : `${count(torn)} damaged lines`} of metrics.jsonl left out`
  }`

const toText = ({ checkpoints, run, trainings }: Found, color: boolean, width: number): string => {
  const paint = painter(color)
  const facts = (rows: ReadonlyArray<Fact>) => columns(rows.map((row) => [...row]))
  const table = (head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>) => {
    const [first, ...rest] = columns([head, ...rows])
    return [paint("dim", first!), ...rest]
  }
  const sections: Array<ReadonlyArray<string>> = []
  if (run !== undefined) sections.push([paint("bold", oneLine(run.path)), ...facts(runFacts(run))])
  for (const training of trainings) {
    const rows = curveRows(training, Math.max(10, Math.min(60, width - 48)))
    sections.push([paint("bold", oneLine(titleOf(training))),
      ...(rows.length === 0 ? ["no losses yet"] : table(curveHead, rows))])
  }
  for (const info of checkpoints) sections.push([paint("bold", oneLine(info.path)), ...facts(checkpointFacts(info))])
  // of several models the last: they differ in the width of the MLP at most
  const last = checkpoints.at(-1)
  if (last !== undefined) sections.push(table(tensorHead, tensorRows(last.tensors)))
  return sections.map((lines) => lines.join("\n")).join("\n\n")
}

const pageOf = async ({ checkpoints, run, trainings }: Found, path: string): Promise<string> => {
  const [{ curves }, { toHtml }, View] = await Promise.all([
    import("../../pipelines/pretrain/view.ts"),
    import("../../pipelines/report/render.ts"),
    import("../../pipelines/report/View.ts")
  ])
  const facts = (rows: ReadonlyArray<Fact>) => ({ head: ["", ""], rows, prose: true })
  const seeds = [...new Set(trainings.map(({ seed }) => seed ?? 0))]
  const { evaluated, training } = curves({
    perSeed: seeds.map((seed) => ({
      seed,
      curves: trainings.filter((it) => (it.seed ?? 0) === seed)
        .flatMap(({ arm, curves }) => curves.map((curve) => ({ ...curve, arm })))
    }))
  })
  return toHtml({
    title: path,
    head: [],
    sections: [
      ...View.section("", run === undefined ? [] : View.tables(facts(runFacts(run)))),
      ...View.section("", View.charts(evaluated, training)),
      ...trainings.flatMap((one) =>
        View.section(titleOf(one), View.tables({
          head: ["loss, nats a token", "first", "last", "lowest"],
          rows: curveRows(one, 1).map(([name, _, ...rest]) => [name!, ...rest])
        }))
      ),
      ...checkpoints.flatMap((info) =>
        View.section(info.path, [
          ...View.tables(facts(checkpointFacts(info))),
          ...View.fold("Tensors", View.tables({ head: tensorHead, rows: tensorRows(info.tensors) }))
        ])
      )
    ],
    brief: [],
    config: run?.record.config,
    footing: ""
  })
}

/** Prints what is at a path, and writes the page that was asked for. */
export const inspect = (options: InspectOptions) =>
  Effect.gen(function*() {
    const found = yield* find(options.path)
    if (Option.isSome(options.html)) {
      const fs = yield* FileSystem.FileSystem
      const file = options.html.value
      const html = yield* Effect.promise(() => pageOf(found, options.path))
      yield* Effect.mapError(fs.writeFileString(file, html),
        (error) => new CheckpointError({ reason: "Write", path: file, detail: `cannot be written: ${error.message}` }))
    }
    yield* Edge.print(
      options.json
        ? JSON.stringify(found)
        : toText(found, hasColor(process.stdout, process.env), widthOf(process.stdout.columns, 100))
    )
  })
