/**
 * The Model: the parameters of a Llama-style decoder with sinks on one Device. The service gives its passes memory, feeds
 * them batches and reads what they computed.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import { type Batch, IGNORE } from "../Batch.ts"
import { Collective } from "../collective/Collective.ts"
import { configured, expectOptions, seed } from "../Config.ts"
import { attempt, CheckpointError, DataError, DeviceError, type KernelError } from "../Errors.ts"
import { Device } from "../gpu/Device.ts"
import { isGpu } from "../gpu/Target.ts"
import * as Tensor from "../gpu/Tensor.ts"
import { upload } from "../gpu/Upload.ts"
import { firstNotFinite, type HostTensor } from "../HostTensor.ts"
import type { Sampling, TokenRecords } from "../measures/TokenRecords.ts"
import { named } from "../Missing.ts"
import * as Sink from "../Sink.ts"
import { requireHalf } from "./HalfCheck.ts"
import { fromHuggingFace, toHuggingFace } from "./HuggingFace.ts"
import { ModelConfig, presets } from "./ModelConfig.ts"
import * as Ops from "./Ops.ts"
import { cut, initialize, largestPool, listParameters, type Parameters, parametersOf } from "./Parameters.ts"
import { type CompiledPass, gathers, listTensors, loadBatch, type PassShape, type Precision, recordPass,
  ropeTable } from "./Pass.ts"
import * as Segments from "./Segments.ts"
import { damagedWeight, NotANumber, overflowAdvice } from "./Soundness.ts"

/** Per-token results, flattened like the batch. */
export interface Scores {
  /** Negative log-likelihood in nats, f32 [tokens]; 0 where nothing is scored. */
  readonly loss: Float32Array
  /** How many tokens the model finds likelier than the true one; 0: greedy decoding says it. u32 [tokens]. */
  readonly rank: Uint32Array
}

/** Token records of a batch's scored tokens in the batch's order, without the sequences they belong to. */
export type RecordColumns = Omit<TokenRecords, "sequences" | "start" | "first">

type ModelError = DeviceError | KernelError | DataError

/** The parameters of one model on one Device, and its passes. A Trainer changes the parameters; evaluations never do. */
export interface ModelService {
  readonly config: ModelConfig
  /** The units of the pool that are here, where ranks share them out; undefined: all. `config` is that of the whole model. */
  readonly slice: Sink.Slice | undefined
  readonly parameters: ReadonlyArray<Ops.Parameter>
  /** The same by their places in the model. */
  readonly handles: Parameters
  /** The step's scalars, places as in HYPER. */
  readonly hyper: Tensor.Tensor
  readonly precision: Precision
  /** What every pass is recorded with, unless its shape says otherwise. */
  readonly defaults: Pick<PassShape, "precision" | "recompute" | "compute" | "logitsBytes">
  /**
   * Record, allocate and compile a pass; it lives until the scope closes. Gradients are added to those of `parameters`, by
   * default the Model's own `handles`; the caller allocates them.
   */
  readonly compile: (
    shape: PassShape,
    parameters?: Parameters
  ) => Effect.Effect<CompiledPass, ModelError, Scope.Scope>
  /**
   * Score a batch with the sinks in a mode. Passes are compiled on first use and kept. Where a scored token's loss is
   * infinite or not a number, this, `records` and `logits` fail with a DataError that names the sequence, and the tensor
   * or the block where numbers end: such a model has no score.
   */
  readonly evaluate: (batch: Batch, mode: Sink.SinkMode) => Effect.Effect<Scores, ModelError>
  /**
   * Token records of a batch's scored tokens, in its order, with the sinks in a mode. Memory on the device does not grow
   * with the vocabulary. A DataError for a scheme it cannot record (`topK` above 40). `recordRows` does it for sequences.
   */
  readonly records: (
    batch: Batch,
    mode: Sink.SinkMode,
    schemes: ReadonlyArray<Sampling>
  ) => Effect.Effect<RecordColumns, ModelError>
  /** Logits of every token of a batch, f32 [tokens, vocabSize]. */
  readonly logits: (batch: Batch, mode: Sink.SinkMode) => Effect.Effect<Float32Array, ModelError>
  /** All parameters on the host, in Hugging Face's names and layout. Fails where ranks share out the pool. */
  readonly exportTensors: Effect.Effect<Record<string, HostTensor>, DeviceError>
  /**
   * Replace all parameters; fails with Mismatch when a name or shape differs, before anything is changed. Where ranks share
   * out the pool it takes the whole model's, and each rank its part of it.
   */
  readonly importTensors: (
    tensors: Readonly<Record<string, HostTensor>>
  ) => Effect.Effect<void, CheckpointError | DeviceError>
}

/** How a model begins, and how it computes. */
export interface ModelOptions {
  /** Seed of the initial weights. Default 0. Arms with the same seed start alike wherever their shapes agree. */
  readonly seed?: number
  /** False leaves the weights at 0, for those who import others. Default true. */
  readonly initialize?: boolean
  /** Force every pass to gather or to mask. Default: gather where possible. */
  readonly compute?: "gathered" | "masked"
  /** Of every pass; `f16` needs an adapter with `shader-f16`, and the Trainer then scales the loss. Default f32. */
  readonly precision?: Precision
  /** Of the training pass: see PassShape. Default false. */
  readonly recompute?: boolean
  /**
   * Of ranks that share out the slices of a pool in shards: have the sinks of this rank's alone, as a Trainer without `diloco`
   * asks for. The weights that several Models begin with, drawn or imported, are to be of one whole model. Without several ranks (see
   * Collective) or shards it changes nothing. Default false.
   */
  readonly divided?: boolean
}

const Options = Schema.Struct({
  seed: Schema.optional(seed),
  initialize: Schema.optional(Schema.Boolean),
  compute: Schema.optional(Schema.Literal("gathered", "masked")),
  precision: Schema.optional(Schema.Literal("f32", "f16")),
  recompute: Schema.optional(Schema.Boolean),
  divided: Schema.optional(Schema.Boolean)
})

const make = (given: ModelConfig, options: ModelOptions = {}): Effect.Effect<
  ModelService,
  DeviceError,
  Device | Scope.Scope
> =>
  Effect.gen(function*() {
    const config = yield* Effect.mapError(
      configured(ModelConfig, given,
        `Model.layer takes a ModelConfig, such as presets.tiny (there are ${Object.keys(presets).join(", ")})`).pipe(
          Effect.zipLeft(expectOptions(Options, options, "Model.layer"))
        ),
      ({ detail }) => new DeviceError({ reason: "Validation", detail })
    )
    if (config.sinks?.assignment === "disjoint" && config.sinks.owners === undefined) {
      const detail =
        `sinks.assignment is "disjoint", and sinks.owners does not say in which order ids take their sinks: ` +
        "name them, as by config.withOwners(ids)"
      return yield* new DeviceError({ reason: "Validation", detail })
    }
    const device = yield* Device
    const scope = yield* Effect.scope
    const { precision = "f32", recompute = false } = options
    if (precision === "f16") yield* requireHalf(device)
    const { maxBufferSize, maxStorageBufferBindingSize } = device.limits
    const largest = Math.min(maxBufferSize, maxStorageBufferBindingSize)
    const defaults = {
      precision,
      recompute,
      ...(options.compute === "masked" ? { compute: options.compute } : {}),
      ...(isGpu(device.target) && largest < Ops.logitsBytes(device.target) ? { logitsBytes: largest } : {})
    }
    const ranks = yield* Collective
    const { sinks } = config
    const isDivided = options.divided === true && sinks !== undefined
    const uneven = isDivided ? Sink.unevenShards(sinks, ranks.size) : undefined
    if (uneven !== undefined) return yield* new DeviceError({ reason: "Validation", detail: uneven })
    const slice = isDivided ? Sink.sliceOf(sinks, ranks) : undefined
    const handles = parametersOf(config, slice)
    const parameters = listParameters(handles)
    const hyper = Tensor.make("hyper", [16])
    yield* device.allocate([hyper, ...parameters.map((p) => p.value)]).pipe(
      Effect.mapError((error) => {
        const pool = error.reason === "Limit" && slice === undefined ? largestPool(config, device.limits) : undefined
        return pool === undefined ? error : new DeviceError({
          reason: "Limit",
          detail: `${error.detail}. Its weights fit with sinks.pool ${pool} and intermediateSize ${
            config.general + pool
          }`
        })
      })
    )
    if (options.initialize !== false) {
      yield* initialize(device, config, parameters, options.seed ?? 0, { slice })
    }

    const compile: ModelService["compile"] = Effect.fnUntraced(function*(shape, of = handles) {
      const pass = yield* attempt(
        () => recordPass(config, of, hyper, { ...defaults, ...shape }, device.target),
        DataError,
        DeviceError
      )
      const { records, rope } = pass.tensors
      yield* device.allocate(listTensors(pass.tensors))
      if (records !== undefined && shape.schemes !== undefined) {
        device.write(records.schemes, Ops.encodeSchemes(shape.schemes))
      }
      const packed = pass.tensors.gather?.packed
      if (packed !== undefined) {
        const { order, uses } = Segments.packedUnits(pass.maxSegments, packed.uses.shape[0]! * 16 / pass.maxSegments)
        device.write(packed.order, order)
        device.write(packed.uses, uses)
      }
      device.write(rope, ropeTable(shape.seqLen, config.headSize, config.ropeTheta))
      const prepared = yield* device.prepare(pass.program)
      return { ...pass, prepared, load: (batch, mode) => loadBatch(device, config, pass, batch, mode, slice) }
    })

    const cache = new Map<string, CompiledPass>()
    type Output = Pick<PassShape, "output" | "schemes">
    const compiled = (batch: Batch, mode: Sink.SinkMode, output: Output) => {
      const segments = Segments.segmentsOf(batch)
      const compute = gathers(config, batch, mode) ? undefined : "masked" as const
      let documents = segments.ids.length
      documents = documents <= batch.rows ? batch.rows : 2 ** Math.ceil(Math.log2(documents))
      const key = [batch.rows, batch.seqLen, documents, compute, JSON.stringify(output)].join()
      const hit = cache.get(key)
      if (hit !== undefined) return Effect.succeed(hit)
      return compile({
        rows: batch.rows,
        seqLen: batch.seqLen,
        maxSegments: documents,
        ...output,
        ...(compute === undefined ? {} : { compute })
      }).pipe(
        Scope.extend(scope),
        Effect.tap((pass) => Effect.sync(() => cache.set(key, pass)))
      )
    }

    const runPass = (batch: Batch, mode: Sink.SinkMode, output: Output) =>
      Effect.gen(function*() {
        const pass = yield* compiled(batch, mode, output)
        yield* attempt(() => {
          pass.load(batch, mode)
          device.submit(pass.prepared)
        }, DataError, DeviceError)
        return pass
      })

    /** The first block behind which the residual stream of a row is no number any more; undefined: none, or unknown. */
    const brokenBlock = (batch: Batch, mode: Sink.SinkMode, row: number) =>
      Effect.gen(function*() {
        const width = batch.seqLen * config.hiddenSize
        for (let hidden = 0; hidden < config.numHiddenLayers; hidden++) {
          const found = yield* Effect.scoped(Effect.gen(function*() {
            const pass = yield* compile({
              rows: batch.rows,
              seqLen: batch.seqLen,
              maxSegments: Math.max(batch.rows, Segments.segmentsOf(batch).ids.length),
              output: "loss",
              head: { hidden },
              ...(gathers(config, batch, mode) ? {} : { compute: "masked" as const })
            })
            yield* attempt(() => {
              pass.load(batch, mode)
              device.submit(pass.prepared)
            })
            const stream = (yield* device.read(pass.tensors.stream!)) as Float32Array
            return firstNotFinite(stream.subarray(row * width, (row + 1) * width)) >= 0
          }))
          if (found) return hidden
        }
        return undefined
      }).pipe(Effect.catchAll(() => Effect.succeed(undefined)))

    /** Fails where `sound` is false of a scored token, and finds out why. */
    const checkSound = Effect.fnUntraced(
      function*(batch: Batch, mode: Sink.SinkMode, sound: (token: number) => boolean) {
        const at = batch.targets.findIndex((target, t) => target !== IGNORE && !sound(t))
        if (at < 0) return
        const row = Math.floor(at / batch.seqLen)
        const name = batch.names?.[row] ?? `in row ${row} of the batch, of id ${batch.ids[at]},`
        const damaged = yield* damagedWeight(device, config, parameters, slice)
        const block = damaged === undefined ? yield* brokenBlock(batch, mode, row) : undefined
        const why = damaged ??
          overflowAdvice(precision) + (block === undefined ? "" : `. The first are those of block ${block}`)
        return yield* new DataError({
          detail: `sequence ${name} has no score: the loss of its token ${
            batch.positions[at]! + 1
          } is not a number; ${why}`,
          cause: new NotANumber()
        })
      }
    )

    const evaluate: ModelService["evaluate"] = Effect.fnUntraced(function*(batch, mode) {
      const pass = yield* runPass(batch, mode, { output: "loss" })
      const [loss, rank] = yield* Effect.all([device.read(pass.tensors.loss), device.read(pass.tensors.rank)])
      yield* checkSound(batch, mode, (t) => Number.isFinite(loss[t]))
      return { loss: loss as Float32Array, rank: rank as Uint32Array }
    })

    const records: ModelService["records"] = Effect.fnUntraced(function*(batch, mode, schemes) {
      const pass = yield* runPass(batch, mode, { output: "records", schemes })
      const [record, rank] = yield* Effect.all([
        device.read(pass.tensors.records!.record),
        device.read(pass.tensors.rank)
      ])
      yield* checkSound(batch, mode, (t) => Number.isFinite(record[t]))
      const n = batch.tokens.length
      const scored = Uint32Array.from(batch.targets.keys()).filter((t) => batch.targets[t] !== IGNORE)
      const field = (f: number): Float32Array => Float32Array.from(scored, (t) => record[f * n + t]!)
      const [logProb, mean, variance, massAbove, margin] = Ops.RECORD_FIELDS.map((_, f) => field(f)) as [
        Float32Array,
        Float32Array,
        Float32Array,
        Float32Array,
        Float32Array
      ]
      return {
        token: scored.map((t) => batch.targets[t]!),
        logProb,
        rank: scored.map((t) => rank[t]!),
        mean,
        variance,
        massAbove,
        margin,
        schemes,
        schemeLogProb: schemes.map((_, s) =>
          field(Ops.RECORD_FIELDS.length + s).map((x) => (x <= Ops.RECORD_NEVER ? -Infinity : x))
        )
      }
    })

    const logits: ModelService["logits"] = Effect.fnUntraced(function*(batch, mode) {
      const pass = yield* runPass(batch, mode, { output: "logits" })
      const data = (yield* device.read(pass.tensors.logits!)) as Float32Array
      const ld = pass.tensors.logits!.shape[1]!
      yield* checkSound(batch, mode, (t) => firstNotFinite(data.subarray(t * ld, t * ld + config.vocabSize)) < 0)
      if (ld === config.vocabSize) return data
      const out = new Float32Array(batch.tokens.length * config.vocabSize)
      for (let t = 0; t < batch.tokens.length; t++) {
        out.set(data.subarray(t * ld, t * ld + config.vocabSize), t * config.vocabSize)
      }
      return out
    })

    return {
      config,
      slice,
      parameters,
      handles,
      hyper,
      precision,
      defaults,
      compile,
      evaluate,
      records,
      logits,
      exportTensors: Effect.gen(function*() {
        if (slice !== undefined) {
          const detail =
            `units ${slice.from} to ${slice.to - 1} of the pool's ${sinks!.units} are here, as ranks share out ` +
            "model.sinks.shards: the whole model is in checkpoints, and what the Trainer calls model on rank 0"
          return yield* new DeviceError({ reason: "Validation", detail })
        }
        const out: Record<string, HostTensor> = {}
        for (const p of parameters) {
          const data = (yield* device.read(p.value)) as Float32Array
          for (const [name, tensor] of toHuggingFace(config, p.name, data)) out[name] = tensor
        }
        return out
      }),
      importTensors: (tensors) =>
        attempt(() => parameters.map((p) => cut(config, p, fromHuggingFace(config, p.name, tensors), slice)),
          CheckpointError).pipe(
            Effect.flatMap((values) => upload(device, parameters.map((p, i) => [p.value, Effect.succeed(values[i]!)]))),
            // half of the tensors are no model
            Effect.uninterruptible
          )
    }
  })

/**
 * A Llama-style decoder with sinks on one Device: its parameters, its passes, what it says of batches. It needs a Device;
 * a Trainer trains it, `openCheckpoint` gives one that was trained.
 *
 * @example
 * ```ts
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
 * import { batchOf, Model, ModelConfig, Sink, SinkConfig } from "memsinks"
 * import * as NodeDevice from "memsinks/node"
 *
 * const config = new ModelConfig({
 *   vocabSize: 16,
 *   hiddenSize: 32,
 *   numHiddenLayers: 1,
 *   numAttentionHeads: 2,
 *   intermediateSize: 64 + 128, // general neurons, and the pool
 *   sinks: new SinkConfig({ pool: 128, active: 32 })
 * })
 * const row = { tokens: Uint32Array.of(1, 2, 3, 4, 5), id: 7n, document: "five", offset: 0 }
 *
 * const main = Effect.gen(function*() {
 *   const model = yield* Model
 *   const { loss } = yield* model.evaluate(batchOf([row], 4), Sink.own) // nats, a number for each of 4 targets
 *   console.log(loss.length, loss.every((nats) => Math.abs(nats - Math.log(16)) < 1)) // it knows nothing yet
 * })
 *
 * await Effect.runPromise(main.pipe(Effect.provide(Layer.provide(Model.layer(config, { seed: 1 }), NodeDevice.layer()))))
 * // 4 true
 * ```
 */
export class Model extends Context.Tag("memsinks/Model")<Model, ModelService>() {
  /** A freshly initialised model on the Device; it lives until the scope closes. */
  static readonly make = make
  /**
   * A freshly initialised model on the Device. Fails with a DeviceError where the configuration or its memory does not
   * fit.
   */
  static readonly layer = (config: ModelConfig, options?: ModelOptions): Layer.Layer<Model, DeviceError, Device> =>
    Layer.scoped(Model, make(config, options))
}

named(Model, "Model", "Model.layer(presets.tiny), or another ModelConfig")
