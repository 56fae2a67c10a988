/**
 * A model as llama.cpp knows it: its names for tensors and fields, its order of rows in queries and keys, and its way to
 * describe a tokenizer. What it cannot express is refused, never approximated.
 */
import { DataError } from "../Errors.ts"
import { type TextEnds, textEnds, type TokenizerParts, tokenizerParts } from "../model/HuggingFace.ts"
import type { ModelConfig } from "../model/ModelConfig.ts"
import * as Gguf from "./Gguf.ts"

export type Metadata = ReadonlyArray<readonly [key: string, value: Gguf.Value]>

/** A tensor in Hugging Face's layout whose numbers are made when they are asked for. */
export interface LazyTensor {
  readonly shape: ReadonlyArray<number>
  readonly data: () => Float32Array
}

const FILE_TYPE: Readonly<Record<Gguf.Type, number>> = { F32: 0, F16: 1, Q8_0: 7 }

/** Ids, 64 bits wide and so as texts, whose sinks a model kept, and their names where it has such. */
export type KeptIds = ReadonlyArray<{ readonly id: string; readonly name?: string }>

/** The fields of architecture `llama`, and whose sinks were kept. `c` must have no sinks. */
export const modelMetadata = (c: ModelConfig, name: string, type: Gguf.Type, kept: KeptIds = []): Metadata => [
  ["general.architecture", Gguf.string("llama")],
  ["general.type", Gguf.string("model")],
  ["general.name", Gguf.string(name)],
  ["general.file_type", Gguf.u32(FILE_TYPE[type])],
  ...(type === "Q8_0" ? [["general.quantization_version", Gguf.u32(2)] as const] : []),
  ["llama.vocab_size", Gguf.u32(c.vocabSize)],
  ["llama.context_length", Gguf.u32(c.maxPositionEmbeddings)],
  ["llama.embedding_length", Gguf.u32(c.hiddenSize)],
  ["llama.block_count", Gguf.u32(c.numHiddenLayers)],
  ["llama.feed_forward_length", Gguf.u32(c.intermediateSize)],
  ["llama.attention.head_count", Gguf.u32(c.numAttentionHeads)],
  ["llama.attention.head_count_kv", Gguf.u32(c.kvHeads)],
  ["llama.attention.key_length", Gguf.u32(c.headSize)],
  ["llama.attention.value_length", Gguf.u32(c.headSize)],
  ["llama.attention.layer_norm_rms_epsilon", Gguf.f32(c.rmsNormEps)],
  ["llama.rope.dimension_count", Gguf.u32(c.headSize)],
  ["llama.rope.freq_base", Gguf.f32(c.ropeTheta)],
  ...(kept.length === 0 ? [] : [
    ["memsinks.kept_ids", Gguf.strings(kept.map(({ id }) => id))] as const,
    ["memsinks.kept_names", Gguf.strings(kept.map(({ name = "" }) => name))] as const
  ])
]

/**
 * llama.cpp turns neighbouring pairs of a head, Hugging Face the first half against the second: rows (half, pair) of
 * each head become (pair, half).
 */
const interleave = (data: Float32Array, heads: number, headSize: number, width: number): Float32Array => {
  const out = new Float32Array(data.length)
  const half = headSize / 2
  for (let head = 0; head < heads; head++) {
    for (let pair = 0; pair < half; pair++) {
      for (let side = 0; side < 2; side++) {
        const from = (head * headSize + side * half + pair) * width
        out.set(data.subarray(from, from + width), (head * headSize + 2 * pair + side) * width)
      }
    }
  }
  return out
}

/** Hugging Face's name as llama.cpp's. */
const nameOf = (name: string): string => {
  const whole: Readonly<Record<string, string>> = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight"
  }
  const parts: Readonly<Record<string, string>> = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down"
  }
  const [, layer, part] = /^model\.layers\.(\d+)\.(.+)\.weight$/.exec(name) ?? []
  const known = part === undefined ? whole[name] : parts[part] && `blk.${layer}.${parts[part]}.weight`
  if (known === undefined) throw new Error(`llama.cpp has no name for tensor ${name}`)
  return known
}

/** The type a tensor gets: norms stay F32, and rows that are no multiple of 32 cannot be Q8_0 and become F16. */
export const typeOf = (shape: ReadonlyArray<number>, type: Gguf.Type): Gguf.Type =>
  shape.length === 1 ? "F32" : type === "Q8_0" && shape.at(-1)! % Gguf.BLOCK !== 0 ? "F16" : type

/** Tensors under llama.cpp's names and in its order of rows. */
export const tensors = (
  c: ModelConfig,
  weights: Readonly<Record<string, LazyTensor>>,
  type: Gguf.Type
): ReadonlyArray<Gguf.GgufTensor> =>
  Object.entries(weights).map(([name, { data, shape }]) => {
    const heads = name.endsWith("q_proj.weight") ? c.numAttentionHeads : name.endsWith("k_proj.weight") ? c.kvHeads : 0
    return {
      name: nameOf(name),
      shape,
      type: typeOf(shape, type),
      data: heads === 0 ? data : () => interleave(data(), heads, c.headSize, shape[1]!)
    }
  })

// ---------------------------------------------------------------------------------------------------------------
// Tokenizers

const TOKEN = { normal: 1, control: 3, userDefined: 4, unused: 5 } as const

const object = (value: unknown): Readonly<Record<string, unknown>> => Object(value) as Record<string, unknown>

const isByteLevel = (pre: unknown, useRegex: boolean): boolean =>
  object(pre)["type"] === "ByteLevel" &&
  object(pre)["add_prefix_space"] !== true &&
  (object(pre)["use_regex"] ?? true) === useRegex

const LLAMA3 =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" +
  "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/** llama.cpp's name for the rule by which a tokenizer splits a text into words, or undefined where it has none. */
const splitting = ({ ignoreMerges, normalizer, preTokenizer: pre }: TokenizerParts): string | undefined => {
  if (normalizer !== null) return undefined
  if (isByteLevel(pre, true)) return ignoreMerges ? undefined : "gpt-2"
  const steps = object(pre)["pretokenizers"]
  if (object(pre)["type"] !== "Sequence" || !Array.isArray(steps) || steps.length !== 2) return undefined
  const first = object(steps[0])
  if (first["type"] === "Digits" && first["individual_digits"] === true && isByteLevel(steps[1], true)) {
    return ignoreMerges ? undefined : "smollm"
  }
  const split = first["type"] === "Split" && first["behavior"] === "Isolated" && first["invert"] !== true
  return split && object(first["pattern"])["Regex"] === LLAMA3 && isByteLevel(steps[1], false) && ignoreMerges
    ? "llama-bpe"
    : undefined
}

/** How byte 0 is written in a byte-level vocabulary. */
const NUL = "\u0100"

/**
 * A byte-level BPE `tokenizer.json` in llama.cpp's fields, and what the user should know about it. Throws a DataError that
 * says why where llama.cpp would split texts in another way.
 */
export const tokenizerMetadata = (
  text: string,
  vocabSize: number,
  ends: TextEnds = textEnds(text, {}, vocabSize)
): { readonly metadata: Metadata; readonly notes: ReadonlyArray<string> } => {
  const parts = tokenizerParts(text)
  const pre = parts.type === "BPE" ? splitting(parts) : undefined
  if (pre === undefined) {
    throw new DataError({
      detail: parts.type === "BPE"
        ? "GGUF needs a splitting rule that llama.cpp knows by name (GPT-2's, SmolLM's or Llama 3's) and no normalizer"
        : `GGUF is written for byte-level BPE, this is ${parts.type}`
    })
  }
  const tokens = new Array<string | undefined>(vocabSize)
  const types = new Array<number>(vocabSize).fill(TOKEN.unused)
  const put = (id: number, token: string, type: number) => {
    const name = JSON.stringify(token)
    if (id >= vocabSize) throw new DataError({ detail: `token ${name} has id ${id}, the model has ${vocabSize} ids` })
    if (tokens[id] !== undefined && tokens[id] !== token) {
      throw new DataError({ detail: `${JSON.stringify(tokens[id])} and ${name} both have id ${id}` })
    }
    tokens[id] = token
    types[id] = type
  }
  // the unknown one too: llama.cpp would read its name in a text as the token, which only added tokens are
  for (const [token, id] of Object.entries(parts.vocab)) put(id, token, TOKEN.normal)
  for (const { content, id, special } of parts.added) put(id, content, special ? TOKEN.control : TOKEN.userDefined)

  const notes: Array<string> = []
  const unknown = parts.unknown === undefined ? undefined : tokens.indexOf(parts.unknown)
  if (unknown !== undefined && unknown >= 0) {
    notes.push(
      `the vocabulary lacks some bytes: where the tokenizer says ${parts.unknown}, llama.cpp leaves them out`
    )
  }
  const { bos, eos: [eos, turn, message, ...others] } = ends
  if (others.length > 0) {
    const names = others.map((id) => JSON.stringify(tokens[id] ?? id)).join(", ")
    notes.push(`a text ends at ${names}, too: GGUF has three places for an end, and the first three are there`)
  }
  // llama.cpp always has an end of text and takes token 11 when it is told none: better one that no text holds
  const silent = parts.vocab[NUL] ?? unknown
  const end = eos ?? silent
  if (eos === undefined) {
    const named = parts.vocab[NUL] !== undefined
      ? "the byte 0, which no text holds,"
      : end === undefined
      ? `token 11 (${JSON.stringify(tokens[11])})`
      : JSON.stringify(tokens[end])
    notes.push(`the tokenizer has no end-of-text token: llama.cpp takes ${named} for it`)
  }
  const begin = bos ?? end
  // its reader refuses a model without merges: one that leads to no token of the vocabulary changes nothing
  const merges = parts.merges.length === 0 ? [[NUL, NUL] as const] : parts.merges
  return {
    metadata: [
      ["tokenizer.ggml.model", Gguf.string("gpt2")],
      ["tokenizer.ggml.pre", Gguf.string(pre)],
      ["tokenizer.ggml.tokens", Gguf.strings(Array.from(tokens, (token, id) => token ?? `[PAD${id}]`))],
      ["tokenizer.ggml.token_type", Gguf.i32s(types)],
      ["tokenizer.ggml.merges", Gguf.strings(merges.map(([left, right]) => `${left} ${right}`))],
      ...(begin === undefined ? [] : [["tokenizer.ggml.bos_token_id", Gguf.u32(begin)] as const]),
      ...(end === undefined ? [] : [["tokenizer.ggml.eos_token_id", Gguf.u32(end)] as const]),
      // ends of a turn and of a message: llama.cpp stops at whatever stands in one of the three
      ...(turn === undefined ? [] : [["tokenizer.ggml.eot_token_id", Gguf.u32(turn)] as const]),
      ...(message === undefined ? [] : [["tokenizer.ggml.eom_token_id", Gguf.u32(message)] as const]),
      ...(unknown === undefined || unknown < 0
        ? []
        : [["tokenizer.ggml.unknown_token_id", Gguf.u32(unknown)] as const]),
      ["tokenizer.ggml.add_bos_token", Gguf.bool(ends.addBos)],
      ["tokenizer.ggml.add_eos_token", Gguf.bool(ends.addEos)]
    ],
    notes
  }
}
