/**
 * A folder of results, in Markdown, as a site that needs nothing else: one page, or a page for each. Figures are put into it,
 * links between results lead to their places in it, and links to what is not in it are plain text. Pure.
 */
import { Marked, type Token, type Tokens } from "marked"
import { escape } from "./escape.ts"
import { type Cell, page, tableOf, together } from "./html.ts"

/** A result as it is found. */
export interface Source {
  /** What links call it: its file's name without `.md`. */
  readonly name: string
  readonly markdown: string
  /** What is known of it besides what it says itself. */
  readonly facts?: Facts
}

/** What a result says of itself at its head, each behind its name: `**Seeds.** 5.` */
export const factNames = ["Question", "Verdict", "Date", "Commit", "Seeds", "Cost"] as const
export type Facts = Readonly<Partial<Record<(typeof factNames)[number], string>>>

export interface SiteOptions {
  /** Default `Results`. */
  readonly title?: string
  /** A figure of a result by its path there as a `data:` URL; undefined where there is none. */
  readonly figure?: (of: Source, path: string) => string | undefined
}

/** A file of the site. */
export interface SitePage {
  readonly name: string
  readonly html: string
}

const style = `
.index { list-style: none; padding: 0 } .index li { margin: 0 0 1.1rem; max-width: 52rem }
.index p { margin: .15rem 0 } .index li > a { font-weight: 600; font-size: 1.08rem }
a { color: #1f69a3 } @media (prefers-color-scheme: dark) { a { color: #6db3e8 } }
article { border-top: 1px solid var(--line); margin-top: 3rem; padding-top: 1.5rem }
h2 { font-size: 1.3rem } h3 { font-size: 1.1rem; margin-top: 1.6rem } li { max-width: 52rem }
ul, ol { padding-left: 1.5rem }
code { font-size: .9em; background: var(--panel); padding: 0 .2rem; border-radius: .2rem }
pre code { padding: 0; background: none; font-size: 1em } img { max-width: 100%; height: auto }
.picture { display: block } @media (max-width: 40rem) {
  /* made as narrow as a phone its text would be too small */
  .picture img { max-width: none; width: 36rem } }
.back { font-size: .9rem } @media print { .back { display: none } article { break-before: page } }`

/** Longest cell of a table of numbers; longer ones are sentences, which wrap. */
const SENTENCE = 40

/** As GitHub names the place of a heading. */
const slug = (heading: string): string =>
  heading.toLowerCase().replace(/[^\p{L}\p{N}\s_-]/gu, "").trim().replace(/\s/g, "-")

/** What a reader sees of Markdown. */
const seen = (tokens: ReadonlyArray<Token>): string =>
  tokens.map((token) =>
    "tokens" in token && token.tokens !== undefined ? seen(token.tokens) : (token as Tokens.Text).text
  )
    .join("")

/** Facts in the part above the first section. */
export const factsOf = (markdown: string): Facts => {
  const head = markdown.split(/^## /m, 1)[0]!.replace(/\r/g, "")
  const found = head.matchAll(/\*\*([A-Z][a-z]+)\.\*\*\s+([^]*?)(?=\s+\*\*[A-Z][a-z]+\.\*\*|\n\s*\n|\s*$)/g)
  const all = new Map([...found].map(([, name, text]) => [name!, text!.replace(/\s+/g, " ")]))
  return Object.fromEntries(factNames.flatMap((name) => all.has(name) ? [[name, all.get(name)!]] : []))
}

const titleOf = ({ markdown, name }: Source): string => /^# +(.+?)\s*$/m.exec(markdown)?.[1] ?? name

/** Only what reports fold with is HTML; all else that looks like it is text. */
const folding = (html: string): string => html.replace(/<(?!\/?(?:details|summary|pre)>)/g, "&lt;")

/** Draws results, given where places of them are. */
const drawer = (
  sources: ReadonlyArray<Source>,
  figure: SiteOptions["figure"],
  { depth, page, prefix }: {
    /** Levels that headings go down by. */
    readonly depth: number
    /** The file that a result is in; empty for the one that all are in. */
    readonly page: (name: string) => string
    /** What the ids of a result's headings begin with. */
    readonly prefix: (name: string) => string
  }
) => {
  /** Where a result is, or a heading of it. */
  const place = (name: string, heading: string | undefined): string => {
    const id = heading === undefined ? prefix(name).replace(/\.$/, "") : `${prefix(name)}${heading}`
    return `${encodeURIComponent(page(name))}${id === "" ? "" : `#${encodeURIComponent(id)}`}`
  }
  const names = new Set(sources.map(({ name }) => name))
  return (source: Source) => {
    /** Where a link leads to, within the site or out of it; undefined for what is not there. */
    const target = (href: string): string | undefined => {
      if (/^https?:\/\//i.test(href)) return href
      const [path, heading] = href.split("#", 2) as [string, string | undefined]
      const name = path === "" ? source.name : /^(?:\.\/)?([^/]+)\.md$/.exec(path)?.[1]
      return name !== undefined && names.has(name) ? place(name, heading) : undefined
    }
    const marked = new Marked({
      gfm: true,
      walkTokens: (token) => {
        if (token.type === "text") token["text"] = together(token["text"])
      },
      renderer: {
        heading({ depth: level, tokens }) {
          const h = `h${Math.min(6, level + depth)}`
          const id = escape(`${prefix(source.name)}${slug(seen(tokens))}`)
          return `<${h} id="${id}">${this.parser.parseInline(tokens)}</${h}>\n`
        },
        link({ href, tokens }) {
          const [to, text] = [target(href), this.parser.parseInline(tokens)]
          return to === undefined ? text : `<a href="${escape(to)}">${text}</a>`
        },
        image({ href, text }) {
          const url = figure?.(source, href)
          return url === undefined
            ? escape(text)
            : `<span class="wide picture" tabindex="0"><img src="${escape(url)}" alt="${escape(text)}"></span>`
        },
        html({ text }) {
          return folding(text)
        },
        table({ header, rows }) {
          const cell = ({ tokens }: Tokens.TableCell): Cell => ({
            html: this.parser.parseInline(tokens),
            text: seen(tokens)
          })
          const prose = rows.some((row) => row.slice(1).some((cell) => seen(cell.tokens).length > SENTENCE))
          return `${tableOf({ prose, head: header.map(cell), rows: rows.map((row) => row.map(cell)) })}\n`
        }
      }
    })
    return {
      body: marked.parse(source.markdown, { async: false }),
      inline: (text: string) => marked.parseInline(text, { async: false })
    }
  }
}

type Draw = ReturnType<typeof drawer>

/** What there is, each with its verdict, or else its question. */
const index = (sources: ReadonlyArray<Source>, draw: Draw, href: (name: string) => string): string =>
  `<ul class="index">\n${
    sources.map((source) => {
      const { inline } = draw(source)
      const facts: Facts = { ...source.facts, ...factsOf(source.markdown) }
      const told = facts.Verdict ?? facts.Question
      // sentences become parts of one
      const bare = (text: string) =>
        text.replace(/\.$/, "").replace(/^[A-Z](?=[a-z ])/, (letter) => letter.toLowerCase())
      const ran = [
        facts.Date && bare(facts.Date),
        facts.Commit && `commit ${bare(facts.Commit)}`,
        facts.Seeds && `seeds: ${bare(facts.Seeds)}`,
        facts.Cost && `cost: ${bare(facts.Cost)}`
      ].filter((part) => part !== undefined && part !== "")
      return `<li><a href="${escape(href(source.name))}">${inline(titleOf(source))}</a>` +
        (told === undefined ? "" : `<p>${inline(told)}</p>`) +
        (ran.length === 0 ? "" : `<p class="faint">${ran.map((part) => inline(part!)).join(" · ")}</p>`) + "</li>"
    }).join("\n")
  }\n</ul>`

/** All results on one page. */
export const onePage = (sources: ReadonlyArray<Source>, options: SiteOptions = {}): string => {
  const { title = "Results" } = options
  const draw = drawer(sources, options.figure, {
    depth: 1,
    page: () => "",
    prefix: (name) => `${name}.`
  })
  return page(
    `memsinks: ${title}`,
    [
      `<h1 id="top">${escape(title)}</h1>`,
      index(sources, draw, (name) => `#${encodeURIComponent(name)}`),
      ...sources.map((source) =>
        `<article id="${escape(source.name)}">\n${draw(source).body}<p class="back"><a href="#top">` +
        "All results</a></p>\n</article>"
      )
    ].join("\n"),
    { style }
  )
}

/** A page for each result, and `index.html` that leads to them. */
export const pages = (sources: ReadonlyArray<Source>, options: SiteOptions = {}): ReadonlyArray<SitePage> => {
  const { title = "Results" } = options
  const file = (name: string) => `${name}.html`
  const draw = drawer(sources, options.figure, {
    depth: 0,
    page: file,
    prefix: () => ""
  })
  return [
    {
      name: "index.html",
      html: page(`memsinks: ${title}`,
        `<h1>${escape(title)}</h1>\n${index(sources, draw, (name) => encodeURIComponent(file(name)))}`, { style })
    },
    ...sources.map((source) => ({
      name: file(source.name),
      html: page(
        `memsinks: ${seen(new Marked().lexer(titleOf(source)))}`,
        `<p class="back"><a href="index.html">All results</a></p>\n${draw(source).body}`,
        { style }
      )
    }))
  ]
}
