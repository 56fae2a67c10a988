/**
 * Compressed streams: several frames behind one another are the text of all, a part is refused, and what is damaged is
 * refused or its checksum holds. A small file of an enormous text is read in little memory. And files of tensors, beside
 * plain readers of their formats.
 */
import { compress } from "@bokuweb/zstd-wasm"
import * as Either from "effect/Either"
import { gzipSync } from "fflate"
import { Buffer } from "node:buffer"
import { createHash } from "node:crypto"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import process from "node:process"
import * as Safetensors from "../../src/checkpoints/Safetensors.ts"
import { bytesOf } from "../../src/data/source/Bytes.ts"
import { DataError } from "../../src/Errors.ts"
import { ready } from "./files.ts"
import type { Fuzzer } from "./fuzz.ts"

type Random = () => number

const below = (random: Random, n: number): number => Math.floor(random() * n)
const pick = <A>(random: Random, from: ReadonlyArray<A>): A => from[below(random, from.length)]!

const textOf = (random: Random): Buffer => {
  const kind = below(random, 4)
  if (kind === 0) return Buffer.alloc(below(random, 400_000), pick(random, [0, 10, 97]))
  if (kind === 1) return Buffer.from(Uint8Array.from({ length: below(random, 3000) }, () => below(random, 256)))
  return Buffer.from("so it goes on, 四 and on\n".repeat(below(random, 400)))
}

interface Read {
  readonly sha256?: string
  readonly bytes: number
  /** Of the error: undefined where all was read. */
  readonly tag?: string
  readonly problem?: string
}

/** The digest of a file's text, or what it is refused with. */
const read = async (path: string, compression: "gz" | "zst"): Promise<Read> => {
  const hash = createHash("sha256")
  let bytes = 0
  try {
    const file = { name: "a", label: path, kind: "text", compression, locate: () => Promise.resolve(path) } as const
    for await (const piece of bytesOf(path, file)) {
      bytes += piece.length
      hash.update(piece)
    }
  } catch (error) {
    if (!(error instanceof DataError)) {
      return { bytes, tag: "untyped", problem: error instanceof Error ? error.stack! : String(error) }
    }
    const told = error.message.startsWith(path) && error.detail.length > 20
    return { bytes, tag: error._tag, ...(told ? {} : { problem: `says only ${error.message}` }) }
  }
  return { bytes, sha256: hash.digest("hex") }
}

const sha256Of = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex")

/** Bytes that zstd passes over: a frame of somebody else. */
const skippable = (random: Random): Buffer => {
  const content = Buffer.alloc(below(random, 40), 7)
  const head = Buffer.alloc(8)
  head.writeUInt32LE(0x184d2a50 + below(random, 16))
  head.writeUInt32LE(content.length, 4)
  return Buffer.concat([head, content])
}

/** A frame, and whether a change of its bytes cannot go unseen. */
const frameOf = (random: Random, text: Buffer, compression: "gz" | "zst"): Buffer => {
  if (compression === "gz") {
    const name = random() < 0.3 ? { filename: "a name.txt" } : {}
    return Buffer.from(gzipSync(text, { mtime: 0, level: pick(random, [1, 6, 9] as const), ...name }))
  }
  return Buffer.from(compress(text, 1 + below(random, 12)))
}

const frames = (compression: "gz" | "zst"): Fuzzer => ({
  name: `frames of ${compression}`,
  run: async (random, inputs, note) => {
    await ready()
    const root = mkdtempSync(join(tmpdir(), "memsinks-streams-"))
    const path = join(root, `a.${compression}`)
    const wrong: Array<string> = []
    try {
      for (let i = 0; i < inputs; i++) {
        const texts = Array.from({ length: 1 + below(random, 3) }, () => textOf(random))
        const parts = texts.map((text) => frameOf(random, text, compression))
        if (compression === "zst" && random() < 0.3) parts.splice(below(random, parts.length + 1), 0, skippable(random))
        // where one ends: a file may be cut there, and be whole
        const ends = parts.map((_, k) => Buffer.concat(parts.slice(0, k + 1)).length)
        const whole = Buffer.concat(parts)
        const fail = (what: string, bytes: Uint8Array) =>
          wrong.push(`input ${i}: ${what}: ${Buffer.from(bytes).toString("base64").slice(0, 3000)}`)
        const wanted = sha256Of(Buffer.concat(texts))

        writeFileSync(path, whole)
        const sound = await read(path, compression)
        if (sound.sha256 !== wanted) fail(sound.problem ?? "another text than was compressed", whole)

        const at = below(random, whole.length)
        writeFileSync(path, whole.subarray(0, at))
        const cut = await read(path, compression)
        if (cut.problem !== undefined) fail(cut.problem, whole.subarray(0, at))
        if (cut.tag === undefined && at > 0 && !ends.includes(at)) {
          fail(`cut at ${at}, it is taken for whole`, whole.subarray(0, at))
        }

        const changed = Buffer.from(whole)
        const place = below(random, whole.length)
        changed[place] = changed[place]! ^ (1 << below(random, 8))
        writeFileSync(path, changed)
        const other = await read(path, compression)
        if (other.problem !== undefined) fail(other.problem, changed)
        // gzip has a checksum of every text; a header of its own says nothing of it
        if (compression === "gz" && other.sha256 !== undefined && other.sha256 !== wanted) {
          fail("a changed text", changed)
        }
        for (const { bytes, sha256, tag } of [sound, cut, other]) note(tag ?? `${bytes} ${sha256}`)
      }
    } finally {
      rmSync(root, { recursive: true, force: true })
    }
    return wrong
  }
})

/** Bytes of text in a bomb, and how much memory reading it may take. */
const BOMB = 256 << 20
const ROOM = 160 << 20

const bombs: Fuzzer = {
  name: "bombs",
  run: async (random, inputs, note) => {
    await ready()
    const root = mkdtempSync(join(tmpdir(), "memsinks-streams-"))
    const wrong: Array<string> = []
    const piece = Buffer.alloc(8 << 20)
    try {
      // each is seconds of work: one for a few hundred inputs of other fuzzers
      for (let i = 0; i < Math.ceil(inputs / 400); i++) {
        for (const compression of ["gz", "zst"] as const) {
          const path = join(root, `a.${compression}`)
          const frame = frameOf(random, piece, compression)
          writeFileSync(path, Buffer.concat(Array.from({ length: BOMB / piece.length }, () => frame)))
          const before = process.memoryUsage().rss
          const { bytes, tag } = await read(path, compression)
          const grown = process.memoryUsage().rss - before
          note(`${compression} ${bytes} ${tag}`)
          if (bytes !== BOMB) wrong.push(`${compression}: ${bytes} bytes of ${BOMB}, ${tag}`)
          if (grown > ROOM) wrong.push(`${compression}: took ${grown >> 20} MiB`)
        }
      }
    } finally {
      rmSync(root, { recursive: true, force: true })
    }
    return wrong
  }
}

/** A plain reader of safetensors, for files that are sound: type, shape and bytes by name. */
const readTensors = (
  bytes: Uint8Array
): Map<string, readonly [dtype: string, shape: ReadonlyArray<number>, data: Buffer]> => {
  const length = Number(Buffer.from(bytes).readBigUInt64LE(0))
  const header = JSON.parse(Buffer.from(bytes.subarray(8, 8 + length)).toString("utf8")) as Record<string, {
    readonly dtype: string
    readonly shape: ReadonlyArray<number>
    readonly data_offsets: readonly [number, number]
  }>
  return new Map(
    Object.entries(header).filter(([name]) => name !== "__metadata__").map((
      [name, { data_offsets: [from, to], dtype, shape }]
    ) => [name, [dtype, shape, Buffer.from(bytes.subarray(8 + length + from, 8 + length + to))]])
  )
}

const names = ["a", "model.layers.0.weight", "é日本", "__proto__", "with \"quotes\"", "7", "x".repeat(300)]

const tensors: Fuzzer = {
  name: "safetensors",
  run: async (random, inputs, note) => {
    const wrong: Array<string> = []
    for (let i = 0; i < inputs; i++) {
      const made = new Map(Array.from({ length: below(random, 5) }, () => {
        const shape = Array.from({ length: below(random, 4) }, () => below(random, 5))
        const data = Float32Array.from({ length: shape.reduce((n, size) => n * size, 1) }, () =>
          pick(random, [0, -0, NaN, Infinity, 1e-45, 3.4e38, random()]))
        return [pick(random, names), { shape, data }] as const
      }))
      const encoded = Either.getOrThrow(Safetensors.encode(Object.fromEntries(made)))
      const file = Buffer.concat([...encoded.chunks])
      const seen = readTensors(file)
      const agree = file.length === encoded.byteLength && seen.size === made.size &&
        [...made].every(([name, { data, shape }]) => {
          const there = seen.get(name)
          return there?.[0] === "F32" && String(there[1]) === String(shape) && there[2].equals(Buffer.from(data.buffer))
        })
      if (!agree) {
        wrong.push(`input ${i}: a plain reader reads other tensors: ${file.toString("base64").slice(0, 2000)}`)
      }
      const back = Either.getOrUndefined(Safetensors.decode(file))
      const same = back !== undefined && Object.keys(back).length === made.size &&
        [...made].every(([name, { data, shape }]) =>
          String(back[name]?.shape) === String(shape) &&
          Buffer.from((back[name]!.data as Float32Array).buffer).equals(Buffer.from(data.buffer))
        )
      if (!same) wrong.push(`input ${i}: reads back other tensors: ${file.toString("base64").slice(0, 2000)}`)
      // damaged: refused, or of the very length; never an exception
      const damaged = random() < 0.3 ? file.subarray(0, below(random, file.length)) : Buffer.from(file)
      for (let k = below(random, 3); k >= 0 && damaged.length > 0; k--) {
        damaged[below(random, Math.min(damaged.length, 200))] = below(random, 256)
      }
      try {
        const read = Safetensors.decode(damaged)
        note(
          Either.isLeft(read) ?
            read.left.reason :
            Object.entries(read.right).map(([name, { data, shape }]) =>
              `${name} ${shape} ${sha256Of(new Uint8Array(data.buffer))}`
            ).join()
        )
      } catch (error) {
        wrong.push(`input ${i}: ${String(error)}: ${damaged.toString("base64").slice(0, 2000)}`)
      }
    }
    return wrong
  }
}

export const fuzzers: ReadonlyArray<Fuzzer> = [frames("gz"), frames("zst"), bombs, tensors]
