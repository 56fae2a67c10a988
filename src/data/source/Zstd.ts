/**
 * Frames of zstd, by the decoder of its authors, which checks the checksum that a frame ends with. It is told here what
 * it would refuse without a reason: windows that are too large, dictionaries, and what is no frame at all.
 */
import { ZSTDDecoder } from "zstddec/stream"

/** What the decoder gives to those who call it: the functions of zstd, and the memory that they work in. */
interface Library {
  readonly memory: WebAssembly.Memory
  readonly malloc: (bytes: number) => number
  readonly free: (pointer: number) => void
  readonly ZSTD_createDCtx: () => number
  readonly ZSTD_freeDCtx: (context: number) => number
  readonly ZSTD_decompressStream: (context: number, output: number, input: number) => number
}

let library: Library | undefined

/** The package's own streams never end where data is damaged, and do not say why: only its library is used. */
class Loader extends ZSTDDecoder {
  override _init(result: WebAssembly.WebAssemblyInstantiatedSource): void {
    super._init(result)
    library = result.instance.exports as unknown as Library
  }
}

/** Loads the decoder; needed once, before any other use. */
export const loadZstd = (): Promise<void> => new Loader().init()

/** Bytes of the longest way back that a frame may refer to, which are held in memory: as for `zstd -d`. */
const LARGEST_WINDOW = 2 ** 27

/** What a window of this size is in the header of a frame: its logarithm less 10, before three bits of a fraction. */
const LARGEST_WINDOW_CODE = 17 << 3

const IN = 1 << 17
const OUT = 1 << 18
/** Two times a pointer, a size and a position, of 4 bytes each. */
const BUFFERS = 24

const FRAME = 0xfd2fb528
const SKIPPABLE = 0x184d2a50

/** Results from here on are errors, negative ones: -20 is 20. */
const FIRST_ERROR = 2 ** 32 - 120

const REASONS: Readonly<Record<number, string>> = {
  22: "the text is not that of its checksum",
  64: "there is not enough memory"
}

/** Why a stream cannot be read. The message goes behind the file's name. */
export class ZstdError extends Error {
  /** What is wrong: the end is missing, the bytes are not what was written, or it is sound but cannot be read. */
  readonly problem: "cut short" | "damaged" | "refused"
  constructor(problem: ZstdError["problem"], message: string) {
    super(message)
    this.problem = problem
  }
}

const MIB = 2 ** 20

const tooLarge = (window: number): ZstdError => {
  const size = window >= 1024 * MIB ? `${window / MIB / 1024} GiB` : `${Math.ceil(window / MIB)} MiB`
  const log = Math.ceil(Math.log2(window))
  return new ZstdError(
    "refused",
    `needs a window of ${size} (zstd --long=${log}); the largest that is read is ${LARGEST_WINDOW / MIB} MiB. ` +
      `Compress it with a smaller one: zstd -d --long=${log} < OLD.zst | zstd --long=27 > NEW.zst`
  )
}

const little = (bytes: Uint8Array, at: number, length: number): number => {
  let value = 0
  for (let i = length - 1; i >= 0; i--) value = value * 256 + bytes[at + i]!
  return value
}

/** Bytes of the frame header that these begin, as far as they tell. */
const headerBytes = (bytes: Uint8Array): number => {
  if (bytes.length < 5) return 5
  if ((little(bytes, 0, 4) & 0xfffffff0) >>> 0 === SKIPPABLE) return 5
  const flags = bytes[4]!
  const single = (flags >> 5) & 1
  return 5 + (1 - single) + [0, 1, 2, 4][flags & 3]! + ([single, 2, 4, 8][flags >> 6]!)
}

/** What a frame's header asks for, and the bytes of text that it may have. */
interface Bounds {
  readonly window: number
  readonly text: number
}

/** Checks the header of a frame. Its window is cut to what is read. */
const checkHeader = (header: Uint8Array): Bounds => {
  const magic = little(header, 0, 4)
  if ((magic & 0xfffffff0) >>> 0 === SKIPPABLE) return { window: 0, text: Infinity }
  if (magic !== FRAME) throw new ZstdError("damaged", "no frame begins where one must")
  const flags = header[4]!
  const single = (flags >> 5) & 1
  const dictionaryBytes = [0, 1, 2, 4][flags & 3]!
  const contentBytes = [single, 2, 4, 8][flags >> 6]!
  const dictionary = little(header, 6 - single, dictionaryBytes)
  if (dictionary !== 0) {
    throw new ZstdError(
      "refused",
      `was compressed with dictionary ${dictionary}, which it does not hold. Compress it without one`
    )
  }
  const content = contentBytes === 0
    ? undefined
    : little(header, 6 - single + dictionaryBytes, contentBytes) + (contentBytes === 2 ? 256 : 0)
  const code = header[5]!
  const window = single === 1 ? content! : 2 ** (10 + (code >> 3)) * (1 + (code & 7) / 8)
  if (window <= LARGEST_WINDOW) return { window, text: Infinity }
  if (content !== undefined && content > LARGEST_WINDOW) throw tooLarge(window)
  // No text refers to what is before its beginning: a short one does with less than its frame asks for.
  header[5] = LARGEST_WINDOW_CODE
  return { window, text: LARGEST_WINDOW }
}

/** A stream of frames, decompressed as it comes. Must be closed. Its methods throw `ZstdError`. */
export interface ZstdStream {
  /** The text of some more bytes, a piece at a time; the next call needs all of it taken. */
  readonly push: (bytes: Uint8Array) => Generator<Uint8Array<ArrayBuffer>>
  /** Checks that the stream ends where a frame does. */
  readonly end: () => void
  readonly close: () => void
}

/** Begins a stream of frames. */
export const zstdStream = (): ZstdStream => {
  const zstd = library!
  const context = zstd.ZSTD_createDCtx()
  const start = zstd.malloc(BUFFERS + IN + OUT)
  const [output, input] = [start, start + BUFFERS / 2]
  const [outBytes, inBytes] = [start + BUFFERS, start + BUFFERS + OUT]

  let header: Uint8Array | undefined = new Uint8Array(0)
  let frames = 0
  let bounds: Bounds = { window: 0, text: Infinity }
  let text = 0

  const close = (): void => {
    zstd.free(start)
    zstd.ZSTD_freeDCtx(context)
  }
  if (context === 0 || start === 0) {
    close()
    throw new ZstdError("refused", `cannot be read: ${REASONS[64]}`)
  }

  /** Decompresses bytes of one frame; gives how many of them it has. */
  const decode = function*(bytes: Uint8Array): Generator<Uint8Array<ArrayBuffer>, number> {
    let taken = 0
    while (true) {
      const length = Math.min(IN, bytes.length - taken)
      new Uint8Array(zstd.memory.buffer, inBytes, length).set(bytes.subarray(taken, taken + length))
      new Uint32Array(zstd.memory.buffer, output, BUFFERS / 4).set([outBytes, OUT, 0, inBytes, length, 0])
      const result = zstd.ZSTD_decompressStream(context, output, input) >>> 0
      if (result >= FIRST_ERROR) {
        const reason = REASONS[2 ** 32 - result] ?? "its bytes are not what was compressed"
        throw new ZstdError(2 ** 32 - result === 64 ? "refused" : "damaged", reason)
      }
      const [, , written, , , read] = new Uint32Array(zstd.memory.buffer, output, BUFFERS / 4)
      taken += read!
      if (written! > 0) {
        text += written!
        if (text > bounds.text) throw tooLarge(bounds.window)
        yield new Uint8Array(zstd.memory.buffer, outBytes, written).slice() as Uint8Array<ArrayBuffer>
      }
      if (result === 0) {
        header = new Uint8Array(0)
        frames++
        return taken
      }
      if (taken === bytes.length && written! < OUT) return taken
    }
  }

  const push = function*(bytes: Uint8Array): Generator<Uint8Array<ArrayBuffer>> {
    for (let at = 0; at < bytes.length;) {
      if (header === undefined) {
        at += yield* decode(bytes.subarray(at))
        continue
      }
      const more = bytes.subarray(at, at + headerBytes(header) - header.length)
      at += more.length
      const all: Uint8Array = new Uint8Array(header.length + more.length)
      all.set(header)
      all.set(more, header.length)
      header = all
      if (header.length < headerBytes(header)) continue
      bounds = checkHeader(all)
      text = 0
      header = undefined
      yield* decode(all)
    }
  }

  const end = (): void => {
    if (header === undefined || header.length > 0 || frames === 0) {
      throw new ZstdError("cut short", "its zstd data ends in the middle")
    }
  }
  return { push, end, close }
}

/** Decompresses frames that become so many bytes. Throws `ZstdError`. */
export const unzstd = (bytes: Uint8Array, length: number): Uint8Array<ArrayBuffer> => {
  const stream = zstdStream()
  try {
    const all = new Uint8Array(length)
    let at = 0
    for (const piece of stream.push(bytes)) {
      if (at + piece.length > length) throw new ZstdError("damaged", `it has more than ${length} bytes`)
      all.set(piece, at)
      at += piece.length
    }
    stream.end()
    if (at < length) throw new ZstdError("damaged", `it has ${at} bytes, not ${length}`)
    return all
  } finally {
    stream.close()
  }
}
