/** matmul.wgsl (nn, tn), transpose.wgsl and cast.wgsl. */
import type { Tensor } from "../../src/gpu/Tensor.ts"
import * as Kernels from "../../src/model/Kernels.ts"
import * as Ops from "../../src/model/Ops.ts"
import * as Segments from "../../src/model/Segments.ts"
import * as Reference from "../reference/ops.ts"
import { type Case, EPS, type Frame, makeCase, normals, place, placeU32, placeWant, plus } from "./case.ts"

interface Place {
  /** Where the matrix begins. */
  readonly at?: number
  /** How much longer than its width its leading dimension is. */
  readonly gap?: number
}

const frame = (rows: number, cols: number, { at = 0, gap = 0 }: Place = {}, after = 0): Frame => ({
  rows,
  cols,
  at,
  ld: cols + gap,
  after
})

const show = (x: Place | undefined): string => (x === undefined ? "" : ` +${x.at ?? 0}/${x.gap ?? 0}`)

export interface NnShape {
  readonly m: number
  readonly n: number
  readonly k: number
  readonly mode?: "store" | "add" | "residual"
  readonly a?: Place
  readonly b?: Place
  readonly c?: Place
  /** B differs by segment: rows of each segment in turn (they sum to m), and cells between two segments' matrices. */
  readonly segments?: ReadonlyArray<number>
  readonly segmentGap?: number
  /** B is stored as [n, k]. */
  readonly turned?: boolean
}

/** The tiles of segments of these lengths, and two of padding. */
const tilesOf = (lengths: ReadonlyArray<number>, rows: number): Uint32Array => {
  const range = Uint32Array.from(
    lengths.flatMap((length, i) => [lengths.slice(0, i).reduce((a, b) => a + b, 0), length])
  )
  const segments = { segment: new Uint32Array(0), range, ids: lengths.map(BigInt) }
  const count = lengths.reduce((n, length) => n + Math.ceil(length / rows), 0)
  return Segments.tilesOf(segments, rows, count + 2)
}

export const nn = (s: NnShape): Case => {
  const { k, m, mode = "store", n, segmentGap = 0, segments: lengths, turned = false } = s
  const per = lengths === undefined ? "" : `, B per segment of [${lengths}]`
  return makeCase(
    `matmul ${turned ? "nt" : "nn"} ${m}x${n}x${k} ${mode}${show(s.a)}${show(s.b)}${show(s.c)}${per}`,
    { flops: 2 * m * n * k, bytes: 4 * (m * k + n * k + m * n), ...(turned ? { only: "tensor" } : {}) },
    (random, target) => {
      const segments = lengths?.length ?? 1
      const owner = lengths?.flatMap((length, i) => Array<number>(length).fill(i))
      const at = s.a?.at ?? 0
      // the leading dimension of a, too, is a multiple of 4
      const aFrame = frame(m, k, { at, gap: Math.ceil((k + (s.a?.gap ?? 0)) / 4) * 4 - k }, 3)
      // and that of a turned b
      const bFrame = turned
        ? frame(n, k, { at: s.b?.at ?? 0, gap: Math.ceil((k + (s.b?.gap ?? 0)) / 4) * 4 - k })
        : frame(k, n, s.b)
      const cFrame = frame(m, n, s.c, 9 * (n + (s.c?.gap ?? 0)))
      const residualFrame = frame(m, n, { gap: 8 })
      const stride = bFrame.rows * bFrame.ld! + segmentGap
      const a = normals(random, m * k)
      const bs = Array.from({ length: segments }, () => normals(random, k * n))
      const before = normals(random, m * n)
      const product = Reference.matmul(a, bs[0]!, k)
      for (let row = 0; row < m; row++) {
        const own = bs[owner?.[row] ?? 0]!
        product.set(Reference.matmul(a.subarray(row * k, (row + 1) * k), own, k), row * n)
      }
      const b = place([], { rows: 1, cols: bFrame.at! + segments * stride })
      bs.forEach((values, i) => {
        for (let at = 0; at < values.length; at++) {
          const [row, column] = [Math.floor(at / n), at % n]
          b[bFrame.at! + i * stride + (turned ? column * bFrame.ld! + row : row * bFrame.ld! + column)] = values[at]!
        }
      })
      return {
        tensors: {
          a: place(a, aFrame),
          b,
          c: place(mode === "add" ? before : [], cFrame),
          residual: place(before, residualFrame),
          tiles: lengths === undefined ? placeU32([], { rows: 1, cols: 4 }) : tilesOf(lengths, Kernels.tileRows(target))
        },
        outputs: {
          c: {
            want: placeWant(mode === "store" ? product : plus(product, before), cFrame),
            kind: mode === "add" ? "adds" : "writes",
            // products of two normal numbers: their sum, and so its rounding, grows with sqrt(k)
            atol: 16 * EPS * (k + 4),
            rtol: 4 * EPS
          }
        },
        record: (p, t) =>
          Ops.matmulNN(p, {
            a: { tensor: t.a!, at: aFrame.at!, ld: aFrame.ld! },
            b: {
              tensor: t.b!,
              at: bFrame.at!,
              ld: bFrame.ld!,
              ...(turned && Kernels.readsTurned(p.target, t.a!.type) ? { turned } : {})
            },
            c: { tensor: t.c!, at: cFrame.at!, ld: cFrame.ld! },
            m,
            n,
            k,
            mode: mode === "residual" ? { residual: t.residual!, ld: residualFrame.ld! } : mode,
            perSegment: lengths === undefined
              ? undefined
              : { tiles: t.tiles!, count: t.tiles!.shape[0]! / 4, stride }
          })
      }
    }
  )
}

export interface TnShape {
  readonly m: number
  readonly n: number
  readonly k: number
  readonly a?: Place
  readonly b?: Place
  readonly c?: Place
}

/** The leading dimension of a is rounded up to a multiple of 4, as the kernel asks. */
export const tn = (s: TnShape): Case => {
  const { k, m, n } = s
  return makeCase(
    `matmul tn ${m}x${n}x${k}${show(s.a)}${show(s.b)}${show(s.c)}`,
    { flops: 2 * m * n * k, bytes: 4 * (m * k + n * k + 2 * m * n) },
    (random) => {
      const aFrame = frame(k, m, { at: s.a?.at ?? 0, gap: (s.a?.gap ?? 0) + ((4 - (m % 4)) % 4) })
      const bFrame = frame(k, n, s.b)
      const cFrame = frame(m, n, s.c, 9 * (n + (s.c?.gap ?? 0)))
      const a = normals(random, k * m)
      const b = normals(random, k * n)
      const before = normals(random, m * n)
      // db of y = a b is a^T dy
      const product = Reference.matmulBackward(b, a, new Float64Array(m * n), m).db
      return {
        tensors: { a: place(a, aFrame), b: place(b, bFrame), c: place(before, cFrame) },
        outputs: {
          c: { want: placeWant(plus(product, before), cFrame), kind: "adds", atol: 16 * EPS * (k + 4), rtol: 4 * EPS }
        },
        record: (p, t) =>
          Ops.matmulTN(p, {
            a: { tensor: t.a!, at: aFrame.at!, ld: aFrame.ld! },
            b: { tensor: t.b!, at: bFrame.at!, ld: bFrame.ld! },
            c: { tensor: t.c!, at: cFrame.at!, ld: cFrame.ld! },
            m,
            n,
            k
          })
      }
    }
  )
}

/** The second pass of a product in parts. */
export const splitSum = (m: number, n: number, parts: number, add: boolean): Case =>
  makeCase(
    `sum of ${parts} parts of ${m}x${n}${add ? ", added" : ""}`,
    { flops: parts * m * n, bytes: 4 * (parts + 2) * m * n },
    (random) => {
      const cFrame = frame(m, n, { at: 8, gap: 4 }, 5)
      const partial = normals(random, parts * m * n)
      const before = normals(random, m * n)
      const sum = Float64Array.from({ length: m * n }, (_, i) => {
        let total = add ? before[i]! : 0
        for (let part = 0; part < parts; part++) total += partial[part * m * n + i]!
        return total
      })
      return {
        tensors: { partial, c: place(add ? before : [], cFrame) },
        outputs: {
          c: { want: placeWant(sum, cFrame), kind: add ? "adds" : "writes", atol: 4 * EPS * parts, rtol: 4 * EPS }
        },
        record: (p, t) =>
          p.dispatch(
            Kernels.kernels.splitSum,
            { partial: t.partial!, c: t.c! },
            { m, n4: n / 4, parts, add: add ? 1 : 0, c0: cFrame.at! / 4, ldc4: cFrame.ld! / 4 },
            (m * n) / 4
          )
      }
    }
  )

/** The same of several products at once, added. */
export const splitSums = (...shapes: ReadonlyArray<readonly [m: number, n: number, parts: number]>): Case =>
  makeCase(
    `sums of ${shapes.map(([m, n, parts]) => `${parts} parts of ${m}x${n}`).join(", ")}`,
    { flops: shapes.reduce((sum, [m, n, parts]) => sum + parts * m * n, 0), bytes: 0 },
    (random) => {
      const made = shapes.map(([m, n, parts], i) => {
        const cFrame = frame(m, n, { at: 4 * i, gap: 4 * (i % 2) }, 5)
        const partial = normals(random, parts * m * n)
        const before = normals(random, m * n)
        const sum = Float64Array.from(before, (value, at) => {
          for (let part = 0; part < parts; part++) value += partial[part * m * n + at]!
          return value
        })
        return { m, n, parts, cFrame, partial, before, sum }
      })
      return {
        tensors: Object.fromEntries(made.flatMap(({ before, cFrame, partial }, i) => [
          [`partial${i}`, partial],
          [`c${i}`, place(before, cFrame)]
        ])) as Record<string, Float32Array>,
        outputs: Object.fromEntries(made.map(({ cFrame, parts, sum }, i) => [`c${i}`, {
          want: placeWant(sum, cFrame),
          kind: "adds" as const,
          atol: 4 * EPS * parts,
          rtol: 4 * EPS
        }])),
        record: (p, t: Readonly<Record<string, Tensor>>) =>
          Ops.addUp(p, made.map(({ cFrame, m, n, parts }, i) => ({
            partial: t[`partial${i}`]!,
            c: { tensor: t[`c${i}`]!, at: cFrame.at!, ld: cFrame.ld! },
            m,
            n,
            parts
          })))
      }
    }
  )

export interface TransposeShape {
  readonly rows: number
  readonly cols: number
  /** Offset and gap of the input. */
  readonly x?: Place
  /** Groups of 4 columns of the output beyond those that hold the input's rows: they become 0. */
  readonly extraGroups?: number
  /** Groups of 4 before the output. */
  readonly out0?: number
}

export const transpose = ({ cols, extraGroups = 0, out0 = 0, rows, x }: TransposeShape): Case =>
  makeCase(
    `transpose ${rows}x${cols}${show(x)} out ${out0}+${extraGroups}`,
    { flops: 0, bytes: 8 * rows * cols },
    (random) => {
      const ldo4 = Math.ceil(rows / 4) + extraGroups
      const input = frame(rows, cols, x, 5)
      const output: Frame = { rows: cols, cols: 4 * ldo4, at: 4 * out0, after: 12 }
      const values = normals(random, rows * cols)
      const want = new Float64Array(cols * 4 * ldo4)
      for (let r = 0; r < rows; r++) for (let c = 0; c < cols; c++) want[c * 4 * ldo4 + r] = values[r * cols + c]!
      return {
        tensors: { x: place(values, input), y: place([], output) },
        outputs: { y: { want: placeWant(want, output), kind: "writes", atol: 0, rtol: 0 } },
        record: (p, t) =>
          p.dispatch(
            Kernels.kernels.transpose,
            { x: t.x!, y: t.y! },
            { rows, cols, in0: input.at!, ldi: input.ld!, out0, ldo4 },
            ldo4 * cols
          )
      }
    }
  )

/** Tensors of `sizes` elements, of which one reads on behind what is asked for. */
export const cast = (...sizes: ReadonlyArray<number>): Case => {
  const n = sizes.reduce((a, b) => a + b, 0)
  return makeCase(`cast ${sizes.join(" + ")}`, { flops: 0, bytes: 8 * n }, (random) => {
    const values = sizes.map((size) => normals(random, size))
    const output: Frame = { rows: 1, cols: n, after: 8 }
    const inputs = Object.fromEntries(values.map((x, i) => [`x${i}`, x]))
    return {
      tensors: { ...inputs, y: place([], output) },
      outputs: { y: { want: placeWant(values.flatMap((x) => [...x]), output), kind: "writes", atol: 0, rtol: 0 } },
      record: (p, t: Readonly<Record<string, Tensor>>) =>
        Ops.cast(p, sizes.map((size, i) => ({ x: t[`x${i}`]!, n: size })), t["y"]!)
    }
  })
}

export const cases: ReadonlyArray<Case> = [
  cast(4),
  cast(300),
  cast(68, 4, 132, 200),
  nn({ m: 1, n: 4, k: 1 }),
  nn({ m: 31, n: 12, k: 31, a: { at: 8, gap: 5 }, b: { at: 8, gap: 4 }, c: { at: 12, gap: 8 } }),
  nn({ m: 65, n: 132, k: 33, mode: "add", c: { at: 4, gap: 4 } }),
  nn({ m: 9, n: 20, k: 65, mode: "residual", c: { at: 8, gap: 4 } }),
  nn({
    m: 37,
    n: 28,
    k: 7,
    segments: [5, 16, 1, 15],
    segmentGap: 12,
    b: { at: 4, gap: 4 },
    c: { at: 16, gap: 12 }
  }),
  nn({ m: 24, n: 72, k: 12, mode: "add", segments: [9, 15], a: { at: 4, gap: 9 } }),
  // several tiles of 64 in each dimension, none full
  nn({ m: 130, n: 76, k: 40, a: { gap: 8 } }),
  nn({ m: 150, n: 68, k: 20, segments: [64, 3, 70, 13], segmentGap: 4 }),
  // as they are, with b as it lies
  nn({ m: 1, n: 4, k: 1, turned: true }),
  nn({ m: 31, n: 12, k: 31, a: { at: 8, gap: 5 }, b: { at: 8, gap: 4 }, c: { at: 12, gap: 8 }, turned: true }),
  nn({ m: 65, n: 132, k: 33, mode: "add", c: { at: 4, gap: 4 }, turned: true }),
  nn({ m: 130, n: 76, k: 40, mode: "residual", a: { gap: 8 }, b: { gap: 12 }, turned: true }),
  nn({ m: 150, n: 68, k: 20, segments: [64, 3, 70, 13], segmentGap: 4, turned: true }),
  nn({ m: 16, n: 72, k: 1057, turned: true }),
  tn({ m: 1, n: 4, k: 1 }),
  tn({ m: 31, n: 12, k: 31, a: { at: 4, gap: 4 }, b: { at: 8, gap: 4 }, c: { at: 12, gap: 8 } }),
  tn({ m: 65, n: 132, k: 33 }),
  tn({ m: 131, n: 64, k: 20, b: { gap: 4 } }),
  // sums long enough to be split
  nn({ m: 16, n: 72, k: 1057 }),
  tn({ m: 16, n: 72, k: 1030 }),
  splitSum(5, 12, 3, false),
  splitSum(33, 28, 2, true),
  splitSums([5, 12, 3], [33, 28, 2], [1, 4, 1]),
  splitSums([9, 20, 2], [3, 8, 4], [40, 4, 2], [2, 132, 3], [7, 12, 2]),
  transpose({ rows: 1, cols: 1 }),
  transpose({ rows: 31, cols: 65, x: { at: 7, gap: 2 }, extraGroups: 2, out0: 3 }),
  transpose({ rows: 65, cols: 31 }),
  transpose({ rows: 64, cols: 12 })
]
