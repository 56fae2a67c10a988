/**
 * Where the program meets the shell: what is printed where, errors in one message, exit codes, which runtime it is.
 */
import * as HelpDoc from "@effect/cli/HelpDoc"
import * as ValidationError from "@effect/cli/ValidationError"
import * as Runtime from "@effect/platform/Runtime"
import type { Teardown } from "@effect/platform/Runtime"
import * as Cause from "effect/Cause"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import { readFileSync } from "node:fs"
import { createRequire } from "node:module"
import process from "node:process"
import { because, DataError, lacking } from "../Errors.ts"
import { hasColor, painter, printable, stripAnsi, withoutCredentials } from "../Terminal.ts"

/** The command was not used as it should be: exit code 2. */
export interface Usage {
  readonly _tag: "Usage"
  readonly message: string
}
export const usage = (error: { readonly message: string }): Usage => ({ _tag: "Usage", message: error.message })

/** What went wrong has been told already, by whoever: only the exit code is left. */
export interface Told {
  readonly _tag: "Told"
  readonly code: number
  readonly message: string
}
export const told = (code: number): Told => ({ _tag: "Told", code, message: "told above" })

const isTold = (error: unknown): error is Told => (error as Partial<Told> | undefined)?._tag === "Told"

const versionIn = (file: string | URL): string | undefined => {
  try {
    return (JSON.parse(readFileSync(file, "utf8")) as { readonly version: string }).version
  } catch {
    return undefined
  }
}

/** Of this package, which lies one folder further up when it is built. */
export const version: string = versionIn(new URL("../../package.json", import.meta.url)) ??
  versionIn(new URL("../../../package.json", import.meta.url)) ?? "unknown"

/** What runs this program. */
export const versions = (): Readonly<Record<string, string>> => ({
  memsinks: version,
  runtime: "Deno" in globalThis ? `Deno ${process.versions["deno"]}` : `Node ${process.versions.node}`,
  webgpu: versionIn(createRequire(import.meta.url).resolve("webgpu/package.json")) ?? "unknown"
})

/** The device of the runtime we are on. */
export const runtime = Effect.promise((): Promise<typeof import("../node.ts")> =>
  "Deno" in globalThis ? import("../deno.ts") : import("../node.ts")
)

/** What could not be written to stdout, if anything. */
let lost: string | undefined

const lose = (error: unknown): void => {
  // whoever read our output may leave before the end (`memsinks pretrain | head`): training goes on and saves
  if ((error as NodeJS.ErrnoException).code !== "EPIPE") lost ??= because(error)
}

/** Data on stdout. `exact`: a terminal shows it as any other, and whatever else reads it gets every byte. */
export const print = (text: string, exact = false): Effect.Effect<void> =>
  Effect.async<void>((resume) => {
    try {
      const styled = hasColor(process.stdout, process.env)
      const shown = exact && process.stdout.isTTY !== true ? text : printable(text, styled)
      process.stdout.write(`${shown}\n`, () => resume(Effect.void))
    } catch (error) {
      lose(error)
      resume(Effect.void)
    }
  })

/** Those of the options that are given, by their names. */
export const given = <F extends Readonly<Record<string, Option.Option<unknown> | undefined>>>(fields: F) =>
  Object.fromEntries(
    Object.entries(fields).flatMap(([name, value]) => value?._tag === "Some" ? [[name, value.value]] : [])
  ) as { readonly [K in keyof F]?: NonNullable<F[K]> extends Option.Option<infer A> ? A : never }

/** A line on stderr, be it in the words of a file or a server: no password of a URL, no escapes but our own. */
export const complain = (text: string): void => {
  const styled = hasColor(process.stderr, process.env)
  process.stderr.write(`${withoutCredentials(printable(text, styled))}\n`)
}

/** One line of a log, for people. */
export const logLine = (options: Logger.Logger.Options<unknown>): string => {
  const parts = Array.isArray(options.message) ? options.message : [options.message]
  return printable(withoutCredentials(`${options.logLevel.label.toLowerCase()}: ${parts.map(String).join(" ")}`))
}

/** Logs go to stderr; the default ones go to stdout. */
export const logger = Logger.make((options) => complain(logLine(options)))

const isUsage = (error: unknown): boolean =>
  ValidationError.isValidationError(error) || (error as Partial<Usage> | undefined)?._tag === "Usage"

/** What a failure or a bug says to people; nothing for an interruption, and for what is told already. */
export const messageOf = (cause: Cause.Cause<unknown>): string | undefined => {
  const failure = Option.getOrUndefined(Cause.failureOption(cause))
  if (isTold(failure)) return undefined
  if (ValidationError.isValidationError(failure)) {
    const text = stripAnsi(HelpDoc.toAnsiText(failure.error)).replace(/\s+/g, " ").trim()
    return `${text}\nSee memsinks --help, and --help after a command.`
  }
  if (failure !== undefined) {
    const { message } = failure as { readonly message: string }
    const advice = lacking(message)
    return advice === undefined || message.includes(advice) ? message : `${message}\n${advice}`
  }
  const defect = Option.getOrUndefined(Cause.dieOption(cause))
  if (defect === undefined) return undefined
  if (lacking(defect) !== undefined) return because(defect)
  const stack = defect instanceof Error ? (defect.stack ?? "").split("\n").filter((line) => /^\s+at /.test(line)) : []
  const text = defect instanceof Error ? defect.message : String(defect)
  return [text, ...stack.slice(0, 5), "This is a bug in memsinks: please report it with the lines above."].join("\n")
}

/** Tells people what went wrong. */
export const complainOf = (message: string): void =>
  complain(`${painter(hasColor(process.stderr, process.env))("red", "error:")} ${message}`)

/**
 * Runs the command line: help tidied, logs on stderr, every failure told once, as one message.
 */
export const run = <E, R>(command: Effect.Effect<void, E, R>): Effect.Effect<void, E | DataError, R> =>
  Console.consoleWith((console) =>
    command.pipe(
      Effect.withConsole({
        ...console,
        log: (...parts) => print(stripAnsi(parts.join(" ")).trim()),
        // wrong usage is told below, with everything else that went wrong
        error: () => Effect.void
      })
    )
  ).pipe(
    // what was said last may still be on its way
    Effect.zipLeft(Effect.async<void>((resume) => void process.stdout.write("", () => resume(Effect.void)))),
    Effect.zipRight(
      Effect.suspend((): Effect.Effect<void, E | DataError> =>
        lost === undefined ? Effect.void : Effect.fail(
          new DataError({ detail: `the output could not be written: ${lost}` })
        )
      )
    ),
    Effect.tapErrorCause((cause) => {
      const message = messageOf(cause)
      return message === undefined ? Effect.void : Effect.sync(() => complainOf(message))
    }),
    Effect.provide(Logger.replace(Logger.defaultLogger, logger))
  )

/** Signals that ask a run to save and stop, and their numbers. SIGUSR2 is what mpirun and Slurm pass on to ranks. */
const signals = { SIGHUP: 1, SIGINT: 2, SIGUSR2: 12, SIGTERM: 15 } as const

/** The first signal that was heard. */
let heard: keyof typeof signals | undefined

const listeners = new Set<() => void>()

/** Calls `tell` when the first signal is heard, until the scope closes. */
export const onSignal = (tell: () => void) =>
  Effect.acquireRelease(
    Effect.sync(() => void listeners.add(tell)),
    () => Effect.sync(() => void listeners.delete(tell))
  )

const reloads = new Set<() => void>()

/** Calls `again` whenever SIGHUP comes, which then does not stop the program, until the scope closes. */
export const onReload = (again: () => void) =>
  Effect.acquireRelease(
    Effect.sync(() => void reloads.add(again)),
    () => Effect.sync(() => void reloads.delete(again))
  )

/** The exit code of what became of the command: of one that a signal ended, 128 and the signal's number. */
export const codeOf = (exit: Exit.Exit<unknown, unknown>): number => {
  if (Exit.isSuccess(exit)) return 0
  const failure = Option.getOrUndefined(Cause.failureOption(exit.cause))
  if (failure !== undefined) return isTold(failure) ? failure.code : isUsage(failure) ? 2 : 1
  return Cause.isInterruptedOnly(exit.cause) ? 128 + signals[heard ?? "SIGINT"] : 1
}

export const teardown: Teardown = (exit, onExit) => onExit(codeOf(exit))

/** How often is looked whether the shell of npm lives, in milliseconds. */
const SHELL = 500

/**
 * Calls `tell` when the shell is gone through which npm runs this package's scripts, and npx its program: a signal that npm is
 * sent ends that shell, which does not pass it on. Gives what ends the looking.
 */
const onShellGone = (tell: () => void): () => void => {
  const { npm_lifecycle_event: event, npm_package_name: name } = process.env
  if (event === undefined || (event !== "npx" && name !== "memsinks")) return () => {}
  const parent = process.ppid
  const timer = setInterval(() => {
    if (process.ppid !== parent) tell()
  }, SHELL)
  return () => clearInterval(timer)
}

/**
 * Runs the program. The first of SIGINT, SIGTERM, SIGHUP and SIGUSR2 interrupts it, so that what was learned is saved; a second,
 * whichever, ends the process at once. SIGHUP asks a server to read its files again. That the shell of npm ended counts as
 * SIGTERM.
 */
export const runMain = Runtime.makeRunMain(({ fiber, teardown }) => {
  const keepAlive = setInterval(() => {}, 2 ** 31 - 1)
  const names = Object.keys(signals) as ReadonlyArray<keyof typeof signals>
  const stop = (signal: keyof typeof signals) => {
    if (signal === "SIGHUP" && reloads.size > 0) return reloads.forEach((again) => again())
    if (heard !== undefined) process.exit(128 + signals[signal])
    heard = signal
    for (const tell of listeners) {
      try {
        tell()
      } catch {
        // the terminal may be gone: that is what SIGHUP says
      }
    }
    fiber.unsafeInterruptAsFork(fiber.id())
  }
  for (const name of names) process.on(name, stop)
  const stopLooking = onShellGone(() => {
    if (heard === undefined) stop("SIGTERM")
  })
  fiber.addObserver((exit) => {
    clearInterval(keepAlive)
    stopLooking()
    for (const name of names) process.removeListener(name, stop)
    teardown(exit, (code) => {
      if (heard !== undefined || code !== 0) process.exit(code)
    })
  })
})

process.stdout.on("error", lose)
process.stderr.on("error", () => {})
