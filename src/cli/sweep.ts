/** `memsinks sweep`: pretraining at many values of any fields of its configuration. */
import * as Effect from "effect/Effect"
import * as Sweep from "../../pipelines/sweep.ts"
import { pointsOf } from "../../pipelines/sweep/Config.ts"
import { view } from "../../pipelines/sweep/view.ts"
import { count } from "../Terminal.ts"
import type { SweepOptions } from "./commands/sweep.ts"
import * as Edge from "./Edge.ts"
import { configOf, type Ready, runExperiment } from "./experiment.ts"

/** Prints how many points there are, and what they cost. */
const dryRun = (config: Sweep.SweepConfig, json: boolean) =>
  Effect.gen(function*() {
    const cost = yield* Sweep.costOf(config)
    const { operations, points, steps, tokens, trainings } = cost
    yield* Edge.print(json ? JSON.stringify(cost) : [
      `points: ${count(points)}, with ${count(config.seeds)} seed${config.seeds === 1 ? "" : "s"} of ${
        config.arms.join(", ")
      }`,
      `trainings: ${count(trainings.all)}, of which ${
        count(trainings.different)
      } are different; equal ones are done once`,
      `cost: ${count(steps)} steps, ${count(tokens)} tokens, ${
        operations.toPrecision(2)
      } operations forward and backward`
    ].join("\n"))
  })

/** Prints the report on stdout and leaves it, with the tables of data and the models, in the run's folder. */
export const sweep = (options: SweepOptions) =>
  runExperiment("sweep", options, (where) =>
    Effect.gen(function*() {
      // a field that a configuration does not have, or a value that it cannot, is told before anything is made
      const config = yield* configOf(Sweep.SweepConfig, options, where, { defaults: {}, check: pointsOf })
      if (options.dryRun) return yield* dryRun(config, options.json)
      return {
        doing: "a sweep",
        run: (shared) => Sweep.run(config, shared),
        view,
        toJson: Sweep.toJson,
        leaves: "report, tables and models"
      } satisfies Ready<Sweep.SweepReport>
    }))
