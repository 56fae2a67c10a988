/** What arrives of values that travel in fewer bits, in float64 by arithmetic alone. */
export const wires = ["f32", "bf16", "int8", "int4"] as const

/** The nearest whole number, ties to even. */
const nearest = (value: number): number => {
  const floor = Math.floor(value)
  const rest = value - floor
  return floor + (rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? 1 : 0)
}

/** Rounded to 8 bits of precision with the exponents of f32. */
const toBf16 = (value: number): number => {
  if (value === 0 || !Number.isFinite(value)) return value
  const exponent = Math.max(-126, Math.floor(Math.log2(Math.abs(value))))
  const unit = 2 ** (exponent - 7)
  const rounded = nearest(Math.abs(value) / unit) * unit
  return Math.sign(value) * (rounded >= 2 ** 128 ? Infinity : rounded)
}

/** Whole multiples of a scale by which the largest is `most`. */
const toMultiples = (block: Float32Array, most: number): ReadonlyArray<number> => {
  const largest = Math.max(...block.map(Math.abs))
  const scale = Number.isFinite(largest) ? Math.fround(largest / most) : NaN
  return Array.from(block, (value) => scale === 0 ? 0 : Math.min(most, Math.max(-most, nearest(value / scale))) * scale)
}

export const fromWire = (values: Float32Array, wire: (typeof wires)[number]): Float32Array =>
  wire === "f32"
    ? values.slice()
    : Float32Array.from(
      wire === "bf16"
        ? Array.from(values, toBf16)
        : Array.from({ length: Math.ceil(values.length / 128) },
          (_, block) => toMultiples(values.subarray(128 * block, 128 * block + 128), wire === "int8" ? 127 : 7)).flat()
    )
