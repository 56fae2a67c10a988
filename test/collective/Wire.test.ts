import { expect, it } from "vitest"
import { BLOCK, packings, travelled, wireBytes } from "../../src/collective/Wire.ts"
import { fromWire, wires } from "../reference/wire.ts"

const bits = (values: Float32Array) => [...new Int32Array(values.buffer, values.byteOffset, values.length)]
const fromBits = (...words: ReadonlyArray<number>) => new Float32Array(Uint32Array.from(words).buffer)

it("rounds to bf16, ties to even, at the ends of its range, too", () => {
  const values = fromBits(0x3f808000, 0x3f818000, 0x3f808001, 0xbf808000, 0x00000001, 0x00018000, 0x80000000,
    0x7f7f7fff, 0x7f7fffff, 0xff800000)
  expect(bits(travelled(values.slice(), "bf16")).map((word) => (word >>> 16).toString(16))).toEqual(
    ["3f80", "3f82", "3f81", "bf80", "0", "2", "8000", "7f7f", "7f80", "ff80"]
  )
  expect([...travelled(fromBits(0x7f800001, 0xffffffff, 0x7fc00000), "bf16")]).toEqual([NaN, NaN, NaN])
})

it("gives what arithmetic in float64 gives, of all magnitudes and lengths", () => {
  let state = 7
  const random = () => (state = Math.imul(state, 1664525) + 1013904223 >>> 0) / 2 ** 32
  for (const length of [1, 2, 127, 128, 129, 1001]) {
    for (const power of [-140, -126, -20, 0, 100, 127]) {
      const values = Float32Array.from({ length }, () => (random() - 0.5) * 2 ** (power - 8 * random()))
      for (const wire of wires) {
        expect(bits(travelled(values.slice(), wire)), `${wire} ${length} 2^${power}`).toEqual(
          bits(fromWire(values, wire))
        )
      }
    }
  }
})

it("makes a block with what is no number no numbers, leaves others alone, and keeps zeros", () => {
  for (const wire of ["int8", "int4"] as const) {
    for (const bad of [NaN, Infinity, -Infinity]) {
      const values = new Float32Array(2 * BLOCK).fill(1)
      values[3] = bad
      travelled(values, wire)
      expect([...values.subarray(0, BLOCK)].every(Number.isNaN)).toBe(true)
      expect([...values.subarray(BLOCK)].every((value) => Math.abs(value - 1) < 1e-6)).toBe(true)
    }
    expect([...travelled(new Float32Array(200), wire)].every((value) => Object.is(value, 0))).toBe(true)
  }
})

it("packs in blocks, so that a part from a multiple of one is a part of what is packed", () => {
  const values = Float32Array.from({ length: 3 * BLOCK + 5 }, (_, i) => Math.sin(i) * i)
  for (const [wire, packing] of Object.entries(packings)) {
    const whole = new Uint8Array(packing.bytes(values.length))
    packing.pack(values, whole)
    const from = packing.bytes(BLOCK)
    const part = new Uint8Array(packing.bytes(values.length - BLOCK))
    packing.pack(values.subarray(BLOCK), part)
    expect([...whole.subarray(from)], wire).toEqual([...part])
  }
  expect(wires.map((wire) => wireBytes(wire, 1024))).toEqual([4096, 2048, 1056, 544])
})
