/** The pretraining report as one HTML file. */
import type { PretrainReport } from "./Report.ts"
import { charts } from "./charts.ts"
import { escape, page, table } from "../report/page.ts"
import * as Tables from "./tables.ts"

/** The report with its learning curves, legible on light and dark ground. */
export const toHtml = async (report: PretrainReport): Promise<string> => {
  const seeds = Tables.seeds(report)
  const baselines = Tables.baselines(report)
  const { prompt, truth } = report.perSeed[0].continuation ?? { prompt: "", truth: "" }
  const passage = (pieces: ReadonlyArray<Tables.Piece>) =>
    `<blockquote><span class="faint">${escape(prompt)}</span>` +
    pieces.map(({ known, text }) => known ? `<mark>${escape(text)}</mark>` : escape(text)).join("") + "</blockquote>"
  const passages = Tables.continuations(report).length === 0 ? "" : `<h2>A repeated passage, continued</h2>
<p>Greedily, from its first tokens${Tables.sources(report).rows.length === 0 ? "" : table(Tables.sources(report))}
${seeds.rows.length === 0 ? "" : ` (seed ${report.perSeed[0].seed})`};
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
${Tables.sources(report).rows.length === 0 ? "" : table(Tables.sources(report))}
${seeds.rows.length === 0 ? "" : `<h2>Seeds</h2>\n${table(seeds)}`}
${passages}
${(await charts(report)).map(({ svg, title }) => `<h2>${title}</h2>\n${svg}`).join("\n")}
<h2>The run</h2>
${table(Tables.arms(report))}
<p class="faint">${escape(Tables.footing(report))}</p>
<details><summary>Configuration</summary><pre>${escape(JSON.stringify(report.config, undefined, 2))}</pre></details>`)
}
