/** Extreme configurations: each is decoded to something that can be planned, or refused in words, in no time. */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Schema from "effect/Schema"
import * as AST from "effect/SchemaAST"
import { DynamicsConfig, planOf as planDynamics } from "../../pipelines/dynamics/Config.ts"
import { IsolateConfig, planOf as planIsolation } from "../../pipelines/isolation/Config.ts"
import { PretrainConfig } from "../../pipelines/pretrain.ts"
import { decodeConfig, pathsOf } from "../../src/Config.ts"
import { resolve } from "../../src/data/stream/DataConfig.ts"
import { TokenizeConfig } from "../../src/data/tokens/Tokenize.ts"
import { DataError } from "../../src/Errors.ts"
import * as MemoryPlan from "../../src/train/MemoryPlan.ts"
import type { Fuzzer } from "./fuzz.ts"

const nested = (depth: number): unknown => depth === 0 ? 1 : { a: nested(depth - 1) }

const values: ReadonlyArray<() => unknown> = [
  ...[1e308, -1e308, 2 ** 53, 2 ** 53 + 2, -(2 ** 53), 2 ** 32, 2 ** 31, 2 ** 31 - 1, 65536, 65535, 600_000, 2100, 4096,
    -0, 0, -1]
    .map((value) => () => value),
  ...[0.5, 1e-320, 5e-324, NaN, Infinity, -Infinity, 1, 2, 3, 4, 16, 1024].map((value) => () => value),
  ...["", "NaN", "1e3", "__proto__", "\u0000", "💥", "all", "auto", "gpt2", "standard", "x".repeat(1000)].map(
    (value) => () => value
  ),
  ...[null, undefined, true, false].map((value) => () => value),
  () => [],
  () => ({}),
  () => Array.from({ length: 5000 }, (_, i) => i),
  () => [[[[]]]],
  () => nested(200),
  () => [null],
  () => new Date(0),
  () => 1n
]

const pick = <A>(random: () => number, from: ReadonlyArray<A>): A => from[Math.floor(random() * from.length)]!

/** The tree with a value at a path; structs on the way are made. */
const put = (tree: Record<string, unknown>, path: ReadonlyArray<string>, value: unknown): Record<string, unknown> => {
  const [key, ...rest] = path as [string, ...Array<string>]
  const below = tree[key]
  const inner = typeof below === "object" && below !== null && !Array.isArray(below)
    ? below as Record<string, unknown>
    : {}
  return { ...tree, [key]: rest.length === 0 ? value : put(inner, rest, value) }
}

const shown = (value: unknown): string =>
  JSON.stringify(value, (_, one) =>
    typeof one === "bigint" || (typeof one === "number" && !Number.isFinite(one)) ? String(one) : one as unknown)
    ?.slice(0, 300) ?? "undefined"

/** What is tried with one that decodes: what a dry run and `memsinks plan` do with it, short of reading data. */
const plan = (config: unknown): string | undefined => {
  if (!(config instanceof PretrainConfig)) return undefined
  const { data, model, training } = config
  resolve(data, "text")
  resolve(data, "tokens")
  const shape = { rows: data.batchSize, seqLen: data.seqLen, precision: config.precision, recompute: config.recompute }
  const { gradientAccumulation, logEvery, optimizer, routing } = training
  try {
    const { peak } = MemoryPlan.memoryPlan(model, shape, { optimizer, logEvery, gradientAccumulation, routing })
    return Number.isSafeInteger(peak) ? undefined : `a peak of ${peak} bytes`
  } catch (error) {
    if (error instanceof DataError) return undefined
    if (!MemoryPlan.isTooLarge(error)) throw error
    const { sentence } = MemoryPlan.fit(model, shape, { buffer: 2 ** 31, memory: 2 ** 36 }, { optimizer, logEvery,
      gradientAccumulation, routing })
    return sentence.length > 0 ? undefined : "no sentence for what does not fit"
  }
}

/** Most milliseconds that one configuration may take. */
const SLOW = 5000

const fuzzer = <A, I>(
  name: string,
  schema: Schema.Schema<A, I>,
  after: (config: A) => Effect.Effect<unknown, DataError>,
  /** What has no default. */
  needed: object = {}
): Fuzzer => {
  const paths = pathsOf(schema).map((path) => path.split("."))
  // from the defaults on: one field that is missing would hide what is wrong with another
  const base = Schema.encodeSync(schema)(Schema.decodeUnknownSync(schema)(needed))
  const fields = AST.getPropertySignatures(AST.encodedAST(schema.ast)).map(({ name }) => String(name))
  return {
    name,
    run: async (random, inputs, note) => {
      const wrong: Array<string> = []
      for (let i = 0; i < inputs; i++) {
        let input: unknown = base
        const count = 1 + Math.floor(random() * 3)
        for (let n = 0; n < count; n++) {
          const path = random() < 0.05 ? [pick(random, fields), "noSuchField"] : pick(random, paths)
          input = put(input as Record<string, unknown>, path, pick(random, values)())
        }
        if (random() < 0.02) input = pick(random, values)()
        const began = performance.now()
        try {
          const decoded = Effect.runSync(Effect.either(Effect.tap(decodeConfig(schema, input), after)))
          note(Either.isLeft(decoded) ? decoded.left.message : JSON.stringify(Schema.encodeSync(schema)(decoded.right)))
          if (Either.isRight(decoded)) {
            const problem = plan(decoded.right)
            if (problem !== undefined) wrong.push(`${name} ${i}: ${shown(input)}: ${problem}`)
          } else if (!/\S/.test(decoded.left.message)) {
            wrong.push(`${name} ${i}: ${shown(input)}: refused without a word`)
          }
        } catch (error) {
          wrong.push(`${name} ${i}: ${shown(input)}: ${error instanceof Error ? error.message : String(error)}`)
        }
        const took = performance.now() - began
        if (took > SLOW) wrong.push(`${name} ${i}: ${shown(input)}: took ${Math.round(took)} ms`)
      }
      return wrong
    }
  }
}

/** One a configuration. */
export const fuzzers: ReadonlyArray<Fuzzer> = [
  fuzzer("configuration of pretrain", PretrainConfig, () => Effect.void),
  fuzzer("configuration of isolate", IsolateConfig, planIsolation),
  fuzzer("configuration of dynamics", DynamicsConfig, planDynamics),
  fuzzer("configuration of tokenize", TokenizeConfig, () => Effect.void, { data: [{ path: "a.txt" }],
    tokenizer: "bytes" })
]
