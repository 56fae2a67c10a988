/** A model under litgpt's names as `torch.save` writes it: a zip archive, stored, of a pickle and of each tensor's numbers. */
import { crc32 } from "../../src/Crc32.ts"
import type { HostTensor } from "../../src/HostTensor.ts"
import type { ModelConfig } from "../../src/model/ModelConfig.ts"

type Tensors = Readonly<Record<string, HostTensor>>

const text = (value: string) => new TextEncoder().encode(value)
const u16 = (value: number) => [value & 255, value >>> 8]
const u32 = (value: number) => [...u16(value & 0xffff), ...u16(value >>> 16)]

/** An archive of files as they are. */
export const stored = (files: ReadonlyArray<readonly [name: string, bytes: Uint8Array]>): Uint8Array => {
  const parts: Array<Uint8Array> = []
  const directory: Array<Uint8Array> = []
  let at = 0
  for (const [name, bytes] of files) {
    const common = [...u16(0), ...u16(0), ...u32(0), ...u32(crc32(bytes)), ...u32(bytes.length), ...u32(bytes.length),
      ...u16(text(name).length), ...u16(0)]
    const head = Uint8Array.from([...u32(0x04034b50), ...u16(20), ...common])
    directory.push(
      Uint8Array.from([...u32(0x02014b50), ...u16(20), ...u16(20), ...common, ...u16(0), ...u16(0), ...u16(0),
        ...u32(0), ...u32(at)]),
      text(name)
    )
    parts.push(head, text(name), bytes)
    at += head.length + text(name).length + bytes.length
  }
  const length = directory.reduce((sum, part) => sum + part.length, 0)
  const end = Uint8Array.from([...u32(0x06054b50), ...u16(0), ...u16(0), ...u16(files.length), ...u16(files.length),
    ...u32(length), ...u32(at), ...u16(0)])
  return new Uint8Array(Buffer.concat([...parts, ...directory, end]))
}

/** Opcodes of a text, a whole number, a tuple, a class. */
export const unicode = (value: string) => [0x58, ...u32(text(value).length), ...text(value)]
export const whole = (value: number) => [0x4a, ...u32(value)]
export const tuple = (...items: ReadonlyArray<ReadonlyArray<number>>) => [0x28, ...items.flat(), 0x74]
export const named = (module: string, name: string) => [0x63, ...text(`${module}\n${name}\n`)]

/** A pickle of `{"model": {name: tensor, …}, …more}`. */
export const pickleOf = (tensors: Tensors, more: ReadonlyArray<number> = []): Uint8Array => {
  const entries = Object.entries(tensors).flatMap(([name, { data, shape }], key) => [
    ...unicode(name),
    ...named("torch._utils", "_rebuild_tensor_v2"),
    ...tuple(
      [
        ...tuple(unicode("storage"), named("torch", "FloatStorage"), unicode(`${key}`), unicode("cpu"),
          whole(data.length)),
        0x51
      ],
      whole(0),
      tuple(...shape.map(whole)),
      tuple(...shape.map((_, side) => whole(shape.slice(side + 1).reduce((product, n) => product * n, 1)))),
      [0x89],
      [0x7d]
    ),
    0x52
  ])
  return Uint8Array.from([0x80, 2, 0x7d, 0x28, ...unicode("model"), 0x7d, 0x28, ...entries, 0x75, ...more, 0x75, 0x2e])
}

/** A `lit_model.pth`; `more`: opcodes of further keys and values beside the weights. */
export const litFile = (tensors: Tensors, more: ReadonlyArray<number> = []): Uint8Array =>
  stored([
    ["lit_model/data.pkl", pickleOf(tensors, more)],
    ["lit_model/byteorder", text("little")],
    ...Object.values(tensors).map(({ data }, key) =>
      [`lit_model/data/${key}`, new Uint8Array(data.buffer, data.byteOffset, data.byteLength)] as const
    ),
    ["lit_model/version", text("3\n")]
  ])

/** Tensors under Hugging Face's names by litgpt's, queries, keys and values in one matrix, by either of its orders. */
export const litTensors = (c: ModelConfig, name: "attn.qkv" | "attn.attn",
  tensors: Tensors): Record<string, HostTensor> =>
{
  const out: Record<string, HostTensor> = {
    "transformer.wte.weight": tensors["model.embed_tokens.weight"]!,
    "transformer.ln_f.weight": tensors["model.norm.weight"]!,
    ...(c.tieWordEmbeddings ? {} : { "lm_head.weight": tensors["lm_head.weight"] })
  }
  for (let i = 0; i < c.numHiddenLayers; i++) {
    const from = (part: string) => tensors[`model.layers.${i}.${part}.weight`]!
    const to = (part: string, tensor: HostTensor) => (out[`transformer.h.${i}.${part}.weight`] = tensor)
    to("norm_1", from("input_layernorm"))
    to("norm_2", from("post_attention_layernorm"))
    to("attn.proj", from("self_attn.o_proj"))
    to("mlp.fc_1", from("mlp.gate_proj"))
    to("mlp.fc_2", from("mlp.up_proj"))
    to("mlp.proj", from("mlp.down_proj"))
    const head = (part: string, h: number) => [
      ...from(`self_attn.${part}_proj`).data.subarray(h * c.headSize * c.hiddenSize,
        (h + 1) * c.headSize * c.hiddenSize)
    ]
    const all = (part: string, count: number) => Array.from({ length: count }, (_, h) => head(part, h)).flat()
    const each = c.numAttentionHeads / c.kvHeads
    const data = name === "attn.qkv"
      ? [...all("q", c.numAttentionHeads), ...all("k", c.kvHeads), ...all("v", c.kvHeads)]
      : Array.from({ length: c.kvHeads }, (_, g) => [
        ...Array.from({ length: each }, (_, j) => head("q", g * each + j)).flat(),
        ...head("k", g),
        ...head("v", g)
      ]).flat()
    to(name, { shape: [data.length / c.hiddenSize, c.hiddenSize], data: Float32Array.from(data) })
  }
  return out
}

/** The `model_config.yaml` of such a model. */
export const litConfig = (c: ModelConfig, over: object = {}) => ({
  name: "sinks",
  block_size: c.maxPositionEmbeddings,
  n_layer: c.numHiddenLayers,
  n_head: c.numAttentionHeads,
  n_query_groups: c.kvHeads,
  head_size: c.headSize,
  n_embd: c.hiddenSize,
  intermediate_size: c.intermediateSize,
  rotary_percentage: 1,
  rope_base: c.ropeTheta,
  parallel_residual: false,
  bias: false,
  norm_class_name: "RMSNorm",
  norm_eps: c.rmsNormEps,
  mlp_class_name: "LLaMAMLP",
  padded_vocab_size: c.vocabSize,
  ...over
})
