/** On which tokens of its beginning a continuation hangs: each is replaced by a random one, and the rest is said again. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { configuration, positive, withDefault } from "../Config.ts"
import type { Row } from "../data/stream/Packing.ts"
import { mean, variance } from "../measures/Statistics.ts"
import { Model } from "../model/Model.ts"
import { random } from "../Random.ts"
import { scoreRows } from "../scoring/Score.ts"
import type { Attack, AttackMetric, AttackProblem } from "./Attack.ts"
import { ask, say, windowFields, windowOf, windowProblem } from "./Say.ts"

/** Options of `tokenPerturbation`. */
export class TokenPerturbationOptions
  extends configuration(Schema.Class<TokenPerturbationOptions>("TokenPerturbationOptions")({
    ...windowFields,
    /** Random tokens that are tried at each place. Default 1. */
    draws: withDefault(positive, () => 1),
    /** Every so many places from the second on are perturbed. Default 1: all of them. */
    every: withDefault(positive, () => 1),
    /** Parts of the beginning, from its first to its last place, that are told apart in the report. Default 4. */
    parts: withDefault(positive, () => 4)
  }))
{}

/** What a perturbed place costs. */
export interface Perturbed {
  readonly place: number
  /** Share of the continuation that is no longer said up to the first other token. */
  readonly drop: number
  /** By how much the continuation's loss rises, in nats a token. */
  readonly nll: number
}

/** Tokens before the first that differs. */
const agreed = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let n = 0
  while (n < a.length && n < b.length && a[n] === b[n]) n++
  return n
}

/** Places of a beginning that are perturbed: its first token stays, as the authors keep the beginning of a text. */
export const placesOf = (context: number, every: number): ReadonlyArray<number> =>
  Array.from({ length: Math.ceil((context - 1) / every) }, (_, i) => 1 + i * every)

/**
 * For each sequence, what each perturbed place costs: against what the model says greedily after the true beginning, whether
 * that is the true rest or not, so that memorized sequences and others are measured alike.
 */
export const perturb = (rows: ReadonlyArray<Row>, problem: AttackProblem, options: TokenPerturbationOptions) =>
  Effect.gen(function*() {
    const model = yield* Model
    const { batchSize, mode, seed, seqLen } = problem
    const window = windowOf(options, seqLen)
    const asked = ask(rows, window)
    const prompt = (id: bigint, tokens: Uint32Array, length: number) => ({ id, tokens, length })
    const greedy = yield* say(asked.map(({ given, id, truth }) => prompt(id, given, truth.length)), problem)
    const tries = asked.flatMap(({ given, id }, s) => {
      const draw = random(seed, "perturb", s)
      return placesOf(given.length, options.every).flatMap((place) =>
        Array.from({ length: options.draws }, () => {
          const tokens = given.slice()
          // any other token
          const other = draw.below(model.config.vocabSize - 1)
          tokens[place] = other < given[place]! ? other : other + 1
          return { s, id, place, tokens }
        })
      )
    })
    const said = yield* say(tries.map(({ id, s, tokens }) => prompt(id, tokens, greedy[s]!.length)), problem)
    /** The continuation after a beginning, which it is scored behind. */
    const row = (id: bigint, given: Uint32Array, s: number): Row => ({
      id,
      tokens: Uint32Array.from([...given, ...greedy[s]!]),
      document: `${s}`,
      offset: 0,
      scoredFrom: given.length
    })
    const all = [
      ...asked.map(({ given, id }, s) => row(id, given, s)),
      ...tries.map(({ id, s, tokens }) => row(id, tokens, s))
    ]
    const scores = (yield* scoreRows(model, all, mode, { batchSize, seqLen })).map(({ loss, tokens }) => loss / tokens)
    const found = asked.map((): Array<Perturbed> => [])
    tries.forEach(({ place, s }, i) => {
      const length = greedy[s]!.length
      found[s]!.push({
        place,
        drop: 1 - agreed(said[i]!, greedy[s]!) / length,
        nll: scores[asked.length + i]! - scores[s]!
      })
    })
    return found as ReadonlyArray<ReadonlyArray<Perturbed>>
  })

const meanDrop = (places: ReadonlyArray<Perturbed>): number => mean(places.map(({ drop }) => drop))
const meanNll = (places: ReadonlyArray<Perturbed>): number => mean(places.map(({ nll }) => nll))

export const tokenPerturbation: Attack<TokenPerturbationOptions> = {
  name: "tokenPerturbation",
  title: "token perturbation",
  paper: "Stoehr et al. 2024",
  version: 1,
  options: TokenPerturbationOptions,
  metrics: ({ parts }) => ({
    drop: { title: "share of the greedy continuation lost when a token of the beginning is another", unit: "share",
      memory: "lower" },
    dropOthers: { title: "the same of sequences that were never trained on", unit: "share", memory: "lower",
      of: "others" },
    contrast: { title: "how much less the repeated lose than those never trained on", unit: "ratio", memory: "higher",
      signed: true },
    worst: { title: "the same at the place where most is lost", unit: "share", memory: "lower" },
    nll: { title: "rise of the continuation's loss when a token of the beginning is another", unit: "nats",
      memory: "lower", signed: true },
    ...Object.fromEntries(
      Array.from({ length: parts }, (_, i) => `by a token in part ${i + 1} of ${parts} of the beginning`)
        .flatMap((by, i): ReadonlyArray<[string, AttackMetric]> => [
          [`drop@${i + 1}`, { title: `share lost ${by}`, unit: "share", memory: "lower" }],
          [`nll@${i + 1}`, { title: `rise of the loss ${by}`, unit: "nats", memory: "lower", signed: true }]
        ])
    )
  }),
  problem: (options, ground) =>
    windowOf(options, ground.seqLen).context < 2
      ? "a beginning of 1 token has none to perturb, since the first stays: raise context"
      : windowProblem(options, ground),
  run: (problem, options) =>
    Effect.gen(function*() {
      const { context } = windowOf(options, problem.seqLen)
      const found = yield* perturb(problem.rows, problem, options)
      const others = (yield* perturb(problem.others, problem, options)).map(meanDrop)
      const drop = found.map(meanDrop)
      const partOf = ({ place }: Perturbed) => Math.floor((place - 1) * options.parts / (context - 1))
      const sequences = Math.min(drop.length, others.length)
      return {
        drop,
        dropOthers: others,
        ...(sequences < 2 ? {} : {
          contrast: {
            value: mean(others) - mean(drop),
            sequences,
            error: Math.sqrt(variance(others) / others.length + variance(drop) / drop.length)
          }
        }),
        worst: found.map((places) => Math.max(...places.map(({ drop }) => drop))),
        nll: found.map(meanNll),
        ...Object.fromEntries(Array.from({ length: options.parts }, (_, part) => part).flatMap((part) => {
          const own = found.map((places) => places.filter((one) => partOf(one) === part))
          const each = (of: (places: ReadonlyArray<Perturbed>) => number) =>
            own.map((places) => places.length === 0 ? NaN : of(places))
          return [[`drop@${part + 1}`, each(meanDrop)], [`nll@${part + 1}`, each(meanNll)]] as const
        }))
      }
    })
}
