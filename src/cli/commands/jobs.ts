import * as Args from "@effect/cli/Args"
import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { described, json, type OptionsOf } from "./options.ts"

/** `memsinks jobs`: what it takes. */
export const queued = Command.make("jobs", {
  queue: Options.text("queue").pipe(
    Options.withPseudoName("url"),
    Options.withDescription("Where the jobs are: sqlite:FILE or postgres://...")
  ),
  retry: Options.boolean("retry").pipe(
    Options.withDescription("Have jobs that failed tried again: those that are named, or all")
  ),
  remove: Options.boolean("remove").pipe(
    Options.withDescription("Take jobs out that nobody does: those that are named, or all that are done or failed")
  ),
  json,
  ids: Args.text({ name: "id" }).pipe(
    Args.withDescription("Jobs, by the beginnings of their ids; with --retry or --remove"),
    Args.repeated
  )
}).pipe(
  described("Show the jobs and workers of a queue: who does what, how long, what failed",
    "memsinks jobs --queue sqlite:queue.db")
)

export type JobsOptions = OptionsOf<typeof queued>
