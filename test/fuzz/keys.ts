/**
 * Keys of what is reused, for random pairs of configurations that differ in one field: the two have one key exactly where
 * no value that is kept can differ. Every field of an experiment's configuration is walked, so that a new one is asked for
 * its place here.
 */
import * as Arbitrary from "effect/Arbitrary"
import * as Effect from "effect/Effect"
import * as FastCheck from "effect/FastCheck"
import * as Schema from "effect/Schema"
import type * as AST from "effect/SchemaAST"
import { type DynamicsArm, DynamicsConfig, planOf as planDynamics } from "../../pipelines/dynamics/Config.ts"
import * as DynamicsJobs from "../../pipelines/dynamics/Jobs.ts"
import { IsolateConfig, planOf as planIsolation } from "../../pipelines/isolation/Config.ts"
import * as Jobs from "../../pipelines/isolation/Jobs.ts"
import { keyOf } from "../../src/Key.ts"
import type { Fuzzer } from "./fuzz.ts"

type Json = Readonly<Record<string, unknown>>

/** Of a path in a configuration, which kinds of things it must leave as they are. The rest it must change. */
interface Free {
  readonly path: RegExp
  readonly kinds: RegExp
  readonly why: string
}

const isolationFree: ReadonlyArray<Free> = [
  { path: /^(subject|intervals|gate\b.*|generate|contexts|relearnBack)$/, kinds: /./,
    why: "asked of what is kept, not kept" },
  { path: /^seeds$/, kinds: /./, why: "how many; each is kept under its own" },
  { path: /^arms\b/, kinds: /^(?!models)/, why: "each model is its own; the others are of one" },
  { path: /^(arms|localizers|unlearners)\.\d+\.name$/, kinds: /./, why: "what a report calls it" },
  { path: /^localizers\b/, kinds: /^(?!localizers|sweeps|recall|dropped)/, why: "of localizers alone" },
  { path: /^fractions\b/, kinds: /^(?!sweeps|dropped)/, why: "of what is dropped by the scores" },
  { path: /^unlearn(ers|Rates|Steps)\b/, kinds: /^(?!unlearning|unlearned)/, why: "of unlearners alone" },
  { path: /^unlearnBatchSize$/, kinds: /^(?!unlearning|unlearned|relearning|dropped)/,
    why: "of unlearners and relearning" },
  { path: /^relearn(Rates|Steps)\b/, kinds: /^(?!relearning|dropped)/, why: "of relearning alone" },
  { path: /^interference\b/, kinds: /^(?!interference)/, why: "of interference alone" },
  { path: /^training\.save(Every|Best|LogSpaced)$/, kinds: /./, why: "when a training is saved changes nothing of it" },
  { path: /^training\.evalEvery$/, kinds: /./, why: "evaluations says it" },
  { path: /^model\.vocabSize$/, kinds: /./, why: "follows the data" },
  { path: /^world\.(data\.)?seed$/, kinds: /./, why: "the seed of a run stands for it" }
]

const dynamicsFree: ReadonlyArray<Free> = [
  { path: /^(intervals|resamples|contents)$/, kinds: /./, why: "asked of what is kept, not kept" },
  { path: /^seeds$/, kinds: /./, why: "how many; each has a folder of its own" },
  { path: /^arms\.\d+\.name$/, kinds: /./, why: "what a report calls it, and the folder, which is refused to another" },
  { path: /^training\.save(Every|Best|LogSpaced)$/, kinds: /./, why: "when a training is saved changes nothing of it" },
  { path: /^model\.vocabSize$/, kinds: /./, why: "follows the data" },
  { path: /^data\.seed$/, kinds: /./, why: "the seed of a run stands for it" }
]

const machine = { adapter: "an adapter", kernels: "plain" }
const inputs = [{ what: "text.txt", sha256: "ab" }, { what: "the tokenizer", sha256: "cd" }]

/** Every kind of thing of an experiment, by the key of it. */
const isolationKeys = async (input: unknown): Promise<Readonly<Record<string, string>>> => {
  const { arms, config, localizers, unlearners } = await Effect.runPromise(planIsolation(input))
  const setup: Jobs.Setup = { config, seed: 1, steps: config.training.steps ?? 100, vocabSize: 64, inputs, machine }
  const keys: Record<string, Array<Jobs.Key>> = {}
  const note = (kind: string, key: Jobs.Key) => void (keys[kind] ??= []).push(key)
  const common = { promptTokens: 4, seqLen: 16, seed: 1 }
  arms.forEach((arm) => note("models", Jobs.model(setup, arm)))
  const model = Jobs.model(setup, arms.find(({ name }) => name === "sinks") ?? arms.at(-1)!)
  for (const { method, settings } of localizers) {
    for (const { options } of settings) {
      const scores = Jobs.localizer(model, method, options, "natural", common)
      note("localizers", scores)
      note("recall", Jobs.recall(scores))
      const sweep = Jobs.localizerSweep(scores, config.fractions)
      note("sweeps", sweep)
      note("dropped", Jobs.relearning(Jobs.atPoint(sweep, { fraction: 0.1 }), relearningOf(config)))
    }
  }
  for (const { method, settings } of unlearners) {
    for (const { options } of settings) {
      const sweep = Jobs.unlearning(model, method, options, 1)
      note("unlearning", sweep)
      note("unlearned", Jobs.records(Jobs.atPoint(sweep, { step: 4 }), "run", "own"))
    }
  }
  note("records", Jobs.records(model, "standard seed 1", "own"))
  note("said", Jobs.said(model, "own", { context: 4, length: 4 }))
  note("losses", Jobs.losses(model, "own"))
  note("relearning", Jobs.relearning(model, relearningOf(config)))
  note("interference", Jobs.interference(model, config.interference, 1))
  return Object.fromEntries(Object.entries(keys).map(([kind, all]) => [kind, keyOf(all)]))
}

const relearningOf = ({ relearnRates, relearnSteps, unlearnBatchSize }: IsolateConfig) => ({
  learningRates: relearnRates,
  steps: relearnSteps,
  batchSize: unlearnBatchSize,
  seqLen: 16,
  seed: 1
})

const dynamicsKeys = async (input: unknown): Promise<Readonly<Record<string, string>>> => {
  const plan = await Effect.runPromise(planDynamics(input))
  return { arms: keyOf(plan.arms.map((arm: DynamicsArm) => DynamicsJobs.armOf(plan, arm, 1, 64, inputs))) }
}

// ---------------------------------------------------------------------------------------------------------------
// A walk over fields

interface Leaf {
  readonly path: ReadonlyArray<string>
  readonly schema: Schema.Schema.Any
}

/** What a field may hold, without defaults, classes and brands. */
const inside = (ast: AST.AST): AST.AST =>
  ast._tag === "Transformation"
    ? inside(ast.from)
    : ast._tag === "Refinement"
    ? inside(ast.from)
    : ast._tag === "Suspend"
    ? inside(ast.f())
    : ast

/** The fields of a configuration that are no objects of fields themselves; of a union those that a value has. */
const leavesOf = (ast: AST.AST, value: unknown, path: ReadonlyArray<string> = []): ReadonlyArray<Leaf> => {
  const plain = inside(ast)
  if (plain._tag === "TypeLiteral" && plain.propertySignatures.length > 0) {
    return plain.propertySignatures.flatMap(({ name, type }) =>
      leavesOf(type, Object(value)[name], [...path, String(name)])
    )
  }
  if (plain._tag === "TupleType" && Array.isArray(value)) {
    const items = value.flatMap((item: unknown, i): ReadonlyArray<Leaf> => {
      const type = plain.elements[i]?.type ?? plain.rest[0]?.type
      return type === undefined || typeof item !== "object" ? [] : leavesOf(type, item, [...path, String(i)])
    })
    return [...items, { path, schema: Schema.make(ast) }]
  }
  if (plain._tag === "Union" && typeof value === "object" && value !== null && !Array.isArray(value)) {
    const fitting = plain.types.find((type) => {
      const fields = inside(type)
      return fields._tag === "TypeLiteral" &&
        fields.propertySignatures.every(({ name, type }) =>
          inside(type)._tag !== "Literal" || Object(value)[name] === (inside(type) as AST.Literal).literal
        )
    })
    if (fitting !== undefined) return leavesOf(fitting, value, path)
  }
  return [{ path, schema: Schema.make(ast) }]
}

const setAt = (value: unknown, [first, ...rest]: ReadonlyArray<string>, to: unknown): unknown =>
  first === undefined ? to : Array.isArray(value) ?
    value.map((item: unknown, i) => String(i) === first ? setAt(item, rest, to) : item) :
    { ...Object(value) as Json, [first]: setAt(Object(value)[first], rest, to) }

const getAt = (value: unknown, path: ReadonlyArray<string>): unknown =>
  path.reduce<unknown>((at, name) => Object(at)[name], value)

/** Values that a field may be changed to: what its schema draws, and neighbours of what it is. */
const otherValue = (leaf: Leaf, now: unknown, random: () => number): unknown => {
  if (typeof now === "boolean") return !now
  if (typeof now === "number" && random() < 0.7) {
    return Number.isInteger(now)
      ? now + 1 + Math.floor(random() * 3)
      : now * (0.5 + random())
  }
  return FastCheck.sample(Arbitrary.make(Schema.encodedSchema(leaf.schema) as Schema.Schema<unknown>), {
    numRuns: 1,
    seed: Math.floor(random() * 2 ** 31)
  })[0]
}

const fuzzer = (
  name: string,
  schema: Schema.Schema.Any,
  base: unknown,
  keysOf: (input: unknown) => Promise<Readonly<Record<string, string>>>,
  free: ReadonlyArray<Free>,
  decoded: (input: unknown) => unknown
): Fuzzer => ({
  name,
  run: async (random, inputs, note) => {
    const wrong: Array<string> = []
    const was = decoded(base)
    const before = await keysOf(base)
    const leaves = leavesOf(schema.ast, was)
    for (let i = 0; i < inputs; i++) {
      const leaf = leaves[Math.floor(random() * leaves.length)]!
      const path = leaf.path.join(".")
      const value = otherValue(leaf, getAt(was, leaf.path), random)
      const input = setAt(was, leaf.path, value)
      let is: unknown
      let after: Readonly<Record<string, string>>
      try {
        is = decoded(input)
        after = await keysOf(input)
      } catch {
        note("refused")
        continue // makes no experiment
      }
      note(Object.values(after).join(" "))
      const same = keyOf(is) === keyOf(was)
      for (const kind of Object.keys(before)) {
        const may = same || free.some((one) => one.path.test(path) && one.kinds.test(kind))
        const differs = after[kind] !== before[kind]
        if (differs !== !may) {
          wrong.push(`${name}: ${path} = ${JSON.stringify(value)}: the key of ${kind} ${differs ? "changes" : "stays"}`)
        }
      }
    }
    return [...new Set(wrong)]
  }
})

const isolationBase = Schema.encodeSync(IsolateConfig)(new IsolateConfig({
  arms: ["standard", "neverRepeated", "sinks", "gradientMasking", { arm: "sinks", name: "noisy", idNoise: 0.1,
    learningRate: 1e-2 }],
  localizers: ["integratedGradients", { localizer: "slimming", lambda: [1, 2] }],
  unlearners: ["npo", { unlearner: "rmu", alpha: [1, 3] }],
  unlearnRates: [1e-3],
  intervals: false
}))

const dynamicsBase = Schema.encodeSync(DynamicsConfig)(new DynamicsConfig({
  arms: ["standard", "sinks", { arm: "sinks", name: "similar", intervening: "similar", idNoise: 0.1 }],
  intervals: false
}))

export const fuzzers: ReadonlyArray<Fuzzer> = [
  fuzzer(
    "keys of isolation",
    IsolateConfig,
    isolationBase,
    isolationKeys,
    isolationFree,
    (input) => Schema.encodeSync(IsolateConfig)(Schema.decodeUnknownSync(IsolateConfig)(input))
  ),
  fuzzer(
    "keys of dynamics",
    DynamicsConfig,
    dynamicsBase,
    dynamicsKeys,
    dynamicsFree,
    (input) => Schema.encodeSync(DynamicsConfig)(Schema.decodeUnknownSync(DynamicsConfig)(input))
  )
]
