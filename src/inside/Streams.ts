/**
 * The residual stream: read behind every block, and given instead of what the model computes (activation patching). A
 * source's streams are read under its own Model and patched under another, so that the two are never on the device at
 * once.
 */
import * as Effect from "effect/Effect"
import * as Scope from "effect/Scope"
import { batchOf, type Row } from "../data/stream/Packing.ts"
import { chunked, misfit } from "../data/stream/Rows.ts"
import { attempt, DataError, DeviceError, type KernelError } from "../Errors.ts"
import { Device } from "../gpu/Device.ts"
import { Model } from "../model/Model.ts"
import { type CompiledPass, gathersAll } from "../model/Pass.ts"
import type { SinkMode } from "../Sink.ts"
import { checkLosses } from "./Sound.ts"

export type StreamsError = DeviceError | KernelError | DataError

/** The residual stream of a sequence behind the embedding, then behind each block: [layers + 1] of [seqLen, hiddenSize]. */
export type Streams = ReadonlyArray<Float32Array>

/** The shape of a pass whose hidden states are read or replaced. */
export interface StreamsOptions {
  /** Sequences of a pass. */
  readonly batchSize: number
  /** Tokens of a row; sequences have at most one more. */
  readonly seqLen: number
  /** State of the sinks. */
  readonly mode: SinkMode
}

const shapeOf = (model: Model["Type"], { batchSize, mode, seqLen }: StreamsOptions) => ({
  rows: batchSize,
  seqLen,
  output: "loss" as const,
  precision: "f32" as const,
  ...(gathersAll(model.config, mode) ? {} : { compute: "masked" as const })
})

const checked = (rows: ReadonlyArray<Row>, seqLen: number): Effect.Effect<void, DataError> => {
  const wrong = misfit(rows, seqLen)
  return wrong === undefined ? Effect.void : Effect.fail(new DataError({ detail: wrong }))
}

/** Loads rows into a pass and runs it; the batch that they make. */
const submit = (device: Device["Type"], pass: CompiledPass, rows: ReadonlyArray<Row>, mode: SinkMode) =>
  attempt(() => {
    const batch = batchOf(rows, pass.shape.seqLen)
    pass.load(batch, mode)
    device.submit(pass.prepared)
    return batch
  }, DataError, DeviceError)

/** The streams of each sequence under the Model, in f32; those of places behind a sequence's end mean nothing. */
export const residualStreams = (
  rows: ReadonlyArray<Row>,
  options: StreamsOptions
): Effect.Effect<ReadonlyArray<Streams>, StreamsError, Model | Device> =>
  Effect.gen(function*() {
    const { batchSize, mode, seqLen } = options
    yield* checked(rows, seqLen)
    const device = yield* Device
    const model = yield* Model
    const pass = yield* model.compile({ ...shapeOf(model, options), residual: true })
    const width = seqLen * model.config.hiddenSize
    const all: Array<Streams> = []
    for (const { chunk, full } of chunked(rows, batchSize)) {
      const batch = yield* submit(device, pass, full, mode)
      yield* checkLosses(device, model, batch, (yield* device.read(pass.tensors.loss)) as Float32Array)
      // behind the embedding, then behind the MLP of each block
      const behind = pass.tensors.residual!.filter((_, i) => i % 2 === 0)
      const read = yield* Effect.forEach(behind, (tensor) => Effect.map(device.read(tensor), (x) => x as Float32Array))
      chunk.forEach((_, r) => all.push(read.map((stream) => stream.slice(r * width, (r + 1) * width))))
    }
    return all
  }).pipe(Effect.scoped)

/** Computes losses with hidden states of another model in place of the model's own. */
export interface Patcher {
  /**
   * Losses of every token of each sequence, in nats [seqLen], 0 where nothing is scored, when the stream behind so many
   * blocks (0: behind the embedding) is the one given, [seqLen, hiddenSize] a sequence.
   */
  readonly losses: (
    rows: ReadonlyArray<Row>,
    blocks: number,
    streams: ReadonlyArray<Float32Array>
  ) => Effect.Effect<ReadonlyArray<Float32Array>, StreamsError>
}

/** Runs the Model's upper blocks on streams that are given, in f32. Its memory is freed when the scope closes. */
export const makePatcher = (options: StreamsOptions): Effect.Effect<Patcher, never, Model | Device | Scope.Scope> =>
  Effect.gen(function*() {
    const { batchSize, mode, seqLen } = options
    const device = yield* Device
    const model = yield* Model
    const scope = yield* Effect.scope
    const passes = new Map<number, CompiledPass>()
    const compiled = (skip: number) =>
      Effect.gen(function*() {
        const pass = passes.get(skip) ??
          (yield* Scope.extend(model.compile({ ...shapeOf(model, options), skip }), scope))
        passes.set(skip, pass)
        return pass
      })
    return {
      losses: Effect.fnUntraced(function*(rows, blocks, streams) {
        yield* checked(rows, seqLen)
        const width = seqLen * model.config.hiddenSize
        const wrong = streams.find((stream) => stream.length !== width)
        if (wrong !== undefined || streams.length !== rows.length) {
          return yield* new DataError({
            detail: `to patch the residual stream of ${rows.length} sequences in rows of ${seqLen} tokens, expected ` +
              `${rows.length} streams of ${width} numbers (hiddenSize ${model.config.hiddenSize}), got ` +
              `${streams.length}${
                wrong === undefined ? "" : `, one of them of ${wrong.length}`
              }: a stream can only be ` +
              "patched into a model of the same width"
          })
        }
        const pass = yield* compiled(blocks)
        const all: Array<Float32Array> = []
        for (const { chunk, first, full } of chunked(rows, batchSize)) {
          const entry = new Float32Array(batchSize * width)
          full.forEach((_, r) => entry.set(streams[first + (r < chunk.length ? r : 0)]!, r * width))
          yield* attempt(() => device.write(pass.tensors.entry!, entry), DeviceError)
          const batch = yield* submit(device, pass, full, mode)
          const losses = (yield* device.read(pass.tensors.loss)) as Float32Array
          yield* checkLosses(device, model, batch, losses)
          chunk.forEach((_, r) => all.push(losses.slice(r * seqLen, (r + 1) * seqLen)))
        }
        return all
      })
    }
  })
