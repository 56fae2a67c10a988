/**
 * Pretraining with sequence-ID sinks: trains a standard model and a sink model on the same data with the same seed, then
 * measures what switching the sinks off removes, beside the placebo and the baselines (MemSinks, sections 4 and 5).
 *
 * Arms share everything but what their name says: the data, its order, the token budget, the seed, and the initial weights
 * wherever shapes agree. They run one after the other on one device; a lost device is rebuilt and the arm goes on from its
 * last checkpoint. An arm that is finished is never trained twice: a resumed run reads its result from the run's folder. One
 * that fails does not take the others with it.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { loadInitial } from "../src/checkpoints/Import.ts"
import { Collective } from "../src/collective/Collective.ts"
import { DataStream } from "../src/data/stream/DataStream.ts"
import { tensorsSha256 } from "../src/data/stream/Inputs.ts"
import * as DataParallel from "../src/train/DataParallel.ts"
import type { TrainError } from "../src/train/Trainer.ts"
import type { Event } from "./experiment/Event.ts"
import * as Experiment from "./experiment/Experiment.ts"
import { makeStreams } from "./experiment/Streams.ts"
import type { Files } from "./experiment/Train.ts"
import { armNames, armsOf, checkInitial, longerTraining, PretrainConfig } from "./pretrain/Config.ts"
import { armJob, type ArmResult, armWork, type Asked, follow as followArms, plannedArm } from "./pretrain/measure.ts"
import type { PretrainReport } from "./pretrain/Report.ts"
import { meanOf, present, seedResult, throughput } from "./pretrain/summary.ts"
import { view } from "./pretrain/view.ts"

export { PretrainConfig }

/** What the pipeline fails with: any of the six errors. */
export type PretrainError = TrainError

/** What the pipeline tells while it runs. */
export type PretrainEvent = Event

/**
 * Where it runs and what it leaves: the device, the run's folder, who is told of events. It keeps its models in the
 * run.
 */
export type PretrainOptions = Omit<Experiment.RunOptions, "store">

/** What ranks did, of all trainings; undefined where there was but one. */
const ranksOf = (
  seeds: ReadonlyArray<number>,
  found: ReadonlyArray<ReadonlyArray<ArmResult>>
): PretrainReport["ranks"] => {
  const all = found.flatMap((results, s) =>
    results.flatMap(({ arm, ranks = [] }) => ranks.map((rank) => ({ arm: arm.name, seed: seeds[s]!, ...rank })))
  )
  return all.length === 0 ? undefined : all
}

/** The comparison of arms as an experiment. */
const pretrain: Experiment.Experiment<
  PretrainConfig,
  PretrainConfig,
  ReadonlyArray<ReadonlyArray<ArmResult>>,
  PretrainReport
> = {
  kind: "pretrain",
  schema: PretrainConfig,
  longer: longerTraining,
  again: "from the last checkpoint",
  encode: (report) => report,
  view,
  plan: (config, { resume, streams }) =>
    Effect.gen(function*() {
      const names = yield* armNames(config)
      const uneven = DataParallel.unevenShare(config.training.gradientAccumulation, (yield* Collective).size)
      if (uneven !== undefined) return yield* uneven
      const start = config.initialFrom === undefined ? undefined : yield* loadInitial(config.initialFrom)
      if (start !== undefined) yield* checkInitial(config, names, start)
      // its weights are let go again: who trains loads them
      const initial = start === undefined ? undefined : { path: start.path, sha256: tensorsSha256(start.tensors) }
      const vocabSize = start?.config.vocabSize
      const seeds = Array.from({ length: config.seeds }, (_, i) => config.data.seed + i)
      /** Of the first seed: the others follow from it and the configuration. */
      const first = armsOf(config, names, config.model.vocabSize, config.data.seed)
      const data = first[0]!.data
      // a run that goes on has its folder
      if (!resume) yield* streams.use(data, Effect.void)
      const jobs = seeds.map((seed) => names.map((name) => armJob(config, name, seed, initial?.sha256)))
      return {
        config,
        seeds,
        arms: names,
        inputs: Effect.map(
          streams.use(data, Effect.flatMap(DataStream, ({ inputs }) => inputs)),
          (inputs) => [...inputs, ...(initial === undefined ? [] : [{ what: initial.path, sha256: initial.sha256 }])]
        ),
        verify: streams.use(data, Effect.flatMap(DataStream, ({ verify }) => verify)),
        title: "training",
        trainings: Effect.forEach(first, (plan) => plannedArm(config, plan, streams, vocabSize)),
        work: ({ perform }) =>
          Effect.map(
            perform(armWork, jobs.flat(), {
              folderOf: ({ arm, seed }) => `seed-${seed}/${arm}`,
              keep: {
                keepLast: config.keepCheckpoints === "all" ? Infinity : config.keepCheckpoints,
                keepLogSpaced: config.training.saveLogSpaced
              }
            }),
            (found) =>
              seeds.map((_, s) => found.slice(s * names.length, (s + 1) * names.length).flatMap(Option.toArray))
          ),
        report: (found, { failures, ...run }, error) =>
          Effect.gen(function*() {
            const results = found.flat()
            if (results.length === 0) return yield* Effect.fail(error)
            const perSeed = seeds.map((seed, s) =>
              seedResult(
                seed,
                new Map(found[s]!.map((result) => [result.arm.name, result])),
                found[s]!.reduce((sum, { seconds }) => sum + seconds, 0)
              )
            )
            return {
              ...meanOf(perSeed.map(({ gapClosed }) => present({ gapClosed }))),
              repeated: meanOf(perSeed.map((s) => s.repeated)),
              heldOut: meanOf(perSeed.map((s) => s.heldOut)),
              gaps: meanOf(perSeed.map((s) => s.gaps)),
              extraction: meanOf(perSeed.map((s) => s.extraction)),
              ...run,
              tokensPerSecond: throughput(results),
              adapter: results[0]!.adapter,
              arms: [...new Map(results.map((r) => [r.arm.name, r.arm])).values()],
              perSeed,
              ...present({ ranks: ranksOf(seeds, found) }),
              ...(failures.length === 0 ? {} : { failures })
            }
          })
      }
    })
}

/** Ends what the other ranks `follow`: rank 0 calls it where it does not come to `run`. */
export const dismiss: Effect.Effect<void> = Effect.flatMap(Collective,
  (collective) =>
    collective.size === 1 ? Effect.void : Effect.ignore(DataParallel.shared<Asked | null>(collective, null)))

/**
 * Run all arms of all seeds and report. Interruptible at any moment; with an `outDir` and `resume` a later call goes on
 * from there. An arm that fails is reported, and the others go on; where all fail it fails with the first one's error.
 *
 * Where the program's Collective has several ranks, rank 0 calls this, and the others call `follow`: they compute their share
 * of each of its trainings.
 */
export const run = (
  config: PretrainConfig,
  options: PretrainOptions
): Effect.Effect<PretrainReport, PretrainError, Files> =>
  Effect.ensuring(Experiment.run(pretrain, config, options), dismiss)

/** What ranks besides 0 call in the place of `run`. */
export const follow = ({ cacheDirectory, device }: Pick<PretrainOptions, "cacheDirectory" | "device">): Effect.Effect<
  void,
  PretrainError,
  Files
> =>
  Effect.flatMap(makeStreams(cacheDirectory === undefined ? {} : { cacheDirectory }), (streams) =>
    followArms(device, streams)).pipe(Effect.scoped)
