/** Near-verbatim recall of sources: how much of each comes back in long spans that a slip does not end. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { configuration, fraction, natural, positive, withDefault } from "../Config.ts"
import { bookRounds, nearVerbatim, type Round } from "../measures/NearVerbatim.ts"
import type { Attack } from "./Attack.ts"
import { ask, sayRest, windowFields, windowOf, windowProblem } from "./Say.ts"

const RoundConfig = Schema.Struct({
  /** Words between two blocks that are joined, at most. */
  gap: natural,
  /** By how many words the gap in the source and that in the text may differ. */
  drift: natural,
  /** Equal words that a block needs to be kept. */
  length: positive
})

/** Options of `nvRecall`. */
export class NvRecallOptions extends configuration(Schema.Class<NvRecallOptions>("NvRecallOptions")({
  ...windowFields,
  /** Rounds of joining blocks and dropping short ones. Default: the authors', for books: gap 2, drift 1, length 20; 10, 3, 100. */
  rounds: withDefault(Schema.NonEmptyArray(RoundConfig), () => bookRounds as readonly [Round, ...ReadonlyArray<Round>]),
  /** No block needs more equal words than this share of what is asked of its source, for sources shorter than books. Default 0.5. */
  share: withDefault(fraction, () => 0.5),
  /** What is looked for as a whole: all sequences of a source, or each sequence. Default: source. */
  of: Schema.optional(Schema.Literal("source", "sequence"))
})) {}

const wordsOf = (text: string): ReadonlyArray<string> => text.split(/\s+/).filter((word) => word !== "")

export const nvRecall: Attack<NvRecallOptions> = {
  name: "nvRecall",
  title: "near-verbatim recall of sources",
  paper: "Ahmed et al. 2026",
  version: 1,
  options: NvRecallOptions,
  metrics: () => ({
    recall: {
      title: "share of a source that comes back in near-verbatim blocks, each sequence asked for by its beginning",
      unit: "share",
      memory: "higher"
    },
    longest: { title: "the longest such block of a source, in words, of tokens alone in tokens", unit: "tokens",
      memory: "higher" }
  }),
  problem: windowProblem,
  run: (problem, options) =>
    Effect.gen(function*() {
      const window = windowOf(options, problem.seqLen)
      // the sequences of a source, in its order
      const rows = options.of === "sequence" ?
        problem.rows :
        [...problem.rows].sort((a, b) =>
          a.document < b.document ? -1 : a.document > b.document ? 1 : a.offset - b.offset
        )
      const asked = ask(rows, window)
      const texts = yield* sayRest(asked, problem)
      const items = (tokens: Uint32Array): ReadonlyArray<string | number> =>
        problem.tokenizer === undefined ? [...tokens] : wordsOf(problem.tokenizer.decode(tokens))
      const sources = new Map<bigint | number,
        { readonly truth: Array<string | number>; readonly said: Array<string | number> }>()
      asked.forEach(({ id, truth }, i) => {
        const whole = options.of === "sequence" ? i : id
        const source = sources.get(whole) ?? { truth: [], said: [] }
        sources.set(whole, source)
        source.truth.push(...items(truth))
        source.said.push(...items(texts[i]!))
      })
      const found = [...sources.values()].map(({ said, truth }) => {
        const most = Math.max(1, Math.floor(options.share * truth.length))
        return nearVerbatim(truth, said,
          options.rounds.map((round) => ({ ...round, length: Math.min(round.length, most) })))
      })
      return { recall: found.map(({ recall }) => recall), longest: found.map(({ longest }) => longest) }
    })
}
