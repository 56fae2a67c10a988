/**
 * `sources.parquet` as it is written: who a model was trained on, a row an id, rising by id. See `Names.ts` for the columns.
 *
 * What a training learns about them as it goes (how often it was trained on each, and when) stands behind the other columns of
 * every group of rows, so that a checkpoint encodes these alone and copies the others.
 */
import type { RowGroup, SchemaElement } from "hyparquet"
import { ByteWriter, type ColumnSource, ParquetWriter } from "hyparquet-writer"
import { type Batch, IGNORE } from "../../Batch.ts"
import type { Identity } from "./Identity.ts"

/** An id that a model was trained with. */
export interface NamedId {
  readonly id: bigint
  /** Of the source, document or sequence it stands for; of several documents, of the first. */
  readonly name: string
  /** That were trained on under it. */
  readonly documents: number
  /** Tokens of them that an epoch scores, repeats counted. */
  readonly tokens: number
  /** Whose they are, and under which licences; absent where the data does not say. */
  readonly owners?: ReadonlyArray<string>
  readonly licences?: ReadonlyArray<string>
  /** Documents of other sources that are near-duplicates of its own, and who has most of them; absent where nobody looked. */
  readonly nearDuplicates?: number
  readonly nearSources?: ReadonlyArray<string>
  /** Units that it lights, and those of them that others light, too. */
  readonly sinks?: number
  readonly sharedSinks?: number
  /** Tokens of it that were scored in training so far; absent where nobody counted. */
  readonly exposures?: number
  /** The steps, from 1 on, that scored the first and the last of them; absent where none has. */
  readonly firstStep?: number
  readonly lastStep?: number
}

/** All ids of a model. */
export interface NamedIds {
  /** What an id stands for. */
  readonly identity: Identity
  readonly ids: ReadonlyArray<NamedId>
}

/** Rows of a group: what is decoded at once. */
const GROUP = 16_384

type Rows = ReadonlyArray<NamedId>

interface Column {
  readonly name: keyof NamedId
  readonly schema: ReadonlyArray<SchemaElement>
  readonly data: (rows: Rows) => ColumnSource["data"]
}

const amount = (name: keyof NamedId, repetition_type: "REQUIRED" | "OPTIONAL"): Column => ({
  name,
  schema: [{ name, type: "DOUBLE", repetition_type }],
  data: (rows) =>
    repetition_type === "REQUIRED"
      ? Float64Array.from(rows, (row) => row[name] as number)
      : rows.map((row) => row[name] ?? null)
})

const texts = (name: keyof NamedId): Column => ({
  name,
  schema: [
    { name, converted_type: "LIST", repetition_type: "OPTIONAL", num_children: 1 },
    { name: "list", repetition_type: "REPEATED", num_children: 1 },
    { name: "element", type: "BYTE_ARRAY", converted_type: "UTF8", repetition_type: "REQUIRED" }
  ],
  data: (rows) => rows.map((row) => row[name] ?? null)
})

/** What every file has. */
const always: ReadonlyArray<Column> = [
  {
    name: "id",
    schema: [{ name: "id", type: "INT64", converted_type: "UINT_64", repetition_type: "REQUIRED" }],
    data: (rows) => BigUint64Array.from(rows, ({ id }) => id)
  },
  {
    name: "name",
    schema: [{ name: "name", type: "BYTE_ARRAY", converted_type: "UTF8", repetition_type: "REQUIRED" }],
    data: (rows) => rows.map(({ name }) => name)
  },
  amount("documents", "REQUIRED"),
  amount("tokens", "REQUIRED")
]

/** What a file has where it is known of one of its ids. */
const known: ReadonlyArray<Column> = [
  texts("owners"),
  texts("licences"),
  amount("nearDuplicates", "OPTIONAL"),
  texts("nearSources"),
  amount("sinks", "OPTIONAL"),
  amount("sharedSinks", "OPTIONAL")
]

/** What a training counts. */
const counted: ReadonlyArray<Column> = [
  amount("exposures", "OPTIONAL"),
  amount("firstStep", "OPTIONAL"),
  amount("lastStep", "OPTIONAL")
]

/** Every column that there may be, in their order. */
export const columnNames: ReadonlyArray<keyof NamedId> = [...always, ...known, ...counted].map(({ name }) => name)

/** Bytes in pieces, of which only the last one is still written to. */
class Pieces extends ByteWriter {
  readonly pieces: Array<Uint8Array> = []
  flush(): void {
    this.pieces.push(this.getBytes().slice())
    this.index = 0
  }
  override finish(): void {
    this.flush()
  }
}

/** A part of the columns of a group of rows: its bytes, and where in them which column is, counted from `at`. */
interface Part {
  readonly bytes: Uint8Array
  readonly at: number
  readonly group: RowGroup
}

const schemaOf = (columns: ReadonlyArray<Column>): Array<SchemaElement> => [
  { name: "root", num_children: columns.length },
  ...columns.flatMap(({ schema }) => schema)
]

/** Encodes columns, a group of rows at a time. */
const partsOf = (columns: ReadonlyArray<Column>, groups: Iterable<Rows>): ReadonlyArray<Part> => {
  const writer = new Pieces(1 << 20)
  const parquet = new ParquetWriter({ writer, schema: schemaOf(columns) })
  // what is written first is the mark of the format, not of a group
  writer.flush()
  const parts: Array<Part> = []
  for (const rows of groups) {
    const at = writer.offset
    parquet.write({
      columnData: columns.map(({ data, name }) => ({ name, data: data(rows), offsetIndex: false })),
      rowGroupSize: rows.length
    })
    parts.push({ bytes: writer.pieces.at(-1)!, at, group: parquet.row_groups.at(-1)! })
  }
  return parts
}

const moved = (group: RowGroup, by: number): RowGroup["columns"] =>
  group.columns.map(({ file_offset, meta_data, ...column }) => {
    const to = (offset: bigint) => offset + BigInt(by)
    const { data_page_offset, dictionary_page_offset, ...rest } = meta_data!
    return {
      ...column,
      file_offset: to(file_offset),
      meta_data: {
        ...rest,
        data_page_offset: to(data_page_offset),
        ...(dictionary_page_offset === undefined ? {} : { dictionary_page_offset: to(dictionary_page_offset) })
      }
    }
  })

const sum = (values: Iterable<bigint | undefined>): bigint => {
  let total = 0n
  for (const value of values) total += value ?? 0n
  return total
}

/** A file of parts of the same groups of rows, side by side. */
const fileOf = (
  identity: string,
  columns: ReadonlyArray<Column>,
  sides: ReadonlyArray<ReadonlyArray<Part>>
): Uint8Array => {
  const writer = new Pieces()
  const parquet = new ParquetWriter({
    writer,
    schema: schemaOf(columns),
    kvMetadata: [{ key: "memsinks.identity", value: identity }]
  })
  writer.flush()
  parquet.row_groups = (sides[0] ?? []).map(({ group: { num_rows } }, g) => {
    const parts = sides.map((side) => side[g]!)
    const columns = parts.flatMap(({ at, bytes, group }) => {
      const found = moved(group, writer.offset - at)
      writer.pieces.push(bytes)
      writer.offset += bytes.length
      return found
    })
    return {
      columns,
      num_rows,
      total_byte_size: sum(parts.map(({ group }) => group.total_byte_size)),
      total_compressed_size: sum(parts.map(({ group }) => group.total_compressed_size))
    }
  })
  parquet.num_rows = sum(parquet.row_groups.map(({ num_rows }) => num_rows))
  void parquet.finish()
  const bytes = new Uint8Array(writer.offset)
  let at = 0
  for (const piece of writer.pieces) {
    bytes.set(piece, at)
    at += piece.length
  }
  return bytes
}

const groupsOf = function*<A>(rows: ReadonlyArray<A>): Generator<ReadonlyArray<A>> {
  for (let at = 0; at < rows.length; at += GROUP) yield rows.slice(at, at + GROUP)
}

/** By rising id. Numbers are compared, which is faster; those that are rounded to the same by all of their digits. */
const rising = (ids: Rows): Rows => {
  const rounded = Float64Array.from(ids, ({ id }) => Number(id))
  const order = Uint32Array.from(ids.keys()).sort((a, b) =>
    rounded[a]! - rounded[b]! || (ids[a]!.id < ids[b]!.id ? -1 : ids[a]!.id > ids[b]!.id ? 1 : 0)
  )
  return Array.from(order, (at) => ids[at]!)
}

/** Where an id of two words stands among rising ones; -1 where it does not. */
const placeOf = (words: Uint32Array, low: number, high: number): number => {
  let [from, to] = [0, words.length / 2 - 1]
  while (from <= to) {
    const at = (from + to) >>> 1
    const [l, h] = [words[2 * at]!, words[2 * at + 1]!]
    if (h === high && l === low) return at
    if (h < high || (h === high && l < low)) from = at + 1
    else to = at - 1
  }
  return -1
}

type Counted = Pick<NamedId, "id" | "exposures" | "firstStep" | "lastStep">

/** How often a training has trained on each id, and when: as far as it has gone. */
export interface Tally {
  /** Counts what a batch has of each id. `step` counts from 1. */
  readonly add: (batch: Pick<Batch, "ids" | "targets">, step: number) => void
  /** Goes on from what a checkpoint of this training tells of an id; undefined: it tells nothing of any. */
  readonly restore: (one: Counted | undefined) => void
  /** The bytes of `sources.parquet` as it is now. */
  readonly encode: () => Uint8Array
}

/**
 * Begins to count, at what the ids themselves tell; where they tell nothing, nothing is told of them later, either.
 *
 * Takes 24 bytes an id besides the bytes of the other columns.
 */
export const tallyOf = ({ identity, ids }: NamedIds): Tally => {
  const rows = rising(ids)
  const columns = [...always, ...known.filter(({ name }) => rows.some((row) => row[name] !== undefined))]
  const fixed = partsOf(columns, groupsOf(rows))
  const all = BigUint64Array.from(rows, ({ id }) => id)
  const words = new Uint32Array(all.buffer)
  const exposures = new Float64Array(rows.length)
  const first = new Uint32Array(rows.length)
  const last = new Uint32Array(rows.length)
  const set = (at: number, { exposures: times, firstStep, lastStep }: Counted) => {
    exposures[at] = times ?? NaN
    first[at] = firstStep ?? 0
    last[at] = lastStep ?? 0
  }
  rows.forEach((row, at) => set(at, row))
  const some = function*(): Generator<Rows> {
    for (let from = 0; from < all.length; from += GROUP) {
      yield Array.from(all.subarray(from, from + GROUP), (id, i): NamedId => {
        const at = from + i
        const unknown = Number.isNaN(exposures[at])
        return {
          id,
          name: "",
          documents: 0,
          tokens: 0,
          ...(unknown ? {} : { exposures: exposures[at]! }),
          ...(unknown || first[at] === 0 ? {} : { firstStep: first[at]!, lastStep: last[at]! })
        }
      })
    }
  }
  return {
    add: ({ ids, targets }, step) => {
      const of = new Uint32Array(ids.buffer, ids.byteOffset, 2 * ids.length)
      for (let from = 0, to: number; from < targets.length; from = to) {
        const [low, high] = [of[2 * from]!, of[2 * from + 1]!]
        let scored = 0
        for (to = from; to < targets.length && of[2 * to] === low && of[2 * to + 1] === high; to++) {
          if (targets[to] !== IGNORE) scored++
        }
        const at = scored === 0 ? -1 : placeOf(words, low, high)
        if (at < 0) continue
        exposures[at]! += scored
        if (first[at] === 0) first[at] = step
        last[at] = step
      }
    },
    restore: (one) => {
      if (one === undefined) return void exposures.fill(NaN)
      const at = placeOf(words, Number(one.id & 0xffffffffn), Number(one.id >> 32n))
      if (at >= 0) set(at, one)
    },
    encode: () =>
      exposures.every(Number.isNaN)
        ? fileOf(identity, columns, [fixed])
        : fileOf(identity, [...columns, ...counted], [fixed, partsOf(counted, some())])
  }
}

/** As the bytes of a Parquet file; the same for the same ids, in any order. */
export const encodeNames = (named: NamedIds): Uint8Array => tallyOf(named).encode()
