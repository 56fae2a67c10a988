/** token_record.wgsl. */
import { IGNORE } from "../../src/Batch.ts"
import { recordOf, type Sampling } from "../../src/measures/TokenRecords.ts"
import * as Kernels from "../../src/model/Kernels.ts"
import * as Ops from "../../src/model/Ops.ts"
import { type Case, EPS, type Frame, makeCase, normals, place, placeU32, placeWant, poison } from "./case.ts"

export interface TokenRecordShape {
  /** Rows of the chunk, and of all tokens, among which the chunk begins at `first`. */
  readonly rows: number
  readonly tokens: number
  readonly first: number
  readonly vocab: number
  readonly schemes: ReadonlyArray<Sampling>
  /** Standard deviation of the logits. */
  readonly std?: number
  /** Added to all logits. */
  readonly shift?: number
  /** Groups of 4 columns beyond those that hold the vocabulary. */
  readonly extraGroups?: number
}

/** Whether some nucleus ends so near its mass that rounding decides on its last token. */
const onEdge = (logits: Float32Array, schemes: ReadonlyArray<Sampling>): boolean =>
  schemes.some(({ temperature, topP }) => {
    if (topP === undefined) return false
    const sorted = logits.slice().sort().reverse()
    const weights = Array.from(sorted, (z) => Math.exp((z - sorted[0]!) / temperature))
    const all = weights.reduce((a, b) => a + b)
    let above = 0
    return weights.some((w) => Math.abs((above += w / all) - topP) < 2e-6)
  })

export const forward = (s: TokenRecordShape): Case => {
  const { extraGroups = 0, first, rows, schemes, shift = 0, std = 1, tokens, vocab } = s
  return makeCase(
    `token_record: rows ${first} to ${first + rows} of ${tokens}, vocabulary ${vocab}, logits of ${shift} and ` +
      `deviation ${std}, ${schemes.length} schemes`,
    { flops: 20 * rows * vocab, bytes: 4 * rows * vocab },
    (random) => {
      const ld4 = Math.ceil(vocab / 4) + extraGroups
      const logits = new Float32Array(rows * vocab)
      const targets = random.ints(rows, vocab)
      for (let row = 0; row < rows; row++) {
        const own = logits.subarray(row * vocab, (row + 1) * vocab)
        do {
          own.set(normals(random, vocab, std).map((x) => x + shift))
          // ties with the target, at lower and higher indices; a target that is likely; all tokens equally likely
          if (row % 3 === 1) { for (const c of random.sample(3, vocab)) own[c] = own[targets[row]!]! }
          if (row % 4 === 0) own[targets[row]!] = shift + 3 * std
          if (row % 7 === 6) own.fill(shift)
        } while (onEdge(own, schemes))
        if (row % 5 === 2) targets[row] = IGNORE
      }
      const fields = Ops.RECORD_FIELDS.length + schemes.length
      const record = new Float64Array(fields * rows)
      const rank = new Uint32Array(rows)
      for (let row = 0; row < rows; row++) {
        if (targets[row] === IGNORE) continue
        const want = recordOf(logits.subarray(row * vocab, (row + 1) * vocab), targets[row]!, schemes)
        rank[row] = want.rank
        const values = [...Ops.RECORD_FIELDS.map((field) => want[field]), ...want.schemeLogProb]
        values.forEach((value, f) => {
          record[f * rows + row] = Math.max(value, Ops.RECORD_NEVER)
        })
      }
      // what begins at another token than the first, of all tokens
      const byToken: Frame = { rows: fields, cols: rows, ld: tokens, at: first }
      const perToken: Frame = { rows: 1, cols: rows, at: first, after: tokens - first - rows }
      const onlyTokens = <A extends Float32Array | Float64Array>(framed: A): A => framed.slice(0, fields * tokens) as A
      return {
        tensors: {
          targets: placeU32(targets, perToken),
          schemes: Ops.encodeSchemes(schemes),
          logits: place(logits, { rows, cols: vocab, ld: 4 * ld4 }),
          record: poison(fields * tokens),
          rank: placeU32([], perToken)
        },
        outputs: {
          record: {
            want: onlyTokens(placeWant(record, byToken)),
            kind: "writes",
            atol: 64 * EPS * (1 + std),
            rtol: 64 * EPS * (1 + std / 4),
            exactZeros: (i: number) => targets[i % tokens - first] === IGNORE
          },
          rank: { want: placeWant(rank, perToken), kind: "writes", atol: 0, rtol: 0 }
        },
        record: (p, t) => {
          const { grid, kernel } = Kernels.tokenRecord(p.target)
          p.dispatch(kernel, t, { rows, vocab, ld4, first, tokens, count: schemes.length }, grid(rows))
        }
      }
    }
  )
}

const many: ReadonlyArray<Sampling> = [
  { temperature: 0.5, topK: 5 },
  { temperature: 1, topK: 40 },
  { temperature: 0.7, topK: 10, topP: 0.613 },
  { temperature: 0.5 },
  { temperature: 1, topP: 0.93 },
  { temperature: 1.5, topP: 0.9871 }
]

export const cases: ReadonlyArray<Case> = [
  forward({ rows: 1, tokens: 1, first: 0, vocab: 2, schemes: [] }),
  forward({ rows: 31, tokens: 40, first: 7, vocab: 65, extraGroups: 1, schemes: many }),
  forward({ rows: 29, tokens: 29, first: 0, vocab: 6, schemes: many }),
  forward({ rows: 17, tokens: 19, first: 2, vocab: 40, std: 30, extraGroups: 2, schemes: many.slice(0, 4) }),
  forward({ rows: 15, tokens: 15, first: 0, vocab: 2501, std: 3, schemes: many }),
  forward({ rows: 15, tokens: 15, first: 0, vocab: 397, std: 0.3, shift: 1000, schemes: many }),
  forward({ rows: 16, tokens: 16, first: 0, vocab: 123, std: 4000, schemes: many })
]
