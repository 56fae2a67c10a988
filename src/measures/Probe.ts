/**
 * A linear probe: what can be read off hidden states by one matrix. Multinomial logistic regression on standardized
 * features, fitted by full-batch Adam from 0, so that the same data gives the same probe. Pure.
 */

export interface ProbeOptions {
  /** Penalty on the squared norm of the weights, halved: the larger, the simpler the probe. Default 1e-2. */
  readonly l2?: number
  /** Steps of Adam at a rate of 0.05. Default 200. */
  readonly steps?: number
}

/** A fitted probe. */
export interface Probe {
  readonly classes: number
  /** [d + 1, classes], of standardized features; the last row is the bias. */
  readonly weights: Float64Array
  readonly mean: Float64Array
  readonly deviation: Float64Array
}

/** Rows [n, d + 1] of standardized features, each with a 1 behind it. */
const standardized = (features: ArrayLike<number>, mean: Float64Array, deviation: Float64Array): Float64Array => {
  const d = mean.length
  const n = features.length / d
  const out = new Float64Array(n * (d + 1))
  for (let r = 0; r < n; r++) {
    for (let i = 0; i < d; i++) out[r * (d + 1) + i] = (features[r * d + i]! - mean[i]!) / deviation[i]!
    out[r * (d + 1) + d] = 1
  }
  return out
}

/** Logits [n, classes] of rows [n, width]. */
const logitsOf = (rows: Float64Array, weights: Float64Array, width: number, classes: number): Float64Array => {
  const n = rows.length / width
  const out = new Float64Array(n * classes)
  for (let r = 0; r < n; r++) {
    for (let i = 0; i < width; i++) {
      const x = rows[r * width + i]!
      for (let c = 0; c < classes; c++) out[r * classes + c]! += x * weights[i * classes + c]!
    }
  }
  return out
}

/** The mean cross-entropy of rows [n, width], with the penalty, and its gradient by the weights; the bias is not penalized. */
export const probeLoss = (
  rows: Float64Array,
  labels: ArrayLike<number>,
  weights: Float64Array,
  classes: number,
  l2: number
): { readonly loss: number; readonly gradient: Float64Array } => {
  const n = labels.length
  const width = rows.length / n
  const logits = logitsOf(rows, weights, width, classes)
  const gradient = new Float64Array(weights.length)
  let loss = 0
  for (let i = 0; i < (width - 1) * classes; i++) {
    loss += l2 / 2 * weights[i]! ** 2
    gradient[i] = l2 * weights[i]!
  }
  for (let r = 0; r < n; r++) {
    const row = logits.subarray(r * classes, (r + 1) * classes)
    const largest = row.reduce((a, b) => Math.max(a, b), -Infinity)
    let sum = 0
    for (let c = 0; c < classes; c++) sum += Math.exp(row[c]! - largest)
    const logSum = largest + Math.log(sum)
    loss += (logSum - row[labels[r]!]!) / n
    for (let c = 0; c < classes; c++) {
      row[c] = (Math.exp(row[c]! - logSum) - (c === labels[r] ? 1 : 0)) / n
    }
    for (let i = 0; i < width; i++) {
      const x = rows[r * width + i]!
      for (let c = 0; c < classes; c++) gradient[i * classes + c]! += x * row[c]!
    }
  }
  return { loss, gradient }
}

/** Fits a probe on features [n, d] and labels below `classes`. */
export const fitProbe = (
  features: ArrayLike<number>,
  labels: ArrayLike<number>,
  classes: number,
  { l2 = 1e-2, steps = 200 }: ProbeOptions = {}
): Probe => {
  const n = labels.length
  const d = features.length / n
  const mean = new Float64Array(d)
  const deviation = new Float64Array(d)
  for (let i = 0; i < features.length; i++) mean[i % d]! += features[i]! / n
  for (let i = 0; i < features.length; i++) deviation[i % d]! += (features[i]! - mean[i % d]!) ** 2 / n
  // a feature that is always the same says nothing
  for (let i = 0; i < d; i++) deviation[i] = deviation[i]! > 0 ? Math.sqrt(deviation[i]!) : Infinity
  const rows = standardized(features, mean, deviation)
  const weights = new Float64Array((d + 1) * classes)
  const m = new Float64Array(weights.length)
  const v = new Float64Array(weights.length)
  for (let step = 1; step <= steps; step++) {
    const { gradient } = probeLoss(rows, labels, weights, classes, l2)
    for (let i = 0; i < weights.length; i++) {
      m[i] = 0.9 * m[i]! + 0.1 * gradient[i]!
      v[i] = 0.999 * v[i]! + 0.001 * gradient[i]! ** 2
      weights[i]! -= 0.05 * (m[i]! / (1 - 0.9 ** step)) / (Math.sqrt(v[i]! / (1 - 0.999 ** step)) + 1e-8)
    }
  }
  return { classes, weights, mean, deviation }
}

/** What a probe gives each class, [n, classes], of features [n, d]. */
export const probeLogits = ({ classes, deviation, mean, weights }: Probe, features: ArrayLike<number>): Float64Array =>
  logitsOf(standardized(features, mean, deviation), weights, mean.length + 1, classes)

/** The class that a probe finds likeliest of each of features [n, d]; the first of several. */
export const predict = (probe: Probe, features: ArrayLike<number>): Uint32Array => {
  const logits = probeLogits(probe, features)
  return Uint32Array.from({ length: logits.length / probe.classes }, (_, r) => {
    const row = logits.subarray(r * probe.classes, (r + 1) * probe.classes)
    return row.indexOf(row.reduce((a, b) => Math.max(a, b), -Infinity))
  })
}
