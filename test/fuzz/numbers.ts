/**
 * Metrics, membership tests and statistics on numbers that are none, infinite, tiny, tied or missing, against plain
 * definitions: whatever is computed of a number that is not one is NaN or no success, never a good score.
 */
import { choose as choosePoint } from "../../pipelines/isolation/PostHoc.ts"
import { keeps } from "../../pipelines/report/Claim.ts"
import { estimate, perSeed } from "../../pipelines/report/Estimate.ts"
import { IGNORE } from "../../src/Batch.ts"
import * as Extraction from "../../src/measures/Extraction.ts"
import * as Membership from "../../src/measures/Membership.ts"
import * as Metrics from "../../src/measures/Metrics.ts"
import * as Statistics from "../../src/measures/Statistics.ts"
import { makeRecords, recordOf, type TokenRecords } from "../../src/measures/TokenRecords.ts"
import { choose as chooseToken } from "../../src/model/Generate.ts"
import { rowScores, summarize } from "../../src/scoring/Score.ts"
import type { Fuzzer } from "./fuzz.ts"

type Draw = () => number

const below = (draw: Draw, n: number): number => Math.min(n - 1, Math.floor(draw() * n))

/** A number as metrics meet them: ties, zeros of both signs, denormals, large ones; where `bad`, also ones that are none. */
const numberOf = (draw: Draw, bad: boolean): number => {
  const sign = draw() < 0.5 ? -1 : 1
  switch (below(draw, bad ? 9 : 7)) {
    case 0:
      return sign < 0 ? -0 : 0
    case 1:
      return sign * 5e-324
    case 2:
      return sign * 1e-40
    case 3:
      return sign * 1e30
    case 4:
    case 5:
      return below(draw, 5) - 2
    case 6:
      return sign * draw()
    case 7:
      return NaN
    default:
      return sign * Infinity
  }
}

const listOf = (draw: Draw, most: number, bad = draw() < 0.3): Array<number> =>
  Array.from({ length: below(draw, most + 1) }, () => numberOf(draw, bad && draw() < 0.3))

const sound = (...lists: ReadonlyArray<ArrayLike<number>>): boolean =>
  lists.every((list) => Array.from(list).every(Number.isFinite))

/** Records of sequences whose columns are drawn; losses are never negative where they are numbers. */
const recordsOf = (draw: Draw): TokenRecords => {
  const bad = draw() < 0.4
  const lengths = Array.from({ length: 1 + below(draw, 4) }, () => 1 + below(draw, 6))
  const records = makeRecords(lengths.map((_, s) => ({ name: `s${s}`, split: "x", id: BigInt(s), repeats: 0 })),
    lengths, [])
  for (let i = 0; i < records.logProb.length; i++) {
    const p = numberOf(draw, bad && draw() < 0.2)
    records.logProb[i] = Number.isFinite(p) ? -Math.abs(p) : p
    records.rank[i] = below(draw, 3)
    records.mean[i] = -Math.abs(numberOf(draw, false))
    records.variance[i] = bad && draw() < 0.1 ? numberOf(draw, true) : draw()
    records.margin[i] = draw() / 100
  }
  return records
}

const each = (records: TokenRecords,
  of: (logProb: ReadonlyArray<number>, from: number) => number): ReadonlyArray<number> =>
  records.sequences.map((_, s) => {
    const [from, to] = [records.start[s]!, records.start[s + 1]!]
    return of([...records.logProb.subarray(from, to)], from)
  })

const mean = (values: ReadonlyArray<number>): number => values.reduce((a, b) => a + b, 0) / values.length

const same = (got: number, want: number): boolean =>
  Object.is(got, want) || got === want || Math.abs(got - want) <= 1e-9 * Math.max(1, Math.abs(want))

/** Thresholds at every score and above all: the shares of members and of others at or above. */
const shares = (members: ReadonlyArray<number>, others: ReadonlyArray<number>) =>
  [Infinity, ...members, ...others].map((threshold) => ({
    members: members.filter((x) => x >= threshold).length / members.length,
    others: others.filter((x) => x >= threshold).length / others.length
  }))

interface Check {
  readonly name: string
  /** What was tried, what came out and what is right: lists of the same length, or one of a complaint. */
  readonly check: (draw: Draw) => readonly [input: unknown, got: ReadonlyArray<number>, want: ReadonlyArray<number>]
}

const checks: ReadonlyArray<Check> = [
  {
    name: "AUC, TPR, balanced accuracy",
    check: (draw) => {
      const [members, others] = [listOf(draw, 8), listOf(draw, 8)]
      const fpr = [0, 0.01, 0.25, 0.5, 1][below(draw, 5)]!
      const ok = members.length > 0 && others.length > 0 && sound(members, others)
      const pairs = members.flatMap((m) => others.map((o) => (m > o ? 1 : m === o ? 0.5 : 0)))
      const all = shares(members, others)
      const got = [
        Membership.auc(members, others),
        Membership.tprAt(members, others, fpr),
        Membership.balancedAccuracy(members, others),
        Membership.aucInterval(members, others, { resamples: 5 }).value
      ]
      const want = ok
        ? [
          mean(pairs),
          Math.max(...all.filter((at) => at.others <= fpr + 1e-12).map((at) => at.members)),
          Math.max(...all.map((at) => (at.members + 1 - at.others) / 2)),
          mean(pairs)
        ]
        : [NaN, NaN, NaN, NaN]
      return [{ members, others, fpr }, got, want]
    }
  },
  {
    name: "an interval of NaN",
    check: (draw) => {
      const [members, others] = [listOf(draw, 5), listOf(draw, 5)]
      const { high, low, value } = Membership.aucInterval(members, others, { resamples: 5 })
      const list = listOf(draw, 6)
      const drawn = Statistics.bootstrap(list, { resamples: 5 })
      const agree = (one: Statistics.Interval) =>
        Number.isNaN(one.value) ? Number(Number.isNaN(one.low) && Number.isNaN(one.high)) : 1
      return [{ members, others, list }, [agree({ high, low, value }), agree(drawn)], [1, 1]]
    }
  },
  {
    name: "intervals over seeds: possible, around their number, wider with noise, never of what is no number",
    check: (draw) => {
      const kind = (["share", "loss", "real"] as const)[below(draw, 3)]!
      const seeds = 1 + below(draw, 5)
      const sequences = 1 + below(draw, 40)
      const bad = draw() < 0.3
      const values = Array.from({ length: seeds }, () => {
        if (bad && draw() < 0.3) return [NaN, Infinity, -Infinity, null][below(draw, 4)]!
        const share = [0, 1, draw(), below(draw, sequences + 1) / sequences][below(draw, 4)]!
        return kind === "share" ? share : kind === "loss" ? share * 10 : share * 20 - 10
      })
      const there = values.filter((value) => value !== null)
      const spreads = draw() < 0.5 ? undefined : values.map(() => ({ sequences, error: 0.1 * draw() }))
      const options = { kind, ...(spreads === undefined ? {} : { spreads }) }
      const one = estimate(values, options)
      const [least, most] = kind === "share" ? [0, 1] : kind === "loss" ? [0, Infinity] : [-Infinity, Infinity]
      const ok = there.length > 0 && sound(there)
      const { high = Infinity, low = -Infinity, method } = one
      const isPossible = method === undefined ||
        (low >= least && high <= most && low <= one.mean + 1e-12 && high >= one.mean - 1e-12)
      // the same mean with less between the seeds
      const calm = estimate(values.map((value) => value === null || !ok ? value : one.mean + (value - one.mean) * 0.3),
        {
          kind: kind === "share" ? "real" : kind
        })
      const loud = kind === "share" ? estimate(values) : estimate(values, { kind })
      const bound = { most: one.mean + draw() - 0.5 }
      const helped = ok && keeps(calm, bound) !== "pass" && keeps(loud, bound) === "pass"
      const twice = perSeed((x) => 2 * x, one)
      return [
        { values, kind, spreads, one },
        [Number(isPossible), one.mean, Number(method === undefined || ok), Number(helped), twice?.mean ?? NaN],
        [1, ok ? mean(there) : NaN, 1, 0, ok ? 2 * mean(there) : NaN]
      ]
    }
  },
  {
    name: "exposure",
    check: (draw) => {
      const canary = numberOf(draw, draw() < 0.3)
      const references = listOf(draw, 9)
      const ok = references.length > 0 && sound([canary], references)
      const rank = 1 + references.filter((loss) => loss <= canary).length
      const extrapolated = Membership.exposureExtrapolated(canary, references)
      return [
        { canary, references },
        [Membership.exposure(canary, references), ok ? 0 : extrapolated],
        [ok ? Math.log2((references.length + 1) / rank) : NaN, ok ? 0 : NaN]
      ]
    }
  },
  {
    name: "losses, Min-K%, Min-K%++",
    check: (draw) => {
      const records = recordsOf(draw)
      const share = [0.1, 0.2, 0.5, 1][below(draw, 4)]!
      const lowest = (values: ReadonlyArray<number>): number => {
        if (values.some(Number.isNaN)) return NaN
        const sorted = [...values].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0))
        return mean(sorted.slice(0, Math.max(1, Math.floor(values.length * share))))
      }
      const scaled = (values: ReadonlyArray<number>, from: number) =>
        lowest(values.map((x, i) => {
          const variance = records.variance[from + i]!
          return Number.isFinite(variance) ? (x - records.mean[from + i]!) / Math.sqrt(Math.max(variance, 1e-6)) : NaN
        }))
      return [
        records,
        [...Metrics.loss(records), ...Membership.minK(records, share), ...Membership.minKPlusPlus(records, share)],
        [...each(records, (p) => -mean(p)), ...each(records, lowest), ...each(records, scaled)]
      ]
    }
  },
  {
    name: "verbatim memory and its rates",
    check: (draw) => {
      const records = recordsOf(draw)
      const window = { context: 1 + below(draw, 4), length: 1 + below(draw, 4) }
      const said = (i: number) => records.rank[i] === 0 && Number.isFinite(records.logProb[i])
      const exact = each(records, (p, from) => p.filter((_, i) => said(from + i)).length / p.length)
      const strength = each(records, (p, from) => {
        let right = 0
        while (right < p.length && said(from + p.length - 1 - right)) right++
        return right / p.length
      })
      const suffix = (p: ReadonlyArray<number>) => p.slice(window.context - 1, window.context - 1 + window.length)
      const short = (p: ReadonlyArray<number>) => suffix(p).length < window.length
      const greedy = each(records,
        (p, from) => short(p) ? NaN : Number(suffix(p).every((_, i) => said(from + window.context - 1 + i))))
      const long = greedy.filter((value) => !Number.isNaN(value))
      const rateOf = (n: number, p: number) => {
        const found = each(records, (all) => {
          if (short(all)) return NaN
          const logP = suffix(all).reduce((a, b) => a + b, 0)
          if (!(logP <= 0)) return 0
          // the chance of n draws, for n that are exact in it
          return Number(1 - (1 - Math.exp(logP)) ** n >= p)
        }).filter((value) => !Number.isNaN(value))
        return mean(found)
      }
      const logP = Extraction.suffixLogProb(records, { temperature: 1 }, window)
      return [
        { records, window },
        [
          ...Metrics.exactMemorization(records),
          ...Metrics.extractionStrength(records),
          ...Extraction.greedyExtraction(records, window),
          Extraction.rate(Extraction.greedyExtraction(records, window)),
          Extraction.rate(Extraction.extractable(logP, 1, 0.999))
        ],
        [...exact, ...strength, ...greedy, mean(long), rateOf(1, 0.999)]
      ]
    }
  },
  {
    name: "the record of a token",
    check: (draw) => {
      const logits = Array.from({ length: 2 + below(draw, 6) }, () => numberOf(draw, draw() < 0.1) % 100)
      const token = below(draw, logits.length)
      const { logProb, rank } = recordOf(logits, token, [])
      if (!sound(logits)) return [{ logits, token }, [logProb, rank], [NaN, logits.length]]
      const top = Math.max(...logits)
      return [
        { logits, token },
        [logProb, rank],
        [
          logits[token]! - top - Math.log(logits.reduce((sum, x) => sum + Math.exp(x - top), 0)),
          logits.filter((x, i) => x > logits[token]! || (x === logits[token] && i < token)).length
        ]
      ]
    }
  },
  {
    name: "quantiles, ranks, correlations, the test of Kolmogorov and Smirnov",
    check: (draw) => {
      const [a, b] = [listOf(draw, 7), listOf(draw, 7)]
      const known = (list: ReadonlyArray<number>) => !list.some(Number.isNaN)
      const sorted = [...a].sort((x, y) => (x < y ? -1 : x > y ? 1 : 0))
      const share = (list: ReadonlyArray<number>, at: number) => list.filter((x) => x <= at).length / list.length
      const distance = a.length > 0 && b.length > 0 && known([...a, ...b])
        ? Math.max(...[...a, ...b].map((at) => Math.abs(share(a, at) - share(b, at))))
        : NaN
      const rank = a.map((x) =>
        known(a) ? a.filter((y) => y < x).length + (1 + a.filter((y) => y === x).length) / 2 : NaN
      )
      return [
        { a, b },
        [Statistics.quantile(a, 0), Statistics.quantile(a, 1), Statistics.kolmogorovSmirnov(a, b).distance,
          ...Statistics.ranks(a)],
        [
          ...(a.length > 0 && known(a) ? [sorted[0]!, sorted.at(-1)!] : [NaN, NaN]),
          distance,
          ...rank
        ].map((x, i) => (i < 2 && Math.abs(x) === Infinity ? Statistics.quantile(a, i) : x))
      ]
    }
  },
  {
    name: "where a sweep stops",
    check: (draw) => {
      const points = Array.from({ length: 1 + below(draw, 6) }, (_, i) => ({
        setting: `${i}`,
        series: `${below(draw, 2)}`,
        losses: { seen: Math.abs(numberOf(draw, true)), validation: Math.abs(numberOf(draw, true)) }
      }))
      const chosen = points[choosePoint(points, { seen: 1 }, "seen")]!
      const finite = points.filter(({ losses }) => sound(Object.values(losses)))
      // of a sweep that has a sound point, no other is chosen
      return [points, [Number(finite.length === 0 || finite.includes(chosen))], [1]]
    }
  },
  {
    name: "the next token",
    check: (draw) => {
      const logits = Float32Array.from({ length: 1 + below(draw, 6) }, () => numberOf(draw, draw() < 0.2))
      const temperature = [0, 0.5, 1][below(draw, 3)]!
      const topK = draw() < 0.5 ? undefined : 1 + below(draw, 4)
      let token: number
      try {
        token = chooseToken(logits, { temperature, topK, topP: draw() < 0.5 ? 1 : 0.9 }, draw)
      } catch {
        token = -1
      }
      const possible = token >= 0 && token < logits.length && (temperature > 0 || logits[token] === Math.max(...logits))
      return [{ logits: [...logits], temperature, topK }, [Number(sound(logits) ? possible : token === -1)], [1]]
    }
  },
  {
    name: "scores of rows, by one rule",
    check: (draw) => {
      const [rows, seqLen] = [1 + below(draw, 4), 1 + below(draw, 6)]
      const n = rows * seqLen
      const lengths = Array.from({ length: rows }, () => 1 + below(draw, seqLen))
      const targets = Uint32Array.from({ length: n },
        (_, t) => (t % seqLen < lengths[Math.floor(t / seqLen)]! ? 1 : IGNORE))
      const loss = Float32Array.from({ length: n }, () => draw())
      const rank = Uint32Array.from({ length: n }, () => below(draw, 2))
      const prompt = below(draw, 5)
      const batch = {
        rows,
        seqLen,
        targets,
        tokens: targets,
        positions: targets,
        documentStart: targets,
        ids: new BigUint64Array(n)
      }
      const scored = [...targets.keys()].filter((t) => targets[t] !== IGNORE)
      const suffixes = lengths.map((length, r) =>
        Array.from({ length }, (_, i) => i).filter((i) => i + 1 >= prompt).map((i) => rank[r * seqLen + i]!)
      )
      const long = suffixes.filter(({ length }) => length > 0)
      const got = summarize(rowScores(batch, { loss, rank }, rows, prompt))!
      return [
        { lengths, seqLen, prompt, loss: [...loss], rank: [...rank] },
        [got.loss, got.accuracy, got.extractionRate ?? -1],
        [
          mean(scored.map((t) => loss[t]!)),
          mean(scored.map((t) => Number(rank[t] === 0))),
          long.length === 0 ? -1 : mean(long.map((suffix) => Number(suffix.every((one) => one === 0))))
        ]
      ]
    }
  }
]

const show = (value: unknown): string =>
  JSON.stringify(value, (_, one: unknown) =>
    typeof one === "bigint" ? `${one}` : typeof one === "number" && !(Number.isFinite(one) && !Object.is(one, -0))
      ? (Object.is(one, -0) ? "-0" : String(one))
      : ArrayBuffer.isView(one)
      ? Array.from(one as unknown as ArrayLike<number>)
      : one)

/** A fuzzer a check. */
export const fuzzers: ReadonlyArray<Fuzzer> = checks.map(({ check, name }) => ({
  name: `numbers: ${name}`,
  run: async (random, inputs, note) => {
    const wrong: Array<string> = []
    for (let i = 0; i < inputs; i++) {
      const [input, got, want] = check(random)
      // the last bits of a logarithm are the runtime's
      note(got.map((value) => value.toPrecision(9)).join(" "))
      if (got.length === want.length && got.every((value, j) => same(value, want[j]!))) continue
      wrong.push(`input ${i}, ${show(input)}: got ${show(got)}, not ${show(want)}`)
    }
    return wrong
  }
}))
