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
 *
 * @param ours fails where another is to keep it
 */
export const keptIn = <A, E, R>(
  file: string | undefined,
  key: unknown,
  compute: Effect.Effect<A, E, R>,
  ours: Effect.Effect<void, CheckpointError> = Effect.void
): Effect.Effect<A, E | CheckpointError, R> => {
  if (file === undefined) return compute
  const read = Effect.option(readOf<A>(file, key))
  const keep = (text: string, make: () => boolean) =>
    Effect.try({
      try: () => make() ? (fromText(text) as { readonly value: A }).value : undefined,
      catch: unkept(file)
    })
  const write = (value: A) =>
    Effect.gen(function*() {
      const text = textOf(key, value)
      yield* ours
      const made = yield* keep(text, () => {
        fsSync.mkdirSync(dirname(file), { recursive: true })
        return AtomicFile.create(file, text)
      })
      if (made !== undefined) return made
      const first = yield* read
      if (first._tag === "Some") return first.value
      return (yield* keep(text, () => {
        AtomicFile.write(file, text)
        return true
      }))!
    }).pipe(Effect.uninterruptible)
  return Effect.flatMap(read,
    (known): Effect.Effect<A, E | CheckpointError, R> =>
      known._tag === "Some" ? Effect.succeed(known.value) : Effect.flatMap(compute, write))
}

/** That a folder can be written to, tried. */
const probe = (root: string) =>
  Effect.try({
    try: () => {
      fsSync.mkdirSync(root, { recursive: true })
      const file = AtomicFile.begin(join(root, "probe"))
      try {
        file.write(new Uint8Array(PROBE))
        file.sync()
      } finally {
        file.abandon()
      }
    },
    catch: (cause) =>
      new CheckpointError({
        reason: "Write",
        path: root,
        detail: `the store cannot be written: ${because(cause)}. Choose another folder with --store or --out-dir`,
        cause
      })
  })

/** Bytes for which a store must have room before anything is computed. */
const PROBE = 1 << 20

/**
 * Keeps things in a folder, which several runs may share, at a time, too, on one machine and on several. What cannot be read,
 * or is of another key, is computed again. Fails with CheckpointError Write where nothing can be written there.
 *
 * @param options `force`: take over what a process holds that cannot be asked whether it still runs; `lease`: milliseconds
 *   after which others take over what this process computes when it gives no sign of life
 */
export const fileStore = (
  root: string,
  options: RunLock.HoldOptions = {}
): Effect.Effect<Store, CheckpointError, FileSystem.FileSystem | Path.Path> =>
  Effect.gen(function*() {
    const path = yield* Path.Path
    yield* probe(root)
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
        const isOurs = RunLock.stillOurs(own)
        const write = (body: () => void) => Effect.try({ try: body, catch: unkept(own) })
        /** What comes out of it, while the folder is ours: undefined where another process has it, or took it. */
        const claimed = Effect.scoped(Effect.flatMap(RunLock.claim(own, options), (lease) =>
          lease === undefined ? Effect.succeed(undefined) : Effect.gen(function*() {
            if (of !== undefined) {
              yield* write(() =>
                AtomicFile.writeJson(join(own, jobFile), of)
              )
            }
            const exit = yield* Effect.raceFirst(
              Effect.exit(keptIn(file, key, compute, isOurs)),
              Effect.as(Effect.flip(lease.lost), undefined)
            )
            const lost = yield* Effect.option(Effect.flip(isOurs))
            if (lost._tag === "None" || exit?._tag === "Success") return exit
            yield* Effect.logWarning(lost.value.message)
            return undefined
          })))
        /** Held by another process: its result will be ours. */
        const inTurn: Effect.Effect<A, E | CheckpointError, R> = Effect.catchAll(readOf<A>(file, key), () =>
          write(() =>
            fsSync.mkdirSync(own, { recursive: true })
          ).pipe(
            Effect.zipRight(claimed),
            Effect.flatMap((exit) => exit ?? Effect.zipRight(Effect.sleep(RunLock.LOOK), inTurn))
          ))
        return inProcess(file, alone ? inTurn : keptIn(file, key, compute))
      }
    }
  })
