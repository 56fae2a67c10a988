/**
 * Two runs never share a folder, nor two processes a job: whoever works in it holds a file `lock` that names the process, and
 * is a lease: its time of change is set anew again and again, as a sign of life. The lock of a process of this machine that is
 * gone is taken over at once; any other when whoever wants it has seen no sign of life for as long as the lock says, by its own
 * watch: clocks of machines are never compared. Whoever was stopped meanwhile and wakes finds another's name in the lock, and
 * lets go. All that a shared folder needs for that is that of two that make one file one fails, as on NFS.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { execFileSync } from "node:child_process"
import { randomBytes } from "node:crypto"
import * as fs from "node:fs"
import { hostname } from "node:os"
import { dirname, join, resolve } from "node:path"
import process from "node:process"
import { clearInterval, setInterval } from "node:timers"
import * as AtomicFile from "../AtomicFile.ts"
import { positive } from "../Config.ts"
import { because, CheckpointError } from "../Errors.ts"
import { cachedJson } from "../Json.ts"

/** Who holds a folder, as its lock says it. */
export const Holder = Schema.Struct({
  pid: positive,
  /** When the process began, in a form of this system: tells it from a later one with the same number. */
  began: Schema.optional(Schema.String),
  host: Schema.String,
  /** The boot of the host: after another one, none of its processes is left. */
  boot: Schema.optional(Schema.String),
  /** Where `pid` has a meaning: containers number their processes on their own. */
  pids: Schema.optional(Schema.String),
  /** When the folder was taken, ISO 8601. */
  since: Schema.String,
  /** Tells this taking of the folder from every other one; it becomes part of a file's name. */
  token: Schema.String.pipe(Schema.pattern(/^[\w-]{1,64}$/)),
  /** Milliseconds without a sign of life after which the lock is anybody's. Without it, never. */
  lease: Schema.optional(positive)
})

/** Who holds a folder, as its lock says it. */
export interface Holder extends Schema.Schema.Type<typeof Holder> {}

/** `held`: by a process that lives; `stale`: by one that is gone; `unknown`: cannot be judged from this machine. */
export type LockState = "free" | "held" | "stale" | "unknown"

const attempt = <A>(body: () => A): A | undefined => {
  try {
    return body()
  } catch {
    return undefined
  }
}

const codeOf = (error: unknown): string | undefined => (error as NodeJS.ErrnoException | undefined)?.code

/** When a process began; undefined where there is none of this number or the system does not tell. */
const beganOf = (pid: number): string | undefined => {
  if (process.platform === "linux") {
    // after the name, which may hold spaces and parentheses: state, then 18 more fields, then the start in ticks
    const fields = attempt(() => fs.readFileSync(`/proc/${pid}/stat`, "utf8"))?.split(") ").at(-1)?.split(" ")
    // a dead process whose parent has not asked for its exit code is still listed
    return fields === undefined || /^[ZXx]$/.test(fields[0]!) ? undefined : fields[19]
  }
  if (process.platform === "win32") return undefined
  const env = { ...process.env, LC_ALL: "C" }
  const ask = () =>
    execFileSync("ps", ["-o", "lstart=", "-p", String(pid)], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"],
      env })
  return attempt(ask)?.trim() || undefined
}

const isAlive = ({ began, pid }: Holder): boolean => {
  const now = beganOf(pid)
  if (process.platform !== "win32" && now === undefined) {
    // where neither /proc nor ps can be had, the number alone must do
    if (beganOf(process.pid) !== undefined) return false
  } else if (began !== undefined && now !== undefined) return began === now
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return codeOf(error) === "EPERM"
  }
}

const here = () => ({
  host: hostname(),
  boot: attempt(() => fs.readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()),
  pids: attempt(() => fs.readlinkSync("/proc/self/ns/pid"))
})

/** What one look at a holder tells: whether its process, if it is of this machine, lives. */
export const stateOf = (holder: Holder): LockState => {
  const { boot, host, pids } = here()
  if (holder.host !== host || holder.boot !== boot || holder.pids !== pids) return "unknown"
  return isAlive(holder) ? "held" : "stale"
}

/** The lock at a path: its holder, `free` where there is no lock, undefined where the file says nothing. */
const read = (path: string): Holder | "free" | undefined => {
  let text: string
  try {
    text = AtomicFile.readText(path, 1 << 16)
  } catch (error) {
    if (codeOf(error) === "ENOENT") return "free"
    throw error
  }
  return cachedJson(Holder, text)
}

const lockOf = (folder: string) => join(folder, "lock")

/** Who holds a run's folder, and whether that process lives, as far as one look tells. Changes nothing. */
export const peek = (folder: string): { readonly state: LockState; readonly holder?: Holder } => {
  const holder = attempt(() => read(lockOf(folder)))
  if (holder === "free") return { state: "free" }
  if (holder === undefined) return { state: "unknown" }
  const { boot, host } = here()
  // most probably this machine before it was started anew; whoever takes the folder makes sure
  return { state: holder.host === host && holder.boot !== boot ? "stale" : stateOf(holder), holder }
}

/** The last sign of life of locks that this process waits for, and for how many milliseconds it saw none. */
const seen = new Map<string, { readonly sign: string; readonly silent: number; readonly at: number }>()

const signOf = (path: string, holder: Holder): string => `${holder.token} ${attempt(() => fs.statSync(path).mtimeMs)}`

/**
 * For how many milliseconds this process has seen the same sign of life, which it looks at again and again; however long it was
 * stopped itself, that is one look.
 */
export const silenceOf = (path: string, sign: string, lease: number): number => {
  const at = performance.now()
  const before = seen.get(path)
  const silent = before?.sign === sign ? before.silent + Math.min(at - before.at, lease / 4) : 0
  seen.set(path, { sign, silent, at })
  return silent
}

const nameOf = ({ host, pid, since }: Holder): string => `process ${pid} on ${host}, since ${since}`

const refused = (path: string, holder: Holder | undefined, state: LockState): CheckpointError => {
  const remedy = "If that run is gone, take the folder over with --force"
  return new CheckpointError({
    reason: "Mismatch",
    path,
    detail: holder === undefined
      ? `the folder is locked, but the lock does not say by whom. ${remedy}`
      : state === "held"
      ? `another run uses the folder: ${nameOf(holder)}. Wait for it, stop it, or choose another folder`
      : `another run uses the folder: ${nameOf(holder)}, which cannot be asked from here. ${remedy}`
  })
}

const textOf = (holder: Holder) => `${JSON.stringify(holder)}\n`

/** That a lock is another's. */
class Taken extends Error {
  constructor(readonly refusal: CheckpointError, readonly state: LockState, readonly sign: string | undefined,
    readonly lease: number | undefined)
  {
    super(refusal.message)
  }
}

/** How a lock is taken. */
interface How {
  /** What cannot be judged from here, too. */
  readonly force: boolean
  /** A process of this machine that lives, and gives no sign of it, loses its lock as one of any other machine does. */
  readonly strict: boolean
}

/**
 * Takes the lock at `path`; returns the holder it took it from, if any. Throws Taken.
 *
 * A lock must be replaced by one process only: by whoever holds a lock named after it. That one may be left, in turn, and is
 * taken in the same way.
 */
const take = (path: string, me: Holder, how: How): Holder | undefined => {
  if (AtomicFile.create(path, textOf(me))) {
    seen.delete(path)
    return undefined
  }
  const found = read(path)
  if (found === "free") return take(path, me, how)
  const state = found === undefined ? "unknown" : stateOf(found)
  if (state !== "stale" && !(state === "unknown" && how.force)) {
    const lease = state === "unknown" || how.strict ? found?.lease : undefined
    if (lease === undefined || silenceOf(path, signOf(path, found!), lease) < lease) {
      throw new Taken(refused(path, found, state), state, found && signOf(path, found), lease)
    }
  }
  const guard = `${path}.${found?.token.slice(0, 8) ?? "unknown"}`
  take(guard, me, { ...how, strict: true })
  try {
    const still = read(path)
    if (still === "free" || still?.token !== found?.token || !isOf(guard, me)) return take(path, me, how)
    AtomicFile.write(path, textOf(me))
    seen.delete(path)
    return found
  } finally {
    release(guard, me)
  }
}

const isOf = (path: string, me: Holder): boolean => {
  const found = attempt(() => read(path))
  return found !== undefined && found !== "free" && found.token === me.token
}

/** Removes the lock if it is still ours: somebody may have taken it. */
const release = (path: string, me: Holder): void => {
  if (isOf(path, me)) fs.rmSync(path, { force: true })
}

/** How often somebody who waits looks again, in milliseconds. */
export const LOOK = 500

/** Signs of life in the time of a lease. */
export const BEATS = 10

/** Milliseconds without a sign of life after which a lock is anybody's: MEMSINKS_LEASE, in seconds. Default 60 s. */
export const leaseOf = (): number => {
  const seconds = Number(process.env["MEMSINKS_LEASE"] ?? 60)
  return seconds >= 0.1 && seconds <= 86_400 ? seconds * 1000 : 60_000
}

/** A folder that is ours, for as long as nobody takes it. */
export interface Lease {
  /** Fails when another process has taken the folder, as this one gave no sign of life for too long. */
  readonly lost: Effect.Effect<never, CheckpointError>
}

/** What this process holds, by folder. */
const ours = new Map<string, () => CheckpointError | undefined>()

/** Gives signs of life until it is told to stop. */
const keepAlive = (folder: string, me: Holder & { readonly lease: number }) => {
  const path = lockOf(folder)
  let error: CheckpointError | undefined
  let tell: (error: CheckpointError) => void = () => {}
  const told = new Promise<never>((_, reject) => tell = reject)
  told.catch(() => {})
  let [wall, watch] = [Date.now(), performance.now()]
  const look = (): CheckpointError | undefined => {
    if (error !== undefined) return error
    let found: ReturnType<typeof read>
    try {
      found = read(path)
    } catch {
      return undefined // a shared folder may be away for a while
    }
    const [now, passed] = [Date.now(), performance.now()]
    const late = Math.max(now - wall, passed - watch) > me.lease
    // somebody removed it by hand, and cannot have had it meanwhile
    const isOurs = found === "free"
      ? !late && attempt(() => AtomicFile.create(path, textOf(me))) !== false
      : found === undefined || found.token === me.token
    if (isOurs) {
      ;[wall, watch] = [now, passed]
      return undefined
    }
    error = new CheckpointError({
      reason: "Mismatch",
      path: folder,
      detail:
        `${
          typeof found === "object" ? nameOf(found) : "another process"
        } has taken the folder over, as this one was stopped or cut off for more than ${
          me.lease / 1000
        } s. Nothing was ` +
        "overwritten: whatever has it goes on from the last checkpoint"
    })
    tell(error)
    return error
  }
  const timer = setInterval(() => {
    const now = new Date()
    if (look() === undefined) attempt(() => fs.utimesSync(path, now, now))
  }, me.lease / BEATS)
  timer.unref()
  const name = resolve(folder)
  ours.set(name, look)
  const lost = Effect.tryPromise({ try: () => told, catch: (error) => error as CheckpointError })
  const stop = () => {
    clearInterval(timer)
    if (ours.get(name) === look) ours.delete(name)
  }
  return { lost, stop }
}

/** Fails where this process held a folder, or one around it, and another has taken it: asked before something is kept. */
export const stillOurs = (folder: string): Effect.Effect<void, CheckpointError> =>
  Effect.suspend(() => {
    for (let at = resolve(folder);; at = dirname(at)) {
      const error = ours.get(at)?.()
      if (error !== undefined) return Effect.fail(error)
      if (dirname(at) === at) return Effect.void
    }
  })

/** Options of `hold` and `claim`. */
export interface HoldOptions {
  /** Also take what cannot be judged from here, at once; never from a process of this machine that lives. Default false. */
  readonly force?: boolean
  /** Milliseconds without a sign of life after which others may take it. Default: MEMSINKS_LEASE in seconds, or 60 s. */
  readonly lease?: number
}

/** This process as a new holder. */
export const holderOf = (lease: number) => ({
  pid: process.pid,
  began: beganOf(process.pid),
  ...here(),
  since: new Date().toISOString(),
  token: randomBytes(16).toString("hex"),
  lease
})

/** Tries once; Taken where another has it. */
const tryOnce = (
  folder: string,
  { force = false, lease = leaseOf(), strict }: HoldOptions & { readonly strict: boolean }
): Effect.Effect<Lease, CheckpointError | Taken, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.try({
      try: () => {
        const me = holderOf(lease)
        const before = take(lockOf(folder), me, { force, strict })
        return { me, before, ...keepAlive(folder, me) }
      },
      catch: (cause) =>
        cause instanceof CheckpointError || cause instanceof Taken ? cause : new CheckpointError({
          reason: "Write",
          path: lockOf(folder),
          detail: `cannot be written: ${because(cause)}. Choose another folder`,
          cause
        })
    }),
    ({ me, stop }) =>
      Effect.sync(() => {
        stop()
        attempt(() => release(lockOf(folder), me))
      })
  ).pipe(Effect.tap(({ before }) =>
    before === undefined
      ? Effect.void
      : Effect.logWarning(
        `${folder} was left by ${nameOf(before)}, which ${
          stateOf(before) === "stale" ? "is gone" : "gives no sign of life"
        }: going on in its place`
      )
  ))

/**
 * Take a folder, which must exist, until the scope closes, if nobody else has it; undefined where another process does, of
 * whatever machine, that lives. To be asked again and again: whoever gives no sign of life for its lease loses it.
 */
export const claim = (
  folder: string,
  options: HoldOptions = {}
): Effect.Effect<Lease | undefined, CheckpointError, Scope.Scope> =>
  Effect.catchIf(tryOnce(folder, { ...options, strict: true }), (error): error is Taken => error instanceof Taken, () =>
    Effect.succeed(undefined)) as Effect.Effect<Lease | undefined, CheckpointError, Scope.Scope>

/**
 * Hold a run's folder, which must exist, until the scope closes. A lock left by a process that is gone is taken over, with a
 * warning in the log; one of another machine or container is watched until it shows that it lives, at most for its lease.
 *
 * Fails with CheckpointError Mismatch where another run holds it, naming that, and Write where no lock can be written.
 */
export const hold = (
  folder: string,
  options: HoldOptions = {}
): Effect.Effect<Lease, CheckpointError, Scope.Scope> => {
  const from = (first: string | undefined): Effect.Effect<Lease, CheckpointError, Scope.Scope> =>
    Effect.catchAll(tryOnce(folder, { ...options, strict: false }), (error) => {
      if (!(error instanceof Taken)) return Effect.fail(error)
      const { lease, refusal, sign, state } = error
      if (lease === undefined || (first !== undefined && sign !== first)) return Effect.fail(refusal)
      const say = first !== undefined || state === "held" ? Effect.void : Effect.logWarning(
        `${folder} is locked by another machine: waiting up to ${lease / 1000} s for a sign of life`
      )
      return say.pipe(Effect.zipRight(Effect.sleep(Math.min(LOOK, lease / 4))), Effect.zipRight(from(sign)))
    })
  return from(undefined)
}
