/** The tables and sentences of a dynamics report, as plain values. Pure. */
import { count } from "../../src/Terminal.ts"
import { digits, type Format, isKnown, perSeed, plusMinus } from "../report/Estimate.ts"
import { filled, listed, NOTHING, percent as percentTo, short, type Table, type Term, unique } from "../report/View.ts"
import type { DynamicsReport, Estimate, Fit, Group, MaskState, Norm, SawTooth, Share, Time } from "./Report.ts"

/** How much room there is: `short` for a terminal. */
export type Room = "short" | "full"

const percent: Format = percentTo(0)

// ---------------------------------------------------------------------------------------------------------------
// Names

const states: Readonly<Record<MaskState, string>> = {
  own: "own sinks",
  off: "sinks off",
  placebo: "placebo",
  all: "all sinks"
}

/** Whether an arm has sinks: then it was probed in more states than one, or its sinks were looked at. */
export const hasSinks = (report: DynamicsReport, arm: string): boolean =>
  [report.curves, report.sawTeeth, report.retention, report.shares]
    .some((all: ReadonlyArray<{ readonly arm: string; readonly mask: MaskState }>) =>
      all.some((one) => one.arm === arm && one.mask !== "own")
    ) ||
  [report.norms, report.contents].some((all: ReadonlyArray<{ readonly arm: string; readonly part: string }>) =>
    all.some((one) => one.arm === arm && one.part === "sinks")
  )

/** Which sinks are on, in words; `-` for a model that has none. */
export const maskName = (report: DynamicsReport, arm: string, mask: MaskState): string =>
  hasSinks(report, arm) ? states[mask] : NOTHING

/** An arm in a state, as part of a sentence or as the name of a line. */
export const subjectName = (report: DynamicsReport, arm: string, mask: MaskState): string =>
  hasSinks(report, arm) ? `${arm}, ${states[mask]}` : arm

const withMask: Readonly<Record<MaskState, string>> = {
  own: "with own sinks",
  off: "with sinks off",
  placebo: "with a placebo",
  all: "with all sinks"
}

export const layerName = (layer: number): string => layer < 0 ? NOTHING : `layer ${layer}`

/** A part in words: of the norms that count as attention's, that of no layer is the one before the head. */
export const partName = ({ layer, part }: { readonly layer: number; readonly part: string }): string =>
  part === "attention" && layer < 0 ? "final norm" : part === "logit" ? "all parts" : part

/** The same of weights, where attention has the norms of its layer. */
export const weightsName = (of: { readonly layer: number; readonly part: string }): string =>
  partName(of) === "attention" ? "attention and norms" : partName(of)

/** A group as part of a sentence. */
const groupPhrase = ({ groups }: DynamicsReport, name: string): string => {
  const group = groups.find((one) => one.name === name)
  if (group === undefined || group.exposures === 0) return name
  return `sequences shown ${count(group.exposures)} ${group.exposures === 1 ? "time" : "times"} (${name})`
}

// ---------------------------------------------------------------------------------------------------------------
// Reading a report

/** Curves are forgetting where the group is left alone; the group shown most often tells most. */
export const focalGroup = (report: DynamicsReport): Group | undefined => {
  const there = report.groups.filter(({ name }) =>
    report.retention.some(({ group, points }) => group === name && points.length > 0)
  )
  const withheld = there.filter((group) => group.withheld)
  const fitted = (withheld.length > 0 ? withheld : there)
    .filter(({ name }) => report.retention.some(({ fit, group }) => group === name && fit !== undefined))
  const from = fitted.length > 0 ? fitted : withheld.length > 0 ? withheld : there
  return from.reduce<Group | undefined>(
    (most, one) => most === undefined || one.exposures > most.exposures ? one : most,
    undefined
  )
}

/** Points in the order of time. */
const earliest = <P extends { readonly since: number }>(points: ReadonlyArray<P>): P | undefined =>
  points.reduce<P | undefined>((first, one) => first === undefined || one.since < first.since ? one : first, undefined)
const latest = <P extends { readonly since: number }>(points: ReadonlyArray<P>): P | undefined =>
  points.reduce<P | undefined>((last, one) => last === undefined || one.since > last.since ? one : last, undefined)

/** Memory that the fitted law says is left `since` steps after the last exposure, nats; undefined where it says nothing. */
export const fittedMemory = ({ initial, law, psi, residual, tau }: Fit, since: number): number | undefined => {
  const decay = law === "exponential"
    ? Math.exp(-since / tau)
    : psi === undefined
    ? NaN
    : (1 + since / tau) ** -psi
  const memory = initial * (residual.value + (1 - residual.value) * decay)
  return Number.isFinite(memory) ? memory : undefined
}

/** All layers of a part together, where a part has several: of each arm, group and state. */
const together = <T extends { readonly layer: number }>(
  all: ReadonlyArray<T>,
  keyOf: (one: T) => string,
  combine: (layers: ReadonlyArray<T>) => T
): ReadonlyArray<T> => {
  const layered = all.filter(({ layer }) => layer >= 0)
  const groups = unique(layered.map(keyOf)).map((key) => layered.filter((one) => keyOf(one) === key))
  return groups.some((layers) => layers.length > 1) ? groups.map(combine) : []
}

const atStep = <P extends { readonly step: number }>(points: ReadonlyArray<P>, step: number): P | undefined =>
  points.find((point) => point.step === step)

/** Of all layers, which have as many weights each: root of the mean square. Layer NaN. */
export const wholeNorms = ({ norms }: DynamicsReport): ReadonlyArray<Norm> =>
  together(norms, ({ arm, part }) => JSON.stringify([arm, part]), (layers) => ({
    ...layers[0]!,
    layer: NaN,
    points: layers[0]!.points.flatMap(({ step }) => {
      const rms = (...values: ReadonlyArray<number>) => Math.hypot(...values) / Math.sqrt(values.length)
      const points = layers.map(({ points }) => atStep(points, step))
      const weight = perSeed(rms, ...points.map((point) => point?.weight))
      const update = perSeed(rms, ...points.map((point) => point?.update))
      return weight === undefined ? [] : [{ step, weight, ...(update === undefined ? {} : { update }) }]
    })
  }))

/** Of all layers: what they add is a sum. Layer NaN. */
export const wholeShares = ({ shares }: DynamicsReport): ReadonlyArray<Share> =>
  together(shares, ({ arm, group, mask, part }) => JSON.stringify([arm, group, mask, part]), (layers) => ({
    ...layers[0]!,
    layer: NaN,
    points: layers[0]!.points.flatMap(({ step }) => {
      const logit = perSeed(
        (...values) => values.reduce((sum, value) => sum + value, 0),
        ...layers.map(({ points }) => atStep(points, step)?.logit)
      )
      return logit === undefined ? [] : [{ step, logit }]
    })
  }))

// ---------------------------------------------------------------------------------------------------------------
// Numbers in words

/** `210 [150, > 400]`; what lies beyond the steps that were observed is so many at least. */
export const writtenTime = ({ high, low, value }: Time, observed: number): string => {
  const one = (time: number | null) => time === null ? `> ${short(observed)}` : short(time)
  return value === null && low === null ? one(null) : `${one(value)} [${one(low)}, ${one(high)}]`
}

const range = ({ high, low, value }: Fit["residual"], format: Format): string =>
  !Number.isFinite(value)
    ? NOTHING
    : !Number.isFinite(low) || !Number.isFinite(high)
    ? format(value)
    : `${format(value)} [${format(low)}, ${format(high)}]`

const nats = (one: Estimate): string => `${digits(2)(one.mean)} nats`

const steps = (n: number): string => `${short(n)} ${n === 1 ? "step" : "steps"}`

// ---------------------------------------------------------------------------------------------------------------
// The head

/** One clause for each arm, and for each state of an arm that has sinks: the arm is named once. */
const clauses = (
  report: DynamicsReport,
  all: ReadonlyArray<{ readonly arm: string; readonly mask: MaskState }>,
  say: (index: number) => string | undefined
): ReadonlyArray<string> => {
  const order: ReadonlyArray<MaskState> = ["own", "off"]
  return unique(all.map(({ arm }) => arm)).flatMap((arm) => {
    const sinks = hasSinks(report, arm)
    const said = order.flatMap((mask) => {
      const index = all.findIndex((one) => one.arm === arm && one.mask === mask)
      const words = index < 0 ? undefined : say(index)
      return words === undefined ? [] : [sinks ? `${withMask[mask]} ${words}` : words]
    })
    return said.length === 0 ? [] : [`${arm}${sinks ? ": " : " "}${said.join(", ")}`]
  })
}

const halfLifeSentence = (report: DynamicsReport, group: string): string | undefined => {
  const all = report.retention.filter((one) => one.group === group)
  const said = clauses(report, all, (i) => {
    const { fit, points } = all[i]!
    if (fit !== undefined) {
      return fit.halfLife.value === null
        ? `after more than ${steps(fit.observed)}`
        : `after ${writtenTime(fit.halfLife, fit.observed)} steps`
    }
    const memory = earliest(points)?.memory
    return memory === undefined ? undefined : `there is nothing to forget${isKnown(memory) ? ` (${nats(memory)})` : ""}`
  })
  return said.length === 0 ? undefined : `After the last exposure half of what the models know of ` +
    `${groupPhrase(report, group)} is forgotten: ${said.join("; ")}.`
}

const recallSentence = (report: DynamicsReport, group: string): string | undefined => {
  const all = report.retention.filter((one) => one.group === group)
  const last = all.flatMap(({ points }) => latest(points)?.since ?? [])
  const said = clauses(report, all, (i) => {
    const [first, end] = [earliest(all[i]!.points)?.recall, latest(all[i]!.points)?.recall]
    return isKnown(first) && isKnown(end) ? `${percent(end.mean)} (at first ${percent(first.mean)})` : undefined
  })
  return said.length === 0 ? undefined : `${steps(Math.max(...last))} after the last exposure ` +
    `this share of their tokens is still recalled: ${said.join("; ")}.`
}

/** The group of the saw-tooth with the most teeth. */
const sawGroup = ({ sawTeeth }: DynamicsReport): string | undefined =>
  sawTeeth.reduce<SawTooth | undefined>(
    (most, one) => most === undefined || one.teeth.length > most.teeth.length ? one : most,
    undefined
  )?.group

const sawSentence = (report: DynamicsReport): string | undefined => {
  const group = sawGroup(report)
  const all = report.sawTeeth.filter((one) => one.group === group)
  const said = clauses(report, all, (i) => {
    const { amplitude, decay } = all[i]!.late
    return !isKnown(amplitude)
      ? undefined
      : nats(amplitude) + (isKnown(decay) ? `, of which ${digits(2)(decay.mean)} come back` : "")
  })
  return said.length === 0
    ? undefined
    : `Late in training one more exposure of ${groupPhrase(report, group!)} takes off the loss: ${said.join("; ")}.`
}

const shareSentence = (report: DynamicsReport, group: string | undefined): string | undefined => {
  const all = [...wholeShares(report), ...report.shares]
  const find = (part: string) => all.filter((one) => one.part === part && one.mask === "own" && one.points.length > 0)
  const said = find("sinks").filter((one, i, those) =>
    (group === undefined || one.group === group) && those.findIndex(({ arm }) => arm === one.arm) === i
  )
    .flatMap((sinks) => {
      const total = find("logit").find(({ arm, group }) => arm === sinks.arm && group === sinks.group)
      const [from, to, whole] = [sinks.points[0], sinks.points.at(-1)!, total?.points.at(-1)?.logit]
      if (!isKnown(from!.logit) || !isKnown(to.logit)) return []
      return [
        `the sinks of ${sinks.arm} add ${digits(2)(to.logit.mean)}` +
        (isKnown(whole) ? ` of ${digits(2)(whole.mean)}` : "") +
        ` to the logit of a true token of ${sinks.group} (${digits(2)(from!.logit.mean)} after ${steps(from!.step)})`
      ]
    })
  return said.length === 0 ? undefined : `At the end ${listed(said)}.`
}

/** What came out, in a few sentences made of the numbers. */
export const sentences = (report: DynamicsReport): ReadonlyArray<string> => {
  const group = focalGroup(report)?.name
  const said = [
    ...(group === undefined ? [] : [halfLifeSentence(report, group), recallSentence(report, group)]),
    sawSentence(report),
    shareSentence(report, group)
  ].filter((one) => one !== undefined)
  return said.length > 0 ? said : ["Nothing was measured of which a sentence could be made."]
}

export const overSeeds = ({ seeds }: DynamicsReport): string =>
  seeds.length < 2 ? "" : `; ±: 95 % interval over ${seeds.length} seeds`

// ---------------------------------------------------------------------------------------------------------------
// Experiments 1 and 2

/** Rows that a terminal has room for. */
const most = 8

/** What fits a terminal: own sinks and sinks off, of the groups with the most exposures. */
const inShort = <T extends { readonly group: string; readonly mask: MaskState }>(
  { groups }: DynamicsReport,
  all: ReadonlyArray<T>,
  room: Room
): ReadonlyArray<T> => {
  if (room === "full") return all
  const few = all.filter(({ mask }) => mask === "own" || mask === "off")
  const exposures = (name: string) => groups.find((group) => group.name === name)?.exposures ?? 0
  const names = unique(few.map(({ group }) => group)).toSorted((a, b) => exposures(b) - exposures(a))
  const rows = (names: ReadonlyArray<string>) => few.filter(({ group }) => names.includes(group))
  const fitting = names.filter((_, i) => i === 0 || rows(names.slice(0, i + 1)).length <= most)
  return rows(fitting)
}

/** How long memories last, by arm, group and sinks that are on. */
export const halfLives = (report: DynamicsReport, room: Room = "full"): Table => {
  const shown = inShort(report, report.retention.filter(({ points }) => points.length > 0), room)
  const bare = (one: Estimate | undefined) => isKnown(one) ? digits(2)(one.mean) : NOTHING
  return filled({
    head: [
      "",
      "group",
      "sinks on",
      ...(room === "full" ? ["law"] : []),
      "half-life, steps",
      "residual",
      ...(room === "full" ? ["memory at first", "recall at first", "recall at the end"] : ["memory", "recall"])
    ],
    rows: shown.map(({ arm, fit, group, mask, points }) => {
      const [first, last] = [earliest(points), latest(points)]
      return [
        arm,
        group,
        maskName(report, arm, mask),
        ...(room === "full" ? [fit?.law ?? NOTHING] : []),
        fit === undefined ? "nothing to forget" : writtenTime(fit.halfLife, fit.observed),
        fit === undefined ? NOTHING : range(fit.residual, digits(2)),
        ...(room === "full"
          ? [plusMinus(first?.memory), plusMinus(first?.recall), plusMinus(last?.recall)]
          : [bare(first?.memory), `${bare(first?.recall)} to ${bare(last?.recall)}`])
      ]
    })
  })
}

/** What the columns of `halfLives` mean. */
export const legend = (report: DynamicsReport): ReadonlyArray<Term> => [
  ["half-life",
    "steps until half of the memory is left, as far as the fitted law says; in brackets 95 % by resampling sequences"],
  ["residual", "the share that is never forgotten, as far as the law says"],
  ["memory", "loss of foils, sequences never trained on, minus loss of the sequences: nats a token"],
  [
    "recall",
    `share of the tokens after the first ${count(report.data.promptTokens)} that are the likeliest${overSeeds(report)}`
  ]
]

/** What an exposure does late in training, by arm, group and sinks that are on. */
export const lateTeeth = (report: DynamicsReport, room: Room = "full"): Table => {
  const [format, full] = [digits(room === "full" ? 3 : 2), room === "full"]
  return filled({
    head: ["", "group", "sinks on", "before", ...(full ? ["after"] : []), "lowest", "amplitude", "decay"],
    rows: inShort(report, report.sawTeeth, room).map(({ arm, group, late, mask }) => [
      arm,
      group,
      maskName(report, arm, mask),
      ...[late.before, ...(full ? [late.after] : []), late.lowest, late.amplitude, late.decay]
        .map((one) => plusMinus(one, format))
    ])
  })
}

export const fits = (report: DynamicsReport): Table =>
  filled({
    caption:
      "memory(t) = initial (residual + (1 - residual) f), f = exp(-t / tau) or (1 + t / tau)^-psi; of AICc lower is " +
      "better",
    head: [
      "",
      "group",
      "sinks on",
      "law",
      "AICc exponential",
      "AICc power",
      "tau, steps",
      "psi",
      "initial, nats",
      "residual",
      "error, nats",
      "observed, steps"
    ],
    rows: report.retention.flatMap(({ arm, fit, group, mask }) => {
      if (fit === undefined) return []
      const number = (value: number | undefined, format: Format) =>
        value === undefined || !Number.isFinite(value) ? NOTHING : format(value)
      return [[
        arm,
        group,
        maskName(report, arm, mask),
        fit.law,
        number(fit.aic.exponential, digits(1)),
        number(fit.aic.power, digits(1)),
        number(fit.tau, short),
        number(fit.psi, digits(2)),
        number(fit.initial, digits(3)),
        range(fit.residual, digits(2)),
        number(fit.rmse, digits(3)),
        count(fit.observed)
      ]]
    })
  })

export const retained = (report: DynamicsReport): Table =>
  filled({
    caption: "Steps since the last exposure, and what is left at first and at the end",
    head: [
      "",
      "group",
      "sinks on",
      "steps",
      "loss",
      "memory",
      "recognition",
      "recall",
      "verbatim",
      "log rank"
    ],
    rows: report.retention.flatMap(({ arm, group, mask, points }) =>
      unique([earliest(points), latest(points)]).flatMap((point) =>
        point === undefined ? [] : [[
          arm,
          group,
          maskName(report, arm, mask),
          count(point.since),
          ...[point.loss, point.memory, point.recognition, point.recall, point.verbatim, point.logRank]
            .map((one) => plusMinus(one))
        ]]
      )
    )
  })

/** Withheld sequences told from their foils by rule; no rows where there are none. */
export const recognized = (report: DynamicsReport): Table => {
  const kinds = unique(
    report.retention.flatMap(({ points }) => points.flatMap(({ foils }) => Object.keys(foils ?? {})))
  )
  return {
    caption: "Share of withheld sequences with a lower loss than their foil by rule; 0.5: guessing",
    head: ["", "group", "sinks on", "steps", ...kinds],
    rows: kinds.length === 0 ?
      [] :
      report.retention.flatMap(({ arm, group, mask, points }) =>
        unique([earliest(points), latest(points)]).flatMap((point) =>
          point === undefined ? [] : [[
            arm,
            group,
            maskName(report, arm, mask),
            count(point.since),
            ...kinds.map((kind) => plusMinus(point.foils?.[kind]))
          ]]
        )
      )
  }
}

export const curves = (report: DynamicsReport): Table =>
  filled({
    head: ["", "group", "sinks on", "first", "lowest", "after steps", "at the end"],
    rows: report.curves.filter(({ points }) => points.length > 0).map(({ arm, group, mask, points }) => {
      const known = points.filter(({ loss }) => isKnown(loss))
      const lowest = known.reduce((best, one) => one.loss.mean < best!.loss.mean ? one : best, known[0] ?? points[0])
      return [
        arm,
        group,
        maskName(report, arm, mask),
        plusMinus(points[0]!.loss),
        plusMinus(lowest!.loss),
        known.length === 0 ? NOTHING : count(lowest!.step),
        plusMinus(points.at(-1)!.loss)
      ]
    })
  })

// ---------------------------------------------------------------------------------------------------------------
// Experiments 3 to 5

const layerCell = (layer: number): string => Number.isNaN(layer) ? "all" : layer < 0 ? NOTHING : String(layer)

export const norms = (report: DynamicsReport, all: ReadonlyArray<Norm>, caption: string): Table =>
  filled({
    caption,
    head: ["", "layer", "part", "steps", "weights, rms", "times", "change a step, rms", "at the end"],
    rows: all.filter(({ points }) => points.length > 0).map(({ arm, layer, part, points }) => {
      const [first, last] = [points[0], points.at(-1)!]
      const updates = points.flatMap(({ update }) => update ?? [])
      return [
        arm,
        layerCell(layer),
        weightsName({ layer, part }),
        `${count(first!.step)} to ${count(last.step)}`,
        `${plusMinus(first!.weight, short)} to ${plusMinus(last.weight, short)}`,
        plusMinus(perSeed((a, b) => b / a, first!.weight, last.weight), digits(2)),
        plusMinus(updates[0], short),
        updates.length < 2 ? NOTHING : plusMinus(updates.at(-1), short)
      ]
    })
  })

export const shares = (report: DynamicsReport, all: ReadonlyArray<Share>, caption: string): Table =>
  filled({
    caption,
    head: ["", "group", "sinks on", "layer", "part", "at first", "at the end"],
    rows: all.filter(({ points }) => points.length > 0).map(({ arm, group, layer, mask, part, points }) => [
      arm,
      group,
      maskName(report, arm, mask),
      layerCell(layer),
      partName({ layer, part }),
      plusMinus(points[0]!.logit, digits(2)),
      plusMinus(points.at(-1)!.logit, digits(2))
    ])
  })

/** All layers together where there are several, and what is of no layer; otherwise as it is. */
export const wholes = <T extends { readonly layer: number }>(all: ReadonlyArray<T>, whole: ReadonlyArray<T>) =>
  whole.length === 0 ? all : [...whole, ...all.filter(({ layer }) => layer < 0)]

export const interference = ({ interference }: DynamicsReport): Table =>
  filled({
    head: ["", "part", "cosine", "predicted, nats a step", "observed", "correlation"],
    rows: interference.map(({ arm, correlation, cosine, observed, part, predicted }) => [
      arm,
      part,
      plusMinus(cosine, short),
      plusMinus(predicted, short),
      plusMinus(observed, short),
      plusMinus(correlation, digits(2))
    ])
  })

export const contents = ({ contents }: DynamicsReport): Table =>
  filled({
    head: ["", "layer", "part", "neurons", "purity", "agreement", "gradient of memorized", "of held-out"],
    rows: contents.map(({ agreement, arm, gradientMass, layer, neurons, part, purity }) => [
      arm,
      layerCell(layer),
      part,
      count(neurons),
      plusMinus(purity),
      plusMinus(agreement),
      plusMinus(gradientMass?.memorized),
      plusMinus(gradientMass?.heldOut)
    ])
  })

// ---------------------------------------------------------------------------------------------------------------
// The rest

export const groups = ({ groups }: DynamicsReport): Table =>
  filled({
    head: ["", "sequences", "exposures", "every, steps", "last shown at", "then left alone", "what it is"],
    rows: groups.map(({ every, exposures, lastShown, name, sequences, title, withheld }) => [
      name,
      count(sequences),
      count(exposures),
      every === undefined ? NOTHING : short(every),
      lastShown === undefined ? NOTHING : count(lastShown),
      withheld ? "yes" : "no",
      title
    ])
  })

export const costs = ({ arms }: DynamicsReport): Table =>
  filled({
    head: ["", "parameters", "active a token", "seconds", "of probing", "what it is"],
    rows: arms.map(({ activeParameters, name, parameters, probeSeconds, seconds, title }) => [
      name,
      count(parameters),
      count(activeParameters),
      plusMinus(seconds, digits(1)),
      plusMinus(probeSeconds, digits(1)),
      title
    ])
  })

export const data = ({ data, from, steps, tokensPerStep }: DynamicsReport): Table => ({
  head: ["data", ""],
  rows: [
    ...(from === undefined ? [] : [["probed", from]]),
    ["steps", count(steps)],
    ["tokens a step", count(tokensPerStep)],
    ["vocabulary", count(data.vocabSize)],
    ["tokens of a row", count(data.seqLen)],
    ["tokens of a prompt", count(data.promptTokens)]
  ]
})
