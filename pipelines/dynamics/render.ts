/** The dynamics report for people: for the terminal, as Markdown, as one HTML file with curves to explore. */
import { painter, wrap } from "../../src/Terminal.ts"
import { assets, curves } from "../report/interactive.ts"
import { columns, escape, page, table, type Table } from "../report/page.ts"
import { claimsInShort, markdown } from "../report/sections.ts"
import { charts } from "./charts.ts"
import type { DynamicsReport } from "./Report.ts"
import * as Tables from "./tables.ts"

export interface TerminalOptions {
  readonly color: boolean
  /** Characters a line of prose may have. Default 100. */
  readonly width?: number
}

/** The report for a terminal, in short: what came out, half-lives, saw-teeth, how the claims went, and what failed. */
export const toTerminal = (report: DynamicsReport, { color, width = 100 }: TerminalOptions): string => {
  const paint = painter(color)
  const prose = (text: string) => wrap([[text]], width, paint)
  const numbers = (title: string, one: Table, whole: Table) => {
    if (one.rows.length === 0) return []
    const left = whole.rows.length - one.rows.length
    const [head, ...rows] = columns({ ...one, head: [title, ...one.head.slice(1)] })
    return ["", paint("bold", head), ...rows, ...(left <= 0 ? [] : [paint("dim", `${left} more rows in report.html`)])]
  }
  const rest = [
    ...(report.claims.length === 0 ? [] : prose(`Claims: ${claimsInShort(report)}.`)),
    ...report.failures.flatMap(({ arm, message, seed }) => prose(`${arm} failed in seed ${seed}: ${message}`)),
    ...report.warnings.flatMap((warning) => prose(`Warning: ${warning}`))
  ]
  return [
    ...Tables.sentences(report).flatMap(prose),
    ...numbers("kept", Tables.halfLives(report, "short"), Tables.halfLives(report)),
    ...numbers("saw-tooth", Tables.lateTeeth(report, "short"), Tables.lateTeeth(report)),
    ...(rest.length === 0 ? [] : ["", ...rest]),
    "",
    ...prose(Tables.footing(report)).map((line) => paint("dim", line))
  ].join("\n")
}

/** The whole report as GitHub-flavoured Markdown, without curves; details are folded. */
export const toMarkdown = (report: DynamicsReport): string =>
  markdown("Forgetting dynamics", {
    head: Tables.sentences(report),
    sections: Tables.sections(report),
    config: report.config,
    footing: Tables.footing(report)
  })

/** The whole report as one HTML file with curves to explore, legible on light and dark ground; details are folded. */
export const toHtml = async (report: DynamicsReport): Promise<string> => {
  const drawn = charts(report)
  const fold = (title: string, body: string) =>
    `<details><summary><h2>${escape(title)}</h2></summary>\n${body}\n</details>`
  const sections = Tables.sections(report).map(({ folded, key, tables, text, title }) => {
    const figures = (drawn[key] ?? []).map(curves)
    const words = text.map((one) => `<p class="faint">${escape(one)}</p>`)
    const numbers = tables.map(table)
    const body = figures.length === 0
      ? [...words, ...numbers]
      // what comes first is what most want to know: half-lives as numbers, all else as curves
      : key === "retention"
      ? [...numbers, ...words, ...figures]
      : [...words, ...figures, `<details><summary>Numbers</summary>${numbers.join("\n")}</details>`]
    return folded ? fold(title, body.join("\n")) : `<h2>${escape(title)}</h2>\n${body.join("\n")}`
  })
  const title = "Forgetting dynamics"
  const { scripts, style } = assets()
  return page(title, `<h1>${title}</h1>
${Tables.sentences(report).map((one) => `<p class="verdict">${escape(one)}</p>`).join("\n")}
${sections.join("\n")}
${fold("Configuration", `<pre>${escape(JSON.stringify(report.config ?? null, undefined, 2))}</pre>`)}
<p class="faint">${escape(Tables.footing(report))}</p>`, { scripts, style: `body { max-width: 64rem }\n${style}` })
}
