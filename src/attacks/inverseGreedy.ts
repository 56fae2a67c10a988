/** Inverse greedy decoding: what a model was made to find the least likely may be what it was to forget. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { configuration } from "../Config.ts"
import { copy } from "../measures/TextMetrics.ts"
import { Model } from "../model/Model.ts"
import { recordRows } from "../scoring/Record.ts"
import type { Attack } from "./Attack.ts"
import { ask, sayRest, windowFields, windowOf, windowProblem } from "./Say.ts"

/** Options of `inverseGreedy`. */
export class InverseGreedyOptions
  extends configuration(Schema.Class<InverseGreedyOptions>("InverseGreedyOptions")(windowFields))
{}

export const inverseGreedy: Attack<InverseGreedyOptions> = {
  name: "inverseGreedy",
  title: "inverse greedy decoding",
  paper: "Hu et al. 2026",
  version: 1,
  options: InverseGreedyOptions,
  metrics: () => ({
    last: { title: "share of true tokens that are the least likely after the true ones before", unit: "share",
      memory: "higher" },
    exact: { title: "said exactly by the least likely token each", unit: "share", memory: "higher" },
    matched: { title: "share of places with the true token, by the least likely each", unit: "share",
      memory: "higher" },
    rougeL: { title: "ROUGE-L F1 of what the least likely tokens say", unit: "share", memory: "higher" }
  }),
  problem: windowProblem,
  run: (problem, options) =>
    Effect.gen(function*() {
      const model = yield* Model
      const { batchSize, mode, rows, seqLen } = problem
      const window = windowOf(options, seqLen)
      const asked = ask(rows, window)
      const texts = yield* sayRest(asked, problem, { inverse: true })
      const copies = texts.map((text, i) => copy(text, asked[i]!.truth))
      const scored = rows.filter(({ tokens }) => tokens.length > window.context).map((row) => ({
        ...row,
        tokens: row.tokens.subarray(0, window.context + window.length),
        scoredFrom: window.context
      }))
      const { rank, start } = yield* recordRows(model, scored, mode, { batchSize, seqLen, split: "", schemes: [] })
      return {
        exact: copies.map(({ exact }) => exact ? 1 : 0),
        matched: copies.map(({ matched }) => matched),
        rougeL: copies.map(({ rougeL }) => rougeL),
        last: scored.map((_, s) => {
          const ranks = rank.subarray(start[s], start[s + 1])
          return ranks.filter((one) => one === model.config.vocabSize - 1).length / ranks.length
        })
      }
    })
}
