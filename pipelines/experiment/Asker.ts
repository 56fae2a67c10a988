/** Who has jobs done by workers: hands them out, waits for them, and reads their results where all find them, in the store. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberId from "effect/FiberId"
import * as Option from "effect/Option"
import { randomUUID } from "node:crypto"
import { resolve } from "node:path"
import process from "node:process"
import { CheckpointError, DataError } from "../../src/Errors.ts"
import type { Machine } from "../../src/gpu/Machine.ts"
import { keyOf, shortKey } from "../../src/Key.ts"
import type { TrainError } from "../../src/train/Trainer.ts"
import { keptOf } from "./Doing.ts"
import type { Ask, HandOut, Job, Place } from "./Job.ts"
import { type Common, type Entry, type Failed, openQueue, type QueueOptions, type Task,
  type WorkerEntry } from "./Queue.ts"
import type { Store } from "./Store.ts"

/** By which the jobs of a machine are told from those of others. */
export const machineName = ({ adapter, kernels }: Machine): string => `${adapter} (${kernels})`

/** The id of a store, which it keeps itself: two folders of one name on two machines are told apart. */
export const storeId = (store: Store): Effect.Effect<string, CheckpointError> =>
  store.once("queue", { id: 1 }, Effect.sync(() => randomUUID()), { alone: true })

/** What makes a job fail that has no answer of its own: a bug is told as one, with its stack. */
const failure = <A>(failed: Failed): Effect.Effect<A, TrainError> => {
  if ("error" in failed) return Effect.fail(failed.error as TrainError)
  const { message, stack } = failed.bug
  return Effect.die(Object.assign(new Error(message), stack === undefined ? {} : { stack }))
}

const named = ({ arm, seed }: Pick<Entry, "arm" | "seed">) => `${arm} (seed ${seed})`

/** What is done, and by whom, in a line. */
const lineOf = (
  asked: number,
  done: number,
  entries: ReadonlyArray<Entry>,
  workers: ReadonlyArray<WorkerEntry>,
  { store, version }: Common,
  advice: string
): string => {
  const alive = workers.filter((one) => one.alive)
  const ours = alive.filter((one) => one.store === store && one.version === version)
  const taken = entries.filter(({ state }) => state === "taken")
  const parts = [`${done} of ${asked} jobs done`]
  if (taken.length > 0) {
    const some = taken.slice(0, 4).map((one) => `${named(one)} on ${one.worker}`)
    parts.push(`${some.join(", ")}${taken.length > 4 ? ` and ${taken.length - 4} more` : ""}`)
  }
  const left = entries.find(({ note, state }) => state === "waiting" && note !== null)
  if (left !== undefined) parts.push(`${named(left)} waits: ${left.note}`)
  if (ours.length > 0) parts.push(`${ours.length} ${ours.length === 1 ? "worker" : "workers"}`)
  else {
    const [other] = alive
    parts.push(
      other === undefined ?
        `no worker yet: start some with ${advice}` :
        other.store !== store
        ? `${other.name} works on another store than this one: start workers with ${advice}`
        : `${other.name} is of memsinks ${other.version}, and this is ${version}: start workers of this version`
    )
  }
  const machines = [...new Set(entries.filter(({ state }) => state === "waiting").map(({ machine }) => machine))]
  const lacking = machines.filter((machine) => !ours.some((one) => one.machine.split("\n").includes(machine)))
  if (ours.length > 0 && lacking.length > 0) {
    parts.push(`no worker computes on ${lacking.join(", ")}, which these results depend on`)
  }
  return parts.join("; ")
}

export interface AskOptions extends Omit<QueueOptions, "say"> {
  /** How often a job is tried that has no answer. Default 3. */
  readonly tries?: number
  /** The folder of the store, for the line that says how workers are started. */
  readonly store?: string
  /** Milliseconds between two looks. Default 500. */
  readonly every?: number
}

/**
 * Hands jobs out to a queue. A job whose result is known is never handed out; what is handed out when this process ends stays
 * there, and its results will be found when the same is asked for again.
 */
export const throughQueue =
  (url: string, { every = 500, tries = 3, ...options }: AskOptions = {}): HandOut =>
  ({ machine, outDir, stage, store, versions }) =>
    Effect.gen(function*() {
      if (store.folder("queue", {}) === undefined) {
        return yield* new DataError({ detail: "jobs that workers do need a store on disk: give an outDir or a store" })
      }
      const queue = yield* openQueue(url, { ...options, say: stage })
      const common: Common = { store: yield* storeId(store), version: versions["memsinks"] ?? "unknown" }
      const advice = `memsinks worker --store ${options.store ?? resolve(outDir ?? ".", "store")} --queue ${queue.name}`
      type Ended = Exit.Exit<Entry, DataError>
      /** Jobs that are asked for, by their ids: how often, and whether they are in the queue by now. */
      const waiting = new Map<string, { readonly ended: Deferred.Deferred<Ended>; of: number; isOffered: boolean }>()
      let [asked, done] = [0, 0]
      let [said, last] = ["", 0]

      const look = Effect.gen(function*() {
        const ids = [...waiting].flatMap(([id, { isOffered }]) => isOffered ? [id] : [])
        if (ids.length === 0) return
        const entries: Array<Entry> = []
        for (let i = 0; i < ids.length; i += 500) entries.push(...yield* queue.jobs(ids.slice(i, i + 500)))
        const known = new Set(entries.map(({ id }) => id))
        const ended = entries.filter(({ state }) => state === "done" || state === "failed")
        const answer = (id: string, exit: Ended) =>
          Effect.suspend(() => {
            const one = waiting.get(id)
            waiting.delete(id)
            if (one === undefined) return Effect.void
            done += one.of
            return Deferred.succeed(one.ended, exit)
          })
        yield* Effect.forEach(ended, (entry) => answer(entry.id, Exit.succeed(entry)), { discard: true })
        yield* Effect.forEach(ids.filter((id) => !known.has(id)), (id) =>
          answer(id, Exit.fail(
            new DataError({ path: queue.name, detail: "a job was removed from the queue: run the same command again" })
          )), { discard: true })
        const line = lineOf(asked, done, entries, yield* queue.workers, common, advice)
        // what the workers say of their jobs is theirs to show
        if (line === said || Date.now() - last < 2000 && waiting.size > 0) return
        said = line
        last = Date.now()
        yield* stage(line)
      })
      /** What happened to the queue ends all who wait. */
      const failAll = (error: DataError) =>
        Effect.suspend(() => {
          const all = [...waiting.values()]
          waiting.clear()
          return Effect.forEach(all, ({ ended }) => Deferred.succeed(ended, Exit.fail(error)), { discard: true })
        })
      yield* Effect.forkScoped(Effect.forever(
        Effect.zipRight(Effect.catchAll(look, failAll), Effect.sleep(every))
      ))

      const ask: Ask = <Output>(job: Job, key: unknown, place: Place) =>
        Effect.gen(function*() {
          type Known = Effect.Effect<Output, TrainError>
          const at = place.folder === undefined ? {} : { folder: resolve(place.folder) }
          const known = Effect.option(keptOf(store, job, key, place, Effect.fail("unknown"), false)) as Effect.Effect<
            Option.Option<Output>
          >
          asked++
          const before = yield* known
          if (Option.isSome(before)) {
            done++
            return Effect.succeed(before.value) satisfies Known
          }
          const hash = keyOf(key)
          const of = machineName(machine)
          const task: Task = {
            ...job,
            ...place,
            ...common,
            ...at,
            ...(outDir === undefined || place.folder === undefined ? {} : { outDir: resolve(outDir) }),
            id: keyOf({ ...common, ...at, kind: job.kind, key: hash, machine: of }),
            key: hash,
            machine: of,
            cwd: process.cwd(),
            tries
          }
          const first = waiting.get(task.id)
          const one = first ?? { ended: Deferred.unsafeMake<Ended>(FiberId.none), of: 0, isOffered: false }
          one.of++
          if (first === undefined) {
            waiting.set(task.id, one)
            yield* queue.offer([task])
            one.isOffered = true
          }
          const { failed, worker } = yield* Effect.flatten(Deferred.await(one.ended))
          if (failed !== undefined) return failure<Output>(failed)
          const after = yield* known
          if (Option.isSome(after)) return Effect.succeed(after.value) satisfies Known
          return yield* new CheckpointError({
            reason: "Missing",
            path: at.folder ?? store.folder(job.kind, key) ?? shortKey(hash),
            detail: `${worker} did this job, but its result is not here: its ${
              place.folder === undefined ? "store" : "folder"
            } must be the same, and what is written there seen at once. See that both mount it, and run this command again`
          })
        })
      return ask
    })
