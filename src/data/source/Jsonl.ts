/** JSONL: an object a line. */
import { because, dataError as fail } from "../../Errors.ts"
import { type Document, type SourceFile } from "./Files.ts"
import { linesOf } from "./Lines.ts"
import { documentOf, type Fields } from "./Records.ts"

const NEWLINE = 10

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
  fields: Fields
): AsyncGenerator<Array<Document>> {
  for await (const { before, bytes } of linesOf(pieces, file)) {
    const documents: Array<Document> = []
    let number = before
    for (let start = 0, end = 0; start < bytes.length; start = end + 1) {
      number++
      end = bytes.indexOf(NEWLINE, start)
      if (end < 0) end = bytes.length
      const line = bytes.toString("utf8", start, end)
      if (line.trim() !== "") documents.push(documentOf(parse(line, file, number), fields, file, "line", number))
    }
    yield documents
  }
}
