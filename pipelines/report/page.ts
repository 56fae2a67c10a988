/**
 * What renderings are made of: tables for a terminal, for Markdown and for HTML, and a page of HTML that needs nothing
 * else: no fonts, no network, and no scripts but those that are put into it.
 */
import * as Terminal from "../../src/Terminal.ts"

export interface Table {
  /** The first head is empty or names the rows. */
  readonly head: ReadonlyArray<string>
  readonly rows: ReadonlyArray<ReadonlyArray<string>>
  /** Above it, where there are several. */
  readonly caption?: string
  /** Cells are sentences: flush left and wrapped. Default false: all but the first column are numbers. */
  readonly prose?: boolean
}

// ---------------------------------------------------------------------------------------------------------------
// Terminal

/** A line for the head and for each row, the first column flush left, numbers flush right. */
export const columns = ({ head, rows }: Table): ReadonlyArray<string> => Terminal.columns([head, ...rows])

// ---------------------------------------------------------------------------------------------------------------
// Markdown

/** Text as it is, on one line: nothing in it is taken for Markdown or HTML. */
export const plain = (text: string): string => text.replace(/[\\|*_`<>[\]]/g, "\\$&").replace(/\s+/g, " ")

export const markdownTable = ({ head, prose = false, rows }: Table): string =>
  [head, head.map((_, i) => i === 0 || prose ? "---" : "---:"), ...rows]
    .map((row, i) => `| ${(i === 1 ? row : row.map(plain)).join(" | ")} |`)
    .join("\n")

// ---------------------------------------------------------------------------------------------------------------
// HTML

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
.prose th, .prose td { text-align: left; white-space: normal; vertical-align: top }
caption { text-align: left; padding: .6rem 0; color: var(--faint) }
figure { margin: 1rem 0 } figcaption { margin-bottom: .3rem; color: var(--faint) }
summary { cursor: pointer } summary h2 { display: inline }
.faint { color: var(--faint) } small.faint { display: block; margin: .6rem 0 }
mark { background: var(--mark); color: inherit }
blockquote { margin: .2rem 0 1.2rem; white-space: pre-wrap; font-family: Georgia, serif }
svg { max-width: 100%; height: auto; overflow: visible }
pre { overflow-x: auto; font-size: .85rem }`

export const table = ({ caption, head, prose = false, rows }: Table): string => {
  const row = (cells: ReadonlyArray<string>, tag: string) =>
    `<tr>${cells.map((text) => `<${tag}>${escape(text)}</${tag}>`).join("")}</tr>`
  return `<div class="wide"><table${prose ? ` class="prose"` : ""}>` +
    (caption === undefined ? "" : `<caption>${escape(caption)}</caption>`) +
    `<thead>${row(head, "th")}</thead><tbody>${rows.map((cells) => row(cells, "td")).join("")}</tbody></table></div>`
}

/** A chart that is one picture to those who cannot see it, named by its title. */
export const figure = ({ svg, title }: { readonly title: string; readonly svg: string }): string =>
  `<figure><figcaption>${escape(title)}</figcaption><div role="img" aria-label="${escape(title)}">${svg}</div></figure>`

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
