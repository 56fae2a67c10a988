/** Slimming (Liu et al. 2017; Chang et al. 2024): learn a coefficient for each neuron, with a pull towards 0. */
import * as Effect from "effect/Effect"
import type { Row } from "../../data/stream/Packing.ts"
import type { NeuronGates } from "../../inside/NeuronGates.ts"
import { learnGates, perLayer } from "./learnGates.ts"
import type { LocalizeOptions, Localizer } from "./Localizer.ts"
import { withGates } from "./withGates.ts"

/**
 * Coefficients, from 1 on, that minimize suffix loss + lambda * mean |c| while the weights are frozen; the score is the
 * coefficient within [0, 1]. One training pass a step.
 */
export const slimmingScores = Effect.fnUntraced(function*(
  gates: NeuronGates,
  rows: ReadonlyArray<Row>,
  options: LocalizeOptions
) {
  const settings = {
    lambda: (30000 / 327680) * gates.layers * gates.width,
    learningRate: 0.01,
    steps: 60,
    stopBelow: 0.4,
    ...options.slimming
  }
  const values = yield* learnGates(gates, rows, options, "slimming", settings, {
    initial: 1,
    gates: (c) => ({ gate: c, slope: new Float64Array(c.length).fill(1) }),
    penalty: (c) => ({ mean: c.reduce((sum, x) => sum + Math.abs(x), 0) / c.length, slope: c.map(Math.sign) })
  })
  return perLayer(values.map((c) => Math.min(Math.max(c, 0), 1)), gates.layers)
})

export const slimming: Localizer = withGates("slimming", slimmingScores)
