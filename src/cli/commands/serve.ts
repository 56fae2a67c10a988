import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { policies } from "../../forget/Ledger.ts"
import { adapter, counting, described, number, type OptionsOf, precision, quiet, seeking, size,
  text } from "./options.ts"

/** `memsinks serve`: what it takes. */
export const serving = Command.make("serve", {
  checkpoint: Options.text("checkpoint").pipe(
    Options.withPseudoName("[name=]folder"),
    Options.withDescription(
      "Folder of a run (its latest checkpoint), a checkpoint, or a Llama"
    ),
    Options.atLeast(1)
  ),
  name: text("name", "name", "What the model is called (default: the checkpoint's run)"),
  host: Options.text("host").pipe(
    Options.withDefault("127.0.0.1"),
    Options.withPseudoName("address"),
    Options.withDescription("Where to listen (default: 127.0.0.1, this machine alone)")
  ),
  port: counting("port", 0, 65_535).pipe(
    Options.withDefault(8000),
    Options.withDescription("On which port; 0: one that is free (default: 8000)")
  ),
  apiKeyFile: text("api-key-file", "file", "Keys, one a line, of which a request must bear one"),
  cors: text("cors", "origin", "Web site whose pages may ask, or * (default: none)"),
  deny: text("deny", "file", "Sources that are never lit, one a line; read again when it changes, and on SIGHUP"),
  exclude: text("exclude", "file", "Sources that are never lit and whose own sinks are off for all, one a line"),
  shared: Options.choice("shared", policies).pipe(
    Options.withDefault("keep"),
    Options.withDescription("Sinks of the excluded that others light, too: keep them, or take them (default: keep)")
  ),
  ...seeking,
  router: Options.text("router").pipe(
    Options.withPseudoName("[name=]file"),
    Options.withDescription(
      "What memsinks router made, to light the source that a prompt is most like; once a checkpoint"
    ),
    Options.repeated
  ),
  parallel: counting("parallel").pipe(
    Options.withDefault(16),
    Options.withDescription("Sequences at once, of each model (default: 16)")
  ),
  cache: size("cache", "size", "Memory of a model's keys and values, e.g. 2GiB (default: for all at their longest)"),
  maxLength: number("max-length", "Tokens of a sequence, prompt included (default: the model's positions)"),
  queue: counting("queue").pipe(
    Options.withDefault(1024),
    Options.withDescription("Sequences that wait at most; then 429 (default: 1024)")
  ),
  timeout: counting("timeout").pipe(
    Options.withDefault(600),
    Options.withDescription("Seconds that a request may take (default: 600)")
  ),
  precision,
  adapter,
  quiet
}).pipe(
  described("Answer to OpenAI's completions API, with the sinks of any source by request",
    "memsinks serve --checkpoint runs/a --port 8000 --deny denied.txt",
    "memsinks serve --checkpoint old=runs/a --checkpoint new=runs/b --router old=a/router.bin --router new=b/router.bin")
)

export type ServeOptions = OptionsOf<typeof serving>
