/** Zip archives whose files lie in them as they are, as PyTorch writes them: of any size, read in place. */
import type * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import { crc32 } from "../Crc32.ts"
import { CheckpointError } from "../Errors.ts"
import { unreadable } from "./Safetensors.ts"

/** A file in an archive. */
export interface Entry {
  readonly name: string
  readonly size: number
  readonly crc: number
  /** Of its local header. */
  readonly offset: number
}

const corrupt = (path: string, detail: string, cause?: unknown) =>
  new CheckpointError({ reason: "Corrupt", path, detail, ...(cause === undefined ? {} : { cause }) })

/** How much is read at once. */
const PIECE = 4 << 20

/** An archive's directory at most: a model's has some hundred bytes a tensor. */
const MOST_DIRECTORY = 256 << 20

/** The end of an archive: 22 bytes, and a comment of up to 65,535. */
const END = 22
const LOCATOR = 20

/** Bytes of a file from a place on. Fails with `CheckpointError` Corrupt where it ends before. */
export const readAt = Effect.fnUntraced(function*(
  file: FileSystem.File,
  path: string,
  offset: number,
  length: number
) {
  const bytes = new Uint8Array(length)
  yield* file.seek(offset, "start")
  for (let at = 0; at < length;) {
    const piece = bytes.subarray(at, Math.min(at + PIECE, length))
    const got = Number(yield* Effect.mapError(file.read(piece), unreadable(path)))
    if (got === 0) return yield* corrupt(path, "became shorter while it was read")
    at += got
  }
  return bytes
})

const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** What the directory says of one file; throws an Error for what it cannot say. */
const entryOf = (view: DataView, bytes: Uint8Array, at: number, fileBytes: number): readonly [Entry, next: number] => {
  if (at + 46 > bytes.length || view.getUint32(at, true) !== 0x02014b50) throw new Error("its directory is damaged")
  const [nameLength, extraLength, commentLength] = [28, 30, 32].map((place) => view.getUint16(at + place, true))
  const next = at + 46 + nameLength! + extraLength! + commentLength!
  if (next > bytes.length) throw new Error("its directory is damaged")
  const name = new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(at + 46, at + 46 + nameLength!))
  const [flags, method] = [view.getUint16(at + 8, true), view.getUint16(at + 10, true)]
  if (flags & 1) throw new Error(`${JSON.stringify(name)} is encrypted`)
  if (method !== 0) throw new Error(`${JSON.stringify(name)} is compressed: PyTorch stores files as they are`)
  let [packed, size, offset] = [20, 24, 42].map((place) => view.getUint32(at + place, true)) as [number, number, number]
  // what is beyond 32 bits stands in a field of its own
  const end = at + 46 + nameLength! + extraLength!
  for (let extra = at + 46 + nameLength!; extra + 4 <= end;) {
    const [kind, length] = [view.getUint16(extra, true), view.getUint16(extra + 2, true)]
    if (kind === 1) {
      let wide = extra + 4
      const long = (short: number): number => {
        if (short !== 0xffffffff) return short
        if (wide + 8 > Math.min(end, extra + 4 + length)) throw new Error("its directory is damaged")
        wide += 8
        return Number(view.getBigUint64(wide - 8, true))
      }
      size = long(size)
      packed = long(packed)
      offset = long(offset)
    }
    extra += 4 + length
  }
  if (packed !== size || !(offset + 30 + size <= fileBytes)) {
    throw new Error(
      `it says that ${JSON.stringify(name)} has ${size} bytes at ${offset}, and it has ${fileBytes} in all`
    )
  }
  return [{ name, size, crc: view.getUint32(at + 16, true), offset }, next]
}

/** The directory: where the end of the file says that it is. */
const directoryAt = (tail: Uint8Array, tailOffset: number) => {
  const view = viewOf(tail)
  for (let at = tail.length - END; at >= 0; at--) {
    if (view.getUint32(at, true) !== 0x06054b50 || at + END + view.getUint16(at + 20, true) !== tail.length) continue
    const [count, length, offset] = [view.getUint16(at + 10, true), view.getUint32(at + 12, true),
      view.getUint32(at + 16, true)]
    const locator = at - LOCATOR
    const wide = locator >= 0 && view.getUint32(locator, true) === 0x07064b50
      ? Number(view.getBigUint64(locator + 8, true))
      : undefined
    return { count, length, offset, wide, end: tailOffset + at }
  }
  return undefined
}

/** The files of an archive. Fails with `CheckpointError` Corrupt where it is none. */
export const entriesOf = (
  file: FileSystem.File,
  path: string,
  fileBytes: number
): Effect.Effect<ReadonlyArray<Entry>, CheckpointError> =>
  Effect.gen(function*() {
    const tailOffset = Math.max(0, fileBytes - END - 65_535 - LOCATOR)
    const found = directoryAt(yield* readAt(file, path, tailOffset, fileBytes - tailOffset), tailOffset)
    if (found === undefined) return yield* corrupt(path, "is no zip archive, or was cut off")
    let { count, length, offset } = found
    if (found.wide !== undefined) {
      if (!(found.wide + 56 <= found.end)) return yield* corrupt(path, "its directory is damaged")
      const wide = viewOf(yield* readAt(file, path, found.wide, 56))
      if (wide.getUint32(0, true) !== 0x06064b50) return yield* corrupt(path, "its directory is damaged")
      ;[count, length, offset] = [32, 40, 48].map((at) => Number(wide.getBigUint64(at, true))) as [number, number,
        number]
    }
    if (!(offset + length <= found.end && length <= MOST_DIRECTORY)) {return yield* corrupt(path,
        "its directory is damaged")}
    const bytes = yield* readAt(file, path, offset, length)
    const view = viewOf(bytes)
    const entries = new Map<string, Entry>()
    for (let at = 0, i = 0; i < count; i++) {
      const [entry, next] = yield* Effect.try({
        try: () => entryOf(view, bytes, at, fileBytes),
        catch: (cause) => corrupt(path, (cause as Error).message)
      })
      if (entries.has(entry.name)) return yield* corrupt(path, `has ${JSON.stringify(entry.name)} twice`)
      entries.set(entry.name, entry)
      at = next
    }
    return [...entries.values()]
  })

/** The bytes of one file, checked against its checksum. */
export const readEntry = (
  file: FileSystem.File,
  path: string,
  fileBytes: number,
  { crc, name, offset, size }: Entry
): Effect.Effect<Uint8Array<ArrayBuffer>, CheckpointError> =>
  Effect.gen(function*() {
    const head = viewOf(yield* readAt(file, path, offset, 30))
    const start = offset + 30 + head.getUint16(26, true) + head.getUint16(28, true)
    if (head.getUint32(0, true) !== 0x04034b50 || start + size > fileBytes) {
      return yield* corrupt(path, `has no ${JSON.stringify(name)} where its directory says`)
    }
    const bytes = yield* readAt(file, path, start, size)
    return crc32(bytes) === crc
      ? bytes
      : yield* corrupt(path, `${JSON.stringify(name)} in it has not its checksum: copy or download it again`)
  })
