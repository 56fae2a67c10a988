/**
 * Dawn writes warnings of its own to standard error, past everything that JavaScript can listen to: on lavapipe two for
 * every search for an adapter, about limits that concern nobody. A program whose standard error people read may ask for
 * silence while it searches.
 */
import * as fs from "node:fs"
import { isMainThread } from "node:worker_threads"

let asked = false

/** From now on, what native code writes to standard error during `silently` is thrown away. Default: it is not. */
export const hideNativeLines = (hide: boolean): void => {
  asked = hide
}

const STANDARD_ERROR = 2

/**
 * Another descriptor of what standard error writes to; undefined where the two could not be exchanged without doing harm.
 * A file is written to at the end it had when it was opened, which others may share: only terminals and pipes are opened
 * anew. And a descriptor that is free for an instant must not be taken by a file that another thread opens.
 */
const another = (): number | undefined => {
  const linux = process.platform === "linux" && !("Deno" in globalThis) && !("Bun" in globalThis)
  if (!linux || !isMainThread) return undefined
  if (process.getActiveResourcesInfo().some((name) => name.startsWith("FSReq"))) return undefined
  try {
    const kind = fs.fstatSync(STANDARD_ERROR)
    return kind.isFIFO() || kind.isCharacterDevice() ? fs.openSync(`/proc/self/fd/${STANDARD_ERROR}`, "a") : undefined
  } catch {
    return undefined
  }
}

/** Opens a file as standard error, which is closed for that: the lowest number that is free is given to it. */
const becomes = (file: string, flags: string): boolean => {
  fs.closeSync(STANDARD_ERROR)
  const given = fs.openSync(file, flags)
  if (given === STANDARD_ERROR) return true
  fs.closeSync(given)
  return false
}

/** Runs what may write to standard error from native code, before it returns. */
export const silently = <A>(run: () => A): A => {
  const kept = asked ? another() : undefined
  if (kept === undefined) return run()
  const silent = becomes("/dev/null", "w")
  try {
    return run()
  } finally {
    if (silent) becomes(`/proc/self/fd/${kept}`, "a")
    fs.closeSync(kept)
  }
}
