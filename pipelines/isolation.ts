/**
 * Isolation checks: is the memory in the sinks, and nowhere else? Trains the arms of a configuration on the same data,
 * tries what post-hoc methods do to the standard model, looks at every model in every state of its sinks, tries to make
 * it remember, and says in one word what came out: isolated, hidden, not isolated, or undecided.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { DataStream } from "../src/data/stream/DataStream.ts"
import { attempt, DataError } from "../src/Errors.ts"
import { theory } from "../src/measures/Theory.ts"
import { modelOf, ORACLE, STANDARD } from "./experiment/Arms.ts"
import * as Experiment from "./experiment/Experiment.ts"
import type { Files } from "./experiment/Train.ts"
import { attackNamed } from "./isolation/AttackConfig.ts"
import { checkAttacks } from "./isolation/Attacks.ts"
import { claimsOf } from "./isolation/Claims.ts"
import { IsolateConfig, planOf } from "./isolation/Config.ts"
import { investigate } from "./isolation/Findings.ts"
import { trainingOfArm } from "./isolation/Jobs.ts"
import { metricsFor, windowsOf } from "./isolation/Metrics.ts"
import { type IsolateError, makeLabs, trainWork, withBatches } from "./isolation/Models.ts"
import { IsolationReport } from "./isolation/Report.ts"
import { type SeedFindings, summarize } from "./isolation/Summary.ts"
import { leftOf, verdictsOf, warningsOf } from "./isolation/Verdicts.ts"
import { view } from "./isolation/view.ts"
import { checkDisjoint, firstSeed, type World } from "./isolation/World.ts"

export { IsolateConfig, IsolationReport }
export type { IsolateError }

/** Where the experiment runs and what it leaves: the device, the run's folder, the store of trained models. */
export type IsolateOptions = Experiment.RunOptions

/** A report as JSON: numbers that are not finite are null. */
const encoded = Schema.encodeSync(IsolationReport)

/** A report as the text of `report.json`: numbers that are not finite are null. */
export const toJson = (report: IsolationReport): string => JSON.stringify(encoded(report))

/** How many of the repeated sequences, canaries among them, have how many exposures. */
const exposuresOf = ({ repeatsOf, splits }: World): IsolationReport["data"]["repeats"] => {
  const count = new Map<number, number>()
  for (const row of [...splits.seen, ...splits.scored, ...splits.canarySeen, ...splits.canaryScored]) {
    count.set(repeatsOf(row), (count.get(repeatsOf(row)) ?? 0) + 1)
  }
  return [...count].sort(([a], [b]) => b - a).map(([exposures, sequences]) => ({ sequences, exposures }))
}

/** What relearning and unlearners train on must not be what they are scored by. */
const checkSplits = ({ splits: { heldOut, retained, scored, seen, validation } }: World) =>
  Effect.zipRight(
    checkDisjoint(seen, [...scored, ...validation, ...heldOut]),
    checkDisjoint(retained, [...seen, ...scored, ...validation, ...heldOut])
  )

/** The isolation checks as an experiment. */
const isolate: Experiment.Experiment<unknown, IsolateConfig, ReadonlyArray<SeedFindings>, IsolationReport> = {
  kind: "isolate",
  schema: IsolateConfig,
  again: "from what is kept",
  encode: encoded,
  view,
  plan: (given, { streams }) =>
    Effect.gen(function*() {
      const plan = yield* planOf(given)
      const { arms, config, subject } = plan
      const labs = makeLabs()
      const first = firstSeed(config.world)
      const seeds = Array.from({ length: config.seeds }, (_, i) => first + i)
      const input = { config: Schema.encodeSync(IsolateConfig)(config) }
      // the data of every seed, which may not do, before anything is claimed or trained; no device is asked yet
      const all = yield* Effect.forEach(seeds,
        (seed) => labs.of({ ...input, seed }, { machine: { adapter: "", kernels: "" } }))
      yield* Effect.forEach(all, (lab) => Effect.zipRight(checkSplits(lab.world), checkAttacks(lab)), { discard: true })
      const lab = all[0]!
      const { world } = lab
      return {
        config,
        seeds,
        arms: arms.map(({ name }) => name),
        inputs: Effect.succeed(all.flatMap(({ inputs }) => inputs)),
        title: "isolation checks",
        trainings: Effect.forEach(arms, (arm) =>
          withBatches(lab, arm, streams, Effect.map(DataStream, (data) => ({
            model: modelOf(config.model, lab.vocabSize, arm),
            training: trainingOfArm(lab, arm),
            precision: config.precision,
            data
          })))),
        work: (engine) =>
          Effect.gen(function*() {
            const trained = yield* engine.perform(trainWork(labs),
              seeds.flatMap((seed) =>
                arms.map(({ name }) => ({ kind: "models", arm: name, seed, input: { ...input, seed, arm: name } }))
              ))
            return yield* Effect.forEach(seeds, (seed, s) =>
              investigate(labs, engine, { ...input, seed }, new Map(
                trained.slice(s * arms.length, (s + 1) * arms.length).flatMap((one, i) =>
                  Option.isNone(one) ? [] : [[arms[i]!.name, one.value]]
                )
              )))
          }),
        report: (found, run) =>
          Effect.gen(function*() {
            const parts = summarize(found, { standard: STANDARD, oracle: ORACLE })
            const verdicts = yield* attempt(() => verdictsOf(parts, plan, run.failures), DataError)
            const { decidedBy, word } = verdicts.find(({ arm }) => arm === subject)!
            const data = {
              world: config.world.world,
              trainedTokens: lab.steps * world.batches.rows * world.seqLen * config.training.gradientAccumulation,
              vocabSize: lab.vocabSize,
              seqLen: world.seqLen,
              splits: Object.fromEntries(Object.entries(world.splits).map(([name, rows]) => [name, rows?.length ?? 0])),
              dropped: world.dropped,
              repeats: exposuresOf(world)
            }
            const unclaimed: Omit<IsolationReport, "claims"> = {
              format: 2,
              subject,
              word,
              decidedBy,
              verdicts,
              metrics: [
                ...metricsFor(windowsOf(config.contexts, world.seqLen)).map(({ of: _, ...metric }) => metric),
                ...plan.attacks.flatMap(({ metrics }) => metrics.map(({ group: _, kind: __, ...metric }) => metric))
              ],
              ...(plan.attacks.length === 0 ? {} : { attacks: plan.attacks.map((attack) => ({
                name: attack.name,
                attack: attack.method,
                title: attackNamed(attack.method).title,
                paper: attackNamed(attack.method).paper,
                options: attack.encoded,
                left: attackNamed(attack.method).defends === true ? [] : leftOf(parts, plan, attack)
              })) }),
              ...parts,
              theory: theory({ seed: first }),
              warnings: warningsOf(parts, plan, data, world.singles),
              data,
              ...run
            }
            return { ...unclaimed, claims: claimsOf(unclaimed) }
          })
      }
    })
}

/**
 * Run all arms of all seeds and report. Interruptible at any moment: what is done is kept in the store, and a later call
 * with `resume` goes on from there. An arm that fails is reported and does not take the others with it. Fails with a
 * DataError for a configuration that makes no sense, before anything is trained.
 */
export const run = (input: unknown, options: IsolateOptions): Effect.Effect<IsolationReport, IsolateError, Files> =>
  Experiment.run(isolate, input, options)
