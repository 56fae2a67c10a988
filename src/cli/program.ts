/** All of the command line for some words: what `cli.ts` runs. */
import * as Command from "@effect/cli/Command"
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { run } from "./arguments.ts"
import { commands } from "./commands.ts"
import * as Edge from "./Edge.ts"

const memsinks = Command.make("memsinks").pipe(
  Command.withDescription("Language models that can forget by design"),
  Command.withSubcommands(commands)
)

const told = Command.run(memsinks, { name: "memsinks", version: Edge.version })

export const program = (words: ReadonlyArray<string>) =>
  Edge.run(run(commands, (all) => told(["memsinks", "memsinks", ...all]), words)).pipe(
    Effect.provide(NodeContext.layer)
  )
