import { describe, expect, it } from "vitest"
import * as Gguf from "../../src/checkpoints/Gguf.ts"
import * as LlamaCpp from "../../src/checkpoints/LlamaCpp.ts"
import type { Encoded } from "../../src/checkpoints/Safetensors.ts"
import * as Tokenizer from "../../src/data/tokens/Tokenizer.ts"
import { fromHalf } from "../../src/Float16.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { makeRandom } from "../reference/random.ts"

const bytesOf = (file: Encoded) => new Uint8Array(Buffer.concat([...file.chunks]))

/** A reader of the format, written from its description: every field is read where it must be, or this throws. */
const read = (bytes: Uint8Array) => {
  const view = new DataView(bytes.buffer, bytes.byteOffset)
  let at = 0
  const u32 = () => view.getUint32((at += 4) - 4, true)
  const i32 = () => view.getInt32((at += 4) - 4, true)
  const f32 = () => view.getFloat32((at += 4) - 4, true)
  const u64 = () => Number(view.getBigUint64((at += 8) - 8, true))
  const string = () => {
    const length = u64()
    return new TextDecoder().decode(bytes.subarray(at, at += length))
  }
  const value = (type: number): unknown => {
    if (type === 4) return u32()
    if (type === 5) return i32()
    if (type === 6) return f32()
    if (type === 7) return bytes[at++] === 1
    if (type === 8) return string()
    if (type !== 9) throw new Error(`type ${type}`)
    const of = u32()
    return Array.from({ length: u64() }, () => value(of))
  }
  const magic = new TextDecoder().decode(bytes.subarray(at, at += 4))
  const version = u32()
  const [tensorCount, count] = [u64(), u64()]
  const metadata = Object.fromEntries(Array.from({ length: count }, () => [string(), value(u32())]))
  const tensors = Array.from({ length: tensorCount }, () => ({
    name: string(),
    dimensions: Array.from({ length: u32() }, u64),
    type: u32(),
    offset: u64()
  }))
  const start = Math.ceil(at / 32) * 32
  return { magic, version, metadata, tensors, data: bytes.subarray(start) }
}

describe("Gguf", () => {
  const ramp = (n: number) => Float32Array.from({ length: n }, (_, i) => i - n / 2 + 0.25)
  const file = Gguf.encode([
    ["general.architecture", Gguf.string("llama")],
    ["a.u32", Gguf.u32(4294967295)],
    ["a.f32", Gguf.f32(1e-5)],
    ["a.bool", Gguf.bool(true)],
    ["a.strings", Gguf.strings(["", "é😀", "Ġthe"])],
    ["a.i32s", Gguf.i32s([1, -2])]
  ], [
    { name: "one", shape: [3], type: "F32", data: () => ramp(3) },
    { name: "two", shape: [2, 5], type: "F16", data: () => ramp(10) },
    { name: "three", shape: [2, 32], type: "Q8_0", data: () => ramp(64) }
  ])
  const it_ = read(bytesOf(file))

  it("writes a header, metadata and a table that a reader of version 3 finds", () => {
    expect([it_.magic, it_.version]).toEqual(["GGUF", 3])
    expect(it_.metadata).toEqual({
      "general.architecture": "llama",
      "a.u32": 4294967295,
      "a.f32": Math.fround(1e-5),
      "a.bool": true,
      "a.strings": ["", "é😀", "Ġthe"],
      "a.i32s": [1, -2]
    })
  })

  it("lays tensors at multiples of 32 bytes, the fastest dimension first", () => {
    expect(it_.tensors).toEqual([
      { name: "one", dimensions: [3], type: 0, offset: 0 },
      { name: "two", dimensions: [5, 2], type: 1, offset: 32 },
      { name: "three", dimensions: [32, 2], type: 8, offset: 64 }
    ])
    expect(it_.data.length).toBe(64 + 96)
    expect(bytesOf(file).length).toBe(file.byteLength)
  })

  it("writes numbers that come back, as near as their type is", () => {
    const bytes = it_.data.slice()
    expect([...new Float32Array(bytes.buffer, 0, 3)]).toEqual([...ramp(3)])
    expect([...new Uint16Array(bytes.buffer, 32, 10)].map(fromHalf)).toEqual([...ramp(10)])
    for (let block = 0; block < 2; block++) {
      const scale = fromHalf(new DataView(bytes.buffer).getUint16(64 + 34 * block, true))
      const numbers = new Int8Array(bytes.buffer, 64 + 34 * block + 2, 32)
      numbers.forEach((q, i) => {
        expect(Math.abs(q * scale - ramp(64)[32 * block + i]!)).toBeLessThan(0.51 * scale + 1e-3 * 32)
      })
    }
  })

  it("grows with its metadata", () => {
    const many = Array.from({ length: 30000 }, (_, i) => `token ${i}`)
    expect(read(bytesOf(Gguf.encode([["t", Gguf.strings(many)]], []))).metadata["t"]).toEqual(many)
  })
})

describe("Q8_0", () => {
  it("gives the largest magnitude 127, rounds halves away from zero, and keeps a block of zeros", () => {
    const values = new Float32Array(64)
    values.set([127, -127, 0.5, -0.5, 0.49, 2.5, -2.5, 126.5])
    const bytes = Gguf.quantize(values)
    expect(bytes.length).toBe(68)
    expect(fromHalf(bytes[0]! | (bytes[1]! << 8))).toBe(1)
    expect([...new Int8Array(bytes.buffer, 2, 8)]).toEqual([127, -127, 1, -1, 0, 3, -3, 127])
    expect([...bytes.subarray(34)]).toEqual(new Array(34).fill(0))
  })

  it("is off by at most half a step, and the rounding of its scale", () => {
    const random = makeRandom(5)
    const values = Float32Array.from({ length: 3200 }, () => random.normal() * 0.02)
    const bytes = Gguf.quantize(values)
    for (let block = 0; block < 100; block++) {
      const scale = fromHalf(bytes[34 * block]! | (bytes[34 * block + 1]! << 8))
      for (let i = 0; i < 32; i++) {
        const back = new Int8Array(bytes.buffer)[34 * block + 2 + i]! * scale
        expect(Math.abs(back - values[32 * block + i]!)).toBeLessThan(scale * (0.5 + 127 * 2 ** -11 + 1e-3))
      }
    }
  })
})

describe("a model in llama.cpp's words", () => {
  const config = new ModelConfig({
    vocabSize: 8,
    hiddenSize: 4,
    numHiddenLayers: 1,
    numAttentionHeads: 2,
    numKeyValueHeads: 1,
    headDim: 4,
    intermediateSize: 4
  })
  const lazy = (shape: ReadonlyArray<number>, data: ReadonlyArray<number>) => ({ shape,
    data: () => Float32Array.from(data) })

  it("has neighbouring rows of queries and keys where Hugging Face has two halves", () => {
    const rows = Array.from({ length: 8 }, (_, row) => [row, row, row, row]).flat()
    const [q, k, v] = LlamaCpp.tensors(config, {
      "model.layers.0.self_attn.q_proj.weight": lazy([8, 4], rows),
      "model.layers.0.self_attn.k_proj.weight": lazy([4, 4], rows.slice(0, 16)),
      "model.layers.0.self_attn.v_proj.weight": lazy([4, 4], rows.slice(0, 16))
    }, "F32")
    const firsts = (data: Float32Array) => [...data].filter((_, i) => i % 4 === 0)
    expect([q!.name, firsts(q!.data())]).toEqual(["blk.0.attn_q.weight", [0, 2, 1, 3, 4, 6, 5, 7]])
    expect([k!.name, firsts(k!.data())]).toEqual(["blk.0.attn_k.weight", [0, 2, 1, 3]])
    expect([v!.name, firsts(v!.data())]).toEqual(["blk.0.attn_v.weight", [0, 1, 2, 3]])
  })

  it("keeps norms f32, and what cannot be Q8_0 f16", () => {
    expect(LlamaCpp.typeOf([64], "Q8_0")).toBe("F32")
    expect(LlamaCpp.typeOf([8, 64], "Q8_0")).toBe("Q8_0")
    expect(LlamaCpp.typeOf([64, 8], "Q8_0")).toBe("F16")
    expect(LlamaCpp.typeOf([64, 8], "F32")).toBe("F32")
  })

  it("has no name for a tensor that a Llama does not have", () => {
    expect(() => LlamaCpp.tensors(config, { "model.layers.0.self_attn.q_proj.bias": lazy([8], []) }, "F32"))
      .toThrow(/no name for tensor model.layers.0.self_attn.q_proj.bias/)
  })
})

describe("a tokenizer in llama.cpp's words", () => {
  const json = JSON.parse(Tokenizer.bytes.toJSON()) as { model: object }
  const altered = (over: object, model: object = {}) =>
    JSON.stringify({ ...json, ...over, model: { ...json.model, ...model } })
  const metadata = (text: string, vocabSize = 256) =>
    Object.fromEntries(
      LlamaCpp.tokenizerMetadata(text, vocabSize).metadata.map(([key, { value }]) => [
        key.replace("tokenizer.ggml.", ""),
        value
      ])
    )

  it("is GPT-2's for bytes, with a merge that never happens, and ends at a byte that no text holds", () => {
    const it = metadata(Tokenizer.bytes.toJSON())
    expect(it).toMatchObject({ model: "gpt2", pre: "gpt-2", merges: ["\u0100 \u0100"], eos_token_id: 0,
      add_bos_token: false })
    expect((it["tokens"] as ReadonlyArray<string>)[32]).toBe("\u0120")
    expect(new Set(it["token_type"] as ReadonlyArray<number>)).toEqual(new Set([1]))
  })

  it("names special tokens, and fills up to the model's vocabulary", () => {
    const added = [
      { id: 256, content: "<|endoftext|>", special: true },
      { id: 257, content: "<think>", special: false }
    ]
    const it = metadata(altered({ added_tokens: added }), 260)
    expect(it).toMatchObject({ bos_token_id: 256, eos_token_id: 256 })
    expect((it["tokens"] as ReadonlyArray<string>).slice(255)).toEqual(["ÿ", "<|endoftext|>", "<think>", "[PAD258]",
      "[PAD259]"])
    expect((it["token_type"] as ReadonlyArray<number>).slice(255)).toEqual([1, 3, 4, 5, 5])
  })

  it("has a place for three ends of a text, and says which others it has none for", () => {
    const added = [256, 257, 258, 259].map((id) => ({ id, content: `<|${id}|>`, special: true }))
    const ends = { bos: 256, eos: [257, 256, 259], addBos: true, addEos: false }
    const text = altered({ added_tokens: added })
    const written = LlamaCpp.tokenizerMetadata(text, 260, ends)
    expect(Object.fromEntries(written.metadata.map(([key, { value }]) => [key.replace("tokenizer.ggml.", ""), value])))
      .toMatchObject({ bos_token_id: 256, eos_token_id: 257, eot_token_id: 256, eom_token_id: 259,
        add_bos_token: true })
    expect(written.notes).toEqual([])
    const more = LlamaCpp.tokenizerMetadata(text, 260, { ...ends, eos: [257, 256, 259, 258] })
    expect(more.notes).toEqual([expect.stringMatching(/^a text ends at "<\|258\|>", too: GGUF has three places/)])
  })

  it("knows SmolLM's and Llama 3's splitting by name", () => {
    const level = { type: "ByteLevel", add_prefix_space: false, use_regex: true }
    const digits = { type: "Digits", individual_digits: true }
    expect(metadata(altered({ pre_tokenizer: { type: "Sequence", pretokenizers: [digits, level] } }))["pre"]).toBe(
      "smollm"
    )
  })

  const refused: ReadonlyArray<readonly [string, string, RegExp]> = [
    ["another model", altered({}, { type: "WordPiece" }), /byte-level BPE, this is WordPiece/],
    ["a normalizer", altered({ normalizer: { type: "NFC" } }), /splitting rule/],
    ["a space before", altered({ pre_tokenizer: { type: "ByteLevel", add_prefix_space: true } }), /splitting rule/],
    ["a regular expression of its own", altered({
      pre_tokenizer: {
        type: "Sequence",
        pretokenizers: [
          { type: "Split", pattern: { Regex: "\\s+" }, behavior: "Isolated", invert: false },
          { type: "ByteLevel", add_prefix_space: false, use_regex: false }
        ]
      }
    }, { ignore_merges: true }), /splitting rule/],
    ["an id that the model does not have", altered({ added_tokens: [{ id: 256, content: "<s>", special: true }] }),
      /has id 256/],
    ["two tokens of one id", altered({ added_tokens: [{ id: 3, content: "<s>", special: true }] }), /both have id 3/],
    ["a broken merge", altered({}, { merges: ["a b c"] }), /"a b c" is not a merge/],
    ["no vocabulary", altered({}, { vocab: [] }), /vocabulary/]
  ]
  for (const [what, text, message] of refused) {
    it(`refuses ${what}`, () => {
      expect(() => LlamaCpp.tokenizerMetadata(text, 256)).toThrow(message)
    })
  }
})
