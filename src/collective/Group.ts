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
import type { Ranks } from "./Ranks.ts"
import type { Came, Message, Operation, Transport } from "./Transport.ts"
import { BLOCK as VALUES, packings, travelled, type Wire, wireBytes } from "./Wire.ts"

/** What a rank has exchanged so far, and how long it took: what metrics are made of. */
export interface Times {
  /** Calls that ended. */
  calls: number
  /** Bytes of the values of those calls, as they travel. */
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
  /** Whether the ranks of a host add up before hosts do: what is large goes over the network once a host, not once a rank. */
  readonly hostsFirst: boolean
  /** How ranks reach each other, for people, e.g. `Open MPI 4.1.4`. */
  readonly name: string
  readonly times: Readonly<Times>
  /**
   * Adds up an array over all ranks, in place: each has the sum afterwards, and all have the same bits, from run to run.
   *
   * Values travel as `wire` says (default f32), and so does their sum; a rank's own are rounded like those of the others.
   * They are added in f32, in the order of the ranks, rounded at each addition. Where several hosts have several ranks
   * (`hostsFirst`), those of a host are added up first, in f32, then the sums of the hosts, which travel as `wire` says, in the
   * order of their first ranks; what is small, up to 64 KB of all ranks together, is not.
   * The memory may be a mapped GPU buffer. Nobody else may touch the array until the promise settles. One process alone
   * keeps its values.
   */
  readonly allReduce: (values: Float32Array, wire?: Wire) => Promise<void>
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

const bytesOf = (values: Float32Array): Uint8Array =>
  new Uint8Array(values.buffer, values.byteOffset, values.byteLength)

const blocksOf = (rank: number, bytes: Uint8Array): ReadonlyArray<Message> => {
  const blocks: Array<Message> = []
  for (let at = 0; at < bytes.length; at += BLOCK) blocks.push({ rank, bytes: bytes.subarray(at, at + BLOCK) })
  return blocks
}

/** Which of `length` values are the i-th of `owners` to add up: none, where it is no owner. */
const partOf = (i: number, owners: number, length: number): readonly [from: number, to: number] => {
  const each = Math.ceil(length / owners / VALUES) * VALUES
  return i < owners ? [Math.min(i * each, length), Math.min((i + 1) * each, length)] : [0, 0]
}

/** The ranks of each host, in the order of their first ones. */
const byHost = (hosts: ReadonlyArray<string>): ReadonlyArray<ReadonlyArray<number>> =>
  [...new Set(hosts)].map((host) => hosts.flatMap((other, rank) => other === host ? [rank] : []))

/** How many values of a piece each of `members` adds up at most. */
const eachOf = (length: number, members: number): number =>
  4 * length * members <= SMALL ? length : partOf(0, members, length)[1]

/** Bytes that a rank of so many keeps for sums of arrays of up to `length` values, each of which adds up a part. */
export const keptBytes = (size: number, wire: Wire, length: number): number => {
  const piece = Math.min(length, PIECE / 4)
  const each = eachOf(piece, size)
  const coming = size * Math.ceil(wireBytes(wire, each) / 4) * 4
  return wire === "f32" ? coming : coming + wireBytes(wire, piece) + 4 * each
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
  /** Bytes of memory that are kept from call to call. */
  readonly kept: () => number
  /**
   * Parts with the other ranks: waits for them where all is well, tells them where it `failed`, and gives those that
   * have been asked to stop `patience` milliseconds.
   */
  readonly end: (how: { readonly failed?: string; readonly patience?: number }) => Promise<void>
}

/** Makes the collective calls of a transport. */
export const makeGroup = (
  transport: Transport,
  { hosts, hostsFirst: asked = true, localRank }: {
    readonly hosts: ReadonlyArray<string>
    readonly localRank: number
    readonly hostsFirst?: boolean
  }
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
    body: (all: ReadonlyArray<Came>) => Promise<A>,
    travel = bytes
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
        times.bytes += travel
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

  const everybody = Array.from({ length: size }, (_, other) => other)
  const houses = byHost(hosts)
  const near = houses.length === 1
  const hostsFirst = asked && houses.length > 1 && houses.length < size
  /** Of hosts first: the ranks of this one's host, so many of which own a part, and those that own the same elsewhere. */
  const house = houses.find((ranks) => ranks.includes(rank)) ?? []
  const owners = Math.min(...houses.map((ranks) => ranks.length))
  const peers = houses.map((ranks) => ranks[house.indexOf(rank)]!)

  /** Memory for what comes, what is packed to leave, and what is unpacked, kept from call to call. */
  const kept = { coming: new ArrayBuffer(0), leaving: new ArrayBuffer(0), unpacked: new ArrayBuffer(0) }
  const memory = (what: keyof typeof kept, bytes: number): ArrayBuffer => {
    if (kept[what].byteLength < bytes) kept[what] = new ArrayBuffer(bytes)
    return kept[what]
  }

  const keptNow = () => kept.coming.byteLength + kept.leaving.byteLength + kept.unpacked.byteLength

  /** Which values of a piece are whose to add up, by the place among members. */
  type Share = (i: number) => readonly [from: number, to: number]

  const exchanged = async (
    members: ReadonlyArray<number>,
    toSend: (i: number) => Uint8Array,
    toReceive: (i: number) => Uint8Array
  ): Promise<void> => {
    const messages = (bytes: (i: number) => Uint8Array) =>
      members.flatMap((other, i) => other === rank ? [] : [{ rank: other, bytes: bytes(i) }])
    await transport.exchange(messages(toSend), messages(toReceive))
  }

  /** Adds up, of all members, what is this one's of a piece. */
  const reduce = async (
    piece: Float32Array,
    wire: Wire,
    members: ReadonlyArray<number>,
    share: Share
  ): Promise<void> => {
    const packing = wire === "f32" ? undefined : packings[wire]
    const at = (length: number) => wireBytes(wire, length)
    const mine = piece.subarray(...share(members.indexOf(rank)))
    const packed = packing === undefined
      ? bytesOf(piece)
      : new Uint8Array(memory("leaving", at(piece.length)), 0, at(piece.length))
    packing?.pack(piece, packed)
    const partOf = (i: number) => packed.subarray(...share(i).map(at))
    const bytes = at(mine.length)
    const slot = Math.ceil(bytes / 4) * 4
    const coming = memory("coming", members.length * slot)
    const came = (i: number) => members[i] === rank ? partOf(i) : new Uint8Array(coming, i * slot, bytes)
    await exchanged(members, partOf, came)
    if (mine.length === 0) return
    if (packing === undefined) {
      // the first one's values become the sum; where they are not those to be replaced, the sum is copied there
      const [sum, ...more] = members.map((_, i) => came(i)).map((part) =>
        new Float32Array(part.buffer, part.byteOffset, mine.length)
      )
      for (const part of more) transport.add(sum!, part)
      if (members[0] !== rank) mine.set(sum!)
      return
    }
    packing.unpack(came(0), mine)
    const more = new Float32Array(memory("unpacked", mine.byteLength), 0, mine.length)
    for (let i = 1; i < members.length; i++) {
      packing.unpack(came(i), more)
      transport.add(mine, more)
    }
  }

  /** Gives all members what each has of a piece. */
  const spread = async (
    piece: Float32Array,
    wire: Wire,
    members: ReadonlyArray<number>,
    share: Share
  ): Promise<void> => {
    const packing = wire === "f32" ? undefined : packings[wire]
    const at = (length: number) => wireBytes(wire, length)
    const packed = packing === undefined
      ? bytesOf(piece)
      : new Uint8Array(memory("leaving", at(piece.length)), 0, at(piece.length))
    const partOf = (i: number) => packed.subarray(...share(i).map(at))
    const me = members.indexOf(rank)
    packing?.pack(piece.subarray(...share(me)), partOf(me))
    await exchanged(members, () => partOf(me), partOf)
    packing?.unpack(packed, piece)
  }

  /** Each member adds up its part of a piece, and sends the sum to all. */
  const allReducePiece = async (piece: Float32Array, wire: Wire, members: ReadonlyArray<number>): Promise<void> => {
    const share: Share = (i) => partOf(i, members.length, piece.length)
    await reduce(piece, wire, members, share)
    await spread(piece, wire, members, share)
  }

  const allReduce = (values: Float32Array, wire: Wire = "f32"): Promise<void> =>
    run(`allReduce of ${wire}`, values.byteLength, async () => {
      const small = values.byteLength * size <= SMALL
      if (wire === "f32" && transport.sum !== undefined && (near || !small)) return transport.sum(values, near)
      const step = PIECE / 4
      for (let at = 0; at < values.length; at += step) {
        const piece = values.subarray(at, at + step)
        if (small) {
          // every rank adds up all of it: that is one exchange less
          await reduce(piece, wire, everybody, () => [0, piece.length])
          if (wire !== "f32") travelled(piece, wire)
        } else if (hostsFirst) {
          const share: Share = (i) => partOf(i, owners, piece.length)
          // within a host packing takes longer than it saves
          await reduce(piece, "f32", house, share)
          const mine = piece.subarray(...share(house.indexOf(rank)))
          if (mine.length > 0) await allReducePiece(mine, wire, peers)
          await spread(piece, "f32", house, share)
        } else await allReducePiece(piece, wire, everybody)
      }
    }, wireBytes(wire, values.length))

  const gathered = (all: ReadonlyArray<Came>, own: Uint8Array) => {
    const parts = all.map(({ bytes }, other) => other === rank ? own : new Uint8Array(new ArrayBuffer(bytes)))
    return { parts, receive: others.flatMap((other) => blocksOf(other, parts[other]!)) }
  }

  return {
    rank,
    size,
    localRank,
    hosts,
    hostsFirst,
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
    kept: keptNow,
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
