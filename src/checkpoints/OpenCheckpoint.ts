/**
 * A checkpoint opened to be used: its model on the device and its tokenizer, without the data it was trained on.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { CheckpointError, type DeviceError } from "../Errors.ts"
import type { Device } from "../gpu/Device.ts"
import { specialTokens, tokenizerParts } from "./HuggingFace.ts"
import { loadInitial } from "./Import.ts"
import { Model, type ModelOptions } from "../Model.ts"
import type { ModelConfig } from "../ModelConfig.ts"
import * as Tokenizer from "../data/Tokenizer.ts"

export interface OpenCheckpoint {
  /** The folder that it was read from. */
  readonly path: string
  /** The step it was saved at; a model from elsewhere has none. */
  readonly step: number | undefined
  readonly config: ModelConfig
  /** What a user should know about it. */
  readonly notes: ReadonlyArray<string>
  /** Undefined where the folder holds no tokenizer.json. */
  readonly tokenizer: Tokenizer.Tokenizer | undefined
  /** The tokens that begin and end a text, where the tokenizer has such. */
  readonly bos: number | undefined
  readonly eos: number | undefined
  /** The model with its weights. Each use of the layer makes one of its own. */
  readonly layer: Layer.Layer<Model, DeviceError | CheckpointError, Device>
}

/** The only model of a comparison's folder (`seed-1/sinks`), or the path as it is. Fails where there are several. */
const only = Effect.fnUntraced(function*(path: string) {
  const fs = yield* FileSystem.FileSystem
  const paths = yield* Path.Path
  const list = (folder: string) => Effect.orElseSucceed(fs.readDirectory(folder), (): Array<string> => [])
  const names = yield* list(path)
  if (!names.includes("run.json") || names.some((name) => name.startsWith("step-"))) return path
  const found: Array<string> = []
  for (const seed of names.filter((name) => /^seed-\d+$/.test(name)).sort()) {
    for (const arm of yield* list(paths.join(path, seed))) {
      const inside = yield* list(paths.join(path, seed, arm))
      if (inside.some((name) => name.startsWith("step-"))) found.push(paths.join(path, seed, arm))
    }
  }
  if (found.length > 1) {
    const detail = `is a run of ${found.length} models: name the folder of one of them, ${found.sort().join(", ")}`
    return yield* new CheckpointError({ reason: "Mismatch", path, detail })
  }
  return found[0] ?? path
})

/**
 * Open the latest checkpoint of a run, one checkpoint, an imported model, or a Llama as Hugging Face has it. Reads the
 * weights; nothing is on a device before `layer` is built. Fails with a CheckpointError that names the file: Missing,
 * Corrupt, or Mismatch for a folder that holds something else.
 */
export const openCheckpoint = (
  path: string,
  options: Pick<ModelOptions, "precision" | "compute"> = {}
): Effect.Effect<OpenCheckpoint, CheckpointError, FileSystem.FileSystem | Path.Path> =>
  Effect.gen(function*() {
    const { config, notes, path: folder, step, tensors, tokenizer } = yield* Effect.flatMap(only(path), loadInitial)
    const file = (yield* Path.Path).join(folder, "tokenizer.json")
    const read = tokenizer === undefined ? undefined : yield* Effect.all({
      tokenizer: Tokenizer.fromJSON(tokenizer),
      special: Effect.sync(() => specialTokens(tokenizerParts(tokenizer)))
    }).pipe(
      Effect.catchAllDefect((defect) => Effect.fail(defect as Error)),
      Effect.mapError((error) => new CheckpointError({ reason: "Corrupt", path: file, detail: error.message }))
    )
    return {
      path: folder,
      step,
      config,
      notes,
      tokenizer: read?.tokenizer,
      bos: read?.special.bos?.id,
      eos: read?.special.eos?.id,
      layer: Layer.scoped(
        Model,
        Effect.tap(Model.make(config, { ...options, initialize: false }), (model) => model.importTensors(tensors))
      )
    }
  })
