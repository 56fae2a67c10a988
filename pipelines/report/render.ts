/** Drawings of a view: for a terminal, as Markdown, as one HTML file. */
export { toHtml } from "./html.ts"
export { toMarkdown } from "./markdown.ts"
export { type TerminalOptions, toTerminal } from "./terminal.ts"
