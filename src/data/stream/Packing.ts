/**
 * Sequences of tokens as rows of a batch, one a row or several side by side. Pure.
 */
import { type Batch, IGNORE, toId } from "../../Batch.ts"

/** A sequence: the unit that is repeated, seen once, or held out. */
export interface Row {
  readonly id: bigint
  /** seqLen + 1 token ids, inputs and targets overlapping; packed documents may be shorter, but at least 2. */
  readonly tokens: Uint32Array
  /** Name of the document it was cut from. */
  readonly document: string
  /** Its first token, counted from the beginning of the document. */
  readonly offset: number
  /** The first token that is scored; those before it are only read. Default 1. */
  readonly scoredFrom?: number
}

/** The sequence's document, and where in it it begins: `story`, `story+128`. */
export const sequenceName = ({ document, offset }: Pick<Row, "document" | "offset">): string =>
  offset === 0 ? document : `${document}+${offset}`

/** Tokens of a sequence that are scored. */
export const scoredTokens = ({ scoredFrom = 1, tokens }: Pick<Row, "scoredFrom" | "tokens">): number =>
  Math.max(0, tokens.length - scoredFrom)

/** Sequences of one row of a batch, from left to right. */
export type Pack = ReadonlyArray<Pick<Row, "id" | "tokens" | "scoredFrom">>

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
        throw new RangeError(`batch: a sequence of ${length} targets does not fit in row ${r} of ${seqLen}`)
      }
      id = row.id
      claim()
      batch.tokens.set(row.tokens.subarray(0, length), start)
      const from = Math.min(row.scoredFrom ?? 1, length + 1)
      batch.targets.set(row.tokens.subarray(from), start + from - 1)
      start += alignUp(length, alignment)
    }
    if (packs[r] === undefined) claim()
  }
  return batch
}

/**
 * Rows as a batch, one each: inputs `tokens[0 .. T)`, targets `tokens[1 .. T]`, `IGNORE` before `scoredFrom`. A row
 * shorter than seqLen + 1 is padded with targets `IGNORE`. Throws a RangeError for a longer one.
 */
export const batchOf = (rows: ReadonlyArray<Row>, seqLen: number): Batch => ({
  ...packedBatch(rows.map((row) => [row]), rows.length, seqLen, 1),
  names: rows.map(sequenceName)
})

/**
 * The sequences of a batch that have a scored token, one after the other, from the first to the last scored token of each;
 * targets between them that are not scored are.
 */
export const sequencesOf = ({ documentStart, ids, targets, tokens }: Batch): ReadonlyArray<Row> => {
  const rows: Array<Row> = []
  for (let from = 0, to = 0; from < tokens.length; from = to) {
    let [first, last] = [-1, -1]
    for (; to < tokens.length && documentStart[to] === documentStart[from]; to++) {
      if (targets[to] === IGNORE) continue
      last = to
      if (first < 0) first = to
    }
    if (first < 0) continue
    rows.push({
      id: ids[from]!,
      tokens: Uint32Array.of(...tokens.subarray(from, last + 1), targets[last]!),
      document: `${ids[from]!}`,
      offset: 0,
      ...(first === from ? {} : { scoredFrom: first - from + 1 })
    })
  }
  return rows
}

/**
 * An array of tokens that has an id, as sequences of at most `seqLen + 1` tokens, each a target once but the first. Throws
 * a RangeError for fewer than two tokens, and for an id that is not one of 64 bits.
 *
 * @example
 * ```ts
 * const batch = batchOf([...rowsOf(tokens, 7, 64), ...rowsOf(others, 0xffn, 64)], 64)
 * const scores = yield* model.evaluate(batch, Sink.own)
 * ```
 */
export const rowsOf = (tokens: ArrayLike<number>, id: number | bigint, seqLen: number,
  document = `${id}`): ReadonlyArray<Row> =>
{
  if (!(Number.isSafeInteger(seqLen) && seqLen >= 1)) throw new RangeError(`seqLen must be at least 1, got ${seqLen}`)
  if (tokens.length < 2) throw new RangeError(`a sequence has two tokens or more, got ${tokens.length}`)
  const [all, whose] = [Uint32Array.from(tokens), toId(id)]
  return Array.from({ length: Math.ceil((all.length - 1) / seqLen) }, (_, i) => ({
    id: whose,
    tokens: all.slice(i * seqLen, (i + 1) * seqLen + 1),
    document,
    offset: i * seqLen
  }))
}

/** Sequences that share a row: row p holds `members[starts[p]]` to `members[starts[p + 1] - 1]`, from left to right. */
export interface Packs {
  /** One more than there are rows. */
  readonly starts: Uint32Array
  readonly members: Uint32Array
}

/**
 * Fills row after row with sequences in the order given; a new row begins when the next one does not fit.
 * `length` gives the targets of a sequence, at most `seqLen`.
 */
export const pack = (
  order: Uint32Array,
  length: (sequence: number) => number,
  seqLen: number,
  alignment: number
): Packs => {
  const starts = new Uint32Array(order.length + 1)
  let rows = 0
  let start = Infinity
  for (let i = 0; i < order.length; i++) {
    const own = length(order[i]!)
    if (start + own > seqLen) {
      starts[rows++] = i
      start = 0
    }
    start += alignUp(own, alignment)
  }
  starts[rows] = order.length
  return { starts: starts.slice(0, rows + 1), members: order }
}

/**
 * Fills rows with sequences in the order given, each into the row with the least space left that it fits into, or a new
 * one. At most `most` sequences a row. Wastes a few hundredths of the space where `pack` wastes a quarter.
 */
export const packClosely = (
  order: Uint32Array,
  length: (sequence: number) => number,
  seqLen: number,
  alignment: number,
  most: number
): Packs => {
  // Space counts in units of the alignment. Rows of the same space are a list, and a bit says whether it has any.
  const units = Math.floor(seqLen / alignment)
  const first = new Int32Array(units + 1).fill(-1)
  const some = new Int32Array((units >> 5) + 1)
  const rowOf = new Uint32Array(order.length)
  const next = new Int32Array(order.length)
  const held = new Uint16Array(order.length)
  let rows = 0

  /** The least space of a row, from `need` on, or -1. */
  const least = (need: number): number => {
    let word = need >> 5
    let bits = some[word]! & (-1 << (need & 31))
    while (bits === 0 && ++word < some.length) bits = some[word]!
    return bits === 0 ? -1 : (word << 5) + 31 - Math.clz32(bits & -bits)
  }
  for (let i = 0; i < order.length; i++) {
    const need = Math.ceil(length(order[i]!) / alignment)
    let space = least(need)
    let row = rows
    if (space < 0) {
      space = units
      rows++
    } else {
      row = first[space]!
      first[space] = next[row]!
      if (next[row]! < 0) some[space >> 5]! &= ~(1 << (space & 31))
    }
    rowOf[i] = row
    const left = space - need
    if (left > 0 && ++held[row]! < most) {
      next[row] = first[left]!
      first[left] = row
      some[left >> 5]! |= 1 << (left & 31)
    }
  }
  const starts = new Uint32Array(rows + 1)
  for (let i = 0; i < order.length; i++) starts[rowOf[i]! + 1]!++
  for (let r = 0; r < rows; r++) starts[r + 1]! += starts[r]!
  const members = new Uint32Array(order.length)
  const place = starts.slice()
  for (let i = 0; i < order.length; i++) members[place[rowOf[i]!]!++] = order[i]!
  return { starts, members }
}
