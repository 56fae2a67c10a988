/** What a fuzzer is: `main.ts` runs all of them. */

import * as Cause from "effect/Cause"
import * as Exit from "effect/Exit"

/** Tries made or damaged inputs; what it must find is a typed error or a correct read, never anything else. */
export interface Fuzzer {
  readonly name: string
  /**
   * Tries so many inputs, made from `random` alone (uniform in [0, 1)), and returns a line for each that went wrong:
   * what was tried, with the seed or the bytes that make it again, and what came out.
   *
   * `note` is told what each input came to, the tag of its error or what was read of it: the digest of all of it is in the
   * fuzzer's line, and is one on all machines and runtimes. It holds no path, no time and no runtime's own words.
   */
  readonly run: (random: () => number, inputs: number,
    note: (outcome: string) => void) => Promise<ReadonlyArray<string>>
}

/** What an effect came to, to be noted: what was read, or the tag of the error, and its reason where it has one. */
export const outcomeOf = <A>(exit: Exit.Exit<A, unknown>, read: (value: A) => string = () => "read"): string => {
  if (Exit.isSuccess(exit)) return read(exit.value)
  const error = Cause.squash(exit.cause) as { readonly _tag?: string; readonly reason?: string } | undefined
  return `${error?._tag ?? "untyped"} ${error?.reason ?? ""}`
}
