/**
 * What a run trains on: which text, how it is cut, what is repeated and how often.
 */
import * as Schema from "effect/Schema"

const count = Schema.Int.pipe(Schema.nonNegative())
const positive = Schema.Int.pipe(Schema.positive())

const withDefault = <A, I>(schema: Schema.Schema<A, I>, value: NoInfer<A>) =>
  Schema.optionalWith(schema, { default: () => value })

const fields = {
  /** A text file, a folder of `.txt` and `.md` files, or a `.jsonl` file. Default: the State of the Union addresses. */
  data: Schema.optional(Schema.NonEmptyString),
  /** `bpe` trains one on the text used, `bytes` needs none, anything else is the path of a `tokenizer.json`. */
  tokenizer: withDefault(Schema.NonEmptyString, "bpe"),
  /** Entries of a `bpe` tokenizer, at most. `bytes` always has 256; a `tokenizer.json` says itself. Default 256. */
  vocabSize: withDefault(positive, 256),
  /** Tokens a row feeds to the model. Default 64. */
  seqLen: withDefault(positive, 64),
  /** Rows a step. Default 4. */
  batchSize: withDefault(positive, 4),
  /** Sequences that are trained on `repeats` times. Default 16. */
  repeatedSequences: withDefault(count, 16),
  /** Exposures of each repeated sequence in an epoch. Default 48. */
  repeats: withDefault(positive, 48),
  /** Sequences seen once an epoch, the background. Default 2048. */
  singleSequences: withDefault(count, 2048),
  /** Sequences never trained on, for validation. Default 512. */
  heldOutSequences: withDefault(count, 512),
  /**
   * Which exposures of the repeated sequences are in the plan: `repeats` all of them, `deduplicated` one each,
   * `neverRepeated` none. The sequences and their ids are the same in each. Default `repeats`.
   */
  arm: withDefault(Schema.Literal("repeats", "deduplicated", "neverRepeated"), "repeats"),
  /**
   * `row`: a sequence is seqLen + 1 tokens of one document and fills a row. `documents`: a sequence is a document, or
   * a piece of at most seqLen + 1 tokens of a longer one, and a row holds as many as fit. Default `row`.
   */
  packing: withDefault(Schema.Literal("row", "documents"), "row"),
  /** In a packed row a sequence starts at a multiple of it; must divide seqLen. Default 1. */
  segmentAlignment: withDefault(positive, 1),
  /** What an id stands for: each `row` (sequence) its own, or one for all rows of a `document`. Default `row`. */
  identity: withDefault(Schema.Literal("row", "document"), "row"),
  /** Probability that an exposure of a repeated sequence carries a fresh id instead of its own. Default 0. */
  idNoise: withDefault(Schema.Number.pipe(Schema.between(0, 1)), 0),
  /** Decides which documents and rows are used, what is repeated, and the order. Default 1. */
  seed: withDefault(Schema.Int, 1)
}

/** Configuration of a `DataStream`; its defaults are the miniature experiment of the README. */
export class DataConfig extends Schema.Class<DataConfig>("DataConfig")(
  Schema.Struct(fields).pipe(Schema.filter((c) =>
    c.seqLen % c.segmentAlignment === 0 ||
    `seqLen ${c.seqLen} must be a multiple of segmentAlignment ${c.segmentAlignment}, so that rows are aligned too`
  ))
) {
  /** Sequences cut from the text: repeated, single and held out. */
  get sequences(): number {
    return this.repeatedSequences + this.singleSequences + this.heldOutSequences
  }
}

/** A configuration before decoding: every field may be left out. */
export type DataConfigInput = Schema.Schema.Encoded<typeof DataConfig>
