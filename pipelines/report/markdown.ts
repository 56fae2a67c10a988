/** A view as GitHub-flavoured Markdown, without charts; details are folded. Pure. */
import { escape, plain } from "./escape.ts"
import type { Block, Span, Table, View } from "./View.ts"

const table = ({ head, prose = false, rows }: Table): string =>
  [head, head.map((_, i) => i === 0 || prose ? "---" : "---:"), ...rows]
    .map((row, i) => `| ${(i === 1 ? row : row.map(plain)).join(" | ")} |`)
    .join("\n")

/** Emphasis must touch its text: spaces go outside. */
const emphasized = (text: string): string => {
  const [, before, inner, after] = /^(\s*)([\s\S]*?)(\s*)$/.exec(text)!
  return inner === "" ? plain(text) : `${before && " "}**${plain(inner!)}**${after && " "}`
}

const spans = (all: ReadonlyArray<Span>): string =>
  all.map(({ look, text }) => look === "mark" ? emphasized(text) : plain(text)).join("")

const folded = (title: string,
  body: ReadonlyArray<string>): ReadonlyArray<string> => [`<details><summary>${escape(title)}</summary>`, ...body,
  "</details>"]

const block = (one: Block): ReadonlyArray<string> => {
  switch (one.is) {
    case "text":
      return [plain(one.text)]
    case "table":
      return [...(one.table.caption === undefined ? [] : [plain(one.table.caption)]), table(one.table)]
    case "chart":
      return []
    case "terms":
      return [one.terms.map(([word, meaning]) => `- **${plain(word)}**: ${plain(meaning)}`).join("\n")]
    case "passage":
      return [`**${plain(one.name)}**${one.note === undefined ? "" : ` (${plain(one.note)})`}: ${spans(one.spans)}`]
    case "commands":
      return [`<pre>${one.commands.map(escape).join("\n")}</pre>`]
    case "fold":
      return folded(one.title, one.blocks.flatMap(block))
  }
}

/** The whole view. */
export const toMarkdown = ({ config, footing, head, sections, title }: View): string =>
  [
    `# ${plain(title)}`,
    ...head.map(plain),
    ...sections.flatMap(({ blocks, folded: isFolded = false, title }) => {
      const body = blocks.flatMap(block)
      return isFolded ? folded(title, body) : [...(title === "" ? [] : [`## ${plain(title)}`]), ...body]
    }),
    // no fence of backticks: a text in the configuration could end it
    ...(config === undefined
      ? []
      : folded("Configuration", [`<pre>${escape(JSON.stringify(config, undefined, 2))}</pre>`])),
    plain(footing)
  ].join("\n\n") + "\n"
