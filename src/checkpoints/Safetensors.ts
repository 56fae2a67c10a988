/**
 * The safetensors format: an 8-byte little-endian length, a JSON header that names every tensor with its dtype, shape
 * and byte span, then the numbers. Every host with WebGPU is little-endian, so typed arrays are written as they lie in
 * memory: NaN payloads and -0 survive, and nothing is copied on the way out.
 */
import type { PlatformError } from "@effect/platform/Error"
import * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { CheckpointError } from "../Errors.ts"
import type { HostTensor } from "../HostTensor.ts"
import { isObject, parseJson } from "../Json.ts"
import { isFileName } from "../Paths.ts"

export type { HostTensor }

/** A file as the pieces to write one after the other; a piece may be made only when it is asked for. */
export interface Encoded {
  readonly byteLength: number
  readonly chunks: Iterable<Uint8Array>
}

/** A tensor to be written: its dtype on disk, and its bytes, which are asked for once, when their turn comes. */
export interface Part {
  readonly name: string
  readonly dtype: "F32" | "U32" | "F16" | "BF16"
  readonly shape: ReadonlyArray<number>
  readonly bytes: () => Uint8Array
}

interface Entry {
  readonly name: string
  readonly dtype: string
  readonly shape: ReadonlyArray<number>
  /** Byte span inside the data section. */
  readonly begin: number
  readonly end: number
}

const elementBytes: ReadonlyMap<string, number> = new Map([
  ["F32", 4],
  ["U32", 4],
  ["F16", 2],
  ["BF16", 2],
  ["F64", 8],
  ["U8", 1]
])

/** The bound that other readers of the format hold as well: no real header comes near it. */
const maxHeaderBytes = 100_000_000

const metadata = "__metadata__"

/** How much is read and hashed at once: under the 2 GiB limit of one system call, and small enough to stay in cache. */
const readBytes = 4 << 20

const refusal = (name: string, shape: ReadonlyArray<number>, length: number): string | undefined => {
  if (name === metadata) return `a tensor cannot be called ${metadata}: the format keeps this name for itself`
  return shape.every(isSize) && elements(shape) === length
    ? undefined
    : `tensor ${JSON.stringify(name)}: shape [${shape.join(", ")}] does not describe its ${length} numbers`
}

/**
 * Encodes Float32Array as F32 and Uint32Array as U32, sorted by name, so that equal tensors give equal bytes. The data
 * starts at a multiple of 8 bytes. Pieces are views of the caller's memory, not copies. Fails with `CheckpointError`
 * Write when a shape does not match its data.
 */
export const encode = (
  tensors: Readonly<Record<string, HostTensor>>,
  path = "model.safetensors"
): Either.Either<Encoded, CheckpointError> => Either.map(partsOf(tensors, path), encodeParts)

/** Tensors as they are to be written, checked. */
export const partsOf = (
  tensors: Readonly<Record<string, HostTensor>>,
  path = "model.safetensors"
): Either.Either<ReadonlyArray<Part>, CheckpointError> => {
  for (const [name, { data, shape }] of Object.entries(tensors)) {
    const detail = refusal(name, shape, data.length)
    if (detail !== undefined) return Either.left(new CheckpointError({ reason: "Write", path, detail }))
  }
  return Either.right(Object.keys(tensors).map((name): Part => {
    const { data, shape } = tensors[name]!
    const bytes = () => new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    return { name, dtype: data instanceof Float32Array ? "F32" : "U32", shape, bytes }
  }))
}

/** The same for tensors that are made, or converted, one at a time while the file is written. Sorted by name. */
export const encodeParts = (parts: ReadonlyArray<Part>): Encoded => {
  const sorted = [...parts].sort((a, b) => a.name < b.name ? -1 : 1)
  const fields = [`"${metadata}":{"format":"pt"}`]
  let offset = 0
  for (const { dtype, name, shape } of sorted) {
    const end = offset + elements(shape) * elementBytes.get(dtype)!
    fields.push(`${JSON.stringify(name)}:${JSON.stringify({ dtype, shape, data_offsets: [offset, end] })}`)
    offset = end
  }
  const json = new TextEncoder().encode(`{${fields.join(",")}}`)
  const headerBytes = Math.ceil(json.length / 8) * 8
  const header = new Uint8Array(8 + headerBytes).fill(0x20)
  new DataView(header.buffer).setBigUint64(0, BigInt(headerBytes), true)
  header.set(json, 8)
  return {
    byteLength: header.length + offset,
    chunks: {
      *[Symbol.iterator]() {
        yield header
        for (const part of sorted) yield part.bytes()
      }
    }
  }
}

/** The size above which Hugging Face splits a model. */
export const MAX_SHARD_BYTES = 5e9

/**
 * Files for tensors, by name: `<stem>.safetensors`, or above `maxBytes` of numbers `<stem>-00001-of-0000n.safetensors`
 * and the index that says which tensor is in which, `<stem>.safetensors.index.json`. A tensor is never cut in two.
 */
export const shards = (
  parts: ReadonlyArray<Part>,
  stem: string,
  maxBytes: number = MAX_SHARD_BYTES
): ReadonlyArray<readonly [file: string, content: Encoded]> => {
  const bytesOf = ({ dtype, shape }: Part) => elements(shape) * elementBytes.get(dtype)!
  const groups: Array<Array<Part>> = []
  let room = 0
  for (const part of [...parts].sort((a, b) => a.name < b.name ? -1 : 1)) {
    const bytes = bytesOf(part)
    if (groups.length === 0 || bytes > room) {
      groups.push([])
      room = maxBytes
    }
    groups.at(-1)!.push(part)
    room -= bytes
  }
  if (groups.length <= 1) return [[`${stem}.safetensors`, encodeParts(parts)]]
  const number = (n: number) => String(n).padStart(5, "0")
  const nameOf = (i: number) => `${stem}-${number(i + 1)}-of-${number(groups.length)}.safetensors`
  const index = {
    metadata: { total_size: parts.reduce((sum, part) => sum + bytesOf(part), 0) },
    weight_map: Object.fromEntries(groups.flatMap((group, i) => group.map(({ name }) => [name, nameOf(i)])))
  }
  const json = new TextEncoder().encode(`${JSON.stringify(index, null, 2)}\n`)
  return [
    ...groups.map((group, i) => [nameOf(i), encodeParts(group)] as const),
    [`${stem}.safetensors.index.json`, { byteLength: json.length, chunks: [json] }]
  ]
}

/**
 * Decodes a whole file into tensors that own their memory. F32 and U32 come back bit for bit; F16, BF16 and U8 are
 * widened to Float32Array, F64 is rounded to it (what is beyond it becomes infinite). Anything the header does not account for, to the byte, is `CheckpointError` Corrupt.
 */
export const decode = (
  bytes: Uint8Array,
  path = "model.safetensors"
): Either.Either<Readonly<Record<string, HostTensor>>, CheckpointError> =>
  Either.map(
    checked(path, () => {
      const start = 8 + headerLength(bytes.subarray(0, 8), bytes.length)
      return { start, entries: parseHeader(bytes.subarray(8, start), bytes.length - start) }
    }),
    ({ entries, start }) =>
      // The copy aligns the numbers, which may start anywhere in `bytes`.
      toRecord(entries, (entry) => new Uint8Array(bytes.subarray(start + entry.begin, start + entry.end)))
  )

/**
 * Reads a safetensors file of any size, tensor by tensor, with the checks and conversions of `decode`. `onBytes` sees
 * every byte once, in file order. Fails with `CheckpointError`: Missing when there is no such file, else Corrupt.
 */
export const read = (
  path: string,
  onBytes: (bytes: Uint8Array) => void = () => {}
): Effect.Effect<Readonly<Record<string, HostTensor>>, CheckpointError, FileSystem.FileSystem> =>
  Effect.scoped(Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const file = yield* Effect.mapError(fs.open(path), unreadable(path))
    const fileBytes = Number((yield* Effect.mapError(file.stat, unreadable(path))).size)

    const next = Effect.fnUntraced(function*(length: number) {
      const bytes = new Uint8Array(length)
      for (let at = 0; at < length;) {
        const piece = bytes.subarray(at, Math.min(at + readBytes, length))
        const got = Number(yield* Effect.mapError(file.read(piece), unreadable(path)))
        if (got === 0) return yield* corrupt(path, "became shorter while it was read")
        onBytes(piece.subarray(0, got))
        at += got
      }
      return bytes
    })

    const prefix = yield* next(Math.min(8, fileBytes))
    const headerBytes = yield* checked(path, () => headerLength(prefix, fileBytes))
    const header = yield* next(headerBytes)
    const entries = yield* checked(path, () => parseHeader(header, fileBytes - 8 - headerBytes))
    const data = new Map<Entry, Uint8Array<ArrayBuffer>>()
    for (const entry of entries) data.set(entry, yield* next(entry.end - entry.begin))
    return toRecord(entries, (entry) => data.get(entry)!)
  }))

/**
 * The tensors of all files that an index names, each read by `readOne`. Fails with `CheckpointError` Corrupt where the
 * index is not one, and where it and the files disagree about a tensor.
 */
export const readShards = Effect.fnUntraced(function*<R>(
  index: unknown,
  path: string,
  readOne: (file: string) => Effect.Effect<Readonly<Record<string, HostTensor>>, CheckpointError, R>
) {
  const map = isObject(index) ? index["weight_map"] : undefined
  if (!isObject(map)) return yield* corrupt(path, "has no weight_map from tensors to files")
  const files = new Set<string>()
  for (const [name, file] of Object.entries(map)) {
    if (typeof file !== "string" || !isFileName(file) || !file.endsWith(".safetensors")) {
      const detail = `says that tensor ${JSON.stringify(name)} is in ${JSON.stringify(file)}, ` +
        "which is no safetensors file beside it"
      return yield* corrupt(path, detail)
    }
    files.add(file)
  }
  const all: Array<[string, HostTensor]> = []
  for (const file of files) {
    const tensors = yield* readOne(file)
    for (const [name, tensor] of Object.entries(tensors)) {
      if (!Object.hasOwn(map, name) || map[name] !== file) {
        return yield* corrupt(path, `does not say that tensor ${JSON.stringify(name)} is in ${file}, where it is`)
      }
      all.push([name, tensor])
    }
    for (const [name, where] of Object.entries(map)) {
      if (where === file && !Object.hasOwn(tensors, name)) {
        return yield* corrupt(path, `says that tensor ${JSON.stringify(name)} is in ${file}, where it is not`)
      }
    }
  }
  return Object.fromEntries(all) as Readonly<Record<string, HostTensor>>
})

const corrupt = (path: string, detail: string) => new CheckpointError({ reason: "Corrupt", path, detail })

const checked = <A>(path: string, f: () => A): Either.Either<A, CheckpointError> =>
  Either.try({ try: f, catch: (cause) => corrupt(path, cause instanceof Error ? cause.message : String(cause)) })

/** Turns a failed read into the error of a checkpoint: Missing if there is nothing at `path`, else Corrupt. */
export const unreadable = (path: string) => (cause: PlatformError): CheckpointError =>
  cause._tag === "SystemError" && cause.reason === "NotFound"
    ? new CheckpointError({ reason: "Missing", path, detail: "there is no such file", cause })
    : new CheckpointError({ reason: "Corrupt", path, detail: `cannot be read: ${because(cause)}`, cause })

/** The operating system's own words, where there are any. */
export const because = (cause: PlatformError): string => cause.description ?? cause.message

const fail = (detail: string): never => {
  throw new Error(detail)
}

const elements = (shape: ReadonlyArray<number>): number => shape.reduce((product, n) => product * n, 1)

const isSize = (n: unknown): n is number => Number.isSafeInteger(n) && (n as number) >= 0 && !Object.is(n, -0)

/** The length that a file's first 8 bytes state; throws an Error for one that the file cannot have. */
export const headerLength = (prefix: Uint8Array, fileBytes: number): number => {
  if (fileBytes < 8) fail(`holds ${fileBytes} bytes: too short for a safetensors file`)
  const length = new DataView(prefix.buffer, prefix.byteOffset, 8).getBigUint64(0, true)
  if (length > BigInt(Math.min(maxHeaderBytes, fileBytes - 8))) {
    fail(`states a header of ${length} bytes in a file of ${fileBytes}: not a safetensors file, or a truncated one`)
  }
  return Number(length)
}

/** The tensors of a header, in the order of their data, which they cover without gap or overlap; throws an Error otherwise. */
export const parseHeader = (header: Uint8Array, dataBytes: number): ReadonlyArray<Entry> => {
  const text = parsed("text", () => new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(header))
  const json = Either.getOrElse(parseJson(text), (detail) => fail(`the header ${detail}`))
  if (!isObject(json)) return fail("the header is not a JSON object")
  const entries: Array<Entry> = []
  for (const [name, field] of Object.entries(json)) {
    if (name !== metadata) entries.push(parseEntry(name, field))
    else if (!isObject(field)) fail(`${metadata} is not a JSON object`)
  }
  entries.sort((a, b) => a.begin - b.begin || a.end - b.end)
  let covered = 0
  for (const { begin, end, name } of entries) {
    if (begin !== covered) {
      fail(`tensor ${JSON.stringify(name)} starts at byte ${begin} of the data, where byte ${covered} comes next`)
    }
    covered = end
  }
  if (covered !== dataBytes) fail(`the header describes ${covered} bytes of data, the file holds ${dataBytes}`)
  return entries
}

const parsed = <A>(what: string, f: () => A): A => {
  try {
    return f()
  } catch (cause) {
    return fail(`the header is not ${what}: ${(cause as Error).message}`)
  }
}

const parseEntry = (name: string, field: unknown): Entry => {
  const tensor = `tensor ${JSON.stringify(name)}`
  if (!isObject(field)) return fail(`${tensor} is not described by a JSON object`)
  const { data_offsets: offsets, dtype, shape } = field
  const size = elementBytes.get(dtype as string)
  if (size === undefined) {
    return fail(`${tensor} has dtype ${JSON.stringify(dtype)}; ${[...elementBytes.keys()].join(", ")} can be read`)
  }
  if (!Array.isArray(shape) || !shape.every(isSize)) return fail(`${tensor}: the shape is not a list of sizes`)
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize) || offsets[0]! > offsets[1]!) {
    return fail(`${tensor}: data_offsets is not a [begin, end] pair`)
  }
  const [begin, end] = offsets as [number, number]
  if (elements(shape) * size !== end - begin) {
    const needed = elements(shape) * size
    return fail(`${tensor}: ${dtype} of shape [${shape.join(", ")}] takes ${needed} bytes, not ${end - begin}`)
  }
  return { name, dtype: dtype as string, shape, begin, end }
}

/** `bytesOf` gives each tensor's bytes in an ArrayBuffer of their own. */
const toRecord = (
  entries: ReadonlyArray<Entry>,
  bytesOf: (entry: Entry) => Uint8Array<ArrayBuffer>
): Readonly<Record<string, HostTensor>> =>
  // Unlike assignment, fromEntries gives a tensor called __proto__ an entry of its own.
  Object.fromEntries(entries.map((entry) => {
    const { buffer } = bytesOf(entry)
    return [entry.name, { shape: entry.shape, data: numbers(entry.dtype, buffer) }]
  }))

/** The numbers of a dtype in the bytes of a buffer: see `decode`. */
export const numbers = (dtype: string, buffer: ArrayBuffer): Float32Array | Uint32Array => {
  switch (dtype) {
    case "U32":
      return new Uint32Array(buffer)
    case "F16":
      return fromHalf(new Uint16Array(buffer))
    case "BF16":
      return new Float32Array(Uint32Array.from(new Uint16Array(buffer), (half) => half << 16).buffer)
    case "F64":
      return Float32Array.from(new Float64Array(buffer))
    case "U8":
      return Float32Array.from(new Uint8Array(buffer))
    default:
      return new Float32Array(buffer)
  }
}

const fromHalf = (halves: Uint16Array): Float32Array => {
  const values = new Float32Array(halves.length)
  const bits = new Uint32Array(values.buffer)
  for (let i = 0; i < halves.length; i++) {
    const sign = (halves[i]! & 0x8000) << 16
    const exponent = (halves[i]! >> 10) & 0x1f
    const mantissa = halves[i]! & 0x3ff
    if (exponent === 0) {
      values[i] = mantissa * 2 ** -24 // zero and subnormals, all of them normal in f32
      bits[i]! |= sign
    } else {
      bits[i] = sign | (exponent === 31 ? 0xff : exponent + 112) << 23 | mantissa << 13
    }
  }
  return values
}
