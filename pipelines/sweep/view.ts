/** What a sweep's report shows: a table, best first, and curves of every metric against every field. Pure. */
import { isObject } from "../../src/Json.ts"
import type { Chart, Line } from "../report/Chart.ts"
import { digits, written } from "../report/Estimate.ts"
import * as View from "../report/View.ts"
import { metricsByName, valueText } from "./Config.ts"
import type { PointResult, SweepReport } from "./Report.ts"

const number = digits(4)

/** What each field is called where there is little room: the end of its path that no other one has. */
const shortNames = (fields: ReadonlyArray<string>): ReadonlyMap<string, string> =>
  new Map(fields.map((field) => {
    const parts = field.split(".")
    const ends = parts.map((_, i) => parts.slice(-1 - i).join("."))
    return [field,
      ends.find((end) => !fields.some((other) => other !== field && `.${other}`.endsWith(`.${end}`))) ?? field]
  }))

/** A metric with its unit. */
const titleOf = (metric: string): string => {
  const group = metricsByName.get(metric)?.group
  return group === "fractionClosed" || group === "extraction" ? `${metric}, 1 being all` : `${metric}, nats a token`
}

/** The points, best first. */
const points = ({ fields, metrics, points }: SweepReport): View.Table => ({
  head: ["", ...fields.map((field) => shortNames(fields).get(field)!), ...metrics],
  rows: points.map(({ metrics: of, point, rank, values }) => [
    rank === undefined ? `${View.NOTHING} (point ${point})` : String(rank),
    ...fields.map((field) => valueText(values[field])),
    ...metrics.map((metric) => of[metric] === undefined ? View.NOTHING : written(of[metric], number))
  ])
})

const settings = (values: PointResult["values"], fields: ReadonlyArray<string>): string =>
  fields.map((field) => `${field} = ${valueText(values[field])}`).join(", ")

/** What came out, in a sentence. */
const headline = ({ best, fields, metrics, points }: SweepReport): string => {
  const [first] = points
  const [metric] = metrics
  if (first?.rank === undefined) {
    return `${metric} could be measured at none of ${
      View.several(points.length, "point")
    }: name another metric, or other arms.`
  }
  return `The ${best} ${metric}, ${written(first.metrics[metric!], number)}, is that of ${
    settings(first.values, fields)
  }.`
}

/** Whether a sweep asked for equal ratios of a field. */
const byRatio = (config: unknown, field: string): boolean => {
  const fields = isObject(config) ? config["fields"] : undefined
  const values = isObject(fields) ? fields[field] : undefined
  return isObject(values) && values["scale"] === "log"
}

/** Points by the values of fields, the first that differs: numbers as they grow, all else as text. */
const inOrder = ({ values: a }: PointResult, { values: b }: PointResult, fields: ReadonlyArray<string>): number => {
  for (const field of fields) {
    const [x, y] = [a[field], b[field]]
    const order = typeof x === "number" && typeof y === "number"
      ? x - y
      : valueText(x).localeCompare(valueText(y), "en")
    if (order !== 0) return order
  }
  return 0
}

/** A metric against a field, a line for each setting of the other fields; nothing to draw against what is no number. */
const chart = ({ config, fields, points }: SweepReport, field: string, metric: string): Chart => {
  const others = fields.filter((other) => other !== field)
  const short = shortNames(fields)
  const lines = new Map<string, Array<PointResult>>()
  for (const point of points) {
    if (typeof point.values[field] !== "number" || point.metrics[metric] === undefined) continue
    const name = others.map((other) => `${short.get(other)} = ${valueText(point.values[other])}`).join(", ")
    lines.set(name, [...lines.get(name) ?? [], point])
  }
  const xs = points.flatMap(({ values }) => typeof values[field] === "number" ? [values[field]] : [])
  return {
    title: `${metric} by ${short.get(field)}`,
    x: { title: field,
      log: Math.min(...xs) > 0 && (byRatio(config, field) || Math.max(...xs) / Math.min(...xs) >= 20) },
    y: { title: titleOf(metric) },
    facets: [],
    // by their values, whatever is best
    lines: [...lines].sort(([, [a]], [, [b]]) => inOrder(a!, b!, others)).map(([name, there]): Line => ({
      label: name,
      of: { others: name },
      dots: true,
      points: there
        .map(({ metrics, rank, values }) => {
          const { high, low, mean } = metrics[metric]!
          return { x: Number(values[field]), y: mean, low, high, ...(rank === 1 ? { large: true } : {}) }
        })
        .sort((a, b) => a.x - b.x)
    })),
    color: ["others"]
  }
}

const terms: ReadonlyArray<View.Term> = [
  ["repeated", "loss on sequences that were shown again and again, nats a token"],
  ["heldOut", "loss on sequences that were never shown, nats a token"],
  ["gaps", "held-out minus repeated loss, nats a token: how much better the model knows what it saw often"],
  ["extraction", "share of repeated sequences that greedy decoding completes to the letter"],
  ["fractionClosed", "how much of the standard model's gap is gone with the sinks off, 1 being all of it"],
  ["standard", "the same model without sinks"],
  ["own", "each sequence's own sinks are on, as in training"],
  ["off", "all sinks are switched off: the model that is used"],
  ["placebo", "as many sinks on, of another sequence"]
]

export const view = (report: SweepReport): View.View => {
  const { arms, failures, fields, metrics, seeds, trainings } = report
  const words = new Set(metrics.flatMap((name) => {
    const { group, state } = metricsByName.get(name)!
    return state === undefined ? [group] : [group, state]
  }))
  const caveats = { failures,
    warnings: seeds.length < 2 ? ["one seed is not a result: nothing has an interval over seeds"] : [] }
  const size = `${View.several(report.points.length, "point")} with ${View.several(seeds.length, "seed")}, ` +
    `${View.several(trainings.different, "training")} of ${
      View.listed(arms)
    }. Means over the seeds, with 95 % intervals: of extraction beta-binomial over seeds and sequences, ` +
    "else Student's t where there are several seeds."
  const meaning = View.terms(...terms.filter(([word]) => words.has(word)))
  const drawn = metrics.flatMap((metric) => fields.map((field) => chart(report, field, metric)))
  return {
    title: "A sweep of pretraining",
    head: [headline(report)],
    sections: [
      ...View.section("", [...View.tables(points(report)), ...meaning, ...View.text(size)]),
      ...View.section("Curves", View.charts(...drawn)),
      ...View.caveats(caveats),
      ...View.again("sweep")
    ],
    brief: [
      ...View.section("", [...View.tables(points(report)), ...View.text(size)]),
      ...View.section("", View.caveatsInShort(caveats)),
      ...View.section("", meaning)
    ],
    config: report.config,
    footing: View.footing(report)
  }
}
