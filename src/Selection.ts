/**
 * Which pieces are trained on, how often, and which are kept aside. Pure.
 */
import type { DataConfig } from "./DataConfig.ts"
import { pick, type Pieces } from "./Pieces.ts"
import { random } from "./Random.ts"

/** The three kinds of sequences. */
export type Split = "repeated" | "heldOut" | "singles"

/** What an epoch holds. */
export interface Selection {
  /** Every sequence of the plan, by number; with identity `row` its id is one more. */
  readonly pieces: Pieces
  /** Pieces, each as often as an epoch holds it: first the repeated sequences, then the others. */
  readonly exposures: Uint32Array
  /** How many of the exposures are of repeated sequences. */
  readonly repeatedExposures: number
  /** Pieces of each kind. */
  readonly splits: Readonly<Record<Split, Uint32Array>>
}

/** The numbers from `start` to `end - 1`. */
export const range = (start: number, end: number): Uint32Array => Uint32Array.from({ length: end - start }, (_, i) => start + i)

/** Exposures of a repeated sequence in an epoch of an arm. */
export const timesIn = (arm: DataConfig["arm"], times: number): number =>
  ({ repeats: times, deduplicated: Math.min(1, times), neverRepeated: 0 })[arm]

/**
 * A sample of sequences: all are shuffled before some are chosen to be repeated, to be seen once, or to be held out,
 * so the three differ in nothing but how often they are trained on.
 */
export const sample = (all: Pieces, config: DataConfig): Selection => {
  const { arm, heldOutSequences, repeatedSequences, sequences, singleSequences } = config
  const chosen = random(config.seed, "rows").shuffle(range(0, all.document.length)).subarray(0, sequences)
  const repeats = timesIn(arm, config.repeats)
  const repeated = range(0, repeatedSequences)
  const singles = range(repeatedSequences, repeatedSequences + singleSequences)
  const repeatedExposures = repeats * repeatedSequences
  const exposures = new Uint32Array(repeatedExposures + singleSequences)
  for (let k = 0; k < repeats; k++) exposures.set(repeated, k * repeatedSequences)
  exposures.set(singles, repeatedExposures)
  return {
    pieces: pick(all, chosen),
    exposures,
    repeatedExposures,
    splits: { repeated, singles, heldOut: range(sequences - heldOutSequences, sequences) }
  }
}
