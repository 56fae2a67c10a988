/**
 * Folders that a failure leaves as they were found: what was begun in them and holds nothing yet is taken back.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import { dirname, join, resolve } from "node:path"

/** A folder without a file, however deep. */
const isBare = (path: string): boolean =>
  fs.statSync(path).isDirectory() && fs.readdirSync(path).every((name) => isBare(join(path, name)))

/** Undefined where there is no folder that can be read: whoever begins in it says so, and what is in it stays. */
const namesIn = (folder: string): ReadonlyArray<string> | undefined => {
  try {
    return fs.readdirSync(folder)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ENOENT" ? [] : undefined
  }
}

/**
 * Where the scope ends in a failure that is no interruption: removes the files of these names from a folder, with folders that
 * hold no file, if they are all that it was given since, and then the folder and those above it, if they were not there.
 * What an interruption leaves is gone on with.
 *
 * @param files names that only whoever holds the folder's lock may give; default: folders alone are removed, empty ones
 */
export const takenBack = (folder: string, files: ReadonlyArray<string> = []): Effect.Effect<void, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const missing: Array<string> = []
      for (let at = resolve(folder); !fs.existsSync(at) && dirname(at) !== at; at = dirname(at)) missing.push(at)
      const names = files.length === 0 ? undefined : namesIn(folder)
      return { missing, was: names && new Set(names) }
    }),
    ({ missing, was }, exit) =>
      Effect.sync(() => {
        if (Exit.isSuccess(exit) || Cause.isInterrupted(exit.cause)) return
        try {
          const paths = (name: string) => join(folder, name)
          // the lock is released later, by whoever holds it
          const isAdded = (name: string) => was?.has(name) === false && name !== "lock"
          const added = was === undefined ? [] : fs.readdirSync(folder).filter(isAdded)
          if (added.every((name) => files.includes(name) || isBare(paths(name)))) {
            for (const name of added) fs.rmSync(paths(name), { recursive: true })
          }
          for (const one of missing) fs.rmdirSync(one)
        } catch {
          // what cannot be removed, or is another's, stays
        }
      })
  ).pipe(Effect.asVoid)
