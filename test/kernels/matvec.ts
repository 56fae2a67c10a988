/** matvec.wgsl: products of few rows, with weights of all rows or of each row's own sinks. */
import * as Kernels from "../../src/model/Kernels.ts"
import * as Reference from "../reference/ops.ts"
import { type Case, EPS, type Frame, makeCase, normals, place, placeU32, placeWant, plus } from "./case.ts"

export interface MatvecShape {
  readonly kind: "nt" | "nn"
  readonly rows: number
  readonly n: number
  readonly k: number
  readonly mode?: "store" | "add" | "residual"
  /** Rows of W before the first that is read. */
  readonly before?: number
  /** Elements of a row of X, and of Y, before and behind those of the product. */
  readonly gap?: number
  /** Each row of X has sinks of its own: units it lights, neurons of a unit, units there are, matrices of such neurons. */
  readonly sinks?: { readonly slots: number; readonly block: number; readonly units: number; readonly halves: number }
}

export const matvec = (s: MatvecShape): Case => {
  const { before = 0, gap = 0, k, kind, mode = "store", n, rows, sinks } = s
  const own = sinks === undefined ? "" : `, ${sinks.slots} of ${sinks.units} units of ${sinks.block} in ${sinks.halves}`
  return makeCase(
    `matvec ${kind} ${rows}x${n}x${k} ${mode}${gap === 0 ? "" : ` +${gap}`}${
      before === 0 ? "" : ` from ${before}`
    }${own}`,
    { flops: 2 * rows * n * k, bytes: 4 * n * k },
    (random) => {
      const x = normals(random, rows * k)
      const xFrame: Frame = { rows, cols: k, at: gap, ld: k + 2 * gap, after: 4 }
      const yFrame: Frame = { rows, cols: n, at: gap, ld: n + 2 * gap, after: 4 }
      const residualFrame: Frame = { rows, cols: n, ld: n + gap, after: 4 }
      const residual = normals(random, rows * n)
      const initial = normals(random, rows * n)
      const width = kind === "nt" ? k : n
      const halfRows = sinks === undefined ? 0 : sinks.units * sinks.block
      const neurons = sinks === undefined ? (kind === "nt" ? n : k) : sinks.halves * halfRows
      const w = normals(random, neurons * width)
      const units = Uint32Array.from({ length: rows * (sinks?.slots ?? 0) }, () => random.int(sinks!.units))
      /** The weights that a row of X is multiplied with. */
      const weightsOf = (r: number): Float32Array => {
        if (sinks === undefined) return w
        const lit = [...units.subarray(r * sinks.slots, (r + 1) * sinks.slots)]
        const list = Array.from({ length: sinks.halves },
          (_, half) =>
            lit.flatMap((unit) =>
              Array.from({ length: sinks.block }, (_, j) => half * halfRows + unit * sinks.block + j)
            ))
        return Float32Array.from(list.flat().flatMap((row) => [...w.subarray(row * width, (row + 1) * width)]))
      }
      const product = Float64Array.from(Array.from({ length: rows }, (_, r) => {
        const one = x.subarray(r * k, (r + 1) * k)
        return [...(kind === "nt" ? Reference.linear(one, weightsOf(r), k) : Reference.matmul(one, weightsOf(r), k))]
      }).flat())
      const want = mode === "store" ? product : plus(product, mode === "add" ? initial : residual)
      const wFrame: Frame = { rows: neurons, cols: width, at: before * width }
      return {
        tensors: {
          x: place(x, xFrame),
          w: place(w, wFrame),
          residual: place(residual, residualFrame),
          units: sinks === undefined ? placeU32([], { rows: 0, cols: 0, after: 4 }) : units,
          y: place(mode === "add" ? initial : [], yFrame)
        },
        outputs: {
          y: {
            want: placeWant(want, yFrame),
            kind: mode === "add" ? "adds" : "writes",
            atol: 16 * EPS * Math.sqrt(k) * 3,
            rtol: 8 * EPS
          }
        },
        record: (p, t) => {
          const { grid, kernel } = Kernels.matvec(p.target, kind, rows, sinks !== undefined)
          // what is counted in groups of 4: see the kernel
          const of = (elements: number, grouped: boolean) => grouped ? elements / 4 : elements
          const nn = kind === "nn"
          p.dispatch(
            kernel,
            t,
            {
              rows,
              n: of(n, nn),
              k: of(k, !nn),
              mode: mode === "store" ? 0 : mode === "add" ? 1 : 2,
              x0: of(gap, !nn),
              ldx: of(xFrame.ld!, !nn),
              w0: before,
              y0: of(gap, nn),
              ldy: of(yFrame.ld!, nn),
              ldr: of(residualFrame.ld!, nn),
              slots: sinks?.slots ?? 0,
              block: sinks?.block ?? 1,
              halfRows
            },
            grid(n)
          )
        }
      }
    }
  )
}

export const cases: ReadonlyArray<Case> = [
  matvec({ kind: "nt", rows: 1, n: 37, k: 12 }),
  matvec({ kind: "nt", rows: 3, n: 41, k: 140, mode: "residual", gap: 4 }),
  matvec({ kind: "nt", rows: 13, n: 24, k: 64, mode: "add", before: 3 }),
  matvec({ kind: "nt", rows: 3, n: 32, k: 20, gap: 8, sinks: { slots: 2, block: 8, units: 9, halves: 2 }, before: 5 }),
  matvec({ kind: "nn", rows: 1, n: 40, k: 7 }),
  matvec({ kind: "nn", rows: 4, n: 68, k: 133, mode: "residual", gap: 4 }),
  matvec({ kind: "nn", rows: 11, n: 72, k: 64, mode: "add", before: 2 }),
  matvec({ kind: "nn", rows: 5, n: 36, k: 32, mode: "add", gap: 4, sinks: { slots: 4, block: 8, units: 6, halves: 1 },
    before: 5 })
]
