/** What a pass can take gradients of besides its mean loss, and whose gradients: heads, gates of neurons, updates. */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { type Batch, IGNORE } from "../../src/Batch.ts"
import { Device, type DeviceService } from "../../src/gpu/Device.ts"
import * as Tensor from "../../src/gpu/Tensor.ts"
import { neuronGates } from "../../src/inside/NeuronGates.ts"
import { Model, type ModelService } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { parametersOf } from "../../src/model/Parameters.ts"
import { type Head, HYPER, listTensors, type PassShape, recordPass, type Update } from "../../src/model/Pass.ts"
import * as Segments from "../../src/model/Segments.ts"
import * as NodeDevice from "../../src/node.ts"
import { all, off, own, SinkConfig, type SinkMode } from "../../src/Sink.ts"
import { memoryPlan } from "../../src/train/MemoryPlan.ts"
import { expectClose } from "../reference/compare.ts"
import * as Reference from "../reference/model.ts"
import { makeRandom } from "../reference/random.ts"
import { batchOfDocuments, referenceConfig } from "../support/support.ts"

const V = 45
const tied = new ModelConfig({
  vocabSize: V,
  hiddenSize: 24,
  numHiddenLayers: 2,
  numAttentionHeads: 2,
  headDim: 8,
  intermediateSize: 20 + 32,
  sinks: new SinkConfig({ pool: 32, active: 16, block: 8 })
})
const untied = new ModelConfig({ ...tied, tieWordEmbeddings: false })
const d = tied.hiddenSize
const width = tied.general + tied.pool
const documents = [[[1, 1n], [10, 2n], [5, 3n]], [[16, 1n]], [[7, 4n], [9, 2n]]] as const

/** Numbers as f32 holds them. */
const rounded = (values: ArrayLike<number>): Float64Array => Float64Array.from(values, Math.fround)

/** Weights, a batch and its segments' coefficients, for device and reference alike. */
const problem = (config: ModelConfig, rows: Parameters<typeof batchOfDocuments>[0] = documents,
  mode: SinkMode = own) =>
{
  const random = makeRandom(7)
  const reference = referenceConfig(config)
  const params = Object.fromEntries(
    Object.entries(Reference.randomParameters(reference, random, 0.3)).map(([name, value]) => [name, rounded(value)])
  )
  const batch = batchOfDocuments(rows, 16, V, random)
  batch.targets[3] = IGNORE
  const n = batch.tokens.length
  const segments = Segments.segmentsOf(batch)
  const count = segments.ids.length
  const coef = Float64Array.from(Segments.maskedCoefficients(config.sinks, config.general, mode, segments, count))
  const weights = rounded(random.normals(n))
  weights[5] = 0
  const gates = Array.from({ length: 2 }, () => rounded(random.uniforms(count * width, -0.3, 1.7)))
  const q = rounded(random.uniforms(n * V, 0, 2 / V))
  const goal = rounded(random.normals(n * d))
  const forward = (gates?: ReadonlyArray<Float64Array>) =>
    Reference.forward(reference, params, batch, coef, segments.segment, gates)
  const backward = (cache: Reference.Forward) =>
    Reference.backward(reference, params, batch, coef, segments.segment, cache)
  /** The reference's pass under a head. */
  const under = (head: Head, cache: Reference.Forward) =>
    head === "soft"
      ? Reference.soft(cache, batch, q, weights)
      : typeof head === "object"
      ? Reference.towards(cache, batch, head.hidden, goal, weights)
      : Reference.weighted(cache, weights)
  return { params, batch, segments, weights, gates, q, goal, forward, backward, under }
}

/** A model with the problem's weights. */
const modelOf = (
  config: ModelConfig,
  params: Reference.Tensors,
  dev: DeviceService,
  options: Parameters<typeof Model.make>[1] = {}
) =>
  Effect.tap(Effect.provideService(Model.make(config, options), Device, dev), (model) => {
    for (const p of model.parameters) dev.write(p.value, Float32Array.from(params[p.name]!))
  })

/** Gradients that begin as 1 everywhere. */
const fillGradients = (model: ModelService, dev: DeviceService) => {
  for (const p of model.parameters) dev.write(p.gradient, new Float32Array(Tensor.size(p.gradient)).fill(1))
}

const readGradients = (model: ModelService, dev: DeviceService) =>
  Effect.map(
    Effect.forEach(model.parameters, (p) => dev.read(p.gradient)),
    (data) => Object.fromEntries(model.parameters.map((p, i) => [p.name, data[i] as Float32Array]))
  )

const heads: ReadonlyArray<Head> = ["weighted", "soft", { hidden: 0 }, { hidden: 1 }]
const variants: ReadonlyArray<
  & { readonly name: string; readonly config: ModelConfig; readonly family?: "plain" | "gpu" }
  & Pick<PassShape, "compute" | "gates" | "recompute" | "precision">
> = [
  { name: "gathered", config: tied, compute: "gathered" },
  { name: "masked, untied", config: untied, compute: "masked" },
  { name: "gates of neurons", config: untied, gates: true },
  { name: "gates of neurons, recomputed, plain kernels", config: tied, gates: true, recompute: true, family: "plain" },
  { name: "gates of neurons, GPU kernels", config: tied, gates: true, family: "gpu" },
  { name: "f16", config: tied, compute: "gathered", precision: "f16" }
]

const show = (head: Head): string => (typeof head === "object" ? `hidden ${head.hidden}` : head)

layer(NodeDevice.layer())("heads and gates of a tiny model against the float64 reference", (it) => {
  for (const { config, family, name, ...variant } of variants) {
    for (const head of heads) {
      it.scoped(`loss and every gradient, ${show(head)}: ${name}`, (context) =>
        Effect.gen(function*() {
          const own = yield* Device
          const dev = family === undefined ? own : { ...own, target: { ...own.target, family } }
          const half = variant.precision === "f16"
          if (half && !dev.features.has("shader-f16")) {
            // a model of that precision is refused as a whole, see model.test.ts
            expect(yield* Effect.flip(modelOf(config, {}, dev, { precision: "f16" }))).toMatchObject({
              reason: "Feature"
            })
            return context.skip("the adapter has no shader-f16")
          }
          const { backward, batch, forward, gates, goal, params, q, segments, under, weights } = problem(config)
          const model = yield* modelOf(config, params, dev)
          yield* dev.allocate(model.parameters.map((p) => p.gradient))
          fillGradients(model, dev)
          // chunks of logits that do not divide the tokens; more segments than the batch has
          const pass = yield* model.compile({
            rows: 3,
            seqLen: 16,
            maxSegments: 8,
            output: "train",
            head,
            logitsBytes: 48 * 4 * 20,
            ...variant
          })
          expect(pass.gathered).toBe(variant.compute === "gathered")
          const { tensors } = pass
          const n = batch.tokens.length
          pass.load(batch, { mode: "own" })
          dev.write(tensors.weights!, Float32Array.from(weights))
          if (tensors.soft !== undefined) {
            const ld = tensors.soft.shape[1]!
            const padded = new Float32Array(n * ld).fill(NaN)
            for (let t = 0; t < n; t++) padded.set(q.subarray(t * V, (t + 1) * V), t * ld)
            dev.write(tensors.soft, padded)
          }
          if (tensors.hiddenTarget !== undefined) dev.write(tensors.hiddenTarget, Float32Array.from(goal))
          tensors.gates?.forEach((gate, i) => dev.write(gate, Float32Array.from(gates[i]!)))
          const scale = half ? 64 : 0.5
          dev.write(model.hyper, Float32Array.of(scale), HYPER.gradientScale)
          dev.submit(pass.prepared)

          const ungated = forward(variant.gates === true ? gates : undefined)
          const want = under(head, ungated)
          const wanted = backward(want)
          const lost = half ? 500 : 1
          const loss = (yield* dev.read(tensors.loss)) as Float32Array
          expectClose(loss, want.tokenLoss, { name: "loss", rtol: 4e-5 * lost, atol: 2e-5 * lost })
          expect(loss[3]).toBe(0)
          const got: Record<string, ArrayLike<number>> = yield* readGradients(model, dev)
          for (const p of model.parameters) {
            const gradient = Float64Array.from(got[p.name]!, (x) => (x - 1) / scale)
            const want = wanted[p.name]
            if (want === undefined) {
              // behind the hidden state that is trained towards
              expect(gradient.every((x) => x === 0), p.name).toBe(true)
              continue
            }
            const largest = want.reduce((most, x) => Math.max(most, Math.abs(x)), 0)
            expect(largest, p.name).toBeGreaterThan(1e-3)
            expectClose(gradient, want, {
              name: `gradient of ${p.name}`,
              rtol: 1e-4 * lost,
              atol: 3e-6 + 2e-5 * largest * (half ? 1500 : 1)
            })
          }
          const recorded = typeof head === "object" ? head.hidden + 1 : 2
          expect(tensors.gates?.length).toBe(variant.gates === true ? recorded : undefined)
          for (const [i, gradient] of (tensors.gateGradients ?? []).entries()) {
            const scaled = ((yield* dev.read(gradient)) as Float32Array).map((x) => x / scale)
            const want = new Float64Array(8 * width)
            want.set(wanted[`layers.${i}.gates`]!)
            const largest = want.reduce((most, x) => Math.max(most, Math.abs(x)), 0)
            expect(largest).toBeGreaterThan(1e-2)
            expectClose(scaled, want, { name: `gates of layer ${i}`, rtol: 1e-4, atol: 1e-5 * largest })
            const hidden = (yield* dev.read(tensors.hidden![i]!)) as Float32Array
            expectClose(hidden, ungated.layers[i]!.hidden, { name: `hidden ${i}`, rtol: 1e-4, atol: 1e-5 })
          }
          expect(segments.ids.length).toBeLessThan(8)
        }))
    }
  }

  it.scoped("scoring under a head gives its losses without weights", () =>
    Effect.gen(function*() {
      const dev = yield* Device
      const { batch, forward, goal, params, under } = problem(tied)
      const model = yield* modelOf(tied, params, dev)
      for (const head of ["weighted", { hidden: 0 }] as const) {
        const pass = yield* model.compile({ rows: 3, seqLen: 16, maxSegments: 8, output: "loss", head })
        pass.load(batch, own)
        dev.write(pass.tensors.weights!, new Float32Array(48).fill(NaN))
        if (pass.tensors.hiddenTarget !== undefined) dev.write(pass.tensors.hiddenTarget, Float32Array.from(goal))
        dev.submit(pass.prepared)
        const want = under(head, forward()).tokenLoss
        expectClose((yield* dev.read(pass.tensors.loss)) as Float32Array, want, { name: show(head), rtol: 4e-5,
          atol: 2e-5 })
      }
    }))
})

/** Which elements of a parameter's gradient an update asks for. */
const asked = (config: ModelConfig, name: string, { general = true, rest = true, sinks = true }: Update) => {
  const halves = name.endsWith("gateUp") ? 2 : name.endsWith("down") ? 1 : 0
  return (at: number): boolean => halves === 0 ? rest : at < halves * config.general * d ? general : sinks
}

const updates: ReadonlyArray<Update> = [
  { sinks: false },
  { general: false },
  { rest: false },
  { general: false, sinks: false },
  { general: false, rest: false },
  { sinks: false, rest: false },
  { general: false, sinks: false, rest: false }
]

const showUpdate = (update: Update): string => Object.keys(update).join(", ")

layer(NodeDevice.layer())("updates", (it) => {
  for (const [compute, head] of [["masked", "crossEntropy"], ["gathered", "crossEntropy"], ["masked", {
    hidden: 0
  }]] as const) {
    it.scoped(`ask for parts of the gradients of a whole pass, bit for bit: ${compute}, ${show(head)}`, () =>
      Effect.gen(function*() {
        const dev = yield* Device
        const { batch, params } = problem(untied)
        const model = yield* modelOf(untied, params, dev)
        yield* dev.allocate(model.parameters.map((p) => p.gradient))
        const run = (update?: Update) =>
          Effect.gen(function*() {
            const shape: PassShape = { rows: 3, seqLen: 16, maxSegments: 8, output: "train", compute, head }
            const pass = yield* model.compile(update === undefined ? shape : { ...shape, update })
            fillGradients(model, dev)
            pass.load(batch, own)
            if (pass.tensors.weights !== undefined) {
              dev.write(pass.tensors.weights, new Float32Array(48).fill(1))
              dev.write(pass.tensors.hiddenTarget!, new Float32Array(48 * d).fill(0.5))
            }
            dev.write(model.hyper, Float32Array.of(1), HYPER.gradientScale)
            dev.submit(pass.prepared)
            return { dispatches: pass.program.dispatches.length, gradients: yield* readGradients(model, dev) }
          })
        const whole = yield* run()
        for (const update of updates) {
          const part = yield* run(update)
          expect(part.dispatches, showUpdate(update)).toBeLessThanOrEqual(whole.dispatches)
          for (const p of model.parameters) {
            const isAsked = asked(untied, p.name, update)
            const [got, want] = [part.gradients[p.name]!, whole.gradients[p.name]!]
            const wrong = got.findIndex((x, at) => x !== (isAsked(at) ? want[at] : 1))
            expect(wrong, `${p.name} without ${showUpdate(update)}`).toBe(-1)
          }
        }
        // what is compared is not all 1
        const moved = ["layers.0.gateUp", "layers.0.down"].map((name) => {
          const first = (name.endsWith("down") ? 1 : 2) * untied.general * d
          const gradient = whole.gradients[name]!
          return [gradient.subarray(0, first), gradient.subarray(first)].map((part) => part.some((x) => x !== 1))
        })
        expect(moved).toEqual([[true, true], [true, true]])
      }))
  }
})

/** Names of the tensors that a pass's program touches. */
const touched = (shape: Omit<PassShape, "rows" | "seqLen">): ReadonlySet<string> => {
  const { program } = recordPass(untied, parametersOf(untied), Tensor.make("hyper", [16]), { rows: 2, seqLen: 8,
    ...shape })
  return new Set(program.dispatches.flatMap(({ tensors }) => tensors.map(({ name }) => name)))
}

describe("a recorded pass", () => {
  const none = { general: false, sinks: false, rest: false }

  it("needs no gradient that is not asked for, and computes nothing that only leads to one", () => {
    const gradients = (update: Update) =>
      [...touched({ output: "train", compute: "masked", update })].filter((name) => name.endsWith(".gradient"))
    expect(gradients(none)).toEqual([])
    expect(gradients({ general: false, rest: false })).toEqual(
      [1, 0].flatMap((i) => [`layers.${i}.down.gradient`, `layers.${i}.gateUp.gradient`])
    )
    expect(gradients({ general: false, sinks: false })).not.toContain("layers.0.down.gradient")
    // nothing to update: no backward pass, not even of activations
    expect([...touched({ output: "train", update: none })].filter((name) => /dx|dhidden|dqkv/.test(name))).toEqual([])
    // the first block's attention is before all neurons
    const onlySinks = touched({ output: "train", update: { general: false, rest: false } })
    expect(onlySinks).toContain("layers.1.dqkv")
    expect(onlySinks).not.toContain("layers.0.dqkv")
  })

  it("stops at the block whose residual stream its loss is taken of", () => {
    const hidden = touched({ output: "train", head: { hidden: 0 } })
    expect([...hidden].filter((name) => /layers\.1|norm$|head|logits/.test(name) && !/layers\.0/.test(name))).toEqual(
      []
    )
    expect([...touched({ output: "train", head: { hidden: 1 } })].some((name) => name.startsWith("layers.1"))).toBe(
      true
    )
  })

  it("has tensors of its own for weights, distributions, hidden states and gates, which the memory plan counts", () => {
    const shape = { rows: 2, seqLen: 8 }
    const extra = (more: Partial<PassShape>) => {
      const names = (shape: PassShape) =>
        listTensors(recordPass(untied, parametersOf(untied), Tensor.make("hyper", [16]), shape).tensors).map(
          Tensor.show
        )
      const plain = names({ ...shape, output: "train", compute: "masked" })
      const found = names({ ...shape, output: "train", compute: "masked", ...more })
      const planned = memoryPlan(untied, { ...shape, compute: "masked", ...more }).tensors.map(Tensor.show)
      const added = found.filter((name) => !plain.includes(name))
      for (const name of added) expect(planned).toContain(name)
      return added
    }
    expect(extra({ head: "weighted" })).toEqual(["weights f32[16]"])
    expect(extra({ head: "soft" })).toEqual(["weights f32[16]", "soft f32[16, 48]"])
    expect(extra({ head: { hidden: 1 } })).toEqual(["weights f32[16]", "hiddenTarget f32[16, 24]"])
    expect(extra({ gates: true, head: { hidden: 0 } })).toEqual([
      "weights f32[16]",
      "hiddenTarget f32[16, 24]",
      "layers.0.gates f32[2, 52]",
      "layers.0.gates.gradient f32[2, 52]",
      "layers.0.hidden f32[16, 52]",
      "segmentRange u32[2, 2]"
    ])
  })

  it("is what it was where nothing of this is asked for", () => {
    const shape = { rows: 2, seqLen: 8, output: "train" } as const
    const record = (shape: PassShape) =>
      recordPass(untied, parametersOf(untied), Tensor.make("hyper", [16]), shape).program
    const explicit = record({
      ...shape,
      head: "crossEntropy",
      gates: false,
      update: { general: true, sinks: true, rest: true }
    })
    expect(explicit).toEqual(record(shape))
    expect(explicit.dispatches.some(({ label }) => /gate\.|scale_rows|soft|hidden_loss/.test(label))).toBe(false)
  })

  const refused: ReadonlyArray<readonly [Partial<PassShape>, RegExp]> = [
    [{ head: "weighted", output: "logits" }, /output "logits" has no loss: leave out head, got "weighted"/],
    [{ head: { hidden: 0 }, output: "records" }, /output "records" has no loss: leave out head, got \{"hidden":0\}/],
    [{ head: { hidden: 2 } }, /head\.hidden must be a block from 0 to 1, got 2/],
    [{ head: { hidden: 0.5 } }, /head\.hidden must be a block from 0 to 1, got 0\.5/],
    [{ gates: true, compute: "gathered" }, /gates need every neuron of the pool: use compute "masked"/],
    [{ gates: true, precision: "f16" }, /gates are computed in f32, got precision "f16"/]
  ]
  for (const [shape, message] of refused) {
    it(`is refused: ${JSON.stringify(shape)}`, () => {
      expect(() => touched({ output: "train", ...shape })).toThrow(message)
    })
  }
})

layer(NodeDevice.layer())("neuronGates", (it) => {
  const rows = [[[16, 1n]], [[16, 2n]], [[16, 9n]]] as const
  const shape = { rows: 3, seqLen: 16 }
  const provide = (model: ModelService) => Effect.provideService(Model, model)

  it.scoped("are 1 in the model as it is, and differentiate the weighted loss of all rows", () =>
    Effect.gen(function*() {
      const dev = yield* Device
      const { backward, batch, forward, gates, params, under, weights } = problem(untied, rows)
      // a model that computes otherwise in f32 and gathered
      const model = yield* modelOf(untied, params, dev)
      const got = yield* neuronGates({ ...shape, mode: own }).pipe(provide(model))
      expect(got).toMatchObject({ layers: 2, width })
      const plain = (yield* model.evaluate(batch, own)).loss
      expectClose(yield* got.loss(batch), Float64Array.from(plain), { name: "loss", rtol: 1e-5, atol: 1e-5 })

      const given = gates.map((gate) => Float32Array.from(gate))
      const want = forward(gates)
      expectClose(yield* got.loss(batch, given), want.tokenLoss, { name: "gated loss", rtol: 4e-5, atol: 2e-5 })
      const hidden = yield* got.activations(batch, given)
      const wanted = backward(under("weighted", want))
      const { gates: gradients, loss } = yield* got.gradients(batch, Float32Array.from(weights), given)
      expectClose(loss, want.tokenLoss, { name: "loss with gradients", rtol: 4e-5, atol: 2e-5 })
      for (const i of [0, 1]) {
        expectClose(hidden[i]!, want.layers[i]!.hidden, { name: `hidden ${i}`, rtol: 1e-4, atol: 1e-5 })
        const gradient = wanted[`layers.${i}.gates`]!
        const largest = gradient.reduce((most, x) => Math.max(most, Math.abs(x)), 0)
        expectClose(gradients[i]!, gradient, { name: `gates ${i}`, rtol: 1e-4, atol: 1e-5 * largest })
      }
      // afterwards gates that are left out are 1 again
      expectClose(yield* got.loss(batch), Float64Array.from(plain), { name: "loss", rtol: 1e-5, atol: 1e-5 })
    }))

  it.scoped("leave what the mode switches off without activation and gradient", () =>
    Effect.gen(function*() {
      const dev = yield* Device
      const { batch, params, weights } = problem(tied, rows)
      const model = yield* modelOf(tied, params, dev)
      const run = (mode: SinkMode) =>
        Effect.gen(function*() {
          const gates = yield* neuronGates({ ...shape, mode }).pipe(provide(model))
          const [hidden] = yield* gates.activations(batch)
          const { gates: [gradient] } = yield* gates.gradients(batch, Float32Array.from(weights))
          const lit = (values: Float32Array) =>
            Array.from({ length: width }, (_, i) => i).filter((i) =>
              values.some((x, at) => at % width === i && x !== 0)
            )
          expect(lit(gradient!)).toEqual(lit(hidden!))
          return lit(hidden!).length
        })
      expect(yield* run(off)).toBe(tied.general)
      expect(yield* run(all)).toBe(width)
    }))

  it.scoped("are refused where they do not fit", () =>
    Effect.gen(function*() {
      const dev = yield* Device
      const { batch, params } = problem(tied, rows)
      const model = yield* modelOf(tied, params, dev)
      const gates = yield* neuronGates({ ...shape, mode: own }).pipe(provide(model))
      const refused = (effect: Effect.Effect<unknown, { readonly _tag: string; readonly detail?: string }>) =>
        Effect.map(Effect.flip(effect), (error) => `${error._tag}: ${error.detail}`)
      const one = new Float32Array(3 * width)
      expect(yield* refused(gates.loss(batch, [one]))).toBe(
        "DataError: gates: expected an array for each of 2 layers, got 1"
      )
      expect(yield* refused(gates.loss(batch, [one, new Float32Array(width)]))).toBe(
        "DataError: gates of layer 1, [3, 52]: expected 156 numbers, got 52"
      )
      expect(yield* refused(gates.gradients(batch, new Float32Array(4)))).toBe(
        "DataError: weights of tokens: expected 48 numbers, got 4"
      )
      const packed: Batch = problem(tied, [[[16, 1n]], [[16, 2n]], [[8, 9n], [8, 4n]]]).batch
      expect(yield* refused(gates.loss(packed))).toMatch(/^DataError: the batch holds 4 documents/)
      const merged: Batch = { ...batch, documentStart: batch.documentStart.slice().fill(0, 0, 32),
        ids: batch.ids.slice().fill(1n) }
      expect(yield* refused(gates.loss(merged))).toMatch(
        /^DataError: gates: each row of the batch must hold one sequence/
      )
    }))
})
