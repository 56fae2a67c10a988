/**
 * What ids are called: the names behind the ids that a model was trained with, which travel with its checkpoints and
 * exports as `sources.parquet`, a row an id:
 *
 *     id         64 bits without a sign; rows rise by it, so one is found without reading the others
 *     name       of the source, the document, or the sequence that the id stands for
 *     documents  that were trained on under it
 *     tokens     of them that an epoch scores, repeats counted
 *
 * and in the file's metadata, under `memsinks.identity`, what an id stands for. A group of rows is decoded when one of
 * its ids is asked for, so millions of sources take little more memory than their ids.
 */
import * as Effect from "effect/Effect"
import { type FileMetaData, parquetMetadata, parquetReadObjects, parquetSchema } from "hyparquet"
import { parquetWriteBuffer } from "hyparquet-writer"
import { isId, parseId } from "../../Batch.ts"
import { nearest } from "../../Config.ts"
import { because, DataError, dataError } from "../../Errors.ts"
import { identities, type Identity, sourceHash } from "./Identity.ts"

/** The file's name, beside a checkpoint's `tokenizer.json`. */
export const namesFile = "sources.parquet"

/** An id that a model was trained with. */
export interface NamedId {
  readonly id: bigint
  /** Of the source, document or sequence it stands for; of several documents, of the first. */
  readonly name: string
  /** That were trained on under it. */
  readonly documents: number
  /** Tokens of them that an epoch scores, repeats counted. */
  readonly tokens: number
}

/** All ids of a model. */
export interface NamedIds {
  /** What an id stands for. */
  readonly identity: Identity
  readonly ids: ReadonlyArray<NamedId>
}

/** Ids that are listed at most where they do not stand for sources: with every row or document the list grows. */
export const LISTED = 65_536

const GROUP = 16_384

/** As the bytes of a Parquet file; the same for the same ids, in any order. */
export const encodeNames = ({ identity, ids }: NamedIds): Uint8Array => {
  const sorted = [...ids].sort((a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0))
  return new Uint8Array(parquetWriteBuffer({
    schema: [
      { name: "root", num_children: 4 },
      { name: "id", type: "INT64", converted_type: "UINT_64", repetition_type: "REQUIRED" },
      { name: "name", type: "BYTE_ARRAY", converted_type: "UTF8", repetition_type: "REQUIRED" },
      { name: "documents", type: "DOUBLE", repetition_type: "REQUIRED" },
      { name: "tokens", type: "DOUBLE", repetition_type: "REQUIRED" }
    ],
    columnData: [
      { name: "id", data: BigUint64Array.from(sorted, ({ id }) => id) },
      { name: "name", data: sorted.map(({ name }) => name) },
      { name: "documents", data: Float64Array.from(sorted, ({ documents }) => documents) },
      { name: "tokens", data: Float64Array.from(sorted, ({ tokens }) => tokens) }
    ],
    rowGroupSize: GROUP,
    kvMetadata: [{ key: "memsinks.identity", value: identity }]
  }))
}

/** The names of a model's ids, read as they are asked for. */
export interface Names {
  /** What an id stands for. */
  readonly identity: Identity
  /** How many ids there are. */
  readonly count: number
  /** The id of a number, or undefined where the model was not trained with it. */
  readonly get: (id: bigint) => Effect.Effect<NamedId | undefined, DataError>
  /** The id of a name, or undefined. */
  readonly find: (name: string) => Effect.Effect<NamedId | undefined, DataError>
  /** The nearest name that is there, or undefined where none is near. Reads all of them. */
  readonly nearest: (name: string) => Effect.Effect<string | undefined, DataError>
  /** Those with most tokens, largest first: as many as are asked for. Reads all of them. */
  readonly largest: (count: number) => Effect.Effect<ReadonlyArray<NamedId>, DataError>
  /** Hands out all of them, rising by id; a group of rows is in memory at a time. */
  readonly each: (use: (one: NamedId) => void) => Effect.Effect<void, DataError>
  /** The file's bytes, to be written beside another checkpoint. */
  readonly bytes: Uint8Array
}

const columns = ["id", "name", "documents", "tokens"]

/** Reads what `encodeNames` wrote. Fails with a DataError that names `path` where it is something else. */
export const decodeNames = (bytes: Uint8Array, path: string): Effect.Effect<Names, DataError> =>
  Effect.gen(function*() {
    const damaged = (cause: unknown) => dataError(path, `does not list the ids of a model: ${because(cause)}`, cause)
    const file = new Uint8Array(bytes).buffer
    const metadata: FileMetaData = yield* Effect.try({ try: () => parquetMetadata(file), catch: damaged })
    const there = yield* Effect.try({
      try: () => parquetSchema(metadata).children.map(({ element }) => element.name),
      catch: damaged
    })
    const missing = columns.find((name) => !there.includes(name))
    if (missing !== undefined) return yield* damaged(`it has no column "${missing}"`)
    const kind = metadata.key_value_metadata?.find(({ key }) => key === "memsinks.identity")?.value ?? "source"
    const identity = identities.find((one) => one === kind)
    if (identity === undefined) {
      return yield* damaged(`its ids stand for ${JSON.stringify(kind)}, which nothing here does`)
    }

    const groups = metadata.row_groups.map(({ num_rows: rows }) => Number(rows))
    const starts = groups.map((_, i) => groups.slice(0, i).reduce((sum, rows) => sum + rows, 0))
    const count = groups.reduce((sum, rows) => sum + rows, 0)
    let kept: { readonly group: number; readonly rows: ReadonlyArray<NamedId> } | undefined
    const read = (group: number) =>
      Effect.suspend(() => {
        if (kept?.group === group) return Effect.succeed(kept.rows)
        return Effect.tryPromise({
          try: async () => {
            const found = await parquetReadObjects({
              file,
              metadata,
              columns,
              rowStart: starts[group]!,
              rowEnd: starts[group]! + groups[group]!
            })
            const rows = found.map((row): NamedId => {
              const { documents, id, name, tokens } = row
              if (typeof id !== "bigint" || !isId(id) || typeof name !== "string") {
                throw new Error("a row has no id or name")
              }
              return { id, name, documents: Number(documents), tokens: Number(tokens) }
            })
            kept = { group, rows }
            return rows
          },
          catch: damaged
        })
      })
    const scan = <A>(start: A, use: (value: A, rows: ReadonlyArray<NamedId>) => A) =>
      Effect.reduce(groups.map((_, group) => group), start, (value, group) =>
        Effect.map(read(group), (rows) => use(value, rows)))
    /** The group whose first and last id are around an id, by the statistics that the file keeps. */
    const groupOf = (id: bigint): ReadonlyArray<number> =>
      metadata.row_groups.flatMap(({ columns }, group) => {
        const statistics = columns.find(({ meta_data }) => meta_data?.path_in_schema[0] === "id")?.meta_data?.statistics
        const [least, most] = [statistics?.min_value, statistics?.max_value]
        const outside = typeof least === "bigint" && typeof most === "bigint" && least >= 0n && most >= 0n &&
          (id < least || id > most)
        return outside ? [] : [group]
      })
    const get = (id: bigint) =>
      Effect.gen(function*() {
        for (const group of groupOf(id)) {
          const found = (yield* read(group)).find((row) => row.id === id)
          if (found !== undefined) return found
        }
        return undefined
      })
    return {
      identity,
      count,
      bytes,
      get,
      find: (name) =>
        identity === "source"
          // the id follows from the name; a canary may have one of its own
          ? Effect.flatMap(get(sourceHash(name)), (found) =>
            found?.name === name ? Effect.succeed(found) : byName(name))
          : byName(name),
      each: (use) => scan(undefined, (_, rows) => void rows.forEach(use)),
      nearest: (name) =>
        scan<ReadonlyArray<string>>([], (near, rows) => {
          const best = nearest(name, [...near, ...rows.map((row) => row.name)])
          return best === undefined ? near : [best]
        }).pipe(Effect.map((near) => near[0])),
      largest: (most) =>
        scan<ReadonlyArray<NamedId>>([], (top, rows) =>
          [...top, ...rows].sort((a, b) =>
            b.tokens - a.tokens || a.name.localeCompare(b.name)
          ).slice(0, most))
    }
    function byName(name: string) {
      return scan<NamedId | undefined>(undefined, (found, rows) => found ?? rows.find((row) => row.name === name))
    }
  })

const kinds: Readonly<Record<Identity, string>> = {
  row: "a sequence",
  document: "a document",
  source: "a source",
  content: "texts that are equal",
  near: "texts that are nearly equal"
}

/** What an id may be asked for by. */
export type Asked = bigint | string

/**
 * The id that a number (`7`, `0xff`) or a name means, with its name where the model's ids have names. Without `names`,
 * as of models of before there were any, any number is taken, and with `as` "name" the name of a source; no other name.
 *
 * Fails with a DataError for a name or a number that the model was not trained with, which says what is nearest to it,
 * and for a number from 2^64 on.
 */
export const resolveId = (
  asked: Asked,
  names: Names | undefined,
  as: "name" | "either" = "either"
): Effect.Effect<{ readonly id: bigint; readonly name?: string }, DataError> =>
  Effect.gen(function*() {
    const number = typeof asked === "bigint" ? asked : as === "name" ? undefined : parseId(asked)
    if (typeof asked === "bigint" && !isId(asked)) return yield* outOfRange(`${asked}`)
    // what looks like a number is none where it is too large, and never a name
    if (as === "either" && isWide(`${asked}`)) return yield* outOfRange(`${asked}`)
    if (names === undefined) {
      if (number !== undefined) return { id: number }
      const id = sourceHash(`${asked}`)
      if (as === "name") return { id }
      return yield* new DataError({
        detail:
          `the checkpoint does not say what its ids are called, so an id is a whole number, such as 7 or 0xff, got ` +
          `${JSON.stringify(asked)}. As the name of a source it would be 0x${id.toString(16).padStart(16, "0")}`
      })
    }
    if (number !== undefined) {
      const found = yield* names.get(number)
      if (found !== undefined) return { id: number, name: found.name }
      return yield* new DataError({
        detail:
          `the model was not trained with the id ${number}: nobody's sinks would be on. ${yield* known(names)}. ` +
          "For sinks of nobody there is --sinks placebo"
      })
    }
    const name = `${asked}`
    const found = yield* names.find(name)
    if (found !== undefined) return { id: found.id, name }
    const meant = yield* names.nearest(name)
    return yield* new DataError({
      detail: `the model was not trained with ${names.identity === "source" ? "a source" : "an id"} called ` +
        `${JSON.stringify(name)}. ` +
        (meant === undefined ? yield* known(names) : `Did you mean ${JSON.stringify(meant)}?`)
    })
  })

/** The refusal of sinks that were deleted: of an id that a model denies. */
export const deleted = ({ id, name }: Pick<NamedId, "id"> & { readonly name?: string }): DataError =>
  new DataError({
    detail:
      `${
        name === undefined ? `id ${id}` : JSON.stringify(name)
      } was deleted from this model, and its sinks stay off: ` +
      "ask for others, or for none with --sinks off"
  })

/** Whether a text looks like an id but is none of 64 bits. */
export const isWide = (text: string): boolean =>
  parseId(text) === undefined && /^[-+]?(\d+|0x[0-9a-f]+)$/i.test(text.trim())

/** The refusal of such a text. */
export const outOfRange = (text: string) =>
  new DataError({
    detail: `an id is a whole number from 0 to 2^64 - 1, decimal or 0x and hexadecimal digits, got ${text}`
  })

/** What there is, in words, with the largest as examples. */
const known = (names: Names) =>
  Effect.map(names.largest(6), (some) =>
    `It has ${names.count.toLocaleString("en")} ${names.count === 1 ? "id" : "ids"}, each of ${
      kinds[names.identity]
    }, ` +
    `such as ${
      some.slice(0, 5).map(({ id, name }) => `${JSON.stringify(name)} (${id})`).join(", ")
    }` +
    (names.count > 5 ? ", and more" : ""))

/** What a list of ids is, where `splitIds` finds that a text is none. */
export const notIds = (text: string): string =>
  `--ids takes numbers or names, with commas between them (a name with a comma in quotes), e.g. 1,2 or Genesis,Psalms; got ${text}`

/** `1, 0xff, Psalms, "a, b"`: ids and names with commas between them; a name with a comma stands in quotes. */
export const splitIds = (text: string): ReadonlyArray<string> | undefined => {
  const parts: Array<string> = []
  const pattern = /\s*(?:"((?:[^"\\]|\\.)*)"|([^",]+))\s*(,|$)/gy
  while (pattern.lastIndex < text.length) {
    const part = pattern.exec(text)
    if (part === null) return undefined
    const name = part[1] === undefined ? part[2]!.trim() : part[1].replace(/\\(.)/g, "$1")
    if (name === "") return undefined
    parts.push(name)
    if (part[3] === "" || pattern.lastIndex === text.length) return part[3] === "," ? undefined : parts
  }
  return undefined
}
