/**
 * AdamW: its configuration, learning-rate schedules as pure functions of the step, and the Programs that clip and update.
 */
import * as Schema from "effect/Schema"
import { atLeast0, configuration, fraction, natural, rate, withDefault } from "../Config.ts"
import * as Program from "../gpu/Program.ts"
import { isGpu, type Target } from "../gpu/Target.ts"
import * as Tensor from "../gpu/Tensor.ts"
import { kernels } from "../model/Kernels.ts"
import type { ModelConfig } from "../model/ModelConfig.ts"
import type * as Ops from "../model/Ops.ts"

/** AdamW and its schedule. */
export class OptimizerConfig extends configuration(Schema.Class<OptimizerConfig>("OptimizerConfig")({
  /** Peak. Default 5e-3, which suits models of width 64; use 5e-4 at width 1,000. */
  learningRate: withDefault(rate, 5e-3),
  /** Where the schedule ends, as a share of the peak. Default 0.1. */
  minLearningRateRatio: withDefault(fraction, 0.1),
  /** Steps of linear rise; no more than there are steps. Default: 5 % of all steps. */
  warmupSteps: Schema.optional(natural),
  /** `wsd`: warm-up, stable, then linear decay over `decayRatio` of the steps, which warm-up must leave. Default cosine. */
  schedule: withDefault(Schema.Literal("cosine", "linear", "constant", "wsd"), "cosine"),
  /** Only for `wsd`. Default 0.2. */
  decayRatio: withDefault(fraction, 0.2),
  /** Decoupled, on matrices only, not on norms. Default 0.1. */
  weightDecay: withDefault(atLeast0, 0.1),
  /** Decay of the mean of gradients. Default 0.9. */
  beta1: withDefault(fraction, 0.9),
  /** Decay of the mean of their squares. Default 0.95. */
  beta2: withDefault(fraction, 0.95),
  /** Added to the root of that mean. Default 1e-8. */
  eps: withDefault(rate, 1e-8),
  /** Largest norm of the whole gradient; 0: no clipping. Default 1. */
  gradClip: withDefault(atLeast0, 1),
  /**
   * `dense` (default, as the reference code): momentum tails and decay move sinks that are off. `lazy`: a sink moves only
   * in steps where an id that owns it is in the batch; it then holds nothing of other data. Its moments are corrected for
   * their beginning at 0 by the step of the training, as in PyTorch's SparseAdam, not by how often it moved: the first
   * move of a sink that is lit late is (1 - beta1) / sqrt(1 - beta2) of a full one (.45 by default). It costs a sequence that
   * comes late about one of its first eight exposures, and nothing after 16 (pipelines/results/lazy-bias-correction.md).
   */
  sinks: withDefault(Schema.Literal("dense", "lazy"), "dense"),
  /**
   * Learning rate of sinks over that of all else, of AdamW's step alone: weight decay takes learningRate * weightDecay of
   * a sink as of any other weight, whatever the ratio is. A lazy sink moves only when its id comes, by about a sixth of what dense
   * momentum adds up to until the next time; a ratio of 4 to 8 makes up for it. Default 1.
   */
  sinkLearningRateRatio: withDefault(rate, 1)
})) {}

/** Steps of warm-up, and of `wsd`'s decay. */
const phases = ({ decayRatio, schedule, warmupSteps }: OptimizerConfig, steps: number) => ({
  warmup: warmupSteps ?? Math.round(0.05 * steps),
  decay: schedule === "wsd" ? Math.max(1, Math.round(decayRatio * steps)) : 0
})

/** Why a schedule does not fit into so many steps, naming the fields to change; undefined where it does. */
export const scheduleProblem = (config: OptimizerConfig, steps: number): string | undefined => {
  const { decay, warmup } = phases(config, steps)
  if (warmup > steps) {
    return `training.optimizer.warmupSteps of ${warmup} are more than the ${steps} steps (training.steps): the learning ` +
      "rate would never reach its peak. Lower warmupSteps, or train longer"
  }
  return warmup + decay > steps
    ? `training.optimizer.schedule "wsd" has ${warmup} steps of warm-up (warmupSteps) and ${decay} of decay (decayRatio ` +
      `${config.decayRatio}), more than the ${steps} steps (training.steps): the rate would drop at once. Lower ` +
      "warmupSteps or decayRatio, or train longer"
    : undefined
}

/** The learning rate of a step, counted from 0. */
export const learningRateAt = (config: OptimizerConfig, step: number, steps: number): number => {
  const { decay, warmup } = phases(config, steps)
  const { learningRate: peak } = config
  if (step < warmup) return (peak * (step + 1)) / warmup
  const low = peak * config.minLearningRateRatio
  const done = Math.min(1, (step - warmup) / Math.max(1, steps - warmup))
  switch (config.schedule) {
    case "constant":
      return peak
    case "linear":
      return peak + (low - peak) * done
    case "cosine":
      return low + 0.5 * (peak - low) * (1 + Math.cos(Math.PI * done))
    case "wsd": {
      const into = Math.max(0, step - (steps - decay))
      return peak + (low - peak) * Math.min(1, into / decay)
    }
  }
}

/** A parameter's two moments. */
export interface Moments {
  readonly parameter: Ops.Parameter
  readonly m: Tensor.Tensor
  readonly v: Tensor.Tensor
}

/** Groups of 4 elements that one invocation of the update walks. */
const ELEMENTS = 8

/** Lanes that sum a loss or a gradient: fixed, so that the order of sums is. */
const LANES = 64

/** On a GPU, as many lanes as a large gradient needs, whose sums are then folded to LANES. */
const lanesFor = (n4: number, target: Target | undefined): number =>
  target !== undefined && isGpu(target) ? Math.min(2 ** 17, Math.max(LANES, Math.ceil(n4 / 64 / LANES) * LANES)) : LANES

/** Squares of `n` groups of 4 elements, summed in lanes from `first` on. */
export interface Squares {
  readonly x: Tensor.Tensor
  readonly n: number
  readonly lanes: number
  readonly first: number
}

/** Adds sums of squares of one to six tensors to `partial`. */
export const sumOfSquares = (p: Program.Recorder, of: ReadonlyArray<Squares>, partial: Tensor.Tensor): void => {
  const at = (i: number): Squares => of[i] ?? { ...of[0]!, n: 0, lanes: 0 }
  const [a, b, c, d, e, f] = [at(0), at(1), at(2), at(3), at(4), at(5)] as const
  p.dispatch(
    kernels.sumOfSquares,
    { s0: a.x, s1: b.x, s2: c.x, s3: d.x, s4: e.x, s5: f.x, squares: partial },
    {
      n0: a.n,
      lanes0: a.lanes,
      first0: a.first,
      n1: b.n,
      lanes1: b.lanes,
      first1: b.first,
      n2: c.n,
      lanes2: c.lanes,
      first2: c.first,
      n3: d.n,
      lanes3: d.lanes,
      first3: d.first,
      n4: e.n,
      lanes4: e.lanes,
      first4: e.first,
      n5: f.n,
      lanes5: f.lanes,
      first5: f.first
    },
    of.reduce((sum, { lanes }) => sum + lanes, 0)
  )
}

/** The loss scale that mixed precision begins with. */
const LOSS_SCALE = 65536

/** Numbers that the scaler keeps, and that the history keeps of a step. */
const SCALER = 6
const HISTORY = 8

/** What the device says of a step. */
export interface StepStats {
  /** Mean loss of the step's tokens, nats. */
  readonly loss: number
  /** Norm of the whole gradient before clipping; 0 of a skipped step. */
  readonly gradNorm: number
  readonly learningRate: number
  readonly lossScale: number
  /** Mixed precision: loss or gradient overflowed, and the step moved nothing. */
  readonly skipped: boolean
  /** Steps skipped so far in the whole run, this one included. */
  readonly skippedSoFar: number
}

/** One slot of `Optimizer.history`. */
export const historyAt = (history: Float32Array, slot: number): StepStats => {
  const [loss, gradNorm, learningRate, lossScale, skipped, , skippedSoFar] = history.subarray(slot * HISTORY)
  return {
    loss: loss!,
    gradNorm: gradNorm!,
    learningRate: learningRate!,
    lossScale: lossScale!,
    skipped: skipped === 1,
    skippedSoFar: skippedSoFar!
  }
}

/** The scaler after so many steps, out of what a checkpoint holds of it; older ones hold the first two numbers alone. */
export const scalerState = (config: OptimizerConfig, steps: number,
  saved: ReadonlyArray<number> = []): Float32Array =>
{
  const { beta1, beta2 } = config
  const state = [LOSS_SCALE, 0, 1 - beta1 ** steps, 1 - beta2 ** steps, 0, 0]
  return Float32Array.from(state, (value, i) => saved[i] ?? value)
}

export interface Optimizer {
  readonly moments: ReadonlyArray<Moments>
  /** loss, gradient norm, factor that gradients are multiplied with, 1 if the last step was skipped, corrections: [6]. */
  readonly stats: Tensor.Tensor
  /** The last `window` steps, [window, HISTORY]: see `historyAt`; slot = hyper[SLOT]. */
  readonly history: Tensor.Tensor
  /**
   * Loss scale, steps since it changed, 1 - beta1^t and 1 - beta2^t for the t steps that were taken, steps skipped so far
   * and in a row, [6]; undefined without loss scaling.
   */
  readonly scaler: Tensor.Tensor | undefined
  /** Every tensor above and the gradients: what must be allocated. */
  readonly tensors: ReadonlyArray<Tensor.Tensor>
  /** What the tensors must hold before the first step. */
  readonly initial: ReadonlyArray<readonly [Tensor.Tensor, Float32Array]>
  /**
   * Tensors and what to write into them before a step: which units its batches light, once each. Only their gradients are
   * cleared, measured and (where updates are lazy) applied.
   */
  readonly touch: (units: Uint32Array) => ReadonlyArray<readonly [Tensor.Tensor, Uint32Array]>
  /** Zeroes gradients and sums. */
  readonly begin: Program.Program
  /** Adds a pass's token losses to the step's. */
  readonly accumulate: (loss: Tensor.Tensor) => Program.Program
  /** Norm, clip factor, history, AdamW. */
  readonly update: Program.Program
}

export interface OptimizerOptions {
  readonly target?: Target
  /** Scale the loss, adaptively, and skip steps whose gradient overflows: for f16. Default false. */
  readonly lossScaling?: boolean
  /** Most units of sinks that the batches of a step light. Default: all of them. */
  readonly maxTouched?: number
}

export const record = (
  config: OptimizerConfig,
  model: ModelConfig,
  parameters: ReadonlyArray<Ops.Parameter>,
  hyper: Tensor.Tensor,
  window: number,
  options: OptimizerOptions = {}
): Optimizer => {
  const { lossScaling = false, target } = options
  const moments = parameters.map((parameter) => ({
    parameter,
    m: Tensor.make(`${parameter.name}.m`, parameter.value.shape),
    v: Tensor.make(`${parameter.name}.v`, parameter.value.shape)
  }))
  const unitCount = model.sinks?.units ?? 1
  const block = model.sinks?.block ?? 1
  const maxTouched = Math.min(unitCount, options.maxTouched ?? unitCount)
  const touched = Tensor.make("touched", [unitCount], { type: "u32" })
  const units = Tensor.make("touchedUnits", [maxTouched], { type: "u32" })
  const count = Tensor.make("touchedUnitCount", [1], { type: "u32" })
  const stats = Tensor.make("stats", [6])
  const history = Tensor.make("history", [window, HISTORY])
  const scaler = Tensor.make("lossScale", [SCALER])

  /** The part of a parameter whose gradient every step moves, and the part that only touched units have. */
  const parts = parameters.map((parameter) => {
    const d = parameter.value.shape.at(-1)!
    const { sinkRow0 } = parameter
    if (sinkRow0 === undefined) return { parameter, elements: Tensor.size(parameter.value), sinks: undefined }
    const halves = (parameter.value.shape[0]! - sinkRow0) / model.pool
    return {
      parameter,
      elements: sinkRow0 * d,
      sinks: {
        params: { row4: d / 4, sinkRow0, pool: model.pool, block, halves },
        /** Groups of 4 elements, at most. */
        n4: maxTouched * block * halves * (d / 4)
      }
    }
  })

  const lanes = parts.flatMap(({ elements, sinks }) =>
    [elements / 4, ...(sinks === undefined ? [] : [sinks.n4])].map((n4) => lanesFor(n4, target))
  )
  const squares = lanes.reduce((a, b) => a + b, 0)
  const partial = Tensor.make("partial", [LANES + squares])

  const begin = Program.record("begin", target)
  for (const { elements, parameter } of parts) begin.clear(parameter.gradient, elements)
  begin.clear(partial)
  for (const { parameter, sinks } of parts) {
    if (sinks === undefined) continue
    begin.dispatch(
      kernels.zeroTouched,
      { units, count, g: parameter.gradient },
      { ...sinks.params, lanes: 0, first: 0 },
      Math.ceil(sinks.n4 / ELEMENTS)
    )
  }
  if (lossScaling) begin.dispatch(kernels.scaleLoss, { scaler, hyper }, {}, 1)

  const p = Program.record("update", target)
  let first = LANES
  const summed: Array<Squares> = []
  for (const { elements, parameter, sinks } of parts) {
    const own = lanesFor(elements / 4, target)
    summed.push({ x: parameter.gradient, n: elements / 4, lanes: own, first })
    first += own
    if (sinks === undefined) continue
    const touchedLanes = lanesFor(sinks.n4, target)
    p.dispatch(
      kernels.sumOfSquaresTouched,
      { units, count, g: parameter.gradient, partial },
      { ...sinks.params, lanes: touchedLanes, first },
      touchedLanes
    )
    first += touchedLanes
  }
  for (let i = 0; i < summed.length; i += 6) sumOfSquares(p, summed.slice(i, i + 6), partial)
  // one invocation finishes: a GPU first lets workgroups bring its many partial sums down to a few
  const fold = target !== undefined && isGpu(target)
  const folded = fold ? p.scratch("folded", [1 + LANES]) : partial
  if (fold) {
    const width = kernels.fold.constants["WX"]!
    p.dispatch(kernels.fold, { x: partial, partial: folded }, { n: LANES, lanes: 1, start: 0, first: 0 }, width)
    p.dispatch(
      kernels.fold,
      { x: partial, partial: folded },
      { n: squares, lanes: LANES, start: LANES, first: 1 },
      LANES * width
    )
  }
  p.dispatch(
    kernels.finish,
    { partial: folded, hyper, stats, history, scaler },
    { n: Tensor.size(folded), first: fold ? 1 : LANES, adaptive: lossScaling ? 1 : 0 },
    1
  )
  moments.forEach(({ m, parameter, v }, i) => {
    const { elements, sinks } = parts[i]!
    const decay = parameter.decay ? 1 : 0
    const sinkRate = config.sinkLearningRateRatio
    const own = { hyper, stats, g: parameter.gradient, w: parameter.value, m, v }
    const lazy = config.sinks === "lazy"
    const n4 = (sinks === undefined || lazy ? elements : Tensor.size(parameter.value)) / 4
    p.dispatch(
      kernels.adamw,
      { ...own, touched },
      {
        n4,
        decay,
        sinks: sinks === undefined || lazy ? 0 : 1,
        row4: (parameter.value.shape.at(-1) ?? 4) / 4,
        sinkRow0: parameter.sinkRow0 ?? 0,
        pool: Math.max(1, model.pool),
        block,
        sinkRate
      },
      Math.ceil(n4 / ELEMENTS)
    )
    if (sinks !== undefined && lazy) {
      p.dispatch(
        kernels.adamwTouched,
        { ...own, units, count },
        { ...sinks.params, decay, sinkRate },
        Math.ceil(sinks.n4 / ELEMENTS)
      )
    }
  })
  const gradients = parameters.map((parameter) => parameter.gradient)
  return {
    moments,
    stats,
    history,
    scaler: lossScaling ? scaler : undefined,
    tensors: [
      touched,
      units,
      count,
      stats,
      history,
      scaler,
      partial,
      ...gradients,
      ...moments.flatMap(({ m, v }) => [m, v])
    ],
    initial: lossScaling ? [[scaler, scalerState(config, 0)]] : [],
    touch: (lit) => {
      if (model.sinks === undefined) return []
      if (lit.length > maxTouched) {
        throw new RangeError(`${lit.length} units are touched, ${maxTouched} were planned for`)
      }
      const flags = new Uint32Array(unitCount)
      for (const unit of lit) flags[unit] = 1
      return [[touched, flags], [units, lit], [count, Uint32Array.of(lit.length)]]
    },
    begin: begin.finish(),
    accumulate: (loss) => {
      const q = Program.record("accumulate loss", target)
      q.dispatch(kernels.sum, { x: loss, partial }, { n: Tensor.size(loss), lanes: LANES, first: 0 }, LANES)
      return q.finish()
    },
    update: p.finish()
  }
}
