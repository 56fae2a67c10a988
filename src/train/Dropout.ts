/** Sinks left out in training, so that the neurons that everybody shares stand without them. Pure. */
import type { Batch } from "../Batch.ts"
import { random } from "../Random.ts"
import type { SinkDropout } from "../Sink.ts"

/** Where a batch stands in its training. */
export interface Place {
  readonly epoch: number
  /** Its first row, counted through the epoch. */
  readonly row: number
}

/** What training leaves out of sinks. */
export interface LeftOut {
  readonly dropout: SinkDropout | undefined
  /** Ids whose sinks are on; all others' are off. Default: those of every id. */
  readonly lit: ReadonlySet<bigint> | undefined
}

/** A share that none but a draw of 0 is below, which then is below every share above 0, too. */
const LEAST = 2 ** -32

/**
 * The batch with what is left out of its sinks. A sequence's draw follows from the seed, the epoch, its row there and where in the row it
 * begins, so it is the same after a resume, and however rows are shared out among batches. One whose id is not lit draws 0.
 */
export const withDropout = (batch: Batch, { dropout, lit }: LeftOut, { epoch, row }: Place): Batch => {
  const { seed = 0, sequences = 0, units = 0 } = dropout ?? {}
  const draws = sequences > 0 || units > 0
  const { documentStart, ids, seqLen, tokens } = batch
  if (!draws && (lit === undefined || ids.every((id) => lit.has(id)))) return batch
  const drawn = new Uint32Array(tokens.length)
  for (let t = 0; t < tokens.length; t++) {
    const start = documentStart[t]!
    drawn[t] = start !== t
      ? drawn[start]!
      : lit !== undefined && !lit.has(ids[t]!)
      ? 0
      : draws
      ? random(seed, "sinkDropout", epoch, row + Math.floor(t / seqLen), t % seqLen).bits()
      : 1
  }
  return { ...batch,
    dropped: { sequences: lit === undefined ? sequences : Math.max(sequences, LEAST), units, draws: drawn } }
}
