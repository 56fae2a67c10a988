/**
 * What a training run will allocate, computed from its recorded Programs with no GPU at hand; whether that fits an
 * adapter; and, where it does not, the nearest setting that does.
 */
import * as Effect from "effect/Effect"
import { Collective } from "../collective/Collective.ts"
import { keptBytes } from "../collective/Group.ts"
import type { Wire } from "../collective/Wire.ts"
import { attempt, DataError, DeviceError } from "../Errors.ts"
import { type Limits, limitTable } from "../gpu/Device.ts"
import * as Program from "../gpu/Program.ts"
import type { Target } from "../gpu/Target.ts"
import * as Tensor from "../gpu/Tensor.ts"
import type { ModelConfig } from "../model/ModelConfig.ts"
import { listParameters, parametersOf } from "../model/Parameters.ts"
import { listTensors, type PassShape, recordPass } from "../model/Pass.ts"
import * as Sink from "../Sink.ts"
import { count, limitBytes } from "../Terminal.ts"
import { type DiLoCoConfig, outerBytes } from "./DiLoCo.ts"
import { planExchange } from "./Exchange.ts"
import * as Optimizer from "./Optimizer.ts"
import { type RoutingName, routings, SIDES } from "./Routing.ts"

/** Bytes of a training run on one device. */
export interface MemoryPlan {
  readonly weights: number
  readonly gradients: number
  /** AdamW's two moments. */
  readonly optimizer: number
  /**
   * Scratch of the training pass, or of both of a routing, by its lifetime plan: activations, packed and transposed
   * weights, logits.
   */
  readonly activations: number
  /** Batches, masks, index lists, results, scalars, kernel parameters. */
  readonly other: number
  /** Of several ranks that exchange gradients: where these leave the device and come back, all of them once. */
  readonly exchange?: number
  /**
   * Of several ranks, memory of the host, which is not part of `peak`: what is sent and received, and what the outer optimizer
   * of DiLoCo keeps.
   */
  readonly host?: number
  /** All of it: the lifetime plan shares scratch, everything else lives as long as the run. */
  readonly peak: number
  /** The largest single buffer, which the adapter's limits must allow. */
  readonly largest: { readonly name: string; readonly bytes: number }
  /** Weights, inputs and scratch of the pass, the largest first. Gradients and moments are as large as weights. */
  readonly tensors: ReadonlyArray<Tensor.Tensor>
}

/** The training pass that is planned. */
export type TrainShape = Omit<PassShape, "output">

/** The training whose memory is planned. Everything has the default that training has. */
export interface PlanOptions {
  /** Default: the optimizer's defaults. */
  readonly optimizer?: Optimizer.OptimizerConfig
  /** Steps whose losses are read back together. Default 10. */
  readonly logEvery?: number
  /** Batches whose gradients make one step. Default 1. */
  readonly gradientAccumulation?: number
  /** Which gradients go where: two passes instead of one. Default: one pass for all. */
  readonly routing?: RoutingName | undefined
  /** Ranks that share out the slices of a pool in shards (`model.sinks.shards`), of which each has its own. Default 1. */
  readonly ranks?: number
  /** How gradients travel between ranks. Default `f32`. */
  readonly exchange?: Wire | undefined
  /** Of ranks that train alone between meetings: these are so many, and `ranks` is 1. */
  readonly diloco?: { readonly config: DiLoCoConfig; readonly ranks: number } | undefined
  /** What the kernels are chosen for. Default: what runs on any adapter. */
  readonly target?: Target
}

const bytesOf = (tensors: Iterable<Tensor.Tensor>): number =>
  [...new Set([...tensors].map(Tensor.home))].reduce((bytes, tensor) => bytes + Tensor.byteLength(tensor), 0)

/** Uniform parameters: each dispatch's at an offset of 256, the usual alignment. */
const parameterBytes = (program: Program.Program): number =>
  Math.max(16, program.dispatches.reduce((n, dispatch) => n + Math.ceil(dispatch.params.byteLength / 256) * 256, 0))

/**
 * The memory a Trainer of this model takes at a batch shape, on each rank, evaluation not counted. Takes milliseconds, also for
 * billions of parameters. Throws DataError for rows longer than the model's context, DeviceError Limit (`isTooLarge`) for a
 * batch so large that a kernel would need more workgroups than WebGPU allows.
 */
export const memoryPlan = (config: ModelConfig, shape: TrainShape, options: PlanOptions = {}): MemoryPlan => {
  const { diloco, exchange: wire = "f32", gradientAccumulation = 1, logEvery = 10, ranks = 1, routing, target } =
    options
  const optimizerConfig = options.optimizer ?? new Optimizer.OptimizerConfig()
  const uneven = config.sinks && Sink.unevenShards(config.sinks, ranks)
  if (uneven !== undefined) throw new DataError({ detail: uneven })
  const slice = config.sinks && Sink.sliceOf(config.sinks, { rank: 0, size: ranks })
  const handles = parametersOf(config, slice)
  const parameters = listParameters(handles)
  const hyper = Tensor.make("hyper", [16])
  const passes = (routing === undefined ? [{}] : SIDES.map((side) => ({ update: routings[routing][side].update }))).map(
    (own) => recordPass(config, handles, hyper, { ...shape, ...own, output: "train" }, target)
  )
  const optimizer = Optimizer.record(optimizerConfig, config, parameters, hyper, logEvery, {
    lossScaling: shape.precision === "f16",
    slice,
    // as the Trainer does
    ...(config.sinks?.exact === true
      ? { maxTouched: passes[0]!.maxSegments * config.sinks.activeUnits * gradientAccumulation }
      : {}),
    ...(target === undefined ? {} : { target })
  })
  const around = [
    optimizer.begin,
    ...passes.map(({ tensors }) => optimizer.accumulate(tensors.loss)),
    ...(optimizer.measure === undefined ? [] : [optimizer.measure]),
    optimizer.update
  ]
  const programs = [...passes.map(({ program }) => program), ...around]
  const scratch = around.flatMap((program) => Program.plan(program).slots)
  const plans = passes.map(({ program }) => Program.plan(program))

  const weights = bytesOf(parameters.map((p) => p.value))
  const gradients = bytesOf(parameters.map((p) => p.gradient))
  const moments = bytesOf(optimizer.moments.flatMap(({ m, v }) => [m, v]))
  const activations = plans.flatMap(({ slots }) => slots).reduce((a, b) => a + b, 0)
  const inputs = passes.flatMap(({ tensors }) => listTensors(tensors))
  const other = bytesOf([hyper, ...inputs]) + bytesOf(optimizer.tensors) - gradients - moments +
    [...programs.map(parameterBytes), ...scratch].reduce((n, bytes) => n + bytes, 0)

  const elements = parameters.map(({ value }) => Tensor.size(value))
  const exchange = ranks === 1 ? undefined : planExchange(optimizer.gradients, target)
  const exchanged = exchange === undefined
    ? 0
    : exchange.windows + bytesOf(exchange.tensors) + exchange.programs.map(parameterBytes).reduce((a, b) => a + b, 0)
  const outer = diloco && outerBytes(diloco.config, elements)
  const host = outer === undefined
    ? keptBytes(ranks, wire, exchanged / 4)
    : outer.kept + outer.moved + keptBytes(diloco!.ranks, wire, Math.max(...elements))

  const tensors = [...parameters.map((p) => p.value), ...inputs, ...plans.flatMap(({ slotOf }) => [...slotOf.keys()])]
    .sort((a, b) => Tensor.byteLength(b) - Tensor.byteLength(a))
  const largest = tensors[0]!
  return {
    weights,
    gradients,
    optimizer: moments,
    activations,
    other,
    ...(ranks === 1 ? {} : { exchange: exchanged }),
    ...(ranks === 1 && outer === undefined ? {} : { host }),
    peak: weights + gradients + moments + activations + other + exchanged,
    largest: { name: largest.name, bytes: Tensor.byteLength(largest) },
    tensors
  }
}

/** Whether `memoryPlan` refused a batch, or a model, that no kernel's grid holds; any other RangeError is a bug. */
export const isTooLarge = (error: unknown): error is DeviceError =>
  error instanceof DeviceError && error.reason === "Limit"

/** What a run must stay within, in bytes. */
export interface MemoryLimits {
  /** A single buffer: the smaller of an adapter's maxBufferSize and maxStorageBufferBindingSize. */
  readonly buffer: number
  /** All of the run's memory. WebGPU does not tell how much there is. Default: unlimited. */
  readonly memory?: number
}

/** The most that one buffer may hold on an adapter. */
export const bufferLimit = (limits: Pick<Limits, "maxBufferSize" | "maxStorageBufferBindingSize">): number =>
  Math.min(limits.maxBufferSize, limits.maxStorageBufferBindingSize)

/** The tensors of a plan that exceed a buffer: those of the first layer stand for all, named `layers.*`. */
export const tooLarge = (plan: MemoryPlan, buffer: number): ReadonlyArray<Tensor.Tensor> => {
  const found = new Map<string, Tensor.Tensor>()
  for (const tensor of plan.tensors) {
    if (Tensor.byteLength(tensor) <= buffer) break
    const named = { ...tensor, name: tensor.name.replace(/^(layers\.\d+\.)+/, "layers.*.") }
    found.set(Tensor.show(named), named)
  }
  return [...found.values()]
}

/** A setting of a run that a search may change. */
export interface Setting {
  readonly config: ModelConfig
  readonly shape: TrainShape
  /** Batches whose gradients make one step. */
  readonly gradientAccumulation: number
}

/** What `fit` found. */
export interface Fit {
  /** The setting asked for, if it fits; else the nearest that does; undefined when none does. */
  readonly nearest: Setting | undefined
  /** Whether that is what was asked for. */
  readonly asAsked: boolean
  /** One sentence for people. */
  readonly sentence: string
}

/** The largest of low, low + 1, ..., high for which `ok`, which holds up to some number and not beyond it. */
const largestOf = (low: number, high: number, ok: (i: number) => boolean): number | undefined => {
  if (low > high || !ok(low)) return undefined
  let [good, bad] = [low, high + 1]
  while (bad - good > 1) {
    const middle = Math.floor((good + bad) / 2)
    if (ok(middle)) good = middle
    else bad = middle
  }
  return good
}

const withRows = ({ config, gradientAccumulation, shape }: Setting, rows: number): Setting => ({
  config,
  shape: {
    ...shape,
    rows,
    ...(shape.maxSegments === undefined ? {} : { maxSegments: Math.ceil((shape.maxSegments * rows) / shape.rows) })
  },
  gradientAccumulation: (gradientAccumulation * shape.rows) / rows
})

const withSeqLen = (setting: Setting, seqLen: number): Setting => ({
  ...setting,
  shape: { ...setting.shape, seqLen },
  gradientAccumulation: Math.ceil((setting.gradientAccumulation * setting.shape.seqLen) / seqLen)
})

const tokensOf = ({ gradientAccumulation, shape }: Setting): number => gradientAccumulation * shape.rows * shape.seqLen

/** Bytes for people. */
export const formatBytes = (bytes: number): string =>
  bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(2)} GiB` : `${(bytes / 2 ** 20).toFixed(2)} MiB`

/** What was changed, and what it costs. */
const describe = (asked: Setting, nearest: Setting): string => {
  const changes: Array<string> = []
  const change = (name: string, was: number, is: number) => {
    if (was !== is) changes.push(`${name} ${is}`)
  }
  change("sinks.pool", asked.config.pool, nearest.config.pool)
  change("intermediateSize", asked.config.intermediateSize, nearest.config.intermediateSize)
  change("batchSize", asked.shape.rows, nearest.shape.rows)
  change("seqLen", asked.shape.seqLen, nearest.shape.seqLen)
  change("gradientAccumulation", asked.gradientAccumulation, nearest.gradientAccumulation)
  const tokens = tokensOf(nearest)
  const cost = tokens === tokensOf(asked)
    ? `${count(tokens)} tokens a step as before`
    : `${count(tokens)} tokens a step instead of ${count(tokensOf(asked))}`
  return `The nearest setting that fits: ${changes.join(", ")} (${cost}).`
}

/** Which fields of a config decide how large a tensor is. */
const fieldsOf = (tensor: Tensor.Tensor): string => {
  if (/embed|head|logits|^(start|order)$/.test(tensor.name)) return "vocabSize or hiddenSize"
  if (/qkv|attention|\.o\b/.test(tensor.name)) return "hiddenSize or numAttentionHeads"
  if (/gate|down|hidden/.test(tensor.name)) return "intermediateSize or hiddenSize"
  return "hiddenSize"
}

/**
 * The nearest setting of a run that stays within limits: first fewer rows a batch and more batches a step, so that a
 * step trains on as many tokens; then shorter rows, one at a time; and where the weights themselves are too much, the
 * largest pool of sinks that fits. Pure; records a plan for every setting it tries.
 */
export const fit = (
  config: ModelConfig,
  shape: TrainShape,
  limits: MemoryLimits,
  options: PlanOptions = {}
): Fit => {
  const asked: Setting = { config, shape, gradientAccumulation: options.gradientAccumulation ?? 1 }
  const fits = (setting: Setting): boolean => {
    try {
      const { config, gradientAccumulation, shape } = setting
      const plan = memoryPlan(config, shape, { ...options, gradientAccumulation })
      return plan.largest.bytes <= limits.buffer && plan.peak <= (limits.memory ?? Infinity)
    } catch (error) {
      // more workgroups than there may be
      if (isTooLarge(error)) return false
      throw error
    }
  }
  if (fits(asked)) return { nearest: asked, asAsked: true, sentence: "Everything fits." }

  const step = shape.seqLen > 16 ? 16 : 1
  const unit = config.poolUnit * ((config.sinks?.shards ?? 1) === 1 ? 1 : options.ranks ?? 1)
  const oneRow = (setting: Setting) => withRows(setting, 1)
  const shortest = (setting: Setting) => withSeqLen(oneRow(setting), step)

  const fewerRows = (setting: Setting): Setting | undefined => {
    const total = setting.shape.rows * setting.gradientAccumulation
    const rows = Array.from({ length: setting.shape.rows }, (_, i) => i + 1).filter((n) => total % n === 0)
    const at = largestOf(0, rows.length - 1, (i) => fits(withRows(setting, rows[i]!)))
    return at === undefined ? undefined : withRows(setting, rows[at]!)
  }
  const shorterRows = (setting: Setting): Setting | undefined => {
    const one = oneRow(setting)
    const steps = largestOf(1, Math.ceil(shape.seqLen / step) - 1, (i) => fits(withSeqLen(one, i * step)))
    return steps === undefined ? undefined : withSeqLen(one, steps * step)
  }
  const smallerPool = (probe: (setting: Setting) => Setting): Setting | undefined => {
    if (config.sinks === undefined) return undefined
    const units = largestOf(Math.ceil(config.sinks.active / unit), Math.ceil(config.pool / unit) - 1,
      (i) => fits(probe({ ...asked, config: config.withPool(i * unit) })))
    return units === undefined ? undefined : { ...asked, config: config.withPool(units * unit) }
  }

  let nearest = fewerRows(asked) ?? shorterRows(asked)
  if (nearest === undefined) {
    const pooled = smallerPool(oneRow) ?? smallerPool(shortest)
    if (pooled !== undefined) nearest = fewerRows(pooled) ?? shorterRows(pooled)
  }
  if (nearest !== undefined) return { nearest, asAsked: false, sentence: describe(asked, nearest) }

  const active = Math.ceil((config.sinks?.active ?? 0) / unit) * unit
  const smallest = shortest({ ...asked, config: config.withPool(Math.min(config.pool, active)) })
  let plan: MemoryPlan
  try {
    plan = memoryPlan(smallest.config, smallest.shape, { ...options,
      gradientAccumulation: smallest.gradientAccumulation })
  } catch (error) {
    // not the rows but the model itself is more than a kernel's grid holds
    if (!isTooLarge(error)) throw error
    const sentence =
      `Nothing fits, not even one row of ${step} tokens: ${error.detail}, so that vocabSize or hiddenSize would ` +
      "have to shrink."
    return { nearest: undefined, asAsked: false, sentence }
  }
  const least = `one row of ${step} tokens` + (config.pool === 0 ? "" : ` and a pool of ${smallest.config.pool} sinks`)
  const large = tooLarge(plan, limits.buffer)
  const sentence = large.length > 0
    ? `Nothing fits, not even ${least}: ${Tensor.show(large[0]!)} takes ${formatBytes(plan.largest.bytes)}, so that ` +
      `${[...new Set(large.map(fieldsOf))].join(" and ")} would have to shrink.`
    : `Nothing fits, not even ${least}, which takes ${formatBytes(plan.peak)}: ` +
      "numHiddenLayers or hiddenSize would have to shrink."
  return { nearest: undefined, asAsked: false, sentence }
}

/** The longest table of tensors that people want to read. */
const MAX_ROWS = 12

/** A table of the tensors above a buffer's limit, cut where it gets long. */
export const formatTooLarge = (tensors: ReadonlyArray<Tensor.Tensor>, buffer: number): string =>
  [
    limitTable(tensors.slice(0, MAX_ROWS), buffer),
    ...(tensors.length > MAX_ROWS ? [`and ${tensors.length - MAX_ROWS} more`] : [])
  ].join("\n")

/**
 * Refuses a training run that exceeds what one buffer may hold, before any of it is allocated. Fails with DeviceError
 * Limit: what is too large, the memory the run would take, and the nearest setting that fits. Fails with DataError for
 * rows longer than the model's context.
 */
export const checkFits = (
  config: ModelConfig,
  shape: TrainShape,
  device: { readonly name: string; readonly limits: Limits; readonly target: Target },
  options: Omit<PlanOptions, "target"> = {}
): Effect.Effect<void, DeviceError | DataError> =>
  Effect.suspend((): Effect.Effect<void, DeviceError | DataError> => {
    const { target } = device
    const buffer = bufferLimit(device.limits)
    const title = `a batch of ${shape.rows} rows of ${shape.seqLen} tokens does not fit ${device.name}`
    const all = { ...options, target }
    const refuse = (why: string) =>
      new DeviceError({ reason: "Limit", detail: `${why}\n${fit(config, shape, { buffer }, all).sentence}` })
    const planned = attempt(() => memoryPlan(config, shape, all), DataError, DeviceError)
    return Effect.flatMap(
      Effect.mapError(planned, (error) => isTooLarge(error) ? refuse(`${title}: ${error.detail}`) : error),
      (plan) => {
        if (plan.largest.bytes <= buffer) return Effect.void
        const table = formatTooLarge(tooLarge(plan, buffer), buffer)
        return refuse(
          `${title}, whose buffers hold ${limitBytes(buffer, formatBytes)} at most:\n${table}\n` +
            `The run would take:\n${formatMemoryPlan(plan)}`
        )
      }
    )
  })

/** How a run trains, as far as its memory depends on it; a `TrainConfig` is one. */
export interface Training {
  readonly optimizer: Optimizer.OptimizerConfig
  readonly logEvery: number
  readonly gradientAccumulation: number
  readonly routing?: RoutingName | undefined
  /** Where it is set, ranks have all sinks. */
  readonly diloco?: unknown
}

/** `checkFits` for batches of a stream and all that a training takes, the passes of its routing included. */
export const checkTraining = (
  config: ModelConfig,
  data: { readonly batchSize: number; readonly seqLen: number; readonly maxSegments: number },
  device: Parameters<typeof checkFits>[2],
  { diloco, gradientAccumulation, logEvery, optimizer, routing }: Training,
  pass: Omit<TrainShape, "rows" | "seqLen" | "maxSegments">
): Effect.Effect<void, DeviceError | DataError> => {
  const { batchSize: rows, maxSegments, seqLen } = data
  const shape = { ...pass, rows, seqLen, maxSegments }
  return Effect.flatMap(Collective,
    ({ size }) =>
      checkFits(config, shape, device, { optimizer, logEvery, gradientAccumulation, routing,
        ranks: diloco === undefined ? size : 1 }))
}

/** The plan as a table. */
export const formatMemoryPlan = (plan: MemoryPlan): string => {
  const rows: ReadonlyArray<readonly [string, number]> = [
    ["weights", plan.weights],
    ["gradients", plan.gradients],
    ["optimizer", plan.optimizer],
    ["activations", plan.activations],
    ["other", plan.other],
    ...(plan.exchange === undefined ? [] : [["exchange", plan.exchange] as const]),
    ["peak", plan.peak]
  ]
  return [
    ...rows.map(([name, bytes]) => `${name.padEnd(12)}${formatBytes(bytes).padStart(12)}`),
    `largest buffer: ${plan.largest.name}, ${formatBytes(plan.largest.bytes)}`,
    ...(plan.host === undefined ? [] : [`beside it, of the host, for the exchange: ${formatBytes(plan.host)}`])
  ].join("\n")
}
