/** How few of a sequence's own tokens, right before its end, suffice to have the end said greedily. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { configuration, positive, withDefault } from "../Config.ts"
import type { Row } from "../data/stream/Packing.ts"
import { Model } from "../model/Model.ts"
import { scoreRows } from "../scoring/Score.ts"
import type { Attack } from "./Attack.ts"

/** Options of `shortestContext`. */
export class ShortestContextOptions
  extends configuration(Schema.Class<ShortestContextOptions>("ShortestContextOptions")({
    /** Tokens at the end of a sequence that must be said. Default 8. */
    length: withDefault(positive, () => 8),
    /** Numbers of tokens before them that are tried, each alone. Default 1, 2, 4, 8. */
    contexts: withDefault(Schema.NonEmptyArray(positive), () => [1, 2, 4, 8] as const)
  }))
{}

/** The last tokens of a sequence after so many of its own. Greedy decoding says them where it predicts each of them. */
const endOf = (row: Row, context: number, length: number): Row => ({
  ...row,
  tokens: row.tokens.subarray(row.tokens.length - length - context),
  offset: row.offset + row.tokens.length - length - context,
  scoredFrom: context
})

/** The least context after which `said` is true, by sequence; NaN where there is none. */
export const shortest = (
  contexts: ReadonlyArray<number>,
  said: ReadonlyArray<ReadonlyArray<boolean>>
): Float64Array => {
  const order = contexts.map((context, i) => ({ context, i })).sort((a, b) => a.context - b.context)
  return Float64Array.from(said[0]!, (_, s) => order.find(({ i }) => said[i]![s]!)?.context ?? NaN)
}

export const shortestContext: Attack<ShortestContextOptions> = {
  name: "shortestContext",
  title: "shortest own context",
  paper: "Carlini et al. 2022, context length",
  version: 1,
  options: ShortestContextOptions,
  metrics: ({ contexts, length }) => ({
    found: { title: `last ${length} tokens said greedily after one of ${contexts.join(", ")} tokens before them`,
      unit: "share", memory: "higher" },
    tokens: { title: "the fewest of these tokens, where it was found", unit: "tokens", memory: "lower" }
  }),
  problem: ({ contexts, length }, { seqLen }) => {
    const most = Math.max(...contexts)
    return most + length <= seqLen + 1 ?
      undefined :
      `contexts of ${most} tokens and ${length} to be said are more than ` +
      `the ${seqLen + 1} of a sequence: shorten them, or raise the world's seqLen`
  },
  run: ({ batchSize, mode, rows }, { contexts, length }) =>
    Effect.gen(function*() {
      const model = yield* Model
      const said = yield* Effect.forEach(contexts, (context) => {
        const ends = rows.map((row) => endOf(row, context, length))
        return Effect.map(scoreRows(model, ends, mode, { batchSize, seqLen: context + length - 1 }),
          (scores) => scores.map(({ hits, tokens }) => hits === tokens))
      })
      const least = shortest(contexts, said)
      return { found: least.map((one) => Number.isNaN(one) ? 0 : 1), tokens: least }
    })
}
