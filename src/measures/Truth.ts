/**
 * What a model takes for true, of many facts: truth ratios and choices, with intervals by facts. Pure.
 *
 * The truth ratio here is that of the paper on natively unlearnable models: the likelihood of the right completion over
 * that of wrong ones, above 1 where the model prefers the truth. TOFU's stands on its head, wrong over right, so that less
 * is more there; `Metrics.truthRatio` has both. Likelihoods are geometric means over the tokens of a completion, so that
 * long ones are not at a loss, and geometric means over the wrong ones. Ratios are averaged over facts by their logarithm
 * too: of a plain mean one fact that is known by heart makes nearly all.
 */
import { DataError } from "../Errors.ts"
import type { Answers } from "./Metrics.ts"
import * as Statistics from "./Statistics.ts"

/** ln of the truth ratio (right / wrong): the mean loss of wrong completions minus that of the right one, nats a token. */
export const logTruthRatio = ({ right, wrong }: Answers): number => Statistics.mean(wrong) - right

/** 1: the right completion is the likeliest, 0: another one is; of k that are equally likely 1 / k. NaN where a loss is. */
export const choosesTruth = ({ right, wrong }: Answers): number => {
  if (!Statistics.known([right]) || !Statistics.known(wrong)) return NaN
  const losses = Array.from(wrong)
  return losses.some((loss) => loss < right) ? 0 : 1 / (1 + losses.filter((loss) => loss === right).length)
}

/** A fact, asked in one or several wordings: means over them. */
export const factTruth = (
  wordings: ReadonlyArray<Answers>
): { readonly logRatio: number; readonly choice: number } => {
  if (wordings.length === 0 || wordings.some(({ wrong }) => wrong.length === 0)) {
    throw new DataError({
      detail: "a truth ratio needs a fact to be asked at least once, with at least one wrong answer"
    })
  }
  return {
    logRatio: Statistics.mean(wordings.map(logTruthRatio)),
    choice: Statistics.mean(wordings.map(choosesTruth))
  }
}

/** What is known of a class of facts. */
export interface Truth {
  readonly facts: number
  /** Mean of ln of the truth ratio over facts, and its bootstrap interval by facts: 0 is no preference. */
  readonly logRatio: Statistics.Interval
  /** e to its power: the geometric mean of truth ratios. */
  readonly ratio: Statistics.Interval
  /** Share of facts whose right completion is the likeliest; 1 / (1 + wrong completions) is guessing. */
  readonly accuracy: Statistics.Interval
}

/** Truth ratio and accuracy of choice of facts, each asked in one or several wordings. All is NaN of no facts. */
export const truthOf = (
  facts: ReadonlyArray<ReadonlyArray<Answers>>,
  options: Statistics.BootstrapOptions = {}
): Truth => {
  const each = facts.map(factTruth)
  const logRatio = Statistics.bootstrap(each.map((one) => one.logRatio), options)
  const { high, low, value } = logRatio
  return {
    facts: facts.length,
    logRatio,
    ratio: { value: Math.exp(value), low: Math.exp(low), high: Math.exp(high) },
    accuracy: Statistics.bootstrap(each.map((one) => one.choice), options)
  }
}
