/**
 * metrics.jsonl: an event a line. A process may die, and a disk may be full, in the middle of one: what is written next
 * begins on a line of its own, and a line that is no event is passed over, and counted.
 */
import { Buffer } from "node:buffer"
import * as fs from "node:fs"
import { fromJsonLine, type TrainEvent } from "../train/TrainEvent.ts"

export const eventsFile = "metrics.jsonl"

/** Longer lines are none of ours; a file may be anything. */
const longest = 1 << 20

/**
 * The lines of a file of text, piece by piece, so that its size does not matter. Throws what the file system says, and
 * for what is no file; a line that is longer than any of ours is cut.
 */
export function* linesOf(file: string): Generator<string> {
  const handle = fs.openSync(file, fs.constants.O_RDONLY | (fs.constants.O_NONBLOCK ?? 0))
  try {
    if (!fs.fstatSync(handle).isFile()) throw new Error("it is not a file")
    const piece = Buffer.alloc(1 << 16)
    let rest = Buffer.alloc(0)
    for (;;) {
      const count = fs.readSync(handle, piece, 0, piece.length, null)
      if (count === 0) break
      let from = 0
      for (let at = piece.indexOf(10); at >= 0 && at < count; at = piece.indexOf(10, from)) {
        yield Buffer.concat([rest, piece.subarray(from, at)]).toString("utf8")
        rest = Buffer.alloc(0)
        from = at + 1
      }
      if (rest.length < longest) rest = Buffer.concat([rest, piece.subarray(from, count)])
    }
    if (rest.length > 0) yield rest.toString("utf8")
  } finally {
    fs.closeSync(handle)
  }
}

/** The events of a file; none where there is no file. `torn`: lines that are not events. Throws where it cannot be read. */
export const readEvents = (file: string): { readonly events: ReadonlyArray<TrainEvent>; readonly torn: number } => {
  const events: Array<TrainEvent> = []
  let torn = 0
  if (!fs.existsSync(file)) return { events, torn }
  for (const line of linesOf(file)) {
    if (line.trim() === "") continue
    const found = fromJsonLine(line)
    events.push(...found)
    if (found.length === 0) torn++
  }
  return { events, torn }
}

/** Appends a line that ends with a newline; on a line of its own, whatever was left there. Throws where it cannot. */
export const appendLine = (file: string, line: string): void => {
  const handle = fs.openSync(file, "a+")
  try {
    const { size } = fs.fstatSync(handle)
    const last = Buffer.alloc(1)
    const isTorn = size > 0 && fs.readSync(handle, last, 0, 1, size - 1) === 1 && last[0] !== 10
    const bytes = Buffer.from(isTorn ? `\n${line}` : line)
    for (let at = 0; at < bytes.length;) at += fs.writeSync(handle, bytes, at, bytes.length - at)
  } finally {
    fs.closeSync(handle)
  }
}
