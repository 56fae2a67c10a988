import { describe, expect, it } from "vitest"
import * as Membership from "../../src/measures/Membership.ts"
import * as Metrics from "../../src/measures/Metrics.ts"
import { makeRecords, type TokenRecords } from "../../src/measures/TokenRecords.ts"
import { random } from "../../src/Random.ts"
import { recordsOf, toyModel } from "../support/toyModel.ts"

const normal = (seed: number, count: number): ReadonlyArray<number> => {
  const draw = random(seed, "scores")
  return Array.from({ length: count },
    () => Math.sqrt(-2 * Math.log(1 - draw.uniform())) * Math.cos(2 * Math.PI * draw.uniform()))
}

describe("scores", () => {
  const model = toyModel(1, 9, 2)
  const draw = random(2, "tokens")
  const sequences = [10, 3, 25].map((length) => Array.from({ length }, () => draw.below(9)))
  const records = recordsOf(model, sequences)
  const logProbs = (s: number) => [...records.logProb.subarray(records.start[s], records.start[s + 1])]

  it("of Min-K% at all tokens are the loss's; at few, of the least likely, at least one", () => {
    const losses = [...Membership.lossScore(records)]
    expect([...Membership.minK(records, 1)]).toEqual(losses.map((x) => expect.closeTo(x, 10)))
    expect(Membership.minK(records)[1]).toBe(Math.min(...logProbs(1)))
    const worst = logProbs(2).sort((a, b) => a - b).slice(0, 4)
    expect(Membership.minK(records)[2]).toBeCloseTo(worst.reduce((a, b) => a + b) / 4, 12)
  })

  it("of Min-K%++ are in standard deviations over the vocabulary", () => {
    const scores = sequences[0]!.slice(1).map((token, t) => {
      const logits = [...model.logits(sequences[0]![t]!)]
      const sum = logits.reduce((all, z) => all + Math.exp(z), 0)
      const logP = logits.map((z) => z - Math.log(sum))
      const mean = logP.reduce((all, l) => all + Math.exp(l) * l, 0)
      const variance = logP.reduce((all, l) => all + Math.exp(l) * (l - mean) ** 2, 0)
      return (logP[token]! - mean) / Math.sqrt(variance)
    }).sort((a, b) => a - b)
    expect(Membership.minKPlusPlus(records)[0]).toBeCloseTo(scores[0]!, 5)
    expect(Membership.minKPlusPlus(records, 1)[0]).toBeCloseTo(scores.reduce((a, b) => a + b) / 9, 5)
  })

  it("of a uniform model are finite", () => {
    const flat = recordsOf({ vocabSize: 7, logits: () => new Float64Array(7) }, [[1, 2, 3]])
    expect(Math.abs(Membership.minKPlusPlus(flat)[0]!)).toBeLessThan(1e-3)
    // no variance at all, and half a thousandth off the mean by rounding: the least deviation is a thousandth
    flat.variance.fill(0)
    flat.logProb.fill(-2)
    flat.mean.fill(-2.0005)
    expect(Membership.minKPlusPlus(flat)[0]).toBeCloseTo(0.5, 3)
  })

  it("of zlib discount what compresses", () => {
    const texts = ["abc", "a".repeat(500), "the quick brown fox"]
    // 14 by the zlib of Node, which differs between runtimes
    const bytes = [11, 13, 27]
    const expected = bytes.map((length, s) => -Metrics.loss(records)[s]! / length)
    expect([...Membership.zlibScore(records, texts)]).toEqual(expected)
    expect(() => Membership.zlibScore(records, ["abc"])).toThrow("each of the 3 sequences, got 1")
  })

  it("of a reference are 0 against itself, and refuse other sequences", () => {
    expect([...Membership.referenceScore(records, records)]).toEqual([0, 0, 0])
    const other = recordsOf(toyModel(7, 9, 2), sequences)
    const difference = Metrics.loss(other)[0]! - Metrics.loss(records)[0]!
    expect(Membership.referenceScore(records, other)[0]).toBeCloseTo(difference, 12)
    expect(() => Membership.referenceScore(records, recordsOf(model, sequences.slice(0, 2)))).toThrow("sequence 2 is")
    const changed = sequences.map((tokens) => tokens.map((token) => (token + 1) % 9))
    expect(() => Membership.referenceScore(records, recordsOf(model, changed))).toThrow("tokens are not the same")
  })
})

describe("attacks", () => {
  const pairs = (members: ReadonlyArray<number>, others: ReadonlyArray<number>): number =>
    members.flatMap((m) => others.map((o) => (m > o ? 1 : m === o ? 0.5 : 0) as number))
      .reduce((a, b) => a + b) / (members.length * others.length)

  it("have the AUC of all pairs, ties a half", () => {
    expect(Membership.auc([1, 2, 3], [1, 2, 3])).toBeCloseTo(0.5, 14)
    expect(Membership.auc([5, 6], [1, 2, 3])).toBe(1)
    expect(Membership.auc([1], [2])).toBe(0)
    expect(Membership.auc([], [2])).toBeNaN()
    // rounded, so that many are equal
    const members = normal(1, 60).map((x) => Math.round(3 * x + 1))
    const others = normal(2, 45).map((x) => Math.round(3 * x))
    expect(Membership.auc(members, others)).toBeCloseTo(pairs(members, others), 12)
  })

  it("have an AUC whose interval holds the truth as often as it says", () => {
    let inside = 0
    // one standard deviation apart: Phi(1 / sqrt 2)
    const truth = 0.7602499389
    for (let r = 0; r < 120; r++) {
      const { high, low } = Membership.aucInterval(normal(r, 40).map((x) => x + 1), normal(r + 1000, 40), {
        seed: r,
        resamples: 200,
        level: 0.9
      })
      if (low <= truth && truth <= high) inside++
    }
    expect(Math.abs(inside / 120 - 0.88)).toBeLessThan(0.09)
  })

  it("find as many members as a threshold that few others pass", () => {
    const others = Array.from({ length: 100 }, (_, i) => i)
    const members = [98.5, 99, 99.5, 100, -1]
    // none of the others passes above 99; one of 100 passes at 99
    expect(Membership.tprAt(members, others, 0.001)).toBe(0.4)
    expect(Membership.tprAt(members, others, 0.01)).toBe(0.8)
    expect(Membership.tprAt(members, others, 1)).toBe(1)
    expect(Membership.balancedAccuracy(members, others)).toBeCloseTo((0.8 + 0.99) / 2, 14)
    expect(Membership.balancedAccuracy([1, 1], [1, 1])).toBe(0.5)
    expect(Membership.attack([2, 3], [0, 1])).toEqual({
      auc: { value: 1, low: 1, high: 1 },
      tprAt1: 1,
      tprAt01: 1,
      balancedAccuracy: 1
    })
  })

  it("have PrivLeak 0 for the oracle, -100 for a member still, above 0 for too much", () => {
    expect(Membership.privLeak(0.62, 0.62)).toBe(0)
    expect(Membership.privLeak(1)).toBe(-100)
    expect(Membership.privLeak(0.25)).toBe(50)
    expect(Membership.privLeak(0.5, 0.6)).toBeCloseTo(25, 10)
  })
})

describe("exposure", () => {
  it("is the rank's, in bits, at most of all", () => {
    const references = Array.from({ length: 1023 }, (_, i) => i)
    expect(Membership.exposure(-1, references)).toBe(10)
    expect(Membership.exposure(2000, references)).toBe(0)
    expect(Membership.exposure(510.5, references)).toBeCloseTo(1, 12)
    // a model that knows nothing exposes nothing
    expect(Membership.exposure(5, references.map(() => 5))).toBe(0)
  })

  it("extrapolated agrees with the rank where that can tell, and goes on beyond", () => {
    const references = normal(3, 4000).map((x) => 20 + 2 * x)
    for (const loss of [20, 18, 15]) {
      expect(Math.abs(Membership.exposureExtrapolated(loss, references) - Membership.exposure(loss, references)))
        .toBeLessThan(0.4)
    }
    // P(Z < -10) = 7.6e-24: 76.8 bits
    expect(Math.abs(Membership.exposureExtrapolated(0, references) - 76.8)).toBeLessThan(8)
    expect(Membership.exposure(0, references)).toBeCloseTo(Math.log2(4001), 12)
  })

  it("extrapolated follows skewed losses", () => {
    // skew-normal of shape 4: d |u| + sqrt(1 - d^2) v
    const d = 4 / Math.sqrt(17)
    const [u, v] = [normal(4, 5000), normal(5, 5000)]
    const skewed = u.map((x, i) => d * Math.abs(x) + Math.sqrt(1 - d * d) * v[i]!)
    const losses = [...skewed].sort((a, b) => a - b)
    for (const share of [0.5, 0.1, 0.01]) {
      const extrapolated = Membership.exposureExtrapolated(losses[Math.floor(5000 * share)]!, skewed)
      expect(Math.abs(extrapolated + Math.log2(share))).toBeLessThan(0.35)
    }
    // mirrored, the tail on the side of low losses is the long one
    const mirrored = skewed.map((x) => -x)
    expect(Membership.exposureExtrapolated(-3, mirrored)).toBeLessThan(Membership.exposureExtrapolated(-1, skewed))
  })
})

/** Records of a model that lost `nats` on tokens which it takes to be uniform over so many that the mean is `mean`. */
const lost = (sequences: ReadonlyArray<ReadonlyArray<number>>): TokenRecords => {
  const records = makeRecords(
    sequences.map((_, s) => ({ name: `d${s}+64`, split: "", repeats: 1, id: BigInt(s) })),
    sequences.map(({ length }) => length)
  )
  records.logProb.set(sequences.flat().map((nats) => -nats))
  records.variance.fill(1)
  return records
}

describe("windows of losses against a reference", () => {
  it("have lengths in equal ratios", () => {
    expect(Membership.windowLengths()).toEqual([2, 3, 4, 5, 8, 11, 15, 21, 29, 40])
    expect(Membership.windowLengths(2, 16, 4)).toEqual([2, 4, 8, 16])
  })

  it("are the shares that counting them gives", () => {
    const draw = random(4, "losses")
    const [a, b] = [0, 1].map(() => [9, 2, 1].map((length) => Array.from({ length }, () => 3 * draw.uniform())))
    const lengths = [2, 3, 5]
    const expected = a!.map((own, s) => {
      const fit = lengths.filter((length) => length <= own.length)
      const shares = (fit.length > 0 ? fit : [own.length]).map((w) => {
        const windows = Array.from({ length: own.length - w + 1 }, (_, i) => i)
        const sum = (of: ReadonlyArray<number>, i: number) => of.slice(i, i + w).reduce((x, y) => x + y)
        return windows.filter((i) => sum(b![s]!, i) > sum(own, i)).length / windows.length
      })
      return shares.reduce((x, y) => x + y) / shares.length
    })
    expect([...Membership.windowScore(lost(a!), lost(b!), lengths)]).toEqual(expected.map((x) => expect.closeTo(x, 12)))
    expect([...Membership.windowScore(lost(a!), lost(a!))]).toEqual([0, 0, 0])
  })

  it("see a local advantage that one bad token hides from the mean", () => {
    const flat = Array.from({ length: 20 }, () => 2)
    const member = flat.map((nats, i) => i === 10 ? 30 : nats - 0.5)
    expect(Membership.referenceScore(lost([member]), lost([flat]))[0]).toBeLessThan(0)
    expect(Membership.windowScore(lost([member]), lost([flat]), [2, 4])[0]).toBeGreaterThan(0.75)
  })
})

describe("attacks by source", () => {
  it("tell the source that a mean over all hides", () => {
    const found = Membership.attackBySource([9, 8, 0, 1, 2], [1, 0, 2, 1], ["a", "a", "b", "b", "c"])
    expect(found.map(({ sequences, source }) => [source, sequences])).toEqual([["a", 2], ["c", 1], ["b", 2]])
    expect(found.map((one) => one.auc)).toEqual([1, 0.875, 0.3125])
  })
})

describe("likelihood ratios of shadow models", () => {
  const planted = (effect: number) => {
    const draw = random(3, "trained")
    const [models, items] = [8, 60]
    const difficulty = normal(1, items).map((x) => 3 * x)
    const trained = Array.from({ length: models }, () => Array.from({ length: items }, () => draw.uniform() < 0.5))
    const scores = trained.map((row, m) => {
      const noise = normal(m + 10, items)
      return row.map((inside, i) => difficulty[i]! + noise[i]! + (inside ? effect : 0))
    })
    const ratios = Membership.likelihoodRatios(scores, trained)
    const of = (values: ReadonlyArray<ArrayLike<number>>, inside: boolean) =>
      values.flatMap((row, m) => Array.from(row).filter((x, i) => trained[m]![i] === inside && Number.isFinite(x)))
    return {
      lira: Membership.auc(of(ratios, true), of(ratios, false)),
      plain: Membership.auc(of(scores, true), of(scores, false))
    }
  }

  it("find what differs less between models than items do, and nothing where there is nothing", () => {
    const { lira, plain } = planted(2)
    expect(lira).toBeGreaterThan(0.85)
    expect(plain).toBeLessThan(0.72)
    expect(Math.abs(planted(0).lira - 0.5)).toBeLessThan(0.1)
  })

  it("are the log-ratio of two normal densities", () => {
    // shadows of item 0: in 1, 3; out -1, -3: both variances 2, means 2 and -2
    const scores = [[0.5, 0], [1, 0], [3, 0], [-1, 0], [-3, 0]]
    const trained = [[true, true], [true, true], [true, true], [false, true], [false, true]]
    const ratio = Membership.likelihoodRatios(scores, trained)[0]!
    // freedom of the shadows that are in: item 1 adds three of no variance
    const [inside, outside] = [2 / 4, 2]
    const log = (x: number, mean: number, variance: number) =>
      -((x - mean) ** 2) / (2 * variance) - Math.log(variance) / 2
    expect(ratio[0]).toBeCloseTo(log(0.5, 2, inside) - log(0.5, -2, outside), 12)
    expect(ratio[1]).toBeNaN()
    expect(Membership.logOdds(-Math.log(0.75))).toBeCloseTo(Math.log(3), 12)
  })
})

describe("the test of non-membership", () => {
  const world = (seed: number, exposed: boolean, sequences = 40) => {
    const text = (name: number, count: number) =>
      Array.from({ length: count }, (_, s) => normal(1000 * name + s, 10).map((x) => 3 + x))
    const heard = (difficulty: ReadonlyArray<ReadonlyArray<number>>, own: number, memory: number) =>
      lost(difficulty.map((row, s) => {
        const noise = normal(1000 * own + 500 + s, row.length)
        return row.map((x, i) => (1 - memory) * x + 0.5 * noise[i]!)
      }))
    const [tested, unseen] = [text(seed, sequences), text(seed + 7, sequences)]
    return Membership.nonMembership(
      { records: heard(tested, seed + 1, exposed ? 0.9 : 0), reference: heard(tested, seed + 2, 0) },
      { records: heard(unseen, seed + 3, 0), reference: heard(unseen, seed + 4, 0) },
      { resamples: 60 }
    )
  }

  it("shows what was not trained on, and not what was", () => {
    const [absent, present] = [world(1, false, 250), world(1, true, 250)]
    expect(absent.correlation).toBeGreaterThan(0.7)
    expect(absent.shown).toBe(true)
    expect(present.gap.low).toBeGreaterThan(0.2)
    expect(present.shown).toBe(false)
  })

  it("has an interval that holds 0 about as often as it says where nothing was trained on", () => {
    const inside = Array.from({ length: 20 }, (_, r) => world(20 * r + 20, false).gap)
      .filter(({ high, low }) => low <= 0 && 0 <= high).length
    expect(inside).toBeGreaterThanOrEqual(16)
  })
})
