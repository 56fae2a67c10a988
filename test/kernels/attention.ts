/** attention.wgsl: forward, delta, backward_q, backward_kv. */
import { roundHalf } from "../../src/Float16.ts"
import type { Target } from "../../src/gpu/Target.ts"
import type { Tensor } from "../../src/gpu/Tensor.ts"
import * as Kernels from "../../src/model/Kernels.ts"
import * as Ops from "../../src/model/Ops.ts"
import * as Reference from "../reference/ops.ts"
import type { Random } from "../reference/random.ts"
import { type Case, EPS, type Frame, makeCase, normals, place, placeU32, placeWant } from "./case.ts"

export interface AttentionShape {
  /** Lengths of the documents, which stand one after another. */
  readonly documents: ReadonlyArray<number>
  readonly heads: number
  readonly kvHeads: number
  readonly headSize: number
  /** Standard deviation of queries and keys: scores grow with its square. Default 1. */
  readonly std?: number
}

const rowsOf = (s: AttentionShape): number => s.documents.reduce((a, b) => a + b, 0)

const show = (s: AttentionShape): string =>
  `documents ${s.documents.join(" ")}, ${s.heads}/${s.kvHeads} heads of ${s.headSize}` +
  (s.std === undefined ? "" : `, std ${s.std}`)

/** Pairs of a query and a key that it sees, over all heads. */
const pairs = (s: AttentionShape): number => s.heads * s.documents.reduce((sum, n) => sum + (n * (n + 1)) / 2, 0)

const flops = (s: AttentionShape, products: number): number => 2 * products * pairs(s) * s.headSize

const inputs = (random: Random, s: AttentionShape) => {
  const { headSize, heads, kvHeads, std = 1 } = s
  const rows = rowsOf(s)
  const documentStart = Uint32Array.from(
    s.documents.flatMap((length, i) =>
      new Array<number>(length).fill(s.documents.slice(0, i).reduce((a, b) => a + b, 0))
    )
  )
  const ld = (heads + 2 * kvHeads) * headSize
  const q = normals(random, rows * heads * headSize, std)
  const k = normals(random, rows * kvHeads * headSize, std)
  const v = normals(random, rows * kvHeads * headSize)
  const dout = normals(random, rows * heads * headSize)
  const { lse, out } = Reference.attention(q, k, v, documentStart, heads, kvHeads, headSize)
  const lse32 = Float32Array.from(lse)
  // as f16 keeps it, so that all types begin from the same numbers
  const kept = Float32Array.from(out, roundHalf)
  const delta = Float64Array.from({ length: rows * heads }, (_, i) => {
    let sum = 0
    for (let d = 0; d < headSize; d++) sum += kept[i * headSize + d]! * dout[i * headSize + d]!
    return sum
  })
  const gradients = Reference.attentionBackward(dout, q, k, v, lse, documentStart, heads, kvHeads, headSize, delta)
  /** Where a part of qkv, or of its gradient, stands. */
  const part = (head: number, count: number): Frame => ({
    rows,
    cols: count * headSize,
    at: head * headSize,
    ld,
    after: 8 - head * headSize
  })
  const frames = { q: part(0, heads), k: part(heads, kvHeads), v: part(heads + kvHeads, kvHeads) }
  /** The parts in one array: cells that a part writes replace NaN. */
  const merge = (...arrays: ReadonlyArray<Float64Array>): Float64Array =>
    arrays[0]!.map((_, i) => arrays.map((array) => array[i]!).find((x) => !Number.isNaN(x)) ?? NaN)
  const qkv = Float32Array.from(merge(placeWant(q, frames.q), placeWant(k, frames.k), placeWant(v, frames.v)))
  return {
    rows,
    frames,
    merge,
    documentStart: placeU32(documentStart, { rows: 1, cols: rows, after: 2 }),
    qkv,
    dout,
    out,
    kept,
    lse,
    lse32,
    delta,
    gradients,
    empty: place([], { rows, cols: ld, after: 8 }),
    params: { rows, heads, kvHeads, scale: 1 / Math.sqrt(headSize), head4: headSize / 4 },
    // rounding of a score is rounding of its exponent: relative to the result it grows with the scores
    tolerance: {
      kind: "writes",
      atol: 64 * EPS * (4 + std ** 2 * Math.sqrt(headSize)),
      rtol: 64 * EPS * std ** 2
    } as const
  }
}

const largest = (x: Float64Array): number =>
  x.reduce((most, v) => (Number.isNaN(v) ? most : Math.max(most, Math.abs(v))), 0)

/** On matrix units weights of values, and gradients of scores, are rounded to f16: relative to the largest result. */
const weightRounding = ({ headSize }: AttentionShape, target: Target): number =>
  target.family === "tensor" && (headSize === 64 || headSize === 128) ? 2 ** -10 : 0

export const forward = (s: AttentionShape): Case =>
  makeCase(
    `attention forward: ${show(s)}`,
    { flops: flops(s, 2), bytes: 8 * rowsOf(s) * (s.heads + s.kvHeads) * s.headSize },
    (random, target) => {
      const x = inputs(random, s)
      const outFrame: Frame = { rows: x.rows, cols: s.heads * s.headSize, after: 12 }
      const lseFrame: Frame = { rows: x.rows, cols: s.heads, after: 5 }
      return {
        tensors: {
          qkv: x.qkv,
          documentStart: x.documentStart,
          out: place([], outFrame),
          lse: place([], lseFrame)
        },
        outputs: {
          out: {
            want: placeWant(x.out, outFrame),
            ...x.tolerance,
            atol: x.tolerance.atol + weightRounding(s, target) * largest(x.out)
          },
          lse: { want: placeWant(x.lse, lseFrame), ...x.tolerance }
        },
        record: (p, t) => {
          const { grid, kernel } = Kernels.attention(p.target, s.headSize, t.qkv!.type)
          p.dispatch(kernel, t, x.params, grid(x.rows, s.heads, s.headSize))
        }
      }
    }
  )

export const delta = (s: AttentionShape): Case =>
  makeCase(
    `attention delta: ${show(s)}`,
    { flops: 2 * rowsOf(s) * s.heads * s.headSize, bytes: 8 * rowsOf(s) * s.heads * s.headSize },
    (random) => {
      const x = inputs(random, s)
      const frame: Frame = { rows: x.rows, cols: s.heads, after: 6 }
      const out = normals(random, x.out.length)
      const want = Float64Array.from({ length: x.rows * s.heads }, (_, i) => {
        let sum = 0
        for (let d = i * s.headSize; d < (i + 1) * s.headSize; d++) sum += out[d]! * x.dout[d]!
        return sum
      })
      return {
        tensors: { out, dout: x.dout, delta: place([], frame) },
        outputs: { delta: { want: placeWant(want, frame), ...x.tolerance } },
        record: (p, t) => {
          const { grid, kernel } = Kernels.attentionDelta(p.target)
          p.dispatch(kernel, t, x.params, grid(x.rows, s.heads, s.headSize))
        }
      }
    }
  )

/** `q` writes the queries' part of dqkv and leaves the rest alone, `kv` the other way round; `both` is the whole. */
export const backward = (which: "q" | "kv" | "both", s: AttentionShape): Case =>
  makeCase(
    `attention backward ${which}: ${show(s)}`,
    {
      flops: flops(s, which === "q" ? 3 : which === "kv" ? 4 : 7),
      bytes: 8 * rowsOf(s) * (s.heads + s.kvHeads) * s.headSize
    },
    (random, target) => {
      const x = inputs(random, s)
      const q = placeWant(x.gradients.dq, x.frames.q)
      const k = placeWant(x.gradients.dk, x.frames.k)
      const v = placeWant(x.gradients.dv, x.frames.v)
      const want = which === "q" ? q : which === "kv" ? x.merge(k, v) : x.merge(q, k, v)
      const size = Math.max(1, largest(want))
      const deltas: Frame = { rows: x.rows, cols: s.heads, after: 6 }
      return {
        tensors: {
          qkv: x.qkv,
          documentStart: x.documentStart,
          dout: x.dout,
          lse: x.lse32,
          ...(which === "kv"
            ? { delta: Float32Array.from(x.delta) }
            : { delta: place([], deltas), out: x.kept }),
          dqkv: x.empty
        },
        outputs: {
          ...(which === "kv" ? {} : { delta: { want: placeWant(x.delta, deltas), ...x.tolerance } }),
          dqkv: { want, ...x.tolerance, atol: x.tolerance.atol * size + weightRounding(s, target) * largest(want) }
        },
        record: (p, t: Readonly<Record<string, Tensor>>) => {
          const { delta, documentStart, dout, dqkv, lse, out, qkv } = t as Readonly<
            Record<"delta" | "documentStart" | "dout" | "dqkv" | "lse" | "out" | "qkv", Tensor>
          >
          const rest = { delta, documentStart, dout, dqkv, lse, qkv }
          if (which !== "kv") Ops.attentionBackwardQ(p, { ...rest, out }, x.params)
          if (which === "q") return
          const { grid, kernel } = Kernels.attentionBackward(p.target, "kv", s.headSize, qkv.type)
          p.dispatch(kernel, rest, x.params, grid(x.rows, s.kvHeads, s.headSize))
        }
      }
    }
  )

const shapes: ReadonlyArray<AttentionShape> = [
  { documents: [1], heads: 1, kvHeads: 1, headSize: 4 },
  { documents: [1, 10, 2, 18], heads: 4, kvHeads: 2, headSize: 12 },
  { documents: [31, 1, 33], heads: 3, kvHeads: 1, headSize: 40 },
  { documents: [7, 8], heads: 6, kvHeads: 2, headSize: 32, std: 2 },
  // tiles of 64 tokens that begin and end inside documents, and hold many; the largest head of the tiled kernels
  { documents: [70, 1, 3, 2, 20, 50], heads: 2, kvHeads: 1, headSize: 128 },
  // documents that end within a tile of others, and at one; several tiles of others
  { documents: [1, 63, 40, 32, 9], heads: 4, kvHeads: 2, headSize: 64 },
  // larger heads: just above, in the middle of a chunk, and twice as large
  { documents: [5, 66], heads: 2, kvHeads: 1, headSize: 132 },
  { documents: [9, 20], heads: 2, kvHeads: 2, headSize: 160 },
  { documents: [33], heads: 2, kvHeads: 1, headSize: 256 }
]

export const cases: ReadonlyArray<Case> = [
  ...shapes.map(forward),
  ...shapes.map(delta),
  backward("q", shapes[1]!),
  backward("kv", shapes[1]!),
  ...shapes.map((s) => backward("both", s))
]
