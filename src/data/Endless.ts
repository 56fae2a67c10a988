/** Rows for training that goes over the same few again and again. Pure. */
import type { Random } from "../Random.ts"

/**
 * Draws without end: all items in a random order, then all in another, so that none comes twice before all came once.
 */
export const endless = <A>(items: ReadonlyArray<A>, random: Random): (count: number) => ReadonlyArray<A> => {
  let left: Array<A> = []
  return (count) =>
    Array.from({ length: count }, () => {
      if (left.length === 0) left = random.shuffle([...items])
      return left.pop()!
    })
}
