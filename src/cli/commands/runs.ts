import * as Args from "@effect/cli/Args"
import * as Command from "@effect/cli/Command"
import * as Effect from "effect/Effect"
import { json } from "./options.ts"

/** `memsinks runs`: what it takes; what it does is loaded when it runs. */
export const runs = Command.make("runs", {
  folder: Args.text({ name: "folder" }).pipe(
    Args.withDescription("Where to look for runs, or one of them (default: runs)"),
    Args.optional
  ),
  json
}, (options) => Effect.flatMap(Effect.promise(() => import("../runs.ts")), (it) => it.runs(options))).pipe(
  Command.withDescription("List runs: whether they run, how far they came, their losses")
)
