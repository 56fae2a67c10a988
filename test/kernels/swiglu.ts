/** swiglu.wgsl: forward, backward, with the sinks' coefficients. */
import { kernels } from "../../src/model/Kernels.ts"
import * as Reference from "../reference/ops.ts"
import type { Random } from "../reference/random.ts"
import { type Case, EPS, type Frame, makeCase, normals, place, placeU32, placeWant } from "./case.ts"

export interface SwigluShape {
  readonly rows: number
  readonly general: number
  readonly sink: number
  readonly block: number
  readonly segments: number
  /** Coefficients of the general neurons: 1, or a number of each segment's own. */
  readonly generalScale?: "one" | "random"
  /** Cells between two rows of the coefficient table. */
  readonly coefGap?: number
}

const show = (s: SwigluShape): string =>
  `${s.rows} rows, ${s.general} general + ${s.sink} sinks of block ${s.block}, ${s.segments} segments`

const inputs = (random: Random, s: SwigluShape) => {
  const { block, coefGap = 0, general, rows, segments, sink } = s
  const width = general + sink
  const columns = 1 + sink / block
  const gu = normals(random, rows * 2 * width, 2)
  // gates far out, where exp overflows on one side
  for (const at of random.sample(8, gu.length)) gu[at] = random.int(2) === 0 ? 100 : -100
  const coef = Float32Array.from({ length: segments * columns }, (_, i) => {
    if (i % columns === 0) return s.generalScale === "random" ? random.uniform(0.5, 1.5) : 1
    return [0, 1, random.uniform()][random.int(3)]!
  })
  const coefFrame: Frame = { rows: segments, cols: columns, ld: columns + coefGap }
  const segment = random.ints(rows, segments)
  return {
    width,
    gu,
    coef,
    segment,
    tensors: {
      gu,
      coef: place(coef, coefFrame),
      segment: placeU32(segment, { rows: 1, cols: rows, after: 3 })
    },
    params: { rows, general4: general / 4, sink4: sink / 4, coefStride: columns + coefGap }
  }
}

/** The error of exp grows with its argument; far out, results are so small that only atol counts. */
const tolerance = { kind: "writes", atol: 1e-6, rtol: 256 * EPS } as const

export const forward = (s: SwigluShape): Case =>
  makeCase(
    `swiglu forward: ${show(s)}`,
    { flops: 6 * s.rows * (s.general + s.sink), bytes: 12 * s.rows * (s.general + s.sink) },
    (random) => {
      const { coef, gu, params, segment, tensors, width } = inputs(random, s)
      const frame: Frame = { rows: s.rows, cols: width, after: 12 }
      const want = placeWant(Reference.swiglu(gu, coef, segment, s), frame)
      return {
        tensors: { ...tensors, h: place([], frame) },
        // what a coefficient switches off is off
        outputs: { h: { want, ...tolerance, exactZeros: (i: number) => want[i] === 0 } },
        record: (p, t) => p.dispatch(kernels.swiglu(s.block), t, params, (s.rows * width) / 4)
      }
    }
  )

export const backward = (s: SwigluShape): Case =>
  makeCase(
    `swiglu backward: ${show(s)}`,
    { flops: 12 * s.rows * (s.general + s.sink), bytes: 20 * s.rows * (s.general + s.sink) },
    (random) => {
      const { coef, gu, params, segment, tensors, width } = inputs(random, s)
      const dh = normals(random, s.rows * width)
      const frame: Frame = { rows: s.rows, cols: 2 * width, after: 12 }
      const want = placeWant(Reference.swigluBackward(dh, gu, coef, segment, s), frame)
      return {
        tensors: { ...tensors, dh, dgu: place([], frame) },
        outputs: { dgu: { want, ...tolerance, atol: 1e-5, exactZeros: (i: number) => want[i] === 0 } },
        record: (p, t) => p.dispatch(kernels.swigluBackward(s.block), t, params, (s.rows * width) / 4)
      }
    }
  )

const shapes: ReadonlyArray<SwigluShape> = [
  { rows: 1, general: 4, sink: 0, block: 1, segments: 1 },
  { rows: 31, general: 12, sink: 20, block: 1, segments: 4, coefGap: 3 },
  { rows: 65, general: 20, sink: 48, block: 16, segments: 3, generalScale: "random" },
  { rows: 31, general: 4, sink: 24, block: 8, segments: 5, generalScale: "random", coefGap: 1 }
]

export const cases: ReadonlyArray<Case> = [...shapes.map(forward), ...shapes.map(backward)]
