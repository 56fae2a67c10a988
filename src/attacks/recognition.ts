/** Recognition: whether a model prefers a sequence that it saw to one that says the same, or nearly, in other words. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { configuration, withDefault } from "../Config.ts"
import { sequenceName } from "../data/stream/Packing.ts"
import { attempt, DataError } from "../Errors.ts"
import { checkFoils, FoilKind, foilOf, type FoilPair, foilPairs } from "../measures/Foils.ts"
import { recognition as recognized } from "../measures/Retention.ts"
import { Model } from "../model/Model.ts"
import { scoreRows } from "../scoring/Score.ts"
import type { Attack } from "./Attack.ts"

const Kind = Schema.Literal("unrelated", ...FoilKind.literals)
type Kind = typeof Kind.Type

/** Options of `recognition`. */
export class RecognitionOptions extends configuration(Schema.Class<RecognitionOptions>("RecognitionOptions")({
  /** What sequences are told apart from, see `Foils`; `unrelated`: others, never trained on. Default: all. */
  foils: withDefault(
    Schema.NonEmptyArray(Kind),
    () => Kind.literals
  )
})) {}

const titles: Readonly<Record<Kind, string>> = {
  unrelated: "an unrelated sequence",
  paraphrase: "its paraphrase by rule",
  synonyms: "itself with synonyms",
  scrambledWords: "its words in random order",
  scrambledLetters: "its words with letters in random order"
}

export const recognition: Attack<RecognitionOptions> = {
  name: "recognition",
  title: "recognition",
  paper: "Orhan 2023",
  version: 1,
  needsText: true,
  options: RecognitionOptions,
  metrics: ({ foils }) =>
    Object.fromEntries(foils.map((kind) => [
      kind,
      { title: `preferred to ${titles[kind]} (0.5: guessing)`, unit: "share", memory: "higher" }
    ])),
  problem: ({ foils }, { others, rows, texts }) => {
    if (foils.includes("unrelated") && others < 1) return "foils: unrelated needs sequences that were never trained on"
    const none = foils.find((kind) =>
      kind !== "unrelated" && texts !== undefined &&
      texts().every((text) => foilOf(text, kind, { cut: true }) === undefined)
    )
    return none === undefined ?
      undefined :
      `foils: of none of the ${rows} sequences is there ${titles[none]} that differs ` +
      `from it: leave ${none} out, or take longer sequences, or more`
  },
  run: ({ batchSize, mode, others, rows, seed, seqLen, tokenizer }, { foils }) =>
    Effect.gen(function*() {
      const model = yield* Model
      const found: Array<readonly [Kind, ReadonlyArray<number>]> = []
      for (const kind of foils) {
        const pairs = kind === "unrelated"
          // in the state of the sequence that it is set against
          ? rows.map((row, i): FoilPair => ({ row, foil: { ...others[i % others.length]!, id: row.id } }))
          : foilPairs(rows, kind, { seed, seqLen, tokenizer: tokenizer! })
        const there = pairs.filter((pair) => pair !== undefined)
        if (there.length === 0) {
          found.push([kind, pairs.map(() => NaN)])
          continue
        }
        const [originals, set] = [there.map(({ row }) => row), there.map(({ foil }) => foil)]
        yield* attempt(() => checkFoils(originals, set, ({ tokens }) => tokens.join(), sequenceName), DataError)
        const scores = yield* scoreRows(model, [...originals, ...set], mode, { batchSize, seqLen })
        const losses = scores.map(({ loss, tokens }) => loss / tokens)
        let at = 0
        found.push([
          kind,
          pairs.map((pair) => {
            if (pair === undefined) return NaN
            const value = recognized([losses[at]!], [losses[there.length + at]!])
            at++
            return value
          })
        ])
      }
      return Object.fromEntries(found)
    })
}
