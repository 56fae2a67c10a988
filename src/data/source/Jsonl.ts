/** JSONL: an object a line. */
import { because, dataError as fail } from "../../Errors.ts"
import { mayRound, unrounded } from "./Decimal.ts"
import { type Document, type SourceFile } from "./Files.ts"
import { linesOf, tooLong } from "./Lines.ts"
import { documentOf, type Fields, type Tally } from "./Records.ts"

const [NEWLINE, QUOTE, BACKSLASH, COMMA] = [10, 34, 92, 44]

/** Lists and objects inside one another, and values, of a line at most: each takes many times its bytes of memory. */
const MOST = { depth: 1000, values: 4_000_000 }

/** Why a line would not fit in memory as values, if so. A line that is no JSON is told as that later. */
const tooMuch = (bytes: Buffer, start: number, end: number): string | undefined => {
  // Each level takes two bytes.
  if (end - start <= 2 * MOST.depth) return undefined
  let [depth, values] = [0, 0]
  for (let at = start; at < end; at++) {
    const byte = bytes[at]!
    if (byte === QUOTE) {
      for (at = bytes.indexOf(QUOTE, at + 1);; at = bytes.indexOf(QUOTE, at + 1)) {
        if (at < 0 || at >= end) return undefined
        let escapes = 0
        while (bytes[at - 1 - escapes] === BACKSLASH) escapes++
        if (escapes % 2 === 0) break
      }
    } else if (byte === COMMA) {
      values++
    } else if ((byte | 32) === 123) {
      values++
      depth++
    } else if ((byte | 32) === 125) {
      depth--
    } else {
      continue
    }
    if (depth > MOST.depth) return `is nested deeper than ${MOST.depth} levels`
    if (values > MOST.values) return `has more than ${MOST.values} values`
  }
  return undefined
}

const parse = (line: string, { label }: SourceFile, number: number): unknown => {
  try {
    return JSON.parse(line)
  } catch (cause) {
    const hint = number === 1 && /^\s*\[/.test(line)
      ? ". A file that is one JSON array must be made into JSONL, an object a line"
      : ""
    throw fail(label, `line ${number} is not JSON: ${because(cause)}${hint}`, cause)
  }
}

/** The documents of a JSONL file in the order of its lines, out of its bytes. Blank lines are passed over. */
export async function* jsonlDocuments(
  pieces: AsyncIterable<Uint8Array>,
  file: SourceFile,
  fields: Fields,
  tally: Tally
): AsyncGenerator<Array<Document>> {
  for await (const { before, bytes } of linesOf(pieces, file, fields.maxDocumentBytes)) {
    const documents: Array<Document> = []
    let number = before
    for (let start = 0, end = 0; start < bytes.length; start = end + 1) {
      number++
      if (bytes[start] === NEWLINE) {
        end = start
        continue
      }
      end = bytes.indexOf(NEWLINE, start)
      if (end < 0) end = bytes.length
      if (end - start > fields.maxDocumentBytes) throw tooLong(file, number, fields.maxDocumentBytes)
      const problem = tooMuch(bytes, start, end)
      if (problem !== undefined) throw fail(file.label, `line ${number} ${problem}: it is no record of a text`)
      const line = bytes.toString("utf8", start, end)
      if (line.trim() === "") continue
      const exact = () => parse(mayRound(line) ? unrounded(line) : line, file, number)
      const document = documentOf(parse(line, file, number), fields, file, "line", number, exact)
      if (document === undefined) tally.missing++
      else documents.push(document)
    }
    yield documents
  }
}
