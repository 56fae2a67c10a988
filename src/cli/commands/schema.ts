import * as Args from "@effect/cli/Args"
import * as Command from "@effect/cli/Command"
import type { OptionsOf } from "./options.ts"

const named = <Name extends string>(name: Name): [Name, Name] => [name, name]

/** `memsinks schema`: what it takes. */
export const schema = Command.make("schema", {
  of: Args.choice([named("pretrain"), named("isolate"), named("dynamics"), named("sweep")], { name: "command" }).pipe(
    Args.withDescription("The command whose configuration it is of. Default pretrain"),
    Args.withDefault("pretrain")
  )
}).pipe(
  Command.withDescription("Print the JSON Schema of a configuration file, for editors")
)
export type SchemaOptions = OptionsOf<typeof schema>
