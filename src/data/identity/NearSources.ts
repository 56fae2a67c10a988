/** Who else holds what a source says: near-duplicates of its documents, equal ones among them, by the sources they are of. */
import type { TokenDocuments } from "../Pieces.ts"

/** Other sources that are named at most. */
const NAMED = 16

/** What others hold of a source's documents. */
export interface HeldByOthers {
  /** Documents of other sources that are near-duplicates of its own. */
  readonly nearDuplicates: number
  /** The names of those with most of them, 16 at most; where very many share one text, only those with most of that. */
  readonly nearSources: ReadonlyArray<string>
}

interface Sums {
  documents: number
  readonly others: Map<number, number>
}

/**
 * What others hold of each source, by its place in `corpus.sources`, of the documents that are looked at (default: all). Takes
 * a look at every document, and time for the clusters that go over several sources, which grows with their documents.
 */
export const nearSources = (
  corpus: Pick<TokenDocuments, "documents" | "source" | "sources">,
  near: (document: number) => number,
  includes: (document: number) => boolean = () => true
): (source: number) => HeldByOthers => {
  const { documents, source, sources } = corpus
  // most clusters are of one source, or one document: only those of several are counted
  const first = new Int32Array(documents).fill(-1)
  const several = new Uint8Array(documents)
  for (let d = 0; d < documents; d++) {
    if (!includes(d)) continue
    const [cluster, own] = [near(d), source(d)]
    if (first[cluster] === -1) first[cluster] = own
    else if (first[cluster] !== own) several[cluster] = 1
  }
  const clusters = new Map<number, Map<number, number>>()
  for (let d = 0; d < documents; d++) {
    const cluster = near(d)
    if (several[cluster] === 0 || !includes(d)) continue
    const counts = clusters.get(cluster) ?? new Map<number, number>()
    clusters.set(cluster, counts.set(source(d), (counts.get(source(d)) ?? 0) + 1))
  }
  const most = (counts: Iterable<readonly [number, number]>) =>
    [...counts].sort(([a, n], [b, m]) => m - n || (sources[a]! < sources[b]! ? -1 : 1))
  const found = new Map<number, Sums>()
  for (const counts of clusters.values()) {
    let all = 0
    for (const count of counts.values()) all += count
    const largest = most(counts).slice(0, NAMED + 1)
    for (const [own, count] of counts) {
      const sums = found.get(own) ?? { documents: 0, others: new Map<number, number>() }
      found.set(own, sums)
      sums.documents += all - count
      for (const [other, theirs] of largest) {
        if (other !== own) sums.others.set(other, (sums.others.get(other) ?? 0) + theirs)
      }
    }
  }
  return (own) => {
    const { documents, others } = found.get(own) ?? { documents: 0, others: [] }
    return {
      nearDuplicates: documents,
      nearSources: most(others).slice(0, NAMED).map(([other]) => sources[other]!)
    }
  }
}
