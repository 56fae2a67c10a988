import { describe, expect, it } from "vitest"
import { random } from "../src/Random.ts"

const take = (n: number, draw: () => number): ReadonlyArray<number> => Array.from({ length: n }, draw)

describe("random", () => {
  it("gives the same numbers for the same seed and keys, in every process", () => {
    expect(take(4, random(1, "rows", 3).bits)).toEqual(take(4, random(1n, "rows", 3n).bits))
    expect(take(3, random(1).bits)).toEqual([3314038723, 3393968805, 3470407804])
  })

  it("gives other numbers for any other seed or key", () => {
    const streams = [
      random(1),
      random(2),
      random(-1),
      random(1n << 32n),
      random(1n + (1n << 63n)),
      random(1, 0),
      random(1, ""),
      random(1, "ab"),
      random(1, "a", "b"),
      random(1, "ba"),
      random(1, "b", 1),
      random(1, "b", 2)
    ]
    expect(new Set(streams.map((stream) => take(2, stream.bits).join())).size).toBe(streams.length)
  })

  it("is uniform: mean and spread of 2^16 draws, every draw in [0, 1)", () => {
    const draws = take(1 << 16, random(7).uniform)
    expect(draws.every((u) => u >= 0 && u < 1)).toBe(true)
    const mean = draws.reduce((sum, u) => sum + u, 0) / draws.length
    const variance = draws.reduce((sum, u) => sum + (u - mean) ** 2, 0) / draws.length
    // Five standard errors.
    expect(Math.abs(mean - 0.5)).toBeLessThan(5 * Math.sqrt(1 / 12 / draws.length))
    expect(Math.abs(variance - 1 / 12)).toBeLessThan(5 * Math.sqrt(1 / 180 / draws.length))
  })

  it("draws integers without favouring small ones, for a bound near 2^32 too", () => {
    const bound = 3 * 2 ** 30
    const draws = take(30000, ((r) => () => r.below(bound))(random(5)))
    // Reduced modulo the bound without rejection, the lowest third would come up half of the time.
    const low = draws.filter((x) => x < 2 ** 30).length / draws.length
    expect(Math.abs(low - 1 / 3)).toBeLessThan(0.015)
    expect(draws.every((x) => Number.isInteger(x) && x >= 0 && x < bound)).toBe(true)
  })

  it("shuffles to every order equally often", () => {
    const stream = random(11)
    const counts = new Map<string, number>()
    for (let i = 0; i < 12000; i++) {
      const order = stream.shuffle(Uint32Array.of(0, 1, 2, 3)).join("")
      counts.set(order, (counts.get(order) ?? 0) + 1)
    }
    expect(counts.size).toBe(24)
    // 500 each; five standard deviations of a binomial are 110.
    for (const count of counts.values()) expect(Math.abs(count - 500)).toBeLessThan(110)
  })
})
