import * as Args from "@effect/cli/Args"
import * as Command from "@effect/cli/Command"
import { described, type OptionsOf } from "./options.ts"

const named = <Name extends string>(name: Name): [Name, Name] => [name, name]

/** `memsinks schema`: what it takes. */
export const schema = Command.make("schema", {
  of: Args.choice([named("pretrain"), named("isolate"), named("dynamics"), named("sweep"), named("study")], {
    name: "command"
  }).pipe(
    Args.withDescription("The command whose configuration it is of. Default pretrain"),
    Args.withDefault("pretrain")
  ),
  study: Args.text({ name: "name" }).pipe(Args.withDescription("Of study: which"), Args.optional)
}).pipe(
  described("Print the JSON Schema of a configuration file, for editors", "memsinks schema pretrain > run.schema.json",
    "memsinks schema study associative")
)
export type SchemaOptions = OptionsOf<typeof schema>
