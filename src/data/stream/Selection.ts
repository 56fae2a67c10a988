/**
 * Which pieces are trained on, how often, and which are kept aside. Pure.
 */
import { nearest } from "../../Config.ts"
import { random } from "../../Random.ts"
import { cut, type Cutting, pick, type Pieces, piecesOf, type TokenDocuments } from "../Pieces.ts"
import type { CanaryDocument } from "./Canary.ts"
import type { DataConfig, Repeated, SamplePlan, WholePlan } from "./DataConfig.ts"
import { exposures as mixtureExposures, type Part } from "./Mixture.ts"

/** The kinds of sequences. */
export type Split = "repeated" | "heldOut" | "singles" | "canaries"

/** A group of repeated sequences, as it was planned. */
export interface Group extends Repeated {
  /** Its sequences. */
  readonly pieces: Uint32Array
}

/** What an epoch holds. */
export interface Selection {
  /** Every sequence there is, by number; with identity `row` its id is one more. */
  readonly pieces: Pieces
  /** Pieces, each as often as an epoch holds it: first the repeated sequences, then the others. */
  readonly exposures: Uint32Array
  /** How many of the exposures are of repeated sequences. */
  readonly repeatedExposures: number
  readonly groups: ReadonlyArray<Group>
  /** Pieces of each kind; of all documents a sample. */
  readonly splits: Readonly<Record<Split, Uint32Array>>
  readonly heldOutDocuments: number
}

/** The numbers from `start` to `end - 1`. */
export const range = (start: number, end: number): Uint32Array => {
  const numbers = new Uint32Array(end - start)
  for (let i = 0; i < numbers.length; i++) numbers[i] = start + i
  return numbers
}

/** Exposures of a repeated sequence in an epoch of an arm. */
export const timesIn = (arm: DataConfig["arm"], times: number): number =>
  ({ repeats: times, deduplicated: Math.min(1, times), neverRepeated: 0 })[arm]

/** Groups of `counts` that begin at `start`, one after the other. */
const consecutive = (groups: ReadonlyArray<Repeated>, start = 0): ReadonlyArray<Group> => {
  let next = start
  return groups.map((group) => ({ ...group, pieces: range(next, next += group.count) }))
}

/** Repeated sequences as often as the arm says, round by round; of a part of them, every so-manieth of all groups. */
const repetitions = (
  { arm, repeatedPart: { of, part } = { of: 1, part: 0 } }: Pick<DataConfig, "arm" | "repeatedPart">,
  groups: ReadonlyArray<{ readonly times: number; readonly pieces: Uint32Array }>
): ReadonlyArray<Uint32Array> => {
  let place = 0
  return groups.flatMap(({ pieces, times }) => {
    const own = pieces.filter(() => place++ % of === part)
    return Array.from({ length: timesIn(arm, times) }, () => own)
  })
}

const concat = (arrays: ReadonlyArray<Uint32Array>): Uint32Array => {
  const all = new Uint32Array(arrays.reduce((sum, { length }) => sum + length, 0))
  let next = 0
  for (const array of arrays) {
    all.set(array, next)
    next += array.length
  }
  return all
}

/** Pieces of several groups in turns, so that a few of them are of all groups. */
const inTurns = (groups: ReadonlyArray<Uint32Array>): Uint32Array => {
  const longest = groups.reduce((most, { length }) => Math.max(most, length), 0)
  const turns: Array<number> = []
  for (let i = 0; i < longest; i++) for (const group of groups) if (i < group.length) turns.push(group[i]!)
  return Uint32Array.from(turns)
}

/** The pieces with those of the canaries behind them, one each; the canaries are the last documents. */
const withCanaries = (pieces: Pieces, firstDocument: number, canaries: ReadonlyArray<CanaryDocument>) => {
  const count = pieces.document.length
  return {
    pieces: {
      document: concat([pieces.document, range(firstDocument, firstDocument + canaries.length)]),
      offset: concat([pieces.offset, new Uint32Array(canaries.length)])
    },
    groups: canaries.map(({ times }, k) => ({ times, pieces: Uint32Array.of(count + k) })),
    split: range(count, count + canaries.length)
  }
}

/**
 * A sample of sequences: all are shuffled before some are chosen to be repeated, to be seen once, or to be held out,
 * so the three differ in nothing but how often they are trained on. `accept` may turn one down that was chosen.
 */
export const sample = (
  all: Pieces,
  plan: SamplePlan,
  firstCanary: number,
  canaries: ReadonlyArray<CanaryDocument>,
  accept: (piece: number) => boolean = () => true
): Selection => {
  const { config, heldOutSequences, sequences, singleSequences } = plan
  const order = random(config.seed, "rows").shuffle(range(0, all.document.length))
  const chosen = new Uint32Array(Math.min(sequences, order.length))
  let count = 0
  for (let i = 0; i < order.length && count < sequences; i++) if (accept(order[i]!)) chosen[count++] = order[i]!
  const groups = consecutive(plan.groups)
  const repeated = groups.reduce((sum, group) => sum + group.count, 0)
  const singles = range(repeated, repeated + singleSequences)
  const put = withCanaries(pick(all, chosen.subarray(0, count)), firstCanary, canaries)
  const often = concat(repetitions(config, [...groups, ...put.groups]))
  return {
    pieces: put.pieces,
    exposures: concat([often, singles]),
    repeatedExposures: often.length,
    groups,
    splits: {
      repeated: inTurns(groups.map(({ pieces }) => pieces)),
      singles,
      heldOut: range(sequences - heldOutSequences, sequences),
      canaries: put.split
    },
    heldOutDocuments: 0
  }
}

/** How a plan cuts documents. Pieces of whole documents overlap by a token: each is a target once, but the first. */
export const cutting = ({ config, kind, packing }: SamplePlan | WholePlan): Cutting => ({
  width: config.seqLen + 1,
  stride: kind === "whole" ? config.seqLen : config.seqLen + 1,
  shortest: packing === "row" ? config.seqLen + 1 : 2
})

/** Sequences of a split of all documents that are handed out. */
export const SAMPLE = 512

/** `count` of the pieces, drawn without repetition; all of them where there are no more. Equal ones stand together. */
const draw = (pieces: Uint32Array, count: number, seed: number, name: string): Uint32Array => {
  const { below, shuffle } = random(seed, "sample", name)
  const once = pieces.filter((piece, i) => i === 0 || piece !== pieces[i - 1])
  if (2 * count > once.length) return shuffle(once).slice(0, count)
  const drawn = new Set<number>()
  while (drawn.size < count) drawn.add(once[below(once.length)]!)
  return Uint32Array.from(drawn)
}

/**
 * Documents that are held out, 1 each: those whose hash is small. It is the hash of the content of the first
 * near-duplicate, of the document's own content, or of its number, whichever is known.
 */
const heldOut = (corpus: TokenDocuments, fraction: number): Uint8Array => {
  const limit = fraction * 2 ** 32
  const { content, near } = corpus
  const out = new Uint8Array(corpus.documents)
  if (fraction === 0) return out
  // Two halves of 32 bits: millions of bigints are slow to compute with.
  const bits = new BigUint64Array(1)
  const halves = new Uint32Array(bits.buffer)
  for (let d = 0; d < out.length; d++) {
    if (content === undefined) halves[0] = d
    else bits[0] = content(near === undefined ? d : near(d))
    let x = halves[0]! ^ Math.imul(halves[1]!, 0x9e3779b1)
    x = Math.imul(x ^ (x >>> 16), 0x85ebca6b)
    x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35)
    if ((x ^ (x >>> 16)) >>> 0 < limit) out[d] = 1
  }
  return out
}

/** Documents, of those that `wanted` says, that have a copy among them, 1 each. */
const copied = (corpus: TokenDocuments, near: boolean, wanted: Uint8Array): Uint8Array => {
  const out = new Uint8Array(corpus.documents)
  if (near) {
    const members = new Uint32Array(corpus.documents)
    for (let d = 0; d < out.length; d++) if (wanted[d] === 1) members[corpus.near!(d)]!++
    for (let d = 0; d < out.length; d++) out[d] = wanted[d] === 1 && members[corpus.near!(d)]! > 1 ? 1 : 0
    return out
  }
  if (corpus.content === undefined) return out
  const contents = new BigUint64Array(out.length)
  let count = 0
  for (let d = 0; d < out.length; d++) if (wanted[d] === 1) contents[count++] = corpus.content(d)
  const sorted = contents.slice(0, count).sort()
  const halves = new Uint32Array(sorted.buffer)
  const twice = new Set<bigint>()
  for (let i = 1; i < count; i++) {
    if (halves[2 * i] === halves[2 * i - 2] && halves[2 * i + 1] === halves[2 * i - 1]) twice.add(sorted[i]!)
  }
  if (twice.size === 0) return out
  count = 0
  for (let d = 0; d < out.length; d++) if (wanted[d] === 1 && twice.has(contents[count++]!)) out[d] = 1
  return out
}

/** All pieces of documents; those of document d are from `firsts[d]` to `firsts[d + 1] - 1`. */
const piecesIn = (documents: Uint32Array, firsts: Uint32Array): Uint32Array => {
  let count = 0
  for (const d of documents) count += firsts[d + 1]! - firsts[d]!
  const found = new Uint32Array(count)
  let next = 0
  for (const d of documents) for (let piece = firsts[d]!; piece < firsts[d + 1]!; piece++) found[next++] = piece
  return found
}

/** The groups of a plan of all documents, drawn from those that are trained on; a string where there are too few. */
const repeatGroups = (
  corpus: TokenDocuments,
  plan: WholePlan,
  firsts: Uint32Array,
  candidates: Uint32Array
): ReadonlyArray<Group> | string => {
  const asked = (unit: Repeated["unit"]): number =>
    plan.groups.reduce((sum, group) => group.unit === unit ? sum + group.count : sum, 0)
  const documents = asked("documents")
  if (documents > candidates.length) {
    return `repeat asks for ${documents} documents, but only ${candidates.length} are trained on and have no copy. ` +
      "Ask for fewer, or give more data"
  }
  const order = random(plan.config.seed, "repeat").shuffle(candidates)
  // Groups of one source first, so that the others leave them what they need.
  const documentsOf: Array<Uint32Array> = []
  const taken = new Uint8Array(corpus.documents)
  const turns = [...plan.groups.entries()].filter(([, { unit }]) => unit === "documents")
    .sort(([, a], [, b]) => Number(a.source === undefined) - Number(b.source === undefined))
  for (const [g, { count, source }] of turns) {
    const place = source === undefined ? -1 : corpus.sources.indexOf(source)
    if (source !== undefined && place < 0) {
      const meant = nearest(source, corpus.sources)
      return `repeat: there is no source ${JSON.stringify(source)}` +
        (meant === undefined ? "" : `. Did you mean ${JSON.stringify(meant)}?`)
    }
    const own = order.filter((d) => taken[d] === 0 && (place < 0 || corpus.source(d) === place))
    if (own.length < count) {
      return `repeat asks for ${count} documents of source ${JSON.stringify(source)}, but only ${own.length} of it ` +
        "are trained on and have no copy. Ask for fewer, or give more data"
    }
    documentsOf[g] = own.subarray(0, count)
    for (const d of documentsOf[g]) taken[d] = 1
  }
  const sequences = asked("sequences")
  const rest = sequences === 0 ? new Uint32Array(0) : piecesIn(order.filter((d) => taken[d] === 0), firsts)
  if (sequences > rest.length) {
    return `${sequences} sequences are to be repeated, but only ${rest.length} are trained on, of documents that ` +
      "have no copy and are not repeated whole. Ask for fewer, shorten seqLen, or give more data"
  }
  const drawn = draw(rest, sequences, plan.config.seed, "repeat")
  let sequence = 0
  return plan.groups.map((group, g) => ({
    ...group,
    pieces: group.unit === "documents"
      ? piecesIn(documentsOf[g]!, firsts)
      : drawn.slice(sequence, sequence += group.count)
  }))
}

/**
 * All documents, but those held out, as often as the mixture says; repeated groups as often as they say instead. A
 * string says what does not fit.
 */
export const whole = (
  corpus: TokenDocuments,
  parts: ReadonlyArray<Part>,
  plan: WholePlan,
  canaries: ReadonlyArray<CanaryDocument>
): Selection | string => {
  const { config } = plan
  const how = cutting(plan)
  const documents = corpus.documents
  const all = cut(corpus, how)
  const firsts = new Uint32Array(documents + 1)
  for (let d = 0; d < documents; d++) firsts[d + 1] = firsts[d]! + piecesOf(corpus.length(d), how)
  const targets = (document: number): number =>
    plan.packing === "row"
      ? piecesOf(corpus.length(document), how) * config.seqLen
      : Math.max(0, corpus.length(document) - 1)

  const out = heldOut(corpus, plan.heldOutFraction)
  const heldOutDocuments = out.reduce((sum, one) => sum + one, 0)
  if (config.heldOutFraction !== undefined && config.heldOutFraction > 0 && heldOutDocuments === 0) {
    return `heldOutFraction ${config.heldOutFraction} of ${documents} documents holds out none of them. Raise it, or ` +
      "set it to 0"
  }
  const times = mixtureExposures(corpus, parts, (d) => out[d] === 1 ? 0 : targets(d), config.sources, config.seed)
  if (typeof times === "string") return times
  for (let d = 0; d < documents; d++) if (out[d] === 1) times[d] = 0

  const trained = new Uint8Array(documents)
  for (let d = 0; d < documents; d++) if (times[d]! > 0 && firsts[d + 1]! > firsts[d]!) trained[d] = 1
  const copies = copied(corpus, plan.identity === "near", trained)
  const planned = plan.groups.some(({ count }) => count > 0)
  const groups = planned
    ? repeatGroups(corpus, plan, firsts, range(0, documents).filter((d) => trained[d] === 1 && copies[d] === 0))
    : []
  if (typeof groups === "string") return groups

  const put = withCanaries(all, documents, canaries)
  // How often each piece is seen for its document's sake: not at all where a group says how often.
  const grouped = new Uint8Array(all.document.length)
  for (const { pieces } of groups) for (const piece of pieces) grouped[piece] = 1
  const background = (often: boolean): Uint32Array => {
    let [count, next] = [0, 0]
    const each = (use: (piece: number, times: number) => void) => {
      for (let d = 0; d < documents; d++) {
        if (times[d] === 0 || (!planned && copies[d] === 1) !== often) continue
        for (let piece = firsts[d]!; piece < firsts[d + 1]!; piece++) if (grouped[piece] === 0) use(piece, times[d]!)
      }
    }
    each((_, times) => void (count += times))
    const found = new Uint32Array(count)
    each((piece, times) => {
      found.fill(piece, next, next += times)
    })
    return found
  }
  const [natural, singles] = [background(true), background(false)]
  const often = concat([...repetitions(config, [...groups, ...put.groups]), natural])
  const aside = piecesIn(range(0, documents).filter((d) => out[d] === 1), firsts)
  return {
    pieces: put.pieces,
    exposures: concat([often, singles]),
    repeatedExposures: often.length,
    groups,
    splits: {
      repeated: planned
        ? inTurns(groups.map(({ pieces }) => pieces.subarray(0, SAMPLE)))
        : draw(natural, SAMPLE, config.seed, "repeated"),
      singles: draw(singles, SAMPLE, config.seed, "singles"),
      heldOut: draw(aside, plan.heldOutSequences, config.seed, "heldOut"),
      canaries: put.split
    },
    heldOutDocuments
  }
}
