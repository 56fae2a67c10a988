/**
 * Forgetting a source, from nothing: the addresses of twelve presidents become token shards, a model is trained on them with
 * sinks by source, and another without one of them; that one is deleted from the first, the deletion is audited beside the
 * second, and certified. Killed at any moment, the same call goes on.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import { generateKeyPairSync } from "node:crypto"
import * as AtomicFile from "../src/AtomicFile.ts"
import * as Corpus from "../src/data/Corpus.ts"
import { DataConfig } from "../src/data/stream/DataConfig.ts"
import { tokenize } from "../src/data/tokens/Tokenize.ts"
import { because, type CheckpointError, DataError, type DeviceError } from "../src/Errors.ts"
import * as Forget from "../src/forget/Forget.ts"
import type { Device } from "../src/gpu/Device.ts"
import { ModelConfig } from "../src/model/ModelConfig.ts"
import { SinkConfig } from "../src/Sink.ts"
import { OptimizerConfig } from "../src/train/Optimizer.ts"
import { TrainConfig, type TrainError } from "../src/train/Trainer.ts"
import { audit, type AuditReport } from "./audit.ts"
import type { Event } from "./experiment/Event.ts"
import * as Pretrain from "./pretrain.ts"

/** Where the demonstration runs and what it leaves. */
export interface DemoOptions {
  /** Made where it is not there; where it is, it must be of this demo. */
  readonly outDir: string
  readonly device: Layer.Layer<Device, DeviceError>
  /** Optimizer steps of each training. Default 500. */
  readonly steps?: number
  readonly versions?: Readonly<Record<string, string>>
  /** Told what is done next. */
  readonly onStage?: (what: string) => Effect.Effect<void>
  /** Told what its trainings tell. */
  readonly onEvent?: (event: Event) => Effect.Effect<void>
}

/** What was made; folders and files. */
export interface Demo {
  readonly deleted: string
  /** The model with it, the model that never saw it, and the first without it. */
  readonly before: string
  readonly oracle: string
  readonly after: string
  readonly data: string
  /** The private key that certificates are signed with: of this demo alone. */
  readonly key: string
  readonly audit: AuditReport
}

const SOURCES = 12
/** Passages of a source, and their characters. */
const PASSAGES = 8
const CHARACTERS = 480

/** One who is not the first in any order. */
const DELETED = "Abraham Lincoln"

/** Passages of twelve presidents, those with most to say, the deleted one among them; and further ones of his that nobody reads. */
const passages = Effect.gen(function*() {
  const texts = Corpus.bySource(yield* Corpus.documents(undefined, { sourceField: "president" }))
  const longest = [...texts].sort(([, a], [, b]) => b.length - a.length).map(([name]) => name)
  const chosen = [DELETED, ...longest.filter((name) => name !== DELETED).slice(0, SOURCES - 1)].sort()
  const some = (president: string, first: number) =>
    Array.from({ length: PASSAGES }, (_, i) => ({
      id: `${president} ${first + i + 1}`,
      president,
      text: texts.get(president)!.slice((first + i) * CHARACTERS, (first + i + 1) * CHARACTERS).trim()
    }))
  return { all: chosen.flatMap((president) => some(president, 0)), never: some(DELETED, PASSAGES) }
})

const configOf = (data: string, steps: number) =>
  new Pretrain.PretrainConfig({
    data: new DataConfig({ data, identity: "source", batchSize: 8, seqLen: 64, heldOutFraction: 0 }),
    model: new ModelConfig({
      vocabSize: 512,
      hiddenSize: 64,
      numHiddenLayers: 2,
      numAttentionHeads: 2,
      intermediateSize: 192 + 768,
      sinks: new SinkConfig({ pool: 768, active: 64, assignment: "disjoint" })
    }),
    arms: ["sinks"],
    training: new TrainConfig({
      steps,
      optimizer: new OptimizerConfig({ learningRate: 7e-3, sinks: "lazy", sinkLearningRateRatio: 4 })
    }),
    evaluations: 0
  })

/**
 * Trains a model with sinks by source on twelve presidents and an oracle without one of them, forgets that one, and
 * audits what is left. Goes on in `outDir` where it was stopped.
 */
export const demo = (
  options: DemoOptions
): Effect.Effect<Demo, TrainError | CheckpointError | DataError, FileSystem.FileSystem | Path.Path> =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const paths = yield* Path.Path
    const { steps = 500 } = options
    const stage = (what: string) => options.onStage?.(what) ?? Effect.void
    const at = (name: string) => paths.join(paths.resolve(options.outDir), name)
    const write = (path: string, text: string) =>
      Effect.try({
        try: () => AtomicFile.write(path, text),
        catch: (cause) => new DataError({ path, detail: because(cause), cause })
      })
    const exists = (path: string) => Effect.orElseSucceed(fs.exists(path), () => false)
    yield* Effect.mapError(fs.makeDirectory(at("."), { recursive: true }), (cause) =>
      new DataError({ path: options.outDir, detail: because(cause), cause }))

    yield* stage(`${SOURCES} sources: passages of presidents, a tokenizer and shards of tokens`)
    const { all, never } = yield* passages
    const lines = (some: typeof all) => some.map((one) => `${JSON.stringify(one)}\n`).join("")
    const made = { all: at("presidents.jsonl"), rest: at("without.jsonl"), never: at("never-seen.jsonl"),
      tokens: at("tokens"), fewer: at("tokens-without") }
    yield* write(made.all, lines(all))
    yield* write(made.never, lines(never))
    yield* write(made.rest, lines(all.filter(({ president }) => president !== DELETED)))
    const shards = (path: string, out: string, tokenizer: string) =>
      tokenize({ data: [{ path, sourceField: "president" }], tokenizer, vocabSize: 512 }, { out, workers: 1 })
    yield* shards(made.all, made.tokens, "bpe")
    yield* shards(made.rest, made.fewer, paths.join(made.tokens, "tokenizer.json"))

    const train = (name: string, data: string) =>
      Effect.gen(function*() {
        const outDir = at(name)
        yield* Pretrain.run(configOf(data, steps), {
          device: options.device,
          outDir,
          resume: yield* exists(paths.join(outDir, "run.json")),
          ...(options.versions === undefined ? {} : { versions: options.versions }),
          ...(options.onEvent === undefined ? {} : { onEvent: options.onEvent })
        })
        return outDir
      })
    yield* stage(`training with sinks by source, ${steps} steps`)
    const before = yield* train("with", made.tokens)
    yield* stage(`training without ${DELETED}, for comparison`)
    const oracle = yield* train("without", made.fewer)

    yield* stage(`deleting ${DELETED}`)
    const after = at("forgotten")
    yield* Forget.forget(before, { requests: [{ by: "source", value: DELETED }] }, { out: after })
    const key = at("key.pem")
    if (!(yield* exists(key))) {
      // for its owner's eyes from the first byte
      const pem = String(generateKeyPairSync("ed25519").privateKey.export({ type: "pkcs8", format: "pem" }))
      yield* fs.writeFileString(`${key}.tmp`, pem, { mode: 0o600 }).pipe(
        Effect.zipRight(fs.rename(`${key}.tmp`, key)),
        Effect.mapError((cause) => new DataError({ path: key, detail: because(cause), cause }))
      )
    }
    const found = yield* audit({
      before,
      after,
      oracle,
      data: made.tokens,
      neverSeen: made.never,
      sourceField: "president",
      store: paths.join(after, "audit"),
      device: options.device,
      onStage: (what) => stage(`audit: ${what}`),
      ...(options.versions === undefined ? {} : { versions: options.versions })
    })
    return { deleted: DELETED, before, oracle, after, data: made.tokens, key, audit: found }
  })
