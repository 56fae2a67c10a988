/** `memsinks evaluate`: a checkpoint's scores on data, states of its sinks side by side. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import process from "node:process"
import { evaluate, type EvaluatedSinks, type EvaluationReport, type Score } from "../../pipelines/evaluate.ts"
import { nearest } from "../Config.ts"
import * as Sink from "../Sink.ts"
import { columns as aligned, count, hasColor, isInteractive, NOTHING, oneLine, type Paint,
  painter } from "../Terminal.ts"
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
export const format = (report: EvaluationReport, paint: Paint): string => {
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
  const [first, ...others] = aligned([head, ...rows], (column) => column === 0 || column === 3)
  return [
    paint("bold", first!),
    ...others,
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

/** Scores, and prints a table, or with --json one object, on stdout. */
export const runEvaluate = (options: EvaluateOptions) =>
  Effect.gen(function*() {
    const sinks = Option.isSome(options.sinks) ? { sinks: yield* statesOf(options.sinks.value) } : {}
    const runtime = yield* Edge.runtime
    const say = (text: string) => options.quiet ? Effect.void : Effect.sync(() => void process.stderr.write(text))
    const live = isInteractive(process.stderr, process.env)
    const report = yield* evaluate(options.checkpoint, {
      device: runtime.layer(Edge.given({ adapter: options.adapter })),
      ...sinks,
      ...Edge.given({ data: options.data, sourceField: options.sourceField, identity: options.identity,
        seqLen: options.seq }),
      ...(options.specialAsText ? { specialAsText: true } : {}),
      batchSize: options.batch,
      sequences: options.sequences,
      promptTokens: options.promptTokens,
      seed: options.seed,
      precision: options.precision,
      onProgress: (done, of) => live ? say(`\r${done} of ${of} sequences${done === of ? "\n" : ""}`) : Effect.void
    })
    yield* Edge.print(
      options.json ? JSON.stringify(report) : format(report, painter(hasColor(process.stdout, process.env)))
    )
    const tell = (text: string) => options.quiet ? Effect.void : Effect.sync(() => Edge.complain(text))
    yield* tell(
      `${report.checkpoint}${report.step === undefined ? "" : `, step ${report.step}`}, on ${report.data}; ` +
        `${report.seconds.toFixed(1)} s on ${report.adapter}`
    )
  })
