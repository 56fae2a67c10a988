/** JSON as it comes from a file or a server: nothing is believed of it before a schema has decoded it. */
import * as Either from "effect/Either"
import type * as Schema from "effect/Schema"
import { decodeWith } from "./Config.ts"
import { shown } from "./Paths.ts"

/** JSON whose shape is not known yet. */
export type Json = Readonly<Record<string, unknown>>

/** An object, which neither a list nor null is. */
export const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** Deeper than this nothing is nested that we read; what is, would overflow the stack of whoever looks at it. */
const DEEPEST = 200

/**
 * What JSON.parse does not say of a text that it reads: a key that an object has twice, of which it keeps the last, and
 * nesting beyond all measure. The text must be JSON.
 */
const oddity = (text: string): string | undefined => {
  /** The keys of the objects around; undefined for a list. */
  const around: Array<Set<string> | undefined> = []
  for (let i = 0; i < text.length; i++) {
    switch (text[i]) {
      case "{":
      case "[":
        if (around.push(text[i] === "{" ? new Set() : undefined) > DEEPEST) return `is nested more than ${DEEPEST} deep`
        break
      case "}":
      case "]":
        around.pop()
        break
      case "\"": {
        const begin = i
        do {
          i = text.indexOf("\"", i + 1)
          let slashes = 0
          while (text[i - 1 - slashes] === "\\") slashes++
          if (slashes % 2 === 0) break
        } while (i > 0)
        let next = i + 1
        while (/[ \t\r\n]/.test(text[next] ?? "")) next++
        const keys = text[next] === ":" ? around.at(-1) : undefined
        if (keys === undefined) break
        const key = JSON.parse(text.slice(begin, i + 1)) as string
        if (keys.has(key)) return `has the key ${shown(key)} twice`
        keys.add(key)
      }
    }
  }
  return undefined
}

/** A text as JSON; Left says in words why it is none. */
export const parseJson = (text: string): Either.Either<unknown, string> => {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    return Either.left(`is not JSON: ${(cause as Error).message}`)
  }
  const odd = oddity(text)
  return odd === undefined ? Either.right(value) : Either.left(odd)
}

/** Problems that a message names. */
const MOST = 5

/**
 * A text as the JSON of a schema; keys that it does not know are passed over. Left says which fields are wrong and what
 * was expected there, to be put behind the name of the file.
 */
export const decodeJson = <A, I>(schema: Schema.Schema<A, I>, text: string): Either.Either<A, string> =>
  Either.flatMap(parseJson(text), (value) =>
    Either.mapLeft(decodeWith(schema, value, "ignore"), (lines) => {
      const more = lines.length > MOST ? `; and ${lines.length - MOST} more` : ""
      return `is not as it should be: ${lines.slice(0, MOST).join("; ")}${more}`
    }))

/** The same for what is only kept so as not to be computed again: undefined where it cannot be used. */
export const cachedJson = <A, I>(schema: Schema.Schema<A, I>, text: string): A | undefined =>
  Either.getOrUndefined(decodeJson(schema, text))

/** What it means that a configuration leaves a field out, by the end of the field's path: written out it is no other one. */
const leftOut: Json = {
  "sinks.shards": 1,
  "sinks.owners": [],
  "sinks.denied": [],
  "sinks.excluded": [],
  "training.exchange": "f32",
  "diloco.fragments": 1,
  "diloco.fragmentSyncDelay": 0,
  "diloco.fragmentUpdateAlpha": 0
}

/**
 * Leaves that differ between two JSON values, `name is …, was …`; `name` is put before those of objects. Of configurations, a field
 * that is left out is what that means.
 */
export const differences = (wanted: unknown, was: unknown, name = ""): ReadonlyArray<string> => {
  if (isObject(wanted) && isObject(was)) {
    const keys = new Set([...Object.keys(wanted), ...Object.keys(was)])
    return [...keys].flatMap((key) => differences(wanted[key], was[key], name === "" ? key : `${name}.${key}`))
  }
  const field = name.split(".").slice(-2).join(".")
  const meant = (value: unknown): string | undefined => JSON.stringify(value ?? leftOut[field] ?? value)
  return meant(wanted) === meant(was)
    ? []
    : [`${name} is ${JSON.stringify(wanted)}, was ${JSON.stringify(was)}`]
}

/** Whether both are worlds of different kinds, as `world: { world: "text" }` says; the field `data` of `data` says no kind. */
const differInKind = (key: string, a: unknown, b: unknown): boolean =>
  key === "world" && isObject(a) && isObject(b) && a[key] !== undefined && b[key] !== undefined && a[key] !== b[key]

/** `over` on top of `base`: trees of one kind are merged field by field, all else is replaced. */
export const merge = (base: unknown, over: unknown): unknown =>
  isObject(base) && isObject(over)
    ? Object.fromEntries([
      ...Object.entries(base),
      ...Object.entries(over).map(([key, value]) => [
        key,
        Object.hasOwn(base, key) && !differInKind(key, base[key], value) ? merge(base[key], value) : value
      ])
    ])
    : over
