/**
 * Documents as a stream: out of files, folders and datasets of the Hugging Face Hub that need not fit in memory, in an
 * order that is the same everywhere.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { decodeConfig } from "../Config.ts"
import { DataError, dataError as fail } from "../Errors.ts"
import { bytesOf } from "./source/Bytes.ts"
import {
  type Document, isData, KINDS, kindOf, missing, some, sorted, type SourceFile, unreadable,
} from "./source/Files.ts"
import { hubFiles, isHub } from "./source/Hub.ts"
import { jsonlDocuments } from "./source/Jsonl.ts"
import { parquetDocuments } from "./source/Parquet.ts"
import { chosenFiles } from "./source/Splits.ts"
import { textDocuments } from "./source/Text.ts"

export type { Document } from "./source/Files.ts"

const withDefault = <A, I>(schema: Schema.Schema<A, I>, value: NoInfer<A>) =>
  Schema.optionalWith(schema, { default: () => value })

/** Where documents come from, and which fields of their records are what. */
export const SourceSpec = Schema.Struct({
  /**
   * A file, a folder, or a dataset of the Hugging Face Hub, `hf://datasets/owner/name[@revision][/path]`. A file is one
   * of text (one document, or several between lines of `<|endoftext|>`), JSONL or Parquet; text and JSONL may be
   * compressed, `.gz` or `.zst`. A folder gives all such files in it and below, sorted by path.
   */
  path: Schema.NonEmptyString,
  /** Field of a record, column of a table, that holds the text; `a.b` is the field `b` in the field `a`. */
  textField: withDefault(Schema.NonEmptyString, "text"),
  /** Field that names a document in messages and reports, where there is one. */
  idField: withDefault(Schema.NonEmptyString, "id"),
  /** Field that says what a document belongs to. Default: its file. */
  sourceField: Schema.optional(Schema.NonEmptyString),
  /**
   * Split of a dataset, or of a folder that is laid out like one: `train`, `validation`, `test`, or as its files call
   * it. Default: `train` of a dataset, all of a folder.
   */
  split: Schema.optional(Schema.NonEmptyString)
})
export type SourceSpec = typeof SourceSpec.Type
/** A SourceSpec before decoding: every field but `path` may be left out. */
export type SourceSpecInput = typeof SourceSpec.Encoded

/** Characters of text, and documents, from which on what was read is handed on. */
const BATCH_CHARACTERS = 1 << 20
const BATCH_DOCUMENTS = 1024

const read = async function*(
  file: SourceFile,
  spec: SourceSpec,
  signal: AbortSignal
): AsyncGenerator<ReadonlyArray<Document>> {
  const path = await file.locate(signal)
  const fields = { textField: spec.textField, idField: spec.idField, sourceField: spec.sourceField }
  yield* file.kind === "parquet"
    ? parquetDocuments(path, file, fields)
    : file.kind === "jsonl"
    ? jsonlDocuments(bytesOf(path, file), file, fields)
    : textDocuments(bytesOf(path, file), file)
}

/** Documents of files in their order, without surrounding white space, blank ones left out. */
const batches = async function*(
  files: ReadonlyArray<SourceFile>,
  spec: SourceSpec,
  empty: string,
  signal: AbortSignal
): AsyncGenerator<ReadonlyArray<Document>> {
  let batch: Array<Document> = []
  let characters = 0
  let found = false
  for (const file of files) {
    for await (const documents of read(file, spec, signal)) {
      for (const document of documents) {
        // Surrounding white space says nothing about a document; one that is nothing else is left out.
        const text = document.text.trim()
        if (text === "") continue
        batch.push(text === document.text ? document : { ...document, text })
        characters += text.length
        if (characters < BATCH_CHARACTERS && batch.length < BATCH_DOCUMENTS) continue
        yield batch
        found = true
        batch = []
        characters = 0
      }
    }
  }
  if (batch.length > 0) yield batch
  else if (!found) throw fail(spec.path, empty)
}

/** A generator that is told when nobody waits for it: else whoever leaves it waits for its download. */
const stoppable = <A>(make: (signal: AbortSignal) => AsyncGenerator<A>): AsyncIterable<A> => ({
  [Symbol.asyncIterator]: () => {
    const controller = new AbortController()
    const inner = make(controller.signal)
    return {
      next: () => inner.next(),
      return: (value: unknown) => {
        controller.abort()
        return inner.return(value)
      }
    }
  }
})

const fileOf = (name: string, label: string): SourceFile | undefined => {
  const kind = kindOf(name)
  return kind && { name, label, ...kind, locate: () => Promise.resolve(label) }
}

const inFolder = Effect.fnUntraced(function*(folder: string, split: string | undefined) {
  const fs = yield* FileSystem.FileSystem
  const names = yield* fs.readDirectory(folder, { recursive: true }).pipe(Effect.mapError(missing(folder)))
  const data = sorted(names.filter(isData))
  if (data.length === 0) {
    const there = names.length === 0 ? "nothing" : some(sorted(names))
    const none = "the folder has no .txt or .md files, and none of another kind that is read"
    return yield* fail(folder, `${none}: ${KINDS}. It has: ${there}`)
  }
  const chosen = split === undefined ? data : chosenFiles(data, [], { path: undefined, split })
  if (typeof chosen === "string") return yield* fail(folder, chosen)
  return chosen.map((name) => fileOf(name, `${folder}/${name}`)!)
})

/** What a path stands for: files in their order, and what to say when there is nothing in them. */
const filesOf = Effect.fnUntraced(function*({ path, split }: SourceSpec) {
  if (isHub(path)) {
    const files = yield* Effect.tryPromise({
      try: (signal) => hubFiles(path, split, { signal }),
      catch: (cause) => cause instanceof DataError ? cause : unreadable(path, cause)
    })
    return { files, empty: `the dataset has ${files.length} files, all of them empty` }
  }
  const fs = yield* FileSystem.FileSystem
  const { type } = yield* fs.stat(path).pipe(Effect.mapError(missing(path)))
  if (type === "Directory") {
    const files = yield* inFolder(path, split)
    return { files, empty: `the folder has ${files.length} text files, all of them empty` }
  }
  if (split !== undefined) {
    return yield* fail(path, `is a file; a split ("${split}") is of a dataset or a folder`)
  }
  const file = fileOf(path, path)
  return file === undefined
    ? yield* fail(path, `is a kind of file that is not read. Known are ${KINDS}; other names are read as text`)
    : { files: [file], empty: "the file is empty" }
})

/**
 * Reads the documents of a source in a fixed order, without surrounding white space, blank ones left out. Memory does
 * not grow with the corpus: a few MiB are held, or a group of rows of a Parquet file, or the longest document.
 *
 * Fails with a `DataError` that names the file, and the line, row or byte offset, where something is missing, empty,
 * damaged, or not what its name says; what was read well before it has been given then.
 */
export const stream = (input: SourceSpecInput): Stream.Stream<Document, DataError, FileSystem.FileSystem> =>
  Stream.unwrap(Effect.gen(function*() {
    const spec = yield* decodeConfig(SourceSpec, input)
    const { empty, files } = yield* filesOf(spec)
    const documents = Stream.fromAsyncIterable(
      stoppable((signal) => batches(files, spec, empty, signal)),
      (cause) => cause instanceof DataError ? cause : unreadable(spec.path, cause)
    )
    return documents.pipe(Stream.mapConcatChunk(Chunk.unsafeFromArray))
  }))
