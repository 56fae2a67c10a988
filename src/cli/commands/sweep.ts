import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { adapter, config, counting, force, json, noProgress, type OptionsOf, overrides, verbose } from "./options.ts"

/** `memsinks sweep`: what it takes. */
export const sweep = Command.make("sweep", {
  config,
  seeds: counting("seeds").pipe(Options.withDescription("How many seeds each point has (default: 1)"),
    Options.optional),
  arms: Options.text("arms").pipe(
    Options.withPseudoName("names"),
    Options.withDescription("What is trained at every point (default: standard,sinks)"),
    Options.optional
  ),
  outDir: Options.text("out-dir").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("Where the report, tables and models go (default: runs/sweep-<time>)"),
    Options.optional
  ),
  resume: Options.text("resume").pipe(
    Options.withPseudoName("run"),
    Options.withDescription("Go on with the sweep in this folder, as for pretrain"),
    Options.optional
  ),
  store: Options.text("store").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("Trainings that several sweeps share (default: store in --out-dir)"),
    Options.optional
  ),
  force,
  jobs: counting("jobs").pipe(
    Options.withDescription("Trainings at once, as far as memory goes"),
    Options.withDefault(1)
  ),
  dryRun: Options.boolean("dry-run").pipe(
    Options.withDescription("Print the number of points and what they cost, and train nothing")
  ),
  adapter,
  json,
  quiet: noProgress,
  verbose,
  overrides: overrides("A field of the configuration, e.g. draw.random=20")
}).pipe(
  Command.withDescription("Train at many values of any fields of a configuration, and tell which are best")
)

export type SweepOptions = OptionsOf<typeof sweep>
