import * as NodeContext from "@effect/platform-node/NodeContext"
import * as FileSystem from "@effect/platform/FileSystem"
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { expect } from "vitest"
import { type Batch, IGNORE } from "../../src/Batch.ts"
import { saveModel } from "../../src/checkpoints/Checkpoints.ts"
import { exportModel, type KeptSinks, prune } from "../../src/checkpoints/Export.ts"
import { loadInitial } from "../../src/checkpoints/Import.ts"
import type { HostTensor } from "../../src/checkpoints/Safetensors.ts"
import { erase } from "../../src/checkpoints/Units.ts"
import { sourceHash } from "../../src/data/identity/Identity.ts"
import { encodeNames } from "../../src/data/identity/Names.ts"
import * as Tokenizer from "../../src/data/tokens/Tokenizer.ts"
import { huggingFaceConfig, toHuggingFace } from "../../src/model/HuggingFace.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { initialValue, listParameters, parametersOf } from "../../src/model/Parameters.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Sink from "../../src/Sink.ts"
import { makeRandom } from "../reference/random.ts"

/** Grouped queries, heads of their own size, a width that neither 32 nor the pool's block divides, an untied head. */
const sinksConfig = new ModelConfig({
  vocabSize: 258,
  hiddenSize: 24,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  headDim: 8,
  intermediateSize: 20 + 64,
  tieWordEmbeddings: false,
  initializerRange: 0.3,
  sinks: new Sink.SinkConfig({ pool: 64, active: 16, block: 8 })
})

const weightsOf = (c: ModelConfig): Record<string, HostTensor> =>
  Object.fromEntries(
    listParameters(parametersOf(c)).flatMap((p) => toHuggingFace(c, p.name, initialValue(c, p, 7)))
  )

const batch = (vocabSize: number, id = 1n): Batch => {
  const random = makeRandom(3)
  const n = 16
  return {
    rows: 1,
    seqLen: n,
    tokens: Uint32Array.from({ length: n }, () => random.int(vocabSize)),
    targets: new Uint32Array(n).fill(IGNORE),
    positions: Uint32Array.from({ length: n }, (_, t) => t),
    documentStart: new Uint32Array(n),
    ids: new BigUint64Array(n).fill(id)
  }
}

const logits = (c: ModelConfig, tensors: Readonly<Record<string, HostTensor>>, mode: Sink.SinkMode, id = 1n) =>
  Effect.scoped(Effect.gen(function*() {
    const model = yield* Model.make(c)
    yield* model.importTensors(tensors)
    return yield* model.logits(batch(c.vocabSize, id), mode)
  }))

const largestDifference = (a: Float32Array, b: Float32Array) =>
  a.length !== b.length ? Infinity : a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i]!)), 0)

/** A saved model, and where to export it to. */
const inFolder = <A, E, R>(
  body: (folder: string, out: string) => Effect.Effect<A, E, R>,
  c = sinksConfig,
  tokenizer: string | null = Tokenizer.bytes.toJSON(),
  weights = weightsOf(c),
  names?: Uint8Array
) =>
  Effect.scoped(Effect.gen(function*() {
    const root = yield* (yield* FileSystem.FileSystem).makeTempDirectoryScoped()
    yield* saveModel(`${root}/model`, { config: huggingFaceConfig(c), model: weights, tokenizer: tokenizer ?? undefined,
      names })
    return yield* body(`${root}/model`, `${root}/out`)
  }))

const materialized = (tensors: ReturnType<typeof prune>["tensors"]) =>
  Object.fromEntries(Object.entries(tensors).map(([name, { data, shape }]) => [name, { shape, data: data() }]))

const modes: ReadonlyArray<readonly [title: string, sinks: KeptSinks, mode: Sink.SinkMode, width: number]> = [
  ["sinks off", { mode: "off" }, Sink.off, 20],
  ["one id's sinks", { mode: "own", ids: [1n] }, Sink.own, 36],
  ["two ids' sinks", { mode: "own", ids: [1n, 2n] }, { mode: "only", ids: [1n, 2n] }, NaN],
  ["all sinks", { mode: "all" }, Sink.all, 84]
]

layer(Layer.mergeAll(NodeDevice.layer(), NodeContext.layer), { timeout: 60_000 })("an exported model", (it) => {
  for (const [title, sinks, mode, width] of modes) {
    it.effect(`with ${title} computes what the model computes so, without any sink`, () =>
      Effect.gen(function*() {
        const weights = weightsOf(sinksConfig)
        const pruned = prune(sinksConfig, weights, sinks)
        const units = new Set(
          sinks.mode === "own" ? sinks.ids.flatMap((id) => [...Sink.unitsOf(sinksConfig.sinks!, id)]) : []
        )
        expect(pruned.config.intermediateSize).toBe(Number.isNaN(width) ? 20 + 8 * units.size : width)
        expect(pruned.config.sinks).toBeUndefined()
        const ours = yield* logits(sinksConfig, weights, mode)
        const theirs = yield* logits(pruned.config, materialized(pruned.tensors), Sink.own)
        expect(Math.max(...ours)).toBeGreaterThan(0.1)
        // sums of the down-projection group their terms by kernel, so the last bits differ
        expect(largestDifference(ours, theirs)).toBeLessThan(1e-5 * Math.max(...ours.map(Math.abs)))
      }))
  }

  it.effect("keeps sinks by name, and those of several ids at once only when asked for, with what is known of it", () =>
    Effect.scoped(Effect.gen(function*() {
      const root = yield* (yield* FileSystem.FileSystem).makeTempDirectoryScoped()
      const model = `${root}/model`
      const ids = ["Genesis", "Exodus"].map((name) => ({ id: sourceHash(name), name, documents: 1, tokens: 9 }))
      yield* saveModel(model, {
        config: huggingFaceConfig(sinksConfig),
        model: weightsOf(sinksConfig),
        tokenizer: Tokenizer.bytes.toJSON(),
        names: encodeNames({ identity: "source", ids })
      })
      const own = (...ids: ReadonlyArray<bigint | string>) =>
        ({ format: "safetensors", sinks: { mode: "own", ids } }) as const
      const one = yield* exportModel(model, `${root}/one`, own("Genesis", `${ids[0]!.id}`))
      expect(one).toMatchObject({ kept: [{ id: `${ids[0]!.id}`, name: "Genesis" }], notes: [] })
      const config = JSON.parse(yield* (yield* FileSystem.FileSystem).readFileString(`${root}/one/config.json`))
      expect(config.memsinks_kept).toEqual(one.kept)
      const lit = new Set(ids.flatMap(({ id }) => [...Sink.unitsOf(sinksConfig.sinks!, id)])).size *
        sinksConfig.sinks!.block
      expect(lit).toBeGreaterThan(sinksConfig.sinks!.active)
      const both = yield* Effect.flip(exportModel(model, `${root}/both`, own("Genesis", "Exodus")))
      expect(both.message).toContain(`2 ids together light ${lit} of ${sinksConfig.pool} sinks at once`)
      const union = { format: "safetensors", sinks: { mode: "own", ids: ["Genesis", "Exodus"], union: true } } as const
      expect(yield* exportModel(model, `${root}/both`, union)).toMatchObject({ sinks: lit })
      for (const [asked, said] of [["exodus", "Did you mean \"Exodus\"?"], [7n,
        "not trained with the id 7"]] as const)
      {
        expect((yield* Effect.flip(exportModel(model, `${root}/none`, own(asked)))).message).toContain(said)
      }
      // names travel with an import, too
      expect((yield* loadInitial(model)).names?.count).toBe(2)
    })))

  it.effect("computes the same when it is read back from its folder", () =>
    inFolder((folder, out) =>
      Effect.gen(function*() {
        const report = yield* exportModel(folder, out, { format: "safetensors" })
        expect(report).toMatchObject({ path: out, intermediateSize: 20, general: 20, sinks: 0, padding: 0, notes: [] })
        const back = yield* loadInitial(out)
        expect(back.config.sinks).toBeUndefined()
        expect(back.tokenizer).toBe(Tokenizer.bytes.toJSON())
        const ours = yield* logits(sinksConfig, weightsOf(sinksConfig), Sink.off)
        expect(largestDifference(ours, yield* logits(back.config, back.tensors, Sink.own)))
          .toBeLessThan(1e-5 * Math.max(...ours.map(Math.abs)))
      })
    ))

  it.effect("holds the rows and columns of the neurons that are on, bit for bit", () =>
    Effect.sync(() => {
      const weights = weightsOf(sinksConfig)
      const { tensors } = prune(sinksConfig, weights, { mode: "own", ids: [5n] }, 32)
      const kept = [...Array.from({ length: 20 }, (_, i) => i),
        ...[...Sink.unitsOf(sinksConfig.sinks!, 5n)].flatMap((unit) =>
          Array.from({ length: 8 }, (_, i) => 20 + 8 * unit + i)
        )]
      const at = "model.layers.1.mlp"
      const [up, down] = [tensors[`${at}.up_proj.weight`], tensors[`${at}.down_proj.weight`]]
      expect([up!.shape, down!.shape]).toEqual([[64, 24], [24, 64]])
      kept.forEach((neuron, i) => {
        expect(up!.data().slice(i * 24, i * 24 + 24))
          .toEqual(weights[`${at}.up_proj.weight`]!.data.slice(neuron * 24, neuron * 24 + 24))
        expect(down!.data()[3 * 64 + i]!).toBe(weights[`${at}.down_proj.weight`]!.data[3 * 84 + neuron])
      })
      expect([...up!.data().slice(kept.length * 24)].every((x) => x === 0)).toBe(true)
      expect(tensors["lm_head.weight"]!.data()).toBe(weights["lm_head.weight"]!.data)
    }))

  it.effect("is a folder that loaders of Hugging Face's know, with no word of sinks", () =>
    inFolder((folder, out) =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        yield* exportModel(folder, out, { format: "safetensors", dtype: "f16" })
        expect((yield* fs.readDirectory(out)).sort()).toEqual([
          "config.json",
          "generation_config.json",
          "model.safetensors",
          "special_tokens_map.json",
          "tokenizer.json",
          "tokenizer_config.json"
        ])
        const json = (file: string) =>
          Effect.map(fs.readFileString(`${out}/${file}`), (text) => JSON.parse(text) as Record<string, unknown>)
        const config = yield* json("config.json")
        expect(config).toMatchObject({
          architectures: ["LlamaForCausalLM"],
          intermediate_size: 20,
          head_dim: 8,
          num_key_value_heads: 2,
          tie_word_embeddings: false,
          torch_dtype: "float16",
          bos_token_id: 256,
          eos_token_id: 256
        })
        expect(config).not.toHaveProperty("memsinks")
        expect(yield* json("generation_config.json")).toMatchObject({ bos_token_id: 256, eos_token_id: 256 })
        expect(yield* json("tokenizer_config.json")).toMatchObject({
          tokenizer_class: "PreTrainedTokenizerFast",
          eos_token: "<|endoftext|>",
          model_max_length: 2048
        })
        // halves on the disk, read back as the nearest ones
        const bytes = (yield* fs.stat(`${out}/model.safetensors`)).size
        const { config: c, tensors } = yield* loadInitial(out)
        expect(Number(bytes)).toBeLessThan(2.2 * c.numParameters + 5000)
        const [half, full] = [tensors["lm_head.weight"]!.data, weightsOf(sinksConfig)["lm_head.weight"]!.data]
        expect(largestDifference(half as Float32Array, full as Float32Array)).toBeLessThan(2 ** -11)
        expect(half).not.toEqual(full)
      }), sinksConfig, withEnd))

  it.effect("is split above a size, with an index, and read back from its parts", () =>
    inFolder((folder, out) =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        yield* exportModel(folder, out, { format: "safetensors", maxShardBytes: 20_000 })
        const names = (yield* fs.readDirectory(out)).filter((name) => name.includes("safetensors"))
        expect(names).toContain("model.safetensors.index.json")
        expect(names).toContain(`model-00001-of-0000${names.length - 1}.safetensors`)
        expect((yield* loadInitial(out)).tensors["lm_head.weight"]).toEqual(weightsOf(sinksConfig)["lm_head.weight"])
      })
    ))

  it.effect("for llama.cpp is one file; for q8_0 it is filled up to a multiple of 32, and says so", () =>
    inFolder((folder, out) =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        const report = yield* exportModel(folder, `${out}.gguf`, { format: "gguf", dtype: "q8_0" })
        expect(report).toMatchObject({ intermediateSize: 32, padding: 12,
          bytes: Number((yield* fs.stat(`${out}.gguf`)).size) })
        expect(report.notes.join("\n")).toMatch(/12 neurons of zeros.*multiple of 32/)
        expect(report.notes.join("\n")).toMatch(/rows that are no multiple of 32: they are f16/)
        expect(new TextDecoder().decode((yield* fs.readFile(`${out}.gguf`)).subarray(0, 4))).toBe("GGUF")
        expect((yield* exportModel(folder, `${out}2.gguf`, { format: "gguf" })).padding).toBe(0)
      })
    ))

  const refused = (
    title: string,
    options: Parameters<typeof exportModel>[2],
    message: RegExp,
    tokenizer: string | null = Tokenizer.bytes.toJSON(),
    weights = weightsOf(sinksConfig)
  ) =>
    it.effect(`is refused ${title}, and leaves nothing behind`, () =>
      inFolder((folder, out) =>
        Effect.gen(function*() {
          const fs = yield* FileSystem.FileSystem
          const error = yield* Effect.flip(exportModel(folder, out, options))
          expect(error._tag).toBe("CheckpointError")
          expect(error.message).toMatch(message)
          expect(yield* fs.readDirectory(`${folder}/..`)).toEqual(["model"])
        }), sinksConfig, tokenizer, weights))

  const broken = (value: number) => {
    const weights = weightsOf(sinksConfig)
    weights["model.layers.1.mlp.up_proj.weight"]!.data[5] = value
    return weights
  }
  refused("as safetensors in q8_0", { format: "safetensors", dtype: "q8_0" }, /no q8_0/)
  refused("for no ids", { format: "gguf", sinks: { mode: "own", ids: [] } }, /--ids 1,2/)
  refused("as GGUF without a tokenizer", { format: "gguf" }, /no tokenizer.json/, null)
  refused("as GGUF with a tokenizer that llama.cpp does not have", { format: "gguf" },
    /WordPiece.*--format safetensors/, JSON.stringify({ model: { type: "WordPiece", vocab: {} } }))
  refused("in f16 with weights that are too large", { format: "gguf", dtype: "f16" },
    /up_proj.weight holds 70000, which f16 does not: choose --dtype f32/, undefined, broken(70000))
  refused("with weights that are no numbers", { format: "safetensors" }, /holds NaN.*diverged/, undefined, broken(NaN))

  it.effect("with all sinks takes none along that only denied ids light, unless it is told to", () => {
    const units = (id: bigint) => [...Sink.unitsOf(sinksConfig.sinks!, id)]
    const alone = units(1n).filter((unit) => !units(2n).includes(unit))
    const of = (excluded: ReadonlyArray<number>, weights = weightsOf(sinksConfig)) =>
      inFolder(
        (folder, out) =>
          Effect.gen(function*() {
            const ask = (sinks: object) =>
              Effect.merge(
                Effect.map(
                  Effect.mapError(exportModel(folder, out, { format: "safetensors", sinks: { mode: "all", ...sinks } }),
                    ({ message }) => message),
                  ({ notes }) => notes.join()
                )
              )
            return [yield* ask({}), yield* ask({ withDenied: true })] as const
          }),
        new ModelConfig({ ...sinksConfig,
          sinks: new Sink.SinkConfig({ ...sinksConfig.sinks!, denied: ["1"], excluded }) }),
        null,
        weights,
        encodeNames({ identity: "row", ids: [1n, 2n].map((id) => ({ id, name: `${id}`, documents: 1, tokens: 1 })) })
      )
    return Effect.gen(function*() {
      expect(alone.length).toBeGreaterThan(0)
      const [refused, told] = yield* of([])
      expect(refused).toContain(`would take along ${alone.length} block`)
      expect(told).toContain("of sinks that only denied sources light are in it")
      // what is off for all, or zero, is not taken along
      for (const [off] of [yield* of(alone), yield* of([], { ...erase(sinksConfig, weightsOf(sinksConfig), alone) })]) {
        expect(off).not.toContain("only denied")
      }
    })
  })

  it.effect("never takes the place of what is there", () =>
    inFolder((folder, out) =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        yield* fs.makeDirectory(out)
        yield* exportModel(folder, out, { format: "safetensors" })
        const error = yield* Effect.flip(exportModel(folder, out, { format: "safetensors" }))
        expect(error).toMatchObject({ reason: "Write", path: out })
        expect(error.message).toMatch(/already exists/)
        yield* fs.writeFileString(`${out}.gguf`, "mine")
        expect((yield* Effect.flip(exportModel(folder, `${out}.gguf`, { format: "gguf" }))).message).toMatch(
          /already exists/
        )
        expect(yield* fs.readFileString(`${out}.gguf`)).toBe("mine")
      })
    ))

  it.effect("that the disk has no room for leaves nothing behind, and says so", () =>
    inFolder((folder, out) =>
      Effect.gen(function*() {
        const fs = yield* FileSystem.FileSystem
        const full: FileSystem.FileSystem = {
          ...fs,
          open: (path, options) =>
            Effect.map(fs.open(path, options), (file) =>
              new Proxy(file, {
                get: (target, key) =>
                  key === "writeAll" && path.includes("safetensors")
                    ? (bytes: Uint8Array) => Effect.zipRight(target.writeAll(bytes.subarray(0, 9)), noSpace)
                    : Reflect.get(target, key, target) as unknown
              }))
        }
        const error = yield* Effect.flip(
          Effect.provideService(exportModel(folder, out, { format: "safetensors" }), FileSystem.FileSystem, full)
        )
        expect(error.message).toMatch(/ENOSPC/)
        expect(yield* fs.readDirectory(`${folder}/..`)).toEqual(["model"])
      })
    ))
})

const noSpace = Effect.fail({ _tag: "SystemError", reason: "Unknown", description: "ENOSPC", message: "ENOSPC" })

const withEnd = JSON.stringify({
  ...JSON.parse(Tokenizer.bytes.toJSON()) as object,
  added_tokens: [{ id: 256, content: "<|endoftext|>", special: true, normalized: false }]
})
