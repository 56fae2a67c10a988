/**
 * What a kernel case is, and how its buffers are filled. A family file (matmul.ts, attention.ts, ...) turns shapes into
 * cases and lists some; kernels.test.ts runs them on an adapter, and benchmarks may build larger ones from the same
 * functions.
 */
import type { Recorder } from "../../src/gpu/Program.ts"
import { type Family, portable, type Target } from "../../src/gpu/Target.ts"
import type { Tensor } from "../../src/gpu/Tensor.ts"
import type { Random } from "../reference/random.ts"

/** Half a unit in the last place of 1: what rounding to f32 costs. Tolerances are multiples of it. */
export const EPS = 2 ** -24

/** What a tensor must hold after the case's dispatches have run once. */
export interface Expected {
  /** For every element of the tensor its value; NaN where the kernel must leave the initial bits alone. */
  readonly want: Float64Array
  /**
   * `writes`: running again changes nothing. `adds`: every element that is wanted began with a known number, and
   * running again adds the same once more. `updates`: the tensor is also read (in place), so a second run is another
   * story.
   */
  readonly kind: "writes" | "adds" | "updates"
  readonly atol: number
  readonly rtol: number
  /** Elements that must be exactly 0 (of either sign), whatever atol says. */
  readonly exactZeros?: (index: number) => boolean
}

export interface Built<K extends string = string> {
  /** Initial content of every tensor, inputs and outputs; each becomes a tensor of one dimension. */
  readonly tensors: Readonly<Record<K, Float32Array | Uint32Array>>
  /** Every tensor that a dispatch writes. */
  readonly outputs: Readonly<Partial<Record<K, Expected>>>
  readonly record: (p: Recorder, t: Readonly<Record<K, Tensor>>) => void
}

export interface Case {
  readonly name: string
  /** Floating-point operations, and bytes that must move at least: what a benchmark divides by. */
  readonly flops: number
  readonly bytes: number
  /** Of kernels that this family alone has, in f16 alone. */
  readonly only?: Family | undefined
  /** Inputs, float64 expectation and recording; all random numbers come from `random`. */
  readonly build: (random: Random, target?: Target) => Built
}

/** A quiet NaN that no arithmetic makes: a cell that still holds it was never written. */
const SENTINEL = 0x7fc0beef

/**
 * Where a kernel computes in place, NaN + x may keep the NaN's very bits. -0 loses its sign to any number that is added,
 * 0 included, and 1.2345 its value to any factor.
 */
const FINITE_SENTINELS = [-0, 1.2345] as const

/** Cells behind every f32 input that must not be read either. */
const BEHIND = 64

const guard = ({ outputs, ...built }: Built): Built => {
  const tensors = { ...built.tensors }
  for (const [name, data] of Object.entries(tensors)) {
    if (!(data instanceof Float32Array)) continue
    const output = outputs[name]
    if (output === undefined) {
      const longer = poison(data.length + BEHIND)
      longer.set(data)
      tensors[name] = longer
    } else if (output.kind !== "writes") {
      const bits = new Uint32Array(data.buffer)
      tensors[name] = data.map((x, i) =>
        bits[i] === SENTINEL && Number.isNaN(output.want[i]) ? FINITE_SENTINELS[i % 2]! : x
      )
    }
  }
  return { ...built, outputs, tensors }
}

/** A case whose `record` sees the names of its own tensors. */
export const makeCase = <const K extends string>(
  name: string,
  cost: { readonly flops: number; readonly bytes: number; readonly only?: Family | undefined },
  build: (random: Random, target: Target) => Built<K>
): Case => ({ name, ...cost, build: (random, target = portable) => guard(build(random, target) as unknown as Built) })

/** f32 cells that must be neither read nor written. */
export const poison = (length: number): Float32Array => new Float32Array(new Uint32Array(length).fill(SENTINEL).buffer)

/** u32 cells that must be neither read nor written: as an index they point outside every buffer. */
export const poisonU32 = (length: number): Uint32Array => new Uint32Array(length).fill(SENTINEL)

/** A matrix inside a longer array: its first element stands at `at`, rows are `ld` apart, `after` cells follow it. */
export interface Frame {
  readonly rows: number
  readonly cols: number
  readonly at?: number
  readonly ld?: number
  readonly after?: number
}

const indexOf = ({ at = 0, cols, ld = cols }: Frame, i: number): number => at + Math.floor(i / cols) * ld + (i % cols)

const lengthOf = ({ after = 0, at = 0, cols, ld = cols, rows }: Frame): number => at + rows * ld + after

/** The matrix's elements in its frame, everything around them poisoned. */
export const place = (values: ArrayLike<number>, frame: Frame): Float32Array => {
  const out = poison(lengthOf(frame))
  for (let i = 0; i < values.length; i++) out[indexOf(frame, i)] = values[i]!
  return out
}

/** The same for what is wanted: around the matrix, the initial bits. */
export const placeWant = (values: ArrayLike<number>, frame: Frame): Float64Array => {
  const out = new Float64Array(lengthOf(frame)).fill(NaN)
  for (let i = 0; i < values.length; i++) out[indexOf(frame, i)] = values[i]!
  return out
}

/** u32 elements, then poisoned cells. */
export const placeU32 = (values: ArrayLike<number>, frame: Frame): Uint32Array => {
  const out = poisonU32(lengthOf(frame))
  for (let i = 0; i < values.length; i++) out[indexOf(frame, i)] = values[i]!
  return out
}

/** Normal numbers, rounded to f32. */
export const normals = (random: Random, length: number, std = 1): Float32Array =>
  Float32Array.from(random.normals(length, std))

/** Elementwise sum in float64. */
export const plus = (a: ArrayLike<number>, b: ArrayLike<number>): Float64Array =>
  Float64Array.from(a, (value, i) => value + b[i]!)
