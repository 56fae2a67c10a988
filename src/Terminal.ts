/**
 * What a terminal shows: whether to colour, whether a line can be rewritten, and text cut and wrapped to its width.
 */
import stringWidth from "string-width"

/** Where lines go: `process.stdout`, `process.stderr`, or a test's own. */
export interface Output {
  readonly isTTY?: boolean
  readonly columns?: number
  readonly rows?: number
  write(text: string): unknown
}

export type Environment = Readonly<Record<string, string | undefined>>

const isSet = (value: string | undefined): boolean => value !== undefined && value !== ""

/** FORCE_COLOR (0 or false: never) beats NO_COLOR, which beats what the output is. */
export const hasColor = (output: Output, env: Environment): boolean => {
  const force = env["FORCE_COLOR"]
  if (force !== undefined) return force !== "0" && force !== "false"
  return !isSet(env["NO_COLOR"]) && output.isTTY === true && env["TERM"] !== "dumb"
}

/** A line may be rewritten: a terminal in front of somebody, not the log of a CI job. */
export const isInteractive = (output: Output, env: Environment): boolean =>
  output.isTTY === true && env["TERM"] !== "dumb" && !isSet(env["CI"])

/** What switches a style on and off; `mark` is black on yellow, to be read on any ground. */
const codes = {
  bold: ["1", "22"],
  dim: ["2", "22"],
  red: ["31", "39"],
  green: ["32", "39"],
  yellow: ["33", "39"],
  blue: ["34", "39"],
  magenta: ["35", "39"],
  cyan: ["36", "39"],
  mark: ["30;43", "39;49"]
} as const

export type Style = keyof typeof codes

/** Wraps text in the escapes of a style, or leaves it as it is. */
export type Paint = (style: Style, text: string) => string

export const painter = (color: boolean): Paint => (style, text) => {
  const [on, off] = codes[style]
  return color && text !== "" ? `\u001b[${on}m${text}\u001b[${off}m` : text
}

/** Text without escapes. */
export const stripAnsi = (text: string): string => text.replace(/\u001b\[[0-9;?]*[A-Za-z]/g, "")

const painted = new Set(Object.values(codes).flat().map((code) => `\u001b[${code}m`))

/**
 * Text that a terminal can only show: control characters, and those that turn the direction of a line, are written out
 * (`\u001b`, which in JSON means the same); line ends, tabs and the escapes of our own styles stay, unless nothing of ours
 * has any.
 */
export const printable = (text: string, styled = true): string =>
  text.replace(
    /\u001b\[[0-9;]{1,8}m|[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g,
    (found) =>
      styled && painted.has(found)
        ? found
        : found.replace(
          /[^\x20-\x7e]/g,
          (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`
        )
  )

/** The same of a name, on one line and without styles of its own: it comes out of data. */
export const oneLine = (name: string): string => printable(stripAnsi(name).replace(/\s+/g, " "))

/** The same without the user and password that a URL in it may carry. */
export const withoutCredentials = (text: string): string =>
  text.replace(/(\b[a-z][a-z0-9+.-]{0,30}:\/\/)[^\s/?#"'<>]{0,1000}@/gi, "$1")

const isAscii = /^[\x20-\x7e]*$/

/** Cells that text takes on a terminal: an ideograph two, a combining mark and an escape none. */
export const cells = (text: string): number => isAscii.test(text) ? text.length : stringWidth(text)

const segmenter = new Intl.Segmenter("en", { granularity: "grapheme" })

/** What is seen as one character each: letters with their marks, emoji of several parts. */
const graphemes = (text: string): ReadonlyArray<string> =>
  isAscii.test(text) ? [...text] : Array.from(segmenter.segment(text), ({ segment }) => segment)

/** A width that a terminal reports: 0 or nothing where it does not know, and then `otherwise`; never below 1. */
export const widthOf = (columns: number | undefined, otherwise = 80, most = 10_000): number => {
  const known = columns !== undefined && columns >= 1 ? Math.floor(columns) : otherwise
  return Math.max(1, Math.min(known, most))
}

/** Cut to `width` cells. */
export const truncate = (text: string, width: number): string => {
  if (cells(text) <= width) return text
  const dots = ".".repeat(Math.max(0, Math.min(3, Math.floor(width || 0))))
  if (!(width > 3)) return dots
  let [kept, room] = ["", width - 3]
  for (const one of graphemes(text)) {
    room -= cells(one)
    if (room < 0) break
    kept += one
  }
  return kept + dots
}

const spaces = (count: number): string => " ".repeat(Math.max(0, count))

/**
 * A line for each row, as wide as its cells, which are on one line each.
 *
 * @param isLeft columns that are flush left; default: the first
 */
export const columns = (
  rows: ReadonlyArray<ReadonlyArray<string>>,
  isLeft: (column: number) => boolean = (column) => column === 0
): ReadonlyArray<string> => {
  const shown = rows.map((row) => row.map((cell) => printable(cell).replace(/[\n\t]+/g, " ")))
  const widths: Array<number> = []
  for (const row of shown) row.forEach((cell, i) => void (widths[i] = Math.max(widths[i] ?? 0, cells(cell))))
  return shown.map((row) =>
    row.map((cell, i) => {
      const padding = spaces(widths[i]! - cells(cell))
      return isLeft(i) ? cell + padding : padding + cell
    }).join("  ").trimEnd()
  )
}

/** Stands for a space that a line is not broken at: those of an interval, and before a percent sign. */
const HARD = "\ue000"

const hardened = (cell: string): string => cell.replace(/\[[^\][]*\]| ± | %/g, (one) => one.replace(/ /g, HARD))

const words = (cell: string): ReadonlyArray<string> => cell.split(" ")

const sum = (numbers: ReadonlyArray<number>): number => numbers.reduce((total, one) => total + one, 0)

/**
 * A table in at most `width` cells: where its columns are wider, what stands in the widest is wrapped at spaces; where that
 * is not enough, columns go below in a table of their own with the first column again. A word that is wider than all of the
 * room is cut over several lines.
 *
 * @param isLeft columns that are flush left; default: the first
 */
export const table = (
  head: ReadonlyArray<string>,
  rows: ReadonlyArray<ReadonlyArray<string>>,
  { isLeft = (column) => column === 0, paint, width }: {
    readonly width: number
    readonly paint: Paint
    readonly isLeft?: (column: number) => boolean
  }
): ReadonlyArray<string> => {
  const shown = [head, ...rows].map((row) =>
    head.map((_, i) => hardened(printable(row[i] ?? "").replace(/[\n\t]+/g, " ")))
  )
  const widest = (i: number, part: (cell: string) => ReadonlyArray<string>): number =>
    shown.reduce((most, row) => Math.max(most, ...part(row[i]!).map(cells)), 1)
  const full = head.map((_, i) => widest(i, (cell) => [cell]))
  const least = head.map((_, i) => Math.min(width, widest(i, words)))
  const GAP = 2
  const taken = (some: ReadonlyArray<number>, widths: ReadonlyArray<number>) =>
    sum(some.map((i) => widths[i]!)) + GAP * (some.length - 1)
  const parts: Array<Array<number>> = [[0]]
  for (let i = 1; i < head.length; i++) {
    const part = parts.at(-1)!
    if (part.length === 1 || taken([...part, i], least) <= width) part.push(i)
    else parts.push([0, i])
  }
  return parts.flatMap((part, p) => {
    const widths = [...full]
    while (taken(part, widths) > width) {
      const byWidth = [...part].sort((a, b) => widths[b]! - widths[a]!)
      const most = byWidth.find((i) => widths[i]! > least[i]!) ?? byWidth[0]!
      if (widths[most] === 1) break
      widths[most]!--
    }
    const lines = shown.flatMap((row, r) => {
      const wrapped = part.map((i) => wrap([[row[i]!]], widths[i]!, (_, text) => text))
      return Array.from({ length: Math.max(1, ...wrapped.map(({ length }) => length)) }, (_, line) => {
        const text = part.map((i, at) => {
          const cell = (wrapped[at]![line] ?? "").replaceAll(HARD, " ")
          const padding = spaces(widths[i]! - cells(cell))
          return isLeft(i) ? cell + padding : padding + cell
        }).join(spaces(GAP)).trimEnd()
        return r === 0 ? paint("bold", text) : text
      })
    })
    return p === 0 ? lines : ["", ...lines]
  })
}

/** Bytes for people: `812 KiB`, `1.2 GiB`; with so many digits behind the point, where they are given. */
export const bytes = (count: number, digits?: number): string => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
  const size = Number.isFinite(count) ? Math.max(0, count) : 0
  let unit = 0
  let amount = size
  // 1023.6 KiB is a MiB
  while (unit < units.length - 1 && Math.round(amount) >= 1024) {
    amount /= 1024
    unit++
  }
  if (digits !== undefined && unit > 0) return `${amount.toFixed(digits)} ${units[unit]}`
  return `${amount < 9.95 && unit > 0 ? amount.toFixed(1) : Math.round(amount)} ${units[unit]}`
}

/** A piece of text and how it looks. */
export type Span = readonly [text: string, style?: Style]

/**
 * Wrap spans at spaces to lines of at most `width` cells; longer words are cut, white space becomes one space. Every line
 * has a character at least, however narrow it is to be.
 */
export const wrap = (spans: ReadonlyArray<Span>, width: number, paint: Paint): ReadonlyArray<string> => {
  const room = widthOf(width, 1)
  const characters = spans.flatMap(([text, style]) =>
    graphemes(text.replace(/[\s\u0000-\u001f\u007f]+/g, " ")).map((character) => [character, style] as const)
  )
  const lines: Array<string> = []
  let from = 0
  while (from < characters.length) {
    let to = from
    for (let taken = 0; to < characters.length; to++) {
      taken += cells(characters[to]![0])
      if (taken > room && to > from) break
    }
    if (to < characters.length) {
      let space = to
      while (space > from && characters[space]![0] !== " ") space--
      if (space > from) to = space
    }
    let line = ""
    for (let i = from; i < to;) {
      const style = characters[i]![1]
      let run = ""
      while (i < to && characters[i]![1] === style) run += characters[i++]![0]
      line += style === undefined ? run : paint(style, run)
    }
    lines.push(line)
    from = to
    if (from < characters.length && characters[from]![0] === " ") from++
  }
  return lines
}

/** Lines at the bottom of a terminal that are rewritten in place. Nothing else may write to that terminal meanwhile. */
export interface Block {
  /** Shows these lines, each narrower than the terminal, where the ones before were. */
  readonly draw: (lines: ReadonlyArray<string>) => void
  /** What is written next comes below the lines, which stay as they are. */
  readonly leave: () => void
}

export const block = (output: Output): Block => {
  let drawn: ReadonlyArray<string> = []
  let size = ""
  const sizeNow = () => `${output.columns} ${output.rows}`
  /** To the start of line `from`, with the rest erased: row by row, as tmux keeps a screen that is erased at once. */
  const erase = (from: number): string => {
    // a terminal that became narrower has wrapped them
    const columns = widthOf(output.columns)
    const up = drawn.slice(from).reduce((sum, line) => sum + Math.max(1, Math.ceil(cells(line) / columns)), -1)
    return up < 0 ? "" : `\r\u001b[K${"\u001b[A\u001b[K".repeat(up)}`
  }
  return {
    draw: (given) => {
      const lines = given.map((line) => printable(line))
      // what did not change stays, or it would flicker
      let from = 0
      const same = size === sizeNow()
      if (same && lines.length === drawn.length && lines.every((line, i) => line === drawn[i])) return
      const most = same ? Math.min(drawn.length, lines.length) - 1 : 0
      while (from < most && drawn[from] === lines[from]) from++
      const text = erase(from) + lines.slice(from).join("\n")
      drawn = lines
      size = sizeNow()
      if (text !== "") output.write(text)
    },
    leave: () => {
      if (drawn.length > 0) output.write("\n")
      drawn = []
    }
  }
}

/** What stands in a table where nothing is known. */
export const NOTHING = "-"

/** A number of things, with commas: `12,345`. */
export const count = (n: number): string => Math.round(n).toLocaleString("en")

/** `1 seed`, `3 seeds`. */
export const plural = (n: number, one: string, many = `${one}s`): string => `${count(n)} ${n === 1 ? one : many}`

/** The most that a buffer may hold: a few bytes less than a round number are told apart from it, `2.00 GiB - 4 B`. */
export const limitBytes = (count: number, show: (count: number) => string = (count) => bytes(count)): string => {
  const less = (1024 - count % 1024) % 1024
  return count > 2 ** 20 && less > 0 && less <= 256 ? `${show(count + less)} - ${less} B` : show(count)
}
