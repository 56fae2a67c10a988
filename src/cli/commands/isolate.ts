import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { adapter, batch, config, counting, force, json, lr, noProgress, type OptionsOf, overrides, seedsOfExperiment,
  seq, sizeOfExperiment, steps, verbose } from "./options.ts"

/** `memsinks isolate`: what it takes. */
export const isolate = Command.make("isolate", {
  preset: sizeOfExperiment,
  config,
  arms: Options.text("arms").pipe(
    Options.withPseudoName("names"),
    Options.withDescription("Arms to train, e.g. standard,neverRepeated,sinks,goldfish"),
    Options.optional
  ),
  subject: Options.text("subject").pipe(
    Options.withPseudoName("name"),
    Options.withDescription("The arm or method that the verdict is about (default: sinks)"),
    Options.optional
  ),
  seeds: seedsOfExperiment,
  steps,
  batch,
  seq,
  lr,
  outDir: Options.text("out-dir").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("Where the report, models and records go (default: runs/isolate-<time>)"),
    Options.optional
  ),
  resume: Options.text("resume").pipe(
    Options.withPseudoName("run"),
    Options.withDescription("Go on with the run in this folder, as for pretrain"),
    Options.optional
  ),
  store: Options.text("store").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("Models and records that several experiments share (default: store in --out-dir)"),
    Options.optional
  ),
  force,
  jobs: counting("jobs").pipe(
    Options.withDescription("Arms to train at once, as far as memory goes"),
    Options.withDefault(1)
  ),
  checkpoint: Options.text("checkpoint").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("Instead: tell what this checkpoint knows of the data it was trained on"),
    Options.optional
  ),
  against: Options.text("against").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("With --checkpoint: a model beside it, e.g. one that never saw the repeated sequences"),
    Options.optional
  ),
  adapter,
  json,
  quiet: noProgress,
  verbose,
  overrides: overrides("A field of the configuration, e.g. relearnSteps=128")
}).pipe(
  Command.withDescription(
    "Tell whether the memory is in the sinks and nowhere else: isolated, hidden, not isolated or undecided"
  )
)

export type IsolateOptions = OptionsOf<typeof isolate>
