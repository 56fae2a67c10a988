/** attention_cached.wgsl: append and forward. */
import * as Kernels from "../../src/model/Kernels.ts"
import { kernels } from "../../src/model/Kernels.ts"
import * as Reference from "../reference/ops.ts"
import type { Random } from "../reference/random.ts"
import { type Case, EPS, type Frame, makeCase, normals, place, placeU32, placeWant } from "./case.ts"

export interface CachedShape {
  /** Rows of the cache that a sequence has. */
  readonly maxLength: number
  /** Of each query, in which sequence it is and its place there, counted from 1; 0: padding. */
  readonly queries: ReadonlyArray<readonly [sequence: number, count: number]>
  readonly sequences: number
  readonly heads: number
  readonly kvHeads: number
  readonly headSize: number
  readonly std?: number
}

const show = (s: CachedShape): string =>
  `queries ${s.queries.map((query) => query.join("/")).join(" ")} of ${s.maxLength}, ` +
  `${s.heads}/${s.kvHeads} heads of ${s.headSize}`

const inputs = (random: Random, s: CachedShape) => {
  const { headSize, heads, kvHeads, std = 1 } = s
  const rows = s.queries.length
  const span = Uint32Array.from(s.queries.flatMap(([sequence, count]) => [sequence * s.maxLength, count]))
  const ld = (heads + 2 * kvHeads) * headSize
  const width = 2 * kvHeads * headSize
  const half = width / 2
  const q = normals(random, rows * heads * headSize, std)
  const kv = normals(random, rows * width)
  const qkv = Float32Array.from({ length: rows * ld }, (_, i) => {
    const [t, c] = [Math.floor(i / ld), i % ld]
    return c < ld - width ? q[t * (ld - width) + c]! : kv[t * width + c - (ld - width)]!
  })
  return {
    rows,
    span,
    q,
    kv,
    qkv,
    ld,
    width,
    half,
    params: { rows, heads, kvHeads, scale: 1 / Math.sqrt(headSize), head4: headSize / 4 }
  }
}

export const append = (s: CachedShape): Case =>
  makeCase(
    `cache append: ${show(s)}`,
    { flops: 0, bytes: 16 * s.queries.length * s.kvHeads * s.headSize },
    (random) => {
      const { kv, params, qkv, rows, span, width } = inputs(random, s)
      const frame: Frame = { rows: s.sequences * s.maxLength, cols: width, after: 4 }
      const want = placeWant([], frame)
      s.queries.forEach(([sequence, count], t) => {
        if (count > 0) want.set(kv.subarray(t * width, (t + 1) * width), (sequence * s.maxLength + count - 1) * width)
      })
      return {
        tensors: { qkv, span: placeU32(span, { rows: 1, cols: span.length, after: 2 }), cache: place([], frame) },
        outputs: { cache: { want, kind: "writes", atol: 0, rtol: 0 } },
        record: (p, t) => p.dispatch(kernels.cacheAppend, t, params, (rows * width) / 4)
      }
    }
  )

export const forward = (s: CachedShape): Case =>
  makeCase(
    `cached attention: ${show(s)}`,
    {
      flops: 4 * s.heads * s.headSize * s.queries.reduce((sum, [, count]) => sum + count, 0),
      bytes: 8 * s.kvHeads * s.headSize * s.queries.reduce((sum, [, count]) => sum + count, 0)
    },
    (random) => {
      const { half, params, q, qkv, rows, span, width } = inputs(random, s)
      const { headSize, heads, kvHeads, std = 1 } = s
      const size = s.sequences * s.maxLength
      const k = normals(random, size * half, std)
      const v = normals(random, size * half)
      // what a sequence has not reached yet must not be read
      const reached = Array.from({ length: s.sequences },
        (_, i) => Math.max(0, ...s.queries.filter(([sequence]) => sequence === i).map(([, count]) => count)))
      const cache = Float32Array.from({ length: size * width }, (_, i) => {
        const [row, c] = [Math.floor(i / width), i % width]
        if (row % s.maxLength >= reached[Math.floor(row / s.maxLength)]!) return NaN
        return c < half ? k[row * half + c]! : v[row * half + c - half]!
      })
      const frame: Frame = { rows, cols: heads * headSize, after: 12 }
      const want = Reference.attentionCached(q, k, v, span, heads, kvHeads, headSize)
      return {
        tensors: {
          qkv,
          span: placeU32(span, { rows: 1, cols: span.length, after: 2 }),
          cache,
          out: place([], frame)
        },
        outputs: {
          out: {
            want: placeWant(want, frame),
            kind: "writes",
            atol: 64 * EPS * (4 + std ** 2 * Math.sqrt(headSize)),
            rtol: 64 * EPS * std ** 2
          }
        },
        record: (p, t) => {
          const { grid, kernel } = Kernels.attentionCached(p.target, headSize)
          p.dispatch(kernel, t, params, grid(rows, heads, headSize))
        }
      }
    }
  )

const shapes: ReadonlyArray<CachedShape> = [
  { maxLength: 5, sequences: 2, queries: [[1, 5], [0, 1]], heads: 1, kvHeads: 1, headSize: 4 },
  // a chunk of prompts: several tokens of one sequence, and padding
  { maxLength: 9, sequences: 3, queries: [[2, 4], [2, 5], [0, 0], [0, 9], [1, 1]], heads: 4, kvHeads: 2, headSize: 12 },
  { maxLength: 140, sequences: 2, queries: [[0, 139], [1, 70], [0, 0]], heads: 3, kvHeads: 1, headSize: 40, std: 2 },
  { maxLength: 70, sequences: 1, queries: [[0, 66]], heads: 2, kvHeads: 2, headSize: 128 },
  // more keys than a workgroup holds weights of
  { maxLength: 1100, sequences: 1, queries: [[0, 1090], [0, 1025]], heads: 1, kvHeads: 1, headSize: 8 }
]

export const cases: ReadonlyArray<Case> = [...shapes.slice(0, 3).map(append), ...shapes.map(forward)]
