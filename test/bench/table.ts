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

/** What a file of results/ says in a few rows; undefined where it has not been measured. */
const headlines = (
  lines: ReadonlyArray<Line>
): ReadonlyArray<readonly [what: string, value: string | undefined]> => {
  const number = (line: Line | undefined, field: string): number | undefined => line?.[field] as number | undefined
  const find = (bench: string, name: RegExp): Line | undefined =>
    lines.find((line) => line.bench === bench && name.test(line.name))
  const best = lines
    .filter((line) => line.bench === "matmul" && line.name.includes(" f32 "))
    .map((line) => line["gflops"] as number)
    .reduce<number | undefined>((a, b) => Math.max(a ?? 0, b), undefined)
  const times = (x: number | undefined) => (x === undefined ? undefined : `${x.toPrecision(3)}x`)
  const rate = (
    x: number | undefined
  ) => (x === undefined ? undefined : `${Math.round(x).toLocaleString("en-US")} tokens/s`)
  const percent = (x: number | undefined) => (x === undefined ? undefined : `${Math.round(x * 100)} %`)
  const flops = (x: number | undefined) => (x === undefined ? undefined : `${x.toPrecision(3)} GFLOP/s`)
  const step = (name: RegExp) => find("step", name)
  const peers = lines.filter((line) => typeof line["peerName"] === "string" && line["unit"] === "tokens/s")
  return [
    ["best matmul, f32", flops(best)],
    ["step of `tiny`, standard, 8 x 128 tokens", rate(number(step(/^tiny, standard/), "tokensPerSecond"))],
    ["its share of the best matmul", percent(number(step(/^tiny, standard/), "shareOfBestMatmul"))],
    ["step of `tiny`, sinks", rate(number(step(/^tiny, sinks, 8/), "tokensPerSecond"))],
    ["step of `tiny`, sinks, f16", rate(number(step(/^tiny, sinks, f16/), "tokensPerSecond"))],
    ["step outside kernels", percent(number(lines.find((line) => line.bench === "outside kernels"), "shareOutside"))],
    ["NULLs MLP: sinks gathered, against masked",
      times(number(lines.find((line) => line.bench === "NULLs MLP"), "ratio"))],
    ["NULLs step of one layer, the same", times(number(lines.find((line) => line.bench === "NULLs step"), "ratio"))],
    ["pool of 32,768 against 1,024, step", times(number(find("pool", /32768/), "ratio"))],
    ["attention over 8,192 tokens, forward and backward", flops(number(find("attention", / 8192 /), "gflops"))],
    ...peers.map((line) =>
      [
        `${String(line.bench)}, against ${String(line["peerName"])}`,
        times(number(line, "ratio"))
      ] as const
    )
  ]
}

/** The README's table: a row for each headline, a column for each adapter. */
export const summary = (results: ReadonlyMap<string, ReadonlyArray<Line>>): string => {
  const columns = [...results].map(([adapter, lines]) => [adapter, new Map(headlines(lines))] as const)
  const rows = [...new Set(columns.flatMap(([, values]) => [...values.keys()]))]
    .filter((row) => columns.some(([, values]) => values.get(row) !== undefined))
  return [
    ["", ...columns.map(([adapter]) => adapter)],
    ["---", ...columns.map(() => "---")],
    ...rows.map((row) => [row, ...columns.map(([, values]) => values.get(row) ?? "–")])
  ].map((cells) => `| ${cells.join(" | ")} |`).join("\n")
}
