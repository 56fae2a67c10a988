/**
 * Checkpoints: everything needed to go on from a step, bit for bit, the data cursor included.
 *
 *     runs/a/step-00001000/   config.json  model.safetensors  optimizer.safetensors  trainer_state.json
 *                             tokenizer.json  manifest.json (bytes and sha256 of the others)
 *     runs/a/latest           the name of the folder to resume from, written last
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
import { createHash } from "node:crypto"
import { CheckpointError } from "./Errors.ts"
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
}

/** A checkpoint that can be loaded by its step. */
export interface Saved {
  readonly step: number
  readonly path: string
}

/** What `layerFileSystem` may be told. */
export interface FileSystemOptions {
  /** Go on in a folder that already holds a run. Default false: such a folder is refused. */
  readonly resume?: boolean
  /** How many of the last checkpoints to keep, at least 1; `Infinity` keeps all. Default 2. */
  readonly keepLast?: number
}

/**
 * Saves, loads and lists the checkpoints of one run.
 *
 * Every failure is a `CheckpointError`: Missing (no such checkpoint or file), Corrupt (a file is not what was saved),
 * Mismatch (the folder belongs to another run), Write (could not be saved; the checkpoints before it are intact).
 */
export class Checkpoints extends Context.Tag("memsinks/Checkpoints")<Checkpoints, {
  /** The run's folder, or "memory". */
  readonly location: string
  /** Saves, makes it the latest, and returns where it lies. A checkpoint of the same step is replaced. */
  readonly save: (snapshot: Snapshot) => Effect.Effect<string, CheckpointError>
  /** Loads the one saved last, or the one of a step, and verifies every byte of it. */
  readonly load: (which: "latest" | number) => Effect.Effect<Snapshot, CheckpointError>
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
    Layer.effect(Checkpoints, makeFileSystem(dir, options))
}

const folderName = (step: number) => `step-${String(step).padStart(8, "0")}`

/** A checkpoint that was moved aside carries `.old` until its replacement has the name. */
const folderPattern = /^step-(\d{8,})(?:\.old)?$/

const configFile = "config.json"
const modelFile = "model.safetensors"
const optimizerFile = "optimizer.safetensors"
const stateFile = "trainer_state.json"
const tokenizerFile = "tokenizer.json"
const manifestFile = "manifest.json"

// ---------------------------------------------------------------------------------------------------------------
// Snapshot <-> files

type Files = ReadonlyArray<readonly [name: string, file: Safetensors.Encoded]>

const utf8 = (text: string): Safetensors.Encoded => {
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

const encodeFiles = (snapshot: Snapshot, at: (file: string) => string): Either.Either<Files, CheckpointError> =>
  Either.gen(function*() {
    if (!Number.isSafeInteger(snapshot.step) || snapshot.step < 0) {
      const detail = `a checkpoint needs a whole number of steps, got ${snapshot.step}`
      return yield* Either.left(new CheckpointError({ reason: "Write", path: at(""), detail }))
    }
    const files: Array<readonly [string, Safetensors.Encoded]> = [
      [configFile, yield* encodeJson(at(configFile), snapshot.config)],
      [modelFile, yield* Safetensors.encode(snapshot.model, at(modelFile))],
      [optimizerFile, yield* Safetensors.encode(snapshot.optimizer, at(optimizerFile))],
      [stateFile, yield* encodeJson(at(stateFile), snapshot.trainerState)]
    ]
    if (snapshot.tokenizer !== undefined) files.push([tokenizerFile, utf8(snapshot.tokenizer)])
    return files
  })

const decodeText = (path: string, bytes: Uint8Array): Either.Either<string, CheckpointError> =>
  Either.try({
    try: () => new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes),
    catch: () => corrupt(path, "is not UTF-8 text")
  })

const decodeJson = (path: string, bytes: Uint8Array): Either.Either<unknown, CheckpointError> =>
  Either.flatMap(decodeText(path, bytes), (text) =>
    Either.try({
      try: () => JSON.parse(text) as unknown,
      catch: (cause) => corrupt(path, `is not JSON: ${(cause as Error).message}`)
    }))

const corrupt = (path: string, detail: string) => new CheckpointError({ reason: "Corrupt", path, detail })

const missing = (path: string, detail: string) => new CheckpointError({ reason: "Missing", path, detail })

interface Digest {
  readonly bytes: number
  readonly sha256: string
}

interface Manifest {
  readonly format: 1
  readonly step: number
  readonly files: Readonly<Record<string, Digest>>
}

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
      const detail = `has format ${manifest.format}, this version reads 1: use the version that wrote it`
      return yield* Either.left(new CheckpointError({ reason: "Mismatch", path, detail }))
    }
    return manifest
  })

// ---------------------------------------------------------------------------------------------------------------
// Memory

const makeMemory = (): Context.Tag.Service<typeof Checkpoints> => {
  const saved = new Map<number, ReadonlyMap<string, Uint8Array>>()
  let latest: number | undefined
  const path = (step: number) => `memory/${folderName(step)}`
  const list = () => [...saved.keys()].sort((a, b) => a - b).map((step): Saved => ({ step, path: path(step) }))
  return {
    location: "memory",
    save: Effect.fnUntraced(function*(snapshot) {
      const files = yield* encodeFiles(snapshot, (file) => `${path(snapshot.step)}/${file}`)
      saved.set(snapshot.step, new Map(files.map(([name, file]) => [name, concat(file)])))
      latest = snapshot.step
      return path(snapshot.step)
    }),
    load: Effect.fnUntraced(function*(which) {
      const step = which === "latest" ? latest : which
      const files = step === undefined ? undefined : saved.get(step)
      if (step === undefined || files === undefined) return yield* absent("memory", which, list())
      const at = (file: string) => `${path(step)}/${file}`
      const tokenizer = files.get(tokenizerFile)
      return {
        step,
        config: yield* decodeJson(at(configFile), files.get(configFile)!),
        model: yield* Safetensors.decode(files.get(modelFile)!, at(modelFile)),
        optimizer: yield* Safetensors.decode(files.get(optimizerFile)!, at(optimizerFile)),
        trainerState: yield* decodeJson(at(stateFile), files.get(stateFile)!),
        tokenizer: tokenizer && (yield* decodeText(at(tokenizerFile), tokenizer))
      }
    }),
    list: Effect.sync(list)
  }
}

const concat = ({ byteLength, chunks }: Safetensors.Encoded): Uint8Array => {
  const bytes = new Uint8Array(byteLength)
  let offset = 0
  for (const chunk of chunks) {
    bytes.set(chunk, offset)
    offset += chunk.length
  }
  return bytes
}

const absent = (location: string, which: "latest" | number, there: ReadonlyArray<Saved>): CheckpointError => {
  if (there.length === 0) return missing(location, "holds no checkpoint yet: start the run without resuming")
  const steps = there.map((saved) => saved.step).join(", ")
  return missing(location, `holds no checkpoint of step ${which}; it holds ${steps}`)
}

// ---------------------------------------------------------------------------------------------------------------
// File system

const unwritten = (path: string) => (cause: PlatformError): CheckpointError =>
  new CheckpointError({
    reason: "Write",
    path,
    detail: `cannot be written: ${Safetensors.because(cause)}. Look at the free disk space and the permissions; ` +
      "the checkpoints saved before are intact",
    cause
  })

/** How much is written and hashed at once: a piece is hashed while it is on its way to the disk. */
const writeBytes = 8 << 20

const makeFileSystem = Effect.fnUntraced(function*(dir: string, options: FileSystemOptions) {
  const fs = yield* FileSystem.FileSystem
  const paths = yield* Path.Path
  const { keepLast = 2, resume = false } = options
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

  const syncFolder = (folder: string) =>
    Effect.scoped(Effect.flatMap(
      // Windows cannot open a folder and needs no sync of it: only a sync that was possible and failed is an error.
      Effect.option(fs.open(folder)),
      (file) => file._tag === "None" ? Effect.void : Effect.mapError(file.value.sync, unwritten(folder))
    ))

  const write = (path: string, file: Safetensors.Encoded) =>
    Effect.scoped(Effect.gen(function*() {
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
    const newestFirst = (yield* listFolder(location)).reverse()
    const ranked = [...newestFirst.filter((c) => c.step <= step), ...newestFirst.filter((c) => c.step > step)]
    for (const { path } of ranked.slice(keepLast)) yield* remove(path)
  })

  const save = Effect.fnUntraced(function*(snapshot: Snapshot) {
    const name = folderName(snapshot.step)
    const target = at(name)
    const files = yield* encodeFiles(snapshot, (file) => paths.join(target, file))
    yield* tidy
    const temporary = at(`.tmp-${name}`)
    const pointer = at(".tmp-latest")
    yield* Effect.gen(function*() {
      yield* Effect.mapError(fs.makeDirectory(temporary), unwritten(temporary))
      const digests: Record<string, Digest> = {}
      for (const [file, content] of files) digests[file] = yield* write(paths.join(temporary, file), content)
      const manifest = encodeManifest({ format: 1, step: snapshot.step, files: digests })
      yield* write(paths.join(temporary, manifestFile), utf8(manifest))
      yield* syncFolder(temporary)
      const replaces = yield* Effect.mapError(fs.exists(target), unwritten(target))
      if (replaces) yield* rename(target, `${target}.old`)
      yield* rename(temporary, target)
      yield* syncFolder(location)
      yield* write(pointer, utf8(`${name}\n`))
      yield* rename(pointer, at("latest"))
      yield* syncFolder(location)
      // A full disk gets its space back at once; after a crash the next save does this.
    }).pipe(Effect.onError(() => Effect.ignore(Effect.zipRight(remove(temporary), remove(pointer)))))
    yield* Effect.zipRight(remove(`${target}.old`), prune(snapshot.step)).pipe(
      Effect.catchAll((cause) => Effect.logWarning(`${target} is saved, but an older one stays: ${cause.message}`))
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
  const saved: Array<Saved> = []
  for (const name of names) {
    const match = folderPattern.exec(name)
    if (match === null || (name.endsWith(".old") && names.includes(withoutOld(name)))) continue
    saved.push({ step: Number(match[1]), path: paths.join(location, name) })
  }
  return saved.sort((a, b) => a.step - b.step)
})

const withoutOld = (name: string) => name.replace(/\.old$/, "")

const loadFrom = Effect.fnUntraced(function*(location: string, which: "latest" | number) {
  const paths = yield* Path.Path
  const there = yield* listFolder(location)
  const chosen = which === "latest"
    ? yield* latestOf(location, there)
    : there.find((saved) => saved.step === which)
  if (chosen === undefined) return yield* absent(location, which, there)
  const earlier = there.findLast((saved) => saved.step < chosen.step)
  return yield* Effect.mapError(readFolder(chosen.path), withAdvice(
    earlier === undefined
      ? "There is no earlier checkpoint: start again in another folder"
      : `Go on from the one before it, ${paths.basename(earlier.path)}: write this name into ` +
        `${paths.join(location, "latest")}, or load step ${earlier.step}`
  ))
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

/**
 * Loads one checkpoint from its folder, or the latest from the folder of a run, and verifies every byte of it. Writes
 * nothing, so the run may still be training. Fails with `CheckpointError`: Missing, Corrupt, or Mismatch.
 */
export const loadFolder = (
  path: string
): Effect.Effect<Snapshot, CheckpointError, FileSystem.FileSystem | Path.Path> =>
  Effect.gen(function*() {
    const folder = (yield* Path.Path).resolve(path)
    const inside = yield* Effect.orElseSucceed(listFolder(folder), () => [])
    if (inside.length > 0) return yield* loadFrom(folder, "latest")
    const advice = "Give the folder of a run, or one of the step- folders in it that is whole"
    return yield* Effect.mapError(readFolder(folder), withAdvice(advice))
  })

const withAdvice = (advice: string) => ({ cause, detail, path, reason }: CheckpointError) =>
  new CheckpointError({ reason, path, detail: `${detail}. ${advice}`, cause })

const readFolder = Effect.fnUntraced(function*(folder: string) {
  const fs = yield* FileSystem.FileSystem
  const paths = yield* Path.Path
  const at = (file: string) => paths.join(folder, file)
  const readFile = (file: string) => Effect.mapError(fs.readFile(at(file)), Safetensors.unreadable(at(file)))

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
    const saved: Digest | undefined = manifest.files[file]
    if (saved === undefined) return yield* corrupt(at(manifestFile), `does not list ${file}`)
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
  const bytes = (file: string) => verified(file, (see) => Effect.tap(readFile(file), (data) => see(data)))
  const json = (file: string) => Effect.flatMap(bytes(file), (data) => decodeJson(at(file), data))
  const tensors = (file: string) => verified(file, (see) => Safetensors.read(at(file), see))

  return {
    step: manifest.step,
    config: yield* json(configFile),
    model: yield* tensors(modelFile),
    optimizer: yield* tensors(optimizerFile),
    trainerState: yield* json(stateFile),
    tokenizer: tokenizerFile in manifest.files
      ? yield* Effect.flatMap(bytes(tokenizerFile), (data) => decodeText(at(tokenizerFile), data))
      : undefined
  }
})
