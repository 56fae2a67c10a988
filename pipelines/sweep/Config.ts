/** What `memsinks sweep` is told: a pretraining configuration, fields of it that vary, and how points are drawn from them. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { configuration, decodeConfig, MOST_SEEDS, positive, upTo, withDefault } from "../../src/Config.ts"
import { DataError } from "../../src/Errors.ts"
import { isObject, merge } from "../../src/Json.ts"
import { random } from "../../src/Random.ts"
import { ArmName, PretrainConfig } from "../pretrain/Config.ts"
import type { Kind } from "../report/Estimate.ts"

/** Numbers from one to another: so many of them in a grid, any of them where points are drawn. */
const Range = Schema.Struct({
  /** The first. */
  from: Schema.JsonNumber,
  /** The last. */
  to: Schema.JsonNumber,
  /** How many a grid has. Default 5. */
  steps: withDefault(upTo(1000), 5),
  /** Equal differences, or equal ratios. Default linear. */
  scale: withDefault(Schema.Literal("linear", "log"), () => "linear" as const),
  /** Rounded to whole numbers. Default false. */
  whole: withDefault(Schema.Boolean, () => false)
})

/** The values of a field: one after the other, or a range. */
const Values = Schema.Union(Schema.NonEmptyArray(Schema.Unknown), Range)

/** Every combination, or points that are drawn. */
const Draw = Schema.Union(
  Schema.Literal("grid"),
  Schema.Struct({
    /** How many points. */
    random: upTo(10_000),
    /** Of the draw, not of the training. Default 1. */
    seed: withDefault(Schema.Int, () => 1)
  })
)

/** What a sweep depends on. */
export class SweepConfig extends configuration(Schema.Class<SweepConfig>("SweepConfig")({
  /** Fields of a `memsinks pretrain` configuration that all points share. Default: those of `npm start`. */
  base: withDefault(Schema.Record({ key: Schema.String, value: Schema.Unknown }), () => ({})),
  /** What varies, by its path: `training.optimizer.learningRate`. */
  fields: Schema.propertySignature(Schema.Record({ key: Schema.NonEmptyString, value: Values })).annotations({
    missingMessage: () =>
      "is missing: a sweep needs a configuration with what varies, e.g. --config sweep.yaml with " +
      "fields: { training.optimizer.learningRate: [0.001, 0.01] }"
  }),
  /** Which combinations of the values are tried: `grid`, all of them, or `{random: 20, seed: 1}`. Default grid. */
  draw: withDefault(Draw, () => "grid" as const),
  /** What is trained at every point. Default: `standard` and `sinks`, which the closed fraction of the gap needs. */
  arms: withDefault(Schema.NonEmptyArray(ArmName), () => ["standard", "sinks"] as const),
  /** How many seeds each point has; the first is `base.data.seed`. Default 1. */
  seeds: withDefault(upTo(MOST_SEEDS), 1),
  /**
   * What is shown, the first of which says which point is best: `fractionClosed`, or a loss, gap or extraction by the state
   * of the sinks, such as `heldOut.off`, `repeated.own`, `gaps.off`, `extraction.own`.
   */
  metrics: withDefault(Schema.NonEmptyArray(Schema.NonEmptyString),
    () => ["heldOut.off", "repeated.off", "fractionClosed"] as const),
  /** Which value of the first metric is best. Default: the highest of `fractionClosed`, the lowest of any other. */
  best: Schema.optional(Schema.Literal("lowest", "highest")),
  /** Points that may be trained at most, so that a grid that was not meant is not begun. Default 1000. */
  most: withDefault(positive, 1000)
})) {}

/** A metric of a seed: of a group, and of an arm or a state of the sinks where the group has several. */
export interface SweepMetric {
  readonly group: keyof typeof groups
  readonly state?: string
}

/** What numbers of a group can be. */
const groups = { fractionClosed: "real", repeated: "loss", heldOut: "loss", gaps: "real", extraction: "share" } as const
export const kindOf = ({ group }: SweepMetric): Kind => groups[group]

const states = ["standard", "own", "off", "placebo", "all", "standardActiveWidth", "deduplicated"]

/** How a metric is called: `heldOut.off`. */
export const nameOfMetric = ({ group, state }: SweepMetric): string => state === undefined ? group : `${group}.${state}`

/** All there are, by what they are called. */
export const metricsByName: ReadonlyMap<string, SweepMetric> = new Map(
  (Object.keys(groups) as ReadonlyArray<SweepMetric["group"]>).flatMap((group): ReadonlyArray<SweepMetric> =>
    group === "fractionClosed" ? [{ group }] : states.map((state) => ({ group, state }))
  ).map((metric) => [nameOfMetric(metric), metric])
)

/** Whether the highest value of the first metric is best. */
export const highestIsBest = ({ best, metrics }: SweepConfig): boolean =>
  best === undefined ? metrics[0] === "fractionClosed" : best === "highest"

/** A value of a field, as text. */
export const valueText = (value: unknown): string =>
  typeof value === "number"
    ? `${Number(value.toPrecision(6))}`
    : typeof value === "string"
    ? value
    : JSON.stringify(value)

/** One combination of values, and the configuration that it makes. */
export interface Point {
  /** By the paths of the fields. */
  readonly values: Readonly<Record<string, unknown>>
  readonly config: PretrainConfig
}

type Values = typeof Values.Type
const isRange = (values: Values): values is typeof Range.Type => !Array.isArray(values)

/** A number of a range, `at` from 0 to 1. */
const between = ({ from, scale, to, whole }: typeof Range.Type, at: number): number => {
  const value = at === 0 ? from : at === 1 ? to : scale === "log" ? from * (to / from) ** at : from + (to - from) * at
  return whole ? Math.round(value) : value
}

const valuesOf = (values: Values): ReadonlyArray<unknown> =>
  isRange(values)
    ? [...new Set(Array.from({ length: values.steps }, (_, i) =>
      between(values, values.steps === 1 ? 0 : i / (values.steps - 1))))]
    : values

/** A tree with a field set, by its path. */
const set = (tree: unknown, [key, ...rest]: ReadonlyArray<string>,
  value: unknown): Readonly<Record<string, unknown>> =>
{
  const base = isObject(tree) ? tree : {}
  return { ...base,
    [key!]: rest.length === 0 ? value : set(Object.hasOwn(base, key!) ? base[key!] : undefined, rest, value) }
}

const get = (tree: unknown, path: string): unknown =>
  path.split(".").reduce<unknown>((at, key) => isObject(at) && Object.hasOwn(at, key) ? at[key] : undefined, tree)

/** Fields that a sweep has of its own. */
const OWN = { seeds: "seeds", arms: "arms", "data.seed": "base.data.seed and seeds" } as const

const problem = (detail: string) => new DataError({ detail })

/** The points of a sweep, in the order in which they are trained, each a whole configuration. */
export const pointsOf = (config: SweepConfig): Effect.Effect<ReadonlyArray<Point>, DataError> =>
  Effect.gen(function*() {
    const { base, draw, fields, most } = config
    const paths = Object.keys(fields)
    if (paths.length === 0) {
      return yield* problem("fields: nothing varies: name at least one, e.g. fields: {training.steps: [100, 200]}")
    }
    for (const [path, values] of Object.entries(fields)) {
      if (Object.hasOwn(OWN, path)) {
        return yield* problem(
          `fields.${path}: a sweep has ${OWN[path as keyof typeof OWN]} for that: leave it out of fields`
        )
      }
      const inside = paths.find((other) => other !== path && other.startsWith(`${path}.`))
      if (inside !== undefined) return yield* problem(`fields: ${inside} is a part of ${path}: vary one of them`)
      if (!isRange(values)) {
        const twice = values.find((value, i) => values.findIndex((one) => valueText(one) === valueText(value)) !== i)
        if (twice !== undefined) return yield* problem(`fields.${path} names ${valueText(twice)} twice: leave one out`)
      } else if (values.scale === "log" && !(values.from > 0 && values.to > 0)) {
        return yield* problem(
          `fields.${path}: a log scale is of positive numbers, got from ${values.from} to ${values.to}`
        )
      } else if (values.from === values.to) {
        return yield* problem(`fields.${path} is from ${values.from} to itself: name another end, or set it in base`)
      }
    }
    for (const key of ["arms", "seeds"]) {
      if (Object.hasOwn(base, key)) return yield* problem(`base.${key}: a sweep has ${key} of its own: set that`)
    }
    const twice = config.metrics.find((metric, i) => config.metrics.indexOf(metric) !== i)
    if (twice !== undefined) return yield* problem(`metrics names ${twice} twice: leave one out`)
    const unknown = config.metrics.find((metric) => !metricsByName.has(metric))
    if (unknown !== undefined) {
      return yield* problem(`metrics: there is no ${unknown}; there are ${[...metricsByName.keys()].join(", ")}`)
    }
    const count = draw === "grid" ? paths.reduce((n, path) => n * valuesOf(fields[path]!).length, 1) : draw.random
    if (count > most) {
      return yield* problem(
        `the fields make ${count} points, more than the ${most} of most: raise it, or draw some at random`
      )
    }
    const combinations: ReadonlyArray<ReadonlyArray<unknown>> = draw === "grid"
      ? paths.reduce<ReadonlyArray<ReadonlyArray<unknown>>>(
        (all, path) => all.flatMap((one) => valuesOf(fields[path]!).map((value) => [...one, value])),
        [[]]
      )
      : Array.from({ length: draw.random }, (_, i) =>
        paths.map((path) => {
          const values = fields[path]!
          const u = random(draw.seed, "sweep", path, i).uniform()
          return isRange(values) ? between(values, u) : values[Math.floor(u * values.length)]
        }))
    // of equal draws one is enough
    const distinct = new Map(combinations.map((values) => [JSON.stringify(values), values]))
    const defaults = Schema.encodeSync(PretrainConfig)(new PretrainConfig({}))
    const given = merge(defaults, base)
    const general = Number(get(given, "model.intermediateSize")) - Number(get(given, "model.sinks.pool"))
    return yield* Effect.forEach([...distinct.values()], (values) => {
      const own = Object.fromEntries(paths.map((path, i) => [path, values[i]]))
      let tree = Object.entries(own).reduce<unknown>((at, [path, value]) => set(at, path.split("."), value), given)
      // another pool leaves as many general neurons
      const pool = get(tree, "model.sinks.pool")
      if (!paths.includes("model.intermediateSize") && typeof pool === "number" && Number.isFinite(general) &&
        paths.includes("model.sinks.pool"))
      {
        tree = set(tree, ["model", "intermediateSize"], general + pool)
      }
      return decodeConfig(PretrainConfig, { ...Object(tree), arms: config.arms, seeds: config.seeds }).pipe(
        Effect.map((decoded): Point => ({ values: own, config: decoded })),
        Effect.mapError((error) =>
          problem(`the point ${paths.map((path, i) => `${path}=${valueText(values[i])}`).join(", ")}: ${error.detail}`)
        )
      )
    })
  })
