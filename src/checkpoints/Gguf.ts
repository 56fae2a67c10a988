/**
 * The GGUF format, version 3, as llama.cpp reads it: a header, metadata (typed values under dotted names), a table of
 * tensors, then their numbers, each tensor at a multiple of 32 bytes. Little-endian, like every host with WebGPU.
 */
import { encode as toHalves } from "../Float16.ts"
import type { Encoded } from "./Safetensors.ts"

/** A metadata value with its type in the file. */
export type Value =
  | { readonly type: "u32" | "i32" | "f32"; readonly value: number }
  | { readonly type: "bool"; readonly value: boolean }
  | { readonly type: "string"; readonly value: string }
  | { readonly type: "strings"; readonly value: ReadonlyArray<string> }
  | { readonly type: "i32s"; readonly value: ReadonlyArray<number> }

export const u32 = (value: number): Value => ({ type: "u32", value })
export const f32 = (value: number): Value => ({ type: "f32", value })
export const bool = (value: boolean): Value => ({ type: "bool", value })
export const string = (value: string): Value => ({ type: "string", value })
export const strings = (value: ReadonlyArray<string>): Value => ({ type: "strings", value })
export const i32s = (value: ReadonlyArray<number>): Value => ({ type: "i32s", value })

/** Element types: Q8_0 holds 32 numbers of a row as one f16 scale and 32 signed bytes. */
export type Type = "F32" | "F16" | "Q8_0"

/** A tensor to be written, row-major; `data` is asked for once, when its turn comes. Q8_0 rows are multiples of 32. */
export interface GgufTensor {
  readonly name: string
  readonly shape: ReadonlyArray<number>
  readonly type: Type
  readonly data: () => Float32Array
}

/** Numbers that share a scale in Q8_0. */
export const BLOCK = 32

const BLOCK_BYTES = 2 + BLOCK
const ALIGNMENT = 32

const typeCode: Readonly<Record<Type, number>> = { F32: 0, F16: 1, Q8_0: 8 }
const code = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8, array: 9 } as const

const aligned = (bytes: number) => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT

const elements = (shape: ReadonlyArray<number>) => shape.reduce((product, n) => product * n, 1)

/** Bytes of a tensor's numbers. */
export const byteLength = (type: Type, shape: ReadonlyArray<number>): number => {
  const n = elements(shape)
  return type === "F32" ? 4 * n : type === "F16" ? 2 * n : (n / BLOCK) * BLOCK_BYTES
}

/**
 * Q8_0: of each 32 numbers the scale is the largest magnitude over 127, kept as f16, and each number the nearest
 * multiple of the unrounded scale, halves away from zero.
 */
export const quantize = (values: Float32Array): Uint8Array => {
  const blocks = values.length / BLOCK
  const bytes = new Uint8Array(blocks * BLOCK_BYTES)
  const signed = new Int8Array(bytes.buffer)
  const scales = new Float32Array(blocks)
  for (let block = 0; block < blocks; block++) {
    let largest = 0
    for (let i = 0; i < BLOCK; i++) largest = Math.max(largest, Math.abs(values[block * BLOCK + i]!))
    scales[block] = Math.fround(largest / 127)
    const inverse = scales[block] === 0 ? 0 : Math.fround(1 / scales[block]!)
    for (let i = 0; i < BLOCK; i++) {
      const scaled = Math.fround(values[block * BLOCK + i]! * inverse)
      signed[block * BLOCK_BYTES + 2 + i] = Math.sign(scaled) * Math.floor(Math.abs(scaled) + 0.5)
    }
  }
  toHalves(scales).subarray(0, blocks).forEach((half, block) => {
    bytes[block * BLOCK_BYTES] = half & 0xff
    bytes[block * BLOCK_BYTES + 1] = half >> 8
  })
  return bytes
}

const bytesOf = ({ data, type }: GgufTensor): Uint8Array => {
  const values = data()
  if (type === "Q8_0") return quantize(values)
  const numbers = type === "F32" ? values : toHalves(values).subarray(0, values.length)
  return new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength)
}

/** Grows as it is written to. */
const writer = () => {
  let bytes = new Uint8Array(1 << 16)
  let view = new DataView(bytes.buffer)
  let length = 0
  const room = (more: number): number => {
    if (length + more > bytes.length) {
      const larger = new Uint8Array(Math.max(2 * bytes.length, length + more))
      larger.set(bytes)
      bytes = larger
      view = new DataView(bytes.buffer)
    }
    length += more
    return length - more
  }
  const encoder = new TextEncoder()
  /** `put` sees where it may write only when there is room, since making room moves everything. */
  const number = (size: number, put: (view: DataView, at: number, value: number) => void) => (value: number): void => {
    const at = room(size)
    put(view, at, value)
  }
  const it = {
    u8: number(1, (view, at, value) => view.setUint8(at, value)),
    u32: number(4, (view, at, value) => view.setUint32(at, value, true)),
    i32: number(4, (view, at, value) => view.setInt32(at, value, true)),
    f32: number(4, (view, at, value) => view.setFloat32(at, value, true)),
    u64: number(8, (view, at, value) => view.setBigUint64(at, BigInt(value), true)),
    string: (text: string) => {
      const utf8 = encoder.encode(text)
      it.u64(utf8.length)
      const at = room(utf8.length)
      bytes.set(utf8, at)
    },
    pad: () => void room(aligned(length) - length),
    done: () => bytes.subarray(0, length)
  }
  return it
}

type Writer = ReturnType<typeof writer>

const writeValue = (to: Writer, { type, value }: Value): void => {
  switch (type) {
    case "bool":
      to.u32(code.bool)
      return to.u8(value ? 1 : 0)
    case "strings":
    case "i32s":
      to.u32(code.array)
      to.u32(type === "strings" ? code.string : code.i32)
      to.u64(value.length)
      return type === "strings" ? value.forEach((one) => to.string(one)) : value.forEach((one) => to.i32(one))
    case "string":
      to.u32(code.string)
      return to.string(value)
    default:
      to.u32(code[type])
      return to[type](value)
  }
}

/** A whole file. The tensors are converted one at a time while it is written, in the order given. */
export const encode = (
  metadata: ReadonlyArray<readonly [key: string, value: Value]>,
  tensors: ReadonlyArray<GgufTensor>
): Encoded => {
  const header = writer()
  for (const letter of "GGUF") header.u8(letter.charCodeAt(0))
  header.u32(3)
  header.u64(tensors.length)
  header.u64(metadata.length)
  for (const [key, value] of metadata) {
    header.string(key)
    writeValue(header, value)
  }
  let offset = 0
  for (const { name, shape, type } of tensors) {
    header.string(name)
    header.u32(shape.length)
    // the fastest dimension comes first
    for (const size of [...shape].reverse()) header.u64(size)
    header.u32(typeCode[type])
    header.u64(offset)
    offset += aligned(byteLength(type, shape))
  }
  header.pad()
  const head = header.done()
  return {
    byteLength: head.length + offset,
    chunks: {
      *[Symbol.iterator]() {
        yield head
        for (const tensor of tensors) {
          const bytes = bytesOf(tensor)
          yield bytes
          const rest = aligned(bytes.length) - bytes.length
          if (rest > 0) yield new Uint8Array(rest)
        }
      }
    }
  }
}
