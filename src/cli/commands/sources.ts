import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { checkpoint, counting, described, json, number, type OptionsOf, text } from "./options.ts"

/** `memsinks sources`: what it takes. */
export const sources = Command.make("sources", {
  checkpoint,
  search: text("search", "text", "Only those whose names contain it, in whatever case"),
  top: number("top", "Lines of a page, those with most tokens first (default: as many as fit on a terminal, else 20)"),
  page: counting("page").pipe(Options.withDefault(1), Options.withDescription("Which page of them (default: 1)")),
  summary: Options.boolean("summary").pipe(
    Options.withDescription("Only sums, for a public report: in all, and by web site, owner and licence")
  ),
  csv: Options.boolean("csv").pipe(Options.withDescription("All of them, or of the sums, as CSV on stdout")),
  data: text("data", "folder", "Token shards of the training: look for near-duplicates that others hold in them"),
  hash: text("hash", "file", "Print the hash of a text, as forget --document takes it, and who in --data holds it"),
  json
}).pipe(
  described("List what a model was trained on, and what was deleted from it",
    "memsinks sources --checkpoint runs/a --summary")
)

export type SourcesOptions = OptionsOf<typeof sources>
