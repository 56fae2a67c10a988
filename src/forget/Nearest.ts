/** Which of several sources is most like another: by the cosine between their counts of tokens. */
import type { Row } from "../data/stream/Packing.ts"

/** Counts of tokens, of length 1. */
const profile = (rows: ReadonlyArray<Pick<Row, "tokens">>): ReadonlyMap<number, number> => {
  const counts = new Map<number, number>()
  for (const { tokens } of rows) for (const token of tokens) counts.set(token, (counts.get(token) ?? 0) + 1)
  const norm = Math.hypot(...counts.values())
  return new Map([...counts].map(([token, count]) => [token, count / norm]))
}

/** The place of the one among `others` that is most like `rows`, the first of equals; -1 where there are none. */
export const nearest = (
  rows: ReadonlyArray<Pick<Row, "tokens">>,
  others: ReadonlyArray<ReadonlyArray<Pick<Row, "tokens">>>
): number => {
  const own = profile(rows)
  const like = others.map((other) => {
    let sum = 0
    for (const [token, share] of profile(other)) sum += share * (own.get(token) ?? 0)
    return sum
  })
  return like.indexOf(Math.max(...like))
}
