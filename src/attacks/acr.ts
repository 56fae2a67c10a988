/** Adversarial compression: how short a prompt makes a model say the end of a sequence. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { atLeast0, configuration, positive, withDefault } from "../Config.ts"
import { random } from "../Random.ts"
import type { Attack, AttackGround, AttackProblem } from "./Attack.ts"
import { makeSearch, miniPrompt, type PromptSearch, searchFields, type SearchOptions,
  targetOf } from "./promptSearch.ts"

/** Options of `acr`. */
export class AcrOptions extends configuration(Schema.Class<AcrOptions>("AcrOptions")({
  ...searchFields,
  /** Tokens of a prompt at most. Default: `length`; its authors try five times as many. */
  most: Schema.optional(positive),
  /** Steps for the first length that is tried; each that fails gives the next a fifth more. Default 200. */
  steps: withDefault(positive, () => 200),
  /** A sequence counts as compressed where its ratio is above this. Default 1. */
  threshold: withDefault(atLeast0, () => 1)
})) {}

/** Options of `acrLite`. */
export class AcrLiteOptions extends configuration(Schema.Class<AcrLiteOptions>("AcrLiteOptions")({
  ...searchFields,
  /** Numbers of tokens of a prompt. Default 1, 2, 4, 8. */
  lengths: withDefault(Schema.NonEmptyArray(positive), () => [1, 2, 4, 8] as const),
  /** Steps for each of them. Default 100. */
  steps: withDefault(positive, () => 100)
})) {}

type Find = (length: number, steps: number) => ReturnType<PromptSearch["find"]>

/** Tokens of the shortest prompt of each sequence that a search finds: Infinity where it finds none, NaN of one too short. */
const shortestOf = (
  { mode, rows, seed }: AttackProblem,
  options: SearchOptions & { readonly length: number },
  shortest: (find: Find) => Effect.Effect<number, Effect.Effect.Error<ReturnType<Find>>>
) =>
  Effect.scoped(Effect.gen(function*() {
    const search = yield* makeSearch(mode, options)
    return yield* Effect.forEach(rows, (row, i) => {
      const target = targetOf(row, options.length)
      return target === undefined
        ? Effect.succeed(NaN)
        : shortest((length, steps) => search.find(target, length, steps, random(seed, "prompt search", i, length)))
    })
  }))

/** By sequence: 1 where something holds of its number, else 0; NaN of those that have none. */
const shares = (numbers: ReadonlyArray<number>, holds: (one: number) => boolean): ReadonlyArray<number> =>
  numbers.map((one) => Number.isNaN(one) ? NaN : holds(one) ? 1 : 0)

const tooLong = (length: number, most: number, { model, seqLen }: AttackGround): string | undefined =>
  length > seqLen
    ? `${length} tokens that must be said are as long as a sequence of ${seqLen + 1}, of which the end is taken: ` +
      "lower length, or raise the world's seqLen"
    : length + most > model.maxPositionEmbeddings + 1
    ? `prompts of ${most} tokens and ${length} to be said are more than the model's maxPositionEmbeddings of ` +
      `${model.maxPositionEmbeddings} takes: shorten them, or raise it`
    : undefined

const how = ({ search }: SearchOptions): string => search === "gcg" ? "by gradients (GCG)" : "at random"

export const acr: Attack<AcrOptions> = {
  name: "acr",
  title: "adversarial compression",
  paper: "Schwarzschild et al. 2024",
  version: 1,
  options: AcrOptions,
  metrics: (options) => {
    const { length, most = length, threshold } = options
    return {
      found: { title: `last ${length} tokens said greedily after a prompt of at most ${most}, searched ${how(options)}`,
        unit: "share", memory: "higher" },
      ratio: { title: "tokens said for each of the shortest prompt that was found, 0 where none was", unit: "ratio",
        memory: "higher" },
      compressed: { title: `such a ratio above ${threshold}`, unit: "share", memory: "higher" }
    }
  },
  problem: ({ length, most = length }, ground) => tooLong(length, most, ground),
  run: (problem, options) => {
    const { length, most = length, steps, threshold } = options
    const shortest = shortestOf(problem, options,
      (find) => Effect.map(miniPrompt({ most, steps }, find), (prompt) => prompt?.length ?? Infinity))
    return Effect.map(shortest, (tokens) => {
      const ratio = tokens.map((one) => length / one)
      return { found: shares(ratio, (one) => one > 0), ratio, compressed: shares(ratio, (one) => one > threshold) }
    })
  }
}

export const acrLite: Attack<AcrLiteOptions> = {
  name: "acrLite",
  title: "adversarial prompts of fixed lengths",
  paper: "after Schwarzschild et al. 2024",
  version: 1,
  options: AcrLiteOptions,
  metrics: (options) =>
    Object.fromEntries(options.lengths.map((n) => [`found@${n}`, {
      title: `last ${options.length} tokens said greedily after a prompt of at most ${n}, searched ${how(options)}`,
      unit: "share",
      memory: "higher"
    }])),
  problem: ({ length, lengths }, ground) => tooLong(length, Math.max(...lengths), ground),
  run: (problem, options) =>
    Effect.gen(function*() {
      const { lengths, steps } = options
      const rising = [...new Set(lengths)].sort((a, b) => a - b)
      const shortest = yield* shortestOf(problem, options, (find) =>
        Effect.gen(function*() {
          for (const n of rising) if ((yield* find(n, steps)) !== undefined) return n
          return Infinity
        }))
      return Object.fromEntries(rising.map((n) => [`found@${n}`, shares(shortest, (one) => one <= n)]))
    })
}
