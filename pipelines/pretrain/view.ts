/** What a pretraining report shows. Pure. */
import { mean } from "../../src/measures/Statistics.ts"
import { count } from "../../src/Terminal.ts"
import type { Chart, Line } from "../report/Chart.ts"
import { keeps } from "../report/Claim.ts"
import { estimate, type Kind, plusMinus } from "../report/Estimate.ts"
import * as View from "../report/View.ts"
import type { Curve, PretrainReport, RepeatedLosses, SeedResult } from "./Report.ts"

type Pick = (seed: SeedResult) => number | undefined
type Format = (value: number) => string
type Mode = keyof RepeatedLosses

const nats: Format = (value) => value.toFixed(3)
const percent = View.percent(1)

/** A number of every seed as its mean, with its 95 % interval when there are several. */
const over = ({ perSeed }: PretrainReport, pick: Pick, format: Format = nats, kind: Kind = "real"): string => {
  const one = estimate(perSeed.map(pick), { kind })
  return Number.isNaN(one.mean) ? View.NOTHING : plusMinus(one, format)
}

const overSeeds = ({ perSeed }: PretrainReport): string =>
  perSeed.length === 1 ? "" : ` (mean and 95 % interval, Student's t over ${perSeed.length} seeds)`

const modes: ReadonlyArray<readonly [mode: Mode, title: string]> = [
  ["standard", "standard"],
  ["own", "own sinks"],
  ["off", "sinks off"],
  ["placebo", "placebo"],
  ["all", "all at expected"]
]

/** Baselines, which `losses` has where neither a standard nor a sink model was trained: else `baselines` has them. */
const others: typeof modes = [["standardActiveWidth", "standard, active width"], ["deduplicated", "deduplicated"]]

const verbatimModes = ["standard", "own", "off", "standardActiveWidth", "deduplicated"] as const

/** Losses, gaps and verbatim continuations, by sink mode: a column for each that was measured. */
const losses = (report: PretrainReport): View.Table => {
  const there = (pick: Pick) => report.perSeed.some((seed) => pick(seed) !== undefined)
  const present = (some: typeof modes) => some.filter(([mode]) => there((s) => s.heldOut[mode] ?? s.repeated[mode]))
  const main = present(modes)
  const shown = main.length > 0 ? main : present(others)
  const row = (name: string, of: (mode: Mode) => Pick, kind: Kind, format?: Format) =>
    shown.some(([mode]) => there(of(mode)))
      ? [[name, ...shown.map(([mode]) => over(report, of(mode), format, kind))]]
      : []
  return {
    head: ["loss, nats a token", ...shown.map(([, title]) => title)],
    rows: [
      ...row("repeated", (mode) => (s) => s.repeated[mode], "loss"),
      ...row("held out", (mode) => (s) => s.heldOut[mode], "loss"),
      ...row("gap", (mode) => (s) => s.gaps[mode], "real"),
      ...row("continued verbatim", (mode) => (s) => {
        const known = verbatimModes.find((one) => one === mode)
        return known === undefined ? undefined : s.extraction[known]
      }, "share", percent)
    ]
  }
}

/** What the rows and columns of `losses` mean, those that are there. */
const terms = (report: PretrainReport): ReadonlyArray<View.Term> => {
  const { head, rows } = losses(report)
  const words = new Set([...head, ...rows.map(([name]) => name)])
  const repeats = words.has("repeated")
  const of: ReadonlyArray<View.Term> = [
    ["gap", "held-out minus repeated loss: how much better the model knows what it saw often"],
    ["standard", "the same model without sinks, trained on the same data"],
    [
      "own sinks",
      "each sequence's own sinks are on, as in training" + (repeats && report.perSeed[0]!.heldOut.own === undefined
        ? "; a sequence never trained on has none of its own, so its gap is taken to the held-out loss of the placebo"
        : "")
    ],
    ["sinks off", "all sinks are switched off: the model that is used"],
    ["placebo", `as many sinks on, of another ${repeats ? "sequence" : "id"}`],
    ["all at expected", "every sink on, scaled to how often it is lit"],
    ["continued verbatim", "repeated sequences that greedy decoding completes to the letter"]
  ]
  return of.filter(([name]) => words.has(name))
}

/** Held-out losses of the sink model with its sinks off, and of every baseline there is. */
const baselines = (report: PretrainReport): View.Table => {
  const rows: ReadonlyArray<readonly [string, Pick]> = [
    ["sink model, sinks off", (s) => s.heldOut.off],
    ["standard", (s) => s.heldOut.standard],
    ["standard, as wide as what is on for a token", (s) => s.heldOut.standardActiveWidth],
    ["standard, repeated sequences seen once", (s) => s.heldOut.deduplicated]
  ]
  const there = rows.filter(([, pick]) => report.perSeed.some((seed) => pick(seed) !== undefined))
  return {
    head: ["held-out loss, nats a token", ""],
    // one is compared with nothing
    rows: there.length < 2 ? [] : there.map(([name, pick]) => [name, over(report, pick, nats, "loss")])
  }
}

const arms = (report: PretrainReport): View.Table => ({
  head: ["model", "parameters", "active a token", "steps", "tokens"],
  rows: report.arms.map((arm) => [
    arm.name,
    ...[arm.parameters, arm.activeParameters, arm.steps, arm.tokens].map(count)
  ])
})

/** What each rank did, where there were several. */
const ranks = ({ ranks: all = [], perSeed }: PretrainReport): View.Table => ({
  caption: "Ranks: their own tokens, and what of the time of training they waited for others and exchanged",
  head: ["model", "rank", "machine", "adapter", "tokens/s", "waiting", "exchange"],
  rows: all.map(({ adapter, arm, exchanging, host, rank, seconds, seed, tokens, waiting }) => [
    perSeed.length > 1 ? `${arm} (seed ${seed})` : arm,
    String(rank),
    host,
    adapter,
    seconds > 0 ? count(tokens / seconds) : View.NOTHING,
    ...[waiting, exchanging].map((part) => seconds > 0 ? percent(part / seconds) : View.NOTHING)
  ])
})

/** Sources that a table has at most; report.json has all. */
const SOURCES = 20

/** Held-out losses by source, that with most tokens first, means over the seeds; no rows without sinks by source. */
const sources = (report: PretrainReport): View.Table => {
  const all = report.perSeed[0]!.sources ?? []
  const later = report.perSeed.map(({ sources = [] }) => new Map(sources.map((one) => [one.id, one])))
  const lossIn = (mode: Mode, { heldOut }: (typeof all)[number]) =>
    mode === "own" || mode === "off" || mode === "placebo" || mode === "all" ? heldOut[mode] : undefined
  const shown = modes.filter(([mode]) => all.some((source) => lossIn(mode, source) !== undefined))
  const rest = Math.max(0, all.length - SOURCES)
  return {
    head: ["held-out loss by source", "tokens an epoch", "rows held out", ...shown.map(([, title]) => title)],
    rows: all.slice(0, SOURCES).map(({ heldOutSequences, id, name, tokens }) => [
      View.shortName(name),
      count(tokens),
      count(heldOutSequences),
      ...shown.map(([mode]) => {
        const losses = later.flatMap((of) => {
          const source = of.get(id)
          return source === undefined ? [] : lossIn(mode, source) ?? []
        })
        return losses.length === 0 ? View.NOTHING : nats(mean(losses))
      })
    ]),
    caption: rest === 0
      ? "by source, that with most tokens first"
      : `the ${SOURCES} sources with most tokens of ${all.length}; report.json has the other ${rest}, too`
  }
}

/** One row a seed; no rows when there is only one, whose numbers are in `losses` already. */
const seeds = ({ perSeed }: PretrainReport): View.Table => ({
  caption: "Each seed: memorization gaps, nats a token",
  head: ["seed", "gap closed", ...modes.map(([, title]) => title), "seconds"],
  rows: perSeed.length < 2 ? [] : perSeed.map((s) => [
    String(s.seed),
    s.gapClosed === undefined ? View.NOTHING : percent(s.gapClosed),
    ...modes.map(([mode]) => s.gaps[mode] === undefined ? View.NOTHING : nats(s.gaps[mode])),
    s.seconds.toFixed(1)
  ])
})

/** What came out, in a sentence or two. */
const verdict = (report: PretrainReport): string => {
  const { gapClosed, gaps, heldOut, repeated } = report
  const token = (value: number) => `${nats(value)} nats a token`
  if (gapClosed === undefined || gaps.standard === undefined) {
    const trained = report.arms.map(({ name, tokens }) => `${name} on ${count(tokens)} tokens`).join(", ")
    return [
      `Trained: ${trained}`,
      ...(heldOut.standard === undefined ? [] : [`held-out loss of the standard model ${token(heldOut.standard)}`]),
      ...(heldOut.off === undefined ? [] : [`held-out loss with sinks off ${token(heldOut.off)}`]),
      ...others.flatMap(([arm, title]) =>
        heldOut[arm] === undefined || heldOut.standard !== undefined
          ? []
          : [`held-out loss of ${title} ${token(heldOut[arm])}`]
      ),
      ...(repeated.own === undefined || repeated.off === undefined ? [] : [
        `repeated sequences ${token(repeated.own)} with their own sinks, ${token(repeated.off)} with sinks off`
      ])
    ].join("; ") + "."
  }
  const gap = `(${token(gaps.standard)})`
  if (!(gaps.standard > 0)) {
    return `The standard model has no memorization gap ${gap}: there is nothing to remove. ` +
      "Train longer, or repeat more."
  }
  const closed = over(report, (s) => s.gapClosed, percent)
  const of = overSeeds(report)
  const difference = heldOut.off! - heldOut.standard!
  const price = Math.abs(difference) < 0.0005
    ? "at the same held-out loss as the standard model"
    : `at a held-out loss ${nats(Math.abs(difference))} ${difference > 0 ? "above" : "below"} the standard model's`
  const isClosed = keeps(estimate(report.perSeed.map((seed) => seed.gapClosed)), { least: 0 })
  if (report.perSeed.length > 1 && isClosed === "undecided") {
    return `Whether switching the sinks off closes the standard model's memorization gap ${gap} is undecided: ` +
      `${closed}${of} of it, ${price}.`
  }
  return gapClosed > 0
    ? `Switching the sinks off closes ${closed}${of} of the standard model's memorization gap ${gap}, ${price}.`
    : `Switching the sinks off does not close the standard model's memorization gap ${gap}: ` +
      `${closed}${of} of it, ${price}.`
}

// ---------------------------------------------------------------------------------------------------------------
// Charts

/** The learning curves of every seed. */
export interface Curves {
  readonly perSeed: ReadonlyArray<{
    readonly seed: number
    readonly curves: ReadonlyArray<Curve>
  }>
}

const tokensAxis = { title: "tokens trained on" }
const lossAxis = { title: "loss, nats a token" }

const linesOf = (
  { perSeed }: Curves,
  pick: (curve: Curve) => { readonly series: string; readonly text: string } | undefined
): ReadonlyArray<Line> =>
  perSeed.flatMap(({ curves, seed }) =>
    curves.flatMap((curve) => {
      const named = pick(curve)
      return named === undefined ? [] : [{
        label: named.text === "training" ? named.series : `${named.series}, ${named.text}`,
        of: { ...named, seed: String(seed) },
        width: perSeed.length > 1 ? 1.25 : 2,
        points: curve.points.map(({ loss, tokens }) => ({ x: tokens, y: loss }))
      }]
    })
  )

const evaluations: Readonly<Record<string, readonly [text: string, state: "own" | "off"]>> = {
  "repeated.own": ["repeated", "own"],
  "repeated.off": ["repeated", "off"],
  "heldOut.own": ["held out", "own"],
  "heldOut.off": ["held out", "off"]
}

/** Losses of repeated and held-out text along training, and training losses of all arms. */
export const curves = (report: Curves): { readonly evaluated: Chart; readonly training: Chart } => {
  // baselines are left out beside what they are compared with
  const alone = !report.perSeed.some(({ curves }) => curves.some(({ arm }) => arm === "standard" || arm === "sinks"))
  const evaluated = linesOf(report, ({ arm, name }) => {
    const [text, state] = evaluations[name] ?? []
    if (text === undefined || state === undefined) return undefined
    if (arm === "sinks") return { series: state === "own" ? "own sinks" : "sinks off", text }
    return arm === "standard" || alone ? { series: arm, text } : undefined
  })
  const texts = View.unique(evaluated.map(({ of }) => of["text"]))
  const shared = { x: tokensAxis, y: lossAxis, facets: [], color: ["series"], dash: ["text"] }
  return {
    evaluated: {
      ...shared,
      title: texts.length === 1
        ? `${texts[0] === "repeated" ? "Repeated" : "Held-out"} text along training`
        : "Repeated and held-out text along training",
      lines: evaluated
    },
    training: {
      ...shared,
      title: "Training loss",
      lines: linesOf(report, ({ arm, name }) => name === "train" ? { series: arm, text: "training" } : undefined)
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------
// A passage

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
const passages = ({ perSeed }: PretrainReport, training: boolean): ReadonlyArray<View.Block> => {
  const { continuation, seed } = perSeed[0]!
  if (continuation === undefined) return []
  const prompt: View.Span = { text: continuation.prompt, look: "faint" }
  const models = [
    ["standard model", continuation.standard],
    ["sink model, own sinks on", continuation.own],
    ["sink model, sinks off", continuation.off]
  ] as const
  return [
    ...View.text(
      `Continued greedily${
        perSeed.length > 1 ? ` (seed ${seed})` : ""
      }; highlighted, bold or in brackets: verbatim from ` +
        "the training text."
    ),
    ...(training ?
      [{
        is: "passage" as const,
        name: "training text",
        spans: [prompt, { text: continuation.truth }]
      }] :
      []),
    ...models.flatMap(([name, text]): ReadonlyArray<View.Block> => {
      if (text === undefined) return []
      const pieces = verbatim(text, continuation.truth)
      const known = pieces.reduce((sum, piece) => sum + (piece.known ? piece.text.length : 0), 0)
      return [{
        is: "passage",
        name,
        note: `${text.length === 0 ? 0 : Math.round(100 * known / text.length)} % verbatim`,
        spans: [prompt, ...pieces.map(({ known, text }): View.Span => known ? { text, look: "mark" } : { text })]
      }]
    })
  ]
}

// ---------------------------------------------------------------------------------------------------------------
// All of it

export const view = (report: PretrainReport): View.View => {
  const { evaluated, training } = curves(report)
  const tables = View.tables(baselines(report), sources(report), seeds(report))
  const meaning = View.terms(...terms(report))
  return {
    title: "Pretraining with memorization sinks",
    head: [verdict(report)],
    sections: [
      ...View.section("", [...View.tables(losses(report)), ...View.charts(evaluated), ...meaning]),
      ...View.section("A repeated passage, continued", passages(report, true)),
      ...View.section("Baselines, sources and seeds", tables),
      ...View.section("Training", [...View.charts(training), ...View.tables(arms(report), ranks(report))]),
      ...View.caveats({ failures: report.failures ?? [], warnings: [] }),
      ...View.again("pretrain")
    ],
    brief: [
      ...View.section("", View.tables(losses(report))),
      ...View.section("", tables),
      ...View.section("A repeated passage", passages(report, false)),
      ...View.section("", View.tables(arms(report), ranks(report))),
      ...View.section("", View.caveatsInShort({ failures: report.failures ?? [], warnings: [] })),
      ...View.section("", meaning)
    ],
    config: report.config,
    footing: View.footing(report, `${count(report.tokensPerSecond)} tokens/s`)
  }
}
