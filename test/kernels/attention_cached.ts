/** attention_cached.wgsl: append and forward. */
import * as Kernels from "../../src/model/Kernels.ts"
import { kernels } from "../../src/model/Kernels.ts"
import { PAGE, pagesOf } from "../../src/model/Pages.ts"
import * as Reference from "../reference/ops.ts"
import type { Random } from "../reference/random.ts"
import { type Case, EPS, type Frame, makeCase, normals, place, placeU32, placeWant } from "./case.ts"

export interface CachedShape {
  /** Tokens that a sequence has pages for. */
  readonly maxLength: number
  /** So many pages, the first of each sequence, are the same for all. */
  readonly shared?: number
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
  (s.shared === undefined ? "" : `${s.shared} pages shared, `) +
  `${s.heads}/${s.kvHeads} heads of ${s.headSize}`

const inputs = (random: Random, s: CachedShape) => {
  const { headSize, heads, kvHeads, std = 1 } = s
  const rows = s.queries.length
  const each = pagesOf(s.maxLength)
  const span = Uint32Array.from(s.queries.flatMap(([sequence, count]) => [sequence * each, count]))
  // in no order, and one that nobody has
  const order = Uint32Array.from({ length: s.sequences * each + 1 }, (_, i) => i)
  for (let i = order.length - 1; i > 0; i--) {
    const j = random.int(i + 1)
    ;[order[i], order[j]] = [order[j]!, order[i]!]
  }
  const pages = order.slice(0, s.sequences * each).map((page, i) =>
    i % each < (s.shared ?? 0) ? order[i % each]! : page
  )
  /** The cache's row of a sequence's token. */
  const rowOf = (sequence: number, token: number): number =>
    pages[sequence * each + Math.floor(token / PAGE)]! * PAGE + token % PAGE
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
    size: order.length * PAGE,
    pages: placeU32(pages, { rows: 1, cols: pages.length, after: 2 }),
    table: pages,
    rowOf,
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
      const { kv, pages, params, qkv, rowOf, rows, size, span, width } = inputs(random, s)
      const frame: Frame = { rows: size, cols: width, after: 4 }
      const want = placeWant([], frame)
      s.queries.forEach(([sequence, count], t) => {
        if (count > 0) want.set(kv.subarray(t * width, (t + 1) * width), rowOf(sequence, count - 1) * width)
      })
      return {
        tensors: { qkv, span: placeU32(span, { rows: 1, cols: span.length, after: 2 }), pages,
          cache: place([], frame) },
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
      const { half, pages, params, q, qkv, rowOf, rows, size, span, table, width } = inputs(random, s)
      const { headSize, heads, kvHeads, std = 1 } = s
      const k = normals(random, size * half, std)
      const v = normals(random, size * half)
      // what a sequence has not reached yet must not be read
      const reached = new Set(
        s.queries.flatMap(([sequence, count]) => Array.from({ length: count }, (_, token) => rowOf(sequence, token)))
      )
      const cache = Float32Array.from({ length: size * width }, (_, i) => {
        const [row, c] = [Math.floor(i / width), i % width]
        if (!reached.has(row)) return NaN
        return c < half ? k[row * half + c]! : v[row * half + c - half]!
      })
      const frame: Frame = { rows, cols: heads * headSize, after: 12 }
      const want = Reference.attentionCached(q, k, v, span, table, PAGE, heads, kvHeads, headSize)
      return {
        tensors: {
          qkv,
          span: placeU32(span, { rows: 1, cols: span.length, after: 2 }),
          pages,
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
  // pages that are full and shared, and the first token behind one
  { maxLength: 64, shared: 2, sequences: 3, queries: [[0, 32], [1, 33], [2, 47], [1, 48]], heads: 2, kvHeads: 1,
    headSize: 16 },
  { maxLength: 70, sequences: 1, queries: [[0, 66]], heads: 2, kvHeads: 2, headSize: 128 },
  // more keys than a workgroup holds weights of
  { maxLength: 1100, sequences: 1, queries: [[0, 1090], [0, 1025]], heads: 1, kvHeads: 1, headSize: 8 }
]

export const cases: ReadonlyArray<Case> = [...shapes.slice(0, 3).map(append), ...shapes.map(forward)]
