/**
 * One training by several ranks: that they are of one mind, begin alike, stay alike, and stop together. Rank 0 reads and
 * writes checkpoints and looks at the model; the others compute their share of every step.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { call, type CollectiveService } from "../collective/Collective.ts"
import { CollectiveError, DataError, type DeviceError } from "../Errors.ts"
import type { DeviceService } from "../gpu/Device.ts"
import { machineOf } from "../gpu/Machine.ts"
import type * as Tensor from "../gpu/Tensor.ts"
import { upload } from "../gpu/Upload.ts"
import { differences } from "../Json.ts"
import { huggingFaceConfig } from "../model/HuggingFace.ts"
import type * as Ops from "../model/Ops.ts"
import type * as Resume from "./Resume.ts"

const encode = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value))

const decode = <A>(bytes: Uint8Array): A => JSON.parse(new TextDecoder().decode(bytes)) as A

/** A value of rank 0, JSON, on all ranks. */
export const shared = <A>(collective: CollectiveService, value: A | undefined): Effect.Effect<A, CollectiveError> =>
  call(() => collective.broadcast(encode(value ?? null))).pipe(Effect.map((bytes) => decode<A>(bytes)))

/** Values of all ranks, JSON, on all of them, by rank. */
export const gathered = <A>(
  collective: CollectiveService,
  value: A
): Effect.Effect<ReadonlyArray<A>, CollectiveError> =>
  call(() => collective.allGather(encode(value))).pipe(Effect.map((all) => all.map((bytes) => decode<A>(bytes))))

/** Why batches cannot be shared out evenly; undefined where they can. */
export const unevenShare = (accumulation: number, ranks: number): DataError | undefined => {
  if (accumulation % ranks === 0) return undefined
  const more = Math.ceil(accumulation / ranks) * ranks
  return new DataError({
    detail:
      `training.gradientAccumulation is ${accumulation}, and ${ranks} ranks share out the batches of a step: make it a ` +
      `multiple of ${ranks}, such as ${more}. A step has gradientAccumulation batches however many ranks there are`
  })
}

/** The batches of a step that a rank computes: a share in one piece. */
export const shareOf = <A>(all: ReadonlyArray<A>, { rank, size }: Pick<CollectiveService, "rank" | "size">) =>
  all.slice(rank * all.length / size, (rank + 1) * all.length / size)

/** That all ranks train the same model, in the same way, on the same data, with kernels that round alike. */
export const sameRun = (
  collective: CollectiveService,
  { device, inputs, model, steps, training }: Resume.Resumable
): Effect.Effect<void, CollectiveError> =>
  Effect.gen(function*() {
    const own = {
      model: huggingFaceConfig(model.config),
      training: { ...training, steps, precision: model.precision },
      data: Object.fromEntries(inputs.map(({ sha256, what }, i) => [`${i}: ${what}`, sha256])),
      device: machineOf(device)
    }
    const all = yield* gathered(collective, own)
    for (const [rank, other] of all.entries()) {
      const [line] = differences(other, all[0]!)
      if (line === undefined) continue
      return yield* new CollectiveError({
        reason: "Mismatch",
        rank,
        detail:
          `rank ${rank} (${collective.hosts[rank]}) is not like rank 0 (${collective.hosts[0]}): ${line}. All ranks ` +
          "need the same configuration and data, and adapters of one kind"
      })
    }
  })

/** Bytes of a tensor that go over at once. */
const PART = 2 ** 26

/** Gives all ranks the values of rank 0, in place. */
export const spreadValues = (collective: CollectiveService,
  values: Float32Array): Effect.Effect<void, CollectiveError> =>
  Effect.gen(function*() {
    for (let at = 0; at < values.byteLength; at += PART) {
      const part = new Uint8Array(values.buffer, at, Math.min(PART, values.byteLength - at))
      const given = yield* call(() => collective.broadcast(part))
      if (collective.rank > 0) part.set(given)
    }
  })

/** Gives tensors of all ranks the values of rank 0, of parameters whose sinks each rank has its own of all but these. */
export const spread = (
  collective: CollectiveService,
  device: DeviceService,
  tensors: ReadonlyArray<Tensor.Tensor>,
  parameter?: Ops.Parameter
): Effect.Effect<void, CollectiveError | DeviceError> =>
  Effect.forEach(tensors, (tensor) =>
    Effect.gen(function*() {
      // those who only listen must know how much comes, too
      const all = new Float32Array(yield* device.read(tensor))
      const values = all.subarray(0, parameter?.sinkRow0 && parameter.sinkRow0 * tensor.shape[1]!)
      yield* spreadValues(collective, values)
      if (collective.rank > 0) yield* upload(device, [[tensor, Effect.succeed(values)]])
    }), { discard: true })

/**
 * Where rank 0 stands, on all ranks; their weights, moments and loss scales are those of rank 0 then. Of sinks where each has
 * its own, nothing is changed.
 */
export const begin = (
  collective: CollectiveService,
  { device, model, optimizer, outer = [] }: Resume.Resumable,
  resumed: Resume.Resumed | undefined
): Effect.Effect<Resume.Resumed | undefined, CollectiveError | DeviceError> =>
  Effect.gen(function*() {
    const place = yield* shared(collective, resumed ?? null)
    const ofAll = (parameter: Ops.Parameter, ...tensors: ReadonlyArray<Tensor.Tensor>) =>
      spread(collective, device, tensors, model.slice && parameter)
    for (const parameter of model.parameters) yield* ofAll(parameter, parameter.value)
    if (place === null) return undefined
    for (const { m, parameter, v } of optimizer.moments) yield* ofAll(parameter, m, v)
    if (optimizer.scaler !== undefined) yield* spread(collective, device, [optimizer.scaler])
    for (const { momentum } of outer) yield* spreadValues(collective, momentum)
    // JSON has no Infinity
    return { ...place, best: (place.best as number | null) ?? Infinity }
  })

/** What a rank says before each step: to go on, that it was interrupted, or why it cannot. */
export type Word = "on" | "interrupted" | { readonly failed: string }

/** Why something failed, in a line. */
export const reasonOf = (cause: Cause.Cause<unknown>): string => Cause.pretty(cause).split("\n")[0]!

/**
 * What all ranks together say. All of them hear the same: "look" where one asks for a `look` at the model behind the step that they
 * go on with.
 */
export const agree = (
  collective: CollectiveService,
  word: Word,
  look = false
): Effect.Effect<Exclude<Word, object> | "look" | CollectiveError, CollectiveError> =>
  Effect.gen(function*() {
    const votes = new Float32Array([word === "on" ? 0 : 1, look ? 1 : 0])
    yield* call(() => collective.allReduce(votes))
    if (votes[0] === 0) return votes[1] === 0 ? "on" : "look"
    const words = yield* gathered(collective, word)
    const rank = words.findIndex((one) => typeof one === "object")
    if (rank < 0) return "interrupted"
    const { failed } = words[rank] as { readonly failed: string }
    return new CollectiveError({
      reason: "Aborted",
      rank,
      detail: `rank ${rank} (${collective.hosts[rank]}) cannot go on: ${failed}`
    })
  })

/** Does what all ranks must succeed in: where one fails, it fails on all of them. */
export const onAll = <A, E, R>(
  collective: CollectiveService,
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, E | CollectiveError, R> =>
  collective.size === 1 ? effect : Effect.gen(function*() {
    const exit = yield* Effect.exit(effect)
    // they have agreed on that
    if (Exit.isInterrupted(exit)) return yield* exit
    const heard = yield* agree(collective, Exit.isFailure(exit) ? { failed: reasonOf(exit.cause) } : "on")
    if (Exit.isFailure(exit)) return yield* exit
    if (heard === "on" || heard === "look") return exit.value
    return yield* heard === "interrupted" ? Effect.interrupt : Effect.fail(heard)
  })

/** What a rank did of a training, and what it cost it. */
export interface RankReport {
  readonly rank: number
  readonly host: string
  readonly adapter: string
  /** Of training, without evaluation and saving; what follows is part of it. */
  readonly seconds: number
  /** Until the others had come, to add up. */
  readonly waiting: number
  /** Of the adding up, when all had come. */
  readonly exchanging: number
  /** Bytes of this rank's that were added up with those of the others. */
  readonly bytes: number
  /** Tokens that it computed. */
  readonly tokens: number
}

/** What a rank exchanges between two moments. */
export const measured = ({ times }: CollectiveService) => {
  const { bytes, exchanging, waiting } = times
  return (): Pick<RankReport, "bytes" | "exchanging" | "waiting"> => ({
    bytes: times.bytes - bytes,
    exchanging: (times.exchanging - exchanging) / 1000,
    waiting: (times.waiting - waiting) / 1000
  })
}

/** That the numbers of a step are the same bits on all ranks. */
export const sameBits = (
  collective: CollectiveService,
  step: number,
  numbers: Float32Array
): Effect.Effect<void, CollectiveError> =>
  Effect.gen(function*() {
    const all = yield* gathered(collective, [...new Uint32Array(numbers.buffer, numbers.byteOffset, numbers.length)])
    const rank = all.findIndex((other) => other.some((bits, i) => bits !== all[0]![i]))
    if (rank < 0) return
    return yield* new CollectiveError({
      reason: "Mismatch",
      rank,
      detail:
        `after step ${step} loss and norm of rank ${rank} (${
          collective.hosts[rank]
        }) are not those of rank 0, bit for bit: ` +
        "their weights have drifted apart. Go on from the last checkpoint with adapters and drivers of one kind"
    })
  })
