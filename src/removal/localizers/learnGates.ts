/** Learning one number a neuron with frozen weights: what slimming and hard concrete have in common. */
import * as Effect from "effect/Effect"
import type { Row } from "../../data/stream/Packing.ts"
import { attempt, DataError } from "../../Errors.ts"
import type { NeuronGates } from "../../inside/NeuronGates.ts"
import { random } from "../../Random.ts"
import { checkBetween, checkCount, checkOptions, type LocalizeOptions, suffixBatch } from "./Localizer.ts"

/** Options of all that learns gates, none left out. */
export interface LearnOptions {
  readonly lambda: number
  readonly learningRate: number
  readonly steps: number
  readonly stopBelow: number
}

/** Values of all neurons, layer after layer: [layers * width]. */
export type Values = Float64Array

export interface GateModel {
  /** What the learned values begin at. */
  readonly initial: number
  /** The gates of one row, and what the gradient by each gate is multiplied with to be that by its value. */
  readonly gates: (values: Values) => { readonly gate: Values; readonly slope: Values }
  /** The penalty, a mean over all neurons, and its gradient by each value before division by their number. */
  readonly penalty: (values: Values) => { readonly mean: number; readonly slope: Values }
}

/** Adam (Kingma and Ba 2015) without decay, beta 0.9 and 0.999: returns what moves `values` by one step. */
const adam = (values: Values, learningRate: number) => {
  const first = new Float64Array(values.length)
  const second = new Float64Array(values.length)
  let step = 0
  return (gradient: Values): void => {
    step++
    const correction1 = 1 - 0.9 ** step
    const correction2 = 1 - 0.999 ** step
    gradient.forEach((g, i) => {
      first[i] = 0.9 * first[i]! + 0.1 * g
      second[i] = 0.999 * second[i]! + 0.001 * g * g
      values[i]! -= (learningRate * (first[i] / correction1)) / (Math.sqrt(second[i] / correction2) + 1e-8)
    })
  }
}

/**
 * Minimizes the suffix loss plus lambda times the penalty by Adam, a training pass a step, until `steps` are done or
 * the penalty is below `stopBelow`. Each step takes the next `batchSize` sequences of a shuffled round; where there are
 * fewer, they come several times in a batch, each with gates of its own. Returns the values.
 */
export const learnGates = Effect.fnUntraced(function*(
  gates: NeuronGates,
  rows: ReadonlyArray<Row>,
  options: LocalizeOptions,
  name: "slimming" | "hardConcrete",
  { lambda, learningRate, steps, stopBelow }: LearnOptions,
  model: GateModel
) {
  const { layers, width } = gates
  const { batchSize, seed } = options
  const neurons = layers * width
  yield* attempt(() => {
    checkOptions(rows, options)
    checkCount(`${name}.steps`, steps)
    checkBetween(`${name}.learningRate`, learningRate, 0)
    checkBetween(`${name}.lambda`, lambda, -Number.MIN_VALUE)
  }, DataError)
  const order = random(seed, "localizer", name, "order").shuffle(Uint32Array.from(rows.keys()))
  const values = new Float64Array(neurons).fill(model.initial)
  const move = adam(values, learningRate)
  for (let step = 0; step < steps; step++) {
    const penalty = model.penalty(values)
    if (penalty.mean < stopBelow) break
    const drawnRows = Array.from({ length: batchSize }, (_, r) => rows[order[(step * batchSize + r) % rows.length]!]!)
    const { batch, weights } = yield* attempt(() => suffixBatch(drawnRows, options), DataError)
    const drawn = Array.from({ length: batchSize }, () => model.gates(values))
    const open = Array.from({ length: layers }, () => new Float32Array(batchSize * width))
    drawn.forEach(({ gate }, r) =>
      open.forEach((layer, l) => layer.set(gate.subarray(l * width, (l + 1) * width), r * width))
    )
    const got = (yield* gates.gradients(batch, weights.map((weight) => weight / batchSize), open)).gates
    const gradient = penalty.slope.map((slope) => (lambda / neurons) * slope)
    drawn.forEach(({ slope }, r) => {
      for (let at = 0; at < neurons; at++) {
        gradient[at]! += slope[at]! * got[Math.floor(at / width)]![r * width + (at % width)]!
      }
    })
    move(gradient)
  }
  return values
})

/** Values of all neurons as scores of each layer. */
export const perLayer = (values: Values, layers: number): ReadonlyArray<Float32Array> => {
  const width = values.length / layers
  return Array.from({ length: layers }, (_, l) => Float32Array.from(values.subarray(l * width, (l + 1) * width)))
}
