/** `memsinks evaluate`: a checkpoint's scores on data, states of its sinks side by side. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import process from "node:process"
import { evaluate, type EvaluatedSinks, type EvaluationReport, type Score } from "../../pipelines/evaluate.ts"
import { evaluateTasks, type TasksReport } from "../../pipelines/tasks.ts"
import { nearest } from "../Config.ts"
import type { TaskKind } from "../scoring/TaskFile.ts"
import * as Sink from "../Sink.ts"
import { count, hasColor, isInteractive, NOTHING, oneLine, type Paint, painter, plural, table,
  widthOf } from "../Terminal.ts"
import type { EvaluateOptions } from "./commands/evaluate.ts"
import * as Edge from "./Edge.ts"

/** `own,off` as states. */
const statesOf = (text: string): Effect.Effect<ReadonlyArray<EvaluatedSinks>, Edge.Usage> => {
  const named = text.split(",").map((part) => part.trim())
  const states = Object.keys(Sink.states)
  const wrong = named.find((name, i) => !states.includes(name) || named.indexOf(name) !== i)
  if (wrong === undefined) return Effect.succeed(named as ReadonlyArray<EvaluatedSinks>)
  const meant = states.includes(wrong) ? undefined : nearest(wrong, states)
  return Effect.fail(Edge.usage({
    message: `--sinks takes some of ${states.join(",")}, each once, got ${text}` +
      (meant === undefined ? "" : `. Did you mean ${meant}?`)
  }))
}

const columns: ReadonlyArray<readonly [title: string, cell: (score: Score) => string]> = [
  ["loss", ({ loss }) => loss.toFixed(3)],
  ["perplexity", ({ perplexity }) => perplexity < 1e5 ? perplexity.toFixed(2) : perplexity.toExponential(1)],
  ["bits/byte", ({ bitsPerByte }) => bitsPerByte === undefined ? NOTHING : bitsPerByte.toFixed(3)],
  ["accuracy", ({ accuracy }) => `${(100 * accuracy).toFixed(1)} %`],
  ["verbatim", ({ extraction }) => extraction === undefined ? NOTHING : `${(100 * extraction).toFixed(1)} %`]
]

const some = (names: ReadonlyArray<string>): string =>
  names.length <= 5
    ? names.join(", ")
    : `${names.slice(0, 5).join(", ")} and ${names.length - 5} more, "trained": false in --json`

/** Names of sources may be paths: their end tells them apart. */
const short = (text: string): string => {
  const name = oneLine(text)
  return name.length <= 32 ? name : `...${name.slice(-29)}`
}

/** Sources that a table has at most; --json has all. */
const SHOWN = 64

/** A line for each group and state; of many sources the largest, and says so. */
export const format = (report: EvaluationReport, paint: Paint, width = 100): string => {
  const all = report.groups.filter(({ by }) => by === "source")
  const sources = all.filter(({ sequences }) => sequences > 0)
  const left = new Set([...sources.slice(SHOWN), ...all.filter(({ sequences }) => sequences === 0)])
  const unknown = sources.filter(({ trained }) => trained === false)
  const lessOf = report.groups.reduce((sum, { by, sequences }) => by === "source" ? sum : sum + sequences, 0)
  const rows = report.groups.filter((group) => !left.has(group)).flatMap((group) =>
    report.sinks.map((sinks, i) => [
      ...(i === 0 ? [short(group.name), count(group.sequences), count(group.tokens)] : ["", "", ""]),
      sinks,
      ...columns.map(([, cell]) => cell(group.scores[sinks]!))
    ])
  )
  const head = ["data", "sequences", "tokens", "sinks", ...columns.map(([title]) => title)]
  return [
    ...table(head, rows, { width, paint, isLeft: (column) => column === 0 || column === 3 }),
    ...(sources.length <= SHOWN ? [] : [
      `the ${SHOWN} largest of ${sources.length} sources; ${
        sources.length - SHOWN
      } are left out here: --json has all of them`
    ]),
    ...(all.length === sources.length ? [] : [
      `no sequence was drawn of ${all.length - sources.length} of ${all.length} sources: raise --sequences`
    ]),
    ...(unknown.length === 0 ? [] : [
      `the model was never trained with ${unknown.length} of these sources (${
        some(unknown.map(({ name }) => short(name)))
      }): ` +
      "their own sinks are those of nobody"
    ]),
    ...(rows.length === 0 || report.groups.some(({ bytes }) => bytes !== undefined) ? [] : [
      "bits a byte are not known: the tokenizer changes texts, or has no token for a part of them"
    ]),
    ...(lessOf >= report.available ? [] : [
      `${lessOf} of ${report.available} sequences, drawn by the seed: more with --sequences ${report.available}`
    ]),
    `rows of ${report.seqLen} tokens: ` + (
      report.trainedSeqLen === undefined
        ? "nothing here says how long those of the training were, and losses of rows of other lengths do not compare; " +
          "choose with --seq"
        : report.trainedSeqLen === report.seqLen
        ? "as in training"
        : `the training's had ${report.trainedSeqLen}, and losses of rows of other lengths do not compare; for the same, ` +
          `--seq ${report.trainedSeqLen}`
    ),
    `verbatim: all tokens after the first ${report.promptTokens} said greedily, of sequences of up to ` +
    `${report.seqLen + 1} tokens`
  ].join("\n")
}

/** A row for each task, state and checkpoint; what --json has more of stands there. */
export const formatTasks = (reports: ReadonlyArray<TasksReport>, paint: Paint, width = 100): string => {
  const percent = (share: number): string => `${(100 * share).toFixed(1)} %`
  const shownAs = (name: string, kind: TaskKind) => kind === "multiple_choice" || name === "acc" ? percent : decimal
  const decimal = (value: number): string => value < 1e5 ? value.toFixed(value < 100 ? 3 : 0) : value.toExponential(2)
  const tables = (["multiple_choice", "loglikelihood"] as const).flatMap((kind) => {
    const cells = reports.flatMap((report, r) =>
      report.tasks.filter((task) => task.kind === kind).flatMap((task) =>
        report.sinks.map((sinks, i) => ({ report, r, task, sinks, first: i === 0,
          metrics: task.scores[sinks]?.metrics })
        )
      )
    )
    if (cells.length === 0) return []
    const names = Object.keys(cells.find(({ metrics }) => metrics !== undefined)?.metrics ?? { acc: 0 })
    const several = reports.length > 1
    const rows = cells.map(({ first, metrics, r, sinks, task }) => [
      ...(several ? [first ? `${r + 1}` : ""] : []),
      ...(first ? [short(task.task), count(task.questions)] : ["", ""]),
      sinks,
      ...names.map((name, i) => {
        if (metrics === undefined) return i > 0 ? NOTHING : `deleted (${count(task.deleted)})`
        const { high, low, value } = metrics[name]!
        const say = shownAs(name, kind)
        return Number.isFinite(low)
          ? `${say(value)} [${say(low).replace(" %", "")}, ${say(high).replace(" %", "")}]`
          : say(value)
      }),
      ...(task.chance === undefined ? [] : [first ? percent(task.chance) : ""])
    ])
    const head = [...(several ? ["checkpoint"] : []), "task", "questions", "sinks", ...names,
      ...(kind === "multiple_choice" ? ["chance"] : [])]
    const left = several ? [0, 1, 3] : [0, 2]
    return table(head, rows, { width, paint, isLeft: (column) => left.includes(column) })
  })
  const tasks = reports.flatMap((report, r) => report.tasks.map((task) => ({ ...task, r, report })))
  const of = ({ r, task }: { readonly task: string; readonly r: number }) =>
    short(task) + (reports.length > 1 ? ` (${r + 1})` : "")
  return [
    ...tables,
    ...(reports.length > 1 ?
      reports.map(({ checkpoint, step }, r) => `${r + 1}: ${checkpoint}${step === undefined ? "" : `, step ${step}`}`) :
      []),
    "in brackets 95 %: of shares Wilson's, of the others a bootstrap; acc_norm, acc_bytes and acc_tokens: by " +
    "log-likelihood a character, byte and token of a choice",
    ...tasks.filter(({ available, questions }) => questions < available)
      .map((one) => `${of(one)}: ${one.questions} of ${one.available} questions, drawn by the seed`),
    ...tasks.filter(({ truncated }) => truncated > 0).map((one) =>
      `${of(one)}: the beginning of ${
        plural(one.truncated, "context")
      } was cut off: rows have ${one.report.seqLen} tokens`
    ),
    ...tasks.flatMap((one) =>
      Object.entries(one.scores).filter(([, { ties }]) => ties > 0).map(([sinks, { ties }]) =>
        `${of(one)}, ${sinks}: in ${
          plural(ties, "question")
        } the likeliest choices are equally likely: the first counts`
      )
    )
  ].join("\n")
}

/** Answers questions, and prints a table, or with --json one object, on stdout. */
const runTasks = (options: EvaluateOptions, tasks: string) =>
  Effect.gen(function*() {
    const forData = { data: options.data, "source-field": options.sourceField, identity: options.identity,
      "prompt-tokens": options.promptTokens }
    const other = Object.entries(forData).find(([, value]) => Option.isSome<unknown>(value))?.[0]
    if (other !== undefined) return yield* Effect.fail(Edge.usage({ message: `--${other} is not for --tasks` }))
    const how = yield* shared(options)
    const reports = yield* Effect.forEach(options.checkpoint,
      (checkpoint) => evaluateTasks(checkpoint, { ...how, tasks, ...Edge.given({ id: options.id }) }))
    yield* Edge.print(
      options.json
        ? JSON.stringify(reports.length === 1 ? reports[0] : { checkpoints: reports })
        : formatTasks(reports, painter(hasColor(process.stdout, process.env)), widthOf(process.stdout.columns, 100))
    )
    yield* Effect.forEach(reports, (report) => tell(options, report, tasks))
  })

/** What both kinds of evaluation take. */
const shared = (options: EvaluateOptions) =>
  Effect.gen(function*() {
    const sinks = Option.isSome(options.sinks) ? { sinks: yield* statesOf(options.sinks.value) } : {}
    const runtime = yield* Edge.runtime
    const live = !options.quiet && isInteractive(process.stderr, process.env)
    return {
      device: runtime.layer(Edge.given({ adapter: options.adapter })),
      ...sinks,
      ...Edge.given({ seqLen: options.seq, sequences: options.sequences }),
      ...(options.specialAsText ? { specialAsText: true } : {}),
      batchSize: options.batch,
      seed: options.seed,
      precision: options.precision,
      onProgress: (done: number, of: number) =>
        Effect.sync(() => {
          if (live) process.stderr.write(`\r${done} of ${of} sequences${done === of ? "\n" : ""}`)
        })
    }
  })

const tell = (
  options: EvaluateOptions,
  { adapter, checkpoint, seconds, step }: Pick<EvaluationReport, "adapter" | "checkpoint" | "seconds" | "step">,
  data: string
) =>
  options.quiet
    ? Effect.void
    : Effect.sync(() =>
      Edge.complain(
        `${checkpoint}${step === undefined ? "" : `, step ${step}`}, on ${data}; ${seconds.toFixed(1)} s on ${adapter}`
      )
    )

/** Scores, and prints a table a checkpoint, or with --json one object, on stdout. */
export const runEvaluate = (options: EvaluateOptions) =>
  Effect.gen(function*() {
    if (Option.isSome(options.tasks)) return yield* runTasks(options, options.tasks.value)
    if (Option.isSome(options.id)) return yield* Effect.fail(Edge.usage({ message: "--id is for --tasks" }))
    const how = yield* shared(options)
    const reports = yield* Effect.forEach(options.checkpoint, (checkpoint) =>
      evaluate(checkpoint, {
        ...how,
        ...Edge.given({ data: options.data, sourceField: options.sourceField, identity: options.identity,
          promptTokens: options.promptTokens })
      }))
    const paint = painter(hasColor(process.stdout, process.env))
    yield* Edge.print(
      options.json
        ? JSON.stringify(reports.length === 1 ? reports[0] : { checkpoints: reports })
        : reports.map((report) =>
          (reports.length > 1 ? `${report.checkpoint}\n` : "") +
          format(report, paint, widthOf(process.stdout.columns, 100))
        ).join(
          "\n\n"
        )
    )
    yield* Effect.forEach(reports, (report) => tell(options, report, report.data))
  })
