import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { describe, expect, it as test } from "vitest"
import { differingBits, hygiene, type HygieneCheck, type HygieneInput,
  prunedTensors } from "../../../pipelines/isolation/Hygiene.ts"
import { maskChecks } from "../../../pipelines/isolation/Masks.ts"
import { batchOf } from "../../../src/data/stream/Packing.ts"
import { DataError } from "../../../src/Errors.ts"
import { Model, type ModelService } from "../../../src/model/Model.ts"
import * as NodeDevice from "../../../src/node.ts"
import * as Sink from "../../../src/Sink.ts"
import { OptimizerConfig } from "../../../src/train/Optimizer.ts"
import { heldOut, memorize, optimizer, repeated, seqLen, singles, sinkModel,
  withWeights } from "../../support/memorized.ts"

const config = sinkModel()
const input: HygieneInput = { optimizer, rows: { repeated, singles, heldOut }, seqLen, batchSize: 4, seed: 1 }

const onDevice = [
  "determinism",
  "export and import",
  "gradients of unlit sinks",
  "drift of unlit sinks",
  "unlit sinks are not read",
  "pruned = off",
  "packed = unpacked",
  "causality",
  "deletion spares disjoint ids",
  "deletion takes no more than the overlap",
  "a deleted id is off"
]
const onMasks = ["mask density", "mean overlap", "largest overlap", "collisions", "id 0", "placebo ids"]

const failed = (checks: ReadonlyArray<HygieneCheck>) => checks.filter(({ passed }) => !passed).map(({ name }) => name)

const valueOf = (checks: ReadonlyArray<HygieneCheck>, name: string) =>
  checks.find((check) => check.name === name)!.value

type Tensors = Effect.Effect.Success<ReturnType<typeof memorize>>

/** Tensors whose bits are not the same: a comparison of them all would take minutes to print. */
const changed = (a: Tensors, b: Tensors) => {
  expect(Object.keys(a)).toEqual(Object.keys(b))
  const data = (tensors: Tensors, name: string) => tensors[name]!.data as Float32Array
  return Object.keys(a).filter((name) => differingBits(data(a, name), data(b, name)) > 0)
}

/** The checks on a model of which something is broken. */
const broken = (breakIt: (model: ModelService) => Partial<ModelService>, overrides: Partial<HygieneInput> = {}) =>
  Effect.flatMap(Model, (model) =>
    Effect.provideService(hygiene({ ...input, ...overrides }), Model, { ...model, ...breakIt(model) }))

layer(NodeDevice.layer())("hygiene of a model that has memorized", (it) => {
  const once = Effect.cached(memorize(config)).pipe(Effect.runSync)
  const withModel = <A, E, R>(use: Effect.Effect<A, E, R>) =>
    Effect.flatMap(once, (weights) => withWeights(config, weights, use))

  for (const compute of ["gathered", "masked"] as const) {
    for (const sinks of ["dense", "lazy"] as const) {
      it.effect(`passes, ${compute} and with ${sinks} updates, and leaves the weights as they were`, () =>
        Effect.gen(function*() {
          const weights = yield* once
          yield* withWeights(config, weights, Effect.gen(function*() {
            const checks = yield* hygiene({ ...input, optimizer: new OptimizerConfig({ ...optimizer, sinks }) })
            expect(checks.map(({ name }) => name)).toEqual([...onDevice, ...onMasks])
            expect(checks.filter(({ passed }) => !passed)).toEqual([])
            const drift = valueOf(checks, "drift of unlit sinks")
            // decay of 0.1 at a learning rate of 0.02, and what momentum adds
            if (sinks === "lazy") expect(drift).toBe(0)
            else expect(drift).toBeGreaterThan(2e-3)
            for (const { bound, detail } of checks) expect(bound.length * detail.length).toBeGreaterThan(0)
            expect(changed(yield* (yield* Model).exportTensors, weights)).toEqual([])
            expect(JSON.parse(JSON.stringify(checks))).toEqual(checks)
          }), { compute })
        }))
    }
  }

  it.effect("does not mind absurd weights in a sink that nobody lights", () =>
    Effect.gen(function*() {
      const weights = yield* once
      const all = [...repeated, ...singles, ...heldOut]
      const lit = new Set(all.flatMap(({ id }) => [...Sink.unitsOf(config.sinks!, id)]))
      const unit = Array.from({ length: config.sinks!.units }, (_, u) => u).find((u) => !lit.has(u))!
      expect(unit).toBeDefined()
      const neuron = config.general + unit * config.sinks!.block
      const poisoned = Object.fromEntries(Object.entries(weights).map(([name, { data, shape }]) => {
        const copy = data.slice() as Float32Array
        if (/(gate|up)_proj/.test(name)) copy.fill(100, neuron * config.hiddenSize, (neuron + 1) * config.hiddenSize)
        if (/down_proj/.test(name)) { for (let d = 0; d < config.hiddenSize; d++) copy[d * shape[1]! + neuron] = 100 }
        return [name, { data: copy, shape }]
      }))
      expect(failed(yield* withWeights(config, poisoned, hygiene(input)))).toEqual([])
    }))

  it.effect("sees gradients of unlit sinks, and updates that use them", () =>
    withModel(Effect.gen(function*() {
      const lit = new Set(repeated.slice(0, 4).flatMap(({ id }) => [...Sink.unitsOf(config.sinks!, id)]))
      const others = Array.from({ length: config.sinks!.units }, (_, unit) => unit).filter((unit) => !lit.has(unit))
      for (const sinks of ["dense", "lazy"] as const) {
        const checks = yield* broken((model) => ({
          compile: (shape) =>
            Effect.map(model.compile({ ...shape, compute: "masked" }), (pass) => ({
              ...pass,
              load: (batch) => ({ ...pass.load(batch, Sink.all), units: Uint32Array.from(others.slice(0, 8)) })
            }))
        }), { optimizer: new OptimizerConfig({ ...optimizer, sinks }), rows: { repeated: repeated.slice(0, 4) } })
        expect(failed(checks)).toEqual(["gradients of unlit sinks", "drift of unlit sinks"])
        expect(valueOf(checks, "gradients of unlit sinks")).toBeGreaterThan(0)
      }
    })))

  it.effect("sees a pass that gets no gradient at all", () =>
    withModel(Effect.gen(function*() {
      const checks = yield* broken((model) => ({
        compile: (shape) =>
          Effect.map(model.compile(shape), (pass) => ({ ...pass, load: (batch) => pass.load(batch, Sink.off) }))
      }))
      expect(failed(checks)).toEqual(["gradients of unlit sinks"])
    })))

  it.effect("sees sinks that are not off when they should be", () =>
    withModel(Effect.gen(function*() {
      const checks = yield* broken((model) => ({
        logits: (batch, mode) => model.logits(batch, mode.mode === "off" ? Sink.own : mode)
      }))
      expect(failed(checks)).toEqual(["pruned = off"])
    })))

  it.effect("sees attention that crosses from document to document", () =>
    withModel(Effect.gen(function*() {
      const joined = (batch: Parameters<ModelService["logits"]>[0]) => ({
        ...batch,
        documentStart: batch.documentStart.map((_, t) => t - (t % seqLen))
      })
      const checks = yield* broken((model) => ({
        evaluate: (batch, mode) => model.evaluate(joined(batch), mode),
        logits: (batch, mode) => model.logits(joined(batch), mode)
      }))
      expect(failed(checks)).toEqual(["packed = unpacked", "causality"])
    })))

  it.effect("sees a model that looks ahead", () =>
    withModel(Effect.gen(function*() {
      const checks = yield* broken((model) => ({
        logits: (batch, mode) =>
          Effect.map(model.logits(batch, mode), (logits) => {
            // one bit of the first logit, by a later token of the same document
            new Uint32Array(logits.buffer)[0]! ^= batch.tokens[3]! & 1
            return logits
          })
      }))
      expect(failed(checks)).toEqual(["causality"])
      expect(valueOf(checks, "causality")).toBe(1)
    })))

  it.effect("sees one bit that changes from pass to pass", () =>
    withModel(Effect.gen(function*() {
      let pass = 0
      const checks = yield* broken((model) => ({
        logits: (batch, mode) =>
          Effect.map(model.logits(batch, mode), (logits) => {
            new Uint32Array(logits.buffer)[0]! ^= pass++ % 2
            return logits
          })
      }))
      expect(failed(checks)).toEqual(["determinism", "causality"])
      expect(valueOf(checks, "determinism")).toBe(1)
    })))

  it.effect("sees an export that rounds", () =>
    withModel(Effect.gen(function*() {
      const checks = yield* broken((model) => ({
        exportTensors: Effect.map(model.exportTensors, (tensors) =>
          Object.fromEntries(
            Object.entries(tensors).map((
              [name, { data, shape }]
            ) => [name, { shape, data: (data as Float32Array).map((x) => x * (1 + 1e-4)) }])
          ))
      }))
      expect(failed(checks)).toEqual(["export and import"])
    })))

  it.effect("sees a deletion that deletes nothing, and one that deletes everything", () =>
    withModel(Effect.gen(function*() {
      const nothing = yield* broken((model) => ({
        evaluate: (batch, mode) => model.evaluate(batch, "except" in mode ? Sink.own : mode)
      }))
      expect(failed(nothing)).toEqual(["deletion takes no more than the overlap", "a deleted id is off"])
      const everything = yield* broken((model) => ({
        evaluate: (batch, mode) => model.evaluate(batch, "except" in mode ? Sink.off : mode)
      }))
      expect(failed(everything)).toEqual(["deletion spares disjoint ids", "deletion takes no more than the overlap"])
    })))

  it.effect("puts the weights back when a check fails to run", () =>
    Effect.flatMap(once, (weights) =>
      withWeights(config, weights, Effect.gen(function*() {
        let calls = 0
        const exit = yield* Effect.exit(broken((model) => ({
          importTensors: (tensors) =>
            calls++ === 0 ? Effect.fail(new DataError({ detail: "no" }) as never) : model.importTensors(tensors)
        })))
        expect(Exit.isFailure(exit)).toBe(true)
        expect(changed(yield* (yield* Model).exportTensors, weights)).toEqual([])
      }))))

  it.effect("passes for a pool in shards", () =>
    Effect.gen(function*() {
      const inShards = sinkModel({ shards: 4 })
      expect(failed(yield* withWeights(inShards, yield* memorize(inShards), hygiene(input)))).toEqual([])
    }))

  it.effect("of sinks that everyone lights finds nothing unlit or disjoint, says so, and fails on collisions", () =>
    Effect.gen(function*() {
      const shared = sinkModel({ pool: 32, active: 32 })
      const checks = yield* withWeights(shared, yield* memorize(shared, 2), hygiene(input))
      expect(failed(checks)).toEqual(["collisions"])
      expect(valueOf(checks, "collisions")).toBe(28)
      const detail = (name: string) => checks.find((check) => check.name === name)!.detail
      expect(detail("gradients of unlit sinks")).toContain("none is unlit")
      expect(detail("unlit sinks are not read")).toContain("none is unlit")
      expect(detail("deletion spares disjoint ids")).toContain("none is disjoint")
    }))

  it.effect("refuses a model without sinks, few ids, and sequences that do not fit", () =>
    Effect.gen(function*() {
      const { config: plain, tensors } = prunedTensors(config, yield* once)
      const noSinks = yield* Effect.flip(withWeights(plain, tensors, hygiene(input)))
      expect(noSinks.message).toContain("the model has none")
      const message = (rows: HygieneInput["rows"]) =>
        withModel(Effect.map(Effect.flip(hygiene({ ...input, rows })), (error) => error.message))
      expect(yield* message({ repeated: repeated.slice(0, 3) })).toContain("4 at least, got 3")
      const long = { ...repeated[0]!, tokens: new Uint32Array(18) }
      expect(yield* message({ repeated: [...repeated, long] })).toContain("sequence sequence 1 has 18 tokens")
    }))

  it.effect("prunes to a model of the general neurons that computes what off does, bit for bit", () =>
    Effect.gen(function*() {
      const weights = yield* once
      const { config: plain, tensors } = prunedTensors(config, weights)
      expect([plain.intermediateSize, plain.sinks]).toEqual([16, undefined])
      const batch = batchOf(repeated, seqLen)
      const logits = (mode: Sink.SinkMode) => Effect.flatMap(Model, (model) => model.logits(batch, mode))
      const off = yield* withModel(logits(Sink.off))
      expect(differingBits(yield* withWeights(plain, tensors, logits(Sink.own)), off)).toBe(0)
      expect(differingBits(yield* withModel(logits(Sink.own)), off)).toBeGreaterThan(off.length / 2)
    }))
})

describe("checks of masks", () => {
  const ids = Array.from({ length: 100 }, (_, i) => BigInt(i + 1))

  test("pass for permutations, and for coins", () => {
    for (const assignment of ["permutation", "bernoulli"] as const) {
      for (const active of [16, 256, 512]) {
        const sinks = new Sink.SinkConfig({ pool: 512, active, block: 1, assignment })
        const checks = maskChecks(sinks, ids)
        expect(checks.map(({ name }) => name)).toEqual(onMasks)
        // one whose sinks everyone lights cannot keep ids apart
        expect([assignment, active, failed(checks)]).toEqual([assignment, active, active === 512 ? ["collisions"] : []])
      }
    }
  })

  test("pass for a pool in shards, whatever the seed", () => {
    for (const assignment of ["permutation", "bernoulli"] as const) {
      for (const shards of [2, 4, 16]) {
        for (let seed = 0; seed < 20; seed++) {
          const sinks = new Sink.SinkConfig({ pool: 512, active: 16, block: 1, assignment, shards, seed })
          expect([assignment, shards, seed, ...failed(maskChecks(sinks, ids))]).toEqual([assignment, shards, seed])
        }
      }
    }
    // where ids of one shard light the same, those of two are still apart
    const whole = new Sink.SinkConfig({ pool: 512, active: 128, shards: 4 })
    const alike = maskChecks(whole, ids)
    expect(failed(alike)).toEqual(["collisions"])
    expect(valueOf(alike, "mean overlap")).toBeCloseTo(1 / 4, 1)
  })

  test("fail for the reference code's hash, by each of its defects", () => {
    const hash = { assignment: "reference", referenceIdBits: 32 } as const
    const sinks = new Sink.SinkConfig({ pool: 7692, active: 100, block: 1, ...hash })
    // s and 2s share half; id 0 lights all
    const checks = maskChecks(sinks, ids)
    expect(failed(checks)).toEqual(["mean overlap", "largest overlap", "id 0"])
    expect(valueOf(checks, "id 0")).toBe(7692)
    expect(valueOf(checks, "mean overlap")).toBeGreaterThan(0.04)
    // 32 bits: only the low 16 of an id count
    const alike = maskChecks(sinks, ids, [5n, 5n + 65536n, 7n])
    expect(failed(alike)).toContain("collisions")
    expect(valueOf(alike, "collisions")).toBe(1)
    // id 0 among the data
    expect(failed(maskChecks(sinks, [0n, ...ids]))).toContain("mask density")
  })

  test("count collisions of the ids that must be told apart, and say what chance gives", () => {
    // four units, one a sequence: 4 sets
    const sinks = new Sink.SinkConfig({ pool: 64, active: 16, block: 16 })
    const checks = maskChecks(sinks, ids, ids.slice(0, 20))
    const { detail, passed, value } = checks.find(({ name }) => name === "collisions")!
    expect(passed).toBe(false)
    const units = ids.slice(0, 20).map((id) => Sink.unitsOf(sinks, id)[0])
    const counts = [0, 1, 2, 3].map((unit) => units.filter((one) => one === unit).length)
    expect(value).toBe(counts.reduce((sum, n) => sum + (n * (n - 1)) / 2, 0))
    // 190 pairs over 4
    expect(detail).toContain("gives 47.5 by chance")
  })
})
