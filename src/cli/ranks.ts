/** What a command does that several ranks run. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import process from "node:process"
import { call, Collective, type CollectiveService } from "../collective/Collective.ts"
import { ranksOf } from "../collective/Ranks.ts"
import { CollectiveError } from "../Errors.ts"
import { gathered } from "../train/DataParallel.ts"
import * as Edge from "./Edge.ts"

/** How a rank ended, for rank 0 to tell. */
interface End {
  /** JSON has no undefined. */
  readonly message: string | null
  readonly code: number
  /** All ranks know as much, or heard it from the one that has it. */
  readonly heard: boolean
}

/** Whether a failure is one that other ranks know as well. */
const isHeard = (cause: Cause.Cause<unknown>, me: number): boolean => {
  const error = Option.getOrUndefined(Cause.failureOption(cause))
  if (!(error instanceof CollectiveError) || error.rank === undefined) return false
  return error.reason === "Mismatch" || error.reason === "Setup" || (error.reason === "Aborted" && error.rank !== me)
}

/** What went wrong, each message once, with the ranks that have it where it is not all of them, or the first. */
export const tellings = (ends: ReadonlyArray<End>, hosts: ReadonlyArray<string>): ReadonlyArray<string> => {
  const wrong = ends.flatMap((end, rank) => end.message === null ? [] : [{ ...end, message: end.message, rank }])
  const own = wrong.filter(({ heard }) => !heard)
  const all = own.length > 0 ? own : wrong.slice(0, 1)
  return all.filter(({ message }, i) => all.findIndex((one) => one.message === message) === i)
    .map(({ heard, message, rank }) => rank === 0 || heard ? message : `rank ${rank} on ${hosts[rank]}: ${message}`)
}

/** All ranks have come to their ends: rank 0 tells what went wrong; with which exit code all leave, unless all is well. */
const settle = (collective: CollectiveService, exit: Exit.Exit<unknown, unknown>) =>
  Effect.gen(function*() {
    // who is elsewhere is told by a call of another kind
    yield* call(() => collective.barrier())
    const own: End = {
      message: Exit.isSuccess(exit) ? null : Edge.messageOf(exit.cause) ?? null,
      code: Edge.codeOf(exit),
      heard: Exit.isFailure(exit) && isHeard(exit.cause, collective.rank)
    }
    const ends = yield* gathered(collective, own)
    const code = ends.find((end) => end.code !== 0)?.code
    if (code === undefined) return undefined
    if (collective.rank === 0) tellings(ends, collective.hosts).forEach(Edge.complainOf)
    // a launcher ends all when the first has left
    yield* call(() => collective.barrier())
    return Edge.told(code)
  })

/** Milliseconds that a rank lets pass before it leaves, or tells what rank 0 tells as well: launchers end it meanwhile. */
const BEHIND = 3000

/** The others, found; where they are not, rank 0 tells why, and, where nobody ends them, all do. */
const meeting = Layer.tapError(
  Collective.layer(),
  () => Effect.suspend(() => ranksOf(process.env).rank > 0 ? Effect.sleep(BEHIND) : Effect.void)
)

let met = false

/**
 * Runs what all ranks run, each its part, to a common end: what all know is told once, by rank 0; what one alone knows, with
 * its name; and all leave with one exit code. A rank that fails while the others are at work tells of it itself.
 */
export const together = <A, E, R>(
  body: Effect.Effect<A, E, R>,
  others: Layer.Layer<Collective, CollectiveError> = meeting
): Effect.Effect<A, E | CollectiveError | Edge.Told, R> =>
  Effect.suspend(() => {
    met = true
    return Effect.gen(function*() {
      const collective = yield* Collective
      const { rank, size } = collective
      const exit = yield* Effect.exit(body)
      // what fails in here is told to the others; what they know already fails behind it
      const ended: Exit.Exit<A, E | Edge.Told> = exit
      if (size === 1 || Exit.isInterrupted(exit)) return yield* Effect.as(exit, ended)
      const heard = Exit.isFailure(exit) && isHeard(exit.cause, rank)
      if (Exit.isFailure(exit) && !heard && rank > 0) return yield* Effect.failCause(exit.cause)
      const settled = yield* Effect.either(settle(collective, exit))
      if (settled._tag === "Right") return settled.right === undefined ? ended : Exit.fail(settled.right)
      if (!heard || rank === 0) return yield* Effect.as(exit, ended)
      yield* Effect.sleep(BEHIND)
      return Exit.fail(Edge.told(1))
    }).pipe(Effect.provide(others), Effect.flatten)
  })

/** Fails as a rank that has not met the others yet; they meet to see whether all of them do. */
export const refused = <E>(cause: Cause.Cause<E>): Effect.Effect<never, E | Edge.Told> =>
  met ? Effect.failCause(cause) : Effect.flatMap(Collective, (one) => settle(one, Exit.failCause(cause))).pipe(
    Effect.provide(Collective.layer()),
    Effect.catchAll(() => Effect.succeed(undefined)),
    Effect.flatMap((end): Effect.Effect<never, E | Edge.Told> =>
      end === undefined ? Effect.failCause(cause) : Effect.fail(end)
    )
  )

/** What may make processes see different GPUs of one name. */
const choosing = ["NVIDIA_VISIBLE_DEVICES", "DRI_PRIME", "MESA_VK_DEVICE_SELECT", "VK_ICD_FILENAMES", "VK_DRIVER_FILES"]

interface Own {
  readonly name: string
  /** Adapters of a machine with the same key are, for all that can be known, the same one. */
  readonly key: string
  /** Why it has none. */
  readonly failed?: string
}

/** Which adapter each rank has, in lines. Fails where two of a machine have the same and are not to share it. */
export const ownAdapters = ({ adapter, shareAdapter }: {
  readonly adapter: Option.Option<string>
  readonly shareAdapter: boolean
}) =>
  Effect.gen(function*() {
    const collective = yield* Collective
    const runtime = yield* Edge.runtime
    const opened = yield* Effect.either(Effect.scoped(runtime.openGpu(Edge.given({ adapter }))))
    const host = collective.hosts[collective.rank]!
    const mine: Own = opened._tag === "Left" ? { name: "", key: "", failed: opened.left.message } : {
      name: opened.right.name,
      key: [host, opened.right.name, ...choosing.map((one) => process.env[one] ?? "")].join("\n")
    }
    const all = yield* gathered(collective, mine)
    const without = all.findIndex(({ failed }) => failed !== undefined)
    if (without >= 0) {
      const detail = `rank ${without} on ${collective.hosts[without]} has no adapter: ${all[without]!.failed}`
      return yield* new CollectiveError({ reason: "Setup", rank: without, detail })
    }
    const second = all.findIndex((one, i) => all.findIndex(({ key }) => key === one.key) < i)
    if (second >= 0 && !shareAdapter) {
      const first = all.findIndex(({ key }) => key === all[second]!.key)
      return yield* new CollectiveError({
        reason: "Setup",
        rank: second,
        detail:
          `ranks ${first} and ${second} on ${collective.hosts[second]} both have the adapter ${all[second]!.name}: ` +
          "start no more ranks than there are GPUs, let each see one of its own (LOCAL_RANK chooses among those of " +
          "different names; NVIDIA_VISIBLE_DEVICES or DRI_PRIME among equal ones), or give pretrain --share-adapter"
      })
    }
    return [
      `${collective.size} ranks over ${collective.name}`,
      ...all.map((one, rank) => `rank ${rank} on ${collective.hosts[rank]}: ${one.name}`)
    ]
  })
