/** sink_pack.wgsl (rows, transposed) and sink_gradient.wgsl: the gathered path's kernels. */
import * as Kernels from "../../src/model/Kernels.ts"
import type { Random } from "../reference/random.ts"
import { type Case, EPS, makeCase, normals, place, placeU32, placeWant, plus, poison } from "./case.ts"

/** `count` distinct units in no particular order. */
const drawUnits = (random: Random, count: number, units: number): Array<number> => {
  const drawn = random.sample(count, units)
  for (let i = drawn.length - 1; i > 0; i--) {
    const j = random.int(i + 1)
    ;[drawn[i], drawn[j]] = [drawn[j]!, drawn[i]!]
  }
  return drawn
}

export interface PackShape {
  /** Segments that the batch holds, and that the packed matrices have room for. */
  readonly count: number
  readonly segments: number
  readonly slots: number
  readonly block: number
  readonly halves: 1 | 2
  readonly row0: number
  readonly units: number
  readonly n: number
}

export const pack = (form: "rows" | "transposed", s: PackShape): Case => {
  const { block, count, halves, n, row0, segments, slots, units } = s
  const width = halves * slots * block
  const pool = units * block
  return makeCase(
    `sink_pack ${form}: ${count} of ${segments} segments, ${halves} x ${slots} units of ${block}, width ${n}`,
    { flops: 0, bytes: 8 * count * width * n },
    (random) => {
      const w = normals(random, (row0 + halves * pool) * n)
      const active = Array.from({ length: count }, () => drawUnits(random, slots, units))
      const want = new Float64Array(count * width * n)
      active.forEach((list, segment) => {
        for (let half = 0; half < halves; half++) {
          list.forEach((unit, slot) => {
            for (let r = 0; r < block; r++) {
              const c = (half * slots + slot) * block + r
              for (let d = 0; d < n; d++) {
                const at = form === "rows" ? c * n + d : d * width + c
                want[segment * width * n + at] = w[(row0 + half * pool + unit * block + r) * n + d]!
              }
            }
          })
        }
      })
      // segments beyond the batch's stay as they are, and so do 8 cells behind the last
      const output = { rows: 1, cols: segments * width * n, after: 8 }
      return {
        tensors: {
          w,
          activeUnits: placeU32(active.flat(), { rows: 1, cols: segments * slots }),
          segmentCount: Uint32Array.of(count),
          out: place([], output)
        },
        outputs: { out: { want: placeWant(want, output), kind: "writes", atol: 0, rtol: 0 } },
        record: (p, t) =>
          p.dispatch(
            form === "rows" ? Kernels.kernels.packRows : Kernels.kernels.packTransposed,
            t,
            { segments, slots, block, halves, row0, halfRows: pool, n },
            (segments * width * n) / 4
          )
      }
    }
  )
}

export interface GradientShape {
  /** Tokens of each segment, and whose units it lights: equal letters light the same ones. */
  readonly segments: ReadonlyArray<readonly [tokens: number, id: string]>
  readonly slots: number
  readonly block: number
  readonly halves: 1 | 2
  readonly row0: number
  readonly units: number
  readonly n: number
  /** Columns of dy before the sinks' and behind them. */
  readonly a0: number
  readonly after: number
  /** The gradient is written, not added. */
  readonly store?: boolean
}

export const gradient = (s: GradientShape): Case => {
  const { a0, after, block, halves, n, row0, segments, slots, store = false, units } = s
  const tokens = segments.reduce((sum, [length]) => sum + length, 0)
  const active = slots * block
  const pool = units * block
  return makeCase(
    `sink_gradient: segments ${segments.map(([length, id]) => `${length}${id}`).join(" ")}, ${halves} x ${slots} of ` +
      `${units} units of ${block}, width ${n}${store ? ", stored" : ""}`,
    { flops: 2 * tokens * halves * active * n, bytes: 4 * tokens * (halves * active + n) },
    (random) => {
      const unitsOf = new Map(
        [...new Set(segments.map(([, id]) => id))].map((id) => [id, drawUnits(random, slots, units)])
      )
      const dyFrame = { rows: tokens, cols: halves * active, at: a0, ld: a0 + halves * active + after }
      const dy = normals(random, tokens * halves * active)
      const x = normals(random, tokens * n)
      const sum = new Float64Array((row0 + halves * pool) * n)
      const range: Array<number> = []
      const usesOf = new Map<number, Array<readonly [segment: number, slot: number]>>()
      let first = 0
      segments.forEach(([length, id], segment) => {
        range.push(first, length)
        unitsOf.get(id)!.forEach((unit, slot) => {
          usesOf.set(unit, [...(usesOf.get(unit) ?? []), [segment, slot]])
          for (let t = first; t < first + length; t++) {
            for (let half = 0; half < halves; half++) {
              for (let r = 0; r < block; r++) {
                const g = dy[t * halves * active + half * active + slot * block + r]!
                const row = row0 + half * pool + unit * block + r
                for (let d = 0; d < n; d++) sum[row * n + d]! += g * x[t * n + d]!
              }
            }
          }
        })
        first += length
      })
      const lit = [...usesOf.keys()].sort((a, b) => a - b)
      const starts = [0]
      for (const unit of lit) starts.push(starts.at(-1)! + usesOf.get(unit)!.length)
      // rows of units that no segment lights keep their bits
      const before = normals(random, sum.length)
      const want = new Float64Array(sum.length).fill(NaN)
      const dw = poison(sum.length)
      for (const unit of lit) {
        for (let half = 0; half < halves; half++) {
          const from = (row0 + half * pool + unit * block) * n
          const to = from + block * n
          if (!store) dw.set(before.subarray(from, to), from)
          want.set(store ? sum.subarray(from, to) : plus(sum.subarray(from, to), before.subarray(from, to)), from)
        }
      }
      const touched = Math.min(units, segments.length * slots)
      // behind the lit units one that is not, used by the first segment: a kernel that reads on adds to its rows
      const dark = Array.from({ length: units }, (_, unit) => unit).find((unit) => !usesOf.has(unit)) ?? 0
      const room = segments.length * slots
      const none = new Array<readonly [number, number]>(room).fill([0, 0])
      const uses = [...lit.flatMap((unit) => usesOf.get(unit)!), ...none]
      return {
        tensors: {
          dy: place(dy, dyFrame),
          x,
          touchedCount: Uint32Array.of(lit.length),
          units: Uint32Array.from({ length: touched }, (_, u) => lit[u] ?? dark),
          unitStart: Uint32Array.from({ length: touched + 1 }, (_, u) => starts[u] ?? u - lit.length + starts.at(-1)!),
          uses: Uint32Array.from(uses.flat()),
          segmentRange: Uint32Array.from(range),
          dw
        },
        outputs: { dw: { want, kind: store ? "writes" : "adds", atol: 16 * EPS * (tokens + 4), rtol: 4 * EPS } },
        record: (p, t) => {
          const { grid, kernel } = Kernels.sinkGradient(p.target)
          p.dispatch(
            kernel,
            t,
            {
              touched,
              n4: n / 4,
              block,
              halves,
              a0: a0 / 4,
              lda4: dyFrame.ld / 4,
              active4: active / 4,
              ldb4: n / 4,
              row0,
              halfRows: pool,
              store: store ? 1 : 0
            },
            grid(touched * halves * block, n)
          )
        }
      }
    }
  )
}

export interface ScatterShape {
  /** Whose units each segment lights, and how many of its slots those fill. */
  readonly segments: ReadonlyArray<readonly [id: string, filled: number]>
  /** Segments that the packed gradient has room for. */
  readonly room: number
  readonly slots: number
  readonly block: number
  /** Of two weights each: its halves, and its rows before the sinks'. */
  readonly weights: readonly [
    readonly [halves: 1 | 2, row0: number],
    readonly [halves: 1 | 2, row0: number]
  ]
  readonly units: number
  readonly n: number
}

export const scatter = (s: ScatterShape): Case => {
  const { block, n, room, segments, slots, units, weights } = s
  const pool = units * block
  const half = room * slots * block
  const [[halves0, first0], [halves1, first1]] = weights
  return makeCase(
    `sink_scatter: segments ${segments.map(([id, filled]) => `${filled}${id}`).join(" ")} of ${room}, ${halves0} and ` +
      `${halves1} x ${slots} of ${units} units of ${block}, width ${n}`,
    { flops: 0, bytes: 4 * (halves0 + halves1) * segments.length * slots * block * n },
    (random) => {
      const unitsOf = new Map(segments.map(([id, filled]) => [id, drawUnits(random, filled, units)]))
      const usesOf = new Map<number, Array<readonly [segment: number, slot: number]>>()
      segments.forEach(([id], segment) =>
        unitsOf.get(id)!.forEach((unit, slot) => usesOf.set(unit, [...(usesOf.get(unit) ?? []), [segment, slot]]))
      )
      const lit = [...usesOf.keys()].sort((a, b) => a - b)
      const starts = [0]
      for (const unit of lit) starts.push(starts.at(-1)! + usesOf.get(unit)!.length)
      const [one, other] = weights.map(([halves, row0]) => {
        const packed = normals(random, halves * half * n)
        const size = (row0 + halves * pool) * n
        const before = normals(random, size)
        const want = new Float64Array(size).fill(NaN)
        const dw = poison(size)
        for (const unit of lit) {
          for (let h = 0; h < halves; h++) {
            for (let r = 0; r < block; r++) {
              for (let d = 0; d < n; d++) {
                const at = (row0 + h * pool + unit * block + r) * n + d
                dw[at] = before[at]!
                want[at] = usesOf.get(unit)!.reduce(
                  (sum, [segment, slot]) => sum + packed[(h * half + (segment * slots + slot) * block + r) * n + d]!,
                  before[at]!
                )
              }
            }
          }
        }
        return { packed, dw, want }
      })
      const touched = Math.min(units, room * slots)
      const dark = Array.from({ length: units }, (_, unit) => unit).find((unit) => !usesOf.has(unit)) ?? 0
      const uses = lit.flatMap((unit) => usesOf.get(unit)!).flat()
      const tolerance = { kind: "adds", atol: 4 * EPS * segments.length, rtol: 4 * EPS } as const
      return {
        tensors: {
          packed0: one!.packed,
          packed1: other!.packed,
          touchedCount: Uint32Array.of(lit.length),
          units: Uint32Array.from({ length: touched }, (_, u) => lit[u] ?? dark),
          unitStart: Uint32Array.from({ length: touched + 1 }, (_, u) => starts[u] ?? u - lit.length + starts.at(-1)!),
          uses: Uint32Array.from({ length: 2 * room * slots }, (_, i) => uses[i] ?? 0),
          dw0: one!.dw,
          dw1: other!.dw
        },
        outputs: { dw0: { want: one!.want, ...tolerance }, dw1: { want: other!.want, ...tolerance } },
        record: (p, t) =>
          p.dispatch(
            Kernels.kernels.sinkScatter,
            t,
            {
              touched,
              n4: n / 4,
              block,
              slots,
              halfPacked: half,
              halfRows: pool,
              halves0,
              first0,
              halves1,
              first1
            },
            (touched * (halves0 + halves1) * block * n) / 4
          )
      }
    }
  )
}

export const cases: ReadonlyArray<Case> = [
  scatter({
    segments: [["a", 5], ["b", 3], ["a", 5], ["c", 0]],
    room: 6,
    slots: 16,
    block: 1,
    weights: [[2, 24], [1, 12]],
    units: 40,
    n: 68
  }),
  scatter({ segments: [["a", 4], ["b", 8]], room: 2, slots: 8, block: 2, weights: [[1, 3], [2, 0]], units: 9, n: 12 }),
  scatter({ segments: [["a", 1]], room: 1, slots: 4, block: 4, weights: [[2, 0], [1, 5]], units: 2, n: 4 }),
  pack("rows", { count: 3, segments: 5, slots: 2, block: 8, halves: 2, row0: 12, units: 5, n: 12 }),
  pack("rows", { count: 1, segments: 1, slots: 1, block: 16, halves: 1, row0: 0, units: 1, n: 4 }),
  pack("rows", { count: 0, segments: 2, slots: 1, block: 8, halves: 1, row0: 4, units: 2, n: 8 }),
  pack("transposed", { count: 3, segments: 4, slots: 3, block: 8, halves: 2, row0: 20, units: 7, n: 31 * 4 }),
  pack("transposed", { count: 2, segments: 2, slots: 2, block: 16, halves: 1, row0: 5, units: 4, n: 12 }),
  gradient({
    segments: [[8, "a"], [3, "b"], [1, "a"], [19, "c"]],
    slots: 3,
    block: 8,
    halves: 2,
    row0: 24,
    units: 5,
    n: 68,
    a0: 12,
    after: 8
  }),
  gradient({ segments: [[1, "a"]], slots: 1, block: 16, halves: 1, row0: 3, units: 6, n: 4, a0: 0, after: 0 }),
  gradient({
    // room for six units, of which four are lit at most
    segments: [[31, "a"], [65, "b"], [2, "a"]],
    slots: 2,
    block: 16,
    halves: 2,
    row0: 10,
    units: 9,
    n: 36,
    a0: 8,
    after: 4
  }),
  gradient({ segments: [[20, "a"], [3, "b"]], slots: 2, block: 24, halves: 1, row0: 2, units: 4, n: 8, a0: 0,
    after: 4 }),
  gradient({ segments: [[7, "a"], [5, "b"], [3, "a"]], slots: 2, block: 16, halves: 2, row0: 2, units: 5, n: 20, a0: 8,
    after: 4, store: true }),
  gradient({ segments: [[9, "a"]], slots: 1, block: 8, halves: 1, row0: 0, units: 2, n: 132, a0: 0, after: 0,
    store: true }),
  // every unit of the pool is lit, by every segment
  gradient({ segments: [[5, "a"], [4, "b"]], slots: 3, block: 8, halves: 1, row0: 0, units: 3, n: 12, a0: 4, after: 0 })
]
