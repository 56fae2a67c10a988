import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { identities } from "../../data/identity/Identity.ts"
import { adapter, checkpoint, counting, described, json, number, type OptionsOf, precision, quiet,
  text } from "./options.ts"

/** `memsinks evaluate`: what it takes. */
export const evaluate = Command.make("evaluate", {
  checkpoint: checkpoint.pipe(Options.withDescription("As for generate"), Options.atLeast(1)),
  tasks: text("tasks", "file",
    "Questions as .jsonl instead of data: {query, choices, gold} or {context, continuation}, see the manual"),
  data: text("data", "path",
    "Text, .jsonl, .parquet or token shards (default: what its run was trained and validated on)"),
  sourceField: text("source-field", "name",
    "Field of --data that says which source a text is from (default: its file)"),
  specialAsText: Options.boolean("special-as-text").pipe(
    Options.withDescription("Names of special tokens in the texts of --data are text like any other")
  ),
  sinks: text("sinks", "states", "Which to compare, of own,off,placebo,all (default: own,off,placebo)"),
  id: text("id", "id", "Number or name of whose sinks are own, for lines of --tasks without an id or source"),
  identity: Options.choice("identity", identities).pipe(
    Options.withDescription("Whose sinks are a text's own, for --data (default: as its run's)"),
    Options.optional
  ),
  seq: number("seq",
    "Tokens a sequence of --data (default: as its run's, else 512), or of --tasks (default: all positions)"),
  batch: counting("batch").pipe(Options.withDefault(8), Options.withDescription("Sequences at once (default: 8)")),
  sequences: number("sequences",
    "Sequences to score at most, of --data or of each split (default: 512), or questions of each task (default: all)"),
  promptTokens: number("prompt-tokens", "Tokens given before a sequence must be said verbatim (default: 16)"),
  seed: counting("seed", 0).pipe(Options.withDefault(1), Options.withDescription("Of the choice (default: 1)")),
  precision,
  adapter,
  json,
  quiet
}).pipe(
  described("Score a checkpoint on data, sinks on and off side by side",
    "memsinks evaluate --checkpoint runs/a --data tokens", "memsinks evaluate --checkpoint runs/a --tasks sciq.jsonl")
)

export type EvaluateOptions = OptionsOf<typeof evaluate>
