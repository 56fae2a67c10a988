/**
 * The configuration of a run from its sources. Later ones go over earlier ones, field by field: defaults (or the run
 * that is resumed), preset, file, options, key=value.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { parse } from "yaml"
import { DataError } from "../Errors.ts"
import { isObject, merge } from "../Json.ts"
import { ModelConfig } from "../model/ModelConfig.ts"
import type { PretrainOptions } from "./commands/pretrain.ts"
import * as Edge from "./Edge.ts"

export { merge }

export type Tree = { readonly [key: string]: unknown }

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
  (cause instanceof Error ? cause.message : String(cause)).split("\n", 1)[0]!.replace(/:$/, "")

/** What options say of a run's data. */
type DataFlags = Partial<
  Pick<PretrainOptions, "batch" | "seq" | "data" | "textField" | "sourceField" | "onMissingText" | "seed">
>

/** The fields of `data` that options set. */
export const dataOf = (options: DataFlags): Tree =>
  Edge.given({
    data: options.data,
    textField: options.textField,
    sourceField: options.sourceField,
    onMissingText: options.onMissingText,
    seed: options.seed,
    batchSize: options.batch,
    seqLen: options.seq
  })

/** The fields of `training` that options set. */
export const trainingOf = (options: Partial<Pick<PretrainOptions, "steps" | "lr">>): Tree => {
  const optimizer = Edge.given({ learningRate: options.lr })
  return { ...Edge.given({ steps: options.steps }), ...(Object.keys(optimizer).length === 0 ? {} : { optimizer }) }
}

/** The tree, or nothing where all that it holds is empty: worlds without text take no `data`. */
export const filled = (tree: Tree): ReadonlyArray<Tree> =>
  Object.values(tree).some((value) =>
      isObject(value) && (Object.values(value).some((one) => !isObject(one)) || filled(value).length > 0)
    )
    ? [tree]
    : []

/** Whether a tree says anything of a field, by its path. */
export const says = (tree: unknown, path: string): boolean => {
  let at: unknown = tree
  for (const key of path.split(".")) {
    if (!isObject(at) || !Object.hasOwn(at, key)) return false
    at = at[key]
  }
  return true
}

/**
 * A preset is a whole shape, which replaces the default one. Sinks that are given to one without any are added to its
 * neurons, as `memsinks import --pool` does, unless the width of its MLP is given, too.
 */
export const shapeOf = (preset: ModelConfig, given: unknown): Tree => {
  const shape = Schema.encodeSync(ModelConfig)(preset) as Tree
  if (preset.sinks !== undefined || !says(given, "model.sinks.pool") || says(given, "model.intermediateSize")) {
    return shape
  }
  const { pool } = (given as { readonly model: { readonly sinks: { readonly pool: unknown } } }).model.sinks
  return typeof pool === "number" ? { ...shape, intermediateSize: preset.intermediateSize + pool } : shape
}

/**
 * The peak learning rate that a model of another width than the default one begins with, unless one is given: 5e-3 at
 * width 64, 5e-4 at 1,000, and between and beyond by the same power, in two digits.
 */
export const rateOfWidth = (hiddenSize: number): number =>
  Number((5e-3 * (64 / hiddenSize) ** (1 / Math.log10(1000 / 64))).toPrecision(2))

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
