import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { expect } from "vitest"
import { type Batch, IGNORE } from "../../src/Batch.ts"
import { batchOf } from "../../src/data/stream/Packing.ts"
import { Device } from "../../src/gpu/Device.ts"
import { decompose, type DecomposedLogits } from "../../src/inside/Decomposition.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as Segments from "../../src/model/Segments.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Sink from "../../src/Sink.ts"
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
  sinks: new Sink.SinkConfig({ pool: 32, active: 16, block: 8 })
})
const untied = new ModelConfig({ ...tied, numHiddenLayers: 3, tieWordEmbeddings: false, rmsNormEps: 0.1 })
const bernoulli = new ModelConfig({
  ...untied,
  sinks: new Sink.SinkConfig({ pool: 32, active: 8, block: 1, assignment: "bernoulli" })
})
const standard = new ModelConfig({ ...tied, intermediateSize: 28, sinks: undefined })
const d = tied.hiddenSize

const seed = 1 + Math.floor(Math.random() * 1e6)

/** Weights as f32 holds them, large enough that nothing is linear. */
const randomWeights = (config: ModelConfig): Reference.Tensors =>
  Object.fromEntries(
    Object.entries(Reference.randomParameters(referenceConfig(config), makeRandom(seed), 0.3))
      .map(([name, value]) => [name, Float64Array.from(value, Math.fround)])
  )

const write = (params: Reference.Tensors) =>
  Effect.gen(function*() {
    const device = yield* Device
    const model = yield* Model
    for (const { name, value } of model.parameters) device.write(value, Float32Array.from(params[name]!))
  })

/** Five sequences, one a row, of lengths of their own; the third is scored from its middle on. */
const ragged = (): Batch => {
  const random = makeRandom(seed + 1)
  return batchOf(
    Array.from({ length: 5 }, (_, i) => ({
      id: BigInt(i % 4),
      tokens: random.ints(2 + random.int(14), V),
      document: `sequence ${i}`,
      offset: 0,
      ...(i === 2 ? { scoredFrom: 3 } : {})
    })),
    16
  )
}

/** Documents that share rows, three in two of them, and in the last. */
const packed = (): Batch =>
  batchOfDocuments([[[16, 1n]], [[7, 4n], [9, 2n]], [[1, 1n], [10, 2n], [5, 3n]]], 16, V, makeRandom(seed + 2))

/** The centered logit of each true token, from all logits. */
const centered = (logits: ArrayLike<number>, targets: Uint32Array): Float64Array =>
  Float64Array.from(targets, (target, t) => {
    if (target === IGNORE) return 0
    let mean = 0
    for (let v = 0; v < V; v++) mean += logits[t * V + v]! / V
    return logits[t * V + target]! - mean
  })

const sumOf = ({ logit, parts }: DecomposedLogits): Float64Array =>
  logit.map((_, t) => parts.reduce((sum, part) => sum + part.logit[t]!, 0))

const find = ({ parts }: DecomposedLogits, layer: number, part: string): Float64Array =>
  parts.find((one) => one.layer === layer && one.part === part)!.logit

const tolerance = { rtol: 2e-5, atol: 2e-5 }

layer(NodeDevice.layer())("a decomposition of logits", (it) => {
  for (const [name, config, mode, make] of [
    ["tied, own", tied, Sink.own, ragged],
    ["tied, off", tied, Sink.off, ragged],
    ["tied, off, rescaled, packed", tied, { mode: "off", rescale: "count" }, packed],
    ["untied, own", untied, Sink.own, ragged],
    ["untied, own, packed", untied, Sink.own, packed],
    ["untied, own but for a deleted id and with another", untied, { mode: "own", also: [7n], except: [2n] }, ragged],
    ["untied, all", untied, Sink.all, ragged],
    ["untied, placebo", untied, Sink.placebo, ragged],
    ["bernoulli, own", bernoulli, Sink.own, packed],
    ["bernoulli, only", bernoulli, { mode: "only", ids: [2n] }, ragged],
    ["no sinks", standard, Sink.own, ragged]
  ] as const) {
    it.effect(`adds up to the logit, its parts those of the float64 reference: ${name}`, () =>
      Effect.scoped(Effect.gen(function*() {
        const params = randomWeights(config)
        yield* write(params)
        const model = yield* Model
        const batch = make()
        const { targets } = batch
        // fewer rows at once than there are, the last ones padded
        const decomposition = yield* decompose({ rows: 2, seqLen: 16, ...(make === packed ? { maxSegments: 3 } : {}) })
        const got = yield* decomposition.of(batch, mode)

        const whole = centered(yield* model.logits(batch, mode), targets)
        expect(Math.max(...whole.map(Math.abs))).toBeGreaterThan(1)
        expectClose(got.logit, whole, { name: `logit, seed ${seed}`, ...tolerance })
        expectClose(sumOf(got), whole, { name: `sum of parts, seed ${seed}`, ...tolerance })
        expectClose(got.loss, (yield* model.evaluate(batch, mode)).loss, { name: "loss", ...tolerance })

        const segments = Segments.segmentsOf(batch)
        const { general, intermediateSize: width, sinks } = config
        const coef = Float64Array.from(Segments.maskedCoefficients(sinks, general, mode, segments, segments.ids.length))
        const { layers, x } = Reference.forward(referenceConfig(config), params, batch, coef, segments.segment)
        const head = config.tieWordEmbeddings ? params.embed! : params.head!
        /** What the rows of a stream [n, d] add to the centered logits. */
        const along = (of: (t: number, k: number) => number): Float64Array =>
          Float64Array.from(targets, (target, t) => {
            if (target === IGNORE) return 0
            let [sum, squares] = [0, 0]
            for (let k = 0; k < d; k++) {
              let mean = 0
              for (let v = 0; v < V; v++) mean += head[v * d + k]! / V
              squares += x[t * d + k]! ** 2
              sum += of(t, k) * params.norm![k]! * (head[target * d + k]! - mean)
            }
            return sum / Math.sqrt(squares / d + config.rmsNormEps)
          })
        const neurons = (l: number, from: number, to: number) => (t: number, k: number) => {
          let sum = 0
          for (let j = from; j < to; j++) sum += layers[l]!.h[t * width + j]! * params[`layers.${l}.down`]![j * d + k]!
          return sum
        }
        const want = [
          { layer: -1, part: "embedding", logit: along((t, k) => params.embed![batch.tokens[t]! * d + k]!) },
          ...layers.flatMap((layer, l) => [
            { layer: l, part: "attention", logit: along((t, k) => layer.middle[t * d + k]! - layer.x[t * d + k]!) },
            { layer: l, part: "general", logit: along(neurons(l, 0, general)) },
            ...(sinks === undefined ? [] : [{ layer: l, part: "sinks", logit: along(neurons(l, general, width)) }])
          ])
        ]
        expect(got.parts.map(({ layer, part }) => [layer, part])).toEqual(want.map(({ layer, part }) => [layer, part]))
        for (const [i, { layer, logit, part }] of want.entries()) {
          expectClose(got.parts[i]!.logit, logit, { name: `${part} of ${layer}, seed ${seed}`, ...tolerance })
          const silent = part === "sinks" && mode.mode === "off"
          expect(logit.some((value) => Math.abs(value) > 1e-3)).toBe(!silent)
          if (silent) expect(got.parts[i]!.logit.every((value) => value === 0)).toBe(true)
          targets.forEach((target, t) => {
            if (target === IGNORE) expect(got.parts[i]!.logit[t]).toBe(0)
          })
        }
      })).pipe(Effect.provide(Model.layer(config))))
  }

  it.effect("shows a sink that writes something else in its own part and behind it only, and only where it is lit", () =>
    Effect.scoped(Effect.gen(function*() {
      const params = randomWeights(untied)
      yield* write(params)
      const batch = ragged()
      const decomposition = yield* decompose({ rows: 5, seqLen: 16 })
      const before = yield* decomposition.of(batch, Sink.own)
      const [unit] = Sink.unitsOf(untied.sinks!, 0n)
      const lit = Array.from(batch.ids, (id) => Sink.unitsOf(untied.sinks!, id).includes(unit!))
      expect(new Set(lit).size).toBe(2)
      const sink = untied.general + unit! * 8 + 3
      const down = params["layers.1.down"]!.slice()
      for (let k = 0; k < d; k++) down[sink * d + k]! += 1
      yield* write({ ...params, "layers.1.down": down })
      const after = yield* decomposition.of(batch, Sink.own)
      for (const [i, { layer, part }] of before.parts.entries()) {
        const changed = layer > 1 || layer === 1 && part === "sinks"
        // the final norm's scale changes for all of them
        const [a, b] = [before, after].map(({ parts, scale }) =>
          parts[i]!.logit.map((value, t) => (scale[t] === 0 ? 0 : value / scale[t]!))
        )
        const unlike = [...a!.keys()].filter((t) => Math.abs(a![t]! - b![t]!) > 1e-9 * Math.max(1, Math.abs(a![t]!)))
        if (!changed) expect(unlike, `${part} of ${layer}`).toEqual([])
        else {
          expect(unlike.length, `${part} of ${layer}`).toBeGreaterThan(0)
          expect(unlike.every((t) => lit[t]), `${part} of ${layer}`).toBe(true)
        }
      }
      expect(before.logit.some((value, t) => Math.abs(value - after.logit[t]!) > 1e-3)).toBe(true)
    })).pipe(Effect.provide(Model.layer(untied))))

  it.effect("does not depend on how many rows are computed at once, nor on what is computed before", () =>
    Effect.scoped(Effect.gen(function*() {
      yield* write(randomWeights(tied))
      const [one, four] = [yield* decompose({ rows: 1, seqLen: 16 }), yield* decompose({ rows: 4, seqLen: 16 })]
      const batch = ragged()
      const a = yield* four.of(batch, Sink.own)
      yield* four.of(batch, Sink.all)
      yield* write({ ...randomWeights(tied), norm: new Float64Array(d) })
      expect(sumOf(yield* four.of(batch, Sink.own)).every((value) => value === 0)).toBe(true)
      yield* write(randomWeights(tied))
      expect(yield* four.of(batch, Sink.own)).toEqual(a)
      const b = yield* one.of(batch, Sink.own)
      for (const { layer, logit, part } of a.parts) {
        expectClose(find(b, layer, part), logit, { name: `${part} of ${layer}`, ...tolerance })
      }
    })).pipe(Effect.provide(Model.layer(tied))))

  it.effect("refuses rows of another length and more documents than it was made for", () =>
    Effect.scoped(Effect.gen(function*() {
      const decomposition = yield* decompose({ rows: 2, seqLen: 16 })
      const short = batchOfDocuments([[[8, 1n]]], 8, V, makeRandom(1))
      const wrong = yield* Effect.flip(decomposition.of(short, Sink.own))
      expect(wrong).toMatchObject({ _tag: "DataError", message: expect.stringContaining("expected 16") })
      const many = yield* Effect.flip(decomposition.of(packed(), Sink.own))
      expect(many).toMatchObject({ _tag: "DataError", message: expect.stringContaining("raise maxSegments") })
      const model = yield* Model
      for (const shape of [{ output: "train" }, { output: "loss", head: { hidden: 0 } }] as const) {
        const refused = yield* Effect.flip(model.compile({ rows: 1, seqLen: 16, residual: true, ...shape }))
        expect(refused).toMatchObject({ _tag: "DataError", message: expect.stringContaining("residual") })
      }
    })).pipe(Effect.provide(Model.layer(tied))))
})
