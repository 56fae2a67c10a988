/**
 * What was computed, by the hash of all that it depends on: a model that was trained once is never trained twice, and a run
 * that was interrupted goes on where it stood. Several processes may share a store.
 */
import type * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import * as fsSync from "node:fs"
import { dirname, join } from "node:path"
import * as AtomicFile from "../../src/AtomicFile.ts"
import { because, CheckpointError } from "../../src/Errors.ts"
import { isObject } from "../../src/Json.ts"
import { canonical, keyOf } from "../../src/Key.ts"
import * as RunLock from "../../src/runs/RunLock.ts"
import { jobFile, type JobOf } from "../../src/runs/Runs.ts"

export interface Store {
  /** The folder of a thing, where the store is on disk. Made when something is written into it. */
  readonly folder: (kind: string, key: unknown) => string | undefined
  /**
   * The JSON that is kept under a key; computed, and kept from then on, where there is none. Bigints, and numbers that are
   * not finite, come back as they were. `alone`: what computes it writes into the thing's folder, so that only one process may; another
   * that wants it waits. `of`: what the folder says of whose it is, to who looks at it meanwhile.
   */
  readonly once: <A, E, R>(
    kind: string,
    key: unknown,
    compute: Effect.Effect<A, E, R>,
    options?: { readonly alone?: boolean; readonly of?: JobOf }
  ) => Effect.Effect<A, E | CheckpointError, R>
}

/** JSON has no NaN, no infinities and no bigints; null would be taken for 0 by whatever adds it up. */
const NUMBER = "#number"

const toText = (value: unknown): string =>
  JSON.stringify(value, (_, item: unknown) =>
    typeof item === "bigint"
      ? { [NUMBER]: `${item}n` }
      : typeof item === "number" && !Number.isFinite(item)
      ? { [NUMBER]: String(item) }
      : item)

const fromText = (text: string): unknown =>
  JSON.parse(text, (_, item: unknown) => {
    const number = isObject(item) ? item[NUMBER] : undefined
    if (typeof number !== "string") return item
    return number.endsWith("n") ? BigInt(number.slice(0, -1)) : Number(number)
  })

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
    once: <A, E, R>(kind: string, key: unknown, compute: Effect.Effect<A, E, R>) => {
      const name = `${kind}/${keyOf(key)}`
      return alone(name, Effect.suspend((): Effect.Effect<A, E, R> => {
        const text = kept.get(name)
        if (text !== undefined) return Effect.succeed(fromText(text) as A)
        return Effect.map(compute, (value) => {
          kept.set(name, toText(value))
          return fromText(kept.get(name)!) as A
        })
      }))
    }
  }
}

const unkept = (file: string) => (cause: unknown) =>
  new CheckpointError({
    reason: "Write",
    path: file,
    detail: `cannot be kept: ${because(cause)}. Free space, or choose another folder with --out-dir or --store`
  })

/** What a file is to hold of a key, with a checksum: a value that was changed later, by whatever it was, is none. */
const textOf = (key: unknown, value: unknown): string =>
  toText({ key, value, sha256: keyOf(fromText(toText({ value }))) })

/** What a file holds of a key; fails where it cannot be read, is of another key, or not as it was written. */
const readOf = <A>(file: string, key: unknown): Effect.Effect<A, unknown> =>
  Effect.try({
    try: () => {
      const found = Object(fromText(AtomicFile.readText(file, MOST))) as Readonly<
        Record<"key" | "value" | "sha256", unknown>
      >
      if (!("value" in found && "key" in found) || canonical(found.key) !== canonical(key)) {
        throw new Error("is of another key")
      }
      if (keyOf({ value: found.value }) !== found.sha256) throw new Error("is not as it was written")
      return found.value as A
    },
    catch: (cause) => {
      // what cannot be read is computed again, but no mistake of ours passes for a damaged file
      if (cause instanceof TypeError || cause instanceof ReferenceError) throw cause
      return cause
    }
  })

/** A result is read as a whole: of curves and losses, not of weights. */
const MOST = 1 << 30

/**
 * The JSON that a file holds under a key; computed, and kept there from then on, where it holds none: of two that compute the
 * same thing the one that is done first is believed. Without a file it is computed.
 */
export const keptIn = <A, E, R>(
  file: string | undefined,
  key: unknown,
  compute: Effect.Effect<A, E, R>
): Effect.Effect<A, E | CheckpointError, R> => {
  if (file === undefined) return compute
  const read = Effect.option(readOf<A>(file, key))
  const write = (value: A) =>
    Effect.flatMap(read, (first) =>
      first._tag === "Some" ? Effect.succeed(first.value) : Effect.try({
        try: () => {
          fsSync.mkdirSync(dirname(file), { recursive: true })
          const text = textOf(key, value)
          AtomicFile.write(file, text)
          return (fromText(text) as { readonly value: A }).value
        },
        catch: unkept(file)
      })).pipe(Effect.uninterruptible)
  return Effect.flatMap(read,
    (known): Effect.Effect<A, E | CheckpointError, R> =>
      known._tag === "Some" ? Effect.succeed(known.value) : Effect.flatMap(compute, write))
}

/** How often a process looks whether another one is done. */
const LOOK_AGAIN = "500 millis"

/**
 * Keeps things in a folder, which several runs may share, at a time, too. What cannot be read, or is of another key, is
 * computed again.
 *
 * @param options `force`: take over what a process holds that cannot be asked whether it still runs
 */
export const fileStore = (
  root: string,
  options: { readonly force?: boolean } = {}
): Effect.Effect<Store, never, FileSystem.FileSystem | Path.Path> =>
  Effect.gen(function*() {
    const path = yield* Path.Path
    const inProcess = keyed()
    const folder = (kind: string, key: unknown) => path.join(root, kind, keyOf(key))
    return {
      folder,
      once: <A, E, R>(
        kind: string,
        key: unknown,
        compute: Effect.Effect<A, E, R>,
        { alone = false, of }: { readonly alone?: boolean; readonly of?: JobOf } = {}
      ) => {
        const own = folder(kind, key)
        const file = `${own}.json`
        const computed = keptIn(file, key, compute)
        /** Held by another process: its result will be ours. */
        const inTurn: Effect.Effect<A, E | CheckpointError, R> = Effect.suspend(() => {
          if (RunLock.peek(own).state === "held") {
            return Effect.zipRight(Effect.sleep(LOOK_AGAIN), Effect.catchAll(readOf<A>(file, key), () => inTurn))
          }
          const claim = () => {
            fsSync.mkdirSync(own, { recursive: true })
            if (of !== undefined) AtomicFile.writeJson(join(own, jobFile), of)
          }
          return Effect.try({ try: claim, catch: unkept(own) }).pipe(
            Effect.zipRight(Effect.exit(Effect.scoped(
              Effect.zipRight(RunLock.hold(own, { force: options.force ?? false }), Effect.exit(computed))
            ))),
            // somebody was quicker, who is to be waited for
            Effect.flatMap((exit) => {
              if (exit._tag === "Success") return exit.value
              return RunLock.peek(own).state === "held" ? inTurn : Effect.failCause(exit.cause)
            })
          )
        })
        return inProcess(file, alone ? Effect.catchAll(readOf<A>(file, key), () => inTurn) : computed)
      }
    }
  })
