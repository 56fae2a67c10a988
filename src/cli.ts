#!/usr/bin/env node
/**
 * memsinks on the command line. stdout is data, stderr is progress and what went wrong.
 * Exit codes: 0, 1 for a failure, 2 for wrong usage, 130, 143 or 129 when a signal (SIGINT, SIGTERM, SIGHUP) ended it.
 */
import * as Command from "@effect/cli/Command"
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import process from "node:process"
import { run } from "./cli/arguments.ts"
import { commands } from "./cli/commands.ts"
import * as Edge from "./cli/Edge.ts"
import { hideNativeLines } from "./gpu/Silence.ts"

// npm runs scripts in the package's folder, and says where it was called: paths are meant from there
const calledFrom = process.env["INIT_CWD"]
if (process.env["npm_lifecycle_event"] === "memsinks" && calledFrom !== undefined) process.chdir(calledFrom)

hideNativeLines(!process.argv.some((word) => word === "-v" || word === "--verbose"))

const memsinks = Command.make("memsinks").pipe(
  Command.withDescription("Language models that can forget by design"),
  Command.withSubcommands(commands)
)

const told = Command.run(memsinks, { name: "memsinks", version: Edge.version })

const main = Edge.run(run(commands, (words) => told(["memsinks", "memsinks", ...words]), process.argv.slice(2)))

Edge.runMain(Effect.provide(main, NodeContext.layer), {
  disableErrorReporting: true,
  disablePrettyLogger: true,
  teardown: Edge.teardown
})
