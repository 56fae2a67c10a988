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
}

/** Any integer a caller may use as an id, as the 64 bits it stands for: negative numbers wrap, 0 is an id like any other. */
export const toId = (id: number | bigint): bigint => {
  if (typeof id === "number" && !Number.isSafeInteger(id)) {
    throw new RangeError(`an id must be a safe integer or a bigint, got ${id}`)
  }
  return BigInt.asUintN(64, BigInt(id))
}
