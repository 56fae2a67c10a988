/**
 * The Trainer: pretraining as a Stream of events. A step is plain TypeScript over prepared Programs, uninterruptible and
 * without a single new GPU object; between steps interruption is welcome and saves what was learned.
 */
import * as Chunk from "effect/Chunk"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Batch } from "../Batch.ts"
import { Checkpoints } from "../checkpoints/Checkpoints.ts"
import { configuration, natural, positive, upTo, withDefault } from "../Config.ts"
import { type Cursor, DataStream, type Row } from "../data/stream/DataStream.ts"
import { changedInputs, notTheSameData } from "../data/stream/Inputs.ts"
import { attempt, CheckpointError, DataError, type DeviceError, Diverged, type KernelError } from "../Errors.ts"
import { Device } from "../gpu/Device.ts"
import { machineOf, sameMachine } from "../gpu/Machine.ts"
import { isObject } from "../Json.ts"
import { scoreRows, type ScoreSummary, summarize } from "../scoring/Score.ts"
import { checkTraining } from "./MemoryPlan.ts"
import { endIds, type TextEnds } from "../model/HuggingFace.ts"
import { firstNotFinite, fromHuggingFace, huggingFaceConfig, Model, type PassShape, toHuggingFace } from "../model/Model.ts"
import { encodeNames } from "../data/identity/Names.ts"
import * as Optimizer from "./Optimizer.ts"
import type { HostTensor } from "../HostTensor.ts"
import { route, type RoutingName, routings } from "./Routing.ts"
import * as Sink from "../Sink.ts"
import { Evaluated, Finished, Saved, Started, Stepped, type TrainEvent } from "./TrainEvent.ts"
import { sameTokenizer } from "../data/tokens/SameTokenizer.ts"
import { makeTrainStep, type Part, type TrainStep } from "./TrainStep.ts"

/** How long and how to train. */
export class TrainConfig extends configuration(Schema.Class<TrainConfig>("TrainConfig")({
  /** Optimizer steps. Default: one epoch of the data stream. */
  steps: Schema.optional(positive),
  /** Batches whose gradients make one step. Default 1. */
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

export type TrainError = DeviceError | KernelError | DataError | CheckpointError | Diverged

/** What a model makes of a set of sequences. */
export interface SplitScore extends ScoreSummary {
  /** Mean loss of each sequence, in the order given. */
  readonly sequences: ReadonlyArray<number>
}

/**
 * Looks at the model between two steps. It must leave parameters, gradients and the optimizer as they are: training is
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

export interface TrainerOptions {
  readonly observer?: Observer
  /**
   * What begins and ends a text, as the files of the model that training starts from say it: kept in what is saved. Default:
   * as the tokenizer says.
   */
  readonly ends?: TextEnds
}

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
  /** Train from where the run stands to its end. Losses come a window late, so that the loop never waits for them. */
  readonly run: Stream.Stream<TrainEvent, TrainError>
  /** Events of the last `run` that came when it had been interrupted: nobody took them from the stream. */
  readonly untold: Effect.Effect<ReadonlyArray<TrainEvent>>
  /** Save now; returns where. */
  readonly save: Effect.Effect<string, TrainError>
}

const EVAL_ROWS = 16

/** Fields of a saved run that a resumed one may change: what is looked at and kept, not what is learned. */
const FREE = new Set(["logEvery", "evalEvery", "evalSequences", "saveEvery", "saveLogSpaced", "saveBest"])

/**
 * Whether a resumed run may differ in a field. `steps` may grow: the schedule is then that of the new total from the next
 * step on. A constant rate stays what it was, `wsd` goes back to its peak and decays at the new end, `cosine` and `linear`
 * are stretched over the new total, so that the rate rises to where they would be. All else decides what was learned.
 */
const mayChange = (field: string, steps: number, before: number): boolean =>
  field === "training.steps" ? steps > before : FREE.has(field.split(".").at(-1)!)

/** What becomes of the learning rate of a run that was to be shorter. */
const stretched = (schedule: Optimizer.OptimizerConfig["schedule"], step: number, before: number, steps: number): string =>
  `the run was planned for ${before} steps and now has ${steps}: from step ${step} on its learning rate ` + (
    schedule === "constant"
      ? "stays what it was"
      : schedule === "wsd"
      ? `is that of ${steps} steps (wsd): at its peak again, with its decay at the new end`
      : `is that of ${steps} steps (${schedule}): it rises to where such a run would be, and differs from one planned so at first`
  )

const trainerState = Schema.Struct({
  step: Schema.Number,
  cursor: Schema.Struct({ epoch: Schema.Number, batch: Schema.Number }),
  steps: Schema.Number,
  config: Schema.Unknown,
  /** Of mixed precision: see `Optimizer.scaler`. */
  lossScale: Schema.optional(Schema.Array(Schema.Number)),
  /** It was interrupted before the evaluation that its step was due for. */
  unsettled: Schema.optional(Schema.Boolean),
  /** What the run has been trained on; runs of before this was kept go on without. */
  inputs: Schema.optional(Schema.Array(Schema.Struct({ what: Schema.String, sha256: Schema.String }))),
  /** What computes it. */
  machine: Schema.optional(Schema.Struct({ adapter: Schema.String, kernels: Schema.String }))
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
      detail: `training.routing "${name}" sends the gradients of repeated sequences to sinks, and the model has none: ` +
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

const make = (config: TrainConfig, { ends, observer }: TrainerOptions = {}): Effect.Effect<
  TrainerService,
  TrainError,
  Device | Model | DataStream | Checkpoints | Scope.Scope
> =>
  Effect.gen(function*() {
    const device = yield* Device
    const model = yield* Model
    const data = yield* DataStream
    const checkpoints = yield* Checkpoints

    const accumulation = config.gradientAccumulation
    const steps = config.steps ?? Math.max(1, Math.floor(data.batchesPerEpoch / accumulation))
    const { sinks } = model.config
    const unfit = Optimizer.scheduleProblem(config.optimizer, steps)
    if (unfit !== undefined) return yield* new DataError({ detail: unfit })
    yield* checkTraining(model.config, data, device, config, model.defaults)
    const training = yield* makeTrainStep({
      optimizer: config.optimizer,
      steps,
      window: config.logEvery,
      parameters: model.parameters,
      // exactly so many a document by a permutation; by the other assignments any number
      ...(sinks?.assignment === "permutation"
        ? { maxTouched: data.maxSegments * sinks.activeUnits * accumulation }
        : {})
    })
    const { optimizer } = training
    const shape = { rows: data.batchSize, seqLen: data.seqLen, maxSegments: data.maxSegments }
    const partsOf = config.routing === undefined
      ? Effect.map(training.compile(shape), (pass) => (batch: Batch): ReadonlyArray<Part> => [
        { pass, batch, mode: Sink.own }
      ])
      : routedParts(config.routing, training, shape)
    const parts = yield* partsOf

    let step = 0
    let cursor: Cursor = { epoch: 0, batch: 0 }
    let lastSaved: { readonly step: number; readonly path: string } | undefined
    let validation: { readonly step: number; readonly loss: number } | undefined
    /** The lowest validation loss so far; a resumed run knows those of the checkpoints that are still there. */
    let best = Infinity
    /** The last step has been trained, and what is due after it is not done. */
    let unsettled = false
    let untold: Array<TrainEvent> = []

    const trainStep = (batches: ReadonlyArray<Batch>): void => {
      training.run(batches.flatMap(parts), step)
      step++
      unsettled = true
    }

    const readMoments = Effect.gen(function*() {
      const out: Record<string, HostTensor> = {}
      for (const { m, parameter, v } of optimizer.moments) {
        for (const [suffix, tensor] of [["exp_avg", m], ["exp_avg_sq", v]] as const) {
          const values = (yield* device.read(tensor)) as Float32Array
          for (const [name, host] of toHuggingFace(model.config, parameter.name, values)) out[`${name}.${suffix}`] = host
        }
      }
      return out
    })

    const encodedConfig = Schema.encodeSync(TrainConfig)(config)
    // whose sinks they are matters where there are any
    const named = sinks === undefined ? undefined : yield* data.names
    const names = named === undefined ? undefined : encodeNames(named)
    const inputs = yield* data.inputs
    /** Reads everything that a checkpoint holds; gives what writes it. */
    const capture = Effect.gen(function*() {
      const at = step
      // a run that has diverged must not replace the last good checkpoint
      const [loss, norm, , skipped] = (yield* device.read(optimizer.stats)) as Float32Array
      const sound = skipped === 1 || (Number.isFinite(loss!) && Number.isFinite(norm!))
      if (at > 0 && !sound) return yield* diverged(at, loss!)
      const snapshot = {
        step: at,
        config: { ...huggingFaceConfig(model.config), ...(ends === undefined ? {} : endIds(ends)) },
        model: yield* model.exportTensors,
        optimizer: yield* readMoments,
        trainerState: {
          step: at,
          cursor,
          steps,
          config: { ...encodedConfig, precision: model.precision },
          ...(unsettled ? { unsettled } : {}),
          inputs,
          machine: machineOf(device),
          ...(optimizer.scaler === undefined ? {} : { lossScale: [...(yield* device.read(optimizer.scaler))] })
        },
        tokenizer: data.tokenizer.toJSON(),
        names,
        ...(validation?.step === at ? { loss: validation.loss } : {})
      }
      return checkpoints.save(snapshot).pipe(
        Effect.tap((path) => Effect.annotateCurrentSpan("step", at).pipe(
          Effect.zipRight(Effect.sync(() => void (lastSaved = { step: at, path })))
        )),
        Effect.map((path) => new Saved({ step: at, path })),
        Effect.withSpan("save")
      )
    })
    const save: Effect.Effect<string, TrainError> = Effect.map(Effect.flatten(capture), ({ path }) => path)

    const diverged = (at: number, loss: number) =>
      new Diverged({
        step: at,
        loss,
        ...(lastSaved === undefined ? {} : { lastCheckpoint: lastSaved.path }),
        ...(model.precision === "f16" ? { precision: model.precision } : {})
      })

    const existing = yield* checkpoints.list
    if (existing.length > 0) {
      const snapshot = yield* checkpoints.load("latest")
      const path = existing.find((saved) => saved.step === snapshot.step)?.path ?? checkpoints.location
      const mismatch = (detail: string) => new CheckpointError({ reason: "Mismatch", path, detail })
      const state = yield* Schema.decodeUnknown(trainerState)(snapshot.trainerState).pipe(
        Effect.mapError((error) => mismatch(`trainer_state.json is not one of a training run: ${error.message}`))
      )
      // which tokens end a text decides nothing of what was learned
      const { bos_token_id: _, eos_token_id: __, ...savedModel } = Object(snapshot.config) as Record<string, unknown>
      const differing = differences(
        { config: huggingFaceConfig(model.config), training: { ...encodedConfig, precision: model.precision, steps } },
        // runs of before there was a choice were f32
        { config: savedModel, training: { precision: "f32", ...(state.config as object), steps: state.steps } }
      ).filter((line) => !mayChange(line.split(" ")[0]!, steps, state.steps))
      if (differing.length > 0) {
        return yield* mismatch(
          `the run was started with another configuration:\n  ${differing.join("\n  ")}\n` +
            "Resume with the same one, or start in another folder"
        )
      }
      if (snapshot.tokenizer !== undefined && !sameTokenizer(snapshot.tokenizer, data.tokenizer.toJSON())) {
        return yield* mismatch("the run's tokenizer is not the one of this data: resume with the same data")
      }
      // what is on the disk must be what its checksums say, before those are compared
      yield* data.verify
      const changed = state.inputs === undefined ? [] : changedInputs(inputs, state.inputs)
      if (changed.length > 0) return yield* mismatch(notTheSameData(changed))
      yield* sameMachine(machineOf(device), state.machine, path)
      const bad = [...Object.entries(snapshot.model), ...Object.entries(snapshot.optimizer)]
        .find(([, { data }]) => firstNotFinite(data) >= 0)
      if (bad !== undefined) {
        const [name, { data }] = bad
        const at = firstNotFinite(data)
        const detail = `tensor ${name} holds ${data[at]} at ${at}: training cannot go on from it. Resume from an ` +
          "earlier checkpoint (remove this one), with a lower learningRate"
        return yield* new CheckpointError({ reason: "Corrupt", path, detail })
      }
      yield* model.importTensors(snapshot.model)
      yield* attempt(
        () => {
          for (const [suffix, key] of [["exp_avg", "m"], ["exp_avg_sq", "v"]] as const) {
            const named = Object.fromEntries(
              Object.entries(snapshot.optimizer)
                .filter(([name]) => name.endsWith(`.${suffix}`))
                .map(([name, tensor]) => [name.slice(0, -suffix.length - 1), tensor])
            )
            for (const moments of optimizer.moments) {
              device.write(moments[key], fromHuggingFace(model.config, moments.parameter.name, named, path))
            }
          }
        },
        CheckpointError
      )
      if (optimizer.scaler !== undefined) {
        device.write(optimizer.scaler, Optimizer.scalerState(config.optimizer, state.step, state.lossScale))
      }
      step = state.step
      cursor = state.cursor
      const schedule = config.optimizer.schedule
      if (steps > state.steps) yield* Effect.logWarning(stretched(schedule, step, state.steps, steps))
      unsettled = state.unsettled ?? false
      lastSaved = { step, path }
      best = existing.reduce((lowest, { loss }) => Math.min(lowest, loss ?? Infinity), Infinity)
    }

    const evaluate: TrainerService["evaluate"] = Effect.fnUntraced(function*(rows, mode, options) {
      if (rows.length === 0) {
        return yield* new DataError({ detail: "there is no sequence to score: a mean of nothing is no number" })
      }
      const scores = yield* scoreRows(model, rows, mode, {
        // no more than a training batch, which is known to fit the device
        batchSize: Math.min(EVAL_ROWS, data.batchSize, rows.length),
        seqLen: data.seqLen,
        ...options
      })
      return { ...summarize(scores)!, sequences: scores.map(({ loss, tokens }) => loss / tokens) }
    })

    const evaluateSplits = Effect.gen(function*() {
      const losses: Record<string, number> = {}
      const modes: ReadonlyArray<readonly [string, Sink.SinkMode]> = model.config.sinks === undefined
        ? [["own", Sink.own]]
        : [["own", Sink.own], ["off", Sink.off]]
      for (const split of ["repeated", "heldOut"] as const) {
        const rows = data.split(split).slice(0, config.evalSequences)
        if (rows.length === 0) continue
        for (const [name, mode] of modes) losses[`${split}.${name}`] = (yield* evaluate(rows, mode)).loss
      }
      const loss = losses["heldOut.off"] ?? losses["heldOut.own"]
      validation = loss === undefined ? undefined : { step, loss }
      yield* Effect.annotateCurrentSpan("step", step)
      return new Evaluated({ step, losses })
    }).pipe(Effect.withSpan("evaluate"))

    const run: TrainerService["run"] = Stream.unwrapScoped(Effect.gen(function*() {
      untold = []
      /** Events of steps after one whose checkpoint is being written: they are told in order, after it. */
      let held: Array<TrainEvent> = []
      let pending: Fiber.Fiber<ReadonlyArray<Stepped>, TrainError> | undefined
      /** A checkpoint that is being written while training goes on. */
      let writing: Fiber.Fiber<Saved, TrainError> | undefined
      yield* Effect.addFinalizer((exit) =>
        Effect.gen(function*() {
          // what is in the making is waited for by the scope
          const outcome = <A>(fiber: Fiber.Fiber<A, TrainError> | undefined) =>
            fiber === undefined ? Effect.succeed([]) : Effect.map(Fiber.poll(fiber), (exit) =>
              Option.isSome(exit) && Exit.isSuccess(exit.value) ? [exit.value.value] : [])
          untold.push(...yield* outcome(writing), ...held, ...(yield* outcome(pending)).flat())
          // an interrupted or abandoned run keeps what it learned; a failed one keeps its last good checkpoint
          if (!(Exit.isSuccess(exit) || Exit.isInterrupted(exit)) || step === 0 || lastSaved?.step === step) return
          untold.push(yield* Effect.flatten(capture))
        }).pipe(Effect.catchAll((error) => Effect.logError(`could not save on the way out: ${error.message}`)))
      )
      const scope = yield* Effect.scope
      const pull = yield* Stream.toPull(Stream.rechunk(data.batches(cursor), 1))
      const tokensPerStep = data.batchSize * data.seqLen * accumulation
      const first = step
      let windowSteps = 0
      // training time without evaluation and saving; a step counts when its losses have arrived
      let seconds = 0
      let since = performance.now()
      const clock = () => {
        const now = performance.now()
        seconds += (now - since) / 1000
        since = now
      }
      const speed = (last: number) => ((last - first) * tokensPerStep) / Math.max(1e-9, seconds)
      const pause = <A>(effect: Effect.Effect<A, TrainError>) =>
        Effect.tap(effect, () => Effect.sync(() => void (since = performance.now())))

      const closeWindow = Effect.gen(function*() {
        const count = windowSteps
        const last = step
        windowSteps = 0
        const reading = device.read(optimizer.history).pipe(
          Effect.flatMap((history) => {
            const window = Array.from({ length: count }, (_, i) =>
              Optimizer.historyAt(history as Float32Array, (last - count + i) % config.logEvery))
            const bad = window.findIndex(({ gradNorm, loss, skipped }) =>
              !skipped && !(Number.isFinite(loss) && Number.isFinite(gradNorm)))
            if (bad >= 0) return diverged(last - count + bad + 1, window[bad]!.loss)
            clock()
            // a skipped step has no norm, and a loss only where that did not overflow
            const losses = window.map(({ loss }) => loss).filter(Number.isFinite)
            const taken = window.findLast(({ skipped }) => !skipped)
            const { learningRate, skippedSoFar } = window.at(-1)!
            return Effect.succeed([
              new Stepped({
                step: last,
                steps,
                ...(losses.length === 0 ? {} : { loss: losses.reduce((a, b) => a + b, 0) / losses.length }),
                ...(taken === undefined ? {} : { gradNorm: taken.gradNorm }),
                learningRate,
                tokens: last * tokensPerStep,
                tokensPerSecond: speed(last),
                seconds,
                ...(skippedSoFar > 0 ? { skipped: skippedSoFar } : {})
              })
            ])
          })
        )
        const previous = pending
        pending = yield* Effect.forkIn(Effect.uninterruptible(reading), scope)
        if (previous !== undefined) held.push(...(yield* Fiber.join(previous)))
      })
      const drain = Effect.gen(function*() {
        if (windowSteps > 0) yield* closeWindow
        if (pending !== undefined) {
          held.push(...(yield* Fiber.join(pending)))
          pending = undefined
        }
      })

      /** What can be told now. */
      const told = (): Chunk.Chunk<TrainEvent> => {
        if (writing !== undefined) return Chunk.empty()
        const events = held
        held = []
        return Chunk.fromIterable(events)
      }
      /** Waits for the checkpoint that is being written, if any: it comes before what is held. */
      const written = Effect.gen(function*() {
        if (writing === undefined) return
        held.unshift(yield* Fiber.join(writing))
        writing = undefined
      })
      let saving = false
      const saveDue: Effect.Effect<Chunk.Chunk<TrainEvent>, TrainError> = Effect.gen(function*() {
        saving = false
        const write = yield* capture
        // whoever interrupts waits for it
        writing = yield* Effect.forkIn(Effect.uninterruptible(write), scope)
        if (step === steps) yield* written
        return told()
      }).pipe(pause)

      /** All that is due after a step. */
      const settle = Effect.gen(function*() {
        const due = (every: number) => every > 0 && (step % every === 0 || step === steps)
        const done = writing === undefined ? Option.none() : yield* Fiber.poll(writing)
        if (Option.isSome(done)) yield* written
        if (step % config.logEvery === 0 && windowSteps > 0) yield* closeWindow
        if (observer?.due(step) === true) {
          yield* drain
          // interrupted halfway, a step would be saved that was never seen whole
          yield* Effect.uninterruptible(pause(observer.look(step)))
        }
        if (due(config.evalEvery)) {
          yield* drain
          held.push(yield* pause(evaluateSplits))
        }
        const isBest = validation?.step === step && validation.loss < best
        if (isBest) best = validation!.loss
        const logSpaced = config.saveLogSpaced && Number.isInteger(Math.log2(step)) &&
          (config.saveEvery === 0 || step < config.saveEvery)
        if (due(config.saveEvery) || step === steps || logSpaced || (config.saveBest && isBest)) {
          yield* drain
          // one at a time, in order
          yield* pause(written)
          saving = true
        }
        unsettled = false
        return told()
      })

      /**
       * One step, and whatever is due after it. Ends the stream after the last. A save has a turn of its own: what came
       * before it has been taken by then, so that of a process killed while it saves no saved step is left untold.
       */
      let finished = false
      const next: Effect.Effect<Chunk.Chunk<TrainEvent>, Option.Option<TrainError>> = Effect.gen(function*() {
        if (saving) return yield* Effect.mapError(saveDue, Option.some)
        if (step >= steps) {
          if (finished) return yield* Effect.fail(Option.none())
          // of a run that was killed after its last save, too
          finished = true
          return Chunk.of(new Finished({ step, seconds, tokensPerSecond: speed(step) }))
        }
        const batches: Array<Batch> = []
        let after = cursor
        for (let i = 0; i < accumulation; i++) {
          const [item] = Chunk.toReadonlyArray(yield* pull)
          batches.push(item!.batch)
          after = item!.cursor
        }
        yield* Effect.mapError(
          attempt(() => {
            trainStep(batches)
            cursor = after
          }),
          Option.some
        )
        windowSteps++
        const events = yield* Effect.mapError(settle, Option.some)
        // the device works on its own thread, but interruption and progress need a turn of this one
        yield* Effect.yieldNow()
        return events
      })

      const started = new Started({
        step,
        steps,
        parameters: model.config.numParameters,
        activeParameters: model.config.numActiveParameters,
        tokensPerStep,
        adapter: device.name,
        ...(step > 0 && lastSaved?.step === step ? { from: lastSaved.path } : {})
      })
      const begin: Effect.Effect<Chunk.Chunk<TrainEvent>, TrainError> = Effect.gen(function*() {
        if (unsettled && step > 0) return yield* settle
        if (step < steps && observer?.due(step) === true) yield* Effect.uninterruptible(observer.look(step))
        return config.saveLogSpaced && step === 0 ? Chunk.of<TrainEvent>(yield* Effect.flatten(capture)) : Chunk.empty()
      }).pipe(pause)
      const beginning = Stream.concat(Stream.make(started), Stream.fromIterableEffect(begin))
      // Stream.interruptWhen would pull ahead of whoever takes the events
      const untilLost = Effect.raceFirst(next, Effect.mapError(device.lost, Option.some))
      return Stream.concat(beginning, Stream.repeatEffectChunkOption(untilLost)) as Stream.Stream<TrainEvent, TrainError>
    }))

    return { config, steps, step: Effect.sync(() => step), evaluate, run, untold: Effect.sync(() => untold), save }
  })

/** Leaves that differ between two JSON values, `name wanted, was`. */
export const differences = (wanted: unknown, was: unknown, name = ""): ReadonlyArray<string> => {
  if (isObject(wanted) && isObject(was)) {
    const keys = new Set([...Object.keys(wanted), ...Object.keys(was)])
    return [...keys].flatMap((key) => differences(wanted[key], was[key], name === "" ? key : `${name}.${key}`))
  }
  return JSON.stringify(wanted) === JSON.stringify(was)
    ? []
    : [`${name} is ${JSON.stringify(wanted)}, was ${JSON.stringify(was)}`]
}

export class Trainer extends Context.Tag("memsinks/Trainer")<Trainer, TrainerService>() {
  static readonly make = make
  /** A trainer of the Model on the DataStream. Goes on from the latest of Checkpoints when there is one. */
  static readonly layer = (
    config: TrainConfig = new TrainConfig(),
    options?: TrainerOptions
  ): Layer.Layer<Trainer, TrainError, Device | Model | DataStream | Checkpoints> =>
    Layer.scoped(Trainer, make(config, options))
}
