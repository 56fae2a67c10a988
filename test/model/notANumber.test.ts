/** What kernels make of logits and activations that are infinite or not a number, in every family that an adapter runs. */
import { expect, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { type Batch, IGNORE } from "../../src/Batch.ts"
import { batchOf } from "../../src/data/stream/Packing.ts"
import { DataError } from "../../src/Errors.ts"
import { Device } from "../../src/gpu/Device.ts"
import * as Program from "../../src/gpu/Program.ts"
import { families, SOFTWARE_SUBGROUPS } from "../../src/gpu/Target.ts"
import * as Tensor from "../../src/gpu/Tensor.ts"
import { decompose } from "../../src/inside/Decomposition.ts"
import { makeGradients } from "../../src/inside/Gradients.ts"
import { neuronGates } from "../../src/inside/NeuronGates.ts"
import { recordOf } from "../../src/measures/TokenRecords.ts"
import { collect, generate } from "../../src/model/Generate.ts"
import * as Kernels from "../../src/model/Kernels.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as Ops from "../../src/model/Ops.ts"
import * as NodeDevice from "../../src/node.ts"
import { localizers } from "../../src/removal/localizers/index.ts"
import { recordRows } from "../../src/scoring/Record.ts"
import * as Sink from "../../src/Sink.ts"
import { historyAt, OptimizerConfig } from "../../src/train/Optimizer.ts"
import { makeTrainStep } from "../../src/train/TrainStep.ts"

const vocab = 13
const ld = 16
const bad = [NaN, -NaN, Infinity, -Infinity]

/** Rows of logits: sound ones, and ones with a bad value at the target, before it and behind it. */
const rows = [
  { target: 3, at: undefined, value: 0 },
  ...bad.flatMap((value) => [3, 0, 12].map((at) => ({ target: 3, at, value }))),
  // every logit is bad
  ...bad.map((value) => ({ target: 0, at: "all" as const, value })),
  // what is bad behind the vocabulary, or where nothing is scored, says nothing
  { target: 3, at: 14, value: NaN },
  { target: IGNORE, at: 2, value: NaN }
]
const isBad = rows.map(({ at, target }) => target !== IGNORE && (at === "all" || (at !== undefined && at < vocab)))

const logits = () => {
  const all = new Float32Array(rows.length * ld)
  rows.forEach(({ at, value }, r) => {
    for (let c = 0; c < ld; c++) all[r * ld + c] = at === "all" || at === c ? value : Math.sin(r + 2 * c)
  })
  return all
}

layer(NodeDevice.layer())("a number that is not one", (it) => {
  it.scoped("makes the loss NaN and ranks behind every token, and leaves other rows as they are",
    () =>
      Effect.gen(function*() {
        const dev = yield* Device
        const able = families.filter((family) =>
          family === "plain" || family === "gpu" ||
          (family === "software" ? SOFTWARE_SUBGROUPS.includes(dev.target.subgroupSize) : dev.target.matrices === true)
        )
        const n = rows.length
        const schemes = [{ temperature: 1, topK: 5 }]
        const count = Ops.RECORD_FIELDS.length + schemes.length
        const targets = Uint32Array.from(rows, ({ target }) => target)
        const soft = new Float32Array(n * ld)
        rows.forEach(({ target }, r) => {
          soft[r * ld + (target === IGNORE ? 0 : target)] = 1
        })
        for (const family of able) {
          const t = {
            targets: Tensor.make("targets", [n], { type: "u32" }),
            hyper: Tensor.make("hyper", [16]),
            weights: Tensor.make("weights", [n]),
            soft: Tensor.make("soft", [n, ld]),
            logits: Tensor.make("logits", [n, ld]),
            loss: Tensor.make("loss", [n]),
            rank: Tensor.make("rank", [n], { type: "u32" }),
            softLoss: Tensor.make("softLoss", [n]),
            hiddenLoss: Tensor.make("hiddenLoss", [n]),
            goal: Tensor.make("goal", [n, ld]),
            dx: Tensor.make("dx", [n, ld]),
            schemes: Tensor.make("schemes", [1, 4]),
            record: Tensor.make("record", [count, n]),
            recordRank: Tensor.make("recordRank", [n], { type: "u32" })
          }
          const p = Program.record(`not a number, ${family}`, { ...dev.target, family })
          const { goal, hyper, loss, rank, weights } = t
          const params = { rows: n, vocab, ld4: ld / 4, first: 0, train: 0 }
          const entropy = Kernels.crossEntropy(p.target)
          p.dispatch(entropy.kernel, { targets: t.targets, hyper, logits: t.logits, loss, rank }, params,
            entropy.grid(n))
          const softEntropy = Kernels.softCrossEntropy(p.target)
          p.dispatch(
            softEntropy.kernel,
            { targets: t.targets, hyper, weights, soft: t.soft, logits: t.logits, loss: t.softLoss },
            params,
            softEntropy.grid(n)
          )
          const hidden = Kernels.hiddenLoss(p.target)
          p.dispatch(
            hidden.kernel,
            { targets: t.targets, hyper, weights, x: t.logits, hiddenTarget: goal, loss: t.hiddenLoss, dx: t.dx },
            { rows: n, n4: ld / 4 },
            hidden.grid(n)
          )
          const records = Kernels.tokenRecord(p.target)
          p.dispatch(
            records.kernel,
            { targets: t.targets, schemes: t.schemes, logits: t.logits, record: t.record, rank: t.recordRank },
            { rows: n, vocab, ld4: ld / 4, first: 0, tokens: n, count: 1 },
            records.grid(n)
          )
          yield* dev.allocate(Object.values(t))
          dev.write(t.targets, targets)
          dev.write(t.logits, logits())
          dev.write(t.soft, soft)
          dev.write(t.schemes, Ops.encodeSchemes(schemes))
          dev.submit(yield* dev.prepare(p.finish()))
          const got = yield* Effect.all([
            dev.read(loss),
            dev.read(rank),
            dev.read(t.softLoss),
            dev.read(t.record),
            dev.read(t.recordRank),
            dev.read(t.hiddenLoss)
          ])
          rows.forEach(({ target, value }, r) => {
            const [ce, rankOf, softCe, record, recordRank, hidden] = got
            const name = `${family}, row ${r}, ${value}`
            const fields = Array.from({ length: count }, (_, f) => record[f * n + r]!)
            if (isBad[r]) {
              expect([ce[r], softCe[r], hidden[r], ...fields], name).toEqual(new Array(3 + count).fill(NaN))
              expect([rankOf[r], recordRank[r]], name).toEqual([vocab, vocab])
              return
            }
            const want = target === IGNORE
              ? undefined
              : recordOf(logits().subarray(r * ld, r * ld + vocab), target, schemes)
            expect(ce[r], name).toBeCloseTo(want === undefined ? 0 : -want.logProb, 5)
            expect(softCe[r], name).toBeCloseTo(want === undefined ? 0 : -want.logProb, 5)
            expect(fields[0], name).toBeCloseTo(want?.logProb ?? 0, 5)
            expect([rankOf[r], recordRank[r]], name).toEqual([want?.rank ?? 0, want?.rank ?? 0])
          })
        }
      }), 60_000)

  for (const type of ["f32", "f16"] as const) {
    it.scoped(`stays out where a coefficient or a gate of 0 takes a neuron out, ${type}`, (context) =>
      Effect.gen(function*() {
        const dev = yield* Device
        if (type === "f16" && !dev.features.has("shader-f16")) return context.skip("the adapter has no shader-f16")
        const gu = Tensor.make("gu", [1, 16], { type })
        const coef = Tensor.make("coef", [1, 2])
        const segment = Tensor.make("segment", [1], { type: "u32" })
        const h = Tensor.make("h", [1, 8], { type })
        const dh = Tensor.make("dh", [1, 8], { type })
        const dgu = Tensor.make("dgu", [1, 16], { type })
        const p = Program.record("switched off", dev.target)
        const params = { rows: 1, general4: 1, sink4: 1, coefStride: 2 }
        p.dispatch(Kernels.kernels.swiglu(4), { gu, coef, segment, h }, params, 2)
        p.dispatch(Kernels.kernels.swigluBackward(4), { gu, coef, segment, dh, dgu }, params, 2)
        yield* dev.allocate([gu, coef, segment, h, dh, dgu])
        // gate and up of the general neurons, then of the sinks, which overflow and are off
        dev.write(gu, Float32Array.of(1, 1, 1, 1, 2, 2, 2, 2, Infinity, NaN, -Infinity, 1, Infinity, 1, NaN, NaN))
        dev.write(coef, Float32Array.of(1, 0))
        const passed = Float32Array.of(1, 1, 1, 1, NaN, Infinity, -Infinity, 1)
        dev.write(dh, passed)
        const gated = type === "f16" ? [] : yield* Effect.gen(function*() {
          const gate = Tensor.make("gate", [1, 8])
          const y = Tensor.make("y", [1, 8])
          p.dispatch(Kernels.kernels.neuronGate, { h: dh, gate, segment, y }, { rows: 1, n4: 2 }, 2)
          yield* dev.allocate([gate, y])
          dev.write(gate, Float32Array.of(1, 1, 1, 1, 0, 0, 0, 0))
          return [y]
        })
        dev.submit(yield* dev.prepare(p.finish()))
        const [hidden, gradient] = yield* Effect.all([dev.read(h), dev.read(dgu)])
        const zeros = (values: ArrayLike<number>) => Array.from(values).map((x) => x + 0)
        expect(zeros(hidden.subarray(4))).toEqual([0, 0, 0, 0])
        expect(zeros(gradient.subarray(8))).toEqual([0, 0, 0, 0, 0, 0, 0, 0])
        for (const y of gated) expect(zeros((yield* dev.read(y)).subarray(4))).toEqual([0, 0, 0, 0])
        expect(hidden[0]).toBeCloseTo(2 / (1 + Math.exp(-1)), type === "f16" ? 3 : 5)
      }))
  }
})

const config = new ModelConfig({
  vocabSize: 32,
  hiddenSize: 16,
  numHiddenLayers: 2,
  numAttentionHeads: 2,
  intermediateSize: 48,
  maxPositionEmbeddings: 32,
  tieWordEmbeddings: false,
  sinks: new Sink.SinkConfig({ pool: 32, active: 16, block: 16 })
})
const sequences = Array.from({ length: 5 }, (_, r) => ({
  id: BigInt(r),
  document: `story ${r}`,
  offset: 0,
  tokens: Uint32Array.from({ length: 9 }, (_, t) => (3 * r + 5 * t) % 32)
}))
const message = <A, R>(effect: Effect.Effect<A, unknown, R>) =>
  Effect.map(Effect.flip(effect), (error) => {
    expect(error).toBeInstanceOf(DataError)
    return (error as DataError).message
  })

layer(NodeDevice.layer())("a model whose numbers end", (it) => {
  const withWeights = <A, E>(
    precision: "f32" | "f16",
    spoil: (tensors: Record<string, { data: Float32Array | Uint32Array }>) => void,
    use: Effect.Effect<A, E, Model | Device | Scope.Scope>
  ) =>
    Effect.gen(function*() {
      const model = yield* Model
      const tensors = yield* model.exportTensors
      spoil(tensors)
      yield* model.importTensors(tensors)
      return yield* use
    }).pipe(Effect.provide(Model.layer(config, { precision, seed: 3 })), Effect.scoped)

  const scoring = Effect.gen(function*() {
    const model = yield* Model
    const batch = batchOf(sequences, 8)
    const options = { batchSize: 2, seqLen: 8, split: "all" }
    return yield* Effect.all([
      message(model.evaluate(batch, Sink.own)),
      message(recordRows(model, sequences, Sink.own, options)),
      message(model.logits(batch, Sink.own)),
      message(collect({ tokens: [1, 2, 3] }, { temperature: 0 })),
      message(collect({ tokens: [1, 2, 3] }, { temperature: 1, topK: 5 }))
    ])
  })

  it.scoped("has no score and no next token, and says which weight it is", () =>
    Effect.gen(function*() {
      for (const value of [NaN, Infinity]) {
        const messages = yield* withWeights("f32", (tensors) => {
          tensors["model.layers.1.self_attn.o_proj.weight"]!.data[7] = value
        }, scoring)
        for (const text of messages) {
          expect(text).toContain(`tensor model.layers.1.self_attn.o_proj.weight holds ${value} at 7`)
        }
        expect(messages[0]).toContain("sequence story 0 has no score: the loss of its token 1")
        expect(messages[3]).toContain("the prompt has no next token: after 3 tokens")
      }
    }), 60_000)

  it.scoped("has no gates, gradients, localization and decomposition, and says which prompt of many it is",
    () =>
      Effect.gen(function*() {
        const row = { id: 1n, tokens: Uint32Array.from({ length: 9 }, (_, i) => i), document: "story", offset: 0 }
        const batch = batchOf([row], 8)
        const localize = { batchSize: 1, promptTokens: 4, seed: 1, seqLen: 8 }
        const spoil = (tensors: Record<string, { data: Float32Array | Uint32Array }>) => {
          tensors["model.embed_tokens.weight"]!.data[7 * 16] = NaN
        }
        const made = yield* withWeights("f32", spoil, Effect.gen(function*() {
          const gates = yield* neuronGates({ rows: 1, seqLen: 8, mode: Sink.own })
          return yield* Effect.all([
            message(gates.loss(batch)),
            message(gates.gradients(batch, new Float32Array(8).fill(1))),
            message(
              Effect.flatMap(makeGradients({ rows: 1, seqLen: 8 }), (gradients) => gradients.of(batch, Sink.own))
            ),
            message(localizers.gradient.localize([row], localize)),
            message(localizers.slimming.localize([row], localize)),
            message(Effect.flatMap(decompose({ rows: 1, seqLen: 8 }), ({ of }) => of(batch, Sink.own)))
          ])
        }))
        for (const text of made) {
          expect(text).toMatch(
            /sequence story has no .*loss of its token \d is not a number.*embed_tokens\.weight holds NaN at 112/
          )
        }
        const prompts = [[1, 2], [3, 4], [5, 6], [7, 2], [1, 3]].map((tokens) => ({ tokens }))
        const generated = withWeights("f32", spoil,
          message(Stream.runDrain(generate(prompts, { batchSize: 2, maxNewTokens: 1 }))))
        // of the four sequences together two at a time, it is the second in a slot
        expect(yield* generated).toContain("prompt 4 has no next token: after 2 tokens")
      }), 60_000)

  it.scoped("is told from one that f16 has no room for", (context) =>
    Effect.gen(function*() {
      if (!(yield* Device).features.has("shader-f16")) return context.skip("the adapter has no shader-f16")
      const spoil = (tensors: Record<string, { data: Float32Array | Uint32Array }>) => {
        // sound weights, whose products are beyond 65504 behind the second block's gates
        for (const name of ["gate", "up"]) {
          const { data } = tensors[`model.layers.1.mlp.${name}_proj.weight`]!
          data.forEach((x, i) => (data[i] = 2000 * x))
        }
      }
      const sound = yield* withWeights("f32", spoil,
        Effect.flatMap(Model, (model) => model.evaluate(batchOf(sequences, 8), Sink.own)))
      expect(sound.loss.every(Number.isFinite)).toBe(true)
      const messages = yield* withWeights("f16", spoil, scoring)
      for (const text of messages) expect(text).toMatch(/activations overflow in f16.*precision f32/)
      expect(messages[0]).toContain("The first are those of block 1")
    }), 60_000)

  it.scoped("in f16 skips a step, which then did not happen, and goes on with a smaller scale",
    (context) =>
      Effect.gen(function*() {
        if (!(yield* Device).features.has("shader-f16")) return context.skip("the adapter has no shader-f16")
        const good = [0, 3].map((at) => batchOf(sequences.slice(at, at + 2), 8))
        // token 31 is of no other sequence, and its row of the embedding is no number
        const bad = batchOf([{ ...sequences[0]!, tokens: Uint32Array.of(31, 1, 31, 2) }, sequences[1]!], 8)
        const optimizer = new OptimizerConfig({ schedule: "constant", warmupSteps: 0, beta2: 0.999, weightDecay: 0 })
        const train = (batches: ReadonlyArray<Batch>) =>
          Effect.gen(function*() {
            const device = yield* Device
            const model = yield* Model
            yield* device.allocate(model.parameters.map(({ gradient }) => gradient))
            const training = yield* makeTrainStep({ optimizer, steps: 9, window: 9, parameters: model.parameters })
            const pass = yield* training.compile({ rows: 2, seqLen: 8 })
            batches.forEach((batch, step) => training.run([{ pass, batch, mode: Sink.own }], step))
            const history = (yield* device.read(training.optimizer.history)) as Float32Array
            return {
              steps: batches.map((_, step) => historyAt(history, step)),
              weights: yield* model.exportTensors,
              stats: Array.from(yield* device.read(training.optimizer.stats))
            }
          })
        const spoil = (tensors: Record<string, { data: Float32Array | Uint32Array }>) => {
          tensors["model.embed_tokens.weight"]!.data.fill(Infinity, 31 * 16, 32 * 16)
        }
        const without = yield* withWeights("f16", spoil, train([good[0]!, good[1]!]))
        const withOne = yield* withWeights("f16", spoil, train([good[0]!, bad, good[1]!]))
        expect(withOne.steps.map(({ skipped }) => skipped)).toEqual([false, true, false])
        expect(withOne.steps.map(({ skippedSoFar }) => skippedSoFar)).toEqual([0, 1, 1])
        expect(withOne.steps.map(({ lossScale }) => lossScale)).toEqual([65536, 65536, 32768])
        expect(withOne.steps[2]!.loss).toBe(without.steps[1]!.loss)
        // bias corrections of the second step that was taken
        expect(withOne.stats.slice(4)).toEqual(without.stats.slice(4))
        expect(without.stats[4]).toBeCloseTo(1 / (1 - 0.9 ** 2), 5)
        for (const [name, { data }] of Object.entries(without.weights)) {
          const other = withOne.weights[name]!.data
          const apart = Array.from(data, (x, i) => Object.is(x, other[i]) ? 0 : Math.abs(x - other[i]!))
          expect(Math.max(...apart), name).toBeLessThan(1e-4)
        }
      }), 60_000)
})
