import * as Command from "@effect/cli/Command"
import { config, described, json, number, type OptionsOf, overrides, passes, preset, shape, size,
  text } from "./options.ts"

/** `memsinks plan`: what it takes. */
export const plan = Command.make("plan", {
  preset,
  config,
  batch: shape.batch,
  seq: shape.seq,
  ...passes,
  ranks: number("ranks",
    "Of each of so many ranks, which share out a pool in slices (model.sinks.shards) (default: 1)"),
  limit: size("limit", "bytes", "The most that one buffer may hold, e.g. 2GiB: else says what would, and exits with 1"),
  memory: size("memory", "bytes", "The same for all of the run's memory, e.g. 80GiB"),
  adapter: text("adapter", "name",
    "Take the limit, and the choice of kernels, of this adapter: auto or as for pretrain"),
  json,
  overrides: overrides("As for pretrain (model.numHiddenLayers=8), and compute, logitsBytes, maxSegments")
}).pipe(
  described("Tell how much memory training takes, without a GPU, and what would fit a limit",
    "memsinks plan --preset smol-135m --batch 8 --seq 1024")
)

export type PlanOptions = OptionsOf<typeof plan>
