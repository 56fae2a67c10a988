/** Activations (Geva et al. 2022; Chang et al. 2024): neurons that write much where the suffix is predicted. */
import * as Effect from "effect/Effect"
import type { Row } from "../../data/stream/Packing.ts"
import { Device } from "../../gpu/Device.ts"
import type { NeuronGates } from "../../inside/NeuronGates.ts"
import { Model } from "../../model/Model.ts"
import { type LocalizeOptions, type Localizer, suffixBatches } from "./Localizer.ts"
import { gatesFor } from "./withGates.ts"

/**
 * Mean activation over the positions that predict the suffix, in absolute value, times the norm of the neuron's output
 * row (`outputNorms`, per layer [width]); mean over sequences. One forward pass a batch.
 */
export const activationScores = Effect.fnUntraced(function*(
  gates: NeuronGates,
  outputNorms: ReadonlyArray<ArrayLike<number>>,
  rows: ReadonlyArray<Row>,
  options: LocalizeOptions
) {
  const { layers, width } = gates
  const { batchSize, seqLen } = options
  const signed = options.activations?.mean === "signed"
  const scores = Array.from({ length: layers }, () => new Float64Array(width))
  for (const { batch, weights } of yield* suffixBatches(rows, options)) {
    const hidden = yield* gates.activations(batch)
    hidden.forEach((layer, l) => {
      for (let r = 0; r < batchSize; r++) {
        const mean = new Float64Array(width)
        for (let t = r * seqLen; t < (r + 1) * seqLen; t++) {
          if (weights[t] === 0) continue
          for (let i = 0; i < width; i++) {
            const h = layer[t * width + i]!
            mean[i]! += weights[t]! * (signed ? h : Math.abs(h))
          }
        }
        mean.forEach((h, i) => (scores[l]![i]! += Math.abs(h) * outputNorms[l]![i]!))
      }
    })
  }
  return scores.map((layer) => Float32Array.from(layer))
})

/** Length of every neuron's output row, per layer [width]. */
const outputNormsOf = Effect.gen(function*() {
  const model = yield* Model
  const device = yield* Device
  const d = model.config.hiddenSize
  return yield* Effect.forEach(model.handles.layers,
    ({ down }) =>
      Effect.map(device.read(down.value), (rows) =>
        Float64Array.from({ length: rows.length / d }, (_, i) =>
          Math.hypot(...rows.subarray(i * d, (i + 1) * d)))))
})

export const activations: Localizer = {
  name: "activations",
  localize: (rows, options) =>
    Effect.gen(function*() {
      return yield* activationScores(yield* gatesFor(rows, options), yield* outputNormsOf, rows, options)
    }).pipe(Effect.scoped)
}
