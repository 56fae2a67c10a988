/**
 * Forgetting dynamics: what an exposure adds to a memory, how fast it fades while other data is learned, and what sinks
 * change about both. Trains the arms of a configuration on a timetable of exposures, probes them between the steps, and
 * reports saw-teeth, retention, where memory accumulates, how other data interferes, and what single sinks hold.
 */
import * as Path from "@effect/platform/Path"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { theory } from "../src/measures/Theory.ts"
import { claimsOf } from "./dynamics/Claims.ts"
import { DynamicsConfig, type Plan, planOf } from "./dynamics/Config.ts"
import { type ArmCost, DynamicsReport, type Failure } from "./dynamics/Report.ts"
import { type Found, summarize } from "./dynamics/Summary.ts"
import { armJob, type ArmResult, armWork, type DynamicsError, rowsOf } from "./dynamics/Train.ts"
import { view } from "./dynamics/view.ts"
import { dataOf, makeWorld } from "./dynamics/World.ts"
import { type Arm, arms, modelOf, trainingOf } from "./experiment/Arms.ts"
import * as Experiment from "./experiment/Experiment.ts"
import { folderOf } from "./experiment/RunFolder.ts"
import type { Files } from "./experiment/Train.ts"
import { estimate } from "./report/Estimate.ts"

export { DynamicsConfig, DynamicsReport }
export type { DynamicsError }

/** Where the experiment runs and what it leaves: the device, the run's folder, who is told of events. */
export type DynamicsOptions = Omit<Experiment.RunOptions, "store">

const encoded = Schema.encodeSync(DynamicsReport)

/** A report as JSON: numbers that are not finite are null. */
export const toJson = (report: DynamicsReport): string => JSON.stringify(encoded(report))

const warningsOf = (plan: Plan, failures: ReadonlyArray<Failure>): ReadonlyArray<string> => {
  const { arms, config, groups } = plan
  const names = arms.map(({ name }) => name)
  return [
    ...(config.seeds < 2 ? ["one seed is not a result: nothing has an interval over seeds"] : []),
    ...(names.includes("standard") ? [] : ["there is no arm standard to compare with"]),
    ...(groups.some(({ withheld }) => withheld)
      ? []
      : ["no group is left alone before the end, so there is no retention: set until to less than 7/8 for one"]),
    ...(groups.some(({ teeth }) => teeth)
      ? []
      : ["no group is probed around its exposures, so there are no saw-teeth"]),
    ...(failures.length === 0 ? [] : ["arms that failed in a seed are missing from its numbers"])
  ]
}

/** What an arm left in a seed. */
interface Left extends Found {
  readonly result: ArmResult
}

/** The forgetting experiment. */
const dynamics: Experiment.Experiment<unknown, DynamicsConfig, ReadonlyArray<Left>, DynamicsReport> = {
  kind: "dynamics",
  schema: DynamicsConfig,
  again: "from what is kept",
  encode: encoded,
  view,
  plan: (input, { streams }) =>
    Effect.gen(function*() {
      const plan = yield* planOf(input)
      const { config } = plan
      const seeds = Array.from({ length: config.seeds }, (_, i) => config.data.seed + i)
      const worlds = yield* Effect.forEach(seeds,
        (seed) => Effect.flatMap(streams.hold(dataOf(plan, seed)), (data) => makeWorld(plan, seed, data)))
      const { data } = worlds[0]!
      const modelsOf = plan.arms.map((arm) => modelOf(config.model, data.tokenizer.vocabSize, arm))
      const jobs = seeds.flatMap((seed) => plan.arms.map((arm) => armJob(plan, arm, seed)))
      return {
        config,
        seeds,
        arms: plan.arms.map(({ name }) => name),
        inputs: Effect.map(Effect.forEach(worlds, ({ data }) => data.inputs), (all) => all.flat()),
        verify: Effect.forEach(worlds, ({ data }) => data.verify, { discard: true }),
        title: "forgetting dynamics",
        trainings: Effect.succeed(worlds.flatMap(({ data: { batchSize, seqLen } }) =>
          plan.arms.map((arm, a) => ({
            model: modelsOf[a]!,
            data: { batchSize, seqLen, maxSegments: batchSize },
            training: trainingOf(config.training, arm),
            precision: config.precision
          }))
        )),
        work: ({ attempt, outDir, perform }) =>
          Effect.gen(function*() {
            const path = yield* Path.Path
            const place = ({ arm, seed }: Experiment.Named) => path.join(`seed-${seed}`, folderOf(arm))
            const done = yield* perform(armWork, jobs, { folderOf: place, keep: { keepLast: Infinity } })
            const found = yield* Effect.forEach(jobs, ({ arm, seed }, j) =>
              Effect.map(
                Effect.transposeMapOption(done[j]!, (result) =>
                  attempt({ arm, seed }, Effect.map(
                    rowsOf(result, outDir && path.join(outDir, place({ arm, seed }))),
                    (rows): Left => ({ arm, seed, rows, contents: result.contents, result })
                  ))),
                Option.flatten
              ))
            return found.flatMap(Option.toArray)
          }),
        report: (found, run, error) =>
          Effect.gen(function*() {
            if (found.length === 0) return yield* Effect.fail(error)
            const summary = summarize(found, worlds, plan)
            return {
              format: 1 as const,
              arms: plan.arms.map(({ arm, name }, a): ArmCost => {
                const of = (value: (one: ArmResult) => number) =>
                  estimate(seeds.map((seed) => {
                    const one = found.find((it) => it.arm === name && it.seed === seed)
                    return one && value(one.result)
                  }))
                return {
                  name,
                  title: (arms[arm] as Arm).title,
                  parameters: modelsOf[a]!.numParameters,
                  activeParameters: modelsOf[a]!.numActiveParameters,
                  seconds: of(({ seconds }) => seconds),
                  probeSeconds: of(({ probeSeconds }) => probeSeconds)
                }
              }),
              steps: plan.steps,
              tokensPerStep: data.batchSize * data.seqLen,
              ...summary,
              claims: claimsOf(summary, theory({ seed: seeds[0]! })),
              warnings: warningsOf(plan, run.failures),
              data: { vocabSize: data.tokenizer.vocabSize, seqLen: data.seqLen, promptTokens: config.promptTokens },
              ...run
            }
          })
      }
    })
}

/**
 * Run all arms of all seeds and report. Interruptible at any moment: checkpoints and traces stay in the folder, and a
 * later call with `resume` goes on from there, with no probe missing or doubled. An arm that fails is reported and does not
 * take the others with it. Fails with a DataError for a configuration that makes no sense, before anything is trained.
 */
export const run = (
  input: unknown,
  options: DynamicsOptions
): Effect.Effect<DynamicsReport, DynamicsError, Files> => Experiment.run(dynamics, input, options)
