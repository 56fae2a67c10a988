/**
 * A pool of sinks that is shared out over ranks: each has the slices of its own shards, computes the rows of a step whose ids are of
 * these, and moves them alone; what it has of other slices is out of date, until they are gathered. Memory is not divided: each rank
 * has weights, gradients and moments of the whole pool, as large as on one device, so that checkpoints, evaluations and observers
 * find on rank 0 what they know.
 */
import * as Effect from "effect/Effect"
import { type Batch, IGNORE } from "../Batch.ts"
import { call, type CollectiveService } from "../collective/Collective.ts"
import { attempt, type CollectiveError, DataError, DeviceError } from "../Errors.ts"
import type { DeviceService } from "../gpu/Device.ts"
import type * as Tensor from "../gpu/Tensor.ts"
import * as Sink from "../Sink.ts"
import type { Optimizer } from "./Optimizer.ts"
import type { Slice } from "./TrainStep.ts"

type Ranks = Pick<CollectiveService, "rank" | "size">

/** Whether ranks have sinks of their own each: where the pool has several shards. */
export const isSharded = (sinks: Sink.SinkConfig | undefined, size: number): sinks is Sink.SinkConfig =>
  size > 1 && (sinks?.shards ?? 1) > 1

/** Why shards cannot be shared out over so many ranks; undefined where they can. */
export const unevenShards = ({ shards = 1 }: Sink.SinkConfig, size: number): DataError | undefined =>
  shards % size === 0 ? undefined : new DataError({
    detail:
      `model.sinks.shards is ${shards}, and ${size} ranks share them out: take a number of ranks that divides it. Which ` +
      "sinks an id lights follows from shards, so a trained model keeps them"
  })

/** The units of a rank. */
export const sliceOf = ({ units }: Sink.SinkConfig, { rank, size }: Ranks): Slice => ({
  from: rank * units / size,
  to: (rank + 1) * units / size
})

/** A sequence of a batch: its first token, and how many there are up to the last that is scored. */
interface Sequence {
  readonly batch: Batch
  readonly at: number
  readonly length: number
}

const divisor = (a: number, b: number): number => b === 0 ? a : divisor(b, a % b)

/** The sequences of batches with something to score, and a number that divides all places in a row where one begins. */
const sequencesOf = (batches: ReadonlyArray<Batch>) => {
  const sequences: Array<Sequence> = []
  let places = 0
  for (const batch of batches) {
    const { documentStart, seqLen, targets } = batch
    for (let at = 0, end = 0; at < targets.length; at = end) {
      let length = 0
      for (; end < targets.length && documentStart[end] === documentStart[at]; end++) {
        if (targets[end] !== IGNORE) length = end + 1 - at
      }
      places = divisor(places, at % seqLen)
      if (length > 0) sequences.push({ batch, at, length })
    }
  }
  return { sequences, alignment: places }
}

/** What a rank computes of a step. */
export interface Share {
  /** One at least, of as many rows as those of the step. */
  readonly batches: ReadonlyArray<Batch>
  /** Tokens of its sequences, up to the last of each that is scored. */
  readonly tokens: number
}

/**
 * The sequences of a step's batches that are a rank's, laid out anew in rows: each into the first that has room, at most `most` a
 * row. What is scored nowhere is left out. Throws a DataError for a document with ids of two ranks.
 */
export const shareOf = (
  batches: ReadonlyArray<Batch>,
  sinks: Sink.SinkConfig,
  { rank, size }: Ranks,
  most: number
): Share => {
  const { rows: count, seqLen } = batches[0]!
  const shards = sinks.shards ?? 1
  const rankOf = (id: bigint): number => Math.floor(Sink.shardOf(sinks, id) * size / shards)
  const { alignment, sequences } = sequencesOf(batches)
  const rows: Array<{ readonly sequences: Array<Sequence>; used: number }> = []
  let tokens = 0
  for (const sequence of sequences) {
    const { at, batch: { ids }, length } = sequence
    const own = rankOf(ids[at]!)
    for (let t = at + 1; t < at + length; t++) {
      if (ids[t] === ids[t - 1] || rankOf(ids[t]!) === own) continue
      throw new DataError({
        detail:
          `a sequence has the ids ${ids[at]} and ${ids[t]}, which are of two shards (model.sinks.shards ${shards}): ` +
          "train it by one rank, or give it one id"
      })
    }
    if (own !== rank) continue
    tokens += length
    // without another place there is one a row
    const room = alignment === 0 ? seqLen : Math.ceil(length / alignment) * alignment
    let row = rows.find((one) => one.sequences.length < most && one.used + length <= seqLen)
    if (row === undefined) rows.push(row = { sequences: [], used: 0 })
    row.sequences.push(sequence)
    row.used += room
  }
  const dropped = batches[0]!.dropped
  return {
    tokens,
    batches: Array.from({ length: Math.max(1, Math.ceil(rows.length / count)) }, (_, i): Batch => {
      const total = count * seqLen
      const draws = dropped === undefined ? undefined : new Uint32Array(total)
      const names: Array<string> = []
      const batch: Batch = {
        rows: count,
        seqLen,
        tokens: new Uint32Array(total),
        targets: new Uint32Array(total).fill(IGNORE),
        positions: new Uint32Array(total),
        documentStart: new Uint32Array(total),
        ids: new BigUint64Array(total),
        ...(batches[0]!.names === undefined ? {} : { names }),
        ...(dropped === undefined ? {} : { dropped: { ...dropped, draws: draws! } })
      }
      let id = 0n
      let draw = 0
      for (let r = 0; r < count; r++) {
        const end = (r + 1) * seqLen
        let start = r * seqLen
        // what is behind a sequence belongs to it, until another one takes over
        const claim = () => {
          batch.ids.fill(id, start, end)
          batch.documentStart.fill(start, start, end)
          draws?.fill(draw, start, end)
          for (let t = start; t < end; t++) batch.positions[t] = t - start
        }
        claim()
        for (const { at, batch: from, length } of rows[i * count + r]?.sequences ?? []) {
          id = from.ids[at]!
          draw = from.dropped?.draws[at] ?? 0
          claim()
          batch.tokens.set(from.tokens.subarray(at, at + length), start)
          batch.targets.set(from.targets.subarray(at, at + length), start)
          batch.ids.set(from.ids.subarray(at, at + length), start)
          names[r] = from.names?.[Math.floor(at / from.seqLen)] ?? ""
          start += alignment === 0 ? seqLen : Math.ceil(length / alignment) * alignment
        }
      }
      return batch
    })
  }
}

/** Gives rank 0 the slices of all others: of weights, and of their moments. */
export const gatherSlices = (
  collective: CollectiveService,
  device: DeviceService,
  sinks: Sink.SinkConfig,
  { moments }: Pick<Optimizer, "moments">
): Effect.Effect<void, CollectiveError | DeviceError> =>
  Effect.gen(function*() {
    const { rank, size } = collective
    const { pool } = sinks
    const neurons = pool / size
    const ofTensor = (tensor: Tensor.Tensor, row0: number) =>
      Effect.gen(function*() {
        const [rows, width] = tensor.shape as [number, number]
        const halves = (rows - row0) / pool
        const values = (yield* device.read(tensor)) as Float32Array
        const at = (half: number, of: number) => (row0 + half * pool + of * neurons) * width
        const length = neurons * width
        const own = new Float32Array(halves * length)
        for (let half = 0; half < halves; half++) {
          own.set(values.subarray(at(half, rank), at(half, rank) + length), half * length)
        }
        const all = yield* call(() => collective.gather(new Uint8Array(own.buffer)))
        for (const [of, bytes] of all.entries()) {
          if (of === rank) continue
          const theirs = new Float32Array(bytes.slice().buffer)
          for (let half = 0; half < halves; half++) {
            const slice = theirs.subarray(half * length, (half + 1) * length)
            yield* attempt(() => device.write(tensor, slice, at(half, of)), DeviceError)
          }
        }
      })
    for (const { m, parameter, v } of moments) {
      const { sinkRow0 } = parameter
      if (sinkRow0 === undefined) continue
      for (const tensor of [parameter.value, m, v]) yield* ofTensor(tensor, sinkRow0)
    }
    // what is written stands in memory until the device has taken it
    yield* device.idle
  })
