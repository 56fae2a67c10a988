/** The bytes of a file from its beginning to its end, decompressed, without holding more than a few pieces of it. */
import { Decompress } from "fzstd"
import { open } from "node:fs/promises"
import { pipeline, Readable } from "node:stream"
import { createGunzip } from "node:zlib"
import { because, dataError as fail } from "../../Errors.ts"
import { type SourceFile, unreadable } from "./Files.ts"

const PIECE = 1 << 20

/** A frame of zstd can make 128 KiB of 4 bytes: small pieces bound what one of them becomes. */
const ZSTD_PIECE = 1 << 16

async function* plain(path: string, label: string): AsyncGenerator<Uint8Array> {
  try {
    const handle = await open(path, "r")
    try {
      const { size } = await handle.stat()
      // A pipe says that it has 0 bytes.
      const length = size > 0 ? Math.min(size, PIECE) : PIECE
      while (true) {
        const piece = Buffer.allocUnsafeSlow(length)
        const { bytesRead } = await handle.read(piece, 0, length, null)
        if (bytesRead === 0) return
        yield piece.subarray(0, bytesRead)
      }
    } finally {
      await handle.close()
    }
  } catch (cause) {
    throw unreadable(label, cause)
  }
}

/** What is wrong with compressed data, and how far it was sound. */
const damaged = (label: string, format: string, cutShort: boolean, cause: unknown, bytes: number) => {
  const how = cutShort ? `cut short: its ${format} data ends in the middle` : `damaged: ${format} says ${because(cause)}`
  return fail(label, `is ${how}, ${bytes} bytes into the decompressed text. Download or copy it again`, cause)
}

async function* gunzipped(pieces: AsyncGenerator<Uint8Array>, label: string): AsyncGenerator<Uint8Array> {
  let bytes = 0
  try {
    // An error of the pieces, or of zlib, destroys the last stream, which then throws it below.
    const stream = pipeline(Readable.from(pieces), createGunzip({ chunkSize: PIECE >> 2 }), () => {})
    for await (const piece of stream as AsyncIterable<Uint8Array>) {
      bytes += piece.length
      yield piece
    }
  } catch (cause) {
    const { code } = cause as { readonly code?: unknown }
    if (typeof code !== "string" || !code.startsWith("Z_")) throw cause
    throw damaged(label, "gzip", code === "Z_BUF_ERROR", cause, bytes)
  }
}

// Not with what newer Node and Deno have in node:zlib: that reads no frame after the first, or takes half for whole.
async function* unzstd(pieces: AsyncGenerator<Uint8Array>, label: string): AsyncGenerator<Uint8Array> {
  let bytes = 0
  let out: Array<Uint8Array> = []
  const decompress = new Decompress((block) => {
    if (block.length > 0) out.push(block)
  })
  const push = (piece: Uint8Array, final: boolean): ReadonlyArray<Uint8Array> => {
    out = []
    try {
      decompress.push(piece, final)
    } catch (cause) {
      // 5 is the code of an unexpected end, which is one only where the file has ended.
      const cutShort = final && (cause as { readonly code?: unknown }).code === 5
      throw damaged(label, "zstd", cutShort, cause, bytes)
    }
    for (const { length } of out) bytes += length
    return out
  }
  for await (const piece of pieces) {
    for (let at = 0; at < piece.length; at += ZSTD_PIECE) yield* push(piece.subarray(at, at + ZSTD_PIECE), false)
  }
  yield* push(new Uint8Array(0), true)
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
