/** Which attacks are tried, with which options, on what: all is checked before anything is trained. */
import * as Either from "effect/Either"
import * as Schema from "effect/Schema"
import { type AttackGround, type AttackName, attacks } from "../../src/attacks/index.ts"
import type { Attack } from "../../src/attacks/index.ts"
import { decodeWith, positive } from "../../src/Config.ts"
import type { Kind } from "../report/Estimate.ts"
import type { Metric } from "./Report.ts"

/** States of the sinks that attacks are tried in. */
export const AttackedState = Schema.Literal("own", "off", "placebo")
export type AttackedState = typeof AttackedState.Type

/** An attack with options of its own, which are beside these fields; what is left out has the attack's default. */
export const AttackConfig = Schema.Struct({
  /** Which attack. */
  attack: Schema.NonEmptyString,
  /** What the report calls it, so that one attack may be tried with several options. Default: the attack's name. */
  name: Schema.optional(Schema.NonEmptyString),
  /** States of the sinks in which models that have any are attacked. Default: own, off, placebo. */
  states: Schema.optional(Schema.NonEmptyArray(AttackedState)),
  /** Arms and methods whose models are attacked, by their names; the oracle and standard should be among them. Default: all. */
  models: Schema.optional(Schema.NonEmptyArray(Schema.NonEmptyString)),
  /** Sequences of each kind at most, the first of them; scored are those with the most exposures. Default: all. */
  sequences: Schema.optional(positive)
}, { key: Schema.String, value: Schema.Unknown })
export type AttackConfig = typeof AttackConfig.Type

/** An attack as it is tried. */
export interface AttackMethod {
  readonly name: string
  readonly method: AttackName
  /** Decoded. */
  readonly options: unknown
  /** The same as plain data, every default spelled out. */
  readonly encoded: Readonly<Record<string, unknown>>
  readonly states: ReadonlyArray<AttackedState>
  readonly models: ReadonlyArray<string> | undefined
  readonly sequences: number | undefined
  readonly metrics: ReadonlyArray<Metric & { readonly kind: Kind; readonly group: "natural" | "heldOut" }>
}

export const attackNames = Object.keys(attacks) as ReadonlyArray<AttackName>

/** An attack by its name, whatever its options. */
export const attackNamed = (name: AttackName): Attack => attacks[name]

/** An attack as it is tried, or what is wrong with what was asked. Its name must be known. */
export const attackMethod = (entry: string | AttackConfig): AttackMethod | string => {
  const { attack: method, models, name = method, sequences, states = ["own", "off", "placebo"], ...given } =
    typeof entry === "string" ? { attack: entry } as AttackConfig : entry
  const attack = attackNamed(method as AttackName)
  const options = decodeWith(attack.options, given)
  if (Either.isLeft(options)) return options.left.map((line) => `attacks: ${name}: ${line}`).join("\n  ")
  return {
    name,
    method: method as AttackName,
    options: options.right,
    encoded: Schema.encodeSync(attack.options)(options.right),
    states: [...new Set(states)],
    models,
    sequences,
    metrics: Object.entries(attack.metrics(options.right)).map((
      [metric, { memory, of = "rows", signed = false, title, unit }]
    ) => ({
      metric: `${name}.${metric}`,
      title: `${attack.title} (${attack.paper}): ${title}`,
      unit,
      memory,
      attack: name,
      group: of === "rows" ? "natural" : "heldOut",
      kind: unit === "share" ? "share" : signed ? "real" : "loss"
    }))
  }
}

/** What is wrong with an attack in an experiment, if anything. */
export const attackProblem = (
  { method, name, options }: AttackMethod,
  ground: AttackGround,
  hasText: boolean
): string | undefined => {
  const attack = attackNamed(method)
  const wrong = attack.needsText === true && !hasText
    ? "it needs text, and this world consists of tokens alone: attack a world of text, or leave it out"
    : attack.problem?.(options, ground)
  return wrong === undefined ? undefined : `attacks: ${name}: ${wrong}`
}
