/**
 * The configuration of a run from its sources. Later ones go over earlier ones, field by field: defaults (or the run
 * that is resumed), preset, file, options, key=value.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import { parse } from "yaml"
import { DataError } from "../Errors.ts"
import { isObject } from "../Json.ts"

export type Tree = { readonly [key: string]: unknown }

/** `over` on top of `base`: trees are merged field by field, all else is replaced. */
export const merge = (base: unknown, over: unknown): unknown =>
  isObject(base) && isObject(over)
    ? Object.fromEntries([
      ...Object.entries(base),
      ...Object.entries(over).map(([key, value]) => [key, Object.hasOwn(base, key) ? merge(base[key], value) : value])
    ])
    : over

/** `a.b=1` as { a: { b: 1 } }; values are YAML, so numbers and booleans are such. */
export const override = (text: string): Effect.Effect<Tree, DataError> => {
  const at = text.indexOf("=")
  const path = text.slice(0, Math.max(0, at)).split(".")
  if (at < 0 || path.some((key) => key.trim() === "")) {
    const detail = `expected key=value, e.g. training.steps=100, got ${JSON.stringify(text)}`
    return Effect.fail(new DataError({ detail }))
  }
  return Effect.try({
    try: () => path.reduceRight<unknown>((value, key) => ({ [key.trim()]: value }), parse(text.slice(at + 1))) as Tree,
    catch: (cause) => new DataError({ detail: `the value of ${text} is not valid YAML: ${firstLine(cause)}` })
  })
}

const firstLine = (cause: unknown): string =>
  (cause instanceof Error ? cause.message : String(cause)).split("\n", 1)[0].replace(/:$/, "")

/** A configuration file, YAML or JSON, which is YAML too. */
export const readConfig = (path: string): Effect.Effect<Tree, DataError, FileSystem.FileSystem> =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const text = yield* fs.readFileString(path).pipe(
      Effect.mapError((error) =>
        new DataError({
          path,
          detail: error._tag === "SystemError" && error.reason === "NotFound"
            ? "there is no such configuration file"
            : `the configuration cannot be read: ${error.message}`
        })
      )
    )
    const value = yield* Effect.try({
      try: () => (parse(text) ?? {}) as unknown,
      catch: (cause) => new DataError({ path, detail: `is neither YAML nor JSON: ${firstLine(cause)}` })
    })
    if (!isObject(value)) return yield* new DataError({ path, detail: "must hold fields, e.g. training: {steps: 100}" })
    // a file of JSON tells editors its schema in a field of itself
    const { $schema: _, ...fields } = value
    return fields
  })
