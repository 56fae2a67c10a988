import { describe, expect, it } from "vitest"
import { documentIds, type Identity, sourceHash } from "../../../src/data/identity/Identity.ts"
import type { TokenDocuments } from "../../../src/data/Pieces.ts"
import { formatIdentityReport, identityReport,
  type IdentityReportOptions } from "../../../src/data/stream/IdentityReport.ts"
import { SinkConfig, unitsOf } from "../../../src/Sink.ts"

interface Doc {
  readonly length: number
  readonly source: string
  readonly content: bigint
  readonly near: number
}

const corpusOf = (docs: ReadonlyArray<Doc>, known = true): TokenDocuments => {
  const sources = [...new Set(docs.map(({ source }) => source))]
  return {
    documents: docs.length,
    length: (d) => docs[d]!.length,
    read: () => {
      throw new Error("the report reads no tokens")
    },
    name: (d) => `doc${d}`,
    sources,
    source: (d) => sources.indexOf(docs[d]!.source),
    ...(known ? { content: (d: number) => docs[d]!.content, near: (d: number) => docs[d]!.near } : {})
  }
}

/** 0, 2 and 5 are the same; 3 is nearly them; 6 and 7 are nearly the same. */
const docs: ReadonlyArray<Doc> = [
  { length: 100, source: "a", content: 77n, near: 0 },
  { length: 50, source: "b", content: 2n ** 64n - 1n, near: 1 },
  { length: 100, source: "a", content: 77n, near: 0 },
  { length: 90, source: "b", content: 77n + 2n ** 32n, near: 0 },
  { length: 10, source: "a", content: 4n, near: 4 },
  { length: 100, source: "C.", content: 77n, near: 0 },
  { length: 30, source: "b", content: 6n, near: 6 },
  { length: 20, source: "b", content: 7n, near: 6 }
]
const corpus = corpusOf(docs)
const report = (identity: Identity, options: Partial<IdentityReportOptions> = {}, of = corpus) =>
  identityReport(of, { identity, seqLen: 39, ...options })!

/** Many documents that all differ, as ids 1, 2, ... */
const distinct = (count: number): TokenDocuments =>
  corpusOf(Array.from({ length: count }, (_, d) => ({ length: 10, source: `s${d}`, content: BigInt(d), near: d })))

describe("ids", () => {
  it("are numbers from 1, hashes, or those of the cluster", () => {
    const ids = (identity: Exclude<Identity, "row">) => docs.map((_, d) => documentIds(identity, corpus)!(d))
    expect(ids("document")).toEqual([1n, 2n, 3n, 4n, 5n, 6n, 7n, 8n])
    expect(ids("near")).toEqual([1n, 2n, 1n, 1n, 5n, 1n, 7n, 7n])
    expect(ids("content")).toEqual(docs.map(({ content }) => content))
    expect(ids("source")).toEqual(docs.map(({ source }) => sourceHash(source)))
    expect(documentIds("near", corpusOf(docs, false))).toBeUndefined()
  })
})

describe("the identity report", () => {
  it("counts ids and how often each is seen", () => {
    const near = report("near")
    expect(near).toMatchObject({ documents: 8, tokens: 500, ids: 4, repeatedIds: 2, most: 4 })
    expect(near.repeatedTokens).toBeCloseTo(440 / 500, 12)
    expect(near.repeats.filter(({ ids }) => ids > 0)).toEqual([
      { from: 1, to: 1, ids: 2, exposures: 2, tokens: 60 },
      { from: 2, to: 2, ids: 1, exposures: 2, tokens: 50 },
      { from: 3, to: 10, ids: 1, exposures: 4, tokens: 390 }
    ])
    expect(near.mostSeen).toEqual([
      { id: "1", exposures: 4, tokens: 390, names: ["doc0", "doc2", "doc3"] },
      { id: "7", exposures: 2, tokens: 50, names: ["doc6", "doc7"] }
    ])
    expect(report("content").mostSeen).toEqual([
      { id: "0x000000000000004d", exposures: 3, tokens: 300, names: ["doc0", "doc2", "doc5"] }
    ])
  })

  it("compares every identity", () => {
    const rows = report("near").modes.map((
      { identity, ids, most, repeatedIds, repeatedTokens }
    ) => [identity, ids, repeatedIds, most, Math.round(repeatedTokens * 500)])
    expect(rows).toEqual([
      // rows of 40 tokens: 3 + 2 + 3 + 3 + 1 + 3 + 1 + 1
      ["row", 17, 0, 1, 0],
      ["document", 8, 0, 1, 0],
      ["source", 3, 2, 4, 400],
      ["content", 6, 1, 3, 300],
      ["near", 4, 2, 4, 440]
    ])
    // as many rows as take all tokens: 2 + 1 + 2 + 2 + 1 + 2 + 1 + 1
    expect(report("row", { seqLen: 49 }).ids).toBe(12)
    expect(report("document", {}, corpusOf(docs, false)).modes.map(({ identity }) => identity))
      .toEqual(["row", "document", "source"])
    expect(report("document", {}, corpusOf(docs, false)).near).toBeNull()
    expect(identityReport(corpusOf(docs, false), { identity: "content" })).toBeUndefined()
  })

  it("counts documents as often as they are trained on, and leaves out those that are not", () => {
    const exposures = (d: number): number => d === 5 ? 0 : d === 1 ? 20 : 1
    const content = report("content", { exposures })
    expect(content).toMatchObject({ documents: 7, tokens: 400, ids: 6, repeatedIds: 2, most: 20 })
    expect(content.mostSeen.map(({ exposures, names }) => [exposures, ...names])).toEqual([
      [20, "doc1"],
      [2, "doc0", "doc2"]
    ])
    expect(content.near).toMatchObject({ clusters: 2, documents: 5, exactRepeats: 1 })
    const others = report("near", { exposures: (d) => d === 3 ? 0 : 1 }).near!.examples[1]!
    expect([others.documents, ...others.members.map(({ document }) => document)]).toEqual([3, 0, 2, 5])
    // two rows of doc1, twenty times each
    const row = report("row", { exposures })
    expect(row.repeats.find(({ from }) => from === 11))
      .toEqual({ from: 11, to: 100, ids: 2, exposures: 40, tokens: 1000 })
  })

  it("shows clusters of near-duplicates, other texts before exact repeats", () => {
    const { near } = report("near", { text: (d) => `text ${d}\n\n  of ${"words ".repeat(40)}` })
    expect(near).toMatchObject({ clusters: 2, documents: 6, exactRepeats: 2 })
    expect(near!.examples.map(({ documents, members }) => [documents, ...members.map(({ document }) => document)]))
      .toEqual([[4, 0, 3, 2], [2, 6, 7]])
    expect(near!.examples[0]!.members[1])
      .toMatchObject({ name: "doc3", text: expect.stringMatching(/^text 3 of words/) })
    expect(near!.examples[0]!.members[1]!.text.length).toBeLessThanOrEqual(80)
  })
})

describe("the report on sinks", () => {
  it.each([
    ["permutation", 120, { pool: 4096, active: 64, block: 16 }],
    ["permutation", 40, { pool: 512, active: 32, block: 16 }],
    ["bernoulli", 60, { pool: 1024, active: 32, block: 1 }],
    ["permutation", 120, { pool: 4096, active: 64, block: 16, shards: 4 }],
    ["permutation", 40, { pool: 512, active: 32, block: 16, shards: 2 }],
    ["bernoulli", 60, { pool: 1024, active: 32, block: 1, shards: 4 }]
  ] as const)("expects what the %s assignment gives to %d ids", (assignment, ids, shape) => {
    const use = Array.from({ length: 50 },
      (_, seed) => report("document", { sinks: new SinkConfig({ ...shape, assignment, seed }) }, distinct(ids)).sinks!)
    const close = (values: ReadonlyArray<number>, expected: number, approximation = 0) => {
      const mean = values.reduce((a, b) => a + b, 0) / values.length
      const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / (values.length - 1)
      // five standard errors of the mean, by the spread that the seeds show
      expect(Math.abs(mean - expected)).toBeLessThan(5 * Math.sqrt(variance / values.length) + approximation)
    }
    for (const population of ["othersPerSink", "ownSink", "fitting"] as const) {
      // blocks of one id are not quite independent of each other, and the papers' masks differ in number
      const approximation = population === "othersPerSink" ? 0 : 0.02
      close(use.map(({ all }) => all[population].counted!), use[0]!.all[population].expected, approximation)
    }
    close(use.map(({ pair }) => pair.shared.counted!), use[0]!.pair.shared.expected)
    close(use.map(({ pair }) => pair.any.counted!), use[0]!.pair.any.expected)
    expect(use[0]!.all.othersPerSink.expected).toBeCloseTo((ids - 1) * shape.active / shape.pool, 12)
  })

  it("counts with the very sinks that ids get", () => {
    const sinks = new SinkConfig({ pool: 256, active: 32 })
    const { sinks: found } = report("near", { sinks })
    const units = [1n, 2n, 5n, 7n].map((id) => unitsOf(sinks, id))
    const load = (unit: number): number => units.filter((own) => own.includes(unit)).length
    expect(found!.all.mostLit).toBe(Math.max(...units.flatMap((own) => [...own].map(load))))
    expect(found!.all.ownSink.counted).toBe(units.filter((own) => own.some((unit) => load(unit) === 1)).length / 4)
    expect(found!.all.othersPerSink.counted)
      .toBeCloseTo(units.flatMap((own) => [...own].map((unit) => load(unit) - 1)).reduce((a, b) => a + b, 0) / 8, 12)
    expect(found!.repeated!.ids).toBe(2)
    const [a, b] = [units[0], units[3]]
    expect(found!.repeated!.othersPerSink.counted).toBe(a!.filter((unit) => b!.includes(unit)).length / 2)
    expect(report("document", { sinks }).sinks!.repeated).toBeNull()
    expect(report("document").sinks).toBeNull()
  })

  it("knows the probability of sharing a block exactly", () => {
    // 2 of 4: 1 of 6 pairs of sets has nothing in common
    expect(report("near", { sinks: new SinkConfig({ pool: 64, active: 32 }) }).sinks!.pair.any.expected)
      .toBeCloseTo(5 / 6, 12)
    expect(report("near", { sinks: new SinkConfig({ pool: 64, active: 64 }) }).sinks!.pair.any.expected).toBe(1)
  })

  it("recommends the smallest pools that do", () => {
    const ids = distinct(300)
    const sinks = new SinkConfig({ pool: 512, active: 64 })
    const { poolForFewerThanOne, poolForFitting } = report("document", { sinks }, ids).sinks!.all
    const at = (pool: number) => report("document", { sinks: new SinkConfig({ ...sinks, pool }) }, ids).sinks!.all
    expect(poolForFewerThanOne).toBe(64 * 299 + 16)
    expect(at(poolForFewerThanOne).othersPerSink.expected).toBeLessThan(1)
    expect(at(poolForFewerThanOne - 16).othersPerSink.expected).toBeGreaterThanOrEqual(1)
    expect(at(poolForFitting).fitting.expected).toBeGreaterThanOrEqual(0.95)
    expect(at(poolForFitting - 16).fitting.expected).toBeLessThan(0.95)
    expect(at(poolForFitting).fitting.counted).toBeGreaterThan(0.9)
    expect(at(512).fitting.counted).toBeLessThan(0.1)
  })

  it("draws the sinks of a part of the ids where there are very many", () => {
    const { sinks } = report("document", { sinks: new SinkConfig({ pool: 16_000, active: 4000 }) }, distinct(9000))
    expect(sinks!.all)
      .toMatchObject({ ids: 9000, mostLit: null, fitting: { counted: null }, ownSink: { counted: null } })
    const { counted, expected } = sinks!.all.othersPerSink
    expect(expected).toBeCloseTo(8999 / 4, 9)
    expect(Math.abs(counted! / expected - 1)).toBeLessThan(0.01)
  })
})

describe("the report in words", () => {
  it("names the pool that would do", () => {
    const found = report("document", { sinks: new SinkConfig({ pool: 512, active: 64 }) }, distinct(300))
    const { poolForFewerThanOne, poolForFitting } = found.sinks!.all
    expect(formatIdentityReport(found)).toContain(
      `    sinks.pool would have to be ${poolForFewerThanOne.toLocaleString("en-US")} for fewer than one other ` +
        `a sink, ${poolForFitting.toLocaleString("en-US")} for the sinks of 95 % to fit\n`
    )
  })

  const text = formatIdentityReport(
    report("near", { sinks: new SinkConfig({ pool: 256, active: 32 }), text: (d) => `begins ${d} ${"so ".repeat(99)}` })
  )

  it("says what the numbers are, in lines that fit", () => {
    const wide = formatIdentityReport(
      report("document", { sinks: new SinkConfig({ pool: 16_000, active: 1600 }) }, distinct(20_000))
    )
    for (const line of [...text.split("\n"), ...wide.split("\n")]) {
      expect(line.length).toBeLessThanOrEqual(100)
      expect(line).toBe(line.trimEnd())
    }
    expect(wide).toMatch(/^ {4}about 0 % have a sink of their own, about 0 % sinks that fit /m)
    expect(wide).toMatch(/^ {4}too many for any pool: .* another id lights 10\.0 % of it$/m)
    expect(text).toMatch(/^ {4}the pool is large enough to keep them apart$/m)
    expect(text).toContain("8 documents, 500 tokens; identity near: near-duplicates share sinks")
    expect(text).toContain("4 ids, 2 of them repeated, with 88.0 % of the tokens")
    expect(text).toMatch(/^3 to 10 +1 +4 +78.0 %$/m)
    expect(text).toContain("4 x id 1: doc0, doc2, doc3, ...")
    expect(text).toContain("near-duplicates: 2 clusters of 6 documents; 2 exact repeats in the corpus")
    expect(text).toMatch(/^ {4}doc3: begins 3 so so .*\.\.\.$/m)
    expect(text).toMatch(/^ {2}the 2 .*: 0 others a sink on average, 1 id on the most lit$/m)
    expect(text).toContain("sinks: pool 256 in 16 blocks of 16; an id lights 32 (12.5 %), 2 blocks")
    expect(text).toMatch(/^ {2}all 4 ids: /m)
    expect(text).toMatch(/^ {2}the 2 repeated ids among themselves: /m)
    expect(text).toMatch(/^row \(39 tokens\) +17 +0 +0 % +1 +2$/m)
    expect(text).toMatch(/^near +4 +2 +88.0 % +4 +.38$/m)
  })
})
