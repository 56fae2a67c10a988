/**
 * The unlearning depth score (UDS; Lee, Kim and Jo 2026, Measuring the Depth of LLM Unlearning via Activation Patching):
 * how far down in a model knowledge is gone. Pure; what is patched is in inside/Depth.ts.
 */
import { DataError } from "../Errors.ts"

/** Mean drop of log-probability, in nats, that counts as a block that holds the knowledge: the paper's. */
export const DEPTH_THRESHOLD = 0.05

/** What patching the streams of a model into the full one costs behind each block, in nats a token. */
export interface PatchedDrops {
  /** With the streams of the model that never saw the sequence (the retain model). */
  readonly retain: ReadonlyArray<number>
  /** With those of the model that is judged. */
  readonly source: ReadonlyArray<number>
}

/** A block's part in a score. */
export interface BlockDepth {
  /** Counted from 0. */
  readonly block: number
  /** Erased share of what the block holds, 0 to 1. */
  readonly erased: number
  /** Its drop with the retain model's stream, by which it is weighted. */
  readonly weight: number
}

/**
 * Blocks that hold the knowledge, those whose drop with the retain model's stream is above the threshold; and of each the
 * drop with the judged model's stream as a share of that, cut to 0 .. 1.
 */
export const blockDepths = (
  { retain, source }: PatchedDrops,
  threshold = DEPTH_THRESHOLD
): ReadonlyArray<BlockDepth> => {
  if (retain.length !== source.length) {
    throw new DataError({
      detail: `depth score: ${retain.length} blocks were patched with the retain model, ${source.length} with the other`
    })
  }
  return retain.flatMap((weight, block) =>
    weight > threshold ? [{ block, weight, erased: Math.min(1, Math.max(0, source[block]! / weight)) }] : []
  )
}

/**
 * The score of one sequence: the mean of its blocks' erased shares, weighted by their drops. 0: all is there, as in the
 * full model; 1: as if it had never been seen. NaN where no block holds anything.
 */
export const depthScore = (drops: PatchedDrops, threshold = DEPTH_THRESHOLD): number => {
  const blocks = blockDepths(drops, threshold)
  const all = blocks.reduce((sum, { weight }) => sum + weight, 0)
  return blocks.reduce((sum, { erased, weight }) => sum + erased * weight, 0) / all
}

/** An affine map of vectors of `d` numbers: x W + b. */
export interface Alignment {
  /** [d + 1, d], the last row b. */
  readonly map: Float64Array
  readonly d: number
}

/**
 * The affine map that takes the vectors `from` [n, d] nearest to `to` [n, d], by least squares drawn towards the identity:
 * with the penalty `ridge` times the mean square of `from`. Two models of separate trainings hold the same in different
 * directions of their streams; a map fitted on sequences that neither has memorized takes that difference out.
 */
export const alignment = (
  from: ReadonlyArray<Float32Array>,
  to: ReadonlyArray<Float32Array>,
  d: number,
  ridge = 1e-3
): Alignment => {
  const width = d + 1
  const gram = new Float64Array(width * width)
  const cross = new Float64Array(width * d)
  const x = new Float64Array(width)
  let n = 0
  from.forEach((stream, s) => {
    const goal = to[s]!
    for (let at = 0; at + d <= stream.length; at += d, n++) {
      for (let i = 0; i < d; i++) x[i] = stream[at + i]!
      x[d] = 1
      for (let i = 0; i < width; i++) {
        for (let j = 0; j <= i; j++) gram[i * width + j]! += x[i]! * x[j]!
        for (let j = 0; j < d; j++) cross[i * d + j]! += x[i]! * goal[at + j]!
      }
    }
  })
  let trace = 0
  for (let i = 0; i < d; i++) trace += gram[i * width + i]!
  const penalty = ridge * Math.max(trace / d, Number.MIN_VALUE)
  for (let i = 0; i < width; i++) gram[i * width + i]! += penalty
  for (let i = 0; i < d; i++) cross[i * d + i]! += penalty
  return { map: solve(gram, cross, width, d), d }
}

/** Solves A X = B by Cholesky's factors; A [n, n] positive definite, its lower triangle given, B [n, m]. In place. */
const solve = (a: Float64Array, b: Float64Array, n: number, m: number): Float64Array => {
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = a[i * n + j]!
      for (let k = 0; k < j; k++) sum -= a[i * n + k]! * a[j * n + k]!
      a[i * n + j] = i === j ? Math.sqrt(sum) : sum / a[j * n + j]!
    }
  }
  for (let c = 0; c < m; c++) {
    for (let i = 0; i < n; i++) {
      let sum = b[i * m + c]!
      for (let k = 0; k < i; k++) sum -= a[i * n + k]! * b[k * m + c]!
      b[i * m + c] = sum / a[i * n + i]!
    }
    for (let i = n - 1; i >= 0; i--) {
      let sum = b[i * m + c]!
      for (let k = i + 1; k < n; k++) sum -= a[k * n + i]! * b[k * m + c]!
      b[i * m + c] = sum / a[i * n + i]!
    }
  }
  return b
}

/** Vectors [n, d] through an alignment. */
export const aligned = ({ d, map }: Alignment, stream: Float32Array): Float32Array => {
  const out = new Float32Array(stream.length)
  for (let at = 0; at < stream.length; at += d) {
    for (let j = 0; j < d; j++) {
      let sum = map[d * d + j]!
      for (let i = 0; i < d; i++) sum += stream[at + i]! * map[i * d + j]!
      out[at + j] = sum
    }
  }
  return out
}
