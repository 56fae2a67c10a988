import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { constants } from "node:buffer"
import { MOST } from "../../Config.ts"
import { countable, counting, described, json, number, onMissingText, type OptionsOf, parseSize, quiet, readAs, size,
  text, within } from "./options.ts"

const TOKENS: Readonly<Record<string, number>> = { "": 1, k: 1e3, m: 1e6, b: 1e9, g: 1e9 }

/** `100M`, `5e7`: tokens. `200MB`, `200MiB`: bytes. */
export const parseShardSize = (
  text: string
): { readonly shardTokens: number } | { readonly shardBytes: number } | undefined => {
  const [, number, unit] = /^\s*(\d+(?:\.\d+)?(?:e\d+)?)\s*([kmbg]?)\s*$/i.exec(text) ?? []
  if (number !== undefined) {
    const shardTokens = countable(Number(number) * TOKENS[unit!.toLowerCase()]!)
    return shardTokens === undefined || shardTokens > MOST ? undefined : { shardTokens }
  }
  const shardBytes = parseSize(text)
  return shardBytes === undefined || shardBytes > MOST ? undefined : { shardBytes }
}

/** `memsinks tokenize`: what it takes. */
export const tokenize = Command.make("tokenize", {
  data: Options.text("data").pipe(
    Options.withPseudoName("path"),
    Options.withDescription(
      "Text, JSONL (.gz, .zst) or Parquet, a folder, or hf://datasets/owner/name"
    ),
    Options.repeated
  ),
  out: Options.text("out").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("Where shards go; what an interrupted run has finished in it stays")
  ),
  tokenizer: text("tokenizer", "name",
    "gpt2, bpe (trained here), bytes, or a tokenizer.json or its folder (default: gpt2)"),
  vocabSize: number("vocab-size", "Entries of bpe (default: 16384)", 2),
  textField: text("text-field", "name", "Field of a record with its text (default: text)"),
  idField: text("id-field", "name", "Field that names a document (default: id)"),
  sourceField: text("source-field", "name", "Field that says what a document belongs to (default: its file)"),
  ownerField: text("owner-field", "name", "Field that says whose a document is (default: not known)"),
  licenceField: text("licence-field", "name", "Field that says under which licence it is (default: not known)"),
  onMissingText,
  maxDocument: size("max-document", "size", "Largest line, value or document that is read (default: 256MiB)",
    constants.MAX_STRING_LENGTH),
  split: text("split", "name", "Split of a dataset (default: train)"),
  bos: text("bos", "token",
    "Special token before each document: its name, auto or none (default: as the tokenizer does)"),
  eos: text("eos", "token", "The same behind each (default: auto)"),
  specialAsText: Options.boolean("special-as-text").pipe(
    Options.withDescription("Names of special tokens in texts are text like any other")
  ),
  shardSize: readAs("shard-size", "size", "Tokens (100M), or bytes (200MB), of a shard at most (default: 100M)",
    "tokens of a shard, e.g. 100M, or bytes, e.g. 200MB", parseShardSize),
  workers: number("workers", "Threads that tokenize (default: one less than cores)"),
  near: within("near", "from 0.1 to 1", (value) => value >= 0.1 && value <= 1).pipe(
    Options.withPseudoName("threshold"),
    Options.withDescription("Find near-duplicates from this Jaccard index on, e.g. 0.8, for identity near"),
    Options.optional
  ),
  shingle: counting("shingle", 1, 64).pipe(
    Options.withDescription("Words of what --near compares; fewer bear more edits of short texts (default: 5)"),
    Options.optional
  ),
  router: Options.boolean("router").pipe(
    Options.withDescription("Also write router.bin, which tells which source a text is most like, for identity source")
  ),
  json,
  quiet
}).pipe(
  described("Turn texts into token shards, once; tell what repeats in them",
    "memsinks tokenize --data speeches.jsonl --out tokens --tokenizer bpe --source-field president",
    "memsinks tokenize --data hf://datasets/owner/name --out tokens --shard-size 200MB")
)

export type TokenizeOptions = OptionsOf<typeof tokenize>
