import * as Command from "@effect/cli/Command"
import { arms, config, described, folder, jobs, type OptionsOf, overrides, queue, seedsOfExperiment, shape,
  sizeOfExperiment, store, telling, text } from "./options.ts"

/** `memsinks isolate`: what it takes. */
export const isolate = Command.make("isolate", {
  preset: sizeOfExperiment,
  config,
  arms: arms("Arms to train, e.g. standard,neverRepeated,sinks,goldfish"),
  subject: text("subject", "name", "The arm or method that the verdict is about (default: sinks)"),
  seeds: seedsOfExperiment,
  ...shape,
  ...folder("isolate", "the report, models and records"),
  store: store("Models and records that several experiments"),
  jobs: jobs("Arms to train"),
  ...queue,
  checkpoint: text("checkpoint", "folder", "Instead: tell what this checkpoint knows of the data it was trained on"),
  against: text("against", "folder",
    "With --checkpoint: a model beside it, e.g. one that never saw the repeated sequences"),
  ...telling,
  overrides: overrides("A field of the configuration, e.g. relearnSteps=128")
}).pipe(
  described("Tell whether the memory is in the sinks and nowhere else: a verdict by intervals",
    "memsinks isolate --preset quick --seeds 2", "memsinks isolate --checkpoint runs/a --against runs/b")
)

export type IsolateOptions = OptionsOf<typeof isolate>
