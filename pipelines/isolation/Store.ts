/**
 * What was computed, by the hash of all that it depends on: a model that was trained once is never trained twice, and a
 * run that was interrupted goes on where it stood.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import { createHash } from "node:crypto"
import * as AtomicFile from "../../src/AtomicFile.ts"
import { CheckpointError } from "../../src/Errors.ts"
import { isObject } from "../../src/Json.ts"

export interface Store {
  /** The folder of a thing, where the store is on disk. Made when something is written into it. */
  readonly folder: (kind: string, key: unknown) => string | undefined
  /**
   * The JSON that is kept under a key; computed, and kept from then on, where there is none. A number that is not finite
   * comes back as null.
   */
  readonly once: <A, E, R>(kind: string, key: unknown, compute: Effect.Effect<A, E, R>) => Effect.Effect<A, E | CheckpointError, R>
}

/** A value with the keys of its objects sorted, so that equal ones have equal texts. */
const sorted = (value: unknown): unknown =>
  Array.isArray(value)
    ? value.map(sorted)
    : isObject(value)
    ? Object.fromEntries(Object.entries(value).filter(([, v]) => v !== undefined).sort().map(([k, v]) => [k, sorted(v)]))
    : value

/** 64 bits of the hash of a JSON value, in hexadecimal; the order of keys does not matter. */
export const hashOf = (value: unknown): string =>
  createHash("sha256").update(JSON.stringify(sorted(value))).digest("hex").slice(0, 16)

/** One computation of a key at a time. */
const keyed = () => {
  const gates = new Map<string, Effect.Semaphore>()
  return <A, E, R>(name: string, effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> => {
    const gate = gates.get(name) ?? Effect.unsafeMakeSemaphore(1)
    gates.set(name, gate)
    return gate.withPermits(1)(effect)
  }
}

/** Forgets everything with the process. */
export const memoryStore = (): Store => {
  const kept = new Map<string, string>()
  const alone = keyed()
  return {
    folder: () => undefined,
    once: (kind, key, compute) => {
      const name = `${kind}/${hashOf(key)}`
      return alone(name, Effect.suspend(() => {
        const text = kept.get(name)
        if (text !== undefined) return Effect.succeed(JSON.parse(text))
        return Effect.map(compute, (value) => {
          kept.set(name, JSON.stringify(value))
          return JSON.parse(kept.get(name)!)
        })
      }))
    }
  }
}

/** Keeps things in a folder, which several runs may share. What cannot be read is computed again. */
export const fileStore = (root: string): Effect.Effect<Store, never, FileSystem.FileSystem | Path.Path> =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const alone = keyed()
    const folder = (kind: string, key: unknown) => path.join(root, kind, hashOf(key))
    return {
      folder,
      once: <A, E, R>(kind: string, key: unknown, compute: Effect.Effect<A, E, R>) => {
        const file = `${folder(kind, key)}.json`
        const read = fs.readFileString(file).pipe(
          Effect.flatMap((text) => Effect.try(() => (JSON.parse(text) as { readonly value: A }).value)),
          Effect.option
        )
        const write = (value: A) =>
          Effect.gen(function*() {
            yield* fs.makeDirectory(path.dirname(file), { recursive: true })
            const text = JSON.stringify({ key, value })
            yield* Effect.try({ try: () => AtomicFile.write(file, text), catch: (cause) => cause as Error })
            return (JSON.parse(text) as { readonly value: A }).value
          }).pipe(
            Effect.uninterruptible,
            Effect.mapError((error) =>
              new CheckpointError({
                reason: "Write",
                path: file,
                detail: `cannot be kept: ${error.message}. Free space, or choose another folder with --out-dir`
              })
            )
          )
        return alone(file, Effect.flatMap(read, (known) =>
          known._tag === "Some" ? Effect.succeed(known.value) : Effect.flatMap(compute, write)))
      }
    }
  })
