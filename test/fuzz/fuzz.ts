/** What a fuzzer is: `main.ts` runs all of them. */

/** Tries made or damaged inputs; what it must find is a typed error or a correct read, never anything else. */
export interface Fuzzer {
  readonly name: string
  /**
   * Tries so many inputs, made from `random` alone (uniform in [0, 1)), and returns a line for each that went wrong:
   * what was tried, with the seed or the bytes that make it again, and what came out.
   */
  readonly run: (random: () => number, inputs: number) => Promise<ReadonlyArray<string>>
}
