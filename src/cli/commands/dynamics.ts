import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { arms, config, described, folder, jobs, type OptionsOf, overrides, queue, seedsOfExperiment, shape,
  sizeOfExperiment, telling, text } from "./options.ts"

/** `memsinks dynamics`: what it takes. */
export const dynamics = Command.make("dynamics", {
  preset: sizeOfExperiment,
  config,
  arms: arms("Arms to train, e.g. standard,sinks"),
  seeds: seedsOfExperiment,
  ...shape,
  from: text("from", "run", "Train nothing: probe the checkpoints of this run of pretrain or dynamics"),
  ids: text("ids", "ids", "With --from: only the sequences of these ids, numbers or names, e.g. 1,2"),
  watch: Options.boolean("watch").pipe(
    Options.withDescription("Draw the curves in the terminal while the run goes on")
  ),
  ...folder("dynamics", "the report, checkpoints and traces"),
  jobs: jobs("Arms to train, or with --from checkpoints to probe,"),
  ...queue,
  ...telling,
  overrides: overrides("A field of the configuration, e.g. probeEvery=4")
}).pipe(
  described("Watch memories being written, protected and overwritten while models train",
    "memsinks dynamics --preset quick --watch", "memsinks dynamics --from runs/a")
)

export type DynamicsOptions = OptionsOf<typeof dynamics>
