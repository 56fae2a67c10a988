/** What carries bytes between ranks. */
import type { CollectiveError } from "../Errors.ts"

/** What a call is, as ranks tell each other of it. */
export const operations = ["none", "allReduce of f32", "allReduce of bf16", "allReduce of int8", "allReduce of int4",
  "broadcast", "gather", "allGather", "barrier", "end"] as const
export type Operation = (typeof operations)[number]

/** What a rank came for, and with how many bytes. */
export interface Came {
  readonly operation: Operation
  readonly bytes: number
}

/** Bytes to or from a rank. */
export interface Message {
  readonly rank: number
  readonly bytes: Uint8Array
}

/** Carries bytes between ranks. Its calls are made one after the other; they reject with CollectiveError. */
export interface Transport {
  /** For people. */
  readonly name: string
  readonly rank: number
  readonly size: number
  /** Tells all ranks what this one came for; what each came for, by rank, once all have come. */
  readonly arrive: (mine: Came) => Promise<ReadonlyArray<Came>>
  /** Sends and receives, all at once. All ranks agree on who sends what to whom, and in which order. */
  readonly exchange: (send: ReadonlyArray<Message>, receive: ReadonlyArray<Message>) => Promise<void>
  /**
   * Adds f32 values up over the ranks, in place and in their order, where the transport itself can; `near`: all of them are
   * on one machine.
   */
  readonly sum?: (values: Float32Array, near: boolean) => Promise<void>
  /** Adds `more` to `sum`, both of f32 and of one length. */
  readonly add: (sum: Float32Array, more: Float32Array) => void
  /** Tells the other ranks that this one gives up. */
  readonly abort: (reason: string) => void
  /** Calls back when a rank is lost or gives up, at any time. */
  readonly onFailure: (tell: (error: CollectiveError) => void) => void
  /** Lets go of the others; all have come to the end, unless it `failed`. */
  readonly close: (failed: boolean) => Promise<void>
}

/** A loop of JavaScript, for a transport that has nothing faster. */
export const addTo = (sum: Float32Array, more: Float32Array): void => {
  for (let i = 0; i < sum.length; i++) sum[i]! += more[i]!
}
