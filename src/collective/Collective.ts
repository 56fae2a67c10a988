/** The service `Collective`: the ranks that train one model, and how they find each other. */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import { hostname } from "node:os"
import process from "node:process"
import { because, CollectiveError, told } from "../Errors.ts"
import { type CollectiveService, type Group, makeGroup, type Times } from "./Group.ts"
import { makeMpi } from "./Mpi.ts"
import { type Environment, type Ranks, ranksOf } from "./Ranks.ts"
import { makeTcp } from "./Tcp.ts"
import { wireBytes } from "./Wire.ts"

export type { CollectiveService, Times } from "./Group.ts"
export type { Wire } from "./Wire.ts"

const lost = (cause: unknown): CollectiveError => new CollectiveError({ reason: "Lost", detail: because(cause), cause })

/** A call of a Collective as an Effect. */
export const call = <A>(body: () => Promise<A>): Effect.Effect<A, CollectiveError> =>
  Effect.tryPromise({ try: body, catch: told(lost) as (cause: unknown) => CollectiveError })

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
    hostsFirst: false,
    name: "one process",
    times,
    allReduce: (values, wire = "f32") => done(wireBytes(wire, values.length), undefined),
    broadcast: (bytes = new Uint8Array()) => done(bytes.byteLength, bytes),
    gather: (bytes) => done(bytes.byteLength, [bytes]),
    allGather: (bytes) => done(bytes.byteLength, [bytes]),
    barrier: () => done(0, undefined),
    abort: (reason) => {
      failure ??= new CollectiveError({ reason: "Aborted", rank: 0, detail: `rank 0 gave up: ${reason}` })
    }
  }
}

/** How the ranks find and reach each other. */
export interface CollectiveOptions {
  /**
   * `mpi`; `tcp`, at MASTER_ADDR and MASTER_PORT; `auto`: what the launcher is of. Default: the environment variable
   * MEMSINKS_TRANSPORT, else `auto`.
   */
  readonly transport?: "auto" | "mpi" | "tcp"
  /**
   * Seconds after which a rank that does not come (MPI), or gives no sign of life (TCP), is given up. Default: the
   * environment variable MEMSINKS_RANK_TIMEOUT, else 600 for MPI, 60 for TCP.
   */
  readonly timeout?: number
  /**
   * Whether ranks of one host add up before hosts do, where several hosts have several ranks; on where all ranks say so. What
   * the host is called: the environment variable MEMSINKS_HOST, else its name. Default: the environment variable
   * MEMSINKS_HOSTS_FIRST (`on` or `off`), else on.
   */
  readonly hostsFirst?: boolean
  /** Default: the process's. */
  readonly environment?: Environment
}

const setup = (detail: string): CollectiveError => new CollectiveError({ reason: "Setup", detail })

const timeoutOf = (options: CollectiveOptions, environment: Environment): { readonly timeout?: number } => {
  const text = environment["MEMSINKS_RANK_TIMEOUT"]?.trim()
  const seconds = options.timeout ?? (text === undefined || text === "" ? undefined : Number(text))
  if (seconds === undefined) return {}
  if (!(seconds > 0 && seconds < 2 ** 31 / 1000)) {
    throw setup(`the timeout of ranks must be seconds above 0, got ${options.timeout ?? JSON.stringify(text)} ` +
      "(MEMSINKS_RANK_TIMEOUT)")
  }
  return { timeout: seconds * 1000 }
}

const hostsFirstOf = (options: CollectiveOptions, environment: Environment): boolean => {
  const text = environment["MEMSINKS_HOSTS_FIRST"]?.trim() || "on"
  if (text !== "on" && text !== "off") {
    throw setup(`MEMSINKS_HOSTS_FIRST must be on or off, got ${JSON.stringify(text)}`)
  }
  return options.hostsFirst ?? text === "on"
}

/** What is asked for, by options and environment. Throws CollectiveError Setup for what cannot be. */
export const askedOf = (options: CollectiveOptions, environment: Environment) => {
  const asked = (options.transport ?? (environment["MEMSINKS_TRANSPORT"]?.trim() || "auto")).toLowerCase()
  if (asked !== "auto" && asked !== "mpi" && asked !== "tcp") {
    throw setup(`the transport of ranks must be auto, mpi or tcp, got ${JSON.stringify(asked)} (MEMSINKS_TRANSPORT)`)
  }
  return { asked, timeout: timeoutOf(options, environment), hostsFirst: hostsFirstOf(options, environment) } as const
}

/** Meets the other ranks. */
export const connect = async (ranks: Ranks, options: CollectiveOptions, environment: Environment): Promise<Group> => {
  const { asked, hostsFirst, timeout } = askedOf(options, environment)
  const tcp = asked === "tcp" || (asked === "auto" && ranks.launcher === "RANK")
  const transport = await (tcp
    ? makeTcp(ranks, environment, timeout)
    : makeMpi(ranks, environment, { ...timeout, forced: asked === "mpi" }))
  const { localRank } = ranks
  const own = { host: environment["MEMSINKS_HOST"]?.trim() || hostname(), hostsFirst }
  const words = await makeGroup(transport, { localRank, hosts: [] })
    .allGather(new TextEncoder().encode(JSON.stringify(own)))
    .catch(async (error: unknown) => {
      await transport.close(true)
      throw error
    })
  const all = words.map((one) => JSON.parse(new TextDecoder().decode(one)) as typeof own)
  return makeGroup(transport, {
    localRank,
    hosts: all.map(({ host }) => host),
    hostsFirst: all.every((one) => one.hostsFirst)
  })
}

const reasonOf = (error: unknown): string => error instanceof CollectiveError ? error.detail : because(error)

/** Milliseconds that ranks which were asked to stop wait for each other. */
const PATIENCE = 10_000

const meet = (options: CollectiveOptions) =>
  Effect.gen(function*() {
    const environment = options.environment ?? process.env
    const ranks = yield* Effect.try({ try: () => ranksOf(environment), catch: told(lost) })
    if (ranks.size === 1) return makeSingle()
    return yield* Effect.acquireRelease(
      call(() => connect(ranks, options, environment)),
      (group, exit) =>
        Effect.promise(() =>
          group.end(
            Exit.isSuccess(exit)
              ? {}
              : Cause.isInterruptedOnly(exit.cause)
              ? { patience: PATIENCE }
              : { failed: reasonOf(Cause.squash(exit.cause)) }
          )
        )
    )
  })

/**
 * The ranks that train one model, as one of them sees them. A program that provides none is one process, alone.
 *
 * @example
 * ```ts
 * import * as Effect from "effect/Effect"
 * import { Collective } from "memsinks"
 *
 * const main = Effect.gen(function*() {
 *   const { allReduce, gather, rank, size } = yield* Collective
 *   const sums = Float32Array.of(1, 2)
 *   yield* Effect.promise(() => allReduce(sums)) // in place; all ranks have the same bits afterwards
 *   const all = yield* Effect.promise(() => gather(Uint8Array.of(rank))) // to rank 0
 *   console.log(`rank ${rank} of ${size}: ${sums.join(" ")}, heard of ${all.length}`)
 * })
 *
 * // one process here; two by `npx memsinks launch`, mpirun, srun or torchrun
 * await Effect.runPromise(main.pipe(Effect.provide(Collective.layer())))
 * // rank 0 of 1: 1 2, heard of 1
 * ```
 */
export class Collective extends Context.Reference<Collective>()("memsinks/Collective", {
  defaultValue: makeSingle
}) {
  /** One process: every sum is the value itself. */
  static readonly single: Layer.Layer<Collective> = Layer.sync(Collective, makeSingle)

  /**
   * The ranks that the process's launcher started: `mpirun`, `srun`, torchrun or `memsinks launch`; one, where there is
   * no launcher. When the scope closes all ranks part together; where it closes with a failure, the others are told.
   */
  static readonly layer = (options: CollectiveOptions = {}): Layer.Layer<Collective, CollectiveError> =>
    Layer.scoped(Collective, meet(options))
}
