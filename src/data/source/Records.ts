/** Documents out of records: a line of JSONL, a row of Parquet. */
import { isObject, type Json } from "../../Json.ts"
import { dataError as fail } from "../../Errors.ts"
import { type Document, type SourceFile } from "./Files.ts"

/** Which fields of a record are what. A name with dots also finds what is inside a field: `meta.url`. */
export interface Fields {
  readonly textField: string
  readonly idField: string
  readonly sourceField: string | undefined
}

const at = (record: Json, field: string): unknown => {
  if (Object.hasOwn(record, field)) return record[field]
  const dot = field.indexOf(".")
  const inner = dot > 0 ? at(record, field.slice(0, dot)) : undefined
  return isObject(inner) ? at(inner, field.slice(dot + 1)) : undefined
}

const fieldsOf = (record: Json): string => Object.keys(record).join(", ") || "no fields"

const isName = (value: unknown): value is string | number | bigint | boolean =>
  ["string", "number", "bigint", "boolean"].includes(typeof value)

/** What a message shows of a value. */
const excerpt = (value: unknown): string => (JSON.stringify(value) ?? String(value)).slice(0, 40)

/**
 * The document of a record, which is a file's `line` or `row` of a number from 1. Throws a `DataError` where it has no
 * text, or no field that was asked for as its source; a source of `null` is the file, as where none was asked for.
 */
export const documentOf = (
  record: unknown,
  { idField, sourceField, textField }: Fields,
  { label, name }: SourceFile,
  unit: "line" | "row",
  number: number
): Document => {
  if (!isObject(record)) {
    throw fail(label, `${unit} ${number} must be an object with a field "${textField}", it is ${excerpt(record)}`)
  }
  const text = at(record, textField)
  if (typeof text !== "string") {
    const problem = text === undefined ? `no field "${textField}"` : `a field "${textField}" that is not a string`
    throw fail(label, `${unit} ${number} has ${problem}; it has: ${fieldsOf(record)}`)
  }
  const id = at(record, idField)
  const source = sourceField === undefined ? null : at(record, sourceField)
  if (source === undefined) {
    throw fail(label, `${unit} ${number} has no field "${sourceField}"; it has: ${fieldsOf(record)}`)
  }
  if (source !== null && !isName(source)) {
    throw fail(label, `${unit} ${number} has a field "${sourceField}" that names no source: ${excerpt(source)}`)
  }
  return {
    name: typeof id === "string" || typeof id === "number" || typeof id === "bigint" ? String(id) : `${name}:${number}`,
    text,
    source: source === null ? name : String(source)
  }
}
