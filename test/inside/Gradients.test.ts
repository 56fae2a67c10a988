import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { IGNORE } from "../../src/Batch.ts"
import { Device } from "../../src/gpu/Device.ts"
import * as Tensor from "../../src/gpu/Tensor.ts"
import { decompose } from "../../src/inside/Decomposition.ts"
import { absoluteMass, difference, innerProducts, makeGradients, type ParameterMap, PARTS, partsOf, rms,
  weights } from "../../src/inside/Gradients.ts"
import { toHuggingFace } from "../../src/model/HuggingFace.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { listParameters, parametersOf } from "../../src/model/Parameters.ts"
import * as Segments from "../../src/model/Segments.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Sink from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { makeTrainStep } from "../../src/train/TrainStep.ts"
import { expectClose } from "../reference/compare.ts"
import * as Reference from "../reference/model.ts"
import { makeRandom } from "../reference/random.ts"
import { batchOfDocuments, referenceConfig } from "../support/support.ts"

const base = {
  vocabSize: 45,
  hiddenSize: 24,
  numHiddenLayers: 2,
  numAttentionHeads: 2,
  headDim: 8,
  intermediateSize: 20 + 32
}
const tied = new ModelConfig({ ...base, sinks: new Sink.SinkConfig({ pool: 32, active: 16, block: 8 }) })
const untied = new ModelConfig({ ...tied, tieWordEmbeddings: false })
const bernoulli = new ModelConfig({
  ...base,
  tieWordEmbeddings: false,
  sinks: new Sink.SinkConfig({ pool: 32, active: 8, block: 1, assignment: "bernoulli" })
})
const standard = new ModelConfig({ ...base, intermediateSize: 28 })

const ragged = [[[1, 1n], [10, 2n], [5, 3n]], [[16, 1n]], [[7, 4n], [9, 2n]]] as const
const shape = { rows: 3, seqLen: 16, maxSegments: 6 }

const seed = 1 + Math.floor(Math.random() * 1e6)

const bits = (data: Float32Array | Uint32Array) => Buffer.from(data.buffer, data.byteOffset, data.byteLength)
const same = (a: Float32Array | Uint32Array, b: Float32Array | Uint32Array) => bits(a).equals(bits(b))

/** Weights as f32 holds them, large enough that nothing is linear. */
const randomWeights = (config: ModelConfig, seed: number): Reference.Tensors =>
  Object.fromEntries(
    Object.entries(Reference.randomParameters(referenceConfig(config), makeRandom(seed), 0.3))
      .map(([name, value]) => [name, Float64Array.from(value, Math.fround)])
  )

const batchesOf = (config: ModelConfig, seed: number) => {
  const random = makeRandom(seed + 1)
  return Array.from({ length: 3 }, () => {
    const batch = batchOfDocuments(ragged, 16, config.vocabSize, random)
    batch.targets[3 + random.int(6)] = IGNORE
    return batch
  })
}

const write = (params: Reference.Tensors | ParameterMap) =>
  Effect.gen(function*() {
    const device = yield* Device
    const model = yield* Model
    for (const { name, value } of model.parameters) {
      device.write(value,
        Float32Array.from(params instanceof Map ? params.get(name)! : (params as Reference.Tensors)[name]))
    }
  })

layer(NodeDevice.layer())("gradients beside a training", (it) => {
  for (const [name, config, mode] of [
    ["tied, own", tied, Sink.own],
    ["tied, off", tied, Sink.off],
    ["untied, own", untied, Sink.own],
    ["untied, all", untied, Sink.all],
    ["untied, own and another id's", untied, { mode: "own", also: [9n], except: [2n] }],
    ["bernoulli, own", bernoulli, Sink.own],
    ["bernoulli, off", bernoulli, Sink.off],
    ["no sinks", standard, Sink.own],
    ["no sinks, all", standard, Sink.all]
  ] as const) {
    it.effect(`are those of the float64 reference: ${name}`, () =>
      Effect.scoped(Effect.gen(function*() {
        const params = randomWeights(config, seed)
        yield* write(params)
        const gradients = yield* makeGradients(shape)
        const batches = batchesOf(config, seed)
        for (const batch of batches) {
          const segments = Segments.segmentsOf(batch)
          const coef = Float64Array.from(
            Segments.maskedCoefficients(config.sinks, config.general, mode, segments, segments.ids.length)
          )
          const reference = referenceConfig(config)
          const forward = Reference.forward(reference, params, batch, coef, segments.segment)
          const want = Reference.backward(reference, params, batch, coef, segments.segment, forward)
          const got = yield* gradients.of(batch, mode)
          expectClose([got.loss], [forward.loss], { name: `loss, seed ${seed}`, rtol: 1e-5 })
          expect([...got.gradients.keys()]).toEqual(Object.keys(params))
          for (const [parameter, gradient] of got.gradients) {
            const largest = Math.max(...want[parameter]!.map(Math.abs))
            expectClose(gradient, want[parameter]!, {
              name: `${parameter}, seed ${seed}`,
              rtol: 1e-4,
              atol: 3e-6 + 3e-5 * largest
            })
          }
        }
        // the first again: nothing of the batches in between is left
        const [first] = batches
        const a = yield* gradients.of(first!, mode)
        yield* gradients.of(batches[1]!, mode)
        const b = yield* gradients.of(first!, mode)
        for (const [parameter, gradient] of a.gradients) expect(same(gradient, b.gradients.get(parameter)!)).toBe(true)
      })).pipe(Effect.provide(Model.layer(config))))
  }

  it.effect("are 0, as the loss is, where nothing is scored; and unlit sinks have exactly none", () =>
    Effect.scoped(Effect.gen(function*() {
      yield* write(randomWeights(tied, seed))
      const gradients = yield* makeGradients({ rows: 1, seqLen: 16 })
      const full = batchOfDocuments([[[16, 5n]]], 16, 45, makeRandom(seed))
      const none = yield* gradients.of({ ...full, targets: full.targets.map(() => IGNORE) }, Sink.own)
      expect(none.loss).toBe(0)
      expect(innerProducts(none.gradients, none.gradients, tied).all).toBe(0)
      const some = yield* gradients.of(full, Sink.own)
      const lit = new Set(Sink.unitsOf(tied.sinks!, 5n))
      const down = some.gradients.get("layers.1.down")!
      for (let unit = 0; unit < tied.sinks!.units; unit++) {
        const from = (tied.general + unit * 8) * tied.hiddenSize
        const own = down.subarray(from, from + 8 * tied.hiddenSize)
        expect(own.some((x) => x !== 0)).toBe(lit.has(unit))
      }
      expect(innerProducts((yield* gradients.of(full, Sink.off)).gradients, some.gradients, tied).sinks).toBe(0)
    })).pipe(Effect.provide(Model.layer(tied))))

  for (const [name, config, sinks, precision] of [
    ["lazy sinks", tied, "lazy", "f32"],
    ["dense sinks", untied, "dense", "f32"],
    ["dense sinks, masked", bernoulli, "dense", "f32"],
    ["no sinks", standard, "dense", "f32"],
    ["lazy sinks, f16", tied, "lazy", "f16"]
  ] as const) {
    it.effect(`leave every bit of a training as it is: ${name}`, (context) =>
      Effect.gen(function*() {
        const device = yield* Device
        if (precision === "f16" && !device.features.has("shader-f16")) {
          return context.skip("the adapter has no shader-f16")
        }
        const batches = batchesOf(config, seed)
        const run = (probed: boolean) =>
          Effect.gen(function*() {
            const model = yield* Model
            yield* write(randomWeights(config, seed))
            const training = yield* makeTrainStep({
              optimizer: new OptimizerConfig({ sinks, learningRate: 1e-2 }),
              steps: 6,
              window: 6,
              parameters: model.parameters
            })
            const pass = yield* training.compile(shape)
            const { history, moments, scaler, stats } = training.optimizer
            const state = Effect.forEach(
              [
                ...model.parameters.flatMap(({ gradient, value }) => [gradient, value]),
                ...moments.flatMap(({ m, v }) => [m, v]),
                ...training.optimizer.tensors.filter(({ name }) => name.startsWith("touched")),
                history,
                stats,
                ...(scaler === undefined ? [] : [scaler])
              ],
              (tensor) => Effect.map(device.read(tensor), (data) => [tensor.name, data] as const)
            )
            const gradients = yield* makeGradients(shape)
            const logits = yield* decompose({ rows: 2, seqLen: 16, maxSegments: 6 })
            const probe = Effect.gen(function*() {
              const before = yield* state
              for (const mode of [Sink.own, Sink.off, Sink.all]) {
                for (const batch of batches) {
                  yield* gradients.of(batch, mode)
                  yield* logits.of(batch, mode)
                }
              }
              for (const [i, [name, data]] of (yield* state).entries()) {
                expect(same(data, before[i]![1]), name).toBe(true)
              }
            })
            if (probed) yield* probe
            for (let step = 0; step < 6; step++) {
              training.run([{ pass, batch: batches[step % 3]!, mode: Sink.own }], step)
              if (probed && step % 2 === 0) yield* probe
            }
            return { state: yield* state, weights: yield* weights }
          }).pipe(Effect.scoped, Effect.provide(Model.layer(config, { precision })))
        const plain = yield* run(false)
        const probed = yield* run(true)
        for (const [i, [name, data]] of plain.state.entries()) expect(same(data, probed.state[i]![1]), name).toBe(true)
        // it did train
        const start = new Map(
          Object.entries(randomWeights(config, seed)).map(([name, data]) => [name, Float32Array.from(data)])
        )
        const moved = rms(difference(plain.weights, start), config)
        for (const { part, value } of moved) expect(value, part).toBeGreaterThan(1e-3)
      }))
  }

  it.effect("predict what a small move of each part does to the loss", () =>
    Effect.scoped(Effect.gen(function*() {
      const random = makeRandom(seed)
      yield* write(randomWeights(untied, seed))
      const gradients = yield* makeGradients(shape)
      const [batch] = batchesOf(untied, seed)
      const at = yield* weights
      const { gradients: gradient } = yield* gradients.of(batch!, Sink.own)
      for (const part of [...PARTS, "all"] as const) {
        const moved = new Map([...at.keys()].map((name) => [name, new Float32Array(at.get(name)!.length)]))
        for (const slice of partsOf(untied)) {
          if (part !== "all" && slice.part !== part) continue
          const g = gradient.get(slice.parameter)!
          const move = moved.get(slice.parameter)!
          // along the gradient, so that it is not lost among roundings, and aside
          for (let i = slice.from; i < slice.to; i++) move[i] = g[i]! + random.normal(0.02)
        }
        const products = innerProducts(gradient, moved, untied)
        for (const other of PARTS) if (part !== "all" && other !== part) expect(products[other]).toBe(0)
        // so far that the loss moves by 1e-3
        const step = 1e-3 / products.all
        const lossAt = (sign: 1 | -1) =>
          Effect.gen(function*() {
            yield* write(
              new Map([...at].map(([name, w]) => [name, w.map((x, i) => x + sign * step * moved.get(name)![i]!)]))
            )
            return (yield* gradients.of(batch!, Sink.own)).loss
          })
        const observed = ((yield* lossAt(1)) - (yield* lossAt(-1))) / 2
        expectClose([observed], [1e-3], { name: `${part}, seed ${seed}`, rtol: 5e-3 })
      }
    })).pipe(Effect.provide(Model.layer(untied))))

  it.effect("refuse batches of another shape", () =>
    Effect.scoped(Effect.gen(function*() {
      const gradients = yield* makeGradients({ rows: 1, seqLen: 16 })
      const wrong = yield* Effect.flip(gradients.of(batchesOf(tied, 1)[0]!, Sink.own))
      expect(wrong).toMatchObject({ _tag: "DataError", message: expect.stringContaining("3 rows") })
      const packed = batchOfDocuments([ragged[0]], 16, 45, makeRandom(1))
      const many = yield* Effect.flip(gradients.of(packed, Sink.own))
      expect(many).toMatchObject({ _tag: "DataError", message: expect.stringContaining("raise maxSegments") })
    })).pipe(Effect.provide(Model.layer(tied))))
})

describe("parts of a model", () => {
  const random = makeRandom(seed)
  const mapOf = (config: ModelConfig, value = () => random.normal()): ParameterMap =>
    new Map(
      listParameters(parametersOf(config)).map((
        p
      ) => [p.name, Float32Array.from({ length: Tensor.size(p.value) }, value)])
    )

  for (const [name, config] of Object.entries({ tied, untied, bernoulli, standard })) {
    it(`cover every element once: ${name}`, () => {
      const counts = mapOf(config, () => 0)
      for (const { from, parameter, to } of partsOf(config)) {
        expect(from).toBeLessThan(to)
        for (let i = from; i < to; i++) counts.get(parameter)![i]!++
      }
      for (const [parameter, count] of counts) expect(count.every((n) => n === 1), parameter).toBe(true)
      expect(partsOf(config).some(({ part }) => part === "sinks")).toBe(config.sinks !== undefined)
    })
  }

  it("divide neurons as Hugging Face's tensors do", () => {
    for (const config of [tied, standard]) {
      // every element says which part it belongs to
      const marked = mapOf(config, () => -1)
      for (const { from, layer, parameter, part, to } of partsOf(config)) {
        marked.get(parameter)!.fill(10 * layer + PARTS.indexOf(part), from, to)
      }
      for (const [name, data] of marked) {
        for (const [theirs, tensor] of toHuggingFace(config, name, data)) {
          const [rows, columns] = tensor.shape as [number, number]
          const layer = Number(/layers\.(\d+)/.exec(theirs)?.[1] ?? -1)
          for (const [i, mark] of (tensor.data as Float32Array).entries()) {
            const neuron = theirs.includes("down_proj") ? i % columns : Math.floor(i / columns)
            const part = /embed|head/.test(theirs) ? 0 : !theirs.includes(".mlp.") ? 1 : neuron < config.general ? 2 : 3
            if (mark !== 10 * layer + part) throw new Error(`${theirs} [${rows}, ${columns}] at ${i}: ${mark}`)
          }
        }
      }
    }
  })

  it("add up products, squares and absolute values", () => {
    const [a, b] = [mapOf(untied), mapOf(untied)]
    const naive = (part: string, layer?: number) => {
      const sums = { product: 0, squares: 0, mass: 0, count: 0 }
      for (const slice of partsOf(untied)) {
        if (part !== "all" && slice.part !== part || layer !== undefined && slice.layer !== layer) continue
        for (let i = slice.from; i < slice.to; i++) {
          const [x, y] = [a.get(slice.parameter)![i], b.get(slice.parameter)![i]]
          sums.product += x! * y!
          sums.squares += x! * x!
          sums.mass += Math.abs(x!)
          sums.count++
        }
      }
      return sums
    }
    for (const [part, value] of Object.entries(innerProducts(a, b, untied))) {
      expect(value).toBeCloseTo(naive(part).product, 9)
    }
    const places = [[-1, "embedding"], [-1, "attention"]]
    for (let l = 0; l < 2; l++) places.push([l, "attention"], [l, "general"], [l, "sinks"])
    const [sizes, masses] = [rms(a, untied), absoluteMass(a, untied)]
    expect(sizes.map(({ layer, part }) => [layer, part])).toEqual(places)
    expect(masses.map(({ layer, part }) => [layer, part])).toEqual(places)
    for (const [i, { layer, part, value }] of sizes.entries()) {
      const want = naive(part, layer)
      expect(value).toBeCloseTo(Math.sqrt(want.squares / want.count), 12)
      expect(masses[i]!.value).toBeCloseTo(want.mass, 8)
    }
    expect(innerProducts(mapOf(standard), mapOf(standard), standard).sinks).toBe(0)
    const moved = difference(a, b)
    for (const [name, data] of moved) {
      expect([...data]).toEqual([...a.get(name)!].map((x, i) => Math.fround(x - b.get(name)![i]!)))
    }
  })

  it("are refused for maps of another model", () => {
    const a = mapOf(tied)
    expect(() => innerProducts(a, mapOf(standard), tied)).toThrow(/b: expected 2496 values of .*gateUp, got 1344/)
    expect(() => rms(a, untied)).toThrow(/values: expected 1080 values of parameter head, got none/)
    expect(() => difference(mapOf(untied), a)).toThrow(/before: expected 1080 values of parameter head, got none/)
  })
})
