import { describe, expect, it } from "vitest"
import { aligned, alignment, blockDepths, depthScore } from "../../src/measures/Depth.ts"
import { makeRandom } from "../reference/random.ts"

describe("the depth score", () => {
  it("weighs the erased share of each block that holds the knowledge by how much it holds", () => {
    // blocks 1 and 2 hold it; (2 * clip(1/2) + 4 * clip(3/4)) / 6
    expect(depthScore({ retain: [0.05, 2, 4], source: [9, 1, 3] })).toBeCloseTo((1 + 3) / 6, 12)
    expect(blockDepths({ retain: [0.05, 2, 4], source: [9, 1, 3] }).map(({ block }) => block)).toEqual([1, 2])
    // a block cannot be more than erased, or less than there
    expect(depthScore({ retain: [1, 1], source: [7, -3] })).toBe(0.5)
    expect(depthScore({ retain: [1, 3], source: [1, 3] })).toBe(1)
    expect(depthScore({ retain: [1, 3], source: [0, 0] })).toBe(0)
    expect(depthScore({ retain: [0.01, -1], source: [1, 1] })).toBeNaN()
    expect(depthScore({ retain: [0.01, -1], source: [1, 1] }, 0)).toBe(1)
    expect(() => depthScore({ retain: [1], source: [] })).toThrow(/1 blocks were patched .* 0 with the other/)
  })
})

describe("an alignment", () => {
  const d = 5
  const draw = makeRandom(3)
  const vectors = (n: number) => Float32Array.from({ length: n * d }, () => draw.normal())

  it("finds the affine map between two streams, and is the identity where there is nothing to learn", () => {
    const map = Float64Array.from({ length: d * d }, () => draw.normal())
    const shift = Float64Array.from({ length: d }, () => draw.normal())
    const through = (x: Float32Array) =>
      x.map((_, i) => {
        const at = i - i % d
        return shift[i % d]! + Array.from({ length: d }, (_, k) => x[at + k]! * map[k * d + i % d]!)
          .reduce((a, b) => a + b, 0)
      })
    const from = [vectors(40), vectors(60)]
    const fitted = alignment(from, from.map(through), d, 1e-9)
    const fresh = vectors(20)
    const want = through(fresh)
    aligned(fitted, fresh).forEach((x, i) => expect(x).toBeCloseTo(want[i]!, 4))
    // a heavy penalty, or the same stream twice, leaves vectors as they are
    for (const same of [alignment(from, from, d), alignment(from, from.map(through), d, 1e9)]) {
      aligned(same, fresh).forEach((x, i) => expect(x).toBeCloseTo(fresh[i]!, 4))
    }
  })
})
