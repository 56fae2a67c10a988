/**
 * The kernels of matrix units, which no software adapter has, run with those units written out as loops
 * (support/subgroupMatrix.ts): products and attention in f16 against the float64 reference. Here with the kernels of a
 * device that was not timed; the other variants, attention's backward pass, and what must fail are in slow/matrix.test.ts.
 */
import { layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { vi } from "vitest"
import { Device } from "../../src/gpu/Device.ts"
import * as NodeDevice from "../../src/node.ts"
import { matrixRuns, runEmulated } from "../kernels/matrix.ts"

vi.mock(
  "../../src/gpu/Kernel.ts",
  async (original) => (await import("../support/rewriting.ts")).rewritten(await original())
)

layer(NodeDevice.layer())("kernels of matrix units, emulated", (it) => {
  for (const run of matrixRuns.filter(({ quick }) => quick)) {
    it.effect(`${run.c.name}: ${run.keys.join(", ")}`, (context) =>
      Effect.gen(function*() {
        if (!(yield* Device).features.has("shader-f16")) return context.skip("the adapter has no shader-f16")
        yield* runEmulated(run)
      }))
  }
})
