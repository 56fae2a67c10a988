/** A process that does the jobs of a queue, one after the other or several at once, until it is told to stop. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import { randomUUID } from "node:crypto"
import { existsSync } from "node:fs"
import { hostname } from "node:os"
import process from "node:process"
import { because, type DeviceError, isMemsinksError } from "../../src/Errors.ts"
import { Device } from "../../src/gpu/Device.ts"
import { machineOf } from "../../src/gpu/Machine.ts"
import { keyOf } from "../../src/Key.ts"
import type { TrainError } from "../../src/train/Trainer.ts"
import { machineName, storeId } from "./Asker.ts"
import { doJob, keeping, noDevice } from "./Doing.ts"
import type { Event } from "./Event.ts"
import type { Work } from "./Job.ts"
import { openQueue, type QueueOptions, type Taker, type Task } from "./Queue.ts"
import { againWhenLost, isLost } from "./RunFolder.ts"
import { openStore } from "./Store.ts"
import { makeStreams } from "./Streams.ts"
import type { Files } from "./Train.ts"

/** What does the jobs of each kind. */
export type Works = Readonly<Record<string, Work<any, unknown>>>

export interface WorkerOptions extends Omit<QueueOptions, "say"> {
  /** The folder of results, which must be that of who asks. */
  readonly store: string
  /** URL of the queue. */
  readonly queue: string
  /** Rebuilt when the device is lost. Undefined: only jobs of what is computed on the host are done. */
  readonly device: Layer.Layer<Device, DeviceError> | undefined
  readonly works: Works
  /** Of memsinks. */
  readonly version: string
  /** Jobs at once. Default 1. */
  readonly concurrency?: number
  /** Seconds after which the jobs of a worker that is not heard are others'. Default 90. */
  readonly lease?: number
  /** Seconds without a job after which the worker ends. Default: it waits for ever. */
  readonly untilIdle?: number
  /** Whether no further job is to be begun. */
  readonly isStopping?: () => boolean
  /** Milliseconds between two looks for a job. Default 500. */
  readonly every?: number
  readonly onEvent?: (event: Event) => Effect.Effect<void>
}

/** Why a worker leaves a job to others. */
class Left {
  readonly _tag = "Left"
  readonly why: string
  constructor(why: string) {
    this.why = why
  }
}

/** What a job says of itself in the queue. */
const noteOf = (event: Event): string | undefined => {
  if (event._tag === "Stage") return event.message
  if (event._tag === "Training" && event.event._tag === "Stepped") return `step ${event.event.step}`
  return undefined
}

/** Whether another worker may do what this one could not: its device, its disk, or the program itself was at fault. */
const mayBeTriedAgain = (error: { readonly _tag: string; readonly reason?: unknown }): boolean =>
  error._tag === "DeviceError" || error._tag === "CollectiveError" ||
  (error._tag === "CheckpointError" && error.reason === "Write")

/**
 * Does jobs until it is interrupted, which gives back what it does, or is idle for long enough. How many it ended.
 *
 * Fails with a DataError where the queue is gone for too long, a CheckpointError Write where the store cannot be written, and
 * a DeviceError where there is no device.
 */
export const work = (options: WorkerOptions): Effect.Effect<number, TrainError, Files> =>
  Effect.gen(function*() {
    const { concurrency = 1, every = 500, lease = 90, store: folder, untilIdle = Infinity, works } = options
    const onEvent = options.onEvent ?? (() => Effect.void)
    const stage = (message: string) => onEvent({ _tag: "Stage", message })
    const store = yield* openStore(folder)
    const common = { store: yield* storeId(store), version: options.version }
    const queue = yield* openQueue(options.queue, { ...options, say: stage })
    const streams = yield* makeStreams()
    const id = randomUUID()
    const name = `${hostname()}:${process.pid}`
    const host = Effect.map(Device, machineOf).pipe(Effect.provide(noDevice))
    const hosts = machineName(yield* host)
    let ended = 0

    const all: Effect.Effect<void, TrainError, Files | Scope.Scope> = Effect.scoped(Effect.gen(function*() {
      const device = options.device === undefined ? undefined : yield* Device
      const machine = device === undefined ? yield* host : machineOf(device)
      const own = machineName(machine)
      const taker: Taker = { ...common, id, name, lease, machines: [...new Set([own, hosts])] }
      /** What is done now, by its place: who does it, and what was said of it last. */
      const doing = new Map<string, { readonly id: string; note: string; readonly stop: Effect.Effect<void> }>()
      const left: Array<string> = []
      const beat = Effect.gen(function*() {
        const now = [...doing].map(([place, { id, note }]) => ({ place, id, note }))
        const still = yield* queue.beat(taker, now)
        yield* Effect.forEach(now, ({ id, place }) => {
          const one = doing.get(place)
          return still.has(id) || one?.id !== id ? Effect.void : Effect.zipRight(
            stage("a job was taken over by another worker, because this one was not heard for too long"),
            one.stop
          )
        }, { discard: true })
      })
      yield* beat
      yield* Effect.addFinalizer(() => Effect.ignore(queue.bye(taker)).pipe(Effect.timeoutOption("5 seconds")))
      yield* stage(
        `${name} waits for jobs on ${
          device === undefined ? hosts : `${device.name}: ${device.reason}`
        }; queue ${queue.name}`
      )

      /** A job, from its data alone. */
      const perform = (task: Task, tell: (event: Event) => Effect.Effect<void>) =>
        Effect.gen(function*() {
          const { arm, folder, keep, seed, span } = task
          const work = works[task.kind]
          if (work === undefined) return yield* Effect.fail(new Left(`${name} knows no jobs of the kind ${task.kind}`))
          if (task.outDir !== undefined && !existsSync(task.outDir)) {
            return yield* Effect.fail(
              new Left(`${name} does not see the run's folder ${task.outDir}: mount it there, under the same path`)
            )
          }
          const isHosts = task.machine === hosts
          const at = { machine: isHosts ? yield* host : machine, streams }
          const elsewhere = task.cwd === process.cwd() ? "" : `; it runs in ${process.cwd()}, and was asked from ` +
            `${task.cwd}: where paths of data are relative, give absolute ones, or start it there`
          const key = yield* Effect.mapError(work.key(task.input, at),
            (error) => new Left(`${name} cannot begin it: ${error.message}${elsewhere}`))
          if (keyOf(key) !== task.key) {
            return yield* Effect.fail(
              new Left(`${name} would compute something else: its code or its data are others${elsewhere}`)
            )
          }
          const done = doJob(work, task, {
            ...at,
            store,
            once: keeping(),
            stage: (message) => tell({ _tag: "Stage", message }),
            tell,
            onEvent: (event) => tell({ _tag: "Training", arm, seed, index: 0, count: 1, event })
          }, { span, ...(folder === undefined ? {} : { folder }), ...(keep === undefined ? {} : { keep }) })
          yield* isHosts ? Effect.provide(done, noDevice) : done as Effect.Effect<unknown, TrainError, Files>
        })

      /** What the queue is told of how a job ended; fails where the device is lost, or the job was interrupted. */
      const settle = (task: Task, place: string, exit: Exit.Exit<void, TrainError | Left>) =>
        Effect.gen(function*() {
          if (Exit.isSuccess(exit)) {
            ended++
            return yield* queue.done(task.id, place)
          }
          const { cause } = exit
          if (Cause.isInterrupted(cause)) return yield* queue.leave(task.id, place, `${name} left it`)
          const error = Option.getOrUndefined(Cause.failureOption(cause))
          if (error instanceof Left) {
            left.push(task.id)
            yield* stage(`${task.arm}, seed ${task.seed}, is left to others: ${error.why}`)
            return yield* queue.leave(task.id, place, error.why)
          }
          const say = (message: string) => stage(`${task.arm}, seed ${task.seed} failed: ${message}`)
          if (error !== undefined && isMemsinksError(error)) {
            const again = mayBeTriedAgain(error)
            yield* queue.fail(task.id, place, { error }, again)
            yield* say(error.message)
            if (!again) ended++
            return yield* isLost(error) ? Effect.fail(error) : Effect.void
          }
          const bug = Cause.squash(cause)
          const stack = bug instanceof Error ? { stack: Cause.pretty(cause, { renderErrorCause: true }) } : {}
          yield* queue.fail(task.id, place, { bug: { message: because(bug), ...stack } }, true)
          return yield* say(because(bug))
        })

      let idleSince = Date.now()
      const oneAfterTheOther = (place: string): Effect.Effect<void, TrainError, Files | Device> =>
        Effect.gen(function*() {
          while (!(options.isStopping?.() ?? false)) {
            const task = yield* queue.take(taker, place, left)
            if (task === undefined) {
              if (doing.size > 0) idleSince = Date.now()
              else if (Date.now() - idleSince >= untilIdle * 1000) return
              yield* Effect.sleep(every)
              continue
            }
            yield* stage(`${task.arm}, seed ${task.seed}${task.what === undefined ? "" : `: ${task.what}`}`)
            // uninterruptible but for the job: what became of it is always told
            yield* Effect.uninterruptibleMask((restore) =>
              Effect.gen(function*() {
                const tell = (event: Event) => {
                  const [note, now] = [noteOf(event), doing.get(place)]
                  if (note !== undefined && now !== undefined) now.note = note
                  return onEvent(event)
                }
                const fiber = yield* Effect.fork(restore(perform(task, tell)))
                doing.set(place, { id: task.id, note: "", stop: Effect.asVoid(Fiber.interruptFork(fiber)) })
                const exit = yield* restore(Fiber.await(fiber)).pipe(Effect.onInterrupt(() => Fiber.interrupt(fiber)),
                  Effect.exit, Effect.map(Exit.flatten))
                doing.delete(place)
                idleSince = Date.now()
                yield* settle(task, place, exit)
              })
            )
          }
        })
      const beats = Effect.forever(Effect.zipRight(Effect.sleep(lease * 250), beat))
      const places = Effect.forEach(Array.from({ length: concurrency }, (_, i) => `${id}/${i}`), oneAfterTheOther, {
        concurrency: "unbounded",
        discard: true
      })
      // what is begun is ended or given back before the queue is closed: a race would not wait for it
      const doingAll = yield* Effect.fork(places)
      const beating = yield* Effect.fork(Effect.tapError(beats, () => Fiber.interruptFork(doingAll)))
      const exit = yield* Effect.onInterrupt(Fiber.await(doingAll), () => Fiber.interrupt(doingAll))
      const heart = yield* Fiber.poll(beating)
      yield* Fiber.interrupt(beating)
      if (Option.isSome(heart) && Exit.isFailure(heart.value)) return yield* heart.value
      return yield* exit
    })).pipe(Effect.provide(options.device ?? noDevice))
    yield* againWhenLost(all, stage, "with the next job")
    return ended
  }).pipe(Effect.scoped)
