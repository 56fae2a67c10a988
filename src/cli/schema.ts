/** `memsinks schema`: the JSON Schema of a configuration file, for editors. */
import * as Effect from "effect/Effect"
import * as JSONSchema from "effect/JSONSchema"
import * as Option from "effect/Option"
import type * as Schema from "effect/Schema"
import { readFileSync } from "node:fs"
import type { SchemaOptions } from "./commands/schema.ts"
import * as Edge from "./Edge.ts"

/** Prints the schema that is kept beside the pipelines; that of a study is made. */
export const schema = ({ of, study }: SchemaOptions) =>
  Effect.gen(function*() {
    if (of === "study") {
      const { studies, studyNamed } = yield* Effect.promise(() => import("../../pipelines/study.ts"))
      if (Option.isNone(study)) {
        return yield* Effect.fail(Edge.usage({
          message: `memsinks schema study needs the name of a study: ${studies.map(({ name }) => name).join(", ")}`
        }))
      }
      const found = yield* Effect.mapError(studyNamed(study.value), Edge.usage)
      return yield* Edge.print(JSON.stringify(JSONSchema.make(found.schema as Schema.Schema.Any), undefined, 2))
    }
    if (Option.isSome(study)) {
      return yield* Effect.fail(
        Edge.usage({ message: `memsinks schema ${of} takes no ${JSON.stringify(study.value)}` })
      )
    }
    const file = `${of === "pretrain" ? of : `${of}.config`}.schema.json`
    return yield* Edge.print(readFileSync(new URL(`../../pipelines/${file}`, import.meta.url), "utf8").trimEnd())
  })
