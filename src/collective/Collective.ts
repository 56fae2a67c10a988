/**
 * What several processes that train one model say to each other.
 *
 * A rank is one such process, with a GPU of its own. All ranks make the same calls in the same order; a call ends when
 * what it needs from the others has come. Calls that are made while others are under way wait for their turn. The methods
 * are plain functions of promises, for a step's hot path; they reject with CollectiveError, and once one did, so do all
 * later ones: ranks that lost each other do not find back, they stop, and go on from the last checkpoint.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { hostname } from "node:os"
import { CollectiveError, told } from "../Errors.ts"
import type { Ranks } from "./Ranks.ts"

/** What a rank has exchanged so far, and how long it took: what metrics are made of. */
export interface Times {
  /** Calls that ended. */
  calls: number
  /** Bytes of the values of those calls. */
  bytes: number
  /** Milliseconds until all ranks had come to the same call: what a rank waits for stragglers. */
  waiting: number
  /** Milliseconds of exchange, once all had come. */
  exchanging: number
}

export interface CollectiveService extends Omit<Ranks, "launcher"> {
  /** The machine that each rank runs on, by rank. */
  readonly hosts: ReadonlyArray<string>
  /** How ranks reach each other, for people, e.g. `Open MPI 4.1.4`. */
  readonly name: string
  readonly times: Readonly<Times>
  /**
   * Adds up an array over all ranks, in place: each has the sum afterwards, and all have the same bits, from run to run.
   *
   * `Float32Array`: f32, added in the order of the ranks and rounded at each addition. `Uint16Array`: the bits of f16,
   * added in f32 in the order of the ranks, rounded once; half as much to send. The memory may be a mapped GPU buffer.
   * Nobody else may touch the array until the promise settles.
   */
  readonly allReduce: (values: Float32Array | Uint16Array) => Promise<void>
  /** Rank 0's bytes, to all ranks. What others pass is not looked at. */
  readonly broadcast: (bytes?: Uint8Array) => Promise<Uint8Array>
  /** Every rank's bytes, in the order of the ranks, to rank 0; others get none. They may differ in length. */
  readonly gather: (bytes: Uint8Array) => Promise<ReadonlyArray<Uint8Array>>
  /** Every rank's bytes, in the order of the ranks, to all ranks. They may differ in length. */
  readonly allGather: (bytes: Uint8Array) => Promise<ReadonlyArray<Uint8Array>>
  /** Ends when all ranks have called it. */
  readonly barrier: () => Promise<void>
  /**
   * Gives up: the pending and later calls of all ranks reject with CollectiveError Aborted, which says which rank gave up
   * and why. May be called at any time, also beside a pending call.
   */
  readonly abort: (reason: string) => void
}

/** A call of a Collective as an Effect. */
export const call = <A>(body: () => Promise<A>): Effect.Effect<A, CollectiveError> =>
  Effect.tryPromise({
    try: body,
    catch: told((cause) => new CollectiveError({ reason: "Lost", detail: String(cause), cause })) as (
      cause: unknown
    ) => CollectiveError
  })

const makeSingle = (): CollectiveService => {
  const times: Times = { calls: 0, bytes: 0, waiting: 0, exchanging: 0 }
  let failure: CollectiveError | undefined
  const done = async <A>(bytes: number, value: A): Promise<A> => {
    if (failure !== undefined) throw failure
    times.calls++
    times.bytes += bytes
    return value
  }
  return {
    rank: 0,
    size: 1,
    localRank: 0,
    hosts: [hostname()],
    name: "one process",
    times,
    allReduce: (values) => done(values.byteLength, undefined),
    broadcast: (bytes = new Uint8Array()) => done(bytes.byteLength, bytes),
    gather: (bytes) => done(bytes.byteLength, [bytes]),
    allGather: (bytes) => done(bytes.byteLength, [bytes]),
    barrier: () => done(0, undefined),
    abort: (reason) => {
      failure ??= new CollectiveError({ reason: "Aborted", rank: 0, detail: `rank 0 gave up: ${reason}` })
    }
  }
}

/** The ranks that train one model, as one of them sees them. A program that provides none is one process, alone. */
export class Collective extends Context.Reference<Collective>()("memsinks/Collective", {
  defaultValue: makeSingle
}) {
  /** One process: every sum is the value itself. */
  static readonly single: Layer.Layer<Collective> = Layer.sync(Collective, makeSingle)
}
