/** What else is asked of a model: whether it learns again, whether its sinks keep to themselves, what finds them. Jobs. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { localizers, recall, sinkNeurons } from "../../src/removal/localizers/index.ts"
import { relearn } from "../../src/removal/Relearn.ts"
import * as Sink from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { hygiene } from "./Hygiene.ts"
import { interference } from "./Interference.ts"
import * as Jobs from "./Jobs.ts"
import { most, nameOfModel } from "./Look.ts"
import { configOf, type Lab, type Labs, type ModelInput, originOf } from "./Models.ts"
import { localizing, onModel, settingOf } from "./PostHoc.ts"

const relearning = ({ config, seed, world }: Lab) => ({
  learningRates: config.relearnRates,
  steps: config.relearnSteps,
  batchSize: config.unlearnBatchSize,
  seqLen: world.seqLen,
  seed
})

/** Losses while a model learns again, its sinks off. */
export const relearnWork = (labs: Labs) =>
  onModel(
    labs,
    (lab, of, _: ModelInput) => Jobs.relearning(of, relearning(lab)),
    (_, { model }) => `${nameOfModel(model)} learns again`,
    (lab) => {
      const { heldOut, scored, seen } = lab.world.splits
      return Effect.map(
        Stream.runCollect(relearn({
          ...relearning(lab),
          mode: Sink.off,
          train: seen,
          score: { seen, scored, heldOut: heldOut.slice(0, Jobs.RELEARN_HELD_OUT) }
        })),
        (points) => [...points]
      )
    }
  )

const optimizerOf = (lab: Lab, { model }: ModelInput) => Jobs.trainingOfArm(lab, originOf(lab, model)).optimizer

/** What must hold exactly. */
export const hygieneWork = (labs: Labs) =>
  onModel(
    labs,
    (lab, of, input: ModelInput) =>
      Jobs.hygiene(of, Schema.encodeSync(OptimizerConfig)(optimizerOf(lab, input)), lab.seed),
    (_, { model }) => `whether the sinks of ${nameOfModel(model)} keep to themselves`,
    (lab, input) => {
      const { heldOut, retained, scored, seen } = lab.world.splits
      return hygiene({
        optimizer: optimizerOf(lab, input),
        rows: { repeated: [...seen, ...scored], singles: retained, heldOut },
        seqLen: lab.world.seqLen,
        batchSize: Jobs.CHECKED_ROWS,
        seed: lab.seed
      })
    }
  )

/** What sinks of other sequences do to a sequence. */
export const interferenceWork = (labs: Labs) =>
  onModel(
    labs,
    (lab, of, _: ModelInput) => Jobs.interference(of, lab.config.interference, lab.seed),
    () => undefined,
    ({ config, seed, world }) => {
      const { retained, scored, seen } = world.splits
      return interference({
        rows: most(scored, world),
        others: [...seen, ...scored, ...retained],
        ladder: config.interference,
        seqLen: world.seqLen,
        batchSize: Jobs.CHECKED_ROWS,
        seed
      })
    }
  )

export interface RecallInput extends ModelInput {
  readonly localizer: string
  readonly setting: string
}

/** How well a localizer finds the sinks that the scored sequences were given, and what chance would. */
export const recallWork = (labs: Labs) => {
  const optionsOf = (lab: Lab, { localizer, setting }: RecallInput) => settingOf(lab.localizers, localizer, setting)
  return onModel(
    labs,
    (lab, of, input: RecallInput) => {
      const { method, options } = optionsOf(lab, input)
      return Jobs.recall(Jobs.localizer(of, method, options, "natural", localizing(lab)))
    },
    () => undefined,
    (lab, input) => {
      const { method, options } = optionsOf(lab, input)
      const rows = most(lab.world.splits.scored, lab.world)
      const { known, share } = knownSinks(lab, input)
      return Effect.map(
        localizers[method].localize(rows, { ...localizing(lab), batchSize: Jobs.ROWS, ...options }),
        (scores) => recall(scores, Array.from({ length: scores.length }, () => known), share)
      )
    }
  )
}

/** The sinks of the scored sequences, which are known here, and their share of all neurons. */
export const knownSinks = (lab: Lab, { model }: Pick<ModelInput, "model">) => {
  const known = sinkNeurons(configOf(lab, model), most(lab.world.splits.scored, lab.world).map(({ id }) => id))
  return { known, share: known.reduce((sum, sink) => sum + sink, 0) / known.length }
}
