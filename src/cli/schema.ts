/** `memsinks schema`: the JSON Schema of a configuration file, for editors. */
import * as Effect from "effect/Effect"
import { readFileSync } from "node:fs"
import * as Edge from "./Edge.ts"

/** Prints the schema that is kept beside the pipeline. */
export const schema = () =>
  Effect.suspend(() =>
    Edge.print(readFileSync(new URL("../../pipelines/pretrain.schema.json", import.meta.url), "utf8").trimEnd())
  )
