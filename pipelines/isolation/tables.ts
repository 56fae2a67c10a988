/** What every rendering of an isolation report shows: its sections, tables and sentences as plain values. */
import { count } from "../../src/Terminal.ts"
import type { Table } from "../report/page.ts"
import { caveats, claimsTable, filled, type Section, section } from "../report/sections.ts"
import { digits, type Format, isKnown, perSeed, plusMinus } from "../report/Estimate.ts"
import type { Estimate, IsolationReport, MaskState, Panel, Subject } from "./Report.ts"

const unique = <T>(values: ReadonlyArray<T>): ReadonlyArray<T> => [...new Set(values)]

/** A number of any size, to three digits. */
const short: Format = (value) => String(Number(value.toPrecision(3)))

const states: Readonly<Record<MaskState, string>> = {
  own: "own sinks",
  all: "all at expected",
  off: "sinks off",
  calibrated: "off, calibrated",
  placebo: "placebo",
  placeboOff: "own, placebo off",
  pruned: "pruned"
}

const panels: Readonly<Record<Panel, string>> = {
  natural: "repeated natural text",
  canary: "canaries (random tokens)",
  other: "the other domain"
}

export const panelName = (panel: Panel): string => panels[panel]
export const stateName = (state: MaskState): string => states[state]

// ---------------------------------------------------------------------------------------------------------------
// The head

/** Why the word stands at the head, in a sentence. */
export const because = ({ decidedBy, subject }: IsolationReport): string => `${subject}: ${decidedBy}.`

export const footing = ({ adapter, seconds, seeds, versions }: IsolationReport): string =>
  `${adapter}, ${seeds.length === 1 ? "seed" : "seeds"} ${seeds.join(", ")}, ${count(seconds)} s; ` +
  Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(", ")

// ---------------------------------------------------------------------------------------------------------------
// T1

interface Column {
  readonly head: string
  readonly of: (states: States) => string
  /** Also where there is little room. */
  readonly short?: boolean
  readonly meaning?: string
}

/** An arm before and after removal: the same where there are no sinks. */
interface States {
  readonly arm: string
  readonly own: Subject | undefined
  readonly removed: Subject | undefined
}

const statesOf = ({ subjects }: IsolationReport): ReadonlyArray<States> =>
  unique(subjects.map(({ arm }) => arm)).map((arm) => {
    const of = (state: MaskState) => subjects.find((one) => one.arm === arm && one.state === state)
    return { arm, own: of("own"), removed: of("off") ?? of("own") }
  })

/** The last metric of a name that there is: of several contexts the longest, from which most can be extracted. */
const metricLike = ({ metrics }: IsolationReport, start: string): string | undefined =>
  metrics.map(({ name }) => name).filter((name) => name.startsWith(start)).at(-1)

/** Share of the standard model's gap between held-out and repeated loss that is closed. */
const gapClosed = (subject: Subject | undefined, standard: Subject | undefined, panel: Panel): Estimate | undefined =>
  perSeed(
    (heldOut, repeated, standardHeldOut, standardRepeated) =>
      1 - (heldOut - repeated) / (standardHeldOut - standardRepeated),
    ...[subject, standard].flatMap((one) => [one?.metrics["heldOut.loss"], one?.metrics[`${panel}.loss`]])
  )

const mainColumns = (report: IsolationReport, panel: Panel): ReadonlyArray<Column> => {
  const standard = statesOf(report).find(({ arm }) => arm === "standard")?.own
  const metric = (head: string, name: string | undefined, rest: Pick<Column, "short" | "meaning"> = {}) =>
    name === undefined ? [] : [{
      head,
      of: ({ removed }: States) => plusMinus(removed?.metrics[`${panel}.${name}`]),
      ...rest
    }]
  const off = ({ own, removed }: States) => removed === own ? undefined : removed
  const [greedy, np] = [metricLike(report, "greedy@"), metricLike(report, "np@")]
  return [
    { head: "held-out loss", of: ({ removed }) => plusMinus(removed?.metrics["heldOut.loss"]), short: true },
    {
      head: "repeated, on",
      of: ({ own }) => plusMinus(own?.metrics[`${panel}.loss`]),
      short: true,
      meaning: "loss with own sinks, or of the whole model where it has none"
    },
    {
      head: "repeated, off",
      of: (states) => plusMinus(off(states)?.metrics[`${panel}.loss`]),
      short: true,
      meaning: "loss with sinks off; all else in the row is of sinks off, too, where there are any"
    },
    {
      head: "gap closed",
      of: ({ removed }) => plusMinus(gapClosed(removed, standard, panel)),
      meaning: "share of the standard model's gap between held-out and repeated loss"
    },
    ...metric("EM", "exactMemorization", { meaning: "share of tokens that are the likeliest" }),
    ...metric("ES", "extractionStrength", {
      short: true,
      meaning: "share of a sequence, at its end, that follows from what is before it"
    }),
    ...metric(greedy ?? "", greedy, { meaning: "share said verbatim after so many tokens" }),
    ...metric(np ?? "", np, { short: true, meaning: "share that some of 100 samples say verbatim as likely as not" }),
    ...metric("MIA AUC", "mia.loss.auc", { meaning: "membership inference by loss" }),
    ...metric("TPR at 1 %", "mia.loss.tpr", { meaning: "members it finds at 1 % false alarms" }),
    {
      head: "recovery",
      of: ({ removed }) => plusMinus(removed?.recovery[`${panel}.loss`]),
      short: true,
      meaning: "of the loss: 1 as memorized as standard, 0 as if never repeated"
    },
    {
      head: "tokens/s",
      of: ({ arm }) =>
        plusMinus(report.arms.find(({ name, tokens }) => name === arm && tokens > 0)?.tokensPerSecond, count)
    }
  ]
}

const panelsOf = ({ subjects }: IsolationReport): ReadonlyArray<Panel> =>
  (["natural", "canary", "other"] as const).filter((panel) =>
    subjects.some(({ metrics }) => `${panel}.loss` in metrics))

/** T1, of a panel: every arm, after removal where there is any. */
export const mainTable = (report: IsolationReport, panel: Panel, room: "short" | "full" = "full"): Table => {
  const columns = mainColumns(report, panel).filter(({ short }) => room === "full" || short === true)
  return filled({
    caption: `Scored on ${panels[panel]}`,
    head: ["", ...columns.map(({ head }) => head)],
    rows: statesOf(report).map((states) => [states.arm, ...columns.map(({ of }) => of(states))])
  })
}

/** What the columns of T1 mean. */
export const legend = (report: IsolationReport, panel: Panel, room: "short" | "full" = "full"): string => {
  const shown = new Set(mainTable(report, panel, room).head)
  const words = mainColumns(report, panel).flatMap(({ head, meaning }) =>
    meaning === undefined || !shown.has(head) ? [] : [`${head}: ${meaning}`])
  return [
    ...words,
    `losses in nats a token${report.seeds.length < 2 ? "" : `; ±: 95 % interval over ${report.seeds.length} seeds`}`
  ].join(". ") + "."
}

/** T1 of the panel that comes first. */
export const firstPanel = (report: IsolationReport): Panel => panelsOf(report)[0] ?? "natural"

/** All metrics of all models in all states. */
const everything = (report: IsolationReport): ReadonlyArray<Table> =>
  panelsOf(report).map((panel) => {
    const names = report.metrics.map(({ name }) => name)
      .filter((name) => report.subjects.some(({ metrics }) => isKnown(metrics[`${panel}.${name}`])))
    return {
      caption: `Value, and recovery in brackets, on ${panels[panel]}`,
      head: ["", "state", "held-out loss", ...names],
      rows: report.subjects.map(({ arm, metrics, recovery, state }) => [
        arm,
        states[state],
        plusMinus(metrics["heldOut.loss"]),
        ...names.map((name) => {
          const [value, share] = [metrics[`${panel}.${name}`], recovery[`${panel}.${name}`]]
          return plusMinus(value) + (isKnown(share) ? ` (${digits(2)(share.mean)})` : "")
        })
      ])
    }
  })

// ---------------------------------------------------------------------------------------------------------------
// Other tables

const curves = ({ curves }: IsolationReport): Table => ({
  head: ["", "series", "lowest", "after steps", "at the end"],
  rows: curves.filter(({ points }) => points.length > 0).map(({ arm, points, series }) => {
    const known = points.filter(({ loss }) => isKnown(loss))
    const lowest = known.reduce((best, one) => one.loss.mean < best.loss.mean ? one : best, known[0] ?? points[0])
    return [arm, series, plusMinus(lowest.loss), count(lowest.step), plusMinus(points.at(-1)!.loss)]
  })
})

const tradeoffs = ({ tradeoffs }: IsolationReport): ReadonlyArray<Table> =>
  unique(tradeoffs.map(({ panel }) => panel)).map((panel) => ({
    caption: `Losses minus the standard model's, on ${panels[panel]}`,
    head: ["", "chosen", "held-out", "repeated"],
    rows: tradeoffs.filter((one) => one.panel === panel).flatMap(({ arm, points }) =>
      points.filter(({ chosen }) => chosen).map(({ degradation, forgetting, setting }) => [
        arm,
        setting === "" ? "-" : setting,
        plusMinus(degradation),
        plusMinus(forgetting)
      ]))
  }))

const ladder = (report: IsolationReport): ReadonlyArray<Table> => {
  const rich = unique(report.subjects.filter(({ state }) => state !== "own").map(({ arm }) => arm))
  const panel = firstPanel(report)
  const rows = report.subjects.filter(({ arm }) => rich.includes(arm)).map(({ arm, metrics, recovery, state }) => [
    arm,
    states[state],
    plusMinus(metrics["heldOut.loss"]),
    plusMinus(metrics[`${panel}.loss`]),
    plusMinus(metrics[`${panel}.extractionStrength`]),
    plusMinus(recovery[`${panel}.loss`])
  ])
  return rows.length === 0 ? [] : [filled({
    caption: `Which neurons are on, scored on ${panels[panel]}`,
    head: ["", "state", "held-out loss", "repeated loss", "ES", "recovery"],
    rows
  })]
}

const interference = ({ interference }: IsolationReport): ReadonlyArray<Table> =>
  interference.length === 0 ? [] : [{
    caption: "What other sequences' sinks do, nats a token",
    head: ["", ...interference.map(({ arm }) => arm)],
    rows: [
      ...unique(interference.flatMap(({ ladder }) => ladder.map(({ others }) => others))).map((others) => [
        `loss with own sinks and those of ${count(others)} others`,
        ...interference.map(({ ladder }) => plusMinus(ladder.find((rung) => rung.others === others)?.loss))
      ]),
      ["own sinks take off", ...interference.map(({ sliceContent }) => plusMinus(sliceContent.own))],
      ["a placebo takes off", ...interference.map(({ sliceContent }) => plusMinus(sliceContent.placebo))],
      ["as many random others off adds", ...interference.map(({ placeboOff }) => plusMinus(placeboOff))],
      ["deleting one id adds to others, on average", ...interference.map(({ deletion }) => plusMinus(deletion.mean))],
      ["at worst", ...interference.map(({ deletion }) => plusMinus(deletion.worst))],
      ["leakage: recovery with sinks off", ...interference.map(({ leakage }) => plusMinus(leakage))]
    ]
  }]

const hygiene = ({ hygiene }: IsolationReport): Table => {
  const checks = hygiene.flatMap(({ arm, checks, seed }) => checks.map((check) => ({ ...check, arm, seed })))
  const keys = unique(checks.map(({ arm, name }) => JSON.stringify([arm, name])))
  return {
    prose: true,
    head: ["check", "arm", "", "found", "allowed", ""],
    rows: keys.map((key) => {
      const all = checks.filter(({ arm, name }) => JSON.stringify([arm, name]) === key)
      const failed = all.filter(({ passed }) => !passed)
      const shown = failed[0] ?? all[0]
      return [
        shown.name,
        shown.arm,
        failed.length === 0 ? "pass" : `FAIL in seed ${failed.map(({ seed }) => seed).join(", ")}`,
        unique((failed.length === 0 ? all : failed).map(({ value }) => short(value))).join(", "),
        typeof shown.bound === "number" ? short(shown.bound) : shown.bound,
        shown.detail
      ]
    })
  }
}

const fits = ({ extraction }: IsolationReport): Table => ({
  caption: "What a doubling of exposures adds: value = intercept + slope log2(exposures)",
  head: ["", "state", "on", "metric", "slope", "intercept", "R²"],
  rows: extraction.flatMap(({ arm, fit, metric, panel, state }) => fit === undefined ? [] : [[
    arm,
    states[state],
    panel,
    metric,
    `${digits(3)(fit.slope)} [${digits(3)(fit.slopeLow)}, ${digits(3)(fit.slopeHigh)}]`,
    digits(3)(fit.intercept),
    Number.isFinite(fit.r2) ? digits(3)(fit.r2) : "-"
  ]])
})

const relearning = ({ relearning }: IsolationReport): Table => ({
  head: ["", "state", "steps until back, by seed", "over the oracle's", "recovered at most"],
  rows: relearning.map(({ arm, points, ratio, recovered, state, steps }) => [
    arm,
    states[state],
    // between two points that were looked at the steps are a fraction
    steps.map((step) => step === null || step === undefined ? `> ${Math.max(0, ...points.map((point) => point.step))}` : short(step))
      .join(", "),
    plusMinus(ratio),
    plusMinus(recovered)
  ])
})

const localizers = ({ localizers }: IsolationReport): Table => ({
  head: ["", "in the model of", "recall", "by chance"],
  rows: localizers.map(({ arm, chance, localizer, recall }) => [localizer, arm, plusMinus(recall), digits(3)(chance)])
})

const theory = ({ theory }: IsolationReport): Table => ({
  prose: true,
  head: ["result", "", "checks", "least slack", "inequalities"],
  rows: theory.map(({ claim, holds, inequalities, name }) => [
    `${name}: ${claim}`,
    holds ? "holds" : `FAILS at step ${Math.min(...inequalities.flatMap(({ failedAt }) => failedAt ?? []))}`,
    count(inequalities.reduce((sum, { checked }) => sum + checked, 0)),
    short(Math.min(...inequalities.map(({ slack }) => slack))),
    inequalities.map(({ name }) => name).join("; ")
  ])
})

const verdicts = ({ verdicts }: IsolationReport): Table => ({
  prose: true,
  head: ["", "verdict", "decided by"],
  rows: verdicts.map(({ arm, decidedBy, word }) => [arm, word, decidedBy])
})

const gate = ({ subject, verdicts }: IsolationReport): ReadonlyArray<Table> => {
  const verdict = verdicts.find(({ arm }) => arm === subject)
  return verdict === undefined ? [] : [{
    caption: `The checks of ${subject}, in the order in which they decide`,
    prose: true,
    head: ["check", "", "found", "allowed", "otherwise"],
    rows: [
      ...verdict.checks.map(({ bound, name, otherwise, passed, value }) =>
        [name, passed ? "pass" : "FAIL", plusMinus(value), bound, otherwise]),
      ...(verdict.notRun ?? []).map((name) => [name, "not run", "-", "-", "-"])
    ]
  }]
}

const costs = ({ arms }: IsolationReport): Table => ({
  head: ["", "parameters", "active a token", "steps", "tokens", "seconds", "what it is"],
  rows: arms.map(({ activeParameters, name, parameters, seconds, steps, title, tokens }) => [
    name,
    count(parameters),
    count(activeParameters),
    count(steps),
    count(tokens),
    plusMinus(seconds, digits(1)),
    title
  ])
})

const data = ({ data }: IsolationReport): Table => ({
  head: ["data", ""],
  rows: [
    ["world", data.world],
    ["tokens trained on", count(data.trainedTokens)],
    ["vocabulary", count(data.vocabSize)],
    ["tokens of a row", count(data.seqLen)],
    ...data.repeats.map(({ exposures, sequences }) => [`sequences seen ${count(exposures)} times`, count(sequences)]),
    ...Object.entries(data.splits).map(([split, sequences]) => [`sequences of ${split}`, count(sequences)]),
    ["sequences left out as near-duplicates", count(data.dropped)]
  ]
})

// ---------------------------------------------------------------------------------------------------------------
// All of it

/** The sections of the report, those that there is something for. */
export const sections = (report: IsolationReport): ReadonlyArray<Section> => {
  const panels = panelsOf(report)
  return [
    ...section("main", "All arms", panels.map((panel) => mainTable(report, panel)), {
      text: [legend(report, firstPanel(report))]
    }),
    ...caveats(report),
    ...section("verdicts", "Verdicts", [...gate(report), verdicts(report)]),
    ...section("curves", `Learning curves, over ${count(report.data.trainedTokens)} tokens`, [curves(report)]),
    ...section("tradeoffs", "Forgetting against degradation", tradeoffs(report)),
    ...section("ladder", "States of the sinks", [...ladder(report), ...interference(report)]),
    ...section("hygiene", "Hygiene", [hygiene(report)]),
    ...section("extraction", "Extraction against exposures", [fits(report)]),
    ...section("relearning", "Relearning", [relearning(report)], {
      text: report.relearning.length === 0 ? [] : [
        "Fine-tuning on half of the removed sequences, sinks off where there are any: how soon the other half is back."
      ]
    }),
    ...section("localizers", "Do localizers find the sinks?", [localizers(report)]),
    ...section("claims", "Claims of the papers", [claimsTable(report.claims)]),
    ...section("theory", "Theory, simulated", [theory(report)], { folded: true }),
    ...section("everything", "All metrics, in every state", everything(report), { folded: true }),
    ...section("metrics", "What the metrics are", [{
      prose: true,
      head: ["", "", "unit", "more memory is"],
      rows: report.metrics.map(({ memory, name, title, unit }) => [name, title, unit, memory])
    }], { folded: true }),
    ...section("costs", "Models and data", [costs(report), data(report)], { folded: true })
  ]
}
