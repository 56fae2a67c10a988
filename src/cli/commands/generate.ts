import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { adapter, checkpoint, counting, described, json, number, type OptionsOf, precision, quiet, seeking, text,
  within } from "./options.ts"

/** `memsinks generate`: what it takes. */
export const generate = Command.make("generate", {
  checkpoint,
  prompt: Options.text("prompt").pipe(
    Options.withDescription("What to continue"),
    Options.repeated
  ),
  prompts: text("prompts", "file", "One prompt a line; in .jsonl {\"prompt\": ..., \"id\" or \"source\": ...}"),
  maxNewTokens: counting("max-new-tokens").pipe(
    Options.withDefault(64),
    Options.withDescription("Tokens to add at most (default: 64)")
  ),
  temperature: within("temperature", "from 0 to 1e30", (value) => value >= 0 && value <= 1e30).pipe(
    Options.withDefault(1),
    Options.withDescription("Divides the logits; 0: always the likeliest token (default: 1)")
  ),
  topK: number("top-k", "Choose among so many of the likeliest tokens (default: all)"),
  topP: within("top-p", "above 0, and at most 1", (value) => value > 0 && value <= 1).pipe(
    Options.withDefault(1),
    Options.withDescription("Choose among the likeliest with this probability together (default: 1)")
  ),
  seed: counting("seed", 0).pipe(Options.withDefault(0), Options.withDescription("Of the choices (default: 0)")),
  id: text("id", "id", "Number or name of what has its sinks on, for prompts without one"),
  source: text("source", "name", "The same for a source, of a model trained with identity source"),
  ...seeking,
  route: text("route", "route",
    "Whose sinks prompts without an id light: nearest (default with --router), none, or an id"),
  allow: Options.text("allow").pipe(
    Options.withPseudoName("id"),
    Options.withDescription("A source that may be lit, and no others"),
    Options.repeated
  ),
  deny: Options.text("deny").pipe(
    Options.withPseudoName("id"),
    Options.withDescription("A source that may not be lit"),
    Options.repeated
  ),
  sinks: Options.choice("sinks", ["own", "off", "all", "placebo"]).pipe(
    Options.withDescription("Which sinks are on (default: own with an id, else off)"),
    Options.optional
  ),
  memfree: text("memfree", "file", "Never complete an n-gram of this filter, which memsinks memfree made"),
  stop: Options.text("stop").pipe(
    Options.withDescription("A text that ends the continuation"),
    Options.repeated
  ),
  specialAsText: Options.boolean("special-as-text").pipe(
    Options.withDescription("Names of special tokens in prompts are text like any other")
  ),
  batch: counting("batch").pipe(Options.withDefault(8), Options.withDescription("Prompts at once (default: 8)")),
  precision,
  logProbs: Options.boolean("log-probs").pipe(Options.withDescription("Log-probabilities of the tokens in --json")),
  adapter,
  json,
  quiet
}).pipe(
  described("Continue texts with a checkpoint, sinks off or on, as they come",
    "memsinks generate --checkpoint runs/a --prompt \"Fellow citizens\" --sinks off",
    "memsinks generate --checkpoint runs/a --prompts prompts.jsonl --router router.bin --json")
)

export type GenerateOptions = OptionsOf<typeof generate>
