/**
 * A view as one HTML file that needs nothing else: no fonts, no network, and no scripts but those that are put into it.
 * Legible on light and dark ground, on a phone and on paper.
 */
import { escape } from "./escape.ts"
import { assets, live } from "./live.ts"
import { still } from "./still.ts"
import type { Block, Section, Span, Table, View } from "./View.ts"

const style = `
:root { color-scheme: light dark; --ground: #fff; --ink: #1c1e21; --faint: #5f636b; --line: #d9dbe0; --mark: #ffdd70;
  --panel: #f5f6f8; --shade: #0003 }
@media (prefers-color-scheme: dark) {
  :root { --ground: #15171a; --ink: #e8e9eb; --faint: #a3a8b1; --line: #363a41; --mark: #6d5200; --panel: #1e2125;
    --shade: #fff3 }
}
* { box-sizing: border-box } html { -webkit-text-size-adjust: 100%; text-size-adjust: 100% }
body { background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; max-width: 64rem;
  margin: 1.5rem auto; padding: 0 1rem; overflow-wrap: break-word }
p, dl { max-width: 52rem }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .6rem } h2 { font-size: 1.15rem; margin-top: 2rem }
.answer { font-size: 1.08rem; margin: .5rem 0 } h1 + .answer { font-weight: 600 }
.wide { --under: var(--ground); max-width: 100%; margin: .6rem 0 }
pre { --under: var(--panel); font-size: .85rem; padding: .6rem .8rem; border-radius: .4rem }
/* shades tell that there is more */
.wide, pre { overflow-x: auto; background:
  linear-gradient(to right, var(--under) 30%, transparent) left / 3rem 100% local no-repeat,
  linear-gradient(to left, var(--under) 30%, transparent) right / 3rem 100% local no-repeat,
  linear-gradient(to right, var(--shade), transparent) left / .9rem 100% scroll no-repeat,
  linear-gradient(to left, var(--shade), transparent) right / .9rem 100% scroll no-repeat, var(--under) }
.wide:focus-visible, pre:focus-visible { outline: 2px solid #2b93d6 }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; font-size: .95rem }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line) }
th { font-weight: 600; vertical-align: bottom } .words { text-align: left }
td wbr { display: none }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
:not(.prose) > tbody td:first-child, :not(.prose) > thead th:first-child { position: sticky; left: 0;
  background: var(--ground) }
.prose th, .prose td { text-align: left; white-space: normal; vertical-align: top; min-width: 5rem; max-width: 32rem }
.prose td:first-child, .prose th:first-child { min-width: 0 }
caption { text-align: left; padding: .6rem 0 .3rem; color: var(--faint) }
figure { margin: 1rem 0; break-inside: avoid } figcaption { margin-bottom: .3rem; font-weight: 600 }
.still svg { max-width: 100%; height: auto; overflow: visible }
.key { list-style: none; margin: .2rem 0; padding: 0; display: flex; flex-wrap: wrap; gap: .1rem 1.2rem; font-size: .9rem }
.key svg { vertical-align: middle; flex: none }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .8rem 0; padding: .6rem .8rem;
  background: var(--panel); border-radius: .4rem; font-size: .92rem }
dt { font-weight: 600 } dd { margin: 0 }
details { margin: .6rem 0 } details > :not(summary) { margin-left: 0 }
summary { cursor: pointer } summary h2 { display: inline; font-size: 1.05rem }
.faint, .footing { color: var(--faint) } .footing { font-size: .9rem; margin-top: 2rem }
mark { background: var(--mark); color: inherit }
blockquote { margin: .2rem 0 1rem; padding-left: .8rem; border-left: 3px solid var(--line); white-space: pre-wrap;
  font-family: Georgia, serif }
@media (max-width: 40rem) {
  dl { grid-template-columns: 1fr } dd { margin: 0 0 .3rem }
  th, td { padding: .3rem .45rem } table { font-size: .88rem }
  caption { max-width: calc(100vw - 2rem) }
  /* sentences beside each other would have a word a line: a row becomes a paragraph, each cell behind its head */
  .prose, .prose tbody, .prose tr, .prose td, .prose caption { display: block } .prose thead { display: none }
  .prose tr { border-bottom: 1px solid var(--line); padding: .5rem 0 }
  .prose td { border: 0; padding: .1rem 0; max-width: none }
  .prose td:first-child { font-weight: 600 } td wbr { display: inline }
  .prose td:empty { display: none } .prose td[data-head]::before { content: attr(data-head) ": "; color: var(--faint);
    font-weight: 400 }
  /* a picture made narrower makes its text smaller */
  .still text { font-size: 19px }
  pre:not(:has(code)) { white-space: pre-wrap; overflow-wrap: anywhere }
  :not(.prose) > thead th:first-child { max-width: 9rem; white-space: normal }
  .names > tbody td:first-child { min-width: 7rem; max-width: 9rem; white-space: normal }
}
@media print {
  :root { color-scheme: light; --ground: #fff; --ink: #000; --faint: #444; --line: #bbb; --mark: #ffdd70; --panel: #fff;
    --shade: transparent }
  @page { margin: 12mm }
  html { font-size: 10pt } body { font-size: 1rem; max-width: none; margin: 0; padding: 0 }
  .wide, pre { overflow: visible; background: none }
  table { font-size: 7pt } th, td { white-space: normal; padding: .1rem .25rem }
  tr, dl, blockquote { break-inside: avoid } h2 { break-after: avoid } pre { white-space: pre-wrap }
}`

// ---------------------------------------------------------------------------------------------------------------
// Parts of a page

/** A cell of a table: as HTML, and as a reader sees it. */
export interface Cell {
  readonly html: string
  readonly text: string
}

/** What would read badly over the end of a line: a number and its unit or interval. */
export const together = (text: string): string => text.replace(/(?<=\d) (?=%|±)|(?<=±) (?=\d)/g, "\u00a0")

/** Text of a report. */
const said = (text: string): string => escape(together(text))

/** Whether a column holds words, which begin at the left: none of its cells begins with a number. */
const isWords = (cells: ReadonlyArray<string>): boolean =>
  cells.some((text) => /\p{L}/u.test(text)) && !cells.some((text) => /^[^\p{L}\d]*\d/u.test(text))

/** Long names may be broken between their words. */
const breakable = (html: string): string =>
  html.replace(/<[^>]*>|[^\s<>]{13,}/g, (part) =>
    part.startsWith("<") ? part : part.replace(/(?<=[a-z\d])(?=[A-Z])|(?<=[.@/])(?=[a-z])/g, "<wbr>"))

/** Longest name of a row that stands on one line of a phone. */
const NAME = 14

/** A table in a box that scrolls, of cells that are HTML. */
export const tableOf = ({ caption, head, prose = false, rows }: {
  readonly head: ReadonlyArray<Cell>
  readonly rows: ReadonlyArray<ReadonlyArray<Cell>>
  /** As a reader sees it. */
  readonly caption?: string | undefined
  readonly prose?: boolean
}): string => {
  const words = head.map((_, i) => !prose && i > 0 && isWords(rows.map((cells) => cells[i]?.text ?? "")))
  const row = (cells: ReadonlyArray<Cell>, tag: string) =>
    `<tr>${
      cells.map((cell, i) => {
        // numbers do not wrap on a screen, and may on paper
        const html = prose ? cell.html : cell.html.replaceAll("\u00a0", " ")
        const name = prose && tag === "td" ? head[i]?.text ?? "" : ""
        return `<${tag}${words[i] ? ` class="words"` : ""}${name === "" ? "" : ` data-head="${escape(name)}"`}>` +
          `${i === 0 && tag === "td" ? breakable(html) : html}</${tag}>`
      }).join("")
    }</tr>`
  // a box that scrolls can be reached by keys
  const look = prose ? "prose" : rows.some(([name]) => (name?.text.length ?? 0) > NAME) ? "names" : ""
  return `<div class="wide" tabindex="0"><table${look === "" ? "" : ` class="${look}"`}>` +
    (caption === undefined ? "" : `<caption>${said(caption)}</caption>`) +
    `<thead>${row(head, "th")}</thead><tbody>${rows.map((cells) => row(cells, "td")).join("")}</tbody></table></div>`
}

export const table = ({ caption, head, prose, rows }: Table): string => {
  const cell = (text: string): Cell => ({ text, html: said(text) })
  return tableOf({ caption, prose: prose ?? false, head: head.map(cell), rows: rows.map((cells) => cells.map(cell)) })
}

const spans = (all: ReadonlyArray<Span>): string =>
  all.map(({ look, text }) =>
    look === "mark"
      ? `<mark>${escape(text)}</mark>`
      : look === "faint"
      ? `<span class="faint">${escape(text)}</span>`
      : escape(text)
  ).join("")

const folded = (title: string, body: string): string => `<details><summary>${title}</summary>\n${body}\n</details>`

const block = async (one: Block): Promise<string> => {
  switch (one.is) {
    case "text":
      return `<p>${said(one.text)}</p>`
    case "table":
      return table(one.table)
    case "chart":
      return one.chart.facets.length === 0 ? still(one.chart) : live(one.chart)
    case "terms":
      return `<dl>${
        one.terms.map(([word, meaning]) => `<dt>${said(word)}</dt><dd>${said(meaning)}</dd>`).join("\n")
      }</dl>`
    case "passage":
      return `<p><strong>${escape(one.name)}</strong>${one.note === undefined ? "" : `: ${said(one.note)}`}</p>` +
        `<blockquote>${spans(one.spans)}</blockquote>`
    case "commands":
      return `<pre tabindex="0">${one.commands.map(escape).join("\n")}</pre>`
    case "fold":
      return folded(said(one.title), await blocks(one.blocks))
  }
}

const blocks = async (all: ReadonlyArray<Block>): Promise<string> => (await Promise.all(all.map(block))).join("\n")

const section = async ({ blocks: all, folded: isFolded = false, title }: Section): Promise<string> => {
  const [head, body] = [title === "" ? "" : `<h2>${said(title)}</h2>`, await blocks(all)]
  return isFolded ? folded(head, body) : `${head}\n${body}`
}

/** Whether something in it is explored, and needs scripts. */
const isLive = (all: ReadonlyArray<Block>): boolean =>
  all.some((one) => one.is === "chart" ? one.chart.facets.length > 0 : one.is === "fold" && isLive(one.blocks))

/** What a page holds beside its body. */
export interface PageOptions {
  /** CSS, after that of all pages. Default none. */
  readonly style?: string
  /** JavaScript, run in this order when the body is there. Default none. */
  readonly scripts?: ReadonlyArray<string>
}

/** One page that needs nothing else, from what stands in its body. */
export const page = (title: string, body: string, { scripts = [], style: more = "" }: PageOptions = {}): string =>
  `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(title)}</title>
<style>${style}${more === "" ? "" : `\n${more.replace(/<\/(?=style)/gi, "<\\/")}`}
</style>
</head>
<body>
${body}
${scripts.map((script) => `<script>\n${script.replace(/<(?=\/script|!--)/gi, "\\x3c")}\n</script>\n`).join("")}</body>
</html>
`

/** The whole view as one page. */
export const toHtml = async ({ config, footing, head, sections, title }: View): Promise<string> => {
  const body = [
    `<h1>${said(title)}</h1>`,
    ...head.map((sentence) => `<p class="answer">${said(sentence)}</p>`),
    ...await Promise.all(sections.map(section)),
    ...(config === undefined ? [] : [
      folded("<h2>Configuration</h2>", `<pre tabindex="0">${escape(JSON.stringify(config, undefined, 2))}</pre>`)
    ]),
    ...(footing === "" ? [] : [`<p class="footing">${said(footing)}</p>`])
  ].join("\n")
  return page(`memsinks: ${title}`, body, sections.some((one) => isLive(one.blocks)) ? assets() : {})
}
