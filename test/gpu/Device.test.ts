import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import process from "node:process"
import { expect, it } from "vitest"
import { Device, MAX_DISPATCHES, targetOf } from "../../src/gpu/Device.ts"
import * as Kernel from "../../src/gpu/Kernel.ts"
import * as Program from "../../src/gpu/Program.ts"
import * as Tensor from "../../src/gpu/Tensor.ts"
import { kernels } from "../../src/model/Kernels.ts"
import * as NodeDevice from "../../src/node.ts"

const threads = () => fs.readdirSync("/proc/self/task").length

it.skipIf(process.platform !== "linux")("gives back the threads of devices that were closed", async () => {
  const use = () => Effect.runPromise(Effect.provide(Effect.map(Device, ({ kind }) => kind), NodeDevice.layer()))
  await use()
  const before = threads()
  // as many as make the garbage collector run, and one more
  for (let i = 0; i < 8; i++) await use()
  const end = Date.now() + 10_000
  while (threads() > before + 6 && Date.now() < end) await new Promise((resolve) => setTimeout(resolve, 100))
  expect(threads()).toBeLessThanOrEqual(before + 6)
})

it("submits many dispatches in parts, in order, after all that is cleared before them", () =>
  Effect.runPromise(
    Effect.gen(function*() {
      const device = yield* Device
      const count = 2 * MAX_DISPATCHES + 1
      const [x, partial] = [Tensor.make("x", [4]), Tensor.make("partial", [4])]
      yield* device.allocate([x, partial])
      device.write(x, Float32Array.of(1, 2, 3, 4))
      device.write(partial, new Float32Array(4).fill(7))
      const p = Program.record("many sums")
      p.clear(partial)
      for (let i = 0; i < count; i++) p.dispatch(kernels.sum, { x, partial }, { n: 4, lanes: 4, first: 0 }, 4)
      const many = yield* device.prepare(p.finish())
      const before = device.counters.submits
      device.submit(many)
      expect(device.counters.submits - before).toBe(3)
      expect(Array.from(yield* device.read(partial))).toEqual([1, 2, 3, 4].map((value) => count * value))
      // a Program that begins where another was cut clears what the other wrote
      device.submit(many, many)
      expect(device.counters.submits - before).toBe(8)
      expect(Array.from(yield* device.read(partial))).toEqual([1, 2, 3, 4].map((value) => count * value))
    }).pipe(Effect.scoped, Effect.provide(NodeDevice.layer()))
  ))

it("takes matrix units where subgroups are of 32, or can be asked to be", () => {
  const config = { componentType: "f16", resultComponentType: "f32", M: 16, N: 16, K: 16 }
  const target = (least: number, most: number, without: ReadonlyArray<string> = [], configs = [config]) =>
    targetOf(
      {
        kind: "hardware",
        adapter: { info: { subgroupMinSize: least, subgroupMaxSize: most, subgroupMatrixConfigs: configs } }
      },
      ["subgroups", "shader-f16", "subgroup-size-control"].filter((feature) => !without.includes(feature))
    )
  const tensor = { family: "tensor", subgroupSize: 32, matrices: true }
  const gpu = { family: "gpu", subgroupSize: 0, matrices: false }
  expect(target(32, 32)).toEqual(tensor)
  expect(target(32, 32, ["subgroup-size-control"])).toEqual(tensor)
  expect(target(32, 64)).toEqual(tensor)
  expect(target(8, 32)).toEqual(tensor)
  expect(target(32, 64, ["subgroup-size-control"])).toEqual(gpu)
  expect(target(32, 64, ["shader-f16"])).toEqual(gpu)
  expect(target(32, 64, ["subgroups"])).toEqual(gpu)
  expect(target(32, 64, [], [{ ...config, resultComponentType: "f16" }])).toEqual(gpu)
  expect(target(64, 64)).toEqual({ ...gpu, subgroupSize: 64 })
})

it("asks for the size of subgroups in kernels of matrix units alone", () => {
  const [matrix, norm] = [kernels.matmulMatrix("nn", { side: 2, buffers: 1, step: 32 }), kernels.rmsNorm].map((
    kernel
  ) => Kernel.source(kernel))
  const asked = Kernel.sized(matrix!)
  expect(asked.match(/@subgroup_size\(32\)/g)?.length).toBe(matrix!.match(/@workgroup_size/g)?.length)
  expect(Kernel.sized(asked)).toBe(asked)
  expect(Kernel.sized(norm!)).toBe(norm)
})
