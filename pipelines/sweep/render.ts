/** A sweep for people: a table, best first, and curves of every metric against every field; and as tables of data. */
import { parquetWriteBuffer } from "hyparquet-writer"
import { types } from "../../src/measures/Parquet.ts"
import { painter, wrap } from "../../src/Terminal.ts"
import { digits, written } from "../report/Estimate.ts"
import { columns, escape, figure, markdownTable, page, plain, type Table, table } from "../report/page.ts"
import { svg } from "../report/svg.ts"
import { valueText } from "./Config.ts"
import type { PointResult, SweepReport } from "./Report.ts"

const TITLE = "A sweep of pretraining"

const number = digits(4)

/** The points, best first. */
export const points = ({ fields, metrics, points }: SweepReport): Table => ({
  head: ["", ...fields, ...metrics],
  rows: points.map(({ metrics: of, point, rank, values }) => [
    rank === undefined ? `- (point ${point})` : String(rank),
    ...fields.map((field) => valueText(values[field])),
    ...metrics.map((metric) => of[metric] === undefined ? "-" : written(of[metric], number))
  ])
})

const listed = ({ values }: PointResult): string => Object.entries(values).map(([path, value]) => `${path} = ${valueText(value)}`).join(", ")

/** What came out, in a sentence. */
export const headline = (report: SweepReport): string => {
  const [best] = report.points
  const metric = report.metrics[0]!
  if (best?.rank === undefined) {
    return `${metric} could be measured at none of ${report.points.length} points: name another metric, or other arms.`
  }
  return `The ${report.best} ${metric}, ${written(best.metrics[metric], number)}, is that of ${listed(best)}.`
}

/** What the words mean, and how much there is of it. */
export const legend = ({ arms, failures, points, seeds, trainings }: SweepReport): string =>
  `${points.length} point${points.length === 1 ? "" : "s"} with ${seeds.length} seed${seeds.length === 1 ? "" : "s"}: ` +
  `${trainings.different} trainings of ${arms.join(", ")}. Means over the seeds, with 95 % intervals where there are several. ` +
  "Losses are nats a token: repeated, of sequences that were shown again and again; heldOut, of those that never were; gaps " +
  "between them; extraction, the share that is said verbatim; each by the state of the sinks. fractionClosed: how much of the " +
  "gap of the standard model is gone with the sinks off, 1 being all of it." +
  (failures.length === 0 ? "" : ` ${failures.length} training${failures.length === 1 ? "" : "s"} failed.`)

const failed = ({ failures }: SweepReport): Table => ({
  head: ["what failed", "seed", "why"],
  prose: true,
  rows: failures.map(({ arm, message, seed }) => [arm, String(seed), message])
})

/** For a terminal. */
export const toTerminal = (report: SweepReport, { color, width = 100 }: { readonly color: boolean; readonly width?: number }): string => {
  const paint = painter(color)
  const prose = (text: string) => wrap([[text]], width, paint)
  const [head, ...rows] = columns(points(report))
  return [
    ...prose(headline(report)).map((line) => paint("bold", line)),
    "",
    paint("bold", head!),
    ...rows,
    "",
    ...report.failures.flatMap(({ arm, message, seed }) => prose(`failed: ${arm}, seed ${seed}: ${message}`)),
    ...prose(legend(report)).map((line) => paint("dim", line))
  ].join("\n")
}

/** As GitHub-flavoured Markdown. */
export const toMarkdown = (report: SweepReport): string =>
  [
    `# ${TITLE}`,
    plain(headline(report)),
    markdownTable(points(report)),
    plain(legend(report)),
    ...(report.failures.length === 0 ? [] : ["## What failed", markdownTable(failed(report))]),
    `\`\`\`json\n${JSON.stringify(report.config, undefined, 2)}\n\`\`\``
  ].join("\n\n") + "\n"

/** A metric against a field: every point with every seed, and a line through the means where all else is equal. */
const chart = (report: SweepReport, field: string, metric: string): Promise<string> => {
  const others = report.fields.filter((other) => other !== field)
  const values = report.points.flatMap(({ metrics, values }) =>
    metrics[metric] === undefined ? [] : [{
      x: typeof values[field] === "number" ? values[field] : valueText(values[field]),
      y: metrics[metric].mean,
      low: metrics[metric].low ?? metrics[metric].mean,
      high: metrics[metric].high ?? metrics[metric].mean,
      others: others.map((other) => `${other} = ${valueText(values[other])}`).join(", ")
    }])
  const numeric = values.every(({ x }) => typeof x === "number")
  const xs = values.map(({ x }) => Number(x))
  const log = numeric && Math.min(...xs) > 0 && Math.max(...xs) / Math.min(...xs) >= 20
  const x = numeric
    ? { field: "x", type: "quantitative", title: field, scale: log ? { type: "log" as const } : { zero: false } } as const
    : { field: "x", type: "ordinal", title: field } as const
  const color = others.length === 0 || new Set(values.map((one) => one.others)).size > 8
    ? {}
    : { color: { field: "others", type: "nominal", title: null } } as const
  return svg({
    data: { values },
    layer: [
      { mark: { type: "rule", opacity: 0.5 }, encoding: { x, y: { field: "low", type: "quantitative" }, y2: { field: "high" }, ...color } },
      {
        mark: { type: "line", point: { size: 40 }, strokeWidth: others.length > 0 && !("color" in color) ? 0 : 2 },
        encoding: { x, y: { field: "y", type: "quantitative", title: metric, scale: { zero: false } }, ...color }
      }
    ]
  })
}

/** Curves of every metric that is shown against every field. */
export const charts = async (report: SweepReport): Promise<ReadonlyArray<{ readonly title: string; readonly svg: string }>> => {
  const drawn: Array<{ readonly title: string; readonly svg: string }> = []
  for (const metric of report.metrics) {
    if (!report.points.some(({ metrics }) => metrics[metric] !== undefined)) continue
    for (const field of report.fields) drawn.push({ title: `${metric} by ${field}`, svg: await chart(report, field, metric) })
  }
  return drawn
}

/** One HTML file, legible on light and dark ground. */
export const toHtml = async (report: SweepReport): Promise<string> =>
  page(TITLE, `<h1>${TITLE}</h1>
<p class="verdict">${escape(headline(report))}</p>
${table(points(report))}
<small class="faint">${escape(legend(report))}</small>
${(await charts(report)).map(figure).join("\n")}
${report.failures.length === 0 ? "" : `<h2>What failed</h2>\n${table(failed(report))}`}
<details><summary>Configuration</summary><pre>${escape(JSON.stringify(report.config, undefined, 2))}</pre></details>`)

// ---------------------------------------------------------------------------------------------------------------
// Data

interface DataColumn {
  readonly name: string
  readonly values: ReadonlyArray<number | string>
  readonly numeric: boolean
}

/** A row a point and seed, best point first: the fields, and every metric that was measured; NaN where it was not. */
const dataOf = (report: SweepReport): ReadonlyArray<DataColumn> => {
  const rows = report.points.flatMap((point) => point.perSeed.map((one) => ({ point, ...one })))
  const names = [...new Set(rows.flatMap(({ metrics }) => Object.keys(metrics)))]
  const numbers = (name: string, of: (row: typeof rows[number]) => number): DataColumn => ({ name, values: rows.map(of), numeric: true })
  return [
    numbers("rank", ({ point: { rank } }) => rank ?? NaN),
    numbers("point", ({ point: { point } }) => point),
    numbers("seed", ({ seed }) => seed),
    ...report.fields.map((field): DataColumn => {
      const values = rows.map(({ point }) => point.values[field])
      const numeric = values.every((value) => typeof value === "number")
      return { name: field, values: numeric ? values as ReadonlyArray<number> : values.map(valueText), numeric }
    }),
    ...names.map((name) => numbers(name, ({ metrics }) => metrics[name] ?? NaN))
  ]
}

const cell = (value: number | string): string => {
  if (typeof value === "number") return Number.isFinite(value) ? String(value) : ""
  return /[",\r\n]/.test(value) ? `"${value.replaceAll("\"", "\"\"")}"` : value
}

/** One line a point and seed, after a line of names; what could not be measured is empty. */
export const toCsv = (report: SweepReport): string => {
  const data = dataOf(report)
  const count = data[0]!.values.length
  const lines = [data.map(({ name }) => cell(name)), ...Array.from({ length: count }, (_, r) => data.map(({ values }) => cell(values[r]!)))]
  return lines.map((line) => `${line.join(",")}\n`).join("")
}

/** The same as Parquet: float64 and text. */
export const toParquet = (report: SweepReport): Uint8Array => {
  const data = dataOf(report)
  return new Uint8Array(parquetWriteBuffer({
    schema: [
      { name: "root", num_children: data.length },
      ...data.map(({ name, numeric }) => ({ name, repetition_type: "REQUIRED" as const, ...(numeric ? types.double : types.text) }))
    ],
    columnData: data.map(({ name, values }) => ({ name, data: [...values] }))
  }))
}
