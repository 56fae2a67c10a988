/**
 * Checkpoints: everything needed to go on from a step, bit for bit, the data cursor included.
 *
 *     runs/a/step-00001000/   config.json  model.safetensors  optimizer.safetensors  trainer_state.json
 *                             tokenizer.json and what loaders of Hugging Face's look for beside it
 *                             sources.parquet (of models with sinks: what their ids are called)
 *                             deletions.jsonl (of models that something was deleted from)
 *                             manifest.json (bytes and sha256 of the others, validation loss)
 *     runs/a/latest           the name of the folder to resume from, written last
 *
 * Above `maxShardBytes` model and optimizer are split, as at Hugging Face: `model-00001-of-00002.safetensors`, ..., and
 * `model.safetensors.index.json`.
 *
 * A folder gets its name only when it is complete and on the disk, so a crash at any moment leaves `latest` loadable.
 */
import type { PlatformError } from "@effect/platform/Error"
import * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { createHash } from "node:crypto"
import { decodeWith, expectOptions, natural } from "../Config.ts"
import { because, CheckpointError } from "../Errors.ts"
import { parseJson } from "../Json.ts"
import { named, withFiles } from "../Missing.ts"
import { companions, textEnds } from "../model/HuggingFace.ts"
import { FileName, LEADS_OUT, liesIn, Sha256 } from "../Paths.ts"
import type { HostTensor } from "./Safetensors.ts"
import * as Safetensors from "./Safetensors.ts"

export type { HostTensor } from "./Safetensors.ts"

/** One step of a run. The arrays must not change until `save` is done. */
export interface Snapshot {
  /** Optimizer steps taken: a whole number, the number in the folder's name. */
  readonly step: number
  /** JSON: the `config.json` of a Hugging Face Llama with a `memsinks` block. */
  readonly config: unknown
  /** Parameters under their Hugging Face names. */
  readonly model: Readonly<Record<string, HostTensor>>
  readonly optimizer: Readonly<Record<string, HostTensor>>
  /** JSON: step, data cursor, random state, best loss. Infinity and NaN are refused: JSON has no such numbers. */
  readonly trainerState: unknown
  /** The text of a `tokenizer.json`. */
  readonly tokenizer: string | undefined
  /** The bytes of `sources.parquet`: what the ids it was trained with are called (`Names.encodeNames`). */
  readonly names?: Uint8Array | undefined
  /** The text of `deletions.jsonl`: what was deleted from the model, entry by entry (`Ledger.append`). */
  readonly deletions?: string | undefined
  /** Validation loss: the checkpoint with the lowest one is the best. Left out, or not finite: never the best. */
  readonly loss?: number | undefined
}

/** What a checkpoint says of its model alone. */
export type ModelSnapshot = Pick<Snapshot, "step" | "config" | "model" | "tokenizer" | "names" | "deletions">

/** A checkpoint that can be loaded by its step. */
export interface Saved {
  readonly step: number
  readonly path: string
  /** The validation loss it was saved with. */
  readonly loss?: number | undefined
}

/** Which checkpoint of a run: the one saved last, the one with the lowest validation loss, or the one of a step. */
export type Which = "latest" | "best" | number

/** What `layerFileSystem` may be told. */
export interface FileSystemOptions {
  /** Go on in a folder that already holds a run. Default false: such a folder is refused. */
  readonly resume?: boolean
  /** How many of the last checkpoints to keep, at least 1; `Infinity` keeps all. Default 2. */
  readonly keepLast?: number
  /** Also keep the one with the lowest validation loss until there is a better one. Default true. */
  readonly keepBest?: boolean
  /** Also keep step 0 and the first at or after 1, 2, 4, 8, ... steps: a curve over all of training. Default false. */
  readonly keepLogSpaced?: boolean
  /** Above so many bytes the model, and the optimizer, are split into several files. Default 5 GB, as at Hugging Face. */
  readonly maxShardBytes?: number
}

/**
 * Saves, loads and lists the checkpoints of one run.
 *
 * Every failure is a `CheckpointError`: Missing (no such checkpoint or file), Corrupt (a file is not what was saved),
 * Mismatch (the folder belongs to another run), Write (could not be saved; the checkpoints before it are intact).
 *
 * @example
 * ```ts
 * import * as Effect from "effect/Effect"
 * import { Checkpoints } from "memsinks"
 *
 * const snapshot = (step: number, loss: number) => ({
 *   step,
 *   loss,
 *   config: { model_type: "llama" },
 *   model: { "lm_head.weight": { shape: [2], data: Float32Array.of(step, loss) } },
 *   optimizer: {},
 *   trainerState: { step },
 *   tokenizer: undefined
 * })
 *
 * const main = Effect.gen(function*() {
 *   const checkpoints = yield* Checkpoints
 *   yield* checkpoints.save(snapshot(10, 3.2))
 *   yield* checkpoints.save(snapshot(20, 3.4))
 *   const [latest, best] = [yield* checkpoints.load("latest"), yield* checkpoints.load("best")] // every byte verified
 *   console.log(latest.step, best.step, (yield* checkpoints.list).length)
 * })
 *
 * // in a folder: Checkpoints.layerFileSystem("runs/a")
 * await Effect.runPromise(Effect.provide(main, Checkpoints.layerMemory))
 * // 20 10 2
 * ```
 */
export class Checkpoints extends Context.Tag("memsinks/Checkpoints")<Checkpoints, {
  /** The run's folder, or "memory". */
  readonly location: string
  /** Saves, makes it the latest, and returns where it lies. A checkpoint of the same step is replaced. */
  readonly save: (snapshot: Snapshot) => Effect.Effect<string, CheckpointError>
  /** Loads a checkpoint and verifies every byte of it. */
  readonly load: (which: Which) => Effect.Effect<Snapshot, CheckpointError>
  /** By rising step; empty before the first save. */
  readonly list: Effect.Effect<ReadonlyArray<Saved>, CheckpointError>
}>() {
  /** Keeps every checkpoint in memory, encoded as it would be on disk. */
  static readonly layerMemory: Layer.Layer<Checkpoints> = Layer.sync(Checkpoints, () => makeMemory())

  /**
   * Keeps checkpoints in `dir`, which is created if need be. Builds with `CheckpointError` Write when nothing can be
   * written there, and Mismatch when it already holds a run and `resume` is not true.
   *
   * With `resume`, an empty folder is a fresh start: `list` is empty and `load("latest")` is Missing.
   */
  static readonly layerFileSystem = (
    dir: string,
    options: FileSystemOptions = {}
  ): Layer.Layer<Checkpoints, CheckpointError, FileSystem.FileSystem | Path.Path> =>
    Layer.effect(Checkpoints, withFiles(makeFileSystem(dir, options)))
}

named(Checkpoints, "Checkpoints", "Checkpoints.layerFileSystem(folder) or Checkpoints.layerMemory")

const folderName = (step: number) => `step-${String(step).padStart(8, "0")}`

/** A checkpoint that was moved aside carries `.old` until its replacement has the name. */
const folderPattern = /^step-(\d{8,})(?:\.old)?$/

/**
 * The checkpoints among the names of a folder, by rising step. One that was moved aside counts while nothing has taken its
 * name.
 */
export const stepsOf = (
  names: ReadonlyArray<string>
): ReadonlyArray<{ readonly step: number; readonly name: string }> =>
  names.flatMap((name) => {
    const step = folderPattern.exec(name)?.[1]
    return step === undefined || (name.endsWith(".old") && names.includes(withoutOld(name)))
      ? []
      : [{ step: Number(step), name }]
  }).sort((a, b) => a.step - b.step)

const configFile = "config.json"
const stateFile = "trainer_state.json"
const tokenizerFile = "tokenizer.json"
const namesFile = "sources.parquet"
const deletionsFile = "deletions.jsonl"
const manifestFile = "manifest.json"

// ---------------------------------------------------------------------------------------------------------------
// Snapshot <-> files

/** Files of a folder: names and contents. */
export type Files = ReadonlyArray<readonly [name: string, file: Safetensors.Encoded]>

export const utf8 = (text: string): Safetensors.Encoded => {
  const bytes = new TextEncoder().encode(text)
  return { byteLength: bytes.length, chunks: [bytes] }
}

const encodeJson = (path: string, value: unknown): Either.Either<Safetensors.Encoded, CheckpointError> =>
  Either.try({
    try: () => {
      const text = JSON.stringify(value, (key, inner: unknown) => {
        if (typeof inner === "number" && !Number.isFinite(inner)) throw new Error(`"${key}" is ${inner}`)
        return inner
      }, 2)
      if (text === undefined) throw new Error(`it is ${typeof value}`)
      return utf8(text + "\n")
    },
    catch: (cause) =>
      new CheckpointError({
        reason: "Write",
        path,
        detail: `cannot be written as JSON: ${(cause as Error).message}. Use a finite number, a string or null instead`
      })
  })

const encodeFiles = (
  snapshot: Snapshot,
  at: (file: string) => string,
  maxShardBytes?: number
): Either.Either<Files, CheckpointError> =>
  Either.gen(function*() {
    if (!Number.isSafeInteger(snapshot.step) || snapshot.step < 0) {
      const detail = `a checkpoint needs a whole number of steps, got ${snapshot.step}`
      return yield* Either.left(new CheckpointError({ reason: "Write", path: at(""), detail }))
    }
    const optimizer = yield* Safetensors.partsOf(snapshot.optimizer, at("optimizer.safetensors"))
    return [
      ...(yield* modelFiles(snapshot, at, maxShardBytes)),
      ...Safetensors.shards(optimizer, "optimizer", maxShardBytes),
      [stateFile, yield* encodeJson(at(stateFile), snapshot.trainerState)]
    ]
  })

/** What a model is without the run that trained it. */
const modelFiles = (
  { config, deletions, model, names, tokenizer }: Omit<ModelSnapshot, "step">,
  at: (file: string) => string,
  maxShardBytes?: number
): Either.Either<Files, CheckpointError> =>
  Either.gen(function*() {
    const parts = yield* Safetensors.partsOf(model, at("model.safetensors"))
    const positions = (Object(config) as Readonly<Record<string, unknown>>)["max_position_embeddings"]
    return [
      [configFile, yield* encodeJson(at(configFile), config)],
      ...Safetensors.shards(parts, "model", maxShardBytes),
      ...(tokenizer === undefined ? [] : [[tokenizerFile, utf8(tokenizer)] as const]),
      ...(names === undefined ? [] : [[namesFile, { byteLength: names.length, chunks: [names] }] as const]),
      ...(deletions === undefined ? [] : [[deletionsFile, utf8(deletions)] as const]),
      ...companions(
        typeof positions === "number" ? positions : undefined,
        tokenizer,
        textEnds(tokenizer, { config })
      ).map(([file, text]) => [file, utf8(text)] as const)
    ]
  })

const decodeText = (path: string, bytes: Uint8Array): Either.Either<string, CheckpointError> =>
  Either.try({
    try: () => new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes),
    catch: () => corrupt(path, "is not UTF-8 text")
  })

const decodeJson = (path: string, bytes: Uint8Array): Either.Either<unknown, CheckpointError> =>
  Either.flatMap(decodeText(path, bytes), (text) => Either.mapLeft(parseJson(text), (detail) => corrupt(path, detail)))

const corrupt = (path: string, detail: string) => new CheckpointError({ reason: "Corrupt", path, detail })

const missing = (path: string, detail: string) => new CheckpointError({ reason: "Missing", path, detail })

const Digest = Schema.Struct({ bytes: Schema.Int.pipe(Schema.nonNegative()), sha256: Sha256 })

/** `manifest.json`. Files are known by names in the checkpoint's own folder. */
const Manifest = Schema.Struct({
  format: Schema.Literal(1),
  step: natural,
  loss: Schema.optionalWith(Schema.JsonNumber, { exact: true }),
  files: Schema.Record({ key: FileName, value: Digest })
})
type Manifest = typeof Manifest.Type

const sha256 = (data: string | Uint8Array) => createHash("sha256").update(data).digest("hex")

/** The manifest ends with the checksum of its own content, so an edit of it is told from an edit of another file. */
const encodeManifest = (manifest: Manifest): string =>
  JSON.stringify({ ...manifest, self: sha256(JSON.stringify(manifest)) }, null, 2) + "\n"

const decodeManifest = (path: string, bytes: Uint8Array): Either.Either<Manifest, CheckpointError> =>
  Either.gen(function*() {
    const text = yield* decodeText(path, bytes)
    const { self: _, ...manifest } = Object(yield* decodeJson(path, bytes)) as Manifest & { self: string }
    if (encodeManifest(manifest) !== text) return yield* Either.left(corrupt(path, "is not as it was saved"))
    if (manifest.format !== 1) {
      const detail = `has format ${String(manifest.format)}, this version reads 1: use the version that wrote it`
      return yield* Either.left(new CheckpointError({ reason: "Mismatch", path, detail }))
    }
    return yield* Either.mapLeft(decodeWith(Manifest, manifest, "ignore"), (lines) =>
      corrupt(path, `does not list the files of a step: ${lines.slice(0, 5).join("; ")}`))
  })

// ---------------------------------------------------------------------------------------------------------------
// Memory

const makeMemory = (): Context.Tag.Service<typeof Checkpoints> => {
  const saved = new Map<number,
    { readonly loss: number | undefined; readonly files: ReadonlyMap<string, Uint8Array> }>()
  let latest: number | undefined
  const path = (step: number) => `memory/${folderName(step)}`
  const list = () =>
    [...saved].sort(([a], [b]) => a - b).map(([step, { loss }]): Saved => ({ step, path: path(step), loss }))
  return {
    location: "memory",
    save: Effect.fnUntraced(function*(snapshot) {
      const files = yield* encodeFiles(snapshot, (file) => `${path(snapshot.step)}/${file}`)
      saved.set(snapshot.step, {
        loss: finite(snapshot.loss),
        files: new Map(files.map(([name, file]) => [name, concat(file)]))
      })
      latest = snapshot.step
      return path(snapshot.step)
    }),
    load: Effect.fnUntraced(function*(which) {
      const step = which === "latest" ? latest : which === "best" ? best(list())?.step : which
      const found = step === undefined ? undefined : saved.get(step)
      if (step === undefined || found === undefined) return yield* absent("memory", which, list())
      return yield* decodeFolder(path(step), `${path(step)}/`, step, found.loss, {
        has: (file) => found.files.has(file),
        bytes: (file) => Effect.succeed(found.files.get(file)!),
        tensors: (file) => Safetensors.decode(found.files.get(file)!, `${path(step)}/${file}`)
      })
    }),
    list: Effect.sync(list)
  }
}

const finite = (loss: number | undefined): number | undefined =>
  loss !== undefined && Number.isFinite(loss) ? loss : undefined

/** The lowest validation loss, the earliest of equal ones; undefined where none was saved with one. */
const best = (there: ReadonlyArray<Saved>): Saved | undefined => {
  let found: Saved | undefined
  for (const saved of there) {
    if (saved.loss !== undefined && (found?.loss === undefined || saved.loss < found.loss)) found = saved
  }
  return found
}

/** The files of one checkpoint, wherever they are. */
interface Stored<R> {
  readonly has: (file: string) => boolean
  readonly bytes: (file: string) => Effect.Effect<Uint8Array, CheckpointError, R>
  readonly tensors: (file: string) => Effect.Effect<Readonly<Record<string, HostTensor>>, CheckpointError, R>
}

/** The tensors of `<stem>.safetensors`, in one file or several; undefined where there are none. */
const decodeTensors = Effect.fnUntraced(function*<R>(stem: string, prefix: string, files: Stored<R>) {
  const [one, index] = [`${stem}.safetensors`, `${stem}.safetensors.index.json`]
  if (files.has(one)) return yield* files.tensors(one)
  if (!files.has(index)) return undefined
  const json = yield* decodeJson(`${prefix}${index}`, yield* files.bytes(index))
  return yield* Safetensors.readShards(json, `${prefix}${index}`,
    (file) =>
      files.has(file) ? files.tensors(file) : Effect.fail(corrupt(`${prefix}${file}`, "is not in manifest.json")))
})

const decodeModel = Effect.fnUntraced(function*<R>(path: string, prefix: string, files: Stored<R>) {
  const config = yield* decodeJson(`${prefix}${configFile}`, yield* files.bytes(configFile))
  const model = yield* decodeTensors("model", prefix, files)
  if (model === undefined) return yield* corrupt(path, "its manifest.json names no model.safetensors")
  const text = (file: string) => Effect.flatMap(files.bytes(file), (bytes) => decodeText(`${prefix}${file}`, bytes))
  return {
    config,
    model,
    tokenizer: files.has(tokenizerFile) ? yield* text(tokenizerFile) : undefined,
    ...(files.has(namesFile) ? { names: yield* files.bytes(namesFile) } : {}),
    ...(files.has(deletionsFile) ? { deletions: yield* text(deletionsFile) } : {})
  }
})

const decodeFolder = Effect.fnUntraced(function*<R>(
  path: string,
  prefix: string,
  step: number,
  loss: number | undefined,
  files: Stored<R>
) {
  return {
    step,
    ...(yield* decodeModel(path, prefix, files)),
    // an imported model was not trained here, so it has neither
    optimizer: (yield* decodeTensors("optimizer", prefix, files)) ?? {},
    trainerState: files.has(stateFile)
      ? yield* decodeJson(`${prefix}${stateFile}`, yield* files.bytes(stateFile))
      : null,
    ...(loss === undefined ? {} : { loss })
  } satisfies Snapshot
})

const concat = ({ byteLength, chunks }: Safetensors.Encoded): Uint8Array => {
  const bytes = new Uint8Array(byteLength)
  let offset = 0
  for (const chunk of chunks) {
    bytes.set(chunk, offset)
    offset += chunk.length
  }
  return bytes
}

const absent = (location: string, which: Which, there: ReadonlyArray<Saved>): CheckpointError => {
  if (there.length === 0) return missing(location, "holds no checkpoint yet: start the run without resuming")
  const steps = there.map((saved) => saved.step).join(", ")
  if (which === "best") return missing(location, `holds no checkpoint with a validation loss; it holds ${steps}`)
  return missing(location, `holds no checkpoint of step ${which}; it holds ${steps}`)
}

// ---------------------------------------------------------------------------------------------------------------
// File system

const unwritten = (path: string) => (cause: PlatformError): CheckpointError =>
  new CheckpointError({
    reason: "Write",
    path,
    detail: `cannot be written: ${Safetensors.because(cause)}. Look at the free disk space and the permissions`,
    cause
  })

/** How much is written and hashed at once: a piece is hashed while it is on its way to the disk. */
const writeBytes = 8 << 20

const syncFolder = Effect.fnUntraced(function*(folder: string) {
  const fs = yield* FileSystem.FileSystem
  yield* Effect.scoped(Effect.flatMap(
    // Windows cannot open a folder and needs no sync of it: only a sync that was possible and failed is an error.
    Effect.option(fs.open(folder)),
    (file) => file._tag === "None" ? Effect.void : Effect.mapError(file.value.sync, unwritten(folder))
  ))
})

/** Writes a file and syncs it to the disk; gives its length and checksum. Fails with `CheckpointError` Write. */
const write = (path: string, file: Safetensors.Encoded) =>
  Effect.scoped(Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const hash = createHash("sha256")
    const handle = yield* fs.open(path, { flag: "w" })
    for (const chunk of file.chunks) {
      for (let start = 0; start < chunk.length; start += writeBytes) {
        const piece = chunk.subarray(start, start + writeBytes)
        yield* Effect.all([handle.writeAll(piece), Effect.sync(() => hash.update(piece))], {
          concurrency: 2,
          discard: true
        })
      }
    }
    yield* handle.sync
    return { bytes: file.byteLength, sha256: hash.digest("hex") }
  })).pipe(Effect.mapError(unwritten(path)))

/** Writes files into an empty folder, with a manifest of them where there is a `manifest`, and syncs it. */
const fill = Effect.fnUntraced(function*(folder: string, files: Files, manifest: Omit<Manifest, "files"> | undefined) {
  const paths = yield* Path.Path
  const digests: Record<string, typeof Digest.Type> = {}
  for (const [name, file] of files) digests[name] = yield* write(paths.join(folder, name), file)
  if (manifest !== undefined) {
    yield* write(paths.join(folder, manifestFile), utf8(encodeManifest({ ...manifest, files: digests })))
  }
  yield* syncFolder(folder)
})

/**
 * Writes one file, or a folder of files, that is not there yet: under a temporary name beside it first, so that its
 * name never stands for half of it. What a failure has written is removed. Fails with `CheckpointError` Write.
 */
export const writeNew = Effect.fnUntraced(function*(
  target: string,
  content: Safetensors.Encoded | Files,
  /** With it, the folder gets a manifest and is a checkpoint of this step. */
  step?: number
) {
  const fs = yield* FileSystem.FileSystem
  const paths = yield* Path.Path
  const path = paths.resolve(target)
  const folder = paths.dirname(path)
  const temporary = paths.join(folder, `.tmp-${paths.basename(path)}`)
  const there = yield* Effect.mapError(fs.exists(path), unwritten(path))
  if (there) {
    const empty = yield* Effect.orElseSucceed(Effect.map(fs.readDirectory(path), (names) => names.length === 0), () =>
      false)
    if (!empty) {
      const detail = "already exists, and nothing is overwritten: choose another name, or remove it"
      return yield* new CheckpointError({ reason: "Write", path, detail })
    }
  }
  yield* Effect.gen(function*() {
    yield* Effect.mapError(
      Effect.zipRight(fs.makeDirectory(folder, { recursive: true }),
        fs.remove(temporary, { recursive: true, force: true })),
      unwritten(path)
    )
    if ("chunks" in content) yield* write(temporary, content)
    else {
      yield* Effect.mapError(fs.makeDirectory(temporary), unwritten(path))
      yield* fill(temporary, content, step === undefined ? undefined : { format: 1, step })
    }
    if (there) yield* Effect.mapError(fs.remove(path, { recursive: true }), unwritten(path))
    yield* Effect.mapError(fs.rename(temporary, path), unwritten(path))
    yield* syncFolder(folder)
  }).pipe(Effect.onError(() => Effect.ignore(fs.remove(temporary, { recursive: true, force: true }))))
  return path
})

const Options = Schema.Struct({
  resume: Schema.optional(Schema.Boolean),
  keepLast: Schema.optional(Schema.Number),
  keepBest: Schema.optional(Schema.Boolean),
  keepLogSpaced: Schema.optional(Schema.Boolean),
  maxShardBytes: Schema.optional(Schema.Number)
})

const makeFileSystem = Effect.fnUntraced(function*(dir: string, options: FileSystemOptions) {
  yield* Effect.mapError(
    expectOptions(Options, options, "Checkpoints.layerFileSystem"),
    ({ detail }) => new CheckpointError({ reason: "Mismatch", path: String(dir), detail })
  )
  if (typeof dir !== "string" || dir === "") {
    const detail = "Checkpoints.layerFileSystem takes the path of a folder"
    return yield* new CheckpointError({ reason: "Mismatch", path: String(dir), detail })
  }
  const fs = yield* FileSystem.FileSystem
  const paths = yield* Path.Path
  const { keepBest = true, keepLast = 2, keepLogSpaced = false, maxShardBytes, resume = false } = options
  if (!(keepLast >= 1)) {
    const detail = `keepLast must be at least 1, got ${keepLast}: a run keeps the checkpoint it would resume from`
    return yield* new CheckpointError({ reason: "Mismatch", path: dir, detail })
  }
  const location = paths.resolve(dir)
  const at = (name: string) => paths.join(location, name)

  yield* Effect.mapError(
    Effect.zipRight(fs.makeDirectory(location, { recursive: true }), fs.access(location, { writable: true })),
    (cause) =>
      new CheckpointError({
        reason: "Write",
        path: location,
        detail: `is not a folder that can be written to: ${Safetensors.because(cause)}. ` +
          "Choose another folder, or change its permissions",
        cause
      })
  )
  const found = yield* Effect.mapError(fs.readDirectory(location), Safetensors.unreadable(location))
  if (!resume && found.some((name) => name.startsWith("step-") || name === "run.json")) {
    const detail = "already holds a run: pass --resume to go on from it, or choose another folder"
    return yield* new CheckpointError({ reason: "Mismatch", path: location, detail })
  }

  const rename = (from: string, to: string) => Effect.mapError(fs.rename(from, to), unwritten(to))

  const remove = (path: string) => fs.remove(path, { recursive: true, force: true })

  /** What a save that was cut short left behind: a half-written folder, or a checkpoint that was moved aside. */
  const tidy = Effect.gen(function*() {
    const names = yield* fs.readDirectory(location)
    for (const name of names) {
      if (name.startsWith(".tmp-")) yield* remove(at(name))
      if (!name.endsWith(".old") || !folderPattern.test(name)) continue
      const replaced = withoutOld(name)
      yield* names.includes(replaced) ? remove(at(name)) : fs.rename(at(name), at(replaced))
    }
  }).pipe(Effect.mapError(unwritten(location)))

  /** After going back to an earlier step, the checkpoints of the abandoned steps are the oldest. */
  const prune = Effect.fnUntraced(function*(step: number) {
    const there = yield* listFolder(location)
    const newestFirst = [...there].reverse()
    const ranked = [...newestFirst.filter((c) => c.step <= step), ...newestFirst.filter((c) => c.step > step)]
    const kept = new Set(ranked.slice(0, keepLast))
    const lowest = best(there)
    if (keepBest && lowest !== undefined) kept.add(lowest)
    if (keepLogSpaced) { for (const one of logSpaced(there)) if (one.step <= step) kept.add(one) }
    for (const one of ranked) if (!kept.has(one)) yield* remove(one.path)
  })

  /** What a save that failed leaves to go on from. */
  const lastGood = Effect.flatMap(listFolder(location), (there) => latestOf(location, there)).pipe(
    Effect.map((saved) =>
      saved === undefined
        ? "No checkpoint was saved before it"
        : `${withoutOld(paths.basename(saved.path))} is intact, and the one to resume from`
    ),
    Effect.orElseSucceed(() => "The checkpoints saved before are intact")
  )

  const save = Effect.fnUntraced(function*(snapshot: Snapshot) {
    const name = folderName(snapshot.step)
    const target = at(name)
    const files = yield* encodeFiles(snapshot, (file) => paths.join(target, file), maxShardBytes)
    yield* tidy
    const temporary = at(`.tmp-${name}`)
    const pointer = at(".tmp-latest")
    yield* Effect.gen(function*() {
      yield* Effect.mapError(fs.makeDirectory(temporary), unwritten(temporary))
      const loss = finite(snapshot.loss)
      const head: Omit<Manifest, "files"> = { format: 1, step: snapshot.step, ...(loss === undefined ? {} : { loss }) }
      yield* fill(temporary, files, head)
      const replaces = yield* Effect.mapError(fs.exists(target), unwritten(target))
      if (replaces) yield* rename(target, `${target}.old`)
      yield* rename(temporary, target)
      yield* syncFolder(location)
      yield* write(pointer, utf8(`${name}\n`))
      yield* rename(pointer, at("latest"))
      yield* syncFolder(location)
      // A full disk gets its space back at once; after a crash the next save does this.
    }).pipe(
      Effect.onError(() => Effect.ignore(Effect.zipRight(remove(temporary), remove(pointer)))),
      Effect.catchAll((error) => Effect.flatMap(lastGood, (advice) => withAdvice(advice)(error)))
    )
    yield* Effect.zipRight(remove(`${target}.old`), prune(snapshot.step)).pipe(
      Effect.catchAll((cause) => Effect.logWarning(`${target} is saved, but an older one stays: ${because(cause)}`))
    )
    return target
  })

  const context = yield* Effect.context<FileSystem.FileSystem | Path.Path>()
  const oneAtATime = yield* Effect.makeSemaphore(1)
  return Checkpoints.of({
    location,
    save: (snapshot) => oneAtATime.withPermits(1)(Effect.provide(save(snapshot), context)),
    load: (which) => Effect.provide(loadFrom(location, which), context),
    list: Effect.provide(listFolder(location), context)
  })
})

/** The checkpoints in a run's folder. One that was moved aside counts while nothing has taken its name. */
const listFolder = Effect.fnUntraced(function*(location: string) {
  const fs = yield* FileSystem.FileSystem
  const paths = yield* Path.Path
  const names = yield* Effect.mapError(fs.readDirectory(location), Safetensors.unreadable(location))
  return yield* Effect.forEach(stepsOf(names), ({ name, step }) => {
    const path = paths.join(location, name)
    return Effect.map(lossOf(paths.join(path, manifestFile)), (loss): Saved => ({ step, path, loss }))
  })
})

/** The validation loss in a manifest; a damaged one says nothing until it is loaded. */
const lossOf = (manifest: string) =>
  Effect.flatMap(FileSystem.FileSystem, (fs) => fs.readFile(manifest)).pipe(
    Effect.flatMap((bytes) => decodeManifest(manifest, bytes)),
    Effect.map(({ loss }) => typeof loss === "number" ? loss : undefined),
    Effect.orElseSucceed(() => undefined)
  )

/** Step 0, and the first in each of 1, 2 to 3, 4 to 7, 8 to 15, ... */
const logSpaced = (byStep: ReadonlyArray<Saved>): ReadonlyArray<Saved> => {
  const octave = ({ step }: Saved) => step === 0 ? -1 : Math.floor(Math.log2(step))
  return byStep.filter((saved, i) => i === 0 || octave(saved) !== octave(byStep[i - 1]!))
}

const withoutOld = (name: string) => name.replace(/\.old$/, "")

const choose = Effect.fnUntraced(function*(location: string, which: Which) {
  const paths = yield* Path.Path
  const there = yield* listFolder(location)
  const chosen = which === "latest"
    ? yield* latestOf(location, there)
    : which === "best"
    ? best(there)
    : there.find((saved) => saved.step === which)
  if (chosen === undefined) return yield* absent(location, which, there)
  const earlier = there.findLast((saved) => saved.step < chosen.step)
  return {
    path: chosen.path,
    advice: earlier === undefined
      ? "There is no earlier checkpoint: start again in another folder"
      : `Go on from the one before it, ${paths.basename(earlier.path)}: write this name into ` +
        `${paths.join(location, "latest")}, or load step ${earlier.step}`
  }
})

const loadFrom = Effect.fnUntraced(function*(location: string, which: Which) {
  const { advice, path } = yield* choose(location, which)
  return yield* Effect.mapError(readFolder(path), withAdvice(advice))
})

/** What `latest` names; without that file (a crash during the very first save) the newest there is. */
const latestOf = Effect.fnUntraced(function*(location: string, there: ReadonlyArray<Saved>) {
  const fs = yield* FileSystem.FileSystem
  const paths = yield* Path.Path
  const pointer = paths.join(location, "latest")
  const newest = there.at(-1)
  if (!(yield* Effect.mapError(fs.exists(pointer), Safetensors.unreadable(pointer)))) return newest
  const name = (yield* Effect.mapError(fs.readFileString(pointer), Safetensors.unreadable(pointer))).trim()
  const named = there.find((saved) => withoutOld(paths.basename(saved.path)) === name)
  if (named !== undefined || newest === undefined) return named
  const advice = `write the folder to resume from into it, ${paths.basename(newest.path)} being the newest`
  return yield* folderPattern.test(name)
    ? missing(pointer, `names ${name}, which is not there: ${advice}`)
    : corrupt(pointer, `does not name a checkpoint: ${advice}`)
})

/** The folder of the only model that a comparison has trained, as `seed-1/sinks`; the folder itself where it is none. */
export const onlyModel = Effect.fnUntraced(function*(folder: string) {
  const fs = yield* FileSystem.FileSystem
  const paths = yield* Path.Path
  const list = (path: string) => Effect.orElseSucceed(fs.readDirectory(path), (): Array<string> => [])
  const hasSteps = (names: ReadonlyArray<string>) => names.some((name) => /^step-\d/.test(name))
  const info = yield* Effect.option(fs.stat(folder))
  if (info._tag === "Some" && info.value.type !== "Directory") {
    const detail = `is a file, and a checkpoint is a folder: give ${
      paths.dirname(folder)
    }, if that is the one it lies in`
    return yield* new CheckpointError({ reason: "Mismatch", path: folder, detail })
  }
  const names = yield* list(folder)
  if (!names.includes("run.json") || hasSteps(names)) return folder
  const models: Array<string> = []
  for (const seed of names.filter((name) => /^seed-\d+$/.test(name)).sort()) {
    for (const arm of (yield* list(paths.join(folder, seed))).sort()) {
      const path = paths.join(folder, seed, arm)
      if (hasSteps(yield* list(path))) models.push(path)
    }
  }
  if (models.length > 1) {
    const detail = `is a run of ${models.length} models: give the folder of one of them, ${models.join(", ")}`
    return yield* new CheckpointError({ reason: "Mismatch", path: folder, detail })
  }
  return models[0] ?? folder
})

/** The checkpoint that a path means: its own folder, or the latest in the folder of a model, or of a run of one model. */
const locate = Effect.fnUntraced(function*(path: string) {
  const folder = yield* onlyModel((yield* Path.Path).resolve(path))
  const inside = yield* Effect.orElseSucceed(listFolder(folder), () => [])
  if (inside.length > 0) return yield* choose(folder, "latest")
  return { path: folder, advice: "Give the folder of a run, or one of the step- folders in it that is whole" }
})

/**
 * Loads one checkpoint from its folder, or the latest from the folder of a run, and verifies every byte of it. Writes
 * nothing, so the run may still be training. Fails with `CheckpointError`: Missing, Corrupt, or Mismatch.
 */
export const loadFolder = (
  path: string
): Effect.Effect<Snapshot, CheckpointError, FileSystem.FileSystem | Path.Path> =>
  Effect.flatMap(locate(path), ({ advice, path }) => Effect.mapError(readFolder(path), withAdvice(advice)))

/** A model without the state of the run that trained it. */
export interface SavedModel extends ModelSnapshot {
  /** Its own folder. */
  readonly path: string
}

/** The same without the optimizer, which is twice as large as the model and is not read. */
export const loadModel = (
  path: string
): Effect.Effect<SavedModel, CheckpointError, FileSystem.FileSystem | Path.Path> =>
  Effect.flatMap(locate(path), ({ advice, path }) =>
    Effect.gen(function*() {
      const { files, manifest, prefix } = yield* openFolder(path)
      return { path, step: manifest.step, ...(yield* decodeModel(path, prefix, files)) }
    }).pipe(Effect.mapError(withAdvice(advice))))

/** Writes a model that no run here has trained, as step 0, to a folder that is not there yet; `loadModel` reads it. */
export const saveModel = Effect.fnUntraced(function*(
  target: string,
  model: Omit<ModelSnapshot, "step">,
  maxShardBytes?: number
) {
  const paths = yield* Path.Path
  const files = yield* modelFiles(model, (file) => paths.join(target, file), maxShardBytes)
  return yield* writeNew(target, files, 0)
})

const withAdvice = (advice: string) => ({ cause, detail, path, reason }: CheckpointError) =>
  new CheckpointError({ reason, path, detail: `${detail}. ${advice}`, cause })

const openFolder = Effect.fnUntraced(function*(folder: string) {
  const fs = yield* FileSystem.FileSystem
  const paths = yield* Path.Path
  const at = (file: string) => paths.join(folder, file)
  const readFile = (file: string) => Effect.mapError(fs.readFile(at(file)), Safetensors.unreadable(at(file)))

  if (!(yield* liesIn(folder, manifestFile))) return yield* corrupt(at(manifestFile), LEADS_OUT)
  const manifest = yield* decodeManifest(at(manifestFile), yield* readFile(manifestFile))
  const named = folderPattern.exec(paths.basename(folder))
  if (named !== null && Number(named[1]) !== manifest.step) {
    return yield* corrupt(folder, `holds the checkpoint of step ${manifest.step}: the folder was renamed or swapped`)
  }

  /** Runs `read`, which shows every byte of the file to `see`, and compares them with the manifest. */
  const verified = Effect.fnUntraced(function*<A, R>(
    file: string,
    read: (see: (bytes: Uint8Array) => void) => Effect.Effect<A, CheckpointError, R>
  ) {
    const saved = Object.hasOwn(manifest.files, file) ? manifest.files[file] : undefined
    if (saved === undefined) return yield* corrupt(at(manifestFile), `does not list ${file}`)
    if (!(yield* liesIn(folder, file))) return yield* corrupt(at(file), LEADS_OUT)
    const { size } = yield* Effect.mapError(fs.stat(at(file)), Safetensors.unreadable(at(file)))
    if (Number(size) !== saved.bytes) {
      return yield* corrupt(at(file), `holds ${size} bytes where ${saved.bytes} were saved`)
    }
    const hash = createHash("sha256")
    const value = yield* read((bytes) => hash.update(bytes))
    if (hash.digest("hex") !== saved.sha256) {
      return yield* corrupt(at(file), "is not as it was saved: its sha256 is not the one in manifest.json")
    }
    return value
  })
  const files: Stored<FileSystem.FileSystem> = {
    has: (file) => Object.hasOwn(manifest.files, file),
    bytes: (file) => verified(file, (see) => Effect.tap(readFile(file), (data) => see(data))),
    tensors: (file) => verified(file, (see) => Safetensors.read(at(file), see))
  }
  return { files, manifest, prefix: `${folder}${paths.sep}` }
})

/** Read by loaders of Hugging Face's, not here: verified all the same. */
const isCompanion = (file: string) =>
  ![configFile, stateFile, tokenizerFile, namesFile, deletionsFile].includes(file) && !file.includes(".safetensors")

const readFolder = Effect.fnUntraced(function*(folder: string) {
  const { files, manifest, prefix } = yield* openFolder(folder)
  for (const file of Object.keys(manifest.files).filter(isCompanion)) yield* files.bytes(file)
  return yield* decodeFolder(folder, prefix, manifest.step, manifest.loss, files)
})
