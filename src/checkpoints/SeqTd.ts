/**
 * Checkpoints of the reference implementation, SeqTD: a Llama under litgpt's names, with `p_gen` (the general neurons'
 * share of an MLP) and `p_mem` (the share of the pool that a sequence lights, by the reference hash) in its config.
 */
import { DataError } from "../Errors.ts"
import type { ModelConfig, ModelConfigInput } from "../model/ModelConfig.ts"
import type { HostTensor } from "./Safetensors.ts"

type Json = Readonly<Record<string, unknown>>
type Tensors = Readonly<Record<string, HostTensor>>

/** Whether a parsed configuration is one of litgpt's. */
export const isLitgpt = (json: unknown): json is Json =>
  typeof json === "object" && json !== null && "n_embd" in json && "n_layer" in json

const fail = (detail: string): never => {
  throw new DataError({ detail })
}

const show = (value: unknown) => JSON.stringify(value)

const number = (json: Json, key: string, otherwise?: number): number => {
  const value = json[key] ?? otherwise
  return typeof value === "number" && Number.isFinite(value)
    ? value
    : fail(`${key} must be a number, it is ${show(value)}`)
}

/** What litgpt can compute and this cannot: the value it must have, and the one that litgpt takes where it is left out. */
const fixed: ReadonlyArray<readonly [key: string, must: unknown, otherwise: unknown]> = [
  ["rotary_percentage", 1, 0.25],
  ["parallel_residual", false, true],
  ["bias", false, true],
  ["norm_class_name", "RMSNorm", "LayerNorm"],
  ["lm_head_bias", false, false],
  ["attn_bias", false, false],
  ["shared_attention_norm", false, false],
  ["scale_embeddings", false, false],
  ["norm_qk", false, false],
  ["post_attention_norm", false, false],
  ["post_mlp_norm", false, false],
  ["rope_condense_ratio", 1, 1],
  ["rope_adjustments", null, null],
  ["sliding_window_size", null, null],
  ["attention_logit_softcapping", null, null],
  ["final_logit_softcapping", null, null],
  ["attention_scores_scalar", null, null]
]

const otherMlps = ["GptNeoxMLP", "GemmaMLP", "LLaMAMoE"]

/** A matrix's rows `from` to `to`. */
const rows = ({ data, shape }: HostTensor, from: number, to: number): HostTensor => ({
  shape: [to - from, shape[1]!],
  data: data.slice(from * shape[1]!, to * shape[1]!)
})

const stack = (parts: ReadonlyArray<HostTensor>): HostTensor => {
  const data = new Float32Array(parts.reduce((n, part) => n + part.data.length, 0))
  let at = 0
  for (const part of parts) {
    data.set(part.data, at)
    at += part.data.length
  }
  return { shape: [parts.reduce((n, part) => n + part.shape[0]!, 0), parts[0]!.shape[1]!], data }
}

const names: Readonly<Record<string, string>> = {
  "norm_1": "input_layernorm",
  "norm_2": "post_attention_layernorm",
  "attn.proj": "self_attn.o_proj",
  "mlp.fc_1": "mlp.gate_proj",
  "mlp.fc_2": "mlp.up_proj",
  "mlp.proj": "mlp.down_proj"
}

const whole: Readonly<Record<string, string>> = {
  "transformer.wte.weight": "model.embed_tokens.weight",
  "transformer.ln_f.weight": "model.norm.weight",
  "lm_head.weight": "lm_head.weight"
}

/** The class of MLP of NULLs' released models, and of the program that trained them. */
const NULLS_MLP = "LLaMAMLPSeqTD"

/**
 * The width at which a model's ids were multiplied: NULLs' program has them in 32 bits, so that the product wraps, and whose sinks
 * are whose follows from that. Of others 64.
 */
export const idBitsOf = (json: Json): 32 | 64 => (json["mlp_class_name"] === NULLS_MLP ? 32 : 64)

/** What NULLs adds to an article's number for its id: the size of the vocabulary, so that no id is that of a token. */
export const titleOffsetOf = (json: Json): number =>
  number(json, "vocab_size", typeof json["padded_vocab_size"] === "number" ? json["padded_vocab_size"] : undefined)

/** Fields of a `config.json` beside a model in litgpt's words that say something else than what it is, in words; or undefined. */
export const disagreement = (json: Json, c: ModelConfig): string | undefined => {
  const what: ReadonlyArray<readonly [key: string, is: unknown]> = [
    ["vocab_size", c.vocabSize],
    ["hidden_size", c.hiddenSize],
    ["num_hidden_layers", c.numHiddenLayers],
    ["num_attention_heads", c.numAttentionHeads],
    ["num_key_value_heads", c.kvHeads],
    ["head_dim", c.headSize],
    ["intermediate_size", c.intermediateSize],
    ["tie_word_embeddings", c.tieWordEmbeddings],
    ["rope_theta", c.ropeTheta],
    ["rms_norm_eps", c.rmsNormEps]
  ]
  const other = what.filter(([key, is]) => json[key] !== undefined && json[key] !== null && json[key] !== is)
  return other.length === 0
    ? undefined
    : other.map(([key, is]) => `${key} ${show(json[key])}, not ${show(is)}`).join("; ")
}

/** How often ids in 32 bits light the same sinks, in words, of so many sources: only the low 16 bits of an id count. */
export const wrapNote = (sources: number): string | undefined =>
  sources <= 2 ** 16
    ? undefined
    : `${
      sources.toLocaleString("en")
    } sources share 65,536 sets of sinks, since only the low 16 bits of an id count: about ${
      Math.round(sources / 2 ** 16)
    } sources light exactly the same ones, and what is deleted of one is lit by the others; those whose id is a multiple of ` +
      "65,536 light all"

/**
 * The same model in our words: fields of a ModelConfig, and tensors under Hugging Face's names. Throws a DataError that says
 * what cannot be computed here. `idBits`: see SinkConfig.referenceIdBits; default: see `idBitsOf`.
 */
export const fromLitgpt = (
  json: Json,
  given: Tensors,
  idBits: 32 | 64 = idBitsOf(json)
): { readonly config: ModelConfigInput; readonly tensors: Tensors; readonly notes: ReadonlyArray<string> } => {
  for (const [key, must, otherwise] of fixed) {
    const value = json[key] === undefined ? otherwise : json[key]
    if (value !== must) fail(`${key} is ${show(value)}, what can be computed here has ${show(must)}`)
  }
  if (otherMlps.includes(json["mlp_class_name"] as string)) {
    fail(`mlp_class_name is ${show(json["mlp_class_name"])}, what can be computed here is a gated MLP like Llama's`)
  }
  const d = number(json, "n_embd")
  const heads = number(json, "n_head")
  const groups = number(json, "n_query_groups", heads)
  const headSize = number(json, "head_size", d / heads)
  const width = number(json, "intermediate_size")
  const wholes = [d, heads, groups, headSize, width, number(json, "n_layer")]
  if (!wholes.every((n) => Number.isSafeInteger(n) && n > 0) || heads % groups !== 0) {
    fail(
      "n_embd, n_layer, n_head, n_query_groups, head_size and intermediate_size must be whole numbers that fit together"
    )
  }
  const tensors = Object.fromEntries(
    Object.entries(given).map(([name, tensor]) => [name.replace(/^model\.(?=transformer\.|lm_head\.)/, ""), tensor])
  )
  const embedding = tensors["transformer.wte.weight"] ?? fail("tensor transformer.wte.weight is missing")
  const tied = tensors["lm_head.weight"] === undefined

  const out: Record<string, HostTensor> = {}
  for (const [name, tensor] of Object.entries(tensors)) {
    const [, layer, part] = /^transformer\.h\.(\d+)\.(.+)\.weight$/.exec(name) ?? []
    if (part === "attn.qkv" || part === "attn.attn") {
      const each = heads / groups
      const total = (heads + 2 * groups) * headSize
      if (tensor.shape.length !== 2 || tensor.shape[0] !== total) {
        fail(
          `tensor ${name} is [${tensor.shape.join(", ")}], ${heads} heads and ${groups} groups of ${headSize} make ` +
            `${total} rows`
        )
      }
      const cut = (from: number, count: number) => rows(tensor, from * headSize, (from + count) * headSize)
      // the older name goes with the older order: the queries of a group, then its key and its value
      const group = Array.from({ length: groups }, (_, g) => g * (each + 2))
      const [q, k, v] = part === "attn.qkv"
        ? [cut(0, heads), cut(heads, groups), cut(heads + groups, groups)]
        : [
          stack(group.map((at) => cut(at, each))),
          stack(group.map((at) => cut(at + each, 1))),
          stack(group.map((at) => cut(at + each + 1, 1)))
        ]
      out[`model.layers.${layer}.self_attn.q_proj.weight`] = q
      out[`model.layers.${layer}.self_attn.k_proj.weight`] = k
      out[`model.layers.${layer}.self_attn.v_proj.weight`] = v
    } else {
      const to = part === undefined ? whole[name] : names[part] && `model.layers.${layer}.${names[part]}.weight`
      out[to ?? fail(`there is no place for tensor ${name} in a Llama`)] = tensor
    }
  }

  const [pGen, pMem] = [json["p_gen"], json["p_mem"]]
  const hasSinks = pGen !== undefined && pGen !== null && pGen !== 1
  const general = hasSinks ? Math.floor(number(json, "p_gen") * width) : width
  const pool = width - general
  const p = hasSinks ? number(json, "p_mem") : 0
  if (hasSinks && !(p > 0 && p <= 1 && general > 0 && pool > 0)) {
    fail(`p_gen ${show(pGen)} and p_mem ${show(pMem)} do not describe general neurons and a pool of sinks`)
  }
  return {
    config: {
      vocabSize: embedding.shape[0] ?? 0,
      hiddenSize: d,
      numHiddenLayers: number(json, "n_layer"),
      numAttentionHeads: heads,
      numKeyValueHeads: groups,
      headDim: headSize,
      intermediateSize: width,
      maxPositionEmbeddings: number(json, "block_size", 4096),
      rmsNormEps: number(json, "norm_eps", 1e-5),
      ropeTheta: number(json, "rope_base", 10000),
      tieWordEmbeddings: tied,
      ...(hasSinks
        ? {
          sinks: {
            pool,
            active: Math.max(1, Math.round(p * pool)),
            block: 1,
            assignment: "reference" as const,
            referenceIdBits: idBits,
            maskProbability: p
          }
        }
        : {})
    },
    tensors: out,
    notes: hasSinks
      ? [
        `sinks are shared out by the reference hash with p ${p}, ids multiplied at ${idBits} bits` +
        (idBits === idBitsOf(json) ? "" : " as asked for") +
        ": ids must be those that the model was trained with"
      ]
      : []
  }
}
