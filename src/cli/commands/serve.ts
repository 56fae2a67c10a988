import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { adapter, checkpoint, counting, number, type OptionsOf, precision, quiet, seeking, text } from "./options.ts"

/** `memsinks serve`: what it takes. */
export const serving = Command.make("serve", {
  checkpoint,
  name: text("name", "name", "What the model is called (default: the checkpoint's run)"),
  host: Options.text("host").pipe(
    Options.withDefault("127.0.0.1"),
    Options.withPseudoName("address"),
    Options.withDescription("Where to listen (default: 127.0.0.1, this machine alone)")
  ),
  port: Options.integer("port").pipe(
    Options.withDefault(8000),
    Options.withDescription("On which port; 0: one that is free (default: 8000)")
  ),
  apiKeyFile: text("api-key-file", "file", "Keys, one a line, of which a request must bear one"),
  cors: text("cors", "origin", "Web site whose pages may ask, or * (default: none)"),
  deny: text("deny", "file", "Sources that are never lit, one a line; read again when it changes, and on SIGHUP"),
  ...seeking,
  parallel: counting("parallel").pipe(
    Options.withDefault(16),
    Options.withDescription("Sequences at once; their caches take memory (default: 16)")
  ),
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
  Command.withDescription("Answer to OpenAI's completions API, with the sinks of any source by request")
)

export type ServeOptions = OptionsOf<typeof serving>
