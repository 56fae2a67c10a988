import * as Effect from "effect/Effect"
import { expect, it } from "vitest"
import { Device } from "../../src/gpu/Device.ts"
import * as Tensor from "../../src/gpu/Tensor.ts"
import { MOST_UNDERWAY, upload } from "../../src/gpu/Upload.ts"
import * as NodeDevice from "../../src/node.ts"

it("waits for the device every so many bytes, within a tensor, too, and makes values one after the other", () => {
  const events: Array<string> = []
  let underway = 0
  const device = {
    write: (tensor: Tensor.Tensor, data: { readonly length: number }, at = 0) => {
      underway += data.length * (tensor.type === "f16" ? 2 : 4)
      expect(underway).toBeLessThanOrEqual(MOST_UNDERWAY)
      events.push(`${tensor.name} ${at} ${data.length}`)
    },
    idle: Effect.sync(() => {
      underway = 0
      events.push("idle")
    })
  }
  const values = ([["a", 2 ** 25, "f32"], ["b", 3 * 2 ** 24 + 4, "f16"], ["c", 2 ** 24, "f32"]] as const).map(
    ([name, length, type]) =>
      [
        Tensor.make(name, [length], { type }),
        // a view of nothing: only lengths count here
        Effect.sync(() => {
          events.push(`make ${name}`)
          return { length, subarray: (from: number, to: number) => ({ length: Math.min(to, length) - from }) } as never
        })
      ] as const
  )
  Effect.runSync(upload(device, values))
  const part = 2 ** 24
  expect(events).toEqual([
    "make a",
    `a 0 ${part}`,
    `a ${part} ${part}`,
    "make b",
    `b 0 ${part}`,
    `b ${part} ${part}`,
    `b ${2 * part} ${part}`,
    `b ${3 * part} 4`,
    "make c",
    "idle",
    `c 0 ${part}`
  ])
})

it("writes every element of a tensor of several parts", () =>
  Effect.runPromise(
    Effect.gen(function*() {
      const device = yield* Device
      const length = 2 ** 24 + 6
      const tensor = Tensor.make("t", [length])
      yield* device.allocate([tensor])
      const data = new Float32Array(length)
      const sampled = [0, 1, 2 ** 24 - 1, 2 ** 24, 2 ** 24 + 1, length - 1]
      sampled.forEach((at, i) => (data[at] = i + 1))
      yield* upload(device, [[tensor, Effect.succeed(data)]])
      const got = yield* device.read(tensor)
      expect(sampled.map((at) => got[at])).toEqual([1, 2, 3, 4, 5, 6])
    }).pipe(Effect.scoped, Effect.provide(NodeDevice.layer()))
  ))
