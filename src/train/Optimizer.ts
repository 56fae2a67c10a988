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
import type { Slice } from "../Sink.ts"

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

/** What one dispatch updates: a parameter with its moments, or several that lie together as if they were one. */
interface Group {
  readonly as: Ops.Parameter
  readonly m: Tensor.Tensor
  readonly v: Tensor.Tensor
  readonly members: ReadonlyArray<Moments>
}

const updatedTogether = (parameters: ReadonlyArray<Ops.Parameter>): ReadonlyArray<Group> => {
  const byHome = new Map<Tensor.Tensor, Array<Ops.Parameter>>()
  for (const parameter of parameters) {
    const home = Tensor.home(parameter.value)
    byHome.set(home, [...(byHome.get(home) ?? []), parameter])
  }
  const alone = (parameter: Ops.Parameter): Group => {
    const m = Tensor.make(`${parameter.name}.m`, parameter.value.shape)
    const v = Tensor.make(`${parameter.name}.v`, parameter.value.shape)
    return { as: parameter, m, v, members: [{ parameter, m, v }] }
  }
  return [...byHome].flatMap(([home, members]) => {
    const [first] = members as [Ops.Parameter]
    const gradient = Tensor.home(first.gradient)
    const all = first.value.inside !== undefined && members.length === home.shape[0] &&
      members.every((one, i) =>
        one.value.inside?.at === 4 * i * home.shape[1]! && one.gradient.inside?.at === one.value.inside.at &&
        Tensor.home(one.gradient) === gradient && one.decay === first.decay && one.sinkRow0 === undefined
      )
    if (!all) return members.map(alone)
    const [m, v] = (["m", "v"] as const).map((kind) =>
      Tensor.together(`${home.name}.${kind}`, members.map(({ name }) => `${name}.${kind}`), first.value.shape)
    ) as [ReturnType<typeof Tensor.together>, ReturnType<typeof Tensor.together>]
    return [{
      as: { ...first, name: home.name, value: home, gradient },
      m: m.whole,
      v: v.whole,
      members: members.map((parameter, i) => ({ parameter, m: m.parts[i]!, v: v.parts[i]! }))
    }]
  })
}

/** Groups of 4 elements that one invocation of the update walks. */
const ELEMENTS = 8

/** Lanes that sum a loss or a gradient: fixed, so that the order of sums is. */
const LANES = 64

/** On a GPU, as many lanes as a large gradient needs, whose sums are then folded to LANES. */
const lanesFor = (n4: number, target: Target | undefined): number =>
  target !== undefined && isGpu(target) ? Math.min(2 ** 17, Math.max(LANES, Math.ceil(n4 / 64 / LANES) * LANES)) : LANES

const chunks = <A>(list: ReadonlyArray<A>, size: number): ReadonlyArray<ReadonlyArray<A>> =>
  Array.from({ length: Math.ceil(list.length / size) }, (_, i) => list.slice(i * size, (i + 1) * size))

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

/** Which rows of a weight belong to units of sinks, and the units that a step's batches touched. */
export interface Touched {
  readonly units: Tensor.Tensor
  readonly count: Tensor.Tensor
  /** Groups of 4 elements a row, rows of the pool, rows of a unit. */
  readonly row4: number
  readonly pool: number
  readonly block: number
}

/** A weight's gradient, whose sinks begin at row0, in halves of a pool each. */
export interface SinkRows {
  readonly g: Tensor.Tensor
  readonly row0: number
  readonly halves: number
}

/** Zeroes the rows of touched units of one to six gradients; `elements`, in groups of 4, are as many as these have. */
export const zeroTouched = (
  p: Program.Recorder,
  touched: Touched,
  of: ReadonlyArray<SinkRows>,
  elements: number
): void => {
  const { block, count, pool, row4, units } = touched
  // a kernel must not be given a tensor twice that it writes
  const at = (i: number): SinkRows => of[i] ?? { g: p.scratch("unused", [4]), row0: 0, halves: 0 }
  const [a, b, c, d, e, f] = [at(0), at(1), at(2), at(3), at(4), at(5)] as const
  p.dispatch(
    kernels.zeroTouched,
    { units, count, g0: a.g, g1: b.g, g2: c.g, g3: d.g, g4: e.g, g5: f.g },
    {
      row4,
      pool,
      block,
      row00: a.row0,
      halves0: a.halves,
      row01: b.row0,
      halves1: b.halves,
      row02: c.row0,
      halves2: c.halves,
      row03: d.row0,
      halves3: d.halves,
      row04: e.row0,
      halves4: e.halves,
      row05: f.row0,
      halves5: f.halves
    },
    Math.ceil(elements / ELEMENTS)
  )
}

/** Collects the rows of touched units of a gradient in `packed`, in the order of units, or spreads them again. */
export const movePacked = (
  p: Program.Recorder,
  to: "collect" | "spread",
  { block, count, pool, row4, units }: Touched,
  { g, halves, row0 }: SinkRows,
  packed: Tensor.Tensor,
  n4: number
): void => {
  const params = { row4, pool, block, row0, halves }
  const grid = Math.ceil(n4 / ELEMENTS)
  if (to === "collect") p.dispatch(kernels.collectTouched, { units, count, s: g, packed }, params, grid)
  else p.dispatch(kernels.spreadTouched, { units, count, summed: packed, g }, params, grid)
}

/** Adds the squares of touched units' rows of one to five gradients to `partial`, each in lanes of its own from `first` on. */
export const squaresOfTouched = (
  p: Program.Recorder,
  touched: Touched,
  of: ReadonlyArray<SinkRows & { readonly lanes: number; readonly first: number }>,
  partial: Tensor.Tensor
): void => {
  const { block, count, pool, row4, units } = touched
  const at = (i: number) => of[i] ?? { ...of[0]!, halves: 0, lanes: 0 }
  const [a, b, c, d, e] = [at(0), at(1), at(2), at(3), at(4)] as const
  p.dispatch(
    kernels.sumOfSquaresTouched,
    { units, count, s0: a.g, s1: b.g, s2: c.g, s3: d.g, s4: e.g, partial },
    {
      row4,
      pool,
      block,
      row00: a.row0,
      halves0: a.halves,
      lanes0: a.lanes,
      first0: a.first,
      row01: b.row0,
      halves1: b.halves,
      lanes1: b.lanes,
      first1: b.first,
      row02: c.row0,
      halves2: c.halves,
      lanes2: c.lanes,
      first2: c.first,
      row03: d.row0,
      halves3: d.halves,
      lanes3: d.lanes,
      first3: d.first,
      row04: e.row0,
      halves4: e.halves,
      lanes4: e.lanes,
      first4: e.first
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

/** What the passes of a step leave, wherever it is to be added up over several ranks. */
export interface Gradients {
  /** The first elements of gradients, which every step moves. */
  readonly dense: ReadonlyArray<{ readonly tensor: Tensor.Tensor; readonly elements: number }>
  /** The rows of sinks of gradients, of which touched units move; `n4` groups of 4 elements are that at most. */
  readonly sinks: ReadonlyArray<SinkRows & { readonly n4: number }>
  readonly touched: Touched
  /** Sums of the tokens' losses; behind them those of the squares of sinks' gradients, where each rank has its own sinks. */
  readonly losses: { readonly tensor: Tensor.Tensor; readonly at: number; readonly elements: number }
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
   * Tensors and what to write into them before a step: which units its batches light, once each; a slice counts from its
   * first. Only their gradients are cleared, measured and (where updates are lazy) applied.
   */
  readonly touch: (units: Uint32Array) => ReadonlyArray<readonly [Tensor.Tensor, Uint32Array]>
  readonly gradients: Gradients
  /** Zeroes gradients and sums. */
  readonly begin: Program.Program
  /** Where each rank has its own sinks: sums the squares of their gradients, for the norm of all. */
  readonly measure: Program.Program | undefined
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
  /** Of ranks that have sinks of their own each, whose gradients the others do not know: the units that are here. Default: all. */
  readonly slice?: Slice | undefined
}

export const record = (
  config: OptimizerConfig,
  model: ModelConfig,
  parameters: ReadonlyArray<Ops.Parameter>,
  hyper: Tensor.Tensor,
  window: number,
  options: OptimizerOptions = {}
): Optimizer => {
  const { lossScaling = false, slice, target } = options
  const sharded = slice !== undefined
  const groups = updatedTogether(parameters)
  const moments = groups.flatMap(({ members }) => members)
    .sort((a, b) => parameters.indexOf(a.parameter) - parameters.indexOf(b.parameter))
  const unitCount = slice === undefined ? model.sinks?.units ?? 1 : slice.to - slice.from
  const block = model.sinks?.block ?? 1
  const pool = slice === undefined ? model.pool : unitCount * block
  const maxTouched = Math.min(unitCount, options.maxTouched ?? unitCount)
  const touched = Tensor.make("touched", [unitCount], { type: "u32" })
  const units = Tensor.make("touchedUnits", [maxTouched], { type: "u32" })
  const count = Tensor.make("touchedUnitCount", [1], { type: "u32" })
  const stats = Tensor.make("stats", [6])
  const history = Tensor.make("history", [window, HISTORY])
  const scaler = Tensor.make("lossScale", [SCALER])

  const gpu = target !== undefined && isGpu(target)
  // elsewhere each has lanes of its own, in the order of parameters: the order of sums is part of the result
  const measured = gpu ? groups.map(({ as }) => as) : parameters
  /** The part of a parameter whose gradient every step moves, and the part that only touched units have. */
  const partsOf = (list: ReadonlyArray<Ops.Parameter>) =>
    list.map((parameter) => {
      const d = parameter.value.shape.at(-1)!
      const { sinkRow0 } = parameter
      if (sinkRow0 === undefined) return { parameter, elements: Tensor.size(parameter.value), sinks: undefined }
      const halves = (parameter.value.shape[0]! - sinkRow0) / pool
      return {
        parameter,
        elements: sinkRow0 * d,
        sinks: {
          g: parameter.gradient,
          row0: sinkRow0,
          halves,
          /** Groups of 4 elements, at most. */
          n4: maxTouched * block * halves * (d / 4)
        }
      }
    })
  const parts = partsOf(measured)
  const moved = partsOf(groups.map(({ as }) => as))

  const sinkLanes = parts.reduce((sum, { sinks }) => sum + (sinks === undefined ? 0 : lanesFor(sinks.n4, target)), 0)
  // what goes over for every step is short on a GPU, too
  const exchanged = !sharded ? 0 : gpu ? Math.min(LANES, sinkLanes) : sinkLanes
  const lanes = parts.flatMap(({ elements, sinks }) =>
    [elements / 4, ...(sinks === undefined ? [] : [sinks.n4])].map((n4) => lanesFor(n4, target))
  )
  const squares = lanes.reduce((a, b) => a + b, 0) - (sharded ? sinkLanes - exchanged : 0)
  const partial = Tensor.make("partial", [LANES + squares])

  const begin = Program.record("begin", target)
  for (const { elements, parameter } of moved) begin.clear(parameter.gradient, elements)
  begin.clear(partial)
  const lit: Touched = { units, count, row4: model.hiddenSize / 4, pool: Math.max(1, pool), block }
  const ofSinks = moved.flatMap(({ sinks }) => (sinks === undefined ? [] : [sinks]))
  for (const some of chunks(ofSinks, 6)) zeroTouched(begin, lit, some, Math.max(...some.map(({ n4 }) => n4)))
  if (lossScaling) begin.dispatch(kernels.scaleLoss, { scaler, hyper }, {}, 1)

  const p = Program.record("update", target)
  const ofRank = sharded && sinkLanes > 0 ? Program.record("measure sinks", target) : undefined
  /** Sums of squares of a rank's sinks, before they are folded. */
  const own = gpu && ofRank !== undefined ? ofRank.scratch("ownSquares", [sinkLanes]) : partial
  let first = LANES + exchanged
  let firstOwn = gpu ? 0 : LANES
  if (gpu) ofRank?.clear(own)
  const summed: Array<Squares> = []
  const summedTouched: Array<SinkRows & { readonly lanes: number; readonly first: number }> = []
  for (const { elements, parameter, sinks } of parts) {
    const denseLanes = lanesFor(elements / 4, target)
    summed.push({ x: parameter.gradient, n: elements / 4, lanes: denseLanes, first })
    first += denseLanes
    if (sinks === undefined) continue
    const touchedLanes = lanesFor(sinks.n4, target)
    summedTouched.push({ ...sinks, lanes: touchedLanes, first: sharded ? firstOwn : first })
    if (sharded) firstOwn += touchedLanes
    else first += touchedLanes
  }
  for (const some of chunks(summedTouched, 5)) squaresOfTouched(ofRank ?? p, lit, some, own)
  for (const some of chunks(summed, 6)) sumOfSquares(p, some, partial)
  // one invocation finishes: a GPU first lets workgroups bring its many partial sums down to a few
  const folded = gpu ? p.scratch("folded", [1 + LANES]) : partial
  const width = kernels.fold.constants["WX"]!
  if (gpu && ofRank !== undefined) {
    const params = { n: sinkLanes, lanes: exchanged, start: 0, first: LANES }
    ofRank.dispatch(kernels.fold, { x: own, partial }, params, exchanged * width)
  }
  if (gpu) {
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
    { n: Tensor.size(folded), first: gpu ? 1 : LANES, adaptive: lossScaling ? 1 : 0 },
    1
  )
  groups.forEach(({ as: parameter, m, v }, i) => {
    const { elements, sinks } = moved[i]!
    const decay = parameter.decay ? 1 : 0
    const sinkRate = config.sinkLearningRateRatio
    const state = { hyper, stats, g: parameter.gradient, w: parameter.value, m, v }
    const shape = { decay, row4: (parameter.value.shape.at(-1) ?? 4) / 4, pool: lit.pool, block, sinkRate }
    if (sinks !== undefined && config.sinks === "lazy") {
      p.dispatch(
        kernels.adamwLazy,
        { ...state, units, count },
        { ...shape, n4: elements / 4, sinkRow0: sinks.row0, halves: sinks.halves },
        Math.ceil(Math.max(elements / 4, sinks.n4) / ELEMENTS)
      )
      return
    }
    const n4 = Tensor.size(parameter.value) / 4
    p.dispatch(
      kernels.adamw,
      { ...state, touched },
      { ...shape, n4, sinks: sinks === undefined ? 0 : 1, sinkRow0: parameter.sinkRow0 ?? 0 },
      Math.ceil(n4 / ELEMENTS)
    )
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
    gradients: {
      dense: moved.map(({ elements, parameter }) => ({ tensor: parameter.gradient, elements })),
      sinks: sharded ? [] : ofSinks,
      touched: lit,
      losses: { tensor: partial, at: 0, elements: LANES + exchanged }
    },
    begin: begin.finish(),
    measure: ofRank?.finish(),
    accumulate: (loss) => {
      const q = Program.record("accumulate loss", target)
      q.dispatch(kernels.sum, { x: loss, partial }, { n: Tensor.size(loss), lanes: LANES, first: 0 }, LANES)
      return q.finish()
    },
    update: p.finish()
  }
}
