import * as Args from "@effect/cli/Args"
import * as Command from "@effect/cli/Command"
import { described, json, type OptionsOf, text } from "./options.ts"

/** `memsinks inspect`: what it takes. */
export const inspect = Command.make("inspect", {
  path: Args.text({ name: "path" }).pipe(Args.withDescription("Folder of a run, or of one checkpoint")),
  html: text("html", "file", "Also write a page with plots that needs nothing else"),
  json
}).pipe(
  described("Show a run's curves; a checkpoint's tensors, sinks, place in the data",
    "memsinks inspect runs/a --html curves.html")
)

export type InspectOptions = OptionsOf<typeof inspect>
