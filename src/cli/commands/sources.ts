import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { checkpoint, counting, json, type OptionsOf, text } from "./options.ts"

/** `memsinks sources`: what it takes. */
export const sources = Command.make("sources", {
  checkpoint,
  search: text("search", "text", "Only those whose names contain it, in whatever case"),
  top: counting("top").pipe(Options.withDefault(20), Options.withDescription("Lines to show (default: 20)")),
  summary: Options.boolean("summary").pipe(
    Options.withDescription("Only sums: how many, documents, tokens, and the web sites with most of them")
  ),
  csv: Options.boolean("csv").pipe(Options.withDescription("All of them as CSV on stdout")),
  json
}).pipe(
  Command.withDescription("List what a model was trained on, and what was deleted from it")
)

export type SourcesOptions = OptionsOf<typeof sources>
