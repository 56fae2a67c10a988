import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import type * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import { createHash } from "node:crypto"
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, it } from "vitest"
import { type Dataset, dtypeOf, shardFiles } from "../../../src/data/Dataset.ts"
import { newShard, withNear, writeDataset, writeWhole } from "../../../src/data/tokens/ShardWriter.ts"
import { type ForeignOptions, isTokens, open } from "../../../src/data/tokens/TokenShards.ts"
import type { DataError } from "../../../src/Errors.ts"
import { makeRandom } from "../../reference/random.ts"

let folder = ""
beforeEach(() => void (folder = mkdtempSync(join(tmpdir(), "memsinks-shards-"))))
afterEach(() => rmSync(folder, { recursive: true, force: true }))

const run = <A, E>(effect: Effect.Effect<A, E, FileSystem.FileSystem>) =>
  Effect.runPromise(Effect.provide(effect, NodeFileSystem.layer))
const at = (path = folder, options?: ForeignOptions) => run(open(path, options))
const refusal = async (path = folder, options?: ForeignOptions): Promise<string> => {
  const error: DataError = await run(Effect.flip(open(path, options)))
  expect(error._tag).toBe("DataError")
  return error.message
}

/** Documents as numbers of tokens; token i of all is (7 i) modulo the vocabulary. */
const lengthsOf = [[3, 5, 1], [400, 2], [7]]
const names = ["one", "two\n\"quoted\"", "drei, naïve 🙂", "4", "", "six"]
const sourceOf = [0, 1, 0, 1, 1, 0]
const hashes = [5n, 2n ** 64n - 1n, 5n, 0n, 1n << 40n, 9n]
const tokenAt = (i: number, vocabSize: number) => (7 * i) % vocabSize

const write = (vocabSize = 300, near?: ReadonlyArray<number>): Dataset => {
  const dtype = dtypeOf(vocabSize)
  let sha256: Record<string, string> = { "tokenizer.json": writeWhole(`${folder}/tokenizer.json`, "{}") }
  const total = lengthsOf.flat().reduce((sum, length) => sum + length, 0)
  const tokens = Uint32Array.from({ length: total }, (_, i) => tokenAt(i, vocabSize))
  const all = {
    tokens,
    lengths: Uint32Array.from(lengthsOf.flat()),
    sources: Uint32Array.from(sourceOf),
    contents: BigUint64Array.from(hashes),
    names
  }
  let [document, token] = [0, 0]
  const shards = lengthsOf.map((lengths, i) => {
    const shard = newShard(folder, i, dtype, document)
    // in two appends, the first of one document
    const parts = [lengths.slice(0, 1), lengths.slice(1)]
    for (const part of parts) {
      shard.append(all, document, document + part.length, token)
      document += part.length
      token += part.reduce((sum, length) => sum + length, 0)
    }
    sha256 = { ...sha256, ...shard.finish() }
    return { file: shard.file, tokens: shard.tokens(), documents: shard.documents() }
  })
  if (near !== undefined) {
    let first = 0
    for (const { documents, file } of shards) {
      const { idx } = shardFiles(file)
      const bytes = withNear(readFileSync(`${folder}/${idx}`), Uint32Array.from(near.slice(first, first + documents)))
      writeFileSync(`${folder}/${idx}`, bytes)
      sha256[idx] = createHash("sha256").update(bytes).digest("hex")
      first += documents
    }
  }
  const dataset: Dataset = {
    format: 1,
    tokenizer: "tokenizer.json",
    vocabSize,
    dtype,
    eos: 0,
    tokens: total,
    documents: names.length,
    sources: ["a", "b"],
    ...(near === undefined ? {} : { near: { threshold: 0.8, numHashes: 128, shingle: 5, clusters: 1, documents: 2 } }),
    shards,
    sha256
  }
  writeDataset(folder, dataset)
  return dataset
}

const editDataset = (edit: (dataset: any) => void): void => {
  const dataset = JSON.parse(readFileSync(`${folder}/dataset.json`, "utf8"))
  // what is meant takes this out
  delete dataset.self
  edit(dataset)
  writeFileSync(`${folder}/dataset.json`, JSON.stringify(dataset))
}

const editFile = (file: string, edit: (bytes: Buffer) => Uint8Array | void): void => {
  const bytes = readFileSync(`${folder}/${file}`)
  writeFileSync(`${folder}/${file}`, edit(bytes) ?? bytes)
}

describe("a dataset", () => {
  for (const [dtype, vocabSize] of [["uint16", 300], ["uint32", 70_000]] as const) {
    it(`of ${dtype} gives back every document as it was written`, async () => {
      const written = write(vocabSize)
      expect(written.dtype).toBe(dtype)
      const shards = await at()
      expect(shards).toMatchObject({ documents: 6, tokens: 418, vocabSize, tokenizer: "{}", sources: ["a", "b"] })
      expect(shards.dataset).toEqual(written)
      let start = 0
      lengthsOf.flat().forEach((length, i) => {
        const of = (method: (i: number) => unknown) => method(i)
        expect([shards.start, shards.length, shards.source, shards.content!, shards.name].map(of))
          .toEqual([start, length, sourceOf[i], hashes[i], names[i]])
        const expected = Array.from({ length }, (_, k) => tokenAt(start + k, vocabSize))
        expect(Array.from(shards.read(i, 0, length))).toEqual(expected)
        expect(Array.from(shards.read(i, length - 1, 1))).toEqual(expected.slice(-1))
        start += length
      })
      shards.close()
      expect(Array.from(shards.read(1, 1, 2))).toEqual([tokenAt(4, vocabSize), tokenAt(5, vocabSize)])
      shards.close()
    })
  }

  it("is read into memory that is at hand", async () => {
    write()
    const shards = await at(`${folder}/dataset.json`)
    const into = new Uint32Array(8)
    expect(Array.from(shards.read(3, 10, 3, into))).toEqual([19, 20, 21].map((i) => tokenAt(i, 300)))
    expect(Array.from(into.subarray(0, 4))).toEqual([133, 140, 147, 0])
    shards.close()
  })

  it("lies in files that nanoGPT reads, and leaves no other", () => {
    write()
    expect(readdirSync(folder).sort()).toEqual([
      "dataset.json",
      ...[0, 1, 2].flatMap((i) => [`shard-0000${i}.bin`, `shard-0000${i}.idx`, `shard-0000${i}.names.jsonl`]),
      "tokenizer.json"
    ])
    const bytes = readFileSync(`${folder}/shard-00000.bin`)
    expect(Array.from({ length: 9 }, (_, i) => bytes.readUInt16LE(2 * i)))
      .toEqual(Array.from({ length: 9 }, (_, i) => 7 * i))
    const record = readFileSync(`${folder}/shard-00001.idx`).subarray(32, 64)
    expect(record.readBigUInt64LE(0)).toBe(400n)
    expect([record.readUInt32LE(8), record.readUInt32LE(12)]).toEqual([2, 1])
    expect([record.readBigUInt64LE(16), record.readBigUInt64LE(24)]).toEqual([1n << 40n, 4n])
  })

  it("knows clusters of near-duplicates only if they were looked for", async () => {
    write()
    expect((await at()).near).toBeUndefined()
    write(300, [0, 1, 0, 3, 1, 5])
    const shards = await at()
    expect(Array.from({ length: 6 }, (_, i) => shards.near!(i))).toEqual([0, 1, 0, 3, 1, 5])
    await run(shards.verify)
  })

  it("verifies every byte on demand", async () => {
    write()
    const shards = await at()
    await run(shards.verify)
    for (const file of ["shard-00001.bin", "shard-00002.idx", "shard-00000.names.jsonl", "tokenizer.json"]) {
      const before = readFileSync(`${folder}/${file}`)
      editFile(file, (bytes) => void (bytes[bytes.length - 1]! ^= 1))
      const { message } = await run(Effect.flip(shards.verify))
      expect(message).toContain(`${file}: is not as it was written`)
      writeFileSync(`${folder}/${file}`, before)
    }
  })

  it("is other data where dataset.json says other sources", async () => {
    write()
    const { identity } = await at()
    expect((await at()).identity).toBe(identity)
    const json = readFileSync(`${folder}/dataset.json`, "utf8")
    const said = JSON.parse(json) as { readonly sources: ReadonlyArray<string> }
    const sources = said.sources.map((name, i) => i === 0 ? `${name} (another)` : name)
    writeFileSync(`${folder}/dataset.json`, JSON.stringify({ ...said, sources }))
    expect(await refusal()).toMatch(/dataset\.json: is not as it was written/)
    writeFileSync(`${folder}/dataset.json`, JSON.stringify({ ...said, sources, self: undefined }))
    expect((await at()).identity).not.toBe(identity)
    // how the file is written does not matter
    writeFileSync(`${folder}/dataset.json`, JSON.stringify(said))
    expect((await at()).identity).toBe(identity)
  })

  it("names the file that has another size than it should", async () => {
    write()
    editFile("shard-00001.bin", (bytes) => bytes.subarray(2))
    expect(await refusal()).toMatch(/shard-00001\.bin: has 802 bytes, 402 tokens of uint16 take 804/)
    write()
    editFile("shard-00002.idx", (bytes) => bytes.subarray(1))
    expect(await refusal()).toMatch(/shard-00002\.idx: has 31 bytes, the records of 1 documents take 32/)
    rmSync(`${folder}/shard-00002.idx`)
    expect(await refusal()).toMatch(/shard-00002\.idx: there is no such file/)
  })

  it("names the record that cannot be", async () => {
    write()
    editFile("shard-00000.idx", (bytes) => void bytes.writeUInt32LE(6, 32 + 8))
    expect(await refusal()).toMatch(/shard-00000\.idx: document 2 \(offset 64\) begins at token 8, expected 9/)
    write()
    editFile("shard-00000.idx", (bytes) => void bytes.writeUInt32LE(2, 64 + 8))
    expect(await refusal()).toMatch(/shard-00000\.idx: its documents have 10 tokens, the shard 9/)
    write()
    editFile("shard-00001.idx", (bytes) => void bytes.writeUInt32LE(2, 12))
    expect(await refusal()).toMatch(/shard-00001\.idx: document 0 \(offset 0\) is of source 2, there are 2/)
    write()
    editFile("shard-00001.idx", (bytes) => void bytes.writeBigUInt64LE(4n, 24))
    expect(await refusal()).toMatch(/document 0 \(offset 0\) is in the cluster of document 4, which is after it/)
  })

  it("explains a dataset.json that does not fit", async () => {
    const cases: ReadonlyArray<readonly [(dataset: any) => void, RegExp]> = [
      [(d) => void delete d.vocabSize, /dataset\.json: the description of token shards has a problem:\n {2}vocabSize/],
      [(d) => void (d.format = 2), /has format 2, this version reads 1/],
      [(d) => void (d.dtype = "int8"), /dtype: expected "uint16" or "uint32", got "int8"/],
      [(d) => void (d.tokens = 1), /counts 1 tokens in 6 documents, its shards 418 in 6/],
      [(d) => void delete d.sha256["shard-00001.idx"], /has no sha256 of shard-00001\.idx/],
      [(d) => void (d.shards[1].file = "../other.bin"), /shards\.1\.file: expected the name of a \.bin file/],
      [(d) => void (d.shards[1] = d.shards[0]), /names a file twice/],
      [(d) => void (d.vocabSize = 70_000), /vocabSize 70000, which uint16 cannot hold/]
    ]
    for (const [edit, expected] of cases) {
      write()
      editDataset(edit)
      expect(await refusal()).toMatch(expected)
    }
    writeFileSync(`${folder}/dataset.json`, "{")
    expect(await refusal()).toMatch(/dataset\.json: is not JSON/)
  })

  it("names the offset of a token beyond the vocabulary when it is read", async () => {
    write()
    const shards = await at()
    editFile("shard-00001.bin", (bytes) => void bytes.writeUInt16LE(300, 2 * 11))
    expect(shards.read(3, 0, 11)).toHaveLength(11)
    expect(() => shards.read(3, 10, 3)).toThrow(/shard-00001\.bin: token 300 at offset 22 is beyond the vocabulary/)
    expect(() => shards.read(3, 399, 2)).toThrow(/document 3 has 400 tokens: there are no 2 from 399 on/)
    expect(() => shards.read(6, 0, 1)).toThrow(/document 6 has no tokens/)
    shards.close()
    editFile("shard-00001.bin", (bytes) => bytes.subarray(0, 100))
    expect(() => shards.read(3, 40, 20)).toThrow(/shard-00001\.bin: cannot be read: it ends before offset 120/)
    shards.close()
  })

  it("names the line of a name that is none", async () => {
    write()
    editFile("shard-00000.names.jsonl", (bytes) => Buffer.from(bytes.toString().replace("\"one\"", "'one'")))
    const shards = await at()
    expect(() => shards.name(0)).toThrow(/shard-00000\.names\.jsonl: line 1 is not JSON/)
    expect(shards.name(1)).toBe(names[1])
    shards.close()
  })
})

describe("damaged files", () => {
  /** Opens the folder and reads all of it: what went wrong, if anything did. */
  const readAll = (path: string) =>
    run(Effect.flip(Effect.zipRight(
      Effect.flatMap(open(path), (shards) =>
        Effect.try({
          try: () => {
            try {
              for (let i = 0; i < shards.documents; i++) {
                shards.name(i)
                shards.read(i, 0, shards.length(i))
              }
            } finally {
              shards.close()
            }
          },
          catch: (error) => error
        })),
      Effect.fail("whole" as const)
    )))

  it("are an error of ours or are read, whatever is changed in them", async () => {
    const random = makeRandom(5)
    const seen = { whole: 0, refused: 0 }
    const mutate = (bytes: Buffer): Uint8Array => {
      const at = random.int(bytes.length)
      switch (random.int(4)) {
        case 0:
          bytes[at] = random.int(256)
          return bytes
        case 1:
          return bytes.subarray(0, at)
        case 2:
          return Buffer.concat([bytes.subarray(0, at), Buffer.from(String(random.int(2 ** 31))), bytes.subarray(at)])
        default:
          return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + random.int(8))])
      }
    }
    write()
    const files = readdirSync(folder)
    const originals = new Map(files.map((file) => [file, readFileSync(`${folder}/${file}`)]))
    for (let i = 0; i < 200; i++) {
      // dataset.json says most, so it is every second one
      const file = i % 2 === 0 ? "dataset.json" : files[random.int(files.length)]!
      writeFileSync(`${folder}/${file}`, mutate(Buffer.from(originals.get(file)!)))
      const found = await readAll(folder)
      if (found === "whole") seen.whole++
      else {
        expect(found).toHaveProperty("_tag", "DataError")
        seen.refused++
      }
      writeFileSync(`${folder}/${file}`, originals.get(file)!)
    }
    expect(seen.refused).toBeGreaterThan(100)
    expect(seen.whole).toBeGreaterThan(5)
  })

  it("cannot make us take memory that they do not have", async () => {
    write()
    editDataset((d) => {
      d.documents = d.shards[0].documents = 2 ** 50
      d.shards.length = 1
      d.tokens = 9
    })
    expect(await refusal()).toMatch(/shard-00000\.idx: has 96 bytes, the records of 1125899906842624 documents take/)
  })
})

const E = 50256
/** Tokens of 16 bits behind a header, if there is one. */
const bin = (file: string, tokens: ReadonlyArray<number>, header?: ReadonlyArray<number>): string => {
  const head = new Int32Array(header === undefined ? 0 : 256)
  head.set(header ?? [])
  writeFileSync(`${folder}/${file}`, Buffer.concat([
    new Uint8Array(head.buffer),
    new Uint8Array(Uint16Array.from(tokens).buffer)
  ]))
  return `${folder}/${file}`
}
const contents = (shards: Awaited<ReturnType<typeof at>>) => {
  const all = Array.from({ length: shards.documents }, (_, i) => Array.from(shards.read(i, 0, shards.length(i))))
  shards.close()
  return all
}

describe("shards of others", () => {
  it("are split behind end-of-text, wherever it stands", async () => {
    const after = await at(bin("after.bin", [1, 2, E, 3, E, 4, 5, E]))
    expect(contents(after)).toEqual([[1, 2, E], [3, E], [4, 5, E]])
    expect(after).toMatchObject({ tokenizer: undefined, vocabSize: 50257, sources: ["after.bin"], dataset: undefined })
    expect([after.tokens, after.name(1), after.content, after.near]).toEqual([8, "after.bin#2", undefined, undefined])
    expect(contents(await at(bin("before.bin", [E, 1, 2, E, 3, E, E, 4])))).toEqual([[1, 2, E], [3, E], [4]])
    expect(contents(await at(bin("a.bin", [1, 9, 2]), { endOfText: 9 }))).toEqual([[1, 9], [2]])
  })

  it("may have llm.c's header", async () => {
    const shards = await at(bin("a.bin", [E, 1, 2, E, 3], [20240520, 1, 5]))
    expect(contents(shards)).toEqual([[1, 2, E], [3]])
  })

  it("are taken from a folder, or by a pattern of names", async () => {
    bin("b_train_1.bin", [3, E, 4])
    bin("b_train_0.bin", [1, 2, E], [20240520, 1, 3])
    writeFileSync(`${folder}/notes.txt`, "no tokens")
    const all = await at()
    expect(contents(all)).toEqual([[1, 2, E], [3, E], [4]])
    expect([0, 1, 2].map(all.source)).toEqual([0, 1, 1])
    expect([all.sources, all.name(2), all.start(2)]).toEqual([["b_train_0.bin", "b_train_1.bin"], "b_train_1.bin#2", 5])
    bin("b_val_0.bin", [5])
    expect(await refusal()).toMatch(/files to train on and to validate with: give .*\*train\*\.bin or \*val\*\.bin/)
    expect(contents(await at(`${folder}/b_val*.bin`))).toEqual([[5]])
    expect(contents(await at(`${folder}/*train*.bin`))).toHaveLength(3)
    expect(await refusal(`${folder}/c*.bin`)).toMatch(/no file has such a name/)
  })

  it("may be larger than what is read at once", async () => {
    const length = 3_000_001
    const tokens = new Uint16Array(length).map((_, i) => i % 1_000_000 === 999_999 ? E : i % 50_000)
    writeFileSync(`${folder}/large.bin`, tokens)
    const shards = await at(`${folder}/large.bin`)
    expect([shards.documents, shards.tokens]).toEqual([4, length])
    expect(Array.from(shards.read(2, 999_998, 2))).toEqual([49_998, E])
    expect(shards.length(3)).toBe(1)
    shards.close()
  })

  it("that cannot be are refused with file and offset", async () => {
    const cases: ReadonlyArray<readonly [string, RegExp]> = [
      [bin("beyond.bin", [1, 2, 60000]), /beyond\.bin: token 60000 at offset 4 is beyond .* which has 50257/],
      [bin("header.bin", [1, 60000], [20240520, 1, 2]), /token 60000 at offset 1026 is beyond/],
      [bin("magic.bin", [1], [20240801, 7, 1]), /has the magic number 20240801 at offset 0; llm\.c's .* have 20240520/],
      [bin("version.bin", [1], [20240520, 2, 1]), /has version 2 of llm\.c's format at offset 4, expected 1/],
      [bin("count.bin", [1, 2], [20240520, 1, 3]), /counts 3 tokens at offset 8, for .* 1030 bytes; it has 1028/],
      [bin("empty.bin", []), /holds no tokens/]
    ]
    for (const [path, expected] of cases) expect(await refusal(path)).toMatch(expected)
    const odd = bin("odd.bin", [1, 2])
    editFile("odd.bin", (bytes) => bytes.subarray(0, 3))
    expect(await refusal(odd)).toMatch(/odd\.bin: has 3 bytes: tokens of 2 bytes each end at offset 2/)
    bin("short.bin", [], [20240520, 1, 0])
    editFile("short.bin", (bytes) => bytes.subarray(0, 500))
    expect(await refusal(`${folder}/short.bin`)).toMatch(/ends within its header of 1024 bytes, at offset 500/)
    expect(await refusal(`${folder}/gone.bin`)).toMatch(/gone\.bin: there is no such file/)
    expect(await refusal(bin("small.bin", [7, 8]), { vocabSize: 8 })).toMatch(/token 8 at offset 2 .* 8 entries/)
  })

  it("are told from text", async () => {
    writeFileSync(`${folder}/a.txt`, "text")
    expect(await run(isTokens(folder))).toBe(false)
    expect(await run(isTokens(`${folder}/a.txt`))).toBe(false)
    expect(await refusal()).toMatch(/neither dataset\.json nor \.bin files/)
    bin("a.bin", [1])
    for (const path of [folder, `${folder}/a.bin`, `${folder}/*.bin`, "b/dataset.json"]) {
      expect(await run(isTokens(path))).toBe(true)
    }
  })
})
