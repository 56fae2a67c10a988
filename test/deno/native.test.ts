/** Deno's own WebGPU: an adapter and a kernel. Apart from the tests of Dawn: a process with both sometimes ends badly. */
import * as Effect from "effect/Effect"
import assert from "node:assert/strict"
import * as DenoDevice from "../../src/deno.ts"
import { doctor } from "../../src/doctor.ts"

declare const Deno: { readonly test: (name: string, body: () => Promise<void>) => void }

const examine = (options: DenoDevice.DenoOptions) =>
  Effect.runPromise(Effect.scoped(Effect.flatMap(DenoDevice.openGpu(options), (open) => doctor(open))))

Deno.test("Deno's own WebGPU computes right numbers", async () => {
  const report = await examine({ gpu: navigator.gpu })
  assert.equal(report.kernel.detail, "16 sums of 64 squares are exact")
  assert.equal(report.adapter.backend, "wgpu")
  assert.equal(report.subgroupSize, null)
})

Deno.test("an adapter that Deno does not offer is refused with what it offers", async () => {
  await assert.rejects(examine({ adapter: "no such card", gpu: navigator.gpu }), /the runtime's own WebGPU: offers/)
})
