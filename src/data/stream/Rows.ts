/** Sets of sequences that are trained on or scored as they are: checked, counted, drawn. Pure. */
import type { Random } from "../../Random.ts"
import { type Row, scoredTokens, sequenceName } from "./Packing.ts"

/** What is wrong with the first sequence that does not fit into rows of `seqLen` tokens or has nothing to score. */
export const misfit = (rows: ReadonlyArray<Row>, seqLen: number): string | undefined => {
  for (const row of rows) {
    const { length } = row.tokens
    if (length < 2 || length > seqLen + 1) {
      return `sequence ${sequenceName(row)} has ${length} tokens; rows of ${seqLen} take 2 to ${seqLen + 1}`
    }
    if (scoredTokens(row) === 0) {
      return `sequence ${sequenceName(row)} has no scored token: it has ${length}, and scoredFrom is ${row.scoredFrom}`
    }
  }
  return undefined
}

/** Scored tokens of all sequences together. */
export const countScored = (rows: ReadonlyArray<Row>): number => rows.reduce((sum, row) => sum + scoredTokens(row), 0)

/** Draws without end: all items in a random order, then all in another, so none comes twice before all came once. */
export const endless = <A>(items: ReadonlyArray<A>, random: Random): (count: number) => ReadonlyArray<A> => {
  let left: Array<A> = []
  return (count) =>
    Array.from({ length: count }, () => {
      if (left.length === 0) left = random.shuffle([...items])
      return left.pop()!
    })
}

/** Some of many items, and with them `full`, as many as a pass takes: the last one is filled up with the first of its own. */
export interface RowChunk<A> {
  /** Place of the first of them among all. */
  readonly first: number
  readonly chunk: ReadonlyArray<A>
  readonly full: ReadonlyArray<A>
}

/** Items in chunks of `size`, each filled up to it, so that one compiled pass serves all. None of none. */
export const chunked = <A>(items: ReadonlyArray<A>, size: number): ReadonlyArray<RowChunk<A>> =>
  Array.from({ length: Math.ceil(items.length / size) }, (_, i) => {
    const chunk = items.slice(i * size, (i + 1) * size)
    return {
      first: i * size,
      chunk,
      full: [...chunk, ...Array.from({ length: size - chunk.length }, () => chunk[0]!)]
    }
  })
