/** Text files: a document each, or several between lines of `<|endoftext|>`. */
import { dataError as fail } from "../../Errors.ts"
import { type Document, type SourceFile } from "./Files.ts"
import { linesOf, SHORTER } from "./Lines.ts"
import type { Fields } from "./Records.ts"

const END_OF_TEXT = /^<\|endoftext\|>[ \t]*\r?$/m

/** The documents of a text file in their order, out of its bytes. */
export async function* textDocuments(
  pieces: AsyncIterable<Uint8Array>,
  file: SourceFile,
  { maxDocumentBytes }: Pick<Fields, "maxDocumentBytes">
): AsyncGenerator<Array<Document>> {
  let number = 1
  let parts: Array<string> = []
  let length = 0
  const add = (part: string): void => {
    parts.push(part)
    length += Buffer.byteLength(part)
    if (length > maxDocumentBytes) {
      throw fail(file.label, `document ${number} is longer than ${maxDocumentBytes} bytes: ${SHORTER}`)
    }
  }
  const take = (name: string): Document => {
    const text = parts.join("")
    parts = []
    length = 0
    number++
    return { name, text, source: file.name }
  }
  for await (const { bytes } of linesOf(pieces, file, maxDocumentBytes)) {
    const [first, ...rest] = bytes.toString("utf8").split(END_OF_TEXT)
    add(first!)
    const documents: Array<Document> = []
    for (const part of rest) {
      documents.push(take(`${file.name}#${number}`))
      add(part)
    }
    yield documents
  }
  yield [take(number === 1 ? file.name : `${file.name}#${number}`)]
}
