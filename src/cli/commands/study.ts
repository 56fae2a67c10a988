import * as Args from "@effect/cli/Args"
import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { config, described, folder, jobs, number, type OptionsOf, queue, store, telling } from "./options.ts"

/** `memsinks study`: what it takes. */
export const study = Command.make("study", {
  all: Options.boolean("all").pipe(
    Options.withDescription("Run all studies, or those that are named, and make one page of them")
  ),
  preset: Options.choice("preset", ["quick", "full"] as const).pipe(
    Options.withDescription("Size of the study (default: quick)"),
    Options.optional
  ),
  config,
  seeds: number("seeds", "How many seeds to run (default: that of the preset)"),
  ...folder("study-<name>", "the report, with what was computed,",
    "Go on with the study in this folder, as for pretrain"),
  store: store("Parts of studies that several runs"),
  jobs: jobs("Parts of the study to compute"),
  ...queue,
  dryRun: Options.boolean("dry-run").pipe(
    Options.withDescription("Print the configuration and the parts that would be computed, and compute nothing")
  ),
  ...telling,
  overrides: Args.text({ name: "name, key=value" }).pipe(
    Args.withDescription(
      "The study's name, and fields of its configuration, e.g. associative alpha=1.5; none: list all"
    ),
    Args.repeated
  )
}).pipe(
  described("Reproduce the main figure of a paper in miniature, sinks beside it, with a verdict", "memsinks study",
    "memsinks study associative --preset quick alpha=1.5")
)

export type StudyOptions = OptionsOf<typeof study>
