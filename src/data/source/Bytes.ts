/** The bytes of a file from its beginning to its end, decompressed, without holding more than a few pieces of it. */
import { closeSync, fstatSync, read } from "node:fs"
import { pipeline, Readable } from "node:stream"
import { setImmediate } from "node:timers/promises"
import { promisify } from "node:util"
import { createGunzip } from "node:zlib"
import { because, DataError, dataError as fail, told } from "../../Errors.ts"
import { openFile, type SourceFile, unreadable } from "./Files.ts"
import type { ZstdStream } from "./Zstd.ts"

const PIECE = 1 << 20

const readAt = promisify(read)

async function* plain(path: string, label: string): AsyncGenerator<Uint8Array> {
  const handle = openFile(path, label)
  try {
    const length = Math.min(fstatSync(handle).size || PIECE, PIECE)
    while (true) {
      const piece = Buffer.allocUnsafeSlow(length)
      const { bytesRead } = await readAt(handle, piece, 0, length, null)
      if (bytesRead === 0) return
      yield piece.subarray(0, bytesRead)
    }
  } catch (cause) {
    throw told((system) => unreadable(label, system))(cause)
  } finally {
    closeSync(handle)
  }
}

/** What is wrong with compressed data, and how far it was sound. */
const damaged = (label: string, how: string, cause: unknown, bytes: number): DataError =>
  fail(label, `is ${how}, ${bytes} bytes into the decompressed text. Download or copy it again`, cause)

async function* gunzipped(pieces: AsyncGenerator<Uint8Array>, label: string): AsyncGenerator<Uint8Array> {
  const gunzip = createGunzip({ chunkSize: PIECE >> 2 })
  // Bytes of the file, and up to the last that is no padding: zlib takes what is behind padding for nothing.
  let [given, used] = [0, 0]
  const count = (piece: Uint8Array): Uint8Array => {
    for (let at = piece.length; at > 0; at--) {
      if (piece[at - 1] === 0) continue
      used = given + at
      break
    }
    given += piece.length
    return piece
  }
  const counted = async function*(): AsyncGenerator<Uint8Array> {
    for (let next = await pieces.next(); !next.done; next = await pieces.next()) yield count(next.value)
  }
  let bytes = 0
  try {
    // An error of the pieces, or of zlib, destroys the last stream, which then throws it below.
    const stream = pipeline(Readable.from(counted()), gunzip, () => {})
    for await (const piece of stream as AsyncIterable<Uint8Array>) {
      bytes += piece.length
      yield piece
    }
    for (let next = await pieces.next(); !next.done; next = await pieces.next()) count(next.value)
  } catch (cause) {
    if (cause instanceof DataError) throw cause
    const { code } = cause as { readonly code?: unknown }
    const how = code === "Z_BUF_ERROR"
      ? "cut short: its gzip data ends in the middle"
      : `damaged: gzip says ${because(cause)}`
    throw damaged(label, how, cause, bytes)
  } finally {
    await pieces.return(undefined)
  }
  if (used > gunzip.bytesWritten) {
    const what = `gzip data ends at byte ${gunzip.bytesWritten} of the file, and there is more behind it`
    throw damaged(label, `damaged: its ${what}`, undefined, bytes)
  }
}

/** Milliseconds that are decompressed before others have their turn, a signal that ends it above all. */
const TURN = 50

// Not with what newer Node and Deno have in node:zlib: that reads no frame after the first, or takes half for whole.
async function* unzstd(pieces: AsyncGenerator<Uint8Array>, label: string): AsyncGenerator<Uint8Array> {
  const { loadZstd, ZstdError, zstdStream } = await import("./Zstd.ts")
  await loadZstd()
  let bytes = 0
  let stream: ZstdStream | undefined
  try {
    stream = zstdStream()
    let until = performance.now() + TURN
    for await (const piece of pieces) {
      // a few bytes may become gigabytes, of which none is waited for
      for (const text of stream.push(piece)) {
        bytes += text.length
        yield text
        if (performance.now() < until) continue
        await setImmediate()
        until = performance.now() + TURN
      }
    }
    stream.end()
  } catch (cause) {
    if (!(cause instanceof ZstdError)) throw cause
    if (cause.problem === "refused") throw fail(label, cause.message, cause)
    const how = cause.problem === "damaged" ? `damaged: zstd says that ${cause.message}` : `cut short: ${cause.message}`
    throw damaged(label, how, cause, bytes)
  } finally {
    stream?.close()
  }
}

/** The bytes of a file when they are decompressed. Throws a `DataError` where they are damaged or cut short. */
export const decompressed = (
  pieces: AsyncGenerator<Uint8Array>,
  { compression, label }: SourceFile
): AsyncGenerator<Uint8Array> =>
  compression === "gz" ? gunzipped(pieces, label) : compression === "zst" ? unzstd(pieces, label) : pieces

/** Reads a file, decompressed. Throws a `DataError` where it cannot be read. */
export const bytesOf = (path: string, file: SourceFile): AsyncGenerator<Uint8Array> =>
  decompressed(plain(path, file.label), file)
