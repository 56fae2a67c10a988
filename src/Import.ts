/**
 * Models made elsewhere: a Llama as Hugging Face has it becomes a checkpoint here, with a fresh pool of sinks if wanted,
 * so that pretraining goes on from it.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import * as Checkpoints from "./Checkpoints.ts"
import { decodeConfig } from "./Config.ts"
import { CheckpointError, type DataError } from "./Errors.ts"
import { modelConfigOf } from "./HuggingFace.ts"
import { huggingFaceConfig, initialValue, listParameters, parametersOf, toHuggingFace } from "./Model.ts"
import { ModelConfig } from "./ModelConfig.ts"
import type { HostTensor } from "./Safetensors.ts"
import * as Safetensors from "./Safetensors.ts"
import { SinkConfig } from "./Sink.ts"

type Tensors = Readonly<Record<string, HostTensor>>

/** A model to start from, with its weights on the host. */
export interface InitialModel {
  readonly config: ModelConfig
  /** Under Hugging Face's names, f32, exactly those that `config` asks for: what `Model.importTensors` takes. */
  readonly tensors: Tensors
  /** The text of its `tokenizer.json`. */
  readonly tokenizer: string | undefined
  /** The folder that it was read from, and the step it was saved at; a foreign one has none. */
  readonly path: string
  readonly step: number | undefined
}

// ---------------------------------------------------------------------------------------------------------------
// Reading

/** Names and shapes of a model's tensors, one by one, since a damaged config may ask for any number of them. */
function* shapesOf(c: ModelConfig): Generator<readonly [name: string, shape: ReadonlyArray<number>]> {
  const d = c.hiddenSize
  const q = c.numAttentionHeads * c.headSize
  const kv = c.kvHeads * c.headSize
  yield ["model.embed_tokens.weight", [c.vocabSize, d]]
  for (let i = 0; i < c.numHiddenLayers; i++) {
    const at = `model.layers.${i}`
    yield [`${at}.input_layernorm.weight`, [d]]
    yield [`${at}.self_attn.q_proj.weight`, [q, d]]
    yield [`${at}.self_attn.k_proj.weight`, [kv, d]]
    yield [`${at}.self_attn.v_proj.weight`, [kv, d]]
    yield [`${at}.self_attn.o_proj.weight`, [d, q]]
    yield [`${at}.post_attention_layernorm.weight`, [d]]
    yield [`${at}.mlp.gate_proj.weight`, [c.intermediateSize, d]]
    yield [`${at}.mlp.up_proj.weight`, [c.intermediateSize, d]]
    yield [`${at}.mlp.down_proj.weight`, [d, c.intermediateSize]]
  }
  yield ["model.norm.weight", [d]]
  if (!c.tieWordEmbeddings) yield ["lm_head.weight", [c.vocabSize, d]]
}

const sameNumbers = (a: HostTensor, b: HostTensor): boolean =>
  a.data.length === b.data.length && a.data.every((value, i) => value === b.data[i])

/** Tables that older files hold and that are computed here. */
const computed = /\.rotary_emb\.inv_freq$/

/** The tensors that a config asks for, all of them and no others. Fails with `CheckpointError` Mismatch. */
const checked = (c: ModelConfig, tensors: Tensors, path: string): Effect.Effect<Tensors, CheckpointError> => {
  const mismatch = (detail: string) => Effect.fail(new CheckpointError({ reason: "Mismatch", path, detail }))
  const wanted: Array<readonly [string, HostTensor]> = []
  for (const [name, shape] of shapesOf(c)) {
    const got = Object.hasOwn(tensors, name) ? tensors[name] : undefined
    if (got === undefined) return mismatch(`tensor ${name} is missing`)
    if (got.shape.join() !== shape.join()) {
      return mismatch(`tensor ${name} is [${got.shape.join(", ")}], the model's config asks for [${shape.join(", ")}]`)
    }
    if (!(got.data instanceof Float32Array)) return mismatch(`tensor ${name} holds whole numbers, not weights`)
    wanted.push([name, got])
  }
  const names = new Set(wanted.map(([name]) => name))
  for (const [name, tensor] of Object.entries(tensors)) {
    if (names.has(name) || computed.test(name)) continue
    if (name === "lm_head.weight") {
      if (sameNumbers(tensor, tensors["model.embed_tokens.weight"])) continue
      return mismatch("lm_head.weight differs from the embedding, but config.json has tie_word_embeddings true")
    }
    return mismatch(`tensor ${name} is in the file, but a Llama of this config has no such tensor`)
  }
  return Effect.succeed(Object.fromEntries(wanted))
}

/** A file's text, or undefined where there is no such file. */
const textOf = Effect.fnUntraced(function*(path: string) {
  const fs = yield* FileSystem.FileSystem
  if (!(yield* Effect.mapError(fs.exists(path), Safetensors.unreadable(path)))) return undefined
  const bytes = yield* Effect.mapError(fs.readFile(path), Safetensors.unreadable(path))
  return yield* Effect.try({
    try: () => new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes),
    catch: () => new CheckpointError({ reason: "Corrupt", path, detail: "is not UTF-8 text" })
  })
})

const jsonOf = Effect.fnUntraced(function*(path: string) {
  const text = yield* textOf(path)
  if (text === undefined) return undefined
  return yield* Effect.try({
    try: () => JSON.parse(text) as unknown,
    catch: (cause) =>
      new CheckpointError({ reason: "Corrupt", path, detail: `is not JSON: ${(cause as Error).message}` })
  })
})

/** The tensors of a folder: `model.safetensors`, or the files that `model.safetensors.index.json` names. */
const tensorsOf = Effect.fnUntraced(function*(folder: string) {
  const fs = yield* FileSystem.FileSystem
  const paths = yield* Path.Path
  const whole = paths.join(folder, "model.safetensors")
  if (yield* Effect.mapError(fs.exists(whole), Safetensors.unreadable(whole))) return yield* Safetensors.read(whole)
  const path = paths.join(folder, "model.safetensors.index.json")
  const index = yield* jsonOf(path)
  if (index === undefined) {
    const detail = "holds neither model.safetensors nor model.safetensors.index.json. Weights in other formats must be " +
      "converted to safetensors first"
    return yield* new CheckpointError({ reason: "Missing", path: folder, detail })
  }
  return yield* Safetensors.readShards(index, path, (file) => Safetensors.read(paths.join(folder, file)))
})

/** A Llama as Hugging Face has it: `config.json`, safetensors, and `tokenizer.json` where there is one. */
const readLlama = Effect.fnUntraced(function*(folder: string) {
  const paths = yield* Path.Path
  const path = paths.join(folder, "config.json")
  const json = yield* jsonOf(path)
  if (json === undefined) {
    const detail = "holds neither a checkpoint of a run (manifest.json) nor a model of Hugging Face's (config.json)"
    return yield* new CheckpointError({ reason: "Missing", path: folder, detail })
  }
  const config = yield* modelConfigOf(json, path)
  const tensors = yield* checked(config, yield* tensorsOf(folder), folder)
  return { config, tensors, tokenizer: yield* textOf(paths.join(folder, "tokenizer.json")), path: folder, step: undefined }
})

/**
 * Reads a model to start from, or to export: the folder of a run (its latest checkpoint), of one checkpoint, of an
 * imported model, or of a plain Llama with `config.json` and safetensors. Whatever has a manifest is verified by it.
 * Fails with `CheckpointError`: Missing, Corrupt, or Mismatch where it is no model that can be computed here.
 */
export const loadInitial = (
  path: string
): Effect.Effect<InitialModel, CheckpointError, FileSystem.FileSystem | Path.Path> =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const paths = yield* Path.Path
    const folder = paths.resolve(path)
    const names = yield* Effect.mapError(fs.readDirectory(folder), (cause) =>
      Safetensors.unreadable(folder)(cause).reason === "Missing"
        ? new CheckpointError({ reason: "Missing", path: folder, detail: "there is no such folder" })
        : Safetensors.unreadable(folder)(cause))
    const foreign = names.includes("config.json") && !names.includes("manifest.json") &&
      !names.some((name) => name.startsWith("step-"))
    if (foreign || names.length === 0) return yield* readLlama(folder)
    const saved = yield* Checkpoints.loadModel(folder)
    const config = yield* modelConfigOf(saved.config, paths.join(saved.path, "config.json"))
    return {
      config,
      tensors: yield* checked(config, saved.model, saved.path),
      tokenizer: saved.tokenizer,
      path: saved.path,
      step: saved.step
    }
  })

// ---------------------------------------------------------------------------------------------------------------
// A fresh pool

/**
 * The same model with a pool of sinks: its neurons are the general ones. The sinks' gates and ups start as in a new
 * model; their downs start at 0. So with sinks off, and with any of them on, the model computes at first exactly what it
 * did, and the first step moves the downs, the next all three.
 */
export const withSinks = (
  c: ModelConfig,
  tensors: Tensors,
  sinks: SinkConfig,
  seed = 0
): Effect.Effect<{ readonly config: ModelConfig; readonly tensors: Tensors }, DataError> =>
  Effect.gen(function*() {
    const width = c.intermediateSize
    const config = yield* decodeConfig(ModelConfig, { ...c, intermediateSize: width + sinks.pool, sinks: { ...sinks } })
    const d = c.hiddenSize
    const out: Record<string, HostTensor> = { ...tensors }
    for (const parameter of listParameters(parametersOf(config))) {
      if (parameter.name.endsWith(".gateUp")) {
        for (const [name, fresh] of toHuggingFace(config, parameter.name, initialValue(config, parameter, seed))) {
          ;(fresh.data as Float32Array).set(tensors[name].data as Float32Array)
          out[name] = fresh
        }
      } else if (parameter.name.endsWith(".down")) {
        const name = `model.${parameter.name.replace(/down$/, "mlp.down_proj.weight")}`
        const data = new Float32Array(d * config.intermediateSize)
        const old = tensors[name].data as Float32Array
        for (let row = 0; row < d; row++) {
          data.set(old.subarray(row * width, (row + 1) * width), row * config.intermediateSize)
        }
        out[name] = { shape: [d, config.intermediateSize], data }
      }
    }
    return { config, tensors: out }
  })

/** What `importModel` may be told. */
export interface ImportOptions {
  /** A fresh pool; none: the model stays a standard one. */
  readonly sinks?: SinkConfig
  /** Of the fresh sinks. Default 0. */
  readonly seed?: number
  readonly maxShardBytes?: number
}

/** What was imported. */
export interface ImportReport {
  readonly path: string
  readonly from: string
  readonly parameters: number
  readonly layers: number
  readonly hiddenSize: number
  /** Neurons of every MLP that are always on, and sinks. */
  readonly general: number
  readonly pool: number
  readonly active: number
  readonly tokenizer: boolean
}

/**
 * Reads a model made elsewhere and writes it to `out`, which must not exist, as a checkpoint to go on from (`initialFrom`
 * of a pretraining configuration). `tokenizer.json` goes along. Fails with `CheckpointError` where the model is damaged
 * or is none that can be computed here, and with `DataError` where the pool does not fit it.
 */
export const importModel = (
  from: string,
  out: string,
  options: ImportOptions = {}
): Effect.Effect<ImportReport, CheckpointError | DataError, FileSystem.FileSystem | Path.Path> =>
  Effect.gen(function*() {
    const initial = yield* loadInitial(from)
    if (options.sinks !== undefined && initial.config.sinks !== undefined) {
      const detail = `has a pool of ${initial.config.pool} sinks already: import it without --pool`
      return yield* new CheckpointError({ reason: "Mismatch", path: initial.path, detail })
    }
    const { config, tensors } = options.sinks === undefined
      ? initial
      : yield* withSinks(initial.config, initial.tensors, options.sinks, options.seed)
    const path = yield* Checkpoints.saveModel(
      out,
      { config: huggingFaceConfig(config), model: tensors, tokenizer: initial.tokenizer },
      options.maxShardBytes
    )
    return {
      path,
      from: initial.path,
      parameters: config.numParameters,
      layers: config.numHiddenLayers,
      hiddenSize: config.hiddenSize,
      general: config.general,
      pool: config.pool,
      active: config.sinks?.active ?? 0,
      tokenizer: initial.tokenizer !== undefined
    }
  })
