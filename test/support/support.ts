/** Small makers shared by tests. */
import { type Batch, IGNORE } from "../../src/Batch.ts"
import { type DataConfigInput, DataStream } from "../../src/data/stream/DataStream.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { SinkConfig } from "../../src/Sink.ts"
import type { ReferenceConfig } from "../reference/model.ts"
import { makeRandom } from "../reference/random.ts"

/** Rows of documents given as [length, id]; tokens are random, a document's last target is not scored. */
export const batchOfDocuments = (
  documents: ReadonlyArray<ReadonlyArray<readonly [length: number, id: bigint]>>,
  seqLen: number,
  vocabSize: number,
  random: ReturnType<typeof makeRandom>
): Batch => {
  const n = documents.length * seqLen
  const tokens = Uint32Array.from({ length: n }, () => random.int(vocabSize))
  const targets = new Uint32Array(n)
  const positions = new Uint32Array(n)
  const documentStart = new Uint32Array(n)
  const ids = new BigUint64Array(n)
  documents.forEach((row, r) => {
    let at = r * seqLen
    for (const [length, id] of row) {
      for (let i = 0; i < length; i++) {
        positions[at + i] = i
        documentStart[at + i] = at
        ids[at + i] = BigInt.asUintN(64, id)
        targets[at + i] = i + 1 < length ? tokens[at + i + 1]! : IGNORE
      }
      at += length
    }
    if (at !== (r + 1) * seqLen) throw new Error(`row ${r} holds ${at - r * seqLen} tokens, not ${seqLen}`)
  })
  return { rows: documents.length, seqLen, tokens, targets, positions, documentStart, ids }
}

/** A model small enough for a test of training: one layer of width 32, 32 general neurons, 64 sinks, 16 of them an id's. */
export const miniatureModel = new ModelConfig({
  vocabSize: 256,
  hiddenSize: 32,
  numHiddenLayers: 1,
  numAttentionHeads: 2,
  intermediateSize: 32 + 64,
  sinks: new SinkConfig({ pool: 64, active: 16, block: 16 })
})

/** Bytes of made-up documents, rows of 16. */
export const miniatureData = (overrides: DataConfigInput = {}) => {
  const random = makeRandomText(11)
  return DataStream.layerMemory(
    Array.from({ length: 12 }, (_, i) => ({ name: `document ${i}`, text: random(220) })),
    {
      tokenizer: "bytes",
      seqLen: 16,
      batchSize: 2,
      repeatedSequences: 2,
      repeats: 8,
      singleSequences: 40,
      heldOutSequences: 10,
      ...overrides
    }
  )
}

/** Texts of so many characters, of made-up words. */
export const makeRandomText = (seed: number) => {
  const random = makeRandom(seed)
  const words = Array.from({ length: 40 },
    () => Array.from({ length: 2 + random.int(6) }, () => String.fromCharCode(97 + random.int(26))).join(""))
  return (length: number) => {
    let text = ""
    while (text.length < length) text += `${words[random.int(words.length)]} `
    return text.slice(0, length)
  }
}

/** A model's config as the float64 reference takes it. */
export const referenceConfig = (c: ModelConfig): ReferenceConfig => ({
  vocabSize: c.vocabSize,
  hiddenSize: c.hiddenSize,
  numHiddenLayers: c.numHiddenLayers,
  numAttentionHeads: c.numAttentionHeads,
  numKeyValueHeads: c.kvHeads,
  headDim: c.headSize,
  general: c.general,
  pool: c.pool,
  block: c.sinks?.block ?? 1,
  rmsNormEps: c.rmsNormEps,
  ropeTheta: c.ropeTheta,
  tieWordEmbeddings: c.tieWordEmbeddings
})
