/** embedding.wgsl: forward, backward. */
import { kernels } from "../../src/model/Kernels.ts"
import * as Segments from "../../src/model/Segments.ts"
import * as Reference from "../reference/ops.ts"
import { type Case, EPS, type Frame, makeCase, normals, place, placeU32, placeWant, plus } from "./case.ts"

export interface EmbeddingShape {
  readonly rows: number
  readonly vocab: number
  readonly d: number
  /** Tokens are drawn below it: the rest of the vocabulary never occurs. Default: the vocabulary. */
  readonly below?: number
}

export const forward = ({ below, d, rows, vocab }: EmbeddingShape): Case =>
  makeCase(`embedding forward ${rows}x${d}, vocabulary ${vocab}`, { flops: 0, bytes: 8 * rows * d }, (random) => {
    const tokens = random.ints(rows, below ?? vocab)
    const table = normals(random, vocab * d)
    const output: Frame = { rows, cols: d, after: 12 }
    return {
      tensors: { tokens: placeU32(tokens, { rows: 1, cols: rows, after: 2 }), table, y: place([], output) },
      outputs: {
        y: { want: placeWant(Reference.embedding(tokens, table, d), output), kind: "writes", atol: 0, rtol: 0 }
      },
      record: (p, t) => p.dispatch(kernels.embedding, t, { rows, n4: d / 4 }, (rows * d) / 4)
    }
  })

export const backward = ({ below, d, rows, vocab }: EmbeddingShape): Case =>
  makeCase(
    `embedding backward ${rows}x${d}, tokens below ${below ?? vocab} of ${vocab}`,
    { flops: rows * d, bytes: 4 * d * (rows + 2 * vocab) },
    (random) => {
      const tokens = random.ints(rows, below ?? vocab)
      const { order, start } = Segments.positionsByToken(tokens, vocab)
      const dy = normals(random, rows * d)
      const before = normals(random, vocab * d)
      const sum = plus(Reference.embeddingBackward(tokens, dy, vocab), before)
      const output: Frame = { rows: vocab, cols: d, after: 12 }
      const dtable = place(before, output)
      const want = placeWant(sum, output)
      const empty = place([], output)
      for (let v = 0; v < vocab; v++) {
        if (tokens.includes(v)) continue
        dtable.set(empty.subarray(v * d, (v + 1) * d), v * d)
        want.fill(NaN, v * d, (v + 1) * d)
      }
      return {
        tensors: {
          start,
          order: placeU32(order, { rows: 1, cols: rows, after: 2 }),
          dy: place(dy, { rows, cols: d, after: 8 }),
          dtable
        },
        outputs: { dtable: { want, kind: "adds", atol: 16 * EPS * (rows + 4), rtol: 4 * EPS } },
        record: (p, t) => p.dispatch(kernels.embeddingBackward, t, { rows: vocab, n4: d / 4 }, (vocab * d) / 4)
      }
    }
  )

export const cases: ReadonlyArray<Case> = [
  forward({ rows: 1, vocab: 1, d: 4 }),
  forward({ rows: 31, vocab: 65, d: 12 }),
  forward({ rows: 65, vocab: 7, d: 36 }),
  backward({ rows: 1, vocab: 3, d: 4 }),
  backward({ rows: 65, vocab: 31, d: 12 }),
  backward({ rows: 31, vocab: 65, d: 36, below: 20 }),
  // one token stands everywhere
  backward({ rows: 65, vocab: 5, d: 12, below: 1 })
]
