import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { adapter, batch, config, counting, force, json, lr, noProgress, type OptionsOf, overrides, seedsOfExperiment,
  seq, sizeOfExperiment, steps, verbose } from "./options.ts"

/** `memsinks dynamics`: what it takes. */
export const dynamics = Command.make("dynamics", {
  preset: sizeOfExperiment,
  config,
  arms: Options.text("arms").pipe(
    Options.withPseudoName("names"),
    Options.withDescription("Arms to train, e.g. standard,sinks"),
    Options.optional
  ),
  seeds: seedsOfExperiment,
  steps,
  batch,
  seq,
  lr,
  from: Options.text("from").pipe(
    Options.withPseudoName("run"),
    Options.withDescription("Train nothing: probe the checkpoints of this run of pretrain or dynamics"),
    Options.optional
  ),
  ids: Options.text("ids").pipe(
    Options.withPseudoName("ids"),
    Options.withDescription("With --from: only the sequences of these ids, numbers or names, e.g. 1,2"),
    Options.optional
  ),
  watch: Options.boolean("watch").pipe(
    Options.withDescription("Draw the curves in the terminal while the run goes on")
  ),
  outDir: Options.text("out-dir").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("Where the report, checkpoints and traces go (default: runs/dynamics-<time>)"),
    Options.optional
  ),
  resume: Options.text("resume").pipe(
    Options.withPseudoName("run"),
    Options.withDescription("Go on with the run in this folder, as for pretrain"),
    Options.optional
  ),
  force,
  jobs: counting("jobs").pipe(
    Options.withDescription("Arms to train, or with --from checkpoints to probe, at once, as far as memory goes"),
    Options.withDefault(1)
  ),
  adapter,
  json,
  quiet: noProgress,
  verbose,
  overrides: overrides("A field of the configuration, e.g. probeEvery=4")
}).pipe(
  Command.withDescription("Watch memories being written, protected and overwritten while models train")
)

export type DynamicsOptions = OptionsOf<typeof dynamics>
