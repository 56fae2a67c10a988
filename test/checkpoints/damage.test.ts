/** Damaged configuration and data files: each is read as what it says, or refused with a typed error. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { parquetWriteBuffer } from "hyparquet-writer"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import { afterAll, describe, expect, it } from "vitest"
import { PretrainConfig } from "../../pipelines/pretrain.ts"
import { readConfig } from "../../src/cli/config.ts"
import { decodeConfig } from "../../src/Config.ts"
import * as Source from "../../src/data/Source.ts"
import { DataError } from "../../src/Errors.ts"
import { makeRandom } from "../reference/random.ts"

const folder = mkdtempSync(join(tmpdir(), "memsinks-damage-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const seed = Number(process.env["MEMSINKS_TEST_SEED"] ?? 20261121)

/** A copy with something wrong: cut off, some bits or bytes changed, a piece left out, doubled, or put elsewhere. */
const damaged = (bytes: Uint8Array, random: ReturnType<typeof makeRandom>): Uint8Array => {
  const at = random.int(bytes.length)
  const size = 1 + random.int(Math.min(64, bytes.length - at))
  const piece = bytes.subarray(at, at + size)
  // of a Buffer, slice is a view
  const copy = Uint8Array.from(bytes)
  switch (random.int(5)) {
    case 0:
      return bytes.slice(0, at)
    case 1:
      copy[at]! ^= 1 << random.int(8)
      return copy
    case 2:
      for (let i = 0; i < size; i++) copy[at + i] = random.int(256)
      return copy
    case 3:
      return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + size)])
    default:
      return Buffer.concat([bytes.subarray(0, at), piece, piece, bytes.subarray(at + size)])
  }
}

/** Reads 50 damaged copies of a file; returns how many were refused. Fails on anything but a `DataError` or a value. */
const tryAll = async (name: string, bytes: Uint8Array,
  read: (path: string) => Effect.Effect<unknown, DataError, never>) =>
{
  const random = makeRandom(seed)
  const path = join(folder, name)
  writeFileSync(path, bytes)
  await Effect.runPromise(read(path))
  let refused = 0
  for (let i = 0; i < 50; i++) {
    writeFileSync(path, damaged(bytes, random))
    const exit = await Effect.runPromise(Effect.either(read(path))).catch((defect: unknown) => {
      throw new Error(`copy ${i} of ${name} (MEMSINKS_TEST_SEED=${seed}): ${String(defect).slice(0, 500)}`)
    })
    if (Either.isRight(exit)) continue
    expect(exit.left).toBeInstanceOf(DataError)
    expect(exit.left.message.length).toBeGreaterThan(20)
    refused++
  }
  return refused
}

const documents = (path: string) =>
  Source.stream({ path }).pipe(Stream.runCollect, Effect.map(Chunk.size), Effect.provide(NodeContext.layer))

const rows = Array.from({ length: 40 }, (_, i) => ({ id: `d${i}`, text: `Text ${i} says that ${i * i} is café ☕.` }))
const jsonl = Buffer.from(rows.map((row) => JSON.stringify(row)).join("\n"))

describe("50 damaged copies each", () => {
  it("of a configuration", async () => {
    const config = Schema.encodeSync(PretrainConfig)(new PretrainConfig({}))
    const read = (path: string) =>
      readConfig(path).pipe(
        Effect.flatMap((tree) => decodeConfig(PretrainConfig, tree)),
        Effect.provide(NodeContext.layer)
      )
    expect(await tryAll("run.json", Buffer.from(JSON.stringify(config, undefined, 2)), read)).toBeGreaterThan(25)
  })

  it("of JSONL, plain and gzip", async () => {
    expect(await tryAll("a.jsonl", jsonl, documents)).toBeGreaterThan(15)
    expect(await tryAll("a.jsonl.gz", gzipSync(jsonl), documents)).toBeGreaterThan(40)
  })

  it("of Parquet", async () => {
    const bytes = parquetWriteBuffer({
      columnData: [
        { name: "id", data: rows.map(({ id }) => id) },
        { name: "text", data: rows.map(({ text }) => text) }
      ]
    })
    expect(await tryAll("a.parquet", new Uint8Array(bytes as ArrayBuffer), documents)).toBeGreaterThan(10)
  })
})
