import { describe, expect, it } from "vitest"
import { decode, encode, fromHalf, roundHalf, toHalf } from "../src/Float16.ts"

describe("half precision", () => {
  it("keeps every half exactly", () => {
    for (let half = 0; half < 0x10000; half++) {
      const value = fromHalf(half)
      if (Number.isNaN(value)) expect(Number.isNaN(fromHalf(toHalf(value)))).toBe(true)
      else expect(toHalf(value)).toBe(half)
    }
  })

  it("rounds to the nearest, ties to even, up to the largest and beyond", () => {
    for (let half = 0; half < 0x7bff; half++) {
      const [low, high] = [fromHalf(half), fromHalf(half + 1)]
      const middle = (low + high) / 2
      expect(toHalf(middle)).toBe(half % 2 === 0 ? half : half + 1)
      expect(toHalf(low + (high - low) * 0.49)).toBe(half)
      expect(toHalf(-(low + (high - low) * 0.51))).toBe(0x8000 | (half + 1))
    }
    expect(roundHalf(65519.99)).toBe(65504)
    expect(roundHalf(65520)).toBe(Infinity)
    expect(roundHalf(-1e9)).toBe(-Infinity)
  })

  it("packs arrays, padded to whole words", () => {
    expect(encode([1, -2, 0.5])).toEqual(Uint16Array.of(0x3c00, 0xc000, 0x3800, 0))
    expect(decode(encode([1, -2, 0.5, NaN]))).toEqual(Float32Array.of(1, -2, 0.5, NaN))
  })
})
