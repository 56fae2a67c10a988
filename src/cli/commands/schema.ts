import * as Command from "@effect/cli/Command"

/** `memsinks schema`: what it takes. */
export const schema = Command.make("schema", {}).pipe(
  Command.withDescription("Print the JSON Schema of a configuration file, for editors")
)
