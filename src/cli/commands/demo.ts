import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { adapter, described, json, type OptionsOf, quiet } from "./options.ts"

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
  described("Train on twelve presidents, forget one, audit it beside an oracle, certify: minutes", "memsinks demo")
)

export type DemoOptions = OptionsOf<typeof demo>
