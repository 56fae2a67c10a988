/** Reads tokens from several files at any place. */
import type { PlatformError } from "@effect/platform/Error"
import * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import { createHash } from "node:crypto"
import { closeSync, openSync, readSync } from "node:fs"
import { because, DataError, dataError as fail } from "../../Errors.ts"
import type { Dataset } from "../Dataset.ts"
import type { TokenDocuments } from "../Pieces.ts"
import { missing } from "../source/Files.ts"

/** Tokens on disk. Documents count from 0 through all shards; `read` and `name` throw `DataError`. */
export interface TokenShards extends TokenDocuments {
  readonly path: string
  /** The text of `tokenizer.json`; the shards of others come without. */
  readonly tokenizer: string | undefined
  readonly vocabSize: number
  readonly tokens: number
  /** Place of a document's first token among the tokens of all shards. */
  readonly start: (document: number) => number
  /** `dataset.json`; undefined for the shards of others. */
  readonly dataset: Dataset | undefined
  /**
   * SHA-256 of what they hold, tokens, documents, sources and tokenizer: equal for equal data, wherever it lies. For
   * our own it is made of the checksums in `dataset.json`, which `verify` holds the files against; for the shards of
   * others of the tokens themselves, read when they were opened.
   */
  readonly identity: string
  /**
   * Reads every file and compares it with its checksum: in `dataset.json`, or as it was when the shards of others were
   * opened. Fails with a `DataError` that names the file.
   */
  readonly verify: Effect.Effect<void, DataError>
  /** Closes files that reading has opened. Reading opens them again. */
  readonly close: () => void
}

/** Files kept open at once. */
const OPEN_FILES = 64

/** Where the tokens of a shard lie. */
export interface Place {
  readonly path: string
  /** Bytes before the first token. */
  readonly skip: number
  /** Number of its first document, and tokens of all shards before it. */
  readonly firstDocument: number
  readonly firstToken: number
}

/** Reads at any offset of several files, which are opened when they are needed. */
export const openFiles = () => {
  const open = new Map<string, number>()
  const close = (path: string): void => {
    closeSync(open.get(path)!)
    open.delete(path)
  }
  return {
    read: (path: string, into: Uint8Array, position: number): void => {
      try {
        let handle = open.get(path)
        if (handle === undefined) {
          if (open.size >= OPEN_FILES) close(open.keys().next().value!)
          handle = openSync(path, "r")
          open.set(path, handle)
        }
        for (let at = 0; at < into.length;) {
          const got = readSync(handle, into, at, into.length - at, position + at)
          if (got === 0) throw new Error(`it ends before offset ${position + into.length}: was it changed?`)
          at += got
        }
      } catch (cause) {
        throw fail(path, `cannot be read: ${because(cause)}`, cause)
      }
    },
    close: (): void => {
      for (const path of [...open.keys()]) close(path)
    }
  }
}

/** The last of rising places that is not after a number. */
const find = (places: ReadonlyArray<number>, number: number): number => {
  let [low, high] = [0, places.length]
  while (high - low > 1) {
    const middle = (low + high) >> 1
    if (places[middle]! <= number) low = middle
    else high = middle
  }
  return low
}

/** Index of documents, and where the tokens are. */
interface Index {
  readonly starts: Float64Array
  readonly lengths: Uint32Array
  readonly places: ReadonlyArray<Place>
  readonly width: 2 | 4
  readonly vocabSize: number
}

/** Reading at random, of shards of any kind. */
export const reader = ({ lengths, places, starts, vocabSize, width }: Index) => {
  const files = openFiles()
  const firsts = places.map(({ firstDocument }) => firstDocument)
  const shardOf = (document: number): number => find(firsts, document)
  let spare = new Uint16Array(1 << 12)

  const read = (
    document: number,
    offset: number,
    length: number,
    into: Uint32Array = new Uint32Array(length)
  ): Uint32Array => {
    if (!(offset >= 0 && length >= 0 && offset + length <= lengths[document]!)) {
      throw new DataError({
        detail: `document ${document} has ${lengths[document] ?? "no"} tokens: there are no ${length} from ${offset} on`
      })
    }
    const { firstToken, path, skip } = places[shardOf(document)]!
    const position = skip + width * (starts[document]! - firstToken + offset)
    const out = into.subarray(0, length)
    if (width === 4) {
      files.read(path, new Uint8Array(out.buffer, out.byteOffset, out.byteLength), position)
    } else {
      if (spare.length < length) spare = new Uint16Array(2 * length)
      files.read(path, new Uint8Array(spare.buffer, 0, 2 * length), position)
      for (let i = 0; i < length; i++) out[i] = spare[i]!
    }
    for (let i = 0; i < length; i++) {
      if (out[i]! >= vocabSize) throw beyond(path, position + width * i, out[i]!, vocabSize)
    }
    return out
  }
  return { files, read, shardOf }
}

export const beyond = (path: string, offset: number, id: number, vocabSize: number): DataError =>
  fail(path, `token ${id} at offset ${offset} is beyond the vocabulary, which has ${vocabSize} entries`)

export const readable = <A, R>(path: string, effect: Effect.Effect<A, PlatformError, R>) =>
  Effect.mapError(effect, missing(path))

export const sizeOf = Effect.fnUntraced(function*(path: string) {
  const fs = yield* FileSystem.FileSystem
  return Number((yield* readable(path, fs.stat(path))).size)
})

/** SHA-256 of a file, in pieces. */
export const sha256Of = (path: string) =>
  Effect.scoped(Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const file = yield* readable(path, fs.open(path))
    const hash = createHash("sha256")
    const piece = new Uint8Array(1 << 20)
    while (true) {
      const got = Number(yield* readable(path, file.read(piece)))
      if (got === 0) return hash.digest("hex")
      hash.update(piece.subarray(0, got))
    }
  }))
