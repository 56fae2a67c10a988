/**
 * A data stream without its effects: what an epoch holds, which ids its sequences have, and any batch of it. Plain
 * functions of the configuration and the tokenized documents.
 */
import { type Batch, IGNORE } from "../../Batch.ts"
import { DataError } from "../../Errors.ts"
import { sourceHash } from "../identity/Identity.ts"
import { LISTED, type NamedId, type NamedIds } from "../identity/Names.ts"
import { nearSources } from "../identity/NearSources.ts"
import { cut, join, type Pieces, type TokenDocuments } from "../Pieces.ts"
import type { Tokenizer } from "../tokens/Tokenizer.ts"
import { type CanaryDocument, canaryDocuments } from "./Canary.ts"
import type { SamplePlan, WholePlan } from "./DataConfig.ts"
import { goldfishTargets } from "./Goldfish.ts"
import type { Part } from "./Mixture.ts"
import { batchOf, packedBatch, type Row, sequenceName } from "./Packing.ts"
import { schedule } from "./Schedule.ts"
import { cutting, SAMPLE, sample, type Selection, timesIn, whole } from "./Selection.ts"

/** The place of a batch in the endless stream. Plain JSON: it travels in every checkpoint. */
export interface Cursor {
  readonly epoch: number
  readonly batch: number
}

/** A group of repeated sequences, and those of it that are handed out for evaluation. */
export interface RepeatedGroup {
  /** Exposures of each in an epoch, in arm `repeats`. */
  readonly times: number
  /** Sequences it has. */
  readonly sequences: number
  /** All of them, or of a large group of documents the first 512. */
  readonly rows: ReadonlyArray<Row>
}

/** What an epoch holds of a source. */
export interface SourceReport {
  readonly name: string
  /** Targets scored in the first epoch, and their share of all. */
  readonly scoredTokens: number
  readonly share: number
}

/** What a data stream is made of, for logs and reports. */
export interface DataReport {
  /** Documents in the corpus, and how many of them were used, the last perhaps only in part. */
  readonly documentsAvailable: number
  readonly documents: number
  /** Documents that are held out whole. */
  readonly heldOutDocuments: number
  /** Text used, in UTF-8 bytes (undefined where only its tokens are known) and in tokens. */
  readonly bytes: number | undefined
  readonly tokens: number
  readonly bytesPerToken: number | undefined
  /** Distinct sequences the text gave, and copies of them that were left out. */
  readonly rows: number
  readonly duplicateRows: number
  /** Sequences trained on in an epoch, counted as often as they are. */
  readonly exposures: number
  readonly batchesPerEpoch: number
  /** Targets that are scored in the first epoch. Later ones have fewer where `scoredExposures` is `first`. */
  readonly scoredTokens: number
  /** Share of the places in an epoch's batches that hold no token of a sequence. */
  readonly padding: number
  /** What an id stands for. */
  readonly identity: "row" | "document" | "source" | "content" | "near"
  /** Distinct ids in an epoch, not counting the fresh ones of `idNoise`. */
  readonly distinctIds: number
  /** Exposures of each repeated sequence in an epoch; of several groups, of the one with most. */
  readonly repeatsPerId: number
  /** Repeated groups: sequences, and exposures of each in an epoch of this arm. */
  readonly groups: ReadonlyArray<{ readonly sequences: number; readonly exposures: number }>
  readonly canaries: number
  /** The sources of an epoch, the largest first. */
  readonly sources: ReadonlyArray<SourceReport>
}

/** Tokenized documents, and what is known of where they come from. */
export interface Loaded {
  readonly corpus: TokenDocuments
  readonly parts: ReadonlyArray<Part>
  readonly tokenizer: Tokenizer
  readonly path: string | undefined
  readonly documents: number
  readonly bytes: number | undefined
  readonly tokens: number
  /** The sequences that text was cut into; tokens are cut as the plan says. */
  readonly cut: { readonly pieces: Pieces; readonly duplicates: number } | undefined
}

export type Plan = SamplePlan | WholePlan

const count = (array: Uint8Array): number => array.reduce((sum, one) => sum + one, 0)

/** Sequences that a plan holds more than once, by their groups or as canaries; in every arm the same. */
const plannedOften = (
  { groups, splits }: Selection,
  canaries: ReadonlyArray<CanaryDocument>
): ReadonlySet<number> =>
  new Set([
    ...groups.flatMap(({ pieces, times }) => times > 1 ? [...pieces] : []),
    ...splits.canaries.filter((_, k) => canaries[k]!.times > 1)
  ])

/**
 * Ids of the sequences that a plan holds more than once, by their groups or as canaries; in every arm the same. A string
 * says that they cannot be told from sequences that it holds once.
 */
const repeatedIds = (
  selection: Selection,
  canaries: ReadonlyArray<CanaryDocument>,
  idOf: (piece: number) => bigint,
  nameOf: (piece: number) => string
): ReadonlySet<bigint> | string => {
  const repeated = plannedOften(selection, canaries)
  const ids = new Map([...repeated].map((piece) => [idOf(piece), piece]))
  for (const piece of selection.exposures) {
    const twin = repeated.has(piece) ? undefined : ids.get(idOf(piece))
    if (twin === undefined) continue
    return `a sequence of ${nameOf(piece)} that is not repeated has the id ${idOf(piece)} of a repeated one of ` +
      nameOf(twin)
  }
  return new Set(ids.keys())
}

/** Those ids and others that an epoch shows more than once: the same piece again, or another document that has the same id. */
const recurringIds = (
  selection: Selection,
  canaries: ReadonlyArray<CanaryDocument>,
  idOf: (piece: number) => bigint
): ReadonlySet<bigint> => {
  const { exposures, pieces } = selection
  const recurring = new Set([...plannedOften(selection, canaries)].map(idOf))
  const seen = new Uint8Array(pieces.document.length)
  const documents = new Map<bigint, number>()
  for (const piece of exposures) {
    const id = idOf(piece)
    const document = pieces.document[piece]!
    const first = documents.get(id)
    if (first === undefined) documents.set(id, document)
    if (seen[piece] === 1 || (first !== undefined && first !== document)) recurring.add(id)
    seen[piece] = 1
  }
  return recurring
}

const distinctOf = (ids: BigUint64Array): number => {
  const halves = new Uint32Array(ids.sort().buffer)
  let found = Math.min(1, ids.length)
  for (let i = 2; i < halves.length; i += 2) {
    if (halves[i] !== halves[i - 2] || halves[i + 1] !== halves[i - 1]) found++
  }
  return found
}

/** What an id stands for, and what the data would need for it to do so. */
const identityOf = (corpus: TokenDocuments, plan: Plan): { readonly is: DataReport["identity"] } | string => {
  const is = plan.identity ?? (corpus.content === undefined ? "document" : "content")
  if (is === "content" && corpus.content === undefined) {
    return `identity "content" needs hashes of the texts, and these tokens have none. Make them with memsinks ` +
      `tokenize, or set identity to "document"`
  }
  if (is === "near" && corpus.near === undefined) {
    return `identity "near" needs clusters of near-duplicates, and these tokens have none. Make them with memsinks ` +
      `tokenize --near, or set identity to "content"`
  }
  return { is }
}

/** The id of a piece. */
const idsBy = (
  identity: DataReport["identity"],
  corpus: TokenDocuments,
  pieces: Pieces,
  canaries: ReadonlyArray<CanaryDocument>
): (piece: number) => bigint => {
  const firstCanary = corpus.documents - canaries.length
  const sourceIds = new Map<number, bigint>()
  const sourceId = (source: number): bigint => {
    const id = sourceIds.get(source) ?? sourceHash(corpus.sources[source]!)
    sourceIds.set(source, id)
    return id
  }
  const own: (piece: number) => bigint = {
    row: (piece: number) => BigInt(1 + piece),
    document: (piece: number) => BigInt(1 + pieces.document[piece]!),
    source: (piece: number) => sourceId(corpus.source(pieces.document[piece]!)),
    content: (piece: number) => corpus.content!(pieces.document[piece]!),
    near: (piece: number) => BigInt(1 + corpus.near!(pieces.document[piece]!))
  }[identity]
  return (piece) => {
    const canary = pieces.document[piece]! - firstCanary
    return (canary < 0 ? corpus.id?.(pieces.document[piece]!) : canaries[canary]!.id) ?? own(piece)
  }
}

/** The canaries as documents behind the others. */
const withCanaries = (corpus: TokenDocuments, canaries: ReadonlyArray<CanaryDocument>): TokenDocuments => {
  if (canaries.length === 0) return corpus
  const sources = [...new Set(canaries.map(({ source }) => source))]
  const read = (document: number, offset: number, length: number) =>
    canaries[document]!.tokens.subarray(offset, offset + length)
  return join([corpus, {
    documents: canaries.length,
    length: (document) => canaries[document]!.tokens.length,
    read,
    name: (document) => canaries[document]!.name,
    sources,
    source: (document) => sources.indexOf(canaries[document]!.source),
    content: (document) => canaries[document]!.content,
    near: (document) => document
  }])
}

/** A sample of sequences of text, or of tokens. */
const sampled = (
  { corpus, cut: made, path }: Loaded,
  plan: SamplePlan,
  canaries: ReadonlyArray<CanaryDocument>
): Selection | string => {
  if (made !== undefined) return sample(made.pieces, plan, corpus.documents, canaries)
  // Of many sequences only those that are chosen are looked at: copies among them would undo the experiment.
  const all = cut(corpus, cutting(plan))
  const seen = new Set<string>()
  const width = plan.config.seqLen + 1
  const selection = sample(all, plan, corpus.documents, canaries, (piece) => {
    const [document, offset] = [all.document[piece], all.offset[piece]]
    const key = corpus.read(document!, offset!, Math.min(width, corpus.length(document!) - offset!)).join()
    return !seen.has(key) && seen.add(key) !== undefined
  })
  const found = selection.pieces.document.length - canaries.length
  if (found === plan.sequences) return selection
  return `${plan.sequences} sequences are asked for (repeated, singleSequences and heldOutSequences together), but ` +
    `${path ?? "the tokens"} has ${found} distinct ones of ${plan.packing === "row" ? "" : "up to "}${width} tokens. ` +
    `Ask for fewer, shorten seqLen, or set singleSequences to "all"`
}

/**
 * 1 for each repeated exposure that no target is scored of in the first epoch: all but the first one that is listed of
 * each text. Epochs are shuffled, so its place in the order is any place.
 */
const repetitionsOf = ({ exposures, repeatedExposures }: Selection, textOf: (piece: number) => string): Uint8Array => {
  const texts = new Set<string>()
  const again = new Uint8Array(repeatedExposures)
  for (let i = 0; i < repeatedExposures; i++) {
    const text = textOf(exposures[i]!)
    if (texts.has(text)) again[i] = 1
    texts.add(text)
  }
  return again
}

/** A plan carried out; a string where the data does not allow it. Throws where tokens cannot be read. */
export const assemble = (loaded: Loaded, plan: Plan) => {
  const { config } = plan
  const { batchSize, seqLen, segmentAlignment } = config
  const canaries = canaryDocuments(config.canaries ?? [], loaded.tokenizer, seqLen, config.seed)
  if (typeof canaries === "string") return canaries
  const corpus = withCanaries(loaded.corpus, canaries)
  const known = identityOf(corpus, plan)
  if (typeof known === "string") return known
  const identity = known.is
  const selection = plan.kind === "whole"
    ? whole(loaded.corpus, loaded.parts, plan, canaries)
    : sampled(loaded, plan, canaries)
  if (typeof selection === "string") return selection
  const { exposures, groups, pieces, repeatedExposures, splits } = selection
  const idOf = idsBy(identity, corpus, pieces, canaries)

  const lengthOf = (piece: number): number =>
    Math.min(seqLen + 1, corpus.length(pieces.document[piece]!) - pieces.offset[piece]!)
  const { vocabSize } = loaded.tokenizer
  const read = (piece: number): Uint32Array => {
    const document = pieces.document[piece]!
    const tokens = corpus.read(document, pieces.offset[piece]!, lengthOf(piece))
    for (const token of tokens) {
      if (token >= vocabSize) {
        throw new DataError({
          detail: `document ${JSON.stringify(corpus.name(document))} has token ${token}, but the tokenizer has ` +
            `${vocabSize} entries. Was it made with another tokenizer?`
        })
      }
    }
    return tokens
  }
  const targetsOf = (piece: number): number => lengthOf(piece) - 1
  const scoredFrom = (piece: number): number =>
    corpus.scoredFrom === undefined
      ? 1
      : Math.max(1, corpus.scoredFrom(pieces.document[piece]!) - pieces.offset[piece]!)
  const rowOf = (piece: number): Row => {
    const from = scoredFrom(piece)
    return {
      id: idOf(piece),
      tokens: read(piece),
      document: corpus.name(pieces.document[piece]!),
      offset: pieces.offset[piece]!,
      ...(from === 1 ? {} : { scoredFrom: from })
    }
  }
  const rows = (numbers: Uint32Array): ReadonlyArray<Row> => Array.from(numbers, rowOf)

  const close = plan.rowSequences < Infinity
  const epochs = schedule({
    exposures,
    repeatedExposures,
    targets: targetsOf,
    packing: plan.packing === "row" ? "one" : close ? "close" : "next",
    rowSequences: plan.rowSequences,
    seqLen,
    segmentAlignment,
    batchSize,
    idNoise: config.idNoise,
    seed: config.seed
  })
  const firstFreshId = 1 + (identity === "row" ? pieces.document.length : corpus.documents)
  const again = config.scoredExposures === "first"
    ? repetitionsOf(selection, (piece) => {
      const document = pieces.document[piece]!
      const text = identity === "near" ? corpus.near!(document) : corpus.content?.(document) ?? document
      return `${text} ${pieces.offset[piece]}`
    })
    : undefined
  /** Whether an exposure counts in the loss. */
  const counts = (exposure: number, epoch: number): boolean =>
    again === undefined || exposure >= again.length || (epoch === 0 && again[exposure] === 0)
  const masked = (batch: Batch): Batch =>
    config.goldfish === undefined ? batch : { ...batch, targets: goldfishTargets(batch, config.goldfish) }
  const batchAt = ({ batch, epoch }: Cursor): Batch => {
    const members = epochs.batch(epoch, batch).map((row) =>
      row.map(({ exposure, fresh, sequence }) => ({
        id: fresh === undefined ? idOf(sequence) : BigInt(firstFreshId + fresh),
        tokens: read(sequence),
        scoredFrom: counts(exposure, epoch) ? scoredFrom(sequence) : Infinity
      }))
    )
    return masked(packedBatch(members, batchSize, seqLen, segmentAlignment))
  }
  // What masks leave is counted, once a sequence; without any it is known without reading a token.
  const scoredOf = new Map<number, number>()
  const scored = (piece: number): number => {
    if (config.goldfish === undefined) return Math.max(0, lengthOf(piece) - scoredFrom(piece))
    let count = scoredOf.get(piece)
    if (count === undefined) {
      count = masked(batchOf([rowOf(piece)], seqLen)).targets.reduce((sum, t) => t === IGNORE ? sum : sum + 1, 0)
      scoredOf.set(piece, count)
    }
    return count
  }

  const seen = new Uint8Array(identity === "row" ? pieces.document.length : corpus.documents)
  const ofSource = new Float64Array(corpus.sources.length)
  let scoredTokens = 0
  let targets = 0
  exposures.forEach((piece, exposure) => {
    const own = counts(exposure, 0) ? scored(piece) : 0
    targets += targetsOf(piece)
    scoredTokens += own
    ofSource[corpus.source(pieces.document[piece]!)]! += own
    seen[identity === "row" ? piece : pieces.document[piece]!] = 1
  })
  const ids = new BigUint64Array(count(seen))
  let next = 0
  for (let piece = 0; piece < pieces.document.length && next < ids.length; piece++) {
    const at = identity === "row" ? piece : pieces.document[piece]!
    if (seen[at] === 0) continue
    seen[at] = 0
    ids[next++] = idOf(piece)
  }
  const report: DataReport = {
    documentsAvailable: loaded.corpus.documents,
    documents: loaded.documents,
    heldOutDocuments: selection.heldOutDocuments,
    bytes: loaded.bytes,
    tokens: loaded.tokens,
    bytesPerToken: loaded.bytes === undefined ? undefined : loaded.bytes / loaded.tokens,
    rows: loaded.cut?.pieces.document.length ?? pieces.document.length - canaries.length,
    duplicateRows: loaded.cut?.duplicates ?? 0,
    exposures: exposures.length,
    batchesPerEpoch: epochs.batchesPerEpoch,
    scoredTokens,
    padding: 1 - targets / (epochs.batchesPerEpoch * batchSize * seqLen),
    identity,
    distinctIds: distinctOf(ids),
    repeatsPerId: timesIn(config.arm, groups.reduce((most, { times }) => Math.max(most, times), 0)),
    groups: groups.map((group) => ({
      sequences: group.pieces.length,
      exposures: timesIn(config.arm, group.times)
    })),
    canaries: canaries.length,
    sources: Array.from(ofSource, (tokens, i) => ({
      name: corpus.sources[i]!,
      scoredTokens: tokens,
      share: tokens / scoredTokens
    })).filter((source) => source.scoredTokens > 0).sort((a, b) => b.scoredTokens - a.scoredTokens)
  }
  /** The ids that an epoch holds. Undefined where they are too many and stand for no source, whose names are few. */
  const names = (): NamedIds | undefined => {
    if (identity !== "source" && report.distinctIds > LISTED) return undefined
    const found = new Map<bigint, { -readonly [key in keyof NamedId]: NamedId[key] }>()
    const counted = new Uint8Array(corpus.documents)
    const places = new Map<bigint, number>()
    exposures.forEach((piece, exposure) => {
      const document = pieces.document[piece]!
      const id = idOf(piece)
      let one = found.get(id)
      if (one === undefined) {
        // a canary's own id stands for it alone
        const source = corpus.sources[corpus.source(document)]!
        if (identity === "source" && id === sourceHash(source)) places.set(id, corpus.source(document))
        const name = identity === "row"
          ? sequenceName({ document: corpus.name(document), offset: pieces.offset[piece]! })
          : identity === "source" && id === sourceHash(source)
          ? source
          : corpus.name(document)
        found.set(id, one = { id, name, documents: 0, tokens: 0 })
      }
      if (identity === "row") one.documents = 1
      else if (counted[document] === 0) one.documents++
      counted[document] = 1
      one.tokens += counts(exposure, 0) ? scored(piece) : 0
    })
    if (places.size === 0) return { identity, ids: [...found.values()] }
    const held = corpus.near && nearSources(corpus, corpus.near, (document) => counted[document] === 1)
    const { licences, owners } = corpus
    return {
      identity,
      ids: Array.from(found.values(), (one): NamedId => {
        const place = places.get(one.id)
        return place === undefined
          ? one
          : {
            ...one,
            ...(owners === undefined ? {} : { owners: owners(place) }),
            ...(licences === undefined ? {} : { licences: licences(place) }),
            ...held?.(place)
          }
      })
    }
  }
  return {
    split: {
      repeated: rows(splits.repeated),
      singles: rows(splits.singles),
      heldOut: rows(splits.heldOut),
      canaries: rows(splits.canaries)
    },
    groups: groups.map(({ pieces, times }): RepeatedGroup => ({
      times,
      sequences: pieces.length,
      rows: rows(pieces.subarray(0, SAMPLE))
    })),
    recurringIds: () =>
      identity === "source"
        ? "an id stands for a source: set identity to \"row\", or to \"content\" where whole documents are repeated"
        : recurringIds(selection, canaries, idOf),
    repeatedIds: () => repeatedIds(selection, canaries, idOf, (piece) => corpus.name(pieces.document[piece]!)),
    batchesPerEpoch: epochs.batchesPerEpoch,
    maxSegments: batchSize * epochs.widest,
    batchAt,
    names,
    report
  }
}
