/** Bytes cut between lines: no character and no line is in two pieces, however the file was read. */
import { type DataError, dataError as fail } from "../../Errors.ts"
import { type SourceFile } from "./Files.ts"
import { notText } from "./Utf8.ts"

/** One line or several, each with its end; the last of a file may be without. */
export interface Lines {
  readonly bytes: Buffer
  /** How many lines of the file are before it. */
  readonly before: number
}

const NEWLINE = 10

/** What to do about a document that is too long. */
export const SHORTER =
  "cut it, in a text file by lines of <|endoftext|>, or raise maxDocumentBytes (--max-document) where memory has room"

/** The failure of a line that is too long. */
export const tooLong = ({ label }: Pick<SourceFile, "label">, line: number, longest: number): DataError =>
  fail(label, `line ${line} is longer than ${longest} bytes: ${SHORTER}`)

// byte by byte: a search costs more than a line of a few bytes is long, and a file may be nothing but ends of lines
const count = (bytes: Buffer): number => {
  let lines = 0
  for (let at = 0; at < bytes.length; at++) if (bytes[at] === NEWLINE) lines++
  return lines
}

/**
 * Cuts pieces of a file between lines, without a byte order mark. Throws a `DataError` that names the byte where the
 * file is not UTF-8 text, and the line that is longer than `longest` bytes, the most that a document may be.
 */
export async function* linesOf(
  pieces: AsyncIterable<Uint8Array>,
  { compression, label }: SourceFile,
  longest: number
): AsyncGenerator<Lines> {
  const advice = compression === undefined
    ? "Convert the file to UTF-8"
    : "That is of the decompressed text: convert it to UTF-8, or, if it was damaged on its way, fetch it again"
  let offset = 0
  let before = 0
  let open: Array<Uint8Array> = []
  let openBytes = 0

  const take = (last: Uint8Array): Lines => {
    let bytes = open.length === 0
      ? Buffer.from(last.buffer, last.byteOffset, last.byteLength)
      : Buffer.concat([...open, last])
    open = []
    openBytes = 0
    const problem = notText(bytes, offset, advice)
    if (problem !== undefined) throw fail(label, problem)
    const hasMark = offset === 0 && bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf
    offset += bytes.length
    if (hasMark) bytes = bytes.subarray(3)
    const lines = { bytes, before }
    before += count(bytes)
    return lines
  }

  for await (const piece of pieces) {
    const end = piece.lastIndexOf(NEWLINE) + 1
    if (end > 0) yield take(piece.subarray(0, end))
    const rest = piece.subarray(end)
    if (rest.length === 0) continue
    // What has no line ends is most often no text: found here, before all of it is held.
    if (rest.includes(0)) throw fail(label, notText(rest, offset + openBytes)!)
    open.push(rest)
    openBytes += rest.length
    if (openBytes > longest) throw tooLong({ label }, before + 1, longest)
  }
  if (openBytes > 0) yield take(new Uint8Array(0))
}
