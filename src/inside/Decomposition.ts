/**
 * What each part of a model adds to the logit of the true token: direct logit attribution (Elhage et al. 2021, A
 * Mathematical Framework for Transformer Circuits), exact under the final norm's scale.
 *
 * The residual stream behind the last block is the sum of the embedding and of what attention, general neurons and sinks
 * of every block write to it. The final RMSNorm multiplies each of its dimensions with a number, and the head is linear.
 * Logits are centered on their mean over the vocabulary, which softmax ignores.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type Batch, IGNORE } from "../Batch.ts"
import { packedBatch } from "../data/stream/Packing.ts"
import { attempt, DataError, DeviceError, type KernelError } from "../Errors.ts"
import { Device } from "../gpu/Device.ts"
import type * as Tensor from "../gpu/Tensor.ts"
import { Model } from "../model/Model.ts"
import type { SinkMode } from "../Sink.ts"
import type { PartName } from "./Gradients.ts"
import { checkLosses } from "./Sound.ts"

export type DecompositionError = DeviceError | KernelError | DataError

/** What one part of the model adds to the centered logit of every true token. */
export interface LogitPart {
  /** Block, counted from 0; -1: the embedding. */
  readonly layer: number
  readonly part: PartName
  /** [rows * seqLen], 0 where nothing is scored. */
  readonly logit: Float64Array
}

/**
 * The centered logits of a batch's true tokens, in parts that add up to them. Arrays are [rows * seqLen], 0 where nothing is
 * scored.
 */
export interface DecomposedLogits {
  /** The embedding, then attention, general neurons and (in a model that has them) sinks of each block. */
  readonly parts: ReadonlyArray<LogitPart>
  /** The logit of the true token minus the mean over the vocabulary, from the residual stream as a whole. */
  readonly logit: Float64Array
  /**
   * 1 / rms of the residual stream behind the last block, which multiplies every part. A part divided by it depends on
   * nothing that comes behind the part.
   */
  readonly scale: Float64Array
  /** Negative log-likelihood, nats. */
  readonly loss: Float32Array
}

/** The shape of what is computed at once. */
export interface DecompositionOptions {
  /** Rows that are computed at once. */
  readonly rows: number
  /** Tokens of a row. */
  readonly seqLen: number
  /** Documents that so many rows may hold at most. Default: one a row. */
  readonly maxSegments?: number
}

/**
 * Splits logits of batches into what each part of the model adds; it holds memory on the device while its scope is
 * open.
 */
export interface Decomposition {
  /** Any number of rows of `seqLen` tokens. Fails with a DataError for rows of another length or too many documents. */
  readonly of: (batch: Batch, mode: SinkMode) => Effect.Effect<DecomposedLogits, DecompositionError>
}

/** `count` rows of a batch from row `first` on; rows behind its end are padding. */
const rowsOf = (batch: Batch, first: number, count: number): Batch => {
  const { seqLen } = batch
  const [from, to] = [first * seqLen, (first + count) * seqLen]
  const out = packedBatch([], count, seqLen, 1)
  for (const name of ["tokens", "targets", "positions"] as const) out[name].set(batch[name].subarray(from, to))
  out.ids.set(batch.ids.subarray(from, to))
  out.documentStart.set(batch.documentStart.subarray(from, to).map((start) => start - from))
  return batch.names === undefined ? out : { ...out, names: batch.names.slice(first, first + count) }
}

/** The mean of the rows of a matrix [*, d]. */
const meanRow = (matrix: Float32Array, d: number): Float64Array => {
  const sum = new Float64Array(d)
  for (let i = 0; i < matrix.length; i += d) for (let k = 0; k < d; k++) sum[k]! += matrix[i + k]!
  return sum.map((x) => x * d / matrix.length)
}

/** Inner product of a[i .. i + d) and b[j .. j + d). */
const dot = (a: Float64Array, i: number, b: Float32Array, j: number, d: number): number => {
  let sum = 0
  for (let k = 0; k < d; k++) sum += a[i + k]! * b[j + k]!
  return sum
}

/** What a model's head and final norm read. */
interface Readout {
  /** [vocabSize, d] */
  readonly head: Float32Array
  /** Mean over its rows [d]. */
  readonly mean: Float64Array
  /** Weight of the final norm [d]. */
  readonly norm: Float32Array
  readonly eps: number
}

/**
 * The direction [n, d] in which the residual stream is read for each token's centered logit, without the final norm's
 * scale; and that scale [n] of the streams `final` [n, d]. Both 0 where nothing is scored.
 */
const directions = ({ eps, head, mean, norm }: Readout, final: Float32Array, targets: Uint32Array) => {
  const d = norm.length
  const direction = new Float64Array(final.length)
  const scale = new Float64Array(targets.length)
  targets.forEach((target, t) => {
    if (target === IGNORE) return
    let squares = 0
    for (let k = 0; k < d; k++) {
      squares += final[t * d + k]! ** 2
      direction[t * d + k] = (head[target * d + k]! - mean[k]!) * norm[k]!
    }
    scale[t] = 1 / Math.sqrt(squares / d + eps)
  })
  return { direction, scale }
}

/**
 * Decompositions of the Model's logits. They are computed in f32 on the device, with every sink of the pool masked, and
 * added up in f64 on the host: parts add up to the whole within the rounding of f32. Weights are read anew at every call and
 * nothing that training uses is changed. Its memory is freed when the scope closes.
 */
export const decompose = (
  options: DecompositionOptions
): Effect.Effect<Decomposition, DecompositionError, Model | Device | Scope.Scope> =>
  Effect.gen(function*() {
    const device = yield* Device
    const model = yield* Model
    const { maxSegments, rows, seqLen } = options
    const { config, handles } = model
    const { general, hiddenSize: d, intermediateSize: width, numHiddenLayers: layers, pool } = config
    const pass = yield* model.compile({
      rows,
      seqLen,
      // padding rows are documents of their own
      maxSegments: maxSegments === undefined ? rows : maxSegments + rows - 1,
      output: "loss",
      gates: true,
      residual: true,
      compute: "masked",
      precision: "f32"
    })
    for (const gates of pass.tensors.gates!) device.write(gates, new Float32Array(pass.maxSegments * width).fill(1))
    const read = (tensor: Tensor.Tensor) => Effect.map(device.read(tensor), (data) => data as Float32Array)

    const submit = (batch: Batch, mode: SinkMode) =>
      attempt(() => {
        pass.load(batch, mode)
        device.submit(pass.prepared)
      }, DataError, DeviceError)

    const of: Decomposition["of"] = Effect.fnUntraced(function*(batch, mode) {
      if (batch.seqLen !== seqLen) {
        return yield* new DataError({
          detail: `batch.seqLen: expected ${seqLen}, as the decomposition was made for, got ${batch.seqLen}`
        })
      }
      const n = batch.tokens.length
      const part = (layer: number, part: PartName): LogitPart => ({ layer, part, logit: new Float64Array(n) })
      const embedding = part(-1, "embedding")
      const blocks = Array.from({ length: layers }, (_, i) => ({
        attention: part(i, "attention"),
        general: part(i, "general"),
        sinks: part(i, "sinks")
      }))
      const logit = new Float64Array(n)
      const scale = new Float64Array(n)
      const loss = new Float32Array(n)

      const head = yield* read(handles.head.value)
      const norm = yield* read(handles.norm.value)
      const readout = { head, mean: meanRow(head, d), norm, eps: config.rmsNormEps }
      const down = yield* Effect.forEach(handles.layers, (layer) => read(layer.down.value))
      for (let first = 0; first < batch.rows; first += rows) {
        const chunk = rowsOf(batch, first, rows)
        yield* submit(chunk, mode)
        const stream = yield* Effect.forEach(pass.tensors.residual!, read)
        const losses = yield* read(pass.tensors.loss)
        yield* checkLosses(device, model, chunk, losses)
        const final = stream.at(-1)!
        const { direction, scale: scales } = directions(readout, final, chunk.targets)
        const scored = [...chunk.targets.keys()].filter((t) => chunk.targets[t] !== IGNORE)
        const at = first * seqLen
        for (const t of scored) {
          const along = (stream: Float32Array) => scales[t]! * dot(direction, t * d, stream, t * d, d)
          loss[at + t] = losses[t]!
          scale[at + t] = scales[t]!
          logit[at + t] = along(final)
          embedding.logit[at + t] = along(stream[0]!)
          blocks.forEach(({ attention }, l) => {
            attention.logit[at + t] = along(stream[2 * l + 1]!) - along(stream[2 * l]!)
          })
        }
        for (const [l, block] of blocks.entries()) {
          const hidden = yield* read(pass.tensors.hidden![l]!)
          /** What neurons [from, to) of the block write along a token's direction; those that are off cost nothing. */
          const written = (t: number, from: number, to: number): number => {
            let sum = 0
            for (let j = from; j < to; j++) {
              const activation = hidden[t * width + j]!
              if (activation !== 0) sum += activation * dot(direction, t * d, down[l]!, j * d, d)
            }
            return scales[t]! * sum
          }
          for (const t of scored) {
            block.general.logit[at + t] = written(t, 0, general)
            block.sinks.logit[at + t] = written(t, general, width)
          }
        }
      }
      const parts = blocks.flatMap(({ attention, general, sinks }) =>
        pool === 0 ? [attention, general] : [attention, general, sinks]
      )
      return { parts: [embedding, ...parts], logit, scale, loss }
    })
    return { of }
  })
