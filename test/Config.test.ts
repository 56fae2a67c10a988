import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { describe, expect, it } from "vitest"
import { PretrainConfig } from "../pipelines/pretrain.ts"
import { configured, decodeConfig, nearest } from "../src/Config.ts"
import { DataConfig } from "../src/data/stream/DataConfig.ts"
import { DataError } from "../src/Errors.ts"
import { differences, merge } from "../src/Json.ts"
import { ModelConfig, presets } from "../src/model/ModelConfig.ts"
import { SinkConfig } from "../src/Sink.ts"
import { OptimizerConfig } from "../src/train/Optimizer.ts"
import { TrainConfig } from "../src/train/Trainer.ts"

class Inner extends Schema.Class<Inner>("Inner")({
  blockSize: Schema.optionalWith(Schema.Int.pipe(Schema.positive()), { default: () => 16 })
}) {}

class Outer extends Schema.Class<Outer>("Outer")(
  Schema.Struct({
    steps: Schema.Int,
    learningRate: Schema.optionalWith(Schema.Number.pipe(Schema.positive()), { default: () => 0.1 }),
    mode: Schema.optionalWith(Schema.Literal("dense", "lazy"), { default: () => "dense" as const }),
    inner: Schema.optional(Inner)
  }).pipe(Schema.filter((c) => c.steps < 100 || "steps must be below 100"))
) {}

const problems = (input: unknown): ReadonlyArray<string> => {
  const error = Effect.runSync(Effect.flip(decodeConfig(Outer, input)))
  expect(error._tag).toBe("DataError")
  return error.message.split("\n").slice(1).map((line) => line.trim())
}

describe("decodeConfig", () => {
  it("fills in defaults and takes an instance as well as plain data", () => {
    const decoded = Effect.runSync(decodeConfig(Outer, { steps: 3, inner: {} }))
    expect(decoded).toEqual(new Outer({ steps: 3, inner: new Inner({}) }))
    expect(decoded.inner?.blockSize).toBe(16)
    expect(Effect.runSync(decodeConfig(Outer, decoded))).toEqual(decoded)
  })

  it("tells every problem at once, a line each, and counts them", () => {
    const input = { learningRate: -1, mode: "lasy", stebs: 2, inner: { blocksize: 3, blockSize: 1.5 } }
    expect([...problems(input)].sort()).toEqual([
      "inner.blockSize: expected an integer, got 1.5",
      "inner.blocksize: is not a known key. Did you mean blockSize?",
      "learningRate: expected a positive number, got -1",
      `mode: expected "dense" or "lazy", got "lasy". Did you mean "lazy"?`,
      "stebs: is not a known key. Did you mean steps?",
      "steps: is missing"
    ])
    expect(Effect.runSync(Effect.flip(decodeConfig(Outer, input))).message).toContain("6 problems")
  })

  it("lists the known keys when none is close", () => {
    expect(problems({ steps: 1, zzz: 1 })).toEqual([
      "zzz: is not a known key; known: steps, learningRate, mode, inner"
    ])
  })

  it("knows the keys of what stands in a list", () => {
    const List = Schema.Struct({
      items: Schema.optional(Schema.Array(Schema.Struct({ weight: Schema.Number }).pipe(Schema.filter(() => true))))
    })
    const error = Effect.runSync(Effect.flip(decodeConfig(List, { items: [{ weight: 1 }, { weight: 2, wieght: 2 }] })))
    expect(error.message).toContain("items.1.wieght: is not a known key. Did you mean weight?")
  })

  it("says of a union what the member lacks that was meant, by its tag or by how much of it fits", () => {
    const Kind = Schema.Union(
      Schema.Struct({ kind: Schema.Literal("text"), data: Schema.NonEmptyString }),
      Schema.Struct({ kind: Schema.Literal("draw"), size: Schema.Int.pipe(Schema.positive()) })
    )
    const Method = Schema.Struct({ method: Schema.NonEmptyString, rates: Schema.optional(Schema.Array(Schema.Number)) })
    const Unions = Schema.Struct({
      kind: Schema.optional(Kind),
      methods: Schema.optional(Schema.Array(Schema.Union(Schema.NonEmptyString, Method))),
      count: Schema.optional(Schema.Union(Schema.Int.pipe(Schema.positive()), Schema.Literal("all"))),
      checked: Schema.optional(Schema.Union(
        Schema.NonEmptyString,
        Schema.Struct({ a: Schema.Int }).pipe(Schema.filter(({ a }) => a < 3 || "a must be below 3"))
      ))
    })
    const wrong = (input: typeof Unions.Encoded | object) =>
      Effect.runSync(Effect.flip(decodeConfig(Unions, input))).message.split("\n").slice(1).map((line) => line.trim())
    expect(wrong({ kind: { kind: "drow", size: 1 } })).toEqual([
      "kind.kind: expected \"text\" or \"draw\", got \"drow\". Did you mean \"draw\"?"
    ])
    expect(wrong({ kind: { kind: "draw", size: 0 } })).toEqual(["kind.size: expected a positive number, got 0"])
    expect(wrong({ kind: { kind: "draw", size: 1, data: "x" } })).toEqual([
      "kind.data: is not a known key here; known: kind, size"
    ])
    expect(wrong({ methods: ["a", { method: "b", rates: [1, "x"] }, { rates: [] }, 4] })).toEqual([
      "methods.1.rates.1: expected number, got \"x\"",
      "methods.2.method: is missing",
      "methods.3: expected string or an object, got 4"
    ])
    expect(wrong({ methods: "a" })).toEqual(["methods: expected a list, got \"a\""])
    expect(wrong({ methods: [{ method: "b", rate: 1 }] })).toEqual([
      "methods.0.rate: is not a known key. Did you mean rates?"
    ])
    expect(wrong({ count: 0 })).toEqual(["count: expected a positive number or \"all\", got 0"])
    expect(wrong({ count: { of: 1 } })).toEqual(["count: expected number or \"all\", got {\"of\":1}"])
    expect(wrong({ checked: { a: 7 } })).toEqual(["checked: a must be below 3"])
  })

  it("passes on what a check over several fields says", () => {
    expect(problems({ steps: 100 })).toEqual(["steps must be below 100"])
  })

  it("explains what is no object at all", () => {
    expect(problems(7).join()).toMatch(/got 7/)
  })
})

describe("a configuration's constructor", () => {
  it("takes plain objects, however deep, and the instances that they stand for", () => {
    const plain = new TrainConfig({ steps: 5, optimizer: { learningRate: 1e-3 } })
    expect(plain).toEqual(new TrainConfig({ steps: 5, optimizer: new OptimizerConfig({ learningRate: 1e-3 }) }))
    expect(plain.optimizer).toBeInstanceOf(OptimizerConfig)
    expect([plain.optimizer.learningRate, plain.optimizer.beta2, plain.logEvery]).toEqual([1e-3, 0.95, 10])
    const run = new PretrainConfig({ model: { ...presets.tiny, sinks: { pool: 64, active: 16 }, intermediateSize: 128 },
      seeds: 2 })
    expect([run.model.general, run.model.sinks?.block, run.seeds]).toEqual([64, 16, 2])
    expect(new DataConfig()).toEqual(new DataConfig({}))
  })

  it.each<readonly [string, () => unknown, string]>([
    ["a number out of range", () => new TrainConfig({ steps: 0 }), "steps: expected a positive number, got 0"],
    ["a field of another name", () => new TrainConfig({ step: 40 } as object),
      "step: is not a known key. Did you mean steps?"],
    [
      "one below it",
      () => new TrainConfig({ optimizer: { lr: 1 } as object }),
      "optimizer.lr: is not a known key. Did you mean optimizer.learningRate?"
    ],
    ["of sinks", () => new SinkConfig({ pool: 64, active: 16, blok: 8 } as never),
      "blok: is not a known key. Did you mean block?"],
    ["of a model", () => new ModelConfig({ ...presets.tiny, layers: 3 } as never),
      "layers: is not a known key. Did you mean numHiddenLayers?"]
  ])("says in one sentence what is wrong: %s", (_, make, line) => {
    expect(make).toThrow(new DataError({ detail: `the configuration has a problem:\n  ${line}` }))
  })
})

describe("a field of another place", () => {
  const meant = (input: unknown) =>
    Effect.runSync(Effect.flip(decodeConfig(PretrainConfig, input))).message.split("\n").slice(1)
  it("is found over the whole configuration, by its path", () => {
    expect(meant({ steps: 10 })).toEqual(["  steps: is not a known key. Did you mean training.steps?"])
    expect(meant({ lr: 1 })).toEqual(["  lr: is not a known key. Did you mean training.optimizer.learningRate?"])
    expect(meant({ training: { learningRate: 1 } }))
      .toEqual(["  training.learningRate: is not a known key. Did you mean training.optimizer.learningRate?"])
    expect(meant({ model: { ...presets.tiny, pool: 4 } })).toEqual([
      "  model.pool: is not a known key. Did you mean model.sinks.pool?"
    ])
    // one beside it, where none elsewhere has that very name
    expect(meant({ sedes: 2 })).toEqual(["  sedes: is not a known key. Did you mean seeds?"])
  })
})

describe("nearest", () => {
  it("finds a word a few edits away, whatever its case, and none that is far", () => {
    expect(nearest("seqlen", ["batchSize", "seqLen"])).toBe("seqLen")
    expect(nearest("repeatedSequence", ["repeats", "repeatedSequences"])).toBe("repeatedSequences")
    expect(nearest("tokeniser", ["tokenizer"])).toBe("tokenizer")
    expect(nearest("stebz", ["steps"])).toBe("steps")
    expect(nearest("abc", ["xyz"])).toBeUndefined()
  })
})

describe("what is given where a configuration is expected", () => {
  const message = (given: unknown) =>
    Effect.runSync(Effect.flip(configured(TrainConfig, given, "Trainer.layer takes a TrainConfig"))).message
  it("is said in one sentence, whatever it is", () => {
    expect(message(undefined)).toBe("Trainer.layer takes a TrainConfig, got undefined")
    expect(message(null)).toBe("Trainer.layer takes a TrainConfig, got null")
    expect(message({ steps: 0 })).toMatch(/steps: expected .*, got 0/)
    expect(Effect.runSync(configured(TrainConfig, { steps: 3 }, ""))).toBeInstanceOf(TrainConfig)
  })
})

it("trees of one kind are merged field by field, one of another kind replaces what was there", () => {
  const base = { world: { world: "text", data: { seqLen: 64 } }, steps: 1 }
  expect(merge({ data: { data: "a", identity: "source" } }, { data: { data: "b" } })).toEqual({
    data: { data: "b", identity: "source" }
  })
  expect(merge(base, { world: { data: { seqLen: 32 } } })).toEqual({ world: { world: "text", data: { seqLen: 32 } },
    steps: 1 })
  expect(merge(base, { world: { world: "modular" } })).toEqual({ world: { world: "modular" }, steps: 1 })
})

it("a configuration that writes out what a field means that is left out is no other one", () => {
  const before = { model: { memsinks: { sinks: { pool: 64 } } }, training: { diloco: { syncEvery: 4 } } }
  const written = {
    model: { memsinks: { sinks: { pool: 64, shards: 1, owners: [], denied: [], excluded: [] } } },
    training: { exchange: "f32", diloco: { syncEvery: 4, fragments: 1, fragmentSyncDelay: 0, fragmentUpdateAlpha: 0 } }
  }
  expect(differences(written, before)).toEqual([])
  expect(differences(before, written)).toEqual([])
  const other = { model: { memsinks: { sinks: { pool: 64, shards: 2 } } },
    training: { exchange: "bf16", diloco: null } }
  expect(differences(other, before)).toEqual([
    "model.memsinks.sinks.shards is 2, was undefined",
    "training.exchange is \"bf16\", was undefined",
    "training.diloco is null, was {\"syncEvery\":4}"
  ])
})
