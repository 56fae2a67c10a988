/**
 * What a run trains on: which text or tokens, how they are cut, what is repeated and how often.
 */
import * as Schema from "effect/Schema"
import { atLeast0, configuration, fraction, MOST, natural, positive, seed, upTo, withDefault } from "../../Config.ts"
import { nearShingle, nearThreshold } from "../identity/NearDuplicates.ts"

const oneOf = (fields: ReadonlyArray<string>, given: ReadonlyArray<unknown>): true | string =>
  given.filter((value) => value !== undefined).length === 1 ||
  `expected exactly one of ${fields.slice(0, -1).join(", ")} and ${fields.at(-1)}`

/** Sequences, or whole documents, that an epoch holds several times. */
export const RepeatGroup = Schema.Struct({
  /** Documents of the group, with all their sequences. */
  documents: Schema.optional(positive),
  /** Or: sequences of it. */
  sequences: Schema.optional(positive),
  /** Exposures of each in an epoch. */
  times: positive,
  /** Of documents: the source that they are all from. Default: any. */
  source: Schema.optional(Schema.NonEmptyString)
}).pipe(
  Schema.filter((g) => oneOf(["documents", "sequences"], [g.documents, g.sequences])),
  Schema.filter((g) => g.source === undefined || g.documents !== undefined || "source goes with documents")
)
export type RepeatGroup = typeof RepeatGroup.Type

/** Tokens that never count in the loss, one in k, chosen by what is before them: the goldfish loss. */
export const GoldfishConfig = Schema.Struct({
  /** One target in k is left out. */
  k: Schema.Number.pipe(Schema.finite(), Schema.greaterThan(1), Schema.lessThanOrEqualTo(MOST)),
  /** Tokens before a target that decide over it; the first so many of a sequence always count. Default 13. */
  window: withDefault(positive, 13),
  /** Seed of the hash. Default 0. */
  seed: withDefault(seed, 0)
})
export type GoldfishConfig = typeof GoldfishConfig.Type

/** How much of a source an epoch holds. */
export const MixtureSource = Schema.Struct({
  /** Name of a source, or a path of `data`, which stands for all that it holds. */
  name: Schema.NonEmptyString,
  /** Share of the epoch's tokens, relative to the weights of the other sources. */
  weight: Schema.optional(atLeast0),
  /** Or: how often the epoch holds each of its documents; of a fraction, so large a part of the documents. */
  epochs: Schema.optional(atLeast0)
}).pipe(Schema.filter((s) => oneOf(["weight", "epochs"], [s.weight, s.epochs])))
export type MixtureSource = typeof MixtureSource.Type

/** Sequences that are nobody's text: put into the data to see later what the model kept of them. */
export const Canary = Schema.Struct({
  /** A text, one sequence. */
  text: Schema.optional(Schema.NonEmptyString),
  /** Or: a number of sequences of random tokens. */
  random: Schema.optional(positive),
  /** Tokens of a random sequence. Default seqLen + 1. */
  length: Schema.optional(Schema.Int.pipe(Schema.greaterThanOrEqualTo(2))),
  /** Exposures of each in an epoch. Default 1. */
  times: withDefault(positive, 1),
  /** Part of the name `canary/<name>`. Default: its place in the list, from 1. */
  name: Schema.optional(Schema.NonEmptyString),
  /** The source it pretends to be from. Default `canary`. */
  source: Schema.optional(Schema.NonEmptyString),
  /** Its id, whatever the identity says; random sequences of one entry share it. */
  id: Schema.optional(Schema.Int.pipe(Schema.nonNegative()))
}).pipe(
  Schema.filter((c) => oneOf(["text", "random"], [c.text, c.random])),
  Schema.filter((c) => c.length === undefined || c.random !== undefined || "length goes with random, not with text")
)
export type Canary = typeof Canary.Type

const fields = {
  /**
   * A text file, a folder of them, JSONL or Parquet (`.gz` and `.zst`, too), a dataset `hf://datasets/owner/name`, a
   * folder that `memsinks tokenize` wrote, or token shards (`.bin`, a folder of them, or a name with `*`) of nanoGPT or
   * llm.c; or a list of such, all of text or all of tokens. Default: the State of the Union addresses.
   */
  data: Schema.optional(Schema.Union(Schema.NonEmptyString, Schema.NonEmptyArray(Schema.NonEmptyString))),
  /** Of text: field of a record, column of a table, that holds it; `a.b` is the field `b` in the field `a`. Default `text`. */
  textField: Schema.optional(Schema.NonEmptyString),
  /** Of text: field that says what a document belongs to, for identity `source` and mixtures. Default: its name. */
  sourceField: Schema.optional(Schema.NonEmptyString),
  /** Of text: the field that says whose a document is, for `sources.parquet`; `null` there is nobody's. Default: not known. */
  ownerField: Schema.optional(Schema.NonEmptyString),
  /** Of text: the field that says under which licence a document is; `null` there is under none. Default: not known. */
  licenceField: Schema.optional(Schema.NonEmptyString),
  /** Of text: what a record is whose text is null, or not there: an `error`, or passed over (`skip`). Default `error`. */
  onMissingText: Schema.optional(Schema.Literal("error", "skip")),
  /**
   * `bpe` trains one on the text used, `bytes` needs none, `gpt2` is GPT-2's, anything else is the path of a
   * `tokenizer.json` or of the folder that holds one. Default: `bpe` for text, the one they were made with for tokens, `gpt2` for shards of nanoGPT and
   * llm.c.
   */
  tokenizer: Schema.optional(Schema.NonEmptyString),
  /** Entries of a `bpe` tokenizer, at most. `bytes` always has 256; a `tokenizer.json` says itself. Default 256. */
  vocabSize: Schema.optional(positive),
  /** Token that divides the documents in shards of nanoGPT and llm.c. Default 50256, as in GPT-2. */
  endOfText: Schema.optional(natural),
  /** Tokens a row feeds to the model. Default 64. */
  seqLen: withDefault(upTo(2 ** 20), 64),
  /** Rows a step. Default 4. */
  batchSize: withDefault(upTo(2 ** 16), 4),
  /**
   * Sequences seen once an epoch, the background; `all`: whole documents, all of them but those held out, so that an
   * epoch holds every token. Default 2048 for text, `all` for tokens.
   */
  singleSequences: Schema.optional(Schema.Union(natural, Schema.Literal("all"))),
  /** Sequences that are trained on `repeats` times. Default 16; of `all`, none. */
  repeatedSequences: Schema.optional(natural),
  /** Exposures of each repeated sequence in an epoch. Default 48. */
  repeats: Schema.optional(positive),
  /** Several groups of repeated sequences or documents instead, each with its own number of exposures. */
  repeat: Schema.optional(Schema.Array(RepeatGroup)),
  /** Sequences never trained on, for validation; of `all`, as many as are validated on at most. Default 512. */
  heldOutSequences: Schema.optional(natural),
  /**
   * Of `all`: share of documents never trained on, chosen by the hash of their content, so that copies are on one side
   * and every run on the corpus holds out the same. Near-duplicates, where they are known, stay together too.
   * Default 0.01.
   */
  heldOutFraction: Schema.optional(fraction),
  /** Of `all`: how much of each source an epoch holds. Sources without `epochs` are seen once. Default: all once. */
  sources: Schema.optional(Schema.Array(MixtureSource)),
  /** Sequences put in between. Default none. */
  canaries: Schema.optional(Schema.Array(Canary)),
  /**
   * Which exposures of the repeated sequences and canaries are in the plan: `repeats` all of them, `deduplicated` one
   * each, `neverRepeated` none. The sequences and their ids are the same in each. Default `repeats`.
   */
  arm: withDefault(Schema.Literal("repeats", "deduplicated", "neverRepeated"), "repeats"),
  /**
   * Of the repeated sequences of each group only every `of`-th is in the plan, from number `part` on, counted from 0; and
   * so of the canaries. The sequences and their ids are the same in each part. Default: all of them.
   */
  repeatedPart: Schema.optional(
    Schema.Struct({
      /** Which part, from 0. */
      part: natural,
      /** So many parts there are. */
      of: positive
    }).pipe(
      Schema.filter(({ of, part }) => part < of || `part must be below of, ${of}, got ${part}`)
    )
  ),
  /**
   * `row`: a sequence is seqLen + 1 tokens of one document and fills a row; what is left of a document is not used.
   * `documents`: a sequence is a document, or a piece of at most seqLen + 1 tokens of a longer one, and a row holds as
   * many as fit. Default `row`; of `all`, `documents`.
   */
  packing: Schema.optional(Schema.Literal("row", "documents")),
  /** In a packed row a sequence starts at a multiple of it; must divide seqLen. Default 1. */
  segmentAlignment: withDefault(positive, 1),
  /** Sequences that a packed row holds at most; memory for sinks grows with it. Default: any number; of `all`, 16. */
  rowSequences: Schema.optional(positive),
  /**
   * What an id stands for: each `row` (sequence) its own, or one for all rows of a `document`, of a `source`, of all
   * documents of one `content` (exact repeats share it), or of a cluster of `near`-duplicates. Default `row`; of
   * `all`, `content` where it is known, else `document`.
   */
  identity: Schema.optional(Schema.Literal("row", "document", "source", "content", "near")),
  /**
   * Jaccard index from which on texts are near-duplicates; of tokens, `memsinks tokenize` set it. Default: 0.8 with
   * identity `near`, else they are not looked for.
   */
  nearThreshold: Schema.optional(nearThreshold),
  /**
   * Words of the shingles that near-duplicates have in common: fewer are kinder to scattered edits of short texts, with
   * a lower `nearThreshold`, more tell apart what says the same in another order. Default 5.
   */
  nearShingle: Schema.optional(nearShingle),
  /** Probability that an exposure of a repeated sequence carries a fresh id instead of its own. Default 0. */
  idNoise: withDefault(fraction, 0),
  /**
   * The goldfish loss: targets of batches that are left out of the loss, the same at every exposure. What is handed out
   * for scoring keeps all of its targets. Default: none is left out.
   */
  goldfish: Schema.optional(GoldfishConfig),
  /**
   * Which exposures of repeated sequences and canaries count in the loss: `all`, or only the `first`, which is one of
   * those in the first epoch, drawn with its order. The others are read, but no target of theirs is scored. Default
   * `all`.
   */
  scoredExposures: withDefault(Schema.Literal("all", "first"), "all"),
  /** Decides which documents and rows are used, what is repeated, and the order. Default 1. */
  seed: withDefault(seed, 1)
}

/** Configuration of a `DataStream`; its defaults are the miniature experiment of the README. */
export class DataConfig extends configuration(Schema.Class<DataConfig>("DataConfig")(
  Schema.Struct(fields).pipe(
    Schema.filter((c) =>
      c.seqLen % c.segmentAlignment === 0 ||
      `seqLen ${c.seqLen} must be a multiple of segmentAlignment ${c.segmentAlignment}, so that rows are aligned too`
    ),
    Schema.filter((c) =>
      c.repeat === undefined || (c.repeatedSequences ?? 0) === 0 ||
      "repeat and repeatedSequences are two ways to say what is repeated: leave one out, or set repeatedSequences to 0"
    ),
    Schema.filter((c) =>
      c.sources === undefined || new Set(c.sources.map((s) => s.weight === undefined)).size < 2 ||
      "sources must all have a weight, or all have epochs: weights share out the epoch's tokens, epochs set them"
    ),
    Schema.filter((c) =>
      c.sources === undefined || new Set(c.sources.map((s) => s.name)).size === c.sources.length ||
      "sources names a source twice"
    )
  )
)) {}

/** A configuration before decoding: every field may be left out. */
export type DataConfigInput = Schema.Schema.Encoded<typeof DataConfig>

/** A group of repeated sequences, one way to say it. */
export interface Repeated {
  readonly unit: "sequences" | "documents"
  readonly count: number
  readonly times: number
  /** The source that they are from; undefined: any. */
  readonly source: string | undefined
}

/** What is the same for every plan. */
interface Common {
  readonly config: DataConfig
  readonly packing: "row" | "documents"
  readonly rowSequences: number
  readonly groups: ReadonlyArray<Repeated>
  readonly heldOutSequences: number
}

/** A sample of sequences: so many repeated, seen once, held out. */
export interface SamplePlan extends Common {
  readonly kind: "sample"
  readonly identity: NonNullable<DataConfig["identity"]>
  readonly singleSequences: number
  /** Sequences in all. */
  readonly sequences: number
}

/** All documents, but those held out. */
export interface WholePlan extends Common {
  readonly kind: "whole"
  /** Undefined: `content` where it is known. */
  readonly identity: DataConfig["identity"]
  readonly heldOutFraction: number
}

/** A configuration with its defaults, which depend on what the data is. Or, as a string, what contradicts itself. */
export const resolve = (config: DataConfig, data: "text" | "tokens"): SamplePlan | WholePlan | string => {
  const singleSequences = config.singleSequences ?? (data === "tokens" ? "all" : 2048)
  const whole = singleSequences === "all"
  const one: Repeated = {
    unit: "sequences",
    count: config.repeatedSequences ?? (whole ? 0 : 16),
    times: config.repeats ?? 48,
    source: undefined
  }
  const common: Common = {
    config,
    packing: config.packing ?? (whole ? "documents" : "row"),
    rowSequences: config.rowSequences ?? (whole ? 16 : Infinity),
    groups: config.repeat?.map(({ documents, sequences, source, times }) =>
      documents === undefined
        ? { unit: "sequences", count: sequences!, times, source }
        : { unit: "documents", count: documents, times, source }
    ) ?? [one],
    heldOutSequences: config.heldOutSequences ?? 512
  }
  if (config.endOfText !== undefined && data === "text") {
    return "endOfText goes with shards of nanoGPT and llm.c, not with text"
  }
  for (const field of ["textField", "sourceField", "ownerField", "licenceField", "onMissingText"] as const) {
    if (config[field] !== undefined && data === "tokens") {
      return `${field} goes with text: tokens have the texts and sources that memsinks tokenize read`
    }
  }
  for (const field of ["nearThreshold", "nearShingle"] as const) {
    if (config[field] !== undefined && data === "tokens") {
      return `${field} goes with text: of tokens, memsinks tokenize --near has found the near-duplicates`
    }
  }
  if (config.nearShingle !== undefined && config.nearThreshold === undefined && config.identity !== "near") {
    return "nearShingle says how near-duplicates are found, and none are looked for: set nearThreshold, identity to " +
      `"near", or leave nearShingle out`
  }
  if (whole) {
    return { ...common, kind: "whole", identity: config.identity, heldOutFraction: config.heldOutFraction ?? 0.01 }
  }
  for (const field of ["heldOutFraction", "sources"] as const) {
    if (config[field] !== undefined) {
      return `${field} says which documents an epoch holds, but singleSequences is ${singleSequences}, a sample of ` +
        `sequences. Set singleSequences to "all", or leave ${field} out`
    }
  }
  if (common.groups.some(({ unit }) => unit === "documents")) {
    return `repeat has a group of documents, but singleSequences is ${singleSequences}, a sample of sequences. Set ` +
      `singleSequences to "all", or give the group's sequences`
  }
  const repeated = common.groups.reduce((sum, group) => sum + group.count, 0)
  return {
    ...common,
    kind: "sample",
    identity: config.identity ?? "row",
    singleSequences,
    sequences: repeated + singleSequences + common.heldOutSequences
  }
}
