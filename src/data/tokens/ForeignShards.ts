/**
 * Token shards that others have written: nanoGPT's, which are nothing but tokens of 16 bits, and llm.c's, which have a
 * header. Their documents are what end-of-text tokens divide.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import { createHash } from "node:crypto"
import { type DataError, dataError as fail } from "../../Errors.ts"
import { beyond, type Place, readable, reader, sha256Of, sizeOf, type TokenShards } from "./ShardReader.ts"

/** What is not written in the shards of others. */
export interface ForeignOptions {
  /** Default: one more than `endOfText`. */
  readonly vocabSize?: number
  /** The token between documents. It counts as the last one of the document before it. Default: GPT-2's, 50256. */
  readonly endOfText?: number
}

const END_OF_TEXT = 50256

/** llm.c: 256 numbers of 32 bits before the tokens; the first three say what it is, and how many tokens there are. */
const LLM_C = { magic: 20240520, version: 1, bytes: 1024 }

/** Numbers that grow as they come. */
const growing = (make: (length: number) => Float64Array) => {
  let values = make(1 << 10)
  let length = 0
  return {
    push: (value: number): void => {
      if (length === values.length) {
        const larger = make(2 * length)
        larger.set(values)
        values = larger
      }
      values[length++] = value
    },
    length: () => length,
    values: () => values.subarray(0, length)
  }
}

/** Bytes before the tokens of a file, once what it says of itself is checked. */
const headerOf = (path: string, head: Int32Array, size: number): DataError | number => {
  const [magic, version, tokens] = head
  if (magic === LLM_C.magic) {
    if (size < LLM_C.bytes) return fail(path, `ends within its header of ${LLM_C.bytes} bytes, at offset ${size}`)
    if (version !== LLM_C.version) {
      return fail(path, `has version ${version} of llm.c's format at offset 4, expected ${LLM_C.version}`)
    }
    const expected = LLM_C.bytes + 2 * tokens!
    if (size !== expected) {
      const detail = `its header counts ${tokens} tokens at offset 8, for which it needs ${expected} bytes; ` +
        `it has ${size}`
      return fail(path, detail)
    }
    return LLM_C.bytes
  }
  // Dates as magic numbers: what llm.c writes for other vocabularies and for models.
  if (magic! >= 20230000 && magic! < 20400000) {
    return fail(
      path,
      `has the magic number ${magic} at offset 0; llm.c's shards of GPT-2 tokens have ${LLM_C.magic}, ` +
        "nanoGPT's have none"
    )
  }
  return size % 2 === 0 ? 0 : fail(path, `has ${size} bytes: tokens of 2 bytes each end at offset ${size - 1}`)
}

export const openForeign = Effect.fnUntraced(function*(
  path: string,
  paths: ReadonlyArray<string>,
  options: ForeignOptions
) {
  const fs = yield* FileSystem.FileSystem
  const endOfText = options.endOfText ?? END_OF_TEXT
  const vocabSize = options.vocabSize ?? endOfText + 1
  const starts = growing((length) => new Float64Array(length))
  const lengths = growing((length) => new Float64Array(length))
  const places: Array<Place> = []
  const sums: Array<readonly [path: string, sha256: string]> = []
  let firstToken = 0

  const scan = (path: string) =>
    Effect.scoped(Effect.gen(function*() {
      const file = yield* readable(path, fs.open(path))
      const size = yield* sizeOf(path)
      const piece = new Uint8Array(1 << 21)
      /** Fills as much of the piece as the file has left. */
      const next = Effect.fnUntraced(function*(length: number) {
        let at = 0
        while (at < length) {
          const got = Number(yield* readable(path, file.read(piece.subarray(at, length))))
          if (got === 0) break
          at += got
        }
        return at
      })
      const got = yield* next(Math.min(12, size))
      const skip = headerOf(path, got < 12 ? new Int32Array(3) : new Int32Array(piece.buffer, 0, 3), size)
      if (typeof skip !== "number") return yield* skip
      yield* file.seek(0, "start")
      const hash = createHash("sha256")
      hash.update(piece.subarray(0, yield* next(skip)))
      places.push({ path, skip, firstDocument: starts.length(), firstToken })

      const tokens = (size - skip) / 2
      const close = (from: number, to: number): void => {
        starts.push(firstToken + from)
        lengths.push(to - from)
      }
      let begin = 0
      for (let at = 0; at < tokens;) {
        const there = (yield* next(Math.min(piece.length, 2 * (tokens - at)))) >> 1
        if (there === 0) return yield* fail(path, "became shorter while it was read")
        const ids = new Uint16Array(piece.buffer, 0, there)
        hash.update(piece.subarray(0, 2 * there))
        for (let i = 0; i < there; i++) {
          if (ids[i] === endOfText) {
            // where end-of-text stands before each document, the first one ends nothing
            if (at + i > begin) close(begin, at + i + 1)
            begin = at + i + 1
          } else if (ids[i]! >= vocabSize) return yield* beyond(path, skip + 2 * (at + i), ids[i]!, vocabSize)
        }
        at += there
      }
      if (tokens > begin) close(begin, tokens)
      sums.push([path, hash.digest("hex")])
      firstToken += tokens
    }))

  for (const one of paths) yield* scan(one)
  if (starts.length() === 0) return yield* fail(path, "holds no tokens")

  const index = {
    starts: starts.values(),
    lengths: Uint32Array.from(lengths.values()),
    places,
    width: 2,
    vocabSize
  } as const
  const { files, read, shardOf } = reader(index)
  const sources = paths.map((one) => one.replace(/^.*[\\/]/, ""))
  const shards: TokenShards = {
    path,
    tokenizer: undefined,
    vocabSize,
    documents: index.starts.length,
    tokens: index.lengths.reduce((sum, length) => sum + length, 0),
    sources,
    dataset: undefined,
    start: (document) => index.starts[document]!,
    length: (document) => index.lengths[document]!,
    source: shardOf,
    name: (document) => {
      const shard = shardOf(document)
      return `${sources[shard]}#${1 + document - places[shard]!.firstDocument}`
    },
    read,
    identity: createHash("sha256").update(JSON.stringify([endOfText, sums.map(([, sha256]) => sha256)])).digest("hex"),
    verify: Effect.forEach(sums, ([file, expected]) =>
      Effect.flatMap(sha256Of(file), (found) =>
        found === expected
          ? Effect.void
          : Effect.fail(fail(file, "is not what it was when it was opened: it was changed since"))), { discard: true })
      .pipe(Effect.provideService(FileSystem.FileSystem, fs)),
    close: files.close
  }
  return shards
})
