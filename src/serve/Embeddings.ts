/**
 * Vectors of texts that somebody else's model made: of sources out of a file, of prompts from a server that has OpenAI's
 * contract of `/v1/embeddings`.
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import { closeSync, fstatSync, openSync, readSync } from "node:fs"
import { readText } from "../data/Corpus.ts"
import { because, DataError } from "../Errors.ts"
import { decodeJson, isObject, parseJson } from "../Json.ts"
import * as Parquet from "../measures/Parquet.ts"

/** Vectors of sources, read as they are asked for. */
export interface SourceVectors {
  /** Names or ids, a row each. */
  readonly names: ReadonlyArray<string>
  readonly width: number
  /** The numbers of a row. Throws a DataError where they are no vector: not finite, or all 0. */
  readonly vector: (row: number) => Float32Array
}

/** A vector that has a direction, of as many numbers as the first. */
const checked = (path: string, where: string, vector: Float32Array, width: number): Float32Array => {
  const wrong = (detail: string) => new DataError({ path, detail: `${where} ${detail}` })
  if (vector.length !== width) throw wrong(`has ${vector.length} numbers, and the first vector has ${width}`)
  const bad = vector.findIndex((x) => !Number.isFinite(x))
  if (bad >= 0) throw wrong(`holds ${vector[bad]} at place ${bad}: expected finite numbers`)
  if (vector.every((x) => x === 0)) throw wrong("is all 0: nothing is near to it")
  return vector
}

/** What is read of an `.npy` file before its numbers. */
const HEAD = 4096

/** A matrix of f32 or f64 as NumPy writes it, a row read when it is asked for. */
const openNpy = (path: string, names: ReadonlyArray<string>) =>
  Effect.gen(function*() {
    const wrong = (detail: string) => new DataError({ path, detail })
    const handle = yield* Effect.acquireRelease(
      Effect.try({ try: () => openSync(path, "r"), catch: (cause) => wrong(because(cause)) }),
      (handle) => Effect.sync(() => closeSync(handle))
    )
    const size = fstatSync(handle).size
    const head = Buffer.alloc(Math.min(size, HEAD))
    readSync(handle, head, 0, head.length, 0)
    if (head.subarray(0, 6).toString("latin1") !== "\x93NUMPY") return yield* wrong("is no .npy file")
    const [begin, length] = head[6] === 1 ? [10, head.readUInt16LE(8)] : [12, head.readUInt32LE(8)]
    const text = head.subarray(begin, begin + length).toString("latin1")
    const type = /'descr':\s*'([^']*)'/.exec(text)?.[1]
    const shape = /'shape':\s*\((\d+),\s*(\d+)\)/.exec(text)
    if (shape === null || !/'fortran_order':\s*False/.test(text) || (type !== "<f4" && type !== "<f8")) {
      return yield* wrong(`holds ${text.trim()}: expected a matrix of float32 or float64, row after row`)
    }
    const [rows, width] = [Number(shape[1]), Number(shape[2])]
    const bytes = (type === "<f4" ? 4 : 8) * width
    if (size !== begin + length + rows * bytes) {
      return yield* wrong(
        `has ${size} bytes where ${rows} rows of ${width} numbers have ${begin + length + rows * bytes}`
      )
    }
    if (names.length !== rows) return yield* wrong(`has ${rows} rows for ${names.length} names`)
    const row = new Uint8Array(bytes)
    return {
      names,
      width,
      vector: (r) => {
        if (readSync(handle, row, 0, bytes, begin + length + r * bytes) !== bytes) {
          throw wrong("ended while it was read")
        }
        const numbers = type === "<f4" ? new Float32Array(row.buffer) : new Float64Array(row.buffer)
        return checked(path, `row ${r + 1}`, Float32Array.from(numbers), width)
      }
    } satisfies SourceVectors as SourceVectors
  })

const NAMES = ["id", "source", "name"]
const VECTORS = ["vector", "embedding"]

/** Lines of names and vectors. */
const listOf = (
  path: string,
  rows: ReadonlyArray<{ readonly where: string; readonly name: unknown; readonly vector: unknown }>
) =>
  Effect.gen(function*() {
    const names: Array<string> = []
    const vectors: Array<Float32Array> = []
    for (const { name, vector, where } of rows) {
      const wrong = (detail: string) => new DataError({ path, detail: `${where} ${detail}` })
      if (typeof name !== "string" && typeof name !== "bigint" && !Number.isSafeInteger(name)) {
        return yield* wrong(`has no ${NAMES.join(", ")} that is a text or a whole number`)
      }
      const numbers: ReadonlyArray<unknown> = ArrayBuffer.isView(vector)
        ? Array.from(vector as unknown as Float32Array)
        : Array.isArray(vector)
        ? vector
        : []
      if (numbers.length === 0 || numbers.some((x) => typeof x !== "number")) {
        return yield* wrong(`has no ${VECTORS.join(" or ")} that is a list of numbers`)
      }
      names.push(`${name as string}`)
      vectors.push(Float32Array.from(numbers as ReadonlyArray<number>))
    }
    const width = vectors[0]?.length ?? 0
    if (width === 0) return yield* new DataError({ path, detail: "holds no vector" })
    return { names, width,
      vector: (r) => checked(path, rows[r]!.where, vectors[r]!, width) } satisfies SourceVectors as SourceVectors
  })

/**
 * Reads vectors of sources: `.jsonl` and Parquet with the fields `id`, `source` or `name`, and `vector` or `embedding`, or
 * `.npy`, whose rows are called as the lines of `names`. Fails with a DataError that names the line or row.
 */
export const readVectors = (path: string, names: string | undefined) =>
  Effect.gen(function*() {
    if (path.endsWith(".npy")) {
      if (names === undefined) {
        return yield* new DataError({ path,
          detail: "does not say whose vectors it has: name a file with a name a line" })
      }
      const lines = (yield* readText(names, 2 ** 31)).split(/\r?\n/)
      return yield* openNpy(path, lines.at(-1) === "" ? lines.slice(0, -1) : lines)
    }
    if (names !== undefined) {
      return yield* new DataError({ path: names,
        detail: "names the rows of .npy, and other files have names themselves" })
    }
    const pick = (there: ReadonlyArray<string>, wanted: ReadonlyArray<string>) =>
      wanted.find((one) => there.includes(one)) ?? wanted[0]!
    if (path.endsWith(".parquet")) {
      const table = yield* Parquet.read(path, "vectors", [])
      const [ids, vectors] = [table.values(pick(table.names, NAMES)), table.values(pick(table.names, VECTORS))]
      return yield* listOf(path, ids.map((name, r) => ({ where: `row ${r + 1}`, name, vector: vectors[r] })))
    }
    const rows: Array<{ readonly where: string; readonly name: unknown; readonly vector: unknown }> = []
    for (const [i, line] of (yield* readText(path)).split(/\r?\n/).entries()) {
      if (line.trim() === "") continue
      const where = `line ${i + 1}`
      const value = yield* Either.mapLeft(parseJson(line),
        (detail) => new DataError({ path, detail: `${where} ${detail}` }))
      const fields = isObject(value) ? value : {}
      const there = Object.keys(fields)
      rows.push({ where, name: fields[pick(there, NAMES)], vector: fields[pick(there, VECTORS)] })
    }
    return yield* listOf(path, rows)
  })

/** Gives the vectors of texts, in their order. */
export type Embed = (texts: ReadonlyArray<string>) => Effect.Effect<ReadonlyArray<Float32Array>, DataError>

export interface EmbedderOptions {
  readonly url: string
  /** The model that is asked for; default: the server's own. */
  readonly model?: string
  readonly key?: string
  /** Milliseconds that an answer may take. Default 10,000. */
  readonly timeout?: number
  /** Milliseconds before the first of two other tries. Default 300. */
  readonly pause?: number
}

const Answer = Schema.Struct({
  data: Schema.Array(Schema.Struct({ index: Schema.optional(Schema.Number), embedding: Schema.Array(Schema.Number) }))
})

/** Texts that are asked for at once. */
const AT_ONCE = 64

class Failed {
  constructor(readonly detail: string, readonly again: boolean) {}
}

/**
 * Asks a server with OpenAI's contract of `/v1/embeddings`; what may be mended by waiting is tried twice more. Fails with a
 * DataError that names the URL.
 */
export const embedder = ({ key, model, pause = 300, timeout = 10_000, url }: EmbedderOptions): Embed => {
  const ask = (texts: ReadonlyArray<string>): Effect.Effect<ReadonlyArray<Float32Array>, Failed> =>
    Effect.gen(function*() {
      const { status, text } = yield* Effect.tryPromise({
        try: async (signal) => {
          const response = await fetch(url, {
            method: "POST",
            signal,
            headers: {
              "content-type": "application/json",
              ...(key === undefined ? {} : { authorization: `Bearer ${key}` })
            },
            body: JSON.stringify({ input: texts, encoding_format: "float", ...(model === undefined ? {} : { model }) })
          })
          return { status: response.status, text: await response.text() }
        },
        catch: (cause) => new Failed(`cannot be reached: ${because((cause as Error).cause ?? cause)}`, true)
      }).pipe(Effect.timeoutFail({
        duration: timeout,
        onTimeout: () => new Failed(`gave no answer within ${timeout / 1000} s`, false)
      }))
      if (status !== 200) {
        return yield* Effect.fail(
          new Failed(`answers ${status}: ${text.slice(0, 200).trim() || "nothing"}`, status === 429 || status >= 500)
        )
      }
      const { data } = yield* Either.mapLeft(decodeJson(Answer, text), (detail) =>
        new Failed(`its answer ${detail}`, false))
      const vectors: Array<Float32Array> = []
      data.forEach(({ embedding, index }, i) => {
        vectors[index ?? i] = Float32Array.from(embedding)
      })
      const bad = texts.findIndex((_, i) => vectors[i] === undefined || !vectors[i].every((x) => Number.isFinite(x)))
      if (data.length !== texts.length || bad >= 0) {
        return yield* Effect.fail(
          new Failed(`gave ${data.length} vectors for ${texts.length} texts, or some that are no finite numbers`, false)
        )
      }
      return vectors
    })
  const parts = (texts: ReadonlyArray<string>) =>
    Array.from({ length: Math.ceil(texts.length / AT_ONCE) }, (_, i) => texts.slice(i * AT_ONCE, (i + 1) * AT_ONCE))
  return (texts) =>
    Effect.forEach(parts(texts), (some) =>
      ask(some).pipe(
        Effect.retry({ while: ({ again }) => again, times: 2, schedule: Schedule.exponential(pause) }),
        Effect.mapError(({ detail }) => new DataError({ detail: `${url} ${detail}` }))
      )).pipe(Effect.map((all) => all.flat()))
}
