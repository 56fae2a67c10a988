/** rope.wgsl, both signs. */
import * as Ops from "../../src/model/Ops.ts"
import * as Reference from "../reference/ops.ts"
import type { Random } from "../reference/random.ts"
import { type Case, EPS, type Frame, makeCase, normals, place, placeU32, placeWant } from "./case.ts"

export interface RopeShape {
  readonly rows: number
  readonly heads: number
  readonly headSize: number
  /** Columns behind the heads that are not turned, as the values are. */
  readonly rest: number
}

const theta = 10000
/** Positions restart with every document and stay below this. */
const positionsBelow = 40

const inputs = (random: Random, { headSize, heads, rest, rows }: RopeShape) => {
  const half = headSize / 2
  const table = new Float32Array(positionsBelow * half * 2)
  for (let t = 0; t < positionsBelow; t++) {
    for (let i = 0; i < half; i++) {
      const angle = t * theta ** ((-2 * i) / headSize)
      table.set([Math.cos(angle), Math.sin(angle)], (t * half + i) * 2)
    }
  }
  return {
    half,
    table,
    positions: random.ints(rows, positionsBelow),
    x: normals(random, rows * heads * headSize),
    frame: { rows, cols: heads * headSize, ld: heads * headSize + rest, after: 8 } satisfies Frame
  }
}

const tolerance = { kind: "updates", atol: 32 * EPS, rtol: 4 * EPS } as const

export const turn = (sign: 1 | -1, s: RopeShape): Case =>
  makeCase(
    `rope ${sign === 1 ? "forward" : "backward"} ${s.rows} rows, ${s.heads} heads of ${s.headSize}`,
    { flops: 3 * s.rows * s.heads * s.headSize, bytes: 8 * s.rows * s.heads * s.headSize },
    (random) => {
      const { frame, positions, table, x } = inputs(random, s)
      const rotate = sign === 1 ? Reference.rope : Reference.ropeBackward
      return {
        tensors: { positions: placeU32(positions, { rows: 1, cols: s.rows, after: 3 }), table, x: place(x, frame) },
        outputs: { x: { want: placeWant(rotate(x, positions, theta, s.heads, s.headSize), frame), ...tolerance } },
        record: (p, t) =>
          Ops.rope(p, t as never, { rows: s.rows, heads: s.heads, headSize: s.headSize, ld: frame.ld }, sign)
      }
    }
  )

export const thereAndBack = (s: RopeShape): Case =>
  makeCase(
    `rope backward inverts forward, heads of ${s.headSize}`,
    { flops: 6 * s.rows * s.heads * s.headSize, bytes: 16 * s.rows * s.heads * s.headSize },
    (random) => {
      const { frame, positions, table, x } = inputs(random, s)
      return {
        tensors: { positions, table, x: place(x, frame) },
        outputs: { x: { want: placeWant(x, frame), ...tolerance } },
        record: (p, t) => {
          for (const sign of [1, -1] as const) {
            Ops.rope(p, t as never, { rows: s.rows, heads: s.heads, headSize: s.headSize, ld: frame.ld }, sign)
          }
        }
      }
    }
  )

export const cases: ReadonlyArray<Case> = [
  turn(1, { rows: 1, heads: 1, headSize: 4, rest: 0 }),
  turn(1, { rows: 31, heads: 3, headSize: 12, rest: 12 }),
  turn(1, { rows: 65, heads: 2, headSize: 32, rest: 32 }),
  turn(-1, { rows: 31, heads: 3, headSize: 40, rest: 40 }),
  turn(-1, { rows: 17, heads: 5, headSize: 8, rest: 4 }),
  turn(-1, { rows: 65, heads: 1, headSize: 4, rest: 4 }),
  thereAndBack({ rows: 9, heads: 3, headSize: 12, rest: 12 }),
  thereAndBack({ rows: 9, heads: 3, headSize: 24, rest: 0 })
]
