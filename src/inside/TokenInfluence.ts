/**
 * On which tokens of a sequence its self-influence hangs (after Zheng and Jiang 2022, An Empirical Study of Memorization in
 * NLP). They integrate the gradient of a sequence's influence on itself from a baseline of mask tokens, which takes second
 * derivatives. Here by occlusion: a token is replaced by random ones where it is read, and the self-influence is taken anew.
 */
import * as Effect from "effect/Effect"
import type { Batch } from "../Batch.ts"
import { batchOf, type Row } from "../data/stream/Packing.ts"
import { misfit } from "../data/stream/Rows.ts"
import { DataError } from "../Errors.ts"
import type { Device } from "../gpu/Device.ts"
import { Model } from "../model/Model.ts"
import type { Random } from "../Random.ts"
import type { SinkMode } from "../Sink.ts"
import { type InfluencePart, squaredNorm } from "./GradientMass.ts"
import { type GradientsError, makeGradients } from "./Gradients.ts"

/** The self-influence of a sequence, whole or without some of its tokens. */
export interface Occlusion {
  /** Of the sequence as it is. */
  readonly whole: number
  /**
   * When the tokens at these places are replaced by others, minus `whole`: the mean over draws. Places count from 0; the
   * last token is never read.
   */
  readonly without: (places: ReadonlyArray<number>, draw: Random) => Effect.Effect<number, GradientsError>
}

/** Which tokens are replaced, and what is measured then. */
export interface OcclusionOptions {
  readonly mode: SinkMode
  readonly seqLen: number
  /** Which weights self-influence is summed over. Default all. */
  readonly part?: InfluencePart
  /** Random tokens that are tried for each that is replaced: the baseline is the mean over them. Default 2. */
  readonly draws?: number
}

/** Tokens of a sequence that are read: all but the last. */
export const readTokens = ({ tokens }: Pick<Row, "tokens">): number => tokens.length - 1

/** The batch with other tokens at these places, each any but its own with equal probability; what must be said stays. */
export const occluded = (batch: Batch, places: ReadonlyArray<number>, vocabSize: number, draw: Random): Batch => {
  const tokens = batch.tokens.slice()
  for (const place of places) {
    const other = draw.below(vocabSize - 1)
    tokens[place] = other < tokens[place]! ? other : other + 1
  }
  return { ...batch, tokens }
}

/**
 * Does something with each sequence's self-influence (the squared norm of the gradient of its mean loss, as `selfInfluence`
 * of GradientMass has it), whole and without tokens, one sequence after the other. Tokens are replaced where they are read
 * and not where they must be said, as the authors mask the text and keep its label: else whatever is replaced would be
 * unexpected, and pull by itself.
 */
export const eachOcclusion = <A, E, R>(
  rows: ReadonlyArray<Row>,
  { draws = 2, mode, part = "all", seqLen }: OcclusionOptions,
  of: (occlusion: Occlusion, row: Row, index: number) => Effect.Effect<A, E, R>
): Effect.Effect<ReadonlyArray<A>, E | GradientsError, R | Model | Device> =>
  Effect.scoped(Effect.gen(function*() {
    const wrong = misfit(rows, seqLen)
    if (wrong !== undefined) return yield* new DataError({ detail: wrong })
    const { config } = yield* Model
    const gradients = yield* makeGradients({ rows: 1, seqLen })
    const influence = (batch: Batch) =>
      Effect.map(gradients.of(batch, mode), (found) => squaredNorm(config, found.gradients, part))
    return yield* Effect.forEach(rows, (row, index) =>
      Effect.gen(function*() {
        const batch = batchOf([row], seqLen)
        const whole = yield* influence(batch)
        const without: Occlusion["without"] = Effect.fnUntraced(function*(places, draw) {
          let sum = 0
          for (let i = 0; i < draws; i++) sum += yield* influence(occluded(batch, places, config.vocabSize, draw))
          return sum / draws - whole
        })
        return yield* of({ whole, without }, row, index)
      }))
  }))

/**
 * Attribution of a sequence's self-influence to each token that is read [tokens - 1]: by how much it rises when that one is
 * replaced. What is memorized pulls little at the weights, so the tokens that memory hangs on have the highest; a token
 * that alone makes a sequence pull has one below 0.
 */
export const tokenInfluence = (
  { without }: Occlusion,
  row: Row,
  draw: Random
): Effect.Effect<Float64Array, GradientsError> =>
  Effect.map(
    Effect.forEach(Array.from({ length: readTokens(row) }, (_, place) => place), (place) => without([place], draw)),
    (rises) => Float64Array.from(rises)
  )
