import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { describe, expect, it } from "vitest"
import { decodeConfig } from "../../src/Config.ts"
import { ModelConfig, presets } from "../../src/model/ModelConfig.ts"
import { SinkConfig } from "../../src/Sink.ts"

const base = { vocabSize: 61, hiddenSize: 32, numHiddenLayers: 2, numAttentionHeads: 4, intermediateSize: 104 }

const problems = (input: unknown): ReadonlyArray<string> =>
  Effect.runSync(Effect.flip(decodeConfig(ModelConfig, input)))
    .message.split("\n")
    .slice(1)
    .map((line) => line.trim())

describe("presets", () => {
  it("have the parameter counts of the published models", () => {
    expect(presets["smol-135m"].numParameters).toBe(134_515_008)
    expect(presets["smol-360m"].numParameters).toBe(361_821_120)
    expect(presets["smol-1.7b"].numParameters).toBe(1_711_376_384)
    expect(presets["nulls-1b"].numParameters / 1e9).toBeCloseTo(1.007, 3)
  })

  it("count by hand: tiny and nulls-1b, all parameters and those a token is multiplied with", () => {
    // embedding 256*64, final norm 64, and per layer q, k, v, o (4*64*64), gate, up, down (3*2240*64), two norms
    expect(presets.tiny.numParameters).toBe(256 * 64 + 64 + 2 * (4 * 64 * 64 + 3 * 2240 * 64 + 2 * 64))
    expect(presets.tiny.numActiveParameters).toBe(256 * 64 + 64 + 2 * (4 * 64 * 64 + 3 * 224 * 64 + 2 * 64))
    const attention = 960 * 128 * (2 * 15 + 2 * 5)
    expect(presets["nulls-1b"].numParameters).toBe(2 * 49152 * 960 + 960 + 32 * (attention + 3 * 8192 * 960 + 2 * 960))
    expect(presets["nulls-1b"].numActiveParameters).toBe(
      2 * 49152 * 960 + 960 + 32 * (attention + 3 * 600 * 960 + 2 * 960)
    )
    expect(presets["smol-135m"].numActiveParameters).toBe(134_515_008)
  })

  it("have the sinks of their papers", () => {
    const { general, pool, sinks } = presets["nulls-1b"]
    expect([general, pool, sinks?.active, sinks?.assignment]).toEqual([500, 7692, 100, "reference"])
    expect(sinks!.probability).toBeCloseTo(0.013, 5)
    expect([presets.tiny.general, presets.tiny.pool, presets.tiny.activeSize]).toEqual([192, 2048, 224])
    expect([presets["smol-360m"].pool, presets["smol-360m"].general]).toEqual([0, 2560])
  })

  it("survive encoding and strict decoding", () => {
    for (const preset of Object.values(presets)) {
      const json: unknown = JSON.parse(JSON.stringify(Schema.encodeSync(ModelConfig)(preset)))
      expect(Effect.runSync(decodeConfig(ModelConfig, json))).toEqual(preset)
    }
  })
})

describe("derived numbers", () => {
  it("default to one key head a head and to heads that fill the width", () => {
    const config = new ModelConfig(base)
    expect([config.kvHeads, config.headSize, config.general, config.pool, config.activeSize]).toEqual([
      4,
      8,
      104,
      0,
      104
    ])
  })

  it("take the head size as given, independent of the width", () => {
    const config = new ModelConfig({ ...base, numAttentionHeads: 3, headDim: 20, numKeyValueHeads: 1 })
    expect([config.kvHeads, config.headSize]).toEqual([1, 20])
    // q 3 heads, o 3 heads, k and v one each
    expect(config.numParameters).toBe(61 * 32 + 32 + 2 * (32 * 20 * 8 + 3 * 104 * 32 + 64))
  })
})

describe("validation", () => {
  it("says which head size does not divide, and what to do", () => {
    expect(problems({ ...base, numAttentionHeads: 3 })).toEqual([
      "hiddenSize 32 does not divide into 3 heads of a multiple of 4: choose another numAttentionHeads or give headDim"
    ])
    expect(problems({ ...base, hiddenSize: 24 })).toHaveLength(1)
    expect(() => new ModelConfig({ ...base, numAttentionHeads: 3, headDim: 12 })).not.toThrow()
  })

  it("says that key and value heads must divide the heads", () => {
    expect(problems({ ...base, numKeyValueHeads: 3 })).toEqual(["numKeyValueHeads 3 must divide numAttentionHeads 4"])
    expect(problems({ ...base, numKeyValueHeads: 8 })).toEqual(["numKeyValueHeads 8 must divide numAttentionHeads 4"])
  })

  it("says how pool, active and block of the sinks must fit", () => {
    const sinks = (fields: object) => problems({ ...base, sinks: { pool: 64, active: 16, ...fields } })
    expect(sinks({ pool: 60 })).toEqual(["sinks.pool 60 must be a multiple of sinks.block 16"])
    expect(sinks({ active: 24 })).toEqual(["sinks.active 24 must be a multiple of sinks.block 16"])
    expect(sinks({ active: 80 })).toEqual(["sinks.active 80 must be at most sinks.pool 64"])
    expect(sinks({ pool: 62, block: 2 })).toEqual(["sinks.pool 62 must be a multiple of 4"])
    expect(sinks({ assignment: "reference" })).toEqual(["sinks.block must be 1 with the reference assignment"])
    expect(sinks({ pool: 112 })).toEqual([
      "intermediateSize 104 must exceed sinks.pool 112: it counts general neurons and pool"
    ])
    // a share that is no whole number of blocks is fine where it is only an average
    expect(new SinkConfig({ pool: 64, active: 24, assignment: "bernoulli" }).problem).toBeUndefined()
    expect(new SinkConfig({ pool: 64, active: 16 }).problem).toBeUndefined()
  })

  it("tells everything at once, with the names that were probably meant", () => {
    const lines = problems({
      vocabSize: 0,
      hiddensize: 32,
      numHiddenLayers: 1.5,
      numAttentionHeads: 4,
      intermediateSize: 102,
      sinks: { pol: 64, active: 16 },
      colour: "red"
    })
    expect([...lines].sort()).toEqual([
      expect.stringMatching(/^colour: is not a known key; known: vocabSize, hiddenSize, /),
      "hiddenSize: is missing",
      "hiddensize: is not a known key. Did you mean hiddenSize?",
      expect.stringMatching(/^intermediateSize: expected .*4.*, got 102$/),
      "numHiddenLayers: expected an integer, got 1.5",
      "sinks.pol: is not a known key. Did you mean pool?",
      "sinks.pool: is missing",
      "vocabSize: expected a positive number, got 0"
    ])
  })
})
