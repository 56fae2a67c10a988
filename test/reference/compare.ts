/** Comparing arrays of numbers, with a message that says where and by how much they differ. */

/** A tolerance of `atol + rtol * |expected|` for every element; both default to 0, which asks for equality. */
export interface Tolerance {
  readonly atol?: number
  readonly rtol?: number
  /** What the array is, for the message: "layers.0.qkv gradient". */
  readonly name: string
}

type Comparable = Float32Array | Float64Array | Uint32Array | ReadonlyArray<number>

/**
 * Throws unless every element of `actual` is within the tolerance of the element of `expected`. NaN on either side
 * and a difference in length always fail; an infinity only equals itself.
 */
export const expectClose = (
  actual: Comparable,
  expected: Comparable,
  { atol = 0, name, rtol = 0 }: Tolerance
): void => {
  if (actual.length !== expected.length) {
    throw new Error(`${name}: has ${actual.length} elements, expected ${expected.length}`)
  }
  let mismatches = 0
  let worst = -1
  let worstRatio = -1
  for (let i = 0; i < expected.length; i++) {
    const got = actual[i]!
    const want = expected[i]!
    if (got === want) continue
    const difference = Math.abs(got - want)
    const allowed = atol + rtol * Math.abs(want)
    if (Number.isFinite(want) && difference <= allowed) continue
    mismatches++
    const ratio = Number.isNaN(difference) ? Infinity : difference / allowed
    if (worst === -1 || ratio > worstRatio) {
      worst = i
      worstRatio = ratio
    }
  }
  if (mismatches > 0) {
    const got = actual[worst]!
    const want = expected[worst]!
    throw new Error(
      `${name}: ${mismatches} of ${expected.length} elements differ; worst at [${worst}]: got ${got}, want ${want}, ` +
        `off by ${Math.abs(got - want)} where ${atol + rtol * Math.abs(want)} is allowed (atol ${atol}, rtol ${rtol})`
    )
  }
}
