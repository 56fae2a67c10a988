/**
 * Membership inference: from scores of token records, whether a sequence was trained on. Pure.
 *
 * A score that is infinite or not a number is no score: what is computed of it, or of a class without members, is NaN.
 *
 * Every score is higher for members. Members and others must be alike in all but training, in length, source and date
 * too: attacks find any other difference as readily. Repeated often enough, members give themselves away to any attack,
 * so arms are never ranked by these alone.
 */
import { zlibSync } from "fflate"
import { DataError } from "../Errors.ts"
import { random } from "../Random.ts"
import * as Metrics from "./Metrics.ts"
import * as Statistics from "./Statistics.ts"
import type { TokenRecords } from "./TokenRecords.ts"

type Numbers = ArrayLike<number>

// ---------------------------------------------------------------------------------------------------------------
// Scores

/** Minus the mean loss. */
export const lossScore = (records: TokenRecords): Float64Array => Metrics.loss(records).map((nats) => -nats)

/**
 * Minus the mean loss over the bytes of the compressed text: discounts what is easy to say for anyone. Compressed by one
 * program for all runtimes (fflate, level 6), since zlibs differ in what they make of a text.
 */
export const zlibScore = (records: TokenRecords, texts: ReadonlyArray<string>): Float64Array => {
  if (texts.length !== records.sequences.length) {
    throw new DataError({
      detail: `the zlib score needs the text of each of the ${records.sequences.length} sequences, got ${texts.length}`
    })
  }
  return lossScore(records).map((score, s) => score / compressedBytes(texts[s]!))
}

/** The reference model's loss minus the model's, of the same sequences: discounts what is easy for that model too. */
export const referenceScore = (records: TokenRecords, reference: TokenRecords): Float64Array => {
  const differs = records.sequences.findIndex(({ name }, s) =>
    reference.sequences[s]?.name !== name || reference.start[s + 1] !== records.start[s + 1]
  )
  const same = reference.token.length === records.token.length &&
    reference.token.every((token, i) => token === records.token[i])
  if (differs >= 0 || !same) {
    const where = differs >= 0 ? `sequence ${records.sequences[differs]!.name} is` : "tokens are"
    throw new DataError({
      detail: `the reference model's records are of other sequences: ${where} not the same. ` +
        "Record both models on one data set with one tokenizer"
    })
  }
  const own = Metrics.loss(records)
  return Metrics.loss(reference).map((nats, s) => nats - own[s]!)
}

/** Bytes of a text in UTF-8, compressed. */
export const compressedBytes = (text: string): number => zlibSync(new TextEncoder().encode(text), { level: 6 }).length

const lowest = (values: Float64Array, share: number): number =>
  !Statistics.known(values)
    ? NaN
    : Statistics.mean(values.sort().subarray(0, Math.max(1, Math.floor(values.length * share))))

/** Min-K%: the mean log-probability of the `share` of tokens that are least likely, at least one. */
export const minK = (records: TokenRecords, share = 0.2): Float64Array =>
  Metrics.perSequence(records, (from, to) => lowest(Float64Array.from(records.logProb.subarray(from, to)), share))

/** Min-K%++: the same of log-probabilities in standard deviations from the mean over the vocabulary. */
export const minKPlusPlus = (records: TokenRecords, share = 0.2): Float64Array =>
  Metrics.perSequence(records, (from, to) =>
    lowest(
      Float64Array.from({ length: to - from }, (_, i) => {
        const at = from + i
        // a model that is certain, or knows nothing, has no variance; an infinite one would hide what is not a number
        if (!Number.isFinite(records.variance[at])) return NaN
        return (records.logProb[at]! - records.mean[at]!) / Math.sqrt(Math.max(records.variance[at]!, 1e-6))
      }),
      share
    ))

// ---------------------------------------------------------------------------------------------------------------
// Attacks

/** The place of each score among all different ones, from the highest; equal scores share one. */
interface Places {
  readonly members: Uint32Array
  readonly others: Uint32Array
  readonly count: number
}

const placesOf = (members: Numbers, others: Numbers): Places => {
  const scores = [...new Set([...Array.from(members), ...Array.from(others)])].sort((a, b) => b - a)
  const place = new Map(scores.map((score, i) => [score, i]))
  const of = (values: Numbers): Uint32Array => Uint32Array.from(values, (score) => place.get(score)!)
  return { members: of(members), others: of(others), count: scores.length }
}

/** Shares of others and of members that pass each threshold, from one that none pass to one that all do. */
const rates = ({ count, members, others }: Places): ReadonlyArray<readonly [fpr: number, tpr: number]> => {
  const [m, o] = [new Uint32Array(count), new Uint32Array(count)]
  for (const place of members) m[place]!++
  for (const place of others) o[place]!++
  const points: Array<readonly [number, number]> = [[0, 0]]
  let [passedOthers, passedMembers] = [0, 0]
  for (let i = 0; i < count; i++) {
    passedOthers += o[i]!
    passedMembers += m[i]!
    points.push([passedOthers / others.length, passedMembers / members.length])
  }
  return points
}

/** Whether there is something to tell apart: members and others, and nothing but numbers. */
const comparable = (members: Numbers, others: Numbers): boolean =>
  members.length > 0 && others.length > 0 && Statistics.finite(members) && Statistics.finite(others)

const area = (places: Places): number => {
  const points = rates(places)
  let sum = 0
  for (let i = 1; i < points.length; i++) {
    sum += ((points[i]![0] - points[i - 1]![0]) * (points[i]![1] + points[i - 1]![1])) / 2
  }
  return sum
}

/** The probability that a member scores higher than one of the others, ties a half: 0.5 is guessing. NaN of nothing. */
export const auc = (members: Numbers, others: Numbers): number =>
  comparable(members, others) ? area(placesOf(members, others)) : NaN

/** The AUC with its bootstrap interval: members and others are drawn anew, each among themselves. */
export const aucInterval = (
  members: Numbers,
  others: Numbers,
  { level = 0.95, resamples = 1000, seed = 0 }: Statistics.BootstrapOptions = {}
): Statistics.Interval => {
  if (!comparable(members, others)) return { value: NaN, low: NaN, high: NaN }
  const draw = random(seed, "auc")
  const places = placesOf(members, others)
  const again = (values: Uint32Array): Uint32Array => values.map(() => values[draw.below(values.length)]!)
  const drawn = Float64Array.from({ length: resamples },
    () => area({ ...places, members: again(places.members), others: again(places.others) }))
  return {
    value: area(places),
    low: Statistics.quantile(drawn, (1 - level) / 2),
    high: Statistics.quantile(drawn, (1 + level) / 2)
  }
}

/**
 * The share of members found where at most the share `fpr` of the others is taken for one. With fewer than 1 / fpr
 * others that is: with no other at all.
 */
export const tprAt = (members: Numbers, others: Numbers, fpr: number): number =>
  comparable(members, others)
    ? rates(placesOf(members, others)).reduce((best, [o, m]) => (o <= fpr + 1e-12 ? m : best), 0)
    : NaN

/** The best mean of the shares of members and of others that one threshold tells right: at least 0.5. */
export const balancedAccuracy = (members: Numbers, others: Numbers): number =>
  comparable(members, others)
    ? rates(placesOf(members, others)).reduce((best, [o, m]) => Math.max(best, (m + 1 - o) / 2), 0)
    : NaN

/** What an attack finds, in the words of reports. */
export interface Attack {
  readonly auc: Statistics.Interval
  readonly tprAt1: number
  readonly tprAt01: number
  readonly balancedAccuracy: number
}

/** All of an attack's numbers. */
export const attack = (members: Numbers, others: Numbers, options?: Statistics.BootstrapOptions): Attack => ({
  auc: aucInterval(members, others, options),
  tprAt1: tprAt(members, others, 0.01),
  tprAt01: tprAt(members, others, 0.001),
  balancedAccuracy: balancedAccuracy(members, others)
})

/**
 * PrivLeak of MUSE, from AUCs of Min-K% at 40 %: 0 is like retraining, -100 still a member, above 0 unlearned so much
 * that it shows. Without a retrained model its AUC counts as 0.5.
 */
export const privLeak = (unlearned: number, retrained = 0.5): number =>
  (100 * (1 - unlearned - (1 - retrained))) / (1 - retrained)

// ---------------------------------------------------------------------------------------------------------------
// Exposure

/**
 * Exposure of a canary among random strings of its format, by loss: bits by which its rank beats guessing. At most
 * log2(references + 1); equal losses rank before it. Canaries of few tokens reach the most soon: use longer ones. NaN
 * without references, and where a loss is infinite or not a number.
 */
export const exposure = (canaryLoss: number, references: Numbers): number => {
  if (references.length === 0 || !Number.isFinite(canaryLoss) || !Statistics.finite(references)) return NaN
  let rank = 1
  for (let i = 0; i < references.length; i++) if (references[i]! <= canaryLoss) rank++
  return Math.log2(references.length + 1) - Math.log2(rank)
}

/** log of the share of a skew-normal distribution below z standard deviations. */
const logSkewNormal = (z: number, alpha: number): number => {
  // Along u = z - t on a logarithmic axis: tails of any steepness are smooth there.
  const step = 0.05
  const terms: Array<number> = []
  for (let s = -28; s < 5; s += step) {
    const t = z - Math.exp(s)
    terms.push(s - 0.5 * t * t + Statistics.logNormalDistribution(alpha * t))
  }
  const top = Math.max(...terms)
  const sum = terms.reduce((all, term) => all + Math.exp(term - top), 0)
  return Math.min(0, top + Math.log(sum * step * 2) - 0.5 * Math.log(2 * Math.PI))
}

/**
 * Exposure beyond what the number of references can show: minus log2 of the share of losses as low, from a skew-normal
 * distribution with the references' mean, variance and skewness. Needs some hundreds of references.
 */
export const exposureExtrapolated = (canaryLoss: number, references: Numbers): number => {
  if (!Number.isFinite(canaryLoss) || !Statistics.finite(references)) return NaN
  const mean = Statistics.mean(references)
  const spread = Math.sqrt(Statistics.variance(references))
  const skewness = Statistics.mean(Float64Array.from(references, (x) => ((x - mean) / spread) ** 3))
  // no skew-normal distribution is more skewed than 0.9953
  const skew = Math.min(0.99, Math.abs(skewness)) ** (2 / 3)
  const delta = Math.sign(skewness) * Math.sqrt((Math.PI / 2) * (skew / (skew + ((4 - Math.PI) / 2) ** (2 / 3))))
  const scale = spread / Math.sqrt(1 - (2 * delta * delta) / Math.PI)
  const location = mean - scale * delta * Math.sqrt(2 / Math.PI)
  return -logSkewNormal((canaryLoss - location) / scale, delta / Math.sqrt(1 - delta * delta)) / Math.LN2
}
