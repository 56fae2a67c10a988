/** cross_entropy.wgsl. */
import { IGNORE } from "../../src/Batch.ts"
import * as Kernels from "../../src/model/Kernels.ts"
import { HYPER } from "../../src/model/Pass.ts"
import * as Reference from "../reference/ops.ts"
import { type Case, EPS, type Frame, makeCase, normals, place, placeU32, placeWant, poison } from "./case.ts"

export interface CrossEntropyShape {
  /** Rows of the chunk, and of all tokens, among which the chunk begins at `first`. */
  readonly rows: number
  readonly tokens: number
  readonly first: number
  readonly vocab: number
  readonly train: boolean
  /** Standard deviation of the logits. */
  readonly std?: number
  /** Groups of 4 columns beyond those that hold the vocabulary. */
  readonly extraGroups?: number
}

export const forward = (s: CrossEntropyShape): Case => {
  const { extraGroups = 0, first, rows, std = 1, tokens, train, vocab } = s
  return makeCase(
    `cross_entropy ${train ? "train" : "score"}: rows ${first} to ${first + rows} of ${tokens}, vocabulary ${vocab}, ` +
      `logits of deviation ${std}`,
    { flops: 6 * rows * vocab, bytes: 4 * rows * vocab * (train ? 2 : 1) },
    (random) => {
      const ld4 = Math.ceil(vocab / 4) + extraGroups
      const logits = normals(random, rows * vocab, std)
      const targets = random.ints(rows, vocab)
      for (let row = 0; row < rows; row++) {
        const at = row * vocab
        // ties with the target, at lower and higher indices
        if (row % 3 === 1) { for (const c of random.sample(3, vocab)) logits[at + c] = logits[at + targets[row]!]! }
        // one logit that outweighs all others by far, or none but the target's that counts
        if (row % 5 === 2) logits[at + random.int(vocab)] = 80
        if (row % 5 === 3) {
          logits.fill(-80, at, at + vocab)
          logits[at + targets[row]!] = 80
        }
        if (row % 4 === 2) targets[row] = IGNORE
      }
      const scale = Math.fround(1 / 37)
      const hyper = poison(16)
      hyper[HYPER.gradientScale] = scale
      const want = Reference.crossEntropy(logits, targets, vocab)
      const gradient = want.dlogits(scale)
      const padded = new Float64Array(rows * 4 * ld4)
      for (let row = 0; row < rows; row++) {
        padded.set(gradient.subarray(row * vocab, (row + 1) * vocab), row * 4 * ld4)
      }
      const logitsFrame: Frame = { rows, cols: vocab, ld: 4 * ld4, after: 8 }
      const perToken: Frame = { rows: 1, cols: rows, at: first, after: tokens - first - rows }
      return {
        tensors: {
          targets: placeU32(targets, perToken),
          hyper,
          logits: place(logits, logitsFrame),
          loss: place([], perToken),
          rank: placeU32([], perToken)
        },
        outputs: {
          logits: {
            // where training, padded columns become 0; where not, no bit of them moves
            want: placeWant(train ? padded : [], { rows, cols: 4 * ld4, after: 8 }),
            kind: "updates",
            atol: 64 * EPS * scale,
            rtol: 64 * EPS,
            exactZeros: (i: number) => i % (4 * ld4) >= vocab || targets[Math.floor(i / (4 * ld4))] === IGNORE
          },
          loss: {
            want: placeWant(want.loss, perToken),
            kind: train ? "updates" : "writes",
            atol: 64 * EPS * (1 + std),
            rtol: 16 * EPS
          },
          rank: {
            want: placeWant(want.rank, perToken),
            kind: train ? "updates" : "writes",
            atol: 0,
            rtol: 0
          }
        },
        record: (p, t) => {
          const { grid, kernel } = Kernels.crossEntropy(p.target)
          p.dispatch(kernel, t, { rows, vocab, ld4, first, train: train ? 1 : 0 }, grid(rows))
        }
      }
    }
  )
}

export const cases: ReadonlyArray<Case> = [
  forward({ rows: 1, tokens: 1, first: 0, vocab: 1, train: true }),
  forward({ rows: 31, tokens: 40, first: 9, vocab: 65, train: true, extraGroups: 1 }),
  forward({ rows: 65, tokens: 65, first: 0, vocab: 32, train: true, std: 30 }),
  forward({ rows: 7, tokens: 7, first: 0, vocab: 2501, train: true, std: 3 }),
  forward({ rows: 31, tokens: 33, first: 2, vocab: 31, train: false, std: 30, extraGroups: 2 }),
  forward({ rows: 9, tokens: 16, first: 0, vocab: 6, train: false })
]
