/**
 * What a choice of identity means for a corpus, before training: how many ids there are, what repeats, and how they
 * share sinks. Pure: it reads lengths, sources and hashes, and words only for a few examples.
 */
import { DataError } from "../../Errors.ts"
import { type SinkConfig, unitsOf } from "../../Sink.ts"
import { columns, count, plural, printable } from "../../Terminal.ts"
import { documentIds, identities, type Identity } from "../identity/Identity.ts"
import type { TokenDocuments } from "../Pieces.ts"
import { exposureLines, type SinkExposure, sinkExposure, type TokenShares, tokenShares } from "../tokens/TokenShares.ts"

/** The choice of ids that is looked at, and the model and the training that it is meant for. */
export interface IdentityReportOptions {
  readonly identity: Identity
  /** How sinks are shared out. Left out: the report says nothing of them. */
  readonly sinks?: SinkConfig | undefined
  /** Neurons that are always on, beside the sinks. Left out: nothing is said of what switching sinks off will cost. */
  readonly general?: number
  /** Tokens a row feeds to the model; a row of identity `row` has one more. Default 1024. */
  readonly seqLen?: number
  /** How often a document is trained on in an epoch; 0 where it is held out. Default: once each. */
  readonly exposures?: (document: number) => number
  /** An id's sink fits while at most so many other ids light it. Default 1. */
  readonly maxOthers?: number
  /** The beginning of a document's text, for examples of near-duplicates. */
  readonly text?: (document: number) => string
}

/** Ids by how often each is seen in an epoch. */
export interface RepeatBin {
  readonly from: number
  /** Inclusive; null: without end. */
  readonly to: number | null
  readonly ids: number
  /** Documents, or rows, counted as often as they are seen. */
  readonly exposures: number
  readonly tokens: number
}

/** What one identity makes of the corpus. */
export interface IdentitySummary {
  readonly identity: Identity
  readonly ids: number
  /** Ids that are seen more than once in an epoch, and the share of all tokens seen that are theirs. */
  readonly repeatedIds: number
  readonly repeatedTokens: number
  /** Exposures of the id that has most. */
  readonly most: number
  readonly repeats: ReadonlyArray<RepeatBin>
}

/** A number from theory, and the same counted with the sinks that ids really have; null: there are too many ids. */
export interface Checked {
  readonly expected: number
  readonly counted: number | null
}

/** How the ids of a population share a pool with each other. */
export interface SinkUse {
  readonly ids: number
  /** Other ids that light one of an id's sinks, on average: (ids - 1) active / pool. */
  readonly othersPerSink: Checked
  /** Ids that light the most lit sink. */
  readonly mostLit: number | null
  /** Share of ids that have a sink, at least a block, that no other id lights. */
  readonly ownSink: Checked
  /** Share of ids whose sinks fit: at least half of them are lit by at most `maxOthers` other ids. */
  readonly fitting: Checked
  /** The smallest pool, `active` and `block` unchanged, in which a sink has fewer than one other id on average. */
  readonly poolForFewerThanOne: number
  /** The smallest pool in which the sinks of 95 % of the ids fit. */
  readonly poolForFitting: number
}

export interface SinkReport {
  readonly pool: number
  readonly active: number
  readonly block: number
  readonly units: number
  readonly activeUnits: number
  readonly maxOthers: number
  /** Of two ids: blocks they share on average, the share of an id's sinks, and the probability that they share any. */
  readonly pair: { readonly shared: Checked; readonly share: number; readonly any: Checked }
  readonly all: SinkUse
  /** Repeated ids among themselves; null where there are none. */
  readonly repeated: SinkUse | null
}

export interface NearExample {
  /** Documents in the cluster. */
  readonly documents: number
  /** The first, and up to two others, those of other content before its exact repeats. */
  readonly members: ReadonlyArray<{ readonly document: number; readonly name: string; readonly text: string }>
}

/** What a choice of ids means for the tokens that are trained on and for a pool of sinks, before training. */
export interface IdentityReport extends IdentitySummary {
  /** Documents and tokens that are trained on, counted once. */
  readonly documents: number
  readonly tokens: number
  readonly seqLen: number
  /** How the tokens seen are shared out among ids. */
  readonly shares: TokenShares
  /** What that means for sinks: null where they, or the general neurons, are not known. */
  readonly exposure: (SinkExposure & { readonly general: number }) | null
  /**
   * The ids that are seen most, 5 at most: exposures, tokens of all their documents, and names of the first few documents;
   * of a source, its own name.
   */
  readonly mostSeen: ReadonlyArray<{
    readonly id: string
    readonly exposures: number
    readonly tokens: number
    readonly names: ReadonlyArray<string>
  }>
  /** Null where the corpus does not know near-duplicates. */
  readonly near: {
    /** Clusters of two documents or more, and documents in them. */
    readonly clusters: number
    readonly documents: number
    /** Documents that repeat an earlier one's content; null where contents are not known. */
    readonly exactRepeats: number | null
    readonly examples: ReadonlyArray<NearExample>
  } | null
  readonly sinks: SinkReport | null
  /** Every identity that the corpus allows. */
  readonly modes: ReadonlyArray<IdentitySummary & { readonly othersPerSink: number | null }>
}

const EDGES = [1, 2, 3, 11, 101, 1001]
const EXAMPLES = 5
/** Ids whose sinks are really drawn: no more of them, and no more sinks in all: about a second. */
const MOST_IDS = 200_000
const MOST_UNITS = 1_000_000

/** The first document of each document's id, itself where there is none before it. */
const leaders = (identity: Exclude<Identity, "row">, corpus: TokenDocuments): Uint32Array | undefined => {
  const { content, documents, near, source } = corpus
  if (identity === "near" && near !== undefined) return Uint32Array.from({ length: documents }, (_, d) => near(d))
  if (identity === "source") {
    const first = new Map<number, number>()
    return Uint32Array.from({ length: documents }, (_, d) => {
      const known = first.get(source(d))
      if (known === undefined) first.set(source(d), d)
      return known ?? d
    })
  }
  if (identity === "content" && content !== undefined) {
    // an open table of document numbers, one more: a Map of millions of bigints would take a hundred bytes for each
    let size = 16
    while (size < 2 * documents) size *= 2
    const table = new Uint32Array(size)
    return Uint32Array.from({ length: documents }, (_, d) => {
      const hash = content(d)
      let place = Number(BigInt.asUintN(32, hash)) & (size - 1)
      while (table[place] !== 0 && content(table[place]! - 1) !== hash) place = (place + 1) & (size - 1)
      if (table[place] === 0) table[place] = d + 1
      return table[place]! - 1
    })
  }
  return identity === "document" ? Uint32Array.from({ length: documents }, (_, d) => d) : undefined
}

/** Ids of one identity, one after the other: how often each is seen, the tokens of all its exposures. */
interface Ids {
  readonly each: (use: (id: bigint, exposures: number, tokens: number, document: number) => void) => void
}

const rowsOf = (corpus: TokenDocuments, seqLen: number, document: number): number =>
  Math.max(1, Math.ceil(corpus.length(document) / (seqLen + 1)))

const idsOf = (
  identity: Identity,
  corpus: TokenDocuments,
  seqLen: number,
  exposures: (document: number) => number
): Ids | undefined => {
  if (identity === "row") {
    return {
      each: (use) => {
        let row = 0
        for (let d = 0; d < corpus.documents; d++) {
          const times = exposures(d)
          const rows = rowsOf(corpus, seqLen, d)
          for (let i = 0; i < rows; i++) {
            row++
            const tokens = Math.min(seqLen + 1, corpus.length(d) - i * (seqLen + 1))
            if (times > 0) use(BigInt(row), times, times * tokens, d)
          }
        }
      }
    }
  }
  const first = leaders(identity, corpus)
  const idOf = documentIds(identity, corpus)
  if (first === undefined || idOf === undefined) return undefined
  const seen = new Float64Array(corpus.documents)
  const tokens = new Float64Array(corpus.documents)
  for (let d = 0; d < corpus.documents; d++) {
    seen[first[d]!]! += exposures(d)
    tokens[first[d]!]! += exposures(d) * corpus.length(d)
  }
  return {
    each: (use) => {
      for (let d = 0; d < corpus.documents; d++) if (seen[d]! > 0) use(idOf(d), seen[d]!, tokens[d]!, d)
    }
  }
}

const summaryOf = (identity: Identity, ids: Ids): IdentitySummary => {
  const repeats = EDGES.map((from, i) => ({
    from,
    to: i + 1 < EDGES.length ? EDGES[i + 1]! - 1 : null,
    ids: 0,
    exposures: 0,
    tokens: 0
  }))
  let most = 0
  ids.each((_, exposures, tokens) => {
    const bin = repeats.findLast(({ from }) => from <= exposures) ?? repeats[0]!
    bin.ids++
    bin.exposures += exposures
    bin.tokens += tokens
    most = Math.max(most, exposures)
  })
  const sum = (of: ReadonlyArray<RepeatBin>, field: "ids" | "tokens"): number =>
    of.reduce((n, bin) => n + bin[field], 0)
  return {
    identity,
    ids: sum(repeats, "ids"),
    repeatedIds: sum(repeats.slice(1), "ids"),
    repeatedTokens: sum(repeats.slice(1), "tokens") / Math.max(1, sum(repeats, "tokens")),
    most,
    repeats
  }
}

/** Probabilities that 0, 1, .. `most` of n independent chances of p come true. */
const binomial = (n: number, p: number, most: number): ReadonlyArray<number> => {
  if (p >= 1) return Array.from({ length: most + 1 }, (_, i) => i === n ? 1 : 0)
  const chances: Array<number> = []
  let log = n * Math.log1p(-p)
  for (let i = 0; i <= Math.min(n, most); i++) {
    chances.push(Math.exp(log))
    log += Math.log((n - i) / (i + 1)) + Math.log(p / (1 - p))
  }
  return chances
}
const total = (chances: ReadonlyArray<number>): number => Math.min(1, chances.reduce((a, b) => a + b, 0))

/** Probability that two ids share no unit: hypergeometric for exactly k of n, independent for the others. */
const apart = (sinks: SinkConfig): number => {
  const { activeUnits: k, shards = 1, sliceProbability: p, sliceUnits: n } = sinks
  let chance = 1
  for (let i = 0; i < k; i++) chance *= Math.max(0, n - k - i) / (n - i)
  if (!sinks.exact) chance = (1 - p * p) ** n
  // ids of two shards share none
  return shards === 1 ? chance : 1 - (1 - chance) / shards
}

/** How many of the other ids may be of an id's shard, and how probable each number is. */
type Crowds = ReadonlyArray<{ readonly others: number; readonly weight: number }>

const crowdsOf = (others: number, { shards = 1 }: SinkConfig): Crowds => {
  if (shards === 1) return [{ others, weight: 1 }]
  const mean = others / shards
  const deviation = Math.sqrt(mean * (1 - 1 / shards))
  const crowds = mean <= 1000
    ? binomial(others, 1 / shards, Math.ceil(mean + 8 * deviation)).map((weight, others) => ({ others, weight }))
    // of so many they are as in a normal distribution
    : Array.from({ length: 33 }, (_, i) => (i - 16) / 4)
      .map((z) => ({ others: Math.round(mean + z * deviation), weight: Math.exp(-z * z / 2) }))
  const all = crowds.reduce((sum, { weight }) => sum + weight, 0)
  return crowds.map(({ others, weight }) => ({ others, weight: weight / all })).filter(({ weight }) => weight > 1e-9)
}

/** Expected shares of ids with a sink of their own, and of those whose sinks fit, in a pool of `units`. */
const expectedUse = (crowds: Crowds, units: number, sinks: SinkConfig, maxOthers: number) => {
  // the papers' masks light this many on average; near enough
  const k = Math.max(1, Math.round(sinks.activeUnits))
  const lit = Math.min(1, (sinks.shards ?? 1) * sinks.activeUnits / units)
  let [own, fitting] = [0, 0]
  for (const { others, weight } of crowds) {
    const chances = binomial(others, lit, maxOthers)
    const [alone, few] = [chances[0] ?? 1, total(chances)]
    own += weight * (1 - (1 - alone) ** k)
    fitting += weight * (1 - total(binomial(k, few, Math.ceil(k / 2) - 1)))
  }
  return { own, fitting }
}

/** The smallest multiple of `step` from `least` on for which `test` holds; it holds for all that are larger. */
const smallest = (least: number, step: number, test: (n: number) => boolean): number => {
  let high = Math.ceil(least / step)
  let low = high - 1
  while (!test(high * step)) [low, high] = [high, 2 * high]
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2)
    if (test(middle * step)) high = middle
    else low = middle
  }
  return high * step
}

/** Ids of a population, or as many of them, evenly spread, as can be looked at. */
interface Population {
  readonly count: number
  readonly ids: ReadonlyArray<bigint>
}

const population = (ids: Ids, sinks: SinkConfig, belongs: (exposures: number) => boolean): Population => {
  let count = 0
  ids.each((_, exposures) => void (count += belongs(exposures) ? 1 : 0))
  const most = Math.max(2, Math.min(MOST_IDS, Math.floor(MOST_UNITS / Math.max(1, sinks.activeUnits))))
  const stride = Math.ceil(count / most)
  const found: Array<bigint> = []
  let next = 0
  ids.each((id, exposures) => {
    if (belongs(exposures) && next++ % stride === 0) found.push(id)
  })
  return { count, ids: found }
}

const useOf = ({ count, ids }: Population, sinks: SinkConfig, maxOthers: number) => {
  const drawn = ids.map((id) => unitsOf(sinks, id))
  const load = new Uint32Array(sinks.units)
  for (const units of drawn) for (const unit of units) load[unit]!++
  let [pairs, places, own, fitting] = [0, 0, 0, 0]
  for (const units of drawn) {
    places += units.length
    let [alone, few] = [0, 0]
    for (const unit of units) {
      pairs += load[unit]! - 1
      if (load[unit] === 1) alone++
      if (load[unit]! <= maxOthers + 1) few++
    }
    if (alone > 0) own++
    if (units.length > 0 && 2 * few >= units.length) fitting++
  }
  const whole = ids.length === count
  const crowds = crowdsOf(Math.max(0, count - 1), sinks)
  const theory = expectedUse(crowds, sinks.units, sinks, maxOthers)
  const least = sinks.active * (sinks.shards ?? 1)
  const share = (n: number): number | null => whole ? n / count : null
  const use: SinkUse = {
    ids: count,
    othersPerSink: {
      expected: (count - 1) * sinks.probability,
      counted: count < 2 ? 0 : (pairs / Math.max(1, places)) * ((count - 1) / Math.max(1, ids.length - 1))
    },
    mostLit: whole ? load.reduce((a, b) => Math.max(a, b), 0) : null,
    ownSink: { expected: theory.own, counted: share(own) },
    fitting: { expected: theory.fitting, counted: share(fitting) },
    poolForFewerThanOne: smallest(least, sinks.poolUnit, (pool) => (count - 1) * sinks.active < pool),
    poolForFitting: smallest(
      least,
      sinks.poolUnit,
      (pool) => expectedUse(crowds, pool / sinks.block, sinks, maxOthers).fitting >= 0.95
    )
  }
  // pairs of ids that follow each other, which are as good as any
  let [shared, any, compared] = [0, 0, 0]
  for (let i = 1; i < Math.min(drawn.length, 20_000); i++) {
    const before = new Set(drawn[i - 1])
    const both = drawn[i]!.reduce((n, unit) => n + (before.has(unit) ? 1 : 0), 0)
    shared += both
    any += both > 0 ? 1 : 0
    compared++
  }
  return { use, shared: compared === 0 ? null : shared / compared, any: compared === 0 ? null : any / compared }
}

const sinksReport = (ids: Ids, sinks: SinkConfig, repeatedIds: number, maxOthers: number): SinkReport => {
  const all = useOf(population(ids, sinks, () => true), sinks, maxOthers)
  const { active, activeUnits, block, pool, probability, units } = sinks
  return {
    pool,
    active,
    block,
    units,
    activeUnits,
    maxOthers,
    pair: {
      shared: { expected: activeUnits * probability, counted: all.shared },
      share: probability,
      any: { expected: 1 - apart(sinks), counted: all.any }
    },
    all: all.use,
    repeated: repeatedIds === 0
      ? null
      : useOf(population(ids, sinks, (exposures) => exposures > 1), sinks, maxOthers).use
  }
}

const cut = (text: string, width: number): string => text.length <= width ? text : `${text.slice(0, width - 3)}...`

const nearReport = (
  corpus: TokenDocuments,
  exposures: (document: number) => number,
  text: (document: number) => string
): IdentityReport["near"] => {
  const first = leaders("near", corpus)
  if (first === undefined) return null
  const { content, documents, name } = corpus
  const trained = (d: number): boolean => exposures(d) > 0
  const size = new Uint32Array(documents)
  const varied = new Uint8Array(documents)
  for (let d = 0; d < documents; d++) {
    if (!trained(d)) continue
    size[first[d]!]!++
    if (content === undefined || content(d) !== content(first[d]!)) varied[first[d]!] = 1
  }
  const clusters = Array.from(size.keys()).filter((d) => size[d]! > 1)
  const shown = clusters.slice().sort((a, b) => varied[b]! - varied[a]! || size[b]! - size[a]! || a - b).slice(0,
    EXAMPLES)
  const members = new Map(shown.map((d): [number, Array<number>] => [d, []]))
  // other texts first, exact repeats only where there are no others
  for (const repeats of [false, true]) {
    for (let d = 0; d < documents; d++) {
      const list = members.get(first[d]!)
      if (list === undefined || d === first[d] || list.length === 2 || !trained(d)) continue
      const repeat = content !== undefined && content(d) === content(first[d]!)
      if (repeat === repeats && !list.includes(d)) list.push(d)
    }
  }
  const exact = leaders("content", corpus)
  return {
    clusters: clusters.length,
    documents: clusters.reduce((n, d) => n + size[d]!, 0),
    exactRepeats: exact === undefined ? null : exact.reduce((n, one, d) => n + (one !== d && trained(d) ? 1 : 0), 0),
    examples: shown.map((leader) => ({
      documents: size[leader]!,
      members: [leader, ...members.get(leader)!].map((document) => ({
        document,
        name: name(document),
        text: cut(text(document).slice(0, 500).replace(/\s+/g, " ").trim(), 80)
      }))
    }))
  }
}

const mostSeen = (
  identity: Identity,
  corpus: TokenDocuments,
  ids: Ids,
  exposures: (document: number) => number
): IdentityReport["mostSeen"] => {
  let top: Array<{ id: bigint; exposures: number; tokens: number; document: number }> = []
  ids.each((id, exposures, tokens, document) => {
    if (exposures < 2 || (top.length === EXAMPLES && exposures <= top[EXAMPLES - 1]!.exposures)) return
    top = [...top, { id, exposures, tokens, document }].sort((a, b) => b.exposures - a.exposures).slice(0, EXAMPLES)
  })
  const first = identity === "row" ? undefined : leaders(identity, corpus)
  return top.map(({ document, id, ...seen }) => {
    const names = [identity === "source" ? corpus.sources[corpus.source(document)]! : corpus.name(document)]
    for (let d = document + 1; identity !== "source" && first !== undefined && d < corpus.documents && names.length < 3;
      d++)
    {
      if (first[d] === document && exposures(d) > 0) names.push(corpus.name(d))
    }
    const hashed = identity === "source" || identity === "content"
    return { id: hashed ? `0x${id.toString(16).padStart(16, "0")}` : String(id), ...seen, names }
  })
}

/**
 * Reports on a corpus and the identity that is to be used, and for comparison on every other that the corpus allows.
 * Undefined where the identity takes what the corpus does not know (`content`, `near`).
 */
export const identityReport = (
  corpus: TokenDocuments,
  options: IdentityReportOptions
): IdentityReport | undefined => {
  const { exposures = () => 1, general, identity, maxOthers = 1, seqLen = 1024, sinks, text = () => "" } = options
  if (!(Number.isSafeInteger(seqLen) && seqLen >= 1)) {
    throw new DataError({ detail: `seqLen must be a whole number of at least 1, got ${seqLen}` })
  }
  const ids = idsOf(identity, corpus, seqLen, exposures)
  if (ids === undefined) return undefined
  let [documents, tokens] = [0, 0]
  for (let d = 0; d < corpus.documents; d++) {
    if (exposures(d) > 0) [documents, tokens] = [documents + 1, tokens + corpus.length(d)]
  }
  const summary = summaryOf(identity, ids)
  const modes = identities.flatMap((mode) => {
    const these = mode === identity ? ids : idsOf(mode, corpus, seqLen, exposures)
    if (these === undefined) return []
    const one = mode === identity ? summary : summaryOf(mode, these)
    return [{ ...one, othersPerSink: sinks === undefined ? null : Math.max(0, one.ids - 1) * sinks.probability }]
  })
  const shares = tokenShares((use) =>
    ids.each((id, _, tokens, document) =>
      use(id, tokens, () => identity === "source" ? corpus.sources[corpus.source(document)]! : corpus.name(document))
    )
  )
  return {
    ...summary,
    shares,
    exposure: sinks === undefined || general === undefined || summary.ids === 0
      ? null
      : { general, ...sinkExposure(shares, { general, active: sinks.active, pool: sinks.pool }) },
    documents,
    tokens,
    seqLen,
    mostSeen: mostSeen(identity, corpus, ids, exposures),
    near: nearReport(corpus, exposures, text),
    sinks: sinks === undefined || summary.ids === 0
      ? null
      : sinksReport(ids, sinks, summary.repeatedIds, maxOthers),
    modes
  }
}

const percent = (share: number): string =>
  `${(100 * share).toFixed(share === 0 || share === 1 ? 0 : share < 0.01 || share > 0.99 ? 2 : 1)} %`
const few = (n: number): string => {
  if (n === 0 || n >= 100) return count(n)
  return n < 0.01 ? "under .01" : n.toPrecision(2).replace(/^0\./, ".").replace(/\.0$/, "")
}

const WIDTH = 100

const sharing: Readonly<Record<Identity, string>> = {
  row: "every row has sinks of its own",
  document: "the rows of a document share sinks",
  source: "the documents of a source share sinks",
  content: "exact repeats share sinks",
  near: "near-duplicates share sinks"
}

const counted = ({ counted, expected }: Checked, show: (n: number) => string): string =>
  counted === null ? `about ${show(expected)}` : show(counted)

/** Neurons beyond which no pool is advised: no model has such an MLP. */
const LARGEST_POOL = 1_000_000

const useLines = (use: SinkUse, who: string, { maxOthers, pair, pool }: SinkReport): ReadonlyArray<string> => {
  const others = maxOthers === 1 ? "one other" : `${maxOthers} others`
  const needed = [
    ...(use.poolForFewerThanOne > pool ? [`${count(use.poolForFewerThanOne)} for fewer than one other a sink`] : []),
    ...(use.poolForFitting > pool ? [`${count(use.poolForFitting)} for the sinks of 95 % to fit`] : [])
  ]
  return [
    `  ${who}: ${counted(use.othersPerSink, few)} others a sink on average` +
    (use.mostLit === null ? "" : `, ${plural(use.mostLit, "id")} on the most lit`),
    `    ${counted(use.ownSink, percent)} have a sink of their own, ${counted(use.fitting, percent)} sinks that fit ` +
    `(half with at most ${others})`,
    needed.length === 0
      ? "    the pool is large enough to keep them apart"
      : use.poolForFewerThanOne > LARGEST_POOL
      ? `    too many for any pool: what keeps them apart is that another id lights ${percent(pair.share)} of it`
      : `    sinks.pool would have to be ${needed.join(", ")}`
  ]
}

const sinkLines = (sinks: SinkReport): ReadonlyArray<string> => [
  "",
  `sinks: pool ${count(sinks.pool)} in ${plural(sinks.units, "block")} of ${sinks.block}; an id lights ` +
  `${count(sinks.active)} (${percent(sinks.pair.share)}), ${plural(sinks.activeUnits, "block")}`,
  `  two ids share ${percent(sinks.pair.share)} of their sinks on average, and any at all with probability ` +
  percent(sinks.pair.any.expected),
  ...useLines(sinks.all, `all ${count(sinks.all.ids)} ids`, sinks),
  ...(sinks.repeated === null || sinks.repeated.ids === sinks.all.ids
    ? []
    : useLines(sinks.repeated, `the ${count(sinks.repeated.ids)} repeated ids among themselves`, sinks))
]

const nearLines = (near: NonNullable<IdentityReport["near"]>, examples: boolean): ReadonlyArray<string> => [
  "",
  near.clusters === 0
    ? "near-duplicates: none"
    : `near-duplicates: ${plural(near.clusters, "cluster")} of ${plural(near.documents, "document")}` +
      (near.exactRepeats === null ? "" : `; ${plural(near.exactRepeats, "exact repeat")} in the corpus`),
  ...(examples && near.clusters > near.examples.length
    ? [`  ${count(near.examples.length)} of them as examples:`]
    : []),
  ...(examples ? near.examples : []).flatMap(({ documents, members }) => [
    `  ${plural(documents, "document")}:`,
    ...members.map(({ name, text }) => {
      const short = name.length <= 30 ? name : `...${name.slice(-27)}`
      return `    ${cut(text === "" ? short : `${short}: ${text}`, WIDTH - 4)}`
    })
  ])
]

/** The report in lines of up to 100 characters, for people. */
export const formatIdentityReport = (report: IdentityReport): string => {
  const { documents, exposure, identity, modes, mostSeen, near, repeats, seqLen, shares, sinks, tokens } = report
  const of = identity === "row" ? "rows" : "documents"
  const seen = (bin: RepeatBin): string =>
    bin.to === bin.from ? count(bin.from) : bin.to === null ? `over ${count(bin.from - 1)}` : `${bin.from} to ${bin.to}`
  const all = repeats.reduce((n, bin) => n + bin.tokens, 0)
  const lines = [
    `${plural(documents, "document")}, ${count(tokens)} tokens; identity ${identity}: ${sharing[identity]}`,
    `${plural(report.ids, "id")}, ` + (report.repeatedIds === 0 ?
      "none of them repeated" :
      `${count(report.repeatedIds)} of them repeated, with ${percent(report.repeatedTokens)} of the tokens`),
    "",
    ...columns([
      [`${of} an id`, "ids", of, "tokens"],
      ...repeats.filter((bin) => bin.ids > 0).map((bin) => [
        seen(bin),
        count(bin.ids),
        count(bin.exposures),
        percent(bin.tokens / Math.max(1, all))
      ])
    ]),
    ...(mostSeen.length === 0 ? [] : ["", "most repeated:"]),
    ...mostSeen.map(({ exposures, id, names }) =>
      cut(`  ${count(exposures)} x id ${id}: ${names.join(", ")}` +
        `${identity !== "source" && exposures > names.length ? ", ..." : ""}`, WIDTH)
    ),
    ...(report.repeatedIds <= mostSeen.length ? [] : [
      `  and ${plural(report.repeatedIds - mostSeen.length, "other repeated id")}`
    ]),
    ...(near === null ? [] : nearLines(near, identity === "near")),
    ...(sinks === null ? [] : sinkLines(sinks)),
    "",
    ...exposureLines(shares, sinks === null || exposure === null ? undefined : { ...sinks, general: exposure.general }),
    "",
    ...columns([
      ["identity", "ids", "repeated", "their tokens", "most", ...(sinks === null ? [] : ["others a sink"])],
      ...modes.map((mode) => [
        mode.identity === "row" ? `row (${count(seqLen)} tokens)` : mode.identity,
        count(mode.ids),
        count(mode.repeatedIds),
        percent(mode.repeatedTokens),
        count(mode.most),
        ...(mode.othersPerSink === null ? [] : [few(mode.othersPerSink)])
      ])
    ])
  ]
  // names come out of data, and nothing here is painted
  return printable(lines.join("\n"), false)
}
