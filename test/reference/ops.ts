/**
 * Every op of the model in float64, forward and backward, as plain nested loops: slow, and meant to be read and
 * believed. The kernels are checked against these functions; these functions are checked by central differences and
 * by hand-computed values in `reference.test.ts`.
 *
 * Arrays are row-major and token-major (`[N, d]`: one row per token). Inputs may be float32 or float64; outputs are
 * always new float64 arrays. A length that does not fit throws a RangeError.
 */
import { IGNORE } from "../../src/Batch.ts"

/** What an op reads: float32 arrays are welcome, so that a kernel's exact inputs can be handed over as they are. */
export type Numbers = Float64Array | Float32Array

const expectLength = (name: string, array: ArrayLike<number>, length: number): void => {
  if (array.length !== length) throw new RangeError(`${name} has ${array.length} elements, expected ${length}`)
}

/** How many rows of `width` the array holds. */
const rowsOf = (name: string, array: ArrayLike<number>, width: number): number => {
  const rows = array.length / width
  if (!Number.isInteger(rows)) throw new RangeError(`${name} has ${array.length} elements, no multiple of ${width}`)
  return rows
}

// ---------------------------------------------------------------------------------------------------------------
// matrix products

/** y[N, M] = x[N, K] w[M, K]^T: the weight is stored out x in. */
export const linear = (x: Numbers, w: Numbers, K: number): Float64Array => {
  const N = rowsOf("x", x, K)
  const M = rowsOf("w", w, K)
  const y = new Float64Array(N * M)
  for (let n = 0; n < N; n++) {
    for (let m = 0; m < M; m++) {
      let sum = 0
      for (let k = 0; k < K; k++) sum += x[n * K + k]! * w[m * K + k]!
      y[n * M + m] = sum
    }
  }
  return y
}

/** From dy[N, M]: dx[N, K] = dy w and dw[M, K] = dy^T x. */
export const linearBackward = (
  dy: Numbers,
  x: Numbers,
  w: Numbers,
  K: number
): { dx: Float64Array; dw: Float64Array } => {
  const N = rowsOf("x", x, K)
  const M = rowsOf("w", w, K)
  expectLength("dy", dy, N * M)
  const dx = new Float64Array(N * K)
  const dw = new Float64Array(M * K)
  for (let n = 0; n < N; n++) {
    for (let m = 0; m < M; m++) {
      const d = dy[n * M + m]!
      for (let k = 0; k < K; k++) {
        dx[n * K + k]! += d * w[m * K + k]!
        dw[m * K + k]! += d * x[n * K + k]!
      }
    }
  }
  return { dx, dw }
}

/** y[N, M] = a[N, K] b[K, M]: the weight is stored in x out, as the neuron-major `down` is. */
export const matmul = (a: Numbers, b: Numbers, K: number): Float64Array => {
  const N = rowsOf("a", a, K)
  const M = b.length / K
  expectLength("b", b, K * Math.floor(M))
  const y = new Float64Array(N * M)
  for (let n = 0; n < N; n++) {
    for (let k = 0; k < K; k++) {
      for (let m = 0; m < M; m++) y[n * M + m]! += a[n * K + k]! * b[k * M + m]!
    }
  }
  return y
}

/** From dy[N, M]: da[N, K] = dy b^T and db[K, M] = a^T dy. */
export const matmulBackward = (
  dy: Numbers,
  a: Numbers,
  b: Numbers,
  K: number
): { da: Float64Array; db: Float64Array } => {
  const N = rowsOf("a", a, K)
  const M = b.length / K
  expectLength("dy", dy, N * M)
  const da = new Float64Array(N * K)
  const db = new Float64Array(K * M)
  for (let n = 0; n < N; n++) {
    for (let k = 0; k < K; k++) {
      for (let m = 0; m < M; m++) {
        da[n * K + k]! += dy[n * M + m]! * b[k * M + m]!
        db[k * M + m]! += a[n * K + k]! * dy[n * M + m]!
      }
    }
  }
  return { da, db }
}

// ---------------------------------------------------------------------------------------------------------------
// embedding

/** y[N, d]: row `tokens[n]` of table[V, d]. */
export const embedding = (tokens: Uint32Array, table: Numbers, d: number): Float64Array => {
  const V = rowsOf("table", table, d)
  const y = new Float64Array(tokens.length * d)
  tokens.forEach((token, n) => {
    if (token >= V) throw new RangeError(`token ${token} at ${n} is outside the vocabulary of ${V}`)
    for (let i = 0; i < d; i++) y[n * d + i] = table[token * d + i]!
  })
  return y
}

/** dtable[V, d]: the sum of dy's rows over the places where each token stands. */
export const embeddingBackward = (tokens: Uint32Array, dy: Numbers, V: number): Float64Array => {
  const d = dy.length / tokens.length
  expectLength("dy", dy, tokens.length * Math.floor(d))
  const dtable = new Float64Array(V * d)
  tokens.forEach((token, n) => {
    if (token >= V) throw new RangeError(`token ${token} at ${n} is outside the vocabulary of ${V}`)
    for (let i = 0; i < d; i++) dtable[token * d + i]! += dy[n * d + i]!
  })
  return dtable
}

// ---------------------------------------------------------------------------------------------------------------
// RMSNorm

/** y[N, d] = x * rstd * weight with rstd[N] = 1 / sqrt(mean(x^2) + eps). */
export const rmsNorm = (x: Numbers, weight: Numbers, eps: number): { y: Float64Array; rstd: Float64Array } => {
  const d = weight.length
  const N = rowsOf("x", x, d)
  const y = new Float64Array(N * d)
  const rstd = new Float64Array(N)
  for (let n = 0; n < N; n++) {
    let squares = 0
    for (let i = 0; i < d; i++) squares += x[n * d + i]! ** 2
    rstd[n] = 1 / Math.sqrt(squares / d + eps)
    for (let i = 0; i < d; i++) y[n * d + i] = x[n * d + i]! * rstd[n]! * weight[i]!
  }
  return { y, rstd }
}

/** dx = rstd * (dy * weight - xhat * mean(dy * weight * xhat)) and dweight = sum over tokens of dy * xhat. */
export const rmsNormBackward = (
  dy: Numbers,
  x: Numbers,
  weight: Numbers,
  rstd: Numbers
): { dx: Float64Array; dweight: Float64Array } => {
  const d = weight.length
  const N = rowsOf("x", x, d)
  expectLength("dy", dy, N * d)
  expectLength("rstd", rstd, N)
  const dx = new Float64Array(N * d)
  const dweight = new Float64Array(d)
  for (let n = 0; n < N; n++) {
    let mean = 0
    for (let i = 0; i < d; i++) mean += dy[n * d + i]! * weight[i]! * x[n * d + i]! * rstd[n]! / d
    for (let i = 0; i < d; i++) {
      const normalized = x[n * d + i]! * rstd[n]!
      dx[n * d + i] = rstd[n]! * (dy[n * d + i]! * weight[i]! - normalized * mean)
      dweight[i]! += dy[n * d + i]! * normalized
    }
  }
  return { dx, dweight }
}

// ---------------------------------------------------------------------------------------------------------------
// rotary position embedding

const rotate = (
  x: Numbers,
  positions: Uint32Array,
  theta: number,
  heads: number,
  headDim: number,
  direction: 1 | -1
): Float64Array => {
  expectLength("x", x, positions.length * heads * headDim)
  const y = new Float64Array(x.length)
  const half = headDim / 2
  for (let n = 0; n < positions.length; n++) {
    for (let h = 0; h < heads; h++) {
      for (let i = 0; i < half; i++) {
        const angle = direction * positions[n]! * Math.pow(theta, -2 * i / headDim)
        const a = (n * heads + h) * headDim + i
        const b = a + half
        y[a] = x[a]! * Math.cos(angle) - x[b]! * Math.sin(angle)
        y[b] = x[b]! * Math.cos(angle) + x[a]! * Math.sin(angle)
      }
    }
  }
  return y
}

/** Turns the pairs (i, i + headDim/2) of x[N, heads, headDim] by positions[n] * theta^(-2i/headDim). */
export const rope = (
  x: Numbers,
  positions: Uint32Array,
  theta: number,
  heads: number,
  headDim: number
): Float64Array => rotate(x, positions, theta, heads, headDim, 1)

/** A rotation's transpose is the rotation back. */
export const ropeBackward = (
  dy: Numbers,
  positions: Uint32Array,
  theta: number,
  heads: number,
  headDim: number
): Float64Array => rotate(dy, positions, theta, heads, headDim, -1)

// ---------------------------------------------------------------------------------------------------------------
// attention

const checkAttention = (
  q: Numbers,
  k: Numbers,
  v: Numbers,
  documentStart: Uint32Array,
  Hq: number,
  Hkv: number,
  hd: number
): void => {
  const N = documentStart.length
  if (!Number.isInteger(Hq / Hkv)) throw new RangeError(`${Hq} query heads do not divide among ${Hkv} key heads`)
  expectLength("q", q, N * Hq * hd)
  expectLength("k", k, N * Hkv * hd)
  expectLength("v", v, N * Hkv * hd)
  documentStart.forEach((start, t) => {
    if (start > t) throw new RangeError(`documentStart[${t}] is ${start}, after the token itself`)
  })
}

const dot = (a: Numbers, aStart: number, b: Numbers, bStart: number, length: number): number => {
  let sum = 0
  for (let i = 0; i < length; i++) sum += a[aStart + i]! * b[bStart + i]!
  return sum
}

/**
 * Causal softmax attention inside documents, scaled by 1/sqrt(hd): token t sees j iff documentStart[t] <= j <= t
 * (flat indices). q and out are [N, Hq, hd], k and v [N, Hkv, hd]; query head h reads key head floor(h / (Hq/Hkv)).
 * lse[N, Hq] is the log of the sum of the exponentials of the scaled scores.
 */
export const attention = (
  q: Numbers,
  k: Numbers,
  v: Numbers,
  documentStart: Uint32Array,
  Hq: number,
  Hkv: number,
  hd: number
): { out: Float64Array; lse: Float64Array } => {
  checkAttention(q, k, v, documentStart, Hq, Hkv, hd)
  const N = documentStart.length
  const out = new Float64Array(N * Hq * hd)
  const lse = new Float64Array(N * Hq)
  for (let t = 0; t < N; t++) {
    for (let h = 0; h < Hq; h++) {
      const kvHead = Math.floor(h / (Hq / Hkv))
      const scores: Array<number> = []
      for (let j = documentStart[t]!; j <= t; j++) {
        scores.push(dot(q, (t * Hq + h) * hd, k, (j * Hkv + kvHead) * hd, hd) / Math.sqrt(hd))
      }
      const max = Math.max(...scores)
      lse[t * Hq + h] = max + Math.log(scores.reduce((sum, score) => sum + Math.exp(score - max), 0))
      scores.forEach((score, offset) => {
        const j = documentStart[t]! + offset
        const p = Math.exp(score - lse[t * Hq + h]!)
        for (let i = 0; i < hd; i++) out[(t * Hq + h) * hd + i]! += p * v[(j * Hkv + kvHead) * hd + i]!
      })
    }
  }
  return { out, lse }
}

/**
 * Softmax attention of N queries [N, Hq, hd] to rows of a cache of keys and values, each [*, Hkv, hd], in pages of `page`
 * rows: query t sees the first span[2t + 1] rows of those that `pages` lists from span[2t] on; one that sees none gives 0.
 */
export const attentionCached = (
  q: Numbers,
  k: Numbers,
  v: Numbers,
  span: Uint32Array,
  pages: Uint32Array,
  page: number,
  Hq: number,
  Hkv: number,
  hd: number
): Float64Array => {
  const N = span.length / 2
  expectLength("q", q, N * Hq * hd)
  expectLength("v", v, k.length)
  const out = new Float64Array(N * Hq * hd)
  for (let t = 0; t < N; t++) {
    for (let h = 0; h < Hq; h++) {
      const rows = Array.from({ length: span[2 * t + 1]! }, (_, j) =>
        (pages[span[2 * t]! + Math.floor(j / page)]! * page + j % page) * Hkv + Math.floor(h / (Hq / Hkv)))
      const scores = rows.map((row) => dot(q, (t * Hq + h) * hd, k, row * hd, hd) / Math.sqrt(hd))
      const max = Math.max(...scores)
      const total = scores.reduce((sum, score) => sum + Math.exp(score - max), 0)
      rows.forEach((row, j) => {
        const p = Math.exp(scores[j]! - max) / total
        for (let i = 0; i < hd; i++) out[(t * Hq + h) * hd + i]! += p * v[row * hd + i]!
      })
    }
  }
  return out
}

/** From dout[N, Hq, hd] and the forward's lse: dq[N, Hq, hd], dk and dv[N, Hkv, hd]. */
export const attentionBackward = (
  dout: Numbers,
  q: Numbers,
  k: Numbers,
  v: Numbers,
  lse: Numbers,
  documentStart: Uint32Array,
  Hq: number,
  Hkv: number,
  hd: number,
  /** The inner product of a head's output and its gradient, [tokens, heads], of outputs that were rounded. Default: exact. */
  delta?: Numbers
): { dq: Float64Array; dk: Float64Array; dv: Float64Array } => {
  checkAttention(q, k, v, documentStart, Hq, Hkv, hd)
  const N = documentStart.length
  expectLength("dout", dout, N * Hq * hd)
  expectLength("lse", lse, N * Hq)
  const scale = 1 / Math.sqrt(hd)
  const dq = new Float64Array(q.length)
  const dk = new Float64Array(k.length)
  const dv = new Float64Array(v.length)
  for (let t = 0; t < N; t++) {
    for (let h = 0; h < Hq; h++) {
      const kvHead = Math.floor(h / (Hq / Hkv))
      const atQ = (t * Hq + h) * hd
      const p: Array<number> = []
      const dp: Array<number> = []
      for (let j = documentStart[t]!; j <= t; j++) {
        const atK = (j * Hkv + kvHead) * hd
        p.push(Math.exp(dot(q, atQ, k, atK, hd) * scale - lse[t * Hq + h]!))
        dp.push(dot(dout, atQ, v, atK, hd))
      }
      const mean = delta?.[t * Hq + h] ?? p.reduce((sum, value, offset) => sum + value * dp[offset]!, 0)
      for (let j = documentStart[t]!; j <= t; j++) {
        const offset = j - documentStart[t]!
        const atK = (j * Hkv + kvHead) * hd
        const dscore = p[offset]! * (dp[offset]! - mean)
        for (let i = 0; i < hd; i++) {
          dq[atQ + i]! += dscore * scale * k[atK + i]!
          dk[atK + i]! += dscore * scale * q[atQ + i]!
          dv[atK + i]! += p[offset]! * dout[atQ + i]!
        }
      }
    }
  }
  return { dq, dk, dv }
}

// ---------------------------------------------------------------------------------------------------------------
// SwiGLU with memorization sinks

/** `general` neurons that every token uses, then `sink` neurons in units of `block`, lit by the coefficient table. */
export interface SwigluShape {
  readonly general: number
  readonly sink: number
  readonly block: number
}

/** How many units of `block` neurons the sinks make. */
export const sinkUnits = ({ block, sink }: SwigluShape): number => {
  const units = sink === 0 ? 0 : sink / block
  if (!Number.isInteger(units)) throw new RangeError(`${sink} sink neurons are no multiple of the block of ${block}`)
  return units
}

/**
 * For every token and neuron: where its gate and up stand in gu[N, 2F], where its output stands in h[N, F], and the
 * coefficient that multiplies it.
 */
const forEachNeuron = (
  coef: Numbers,
  segment: Uint32Array,
  shape: SwigluShape,
  visit: (gate: number, up: number, h: number, coefficient: number) => void
): void => {
  const { block, general, sink } = shape
  const F = general + sink
  const columns = 1 + sinkUnits(shape)
  const S = rowsOf("coef", coef, columns)
  segment.forEach((s, t) => {
    if (s >= S) throw new RangeError(`segment ${s} of token ${t} has no row in the coefficient table of ${S}`)
    for (let j = 0; j < general; j++) {
      visit(t * 2 * F + j, t * 2 * F + general + j, t * F + j, coef[s * columns]!)
    }
    for (let j = 0; j < sink; j++) {
      const gate = t * 2 * F + 2 * general + j
      visit(gate, gate + sink, t * F + general + j, coef[s * columns + 1 + Math.floor(j / block)]!)
    }
  })
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))

/**
 * h[N, F] = coefficient * silu(gate) * up, with F = general + sink. The columns of gu[N, 2F] are
 * [gate_general | up_general | gate_sink | up_sink], those of h [general | sink]. coef[S, 1 + units] has a row for
 * each segment: column 0 multiplies every general neuron, column 1 + u the `block` sink neurons of unit u.
 * segment[N] is the row a token uses.
 */
export const swiglu = (gu: Numbers, coef: Numbers, segment: Uint32Array, shape: SwigluShape): Float64Array => {
  const F = shape.general + shape.sink
  expectLength("gu", gu, segment.length * 2 * F)
  const result = new Float64Array(segment.length * F)
  forEachNeuron(coef, segment, shape, (gate, up, h, coefficient) => {
    result[h] = coefficient * gu[gate]! * sigmoid(gu[gate]!) * gu[up]!
  })
  return result
}

/** dgu[N, 2F] from dh[N, F]. */
export const swigluBackward = (
  dh: Numbers,
  gu: Numbers,
  coef: Numbers,
  segment: Uint32Array,
  shape: SwigluShape
): Float64Array => {
  const F = shape.general + shape.sink
  expectLength("gu", gu, segment.length * 2 * F)
  expectLength("dh", dh, segment.length * F)
  const dgu = new Float64Array(gu.length)
  forEachNeuron(coef, segment, shape, (gate, up, h, coefficient) => {
    const x = gu[gate]!
    const s = sigmoid(x)
    dgu[gate] = dh[h]! * coefficient * gu[up]! * s * (1 + x * (1 - s))
    dgu[up] = dh[h]! * coefficient * x * s
  })
  return dgu
}

// ---------------------------------------------------------------------------------------------------------------
// gates of neurons

/** y[N, F] = h * gate[segment], with gate[S, F]. */
export const neuronGate = (h: Numbers, gate: Numbers, segment: Uint32Array): Float64Array => {
  const F = rowsOf("h", h, segment.length)
  return Float64Array.from(h, (value, at) => value * gate[segment[Math.floor(at / F)]! * F + (at % F)]!)
}

/** dh[N, F] and dgate[S, F] from dy[N, F]. */
export const neuronGateBackward = (
  dy: Numbers,
  h: Numbers,
  gate: Numbers,
  segment: Uint32Array
): { dh: Float64Array; dgate: Float64Array } => {
  const F = rowsOf("h", h, segment.length)
  expectLength("dy", dy, h.length)
  const dgate = new Float64Array(gate.length)
  for (let at = 0; at < h.length; at++) dgate[segment[Math.floor(at / F)]! * F + (at % F)]! += h[at]! * dy[at]!
  return { dh: neuronGate(dy, gate, segment), dgate }
}

// ---------------------------------------------------------------------------------------------------------------
// cross entropy

/**
 * Per token of logits[N, V]: loss[N] in nats, and rank[N], the number of logits above the target's (of equal ones,
 * those with a lower index stand above), so rank 0 means that arg max finds the target. Both are 0 where the target
 * is IGNORE. `dlogits(scale)` is the gradient of scale * sum(loss), zero where ignored.
 */
export const crossEntropy = (
  logits: Numbers,
  targets: Uint32Array,
  V: number
): { loss: Float64Array; rank: Uint32Array; dlogits: (scale: number) => Float64Array } => {
  const N = targets.length
  expectLength("logits", logits, N * V)
  const loss = new Float64Array(N)
  const rank = new Uint32Array(N)
  const probability = new Float64Array(N * V)
  targets.forEach((target, n) => {
    if (target === IGNORE) return
    if (target >= V) throw new RangeError(`target ${target} at ${n} is outside the vocabulary of ${V}`)
    let max = -Infinity
    for (let c = 0; c < V; c++) max = Math.max(max, logits[n * V + c]!)
    let sum = 0
    for (let c = 0; c < V; c++) sum += Math.exp(logits[n * V + c]! - max)
    const own = logits[n * V + target]!
    loss[n] = max + Math.log(sum) - own
    for (let c = 0; c < V; c++) {
      const other = logits[n * V + c]!
      probability[n * V + c] = Math.exp(other - max) / sum
      if (other > own || (other === own && c < target)) rank[n]!++
    }
  })
  const dlogits = (scale: number): Float64Array => {
    const d = new Float64Array(N * V)
    targets.forEach((target, n) => {
      // The probabilities of an ignored row were never filled in, and no class equals IGNORE: its row stays 0.
      for (let c = 0; c < V; c++) d[n * V + c] = scale * (probability[n * V + c]! - (c === target ? 1 : 0))
    })
    return d
  }
  return { loss, rank, dlogits }
}

/**
 * Per token of logits[N, V] and q[N, V]: loss[N] = -sum q log softmax(logits), 0 where the target is IGNORE. The rows of
 * q need not sum to 1. `dlogits(weights)` is the gradient of sum(weights * loss), weights[N].
 */
export const softCrossEntropy = (
  logits: Numbers,
  targets: Uint32Array,
  q: Numbers,
  V: number
): { loss: Float64Array; dlogits: (weights: Numbers) => Float64Array } => {
  const N = targets.length
  expectLength("logits", logits, N * V)
  expectLength("q", q, N * V)
  const loss = new Float64Array(N)
  const slope = new Float64Array(N * V)
  for (let c = 0; c < V; c++) {
    // linear in q: the sum over classes of q[c] times the cross entropy with class c
    const one = crossEntropy(logits, targets.map((target) => (target === IGNORE ? IGNORE : c)), V)
    const gradient = one.dlogits(1)
    for (let n = 0; n < N; n++) {
      loss[n]! += q[n * V + c]! * one.loss[n]!
      for (let v = 0; v < V; v++) slope[n * V + v]! += q[n * V + c]! * gradient[n * V + v]!
    }
  }
  return { loss, dlogits: (weights) => slope.map((value, at) => value * weights[Math.floor(at / V)]!) }
}

/**
 * Per token of x[N, d]: loss[N], its mean squared distance to `goal` [N, d], 0 where the target is IGNORE. `dx(weights)`
 * is the gradient of sum(weights * loss), weights[N].
 */
export const hiddenLoss = (
  x: Numbers,
  targets: Uint32Array,
  goal: Numbers,
  d: number
): { loss: Float64Array; dx: (weights: Numbers) => Float64Array } => {
  expectLength("x", x, targets.length * d)
  expectLength("goal", goal, x.length)
  const off = Float64Array.from(x, (value, at) => (targets[Math.floor(at / d)] === IGNORE ? 0 : value - goal[at]!))
  const loss = new Float64Array(targets.length)
  off.forEach((value, at) => {
    loss[Math.floor(at / d)]! += value ** 2 / d
  })
  return { loss, dx: (weights) => off.map((value, at) => (2 / d) * value * weights[Math.floor(at / d)]!) }
}

// ---------------------------------------------------------------------------------------------------------------
// optimizer

/** Sum of two arrays: a residual connection, or two gradients that meet. */
export const add = (a: Numbers, b: Numbers): Float64Array => {
  expectLength("b", b, a.length)
  return Float64Array.from(a, (value, i) => value + b[i]!)
}

/** The L2 norm over all gradients together. */
export const globalNorm = (gradients: Iterable<Numbers>): number => {
  let squares = 0
  for (const gradient of gradients) for (const g of gradient) squares += g * g
  return Math.sqrt(squares)
}

/** What to multiply gradients of global norm `norm` by, so that it does not exceed `clip`. */
export const clipScale = (norm: number, clip: number): number => Math.min(1, clip / (norm + 1e-6))

export interface AdamWOptions {
  readonly lr: number
  readonly beta1: number
  readonly beta2: number
  readonly eps: number
  /** Decoupled: the parameter loses lr * weightDecay of itself, outside the moments. */
  readonly weightDecay: number
  /** The number of this step, 1 for the first. */
  readonly step: number
  /** Multiplies the gradient first: the clip scale. */
  readonly gradScale: number
}

/** One AdamW step: the new parameters and moments; the arguments stay as they are. */
export const adamw = (
  p: Numbers,
  g: Numbers,
  m: Numbers,
  v: Numbers,
  { beta1, beta2, eps, gradScale, lr, step, weightDecay }: AdamWOptions
): { p: Float64Array; m: Float64Array; v: Float64Array } => {
  for (const [name, array] of [["g", g], ["m", m], ["v", v]] as const) expectLength(name, array, p.length)
  const next = { p: Float64Array.from(p), m: Float64Array.from(m), v: Float64Array.from(v) }
  for (let i = 0; i < p.length; i++) {
    const gradient = g[i]! * gradScale
    next.m[i] = beta1 * m[i]! + (1 - beta1) * gradient
    next.v[i] = beta2 * v[i]! + (1 - beta2) * gradient * gradient
    const mHat = next.m[i]! / (1 - Math.pow(beta1, step))
    const vHat = next.v[i]! / (1 - Math.pow(beta2, step))
    next.p[i] = p[i]! - lr * (mHat / (Math.sqrt(vHat) + eps) + weightDecay * p[i]!)
  }
  return next
}
