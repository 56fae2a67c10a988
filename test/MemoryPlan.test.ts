import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { expect } from "vitest"
import { Checkpoints } from "../src/Checkpoints.ts"
import { Device } from "../src/gpu/Device.ts"
import { formatMemoryPlan, memoryPlan } from "../src/MemoryPlan.ts"
import { Model } from "../src/Model.ts"
import { ModelConfig, presets } from "../src/ModelConfig.ts"
import * as NodeDevice from "../src/node.ts"
import { TrainConfig, Trainer } from "../src/Trainer.ts"
import { miniatureData, miniatureModel } from "./support.ts"

layer(NodeDevice.layer())("the memory plan", (it) => {
  for (const [name, config] of [
    ["a miniature", miniatureModel],
    ["a wider model", new ModelConfig({ ...miniatureModel, hiddenSize: 128, intermediateSize: 256 + 64, numHiddenLayers: 3 })]
  ] as const) {
    it.scoped(`says within 5 % what the device really allocates for ${name}`, () =>
      Effect.gen(function*() {
        const device = yield* Device
        const before = device.counters.bytes
        const trainer = yield* Trainer.pipe(
          Effect.provide(yield* Layer.build(
            Trainer.layer(new TrainConfig({ steps: 2 })).pipe(
              Layer.provide(Model.layer(config)),
              Layer.provide(miniatureData()),
              Layer.provide(Checkpoints.layerMemory)
            )
          ))
        )
        const allocated = device.counters.bytes - before
        const plan = memoryPlan(config, { rows: 2, seqLen: 16 })
        expect(plan.peak / allocated).toBeGreaterThan(0.95)
        expect(plan.peak / allocated).toBeLessThan(1.05)
        expect(plan.peak).toBe(plan.weights + plan.gradients + plan.optimizer + plan.activations + plan.other)
        yield* Stream.runDrain(trainer.run)
      }))
  }

  it.effect("needs no adapter for the largest preset", () =>
    Effect.sync(() => {
      const plan = memoryPlan(presets["smol-1.7b"], { rows: 1, seqLen: 128 })
      expect(plan.weights / 4).toBeCloseTo(presets["smol-1.7b"].numParameters, -3)
      expect(plan.optimizer).toBe(2 * plan.weights)
      expect(plan.gradients).toBe(plan.weights)
      expect(plan.largest.bytes).toBe(49152 * 2048 * 4)
      expect(formatMemoryPlan(plan)).toMatch(/^weights +6\.\d\d GiB\n[\s\S]*\nlargest buffer: /)
    }))
})
