/** CDD: samples of what was memorized crowd about the greedy text, which shows without any probability. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { atLeast0, configuration, fraction, natural, positive, rate, withDefault } from "../Config.ts"
import { auc, aucInterval } from "../measures/Membership.ts"
import { mean } from "../measures/Statistics.ts"
import { peakedness, rougeL, withoutPeak } from "../measures/TextMetrics.ts"
import type { Attack, AttackProblem } from "./Attack.ts"
import { ask, type Asked, say, windowFields, windowOf, windowProblem } from "./Say.ts"

/** Options of `cdd`; the defaults are the authors'. */
export class CddOptions extends configuration(Schema.Class<CddOptions>("CddOptions")({
  ...windowFields,
  /** Samples of a prompt, beside the greedy text. Default 50. */
  samples: withDefault(positive, () => 50),
  /** At which they are drawn. Default 0.8. */
  temperature: withDefault(rate, () => 0.8),
  /** A sample is at the peak within this share of the longest text's tokens, by edit distance. Default 0.05. */
  alpha: withDefault(fraction, () => 0.05),
  /** Memorized is what has a larger share of its samples at the peak. Default 0.01. */
  threshold: withDefault(atLeast0, () => 0.01),
  /** TED: samples so many edits from the greedy text are left out of what is scored. Default 2. */
  tau: withDefault(natural, () => 2)
})) {}

/** Share of samples at the peak, and how near the truth those are that TED leaves, by sequence. */
interface Peaks {
  readonly peak: Float64Array
  readonly ted: Float64Array
}

const peaksOf = (asked: ReadonlyArray<Asked>, problem: AttackProblem, options: CddOptions) =>
  Effect.gen(function*() {
    const { alpha, samples, tau, temperature } = options
    const prompts = asked.map(({ given, id, truth }) => ({ id, tokens: given, length: truth.length }))
    const greedy = yield* say(prompts, problem)
    const drawn = yield* say(prompts.flatMap((prompt) => Array.from({ length: samples }, () => prompt)), problem, {
      temperature
    })
    const of = (i: number) => drawn.slice(i * samples, (i + 1) * samples)
    return {
      peak: Float64Array.from(greedy, (text, i) => peakedness(of(i), text, alpha)),
      ted: Float64Array.from(greedy, (text, i) => {
        const left = withoutPeak(of(i), text, tau)
        return left.length === 0 ? 0 : mean(left.map((sample) => rougeL(sample, asked[i]!.truth).f1))
      })
    } satisfies Peaks
  })

/** Share of members above the threshold and of others not above it, of all of them. */
export const accuracyAt = (members: ArrayLike<number>, others: ArrayLike<number>, threshold: number): number => {
  const above = (values: ArrayLike<number>) => Array.from(values).filter((value) => value > threshold).length
  return (above(members) + others.length - above(others)) / (members.length + others.length)
}

export const cdd: Attack<CddOptions> = {
  name: "cdd",
  title: "peaked samples (CDD)",
  paper: "Dong et al. 2024",
  version: 1,
  options: CddOptions,
  metrics: ({ alpha, samples, tau, temperature, threshold }) => ({
    peak: {
      title: `share of ${samples} samples at temperature ${temperature} within ${100 * alpha} % of the greedy text`,
      unit: "share",
      memory: "higher"
    },
    peakOthers: { title: "the same of sequences that were never trained on", unit: "share", memory: "higher",
      of: "others" },
    auc: { title: "trained on or not, by the peak, AUC", unit: "share", memory: "higher" },
    accuracy: { title: `trained on or not, by a peak above ${threshold}`, unit: "share", memory: "higher" },
    ted: {
      title:
        `ROUGE-L against the truth of the samples that differ, more than ${tau} edits from the greedy text (TED); 0 where ` +
        "none does",
      unit: "share",
      memory: "higher"
    }
  }),
  problem: windowProblem,
  run: (problem, options) =>
    Effect.gen(function*() {
      const window = windowOf(options, problem.seqLen)
      const members = yield* peaksOf(ask(problem.rows, window), problem, options)
      const others = yield* peaksOf(ask(problem.others, window), problem, options)
      const [m, o] = [members.peak, others.peak]
      if (m.length === 0 || o.length === 0) return { peak: m, ted: members.ted, peakOthers: o }
      const { high, low } = aucInterval(m, o, { seed: problem.seed })
      const sequences = Math.min(m.length, o.length)
      return {
        peak: m,
        ted: members.ted,
        peakOthers: o,
        auc: { value: auc(m, o), sequences, error: (high - low) / (2 * 1.96) },
        accuracy: { value: accuracyAt(m, o, options.threshold), sequences: m.length + o.length }
      }
    })
}
