/**
 * Work as plain data: what is to be done is told by a kind and an input that could be written down, never by a live object,
 * so that a job is known by the hash of all that it depends on, and may be done in this process or in another.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { CheckpointError, DataError } from "../../src/Errors.ts"
import type { Device } from "../../src/gpu/Device.ts"
import type { Machine } from "../../src/gpu/Machine.ts"
import { keyOf } from "../../src/Key.ts"
import type { TrainError } from "../../src/train/Trainer.ts"
import type { TrainEvent } from "../../src/train/TrainEvent.ts"
import type { Event } from "./Event.ts"
import type { Store } from "./Store.ts"
import type { Streams } from "./Streams.ts"
import type { Files, keep, Kept } from "./Train.ts"

/** A piece of work on one arm with one seed. */
export interface Job<Input = unknown> {
  /** Which function does it. */
  readonly kind: string
  /** What the arm and its seed are called where it is told of. */
  readonly arm: string
  readonly seed: number
  /** The part of the arm's affairs that it is, which the message begins with where it fails. */
  readonly what?: string
  /** All that the function is given; plain data. */
  readonly input: Input
}

/**
 * Keeps what was asked for last, by plain data that it follows from: so many things, which are made again when they are asked
 * for after that. One is made at a time.
 */
export const lately = <A>(most: number) => {
  /** In the order of their last use. */
  const made = new Map<string, A>()
  const alone = Effect.unsafeMakeSemaphore(1)
  return <E, R>(key: unknown, make: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    alone.withPermits(1)(Effect.gen(function*() {
      const name = keyOf(key)
      const value = made.get(name) ?? (yield* make)
      made.delete(name)
      made.set(name, value)
      if (made.size > most) made.delete(made.keys().next().value!)
      return value
    }))
}

/** What is made once, by its name, and found again from then on. */
export type Once = <A, E, R>(name: string, make: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

/** Where a job is done. */
export interface Workplace {
  readonly machine: Machine
  readonly streams: Streams
  /** Where results of other jobs are found. */
  readonly store: Store
  /** What another job keeps, which has its folder in the store. */
  readonly keptBy: (kind: string, key: unknown) => Effect.Effect<Kept, CheckpointError, Files>
  /** What the job keeps while it is done, which outlives a lost device. */
  readonly kept: Kept
  /** What else is made once a job, and outlives a lost device. */
  readonly once: Once
  readonly onEvent: (event: TrainEvent) => Effect.Effect<void>
  /** Tells of what is no event of a training. */
  readonly tell: (event: Event) => Effect.Effect<void>
  readonly stage: (message: string) => Effect.Effect<void>
}

/** What does the jobs of a kind. */
export interface Work<Input, Output> {
  /** All that the output depends on, plain data: a job whose key is known is never done again. */
  readonly key: (input: Input, at: Pick<Workplace, "machine" | "streams">) => Effect.Effect<
    unknown,
    CheckpointError | DataError,
    Files
  >
  readonly run: (input: Input, at: Workplace) => Effect.Effect<Output, TrainError, Device | Files>
}

/** Where a job's result and what it keeps lie. */
export interface Place {
  /** A folder of its own. Default: in the store, by the hash of its key. */
  readonly folder?: string
  /** What of its checkpoints stays. Default: the last one. */
  readonly keep?: Parameters<typeof keep>[1]
  /** What a trace calls it. */
  readonly span: string
}

/**
 * Has a job done elsewhere, unless its result is known: what comes of it, which is the arm's own affair. Fails where nobody
 * can be asked.
 */
export type Ask = <Output>(
  job: Job,
  key: unknown,
  place: Place
) => Effect.Effect<Effect.Effect<Output, TrainError>, TrainError, Files>

/** Makes ready to have jobs done elsewhere. */
export type HandOut = (asker: {
  readonly machine: Machine
  readonly outDir: string | undefined
  readonly store: Store
  readonly versions: Readonly<Record<string, string>>
  readonly stage: (message: string) => Effect.Effect<void>
}) => Effect.Effect<Ask, TrainError, Files | Scope.Scope>

/** Does jobs: here and now, or elsewhere. Gives what comes out in the order of the jobs. */
export type Runner = <J, A, E, R>(
  jobs: ReadonlyArray<J>,
  work: (job: J, index: number) => Effect.Effect<A, E, R>
) => Effect.Effect<ReadonlyArray<A>, E, R>

/** Does so many jobs at once in this process. */
export const inProcess = (concurrency = 1): Runner => (jobs, work) => Effect.forEach(jobs, work, { concurrency })
