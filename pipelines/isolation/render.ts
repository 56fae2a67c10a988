/** The isolation report for people, headed by the verdict's word: for the terminal, as Markdown, as one HTML file. */
import { painter, wrap } from "../../src/Terminal.ts"
import { columns, escape, figure, page, table } from "../report/page.ts"
import { claimsInShort, markdown } from "../report/sections.ts"
import { charts } from "./charts.ts"
import type { IsolationReport } from "./Report.ts"
import * as Tables from "./tables.ts"

export interface TerminalOptions {
  readonly color: boolean
  /** Characters a line of prose may have. Default 100. */
  readonly width?: number
}

/** The report for a terminal, in short: the word, what decided it, T1, how the claims went, and what failed. */
export const toTerminal = (report: IsolationReport, { color, width = 100 }: TerminalOptions): string => {
  const paint = painter(color)
  const prose = (text: string) => wrap([[text]], width, paint)
  const panel = Tables.firstPanel(report)
  const [head, ...rows] = columns(Tables.mainTable(report, panel, "short"))
  return [
    paint("bold", report.word),
    ...prose(Tables.because(report)),
    "",
    paint("bold", head),
    ...rows,
    "",
    ...(report.claims.length === 0 ? [] : prose(`Claims of the papers: ${claimsInShort(report)}.`)),
    ...report.failures.flatMap(({ arm, message, seed }) => prose(`${arm} failed in seed ${seed}: ${message}`)),
    ...report.warnings.flatMap((warning) => prose(`Warning: ${warning}`)),
    "",
    ...[Tables.legend(report, panel, "short"), Tables.footing(report)].flatMap(prose).map((line) => paint("dim", line))
  ].join("\n")
}

/** The whole report as GitHub-flavoured Markdown, without figures; details are folded. */
export const toMarkdown = (report: IsolationReport): string =>
  markdown(report.word, {
    head: [Tables.because(report)],
    sections: Tables.sections(report),
    config: report.config,
    footing: Tables.footing(report)
  })

/** The whole report as one HTML file with its figures, legible on light and dark ground; details are folded. */
export const toHtml = async (report: IsolationReport): Promise<string> => {
  const figures = await charts(report)
  const fold = (title: string, body: string) =>
    `<details><summary><h2>${escape(title)}</h2></summary>\n${body}\n</details>`
  const sections = Tables.sections(report).map(({ folded, key, tables, text, title }) => {
    const drawn = (figures[key] ?? []).map(figure)
    const numbers = tables.map(table).join("\n")
    const words = text.map((one) => `<p${key === "main" ? ` class="faint"` : ""}>${escape(one)}</p>`)
    // the numbers of a figure are behind it
    const body = drawn.length === 0
      ? [numbers, ...words]
      : [...words, ...drawn, `<details><summary>Numbers</summary>${numbers}</details>`]
    return folded ? fold(title, body.join("\n")) : `<h2>${escape(title)}</h2>\n${body.join("\n")}`
  })
  return page(`memsinks isolation checks: ${report.word}`, `<h1>${report.word}</h1>
<p class="verdict">${escape(Tables.because(report))}</p>
${sections.join("\n")}
${fold("Configuration", `<pre>${escape(JSON.stringify(report.config, undefined, 2))}</pre>`)}
<p class="faint">${escape(Tables.footing(report))}</p>`)
}
