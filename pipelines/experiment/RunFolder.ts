/**
 * The folder of a run: taken until the scope closes, fresh or that of the very run that goes on in it.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as AtomicFile from "../../src/AtomicFile.ts"
import { takenBack } from "../../src/BegunFolder.ts"
import { changedInputs, type Input, notTheSameData } from "../../src/data/stream/Inputs.ts"
import { because, CheckpointError, type DataError } from "../../src/Errors.ts"
import type { DeviceService } from "../../src/gpu/Device.ts"
import { machineOf, sameMachine } from "../../src/gpu/Machine.ts"
import { differences } from "../../src/Json.ts"
import { keyOf, shortKey } from "../../src/Key.ts"
import * as RunLock from "../../src/runs/RunLock.ts"
import * as RunRecord from "../../src/runs/RunRecord.ts"
import { armNames } from "./Arms.ts"

/** How a folder is taken. */
export interface FolderOptions {
  /** Go on in a folder that already holds this run. Default false: such a folder is refused. */
  readonly resume?: boolean
  /** Take the folder over from a process that cannot be asked whether it still runs. Default false. */
  readonly force?: boolean
  /** What to record as having run it. */
  readonly versions?: Readonly<Record<string, string>>
}

const unwritable = (folder: string) => (error: { readonly message: string }) =>
  new CheckpointError({
    reason: "Write",
    path: folder,
    detail: `cannot be written: ${error.message}. Choose another folder`
  })

/** Makes a folder, and those above it, where there is none. */
export const makeFolder = (folder: string) =>
  Effect.flatMap(FileSystem.FileSystem, (fs) =>
    Effect.mapError(fs.makeDirectory(folder, { recursive: true }), unwritable(folder)))

/** A run's folder that is ours. */
export interface Claim {
  /** Record what the run is made of; a run that goes on was asked for the same. */
  readonly madeOf: (inputs: ReadonlyArray<Input>) => Effect.Effect<void>
  /** Record what computes it. Fails with CheckpointError Mismatch where the run was computed with other kernels. */
  readonly computedOn: (device: DeviceService) => Effect.Effect<void, CheckpointError>
  /** Fails when another process has taken the folder over, as this one was stopped. */
  readonly lost: Effect.Effect<never, CheckpointError>
}

/**
 * Take a run's folder until the scope closes: a fresh one, or with `resume` one that holds this very run. Fails with
 * CheckpointError Mismatch, naming what is different, where the configuration or what the run is made of is another.
 */
export const claimFolder = <A, I, R>(
  outDir: string,
  run: {
    /** The pipeline. */
    readonly kind: string
    readonly schema: Schema.Schema<A, I>
    readonly config: A
    readonly seeds: ReadonlyArray<number>
    readonly arms: ReadonlyArray<string>
    /** Whether a run may go on although this field, by its path, differs from what it was. Default: it may not. */
    readonly longer?: (field: string, now: unknown, was: unknown) => boolean
    /** What it is made of, verified; computed only where a run goes on. */
    readonly inputs: Effect.Effect<ReadonlyArray<Input>, DataError, R>
  },
  { force = false, resume = false, versions = {} }: FolderOptions
) =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const file = path.join(outDir, "run.json")
    const encoded = Schema.encodeSync(run.schema)(run.config)
    yield* takenBack(outDir)
    yield* makeFolder(outDir)
    const { lost } = yield* RunLock.hold(outDir, { force })
    yield* takenBack(outDir, [RunRecord.recordFile, RunRecord.configFile])
    const names = yield* Effect.mapError(fs.readDirectory(outDir), unwritable(outDir))
    // the folder is ours: what is half written is of nobody who lives
    for (const name of names.filter(AtomicFile.isLeft)) yield* Effect.ignore(fs.remove(path.join(outDir, name)))
    const entries = names.filter((name) => !/^lock\b|\.tmp$/.test(name))
    if (entries.length > 0 && !resume) {
      return yield* new CheckpointError({
        reason: "Mismatch",
        path: outDir,
        detail: "is not empty: pass --resume to go on with the run it holds, or choose another --out-dir"
      })
    }
    let machine: { readonly adapter?: string; readonly kernels?: string } | undefined
    if (entries.includes("run.json")) {
      const corrupt = (detail: string) =>
        new CheckpointError({ reason: "Corrupt", path: file, detail: `${detail}. Choose another --out-dir` })
      const text = yield* Effect.try({
        try: () => AtomicFile.readText(file),
        catch: (cause) => corrupt(`cannot be read: ${because(cause)}`)
      })
      const before = yield* Either.mapLeft(RunRecord.decodeRecord(text), corrupt)
      if (before.kind !== undefined && before.kind !== run.kind) {
        return yield* new CheckpointError({
          reason: "Mismatch",
          path: file,
          detail: `the folder holds a run of memsinks ${before.kind}: choose another --out-dir`
        })
      }
      // a version that knew fewer fields meant their defaults
      const decoded = Schema.decodeUnknownOption(run.schema)(before.config)
      const was = Option.isSome(decoded) ? Schema.encodeSync(run.schema)(decoded.value) : before.config
      const differing = differences(encoded, was).filter((line) => !run.longer?.(line.split(" ", 1)[0]!, encoded, was))
      if (differing.length > 0) {
        return yield* new CheckpointError({
          reason: "Mismatch",
          path: file,
          detail: `the folder holds a run with another configuration:\n  ${differing.join("\n  ")}\n` +
            "Resume with the same one, or choose another --out-dir"
        })
      }
      const changed = before.inputs === undefined ? [] : changedInputs(yield* run.inputs, before.inputs)
      if (changed.length > 0) {
        return yield* new CheckpointError({ reason: "Mismatch", path: outDir, detail: notTheSameData(changed) })
      }
      machine = before
    }
    const { arms, kind, seeds } = run
    const recording = yield* RunRecord.begin(outDir, { kind, versions, config: encoded, seeds, arms })
    yield* Effect.addFinalizer(recording.end)
    const claim: Claim = {
      lost,
      madeOf: (inputs) => recording.note({ inputs }),
      computedOn: (device) =>
        Effect.gen(function*() {
          const now = machineOf(device)
          yield* sameMachine(now, machine, outDir)
          machine = now
          yield* recording.note(now)
        })
    }
    return claim
  })

/** Writes JSON whole, so that nobody ever reads half of it. */
export const writeJson = (file: string, value: unknown): Effect.Effect<void, CheckpointError> =>
  Effect.try({
    try: () => AtomicFile.writeJson(file, value),
    catch: (cause) =>
      new CheckpointError({ reason: "Write", path: file, detail: `cannot be written: ${because(cause)}`, cause })
  })

/** Writes a file whole, in place of one of the same name. */
export const writeText = (file: string, data: string | Uint8Array): Effect.Effect<void, CheckpointError> =>
  Effect.try({
    try: () => AtomicFile.write(file, data),
    catch: (cause) =>
      new CheckpointError({ reason: "Write", path: file, detail: `cannot be written: ${because(cause)}`, cause })
  })

/** A device that was lost: what is kept goes on, on a fresh one. */
export const isLost = (error: { readonly _tag: string; readonly reason?: unknown }): boolean =>
  error._tag === "DeviceError" && error.reason === "Lost"

/** Fresh devices that an experiment may take in the place of lost ones. */
const LOST_DEVICES = 3

/** Tries again on a fresh device when one is lost, and says so: `how` it goes on, `from what is kept`. */
export const againWhenLost = <A,
  E extends { readonly _tag: string; readonly message: string; readonly reason?: unknown }, R, R2>(
  attempt: Effect.Effect<A, E, R>,
  stage: (message: string) => Effect.Effect<void, never, R2>,
  how: string
): Effect.Effect<A, E, R | R2> =>
  attempt.pipe(
    Effect.tapError((error) =>
      isLost(error) ? stage(`${error.message}; going on ${how}, on a fresh device`) : Effect.void
    ),
    Effect.retry({ while: isLost, times: LOST_DEVICES })
  )

/** Names that Windows keeps for devices. */
const RESERVED = /^(con|prn|aux|nul|com\d|lpt\d)(\.|$)/

/**
 * The folder of a name: a folder of one's own for each name, whatever the names are made of. A short name of small letters,
 * digits and `.`, `_`, `=`, `-` is its own folder, as are the names in `known`, which must be such but for their case; of
 * any other the rest is left out, and `~` and a hash of the whole name tell it from all others. File systems that do not
 * tell capitals from small letters are no exception.
 */
export const folderOf = (name: string, known: ReadonlyArray<string> = armNames): string => {
  const small = name.toLowerCase()
  const plain = known.includes(name) ||
    (/^[a-z0-9][a-z0-9._=-]{0,59}$/.test(name) && !name.endsWith(".") && !RESERVED.test(name) &&
      !known.some((one) => one.toLowerCase() === small))
  if (plain) return name
  const slug = name.replace(/[^A-Za-z0-9._=-]+/g, "-").replace(/^[.-]+|[.-]+$/g, "").slice(0, 40)
  return `${slug}~${shortKey(keyOf(name))}`
}
