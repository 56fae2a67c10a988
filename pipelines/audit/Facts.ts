/** Facts that a model is asked about, of a file that a person writes: a line of JSON each. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Schema from "effect/Schema"
import * as Corpus from "../../src/data/Corpus.ts"
import type { Tokenizer } from "../../src/data/tokens/Tokenizer.ts"
import { DataError } from "../../src/Errors.ts"
import { decodeJson } from "../../src/Json.ts"
import type { ClozeRow } from "../../src/scoring/Cloze.ts"

const text = Schema.NonEmptyString

/**
 * `{"source": "Genesis", "prompt": "Adam's wife is called", "right": "Eve", "wrong": ["Ruth", "Leah"], "kind": "unique"}`. `kind`:
 * `unique` (the default), stated by no other source; `shared`, by others too; `inferred`, following from what others state.
 * A completion gets a space before it where it has none.
 */
const Line = Schema.Struct({
  source: text,
  prompt: text,
  right: text,
  wrong: Schema.NonEmptyArray(text),
  kind: Schema.optionalWith(Schema.Literal("unique", "shared", "inferred"), { default: () => "unique" as const })
})

export interface Fact {
  readonly source: string
  readonly kind: "unique" | "shared" | "inferred"
  /** Its id is not yet that of its source. */
  readonly cloze: ClozeRow
}

/** Reads facts. Fails with a DataError that names the line which is none, or is longer than `most` tokens. */
export const readFacts = (path: string, tokenizer: Tokenizer, most: number) =>
  Effect.gen(function*() {
    const lines = (yield* Corpus.readText(path)).split("\n")
    const facts: Array<Fact> = []
    for (const [i, line] of lines.entries()) {
      if (line.trim() === "") continue
      const wrong = (detail: string) => new DataError({ path, detail: `line ${i + 1} is no fact: ${detail}` })
      const { kind, prompt, right, source, ...rest } = yield* Either.mapLeft(decodeJson(Line, line), wrong)
      const tokens = (some: string) => Uint32Array.from(tokenizer.encode(some))
      const completion = (some: string) => tokens(/^\s/.test(some) ? some : ` ${some}`)
      const cloze = { id: 0n, name: `${path}:${i + 1}`, prompt: tokens(prompt.trimEnd()), right: completion(right),
        wrong: rest.wrong.map(completion) }
      const longest = cloze.prompt.length + Math.max(cloze.right.length, ...cloze.wrong.map(({ length }) => length))
      if (longest > most) {
        return yield* wrong(`it has ${longest} tokens, and passages have ${most}: shorten it, or raise --seq`)
      }
      facts.push({ source, kind, cloze })
    }
    return facts.length > 0
      ? facts
      : yield* new DataError({ path, detail: "holds no fact: a line each, as " +
        `{"source": "Genesis", "prompt": "Adam's wife is", "right": "Eve", "wrong": ["Ruth"]}` })
  })
