/**
 * AdamW: its configuration, learning-rate schedules as pure functions of the step, and the Programs that clip and update.
 */
import * as Schema from "effect/Schema"
import * as Program from "./gpu/Program.ts"
import * as Tensor from "./gpu/Tensor.ts"
import type { ModelConfig } from "./ModelConfig.ts"
import { kernels } from "./Kernels.ts"
import * as Ops from "./Ops.ts"

const positive = Schema.Number.pipe(Schema.positive())
const fraction = Schema.Number.pipe(Schema.between(0, 1))

const withDefault = <A, I>(schema: Schema.Schema<A, I>, value: NoInfer<A>) =>
  Schema.optionalWith(schema, { default: () => value })

/** AdamW and its schedule. */
export class OptimizerConfig extends Schema.Class<OptimizerConfig>("OptimizerConfig")({
  /** Peak. Default 5e-3, which suits models of width 64; use 5e-4 at width 1,000. */
  learningRate: withDefault(positive, 5e-3),
  /** Where the schedule ends, as a share of the peak. Default 0.1. */
  minLearningRateRatio: withDefault(fraction, 0.1),
  /** Steps of linear rise. Default: 5 % of all steps. */
  warmupSteps: Schema.optional(Schema.Int.pipe(Schema.nonNegative())),
  /** `wsd`: warm-up, stable, then linear decay over `decayRatio` of the steps. Default cosine. */
  schedule: withDefault(Schema.Literal("cosine", "linear", "constant", "wsd"), "cosine"),
  /** Only for `wsd`. Default 0.2. */
  decayRatio: withDefault(fraction, 0.2),
  /** Decoupled, on matrices only, not on norms. Default 0.1. */
  weightDecay: withDefault(Schema.Number.pipe(Schema.nonNegative()), 0.1),
  beta1: withDefault(fraction, 0.9),
  beta2: withDefault(fraction, 0.95),
  eps: withDefault(positive, 1e-8),
  /** Largest norm of the whole gradient; 0: no clipping. Default 1. */
  gradClip: withDefault(Schema.Number.pipe(Schema.nonNegative()), 1),
  /**
   * `dense` (default, as the reference code): momentum tails and decay move sinks that are off. `lazy`: a sink moves only
   * in steps where an id that owns it is in the batch; it then holds nothing of other data.
   */
  sinks: withDefault(Schema.Literal("dense", "lazy"), "dense")
}) {}

/** The learning rate of a step, counted from 0. */
export const learningRateAt = (config: OptimizerConfig, step: number, steps: number): number => {
  const warmup = config.warmupSteps ?? Math.round(0.05 * steps)
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
      const decay = Math.max(1, Math.round(config.decayRatio * steps))
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

export interface Optimizer {
  readonly moments: ReadonlyArray<Moments>
  /** Units that moved data in this step, [units]; read by lazy updates. */
  readonly touched: Tensor.Tensor
  /** loss, gradient norm, clip factor of the last step. */
  readonly stats: Tensor.Tensor
  /** loss, gradient norm, learning rate of the last `window` steps, [window, 4]; slot = hyper[9]. */
  readonly history: Tensor.Tensor
  /** Every tensor above and the gradients: what must be allocated. */
  readonly tensors: ReadonlyArray<Tensor.Tensor>
  /** Zeroes gradients and sums. */
  readonly begin: Program.Program
  /** Adds a pass's token losses to the step's. */
  readonly accumulate: (loss: Tensor.Tensor) => Program.Program
  /** Norm, clip factor, history, AdamW. */
  readonly update: Program.Program
}

export const record = (
  config: OptimizerConfig,
  model: ModelConfig,
  parameters: ReadonlyArray<Ops.Parameter>,
  hyper: Tensor.Tensor,
  window: number
): Optimizer => {
  const moments = parameters.map((parameter) => ({
    parameter,
    m: Tensor.make(`${parameter.name}.m`, parameter.value.shape),
    v: Tensor.make(`${parameter.name}.v`, parameter.value.shape)
  }))
  const touched = Tensor.make("touched", [model.sinks?.units ?? 1], { type: "u32" })
  const stats = Tensor.make("stats", [4])
  const history = Tensor.make("history", [window, 4])
  const partial = Tensor.make("partial", [LANES * (1 + parameters.length)])
  const gradients = parameters.map((p) => p.gradient)

  const begin = Program.record("begin")
  for (const tensor of [...gradients, partial]) begin.clear(tensor)

  const p = Program.record("update")
  parameters.forEach((parameter, i) =>
    p.dispatch(
      kernels.sumOfSquares,
      { x: parameter.gradient, partial },
      { n: Tensor.byteLength(parameter.gradient) / 16, lanes: LANES, first: LANES * (1 + i), extra: 0 },
      LANES
    )
  )
  p.dispatch(
    kernels.finish,
    { partial, hyper, stats, history },
    { n: Tensor.size(partial), lanes: 0, first: LANES, extra: 0 },
    1
  )
  for (const { m, parameter, v } of moments) {
    const n4 = Tensor.size(parameter.value) / 4
    const lazy = config.sinks === "lazy" && parameter.sinkRow0 !== undefined
    p.dispatch(
      kernels.adamw,
      { hyper, stats, touched, g: parameter.gradient, w: parameter.value, m, v },
      {
        n4,
        decay: parameter.decay ? 1 : 0,
        lazy: lazy ? 1 : 0,
        row4: (parameter.value.shape.at(-1) ?? 4) / 4,
        sinkRow0: parameter.sinkRow0 ?? 0,
        pool: Math.max(1, model.pool),
        block: model.sinks?.block ?? 1
      },
      Math.ceil(n4 / ELEMENTS)
    )
  }
  return {
    moments,
    touched,
    stats,
    history,
    tensors: [touched, stats, history, partial, ...gradients, ...moments.flatMap(({ m, v }) => [m, v])],
    begin: begin.finish(),
    accumulate: (loss) => {
      const q = Program.record("accumulate loss")
      q.dispatch(kernels.sum, { x: loss, partial }, { n: Tensor.size(loss), lanes: LANES, first: 0, extra: 0 }, LANES)
      return q.finish()
    },
    update: p.finish()
  }
}
