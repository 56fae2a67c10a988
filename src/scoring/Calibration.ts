/**
 * Logit-bias calibration: a model whose sinks were switched off, or from which neurons were taken, predicts the wrong
 * mix of tokens, and its loss is high for that alone. One bias for each vocabulary item, fitted with the logits frozen,
 * takes the mix out of the comparison (SGTM, arXiv 2512.05648: minimize forget loss + 100 retain loss over the bias).
 *
 * Fit it on sequences that are not scored.
 */
import * as Effect from "effect/Effect"
import { IGNORE } from "../Batch.ts"
import { batchOf, type Row, scoredTokens } from "../data/stream/Packing.ts"
import { chunked, countScored, misfit } from "../data/stream/Rows.ts"
import { attempt, DataError, type DeviceError, type KernelError } from "../Errors.ts"
import { recordOf, type TokenRecords } from "../measures/TokenRecords.ts"
import type { ModelService, RecordColumns } from "../model/Model.ts"
import type { SinkMode } from "../Sink.ts"
import { type RecordOptions, recordRows } from "./Record.ts"

type Numbers = ArrayLike<number>

// ---------------------------------------------------------------------------------------------------------------
// The bias. Pure.

/** How a bias on the logits is fitted. */
export interface BiasOptions {
  /**
   * Half of it times the sum of the squares of the biases is added to the mean loss. Without it, items that never are a
   * target would be pushed down without end, and all biases could rise together. Default 1e-5.
   */
  readonly ridge?: number
  /** Stop when no derivative is larger. Default 1e-7. */
  readonly tolerance?: number
  /** Most steps of Newton's method. Default 50. */
  readonly iterations?: number
}

/** A fitted bias, and how the fit went. */
export interface Bias {
  /** What is added to the logits, [vocabSize]; it sums to 0. */
  readonly bias: Float64Array
  /** Weighted mean loss and ridge, in nats, at a bias of 0 and after each step: it never rises. */
  readonly objective: ReadonlyArray<number>
  /** The largest derivative at the end. */
  readonly gradient: number
}

const dot = (a: Float64Array, b: Float64Array): number => {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!
  return sum
}

/**
 * The bias that minimizes sum_t w_t nll_t / sum_t w_t + ridge / 2 |bias|^2, for logits [tokens, vocabSize] and the
 * weight of each token, in float64. The problem is strictly convex; it is solved by Newton's method, its steps found by
 * preconditioned conjugate gradients and halved until they descend. Holds one more float64 for each logit. Throws a
 * DataError where shapes do not match or no token has a positive weight.
 */
export const calibrateBias = (
  logits: Numbers,
  targets: Numbers,
  weights: Numbers,
  vocabSize: number,
  { iterations = 50, ridge = 1e-5, tolerance = 1e-7 }: BiasOptions = {}
): Bias => {
  const n = targets.length
  if (logits.length !== n * vocabSize || weights.length !== n) {
    throw new DataError({
      detail: `calibration: ${n} targets need ${n} weights and ${n} x ${vocabSize} logits, got ${weights.length} ` +
        `weights and ${logits.length} logits`
    })
  }
  let total = 0
  for (let t = 0; t < n; t++) {
    if (!(weights[t]! >= 0 && weights[t]! < Infinity)) {
      throw new DataError({ detail: `calibration: weights must be 0 or more, that of token ${t} is ${weights[t]}` })
    }
    if (!(targets[t]! < vocabSize)) {
      throw new DataError({ detail: `calibration: target ${targets[t]} of token ${t} is not below ${vocabSize}` })
    }
    total += weights[t]!
  }
  if (!(total > 0)) throw new DataError({ detail: "calibration: no token has a positive weight" })
  if (!(ridge > 0)) throw new DataError({ detail: `calibration: ridge must be positive, got ${ridge}` })

  // exp(z_tj + b_j) = e_tj * exp(b_j): after this, a step takes only vocabSize exponentials
  const e = Float64Array.from(logits)
  const linear = new Float64Array(vocabSize)
  let constant = 0
  for (let t = 0; t < n; t++) {
    const row = e.subarray(t * vocabSize, (t + 1) * vocabSize)
    const top = row.reduce((a, b) => Math.max(a, b))
    const w = weights[t]! / total
    linear[targets[t]!]! += w
    constant -= w * (row[targets[t]!]! - top)
    for (let j = 0; j < vocabSize; j++) row[j] = Math.exp(row[j]! - top)
  }

  /** For each token, weight over the sum of its e_tj * exp(b_j). */
  const share = new Float64Array(n)
  const evaluate = (b: Float64Array): number => {
    const up = b.map(Math.exp)
    let value = constant - dot(linear, b) + (ridge / 2) * dot(b, b)
    for (let t = 0; t < n; t++) {
      const sum = dot(e.subarray(t * vocabSize, (t + 1) * vocabSize), up)
      const w = weights[t]! / total
      share[t] = w / sum
      value += w * Math.log(sum)
    }
    return value
  }

  let b: Float64Array = new Float64Array(vocabSize)
  let value = evaluate(b)
  const objective = [value]
  let gradient = Infinity
  for (let i = 0;; i++) {
    const up = b.map(Math.exp)
    const mass = new Float64Array(vocabSize)
    for (let t = 0; t < n; t++) {
      for (let j = 0, at = t * vocabSize; j < vocabSize; j++) mass[j]! += share[t]! * e[at + j]!
    }
    for (let j = 0; j < vocabSize; j++) mass[j]! *= up[j]!
    const slope = mass.map((m, j) => m - linear[j]! + ridge * b[j]!)
    gradient = slope.reduce((a, g) => Math.max(a, Math.abs(g)), 0)
    if (gradient <= tolerance || i === iterations) break

    /** The Hessian, diag(mass) - sum_t w_t p_t p_t' + ridge, times a vector. */
    const curve = (v: Float64Array): Float64Array => {
      const scaled = v.map((x, j) => x * up[j]!)
      const out = new Float64Array(vocabSize)
      for (let t = 0; t < n; t++) {
        const row = e.subarray(t * vocabSize, (t + 1) * vocabSize)
        // share is w / sum, so that w p_t (p_t . v) = share * e * share / w * (e . scaled)
        const k = weights[t] === 0 ? 0 : (share[t]! * share[t]! * total / weights[t]!) * dot(row, scaled)
        for (let j = 0; j < vocabSize; j++) out[j]! += k * row[j]!
      }
      for (let j = 0; j < vocabSize; j++) out[j] = (mass[j]! + ridge) * v[j]! - up[j]! * out[j]!
      return out
    }
    // conjugate gradients for curve(d) = -slope, as exact as the gradient is small
    const d = new Float64Array(vocabSize)
    const residual = slope.map((g) => -g)
    const condition = mass.map((m) => 1 / (m + ridge))
    let z = residual.map((r, j) => r * condition[j]!)
    let p = z.slice()
    let rz = dot(residual, z)
    const enough = rz * Math.min(0.25, rz)
    for (let inner = 0; inner < 50 && rz > enough; inner++) {
      const hp = curve(p)
      const a = rz / dot(p, hp)
      for (let j = 0; j < vocabSize; j++) {
        d[j]! += a * p[j]!
        residual[j]! -= a * hp[j]!
      }
      z = residual.map((r, j) => r * condition[j]!)
      const next = dot(residual, z)
      p = z.map((x, j) => x + (next / rz) * p[j]!)
      rz = next
    }
    // a shift of all changes nothing but the ridge, which is least without it
    const shift = d.reduce((sum, x) => sum + x, 0) / vocabSize
    for (let j = 0; j < vocabSize; j++) d[j]! -= shift
    const descent = dot(slope, d)
    let step = 1
    let moved = b.map((x, j) => x + d[j]!)
    let after = evaluate(moved)
    while (!(after <= value + 1e-4 * step * descent) && step > 1e-10) {
      step /= 2
      moved = b.map((x, j) => x + step * d[j]!)
      after = evaluate(moved)
    }
    // at the precision of float64 nothing descends any more
    if (!(after < value)) break
    b = moved
    value = after
    objective.push(value)
  }
  return { bias: b, objective, gradient }
}

// ---------------------------------------------------------------------------------------------------------------
// Of a Model

/** How a bias is fitted to what a model says of sequences. */
export interface CalibrationOptions extends BiasOptions {
  /** Sequences a pass. */
  readonly batchSize: number
  /** Tokens a sequence has at most, not counting its last. */
  readonly seqLen: number
  /** Weight of the mean loss of the retained tokens over that of the forgotten ones. Default 100. */
  readonly retainWeight?: number
  /**
   * Most tokens of each of the two sets: of more, the first sequences count, at least one. Default 2^23 / vocabSize,
   * which takes 200 MB on the host.
   */
  readonly tokens?: number
}

/**
 * The bias that minimizes forget loss + `retainWeight` times retain loss, both means over tokens, with the sinks in a
 * mode. Holds 12 bytes for each token and vocabulary item on the host.
 */
export const calibrate = (
  model: Pick<ModelService, "config" | "logits">,
  rows: { readonly forget: ReadonlyArray<Row>; readonly retain: ReadonlyArray<Row> },
  mode: SinkMode,
  options: CalibrationOptions
): Effect.Effect<Bias, DataError | DeviceError | KernelError> =>
  Effect.gen(function*() {
    const { batchSize, retainWeight = 100, seqLen } = options
    const { vocabSize } = model.config
    for (const name of ["forget", "retain"] as const) {
      if (rows[name].length === 0) {
        return yield* new DataError({ detail: `calibration: there are no sequences to ${name}; give at least one` })
      }
    }
    const { tokens: most = 2 ** 23 / vocabSize } = options
    const first = (some: ReadonlyArray<Row>) => {
      let tokens = 0
      const beyond = some.findIndex((row) => (tokens += scoredTokens(row)) > most)
      return beyond < 0 ? some : some.slice(0, Math.max(1, beyond))
    }
    const forget = first(rows.forget)
    const all = [...forget, ...first(rows.retain)]
    const wrong = misfit(all, seqLen)
    if (wrong !== undefined) return yield* new DataError({ detail: `calibration: ${wrong}` })
    const forgotten = countScored(forget)
    const n = countScored(all)
    const logits = new Float32Array(n * vocabSize)
    const targets = Uint32Array.from(all.flatMap(({ scoredFrom = 1, tokens }) => [...tokens.subarray(scoredFrom)]))
    const weights = Float64Array.from(targets, (_, t) => t < forgotten ? 1 / forgotten : retainWeight / (n - forgotten))
    const size = Math.min(batchSize, all.length)
    let at = 0
    for (const { chunk, full } of chunked(all, size)) {
      const got = yield* model.logits(batchOf(full, seqLen), mode)
      chunk.forEach((row, r) => {
        const begin = (r * seqLen + (row.scoredFrom ?? 1) - 1) * vocabSize
        const width = scoredTokens(row) * vocabSize
        logits.set(got.subarray(begin, begin + width), at)
        at += width
      })
    }
    return yield* attempt(() => calibrateBias(logits, targets, weights, vocabSize, options), DataError)
  })

/**
 * Records of sequences, as `recordRows` makes them, with a bias added to the logits. Computed on the host in float64, a
 * batch's logits at a time.
 */
export const calibratedRecords = (
  model: Pick<ModelService, "config" | "logits">,
  rows: ReadonlyArray<Row>,
  mode: SinkMode,
  bias: Numbers,
  options: RecordOptions
): Effect.Effect<TokenRecords, DataError | DeviceError | KernelError> => {
  const { vocabSize } = model.config
  if (bias.length !== vocabSize) {
    return Effect.fail(
      new DataError({ detail: `the bias has ${bias.length} numbers, the model's vocabulary ${vocabSize} items` })
    )
  }
  const records: ModelService["records"] = (batch, mode, schemes) =>
    Effect.map(model.logits(batch, mode), (logits): RecordColumns => {
      const scored = Uint32Array.from(batch.targets.keys()).filter((t) => batch.targets[t] !== IGNORE)
      const token = scored.map((t) => batch.targets[t]!)
      const row = new Float64Array(vocabSize)
      const all = Array.from(scored, (t, i) => {
        for (let j = 0; j < vocabSize; j++) row[j] = logits[t * vocabSize + j]! + bias[j]!
        return recordOf(row, token[i]!, schemes)
      })
      const real = (of: (one: (typeof all)[number]) => number) => Float32Array.from(all, of)
      return {
        token,
        logProb: real((one) => one.logProb),
        rank: Uint32Array.from(all, (one) => one.rank),
        mean: real((one) => one.mean),
        variance: real((one) => one.variance),
        massAbove: real((one) => one.massAbove),
        margin: real((one) => one.margin),
        schemes,
        schemeLogProb: schemes.map((_, s) => real((one) => one.schemeLogProb[s]!))
      }
    })
  return recordRows({ records }, rows, mode, options)
}
