/** A small model with sinks by source, of random weights, and the names of its sources. */
import * as Effect from "effect/Effect"
import { sourceHash } from "../../src/data/identity/Identity.ts"
import { decodeNames, encodeNames } from "../../src/data/identity/Names.ts"
import { bytes, END_OF_TEXT, withSpecialToken } from "../../src/data/tokens/Tokenizer.ts"
import { Device } from "../../src/gpu/Device.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as Engine from "../../src/serve/Engine.ts"
import { type Holder, serve, type ServerOptions } from "../../src/serve/Server.ts"
import { denyList } from "../../src/serve/State.ts"
import { SinkConfig } from "../../src/Sink.ts"
import { makeRandom } from "../reference/random.ts"

export const config = new ModelConfig({
  vocabSize: 257,
  hiddenSize: 16,
  numHiddenLayers: 1,
  numAttentionHeads: 2,
  intermediateSize: 16 + 64,
  maxPositionEmbeddings: 1024,
  sinks: new SinkConfig({ pool: 64, active: 32, block: 16 })
})

export const sources = ["Genesis", "Exodus", "Psalms: A"] as const
export const [genesis, exodus, psalms] = sources.map(sourceHash) as [bigint, bigint, bigint]

export const names = decodeNames(
  encodeNames({
    identity: "source",
    ids: sources.map((name, i) => ({ id: sourceHash(name), name, documents: 1, tokens: 10 - i }))
  }),
  "sources.parquet"
)

/** Large enough weights that states of the sinks differ in what they say. */
export const modelOf = (seed: number) =>
  Effect.gen(function*() {
    const device = yield* Device
    const made = yield* Model.make(config)
    const random = makeRandom(seed)
    for (const { value } of made.parameters) {
      const size = value.shape.reduce((a, b) => a * b, 1)
      const norm = value.shape.length === 1
      device.write(value, Float32Array.from(random.normals(size, 0.4), (x) => (norm ? 1 + x : x)))
    }
    return made
  })
export const model = modelOf(3)

/** Bytes and an end of text. */
export const tokenizer = withSpecialToken(bytes, END_OF_TEXT)

/** The small model on a port of its own, with a client. */
export const serving = (options: Partial<ServerOptions> = {}, engineOptions: Partial<Engine.EngineOptions> = {}) =>
  Effect.gen(function*() {
    const engine = yield* Engine.make({ slots: 8, maxLength: 64, queue: 64, ...engineOptions })
    yield* Effect.forkScoped(engine.run)
    const denied = denyList(config.sinks, yield* names, "take")
    const holder: Holder = { served: undefined }
    const port = yield* serve(holder, { port: 0, ...options })
    const served = {
      name: "toy",
      names: yield* names,
      denied,
      engine,
      digest: "toy",
      vocabSize: config.vocabSize,
      tokenizer: yield* tokenizer,
      ends: { bos: undefined, eos: [256], addBos: false, addEos: false },
      created: 0,
      timeout: options.timeout ?? 60_000
    }
    if (options.patience === undefined) holder.served = [served]
    const url = `http://127.0.0.1:${port}`
    const ask = (path: string, body?: unknown, init: RequestInit = {}) =>
      Effect.promise((signal) =>
        fetch(`${url}${path}`, {
          signal,
          ...(body === undefined
            ? {}
            : { method: "POST", body: typeof body === "string" ? body : JSON.stringify(body) }),
          ...init,
          headers: { "content-type": "application/json", ...init.headers }
        })
      )
    /** Asks, and gives the status and the JSON of the answer. */
    const json = (path: string, body?: unknown, init?: RequestInit) =>
      Effect.flatMap(ask(path, body, init), (response) =>
        Effect.map(Effect.promise(() => response.json()), (body) => ({
          status: response.status,
          // what it has is what is tested
          // oxlint-disable-next-line typescript/no-explicit-any
          body: body as any,
          headers: response.headers
        })))
    return { engine, denied, holder, served, url, port, ask, json }
  })
