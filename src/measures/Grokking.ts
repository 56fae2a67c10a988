/**
 * Modular addition with corrupted answers in float64: a network of quadratic neurons that finds the rule, memorizes the
 * wrong answers, or does both, and which of its neurons do which (Doshi et al., To grok or not to grok, 2024). Pure.
 *
 * The answer to a pair (m, n) is V (A[m] + B[n])^2, the square by neuron. Neurons that carry the rule are waves over the
 * residues, and their inverse participation ratio is near 1; those that memorize single pairs have flat spectra. Besides, the
 * network may have sinks: neurons behind the general ones, of which a training pair lights those of its id alone, and which are
 * dropped when training is over.
 */
import { random } from "../Random.ts"
import { type SinkConfig, unitsOf } from "../Sink.ts"
import { participation } from "./Metrics.ts"
import { mean } from "./Statistics.ts"

/** A pair of residues, the answer that is trained, and the true one. */
export interface Pair {
  readonly m: number
  readonly n: number
  /** What training says; of a corrupted pair a random residue, which is the true one in 1 of `modulus` by luck. */
  readonly label: number
  readonly sum: number
  readonly corrupted: boolean
}

export interface GrokkingOptions {
  readonly seed?: number
  /** The modulus. Default 37. */
  readonly modulus?: number
  /** Share of all pairs that are trained on. Default 0.7. */
  readonly trained?: number
  /** Share of those whose answer is drawn at random: label noise. Default 0. */
  readonly corrupted?: number
  /** General neurons. Default 128. */
  readonly general?: number
  /** Sink neurons, lit by the number of the pair. Default none. */
  readonly sinks?: SinkConfig
  /** Full-batch steps of AdamW. Default 300. */
  readonly steps?: number
  /** Default 0.01. */
  readonly learningRate?: number
  /** Decoupled, of AdamW, of all weights. Default 0. */
  readonly weightDecay?: number
}

/** The pairs of a world: all of them, those trained on first. */
export interface World {
  readonly modulus: number
  readonly train: ReadonlyArray<Pair>
  readonly test: ReadonlyArray<Pair>
}

/** All pairs, of which some are trained on, of which some have a random answer. */
export const makeWorld = ({ corrupted = 0, modulus = 37, seed = 0, trained = 0.7 }: GrokkingOptions): World => {
  const draw = random(seed, "grokking")
  const order = draw.shuffle(Uint32Array.from({ length: modulus * modulus }, (_, i) => i))
  const train = Math.round(order.length * trained)
  const wrong = Math.round(train * corrupted)
  const pairs = Array.from(order, (pair, i): Pair => {
    const [m, n] = [Math.floor(pair / modulus), pair % modulus]
    const sum = (m + n) % modulus
    return { m, n, sum, corrupted: i < wrong, label: i < wrong ? draw.below(modulus) : sum }
  })
  return { modulus, train: pairs.slice(0, train), test: pairs.slice(train) }
}

/**
 * Weights of some neurons: A and B [modulus, width], what a residue adds to each of them, and V [modulus, width], what they add
 * to each answer, one after the other.
 */
export interface Neurons {
  readonly width: number
  readonly weights: Float64Array
}

/** General neurons, which are always on, and sinks, of which those are that a pair lights. */
export interface Network {
  readonly modulus: number
  readonly general: Neurons
  readonly sinks: Neurons
}

/** Normal weights of standard deviation 0.5 / (2 width)^(1/3), the width that of the general neurons, as the authors have it. */
export const makeNetwork = ({ general = 128, modulus = 37, seed = 0, sinks }: GrokkingOptions): Network => {
  const draw = random(seed, "grokking", "weights")
  const deviation = 0.5 / Math.cbrt(2 * general)
  const neurons = (width: number): Neurons => ({
    width,
    weights: Float64Array.from({ length: 3 * modulus * width },
      () => deviation * Math.sqrt(-2 * Math.log(1 - draw.uniform())) * Math.cos(2 * Math.PI * draw.uniform()))
  })
  return { modulus, general: neurons(general), sinks: neurons(sinks?.pool ?? 0) }
}

/** Sinks that are on for a pair, as ranges [from, to, from, to, ...]. */
export type Lit = Uint32Array

/** The sinks of each training pair's id, which is its number, from 1. */
export const litOf = (sinks: SinkConfig | undefined, pairs: number): ReadonlyArray<Lit> =>
  Array.from({ length: pairs }, (_, i) =>
    sinks === undefined
      ? new Uint32Array(0)
      : Uint32Array.from(
        [...unitsOf(sinks, BigInt(i + 1))].flatMap((unit) => [unit * sinks.block, (unit + 1) * sinks.block])
      ))

/** out [m, n] = a [m, k] b^T, b being [n, k], in tiles of two by two, which stay in registers. */
const multiply = (a: Float64Array, b: Float64Array, out: Float64Array, m: number, n: number, k: number): void => {
  for (let i = 0; i < m; i += 2) {
    // the last row of an odd number is computed twice
    const i1 = Math.min(i + 1, m - 1)
    const a0 = i * k
    const a1 = i1 * k
    for (let j = 0; j < n; j += 2) {
      const j1 = Math.min(j + 1, n - 1)
      const b0 = j * k
      const b1 = j1 * k
      let c00 = 0
      let c01 = 0
      let c10 = 0
      let c11 = 0
      for (let x = 0; x < k; x++) {
        const p0 = a[a0 + x]!
        const p1 = a[a1 + x]!
        const q0 = b[b0 + x]!
        const q1 = b[b1 + x]!
        c00 += p0 * q0
        c01 += p0 * q1
        c10 += p1 * q0
        c11 += p1 * q1
      }
      out[i * n + j] = c00
      out[i * n + j1] = c01
      out[i1 * n + j] = c10
      out[i1 * n + j1] = c11
    }
  }
}

/** out [n, m] = a^T, a being [m, n]. */
const transpose = (a: Float64Array, out: Float64Array, m: number, n: number): void => {
  for (let i = 0; i < m; i++) for (let j = 0; j < n; j++) out[j * m + i] = a[i * n + j]!
}

type Rooms = [Float64Array, Float64Array, Float64Array, Float64Array]

/** Answers of a network to pairs, and gradients, in memory that is taken once. */
export const makePasses = ({ general, modulus: p, sinks }: Network, pairs: ReadonlyArray<Pair>,
  lit: ReadonlyArray<Lit>) =>
{
  const [count, width] = [pairs.length, general.width]
  const room = (size: number) => new Float64Array(size)
  const [sums, squares, squaresT, back] = [0, 1, 2, 3].map(() => room(count * width)) as Rooms
  const [answers, errors, errorsT] = [0, 1, 2].map(() => room(count * p)) as Rooms
  const outT = room(p * width)
  const m = Uint32Array.from(pairs, (pair) => pair.m)
  const n = Uint32Array.from(pairs, (pair) => pair.n)
  const labels = Uint32Array.from(pairs, (pair) => pair.label)

  /** Answers [pair, residue] of the general neurons and the pairs' own sinks. */
  const answer = (): Float64Array => {
    const w = general.weights
    for (let i = 0; i < count; i++) {
      const [a, b, at] = [m[i]! * width, (p + n[i]!) * width, i * width]
      for (let k = 0; k < width; k++) {
        const sum = w[a + k]! + w[b + k]!
        sums[at + k] = sum
        squares[at + k] = sum * sum
      }
    }
    multiply(squares, w.subarray(2 * p * width), answers, count, p, width)
    const [s, own] = [sinks.weights, sinks.width]
    for (let i = 0; i < count; i++) {
      const on = lit[i]!
      const [a, b] = [m[i]! * own, (p + n[i]!) * own]
      for (let r = 0; r < on.length; r += 2) {
        for (let k = on[r]!; k < on[r + 1]!; k++) {
          const square = (s[a + k]! + s[b + k]!) ** 2
          for (let c = 0; c < p; c++) answers[i * p + c]! += s[(2 * p + c) * own + k]! * square
        }
      }
    }
    return answers
  }

  /** The mean squared error over pairs and residues; its gradients are written over `gradients`. */
  const differentiate = (gradients: { readonly general: Float64Array; readonly sinks: Float64Array }): number => {
    answer()
    const scale = 2 / (count * p)
    let loss = 0
    for (let i = 0; i < count; i++) {
      for (let c = 0; c < p; c++) {
        const error = answers[i * p + c]! - (c === labels[i] ? 1 : 0)
        loss += error * error
        errors[i * p + c] = scale * error
      }
    }
    const into = gradients.general.fill(0)
    transpose(general.weights.subarray(2 * p * width), outT, p, width)
    multiply(errors, outT, back, count, width, p)
    transpose(errors, errorsT, count, p)
    transpose(squares, squaresT, count, width)
    multiply(errorsT, squaresT, into.subarray(2 * p * width), p, width, count)
    for (let i = 0; i < count; i++) {
      const [a, b, at] = [m[i]! * width, (p + n[i]!) * width, i * width]
      for (let k = 0; k < width; k++) {
        const slope = 2 * sums[at + k]! * back[at + k]!
        into[a + k]! += slope
        into[b + k]! += slope
      }
    }
    const [s, own, sink] = [sinks.weights, sinks.width, gradients.sinks.fill(0)]
    for (let i = 0; i < count; i++) {
      const on = lit[i]!
      const [a, b] = [m[i]! * own, (p + n[i]!) * own]
      for (let r = 0; r < on.length; r += 2) {
        for (let k = on[r]!; k < on[r + 1]!; k++) {
          const sum = s[a + k]! + s[b + k]!
          let slope = 0
          for (let c = 0; c < p; c++) {
            const error = errors[i * p + c]!
            const row = (2 * p + c) * own + k
            sink[row]! += error * sum * sum
            slope += error * s[row]!
          }
          sink[a + k]! += 2 * sum * slope
          sink[b + k]! += 2 * sum * slope
        }
      }
    }
    return (loss * scale) / 2
  }
  return { answer, differentiate }
}

/** AdamW, betas 0.9 and 0.98, as the authors have it. */
const makeAdam = ({ weights }: Neurons, learningRate: number, weightDecay: number) => {
  const [first, second] = [new Float64Array(weights.length), new Float64Array(weights.length)]
  return (step: number, gradient: Float64Array): void => {
    const [one, two] = [1 - 0.9 ** step, 1 - 0.98 ** step]
    for (let i = 0; i < weights.length; i++) {
      const g = gradient[i]!
      first[i] = 0.9 * first[i]! + 0.1 * g
      second[i] = 0.98 * second[i]! + 0.02 * g * g
      weights[i] = weights[i]! * (1 - learningRate * weightDecay) -
        (learningRate * first[i]!) / one / (Math.sqrt(second[i]! / two) + 1e-8)
    }
  }
}

/** Trains a network, a step whenever the next value is asked for, which is the loss before it. */
export function* training(
  { network, world: { train } }: { readonly network: Network; readonly world: World },
  { learningRate = 0.01, sinks, steps = 300, weightDecay = 0 }: GrokkingOptions
): Generator<number, void> {
  const { differentiate } = makePasses(network, train, litOf(sinks, train.length))
  const gradients = {
    general: new Float64Array(network.general.weights.length),
    sinks: new Float64Array(network.sinks.weights.length)
  }
  const general = makeAdam(network.general, learningRate, weightDecay)
  const pool = makeAdam(network.sinks, learningRate, weightDecay)
  for (let step = 1; step <= steps; step++) {
    const loss = differentiate(gradients)
    general(step, gradients.general)
    pool(step, gradients.sinks)
    yield loss
  }
}

/** Whether the largest answer to each pair is what `right` says: by its label, unless told. */
export const correct = (
  network: Network,
  pairs: ReadonlyArray<Pair>,
  { lit = [], right = ({ label }) => label }: {
    /** Sinks of each pair. Default: none is on. */
    readonly lit?: ReadonlyArray<Lit>
    readonly right?: (pair: Pair) => number
  } = {}
): ReadonlyArray<boolean> => {
  const { modulus } = network
  const answers = makePasses(network, pairs, pairs.map((_, i) => lit[i] ?? new Uint32Array(0))).answer()
  return pairs.map((pair, i) => {
    let best = 0
    for (let c = 1; c < modulus; c++) if (answers[i * modulus + c]! > answers[i * modulus + best]!) best = c
    return best === right(pair)
  })
}

/** The inverse participation ratio of each neuron: the mean of those of its three vectors over the residues. */
export const participations = ({ weights, width }: Neurons, modulus: number): Float64Array =>
  Float64Array.from({ length: width }, (_, k) =>
    mean([0, 1, 2].map((part) =>
      participation(Float64Array.from({ length: modulus }, (_, r) =>
        weights[(part * modulus + r) * width + k]!))
    )))

/** Neurons without some: those add nothing to any answer. */
export const without = ({ weights, width }: Neurons, dropped: ReadonlyArray<number>): Neurons => {
  const left = weights.slice()
  for (const k of dropped) {
    for (let row = (2 * weights.length) / 3; row < weights.length; row += width) left[row + k] = 0
  }
  return { width, weights: left }
}
