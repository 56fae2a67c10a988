import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { operations, policies } from "../../forget/Ledger.ts"
import { trained } from "../../forget/Refresh.ts"
import { adapter, checkpoint, counting, described, json, learningRate, number, type OptionsOf, quiet,
  text } from "./options.ts"

const many = (name: string, pseudoName: string, description: string) =>
  Options.text(name).pipe(Options.withPseudoName(pseudoName), Options.withDescription(description), Options.repeated)

/** `memsinks forget`: what it takes. */
export const forget = Command.make("forget", {
  checkpoint: Options.optional(checkpoint),
  server: text("server", "url", "Tell a server that runs to deny or exclude them, instead of a checkpoint"),
  apiKeyFile: text("api-key-file", "file", "The key that --server asks for"),
  source: many("source", "name", "Whom to delete"),
  owner: many("owner", "name", "All sources of an owner, as the data named them"),
  prefix: many("prefix", "text", "All whose names begin so, such as https://example.org/"),
  id: many("id", "number", "The id of one"),
  document: many("document", "hash", "Whoever holds the document in --data of this hash (sources --hash FILE)"),
  request: text("request", "file", "Many of them: .jsonl of {\"source\": ...}, or .csv with a column of these"),
  text: text("text", "file", "Delete the sources in --data that hold the text of this file"),
  data: text("data", "folder", "Token shards of the training, for who else has the text, refresh, audit"),
  out: text("out", "folder", "Where the model without them goes; it must not exist"),
  operation: Options.choice("operation", operations).pipe(
    Options.withDescription(
      "deny: never lit by their ids; exclude: also off for all; erase: also zero (default); refresh: and those " +
        "that others light are trained anew on their data"
    ),
    Options.optional
  ),
  shared: Options.choice("shared", policies).pipe(
    Options.withDescription("Sinks that others light, too: keep (default), or take from the others"),
    Options.optional
  ),
  look: many("look", "folder", "Also search this folder for exports, shards, routers, texts with them"),
  restore: Options.boolean("restore").pipe(
    Options.withDescription("Take back that they were denied or excluded; what was erased cannot be")
  ),
  allCheckpoints: Options.boolean("all-checkpoints").pipe(
    Options.withDescription("Also from the other checkpoints of its run")
  ),
  steps: number("steps", "refresh: steps of training (default: 100)"),
  lr: learningRate("refresh: peak learning rate (default: that of the run)"),
  batch: number("batch", "refresh: rows a batch (default: as in training)"),
  seq: number("seq", "refresh: tokens a row (default: as in training)"),
  seed: counting("seed", 0).pipe(
    Options.withDefault(1),
    Options.withDescription("refresh: of fresh weights, and of the order of texts (default: 1)")
  ),
  train: Options.choice("train", trained).pipe(
    Options.withDefault("fresh"),
    Options.withDescription("refresh: what moves: fresh sinks (default), all those survivors', or all")
  ),
  noAudit: Options.boolean("no-audit").pipe(
    Options.withDescription("Do not ask what is still known of them, as is done where --data is")
  ),
  oracle: text("oracle", "folder", "For the audit: a model that was never trained on what is deleted"),
  key: text("key", "file", "Sign a certificate with this Ed25519 key (PEM)"),
  dryRun: Options.boolean("dry-run").pipe(
    Options.withDescription("Tell whom it would delete and what others would lose, and write nothing")
  ),
  adapter,
  json,
  quiet
}).pipe(
  described("Delete sources from a trained model: their sinks are never lit again, and set to zero",
    "memsinks forget --checkpoint runs/a --source \"Abraham Lincoln\" --dry-run",
    "memsinks forget --checkpoint runs/a --source \"Abraham Lincoln\" --data tokens --out runs/b --key key.pem")
)

export type ForgetOptions = OptionsOf<typeof forget>
