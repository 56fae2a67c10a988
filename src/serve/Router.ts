/**
 * Which source a prompt is nearest to: the cosine between weights of n-grams of tokens (TF-IDF), which need no model. N-grams
 * are hashed, so what is kept of a source is bounded, whatever it holds.
 */

/** Longest n-grams. */
const LONGEST = 3

/** N-grams that are kept of a source, the heaviest. */
const KEPT = 2 ** 17

/** Where a prompt leads. */
export interface Found {
  readonly id: bigint
  readonly name: string
  /** From 0 to 1. */
  readonly similarity: number
}

export interface Router {
  /** How many sources it leads to. */
  readonly size: number
  /** The nearest of the sources that may be lit; undefined where none has an n-gram in common with the prompt. */
  readonly nearest: (tokens: ArrayLike<number>, allowed: (id: bigint) => boolean) => Found | undefined
}

/** How often each n-gram comes, by its hash. */
export const count = (tokens: ArrayLike<number>, into = new Map<number, number>()): Map<number, number> => {
  for (let t = 0; t < tokens.length; t++) {
    let hash = 0x811c9dc5
    for (let n = 0; n < LONGEST && t + n < tokens.length; n++) {
      hash = Math.imul(hash ^ tokens[t + n]! ^ (n << 28), 0x01000193)
      hash ^= hash >>> 15
      into.set(hash >>> 0, (into.get(hash >>> 0) ?? 0) + 1)
    }
  }
  return into
}

/** A router to sources, of which each has counts of its n-grams. */
export const make = (
  sources: ReadonlyArray<{ readonly id: bigint; readonly name: string; readonly counts: ReadonlyMap<number, number> }>
): Router => {
  const holders = new Map<number, number>()
  for (const { counts } of sources) for (const gram of counts.keys()) holders.set(gram, (holders.get(gram) ?? 0) + 1)
  /** What every source has tells nothing of which it is. */
  const weight = (gram: number, often: number): number =>
    (1 + Math.log(often)) * Math.log((1 + sources.length) / (holders.get(gram) ?? 1))
  const lists = new Map<number, Array<readonly [source: number, weight: number]>>()
  for (const [s, { counts }] of sources.entries()) {
    const all = Array.from(counts, ([gram, often]) => [gram, weight(gram, often)] as const)
    const norm = Math.sqrt(all.reduce((sum, [, w]) => sum + w * w, 0)) || 1
    for (const [gram, w] of all.sort((a, b) => b[1] - a[1]).slice(0, KEPT)) {
      const list = lists.get(gram) ?? []
      if (list.length === 0) lists.set(gram, list)
      list.push([s, w / norm])
    }
  }
  return {
    size: sources.length,
    nearest: (tokens, allowed) => {
      const sums = new Map<number, number>()
      let square = 0
      for (const [gram, often] of count(tokens)) {
        const own = weight(gram, often)
        square += own * own
        for (const [s, w] of lists.get(gram) ?? []) sums.set(s, (sums.get(s) ?? 0) + own * w)
      }
      let best: Found | undefined
      for (const [s, sum] of sums) {
        const { id, name } = sources[s]!
        const similarity = sum / Math.sqrt(square)
        const better = best === undefined || similarity > best.similarity ||
          similarity === best.similarity && id < best.id
        if (similarity > 0 && better && allowed(id)) best = { id, name, similarity: Math.min(1, similarity) }
      }
      return best
    }
  }
}
