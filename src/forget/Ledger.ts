/**
 * What was deleted from a model: `deletions.jsonl`, which travels with its checkpoints. A line a deletion, each with the
 * checksum of the line before it, so that none can be changed, left out or moved without all that follow telling so.
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Schema from "effect/Schema"
import { createHash } from "node:crypto"
import { decodeWith, natural } from "../Config.ts"
import { DataError } from "../Errors.ts"
import { parseJson } from "../Json.ts"
import { Sha256 } from "../Paths.ts"
import { Refreshed } from "./Refresh.ts"
import { fields } from "./Request.ts"

/** What a deletion does, from the least to the most: see `Forget.forget`. */
export const operations = ["deny", "exclude", "erase", "refresh"] as const
export type Operation = typeof operations[number]

/** What a line tells of: a deletion, or that one was taken back. */
export type Act = Operation | "restore"

/** What becomes of sinks that somebody who stays lights, too. */
export const policies = ["keep", "take"] as const
export type Policy = typeof policies[number]

const id = Schema.String.pipe(Schema.pattern(/^\d{1,20}$/))

/** A deletion. */
export const Entry = Schema.Struct({
  format: Schema.Literal(1),
  /** 1, 2, 3, ... */
  number: natural,
  /** When it was done, in UTC (ISO 8601). */
  time: Schema.String,
  operation: Schema.Literal(...operations, "restore"),
  shared: Schema.Literal(...policies),
  requests: Schema.Array(Schema.Struct({
    by: Schema.Literal(...fields),
    value: Schema.String,
    reference: Schema.optionalWith(Schema.String, { exact: true })
  })),
  /** Who was deleted, or restored; ids of 64 bits in decimal digits. */
  deleted: Schema.Array(Schema.Struct({ id, name: Schema.String })),
  /** Units of theirs: lit by nobody else, lit by others too, and those that were set to zero, or switched off or on again. */
  units: Schema.Struct({ alone: natural, shared: natural, taken: natural }),
  /** How survivors that lost sinks were refreshed. */
  refresh: Schema.optionalWith(Refreshed, { exact: true }),
  /** Checksums of the model's tensors before and after. */
  before: Sha256,
  after: Sha256,
  /** That of the line before; of the first one, 64 zeros. */
  previous: Sha256
})
export type Entry = typeof Entry.Type

const NOTHING = "0".repeat(64)

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex")

const linesOf = (text: string | undefined): ReadonlyArray<string> =>
  (text ?? "").split("\n").filter((line) => line !== "")

/** Reads a ledger. Fails with a DataError that names the line which is not one, or does not follow from those before it. */
export const read = (text: string | undefined, path: string): Effect.Effect<ReadonlyArray<Entry>, DataError> =>
  Effect.suspend(() => {
    let previous = NOTHING
    return Effect.forEach(linesOf(text), (line, i) => {
      const wrong = (detail: string) => new DataError({ path, detail: `line ${i + 1} ${detail}` })
      return Either.gen(function*() {
        const json = yield* Either.mapLeft(parseJson(line), (detail) => wrong(`is no deletion: it ${detail}`))
        const entry = yield* Either.mapLeft(decodeWith(Entry, json, "error"), (problems) =>
          wrong(`is no deletion: ${problems.slice(0, 3).join("; ")}`))
        if (entry.number !== i + 1 || entry.previous !== previous) {
          return yield* Either.left(wrong("does not follow from the line before it: the ledger was changed"))
        }
        previous = sha256(line)
        return entry
      })
    })
  })

/** What stands of everybody that a ledger names: what was done to them since they were last restored, the oldest first. */
export const standing = (ledger: ReadonlyArray<Entry>): ReadonlyMap<bigint, ReadonlyArray<Entry>> => {
  const stands = new Map<bigint, ReadonlyArray<Entry>>()
  for (const entry of ledger) {
    for (const { id } of entry.deleted) {
      const one = BigInt(id)
      stands.set(one, entry.operation === "restore" ? [] : [...stands.get(one) ?? [], entry])
    }
  }
  return stands
}

/** The ledger with one line more. */
export const append = (
  text: string | undefined,
  entry: Omit<Entry, "format" | "number" | "previous">
): { readonly text: string; readonly entry: Entry } => {
  const lines = linesOf(text)
  const last = lines.at(-1)
  const whole: Entry = {
    format: 1,
    number: lines.length + 1,
    ...entry,
    previous: last === undefined ? NOTHING : sha256(last)
  }
  return { entry: whole, text: [...lines, JSON.stringify(whole)].map((line) => `${line}\n`).join("") }
}

/** The checksum of the last line: what a certificate binds. */
export const head = (text: string | undefined): string => {
  const last = linesOf(text).at(-1)
  return last === undefined ? NOTHING : sha256(last)
}
