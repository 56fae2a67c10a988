/** A bug in plain code is a defect wherever it strikes: it is never told as one of the five errors. */
import { expect, layer } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import type { Batch } from "../../src/Batch.ts"
import { batchOf, type Row } from "../../src/data/stream/Packing.ts"
import { decompose } from "../../src/inside/Decomposition.ts"
import { makeGradients } from "../../src/inside/Gradients.ts"
import { neuronGates } from "../../src/inside/NeuronGates.ts"
import * as Decode from "../../src/model/Decode.ts"
import { Model } from "../../src/model/Model.ts"
import * as NodeDevice from "../../src/node.ts"
import { localizers } from "../../src/removal/localizers/index.ts"
import { hiddenStates } from "../../src/removal/unlearners/hiddenStates.ts"
import * as Otlp from "../../src/runs/Otlp.ts"
import { calibrate } from "../../src/scoring/Calibration.ts"
import { recordRows } from "../../src/scoring/Record.ts"
import * as Sink from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { makeTuner } from "../../src/train/Tuner.ts"
import { miniatureModel } from "../support/support.ts"

const seqLen = 8
const row: Row = { id: 1n, tokens: Uint32Array.from({ length: seqLen + 1 }, (_, i) => i), document: "a", offset: 0 }
/** What no typed code makes. */
const nothing = undefined as never
const batch: Batch = { ...batchOf([row], seqLen), ids: nothing }
/** Options whose reading is a bug. */
const breaking = <A extends object>(options: A, field: string): A =>
  Object.defineProperty(options, field, { enumerable: true, get: () => (undefined as unknown as Row).id })
const localize = { batchSize: 1, promptTokens: 4, seed: 1, seqLen }

const at: Record<string, Effect.Effect<unknown, unknown, Effect.Effect.Context<ReturnType<typeof makeTuner>>>> = {
  "a score": Effect.flatMap(Model, (model) => model.evaluate(batch, Sink.own)),
  "a compiled pass": Effect.flatMap(Model,
    (model) => model.compile(breaking({ rows: 1, seqLen, output: "loss" as const }, "head"))),
  "imported tensors": Effect.flatMap(Model, (model) => model.importTensors(nothing)),
  "a decoding step": Effect.flatMap(Decode.open({ slots: 1, maxLength: 4, sinks: Sink.own }),
    (session) => session.prompt([{ slot: 0, tokens: nothing }])),
  "a tuner's step": Effect.flatMap(
    makeTuner({ rows: 1, seqLen, steps: 1, optimizer: new OptimizerConfig() }),
    (tuner) => tuner.step(batch)
  ),
  gradients: Effect.flatMap(makeGradients({ rows: 1, seqLen }), (gradients) => gradients.of(batch, Sink.own)),
  gates: Effect.flatMap(neuronGates({ rows: 1, seqLen, mode: Sink.own }), (gates) => gates.loss(batch)),
  "a decomposition": Effect.flatMap(decompose({ rows: 1, seqLen }), ({ of }) => of(batch, Sink.own)),
  "hidden states": hiddenStates([{ ...row, tokens: nothing }], { batchSize: 1, layer: 0, mode: Sink.own, seqLen }),
  "a localizer": localizers.gradient.localize([{ ...row, tokens: nothing }], localize),
  records: Effect.flatMap(Model,
    (model) => recordRows(model, [row], Sink.own, { batchSize: 1, seqLen, split: "", schemes: [nothing] })),
  "a calibration": Effect.flatMap(Model, (model) => {
    return calibrate(model, { forget: [row], retain: [row] }, Sink.own, breaking({ batchSize: 1, seqLen }, "ridge"))
  }),
  "an exporter": Otlp.make({ endpoint: nothing })
}

layer(Layer.provideMerge(Model.layer(miniatureModel), NodeDevice.layer()))("a TypeError stays one", (it) => {
  for (const [name, effect] of Object.entries(at)) {
    it.scoped(`in ${name}`, () =>
      Effect.gen(function*() {
        const exit = yield* Effect.exit(effect)
        expect(Exit.isFailure(exit) && Cause.isDie(exit.cause), String(exit)).toBe(true)
        expect(Exit.isFailure(exit) && Cause.squash(exit.cause), String(exit)).toBeInstanceOf(TypeError)
      }))
  }
})
