import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { batchOf } from "../../src/data/stream/Packing.ts"
import { componentMass, eachGradient, selfInfluence, squaredNorm, tracIn } from "../../src/inside/GradientMass.ts"
import { fisher, makeGradients } from "../../src/inside/Gradients.ts"
import { toHuggingFace } from "../../src/model/HuggingFace.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { listParameters, parametersOf } from "../../src/model/Parameters.ts"
import * as NodeDevice from "../../src/node.ts"
import { own, SinkConfig, unitsOf } from "../../src/Sink.ts"
import { expectClose } from "../reference/compare.ts"
import { heldOut, memorize, repeated, seqLen, sinkModel, withWeights } from "../support/memorized.ts"

const config = new ModelConfig({
  vocabSize: 12,
  hiddenSize: 8,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  headDim: 4,
  intermediateSize: 8 + 32,
  tieWordEmbeddings: false,
  sinks: new SinkConfig({ pool: 32, active: 8, block: 8 })
})

describe("components of a model", () => {
  it("have each weight once, heads, sinks of an id and all", () => {
    const ones = new Map(
      listParameters(parametersOf(config)).map(({ name, value }) => [
        name,
        new Float32Array(value.shape.reduce((a, b) => a * b, 1)).fill(-2)
      ])
    )
    const id = 7n
    const parts = componentMass(config, ones, id)
    const at = (layer: number, component: string, head?: number) =>
      parts.find((one) => one.layer === layer && one.component === component && one.head === head)
    const [d, headSize] = [8, 4]
    expect(parts.reduce((sum, { count }) => sum + count, 0)).toBe(config.numParameters)
    for (const layer of [0, 1]) {
      for (const head of [0, 1, 2, 3]) {
        expect(at(layer, "query", head)?.count).toBe(headSize * d)
        expect(at(layer, "output", head)?.count).toBe(headSize * d)
      }
      for (const head of [0, 1]) {
        expect([at(layer, "key", head)?.count, at(layer, "value", head)?.count]).toEqual([headSize * d, headSize * d])
      }
      expect(at(layer, "key", 2)).toBeUndefined()
      expect(at(layer, "generalIn")?.count).toBe(2 * 8 * d)
      expect(at(layer, "generalOut")?.count).toBe(8 * d)
      expect(at(layer, "ownSinksIn")?.count).toBe(2 * 8 * d)
      expect(at(layer, "ownSinksOut")).toEqual({ layer, component: "ownSinksOut", head: undefined, count: 8 * d,
        sum: 2 * 8 * d, largest: 2, squares: 4 * 8 * d })
      expect(at(layer, "otherSinksIn")?.count).toBe(2 * 24 * d)
      expect(at(layer, "norms")?.count).toBe(2 * d)
    }
    expect(at(-1, "embedding")?.count).toBe(2 * 12 * d)
    // one weight of the up-projection of the id's own sinks, and one of head 3's output
    const one = new Map([...ones].map(([name, x]) => [name, new Float32Array(x.length)]))
    const mine = [...unitsOf(config.sinks!, id)][0]! * 8
    one.get("layers.1.gateUp")![(2 * 8 + 32 + mine + 3) * d + 1] = 5
    one.get("layers.0.o")![2 * 16 + 13] = -3
    const hit = componentMass(config, one, id).filter(({ sum }) => sum > 0)
    expect(hit.map(({ component, head, layer, sum }) => [layer, component, head, sum])).toEqual([
      [0, "output", 3, 3],
      [1, "ownSinksIn", undefined, 5]
    ])
    expect(squaredNorm(config, one, "all")).toBe(34)
    expect(squaredNorm(config, one, "last")).toBe(25)
  })

  it("TracIn is the sum over checkpoints of rate times squared norm", () => {
    expect([...tracIn([
      { learningRate: 0.5, squaredNorms: [2, 4] },
      { learningRate: 0.25, squaredNorms: [8, 0] }
    ])]).toEqual([3, 2])
    expect(tracIn([])).toHaveLength(0)
  })
})

layer(NodeDevice.layer())("gradients of single sequences", (it) => {
  const sinks = sinkModel()

  it.effect("self-influence and Fisher information are sums of their squares", () =>
    Effect.scoped(Effect.gen(function*() {
      const rows = repeated.slice(0, 2)
      const gradients = yield* makeGradients({ rows: 1, seqLen })
      const found = yield* Effect.forEach(rows, (row) => gradients.of(batchOf([row], seqLen), own))
      const want = found.map((one) => squaredNorm(sinks, one.gradients, "all"))
      expect([...yield* selfInfluence(rows, { mode: own, seqLen })]).toEqual(want)
      const information = yield* fisher(rows, { mode: own, seqLen })
      for (const [name, first] of found[0]!.gradients) {
        const second = found[1]!.gradients.get(name)!
        for (const [tensor, { data }] of toHuggingFace(sinks, name, first.map((x, i) =>
          (x ** 2 + second[i]! ** 2) / 2
        ))) {
          expectClose(information[tensor]!.data, data, { name: tensor, rtol: 1e-5, atol: 1e-12 })
        }
      }
      expect((yield* Effect.flip(fisher([], { mode: own, seqLen }))).message).toContain("give at least one")
    })).pipe(Effect.provide(Model.layer(sinks, { seed: 3 }))))

  it.effect("fall on the own sinks of what these hold, and are small where all is known", () =>
    Effect.gen(function*() {
      const weights = yield* memorize(sinks, 30)
      const share = (rows: typeof repeated) =>
        withWeights(sinks, weights, eachGradient(rows, { mode: own, seqLen }, (config, gradients, row) => {
          const parts = componentMass(config, gradients, row.id)
          const sum = (of: typeof parts) => of.reduce((all, one) => all + one.sum, 0)
          return sum(parts.filter(({ component }) => component.startsWith("ownSinks"))) / sum(parts)
        }))
      const influence = (rows: typeof repeated) =>
        withWeights(sinks, weights, selfInfluence(rows, { mode: own, seqLen }))
      for (const one of yield* share(repeated)) expect(one).toBeGreaterThan(0.1)
      expect(Math.max(...yield* influence(repeated))).toBeLessThan(Math.min(...yield* influence(heldOut)))
    }))
})
