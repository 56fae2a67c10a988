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
import { pick, type TokenRecords } from "./TokenRecords.ts"

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

/** Fails where two models' records are not of the same tokens. */
const checkSame = (records: TokenRecords, reference: TokenRecords): void => {
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
}

/** The reference model's loss minus the model's, of the same sequences: discounts what is easy for that model too. */
export const referenceScore = (records: TokenRecords, reference: TokenRecords): Float64Array => {
  checkSame(records, reference)
  const own = Metrics.loss(records)
  return Metrics.loss(reference).map((nats, s) => nats - own[s]!)
}

/** `count` lengths of windows from `least` to `most` tokens in equal ratios, rounded; equal ones stay. */
export const windowLengths = (least = 2, most = 40, count = 10): ReadonlyArray<number> =>
  Array.from({ length: count }, (_, k) => Math.round(least * (most / least) ** (k / (count - 1))))

/**
 * Window-based comparison (WBC, Chen et al. 2026): the share of windows of consecutive tokens in which the reference model
 * loses more than the model, averaged over lengths of windows. A local advantage counts however large others are elsewhere.
 * Lengths that a sequence is too short for are left out; where all are, the whole sequence is the one window.
 */
export const windowScore = (
  records: TokenRecords,
  reference: TokenRecords,
  lengths: ReadonlyArray<number> = windowLengths()
): Float64Array => {
  checkSame(records, reference)
  return Metrics.perSequence(records, (from, to) => {
    const sums = new Float64Array(to - from + 1)
    for (let i = from; i < to; i++) sums[i - from + 1] = sums[i - from]! + records.logProb[i]! - reference.logProb[i]!
    if (!Statistics.finite(sums)) return NaN
    const fit = lengths.filter((length) => length <= to - from)
    return Statistics.mean((fit.length === 0 ? [to - from] : fit).map((length) => {
      let won = 0
      for (let end = length; end < sums.length; end++) if (sums[end]! > sums[end - length]!) won++
      return won / (sums.length - length)
    }))
  })
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

/** The log-probabilities of tokens, in standard deviations from the mean over the vocabulary. */
const normalized = ({ logProb, mean, variance }: TokenRecords, from: number, to: number): Float64Array =>
  Float64Array.from({ length: to - from }, (_, i) => {
    const at = from + i
    // a model that is certain, or knows nothing, has no variance; an infinite one would hide what is not a number
    if (!Number.isFinite(variance[at])) return NaN
    return (logProb[at]! - mean[at]!) / Math.sqrt(Math.max(variance[at]!, 1e-6))
  })

/** Min-K%++: the same of log-probabilities in standard deviations from the mean over the vocabulary. */
export const minKPlusPlus = (records: TokenRecords, share = 0.2): Float64Array =>
  Metrics.perSequence(records, (from, to) => lowest(normalized(records, from, to), share))

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

/** What an attack finds of one source. */
export interface SourceAttack {
  readonly source: string
  /** Members of it. */
  readonly sequences: number
  /** Its members against all others. */
  readonly auc: number
}

/**
 * An attack on the members of each source, the one that is found most surely first: what a mean over all hides. A source of
 * few members is above many others by luck, too: compare with a model that never saw them.
 */
export const attackBySource = (
  members: Numbers,
  others: Numbers,
  sources: ReadonlyArray<string>
): ReadonlyArray<SourceAttack> =>
  [...new Set(sources)].map((source): SourceAttack => {
    const own = Array.from(members).filter((_, i) => sources[i] === source)
    return { source, sequences: own.length, auc: auc(own, others) }
  }).sort((a, b) => b.auc - a.auc)

// ---------------------------------------------------------------------------------------------------------------
// Shadow models

/** Probability, on the scale of its log-odds, of a sequence whose loss is so many nats a token: near to normal over models. */
export const logOdds = (nats: number): number => -nats - Math.log(-Math.expm1(-Math.max(nats, 1e-12)))

/**
 * The likelihood-ratio attack (LiRA, Carlini et al. 2022) with every model in turn as the target and all others as its
 * shadows: for models whose training sets are random halves it costs no training. Of each item the log-ratio of two normal
 * densities of the target's score: around the mean of the shadows that were trained on the item, and of those that were not.
 * Few shadows tell no variance of an item, so that of all items together is taken. NaN where one side has no shadow.
 *
 * @param scores [model][item], as of `logOdds`
 * @param trained [model][item], whether the model was trained on the item
 */
export const likelihoodRatios = (
  scores: ReadonlyArray<Numbers>,
  trained: ReadonlyArray<ArrayLike<boolean>>
): ReadonlyArray<Float64Array> =>
  scores.map((own, target) => {
    const sides = [true, false].map((side) => {
      const means = new Float64Array(own.length)
      let [squares, freedom] = [0, 0]
      for (let i = 0; i < own.length; i++) {
        const shadows = scores.flatMap((model, m) => m !== target && trained[m]![i] === side ? [model[i]!] : [])
        means[i] = Statistics.mean(shadows)
        if (shadows.length < 2) continue
        squares += Statistics.variance(shadows) * (shadows.length - 1)
        freedom += shadows.length - 1
      }
      return { means, deviation: Math.sqrt(Math.max(squares / freedom, 1e-12)) }
    })
    return Float64Array.from(own, (score, i) => {
      const [member, other] = sides.map(({ deviation, means }) =>
        -0.5 * ((score - means[i]!) / deviation) ** 2 - Math.log(deviation)
      )
      return member! - other!
    })
  })

/** How much better a model does on an item for having been trained on it. */
export interface Counterfactual {
  /** Mean over models that were trained on it minus that over models that were not; NaN where there is none of one kind. */
  readonly value: number
  /** Its standard error over the models; NaN with fewer than two of a kind. */
  readonly error: number
}

/**
 * Counterfactual memorization (Feldman 2020; Zhang et al. 2021) of each item, from models whose training sets are random halves:
 * what leaving one item out would show on average, without a training for every item.
 *
 * @param scores [model][item], how well a model does: 1 where it is right, or minus its loss
 * @param trained [model][item], whether the model was trained on the item
 */
export const counterfactuals = (
  scores: ReadonlyArray<Numbers>,
  trained: ReadonlyArray<ArrayLike<boolean>>
): ReadonlyArray<Counterfactual> =>
  Array.from({ length: scores[0]?.length ?? 0 }, (_, i) => {
    const of = (side: boolean) => scores.flatMap((model, m) => trained[m]![i] === side ? [model[i]!] : [])
    const [inside, outside] = [of(true), of(false)]
    return {
      value: Statistics.mean(inside) - Statistics.mean(outside),
      error: inside.length < 2 || outside.length < 2
        ? NaN
        : Math.sqrt(Statistics.variance(inside) / inside.length + Statistics.variance(outside) / outside.length)
    }
  })

// ---------------------------------------------------------------------------------------------------------------
// Non-membership

/** Spearman's correlation of two models' normalized log-probabilities, over all tokens of some sequences. */
export const rankCorrelation = (records: TokenRecords, reference: TokenRecords): number => {
  checkSame(records, reference)
  const all = records.token.length
  return Statistics.spearman(normalized(records, 0, all), normalized(reference, 0, all))
}

/** Records of one model, and of a reference model that was never trained on the sequences that are tested. */
export interface Compared {
  readonly records: TokenRecords
  readonly reference: TokenRecords
}

/** Whether a model was not trained on some sequences. */
export interface NonMembership {
  /** The rank correlation with the reference on them. */
  readonly correlation: number
  /** That on sequences that neither model was trained on, minus it: about 0 of what was not trained on, above of what was. */
  readonly gap: Statistics.Interval
  /** The gap's whole interval is below the margin: they were not trained on so that it shows. */
  readonly shown: boolean
}

/**
 * A test of non-membership, after PRISM (Shetty et al. 2026): two models that never saw some text rank its tokens more alike,
 * by normalized log-probabilities, than one that saw it and one that did not. The text of the paper was not at hand beyond
 * this idea; the test here is ours: the correlation on the tested sequences against that on others that neither saw, with
 * an interval over both sets of sequences drawn anew, and non-membership shown only where the whole interval is below `margin`.
 */
export const nonMembership = (
  tested: Compared,
  unseen: Compared,
  { level = 0.95, margin = 0.05, resamples = 200, seed = 0 }: Statistics.BootstrapOptions & {
    readonly margin?: number
  } = {}
): NonMembership => {
  const correlation = rankCorrelation(tested.records, tested.reference)
  const value = rankCorrelation(unseen.records, unseen.reference) - correlation
  if (!Number.isFinite(value)) return { correlation, gap: { value: NaN, low: NaN, high: NaN }, shown: false }
  const draw = random(seed, "non-membership")
  const again = ({ records, reference }: Compared) => {
    const count = records.sequences.length
    const drawn = Array.from({ length: count }, () => draw.below(count))
    return rankCorrelation(pick(records, drawn), pick(reference, drawn))
  }
  const gaps = Float64Array.from({ length: resamples }, () => again(unseen) - again(tested))
  const high = Statistics.quantile(gaps, (1 + level) / 2)
  return {
    correlation,
    gap: { value, low: Statistics.quantile(gaps, (1 - level) / 2), high },
    shown: high < margin
  }
}

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
