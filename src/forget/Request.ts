/**
 * Who is to be forgotten: requests by name, by the beginning of names, or by id, a few of them or a file of thousands, and the
 * ids of the model that they mean.
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { parseId } from "../Batch.ts"
import { csvFields } from "../Csv.ts"
import type { NamedId, Names } from "../data/identity/Names.ts"
import { DataError } from "../Errors.ts"
import { isObject, parseJson } from "../Json.ts"
import { count } from "../Terminal.ts"

/** What a request names somebody by. */
export const fields = ["source", "prefix", "id"] as const
export type Field = typeof fields[number]

/** One that is asked for. */
export interface Request {
  /** `source`: the whole name of what an id stands for; `prefix`: the beginning of any number of them; `id`: a number. */
  readonly by: Field
  readonly value: string
  /** What whoever asked calls it, such as the number of a ticket. */
  readonly reference?: string
}

/** Somebody who is to be forgotten, and the requests that ask for it, as places in their list. */
export interface Resolved extends NamedId {
  readonly requests: ReadonlyArray<number>
}

/** The fields of a line of CSV, or what is wrong with it. */
const fieldsOf = (line: string): Either.Either<ReadonlyArray<string>, string> => {
  const found = csvFields(line)
  return typeof found === "string" ? Either.left(found) : Either.right(found)
}

const requestOf = (given: Readonly<Record<string, unknown>>): Either.Either<Request, string> => {
  const named = fields.filter((field) => given[field] !== undefined && given[field] !== "")
  const unknown = Object.keys(given).find((key) =>
    key !== "reference" && !(fields as ReadonlyArray<string>).includes(key)
  )
  if (unknown !== undefined) {
    return Either.left(`has the field ${JSON.stringify(unknown)}; known: ${fields.join(", ")}, reference`)
  }
  const [by, more] = named
  if (by === undefined || more !== undefined) {
    return Either.left(
      `must have exactly one of ${fields.join(", ")}, got ${named.length === 0 ? "none" : named.join(", ")}`
    )
  }
  const { [by]: value, reference } = given
  if (typeof value !== "string") {
    return Either.left(
      `has ${by === "id" ? "an" : "a"} ${by} that is no text${
        by === "id" ? ": write ids as texts, JSON's numbers are rounded" : ""
      }`
    )
  }
  if (reference !== undefined && typeof reference !== "string") return Either.left("has a reference that is no text")
  return Either.right({ by, value, ...(reference === undefined || reference === "" ? {} : { reference }) })
}

/**
 * Requests out of a file: JSON Lines of `{"source": ..., "reference": ...}` (or `prefix`, `id`), or CSV with these names in
 * its first line (`path` ends with .csv). Fails with a DataError that names the line; also for a file without a request.
 */
export const parseRequests = (text: string, path: string): Effect.Effect<ReadonlyArray<Request>, DataError> =>
  Effect.gen(function*() {
    const wrong = (line: number, detail: string) => new DataError({ path, detail: `line ${line + 1} ${detail}` })
    const lines = text.replace(/^\uFEFF/, "").split(/\r?\n/).map((line, at) => ({ line, at }))
      .filter(({ line }) => line.trim() !== "")
    const csv = /\.csv$/i.test(path)
    const [head, ...rows] = lines
    const names = csv && head !== undefined
      ? (yield* Either.mapLeft(fieldsOf(head.line), (detail) => wrong(head.at, detail))).map((name) => name.trim())
      : []
    const requests = yield* Effect.forEach(csv ? rows : lines, ({ at, line }) =>
      Either.gen(function*() {
        if (!csv) {
          const value = yield* Either.mapLeft(parseJson(line), (detail) => wrong(at, `is no request: it ${detail}`))
          if (!isObject(value)) return yield* Either.left(wrong(at, "is no request: it is no JSON object"))
          return yield* Either.mapLeft(requestOf(value), (detail) => wrong(at, detail))
        }
        const values = yield* Either.mapLeft(fieldsOf(line), (detail) => wrong(at, detail))
        if (values.length !== names.length) {
          const detail = `has ${values.length} fields, the first line names ${names.length}`
          return yield* Either.left(wrong(at, detail))
        }
        return yield* Either.mapLeft(requestOf(Object.fromEntries(names.map((name, i) => [name, values[i]!]))),
          (detail) => wrong(at, detail))
      }))
    if (requests.length > 0) return requests
    return yield* new DataError({
      path,
      detail: `holds no request: write one a line, ${
        csv
          ? "with source, prefix or id in the first line"
          : "such as {\"source\": \"Genesis\", \"reference\": \"ticket 7\"}"
      }`
    })
  })

/** What is not known is told of so many at most. */
const TOLD = 5

/**
 * The ids that requests mean, rising, each once. Fails with a DataError for any that the model was not trained with, since
 * their deletion would silently not happen, and for requests that leave nobody: that is another model, not a deletion.
 */
export const resolve = (
  requests: ReadonlyArray<Request>,
  names: Names
): Effect.Effect<ReadonlyArray<Resolved>, DataError> =>
  Effect.gen(function*() {
    const found = new Map<bigint, { readonly one: NamedId; readonly requests: Array<number> }>()
    const add = (one: NamedId, request: number) => {
      const known = found.get(one.id)
      if (known === undefined) found.set(one.id, { one, requests: [request] })
      else if (known.requests.at(-1) !== request) known.requests.push(request)
    }
    const unknown: Array<{ readonly request: Request; readonly detail: string }> = []
    const prefixes = requests.flatMap(({ by, value }, i) => by === "prefix" ? [{ value, i, met: false }] : [])
    if (prefixes.length > 0) {
      yield* names.each((one) => {
        for (const prefix of prefixes) {
          if (prefix.value === "" || !one.name.startsWith(prefix.value)) continue
          prefix.met = true
          add(one, prefix.i)
        }
      })
      for (const { i, met } of prefixes) {
        if (!met) unknown.push({ request: requests[i]!, detail: "no name begins with it" })
      }
    }
    for (const [i, request] of requests.entries()) {
      if (request.by === "prefix") continue
      const number = request.by === "id" ? parseId(request.value) : undefined
      if (request.by === "id" && number === undefined) {
        unknown.push({ request, detail: "it is no id: a whole number below 2^64" })
        continue
      }
      const one = yield* number === undefined ? names.find(request.value) : names.get(number)
      if (one !== undefined) add(one, i)
      else if (unknown.length >= TOLD || number !== undefined) unknown.push({ request, detail: "there is none" })
      else {
        const near = yield* names.nearest(request.value)
        unknown.push({ request,
          detail: near === undefined ? "there is none" : `did you mean ${JSON.stringify(near)}?` })
      }
    }
    if (unknown.length > 0) {
      return yield* new DataError({
        detail:
          `the model was not trained with ${count(unknown.length)} of the ${
            count(requests.length)
          } to be forgotten, and nothing was done:\n` +
          unknown.slice(0, TOLD).map(({ detail, request: { by, value } }) =>
            `  ${by} ${JSON.stringify(value)}: ${detail}`
          ).join("\n") +
          (unknown.length > TOLD ? `\n  and ${count(unknown.length - TOLD)} more` : "")
      })
    }
    const resolved = [...found.values()].map(({ one, requests }) => ({ ...one, requests }))
      .sort((a, b) => (a.id < b.id ? -1 : 1))
    if (resolved.length >= names.count) {
      return yield* new DataError({
        detail:
          `these requests would delete all ${count(names.count)} ids of the model, and nobody's sinks would be left: ` +
          "to use it without any sinks, switch them off, as by memsinks export --sinks off"
      })
    }
    return resolved
  })
