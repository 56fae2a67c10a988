/** The curves of a dynamics report: along training, saw-teeth, retention, norms of weights and shares of logits. */
import { type Chart, type Facet, type Line, type Point } from "../report/Chart.ts"
import { isKnown } from "../report/Estimate.ts"
import { unique } from "../report/View.ts"
import type { DynamicsReport, Estimate, MaskState } from "./Report.ts"
import { fittedMemory, focalGroup, hasSinks, layerName, maskName, partName, subjectName, weightsName, wholeNorms,
  wholeShares } from "./tables.ts"

interface Of {
  readonly arm: string
  readonly group: string
  readonly mask: MaskState
}

const point = (x: number, one: Estimate, note?: string): ReadonlyArray<Point> =>
  !isKnown(one) ? [] : [{
    x,
    y: one.mean,
    ...(one.low === undefined || one.high === undefined ? {} : { low: one.low, high: one.high }),
    ...(note === undefined ? {} : { note })
  }]

/** In order, each x once: of several the last. */
const byX = (points: ReadonlyArray<Point>): ReadonlyArray<Point> =>
  [...new Map(points.map((one) => [one.x, one])).values()].sort((a, b) => a.x - b.x)

// ---------------------------------------------------------------------------------------------------------------
// Switches

const arms = (all: ReadonlyArray<{ readonly arm: string }>): Facet => ({
  key: "arm",
  title: "arm",
  values: unique(all.map(({ arm }) => arm)).map((name) => ({ name, on: true }))
})

const masks = (report: DynamicsReport, all: ReadonlyArray<Of>, on: ReadonlyArray<MaskState>): Facet => {
  const there = all.filter(({ arm }) => hasSinks(report, arm))
  return {
    key: "mask",
    title: "sinks",
    values: unique(there.map(({ mask }) => mask)).map((name) => ({
      name,
      label: maskName(report, there[0]!.arm, name),
      on: on.includes(name)
    }))
  }
}

/** At first the group that tells most, and what is never shown, to compare it with. */
const groups = (report: DynamicsReport, all: ReadonlyArray<Of>, foils = false): Facet => {
  const names = unique(all.map(({ group }) => group))
  const focal = focalGroup(report)?.name ?? ""
  const first = names.includes(focal) ? focal : names[0]
  const never = report.groups.find(({ exposures, name }) => exposures === 0 && names.includes(name))?.name
  return {
    key: "group",
    title: "group",
    values: names.map((name) => ({ name, on: name === first || (foils && name === never) }))
  }
}

/** Models without sinks have no states that could be switched. */
const tags = (report: DynamicsReport, { arm, group, mask }: Of): Readonly<Record<string, string>> =>
  hasSinks(report, arm) ? { arm, group, mask } : { arm, group }

const named = (report: DynamicsReport, { arm, group, mask }: Of): string =>
  `${subjectName(report, arm, mask)}: ${group}`

const lossAxis = { title: "loss, nats a token" }
const stepAxis = { title: "steps", unit: 1 }

// ---------------------------------------------------------------------------------------------------------------
// Charts

export const training = (report: DynamicsReport): Chart => ({
  title: "Loss along training",
  x: stepAxis,
  y: lossAxis,
  facets: [arms(report.curves), masks(report, report.curves, ["own", "off"]), groups(report, report.curves, true)],
  color: ["arm", "mask"],
  dash: ["arm", "mask", "group"],
  lines: report.curves.map((one) => ({
    label: named(report, one),
    of: tags(report, one),
    points: byX(one.points.flatMap(({ loss, step }) => point(step, loss)))
  }))
})

/**
 * Before an exposure, and a step later, after it. Where the next exposure is at once, it begins where this one ends: the
 * two are one point. The lowest loss until the next, of which the step is not known, is a line below.
 */
export const teeth = (report: DynamicsReport): Chart => ({
  title: "Loss just before and just after each exposure",
  x: stepAxis,
  y: lossAxis,
  facets: [
    arms(report.sawTeeth),
    masks(report, report.sawTeeth, ["own", "off"]),
    groups(report, report.sawTeeth),
    {
      key: "drawn",
      title: "drawn",
      values: [{ name: "teeth", label: "before and after", on: true }, { name: "lowest", label: "lowest after",
        on: true }]
    }
  ],
  color: ["arm", "mask"],
  dash: ["arm", "mask", "group"],
  lines: report.sawTeeth.flatMap((one): ReadonlyArray<Line> => {
    const [label, of] = [named(report, one), tags(report, one)]
    const after = (i: number) => Math.min(one.teeth[i]!.step + 1, one.teeth[i + 1]?.step ?? Infinity)
    return [
      {
        label,
        of: { ...of, drawn: "teeth" },
        dots: true,
        width: 1.5,
        points: byX(one.teeth.flatMap((tooth, i) => [
          ...point(tooth.step, tooth.before, `before exposure ${tooth.exposure}`),
          ...point(after(i), tooth.after, `after exposure ${tooth.exposure}`)
        ]))
      },
      {
        label: `${label}, lowest until the next`,
        of: { ...of, drawn: "lowest" },
        width: 0.75,
        points: byX(one.teeth.flatMap(({ exposure, lowest }, i) => point(after(i), lowest, `exposure ${exposure}`)))
      }
    ]
  })
})

const measures = [
  ["memory", "memory", "loss of foils minus loss, nats a token"],
  ["recall", "recall", "share of tokens recalled"],
  ["recognition", "recognition", "share of foils told apart"],
  ["verbatim", "verbatim", "share of sequences said verbatim"]
] as const

/** Times at which a law is drawn: even on a logarithmic axis that has a 0. */
const times = (until: number): ReadonlyArray<number> =>
  until > 0 ? Array.from({ length: 81 }, (_, i) => i === 80 ? until : Math.expm1((i / 80) * Math.log1p(until))) : [0]

export const retention = (report: DynamicsReport): Chart => ({
  title: "What is left after the last exposure",
  x: { title: "steps since the last exposure", log: true, unit: 1 },
  y: { title: measures[0][2] },
  facets: [
    {
      key: "measure",
      title: "measure",
      one: true,
      values: measures.map(([name, label, y], i) => ({ name, label, y, on: i === 0 }))
    },
    arms(report.retention),
    masks(report, report.retention, ["own", "off"]),
    groups(report, report.retention),
    {
      key: "drawn",
      title: "drawn",
      values: [{ name: "measured", on: true }, { name: "fitted", label: "fitted law", on: true }]
    }
  ],
  color: ["arm", "mask"],
  dash: ["arm", "mask", "group"],
  lines: report.retention.flatMap((one): ReadonlyArray<Line> => {
    const { fit, points } = one
    const [label, of] = [named(report, one), tags(report, one)]
    return [
      ...measures.map(([measure]): Line => ({
        label,
        of: { ...of, measure, drawn: "measured" },
        dots: true,
        width: measure === "memory" && fit !== undefined ? 0.75 : 1.5,
        points: byX(points.flatMap((at) => point(at.since, at[measure])))
      })),
      ...(fit === undefined ? [] : [{
        label: `${label}, ${fit.law} law`,
        of: { ...of, measure: "memory", drawn: "fitted" },
        width: 2.5,
        // also where it was measured, so that the two can be compared
        points: byX([...times(fit.observed), ...points.map(({ since }) => since)].flatMap((x) => {
          const y = fittedMemory(fit, x)
          return y === undefined ? [] : [{ x, y }]
        }))
      }])
    ]
  })
})

const ALL_LAYERS = "all"

const layers = (all: ReadonlyArray<{ readonly layer: number }>): Facet => {
  const there = unique(all.map(({ layer }) => layer)).filter((layer) => !(layer < 0))
  const whole = there.some((layer) => Number.isNaN(layer))
  return {
    key: "layer",
    title: "layer",
    values: there.map((layer) =>
      Number.isNaN(layer)
        ? { name: ALL_LAYERS, label: "all together", on: true }
        : { name: String(layer), on: !whole }
    )
  }
}

/** What is of no layer is shown whichever layers are. */
const layerTag = (layer: number): Readonly<Record<string, string>> =>
  layer < 0 ? {} : { layer: Number.isNaN(layer) ? ALL_LAYERS : String(layer) }

const layerLabel = (layer: number): string =>
  layer < 0 ? "" : Number.isNaN(layer) ? ", all layers" : `, ${layerName(layer)}`

const parts = <T extends { readonly part: string }>(all: ReadonlyArray<T>, nameOf: (one: T) => string): Facet => ({
  key: "part",
  title: "part",
  values: unique(all.map(nameOf)).map((name) => ({ name, on: true }))
})

export const norms = (report: DynamicsReport): Chart => {
  const all = [...wholeNorms(report), ...report.norms]
  const quantities = [["weight", "weights, rms"], ["update", "change a step, rms"]] as const
  return {
    title: "Size of the weights, and how fast they move",
    x: stepAxis,
    y: { title: quantities[0][1] },
    facets: [
      {
        key: "quantity",
        title: "quantity",
        one: true,
        values: quantities.map(([name, y], i) => ({ name, label: i === 0 ? "weights" : "change", y, on: i === 0 }))
      },
      arms(all),
      parts(all, weightsName),
      layers(all)
    ],
    color: ["part"],
    dash: ["part", "arm"],
    shade: ["layer"],
    lines: all.flatMap(({ arm, layer, part, points }) =>
      quantities.map(([quantity]): Line => ({
        label: `${arm}: ${weightsName({ layer, part })}${layerLabel(layer)}`,
        of: { arm, part: weightsName({ layer, part }), quantity, ...layerTag(layer) },
        points: byX(points.flatMap((at) => at[quantity] === undefined ? [] : point(at.step, at[quantity])))
      }))
    )
  }
}

export const shares = (report: DynamicsReport): Chart => {
  const all = [...wholeShares(report), ...report.shares]
  return {
    title: "What parts add to the logit of the true token",
    x: stepAxis,
    y: { title: "logit, centered on the vocabulary" },
    facets: [arms(all), masks(report, all, ["own"]), groups(report, all), parts(all, partName), layers(all)],
    color: ["part"],
    dash: ["part", "arm", "mask", "group"],
    shade: ["layer"],
    lines: all.map((one) => ({
      label: `${named(report, one)}, ${partName(one)}${layerLabel(one.layer)}`,
      of: { ...tags(report, one), part: partName(one), ...layerTag(one.layer) },
      points: byX(one.points.flatMap(({ logit, step }) => point(step, logit)))
    }))
  }
}

/** What most want to see first, as a picture: memories of the group that tells most as they age, as measured. */
export const lead = (report: DynamicsReport): Chart => {
  const name = focalGroup(report)?.name
  const shown = report.retention.filter(({ group, mask }) => group === name && (mask === "own" || mask === "off"))
  return {
    title: `Memory of ${name ?? "sequences"} after the last exposure`,
    x: { title: "steps since the last exposure", log: true, unit: 1 },
    y: { title: "memory, nats a token", zero: true },
    facets: [],
    // as in the curves that are explored
    color: ["arm", "mask"],
    dash: ["arm", "mask"],
    lines: shown.map((one) => ({
      label: subjectName(report, one.arm, one.mask),
      of: { arm: one.arm, mask: one.mask },
      dots: true,
      points: byX(one.points.flatMap(({ memory, since }) => point(since, memory)))
    }))
  }
}
