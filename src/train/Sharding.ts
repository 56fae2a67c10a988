/**
 * A pool of sinks that is shared out over ranks: each has the slices of its own shards, their weights, gradients and moments, computes
 * the rows of a step whose ids are of these, and moves them alone. Checkpoints and evaluations need all: rank 0 gathers them on
 * the host, tensor by tensor.
 */
import * as Arr from "effect/Array"
import * as Effect from "effect/Effect"
import { createHash } from "node:crypto"
import { type Batch, IGNORE } from "../Batch.ts"
import type { Snapshot } from "../checkpoints/Checkpoints.ts"
import { call, type CollectiveService } from "../collective/Collective.ts"
import { type CheckpointError, CollectiveError, DataError, type DeviceError } from "../Errors.ts"
import type { DeviceService } from "../gpu/Device.ts"
import * as Tensor from "../gpu/Tensor.ts"
import { upload } from "../gpu/Upload.ts"
import type { ModelService } from "../model/Model.ts"
import type * as Ops from "../model/Ops.ts"
import { cut, stretchesOf } from "../model/Parameters.ts"
import * as Sink from "../Sink.ts"
import { gathered, shared, spread, spreadValues } from "./DataParallel.ts"
import type { Optimizer } from "./Optimizer.ts"
import { savedValue } from "./Resume.ts"

type Ranks = Pick<CollectiveService, "rank" | "size">

/** Whether ranks have sinks of their own each: where the pool has several shards. */
export const isSharded = (sinks: Sink.SinkConfig | undefined, size: number): sinks is Sink.SinkConfig =>
  size > 1 && (sinks?.shards ?? 1) > 1

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
  let spare = 0n
  while (rankOf(spare) !== rank) spare++
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
      // rows of nothing light sinks, too
      let id = spare
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

/** A value of a parameter, or a moment of it, with a rank's sinks. */
export interface Held {
  readonly parameter: Ops.Parameter
  readonly tensor: Tensor.Tensor
}

/** The weights of sinks, and their moments. */
export const heldOf = ({ moments }: Pick<Optimizer, "moments">): ReadonlyArray<Held> =>
  moments.flatMap(({ m, parameter, v }) =>
    parameter.sinkRow0 === undefined ? [] : [parameter.value, m, v].map((tensor) => ({ parameter, tensor }))
  )

type Sliced = Pick<ModelService, "config">

const stretches = ({ config }: Sliced, { parameter }: Held, of: Ranks) =>
  stretchesOf(config, parameter, Sink.sliceOf(config.sinks!, of))

/** Gives rank 0 what the others have, tensor by tensor: its values with all sinks, on the host; on other ranks nothing. */
export const gather = (
  collective: CollectiveService,
  device: DeviceService,
  model: Sliced,
  held: ReadonlyArray<Held>
): Effect.Effect<ReadonlyMap<Tensor.Tensor, Float32Array>, CollectiveError | DeviceError> =>
  Effect.gen(function*() {
    const { rank, size } = collective
    const whole = new Map<Tensor.Tensor, Float32Array>()
    for (const one of held) {
      const values = (yield* device.read(one.tensor)) as Float32Array
      const [dense] = stretches(model, one, collective)
      const own = values.slice(dense!.length)
      const all = yield* call(() => collective.gather(new Uint8Array(own.buffer)))
      if (rank !== 0) continue
      const out = new Float32Array(dense!.length + size * own.length)
      out.set(values.subarray(0, dense!.length))
      for (const [of, bytes] of all.entries()) {
        const theirs = new Float32Array(bytes.slice().buffer)
        for (const { length, own: at, whole } of stretches(model, one, { rank: of, size }).slice(1)) {
          out.set(theirs.subarray(at - dense!.length, at - dense!.length + length), whole)
        }
      }
      whole.set(one.tensor, out)
    }
    return whole
  })

/** Gives the other ranks their parts of values with all sinks, which rank 0 makes one at a time, and has taken its own of. */
export const deal = <E>(
  collective: CollectiveService,
  device: DeviceService,
  { config }: Sliced,
  held: ReadonlyArray<Held & { readonly whole: Effect.Effect<Float32Array, E> }>
): Effect.Effect<void, E | CollectiveError | DeviceError> =>
  Effect.gen(function*() {
    const { rank, size } = collective
    for (const { parameter, tensor, whole } of held) {
      const all = rank === 0 ? yield* whole : undefined
      for (let of = 1; of < size; of++) {
        const values = all === undefined
          ? new Float32Array(Tensor.size(tensor))
          : cut(config, parameter, all, Sink.sliceOf(config.sinks!, { rank: of, size }))
        yield* spreadValues(collective, values)
        if (rank === of) yield* upload(device, [[tensor, Effect.succeed(values)]])
      }
    }
    // what is written stands in memory until the device has taken it
    yield* device.idle
  })

/** Gives the other ranks the weights that a model of rank 0 begins with, their parts of sinks; nothing where these are drawn. */
export const dealInitial = (
  collective: CollectiveService,
  device: DeviceService,
  model: ModelService,
  tensors: Snapshot["model"] | undefined
): Effect.Effect<void, CheckpointError | CollectiveError | DeviceError> =>
  Effect.gen(function*() {
    if (model.slice === undefined || !(yield* shared(collective, tensors !== undefined))) return
    const weights = model.parameters.map((parameter) => ({ parameter, tensor: parameter.value,
      whole: savedValue(model, parameter, tensors ?? {}, "the initial model") })
    )
    const [ofAll, ofSinks] = Arr.partition(weights, ({ parameter }) => parameter.sinkRow0 !== undefined)
    yield* spread(collective, device, ofAll.map(({ tensor }) => tensor))
    yield* deal(collective, device, model, ofSinks)
  })

/** What tells the weights of a model from others: a checksum of its embedding. */
export const beginning = (device: DeviceService, { handles }: ModelService): Effect.Effect<string, DeviceError> =>
  Effect.map(device.read(handles.embed.value), ({ buffer, byteLength, byteOffset }) =>
    createHash("sha256").update(new Uint8Array(buffer, byteOffset, byteLength)).digest("hex"))

/** That the parts which ranks begin with are of one model: weights that only some of them have imported would make one of two. */
export const sameBeginning = (collective: CollectiveService, own: string): Effect.Effect<void, CollectiveError> =>
  Effect.gen(function*() {
    const all = yield* gathered(collective, own)
    const rank = all.findIndex((other) => other !== all[0])
    if (rank < 0) return
    return yield* new CollectiveError({
      reason: "Mismatch",
      rank,
      detail:
        `rank ${rank} (${
          collective.hosts[rank]
        }) begins with other weights than rank 0: a Model that is divided has its ` +
        "part of them alone, so draw them by the same seed, or import the same on every rank"
    })
  })
