import * as Args from "@effect/cli/Args"
import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { json, type OptionsOf } from "./options.ts"

/** `memsinks inspect`: what it takes. */
export const inspect = Command.make("inspect", {
  path: Args.text({ name: "path" }).pipe(Args.withDescription("Folder of a run, or of one checkpoint")),
  html: Options.text("html").pipe(
    Options.withPseudoName("file"),
    Options.withDescription("Also write a page with plots that needs nothing else"),
    Options.optional
  ),
  json
}).pipe(
  Command.withDescription("Show a run's curves; a checkpoint's tensors, sinks, place in the data")
)

export type InspectOptions = OptionsOf<typeof inspect>
