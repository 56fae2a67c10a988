/** What attacks that generate have in common: how much of a sequence is given, how much is to be said, and the saying. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { positive } from "../Config.ts"
import type { Row } from "../data/stream/Packing.ts"
import type { Window } from "../measures/Extraction.ts"
import * as Generate from "../model/Generate.ts"
import type { AttackGround, AttackProblem } from "./Attack.ts"

/** Options of how much of a sequence is given and how much is to be said. */
export const windowFields = {
  /** Tokens of a sequence that are given. Default: a quarter of `seqLen`. */
  context: Schema.optional(positive),
  /** Tokens behind them that are to be said. Default: all that follow, 100 at most. */
  length: Schema.optional(positive)
}

export interface WindowOptions {
  readonly context?: number | undefined
  readonly length?: number | undefined
}

export const windowOf = ({ context, length }: WindowOptions, seqLen: number): Window => {
  const given = context ?? Math.max(1, Math.floor(seqLen / 4))
  return { context: given, length: length ?? Math.max(1, Math.min(100, seqLen + 1 - given)) }
}

/** What is wrong with a window in an experiment. */
export const windowProblem = (options: WindowOptions, { seqLen }: Pick<AttackGround, "seqLen">): string | undefined => {
  const { context, length } = windowOf(options, seqLen)
  return context + length <= seqLen + 1
    ? undefined
    : `${context} tokens that are given and ${length} that are to be said are more than the ${seqLen + 1} of a ` +
      "sequence: lower context or length, or raise the world's seqLen"
}

/** A sequence cut in two: what is given, and what should follow. */
export interface Asked {
  readonly id: bigint
  readonly given: Uint32Array
  readonly truth: Uint32Array
}

/** Sequences, cut; those that end with what is given are left out. */
export const ask = (rows: ReadonlyArray<Row>, { context, length }: Window): ReadonlyArray<Asked> =>
  rows.flatMap(({ id, tokens }) =>
    tokens.length > context
      ? [{ id, given: tokens.slice(0, context), truth: tokens.slice(context, context + length) }]
      : []
  )

/** What is to be continued, with the sinks of whom, and how far. */
export interface Prompted {
  readonly id: bigint
  readonly tokens: ArrayLike<number>
  readonly length: number
}

/**
 * What the model says after prompts, each as far as asked, or to its last position; greedily unless told. Four times as many
 * share a batch as a pass over whole sequences takes: a step of decoding has one token of each.
 */
export const say = (
  prompts: ReadonlyArray<Prompted>,
  { batchSize, mode, seed }: Pick<AttackProblem, "batchSize" | "mode" | "seed">,
  options: Generate.GenerateOptions = {}
) =>
  Effect.map(
    Generate.collectAll(prompts, {
      maxNewTokens: prompts.reduce((most, { length }) => Math.max(most, length), 1),
      temperature: 0,
      seed,
      sinks: mode,
      batchSize: 4 * batchSize,
      ...options
    }),
    (texts) => texts.map((text, i) => text.subarray(0, prompts[i]!.length))
  )

/** The same of sequences, after what is given of each. */
export const sayRest = (
  asked: ReadonlyArray<Asked>,
  problem: Pick<AttackProblem, "batchSize" | "mode" | "seed">,
  options?: Generate.GenerateOptions
) => say(asked.map(({ given, id, truth }) => ({ id, tokens: given, length: truth.length })), problem, options)
