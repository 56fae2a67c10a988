/** rms_norm.wgsl and reduce.wgsl's columns. */
import type { Tensor } from "../../src/gpu/Tensor.ts"
import * as Kernels from "../../src/model/Kernels.ts"
import * as Ops from "../../src/model/Ops.ts"
import * as Reference from "../reference/ops.ts"
import type { Random } from "../reference/random.ts"
import { type Case, EPS, type Frame, makeCase, normals, place, placeWant, plus } from "./case.ts"

export interface NormShape {
  readonly rows: number
  readonly d: number
  /** Rows that a partial sum of backward_w covers. */
  readonly block?: number
  /** What the rows are multiplied with besides. Default 1. */
  readonly size?: number
}

const eps = 1e-5

/** Rows of very different size: normal, a thousand times that, a tenth, and all zeros. */
const inputs = (random: Random, { d, rows, size: all = 1 }: NormShape) => {
  const x = normals(random, rows * d)
  for (let row = 0; row < rows; row++) {
    const size = row % 5 === 1 ? 1000 : row % 5 === 2 ? 0.1 : row % 5 === 4 ? 0 : 1
    for (let i = 0; i < d; i++) x[row * d + i]! *= size * all
  }
  const w = normals(random, d)
  const { rstd, y } = Reference.rmsNorm(x, w, eps)
  return { x, w, y, rstd: Float32Array.from(rstd), dy: normals(random, rows * d) }
}

export const forward = (s: NormShape): Case => {
  const name = `rms_norm forward ${s.rows}x${s.d}${s.size === undefined ? "" : ` times ${s.size}`}`
  return makeCase(name, { flops: 4 * s.rows * s.d, bytes: 8 * s.rows * s.d }, (random) => {
    const { d, rows } = s
    const { rstd, w, x, y } = inputs(random, s)
    const output: Frame = { rows, cols: d, after: 12 }
    const perRow: Frame = { rows: 1, cols: rows, after: 5 }
    const tolerance = { kind: "writes", atol: 1e-30 / (s.size ?? 1), rtol: 4 * EPS * (d + 8) } as const
    return {
      tensors: { x, w, y: place([], output), rstd: place([], perRow) },
      outputs: {
        y: { want: placeWant(y, output), ...tolerance },
        rstd: { want: placeWant(rstd, perRow), ...tolerance }
      },
      record: (p, t) => {
        const { grid, kernel } = Kernels.rmsNorm(p.target)
        p.dispatch(kernel, t, { rows, n4: d / 4, eps, block: 32, add: 0, first: 0 }, grid(rows))
      }
    }
  })
}

/** The gradient of x, and sums of blocks of rows of that of w; `copy`: and x's in the type of dy, as GPUs leave it. */
export const backward = (s: NormShape, add: boolean, copy = false): Case =>
  makeCase(
    `rms_norm backward ${s.rows}x${s.d} ${add ? "add" : "store"}${
      s.block === undefined ? "" : ` in blocks of ${s.block}`
    }${copy ? ", copied" : ""}`,
    { flops: 11 * s.rows * s.d, bytes: (add ? 16 : 12) * s.rows * s.d, ...(copy ? { only: "gpu" } : {}) },
    (random) => {
      const { block = 32, d, rows } = s
      const { dy, rstd, w, x } = inputs(random, s)
      const before = normals(random, rows * d)
      const { dx } = Reference.rmsNormBackward(dy, x, w, rstd)
      const blocks = Math.ceil(rows / block)
      const partial = new Float64Array(blocks * d)
      for (let b = 0; b < blocks; b++) {
        const [from, to] = [b * block, Math.min(rows, (b + 1) * block)]
        const own = Reference.rmsNormBackward(
          dy.subarray(from * d, to * d),
          x.subarray(from * d, to * d),
          w,
          rstd.subarray(from, to)
        )
        partial.set(own.dweight, b * d)
      }
      const output: Frame = { rows, cols: d, after: 12 }
      const partials: Frame = { rows: blocks, cols: d, at: 8, after: 12 }
      const want = placeWant(add ? plus(dx, before) : dx, output)
      // small rows have an rstd near 10; the gradient of rows of zeros is a plain product
      const tolerance = { atol: 16 * EPS * (d + 8) * 10, rtol: 8 * EPS }
      return {
        tensors: {
          x,
          w,
          dy,
          rstd,
          dx: place(add ? before : [], output),
          partial: place([], partials),
          ...(copy ? { copy: place([], output) } : {})
        },
        outputs: {
          dx: { want, kind: add ? "adds" : "writes", ...tolerance },
          partial: {
            want: placeWant(partial, partials),
            kind: "writes",
            atol: 32 * EPS * (rows + 4),
            rtol: 8 * EPS
          },
          ...(copy ? { copy: { want, kind: add ? "updates" as const : "writes" as const, ...tolerance } } : {})
        },
        record: (p, t: Readonly<Record<string, Tensor>>) =>
          Ops.normGradient(
            p,
            { x: t.x!, w: t.w!, dy: t.dy!, rstd: t.rstd!, dx: t.dx!, partial: t.partial!, copy: t.copy },
            { rows, n4: d / 4, eps, block, add: add ? 1 : 0, first: 2 }
          )
      }
    }
  )

/** reduce.wgsl's columns: the sums of `rows` of d numbers, several behind each other, into rows that lie apart. */
export const columns = (s: { readonly rows: number; readonly d: number; readonly sums: number }): Case =>
  makeCase(
    `columns of ${s.sums} times ${s.rows}x${s.d}`,
    { flops: s.sums * s.rows * s.d, bytes: 4 * s.sums * s.rows * s.d },
    (random) => {
      const { d, rows, sums } = s
      const x = normals(random, sums * rows * d)
      const before = normals(random, sums * d)
      const total = new Float64Array(sums * d)
      x.forEach((value, i) => {
        total[Math.floor(i / (rows * d)) * d + i % d]! += value
      })
      const input: Frame = { rows: sums * rows, cols: d, at: 4 }
      const output: Frame = { rows: sums, cols: d, at: 8, ld: d + 12, after: 8 }
      return {
        tensors: { x: place(x, input), y: place(before, output) },
        outputs: {
          y: { want: placeWant(plus(total, before), output), kind: "adds", atol: 16 * EPS * (rows + 4), rtol: 8 * EPS }
        },
        record: (p, t) => {
          const { grid, kernel } = Kernels.columns(p.target)
          p.dispatch(
            kernel,
            t,
            { n: rows, lanes: d / 4, count: sums, x0: 1, y0: 2, stride: output.ld! / 4 },
            grid((sums * d) / 4)
          )
        }
      }
    }
  )

export const cases: ReadonlyArray<Case> = [
  forward({ rows: 1, d: 4 }),
  forward({ rows: 31, d: 12 }),
  forward({ rows: 65, d: 132 }),
  // more groups of four than a workgroup has invocations
  forward({ rows: 3, d: 1036 }),
  // whose squares overflow
  forward({ rows: 6, d: 12, size: 1e20 }),
  forward({ rows: 6, d: 1036, size: 1e30 }),
  backward({ rows: 3, d: 1036 }, false),
  backward({ rows: 1, d: 4 }, false),
  backward({ rows: 31, d: 36 }, false),
  backward({ rows: 65, d: 12 }, true),
  backward({ rows: 31, d: 132, block: 8 }, true),
  backward({ rows: 70, d: 132, block: 16 }, false),
  backward({ rows: 65, d: 12 }, true, true),
  backward({ rows: 33, d: 516, block: 16 }, false, true),
  columns({ rows: 1, d: 4, sums: 1 }),
  columns({ rows: 70, d: 36, sums: 3 }),
  columns({ rows: 5, d: 132, sums: 2 })
]
