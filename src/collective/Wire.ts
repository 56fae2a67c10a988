/**
 * How f32 values travel between ranks: as they are, or in fewer bits. Packed values stand in blocks, so that what begins at a
 * multiple of a block is a part of what is packed; whoever reads them gets the same bits, and all zeros stay zeros.
 */

/** Values that share a scale, where there is one; parts of arrays begin at multiples of it. */
export const BLOCK = 128

/**
 * `f32`: exact. `bf16`: the nearest of 8 bits of precision, ties to even; half as much. `int8`, `int4`: whole multiples, up to
 * 127 or 7, of a scale that is a block's largest value by that; a quarter and an eighth, and 4 bytes a block.
 */
export const wires = ["f32", "bf16", "int8", "int4"] as const
/** How values travel between ranks: the name of one of `wires`. */
export type Wire = (typeof wires)[number]

export interface Packing {
  /** Bytes of so many values. */
  readonly bytes: (length: number) => number
  /** `bytes` begin at a multiple of 4 of their memory. */
  readonly pack: (values: Float32Array, bytes: Uint8Array) => void
  readonly unpack: (bytes: Uint8Array, values: Float32Array) => void
}

const bf16: Packing = {
  bytes: (length) => 2 * length,
  pack: (values, bytes) => {
    const from = new Int32Array(values.buffer, values.byteOffset, values.length)
    const to = new Uint16Array(bytes.buffer, bytes.byteOffset, values.length)
    for (let i = 0; i < from.length; i++) {
      const bits = from[i]!
      to[i] = (bits & 0x7fffffff) > 0x7f800000
        // what a NaN has in its lower half alone must not make it infinite
        ? bits >>> 16 | 0x40
        : bits + 0x7fff + (bits >>> 16 & 1) >>> 16
    }
  },
  unpack: (bytes, values) => {
    const from = new Uint16Array(bytes.buffer, bytes.byteOffset, values.length)
    const to = new Int32Array(values.buffer, values.byteOffset, values.length)
    for (let i = 0; i < from.length; i++) to[i] = from[i]! << 16
  }
}

/** Added and taken away again, it leaves the nearest whole number, ties to even. */
const MAGIC = 1.5 * 2 ** 52

/** Whole multiples of a block's scale; two of `int4` in a byte, the first in its lower half. */
const multiples = (most: 7 | 127): Packing => {
  const half = most === 7
  const bytesOf = (length: number) => 4 * Math.ceil(length / BLOCK) + (half ? Math.ceil(length / 2) : length)
  const stride = bytesOf(BLOCK)
  const scaleAt = (bytes: Uint8Array, at: number) => new Float32Array(bytes.buffer, bytes.byteOffset + at, 1)
  return {
    bytes: bytesOf,
    pack: (values, bytes) => {
      for (let from = 0, at = 0; from < values.length; from += BLOCK, at += stride) {
        const to = Math.min(values.length, from + BLOCK)
        let largest = 0
        for (let i = from; i < to; i++) largest = Math.max(largest, Math.abs(values[i]!))
        // infinite or no number: so is all of the block
        const scale = Math.fround(largest < Infinity ? largest / most : NaN)
        scaleAt(bytes, at)[0] = scale
        const codeOf = (i: number) => {
          const code = i < to && scale > 0 ? values[i]! / scale + MAGIC - MAGIC : 0
          // a scale that was rounded down, or has few bits left, must not lead beyond the largest
          return code > most ? most : code < -most ? -most : code
        }
        if (half) {
          for (let i = from, j = at + 4; i < to; i += 2) bytes[j++] = codeOf(i) & 15 | (codeOf(i + 1) & 15) << 4
        } else for (let i = from, j = at + 4; i < to; i++) bytes[j++] = codeOf(i)
      }
    },
    unpack: (bytes, values) => {
      for (let from = 0, at = 0; from < values.length; from += BLOCK, at += stride) {
        const to = Math.min(values.length, from + BLOCK)
        const scale = scaleAt(bytes, at)[0]!
        for (let i = from; i < to; i++) {
          const code = half
            ? bytes[at + 4 + (i - from >> 1)]! << (i % 2 === 0 ? 28 : 24) >> 28
            : bytes[at + 4 + i - from]! << 24 >> 24
          values[i] = code * scale
        }
      }
    }
  }
}

/** What packs values; f32 needs nothing. */
export const packings: Readonly<Record<Exclude<Wire, "f32">, Packing>> = { bf16, int8: multiples(127),
  int4: multiples(7) }

/** Bytes of so many values on their way. */
export const wireBytes = (wire: Wire, length: number): number =>
  wire === "f32" ? 4 * length : packings[wire].bytes(length)

/** What arrives of values: themselves, in place, as they are packed and unpacked. */
export const travelled = (values: Float32Array, wire: Wire): Float32Array => {
  if (wire === "f32") return values
  const bytes = new Uint8Array(wireBytes(wire, values.length))
  packings[wire].pack(values, bytes)
  packings[wire].unpack(bytes, values)
  return values
}
