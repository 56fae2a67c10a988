/**
 * Models of an isolation experiment, each known by plain data: an arm that is trained, or a point of a sweep over a method
 * after training. Whoever does a job on one makes its weights, or finds them.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { Checkpoints, type HostTensor, type Snapshot } from "../../src/checkpoints/Checkpoints.ts"
import { fuse } from "../../src/checkpoints/Fuse.ts"
import { modelWith } from "../../src/checkpoints/OpenCheckpoint.ts"
import { DataStream } from "../../src/data/stream/DataStream.ts"
import { sequencesOf } from "../../src/data/stream/Packing.ts"
import { attempt, DataError } from "../../src/Errors.ts"
import type { Device } from "../../src/gpu/Device.ts"
import { fisher as fisherOf } from "../../src/inside/Gradients.ts"
import type { TokenRecords } from "../../src/measures/TokenRecords.ts"
import type { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as Sink from "../../src/Sink.ts"
import type { TrainError } from "../../src/train/Trainer.ts"
import { fusionOf, modelOf, type NamedArm, partsOf, STANDARD, streamOf } from "../experiment/Arms.ts"
import { lately, type Work, type Workplace } from "../experiment/Job.ts"
import type { Streams } from "../experiment/Streams.ts"
import { type Files, trainArm, type TrainedArm, withOwners } from "../experiment/Train.ts"
import type { Kept } from "../experiment/Train.ts"
import { IsolateConfig, type Plan, planOf } from "./Config.ts"
import * as Jobs from "./Jobs.ts"
import type { Panel } from "./Report.ts"
import { makeWorld, type World, WorldConfig } from "./World.ts"

/** What the experiment as a whole fails with; a job that fails is told in the report. */
export type IsolateError = TrainError

/** Host copies of the weights of a model. */
export type Weights = Readonly<Record<string, HostTensor>>

/** What every job is given: the experiment, encoded, and which of its seeds. */
export interface SeedInput {
  readonly config: typeof IsolateConfig.Encoded
  readonly seed: number
}

/** A setting of a method after training, by the names that the configuration has for them. */
export interface LocalizerRef {
  readonly localizer: string
  readonly setting: string
  readonly panel: Panel
}
export interface UnlearnerRef {
  readonly unlearner: string
  readonly setting: string
}

/** A model: of an arm, or of a method at a point of its sweep. */
export type ModelRef =
  | { readonly arm: string }
  | LocalizerRef & { readonly fraction: number }
  | UnlearnerRef & { readonly step: number }

export interface ModelInput extends SeedInput {
  readonly model: ModelRef
}

/** What a seed of an experiment comes to, where a job of it is done. */
export interface Lab extends Jobs.Setup, Plan {
  readonly world: World
}

/** What is made of plain data at a workplace and kept there, so that jobs on the same thing share it. */
export interface Labs {
  readonly of: (input: SeedInput, at: Pick<Workplace, "machine">) => ReturnType<typeof labOf>
  readonly trained: ReturnType<typeof lately<Weights>>
  /** Not as cheap to make again as to load. */
  readonly unlearned: ReturnType<typeof lately<Weights>>
  /** Of the oracle, which every other model is looked at beside. */
  readonly records: ReturnType<typeof lately<TokenRecords>>
}

type Worlds = ReturnType<typeof lately<World>>

const labOf = (worlds: Worlds, { config, seed }: SeedInput, { machine }: Pick<Workplace, "machine">) =>
  Effect.gen(function*() {
    const plan = yield* planOf(yield* Effect.orDie(Schema.decode(IsolateConfig)(config)))
    const { training, world: of } = plan.config
    const world = yield* worlds([Schema.encodeSync(WorldConfig)(of), seed], Effect.scoped(makeWorld(of, seed)))
    const lab: Lab = {
      ...plan,
      config: new IsolateConfig({ ...plan.config, model: yield* withOwners(plan.config.model, world) }),
      seed,
      world,
      machine,
      inputs: world.inputs,
      vocabSize: world.tokenizer.vocabSize,
      steps: training.steps ?? Math.max(1, Math.floor(world.batches.perEpoch / training.gradientAccumulation))
    }
    return lab
  })

/** @param most worlds that are kept; default all, which an experiment needs to its end */
export const makeLabs = (most = Infinity): Labs => {
  const worlds: Worlds = lately(most)
  return {
    of: (input, at) => labOf(worlds, input, at),
    trained: lately(2),
    unlearned: lately(8),
    records: lately(1)
  }
}

export const armNamed = ({ arms }: Lab, name: string): NamedArm => arms.find((arm) => arm.name === name)!

/** The arm that a model is, or was made of. */
export const originOf = (lab: Lab, model: ModelRef): NamedArm => armNamed(lab, "arm" in model ? model.arm : STANDARD)

export const configOf = (lab: Lab, model: ModelRef): ModelConfig =>
  modelOf(lab.config.model, lab.vocabSize, originOf(lab, model))

/** Does something with the batches of an arm. */
export const withBatches = <A, E, R>(
  { config, seed, world }: Lab,
  arm: NamedArm,
  streams: Streams,
  effect: Effect.Effect<A, E, R | DataStream>
) => {
  const overrides = streamOf(arm)
  return streams.useLayer([Schema.encodeSync(WorldConfig)(config.world), seed, overrides], world.stream(overrides),
    effect)
}

/** What a training leaves besides its weights; JSON. */
export interface Trained extends TrainedArm {
  readonly name: string
}

export interface ArmInput extends SeedInput {
  readonly arm: string
}

/** What does the jobs of a kind, said of the seed that a job is of. */
export const workOf = <Input extends SeedInput, A>(
  labs: Labs,
  key: (lab: Lab, input: Input) => Jobs.Key,
  run: (lab: Lab, input: Input, at: Workplace) => Effect.Effect<A, IsolateError, Device | Files>
): Work<Input, A> => ({
  key: (input, at) => Effect.map(labs.of(input, at), (lab) => key(lab, input)),
  run: (input, at) => Effect.flatMap(labs.of(input, at), (lab) => run(lab, input, at))
})

/** Trains an arm, and keeps its weights. */
export const trainWork = (labs: Labs) =>
  workOf(labs, (lab, { arm }: ArmInput) => Jobs.model(lab, armNamed(lab, arm)), (lab, input, at) => {
    const arm = armNamed(lab, input.arm)
    const trained = (arm: NamedArm, kept: Kept) =>
      Effect.map(
        withBatches(lab, arm, at.streams, trainArm({
          model: modelOf(lab.config.model, lab.vocabSize, arm),
          training: Jobs.trainingOfArm(lab, arm),
          seed: lab.seed,
          precision: lab.config.precision
        }, kept, { onEvent: at.onEvent })),
        ({ after: _, measured: __, ...rest }): Trained => ({ name: arm.name, ...rest })
      )
    const parts = partsOf(arm)
    return parts.length === 0 ? trained(arm, at.kept) : Effect.gen(function*() {
      const all: Array<readonly [Trained, Snapshot]> = []
      const information: Array<Weights> = []
      const { fisher, ...options } = fusionOf(arm)
      for (const part of parts) {
        yield* at.stage(`seed ${lab.seed}: ${arm.name}, model ${part.part! + 1} of ${parts.length}`)
        const kept = yield* at.keptBy("models", Jobs.model(lab, part))
        const one = yield* trained(part, kept)
        const snapshot = yield* checkpointsOf(kept, (checkpoints) => checkpoints.load("latest"))
        all.push([one, snapshot])
        if (fisher) {
          information.push(
            yield* withBatches(lab, part, at.streams,
              withModel(modelOf(lab.config.model, lab.vocabSize, part), snapshot.model, "f32", informationOfFirst))
          )
        }
      }
      const [first, snapshot] = all[0]!
      const model = yield* attempt(
        () => fuse(all.map(([, { model }]) => model), { ...options, ...(fisher ? { fisher: information } : {}) }),
        DataError
      )
      // what follows from the average alone: no state of a run that could go on
      yield* checkpointsOf(at.kept, (checkpoints) =>
        checkpoints.save({ ...snapshot, model, optimizer: {}, loss: undefined }))
      const sum = (of: (one: Trained) => number) => all.reduce((total, [one]) => total + of(one), 0)
      return { ...first, curves: [], tokens: sum(({ tokens }) => tokens), seconds: sum(({ seconds }) => seconds) }
    })
  })

/** The Model's Fisher information, by the first sequences that it was trained on. */
const informationOfFirst = Effect.gen(function*() {
  const data = yield* DataStream
  const first = yield* Stream.runCollect(
    Stream.take(data.batches({ epoch: 0, batch: 0 }), Math.ceil(Jobs.FISHER_SEQUENCES / data.batchSize))
  )
  const rows = Array.from(first).flatMap(({ batch }) => sequencesOf(batch)).slice(0, Jobs.FISHER_SEQUENCES)
  return yield* fisherOf(rows, { mode: Sink.own, seqLen: data.seqLen })
})

/** Does something with the checkpoints that are kept. */
const checkpointsOf = <A, E, R>(
  { checkpoints }: Pick<Kept, "checkpoints">,
  use: (checkpoints: typeof Checkpoints.Service) => Effect.Effect<A, E, R>
) => Effect.scoped(Effect.flatMap(Layer.build(checkpoints), (context) => use(Context.get(context, Checkpoints))))

/** The weights of an arm that was trained. */
export const trainedWeights = (labs: Labs, key: Jobs.Key, at: Workplace): Effect.Effect<Weights, IsolateError, Files> =>
  labs.trained(key, Effect.gen(function*() {
    const { model } = yield* checkpointsOf(yield* at.keptBy("models", key), (checkpoints) => checkpoints.load("latest"))
    return model
  }))

/** A model on the device that has these weights. */
export const withModel = <A, E, R>(
  config: ModelConfig,
  weights: Weights,
  precision: "f32" | "f16",
  use: Effect.Effect<A, E, R>
) => Effect.provide(use, modelWith(config, weights, { precision }))
