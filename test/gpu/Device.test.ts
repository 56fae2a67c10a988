import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import process from "node:process"
import { expect, it } from "vitest"
import { Device, MAX_DISPATCHES } from "../../src/gpu/Device.ts"
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
