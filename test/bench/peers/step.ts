/**
 * The step that `npm run bench:peers` compares: one shape, one batch, one start for every library.
 */
import { normals } from "../../../src/model/Init.ts"

/** A dense Llama-style decoder of 0.47 million parameters, with an untied head, and a batch of 4 x 128 tokens. */
export const dense = {
  vocab: 256,
  width: 128,
  heads: 4,
  headSize: 32,
  mlp: 352,
  layers: 2,
  rows: 4,
  seqLen: 128,
  eps: 1e-5
} as const

/** The yardstick for sinks: 1,024 MLP neurons, of which 104 are always on and each row lights 48 of the other 920. */
export const sinks = {
  vocab: 1024,
  width: 64,
  heads: 2,
  mlp: 1024,
  pool: 920,
  active: 48,
  // the largest block that both divide into
  block: 8,
  layers: 2,
  rows: 16,
  seqLen: 64
} as const

/** Dawn's toggles in all processes. Our Device has them on anyway; named here, so that the lines can say so. */
export const toggles = ["allow_unsafe_apis", "vulkan_enable_f16_on_nvidia"]

/** Tokens and the tokens to predict, flattened row by row: scattered, but the same in every process. */
export const batchOf = (shape: { readonly rows: number; readonly seqLen: number; readonly vocab: number }) => {
  const { rows, seqLen, vocab } = shape
  const next = (i: number) => ((Math.imul(i + 1, 2654435761) >>> 0) >>> 7) % vocab
  const tokens = new Uint32Array(rows * seqLen)
  const targets = new Uint32Array(rows * seqLen)
  for (let row = 0; row < rows; row++) {
    for (let t = 0; t < seqLen; t++) {
      tokens[row * seqLen + t] = next(row * (seqLen + 1) + t)
      targets[row * seqLen + t] = next(row * (seqLen + 1) + t + 1)
    }
  }
  return { tokens, targets }
}

/** A matrix [inputs, outputs] of a peer's start, scaled as ours is. */
export const weights = (name: string, inputs: number, outputs: number, std = 1 / Math.sqrt(inputs)): Float32Array => {
  const value = new Float32Array(inputs * outputs)
  normals(value, { stream: name, std, size: value.length })
  return value
}

/** Plain gradient descent of the peers: large enough that ten steps visibly learn the batch. */
export const learningRate = 0.3
