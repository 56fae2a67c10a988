/** Integrated gradients (Sundararajan et al. 2017; knowledge neurons, Dai et al. 2022), as MemSinks uses them. */
import * as Effect from "effect/Effect"
import type { Row } from "../../data/stream/Packing.ts"
import { attempt, DataError } from "../../Errors.ts"
import type { NeuronGates } from "../../inside/NeuronGates.ts"
import { checkCount, filledGates, type LocalizeOptions, type Localizer, suffixBatches } from "./Localizer.ts"
import { withGates } from "./withGates.ts"

/**
 * A neuron's share of the probability of the true token, mean over suffix tokens and sequences: its activation times
 * the gradient of that probability by it, averaged while all neurons of its layer are scaled together from 0 to 1 and
 * the other layers stay as they are. Signed. A layer's scores sum to the mean probability as it is minus that with the
 * layer silent, to an error of the order steps^-2: gradients are taken at the middle of each step, where the authors
 * take both ends in full and miss by 1 / steps.
 *
 * The authors scale a neuron only at the position that predicts, with a pass for each token, step and layer. Here it is
 * scaled at all positions, so what it does for a later token through attention counts too, and one forward and one
 * training pass a step and layer serve all tokens of a batch.
 */
export const integratedGradientScores = Effect.fnUntraced(function*(
  gates: NeuronGates,
  rows: ReadonlyArray<Row>,
  options: LocalizeOptions
) {
  const { layers, width } = gates
  const { batchSize } = options
  const { steps = 16 } = options.integratedGradients ?? {}
  yield* attempt(() => checkCount("integratedGradients.steps", steps), DataError)
  const scores = Array.from({ length: layers }, () => new Float64Array(width))
  const open = filledGates(gates, batchSize, 1)
  for (const { batch, weights } of yield* suffixBatches(rows, options)) {
    for (let l = 0; l < layers; l++) {
      for (let step = 0; step < steps; step++) {
        open[l]!.fill((step + 0.5) / steps)
        const loss = yield* gates.loss(batch, open)
        // the gradient of a probability p = exp(-loss) is -p times that of the loss
        const ofProbability = weights.map((weight, t) => (weight === 0 ? 0 : -weight * Math.exp(-loss[t]!)))
        const gradients = (yield* gates.gradients(batch, ofProbability, open)).gates[l]!
        for (let at = 0; at < gradients.length; at++) scores[l]![at % width]! += gradients[at]! / steps
      }
      open[l]!.fill(1)
    }
  }
  return scores.map((layer) => Float32Array.from(layer))
})

export const integratedGradients: Localizer = withGates("integratedGradients", integratedGradientScores)
