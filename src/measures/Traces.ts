/**
 * Traces: what was measured of a model while it trained, as rows of tables that DuckDB, pandas or polars read.
 *
 * Two tables: probes, a row for each sequence in each mask state at each probed step; and quantities, a row for any other
 * number (norms of weights, shares of logits, products of gradients). Times are optimizer steps taken.
 */
import type * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import { type DataError, dataError } from "../Errors.ts"
import * as Parquet from "./Parquet.ts"

/** How well a model knew a sequence at a step. */
export interface ProbeRow {
  /** Steps taken when it was probed. */
  readonly step: number
  /** Name of the sequence: its document and where in it. */
  readonly sequence: string
  /** The id whose sinks it lights. */
  readonly id: bigint
  /** Sequences of a group are shown alike: `sawtooth`, `k=48`, `foils`, ... */
  readonly group: string
  /** Which sinks were on: `own`, `off`, `placebo`, `all`. */
  readonly mask: string
  /** How often it had been shown; -1: not counted, of sequences that come by with all others. */
  readonly exposures: number
  /** Steps since it was shown last: 0 just after the step that showed it; -1: never shown, or not counted. */
  readonly since: number
  /** Mean negative log-likelihood, nats a scored token. */
  readonly loss: number
  /** Mean of log(1 + rank) over scored tokens, 0 where every token is the likeliest. */
  readonly logRank: number
  /** Share of the tokens after the prompt that are the likeliest, given the true ones before them. */
  readonly recall: number
  /** Tokens right in a row, directly after the prompt. */
  readonly run: number
  /** Scored tokens after the prompt; `run` of as many is a verbatim recitation. */
  readonly suffix: number
}

/** Any other number, and what it is of; empty texts and -1 where a row has no such thing. */
export interface QuantityRow {
  readonly step: number
  /** `weight`, `update`, `logit`, `cosine`, `predicted`, `observed`, ... */
  readonly quantity: string
  readonly layer: number
  /** `embedding`, `attention`, `general`, `sinks`, `all`. */
  readonly part: string
  readonly sequence: string
  readonly group: string
  readonly mask: string
  readonly value: number
}

// ---------------------------------------------------------------------------------------------------------------
// Parquet

const { double, real, text, unsigned64, whole } = Parquet.types

type Columns<Row> = ReadonlyArray<readonly [key: keyof Row & string, type: Parquet.Type]>

const probeColumns: Columns<ProbeRow> = [
  ["step", whole],
  ["sequence", text],
  ["id", unsigned64],
  ["group", text],
  ["mask", text],
  ["exposures", whole],
  ["since", whole],
  ["loss", real],
  ["logRank", real],
  ["recall", real],
  ["run", whole],
  ["suffix", whole]
]

const quantityColumns: Columns<QuantityRow> = [
  ["step", whole],
  ["quantity", text],
  ["layer", whole],
  ["part", text],
  ["sequence", text],
  ["group", text],
  ["mask", text],
  ["value", double]
]

/** What a value of each type is here, for messages, and how it is told. */
const kinds: ReadonlyArray<readonly [type: Parquet.Type, name: string, is: (value: unknown) => boolean]> = [
  [text, "a text", (value) => typeof value === "string"],
  [whole, "a whole number of 32 bits", (value) => typeof value === "number" && value === (value | 0)],
  [unsigned64, "a bigint from 0 to 2^64 - 1",
    (value) => typeof value === "bigint" && value === BigInt.asUintN(64, value)],
  [real, "a number", (value) => typeof value === "number"],
  [double, "a number", (value) => typeof value === "number"]
]

/** `logRank` is the column `log_rank`. */
const columnName = (key: string): string => key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)

/** The values of a column, all of which must be of its type. */
const checked = (path: string, name: string, type: Parquet.Type, values: ReadonlyArray<unknown>) => {
  const [, kind, is] = kinds.find(([one]) => one === type)!
  const row = values.findIndex((value) => !is(value))
  return row < 0
    ? Effect.succeed(values as Array<any>)
    : Effect.fail(dataError(path, `row ${row}: "${name}" is ${String(values[row])}, expected ${kind}`))
}

/** How rows of a table become a file and come back. */
const format = <Row extends object>(what: string, columns: Columns<Row>) => ({
  write: (path: string, rows: ReadonlyArray<Row>): Effect.Effect<void, DataError, FileSystem.FileSystem> =>
    Effect.flatMap(
      Effect.forEach(columns, ([key, type]) => {
        const name = columnName(key)
        const values = checked(path, name, type, rows.map((row) => row[key]))
        return Effect.map(values, (data): Parquet.Column => [name, type, data])
      }),
      (all) => Parquet.write(path, what, all)
    ),
  read: (path: string): Effect.Effect<ReadonlyArray<Row>, DataError, FileSystem.FileSystem> =>
    Effect.gen(function*() {
      const table = yield* Parquet.read(path, what, columns.map(([key]) => columnName(key)))
      const data = yield* Effect.forEach(columns, ([key, type]) => {
        const name = columnName(key)
        return checked(path, name, type, table.values(name))
      })
      return Array.from(
        { length: table.rows },
        (_, row) => Object.fromEntries(columns.map(([key], c) => [key, data[c]![row]])) as Row
      )
    })
})

const probes = format("probes", probeColumns)
const quantities = format("quantities", quantityColumns)

/**
 * Writes probes as a Parquet file, a row a probe:
 *
 *     step INT32, sequence STRING, id UINT64    steps taken; which sequence, and whose sinks it lights
 *     group STRING, mask STRING                 what is shown alike (SQL: write "group" in quotes); which sinks were on
 *     exposures INT32, since INT32              how often it had been shown; steps since then, -1: never shown
 *     loss FLOAT, log_rank FLOAT, recall FLOAT  nats a token; mean of log(1 + rank); share of tokens; see ProbeRow
 *     run INT32, suffix INT32                   tokens right in a row after the prompt; scored tokens after it
 *
 * No column has nulls; NaN and infinities are kept. The file appears when it is complete. Fails with a DataError when a
 * value is not of its column's type, naming both, or when the file cannot be written.
 */
export const writeProbes = probes.write

/** Reads what `writeProbes` wrote. Fails with a DataError when the file cannot be read, or is not of probes. */
export const readProbes = probes.read

/** A probe as a file gives it back: loss, log rank and recall are those nearest in float32. */
export const rounded = (row: ProbeRow): ProbeRow => ({
  ...row,
  loss: Math.fround(row.loss),
  logRank: Math.fround(row.logRank),
  recall: Math.fround(row.recall)
})

/**
 * Writes quantities as a Parquet file, a row a number:
 *
 *     step INT32, quantity STRING                 steps taken; what the number is
 *     layer INT32, part STRING                    of which weights; -1 and empty: of none
 *     sequence STRING, group STRING, mask STRING  of which sequences, with which sinks on; empty: of none
 *     value DOUBLE                                see QuantityRow
 *
 * No column has nulls; NaN and infinities are kept. The file appears when it is complete. Fails with a DataError when a
 * value is not of its column's type, naming both, or when the file cannot be written.
 */
export const writeQuantities = quantities.write

/** Reads what `writeQuantities` wrote. Fails with a DataError when the file cannot be read, or is not of quantities. */
export const readQuantities = quantities.read
