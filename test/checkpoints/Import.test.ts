import * as NodeContext from "@effect/platform-node/NodeContext"
import * as FileSystem from "@effect/platform/FileSystem"
import type * as Path from "@effect/platform/Path"
import { layer } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import { readFileSync } from "node:fs"
import { expect } from "vitest"
import { type Batch, IGNORE } from "../../src/Batch.ts"
import { Checkpoints, loadFolder, loadModel } from "../../src/checkpoints/Checkpoints.ts"
import { importModel, loadInitial, withSinks } from "../../src/checkpoints/Import.ts"
import type { HostTensor } from "../../src/checkpoints/Safetensors.ts"
import * as Safetensors from "../../src/checkpoints/Safetensors.ts"
import { fromLitgpt } from "../../src/checkpoints/SeqTd.ts"
import * as Tokenizer from "../../src/data/tokens/Tokenizer.ts"
import { CheckpointError } from "../../src/Errors.ts"
import { encode as toHalves } from "../../src/Float16.ts"
import { modelConfigOf } from "../../src/model/HuggingFace.ts"
import { huggingFaceConfig, toHuggingFace } from "../../src/model/HuggingFace.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig, presets } from "../../src/model/ModelConfig.ts"
import { initialValue, listParameters, parametersOf } from "../../src/model/Parameters.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Sink from "../../src/Sink.ts"
import { makeRandom } from "../reference/random.ts"
import { litConfig, litTensors } from "../support/litModel.ts"

const plain = new ModelConfig({
  vocabSize: 256,
  hiddenSize: 16,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  headDim: 8,
  intermediateSize: 24,
  ropeTheta: 100000,
  rmsNormEps: 1e-6,
  initializerRange: 0.3
})

const untied = new ModelConfig({ ...plain, tieWordEmbeddings: false })

const weightsOf = (c: ModelConfig, seed = 7): Record<string, HostTensor> =>
  Object.fromEntries(listParameters(parametersOf(c)).flatMap((p) => toHuggingFace(c, p.name, initialValue(c, p, seed))))

const shapesOf = (c: ModelConfig) =>
  Object.fromEntries(
    listParameters(parametersOf(c))
      .flatMap((p) => toHuggingFace(c, p.name, new Float32Array(p.value.shape.reduce((product, n) => product * n, 1))))
      .map(([name, { shape }]) => [name, shape])
  )

/** A config.json as transformers writes it. */
const configOf = (c: ModelConfig): Record<string, unknown> => {
  const { memsinks: _, ...json } = huggingFaceConfig(c)
  return { ...json, initializer_range: 0.02, rope_scaling: null, pretraining_tp: 1, use_cache: true, bos_token_id: 1 }
}

type Disk = FileSystem.FileSystem | Path.Path

const join = (file: Safetensors.Encoded) => new Uint8Array(Buffer.concat([...file.chunks]))

const write = (folder: string, files: Readonly<Record<string, string | Uint8Array>>) =>
  Effect.flatMap(FileSystem.FileSystem, (fs) =>
    Effect.zipRight(
      fs.makeDirectory(folder, { recursive: true }),
      Effect.forEach(Object.entries(files), ([name, content]) =>
        fs.writeFile(`${folder}/${name}`, typeof content === "string" ? new TextEncoder().encode(content) : content))
    ))

const safetensors = (tensors: Readonly<Record<string, HostTensor>>, dtype: Safetensors.Part["dtype"] = "F32") =>
  join(Safetensors.encodeParts(Object.entries(tensors).map(([name, { data, shape }]) => ({
    name,
    dtype,
    shape,
    bytes: () => {
      if (dtype === "F16") return new Uint8Array(toHalves(data).slice(0, data.length).buffer)
      const bits = new Uint32Array(data.buffer, data.byteOffset, data.length)
      // the upper half of each number is its bfloat16, rounded down
      return dtype === "BF16"
        ? new Uint8Array(Uint16Array.from(bits, (word) => word >>> 16).buffer)
        : new Uint8Array(bits.slice().buffer)
    }
  }))))

const llama = (c: ModelConfig, over: Readonly<Record<string, unknown>> = {}, tensors = weightsOf(c)) => ({
  "config.json": JSON.stringify({ ...configOf(c), ...over }),
  "model.safetensors": safetensors(tensors),
  "tokenizer.json": Tokenizer.bytes.toJSON()
})

const bytesOf = ({ data }: HostTensor) => Buffer.from(data.buffer, data.byteOffset, data.byteLength)

const temporary = Effect.flatMap(FileSystem.FileSystem, (fs) => fs.makeTempDirectoryScoped())

const inFolder = <A, E, R>(body: (folder: string) => Effect.Effect<A, E, R>) =>
  Effect.scoped(Effect.flatMap(temporary, body))

const logits = (c: ModelConfig, tensors: Readonly<Record<string, HostTensor>>, mode: Sink.SinkMode, id = 9n) =>
  Effect.scoped(Effect.gen(function*() {
    const model = yield* Model.make(c)
    yield* model.importTensors(tensors)
    const n = 16
    const random = makeRandom(3)
    const batch: Batch = {
      rows: 1,
      seqLen: n,
      tokens: Uint32Array.from({ length: n }, () => random.int(c.vocabSize)),
      targets: new Uint32Array(n).fill(IGNORE),
      positions: Uint32Array.from({ length: n }, (_, t) => t),
      documentStart: new Uint32Array(n),
      ids: new BigUint64Array(n).fill(id)
    }
    return yield* model.logits(batch, mode)
  }))

const largest = (a: Float32Array) => a.reduce((most, x) => Math.max(most, Math.abs(x)), 0)

const apart = (a: Float32Array, b: Float32Array) => largest(a.map((x, i) => x - b[i]!))

layer(Layer.mergeAll(NodeDevice.layer(), NodeContext.layer), { timeout: 60_000 })("a Llama from elsewhere", (it) => {
  it.effect("is read with its shape and its weights, tied and untied, in one file or several", () =>
    inFolder((folder) =>
      Effect.gen(function*() {
        for (const c of [plain, untied]) {
          yield* write(`${folder}/one`, llama(c))
          const { "model.safetensors": _, ...rest } = llama(c)
          const parts = yield* Safetensors.partsOf(weightsOf(c))
          const shards = Safetensors.shards(parts, "model", 8000)
          expect(shards.length).toBeGreaterThan(3)
          yield* write(`${folder}/several`, {
            ...rest,
            ...Object.fromEntries(shards.map(([name, file]) => [name, join(file)]))
          })
          for (const kind of ["one", "several"]) {
            const { config, step, tensors, tokenizer } = yield* loadInitial(`${folder}/${kind}`)
            expect({ ...config }).toEqual({ ...c, initializerRange: 0.02 })
            expect(tensors).toEqual(weightsOf(c))
            expect([step, tokenizer]).toEqual([undefined, Tokenizer.bytes.toJSON()])
          }
          yield* (yield* FileSystem.FileSystem).remove(`${folder}/several`, { recursive: true })
        }
      })
    ))

  it.effect("is read from halves and bfloat16", () =>
    inFolder((folder) =>
      Effect.gen(function*() {
        for (const [dtype, limit] of [["F16", 2 ** -11], ["BF16", 2 ** -7]] as const) {
          yield* write(folder, { ...llama(plain), "model.safetensors": safetensors(weightsOf(plain), dtype) })
          const { tensors } = yield* loadInitial(folder)
          for (const [name, { data }] of Object.entries(weightsOf(plain))) {
            const got = tensors[name]!.data as Float32Array
            expect(apart(got, data as Float32Array), name).toBeLessThanOrEqual(limit * largest(data as Float32Array))
          }
        }
      })
    ))

  it.effect("has the shapes of SmolLM by its config alone", () =>
    Effect.gen(function*() {
      const config = yield* modelConfigOf({
        architectures: ["LlamaForCausalLM"],
        model_type: "llama",
        hidden_size: 576,
        intermediate_size: 1536,
        num_hidden_layers: 30,
        num_attention_heads: 9,
        num_key_value_heads: 3,
        vocab_size: 49152,
        max_position_embeddings: 2048,
        rms_norm_eps: 1e-5,
        rope_theta: 10000,
        rope_scaling: null,
        tie_word_embeddings: true,
        torch_dtype: "bfloat16"
      })
      expect(config.numParameters).toBe(presets["smol-135m"].numParameters)
      expect(config.headSize).toBe(64)
      const newer = yield* modelConfigOf({
        ...configOf(plain),
        rope_theta: undefined,
        rope_parameters: { rope_type: "default", rope_theta: 130000 }
      })
      expect(newer.ropeTheta).toBe(130000)
    }))

  it.effect("may bring a head that is the embedding, and tables of angles; both are left out", () =>
    inFolder((folder) =>
      Effect.gen(function*() {
        const tensors = {
          ...weightsOf(plain),
          "lm_head.weight": weightsOf(plain)["model.embed_tokens.weight"]!,
          "model.layers.0.self_attn.rotary_emb.inv_freq": { shape: [4], data: new Float32Array(4) }
        }
        yield* write(folder, llama(plain, {}, tensors))
        expect((yield* loadInitial(folder)).tensors).toEqual(weightsOf(plain))
      })
    ))

  const other = new ModelConfig({ ...plain, vocabSize: 260 })
  const without = (name: string) => Object.fromEntries(Object.entries(weightsOf(plain)).filter(([key]) => key !== name))
  const withWeight = (value: number) => {
    const tensors = weightsOf(plain)
    tensors["model.norm.weight"]!.data[3] = value
    return tensors
  }
  /** All weights as F64, one of them replaced. */
  const inFloat64 = (value: number) =>
    join(Safetensors.encodeParts(Object.entries(weightsOf(plain)).map(([name, { data, shape }]) => ({
      name,
      // what is written is never F64
      dtype: "F64" as never,
      shape,
      bytes: () => {
        const wide = Float64Array.from(data)
        if (name === "model.norm.weight") wide[3] = value
        return new Uint8Array(wide.buffer)
      }
    }))))

  it.effect("is read from float64, and where config.json says by its type alone, or at length, what it is", () =>
    inFolder((folder) =>
      Effect.gen(function*() {
        for (
          const json of [
            { architectures: null },
            { architectures: [] },
            { rope_scaling: { rope_type: "default" } },
            { rope_scaling: { type: "default", rope_theta: 7 }, rope_theta: null },
            { rope_scaling: { rope_type: "linear", factor: 1 }, quantization_config: null }
          ]
        ) {
          yield* write(folder, llama(plain, json))
          const { config, tensors } = yield* loadInitial(folder)
          expect(tensors).toEqual(weightsOf(plain))
          expect(config.ropeTheta).toBe("rope_theta" in json ? 7 : 100000)
        }
        yield* write(folder, { ...llama(plain), "model.safetensors": inFloat64(2) })
        const { tensors } = yield* loadInitial(folder)
        expect(tensors["model.norm.weight"]!.data[3]).toBe(2)
        expect(tensors["model.embed_tokens.weight"]).toEqual(weightsOf(plain)["model.embed_tokens.weight"])
      })
    ))

  const refused: ReadonlyArray<readonly [string, Readonly<Record<string, string | Uint8Array>>, RegExp]> = [
    ["another architecture", llama(plain, { architectures: ["MistralForCausalLM"] }),
      /MistralForCausalLM.*only LlamaFor/],
    ["another model type", llama(plain, { model_type: "gpt2" }), /model_type "gpt2"/],
    ["another activation", llama(plain, { hidden_act: "gelu" }), /hidden_act "gelu"/],
    ["biases in attention", llama(plain, { attention_bias: true }), /attention_bias true/],
    ["biases in the MLP", llama(plain, { mlp_bias: true }), /mlp_bias true/],
    ["scaled positions", llama(plain, { rope_scaling: { rope_type: "llama3", factor: 8 } }), /rope_scaling .*llama3/],
    ["scaled positions, as of late", llama(plain, { rope_parameters: { rope_type: "yarn" } }),
      /rope_parameters .*yarn/],
    ["positions scaled in the words of old", llama(plain, { rope_scaling: { type: "linear", factor: 2 } }),
      /rope_scaling .*linear/],
    ["a type that is not one, and no architecture", llama(plain, { architectures: null, model_type: "gpt2" }),
      /"gpt2"; only LlamaFor/],
    ["quantized weights", llama(plain, { quantization_config: { quant_method: "gptq", bits: 4 } }),
      /quantization_config .*gptq.*dequantize/],
    ["a weight that is no number", llama(plain, {}, withWeight(NaN)),
      /tensor model.norm.weight holds NaN at 3: weights must be finite/],
    ["an infinite weight", llama(plain, {}, withWeight(-Infinity)), /tensor model.norm.weight holds -Infinity at 3/],
    ["a float64 beyond f32", { ...llama(plain), "model.safetensors": inFloat64(1e39) },
      /model.norm.weight holds Infinity at 3/],
    ["heads that do not divide", llama(plain, { num_key_value_heads: 3 }), /numKeyValueHeads 3 must divide/],
    ["a width that is a word", llama(plain, { hidden_size: "wide" }), /hiddenSize: expected .*"wide"/],
    ["no layers at all", llama(plain, { num_hidden_layers: undefined }), /numHiddenLayers: is missing/],
    ["a vocabulary of another size", llama(other, {}, weightsOf(plain)),
      /embed_tokens.weight is \[256, 16\].*asks for \[260, 16\]/],
    ["more layers than there are", llama(plain, { num_hidden_layers: 3 }),
      /tensor model.layers.2.input_layernorm.weight is missing/],
    ["more layers than any model has", llama(plain, { num_hidden_layers: 9e15 }),
      /numHiddenLayers: expected .*1024.*9000000000000000/],
    ["fewer layers than there are", llama(plain, { num_hidden_layers: 1 }), /tensor model.layers.1.* no such tensor/],
    ["a missing tensor", llama(plain, {}, without("model.norm.weight")), /tensor model.norm.weight is missing/],
    ["a tensor of biases",
      llama(plain, {}, { ...weightsOf(plain),
        "model.layers.0.self_attn.q_proj.bias": { shape: [32], data: new Float32Array(32) } }),
      /q_proj.bias is in the file/],
    ["a head that differs from the embedding",
      llama(plain, {}, { ...weightsOf(plain), "lm_head.weight": weightsOf(untied)["lm_head.weight"]! }),
      /differs from the embedding.*tie_word_embeddings/],
    ["whole numbers for weights",
      llama(plain, {}, { ...weightsOf(plain), "model.norm.weight": { shape: [16], data: new Uint32Array(16) } }),
      /norm.weight holds whole numbers/],
    ["a config that is no JSON", { ...llama(plain), "config.json": "{" }, /config.json: is not JSON/],
    ["an empty folder", {}, /holds no model/],
    ["a pickle", { "config.json": llama(plain)["config.json"], "pytorch_model.bin": "x" },
      /pytorch_model.bin: is no zip archive, or was cut off: a file of torch.save/]
  ]
  for (const [what, files, message] of refused) {
    it.effect(`is refused with ${what}`, () =>
      inFolder((folder) =>
        Effect.gen(function*() {
          const adjusted = "model.safetensors" in files && what === "whole numbers for weights"
            ? {
              ...files,
              "model.safetensors": join(yield* Safetensors.encode({
                ...weightsOf(plain),
                "model.norm.weight": { shape: [16], data: new Uint32Array(16) }
              }))
            }
            : files
          yield* write(`${folder}/model`, adjusted)
          const error = yield* Effect.flip(importModel(`${folder}/model`, `${folder}/out`))
          expect(error).toBeInstanceOf(CheckpointError)
          expect(error.message).toMatch(message)
          expect(yield* (yield* FileSystem.FileSystem).readDirectory(folder)).toEqual(["model"])
        })
      ))
  }

  it.effect("that is not there, or whose index is wrong, is refused by name", () =>
    inFolder((folder) =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        expect(yield* Effect.flip(loadInitial(`${folder}/none`))).toMatchObject({ reason: "Missing",
          path: `${folder}/none` })
        const names = Object.keys(weightsOf(plain))
        const { "model.safetensors": whole, ...rest } = llama(plain)
        const map = Object.fromEntries(names.map((name) => [name, "a.safetensors"]))
        const indices: ReadonlyArray<readonly [unknown, string, RegExp]> = [
          [{ weight_map: { ...map, x: "../a.safetensors" } }, "Corrupt", /"x" is in "..\/a.safetensors"/],
          [{ weight_map: { ...map, x: 3 } }, "Corrupt", /"x" is in 3/],
          [{ weight_map: { ...map, x: "a.safetensors" } }, "Corrupt", /"x" is in a.safetensors, where it is not/],
          [{ weight_map: { ...map, x: "b.safetensors" } }, "Missing", /b.safetensors: there is no such file/],
          [{ weight_map: Object.fromEntries(Object.entries(map).slice(1)) }, "Corrupt",
            /does not say that tensor .* is in a/],
          [{}, "Corrupt", /no weight_map/]
        ]
        yield* write(`${folder}/m`, { ...rest, "a.safetensors": whole })
        for (const [index, reason, message] of indices) {
          yield* fs.writeFileString(`${folder}/m/model.safetensors.index.json`, JSON.stringify(index))
          const error = yield* Effect.flip(loadInitial(`${folder}/m`))
          expect(error.reason, error.message).toBe(reason)
          expect(error.message).toMatch(message)
        }
        yield* fs.writeFileString(`${folder}/m/model.safetensors.index.json`, JSON.stringify({ weight_map: map }))
        expect((yield* loadInitial(`${folder}/m`)).tensors).toEqual(weightsOf(plain))
      })
    ))

  it.effect("with a fresh pool computes what it did, with sinks off, and with its own on", () =>
    Effect.gen(function*() {
      const sinks = new Sink.SinkConfig({ pool: 64, active: 16, block: 16 })
      for (const c of [plain, untied]) {
        const fresh = yield* withSinks(c, weightsOf(c), sinks, 5)
        expect([fresh.config.general, fresh.config.pool]).toEqual([24, 64])
        const was = yield* logits(c, weightsOf(c), Sink.own)
        for (const mode of [Sink.off, Sink.own, Sink.all]) {
          expect(apart(was, yield* logits(fresh.config, fresh.tensors, mode))).toBeLessThan(1e-5 * largest(was))
        }
        // it is not that nothing could come of them
        const gate = fresh.tensors["model.layers.0.mlp.gate_proj.weight"]!.data
        expect(largest(gate.subarray(24 * 16) as Float32Array)).toBeGreaterThan(0.1)
        const other = yield* withSinks(c, weightsOf(c), sinks, 6)
        expect(other.tensors["model.layers.0.mlp.gate_proj.weight"]!.data).not.toEqual(gate)
      }
    }))

  it.effect("that was imported is a checkpoint, verified, from which training and export start", () =>
    inFolder((folder) =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        yield* write(`${folder}/from`, llama(plain))
        const sinks = new Sink.SinkConfig({ pool: 32, active: 16 })
        const report = yield* importModel(`${folder}/from`, `${folder}/to`, { sinks })
        expect(report).toMatchObject({ general: 24, pool: 32, active: 16, layers: 2, hiddenSize: 16, tokenizer: true })
        expect(report.notes.join()).toMatch(/down-projections start at 0/)
        const { config, step, tensors, tokenizer } = yield* loadInitial(`${folder}/to`)
        const wanted = yield* withSinks(plain, weightsOf(plain), sinks)
        expect(config.sinks).toEqual(sinks)
        expect(tensors["model.layers.1.mlp.down_proj.weight"]).toEqual(
          wanted.tensors["model.layers.1.mlp.down_proj.weight"]
        )
        expect([step, tokenizer]).toEqual([0, Tokenizer.bytes.toJSON()])
        expect(yield* loadFolder(`${folder}/to`)).toMatchObject({ step: 0, optimizer: {}, trainerState: null })
        // what has a pool gets no second one, and nothing is overwritten
        expect((yield* Effect.flip(importModel(`${folder}/to`, `${folder}/more`, { sinks }))).message).toMatch(
          /has a pool of 32/
        )
        expect((yield* Effect.flip(importModel(`${folder}/from`, `${folder}/to`))).message).toMatch(/already exists/)
        expect((yield* Effect.flip(importModel(`${folder}/from`, `${folder}/odd`, {
          sinks: new Sink.SinkConfig({ pool: 30, active: 16 })
        }))).message).toMatch(/sinks.pool 30 must be a multiple of sinks.block 16/)
        const file = `${folder}/to/model.safetensors`
        const bytes = yield* fs.readFile(file)
        bytes[bytes.length - 5]! ^= 1
        yield* fs.writeFile(file, bytes)
        expect(yield* Effect.flip(loadInitial(`${folder}/to`))).toMatchObject({ reason: "Corrupt", path: file })
      })
    ))

  it.effect("is also the only one of a comparison's folder; of several, one must be named", () =>
    inFolder((folder) =>
      Effect.gen(function*() {
        const save = (arm: string) =>
          Effect.provide(
            Effect.flatMap(Checkpoints, ({ save }) =>
              save({ step: 2, config: huggingFaceConfig(plain), model: weightsOf(plain), optimizer: {},
                trainerState: {}, tokenizer: undefined })),
            Checkpoints.layerFileSystem(`${folder}/seed-1/${arm}`)
          )
        yield* write(folder, { "run.json": "{}" })
        const nothing = yield* Effect.flip(loadInitial(folder))
        expect(nothing.message).toMatch(/holds no model/)
        yield* save("sinks")
        expect((yield* loadInitial(folder)).path).toBe(`${folder}/seed-1/sinks/step-00000002`)
        expect((yield* loadModel(folder)).path).toBe(`${folder}/seed-1/sinks/step-00000002`)
        yield* save("standard")
        const error = yield* Effect.flip(loadInitial(folder))
        expect(error.message).toMatch(
          /a run of 2 models: give the folder of one of them, .*\/seed-1\/sinks, .*\/seed-1\/standard/
        )
      })
    ))

  // -------------------------------------------------------------------------------------------------------------
  // SeqTD

  const golden = JSON.parse(readFileSync(new URL("../fixtures/seqtd-masks.json", import.meta.url), "utf8")) as {
    readonly cases: ReadonlyArray<{ readonly seqId: number; readonly sinks: number; readonly p: number }>
  }

  /** Our tensors under litgpt's names. */
  const litgpt = (c: ModelConfig, name: "attn.qkv" | "attn.attn", tensors = weightsOf(c)) =>
    litTensors(c, name, tensors)

  const seqtd = new ModelConfig({
    ...untied,
    intermediateSize: 128,
    maxPositionEmbeddings: 512,
    sinks: new Sink.SinkConfig({
      pool: 96,
      active: 29,
      block: 1,
      assignment: "reference",
      referenceIdBits: 32,
      maskProbability: 0.3
    })
  })

  it.effect("of SeqTD comes with its sinks and the reference hash, bit for bit", () =>
    inFolder((folder) =>
      Effect.gen(function*() {
        for (const name of ["attn.qkv", "attn.attn"] as const) {
          yield* write(`${folder}/${name}`, {
            "model_config.yaml": Object.entries(litConfig(seqtd, { p_gen: 0.25, p_mem: 0.3 }))
              .map(([key, value]) => `${key}: ${JSON.stringify(value)}\n`).join(""),
            "lit_model.safetensors": safetensors(litgpt(seqtd, name))
          })
          const { config, notes, tensors } = yield* loadInitial(`${folder}/${name}`, { idBits: 32 })
          const { initializerRange: _, ...wanted } = { ...seqtd }
          expect({ ...config }).toEqual(wanted)
          expect(tensors).toEqual(weightsOf(seqtd))
          expect(notes.join()).toMatch(/reference hash with p 0.3, ids multiplied at 32 bits/)
        }
        // and what was imported keeps the probability, not active / pool, which is another number
        yield* importModel(`${folder}/attn.qkv`, `${folder}/to`)
        expect((yield* loadInitial(`${folder}/to`)).config.sinks!.probability).toBe(0.3)
        const { pool } = seqtd
        const some = golden.cases.filter((one) => one.p === 0.3).map((one) => BigInt(one.seqId))
        expect(some.length).toBeGreaterThan(3)
        for (const id of [...some, 12345n]) {
          const mask = Sink.referenceMask(id, pool, 0.3, 64)
          const sinks = (yield* loadInitial(`${folder}/attn.qkv`)).config.sinks!
          expect([...Sink.unitsOf(sinks, id)]).toEqual([...mask.keys()].filter((j) => mask[j] === 1))
        }
      })
    ))

  it.effect("of SeqTD may be tied, without sinks, under a wrapper's names", () =>
    Effect.gen(function*() {
      const wrapped = Object.fromEntries(Object.entries(litgpt(plain, "attn.qkv")).map(([k, v]) => [`model.${k}`, v]))
      const { config, tensors } = fromLitgpt(litConfig(plain), wrapped)
      expect([config.tieWordEmbeddings, config.sinks]).toEqual([true, undefined])
      expect(tensors).toEqual(weightsOf(plain))
    }))

  it.effect("of SeqTD is refused where it computes something else", () =>
    Effect.sync(() => {
      const tensors = litgpt(plain, "attn.qkv")
      for (const [over, message] of [
        [{ rotary_percentage: 0.5 }, /rotary_percentage is 0.5/],
        [{ bias: undefined }, /bias is true/],
        [{ parallel_residual: true }, /parallel_residual is true/],
        [{ norm_class_name: "LayerNorm" }, /norm_class_name is "LayerNorm"/],
        [{ mlp_class_name: "GemmaMLP" }, /mlp_class_name is "GemmaMLP"/],
        [{ n_query_groups: 3 }, /must be whole numbers that fit together/],
        [{ head_size: 16 }, /attn.qkv.weight is \[64, 16\], 4 heads and 2 groups of 16 make 128 rows/],
        [{ p_gen: 0.5 }, /p_mem must be a number/],
        [{ p_gen: 0.5, p_mem: 2 }, /do not describe/]
      ] as const) {
        expect(() => fromLitgpt(litConfig(plain, over), tensors), message.source).toThrow(message)
      }
      expect(() =>
        fromLitgpt(litConfig(plain), { ...tensors,
          "transformer.h.0.mlp.gate.weight": tensors["transformer.ln_f.weight"]! })
      )
        .toThrow(/no place for tensor transformer.h.0.mlp.gate.weight/)
    }))

  // -------------------------------------------------------------------------------------------------------------
  // Damage

  it.effect("is loaded right or refused, however its files are damaged: 200 times",
    () =>
      inFolder((root) =>
        Effect.gen(function*() {
          const fs = yield* FileSystem.FileSystem
          const random = makeRandom(20251121)
          const sinks = new ModelConfig({ ...plain, intermediateSize: 24 + 32,
            sinks: new Sink.SinkConfig({ pool: 32, active: 16 }) })
          // three kinds of folder: a foreign one (nothing vouches for its bytes), a split one, a run
          yield* write(`${root}/whole/model`, llama(plain))
          const { "model.safetensors": _, ...rest } = llama(untied)
          const shards = Safetensors.shards(yield* Safetensors.partsOf(weightsOf(untied)), "model", 12_000)
          yield* write(`${root}/split/model`, {
            ...rest,
            ...Object.fromEntries(shards.map(([name, file]) => [name, join(file)]))
          })
          yield* Effect.provide(
            Effect.flatMap(Checkpoints, ({ save }) =>
              save({
                step: 3,
                config: huggingFaceConfig(sinks),
                model: weightsOf(sinks),
                optimizer: { m: { shape: [2], data: new Float32Array(2) } },
                trainerState: { step: 3 },
                tokenizer: Tokenizer.bytes.toJSON()
              })),
            Checkpoints.layerFileSystem(`${root}/run/model`, { maxShardBytes: 12_000 })
          )
          const kinds = ([["whole", plain], ["split", untied], ["run", sinks]] as const).map(([kind, config]) => ({
            kind,
            config,
            weights: weightsOf(config),
            decoded: modelConfigOf(huggingFaceConfig(config))
          }))
          const outcomes = { loaded: 0, refused: 0 }
          for (let i = 0; i < 200; i++) {
            const { decoded, kind, weights } = kinds[random.int(kinds.length)]!
            const copy = `${root}/copy`
            yield* fs.remove(copy, { recursive: true, force: true })
            yield* fs.copy(`${root}/${kind}/model`, copy)
            const folder = kind === "run" ? `${copy}/step-00000003` : copy
            const names = (yield* fs.readDirectory(folder)).sort()
            // all that is small is hit as often as all that is large
            const name = names[random.int(names.length)]!
            const how = yield* damage(fs, folder, name, names, random)
            const what = `${i}: ${kind}, ${name}, ${how}`
            const read: Effect.Effect<unknown, CheckpointError, Disk> = i % 2 === 0 || kind !== "run"
              ? loadInitial(copy)
              : loadFolder(copy)
            const exit = yield* Effect.exit(
              Effect.timeoutFail(read, { duration: "5 seconds", onTimeout: () => "hang" as const })
            )
            if (Exit.isFailure(exit)) {
              const failure = Cause.failureOption(exit.cause)
              expect(failure._tag === "Some" && failure.value instanceof CheckpointError,
                `${what}: ${Cause.pretty(exit.cause)}`)
                .toBe(true)
              outcomes.refused++
            } else {
              outcomes.loaded++
              const value = exit.value as { readonly config: ModelConfig;
                readonly tensors?: Record<string, HostTensor> }
              if (value.tensors === undefined) continue
              expect(Object.fromEntries(Object.entries(value.tensors).map(([key, { shape }]) => [key, shape])), what)
                .toEqual(shapesOf(value.config))
              for (const [key, { data, shape }] of Object.entries(weights)) {
                const got = value.tensors[key]!
                // where checksums vouch for the bytes, what loads is what was saved
                if (kind === "run") {expect(Buffer.compare(bytesOf(got), bytesOf({ data, shape })), `${what}: ${key}`)
                    .toBe(0)}
              }
              if (kind === "run") expect(value.config, what).toEqual(yield* decoded)
            }
          }
          expect(outcomes.refused, JSON.stringify(outcomes)).toBeGreaterThan(100)
          expect(outcomes.loaded, JSON.stringify(outcomes)).toBeGreaterThan(5)
        })
      ), 60_000)
})

const damage = Effect.fnUntraced(function*(
  fs: FileSystem.FileSystem,
  folder: string,
  name: string,
  names: ReadonlyArray<string>,
  random: ReturnType<typeof makeRandom>
) {
  const file = `${folder}/${name}`
  const bytes = new Uint8Array(yield* fs.readFile(file))
  const text = new TextDecoder().decode(bytes)
  const isJson = name.endsWith(".json")
  const how =
    ["truncate", "flip", "flip in the header", "swap", "delete", "garble", "shape", "dtype", "folder"][random.int(9)]
  switch (how) {
    case "truncate":
      yield* fs.writeFile(file, bytes.subarray(0, random.int(bytes.length)))
      break
    case "flip":
    case "flip in the header": {
      const end = how === "flip" ? bytes.length : Math.min(bytes.length, 200)
      for (let n = 1 + random.int(4); n > 0; n--) bytes[random.int(end)]! ^= 1 << random.int(8)
      yield* fs.writeFile(file, bytes)
      break
    }
    case "swap": {
      const other = `${folder}/${names[random.int(names.length)]}`
      yield* fs.writeFile(file, yield* fs.readFile(other))
      yield* fs.writeFile(other, bytes)
      break
    }
    case "delete":
      yield* fs.remove(file)
      break
    case "folder":
      yield* fs.remove(file)
      yield* fs.makeDirectory(file)
      break
    case "garble":
      if (!isJson) return yield* Effect.as(fs.writeFileString(file, "{}".repeat(random.int(99))), how)
      yield* fs.writeFileString(file, garbled(text, random))
      break
    case "shape":
    case "dtype": {
      // a header that is still one, and says something else
      const other = isJson
        ? garbled(text, random)
        : how === "shape"
        ? text.replace(/\[(\d+)/g, (_, n: string) => `[${Number(n) ^ 1}`)
        : ""
      if (isJson) yield* fs.writeFileString(file, other)
      else {
        const length = Number(new DataView(bytes.buffer).getBigUint64(0, true))
        const header = new TextDecoder().decode(bytes.subarray(8, 8 + length))
        const said = how === "shape"
          ? header.replace(/"shape":\[(\d)/, (_, digit: string) => `"shape":[${9 - Number(digit)}`)
          : header.replace("\"F32\"", ["\"U32\"", "\"F64\"", "\"I32\"", "\"F16\""][random.int(4)]!)
        bytes.set(new TextEncoder().encode(said).subarray(0, length), 8)
        yield* fs.writeFile(file, bytes)
      }
    }
  }
  return how
})

/** JSON with one value replaced, one key renamed, or one character changed. */
const garbled = (text: string, random: ReturnType<typeof makeRandom>): string => {
  const values = ["null", "-1", "1e308", "9007199254740991", "\"x\"", "[]", "{}", "true", "0.5", "0", "[".repeat(20000)]
  const spots = [...text.matchAll(/:\s*([^\s,{}[\]]+)/g)]
  if (random.int(3) === 0 || spots.length === 0) {
    const at = random.int(Math.max(1, text.length))
    return text.slice(0, at) + String.fromCharCode(32 + random.int(90)) + text.slice(at + 1)
  }
  const spot = spots[random.int(spots.length)]!
  const at = spot.index + spot[0].length - spot[1]!.length
  return text.slice(0, at) + values[random.int(values.length)] + text.slice(at + spot[1]!.length)
}
