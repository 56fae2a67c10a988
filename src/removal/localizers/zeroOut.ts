/** Zero-out (Chang et al. 2024, section 4): what the loss of the suffix gains when one neuron is switched off. */
import * as Effect from "effect/Effect"
import type { Row } from "../../data/stream/Packing.ts"
import { attempt, DataError } from "../../Errors.ts"
import type { NeuronGates } from "../../inside/NeuronGates.ts"
import { checkOptions, filledGates, type LocalizeOptions, type Localizer, suffixBatch } from "./Localizer.ts"
import { withGates } from "./withGates.ts"

/**
 * Loss with the neuron at 0 minus loss as it is, mean over sequences. Exact: a forward pass for each `batchSize`
 * neurons of each sequence, whose copies fill a batch, each with its own neuron off. Neurons that are silent all
 * through a sequence, such as sinks that are off, change nothing and are not tried.
 */
export const zeroOutScores = Effect.fnUntraced(function*(
  gates: NeuronGates,
  rows: ReadonlyArray<Row>,
  options: LocalizeOptions
) {
  const { layers, width } = gates
  const { batchSize, seqLen } = options
  const scores = Array.from({ length: layers }, () => new Float64Array(width))
  yield* attempt(() => checkOptions(rows, options), DataError)
  for (const row of rows) {
    const { batch, weights } = yield* attempt(() => suffixBatch(Array.from({ length: batchSize }, () => row), options),
      DataError)
    const lossOf = (loss: Float32Array, r: number): number => {
      let sum = 0
      for (let t = r * seqLen; t < (r + 1) * seqLen; t++) sum += weights[t]! * loss[t]!
      return sum
    }
    const before = yield* gates.loss(batch)
    const hidden = yield* gates.activations(batch)
    const speaking = hidden.flatMap((layer, l) =>
      Array.from({ length: width }, (_, i) => [l, i] as const).filter(([, i]) => {
        for (let t = 0; t < seqLen; t++) if (layer[t * width + i] !== 0) return true
        return false
      })
    )
    const open = filledGates(gates, batchSize, 1)
    for (let first = 0; first < speaking.length; first += batchSize) {
      const chunk = speaking.slice(first, first + batchSize)
      chunk.forEach(([l, i], r) => (open[l]![r * width + i] = 0))
      const after = yield* gates.loss(batch, open)
      chunk.forEach(([l, i], r) => {
        open[l]![r * width + i] = 1
        scores[l]![i]! += (lossOf(after, r) - lossOf(before, r)) / rows.length
      })
    }
  }
  return scores.map((layer) => Float32Array.from(layer))
})

export const zeroOut: Localizer = withGates("zeroOut", zeroOutScores)
