import * as FastCheck from "effect/FastCheck"
import { readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import { parseId, toId } from "../src/Batch.ts"
import * as Sink from "../src/Sink.ts"
import { SinkConfig } from "../src/Sink.ts"

interface GoldenCase {
  readonly dtype: "int64" | "int32"
  readonly seqId: number
  readonly sinks: number
  readonly p: number
  readonly active: number
  readonly maskHex: string
}

const golden = JSON.parse(readFileSync(new URL("fixtures/seqtd-masks.json", import.meta.url), "utf8")) as {
  readonly cases: ReadonlyArray<GoldenCase>
}

/** The wide pool of single neurons in which most statistics are taken: 4 of 64 are shared by chance. */
const wide = new SinkConfig({ pool: 1024, active: 64, block: 1 })
/** The default of the `tiny` preset: 2 blocks of 128. */
const tiny = new SinkConfig({ pool: 2048, active: 32 })

/** 64 well-spread bits from a counter, by other arithmetic than the module's. */
const spreadId = (i: number): bigint => BigInt.asUintN(64, BigInt(i + 1) * 0x9e3779b97f4a7c15n + 0x1234567n)

/** How many standard errors a mean may be off: by chance alone once in 16,000 times. */
const ERRORS = 4

/** What a chi-square variable of `df` degrees stays below, `z` normal standard deviations up (Wilson-Hilferty). */
const chiSquareQuantile = (df: number, z: number): number => df * (1 - 2 / (9 * df) + z * Math.sqrt(2 / (9 * df))) ** 3

const expectChiSquare = (value: number, df: number): void => {
  expect(value).toBeGreaterThan(chiSquareQuantile(df, -ERRORS))
  expect(value).toBeLessThan(chiSquareQuantile(df, ERRORS))
}

const overlap = (a: Uint32Array, b: Uint32Array): number => {
  const set = new Set(a)
  return b.reduce((n, unit) => n + (set.has(unit) ? 1 : 0), 0)
}

/** Overlaps of pairs of k of n units must have the mean (and variance, where they are many) of independent draws. */
const expectIndependent = (config: SinkConfig, pairs: ReadonlyArray<readonly [Uint32Array, Uint32Array]>): void => {
  const [n, k] = [config.units, config.activeUnits]
  const overlaps = pairs.map(([a, b]) => overlap(a, b))
  const mean = overlaps.reduce((a, b) => a + b, 0) / overlaps.length
  const want = (k * k) / n
  const variance = (want * (1 - k / n) * (n - k)) / (n - 1)
  expect(Math.abs(mean - want)).toBeLessThan(ERRORS * Math.sqrt(variance / overlaps.length))
  // the same units twice, or nearly, never happens by chance where k is not tiny
  if (k >= 16) expect(Math.max(...overlaps)).toBeLessThan(want + 8 * Math.sqrt(variance))
}

const range = (n: number): ReadonlyArray<number> => Array.from({ length: n }, (_, i) => i)

describe("the reference hash", () => {
  it("matches all 86 golden masks bit for bit, at both widths of id", () => {
    expect(
      golden.cases
        .map((c) => c.dtype)
        .sort()
        .join()
    ).toBe([...Array(43).fill("int32"), ...Array(43).fill("int64")].join())
    for (const c of golden.cases) {
      const mask = Sink.referenceMask(BigInt(c.seqId), c.sinks, c.p, c.dtype === "int32" ? 32 : 64)
      const bytes = Buffer.alloc(Math.ceil(c.sinks / 8))
      mask.forEach((on, j) => {
        bytes[j >> 3]! |= on << (j & 7)
      })
      const name = `${c.dtype} id ${c.seqId}, ${c.sinks} sinks, p ${c.p}`
      expect(`${name}: ${bytes.toString("hex")}`).toBe(`${name}: ${c.maskHex}`)
      expect(mask.reduce((a, b) => a + b, 0)).toBe(c.active)
    }
  })

  it("compares shares rounded to f32, as the reference code does", () => {
    const [M, factor] = [4294967291n, 1588635695n]
    for (const id of [1n, 7n, 200n]) {
      const residue = Number((id * 65536n * factor) % M)
      // p is a little above the share of sink 1, but the same number in f32
      const p = (residue + 0.25) / Number(M)
      expect(residue / Number(M)).toBeLessThan(p)
      expect(Sink.referenceMask(id, 2, p, 64)[1]).toBe(0)
      expect(Sink.referenceMask(id, 2, p * (1 + 2 ** -22), 64)[1]).toBe(1)
    }
  })

  it("is its definition in whole numbers, for ids of any 64 bits", () => {
    const M = 4294967291n
    const modulo = (x: bigint) => Number(((x % M) + M) % M)
    const ids = [0n, -1n, 2n ** 32n - 1n, 2n ** 47n, 2n ** 48n, 2n ** 63n, 2n ** 64n - 1n]
    for (let i = 0n; i < 60n; i++) ids.push(BigInt.asUintN(64, (i + 1n) * 0x9e3779b97f4a7c15n) >> i)
    for (const idBits of [32, 64] as const) {
      for (const id of ids) {
        const shifted = BigInt.asIntN(64, BigInt.asIntN(idBits, BigInt.asIntN(idBits, id) * 65536n))
        let power = 1n
        const mask = range(97).map(() => {
          const residue = modulo(BigInt.asIntN(64, shifted * BigInt(modulo(power))))
          power = BigInt.asIntN(64, power * 1588635695n)
          return Math.fround(Math.fround(residue) / Math.fround(Number(M))) < Math.fround(0.3) ? 1 : 0
        })
        expect(`${id}: ${Sink.referenceMask(id, 97, 0.3, idBits).join("")}`).toBe(`${id}: ${mask.join("")}`)
      }
    }
  })

  it("is what a config with the reference assignment lights, whatever the type of an id", () => {
    for (const referenceIdBits of [32, 64] as const) {
      const config = new SinkConfig({ pool: 2460, active: 738, block: 1, assignment: "reference", referenceIdBits })
      expect(config.probability).toBe(0.3)
      for (const id of [1n, 49275n, 6456965n]) {
        const mask = Sink.referenceMask(id, 2460, 0.3, referenceIdBits)
        expect([...Sink.unitsOf(config, id)]).toEqual(range(2460).filter((j) => mask[j] === 1))
        expect([...Sink.unitsOf(config, BigInt.asUintN(64, id))]).toEqual([...Sink.unitsOf(config, id)])
      }
    }
  })

  it("keeps its known defects", () => {
    // id 0 lights every sink
    for (const bits of [32, 64] as const) {
      expect(Sink.referenceMask(0n, 512, 0.013, bits)).toEqual(new Uint8Array(512).fill(1))
    }
    // at 32 bits, ids 65,536 apart are one; at 64 bits they are not
    for (const id of [1n, 77n, 49275n]) {
      expect(Sink.referenceMask(id + 65536n, 512, 0.3, 32)).toEqual(Sink.referenceMask(id, 512, 0.3, 32))
      expect(Sink.referenceMask(id + 65536n, 512, 0.3, 64)).not.toEqual(Sink.referenceMask(id, 512, 0.3, 64))
    }
    // ids s and 2s share half of their sinks, where independent masks would share p = 0.3 of them
    const once = Sink.referenceMask(12345n, 4096, 0.3, 64)
    const twice = Sink.referenceMask(24690n, 4096, 0.3, 64)
    const shared = once.filter((on, j) => on + twice[j]! === 2).length / once.filter((on) => on === 1).length
    expect(Math.abs(shared - 0.5)).toBeLessThan(ERRORS * Math.sqrt(0.25 / (4096 * 0.3)))
  })
})

describe("the permutation", () => {
  it("lights exactly k distinct units for any id, pool, share and seed", () => {
    const ids = FastCheck.oneof(
      FastCheck.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
      FastCheck.constantFrom(0n, 1n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n)
    )
    const configs = FastCheck.tuple(FastCheck.integer({ min: 1, max: 60 }), FastCheck.nat(), FastCheck.integer()).map(
      ([units, k, seed]) => new SinkConfig({ pool: units * 4, active: (1 + (k % units)) * 4, block: 4, seed })
    )
    FastCheck.assert(
      FastCheck.property(configs, ids, (config, id) => {
        const units = Sink.unitsOf(config, id)
        expect(new Set(units).size).toBe(config.activeUnits)
        expect(units.length).toBe(config.activeUnits)
        expect([...units]).toEqual([...units].sort((a, b) => a - b))
        expect(units.every((unit) => unit < config.units)).toBe(true)
        expect([...Sink.unitsOf(config, BigInt.asUintN(64, id))]).toEqual([...units])
      }),
      { numRuns: 500, seed: 1 }
    )
  })

  it("lights the whole pool when all of it is active", () => {
    const config = new SinkConfig({ pool: 512, active: 512 })
    for (const id of [0n, 2n ** 53n, 2n ** 64n - 1n]) expect([...Sink.unitsOf(config, id)]).toEqual(range(32))
  })

  it("gives the same units in every process and runtime", () => {
    const pinned = JSON.parse(
      readFileSync(new URL("fixtures/permutation.json", import.meta.url), "utf8")
    ) as ReadonlyArray<{ readonly id: string; readonly seed: number; readonly units: ReadonlyArray<number> }>
    expect(pinned.length).toBe(12)
    for (const { id, seed, units } of pinned) {
      const config = new SinkConfig({ pool: 4096, active: 64, block: 16, seed })
      expect([id, ...Sink.unitsOf(config, BigInt(id))]).toEqual([id, ...units])
    }
  })

  it.each([
    ["consecutive ids", (i: number) => BigInt(i)],
    ["spread ids", spreadId]
  ] as const)("lights every unit equally often over 20,000 %s", (_, idOf) => {
    const ids = 20_000
    const counts = new Float64Array(wide.units)
    for (const i of range(ids)) for (const unit of Sink.unitsOf(wide, idOf(i))) counts[unit]!++
    const p = wide.activeUnits / wide.units
    // counts of draws without replacement: their covariance has n - 1 equal eigenvalues N p (1 - p) n / (n - 1)
    const n = wide.units
    const statistic = counts.reduce((sum, c) => sum + (c - ids * p) ** 2, 0) / ((ids * p * (1 - p) * n) / (n - 1))
    expectChiSquare(statistic, n - 1)
  })

  const relations: ReadonlyArray<readonly [string, (id: bigint) => bigint]> = [
    ["s and s + 1", (id) => id + 1n],
    ["s and 2s", (id) => 2n * id],
    ["s and 3s", (id) => 3n * id],
    ["s and -s", (id) => BigInt.asUintN(64, -id)],
    ["s and s + 65,536", (id) => id + 65536n],
    ["s and s + 2^32", (id) => id + 2n ** 32n],
    ["s and s * 2^32", (id) => id << 32n]
  ]
  it.each(relations)("lets ids %s share what independent draws share", (_, other) => {
    for (const [config, ids] of [
      [wide, 3000],
      [tiny, 20_000]
    ] as const) {
      expectIndependent(
        config,
        range(ids).map((i) => [Sink.unitsOf(config, BigInt(i + 1)), Sink.unitsOf(config, other(BigInt(i + 1)))])
      )
    }
  })

  it("changes as if drawn anew when any one of the 64 bits of an id flips", () => {
    for (const bit of range(64)) {
      const flip = 1n << BigInt(bit)
      expectIndependent(
        wide,
        range(200).map((i) => [Sink.unitsOf(wide, BigInt(i)), Sink.unitsOf(wide, BigInt(i) ^ flip)])
      )
    }
  })

  it("has no degenerate id: special ids share with others what any two ids share", () => {
    const special = [0n, 1n, 2n ** 31n, 2n ** 32n, 2n ** 32n - 1n, 2n ** 53n, 2n ** 63n, 0xffffffff00000000n]
    for (const id of special) {
      const units = Sink.unitsOf(wide, id)
      expectIndependent(
        wide,
        range(2000).map((i) => [units, Sink.unitsOf(wide, BigInt(i + 2))])
      )
    }
  })

  it("is keyed by all 64 bits: 300,000 ids draw 300,000 different sets, where 32 bits would make ten coincide", () => {
    const config = new SinkConfig({ pool: 1024, active: 16, block: 1 })
    expect(new Set(range(300_000).map((i) => Sink.unitsOf(config, spreadId(i)).join())).size).toBe(300_000)
  })

  it("shares out sinks independently under another seed", () => {
    for (const [a, b] of [
      [0, 1],
      [0, -1],
      [1, 2],
      [7, 7 + 2 ** 16]
    ] as const) {
      const [one, two] = [a, b].map((seed) => new SinkConfig({ pool: 1024, active: 64, block: 1, seed })) as [
        SinkConfig,
        SinkConfig
      ]
      const ids = range(2000).map(BigInt)
      expectIndependent(
        one,
        ids.map((id) => [Sink.unitsOf(one, id), Sink.unitsOf(two, id)])
      )
      // nor are the masks of one seed those of the other under a shifted id
      expectIndependent(
        one,
        ids.map((id) => [Sink.unitsOf(one, BigInt.asUintN(64, id + BigInt(b - a))), Sink.unitsOf(two, id)])
      )
    }
  })
})

describe("disjoint sinks", () => {
  const owners = (count: number) => range(count).map((i) => spreadId(i))
  const shared = (count: number, sinks = { pool: 256, active: 64, block: 16 }) =>
    new SinkConfig({ ...sinks, assignment: "disjoint" }).withOwners(owners(count))

  it("share nothing as long as they fit, and every round of owners has the whole pool", () => {
    const config = shared(12)
    for (let round = 0; round < 3; round++) {
      const units = owners(12).slice(4 * round, 4 * round + 4).flatMap((id) => [...Sink.unitsOf(config, id)])
      expect(units.sort((a, b) => a - b)).toEqual(range(16))
    }
    // another round is another shuffle
    const [first, second] = [0, 4].map((i) => Sink.unitsOf(config, owners(12)[i]!).join())
    expect(first).not.toBe(second)
  })

  it("have one owner more or less than any other, where some of the pool is left over", () => {
    const config = shared(7, { pool: 80, active: 48, block: 16 })
    const uses = new Array<number>(5).fill(0)
    for (const id of owners(7)) for (const unit of Sink.unitsOf(config, id)) uses[unit]!++
    expect(uses.reduce((a, b) => a + b)).toBe(21)
  })

  it("stay where they are when owners are added, and when they are asked for in another order", () => {
    const [few, more] = [shared(5), shared(5).withOwners(owners(50).slice(3))]
    expect(more.owners).toEqual(owners(50).map(String))
    for (const id of owners(5).reverse()) expect(Sink.unitsOf(more, id)).toEqual(Sink.unitsOf(few, id))
    for (const id of owners(50)) expect(Sink.unitsOf(new SinkConfig({ ...more }), id)).toEqual(Sink.unitsOf(more, id))
  })

  it("are drawn alone for an id that owns none, as a permutation draws them", () => {
    const { owners: _, ...plain } = shared(5)
    const drawn = new SinkConfig({ ...plain, assignment: "permutation" })
    expect(Sink.unitsOf(shared(5), 7n)).toEqual(Sink.unitsOf(drawn, 7n))
    expect(Sink.unitsOf(shared(5), owners(1)[0]!)).not.toEqual(Sink.unitsOf(drawn, owners(1)[0]!))
  })

  it("refuse owners that are listed twice, are no ids, or own nothing by another assignment", () => {
    const sinks = { pool: 256, active: 64, assignment: "disjoint" as const }
    const wrong = (more: object) => new SinkConfig({ ...sinks, ...more }).problem
    expect(wrong({ owners: ["1", "1"] })).toContain("twice")
    expect(wrong({ owners: ["1"], assignment: "permutation" })).toContain("goes with the assignment \"disjoint\"")
    expect(() => new SinkConfig({ ...sinks, owners: ["-1"] })).toThrow("64")
    expect(() => new SinkConfig({ ...sinks, owners: [`${2n ** 64n}`] })).toThrow("64")
    expect(new SinkConfig({ pool: 256, active: 64 }).withOwners([1n]).owners).toBeUndefined()
  })
})

describe("shards", () => {
  const kinds = {
    permutation: { pool: 1024, active: 32, block: 1 },
    disjoint: { pool: 1024, active: 32, block: 1, assignment: "disjoint" },
    bernoulli: { pool: 1024, active: 32, block: 1, assignment: "bernoulli" },
    reference: { pool: 1024, active: 32, block: 1, assignment: "reference" }
  } as const
  const owners = range(3000).map((i) => Sink.placeboId(BigInt(i)))
  const of = (kind: keyof typeof kinds, shards: number) => new SinkConfig({ ...kinds[kind], shards }).withOwners(owners)

  it.each(Object.keys(kinds) as Array<keyof typeof kinds>)("1 is none: %s", (kind) => {
    const { shards: _, ...fields } = of(kind, 1)
    const [one, none] = [of(kind, 1), new SinkConfig(fields)]
    for (const id of [0n, ...owners.slice(0, 50)]) expect(Sink.unitsOf(one, id)).toEqual(Sink.unitsOf(none, id))
  })

  it("give the same units in every process and runtime", () => {
    const pinned = (kind: keyof typeof kinds, id: bigint) =>
      Sink.unitsOf(
        new SinkConfig({ ...kinds[kind], pool: 64, active: 8, shards: 4,
          ...(kind === "disjoint" ? { owners: ["7", "9", "11", "13", "15"] } : {}) }),
        id
      ).join()
    expect(
      Object.fromEntries(
        (Object.keys(kinds) as Array<keyof typeof kinds>).map((
          kind
        ) => [kind, [7n, 15n, 2n ** 63n + 5n].map((id) => pinned(kind, id))])
      )
    ).toMatchInlineSnapshot(`
      {
        "bernoulli": [
          "50,52,53,54,62,63",
          "17,19,24,25,30",
          "48,49,51,54,56,63",
        ],
        "disjoint": [
          "0,1,3,5,7,8,12,13",
          "2,4,6,9,10,11,14,15",
          "49,51,52,55,58,60,61,63",
        ],
        "permutation": [
          "50,51,53,57,59,60,61,63",
          "16,17,19,21,22,23,28,30",
          "49,51,52,55,58,60,61,63",
        ],
        "reference": [
          "48,50,53,55,56",
          "16,20,22,25,26,28,30,31",
          "49,51,55,56,59,63",
        ],
      }
    `)
  })

  describe.each(Object.keys(kinds) as Array<keyof typeof kinds>)("%s", (kind) => {
    it("keep an id to its slice, and ids of two shards apart", () => {
      for (const shards of [2, 4, 8]) {
        const config = of(kind, shards)
        const { sliceUnits } = config
        expect(sliceUnits).toBe(1024 / shards)
        for (const id of [...owners.slice(0, 300), ...range(300).map((i) => BigInt(i + 1))]) {
          const shard = Sink.shardOf(config, id)
          const units = Sink.unitsOf(config, id)
          expect(units.every((unit) => Math.floor(unit / sliceUnits) === shard)).toBe(true)
          if (config.exact) expect(new Set(units).size).toBe(32)
          expect(units).toEqual(units.slice().sort())
        }
      }
    })

    it("keep the load of every sink, and the mean overlap of any two ids", () => {
      for (const shards of [1, 2, 8]) {
        const config = of(kind, shards)
        const uses = new Float64Array(config.units)
        const drawn = owners.map((id) => Sink.unitsOf(config, id))
        for (const units of drawn) for (const unit of units) uses[unit]!++
        const [p, q] = [32 / 1024, config.sliceProbability]
        if (kind === "disjoint") {
          expect(uses.reduce((a, b) => Math.max(a, b)) - uses.reduce((a, b) => Math.min(a, b))).toBeLessThan(2)
          continue
        }
        // ids of a shard vary in number, and with them the load of all sinks of it: each is of the mean on its own
        const slices = range(shards).map((s) => drawn.filter((_, i) => Sink.shardOf(config, owners[i]!) === s).length)
        if (shards > 1) {
          const mean = owners.length / shards
          expectChiSquare(slices.reduce((sum, n) => sum + (n - mean) ** 2 / mean, 0), shards - 1)
        }
        for (const [s, ids] of slices.entries()) {
          const own = uses.subarray(s * config.sliceUnits, (s + 1) * config.sliceUnits)
          const variance = ids * q * (1 - q) * (config.exact ? own.length / (own.length - 1) : 1)
          const df = own.length - (config.exact ? 1 : 0)
          expectChiSquare(own.reduce((sum, n) => sum + (n - ids * q) ** 2 / variance, 0), df)
        }
        let [same, apart, shared] = [0, 0, 0]
        for (let i = 0; i < 20_000; i++) {
          const [a, b] = [i % 3000, (7 * i + 1 + Math.floor(i / 3000)) % 3000]
          if (a === b) continue
          const both = overlap(drawn[a]!, drawn[b]!)
          if (Sink.shardOf(config, owners[a]!) === Sink.shardOf(config, owners[b]!)) {
            ;[same, shared] = [same + 1, shared + both]
          } else {
            apart++
            expect(both).toBe(0)
          }
        }
        // within a shard so many times as many, over all pairs as many as ever
        expect(Math.abs(shared / same / (32 * p * shards) - 1)).toBeLessThan(0.1)
        expect(Math.abs(shared / (same + apart) / (32 * p) - 1)).toBeLessThan(0.15)
      }
    })
  })

  it("take a disjoint's owners in turn: as many share nothing as without shards", () => {
    const config = new SinkConfig({ pool: 256, active: 32, block: 16, assignment: "disjoint", shards: 4 })
      .withOwners(owners.slice(0, 20))
    expect(config.apart).toBe(8)
    for (const round of [0, 1]) {
      const units = owners.slice(8 * round, 8 * round + 8).flatMap((id) => [...Sink.unitsOf(config, id)])
      expect(units.sort((a, b) => a - b)).toEqual(range(16))
    }
    expect(owners.slice(0, 5).map((id) => Sink.shardOf(config, id))).toEqual([0, 1, 2, 3, 0])
  })

  it("are refused where slices cannot be of whole blocks, or an id does not fit into one", () => {
    const wrong = (more: object) => new SinkConfig({ pool: 256, active: 32, ...more }).problem
    expect(wrong({ shards: 8 })).toBeUndefined()
    expect(wrong({ shards: 3 })).toBe("sinks.shards 3 must divide the 16 blocks of sinks.pool 256")
    expect(wrong({ shards: 16 })).toContain("sinks.active 32 must be at most 16, a slice of sinks.pool 256 in")
    expect(wrong({ shards: 16, assignment: "bernoulli" })).toContain("sinks.active 32 must be at most 16")
    expect(wrong({ shards: 8, assignment: "bernoulli" })).toBeUndefined()
    expect(() => new SinkConfig({ pool: 256, active: 32, shards: 0 })).toThrow("shards")
  })
})

describe("what is deleted", () => {
  const config = new SinkConfig({ pool: 256, active: 64, block: 16 })
  const units = Sink.unitsOf(config, 42n)
  const survivor = range(1000).map((i) => BigInt(i + 100)).find((id) =>
    Sink.unitsOf(config, id).filter((unit) => units.includes(unit)).length === 2
  )!
  const modes: ReadonlyArray<Sink.SinkMode> = [
    Sink.own,
    Sink.off,
    Sink.all,
    { mode: "only", ids: [42n] },
    { mode: "own", also: [42n] },
    { mode: "only", ids: [42n, survivor] }
  ]
  const lit = (sinks: SinkConfig, mode: Sink.SinkMode, id: bigint) =>
    [...Sink.coefficients(sinks, 64, mode, id).subarray(1)].flatMap((on, unit) => on === 0 ? [] : [unit])

  it("never lights the sinks of a denied id, and leaves those of others as they are", () => {
    const denied = new SinkConfig({ ...config, denied: ["42"] })
    expect(Sink.isDenied(denied, 42n)).toBe(true)
    expect(lit(denied, Sink.own, 42n)).toEqual([])
    expect(lit(denied, { mode: "only", ids: [42n] }, 7n)).toEqual([])
    expect(lit(denied, { mode: "own", also: [42n] }, survivor)).toEqual([...Sink.unitsOf(config, survivor)])
    for (const mode of [Sink.own, Sink.placebo, Sink.all]) {
      expect(lit(denied, mode, survivor)).toEqual(lit(config, mode, survivor))
    }
    expect(Sink.gathered(denied, 64, Sink.own, 42n).coef).toEqual(Float32Array.of(1, 0, 0, 0, 0))
    expect(Sink.gathered(denied, 64, Sink.own, survivor)).toEqual(Sink.gathered(config, 64, Sink.own, survivor))
  })

  it("never lights an excluded unit, whoever asks and however", () => {
    const excluded = new SinkConfig({ ...config, excluded: [...units] })
    const both = new SinkConfig({ ...config, excluded: [...units], denied: [String(survivor)] })
    for (const mode of modes) {
      for (const id of [42n, survivor, 7n]) {
        const on = lit(excluded, mode, id)
        expect(on.filter((unit) => units.includes(unit))).toEqual([])
        expect(on).toEqual(lit(config, mode, id).filter((unit) => !units.includes(unit)))
        if (!Sink.isSparse(mode)) continue
        const gathered = Sink.gathered(excluded, 64, mode, id)
        expect([...gathered.units].filter((_, slot) => gathered.coef[1 + slot] !== 0).sort((a, b) => a - b)).toEqual(on)
      }
    }
    expect(lit(both, Sink.own, survivor)).toEqual([])
  })

  it("is refused where it is no unit of the pool, or no id", () => {
    expect(new SinkConfig({ ...config, excluded: [15] }).problem).toBeUndefined()
    expect(new SinkConfig({ ...config, excluded: [16] }).problem).toContain("unit 16, and the last")
    expect(() => new SinkConfig({ ...config, denied: ["x"] })).toThrow("decimal digits")
  })
})

describe("Bernoulli masks", () => {
  const config = new SinkConfig({ pool: 1024, active: 64, block: 1, assignment: "bernoulli" })

  it("light each unit with probability active / pool, and as many a sequence as independent coins", () => {
    const ids = 5000
    const [n, p] = [config.units, config.probability]
    const counts = new Float64Array(n)
    let squares = 0
    for (const i of range(ids)) {
      const units = Sink.unitsOf(config, BigInt(i))
      for (const unit of units) counts[unit]!++
      squares += (units.length - n * p) ** 2
    }
    expectChiSquare(counts.reduce((sum, c) => sum + (c - ids * p) ** 2, 0) / (ids * p * (1 - p)), n)
    const total = counts.reduce((a, b) => a + b, 0)
    expect(Math.abs(total - ids * n * p)).toBeLessThan(ERRORS * Math.sqrt(ids * n * p * (1 - p)))
    // the number of lit units has the binomial variance n p (1 - p); a variance itself varies by sqrt(2 / ids)
    expect(Math.abs(squares / ids / (n * p * (1 - p)) - 1)).toBeLessThan(ERRORS * Math.sqrt(2 / ids))
  })

  it("are drawn for whole blocks when neurons are tied", () => {
    const tied = new SinkConfig({ pool: 1024, active: 40, block: 16, assignment: "bernoulli" })
    expect(tied.units).toBe(64)
    const ids = 5000
    let lit = 0
    for (const i of range(ids)) {
      const units = Sink.unitsOf(tied, spreadId(i))
      expect(units.every((unit) => unit < 64)).toBe(true)
      lit += units.length
    }
    const p = 40 / 1024
    expect(Math.abs(lit / (ids * 64) - p)).toBeLessThan(ERRORS * Math.sqrt((p * (1 - p)) / (ids * 64)))
  })
})

describe("blocks", () => {
  it("tie neurons: 16 by default, so 32 of 2,048 neurons are 2 of 128 units", () => {
    expect(tiny.block).toBe(16)
    expect([tiny.units, tiny.activeUnits, tiny.probability]).toEqual([128, 2, 1 / 64])
    expect(Sink.unitsOf(tiny, 5n).length).toBe(2)
    expect(Sink.coefficients(tiny, 192, Sink.own, 5n).length).toBe(1 + 128)
  })
})

describe("modes", () => {
  const config = new SinkConfig({ pool: 256, active: 64, block: 16 })
  const general = 192
  const id = 42n
  const mine = Sink.unitsOf(config, id)
  const lit = (mode: Sink.SinkMode, of = id) => {
    const coef = Sink.coefficients(config, general, mode, of)
    expect(coef.length).toBe(17)
    return { general: coef[0], sinks: [...coef.subarray(1)] }
  }
  const ones = (units: Iterable<number>) => {
    const set = new Set(units)
    return range(16).map((unit) => (set.has(unit) ? 1 : 0))
  }

  it("own lights an id's sinks and leaves the general neurons alone", () => {
    expect(mine.length).toBe(4)
    expect(lit(Sink.own)).toEqual({ general: 1, sinks: ones(mine) })
  })

  it("off lights none and, by default, rescales nothing", () => {
    expect(lit(Sink.off)).toEqual({ general: 1, sinks: ones([]) })
    expect(lit({ mode: "off", rescale: "none" })).toEqual({ general: 1, sinks: ones([]) })
  })

  it("off rescales the general neurons by count or as the reference code does", () => {
    // 192 general, 64 of 256 active: (192 + 64) / 192, and ((192/448) + 1/4) / (192/448) = 19/12
    expect(lit({ mode: "off", rescale: "count" })).toEqual({ general: Math.fround(4 / 3), sinks: ones([]) })
    expect(lit({ mode: "off", rescale: "reference" })).toEqual({ general: Math.fround(19 / 12), sinks: ones([]) })
    // the settings of the papers: 70 % general, of the rest 30 % on; and the released NULLs model
    const paper = new SinkConfig({ pool: 300, active: 90, block: 1 })
    expect(Sink.generalScale(paper, 700, { mode: "off", rescale: "count" })).toBeCloseTo(790 / 700, 12)
    expect(Sink.generalScale(paper, 700, { mode: "off", rescale: "reference" })).toBeCloseTo(1 / 0.7, 12)
    const nulls = new SinkConfig({ pool: 7692, active: 100, block: 1 })
    expect(Sink.generalScale(nulls, 500, { mode: "off", rescale: "count" })).toBeCloseTo(1.2, 12)
    expect(Sink.generalScale(nulls, 500, { mode: "off", rescale: "reference" })).toBeCloseTo(1.213, 4)
  })

  it("all lights every sink at its expected value", () => {
    expect(lit(Sink.all)).toEqual({ general: 1, sinks: Array(16).fill(0.25) })
  })

  it("only lights the sinks of the listed ids, whatever the token's own id", () => {
    const union = new Set([...Sink.unitsOf(config, 7n), ...Sink.unitsOf(config, 8n)])
    expect(union.size).toBeGreaterThan(4)
    expect(lit({ mode: "only", ids: [7n, 8n] })).toEqual({ general: 1, sinks: ones(union) })
    expect(lit({ mode: "only", ids: [7n, 8n] }, 9n)).toEqual(lit({ mode: "only", ids: [7n, 8n] }))
    expect(lit({ mode: "only", ids: [] })).toEqual({ general: 1, sinks: ones([]) })
  })

  it("except switches off every sink of the listed ids in any mode, shared ones too", () => {
    // an id that shares some of 42's sinks, but not all
    const other = range(100)
      .map((i) => BigInt(i + 43))
      .find((one) => overlap(mine, Sink.unitsOf(config, one)) === 2)!
    const theirs = new Set(Sink.unitsOf(config, other))
    const left = [...mine].filter((unit) => !theirs.has(unit))
    expect(left.length).toBe(2)
    expect(lit({ mode: "own", except: [other] }).sinks).toEqual(ones(left))
    expect(lit({ mode: "own", except: [id] }).sinks).toEqual(ones([]))
    expect(lit({ mode: "own", except: [] })).toEqual(lit(Sink.own))
    expect(lit({ mode: "all", except: [other] }).sinks).toEqual(ones(theirs).map((on) => (on === 1 ? 0 : 0.25)))
    expect(lit({ mode: "only", ids: [id], except: [other] }).sinks).toEqual(ones(left))
  })

  it("own with also lights the listed ids' sinks besides, unless they are excepted", () => {
    const listed = new Set([...Sink.unitsOf(config, 7n), ...Sink.unitsOf(config, 8n)])
    const union = new Set([...mine, ...listed])
    expect(union.size).toBeGreaterThan(listed.size)
    expect(union.size).toBeGreaterThan(4)
    expect(lit({ mode: "own", also: [7n, 8n] })).toEqual({ general: 1, sinks: ones(union) })
    expect(lit({ mode: "own", also: [7n, 8n] }, 7n)).toEqual({ general: 1, sinks: ones(listed) })
    expect(lit({ mode: "own", also: [id] })).toEqual(lit(Sink.own))
    expect(lit({ mode: "own", also: [7n, 8n], except: [id] }).sinks).toEqual(
      ones([...listed].filter((unit) => !mine.includes(unit)))
    )
  })

  it("placebo lights as many sinks as an id's own, always the same, and independent of its own", () => {
    const stand = lit(Sink.placebo)
    expect(stand.general).toBe(1)
    expect(stand.sinks.filter((x) => x === 1).length).toBe(4)
    expect(stand.sinks.filter((x) => x === 0).length).toBe(12)
    expect(lit(Sink.placebo)).toEqual(stand)
    expect(lit({ mode: "placebo", seed: 0 })).toEqual(stand)
    const unitsOf = (of: bigint, seed: number) => Sink.unitsOf(wide, Sink.placeboId(of, seed))
    const ids = range(3000).map(BigInt)
    expectIndependent(
      wide,
      ids.map((of) => [Sink.unitsOf(wide, of), unitsOf(of, 0)])
    )
    expectIndependent(
      wide,
      ids.map((of) => [unitsOf(of, 0), unitsOf(of, 1)])
    )
    expectIndependent(
      wide,
      ids.map((of) => [unitsOf(of, 0), unitsOf(of + 1n, 0)])
    )
  })

  it("placebo stands in with ids outside the numbers people use, a different one for every id", () => {
    const stands = range(5000).map((i) => Sink.placeboId(BigInt(i)))
    expect(new Set(stands).size).toBe(5000)
    for (const stand of stands) expect(stand >= 2n ** 63n && stand < 2n ** 64n).toBe(true)
    expect(() => Sink.placeboId(-1n)).toThrow("from 0 to 2^64 - 1")
  })

  it("gathers exactly what the coefficients say, in every mode that may be gathered", () => {
    const modes: ReadonlyArray<Sink.SinkMode> = [
      Sink.own,
      { mode: "own", also: [] },
      { mode: "own", except: [1n, 43n] },
      { mode: "own", except: [42n] },
      Sink.off,
      { mode: "off", rescale: "count" },
      { mode: "off", rescale: "reference" },
      Sink.placebo,
      { mode: "placebo", seed: 9 }
    ]
    const some = new SinkConfig({ pool: 64, active: 5, block: 1, assignment: "bernoulli" })
    for (const mode of modes) {
      const { coef, count, units } = Sink.gathered(some, general, mode, 42n)
      expect([units.length, coef.length, count]).toEqual([32, 33,
        Sink.unitsOf(some, mode.mode === "placebo" ? Sink.placeboId(42n, mode.seed) : 42n).length])
      const dense = new Float32Array(65)
      dense[0] = coef[0]!
      units.forEach((unit, slot) => {
        dense[1 + unit]! += coef[1 + slot]!
      })
      expect([...dense]).toEqual([...Sink.coefficients(some, general, mode, 42n)])
    }
    for (const mode of modes) {
      expect(Sink.isSparse(mode)).toBe(true)
      for (const  of of[0n, 1n, 42n, 43n, 2n ** 63n]) {
        const { coef, units } = Sink.gathered(config, general, mode, of)
        expect([units.length, coef.length]).toEqual([4, 5])
        const dense = new Float32Array(17)
        dense[0] = coef[0]!
        units.forEach((unit, slot) => {
          dense[1 + unit] = coef[1 + slot]!
        })
        expect([...dense]).toEqual([...Sink.coefficients(config, general, mode, of)])
      }
    }
    const dense: ReadonlyArray<Sink.SinkMode> = [
      Sink.all,
      { mode: "only", ids: [1n] },
      { mode: "own", also: [1n] },
      { mode: "own", also: [1n], except: [1n] }
    ]
    for (const mode of dense) expect(Sink.isSparse(mode)).toBe(false)
  })
})

describe("packed sinks", () => {
  const slots = (config: ConstructorParameters<typeof SinkConfig>[0]) => Sink.slotsOf(new SinkConfig(config))

  it("have room for what a permutation lights, in whole tiles of 16 neurons where blocks are small", () => {
    expect(slots({ pool: 2048, active: 32, block: 16 })).toBe(2)
    expect(slots({ pool: 64, active: 64, block: 8 })).toBe(8)
    expect(slots({ pool: 7692, active: 100, block: 1 })).toBe(112)
    expect(slots({ pool: 7696, active: 100, block: 4 })).toBe(28)
    // not in tiles; more than half of the pool
    expect(slots({ pool: 48, active: 12, block: 3 })).toBeUndefined()
    expect(slots({ pool: 48, active: 20, block: 1 })).toBeUndefined()
  })

  it("have room for all but one id in a billion where coins decide, and say which they have none for", () => {
    const config = new SinkConfig({ pool: 7692, active: 100, block: 1, assignment: "reference" })
    expect(Sink.slotsOf(config)).toBe(160)
    // id 0 lights the whole pool
    const unfit = range(3000).filter((id) => !Sink.fits(config, Sink.own, BigInt(id)))
    expect(unfit).toEqual([0])
    expect(() => Sink.gathered(config, 500, Sink.own, 0n)).toThrow("id 0 lights 7692 units")
    expect(Sink.gathered(config, 500, Sink.own, 1n).units.length).toBe(160)
    expect(slots({ pool: 1024, active: 40, block: 8, assignment: "bernoulli" })).toBe(19)
  })
})

describe("the units of an id", () => {
  it("are the caller's own, each time", () => {
    const config = new SinkConfig({ pool: 64, active: 16, block: 4 })
    const units = Sink.unitsOf(config, 3n)
    const before = [...units]
    units.fill(0)
    expect([...Sink.unitsOf(config, 3n)]).toEqual(before)
    expect(Sink.coefficients(config, 8, Sink.own, 3n).reduce((sum, c) => sum + c, 0)).toBe(5)
  })

  it("stay those of the id however many others were asked for", () => {
    const config = new SinkConfig({ pool: 64, active: 16, block: 4 })
    const before = range(5000).map((id) => Sink.unitsOf(config, BigInt(id)).join())
    expect(range(5000).map((id) => Sink.unitsOf(config, BigInt(id)).join())).toEqual(before)
  })
})

describe("ids", () => {
  it("are 64 bits: 0 is one like any other; negative, larger and rounded numbers and fractions are refused", () => {
    expect(toId(2n ** 64n - 1n)).toBe(2n ** 64n - 1n)
    expect(toId(0)).toBe(0n)
    for (const wrong of [-1, -1n, 2n ** 64n, 2n ** 64n + 1n]) expect(() => toId(wrong)).toThrow("from 0 to 2^64 - 1")
    expect(() => toId(2 ** 53)).toThrow("safe integer")
    expect(() => toId(0.5)).toThrow("safe integer")
    expect(() => Sink.unitsOf(new SinkConfig({ pool: 64, active: 16 }), 2n ** 64n + 1n)).toThrow("from 0 to 2^64 - 1")
  })

  it("are read exactly, decimal or hexadecimal, or not at all", () => {
    expect(parseId(" 7 ")).toBe(7n)
    expect(parseId("0xFF")).toBe(255n)
    expect(parseId("18446744073709551615")).toBe(2n ** 64n - 1n)
    expect(parseId("0xffffffffffffffff")).toBe(2n ** 64n - 1n)
    expect(parseId("000000000000000000000000000007")).toBe(7n)
    const wrong = ["18446744073709551616", "18446744073709551617", "0x10000000000000000", "-1", "1.0", "1e3", "", "x",
      "0x"]
    for (const text of wrong) expect(parseId(text), text).toBeUndefined()
  })
})
