/**
 * The one scoring loop: sequences through a Model, a batch at a time, and what comes of each. Everything that reports a
 * loss, an accuracy or a rate of verbatim extraction sums these, by one rule: means are over scored tokens, and a sequence
 * that ends before its suffix begins is not counted in a rate. What is a mean of nothing is undefined.
 */
import * as Effect from "effect/Effect"
import { type Batch, IGNORE } from "../Batch.ts"
import { batchOf, type Row } from "../data/stream/Packing.ts"
import { chunked, misfit } from "../data/stream/Rows.ts"
import { DataError, type DeviceError, type KernelError } from "../Errors.ts"
import type { ModelService, Scores } from "../model/Model.ts"
import type { SinkMode } from "../Sink.ts"

/** What a model makes of a sequence. */
export interface RowScore {
  /** Its scored tokens, and the sum of their losses in nats. */
  readonly tokens: number
  readonly loss: number
  /** The sum of the losses of those that are text: all but the `silent` ones. */
  readonly textLoss: number
  /** Scored tokens that greedy decoding predicts. */
  readonly hits: number
  /** Sum over scored tokens of log(1 + rank). */
  readonly logRank: number
  /** Scored tokens behind the prompt, those of them that greedy decoding predicts, and those before the first it does not. */
  readonly suffix: number
  readonly suffixHits: number
  readonly run: number
}

export interface ScoreOptions {
  /** Sequences of every pass; the last is filled up. */
  readonly batchSize: number
  /** Tokens of a row; sequences have at most one more. */
  readonly seqLen: number
  /** Tokens of a sequence that are given; the suffix is behind them. Default 0: all scored tokens. */
  readonly promptTokens?: number
  /** Tokens that stand for no text, as special tokens do. Default: none. */
  readonly silent?: ReadonlySet<number>
}

/** Scored tokens in the rows [from, to) of a batch, and the sum of their losses. */
export const sumOf = (loss: ArrayLike<number>, { seqLen, targets }: Batch, from: number, to: number) => {
  let [sum, tokens] = [0, 0]
  for (let t = from * seqLen; t < to * seqLen; t++) {
    if (targets[t] === IGNORE) continue
    sum += loss[t]!
    tokens++
  }
  return { sum, tokens }
}

/** The scores of a batch's rows, of one sequence each. */
export const rowScores = (
  batch: Batch,
  { loss, rank }: Scores,
  rows = batch.rows,
  promptTokens = 0,
  silent?: ReadonlySet<number>
): ReadonlyArray<RowScore> =>
  Array.from({ length: rows }, (_, r) => {
    const { sum, tokens } = sumOf(loss, batch, r, r + 1)
    let [textLoss, hits, logRank, suffix, suffixHits, run] = [0, 0, 0, 0, 0, 0]
    for (let t = r * batch.seqLen; t < (r + 1) * batch.seqLen; t++) {
      if (batch.targets[t] === IGNORE) continue
      if (silent?.has(batch.targets[t]!) !== true) textLoss += loss[t]!
      logRank += Math.log1p(rank[t]!)
      const hit = rank[t] === 0
      if (hit) hits++
      // the target of place t is the sequence's next token
      if (t - r * batch.seqLen + 1 < promptTokens) continue
      if (hit) suffixHits++
      if (hit && run === suffix) run++
      suffix++
    }
    return { tokens, loss: sum, textLoss, hits, logRank, suffix, suffixHits, run }
  })

/**
 * The scores of sequences with the sinks in a mode, in their order. Fails with a DataError for a sequence that does not
 * fit into rows or has nothing to score, and for one whose loss is not a number (see `ModelService.evaluate`).
 */
export const scoreRows = (
  model: Pick<ModelService, "evaluate">,
  rows: ReadonlyArray<Row>,
  mode: SinkMode,
  { batchSize, promptTokens, seqLen, silent }: ScoreOptions
): Effect.Effect<ReadonlyArray<RowScore>, DataError | DeviceError | KernelError> =>
  Effect.gen(function*() {
    const wrong = misfit(rows, seqLen)
    if (wrong !== undefined) return yield* new DataError({ detail: wrong })
    const all: Array<RowScore> = []
    for (const { chunk, full } of chunked(rows, batchSize)) {
      const batch = batchOf(full, seqLen)
      all.push(...rowScores(batch, yield* model.evaluate(batch, mode), chunk.length, promptTokens, silent))
    }
    return all
  })

/** Scores of several sequences together. */
export interface ScoreSummary {
  /** Scored tokens. */
  readonly tokens: number
  /** Mean negative log-likelihood in nats a scored token. */
  readonly loss: number
  /** Share of scored tokens that greedy decoding predicts. */
  readonly accuracy: number
  /**
   * Share of the sequences with a suffix whose suffix greedy decoding predicts token by token: verbatim extraction.
   * Undefined where no sequence has one.
   */
  readonly extractionRate: number | undefined
}

/** The summary of scores; undefined of none. */
export const summarize = (scores: ReadonlyArray<RowScore>): ScoreSummary | undefined => {
  const sum = (of: (score: RowScore) => number): number => scores.reduce((all, score) => all + of(score), 0)
  const tokens = sum((score) => score.tokens)
  if (tokens === 0) return undefined
  const long = scores.filter(({ suffix }) => suffix > 0)
  return {
    tokens,
    loss: sum(({ loss }) => loss) / tokens,
    accuracy: sum(({ hits }) => hits) / tokens,
    extractionRate: long.length === 0
      ? undefined
      : long.filter(({ run, suffix }) => run === suffix).length / long.length
  }
}
