import * as Args from "@effect/cli/Args"
import * as Command from "@effect/cli/Command"
import { described, json, type OptionsOf } from "./options.ts"

/** `memsinks runs`: what it takes. */
export const runs = Command.make("runs", {
  folder: Args.text({ name: "folder" }).pipe(
    Args.withDescription("Where to look for runs, or one of them (default: runs)"),
    Args.optional
  ),
  json
}).pipe(
  described("List runs: whether they run, how far they came, their losses", "memsinks runs",
    "memsinks runs runs/a --json")
)

export type RunsOptions = OptionsOf<typeof runs>
