/** How much a sequence still pulls at the weights: what is memorized pulls little. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { configuration, withDefault } from "../Config.ts"
import { selfInfluence as influenceOf } from "../inside/GradientMass.ts"
import { auc } from "../measures/Membership.ts"
import { mean } from "../measures/Statistics.ts"
import type { Attack } from "./Attack.ts"

/** Options of `selfInfluence`. */
export class SelfInfluenceOptions extends configuration(Schema.Class<SelfInfluenceOptions>("SelfInfluenceOptions")({
  /** Over all weights, exactly, or over those of the last block, the final norm and an untied head. Default all. */
  part: withDefault(Schema.Literal("all", "last"), () => "all" as const)
})) {}

export const selfInfluence: Attack<SelfInfluenceOptions> = {
  name: "selfInfluence",
  title: "self-influence",
  paper: "Pruthi et al. 2020, TracIn of the last checkpoint",
  version: 1,
  options: SelfInfluenceOptions,
  metrics: ({ part }) => ({
    auc: { title: `AUC of the squared norm of the gradient by ${part === "all" ? "all weights" : "the last ones"}, ` +
      "less of members", unit: "share", memory: "higher" },
    ratio: { title: "this norm over its mean of text never trained on", unit: "ratio", memory: "lower" }
  }),
  run: ({ mode, others, rows, seqLen }, { part }) =>
    Effect.gen(function*() {
      const of = (all: typeof rows) => influenceOf(all, { mode, part, seqLen })
      const [members, never] = yield* Effect.all([of(rows), of(others)])
      const usual = mean(never)
      return {
        auc: { value: auc(members.map((x) => -x), never.map((x) => -x)),
          sequences: Math.min(rows.length, others.length) },
        ratio: members.map((norm) => norm / usual)
      }
    })
}
