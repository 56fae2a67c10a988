import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { adapter, json, type OptionsOf, quiet } from "./options.ts"

/** `memsinks demo`: what it takes. */
export const demo = Command.make("demo", {
  outDir: Options.text("out-dir").pipe(
    Options.withPseudoName("folder"),
    Options.withDefault("runs/forget-demo"),
    Options.withDescription("Where all of it goes; the same command goes on there (default: runs/forget-demo)")
  ),
  adapter,
  json,
  quiet
}).pipe(
  Command.withDescription(
    "Train on twelve presidents, forget one, audit it beside a model without it, certify: minutes"
  )
)

export type DemoOptions = OptionsOf<typeof demo>
