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

/**
 * The batch with what is left out of its sinks. A sequence's draw follows from the seed, the epoch, its row there and where in the row it
 * begins, so it is the same after a resume, and however rows are shared out among batches.
 */
export const withDropout = (batch: Batch, { seed, sequences, units }: SinkDropout, { epoch, row }: Place): Batch => {
  if (sequences === 0 && units === 0) return batch
  const { documentStart, seqLen, tokens } = batch
  const draws = new Uint32Array(tokens.length)
  for (let t = 0; t < tokens.length; t++) {
    const start = documentStart[t]!
    draws[t] = start === t
      ? random(seed, "sinkDropout", epoch, row + Math.floor(t / seqLen), t % seqLen).bits()
      : draws[start]!
  }
  return { ...batch, dropped: { sequences, units, draws } }
}
