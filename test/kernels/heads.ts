/** scale_rows.wgsl, soft_cross_entropy.wgsl, hidden_loss.wgsl: losses whose tokens have weights. */
import { IGNORE } from "../../src/Batch.ts"
import * as Kernels from "../../src/model/Kernels.ts"
import { HYPER } from "../../src/model/Pass.ts"
import * as Reference from "../reference/ops.ts"
import type { Random } from "../reference/random.ts"
import { type Case, EPS, type Frame, makeCase, normals, place, placeU32, placeWant, poison } from "./case.ts"

/** Rows of a chunk, and of all tokens, among which the chunk begins at `first`. */
export interface ChunkShape {
  readonly rows: number
  readonly tokens: number
  readonly first: number
}

const SCALE = Math.fround(1 / 37)

/** Targets, some ignored, weights of both signs, some 0, and the step's scalars. */
const perToken = (random: Random, { first, rows, tokens }: ChunkShape, vocab: number) => {
  const targets = random.ints(rows, vocab)
  const weights = normals(random, rows)
  for (let row = 0; row < rows; row++) {
    if (row % 4 === 2) targets[row] = IGNORE
    if (row % 5 === 3) weights[row] = 0
  }
  const hyper = poison(16)
  hyper[HYPER.gradientScale] = SCALE
  const frame: Frame = { rows: 1, cols: rows, at: first, after: tokens - first - rows }
  return { targets, weights, hyper, frame, scaled: Float64Array.from(weights, (w) => w * SCALE) }
}

export const scaleRows = (s: ChunkShape & { readonly cols: number }): Case =>
  makeCase(
    `scale_rows: rows ${s.first} to ${s.first + s.rows} of ${s.tokens}, ${s.cols} columns`,
    { flops: s.rows * s.cols, bytes: 8 * s.rows * s.cols },
    (random) => {
      const { frame, weights } = perToken(random, s, 2)
      const x = normals(random, s.rows * s.cols)
      const all: Frame = { rows: s.rows, cols: s.cols, after: 8 }
      const want = x.map((value, at) => value * weights[Math.floor(at / s.cols)]!)
      return {
        tensors: { scale: place(weights, frame), x: place(x, all) },
        outputs: { x: { want: placeWant(want, all), kind: "updates", atol: 0, rtol: 2 * EPS } },
        record: (p, t) =>
          p.dispatch(Kernels.kernels.scaleRows, t, { rows: s.rows, n4: s.cols / 4, first: s.first },
            (s.rows * s.cols) / 4)
      }
    }
  )

export interface SoftShape extends ChunkShape {
  readonly vocab: number
  readonly train: boolean
  /** Standard deviation of the logits. */
  readonly std?: number
}

export const softCrossEntropy = (s: SoftShape): Case => {
  const { first, rows, std = 1, tokens, train, vocab } = s
  return makeCase(
    `soft_cross_entropy ${train ? "train" : "score"}: rows ${first} to ${
      first + rows
    } of ${tokens}, vocabulary ${vocab}, ` +
      `logits of deviation ${std}`,
    { flops: 12 * rows * vocab, bytes: 4 * rows * vocab * (train ? 3 : 2) },
    (random) => {
      const ld = 4 * Math.ceil(vocab / 4)
      const { frame, hyper, scaled, targets, weights } = perToken(random, s, vocab)
      const logits = normals(random, rows * vocab, std)
      const q = Float32Array.from(random.uniforms(rows * vocab, 0, 2 / vocab))
      for (let row = 0; row < rows; row++) {
        // all of it on one class, which may be one that the model would never say
        if (row % 3 === 1) {
          q.fill(0, row * vocab, (row + 1) * vocab)
          q[row * vocab + random.int(vocab)] = 1
        }
        if (row % 5 === 2) logits[row * vocab + random.int(vocab)] = 80
      }
      const want = Reference.softCrossEntropy(logits, targets, q, vocab)
      const gradient = want.dlogits(scaled)
      const padded = new Float64Array(rows * ld)
      for (let row = 0; row < rows; row++) padded.set(gradient.subarray(row * vocab, (row + 1) * vocab), row * ld)
      return {
        tensors: {
          targets: placeU32(targets, frame),
          hyper,
          weights: place(weights, frame),
          soft: place(q, { rows, cols: vocab, at: first * ld, ld, after: (tokens - first - rows) * ld }),
          logits: place(logits, { rows, cols: vocab, ld, after: 8 }),
          loss: place([], frame)
        },
        outputs: {
          logits: {
            want: placeWant(train ? padded : [], { rows, cols: ld, after: 8 }),
            kind: "updates",
            atol: 256 * EPS * SCALE,
            rtol: 64 * EPS,
            exactZeros: (i: number) =>
              i < rows * ld &&
              (i % ld >= vocab || targets[Math.floor(i / ld)] === IGNORE || scaled[Math.floor(i / ld)] === 0)
          },
          loss: {
            want: placeWant(want.loss, frame),
            kind: train ? "updates" : "writes",
            atol: 64 * EPS * (1 + std),
            rtol: 16 * EPS
          }
        },
        record: (p, t) => {
          const { grid, kernel } = Kernels.softCrossEntropy(p.target)
          p.dispatch(kernel, t, { rows, vocab, ld4: ld / 4, first, train: train ? 1 : 0 }, grid(rows))
        }
      }
    }
  )
}

export const hiddenLoss = (s: { readonly rows: number; readonly d: number }): Case =>
  makeCase(
    `hidden_loss: ${s.rows} rows of ${s.d}`,
    { flops: 4 * s.rows * s.d, bytes: 12 * s.rows * s.d },
    (random) => {
      const { d, rows } = s
      const { frame, hyper, scaled, targets, weights } = perToken(random, { rows, tokens: rows + 3, first: 0 }, 9)
      const [x, goal] = [normals(random, rows * d, 3), normals(random, rows * d, 3)]
      const want = Reference.hiddenLoss(x, targets, goal, d)
      const all: Frame = { rows, cols: d, after: 8 }
      return {
        tensors: {
          targets: placeU32(targets, frame),
          hyper,
          weights: place(weights, frame),
          x: place(x, all),
          hiddenTarget: place(goal, all),
          loss: place([], frame),
          dx: place([], all)
        },
        outputs: {
          loss: { want: placeWant(want.loss, frame), kind: "writes", atol: 0, rtol: (8 + d) * EPS },
          dx: {
            want: placeWant(want.dx(scaled), all),
            kind: "writes",
            atol: 4 * EPS * SCALE,
            rtol: 8 * EPS,
            exactZeros: (i: number) => targets[Math.floor(i / d)] === IGNORE || scaled[Math.floor(i / d)] === 0
          }
        },
        record: (p, t) => {
          const { grid, kernel } = Kernels.hiddenLoss(p.target)
          p.dispatch(kernel, t, { rows, n4: d / 4 }, grid(rows))
        }
      }
    }
  )

export const cases: ReadonlyArray<Case> = [
  scaleRows({ rows: 1, tokens: 1, first: 0, cols: 4 }),
  scaleRows({ rows: 31, tokens: 40, first: 9, cols: 68 }),
  softCrossEntropy({ rows: 1, tokens: 1, first: 0, vocab: 1, train: true }),
  softCrossEntropy({ rows: 31, tokens: 40, first: 9, vocab: 65, train: true }),
  softCrossEntropy({ rows: 33, tokens: 33, first: 0, vocab: 32, train: true, std: 20 }),
  softCrossEntropy({ rows: 31, tokens: 33, first: 2, vocab: 31, train: false, std: 20 }),
  hiddenLoss({ rows: 1, d: 4 }),
  hiddenLoss({ rows: 37, d: 60 })
]
