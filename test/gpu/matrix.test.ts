/**
 * The kernels of matrix units, which no software adapter has, run with those units written out as loops
 * (support/subgroupMatrix.ts): products and attention in f16 against the float64 reference. Here with the kernels of a
 * device that was not timed; the other variants, attention's backward pass, and what must fail are in slow/matrix.test.ts.
 */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { expect, it, vi } from "vitest"
import { Device } from "../../src/gpu/Device.ts"
import type { ElementType } from "../../src/gpu/Tensor.ts"
import * as Kernels from "../../src/model/Kernels.ts"
import { measureVariants } from "../../src/model/Variants.ts"
import * as NodeDevice from "../../src/node.ts"
import { matrixRuns, runEmulated } from "../kernels/matrix.ts"
import { rewriting } from "../support/rewriting.ts"
import { emulate } from "../support/subgroupMatrix.ts"

vi.mock(
  "../../src/gpu/Kernel.ts",
  async (original) => (await import("../support/rewriting.ts")).rewritten(await original())
)

it("attention runs on them in f16, with as many rows as the workgroup memory holds, else tiled", () => {
  const chosen = (headSize: number, type: ElementType, workgroupBytes?: number, subgroupSize = 32) => {
    const target = { family: "tensor", subgroupSize,
      ...(workgroupBytes === undefined ? {} : { workgroupBytes }) } as const
    const kernels = [
      Kernels.attention(target, headSize, type).kernel,
      (Kernels.attentionBackwardQ(target, headSize, type) ?? Kernels.attentionBackward(target, "q", headSize, type))
        .kernel,
      Kernels.attentionBackward(target, "kv", headSize, type).kernel
    ]
    return kernels.map(({ constants, file }) => (file === "attention_matrix" ? constants["WX"]! / 4 : file))
  }
  const tiled = ["attention_tiled", "attention_tiled", "attention_tiled"]
  expect(chosen(64, "f16", 49152)).toEqual([64, 64, 64])
  expect(chosen(128, "f16", 49152)).toEqual([64, 64, 64])
  expect(chosen(64, "f16", 32768)).toEqual([64, 32, 32])
  expect(chosen(128, "f16", 32768)).toEqual([32, 32, 32])
  expect(chosen(128, "f16")).toEqual(tiled)
  expect(chosen(64, "f32", 49152)).toEqual(tiled)
  expect(chosen(96, "f16", 49152)).toEqual(tiled)
  expect(chosen(64, "f16", 49152, 64)).toEqual(tiled)
})

layer(NodeDevice.layer())("kernels of matrix units, emulated", (it) => {
  for (const run of matrixRuns.filter(({ quick }) => quick)) {
    it.effect(`${run.c.name}: ${run.keys.join(", ")}`, (context) =>
      Effect.gen(function*() {
        if (!(yield* Device).features.has("shader-f16")) return context.skip("the adapter has no shader-f16")
        yield* runEmulated(run)
      }))
  }

  it.effect("are right in the products by which variants are chosen", (context) =>
    Effect.gen(function*() {
      const device = yield* Device
      if (!device.features.has("shader-f16")) return context.skip("the adapter has no shader-f16")
      rewriting.name = " neighbours "
      rewriting.of = (text) => emulate(text)
      const target = { family: "tensor", subgroupSize: 32, busy: 4, workgroupBytes: 12288 } as const
      const shapes = {
        layer: { m: 96, n: 72, k: 80 },
        gradient: { m: 40, n: 68, k: 1100 },
        head: { m: 16, n: 20, k: 1028 },
        segments: { m: 256, n: 36, k: 40 }
      }
      const { failed, seconds } = yield* measureVariants({ ...device, target }, { shapes,
        time: () => Effect.succeed(1) })
      expect(failed).toEqual({})
      expect(Object.values(seconds).map((times) => Object.keys(times).length)).toEqual([1, 2, 2, 2])
    }))
})
