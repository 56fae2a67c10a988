import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as FileSystem from "@effect/platform/FileSystem"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as FastCheck from "effect/FastCheck"
import type * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { createHash } from "node:crypto"
import { describe, expect, it } from "vitest"
import { type Batch, IGNORE } from "../../../src/Batch.ts"
import type { Document } from "../../../src/data/Corpus.ts"
import { batchOf, type Cursor, DataConfig, type DataConfigInput, DataStream, type Row,
  type TokenDocuments } from "../../../src/data/stream/DataStream.ts"
import { goldfishTargets } from "../../../src/data/stream/Goldfish.ts"
import { packedBatch, scoredTokens, sequencesOf as rowsOfBatch } from "../../../src/data/stream/Packing.ts"
import * as Tokenizer from "../../../src/data/tokens/Tokenizer.ts"
import type { DataError } from "../../../src/Errors.ts"
import { random } from "../../../src/Random.ts"

type Service = typeof DataStream.Service

/** Documents of made-up words, all different: `lengths[i]` words each. */
const prose = (lengths: ReadonlyArray<number>, seed = 1): ReadonlyArray<Document> =>
  lengths.map((length, i) => {
    const draw = random(seed, i)
    const syllables = ["ba", "ce", "di", "fo", "gu", "la", "me", "ni", "ro", "su"]
    const word = () => Array.from({ length: 1 + draw.below(3) }, () => syllables[draw.below(10)]).join("")
    return { name: `doc${i}`, text: Array.from({ length }, word).join(" ") }
  })

const small: DataConfigInput = {
  tokenizer: "bytes",
  seqLen: 16,
  batchSize: 3,
  repeatedSequences: 4,
  repeats: 5,
  singleSequences: 30,
  heldOutSequences: 8
}
const documents = prose([150, 90, 200, 120])

const build = (config: DataConfigInput = {}, texts = documents): Service =>
  Effect.runSync(DataStream.pipe(Effect.provide(DataStream.layerMemory(texts, { ...small, ...config }))))

const failure = (config: DataConfigInput, texts = documents): string => {
  const layer = DataStream.layerMemory(texts, { ...small, ...config })
  const error = Effect.runSync(DataStream.pipe(Effect.provide(layer), Effect.flip))
  expect(error._tag).toBe("DataError")
  return error.message
}

const START: Cursor = { epoch: 0, batch: 0 }

const take = (service: Service, count: number, cursor = START) =>
  service.batches(cursor).pipe(
    Stream.take(count),
    Stream.runCollect,
    Effect.map(Chunk.toReadonlyArray),
    Effect.runPromise
  )
const epoch = async (service: Service, number = 0): Promise<ReadonlyArray<Batch>> =>
  (await take(service, service.batchesPerEpoch, { epoch: number, batch: 0 })).map(({ batch }) => batch)

/** A sequence as it stands in a batch: its id, its tokens with the last target, and where in its row it begins. */
interface Found {
  readonly id: bigint
  readonly tokens: ReadonlyArray<number>
  readonly column: number
}

/** Cheaper than `expect` once a token. */
const must = (holds: boolean, what: string, at: number): void => {
  if (!holds) throw new Error(`${what} (token ${at})`)
}

/** Reads the sequences out of a batch by its arrays alone, and checks what must hold at every token. */
const sequences = (batch: Batch): ReadonlyArray<Found> => {
  const found: Array<{ id: bigint; tokens: Array<number>; column: number }> = []
  for (let t = 0; t < batch.rows * batch.seqLen; t++) {
    const column = t % batch.seqLen
    const start = batch.documentStart[t]!
    if (start === t) found.push({ id: batch.ids[t]!, tokens: [], column })
    const { id, tokens } = found[found.length - 1]!
    must(batch.positions[t] === t - start, "a position counts from the start of its document", t)
    must(start >= t - column && start <= t, "a document starts in its row", t)
    must(start === t || batch.documentStart[t - 1] === start, "a document is one run of tokens", t)
    must(batch.ids[t] === id, "a document has one id", t)
    if (batch.targets[t] === IGNORE) {
      must(batch.tokens[t] === 0, "padding is token 0", t)
      continue
    }
    if (tokens.length === 0) tokens.push(batch.tokens[t]!)
    must(tokens[tokens.length - 1] === batch.tokens[t], "a target is the next token", t)
    tokens.push(batch.targets[t]!)
    must(tokens.length === t - start + 2, "padding comes last in its document", t)
  }
  return found.filter(({ tokens }) => tokens.length > 0)
}
const sequencesOf = (batches: ReadonlyArray<Batch>): ReadonlyArray<Found> => batches.flatMap(sequences)

const label = (id: bigint, tokens: Iterable<number>): string => `${id}:${Array.from(tokens).join()}`
const labels = (batches: ReadonlyArray<Batch>): ReadonlyArray<string> =>
  sequencesOf(batches).map(({ id, tokens }) => label(id, tokens))
const counts = <A>(items: Iterable<A>): Map<A, number> => {
  const map = new Map<A, number>()
  for (const item of items) map.set(item, (map.get(item) ?? 0) + 1)
  return map
}
const digest = (batches: ReadonlyArray<Batch>): string => {
  const hash = createHash("sha256")
  for (const { documentStart, ids, positions, targets, tokens } of batches) {
    for (const array of [tokens, targets, positions, documentStart, ids]) {
      hash.update(new Uint8Array(array.buffer, array.byteOffset, array.byteLength))
    }
  }
  return hash.digest("hex").slice(0, 16)
}

describe("batchOf", () => {
  const row = (id: bigint, tokens: ReadonlyArray<number>): Row => ({ id, tokens: Uint32Array.from(tokens),
    document: "d", offset: 0 })

  it("feeds all tokens but the last and scores all but the first; pads a short row", () => {
    const batch = batchOf([row(7n, [1, 2, 3, 4, 5]), row(8n, [6, 9, 6])], 4)
    expect(batch).toEqual({
      rows: 2,
      seqLen: 4,
      names: ["d", "d"],
      tokens: Uint32Array.of(1, 2, 3, 4, 6, 9, 0, 0),
      targets: Uint32Array.of(2, 3, 4, 5, 9, 6, IGNORE, IGNORE),
      positions: Uint32Array.of(0, 1, 2, 3, 0, 1, 2, 3),
      documentStart: Uint32Array.of(0, 0, 0, 0, 4, 4, 4, 4),
      ids: BigUint64Array.of(7n, 7n, 7n, 7n, 8n, 8n, 8n, 8n)
    })
  })

  it("refuses a row that is longer than the batch", () => {
    expect(() => batchOf([row(1n, [1, 2, 3, 4, 5])], 3)).toThrow(RangeError)
  })
})

describe("the default configuration", () => {
  it("is the miniature experiment: 16 rows 48 times among 2048 singles, 512 held out, 704 batches", async () => {
    const layer = DataStream.layer()
    const service = await Effect.runPromise(
      DataStream.pipe(Effect.provide(layer), Effect.provide(NodeFileSystem.layer))
    )
    expect(service.tokenizer.vocabSize).toBe(256)
    expect(service.report).toMatchObject({
      documentsAvailable: 233,
      exposures: 2816,
      batchesPerEpoch: 704,
      scoredTokens: 180_224,
      distinctIds: 2064,
      repeatsPerId: 48
    })
    expect(service.report.bytesPerToken).toBeGreaterThan(2)
    expect(service.report.bytes).toBeLessThan(450_000)
    const seen = counts((await epoch(service)).flatMap(({ ids }) => Array.from(ids)))
    for (let id = 1; id <= 2576; id++) {
      expect(seen.get(BigInt(id)) ?? 0).toBe(64 * (id <= 16 ? 48 : id <= 2064 ? 1 : 0))
    }
    const heldOut = service.split("heldOut").map(({ id }) => Number(id))
    expect(heldOut).toEqual(Array.from({ length: 512 }, (_, i) => 2065 + i))
    const text = service.tokenizer.decode(service.split("repeated")[0]!.tokens)
    expect(text).toMatch(/[a-z]+ [a-z]+ [a-z]+/)
    expect(text).not.toContain("<unk>")
  })
})

describe("sequences", () => {
  it("are windows of one document that do not overlap, and match its text", () => {
    const service = build()
    const all = [...service.split("repeated"), ...service.split("singles"), ...service.split("heldOut")]
    expect(all.map(({ id }) => Number(id))).toEqual(Array.from({ length: 42 }, (_, i) => i + 1))
    for (const { document, offset, tokens } of all) {
      const { text } = documents.find(({ name }) => name === document)!
      expect(offset % 17).toBe(0)
      expect(Array.from(tokens)).toEqual(Array.from(Tokenizer.bytes.encode(text).subarray(offset, offset + 17)))
    }
    expect(new Set(all.map(({ document, offset }) => `${document}@${offset}`)).size).toBe(42)
    expect([4, 30, 8]).toEqual((["repeated", "singles", "heldOut"] as const).map((name) => service.split(name).length))
  })

  it("of each kind come from all over the text, not from its beginning", () => {
    const texts = prose([3000])
    const config = { repeatedSequences: 100, singleSequences: 100, heldOutSequences: 100 }
    const service = build(config, texts)
    const mean = (rows: ReadonlyArray<Row>) => rows.reduce((sum, { offset }) => sum + offset, 0) / rows.length
    const middle = service.report.tokens / 2
    for (const name of ["repeated", "singles", "heldOut"] as const) {
      // Three standard errors of the mean of 100 uniform draws are 0.17 of the middle.
      expect(Math.abs(mean(service.split(name)) / middle - 1)).toBeLessThan(0.18)
    }
  })

  it("are distinct even where the text repeats itself", () => {
    const block = prose([40], 2)[0]!.text.slice(0, 17 * 5)
    const texts = [{ name: "twice", text: block + block }, ...documents]
    const service = build({ singleSequences: 150 }, texts)
    expect(service.report.duplicateRows).toBe(5)
    const all = [...service.split("repeated"), ...service.split("singles"), ...service.split("heldOut")]
    expect(new Set(all.map(({ tokens }) => tokens.join())).size).toBe(all.length)
  })

  it("take only as much text as they need", () => {
    const texts = prose(Array.from({ length: 50 }, () => 200))
    const { report } = build({}, texts)
    expect(report.documentsAvailable).toBe(50)
    expect(report.documents).toBeLessThan(4)
    expect(report.rows).toBeLessThan(60)
  })

  it("go on through the text when the first guess was short, so that no token is unknown", () => {
    // One token a word: more text is needed than a guess from vocabSize alone would take.
    const words = prose([60], 5)[0]!.text.split(" ")
    const draw = random(3)
    const text = () => Array.from({ length: 400 }, () => words[draw.below(60)]).join(" ")
    const letter = (i: number) => String.fromCharCode(65 + i)
    const texts = Array.from({ length: 20 }, (_, i) => ({ name: letter(i), text: `${text()} ${letter(i)}` }))
    const service = build({ tokenizer: "bpe", vocabSize: 200, singleSequences: 250 }, texts)
    expect(service.report.bytesPerToken).toBeGreaterThan(4)
    expect(service.split("singles").flatMap(({ tokens }) => Array.from(tokens))).not.toContain(0)
  })
})

describe("an epoch", () => {
  it("holds every planned exposure once, in an order of its own", async () => {
    const service = build()
    const [first, second] = [labels(await epoch(service)), labels(await epoch(service, 1))]
    const planned = [
      ...Array.from({ length: 5 }, () => service.split("repeated")).flat(),
      ...service.split("singles")
    ].map(({ id, tokens }) => label(id, tokens))
    expect([...first].sort()).toEqual([...planned].sort())
    expect([...second].sort()).toEqual([...planned].sort())
    expect(second).not.toEqual(first)
    // Shuffled, not one after the other: exposures of a repeated sequence have others between them.
    const places = first.flatMap((l, i) => l === planned[0] ? [i] : [])
    expect(places[4]! - places[0]!).toBeGreaterThan(10)
  })

  it("ends in padding rows when rows do not divide by the batch size", async () => {
    const service = build({ batchSize: 4 })
    expect(service.batchesPerEpoch).toBe(13)
    const last = (await epoch(service)).at(-1)!
    expect(last.rows).toBe(4)
    expect(sequences(last)).toHaveLength(2)
    expect(last.targets.subarray(32).every((target) => target === IGNORE)).toBe(true)
    expect(Array.from(last.documentStart.subarray(32))).toEqual([...Array(16).fill(32), ...Array(16).fill(48)])
    // Padding lights no sinks of its own.
    expect(last.ids.subarray(32).every((id) => id === last.ids[31])).toBe(true)
  })

  it("keeps sequences and ids the same in every arm, and changes only how often they come", async () => {
    const arms = (["repeats", "deduplicated", "neverRepeated"] as const).map((arm) => build({ arm }))
    for (const name of ["repeated", "singles", "heldOut"] as const) {
      expect(arms[1]!.split(name)).toEqual(arms[0]!.split(name))
      expect(arms[2]!.split(name)).toEqual(arms[0]!.split(name))
    }
    for (const [i, times] of [5, 1, 0].entries()) {
      const seen = counts(sequencesOf(await epoch(arms[i]!)).map(({ id }) => id))
      for (const { id } of arms[i]!.split("repeated")) expect(seen.get(id) ?? 0).toBe(times)
      for (const { id } of arms[i]!.split("singles")) expect(seen.get(id)).toBe(1)
      for (const { id } of arms[i]!.split("heldOut")) expect(seen.has(id)).toBe(false)
      expect(arms[i]!.report.repeatsPerId).toBe(times)
      expect(arms[i]!.report.exposures).toBe(4 * times + 30)
    }
  })

  it("shows each repeated sequence in one part of them, and all else in every part", async () => {
    const whole = build()
    const parts = [0, 1, 2].map((part) => build({ repeatedPart: { part, of: 3 } }))
    const seen = await Promise.all(parts.map(async (one) => counts(sequencesOf(await epoch(one)).map(({ id }) => id))))
    for (const name of ["repeated", "singles", "heldOut"] as const) {
      for (const one of parts) expect(one.split(name)).toEqual(whole.split(name))
    }
    for (const { id } of whole.split("repeated")) {
      expect(seen.map((one) => one.get(id) ?? 0).sort()).toEqual([0, 0, 5])
    }
    for (const { id } of whole.split("singles")) expect(seen.map((one) => one.get(id))).toEqual([1, 1, 1])
    expect(failure({ repeatedPart: { part: 3, of: 3 } })).toContain("part must be below of, 3, got 3")
  })
})

describe("ids", () => {
  it("stand for documents when asked to", async () => {
    const service = build({ identity: "document" })
    for (const { document, id } of service.split("singles")) expect(id).toBe(1n + BigInt(document.slice(3)))
    expect(service.report.distinctIds).toBe(service.report.documents)
    expect(new Set(sequencesOf(await epoch(service)).map(({ id }) => id)).size).toBe(service.report.documents)
  })

  for (const identity of ["row", "document"] as const) {
    it(`of a share of repeated exposures are fresh, and never used twice (identity ${identity})`, async () => {
      const clean = build({ repeats: 50, identity })
      const noisy = build({ repeats: 50, identity, idNoise: 0.25 })
      const rows = (["repeated", "singles", "heldOut"] as const).flatMap((name) => clean.split(name))
      const known = new Set(rows.map(({ id }) => id))
      const found = await Promise.all([0, 1].map(async (e) => sequencesOf(await epoch(noisy, e))))
      const same = sequencesOf(await epoch(clean))
      expect(found[0]!.map(({ tokens }) => tokens)).toEqual(same.map(({ tokens }) => tokens))
      const fresh = found.map((all) => all.filter(({ id }) => !known.has(id)))
      // 200 exposures a quarter of them fresh: 50, standard deviation 6.
      for (const some of fresh) expect(Math.abs(some.length - 50)).toBeLessThan(25)
      expect(new Set(fresh.flat().map(({ id }) => id)).size).toBe(fresh.flat().length)
      const repeated = new Set(clean.split("repeated").map(({ tokens }) => Array.from(tokens).join()))
      expect(fresh.flat().every(({ tokens }) => repeated.has(tokens.join()))).toBe(true)
    })
  }

  it("that are all noise leave no repeated id", async () => {
    const service = build({ idNoise: 1 })
    const seen = new Set(sequencesOf(await epoch(service)).map(({ id }) => id))
    expect(service.split("repeated").some(({ id }) => seen.has(id))).toBe(false)
    expect(seen.size).toBe(20 + 30)
  })
})

describe("packing documents", () => {
  it("is undone by sequencesOf, from the first token to the last that is scored", () => {
    const [a, b] = [Uint32Array.of(4, 5, 6, 7), Uint32Array.of(1, 2, 3)]
    const batch = packedBatch([[{ id: 9n, tokens: a, scoredFrom: 2 }, { id: 8n, tokens: b }]], 2, 8, 4)
    expect(rowsOfBatch(batch)).toEqual([
      { id: 9n, tokens: a, document: "9", offset: 0, scoredFrom: 2 },
      { id: 8n, tokens: b, document: "8", offset: 0 }
    ])
  })
  it("puts every sequence whole into a row, aligned, positions and documentStart anew", async () => {
    const configs = FastCheck.record({
      seqLen: FastCheck.constantFrom(16, 24, 32),
      segmentAlignment: FastCheck.constantFrom(1, 2, 8),
      batchSize: FastCheck.integer({ min: 1, max: 4 }),
      arm: FastCheck.constantFrom("repeats" as const, "deduplicated" as const),
      seed: FastCheck.nat()
    })
    await FastCheck.assert(
      FastCheck.asyncProperty(configs, async (config) => {
        // Many documents shorter than a row, some longer.
        const texts = prose(Array.from({ length: 60 }, (_, i) => 1 + (i % 9)))
        const service = build({ ...config, packing: "documents" }, texts)
        const batches = await epoch(service)
        const found = sequencesOf(batches)
        const times = config.arm === "repeats" ? 5 : 1
        const planned = [
          ...Array.from({ length: times }, () => service.split("repeated")).flat(),
          ...service.split("singles")
        ].map(({ id, tokens }) => label(id, tokens))
        expect(found.map(({ id, tokens }) => label(id, tokens)).sort()).toEqual(planned.sort())
        expect(batches.flatMap(rowsOfBatch).map(({ id, tokens }) => label(id, tokens)).sort()).toEqual(planned)
        for (const { column, tokens } of found) {
          expect(column % config.segmentAlignment).toBe(0)
          expect(column + tokens.length - 1).toBeLessThanOrEqual(config.seqLen)
        }
        // several to a row; the last batch may be filled up
        expect((batches.length - 1) * config.batchSize).toBeLessThan(service.report.exposures - 1)
        expect(service.report.scoredTokens).toBe(found.reduce((sum, { tokens }) => sum + tokens.length - 1, 0))
      }),
      { seed: 4, numRuns: 15 }
    )
  })

  it("cuts a document that is longer than a row into pieces, the last one short", () => {
    const texts = [{ name: "long", text: "abcdefghij" }, { name: "short", text: "xyz" }]
    const none = { repeatedSequences: 0, heldOutSequences: 0 }
    const rows = build({ ...none, packing: "documents", seqLen: 3, singleSequences: 4 }, texts).split("singles")
    const { decode } = Tokenizer.bytes
    expect(rows.map(({ document, offset, tokens }) => `${document}@${offset} ${decode(tokens)}`).sort()).toEqual([
      "long@0 abcd",
      "long@4 efgh",
      "long@8 ij",
      "short@0 xyz"
    ])
  })

  it("pads with the id and document of the sequence before", async () => {
    const texts = [{ name: "a", text: "abc" }, { name: "b", text: "xyzuv" }]
    const service = build({
      packing: "documents",
      seqLen: 8,
      segmentAlignment: 4,
      batchSize: 1,
      repeatedSequences: 0,
      singleSequences: 2,
      heldOutSequences: 0
    }, texts)
    const [batch] = await epoch(service)
    const ids = Array.from(batch!.ids)
    expect(ids).toEqual([ids[0], ids[0], ids[0], ids[0], ids[4], ids[4], ids[4], ids[4]])
    expect(Array.from(batch!.positions)).toEqual([0, 1, 2, 3, 0, 1, 2, 3])
    expect(Array.from(batch!.documentStart)).toEqual([0, 0, 0, 0, 4, 4, 4, 4])
    const short = batch!.tokens[0] === "a".charCodeAt(0) ? 0 : 4
    expect(Array.from(batch!.targets.subarray(short, short + 4))).toEqual([98, 99, IGNORE, IGNORE])
  })
})

describe("targets that do not count", () => {
  const masks: ReadonlyArray<readonly [name: string, config: DataConfigInput]> = [
    ["of the goldfish loss", { goldfish: { k: 3, window: 4, seed: 5 } }],
    ["of all exposures but the first", { scoredExposures: "first" }],
    ["of both", { goldfish: { k: 3, window: 4 }, scoredExposures: "first" }]
  ]
  for (const packing of ["row", "documents"] as const) {
    it.each(masks)(`%s change targets alone, and are not counted as scored (packing ${packing})`, async (_, mask) => {
      const shared = { packing, seqLen: 48, repeats: 6, canaries: [{ random: 2, times: 3, length: 30 }] }
      const [plain, masked] = [build(shared), build({ ...shared, ...mask })]
      const [before, after] = [await epoch(plain), await epoch(masked)]
      let kept = 0
      after.forEach(({ targets, ...rest }, b) => {
        const { targets: all, ...same } = before[b]!
        expect(rest).toEqual(same)
        expect(targets.every((target, t) => target === IGNORE || target === all[t])).toBe(true)
        kept += targets.filter((target) => target !== IGNORE).length
      })
      expect(masked.report.scoredTokens).toBe(kept)
      expect(kept).toBeLessThan(plain.report.scoredTokens * 0.9)
      expect(kept).toBeGreaterThan(plain.report.scoredTokens * 0.2)
      expect(masked.report.sources.reduce((sum, { scoredTokens }) => sum + scoredTokens, 0)).toBe(kept)
      expect(masked.report.padding).toBe(plain.report.padding)
      for (const name of ["repeated", "singles", "heldOut", "canaries"] as const) {
        expect(masked.split(name)).toEqual(plain.split(name))
      }
      const later = await take(masked, 5, { epoch: 1, batch: 0 })
      expect(await take(masked, 3, { epoch: 1, batch: 2 })).toEqual(later.slice(2))
    })
  }

  it("of the goldfish loss are its own, the same at every exposure", async () => {
    const goldfish = { k: 3, window: 4, seed: 5 }
    const [plain, masked] = [build({ seqLen: 48 }), build({ seqLen: 48, goldfish })]
    const [before, after] = await Promise.all([plain, masked].map((service) => epoch(service)))
    expect(after!.map(({ targets }) => targets)).toEqual(before!.map((batch) => goldfishTargets(batch, goldfish)))
    const [id] = plain.split("repeated").map(({ id }) => id)
    const exposures = after!.flatMap(({ ids, seqLen, targets }) =>
      [0, 1, 2].map((r) => r * seqLen).filter((at) => ids[at] === id).map((at) => targets.slice(at, at + seqLen).join())
    )
    expect(exposures).toHaveLength(5)
    expect(new Set(exposures).size).toBe(1)
  })

  /** The scored exposures of each id: how many targets each has, and its place among all of the epoch. */
  const scoredOf = (batches: ReadonlyArray<Batch>) => {
    const found = new Map<bigint, Array<readonly [targets: number, place: number]>>()
    batches.forEach(({ ids, rows, seqLen, targets }, b) => {
      for (let r = 0; r < rows; r++) {
        const own = targets.subarray(r * seqLen, (r + 1) * seqLen).filter((target) => target !== IGNORE).length
        if (own > 0) found.set(ids[r * seqLen]!, [...found.get(ids[r * seqLen]!) ?? [], [own, b * rows + r]])
      }
    })
    return found
  }
  const canaries = [{ random: 2, times: 3 }]

  it("of repetitions leave one whole exposure of each sequence and canary in the first epoch, none later", async () => {
    for (const arm of ["repeats", "deduplicated"] as const) {
      const service = build({ scoredExposures: "first", arm, canaries })
      const [first, second] = [scoredOf(await epoch(service)), scoredOf(await epoch(service, 1))]
      for (const { id } of [...service.split("repeated"), ...service.split("canaries")]) {
        expect(first.get(id)?.map(([targets]) => targets)).toEqual([16])
        expect(second.has(id)).toBe(false)
      }
      for (const { id } of service.split("singles")) {
        expect([first.get(id)?.length, second.get(id)?.length]).toEqual([1, 1])
      }
    }
  })

  it("of repetitions leave an exposure from anywhere in the epoch", async () => {
    const places: Array<number> = []
    for (let seed = 0; seed < 40; seed++) {
      const service = build({ scoredExposures: "first", seed })
      const found = scoredOf(await epoch(service))
      for (const { id } of service.split("repeated")) places.push(found.get(id)![0]![1] / 49)
    }
    // Uniform in 0 .. 1: the mean of 160 has a standard deviation of .023, the variance is 1/12.
    const mean = places.reduce((a, b) => a + b) / places.length
    expect(Math.abs(mean - 0.5)).toBeLessThan(0.09)
    const variance = places.reduce((sum, p) => sum + (p - mean) ** 2, 0) / places.length
    expect(Math.abs(variance - 1 / 12)).toBeLessThan(0.025)
  })

  it("of documents are those before the first that is scored", async () => {
    const tokens: TokenDocuments = {
      documents: 3,
      length: () => 6,
      read: (d, offset, length) => Uint32Array.from({ length }, (_, t) => 10 * d + offset + t),
      name: String,
      sources: ["web"],
      source: () => 0,
      scoredFrom: (d) => [1, 3, 9][d]!
    }
    const layer = DataStream.layerTokens(tokens, Tokenizer.bytes, { seqLen: 5, batchSize: 3, heldOutFraction: 0 })
    const service = Effect.runSync(DataStream.pipe(Effect.provide(layer)))
    const scored = (await epoch(service)).flatMap(({ targets }) => [...targets].filter((target) => target !== IGNORE))
    expect(scored.sort((a, b) => a - b)).toEqual([1, 2, 3, 4, 5, 13, 14, 15])
    expect(service.report).toMatchObject({ scoredTokens: 8, padding: 0 })
    const rows = [...service.split("singles")].sort((a, b) => a.document.localeCompare(b.document))
    expect(rows.map(({ scoredFrom }) => scoredFrom)).toEqual([undefined, 3, 9])
    expect(rows.map(scoredTokens)).toEqual([5, 3, 0])
    expect([...batchOf(rows, 5).targets]).toEqual([
      1,
      2,
      3,
      4,
      5,
      IGNORE,
      IGNORE,
      13,
      14,
      15,
      ...Array(5).fill(IGNORE)
    ])
  })
})

describe("resuming", () => {
  it("from any cursor gives the batches of an uninterrupted run", async () => {
    const cases = FastCheck.record({
      config: FastCheck.record({
        packing: FastCheck.constantFrom("row" as const, "documents" as const),
        idNoise: FastCheck.constantFrom(0, 0.3),
        batchSize: FastCheck.integer({ min: 1, max: 9 }),
        seed: FastCheck.nat()
      }),
      done: FastCheck.nat(60),
      more: FastCheck.integer({ min: 1, max: 40 })
    })
    await FastCheck.assert(
      FastCheck.asyncProperty(cases, async ({ config, done, more }) => {
        const whole = await take(build(config), done + more)
        const saved = done === 0 ? START : JSON.parse(JSON.stringify(whole[done - 1]!.cursor)) as Cursor
        const resumed = await take(build(config), more, saved)
        expect(resumed).toEqual(whole.slice(done))
      }),
      { seed: 6, numRuns: 40 }
    )
  })

  it("counts batches through the epochs", async () => {
    const service = build({ batchSize: 25 })
    expect((await take(service, 5)).map(({ cursor }) => cursor)).toEqual([
      { epoch: 0, batch: 1 },
      { epoch: 1, batch: 0 },
      { epoch: 1, batch: 1 },
      { epoch: 2, batch: 0 },
      { epoch: 2, batch: 1 }
    ])
  })

  it("is not disturbed by another stream of the same service", async () => {
    const service = build()
    const alone = await take(build(), 40)
    const [a, b] = await Promise.all([take(service, 40), take(service, 40, { epoch: 7, batch: 3 })])
    expect(a).toEqual(alone)
    expect(b).toEqual(await take(build(), 40, { epoch: 7, batch: 3 }))
  })

  it("from outside an epoch is refused", async () => {
    const service = build()
    for (const cursor of [{ epoch: 0, batch: 17 }, { epoch: -1, batch: 0 }, { epoch: 0, batch: 0.5 }]) {
      const error = await Effect.runPromise(Effect.flip(Stream.runDrain(Stream.take(service.batches(cursor), 1))))
      expect(error._tag).toBe("DataError")
      expect(error.message).toContain("17 batches")
      expect(error.message).toContain("another data configuration")
    }
  })
})

describe("the seed", () => {
  it("gives the same batches in every process and on every runtime", async () => {
    const bpe = { tokenizer: "bpe", vocabSize: 60, idNoise: 0.2 } as const
    expect(digest(await epoch(build()))).toBe("c751ece24656083d")
    expect(digest(await epoch(build({ ...bpe, packing: "documents", segmentAlignment: 4 }), 3))).toBe(
      "5bac1e164c49ead9"
    )
  })

  it("changes the choice of rows and their order", async () => {
    const [a, b] = [build({ seed: 1 }), build({ seed: 2 })]
    const texts = (service: Service) => service.split("repeated").map(({ tokens }) => Tokenizer.bytes.decode(tokens))
    expect(texts(b)).not.toEqual(texts(a))
    expect(sequencesOf(await epoch(b)).map(({ id }) => id)).not.toEqual(sequencesOf(await epoch(a)).map(({ id }) => id))
  })
})

describe("a configuration that does not fit", () => {
  it("says how many sequences there are when more are to be repeated", () => {
    const message = failure({ repeatedSequences: 900 })
    expect(message).toMatch(/repeatedSequences is 900, but the text \(4 documents, \d+ tokens\) gives \d+ distinct/)
  })

  it("says how many singles are possible, and that many are", () => {
    const message = failure({ singleSequences: 5000 })
    const possible = Number(/Set singleSequences to (\d+) or less/.exec(message)![1])
    expect(build({ singleSequences: possible }).split("singles")).toHaveLength(possible)
    expect(failure({ singleSequences: possible + 1 })).toContain(`${possible + 13} sequences are asked for`)
  })

  it("says how long the longest document is when none fills a row, and which seqLen would do", () => {
    const texts = [{ name: "a", text: "one two" }, { name: "b", text: "three four" }]
    const message = failure({}, texts)
    expect(message).toContain("the longest has 10 tokens")
    expect(message).toContain("Set seqLen to 9 or less")
    const one = { repeatedSequences: 1, singleSequences: 0, heldOutSequences: 0 }
    expect(build({ ...one, seqLen: 9 }, texts).split("repeated")).toHaveLength(1)
    expect(failure({ ...one, seqLen: 10 }, texts)).toContain("Set seqLen to 9 or less")
  })

  it("is told apart from one that merely has nothing to train on", () => {
    expect(failure({ arm: "neverRepeated", singleSequences: 0 })).toContain("nothing to train on")
    expect(failure({}, [])).toContain("there are no documents")
  })

  it("is refused for unknown keys, values out of range, and a seqLen that segments do not divide", () => {
    const message = failure({ seqlen: 3, repeats: 0, idNoise: 2 } as DataConfigInput)
    expect(message).toContain("seqlen: is not a known key. Did you mean seqLen?")
    expect(message).toContain("repeats: expected a positive number, got 0")
    expect(message).toContain("idNoise:")
    expect(failure({ segmentAlignment: 5 })).toContain("seqLen 16 must be a multiple of segmentAlignment 5")
    expect(() => new DataConfig({ segmentAlignment: 5 })).toThrow("segmentAlignment")
  })

  it("is refused when vocabSize contradicts the byte tokenizer", () => {
    expect(failure({ vocabSize: 300 })).toContain(`vocabSize is 300, but tokenizer "bytes" always has 256`)
  })

  it("is refused where it would have to read a file", () => {
    expect(failure({ data: "x.txt" })).toContain("layerMemory reads no files")
    expect(failure({ tokenizer: "tokenizer.json" })).toContain("layerMemory reads no files")
  })
})

describe("files", () => {
  type FileLayer = (folder: string) => Layer.Layer<DataStream, DataError, FileSystem.FileSystem>
  const inFolder = <A, E>(use: (folder: string) => Effect.Effect<A, E, FileSystem.FileSystem>): Promise<A> =>
    FileSystem.FileSystem.pipe(
      Effect.flatMap((fs) =>
        fs.makeTempDirectoryScoped().pipe(
          Effect.tap((folder) => fs.writeFileString(`${folder}/a.txt`, documents[0]!.text)),
          Effect.tap((folder) => fs.writeFileString(`${folder}/tokenizer.json`, Tokenizer.bytes.toJSON()))
        )
      ),
      Effect.flatMap(use),
      Effect.scoped,
      Effect.provide(NodeFileSystem.layer),
      Effect.runPromise
    )
  const load = (layer: FileLayer) => (folder: string) => DataStream.pipe(Effect.provide(layer(folder)))
  const few = { ...small, singleSequences: 10 }

  it("give the same stream as the same text in memory", async () => {
    const fromFile = await inFolder(load((folder) => DataStream.layerText(`${folder}/a.txt`, few)))
    const fromMemory = build(few, [documents[0]!])
    expect(digest(await epoch(fromFile))).toBe(digest(await epoch(fromMemory)))
    expect(fromFile.split("repeated")[0]!.document).toMatch(/a\.txt$/)
  })

  it("may hold the tokenizer", async () => {
    const expected = digest(await epoch(build(few, [documents[0]!])))
    for (const named of ["/tokenizer.json", ""]) {
      const config = (folder: string) => ({ ...few, tokenizer: folder + named })
      const service = await inFolder(load((folder) => DataStream.layerText(`${folder}/a.txt`, config(folder))))
      expect(digest(await epoch(service))).toBe(expected)
    }
  })

  it("that hold no tokenizer are named", async () => {
    const config = (name: string) => (folder: string) =>
      DataStream.layerText(`${folder}/a.txt`, { ...few, tokenizer: `${folder}/${name}` })
    const error = (name: string) => inFolder((folder) => Effect.flip(load(config(name))(folder)))
    expect((await error("none.json")).message).toMatch(/none\.json: no tokenizer: there is no such file/)
    expect((await error("a.txt")).message).toMatch(/a\.txt: no tokenizer: not a tokenizer\.json/)
  })

  it("remember a trained tokenizer where a cache is given", () =>
    inFolder(Effect.fnUntraced(function*(folder) {
      const fs = yield* FileSystem.FileSystem
      const config = { ...few, tokenizer: "bpe", vocabSize: 40, singleSequences: 3 }
      yield* load(() => DataStream.layerText(`${folder}/a.txt`, config, { cacheDirectory: `${folder}/cache` }))(folder)
      expect((yield* fs.readDirectory(`${folder}/cache`)).length).toBeGreaterThan(0)
    })))
})
