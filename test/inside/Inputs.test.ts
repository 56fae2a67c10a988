import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { expect } from "vitest"
import { Device } from "../../src/gpu/Device.ts"
import { makeInputs } from "../../src/inside/Inputs.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as Segments from "../../src/model/Segments.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Sink from "../../src/Sink.ts"
import { expectClose } from "../reference/compare.ts"
import * as Reference from "../reference/model.ts"
import { finiteDifference, makeRandom } from "../reference/random.ts"
import { sinkModel } from "../support/memorized.ts"
import { batchOfDocuments, referenceConfig } from "../support/support.ts"

const tied = new ModelConfig({ ...sinkModel({ pool: 64, active: 16 }), numHiddenLayers: 2 })
const untied = new ModelConfig({ ...tied, tieWordEmbeddings: false })
const seqLen = 8
const seed = 1 + Math.floor(Math.random() * 1e6)

layer(NodeDevice.layer())("the model as a function of its inputs", (it) => {
  for (const [name, config, mode] of [
    ["tied, own sinks", tied, Sink.own],
    ["untied, sinks off", untied, Sink.off],
    ["untied, all at expected", untied, Sink.all]
  ] as const) {
    it.effect(`has the gradients that finite differences of the float64 reference give: ${name}`, () =>
      Effect.scoped(Effect.gen(function*() {
        const device = yield* Device
        const model = yield* Model
        const random = makeRandom(seed)
        const params: Reference.Tensors = {}
        for (const { name, value } of model.parameters) {
          const size = value.shape.reduce((a, b) => a * b, 1)
          const data = Float64Array.from(random.normals(size, 0.3), Math.fround)
          device.write(value, Float32Array.from(data))
          params[name] = data
        }
        const batch = batchOfDocuments([[[8, 1n]], [[8, 2n]], [[8, 3n]]], seqLen, config.vocabSize, random)
        const n = batch.tokens.length
        const weights = Float32Array.from(random.uniforms(n, -1, 1))
        const inputs = yield* makeInputs({ rows: 3, seqLen, mode })
        const own = inputs.embed(batch.tokens)
        const moved = Float32Array.from(own, (x) => Math.fround(x + random.normal(0.1)))

        // the reference's vocabulary are the places of the batch, each with the vector that is given
        const d = config.hiddenSize
        const reference = { ...referenceConfig(config), tieWordEmbeddings: false }
        const embed = new Float64Array(config.vocabSize * d)
        const places = { ...batch, tokens: Uint32Array.from({ length: n }, (_, t) => t) }
        const segments = Segments.segmentsOf(batch)
        const coef = Float64Array.from(
          Segments.maskedCoefficients(config.sinks, config.general, mode, segments, segments.ids.length)
        )
        const all: Reference.Tensors = { ...params, embed, head: params["head"] ?? params["embed"]! }
        const losses = (of: Float32Array) => {
          embed.set(of)
          return Reference.forward(reference, all, places, coef, segments.segment)
        }
        const sum = () =>
          Reference.forward(reference, all, places, coef, segments.segment).tokenLoss
            .reduce((total, loss, t) => total + weights[t]! * loss, 0)

        const want = losses(moved)
        const scores = yield* inputs.scores(batch, moved)
        expectClose(scores.loss, want.tokenLoss, { name: "losses", atol: 1e-4, rtol: 1e-4 })
        expectClose(yield* inputs.logits(batch, moved), want.logits, { name: "logits", atol: 1e-4, rtol: 1e-4 })
        const got = yield* inputs.gradient(batch, moved, weights)
        expectClose(got.loss, want.tokenLoss, { name: "losses", atol: 1e-4, rtol: 1e-4 })
        const some = random.sample(10, n * d)
        expectClose(some.map((i) => got.gradient[i]!), [...finiteDifference(sum, embed, some)], {
          name: `by embeddings, seed ${seed}`,
          rtol: 1e-3,
          atol: 1e-3
        })

        // with the tokens' own embeddings all is as without
        expectClose((yield* inputs.scores(batch, own)).loss, (yield* model.evaluate(batch, mode)).loss, {
          name: "own embeddings",
          atol: 1e-5
        })
        // by one-hot vectors: a token mixed in at a place moves the sum as the derivative says
        losses(own)
        const oneHot = yield* inputs.oneHot(batch, weights)
        const table = params["embed"]!
        for (const t of random.sample(2, n)) {
          for (const v of random.sample(2, config.vocabSize)) {
            const mixed = Float64Array.of(0)
            const base = embed.slice(t * d, (t + 1) * d)
            const along = () => {
              for (let k = 0; k < d; k++) embed[t * d + k] = base[k]! + mixed[0]! * table[v * d + k]!
              return sum()
            }
            const [slope] = finiteDifference(along, mixed, [0])
            embed.set(base, t * d)
            expectClose([oneHot.gradient[t * config.vocabSize + v]!], [slope!], {
              name: `token ${v} at ${t}, seed ${seed}`,
              rtol: 1e-3,
              atol: 2e-3
            })
          }
        }
        expect((yield* Effect.flip(inputs.gradient(batch, own.subarray(1), weights))).message).toContain(
          "embeddings of 24 tokens, 32 each: expected 768 numbers, got 767"
        )
      })).pipe(Effect.provide(Model.layer(config))))
  }
})
