/** Training a model within a study's job. */
import type * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { Collective, type CollectiveService } from "../../src/collective/Collective.ts"
import { DataConfig, DataStream } from "../../src/data/stream/DataStream.ts"
import { CheckpointError, type DataError } from "../../src/Errors.ts"
import type { Device } from "../../src/gpu/Device.ts"
import type { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { TrainConfig, type TrainerOptions, type TrainError } from "../../src/train/Trainer.ts"
import type { Workplace } from "../experiment/Job.ts"
import { type ArmTraining, type Files, keep, trainArm, type TrainedArm } from "../experiment/Train.ts"

/** Batches that a layer makes, known by plain data that they follow from. */
export interface MadeData {
  readonly key: unknown
  readonly layer: Layer.Layer<DataStream, DataError, FileSystem.FileSystem>
}

/** What is seen of a training between its steps, once for each of them. */
export interface Along<A> {
  /** After so many steps; 0: before the first. */
  readonly steps: ReadonlyArray<number>
  /** Plain data, which JSON can hold. It leaves the model as it is. */
  readonly look: Effect.Effect<A, TrainError, Trained>
}

/** What a study trains. */
export interface StudyTraining extends Omit<ArmTraining, "initial"> {
  readonly data: DataConfig | MadeData
  /** What else `measure` depends on; raise a number in it when it gives other values. */
  readonly measured: unknown
  /** Ranks of this process that train it together, and plain data that tells them from others. Default: one process alone. */
  readonly ranks?: { readonly key: unknown; readonly make: () => ReadonlyArray<CollectiveService> }
}

/** Ranks wait for each other. */
const ALL_AT_ONCE = { concurrency: "unbounded" } as const

/** Everything that is in scope where a trained model is looked at. */
export type Trained = Device | DataStream | Files | Model | Scope.Scope

/**
 * Trains a model on its data and looks at it, once: it is found again by all that it depends on, in this study and in
 * others, and a training that was interrupted goes on from its checkpoint. The vocabulary is that of the data.
 *
 * @param measure plain data, which JSON can hold
 * @param along what else is looked at on the way, and is found as `seen`, in the order of its steps
 */
export const train = <A, B = never>(
  at: Workplace,
  { data, measured, model, precision = "f32", ranks, recompute = false, seed, training }: StudyTraining,
  measure: Effect.Effect<A, TrainError, Trained>,
  along?: Along<B>
): Effect.Effect<TrainedArm & { readonly measured: A; readonly seen: ReadonlyArray<B> }, TrainError,
  Device | Files> =>
{
  const isMade = "layer" in data
  const known = isMade ? data.key : Schema.encodeSync(DataConfig)(data)
  const inIt = Effect.gen(function*() {
    const { inputs, tokenizer } = yield* DataStream
    const whole = new ModelConfig({ ...model, vocabSize: tokenizer.vocabSize })
    const key = {
      version: 1,
      data: known,
      inputs: (yield* inputs).map(({ sha256 }) => sha256),
      model: Schema.encodeSync(ModelConfig)(whole),
      training: Schema.encodeSync(TrainConfig)(training),
      precision,
      recompute,
      seed,
      measured,
      ...(ranks === undefined ? {} : { ranks: ranks.key }),
      machine: { ...at.machine }
    }
    const kept = yield* at.keptBy("trained", key)
    // what was seen is kept at once: a training that goes on from a checkpoint looks at no step before it
    const see = (step: number, look: Effect.Effect<B, TrainError>) => at.store.once("seen", { of: key, step }, look)
    const observe = along === undefined ? undefined : Effect.map(
      Effect.context<Trained>(),
      (context): TrainerOptions => ({
        observer: {
          due: (step) => along.steps.includes(step),
          look: (step) => Effect.asVoid(see(step, Effect.provide(Effect.scoped(along.look), context)))
        }
      })
    )
    const arm: ArmTraining = { model: whole, training, precision, recompute, seed }
    const leading = trainArm(arm, kept, { onEvent: at.onEvent, after: measure,
      ...(observe === undefined ? {} : { observe }) })
    const following = Effect.flatMap(keep(undefined), (own) => trainArm(arm, own, { onEvent: () => Effect.void }))
    const together = Effect.suspend(() => {
      const [first, ...others] = ranks?.make() ?? []
      const as = (collective: CollectiveService) => Effect.provideService(Collective, collective)
      return first === undefined ? leading : Effect.map(
        Effect.all([as(first)(leading), Effect.forEach(others, (one) => as(one)(following), ALL_AT_ONCE)], ALL_AT_ONCE),
        ([led]) => led
      )
    })
    const trained = Effect.gen(function*() {
      const { after, measured: _, ...rest } = yield* together
      const seen = yield* Effect.forEach(along?.steps ?? [], (step) =>
        see(step, Effect.fail(
          new CheckpointError({ reason: "Missing", path: kept.folder ?? "memory",
            detail:
              `what was seen after step ${step} is gone: delete this folder, so that the model is trained again` })
        )))
      return { ...rest, measured: after, seen }
    })
    return yield* at.store.once("trained", key, trained, { alone: true })
  })
  return isMade ? at.streams.useLayer(data.key, data.layer, inIt) : at.streams.use(data, inIt)
}
