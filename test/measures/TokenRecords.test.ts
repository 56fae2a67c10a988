import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as Effect from "effect/Effect"
import { parquetMetadata, parquetReadObjects } from "hyparquet"
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import * as TokenRecords from "../../src/measures/TokenRecords.ts"
import { random } from "../../src/Random.ts"

const softmax = (logits: ReadonlyArray<number>, temperature = 1): ReadonlyArray<number> => {
  const weights = logits.map((z) => Math.exp(z / temperature))
  const sum = weights.reduce((a, b) => a + b)
  return weights.map((w) => w / sum)
}

/** Sequences of random tokens and logits, every logit of few values so that ties are common. */
const scored = (seed: number, lengths: ReadonlyArray<number>, vocabSize: number) => {
  const draw = random(seed, "logits")
  return lengths.map((length, s): TokenRecords.ScoredSequence => ({
    name: `story ${s}`,
    split: s % 2 === 0 ? "repeated" : "heldOut",
    id: BigInt.asUintN(64, -BigInt(s) - 1n),
    repeats: s,
    tokens: Uint32Array.from({ length }, () => draw.below(vocabSize)),
    logits: Float64Array.from({ length: (length - 1) * vocabSize }, () => draw.below(12) / 2)
  }))
}

describe("the record of a token", () => {
  const logits = [1, 3, 2, 3, -1, 2]

  it("has the log-probability, its moments and the margin", () => {
    const p = softmax(logits)
    const record = TokenRecords.recordOf(logits, 2)
    const mean = p.reduce((sum, q) => sum + q * Math.log(q), 0)
    expect(record.logProb).toBeCloseTo(Math.log(p[2]!), 13)
    expect(record.mean).toBeCloseTo(mean, 13)
    expect(record.variance).toBeCloseTo(p.reduce((sum, q) => sum + q * Math.log(q) ** 2, 0) - mean ** 2, 13)
    expect(record.margin).toBe(0)
    expect(TokenRecords.recordOf([0, 5, 2], 0).margin).toBe(3)
  })

  it("ranks ties by index, as the kernel does, and sums the mass of lower ranks", () => {
    expect(logits.map((_, token) => TokenRecords.recordOf(logits, token).rank)).toEqual([4, 0, 2, 1, 5, 3])
    const p = softmax(logits)
    expect(TokenRecords.recordOf(logits, 1).massAbove).toBe(0)
    expect(TokenRecords.recordOf(logits, 3).massAbove).toBeCloseTo(p[1]!, 13)
    expect(TokenRecords.recordOf(logits, 5).massAbove).toBeCloseTo(p[1]! + p[3]! + p[2]!, 13)
  })

  it("of a uniform model has no variance, and of any model survives large logits", () => {
    const flat = TokenRecords.recordOf([7, 7, 7, 7], 3)
    expect(flat.mean).toBeCloseTo(-Math.log(4), 14)
    expect(flat.variance).toBeCloseTo(0, 14)
    const steep = TokenRecords.recordOf([1e4, 0], 0)
    expect([steep.logProb, steep.rank, steep.variance]).toEqual([0, 0, 0])
  })

  it("gives each scheme's probabilities, which sum to 1 over the tokens it draws", () => {
    const schemes: ReadonlyArray<TokenRecords.Sampling> = [
      { temperature: 0.5 },
      { temperature: 1, topK: 2 },
      { temperature: 0.7, topK: 4 },
      { temperature: 1, topK: 99 },
      { temperature: 1, topP: 0.9 },
      { temperature: 2, topP: 1e-9 }
    ]
    const table = logits.map((_, token) => TokenRecords.recordOf(logits, token, schemes).schemeLogProb.map(Math.exp))
    schemes.forEach((_, i) => expect(table.reduce((sum, row) => sum + row[i]!, 0)).toBeCloseTo(1, 13))
    expect(table.map((row) => row[0]!)).toEqual(softmax(logits, 0.5).map((p) => expect.closeTo(p, 13)))
    // of the top 2, equal; tokens of lower rank never
    expect(table.map((row) => row[1]!)).toEqual([0, expect.closeTo(0.5, 13), 0, expect.closeTo(0.5, 13), 0, 0])
    // ties at the edge are cut by index too: token 2, not 5, is the third; both are within 4
    expect(table[2]![2]!).toBeCloseTo(table[5]![2]!, 13)
    expect(table.map((row) => row[3]!)).toEqual(softmax(logits).map((p) => expect.closeTo(p, 13)))
    // masses before the ranks are 0, .37, .73, .87, .99...: the nucleus of .9 has four tokens
    const p = softmax(logits)
    const nucleus = [1, 3, 2, 5]
    const within = nucleus.reduce((sum, token) => sum + p[token]!, 0)
    expect(table.map((row) => row[4]!)).toEqual(
      p.map((q, i) => expect.closeTo(nucleus.includes(i) ? q / within : 0, 13))
    )
    // a nucleus of next to nothing is greedy
    expect(table.map((row) => row[5]!)).toEqual([0, 1, 0, 0, 0, 0])
  })
})

describe("records", () => {
  it("of top 1 and of temperature near 0 are greedy's, where no two logits tie", () => {
    const draw = random(1, "distinct")
    const sequence = { ...scored(1, [40], 9)[0]!, logits: Float64Array.from({ length: 39 * 9 }, draw.uniform) }
    const schemes = [{ topK: 1, temperature: 1 }, { temperature: 1e-4 }]
    const records = TokenRecords.fromLogits([sequence], 9, schemes)
    const greedy = [...TokenRecords.logProbUnder(records, "greedy")]
    expect(greedy.filter((x) => x === 0).length).toBeGreaterThan(1)
    expect(greedy).toEqual([...TokenRecords.logProbUnder(records, schemes[0]!)])
    expect(greedy.map(Math.exp)).toEqual(
      [...TokenRecords.logProbUnder(records, schemes[1]!)].map((x) => expect.closeTo(Math.exp(x), 6))
    )
    expect(TokenRecords.logProbUnder(records, { temperature: 1 })).toBe(records.logProb)
  })

  it("refuse a scheme they do not have by naming those they do", () => {
    const records = TokenRecords.fromLogits(scored(1, [3], 4), 4, [{ topK: 2, temperature: 0.5 }])
    expect(() => TokenRecords.logProbUnder(records, { topK: 3, temperature: 0.5 })).toThrow(
      `without the sampling scheme "k3 t0.5"; they have "greedy", "t1", "k2 t0.5"`
    )
  })

  it("refuse a sequence with nothing to score", () => {
    expect(() => TokenRecords.fromLogits(scored(1, [3, 1], 4), 4)).toThrow("sequence story 1 has no scored token")
  })

  it("of a split are those of its sequences alone", () => {
    const all = scored(2, [3, 5, 2, 4], 7)
    const records = TokenRecords.ofSplit(TokenRecords.fromLogits(all, 7), "heldOut")
    expect(records).toEqual(TokenRecords.fromLogits(all.filter(({ split }) => split === "heldOut"), 7))
    expect(records.sequences.map(({ name }) => name)).toEqual(["story 1", "story 3"])
  })
})

describe("a file of records", () => {
  const key = { run: "standard seed 1", checkpoint: 200, mask: "off" }
  const inFolder = async (body: (folder: string) => Promise<void>): Promise<void> => {
    const folder = mkdtempSync(join(tmpdir(), "memsinks-records-"))
    try {
      await body(folder)
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  }
  const write = (path: string, records: TokenRecords.TokenRecords) =>
    Effect.runPromise(TokenRecords.write(path, key, records).pipe(Effect.provide(NodeFileSystem.layer)))
  const read = (path: string) => Effect.runPromise(TokenRecords.read(path).pipe(Effect.provide(NodeFileSystem.layer)))
  const refusal = async (path: string): Promise<string> =>
    (await Effect.runPromise(Effect.flip(TokenRecords.read(path)).pipe(Effect.provide(NodeFileSystem.layer)))).message

  it("gives back what was written, bit for bit, over several row groups too", () =>
    inFolder(async (folder) => {
      const path = join(folder, "a.parquet")
      const records = TokenRecords.fromLogits(scored(3, [1200, 3, 2, 700], 6), 6)
      records.first[1] = 17
      records.logProb.set([-Infinity, -1e-30], 5)
      await write(path, records)
      expect(readdirSync(folder)).toEqual(["a.parquet"])
      expect(await read(path)).toEqual({ key, records })
    }))

  it("is a table that says what its columns are", () =>
    inFolder(async (folder) => {
      const path = join(folder, "a.parquet")
      const records = TokenRecords.fromLogits(scored(4, [3, 4], 6), 6)
      await write(path, records)
      const bytes = readFileSync(path)
      const file = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length) as ArrayBuffer
      const { schema } = parquetMetadata(file)
      expect(schema.slice(1).map(({ name, repetition_type }) => `${name} ${repetition_type}`)).toEqual(
        [
          "run",
          "checkpoint",
          "mask",
          "sequence",
          "name",
          "split",
          "id",
          "repeats",
          "position",
          "token",
          "rank",
          "log_prob",
          "mean",
          "variance",
          "mass_above",
          "margin",
          "log_k5_t0_5",
          "log_k5_t0_7",
          "log_k5_t1",
          "log_k10_t0_5",
          "log_k10_t0_7",
          "log_k10_t1",
          "log_k40_t0_5",
          "log_k40_t0_7",
          "log_k40_t1",
          "log_t0_5",
          "log_t0_7",
          "log_p0_9_t1"
        ].map((name) => `${name} REQUIRED`)
      )
      const rows = await parquetReadObjects({ file })
      expect(rows).toHaveLength(5)
      expect(rows[3]).toMatchObject({
        ...key,
        sequence: 1,
        name: "story 1",
        split: "heldOut",
        id: 2n ** 64n - 2n,
        repeats: 1,
        position: 2,
        token: records.token[3],
        rank: records.rank[3],
        log_prob: records.logProb[3]
      })
    }))

  it("is refused, by name, where it is missing, damaged, or of something else", () =>
    inFolder(async (folder) => {
      expect(await refusal(join(folder, "none.parquet"))).toContain("none.parquet: cannot be read")
      const path = join(folder, "a.parquet")
      writeFileSync(path, "not parquet at all")
      expect(await refusal(path)).toContain("a.parquet: is not a Parquet file that can be read")
      const { parquetWriteBuffer } = await import("hyparquet-writer")
      const other = parquetWriteBuffer({ columnData: [{ name: "run", data: ["a"], type: "STRING" }] })
      writeFileSync(path, new Uint8Array(other))
      expect(await refusal(path)).toContain(`is not a file of token records: it has no column "checkpoint"`)
    }))
})
