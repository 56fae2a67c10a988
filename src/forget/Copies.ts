/**
 * Who else holds a text. What is deleted under one name lives on under another where a second source says the same: equal
 * documents are known by the hash of their text, near-duplicates by the clusters that `memsinks tokenize --near` made, and
 * passages by the runs of tokens that they share.
 */
import type { TokenDocuments } from "../data/Pieces.ts"
import { absorb, finish } from "../TokenHash.ts"

/** How a document is like another text. */
export type Likeness = "equal" | "near" | "holds"

/** Documents of one source that say what others say. */
export interface Holder {
  readonly source: string
  readonly likeness: Likeness
  readonly documents: number
  /** Some of their names. */
  readonly examples: ReadonlyArray<string>
}

/** Names of documents that a holder lists. */
const EXAMPLES = 3

const gathered = (
  found: Iterable<readonly [source: string, likeness: Likeness, document: string]>
): ReadonlyArray<Holder> => {
  const holders = new Map<string, { source: string; likeness: Likeness; documents: number; examples: Array<string> }>()
  for (const [source, likeness, document] of found) {
    const key = `${likeness} ${source}`
    const one = holders.get(key) ?? { source, likeness, documents: 0, examples: [] }
    one.documents++
    if (one.examples.length < EXAMPLES) one.examples.push(document)
    holders.set(key, one)
  }
  return [...holders.values()].sort((a, b) => b.documents - a.documents || (a.source < b.source ? -1 : 1))
}

/**
 * How a document is like one of the sources in `gone`: `equal`, or `near` where the corpus knows clusters; undefined where it is
 * not, and for their own. Undefined where the corpus knows neither hashes nor clusters.
 */
export const isCopy = (
  corpus: TokenDocuments,
  gone: ReadonlySet<string>
): ((document: number) => "equal" | "near" | undefined) | undefined => {
  const { content, documents, near, sources } = corpus
  if (content === undefined && near === undefined) return undefined
  const isGone = sources.map((name) => gone.has(name))
  const [hashes, clusters] = [new Set<bigint>(), new Set<number>()]
  for (let d = 0; d < documents; d++) {
    if (!isGone[corpus.source(d)]!) continue
    if (content !== undefined) hashes.add(content(d))
    if (near !== undefined) clusters.add(near(d))
  }
  return (d) =>
    isGone[corpus.source(d)]!
      ? undefined
      : content !== undefined && hashes.has(content(d))
      ? "equal"
      : near !== undefined && clusters.has(near(d))
      ? "near"
      : undefined
}

/**
 * Sources that are not in `gone` and hold documents equal to theirs, or near-duplicates of them where the corpus knows
 * clusters. Undefined where it knows neither hashes nor clusters.
 */
export const copiesOf = (corpus: TokenDocuments, gone: ReadonlySet<string>): ReadonlyArray<Holder> | undefined => {
  const likeness = isCopy(corpus, gone)
  if (likeness === undefined) return undefined
  const found: Array<readonly [string, Likeness, string]> = []
  for (let d = 0; d < corpus.documents; d++) {
    const like = likeness(d)
    if (like !== undefined) found.push([corpus.sources[corpus.source(d)]!, like, corpus.name(d)])
  }
  return gathered(found)
}

/** Tokens of a run that counts as shared: long enough that chance does not share it. */
const RUN = 12

const runsOf = function*(tokens: ArrayLike<number>): Generator<number> {
  for (let i = 0; i + RUN <= tokens.length; i++) {
    let hash = 0
    for (let k = 0; k < RUN; k++) hash = absorb(hash, tokens[i + k]!)
    yield finish(hash)
  }
}

/**
 * Sources whose documents hold at least `share` of the runs of 12 tokens of a text (default: half of them), a document at a
 * time, so it may be asked of any corpus. A text of fewer tokens is held where all of it stands in a row. Reads every token.
 */
export function* holdersOf(
  corpus: TokenDocuments,
  text: ArrayLike<number>,
  share = 0.5
): Generator<void, ReadonlyArray<Holder>> {
  const wanted = new Set(runsOf(text))
  const short = Array.from(text)
  const found: Array<readonly [string, Likeness, string]> = []
  for (let d = 0; d < corpus.documents; d++) {
    const tokens = corpus.read(d, 0, corpus.length(d))
    let holds: boolean
    if (wanted.size === 0) {
      holds = short.length > 0 && tokens.some((_, i) => short.every((token, k) => tokens[i + k] === token))
    } else {
      const met = new Set<number>()
      for (const run of runsOf(tokens)) if (wanted.has(run)) met.add(run)
      holds = met.size >= share * wanted.size
    }
    if (holds) found.push([corpus.sources[corpus.source(d)]!, "holds", corpus.name(d)])
    yield
  }
  return gathered(found)
}
