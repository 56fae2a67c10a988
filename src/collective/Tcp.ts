/**
 * Ranks over TCP, where there is no MPI: every rank has a connection with every other. Rank 0 listens at MASTER_ADDR and
 * MASTER_PORT, and tells those that come where the others are. Who joins must know the secret MEMSINKS_TOKEN, which is
 * never sent; what ranks exchange is not encrypted.
 */
import { createHmac, randomBytes, timingSafeEqual } from "node:crypto"
import * as net from "node:net"
import { hostname } from "node:os"
import { clearInterval, clearTimeout, setInterval, setTimeout } from "node:timers"
import { setTimeout as sleep } from "node:timers/promises"
import { because, CollectiveError } from "../Errors.ts"
import type { Environment, Ranks } from "./Ranks.ts"
import { addTo, type Came, operations, type Transport } from "./Transport.ts"

/** A frame is a header (a kind, a number, how many bytes follow) and bytes. `say` is JSON, before a link is trusted. */
const HEADER = 16
const kinds = ["say", "arrive", "data", "beat", "abort"] as const
type Kind = (typeof kinds)[number]

/** Bytes that a frame other than data may have. */
const FRAME_BYTES = 2 ** 16

/** Of the frames: ranks of other versions are refused. */
const PROTOCOL = 2

/** Milliseconds between signs of life. */
const BEAT = 1000

/** One connection: frames in both directions. */
class Link {
  /** Where the bytes of data go that come next, in turn. */
  private readonly wanted: Array<{ readonly bytes: Uint8Array; filled: number; readonly done: () => void }> = []
  /** Data that came before anybody wanted it. */
  private early: Array<Uint8Array> = []
  private readonly header = Buffer.alloc(HEADER)
  private headed = 0
  private kind: Kind = "beat"
  /** Bytes of the frame that are still to come. */
  private rest = 0
  private parts: Array<Buffer> = []
  /** When something came last. */
  heard = performance.now()
  /** The other has shown that it knows the secret: it may send more than words. */
  trusted = false
  /** The other has come to its end: that it hangs up is no loss. */
  ended = false
  /** Frames that came before anybody listened. */
  private held: Array<readonly [kind: Kind, value: number, bytes: Buffer]> = []
  private broken: string | undefined
  private onFrame: ((kind: Kind, value: number, bytes: Buffer) => void) | undefined
  private onBroken: (why: string) => void = () => {}

  constructor(readonly socket: net.Socket) {
    socket.setNoDelay(true)
    socket.on("data", (chunk: Buffer) => this.take(chunk))
    socket.on("error", (error) => this.breaks(because(error)))
    socket.on("close", () => this.breaks("its connection was closed"))
  }

  private breaks(why: string): void {
    this.broken ??= why
    this.onBroken(this.broken)
  }

  /** Who hears of frames that are no data, and of the end of the link; also of those that came before. */
  listen(onFrame: (kind: Kind, value: number, bytes: Buffer) => void, onBroken: (why: string) => void): void {
    this.onFrame = onFrame
    this.onBroken = onBroken
    while (this.onFrame !== undefined && this.held.length > 0) this.onFrame(...this.held.shift()!)
    if (this.broken !== undefined) onBroken(this.broken)
  }

  private take(chunk: Buffer): void {
    this.heard = performance.now()
    let at = 0
    while (at < chunk.length) {
      if (this.headed < HEADER) {
        const taken = chunk.copy(this.header, this.headed, at, at + HEADER - this.headed)
        this.headed += taken
        at += taken
        if (this.headed < HEADER) return
        const kind = kinds[this.header.readUInt32LE(0)]
        this.rest = this.header.readDoubleLE(8)
        if (kind === undefined || !(this.rest >= 0) || (kind !== "data" && this.rest > FRAME_BYTES) ||
          (!this.trusted && kind !== "say"))
        {
          this.breaks("what it sends is nothing that ranks of this version send")
          return void this.socket.destroy()
        }
        this.kind = kind
      }
      const part = chunk.subarray(at, at + this.rest)
      at += part.length
      this.rest -= part.length
      if (this.kind === "data") this.fill(part)
      else this.parts.push(part)
      if (this.rest > 0) return
      this.headed = 0
      if (this.kind === "data") continue
      const bytes = Buffer.concat(this.parts)
      this.parts = []
      const frame = [this.kind, this.header.readUInt32LE(4), bytes] as const
      if (this.onFrame === undefined) this.held.push(frame)
      else this.onFrame(...frame)
    }
  }

  private fill(part: Uint8Array): void {
    while (part.length > 0) {
      const next = this.wanted[0]
      if (next === undefined) return void this.early.push(part)
      const now = part.subarray(0, next.bytes.length - next.filled)
      next.bytes.set(now, next.filled)
      next.filled += now.length
      part = part.subarray(now.length)
      if (next.filled === next.bytes.length) {
        this.wanted.shift()
        next.done()
      }
    }
  }

  /** The next bytes of data. */
  receive(bytes: Uint8Array): Promise<void> {
    return new Promise((done) => {
      if (bytes.length === 0) return done()
      this.wanted.push({ bytes, filled: 0, done })
      const early = this.early
      this.early = []
      for (const part of early) this.fill(part)
    })
  }

  /** Ends when the bytes are no longer needed here. */
  send(kind: Kind, value: number, bytes: Uint8Array): Promise<void> {
    const header = Buffer.alloc(HEADER)
    header.writeUInt32LE(kinds.indexOf(kind), 0)
    header.writeUInt32LE(value, 4)
    header.writeDoubleLE(bytes.length, 8)
    return new Promise((done) => {
      this.socket.cork()
      this.socket.write(header)
      this.socket.write(bytes, () => done())
      this.socket.uncork()
    })
  }

  say(words: object): void {
    void this.send("say", 0, Buffer.from(JSON.stringify(words)))
  }

  /** What the other says next, as ranks meet. */
  hear(): Promise<Words> {
    return new Promise((resolve, reject) =>
      this.listen((_, __, bytes) => {
        this.onFrame = undefined
        try {
          const words = JSON.parse(bytes.toString("utf8")) as Words
          if (words.refused === undefined) resolve(words)
          else reject(setup(words.refused))
        } catch (error) {
          reject(error)
        }
      }, (why) => reject(new Error(why)))
    )
  }
}

/** What ranks say to each other as they meet. */
interface Words {
  readonly protocol?: number
  readonly rank?: number
  readonly size?: number
  readonly host?: string
  readonly port?: number
  readonly nonce?: string
  readonly proof?: string
  readonly refused?: string
  readonly table?: ReadonlyArray<Place>
}

/** Where a rank is found. */
interface Place {
  readonly host: string
  readonly address: string
  readonly port: number
}

const setup = (detail: string): CollectiveError => new CollectiveError({ reason: "Setup", detail })

/** Where the ranks meet, and their secret. */
const meetingOf = (environment: Environment) => {
  const host = environment["MASTER_ADDR"]?.trim() || "127.0.0.1"
  const port = Number(environment["MASTER_PORT"]?.trim() || NaN)
  if (!Number.isInteger(port) || port < 1 || port > 65535) {
    throw setup(
      `MASTER_PORT must be a port from 1 to 65535 that is free on the machine of rank 0, got ${
        JSON.stringify(environment["MASTER_PORT"] ?? "")
      }: memsinks launch sets it; on several machines, give all ranks the same MASTER_ADDR and MASTER_PORT`
    )
  }
  const token = environment["MEMSINKS_TOKEN"]?.trim() ?? ""
  if (token.length < 8) {
    throw setup(
      "MEMSINKS_TOKEN must be a secret of 8 characters or more, the same for all ranks: by it ranks over TCP " +
        "prove that they belong together. memsinks launch makes one; otherwise give all ranks the same, e.g. of openssl " +
        "rand -hex 16"
    )
  }
  return { host, port, token }
}

export interface TcpOptions {
  /** Milliseconds in which ranks must find each other. Default: one minute. */
  readonly joining?: number
  /** Milliseconds after which a rank that gives no sign of life is lost. Default: one minute. */
  readonly timeout?: number
}

/** What to do when a rank is lost. */
const advice = "Its own output may say why; start all ranks again with --resume to go on from the last checkpoint"

/** Connects to all other ranks: the link to each, and where each is. */
const join = async (
  { rank, size }: Ranks,
  { host, port, token }: ReturnType<typeof meetingOf>,
  joining: number
): Promise<{ readonly links: ReadonlyMap<number, Link>; readonly table: ReadonlyArray<Place> }> => {
  const links = new Map<number, Link>()
  const places = new Map<number, Place>()
  const deadline = performance.now() + joining
  const seconds = Math.round(joining / 1000)
  const proofOf = (who: string, nonce: string) =>
    createHmac("sha256", token).update(`memsinks ${who} ${nonce}`).digest("hex")
  const proves = (words: Words, who: string, nonce: string) => {
    const [is, should] = [Buffer.from(words.proof ?? ""), Buffer.from(proofOf(who, nonce))]
    return is.length === should.length && timingSafeEqual(is, should)
  }
  const wrongToken = () => setup("the secrets MEMSINKS_TOKEN of two ranks differ: give all ranks the same")

  let whole: () => void = () => {}
  const allCame = new Promise<void>((resolve) => whole = resolve)
  /** Ranks that come to this one: at rank 0 all, elsewhere those above. */
  const expected = rank === 0 ? size - 1 : size - 1 - rank
  if (expected === 0) whole()

  /** Somebody comes; a stranger is let go without a word about the secret. */
  const admit = async (socket: net.Socket): Promise<void> => {
    const link = new Link(socket)
    const impatient = setTimeout(() => socket.destroy(), Math.min(10_000, joining))
    const refuse = (refused: string) => {
      link.say({ refused })
      socket.end()
    }
    try {
      const hello = await link.hear()
      const nonce = randomBytes(16).toString("hex")
      const other = hello.rank
      link.say({ nonce, proof: proofOf("listener", String(hello.nonce)) })
      const answer = await link.hear()
      if (!proves(answer, `rank ${other}`, nonce)) return refuse(wrongToken().detail)
      if (hello.protocol !== PROTOCOL) return refuse(`rank ${other} runs another version of memsinks than rank ${rank}`)
      if (hello.size !== size) {
        return refuse(`rank ${other} was told of ${hello.size} ranks, but rank ${rank} of ${size}`)
      }
      if (other === undefined || !Number.isInteger(other) || other <= rank || other >= size) {
        return refuse(`a process says that it is rank ${other} of ${size}`)
      }
      if (links.has(other)) return refuse(`two processes say that they are rank ${other}: each needs a RANK of its own`)
      link.trusted = true
      link.say({})
      links.set(other, link)
      places.set(other, { host: String(hello.host), address: socket.remoteAddress!, port: hello.port! })
      if (links.size - (rank === 0 ? 0 : rank) === expected) whole()
    } catch {
      socket.destroy()
    } finally {
      clearTimeout(impatient)
    }
  }

  /** Goes to another rank, which may not be there yet. */
  const visit = async (
    other: number,
    address: string,
    at: number,
    own: (socket: net.Socket) => Promise<number> = async () => 0
  ): Promise<Link> => {
    for (;;) {
      const socket = net.connect({ host: address, port: at })
      try {
        await new Promise<void>((resolve, reject) => {
          socket.once("connect", resolve)
          socket.once("error", reject)
          socket.setTimeout(Math.max(1, deadline - performance.now()), () => reject(new Error("no answer")))
        })
        socket.setTimeout(0)
        const link = new Link(socket)
        const nonce = randomBytes(16).toString("hex")
        link.say({ protocol: PROTOCOL, rank, size, host: hostname(), port: await own(socket), nonce })
        const answer = await link.hear()
        if (!proves(answer, "listener", nonce)) throw wrongToken()
        link.trusted = true
        link.say({ proof: proofOf(`rank ${rank}`, String(answer.nonce)) })
        // nothing else is sent before the other trusts this one
        await link.hear()
        links.set(other, link)
        return link
      } catch (error) {
        socket.destroy()
        if (error instanceof CollectiveError) throw error
        if (performance.now() + 100 > deadline) {
          throw setup(
            `rank ${other} at ${address}:${at} did not answer rank ${rank} within ${seconds} s (${
              because(error)
            }): see that it was started, that MASTER_ADDR and MASTER_PORT are its, and that no firewall is between`
          )
        }
        await sleep(100)
      }
    }
  }

  const server = net.createServer((socket) => void admit(socket))
  const listen = (address: string, at: number) =>
    new Promise<number>((resolve, reject) => {
      server.once("error", (error) =>
        reject(
          setup(
            `rank ${rank} cannot listen at ${address}:${at} (${because(error)}): choose a free MASTER_PORT, and a ` +
              "MASTER_ADDR of the machine of rank 0"
          )
        ))
      server.listen(at, address, () => resolve((server.address() as net.AddressInfo).port))
    })
  const late = (missing: ReadonlyArray<number>) =>
    setup(
      `rank ${missing.join(", ")} of ${size} did not come within ${seconds} s: see that all were started, with the ` +
        "same MASTER_ADDR and MASTER_PORT"
    )
  const missing = () =>
    Array.from({ length: size }, (_, other) => other).filter((other) => other > rank && !links.has(other))
  let timer: NodeJS.Timeout | undefined
  const inTime = <A>(body: Promise<A>): Promise<A> =>
    Promise.race([
      body,
      new Promise<never>((_, reject) => timer = setTimeout(() => reject(late(missing())), deadline - performance.now()))
    ]).finally(() => clearTimeout(timer))

  try {
    if (rank === 0) {
      await listen(host, port)
      await inTime(allCame)
      const table = Array.from({ length: size }, (_, other) =>
        places.get(other) ?? { host: hostname(), address: host, port })
      for (const link of links.values()) link.say({ table })
      return { links, table }
    }
    // where others find this one is where rank 0 sees it come from
    const first = await visit(0, host, port, (socket) => listen(socket.localAddress!, 0))
    const { table } = await inTime(first.hear())
    for (let other = 1; other < rank; other++) {
      await visit(other, table![other]!.address, table![other]!.port)
    }
    await inTime(allCame)
    return { links, table: table! }
  } catch (error) {
    const why = error instanceof CollectiveError ? error.detail : because(error)
    for (const { socket } of links.values()) socket.destroy()
    throw error instanceof CollectiveError ? error : setup(`rank ${rank} could not join the others: ${why}`)
  } finally {
    server.close()
  }
}

/** Finds the other ranks. Rejects with CollectiveError Setup when not all come in time. */
export const makeTcp = async (
  ranks: Ranks,
  environment: Environment,
  { joining = 60_000, timeout = 60_000 }: TcpOptions = {}
): Promise<Transport> => {
  const { rank, size } = ranks
  const { links, table } = await join(ranks, meetingOf(environment), joining)
  let tell: (error: CollectiveError) => void = () => {}
  let failure: CollectiveError | undefined
  const fail = (reason: CollectiveError["reason"], other: number, detail: string) => {
    failure ??= new CollectiveError({ reason, rank: other, detail: `rank ${other} on ${table[other]!.host} ${detail}` })
    tell(failure)
  }
  const arrivals: Array<Array<Came>> = Array.from({ length: size }, () => [])
  let looked: () => void = () => {}
  for (const [other, link] of links) {
    link.listen((kind, value, bytes) => {
      if (kind === "abort") fail("Aborted", other, `gave up: ${bytes.toString("utf8")}`)
      if (kind !== "arrive") return
      const operation = operations[value]!
      link.ended = operation === "end"
      arrivals[other]!.push({ operation, bytes: bytes.readDoubleLE(0) })
      looked()
    }, (why) => {
      if (!link.ended) fail("Lost", other, `is lost: ${why}. ${advice}`)
    })
  }

  let ticked = performance.now()
  const beat = setInterval(() => {
    const now = performance.now()
    // whoever was busy for long has not read what came meanwhile
    const wasBusy = now - ticked > 3 * BEAT
    ticked = now
    for (const [other, link] of links) {
      if (wasBusy) link.heard = now
      if (!link.ended && now - link.heard > timeout) {
        fail("Timeout", other,
          `gave no sign of life for ${Math.round(timeout / 1000)} s: it hangs, or the link to it ` +
            `is cut. ${advice}`)
      }
      void link.send("beat", 0, new Uint8Array())
    }
  }, BEAT)
  beat.unref()

  return {
    name: "TCP",
    rank,
    size,
    arrive: async (mine) => {
      const bytes = Buffer.alloc(8)
      bytes.writeDoubleLE(mine.bytes)
      for (const link of links.values()) void link.send("arrive", operations.indexOf(mine.operation), bytes)
      arrivals[rank]!.push(mine)
      await new Promise<void>((resolve) => {
        looked = () => {
          if (arrivals.every((came) => came.length > 0)) resolve()
        }
        looked()
      })
      return arrivals.map((came) => came.shift()!)
    },
    exchange: async (send, receive) => {
      await Promise.all([
        ...receive.map((one) => links.get(one.rank)!.receive(one.bytes)),
        ...send.map((one) => links.get(one.rank)!.send("data", 0, one.bytes))
      ])
    },
    add: addTo,
    abort: (reason) => {
      const bytes = Buffer.from(reason.slice(0, FRAME_BYTES / 4))
      for (const link of links.values()) void link.send("abort", 0, bytes)
    },
    onFailure: (listen) => {
      tell = listen
      if (failure !== undefined) tell(failure)
    },
    close: async () => {
      clearInterval(beat)
      for (const link of links.values()) {
        link.ended = true
        link.socket.end()
        // whoever does not hang up as well is not waited for
        link.socket.unref()
      }
    }
  }
}
