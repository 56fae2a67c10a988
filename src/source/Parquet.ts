/** Parquet, a group of rows at a time, and of its columns only those that are asked for. */
import type { AsyncBuffer, FileMetaData, RowGroup } from "hyparquet"
import { isUtf8 } from "node:buffer"
import { closeSync, fstatSync, openSync, readSync } from "node:fs"
import { DataError } from "../Errors.ts"
import { because, type Document, fail, some, type SourceFile, unreadable } from "./Files.ts"
import { documentOf, type Fields } from "./Records.ts"

/** Bytes of a column, decompressed, beyond which a group of rows is read in parts where the file says where they are. */
const PART = 32 << 20

/**
 * A file as the reader wants it. Offsets come out of the file itself: what lies beyond its end is damage, not a reason
 * to ask for memory. Reads at once: of promises that fail together the reader leaves some unhandled.
 */
const bufferOf = (handle: number, byteLength: number): AsyncBuffer => ({
  byteLength,
  slice: (start, end = byteLength) => {
    if (!(start >= 0 && end >= start && end <= byteLength)) {
      throw new Error(`it speaks of bytes ${start} to ${end} and has ${byteLength}`)
    }
    const bytes = new Uint8Array(end - start)
    for (let at = 0; at < bytes.length;) {
      const read = readSync(handle, bytes, at, bytes.length - at, start + at)
      if (read === 0) throw new Error(`it ends at byte ${start + at}: was it changed?`)
      at += read
    }
    return bytes.buffer
  }
})

const parsers = {
  stringFromBytes: (bytes: Uint8Array | undefined): string | undefined => {
    if (bytes === undefined) return undefined
    if (!isUtf8(bytes)) throw new Error("a text is not UTF-8")
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8")
  }
}

/** The columns that fields lie in. A field that no column has is left to be missed in the first row. */
const columnsOf = ({ schema }: FileMetaData, children: ReadonlyArray<string>, fields: Fields): Array<string> => {
  const wanted = [fields.textField, fields.idField, fields.sourceField].filter((field) => field !== undefined)
  const columns = wanted.map((field) => children.includes(field) ? field : field.split(".")[0])
  return [...new Set(columns)].filter((column) => children.includes(column) && schema.length > 0)
}

/** How many parts to read a group of rows in: one, unless it is large and an index says where its pages are. */
const partsOf = (group: RowGroup, columns: ReadonlyArray<string>): number => {
  const chunks = group.columns.flatMap(({ meta_data, offset_index_offset }) =>
    meta_data !== undefined && columns.includes(meta_data.path_in_schema[0])
      ? [{ bytes: Number(meta_data.total_uncompressed_size), hasIndex: offset_index_offset !== undefined }]
      : []
  )
  if (!chunks.every(({ hasIndex }) => hasIndex)) return 1
  return Math.max(1, Math.ceil(chunks.reduce((sum, { bytes }) => sum + bytes, 0) / PART))
}

/** Reads the documents of a Parquet file in the order of its rows. */
export async function* parquetDocuments(
  path: string,
  file: SourceFile,
  fields: Fields
): AsyncGenerator<Array<Document>> {
  const { label } = file
  const [{ parquetMetadataAsync, parquetReadObjects, parquetSchema }, { compressors }] = await Promise.all([
    import("hyparquet"),
    import("hyparquet-compressors")
  ])
  const damaged = (cause: unknown, where = ""): DataError =>
    cause instanceof DataError ? cause : fail(label, `${where}cannot be read as Parquet: ${because(cause)}`, cause)

  let handle: number
  try {
    handle = openSync(path, "r")
  } catch (cause) {
    throw unreadable(label, cause)
  }
  try {
    const buffer = bufferOf(handle, fstatSync(handle).size)
    let metadata: FileMetaData
    let children: ReadonlyArray<string>
    try {
      metadata = await parquetMetadataAsync(buffer)
      children = parquetSchema(metadata).children.map(({ element }) => element.name)
    } catch (cause) {
      throw damaged(cause)
    }
    const columns = columnsOf(metadata, children, fields)
    for (const field of [fields.textField, fields.sourceField]) {
      if (field !== undefined && !columns.some((column) => field === column || field.startsWith(`${column}.`))) {
        throw fail(label, `has no column "${field}"; it has: ${some(children, 20) || "none"}`)
      }
    }
    let before = 0
    for (const group of metadata.row_groups) {
      const rows = Number(group.num_rows)
      const parts = Math.min(partsOf(group, columns), Math.max(1, rows))
      for (let part = 0; part < parts; part++) {
        const rowStart = before + Math.floor(rows * part / parts)
        const rowEnd = before + Math.floor(rows * (part + 1) / parts)
        if (rowEnd === rowStart) continue
        const range = { rowStart, rowEnd, useOffsetIndex: parts > 1 }
        const records = await parquetReadObjects({ file: buffer, metadata, columns, compressors, parsers, ...range })
          .catch((cause: unknown) => {
            throw damaged(cause, `rows ${rowStart + 1} to ${rowEnd}: `)
          })
        if (records.length !== rowEnd - rowStart) {
          throw fail(label, `rows ${rowStart + 1} to ${rowEnd}: only ${records.length} rows are there`)
        }
        yield records.map((record, i) => documentOf(record, fields, file, "row", rowStart + i + 1))
      }
      before += rows
    }
  } finally {
    closeSync(handle)
  }
}
