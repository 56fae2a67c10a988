import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { createHash } from "node:crypto"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import type { IdentityOptions } from "../../src/cli/commands/identity.ts"
import { identity } from "../../src/cli/identity.ts"
import { contentHash } from "../../src/data/identity/Identity.ts"
import type { IdentityReport } from "../../src/data/stream/IdentityReport.ts"
import * as Tokenizer from "../../src/data/tokens/Tokenizer.ts"
import { printedBy } from "../support/stdout.ts"

const folder = mkdtempSync(join(tmpdir(), "memsinks-identity-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** Token shards of bytes, as `memsinks tokenize` lays them out. */
const texts = [
  "Four score and seven years ago",
  "FOUR score, and seven years ago!",
  "Ask not what",
  "Four score and ten years ago"
]
const near = [0, 0, 2, 0]
const encoded = texts.map((text) => [...Tokenizer.bytes.encode(text)])
const index = new DataView(new ArrayBuffer(32 * texts.length))
let start = 0
texts.forEach((text, i) => {
  index.setBigUint64(32 * i, BigInt(start), true)
  index.setUint32(32 * i + 8, encoded[i]!.length, true)
  index.setUint32(32 * i + 12, i === 2 ? 1 : 0, true)
  index.setBigUint64(32 * i + 16, contentHash(text), true)
  index.setBigUint64(32 * i + 24, BigInt(near[i]!), true)
  start += encoded[i]!.length
})
writeFileSync(join(folder, "shard-00000.bin"), new Uint8Array(Uint16Array.from(encoded.flat()).buffer))
writeFileSync(join(folder, "shard-00000.idx"), new Uint8Array(index.buffer))
writeFileSync(join(folder, "shard-00000.names.jsonl"), texts.map((_, i) => `"speech ${i}"\n`).join(""))
writeFileSync(join(folder, "tokenizer.json"), Tokenizer.bytes.toJSON())
writeFileSync(
  join(folder, "dataset.json"),
  JSON.stringify({
    format: 1,
    tokenizer: "tokenizer.json",
    vocabSize: 256,
    dtype: "uint16",
    tokens: start,
    documents: texts.length,
    sources: ["lincoln", "kennedy"],
    near: { threshold: 0.5, numHashes: 128, shingle: 5, clusters: 1, documents: 3 },
    shards: [{ file: "shard-00000.bin", tokens: start, documents: texts.length }],
    sha256: Object.fromEntries(
      ["tokenizer.json", "shard-00000.bin", "shard-00000.idx", "shard-00000.names.jsonl"].map((file) => [
        file,
        createHash("sha256").update(readFileSync(join(folder, file))).digest("hex")
      ])
    )
  })
)
/** Without an index: documents lie between end-of-text tokens. */
const foreign = join(folder, "foreign.bin")
writeFileSync(foreign, new Uint8Array(Uint16Array.from([1, 2, 3, 50256, 4, 5, 50256]).buffer))

const defaults: IdentityOptions = {
  data: folder,
  identity: Option.none(),
  preset: Option.none(),
  pool: Option.none(),
  active: Option.none(),
  block: Option.none(),
  seq: Option.none(),
  json: false
}

/** What the command prints, or the message it fails with. */
const run = async (options: Partial<IdentityOptions>): Promise<string> => {
  let message = ""
  const text = await printedBy(async () => {
    message = await Effect.runPromise(
      identity({ ...defaults, ...options }).pipe(
        Effect.as(""),
        Effect.catchAll((error) => Effect.succeed(`${error._tag}: ${error.message}`)),
        Effect.provide(NodeFileSystem.layer)
      )
    )
  })
  return message + text
}

describe("memsinks identity", () => {
  it("prints the report on token shards, with names and first words", async () => {
    const text = await run({})
    expect(text).toContain("4 documents, 102 tokens; identity near: near-duplicates share sinks\n")
    expect(text).toContain("near-duplicates: 1 cluster of 3 documents; 1 exact repeat in the corpus\n")
    expect(text).toContain("    speech 0: Four score and seven years ago\n    speech 3: Four score and ten years ago\n")
    // the sinks of the preset tiny
    expect(text).toContain("sinks: pool 2,048 in 128 blocks of 16; an id lights 32 (1.6 %), 2 blocks\n")
  })

  it("prints one JSON object, of the identity and the pool that are asked for", async () => {
    const text = await run({
      identity: Option.some("source"),
      pool: Option.some(256),
      active: Option.some(64),
      block: Option.some(8),
      seq: Option.some(9),
      json: true
    })
    const report = JSON.parse(text) as IdentityReport
    expect(report).toMatchObject({ identity: "source", ids: 2, documents: 4, tokens: 102, seqLen: 9 })
    expect(report.sinks).toMatchObject({ pool: 256, active: 64, block: 8, units: 32, activeUnits: 8 })
    expect(report.modes.map(({ ids, identity }) => [identity, ids]))
      .toEqual([["row", 3 + 4 + 2 + 3], ["document", 4], ["source", 2], ["content", 3], ["near", 2]])
  })

  it("says what is missing or wrong, and what to do", async () => {
    expect(await run({ data: foreign })).toMatch(/^2 documents, \d tokens; identity document: /)
    expect(await run({ data: foreign, identity: Option.some("near") }))
      .toMatch(/foreign\.bin: .* near-duplicates: tokenize/)
    expect(await run({ data: foreign, identity: Option.some("content") }))
      .toMatch(/foreign\.bin: .* hashes .*: tokenize/)
    expect(await run({ data: join(folder, "gone") })).toMatch(/^DataError: .*gone: .*no such file/)
    expect(await run({ preset: Option.some("smol-135m") }))
      .toMatch(/^Usage: the preset smol-135m has no sinks: give --pool and --active/)
    expect(await run({ pool: Option.some(100) }))
      .toMatch(/^Usage: sinks\.pool 100 must be a multiple of sinks\.block 16/)
    expect(await run({ active: Option.some(4096) })).toMatch(/^Usage: sinks\.active 4096 must be at most/)
    expect(await run({ seq: Option.some(0) })).toMatch(/^DataError: seqLen must be a whole number of at least 1, got 0/)
  })
})
