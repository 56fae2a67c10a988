import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { adapter, config, counting, described, json, type OptionsOf, overrides, passes, preset,
  shape } from "./options.ts"

/** `memsinks profile`: what it takes. */
export const profile = Command.make("profile", {
  preset,
  config,
  batch: shape.batch,
  seq: shape.seq,
  ...passes,
  steps: counting("steps").pipe(
    Options.withDescription("Steps that are timed (default 3)"),
    Options.withDefault(3)
  ),
  adapter,
  toggle: Options.text("toggle").pipe(
    Options.withPseudoName("name"),
    Options.withDescription("A Dawn toggle to switch on, e.g. disable_robustness"),
    Options.repeated
  ),
  trace: Options.text("trace").pipe(
    Options.withPseudoName("file"),
    Options.withDescription("Also write the step as a trace, for ui.perfetto.dev"),
    Options.optional
  ),
  json,
  overrides: overrides("As for pretrain (model.numHiddenLayers=8), and compute")
}).pipe(
  described("Tell where the time of a training step goes on this GPU, kernel by kernel",
    "memsinks profile --batch 4 --seq 256 --trace step.json")
)

export type ProfileOptions = OptionsOf<typeof profile>
