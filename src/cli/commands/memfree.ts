import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { counting, described, json, onMissingText, type OptionsOf, quiet, text, within } from "./options.ts"

/** `memsinks memfree`: what it takes. */
export const memfree = Command.make("memfree", {
  data: Options.text("data").pipe(
    Options.withPseudoName("path"),
    Options.withDescription("Protected texts, .jsonl, .parquet or token shards"),
    Options.repeated
  ),
  out: Options.text("out").pipe(
    Options.withPseudoName("file"),
    Options.withDescription("The filter, for memsinks generate --memfree")
  ),
  tokenizer: text("tokenizer", "path", "The model's tokenizer.json, or a folder with it (shards know theirs)"),
  ngram: counting("ngram", 2).pipe(
    Options.withDefault(10),
    Options.withDescription("Tokens of an n-gram; shorter copies are allowed (default: 10)")
  ),
  falsePositives: within("false-positives", "above 0 and below 1", (value) => value > 0 && value < 1).pipe(
    Options.withPseudoName("share"),
    Options.withDefault(0.01),
    Options.withDescription("Share of other n-grams that are kept from being said, too (default: 0.01)")
  ),
  textField: text("text-field", "name", "Field of a record with its text (default: text)"),
  onMissingText,
  json,
  quiet
}).pipe(
  described("Collect the n-grams of protected texts, which generate --memfree never completes",
    "memsinks memfree --data protected.jsonl --out protected.bin")
)

export type MemfreeOptions = OptionsOf<typeof memfree>
