/** Documents out of records: a line of JSONL, a row of Parquet. */
import { dataError as fail } from "../../Errors.ts"
import { isObject, type Json } from "../../Json.ts"
import { decimal } from "./Decimal.ts"
import { type Document, type SourceFile } from "./Files.ts"

/** Which fields of a record are what. A name with dots also finds what is inside a field: `meta.url`. */
export interface Fields {
  readonly textField: string
  readonly idField: string
  readonly sourceField: string | undefined
  readonly ownerField?: string | undefined
  readonly licenceField?: string | undefined
  /** What a record is whose text is null or not there. */
  readonly onMissingText: "error" | "skip"
  /** Bytes that a line, a value, or a document is at most: it is held as a whole. */
  readonly maxDocumentBytes: number
}

/** What was read and is no document, counted as it is read. */
export interface Tally {
  /** Records whose text is null or not there. */
  missing: number
  /** Documents of nothing but white space. */
  blank: number
}

const at = (record: Json, field: string): unknown => {
  if (Object.hasOwn(record, field)) return record[field]
  const dot = field.indexOf(".")
  const inner = dot > 0 ? at(record, field.slice(0, dot)) : undefined
  return isObject(inner) ? at(inner, field.slice(dot + 1)) : undefined
}

const fieldsOf = (record: Json): string => Object.keys(record).join(", ") || "no fields"

/** The name that a value is, equal for equal ones; undefined where it is none. */
const nameOf = (value: unknown): string | undefined => {
  switch (typeof value) {
    case "string":
      return value
    case "number":
      return decimal(String(value))
    case "bigint":
    case "boolean":
      return String(value)
    default:
      return undefined
  }
}

/** What a message shows of a value: of what may be large, or nested without end, only what it is. */
const excerpt = (value: unknown): string => {
  if (Array.isArray(value)) return "a list"
  if (ArrayBuffer.isView(value)) return "bytes"
  if (isObject(value)) return Object.keys(value).length === 0 ? "{}" : "an object"
  return typeof value === "string" ? JSON.stringify(value.slice(0, 40)) : String(value)
}

/**
 * The document of a record, which is a file's `line` or `row` of a number from 1; undefined where it has no text and
 * such are skipped. Throws a `DataError` where it has no text otherwise, or no field that was asked for as its source,
 * owner or licence; a source of `null` is the file, as where none was asked for, an owner or a licence of `null` or of
 * nothing but white space is none. `exact` gives the record again with all the digits of
 * its numbers, where `record` may have lost some.
 */
export const documentOf = (
  record: unknown,
  { idField, licenceField, onMissingText, ownerField, sourceField, textField }: Fields,
  { label, name }: SourceFile,
  unit: "line" | "row",
  number: number,
  exact: () => unknown = () => record
): Document | undefined => {
  if (!isObject(record)) {
    throw fail(label, `${unit} ${number} must be an object with a field "${textField}", it is ${excerpt(record)}`)
  }
  const text = at(record, textField)
  if (typeof text !== "string") {
    const isMissing = text === undefined || text === null
    if (isMissing && onMissingText === "skip") return undefined
    const problem = text === undefined
      ? `no field "${textField}"; it has: ${fieldsOf(record)}`
      : `a field "${textField}" that is not a string but ${excerpt(text)}; it has: ${fieldsOf(record)}`
    const advice = isMissing
      ? ". To pass over records without text, set onMissingText to skip (--on-missing-text skip)"
      : ""
    throw fail(label, `${unit} ${number} has ${problem}${advice}`)
  }
  const named = (of: Json) => ({
    id: at(of, idField),
    source: sourceField === undefined ? null : at(of, sourceField),
    owner: ownerField === undefined ? null : at(of, ownerField),
    licence: licenceField === undefined ? null : at(of, licenceField)
  })
  let found = named(record)
  if (Object.values(found).some((value) => typeof value === "number")) found = named(exact() as Json)
  const { id, source } = found
  if (source === undefined) {
    throw fail(label, `${unit} ${number} has no field "${sourceField}"; it has: ${fieldsOf(record)}`)
  }
  const told = (value: unknown, field: string | undefined, what: string): string | undefined => {
    if (value === undefined) throw fail(label, `${unit} ${number} has no field "${field}"; it has: ${fieldsOf(record)}`)
    const is = value === null ? "" : nameOf(value)?.trim()
    if (is === undefined) {
      throw fail(label, `${unit} ${number} has a field "${field}" that names no ${what}: ${excerpt(value)}`)
    }
    return is === "" ? undefined : is
  }
  const owner = told(found.owner, ownerField, "owner")
  const licence = told(found.licence, licenceField, "licence")
  const sourceName = source === null ? name : nameOf(source)
  if (sourceName === undefined) {
    throw fail(label, `${unit} ${number} has a field "${sourceField}" that names no source: ${excerpt(source)}`)
  }
  return {
    name: (typeof id === "boolean" ? undefined : nameOf(id)) ?? `${name}:${number}`,
    text,
    source: sourceName,
    ...(owner === undefined ? {} : { owner }),
    ...(licence === undefined ? {} : { licence })
  }
}
