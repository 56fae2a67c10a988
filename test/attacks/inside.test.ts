/** Attacks that look into a model: each finds what was planted, and nothing where nothing was. */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { expect } from "vitest"
import { hiddenProbe, HiddenProbeOptions } from "../../src/attacks/hiddenProbe.ts"
import { sampleOf } from "../../src/attacks/index.ts"
import { selfInfluence, SelfInfluenceOptions } from "../../src/attacks/selfInfluence.ts"
import { shortestContext, ShortestContextOptions } from "../../src/attacks/shortestContext.ts"
import { unlearningDepth, UnlearningDepthOptions } from "../../src/attacks/unlearningDepth.ts"
import { batchOf } from "../../src/data/stream/Packing.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import * as Sink from "../../src/Sink.ts"
import { makeTuner } from "../../src/train/Tuner.ts"
import { memorize, optimizer, repeated, seqLen, sequences, sinkModel, withWeights } from "../support/memorized.ts"

const config = new ModelConfig({ ...sinkModel(), numHiddenLayers: 2 })
const [rows, seen] = [repeated.slice(0, 4), repeated.slice(4)]
const others = sequences(12, 2000)
const problem = { rows, seen, others, seed: 1, seqLen, batchSize: 4 }
const values = (got: Readonly<Record<string, Parameters<typeof sampleOf>[0]>>) =>
  Object.fromEntries(Object.entries(got).map(([name, value]) => [name, sampleOf(value)?.value]))

layer(NodeDevice.layer())("attacks that look inside", (it) => {
  it.effect("tell a model that memorized in its sinks from the same with them off, and from one that never did", () =>
    Effect.gen(function*() {
      const known = yield* memorize(config, 60)
      const never = yield* memorize(config, 0)
      const inside = <A, E, R>(weights: typeof known, use: Effect.Effect<A, E, R>) => withWeights(config, weights, use)
      const influence = (mode: Sink.SinkMode) =>
        Effect.map(selfInfluence.run({ ...problem, mode }, new SelfInfluenceOptions({})), values)
      const here = yield* inside(known, influence(Sink.own))
      expect(here["auc"]).toBeGreaterThan(0.95)
      expect(here["ratio"]).toBeLessThan(0.5)
      const absent = yield* inside(never, influence(Sink.own))
      expect(absent["auc"]).toBeLessThan(0.9)
      expect(absent["ratio"]).toBeGreaterThan(0.7)
      const last = selfInfluence.run({ ...problem, mode: Sink.own }, new SelfInfluenceOptions({ part: "last" }))
      expect(values(yield* inside(known, last))["auc"]).toBeGreaterThan(0.95)

      const depth = (weights: typeof known, mode: Sink.SinkMode) => {
        const reference = <A, E>(use: Effect.Effect<A, E, Model>) => Effect.orDie(inside(never, use))
        const run = unlearningDepth.run({ ...problem, mode, reference: reference as never },
          new UnlearningDepthOptions({ prompt: 4 }))
        return Effect.map(inside(weights, run), values)
      }
      expect((yield* depth(known, Sink.own))["uds"]).toBeLessThan(0.02)
      expect((yield* depth(known, Sink.off))["uds"]).toBeGreaterThan(0.15)
      const alone = unlearningDepth.run({ ...problem, mode: Sink.own }, new UnlearningDepthOptions({ prompt: 4 }))
      expect((yield* Effect.flip(inside(known, alone))).message).toContain("judged beside the oracle")
      const ground = { model: config, seqLen, rows: 1, seen: 1, others: 0 }
      expect(unlearningDepth.problem!(new UnlearningDepthOptions({ prompt: 17 }), ground)).toMatch(
        /leaves none of the 17/
      )
      expect(unlearningDepth.problem!(new UnlearningDepthOptions({}), ground)).toMatch(
        /never trained on: hold some out/
      )
    }))

  it.effect("read off hidden states what the head does not say", () =>
    Effect.gen(function*() {
      // the model knows the next token of all its sequences; then its final norm and head are turned away
      const plain = new ModelConfig({ ...config, sinks: undefined, intermediateSize: 64, tieWordEmbeddings: false })
      const knows = yield* Effect.gen(function*() {
        const model = yield* Model
        const steps = 120
        const tuner = yield* makeTuner({ rows: repeated.length, seqLen, steps, optimizer })
        for (let step = 0; step < steps; step++) yield* tuner.step(batchOf(repeated, seqLen))
        return yield* model.exportTensors
      }).pipe(Effect.scoped, Effect.provide(Model.layer(plain, { seed: 3 })))
      const name = "lm_head.weight"
      const { data, shape } = knows[name]!
      const silent = { ...knows, [name]: { shape, data: Float32Array.from(data).reverse() } }
      const options = new HiddenProbeOptions({ prompt: 4 })
      const run = hiddenProbe.run({ ...problem, mode: Sink.own }, options)
      const untrained = yield* memorize(plain, 0)
      const found = values(yield* withWeights(plain, silent, run))
      const nothing = values(yield* withWeights(plain, untrained, run))
      expect(found["decoded"]!).toBeGreaterThan(0.4)
      expect(found["shuffled"]).toBeLessThan(0.1)
      expect(nothing["decoded"]).toBeLessThan(0.1)
      const ground = { model: plain, seqLen, rows: 1, seen: 0, others: 4 }
      const silentHead = yield* withWeights(plain, silent,
        shortestContext.run({ ...problem, mode: Sink.own }, new ShortestContextOptions({ length: 1, contexts: [12] })))
      expect(values(silentHead)["found"]).toBeLessThan(0.5)
      expect(hiddenProbe.problem!(options, ground)).toMatch(/not scored, and there is none/)
      expect(hiddenProbe.problem!(new HiddenProbeOptions({ layer: 2 }), ground)).toMatch(/layer is 2, .* blocks 0 to 1/)
      expect(hiddenProbe.problem!(new HiddenProbeOptions({ ahead: 2 }), ground)).toMatch(/and 2 ahead leave none of/)
    }))
})
