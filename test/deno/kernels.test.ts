/** On Deno, through npm webgpu: every case of the kernel tables against its float64 expectation. */
import * as Effect from "effect/Effect"
import assert from "node:assert/strict"
import { readdirSync } from "node:fs"
import * as DenoDevice from "../../src/deno.ts"
import { Device } from "../../src/gpu/Device.ts"
import * as Program from "../../src/gpu/Program.ts"
import * as Tensor from "../../src/gpu/Tensor.ts"
import * as attention from "../kernels/attention.ts"
import * as attention_cached from "../kernels/attention_cached.ts"
import type { Case } from "../kernels/case.ts"
import * as cross_entropy from "../kernels/cross_entropy.ts"
import * as embedding from "../kernels/embedding.ts"
import * as heads from "../kernels/heads.ts"
import * as matmul from "../kernels/matmul.ts"
import * as matvec from "../kernels/matvec.ts"
import * as nearest from "../kernels/nearest.ts"
import * as neuron_gate from "../kernels/neuron_gate.ts"
import * as norm from "../kernels/norm.ts"
import * as optimizer from "../kernels/optimizer.ts"
import * as rope from "../kernels/rope.ts"
import * as sinks from "../kernels/sinks.ts"
import * as swiglu from "../kernels/swiglu.ts"
import * as token_record from "../kernels/token_record.ts"
import { makeRandom } from "../reference/random.ts"

declare const Deno: { readonly test: (name: string, body: () => Promise<void>) => void }

/** Runs a case once; the elements that are not what it wants, tensor by tensor. */
const problems = Effect.fnUntraced(function*({ build, name }: Case) {
  const device = yield* Device
  const { outputs, record, tensors } = build(makeRandom(1))
  const handles = Object.fromEntries(
    Object.entries(tensors).map(([key, data]) => [
      key,
      Tensor.make(key, [data.length], { type: data instanceof Uint32Array ? "u32" : "f32" })
    ])
  )
  yield* device.allocate(Object.values(handles))
  for (const [key, data] of Object.entries(tensors)) device.write(handles[key]!, data)
  const recorder = Program.record(name)
  record(recorder, handles)
  device.submit(yield* device.prepare(recorder.finish()))
  const found: Array<string> = []
  for (const [key, expected] of Object.entries(outputs)) {
    if (expected === undefined) continue
    const got = yield* device.read(handles[key]!)
    const bits = new Uint32Array(got.buffer, got.byteOffset, got.length)
    const initial = new Uint32Array(tensors[key]!.buffer, tensors[key]!.byteOffset, tensors[key]!.length)
    expected.want.forEach((want, i) => {
      const allowed = expected.atol + expected.rtol * Math.abs(want)
      const right = Number.isNaN(want) ? bits[i] === initial[i] : Math.abs(got[i]! - want) <= allowed
      if (!right) found.push(`${name}: ${key}[${i}] is ${got[i]}, want ${want}, ${allowed} is allowed`)
    })
  }
  return found
}, Effect.scoped)

const families = Object.entries({
  attention,
  attention_cached,
  cross_entropy,
  embedding,
  heads,
  matmul,
  matvec,
  nearest,
  neuron_gate,
  norm,
  optimizer,
  rope,
  sinks,
  swiglu,
  token_record
})

Deno.test("the cases below are all there are", async () => {
  const files = readdirSync(new URL("../kernels/", import.meta.url)).map((file) => file.replace(/\.ts$/, ""))
  assert.deepEqual(
    // those of matrix units need some, or their emulation; the rest is what runs cases
    files.filter((file) => !["all", "case", "matrix", "run", "runs"].includes(file)).sort(),
    families.map(([name]) => name)
  )
})

for (const [name, { cases: all }] of families) {
  // kernels that the family of matrix units alone has run emulated, on Node
  const cases = (all as ReadonlyArray<Case>).filter(({ only }) => only === undefined)
  Deno.test(`${cases.length} cases of ${name} match float64`, async () => {
    assert.ok(cases.length > 0)
    const found = await Effect.runPromise(Effect.forEach(cases, problems).pipe(Effect.provide(DenoDevice.layer())))
    assert.deepEqual(found.flat().slice(0, 20), [])
  })
}
