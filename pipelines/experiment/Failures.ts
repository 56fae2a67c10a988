/** One of several fails, and the others go on; what failed is told, and a fault of the program is told as such. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import { appendFileSync } from "node:fs"
import { join } from "node:path"
import { DataError } from "../../src/Errors.ts"
import type { Failure } from "../report/Failure.ts"
import { isLost } from "./RunFolder.ts"

/** Errors, as far as they are told apart here. */
interface Told {
  readonly _tag: string
  readonly message: string
  readonly reason?: unknown
}

/** What concerns all: a lost device, ranks that lost each other, a folder that cannot be written, and whoever stops the run. */
const concernsAll = (cause: Cause.Cause<Told>): boolean => {
  if (Cause.isInterrupted(cause)) return true
  const failure = Option.getOrUndefined(Cause.failureOption(cause))
  return failure !== undefined &&
    (isLost(failure) || failure._tag === "CollectiveError" ||
      (failure._tag === "CheckpointError" && failure.reason === "Write"))
}

/** The file in a run's folder that has the stacks of what went wrong in the program. */
export const BUGS = "bugs.log"

/** Keeps what a person who mends it needs; where there is no folder it is logged. */
const report = (outDir: string | undefined, arm: string, seed: number,
  cause: Cause.Cause<unknown>): Effect.Effect<string> =>
{
  const text = `${new Date().toISOString()} seed ${seed}, ${arm}\n${
    Cause.pretty(cause, { renderErrorCause: true })
  }\n\n`
  const logged = Effect.as(Effect.logError(text), "its stack is in the log")
  if (outDir === undefined) return logged
  const file = join(outDir, BUGS)
  return Effect.try(() => appendFileSync(file, text)).pipe(
    Effect.as(`its stack is in ${file}`),
    Effect.catchAll(() => logged)
  )
}

/**
 * Runs what is an arm's own affair: none where it failed, which `onFailure` was told. Fails where that concerns all. A defect
 * is not the arm's: it is told as a bug, and its stack is kept in `bugs.log` of the run's folder. `what`: the part of the arm
 * that is tried, which the message begins with.
 */
export const attempt = <A, E extends Told, R>(
  { arm, seed, what }: { readonly arm: string; readonly seed: number; readonly what?: string },
  effect: Effect.Effect<A, E, R>,
  options: {
    readonly outDir: string | undefined
    readonly onFailure: (failure: Failure) => Effect.Effect<void>
  }
): Effect.Effect<Option.Option<A>, E, R> =>
  Effect.gen(function*() {
    const exit = yield* Effect.exit(effect)
    if (Exit.isSuccess(exit)) return Option.some(exit.value)
    const { cause } = exit
    const told = (message: string) => ({ arm, seed, message: what === undefined ? message : `${what}: ${message}` })
    if (concernsAll(cause)) return yield* Effect.failCause(cause)
    const failure = Option.getOrUndefined(Cause.failureOption(cause))
    if (failure !== undefined) {
      yield* options.onFailure(told(failure.message))
      return Option.none()
    }
    const error = Cause.squash(cause)
    const where = yield* report(options.outDir, arm, seed, cause)
    const message = `this is a bug in memsinks, not a failure of the arm: ${
      error instanceof Error ? error.message : String(error)
    }; ${where}`
    yield* options.onFailure({ ...told(message), bug: true })
    return Option.none()
  })

/** Why nothing is left of an experiment. */
export const allFailed = (failures: ReadonlyArray<Failure>): DataError =>
  new DataError({
    detail: ["every arm failed:", ...failures.map(({ arm, message, seed }) => `  seed ${seed}, ${arm}: ${message}`)]
      .join("\n")
  })
