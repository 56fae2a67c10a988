/**
 * Tables of measurements as Parquet files, which DuckDB, pandas or polars read: columns in memory to a file and back.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import { parquetMetadata, parquetRead, parquetSchema } from "hyparquet"
import { type ColumnSource, parquetWriteBuffer } from "hyparquet-writer"
import * as AtomicFile from "../AtomicFile.ts"
import { dataError } from "../Errors.ts"

/** What a column holds: text in UTF-8, whole numbers of 32 bits, numbers without a sign of 64, float32, float64. */
export const types = {
  text: { type: "BYTE_ARRAY", converted_type: "UTF8" },
  whole: { type: "INT32" },
  unsigned64: { type: "INT64", converted_type: "UINT_64" },
  real: { type: "FLOAT" },
  double: { type: "DOUBLE" }
} as const

export type Type = typeof types[keyof typeof types]

/** A column: one value a row. Ids are bigints. */
export type Column = readonly [name: string, type: Type, data: ColumnSource["data"]]

/**
 * Writes columns of one length as a Parquet file, none of them with nulls. The file gets its name when it is complete and
 * on the disk. Fails with a DataError, `the ${what} cannot be written`.
 */
export const write = Effect.fnUntraced(function*(path: string, what: string, columns: ReadonlyArray<Column>) {
  yield* Effect.gen(function*() {
    const buffer = yield* Effect.try(() =>
      parquetWriteBuffer({
        schema: [
          { name: "root", num_children: columns.length },
          ...columns.map(([name, type]) => ({ name, repetition_type: "REQUIRED" as const, ...type }))
        ],
        // real numbers hardly repeat: a dictionary of them would be larger, and compression in vain
        columnData: columns.map(([name, type, data]) =>
          type === types.real || type === types.double
            ? { name, data, encoding: "PLAIN" as const, codec: "UNCOMPRESSED" as const }
            : { name, data }
        )
      })
    )
    yield* Effect.try(() => AtomicFile.write(path, new Uint8Array(buffer), `${path}.partial`))
  }).pipe(
    Effect.mapError((cause) => dataError(path, `the ${what} cannot be written`, cause))
  )
})

/** What a file holds. */
export interface Table {
  readonly rows: number
  /** Of its columns, in order. */
  readonly names: ReadonlyArray<string>
  /** Copies a column's values into an array of `rows` numbers, which it returns. */
  readonly fill: <A extends Uint32Array | Float32Array>(name: string, into: A) => A
  /** A column's values in some rows, which rise. */
  readonly pick: <A>(name: string, rows: ReadonlyArray<number>) => ReadonlyArray<A>
  /** A column's values, as the file has them. */
  readonly values: (name: string) => ReadonlyArray<unknown>
}

/**
 * Reads all columns of a Parquet file. Fails with a DataError when it cannot be read, or is not a file of `what`: it lacks
 * one of the columns `wanted`.
 */
export const read = Effect.fnUntraced(function*(path: string, what: string, wanted: ReadonlyArray<string>) {
  const fs = yield* FileSystem.FileSystem
  const bytes = yield* fs.readFile(path).pipe(Effect.mapError((cause) => dataError(path, "cannot be read", cause)))
  const columns = new Map<string, Array<{ readonly at: number; readonly data: ArrayLike<unknown> }>>()
  const rows = yield* Effect.tryPromise({
    try: async () => {
      const file = new Uint8Array(bytes).buffer
      const metadata = parquetMetadata(file)
      // a file without rows has columns all the same
      for (const { element } of parquetSchema(metadata).children) columns.set(element.name, [])
      await parquetRead({
        file,
        metadata,
        onChunk: ({ columnData, columnName, rowStart }) =>
          columns.get(columnName)!.push({ at: rowStart, data: columnData })
      })
      for (const [name, chunks] of columns) {
        chunks.sort((a, b) => a.at - b.at)
        const count = chunks.reduce((sum, { data }) => sum + data.length, 0)
        if (count !== Number(metadata.num_rows)) {
          throw new Error(`column "${name}" has ${count} values for ${metadata.num_rows} rows`)
        }
      }
      return Number(metadata.num_rows)
    },
    catch: (cause) => dataError(path, "is not a Parquet file that can be read", cause)
  })
  const missing = wanted.find((name) => !columns.has(name))
  if (missing !== undefined) {
    return yield* dataError(path, `is not a file of ${what}: it has no column "${missing}"`)
  }
  return {
    rows,
    names: [...columns.keys()],
    fill: (name, into) => {
      for (const { at, data } of columns.get(name)!) into.set(data as ArrayLike<number>, at)
      return into
    },
    pick: <A>(name: string, rows: ReadonlyArray<number>) => {
      const chunks = columns.get(name)!
      let chunk = 0
      return rows.map((row) => {
        while (row >= chunks[chunk]!.at + chunks[chunk]!.data.length) chunk++
        return chunks[chunk]!.data[row - chunks[chunk]!.at] as A
      })
    },
    values: (name) => columns.get(name)!.flatMap(({ data }) => Array.from(data))
  } satisfies Table as Table
})
