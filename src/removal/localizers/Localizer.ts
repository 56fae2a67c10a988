/**
 * What a localizer is: it scores every hidden neuron of every MLP by how much it is needed to recite given sequences,
 * after training and with frozen weights (Chang et al. 2024; the post-hoc arms of MemSinks, section 4).
 *
 * A neuron is a hidden unit of an MLP behind gate and up; its output row is its row of the down-projection. The loss of
 * a sequence is the mean negative log-likelihood of its suffix, in nats; several sequences count alike.
 */
import type * as Effect from "effect/Effect"
import { type Batch, IGNORE } from "../../Batch.ts"
import { batchOf, type Row } from "../../data/stream/Packing.ts"
import { chunked } from "../../data/stream/Rows.ts"
import { attempt, DataError, type DeviceError, type KernelError } from "../../Errors.ts"
import type { Device } from "../../gpu/Device.ts"
import type { Model } from "../../model/Model.ts"
import type { LocalizeOptions } from "./Options.ts"

export type { LocalizeOptions }

/** Per layer a number a neuron [general + pool]; the higher, the more it is needed to recite: dropped first. */
export type NeuronScores = ReadonlyArray<Float32Array>

/** What a localizer fails with. */
export type LocalizeError = DeviceError | KernelError | DataError

/**
 * A way to find the neurons that recite. It leaves the weights as they are, fails with a DataError for options or
 * sequences it cannot work with, and frees all memory it took on the device.
 */
export interface Localizer {
  readonly name: string
  /** Scores every neuron by how much it is needed to recite the rows, higher where more. */
  readonly localize: (
    rows: ReadonlyArray<Row>,
    options: LocalizeOptions
  ) => Effect.Effect<NeuronScores, LocalizeError, Model | Device>
}

/** Sequences as a batch in which only their suffixes are scored. */
export interface SuffixBatch {
  readonly batch: Batch
  /** Each scored token's share of its own sequence's suffix, so that a row's sum of weights is 1. [rows * seqLen] */
  readonly weights: Float32Array
}

/** Throws a DataError for a sequence without a suffix or of too many tokens. */
export const suffixBatch = (
  rows: ReadonlyArray<Row>,
  { promptTokens, seqLen }: Pick<LocalizeOptions, "promptTokens" | "seqLen">
): SuffixBatch => {
  for (const { document, offset, tokens } of rows) {
    if (tokens.length > promptTokens && tokens.length <= seqLen + 1) continue
    throw new DataError({
      detail: `sequence ${document}+${offset} has ${tokens.length} tokens; to localize a suffix behind a prompt of ` +
        `${promptTokens} in rows of ${seqLen} it needs ${promptTokens + 1} to ${seqLen + 1}: ` +
        "change promptTokens or seqLen, or leave it out"
    })
  }
  const batch = batchOf(rows, seqLen)
  const targets = batch.targets.slice()
  const weights = new Float32Array(targets.length)
  rows.forEach(({ tokens }, r) => {
    const first = r * seqLen
    targets.fill(IGNORE, first, first + promptTokens - 1)
    weights.fill(1 / (tokens.length - promptTokens), first + promptTokens - 1, first + tokens.length - 1)
  })
  return { batch: { ...batch, targets }, weights }
}

/**
 * Sequences in batches of `batchSize`, the last one filled up with copies of weight 0; the weights of all batches
 * together sum to 1.
 */
export const suffixBatches = (
  rows: ReadonlyArray<Row>,
  options: LocalizeOptions
): Effect.Effect<ReadonlyArray<SuffixBatch>, DataError> =>
  attempt(() => {
    checkOptions(rows, options)
    const { batchSize, seqLen } = options
    const batches: Array<SuffixBatch> = []
    for (const { chunk, full } of chunked(rows, batchSize)) {
      const { batch, weights } = suffixBatch(full, options)
      batches.push({
        batch,
        weights: weights.map((w, t) => (t < chunk.length * seqLen ? w / rows.length : 0))
      })
    }
    return batches
  }, DataError)

/** Throws a DataError for counts that are none, and where there is no sequence. */
export const checkOptions = (rows: ReadonlyArray<Row>, options: LocalizeOptions): void => {
  if (rows.length === 0) throw new DataError({ detail: "there is no sequence to localize: give at least one" })
  for (const field of ["seqLen", "promptTokens", "batchSize"] as const) checkCount(field, options[field])
}

/** Throws a DataError that names the option unless the value is a whole number of at least 1. */
export const checkCount = (name: string, value: number): void => {
  if (!Number.isInteger(value) || value < 1) {
    throw new DataError({ detail: `${name} must be a whole number of at least 1, got ${value}` })
  }
}

/** Throws a DataError that names the option unless low < value < high. */
export const checkBetween = (name: string, value: number, low: number, high = Infinity): void => {
  if (!(value > low && value < high)) {
    throw new DataError({
      detail: `${name} must be above ${low}${high === Infinity ? "" : ` and below ${high}`}, got ${value}`
    })
  }
}

/** Gates of all layers at one value, for `rows` rows: per layer [rows, width]. */
export const filledGates = (
  { layers, width }: { readonly layers: number; readonly width: number },
  rows: number,
  value: number
): ReadonlyArray<Float32Array> => Array.from({ length: layers }, () => new Float32Array(rows * width).fill(value))
