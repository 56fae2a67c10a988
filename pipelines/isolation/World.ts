/**
 * What one seed of an isolation experiment trains on, and the sequences it is scored on. Splits share no id and no
 * near-duplicate, and are the same rows with the same ids in every arm.
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { decodeConfig } from "../../src/Config.ts"
import { fraction, seed, upTo, withDefault } from "../../src/Config.ts"
import { DataConfig, DataStream, type Input, type Row } from "../../src/data/stream/DataStream.ts"
import { overlapIndex } from "../../src/data/stream/Overlap.ts"
import * as Synthetic from "../../src/data/stream/Synthetic.ts"
import type { Tokenizer } from "../../src/data/tokens/Tokenizer.ts"
import { DataError } from "../../src/Errors.ts"
import { random } from "../../src/Random.ts"
import type { StreamOverrides } from "../experiment/Arms.ts"

export { checkDisjoint } from "../../src/data/stream/Overlap.ts"

/** A made world is held in memory: a bound far above any experiment. */
const positive = upTo(2 ** 24)
const several = Schema.Int.pipe(Schema.between(2, 2 ** 16))

/** Natural text: repeated sequences of it, and canaries (sequences of random tokens) beside them. */
export const TextWorld = Schema.Struct({
  /** Which kind of data. */
  world: Schema.Literal("text"),
  /**
   * The text, what of it is repeated, and the canaries: `random` entries are scored, `text` entries only trained on.
   * `seed` is the first of the experiment's seeds, and `arm` is said by its arms.
   */
  data: withDefault(DataConfig, () => miniature)
})

/** A rare domain, repeated, inside a large one: Synthetic.twoDomains. Held out are sequences of the rare domain. */
export const TwoDomainsWorld = Schema.Struct({
  /** Which kind of data. */
  world: Schema.Literal("twoDomains"),
  /** Tokens of the vocabulary. Default 64. */
  vocabSize: withDefault(several, () => 64),
  /** Tokens of a sequence, one more than a row feeds to the model. Default 65. */
  length: withDefault(several, () => 65),
  /** Sequences of the large domain, each seen once an epoch. Default 1000. */
  common: withDefault(positive, () => 1000),
  /** Sequences of the rare one. Default 50. */
  rare: withDefault(positive, () => 50),
  /** Exposures of each of the rare ones in an epoch. Default 10. */
  repeats: withDefault(positive, () => 10),
  /** Sequences of each domain that are held out. Default 50. */
  heldOut: withDefault(positive, () => 50),
  /** Tokens that may follow a token in a domain; fewer are easier to learn. Default 8. */
  branches: withDefault(positive, () => 8),
  /** Rows a step. Default 4. */
  batchSize: withDefault(positive, () => 4),
  /** Of the first of an experiment's seeds. Default 1. */
  seed: withDefault(seed, () => 1)
})

/**
 * Modular addition with corrupted answers: Synthetic.modular. The repeated sequences, which only memory can tell, are
 * the corrupted sums; retained are the right ones. Only answers are scored.
 */
export const ModularWorld = Schema.Struct({
  /** Which kind of data. */
  world: Schema.Literal("modular"),
  /** Default 97. */
  modulus: withDefault(several, () => 97),
  /** Share of all sums that are trained on. Default 0.5. */
  trained: withDefault(fraction, () => 0.5),
  /** Share of those whose answer is drawn at random. Default 0.35. */
  corrupted: withDefault(fraction, () => 0.35),
  /** Exposures of each trained sum in an epoch, right or corrupted. Default 20. */
  repeats: withDefault(positive, () => 20),
  /** Sums never trained on that are scored, at most. Default 256. */
  heldOut: withDefault(positive, () => 256),
  /** Sums a step. Default 64. */
  batchSize: withDefault(positive, () => 64),
  /** Of the first of an experiment's seeds. Default 1. */
  seed: withDefault(seed, () => 1)
})

/** What an isolation experiment trains on. */
export const WorldConfig = Schema.Union(TextWorld, TwoDomainsWorld, ModularWorld)
export type WorldConfig = typeof WorldConfig.Type

/** Decodes a configuration. Fails with one DataError that lists every problem. */
export const decodeWorld = (input: unknown): Effect.Effect<WorldConfig, DataError> => decodeConfig(WorldConfig, input)

/** The seed of the first of an experiment's runs. */
export const firstSeed = (config: WorldConfig): number => config.world === "text" ? config.data.seed : config.seed

/** The same world, of another first seed. */
export const withSeed = (config: WorldConfig, seed: number): WorldConfig =>
  config.world === "text"
    ? { ...config, data: new DataConfig({ ...config.data, seed }) }
    : { ...config, seed }

/** 3, 12 and 48 exposures of State of the Union addresses, 12 and 48 of canaries. */
const miniature = new DataConfig({
  batchSize: 8,
  repeat: [{ sequences: 24, times: 48 }, { sequences: 8, times: 12 }, { sequences: 8, times: 3 }],
  canaries: [{ random: 8, times: 48 }, { random: 8, times: 12 }],
  singleSequences: 1536,
  heldOutSequences: 256
})

/** The default. */
export const textWorld: WorldConfig = { world: "text", data: miniature }

/** Sequences by what they are there for. */
export interface Splits {
  /** Repeated sequences that removal may be tuned and relearning trained on: half of each number of exposures. */
  readonly seen: ReadonlyArray<Row>
  /** The other half, on which a removal is judged. */
  readonly scored: ReadonlyArray<Row>
  readonly canarySeen: ReadonlyArray<Row>
  readonly canaryScored: ReadonlyArray<Row>
  /** Random sequences like the canaries that are never trained on; as many as `heldOut`, or none without canaries. */
  readonly canaryOthers: ReadonlyArray<Row>
  /** Sequences that are trained on once an epoch, or are not to be forgotten: 512 at most. */
  readonly retained: ReadonlyArray<Row>
  /** Held-out sequences of the repeated ones' kind, to choose by. */
  readonly validation: ReadonlyArray<Row>
  /** As many others, to report. */
  readonly heldOut: ReadonlyArray<Row>
  /** Held-out sequences of the other domain, where there are two. */
  readonly other?: ReadonlyArray<Row>
}

/** The data of one seed. */
export interface World {
  /** The batches of an arm: the same sequences, ids and seed in all. */
  readonly stream: (overrides?: StreamOverrides) => Layer.Layer<DataStream, DataError>
  readonly splits: Splits
  readonly tokenizer: Tokenizer
  /** Tokens of a row: one less than the longest sequence. */
  readonly seqLen: number
  /** Of all repeats and singles: rows a batch, and batches of an epoch. */
  readonly batches: { readonly rows: number; readonly perEpoch: number }
  /** Exposures of a sequence of the splits in an epoch of arm `repeats`; 0 for one that is never trained on. */
  readonly repeatsOf: (row: Row) => number
  /** Names of the domains: that of `heldOut`, and that of `other`. */
  readonly domains: ReadonlyArray<string>
  /** What the sequences say, their first token included. */
  readonly texts: (rows: ReadonlyArray<Row>) => ReadonlyArray<string>
  /** What it is all made of. */
  readonly inputs: ReadonlyArray<Input>
  /** The ids that are trained on; undefined where they are too many to list. */
  readonly names: (typeof DataStream.Service)["names"]
  /** Sequences that are in no split because they share an id with one, or nearly all of their text. */
  readonly dropped: number
  /** Sequences that are not repeated, of which the first `RETAINED` can be in `retained`. */
  readonly singles: number
}

/** What a kind of world consists of, before anything is compared. */
interface Ground extends Pick<World, "domains" | "stream"> {
  /** Held-out sequences of the kind of the repeated ones. */
  readonly heldOut: (data: typeof DataStream.Service) => ReadonlyArray<Row>
  readonly other?: ReadonlyArray<Row>
  /** Exposures of a sequence that is not repeated. */
  readonly singleTimes: number
  /** Exposures of each canary, and whether it is random, in the order of the split. */
  readonly canaries: ReadonlyArray<{ readonly times: number; readonly random: boolean }>
}

/** Ids that no stream gives: those of made-up sequences that no stream holds. */
const outside = (kind: number, i: number): bigint => BigInt.asUintN(64, -1n) - (BigInt(kind) << 48n) - BigInt(i)

const textGround = (data: DataConfig, seed: number, fs: FileSystem.FileSystem): Ground => {
  const input = Schema.encodeSync(DataConfig)(data)
  return {
    domains: ["text"],
    stream: (overrides) =>
      DataStream.layer({ ...input, ...overrides, seed }).pipe(Layer.provide(Layer.succeed(FileSystem.FileSystem, fs))),
    heldOut: (stream) => stream.split("heldOut"),
    singleTimes: 1,
    canaries: (data.canaries ?? []).flatMap((canary) =>
      Array.from({ length: canary.random ?? 1 }, () => ({ times: canary.times, random: canary.random !== undefined }))
    )
  }
}

interface SyntheticSplits {
  readonly repeated: string
  readonly singles: string
  readonly heldOut: string
  readonly other?: string
}

/** A made-up corpus, a document a sequence. */
const syntheticGround = (
  { sequences }: Synthetic.SyntheticCorpus,
  tokenizer: Tokenizer,
  splits: SyntheticSplits,
  { batchSize, domains, heldOut: most, repeats, seed }:
    & Pick<Ground, "domains">
    & Readonly<Record<"batchSize" | "heldOut" | "repeats" | "seed", number>>
): Ground => {
  const of = (split: string) => sequences.filter((one) => one.split === split)
  const rowsOf = (split: string, kind: number): ReadonlyArray<Row> =>
    of(split).slice(0, most).map(({ name, scoredFrom, tokens }, i) => ({
      id: outside(kind, i),
      tokens,
      document: name,
      offset: 0,
      ...(scoredFrom === undefined ? {} : { scoredFrom })
    }))
  const documents = of(splits.repeated).length
  const source = Synthetic.sourceOf({ split: splits.repeated, repeats })
  const heldOut = rowsOf(splits.heldOut, 1)
  return {
    domains,
    stream: (overrides) =>
      DataStream.layerTokens(Synthetic.tokenDocuments(sequences), tokenizer, {
        seqLen: sequences[0]!.tokens.length - 1,
        batchSize,
        packing: "row",
        heldOutFraction: 0,
        sources: Synthetic.mixture(sequences),
        ...(documents === 0 ? {} : { repeat: [{ documents, times: repeats, source }] }),
        ...overrides,
        seed
      }),
    heldOut: () => heldOut,
    ...(splits.other === undefined ? {} : { other: rowsOf(splits.other, 2) }),
    singleTimes: of(splits.singles)[0]?.repeats ?? 0,
    canaries: []
  }
}

const groundOf = (config: WorldConfig, seed: number, fs: FileSystem.FileSystem): Ground => {
  switch (config.world) {
    case "text":
      return textGround(config.data, seed, fs)
    case "twoDomains": {
      const corpus = Synthetic.twoDomains({ ...config, seed })
      return syntheticGround(
        corpus,
        Synthetic.wordTokenizer(Synthetic.numerals(corpus.vocabSize)),
        { repeated: "rare", singles: "common", heldOut: "rareHeldOut", other: "commonHeldOut" },
        { ...config, domains: ["rare", "common"], seed }
      )
    }
    case "modular":
      return syntheticGround(
        Synthetic.modular({ ...config, seed }),
        Synthetic.wordTokenizer([...Synthetic.numerals(config.modulus), "="]),
        { repeated: "corrupted", singles: "rule", heldOut: "heldOut" },
        { ...config, domains: ["sums"], seed }
      )
  }
}

/** Two halves, in turns from the most exposures to the fewest, so that both have every number of them. */
const halves = (
  rows: ReadonlyArray<Row>,
  times: (row: Row) => number
): readonly [ReadonlyArray<Row>, ReadonlyArray<Row>] => {
  const sorted = [...rows].sort((a, b) => times(b) - times(a))
  return [sorted.filter((_, i) => i % 2 === 0), sorted.filter((_, i) => i % 2 === 1)]
}

/** Retained sequences at most. */
export const RETAINED = 512

const refuse = (detail: string) => new DataError({ detail })

/**
 * The data of one seed; the seed decides all that is drawn. Of two sequences that share an id or are near-duplicates
 * (one has .8 of the other's 13-grams of tokens) one is in no split: the later one of the repeated, else the retained
 * or held-out one. Of a configuration of all documents, held-out sequences are compared with the repeated ones and with
 * the sample of 512 others.
 *
 * Fails with a DataError, before anything trains, where nothing is repeated, fewer than 2 repeated or 4 held-out
 * sequences are left, or a single canary.
 */
export const makeWorld = (
  config: WorldConfig,
  seed: number
): Effect.Effect<World, DataError, FileSystem.FileSystem | Scope.Scope> =>
  Effect.gen(function*() {
    if (config.world === "text" && config.data.arm !== "repeats") {
      return yield* refuse(`data.arm is "${config.data.arm}", but the arms of an experiment say that: leave it out`)
    }
    const ground = groundOf(config, seed, yield* FileSystem.FileSystem)
    const data = Context.get(yield* Layer.build(ground.stream()), DataStream)
    const times = new Map<string, number>()
    const key = ({ document, id, offset }: Row): string => `${id} ${offset} ${document}`
    const note = (rows: ReadonlyArray<Row>, exposures: number) => {
      for (const row of rows) times.set(key(row), exposures)
      return rows
    }
    const repeatsOf = (row: Row): number => times.get(key(row)) ?? 0

    const repeated = data.groups.flatMap((group) => note(group.rows, group.times))
    if (!repeated.some((row) => repeatsOf(row) > 1)) {
      return yield* refuse(
        "the data repeats nothing, so there is no memory to isolate: " +
          (config.world === "text"
            ? "set repeatedSequences and repeats, or repeat, to sequences of several exposures"
            : `raise repeats (${config.repeats})`) +
          (config.world === "modular" ? ` or corrupted (${config.corrupted})` : "")
      )
    }
    const allCanaries = data.split("canaries")
    allCanaries.forEach((row, i) => note([row], ground.canaries[i]!.times))
    const randomCanaries = allCanaries.filter((_, i) => ground.canaries[i]!.random)
    const singles = note(data.split("singles"), ground.singleTimes)

    // Whoever comes later is compared with all that came before, whether they are in a split or not.
    const ids = new Set<bigint>()
    const index = overlapIndex()
    let dropped = 0
    const take = (rows: ReadonlyArray<Row>) => {
      for (const row of rows) {
        ids.add(row.id)
        index.add(row)
      }
    }
    /** Those that are like nothing before them. */
    const fresh = (rows: ReadonlyArray<Row>): ReadonlyArray<Row> => {
      const kept = rows.filter((row) => !ids.has(row.id) && index.find(row) === undefined)
      dropped += rows.length - kept.length
      return kept
    }
    /** The same, of rows that are like no other of their own either. */
    const distinct = (rows: ReadonlyArray<Row>): ReadonlyArray<Row> =>
      rows.flatMap((row) => {
        const kept = fresh([row])
        take([row])
        return kept
      })
    const [seen, scored] = halves(distinct(repeated), repeatsOf)
    const [canarySeen, canaryScored] = halves(distinct(randomCanaries), repeatsOf)
    take(allCanaries)
    const retained = fresh(singles.slice(0, RETAINED))
    take(singles)
    const heldOutRows = distinct(ground.heldOut(data))
    const [validation, heldOut] = halves(heldOutRows, () => 0)
    const other = ground.other === undefined ? {} : { other: distinct(ground.other) }

    const few = (what: string, kept: number, all: number, advice: string) =>
      refuse(`${kept} of ${all} ${what} can be scored, those that share no id and no text with others; ${advice}`)
    if (scored.length === 0) {
      return yield* few("repeated sequences", seen.length, repeated.length, "2 are needed, one half to remove and " +
        "the other to judge by: repeat more sequences")
    }
    if (heldOutRows.length < 4) {
      return yield* few("held-out sequences", heldOutRows.length, ground.heldOut(data).length, "4 are needed, 2 to " +
        "choose by and 2 to report: hold out more")
    }
    if (randomCanaries.length > 0 && canaryScored.length === 0) {
      return yield* few("random canaries", canarySeen.length, randomCanaries.length, "2 are needed, or none: set " +
        "random to 2 or more, and leave id out")
    }
    const canaryOthers = randomCanaries.length === 0 ? [] : heldOut.map((_, i): Row => {
      const draw = random(seed, "canaryOthers", i)
      const { length } = randomCanaries[i % randomCanaries.length]!.tokens
      return {
        id: outside(3, i),
        tokens: Uint32Array.from({ length }, () => draw.below(data.tokenizer.vocabSize)),
        document: `canaryOthers/${i + 1}`,
        offset: 0
      }
    })
    return {
      stream: ground.stream,
      splits: { seen, scored, canarySeen, canaryScored, canaryOthers, retained, validation, heldOut, ...other },
      tokenizer: data.tokenizer,
      seqLen: data.seqLen,
      batches: { rows: data.batchSize, perEpoch: data.batchesPerEpoch },
      repeatsOf,
      domains: ground.domains,
      texts: (rows) => rows.map(({ tokens }) => data.tokenizer.decode(tokens)),
      inputs: yield* Effect.zipRight(data.verify, data.inputs),
      names: data.names,
      dropped,
      singles: singles.length
    }
  })
