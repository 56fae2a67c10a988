import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { described, json, number, type OptionsOf, text } from "./options.ts"

/** `memsinks import`: what it takes. */
export const importing = Command.make("import", {
  from: Options.text("from").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("A LlamaForCausalLM or a SeqTD model: config, weights, tokenizer.json")
  ),
  out: Options.text("out").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("The checkpoint to write; it must not exist")
  ),
  pool: number("pool", "Fresh sinks in every MLP (default: none)"),
  active: number("active", "Sinks an id lights"),
  block: number("block", "Sinks that are on as one (default: 16)"),
  seed: number("seed", "Of the fresh sinks (default: 0)", 0),
  idBits: Options.choice("id-bits", ["32", "64"]).pipe(
    Options.withDescription("Of a SeqTD model: the width at which ids were multiplied (default: 32 of NULLs, else 64)"),
    Options.optional
  ),
  titles: text("titles", "file", "Of a SeqTD model: which title has which number (default: its title_to_index.*)"),
  titleOffset: number("title-offset", "What an id is more than a title's number (default: the vocabulary's size)", 0),
  json
}).pipe(
  described("Make a model from elsewhere a checkpoint to go on from, with a fresh pool of sinks",
    "memsinks import --from smollm --out runs/smollm --pool 256 --active 16")
)

export type ImportingOptions = OptionsOf<typeof importing>
