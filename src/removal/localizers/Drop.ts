/** What is done with scores: drop the neurons that lead, and count how many known ones a localizer found. */
import * as Effect from "effect/Effect"
import { attempt, type CheckpointError, DataError, type DeviceError } from "../../Errors.ts"
import type { HostTensor } from "../../HostTensor.ts"
import type { ModelService } from "../../model/Model.ts"
import type { NeuronScores } from "./Localizer.ts"

/**
 * The neurons of the top fraction of each layer, rising: round(fraction * width) of them, equal scores from the first
 * neuron on. Throws a DataError for a fraction outside [0, 1] and for a score that is infinite or not a number.
 */
export const topFraction = (scores: NeuronScores, fraction: number): ReadonlyArray<Uint32Array> => {
  if (!(fraction >= 0 && fraction <= 1)) {
    throw new DataError({ detail: `the fraction of neurons must be from 0 to 1, got ${fraction}` })
  }
  return scores.map((layer, l) => {
    const unknown = layer.findIndex((score) => !Number.isFinite(score))
    if (unknown >= 0) {
      const is = Number.isNaN(layer[unknown]) ? "not a number" : "infinite"
      throw new DataError({ detail: `the score of neuron ${unknown} in layer ${l} is ${is}` })
    }
    return Uint32Array.from(layer.keys())
      .sort((a, b) => layer[b]! - layer[a]! || a - b)
      .slice(0, Math.round(fraction * layer.length))
      .sort()
  })
}

/** The model's tensors, in Hugging Face's names and layout, with the output rows of these neurons at 0. */
export const withoutNeurons = (
  tensors: Readonly<Record<string, HostTensor>>,
  neurons: ReadonlyArray<Uint32Array>
): Record<string, HostTensor> => {
  const changed = { ...tensors }
  neurons.forEach((dropped, l) => {
    const name = `model.layers.${l}.mlp.down_proj.weight`
    const { shape, data } = tensors[name]!
    const [rows, width] = shape
    const kept = data.slice()
    for (const neuron of dropped) for (let row = 0; row < rows!; row++) kept[row * width! + neuron] = 0
    changed[name] = { shape, data: kept }
  })
  return changed
}

/** Neurons that were dropped, and the way back. */
export interface Dropped {
  /** The neurons that were dropped, per layer, rising. */
  readonly neurons: ReadonlyArray<Uint32Array>
  /** Puts back all weights as they were before the drop. */
  readonly restore: Effect.Effect<void, CheckpointError | DeviceError>
}

/**
 * Drops the top fraction of each layer's neurons: their output rows become 0 on the device. To sweep fractions, restore
 * between them.
 */
export const dropNeurons = (
  model: Pick<ModelService, "exportTensors" | "importTensors">,
  scores: NeuronScores,
  fraction: number
): Effect.Effect<Dropped, DataError | DeviceError | CheckpointError> =>
  Effect.gen(function*() {
    const neurons = yield* attempt(() => topFraction(scores, fraction), DataError)
    const tensors = yield* model.exportTensors
    yield* model.importTensors(withoutNeurons(tensors, neurons))
    return { neurons, restore: model.importTensors(tensors) }
  })

/**
 * Of the neurons that are known to hold a memory (`truth`: per layer [width], 1 for those), the share that is among the
 * top fraction of their layers: Recall@fraction of the INJ benchmark (Chang et al. 2024), pooled over layers. NaN where
 * none is known. In a model with sinks, the truth is `sinkNeurons` of the sequence's id in every layer.
 */
export const recall = (scores: NeuronScores, truth: ReadonlyArray<Uint8Array>, fraction: number): number => {
  let [found, known] = [0, 0]
  topFraction(scores, fraction).forEach((top, l) => {
    for (const neuron of top) found += truth[l]![neuron]!
    for (const one of truth[l]!) known += one
  })
  return found / known
}
