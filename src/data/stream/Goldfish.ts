/**
 * The goldfish loss: one token in k, chosen by a hash of what is before it, never counts in the loss, at any exposure
 * of the text and wherever it stands, so a model cannot learn to recite what it was never told. Pure.
 */
import { type Batch, IGNORE } from "../../Batch.ts"
import { absorb, finish } from "../../TokenHash.ts"

/** Which tokens are left out. */
export interface GoldfishOptions {
  /** One token in k is left out of the loss; Infinity leaves out none. */
  readonly k: number
  /**
   * Tokens that decide over one: fewer than a duplicate has, else its copies differ; more than a common phrase has,
   * else its ending is never learned. Default 13.
   */
  readonly window?: number
  /** Default 0. */
  readonly seed?: number
  /**
   * `preceding` (default): the tokens before it decide, so whatever may follow them is trained or nothing is.
   * `including`: the last of them is the token itself, as in the authors' code; then, in a given context, some
   * continuations are trained and others never are, which skews what the model predicts.
   */
  readonly decidedBy?: "preceding" | "including"
}

/** 32 well-mixed bits of a seed and tokens in their order; only one bound is ever compared with them. */
const hash = (seed: number, tokens: ArrayLike<number>, from: number, to: number): number => {
  let h = seed | 0
  for (let i = from; i < to; i++) h = absorb(h, tokens[i]!)
  return finish(h)
}

/**
 * 1 for each token that counts in the loss, 0 for one left out. The first `window` tokens, whose hash would depend on
 * where the text was cut, always count.
 */
export const goldfishKept = (
  tokens: ArrayLike<number>,
  { decidedBy = "preceding", k, seed = 0, window = 13 }: GoldfishOptions
): Uint8Array => {
  if (!(k > 1) || !(window >= 1)) {
    throw new RangeError(`goldfish needs k above 1 and a window of at least 1, got k ${k} and window ${window}`)
  }
  const bound = 2 ** 32 / k
  const ahead = decidedBy === "including" ? 1 : 0
  const kept = new Uint8Array(tokens.length).fill(1)
  for (let t = window - ahead; t < tokens.length; t++) {
    if (hash(seed, tokens, t - window + ahead, t + ahead) < bound) kept[t] = 0
  }
  return kept
}

/**
 * A batch's targets with those left out as `IGNORE`, so that the loss is the mean over tokens that are kept. Windows
 * stay within a document.
 */
export const goldfishTargets = (batch: Batch, options: GoldfishOptions): Uint32Array => {
  const { documentStart, targets, tokens } = batch
  const masked = targets.slice()
  for (let from = 0; from < tokens.length;) {
    let to = from + 1
    while (to < tokens.length && documentStart[to] === documentStart[from]) to++
    // what the last token is to be followed by belongs to the document too
    const last = targets[to - 1]!
    const text = new Uint32Array(to - from + (last === IGNORE ? 0 : 1))
    text.set(tokens.subarray(from, to))
    if (last !== IGNORE) text[to - from] = last
    const kept = goldfishKept(text, options)
    for (let i = 1; i < text.length; i++) if (kept[i] === 0) masked[from + i - 1] = IGNORE
    from = to
  }
  return masked
}
