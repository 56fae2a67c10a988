import { describe, expect, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { call, Collective } from "../../src/collective/Collective.ts"

describe("a single process", () => {
  it.effect("has its own values for a sum, and nobody to wait for", () =>
    Effect.gen(function*() {
      const group = yield* Collective
      expect([group.rank, group.size, group.localRank, group.hosts.length]).toEqual([0, 1, 0, 1])
      const values = Float32Array.of(1, 2.5, -3)
      yield* call(() => group.allReduce(values))
      expect(values).toEqual(Float32Array.of(1, 2.5, -3))
      const bytes = Uint8Array.of(7, 8)
      expect(yield* call(() => group.broadcast(bytes))).toEqual(bytes)
      expect(yield* call(() => group.gather(bytes))).toEqual([bytes])
      expect(yield* call(() => group.allGather(bytes))).toEqual([bytes])
      yield* call(() => group.barrier())
      expect(group.times).toMatchObject({ calls: 5, bytes: 18, waiting: 0 })
    }).pipe(Effect.provide(Collective.single)))

  it.effect("gives up with its reason", () =>
    Effect.gen(function*() {
      const group = yield* Collective
      group.abort("no more data")
      const error = yield* Effect.flip(call(() => group.barrier()))
      expect(error).toMatchObject({ _tag: "CollectiveError", reason: "Aborted", rank: 0 })
      expect(error.message).toContain("rank 0 gave up: no more data")
    }).pipe(Effect.provide(Collective.single)))
})
