/** Small makers shared by tests. */
import { type Batch, IGNORE } from "../src/Batch.ts"
import type { makeRandom } from "./reference/random.ts"

/** Rows of documents given as [length, id]; tokens are random, a document's last target is not scored. */
export const batchOfDocuments = (
  documents: ReadonlyArray<ReadonlyArray<readonly [length: number, id: bigint]>>,
  seqLen: number,
  vocabSize: number,
  random: ReturnType<typeof makeRandom>
): Batch => {
  const n = documents.length * seqLen
  const tokens = Uint32Array.from({ length: n }, () => random.int(vocabSize))
  const targets = new Uint32Array(n)
  const positions = new Uint32Array(n)
  const documentStart = new Uint32Array(n)
  const ids = new BigUint64Array(n)
  documents.forEach((row, r) => {
    let at = r * seqLen
    for (const [length, id] of row) {
      for (let i = 0; i < length; i++) {
        positions[at + i] = i
        documentStart[at + i] = at
        ids[at + i] = BigInt.asUintN(64, id)
        targets[at + i] = i + 1 < length ? tokens[at + i + 1]! : IGNORE
      }
      at += length
    }
    if (at !== (r + 1) * seqLen) throw new Error(`row ${r} holds ${at - r * seqLen} tokens, not ${seqLen}`)
  })
  return { rows: documents.length, seqLen, tokens, targets, positions, documentStart, ids }
}
