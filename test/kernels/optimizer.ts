/** adamw.wgsl, and reduce.wgsl's sum, sum_of_squares and finish. */
import { HYPER } from "../../src/Model.ts"
import { kernels } from "../../src/Kernels.ts"
import * as Reference from "../reference/ops.ts"
import { type Case, EPS, type Frame, makeCase, normals, place, placeWant, plus, poison } from "./case.ts"

export interface AdamWShape {
  readonly rows: number
  readonly d: number
  readonly decay: boolean
  readonly step: number
  /** Rows before the sinks', halves of a pool of units; with `lazy`, units that are not touched stand still. */
  readonly lazy?: { readonly general: number; readonly halves: 1 | 2; readonly units: number; readonly block: number }
  /** Elements an invocation walks, in groups of 4. */
  readonly each?: number
}

export const adamw = (s: AdamWShape): Case => {
  const { d, decay, each = 1, lazy, rows, step } = s
  const sinks = lazy === undefined ? "" : `, lazy ${lazy.halves} x ${lazy.units} units of ${lazy.block}`
  return makeCase(
    `adamw ${rows}x${d}, step ${step}, decay ${decay ? "on" : "off"}${sinks}, ${each} each`,
    { flops: 14 * rows * d, bytes: 28 * rows * d },
    (random) => {
      const n = rows * d
      const w = normals(random, n)
      const g = normals(random, n)
      const m = normals(random, n, step === 1 ? 0 : 0.3)
      const v = Float32Array.from(random.uniforms(n, 0, step === 1 ? 0 : 0.5))
      // a gradient of 0 on moments of 0: nothing but decay may move it
      g[2] = m[2] = v[2] = 0
      const options = {
        lr: Math.fround(0.01),
        beta1: Math.fround(0.9),
        beta2: Math.fround(0.95),
        eps: Math.fround(1e-8),
        weightDecay: decay ? Math.fround(0.1) : 0,
        step,
        gradScale: Math.fround(random.uniform(0.2, 1))
      }
      const hyper = poison(16)
      hyper[HYPER.learningRate] = options.lr
      hyper[HYPER.beta1] = options.beta1
      hyper[HYPER.beta2] = options.beta2
      hyper[HYPER.eps] = options.eps
      hyper[HYPER.weightDecay] = Math.fround(0.1)
      hyper[HYPER.correction1] = 1 / (1 - options.beta1 ** step)
      hyper[HYPER.correction2] = 1 / (1 - options.beta2 ** step)
      const stats = poison(4)
      stats[2] = options.gradScale
      const units = lazy?.units ?? 1
      const touched = Uint32Array.from({ length: units }, (_, u) => (u === 0 ? 1 : u === 1 ? 0 : random.int(2)))
      const next = Reference.adamw(w, g, m, v, options)
      const frame: Frame = { rows, cols: d, after: 12 }
      const want = { w: placeWant(next.p, frame), m: placeWant(next.m, frame), v: placeWant(next.v, frame) }
      if (lazy !== undefined) {
        for (let row = lazy.general; row < rows; row++) {
          const unit = Math.floor(((row - lazy.general) % (units * lazy.block)) / lazy.block)
          if (touched[unit] === 1) continue
          for (const array of Object.values(want)) array.fill(NaN, row * d, (row + 1) * d)
        }
      }
      const tolerance = { kind: "updates", atol: 16 * EPS, rtol: 16 * EPS } as const
      return {
        tensors: { hyper, stats, touched, g, w: place(w, frame), m: place(m, frame), v: place(v, frame) },
        outputs: {
          w: { want: want.w, ...tolerance },
          m: { want: want.m, ...tolerance },
          v: { want: want.v, ...tolerance }
        },
        record: (p, t) =>
          p.dispatch(
            kernels.adamw,
            t,
            {
              n4: n / 4,
              decay: decay ? 1 : 0,
              lazy: lazy === undefined ? 0 : 1,
              row4: d / 4,
              sinkRow0: lazy?.general ?? 0,
              pool: units * (lazy?.block ?? 1),
              block: lazy?.block ?? 1
            },
            Math.ceil(n / 4 / each)
          )
      }
    }
  )
}

/** `n` counts numbers for sum and groups of 4 for sum_of_squares. */
export const partials = (
  of: "sum" | "sumOfSquares",
  { first, lanes, n }: { readonly n: number; readonly lanes: number; readonly first: number }
): Case => {
  const each = of === "sum" ? 1 : 4
  return makeCase(
    `reduce ${of} of ${n * each} in ${lanes} lanes from ${first}`,
    { flops: n * each * (of === "sum" ? 1 : 2), bytes: 4 * n * each },
    (random) => {
      const x = normals(random, n * each)
      const before = normals(random, lanes)
      const sums = new Float64Array(lanes)
      x.forEach((value, i) => {
        sums[Math.floor(i / each) % lanes]! += of === "sum" ? value : value * value
      })
      const frame: Frame = { rows: 1, cols: lanes, at: first, after: 7 }
      return {
        tensors: { x: place(x, { rows: 1, cols: n * each, after: 8 }), partial: place(before, frame) },
        outputs: {
          partial: {
            want: placeWant(plus(sums, before), frame),
            kind: "adds",
            atol: 16 * EPS * (4 + n / lanes),
            rtol: 8 * EPS
          }
        },
        record: (p, t) => p.dispatch(kernels[of], t, { n, lanes, first, extra: 0 }, lanes)
      }
    }
  )
}

/** The loss out of the first `losses` partials, the norm out of the other `squares`. */
export const finish = (s: {
  readonly losses: number
  readonly squares: number
  /** 0: no clipping. */
  readonly clip: number
  readonly slot: number
}): Case =>
  makeCase(
    `reduce finish: ${s.losses} + ${s.squares} partials, clip ${s.clip}, slot ${s.slot}`,
    { flops: s.losses + s.squares, bytes: 4 * (s.losses + s.squares) },
    (random) => {
      const losses = normals(random, s.losses)
      const squares = Float32Array.from(random.uniforms(s.squares))
      const scale = Math.fround(1 / 29)
      const learningRate = Math.fround(random.uniform())
      const hyper = poison(16)
      hyper[HYPER.learningRate] = learningRate
      hyper[HYPER.gradClip] = s.clip
      hyper[HYPER.lossScale] = scale
      hyper[HYPER.slot] = s.slot
      const loss = losses.reduce((a, b) => a + b, 0) * scale
      const norm = Math.sqrt(squares.reduce((a, b) => a + b, 0))
      const clip = s.clip === 0 ? 1 : Reference.clipScale(norm, s.clip)
      const tolerance = { kind: "writes", atol: 16 * EPS, rtol: 16 * EPS * Math.sqrt(s.losses + s.squares) } as const
      return {
        tensors: { partial: Float32Array.of(...losses, ...squares), hyper, stats: poison(4), history: poison(4 * 5) },
        outputs: {
          stats: { want: placeWant([loss, norm, clip], { rows: 1, cols: 3, after: 1 }), ...tolerance },
          history: {
            want: placeWant([loss, norm, learningRate, 0], {
              rows: 1,
              cols: 4,
              at: 4 * s.slot,
              after: 4 * (4 - s.slot)
            }),
            ...tolerance
          }
        },
        record: (p, t) =>
          p.dispatch(kernels.finish, t, { n: s.losses + s.squares, lanes: 0, first: s.losses, extra: 0 }, 1)
      }
    }
  )

export const cases: ReadonlyArray<Case> = [
  adamw({ rows: 1, d: 4, decay: true, step: 1 }),
  adamw({ rows: 31, d: 12, decay: false, step: 7, each: 4 }),
  adamw({
    rows: 9 + 2 * 40,
    d: 4,
    decay: true,
    step: 3,
    lazy: { general: 9, halves: 2, units: 5, block: 8 },
    each: 4
  }),
  adamw({ rows: 3 + 65, d: 12, decay: true, step: 100, lazy: { general: 3, halves: 1, units: 65, block: 1 } }),
  partials("sum", { n: 1, lanes: 64, first: 0 }),
  partials("sum", { n: 200, lanes: 31, first: 5 }),
  partials("sumOfSquares", { n: 31, lanes: 64, first: 64 }),
  partials("sumOfSquares", { n: 133, lanes: 31, first: 1 }),
  finish({ losses: 1, squares: 1, clip: 0, slot: 0 }),
  finish({ losses: 31, squares: 65, clip: 0.5, slot: 3 }),
  finish({ losses: 64, squares: 64, clip: 1000, slot: 4 })
]
