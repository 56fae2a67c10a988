import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { described, json, type OptionsOf, text } from "./options.ts"

/** `memsinks export`: what it takes. */
export const exporting = Command.make("export", {
  checkpoint: Options.text("checkpoint").pipe(
    Options.withPseudoName("folder"),
    Options.withDescription("Folder of a run (its latest checkpoint), of one checkpoint, or of a Llama")
  ),
  out: Options.text("out").pipe(
    Options.withPseudoName("path"),
    Options.withDescription("Folder or .gguf file to write; it must not exist")
  ),
  format: Options.choice("format", ["safetensors", "gguf"]).pipe(
    Options.withDescription("For Hugging Face's loaders, or llama.cpp (default: by the name of --out)"),
    Options.optional
  ),
  sinks: Options.choice("sinks", ["off", "own", "all"]).pipe(
    Options.withDefault("off"),
    Options.withDescription("Sinks it keeps: none, those of --ids, or all at their expected value")
  ),
  ids: text("ids", "ids", "Numbers or names of those whose sinks are kept, e.g. 7 or Psalms"),
  union: Options.boolean("union").pipe(
    Options.withDescription("Keep the sinks of several --ids at once, as training never did")
  ),
  withDenied: Options.boolean("with-denied").pipe(
    Options.withDescription("With --sinks all: also the sinks that only denied sources light")
  ),
  dtype: Options.choice("dtype", ["f32", "f16", "q8_0"]).pipe(
    Options.withDefault("f32"),
    Options.withDescription("Type of the weights; q8_0 only for gguf")
  ),
  json
}).pipe(
  described("Write a checkpoint as a plain Llama: sinks off, or some of them kept for good",
    "memsinks export --checkpoint runs/a --out plain --sinks off",
    "memsinks export --checkpoint runs/a --out model.gguf --format gguf")
)

export type ExportingOptions = OptionsOf<typeof exporting>
