/** rms_norm.wgsl: forward, backward_x, and backward_w with reduce.wgsl's columns. */
import * as Kernels from "../../src/model/Kernels.ts"
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
        p.dispatch(kernel, t, { rows, n4: d / 4, eps, block: 32, add: 0 }, grid(rows))
      }
    }
  })
}

export const backwardX = (s: NormShape, add: boolean): Case =>
  makeCase(
    `rms_norm backward_x ${s.rows}x${s.d} ${add ? "add" : "store"}`,
    { flops: 8 * s.rows * s.d, bytes: (add ? 16 : 12) * s.rows * s.d },
    (random) => {
      const { d, rows } = s
      const { dy, rstd, w, x } = inputs(random, s)
      const before = normals(random, rows * d)
      const { dx } = Reference.rmsNormBackward(dy, x, w, rstd)
      const output: Frame = { rows, cols: d, after: 12 }
      return {
        tensors: { x, w, dy, rstd, dx: place(add ? before : [], output) },
        outputs: {
          dx: {
            want: placeWant(add ? plus(dx, before) : dx, output),
            kind: add ? "adds" : "writes",
            // small rows have an rstd near 10; the gradient of rows of zeros is a plain product
            atol: 16 * EPS * (d + 8) * 10,
            rtol: 8 * EPS
          }
        },
        record: (p, t) => {
          const { grid, kernel } = Kernels.rmsNormBackwardX(p.target)
          p.dispatch(kernel, t, { rows, n4: d / 4, eps, block: 32, add: add ? 1 : 0 }, grid(rows))
        }
      }
    }
  )

/** Both stages: partial sums of blocks of rows, then their sum added to the weight's gradient. */
export const backwardW = (s: NormShape): Case => {
  const { block = 32, d, rows } = s
  return makeCase(
    `rms_norm backward_w ${rows}x${d} in blocks of ${block}, columns`,
    { flops: 3 * rows * d, bytes: 8 * rows * d },
    (random) => {
      const { dy, rstd, w, x } = inputs(random, s)
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
      const before = normals(random, d)
      const { dweight } = Reference.rmsNormBackward(dy, x, w, rstd)
      const partials: Frame = { rows: blocks, cols: d, after: 12 }
      const output: Frame = { rows: 1, cols: d, after: 8 }
      const tolerance = { atol: 32 * EPS * (rows + 4), rtol: 8 * EPS }
      return {
        tensors: { x, dy, rstd, partial: place([], partials), dw: place(before, output) },
        outputs: {
          partial: { want: placeWant(partial, partials), kind: "writes", ...tolerance },
          dw: { want: placeWant(plus(dweight, before), output), kind: "adds", ...tolerance }
        },
        record: (p, t) => {
          p.dispatch(
            Kernels.kernels.rmsNormBackwardW,
            { x: t.x!, dy: t.dy!, rstd: t.rstd!, partial: t.partial! },
            { rows, n4: d / 4, eps, block, add: 0 },
            blocks * (d / 4)
          )
          const columns = Kernels.columns(p.target)
          p.dispatch(
            columns.kernel,
            { x: t.partial!, y: t.dw! },
            { n: blocks, lanes: d / 4, first: 0 },
            columns.grid(d / 4)
          )
        }
      }
    }
  )
}

export const cases: ReadonlyArray<Case> = [
  forward({ rows: 1, d: 4 }),
  forward({ rows: 31, d: 12 }),
  forward({ rows: 65, d: 132 }),
  // more groups of four than a workgroup has invocations
  forward({ rows: 3, d: 1036 }),
  // whose squares overflow
  forward({ rows: 6, d: 12, size: 1e20 }),
  forward({ rows: 6, d: 1036, size: 1e30 }),
  backwardX({ rows: 3, d: 1036 }, false),
  backwardX({ rows: 1, d: 4 }, false),
  backwardX({ rows: 31, d: 36 }, false),
  backwardX({ rows: 65, d: 12 }, true),
  backwardW({ rows: 1, d: 4 }),
  backwardW({ rows: 65, d: 12 }),
  backwardW({ rows: 31, d: 132, block: 8 })
]
