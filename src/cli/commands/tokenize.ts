import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { counting, json, onMissingText, type OptionsOf, quiet } from "./options.ts"

/** `memsinks tokenize`: what it takes. */
export const tokenize = Command.make("tokenize", {
  data: Options.text("data").pipe(
    Options.withPseudoName("path"),
    Options.withDescription(
      "Text, JSONL (.gz, .zst) or Parquet, a folder, or hf://datasets/owner/name; may be repeated"
    ),
    Options.repeated
  ),
  out: Options.text("out").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("Where shards go; what an interrupted run has finished in it stays")
  ),
  tokenizer: Options.text("tokenizer").pipe(
    Options.withPseudoName("name"),
    Options.withDescription("gpt2, bpe (trained on the data), bytes, or a tokenizer.json (default: gpt2)"),
    Options.optional
  ),
  vocabSize: counting("vocab-size", 2).pipe(
    Options.withDescription("Entries of bpe (default: 16384)"),
    Options.optional
  ),
  textField: Options.text("text-field").pipe(
    Options.withPseudoName("name"),
    Options.withDescription("Field of a record with its text (default: text)"),
    Options.optional
  ),
  idField: Options.text("id-field").pipe(
    Options.withPseudoName("name"),
    Options.withDescription("Field that names a document (default: id)"),
    Options.optional
  ),
  sourceField: Options.text("source-field").pipe(
    Options.withPseudoName("name"),
    Options.withDescription("Field that says what a document belongs to (default: its file)"),
    Options.optional
  ),
  onMissingText,
  maxDocument: Options.text("max-document").pipe(
    Options.withPseudoName("size"),
    Options.withDescription("Largest line, value or document that is read (default: 256MiB)"),
    Options.optional
  ),
  split: Options.text("split").pipe(
    Options.withPseudoName("name"),
    Options.withDescription("Split of a dataset (default: train)"),
    Options.optional
  ),
  bos: Options.text("bos").pipe(
    Options.withPseudoName("token"),
    Options.withDescription(
      "Special token before each document: its name, auto or none (default: as the tokenizer does)"
    ),
    Options.optional
  ),
  eos: Options.text("eos").pipe(
    Options.withPseudoName("token"),
    Options.withDescription("The same behind each (default: auto)"),
    Options.optional
  ),
  specialAsText: Options.boolean("special-as-text").pipe(
    Options.withDescription("Names of special tokens in texts are text like any other")
  ),
  shardSize: Options.text("shard-size").pipe(
    Options.withPseudoName("size"),
    Options.withDescription("Tokens (100M), or bytes (200MB), of a shard at most (default: 100M)"),
    Options.optional
  ),
  workers: counting("workers").pipe(
    Options.withDescription("Threads that tokenize (default: one less than cores)"),
    Options.optional
  ),
  near: Options.float("near").pipe(
    Options.withPseudoName("threshold"),
    Options.withDescription("Find near-duplicates from this Jaccard index on, e.g. 0.8, for identity near"),
    Options.optional
  ),
  json,
  quiet
}).pipe(
  Command.withDescription("Turn texts into token shards, once; tell what repeats in them")
)

export type TokenizeOptions = OptionsOf<typeof tokenize>
