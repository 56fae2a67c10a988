/**
 * The float64 reference is what the kernels and the GPU model are compared with; here it is compared with things that
 * need no trust: central differences, values worked out by hand, and what must hold of any such model.
 */
import { describe, expect, it } from "vitest"
import { type Batch, IGNORE } from "../src/Batch.ts"
import { expectClose } from "./reference/compare.ts"
import { backward, decays, type Forward, forward, initialState, parameterShapes, pruned, randomParameters,
  type ReferenceConfig, soft, type Tensors, towards, trainStep, weighted } from "./reference/model.ts"
import { adamw, attention, attentionBackward, clipScale, crossEntropy, embedding, embeddingBackward, globalNorm,
  hiddenLoss, linear, linearBackward, matmul, matmulBackward, neuronGate, neuronGateBackward, rmsNorm, rmsNormBackward,
  rope, ropeBackward, softCrossEntropy, swiglu, swigluBackward } from "./reference/ops.ts"
import { finiteDifference, makeRandom } from "./reference/random.ts"

const f64 = (...values: ReadonlyArray<number>): Float64Array => Float64Array.from(values)
const u32 = (...values: ReadonlyArray<number>): Uint32Array => Uint32Array.from(values)
const dot = (a: Float64Array, b: Float64Array): number => a.reduce((sum, value, i) => sum + value * b[i]!, 0)
const largest = (a: Float64Array): number => a.reduce((max, value) => Math.max(max, Math.abs(value)), 0)

/** Holds `gradient` (of `f` by `x`) to central differences at up to `count` places. */
const expectGradient = (
  name: string,
  f: () => number,
  x: Float64Array,
  gradient: Float64Array,
  { count = Infinity, h = 1e-3, rtol = 1e-9 } = {}
): void => {
  expect(gradient.length, name).toBe(x.length)
  const scale = largest(gradient)
  expect(scale, `${name} is not all zero`).toBeGreaterThan(0)
  const indices = count < x.length ? makeRandom(x.length).sample(count, x.length) : [...x.keys()]
  const differences = finiteDifference(f, x, indices, h)
  expectClose(Float64Array.from(indices, (i) => gradient[i]!), differences, { atol: rtol * scale, rtol, name })
}

describe("expectClose", () => {
  it("names the tensor, the worst place, both values and the number of mismatches", () => {
    const compare = () => expectClose([1, 2.5, 30, 4], [1, 2, 3, 4], { atol: 0.1, name: "dq" })
    expect(compare).toThrow(/^dq: 2 of 4 elements differ; worst at \[2\]: got 30, want 3, off by 27 /)
  })

  it("accepts what is inside the tolerance and refuses what is just outside", () => {
    expectClose([1.09, 110], [1, 100], { atol: 0.1, rtol: 0.1, name: "x" })
    expectClose([Infinity, -0], [Infinity, 0], { name: "x" })
    expect(() => expectClose([1.11], [1], { atol: 0.1, name: "x" })).toThrow("x: 1 of 1")
    expect(() => expectClose([112], [100], { atol: 1, rtol: 0.1, name: "x" })).toThrow("x: 1 of 1")
  })

  it("fails on NaN, on infinities and on another length, however wide the tolerance", () => {
    const wide = { atol: 1e300, rtol: 1e300, name: "x" }
    expect(() => expectClose([NaN], [0], wide)).toThrow("got NaN")
    expect(() => expectClose([NaN], [NaN], wide)).toThrow("got NaN")
    expect(() => expectClose([0], [NaN], wide)).toThrow("want NaN")
    expect(() => expectClose([0], [Infinity], wide)).toThrow("want Infinity")
    expect(() => expectClose([-Infinity], [Infinity], wide)).toThrow("got -Infinity")
    expect(() => expectClose([Infinity], [0], { ...wide, atol: 1, rtol: 1 })).toThrow("got Infinity")
    expect(() => expectClose([0], [0, 0], wide)).toThrow("x: has 1 elements, expected 2")
    expect(() => expectClose([1e9, NaN, 1e12], [0, 0, 0], { name: "x" })).toThrow("3 of 3")
    expect(() => expectClose([5, NaN, 9], [0, 0, 0], { atol: 1, name: "x" })).toThrow("worst at [1]")
  })
})

describe("random", () => {
  it("repeats itself for a seed, differs between seeds, and has the asked distribution", () => {
    expect(makeRandom(7).normals(5)).toEqual(makeRandom(7).normals(5))
    expect(makeRandom(7).normals(5)).not.toEqual(makeRandom(8).normals(5))
    const random = makeRandom(1)
    const normals = random.normals(20_000, 3)
    const mean = normals.reduce((a, b) => a + b, 0) / normals.length
    expect(Math.abs(mean)).toBeLessThan(0.1)
    expect(Math.abs(Math.sqrt(dot(normals, normals) / normals.length) - 3)).toBeLessThan(0.1)
    const uniforms = random.uniforms(20_000, -1, 3)
    expect(Math.abs(uniforms.reduce((a, b) => a + b, 0) / uniforms.length - 1)).toBeLessThan(0.05)
    expect(uniforms.every((value) => value >= -1 && value < 3)).toBe(true)
    expect(new Set(random.ints(200, 5))).toEqual(new Set([0, 1, 2, 3, 4]))
    expect(random.sample(3, 100)).toHaveLength(3)
    expect(random.sample(9, 4)).toEqual([0, 1, 2, 3])
  })

  it("differentiates a known function to twelve digits and puts x back", () => {
    const x = f64(0.3, -2)
    const slope = finiteDifference(() => Math.sin(x[0]!) * Math.exp(x[1]!), x, [0, 1])
    expectClose(slope, [Math.cos(0.3) * Math.exp(-2), Math.sin(0.3) * Math.exp(-2)], { rtol: 1e-11, name: "slope" })
    expect(x).toEqual(f64(0.3, -2))
  })
})

describe("ops, forward: values worked out by hand", () => {
  it("linear stores its weight out x in, matmul in x out", () => {
    const x = f64(1, 2, 3, 4)
    expect(linear(x, f64(1, 0, 0, 1, 10, 100), 2)).toEqual(f64(1, 2, 210, 3, 4, 430))
    expect(matmul(x, f64(1, 0, 10, 0, 1, 100), 2)).toEqual(f64(1, 2, 210, 3, 4, 430))
  })

  it("embedding takes the token's row, and its backward adds up what repeats", () => {
    expect(embedding(u32(2, 0, 2), f64(1, 2, 3, 4, 5, 6), 2)).toEqual(f64(5, 6, 1, 2, 5, 6))
    expect(embeddingBackward(u32(2, 0, 2), f64(1, 2, 3, 4, 5, 6), 3)).toEqual(f64(3, 4, 0, 0, 6, 8))
  })

  it("rmsNorm divides by the root of the mean square, eps inside", () => {
    const { rstd, y } = rmsNorm(f64(3, 4), f64(1, 10), 12.5)
    expectClose(rstd, [1 / 5], { rtol: 1e-15, name: "rstd" })
    expectClose(y, [0.6, 8], { rtol: 1e-15, name: "y" })
  })

  it("rope turns the pairs (i, i + headDim/2), the first by whole radians, the second by theta^(-1/2)", () => {
    // Position 3, theta 100, headDim 4: angles 3 and 0.3. Head 1 of token 1 only, to see the layout.
    const x = new Float64Array(16)
    x.set([1, 0, 0, 2], 12)
    const y = rope(x, u32(0, 3), 100, 2, 4)
    expectClose(y.subarray(0, 12), new Float64Array(12), { name: "other heads" })
    const want = [Math.cos(3), -2 * Math.sin(0.3), Math.sin(3), 2 * Math.cos(0.3)]
    expectClose(y.subarray(12), want, { rtol: 1e-14, name: "rotated head" })
  })

  it("rope makes scores depend on the distance alone", () => {
    const random = makeRandom(2)
    const [q, k] = [random.normals(8), random.normals(8)]
    const score = (a: number, b: number) => dot(rope(q, u32(a), 10000, 1, 8), rope(k, u32(b), 10000, 1, 8))
    expectClose([score(907, 900)], [score(7, 0)], { rtol: 1e-12, name: "score" })
    expect(Math.abs(score(7, 0) - score(8, 0))).toBeGreaterThan(1e-3)
  })

  it("attention with equal keys averages the document's values so far", () => {
    // Documents [0, 1] and [2, 3, 4]; one value a head, key heads told apart by their values.
    const v = f64(1, 10, 3, 30, 5, 50, 7, 70, 12, 120)
    const { lse, out } = attention(new Float64Array(20), new Float64Array(10), v, u32(0, 0, 2, 2, 2), 4, 2, 1)
    const want = [1, 2, 5, 6, 8].flatMap((mean) => [mean, mean, 10 * mean, 10 * mean])
    expectClose(out, want, { rtol: 1e-14, name: "out" })
    const logs = [1, 2, 1, 2, 3].flatMap((seen) => Array<number>(4).fill(Math.log(seen)))
    expectClose(lse, logs, { rtol: 1e-14, name: "lse" })
  })

  it("attention scales its scores by 1/sqrt(headDim)", () => {
    // Second token: scores 4 * 3 / 2 = 6 and 0.
    const q = f64(0, 0, 0, 0, 4, 0, 0, 0)
    const k = f64(3, 0, 0, 0, 0, 5, 0, 0)
    const v = f64(1, 0, 0, 0, 0, 1, 0, 0)
    const { lse, out } = attention(q, k, v, u32(0, 0), 1, 1, 4)
    const p = Math.exp(6) / (Math.exp(6) + 1)
    expectClose(out, [1, 0, 0, 0, p, 1 - p, 0, 0], { rtol: 1e-13, name: "out" })
    expectClose(lse, [0, Math.log(Math.exp(6) + 1)], { atol: 1e-15, rtol: 1e-14, name: "lse" })
  })

  it("attention survives scores whose exponential would overflow", () => {
    const { lse, out } = attention(f64(1000, 1000), f64(1000, 2000), f64(1, 2), u32(0, 0), 1, 1, 1)
    expect(out).toEqual(f64(1, 2))
    expect(lse).toEqual(f64(1e6, 2e6))
  })

  it("swiglu reads its four column groups and lights sinks by unit and segment", () => {
    // general 1, sinks 4 in units of 2; every gate is g, so h = coefficient * silu(g) * up.
    const silu = 2 / (1 + Math.exp(-2))
    const row = [2, /* up */ 3, /* gates of the sinks */ 2, 2, 2, 2, /* ups */ 5, 7, 11, 13]
    const coef = f64(1, 0, 1, /* segment 1 */ 0.5, 2, 0)
    const h = swiglu(f64(...row, ...row), coef, u32(1, 0), { general: 1, sink: 4, block: 2 })
    const want = [0.5 * 3, 2 * 5, 2 * 7, 0, 0, 3, 0, 0, 11, 13].map((value) => value * silu)
    expectClose(h, want, { rtol: 1e-15, name: "h" })
  })

  it("crossEntropy of equal logits is log V, of a sure answer 0, of an ignored target nothing", () => {
    const logits = f64(5, 5, 5, 5, 0, 1000, 0, 0, 9, 1, 2, 3)
    const { dlogits, loss, rank } = crossEntropy(logits, u32(2, 1, IGNORE), 4)
    expectClose(loss, [Math.log(4), 0, 0], { rtol: 1e-15, name: "loss" })
    expect(rank).toEqual(u32(2, 0, 0))
    expectClose(dlogits(2), [0.5, 0.5, -1.5, 0.5, 0, 0, 0, 0, 0, 0, 0, 0], { rtol: 1e-15, name: "dlogits" })
  })

  it("softCrossEntropy of a sure distribution is crossEntropy, of two halves their mean", () => {
    const logits = f64(1, 2, 4, 1, 2, 4)
    const own = crossEntropy(logits, u32(0, 1), 3)
    const sure = softCrossEntropy(logits, u32(2, 2), f64(1, 0, 0, 0, 1, 0), 3)
    expect(sure.loss).toEqual(own.loss)
    expect(sure.dlogits(f64(2, 2))).toEqual(own.dlogits(2))
    const half = softCrossEntropy(logits, u32(2, IGNORE), f64(0, 0.5, 0.5, 1, 1, 1), 3).loss
    const [one, two] = crossEntropy(logits, u32(1, 2), 3).loss
    expectClose(half, [(one! + two!) / 2, 0], { rtol: 1e-12, name: "loss" })
  })

  it("hiddenLoss is the mean square of the difference, and nothing where the target is ignored", () => {
    expect(hiddenLoss(f64(1, 2, 5, 5), u32(7, IGNORE), f64(0, 4, 0, 0), 2).loss).toEqual(f64(2.5, 0))
  })

  it("crossEntropy ranks equal logits by index", () => {
    const rankOf = (target: number) => crossEntropy(f64(1, 3, 3, 0, 3, 4), u32(target), 6).rank[0]
    expect([0, 1, 2, 3, 4, 5].map(rankOf)).toEqual([4, 1, 2, 5, 3, 0])
  })

  it("refuses lengths and indices that do not fit", () => {
    expect(() => linear(f64(1, 2, 3), f64(1, 2), 2)).toThrow(RangeError)
    expect(() => matmul(f64(1, 2), f64(1, 2, 3), 2)).toThrow(RangeError)
    expect(() => embedding(u32(3), f64(1, 2, 3), 1)).toThrow("token 3 at 0 is outside the vocabulary of 3")
    expect(() => attention(f64(1), f64(1), f64(1), u32(1), 1, 1, 1)).toThrow("documentStart[0] is 1")
    expect(() => crossEntropy(f64(1, 2), u32(2), 2)).toThrow("target 2 at 0")
    expect(() => swiglu(f64(1, 1), f64(1), u32(1), { general: 1, sink: 0, block: 16 })).toThrow("segment 1 of token 0")
    expect(() => swiglu(f64(1, 1), f64(1), u32(0), { general: 0, sink: 1, block: 2 })).toThrow("block of 2")
  })
})

describe("ops, backward: central differences of a randomly weighted sum", () => {
  const random = makeRandom(3)

  it("linear", () => {
    const [x, w, dy] = [random.normals(5 * 3), random.normals(4 * 3), random.normals(5 * 4)]
    const f = () => dot(linear(x, w, 3), dy)
    const { dw, dx } = linearBackward(dy, x, w, 3)
    expectGradient("dx", f, x, dx)
    expectGradient("dw", f, w, dw)
  })

  it("matmul", () => {
    const [a, b, dy] = [random.normals(5 * 3), random.normals(3 * 4), random.normals(5 * 4)]
    const f = () => dot(matmul(a, b, 3), dy)
    const { da, db } = matmulBackward(dy, a, b, 3)
    expectGradient("da", f, a, da)
    expectGradient("db", f, b, db)
  })

  it("embedding", () => {
    const tokens = u32(1, 4, 1, 0)
    const [table, dy] = [random.normals(5 * 3), random.normals(4 * 3)]
    expectGradient("dtable", () => dot(embedding(tokens, table, 3), dy), table, embeddingBackward(tokens, dy, 5))
  })

  it("rmsNorm", () => {
    const [x, weight, dy] = [random.normals(4 * 5), random.normals(5), random.normals(4 * 5)]
    const f = () => dot(rmsNorm(x, weight, 0.1).y, dy)
    const { dweight, dx } = rmsNormBackward(dy, x, weight, rmsNorm(x, weight, 0.1).rstd)
    expectGradient("dx", f, x, dx)
    expectGradient("dweight", f, weight, dweight)
  })

  it("rope", () => {
    const positions = u32(0, 1, 5, 0)
    const [x, dy] = [random.normals(4 * 2 * 6), random.normals(4 * 2 * 6)]
    const f = () => dot(rope(x, positions, 100, 2, 6), dy)
    expectGradient("dx", f, x, ropeBackward(dy, positions, 100, 2, 6))
  })

  it("attention, with four query heads on two key heads and ragged documents", () => {
    const documentStart = u32(0, 1, 1, 1, 4, 4, 6)
    const [N, Hq, Hkv, hd] = [documentStart.length, 4, 2, 3]
    const [q, dout] = [random.normals(N * Hq * hd), random.normals(N * Hq * hd)]
    const [k, v] = [random.normals(N * Hkv * hd), random.normals(N * Hkv * hd)]
    const f = () => dot(attention(q, k, v, documentStart, Hq, Hkv, hd).out, dout)
    const { lse } = attention(q, k, v, documentStart, Hq, Hkv, hd)
    const { dk, dq, dv } = attentionBackward(dout, q, k, v, lse, documentStart, Hq, Hkv, hd)
    expectGradient("dq", f, q, dq)
    expectGradient("dk", f, k, dk)
    expectGradient("dv", f, v, dv)
  })

  it("swiglu, with several segments, scales that are not 1, and exact zeros where the coefficient is 0", () => {
    const shape = { general: 3, sink: 4, block: 2 }
    const coef = f64(0.7, 0, 1, 1.5, 1, 0, 1, 0, 0)
    const segment = u32(0, 0, 1, 2, 1)
    const [gu, dh] = [random.normals(5 * 14), random.normals(5 * 7)]
    const f = () => dot(swiglu(gu, coef, segment, shape), dh)
    const dgu = swigluBackward(dh, gu, coef, segment, shape)
    expectGradient("dgu", f, gu, dgu)
    // Token 3 is in segment 2, which lights no sink: its last 8 columns.
    expect([...dgu.subarray(3 * 14 + 6, 4 * 14)].every((value) => value === 0)).toBe(true)
    expect([...dgu.subarray(3 * 14, 3 * 14 + 6)].every((value) => value !== 0)).toBe(true)
  })

  it("crossEntropy, with a scale and an ignored target", () => {
    const logits = random.normals(4 * 6)
    const targets = u32(0, IGNORE, 5, 3)
    const f = () => 0.3 * crossEntropy(logits, targets, 6).loss.reduce((a, b) => a + b, 0)
    expectGradient("dlogits", f, logits, crossEntropy(logits, targets, 6).dlogits(0.3))
  })

  it("softCrossEntropy, with distributions that sum to what they like, weights and an ignored target", () => {
    const [logits, q] = [random.normals(4 * 6), random.uniforms(4 * 6, 0, 1)]
    const [targets, weights] = [u32(0, IGNORE, 5, 3), random.normals(4)]
    const f = () => dot(softCrossEntropy(logits, targets, q, 6).loss, weights)
    expectGradient("dlogits", f, logits, softCrossEntropy(logits, targets, q, 6).dlogits(weights))
  })

  it("hiddenLoss, with weights and an ignored target", () => {
    const [x, goal] = [random.normals(4 * 6), random.normals(4 * 6)]
    const [targets, weights] = [u32(0, IGNORE, 5, 3), random.normals(4)]
    const f = () => dot(hiddenLoss(x, targets, goal, 6).loss, weights)
    expectGradient("dx", f, x, hiddenLoss(x, targets, goal, 6).dx(weights))
  })

  it("neuronGate, with a segment that comes twice and one that does not come", () => {
    const [h, gate, dy] = [random.normals(5 * 4), random.normals(4 * 4), random.normals(5 * 4)]
    const segment = u32(0, 0, 2, 3, 2)
    const f = () => dot(neuronGate(h, gate, segment), dy)
    const { dgate, dh } = neuronGateBackward(dy, h, gate, segment)
    expectGradient("dh", f, h, dh)
    expectGradient("dgate", f, gate, dgate)
    expect([...dgate.subarray(4, 8)]).toEqual([0, 0, 0, 0])
  })
})

describe("adamw", () => {
  it("follows two steps worked out by hand", () => {
    const options = { lr: 0.1, beta1: 0.5, beta2: 0.75, eps: 1, weightDecay: 0.2, gradScale: 0.5 }
    // Step 1: g = 8 * 0.5 = 4, m = 2, v = 4, mHat = 4, vHat = 16: p = 1 - 0.1 * (4/5 + 0.2) = 0.9.
    const first = adamw(f64(1), f64(8), f64(0), f64(0), { ...options, step: 1 })
    expectClose(first.m, [2], { rtol: 1e-15, name: "m" })
    expectClose(first.v, [4], { rtol: 1e-15, name: "v" })
    expectClose(first.p, [0.9], { rtol: 1e-15, name: "p" })
    // Step 2: g = -2, m = 0, v = 4, mHat = 0, vHat = 4/0.4375: p = 0.9 - 0.1 * 0.2 * 0.9 = 0.882.
    const second = adamw(first.p, f64(-4), first.m, first.v, { ...options, step: 2 })
    expectClose(second.m, [0], { atol: 1e-15, name: "m" })
    expectClose(second.v, [4], { rtol: 1e-15, name: "v" })
    expectClose(second.p, [0.882], { rtol: 1e-15, name: "p" })
    // Once more as step 2 with g = 2: m = 2, mHat = 8/3, v = 4, sqrt(vHat) = 2/sqrt(0.4375).
    const other = adamw(first.p, f64(4), first.m, first.v, { ...options, step: 2 })
    const want = 0.9 - 0.1 * ((8 / 3) / (2 / Math.sqrt(0.4375) + 1) + 0.18)
    expectClose(other.p, [want], { rtol: 1e-15, name: "p" })
    expect(first.p).toEqual(adamw(f64(1), f64(8), f64(0), f64(0), { ...options, step: 1 }).p)
  })

  it("clips by the norm of all gradients together", () => {
    expect(globalNorm([f64(1, 2), f64(2, 4)])).toBe(5)
    expect(clipScale(5, 10)).toBe(1)
    expectClose([clipScale(5, 1)], [1 / 5.000001], { rtol: 1e-15, name: "scale" })
    expect(clipScale(0, 1)).toBe(1)
  })
})

const config: ReferenceConfig = {
  vocabSize: 20,
  hiddenSize: 12,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  headDim: 4,
  general: 6,
  pool: 8,
  block: 2,
  rmsNormEps: 1e-5,
  ropeTheta: 100,
  tieWordEmbeddings: false
}

/** A batch of rows that pack documents of the given lengths; each row must come to the same number of tokens. */
const pack = (rows: ReadonlyArray<ReadonlyArray<number>>, tokens: Uint32Array): Batch => {
  const lengths = rows.flat()
  const positions = lengths.flatMap((length) => [...Array(length).keys()])
  const documentStart = positions.map((position, t) => t - position)
  const targets = tokens.map((_, t) => documentStart[t + 1] === documentStart[t] ? tokens[t + 1]! : IGNORE)
  return {
    rows: rows.length,
    seqLen: tokens.length / rows.length,
    tokens,
    targets,
    positions: Uint32Array.from(positions),
    documentStart: Uint32Array.from(documentStart),
    ids: BigUint64Array.from(documentStart, BigInt)
  }
}

const documents = [[5, 4, 1], [2, 8]]
const batch = pack(documents, makeRandom(4).ints(20, config.vocabSize))
/** Segments of the five documents: the first document holds two, the second and the fourth share one. */
const segment = u32(0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 2, 2, 4, 4, 4, 4, 4, 4, 4, 4)
/** Units 0 to 3; unit 3 belongs to nobody. One segment scales its general neurons, one dims a sink, one has none. */
const coef = f64(
  ...[1, 1, 0, 0, 0],
  ...[0.8, 0, 1, 0, 0],
  ...[1, 1, 1, 0, 0],
  ...[1, 0, 0, 0, 0],
  ...[1.25, 0, 0.5, 1, 0]
)
const generalOnly = coef.map((value, i) => i % 5 === 0 ? value : 0)

const parametersOf = (config: ReferenceConfig): Tensors => randomParameters(config, makeRandom(5), 0.4)

describe("model", () => {
  for (const tieWordEmbeddings of [false, true]) {
    it(`has the gradient of its mean loss by every parameter, embeddings ${tieWordEmbeddings ? "" : "un"}tied`, () => {
      const shape = { ...config, tieWordEmbeddings }
      const params = parametersOf(shape)
      const gradients = backward(shape, params, batch, coef, segment)
      expect(Object.keys(gradients).sort()).toEqual(Object.keys(parameterShapes(shape)).sort())
      const f = () => forward(shape, params, batch, coef, segment).loss
      for (const [name, p] of Object.entries(params)) {
        // The whole model bends more than one op: a smaller step keeps the truncated term below the bound.
        expectGradient(name, f, p, gradients[name]!, { count: 24, h: 2e-4 })
      }
    })
  }

  it("has the gradient of its weighted sum of losses, whatever the signs", () => {
    const params = parametersOf(config)
    const weights = Float64Array.from(batch.targets, (_, t) => Math.sin(t))
    const run = () => weighted(forward(config, params, batch, coef, segment), weights)
    const gradients = backward(config, params, batch, coef, segment, run())
    const f = () => run().tokenLoss.reduce((sum, loss, t) => sum + weights[t]! * loss, 0)
    for (const [name, p] of Object.entries(params)) {
      expectGradient(name, f, p, gradients[name]!, { count: 12, h: 2e-4 })
    }
  })

  describe("with gates of neurons", () => {
    const random = makeRandom(12)
    const params = parametersOf(config)
    const gates = Array.from({ length: 2 }, () => random.uniforms(5 * 14, 0.2, 1.8))
    const weights = random.uniforms(20, -1, 2)
    const run = () => forward(config, params, batch, coef, segment, gates)
    const q = random.uniforms(20 * config.vocabSize, 0, 0.3)
    const goal = random.normals(20 * config.hiddenSize)
    const heads: ReadonlyArray<readonly [string, () => Forward]> = [
      ["weighted tokens", () => weighted(run(), weights)],
      ["soft targets", () => soft(run(), batch, q, weights)],
      ["a hidden state", () => towards(run(), batch, 0, goal, weights)],
      ["the last hidden state", () => towards(run(), batch, 1, goal, weights)]
    ]
    for (const [name, head] of heads) {
      it(`has the gradient of the weighed losses of ${name} by every parameter and gate`, () => {
        const gradients = backward(config, params, batch, coef, segment, head())
        const f = () => dot(head().tokenLoss, weights)
        const layers = name === "a hidden state" ? 1 : 2
        expect(gradients["layers.1.gates"] !== undefined).toBe(layers === 2)
        expect(gradients.head !== undefined).toBe(!name.includes("hidden"))
        for (const [key, gradient] of Object.entries(gradients)) {
          const layer = /layers\.(\d)\.gates/.exec(key)?.[1]
          const x = layer === undefined ? params[key]! : gates[Number(layer)]!
          expectGradient(key, f, x, gradient, { count: 16, h: 2e-4, rtol: 2e-9 })
        }
      })
    }

    it("is the model without them where all are 1", () => {
      const ones = gates.map((gate) => gate.map(() => 1))
      expect(forward(config, params, batch, coef, segment, ones).tokenLoss)
        .toEqual(forward(config, params, batch, coef, segment).tokenLoss)
      expect(run().tokenLoss).not.toEqual(forward(config, params, batch, coef, segment).tokenLoss)
    })
  })

  it("computes what its formulas say, written out for a stream of width 1", () => {
    const shape: ReferenceConfig = {
      ...config,
      vocabSize: 2,
      hiddenSize: 1,
      numHiddenLayers: 1,
      numAttentionHeads: 1,
      numKeyValueHeads: 1,
      headDim: 2,
      general: 1,
      pool: 1,
      block: 1,
      rmsNormEps: 1
    }
    const params: Tensors = {
      embed: f64(0.5, -2),
      "layers.0.norm1": f64(1.5),
      "layers.0.qkv": f64(...[0.3, 0.7], ...[-0.9, 0.4], ...[1.1, -0.6]),
      "layers.0.o": f64(0.8, -0.5),
      "layers.0.norm2": f64(0.7),
      "layers.0.gateUp": f64(/* general */ 1.2, -0.4, /* pool */ 0.9, 2.1),
      "layers.0.down": f64(0.6, -1.3),
      norm: f64(1.1),
      head: f64(0.2, -0.35)
    }
    const norm = (x: number, weight: number) => weight * x / Math.sqrt(x * x + 1)
    const silu = (x: number) => x / (1 + Math.exp(-x))
    const [n0, n1] = [norm(0.5, 1.5), norm(-2, 1.5)]
    const turn = ([a, b]: readonly [number, number]) =>
      [a * Math.cos(1) - b * Math.sin(1), b * Math.cos(1) + a * Math.sin(1)] as const
    const q = turn([0.3 * n1, 0.7 * n1])
    const k = turn([-0.9 * n1, 0.4 * n1])
    const toFirst = Math.exp((q[0] * -0.9 * n0 + q[1] * 0.4 * n0) / Math.sqrt(2))
    const toSelf = Math.exp((q[0] * k[0] + q[1] * k[1]) / Math.sqrt(2))
    const seen = (toFirst * n0 + toSelf * n1) / (toFirst + toSelf)
    const logits = [[0.5, n0], [-2, seen]].flatMap(([x, value]) => {
      const middle = x! + 0.8 * 1.1 * value! - 0.5 * -0.6 * value!
      const n = norm(middle, 0.7)
      const general = 0.9 * silu(1.2 * n) * -0.4 * n
      const sink = 0.25 * silu(0.9 * n) * 2.1 * n
      const y = norm(middle + 0.6 * general - 1.3 * sink, 1.1)
      return [0.2 * y, -0.35 * y]
    })
    const result = forward(shape, params, pack([[2]], u32(0, 1)), f64(0.9, 0.25), u32(0, 0))
    expectClose(result.logits, logits, { rtol: 1e-13, name: "logits" })
    const loss = Math.log(Math.exp(logits[0]!) + Math.exp(logits[1]!)) - logits[1]!
    expectClose([result.loss], [loss], { rtol: 1e-13, name: "loss" })
  })

  it("has the mean over scored targets as its loss, and none where nothing is scored", () => {
    const params = parametersOf(config)
    const result = forward(config, params, batch, coef, segment)
    expect(result.scored).toBe(15)
    const scored = [...result.tokenLoss].filter((_, t) => batch.targets[t] !== IGNORE)
    expectClose([result.loss], [scored.reduce((a, b) => a + b) / 15], { rtol: 1e-14, name: "loss" })
    expect(scored.every((loss) => loss > 0)).toBe(true)
    const silent = { ...batch, targets: batch.targets.map(() => IGNORE) }
    expect(forward(config, params, silent, coef, segment).loss).toBe(0)
    for (const gradient of Object.values(backward(config, params, silent, coef, segment))) {
      expect(largest(gradient)).toBe(0)
    }
  })

  it("gives sinks that nobody lights a gradient of exactly zero, and the lit ones not", () => {
    const gradients = backward(config, parametersOf(config), batch, coef, segment)
    const { block, general, hiddenSize: d, pool } = config
    for (let i = 0; i < config.numHiddenLayers; i++) {
      for (let j = 0; j < pool; j++) {
        const rows = [
          gradients[`layers.${i}.gateUp`]!.subarray((2 * general + j) * d, (2 * general + j + 1) * d),
          gradients[`layers.${i}.gateUp`]!.subarray((2 * general + pool + j) * d, (2 * general + pool + j + 1) * d),
          gradients[`layers.${i}.down`]!.subarray((general + j) * d, (general + j + 1) * d)
        ]
        const idle = Math.floor(j / block) === 3
        for (const row of rows) expect(row.every((value) => value === 0), `layer ${i} sink ${j}`).toBe(idle)
      }
    }
  })

  it("is the pruned model when no sink is lit, and another when some are", () => {
    const params = parametersOf(config)
    const cut = pruned(config, params)
    expect(cut.params["layers.0.gateUp"]).toHaveLength(2 * 6 * 12)
    expect(cut.params["layers.1.down"]).toHaveLength(6 * 12)
    const column = coef.filter((_, i) => i % 5 === 0)
    const small = forward(cut.config, cut.params, batch, column, segment)
    const dark = forward(config, params, batch, generalOnly, segment)
    const lit = forward(config, params, batch, coef, segment)
    expectClose(dark.logits, small.logits, { rtol: 1e-12, atol: 1e-13, name: "logits" })
    expect(Math.abs(lit.loss - small.loss)).toBeGreaterThan(1e-3)
    const smallGradients = backward(cut.config, cut.params, batch, column, segment)
    const darkGradients = pruned(config, backward(config, params, batch, generalOnly, segment)).params
    for (const [name, gradient] of Object.entries(smallGradients)) {
      expectClose(darkGradients[name]!, gradient, { rtol: 1e-12, atol: 1e-14, name })
    }
  })

  it("lets a token reach itself and later tokens of its document, and nothing else", () => {
    const params = parametersOf(config)
    const V = config.vocabSize
    const before = forward(config, params, batch, coef, segment).logits
    for (let j = 0; j < batch.tokens.length; j++) {
      const tokens = batch.tokens.map((token, t) => t === j ? (token + 1) % V : token)
      const after = forward(config, params, { ...batch, tokens }, coef, segment).logits
      for (let t = 0; t < batch.tokens.length; t++) {
        const moved = after.subarray(t * V, (t + 1) * V).some((value, c) => value !== before[t * V + c])
        expect(moved, `token ${j} reaches token ${t}`).toBe(j <= t && batch.documentStart[t]! <= j)
      }
    }
  })

  it("gives packed documents the loss and the gradients they have alone", () => {
    const params = parametersOf(config)
    const packed = forward(config, params, batch, coef, segment)
    const sum: Tensors = {}
    let start = 0
    for (const length of documents.flat()) {
      const alone = pack([[length]], batch.tokens.slice(start, start + length))
      const own = segment.slice(start, start + length)
      const result = forward(config, params, alone, coef, own)
      const name = `document at ${start}`
      const V = config.vocabSize
      expectClose(packed.logits.slice(start * V, (start + length) * V), result.logits, { rtol: 1e-12, name })
      expectClose(packed.tokenLoss.slice(start, start + length), result.tokenLoss, { rtol: 1e-12, name })
      expect(packed.rank.slice(start, start + length)).toEqual(result.rank)
      for (const [parameter, gradient] of Object.entries(backward(config, params, alone, coef, own))) {
        sum[parameter] ??= new Float64Array(gradient.length)
        gradient.forEach((value, i) => sum[parameter]![i]! += value * result.scored / packed.scored)
      }
      start += length
    }
    for (const [name, gradient] of Object.entries(backward(config, params, batch, coef, segment))) {
      expectClose(gradient, sum[name]!, { rtol: 1e-10, atol: 1e-13, name })
    }
  })

  it("refuses parameters of another shape by name", () => {
    const params = parametersOf(config)
    const wrong = { ...params, "layers.1.o": new Float64Array(3) }
    expect(() => forward(config, wrong, batch, coef, segment)).toThrow("parameter layers.1.o has 3 elements")
    const { norm: _, ...missing } = params
    expect(() => forward(config, missing, batch, coef, segment)).toThrow("parameter norm has undefined elements")
    const extra = { ...params, bias: new Float64Array(1) }
    expect(() => forward(config, extra, batch, coef, segment)).toThrow("parameter bias is not part of this model")
  })
})

describe("trainStep", () => {
  const options = { lr: 0.01, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, clip: 1 }

  it("decays matrices and no norm", () => {
    const decayed = Object.keys(parameterShapes(config)).filter(decays)
    const matrices = Object.entries(parameterShapes(config)).filter(([, shape]) => shape.length === 2)
    expect(decayed).toEqual(matrices.map(([name]) => name))
    expect(decayed).toHaveLength(2 + 4 * config.numHiddenLayers)
  })

  it("moves parameters without a gradient by decay alone, and norms not at all", () => {
    const state = initialState(parametersOf(config))
    const silent = { ...batch, targets: batch.targets.map(() => IGNORE) }
    const next = trainStep(config, state, silent, coef, segment, options).state
    expect(next.step).toBe(1)
    for (const [name, p] of Object.entries(state.params)) {
      const factor = decays(name) ? 1 - 0.01 * 0.1 : 1
      expectClose(next.params[name]!, p.map((value) => value * factor), { rtol: 1e-15, name })
    }
  })

  it("clips the gradient to the asked norm, which the first moments show", () => {
    const state = initialState(parametersOf(config))
    const { gradNorm, state: next } = trainStep(config, state, batch, coef, segment, { ...options, clip: 0.01 })
    expect(gradNorm).toBeGreaterThan(0.1)
    const clipped = globalNorm(Object.values(next.m)) / (1 - options.beta1)
    expectClose([clipped], [0.01], { rtol: 1e-5, name: "clipped norm" })
  })

  it("takes its second step as AdamW's second", () => {
    const first = trainStep(config, initialState(parametersOf(config)), batch, coef, segment, options).state
    const gradients = backward(config, first.params, batch, coef, segment)
    const second = trainStep(config, first, batch, coef, segment, options)
    expect(second.gradNorm).toBe(globalNorm(Object.values(gradients)))
    const gradScale = clipScale(second.gradNorm, 1)
    for (const [name, p] of Object.entries(first.params)) {
      const weightDecay = /norm/.test(name) ? 0 : 0.1
      const settings = { ...options, weightDecay, step: 2, gradScale }
      const want = adamw(p, gradients[name]!, first.m[name]!, first.v[name]!, settings)
      expect(second.state.params[name], name).toEqual(want.p)
      expect(second.state.m[name], name).toEqual(want.m)
      expect(second.state.v[name], name).toEqual(want.v)
    }
  })

  it("learns the batch by heart, and its arguments stay as they were", () => {
    const start = initialState(parametersOf(config))
    const copy = structuredClone(start)
    let state = start
    const losses: Array<number> = []
    for (let step = 0; step < 60; step++) {
      const result = trainStep(config, state, batch, coef, segment, { ...options, lr: 0.03 })
      losses.push(result.loss)
      state = result.state
    }
    expect(losses[9]).toBeLessThan(losses[0]!)
    expect(losses[59]).toBeLessThan(0.1 * losses[0]!)
    expect(start).toEqual(copy)
  })

  it("computes all gradients of a tiny model in well under two seconds", () => {
    const tiny = { ...config, vocabSize: 64, hiddenSize: 32, headDim: 8, general: 64, pool: 64, block: 16 }
    const row = pack([[16]], makeRandom(6).ints(16, 64))
    const started = performance.now()
    backward(tiny, parametersOf(tiny), row, f64(1, 1, 0, 0, 1), new Uint32Array(16))
    expect(performance.now() - started).toBeLessThan(1000)
  })
})
