/**
 * Configuration is data: decoded once, strictly, and every problem is told at once.
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as ParseResult from "effect/ParseResult"
import * as Schema from "effect/Schema"
import * as AST from "effect/SchemaAST"
import { DataError } from "./Errors.ts"

/** Edits (insert, delete, replace a character) that turn one word into the other. */
const editDistance = (a: string, b: string): number => {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const replaced = previous[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1)
      row.push(Math.min(replaced, previous[j] + 1, row[j - 1] + 1))
    }
    previous = row
  }
  return previous[b.length]
}

/** The known word closest to `word`, or undefined when none is close enough to be what was meant. */
export const nearest = (word: string, known: ReadonlyArray<string>): string | undefined => {
  let best: string | undefined
  let bestDistance = Math.max(2, Math.floor(word.length / 3)) + 1
  for (const candidate of known) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase())
    if (distance < bestDistance) {
      best = candidate
      bestDistance = distance
    }
  }
  return best
}

/** The fields of a struct, of every struct in a union (an optional one is a union with undefined), or in a list. */
const fieldsOf = (ast: AST.AST): ReadonlyArray<AST.PropertySignature> =>
  AST.isUnion(ast)
    ? ast.types.flatMap(fieldsOf)
    : AST.isTupleType(ast)
    ? [...ast.elements, ...ast.rest].flatMap(({ type }) => fieldsOf(type))
    : AST.getPropertySignatures(ast)

/** The keys that an encoded value may have at `path`, empty where it is no struct. */
const keysAt = (ast: AST.AST, path: ReadonlyArray<PropertyKey>): ReadonlyArray<string> => {
  let fields = fieldsOf(AST.encodedAST(ast))
  for (const key of path) {
    // a place in a list holds what the list's items hold, which are found already
    if (typeof key === "number") continue
    fields = fields.filter(({ name }) => name === key).flatMap(({ type }) => fieldsOf(type))
  }
  return fields.map(({ name }) => String(name))
}

/** `a`, `a or b`, `a, b or c`. */
const alternatives = (words: ReadonlyArray<string>): string =>
  words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} or ${words.at(-1)}`

const problems = (ast: AST.AST, error: ParseResult.ParseError): ReadonlyArray<string> => {
  const byPath = new Map<string, Array<ParseResult.ArrayFormatterIssue>>()
  for (const issue of ParseResult.ArrayFormatter.formatErrorSync(error)) {
    const key = issue.path.map(String).join(".")
    byPath.set(key, [...(byPath.get(key) ?? []), issue])
  }
  return Array.from(byPath).flatMap(([key, issues]) => {
    const [{ _tag, path }] = issues
    const label = key === "" ? "" : `${key}: `
    // "Expected undefined" only says that the field could be left out: no advice for whoever has set it.
    const telling = issues.filter(({ message }) => !message.startsWith("Expected undefined, "))
    if (telling.length === 0) return []
    if (_tag === "Missing") return `${label}is missing`
    if (_tag === "Unexpected") {
      const known = keysAt(ast, path.slice(0, -1))
      const meant = nearest(String(path.at(-1)), known)
      const hint = meant === undefined ? `; known: ${known.join(", ")}` : `. Did you mean ${meant}?`
      return `${label}is not a known key${hint}`
    }
    // A union reports one issue per member: join "Expected A, actual X" and "Expected B, actual X" to one line.
    const parts = telling.map(({ message }) => /^Expected (.*), actual (.*)$/s.exec(message))
    if (parts.some((part) => part === null)) return `${label}${telling.map(({ message }) => message).join("; ")}`
    const expected = Array.from(new Set(parts.map((part) => part![1])))
    return `${label}expected ${alternatives(expected)}, got ${parts[0]![2]}`
  })
}

/**
 * Decodes a configuration. Fails with one `DataError` that lists every problem, a line each: unknown keys (with the
 * known key that was probably meant), missing ones, and values out of range.
 */
export const decodeConfig = <A, I>(schema: Schema.Schema<A, I>, input: unknown): Effect.Effect<A, DataError> => {
  const decoded = Schema.decodeUnknownEither(schema, { errors: "all", onExcessProperty: "error" })(input)
  if (Either.isRight(decoded)) return Effect.succeed(decoded.right)
  const lines = problems(schema.ast, decoded.left)
  const title = `the configuration has ${lines.length === 1 ? "a problem" : `${lines.length} problems`}`
  return Effect.fail(new DataError({ detail: [`${title}:`, ...lines.map((line) => `  ${line}`)].join("\n") }))
}
