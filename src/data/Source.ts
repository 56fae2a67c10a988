/**
 * Documents as a stream: out of files, folders and datasets of the Hugging Face Hub that need not fit in memory, in an
 * order that is the same everywhere.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { constants } from "node:buffer"
import { statSync } from "node:fs"
import { decodeConfig } from "../Config.ts"
import { withDefault } from "../Config.ts"
import { type DataError, dataError as fail, told } from "../Errors.ts"
import { bytesOf } from "./source/Bytes.ts"
import { type Document, kindOf, KINDS, missing, notFile, some, type SourceFile, unreadable } from "./source/Files.ts"
import { dataBelow } from "./source/Folder.ts"
import { hubFiles, isHub } from "./source/Hub.ts"
import { jsonlDocuments } from "./source/Jsonl.ts"
import { parquetDocuments } from "./source/Parquet.ts"
import type { Fields, Tally } from "./source/Records.ts"
import { chosenFiles } from "./source/Splits.ts"
import { textDocuments } from "./source/Text.ts"

export type { Document } from "./source/Files.ts"
export type { Tally } from "./source/Records.ts"

/** Where documents come from, and which fields of their records are what. */
export const SourceSpec = Schema.Struct({
  /**
   * A file, a folder, or a dataset of the Hugging Face Hub, `hf://datasets/owner/name[@revision][/path]`. A file is one
   * of text (one document, or several between lines of `<|endoftext|>`), JSONL or Parquet; text and JSONL may be
   * compressed, `.gz` or `.zst`. A folder gives all such files in it and below, sorted by path, each once; text beside
   * records is taken to be about them, and left out, as are names that begin with a dot or an underscore.
   */
  path: Schema.NonEmptyString,
  /** Field of a record, column of a table, that holds the text; `a.b` is the field `b` in the field `a`. */
  textField: withDefault(Schema.NonEmptyString, "text"),
  /** Field that names a document in messages and reports, where there is one. */
  idField: withDefault(Schema.NonEmptyString, "id"),
  /** Field that says what a document belongs to. Default: its file. */
  sourceField: Schema.optional(Schema.NonEmptyString),
  /** Fields that say whose a document is, and under which licence; `null` there is nobody's, and none. Default: not known. */
  ownerField: Schema.optional(Schema.NonEmptyString),
  licenceField: Schema.optional(Schema.NonEmptyString),
  /**
   * Split of a dataset, or of a folder that is laid out like one: `train`, `validation`, `test`, or as its files call
   * it. Default: `train` of a dataset, all of a folder.
   */
  split: Schema.optional(Schema.NonEmptyString),
  /** What a record is whose text is null, or not there: an error (the default), or passed over, and counted. */
  onMissingText: Schema.optional(Schema.Literal("error", "skip")),
  /**
   * Bytes of a line, of a value of Parquet, or of a document at most, since each is held as a whole, several times.
   * Default 268,435,456 (256 MiB).
   */
  maxDocumentBytes: Schema.optional(Schema.Int.pipe(Schema.between(1, constants.MAX_STRING_LENGTH)))
})
export type SourceSpec = typeof SourceSpec.Type
/** A SourceSpec before decoding: every field but `path` may be left out. */
export type SourceSpecInput = typeof SourceSpec.Encoded

const MAX_DOCUMENT_BYTES = 2 ** 28

/** Says how many records had no text. */
export const missingTexts = (records: number): string =>
  `${records} ${records === 1 ? "record" : "records"} without text passed over`

/** Characters of text, and documents, from which on what was read is handed on. */
const BATCH_CHARACTERS = 1 << 20
const BATCH_DOCUMENTS = 1024

const read = async function*(
  file: SourceFile,
  spec: SourceSpec,
  tally: Tally,
  signal: AbortSignal
): AsyncGenerator<ReadonlyArray<Document>> {
  const path = await file.locate(signal)
  const fields: Fields = {
    textField: spec.textField,
    idField: spec.idField,
    sourceField: spec.sourceField,
    ownerField: spec.ownerField,
    licenceField: spec.licenceField,
    onMissingText: spec.onMissingText ?? "error",
    maxDocumentBytes: spec.maxDocumentBytes ?? MAX_DOCUMENT_BYTES
  }
  yield* file.kind === "parquet"
    ? parquetDocuments(path, file, fields, tally)
    : file.kind === "jsonl"
    ? jsonlDocuments(bytesOf(path, file), file, fields, tally)
    : textDocuments(bytesOf(path, file), file, fields)
}

/** Documents of files in their order, without surrounding white space, blank ones left out. */
const batches = async function*(
  files: ReadonlyArray<SourceFile>,
  spec: SourceSpec,
  empty: string,
  tally: Tally,
  signal: AbortSignal
): AsyncGenerator<ReadonlyArray<Document>> {
  let batch: Array<Document> = []
  let characters = 0
  let found = false
  for (const file of files) {
    for await (const documents of read(file, spec, tally, signal)) {
      // nobody waits for it any more: of blank lines there may be gigabytes before a document
      if (signal.aborted) return
      for (const document of documents) {
        // Surrounding white space says nothing about a document; one that is nothing else is left out.
        const text = document.text.trim()
        if (text === "") {
          tally.blank++
          continue
        }
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
  else if (!found) {
    const { missing } = tally
    throw fail(spec.path, missing === 0 ? empty : `none of its records has a text in the field "${spec.textField}"`)
  }
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

const inFolder = Effect.fnUntraced(function*(folder: string, { split, textField }: SourceSpec) {
  const { files: data, notes, others } = yield* Effect.tryPromise({
    try: () => dataBelow(folder, textField),
    catch: told((cause) => unreadable(folder, cause))
  })
  if (data.length === 0) {
    const there = others.length === 0 ? "nothing" : some(others)
    const none = "the folder has no .txt or .md files, and none of another kind that is read"
    return yield* fail(folder, `${none}: ${KINDS}. It has: ${there}`)
  }
  const chosen = split === undefined ? data : chosenFiles(data, [], { path: undefined, split })
  if (typeof chosen === "string") return yield* fail(folder, chosen)
  for (const note of notes) yield* Effect.logWarning(`${folder}: ${note}`)
  return chosen.map((name) => fileOf(name, `${folder}/${name}`)!)
})

/** What a path stands for: files in their order, and what to say when there is nothing in them. */
const filesOf = Effect.fnUntraced(function*(spec: SourceSpec) {
  const { path, split } = spec
  if (isHub(path)) {
    const files = yield* Effect.tryPromise({
      try: (signal) => hubFiles(path, split, { signal }),
      catch: told((cause) => unreadable(path, cause))
    })
    return { files, empty: `the dataset has ${files.length} files, all of them empty` }
  }
  const fs = yield* FileSystem.FileSystem
  const { type } = yield* fs.stat(path).pipe(Effect.mapError(missing(path)))
  if (type === "Directory") {
    const files = yield* inFolder(path, spec)
    return { files, empty: `the folder has ${files.length} text files, all of them empty` }
  }
  const problem = type === "File" ? undefined : notFile(statSync(path))
  if (problem !== undefined) return yield* fail(path, problem)
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
 * What of a folder is passed over is logged as a warning, and so is the number of records without text where they are
 * skipped; with a `tally` these, and blank documents, are added to it as they are read, and not logged.
 *
 * Fails with a `DataError` that names the file, and the line, row or byte offset, where something is missing, empty,
 * damaged, or not what its name says; what was read well before it has been given then.
 */
export const stream = (
  input: SourceSpecInput,
  tally?: Tally
): Stream.Stream<Document, DataError, FileSystem.FileSystem> =>
  Stream.unwrap(Effect.gen(function*() {
    const spec = yield* decodeConfig(SourceSpec, input)
    const { empty, files } = yield* filesOf(spec)
    const own: Tally = { missing: 0, blank: 0 }
    const documents = Stream.fromAsyncIterable(
      stoppable((signal) => batches(files, spec, empty, tally ?? own, signal)),
      told((cause) => unreadable(spec.path, cause))
    ).pipe(Stream.mapConcatChunk(Chunk.unsafeFromArray))
    const say = Effect.suspend(() =>
      own.missing === 0 ? Effect.void : Effect.logWarning(`${spec.path}: ${missingTexts(own.missing)}`)
    )
    return Stream.concat(documents, Stream.execute(say))
  }))
