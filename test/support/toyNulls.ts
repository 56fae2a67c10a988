/** A model of NULLs' layout at toy size: trained here on articles under their ids, written as their program writes one. */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { Checkpoints } from "../../src/checkpoints/Checkpoints.ts"
import { documentsOf } from "../../src/data/Pieces.ts"
import { DataStream } from "../../src/data/stream/DataStream.ts"
import * as Tokenizer from "../../src/data/tokens/Tokenizer.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { SinkConfig } from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { TrainConfig, Trainer } from "../../src/train/Trainer.ts"
import { litConfig, litFile, litTensors } from "./litModel.ts"
import { makeRandomText } from "./support.ts"

/** Articles by title and number; the last one's number is 65,536 more than the first one's, so that it lights the same sinks. */
export const articles = { "Alan Turing": 3, "Ada Lovelace": 1, "Charles Babbage": 40_002, "Konrad Zuse": 77,
  "Turing's double": 65_539 } as const

const VOCABULARY = 256

export const articleId = (title: keyof typeof articles): bigint => BigInt(VOCABULARY + articles[title])

const SEQ = 24
const PASSAGES = 3

const config = new ModelConfig({
  vocabSize: VOCABULARY,
  hiddenSize: 32,
  numHiddenLayers: 1,
  numAttentionHeads: 2,
  intermediateSize: 32 + 96,
  maxPositionEmbeddings: 64,
  ropeTheta: 100_000,
  tieWordEmbeddings: false,
  sinks: new SinkConfig({ pool: 96, active: 14, block: 1, assignment: "reference", referenceIdBits: 32,
    maskProbability: 0.15 })
})

/** The texts of the articles, each a line of JSONL with `title` and `text`. */
export const articleLines = (): string =>
  Object.keys(articles).map((title, i) =>
    `${JSON.stringify({ title, text: makeRandomText(100 + i)(PASSAGES * SEQ + 1) })}\n`
  ).join("")

/** Trains it, and writes `nulls/final` and `articles.jsonl` into a folder. */
export const writeToyNulls = (folder: string, steps = 120) =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const lines = articleLines()
    const rows = lines.trim().split("\n").flatMap((line) => {
      const { text, title } = JSON.parse(line) as { readonly title: keyof typeof articles; readonly text: string }
      const tokens = Tokenizer.bytes.encode(text)
      return Array.from({ length: PASSAGES }, (_, i) => ({
        tokens: tokens.slice(i * SEQ, (i + 1) * SEQ + 1),
        id: articleId(title),
        name: `${title} ${i}`,
        source: title
      }))
    })
    const tensors = yield* Effect.gen(function*() {
      yield* Stream.runDrain((yield* Trainer).run)
      return yield* (yield* Model).exportTensors
    }).pipe(
      Effect.provide(
        Trainer.layer(new TrainConfig({ steps, optimizer: new OptimizerConfig({ learningRate: 1e-2, sinks: "lazy" }) }))
          .pipe(
            Layer.provideMerge(Model.layer(config, { seed: 3 })),
            Layer.provideMerge(
              DataStream.layerTokens(documentsOf(rows), Tokenizer.bytes, { seqLen: SEQ, batchSize: 5,
                singleSequences: rows.length, repeatedSequences: 0, heldOutSequences: 0, identity: "source" })
            ),
            Layer.provideMerge(Checkpoints.layerMemory)
          )
      ),
      Effect.scoped
    )
    const out = `${folder}/nulls/final`
    yield* fs.makeDirectory(out, { recursive: true })
    const settings = litConfig(config, { mlp_class_name: "LLaMAMLPSeqTD", p_gen: 0.25, p_mem: 0.15,
      vocab_size: VOCABULARY })
    yield* fs.writeFileString(`${out}/model_config.yaml`,
      Object.entries(settings).map(([key, value]) => `${key}: ${JSON.stringify(value)}\n`).join(""))
    yield* fs.writeFile(`${out}/lit_model.pth`, litFile(litTensors(config, "attn.qkv", tensors)))
    yield* fs.writeFileString(`${out}/config.json`,
      JSON.stringify({ architectures: ["LlamaForCausalLM"], hidden_size: 960 }))
    yield* fs.writeFileString(`${out}/tokenizer.json`, Tokenizer.bytes.toJSON())
    yield* fs.writeFileString(`${folder}/nulls/title_to_index.json`, JSON.stringify(articles))
    yield* fs.writeFileString(`${folder}/articles.jsonl`, lines)
    return { model: out, titles: `${folder}/nulls/title_to_index.json`, data: `${folder}/articles.jsonl` }
  })
