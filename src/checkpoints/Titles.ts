/**
 * The map from titles to numbers that a model of sources was trained with, which no one can make anew: a wrong number lights a
 * stranger's sinks, and nothing says so. NULLs keys an article's sinks by its number and the size of the vocabulary, so that no
 * id is that of a token.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Stream from "effect/Stream"
import { isId } from "../Batch.ts"
import { csvRecords } from "../Csv.ts"
import { encodeNames } from "../data/identity/Names.ts"
import * as Source from "../data/Source.ts"
import { because, DataError } from "../Errors.ts"
import { isObject, parseJson } from "../Json.ts"
import { Opaque, unpickle } from "./Pickle.ts"
import { unreadable } from "./Safetensors.ts"

/** Names under which a map lies beside a model. */
export const titleFiles = ["title_to_index.pkl", "title_to_index.json", "title_to_index.csv", "title_to_index.parquet"]

/** What they are called in columns and fields. */
const TITLE = "title"
const INDEX = "index"

/** A file that is read as a whole, at most. */
const MOST = 2 ** 29

/** Throws an Error that says which entry is none. */
const entriesOf = (value: unknown): Iterable<readonly [title: unknown, index: unknown]> => {
  if (value instanceof Map) return value
  if (Array.isArray(value)) {
    return value.map((one: unknown, place) => isObject(one) ? [one[TITLE], one[INDEX]] as const : [one, place] as const)
  }
  if (isObject(value)) return Object.entries(value)
  throw new Error(
    `holds ${value instanceof Opaque ? value.name : typeof value} where a map from titles to numbers was expected`
  )
}

/** A whole number, as it is or in digits. */
const wholeOf = (value: unknown): bigint | undefined =>
  typeof value === "bigint"
    ? value
    : typeof value === "number" && Number.isSafeInteger(value)
    ? BigInt(value)
    : typeof value === "string" && /^\d{1,20}$/.test(value.trim())
    ? BigInt(value.trim())
    : undefined

const ofCsv = (text: string): Iterable<readonly [title: unknown, index: unknown]> => {
  const [head, ...records] = Either.getOrThrowWith(
    csvRecords(text.replace(/^\uFEFF/, "")),
    ({ detail, line }) => new Error(`line ${line} ${detail}`)
  )
  const names = head?.fields.map((name) => name.trim()) ?? []
  const [title, index] = [names.indexOf(TITLE), names.indexOf(INDEX)]
  if (title < 0 || index < 0) {
    throw new Error(`names ${names.join(", ")} in its first line, where ${TITLE} and ${INDEX} were expected`)
  }
  return records.map(({ fields }) => [fields[title], fields[index]] as const)
}

/** Titles and their numbers, in the order of the file. */
const readEntries = (path: string) =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const unread = (cause: unknown) => new DataError({ path, detail: because(cause), cause })
    if (/\.(parquet|jsonl(\.gz|\.zst)?)$/i.test(path)) {
      const found: Array<readonly [title: unknown, index: unknown]> = []
      // the number is what a record is called by
      yield* Stream.runForEach(Source.stream({ path, textField: TITLE, idField: INDEX }),
        (one) => Effect.sync(() => found.push([one.text, one.name])))
      return found
    }
    const { size } = yield* Effect.mapError(fs.stat(path),
      (cause) => new DataError({ path, detail: unreadable(path)(cause).detail, cause }))
    if (Number(size) > MOST) {
      return yield* new DataError({ path,
        detail: `has ${size} bytes, more than the ${MOST} that are read of such a file` })
    }
    const bytes = yield* Effect.mapError(fs.readFile(path), unread)
    return yield* Effect.try({
      try: () => {
        if (/\.(pkl|pickle)$/i.test(path)) return entriesOf(unpickle(bytes))
        const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes)
        if (/\.csv$/i.test(path)) return ofCsv(text)
        const json = parseJson(text)
        if (json._tag === "Left") throw new Error(json.left)
        return entriesOf(json.right)
      },
      catch: unread
    })
  })

/**
 * The manifest of a model out of a file of titles and their numbers, whose ids are `offset` more: a pickled dict (which is not
 * run), JSON (an object, or a list of titles or of `{"title", "index"}`), CSV, JSONL or Parquet with `title` and `index`. Fails with
 * a DataError for what is no such map: a title or a number that is there twice, or is none.
 */
export const readTitles = (
  path: string,
  offset: bigint
): Effect.Effect<Uint8Array, DataError, FileSystem.FileSystem> =>
  Effect.gen(function*() {
    const wrong = (detail: string) => new DataError({ path, detail })
    const byId = new Map<bigint, string>()
    const titles = new Set<string>()
    for (const [title, index] of yield* readEntries(path)) {
      const whole = wholeOf(index)
      const id = whole === undefined || whole < 0n ? undefined : whole + offset
      if (typeof title !== "string" || title === "" || id === undefined || !isId(id)) {
        return yield* wrong(
          `the entry ${JSON.stringify(String(title)).slice(0, 60)}: ${
            String(index).slice(0, 60)
          } is not that of a title ` +
            "and its number"
        )
      }
      const other = byId.get(id)
      if (other !== undefined) {
        return yield* wrong(`gives the number ${whole} to ${JSON.stringify(other)} and to ${JSON.stringify(title)}`)
      }
      if (titles.has(title)) return yield* wrong(`has the title ${JSON.stringify(title)} twice`)
      byId.set(id, title)
      titles.add(title)
    }
    if (byId.size === 0) return yield* wrong("holds no title")
    titles.clear()
    return encodeNames({
      identity: "source",
      // an article is a document; how many tokens it has the map does not say
      ids: Array.from(byId, ([id, name]) => ({ id, name, documents: 1, tokens: 0 }))
    })
  })
