/** Localizers on models whose memory lies in neurons that are known, in float64. */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { describe, expect, it } from "vitest"
import type { Row } from "../../src/data/stream/Packing.ts"
import { Device } from "../../src/gpu/Device.ts"
import { sinkNeurons } from "../../src/inside/GradientMass.ts"
import type { NeuronGates } from "../../src/inside/NeuronGates.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import { activationScores } from "../../src/removal/localizers/activations.ts"
import { dropNeurons, recall, topFraction } from "../../src/removal/localizers/Drop.ts"
import { type GradientMass, gradientMass, gradientScores, massOf } from "../../src/removal/localizers/gradient.ts"
import { hardConcreteMask, hardConcreteScores, keptProbability } from "../../src/removal/localizers/hardConcrete.ts"
import { localizers } from "../../src/removal/localizers/index.ts"
import { integratedGradientScores } from "../../src/removal/localizers/integratedGradients.ts"
import { type LocalizeError, type LocalizeOptions, type NeuronScores,
  suffixBatch } from "../../src/removal/localizers/Localizer.ts"
import { randomScores } from "../../src/removal/localizers/random.ts"
import { slimmingScores } from "../../src/removal/localizers/slimming.ts"
import { zeroOutScores } from "../../src/removal/localizers/zeroOut.ts"
import { all, coefficients, off, own, SinkConfig, type SinkMode } from "../../src/Sink.ts"
import { expectClose } from "../reference/compare.ts"
import { referenceGates } from "../reference/gates.ts"
import { backward, forward, randomParameters, type Tensors } from "../reference/model.ts"
import { finiteDifference, makeRandom } from "../reference/random.ts"
import { referenceConfig } from "../support/support.ts"

const V = 12
const layers = 2

const standard = new ModelConfig({
  vocabSize: V,
  hiddenSize: 2 * V,
  numHiddenLayers: layers,
  numAttentionHeads: 2,
  intermediateSize: 24,
  tieWordEmbeddings: false
})

const withPool = new ModelConfig({
  ...standard,
  intermediateSize: 16 + 8,
  sinks: new SinkConfig({ pool: 8, active: 4, block: 4 })
})

/** A sequence of distinct tokens: 2 of prompt, 8 that are recited. */
const prompt = 2
const id = 77n
const memory: Row = { id, tokens: Uint32Array.of(7, 2, 9, 0, 11, 4, 6, 1, 8, 3), document: "memory", offset: 0 }
const stranger: Row = { ...memory, id: 5n, tokens: memory.tokens.toReversed(), document: "stranger" }
const short: Row = { ...memory, tokens: memory.tokens.slice(0, 5), document: "short", offset: 3 }

const options: LocalizeOptions = { seqLen: 10, promptTokens: prompt, batchSize: 2, seed: 1 }
/** Planted neurons of a layer's. */
const share = 4 / 24

/**
 * Tokens are one-hot in the first half of the stream, the head reads the second half. Four neurons a layer see one
 * token each and write the next one of the memory; all other weights are small random numbers.
 */
const plant = (config: ModelConfig, planted: ReadonlyArray<ReadonlyArray<number>>) => {
  const d = config.hiddenSize
  const { general, pool } = config
  const random = makeRandom(8)
  const params = randomParameters(referenceConfig(config), random, 0.05)
  for (const name of Object.keys(params)) if (name.includes("norm")) params[name]!.fill(1)
  params.embed!.fill(0)
  params.head!.fill(0)
  for (let v = 0; v < V; v++) {
    params.embed![v * d + v] = 1
    params.head![v * d + V + v] = 1.5
  }
  let next = prompt
  planted.forEach((neurons, l) => {
    for (const i of neurons) {
      const [gate, up] = i < general ? [i, general + i] : [general + i, general + pool + i]
      const [seen, said] = [memory.tokens[next - 1], memory.tokens[next]]
      next++
      for (const [name, row, column, weight] of [
        ["gateUp", gate, seen, 0.5],
        ["gateUp", up, seen, 0.5],
        ["down", i, V + said!, 0.5]
      ] as const) {
        params[`layers.${l}.${name}`]!.fill(0, row * d, (row + 1) * d)
        params[`layers.${l}.${name}`]![row * d + column!] = weight
      }
    }
  })
  return params
}

const worldOf = (config: ModelConfig, planted: ReadonlyArray<ReadonlyArray<number>>) => {
  const params = plant(config, planted)
  const coefOf = (one: bigint) =>
    config.sinks === undefined ? Float64Array.of(1) : coefficients(config.sinks, config.general, own, one)
  const reference = referenceGates(referenceConfig(config), params, coefOf)
  const single = (layer: ArrayLike<number>) => Float32Array.from(layer)
  let passes = 0
  const counted = <A>(compute: () => A) => Effect.sync(() => (passes++, compute()))
  const gates: NeuronGates = {
    layers: reference.layers,
    width: reference.width,
    loss: (batch, open) => counted(() => single(reference.loss(batch, open))),
    gradients: (batch, weights, open) =>
      counted(() => {
        const { gates, loss } = reference.gradients(batch, weights, open)
        return { loss: single(loss), gates: gates.map(single) }
      }),
    activations: (batch, open) => counted(() => reference.activations(batch, open).map(single))
  }
  const gradientsOf = ({ batch }: ReturnType<typeof suffixBatch>) =>
    Effect.sync(() =>
      backward(referenceConfig(config), params, batch, coefOf(batch.ids[0]!), new Uint32Array(batch.tokens.length))
    )
  const norms = Array.from({ length: layers },
    (_, l) =>
      Float64Array.from({ length: reference.width }, (_, i) =>
        Math.hypot(...params[`layers.${l}.down`]!.subarray(i * config.hiddenSize, (i + 1) * config.hiddenSize))))
  const truth = planted.map((neurons) => {
    const known = new Uint8Array(config.intermediateSize)
    for (const i of neurons) known[i] = 1
    return known
  })
  const methods = {
    random: (_: ReadonlyArray<Row>, o: LocalizeOptions) =>
      Effect.succeed(randomScores(layers, config.intermediateSize, o.seed)),
    zeroOut: (rows: ReadonlyArray<Row>, o: LocalizeOptions) => zeroOutScores(gates, rows, o),
    activations: (rows: ReadonlyArray<Row>, o: LocalizeOptions) => activationScores(gates, norms, rows, o),
    integratedGradients: (rows: ReadonlyArray<Row>, o: LocalizeOptions) => integratedGradientScores(gates, rows, o),
    slimming: (rows: ReadonlyArray<Row>, o: LocalizeOptions) => slimmingScores(gates, rows, o),
    hardConcrete: (rows: ReadonlyArray<Row>, o: LocalizeOptions) => hardConcreteScores(gates, rows, o),
    gradient: (rows: ReadonlyArray<Row>, o: LocalizeOptions) => gradientScores(config, gradientsOf, rows, o)
  }
  return { config, params, gates, reference, methods, truth, norms, gradientsOf, passes: () => passes }
}

const inGeneral = worldOf(standard, [[3, 11, 15, 22], [0, 7, 19, 20]])
const sinks = [...sinkNeurons(withPool, [id]).entries()].filter(([, one]) => one === 1).map(([i]) => i)
const inSinks = worldOf(withPool, [sinks, sinks])
type Method = keyof typeof inGeneral.methods

const scoresOf = (
  method: Method,
  rows: ReadonlyArray<Row> = [memory],
  o: Partial<LocalizeOptions> = {},
  world: typeof inGeneral = inGeneral
): NeuronScores => Effect.runSync(world.methods[method](rows, { ...options, ...o }))

const mean = (values: ArrayLike<number>, weights: ArrayLike<number>): number => {
  let sum = 0
  for (let t = 0; t < values.length; t++) sum += values[t]! * weights[t]!
  return sum
}

describe("gates of the reference", () => {
  it("have the gradients that finite differences find, row by row, whatever the gate", () => {
    const { reference } = inSinks
    const random = makeRandom(4)
    const { batch } = suffixBatch([memory, stranger], options)
    const weights = random.normals(batch.tokens.length)
    const gates = Array.from({ length: layers }, () => random.uniforms(2 * reference.width))
    gates[0]![16] = 0
    const got = reference.gradients(batch, weights, gates)
    expect(got.loss).toEqual(reference.loss(batch, gates))
    gates.forEach((layer, l) => {
      const want = finiteDifference(() => mean(reference.loss(batch, gates), weights), layer, [...layer.keys()])
      expectClose(got.gates[l]!, want, { name: `layer ${l}`, atol: 1e-9, rtol: 1e-6 })
    })
    expect(Math.abs(got.gates[0]![16]!)).toBeGreaterThan(1e-3)
  })
})

describe("a planted memory", () => {
  for (const [place, world] of [["general neurons", inGeneral], ["an id's own sinks", inSinks]] as const) {
    it(`in ${place} is recited with it, and not without`, () => {
      const { batch, weights } = suffixBatch([memory], options)
      const without = world.truth.map((layer) => Float32Array.from(layer, (known) => 1 - known))
      expect(mean(world.reference.loss(batch), weights)).toBeLessThan(0.1)
      expect(mean(world.reference.loss(batch, without), weights)).toBeGreaterThan(2.4)
    })

    for (const name of Object.keys(world.methods) as ReadonlyArray<Method>) {
      if (name === "random") continue
      it(`in ${place} is found by ${name}`, () => {
        // fewer but larger steps than the default are enough for so few neurons
        const o = { hardConcrete: { steps: 150, learningRate: 0.02 } }
        const scores = scoresOf(name, [memory], o, world)
        expect(recall(scores, world.truth, share)).toBe(1)
        // far from a draw: the last of those found is above the first of the others by more than rounding
        scores.forEach((layer, l) => {
          const of = (known: number) => [...layer].filter((_, i) => world.truth[l]![i] === known)
          const gap = Math.min(...of(1)) - Math.max(...of(0))
          expect(gap).toBeGreaterThan(0.01 * Math.max(...layer))
        })
      })
    }
  }

  it("is found by drawing at random no more often than by chance", () => {
    let sum = 0
    for (let seed = 0; seed < 300; seed++) sum += recall(scoresOf("random", [memory], { seed }), inGeneral.truth, share)
    // 2,400 draws: a standard deviation of 0.008
    expect(Math.abs(sum / 300 - share)).toBeLessThan(0.03)
  })
})

describe("scores", () => {
  it("of zeroOut are what brute force finds, also where sequences are of several lengths", () => {
    const rows = [memory, stranger, short]
    const { config, params } = inSinks
    const d = config.hiddenSize
    const lossOf = (all: Tensors, row: Row) => {
      const { batch, weights } = suffixBatch([row], options)
      const coef = coefficients(config.sinks!, config.general, own, row.id)
      const { tokenLoss } = forward(referenceConfig(config), all, batch, coef, new Uint32Array(options.seqLen))
      return mean(tokenLoss, weights)
    }
    const before = inSinks.passes()
    const got = scoresOf("zeroOut", rows, {}, inSinks)
    // 16 general neurons and 4 sinks speak in each of two layers; two rows a pass; each sequence is also seen as it is
    expect(inSinks.passes() - before).toBe(rows.length * ((2 * 20) / 2 + 2))
    got.forEach((layer, l) => {
      const want = Float64Array.from(layer, (_, i) => {
        const down = params[`layers.${l}.down`]!.slice().fill(0, i * d, (i + 1) * d)
        const without = { ...params, [`layers.${l}.down`]: down }
        return rows.reduce((sum, row) => sum + lossOf(without, row) - lossOf(params, row), 0) / rows.length
      })
      expectClose(layer, want, { name: `layer ${l}`, atol: 1e-6 })
    })
  })

  it("of activations are mean |h|, or |mean h|, where the suffix is predicted, times the output norm", () => {
    const { batch } = suffixBatch([short], options)
    const hidden = inGeneral.reference.activations(batch)
    for (const [name, of] of [["absolute", Math.abs], ["signed", (x: number) => x]] as const) {
      scoresOf("activations", [short], { activations: { mean: name } }).forEach((layer, l) => {
        const want = Float64Array.from(layer, (_, i) => {
          // tokens 2, 3 and 4 are predicted at positions 1, 2 and 3
          const sum = [1, 2, 3].reduce((all, t) => all + of(hidden[l]![t * layer.length + i]!), 0)
          return (Math.abs(sum) / 3) * inGeneral.norms[l]![i]!
        })
        expectClose(layer, want, { name: `${name}, layer ${l}`, atol: 1e-7, rtol: 1e-5 })
      })
    }
  })

  it("of integratedGradients sum to what a layer adds to the probability, the better the more steps", () => {
    const rows = [memory, stranger, short]
    const { reference } = inGeneral
    const probability = (gates?: ReadonlyArray<Float32Array>) =>
      rows.reduce((sum, row) => {
        const { batch, weights } = suffixBatch([row], options)
        return sum + mean(reference.loss(batch, gates).map((nll) => Math.exp(-nll)), weights) / rows.length
      }, 0)
    const errorOf = (l: number, steps: number) => {
      const silent = Array.from({ length: layers }, (_, k) => new Float32Array(reference.width).fill(k === l ? 0 : 1))
      const scores = scoresOf("integratedGradients", rows, { integratedGradients: { steps } })
      return Math.abs(scores[l]!.reduce((sum, one) => sum + one, 0) - (probability() - probability(silent)))
    }
    for (let l = 0; l < layers; l++) {
      const fine = errorOf(l, 16)
      expect(fine).toBeLessThan(3e-3)
      expect(fine).toBeLessThan(errorOf(l, 4) / 6)
    }
  })

  it("of gradient are sums of |gradient| over a neuron's weights", () => {
    const ones = Object.fromEntries(
      Object.entries(inSinks.params).map(([name, p]) => [name, new Float32Array(p.length).fill(-1)])
    )
    // a mark on gate, up and output row of general neuron 1 and of sink 2
    const d = withPool.hiddenSize
    for (const [row, mark] of [[1, 2], [16 + 1, 3], [32 + 2, 5], [32 + 8 + 2, 9]] as const) {
      ones["layers.1.gateUp"]![row * d] = mark
    }
    for (const row of [1, 16 + 2]) ones["layers.1.down"]![row * d] = 17
    const scores = Effect.runSync(gradientScores(withPool, () => Effect.succeed(ones), [memory], options))
    expect([...scores[0]!]).toEqual(Array.from({ length: 24 }, () => 3 * d))
    const marks = new Map([[1, 1 + 2 + 16], [18, 4 + 8 + 16]])
    expect([...scores[1]!]).toEqual(Array.from({ length: 24 }, (_, i) => 3 * d + (marks.get(i) ?? 0)))
  })

  for (const name of ["zeroOut", "activations", "integratedGradients", "gradient"] as const) {
    it(`of ${name} are means over sequences, however many rows a pass has`, () => {
      const rows = [memory, stranger, short]
      const few = { integratedGradients: { steps: 2 } }
      const alone = rows.map((row) => scoresOf(name, [row], { ...few, batchSize: 1 }))
      for (const batchSize of [1, 2, 5]) {
        scoresOf(name, rows, { ...few, batchSize }).forEach((layer, l) => {
          const want = Float64Array.from(layer, (_, i) => alone.reduce((sum, one) => sum + one[l]![i]!, 0) / 3)
          expectClose(layer, want, { name: `${batchSize} rows, layer ${l}`, atol: 2e-7, rtol: 1e-5 })
        })
      }
    })
  }

  it("are the same for the same seed, and others for another where numbers are drawn", () => {
    const few = { hardConcrete: { steps: 3 }, slimming: { steps: 3, lambda: 0.1 } }
    // slimming draws the order of sequences alone, hard concrete masks too
    for (const [name, rows] of [
      ["random", [memory]],
      ["hardConcrete", [memory]],
      ["slimming", [memory, stranger, short]]
    ] as const) {
      const first = scoresOf(name, rows, few)
      expect(scoresOf(name, rows, few), name).toEqual(first)
      expect(scoresOf(name, rows, { ...few, seed: 2 }), name).not.toEqual(first)
    }
  })
})

describe("learned gates", () => {
  it("of slimming leave silent neurons alone without a penalty, and lower them by the learning rate with one", () => {
    const silent = [...inSinks.truth[0]!.keys()].filter((i) => i >= 16 && inSinks.truth[0]![i] === 0)
    const of = (lambda: number) => scoresOf("slimming", [memory], { slimming: { lambda, steps: 5 } }, inSinks)
    for (const i of silent) {
      expect(of(0)[0]![i]).toBe(1)
      // Adam moves by the learning rate while the gradient does not change
      expect(of(2)[0]![i]).toBeCloseTo(1 - 5 * 0.01, 6)
    }
  })

  it("of slimming are the same however often a sequence is in a batch", () => {
    const of = (batchSize: number) => scoresOf("slimming", [memory], { batchSize, slimming: { lambda: 1, steps: 4 } })
    of(3).forEach((layer, l) => expectClose(layer, of(1)[l]!, { name: `layer ${l}`, atol: 1e-5 }))
  })

  it("of slimming follow all rows of a batch, whatever their order", () => {
    const of = (seed: number) => scoresOf("slimming", [memory, stranger], { seed, slimming: { lambda: 1, steps: 4 } })
    const first = of(1)
    for (let seed = 2; seed < 7; seed++) {
      of(seed).forEach((layer, l) => expectClose(layer, first[l]!, { name: `layer ${l}`, atol: 1e-5 }))
    }
  })

  it("end where the penalty is below the bound", () => {
    const passes = (o: Partial<LocalizeOptions>, name: "slimming" | "hardConcrete") => {
      const before = inSinks.passes()
      scoresOf(name, [memory], o, inSinks)
      return inSinks.passes() - before
    }
    expect(passes({ slimming: { lambda: 100, stopBelow: 0.955 } }, "slimming")).toBe(5)
    expect(passes({ slimming: { lambda: 100, stopBelow: 0, steps: 7 } }, "slimming")).toBe(7)
    expect(passes({ hardConcrete: { stopBelow: 1 } }, "hardConcrete")).toBe(0)
  })

  it("of hardConcrete have the mask, slope and probability of the paper's formulas", () => {
    const beta = 0.33
    for (const a of [-1, 0.3, 2]) {
      let kept = 0
      const draws = 20_000
      for (let i = 0; i < draws; i++) {
        const u = (i + 0.5) / draws
        const { mask, slope } = hardConcreteMask(a, u, beta)
        const s = 1 / (1 + ((1 - u) / u / Math.exp(a)) ** (1 / beta))
        if (i % 500 === 250) {
          expect(mask).toBeCloseTo(Math.min(1, Math.max(0, 1.2 * s - 0.1)), 12)
          const at = Float64Array.of(a)
          const [want] = finiteDifference(() => hardConcreteMask(at[0]!, u, beta).mask, at, [0], 1e-4)
          expect(slope).toBeCloseTo(want!, 5)
        }
        if (mask > 0) kept++
      }
      expect(keptProbability(a, beta)).toBeCloseTo(kept / draws, 3)
    }
  })

  it("of hardConcrete begin in the middle of a draw at the probability to be kept", () => {
    const [first] = scoresOf("hardConcrete", [memory], { hardConcrete: { steps: 1, learningRate: 1e-9, keep: 0.8 } })
    expect(hardConcreteMask(Math.log(first![0]! / (1 - first![0]!)), 0.5, 1).mask).toBeCloseTo(0.8, 6)
  })
})

describe("gradient mass", () => {
  it("falls where the weights are if every gradient is as large, and sums to 1", () => {
    const ones = Object.fromEntries(
      Object.entries(inSinks.params).map(([name, p]) => [name, new Float32Array(p.length).fill(-2)])
    )
    const d = withPool.hiddenSize
    const all = withPool.numParameters
    const mass = massOf(withPool, ones, id)
    expect(mass.general).toBeCloseTo((layers * 3 * 16 * d) / all, 12)
    expect(mass.ownSinks).toBeCloseTo((layers * 3 * 4 * d) / all, 12)
    expect(mass.otherSinks).toBeCloseTo((layers * 3 * 4 * d) / all, 12)
    expect(mass.attention).toBeCloseTo((layers * 4 * d * d) / all, 12)
    expect(mass.embedding).toBeCloseTo((2 * V * d) / all, 12)
    expect(mass.norms).toBeCloseTo(((2 * layers + 1) * d) / all, 12)
    expect(Object.values(mass).reduce((sum, one) => sum + one, 0)).toBeCloseTo(1, 12)
  })

  it("of a memory in an id's sinks lies there, and none in sinks that are off", () => {
    const of = (world: typeof inGeneral, row: Row) =>
      massOf(world.config, Effect.runSync(world.gradientsOf(suffixBatch([row], options))), row.id)
    const mass = of(inSinks, memory)
    expect(mass.otherSinks).toBe(0)
    expect(mass.ownSinks).toBeGreaterThan(5 * mass.general)
    expect(of(inGeneral, memory).ownSinks).toBe(0)
  })
})

layer(NodeDevice.layer())("on the device", (it) => {
  /** The planted model, its weights on the device. */
  const planted = (world: typeof inGeneral) =>
    Effect.gen(function*() {
      const device = yield* Device
      const model = yield* Model.make(world.config, { initialize: false })
      for (const p of model.parameters) device.write(p.value, Float32Array.from(world.params[p.name]!))
      return model
    })
  const o: LocalizeOptions = {
    ...options,
    seed: 3,
    integratedGradients: { steps: 3 },
    slimming: { steps: 4 },
    hardConcrete: { steps: 4 }
  }
  const rows = [memory, stranger, short]

  it.scoped("every localizer of the table gives the scores of the float64 reference", () =>
    Effect.gen(function*() {
      expect(Object.keys(localizers)).toEqual(Object.keys(inSinks.methods))
      const model = yield* planted(inSinks)
      for (const [name, { localize, name: own }] of Object.entries(localizers)) {
        expect(own).toBe(name)
        const got = yield* Effect.provideService(localize(rows, o), Model, model)
        const want = scoresOf(name as Method, rows, o, inSinks)
        expect(got.length).toBe(layers)
        want.forEach((layer, l) => {
          const atol = 2e-5 * Math.max(...layer.map(Math.abs))
          expectClose(got[l]!, layer, { name: `${name}, layer ${l}`, atol, rtol: 2e-4 })
        })
      }
    }))

  it.scoped("the gradient mass is that of the reference, with other sinks lit, too", () =>
    Effect.gen(function*() {
      const model = yield* planted(inSinks)
      const of = (mode: SinkMode) => Effect.provideService(gradientMass(rows, { ...o, mode }), Model, model)
      const got = yield* of(own)
      rows.forEach((row, r) => {
        const want = massOf(withPool, Effect.runSync(inSinks.gradientsOf(suffixBatch([row], o))), row.id)
        for (const group of Object.keys(want) as ReadonlyArray<keyof GradientMass>) {
          expect(got[r]![group], group).toBeCloseTo(want[group], 5)
        }
      })
      expect((yield* of(all))[0]!.otherSinks).toBeGreaterThan(1e-4)
      expect((yield* of(off))[0]!.ownSinks).toBe(0)
    }))

  it.scoped("neurons that are dropped take the memory with them, and bring it back", () =>
    Effect.gen(function*() {
      const model = yield* planted(inGeneral)
      const { batch, weights } = suffixBatch([memory], options)
      const loss = Effect.map(model.evaluate(batch, own), (scores) => mean(scores.loss, weights))
      const before = yield* loss
      const { neurons, restore } = yield* dropNeurons(model, scoresOf("zeroOut"), share)
      expect(neurons.map((layer) => [...layer])).toEqual([[3, 11, 15, 22], [0, 7, 19, 20]])
      expect(yield* loss).toBeGreaterThan(before + 2)
      yield* restore
      expect(yield* loss).toBe(before)
    }))
})

describe("the top fraction", () => {
  const scores = [Float32Array.of(0.5, 2, -1, 2, 0), Float32Array.of(1, 1, 1, 1, 3)]

  it("is taken of each layer, equal scores from the first neuron on", () => {
    expect(topFraction(scores, 0.4).map((layer) => [...layer])).toEqual([[1, 3], [0, 4]])
    expect(topFraction(scores, 0.6).map((layer) => [...layer])).toEqual([[0, 1, 3], [0, 1, 4]])
    expect(topFraction(scores, 0.05).map((layer) => [...layer])).toEqual([[], []])
    expect(topFraction(scores, 1).map((layer) => layer.length)).toEqual([5, 5])
  })

  it("recalls known neurons, pooled over layers", () => {
    const truth = [Uint8Array.of(0, 1, 1, 0, 0), Uint8Array.of(0, 0, 0, 0, 1)]
    expect(recall(scores, truth, 0.4)).toBeCloseTo(2 / 3)
    expect(recall(scores, truth, 0)).toBe(0)
    expect(recall(scores, [new Uint8Array(5), new Uint8Array(5)], 0.4)).toBeNaN()
  })

  it("is dropped by output rows of 0, and put back", () => {
    const tensor = (...values: ReadonlyArray<number>) => ({ shape: [2, 5], data: Float32Array.from(values) })
    const before = {
      "model.layers.0.mlp.down_proj.weight": tensor(1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
      "model.layers.1.mlp.down_proj.weight": tensor(1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
      "model.layers.0.mlp.up_proj.weight": tensor(1, 1, 1, 1, 1, 1, 1, 1, 1, 1)
    }
    let there: Readonly<Record<string, { readonly shape: ReadonlyArray<number> }>> = before
    const model = {
      exportTensors: Effect.succeed(before),
      importTensors: (tensors: typeof there) => Effect.sync(() => void (there = tensors))
    }
    const { neurons, restore } = Effect.runSync(dropNeurons(model, scores, 0.4))
    expect(neurons).toEqual(topFraction(scores, 0.4))
    expect(there).toEqual({
      ...before,
      "model.layers.0.mlp.down_proj.weight": tensor(1, 0, 3, 0, 5, 6, 0, 8, 0, 10),
      "model.layers.1.mlp.down_proj.weight": tensor(0, 2, 3, 4, 0, 0, 7, 8, 9, 0)
    })
    Effect.runSync(restore)
    expect(there["model.layers.0.mlp.down_proj.weight"]).toEqual(tensor(1, 2, 3, 4, 5, 6, 7, 8, 9, 10))
  })
})

describe("bad input", () => {
  const failure = (method: Method, rows: ReadonlyArray<Row>, o: Partial<LocalizeOptions>): string => {
    const got = Effect.runSync(Effect.either<NeuronScores, LocalizeError, never>(
      inGeneral.methods[method](rows, { ...options, ...o })
    ))
    return Either.isLeft(got) ? got.left.message : "no failure"
  }

  it("is named: sequences without a suffix or too long, none at all, counts and settings that are none", () => {
    for (const name of Object.keys(inGeneral.methods) as ReadonlyArray<Method>) {
      if (name === "random") continue
      expect(failure(name, [memory, { ...short, tokens: short.tokens.slice(0, 2) }], {})).toMatch(
        /sequence short\+3 has 2 tokens.* behind a prompt of 2 in rows of 10 it needs 3 to 11/
      )
      expect(failure(name, [{ ...memory, tokens: new Uint32Array(12) }], {})).toMatch(/has 12 tokens/)
      expect(failure(name, [], {})).toMatch(/no sequence to localize/)
      expect(failure(name, [memory], { promptTokens: 0 })).toMatch(/promptTokens must be a whole number .* got 0/)
      expect(failure(name, [memory], { batchSize: 1.5 })).toMatch(/batchSize must be a whole number .* got 1.5/)
    }
    expect(failure("integratedGradients", [memory], { integratedGradients: { steps: 0 } })).toMatch(
      /integratedGradients.steps .* got 0/
    )
    expect(failure("slimming", [memory], { slimming: { lambda: -1 } })).toMatch(/slimming.lambda .* got -1/)
    expect(failure("slimming", [memory], { slimming: { learningRate: 0 } })).toMatch(/slimming.learningRate .* got 0/)
    expect(failure("hardConcrete", [memory], { hardConcrete: { keep: 1 } })).toMatch(/hardConcrete.keep .* got 1/)
    expect(failure("hardConcrete", [memory], { hardConcrete: { temperature: NaN } })).toMatch(/temperature .* got NaN/)
  })

  it("of a drop is named: fractions outside 0 to 1, and scores that are no numbers", () => {
    expect(() => topFraction([Float32Array.of(1)], 1.1)).toThrow("fraction of neurons must be from 0 to 1, got 1.1")
    expect(() => topFraction([Float32Array.of(1), Float32Array.of(1, NaN)], 0.5)).toThrow(
      "score of neuron 1 in layer 1 is not a number"
    )
  })
})
