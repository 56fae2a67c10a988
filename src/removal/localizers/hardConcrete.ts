/** Hard concrete (Louizos et al. 2018; Chang et al. 2024; "pruning" in MemSinks): learn how likely a neuron is kept. */
import * as Effect from "effect/Effect"
import type { Row } from "../../data/stream/Packing.ts"
import { attempt, DataError } from "../../Errors.ts"
import type { NeuronGates } from "../../inside/NeuronGates.ts"
import { random } from "../../Random.ts"
import { learnGates, perLayer } from "./learnGates.ts"
import { checkBetween, type LocalizeOptions, type Localizer } from "./Localizer.ts"
import { withGates } from "./withGates.ts"

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))

/** Draws of s are stretched from (0, 1) to (low, high), so that both 0 and 1 have a probability. */
const low = -0.1
const high = 1.1

/** A neuron's mask for a parameter a and a draw u in (0, 1), and its derivative by a: 0 where it is clipped. */
export const hardConcreteMask = (a: number, u: number, temperature: number): { mask: number; slope: number } => {
  const s = sigmoid((Math.log(u) - Math.log1p(-u) + a) / temperature)
  const stretched = (high - low) * s + low
  const inside = stretched > 0 && stretched < 1
  return {
    mask: Math.min(Math.max(stretched, 0), 1),
    slope: inside ? ((high - low) * s * (1 - s)) / temperature : 0
  }
}

/** The probability that a neuron's mask is not 0. */
export const keptProbability = (a: number, temperature: number): number =>
  sigmoid(a - temperature * Math.log(-low / high))

/**
 * Masks m = clip(1.2 s - 0.1, 0, 1), s = sigmoid((log u - log(1 - u) + a) / beta), that minimize suffix loss +
 * lambda * mean P(m > 0) while the weights are frozen; the score is sigmoid(a). One training pass a step; every row of
 * a batch draws masks of its own, which are more samples at the price of one.
 */
export const hardConcreteScores = Effect.fnUntraced(function*(
  gates: NeuronGates,
  rows: ReadonlyArray<Row>,
  options: LocalizeOptions
) {
  const { keep = 0.9, temperature = 0.33 } = options.hardConcrete ?? {}
  const settings = {
    lambda: (2000 / 327680) * gates.layers * gates.width,
    learningRate: 0.01,
    steps: 400,
    stopBelow: 0.1,
    ...options.hardConcrete
  }
  yield* attempt(() => {
    checkBetween("hardConcrete.temperature", temperature, 0)
    checkBetween("hardConcrete.keep", keep, 0, 1)
  }, DataError)
  const s = (keep - low) / (high - low)
  const noise = random(options.seed, "localizer", "hardConcrete", "noise")
  const values = yield* learnGates(gates, rows, options, "hardConcrete", settings, {
    initial: Math.log(s / (1 - s)),
    gates: (a) => {
      const slope = new Float64Array(a.length)
      const gate = a.map((value, i) => {
        // never exactly 0
        const drawn = hardConcreteMask(value, 1 - noise.uniform(), temperature)
        slope[i] = drawn.slope
        return drawn.mask
      })
      return { gate, slope }
    },
    penalty: (a) => {
      const kept = a.map((value) => keptProbability(value, temperature))
      return { mean: kept.reduce((sum, p) => sum + p, 0) / kept.length, slope: kept.map((p) => p * (1 - p)) }
    }
  })
  return perLayer(values.map(sigmoid), gates.layers)
})

export const hardConcrete: Localizer = withGates("hardConcrete", hardConcreteScores)
