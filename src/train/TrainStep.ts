/**
 * One optimizer step on the device: what the Trainer and the Tuner have in common. Plain TypeScript over prepared
 * Programs, synchronous and without a single new GPU object.
 */
import * as Effect from "effect/Effect"
import * as Scope from "effect/Scope"
import { type Batch, IGNORE } from "../Batch.ts"
import type { CollectiveService, Wire } from "../collective/Collective.ts"
import { attempt, type CollectiveError, type DataError, DeviceError, type KernelError } from "../Errors.ts"
import { Device, type Prepared } from "../gpu/Device.ts"
import * as Tensor from "../gpu/Tensor.ts"
import { Model } from "../model/Model.ts"
import type * as Ops from "../model/Ops.ts"
import { type CompiledPass, gathers, HYPER, type PassShape } from "../model/Pass.ts"
import * as Segments from "../model/Segments.ts"
import * as Sink from "../Sink.ts"
import { type Exchange, makeExchange } from "./Exchange.ts"
import * as Optimizer from "./Optimizer.ts"

/** A training pass, and what adds the losses of its tokens to the step's. */
export interface StepPass extends CompiledPass {
  readonly accumulate: Prepared
}

/** A batch of a step, the pass that takes its gradient, and the sinks that are on in it. */
export interface Part {
  readonly pass: StepPass
  readonly batch: Batch
  readonly mode: Sink.SinkMode
  /** Units of the pool that get a gradient. Default: those that are on. */
  readonly units?: Iterable<number>
}

export interface TrainStep {
  readonly optimizer: Optimizer.Optimizer
  /** Compile a training pass for the step; it lives until the scope closes. */
  readonly compile: (
    shape: Omit<PassShape, "output">
  ) => Effect.Effect<StepPass, DeviceError | KernelError | DataError, Scope.Scope>
  /**
   * The parts with passes that can compute them: the whole pool, masked, takes the place of a gathered pass where an id
   * lights more sinks than that has room for (never by a permutation). It is compiled once, when it is first needed.
   */
  readonly fitted: (
    parts: ReadonlyArray<Part>
  ) => Effect.Effect<ReadonlyArray<Part>, DeviceError | KernelError | DataError>
  /**
   * Submits a whole step, counted from 0: the gradients of its parts are added up, then the optimizer moves once. The
   * sum of the tokens' losses is multiplied with `scale`; by default it becomes the mean over all scored tokens. Throws
   * DataError for a batch that does not fit its pass, and what the device throws.
   *
   * Of several ranks each computes the parts that are `mine`, one at least, and the optimizer moves when `summed` is done.
   */
  readonly run: (parts: ReadonlyArray<Part>, step: number, options?: {
    readonly scale?: number
    readonly mine?: ReadonlyArray<Part>
  }) => void
  /** Waits until the gradients of all ranks are added up, and moves the optimizer; nothing where there is but one. */
  readonly summed: Effect.Effect<void, CollectiveError | DeviceError>
}

export interface TrainStepOptions {
  readonly optimizer: Optimizer.OptimizerConfig
  /** Steps of the schedule. */
  readonly steps: number
  /** Steps whose losses `optimizer.history` holds. */
  readonly window: number
  /** What is trained. */
  readonly parameters: ReadonlyArray<Ops.Parameter>
  /** Most units of sinks that a step lights. Default: all of them. */
  readonly maxTouched?: number
  /** The ranks that train together. Default: one. */
  readonly collective?: CollectiveService
  /** How gradients travel between them. Default f32. */
  readonly wire?: Wire | undefined
}

/** AdamW with moments of zero on the Model's parameters. Its memory is freed when the scope closes. */
export const makeTrainStep = (
  options: TrainStepOptions
): Effect.Effect<TrainStep, DeviceError | KernelError, Device | Model | Scope.Scope> =>
  Effect.gen(function*() {
    const device = yield* Device
    const model = yield* Model
    const { maxTouched, optimizer: config, parameters, steps, window } = options
    const { config: { sinks }, slice } = model
    const optimizer = Optimizer.record(config, model.config, parameters, model.hyper, window, {
      target: device.target,
      lossScaling: model.precision === "f16",
      slice,
      ...(maxTouched === undefined ? {} : { maxTouched })
    })
    yield* device.allocate(optimizer.tensors)
    for (const [tensor, data] of optimizer.initial) device.write(tensor, data)
    const [begin, update] = yield* Effect.all([device.prepare(optimizer.begin), device.prepare(optimizer.update)])

    const measure = optimizer.measure === undefined ? [] : [yield* device.prepare(optimizer.measure)]
    const { from } = slice ?? { from: 0 }
    const isOwn = (unit: number): boolean => slice === undefined || (unit >= slice.from && unit < slice.to)

    const scope = yield* Effect.scope
    const { collective } = options
    let exchange: Exchange | undefined
    const compile: TrainStep["compile"] = Effect.fnUntraced(function*(shape) {
      const pass = yield* model.compile({ ...shape, output: "train" })
      if (collective !== undefined && collective.size > 1 && exchange === undefined) {
        exchange = yield* makeExchange(collective, optimizer, pass.program, options.wire).pipe(
          Scope.extend(scope),
          Effect.provideService(Device, device)
        )
      }
      return { ...pass, accumulate: yield* device.prepare(optimizer.accumulate(pass.tensors.loss)) }
    })

    const masked = new Map<StepPass, StepPass>()
    const fitted: TrainStep["fitted"] = (parts) => {
      const fits = ({ batch, mode, pass }: Part) => !pass.gathered || gathers(model.config, batch, mode)
      return parts.every(fits) ? Effect.succeed(parts) : Effect.forEach(parts, (part) =>
        Effect.gen(function*() {
          if (fits(part)) return part
          const pass = masked.get(part.pass) ??
            (yield* Scope.extend(compile({ ...part.pass.shape, compute: "masked" }), scope))
          masked.set(part.pass, pass)
          return { ...part, pass }
        }))
    }

    const { beta1, beta2, eps, gradClip, weightDecay } = config
    const hyper = new Float32Array(Tensor.size(model.hyper))
    const run: TrainStep["run"] = (parts, step, { mine = parts, scale } = {}) => {
      let scored = 0
      for (const { batch } of parts) for (const target of batch.targets) if (target !== IGNORE) scored++
      hyper[HYPER.learningRate] = Optimizer.learningRateAt(config, step, steps)
      hyper[HYPER.beta1] = beta1
      hyper[HYPER.beta2] = beta2
      hyper[HYPER.eps] = eps
      hyper[HYPER.weightDecay] = weightDecay
      hyper[HYPER.correction1] = 1 / (1 - beta1 ** (step + 1))
      hyper[HYPER.correction2] = 1 / (1 - beta2 ** (step + 1))
      hyper[HYPER.gradClip] = gradClip
      hyper[HYPER.lossScale] = scale ?? 1 / Math.max(1, scored)
      hyper[HYPER.gradientScale] = hyper[HYPER.lossScale]!
      hyper[HYPER.slot] = step % window
      device.write(model.hyper, hyper)
      // what the step touches must be known before its first batch runs; a single batch's load knows it anyway
      let touched = 0
      const lit = (units: Iterable<number>) => {
        const sorted = Uint32Array.from(units).filter(isOwn).map((unit) => unit - from).sort()
        touched = sorted.length
        for (const [tensor, data] of optimizer.touch(sorted)) device.write(tensor, data)
      }
      const loadKnows = mine === parts && parts.length === 1 && parts[0]!.units === undefined &&
        parts[0]!.mode === Sink.own
      if (!loadKnows && sinks !== undefined) {
        const ofPart = ({ batch, mode, units }: Part) =>
          units ?? Segments.litUnits(sinks, Segments.segmentsOf(batch), mode)
        lit(new Set(parts.flatMap((part) => [...ofPart(part)])))
      }
      mine.forEach(({ batch, mode, pass }, i) => {
        const { units } = pass.load(batch, mode)
        if (loadKnows) lit(units)
        const first = i === 0 ? [begin] : []
        if (i < mine.length - 1) device.submit(...first, pass.prepared, pass.accumulate)
        else if (exchange === undefined) device.submit(...first, pass.prepared, pass.accumulate, update)
        else exchange.leave(first, pass.prepared, [pass.accumulate, ...measure], touched)
      })
    }
    const summed = Effect.suspend(() =>
      exchange === undefined
        ? Effect.void
        : Effect.zipRight(exchange.back, attempt(() => device.submit(update), DeviceError))
    )
    return { optimizer, compile, fitted, run, summed }
  })
