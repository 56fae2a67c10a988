/**
 * Sequences that say the same: a near-duplicate of a sequence is one that has most of its 13-grams of tokens. Exact,
 * and made for thousands of sequences; NearDuplicates.ts estimates among millions of texts.
 */
import * as Effect from "effect/Effect"
import { DataError } from "../../Errors.ts"
import { type Row, sequenceName } from "./Packing.ts"

/** Tokens of a gram; of a sequence with fewer, all of them. */
const GRAM = 13

/** Share of a sequence's grams that makes its near-duplicate. */
const NEAR = 0.8

export interface Overlap {
  readonly row: Row
  /** Share of the grams of the sequence asked for that `row` has. */
  readonly share: number
}

export interface OverlapIndex {
  readonly add: (row: Row) => void
  /** Of the sequences added, the one that has most of this one's distinct grams, if it has .8 of them or more. */
  readonly find: (row: Row) => Overlap | undefined
}

/** Distinct runs of n tokens, two characters a token: parts of a string are cheaper keys than lists of numbers. */
const gramsOf = (tokens: Uint32Array, n: number): Set<string> => {
  const grams = new Set<string>()
  let text = ""
  for (const token of tokens) text += String.fromCharCode(token & 0xffff, token >>> 16)
  for (let at = 0; at + n <= tokens.length; at++) grams.add(text.slice(2 * at, 2 * (at + n)))
  return grams
}

/** An index of sequences by their grams. */
export const overlapIndex = (rows: Iterable<Row> = []): OverlapIndex => {
  const all: Array<Row> = []
  /** By length of grams: how many of the sequences are in, and which of them have a gram. */
  const byLength = new Map<number, { done: number; readonly holders: Map<string, Array<number>> }>()
  const holdersOf = (n: number) => {
    const index = byLength.get(n) ?? { done: 0, holders: new Map<string, Array<number>>() }
    byLength.set(n, index)
    for (; index.done < all.length; index.done++) {
      for (const gram of gramsOf(all[index.done]!.tokens, n)) {
        const holding = index.holders.get(gram)
        if (holding === undefined) index.holders.set(gram, [index.done])
        else holding.push(index.done)
      }
    }
    return index.holders
  }
  all.push(...rows)
  return {
    add: (row) => void all.push(row),
    find: ({ tokens }) => {
      const n = Math.min(GRAM, tokens.length)
      const holders = holdersOf(n)
      const grams = gramsOf(tokens, n)
      const shared = new Map<number, number>()
      let [most, best] = [0, -1]
      for (const gram of grams) {
        for (const row of holders.get(gram) ?? []) {
          const count = (shared.get(row) ?? 0) + 1
          shared.set(row, count)
          if (count > most) [most, best] = [count, row]
        }
      }
      const share = most / grams.size
      return share >= NEAR ? { row: all[best]!, share } : undefined
    }
  }
}

/**
 * Fails with a DataError that names two sequences where one that is scored has the id of one that is trained on, or is
 * a near-duplicate of it.
 */
export const checkDisjoint = (
  training: ReadonlyArray<Row>,
  scored: ReadonlyArray<Row>
): Effect.Effect<void, DataError> =>
  Effect.suspend(() => {
    const byId = new Map(training.map((row) => [row.id, row]))
    const index = overlapIndex(training)
    for (const row of scored) {
      const leaked = (trained: Row, how: string) =>
        new DataError({
          detail: `sequence ${sequenceName(row)} is scored, but ${how} ${sequenceName(trained)}, which is trained ` +
            "on. Leave one of the two out"
        })
      const same = byId.get(row.id)
      if (same !== undefined) return leaked(same, `has id ${row.id} of`)
      const near = index.find(row)
      if (near !== undefined) {
        return leaked(near.row, `has ${Math.round(100 * near.share)} % of its ${GRAM}-grams in common with`)
      }
    }
    return Effect.void
  })
