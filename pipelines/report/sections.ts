/** What renderings of experiments over seeds have in common: sections of tables and words, and how claims went. */
import type { Claim } from "./Claim.ts"
import type { Failure } from "./Failure.ts"
import { escape, markdownTable, plain, type Table } from "./page.ts"

export interface Section {
  /** Where its charts are. */
  readonly key: string
  readonly title: string
  readonly text: ReadonlyArray<string>
  readonly tables: ReadonlyArray<Table>
  /** Details, that need not be seen at once. */
  readonly folded: boolean
}

/** A section, if there is something to show. */
export const section = (
  key: string,
  title: string,
  tables: ReadonlyArray<Table>,
  { folded = false, text = [] }: Partial<Pick<Section, "folded" | "text">> = {}
): ReadonlyArray<Section> => {
  const there = tables.filter(({ rows }) => rows.length > 0)
  return there.length === 0 && text.length === 0 ? [] : [{ key, title, tables: there, text, folded }]
}

/** Columns that say nothing in any row are left out. */
export const filled = (table: Table): Table => {
  const kept = table.head.map((_, i) => i === 0 || table.rows.some((row) => row[i] !== "-" && row[i] !== ""))
  const keep = (row: ReadonlyArray<string>) => row.filter((_, i) => kept[i])
  return { ...table, head: keep(table.head), rows: table.rows.map(keep) }
}

export const claimsTable = (claims: ReadonlyArray<Claim>): Table => ({
  prose: true,
  head: ["", "claim", "here", "evidence"],
  rows: claims.map(({ claim, evidence, number, result }) => [String(number), claim, result, evidence])
})

/** `held: 4, 11; not decided: 13`. */
export const claimsInShort = ({ claims }: { readonly claims: ReadonlyArray<Claim> }): string =>
  (["held", "did not hold", "not decided", "not tested"] as const)
    .map((result) => [result, claims.filter((claim) => claim.result === result)] as const)
    .filter(([, those]) => those.length > 0)
    .map(([result, those]) => `${result}: ${those.map(({ number }) => number).join(", ")}`)
    .join("; ")

/** What to beware of, and what failed. */
export const caveats = (
  { failures, warnings }: { readonly warnings: ReadonlyArray<string>; readonly failures: ReadonlyArray<Failure> }
): ReadonlyArray<Section> => [
  ...section("warnings", "Warnings", [], { text: warnings }),
  ...section("failures", "What failed", [{
    prose: true,
    head: ["", "seed", "why"],
    rows: failures.map(({ arm, message, seed }) => [arm, String(seed), message])
  }], failures.length > 0 ? { text: ["Numbers of these arms are of the other seeds."] } : {})
]

/** A part of a page that is seen on demand. */
const fold = (title: string, body: ReadonlyArray<string>): ReadonlyArray<string> =>
  [`<details><summary>${escape(title)}</summary>`, ...body, "</details>"]

/** A report as GitHub-flavoured Markdown, without figures; details are folded. */
export const markdown = (
  title: string,
  { config, footing, head, sections }: {
    readonly head: ReadonlyArray<string>
    readonly sections: ReadonlyArray<Section>
    readonly config: unknown
    readonly footing: string
  }
): string =>
  [
    `# ${title}`,
    ...head.map(plain),
    ...sections.flatMap(({ folded, tables, text, title }) => {
      const body = [
        ...tables.flatMap((one) => [...(one.caption === undefined ? [] : [plain(one.caption)]), markdownTable(one)]),
        ...text.map(plain)
      ]
      return folded ? fold(title, body) : [`## ${title}`, ...body]
    }),
    // no fence of backticks: a text in the configuration could end it
    ...fold("Configuration", [`<pre>${escape(JSON.stringify(config ?? null, undefined, 2))}</pre>`]),
    plain(footing)
  ].join("\n\n") + "\n"
