/**
 * The pretraining report as one HTML file that needs nothing else: no scripts, no fonts, no network.
 */
import type { PretrainReport } from "../Report.ts"
import { charts } from "./charts.ts"
import * as Tables from "./tables.ts"

const escapes: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", "\"": "&quot;" }
export const escape = (text: string): string => text.replace(/[&<>"]/g, (character) => escapes[character])

const style = `
:root { color-scheme: light dark; --ground: #fff; --ink: #1c1e21; --faint: #676b73; --line: #d9dbe0; --mark: #ffdd70 }
@media (prefers-color-scheme: dark) {
  :root { --ground: #15171a; --ink: #e8e9eb; --faint: #9a9fa8; --line: #363a41; --mark: #6d5200 }
}
body { background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; max-width: 52rem;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
.verdict { font-size: 1.15rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
.faint { color: var(--faint) } small.faint { display: block; margin: .6rem 0 }
mark { background: var(--mark); color: inherit }
blockquote { margin: .2rem 0 1.2rem; white-space: pre-wrap; font-family: Georgia, serif }
svg { max-width: 100%; height: auto; overflow: visible }
pre { overflow-x: auto; font-size: .85rem }`

export const table = ({ head, rows }: Tables.Table): string => {
  const row = (cells: ReadonlyArray<string>, tag: string) =>
    `<tr>${cells.map((text) => `<${tag}>${escape(text)}</${tag}>`).join("")}</tr>`
  return `<div class="wide"><table><thead>${row(head, "th")}</thead>` +
    `<tbody>${rows.map((cells) => row(cells, "td")).join("")}</tbody></table></div>`
}

/** One page that needs nothing else, from what stands in its body. */
export const page = (title: string, body: string): string =>
  `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(title)}</title>
<style>${style}
</style>
</head>
<body>
${body}
</body>
</html>
`

/** The report with its learning curves, legible on light and dark ground. */
export const toHtml = async (report: PretrainReport): Promise<string> => {
  const seeds = Tables.seeds(report)
  const baselines = Tables.baselines(report)
  const { prompt, truth } = report.perSeed[0].continuation ?? { prompt: "", truth: "" }
  const passage = (pieces: ReadonlyArray<Tables.Piece>) =>
    `<blockquote><span class="faint">${escape(prompt)}</span>` +
    pieces.map(({ known, text }) => known ? `<mark>${escape(text)}</mark>` : escape(text)).join("") + "</blockquote>"
  const passages = Tables.continuations(report).length === 0 ? "" : `<h2>A repeated passage, continued</h2>
<p>Greedily, from its first tokens${seeds.rows.length === 0 ? "" : ` (seed ${report.perSeed[0].seed})`};
<mark>marked</mark>: verbatim from the training text.</p>
<p><strong>training text</strong></p>
<blockquote><span class="faint">${escape(prompt)}</span>${escape(truth)}</blockquote>
${Tables.continuations(report)
    .map(({ name, note, pieces }) => `<p><strong>${name}</strong>: ${note}</p>\n${passage(pieces)}`)
    .join("\n")}`
  return page("Pretraining with memorization sinks", `<h1>Pretraining with memorization sinks</h1>
<p class="verdict">${escape(Tables.verdict(report))}</p>
${table(Tables.losses(report))}
<small class="faint">${escape(Tables.legend(report))}</small>
${baselines.rows.length > 1 ? table(baselines) : ""}
${seeds.rows.length === 0 ? "" : `<h2>Seeds</h2>\n${table(seeds)}`}
${passages}
${(await charts(report)).map(({ svg, title }) => `<h2>${title}</h2>\n${svg}`).join("\n")}
<h2>The run</h2>
${table(Tables.arms(report))}
<p class="faint">${escape(Tables.footing(report))}</p>
<details><summary>Configuration</summary><pre>${escape(JSON.stringify(report.config, undefined, 2))}</pre></details>`)
}
