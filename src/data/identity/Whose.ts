/** Whose sinks a line of a file, or an option, asks for: by the number or name of an id, or by the name of a source alone. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { parseId } from "../../Batch.ts"
import { DataError } from "../../Errors.ts"
import type { Json } from "../../Json.ts"
import { type Names, resolveId } from "./Names.ts"

export type Whose = { readonly id: string } | { readonly source: string }

/** The fields `id` and `source` of a line, of which it has one at most. Left says what is wrong with them. */
export const whoseOf = ({ id, source }: Json): Either.Either<Whose | undefined, string> => {
  if (id !== undefined && source !== undefined) return Either.left("has both an id and a source")
  if (source !== undefined) {
    return typeof source === "string" ? Either.right({ source }) : Either.left("has a source that is no text")
  }
  if (typeof id === "number"
    ? !Number.isSafeInteger(id) || parseId(`${id}`) === undefined
    : id !== undefined && typeof id !== "string")
  {
    return Either.left(
      `has the id ${JSON.stringify(id)}, which is no whole number (write large ones as a text) and no name`
    )
  }
  return Either.right(id === undefined ? undefined : { id: `${id}` })
}

/** The id that was asked for. Fails where the model was not trained with it. */
export const resolveWhose = (whose: Whose, names: Names | undefined) =>
  Effect.gen(function*() {
    if ("id" in whose) return yield* resolveId(whose.id, names)
    if (names !== undefined && names.identity !== "source" && (yield* names.find(whose.source)) === undefined) {
      const [one] = yield* names.largest(1)
      return yield* new DataError({
        detail:
          `an id of this model stands for a ${names.identity}, not for a source: name one with --id <number or name>` +
          (one === undefined ? "" : `, such as --id ${JSON.stringify(one.name)}`)
      })
    }
    return yield* resolveId(whose.source, names, "name")
  })
