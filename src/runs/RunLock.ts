/**
 * Two runs never share a folder: whoever runs in it holds a file `lock` that names the process. The lock of a process
 * that is gone is taken over; one that cannot be judged from here, of another host or container, is respected.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { execFileSync } from "node:child_process"
import { randomBytes } from "node:crypto"
import * as fs from "node:fs"
import { hostname } from "node:os"
import { join } from "node:path"
import process from "node:process"
import * as AtomicFile from "../AtomicFile.ts"
import { positive } from "../Config.ts"
import { CheckpointError } from "../Errors.ts"
import { cachedJson } from "../Json.ts"

const Holder = Schema.Struct({
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
  token: Schema.String.pipe(Schema.pattern(/^[\w-]{1,64}$/))
})

/** Who holds a folder. */
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

const stateOf = (holder: Holder): LockState => {
  const { boot, host, pids } = here()
  if (holder.host !== host) return "unknown"
  if (holder.boot !== boot) return "stale"
  if (holder.pids !== pids) return "unknown"
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

/** Who holds a run's folder, and whether that process lives. Changes nothing. */
export const peek = (folder: string): { readonly state: LockState; readonly holder?: Holder } => {
  const holder = attempt(() => read(lockOf(folder)))
  if (holder === "free") return { state: "free" }
  return holder === undefined ? { state: "unknown" } : { state: stateOf(holder), holder }
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

/** Makes `path` with its content at once, so that nobody reads half of it; false where it is there already. */
const create = (path: string, holder: Holder): boolean => {
  const temporary = `${path}.${holder.token}.tmp`
  const text = `${JSON.stringify(holder)}\n`
  fs.writeFileSync(temporary, text, { flush: true })
  try {
    fs.linkSync(temporary, path)
    return true
  } catch (error) {
    if (codeOf(error) === "EEXIST") return false
    if (!["EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS"].includes(codeOf(error) ?? "")) throw error
    // a file system without hard links
    try {
      fs.writeFileSync(path, text, { flag: "wx", flush: true })
      return true
    } catch (error) {
      if (codeOf(error) === "EEXIST") return false
      throw error
    }
  } finally {
    fs.rmSync(temporary, { force: true })
  }
}

/**
 * Takes the lock at `path`; returns the stale holder it took it from, if any. Throws CheckpointError.
 *
 * A stale lock must be replaced by one process only: by whoever holds a lock named after it. That one may be stale in
 * turn, and is taken in the same way.
 */
const take = (path: string, me: Holder, force: boolean): Holder | undefined => {
  if (create(path, me)) return undefined
  const found = read(path)
  if (found === "free") return take(path, me, force)
  const state = found === undefined ? "unknown" : stateOf(found)
  if (state === "held" || (state === "unknown" && !force)) throw refused(path, found, state)
  const guard = `${path}.${found?.token.slice(0, 8) ?? "unknown"}`
  take(guard, me, force)
  try {
    const still = read(path)
    if (still === "free" || still?.token !== found?.token) return take(path, me, force)
    AtomicFile.write(path, `${JSON.stringify(me)}\n`)
    return found
  } finally {
    release(guard, me)
  }
}

/** Removes the lock if it is still ours: with --force somebody may have taken it. */
const release = (path: string, me: Holder): void => {
  const found = attempt(() => read(path))
  if (found !== undefined && found !== "free" && found.token === me.token) fs.rmSync(path, { force: true })
}

/**
 * Hold a run's folder, which must exist, until the scope closes. A lock left by a process that is gone is taken over,
 * with a warning in the log.
 *
 * Fails with CheckpointError Mismatch where another run holds it, naming that, and Write where no lock can be written.
 *
 * @param options `force`: also take over a lock whose holder cannot be judged from here; never that of a living process
 */
export const hold = (
  folder: string,
  options: { readonly force?: boolean } = {}
): Effect.Effect<void, CheckpointError, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.try({
      try: () => {
        const me: Holder = {
          pid: process.pid,
          began: beganOf(process.pid),
          ...here(),
          since: new Date().toISOString(),
          token: randomBytes(16).toString("hex")
        }
        return { me, before: take(lockOf(folder), me, options.force ?? false) }
      },
      catch: (cause) =>
        cause instanceof CheckpointError ? cause : new CheckpointError({
          reason: "Write",
          path: lockOf(folder),
          detail: `cannot be written: ${cause instanceof Error ? cause.message : String(cause)}. Choose another folder`,
          cause
        })
    }),
    ({ me }) => Effect.sync(() => attempt(() => release(lockOf(folder), me)))
  ).pipe(Effect.flatMap(({ before }) =>
    before === undefined
      ? Effect.void
      : Effect.logWarning(`${folder} was left by ${nameOf(before)}, which is gone: going on in its place`)
  ))
