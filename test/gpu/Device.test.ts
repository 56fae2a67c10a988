import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import process from "node:process"
import { expect, it } from "vitest"
import { Device } from "../../src/gpu/Device.ts"
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
