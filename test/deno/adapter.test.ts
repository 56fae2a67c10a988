/** On Deno: adapters through npm webgpu (Dawn), and a kernel on each. */
import * as Effect from "effect/Effect"
import assert from "node:assert/strict"
import process from "node:process"
import * as DenoDevice from "../../src/deno.ts"
import { doctor, formatDoctor } from "../../src/doctor.ts"
import { Device } from "../../src/gpu/Device.ts"
import { load } from "../../src/gpu/Libraries.ts"
import * as NodeDevice from "../../src/node.ts"

declare const Deno: { readonly test: (name: string, body: () => Promise<void>) => void }

const examine = (options: DenoDevice.DenoOptions) =>
  Effect.runPromise(Effect.scoped(Effect.flatMap(DenoDevice.openGpu(options), (open) => doctor(open))))

Deno.test("npm webgpu computes right numbers", async () => {
  const report = await examine({})
  assert.equal(report.kernel.detail, "16 sums of 64 squares are exact")
  assert.equal(report.adapter.backend, "dawn")
  assert.ok(report.subgroupSize !== null && report.subgroupSize.min > 0)
  assert.match(formatDoctor(report), /^runtime +Deno /m)
})

// the entry point for Node loads by the same function: what process.dlopen refuses here sent its programs to SwiftShader
Deno.test("a library is loaded as Deno loads one", async () => {
  if (process.platform === "linux") assert.equal(load("libc.so.6"), undefined)
  assert.match(load("libnosuch.so") ?? "", /libnosuch/)
  const names = await Effect.runPromise(Effect.all([NodeDevice.listAdapters, DenoDevice.listAdapters]))
  assert.deepEqual(names[0], names[1])
})

Deno.test("npm webgpu opens SwiftShader, and the environment is left as it was", async () => {
  const before = process.env["VK_DRIVER_FILES"]
  const report = await examine({ adapter: "swiftshader" })
  assert.equal(process.env["VK_DRIVER_FILES"], before)
  assert.match(report.adapter.name, /SwiftShader/)
  assert.ok(report.kernel.correct, report.kernel.detail)
  assert.equal(report.tried.at(-1)?.source, "SwiftShader")
})

Deno.test("the layer gives a Device", async () => {
  const name = await Effect.runPromise(Device.pipe(
    Effect.map((device) => device.name),
    Effect.provide(DenoDevice.layer({ adapter: "swiftshader" }))
  ))
  assert.match(name, /SwiftShader/)
})

Deno.test("an adapter that does not exist is refused with what was tried", async () => {
  await assert.rejects(examine({ adapter: "no such card" }), /no such card[^]*Tried:[^]*SwiftShader/)
})
