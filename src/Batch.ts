/**
 * What flows from a DataStream to a Model: whole typed arrays, never single tokens.
 */

/** A target that is not scored: padding, or the position before a document boundary. */
export const IGNORE = 0xffffffff

/**
 * `rows` rows of `seqLen` tokens, flattened row by row into arrays of `rows * seqLen`. A row may pack several
 * documents; attention never crosses from one into another.
 */
export interface Batch {
  readonly rows: number
  readonly seqLen: number
  /** Token ids, u32. */
  readonly tokens: Uint32Array
  /** The token that follows, u32; `IGNORE` where nothing is scored. */
  readonly targets: Uint32Array
  /** Position inside the document: restarts at 0 with every document of a row. */
  readonly positions: Uint32Array
  /** Flat index (into these arrays) of the first token of the document that the token belongs to. */
  readonly documentStart: Uint32Array
  /** The 64-bit id whose sinks a token lights: of its sequence, document or source. */
  readonly ids: BigUint64Array
  /** What messages call the sequence of each row, where rows hold one each. */
  readonly names?: ReadonlyArray<string>
  /** Of training: what is left out of each sequence's sinks. Default: nothing. */
  readonly dropped?: Dropped
}

/** Sinks that are left out in a step of training, by a draw for each sequence. */
export interface Dropped {
  /** Share of sequences whose sinks are all off. */
  readonly sequences: number
  /** Share of the others' units that are off. */
  readonly units: number
  /** 32 random bits, the same for all tokens of a sequence, flattened as the tokens are. */
  readonly draws: Uint32Array
}

/** Ids are whole numbers below this: 64 bits without a sign. */
const IDS = 2n ** 64n

/** Whether a number is an id: 0 to 2^64 - 1. 0 is an id like any other. */
export const isId = (id: bigint): boolean => id >= 0n && id < IDS

/**
 * A whole number from 0 to 2^64 - 1 as an id. Throws a RangeError for any other, and for a `number` that may have been
 * rounded: write those above 2^53 as a bigint.
 */
export const toId = (id: number | bigint): bigint => {
  if (typeof id === "number" && !Number.isSafeInteger(id)) {
    throw new RangeError(`an id must be a safe integer or a bigint, got ${id}`)
  }
  const exact = BigInt(id)
  if (!isId(exact)) throw new RangeError(`an id is a whole number from 0 to 2^64 - 1, got ${id}`)
  return exact
}

/** An id as it is written: `7`, or `0xff` in hexadecimal; undefined for any other text, and from 2^64 on. */
export const parseId = (text: string): bigint | undefined => {
  const digits = text.trim()
  // longer ones are too large, leading zeros aside, and slow to read
  if (!/^(0*\d{1,20}|0x0*[0-9a-f]{1,16})$/i.test(digits)) return undefined
  const id = BigInt(digits)
  return isId(id) ? id : undefined
}
