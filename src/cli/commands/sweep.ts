import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { arms, config, described, folder, jobs, number, type OptionsOf, overrides, queue, store,
  telling } from "./options.ts"

/** `memsinks sweep`: what it takes. */
export const sweep = Command.make("sweep", {
  config,
  seeds: number("seeds", "How many seeds each point has (default: 1)"),
  arms: arms("What is trained at every point (default: standard,sinks)"),
  ...folder("sweep", "the report, tables and models", "Go on with the sweep in this folder, as for pretrain"),
  store: store("Trainings that several sweeps"),
  jobs: jobs("Trainings"),
  ...queue,
  dryRun: Options.boolean("dry-run").pipe(
    Options.withDescription("Print the number of points and what they cost, and train nothing")
  ),
  ...telling,
  overrides: overrides("A field of the configuration, e.g. draw.random=20")
}).pipe(
  described("Train at many values of any fields of a configuration, and tell which are best",
    "memsinks sweep --config sweep.yaml --seeds 3 --out-dir runs/widths")
)

export type SweepOptions = OptionsOf<typeof sweep>
