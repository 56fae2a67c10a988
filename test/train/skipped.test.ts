/** Mixed precision: windows in which every step overflowed are told, too. */
import { expect, layer } from "@effect/vitest"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { Checkpoints } from "../../src/checkpoints/Checkpoints.ts"
import { Device } from "../../src/gpu/Device.ts"
import { Model } from "../../src/model/Model.ts"
import * as NodeDevice from "../../src/node.ts"
import * as RunMetrics from "../../src/runs/RunMetrics.ts"
import * as TensorBoard from "../../src/runs/TensorBoard.ts"
import { TrainConfig, Trainer, type TrainError } from "../../src/train/Trainer.ts"
import * as TrainEvent from "../../src/train/TrainEvent.ts"
import { miniatureData, miniatureModel } from "../support/support.ts"

/** Trains a model of sound weights whose activations are beyond what f16 holds behind the last norm. */
const overflowing = <A>(
  steps: number,
  use: (run: Stream.Stream<TrainEvent.TrainEvent, TrainError>) => Effect.Effect<A, TrainError>
) =>
  Effect.gen(function*() {
    const model = yield* Model
    const tensors = yield* model.exportTensors
    tensors["model.norm.weight"]!.data.fill(1e6)
    yield* model.importTensors(tensors)
    return yield* use((yield* Trainer).run)
  }).pipe(Effect.provide(
    Trainer.layer(new TrainConfig({ steps, logEvery: 2 })).pipe(
      Layer.provideMerge(Model.layer(miniatureModel, { precision: "f16" })),
      Layer.provideMerge(Layer.merge(miniatureData(), Checkpoints.layerMemory))
    )
  ))

layer(NodeDevice.layer())("a window in which all steps were skipped", (it) => {
  it.scoped("is told, with how many were skipped, and without a loss and a norm that there are not", (context) =>
    Effect.gen(function*() {
      if (!(yield* Device).features.has("shader-f16")) return context.skip("the adapter has no shader-f16")
      const events = Chunk.toReadonlyArray(yield* overflowing(4, Stream.runCollect))
      const stepped = events.filter((event) => event._tag === "Stepped")
      expect(stepped.map(({ loss, gradNorm, skipped, step }) => ({ loss, gradNorm, skipped, step }))).toEqual([
        { loss: undefined, gradNorm: undefined, skipped: 2, step: 2 },
        { loss: undefined, gradNorm: undefined, skipped: 4, step: 4 }
      ])
      const last = stepped.at(-1)!
      // every way out takes it
      expect(TrainEvent.fromJsonLine(TrainEvent.toJsonLine(last))).toEqual([last])
      expect(TrainEvent.format(last)).toMatch(/step 4\/4 {2}loss – {2}norm – .*4 steps skipped/)
      expect(Object.keys(TensorBoard.valuesOf(last)).sort())
        .toEqual(["train/learning_rate", "train/skipped_steps", "train/tokens_per_second"])
      expect(TensorBoard.valuesOf(last)["train/skipped_steps"]).toBe(4)
      yield* RunMetrics.record({ _tag: "Training", arm: "skips", seed: 9, index: 0, count: 1, event: last })
      const readings = (yield* RunMetrics.read).filter(({ labels }) => labels["arm"] === "skips")
      expect(readings.find(({ name }) => name === "memsinks_skipped_steps")?.value).toBe(4)
      expect(readings.map(({ name }) => name)).not.toContain("memsinks_train_loss")
    }))
  it.scoped("ends the run once the loss scale is 1: no smaller one would mend it", (context) =>
    Effect.gen(function*() {
      if (!(yield* Device).features.has("shader-f16")) return context.skip("the adapter has no shader-f16")
      // 65536 is halved 16 times
      const error = yield* Effect.flip(overflowing(20, Stream.runDrain))
      expect(error).toMatchObject({ _tag: "Diverged", step: 17, precision: "f16" })
    }))
})
