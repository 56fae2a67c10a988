/**
 * Metrics of memorization and unlearning as functions of token records. Pure.
 *
 * Losses are means over a sequence's scored tokens in nats; perplexity is e to their power. Everything is
 * teacher-forced: the model sees the true tokens before each one it is scored on, so a share of tokens it gets right
 * says nothing of what it would write by itself (see Extraction for that). A sequence's value is NaN where it has none.
 */
import * as Statistics from "./Statistics.ts"
import { isFirst, type TokenRecords } from "./TokenRecords.ts"

/** A value of each sequence, from the range of its records. */
export const perSequence = (records: TokenRecords, of: (from: number, to: number) => number): Float64Array =>
  Float64Array.from(records.sequences, (_, s) => of(records.start[s]!, records.start[s + 1]!))

const sum = (values: ArrayLike<number>, from: number, to: number): number => {
  let total = 0
  for (let i = from; i < to; i++) total += values[i]!
  return total
}

// ---------------------------------------------------------------------------------------------------------------
// Loss

/** Mean loss of each sequence, nats a token. */
export const loss = (records: TokenRecords): Float64Array =>
  perSequence(records, (from, to) => -sum(records.logProb, from, to) / (to - from))

/** Mean loss over all tokens: long sequences weigh more. The loss that training reports. */
export const tokenLoss = (records: TokenRecords): number =>
  -sum(records.logProb, 0, records.logProb.length) / records.logProb.length

/** e to a loss in nats, not 2. */
export const perplexity = (nats: number): number => Math.exp(nats)

/**
 * Loss of each sequence in nats a character: for models of different tokenizers, whose losses a token are not
 * comparable. `characters[s]` is the length of the text of its scored tokens.
 */
export const lossPerCharacter = (records: TokenRecords, characters: ArrayLike<number>): Float64Array =>
  Float64Array.from(records.sequences, (_, s) =>
    -sum(records.logProb, records.start[s]!, records.start[s + 1]!) / characters[s]!)

/** exp(-mean loss) of each sequence: open-unlearning's `probability`. */
export const probability = (records: TokenRecords): Float64Array => loss(records).map((nats) => Math.exp(-nats))

/** Likelihood ratio of each sequence: exp(loss - loss under a model that never saw it), of mean losses a token in nats. */
export const likelihoodRatios = (losses: ArrayLike<number>, before: ArrayLike<number>): Float64Array => {
  if (losses.length !== before.length) {
    throw new RangeError(`pairs need two lists of one length, got ${losses.length} and ${before.length}`)
  }
  return Float64Array.from(losses, (loss, s) => Math.exp(loss - before[s]!))
}

/**
 * Average likelihood ratio of sequences (Zaman et al. 2024): the mean of `likelihoodRatios`. 1: no better known than to a
 * model that never saw them; less: memorized. NaN of none.
 */
export const averageLikelihoodRatio = (losses: ArrayLike<number>, before: ArrayLike<number>): number =>
  Statistics.mean(likelihoodRatios(losses, before))

/** Loss on held-out text minus that on repeated text of the same domain: 0 where nothing is memorized. */
export const memorizationGap = (heldOut: number, repeated: number): number => heldOut - repeated

/**
 * Share of the standard model's gap that an arm closes: 1 closes it, 0 leaves it as it is. NaN where there is no gap to
 * close, and of gaps that are infinite or not numbers.
 */
export const fractionClosed = (gap: number, standardGap: number): number =>
  standardGap === 0 || !Statistics.finite([gap, standardGap]) ? NaN : 1 - gap / standardGap

/** Loss on the repeated sequences after removal minus before: the higher, the more was forgotten. */
export const sequenceForgetting = (before: number, after: number): number => after - before

/** Validation loss before removal minus after: 0 is free, negative is worse. */
export const modelDegradation = (before: number, after: number): number => before - after

/**
 * Any metric between the model that never saw the repeats (0) and the standard one (1). NaN where those two agree: then
 * the metric does not see memorization at all; and where one of the three is infinite or not a number.
 */
export const recovery = (value: number, { oracle, standard }: { readonly oracle: number; readonly standard: number }) =>
  standard === oracle || !Statistics.finite([value, oracle, standard]) ? NaN : (value - oracle) / (standard - oracle)

// ---------------------------------------------------------------------------------------------------------------
// Verbatim memory

/** Exact memorization: the share of a sequence's tokens that are the model's first choice. */
export const exactMemorization = (records: TokenRecords): Float64Array =>
  perSequence(records, (from, to) => {
    let first = 0
    for (let i = from; i < to; i++) if (isFirst(records, i)) first++
    return first / (to - from)
  })

/** How extraction strength is counted. */
export interface ExtractionStrengthOptions {
  /**
   * Where even the last token is wrong, 1 / tokens, as open-unlearning has it, instead of 0. Its numbers are only
   * comparable so. Default false.
   */
  readonly openUnlearning?: boolean
  /** Leave out a last token: of end of text. Default false. */
  readonly dropLast?: boolean
}

/** Extraction strength: the share of a sequence, at its end, that greedy decoding gives when told what is before. */
export const extractionStrength = (
  records: TokenRecords,
  { dropLast = false, openUnlearning = false }: ExtractionStrengthOptions = {}
): Float64Array =>
  perSequence(records, (from, end) => {
    const to = dropLast ? end - 1 : end
    let right = to
    while (right > from && isFirst(records, right - 1)) right--
    const tokens = to - from
    return tokens === 0 ? NaN : Math.max(to - right, openUnlearning ? 1 : 0) / tokens
  })

/**
 * Share of tokens whose two largest logits are nearer than `margin`: there the first choice is a matter of rounding,
 * and so are the metrics that count first choices.
 */
export const nearTies = (records: TokenRecords, margin = 1e-3): number =>
  Statistics.known(records.margin) ? records.margin.filter((m) => m < margin).length / records.margin.length : NaN

// ---------------------------------------------------------------------------------------------------------------
// Truth ratio

/** Losses, nats a token, of a right answer and of wrong ones. */
export interface Answers {
  readonly right: number
  readonly wrong: ArrayLike<number>
}

/**
 * How probabilities of wrong and right answers are set against each other:
 * - `wrong/right`: TOFU's. Below 1 the model knows the right answer;
 * - `right/wrong`: the other way up, as in the paper on natively unlearnable models;
 * - `right/(right+wrong)`: open-unlearning's newer one.
 */
export type TruthRatio = "wrong/right" | "right/wrong" | "right/(right+wrong)"

/**
 * The truth ratio of a question. Wrong answers count by the geometric mean of their probabilities, that is the mean of
 * their losses, as in the code of TOFU; its paper says `arithmetic`.
 */
export const truthRatio = (
  { right, wrong }: Answers,
  kind: TruthRatio = "wrong/right",
  average: "geometric" | "arithmetic" = "geometric"
): number => {
  const wrongLoss = average === "geometric"
    ? Statistics.mean(wrong)
    : -Math.log(Statistics.mean(Float64Array.from(wrong, (nats) => Math.exp(-nats))))
  const ratio = Math.exp(right - wrongLoss)
  return kind === "wrong/right" ? ratio : kind === "right/wrong" ? 1 / ratio : 1 / (1 + ratio)
}

/**
 * Forget quality: the probability that two models' truth ratios on the forgotten data come from one distribution, by
 * the test of Kolmogorov and Smirnov. Against the retrained model; above 0.05 they cannot be told apart.
 */
export const forgetQuality = (ratios: ArrayLike<number>, retrained: ArrayLike<number>): number =>
  Statistics.kolmogorovSmirnov(ratios, retrained).p

// ---------------------------------------------------------------------------------------------------------------
// Modular arithmetic

/**
 * Inverse participation ratio of a neuron's weights over the residues: 1, a single frequency, as neurons of the rule
 * have; one over the number of frequencies, (p + 1) / 2, of a flat spectrum, as those of memory have.
 */
export const participation = (weights: ArrayLike<number>): number => {
  const p = weights.length
  let [squares, fourths] = [0, 0]
  for (let j = 0; j <= p / 2; j++) {
    let [re, im] = [0, 0]
    for (let i = 0; i < p; i++) {
      re += weights[i]! * Math.cos((2 * Math.PI * i * j) / p)
      im += weights[i]! * Math.sin((2 * Math.PI * i * j) / p)
    }
    const power = re * re + im * im
    squares += power
    fourths += power * power
  }
  return fourths / (squares * squares)
}

// ---------------------------------------------------------------------------------------------------------------
// open-unlearning's shapes

/** A metric as open-unlearning's files hold it; null: there is no value. */
export interface MetricResult {
  readonly agg_value: number | null
  readonly value_by_index?: Readonly<Record<string, Readonly<Record<string, number | null>>>>
}

const orNull = (value: number): number | null => (Number.isFinite(value) ? value : null)

/**
 * The mean of the sequences' values and each of them. `field` is `prob` for probability, else `score`. Values that are
 * null, of sequences that have none, are left out of the mean, as there; one that is not a number is not: the mean is
 * then null.
 */
export const metricResult = (values: ArrayLike<number | null>, field: "score" | "prob" = "score"): MetricResult => {
  const all = Array.from(values)
  return {
    agg_value: orNull(Statistics.mean(all.filter((value) => value !== null))),
    value_by_index: Object.fromEntries(
      all.map((value, i) => [String(i), { [field]: value === null ? null : orNull(value) }])
    )
  }
}

/** The harmonic mean of metrics that are better the higher; null where one of them is. */
export const hmAggregate = (metrics: Readonly<Record<string, MetricResult>>): MetricResult => ({
  agg_value: orNull(Statistics.harmonicMean(Object.values(metrics).map(({ agg_value }) => agg_value ?? NaN)))
})

const inverted = ({ agg_value }: MetricResult): MetricResult => ({
  agg_value: agg_value === null ? null : 1 - agg_value
})

/**
 * open-unlearning's `memorization`: the harmonic mean of one minus extraction strength, exact memorization and, where
 * given, the paraphrases' probability and their truth ratio right/(right+wrong). 1: nothing is memorized.
 */
export const memorizationAggregate = (
  metrics: Readonly<
    Partial<
      Record<
        "extraction_strength" | "exact_memorization" | "forget_Q_A_PARA_Prob" | "forget_Truth_Ratio",
        MetricResult
      >
    >
  >
): MetricResult =>
  hmAggregate(Object.fromEntries(Object.entries(metrics).map(([name, metric]) => [name, inverted(metric)])))

/** How near an attack's AUC is to that on the retrained model: 1 is as near as can be, 0 as far. */
export const closeness = (auc: number, retrained: number): number =>
  1 - Math.abs(auc - retrained) / Math.max(retrained, 1 - retrained)
