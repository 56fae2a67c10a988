/**
 * Sequences of tokens as rows of a batch, one a row or several side by side. Pure.
 */
import { type Batch, IGNORE } from "./Batch.ts"

/** A sequence: the unit that is repeated, seen once, or held out. */
export interface Row {
  readonly id: bigint
  /** seqLen + 1 token ids, inputs and targets overlapping; packed documents may be shorter, but at least 2. */
  readonly tokens: Uint32Array
  /** Name of the document it was cut from. */
  readonly document: string
  /** Its first token, counted from the beginning of the document. */
  readonly offset: number
}

/** Sequences of one row of a batch, from left to right. */
export type Pack = ReadonlyArray<Row>

const alignUp = (at: number, alignment: number): number => Math.ceil(at / alignment) * alignment

/** Sequences side by side in rows of a batch; `count` rows, the last ones padding if there are fewer packs. */
export const packedBatch = (packs: ReadonlyArray<Pack>, count: number, seqLen: number, alignment: number): Batch => {
  const size = count * seqLen
  const batch: Batch = {
    rows: count,
    seqLen,
    tokens: new Uint32Array(size),
    targets: new Uint32Array(size).fill(IGNORE),
    positions: new Uint32Array(size),
    documentStart: new Uint32Array(size),
    ids: new BigUint64Array(size)
  }
  let id = 0n
  for (let r = 0; r < count; r++) {
    const end = (r + 1) * seqLen
    let start = r * seqLen
    // Each sequence first claims the rest of the row, so padding behind it belongs to it; the next one takes over.
    const claim = () => {
      batch.ids.fill(id, start, end)
      batch.documentStart.fill(start, start, end)
      for (let t = start; t < end; t++) batch.positions[t] = t - start
    }
    for (const row of packs[r] ?? []) {
      const length = row.tokens.length - 1
      if (start + length > end) {
        throw new RangeError(`batch: ${length} tokens of ${row.document} do not fit in row ${r} of ${seqLen}`)
      }
      id = row.id
      claim()
      batch.tokens.set(row.tokens.subarray(0, length), start)
      batch.targets.set(row.tokens.subarray(1), start)
      start += alignUp(length, alignment)
    }
    if (packs[r] === undefined) claim()
  }
  return batch
}

/**
 * Rows as a batch, one each: inputs `tokens[0 .. T)`, targets `tokens[1 .. T]`. A row shorter than seqLen + 1 is padded
 * with targets `IGNORE`. Throws a RangeError for a longer one.
 */
export const batchOf = (rows: ReadonlyArray<Row>, seqLen: number): Batch =>
  packedBatch(rows.map((row) => [row]), rows.length, seqLen, 1)

/** Indices of the sequences that share a row: from left to right, a new row when the next does not fit. */
export const pack = (
  lengths: ReadonlyArray<number>,
  seqLen: number,
  alignment: number
): ReadonlyArray<ReadonlyArray<number>> => {
  const packs: Array<Array<number>> = []
  let start = Infinity
  lengths.forEach((length, i) => {
    if (start + length > seqLen) {
      packs.push([])
      start = 0
    }
    packs[packs.length - 1].push(i)
    start += alignUp(length, alignment)
  })
  return packs
}
