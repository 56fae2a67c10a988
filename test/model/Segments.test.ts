import * as FastCheck from "effect/FastCheck"
import { describe, expect, it } from "vitest"
import type { Batch } from "../../src/Batch.ts"
import { DataError } from "../../src/Errors.ts"
import * as Segments from "../../src/model/Segments.ts"
import * as Sink from "../../src/Sink.ts"
import { makeRandom } from "../reference/random.ts"
import { batchOfDocuments } from "../support/support.ts"

type Documents = ReadonlyArray<ReadonlyArray<readonly [length: number, id: bigint]>>

const batchOf = (documents: Documents, seqLen: number): Batch => batchOfDocuments(documents, seqLen, 50, makeRandom(1))

/** Rows of 32 tokens made of documents whose lengths are multiples of `unit`; few ids, so that they repeat. */
const documentsOf = (unit: number): FastCheck.Arbitrary<Documents> => {
  const row = FastCheck.array(FastCheck.tuple(FastCheck.integer({ min: 1, max: 8 }), FastCheck.bigInt(-2n, 6n)), {
    minLength: 1,
    maxLength: 6
  }).map((parts) => {
    const documents: Array<readonly [number, bigint]> = []
    let left = 32
    for (const [size, id] of parts) {
      const length = Math.min(left, size * unit)
      if (length > 0) documents.push([length, id])
      left -= length
    }
    if (left > 0) documents.push([left, 100n])
    return documents
  })
  return FastCheck.array(row, { minLength: 1, maxLength: 4 })
}

const sinks = new Sink.SinkConfig({ pool: 256, active: 64, block: 16 })

describe("segmentsOf", () => {
  it("cuts a batch where a document or a row begins, also between documents of one id", () => {
    const segments = Segments.segmentsOf(
      batchOf(
        [
          [
            [3, 1n],
            [5, 1n]
          ],
          [[8, 1n]],
          [
            [1, -1n],
            [7, 2n]
          ]
        ],
        8
      )
    )
    expect([...segments.segment]).toEqual([0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 4, 4, 4, 4, 4, 4, 4])
    expect([...segments.range]).toEqual([0, 3, 3, 5, 8, 8, 16, 1, 17, 7])
    expect(segments.ids).toEqual([1n, 1n, 1n, 2n ** 64n - 1n, 2n])
  })

  it("cuts a document where its id changes", () => {
    const batch = batchOf([[[8, 1n]]], 8)
    batch.ids.fill(2n, 4)
    expect([...Segments.segmentsOf(batch).range]).toEqual([0, 4, 4, 4])
    expect(Segments.segmentsOf(batch).ids).toEqual([1n, 2n])
  })

  it("covers every token once, in order, with one document and one id a segment", () => {
    FastCheck.assert(
      FastCheck.property(documentsOf(1), (documents) => {
        const batch = batchOf(documents, 32)
        const { ids, range, segment } = Segments.segmentsOf(batch)
        expect(ids.length).toBe(documents.flat().length)
        let next = 0
        ids.forEach((id, s) => {
          const [first, length] = [range[2 * s]!, range[2 * s + 1]!]
          expect(first).toBe(next)
          for (let t = first; t < first + length; t++) {
            expect([segment[t], batch.ids[t], batch.documentStart[t]]).toEqual([s, id, first])
          }
          next += length
        })
        expect(next).toBe(batch.tokens.length)
      }),
      { numRuns: 100, seed: 1 }
    )
  })
})

describe("tilesOf", () => {
  it("covers every token once with tiles of one segment each, as few as that allows, and pads with nothing", () => {
    FastCheck.assert(
      FastCheck.property(documentsOf(1), FastCheck.constantFrom(1, 8, 64), (documents, tileRows) => {
        const batch = batchOf(documents, 32)
        const segments = Segments.segmentsOf(batch)
        const count = Segments.maxTiles(batch.tokens.length, segments.ids.length, tileRows)
        const tiles = Segments.tilesOf(segments, tileRows, count)
        expect(tiles.length).toBe(4 * count)
        let next = 0
        let used = 0
        for (; used < count && tiles[4 * used + 1]! > 0; used++) {
          const [first, end, segment, zero] = tiles.subarray(4 * used)
          expect([first, zero]).toEqual([next, 0])
          expect(end! - first!).toBeLessThanOrEqual(tileRows)
          expect([...new Set(segments.segment.subarray(first, end))]).toEqual([segment])
          next = end!
        }
        expect(next).toBe(batch.tokens.length)
        expect(tiles.subarray(4 * used).every((x) => x === 0)).toBe(true)
        const lengths = segments.ids.map((_, s) => segments.range[2 * s + 1]!)
        expect(used).toBe(lengths.reduce((n, length) => n + Math.ceil(length / tileRows), 0))
      }),
      { numRuns: 150, seed: 1 }
    )
  })

  it("needs no more than maxTiles, which one batch reaches", () => {
    const segments = Segments.segmentsOf(batchOf([[[9, 1n], [9, 2n], [9, 3n], [5, 4n]]], 32))
    const tiles = Segments.tilesOf(segments, 8, 7)
    expect([...tiles].filter((_, i) => i % 4 === 1)).toEqual([8, 9, 17, 18, 26, 27, 32])
    expect(Segments.maxTiles(32, 4, 8)).toBe(7)
  })
})

describe("positionsByToken", () => {
  it("lists the places of every token, rising", () => {
    const { order, start } = Segments.positionsByToken(Uint32Array.of(2, 0, 2, 3, 2, 0), 5)
    expect([...start]).toEqual([0, 2, 2, 5, 6, 6])
    expect([...order]).toEqual([1, 5, 0, 2, 4, 3])
  })

  it("refuses a token outside the vocabulary by its number", () => {
    expect(() => Segments.positionsByToken(Uint32Array.of(1, 5), 5)).toThrow(DataError)
    expect(() => Segments.positionsByToken(Uint32Array.of(1, 5), 5)).toThrow(
      "token 5 is outside the model's vocabulary of 5"
    )
    expect(() => Segments.positionsByToken(Uint32Array.of(1, 4), 5)).not.toThrow()
  })
})

describe("maskedCoefficients", () => {
  it("holds a row of coefficients a segment and zeros behind the last", () => {
    const segments = Segments.segmentsOf(
      batchOf(
        [
          [
            [8, 1n],
            [8, 2n]
          ]
        ],
        16
      )
    )
    const table = Segments.maskedCoefficients(sinks, 32, { mode: "off", rescale: "count" }, segments, 3)
    expect([...table]).toEqual([3, ...Array(16).fill(0), 3, ...Array(16).fill(0), ...Array(17).fill(0)])
    const own = Segments.maskedCoefficients(sinks, 32, Sink.own, segments, 3)
    expect([...own.subarray(0, 17)]).toEqual([...Sink.coefficients(sinks, 32, Sink.own, 1n)])
    expect([...own.subarray(17, 34)]).toEqual([...Sink.coefficients(sinks, 32, Sink.own, 2n)])
  })

  it("is 1 a segment where there are no sinks", () => {
    const segments = Segments.segmentsOf(
      batchOf(
        [
          [
            [8, 1n],
            [8, 2n]
          ]
        ],
        16
      )
    )
    expect([...Segments.maskedCoefficients(undefined, 32, Sink.off, segments, 4)]).toEqual([1, 1, 1, 1])
  })
})

describe("gather", () => {
  it.each([
    ["blocks", sinks],
    ["single neurons", new Sink.SinkConfig({ pool: 64, active: 20, block: 1 })],
    ["neurons by coins", new Sink.SinkConfig({ pool: 128, active: 8, block: 1, assignment: "bernoulli" })],
    ["blocks by coins", new Sink.SinkConfig({ pool: 256, active: 16, block: 8, assignment: "bernoulli" })]
  ])("of %s agrees with the masked table, and its lists are inverse, for any batch and sparse mode", (_, sinks) => {
    const width = 1 + sinks.units
    const modes = FastCheck.constantFrom<Sink.SinkMode>(
      Sink.own,
      { mode: "own", except: [1n] },
      { mode: "off", rescale: "count" },
      Sink.placebo
    )
    FastCheck.assert(
      FastCheck.property(documentsOf(1), modes, (documents, mode) => {
        const batch = batchOf(documents, 32)
        const segments = Segments.segmentsOf(batch)
        const count = segments.ids.length
        const maxSegments = count + 2
        const slots = Sink.slotsOf(sinks)!
        const g = Segments.gather(sinks, 32, mode, segments, maxSegments)
        expect([g.coef.length, g.activeUnits.length]).toEqual([maxSegments * (1 + slots), maxSegments * slots])

        const dense = new Float32Array(maxSegments * width)
        const pairs: Array<string> = []
        for (let s = 0; s < count; s++) {
          dense[s * width] = g.coef[s * (1 + slots)]!
          for (let slot = 0; slot < slots; slot++) {
            const unit = g.activeUnits[s * slots + slot]!
            if (slot >= Sink.gathered(sinks, 32, mode, segments.ids[s]!).count) {
              expect(g.coef[s * (1 + slots) + 1 + slot]).toBe(0)
              continue
            }
            dense[s * width + 1 + unit] = g.coef[s * (1 + slots) + 1 + slot]!
            // what is off takes part in nothing
            if (g.coef[s * (1 + slots) + 1 + slot] !== 0) pairs.push([unit, s, slot].join())
          }
        }
        expect([...dense]).toEqual([...Segments.maskedCoefficients(sinks, 32, mode, segments, maxSegments)])
        // nothing of an earlier batch may be lit behind the last segment
        expect(g.coef.subarray(count * (1 + slots)).every((x) => x === 0)).toBe(true)

        const inverse: Array<string> = []
        g.units.forEach((unit, u) => {
          const uses = g.uses.subarray(2 * g.unitStart[u]!, 2 * g.unitStart[u + 1]!)
          expect(uses.length).toBeGreaterThan(0)
          for (let i = 0; i < uses.length; i += 2) inverse.push([unit, uses[i], uses[i + 1]].join())
          // in order of segments, so that sums are taken in the same order every time
          const order = [...uses].filter((_, i) => i % 2 === 0)
          expect(order).toEqual([...order].sort((a, b) => a - b))
        })
        expect(inverse.length).toBe(pairs.length)
        expect([...inverse].sort()).toEqual([...pairs].sort())
        expect([...g.units]).toEqual([...g.units].sort((a, b) => a - b))
      }),
      { numRuns: 80, seed: 1 }
    )
  })
})

describe("packed units", () => {
  it("are 16 neurons of one segment each, in order", () => {
    const { order, uses } = Segments.packedUnits(2, 48)
    expect([...order]).toEqual([0, 1, 2, 3, 4, 5, 6])
    expect([...uses]).toEqual([0, 0, 0, 1, 0, 2, 1, 0, 1, 1, 1, 2])
  })
})

describe("litUnits", () => {
  it("lists the units of the batch's ids and no others", () => {
    const segments = Segments.segmentsOf(
      batchOf(
        [
          [
            [3, 1n],
            [5, 2n]
          ],
          [[8, 1n]]
        ],
        8
      )
    )
    const lit = new Set([...Sink.unitsOf(sinks, 1n), ...Sink.unitsOf(sinks, 2n)])
    expect(lit.size).toBeLessThan(16)
    expect([...Segments.litUnits(sinks, segments)]).toEqual([...lit].sort((a, b) => a - b))
  })
})
