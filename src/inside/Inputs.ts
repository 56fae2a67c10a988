/**
 * The model as a function of its inputs: the embeddings of tokens are given, and the loss is differentiated by them, or by
 * the one-hot vectors that choose among the rows of the embedding table. Weights stay as they are.
 */
import * as Effect from "effect/Effect"
import * as Scope from "effect/Scope"
import type { Batch } from "../Batch.ts"
import { attempt, DataError, DeviceError, type KernelError } from "../Errors.ts"
import { Device } from "../gpu/Device.ts"
import * as Program from "../gpu/Program.ts"
import * as Tensor from "../gpu/Tensor.ts"
import { Model, type Scores } from "../model/Model.ts"
import * as Ops from "../model/Ops.ts"
import { type CompiledPass, gathersAll, HYPER } from "../model/Pass.ts"
import type { SinkMode } from "../Sink.ts"
import { checkLosses } from "./Sound.ts"

export type InputsError = DeviceError | KernelError | DataError

export interface InputsOptions {
  /** Rows of a batch, and tokens of a row. */
  readonly rows: number
  readonly seqLen: number
  /** State of the sinks. */
  readonly mode: SinkMode
}

/** Losses of every token, nats, 0 where nothing is scored; and a gradient, a row of numbers a token. */
export interface InputGradient {
  readonly loss: Float32Array
  readonly gradient: Float32Array
}

/**
 * `embeddings` have a row of `hiddenSize` numbers for every token of the batch, [rows * seqLen, hiddenSize]; `weights` a
 * number for every token, which its loss is multiplied with before they are summed up. All fail with a DataError for
 * batches, embeddings or weights of another shape, and where a loss is no number. One call at a time.
 */
export interface Inputs {
  /** The rows of the embedding table, [vocabSize, hiddenSize]. */
  readonly table: Float32Array
  /** The embeddings of a batch's tokens. */
  readonly embed: (tokens: ArrayLike<number>) => Float32Array
  /** Losses and ranks with these embeddings in place of those of the batch's tokens. */
  readonly scores: (batch: Batch, embeddings: Float32Array) => Effect.Effect<Scores, InputsError>
  /** Logits of every token with these embeddings, [rows * seqLen, vocabSize]. */
  readonly logits: (batch: Batch, embeddings: Float32Array) => Effect.Effect<Float32Array, InputsError>
  /** The gradient of sum_t weights[t] * loss[t] by the embeddings, [rows * seqLen, hiddenSize]. */
  readonly gradient: (
    batch: Batch,
    embeddings: Float32Array,
    weights: Float32Array
  ) => Effect.Effect<InputGradient, InputsError>
  /**
   * The same at the embeddings of the batch's tokens, by the one-hot vectors that stand for them: [rows * seqLen, vocabSize].
   * To first order, how the sum changes where token v takes the place of w is gradient[v] - gradient[w].
   */
  readonly oneHot: (batch: Batch, weights: Float32Array) => Effect.Effect<InputGradient, InputsError>
}

/**
 * The Model as a function of the embeddings of batches of this shape, in f32. Its passes are compiled on first use and, with
 * all their memory, freed when the scope closes.
 */
export const makeInputs = (
  { mode, rows, seqLen }: InputsOptions
): Effect.Effect<Inputs, InputsError, Model | Device | Scope.Scope> =>
  Effect.gen(function*() {
    const device = yield* Device
    const model = yield* Model
    const scope = yield* Effect.scope
    const { hiddenSize, vocabSize } = model.config
    const n = rows * seqLen
    const compile = (output: "train" | "loss" | "logits") =>
      Effect.cached(Scope.extend(
        model.compile({
          rows,
          seqLen,
          output,
          skip: 0,
          precision: "f32",
          ...(gathersAll(model.config, mode) ? {} : { compute: "masked" as const }),
          ...(output === "train"
            ? { head: "weighted", update: { general: false, sinks: false, rest: false } } as const
            : {})
        }),
        scope
      ))
    const forward = yield* compile("loss")
    const backward = yield* compile("train")
    const everything = yield* compile("logits")
    const oneHots = yield* Effect.cached(Scope.extend(Effect.gen(function*() {
      const { tensors: { entryGradient } } = yield* backward
      const oneHot = Tensor.make("oneHot", [n, Math.ceil(vocabSize / 4) * 4])
      yield* device.allocate([oneHot])
      const recorder = Program.record("one-hot gradients", device.target)
      Ops.headLogits(recorder, entryGradient!, model.handles.embed, n, oneHot)
      return { oneHot, prepared: yield* device.prepare(recorder.finish()) }
    }), scope))

    const read = (tensor: Tensor.Tensor) => Effect.map(device.read(tensor), (data) => data as Float32Array)
    const table = yield* read(model.handles.embed.value)
    const embed = (tokens: ArrayLike<number>): Float32Array => {
      const all = new Float32Array(tokens.length * hiddenSize)
      for (let t = 0; t < tokens.length; t++) {
        all.set(table.subarray(tokens[t]! * hiddenSize, (tokens[t]! + 1) * hiddenSize), t * hiddenSize)
      }
      return all
    }

    const expectNumbers = (what: string, { length }: ArrayLike<number>, expected: number): void => {
      if (length !== expected) {
        throw new DataError({ detail: `${what}: expected ${expected} numbers, got ${length}` })
      }
    }
    /** Rows of `width` numbers, of which the first `vocabSize` are of tokens. */
    const ofTokens = (values: Float32Array, width: number): Float32Array => {
      if (width === vocabSize) return values
      const cut = new Float32Array(n * vocabSize)
      for (let t = 0; t < n; t++) cut.set(values.subarray(t * width, t * width + vocabSize), t * vocabSize)
      return cut
    }
    const load = (pass: CompiledPass, batch: Batch, embeddings: Float32Array): void => {
      expectNumbers(`embeddings of ${n} tokens, ${hiddenSize} each`, embeddings, n * hiddenSize)
      pass.load(batch, mode)
      device.write(pass.tensors.entry!, embeddings)
    }
    const forwards = Effect.fnUntraced(function*(pass: CompiledPass, batch: Batch, embeddings: Float32Array) {
      yield* attempt(() => {
        load(pass, batch, embeddings)
        device.submit(pass.prepared)
      }, DataError, DeviceError)
    })
    const differentiate = Effect.fnUntraced(function*(batch: Batch, embeddings: Float32Array, weights: Float32Array) {
      const pass = yield* backward
      yield* attempt(() => {
        expectNumbers(`weights of ${n} tokens`, weights, n)
        load(pass, batch, embeddings)
        device.write(pass.tensors.weights!, weights)
        device.write(model.hyper, Float32Array.of(1), HYPER.gradientScale)
        device.submit(pass.prepared)
      }, DataError, DeviceError)
      return pass
    })
    const result = Effect.fnUntraced(function*(batch: Batch, pass: CompiledPass, of: Tensor.Tensor) {
      const [loss, gradient] = yield* Effect.all([read(pass.tensors.loss), read(of)], { concurrency: "unbounded" })
      yield* checkLosses(device, model, batch, loss)
      return { loss, gradient }
    })

    return {
      table,
      embed,
      scores: Effect.fnUntraced(function*(batch, embeddings) {
        const pass = yield* forward
        yield* forwards(pass, batch, embeddings)
        const [loss, rank] = yield* Effect.all([read(pass.tensors.loss), device.read(pass.tensors.rank)], {
          concurrency: "unbounded"
        })
        yield* checkLosses(device, model, batch, loss)
        return { loss, rank: rank as Uint32Array }
      }),
      logits: Effect.fnUntraced(function*(batch, embeddings) {
        const pass = yield* everything
        yield* forwards(pass, batch, embeddings)
        const { logits } = pass.tensors
        return ofTokens(yield* read(logits!), logits!.shape[1]!)
      }),
      gradient: Effect.fnUntraced(function*(batch, embeddings, weights) {
        const pass = yield* differentiate(batch, embeddings, weights)
        return yield* result(batch, pass, pass.tensors.entryGradient!)
      }),
      oneHot: Effect.fnUntraced(function*(batch, weights) {
        const { oneHot, prepared } = yield* oneHots
        const pass = yield* differentiate(batch, embed(batch.tokens), weights)
        yield* attempt(() => device.submit(prepared), DeviceError)
        const { gradient, loss } = yield* result(batch, pass, oneHot)
        return { loss, gradient: ofTokens(gradient, oneHot.shape[1]!) }
      })
    } satisfies Inputs
  })
