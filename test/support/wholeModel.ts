/** A tiny model, whole: its loss and every gradient against the float64 reference. */
import * as Effect from "effect/Effect"
import { expect } from "vitest"
import { IGNORE } from "../../src/Batch.ts"
import { Device } from "../../src/gpu/Device.ts"
import type { Target } from "../../src/gpu/Target.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import { HYPER } from "../../src/model/Pass.ts"
import * as Segments from "../../src/model/Segments.ts"
import * as Sink from "../../src/Sink.ts"
import { SinkConfig, type SinkMode } from "../../src/Sink.ts"
import { expectClose } from "../reference/compare.ts"
import * as Reference from "../reference/model.ts"
import { makeRandom } from "../reference/random.ts"
import { batchOfDocuments, referenceConfig } from "./support.ts"

export interface WholeModel {
  readonly name: string
  readonly config: ModelConfig
  readonly compute?: "gathered" | "masked"
  readonly documents: ReadonlyArray<ReadonlyArray<readonly [length: number, id: bigint]>>
  readonly mode: SinkMode
  readonly precision?: "f16"
  readonly recompute?: boolean
  /** What training leaves out of the documents' sinks. */
  readonly dropped?: { readonly sequences: number; readonly units: number }
  /** Another target than the adapter's own: kernels of another family. */
  readonly target?: Partial<Target>
}

export const wholeModels: ReadonlyArray<WholeModel> = (() => {
  const base = {
    vocabSize: 61,
    hiddenSize: 32,
    numHiddenLayers: 2,
    numAttentionHeads: 4,
    numKeyValueHeads: 2,
    headDim: 12,
    intermediateSize: 40 + 64
  }
  const gathered = new ModelConfig({ ...base, sinks: new SinkConfig({ pool: 64, active: 16, block: 8 }) })
  const untied = new ModelConfig({
    ...base,
    headDim: 40,
    tieWordEmbeddings: false,
    sinks: new SinkConfig({ pool: 64, active: 32, block: 16, seed: 3 })
  })
  const bernoulli = new ModelConfig({
    ...base,
    sinks: new SinkConfig({ pool: 64, active: 16, block: 1, assignment: "bernoulli" })
  })
  // one by one: 20 neurons in 32 packed columns; pairs; as many as coins say, in room for 48 of 128 and for 8 blocks
  const single = new ModelConfig({ ...base, sinks: new SinkConfig({ pool: 64, active: 20, block: 1 }) })
  const pairs = new ModelConfig({
    ...base,
    tieWordEmbeddings: false,
    sinks: new SinkConfig({ pool: 64, active: 12, block: 2 })
  })
  const coins = (block: number, pool: number, active: number) =>
    new ModelConfig({
      ...base,
      intermediateSize: 40 + pool,
      sinks: new SinkConfig({ pool, active, block, assignment: "bernoulli" })
    })
  const reference = new ModelConfig({
    ...base,
    intermediateSize: 40 + 128,
    sinks: new SinkConfig({ pool: 128, active: 16, block: 1, assignment: "reference" })
  })
  const standard = new ModelConfig({ ...base, intermediateSize: 44 })
  // rows of 16 tokens; ids that repeat within the batch, a document of one token, a document that fills a row
  const aligned = [[[8, 1n], [8, 2n]], [[16, 1n]], [[8, -5n], [8, 2n]]] as const
  const ragged = [[[1, 1n], [10, 2n], [5, 3n]], [[16, 1n]], [[7, 4n], [9, 2n]]] as const
  return [
    { name: "gathered sinks, own", config: gathered, compute: "gathered", documents: aligned, mode: { mode: "own" } },
    { name: "gathered sinks, untied, one deleted", config: untied, compute: "gathered", documents: aligned,
      mode: { mode: "own", except: [2n] } },
    { name: "gathered sinks, off, rescaled", config: gathered, compute: "gathered", documents: aligned,
      mode: { mode: "off", rescale: "count" } },
    { name: "gathered sinks, ragged documents", config: untied, compute: "gathered", documents: ragged,
      mode: { mode: "own" } },
    { name: "gathered sinks, recomputed", config: gathered, compute: "gathered", documents: ragged,
      mode: { mode: "own" }, recompute: true },
    { name: "gathered sinks, f16", config: untied, compute: "gathered", documents: ragged, mode: { mode: "own" },
      precision: "f16" },
    { name: "masked sinks, f16, recomputed", config: bernoulli, documents: ragged, mode: { mode: "own" },
      precision: "f16", recompute: true },
    { name: "gathered sinks, plain kernels", config: untied, compute: "gathered", documents: ragged,
      mode: { mode: "own" }, target: { family: "plain" } },
    { name: "gathered sinks, GPU kernels", config: untied, compute: "gathered", documents: ragged,
      mode: { mode: "own" }, target: { family: "gpu" } },
    { name: "masked sinks, GPU kernels, f16", config: bernoulli, documents: ragged, mode: { mode: "own" },
      target: { family: "gpu" }, precision: "f16" },
    { name: "masked sinks, ragged documents", config: gathered, compute: "masked", documents: ragged,
      mode: { mode: "own" } },
    { name: "masked sinks at expected value", config: untied, compute: "masked", documents: ragged,
      mode: { mode: "all" } },
    { name: "bernoulli neurons", config: bernoulli, documents: ragged, mode: { mode: "own" } },
    { name: "gathered neurons", config: single, compute: "gathered", documents: ragged, mode: { mode: "own" } },
    { name: "gathered neurons, one deleted, plain kernels", config: single, compute: "gathered", documents: aligned,
      mode: { mode: "own", except: [2n] }, target: { family: "plain" } },
    { name: "gathered neurons, GPU kernels, recomputed", config: single, compute: "gathered", documents: ragged,
      mode: { mode: "own" }, target: { family: "gpu" }, recompute: true },
    { name: "gathered neurons, f16", config: single, compute: "gathered", documents: ragged, mode: { mode: "own" },
      precision: "f16" },
    { name: "gathered pairs, placebo", config: pairs, compute: "gathered", documents: ragged,
      mode: { mode: "placebo" } },
    { name: "gathered bernoulli neurons", config: coins(1, 128, 16), compute: "gathered", documents: ragged,
      mode: { mode: "own" } },
    { name: "gathered bernoulli blocks, GPU kernels", config: coins(8, 256, 16), compute: "gathered", documents: ragged,
      mode: { mode: "own" }, target: { family: "gpu" } },
    { name: "gathered neurons of the reference", config: reference, compute: "gathered", documents: ragged,
      mode: { mode: "own" } },
    ...([["gathered", gathered, 1], ["gathered", single, 2], ["masked", gathered, 3], ["gathered", reference,
      4]] as const).map(
        ([compute, config, i]): WholeModel => ({ name: `${compute} sinks, some left out, ${i}`, config, compute,
          documents: ragged, mode: { mode: "own" }, dropped: { sequences: 0.4, units: 0.3 } })
      ),
    { name: "gathered sinks, all left out, GPU kernels", config: gathered, compute: "gathered", documents: aligned,
      mode: { mode: "own" }, dropped: { sequences: 1, units: 0 }, target: { family: "gpu" } },
    { name: "gathered neurons, all left out", config: single, compute: "gathered", documents: ragged,
      mode: { mode: "own" }, dropped: { sequences: 1, units: 0 } },
    { name: "no sinks", config: standard, documents: ragged, mode: { mode: "own" } }
  ]
})()

/** False where the adapter has no f16, which the model then refuses. */
export const checkWholeModel = (c: WholeModel) =>
  Effect.gen(function*() {
    const random = makeRandom(7)
    const reference = referenceConfig(c.config)
    // weights large enough that attention and gates are far from linear
    const params = Object.fromEntries(
      Object.entries(Reference.randomParameters(reference, random, 0.3)).map((
        [name, value]
      ) => [name, Float64Array.from(Float32Array.from(value))])
    )
    const whole = batchOfDocuments(c.documents, 16, c.config.vocabSize, random)
    whole.targets[3] = IGNORE
    const segments = Segments.segmentsOf(whole)
    const width = 1 + (c.config.sinks?.units ?? 0)
    const coef = Segments.maskedCoefficients(c.config.sinks, c.config.general, c.mode, segments, segments.ids.length)
    // a draw for each document: the first is dark at 0.4, the others lose some of their units
    const draws = Uint32Array.from(segments.ids, (_, s) => (0x33333333 + s * 0x3c6ef372) >>> 0)
    const batch = c.dropped === undefined ? whole : {
      ...whole,
      dropped: { ...c.dropped, draws: Uint32Array.from(segments.segment, (s) => draws[s]!) }
    }
    if (c.dropped !== undefined) {
      const before = coef.reduce((sum, x) => sum + x, 0)
      draws.forEach((draw, s) => {
        const kept = Sink.kept({ ...c.dropped!, draws }, draw)
        expect(kept === "none").toBe(draw / 2 ** 32 < c.dropped!.sequences)
        for (let unit = 0; unit < width - 1; unit++) {
          if (kept === "none" || (kept !== "all" && !kept(unit))) coef[s * width + 1 + unit] = 0
        }
      })
      expect(coef.reduce((sum, x) => sum + x, 0)).toBeLessThan(before)
    }
    expect(coef.length).toBe(segments.ids.length * width)

    const own = yield* Device
    const dev = { ...own, target: { ...own.target, ...c.target } }
    const half = c.precision === "f16"
    const options = { precision: c.precision ?? "f32", recompute: c.recompute ?? false } as const
    if (half && !dev.features.has("shader-f16")) {
      const refused = yield* Effect.flip(Effect.provideService(Model.make(c.config, options), Device, dev))
      expect(refused).toMatchObject({ _tag: "DeviceError", reason: "Feature" })
      return false
    }
    const model = yield* Effect.provideService(Model.make(c.config, options), Device, dev)
    const handles = model.parameters
    for (const p of handles) dev.write(p.value, Float32Array.from(params[p.name]!))
    yield* dev.allocate(handles.map((p) => p.gradient))
    // gradients are added to: start from 1 everywhere, to see that nothing else is written
    for (const p of handles) dev.write(p.gradient, new Float32Array(params[p.name]!.length).fill(1))
    const pass = yield* model.compile({
      rows: batch.rows,
      seqLen: batch.seqLen,
      maxSegments: 8,
      output: "train",
      logitsBytes: 61 * 4 * 20,
      ...(c.compute === undefined ? {} : { compute: c.compute })
    })
    expect(pass.gathered).toBe(c.compute === "gathered")
    const { scored } = pass.load(batch, c.mode)
    // small gradients would lose their digits in f16
    const lossScale = half ? 128 : 1
    dev.write(model.hyper, Float32Array.of(1 / scored, lossScale / scored), HYPER.lossScale)
    dev.submit(pass.prepared)

    const want = Reference.forward(reference, params, batch, Float64Array.from(coef), segments.segment)
    const gradients = Reference.backward(reference, params, batch, Float64Array.from(coef), segments.segment, want)
    // half precision keeps 11 bits of every activation
    const lost = half ? 500 : 1
    const tolerance = { rtol: 2e-5 * lost, atol: 2e-5 * lost }
    expectClose((yield* dev.read(pass.tensors.loss)) as Float32Array, want.tokenLoss, { name: "loss", ...tolerance })
    const ranks = [...((yield* dev.read(pass.tensors.rank)) as Uint32Array)]
    if (half) expectClose(ranks, want.rank, { name: "ranks", atol: 3, rtol: 0 })
    else expect(ranks).toEqual([...want.rank])
    for (const p of handles) {
      const got = (yield* dev.read(p.gradient)) as Float32Array
      const scale = Math.max(...gradients[p.name]!.map(Math.abs))
      const gradient = got.map((x) => (x - 1) / lossScale)
      expectClose(gradient, gradients[p.name]!, {
        name: `gradient of ${p.name}`,
        rtol: 1e-4 * lost,
        atol: 3e-6 + 2e-5 * scale * (half ? 1500 : 1)
      })
    }
    const logits = yield* model.logits(batch, c.mode)
    expectClose(logits, want.logits, { name: "logits", rtol: 1e-4 * lost, atol: 5e-5 * lost })
    return true
  })
