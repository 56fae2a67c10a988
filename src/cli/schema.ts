/** `memsinks schema`: the JSON Schema of a configuration file, for editors. */
import * as Effect from "effect/Effect"
import { readFileSync } from "node:fs"
import type { SchemaOptions } from "./commands/schema.ts"
import * as Edge from "./Edge.ts"

/** Prints the schema that is kept beside the pipelines. */
export const schema = ({ of }: SchemaOptions) =>
  Effect.suspend(() => {
    const file = `${of === "pretrain" ? of : `${of}.config`}.schema.json`
    return Edge.print(readFileSync(new URL(`../../pipelines/${file}`, import.meta.url), "utf8").trimEnd())
  })
