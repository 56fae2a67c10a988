import * as Command from "@effect/cli/Command"
import * as Effect from "effect/Effect"

/** `memsinks schema`: what it takes; what it does is loaded when it runs. */
export const schema = Command.make(
  "schema",
  {},
  () => Effect.flatMap(Effect.promise(() => import("../schema.ts")), (it) => it.schema)
).pipe(
  Command.withDescription("Print the JSON Schema of a configuration file, for editors")
)
