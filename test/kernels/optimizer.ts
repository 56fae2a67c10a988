/** adamw.wgsl, touched.wgsl, and reduce.wgsl's sum, sum_of_squares, finish and scale_loss. */
import type { Tensor } from "../../src/gpu/Tensor.ts"
import { kernels } from "../../src/model/Kernels.ts"
import { HYPER } from "../../src/model/Pass.ts"
import { movePacked, squaresOfTouched, sumOfSquares, zeroTouched } from "../../src/train/Optimizer.ts"
import * as Reference from "../reference/ops.ts"
import type { Random } from "../reference/random.ts"
import { type Case, EPS, type Frame, makeCase, normals, place, placeWant, plus, poison } from "./case.ts"

interface Sinks {
  readonly general: number
  readonly halves: 1 | 2
  readonly units: number
  readonly block: number
}

export interface AdamWShape {
  readonly rows: number
  readonly d: number
  readonly decay: boolean
  readonly step: number
  /**
   * Rows before the sinks', halves of a pool of units. `update` takes the gradient of units that are not touched for 0,
   * `lazy` does not move them.
   */
  readonly sinks?: Sinks & { readonly kernel: "update" | "lazy" }
  /** Elements an invocation walks, in groups of 4. */
  readonly each?: number
  /** The gradient overflowed: nothing may move. */
  readonly skip?: boolean
}

/** Units 0 and some more are touched, unit 1 is not; in the list's padding stands one that is not. */
const touch = (random: Random, units: number) => {
  const touched = Uint32Array.from({ length: units }, (_, u) => (u === 0 ? 1 : u === 1 ? 0 : random.int(2)))
  const lit = [...touched.keys()].filter((unit) => touched[unit] === 1)
  return { touched, lit, units: Uint32Array.from({ length: units }, (_, i) => lit[i] ?? 1),
    count: Uint32Array.of(lit.length) }
}

const unitOf = ({ block, general, units }: Sinks, row: number): number =>
  Math.floor(((row - general) % (units * block)) / block)

export const adamw = (s: AdamWShape): Case => {
  const { d, decay, each = 1, rows, sinks, skip = false, step } = s
  const show = sinks === undefined ? "" : `, ${sinks.kernel} ${sinks.halves} x ${sinks.units} units of ${sinks.block}`
  return makeCase(
    `adamw ${rows}x${d}, step ${step}, decay ${decay ? "on" : "off"}${show}, ${each} each${skip ? ", skipped" : ""}`,
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
      const stats = poison(6)
      stats[2] = options.gradScale
      stats[3] = skip ? 1 : 0
      stats[4] = 1 / (1 - options.beta1 ** step)
      stats[5] = 1 / (1 - options.beta2 ** step)
      const { count, touched, units } = touch(random, sinks?.units ?? 1)
      const given = Float32Array.from(g)
      const still: Array<number> = []
      for (let row = 0; row < rows; row++) {
        const untouched = sinks !== undefined && row >= sinks.general && touched[unitOf(sinks, row)] === 0
        if (untouched && sinks.kernel === "update") {
          g.fill(0, row * d, (row + 1) * d)
          given.set(poison(d), row * d)
        }
        if (skip || untouched && sinks.kernel === "lazy") still.push(row)
      }
      const sinkRate = sinks === undefined ? 7 : 3
      const next = Reference.adamw(w, g, m, v, options)
      // the sinks' rate multiplies the step, not the decay
      const unhurried = Reference.adamw(w, g, m, v, { ...options, weightDecay: 0 })
      for (let i = (sinks?.general ?? rows) * d; i < n; i++) next.p[i]! += (sinkRate - 1) * (unhurried.p[i]! - w[i]!)
      const frame: Frame = { rows, cols: d, after: 12 }
      const want = { w: placeWant(next.p, frame), m: placeWant(next.m, frame), v: placeWant(next.v, frame) }
      for (const row of still) for (const array of Object.values(want)) array.fill(NaN, row * d, (row + 1) * d)
      const tolerance = { kind: "updates", atol: 16 * EPS, rtol: 16 * EPS } as const
      const params = {
        decay: decay ? 1 : 0,
        row4: d / 4,
        sinkRow0: sinks?.general ?? 0,
        pool: (sinks?.units ?? 1) * (sinks?.block ?? 1),
        block: sinks?.block ?? 1,
        sinkRate
      }
      const own = { hyper, stats, g: given, w: place(w, frame), m: place(m, frame), v: place(v, frame) }
      return {
        tensors: sinks?.kernel === "lazy" ? { ...own, units, count } : { ...own, touched },
        outputs: {
          w: { want: want.w, ...tolerance },
          m: { want: want.m, ...tolerance },
          v: { want: want.v, ...tolerance }
        },
        record: (p, t: Record<string, Tensor>) =>
          sinks?.kernel === "lazy"
            ? p.dispatch(
              kernels.adamwLazy,
              t as never,
              { ...params, n4: (sinks.general * d) / 4, halves: sinks.halves },
              Math.ceil(n / 4 / each)
            )
            : p.dispatch(
              kernels.adamw,
              t as never,
              { ...params, n4: n / 4, sinks: sinks === undefined ? 0 : 1 },
              Math.ceil(n / 4 / each)
            )
      }
    }
  )
}

/** The elements of a weight that belong to touched units, in the order of touched.wgsl: unit after unit, halves, rows. */
const elementsOf = (
  lit: ReadonlyArray<number>,
  { block, d, general, halves, units }: Sinks & { readonly d: number }
): ReadonlyArray<number> =>
  lit.flatMap((unit) =>
    Array.from({ length: halves * block * d }, (_, e) => {
      const half = Math.floor(e / (block * d))
      return (general + half * units * block + unit * block) * d + (e % (block * d))
    })
  )

/** touched.wgsl: rows of touched units of a gradient collected, or spread again. */
export const packedRows = (of: "collect" | "spread", s: Sinks & { readonly d: number }): Case => {
  const { block, d, general, halves, units: unitCount } = s
  const cells = (general + halves * unitCount * block) * d
  return makeCase(
    `touched ${of} ${unitCount} units of ${block} x ${d}, ${general} + ${halves}`,
    { flops: 0, bytes: 8 * cells },
    (random) => {
      const { count, lit, units } = touch(random, unitCount)
      const elements = elementsOf(lit, s)
      const most = halves * unitCount * block * d
      const [from, to] = of === "collect" ? [cells, most] : [most, cells]
      const x = normals(random, from)
      const want = new Float64Array(to).fill(NaN)
      elements.forEach((at, e) => {
        if (of === "collect") want[e] = x[at]!
        else want[at] = x[e]!
      })
      return {
        tensors: { units, count, x, y: normals(random, to) },
        outputs: { y: { want, kind: "writes" as const, atol: 0, rtol: 0 } },
        record: (p, t: Readonly<Record<string, Tensor>>) => {
          const touched = { units: t["units"]!, count: t["count"]!, row4: d / 4, pool: unitCount * block, block }
          movePacked(p, of, touched, { g: t[of === "collect" ? "x" : "y"]!, row0: general, halves },
            t[of === "collect" ? "y" : "x"]!, most / 4)
        }
      }
    }
  )
}

/** touched.wgsl: rows of touched units of several gradients cleared, or their squares summed in lanes of each. */
export const touchedRows = (
  of: "zero" | "sum_of_squares",
  s: {
    readonly units: number
    readonly block: number
    readonly d: number
    readonly weights: ReadonlyArray<{ readonly general: number; readonly halves: 1 | 2; readonly lanes: number }>
  }
): Case => {
  const { block, d, units: unitCount, weights } = s
  const pool = unitCount * block
  const rowsOf = ({ general, halves }: typeof weights[number]): number => general + halves * pool
  const cells = weights.reduce((sum, one) => sum + rowsOf(one) * d, 0)
  const shown = weights.map(({ general, halves, lanes }) => `${general} + ${halves}${lanes > 0 ? ` in ${lanes}` : ""}`)
  return makeCase(
    `touched ${of} ${unitCount} units of ${block} x ${d}, weights of ${shown.join(", ")}`,
    { flops: 2 * cells, bytes: 4 * cells },
    (random) => {
      const { count, lit, units } = touch(random, unitCount)
      const lanes = weights.reduce((sum, one) => sum + one.lanes, 0)
      const before = normals(random, lanes)
      const sums = new Float64Array(lanes)
      const start = 3
      let lane = 0
      const made = weights.map((weight) => {
        const { general, halves } = weight
        const g = normals(random, rowsOf(weight) * d)
        const elements = elementsOf(lit, { block, d, general, halves, units: unitCount })
        if (weight.lanes > 0) {
          elements.forEach((at, e) => {
            sums[lane + Math.floor(e / 4) % weight.lanes]! += g[at]! * g[at]!
          })
        }
        const cleared = new Float64Array(g.length).fill(NaN)
        for (const at of elements) cleared[at] = 0
        const first = start + lane
        lane += weight.lanes
        return { g, cleared, row0: general, halves, lanes: weight.lanes, first, most: elements.length }
      })
      const gradients = Object.fromEntries(made.map(({ g }, i) => [`g${i}`, g]))
      const frame: Frame = { rows: 1, cols: lanes, at: start, after: 7 }
      const most = Math.max(...made.map(({ lanes, most }) => most / 4 / Math.max(1, lanes)))
      return {
        tensors: of === "zero"
          ? { units, count, ...gradients }
          : { units, count, ...gradients, partial: place(before, frame) },
        outputs: of === "zero"
          ? Object.fromEntries(
            made.map(({ cleared }, i) => [`g${i}`, { want: cleared, kind: "writes" as const, atol: 0, rtol: 0 }])
          )
          : {
            partial: { want: placeWant(plus(sums, before), frame), kind: "adds" as const, atol: 16 * EPS * (4 + most),
              rtol: 8 * EPS }
          },
        record: (p, t: Readonly<Record<string, Tensor>>) => {
          const touched = { units: t["units"]!, count: t["count"]!, row4: d / 4, pool, block }
          const list = made.map(({ first, halves, lanes, row0 }, i) => ({ g: t[`g${i}`]!, row0, halves, lanes, first }))
          if (of === "zero") zeroTouched(p, touched, list, cells / 4)
          else squaresOfTouched(p, touched, list, t["partial"]!)
        }
      }
    }
  )
}

export const sum = (
  { first, lanes, n }: { readonly n: number; readonly lanes: number; readonly first: number }
): Case =>
  makeCase(`reduce sum of ${n} in ${lanes} lanes from ${first}`, { flops: n, bytes: 4 * n }, (random) => {
    const x = normals(random, n)
    const before = normals(random, lanes)
    const sums = new Float64Array(lanes)
    x.forEach((value, i) => {
      sums[i % lanes]! += value
    })
    const frame: Frame = { rows: 1, cols: lanes, at: first, after: 7 }
    return {
      tensors: { x: place(x, { rows: 1, cols: n, after: 8 }), partial: place(before, frame) },
      outputs: {
        partial: {
          want: placeWant(plus(sums, before), frame),
          kind: "adds",
          atol: 16 * EPS * (4 + n / lanes),
          rtol: 8 * EPS
        }
      },
      record: (p, t) => p.dispatch(kernels.sum, t, { n, lanes, first }, lanes)
    }
  })

/** One to six tensors of `n` groups of 4 numbers, their lanes one behind the other from `first` on. */
export const squares = (
  { first, of }: { readonly first: number; readonly of: ReadonlyArray<{ readonly n: number; readonly lanes: number }> }
): Case => {
  const lanes = of.reduce((sum, one) => sum + one.lanes, 0)
  const n = of.reduce((sum, one) => sum + one.n, 0)
  return makeCase(
    `reduce squares of ${of.map((one) => `${one.n * 4} in ${one.lanes}`).join(", ")} lanes from ${first}`,
    { flops: 8 * n, bytes: 16 * n },
    (random) => {
      const before = normals(random, lanes)
      const frame: Frame = { rows: 1, cols: lanes, at: first, after: 7 }
      const tensors: Record<string, Float32Array> = {}
      const sums = new Float64Array(lanes)
      let at = 0
      const parts = of.map((one, i) => {
        const x = normals(random, one.n * 4)
        const start = at
        x.forEach((value, k) => {
          sums[start + Math.floor(k / 4) % one.lanes]! += value * value
        })
        tensors[`x${i}`] = place(x, { rows: 1, cols: one.n * 4, after: 8 })
        at += one.lanes
        return { ...one, first: first + start }
      })
      const most = Math.max(...of.map((one) => one.n / one.lanes))
      return {
        tensors: { ...tensors, partial: place(before, frame) },
        outputs: {
          partial: { want: placeWant(plus(sums, before), frame), kind: "adds", atol: 16 * EPS * (4 + most),
            rtol: 8 * EPS }
        },
        record: (p, t) => sumOfSquares(p, parts.map((part, i) => ({ ...part, x: t[`x${i}`]! })), t["partial"]!)
      }
    }
  )
}

/** The numbers from `start` on in runs, a sum each. */
export const fold = (
  s: { readonly n: number; readonly lanes: number; readonly start: number; readonly first: number }
): Case =>
  makeCase(
    `reduce fold of ${s.n} from ${s.start} in ${s.lanes} lanes from ${s.first}`,
    { flops: s.n, bytes: 4 * s.n },
    (random) => {
      const x = normals(random, s.n)
      const each = Math.ceil(s.n / s.lanes)
      const sums = new Float64Array(s.lanes)
      x.forEach((value, i) => {
        sums[Math.floor(i / each)]! += value
      })
      const frame: Frame = { rows: 1, cols: s.lanes, at: s.first, after: 7 }
      return {
        tensors: {
          x: place(x, { rows: 1, cols: s.n, at: s.start, after: 8 }),
          partial: place([], frame)
        },
        outputs: {
          partial: { want: placeWant(sums, frame), kind: "writes", atol: 16 * EPS * (4 + each), rtol: 8 * EPS }
        },
        record: (p, t) => p.dispatch(kernels.fold, t, s, s.lanes * kernels.fold.constants["WX"]!)
      }
    }
  )

/** The loss out of the first `losses` partials, the norm out of the other `squares`; the next loss scale. */
export const finish = (s: {
  readonly losses: number
  readonly squares: number
  /** 0: no clipping. */
  readonly clip: number
  readonly slot: number
  /** Adaptive loss scaling: the scale, the steps since it changed and taken, and whether the gradient overflowed. */
  readonly scaler?: {
    readonly scale: number
    readonly steps: number
    readonly taken?: number
    readonly skipped?: readonly [soFar: number, inARow: number]
    readonly overflow?: "infinite" | "NaN"
  }
}): Case =>
  makeCase(
    `reduce finish: ${s.losses} + ${s.squares} partials, clip ${s.clip}, slot ${s.slot}` +
      (s.scaler === undefined ? "" : `, scale ${s.scaler.scale} for ${s.scaler.steps} steps, ${s.scaler.overflow}`),
    { flops: s.losses + s.squares, bytes: 4 * (s.losses + s.squares) },
    (random) => {
      const losses = normals(random, s.losses)
      const squares = Float32Array.from(random.uniforms(s.squares))
      const { overflow, scale: lossScale = 1, skipped = [0, 0], steps = 0, taken = 0 } = s.scaler ?? {}
      if (overflow !== undefined) squares[s.squares >> 1] = overflow === "NaN" ? NaN : Infinity
      const scale = Math.fround(1 / 29)
      const learningRate = Math.fround(random.uniform())
      const hyper = poison(16)
      hyper[HYPER.learningRate] = learningRate
      hyper[HYPER.gradClip] = s.clip
      hyper[HYPER.lossScale] = scale
      hyper[HYPER.slot] = s.slot
      const betas = [hyper[HYPER.beta1] = Math.fround(0.9), hyper[HYPER.beta2] = Math.fround(0.999)]
      const [c1, c2] = betas.map((beta) => 1 - beta ** taken)
      const corrections = s.scaler === undefined
        ? [hyper[HYPER.correction1] = 3, hyper[HYPER.correction2] = 5]
        : betas.map((beta) =>
          // before a first step there is nothing to correct
          overflow !== undefined && taken === 0 ? 1 : 1 / (1 - beta ** (overflow === undefined ? taken + 1 : taken))
        )
      const loss = losses.reduce((a, b) => a + b, 0) * scale
      const norm = overflow === undefined ? Math.sqrt(squares.reduce((a, b) => a + b, 0)) / lossScale : 0
      const clip = s.clip === 0 ? 1 : Reference.clipScale(norm, s.clip)
      const skip = overflow === undefined ? 0 : 1
      const tolerance = {
        // a second run finds another loss scale
        kind: s.scaler === undefined ? "writes" : "updates",
        atol: 16 * EPS,
        rtol: 16 * EPS * Math.sqrt(s.losses + s.squares)
      } as const
      const history: Frame = { rows: 1, cols: 8, at: 8 * s.slot, after: 8 * (4 - s.slot) }
      const next = overflow !== undefined
        ? [lossScale / 2, 0, c1!, c2!, skipped[0] + 1, skipped[1] + 1]
        : [
          ...steps >= 1999 ? [lossScale * 2, 0] : [lossScale, steps + 1],
          ...betas.map((beta) => 1 - beta ** (taken + 1)),
          skipped[0],
          0
        ]
      const line = [...skip === 0 ? [0] : [1], ...s.scaler === undefined ? [0, 0] : [next[5]!, next[4]!], 0]
      return {
        tensors: {
          partial: Float32Array.of(...losses, ...squares),
          hyper,
          stats: poison(6),
          history: poison(8 * 5),
          scaler: s.scaler === undefined ? poison(6) : Float32Array.of(lossScale, steps, c1!, c2!, ...skipped)
        },
        outputs: {
          stats: {
            want: Float64Array.of(loss, norm, skip === 1 ? 0 : clip / lossScale, skip, ...corrections),
            ...tolerance
          },
          history: { want: placeWant([loss, norm, learningRate, lossScale, ...line], history), ...tolerance },
          scaler: {
            want: s.scaler === undefined ? new Float64Array(6).fill(NaN) : Float64Array.from(next),
            kind: "updates",
            atol: 0,
            rtol: 4 * EPS
          }
        },
        record: (p, t) =>
          p.dispatch(
            kernels.finish,
            t,
            { n: s.losses + s.squares, first: s.losses, adaptive: s.scaler === undefined ? 0 : 1 },
            1
          )
      }
    }
  )

const scaleLoss: Case = makeCase("reduce scale_loss", { flops: 1, bytes: 12 }, (random) => {
  const hyper = normals(random, 16)
  const want = new Float64Array(16).fill(NaN)
  want[HYPER.gradientScale] = hyper[HYPER.lossScale]! * 1024
  return {
    tensors: { scaler: Float32Array.of(1024, 3), hyper },
    outputs: { hyper: { want, kind: "writes", atol: 0, rtol: 0 } },
    record: (p, t) => p.dispatch(kernels.scaleLoss, t, {}, 1)
  }
})

export const cases: ReadonlyArray<Case> = [
  adamw({ rows: 1, d: 4, decay: true, step: 1 }),
  adamw({ rows: 31, d: 12, decay: false, step: 7, each: 4 }),
  adamw({
    rows: 9 + 2 * 40,
    d: 4,
    decay: true,
    step: 3,
    sinks: { kernel: "update", general: 9, halves: 2, units: 5, block: 8 },
    each: 4
  }),
  adamw({ rows: 3 + 65, d: 12, decay: true, step: 100,
    sinks: { kernel: "update", general: 3, halves: 1, units: 65, block: 1 } }),
  adamw({
    rows: 9 + 2 * 40,
    d: 12,
    decay: true,
    step: 3,
    sinks: { kernel: "lazy", general: 9, halves: 2, units: 5, block: 8 },
    each: 4
  }),
  adamw({ rows: 3 + 65, d: 4, decay: false, step: 9,
    sinks: { kernel: "lazy", general: 3, halves: 1, units: 65, block: 1 } }),
  adamw({ rows: 31, d: 12, decay: true, step: 7, skip: true }),
  adamw({
    rows: 8 + 40,
    d: 12,
    decay: true,
    step: 3,
    sinks: { kernel: "lazy", general: 8, halves: 1, units: 5, block: 8 },
    skip: true
  }),
  touchedRows("zero", { units: 7, block: 8, d: 12, weights: [{ general: 5, halves: 2, lanes: 0 }] }),
  touchedRows("zero", {
    units: 65,
    block: 1,
    d: 36,
    weights: [1, 2, 1, 2, 2, 1].map((halves, i) => ({ general: 3 * i, halves: halves as 1 | 2, lanes: 0 }))
  }),
  packedRows("collect", { units: 7, block: 8, d: 12, general: 5, halves: 2 }),
  packedRows("collect", { units: 65, block: 1, d: 36, general: 0, halves: 1 }),
  packedRows("spread", { units: 7, block: 8, d: 12, general: 5, halves: 2 }),
  packedRows("spread", { units: 65, block: 1, d: 36, general: 0, halves: 1 }),
  touchedRows("sum_of_squares", { units: 7, block: 8, d: 12, weights: [{ general: 5, halves: 2, lanes: 31 }] }),
  touchedRows("sum_of_squares", {
    units: 65,
    block: 1,
    d: 4,
    weights: [64, 31, 65, 1, 64].map((lanes, i) => ({ general: i, halves: i % 2 === 0 ? 1 as const : 2 as const,
      lanes })
    )
  }),
  sum({ n: 1, lanes: 64, first: 0 }),
  sum({ n: 200, lanes: 31, first: 5 }),
  fold({ n: 5, lanes: 1, start: 3, first: 2 }),
  fold({ n: 1000, lanes: 3, start: 0, first: 0 }),
  // more lanes than numbers: the last run is empty
  fold({ n: 6, lanes: 5, start: 7, first: 1 }),
  squares({ first: 64, of: [{ n: 31, lanes: 64 }] }),
  squares({ first: 1, of: [{ n: 133, lanes: 31 }, { n: 1, lanes: 64 }, { n: 700, lanes: 64 }] }),
  squares({ first: 0, of: [7, 64, 65, 1, 128, 300].map((n) => ({ n, lanes: 64 })) }),
  finish({ losses: 1, squares: 1, clip: 0, slot: 0 }),
  finish({ losses: 31, squares: 65, clip: 0.5, slot: 3 }),
  finish({ losses: 64, squares: 64, clip: 1000, slot: 4 }),
  finish({ losses: 31, squares: 65, clip: 0.001, slot: 1, scaler: { scale: 1024, steps: 7 } }),
  finish({ losses: 31, squares: 65, clip: 0.5, slot: 2, scaler: { scale: 1024, steps: 1999 } }),
  finish({ losses: 3, squares: 65, clip: 0.5, slot: 2, scaler: { scale: 1024, steps: 7, overflow: "infinite" } }),
  finish({ losses: 3, squares: 65, clip: 0.5, slot: 2, scaler: { scale: 2, steps: 1999, overflow: "NaN" } }),
  // a skipped step does not count in the corrections
  finish({ losses: 31, squares: 65, clip: 0.5, slot: 1, scaler: { scale: 64, steps: 3, taken: 5, skipped: [2, 0] } }),
  finish({
    losses: 3,
    squares: 65,
    clip: 0.5,
    slot: 0,
    scaler: { scale: 64, steps: 3, taken: 5, skipped: [2, 1], overflow: "infinite" }
  }),
  scaleLoss
]
