/**
 * Near-verbatim recall (nv-recall; Ahmed et al. 2026): how much of a source a text gives back in order, in long spans that may
 * be broken by a few other words. Pure.
 *
 * Blocks that both have, in the same order, are found as difflib does: the longest, then the same on each side of it. Two
 * rounds follow, each of which joins blocks with small gaps and drops what is still short. The recall is the share of the
 * source's items that are equal in what is left.
 */

/** Items that both have, [source, source + length) and [text, text + length), and how many of these are equal. */
export interface Block {
  readonly source: number
  readonly text: number
  /** In the source and in the text; they differ where blocks with gaps were joined. */
  readonly sourceLength: number
  readonly textLength: number
  readonly matched: number
}

/** How blocks are joined, and which are kept. */
export interface Round {
  /** Items between two blocks at most, in the source and in the text. */
  readonly gap: number
  /** By how much the two gaps may differ. */
  readonly drift: number
  /** Equal items that a block needs, else it is dropped. */
  readonly length: number
}

/** The authors', for books, in words: 20 words in a row but for slips, then passages of 100. */
export const bookRounds: ReadonlyArray<Round> = [{ gap: 2, drift: 1, length: 20 }, { gap: 10, drift: 3, length: 100 }]

/** The longest run that both have between places, the first in the source and then in the text of equal ones. */
const longestRun = <A>(
  source: ArrayLike<A>,
  places: ReadonlyMap<A, ReadonlyArray<number>>,
  [s0, s1, t0, t1]: readonly [number, number, number, number]
): readonly [source: number, text: number, length: number] => {
  let best: readonly [number, number, number] = [s0, t0, 0]
  /** Lengths of runs that end at a place of the text, and at the source's place before. */
  let before = new Map<number, number>()
  for (let i = s0; i < s1; i++) {
    const now = new Map<number, number>()
    for (const j of places.get(source[i]!) ?? []) {
      if (j < t0) continue
      if (j >= t1) break
      const length = (before.get(j - 1) ?? 0) + 1
      now.set(j, length)
      if (length > best[2]) best = [i - length + 1, j - length + 1, length]
    }
    before = now
  }
  return best
}

/** Blocks of equal items, in order: the longest, and those before and behind it in both. */
export const matchingBlocks = <A>(source: ArrayLike<A>, text: ArrayLike<A>): ReadonlyArray<Block> => {
  const places = new Map<A, Array<number>>()
  for (let j = 0; j < text.length; j++) {
    const known = places.get(text[j]!)
    if (known === undefined) places.set(text[j]!, [j])
    else known.push(j)
  }
  const found: Array<Block> = []
  const open: Array<readonly [number, number, number, number]> = [[0, source.length, 0, text.length]]
  for (let range = open.pop(); range !== undefined; range = open.pop()) {
    const [s0, s1, t0, t1] = range
    const [s, t, length] = longestRun(source, places, range)
    if (length === 0) continue
    found.push({ source: s, text: t, sourceLength: length, textLength: length, matched: length })
    if (s0 < s && t0 < t) open.push([s0, s, t0, t])
    if (s + length < s1 && t + length < t1) open.push([s + length, s1, t + length, t1])
  }
  return found.sort((a, b) => a.source - b.source)
}

const join = (blocks: ReadonlyArray<Block>, { drift, gap }: Round): ReadonlyArray<Block> => {
  const joined: Array<Block> = []
  for (const block of blocks) {
    const last = joined.at(-1)
    const between = last === undefined ? Infinity : block.source - last.source - last.sourceLength
    const betweenText = last === undefined ? Infinity : block.text - last.text - last.textLength
    if (last === undefined || between > gap || betweenText > gap || Math.abs(between - betweenText) > drift) {
      joined.push(block)
      continue
    }
    joined[joined.length - 1] = {
      ...last,
      sourceLength: block.source + block.sourceLength - last.source,
      textLength: block.text + block.textLength - last.text,
      matched: last.matched + block.matched
    }
  }
  return joined
}

/** What a text gives back of a source. */
export interface NearVerbatim {
  /** The near-verbatim blocks, in order. */
  readonly blocks: ReadonlyArray<Block>
  /** Equal items in them. */
  readonly matched: number
  /** The same as a share of the source's items; NaN of an empty source. */
  readonly recall: number
  /** Equal items of the longest. */
  readonly longest: number
}

/** How much of a source a text gives back near verbatim: of sequences of words, or of tokens. */
export const nearVerbatim = <A>(
  source: ArrayLike<A>,
  text: ArrayLike<A>,
  rounds: ReadonlyArray<Round> = bookRounds
): NearVerbatim => {
  let blocks = matchingBlocks(source, text)
  for (const round of rounds) blocks = join(blocks, round).filter(({ matched }) => matched >= round.length)
  const matched = blocks.reduce((sum, block) => sum + block.matched, 0)
  return {
    blocks,
    matched,
    recall: matched / source.length,
    longest: blocks.reduce((most, block) => Math.max(most, block.matched), 0)
  }
}
