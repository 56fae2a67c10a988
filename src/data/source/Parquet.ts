/** Parquet, a page at a time, and of its columns only those that are asked for. */
import type { DecodedArray, FileMetaData, SchemaTree } from "hyparquet"
import { closeSync, fstatSync, readSync } from "node:fs"
import { because, DataError, dataError as fail } from "../../Errors.ts"
import { type Document, openFile, some, type SourceFile } from "./Files.ts"
import type { ReadBytes } from "./ParquetPages.ts"
import { documentOf, type Fields, type Tally } from "./Records.ts"
import { loadZstd } from "./Zstd.ts"

/**
 * Offsets come out of the file itself: what lies beyond its end is damage, not a reason to ask for memory. Reads at
 * once: of promises that fail together the decoder leaves some unhandled.
 */
const bytesOf = (handle: number, size: number): ReadBytes => (start, end) => {
  if (!(start >= 0 && end >= start && end <= size)) {
    throw new Error(`it speaks of bytes ${start} to ${end} and has ${size}: the file is damaged`)
  }
  const bytes = new Uint8Array(end - start)
  for (let at = 0; at < bytes.length;) {
    const read = readSync(handle, bytes, at, bytes.length - at, start + at)
    if (read === 0) throw new Error(`it ends at byte ${start + at}: was it changed?`)
    at += read
  }
  return bytes
}

/** The columns that fields lie in: `a.b` in `b`'s or, where there is none of that name, in `a`. */
const columnsOf = (children: ReadonlyArray<SchemaTree>, fields: Fields): ReadonlyArray<SchemaTree> => {
  const find = (name: string) => children.find(({ element }) => element.name === name)
  const { idField, licenceField, ownerField, sourceField, textField } = fields
  const wanted = [textField, idField, sourceField, ownerField, licenceField].flatMap((field) =>
    field === undefined ? [] : find(field) ?? find(field.split(".")[0]!) ?? []
  )
  return [...new Set(wanted)]
}

const isFlat = ({ children, element }: SchemaTree): boolean =>
  children.length === 0 && element.repetition_type !== "REPEATED"

/** Values of a column, the next of which is at a place in what was read. */
interface Cursor {
  readonly name: string
  readonly pages: Iterator<DecodedArray>
  page: DecodedArray
  at: number
}

/** Reads the documents of a Parquet file in the order of its rows. */
export async function* parquetDocuments(
  path: string,
  file: SourceFile,
  fields: Fields,
  tally: Tally
): AsyncGenerator<Array<Document>> {
  const { label } = file
  const { parquetMetadataAsync, parquetReadObjects, parquetSchema } = await import("hyparquet")
  const { compressors: known } = await import("hyparquet-compressors")
  const { checkingDecompressors, checkPages, isDecimal, pagesOf, parsersFor } = await import("./ParquetPages.ts")
  await loadZstd()
  const compressors = { ...known, ...checkingDecompressors }
  const parsers = parsersFor(fields.maxDocumentBytes)

  const handle = openFile(path, label)
  let before = 0
  const damaged = (cause: unknown, where: string): DataError =>
    cause instanceof DataError ? cause : fail(label, `${where}cannot be read as Parquet: ${because(cause)}`, cause)
  try {
    const { size } = fstatSync(handle)
    const read = bytesOf(handle, size)
    const buffer = { byteLength: size, slice: (start: number, end = size) => read(start, end).buffer }
    let metadata: FileMetaData
    let tree: SchemaTree
    try {
      metadata = await parquetMetadataAsync(buffer)
      tree = parquetSchema(metadata)
    } catch (cause) {
      throw damaged(cause, "")
    }
    const hasDecimal = (one: SchemaTree): boolean => isDecimal(one.element) || one.children.some(hasDecimal)
    const columns = columnsOf(tree.children, fields)
    const names = tree.children.map(({ element }) => element.name)
    const isThere = (field: string): boolean =>
      columns.some(({ element: { name } }) => field === name || field.startsWith(`${name}.`))
    for (const field of [fields.textField, fields.sourceField, fields.ownerField, fields.licenceField]) {
      if (field !== undefined && !isThere(field)) {
        throw fail(label, `has no column "${field}"; it has: ${some(names, 20) || "none"}`)
      }
    }

    for (const { children, element } of columns) {
      if (children.some(hasDecimal) || (element.repetition_type === "REPEATED" && isDecimal(element))) {
        throw fail(label, `the column "${element.name}" has decimals inside: they are read as columns of their own`)
      }
    }

    /** Columns inside others are decoded for a group of rows at once: they are rare, and small. */
    const nested = function*(name: string, records: ReadonlyArray<Record<string, unknown>>): Generator<DecodedArray> {
      yield records.map((record) => record[name])
    }
    for (const group of metadata.row_groups) {
      const rows = Number(group.num_rows)
      const cursors: Array<Cursor> = []
      let row = 0
      try {
        for (const column of columns) {
          const { name } = column.element
          const chunk = group.columns.find(({ meta_data }) => meta_data?.path_in_schema[0] === name)?.meta_data
          if (chunk === undefined) throw new Error(`a group of rows has no column "${name}"`)
          if (!isFlat(column)) {
            for (const { meta_data } of group.columns) {
              if (meta_data?.path_in_schema[0] === name) checkPages(read, meta_data)
            }
          }
          const pages = isFlat(column)
            ? pagesOf(read, chunk, [tree, column], rows, compressors, parsers)
            : nested(
              name,
              await parquetReadObjects({
                file: buffer,
                metadata,
                columns: [name],
                compressors,
                parsers,
                rowStart: before,
                rowEnd: before + rows
              })
            )
          cursors.push({ name, pages, page: [], at: 0 })
        }
        while (row < rows) {
          let count = rows - row
          for (const cursor of cursors) {
            if (cursor.at === cursor.page.length) {
              cursor.page = cursor.pages.next().value ?? []
              cursor.at = 0
              if (cursor.page.length === 0) throw new Error(`the column "${cursor.name}" has ${row} of ${rows} rows`)
            }
            count = Math.min(count, cursor.page.length - cursor.at)
          }
          const documents: Array<Document> = []
          for (let i = 0; i < count; i++) {
            const record = Object.fromEntries(cursors.map(({ at, name, page }) => [name, page[at + i] ?? null]))
            const document = documentOf(record, fields, file, "row", before + row + i + 1)
            if (document === undefined) tally.missing++
            else documents.push(document)
          }
          for (const cursor of cursors) cursor.at += count
          row += count
          yield documents
        }
      } catch (cause) {
        throw damaged(cause, `row ${before + row + 1}: `)
      }
      before += rows
    }
  } finally {
    closeSync(handle)
  }
}
