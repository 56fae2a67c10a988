/**
 * Exported models in llama.cpp, which nobody here wrote: `npm run test:llama`. Trains a small model, exports it as GGUF,
 * loads that with node-llama-cpp and compares tokens, log-probabilities and greedy continuations with ours. The last line
 * says "N passed, N failed"; the exit status is 0 when none failed.
 *
 * node-llama-cpp is installed into the user's cache folder when it is not there: 85 MB, for this platform's CPU alone.
 */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { execFileSync } from "node:child_process"
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { homedir, tmpdir } from "node:os"
import { join } from "node:path"
import process from "node:process"
import { pathToFileURL } from "node:url"
import { type Batch, IGNORE } from "../../src/Batch.ts"
import { Checkpoints, saveModel } from "../../src/checkpoints/Checkpoints.ts"
import { exportModel, type ExportOptions } from "../../src/checkpoints/Export.ts"
import { loadInitial } from "../../src/checkpoints/Import.ts"
import * as Corpus from "../../src/data/Corpus.ts"
import { DataStream } from "../../src/data/stream/DataStream.ts"
import * as Tokenizer from "../../src/data/tokens/Tokenizer.ts"
import { Device } from "../../src/gpu/Device.ts"
import * as Generate from "../../src/model/Generate.ts"
import { huggingFaceConfig } from "../../src/model/HuggingFace.ts"
import { Model, type ModelService } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Sink from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { TrainConfig, Trainer } from "../../src/train/Trainer.ts"

// ---------------------------------------------------------------------------------------------------------------
// llama.cpp

const VERSION = "3.22.1"

/** The part of node-llama-cpp that is used here. */
interface LlamaModel {
  readonly tokenize: (text: string, specialTokens: boolean) => ReadonlyArray<number>
  readonly detokenize: (tokens: ReadonlyArray<number>) => string
  readonly createContext: (options: object) => Promise<{ readonly getSequence: () => Sequence }>
  readonly dispose: () => Promise<void>
}
interface Sequence {
  readonly controlledEvaluate: (
    input: ReadonlyArray<unknown>
  ) => Promise<ReadonlyArray<{ readonly next: { readonly logits: ReadonlyMap<number, number> } }>>
  readonly evaluate: (tokens: ReadonlyArray<number>, options: object) => AsyncIterable<number>
  readonly clearHistory: () => Promise<void>
}

const platforms: Readonly<Record<string, string>> = {
  "linux-x64": "linux-x64",
  "linux-arm64": "linux-arm64",
  "darwin-arm64": "mac-arm64-metal",
  "darwin-x64": "mac-x64",
  "win32-x64": "win-x64"
}

const installed = (): string => {
  const platform = platforms[`${process.platform}-${process.arch}`]
  if (platform === undefined) throw new Error(`node-llama-cpp is not prebuilt for ${process.platform}-${process.arch}`)
  const folder = join(process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "memsinks", "llama", VERSION)
  const entry = join(folder, "node_modules", "node-llama-cpp", "dist", "index.js")
  const binary = `@node-llama-cpp/${platform}`
  if (existsSync(entry) && existsSync(join(folder, "node_modules", binary))) return entry
  console.log(`installing node-llama-cpp ${VERSION} into ${folder}`)
  mkdirSync(folder, { recursive: true })
  const dependencies = { "node-llama-cpp": VERSION, [binary]: VERSION }
  writeFileSync(join(folder, "package.json"), JSON.stringify({ private: true, dependencies }))
  const args = ["install", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
  execFileSync(process.platform === "win32" ? "npm.cmd" : "npm", args, { cwd: folder, stdio: "inherit" })
  return entry
}

const openLlama = async () => {
  const library = await import(pathToFileURL(installed()).href) as {
    readonly getLlama: (options: object) => Promise<{
      readonly loadModel: (options: object) => Promise<LlamaModel>
      readonly dispose: () => Promise<void>
    }>
  }
  // one thread: its threads wait for each other by spinning, which is slow where the cores have other work
  const options = { gpu: false, maxThreads: 1, build: "never", skipDownload: true, progressLogs: false,
    logLevel: "error" }
  return await library.getLlama(options)
}

// ---------------------------------------------------------------------------------------------------------------
// Checks

let passed = 0
let failed = 0

const check = (name: string, ok: boolean, detail: string): void => {
  if (ok) passed++
  else failed++
  console.log(`${ok ? "ok  " : "FAIL"}  ${name}: ${detail}`)
}

/** A whole case that breaks off is a failure. */
const attempt = async (name: string, body: () => Promise<void>): Promise<void> => {
  try {
    await body()
  } catch (error) {
    check(name, false, error instanceof Error ? `${error.message}\n${error.stack}` : String(error))
  }
}

const logSoftmax = (logits: ArrayLike<number>): Float64Array => {
  let top = -Infinity
  for (let i = 0; i < logits.length; i++) top = Math.max(top, logits[i]!)
  let sum = 0
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i]! - top)
  return Float64Array.from(logits, (x) => x - top - Math.log(sum))
}

/** Largest difference of log-probabilities, and mean Kullback-Leibler divergence of theirs from ours, in nats. */
const compare = (ours: ReadonlyArray<Float64Array>, theirs: ReadonlyArray<Float64Array>) => {
  let largest = 0
  let divergence = 0
  ours.forEach((row, t) => {
    for (let v = 0; v < row.length; v++) {
      largest = Math.max(largest, Math.abs(row[v]! - theirs[t]![v]!))
      divergence += Math.exp(row[v]!) * (row[v]! - theirs[t]![v]!)
    }
  })
  return { largest, divergence: divergence / ours.length }
}

const rowOf = (tokens: Uint32Array, id: bigint): Batch => ({
  rows: 1,
  seqLen: tokens.length,
  tokens,
  targets: new Uint32Array(tokens.length).fill(IGNORE),
  positions: Uint32Array.from(tokens, (_, t) => t),
  documentStart: new Uint32Array(tokens.length),
  ids: new BigUint64Array(tokens.length).fill(id)
})

const ourLogProbabilities = async (model: ModelService, tokens: Uint32Array, mode: Sink.SinkMode) => {
  const logits = await Effect.runPromise(model.logits(rowOf(tokens, 1n), mode))
  const { vocabSize } = model.config
  return Array.from(tokens, (_, t) => logSoftmax(logits.subarray(t * vocabSize, (t + 1) * vocabSize)))
}

const theirLogProbabilities = async (sequence: Sequence, tokens: Uint32Array, vocabSize: number) => {
  await sequence.clearHistory()
  const out = await sequence.controlledEvaluate(
    Array.from(tokens, (token) => [token, { generateNext: { logits: true } }])
  )
  return out.map(({ next }) => {
    if (next.logits.size !== vocabSize) throw new Error(`llama.cpp gives ${next.logits.size} logits`)
    return logSoftmax(Float64Array.from({ length: vocabSize }, (_, v) => next.logits.get(v)!))
  })
}

const theirGreedy = async (sequence: Sequence, prompt: Uint32Array, maxNewTokens: number) => {
  await sequence.clearHistory()
  const out: Array<number> = []
  for await (const token of sequence.evaluate([...prompt], { temperature: 0, yieldEogToken: true })) {
    out.push(token)
    if (out.length === maxNewTokens) break
  }
  return out
}

// ---------------------------------------------------------------------------------------------------------------
// A trained model

const CONTINUATION = 64

const root = mkdtempSync(join(tmpdir(), "memsinks-llama-"))
process.on("exit", () => rmSync(root, { recursive: true, force: true }))

const texts = [
  "Fellow citizens of the Senate and of the House of Representatives:",
  "  It's 1,234.5 dollars\n\n\tand we'll\u00a0see -- naïve café, 東京, 😀!  ",
  "x\r\n  if (a[0] != b) { return a ** 2 }   \n",
  "<unk> <s> <|endoftext|> '''re're'"
]

const config = new ModelConfig({
  vocabSize: 640,
  hiddenSize: 64,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  // neither hiddenSize / numAttentionHeads nor its default base
  headDim: 32,
  ropeTheta: 50000,
  rmsNormEps: 1e-6,
  intermediateSize: 100 + 256,
  maxPositionEmbeddings: 256,
  tieWordEmbeddings: false,
  sinks: new Sink.SinkConfig({ pool: 256, active: 32, block: 16 })
})

const train = Effect.gen(function*() {
  const documents = (yield* Corpus.documents(undefined)).slice(0, 12)
  const folder = join(root, "run")
  yield* Effect.flatMap(Trainer, (trainer) => Stream.runDrain(trainer.run)).pipe(
    Effect.provide(
      Trainer.layer(
        new TrainConfig({ steps: 60, logEvery: 20, optimizer: new OptimizerConfig({ learningRate: 4e-3 }) })
      ).pipe(
        Layer.provide(Model.layer(config, { seed: 1 })),
        Layer.provide(DataStream.layerMemory(documents, {
          tokenizer: "bpe",
          vocabSize: config.vocabSize,
          seqLen: 64,
          batchSize: 8,
          repeatedSequences: 2,
          repeats: 16,
          singleSequences: 448,
          heldOutSequences: 2
        })),
        Layer.provide(Checkpoints.layerFileSystem(folder)),
        Layer.provide(device)
      )
    )
  )
  return folder
})

const device = NodeDevice.layer()

/** A model on the device with the weights of a checkpoint, for as long as `body` runs. */
const withModel = <A>(
  folder: string,
  body: (
    model: ModelService,
    tokenizer: Tokenizer.Tokenizer,
    /** The greedy continuation of a prompt. */
    greedy: (prompt: Uint32Array, mode: Sink.SinkMode) => Promise<Uint32Array>
  ) => Promise<A>
) =>
  Effect.runPromise(
    Effect.gen(function*() {
      const from = yield* loadInitial(folder)
      const model = yield* Model.make(from.config)
      yield* model.importTensors(from.tensors)
      const tokenizer = yield* Tokenizer.fromJSON(from.tokenizer!)
      const gpu = yield* Device
      const greedy = (prompt: Uint32Array, mode: Sink.SinkMode) =>
        Effect.runPromise(
          Generate.collect(
            { tokens: prompt, id: 1n },
            { maxNewTokens: CONTINUATION, temperature: 0, sinks: mode }
          ).pipe(Effect.provideService(Model, model), Effect.provideService(Device, gpu))
        )
      return yield* Effect.promise(() => body(model, tokenizer, greedy))
    }).pipe(Effect.scoped, Effect.provide(device), Effect.provide(NodeContext.layer))
  )

const exported = async (folder: string, name: string, options: Omit<ExportOptions, "format">) => {
  const path = join(root, `${name}.gguf`)
  const report = await Effect.runPromise(
    exportModel(folder, path, { ...options, format: "gguf" }).pipe(Effect.provide(NodeContext.layer))
  )
  for (const note of report.notes) console.log(`      ${name}: ${note}`)
  return { path, report }
}

const llama = await openLlama().catch((error: unknown) => {
  console.error(error)
  console.log("FAIL  node-llama-cpp cannot be installed or loaded\n0 passed, 1 failed")
  return process.exit(1)
})

/** What llama.cpp makes of one export, against the model it comes from. */
const examine = async (
  name: string,
  folder: string,
  options: Omit<ExportOptions, "format">,
  mode: Sink.SinkMode,
  limits: { readonly largest: number; readonly divergence: number; readonly greedy: boolean }
): Promise<void> =>
  attempt(name, async () => {
    const { path, report } = await exported(folder, name, options)
    const model = await llama.loadModel({ modelPath: path })
    const context = await model.createContext({
      contextSize: 256,
      batchSize: 256,
      threads: 1,
      flashAttention: false,
      // f16, its default, would be the largest difference
      experimentalKvCacheKeyType: "F32",
      experimentalKvCacheValueType: "F32"
    })
    const sequence = context.getSequence()
    await withModel(folder, async (ours, tokenizer, greedy) => {
      for (const [i, text] of texts.entries()) {
        const [mine, theirs] = [[...tokenizer.encode(text)], [...model.tokenize(text, true)]]
        check(`${name}, tokens of text ${i + 1}`, mine.join() === theirs.join(), `${mine.length} and ${theirs.length}`)
        if (mine.join() !== theirs.join()) console.log(mine.join(" "), "\n", theirs.join(" "))
      }
      const tokens = tokenizer.encode(texts.slice(0, 2).join(" ")).slice(0, 96)
      const { divergence, largest } = compare(
        await ourLogProbabilities(ours, tokens, mode),
        await theirLogProbabilities(sequence, tokens, ours.config.vocabSize)
      )
      check(
        `${name}, log-probabilities of ${tokens.length} tokens`,
        largest <= limits.largest && divergence <= limits.divergence,
        `differ by at most ${largest.toExponential(1)} (limit ${limits.largest}), ` +
          `KL ${divergence.toExponential(1)} (limit ${limits.divergence}); ` +
          `${(report.bytes / 1024).toFixed(0)} KiB, width ${report.intermediateSize}`
      )
      const prompt = tokenizer.encode(texts[0]!)
      const mine = await greedy(prompt, mode)
      const theirs = await theirGreedy(sequence, prompt, CONTINUATION)
      const same = mine.findIndex((token, i) => token !== theirs[i])
      const agree = same < 0 ? theirs.length : same
      const said = `${agree} of ${CONTINUATION} tokens agree: ${JSON.stringify(tokenizer.decode(theirs).slice(0, 60))}`
      if (limits.greedy) check(`${name}, greedy continuation`, agree === CONTINUATION, said)
      else console.log(`      ${name}, greedy continuation: ${said}`)
    })
    await model.dispose()
  })

const exact = { largest: 1e-3, divergence: 1e-6, greedy: true }

await attempt("training", async () => {
  const run = await Effect.runPromise(train.pipe(Effect.provide(NodeContext.layer)))
  await examine("off-f32", run, { dtype: "f32" }, Sink.off, exact)
  await examine("off-f16", run, { dtype: "f16" }, Sink.off, { largest: 0.05, divergence: 1e-4, greedy: false })
  await examine("off-q8_0", run, { dtype: "q8_0" }, Sink.off, { largest: 1, divergence: 1e-2, greedy: false })
  const ids = [1n, 2n]
  await examine("ids-f32", run, { sinks: { mode: "own", ids, union: true } }, { mode: "only", ids }, exact)
  await examine("all-f32", run, { sinks: { mode: "all" } }, Sink.all, exact)
})

// ---------------------------------------------------------------------------------------------------------------
// Other tokenizers: their splitting rules are llama.cpp's own code

const small = (vocabSize: number) =>
  new ModelConfig({
    vocabSize,
    hiddenSize: 32,
    numHiddenLayers: 1,
    numAttentionHeads: 2,
    intermediateSize: 64,
    maxPositionEmbeddings: 256,
    // peaked, so that no two tokens are equally likely
    initializerRange: 0.3
  })

const withTokenizer = async (name: string, tokenizer: string, vocabSize: number): Promise<string> => {
  const folder = join(root, name)
  await Effect.runPromise(
    Effect.gen(function*() {
      const model = yield* Model.make(small(vocabSize), { seed: 3 })
      yield* saveModel(folder, {
        config: huggingFaceConfig(model.config),
        model: yield* model.exportTensors,
        tokenizer
      })
    }).pipe(Effect.scoped, Effect.provide(device), Effect.provide(NodeContext.layer))
  )
  return folder
}

await attempt("tokenizers", async () => {
  await examine("bytes", await withTokenizer("bytes", Tokenizer.bytes.toJSON(), 256), {}, Sink.off, exact)

  // a vocabulary of the bytes that occur alone, with <unk> for the others
  const restricted = await Effect.runPromise(
    Tokenizer.trainBpe(texts.map((text) => text.repeat(3)), { vocabSize: 200 })
  )
  const own = await withTokenizer("restricted", restricted.toJSON(), restricted.vocabSize)
  await examine("restricted", own, {}, Sink.off, exact)

  const trained = await Effect.runPromise(Tokenizer.trainBpe(texts.concat(
    ["the 1234 cats and 1235 dogs of 1999", "the dogs' 1234 cats\n\n of 1999"].map((text) => text.repeat(3))
  ), { vocabSize: 560 }))
  const json = JSON.parse(trained.toJSON()) as { pre_tokenizer: object; added_tokens: Array<object>; model: object }
  const split = (pretokenizers: ReadonlyArray<object>, model: object = {}) =>
    JSON.stringify({
      ...json,
      added_tokens: [{ id: trained.vocabSize, content: "<|endoftext|>", special: true, normalized: false }],
      pre_tokenizer: { type: "Sequence", pretokenizers },
      model: { ...json.model, ...model }
    })
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true }
  const smollm = split([{ type: "Digits", individual_digits: true }, byteLevel])
  // two more entries than the tokenizer has: the model's embedding may be larger
  await examine("smollm", await withTokenizer("smollm", smollm, trained.vocabSize + 3), {}, Sink.off, exact)

  const pattern = { Regex: readFileSync(new URL("./llama3.regex", import.meta.url), "utf8").trim() }
  const llama3 = split([
    { type: "Split", pattern, behavior: "Isolated", invert: false },
    { ...byteLevel, use_regex: false }
  ], { ignore_merges: true })
  await examine("llama3", await withTokenizer("llama3", llama3, trained.vocabSize + 1), {}, Sink.off, exact)
})

await llama.dispose()
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed === 0 ? 0 : 1)
