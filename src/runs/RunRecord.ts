/**
 * What a run says of itself in its folder: `run.json` for programs, and `config.resolved.yaml` to look at and to run
 * again. Events are in metrics.jsonl, weights in checkpoints.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Schema from "effect/Schema"
import { execFileSync } from "node:child_process"
import { join } from "node:path"
import { stringify } from "yaml"
import * as AtomicFile from "../AtomicFile.ts"
import type { Input } from "../data/stream/Inputs.ts"
import { because, CheckpointError } from "../Errors.ts"
import { decodeJson, isObject, parseJson } from "../Json.ts"
import { withoutCredentials } from "../Terminal.ts"

/** `running` is what a process that was killed leaves behind, too: see RunLock. */
export type RunState = "running" | "finished" | "interrupted" | "failed"

/** The content of `run.json`. Fields of this program's own besides are kept. */
export interface RunRecord {
  /** The pipeline, e.g. `pretrain`. */
  readonly kind: string
  readonly state: RunState
  /** ISO 8601; when it was begun first, each time it was resumed, and when it ended last. */
  readonly started: string
  readonly resumed?: ReadonlyArray<string>
  readonly finished?: string
  /** What it failed with. */
  readonly error?: string
  /** Versions of memsinks, the runtime, and the WebGPU library. */
  readonly versions: Readonly<Record<string, string>>
  /** Commit of the working folder, where that is in a git repository; `dirty`: tracked files had been changed. */
  readonly git?: { readonly sha: string; readonly dirty: boolean }
  readonly adapter?: string
  /** Family of its kernels. */
  readonly kernels?: string
  /** What it is made of: data, tokenizer, initial weights. */
  readonly inputs?: ReadonlyArray<Input>
  readonly seeds?: ReadonlyArray<number>
  /** Models that are trained for each seed. */
  readonly arms?: ReadonlyArray<string>
  /** The encoded configuration. */
  readonly config: unknown
}

/** The file in a run's folder that says what the run is and how it went. */
export const recordFile = "run.json"
/** The file in a run's folder with its whole configuration, defaults included. */
export const configFile = "config.resolved.yaml"

const askGit = (): RunRecord["git"] => {
  const ask = (...args: ReadonlyArray<string>) =>
    execFileSync("git", args, { encoding: "utf8", timeout: 5000, stdio: ["ignore", "pipe", "ignore"] }).trim()
  try {
    return { sha: ask("rev-parse", "HEAD"), dirty: ask("status", "--porcelain", "--untracked-files=no") !== "" }
  } catch {
    return undefined
  }
}

let asked: { readonly git: RunRecord["git"] } | undefined

/** Asked once: what runs is what was there when the process began. */
const git = (): RunRecord["git"] => (asked ??= { git: askGit() }).git

const texts = Schema.Array(Schema.String)

/** What the fields of a record are, where they are there. */
const fields = {
  kind: Schema.String,
  state: Schema.Literal("running", "finished", "interrupted", "failed"),
  started: Schema.String,
  resumed: texts,
  finished: Schema.String,
  error: Schema.String,
  versions: Schema.Record({ key: Schema.String, value: Schema.String }),
  git: Schema.Struct({ sha: Schema.String, dirty: Schema.Boolean }),
  adapter: Schema.String,
  kernels: Schema.String,
  inputs: Schema.Array(Schema.Struct({ what: Schema.String, sha256: Schema.String })),
  seeds: Schema.Array(Schema.Int),
  arms: texts
}

const Fields = Schema.partialWith(Schema.Struct({ ...fields, config: Schema.Unknown }), { exact: true })

/** A record that is to be gone on with: every field that is there must be sound. Left says in words what is not. */
export const decodeRecord = (text: string): Either.Either<typeof Fields.Type, string> => decodeJson(Fields, text)

const sound = Object.fromEntries(
  Object.entries(fields).map(([name, schema]) => [name, Schema.is<unknown, unknown, never>(schema as never)])
)

/** The record that a value is, to be looked at: a field that is not sound is as good as none. Undefined where it is none. */
export const recordOf = (value: unknown): RunRecord | undefined => {
  if (!isObject(value) || typeof value["kind"] !== "string") return undefined
  const kept = Object.entries(value).filter(([name, it]) => !Object.hasOwn(sound, name) || sound[name]!(it))
  return { state: "interrupted", started: "", versions: {}, config: undefined,
    ...Object.fromEntries(kept) } as unknown as RunRecord
}

/** The record in a run's folder, to be looked at; undefined where there is none that can be read. */
export const readRecord = (folder: string): RunRecord | undefined => {
  try {
    return recordOf(Either.getOrUndefined(parseJson(AtomicFile.readText(join(folder, recordFile)))))
  } catch {
    return undefined
  }
}

/** A run that is being recorded. */
export interface Recording {
  /** Add what is known only later. */
  readonly note: (fields: Pick<RunRecord, "adapter" | "kernels" | "inputs">) => Effect.Effect<void>
  /** Record what became of the run. */
  readonly end: (exit: Exit.Exit<unknown, unknown>) => Effect.Effect<void>
}

const reasonOf = (cause: Cause.Cause<unknown>): string => {
  const error = Cause.squash(cause)
  return withoutCredentials(error instanceof Error ? error.message : String(error))
}

/**
 * Record that a run begins in its folder, which must exist, or goes on there: then what was recorded at its beginning
 * stays. Fails with CheckpointError Write where nothing can be written; later records that cannot be written are logged.
 */
export const begin = (
  folder: string,
  run: Pick<RunRecord, "kind" | "versions" | "config" | "seeds" | "arms">,
  now: () => Date = () => new Date()
): Effect.Effect<Recording, CheckpointError> =>
  Effect.gen(function*() {
    const file = join(folder, recordFile)
    const before = readRecord(folder)
    const { config: _config, error: _error, finished: _finished, ...kept } = before ?? ({} as Partial<RunRecord>)
    const time = now().toISOString()
    const commit = git()
    let record: RunRecord = {
      started: time,
      ...kept,
      state: "running",
      ...(commit === undefined ? {} : { git: commit }),
      ...run,
      ...(before === undefined ? {} : { resumed: [...kept.resumed ?? [], time] })
    }
    yield* Effect.try({
      try: () => {
        // a replay depends on the run that it is of
        const from = isObject(run.config) ? run.config["from"] : undefined
        const again = typeof from === "string" ? `--from ${from}` : "--config <this file>"
        const header = `# Everything this run depends on. To run it again: memsinks ${run.kind} ${again}\n`
        AtomicFile.writeJson(file, record)
        AtomicFile.write(join(folder, configFile), header + stringify(run.config))
      },
      catch: (cause) =>
        new CheckpointError({
          reason: "Write",
          path: file,
          detail: `cannot be written: ${(cause as Error).message}. Choose another folder with --out-dir`
        })
    })
    const update = (fields: Partial<RunRecord>) =>
      Effect.try(() => AtomicFile.writeJson(file, record = { ...record, ...fields })).pipe(
        Effect.catchAll(({ cause }) => Effect.logWarning(`${file}: ${because(cause)}`))
      )
    return {
      note: update,
      end: (exit) => {
        const state = Exit.isSuccess(exit) ? "finished" : Exit.isInterrupted(exit) ? "interrupted" : "failed"
        return update({
          state,
          finished: now().toISOString(),
          ...(Exit.isFailure(exit) && state === "failed" ? { error: reasonOf(exit.cause) } : {})
        })
      }
    }
  })
