import * as Args from "@effect/cli/Args"
import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { described, json, type OptionsOf, text } from "./options.ts"

/** `memsinks results`: what it takes. */
export const results = Command.make("results", {
  folder: Args.text({ name: "folder" }).pipe(
    Args.withDescription("Results in Markdown, runs with a report.md, or one of them (default: pipelines/results)"),
    Args.withDefault("pipelines/results")
  ),
  out: Options.text("out").pipe(
    Options.withPseudoName("path"),
    Options.withDescription("One page, where it ends with .html, else a folder of pages (default: results.html)"),
    Options.withDefault("results.html")
  ),
  title: text("title", "text", "What the site is called (default: Results)"),
  json
}).pipe(
  described("Make a site of results: an index with their verdicts, figures inside, no network",
    "memsinks results --out results.html", "memsinks results runs --out site")
)

export type ResultsOptions = OptionsOf<typeof results>
