/**
 * The order of an epoch: which exposures share a row, which rows share a batch. Drawn from the seed and the epoch
 * alone, so that any batch is found without the ones before it. Pure.
 */
import { random } from "../../Random.ts"
import { pack, packClosely, type Packs } from "./Packing.ts"
import { range } from "./Selection.ts"

/** What an epoch is made of, and how it is laid out. */
export interface ScheduleOptions {
  /** Sequences by number, each as often as an epoch holds it. */
  readonly exposures: Uint32Array
  /** The first so many of them may carry a fresh id. */
  readonly repeatedExposures: number
  /** Targets of a sequence. */
  readonly targets: (sequence: number) => number
  /** One sequence a row; or several, in the order drawn, or as close as they go. */
  readonly packing: "one" | "next" | "close"
  /** Sequences of a closely packed row at most. */
  readonly rowSequences: number
  readonly seqLen: number
  readonly segmentAlignment: number
  readonly batchSize: number
  readonly idNoise: number
  readonly seed: number
}

/** A sequence in a batch. */
export interface Scheduled {
  readonly sequence: number
  /** Which of the `exposures` it is. */
  readonly exposure: number
  /** Of an exposure that carries a fresh id: its number, different for all exposures of all epochs. */
  readonly fresh: number | undefined
}

export interface Schedule {
  /** Rows of an epoch, without those that fill the last batch up. */
  readonly rows: number
  readonly batchesPerEpoch: number
  /** Sequences of the fullest row. */
  readonly widest: number
  /** The rows of a batch; fewer than `batchSize` in the last one of an epoch. */
  readonly batch: (epoch: number, batch: number) => ReadonlyArray<ReadonlyArray<Scheduled>>
}

export const schedule = (options: ScheduleOptions): Schedule => {
  const { batchSize, exposures, idNoise, packing, repeatedExposures, seed, segmentAlignment, seqLen } = options
  const packs: Packs | undefined = packing === "one" ? undefined : (() => {
    const order = random(seed, "packing").shuffle(range(0, exposures.length))
    const targets = (exposure: number): number => options.targets(exposures[exposure]!)
    return packing === "next"
      ? pack(order, targets, seqLen, segmentAlignment)
      : packClosely(order, targets, seqLen, segmentAlignment, options.rowSequences)
  })()
  const rows = packs === undefined ? exposures.length : packs.starts.length - 1
  let widest = 1
  if (packs !== undefined) {
    for (let r = 0; r < rows; r++) widest = Math.max(widest, packs.starts[r + 1]! - packs.starts[r]!)
  }

  /** Order of the rows, and which exposures carry a fresh id. */
  const epochOrder = (epoch: number) => {
    const noise = random(seed, "idNoise", epoch)
    return {
      epoch,
      order: random(seed, "order", epoch).shuffle(range(0, rows)),
      fresh: idNoise === 0
        ? undefined
        : Uint8Array.from({ length: repeatedExposures }, () => noise.uniform() < idNoise ? 1 : 0)
    }
  }
  let current: ReturnType<typeof epochOrder> | undefined

  const batch: Schedule["batch"] = (epoch, batch) => {
    if (current?.epoch !== epoch) current = epochOrder(epoch)
    const { fresh, order } = current
    const scheduled = (exposure: number): Scheduled => ({
      sequence: exposures[exposure]!,
      exposure,
      fresh: fresh?.[exposure] === 1 ? epoch * repeatedExposures + exposure : undefined
    })
    return Array.from(order.subarray(batch * batchSize, (batch + 1) * batchSize), (r) =>
      packs === undefined
        ? [scheduled(r)]
        : Array.from(packs.members.subarray(packs.starts[r], packs.starts[r + 1]), scheduled))
  }
  return { rows, batchesPerEpoch: Math.ceil(rows / batchSize), widest, batch }
}
