/** All of the command line for some words: what `cli.ts` runs. */
import * as Command from "@effect/cli/Command"
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import process from "node:process"
import { ranksOf } from "../collective/Ranks.ts"
import { nameOf, run, shells } from "./arguments.ts"
import { commands } from "./commands.ts"
import { completionsOf } from "./completions.ts"
import * as Edge from "./Edge.ts"
import { commandHelp, programHelp, SUMMARY } from "./help.ts"

const memsinks = Command.make("memsinks").pipe(
  Command.withDescription(SUMMARY),
  Command.withSubcommands(commands)
)

const told = Command.run(memsinks, { name: "memsinks", version: Edge.version })

/** --completions has sh, too, which stands for bash. */
const shellOf = (name: string) => shells.find((shell) => shell === name) ?? "bash"

/** Tells what the words ask for: help, a script of completions; @effect/cli the rest. */
const tell = (words: ReadonlyArray<string>) => {
  const [name, option = name] = words
  if (name === "--completions") return Edge.print(completionsOf(shellOf(words[1]!), commands))
  if (option !== "--help") return told(["memsinks", "memsinks", ...words])
  const command = commands.find((one) => nameOf(one) === name)
  return Edge.print(command === undefined ? programHelp(commands) : commandHelp(command))
}

const areRanks = (): boolean => {
  try {
    return ranksOf(process.env).size > 1
  } catch {
    return false
  }
}

/** What several ranks refuse, as words or command are not for them, is told once. */
const toldOnce = <E, R>(command: Effect.Effect<void, E, R>) =>
  Effect.catchAllCause(command, (cause) =>
    areRanks()
      ? Effect.flatMap(Effect.promise(() => import("./ranks.ts")), ({ refused }) => refused(cause))
      : Effect.failCause(cause))

export const program = (words: ReadonlyArray<string>) =>
  Edge.run(toldOnce(run(commands, tell, words))).pipe(
    Effect.provide(NodeContext.layer)
  )
