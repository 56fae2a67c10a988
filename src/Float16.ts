/** IEEE half precision on the host: tensors of type f16 are written from and read into f32 arrays. */

const float = new Float32Array(1)
const word = new Uint32Array(float.buffer)

/** The 16 bits of the nearest half, ties to even; what exceeds 65,504 becomes infinite, a NaN stays one. */
export const toHalf = (value: number): number => {
  float[0] = value
  const bits = word[0]!
  const sign = (bits >>> 16) & 0x8000
  const magnitude = bits & 0x7fffffff
  if (magnitude > 0x7f800000) return sign | 0x7e00 | ((magnitude >>> 13) & 0x1ff)
  if (magnitude >= 0x477ff000) return sign | 0x7c00
  if (magnitude < 0x38800000) {
    // below the smallest normal half: a multiple of 2^-24, which the addition rounds to the nearest even
    const scaled = Math.abs(float[0]!) * 2 ** 24
    const floor = Math.floor(scaled)
    const rest = scaled - floor
    return sign | (floor + (rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? 1 : 0))
  }
  const rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1)
  return sign | ((rounded - 0x38000000) >>> 13)
}

export const fromHalf = (half: number): number => {
  const sign = (half & 0x8000) === 0 ? 1 : -1
  const exponent = (half >>> 10) & 31
  const fraction = half & 0x3ff
  if (exponent === 0) return sign * fraction * 2 ** -24
  if (exponent < 31) return sign * (1024 + fraction) * 2 ** (exponent - 25)
  return fraction === 0 ? sign * Infinity : NaN
}

/** Rounded to half precision. */
export const roundHalf = (value: number): number => fromHalf(toHalf(value))

/** f32 values as halves, padded with zeros to a multiple of 4 bytes. */
export const encode = (values: ArrayLike<number>): Uint16Array<ArrayBuffer> => {
  const out = new Uint16Array(Math.ceil(values.length / 2) * 2)
  for (let i = 0; i < values.length; i++) out[i] = toHalf(values[i]!)
  return out
}

export const decode = (halves: Uint16Array): Float32Array => Float32Array.from(halves, fromHalf)
