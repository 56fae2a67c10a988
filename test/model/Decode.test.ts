/** The cached forward pass against the full one, which recomputes everything from the first token on. */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { expect } from "vitest"
import { type Batch, IGNORE } from "../../src/Batch.ts"
import { Device } from "../../src/gpu/Device.ts"
import type { Family } from "../../src/gpu/Target.ts"
import * as Decode from "../../src/model/Decode.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import { SinkConfig, type SinkMode } from "../../src/Sink.ts"
import { expectClose } from "../reference/compare.ts"
import { makeRandom } from "../reference/random.ts"

const base = {
  vocabSize: 61,
  hiddenSize: 32,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  headDim: 12,
  intermediateSize: 40 + 64,
  maxPositionEmbeddings: 64
}
const gathered = new ModelConfig({ ...base, sinks: new SinkConfig({ pool: 64, active: 16, block: 8 }) })
const untied = new ModelConfig({
  ...base,
  headDim: 40,
  tieWordEmbeddings: false,
  sinks: new SinkConfig({ pool: 64, active: 32, block: 16, seed: 3 })
})
const bernoulli = new ModelConfig({
  ...base,
  sinks: new SinkConfig({ pool: 64, active: 16, block: 1, assignment: "bernoulli" })
})
const single = new ModelConfig({ ...base, sinks: new SinkConfig({ pool: 64, active: 20, block: 1 }) })
const standard = new ModelConfig({ ...base, intermediateSize: 44 })

const cases: ReadonlyArray<{
  readonly name: string
  readonly config: ModelConfig
  readonly mode: SinkMode
  readonly precision?: "f16"
  readonly family?: Family
}> = [
  { name: "own sinks", config: gathered, mode: { mode: "own" } },
  { name: "own sinks but one deleted, untied, GPU kernels", config: untied, mode: { mode: "own", except: [2n] },
    family: "gpu" },
  { name: "own sinks, plain kernels", config: untied, mode: { mode: "own" }, family: "plain" },
  { name: "own sinks, f16", config: untied, mode: { mode: "own" }, precision: "f16" },
  { name: "sinks off, rescaled", config: gathered, mode: { mode: "off", rescale: "count" } },
  { name: "all sinks at expected value", config: untied, mode: { mode: "all" } },
  { name: "only listed ids", config: gathered, mode: { mode: "only", ids: [1n, 7n] } },
  { name: "placebo", config: gathered, mode: { mode: "placebo", seed: 3 } },
  { name: "bernoulli neurons, GPU kernels", config: bernoulli, mode: { mode: "own" }, family: "gpu" },
  { name: "own neurons, gathered one by one", config: single, mode: { mode: "own" } },
  { name: "own neurons, GPU kernels, f16", config: single, mode: { mode: "own" }, family: "gpu", precision: "f16" },
  { name: "no sinks", config: standard, mode: { mode: "own" } }
]

const ids = [1n, 2n, 2n ** 64n - 5n, 2n]
/** A prompt of one token, one that fills a chunk of 16, ragged ones. */
const prompts = [1, 16, 7, 20]
const steps = 5

/** The logits of every place of every sequence, each alone in a row. */
const fullLogits = (sequences: ReadonlyArray<Uint32Array>, mode: SinkMode) =>
  Effect.gen(function*() {
    const model = yield* Model
    const [rows, seqLen] = [sequences.length, Math.max(...sequences.map((tokens) => tokens.length))]
    const batch: Batch = {
      rows,
      seqLen,
      tokens: Uint32Array.from({ length: rows * seqLen },
        (_, t) => sequences[Math.floor(t / seqLen)]![t % seqLen] ?? 0),
      targets: new Uint32Array(rows * seqLen).fill(IGNORE),
      positions: Uint32Array.from({ length: rows * seqLen }, (_, t) => t % seqLen),
      documentStart: Uint32Array.from({ length: rows * seqLen }, (_, t) => t - (t % seqLen)),
      ids: BigUint64Array.from({ length: rows * seqLen }, (_, t) => BigInt.asUintN(64, ids[Math.floor(t / seqLen)]!))
    }
    const logits = yield* model.logits(batch, mode)
    const v = model.config.vocabSize
    return (sequence: number, place: number) =>
      logits.subarray((sequence * seqLen + place) * v, (sequence * seqLen + place + 1) * v)
  })

layer(NodeDevice.layer())("a cached forward pass", (it) => {
  for (const c of cases) {
    it.scoped(`gives the full pass's logits, packed as alone: ${c.name}`, (context) =>
      Effect.gen(function*() {
        const own = yield* Device
        const half = c.precision === "f16"
        if (half && !own.features.has("shader-f16")) return context.skip("the adapter has no shader-f16")
        const dev = c.family === undefined ? own : { ...own, target: { ...own.target, family: c.family } }
        const random = makeRandom(5)
        const model = yield* Effect.provideService(
          Model.make(c.config, { precision: c.precision ?? "f32" }),
          Device,
          dev
        )
        for (const p of model.parameters) {
          const size = p.value.shape.reduce((a, b) => a * b, 1)
          const norm = p.value.shape.length === 1
          dev.write(p.value, Float32Array.from(random.normals(size, 0.3), (x) => norm ? 1 + x : x))
        }
        const sequences = prompts.map((length) =>
          Uint32Array.from({ length: length + steps }, () => random.int(c.config.vocabSize))
        )

        yield* Effect.gen(function*() {
          const full = yield* fullLogits(sequences, c.mode)
          const lost = half ? 500 : 1
          const close = (got: Float32Array, sequence: number, place: number) =>
            expectClose(got, full(sequence, place), {
              name: `logits of sequence ${sequence} at ${place}`,
              rtol: 1e-4 * lost,
              atol: 5e-5 * lost
            })
          const together = yield* Decode.open({ slots: 5, maxLength: 32, sinks: c.mode })
          // slots are taken in another order than sequences come, and one stays empty
          const slotOf = [3, 0, 4, 1]
          sequences.forEach((_, i) => together.begin(slotOf[i]!, ids[i]!))
          const kept: Array<Array<Float32Array>> = []
          const fed = sequences.map((tokens, i) => ({ slot: slotOf[i]!, tokens: tokens.subarray(0, prompts[i]) }))
          kept.push([...(yield* together.prompt(fed))])
          for (let s = 0; s < steps; s++) {
            // the second sequence ends early: its slot idles
            const fed = sequences.flatMap((tokens, i) =>
              i === 1 && s > 1 ? [] : [{ slot: slotOf[i]!, tokens: [tokens[prompts[i]! + s]!], i }]
            )
            const logits = yield* together.step(fed)
            const row: Array<Float32Array> = []
            fed.forEach(({ i }, j) => void (row[i] = logits[j]!))
            kept.push(row)
          }
          kept.forEach((row, s) => row.forEach((got, i) => close(got, i, prompts[i]! - 1 + s)))

          // alone, and in a slot that held another sequence before: the same bits
          const alone = yield* Decode.open({ slots: 1, maxLength: 32, sinks: c.mode })
          for (const i of [3, 0, 2]) {
            alone.begin(0, ids[i]!)
            const tokens = sequences[i]!
            const [first] = yield* alone.prompt([{ slot: 0, tokens: tokens.subarray(0, prompts[i]) }])
            expect(first, `sequence ${i}`).toEqual(kept[0]![i])
            for (let s = 0; s < steps; s++) {
              const [next] = yield* alone.step([{ slot: 0, tokens: [tokens[prompts[i]! + s]!] }])
              expect(next, `sequence ${i}, step ${s}`).toEqual(kept[s + 1]![i])
            }
          }
        }).pipe(Effect.provideService(Device, dev), Effect.provideService(Model, model))
      }))
  }
})
