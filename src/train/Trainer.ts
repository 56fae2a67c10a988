/**
 * The Trainer: pretraining as a Stream of events. A step is plain TypeScript over prepared Programs, uninterruptible and
 * without a single new GPU object; between steps interruption is welcome and saves what was learned.
 */
import * as Cause from "effect/Cause"
import * as Chunk from "effect/Chunk"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Batch } from "../Batch.ts"
import { Checkpoints } from "../checkpoints/Checkpoints.ts"
import { Collective } from "../collective/Collective.ts"
import { wires } from "../collective/Wire.ts"
import { configuration, configured, natural, positive, upTo, withDefault } from "../Config.ts"
import type { Names } from "../data/identity/Names.ts"
import { type Cursor, DataStream, type Row } from "../data/stream/DataStream.ts"
import { attempt, type CheckpointError, type CollectiveError, DataError, type DeviceError, Diverged,
  type KernelError } from "../Errors.ts"
import { Device } from "../gpu/Device.ts"
import type * as Tensor from "../gpu/Tensor.ts"
import { upload } from "../gpu/Upload.ts"
import { named } from "../Missing.ts"
import type { TextEnds } from "../model/HuggingFace.ts"
import { Model, type ModelService } from "../model/Model.ts"
import type { PassShape } from "../model/Pass.ts"
import { NotANumber } from "../model/Soundness.ts"
import { scoreRows, type ScoreSummary, summarize } from "../scoring/Score.ts"
import * as Sink from "../Sink.ts"
import * as DataParallel from "./DataParallel.ts"
import { DiLoCoConfig, dilocoProblem, makeOuter } from "./DiLoCo.ts"
import { withDropout } from "./Dropout.ts"
import { checkTraining } from "./MemoryPlan.ts"
import * as Optimizer from "./Optimizer.ts"
import * as Resume from "./Resume.ts"
import { route, type RoutingName, routings } from "./Routing.ts"
import * as Sharding from "./Sharding.ts"
import { Evaluated, Finished, Saved, Started, Stepped, type TrainEvent } from "./TrainEvent.ts"
import { makeTrainStep, type Part, type TrainStep } from "./TrainStep.ts"

/** How long and how to train. */
export class TrainConfig extends configuration(Schema.Class<TrainConfig>("TrainConfig")({
  /** Optimizer steps. Default: one epoch of the data stream. */
  steps: Schema.optional(positive),
  /** Batches whose gradients make one step; several ranks share them out, so it is a multiple of their number. Default 1. */
  gradientAccumulation: withDefault(upTo(2 ** 16), 1),
  /** AdamW and its schedule. */
  optimizer: Schema.optionalWith(Optimizer.OptimizerConfig, { default: () => new Optimizer.OptimizerConfig() }),
  /**
   * Which parameters learn from repeated sequences (of groups, and canaries), and which from all others; general neurons
   * and sinks are those of the MLPs, the rest is attention, norms, embedding and head. `gradientMasking`: repeated ones
   * teach sinks and the rest, others general neurons and the rest; the forward pass is as ever. `sgtm` (selective gradient
   * masking): repeated ones teach sinks alone, others everything but sinks, which are off for them. A batch takes two
   * passes, and their activations twice the memory. Weight decay and momentum go on for all, as the optimizer says.
   * Default: everything learns from everything.
   */
  routing: Schema.optional(Schema.Literal(...(Object.keys(routings) as [RoutingName, ...Array<RoutingName>]))),
  /**
   * Sinks left out in training, so that the general neurons stand without them: what deletion takes is to be in the sinks, and what is
   * left to speak without. Costs nothing but the learning of what is left out. Not with a routing. Default: none are.
   */
  sinkDropout: Schema.optional(Sink.SinkDropout),
  /**
   * Whose sinks are on in training: those of `all` sequences, or of `repeated` ones alone, those whose id an epoch shows more than once,
   * so that what is seen once is learned by the general neurons, all of it. Look at other sequences with sinks off, since
   * theirs are never trained. Not with a routing, nor with identity `source`. Default: `all`.
   */
  sinksFor: Schema.optional(Schema.Literal("all", "repeated")),
  /**
   * Ranks train alone and exchange what they learned from time to time, for links that are too slow for gradients. Default:
   * they exchange the gradients of every step, which is one training however many they are.
   */
  diloco: Schema.optional(DiLoCoConfig),
  /**
   * How gradients, or with `diloco` what parameters moved by, travel between ranks. `bf16`: rounded to the nearest, in half
   * the bytes; they are added in f32, and the sum travels back in bf16, too. `int8` and `int4` (with `diloco` alone): whole multiples of a
   * scale for every 128 values, a quarter and an eighth of the bytes. All ranks get the same bits. Default: `f32`, exact.
   */
  exchange: Schema.optional(Schema.Literal(...wires)),
  /** Steps whose losses are read back together. Default 10. */
  logEvery: withDefault(upTo(2 ** 16), 10),
  /** Evaluate every n steps and at the end; 0: only when `evaluate` is called. Default 0. */
  evalEvery: withDefault(natural, 0),
  /** Sequences of a split that an evaluation during training scores at most. Default 64. */
  evalSequences: withDefault(positive, 64),
  /** Save every n steps, written while training goes on; 0: only at the end and on interruption. Default 0. */
  saveEvery: withDefault(natural, 0),
  /**
   * Also save after steps 0, 1, 2, 4, 8, ..., up to `saveEvery` where that is given (with 1000: ..., 512, 1000, 2000): a
   * curve over all of training. Default false.
   */
  saveLogSpaced: withDefault(Schema.Boolean, false),
  /** Also save after an evaluation whose held-out loss (sinks off, where there are any) is the lowest yet. Default false. */
  saveBest: withDefault(Schema.Boolean, false)
})) {}

/** What training fails with: any of the six errors. */
export type TrainError = DeviceError | KernelError | DataError | CheckpointError | Diverged | CollectiveError

/** What a model makes of a set of sequences. */
export interface SplitScore extends ScoreSummary {
  /** Mean loss of each sequence, in the order given. */
  readonly sequences: ReadonlyArray<number>
}

/**
 * Looks at the model between two steps, on rank 0; of ranks that share out sinks the Model there has its own alone, and the
 * Trainer's `model` all. It must leave parameters, gradients and the optimizer as they are: training is
 * the same with and without it, bit for bit.
 */
export interface Observer {
  /** Whether there is something to see after so many steps. */
  readonly due: (step: number) => boolean
  /**
   * Called for every step that is due, in order, 0 included, before a checkpoint of that step is written. A resumed run
   * begins with the step of its checkpoint, which was seen before; what was seen later is seen again, too.
   */
  readonly look: (step: number) => Effect.Effect<void, TrainError>
}

/** Who looks on while training goes on, and what is kept beside the weights. */
export interface TrainerOptions {
  readonly observer?: Observer
  /**
   * What begins and ends a text, as the files of the model that training starts from say it: kept in what is saved. Default:
   * as the tokenizer says.
   */
  readonly ends?: TextEnds
  /** What was deleted from the model that training starts from, and what its ids are called: kept in what is saved. */
  readonly deletions?: string | undefined
  readonly names?: Names | undefined
}

/** One training of the Model on the DataStream: run it, evaluate, save. */
export interface TrainerService {
  readonly config: TrainConfig
  /** Steps of the whole run. */
  readonly steps: number
  /** Steps taken so far. */
  readonly step: Effect.Effect<number>
  /**
   * Score sequences with the sinks in a mode; a rate of extraction is of what follows `promptTokens`, default 0. Fails with
   * a DataError where there is no sequence, one does not fit, or its loss is not a number.
   */
  readonly evaluate: (
    rows: ReadonlyArray<Row>,
    mode: Sink.SinkMode,
    options?: { readonly promptTokens?: number }
  ) => Effect.Effect<SplitScore, TrainError>
  /**
   * The model with all of its sinks: the Model itself, unless ranks share these out. Then it is another one, on rank 0, where an
   * evaluation, a checkpoint or the end of training has gathered them. It takes memory of its own until the next step, or the
   * scope of the Trainer closes.
   */
  readonly model: Effect.Effect<ModelService, TrainError>
  /** Train from where the run stands to its end. Losses come a window late, so that the loop never waits for them. */
  readonly run: Stream.Stream<TrainEvent, TrainError>
  /** Events of the last `run` that came when it had been interrupted: nobody took them from the stream. */
  readonly untold: Effect.Effect<ReadonlyArray<TrainEvent>>
  /** Of several ranks: tokens that this one has computed. */
  readonly computed: Effect.Effect<number>
  /** Save now; returns where. */
  readonly save: Effect.Effect<string, TrainError>
}

/** Rows and tokens that are scored at a time, at most. */
const EVAL_ROWS = 16
const EVAL_TOKENS = 1024

/**
 * Rows that are scored at a time: as many as are trained on at a time, which are known to fit the device. More of a batch
 * of a few tokens, of which a GPU, or the caches of a processor, make little use: scoring keeps what one layer needs where
 * training keeps it of all layers, so half as many batches as there are layers take less room than training does.
 */
export const evalRows = (
  { batchSize, seqLen }: { readonly batchSize: number; readonly seqLen: number },
  layers: number
): number => {
  const more = Math.min(Math.floor(EVAL_TOKENS / seqLen), batchSize * Math.floor(layers / 2))
  return Math.min(EVAL_ROWS, Math.max(batchSize, more))
}

/**
 * Strides that the device holds at most: one that runs, and one that it goes on with. With more, whoever interrupts,
 * evaluates or closes would wait for all of them.
 */
const MAX_RUNNING = 2

/** Milliseconds of a stride: as many steps as take no longer, but one at least. Waiting for each short step costs time. */
const STRIDE = 50

/** The ids whose sinks are on where only repeated sequences have them. */
const repeatedAlone = Effect.gen(function*() {
  const { sinks } = (yield* Model).config
  const data = yield* DataStream
  if (sinks === undefined) {
    return yield* new DataError({
      detail:
        "training.sinksFor \"repeated\" says whose sinks are on, and the model has none: set model.sinks, or leave " +
        "sinksFor out"
    })
  }
  const recurring = yield* Effect.mapError(data.recurringIds, ({ detail, path }) =>
    new DataError({
      detail: `training.sinksFor "repeated" knows repeated sequences by their ids, but ${detail}`,
      ...(path === undefined ? {} : { path })
    }))
  if (recurring.size === 0) {
    return yield* new DataError({
      detail:
        "training.sinksFor \"repeated\" lights the sinks of repeated sequences alone, and none is repeated: set " +
        "data.repeatedSequences, repeat or canaries, give data with copies and identity \"content\", or leave sinksFor out"
    })
  }
  return recurring
})

/** Compiles the passes of a routing, and gives what splits a batch between them. */
const routedParts = Effect.fnUntraced(function*(
  name: RoutingName,
  training: TrainStep,
  shape: Omit<PassShape, "output">
) {
  const { sinks } = (yield* Model).config
  const data = yield* DataStream
  if (sinks === undefined) {
    return yield* new DataError({
      detail:
        `training.routing "${name}" sends the gradients of repeated sequences to sinks, and the model has none: ` +
        "set model.sinks, or leave routing out"
    })
  }
  const repeated = yield* Effect.mapError(data.repeatedIds, ({ detail, path }) =>
    new DataError({
      detail: `training.routing "${name}" knows repeated sequences by their ids, but ${detail}`,
      ...(path === undefined ? {} : { path })
    }))
  if (repeated.size === 0) {
    return yield* new DataError({
      detail: `training.routing "${name}" tells repeated sequences from others, and none is repeated: set ` +
        "data.repeatedSequences, repeat or canaries, or leave routing out"
    })
  }
  const routing = routings[name]
  const pass = {
    repeated: yield* training.compile({ ...shape, update: routing.repeated.update }),
    others: yield* training.compile({ ...shape, update: routing.others.update })
  }
  return (batch: Batch): ReadonlyArray<Part> =>
    route(routing, sinks, repeated, batch).map(({ batch, side, units }) => ({
      pass: pass[side],
      batch,
      mode: routing[side].mode,
      units
    }))
})

/** Compiles the passes of a step, and gives the parts of it that a batch makes. */
const partsOf = (routing: RoutingName | undefined, training: TrainStep, shape: Omit<PassShape, "output">) =>
  routing === undefined
    ? Effect.map(training.compile(shape),
      (pass) => (batch: Batch): ReadonlyArray<Part> => [{ pass, batch, mode: Sink.own }])
    : routedParts(routing, training, shape)

/** The weights and moments of ranks that have sinks of their own each, with all sinks. */
interface Whole {
  readonly step: number
  /** On the host, of what has sinks, by the tensor that has this rank's. */
  readonly values: ReadonlyMap<Tensor.Tensor, Float32Array>
  /** The model with these weights, where it was asked for, and how long it lives. */
  model: ModelService | undefined
  readonly scope: Scope.CloseableScope
}

/** All of a training that changes, but for what is on the device. */
interface TrainState {
  /** Where it stands; checkpoints hold it. */
  place: Resume.Place
  lastSaved: { readonly step: number; readonly path: string } | undefined
  /** The last validation loss. */
  validation: { readonly step: number; readonly loss: number } | undefined
  /** Of ranks that have sinks of their own each: all of them, as they were behind a step, on rank 0. */
  whole: Whole | undefined
  /** Tokens that this rank has computed, of several. */
  computed: number
  /** The lowest validation loss so far; a resumed run knows those of the checkpoints that are still there. */
  best: number
  untold: Array<TrainEvent>
}

/** All that changes in one `run` of it. */
interface RunState {
  /** Strides that the device may not have finished, the oldest first: how many steps, and what tells when they were done. */
  running: Array<{ readonly steps: number; readonly done: Fiber.Fiber<number, TrainError> }>
  /** Steps of the stride that is being submitted, and of a whole one. */
  given: number
  stride: number
  /** When the last stride was found to be done. */
  doneAt: number
  /** Steps whose losses nobody has begun to read. */
  unread: number
  /** Losses that are being read. */
  reading: Fiber.Fiber<ReadonlyArray<Stepped>, TrainError> | undefined
  /** The next turn saves. */
  saving: boolean
  /** A checkpoint that is being written while training goes on. */
  writing: Fiber.Fiber<Saved, TrainError> | undefined
  /** Events of steps after one whose checkpoint is being written: they are told in order, after it. */
  held: Array<TrainEvent>
  /** Training time without evaluation and saving; a step counts when its losses have arrived. */
  seconds: number
  /** Since when it is not counted yet. */
  since: number
  /** Of several ranks: they have agreed to stop, or lost each other. */
  apart: boolean
  /** They have agreed to stop since one was interrupted: all of them are still there. */
  interrupted: boolean
  /** Of DiLoCo: what was due while ranks were on their own, and waits until they have met. */
  readonly owed: { evaluation: boolean; checkpoint: boolean }
}

/** Reads the losses of the last `count` steps of the optimizer's history. */
const readWindow = (history: Float32Array, last: number, count: number, logEvery: number) => {
  const window = Array.from({ length: count }, (_, i) => Optimizer.historyAt(history, (last - count + i) % logEvery))
  const bad = window.findIndex(({ gradNorm, loss, skipped }) =>
    !skipped && !(Number.isFinite(loss) && Number.isFinite(gradNorm))
  )
  if (bad >= 0) return { diverged: { step: last - count + bad + 1, loss: window[bad]!.loss } }
  // a skipped step has no norm, and a loss only where that did not overflow
  const losses = window.map(({ loss }) => loss).filter(Number.isFinite)
  const taken = window.findLast(({ skipped }) => !skipped)
  const { learningRate, skippedSoFar } = window.at(-1)!
  return {
    stepped: {
      ...(losses.length === 0 ? {} : { loss: losses.reduce((a, b) => a + b, 0) / losses.length }),
      ...(taken === undefined ? {} : { gradNorm: taken.gradNorm }),
      learningRate,
      ...(skippedSoFar > 0 ? { skipped: skippedSoFar } : {})
    }
  }
}

/** Compiles a training, goes on from its latest checkpoint where there is one, and gives what a run is made of. */
const prepare = (config: TrainConfig, { deletions, ends, names }: TrainerOptions) =>
  Effect.gen(function*() {
    const device = yield* Device
    const model = yield* Model
    const data = yield* DataStream
    const checkpoints = yield* Checkpoints
    const ranks = yield* Collective
    const collective = ranks.size > 1 ? ranks : undefined

    const accumulation = config.gradientAccumulation
    const steps = config.steps ?? Math.max(1, Math.floor(data.batchesPerEpoch / accumulation))
    const { sinks } = model.config
    const unfit = Optimizer.scheduleProblem(config.optimizer, steps)
    if (unfit !== undefined) return yield* new DataError({ detail: unfit })
    if (config.routing !== undefined && config.sinkDropout !== undefined) {
      const detail =
        `training.routing "${config.routing}" says itself whose sinks are on: leave training.sinkDropout out`
      return yield* new DataError({ detail })
    }
    if (config.routing !== undefined && config.sinksFor === "repeated") {
      const detail = `training.routing "${config.routing}" says itself whose sinks are on: leave training.sinksFor out`
      return yield* new DataError({ detail })
    }
    const lit = config.sinksFor === "repeated" ? yield* repeatedAlone : undefined
    const { diloco, exchange } = config
    if (diloco === undefined && (exchange === "int8" || exchange === "int4")) {
      const detail =
        `training.exchange "${exchange}" is too coarse for the gradients of single steps: take "bf16", or ` +
        "set training.diloco, whose ranks exchange what they learned in many"
      return yield* new DataError({ detail })
    }
    const untimely = diloco === undefined ? undefined : dilocoProblem(diloco, model.parameters.length)
    if (untimely !== undefined) return yield* new DataError({ detail: untimely })
    const uneven = DataParallel.unevenShare(accumulation, collective?.size ?? 1)
    if (uneven !== undefined) return yield* uneven
    // ranks of DiLoCo have the same sinks whenever they meet
    const sharded =
      collective !== undefined && config.diloco === undefined && Sharding.isSharded(sinks, collective.size)
        ? { collective, sinks }
        : undefined
    const unfitShards = sharded && Sink.unevenShards(sharded.sinks, sharded.collective.size)
    if (unfitShards !== undefined) return yield* new DataError({ detail: unfitShards })
    if ((sharded === undefined) !== (model.slice === undefined)) {
      const detail = sharded === undefined
        ? "the Model has a slice of the pool of sinks, and ranks of this training (training.diloco) have all of it: make it " +
          "without divided"
        : `model.sinks.shards is ${
          sinks!.shards
        }, and ${ranks.size} ranks share them out: make the Model with divided: true`
      return yield* new DataError({ detail })
    }
    yield* checkTraining(model.config, data, device, config, model.defaults)
    const training = yield* makeTrainStep({
      optimizer: config.optimizer,
      steps,
      window: config.logEvery,
      parameters: model.parameters,
      ...(collective === undefined || diloco !== undefined ? {} : { collective, wire: exchange }),
      // exactly so many a document; by assignments that are not exact any number
      ...(sinks?.exact === true
        ? { maxTouched: data.maxSegments * sinks.activeUnits * accumulation }
        : {})
    })
    const { optimizer } = training
    const parts = yield* partsOf(config.routing, training, {
      rows: data.batchSize,
      seqLen: data.seqLen,
      maxSegments: data.maxSegments
    })
    const outer = diloco === undefined ? undefined : makeOuter(diloco, ranks, device, optimizer, steps, exchange)
    const resumable: Resume.Resumable = {
      outer: outer?.kept,
      device,
      model,
      data,
      optimizer,
      settings: config.optimizer,
      training: Schema.encodeSync(TrainConfig)(config),
      steps,
      ends,
      deletions,
      ...(yield* Resume.contentsOf({ data, model }, names))
    }
    if (collective !== undefined) yield* DataParallel.sameRun(collective, resumable)
    const leads = collective === undefined || collective.rank === 0
    const beginning = sharded && (yield* Sharding.beginning(device, model))
    const stored = leads ? yield* Resume.restore(resumable) : undefined
    const resumed = collective === undefined
      ? stored?.resumed
      : yield* DataParallel.begin(collective, resumable, stored?.resumed)
    if (sharded !== undefined && resumed === undefined) {
      yield* Sharding.sameBeginning(sharded.collective, beginning!)
    }
    if (sharded !== undefined && resumed !== undefined) {
      // of which only rank 0 takes anything
      const saved = stored?.snapshot ?? { model: {}, optimizer: {} }
      yield* Sharding.deal(sharded.collective, device, model, Resume.savedSinks(resumable, saved, resumed.path))
    }
    if (outer !== undefined) yield* outer.begin
    const state: TrainState = {
      place: resumed ?? { step: 0, cursor: { epoch: 0, batch: 0 }, unsettled: false },
      lastSaved: resumed,
      validation: undefined,
      whole: undefined,
      computed: 0,
      best: resumed?.best ?? Infinity,
      untold: []
    }

    const diverged = (step: number, loss: number) =>
      new Diverged({
        step,
        loss,
        ...(state.lastSaved === undefined ? {} : { lastCheckpoint: state.lastSaved.path }),
        ...(model.precision === "f16" ? { precision: model.precision } : {})
      })

    /** Lets go of all sinks. */
    const forget = Effect.suspend(() => {
      const { whole } = state
      state.whole = undefined
      return whole === undefined ? Effect.void : Scope.close(whole.scope, Exit.void)
    })
    yield* Effect.addFinalizer(() => forget)

    /** Has all sinks here, where each rank has its own. All ranks do it behind the same step. */
    const gather = Effect.suspend(() => {
      const { place: { step }, whole } = state
      if (sharded === undefined || whole?.step === step) return Effect.void
      return Effect.gen(function*() {
        yield* forget
        const values = yield* Sharding.gather(sharded.collective, device, model, Sharding.heldOf(optimizer))
        state.whole = { step, values, model: undefined, scope: yield* Scope.make() }
      })
    })
    yield* gather

    /** All sinks, where ranks have their own each; undefined where all are on the device. */
    const whole = Effect.suspend((): Effect.Effect<Whole | undefined, DataError> =>
      sharded === undefined || (leads && state.whole?.step === state.place.step)
        ? Effect.succeed(state.whole)
        : Effect.fail(
          new DataError({
            detail:
              `after step ${state.place.step} the sinks of other ranks are not here (model.sinks.shards): evaluate and save on ` +
              "rank 0, by training.evalEvery and saveEvery, or at the end"
          })
        )
    )

    const wholeModel: TrainerService["model"] = Effect.gen(function*() {
      const all = yield* whole
      if (all === undefined) return model
      const { compute, recompute = false } = model.defaults
      if (all.model === undefined) {
        const made = yield* Model.make(model.config, { initialize: false, precision: model.precision, recompute,
          ...(compute === undefined ? {} : { compute }) }).pipe(
            Effect.provideService(Device, device),
            Scope.extend(all.scope)
          )
        yield* upload(device, model.parameters.map(({ value }, i) => {
          const values = all.values.get(value)
          return [made.parameters[i]!.value,
            values === undefined ? device.read(value) : Effect.succeed(values)] as const
        }))
        all.model = made
      }
      return all.model
    })

    /** Reads everything that a checkpoint holds; gives what writes it. */
    const capture = Effect.gen(function*() {
      const all = yield* whole
      const { place, validation } = state
      const { step } = place
      // a run that has diverged must not replace the last good checkpoint
      const [loss, norm, , skipped] = (yield* device.read(optimizer.stats)) as Float32Array
      const sound = skipped === 1 || (Number.isFinite(loss!) && Number.isFinite(norm!))
      if (step > 0 && !sound) return yield* diverged(step, loss!)
      const held = all === undefined ? resumable : { ...resumable, read: (tensor: Tensor.Tensor) => {
        const values = all.values.get(tensor)
        return values === undefined
          ? Effect.map(device.read(tensor), (own) => own as Float32Array)
          : Effect.succeed(values)
      } }
      const snapshot = yield* Resume.capture(held, place, validation?.step === step ? validation.loss : undefined)
      return checkpoints.save(snapshot).pipe(
        Effect.tap((path) => Effect.annotateCurrentSpan("step", step).pipe(
          Effect.zipRight(Effect.sync(() => void (state.lastSaved = { step, path })))
        )),
        Effect.map((path) => new Saved({ step, path })),
        Effect.withSpan("save")
      )
    })

    const scoreSplit: TrainerService["evaluate"] = Effect.fnUntraced(function*(rows, mode, options) {
      const whole = yield* wholeModel
      if (rows.length === 0) {
        return yield* new DataError({ detail: "there is no sequence to score: a mean of nothing is no number" })
      }
      const scores = yield* scoreRows(whole, rows, mode, {
        batchSize: Math.min(evalRows(data, model.config.numHiddenLayers), rows.length),
        seqLen: data.seqLen,
        ...options
      })
      return { ...summarize(scores)!, sequences: scores.map(({ loss, tokens }) => loss / tokens) }
    })

    const scoreSplits = Effect.gen(function*() {
      const { step } = state.place
      const losses: Record<string, number> = {}
      const modes: ReadonlyArray<readonly [string, Sink.SinkMode]> = sinks === undefined
        ? [["own", Sink.own]]
        : [["own", Sink.own], ["off", Sink.off]]
      for (const split of ["repeated", "heldOut"] as const) {
        const rows = data.split(split).slice(0, config.evalSequences)
        if (rows.length === 0) continue
        for (const [name, mode] of modes) losses[`${split}.${name}`] = (yield* scoreSplit(rows, mode)).loss
      }
      const loss = losses["heldOut.off"] ?? losses["heldOut.own"]
      state.validation = loss === undefined ? undefined : { step, loss }
      yield* Effect.annotateCurrentSpan("step", step)
      return new Evaluated({ step, losses })
    }).pipe(
      // the step before moved the weights beyond what numbers hold, which no training loss has told yet
      Effect.catchIf((error) => error._tag === "DataError" && error.cause instanceof NotANumber,
        () => Effect.suspend(() => diverged(state.place.step, NaN))),
      Effect.withSpan("evaluate")
    )

    const { names: tally } = resumable
    return { config, device, model, data, names: tally, steps, training, parts, state, diverged, capture, scoreSplit,
      scoreSplits, collective, leads, lit, outer, sharded, forget, gather, wholeModel }
  })

type Training = Effect.Effect.Success<ReturnType<typeof prepare>>

/** Trains from where the state stands to the end. What happens between two turns of it is up to whoever takes the events. */
const runOf = (
  { capture, collective, config, data, device, diverged, forget, gather, leads, lit, model, names, outer, parts,
    scoreSplits, sharded, state, steps, training }: Training,
  { observer: given }: TrainerOptions
): TrainerService["run"] =>
  Stream.unwrapScoped(Effect.gen(function*() {
    const now: RunState = {
      running: [],
      given: 0,
      stride: 1,
      doneAt: -Infinity,
      unread: 0,
      reading: undefined,
      saving: false,
      writing: undefined,
      held: [],
      seconds: 0,
      since: 0,
      apart: false,
      interrupted: false,
      owed: { evaluation: false, checkpoint: false }
    }
    state.untold = []
    const whole = yield* Effect.makeSemaphore(1)
    /** What is done whole or not at all. A race that is interrupted does not wait for it: whoever saves must. */
    const atOnce = <A>(effect: Effect.Effect<A, TrainError>) => Effect.uninterruptible(whole.withPermits(1)(effect))
    // the others compute their share, and no more
    const observer = leads ? given : undefined
    yield* Effect.addFinalizer((exit) =>
      Effect.gen(function*() {
        yield* whole.withPermits(1)(Effect.void)
        // what is saved must be of all ranks
        if (Exit.isSuccess(exit) || Exit.isInterrupted(exit)) yield* Effect.suspend(() => meet)
        // whoever is left alone saves all the same
        yield* Effect.ignore(leave(exit))
        if (now.interrupted) yield* gather
        // what is in the making is waited for by the scope
        const outcome = <A>(fiber: Fiber.Fiber<A, TrainError> | undefined) =>
          fiber === undefined ?
            Effect.succeed([]) :
            Effect.map(Fiber.poll(fiber),
              (exit) => Option.isSome(exit) && Exit.isSuccess(exit.value) ? [exit.value.value] : [])
        state.untold.push(...yield* outcome(now.writing), ...now.held, ...(yield* outcome(now.reading)).flat())
        // an interrupted or abandoned run keeps what it learned; a failed one keeps its last good checkpoint
        const { step } = state.place
        if (!(Exit.isSuccess(exit) || Exit.isInterrupted(exit)) || !leads || !met() || step === 0) return
        if (state.lastSaved?.step !== step) state.untold.push(yield* Effect.flatten(capture))
        // whoever took the events has gone: this is the only word of it
        if (Exit.isInterrupted(exit)) {
          yield* Effect.logInfo(
            `interrupted after step ${step} of ${steps}, which is saved in ${state.lastSaved!.path}`
          )
        }
      }).pipe(Effect.catchAll((error) => Effect.logError(`could not save on the way out: ${error.message}`)))
    )
    /** Of several ranks: whoever stops says so where the others ask for the next step, or breaks off what they wait for. */
    const leave = (exit: Exit.Exit<unknown, unknown>) => {
      if (collective === undefined || now.apart || state.place.step >= steps) return Effect.void
      now.apart = true
      const failed = Exit.isFailure(exit) && !Cause.isInterruptedOnly(exit.cause)
      const word = failed ? { failed: DataParallel.reasonOf(exit.cause) } : "interrupted"
      return Effect.map(DataParallel.agree(collective, word), (heard) => {
        now.interrupted = heard === "interrupted"
      })
    }
    const scope = yield* Effect.scope
    const inBackground = <A>(effect: Effect.Effect<A, TrainError>) =>
      Effect.forkIn(Effect.uninterruptible(effect), scope)
    const pulling = Effect.suspend(() => Stream.toPull(Stream.rechunk(data.batches(state.place.cursor), 1)))
    const pull = yield* pulling
    const tokensPerStep = data.batchSize * data.seqLen * config.gradientAccumulation
    const first = state.place.step
    now.since = performance.now()
    const clock = () => {
      const at = performance.now()
      now.seconds += (at - now.since) / 1000
      now.since = at
    }
    const speed = (last: number) => ((last - first) * tokensPerStep) / Math.max(1e-9, now.seconds)
    /** Runs what is no training: its time is not counted. */
    const pause = <A>(effect: Effect.Effect<A, TrainError>) =>
      Effect.tap(effect, () => Effect.sync(() => void (now.since = performance.now())))
    const due = (every: number, step = state.place.step) => every > 0 && (step % every === 0 || step === steps)

    /** Begins to read the losses of the steps since the last time, and holds those that were being read. */
    const readLosses = Effect.gen(function*() {
      const { step } = state.place
      const count = now.unread
      now.unread = 0
      const reading = Effect.flatMap(device.read(training.optimizer.history), (history) => {
        const { diverged: bad, stepped } = readWindow(history as Float32Array, step, count, config.logEvery)
        if (bad !== undefined) return diverged(bad.step, bad.loss)
        clock()
        const tokens = step * tokensPerStep
        const { seconds } = now
        return Effect.succeed([new Stepped({ step, steps, tokens, tokensPerSecond: speed(step), seconds, ...stepped })])
      })
      const before = now.reading
      now.reading = yield* inBackground(reading)
      if (before !== undefined) now.held.push(...(yield* Fiber.join(before)))
    })
    /** Waits for all losses. */
    const allLosses = Effect.gen(function*() {
      if (now.unread > 0) yield* readLosses
      if (now.reading === undefined) return
      now.held.push(...(yield* Fiber.join(now.reading)))
      now.reading = undefined
    })
    /** Waits for the checkpoint that is being written, if any: it comes before what is held. */
    const written = Effect.gen(function*() {
      if (now.writing === undefined) return
      now.held.unshift(yield* Fiber.join(now.writing))
      now.writing = undefined
    })
    /** What can be told now. */
    const told = (): Chunk.Chunk<TrainEvent> => {
      if (now.writing !== undefined) return Chunk.empty()
      const events = now.held
      now.held = []
      return Chunk.fromIterable(events)
    }

    const leavingOut = (batch: Batch, { batch: number, epoch }: Cursor): Batch =>
      (config.sinkDropout === undefined && lit === undefined) || model.config.sinks === undefined
        ? batch
        : withDropout(batch, { dropout: config.sinkDropout, lit }, { epoch, row: number * data.batchSize })

    const start = Effect.gen(function*() {
      const { step, unsettled } = state.place
      if (unsettled && step > 0) return yield* settle
      if (step < steps && observer?.due(step) === true) yield* Effect.uninterruptible(observer.look(step))
      return leads && config.saveLogSpaced && step === 0
        ? Chunk.of<TrainEvent>(yield* Effect.flatten(capture))
        : Chunk.empty<TrainEvent>()
    })

    /** Waits for the oldest stride. */
    const oldest = Effect.gen(function*() {
      const { done, steps } = now.running.shift()!
      const at = yield* Fiber.join(done)
      now.stride = Math.max(1, Math.min(config.logEvery, Math.floor(STRIDE * steps / (at - now.doneAt))))
      now.doneAt = at
    })

    /** Notes that a step has been taken, and which it was. */
    const taken = (batches: ReadonlyArray<Batch>, cursor: Resume.Place["cursor"]): number => {
      const step = state.place.step + 1
      for (const batch of batches) names?.add(batch, step)
      state.place = { step, cursor, unsettled: true }
      return step
    }

    /** Whether all ranks have the same weights: those of DiLoCo do from time to time. */
    const met = (): boolean => outer === undefined || outer.meets(state.place.step)

    /** Whether there is something to look at, or to save, after so many steps. */
    const looks = (step: number): boolean =>
      leads && (step === steps || due(config.evalEvery, step) || due(config.saveEvery, step) || logSpaced(step) ||
        observer?.due(step) === true)

    /** What of a step's batches is computed here. */
    const share = (batches: ReadonlyArray<Batch>): Sharding.Share => {
      if (sharded !== undefined) {
        return Sharding.shareOf(batches, sharded.sinks, sharded.collective, data.maxSegments / data.batchSize)
      }
      const own = collective === undefined ? batches : DataParallel.shareOf(batches, collective)
      return { batches: own, tokens: own.length * data.batchSize * data.seqLen }
    }

    /** Takes a rank's share of a step. From the first word until the sums are there no rank may leave. */
    const shareStep = (batches: ReadonlyArray<Batch>, cursor: Resume.Place["cursor"]) =>
      Effect.gen(function*() {
        let heard: Effect.Effect.Success<ReturnType<typeof DataParallel.agree>> = "on"
        if (collective !== undefined && met()) {
          heard = yield* DataParallel.agree(collective, "on", sharded !== undefined && looks(state.place.step + 1))
          if (heard !== "on" && heard !== "look") {
            now.apart = true
            now.interrupted = heard === "interrupted"
            return yield* heard === "interrupted" ? Effect.interrupt : Effect.fail(heard)
          }
        }
        const own = yield* attempt(() => share(batches))
        state.computed += own.tokens
        const mine = yield* training.fitted(own.batches.flatMap(parts))
        if (outer !== undefined) {
          yield* attempt(() => training.run(mine, state.place.step))
          yield* outer.after(taken(batches, cursor))
          return
        }
        yield* forget
        yield* attempt(() => training.run(batches.flatMap(parts), state.place.step, { mine }))
        yield* training.summed
        const step = taken(batches, cursor)
        if (heard === "look") yield* gather
        if (step % config.logEvery === 0) {
          const stats = (yield* device.read(training.optimizer.stats)) as Float32Array
          yield* DataParallel.sameBits(collective!, step, stats)
        }
      }).pipe(
        Effect.tapErrorCause((cause) =>
          Effect.sync(() => {
            if (now.apart) return
            now.apart = true
            collective?.abort(DataParallel.reasonOf(cause))
          })
        ),
        atOnce
      )

    /** The batches of the next step, and where the one behind it begins. */
    const batchesFrom = (pull: Effect.Effect.Success<typeof pulling>) =>
      Effect.gen(function*() {
        const batches: Array<Batch> = []
        let { cursor } = state.place
        for (let i = 0; i < config.gradientAccumulation; i++) {
          // the batches never end
          const [item] = yield* Effect.mapError(pull, Option.getOrThrow)
          batches.push(leavingOut(item!.batch, cursor))
          cursor = item!.cursor
        }
        return { batches, cursor }
      })

    const step = Effect.gen(function*() {
      if (now.running.length === MAX_RUNNING && now.given === 0) yield* oldest
      const { batches, cursor } = yield* batchesFrom(pull)
      if (collective === undefined && outer === undefined) {
        const fitted = yield* training.fitted(batches.flatMap(parts))
        yield* attempt(() => {
          training.run(fitted, state.place.step)
          taken(batches, cursor)
        })
      } else yield* shareStep(batches, cursor)
      now.given++
      if (now.given >= now.stride) {
        const done = yield* Effect.forkIn(Effect.map(device.idle, () => performance.now()), scope)
        now.running.push({ steps: now.given, done })
        now.given = 0
      }
      now.unread++
    })

    /** Goes on until all ranks have the same weights. */
    const meet = Effect.gen(function*() {
      if (met() || now.apart) return
      const again = yield* pulling
      while (!met() && !now.apart) {
        const { batches, cursor } = yield* batchesFrom(again)
        yield* shareStep(batches, cursor)
      }
      // in a fiber of its own: one that cannot be interrupted does not get rid of a stream
    }).pipe(Effect.scoped, Effect.interruptible, Effect.forkDaemon, Effect.flatMap(Fiber.join))

    const look = Effect.gen(function*() {
      yield* allLosses
      // interrupted halfway, a step would be saved that was never seen whole
      yield* atOnce(pause(observer!.look(state.place.step)))
    })

    const evaluate = Effect.gen(function*() {
      yield* allLosses
      now.held.push(yield* pause(scoreSplits))
    })

    /** A turn of its own, for which `saving` asks. */
    const save = Effect.gen(function*() {
      now.saving = false
      // whoever interrupts waits for it
      now.writing = yield* inBackground(yield* capture)
      if (state.place.step === steps) yield* written
      return told()
    })

    /** Whether the last step has been evaluated, as the best so far. */
    const improved = (): boolean => {
      const { best, place, validation } = state
      if (validation?.step !== place.step || !(validation.loss < best)) return false
      state.best = validation.loss
      return true
    }
    const logSpaced = (step = state.place.step) => {
      const { saveEvery, saveLogSpaced } = config
      return saveLogSpaced && Number.isInteger(Math.log2(step)) && (saveEvery === 0 || step < saveEvery)
    }

    /** All that is due after a step. */
    const settle = Effect.gen(function*() {
      const { step } = state.place
      if (now.writing !== undefined && Option.isSome(yield* Fiber.poll(now.writing))) yield* written
      if (step % config.logEvery === 0 && now.unread > 0) yield* readLosses
      if (observer?.due(step) === true) yield* look
      const { owed } = now
      owed.evaluation ||= due(config.evalEvery)
      owed.checkpoint ||= due(config.saveEvery) || step === steps || logSpaced()
      if (leads && met()) {
        if (owed.evaluation) yield* evaluate
        const best = improved()
        if (owed.checkpoint || (config.saveBest && best)) {
          yield* allLosses
          // one at a time, in order
          yield* pause(written)
          now.saving = true
        }
        owed.evaluation = owed.checkpoint = false
      }
      state.place = { ...state.place, unsettled: false }
      return told()
    })

    /**
     * A turn: one step, and whatever is due after it. A save has a turn of its own: what came before it has been taken
     * by then, so that of a process killed while it saves no saved step is left untold.
     */
    const turn = Effect.gen(function*() {
      if (now.saving) return [yield* pause(save), Option.some<void>(undefined)] as const
      if (state.place.step >= steps) {
        // whoever saves has them by then
        yield* allLosses
        // of a run that was killed after its last save, too
        const { seconds } = now
        const finished = new Finished({ step: state.place.step, seconds, tokensPerSecond: speed(state.place.step) })
        return [Chunk.append(told(), finished), Option.none<void>()] as const
      }
      yield* step
      const events = yield* settle
      // the device works on its own thread, but interruption and progress need a turn of this one
      yield* Effect.yieldNow()
      return [events, Option.some<void>(undefined)] as const
    })

    const { lastSaved, place } = state
    const started = new Started({
      step: place.step,
      steps,
      parameters: model.config.numParameters,
      activeParameters: model.config.numActiveParameters,
      tokensPerStep,
      adapter: device.name,
      ...(place.step > 0 && lastSaved?.step === place.step ? { from: lastSaved.path } : {})
    })
    return Stream.make<Array<TrainEvent>>(started).pipe(
      Stream.concat(Stream.fromIterableEffect(pause(start))),
      // Stream.interruptWhen would pull ahead of whoever takes the events
      Stream.concat(Stream.paginateChunkEffect(undefined as void, () => Effect.raceFirst(turn, device.lost)))
    )
  }))

/** A rank that cannot begin tells the others, who wait for it. */
const toldToAll = <A, R>(effect: Effect.Effect<A, TrainError, R>): Effect.Effect<A, TrainError, R> =>
  Effect.flatMap(Collective, ({ abort, size }) =>
    size === 1
      ? effect
      : Effect.tapErrorCause(effect, (cause) => Effect.sync(() => abort(DataParallel.reasonOf(cause)))))

const make = (given: TrainConfig, options: TrainerOptions = {}): Effect.Effect<
  TrainerService,
  TrainError,
  Device | Model | DataStream | Checkpoints | Scope.Scope
> =>
  Effect.gen(function*() {
    const config = yield* configured(TrainConfig, given, "Trainer.layer takes a TrainConfig")
    const training = yield* toldToAll(prepare(config, options))
    const { capture, scoreSplit, state, steps, wholeModel } = training
    return {
      config,
      steps,
      step: Effect.sync(() => state.place.step),
      evaluate: scoreSplit,
      model: wholeModel,
      run: runOf(training, options),
      untold: Effect.sync(() => state.untold),
      computed: Effect.sync(() => state.computed),
      save: Effect.map(Effect.flatten(capture), ({ path }) => path)
    }
  })

/**
 * Trains the Model on the DataStream, as a Stream of events; saves to Checkpoints, and goes on from the latest there. It
 * fails with any of the six errors; interrupted, it saves first.
 *
 * @example
 * ```ts
 * import * as NodeContext from "@effect/platform-node/NodeContext"
 * import * as Effect from "effect/Effect"
 * import * as Layer from "effect/Layer"
 * import * as Stream from "effect/Stream"
 * import { Checkpoints, DataStream, Model, ModelConfig, TrainConfig, Trainer } from "memsinks"
 * import * as NodeDevice from "memsinks/node"
 *
 * const model = new ModelConfig({
 *   vocabSize: 256, hiddenSize: 32, numHiddenLayers: 1, numAttentionHeads: 2, intermediateSize: 64
 * })
 * const data = DataStream.layerMemory([{ name: "song", text: "row, row, row your boat, gently down the stream. ".repeat(40) }], {
 *   tokenizer: "bytes", seqLen: 16, batchSize: 2, repeatedSequences: 1, repeats: 4, singleSequences: 16, heldOutSequences: 4
 * })
 * const app = Trainer.layer(new TrainConfig({ steps: 4, logEvery: 2 })).pipe(
 *   Layer.provide(Model.layer(model)),
 *   Layer.provide(data),
 *   Layer.provide(Checkpoints.layerMemory),
 *   Layer.provide(NodeDevice.layer()),
 *   Layer.provide(NodeContext.layer)
 * )
 *
 * const main = Effect.gen(function*() {
 *   const trainer = yield* Trainer
 *   yield* trainer.run.pipe(Stream.runForEach((event) => Effect.sync(() => console.log(event._tag, event.step))))
 * })
 *
 * await Effect.runPromise(Effect.provide(main, app))
 * // Started 0
 * // Stepped 2
 * // Stepped 4
 * // Saved 4
 * // Finished 4
 * ```
 */
export class Trainer extends Context.Tag("memsinks/Trainer")<Trainer, TrainerService>() {
  /** The trainer itself, for who has no need of a layer. */
  static readonly make = make
  /** A trainer of the Model on the DataStream. Goes on from the latest of Checkpoints when there is one. */
  static readonly layer = (
    config: TrainConfig = new TrainConfig(),
    options?: TrainerOptions
  ): Layer.Layer<Trainer, TrainError, Device | Model | DataStream | Checkpoints> =>
    Layer.scoped(Trainer, make(config, options))
}

named(Trainer, "Trainer", "Trainer.layer(new TrainConfig())")
