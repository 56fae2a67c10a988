/** Attention heads that are set aside with the sinks: off where no sink is on, and trained apart from all other weights. */
import { layer } from "@effect/vitest"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { describe, expect, it } from "vitest"
import { prune } from "../../src/checkpoints/Export.ts"
import { batchOf } from "../../src/data/stream/Packing.ts"
import type { HostTensor } from "../../src/HostTensor.ts"
import { componentMass } from "../../src/inside/GradientMass.ts"
import { makeGradients, type ParameterMap, weights } from "../../src/inside/Gradients.ts"
import { generate } from "../../src/model/Generate.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import { headGates, off, own, SinkConfig } from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { routings } from "../../src/train/Routing.ts"
import { makeTuner } from "../../src/train/Tuner.ts"
import { expectClose } from "../reference/compare.ts"
import { repeated, seqLen, sinkModel, withWeights } from "../support/memorized.ts"

const without = new ModelConfig({ ...sinkModel({ pool: 32, active: 32 }), numHiddenLayers: 2, numAttentionHeads: 4 })
const config = new ModelConfig({ ...without, sinks: new SinkConfig({ ...without.sinks!, heads: 1 }) })
const batch = batchOf(repeated.slice(0, 3), seqLen)
/** Columns of the output projection of the last of four heads of 8. */
const isAside = (i: number) => i % 32 >= 24

const silenced = (tensors: Readonly<Record<string, HostTensor>>) =>
  Object.fromEntries(Object.entries(tensors).map(([name, { data, shape }]) => [name, {
    shape,
    data: name.endsWith("o_proj.weight") ? data.map((x, i) => isAside(i) ? 0 : x) as Float32Array : data
  }]))

describe("heads that are set aside", () => {
  it("are off where no sink is on", () => {
    const shape = { heads: 4, headSize: 2 }
    expect([...headGates(config.sinks!, shape, own, 7n)]).toEqual([1, 1, 1, 1, 1, 1, 1, 1])
    expect([...headGates(config.sinks!, shape, off, 7n)]).toEqual([1, 1, 1, 1, 1, 1, 0, 0])
    expect([...headGates(config.sinks!, shape, { mode: "own", except: [7n] }, 7n)]).toEqual([1, 1, 1, 1, 1, 1, 0, 0])
    expect([...headGates(without.sinks!, shape, off, 7n)]).toEqual([1, 1, 1, 1, 1, 1, 1, 1])
  })

  it("must leave some, with keys of their own", () => {
    const heads = (heads: number, more: object = {}) => () =>
      new ModelConfig({ ...config, ...more, sinks: new SinkConfig({ ...config.sinks!, heads }) })
    expect(heads(3)).not.toThrow()
    expect(heads(4)).toThrow(/sinks.heads sets aside 4 of 4 heads: some must be left/)
    expect(heads(1, { numKeyValueHeads: 2 })).toThrow(/numKeyValueHeads 2/)
  })
})

layer(NodeDevice.layer())("a model with such heads", (it) => {
  it.effect("computes what one without them does, own sinks on, and off what one does whose heads write nothing", () =>
    Effect.gen(function*() {
      const all = yield* Effect.scoped(
        Effect.provide(Effect.flatMap(Model, (model) => model.exportTensors), Model.layer(config, { seed: 9 }))
      )
      const run = <A, E, R>(c: ModelConfig, tensors: typeof all, use: Effect.Effect<A, E, R>) =>
        withWeights(c, tensors, use)
      const looked = (mode: typeof own | typeof off) =>
        Effect.gen(function*() {
          const model = yield* Model
          const { loss } = yield* model.evaluate(batch, mode)
          const gradients = yield* makeGradients({ rows: 3, seqLen })
          const prompts = repeated.slice(0, 3).map(({ id, tokens }) => ({ id, tokens: tokens.subarray(0, 5) }))
          const said = Chunk.toReadonlyArray(
            yield* Stream.runCollect(
              generate(prompts, { maxNewTokens: 6, temperature: 0, sinks: mode, logProbs: true })
            )
          ).map(({ logProb, prompt, token }) => [prompt, token, logProb!.toFixed(3)])
          return { loss, gradients: (yield* gradients.of(batch, mode)).gradients, said }
        }).pipe(Effect.scoped)
      const [on, dark] = yield* run(config, all, Effect.all([looked(own), looked(off)]))
      const plain = yield* run(without, all, looked(own))
      const muted = yield* run(without, silenced(all), looked(off))
      const bright = yield* run(without, all, looked(off))
      expectClose(on!.loss, plain.loss, { name: "own", atol: 1e-5 })
      expectClose(dark!.loss, muted.loss, { name: "off", atol: 1e-5 })
      expect(dark!.loss).not.toEqual(bright.loss)
      expect(on!.said).toEqual(plain.said)
      expect(dark!.said).toEqual(muted.said)
      for (const [name, gradient] of on!.gradients) {
        expectClose(gradient, plain.gradients.get(name)!, { name, atol: 1e-6 })
      }
      for (const [name, gradient] of dark!.gradients) {
        // what is off gets no gradient: of a matrix of zeros it would
        const want = muted.gradients.get(name)!.map((x, i) => name.endsWith(".o") && isAside(i) ? 0 : x)
        expectClose(gradient, want, { name: `off: ${name}`, atol: 1e-6 })
      }
      // cut out for good, it says what it says with sinks off
      const pruned = prune(config, all, { mode: "off" })
      const tensors = Object.fromEntries(
        Object.entries(pruned.tensors).map(([name, { data, shape }]) => [name, { shape, data: data() }])
      )
      const cut = yield* run(pruned.config, tensors, Effect.flatMap(Model, (model) => model.evaluate(batch, own)))
      expectClose(cut.loss, dark!.loss, { name: "pruned", atol: 1e-5 })
    }))

  it.effect("learns repeated sequences in its sinks and these heads alone, and all others in the rest alone", () =>
    Effect.gen(function*() {
      /** By component and head, what a step of one side moved. */
      const moved = (side: "repeated" | "others") =>
        Effect.scoped(Effect.gen(function*() {
          const before: ParameterMap = yield* weights
          const { mode, update } = routings.sgtm[side]
          const tuner = yield* makeTuner({ rows: 3, seqLen, steps: 1, mode, update,
            optimizer: new OptimizerConfig({ weightDecay: 0, warmupSteps: 0, sinks: "lazy" }) })
          yield* tuner.step(batch)
          const after = yield* weights
          const change = new Map([...after].map(([name, x]) => [name, x.map((one, i) => one - before.get(name)![i]!)]))
          return componentMass(config, change, 1n).filter(({ sum }) => sum > 0)
            .map(({ component, head, layer }) => `${layer} ${component}${head === undefined ? "" : ` ${head}`}`)
        })).pipe(Effect.provide(Model.layer(config, { seed: 9 })))
      const aside = [0, 1].flatMap((l) => [
        ...["query", "key", "value", "output"].map((part) => `${l} ${part} 3`),
        `${l} ownSinksIn`,
        `${l} ownSinksOut`
      ])
      expect(yield* moved("repeated")).toEqual(aside)
      const others = yield* moved("others")
      expect(others.filter((one) => aside.includes(one))).toEqual([])
      expect(others).toContain("0 query 2")
      expect(others).toContain("1 generalOut")
      expect(others).toContain("-1 embedding")
    }))

  it.effect("is refused in f16", () =>
    Effect.gen(function*() {
      const model = yield* Model
      const wrong = yield* Effect.flip(
        Effect.scoped(model.compile({ rows: 1, seqLen, output: "loss", precision: "f16" }))
      )
      expect(wrong.message).toContain("sinks.heads) are computed in f32")
    }).pipe(Effect.provide(Model.layer(config)), Effect.scoped))
})
