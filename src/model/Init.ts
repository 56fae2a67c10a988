/**
 * Initial weights: normal numbers from a stream that depends on a name alone, so that arms which share a shape start alike.
 */

/** Two 32-bit words of state from any text (FNV-1a, two offsets). */
const hash = (text: string): [number, number] => {
  let a = 0x811c9dc5
  let b = 0x1b873593
  for (let i = 0; i < text.length; i++) {
    a = Math.imul(a ^ text.charCodeAt(i), 0x01000193)
    b = Math.imul(b ^ text.charCodeAt(i), 0x5bd1e995)
    b ^= b >>> 13
  }
  return [a >>> 0, b >>> 0]
}

const LN2 = Math.LN2
const TURN = 2 * Math.PI / 2 ** 32

/** For each 128th of [1, 2): the inverse of its middle, and the middle's logarithm. */
const INVERSE = Float64Array.from({ length: 128 }, (_, i) => 1 / (1 + (i + 0.5) / 128))
const LOG = Float64Array.from({ length: 128 }, (_, i) => Math.log(1 + (i + 0.5) / 128))

/** For each 512th of a turn: cosine and sine of its middle. */
const COS = Float64Array.from({ length: 512 }, (_, i) => Math.cos((i + 0.5) / 512 * 2 * Math.PI))
const SIN = Float64Array.from({ length: 512 }, (_, i) => Math.sin((i + 0.5) / 512 * 2 * Math.PI))

const SCALE = Float64Array.from({ length: 32 }, (_, e) => 2 ** -e)

/** What tables and short series may be wrong by, relative to the radius: a hundred times what they are. */
const MARGIN = 1e-13

/**
 * Fill `out` with normal numbers of a standard deviation, by Box and Muller's transform of two counted words a pair.
 *
 * Tables and short series in float64 take the place of `Math.log`, `Math.cos` and `Math.sin`, at a fifth of their time.
 * Where their error could decide how a number rounds to float32, it is computed with those: the same bits, always.
 */
export const normals = (out: Float32Array, name: string, std: number): void => {
  const [a, b] = hash(name)
  const word = (counter: number): number => {
    let x = (a + Math.imul(counter, 0x9e3779b9)) ^ b
    x = Math.imul(x ^ (x >>> 16), 0x7feb352d)
    x = Math.imul(x ^ (x >>> 15), 0x846ca68b)
    return (x ^ (x >>> 16)) >>> 0
  }
  for (let i = 0; i < out.length; i += 2) {
    const x = word(i + 1)
    const y = word(i + 2)
    // x + .5 = m * 2^e with m in [1, 2); the middle of m's 128th is 1 / INVERSE[at]
    const e = 31 - Math.clz32(x | 1)
    const at = (e < 7 ? x << (7 - e) : x >>> (e - 7)) & 127
    const r = (x + 0.5) * SCALE[e]! * INVERSE[at]! - 1
    const log = (e - 32) * LN2 + LOG[at]! + r * (1 - r * (1 / 2 - r * (1 / 3 - r * (1 / 4 - r * (1 / 5 - r / 6)))))
    const radius = std * Math.sqrt(-2 * log)
    const part = y >>> 23
    const d = ((y & 0x7fffff) + 0.5 - 0x400000) * TURN
    const d2 = d * d
    const sin = d * (1 - d2 * (1 / 6 - d2 / 120))
    const cos = 1 - d2 * (1 / 2 - d2 * (1 / 24 - d2 / 720))
    const first = radius * (COS[part]! * cos - SIN[part]! * sin)
    const second = radius * (SIN[part]! * cos + COS[part]! * sin)
    const error = radius * MARGIN
    out[i] = first
    if (i + 1 < out.length) out[i + 1] = second
    // a logarithm near 0 has lost its digits to the difference, the smallest words have too few of them
    const sure = x > 0xffff && log < -1e-3 && Math.fround(first - error) === Math.fround(first + error) &&
      Math.fround(second - error) === Math.fround(second + error)
    if (!sure) {
      const exact = std * Math.sqrt(-2 * Math.log((x + 0.5) / 2 ** 32))
      const angle = 2 * Math.PI * ((y + 0.5) / 2 ** 32)
      out[i] = exact * Math.cos(angle)
      if (i + 1 < out.length) out[i + 1] = exact * Math.sin(angle)
    }
  }
}
