/** On which of its tokens a sequence's self-influence hangs, and whether it is few of them. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { configuration, positive, withDefault } from "../Config.ts"
import { eachOcclusion, readTokens, tokenInfluence as influenceOf } from "../inside/TokenInfluence.ts"
import { mean } from "../measures/Statistics.ts"
import { random } from "../Random.ts"
import type { Attack } from "./Attack.ts"

/** Options of `tokenInfluence`. */
export class TokenInfluenceOptions extends configuration(Schema.Class<TokenInfluenceOptions>("TokenInfluenceOptions")({
  /** Over all weights, exactly, or over those of the last block, the final norm and an untied head. Default all. */
  part: withDefault(Schema.Literal("all", "last"), () => "all" as const),
  /** Share of the tokens that are replaced together: those of the highest attribution, or random ones. Default 0.1. */
  share: withDefault(Schema.Number.pipe(Schema.greaterThan(0), Schema.lessThan(1)), () => 0.1),
  /** Random tokens that each is replaced by: the baseline is the mean over them. Default 2. */
  draws: withDefault(positive, () => 2),
  /** Sets of random places beside the highest. Default 2. */
  sets: withDefault(positive, () => 2)
})) {}

/** The places of the `count` highest values, the first of equal ones first. */
export const highest = (values: ArrayLike<number>, count: number): ReadonlyArray<number> =>
  Array.from(values, (value, place) => ({ value, place })).sort((a, b) => b.value - a.value || a.place - b.place)
    .slice(0, count).map(({ place }) => place)

export const tokenInfluence: Attack<TokenInfluenceOptions> = {
  name: "tokenInfluence",
  title: "tokens of self-influence",
  paper: "Zheng and Jiang 2022, by occlusion",
  version: 1,
  options: TokenInfluenceOptions,
  metrics: ({ share }) => {
    const tokens = `${Number((share * 100).toPrecision(3))} % of the tokens`
    return {
      top: {
        title: `logarithm of how many times a sequence's self-influence is without the ${tokens} that it hangs on most`,
        unit: "ratio",
        memory: "higher",
        signed: true
      },
      random: { title: "the same without as many random tokens", unit: "ratio", memory: "higher", signed: true },
      contrast: { title: "the first minus the second", unit: "ratio", memory: "higher", signed: true }
    }
  },
  run: ({ mode, rows, seed, seqLen }, { draws, part, sets, share }) =>
    Effect.gen(function*() {
      const found = yield* eachOcclusion(rows, { draws, mode, part, seqLen }, (occlusion, row, s) =>
        Effect.gen(function*() {
          const tokens = readTokens(row)
          const count = Math.max(1, Math.round(share * tokens))
          const attribution = yield* influenceOf(occlusion, row, random(seed, "tokenInfluence", s))
          // other tokens than those by which the highest were chosen: else chance would choose itself
          const draw = random(seed, "tokenInfluence", s, "check")
          /** Of the self-influence without some; NaN of a sequence that does not pull at all. */
          const times = (places: ReadonlyArray<number>) =>
            Effect.map(occlusion.without(places, draw), (rise) =>
              occlusion.whole > 0 ? Math.log1p(rise / occlusion.whole) : NaN)
          const top = yield* times(highest(attribution, count))
          const chance = yield* Effect.forEach(Array.from({ length: sets }), () =>
            times(draw.shuffle(Array.from({ length: tokens }, (_, place) => place)).slice(0, count)))
          return { top, random: mean(chance) }
        }))
      return {
        top: found.map(({ top }) => top),
        random: found.map(({ random }) => random),
        contrast: found.map(({ random, top }) => top - random)
      }
    })
}
