/**
 * What several processes that train one model say to each other, over any transport.
 *
 * A rank is one such process, with a GPU of its own. All ranks make the same calls in the same order; a call ends when
 * what it needs from the others has come. Calls that are made while others are under way wait for their turn. The methods
 * are plain functions of promises, for a step's hot path; they reject with CollectiveError, and once one did, so do all
 * later ones: ranks that lost each other do not find back, they stop, and go on from the last checkpoint.
 */
import { setTimeout } from "node:timers"
import { CollectiveError } from "../Errors.ts"
import { fromHalf, toHalf } from "../Float16.ts"
import type { Ranks } from "./Ranks.ts"
import type { Came, Message, Operation, Transport } from "./Transport.ts"

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

/** What the ranks of one training say to each other. Every rank makes the same calls in the same order. */
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

/** Bytes of an array that are exchanged at once: what is received fits a processor's cache. */
const PIECE = 4 * 2 ** 20

/** Bytes received from all ranks together, up to which every rank adds up everything. */
const SMALL = 2 ** 16

/** Bytes sent at once by broadcast and gather: below what MPI counts in 32 bits. */
const BLOCK = 2 ** 28

const bytesOf = (array: Float32Array | Uint16Array, from = 0, to = array.length): Uint8Array =>
  new Uint8Array(array.buffer, array.byteOffset + from * array.BYTES_PER_ELEMENT, (to - from) * array.BYTES_PER_ELEMENT)

const blocksOf = (rank: number, bytes: Uint8Array): ReadonlyArray<Message> => {
  const blocks: Array<Message> = []
  for (let at = 0; at < bytes.length; at += BLOCK) blocks.push({ rank, bytes: bytes.subarray(at, at + BLOCK) })
  return blocks
}

let halves: Float32Array | undefined

/** Every half as f32. */
const tableOfHalves = (): Float32Array => halves ??= Float32Array.from({ length: 65536 }, (_, bits) => fromHalf(bits))

/** Which values of `length` are a rank's to add up. */
const partOf = (rank: number, size: number, length: number): readonly [from: number, to: number] => {
  const each = Math.ceil(length / size)
  return [Math.min(rank * each, length), Math.min((rank + 1) * each, length)]
}

/** What a difference in calls says to people. */
const mismatch = (all: ReadonlyArray<Came>): CollectiveError | undefined => {
  const say = ({ bytes, operation }: Came) => operation === "end" ? "ends" : `calls ${operation} of ${bytes} bytes`
  const [first] = all
  const ragged = first!.operation === "gather" || first!.operation === "allGather" || first!.operation === "broadcast"
  const rank = all.findIndex((one) => one.operation !== first!.operation || (!ragged && one.bytes !== first!.bytes))
  if (rank < 0) return undefined
  return new CollectiveError({
    reason: "Mismatch",
    rank,
    detail:
      `rank ${rank} ${say(all[rank]!)} where rank 0 ${say(first!)}: all ranks must run the same program with the ` +
      "same configuration on the same data"
  })
}

/** The collective calls over a transport, and their end. */
export interface Group extends CollectiveService {
  /**
   * Parts with the other ranks: waits for them where all is well, tells them where it `failed`, and gives those that
   * have been asked to stop `patience` milliseconds.
   */
  readonly end: (how: { readonly failed?: string; readonly patience?: number }) => Promise<void>
}

/** Makes the collective calls of a transport. */
export const makeGroup = (
  transport: Transport,
  { hosts, localRank }: { readonly hosts: ReadonlyArray<string>; readonly localRank: number }
): Group => {
  const { rank, size } = transport
  const times: Times = { calls: 0, bytes: 0, waiting: 0, exchanging: 0 }
  const others = Array.from({ length: size }, (_, other) => other).filter((other) => other !== rank)
  let failure: CollectiveError | undefined
  let reject: (error: CollectiveError) => void = () => {}
  const failed = new Promise<never>((_, no) => reject = no)
  failed.catch(() => {})
  const fail = (error: CollectiveError): CollectiveError => {
    if (failure === undefined) {
      failure = error
      reject(error)
    }
    return failure
  }
  transport.onFailure((error) => void fail(error))

  let last: Promise<unknown> = Promise.resolve()
  /** In turn: arrive, see that all do the same, exchange. */
  const run = <A>(
    operation: Operation,
    bytes: number,
    body: (all: ReadonlyArray<Came>) => Promise<A>
  ): Promise<A> => {
    const turn = async (): Promise<A> => {
      if (failure !== undefined) throw failure
      try {
        const begun = performance.now()
        const all = await Promise.race([transport.arrive({ operation, bytes }), failed])
        const different = mismatch(all)
        if (different !== undefined) throw different
        const met = performance.now()
        const result = await Promise.race([body(all), failed])
        times.calls++
        times.bytes += bytes
        times.waiting += met - begun
        times.exchanging += performance.now() - met
        return result
      } catch (error) {
        throw error instanceof CollectiveError ? fail(error) : error
      }
    }
    const mine = last.then(turn)
    last = mine.catch(() => {})
    return mine
  }

  /** Memory for what the others send of a piece, kept from call to call. */
  let scratch = new ArrayBuffer(0)
  const memory = (bytes: number): ArrayBuffer => {
    if (scratch.byteLength < bytes) scratch = new ArrayBuffer(bytes)
    return scratch
  }

  const sumOfFloats = (parts: ReadonlyArray<Float32Array>, into: Float32Array): void => {
    // the first rank's values become the sum; where they are not those to be replaced, the sum is copied there
    const sum = parts[0]!
    for (const part of parts.slice(1)) transport.add(sum, part)
    if (sum !== into) into.set(sum)
  }
  const sumOfHalves = (parts: ReadonlyArray<Uint16Array>, into: Uint16Array): void => {
    const table = tableOfHalves()
    const float = new Float32Array(1)
    for (let i = 0; i < into.length; i++) {
      float[0] = table[parts[0]![i]!]!
      for (let part = 1; part < size; part++) float[0] += table[parts[part]![i]!]!
      into[i] = toHalf(float[0])
    }
  }

  /** Each rank adds up its part of a piece, and sends the sum to all. */
  const allReducePiece = async <T extends Float32Array | Uint16Array>(
    piece: T,
    make: (buffer: ArrayBuffer, offset: number, length: number) => T,
    sum: (parts: ReadonlyArray<T>, into: T) => void
  ): Promise<void> => {
    // of a small one, every rank adds up all of it: that is one exchange less
    const whole = piece.byteLength * size <= SMALL
    const part = (of: number) => whole ? [0, piece.length] as const : partOf(of, size, piece.length)
    const partTo = (other: number) => bytesOf(piece, ...part(other))
    const mine = piece.subarray(...part(rank)) as T
    const length = mine.byteLength
    const buffer = memory(others.length * length)
    const theirs = others.map((other, i) => ({ rank: other, bytes: new Uint8Array(buffer, i * length, length) }))
    await transport.exchange(others.map((other) => ({ rank: other, bytes: partTo(other) })), theirs)
    const parts = theirs.map(({ bytes }) => make(buffer, bytes.byteOffset, mine.length))
    parts.splice(rank, 0, mine)
    sum(parts, mine)
    if (whole) return
    await transport.exchange(
      others.map((other) => ({ rank: other, bytes: bytesOf(mine) })),
      others.map((other) => ({ rank: other, bytes: partTo(other) }))
    )
  }

  const allReduce = (values: Float32Array | Uint16Array): Promise<void> =>
    run(values instanceof Float32Array ? "allReduce of f32" : "allReduce of f16", values.byteLength, async () => {
      if (values instanceof Float32Array && transport.sum !== undefined && values.byteLength > SMALL) {
        return transport.sum(values)
      }
      const step = PIECE / values.BYTES_PER_ELEMENT
      for (let at = 0; at < values.length; at += step) {
        const piece = values.subarray(at, at + step)
        if (piece instanceof Float32Array) {
          await allReducePiece(piece, (...where) => new Float32Array(...where), sumOfFloats)
        } else await allReducePiece(piece, (...where) => new Uint16Array(...where), sumOfHalves)
      }
    })

  const gathered = (all: ReadonlyArray<Came>, own: Uint8Array) => {
    const parts = all.map(({ bytes }, other) => other === rank ? own : new Uint8Array(new ArrayBuffer(bytes)))
    return { parts, receive: others.flatMap((other) => blocksOf(other, parts[other]!)) }
  }

  return {
    rank,
    size,
    localRank,
    hosts,
    name: transport.name,
    times,
    allReduce,
    broadcast: (given) =>
      run("broadcast", rank === 0 ? given?.length ?? 0 : 0, async (all) => {
        if (rank === 0) {
          const bytes = given ?? new Uint8Array()
          await transport.exchange(others.flatMap((other) => blocksOf(other, bytes)), [])
          return bytes
        }
        const bytes = new Uint8Array(new ArrayBuffer(all[0]!.bytes))
        await transport.exchange([], blocksOf(0, bytes))
        return bytes
      }),
    gather: (bytes) =>
      run("gather", bytes.length, async (all) => {
        if (rank !== 0) {
          await transport.exchange(blocksOf(0, bytes), [])
          return []
        }
        const { parts, receive } = gathered(all, bytes)
        await transport.exchange([], receive)
        return parts
      }),
    allGather: (bytes) =>
      run("allGather", bytes.length, async (all) => {
        const { parts, receive } = gathered(all, bytes)
        await transport.exchange(others.flatMap((other) => blocksOf(other, bytes)), receive)
        return parts
      }),
    barrier: () => run("barrier", 0, async () => {}),
    abort: (reason) => {
      if (failure !== undefined) return
      transport.abort(reason)
      fail(new CollectiveError({ reason: "Aborted", rank, detail: `rank ${rank} gave up: ${reason}` }))
    },
    end: async ({ failed: why, patience }) => {
      if (failure === undefined && why !== undefined) {
        transport.abort(why)
        fail(new CollectiveError({ reason: "Aborted", rank, detail: `rank ${rank} gave up: ${why}` }))
      }
      if (failure === undefined) {
        const timer = patience === undefined ?
          undefined :
          setTimeout(() => fail(new CollectiveError({ reason: "Timeout", detail: "not all ranks came to the end" })),
            patience)
        await run("end", 0, async () => {}).catch(() => {})
        clearTimeout(timer)
      }
      await transport.close(failure !== undefined)
    }
  }
}
