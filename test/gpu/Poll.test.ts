import * as Effect from "effect/Effect"
import { afterEach, describe, expect, it } from "vitest"
import { polled } from "../../src/gpu/Poll.ts"
import { openGpu } from "../../src/node.ts"

const before = globalThis.setImmediate
afterEach(() => void (globalThis.setImmediate = before))

/** Counts what is asked of the global `setImmediate` from outside. */
const counting = () => {
  const seen = { turns: 0 }
  globalThis.setImmediate = ((callback: () => void) => {
    seen.turns++
    return before(callback)
  }) as typeof setImmediate
  return seen
}

/** A promise that is settled by a loop like Dawn's, once `until` ms are over; `turns` counts its questions. */
const loop = (until: number) => {
  const seen = { turns: 0 }
  const began = performance.now()
  const promise = new Promise<string>((resolve) => {
    const turn = () => {
      seen.turns++
      if (performance.now() - began >= until) resolve("done")
      else globalThis.setImmediate(turn)
    }
    globalThis.setImmediate(turn)
  })
  return { promise, seen }
}

describe("waiting for Dawn", () => {
  it("asks once a millisecond, not in every turn of the event loop", async () => {
    let made: ReturnType<typeof loop> | undefined
    expect(await polled(() => (made = loop(60)).promise)).toBe("done")
    expect(made!.seen.turns).toBeGreaterThan(2)
    expect(made!.seen.turns).toBeLessThan(60 + 500)
    const eager = loop(60)
    await eager.promise
    expect(eager.seen.turns).toBeGreaterThan(made!.seen.turns)
  })

  it("leaves setImmediate to others as it was, also when a call throws", async () => {
    const mine = globalThis.setImmediate
    const waiting = polled(() => loop(20).promise)
    expect(globalThis.setImmediate).toBe(mine)
    await new Promise((resolve) => setTimeout(resolve, 5))
    expect(globalThis.setImmediate).toBe(mine)
    await waiting
    expect(() =>
      polled(() => {
        throw new Error("no device")
      })
    ).toThrow("no device")
    expect(globalThis.setImmediate).toBe(mine)
  })

  // fails when Dawn no longer waits by the global setImmediate: then this file has nothing left to do
  it("reaches Dawn's own loop", () =>
    Effect.runPromise(Effect.scoped(Effect.gen(function*() {
      const { adapter } = yield* openGpu()
      const seen = counting()
      const device = yield* Effect.promise(() => polled(() => adapter.requestDevice()))
      expect(seen.turns).toBeGreaterThan(0)
      device.destroy()
    }))))
})
