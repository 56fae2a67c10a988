import { compress, init } from "@bokuweb/zstd-wasm"
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { decompress } from "fzstd"
import { Buffer } from "node:buffer"
import { createHash } from "node:crypto"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { gzipSync } from "node:zlib"
import { beforeAll, describe, expect, it } from "vitest"
import { stream } from "../../../src/data/Source.ts"
import { decompressed } from "../../../src/data/source/Bytes.ts"
import { loadZstd, unzstd, ZstdError } from "../../../src/data/source/Zstd.ts"
import { makeRandom } from "../../reference/random.ts"

beforeAll(() => Promise.all([init(), loadZstd()]))

const from64 = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, "base64"))

/** Pieces of a file, decompressed: their SHA-256, and how many bytes they are. */
const read = async (pieces: ReadonlyArray<Uint8Array>, compression: "gz" | "zst") => {
  async function* all(): AsyncGenerator<Uint8Array> {
    yield* pieces
  }
  const name = `a.txt.${compression}`
  const file = { name, label: name, kind: "text", compression, locate: () => Promise.resolve(name) } as const
  const hash = createHash("sha256")
  let bytes = 0
  for await (const piece of decompressed(all(), file)) {
    hash.update(piece)
    bytes += piece.length
  }
  return { sha256: hash.digest("hex"), bytes }
}

/** A frame of blocks of one byte 128 KiB times, 4 bytes each. */
const runs = (blocks: number, windowCode: number, byte = 0x61): Uint8Array => {
  const frame = new Uint8Array(6 + 4 * blocks)
  frame.set([0x28, 0xb5, 0x2f, 0xfd, 0, windowCode])
  for (let i = 0; i < blocks; i++) {
    const header = (2 ** 17 << 3) | (1 << 1) | (i === blocks - 1 ? 1 : 0)
    frame.set([header & 255, (header >> 8) & 255, header >> 16, byte], 6 + 4 * i)
  }
  return frame
}

/** `{"text":"one"}` and `two`, by `zstd --ultra --long=31` from a pipe: a window of 2 GiB, and a checksum. */
const wide = from64("KLUv/QSo3QAAqHsidGV4dCI6Im9uZSJ9CnR3byJ9CgEAUsw6kOLf7g==")

describe("zstd", () => {
  it("gives what is repeated from 97 MiB before", async () => {
    const frame = readFileSync(new URL("../../fixtures/far.txt.zst", import.meta.url))
    const { bytes, sha256 } = await read([frame], "zst")
    expect(bytes).toBe((97 << 20) + 2 * 4096)
    const text = unzstd(frame, bytes)
    expect(Buffer.from(text.subarray(0, 4096)).toString()).toMatch(/^[a-z]{4096}$/)
    expect(Buffer.compare(text.subarray(0, 4096), text.subarray(-4096))).toBe(0)
    expect(Buffer.compare(text.subarray(4096, -4096), Buffer.alloc(97 << 20, 32))).toBe(0)
    expect(createHash("sha256").update(text).digest("hex")).toBe(sha256)
  })

  it("is read of a window that is too large while the text is short, and else refused with what to do", async () => {
    expect(Buffer.from(unzstd(wide, 30)).toString()).toBe("{\"text\":\"one\"}\n{\"text\":\"two\"}\n")
    // 1024 blocks are 128 MiB, the largest window; 20 << 3 asks for 1 GiB.
    expect((await read([runs(1024, 20 << 3)], "zst")).bytes).toBe(2 ** 27)
    await expect(read([runs(1025, 20 << 3)], "zst")).rejects.toThrow(
      /a\.txt\.zst: needs a window of 1 GiB \(zstd --long=30\); the largest that is read is 128 MiB\. Compress it/
    )
    expect((await read([runs(1025, 17 << 3)], "zst")).bytes).toBe(2 ** 27 + 2 ** 17)
    // A frame that says itself that it has more text than that is refused before any of it is given.
    const sized = new Uint8Array([0x28, 0xb5, 0x2f, 0xfd, 0x80, 21 << 3, 0, 0, 0, 16, 1, 0, 0])
    await expect(read([sized], "zst")).rejects.toThrow(/needs a window of 2 GiB \(zstd --long=31\)/)
  })

  it("whose bytes or checksum are not what was written is damaged, whichever bit it is", async () => {
    const damaged: Array<string> = []
    for (let bit = 8 * 6; bit < 8 * wide.length; bit++) {
      const bad = wide.slice()
      bad[bit >> 3]! ^= 1 << (bit & 7)
      await read([bad], "zst").then(
        ({ bytes }) => damaged.push(`bit ${bit} gave ${bytes} bytes`),
        (error: Error) => error.message.startsWith("a.txt.zst: is ") || damaged.push(error.message)
      )
    }
    // The last block says whether it is the last: without it the end is missing.
    expect(damaged).toEqual([])
    const bad = wide.slice()
    bad[wide.length - 1]! ^= 1
    await expect(read([bad], "zst")).rejects.toThrow(/is damaged: zstd says that the text is not that of its checksum/)
  })

  it("that needs a dictionary, begins with none of its frames, or has more behind them is told apart", async () => {
    const frame = runs(1, 7 << 3)
    const asks = new Uint8Array([...frame.subarray(0, 4), 1, frame[5]!, 42, ...frame.subarray(6)])
    await expect(read([asks], "zst")).rejects.toThrow(/a\.txt\.zst: was compressed with dictionary 42/)
    for (const behind of ["x", "garbage behind it", "\0\0\0\0\0\0"]) {
      await expect(read([frame, Buffer.from(behind)], "zst")).rejects.toThrow(/is (damaged|cut short): .* 131072 bytes/)
    }
    await expect(read([], "zst")).rejects.toThrow(/is cut short: its zstd data ends in the middle, 0 bytes/)
    await expect(read([frame, frame.subarray(0, 3)], "zst")).rejects.toThrow(/is cut short/)
    expect((await read([frame, frame, frame], "zst")).bytes).toBe(3 * 2 ** 17)
  })

  it("of 4 bytes for 128 KiB is read as fast as it is decompressed", async () => {
    const began = performance.now()
    expect((await read([runs(500, 7 << 3)], "zst")).bytes).toBe(500 * 2 ** 17)
    expect(performance.now() - began).toBeLessThan(5000)
  })

  it("lets others have their turn, however little there is to read", async () => {
    let turns = 0
    const timer = setInterval(() => turns++, 1)
    // a quarter of a gigabyte out of 8 KiB
    await read([runs(2048, 17 << 3, 10)], "zst")
    clearInterval(timer)
    expect(turns).toBeGreaterThan(0)
  })

  it("of blank lines alone is left in the middle by whoever does not wait", async () => {
    const file = join(mkdtempSync(join(tmpdir(), "memsinks-zstd-")), "blank.jsonl.zst")
    // 16 GiB of ends of lines
    writeFileSync(file, runs(1 << 17, 17 << 3, 10))
    const reading = Stream.runDrain(stream({ path: file })).pipe(Effect.provide(NodeFileSystem.layer))
    const began = performance.now()
    await Effect.runPromise(Effect.timeoutOption(reading, 200))
    expect(performance.now() - began).toBeLessThan(5000)
    rmSync(dirname(file), { recursive: true })
  })

  it("is what another decoder, and what was compressed, says", () => {
    const random = makeRandom(7)
    for (let round = 0; round < 30; round++) {
      const words = Array.from({ length: 1 + random.int(40) }, () => String(random.int(1e6)))
      const drawn = Array.from({ length: random.int(4000) }, () => words[random.int(words.length)])
      const text = Buffer.from(drawn.join(" "))
      const frame = compress(text, 1 + random.int(19))
      const found = unzstd(frame, text.length)
      expect(Buffer.compare(found, text)).toBe(0)
      expect(Buffer.compare(found, decompress(frame))).toBe(0)
    }
    expect(() => unzstd(compress(Buffer.from("abc"), 3), 2)).toThrow(ZstdError)
    expect(() => unzstd(compress(Buffer.from("abc"), 3), 4)).toThrow(ZstdError)
  })
})

describe("gzip", () => {
  const member = gzipSync("member")
  const zeros = new Uint8Array(9)

  it("may have several members, and padding", async () => {
    expect((await read([member, member], "gz")).bytes).toBe(12)
    expect((await read([Buffer.concat([member, member, zeros])], "gz")).bytes).toBe(12)
    expect((await read([member, zeros], "gz")).bytes).toBe(6)
  })

  it("with anything else behind it, cut short, or changed, is damaged", async () => {
    const behind = [[Buffer.from("garbage")], [zeros, Buffer.from("x")], [zeros, member], [Buffer.of(0x1f)]]
    for (const pieces of behind) {
      for (const given of [[member, ...pieces], [Buffer.concat([member, ...pieces])]]) {
        await expect(read(given, "gz")).rejects.toThrow(/^a\.txt\.gz: is (damaged|cut short): /)
      }
    }
    for (let at = 0; at < member.length; at++) await expect(read([member.subarray(0, at)], "gz")).rejects.toThrow(/cut/)
    const sound = await read([member], "gz")
    // Behind the header, whose bytes for time and system mean nothing.
    for (let bit = 8 * 10; bit < 8 * member.length; bit++) {
      const bad = Uint8Array.from(member)
      bad[bit >> 3]! ^= 1 << (bit & 7)
      const found = await read([bad], "gz").catch((error: Error) => error.message)
      // Bits that only fill up the last byte of a member mean nothing.
      if (typeof found !== "string") expect(found, `bit ${bit}`).toEqual(sound)
      else expect(found).toMatch(/^a\.txt\.gz: is (damaged|cut short): /)
    }
  })
})
