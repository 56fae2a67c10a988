/** A sweep as tables of data: CSV and Parquet, a row a point and seed. */
import { parquetWriteBuffer } from "hyparquet-writer"
import { csvField } from "../../src/Csv.ts"
import { types } from "../../src/measures/Parquet.ts"
import { valueText } from "./Config.ts"
import type { SweepReport } from "./Report.ts"

interface DataColumn {
  readonly name: string
  readonly values: ReadonlyArray<number | string>
  readonly numeric: boolean
}

/** A row a point and seed, best point first: the fields, and every metric that was measured; NaN where it was not. */
const dataOf = (report: SweepReport): ReadonlyArray<DataColumn> => {
  const rows = report.points.flatMap((point) => point.perSeed.map((one) => ({ point, ...one })))
  const names = [...new Set(rows.flatMap(({ metrics }) => Object.keys(metrics)))]
  const numbers = (name: string, of: (row: typeof rows[number]) => number): DataColumn => ({ name, values: rows.map(of),
    numeric: true })
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

const cell = (value: number | string): string =>
  typeof value === "string" ? csvField(value) : Number.isFinite(value) ? String(value) : ""

/** One line a point and seed, after a line of names; what could not be measured is empty. */
export const toCsv = (report: SweepReport): string => {
  const data = dataOf(report)
  const count = data[0]!.values.length
  const lines = [data.map(({ name }) => cell(name)),
    ...Array.from({ length: count }, (_, r) => data.map(({ values }) => cell(values[r]!)))]
  return lines.map((line) => `${line.join(",")}\n`).join("")
}

/** The same as Parquet: float64 and text. */
export const toParquet = (report: SweepReport): Uint8Array => {
  const data = dataOf(report)
  return new Uint8Array(parquetWriteBuffer({
    schema: [
      { name: "root", num_children: data.length },
      ...data.map(({ name, numeric }) => ({ name, repetition_type: "REQUIRED" as const,
        ...(numeric ? types.double : types.text) })
      )
    ],
    columnData: data.map(({ name, values }) => ({ name, data: [...values] }))
  }))
}
