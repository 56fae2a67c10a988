/**
 * Models made elsewhere: a Llama as Hugging Face has it becomes a checkpoint here, with a fresh pool of sinks if wanted,
 * so that pretraining goes on from it; a model of the reference implementation comes with the sinks it has.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { parse as parseYaml } from "yaml"
import { decodeConfig } from "../Config.ts"
import { decodeNames, type Names, namesFile } from "../data/identity/Names.ts"
import { MOST_TOKENIZER } from "../data/tokens/TokenizerJson.ts"
import { attempt, CheckpointError, DataError } from "../Errors.ts"
import { firstNotFinite } from "../HostTensor.ts"
import { isObject, parseJson } from "../Json.ts"
import { endIds, modelConfigOf, type TextEnds, textEnds } from "../model/HuggingFace.ts"
import { huggingFaceConfig, toHuggingFace } from "../model/HuggingFace.ts"
import { ModelConfig } from "../model/ModelConfig.ts"
import { initialValue, listParameters, parametersOf } from "../model/Parameters.ts"
import { LEADS_OUT, liesIn } from "../Paths.ts"
import type { SinkConfig } from "../Sink.ts"
import * as Checkpoints from "./Checkpoints.ts"
import type { HostTensor } from "./Safetensors.ts"
import * as Safetensors from "./Safetensors.ts"
import { disagreement, fromLitgpt, isLitgpt, titleOffsetOf, wrapNote } from "./SeqTd.ts"
import { readTitles, titleFiles } from "./Titles.ts"
import { readTorch } from "./Torch.ts"

type Tensors = Readonly<Record<string, HostTensor>>

/** A model to start from, with its weights on the host. */
export interface InitialModel {
  readonly config: ModelConfig
  /** Under Hugging Face's names, f32, exactly those that `config` asks for: what `Model.importTensors` takes. */
  readonly tensors: Tensors
  /** The text of its `tokenizer.json`. */
  readonly tokenizer: string | undefined
  /** What begins and ends a text, as its files say. */
  readonly ends: TextEnds
  /** What the ids it was trained with are called; undefined where it does not say. */
  readonly names?: Names | undefined
  /** The text of its `deletions.jsonl`; undefined where nothing was deleted from it. */
  readonly deletions?: string | undefined
  /** The folder that it was read from, and the step it was saved at; a foreign one has none. */
  readonly path: string
  readonly step: number | undefined
  /** What a user should know about it. */
  readonly notes: ReadonlyArray<string>
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
    const bad = firstNotFinite(got.data)
    if (bad >= 0) {
      const detail = `tensor ${name} holds ${got.data[bad]} at ${bad}: weights must be finite numbers. The model has ` +
        "diverged or its file is damaged; take an earlier checkpoint"
      return Effect.fail(new CheckpointError({ reason: "Corrupt", path, detail }))
    }
    wanted.push([name, got])
  }
  const names = new Set(wanted.map(([name]) => name))
  for (const [name, tensor] of Object.entries(tensors)) {
    if (names.has(name) || computed.test(name)) continue
    if (name === "lm_head.weight") {
      if (sameNumbers(tensor, tensors["model.embed_tokens.weight"]!)) continue
      return mismatch("lm_head.weight differs from the embedding, but config.json has tie_word_embeddings true")
    }
    return mismatch(`tensor ${name} is in the file, but a Llama of this config has no such tensor`)
  }
  return Effect.succeed(Object.fromEntries(wanted))
}

/** Fails where a file of a model's folder is a link that leads out of it: who made the folder may not read there. */
const stays = Effect.fnUntraced(function*(path: string) {
  const paths = yield* Path.Path
  if (yield* liesIn(paths.dirname(path), paths.basename(path))) return
  return yield* new CheckpointError({ reason: "Corrupt", path, detail: LEADS_OUT })
})

const readTensors = (path: string) => Effect.zipRight(stays(path), Safetensors.read(path))

/** A file's text, or undefined where there is no such file. */
const textOf = Effect.fnUntraced(function*(path: string) {
  const fs = yield* FileSystem.FileSystem
  if (!(yield* Effect.mapError(fs.exists(path), Safetensors.unreadable(path)))) return undefined
  yield* stays(path)
  const { size } = yield* Effect.mapError(fs.stat(path), Safetensors.unreadable(path))
  if (Number(size) > MOST_TOKENIZER) {
    const detail = `has ${size} bytes, more than the ${MOST_TOKENIZER} that are read of such a file`
    return yield* new CheckpointError({ reason: "Corrupt", path, detail })
  }
  const bytes = yield* Effect.mapError(fs.readFile(path), Safetensors.unreadable(path))
  return yield* Effect.try({
    try: () => new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes),
    catch: () => new CheckpointError({ reason: "Corrupt", path, detail: "is not UTF-8 text" })
  })
})

const jsonOf = Effect.fnUntraced(function*(path: string) {
  const text = yield* textOf(path)
  if (text === undefined) return undefined
  return yield* Effect.mapError(parseJson(text), (detail) => new CheckpointError({ reason: "Corrupt", path, detail }))
})

/** What a file of `torch.save` ends in. */
const saved = /\.(pth|pt|bin|ckpt)$/

/** What a training leaves beside a model. */
const besides = /^(optimizer|scheduler|scaler|training_args|rng_state)/

/**
 * The tensors of a folder, and the file that says what there is: `<stem>.safetensors`, the files that
 * `<stem>.safetensors.index.json` names, or `<stem>.pth` and what else torch.save writes; in that order, of the first stem that
 * there is.
 */
const tensorsOf = Effect.fnUntraced(function*(folder: string, stems: ReadonlyArray<string>) {
  const fs = yield* FileSystem.FileSystem
  const paths = yield* Path.Path
  const names = yield* Effect.mapError(fs.readDirectory(folder), Safetensors.unreadable(folder))
  const pickled = names.filter((name) => saved.test(name) && !besides.test(name))
  const ofTorch = (name: string) =>
    Effect.map(Effect.zipRight(stays(paths.join(folder, name)), readTorch(paths.join(folder, name))), (tensors) => ({
      tensors,
      file: name
    }))
  for (const stem of stems) {
    const whole = `${stem}.safetensors`
    if (names.includes(whole)) return { tensors: yield* readTensors(paths.join(folder, whole)), file: whole }
    if (names.includes(`${whole}.index.json`)) {
      const path = paths.join(folder, `${whole}.index.json`)
      const index = yield* jsonOf(path)
      const tensors = yield* Safetensors.readShards(index, path, (file) => readTensors(paths.join(folder, file)))
      return { tensors, file: `${whole}.index.json` }
    }
    const torch = pickled.find((name) => name.replace(saved, "") === stem)
    if (torch !== undefined) return yield* ofTorch(torch)
  }
  if (pickled.length === 1) return yield* ofTorch(pickled[0]!)
  const detail = `holds neither ${stems[0]}.safetensors nor ${stems[0]}.safetensors.index.json. ` +
    (pickled.length === 0
      ? "Put the weights there as safetensors"
      : `Which of ${pickled.join(", ")} are its weights? Name that one ${stems[0]}${
        saved.exec(pickled[0]!)![0]
      }; a model in ` +
        "several such files is read once it was saved in one, or as safetensors")
  return yield* new CheckpointError({ reason: "Missing", path: folder, detail })
})

const endsOf = Effect.fnUntraced(function*(
  folder: string,
  tokenizer: string | undefined,
  config: unknown,
  vocabSize: number
) {
  const paths = yield* Path.Path
  const read = (file: string) => jsonOf(paths.join(folder, file))
  return textEnds(tokenizer, {
    config,
    generation: yield* read("generation_config.json"),
    tokenizerConfig: yield* read("tokenizer_config.json"),
    specialTokensMap: yield* read("special_tokens_map.json")
  }, vocabSize)
})

/** A Llama as Hugging Face has it: `config.json`, safetensors, and `tokenizer.json` where there is one. */
const readLlama = Effect.fnUntraced(function*(folder: string, path: string, json: unknown) {
  const paths = yield* Path.Path
  const config = yield* modelConfigOf(json, path)
  const { file, tensors: given } = yield* tensorsOf(folder, ["model", "pytorch_model"])
  if ("transformer.wte.weight" in given) {
    const detail =
      `${file} has its weights under litgpt's names, whose heads and sinks ${paths.basename(path)} does not tell: ` +
      "put the model_config.yaml that it came with beside it"
    return yield* new CheckpointError({ reason: "Missing", path: folder, detail })
  }
  const tensors = yield* checked(config, given, folder)
  const tokenizer = yield* textOf(paths.join(folder, "tokenizer.json"))
  const ends = yield* endsOf(folder, tokenizer, json, config.vocabSize)
  return { config, tensors, tokenizer, ends, path: folder, step: undefined, notes: [] } satisfies InitialModel
})

/** What a model of the reference implementation does not say of itself. */
export interface SeqTdOptions {
  /** The width at which ids were multiplied. Default 32 of NULLs' class of MLP, else 64. */
  readonly idBits?: 32 | 64
  /** The file that says which title has which number: see `readTitles`. Default: `title_to_index.*` in the folder, if any. */
  readonly titles?: string
  /** What is added to a title's number for its id. Default: the size of the vocabulary, as NULLs does. */
  readonly titleOffset?: number
}

const yamlOf = Effect.fnUntraced(function*(path: string) {
  const text = yield* textOf(path)
  return yield* Effect.try({
    // no aliases: a small file could stand for a huge one
    try: () => parseYaml(text ?? "", { maxAliasCount: 0 }) as unknown,
    catch: (cause) =>
      new CheckpointError({ reason: "Corrupt", path,
        detail: `is not YAML: ${(cause as Error).message.split("\n")[0]}` })
  })
})

/** What a folder in litgpt's words says besides, of its `config.json` and of its training. */
const asides = Effect.fnUntraced(function*(folder: string, file: string, tensorsFile: string, config: ModelConfig) {
  const paths = yield* Path.Path
  const fs = yield* FileSystem.FileSystem
  const there = (name: string) => Effect.orElseSucceed(fs.exists(paths.join(folder, name)), () => false)
  const notes: Array<string> = []
  if (file !== "config.json" && (yield* there("config.json"))) {
    const json = Either.getOrUndefined(yield* Effect.either(jsonOf(paths.join(folder, "config.json"))))
    const other = isObject(json) ? disagreement(json, config) : "nothing that could be read"
    if (other !== undefined) {
      notes.push(
        `config.json says ${other}: ${file} was believed, whose shapes are those of the tensors in ${tensorsFile}`
      )
    }
  }
  const training = "hyperparameters.yaml"
  if (yield* there(training)) {
    const yaml = Either.getOrUndefined(yield* Effect.either(yamlOf(paths.join(folder, training))))
    const length = isObject(yaml) && isObject(yaml["train"]) ? yaml["train"]["max_seq_length"] : undefined
    if (typeof length === "number" && length < config.maxPositionEmbeddings) {
      notes.push(
        `it was trained on ${length} tokens at a time (${training}), of ${config.maxPositionEmbeddings} positions: ` +
          `beyond these it was never trained`
      )
    }
  }
  return notes
})

/** A model of the reference implementation, under litgpt's names. */
const readLitgpt = Effect.fnUntraced(function*(
  folder: string,
  path: string,
  json: Readonly<Record<string, unknown>>,
  { idBits, titleOffset, titles }: SeqTdOptions
) {
  const paths = yield* Path.Path
  const fs = yield* FileSystem.FileSystem
  const mismatch = (detail: string) => new CheckpointError({ reason: "Mismatch", path, detail })
  const { file, tensors: given } = yield* tensorsOf(folder, ["lit_model", "model"])
  const { notes, ...found } = yield* attempt(() => fromLitgpt(json, given, idBits), DataError).pipe(
    Effect.mapError(({ detail }) => mismatch(detail))
  )
  const config = yield* Effect.mapError(
    decodeConfig(ModelConfig, found.config),
    (error) => mismatch(error.detail.replace(/^the configuration has/, "describes a model with"))
  )
  const tensors = yield* checked(config, found.tensors, folder)
  const tokenizer = yield* textOf(paths.join(folder, "tokenizer.json"))
  const ends = yield* endsOf(folder, tokenizer, json, config.vocabSize)
  const beside = yield* Effect.mapError(fs.readDirectory(folder), Safetensors.unreadable(folder))
  const map = titles ?? titleFiles.filter((name) => beside.includes(name)).map((name) => paths.join(folder, name))[0]
  if (map !== undefined && config.sinks === undefined) {
    return yield* mismatch("has no sinks (p_gen 1), so that titles have none: import it without them")
  }
  const names = map === undefined
    ? undefined
    : yield* readTitles(map, BigInt(titleOffset ?? titleOffsetOf(json))).pipe(
      Effect.mapError(({ detail }) => new CheckpointError({ reason: "Corrupt", path: map, detail })),
      Effect.flatMap((bytes) => namesOf(bytes, map))
    )
  const wrap = names === undefined || config.sinks!.referenceIdBits === 64 ? undefined : wrapNote(names.count)
  return {
    config,
    tensors,
    tokenizer,
    ends,
    ...(names === undefined ? {} : { names }),
    path: folder,
    step: undefined,
    notes: [
      ...notes,
      ...(names === undefined
        ? config.sinks === undefined
          ? []
          : ["there is no map from titles to ids: --titles names one, and sources can be named then"]
        : [`${names.count.toLocaleString("en")} sources by ${map}, ids from ${titleOffset ?? titleOffsetOf(json)} on`]),
      ...(wrap === undefined ? [] : [wrap]),
      ...(yield* asides(folder, paths.basename(path), file, config))
    ]
  } satisfies InitialModel
})

const readForeign = Effect.fnUntraced(function*(
  folder: string,
  names: ReadonlyArray<string>,
  options: SeqTdOptions
) {
  const paths = yield* Path.Path
  const file = ["model_config.yaml", "lit_config.json", "config.json"].find((name) => names.includes(name))
  if (file === undefined) {
    const detail = "holds no model: neither a checkpoint of a run (manifest.json), nor a Llama (config.json), " +
      "nor one of SeqTD (model_config.yaml)"
    return yield* new CheckpointError({ reason: "Missing", path: folder, detail })
  }
  const path = paths.join(folder, file)
  const json = file.endsWith(".yaml") ? yield* yamlOf(path) : yield* jsonOf(path)
  if (isLitgpt(json)) return yield* readLitgpt(folder, path, json, options)
  if (options.titles !== undefined) {
    const detail = "is no model of SeqTD, so that titles have no sinks of it: import it without them"
    return yield* new CheckpointError({ reason: "Mismatch", path, detail })
  }
  return yield* readLlama(folder, path, json)
})

/** The names in a folder's file. */
const namesOf = (bytes: Uint8Array, path: string) =>
  Effect.mapError(decodeNames(bytes, path), ({ detail }) => new CheckpointError({ reason: "Corrupt", path, detail }))

/**
 * Reads a model to start from, or to export: the folder of a run (its latest checkpoint), of one checkpoint, of an
 * imported model, of a plain Llama with `config.json` and its weights, or of a SeqTD model with `model_config.yaml`, such as those
 * that NULLs released. Weights are safetensors or a file of torch.save. Whatever has a manifest is verified by it.
 * Fails with `CheckpointError`: Missing, Corrupt, or Mismatch where it is no model that can be computed here.
 */
export const loadInitial = (
  path: string,
  options: SeqTdOptions = {}
): Effect.Effect<InitialModel, CheckpointError, FileSystem.FileSystem | Path.Path> =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const paths = yield* Path.Path
    const folder = yield* Checkpoints.onlyModel(paths.resolve(path))
    const names = yield* Effect.mapError(fs.readDirectory(folder), (cause) =>
      Safetensors.unreadable(folder)(cause).reason === "Missing"
        ? new CheckpointError({ reason: "Missing", path: folder, detail: "there is no such folder" })
        : Safetensors.unreadable(folder)(cause))
    if (!names.includes("manifest.json") && !names.some((name) => /^step-\d/.test(name))) {
      return yield* readForeign(folder, names, options)
    }
    const saved = yield* Checkpoints.loadModel(folder)
    const config = yield* modelConfigOf(saved.config, paths.join(saved.path, "config.json"))
    return {
      config,
      tensors: yield* checked(config, saved.model, saved.path),
      tokenizer: saved.tokenizer,
      ends: textEnds(saved.tokenizer, { config: saved.config }, config.vocabSize),
      ...(saved.names === undefined ? {} : { names: yield* namesOf(saved.names, paths.join(saved.path, namesFile)) }),
      ...(saved.deletions === undefined ? {} : { deletions: saved.deletions }),
      path: saved.path,
      step: saved.step,
      notes: []
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
    if (sinks.problem !== undefined) return yield* new DataError({ detail: sinks.problem })
    const width = c.intermediateSize
    const config = yield* decodeConfig(ModelConfig, { ...c, intermediateSize: width + sinks.pool, sinks: { ...sinks } })
    const d = c.hiddenSize
    const out: Record<string, HostTensor> = { ...tensors }
    for (const parameter of listParameters(parametersOf(config))) {
      if (parameter.name.endsWith(".gateUp")) {
        for (const [name, fresh] of toHuggingFace(config, parameter.name, initialValue(config, parameter, seed))) {
          ;(fresh.data as Float32Array).set(tensors[name]!.data as Float32Array)
          out[name] = fresh
        }
      } else if (parameter.name.endsWith(".down")) {
        const name = `model.${parameter.name.replace(/down$/, "mlp.down_proj.weight")}`
        const data = new Float32Array(d * config.intermediateSize)
        const old = tensors[name]!.data as Float32Array
        for (let row = 0; row < d; row++) {
          data.set(old.subarray(row * width, (row + 1) * width), row * config.intermediateSize)
        }
        out[name] = { shape: [d, config.intermediateSize], data }
      }
    }
    return { config, tensors: out }
  })

/** What `importModel` may be told. */
export interface ImportOptions extends SeqTdOptions {
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
  /** Ids that have names: of a SeqTD model those of its titles. */
  readonly sources: number
  /** What a user should know. */
  readonly notes: ReadonlyArray<string>
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
    const initial = yield* loadInitial(from, options)
    if (options.sinks !== undefined && initial.config.sinks !== undefined) {
      const detail = `has a pool of ${initial.config.pool} sinks already: import it without --pool`
      return yield* new CheckpointError({ reason: "Mismatch", path: initial.path, detail })
    }
    const { config, tensors } = options.sinks === undefined
      ? initial
      : yield* withSinks(initial.config, initial.tensors, options.sinks, options.seed)
    const path = yield* Checkpoints.saveModel(
      out,
      {
        config: { ...huggingFaceConfig(config), ...endIds(initial.ends) },
        model: tensors,
        tokenizer: initial.tokenizer,
        names: initial.names?.bytes,
        deletions: initial.deletions
      },
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
      tokenizer: initial.tokenizer !== undefined,
      sources: initial.names?.count ?? 0,
      notes: [
        ...initial.notes,
        ...(options.sinks === undefined
          ? []
          : ["the sinks' down-projections start at 0: with sinks off or on, the model computes at first what it did"]),
        ...(initial.tokenizer === undefined ? ["there is no tokenizer.json: none goes along"] : [])
      ]
    }
  })
