/**
 * A whole Llama-style decoder with memorization sinks in float64: forward, backward, and a training step. It is made
 * of the ops in `ops.ts` alone and is the standard that the GPU model is held to.
 */
import { type Batch, IGNORE } from "../../src/Batch.ts"
import { adamw, type AdamWOptions, add, attention, attentionBackward, clipScale, crossEntropy, embedding,
  embeddingBackward, globalNorm, hiddenLoss, linear, linearBackward, matmul, matmulBackward, neuronGate,
  neuronGateBackward, type Numbers, rmsNorm, rmsNormBackward, rope, ropeBackward, softCrossEntropy, swiglu,
  swigluBackward } from "./ops.ts"
import type { Random } from "./random.ts"

/** The shape of a decoder. */
export interface ReferenceConfig {
  readonly vocabSize: number
  readonly hiddenSize: number
  readonly numHiddenLayers: number
  readonly numAttentionHeads: number
  readonly numKeyValueHeads: number
  readonly headDim: number
  /** MLP neurons that every token uses, per layer. */
  readonly general: number
  /** Sink neurons, per layer; a multiple of `block`. */
  readonly pool: number
  /** Neighbouring sink neurons that share one column of the coefficient table. */
  readonly block: number
  readonly rmsNormEps: number
  readonly ropeTheta: number
  readonly tieWordEmbeddings: boolean
}

/** Parameters, gradients or moments by name; the names and shapes are those of `parameterShapes`. */
export type Tensors = Record<string, Float64Array>

/**
 * Every parameter's shape, row-major, in order. V = vocabSize, d = hiddenSize, F = general + pool:
 *
 * - `embed` [V, d], `norm` [d], and `head` [V, d] unless tied
 * - `layers.{i}.norm1`, `layers.{i}.norm2` [d]
 * - `layers.{i}.qkv` [(Hq + 2 Hkv) * hd, d]: the rows of q, then of k, then of v
 * - `layers.{i}.o` [d, Hq * hd]
 * - `layers.{i}.gateUp` [2F, d]: the rows of gate_general, up_general, gate_pool, up_pool
 * - `layers.{i}.down` [F, d], neuron-major: row j is what neuron j writes; first general, then pool
 */
export const parameterShapes = (config: ReferenceConfig): Record<string, ReadonlyArray<number>> => {
  const { headDim, hiddenSize: d, numAttentionHeads: Hq, numKeyValueHeads: Hkv, vocabSize: V } = config
  const F = config.general + config.pool
  const shapes: Record<string, ReadonlyArray<number>> = { embed: [V, d] }
  for (let i = 0; i < config.numHiddenLayers; i++) {
    shapes[`layers.${i}.norm1`] = [d]
    shapes[`layers.${i}.qkv`] = [(Hq + 2 * Hkv) * headDim, d]
    shapes[`layers.${i}.o`] = [d, Hq * headDim]
    shapes[`layers.${i}.norm2`] = [d]
    shapes[`layers.${i}.gateUp`] = [2 * F, d]
    shapes[`layers.${i}.down`] = [F, d]
  }
  shapes.norm = [d]
  if (!config.tieWordEmbeddings) shapes.head = [V, d]
  return shapes
}

/** Normal weights of the given deviation, and norms spread around 1 so that a test sees their effect. */
export const randomParameters = (config: ReferenceConfig, random: Random, std = 0.02): Tensors => {
  const params: Tensors = {}
  for (const [name, shape] of Object.entries(parameterShapes(config))) {
    const length = shape.reduce((a, b) => a * b, 1)
    params[name] = shape.length === 1 ? random.uniforms(length, 0.5, 1.5) : random.normals(length, std)
  }
  return params
}

/** Columns [from, from + width) of every row of x[N, total]. */
const columns = (x: Float64Array, total: number, from: number, width: number): Float64Array => {
  const y = new Float64Array(x.length / total * width)
  for (let i = 0; i < y.length; i++) y[i] = x[Math.floor(i / width) * total + from + i % width]!
  return y
}

/** Arrays of N rows put side by side: [N, a], [N, b], ... to [N, a + b + ...]. */
const sideBySide = (N: number, parts: ReadonlyArray<Float64Array>): Float64Array => {
  const y = new Float64Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (let n = 0; n < N; n++) {
    for (const part of parts) {
      const width = part.length / N
      y.set(part.subarray(n * width, (n + 1) * width), at)
      at += width
    }
  }
  return y
}

/** What one layer computed. */
export interface LayerCache {
  /** The residual stream that enters the layer [N, d]. */
  readonly x: Float64Array
  readonly norm1: { readonly y: Float64Array; readonly rstd: Float64Array }
  /** Rotated queries [N, Hq, hd]. */
  readonly q: Float64Array
  /** Rotated keys [N, Hkv, hd]. */
  readonly k: Float64Array
  readonly v: Float64Array
  readonly attention: { readonly out: Float64Array; readonly lse: Float64Array }
  /** The residual stream between attention and MLP [N, d]. */
  readonly middle: Float64Array
  readonly norm2: { readonly y: Float64Array; readonly rstd: Float64Array }
  /** [N, 2F] */
  readonly gateUp: Float64Array
  /** [N, F], before gates of neurons */
  readonly hidden: Float64Array
  /** [N, F] */
  readonly h: Float64Array
}

/** What the whole model computed. */
export interface Forward {
  /** The mean over the scored targets, in nats; 0 when none is scored. */
  readonly loss: number
  /** How many targets are scored. */
  readonly scored: number
  /** [N], 0 where ignored. */
  readonly tokenLoss: Float64Array
  /** [N], 0 where ignored. */
  readonly rank: Uint32Array
  /** [N, V] */
  readonly logits: Float64Array
  readonly dlogits: (scale: number) => Float64Array
  readonly layers: ReadonlyArray<LayerCache>
  /** The residual stream after the last layer [N, d]. */
  readonly x: Float64Array
  readonly norm: { readonly y: Float64Array; readonly rstd: Float64Array }
  /** Per layer [S, F]. */
  readonly gates: ReadonlyArray<Numbers> | undefined
  /** The gradient of the residual stream behind the last of `layers`, where no head is on top of it. */
  readonly dstream?: Float64Array
}

const swigluShape = (config: ReferenceConfig) => ({
  general: config.general,
  sink: config.pool,
  block: config.block
})

const checkParameters = (config: ReferenceConfig, params: Tensors): void => {
  const shapes = parameterShapes(config)
  for (const name of Object.keys(params)) {
    if (!(name in shapes)) throw new RangeError(`parameter ${name} is not part of this model`)
  }
  for (const [name, shape] of Object.entries(shapes)) {
    const length = shape.reduce((a, b) => a * b, 1)
    if (params[name]?.length !== length) {
      throw new RangeError(`parameter ${name} has ${params[name]?.length} elements, expected [${shape.join(", ")}]`)
    }
  }
}

/**
 * The model on a batch. `coef` [S, 1 + pool/block] and `segment` [N] light the sinks, as `swiglu` in `ops.ts`
 * describes; `gates` (per layer [S, F]) multiply single neurons besides.
 */
export const forward = (
  config: ReferenceConfig,
  params: Tensors,
  batch: Batch,
  coef: Numbers,
  segment: Uint32Array,
  gates?: ReadonlyArray<Numbers>
): Forward => {
  checkParameters(config, params)
  const { headDim, hiddenSize: d, numAttentionHeads: Hq, numKeyValueHeads: Hkv, ropeTheta } = config
  const { documentStart, positions } = batch
  const width = (Hq + 2 * Hkv) * headDim
  const layers: Array<LayerCache> = []
  let x = embedding(batch.tokens, params.embed!, d)
  for (let i = 0; i < config.numHiddenLayers; i++) {
    const norm1 = rmsNorm(x, params[`layers.${i}.norm1`]!, config.rmsNormEps)
    const qkv = linear(norm1.y, params[`layers.${i}.qkv`]!, d)
    const q = rope(columns(qkv, width, 0, Hq * headDim), positions, ropeTheta, Hq, headDim)
    const k = rope(columns(qkv, width, Hq * headDim, Hkv * headDim), positions, ropeTheta, Hkv, headDim)
    const v = columns(qkv, width, (Hq + Hkv) * headDim, Hkv * headDim)
    const attended = attention(q, k, v, documentStart, Hq, Hkv, headDim)
    const middle = add(x, linear(attended.out, params[`layers.${i}.o`]!, Hq * headDim))
    const norm2 = rmsNorm(middle, params[`layers.${i}.norm2`]!, config.rmsNormEps)
    const gateUp = linear(norm2.y, params[`layers.${i}.gateUp`]!, d)
    const hidden = swiglu(gateUp, coef, segment, swigluShape(config))
    const h = gates === undefined ? hidden : neuronGate(hidden, gates[i]!, segment)
    layers.push({ x, norm1, q, k, v, attention: attended, middle, norm2, gateUp, hidden, h })
    x = add(middle, matmul(h, params[`layers.${i}.down`]!, config.general + config.pool))
  }
  const norm = rmsNorm(x, params.norm!, config.rmsNormEps)
  const logits = linear(norm.y, config.tieWordEmbeddings ? params.embed! : params.head!, d)
  const { dlogits, loss: tokenLoss, rank } = crossEntropy(logits, batch.targets, config.vocabSize)
  const scored = batch.targets.filter((target) => target !== IGNORE).length
  const loss = scored === 0 ? 0 : tokenLoss.reduce((a, b) => a + b, 0) / scored
  return { loss, scored, tokenLoss, rank, logits, dlogits, layers, x, norm, gates }
}

/**
 * The gradient of the mean loss by every parameter; all zero when no target is scored. Besides, as `layers.{i}.gates`, by
 * the gates of neurons where there are any. Parameters behind a hidden state that is trained towards have none.
 */
export const backward = (
  config: ReferenceConfig,
  params: Tensors,
  batch: Batch,
  coef: Numbers,
  segment: Uint32Array,
  cache: Forward = forward(config, params, batch, coef, segment)
): Tensors => {
  const { headDim, hiddenSize: d, numAttentionHeads: Hq, numKeyValueHeads: Hkv, ropeTheta } = config
  const { documentStart, positions } = batch
  const N = batch.tokens.length
  const head = config.tieWordEmbeddings ? params.embed! : params.head!
  const gradients: Tensors = {}

  const behind = () => {
    const dlogits = cache.dlogits(cache.scored === 0 ? 0 : 1 / cache.scored)
    const atHead = linearBackward(dlogits, cache.norm.y, head, d)
    const atNorm = rmsNormBackward(atHead.dx, cache.x, params.norm!, cache.norm.rstd)
    gradients.norm = atNorm.dweight
    gradients[config.tieWordEmbeddings ? "embed" : "head"] = atHead.dw
    return atNorm.dx
  }
  let dx = cache.dstream ?? behind()

  for (let i = cache.layers.length - 1; i >= 0; i--) {
    const layer = cache.layers[i]!
    const name = `layers.${i}`

    const atDown = matmulBackward(dx, layer.h, params[`${name}.down`]!, config.general + config.pool)
    const atGate = cache.gates && neuronGateBackward(atDown.da, layer.hidden, cache.gates[i]!, segment)
    if (atGate !== undefined) gradients[`${name}.gates`] = atGate.dgate
    const dgateUp = swigluBackward(atGate?.dh ?? atDown.da, layer.gateUp, coef, segment, swigluShape(config))
    const atGateUp = linearBackward(dgateUp, layer.norm2.y, params[`${name}.gateUp`]!, d)
    const atNorm2 = rmsNormBackward(atGateUp.dx, layer.middle, params[`${name}.norm2`]!, layer.norm2.rstd)
    dx = add(dx, atNorm2.dx)

    const atO = linearBackward(dx, layer.attention.out, params[`${name}.o`]!, Hq * headDim)
    const { lse } = layer.attention
    const { dk, dq, dv } = attentionBackward(atO.dx, layer.q, layer.k, layer.v, lse, documentStart, Hq, Hkv, headDim)
    const dqkv = sideBySide(N, [
      ropeBackward(dq, positions, ropeTheta, Hq, headDim),
      ropeBackward(dk, positions, ropeTheta, Hkv, headDim),
      dv
    ])
    const atQkv = linearBackward(dqkv, layer.norm1.y, params[`${name}.qkv`]!, d)
    const atNorm1 = rmsNormBackward(atQkv.dx, layer.x, params[`${name}.norm1`]!, layer.norm1.rstd)
    dx = add(dx, atNorm1.dx)

    gradients[`${name}.norm1`] = atNorm1.dweight
    gradients[`${name}.qkv`] = atQkv.dw
    gradients[`${name}.o`] = atO.dw
    gradients[`${name}.norm2`] = atNorm2.dweight
    gradients[`${name}.gateUp`] = atGateUp.dw
    gradients[`${name}.down`] = atDown.db
  }

  const dembed = embeddingBackward(batch.tokens, dx, config.vocabSize)
  gradients.embed = gradients.embed === undefined ? dembed : add(dembed, gradients.embed)
  return gradients
}

/** The same pass with the sum over tokens of `weights` [N] times their losses to descend, instead of the mean. */
export const weighted = (cache: Forward, weights: Numbers): Forward => {
  const width = cache.logits.length / weights.length
  const sum = cache.dlogits(1).map((value, at) => value * weights[Math.floor(at / width)]!)
  return { ...cache, dlogits: () => sum }
}

/** The same pass with the cross entropy with distributions q [N, V] as its losses, and weights [N] like `weighted`. */
export const soft = (cache: Forward, batch: Batch, q: Numbers, weights: Numbers): Forward => {
  const { dlogits, loss } = softCrossEntropy(cache.logits, batch.targets, q, q.length / batch.targets.length)
  return { ...cache, tokenLoss: loss, dlogits: () => dlogits(weights) }
}

/** The pass up to a layer, its losses the distances of the residual stream behind it to `goal` [N, d], weighed likewise. */
export const towards = (cache: Forward, batch: Batch, layer: number, goal: Numbers, weights: Numbers): Forward => {
  const x = cache.layers[layer + 1]?.x ?? cache.x
  const { dx, loss } = hiddenLoss(x, batch.targets, goal, x.length / batch.targets.length)
  return { ...cache, tokenLoss: loss, layers: cache.layers.slice(0, layer + 1), dstream: dx(weights) }
}

/** What training carries from step to step. */
export interface TrainState {
  readonly params: Tensors
  readonly m: Tensors
  readonly v: Tensors
  /** Steps taken so far. */
  readonly step: number
}

/** Moments at zero, no step taken. */
export const initialState = (params: Tensors): TrainState => {
  const zeros = (): Tensors =>
    Object.fromEntries(Object.entries(params).map(([name, p]) => [name, new Float64Array(p.length)]))
  return { params, m: zeros(), v: zeros(), step: 0 }
}

export interface TrainOptions extends Omit<AdamWOptions, "step" | "gradScale"> {
  /** The global gradient norm is not let above this. */
  readonly clip: number
}

/** Weight decay falls on matrices only: embed, head, qkv, o, gateUp and down, never on a norm. */
export const decays = (name: string): boolean => /(^|\.)(embed|head|qkv|o|gateUp|down)$/.test(name)

/** Clip and AdamW: the next state, with the gradient norm before the clip. `state` stays as it is. */
export const move = (
  state: TrainState,
  gradients: Tensors,
  options: TrainOptions
): { state: TrainState; gradNorm: number } => {
  const gradNorm = globalNorm(Object.values(gradients))
  const gradScale = clipScale(gradNorm, options.clip)
  const step = state.step + 1
  const next = { params: {} as Tensors, m: {} as Tensors, v: {} as Tensors, step }
  for (const [name, p] of Object.entries(state.params)) {
    const weightDecay = decays(name) ? options.weightDecay : 0
    const moved = adamw(p, gradients[name]!, state.m[name]!, state.v[name]!, { ...options, weightDecay, step,
      gradScale })
    next.params[name] = moved.p
    next.m[name] = moved.m
    next.v[name] = moved.v
  }
  return { state: next, gradNorm }
}

/** Forward, backward, and `move`: the next state, with the mean loss before the step. `state` stays as it is. */
export const trainStep = (
  config: ReferenceConfig,
  state: TrainState,
  batch: Batch,
  coef: Numbers,
  segment: Uint32Array,
  options: TrainOptions & {
    /** Descend the sum of these times the tokens' losses [N] instead of their mean. */
    readonly weights?: Numbers
  }
): { state: TrainState; loss: number; gradNorm: number } => {
  const cache = forward(config, state.params, batch, coef, segment)
  const aim = options.weights === undefined ? cache : weighted(cache, options.weights)
  const gradients = backward(config, state.params, batch, coef, segment, aim)
  return { ...move(state, gradients, options), loss: cache.loss }
}

/**
 * The model with its pool cut out: the sink rows of `gateUp` and `down` are gone and `pool` is 0. Its coefficient
 * table has the one column [S, 1] of the general neurons.
 */
export const pruned = (config: ReferenceConfig, params: Tensors): { config: ReferenceConfig; params: Tensors } => {
  const { general, hiddenSize: d } = config
  const kept: Tensors = {}
  for (const [name, p] of Object.entries(params)) {
    const rows = name.endsWith(".gateUp") ? 2 * general : name.endsWith(".down") ? general : p.length / d
    kept[name] = p.slice(0, rows * d)
  }
  return { config: { ...config, pool: 0 }, params: kept }
}
