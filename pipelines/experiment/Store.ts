/**
 * What was computed, by the hash of all that it depends on: a model that was trained once is never trained twice, and a run
 * that was interrupted goes on where it stood. Several processes may share a store.
 */
import type * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { createHash } from "node:crypto"
import * as fsSync from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join, relative, sep } from "node:path"
import process from "node:process"
import * as AtomicFile from "../../src/AtomicFile.ts"
import { because, CheckpointError } from "../../src/Errors.ts"
import { cachedJson, isObject } from "../../src/Json.ts"
import { canonical, keyOf, shortKey } from "../../src/Key.ts"
import * as RunLock from "../../src/runs/RunLock.ts"
import { jobFile, type JobOf } from "../../src/runs/Runs.ts"
import { type Bucket, isBucket, openBucket } from "./Bucket.ts"

export interface Store {
  /** The folder of a thing, where the store is on disk. Made when something is written into it. */
  readonly folder: (kind: string, key: unknown) => string | undefined
  /** Makes a thing's folder hold what was kept in it, where that lies elsewhere. */
  readonly fetch: (kind: string, key: unknown) => Effect.Effect<void, CheckpointError>
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

export const toText = (value: unknown): string =>
  JSON.stringify(value, (_, item: unknown) =>
    typeof item === "bigint"
      ? { [NUMBER]: `${item}n` }
      : typeof item === "number" && !Number.isFinite(item)
      ? { [NUMBER]: String(item) }
      : item)

export const fromText = (text: string): unknown =>
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
    fetch: () => Effect.void,
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
  valueOf(() => AtomicFile.readText(file, MOST), key)

const valueOf = <A>(read: () => string, key: unknown): Effect.Effect<A, unknown> =>
  Effect.try({
    try: () => {
      const found = Object(fromText(read())) as Readonly<
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
      fetch: () => Effect.void,
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

/** What a job left in its folder, as its result in a bucket lists it: whose objects, and their names and checksums. */
const Left = Schema.Struct({ at: Schema.String, files: Schema.Record({ key: Schema.String, value: Schema.String }) })

const filesIn = (folder: string): ReadonlyArray<string> =>
  !fsSync.existsSync(folder) ? [] : fsSync.readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && !/^lock\b|^\.tmp|\.tmp$|\.part$/.test(entry.name))
    .map((entry) => relative(folder, join(entry.parentPath ?? (entry as { readonly path: string }).path, entry.name)))
    .sort()

const sha256Of = (file: string): Effect.Effect<string> =>
  Effect.promise(async () => {
    const hash = createHash("sha256")
    for await (const chunk of fsSync.createReadStream(file)) hash.update(chunk as Uint8Array)
    return hash.digest("hex")
  })

/** Milliseconds between looks at a bucket, which cost something. */
const LOOK = 2000

/**
 * Keeps things in a bucket of an S3-compatible service, which processes of any machine share: who does a job holds an object
 * that is made and replaced on conditions alone. What jobs leave in folders lies in `local` while they are done, goes to the bucket
 * with their results, and is fetched where another job needs it.
 */
const bucketStore = (bucket: Bucket, local: string, options: RunLock.HoldOptions): Store => {
  const inProcess = keyed()
  const nameOf = (kind: string, key: unknown) => `${kind}/${keyOf(key)}`
  const folder = (kind: string, key: unknown) => join(local, kind, keyOf(key))
  const lease = options.lease ?? RunLock.leaseOf()
  const look = Math.min(LOOK, lease / 4)

  /** The lock of a job, if it can be had: gives signs of life until the scope closes, and tells when it is lost. */
  const claim = (name: string) =>
    Effect.gen(function*() {
      const me = RunLock.holderOf(lease)
      const lock = `${name}.lock`
      const mine = (beat: number) => JSON.stringify({ ...me, beat })
      let tag = yield* bucket.put(lock, mine(0), "none")
      if (tag === undefined) {
        const found = yield* bucket.get(lock)
        if (found === undefined) return undefined
        const holder = cachedJson(RunLock.Holder, found.text)
        // what was asked for twice, as the first answer was lost, was had at the first time
        if (holder?.token === me.token) tag = found.tag
        else {
          const state = holder === undefined ? "unknown" : RunLock.stateOf(holder)
          const gone = state === "stale" || (state === "unknown" && options.force === true) ||
            RunLock.silenceOf(`${bucket.url}/${lock}`, found.tag, holder?.lease ?? lease) >= (holder?.lease ?? lease)
          tag = gone ? yield* bucket.put(lock, mine(0), { tag: found.tag }) : undefined
          if (tag === undefined) return undefined
          yield* Effect.logWarning(`${bucket.url}/${name} was left by a process that is gone: going on in its place`)
        }
      }
      yield* Effect.addFinalizer(() =>
        Effect.ignore(Effect.flatMap(bucket.get(lock), (found) =>
          found !== undefined && cachedJson(RunLock.Holder, found.text)?.token === me.token
            ? bucket.remove(lock)
            : Effect.void))
      )
      let beats = 0
      const lost: Effect.Effect<void> = Effect.suspend(() =>
        // a service that cannot be reached for a while takes nothing away
        Effect.option(bucket.put(lock, mine(++beats), { tag: tag! })).pipe(Effect.delay(lease / RunLock.BEATS))
      ).pipe(
        Effect.flatMap((put) => {
          if (put._tag === "None") {
            return lost
          }
          if (put.value !== undefined) {
            tag = put.value
            return lost
          }
          // the answer to a sign of life may have been lost
          return Effect.flatMap(Effect.option(bucket.get(lock)), (found) => {
            if (found._tag === "None") {
              return lost
            }
            if (found.value === undefined) {
              return Effect.void
            }
            if (cachedJson(RunLock.Holder, found.value.text)?.token !== me.token) {
              return Effect.void
            }
            tag = found.value.tag
            return lost
          })
        })
      )
      return { lost, token: me.token }
    })

  /** A result that the bucket has, where it is whole, and the tag of what it has. */
  const known = <A>(name: string, key: unknown): Effect.Effect<
    { readonly tag?: string; readonly value?: Option.Some<A> },
    CheckpointError
  > =>
    Effect.gen(function*() {
      const found = yield* bucket.get(`${name}.json`)
      if (found === undefined) return {}
      const value = yield* Effect.option(valueOf<A>(() => found.text, key))
      return { tag: found.tag, ...(value._tag === "Some" ? { value } : {}) }
    })

  const write = <A>(name: string, key: unknown, value: A, left?: typeof Left.Type) =>
    Effect.gen(function*() {
      const kept = fromText(textOf(key, value)) as { readonly value: A }
      const text = toText({ ...kept, ...(left === undefined ? {} : { left }) })
      if ((yield* bucket.put(`${name}.json`, text, "none")) !== undefined) return kept.value
      const first = yield* known<A>(name, key)
      if (first.value !== undefined) return first.value.value
      // one that is damaged is replaced
      if (first.tag !== undefined) yield* bucket.put(`${name}.json`, text, { tag: first.tag })
      return kept.value
    })

  return {
    folder,
    fetch: (kind, key) =>
      Effect.gen(function*() {
        const name = nameOf(kind, key)
        const found = yield* bucket.get(`${name}.json`)
        if (found === undefined) return
        const left = Schema.decodeUnknownOption(Left)(Object(fromText(found.text))["left"])
        if (left._tag === "None") return
        for (const [file, sha256] of Object.entries(left.value.files)) {
          const to = join(folder(kind, key), file)
          if (relative(folder(kind, key), to).startsWith("..")) continue
          if (fsSync.existsSync(to) && (yield* sha256Of(to)) === sha256) continue
          yield* bucket.getFile(`${name}/${left.value.at}/${file}`, to, sha256)
        }
      }),
    once: <A, E, R>(
      kind: string,
      key: unknown,
      compute: Effect.Effect<A, E, R>,
      { alone = false, of }: { readonly alone?: boolean; readonly of?: JobOf } = {}
    ) => {
      const name = nameOf(kind, key)
      const own = folder(kind, key)
      const claimed = Effect.scoped(Effect.gen(function*() {
        const held = yield* claim(name)
        if (held === undefined) return undefined
        const done = Effect.gen(function*() {
          const before = yield* known<A>(name, key)
          if (before.value !== undefined) return before.value.value
          if (of !== undefined) {
            yield* Effect.try({
              try: () => {
                fsSync.mkdirSync(own, { recursive: true })
                AtomicFile.writeJson(join(own, jobFile), of)
              },
              catch: unkept(own)
            })
          }
          const value = yield* compute
          const files: Record<string, string> = {}
          for (const file of filesIn(own)) {
            const at = file.split(sep).join("/")
            files[at] = yield* sha256Of(join(own, file))
            yield* bucket.putFile(`${name}/${held.token}/${at}`, join(own, file))
          }
          return yield* write(name, key, value, { at: held.token, files })
        })
        const exit = yield* Effect.raceFirst(Effect.exit(done), Effect.as(held.lost, undefined))
        if (exit === undefined) {
          yield* Effect.logWarning(
            `${bucket.url}/${name}: another process has taken the job over, as this one was stopped or cut off for more ` +
              `than ${lease / 1000} s: waiting for its result`
          )
        }
        return exit
      }))
      const inTurn: Effect.Effect<A, E | CheckpointError, R> = Effect.flatMap(known<A>(name, key),
        ({ value }) =>
          value !== undefined ?
            Effect.succeed(value.value) :
            Effect.flatMap(claimed, (exit) => exit ?? Effect.zipRight(Effect.sleep(look), inTurn)))
      const computed = Effect.flatMap(known<A>(name, key),
        ({ value }): Effect.Effect<A, E | CheckpointError, R> =>
          value !== undefined
            ? Effect.succeed(value.value)
            : Effect.flatMap(compute, (value) => write(name, key, value)))
      return inProcess(name, alone ? inTurn : computed)
    }
  }
}

/**
 * A store by its address: a folder, or `s3://bucket/prefix`.
 *
 * @param local where jobs work whose results go to a bucket. Default: a folder for temporary files
 */
export const openStore = (
  where: string,
  options: RunLock.HoldOptions = {},
  local?: string
): Effect.Effect<Store, CheckpointError, FileSystem.FileSystem | Path.Path> =>
  !isBucket(where) ? fileStore(where, options) : Effect.gen(function*() {
    const at = local ?? join(tmpdir(), `memsinks-${shortKey(keyOf(where))}-${process.pid}`)
    yield* probe(at)
    return bucketStore(yield* openBucket(where), at, options)
  })
