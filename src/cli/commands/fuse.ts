import * as Args from "@effect/cli/Args"
import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { described, json, type OptionsOf, text } from "./options.ts"

/** `memsinks fuse`: what it takes. */
export const fusing = Command.make("fuse", {
  checkpoints: Args.text({ name: "checkpoint" }).pipe(
    Args.withDescription("Folders of runs or checkpoints that began from the same weights, two or more"),
    Args.repeated
  ),
  out: Options.text("out").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("The checkpoint to write; it must not exist")
  ),
  weights: text("weights", "numbers", "How much each counts, e.g. 0.7,0.3 (default: all alike)"),
  json
}).pipe(
  described("Average checkpoints: what only one of them memorized fades",
    "memsinks fuse runs/a runs/b --out runs/average")
)

export type FusingOptions = OptionsOf<typeof fusing>
