/**
 * Whether a model gives back a training sequence: by greedy decoding, or in some of n samples. Pure functions of token
 * records; nothing is generated, since what a scheme would draw follows from each true token's probability under it.
 *
 * `context` and `length` are in tokens of the sequence: a model that has seen the first `context` tokens must say the
 * `length` tokens that follow, exactly. The context is always the sequence's own beginning; a window that starts later
 * needs a pass of its own. Formulaic text comes back from models that never saw it: subtract the oracle's rate.
 */
import type { Scheme, TokenRecords } from "./TokenRecords.ts"
import { logProbUnder } from "./TokenRecords.ts"

/** How much a model is told, and how much it must say. */
export interface Window {
  readonly context: number
  readonly length: number
}

/**
 * For each sequence, the log-probability that one draw under the scheme is the true continuation: log p_z of
 * (n, p)-discoverable extraction. -Infinity where the scheme never draws it, NaN where the sequence is too short. A token
 * whose record holds no number is never drawn: that is no success, nor is the sequence left out of a rate.
 */
export const suffixLogProb = (records: TokenRecords, scheme: Scheme, { context, length }: Window): Float64Array => {
  const { first, sequences, start } = records
  const logProb = logProbUnder(records, scheme)
  return Float64Array.from(sequences, (_, s) => {
    const from = start[s]! + context - first[s]!
    if (from < start[s]! || from + length > start[s + 1]!) return NaN
    let sum = 0
    for (let i = from; i < from + length; i++) sum += logProb[i]!
    return sum < Infinity ? Math.min(0, sum) : -Infinity
  })
}

/** For each sequence 1 where greedy decoding says the true continuation, else 0; NaN where it is too short. */
export const greedyExtraction = (records: TokenRecords, window: Window): Float64Array =>
  suffixLogProb(records, "greedy", window).map(Math.exp)

/** The probability that at least one of `n` independent draws is the continuation. */
export const extractionProbability = (logP: number, n: number): number =>
  logP === 0 ? 1 : -Math.expm1(n * Math.log1p(-Math.exp(logP)))

/**
 * The draws after which the continuation has come up with probability `p`: the smallest n with which a sequence is
 * (n, p)-extractable; Infinity where it never is.
 */
export const samplesNeeded = (logP: number, p: number): number => {
  if (Number.isNaN(logP)) return NaN
  if (logP === 0 || p <= 0) return 1
  const n = Math.log1p(-p) / Math.log1p(-Math.exp(logP))
  // a whole number of draws that rounding has put just above itself
  return Math.max(1, Math.ceil(n * (1 - 1e-13)))
}

/** Mean of the values that are numbers: the rate over sequences long enough (the others are NaN). NaN of none. */
export const rate = (values: ArrayLike<number>): number => {
  let [sum, count] = [0, 0]
  for (let i = 0; i < values.length; i++) {
    if (Number.isNaN(values[i])) continue
    sum += values[i]!
    count++
  }
  return sum / count
}

/** For each sequence 1 where it is (n, p)-extractable, else 0; NaN stays NaN. */
export const extractable = (logP: ArrayLike<number>, n: number, p: number): Float64Array =>
  Float64Array.from(logP, (one) => Number.isNaN(one) ? NaN : samplesNeeded(one, p) <= n ? 1 : 0)

/** A point of the curve of (n, p)-extraction. */
export interface ExtractionPoint {
  readonly n: number
  readonly p: number
  readonly rate: number
}

/** Rates of (n, p)-extraction for all pairs, and the ceiling: the share of sequences that are ever drawn. */
export const extractionCurve = (
  logP: ArrayLike<number>,
  n: ReadonlyArray<number> = [1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 1e5, 1e6],
  p: ReadonlyArray<number> = [0.1, 0.5, 0.9, 0.999]
): { readonly points: ReadonlyArray<ExtractionPoint>; readonly ceiling: number } => ({
  points: p.flatMap((one) => n.map((draws) => ({ n: draws, p: one, rate: rate(extractable(logP, draws, one)) }))),
  ceiling: rate(Float64Array.from(logP, (one) => Number.isNaN(one) ? NaN : one > -Infinity ? 1 : 0))
})

/**
 * The k-memorization score (Biderman et al. 2023): the share of the continuation's tokens that a model says in their places,
 * decoding greedily and going on from its own words; 1: memorized, which is when every token has rank 0 under the true text, too.
 * Below 1 the two differ: after a wrong word it is told no truth. What it says no more is wrong.
 */
export const kMemorization = (said: ArrayLike<number>, truth: ArrayLike<number>): number => {
  let same = 0
  for (let i = 0; i < truth.length; i++) if (i < said.length && said[i] === truth[i]) same++
  return same / truth.length
}

/** How well one model's memory tells another's; NaN of nothing. */
export interface Forecast {
  /** Of what the predictor has memorized, the share that the other has, too; so many it has. */
  readonly precision: number
  readonly predicted: number
  /** Of what the other has memorized, the share that the predictor has; so many the other has. */
  readonly recall: number
  readonly actual: number
  /** Of what the other has not memorized, the share that the predictor has. */
  readonly falsePositives: number
}

/** The memory of a smaller model, or of an earlier checkpoint, as a prediction of the final model's. */
export const forecast = (predictor: ArrayLike<boolean>, final: ArrayLike<boolean>): Forecast => {
  let [both, predicted, actual] = [0, 0, 0]
  for (let i = 0; i < final.length; i++) {
    if (predictor[i]) predicted++
    if (final[i]) actual++
    if (predictor[i] && final[i]) both++
  }
  return {
    precision: both / predicted,
    predicted,
    recall: both / actual,
    actual,
    falsePositives: (predicted - both) / (final.length - actual)
  }
}
