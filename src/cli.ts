#!/usr/bin/env node
/**
 * memsinks on the command line. stdout is data, stderr is progress and what went wrong.
 * Exit codes: 0, 1 for a failure, 2 for wrong usage, 130, 143, 129 or 140 when a signal (SIGINT, SIGTERM, SIGHUP,
 * SIGUSR2) ended it.
 */
import process from "node:process"
import * as Edge from "./cli/Edge.ts"
import { program } from "./cli/program.ts"
import { hideNativeLines } from "./gpu/Silence.ts"

// npm runs scripts in the package's folder, and says where it was called: paths are meant from there
const calledFrom = process.env["INIT_CWD"]
if (process.env["npm_lifecycle_event"] === "memsinks" && calledFrom !== undefined) process.chdir(calledFrom)

hideNativeLines(!process.argv.some((word) => word === "-v" || word === "--verbose"))

Edge.runMain(program(process.argv.slice(2)), {
  disableErrorReporting: true,
  disablePrettyLogger: true,
  teardown: Edge.teardown
})
