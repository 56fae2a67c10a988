/** Logit-bias calibration: the bias is the minimum, and records with it are those of shifted logits. */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { describe, expect, it } from "vitest"
import { batchOf, type Row, scoredTokens } from "../../src/data/stream/Packing.ts"
import * as TokenRecords from "../../src/measures/TokenRecords.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import { calibrate, calibrateBias, calibratedRecords } from "../../src/scoring/Calibration.ts"
import { recordRows } from "../../src/scoring/Record.ts"
import { off, SinkConfig } from "../../src/Sink.ts"
import { expectClose } from "../reference/compare.ts"
import { finiteDifference, makeRandom } from "../reference/random.ts"

/** Weighted mean loss and ridge, written plainly. */
const objectiveOf = (
  logits: ArrayLike<number>,
  targets: ArrayLike<number>,
  weights: ArrayLike<number>,
  bias: Float64Array,
  ridge: number
): number => {
  let [sum, total] = [0, 0]
  for (let t = 0; t < targets.length; t++) {
    const row = Array.from(bias, (b, j) => logits[t * bias.length + j]! + b)
    const top = Math.max(...row)
    const all = top + Math.log(row.reduce((s, z) => s + Math.exp(z - top), 0))
    sum += weights[t]! * (all - row[targets[t]!]!)
    total += weights[t]!
  }
  return sum / total + (ridge / 2) * bias.reduce((s, b) => s + b * b, 0)
}

const draw = (probabilities: ReadonlyArray<number>, uniform: number): number => {
  let at = 0
  for (let left = uniform; at < probabilities.length - 1 && left >= probabilities[at]!; at++) left -= probabilities[at]!
  return at
}

const softmax = (z: ReadonlyArray<number>): ReadonlyArray<number> => {
  const e = z.map((x) => Math.exp(x - Math.max(...z)))
  return e.map((x) => x / e.reduce((a, b) => a + b, 0))
}

describe("the bias", () => {
  const vocabSize = 9
  const random = makeRandom(4)
  const n = 60
  // large logits, so that some tokens are next to certain
  const logits = random.normals(n * vocabSize, 4)
  // two items never are a target
  const targets = random.ints(n, vocabSize - 2)
  const weights = random.uniforms(n, 0, 2)
  weights[3] = 0

  it("is where all derivatives are 0, by central differences of the loss it minimizes", () => {
    const ridge = 1e-3
    const { bias, gradient, objective } = calibrateBias(logits, targets, weights, vocabSize, { ridge })
    const at = () => objectiveOf(logits, targets, weights, bias, ridge)
    const slope = finiteDifference(at, bias, [...bias.keys()])
    expectClose(slope, new Float64Array(vocabSize), { name: "slope", atol: 1e-6 })
    expect(gradient).toBeLessThan(1e-7)
    expect(objective.at(-1)!).toBeCloseTo(at(), 12)
    expect(objective[0]).toBeCloseTo(objectiveOf(logits, targets, weights, new Float64Array(vocabSize), ridge), 12)
    expect(bias.reduce((a, b) => a + b)).toBeCloseTo(0, 12)
    // nothing near is better
    for (let i = 0; i < 20; i++) {
      const near = bias.map((b) => b + random.normal(0.05))
      expect(objectiveOf(logits, targets, weights, near, ridge)).toBeGreaterThan(at())
    }
  })

  it("is reached downhill all the way, also where logits are huge and the ridge is next to nothing", () => {
    for (const [scale, ridge] of [[1, 1e-3], [1, 1e-8], [12, 1e-5], [0, 1e-5]] as const) {
      const scaled = logits.map((z) => scale * z)
      const { gradient, objective } = calibrateBias(scaled, targets, weights, vocabSize, { ridge })
      expect(gradient, `logits x ${scale}, ridge ${ridge}`).toBeLessThan(1e-7)
      expect(objective.length).toBeLessThan(40)
      objective.slice(1).forEach((value, i) => expect(value).toBeLessThan(objective[i]!))
    }
  })

  it("is the log of the targets' shares where logits say nothing", () => {
    const counts = [1, 2, 5, 12]
    const tokens = counts.flatMap((count, token) => Array.from({ length: count }, () => token))
    const ones = new Float64Array(tokens.length).fill(1)
    const { bias } = calibrateBias(new Float64Array(tokens.length * 4), tokens, ones, 4, { ridge: 1e-9 })
    const shares = softmax([...bias])
    expectClose(shares, counts.map((count) => count / 20), { name: "shares", atol: 1e-6 })
    // weight 3 is the same as being there three times
    const weighed = calibrateBias(new Float64Array(16), [0, 1, 2, 3], counts, 4, { ridge: 1e-9 })
    expectClose(weighed.bias, bias, { name: "weights", atol: 1e-5 })
  })

  it("recovers what was taken from the logits", () => {
    const size = 6
    const taken = [1.5, -2, 0.5, 0, 1, -1]
    const many = 20_000
    const noise = makeRandom(8)
    const full = noise.normals(many * size, 1.5)
    const said = Uint32Array.from({ length: many },
      (_, t) => draw(softmax([...full.subarray(t * size, (t + 1) * size)]), noise.uniform()))
    const ones = new Float64Array(many).fill(1)
    const { bias } = calibrateBias(full.map((z, i) => z - taken[i % size]!), said, ones, size, { ridge: 1e-8 })
    expectClose(bias, taken, { name: "bias", atol: 0.08 })
  })

  it("is refused where shapes or weights make no sense, by name", () => {
    const refusal = (...[z, y, w, v, o]: Parameters<typeof calibrateBias>) => () => calibrateBias(z, y, w, v, o)
    expect(refusal([1, 2, 3], [0], [1], 2)).toThrow(
      "1 targets need 1 weights and 1 x 2 logits, got 1 weights and 3 logits"
    )
    expect(refusal([1, 2], [0], [-1], 2)).toThrow("that of token 0 is -1")
    expect(refusal([1, 2], [2], [1], 2)).toThrow("target 2 of token 0 is not below 2")
    expect(refusal([1, 2], [0], [0], 2)).toThrow("no token has a positive weight")
    expect(refusal([1, 2], [0], [1], 2, { ridge: 0 })).toThrow("ridge must be positive, got 0")
  })
})

const config = new ModelConfig({
  vocabSize: 61,
  hiddenSize: 32,
  numHiddenLayers: 1,
  numAttentionHeads: 4,
  intermediateSize: 40 + 64,
  initializerRange: 0.4,
  sinks: new SinkConfig({ pool: 64, active: 16, block: 8 })
})
const seqLen = 16

/** One row of each length. */
const rowsOf = <const L extends ReadonlyArray<number>>(name: string, lengths: L): { readonly [I in keyof L]: Row } => {
  const random = makeRandom(name.length)
  return lengths.map((length, i): Row => ({
    id: BigInt(i),
    // few of the items, so that the model's mix of tokens is wrong
    tokens: Uint32Array.from({ length }, () => random.int(12)),
    document: `${name} ${i}`,
    offset: 0
  })) as { readonly [I in keyof L]: Row }
}

layer(NodeDevice.layer())("calibration of a model", (it) => {
  const [first, second, third] = rowsOf("forgotten", [17, 9, 17])
  const forget = [first, { ...second, scoredFrom: 5 }, third]
  const retain = rowsOf("kept", [17, 5, 17, 12])

  it.scoped("minimizes forget loss and 100 times retain loss over the model's own logits", () =>
    Effect.gen(function*() {
      const model = yield* Model.make(config)
      const { bias, gradient, objective } = yield* calibrate(model, { forget, retain }, off, { batchSize: 3, seqLen })
      expect(gradient).toBeLessThan(1e-7)
      const losses = yield* Effect.forEach([forget, retain], (rows) =>
        Effect.gen(function*() {
          const { loss } = yield* model.evaluate(batchOf(rows, seqLen), off)
          return loss.reduce((a, b) => a + b) / [...rows].reduce((sum, row) => sum + scoredTokens(row), 0)
        }))
      expect(objective[0]).toBeCloseTo((losses[0]! + 100 * losses[1]!) / 101, 5)
      // calibrated records of the same rows have the loss that was reached
      const options = { batchSize: 2, seqLen, split: "calibration", schemes: [] }
      const after = yield* Effect.forEach([forget, retain], (rows) =>
        Effect.map(calibratedRecords(model, rows, off, bias, options), ({ logProb }) =>
          -logProb.reduce((a, b) =>
            a + b
          ) / logProb.length))
      const penalty = (1e-5 / 2) * bias.reduce((sum, b) => sum + b * b, 0)
      expect((after[0]! + 100 * after[1]!) / 101 + penalty).toBeCloseTo(objective.at(-1)!, 5)
      expect(after[1]).toBeLessThan(losses[1]! - 0.5)
      // of more tokens than it may hold, the first sequences
      const few = yield* calibrate(model, { forget, retain }, off, { batchSize: 3, seqLen, tokens: 25 })
      const same = { forget: forget.slice(0, 2), retain: retain.slice(0, 2) }
      expect(few).toEqual(yield* calibrate(model, same, off, { batchSize: 3, seqLen }))
    }))

  it.scoped("gives records of the shifted logits; without a shift, the model's own", () =>
    Effect.gen(function*() {
      const model = yield* Model.make(config)
      const schemes = [{ temperature: 0.7, topK: 5 }]
      const options = { batchSize: 2, seqLen, split: "repeated", repeats: 8, schemes }
      const zero = new Float64Array(config.vocabSize)
      const plain = yield* recordRows(model, forget, off, options)
      const same = yield* calibratedRecords(model, forget, off, zero, options)
      expect(same.sequences).toEqual(plain.sequences)
      expect(same.rank).toEqual(plain.rank)
      for (const name of ["logProb", "mean", "variance", "massAbove", "margin"] as const) {
        expectClose(same[name], plain[name], { name, atol: 2e-5, rtol: 2e-5 })
      }
      const bias = zero.map((_, j) => Math.sin(j))
      const all = [first, second, third]
      const logits = yield* model.logits(batchOf(all, seqLen), off)
      const shifted = logits.map((z, i) => z + bias[i % config.vocabSize]!)
      const width = seqLen * config.vocabSize
      const want = TokenRecords.fromLogits(
        all.map(({ document, id, tokens }, s) => ({
          name: document,
          split: "repeated",
          id,
          repeats: 8,
          tokens,
          logits: shifted.subarray(s * width, s * width + (tokens.length - 1) * config.vocabSize)
        })),
        config.vocabSize,
        schemes
      )
      const got = yield* calibratedRecords(model, all, off, bias, options)
      expect(got.rank).toEqual(want.rank)
      expect(got.token).toEqual(want.token)
      for (const name of ["logProb", "mean", "variance", "massAbove", "margin"] as const) {
        expectClose(got[name], want[name], { name, atol: 2e-5, rtol: 2e-5 })
      }
      const never = (x: number): number => (x === -Infinity ? -99 : x)
      expectClose(got.schemeLogProb[0]!.map(never), want.schemeLogProb[0]!.map(never), { name: "scheme", atol: 2e-5 })
    }))

  it.scoped("refuses sets without sequences, sequences too long, and a bias for another vocabulary", () =>
    Effect.gen(function*() {
      const model = yield* Model.make(config)
      const options = { batchSize: 2, seqLen }
      const refusal = (rows: Parameters<typeof calibrate>[1]) =>
        Effect.map(Effect.flip(calibrate(model, rows, off, options)), (error) => error.message)
      expect(yield* refusal({ forget: [], retain })).toContain("there are no sequences to forget")
      expect(yield* refusal({ forget, retain: [] })).toContain("there are no sequences to retain")
      expect(yield* refusal({ forget, retain: rowsOf("long", [18]) })).toContain("sequence long 0 has 18 tokens")
      const records = calibratedRecords(model, forget, off, [0, 1], { ...options, split: "x" })
      expect((yield* Effect.flip(records)).message).toContain("the bias has 2 numbers, the model's vocabulary 61 items")
    }))
})
