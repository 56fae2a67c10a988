/**
 * What a report shows, as plain values: sentences, tables, charts and terms in sections. An experiment makes a `View` of
 * its report; the terminal, Markdown and HTML are three drawings of it, which know nothing of any experiment.
 */
import * as Schema from "effect/Schema"
import { count, NOTHING, oneLine, plural } from "../../src/Terminal.ts"
import type { Chart } from "./Chart.ts"
import type { Claim } from "./Claim.ts"
import type { Failure } from "./Failure.ts"

export const Table = Schema.Struct({
  /** The first head is empty or names the rows. */
  head: Schema.Array(Schema.String),
  /** As many cells each as the head has. */
  rows: Schema.Array(Schema.Array(Schema.String)),
  /** Above it, where there are several. */
  caption: Schema.optionalWith(Schema.String, { exact: true }),
  /** Cells are sentences: flush left and wrapped. Default false: all but the first column are numbers. */
  prose: Schema.optionalWith(Schema.Boolean, { exact: true })
})
export interface Table extends Schema.Schema.Type<typeof Table> {}

/** A piece of text and how it looks; `mark` is what a reader is to see first, `faint` what was there before. */
export interface Span {
  readonly text: string
  readonly look?: "mark" | "faint"
}

/** A word of the report and what it means. */
export type Term = readonly [word: string, meaning: string]

export type Block =
  | { readonly is: "text"; readonly text: string }
  | { readonly is: "table"; readonly table: Table }
  /** Drawn on pages; elsewhere tables have its numbers. */
  | { readonly is: "chart"; readonly chart: Chart }
  | { readonly is: "terms"; readonly terms: ReadonlyArray<Term> }
  /** Text of a model or of its data, under a name. */
  | { readonly is: "passage"; readonly name: string; readonly note?: string; readonly spans: ReadonlyArray<Span> }
  /** Commands for a shell, a line each. */
  | { readonly is: "commands"; readonly commands: ReadonlyArray<string> }
  /** Seen on demand. */
  | { readonly is: "fold"; readonly title: string; readonly blocks: ReadonlyArray<Block> }

export interface Section {
  /** Empty: it goes on without a heading. */
  readonly title: string
  readonly blocks: ReadonlyArray<Block>
  /** Details, that need not be seen at once. Default false. */
  readonly folded?: boolean
}

export interface View {
  readonly title: string
  /** The answer, in sentences for people. */
  readonly head: ReadonlyArray<string>
  /** What a page shows, the most telling first. */
  readonly sections: ReadonlyArray<Section>
  /** What a terminal has room for. */
  readonly brief: ReadonlyArray<Section>
  /** Everything that was configured. */
  readonly config: unknown
  /** Where and how long it ran, in a line. */
  readonly footing: string
}

// ---------------------------------------------------------------------------------------------------------------
// Blocks

export const text = (...all: ReadonlyArray<string>): ReadonlyArray<Block> => all.map((text) => ({ is: "text", text }))

/** Tables that have rows. */
export const tables = (...all: ReadonlyArray<Table>): ReadonlyArray<Block> =>
  all.filter(({ rows }) => rows.length > 0).map((table) => ({ is: "table", table }))

/** Charts in which something is drawn. */
export const charts = (...all: ReadonlyArray<Chart>): ReadonlyArray<Block> =>
  all.filter(({ lines }) => lines.some(({ points }) => points.length > 0)).map((chart) => ({ is: "chart", chart }))

export const terms = (...all: ReadonlyArray<Term>): ReadonlyArray<Block> =>
  all.length === 0 ? [] : [{ is: "terms", terms: all }]

export const fold = (title: string, blocks: ReadonlyArray<Block>): ReadonlyArray<Block> =>
  blocks.length === 0 ? [] : [{ is: "fold", title, blocks }]

/** Charts with their numbers behind them; tables alone where nothing is drawn. */
export const drawn = (charts: ReadonlyArray<Block>, ...numbers: ReadonlyArray<Table>): ReadonlyArray<Block> =>
  charts.length === 0 ? tables(...numbers) : [...charts, ...fold("Numbers", tables(...numbers))]

/** A section, if there is something in it. */
export const section = (
  title: string,
  blocks: ReadonlyArray<Block>,
  { folded = false }: { readonly folded?: boolean } = {}
): ReadonlyArray<Section> => blocks.length === 0 ? [] : [{ title, blocks, folded }]

// ---------------------------------------------------------------------------------------------------------------
// What experiments have in common

export { NOTHING, plural as several }

export const unique = <T>(values: ReadonlyArray<T>): ReadonlyArray<T> => [...new Set(values)]

/** Columns that say nothing in any row are left out. */
export const filled = (table: Table): Table => {
  const kept = table.head.map((_, i) => i === 0 || table.rows.some((row) => row[i] !== NOTHING && row[i] !== ""))
  const keep = (row: ReadonlyArray<string>) => row.filter((_, i) => kept[i])
  return { ...table, head: keep(table.head), rows: table.rows.map(keep) }
}

/** A number of any size, to three digits; very small ones as `9.45e-6`. */
export const short = (value: number): string => {
  if (Math.abs(value) >= 1000) return count(value)
  const rounded = Number(value.toPrecision(3))
  return rounded !== 0 && Math.abs(rounded) < 1e-4 ? rounded.toExponential() : String(rounded)
}

export const percent = (places: number) => (value: number): string => {
  const text = (100 * value).toFixed(places)
  return `${Number(text) === 0 ? text.replace("-", "") : text} %`
}

/** Names come out of data: nothing in them steers a terminal. Of long ones, which may be paths, the end. */
export const shortName = (name: string): string => {
  const plain = oneLine(name)
  return plain.length <= 40 ? plain : `...${plain.slice(-37)}`
}

/** `a`, `a and b`, `a, b and c`. */
export const listed = (parts: ReadonlyArray<string>): string =>
  parts.length < 2 ? parts.join("") : `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}`

export interface Ran {
  readonly adapter: string
  readonly seconds: number
  readonly seeds: ReadonlyArray<number>
  readonly versions: Readonly<Record<string, string>>
}

/** Where it ran, how long and by what. */
export const footing = ({ adapter, seconds, seeds, versions }: Ran, ...more: ReadonlyArray<string>): string =>
  [
    adapter,
    `${seeds.length === 1 ? "seed" : "seeds"} ${seeds.join(", ")}`,
    `${seconds < 100 ? seconds.toFixed(1) : count(seconds)} s`,
    ...more
  ].join(", ") + `; ${Object.entries(versions).map((entry) => entry.join(" ")).join(", ")}`

export const claimsTable = (claims: ReadonlyArray<Claim>): Table => ({
  prose: true,
  head: ["", "claim", "here", "evidence"],
  rows: claims.map(({ claim, evidence, number, result }) => [String(number), claim, result, evidence])
})

/** `Claims, by their numbers in report.html: held: 4, 11; not decided: 13.` */
export const claimsInShort = (claims: ReadonlyArray<Claim>): string =>
  "Claims, by their numbers in report.html: " +
  unique(["held", "did not hold", "not decided", "not tested", ...claims.map(({ result }) => result)])
    .map((result) => [result, claims.filter((claim) => claim.result === result)] as const)
    .filter(([, those]) => those.length > 0)
    .map(([result, those]) => `${result}: ${those.map(({ number }) => number).join(", ")}`)
    .join("; ") +
  "."

interface Caveats {
  readonly warnings: ReadonlyArray<string>
  readonly failures: ReadonlyArray<Failure>
}

/** What failed, in sight; what to beware of, folded. */
export const caveats = ({ failures, warnings }: Caveats): ReadonlyArray<Section> => [
  ...section("What failed", failures.length === 0 ? [] : [
    ...text("Numbers of these arms are of the other seeds."),
    ...tables({
      prose: true,
      head: ["", "seed", "why"],
      rows: failures.map(({ arm, message, seed }) => [arm, String(seed), message])
    })
  ]),
  ...section("Warnings: what to know before believing the numbers", text(...warnings), { folded: true })
]

/** The same in a terminal: sentences. */
export const caveatsInShort = ({ failures, warnings }: Caveats): ReadonlyArray<Block> =>
  text(
    ...failures.map(({ arm, message, seed }) => `${arm} failed in seed ${seed}: ${message}`),
    ...warnings.map((warning) => `Warning: ${warning}`)
  )

/** How a run is made again, from the file of its configuration that it leaves. */
export const again = (command: string): ReadonlyArray<Section> =>
  section("Run it again", [
    ...text(
      "The configuration below holds every setting, defaults too, and stands in the folder of the run as " +
        "config.resolved.yaml. On the same adapter the same configuration gives the same numbers; more seeds make the " +
        "intervals narrower."
    ),
    { is: "commands", commands: [`memsinks ${command} --config config.resolved.yaml`] }
  ])
