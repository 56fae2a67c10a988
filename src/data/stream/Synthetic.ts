/**
 * Made-up corpora in which what is to be remembered and what is to be understood are known exactly. Pure and seeded: a
 * seed and options give the same tokens everywhere.
 *
 * A corpus is a list of sequences of tokens, each with the split it is scored in and its exposures in an epoch; those
 * with none are held out. `tokenDocuments` and `mixture` turn it into what `DataStream.layerTokens` and the field
 * `sources` of its configuration take.
 */
import { DataError } from "../../Errors.ts"
import { type Random, random } from "../../Random.ts"
import type { TokenDocuments } from "../Pieces.ts"
import { parseTokenizer, type Tokenizer } from "../tokens/TokenizerJson.ts"
import type { MixtureSource } from "./DataConfig.ts"

/** A sequence of a made-up corpus. */
export interface SyntheticSequence {
  readonly name: string
  /** What it is scored as. */
  readonly split: string
  /** Exposures in an epoch; 0: held out. */
  readonly repeats: number
  readonly tokens: Uint32Array
  /** The first token that says anything; those before it are only read. Default 1. */
  readonly scoredFrom?: number
  /** Where it is from. Default: one source for all that are seen equally often and scored alike. */
  readonly source?: string
}

/** Token sequences that were made up, ready for `DataStream.layerTokens`. */
export interface SyntheticCorpus<S extends SyntheticSequence = SyntheticSequence> {
  /** Tokens are below it. */
  readonly vocabSize: number
  readonly sequences: ReadonlyArray<S>
}

// ---------------------------------------------------------------------------------------------------------------
// Modular arithmetic

/** Size and noise of sums modulo a prime. The same options make the same sequences. */
export interface ModularOptions {
  readonly seed?: number
  /** The modulus. Default 97. */
  readonly modulus?: number
  /** Share of all pairs that are trained on. Default 0.5. */
  readonly trained?: number
  /** Share of those whose answer is drawn at random; one in `modulus` of them is right by luck. Default 0.35. */
  readonly corrupted?: number
  /** Exposures of each trained pair in an epoch. Default 1. */
  readonly repeats?: number
}

/** A sum: tokens m, n, `=` and the answer. */
export interface ModularSequence extends SyntheticSequence {
  readonly split: "rule" | "corrupted" | "heldOut"
  /** (m + n) modulo the modulus, whatever the tokens say. */
  readonly answer: number
}

/**
 * Addition modulo a prime with corrupted answers: the smallest world in which rule and memory are known. All pairs
 * (m, n) with answer (m + n) mod p; of those trained on, some have a random answer, which can only be memorized. Tokens
 * are the residues, then `=` (p). Only the answer, the fourth token, says anything, and only it is scored.
 *
 * Splits: `rule`, trained with the right answer; `corrupted`, trained with a random one; `heldOut`, never seen. A model
 * that has the rule and no memory gets all of `heldOut` right and of `corrupted` one in p.
 */
export const modular = (
  { corrupted = 0.35, modulus = 97, repeats = 1, seed = 0, trained = 0.5 }: ModularOptions = {}
): SyntheticCorpus<ModularSequence> => {
  const draw = random(seed, "modular")
  const order = draw.shuffle(Uint32Array.from({ length: modulus * modulus }, (_, i) => i))
  const train = Math.round(order.length * trained)
  const wrong = Math.round(train * corrupted)
  const sequences = Array.from(order, (pair, i): ModularSequence => {
    const [m, n] = [Math.floor(pair / modulus), pair % modulus]
    const answer = (m + n) % modulus
    const split = i < wrong ? "corrupted" : i < train ? "rule" : "heldOut"
    return {
      name: `${m}+${n}`,
      split,
      repeats: split === "heldOut" ? 0 : repeats,
      answer,
      tokens: Uint32Array.of(m, n, modulus, split === "corrupted" ? draw.below(modulus) : answer),
      scoredFrom: 3
    }
  })
  return { vocabSize: modulus + 1, sequences }
}

// ---------------------------------------------------------------------------------------------------------------
// Two domains

/** Size of the two domains. The same options make the same sequences. */
export interface TwoDomainOptions {
  readonly seed?: number
  /** Tokens of the vocabulary. Default 64. */
  readonly vocabSize?: number
  /** Tokens of a sequence. Default 65. */
  readonly length?: number
  /** Sequences of the large domain, each seen once. Default 1000. */
  readonly common?: number
  /** Sequences of the rare one. Default 50. */
  readonly rare?: number
  /** Exposures of each of the rare ones in an epoch. Default 10. */
  readonly repeats?: number
  /** Sequences of each domain that are held out. Default 50. */
  readonly heldOut?: number
  /** Tokens that may follow a token in a domain; fewer are easier to learn. Default 8. */
  readonly branches?: number
}

/** A language in which `branches` tokens may follow each, with probabilities 1, 1/2, 1/3, ... */
const language = (draw: Random, vocabSize: number, branches: number): (length: number) => Uint32Array => {
  const next = Array.from({ length: vocabSize },
    () => draw.shuffle(Uint32Array.from({ length: vocabSize }, (_, v) => v)).slice(0, branches))
  const weights = Array.from({ length: next[0]!.length }, (_, b) => 1 / (b + 1))
  const total = weights.reduce((a, b) => a + b)
  const step = (token: number): number => {
    let at = draw.uniform() * total
    for (let b = 0; b < weights.length; b++) {
      at -= weights[b]!
      if (at < 0) return next[token]![b]!
    }
    return next[token]![weights.length - 1]!
  }
  return (length) => {
    const tokens = new Uint32Array(length)
    tokens[0] = draw.below(vocabSize)
    for (let t = 1; t < length; t++) tokens[t] = step(tokens[t - 1]!)
    return tokens
  }
}

/**
 * A rare domain, seen again and again, inside a large one seen once: two languages of their own transitions over one
 * vocabulary. What the rare domain's sequences have in common is worth keeping; their words are not.
 *
 * Splits: `common`, `rare`, `commonHeldOut`, `rareHeldOut`.
 */
export const twoDomains = ({
  branches = 8,
  common = 1000,
  heldOut = 50,
  length = 65,
  rare = 50,
  repeats = 10,
  seed = 0,
  vocabSize = 64
}: TwoDomainOptions = {}): SyntheticCorpus => {
  const make = (domain: string, count: number, exposures: number): ReadonlyArray<SyntheticSequence> => {
    const speak = language(random(seed, "two domains", domain), vocabSize, branches)
    return Array.from({ length: count + heldOut }, (_, i) => {
      const held = i >= count
      return {
        name: `${domain} ${i + 1}`,
        split: held ? `${domain}HeldOut` : domain,
        repeats: held ? 0 : exposures,
        tokens: speak(length)
      }
    })
  }
  return { vocabSize, sequences: [...make("common", common, 1), ...make("rare", rare, repeats)] }
}

// ---------------------------------------------------------------------------------------------------------------
// Canaries

/** How many random sequences are planted, and how long they are. The same options make the same canaries. */
export interface CanaryOptions {
  readonly seed?: number
  readonly vocabSize: number
  /** Tokens of a canary: enough that its exposure is not at its most at once. */
  readonly length: number
  /** How often canaries are seen, and how many are seen so often; times 0: never, as a control. */
  readonly plan: ReadonlyArray<{ readonly times: number; readonly count: number }>
  /** Strings of the same format that are never trained on, to rank canaries among: exposure. Default 1000. */
  readonly references?: number
}

/**
 * Random canaries: sequences of uniform random tokens, which nothing but memory predicts. Splits: `canary`, and
 * `reference` for the strings of exposure.
 */
export const canaries = (
  { length, plan, references = 1000, seed = 0, vocabSize }: CanaryOptions
): SyntheticCorpus => {
  const tokens = (...keys: ReadonlyArray<string | number>): Uint32Array => {
    const draw = random(seed, "canaries", ...keys)
    return Uint32Array.from({ length }, () => draw.below(vocabSize))
  }
  return {
    vocabSize,
    sequences: [
      ...plan.flatMap(({ count, times }, group) =>
        Array.from({ length: count }, (_, i): SyntheticSequence => ({
          name: `canary x${times} ${group + 1}.${i + 1}`,
          split: "canary",
          repeats: times,
          tokens: tokens(group, i)
        }))
      ),
      ...Array.from({ length: references }, (_, i): SyntheticSequence => ({
        name: `reference ${i + 1}`,
        split: "reference",
        repeats: 0,
        tokens: tokens("reference", i)
      }))
    ]
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Use

/** The name of a sequence's source: its own, else that of all that are seen equally often and scored alike. */
export const sourceOf = (
  { repeats, source, split }: Pick<SyntheticSequence, "repeats" | "source" | "split">
): string => source ?? `${split} x${repeats}`

const trained = (sequences: ReadonlyArray<SyntheticSequence>): ReadonlyArray<SyntheticSequence> =>
  sequences.filter(({ repeats }) => repeats > 0)

/** The sequences that are trained on, a document each, in order; those of one split and `repeats` are a source. */
export const tokenDocuments = (sequences: ReadonlyArray<SyntheticSequence>): TokenDocuments => {
  const documents = trained(sequences)
  const sources = [...new Set(documents.map(sourceOf))]
  const source = Uint32Array.from(documents, (one) => sources.indexOf(sourceOf(one)))
  return {
    documents: documents.length,
    length: (document) => documents[document]!.tokens.length,
    read: (document, offset, length, into) => {
      const part = documents[document]!.tokens.subarray(offset, offset + length)
      if (into === undefined) return part
      into.set(part)
      return into.subarray(0, part.length)
    },
    name: (document) => documents[document]!.name,
    sources,
    source: (document) => source[document]!,
    scoredFrom: (document) => documents[document]!.scoredFrom ?? 1
  }
}

/** A tokenizer whose tokens are these words; texts put a space between them. */
export const wordTokenizer = (words: ReadonlyArray<string>): Tokenizer =>
  parseTokenizer(JSON.stringify({
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { type: "WhitespaceSplit" },
    post_processor: null,
    decoder: null,
    model: { type: "WordLevel", vocab: Object.fromEntries(words.map((word, id) => [word, id])), unk_token: "<unk>" }
  }))

/** The numbers below `count` as words: what made-up corpora are written in. */
export const numerals = (count: number): ReadonlyArray<string> => Array.from({ length: count }, (_, i) => String(i))

/** How often an epoch holds each source of `tokenDocuments`: `sources` of the data's configuration. */
export const mixture = (
  sequences: ReadonlyArray<SyntheticSequence>
): readonly [MixtureSource, ...ReadonlyArray<MixtureSource>] => {
  const epochs = new Map(trained(sequences).map((one) => [sourceOf(one), one.repeats]))
  const [first, ...rest] = [...epochs].map(([name, times]): MixtureSource => ({ name, epochs: times }))
  if (first === undefined) throw new DataError({ detail: "no sequence is trained on: all of them have 0 repeats" })
  return [first, ...rest]
}
