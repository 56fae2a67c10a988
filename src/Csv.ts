/** CSV as RFC 4180 has it: fields with commas between them, in quotation marks where they hold one. */
import * as Either from "effect/Either"

/** A field as it is written. */
export const csvField = (text: string): string => /[",\r\n]/.test(text) ? `"${text.replaceAll("\"", "\"\"")}"` : text

export interface CsvRecord {
  /** Where it begins, from 1 on. */
  readonly line: number
  readonly fields: ReadonlyArray<string>
}

/** The records of CSV (RFC 4180), blank lines left out; a field in quotation marks may go over several lines. */
export const csvRecords = (
  text: string
): Either.Either<ReadonlyArray<CsvRecord>, { readonly line: number; readonly detail: string }> => {
  const records: Array<CsvRecord> = []
  const pattern = /(?:"([^"]*(?:""[^"]*)*)"|([^",\r\n]*))(,|\r?\n|\r|$)/gy
  let [line, begun] = [1, 1]
  let fields: Array<string> = []
  for (;;) {
    const part = pattern.exec(text)
    if (part === null) {
      return Either.left({ line, detail: "has a quotation mark that does not end, or stands within a field" })
    }
    fields.push(part[1] === undefined ? part[2]! : part[1].replaceAll("\"\"", "\""))
    line += part[0].split("\n").length - 1
    if (part[3] === ",") continue
    if (fields.length > 1 || fields[0]!.trim() !== "") records.push({ line: begun, fields })
    if (pattern.lastIndex >= text.length) return Either.right(records)
    fields = []
    begun = line
  }
}
