/** `memsinks launch`: what it takes. */
import * as Args from "@effect/cli/Args"
import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { counting, described, type OptionsOf } from "./options.ts"

export const launch = Command.make("launch", {
  words: Args.text({ name: "command" }).pipe(
    Args.withDescription("What every rank runs, behind --: pretrain and its options"),
    Args.repeated
  ),
  ranks: counting("ranks").pipe(Options.withAlias("n"), Options.withDescription("How many processes, one a GPU")),
  transport: Options.choice("transport", ["auto", "mpi", "tcp"] as const).pipe(
    Options.withDefault("auto" as const),
    Options.withDescription("What they exchange gradients over (default: mpi where there is one, else tcp)")
  )
}).pipe(
  described("Run a command as several ranks on this machine, which train one model together",
    "memsinks launch -n 2 -- pretrain --config run.yaml --out-dir runs/a")
)

export type LaunchOptions = OptionsOf<typeof launch>
