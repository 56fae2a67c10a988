/** `memsinks dynamics`: the forgetting experiment, or its probes on the checkpoints of a run that is finished. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Dynamics from "../../pipelines/dynamics.ts"
import { planOf, presets } from "../../pipelines/dynamics/Config.ts"
import { replay } from "../../pipelines/dynamics/Replay.ts"
import { view } from "../../pipelines/dynamics/view.ts"
import { notIds, splitIds } from "../data/identity/Names.ts"
import type { DynamicsOptions } from "./commands/dynamics.ts"
import * as Edge from "./Edge.ts"
import { configOf, type Ready, runExperiment } from "./experiment.ts"

/** The ids that `--ids` names. */
const idsOf = (ids: Option.Option<string>) =>
  Option.match(ids, {
    onNone: () => Effect.succeed(undefined),
    onSome: (text) =>
      Option.match(Option.fromNullable(splitIds(text)), {
        onNone: () => Effect.fail(Edge.usage({ message: notIds(text) })),
        onSome: Effect.succeed
      })
  })

/** Prints the report on stdout and leaves it, with checkpoints and traces, in the run's folder. */
export const dynamics = (options: DynamicsOptions) =>
  runExperiment("dynamics", options, (where) =>
    Effect.gen(function*() {
      const from = Option.getOrUndefined(options.from)
      const configured = [options.config, options.preset, options.arms, options.seeds].some((one) =>
        Option.isSome<unknown>(one)
      )
      if (from !== undefined && (options.overrides.length > 0 || configured)) {
        return yield* Effect.fail(Edge.usage({
          message:
            "--from looks at a run as it is: leave --config, --preset, --arms, --seeds and fields of the configuration out"
        }))
      }
      if (from === undefined && Option.isSome(options.ids)) {
        return yield* Effect.fail(
          Edge.usage({ message: "--ids chooses among the sequences of a run: name it with --from" })
        )
      }
      const ids = yield* idsOf(options.ids)
      const shown = { doing: "forgetting dynamics", view, toJson: Dynamics.toJson,
        leaves: "report, checkpoints and traces", width: 120 }
      if (from !== undefined) {
        const run: Ready<Dynamics.DynamicsReport>["run"] = (shared) =>
          replay(from, { ...shared, ...(ids === undefined ? {} : { ids }) })
        return { ...shown, run, again: ` --from ${from}` }
      }
      const preset = presets[Option.getOrElse(options.preset, () => "full" as const)]
      const config = yield* configOf(Dynamics.DynamicsConfig, options, where, {
        defaults: Schema.encodeSync(Dynamics.DynamicsConfig)(preset),
        check: planOf
      })
      return { ...shown, run: (shared) => Dynamics.run(config, shared) } satisfies Ready<Dynamics.DynamicsReport>
    }))
