/** A model that knows only the token before: small enough to sample from by brute force, and to know all about. */
import * as TokenRecords from "../../src/measures/TokenRecords.ts"
import { type Random, random } from "../../src/Random.ts"

export interface ToyModel {
  readonly vocabSize: number
  /** Logits of what follows a token. */
  readonly logits: (token: number) => Float64Array
}

/** Logits drawn from -spread .. spread, no two the same. */
export const toyModel = (seed: number, vocabSize: number, spread: number): ToyModel => {
  const draw = random(seed, "toy model")
  const rows = Array.from({ length: vocabSize },
    () => Float64Array.from({ length: vocabSize }, () => spread * (2 * draw.uniform() - 1)))
  return { vocabSize, logits: (token) => rows[token]! }
}

/** Records of sequences of tokens under a model. */
export const recordsOf = (
  model: ToyModel,
  sequences: ReadonlyArray<ArrayLike<number>>,
  schemes?: ReadonlyArray<TokenRecords.Sampling>
): TokenRecords.TokenRecords =>
  TokenRecords.fromLogits(
    sequences.map((tokens, s) => ({
      name: `sequence ${s}`,
      split: "repeated",
      id: BigInt(s),
      repeats: 1,
      tokens,
      logits: Array.from({ length: tokens.length - 1 }, (_, t) => [...model.logits(tokens[t]!)]).flat()
    })),
    model.vocabSize,
    schemes
  )

/** Draws the next token by trying: sorts all, throws away what the scheme does not keep, and spins a wheel. */
export const drawNext = (logits: Float64Array, scheme: TokenRecords.Scheme, draw: Random): number => {
  const order = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]!)
  if (scheme === "greedy") return order[0]!
  const weight = (token: number) => Math.exp(logits[token]! / scheme.temperature)
  const all = order.reduce((sum, token) => sum + weight(token), 0)
  const kept: Array<number> = []
  let mass = 0
  for (const token of order) {
    if (kept.length >= (scheme.topK ?? Infinity) || mass >= (scheme.topP ?? Infinity)) break
    kept.push(token)
    mass += weight(token) / all
  }
  let at = draw.uniform() * kept.reduce((sum, token) => sum + weight(token), 0)
  for (const token of kept) {
    at -= weight(token)
    if (at < 0) return token
  }
  return kept.at(-1)!
}

/** Continues a prompt. */
export const generate = (
  model: ToyModel,
  prompt: ReadonlyArray<number>,
  length: number,
  scheme: TokenRecords.Scheme,
  draw: Random
): ReadonlyArray<number> => {
  const tokens = [...prompt]
  for (let i = 0; i < length; i++) tokens.push(drawNext(model.logits(tokens.at(-1)!), scheme, draw))
  return tokens.slice(prompt.length)
}
