/**
 * Gates of single neurons: a number that multiplies one hidden neuron of one MLP for one sequence, and the loss as a
 * function of all of them. What localizers differentiate and search; weights stay as they are.
 */
import * as Effect from "effect/Effect"
import * as Scope from "effect/Scope"
import type { Batch } from "../Batch.ts"
import { attempt, DataError, DeviceError, type KernelError } from "../Errors.ts"
import { Device } from "../gpu/Device.ts"
import { Model } from "../model/Model.ts"
import { type CompiledPass, HYPER } from "../model/Pass.ts"
import * as Segments from "../model/Segments.ts"
import type { SinkMode } from "../Sink.ts"
import { checkLosses } from "./Sound.ts"

export type NeuronGatesError = DeviceError | KernelError | DataError

/**
 * The model as a function of its neurons' gates. Gates are given as one array a layer, [rows, width]: general neurons,
 * then the pool. Undefined: all 1, the model as it is. Losses are nats, 0 where nothing is scored.
 */
export interface NeuronGates {
  readonly layers: number
  /** Hidden neurons of an MLP: general and pool. */
  readonly width: number
  /** Negative log-likelihood of every token, [rows * seqLen]. */
  readonly loss: (batch: Batch, gates?: ReadonlyArray<Float32Array>) => Effect.Effect<Float32Array, NeuronGatesError>
  /**
   * The same, unweighted, and the gradient of sum_t weights[t] * loss[t] by every gate, per layer [rows, width].
   * `weights` has a number for every token, [rows * seqLen].
   */
  readonly gradients: (
    batch: Batch,
    weights: Float32Array,
    gates?: ReadonlyArray<Float32Array>
  ) => Effect.Effect<
    { readonly loss: Float32Array; readonly gates: ReadonlyArray<Float32Array> },
    NeuronGatesError
  >
  /** What every neuron computes for every token, before its gate and with its sink coefficient: [rows * seqLen, width]. */
  readonly activations: (
    batch: Batch,
    gates?: ReadonlyArray<Float32Array>
  ) => Effect.Effect<ReadonlyArray<Float32Array>, NeuronGatesError>
}

/** The batches that gates are for. */
export interface NeuronGatesShape {
  readonly rows: number
  readonly seqLen: number
  /** Sinks that are on besides: their coefficients multiply, too. */
  readonly mode: SinkMode
}

/** Throws a DataError unless an array has as many numbers as it must. */
const checkLength = (what: string, values: ArrayLike<number>, length: number): void => {
  if (values.length !== length) {
    throw new DataError({ detail: `${what}: expected ${length} numbers, got ${values.length}` })
  }
}

/**
 * The Model's gates for batches of `rows` sequences, one a row (`batchOf`); passes are compiled on first use and live
 * until the scope closes. Always f32 and masked. Its effects fail with a DataError for batches, weights or gates of
 * another shape and for rows of several documents or ids.
 */
export const neuronGates = (
  shape: NeuronGatesShape
): Effect.Effect<NeuronGates, NeuronGatesError, Model | Device | Scope.Scope> =>
  Effect.gen(function*() {
    const device = yield* Device
    const model = yield* Model
    const scope = yield* Effect.scope
    const { mode, rows, seqLen } = shape
    const { general, numHiddenLayers: layers, pool } = model.config
    const width = general + pool
    const pass = (output: "train" | "loss") =>
      Effect.cached(
        model.compile({
          rows,
          seqLen,
          maxSegments: rows,
          output,
          gates: true,
          compute: "masked",
          precision: "f32",
          ...(output === "train"
            ? { head: "weighted", update: { general: false, sinks: false, rest: false } } as const
            : {})
        }).pipe(Scope.extend(scope))
      )
    const forward = yield* pass("loss")
    const backward = yield* pass("train")
    const ones = new Float32Array(rows * width).fill(1)

    const submit = (
      pass: CompiledPass,
      batch: Batch,
      gates: ReadonlyArray<Float32Array> | undefined,
      weights?: Float32Array
    ) =>
      attempt(() => {
        if (weights !== undefined) checkLength("weights of tokens", weights, rows * seqLen)
        if (gates !== undefined && gates.length !== layers) {
          throw new DataError({ detail: `gates: expected an array for each of ${layers} layers, got ${gates.length}` })
        }
        gates?.forEach((values, i) => checkLength(`gates of layer ${i}, [${rows}, ${width}]`, values, rows * width))
        pass.load(batch, mode)
        const { range } = Segments.segmentsOf(batch)
        if (range.length !== 2 * rows || range.some((n, i) => n !== (i % 2 === 0 ? i / 2 * seqLen : seqLen))) {
          throw new DataError({ detail: "gates: each row of the batch must hold one sequence, of one id (batchOf)" })
        }
        pass.tensors.gates!.forEach((tensor, i) => device.write(tensor, gates?.[i] ?? ones))
        if (weights !== undefined) {
          device.write(pass.tensors.weights!, weights)
          device.write(model.hyper, Float32Array.of(1), HYPER.gradientScale)
        }
        device.submit(pass.prepared)
      }, DataError, DeviceError)
    const read = (tensor: Parameters<typeof device.read>[0]) =>
      Effect.map(device.read(tensor), (data) => data as Float32Array)

    return {
      layers,
      width,
      loss: Effect.fnUntraced(function*(batch, gates) {
        const pass = yield* forward
        yield* submit(pass, batch, gates)
        const loss = yield* read(pass.tensors.loss)
        yield* checkLosses(device, model, batch, loss)
        return loss
      }),
      gradients: Effect.fnUntraced(function*(batch, weights, gates) {
        const pass = yield* backward
        yield* submit(pass, batch, gates, weights)
        const [loss, of] = yield* Effect.all([
          read(pass.tensors.loss),
          Effect.forEach(pass.tensors.gateGradients!, read, { concurrency: "unbounded" })
        ], { concurrency: "unbounded" })
        yield* checkLosses(device, model, batch, loss)
        return { loss, gates: of }
      }),
      activations: Effect.fnUntraced(function*(batch, gates) {
        const pass = yield* forward
        yield* submit(pass, batch, gates)
        return yield* Effect.forEach(pass.tensors.hidden!, read, { concurrency: "unbounded" })
      })
    } satisfies NeuronGates
  })
