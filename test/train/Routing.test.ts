import { layer } from "@effect/vitest"
import * as Chunk from "effect/Chunk"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { describe, expect, it as test } from "vitest"
import { type Batch, IGNORE } from "../../src/Batch.ts"
import { Checkpoints, type Snapshot } from "../../src/checkpoints/Checkpoints.ts"
import { type DataConfigInput, DataStream } from "../../src/data/stream/DataStream.ts"
import { Device } from "../../src/gpu/Device.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { initialValue } from "../../src/model/Parameters.ts"
import * as Segments from "../../src/model/Segments.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Sink from "../../src/Sink.ts"
import { memoryPlan } from "../../src/train/MemoryPlan.ts"
import { learningRateAt, OptimizerConfig } from "../../src/train/Optimizer.ts"
import { route, type RoutingName, routings } from "../../src/train/Routing.ts"
import { type Observer, TrainConfig, Trainer } from "../../src/train/Trainer.ts"
import { expectClose } from "../reference/compare.ts"
import * as Reference from "../reference/model.ts"
import { makeRandom } from "../reference/random.ts"
import { batchOfDocuments, miniatureData, miniatureModel, referenceConfig } from "../support/support.ts"

/** One block that is on for all, as in the papers; and sinks of which each id has its own. */
const oneBlock = new ModelConfig({
  ...miniatureModel,
  intermediateSize: 32 + 16,
  sinks: new Sink.SinkConfig({ pool: 16, active: 16, block: 16 })
})
const { general, hiddenSize: d } = oneBlock

const data: DataConfigInput = { repeats: 4, singleSequences: 12, canaries: [{ random: 1, times: 3 }] }

const app = (
  training: Partial<ConstructorParameters<typeof TrainConfig>[0]>,
  model: ModelConfig = oneBlock,
  overrides: DataConfigInput = {},
  observer?: Observer
) =>
  Trainer.layer(new TrainConfig({ steps: 3, logEvery: 1, ...training }), observer && { observer }).pipe(
    Layer.provideMerge(Model.layer(model, { seed: 5 })),
    Layer.provideMerge(miniatureData({ ...data, ...overrides }))
  )

const run = Effect.flatMap(Trainer, (trainer) => Stream.runDrain(trainer.run))

const firstBatches = (count: number) =>
  Effect.flatMap(DataStream, (stream) =>
    Effect.map(
      Stream.runCollect(Stream.take(stream.batches({ epoch: 0, batch: 0 }), count)),
      (chunk) => Chunk.toReadonlyArray(chunk).map(({ batch }) => batch)
    ))

const kindOf = (name: string, at: number): "general" | "sinks" | "rest" => {
  if (!/gateUp|down/.test(name)) return "rest"
  return at < (name.endsWith("gateUp") ? 2 : 1) * general * d ? "general" : "sinks"
}

describe("a routed batch", () => {
  const sinks = new Sink.SinkConfig({ pool: 64, active: 16, block: 16 })
  const batch = batchOfDocuments([[[6, 1n], [10, 2n]], [[16, 3n]]], 16, 61, makeRandom(1))
  const scoredBy = ({ targets }: Batch) => [...targets.keys()].filter((t) => targets[t] !== IGNORE)

  test("scores each token on one side, and moves the sinks of repeated ids alone", () => {
    const [repeated, others] = route(routings.sgtm, sinks, new Set([2n]), batch)
    expect([repeated!.side, others!.side]).toEqual(["repeated", "others"])
    expect(scoredBy(repeated!.batch)).toEqual(scoredBy(batch).filter((t) => batch.ids[t] === 2n))
    expect(scoredBy(others!.batch)).toEqual(scoredBy(batch).filter((t) => batch.ids[t] !== 2n))
    expect(repeated!.units).toEqual(Sink.unitsOf(sinks, 2n))
    expect(others!.units).toHaveLength(0)
    expect(scoredBy(batch)).toHaveLength(29)
  })

  test("leaves out a side with nothing to score, but not both", () => {
    expect(route(routings.sgtm, sinks, new Set([7n]), batch).map(({ side }) => side)).toEqual(["others"])
    expect(route(routings.sgtm, sinks, new Set([1n, 2n, 3n]), batch).map(({ side }) => side)).toEqual(["repeated"])
    const silent = { ...batch, targets: batch.targets.map(() => IGNORE) }
    expect(route(routings.sgtm, sinks, new Set([1n]), silent).map(({ side }) => side)).toEqual(["others"])
  })
})

layer(NodeDevice.layer())("training with gradient routing", (it) => {
  const optimizer = new OptimizerConfig({ learningRate: 1e-2, gradClip: 0.5 })

  for (const routing of ["gradientMasking", "sgtm"] as const) {
    for (const [kind, config] of [["one block", oneBlock], ["each id's own sinks", miniatureModel]] as const) {
      it.effect(`${routing} with ${kind} follows the float64 reference for three steps`, () =>
        Effect.gen(function*() {
          const trainer = yield* Trainer
          const model = yield* Model
          const device = yield* Device
          const repeated = yield* (yield* DataStream).repeatedIds
          const reference = referenceConfig(config)
          let state = Reference.initialState(Object.fromEntries(
            model.parameters.map((p) => [p.name, Float64Array.from(initialValue(config, p, 5))])
          ))
          const want: Array<number> = []
          const taught = { repeated: 0, others: 0 }
          for (const [step, batch] of (yield* firstBatches(3)).entries()) {
            const segments = Segments.segmentsOf(batch)
            const scored = batch.targets.filter((target) => target !== IGNORE).length
            const sum: Reference.Tensors = {}
            let loss = 0
            for (const side of ["repeated", "others"] as const) {
              const { mode, update } = {
                gradientMasking: {
                  repeated: { mode: Sink.own, update: ["sinks", "rest"] },
                  others: { mode: Sink.own, update: ["general", "rest"] }
                },
                sgtm: {
                  repeated: { mode: Sink.own, update: ["sinks"] },
                  others: { mode: Sink.off, update: ["general", "rest"] }
                }
              }[routing][side]
              const own = {
                ...batch,
                targets: batch.targets.map((target, t) =>
                  repeated.has(batch.ids[t]!) === (side === "repeated") ? target : IGNORE
                )
              }
              if (own.targets.some((target) => target !== IGNORE)) taught[side]++
              const coef = Segments.maskedCoefficients(config.sinks, general, mode, segments, segments.ids.length)
              const all = [reference, state.params, own, Float64Array.from(coef), segments.segment] as const
              const cache = Reference.forward(...all)
              loss += cache.tokenLoss.reduce((a, b) => a + b, 0) / scored
              const weights = new Float64Array(batch.targets.length).fill(1 / scored)
              for (const [name, gradient] of Object.entries(
                Reference.backward(...all, Reference.weighted(cache, weights))
              )) {
                sum[name] ??= new Float64Array(gradient.length)
                gradient.forEach((value, i) => {
                  if (update.includes(kindOf(name, i))) sum[name]![i]! += value
                })
              }
            }
            const next = Reference.move(state, sum, {
              lr: learningRateAt(optimizer, step, 3),
              beta1: 0.9,
              beta2: 0.95,
              eps: 1e-8,
              weightDecay: 0.1,
              clip: 0.5
            })
            want.push(loss, next.gradNorm)
            state = next.state
          }
          expect(Math.min(taught.repeated, taught.others)).toBeGreaterThan(0)
          const events = Chunk.toReadonlyArray(yield* Stream.runCollect(trainer.run))
          const got = events.flatMap((e) => (e._tag === "Stepped" ? [e.loss!, e.gradNorm!] : []))
          expectClose(got, want, { name: "loss and norm", rtol: 2e-4 })
          for (const p of model.parameters) {
            const value = (yield* device.read(p.value)) as Float32Array
            expectClose(value, state.params[p.name]!, { name: p.name, rtol: 1e-2, atol: 1e-3 })
          }
        }).pipe(Effect.provide(Layer.provideMerge(
          app({ routing, optimizer }, config, { batchSize: 4 }),
          Checkpoints.layerMemory
        ))))
    }

    it.effect(`${routing}: what a first step moves of general neurons, sinks and the rest, by what it is taught`, () =>
      Effect.gen(function*() {
        const seen = new Set<string>()
        // rows of one sequence: the order of some epochs begins with a repeated one, that of others does not
        for (let seed = 1; seen.size < 2; seed++) {
          expect(seed).toBeLessThan(20)
          yield* Effect.gen(function*() {
            const [batch] = yield* firstBatches(1)
            const side = (yield* (yield* DataStream).repeatedIds).has(batch!.ids[0]!) ? "repeated" : "others"
            if (seen.has(side)) return
            seen.add(side)
            yield* run
            const model = yield* Model
            const device = yield* Device
            const moved = { general: false, sinks: false, rest: false }
            for (const p of model.parameters) {
              const before = initialValue(oneBlock, p, 5)
              const after = yield* device.read(p.value)
              after.forEach((value, i) => {
                if (value !== before[i]) moved[kindOf(p.name, i)] = true
              })
            }
            expect(moved).toEqual({
              gradientMasking: {
                repeated: { general: false, sinks: true, rest: true },
                others: { general: true, sinks: false, rest: true }
              },
              sgtm: {
                repeated: { general: false, sinks: true, rest: false },
                others: { general: true, sinks: false, rest: true }
              }
            }[routing][side])
          }).pipe(Effect.provide(Layer.provide(
            app({ routing, steps: 1, optimizer: new OptimizerConfig({ weightDecay: 0 }) }, oneBlock, { batchSize: 1,
              seed }),
            Checkpoints.layerMemory
          )))
        }
      }))
  }

  it.effect("a resumed run equals the uninterrupted one bit for bit, and keeps its routing", () =>
    Effect.gen(function*() {
      const training = { routing: "sgtm", steps: 6, gradientAccumulation: 2 } as const
      const latest = Effect.flatMap(Checkpoints, (checkpoints) => checkpoints.load("latest"))
      const tensors = ({ model, optimizer }: Snapshot) =>
        Object.entries({ ...model, ...optimizer }).map(([name, { data }]) =>
          `${name} ${Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("base64")}`
        )
      const straight = yield* Effect.zipRight(run, latest).pipe(
        Effect.provide(Layer.provideMerge(app(training), Checkpoints.layerMemory))
      )
      const store = Layer.succeed(Checkpoints, yield* Effect.provide(Checkpoints, Checkpoints.layerMemory))
      // interrupted there, it saves what it has
      const stopping = { due: (step: number) => step === 3, look: () => Effect.interrupt }
      yield* Effect.exit(Effect.provide(run, Layer.provide(app(training, undefined, undefined, stopping), store)))
      expect((yield* Effect.provide(latest, store)).step).toBe(3)
      const other = yield* Effect.flip(
        Effect.provide(run, Layer.provide(app({ ...training, routing: "gradientMasking" }), store))
      )
      expect(other.message).toContain("training.routing is \"gradientMasking\", was \"sgtm\"")
      yield* Effect.provide(run, Layer.provide(app(training), store))
      expect(tensors(yield* Effect.provide(latest, store))).toEqual(tensors(straight))
    }))

  const refusal = (training: { routing: RoutingName }, model?: ModelConfig, overrides?: DataConfigInput) =>
    Effect.flip(Effect.provide(run, Layer.provide(app(training, model, overrides), Checkpoints.layerMemory)))

  it.effect("says what it lacks: sinks, repeated sequences, ids of their own", () =>
    Effect.gen(function*() {
      const standard = new ModelConfig({ ...miniatureModel, intermediateSize: 32, sinks: undefined })
      const routing = { routing: "sgtm" } as const
      expect((yield* refusal(routing, standard)).message).toContain("and the model has none: set model.sinks")
      const once = { repeatedSequences: 0, canaries: [{ random: 1, times: 1 }] }
      expect((yield* refusal(routing, oneBlock, once)).message).toContain(
        "none is repeated: set data.repeatedSequences"
      )
      expect((yield* refusal(routing, oneBlock, { identity: "document" })).message).toMatch(
        /training\.routing "sgtm" knows .* by their ids, but a sequence of \S+ .*that is not repeated has the id \d+ of .*set identity to "row"/
      )
    }))

  it.effect("repeated ids are those of groups and of canaries that come more than once", () =>
    Effect.gen(function*() {
      const stream = yield* DataStream
      const ids = (name: "repeated" | "canaries") => stream.split(name).map(({ id }) => id)
      expect([...(yield* stream.repeatedIds)].sort()).toEqual([...ids("repeated"), ...ids("canaries").slice(1)].sort())
      expect(ids("canaries")).toHaveLength(3)
      expect([...(yield* stream.recurringIds)].sort()).toEqual([...(yield* stream.repeatedIds)].sort())
    }).pipe(Effect.provide(miniatureData({ canaries: [{ random: 1, times: 1 }, { random: 2, times: 2 }] }))))

  it.scoped("recurring ids are those of copies, too, and of what the mixture holds twice", () =>
    Effect.gen(function*() {
      const texts = ["a copy of the one ", "quite another text ", "a copy of the one ", "a third, all its own "]
      const corpus = texts.map((text, i) => ({ name: `${i}`, text: text.repeat(3), source: i === 1 ? "b" : "a" }))
      const of = (over: DataConfigInput) =>
        Effect.map(
          Layer.build(
            DataStream.layerMemory(corpus, { tokenizer: "bytes", seqLen: 16, batchSize: 1, singleSequences: "all",
              heldOutFraction: 0, ...over })
          ),
          Context.get(DataStream)
        )
      const named = (over: DataConfigInput) =>
        Effect.gen(function*() {
          const data = yield* of(over)
          const rows = [...data.split("repeated"), ...data.split("singles")]
          const names = new Map(rows.map(({ document, id }) => [id, document]))
          return [...(yield* data.recurringIds)].map((id) => names.get(id)).sort()
        })
      expect((yield* named({ identity: "content" })).map((name) => texts[Number(name)])).toEqual([texts[0]])
      expect(yield* named({ identity: "document" })).toEqual([])
      expect(yield* named({ identity: "document", sources: [{ name: "b", epochs: 2 }] })).toEqual(["1"])
      expect(yield* named({ identity: "document", sources: [{ name: "b", epochs: 2 }], arm: "deduplicated" })).toEqual([
        "1"
      ])
      const refused = yield* Effect.flip(Effect.flatMap(of({ identity: "source" }), ({ recurringIds }) => recurringIds))
      expect(refused.detail).toMatch(/an id stands for a source/)
    }))
})

layer(NodeDevice.layer({ adapter: "null" }))("the memory plan", (it) => {
  it.scoped("counts both passes of a routing, to the byte", () =>
    Effect.gen(function*() {
      const device = yield* Device
      const before = device.counters.bytes
      yield* Layer.build(Layer.provide(app({ routing: "sgtm" }), Checkpoints.layerMemory))
      const shape = { rows: 2, seqLen: 16 }
      const plan = memoryPlan(oneBlock, shape, { target: device.target, logEvery: 1, routing: "sgtm" })
      expect(plan.peak).toBe(device.counters.bytes - before)
      const plain = memoryPlan(oneBlock, shape, { target: device.target, logEvery: 1 })
      expect(plan.activations).toBeGreaterThan(1.5 * plain.activations)
    }))
})
