/**
 * How often an epoch holds each document of each source. Pure.
 */
import { nearest } from "../../Config.ts"
import { random } from "../../Random.ts"
import type { TokenDocuments } from "../Pieces.ts"
import type { MixtureSource } from "./DataConfig.ts"

/** A folder or file of `data`: its documents are those from `first` to `end - 1`. */
export interface Part {
  readonly path: string
  readonly first: number
  readonly end: number
}

const quoted = (names: ReadonlyArray<string>): string => {
  const shown = names.slice(0, 12).map((name) => JSON.stringify(name)).join(", ")
  return names.length > 12 ? `${shown} and ${names.length - 12} more` : shown
}

/** Which entry of a mixture a document belongs to, or -1; a string where the names do not fit the data. */
const assign = (
  corpus: TokenDocuments,
  parts: ReadonlyArray<Part>,
  mixture: ReadonlyArray<MixtureSource>
): Int32Array | string => {
  const ofSource = new Int32Array(corpus.sources.length).fill(-1)
  const ofPart = new Int32Array(parts.length).fill(-1)
  for (const [index, { name }] of mixture.entries()) {
    const source = corpus.sources.indexOf(name)
    const part = parts.findIndex(({ path }) => path === name)
    if (source >= 0) ofSource[source] = index
    else if (part >= 0) ofPart[part] = index
    else {
      const known = [...corpus.sources, ...parts.map(({ path }) => path)]
      const meant = nearest(name, known)
      return `sources: there is no source ${JSON.stringify(name)}. ` +
        (meant === undefined ? `The data has ${quoted(known)}` : `Did you mean ${JSON.stringify(meant)}?`)
    }
  }
  const entries = new Int32Array(corpus.documents)
  for (const [p, { end, first }] of parts.entries()) {
    for (let d = first; d < end; d++) {
      const own = ofSource[corpus.source(d)]!
      if (own >= 0 && ofPart[p]! >= 0) {
        return `sources: documents belong to both ${JSON.stringify(mixture[own]!.name)} and ` +
          `${JSON.stringify(mixture[ofPart[p]!]!.name)}. Name sources that share no document`
      }
      entries[d] = Math.max(own, ofPart[p]!)
    }
  }
  return entries
}

/**
 * Exposures of each document in an epoch. `tokens` gives a document's tokens, 0 where it is held out.
 *
 * A source of `epochs` 2.25 has its documents twice, and a quarter of them (by tokens) a third time. Which ones is
 * drawn from the seed and the source's name, and is the same in every epoch; those of a smaller fraction are among
 * those of a larger one. Weights become epochs such that the epoch's tokens are as many as the corpus has, shared out
 * in their proportion. A string says what does not fit.
 */
export const exposures = (
  corpus: TokenDocuments,
  parts: ReadonlyArray<Part>,
  tokens: (document: number) => number,
  mixture: ReadonlyArray<MixtureSource> | undefined,
  seed: number
): Uint32Array | string => {
  const times = new Uint32Array(corpus.documents).fill(1)
  if (mixture === undefined || mixture.length === 0) return times
  const entries = assign(corpus, parts, mixture)
  if (typeof entries === "string") return entries
  const available = new Float64Array(mixture.length)
  const starts = new Uint32Array(mixture.length + 1)
  let unnamed: number | undefined
  let total = 0
  for (let d = 0; d < corpus.documents; d++) {
    const own = tokens(d)
    if (own === 0) continue
    total += own
    if (entries[d]! < 0) unnamed ??= d
    else {
      available[entries[d]!]! += own
      starts[entries[d]! + 1]!++
    }
  }
  const weights = mixture.reduce((sum, { weight }) => sum + (weight ?? 0), 0)
  if (mixture[0]!.weight !== undefined) {
    if (weights === 0) return "sources: all weights are 0, so there is nothing to train on"
    if (unnamed !== undefined) {
      const missing = corpus.sources[corpus.source(unnamed)]
      return `sources: ${JSON.stringify(missing)} has no weight. Weights must name every source; give it weight 0 to ` +
        "leave it out"
    }
  }
  // Documents by entry, one after the other.
  for (let index = 0; index < mixture.length; index++) starts[index + 1]! += starts[index]!
  const documents = new Uint32Array(starts[mixture.length]!)
  const next = starts.slice()
  for (let d = 0; d < corpus.documents; d++) {
    if (entries[d]! >= 0 && tokens(d) > 0) documents[next[entries[d]!]!++] = d
  }
  for (const [index, { epochs, name, weight }] of mixture.entries()) {
    const wanted = epochs ?? (weight === 0 ? 0 : (weight! / weights) * (total / available[index]!))
    if (wanted > 0 && available[index] === 0) {
      return `sources: ${JSON.stringify(name)} has no document to train on: all are held out or shorter than a sequence`
    }
    const members = documents.subarray(starts[index], starts[index + 1])
    const whole = Math.floor(wanted)
    for (const d of members) times[d] = whole
    let left = (wanted - whole) * available[index]!
    for (const d of random(seed, "mixture", name).shuffle(members)) {
      // the last one goes in if that comes closer
      if (left < tokens(d) / 2) break
      times[d]!++
      left -= tokens(d)
    }
  }
  return times
}
