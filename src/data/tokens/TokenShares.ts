/**
 * How the tokens are shared out among ids, and what follows for sinks. Pure.
 *
 * Sinks forget well where each is on for few of the tokens: what all data has in common is then learned by the neurons
 * that are always on. Where few ids carry many tokens, or the pool is small, sinks are on so often that they learn it
 * too, and switching them off takes it away.
 */
import { count } from "../../Terminal.ts"

/** How concentrated the tokens are. */
export interface TokenShares {
  readonly ids: number
  /** 1 / sum of squared shares: as many ids with equal shares would be as concentrated. */
  readonly effectiveIds: number
  /** The id with most tokens, and its share of all. */
  readonly largest: { readonly id: string; readonly name: string; readonly share: number } | null
}

/** What sinks mean at such shares. */
export interface SinkExposure {
  /** Share of all tokens for which a token's own sinks are on, mean over tokens; 1: they are general neurons. */
  readonly onFor: number
  /** Share of the neurons on for a token that are sinks. */
  readonly sinkShare: number
  /** Their product: above `SOME` switching sinks off costs, above `MUCH` it costs much. */
  readonly exposure: number
}

/** From pipelines/results/sinks-by-source.md: below it sinks off cost .01 nats or less, above it .02 to .1. */
export const SOME = 0.06
/** Twice the exposure of the runs that cost .1 nats; runs above it cost .7 and 2.3. */
export const MUCH = 0.15

/** Sums up the tokens of ids, one after the other. */
export const tokenShares = (
  each: (use: (id: bigint, tokens: number, name: () => string) => void) => void
): TokenShares => {
  let [ids, total, squares, most] = [0, 0, 0, 0]
  let largest: { readonly id: bigint; readonly name: () => string } | undefined
  each((id, tokens, name) => {
    ids++
    total += tokens
    squares += tokens * tokens
    if (tokens > most) [most, largest] = [tokens, { id, name }]
  })
  return {
    ids,
    effectiveIds: squares === 0 ? ids : total * total / squares,
    largest: largest === undefined ? null : { id: `${largest.id}`, name: largest.name(), share: most / total }
  }
}

/** What a pool means for them: `general` neurons are always on, an id lights `active` of `pool` sinks. */
export const sinkExposure = (
  { effectiveIds }: TokenShares,
  { active, general, pool }: { readonly active: number; readonly general: number; readonly pool: number }
): SinkExposure => {
  // two tokens are of one id with probability 1 / effective ids, and else share active / pool of their sinks
  const same = 1 / Math.max(1, effectiveIds)
  const onFor = same + (1 - same) * active / pool
  const sinkShare = active / (general + active)
  return { onFor, sinkShare, exposure: onFor * sinkShare }
}

const percent = (share: number): string => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`

/** In lines: what is there, and where it will cost, what helps. */
export const exposureLines = (
  shares: TokenShares,
  sinks: { readonly active: number; readonly general: number; readonly pool: number } | undefined
): ReadonlyArray<string> => {
  const { effectiveIds, ids, largest } = shares
  if (largest === null) return []
  const even = effectiveIds < 10 ? effectiveIds.toFixed(1) : count(effectiveIds)
  const lines = [
    `tokens by id: ${count(ids)} ${ids === 1 ? "id" : "ids"} as concentrated as ${even} equal ones; the largest, ` +
    `${largest.name}, has ${percent(largest.share)}`
  ]
  if (sinks === undefined) return lines
  const { exposure, onFor, sinkShare } = sinkExposure(shares, sinks)
  lines.push(
    `  of ${count(sinks.general + sinks.active)} neurons on for a token ${count(sinks.active)} are sinks ` +
      `(${percent(sinkShare)}); on average its sinks are on for ${percent(onFor)} of all tokens`
  )
  if (exposure < SOME) return lines
  const small = sinks.active / sinks.pool > 1 / Math.max(1, effectiveIds)
  lines.push(
    `  ${
      exposure < MUCH ? "warning: sinks learn some" : "warning: sinks will learn much"
    } of what all data has in common, ` +
      "and switching them off takes it away:",
    exposure < MUCH
      ? "  small models so lost .02 to .1 nats a token held out (pipelines/results/sinks-by-source.md)"
      : "  small models so lost .7 nats a token held out and more (pipelines/results/sinks-by-source.md)",
    "  what helps: " + [
      ...(small ? ["a larger sinks.pool"] : []),
      "fewer sinks.active",
      ...(1 / effectiveIds > sinks.active / sinks.pool || largest.share >= 0.2
        ? ["ids that stand for less: identity document or row, or a large source split into several"]
        : [])
    ].join("; ")
  )
  return lines
}
