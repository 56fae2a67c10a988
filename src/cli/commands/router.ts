import * as Command from "@effect/cli/Command"
import * as Options from "@effect/cli/Options"
import { checkpoint, described, embedding, json, number, type OptionsOf, text } from "./options.ts"

/** `memsinks router`: what it takes. */
export const router = Command.make("router", {
  checkpoint,
  data: text("data", "folder", "Token shards with the texts of the sources"),
  embeddings: text("embeddings", "file",
    "Vectors of the sources instead of their words: .jsonl, .parquet (id, source or name; vector) or .npy"),
  names: text("names", "file", "Names or ids of the rows of .npy, a line each"),
  ...embedding,
  out: Options.text("out").pipe(
    Options.withPseudoName("file"),
    Options.withDescription("The file to write; one that is there is replaced")
  ),
  features: number("features",
    "Words that are kept of a source, 5 bytes each (default: as many as make 2 GB, from 64 to 8192)"),
  json
}).pipe(
  described("Make a file that tells which source a text is most like; tell how often it is right",
    "memsinks router --checkpoint runs/a --data tokens --out router.bin")
)

export type RouterOptions = OptionsOf<typeof router>
