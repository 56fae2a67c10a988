/** `memsinks launch`: several processes of this program on one machine. */
import * as Effect from "effect/Effect"
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { randomBytes } from "node:crypto"
import * as net from "node:net"
import process from "node:process"
import { createInterface } from "node:readline"
import { setTimeout } from "node:timers"
import { askedOf } from "../collective/Collective.ts"
import { available } from "../collective/Mpi.ts"
import { ranksOf } from "../collective/Ranks.ts"
import { because, CollectiveError, told } from "../Errors.ts"
import { hasColor } from "../Terminal.ts"
import type { LaunchOptions } from "./commands/launch.ts"
import * as Edge from "./Edge.ts"

/** Milliseconds that ranks have to stop by themselves when one has failed, and again after each sign to. */
const GRACE = 15_000

/** What Dawn says of every search for an adapter, and concerns nobody. */
const ofDawn = /^Warning: maxDynamic\w+ artificially reduced/

/** This program once more. */
const program = (): ReadonlyArray<string> =>
  "Deno" in globalThis
    ? [process.execPath, "run", "-A", process.argv[1]!]
    : [process.execPath, ...process.execArgv, process.argv[1]!]

const freePort = () =>
  new Promise<number>((resolve, reject) => {
    const server = net.createServer().on("error", reject).listen(0, "127.0.0.1", () => {
      const { port } = server.address() as net.AddressInfo
      server.close(() => resolve(port))
    })
  })

/** The mpirun that belongs to the MPI that ranks would load, and its options; undefined where there is none. */
const mpirun = async (ranks: number): Promise<
  { readonly command: string; readonly words: ReadonlyArray<string>; readonly gentle: NodeJS.Signals } | undefined
> => {
  for (const [command, launcher] of [["mpirun.openmpi", "OMPI"], ["mpirun", "OMPI"], ["mpirun.mpich", "PMI"], [
    "mpirun",
    "PMI"
  ]] as const) {
    const { stdout } = spawnSync(command, ["--version"], { encoding: "utf8" })
    const isOpen = /Open MPI|OpenRTE/.test(stdout ?? "")
    if (stdout === null || stdout === "" || isOpen !== (launcher === "OMPI")) continue
    const name = await available(process.env, launcher)
    if (name === undefined || isOpen !== name.startsWith("Open MPI")) continue
    return {
      command,
      // Open MPI's passes this one on; others it takes for itself, and kills the ranks within a second
      gentle: isOpen ? "SIGUSR2" : "SIGTERM",
      // a rank has threads of its own
      words: [
        ...isOpen ? ["--bind-to", "none", "--oversubscribe"] : [],
        "-n",
        String(ranks)
      ]
    }
  }
  return undefined
}

interface Ended {
  readonly rank: number
  readonly code: number
  readonly signal: NodeJS.Signals | null
}

const sentence = ({ code, rank, signal }: Ended, of: number): string =>
  (of === 1 ? "the ranks " : `rank ${rank} of ${of} `) +
  (signal === null ? `ended with exit code ${code}` : `was ended by ${signal}`) +
  (signal === "SIGKILL" ? ", as the system does where memory runs out" : "")

/** Milliseconds in which ranks that have told what is wrong end, all of them. */
const LEAVING = 2000

/**
 * Runs programs side by side to their end; the first that fails, and none if all are well. They are in process groups of
 * their own, so that what the terminal sends comes here alone: who is interrupted asks all of them once to stop, and waits.
 */
const runAll = (starts: ReadonlyArray<() => ChildProcess>,
  gentle: NodeJS.Signals): Effect.Effect<Ended | undefined, CollectiveError> =>
  Effect.async<Ended | undefined, CollectiveError>((resume) => {
    const running = new Set<ChildProcess>()
    const signal = (name: NodeJS.Signals) => {
      for (const child of running) child.kill(name)
    }
    const kill = () => signal("SIGKILL")
    process.on("exit", kill)
    let first: Ended | undefined
    let asked = false
    let allEnded: () => void = () => {}
    const over = new Promise<void>((resolve) => allEnded = resolve)
    starts.forEach((start, rank) => {
      const child = start()
      running.add(child)
      child.on("error", (error) => {
        const detail = `rank ${rank} cannot be started: ${because(error)}`
        resume(Effect.fail(new CollectiveError({ reason: "Setup", detail })))
      })
      child.on("close", (code, by) => {
        running.delete(child)
        if (code !== 0 && first === undefined) {
          first = { rank, code: code ?? 1, signal: by }
          if (!asked && running.size > 0) {
            setTimeout(() => {
              if (running.size > 0) Edge.complain(`${sentence(first!, starts.length)}: the others stop`)
            }, by === null ? LEAVING : 0).unref()
            setTimeout(() => signal("SIGTERM"), GRACE).unref()
            setTimeout(kill, 2 * GRACE).unref()
          }
        }
        if (running.size > 0) return
        process.off("exit", kill)
        allEnded()
        resume(Effect.succeed(first))
      })
    })
    return Effect.promise(async () => {
      asked = true
      signal(gentle)
      if (running.size > 0) await over
    })
  })

/** Starts ranks, waits for them, and ends as the first that failed. */
export const runLaunch = ({ ranks, transport, words }: LaunchOptions) =>
  Effect.gen(function*() {
    const [name] = words
    if (name === undefined) {
      return yield* Effect.fail(Edge.usage({
        message: "launch needs a command behind --, e.g. memsinks launch -n 2 -- pretrain --steps 100"
      }))
    }
    const under = yield* Effect.try({
      try: () => {
        // what all ranks would refuse
        askedOf({}, process.env)
        return ranksOf(process.env)
      },
      catch: told((cause) => new CollectiveError({ reason: "Setup", detail: because(cause) }))
    })
    if (under.size > 1) {
      return yield* new CollectiveError({
        reason: "Setup",
        detail:
          `launch was itself started as rank ${under.rank} of ${under.size}: leave launch out, or the other launcher`
      })
    }
    const [command, ...before] = program() as [string, ...Array<string>]
    const mpi = transport === "tcp" ? undefined : yield* Effect.promise(() => mpirun(ranks))
    if (transport === "mpi" && mpi === undefined) {
      return yield* new CollectiveError({
        reason: "Setup",
        detail:
          "there is no mpirun with an MPI library that ranks could use: install one (Debian and Ubuntu: apt-get " +
          "install openmpi-bin or mpich) and the package koffi, or choose --transport tcp"
      })
    }
    // mpirun gives ranks a terminal of its own making: whether there is one is known here
    const plain = hasColor(process.stdout, process.env) ? {} : { NO_COLOR: "1" }
    const environment = { ...process.env, ...plain }
    const starts: ReadonlyArray<() => ChildProcess> = mpi !== undefined
      ? [() =>
        spawn(mpi.command, [...mpi.words, command, ...before, ...words], {
          stdio: "inherit",
          detached: true,
          // whoever runs this as root, as in containers, has meant to
          env: { ...environment, OMPI_ALLOW_RUN_AS_ROOT: "1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1" }
        })]
      : yield* Effect.promise(async () => {
        const meeting = {
          ...environment,
          WORLD_SIZE: String(ranks),
          MASTER_ADDR: "127.0.0.1",
          MASTER_PORT: String(await freePort()),
          MEMSINKS_TOKEN: randomBytes(16).toString("hex")
        }
        return Array.from({ length: ranks }, (_, rank) => () => {
          const child = spawn(command, [...before, ...words], {
            stdio: rank === 0 ? "inherit" : ["ignore", "pipe", "pipe"],
            detached: true,
            env: { ...meeting, RANK: String(rank), LOCAL_RANK: String(rank) }
          })
          for (const stream of [child.stdout, child.stderr]) {
            if (stream === null) continue
            createInterface(stream).on("line", (line) => {
              if (!ofDawn.test(line)) Edge.complain(`[rank ${rank}] ${line}`)
            })
          }
          return child
        })
      })
    const failed = yield* runAll(starts, mpi?.gentle ?? "SIGTERM")
    if (failed === undefined) return
    // ranks end like this when they have told why
    if (failed.signal === null && (failed.code === 1 || failed.code === 2)) {
      return yield* Effect.fail(Edge.told(failed.code))
    }
    const detail =
      `${sentence(failed, starts.length)}, which is told above. If it had saved something, that is whole: go on with ` +
      "--resume, also with another number of ranks"
    return yield* new CollectiveError({ reason: "Lost", detail })
  })
