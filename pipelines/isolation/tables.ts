/** The tables of an isolation report, as plain values. Pure. */
import { count } from "../../src/Terminal.ts"
import { STANDARD } from "../experiment/Arms.ts"
import { digits, isKnown, methods, perSeed, plusMinus } from "../report/Estimate.ts"
import { filled, NOTHING, several, short, type Table, type Term, unique } from "../report/View.ts"
import { at, heldOutLoss, metricName } from "./Metrics.ts"
import type { Estimate, IsolationReport, MaskState, MetricKey, Panel, Subject } from "./Report.ts"

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
// Reading a report

/** A metric of a model. */
export const valueOf = (subject: Subject | undefined, key: MetricKey): Estimate | undefined =>
  at(subject?.metrics, key)?.value

/** The same as recovery: 1 as memorized as by the standard model, 0 as by the oracle. */
export const recoveryOf = (subject: Subject | undefined, key: MetricKey): Estimate | undefined =>
  at(subject?.metrics, key)?.recovery

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
export interface States {
  readonly arm: string
  readonly own: Subject | undefined
  readonly removed: Subject | undefined
}

export const statesOf = ({ subjects }: IsolationReport): ReadonlyArray<States> =>
  unique(subjects.map(({ arm }) => arm)).map((arm) => {
    const of = (state: MaskState) => subjects.find((one) => one.arm === arm && one.state === state)
    return { arm, own: of("own"), removed: of("off") ?? of("own") }
  })

/** What a report says of a metric: what it is called in it, and after which context where there are several. */
type Named = Pick<MetricKey, "metric" | "context">

/** Of the contexts that a metric was taken after the longest, from which most can be extracted. */
const longest = ({ metrics }: IsolationReport, metric: string): Named | undefined =>
  metrics.filter((one) => one.metric === metric)
    .reduce<Named | undefined>((most, one) => (one.context ?? 0) >= (most?.context ?? 0) ? one : most, undefined)

/** Share of the standard model's gap between held-out and repeated loss that is closed. */
const gapClosed = (subject: Subject | undefined, standard: Subject | undefined, panel: Panel): Estimate | undefined =>
  perSeed(
    (heldOut, repeated, standardHeldOut, standardRepeated) =>
      1 - (heldOut - repeated) / (standardHeldOut - standardRepeated),
    ...[subject, standard].flatMap((one) => [valueOf(one, heldOutLoss), valueOf(one, { group: panel, metric: "loss" })])
  )

const mainColumns = (report: IsolationReport, panel: Panel): ReadonlyArray<Column> => {
  const standard = statesOf(report).find(({ arm }) => arm === STANDARD)?.own
  const metric = (head: string, { context, metric }: Named, rest: Pick<Column, "short" | "meaning"> = {}) => ({
    head,
    of: ({ removed }: States) =>
      plusMinus(valueOf(removed, { group: panel, metric, ...(context === undefined ? {} : { context }) })),
    ...rest
  })
  const off = ({ own, removed }: States) => removed === own ? undefined : removed
  const loss: MetricKey = { group: panel, metric: "loss" }
  const after = (name: string, rest: Pick<Column, "short" | "meaning">) => {
    const one = longest(report, name)
    return one === undefined ? [] : [metric(metricName(one), one, rest)]
  }
  return [
    { head: "held-out loss", of: ({ removed }) => plusMinus(valueOf(removed, heldOutLoss)), short: true },
    {
      head: "most repeated, on",
      of: ({ own }) => plusMinus(valueOf(own, loss)),
      short: true,
      meaning:
        "loss of the scored sequences with the most exposures, with own sinks, or of the whole model where it has none"
    },
    {
      head: "most repeated, off",
      of: (states) => plusMinus(valueOf(off(states), loss)),
      short: true,
      meaning: "the same with sinks off; all else in the row is of sinks off, too, where there are any"
    },
    {
      head: "gap closed",
      of: ({ removed }) => plusMinus(gapClosed(removed, standard, panel)),
      meaning: "share of the standard model's gap between held-out loss and that of the most repeated"
    },
    metric("ALR", { metric: "likelihoodRatio" }, {
      meaning:
        "average likelihood ratio, the mean of exp(loss - the oracle's loss): below 1 better known than to the oracle"
    }),
    metric("EM", { metric: "exactMemorization" }, { meaning: "share of tokens that are the likeliest" }),
    metric("ES", { metric: "extractionStrength" }, {
      short: true,
      meaning: "share of a sequence, at its end, that follows from what is before it"
    }),
    ...after("greedy", { meaning: "share said verbatim after so many tokens" }),
    ...after("np", { short: true, meaning: "share that some of 100 samples say verbatim as likely as not" }),
    metric("MIA AUC", { metric: "mia.loss.auc" }, { meaning: "membership inference by loss" }),
    metric("TPR at 1 %", { metric: "mia.loss.tpr" }, { meaning: "members it finds at 1 % false alarms" }),
    {
      head: "recovery",
      of: ({ removed }) => plusMinus(recoveryOf(removed, loss)),
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

export const panelsOf = ({ subjects }: IsolationReport): ReadonlyArray<Panel> =>
  (["natural", "canary", "other"] as const).filter((panel) =>
    subjects.some((subject) => valueOf(subject, { group: panel, metric: "loss" }) !== undefined)
  )

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
export const legend = (report: IsolationReport, panel: Panel, room: "short" | "full" = "full"): ReadonlyArray<Term> => {
  const shown = new Set(mainTable(report, panel, room).head)
  const made = unique(
    report.subjects.flatMap(({ metrics }) => metrics.flatMap(({ value }) => value.method ?? []))
  )
    .map((method) => methods[method])
  return [
    ...mainColumns(report, panel).flatMap(({ head, meaning }): ReadonlyArray<Term> =>
      meaning === undefined || !shown.has(head) ? [] : [[head, meaning]]
    ),
    ["losses", "nats a token"],
    ...(made.length === 0
      ? []
      : [["± or brackets", `95 % interval over ${several(report.seeds.length, "seed")}: ${made.join("; ")}`] as const])
  ]
}

/** The panel that comes first. */
export const firstPanel = (report: IsolationReport): Panel => panelsOf(report)[0] ?? "natural"

const withRecovery = (subject: Subject, key: MetricKey): string => {
  const share = recoveryOf(subject, key)
  return plusMinus(valueOf(subject, key)) + (isKnown(share) ? ` (${digits(2)(share.mean)})` : "")
}

/** All metrics of all models in all states. */
export const everything = (report: IsolationReport): ReadonlyArray<Table> =>
  panelsOf(report).map((panel) => {
    const keys = report.metrics.filter(({ attack }) => attack === undefined).map(({ context, metric }): MetricKey => ({
      group: panel,
      metric,
      ...(context === undefined ? {} : { context })
    }))
      .filter((key) => report.subjects.some((subject) => isKnown(valueOf(subject, key))))
    return {
      caption: `Value, and recovery in brackets, on ${panels[panel]}`,
      head: ["", "state", "held-out loss", ...keys.map(metricName)],
      rows: report.subjects.map((subject) => [
        subject.arm,
        states[subject.state],
        plusMinus(valueOf(subject, heldOutLoss)),
        ...keys.map((key) => withRecovery(subject, key))
      ])
    }
  })

/** What attacks got out of each model in each state that was attacked, a table an attack. */
export const attacks = (report: IsolationReport): ReadonlyArray<Table> =>
  (report.attacks ?? []).map(({ name, paper, title }) => {
    const keys = report.metrics.filter(({ attack }) => attack === name).map(({ metric }): MetricKey =>
      report.subjects.flatMap(({ metrics }) => metrics).find((one) => one.metric === metric) ??
        { group: "natural", metric }
    )
    return {
      caption: `${title} (${paper}): value, and recovery in brackets`,
      head: ["", "state", ...keys.map(({ metric }) => metric.slice(name.length + 1))],
      rows: report.subjects.filter((subject) => keys.some((key) => valueOf(subject, key) !== undefined)).map((
        subject
      ) => [
        subject.arm,
        states[subject.state],
        ...keys.map((key) => withRecovery(subject, key))
      ])
    }
  }).filter(({ rows }) => rows.length > 0)

const leftWords = {
  hidden: "hidden, not removed",
  removed: "removed, as far as it sees",
  undecided: "undecided"
} as const

/** Whether attacks get more out of models after removal than out of the oracle. */
export const left = ({ attacks = [] }: IsolationReport): Table => ({
  caption: "By the first metric of each attack: what it gets after removal, beside what it gets out of the oracle",
  head: ["", "state", "metric", "after removal", "oracle", "what removal did"],
  rows: attacks.flatMap(({ left }) =>
    left.map((
      { arm, metric, oracle, result, state, value }
    ) => [arm, states[state], metric, plusMinus(value), plusMinus(oracle), leftWords[result]])
  )
})

// ---------------------------------------------------------------------------------------------------------------
// Other tables

/** What a learning curve is of, and in which state; one that is of no state has none. */
export const seriesOf = (series: string): readonly [of: string, state: MaskState | undefined] =>
  evaluated[series] ?? [series, undefined]

const sets = ["repeated", "heldOut", "canaries", "singles"]
const evaluated: Readonly<Record<string, readonly [of: string, state: MaskState]>> = Object.fromEntries(
  sets.flatMap((of) => (["own", "off"] as const).map((state) => [`${of}.${state}`, [of, state]]))
)

/** Sequences that are looked at along training are others than those that are scored at the end: also in their names. */
const setNames: Readonly<Record<string, string>> = { repeated: "all repeated", heldOut: "held out",
  singles: "seen once" }

const seriesName = (series: string): string => {
  const [of, state] = seriesOf(series)
  return `${setNames[of] ?? of}${state === undefined ? "" : `, ${states[state]}`}`
}

export const curves = ({ curves }: IsolationReport): Table => ({
  head: ["", "series", "lowest", "after steps", "at the end"],
  rows: curves.filter(({ points }) => points.length > 0).map(({ arm, points, series }) => {
    const known = points.filter(({ loss }) => isKnown(loss))
    const lowest = known.reduce((best, one) => one.loss.mean < best!.loss.mean ? one : best, known[0] ?? points[0])
    return [arm, seriesName(series), plusMinus(lowest!.loss), count(lowest!.step), plusMinus(points.at(-1)!.loss)]
  })
})

export const tradeoffs = ({ tradeoffs }: IsolationReport): ReadonlyArray<Table> =>
  unique(tradeoffs.map(({ panel }) => panel)).map((panel) => ({
    caption: `Losses minus the standard model's, on ${panels[panel]}`,
    head: ["", "chosen", "held-out", "all scored"],
    rows: tradeoffs.filter((one) => one.panel === panel).flatMap(({ arm, points }) =>
      points.filter(({ chosen }) => chosen).map(({ degradation, forgetting, setting }) => [
        arm,
        setting === "" ? NOTHING : setting,
        plusMinus(degradation),
        plusMinus(forgetting)
      ])
    )
  }))

export const ladder = (report: IsolationReport): ReadonlyArray<Table> => {
  const rich = unique(report.subjects.filter(({ state }) => state !== "own").map(({ arm }) => arm))
  const panel = firstPanel(report)
  const loss: MetricKey = { group: panel, metric: "loss" }
  const rows = report.subjects.filter(({ arm }) => rich.includes(arm)).map((subject) => [
    subject.arm,
    states[subject.state],
    plusMinus(valueOf(subject, heldOutLoss)),
    plusMinus(valueOf(subject, loss)),
    plusMinus(valueOf(subject, { group: panel, metric: "extractionStrength" })),
    plusMinus(recoveryOf(subject, loss))
  ])
  return rows.length === 0 ? [] : [filled({
    caption: `Which neurons are on, scored on ${panels[panel]}`,
    head: ["", "state", "held-out loss", "most repeated", "ES", "recovery"],
    rows
  })]
}

export const interference = ({ interference }: IsolationReport): ReadonlyArray<Table> =>
  interference.length === 0 ? [] : [{
    caption: "What other sequences' sinks do, nats a token",
    head: ["", ...interference.map(({ arm }) => arm)],
    rows: [
      ...unique(interference.flatMap(({ ladder }) => ladder.map(({ others }) => others))).map((others) => [
        `loss with own sinks and those of ${count(others)} other${others === 1 ? "" : "s"}`,
        ...interference.map(({ ladder }) => plusMinus(ladder.find((rung) => rung.others === others)?.loss))
      ]),
      ["own sinks take off", ...interference.map(({ sliceContent }) => plusMinus(sliceContent.own))],
      ["a placebo takes off", ...interference.map(({ sliceContent }) => plusMinus(sliceContent.placebo))],
      ["as many random others off changes, at most", ...interference.map(({ placeboOff }) => plusMinus(placeboOff))],
      ["deleting one id adds to others, on average", ...interference.map(({ deletion }) => plusMinus(deletion.mean))],
      ["at worst", ...interference.map(({ deletion }) => plusMinus(deletion.worst))],
      ["leakage: recovery with sinks off", ...interference.map(({ leakage }) => plusMinus(leakage))]
    ]
  }]

export const hygiene = ({ hygiene }: IsolationReport): Table => {
  const checks = hygiene.flatMap(({ arm, checks, seed }) => checks.map((check) => ({ ...check, arm, seed })))
  const keys = unique(checks.map(({ arm, name }) => JSON.stringify([arm, name])))
  return {
    prose: true,
    head: ["check", "arm", "", "found", "allowed", ""],
    rows: keys.map((key) => {
      const all = checks.filter(({ arm, name }) => JSON.stringify([arm, name]) === key)
      const failed = all.filter(({ passed }) => !passed)
      const shown = failed[0] ?? all[0]!
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

export const fits = ({ extraction }: IsolationReport): Table => ({
  caption: "What a doubling of exposures adds: value = intercept + slope log2(exposures)",
  head: ["", "state", "on", "metric", "slope", "intercept", "R²"],
  rows: extraction.flatMap(({ fit, ...curve }) =>
    fit === undefined ? [] : [[
      curve.arm,
      states[curve.state],
      curve.panel,
      metricName(curve),
      `${digits(3)(fit.slope)} [${digits(3)(fit.slopeLow)}, ${digits(3)(fit.slopeHigh)}]`,
      digits(3)(fit.intercept),
      Number.isFinite(fit.r2) ? digits(3)(fit.r2) : NOTHING
    ]]
  )
})

export const relearning = ({ relearning }: IsolationReport): Table => ({
  head: ["", "state", "steps until back, by seed", "over the oracle's", "recovered at most"],
  rows: relearning.map(({ arm, points, ratio, recovered, state, steps }) => [
    arm,
    states[state],
    // between two points that were looked at the steps are a fraction
    steps.map((step) =>
      step === null || step === undefined ? `> ${Math.max(0, ...points.map((point) => point.step))}` : short(step)
    )
      .join(", "),
    plusMinus(ratio),
    plusMinus(recovered)
  ])
})

export const localizers = ({ localizers }: IsolationReport): Table => ({
  head: ["", "in the model of", "recall", "by chance"],
  rows: localizers.map(({ arm, chance, localizer, recall }) => [localizer, arm, plusMinus(recall), digits(3)(chance)])
})

export const theory = ({ theory }: IsolationReport): Table => ({
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

export const verdicts = ({ verdicts }: IsolationReport): Table => ({
  prose: true,
  head: ["", "verdict", "decided by"],
  rows: verdicts.map(({ arm, decidedBy, word }) => [arm, word, decidedBy])
})

export const gate = ({ subject, verdicts }: IsolationReport): ReadonlyArray<Table> => {
  const verdict = verdicts.find(({ arm }) => arm === subject)
  return verdict === undefined ? [] : [{
    caption: `The checks of ${subject}, in the order in which they decide`,
    prose: true,
    head: ["check", "", "found", "allowed", "otherwise"],
    rows: [
      ...verdict.checks.map((
        { bound, name, otherwise, result, value }
      ) => [name, result === "fail" ? "FAIL" : result, plusMinus(value), bound, otherwise]),
      ...(verdict.notRun ?? []).map((name) => [name, "not run", NOTHING, NOTHING, NOTHING])
    ]
  }]
}

export const costs = ({ arms }: IsolationReport): Table => ({
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

export const data = ({ data }: IsolationReport): Table => ({
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
