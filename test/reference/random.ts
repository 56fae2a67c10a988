/** Seeded random numbers and numeric derivatives for the tests. */

/** A seeded source: the same seed gives the same sequence on every machine. */
export interface Random {
  /** Uniform in [low, high); [0, 1) by default. */
  readonly uniform: (low?: number, high?: number) => number
  /** Normal with mean 0 and the given standard deviation; 1 by default. */
  readonly normal: (std?: number) => number
  /** An integer in [0, bound). */
  readonly int: (bound: number) => number
  /** `length` normal numbers. */
  readonly normals: (length: number, std?: number) => Float64Array
  /** `length` uniform numbers. */
  readonly uniforms: (length: number, low?: number, high?: number) => Float64Array
  /** `length` integers in [0, bound). */
  readonly ints: (length: number, bound: number) => Uint32Array
  /** Up to `count` distinct indices below `length`, in increasing order. */
  readonly sample: (count: number, length: number) => Array<number>
}

/** To 8 bits of mantissa, which every half-precision number of ordinary size has room for. */
const coarse = (x: number): number => {
  const step = 2 ** (Math.floor(Math.log2(Math.abs(x) || 1)) - 7)
  return Math.abs(x) < 2 ** -7 ? Math.round(x * 2 ** 14) / 2 ** 14 : Math.round(x / step) * step
}

/**
 * A generator that hashes a counter: good enough for tests, and the same everywhere. With `half`, normal and uniform
 * numbers are ones that half precision holds exactly.
 */
export const makeRandom = (seed: number, half = false): Random => {
  let counter = Math.imul(seed, 0x9e3779b1) >>> 0
  const word = (): number => {
    counter = (counter + 0x9e3779b9) >>> 0
    let x = counter
    x = Math.imul(x ^ (x >>> 16), 0x85ebca6b)
    x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35)
    return (x ^ (x >>> 16)) >>> 0
  }
  const uniform = (low = 0, high = 1): number =>
    low + (high - low) * ((word() >>> 5) * 0x4000000 + (word() >>> 6)) / 2 ** 53
  const normal = (std = 1): number => std * Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform())
  const int = (bound: number): number => Math.floor(uniform(0, bound))
  return {
    uniform,
    normal,
    int,
    normals: (length, std) => Float64Array.from({ length }, () => (half ? coarse(normal(std)) : normal(std))),
    uniforms: (length, low, high) =>
      Float64Array.from({ length }, () => (half ? coarse(uniform(low, high)) : uniform(low, high))),
    ints: (length, bound) => Uint32Array.from({ length }, () => int(bound)),
    sample: (count, length) => {
      const chosen = new Set<number>()
      while (chosen.size < Math.min(count, length)) chosen.add(int(length))
      return [...chosen].sort((a, b) => a - b)
    }
  }
}

/**
 * df/dx at the given indices of `x`, by the fourth-order central difference. `f` must read `x` itself: its elements
 * are moved in place and put back. With `h` near 1e-3 both the truncated h^4 term and the rounding of f stay near
 * 1e-12 of f, far better than the two-point formula at any h.
 */
export const finiteDifference = (
  f: () => number,
  x: Float64Array,
  indices: ReadonlyArray<number>,
  h = 1e-3
): Float64Array =>
  Float64Array.from(indices, (i) => {
    const kept = x[i]!
    const at = (offset: number): number => {
      x[i] = kept + offset
      return f()
    }
    const slope = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    x[i] = kept
    return slope
  })
