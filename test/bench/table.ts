/** Benchmark lines as Markdown. */

/** One line of a benchmark: what was measured, and numbers by name. */
export interface Line {
  readonly bench: string
  readonly name: string
  readonly [field: string]: unknown
}

const show = (value: unknown): string => {
  if (typeof value !== "number") return String(value ?? "")
  if (Number.isInteger(value)) return value.toLocaleString("en-US")
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en-US") : value.toPrecision(3)
}

/** A table for each kind of benchmark, with a column for each field that its lines have. */
export const markdown = (lines: ReadonlyArray<Line>): string =>
  [...new Set(lines.map((line) => line.bench))].map((bench) => {
    const own = lines.filter((line) => line.bench === bench)
    const fields = [...new Set(own.flatMap((line) => Object.keys(line)))].filter((field) => field !== "bench")
    const rows = [fields, fields.map(() => "---"), ...own.map((line) => fields.map((field) => show(line[field])))]
    return `### ${bench}\n\n${rows.map((cells) => `| ${cells.join(" | ")} |`).join("\n")}`
  }).join("\n\n")
