/**
 * A corpus in memory: the documents of a source, all at once, for what must see them all. `Source.ts` reads them.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { statSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { dataError as fail } from "../Errors.ts"
import { stream } from "./Source.ts"
import { missing, notFile } from "./source/Files.ts"
import { notText } from "./source/Utf8.ts"

/** A text that is read from its beginning: attention and windows never cross from one into another. */
export interface Document {
  /** Says where the text came from, in messages and reports. */
  readonly name: string
  readonly text: string
  /** What it belongs to, for identity `source` and mixtures. Default: its name. */
  readonly source?: string
  /** Whose it is, and its licence, where that is known. */
  readonly owner?: string
  readonly licence?: string
}

/** What the default corpus is called: 233 addresses from 1790 to 2018, 10.8 MB, in the public domain (CC0). */
export const DEFAULT_CORPUS = "State of the Union"

/** Its file: JSONL with the fields `id`, `president`, `year`, `party` and `text`, sorted by year. */
export const defaultCorpusFile = fileURLToPath(new URL("./corpora/state-of-the-union.jsonl.gz", import.meta.url))

/**
 * Reads a file that must be UTF-8 text, of `most` bytes at most (default 256 MiB). Fails with a `DataError` that names the
 * byte where it is not.
 */
export const readText = Effect.fnUntraced(function*(path: string, most = 2 ** 28) {
  const fs = yield* FileSystem.FileSystem
  // A pipe that nobody writes to would be waited for without end.
  const { size, type } = yield* fs.stat(path).pipe(Effect.mapError(missing(path)))
  const notIt = type === "File" || type === "Directory" ? undefined : notFile(statSync(path))
  if (notIt !== undefined) return yield* fail(path, notIt)
  if (Number(size) > most) {
    return yield* fail(path, `has ${size} bytes, more than the ${most} that are read of such a file`)
  }
  const bytes = yield* fs.readFile(path).pipe(Effect.mapError(missing(path)))
  const problem = notText(bytes)
  return problem === undefined ? new TextDecoder().decode(bytes) : yield* fail(path, problem)
})

/**
 * Reads the documents of a corpus into memory, in a fixed order, without surrounding white space, blank ones left out:
 * those of the State of the Union addresses, sorted by year, where `path` is undefined, else what `Source.stream` gives
 * for it, with the text in the field `text`, or another, and the name in the field `id` where there are fields. A
 * document's source is its name, or what a field says.
 *
 * Fails with a `DataError` that names the file, and the line, row or byte offset, when something is missing, empty, not
 * UTF-8, not JSON, or damaged.
 */
export const documents = Effect.fnUntraced(function*(
  path: string | undefined,
  fields: {
    readonly textField?: string | undefined
    readonly sourceField?: string | undefined
    readonly ownerField?: string | undefined
    readonly licenceField?: string | undefined
    readonly onMissingText?: "error" | "skip" | undefined
  } = {}
) {
  const found = yield* Stream.runCollect(stream({ path: path ?? defaultCorpusFile, ...fields }))
  return Chunk.toReadonlyArray(found).map(({ source, ...one }): Document =>
    fields.sourceField === undefined || source === undefined ? one : { ...one, source }
  )
})

/** What each source says, its documents one behind the other with a space before each. */
export const bySource = (documents: ReadonlyArray<Document>): ReadonlyMap<string, string> => {
  const texts = new Map<string, string>()
  for (const { name, source = name, text } of documents) texts.set(source, `${texts.get(source) ?? ""} ${text}`)
  return texts
}
