import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { checkpoint, json, number, type OptionsOf } from "./options.ts"

/** `memsinks router`: what it takes. */
export const router = Command.make("router", {
  checkpoint,
  data: Options.text("data").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("Token shards with the texts of the sources")
  ),
  out: Options.text("out").pipe(
    Options.withPseudoName("file"),
    Options.withDescription("The file to write; one that is there is replaced")
  ),
  features: number("features",
    "What is kept of a source, 5 bytes each (default: as many as make 2 GB, from 64 to 8192)"),
  json
}).pipe(
  Command.withDescription("Make a file that tells which source a text is most like; tell how often it is right")
)

export type RouterOptions = OptionsOf<typeof router>
