import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { adapter, counting, described, json, number, type OptionsOf, queue, quiet, text } from "./options.ts"

const folder = (name: string, description: string) =>
  Options.text(name).pipe(Options.withPseudoName("folder"), Options.withDescription(description))

/** `memsinks audit`: what it takes. */
export const audit = Command.make("audit", {
  before: folder("before", "The model before the deletion: a run, or a checkpoint"),
  after: folder("after", "The model after it, as memsinks forget wrote it; the audit is left in it"),
  oracle: text("oracle", "folder",
    "A model that was never trained on what was deleted (default: none, and no verdict)"),
  data: Options.text("data").pipe(
    Options.withPseudoName("path"),
    Options.withDescription("Text or token shards with all sources, the deleted ones among them")
  ),
  sourceField: text("source-field", "name", "Field of --data that says which source a text is from"),
  neverSeen: text("never-seen", "path",
    "Text or shards that no model was trained on, as like the deleted as can be, to tell membership from"),
  facts: text("facts", "file",
    "Facts that sources state, JSONL: source, prompt, right, wrong (a list), kind (unique, shared, inferred)"),
  attacks: text("attacks", "names",
    "Attacks by name, comma between, or all (default: nvRecall,recognition,hiddenProbe; none: none)"),
  seq: number("seq", "Tokens of a passage (default: as in training, else 64)"),
  passages: counting("passages").pipe(
    Options.withDefault(32),
    Options.withDescription("Passages of a source at most (default: 32)")
  ),
  relearn: counting("relearn").pipe(
    Options.withDefault(16),
    Options.withDescription("Steps of fine-tuning on half of the deleted passages (default: 16)")
  ),
  seed: counting("seed", 0).pipe(Options.withDefault(1), Options.withDescription("Of what is drawn (default: 1)")),
  key: text("key", "file", "Sign the certificate in --after anew, with the audit, with this Ed25519 key (PEM)"),
  store: text("store", "folder",
    "Where answers are kept, so that the same command goes on (default: audit in --after)"),
  ...queue,
  adapter,
  json,
  quiet
}).pipe(
  described("Ask in several ways what is still known of what was deleted, and what others lost",
    "memsinks audit --before runs/a --after runs/b --oracle runs/c --data tokens")
)

export type AuditOptions = OptionsOf<typeof audit>
