/** Unlearning: each method's steps against the float64 reference, and what they do to a model that memorized. */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { batchOf, type Row, scoredTokens } from "../../src/data/stream/Packing.ts"
import { endless } from "../../src/data/stream/Rows.ts"
import { Device } from "../../src/gpu/Device.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as Segments from "../../src/model/Segments.ts"
import * as NodeDevice from "../../src/node.ts"
import { random } from "../../src/Random.ts"
import { hiddenStates } from "../../src/removal/unlearners/hiddenStates.ts"
import { npoWeight, rmuDirection, simNpoWeight, type UnlearnerName, unlearners, type UnlearnOptions,
  type UnlearnProblem, type UnlearnStep } from "../../src/removal/unlearners/index.ts"
import { rmuTrains } from "../../src/removal/unlearners/rmu.ts"
import { own } from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { makeTuner } from "../../src/train/Tuner.ts"
import { expectClose } from "../reference/compare.ts"
import * as Reference from "../reference/model.ts"
import { finiteDifference, makeRandom } from "../reference/random.ts"
import { miniatureModel, referenceConfig } from "../support/support.ts"

const { sinks: _, ...standard } = miniatureModel
const config = new ModelConfig({ ...standard, vocabSize: 32, intermediateSize: 48, numHiddenLayers: 2 })
const seqLen = 16

/** One row of each length. */
const rowsOf = <const L extends ReadonlyArray<number>>(name: string, lengths: L): { readonly [I in keyof L]: Row } => {
  const random = makeRandom(name.length)
  return lengths.map((length, i): Row => ({
    id: BigInt(i),
    tokens: Uint32Array.from({ length }, () => random.int(config.vocabSize)),
    document: `${name} ${i}`,
    offset: 0
  })) as { readonly [I in keyof L]: Row }
}

const withModel = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.provide(effect, Model.layer(config, { seed: 5 }))

describe("weights", () => {
  it("of NPO are those of gradient ascent at first, and fall as the loss rises", () => {
    expect(npoWeight(0, 0.1)).toBe(-1)
    expect(npoWeight(20, 0.1)).toBeCloseTo(-0.2384, 4)
    expect(npoWeight(-20, 0.1)).toBeCloseTo(-1.7616, 4)
    expect(npoWeight(1e6, 0.1)).toBeCloseTo(0, 12)
    expect(npoWeight(123, 1e-9)).toBeCloseTo(-1, 6)
  })

  it("are the derivatives of the forget terms by the loss", () => {
    const gap = Float64Array.of(-3, 0.5, 12)
    const npo = (at: number) => -(2 / 0.3) * Math.log(1 / (1 + Math.exp(-0.3 * gap[at]!)))
    const simNpo = (at: number) => -(2 / 4.5) * Math.log(1 / (1 + Math.exp(-4.5 * (gap[at]! / 7 - 0.2))))
    for (const at of gap.keys()) {
      expect(finiteDifference(() => npo(at), gap, [at])[0]).toBeCloseTo(npoWeight(gap[at]!, 0.3), 8)
      expect(finiteDifference(() => simNpo(at), gap, [at])[0]! * 7).toBeCloseTo(simNpoWeight(gap[at]! / 7, 4.5, 0.2), 8)
    }
  })
})

const weightsOf = Effect.gen(function*() {
  const device = yield* Device
  const out: Record<string, Float64Array> = {}
  for (const { name, value } of (yield* Model).parameters) {
    out[name] = Float64Array.from((yield* device.read(value)) as Float32Array)
  }
  return out
})

interface Sequence {
  readonly nll: number
  readonly initial: number
  readonly length: number
}

/** Forget terms as their papers write them: the derivative by the loss of each token of a sequence. */
const derivatives: ReadonlyArray<
  readonly [
    name: UnlearnerName,
    options: Partial<UnlearnOptions>,
    alpha: number,
    forget: (s: Sequence, batch: { readonly sequences: number; readonly tokens: number }) => number
  ]
> = [
  ["gradientAscent", {}, 0, (_, { tokens }) => -1 / tokens],
  ["gradientDifference", { gamma: 0.5, alpha: 2 }, 2, (_, { tokens }) => -0.5 / tokens],
  ["npo", {}, 1, ({ initial, nll }, { sequences }) => npoWeight(nll - initial, 0.1) / sequences],
  [
    "npo",
    { lengthNormalized: true, beta: 3, alpha: 0.5 },
    0.5,
    ({ initial, length, nll }, { sequences }) => npoWeight((nll - initial) / length, 3) / sequences / length
  ],
  [
    "simNpo",
    { delta: 4, gamma: 2 },
    1,
    ({ length, nll }, { sequences }) => 2 * simNpoWeight(nll / length, 4.5, 4) / sequences / length
  ]
]

layer(NodeDevice.layer())("unlearning", (it) => {
  const [whole, part] = rowsOf("forgotten", [17, 9])
  const forget = [whole, { ...part, scoredFrom: 4 }]
  const retain = rowsOf("kept", [17, 5])
  const problem = { forget, retain, seqLen, seed: 3 } satisfies UnlearnProblem
  const lengths = (rows: ReadonlyArray<Row>) => rows.map(scoredTokens)
  const total = (values: ReadonlyArray<number>) => values.reduce((a, b) => a + b, 0)

  for (const [name, options, alpha, derivative] of derivatives) {
    it.effect(`by ${name} ${JSON.stringify(options)} takes the float64 reference's steps`, () =>
      Effect.scoped(withModel(Effect.gen(function*() {
        const learningRate = 0.01
        const before = yield* weightsOf
        const { step } = yield* unlearners[name].start(problem, { learningRate, ...options })
        const reference = referenceConfig(config)
        const batch = batchOf([...forget, ...retain], seqLen)
        const segments = Segments.segmentsOf(batch)
        const coef = new Float64Array(segments.ids.length).fill(1)
        let state = Reference.initialState(before)
        let initial: ReadonlyArray<number> | undefined
        for (let s = 0; s < 3; s++) {
          const { tokenLoss } = Reference.forward(reference, state.params, batch, coef, segments.segment)
          const nll = [0, 1, 2, 3].map((r) => total([...tokenLoss.subarray(r * seqLen, (r + 1) * seqLen)]))
          initial ??= nll
          const of = { sequences: 2, tokens: total(lengths(forget)) }
          const weights = new Float64Array(batch.targets.length).fill(alpha / total(lengths(retain)), 2 * seqLen)
          lengths(forget).forEach((length, r) => {
            weights.fill(derivative({ nll: nll[r]!, initial: initial![r]!, length }, of), r * seqLen, (r + 1) * seqLen)
          })
          const found: UnlearnStep = yield* step
          expect(found.forgetLoss).toBeCloseTo((nll[0]! + nll[1]!) / of.tokens, 3)
          expect(found.retainLoss).toBeCloseTo((nll[2]! + nll[3]!) / total(lengths(retain)), 3)
          state = Reference.trainStep(reference, state, batch, coef, segments.segment, {
            lr: learningRate,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weightDecay: 0.01,
            clip: 1,
            weights
          }).state
        }
        const after = yield* weightsOf
        for (const [parameter, value] of Object.entries(after)) {
          // in units of the learning rate, since AdamW makes every gradient about that
          const moved = value.map((x, i) => (x - before[parameter]![i]!) / learningRate)
          const want = state.params[parameter]!.map((x, i) => (x - before[parameter]![i]!) / learningRate)
          const off = moved.map((x, i) => Math.abs(x - want[i]!)).sort()
          expect(off[Math.floor(0.95 * off.length)], `${parameter}, 95 % of it`).toBeLessThan(0.01)
        }
      }))))
  }

  it.effect("by RMU measures hidden states against c u and where they were, as the float64 reference", () =>
    Effect.scoped(withModel(Effect.gen(function*() {
      const reference = referenceConfig(config)
      const batch = batchOf([...forget, ...retain], seqLen)
      const segments = Segments.segmentsOf(batch)
      const coef = new Float64Array(segments.ids.length).fill(1)
      const u = rmuDirection(config.hiddenSize, problem.seed)
      expect(Math.hypot(...u)).toBeCloseTo(1, 12)
      expect(Math.min(...u)).toBeGreaterThanOrEqual(0)
      expect(rmuDirection(config.hiddenSize, problem.seed + 1)).not.toEqual(u)
      const params = yield* weightsOf
      /** The residual stream behind a block, for each row. */
      const streams = (params: Reference.Tensors, layer: number) => {
        const { layers, x } = Reference.forward(reference, params, batch, coef, segments.segment)
        const all = layer + 1 < layers.length ? layers[layer + 1]!.x : x
        const width = seqLen * config.hiddenSize
        return [0, 1, 2, 3].map((r) => all.subarray(r * width, (r + 1) * width))
      }
      /** Mean over the scored tokens of some rows of the mean squared distance to a target. */
      const distance = (
        rows: ReadonlyArray<number>,
        at: ReadonlyArray<Float64Array>,
        to: (r: number, i: number) => number
      ) => {
        let [sum, tokens] = [0, 0]
        for (const r of rows) {
          const { scoredFrom = 1, tokens: { length } } = [...forget, ...retain][r] as Row
          for (let i = (scoredFrom - 1) * config.hiddenSize; i < (length - 1) * config.hiddenSize; i++) {
            sum += (at[r]![i]! - to(r, i)) ** 2 / config.hiddenSize
          }
          tokens += length - scoredFrom
        }
        return sum / tokens
      }
      const layer = 1
      const initial = streams(params, layer)
      const states = yield* hiddenStates([...forget, ...retain], { batchSize: 3, layer, mode: own, seqLen })
      states.forEach((state, r) => expectClose(state, initial[r]!, { name: `hidden states of ${r}`, atol: 1e-5 }))
      const options = { learningRate: 0.01, coefficient: 4, alpha: 1, layer }
      const { step } = yield* unlearners.rmu.start(problem, options)
      const steered = (_: number, i: number) => 4 * u[i % config.hiddenSize]!
      for (let s = 0; s < 12; s++) {
        const before = streams(yield* weightsOf, layer)
        const found = yield* step
        const want = [distance([0, 1], before, steered), distance([2, 3], before, (r, i) => initial[r]![i]!)]
        expectClose([found.forgetLoss, found.retainLoss], want, { name: `losses of step ${s}`, atol: 1e-5, rtol: 1e-4 })
        if (s === 0) expect(found.retainLoss).toBeLessThan(1e-10)
      }
      const after = streams(yield* weightsOf, layer)
      expect(distance([0, 1], after, steered)).toBeLessThan(0.5 * distance([0, 1], initial, steered))
      const kept = distance([2, 3], after, (r, i) => initial[r]![i]!)
      expect(kept).toBeLessThan(0.25 * distance([0, 1], after, (r, i) => initial[r]![i]!))
    }))))

  it.effect("takes the same steps, whatever number was asked for", () =>
    Effect.gen(function*() {
      const more = Array.from({ length: 9 }, (_, i) => ({
        ...retain[0]!,
        document: `more ${i}`,
        tokens: Uint32Array.from(retain[0]!.tokens, (token, t) => (token + i + t) % config.vocabSize)
      }))
      for (const name of ["rmu", "npo"] as const) {
        const first = (steps: number) =>
          Effect.scoped(withModel(Effect.gen(function*() {
            const options = { learningRate: 0.01, batchSize: 2, steps }
            const { step } = yield* unlearners[name].start({ ...problem, retain: more }, options)
            return [yield* step, yield* step]
          })))
        expect(yield* first(20)).toEqual(yield* first(2))
      }
      const beyond = yield* Effect.scoped(withModel(Effect.gen(function*() {
        const { step } = yield* unlearners.rmu.start({ ...problem, retain: more }, { batchSize: 2, steps: 1 })
        yield* step
        return yield* Effect.flip(Effect.forever(step))
      })))
      expect(beyond.message).toMatch(/more steps were taken than the 1 asked for.*raise steps/)
    }))

  it.effect("by RMU moves the blocks up to its layer and nothing else, or only their down-projections", () =>
    Effect.scoped(withModel(Effect.gen(function*() {
      const moved = (options: Partial<UnlearnOptions>) =>
        Effect.scoped(Effect.gen(function*() {
          const before = yield* weightsOf
          const { step } = yield* unlearners.rmu.start(problem, options)
          yield* step
          const after = yield* weightsOf
          return Object.keys(after).filter((name) => after[name]!.some((x, i) => x !== before[name]![i]))
        }))
      // the one in the middle of two is the first
      const first = ["norm1", "qkv", "o", "norm2", "gateUp", "down"].map((kind) => `layers.0.${kind}`)
      expect(yield* moved({})).toEqual(first)
      expect(yield* moved({ layer: 1, trainable: "downProjections" })).toEqual(["layers.0.down", "layers.1.down"])
      const down = [0, 1, 2, 3, 4].filter((block) => rmuTrains(`layers.${block}.down`, 3, "downProjections"))
      expect(down).toEqual([1, 2, 3])
      expect(rmuTrains("layers.3.gateUp", 3, "downProjections")).toBe(false)
      expect(rmuTrains("embed", 3, "blocks")).toBe(false)
    }))))

  it.effect("undoes what was memorized: ascent spoils the rest, a retain term saves it, NPO stops by itself", () =>
    Effect.scoped(withModel(Effect.gen(function*() {
      const full = [17, 17, 17]
      const problem = { forget: rowsOf("forgotten", full), retain: rowsOf("kept", full), seqLen, seed: 1 }
      const all = batchOf([...problem.forget, ...problem.retain], seqLen)
      const model = yield* Model
      const optimizer = new OptimizerConfig({ learningRate: 0.01 })
      yield* Effect.scoped(Effect.gen(function*() {
        const tuner = yield* makeTuner({ rows: 6, seqLen, steps: 50, optimizer })
        for (let s = 0; s < 50; s++) yield* tuner.step(all)
      }))
      const memorized = yield* model.exportTensors
      const losses = Effect.map(model.evaluate(all, own), ({ loss }) => {
        const mean = (rows: Float32Array) => rows.reduce((a, b) => a + b) / rows.length
        const half = loss.length / 2
        return { forget: mean(loss.subarray(0, half)), retain: mean(loss.subarray(half)) }
      })
      expect((yield* losses).forget).toBeLessThan(0.1)
      const after = (name: UnlearnerName, options: Partial<UnlearnOptions> = {}) =>
        Effect.scoped(Effect.gen(function*() {
          yield* model.importTensors(memorized)
          const { step } = yield* unlearners[name].start(problem, { learningRate: 1e-3, ...options })
          const weights: Array<number> = []
          for (let s = 0; s < 20; s++) weights.push((yield* step).meanWeight)
          return { ...(yield* losses), weights }
        }))
      const ascent = yield* after("gradientAscent")
      const difference = yield* after("gradientDifference")
      const npo = yield* after("npo")
      const soon = yield* after("npo", { lengthNormalized: true, beta: 4 })
      expect(ascent.forget).toBeGreaterThan(3)
      expect(ascent.retain).toBeGreaterThan(0.3)
      expect(difference.forget).toBeGreaterThan(3)
      expect(difference.retain).toBeLessThan(0.3 * ascent.retain)
      expect(npo.forget).toBeGreaterThan(2)
      expect(npo.forget).toBeLessThan(ascent.forget - 0.3)
      expect(npo.retain).toBeLessThan(0.3 * ascent.retain)
      expect(soon.forget).toBeLessThan(npo.forget - 0.3)
      expect(new Set(ascent.weights)).toEqual(new Set([-1]))
      expect(npo.weights[0]).toBeCloseTo(-1, 4)
      npo.weights.slice(1, 8).forEach((weight, s) => expect(weight).toBeGreaterThan(npo.weights[s]!))
      expect(npo.weights.at(-1)).toBeGreaterThan(-0.1)
      // the same problem and options are the same steps, bit for bit, whatever came between
      expect(yield* after("npo")).toEqual(npo)
    }))))

  it.effect("is refused before any step for empty, overlapping or misfit sequences and unknown options", () =>
    Effect.scoped(withModel(Effect.gen(function*() {
      const refusal = (
        changes: Partial<UnlearnProblem>,
        options: Partial<UnlearnOptions> = {},
        name: UnlearnerName = "npo"
      ) =>
        Effect.map(Effect.flip(unlearners[name].start({ ...problem, ...changes }, options)), ({ message }) => message)
      expect(yield* refusal({ forget: [] })).toContain("npo: there are no sequences to forget")
      expect(yield* refusal({ retain: [] }, {}, "rmu")).toContain("rmu: there are no sequences to retain")
      expect(yield* refusal({ retain: [...retain, { ...forget[1]!, id: 9n, document: "copy" }] })).toContain(
        "sequence copy is to be forgotten and to be retained"
      )
      expect(yield* refusal({ retain: rowsOf("long", [18]) })).toContain("sequence long 0 has 18 tokens")
      expect(yield* refusal({ retain: [{ ...retain[0]!, scoredFrom: 17 }] })).toContain("kept 0 has no scored token")
      expect(yield* refusal({}, { delta: 1 })).toContain("npo: it has no option delta; its options are learningRate,")
      expect(yield* refusal({}, { batchSize: 0 })).toContain("batchSize must be a whole number, got 0")
      expect(yield* refusal({}, { beta: 0 })).toContain("beta must be positive, got 0")
      expect(yield* refusal({}, { gamma: -1 })).toContain("gamma must be 0 or more, got -1")
      expect(yield* refusal({}, { layer: 2 }, "rmu")).toContain(`layer must be a block from 0 to 1 or "middle", got 2`)
    }))))
})

describe("draws without end", () => {
  it("bring every item once before any comes again, in another order each time", () => {
    const next = endless([1, 2, 3, 4, 5, 6, 7], random(3, "draws"))
    const drawn = [...next(5), ...next(9), ...next(7)]
    const rounds = [drawn.slice(0, 7), drawn.slice(7, 14), drawn.slice(14)]
    for (const round of rounds) expect([...round].sort()).toEqual([1, 2, 3, 4, 5, 6, 7])
    expect(new Set(rounds.map((round) => round.join())).size).toBe(3)
    expect(endless([1, 2, 3, 4, 5, 6, 7], random(3, "draws"))(21)).toEqual(drawn)
  })
})
