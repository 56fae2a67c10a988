import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { identities } from "../../data/identity/Identity.ts"
import { adapter, checkpoint, counting, json, type OptionsOf, precision, quiet } from "./options.ts"

/** `memsinks evaluate`: what it takes. */
export const evaluate = Command.make("evaluate", {
  checkpoint,
  data: Options.text("data").pipe(
    Options.withPseudoName("path"),
    Options.withDescription(
      "Text, .jsonl, .parquet or token shards (default: what its run was trained and validated on)"
    ),
    Options.optional
  ),
  sourceField: Options.text("source-field").pipe(
    Options.withPseudoName("name"),
    Options.withDescription("Field of --data that says which source a text is from (default: its file)"),
    Options.optional
  ),
  specialAsText: Options.boolean("special-as-text").pipe(
    Options.withDescription("Names of special tokens in the texts of --data are text like any other")
  ),
  sinks: Options.text("sinks").pipe(
    Options.withPseudoName("states"),
    Options.withDescription("Which to compare, of own,off,placebo,all (default: own,off,placebo)"),
    Options.optional
  ),
  identity: Options.choice("identity", identities).pipe(
    Options.withDescription("Whose sinks are a text's own, for --data (default: as its run's)"),
    Options.optional
  ),
  seq: counting("seq").pipe(
    Options.withDescription("Tokens a sequence of --data (default: as its run's, else 512)"),
    Options.optional
  ),
  batch: counting("batch").pipe(Options.withDefault(8), Options.withDescription("Sequences at once (default: 8)")),
  sequences: counting("sequences").pipe(
    Options.withDefault(512),
    Options.withDescription("Sequences to score at most, of --data or of each split (default: 512)")
  ),
  promptTokens: counting("prompt-tokens").pipe(
    Options.withDefault(16),
    Options.withDescription("Tokens given before a sequence must be said verbatim (default: 16)")
  ),
  seed: counting("seed", 0).pipe(Options.withDefault(1), Options.withDescription("Of the choice (default: 1)")),
  precision,
  adapter,
  json,
  quiet
}).pipe(
  Command.withDescription("Score a checkpoint on data, sinks on and off side by side")
)

export type EvaluateOptions = OptionsOf<typeof evaluate>
