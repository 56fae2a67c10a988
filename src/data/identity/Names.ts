/**
 * What ids are called: the names behind the ids that a model was trained with, which travel with its checkpoints and
 * exports as `sources.parquet`, a row an id:
 *
 *     id              64 bits without a sign; rows rise by it, so one is found without reading the others
 *     name            of the source, the document, or the sequence that the id stands for
 *     documents       that were trained on under it
 *     tokens          of them that an epoch scores, repeats counted
 *     owners          whose its documents are, as the data says, in the order met; a list
 *     licences        that they stand under; a list
 *     nearDuplicates  documents of other sources that are near-duplicates of its own, equal ones counted
 *     nearSources     the other sources with most of them, by name, the 16 largest at most; a list
 *     sinks           units that it lights, each a block of sinks
 *     sharedSinks     those of them that another id lights, too
 *     exposures       tokens of it that training has scored so far; divided by `tokens` they are passes
 *     firstStep       the first step that scored some, from 1 on
 *     lastStep        the last one
 *
 * and in the file's metadata, under `memsinks.identity`, what an id stands for. The first four are always there, the others
 * where they are known. A row is of the last training whose data held its id. A group of rows is decoded when one of its ids
 * is asked for, so millions of sources take little more memory than the file.
 */
import * as Effect from "effect/Effect"
import { type FileMetaData, parquetMetadata, parquetRead, parquetSchema } from "hyparquet"
import { createHash } from "node:crypto"
import { isId, parseId } from "../../Batch.ts"
import { nearer } from "../../Config.ts"
import { because, DataError, dataError } from "../../Errors.ts"
import { identities, type Identity, sourceHash } from "./Identity.ts"
import { columnNames, type NamedId } from "./NamesFile.ts"

export { encodeNames, type NamedId, type NamedIds } from "./NamesFile.ts"

/** The file's name, beside a checkpoint's `tokenizer.json`. */
export const namesFile = "sources.parquet"

/** Ids that are listed at most where they do not stand for sources: with every row or document the list grows. */
export const LISTED = 65_536

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
  /** The same a group of rows at a time. */
  readonly eachGroup: <E, R>(
    use: (rows: ReadonlyArray<NamedId>) => Effect.Effect<void, E, R>
  ) => Effect.Effect<void, DataError | E, R>
  /** The file's bytes, to be written beside another checkpoint. */
  readonly bytes: Uint8Array
}

const required = ["id", "name", "documents", "tokens"] as const

/** What a message shows of a value. */
const shown = (value: unknown): string =>
  typeof value === "string" ? JSON.stringify(value.slice(0, 40)) : Array.isArray(value) ? "a list" : `${value}`

const asId = (value: unknown): bigint | undefined => {
  const id = typeof value === "number" && Number.isSafeInteger(value) ? BigInt(value) : value
  return typeof id === "bigint" && isId(id) ? id : undefined
}

const asAmount = (value: unknown): number | undefined => {
  const amount = typeof value === "bigint" ? Number(value) : value
  return typeof amount === "number" && amount >= 0 && amount < Infinity ? amount : undefined
}

const asText = (value: unknown): string | undefined => typeof value === "string" ? value : undefined

/** A list of texts; one text alone, as others may write it, is a list, too. */
const asTexts = (value: unknown): ReadonlyArray<string> | undefined => {
  const list: unknown = typeof value === "string" ? [value] : value
  return Array.isArray(list) && list.every((one) => typeof one === "string") ? list : undefined
}

const numbers = { expected: "a number, 0 or more", read: asAmount }
const texts = { expected: "a list of texts", read: asTexts }

const RISE = "rows must rise by id, each there once"

/** How the values of a column are read. */
const readers: Readonly<
  Record<keyof NamedId, { readonly expected: string; readonly read: (value: unknown) => unknown }>
> = {
  id: { expected: "a whole number of 64 bits without a sign (UINT_64)", read: asId },
  name: { expected: "a text", read: asText },
  documents: numbers,
  tokens: numbers,
  owners: texts,
  licences: texts,
  nearDuplicates: numbers,
  nearSources: texts,
  sinks: numbers,
  sharedSinks: numbers,
  exposures: numbers,
  firstStep: numbers,
  lastStep: numbers
}

/**
 * Reads what `encodeNames` wrote, of this version or an earlier one. Fails with a DataError that names `path` where it is
 * something else: at once where it has no such columns, and for a value that is none, or an id twice, when its row is read.
 */
export const decodeNames = (bytes: Uint8Array, path: string): Effect.Effect<Names, DataError> =>
  Effect.gen(function*() {
    const damaged = (cause: unknown) => dataError(path, `does not list the ids of a model: ${because(cause)}`, cause)
    const { buffer } = bytes
    const file = buffer instanceof ArrayBuffer && buffer.byteLength === bytes.length
      ? buffer
      : new Uint8Array(bytes).buffer
    const metadata: FileMetaData = yield* Effect.try({ try: () => parquetMetadata(file), catch: damaged })
    const there = yield* Effect.try({
      try: () => parquetSchema(metadata).children.map(({ element }) => element.name),
      catch: damaged
    })
    const missing = required.find((name) => !there.includes(name))
    if (missing !== undefined) return yield* damaged(`it has no column "${missing}"`)
    const kind = metadata.key_value_metadata?.find(({ key }) => key === "memsinks.identity")?.value ?? "source"
    const identity = identities.find((one) => one === kind)
    if (identity === undefined) {
      return yield* damaged(`its ids stand for ${JSON.stringify(kind)}, which nothing here does`)
    }

    const columns = columnNames.filter((name) => there.includes(name))
    const groups = metadata.row_groups.map(({ num_rows: rows }) => Number(rows))
    const count = groups.reduce((sum, rows) => sum + rows, 0)
    const decode = async (group: number): Promise<ReadonlyArray<NamedId>> => {
      const size = groups[group]!
      const rows = Array.from({ length: size }, (): Record<string, unknown> => ({}))
      let found = 0
      const wrong: Array<string> = []
      await parquetRead({
        file,
        metadata: { ...metadata, row_groups: [metadata.row_groups[group]!] },
        columns: [...columns],
        onChunk: ({ columnData, columnName, rowStart }) => {
          // nobody would hear of what is thrown here
          const { expected, read } = readers[columnName as keyof NamedId]
          const isRequired = (required as ReadonlyArray<string>).includes(columnName)
          for (let i = 0; i < columnData.length && rowStart + i < size; i++) {
            const value: unknown = columnData[i]
            const is = read(value)
            if (is !== undefined) rows[rowStart + i]![columnName] = is
            else if (isRequired || (value ?? undefined) !== undefined) {
              wrong.push(
                `row ${rowStart + i + 1} of group ${group + 1}: ${columnName} must be ${expected}, got ${shown(value)}`
              )
              break
            }
          }
          found += columnData.length
        }
      })
      if (wrong.length > 0) throw new Error(wrong[0])
      if (found !== size * columns.length) throw new Error(`the columns of group ${group + 1} have unequally many rows`)
      const all = rows as unknown as ReadonlyArray<NamedId>
      for (let i = 1; i < size; i++) {
        if (all[i]!.id > all[i - 1]!.id) continue
        throw new Error(`row ${i + 1} of group ${group + 1} has the id ${all[i]!.id} behind ${all[i - 1]!.id}: ${RISE}`)
      }
      return all
    }
    let kept: { readonly group: number; readonly rows: ReadonlyArray<NamedId> } | undefined
    const read = (group: number) =>
      Effect.suspend(() => {
        if (kept?.group === group) return Effect.succeed(kept.rows)
        return Effect.tryPromise({
          try: async () => {
            const rows = await decode(group)
            kept = { group, rows }
            return rows
          },
          catch: damaged
        })
      })
    const eachGroup: Names["eachGroup"] = (use) =>
      Effect.gen(function*() {
        let before = -1n
        for (let group = 0; group < groups.length; group++) {
          const rows = yield* read(group)
          if (rows.length > 0 && rows[0]!.id <= before) {
            return yield* damaged(
              `group ${group + 1} of its rows begins with the id ${rows[0]!.id}, behind ${before}: ${RISE}`
            )
          }
          before = rows.at(-1)?.id ?? before
          yield* use(rows)
        }
      })
    const scan = <A>(start: A, use: (value: A, rows: ReadonlyArray<NamedId>) => A) =>
      Effect.suspend(() => {
        let value = start
        return Effect.map(eachGroup((rows) => Effect.sync(() => void (value = use(value, rows)))), () => value)
      })
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
          const rows = yield* read(group)
          let [from, to] = [0, rows.length]
          while (from < to) {
            const at = (from + to) >>> 1
            if (rows[at]!.id < id) from = at + 1
            else to = at
          }
          if (rows[from]?.id === id) return rows[from]
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
      eachGroup,
      each: (use) => scan(undefined, (_, rows) => void rows.forEach(use)),
      nearest: (name) =>
        Effect.suspend(() => {
          const search = nearer(name)
          return Effect.map(scan(undefined, (_, rows) => void rows.forEach((row) => search.offer(row.name))),
            search.best)
        }),
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

/** Whether two files list the same ids by the same names, whatever else they tell of them. */
export const sameIds = (a: Names, b: Names): Effect.Effect<boolean, DataError> =>
  Effect.gen(function*() {
    if (a.identity !== b.identity || a.count !== b.count) return false
    const lines = (names: Names) => {
      const hash = createHash("sha256")
      return Effect.map(names.each(({ id, name }) => void hash.update(JSON.stringify([`${id}`, name]))),
        () => hash.digest("hex"))
    }
    return (yield* lines(a)) === (yield* lines(b))
  })

/** Sources that are looked up one by one. */
const FEW = 256

/**
 * The ids that a model knows sources by, where these do not follow from their names, as those of a model from elsewhere do not. Looks at
 * every id once where there are many sources, or one is not known by its hash.
 */
export const foreignIds = (
  names: Names,
  sources: ReadonlyArray<string>
): Effect.Effect<ReadonlyMap<string, bigint>, DataError> =>
  Effect.gen(function*() {
    const ids = new Map<string, bigint>()
    if (names.identity !== "source") return ids
    const wanted = new Set(sources)
    for (const source of sources.length > FEW ? [] : sources) {
      if ((yield* names.get(sourceHash(source)))?.name === source) wanted.delete(source)
    }
    if (wanted.size > 0) {
      yield* names.each(({ id, name }) => {
        if (wanted.has(name) && sourceHash(name) !== id) ids.set(name, id)
      })
    }
    return ids
  })

/** What an id stands for, in words. */
export const kinds: Readonly<Record<Identity, string>> = {
  row: "a sequence",
  document: "a document",
  source: "a source",
  content: "texts that are equal",
  near: "texts that are nearly equal"
}

/** What an id may be asked for by. */
export type Asked = bigint | string

/**
 * The id that a number (`7`, `0xff`) or a name means, with its name where the model's ids have names; digits that are no
 * id may be a name. Without `names`,
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
    const isNumber = number !== undefined || as === "either" && isWide(`${asked}`)
    // digits are an id where there is one, else a name that is made of them
    if (isNumber && names !== undefined) {
      const found = number === undefined ? undefined : yield* names.get(number)
      if (found !== undefined) return { id: found.id, name: found.name }
      const called = typeof asked === "string" ? yield* names.find(asked) : undefined
      if (called !== undefined) return { id: called.id, name: called.name }
    }
    // what looks like a number is none where it is too large
    if (isNumber && number === undefined) return yield* outOfRange(`${asked}`)
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
      "ask for others, or for sinks off"
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
