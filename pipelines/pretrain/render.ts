/**
 * The pretraining report for people and programs: for the terminal, as Markdown, as one HTML file, as JSON.
 */
import { painter, wrap } from "../../src/Terminal.ts"
import { columns, markdownTable, plain, type Table } from "../report/page.ts"
import * as Tables from "./tables.ts"
import type { PretrainReport } from "./Report.ts"

export { toHtml } from "./html.ts"

/** The whole report as one JSON object on one line. */
export const toJson = (report: PretrainReport): string => JSON.stringify(report)

export interface TerminalOptions {
  readonly color: boolean
  /** Characters a line of prose may have. Default 100. */
  readonly width?: number
}

/** The report for a terminal: the verdict, the table, the baselines, and the passage continued three times. */
export const toTerminal = (report: PretrainReport, { color, width = 100 }: TerminalOptions): string => {
  const paint = painter(color)
  const prose = (text: string) => wrap([[text]], width, paint)
  const table = (it: Table) => {
    const [head, ...rows] = columns(it)
    return [paint("bold", head), ...rows]
  }
  const lines = [...table(Tables.losses(report)), ""]
  lines.push(...prose(Tables.verdict(report)).map((line) => paint("bold", line)), "")
  const baselines = Tables.baselines(report)
  if (baselines.rows.length > 1) lines.push(...table(baselines), "")
  const sources = Tables.sources(report)
  if (sources.rows.length > 0) lines.push(...table(sources), paint("dim", sources.caption!), "")
  const seeds = Tables.seeds(report)
  if (seeds.rows.length > 0) lines.push(...table(seeds), "")
  const { continuation } = report.perSeed[0]
  if (continuation !== undefined) {
    lines.push(...prose(
      `A repeated passage, continued greedily${report.perSeed.length > 1 ? ` (seed ${report.perSeed[0].seed})` : ""}; ` +
        `${color ? "highlighted" : "in brackets"}: verbatim from the training text.`
    ))
    for (const { name, note, pieces } of Tables.continuations(report)) {
      lines.push("", `${paint("bold", name)}: ${note}`)
      lines.push(...wrap(Tables.spans(continuation.prompt, pieces, color), width - 2, paint).map((line) => `  ${line}`))
    }
    lines.push("")
  }
  lines.push(...table(Tables.arms(report)), "")
  lines.push(...[...prose(Tables.legend(report)), ...prose(Tables.footing(report))].map((line) => paint("dim", line)))
  return lines.join("\n")
}

/** The report as GitHub-flavoured Markdown, verbatim memorization in bold. */
export const toMarkdown = (report: PretrainReport): string => {
  const seeds = Tables.seeds(report)
  const baselines = Tables.baselines(report)
  const { continuation } = report.perSeed[0]
  const quote = (pieces: ReadonlyArray<Tables.Piece>) =>
    pieces.map(({ known, text }) => {
      // emphasis must touch its text: spaces go outside
      const [, before, inner, after] = /^(\s*)([\s\S]*?)(\s*)$/.exec(text)!
      return known && inner !== "" ? `${before && " "}**${plain(inner)}**${after && " "}` : plain(text)
    }).join("")
  return [
    "# Pretraining with memorization sinks",
    Tables.verdict(report),
    markdownTable(Tables.losses(report)),
    Tables.legend(report),
    ...(baselines.rows.length > 1 ? [markdownTable(baselines)] : []),
    ...(Tables.sources(report).rows.length > 0
      ? [markdownTable(Tables.sources(report)), `${Tables.sources(report).caption}.`]
      : []),
    ...(seeds.rows.length > 0 ? [markdownTable(seeds)] : []),
    ...(continuation === undefined ? [] : [
      "## A repeated passage, continued",
      `Seed ${report.perSeed[0].seed}; bold: verbatim from the training text.`,
      `Prompt: ${plain(continuation.prompt)}`,
      `Training text: ${plain(continuation.truth)}`
    ]),
    ...Tables.continuations(report).map(({ name, note, pieces }) => `- ${name} (${note}): ${quote(pieces)}`),
    "## The run",
    markdownTable(Tables.arms(report)),
    Tables.footing(report),
    `\`\`\`json\n${JSON.stringify(report.config, undefined, 2)}\n\`\`\``
  ].join("\n\n") + "\n"
}
