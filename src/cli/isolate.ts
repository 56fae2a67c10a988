/** `memsinks isolate`: the isolation experiment, or what two checkpoints know of the same data. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Isolation from "../../pipelines/isolation.ts"
import { planOf, presets } from "../../pipelines/isolation/Config.ts"
import { view } from "../../pipelines/isolation/view.ts"
import type { IsolateOptions } from "./commands/isolate.ts"
import { configOf, type Ready, runExperiment } from "./experiment.ts"

/** Prints the report on stdout and leaves it, with models and records, in the run's folder. */
export const isolate = (options: IsolateOptions) =>
  Effect.gen(function*() {
    if (Option.isSome(options.checkpoint) || Option.isSome(options.against)) {
      return yield* Effect.flatMap(Effect.promise(() => import("./compare.ts")), (it) => it.compare(options))
    }
    const preset = presets[Option.getOrElse(options.preset, () => "full" as const)]
    return yield* runExperiment("isolate", options, (where) =>
      Effect.map(
        configOf(Isolation.IsolateConfig, options, where, {
          defaults: Schema.encodeSync(Isolation.IsolateConfig)(preset),
          inWorld: true,
          check: planOf
        }),
        (config): Ready<Isolation.IsolationReport> => ({
          doing: "isolation checks",
          run: (shared) => Isolation.run(config, shared),
          view,
          toJson: Isolation.toJson,
          leaves: "report, models and records",
          width: 120
        })
      ))
  })
