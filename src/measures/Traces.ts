/**
 * Traces: what was measured of a model while it trained, as rows of tables that DuckDB, pandas or polars read.
 *
 * Two tables: probes, a row for each sequence in each mask state at each probed step; and quantities, a row for any other
 * number (norms of weights, shares of logits, products of gradients). Times are optimizer steps taken.
 */

/** How well a model knew a sequence at a step. */
export interface ProbeRow {
  /** Steps taken when it was probed. */
  readonly step: number
  /** Name of the sequence: its document and where in it. */
  readonly sequence: string
  /** The id whose sinks it lights. */
  readonly id: bigint
  /** Sequences of a group are shown alike: `sawtooth`, `k=48`, `foils`, ... */
  readonly group: string
  /** Which sinks were on: `own`, `off`, `placebo`, `all`. */
  readonly mask: string
  /** How often it had been shown. */
  readonly exposures: number
  /** Steps since it was shown last: 0 just after the step that showed it; -1: never shown. */
  readonly since: number
  /** Mean negative log-likelihood, nats a scored token. */
  readonly loss: number
  /** Mean of log(1 + rank) over scored tokens, 0 where every token is the likeliest. */
  readonly logRank: number
  /** Share of the tokens after the prompt that are the likeliest, given the true ones before them. */
  readonly recall: number
  /** Tokens right in a row, directly after the prompt. */
  readonly run: number
  /** Scored tokens after the prompt; `run` of as many is a verbatim recitation. */
  readonly suffix: number
}

/** Any other number, and what it is of; empty texts and -1 where a row has no such thing. */
export interface QuantityRow {
  readonly step: number
  /** `weight`, `update`, `logit`, `cosine`, `predicted`, `observed`, ... */
  readonly quantity: string
  readonly layer: number
  /** `embedding`, `attention`, `general`, `sinks`, `all`. */
  readonly part: string
  readonly sequence: string
  readonly group: string
  readonly mask: string
  readonly value: number
}
