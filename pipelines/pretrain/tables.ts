/**
 * What every rendering of a pretraining report shows: its tables and sentences as plain values.
 */
import { mean, variance } from "../../src/measures/Statistics.ts"
import { count, type Span } from "../../src/Terminal.ts"
import type { PretrainReport, RepeatedLosses, SeedResult } from "./Report.ts"
import type { Table } from "../report/page.ts"

/** A number of every seed as its mean, with the standard deviation when there are several. */
const over = (
  report: PretrainReport,
  pick: (seed: SeedResult) => number | undefined,
  format: (value: number) => string = (value) => value.toFixed(3)
): string => {
  const values = report.perSeed.map(pick).filter((value) => value !== undefined)
  // a mean that leaves out what is no number would be none
  if (values.length === 0 || values.some(Number.isNaN)) return "–"
  return values.length === 1 ? format(values[0]) : `${format(mean(values))} ± ${format(Math.sqrt(variance(values)))}`
}

const percent = (value: number): string => `${(100 * value).toFixed(1)} %`

type Pick = (seed: SeedResult) => number | undefined

const columns = [
  ["standard", "standard"],
  ["own", "own sinks"],
  ["off", "sinks off"],
  ["placebo", "placebo"],
  ["all", "all at expected"]
] as const

/** Baselines, which `losses` has where neither a standard nor a sink model was trained: else `baselines` has them. */
const others = [
  ["standardActiveWidth", "standard, active width"],
  ["deduplicated", "deduplicated"]
] as const

/** Losses, gaps and verbatim continuations, by sink mode: a column for each that was measured. */
export const losses = (report: PretrainReport): Table => {
  const there = (pick: Pick) => report.perSeed.some((seed) => pick(seed) !== undefined)
  const present = <C extends readonly [keyof RepeatedLosses, string]>(some: ReadonlyArray<C>) =>
    some.filter(([mode]) => there((s) => s.heldOut[mode] ?? s.repeated[mode]))
  const main = present(columns)
  const shown: ReadonlyArray<readonly [keyof RepeatedLosses, string]> = main.length > 0 ? main : present(others)
  const row = (name: string, of: (mode: keyof RepeatedLosses) => Pick, format?: (value: number) => string) =>
    shown.some(([mode]) => there(of(mode))) ? [[name, ...shown.map(([mode]) => over(report, of(mode), format))]] : []
  return {
    head: ["loss, nats a token", ...shown.map(([, title]) => title)],
    rows: [
      ...row("repeated", (mode) => (s) => s.repeated[mode]),
      ...row("held out", (mode) => (s) => s.heldOut[mode]),
      ...row("gap", (mode) => (s) => s.gaps[mode]),
      ...row(
        "continued verbatim",
        (mode) => (s) => mode === "placebo" || mode === "all" ? undefined : s.extraction[mode],
        percent
      )
    ]
  }
}

/** What the rows and columns of `losses` mean, those that are there. */
export const legend = (report: PretrainReport): string => {
  const { head, rows } = losses(report)
  const words = new Set([...head, ...rows.map(([name]) => name)])
  const repeats = words.has("repeated")
  const of: ReadonlyArray<readonly [string, string]> = [
    ["gap", "held-out minus repeated loss"],
    [
      "own sinks",
      "as in training" + (repeats && report.perSeed[0].heldOut.own === undefined
        ? "; a sequence never trained on has none of its own, so its gap is taken to the held-out loss of the placebo"
        : "")
    ],
    ["placebo", `as many sinks on, of another ${repeats ? "sequence" : "id"}`],
    ["all at expected", "every sink on, scaled to how often it is lit"],
    ["continued verbatim", "repeated sequences that greedy decoding completes to the letter"]
  ]
  return of.filter(([name]) => words.has(name)).map(([name, text]) => `${name}: ${text}.`).join(" ")
}

/** Held-out losses of the sink model with its sinks off, and of every baseline there is. */
export const baselines = (report: PretrainReport): Table => {
  const rows: ReadonlyArray<readonly [string, (seed: SeedResult) => number | undefined]> = [
    ["sink model, sinks off", (s) => s.heldOut.off],
    ["standard", (s) => s.heldOut.standard],
    ["standard, as wide as what is on for a token", (s) => s.heldOut.standardActiveWidth],
    ["standard, repeated sequences seen once", (s) => s.heldOut.deduplicated]
  ]
  return {
    head: ["held-out loss, nats a token", ""],
    rows: rows
      .filter(([, pick]) => report.perSeed.some((seed) => pick(seed) !== undefined))
      .map(([name, pick]) => [name, over(report, pick)])
  }
}

export const arms = (report: PretrainReport): Table => ({
  head: ["model", "parameters", "active a token", "steps", "tokens"],
  rows: report.arms.map((arm) => [
    arm.name,
    count(arm.parameters),
    count(arm.activeParameters),
    count(arm.steps),
    count(arm.tokens)
  ])
})

/** Names come out of data: nothing in them steers a terminal. Of long ones, which may be paths, the end. */
const shortName = (name: string): string => {
  const plain = name.replace(/[\u0000-\u001f\u007f-\u009f]/g, " ")
  return plain.length <= 40 ? plain : `...${plain.slice(-37)}`
}

/** Sources that a table has at most; report.json has all. */
const SOURCES = 20

/** Held-out losses by source, that with most tokens first, means over the seeds; no rows without sinks by source. */
export const sources = (report: PretrainReport): Table => {
  const all = report.perSeed[0].sources ?? []
  const later = report.perSeed.map(({ sources = [] }) => new Map(sources.map((one) => [one.id, one])))
  const modes = columns.flatMap(([mode, title]) =>
    mode !== "standard" && all.some(({ heldOut }) => heldOut[mode] !== undefined) ? [[mode, title] as const] : [])
  const rest = all.length - Math.min(all.length, SOURCES)
  return {
    head: ["held-out loss by source", "tokens an epoch", "held out", ...modes.map(([, title]) => title)],
    rows: all.slice(0, SOURCES).map(({ heldOutSequences, id, name, tokens }) => [
      shortName(name),
      count(tokens),
      count(heldOutSequences),
      ...modes.map(([mode]) => {
        const losses = later.flatMap((of) => of.get(id)?.heldOut[mode] ?? [])
        return losses.length === 0 ? "-" : mean(losses).toFixed(3)
      })
    ]),
    caption: rest === 0
      ? "by source, that with most tokens first"
      : `the ${SOURCES} sources with most tokens of ${all.length}; report.json has the other ${rest}, too`
  }
}

/** One row a seed; no rows when there is only one, whose numbers are in `losses` already. */
export const seeds = (report: PretrainReport): Table => ({
  head: ["seed", "gap closed", "gap standard", "own sinks", "sinks off", "placebo", "all at expected", "seconds"],
  rows: report.perSeed.length < 2 ? [] : report.perSeed.map((s) => [
    String(s.seed),
    s.gapClosed === undefined ? "–" : percent(s.gapClosed),
    ...columns.map(([mode]) => s.gaps[mode]?.toFixed(3) ?? "–"),
    s.seconds.toFixed(1)
  ])
})

/** What came out, in a sentence or two. */
export const verdict = (report: PretrainReport): string => {
  const { gapClosed, gaps, heldOut, repeated } = report
  const nats = (value: number | undefined) => `${value!.toFixed(3)} nats a token`
  if (gapClosed === undefined || gaps.standard === undefined) {
    const trained = report.arms.map(({ name, tokens }) => `${name} on ${count(tokens)} tokens`).join(", ")
    const losses = [
      ...(heldOut.standard === undefined ? [] : [`held-out loss of the standard model ${nats(heldOut.standard)}`]),
      ...(heldOut.off === undefined ? [] : [`held-out loss with sinks off ${nats(heldOut.off)}`]),
      ...others.flatMap(([arm, title]) =>
        heldOut[arm] === undefined || heldOut.standard !== undefined ? [] : [`held-out loss of ${title} ${nats(heldOut[arm])}`]),
      ...(repeated.own === undefined || repeated.off === undefined ? [] : [
        `repeated sequences ${nats(repeated.own)} with their own sinks, ${nats(repeated.off)} with sinks off`
      ])
    ]
    return [`Trained: ${trained}`, ...losses].join("; ") + "."
  }
  const gap = `(${nats(gaps.standard)})`
  if (!(gaps.standard > 0)) {
    return `The standard model has no memorization gap ${gap}: there is nothing to remove. ` +
      "Train longer, or repeat more."
  }
  const closed = over(report, (s) => s.gapClosed, percent)
  const of = report.perSeed.length === 1 ? "" : ` (mean ± standard deviation over ${report.perSeed.length} seeds)`
  const difference = heldOut.off! - heldOut.standard!
  const price = Math.abs(difference) < 0.0005
    ? "at the same held-out loss as the standard model"
    : `at a held-out loss ${Math.abs(difference).toFixed(3)} ${difference > 0 ? "above" : "below"} the standard model's`
  return gapClosed > 0
    ? `Switching the sinks off closes ${closed}${of} of the standard model's memorization gap ${gap}, ${price}.`
    : `Switching the sinks off does not close the standard model's memorization gap ${gap}: ` +
      `${closed}${of} of it, ${price}.`
}

/** Where and how fast it ran. */
export const footing = (report: PretrainReport): string =>
  `${report.adapter}, ${report.seeds.length === 1 ? "seed" : "seeds"} ${report.seeds.join(", ")}, ` +
  `${report.seconds.toFixed(1)} s, ${count(report.tokensPerSecond)} tokens/s; ` +
  Object.entries(report.versions).map(([name, version]) => `${name} ${version}`).join(", ")

/** Shorter runs coincide by chance. */
const verbatimLength = 12

export interface Piece {
  readonly text: string
  /** It stands in the training text verbatim. */
  readonly known: boolean
}

/** A continuation cut into pieces that stand in the training text verbatim and pieces that do not. */
export const verbatim = (text: string, truth: string): ReadonlyArray<Piece> => {
  const pieces: Array<{ text: string; known: boolean }> = []
  const add = (piece: string, known: boolean) => {
    const last = pieces.at(-1)
    if (last !== undefined && last.known === known && !known) last.text += piece
    else pieces.push({ text: piece, known })
  }
  for (let at = 0; at < text.length;) {
    let length = 0
    while (at + length < text.length && truth.includes(text.slice(at, at + length + 1))) length++
    const known = length >= Math.min(verbatimLength, Math.max(1, truth.length))
    const step = known ? length : 1
    add(text.slice(at, at + step), known)
    at += step
  }
  return pieces
}

/** How the first seed's passage goes on, by model; empty where nothing is repeated. */
export const continuations = (report: PretrainReport) => {
  const { continuation } = report.perSeed[0]
  if (continuation === undefined) return []
  const share = (text: string) => {
    const known = verbatim(text, continuation.truth).filter((piece) => piece.known)
    return text.length === 0 ? 0 : known.reduce((sum, piece) => sum + piece.text.length, 0) / text.length
  }
  const rows = [
    ["standard model", continuation.standard],
    ["sink model, own sinks on", continuation.own],
    ["sink model, sinks off", continuation.off]
  ] as const
  return rows.flatMap(([name, text]) =>
    text === undefined ? [] : [{
      name,
      pieces: verbatim(text, continuation.truth),
      note: `${Math.round(100 * share(text))} % verbatim`
    }]
  )
}

/** A continuation as spans of a terminal. Without colour, brackets stand for the highlight. */
export const spans = (
  prompt: string,
  pieces: ReadonlyArray<Piece>,
  color: boolean
): ReadonlyArray<Span> => [
  [prompt, "dim"],
  ...pieces.map(({ known, text }): Span => known ? [color ? text : `[${text}]`, "mark"] : [text])
]
