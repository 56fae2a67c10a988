/** What a folder of token shards says of itself, in `dataset.json`. */
import * as Schema from "effect/Schema"
import { FileName, Sha256 } from "../Paths.ts"

const count = Schema.Int.pipe(Schema.nonNegative())

/** A name in the dataset's own folder: nothing outside it is ever read. */
const fileName = (pattern: RegExp, description: string) => Schema.String.pipe(Schema.pattern(pattern, { description }))

/** `dataset.json`. */
export const Dataset = Schema.Struct({
  /** Raised when the format changes. */
  format: Schema.Literal(1),
  /** File of the tokenizer, in the same folder. */
  tokenizer: Schema.optional(fileName(/^[\w][\w.-]*\.json$/, "the name of a .json file")),
  /** One more than the largest id that may occur. */
  vocabSize: Schema.Int.pipe(Schema.between(1, 2 ** 32 - 1)),
  dtype: Schema.Literal("uint16", "uint32"),
  /** The token before each document, and the one after it, where there is one; both count as tokens of the document. */
  bos: Schema.optional(count),
  eos: Schema.optional(count),
  tokens: count,
  documents: count,
  /** UTF-8 bytes of the text that was tokenized. */
  bytes: Schema.optional(count),
  /** SHA-256 of the names and texts of the documents that were tokenized: tells whether the data is what it was. */
  documentsSha256: Schema.optional(Schema.String),
  /** Names of the sources, in the order in which they first occur. */
  sources: Schema.Array(Schema.String),
  /** Whose the documents of each source are, and their licences, in the order of `sources`, where the data says so. */
  owners: Schema.optional(Schema.Array(Schema.Array(Schema.String))),
  licences: Schema.optional(Schema.Array(Schema.Array(Schema.String))),
  /** How near-duplicates were found, where they were looked for. */
  near: Schema.optional(
    Schema.Struct({
      threshold: Schema.Number,
      numHashes: count,
      shingle: count,
      /** Clusters of two documents or more, and the documents in them. */
      clusters: count,
      documents: count
    })
  ),
  shards: Schema.Array(
    Schema.Struct({ file: fileName(/^[\w][\w.-]*\.bin$/, "the name of a .bin file"), tokens: count, documents: count })
  ),
  /** Of every other file, in hexadecimal digits. */
  sha256: Schema.Record({ key: FileName, value: Sha256 }),
  /** What it was made from, and how. */
  config: Schema.optional(Schema.Unknown),
  /** Key of all the other fields, where there is one: tells whether they are what was written. */
  self: Schema.optional(Sha256)
})
export type Dataset = typeof Dataset.Type

/** Bytes of a document in an index file. */
export const RECORD = 32

/** The files of a shard, by the name of its tokens. */
export const shardFiles = (file: string) => {
  const stem = file.replace(/\.bin$/, "")
  return { bin: file, idx: `${stem}.idx`, names: `${stem}.names.jsonl` }
}

/** The type that holds every id below `vocabSize`. */
export const dtypeOf = (vocabSize: number): Dataset["dtype"] => vocabSize <= 2 ** 16 ? "uint16" : "uint32"

export const widthOf = (dtype: Dataset["dtype"]): 2 | 4 => dtype === "uint16" ? 2 : 4
