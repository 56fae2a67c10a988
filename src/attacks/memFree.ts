/** MemFree decoding as a defence: exact copies stop, and what is nearly a copy goes on. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { configuration, fraction, upTo, withDefault } from "../Config.ts"
import { attempt, DataError } from "../Errors.ts"
import { bloomFilter } from "../measures/MemFree.ts"
import { bleu, normalizedEditDistance } from "../measures/TextMetrics.ts"
import type { Attack, AttackMetric } from "./Attack.ts"
import { ask, sayRest, windowFields, windowOf, windowProblem } from "./Say.ts"

/** Options of `memFree`. */
export class MemFreeOptions extends configuration(Schema.Class<MemFreeOptions>("MemFreeOptions")({
  ...windowFields,
  /** Tokens of an n-gram that is never completed. Default 10. */
  n: withDefault(upTo(65535).pipe(Schema.greaterThanOrEqualTo(2)), () => 10),
  /** Share of other n-grams that the filter takes for protected. Default 0.01. */
  falsePositives: withDefault(Schema.Number.pipe(Schema.greaterThan(0), Schema.lessThan(1)), () => 0.01),
  /** BLEU from which on a text is an approximate copy. Default 0.75. */
  approximate: withDefault(fraction, () => 0.75)
})) {}

const states = [["", ""], ["Filtered", ", with MemFree decoding"]] as const

export const memFree: Attack<MemFreeOptions> = {
  name: "memFree",
  title: "MemFree decoding",
  paper: "Ippolito et al. 2023",
  version: 1,
  options: MemFreeOptions,
  metrics: ({ approximate, n }) =>
    Object.fromEntries(states.flatMap(([state, title]): ReadonlyArray<[string, AttackMetric]> => {
      const with_ = state === "" ? title : `${title} by ${n}-grams`
      return [
        [`exact${state}`, { title: `said exactly${with_}`, unit: "share", memory: "higher" }],
        [`approximate${state}`, { title: `said with BLEU of at least ${approximate}${with_}`, unit: "share",
          memory: "higher" }],
        [`similarity${state}`, { title: `1 - edit distance over the longer${with_}`, unit: "share", memory: "higher" }]
      ]
    })),
  problem: (options, ground) =>
    options.n > ground.seqLen + 1
      ? `n-grams of ${options.n} tokens are longer than the ${ground.seqLen + 1} of a sequence: lower n`
      : windowProblem(options, ground),
  run: (problem, options) =>
    Effect.gen(function*() {
      const { falsePositives, n } = options
      const asked = ask(problem.rows, windowOf(options, problem.seqLen))
      // whoever protects texts knows all that is repeated
      const protectedTexts = [...problem.rows, ...problem.seen].map(({ tokens }) => tokens)
      const filter = yield* attempt(() => bloomFilter(protectedTexts, { n, falsePositives }), DataError)
      const scores = (state: string, texts: ReadonlyArray<Uint32Array>) => {
        const of = (score: (text: Uint32Array, truth: Uint32Array) => number) =>
          texts.map((text, i) => score(text, asked[i]!.truth))
        return {
          [`exact${state}`]: of((text, truth) => normalizedEditDistance(text, truth) === 0 ? 1 : 0),
          [`approximate${state}`]: of((text, truth) => bleu(text, truth) >= options.approximate ? 1 : 0),
          [`similarity${state}`]: of((text, truth) => 1 - normalizedEditDistance(text, truth))
        }
      }
      return {
        ...scores("", yield* sayRest(asked, problem)),
        ...scores("Filtered", yield* sayRest(asked, problem, { memFree: filter }))
      }
    })
}
