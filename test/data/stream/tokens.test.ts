/** Whole corpora of tokens: every token once, mixtures, canaries, repeated groups, identities. */
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as FastCheck from "effect/FastCheck"
import * as Stream from "effect/Stream"
import { describe, expect, it } from "vitest"
import { type Batch, IGNORE } from "../../../src/Batch.ts"
import { contentHash, sourceHash } from "../../../src/data/identity/Identity.ts"
import { type Cursor, type DataConfigInput, DataStream, type Row,
  type TokenDocuments } from "../../../src/data/stream/DataStream.ts"
import * as Tokenizer from "../../../src/data/tokens/Tokenizer.ts"
import { random } from "../../../src/Random.ts"

type Service = typeof DataStream.Service

const VOCABULARY = 1 << 16
/** Token k of the corpus is the number k: a batch then says which places of which documents it holds. */
const counting: Tokenizer.Tokenizer = { ...Tokenizer.bytes, vocabSize: VOCABULARY }

interface Options {
  /** Index of the source of each document. Default: all of one. */
  readonly source?: (document: number) => number
  readonly sources?: ReadonlyArray<string>
  /** Documents of equal texts. Default: none. */
  readonly content?: (document: number) => bigint
  readonly near?: (document: number) => number
}

/** Documents of these lengths, cut into shards of so many: each in an array of its own, as on disk. */
const corpus = (lengths: ReadonlyArray<number>, shard = Infinity, options: Options = {}): TokenDocuments => {
  const starts = lengths.map((_, i) => lengths.slice(0, i).reduce((a, b) => a + b, 0))
  const shards: Array<{ first: number; tokens: Uint32Array }> = []
  for (let first = 0; first < lengths.length; first += Math.min(shard, lengths.length)) {
    const count = lengths.slice(first, first + shard).reduce((a, b) => a + b, 0)
    shards.push({ first: starts[first]!, tokens: Uint32Array.from({ length: count }, (_, k) => starts[first]! + k) })
  }
  return {
    documents: lengths.length,
    length: (d) => lengths[d]!,
    read: (d, offset, length) => {
      if (offset + length > lengths[d]!) throw new RangeError("past the end of the document")
      const { first, tokens } = shards[Math.floor(d / shard)] ?? shards[0]!
      return tokens.slice(starts[d]! - first + offset, starts[d]! - first + offset + length)
    },
    name: (d) => `doc${d}`,
    sources: options.sources ?? ["web"],
    source: options.source ?? (() => 0),
    content: options.content ?? ((d) => contentHash(`text ${d}`)),
    near: options.near
  }
}

const lengthsOf = (count: number, longest: number, seed = 1): ReadonlyArray<number> => {
  const { below } = random(seed, "lengths")
  return Array.from({ length: count }, () => below(longest) + 1)
}

const build = (tokens: TokenDocuments, config: DataConfigInput = {}): Service =>
  Effect.runSync(
    DataStream.pipe(Effect.provide(DataStream.layerTokens(tokens, counting, { seqLen: 16, batchSize: 3, ...config })))
  )
const failure = (tokens: TokenDocuments, config: DataConfigInput): string => {
  const layer = DataStream.layerTokens(tokens, counting, { seqLen: 16, batchSize: 3, ...config })
  const error = Effect.runSync(DataStream.pipe(Effect.provide(layer), Effect.flip))
  expect(error._tag).toBe("DataError")
  return error.message
}

const take = (service: Service, count: number, cursor: Cursor = { epoch: 0, batch: 0 }) =>
  service.batches(cursor).pipe(
    Stream.take(count),
    Stream.runCollect,
    Effect.map(Chunk.toReadonlyArray),
    Effect.runPromise
  )
const epoch = async (service: Service, number = 0): Promise<ReadonlyArray<Batch>> =>
  (await take(service, service.batchesPerEpoch, { epoch: number, batch: 0 })).map(({ batch }) => batch)

/** Every target of some batches as [id, token], in order. */
const targets = (batches: ReadonlyArray<Batch>): ReadonlyArray<readonly [id: bigint, token: number]> =>
  batches.flatMap((batch) =>
    Array.from(batch.targets).flatMap((token, t) => {
      if (token === IGNORE) return []
      // The input is the token before the target, and a document's first is never a target.
      if (batch.tokens[t] !== token - 1) throw new Error(`${token} follows ${batch.tokens[t]}`)
      return [[batch.ids[t]!, token] as const]
    })
  )

/** Counts without the zeros at the end, which take long to compare. */
const trimmed = (counts: Uint32Array): Uint32Array => counts.slice(0, counts.findLastIndex((count) => count > 0) + 1)

/** How often each token of the corpus is a target. */
const seen = (batches: ReadonlyArray<Batch>): Uint32Array => {
  const times = new Uint32Array(VOCABULARY)
  for (const [, token] of targets(batches)) times[token]!++
  return trimmed(times)
}

/** How often it should be: `times` for each token of a document but its first. */
const expected = (lengths: ReadonlyArray<number>, times: (document: number) => number): Uint32Array => {
  const all = new Uint32Array(VOCABULARY)
  let start = 0
  for (const [d, length] of lengths.entries()) {
    all.fill(times(d), start + 1, Math.max(start + 1, start + length))
    start += length
  }
  return trimmed(all)
}
const once = { heldOutFraction: 0 }

/** Which documents of a counting corpus some rows are from. */
const documentsIn = (rows: ReadonlyArray<Row>): ReadonlyArray<number> =>
  [...new Set(rows.map(({ document }) => Number(document.slice(3))))].sort((a, b) => a - b)

describe("an epoch of tokens", () => {
  const cases = FastCheck.record({
    lengths: FastCheck.array(FastCheck.integer({ min: 1, max: 90 }), { minLength: 3, maxLength: 60 }),
    config: FastCheck.record({
      seqLen: FastCheck.constantFrom(8, 16, 24),
      segmentAlignment: FastCheck.constantFrom(1, 4, 8),
      batchSize: FastCheck.integer({ min: 1, max: 7 }),
      rowSequences: FastCheck.constantFrom(1, 2, 16),
      seed: FastCheck.nat()
    }),
    shards: FastCheck.tuple(FastCheck.integer({ min: 1, max: 9 }), FastCheck.integer({ min: 1, max: 80 })),
    at: FastCheck.tuple(FastCheck.nat(3), FastCheck.nat(1000))
  })

  it("holds every token but a document's first as a target exactly once", async () => {
    await FastCheck.assert(
      FastCheck.asyncProperty(cases, async ({ at: [number], config, lengths }) => {
        FastCheck.pre(lengths.some((length) => length > 1))
        const service = build(corpus(lengths), { ...once, ...config })
        const batches = await epoch(service, number)
        expect(seen(batches)).toEqual(expected(lengths, () => 1))
        expect(service.report.scoredTokens).toBe(targets(batches).length)
        expect(service.report.padding).toBeCloseTo(
          1 - targets(batches).length / (batches.length * config.batchSize * config.seqLen),
          12
        )
        for (const { documentStart, rows, seqLen } of batches) {
          expect(new Set(documentStart).size).toBeLessThanOrEqual(service.maxSegments)
          for (let row = 0; row < rows; row++) {
            const starts = new Set(documentStart.subarray(row * seqLen, (row + 1) * seqLen))
            expect(starts.size).toBeLessThanOrEqual(config.rowSequences)
            for (const start of starts) expect((start - row * seqLen) % config.segmentAlignment).toBe(0)
          }
        }
      }),
      { seed: 7, numRuns: 60 }
    )
  })

  it("comes in the same order whatever the size of the shards, and from any cursor", async () => {
    await FastCheck.assert(
      FastCheck.asyncProperty(cases, async ({ at: [number, place], config, lengths, shards: [one, other] }) => {
        FastCheck.pre(lengths.some((length) => length > 1))
        const service = build(corpus(lengths, one), { ...once, ...config })
        const resumed = build(corpus(lengths, other), { ...once, ...config })
        const whole = await take(service, 2 * service.batchesPerEpoch, { epoch: number, batch: 0 })
        const done = place % whole.length
        const cursor = done === 0 ? { epoch: number, batch: 0 } : JSON.parse(JSON.stringify(whole[done - 1]!.cursor))
        expect(await take(resumed, whole.length - done, cursor)).toEqual(whole.slice(done))
      }),
      { seed: 8, numRuns: 40 }
    )
  })

  it("is in another order in every epoch and for every seed", async () => {
    const tokens = corpus(lengthsOf(40, 60))
    const orders = await Promise.all([
      epoch(build(tokens, once)),
      epoch(build(tokens, once), 1),
      epoch(build(tokens, { ...once, seed: 2 }))
    ])
    const texts = orders.map((batches) => targets(batches).join(";"))
    expect(new Set(texts).size).toBe(3)
    expect(await epoch(build(tokens, once))).toEqual(orders[0])
  })

  it("fills rows closely: three hundredths are padding where documents are of all lengths", () => {
    const service = build(corpus(lengthsOf(1900, 64)), { ...once, seqLen: 64 })
    expect(service.report.padding).toBeLessThan(0.03)
    expect(service.report.padding).toBeGreaterThan(0)
  })

  it("packed by rows holds whole rows of a document, and says what it leaves", async () => {
    const service = build(corpus([40, 16, 17, 33]), { ...once, packing: "row" })
    const times = seen(await epoch(service))
    // 17 tokens fill a row; the next begins with the last of the one before.
    const wanted = new Uint32Array(VOCABULARY)
    for (const [from, to] of [[1, 33], [57, 73], [74, 106]]) wanted.fill(1, from, to)
    expect(times).toEqual(trimmed(wanted))
    expect(service.report).toMatchObject({ tokens: 106, scoredTokens: 80, documents: 4 })
    expect(failure(corpus([16, 9]), { ...once, packing: "row" })).toContain("are shorter than a row")
  })
})

describe("held-out documents", () => {
  const lengths = lengthsOf(500, 40)

  it("are a share by the hash of their content, never trained on, the same for every seed", async () => {
    const service = build(corpus(lengths), { heldOutFraction: 0.2, heldOutSequences: 5000 })
    const out = documentsIn(service.split("heldOut"))
    // 100 expected, standard deviation 9; documents of one token have no sequence.
    expect(Math.abs(service.report.heldOutDocuments - 100)).toBeLessThan(36)
    expect(out).toHaveLength(out.filter((d) => lengths[d]! > 1).length)
    const held = new Set(out)
    expect(seen(await epoch(service))).toEqual(expected(lengths, (d) => held.has(d) ? 0 : 1))
    const again = build(corpus(lengths), { heldOutFraction: 0.2, heldOutSequences: 5000, seed: 9, seqLen: 8 })
    expect(documentsIn(again.split("heldOut"))).toEqual(out)
    const fewer = documentsIn(build(corpus(lengths), { heldOutFraction: 0.1, heldOutSequences: 5000 }).split("heldOut"))
    expect(fewer.every((d) => held.has(d)) && fewer.length < out.length).toBe(true)
  })

  it("take their copies with them, and their near-duplicates where these are known", () => {
    const content = (d: number) => contentHash(`text ${d % 50}`)
    const copies = build(corpus(lengths, Infinity, { content }), { heldOutFraction: 0.2, heldOutSequences: 5000 })
    const classes = new Set(documentsIn(copies.split("heldOut")).map((d) => d % 50))
    expect(classes.size).toBeGreaterThan(2)
    expect(classes.size).toBeLessThan(20)
    expect(copies.report.heldOutDocuments).toBe(10 * classes.size)
    const near = build(corpus(lengths, Infinity, { near: (d) => d - (d % 5) }), { heldOutFraction: 0.2 })
    expect(near.report.heldOutDocuments % 5).toBe(0)
    expect(near.report.heldOutDocuments).toBeGreaterThan(0)
  })

  it("are handed out as a sample, 512 unless told", () => {
    const service = build(corpus(lengths), { heldOutFraction: 0.5, heldOutSequences: 20 })
    expect(service.split("heldOut")).toHaveLength(20)
    // From all over the corpus: the mean of 20 uniform draws of 500 has a standard deviation of 32.
    const mean = documentsIn(service.split("heldOut")).reduce((a, b) => a + b, 0) / 20
    expect(Math.abs(mean - 250)).toBeLessThan(100)
    const many = build(corpus(lengthsOf(4000, 30)), { heldOutFraction: 0.5 })
    expect(many.split("heldOut")).toHaveLength(512)
    expect(new Set(many.split("heldOut").map((r) => `${r.document} ${r.offset}`)).size).toBe(512)
    expect(many.split("singles")).toHaveLength(512)
  })

  it("that would be none, or all, are refused", () => {
    expect(failure(corpus([5, 6, 7]), { heldOutFraction: 1e-9 })).toContain("of 3 documents holds out none of them")
    expect(failure(corpus([5, 6, 7]), { heldOutFraction: 1 })).toContain("3 of 3 documents are held out")
  })
})

describe("a mixture", () => {
  const lengths = lengthsOf(300, 60)
  const sources = ["web", "books", "code"]
  const source = (d: number) => d % 3
  const mixed = corpus(lengths, Infinity, { source, sources })
  const tokensOf = (s: number) => lengths.reduce((sum, length, d) => d % 3 === s ? sum + length - 1 : sum, 0)
  const shares = (service: Service) => Object.fromEntries(service.report.sources.map((s) => [s.name, s]))

  it("holds each document of a source as often as its epochs say, and a seeded part of them once more", async () => {
    const service = build(mixed, { ...once, sources: [{ name: "books", epochs: 2.3 }, { name: "code", epochs: 0 }] })
    const times = seen(await epoch(service))
    const more = new Set<number>()
    let start = 0
    for (const [d, length] of lengths.entries()) {
      if (length > 1 && d % 3 === 1 && times[start + 1] === 3) more.add(d)
      start += length
    }
    expect(times).toEqual(expected(lengths, (d) => d % 3 === 0 ? 1 : d % 3 === 2 ? 0 : more.has(d) ? 3 : 2))
    const books = shares(service)["books"]!.scoredTokens / tokensOf(1)
    expect(Math.abs(books - 2.3)).toBeLessThan(60 / tokensOf(1))
    expect(seen(await epoch(service, 1))).toEqual(times)
    const larger = build(mixed, { ...once, sources: [{ name: "books", epochs: 2.6 }, { name: "code", epochs: 0 }] })
    const grown = seen(await epoch(larger))
    expect(grown.every((count, token) => count >= times[token]!)).toBe(true)
    expect(service.split("repeated")).toEqual([])
  })

  it("shares out as many tokens as the corpus has by weights", () => {
    const service = build(mixed, {
      ...once,
      sources: [{ name: "code", weight: 3 }, { name: "web", weight: 1 }, { name: "books", weight: 0 }]
    })
    const { code, web } = shares(service)
    expect(Object.keys(shares(service)).sort()).toEqual(["code", "web"])
    expect(Math.abs(code!.share - 0.75)).toBeLessThan(0.01)
    expect(Math.abs(web!.share - 0.25)).toBeLessThan(0.01)
    const total = tokensOf(0) + tokensOf(1) + tokensOf(2)
    expect(Math.abs(service.report.scoredTokens / total - 1)).toBeLessThan(0.01)
  })

  it("that names no source, all twice, or shares no tokens is refused", () => {
    expect(failure(mixed, { sources: [{ name: "book", epochs: 2 }] })).toContain(`Did you mean "books"?`)
    expect(failure(mixed, { sources: [{ name: "wikipedia", epochs: 2 }] })).toContain(
      `no source "wikipedia". The data has "web", "books", "code"`
    )
    expect(failure(mixed, { sources: [{ name: "web", weight: 1 }] })).toContain(`"books" has no weight`)
    expect(failure(mixed, {
      sources: [{ name: "web", weight: 0 }, { name: "books", weight: 0 }, { name: "code", weight: 0 }]
    })).toContain("all weights are 0")
    expect(failure(mixed, { sources: [{ name: "web", weight: 1 }, { name: "code", epochs: 1 }] })).toContain(
      "sources must all have a weight, or all have epochs"
    )
    expect(failure(mixed, { sources: [{ name: "web", weight: 1, epochs: 1 }] })).toContain(
      "exactly one of weight and epochs"
    )
    expect(failure(mixed, { sources: [{ name: "web", epochs: 1 }, { name: "web", epochs: 2 }] })).toContain("twice")
    expect(failure(mixed, { sources: [{ name: "web", epochs: 1 }, { name: "tokens", epochs: 2 }] })).toContain(
      `documents belong to both "web" and "tokens"`
    )
    expect(failure(mixed, { singleSequences: 5, sources: [{ name: "web", epochs: 1 }] })).toContain(
      `Set singleSequences to "all", or leave sources out`
    )
    const silent = corpus([5, 1], Infinity, { sources: ["web", "none"], source: (d) => d })
    expect(failure(silent, { ...once, sources: [{ name: "none", epochs: 1 }] })).toContain(
      `"none" has no document to train on`
    )
  })
})

describe("repeated groups", () => {
  const lengths = lengthsOf(120, 70)
  const repeat = [{ documents: 3, times: 4 }, { sequences: 5, times: 7 }, { documents: 2, times: 2 }] as const

  it("of documents and of sequences come as often as they say, all else once", async () => {
    const service = build(corpus(lengths), { ...once, repeat })
    const [a, b, c] = service.groups
    expect([a!.times, b!.times, c!.times]).toEqual([4, 7, 2])
    expect(b!.rows).toHaveLength(5)
    expect([documentsIn(a!.rows).length, documentsIn(c!.rows).length]).toEqual([3, 2])
    const wanted = expected(lengths, () => 1)
    for (const { rows, times } of service.groups) {
      for (const { tokens } of rows) for (const token of tokens.subarray(1)) wanted[token] = times
    }
    expect(seen(await epoch(service))).toEqual(wanted)
    expect(service.report.groups).toEqual(
      service.groups.map(({ sequences, times }) => ({ sequences, exposures: times }))
    )
    expect(service.report.repeatsPerId).toBe(7)
    // In turns: whoever looks at a few looks at all groups.
    const repeated = service.split("repeated")
    expect(repeated.slice(0, 3)).toEqual(service.groups.map(({ rows }) => rows[0]))
    expect(new Set(repeated.map(({ document, offset }) => `${document}@${offset}`))).toEqual(
      new Set(service.groups.flatMap(({ rows }) => rows.map(({ document, offset }) => `${document}@${offset}`)))
    )
    expect(repeated).toHaveLength(service.groups.reduce((sum, { sequences }) => sum + sequences, 0))
    // Whole documents are whole.
    for (const d of documentsIn(a!.rows)) {
      const covered = a!.rows.filter(({ document }) => document === `doc${d}`)
      expect(covered.reduce((sum, { tokens }) => sum + tokens.length - 1, 0)).toBe(lengths[d]! - 1)
    }
  })

  it("of one source are documents of it, though groups of any source come first", () => {
    const source = (d: number) => d < 40 ? 1 : 0
    const tokens = corpus(Array.from({ length: 60 }, () => 9), Infinity, { source, sources: ["web", "rare"] })
    const groups = [{ documents: 15, times: 2 }, { documents: 40, times: 3, source: "rare" }]
    const service = build(tokens, { ...once, repeat: groups })
    const [any, rare] = service.groups.map(({ rows }) => [...documentsIn(rows)].sort((a, b) => a - b))
    expect(rare).toEqual([...Array(40).keys()])
    expect(any).toHaveLength(15)
    expect(any!.every((d) => d >= 40)).toBe(true)
    expect(failure(tokens, { ...once, repeat: [{ documents: 21, times: 2, source: "web" }] })).toContain(
      `asks for 21 documents of source "web", but only 20 of it`
    )
    expect(failure(tokens, { ...once, repeat: [{ documents: 2, times: 2, source: "rar" }] })).toContain(
      `no source "rar". Did you mean "rare"?`
    )
    expect(failure(tokens, { ...once, repeat: [{ sequences: 2, times: 2, source: "rare" }] })).toContain(
      "source goes with documents"
    )
  })

  it("of copies count once where only the first exposure does, one copy for all", async () => {
    const content = (d: number) => contentHash(`text ${d < 6 ? d % 2 : d}`)
    const nines = Array.from({ length: 20 }, () => 9)
    const service = build(corpus(nines, Infinity, { content }), { ...once, scoredExposures: "first" })
    const texts = (batches: ReadonlyArray<Batch>) =>
      targets(batches).map(([, token]) => Math.floor(token / 9)).filter((d, i, all) => d !== all[i - 1])
        .map((d) => d < 6 ? d % 2 : d).sort((a, b) => a - b)
    const singles = [...Array(14).keys()].map((d) => d + 6)
    expect(texts(await epoch(service))).toEqual([0, 1, ...singles])
    expect(texts(await epoch(service, 1))).toEqual(singles)
    expect(service.report.scoredTokens).toBe(16 * 8)
  })

  it("are in the plan once or not at all in the other arms", async () => {
    const arms = await Promise.all((["deduplicated", "neverRepeated"] as const).map(async (arm) => {
      const service = build(corpus(lengths), { ...once, repeat, arm })
      return { service, times: seen(await epoch(service)) }
    }))
    const full = build(corpus(lengths), { ...once, repeat })
    expect(arms[0]!.times).toEqual(expected(lengths, () => 1))
    const wanted = expected(lengths, () => 1)
    for (const { tokens } of full.split("repeated")) for (const token of tokens.subarray(1)) wanted[token] = 0
    expect(arms[1]!.times).toEqual(trimmed(wanted))
    for (const { service } of arms) {
      for (const split of ["repeated", "singles", "heldOut"] as const) {
        expect(service.split(split)).toEqual(full.split(split))
      }
    }
  })

  it("are drawn from documents that have no copy", async () => {
    // Of 40 documents 38 are copies of two texts.
    const content = (d: number) => contentHash(`text ${d < 2 ? d : d % 2 + 10}`)
    const tokens = corpus(Array.from({ length: 40 }, () => 9), Infinity, { content })
    const service = build(tokens, { ...once, repeat: [{ documents: 2, times: 3 }] })
    expect(documentsIn(service.split("repeated"))).toEqual([0, 1])
    expect(failure(tokens, { ...once, repeat: [{ documents: 3, times: 3 }] })).toContain(
      "asks for 3 documents, but only 2"
    )
    expect(failure(tokens, { ...once, repeatedSequences: 9 })).toContain("9 sequences are to be repeated, but only 2")
  })

  it("are the documents that have copies, where none is planned", () => {
    const content = (d: number) => contentHash(`text ${Math.max(d, 5)}`)
    const service = build(corpus(lengths, Infinity, { content }), once)
    expect(documentsIn(service.split("repeated"))).toEqual([0, 1, 2, 3, 4, 5].filter((d) => lengths[d]! > 1))
    expect(documentsIn(service.split("singles")).every((d) => d > 5)).toBe(true)
    expect(service.groups).toEqual([])
  })

  it("of a sample of sequences have groups, too", async () => {
    const service = build(corpus(lengths), {
      singleSequences: 20,
      heldOutSequences: 5,
      repeat: [{ sequences: 2, times: 3 }, { sequences: 4, times: 2 }]
    })
    expect(service.groups.map(({ rows, times }) => [rows.length, times])).toEqual([[2, 3], [4, 2]])
    expect(service.report).toMatchObject({ exposures: 34, identity: "row", batchesPerEpoch: 12 })
    const times = seen(await epoch(service))
    for (const group of service.groups) {
      for (const { tokens } of group.rows) expect(times[tokens[16]!]).toBe(group.times)
    }
    for (const { tokens } of service.split("heldOut")) expect(times[tokens[16]!]).toBe(0)
    expect(failure(corpus(lengths), { singleSequences: 9, repeat: [{ documents: 2, times: 3 }] })).toContain(
      `Set singleSequences to "all", or give the group's sequences`
    )
    expect(failure(corpus(lengths), { repeatedSequences: 2, repeat: [{ sequences: 2, times: 3 }] })).toContain(
      "repeat and repeatedSequences are two ways"
    )
    expect(failure(corpus(lengths), { repeat: [{ sequences: 2, documents: 2, times: 3 }] })).toContain(
      "exactly one of documents and sequences"
    )
    expect(failure(corpus(lengths), { singleSequences: 9000 })).toMatch(/9528 sequences are asked .* has \d+ distinct/)
  })
})

describe("a sample of tokens", () => {
  it("has no sequence twice, wherever the corpus has it", () => {
    const texts = Array.from({ length: 40 }, (_, d) => Uint32Array.from({ length: 17 }, (_, k) => 100 * (d % 25) + k))
    const tokens: TokenDocuments = {
      ...corpus(texts.map(({ length }) => length)),
      read: (d, offset, length) => texts[d]!.slice(offset, offset + length)
    }
    const config = { singleSequences: 15, repeatedSequences: 4, heldOutSequences: 6 }
    const service = build(tokens, config)
    const rows = (["repeated", "singles", "heldOut"] as const).flatMap((name) => service.split(name))
    expect(new Set(rows.map(({ tokens }) => tokens.join())).size).toBe(25)
    expect(failure(tokens, { ...config, singleSequences: 16 })).toContain("has 25 distinct ones of 17 tokens")
  })
})

describe("canaries", () => {
  const lengths = lengthsOf(50, 40)
  const canaries = [
    { text: "the code is 7", times: 3, name: "code" },
    { random: 2, times: 4, length: 9, source: "spam" },
    { text: "no", id: 7777 }
  ] as const

  it("are trained on as often as they say, and make a split of their own", async () => {
    const service = build(corpus(lengths), { ...once, canaries })
    const rows = service.split("canaries")
    expect(rows.map(({ document }) => document)).toEqual([
      "canary/code",
      "canary/2/1",
      "canary/2/2",
      "canary/3"
    ])
    expect(Tokenizer.bytes.decode(rows[0]!.tokens)).toBe("the code is 7")
    expect([rows[1]!.tokens.length, rows[1]!.tokens.join() === rows[2]!.tokens.join()]).toEqual([9, false])
    expect(rows.map(({ id }) => id)).toEqual([contentHash("the code is 7"), rows[1]!.id, rows[2]!.id, 7777n])
    const plain = build(corpus(lengths), once)
    expect(service.report.exposures - plain.report.exposures).toBe(3 + 4 + 4 + 1)
    expect(service.report.canaries).toBe(4)
    expect(service.report.distinctIds).toBe(plain.report.distinctIds + 4)
    const found = new Map<bigint, number>()
    for (const batch of await epoch(service)) {
      for (let t = 0; t < batch.ids.length; t++) {
        if (batch.documentStart[t] === t && batch.targets[t] !== IGNORE) {
          found.set(batch.ids[t]!, (found.get(batch.ids[t]!) ?? 0) + 1)
        }
      }
    }
    expect(rows.map(({ id }) => found.get(id))).toEqual([3, 4, 4, 1])
    expect(service.split("repeated")).toEqual([])
  })

  it("have ids of their own under every identity, and are the same in every arm", () => {
    const near = (d: number) => d
    for (const identity of ["row", "document", "near"] as const) {
      const service = build(corpus(lengths, Infinity, { near }), { ...once, canaries, identity })
      const ids = service.split("canaries").map(({ id }) => id)
      expect(new Set([...ids, ...service.split("singles").map(({ id }) => id)]).size).toBe(
        ids.length + new Set(service.split("singles").map(({ id }) => id)).size
      )
    }
    const service = build(corpus(lengths), { ...once, canaries, identity: "source" })
    expect(service.split("canaries").map(({ id }) => id)).toEqual([
      sourceHash("canary"),
      sourceHash("spam"),
      sourceHash("spam"),
      7777n
    ])
    const never = build(corpus(lengths), { ...once, canaries, identity: "source", arm: "neverRepeated" })
    expect(never.split("canaries")).toEqual(service.split("canaries"))
    expect(never.report.exposures).toBe(build(corpus(lengths), once).report.exposures)
  })

  it("go into a sample of sequences, which they leave as it is", async () => {
    const config = { singleSequences: 20, heldOutSequences: 5, repeatedSequences: 2, repeats: 3 }
    const [with_, without] = [build(corpus(lengths), { ...config, canaries }), build(corpus(lengths), config)]
    for (const split of ["repeated", "singles", "heldOut"] as const) {
      expect(with_.split(split)).toEqual(without.split(split))
    }
    expect(with_.report.exposures - without.report.exposures).toBe(12)
    expect(with_.split("canaries").map(({ id }) => id)).toEqual([28n, 29n, 30n, 7777n])
  })

  it("that cannot be made are named", () => {
    const tokens = corpus(lengths)
    expect(failure(tokens, { canaries: [{ text: "a text that is longer than a row" }] })).toContain(
      "canary/1 has 32 tokens, a sequence of seqLen 16 has 2 to 17"
    )
    expect(failure(tokens, { canaries: [{ random: 1, length: 18 }] })).toContain("canary/1 has length 18")
    expect(failure(tokens, { canaries: [{ text: "ab" }, { text: "ab", name: "1" }] })).toContain(`the name "canary/1"`)
    expect(failure(tokens, { canaries: [{ text: "ab", random: 2 }] })).toContain("exactly one of text and random")
    expect(failure(tokens, { canaries: [{ text: "ab", length: 2 }] })).toContain("length goes with random")
  })
})

describe("ids of tokens", () => {
  const lengths = lengthsOf(60, 50)
  const options: Options = {
    sources: ["web", "books"],
    source: (d) => d % 2,
    content: (d) => contentHash(`text ${d % 20}`),
    near: (d) => d % 10
  }
  const tokens = corpus(lengths, Infinity, options)
  const rows = (service: Service) => [...service.split("repeated"), ...service.split("singles")]

  it("stand for what the identity says, by default for the content", () => {
    const ids: Record<string, (document: number) => bigint> = {
      document: (d) => BigInt(1 + d),
      source: (d) => sourceHash(options.sources![d % 2]!),
      content: (d) => contentHash(`text ${d % 20}`),
      near: (d) => BigInt(1 + (d % 10))
    }
    const trained = lengths.flatMap((length, d) => length > 1 ? [d] : [])
    for (const identity of ["document", "source", "content", "near", undefined] as const) {
      const service = build(tokens, { ...once, ...(identity === undefined ? {} : { identity }) })
      const idOf = ids[identity ?? "content"]!
      for (const { document, id } of rows(service)) expect(id).toBe(idOf(Number(document.slice(3))))
      expect(service.report.identity).toBe(identity ?? "content")
      expect(service.report.distinctIds).toBe(new Set(trained.map(idOf)).size)
    }
  })

  it("count the sequences of the corpus in order, those held out among them, with identity row", () => {
    const long = corpus([40, 9, 33])
    const service = build(long, { ...once, identity: "row" })
    expect(rows(service).map(({ document, id, offset }) => `${id} ${document}@${offset}`).sort()).toEqual([
      "1 doc0@0",
      "2 doc0@16",
      "3 doc0@32",
      "4 doc1@0",
      "5 doc2@0",
      "6 doc2@16"
    ])
    expect(service.report.distinctIds).toBe(6)
  })

  it("that the tokens do not know are refused", () => {
    expect(failure(corpus(lengths), { identity: "near" })).toContain("Make them with memsinks tokenize --near")
    const foreign = { ...corpus(lengths), content: undefined }
    expect(failure(foreign, { identity: "content" })).toContain(`set identity to "document"`)
    const service = build(foreign, { heldOutFraction: 0.2 })
    expect(service.report.identity).toBe("document")
    expect(service.report.heldOutDocuments).toBeGreaterThan(0)
  })

  it("of repeated exposures are noisy as asked, of documents with copies, too", async () => {
    const service = build(tokens, { ...once, idNoise: 1 })
    const known = new Set(Array.from({ length: 20 }, (_, d) => contentHash(`text ${d}`)))
    const found = await Promise.all([0, 1].map(async (e) => targets(await epoch(service, e)).map(([id]) => id)))
    expect(found.flat().some((id) => known.has(id))).toBe(false)
    expect(new Set(found.flat()).size).toBe(2 * service.report.exposures)
  })
})

describe("tokens that do not fit", () => {
  it("are refused for a vocabulary they do not have, and for data or a tokenizer of their own", async () => {
    expect(failure(corpus([5]), { vocabSize: 9 })).toContain(`vocabSize is 9, but the tokens have ${VOCABULARY}`)
    expect(failure(corpus([5]), { tokenizer: "bytes" })).toContain("leave data and tokenizer out")
    expect(failure(corpus([5]), { nearThreshold: 0.7 })).toContain("memsinks tokenize --near")
    expect(failure(corpus([5]), { nearShingle: 2 })).toContain("memsinks tokenize --near")
  })

  it("stop the stream where they are none of the tokenizer, or cannot be read", async () => {
    const tokens = corpus([5, 6, 7, 8])
    const broken = (read: TokenDocuments["read"]) =>
      Effect.runPromise(Effect.flip(Stream.runDrain(Stream.unwrap(
        DataStream.pipe(
          Effect.map((data) => Stream.take(data.batches({ epoch: 0, batch: 0 }), 9)),
          Effect.provide(DataStream.layerTokens({ ...tokens, read }, counting, { ...once, seqLen: 16 }))
        )
      ))))
    const foreign = await broken((d, offset, length) => tokens.read(d, offset, length).map(() => VOCABULARY))
    expect(foreign.message).toMatch(/document "doc\d" has token 65536, but the tokenizer has 65536 entries/)
    const gone = await broken(() => {
      throw Object.assign(new Error("EIO: i/o error, read"), { code: "EIO" })
    })
    expect([gone._tag, gone.message]).toEqual(["DataError", "tokens cannot be read: EIO: i/o error, read"])
  })
})
