/** Prefixes in another style, which a filter of verbatim copies does not know; what is said is brought back and compared. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { configuration, positive, withDefault } from "../Config.ts"
import { type StyleName, styles as known } from "../measures/Styles.ts"
import { normalizedEditDistance } from "../measures/TextMetrics.ts"
import { Model } from "../model/Model.ts"
import type { Attack, AttackMetric } from "./Attack.ts"
import { ask, say, windowFields, windowOf, windowProblem } from "./Say.ts"

const names = Object.keys(known) as ReadonlyArray<StyleName> as readonly [StyleName, ...Array<StyleName>]

/** Options of `styles`. */
export class StylesOptions extends configuration(Schema.Class<StylesOptions>("StylesOptions")({
  ...windowFields,
  /** Which are tried. Default: all. */
  styles: withDefault(Schema.NonEmptyArray(Schema.Literal(...names)), () => names),
  /** A styled text may take so many times the tokens of the plain one: as many are said before it is compared. Default 3. */
  stretch: withDefault(positive, () => 3)
})) {}

/** How near a text is to the truth, in characters of it. */
const compare = (said: string, truth: string) => {
  const text = said.slice(0, truth.length)
  return { exact: text === truth ? 1 : 0, similarity: 1 - normalizedEditDistance([...text], [...truth]) }
}

const plain = { title: "as it is", apply: (text: string) => text, undo: (text: string) => text }

export const styles: Attack<StylesOptions> = {
  name: "styles",
  title: "style of the prompt",
  paper: "Ippolito et al. 2023",
  version: 1,
  needsText: true,
  options: StylesOptions,
  metrics: ({ styles }) => ({
    "exact@any": { title: "said exactly in one of the styles at least", unit: "share", memory: "higher" },
    ...Object.fromEntries((["plain", ...styles] as const).flatMap((name): ReadonlyArray<[string, AttackMetric]> => {
      const { title } = name === "plain" ? plain : known[name]
      return [
        [`exact@${name}`, { title: `said exactly but for the style, prompted in ${title}`, unit: "share",
          memory: "higher" }],
        [`similarity@${name}`, { title: `1 - edit distance of characters, prompted in ${title}`, unit: "share",
          memory: "higher" }]
      ]
    }))
  }),
  problem: windowProblem,
  run: (problem, options) =>
    Effect.gen(function*() {
      const { config } = yield* Model
      const tokenizer = problem.tokenizer!
      const asked = ask(problem.rows, windowOf(options, problem.seqLen))
      const found: Record<string, ReadonlyArray<number>> = {}
      for (const name of ["plain", ...options.styles] as const) {
        const style = name === "plain" ? plain : known[name]
        const texts = yield* say(
          asked.map(({ given, id, truth }) => {
            const text = tokenizer.encode(style.apply(tokenizer.decode(given)))
            // special tokens may be no text
            const styled = text.length === 0 ? given : text
            // where a model has no positions for all of it: the end of the prompt, and at least as much as is true
            const positions = config.maxPositionEmbeddings + 1
            const tokens = styled.slice(Math.max(0, styled.length - Math.max(1, positions - truth.length)))
            const room = positions - tokens.length
            return { id, tokens, length: Math.min(options.stretch * truth.length, room) }
          }),
          problem
        )
        const scores = texts.map((text, i) =>
          compare(style.undo(tokenizer.decode(text)), style.undo(tokenizer.decode(asked[i]!.truth)))
        )
        found[`exact@${name}`] = scores.map(({ exact }) => exact)
        found[`similarity@${name}`] = scores.map(({ similarity }) => similarity)
      }
      return { ...found,
        "exact@any": asked.map((_, i) => Math.max(...options.styles.map((name) => found[`exact@${name}`]![i]!))) }
    })
}
