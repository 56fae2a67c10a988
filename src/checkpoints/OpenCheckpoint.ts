/**
 * A checkpoint opened to be used: its model on the device and its tokenizer, without the data it was trained on.
 */
import type * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { Names } from "../data/identity/Names.ts"
import * as Tokenizer from "../data/tokens/Tokenizer.ts"
import { CheckpointError, type DeviceError } from "../Errors.ts"
import type { Device } from "../gpu/Device.ts"
import type { HostTensor } from "../HostTensor.ts"
import type { TextEnds } from "../model/HuggingFace.ts"
import { Model, type ModelOptions } from "../model/Model.ts"
import type { ModelConfig } from "../model/ModelConfig.ts"
import { loadInitial } from "./Import.ts"

/** A checkpoint that was read: its configuration, weights, tokenizer and ids. */
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
  /** What the ids it was trained with are called; undefined where it does not say. */
  readonly names: Names | undefined
  /** The tokens that begin and end a text, and whether the tokenizer itself puts them there. */
  readonly ends: TextEnds
  /** Its weights, by the names that checkpoints have for them. */
  readonly tensors: Readonly<Record<string, HostTensor>>
  /** The model with its weights. Each use of the layer makes one of its own. */
  readonly layer: Layer.Layer<Model, DeviceError | CheckpointError, Device>
}

/** A model with these weights. Each use of the layer makes one of its own. */
export const modelWith = (
  config: ModelConfig,
  tensors: Readonly<Record<string, HostTensor>>,
  options: Pick<ModelOptions, "precision" | "compute"> = {}
): Layer.Layer<Model, DeviceError | CheckpointError, Device> =>
  Layer.scoped(
    Model,
    Effect.tap(Model.make(config, { ...options, initialize: false }), (model) => model.importTensors(tensors))
  )

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
    const { config, ends, names, notes, path: folder, step, tensors, tokenizer } = yield* loadInitial(path)
    const file = (yield* Path.Path).join(folder, "tokenizer.json")
    const read = tokenizer === undefined ? undefined : yield* Tokenizer.fromJSON(tokenizer).pipe(
      Effect.mapError((error) => new CheckpointError({ reason: "Corrupt", path: file, detail: error.message }))
    )
    return {
      path: folder,
      step,
      config,
      notes,
      tokenizer: read,
      names,
      ends,
      tensors,
      layer: modelWith(config, tensors, options)
    }
  })
