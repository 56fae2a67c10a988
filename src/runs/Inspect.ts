/**
 * What a checkpoint holds, from its small files and the headers of its large ones: no tensor is read.
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as fs from "node:fs"
import { join } from "node:path"
import { headerLength, parseHeader } from "../checkpoints/Safetensors.ts"
import { decodeNames, namesFile } from "../data/identity/Names.ts"
import { because, CheckpointError } from "../Errors.ts"
import { isObject, type Json, parseJson } from "../Json.ts"
import { LEADS_OUT, liesInSync } from "../Paths.ts"

/** A tensor as the header of its file names it. */
export interface TensorInfo {
  readonly name: string
  readonly dtype: string
  readonly shape: ReadonlyArray<number>
  readonly bytes: number
}

/** What `inspect` finds in a checkpoint's folder. */
export interface CheckpointInfo {
  readonly path: string
  readonly step: number
  /** Of the whole run; undefined for a model that no run here has trained. */
  readonly steps?: number
  /** Validation loss it was saved with. */
  readonly loss?: number
  /** Where in the data it stands: the epoch, and batches of it that were taken. */
  readonly cursor?: { readonly epoch: number; readonly batch: number }
  /** `config.json`: Hugging Face's names and the `memsinks` block. */
  readonly config: Readonly<Record<string, unknown>>
  /** How it was trained: `config` of trainer_state.json. */
  readonly training?: Readonly<Record<string, unknown>>
  readonly parameters: number
  readonly tensors: ReadonlyArray<TensorInfo>
  readonly optimizer: { readonly tensors: number; readonly bytes: number }
  /** Of a model with sinks: how many ids it was trained with, what each stands for, and the largest, 5 at most. */
  readonly ids?: {
    readonly identity: string
    readonly count: number
    readonly largest: ReadonlyArray<
      { readonly id: string; readonly name: string; readonly documents: number; readonly tokens: number }
    >
  }
  readonly files: ReadonlyArray<{ readonly name: string; readonly bytes: number }>
}

const corrupt = (path: string, detail: string) => new CheckpointError({ reason: "Corrupt", path, detail })

const readJson = (path: string): Json => {
  const value = Either.getOrThrowWith(parseJson(fs.readFileSync(path, "utf8")), (detail) => corrupt(path, detail))
  if (!isObject(value)) throw corrupt(path, "holds no JSON object")
  return value
}

/** The tensors of a safetensors file, in the order of the file. */
const readHeader = (path: string): ReadonlyArray<TensorInfo> => {
  const file = fs.openSync(path, "r")
  try {
    const { size } = fs.fstatSync(file)
    const prefix = new Uint8Array(8)
    const length = headerLength(prefix.subarray(0, fs.readSync(file, prefix, 0, 8, 0)), size)
    const header = new Uint8Array(length)
    const got = fs.readSync(file, header, 0, length, 8)
    return parseHeader(header.subarray(0, got), size - 8 - length)
      .map(({ begin, dtype, end, name, shape }) => ({ name, dtype, shape, bytes: end - begin }))
  } catch (cause) {
    throw corrupt(path, `its header cannot be read: ${because(cause)}`)
  } finally {
    fs.closeSync(file)
  }
}

const inspectSync = (path: string): CheckpointInfo => {
  let names: ReadonlyArray<string>
  try {
    names = fs.readdirSync(path)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    const detail = code === "ENOENT"
      ? "there is no such folder"
      : code === "ENOTDIR"
      ? "is a file, and a run or a checkpoint is a folder"
      : `cannot be read: ${because(cause)}`
    throw new CheckpointError({ reason: "Missing", path, detail })
  }
  const read = ["config.json", "manifest.json", "trainer_state.json", namesFile,
    ...names.filter((name) => name.endsWith(".safetensors"))]
  const leading = read.find((name) => !liesInSync(path, name))
  if (leading !== undefined) throw corrupt(join(path, leading), LEADS_OUT)
  const headers = (stem: string) =>
    names.filter((name) => new RegExp(`^${stem}(-\\d+-of-\\d+)?\\.safetensors$`).test(name)).sort()
      .flatMap((name) => readHeader(join(path, name)))
  const model = headers("model")
  if (!names.includes("config.json") || model.length === 0) {
    const detail = "is neither a run nor a checkpoint: expected run.json, or config.json and model.safetensors"
    throw new CheckpointError({ reason: "Missing", path, detail })
  }
  const optimizer = headers("optimizer")
  const manifest = names.includes("manifest.json") ? readJson(join(path, "manifest.json")) : {}
  const state = names.includes("trainer_state.json") ? readJson(join(path, "trainer_state.json")) : {}
  const number = (value: unknown) => typeof value === "number" && Number.isFinite(value) ? value : undefined
  const [steps, loss] = [number(state["steps"]), number(manifest["loss"])]
  const { batch, epoch } = Object(state["cursor"]) as Json
  const training = isObject(state["config"]) ? state["config"] : undefined
  return {
    path,
    step: number(state["step"]) ?? number(manifest["step"]) ?? 0,
    ...(steps === undefined ? {} : { steps }),
    ...(loss === undefined ? {} : { loss }),
    ...(number(epoch) === undefined || number(batch) === undefined
      ? {}
      : { cursor: { epoch: epoch as number, batch: batch as number } }),
    config: readJson(join(path, "config.json")),
    ...(training === undefined ? {} : { training }),
    parameters: model.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0),
    tensors: model,
    optimizer: { tensors: optimizer.length, bytes: optimizer.reduce((sum, { bytes }) => sum + bytes, 0) },
    files: names.map((name) => ({ name, bytes: fs.statSync(join(path, name)).size }))
  }
}

/**
 * What the checkpoint in a folder holds. Fails with CheckpointError Missing where it is none, and Corrupt where a header
 * or a JSON file is damaged; numbers are not verified (`loadFolder` does that).
 */
export const inspectCheckpoint = (path: string): Effect.Effect<CheckpointInfo, CheckpointError> =>
  Effect.gen(function*() {
    const failed = (cause: unknown) => cause instanceof CheckpointError ? cause : corrupt(path, because(cause))
    const info = yield* Effect.try({ try: () => inspectSync(path), catch: failed })
    if (!info.files.some(({ name }) => name === namesFile)) return info
    const file = join(path, namesFile)
    const ids = yield* Effect.gen(function*() {
      const names = yield* decodeNames(yield* Effect.try({ try: () => fs.readFileSync(file), catch: failed }), file)
      const largest = (yield* names.largest(5)).map(({ id, ...one }) => ({ id: `${id}`, ...one }))
      return { identity: names.identity, count: names.count, largest }
    }).pipe(Effect.mapError((error) => error._tag === "CheckpointError" ? error : corrupt(file, error.detail)))
    return { ...info, ids }
  })
