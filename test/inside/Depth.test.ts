import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { expect } from "vitest"
import { batchOf } from "../../src/data/stream/Packing.ts"
import { Device } from "../../src/gpu/Device.ts"
import { patchedDrops } from "../../src/inside/Depth.ts"
import { makePatcher, residualStreams } from "../../src/inside/Streams.ts"
import { depthScore } from "../../src/measures/Depth.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as Segments from "../../src/model/Segments.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Sink from "../../src/Sink.ts"
import { expectClose } from "../reference/compare.ts"
import * as Reference from "../reference/model.ts"
import { heldOut, memorize, repeated, seqLen, sinkModel, withWeights } from "../support/memorized.ts"
import { referenceConfig } from "../support/support.ts"

const config = new ModelConfig({ ...sinkModel(), numHiddenLayers: 3, tieWordEmbeddings: false })
const options = { batchSize: 3, seqLen, mode: Sink.own }
const rows = repeated.slice(0, 4)

layer(NodeDevice.layer())("streams and depth", (it) => {
  it.effect("are those of the float64 reference, and what is patched goes through the blocks above", () =>
    Effect.scoped(Effect.gen(function*() {
      const device = yield* Device
      const model = yield* Model
      const params: Reference.Tensors = {}
      for (const { name, value } of model.parameters) {
        params[name] = Float64Array.from((yield* device.read(value)) as Float32Array)
      }
      const batch = batchOf(rows, seqLen)
      const segments = Segments.segmentsOf(batch)
      const reference = referenceConfig(config)
      const coef = Float64Array.from(
        Segments.maskedCoefficients(config.sinks, config.general, Sink.own, segments, segments.ids.length)
      )
      const forward = Reference.forward(reference, params, batch, coef, segments.segment)
      const streams = yield* residualStreams(rows, options)
      const width = seqLen * config.hiddenSize
      const want = [...forward.layers.map(({ x }) => x), forward.x]
      streams.forEach((one, r) => {
        expect(one).toHaveLength(config.numHiddenLayers + 1)
        one.forEach((stream, l) =>
          expectClose(stream, want[l]!.subarray(r * width, (r + 1) * width), { name: `stream ${l} of ${r}`,
            atol: 1e-5 })
        )
      })
      // its own streams change no bit of a loss; those of another sequence are continued as that one's would be
      const patcher = yield* makePatcher(options)
      const { loss } = yield* model.evaluate(batch, Sink.own)
      for (let blocks = 0; blocks <= config.numHiddenLayers; blocks++) {
        const own = yield* patcher.losses(rows, blocks, streams.map((one) => one[blocks]!))
        own.forEach((losses, r) =>
          expectClose(losses, loss.subarray(r * seqLen, (r + 1) * seqLen), { name: "own", atol: 1e-5 })
        )
        const reversed = streams.map((one) => one[blocks]!).reverse()
        const others = yield* patcher.losses(rows, blocks, reversed)
        // a reference model of the upper blocks alone, whose vocabulary's vectors are the places of the streams
        const n = rows.length * seqLen
        const embed = new Float64Array(n * config.hiddenSize)
        reversed.forEach((stream, r) => embed.set(stream, r * width))
        const upper: Reference.Tensors = { embed, norm: params["norm"]!,
          head: Float64Array.from({ length: n * config.hiddenSize }, (_, i) => params["head"]![i] ?? 0) }
        for (let i = blocks; i < config.numHiddenLayers; i++) {
          for (const part of ["norm1", "qkv", "o", "norm2", "gateUp", "down"]) {
            upper[`layers.${i - blocks}.${part}`] = params[`layers.${i}.${part}`]!
          }
        }
        const upperConfig = { ...reference, vocabSize: n, numHiddenLayers: config.numHiddenLayers - blocks }
        const places = { ...batch, tokens: Uint32Array.from({ length: n }, (_, t) => t) }
        const { logits } = Reference.forward(upperConfig, upper, places, coef, segments.segment)
        others.forEach((losses, r) =>
          losses.forEach((nats, t) => {
            const at = (r * seqLen + t) * n
            const row = logits.subarray(at, at + config.vocabSize)
            const all = row.reduce((sum, z) => sum + Math.exp(z), 0)
            expect(nats).toBeCloseTo(Math.log(all) - row[batch.targets[r * seqLen + t]!]!, 3)
          })
        )
      }
      const short = Effect.flip(patcher.losses(rows, 1, streams.map((one) => one[1]!.subarray(8))))
      expect((yield* short).message).toMatch(/expected 4 streams of 512 numbers \(hiddenSize 32\), got 4, one of them/)
      const compiled = Effect.flip(model.compile({ rows: 1, seqLen, output: "train", skip: 1 }))
      expect((yield* compiled).message).toContain("a training pass with skip has gradients by its entry alone")
    })).pipe(Effect.provide(Model.layer(config, { seed: 4 }))))

  it.effect("the depth score tells what is there from what is gone, whatever basis a model holds it in", () =>
    Effect.gen(function*() {
      const full = yield* memorize(config, 30)
      const never = yield* memorize(config, 0)
      const depth = { ...options, promptTokens: 4 }
      const sourceOf = (weights: typeof full, mode: Sink.SinkMode) =>
        withWeights(config, weights, Effect.all({
          streams: residualStreams(rows, { ...depth, mode }),
          neutral: residualStreams(heldOut, { ...depth, mode })
        }))
      const [retain, off, here] = yield* Effect.all([
        sourceOf(never, Sink.own),
        sourceOf(full, Sink.off),
        sourceOf(full, Sink.own)
      ])
      const drops = yield* withWeights(config, full, patchedDrops(rows, [retain, off, here], depth, heldOut))
      const scores = drops.slice(1).map((source) =>
        source.map((one, r) => depthScore({ retain: drops[0]![r]!, source: one }))
      )
      const [gone, there] = scores
      const itself = drops[0]!.map((one) => depthScore({ retain: one, source: one }))
      there!.forEach((score) => expect(score).toBeLessThan(0.02))
      gone!.forEach((score) => expect(score).toBeGreaterThan(0.2))
      itself.forEach((score) => expect(score).toBe(1))
      // streams turned by an orthogonal map: the same knowledge in another basis, which alignment finds again
      const turned = (streams: typeof here.streams) =>
        streams.map((one) =>
          one.map((stream) => stream.map((_, i) => (i % 2 === 0 ? stream[i + 1]! : -stream[i - 1]!)))
        )
      const foreign = { streams: turned(here.streams), neutral: turned(here.neutral) }
      const [plain] = yield* withWeights(config, full, patchedDrops(rows, [foreign], depth))
      const [mapped] = yield* withWeights(config, full, patchedDrops(rows, [foreign], depth, heldOut))
      const scoreOf = (found: typeof drops[number]) =>
        found.map((source, r) => depthScore({ retain: drops[0]![r]!, source }))
      scoreOf(plain!).forEach((score) => expect(score).toBeGreaterThan(0.5))
      scoreOf(mapped!).forEach((score) => expect(score).toBeLessThan(0.2))
      const short = withWeights(config, full, patchedDrops(rows, [], { ...depth, promptTokens: seqLen + 1 }))
      expect((yield* Effect.flip(short)).message).toMatch(/has 17 tokens, and no suffix behind a prompt of 17/)
    }))
})
