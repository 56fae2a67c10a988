/** A view for a terminal, in short: the answer, and what there is room for. Pure. */
import { type Paint, painter, type Span as Painted, table, wrap } from "../../src/Terminal.ts"
import type { Block, Span, View } from "./View.ts"

export interface TerminalOptions {
  readonly color: boolean
  /** Characters a line may have. Default 100. */
  readonly width?: number
}

interface Room {
  readonly paint: Paint
  readonly color: boolean
  readonly width: number
}

/** Without colour, brackets stand for the highlight. */
const painted = ({ look, text }: Span, color: boolean): Painted =>
  look === "mark" ? [color ? text : `[${text}]`, "mark"] : look === "faint" ? [text, "dim"] : [text]

const block = (one: Block, room: Room): ReadonlyArray<string> => {
  const { color, paint, width } = room
  switch (one.is) {
    case "text":
      return wrap([[one.text]], width, paint)
    case "table": {
      return [
        ...table(one.table.head, one.table.rows, { width, paint }),
        ...(one.table.caption === undefined ? [] : wrap([[one.table.caption, "dim"]], width, paint)),
        ""
      ]
    }
    case "terms":
      return wrap([[`${one.terms.map((term) => term.join(": ")).join(". ")}.`, "dim"]], width, paint)
    case "passage":
      return [
        "",
        `${paint("bold", one.name)}${one.note === undefined ? "" : `: ${one.note}`}`,
        ...wrap(one.spans.map((span) => painted(span, color)), width - 2, paint).map((line) => `  ${line}`)
      ]
    case "commands":
      return one.commands.map((command) => `  ${command}`)
    case "chart":
    case "fold":
      return []
  }
}

/** What a terminal has room for of a view. */
export const toTerminal = ({ brief, footing, head, title }: View, { color, width = 100 }: TerminalOptions): string => {
  const paint = painter(color)
  const lines = [
    ...wrap([[title, "bold"]], width, paint),
    ...head.flatMap((sentence) => wrap([[sentence]], width, paint)),
    ...brief.flatMap(({ blocks, title }) => {
      const body = blocks.flatMap((one) => block(one, { paint, color, width }))
      return body.length === 0 ? [] : ["", ...(title === "" ? [] : [paint("bold", title)]), ...body]
    }),
    "",
    ...wrap([[footing, "dim"]], width, paint)
  ]
  // one empty line is enough
  return lines.filter((line, i) => line !== "" || lines[i - 1] !== "").join("\n")
}
