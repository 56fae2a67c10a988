/**
 * Gates on neurons in float64. A gate of a neuron is a factor on its output row, so the ungated reference with scaled
 * rows says all: a row of the batch at a time, since each has gates of its own.
 */
import type { Batch } from "../../src/Batch.ts"
import { backward, forward, type ReferenceConfig, type Tensors, weighted } from "./model.ts"
import type { Numbers } from "./ops.ts"

/** Per layer [rows, width]. */
export type Gates = ReadonlyArray<Numbers>

const rowOf = (batch: Batch, r: number): Batch => {
  const { seqLen } = batch
  const [from, to] = [r * seqLen, (r + 1) * seqLen]
  return {
    rows: 1,
    seqLen,
    tokens: batch.tokens.slice(from, to),
    targets: batch.targets.slice(from, to),
    positions: batch.positions.slice(from, to),
    documentStart: batch.documentStart.slice(from, to).map((start) => start - from),
    ids: batch.ids.slice(from, to)
  }
}

/** One sequence a row; `coefOf` [1 + pool/block] lights the sinks of an id. */
export const referenceGates = (
  config: ReferenceConfig,
  params: Tensors,
  coefOf: (id: bigint) => Numbers
) => {
  const width = config.general + config.pool
  const d = config.hiddenSize

  const runRow = (batch: Batch, r: number, gates: Gates | undefined) => {
    const row = rowOf(batch, r)
    const gated: Tensors = { ...params }
    gates?.forEach((layer, l) => {
      const name = `layers.${l}.down`
      gated[name] = params[name]!.map((w, at) => w * layer[r * width + Math.floor(at / d)]!)
    })
    const coef = coefOf(row.ids[0]!)
    const segment = new Uint32Array(row.seqLen)
    return { row, gated, coef, segment, cache: forward(config, gated, row, coef, segment) }
  }

  /** Negative log-likelihood of every token [rows * seqLen]. */
  const loss = (batch: Batch, gates?: Gates): Float64Array => {
    const all = new Float64Array(batch.tokens.length)
    for (let r = 0; r < batch.rows; r++) all.set(runRow(batch, r, gates).cache.tokenLoss, r * batch.seqLen)
    return all
  }

  /** The gradient of sum_t weights[t] * loss[t] by every gate, per layer [rows, width]. */
  const gradients = (batch: Batch, weights: Numbers, gates?: Gates) => {
    const { seqLen } = batch
    const all = new Float64Array(batch.tokens.length)
    const byGate = Array.from({ length: config.numHiddenLayers }, () => new Float64Array(batch.rows * width))
    for (let r = 0; r < batch.rows; r++) {
      const { cache, coef, gated, row, segment } = runRow(batch, r, gates)
      all.set(cache.tokenLoss, r * seqLen)
      const aim = weighted(cache, weights.slice(r * seqLen, (r + 1) * seqLen))
      const parameters = backward(config, gated, row, coef, segment, aim)
      byGate.forEach((layer, l) => {
        const name = `layers.${l}.down`
        params[name]!.forEach((w, at) => (layer[r * width + Math.floor(at / d)]! += w * parameters[name]![at]!))
      })
    }
    return { loss: all, gates: byGate }
  }

  /** What every neuron holds before its gate, per layer [rows * seqLen, width]. */
  const activations = (batch: Batch, gates?: Gates): ReadonlyArray<Float64Array> => {
    const all = Array.from(
      { length: config.numHiddenLayers },
      () => new Float64Array(batch.tokens.length * width)
    )
    for (let r = 0; r < batch.rows; r++) {
      runRow(batch, r, gates).cache.layers.forEach(({ h }, l) => all[l]!.set(h, r * batch.seqLen * width))
    }
    return all
  }

  return { layers: config.numHiddenLayers, width, loss, gradients, activations }
}
