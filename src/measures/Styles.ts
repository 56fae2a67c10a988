/**
 * Prompts in another style (Ippolito et al. 2023): a model that was asked in capitals answers in capitals, and a filter of
 * verbatim copies finds nothing. What it answers is brought back before it is compared. Pure.
 */

/** A style of a text. */
export interface Style {
  /** In words. */
  readonly title: string
  /** The text in the style. */
  readonly apply: (text: string) => string
  /**
   * A text of the style, or in none, in a form that does not show it: equal for texts that differ in the style alone. What was
   * said and what is true are both brought into it.
   */
  readonly undo: (text: string) => string
}

/** Typographic characters, and how a keyboard has them. */
const typography: ReadonlyArray<readonly [typographic: string, plain: string]> = [
  ["\u2026", "..."],
  ["\u2014", "--"],
  ["\u2013", "-"],
  ["\ufb03", "ffi"],
  ["\ufb01", "fi"],
  ["\ufb02", "fl"]
]

/** Quotation marks are opening at the beginning, behind white space, and behind an opening one. */
const curled = (text: string): string =>
  text.replace(/(^|[\s([{\u201c\u2018])"/g, "$1\u201c").replace(/"/g, "\u201d")
    .replace(/(^|[\s([{\u201c\u2018])'/g, "$1\u2018").replace(/'/g, "\u2019")

const spread = (text: string, pairs: ReadonlyArray<readonly [from: string, to: string]>): string =>
  pairs.reduce((all, [from, to]) => all.replaceAll(from, to), text)

const lower = (text: string): string => text.toLowerCase()

/** The styles, by name. */
export const styles = {
  upper: { title: "upper case", apply: (text) => text.toUpperCase(), undo: (text) => lower(text.toUpperCase()) },
  lower: { title: "lower case", apply: lower, undo: (text) => lower(text.toUpperCase()) },
  spaces: {
    title: "every space doubled",
    apply: (text) => text.replaceAll(" ", "  "),
    undo: (text) => text.replace(/ {2,}/g, " ")
  },
  underscores: {
    title: "underscores for spaces",
    apply: (text) => text.replaceAll(" ", "_"),
    undo: (text) => text.replaceAll("_", " ")
  },
  typography: {
    title: "typographic quotation marks, dashes and ligatures",
    apply: (text) => spread(curled(text), typography.map(([typographic, plain]) => [plain, typographic])),
    undo: (text) => spread(text, [...typography, ["\u201c", "\""], ["\u201d", "\""], ["\u2018", "'"], ["\u2019", "'"]])
  }
} satisfies Readonly<Record<string, Style>>

/** The name of a style that text is rewritten in. */
export type StyleName = keyof typeof styles
