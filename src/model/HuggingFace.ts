/**
 * A Hugging Face model folder: our parameters under its names and in its layout, `config.json` as a ModelConfig and back,
 * the special tokens of a `tokenizer.json`, and the small files that its loaders look for.
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { decodeConfig } from "../Config.ts"
import { addsToken, framing, namedToken } from "../data/tokens/TokenizerJson.ts"
import { CheckpointError, DataError } from "../Errors.ts"
import type { HostTensor } from "../HostTensor.ts"
import { isObject, type Json, parseJson } from "../Json.ts"
import { ModelConfig } from "./ModelConfig.ts"

const show = (value: unknown) => JSON.stringify(value)

/** Whether positions are as they are, in the words of new files and of old ones. */
const unscaled = (rope: Json): boolean => {
  const type = rope["rope_type"] ?? rope["type"] ?? "default"
  return type === "default" || (type === "linear" && rope["factor"] === 1)
}

/** Why a `config.json` describes no decoder that is computed here, or undefined. */
const refusal = (json: Json): string | undefined => {
  const { architectures } = json
  const listed = Array.isArray(architectures) && architectures.length > 0
  const named: ReadonlyArray<unknown> = listed ? architectures : [json["model_type"]]
  // files that name no architecture say what they are by their type
  if (!named.every((one) => one === (listed ? "LlamaForCausalLM" : "llama"))) {
    return `describes ${named.map(show).join(", ")}; only LlamaForCausalLM can be read`
  }
  const fixed: ReadonlyArray<readonly [key: string, value: unknown, otherwise: string]> = [
    ["model_type", "llama", "only \"llama\" can be read"],
    ["hidden_act", "silu", "only \"silu\" can be computed"],
    ["attention_bias", false, "attention without biases is what can be computed"],
    ["mlp_bias", false, "an MLP without biases is what can be computed"],
    ["partial_rotary_factor", 1, "only positions that turn all of a head can be computed"],
    [
      "quantization_config",
      null,
      "quantized weights cannot be read: dequantize the model (in Python: model.dequantize()) and save it again"
    ]
  ]
  for (const [key, value, otherwise] of fixed) {
    if ((json[key] ?? value) !== value) return `has ${key} ${show(json[key])}: ${otherwise}`
  }
  for (const key of ["rope_scaling", "rope_parameters"]) {
    const rope = json[key] ?? {}
    if (!isObject(rope) || !unscaled(rope)) {
      return `has ${key} ${show(json[key])}: only unscaled positions (null, or rope_type "default") can be computed`
    }
  }
  return undefined
}

/**
 * The ModelConfig of a `config.json`: a LlamaForCausalLM, with its sinks where it has a `memsinks` block. Fields that
 * are left out have the values that Hugging Face's Llama gives them. Fails with `CheckpointError` Mismatch.
 */
export const modelConfigOf = (json: unknown, path = "config.json"): Effect.Effect<ModelConfig, CheckpointError> => {
  const mismatch = (detail: string) => new CheckpointError({ reason: "Mismatch", path, detail })
  if (!isObject(json)) return Effect.fail(mismatch("is not a JSON object"))
  const detail = refusal(json)
  if (detail !== undefined) return Effect.fail(mismatch(detail))
  const rope = json["rope_parameters"]
  const ours = json["memsinks"]
  if (ours !== undefined && !isObject(ours)) return Effect.fail(mismatch("the memsinks block is not a JSON object"))
  const sinks = ours?.["sinks"] ?? undefined
  const fields = {
    vocabSize: json["vocab_size"],
    hiddenSize: json["hidden_size"],
    numHiddenLayers: json["num_hidden_layers"],
    numAttentionHeads: json["num_attention_heads"],
    numKeyValueHeads: json["num_key_value_heads"] ?? undefined,
    headDim: json["head_dim"] ?? undefined,
    intermediateSize: json["intermediate_size"],
    maxPositionEmbeddings: json["max_position_embeddings"] ?? undefined,
    rmsNormEps: json["rms_norm_eps"] ?? 1e-6,
    ropeTheta: json["rope_theta"] ?? (isObject(rope) ? rope["rope_theta"] : undefined) ??
      (isObject(json["rope_scaling"]) ? json["rope_scaling"]["rope_theta"] : undefined) ?? 10000,
    tieWordEmbeddings: json["tie_word_embeddings"] ?? false,
    // ours is in its own words where it is none: see ModelConfig
    initializerRange: ours === undefined ? (json["initializer_range"] ?? undefined) : undefined,
    sinks
  }
  const given = Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined))
  return decodeConfig(ModelConfig, given).pipe(
    Effect.mapError((error) => mismatch(error.detail.replace(/^the configuration has/, "describes a model with"))),
    Effect.filterOrFail(
      (config) => ours?.["general"] === undefined || ours["general"] === config.general,
      (config) =>
        mismatch(
          `the memsinks block has general ${show(ours?.["general"])}, but intermediate_size ` +
            `${config.intermediateSize} less the pool of ${config.pool} is ${config.general}`
        )
    )
  )
}

/** An entry of a tokenizer's `added_tokens`. */
export interface AddedToken {
  readonly id: number
  readonly content: string
  readonly special: boolean
}

/** The parts of a `tokenizer.json` that other formats need in their own words. */
export interface TokenizerParts {
  /** `BPE`, `WordPiece`, ... */
  readonly type: string
  readonly vocab: Readonly<Record<string, number>>
  readonly merges: ReadonlyArray<readonly [left: string, right: string]>
  readonly unknown: string | undefined
  readonly added: ReadonlyArray<AddedToken>
  readonly preTokenizer: unknown
  readonly normalizer: unknown
  readonly ignoreMerges: boolean
}

/** Reads a `tokenizer.json`. Throws a DataError that says what is wrong with it. */
export const tokenizerParts = (text: string): TokenizerParts => {
  const json = Either.getOrThrowWith(parseJson(text), (detail) => new DataError({ detail: `it ${detail}` }))
  const model = isObject(json) ? json["model"] : undefined
  if (!isObject(json) || !isObject(model)) throw new DataError({ detail: "it has no model" })
  const vocab = model["vocab"]
  if (!isObject(vocab) || !Object.values(vocab).every((id) => Number.isSafeInteger(id) && (id as number) >= 0)) {
    throw new DataError({ detail: "its vocabulary is not a map of tokens to ids" })
  }
  const merges = (model["merges"] ?? []) as unknown
  if (!Array.isArray(merges)) throw new DataError({ detail: "its merges are not a list" })
  const added = (json["added_tokens"] ?? []) as unknown
  if (!Array.isArray(added)) throw new DataError({ detail: "its added_tokens are not a list" })
  return {
    type: String(model["type"] ?? "BPE"),
    vocab: vocab as Readonly<Record<string, number>>,
    merges: merges.map((merge: unknown) => {
      const pair = typeof merge === "string" ? merge.split(" ") : merge
      if (!Array.isArray(pair) || pair.length !== 2 || !pair.every((one) => typeof one === "string")) {
        throw new DataError({ detail: `${show(merge)} is not a merge of two tokens` })
      }
      return pair as unknown as readonly [string, string]
    }),
    unknown: typeof model["unk_token"] === "string" ? model["unk_token"] : undefined,
    added: added.map((one: unknown) => {
      if (!isObject(one) || !Number.isSafeInteger(one["id"]) || typeof one["content"] !== "string") {
        throw new DataError({ detail: `${show(one)} is not an added token` })
      }
      return { id: one["id"] as number, content: one["content"], special: one["special"] === true }
    }),
    preTokenizer: json["pre_tokenizer"] ?? null,
    normalizer: json["normalizer"] ?? null,
    ignoreMerges: model["ignore_merges"] === true
  }
}

/** What begins and ends a text. */
export interface TextEnds {
  readonly bos: number | undefined
  /** Ids that end a text, the tokenizer's own first; none where nothing is known of one. */
  readonly eos: ReadonlyArray<number>
  /** Whether the tokenizer itself puts `bos` before a text, or the end after it. */
  readonly addBos: boolean
  readonly addEos: boolean
}

/** What the files beside `tokenizer.json` say; each is optional. */
export interface TextEndFiles {
  readonly config?: unknown
  /** `generation_config.json` */
  readonly generation?: unknown
  /** `tokenizer_config.json` */
  readonly tokenizerConfig?: unknown
  /** `special_tokens_map.json` */
  readonly specialTokensMap?: unknown
}

/** Usual names, for where no file says anything. GPT-2 and its kin have one token for both. */
const EOS = ["<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>"]
const BOS = ["<s>", "<|begin_of_text|>", "<bos>", "<|endoftext|>"]

/**
 * What begins and ends a text, as the files of a model say it: a text ends at whatever `generation_config.json` names,
 * or else `config.json`, and at the `eos_token` of `tokenizer_config.json` or `special_tokens_map.json`; where none of
 * them says anything, at the special token with the most usual name. Ids from `vocabSize` on are no tokens of the model.
 */
export const textEnds = (tokenizer: string | undefined, files: TextEndFiles, vocabSize = Infinity): TextEnds => {
  let parts: TokenizerParts | undefined
  let frame: ReturnType<typeof framing> = { before: [], after: [] }
  try {
    if (tokenizer !== undefined) {
      parts = tokenizerParts(tokenizer)
      frame = framing(tokenizer)
    }
  } catch (cause) {
    // a tokenizer that is not ours to judge is written as it is
    if (!(cause instanceof DataError)) throw cause
  }
  const isId = (id: unknown): id is number =>
    Number.isSafeInteger(id) && (id as number) >= 0 && (id as number) < vocabSize
  const field = (file: unknown, name: string): unknown => isObject(file) ? file[name] : undefined
  const idsIn = (file: unknown, name: string): ReadonlyArray<number> => {
    const value = field(file, name)
    return (Array.isArray(value) ? value : [value]).filter(isId)
  }
  const idOf = (content: string): number | undefined =>
    parts?.added.find((one) => one.content === content)?.id ??
      (parts !== undefined && Object.hasOwn(parts.vocab, content)
        ? parts.vocab[content]
        : undefined)
  const named = (file: unknown, name: string): ReadonlyArray<number> => {
    const content = namedToken(file, name)
    return content === undefined ? [] : [idOf(content)].filter(isId)
  }
  const first = (...lists: ReadonlyArray<ReadonlyArray<number>>) => lists.find(({ length }) => length > 0) ?? []
  const usual = (names: ReadonlyArray<string>) =>
    names.flatMap((name) => parts?.added.find((one) => one.special && one.content === name)?.id ?? []).filter(isId)
      .slice(0, 1)
  const { config, generation, specialTokensMap, tokenizerConfig } = files
  const own = first(named(tokenizerConfig, "eos_token"), named(specialTokensMap, "eos_token"))
  const said = first(idsIn(generation, "eos_token_id"), idsIn(config, "eos_token_id"))
  const eos = [...new Set([...own, ...said])]
  const bos = first(
    frame.before.filter(isId),
    named(tokenizerConfig, "bos_token"),
    named(specialTokensMap, "bos_token"),
    idsIn(generation, "bos_token_id"),
    idsIn(config, "bos_token_id"),
    usual(BOS)
  )[0]
  return {
    bos,
    eos: first(eos, usual(EOS)),
    addBos: bos !== undefined && (addsToken(tokenizerConfig, "bos") ?? frame.before.length > 0),
    addEos: addsToken(tokenizerConfig, "eos") ?? frame.after.length > 0
  }
}

/** `bos_token_id` and `eos_token_id` as a config.json states them; nothing where there is no such token. */
export const endIds = ({ bos, eos }: TextEnds): Readonly<Record<string, number | ReadonlyArray<number>>> => ({
  ...(bos === undefined ? {} : { bos_token_id: bos }),
  ...(eos.length === 0 ? {} : { eos_token_id: eos.length === 1 ? eos[0]! : eos })
})

const pretty = (value: unknown) => `${JSON.stringify(value, null, 2)}\n`

/**
 * The small files that `AutoModelForCausalLM` and `AutoTokenizer` look for beside config, weights and `tokenizer.json`.
 * They say what the tokenizer says; without one there is `generation_config.json` alone.
 */
export const companions = (
  maxPositionEmbeddings: number | undefined,
  tokenizer: string | undefined,
  ends: TextEnds = textEnds(tokenizer, {})
): ReadonlyArray<readonly [file: string, text: string]> => {
  const generation = pretty({ _from_model_config: true, ...endIds(ends) })
  let parts: TokenizerParts | undefined
  try {
    parts = tokenizer === undefined ? undefined : tokenizerParts(tokenizer)
  } catch (cause) {
    // as above
    if (!(cause instanceof DataError)) throw cause
  }
  if (parts === undefined) return [["generation_config.json", generation]]
  const contents = new Map([
    ...Object.entries(parts.vocab).map(([content, id]) => [id, content] as const),
    ...parts.added.map(({ content, id }) => [id, content] as const)
  ])
  const [bos, eos] = [ends.bos, ends.eos[0]].map((id) => id === undefined ? undefined : contents.get(id))
  const special = {
    ...(bos === undefined ? {} : { bos_token: bos }),
    ...(eos === undefined ? {} : { eos_token: eos }),
    ...(parts.unknown === undefined ? {} : { unk_token: parts.unknown })
  }
  return [
    ["generation_config.json", generation],
    ["special_tokens_map.json", pretty(special)],
    [
      "tokenizer_config.json",
      pretty({
        tokenizer_class: "PreTrainedTokenizerFast",
        clean_up_tokenization_spaces: false,
        ...(maxPositionEmbeddings === undefined ? {} : { model_max_length: maxPositionEmbeddings }),
        ...special
      })
    ]
  ]
}

const rowsOf = (data: Float32Array, from: number, to: number, width: number): Float32Array =>
  data.slice(from * width, to * width)

const concat = (...parts: ReadonlyArray<Float32Array>): Float32Array => {
  const out = new Float32Array(parts.reduce((n, part) => n + part.length, 0))
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.length
  }
  return out
}

const transpose = (data: Float32Array, rows: number, columns: number): Float32Array => {
  const out = new Float32Array(data.length)
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) out[c * rows + r] = data[r * columns + c]!
  return out
}

/** The tensors that one of our parameters is made of there, with their shapes. */
const layout = (c: ModelConfig, name: string): ReadonlyArray<readonly [name: string, shape: ReadonlyArray<number>]> => {
  const [, index, kind] = /^layers\.(\d+)\.(.+)$/.exec(name) ?? [undefined, undefined, name]
  const at = `model.layers.${index}`
  const d = c.hiddenSize
  const q = c.numAttentionHeads * c.headSize
  const kv = c.kvHeads * c.headSize
  const width = c.intermediateSize
  switch (kind) {
    case "embed":
      return [["model.embed_tokens.weight", [c.vocabSize, d]]]
    case "head":
      return [["lm_head.weight", [c.vocabSize, d]]]
    case "norm":
      return [["model.norm.weight", [d]]]
    case "norm1":
      return [[`${at}.input_layernorm.weight`, [d]]]
    case "norm2":
      return [[`${at}.post_attention_layernorm.weight`, [d]]]
    case "o":
      return [[`${at}.self_attn.o_proj.weight`, [d, q]]]
    case "qkv":
      return [
        [`${at}.self_attn.q_proj.weight`, [q, d]],
        [`${at}.self_attn.k_proj.weight`, [kv, d]],
        [`${at}.self_attn.v_proj.weight`, [kv, d]]
      ]
    case "gateUp":
      return [[`${at}.mlp.gate_proj.weight`, [width, d]], [`${at}.mlp.up_proj.weight`, [width, d]]]
    case "down":
      return [[`${at}.mlp.down_proj.weight`, [d, width]]]
    default:
      throw new Error(`no Hugging Face name for parameter ${name}`)
  }
}

/** One internal parameter, or one of its moments, as Hugging Face's tensors. */
export const toHuggingFace = (
  c: ModelConfig,
  name: string,
  data: Float32Array
): ReadonlyArray<readonly [string, HostTensor]> => {
  const { general, hiddenSize: d, intermediateSize: width, pool } = c
  const tensors = layout(c, name)
  let row = 0
  const values = name.endsWith(".gateUp")
    ? [
      concat(rowsOf(data, 0, general, d), rowsOf(data, 2 * general, 2 * general + pool, d)),
      concat(rowsOf(data, general, 2 * general, d), rowsOf(data, 2 * general + pool, 2 * width, d))
    ]
    : name.endsWith(".down")
    ? [transpose(data, width, d)]
    : tensors.length === 1
    ? [data]
    : tensors.map(([, [rows]]) => rowsOf(data, row, row += rows!, d))
  return tensors.map(([name, shape], i) => [name, { shape, data: values[i]! }])
}

/** The inverse: one internal parameter out of Hugging Face's tensors. Throws a CheckpointError Mismatch. */
export const fromHuggingFace = (
  c: ModelConfig,
  name: string,
  tensors: Readonly<Record<string, HostTensor>>,
  path = "checkpoint"
): Float32Array => {
  const parts = layout(c, name).map(([name, shape]) => {
    const got = tensors[name]
    if (got === undefined) {
      throw new CheckpointError({ reason: "Mismatch", path, detail: `tensor ${name} is missing` })
    }
    if (got.shape.join() !== shape.join() || got.data.length !== shape.reduce((a, b) => a * b, 1)) {
      throw new CheckpointError({
        reason: "Mismatch",
        path,
        detail: `tensor ${name} is [${got.shape.join(", ")}], the model's config asks for [${shape.join(", ")}]`
      })
    }
    return got.data as Float32Array
  })
  const { general, intermediateSize: width } = c
  const d = c.hiddenSize
  if (name.endsWith(".gateUp")) {
    const [gate, up] = parts as [Float32Array, Float32Array]
    return concat(
      rowsOf(gate, 0, general, d),
      rowsOf(up, 0, general, d),
      rowsOf(gate, general, width, d),
      rowsOf(up, general, width, d)
    )
  }
  if (name.endsWith(".down")) return transpose(parts[0]!, d, width)
  return parts.length === 1 ? parts[0]! : concat(...parts)
}

/** config.json: Hugging Face's LlamaForCausalLM, with what is ours in a `memsinks` block. */
export const huggingFaceConfig = (c: ModelConfig): Record<string, unknown> => ({
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_act: "silu",
  attention_bias: false,
  mlp_bias: false,
  vocab_size: c.vocabSize,
  hidden_size: c.hiddenSize,
  intermediate_size: c.intermediateSize,
  num_hidden_layers: c.numHiddenLayers,
  num_attention_heads: c.numAttentionHeads,
  num_key_value_heads: c.kvHeads,
  head_dim: c.headSize,
  max_position_embeddings: c.maxPositionEmbeddings,
  rms_norm_eps: c.rmsNormEps,
  rope_theta: c.ropeTheta,
  tie_word_embeddings: c.tieWordEmbeddings,
  torch_dtype: "float32",
  memsinks: { general: c.general, sinks: c.sinks === undefined ? null : { ...c.sinks } }
})
