/**
 * The Tuner: further training of the Model that is there, on batches that are handed to it one at a time. Unlearning,
 * relearning and calibration are loops over it.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { Batch } from "../Batch.ts"
import { attempt, DataError, DeviceError, Diverged, type KernelError } from "../Errors.ts"
import { Device } from "../gpu/Device.ts"
import { Model } from "../model/Model.ts"
import { gathersAll, type PassShape } from "../model/Pass.ts"
import * as Segments from "../model/Segments.ts"
import * as Sink from "../Sink.ts"
import { type Optimizer, OptimizerConfig } from "./Optimizer.ts"
import { makeTrainStep, type Part } from "./TrainStep.ts"

/** The shape of the batches, the schedule, and which weights move. */
export interface TunerOptions {
  /** Rows of a batch, and tokens of a row. */
  readonly rows: number
  readonly seqLen: number
  /** Documents a batch may hold at most. Default: one a row. */
  readonly maxSegments?: number
  /** Steps of the schedule; more may be taken, at the learning rate it ends with. */
  readonly steps: number
  readonly optimizer: OptimizerConfig
  /** Sinks that are on in the forward pass. Default `own`. In mode `off` no sink moves, not even by decay. */
  readonly mode?: Sink.SinkMode
  /** What the loss is taken of, see PassShape. Default `crossEntropy`. */
  readonly head?: NonNullable<PassShape["head"]>
  /**
   * Whose gradients are computed. Sinks that are left out do not move at all; general neurons and the rest still decay,
   * unless the optimizer's `weightDecay` is 0 or `trainable` leaves them out. Default: all.
   */
  readonly update?: NonNullable<PassShape["update"]>
  /**
   * Units of the pool that move; lazily, whatever the optimizer says, so that no other does. Default: all that the batch lights.
   */
  readonly units?: ReadonlySet<number>
  /** Steps of the schedule that were taken before. Default 0. */
  readonly from?: number
  /**
   * Which parameters are trained, by their names in the Model (`layers.0.down`); the others do not move, and do not
   * count in the gradient's norm. Default: all.
   */
  readonly trainable?: (parameterName: string) => boolean
}

/** What a step compares a batch with, besides the batch's own targets. */
export interface TunerTargets {
  /** What each token's loss is multiplied with, of either sign, [rows * seqLen]; not for head `crossEntropy`. */
  readonly weights?: Float32Array
  /** For head `soft`: the probabilities to learn, [rows * seqLen, vocabSize]. */
  readonly soft?: Float32Array
  /** For head `{ hidden }`: the residual stream to learn, [rows * seqLen, hiddenSize]. */
  readonly hidden?: Float32Array
}

/** Trains a model further on batches that the caller gives, one step a call. */
export interface Tuner {
  /**
   * One step of AdamW on a batch. Without weights it descends the mean loss of the scored tokens; with weights their
   * sum, each times its weight, divided by nothing.
   *
   * Gives the unweighted loss of every token in nats (of head `{ hidden }`, a mean square), 0 where nothing is scored,
   * and the norm of the gradient (NaN of a step that f16 skips because a number overflowed); both from before the step. Fails with DataError for a batch of another shape or
   * targets that do not go with the head, with Diverged when loss or norm are no longer finite.
   */
  readonly step: (
    batch: Batch,
    targets?: TunerTargets
  ) => Effect.Effect<{ readonly loss: Float32Array; readonly gradNorm: number }, DeviceError | DataError | Diverged>
  /** Its moments, to be kept and to go on from. */
  readonly optimizer: Optimizer
}

/**
 * A Tuner of the Model, with moments of zero. It changes the Model's weights: keep those of before with
 * `model.exportTensors` and put them back with `model.importTensors`. Its memory is freed when the scope closes. One at
 * a time: gradients are the Model's.
 */
export const makeTuner = (
  options: TunerOptions
): Effect.Effect<Tuner, DeviceError | KernelError | DataError, Model | Device | Scope.Scope> =>
  Effect.gen(function*() {
    const device = yield* Device
    const model = yield* Model
    const { from = 0, head = "crossEntropy", maxSegments, mode = Sink.own, rows, seqLen, steps, trainable, units,
      update } = options
    const parameters = model.parameters.filter(({ name }) => trainable === undefined || trainable(name))
    if (parameters.length === 0) {
      return yield* new DataError({
        detail: "trainable leaves no parameter to train: the model's are " +
          model.parameters.map(({ name }) => name).join(", ")
      })
    }
    const frozen = mode.mode === "off" || update?.sinks === false
    const { sinks } = model.config
    const sparse = gathersAll(model.config, mode)
    // passes write gradients of all parameters; those that are not trained are never read
    yield* device.allocate(model.parameters.map(({ gradient }) => gradient))
    const training = yield* makeTrainStep({
      // lazily, a sink that is not touched stays as it is
      optimizer: frozen || units !== undefined
        ? new OptimizerConfig({ ...options.optimizer, sinks: "lazy" })
        : options.optimizer,
      steps,
      window: 1,
      parameters,
      ...(sinks?.exact === true && sparse
        ? { maxTouched: (maxSegments ?? rows) * sinks.activeUnits }
        : {})
    })
    const pass = yield* training.compile({
      rows,
      seqLen,
      head,
      ...(maxSegments === undefined ? {} : { maxSegments }),
      ...(update === undefined ? {} : { update }),
      ...(sparse ? {} : { compute: "masked" })
    })

    const n = rows * seqLen
    const { hiddenSize, vocabSize } = model.config
    const { hiddenTarget, loss, soft, weights } = pass.tensors
    const ones = new Float32Array(n).fill(1)
    const headName = typeof head === "string" ? `"${head}"` : `{ hidden: ${head.hidden} }`

    /** The values of a target that the head takes or does not, of so many columns. */
    const checked = (
      name: keyof TunerTargets,
      values: Float32Array | undefined,
      columns: number,
      head: "takes" | "needs" | "refuses"
    ): Float32Array | undefined => {
      const wrong = head === "refuses" && values !== undefined
        ? "has none"
        : head === "needs" && values === undefined
        ? `needs ${n * columns} values, got none`
        : values !== undefined && values.length !== n * columns
        ? `takes ${n * columns} values, ${columns === 1 ? "one a token" : `${columns} a token`}, got ${values.length}`
        : undefined
      if (wrong !== undefined) throw new DataError({ detail: `targets.${name}: a step with head ${headName} ${wrong}` })
      return values
    }
    /** Rows as wide as the device keeps them. */
    const padded = (values: Float32Array, columns: number, width: number): Float32Array => {
      if (columns === width) return values
      const out = new Float32Array(n * width)
      for (let t = 0; t < n; t++) out.set(values.subarray(t * columns, (t + 1) * columns), t * width)
      return out
    }
    const write = (targets: TunerTargets): void => {
      const given = {
        weights: checked("weights", targets.weights, 1, weights === undefined ? "refuses" : "takes"),
        soft: checked("soft", targets.soft, vocabSize, soft === undefined ? "refuses" : "needs"),
        hidden: checked("hidden", targets.hidden, hiddenSize, hiddenTarget === undefined ? "refuses" : "needs")
      }
      if (weights !== undefined) device.write(weights, given.weights ?? ones)
      if (soft !== undefined) device.write(soft, padded(given.soft!, vocabSize, soft.shape[1]!))
      if (hiddenTarget !== undefined) device.write(hiddenTarget, given.hidden!)
    }

    /** Units that a batch moves, where these are not all that it lights. */
    const moved = (batch: Batch): Pick<Part, "units"> =>
      frozen
        ? { units: [] }
        : units === undefined
        ? {}
        : { units: Segments.litUnits(sinks!, Segments.segmentsOf(batch), mode).filter((unit) => units.has(unit)) }
    let taken = from
    const step: Tuner["step"] = Effect.fnUntraced(function*(batch, targets = {}) {
      yield* attempt(() => {
        write(targets)
        const part = { pass, batch, mode, ...moved(batch) }
        training.run([part], taken, targets.weights === undefined ? {} : { scale: 1 })
        taken++
      }, DataError, DeviceError)
      const at = taken
      const [losses, stats] = yield* Effect.all([device.read(loss), device.read(training.optimizer.stats)])
      const [total, gradNorm, , skipped] = stats as Float32Array
      // a step that overflowed in f16 moved nothing, and the next has a smaller scale
      if (skipped !== 1 && !(Number.isFinite(total) && Number.isFinite(gradNorm))) {
        return yield* new Diverged({ step: at, loss: total! })
      }
      return { loss: losses as Float32Array, gradNorm: skipped === 1 ? NaN : gradNorm! }
    })
    return { step, optimizer: training.optimizer }
  })
