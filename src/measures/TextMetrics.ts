/**
 * How near what a model wrote is to what it was meant to, or not to, write. Pure.
 *
 * All functions take sequences of tokens, words or characters: pass `[...text]` for characters. Give them what follows
 * the prompt, never the prompt, which would match itself. Characters compare models of different tokenizers; tokens do
 * not.
 */

type Sequence<A> = ArrayLike<A>

/** Levenshtein's distance: insertions, deletions and substitutions that turn one into the other. */
export const editDistance = <A>(a: Sequence<A>, b: Sequence<A>): number => {
  const row = Uint32Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    let diagonal = row[0]!
    row[0] = i
    for (let j = 1; j <= b.length; j++) {
      const above = row[j]!
      row[j] = a[i - 1] === b[j - 1] ? diagonal : 1 + Math.min(diagonal, above, row[j - 1]!)
      diagonal = above
    }
  }
  return row[b.length]!
}

/** The distance as a share of the longer one: 0 equal, 1 nothing in common. At most 0.1 is an approximate copy. */
export const normalizedEditDistance = <A>(a: Sequence<A>, b: Sequence<A>): number =>
  a.length + b.length === 0 ? 0 : editDistance(a, b) / Math.max(a.length, b.length)

/** Equal items, in order, with any others in between: the longest such subsequence's length. */
const longestCommonSubsequence = <A>(a: Sequence<A>, b: Sequence<A>): number => {
  const row = new Uint32Array(b.length + 1)
  for (let i = 1; i <= a.length; i++) {
    let diagonal = 0
    for (let j = 1; j <= b.length; j++) {
      const above = row[j]!
      row[j] = a[i - 1] === b[j - 1] ? diagonal + 1 : Math.max(above, row[j - 1]!)
      diagonal = above
    }
  }
  return row[b.length]!
}

/** The longest run of items that both have. */
export const longestCommonRun = <A>(a: Sequence<A>, b: Sequence<A>): number => {
  const row = new Uint32Array(b.length + 1)
  let longest = 0
  for (let i = 1; i <= a.length; i++) {
    for (let j = b.length; j > 0; j--) {
      row[j] = a[i - 1] === b[j - 1] ? row[j - 1]! + 1 : 0
      longest = Math.max(longest, row[j]!)
    }
  }
  return longest
}

/** How often each n-gram occurs. */
const ngrams = <A>(sequence: Sequence<A>, n: number): Map<string, number> => {
  const counts = new Map<string, number>()
  const items = Array.from(sequence)
  for (let i = 0; i + n <= items.length; i++) {
    const key = JSON.stringify(items.slice(i, i + n))
    counts.set(key, (counts.get(key) ?? 0) + 1)
  }
  return counts
}

/** N-grams of `a` that `b` has too, each at most as often as `b` has it. */
const shared = <A>(a: Sequence<A>, b: Sequence<A>, n: number): number => {
  const counts = ngrams(b, n)
  let sum = 0
  for (const [key, count] of ngrams(a, n)) sum += Math.min(count, counts.get(key) ?? 0)
  return sum
}

/**
 * BLEU of one text against one reference: the geometric mean of the precisions of 1- to 4-grams, those above 1 with one
 * added to both counts (Lin and Och), times the brevity penalty. Texts shorter than 4 use the n-grams they have. At
 * least 0.75 is called an approximate copy.
 */
export const bleu = <A>(text: Sequence<A>, reference: Sequence<A>): number => {
  if (text.length === 0) return 0
  const orders = Math.min(4, text.length)
  let sum = 0
  for (let n = 1; n <= orders; n++) {
    const added = n === 1 ? 0 : 1
    sum += Math.log((shared(text, reference, n) + added) / (text.length - n + 1 + added))
  }
  return Math.exp(sum / orders + Math.min(0, 1 - reference.length / text.length))
}

/** Precision, recall and their harmonic mean. */
export interface Rouge {
  readonly precision: number
  readonly recall: number
  readonly f1: number
}

const rouge = (common: number, text: number, reference: number): Rouge => {
  const [precision, recall] = [text === 0 ? 0 : common / text, reference === 0 ? 0 : common / reference]
  return { precision, recall, f1: common === 0 ? 0 : (2 * precision * recall) / (precision + recall) }
}

/** ROUGE-L: what the text has of the reference in its order. Of words it is comparable to others' only if both stem. */
export const rougeL = <A>(text: Sequence<A>, reference: Sequence<A>): Rouge =>
  rouge(longestCommonSubsequence(text, reference), text.length, reference.length)

/** ROUGE-n of any n: what it has of the reference's n-grams. */
export const rougeN = <A>(text: Sequence<A>, reference: Sequence<A>, n: number): Rouge =>
  rouge(shared(text, reference, n), Math.max(0, text.length - n + 1), Math.max(0, reference.length - n + 1))

/** ROUGE-1: what it has of the reference in any order. */
export const rouge1 = <A>(text: Sequence<A>, reference: Sequence<A>): Rouge => rougeN(text, reference, 1)

/** Different n-grams as a share of all: 1, no n-gram comes twice. NaN of texts shorter than n. */
export const distinctN = <A>(text: Sequence<A>, n: number): number =>
  ngrams(text, n).size / Math.max(0, text.length - n + 1)

/** Share of n-grams that came before: near 1 for a model that goes round in circles. */
export const repetitionRate = <A>(text: Sequence<A>, n = 4): number => 1 - distinctN(text, n)

/** Greedily decoded text against the true continuation. */
export interface Copy {
  readonly exact: boolean
  /** Share of places with the true token: the k-memorization score. */
  readonly matched: number
  /** Tokens before the first wrong one. */
  readonly prefix: number
  readonly longestRun: number
  /** Normalized edit distance. */
  readonly editDistance: number
  readonly bleu: number
  readonly rougeL: number
  /** Edit distance at most 0.1. */
  readonly approximate: boolean
}

/** All of a continuation's scores. */
export const copy = <A>(text: Sequence<A>, truth: Sequence<A>): Copy => {
  const right = Array.from(truth, (item, i) => i < text.length && text[i] === item)
  const distance = normalizedEditDistance(text, truth)
  return {
    exact: distance === 0,
    matched: right.filter(Boolean).length / truth.length,
    prefix: right.includes(false) ? right.indexOf(false) : truth.length,
    longestRun: longestCommonRun(text, truth),
    editDistance: distance,
    bleu: bleu(text, truth),
    rougeL: rougeL(text, truth).f1,
    approximate: distance <= 0.1
  }
}

/**
 * Peakedness of a model's samples (CDD): the share of them within `alpha` of the longest one's length of the greedy
 * text, by edit distance. 0 on unseen prompts; needs nothing of the model but its samples.
 */
export const peakedness = <A>(samples: ReadonlyArray<Sequence<A>>, greedy: Sequence<A>, alpha = 0.05): number => {
  const longest = samples.reduce((most, { length }) => Math.max(most, length), greedy.length)
  return samples.filter((sample) => editDistance(sample, greedy) <= alpha * longest).length / samples.length
}

/**
 * What TED leaves of samples, so that a peak does not pass for ability: no two that are the same, and none within `tau` edits
 * of the greedy text.
 */
export const withoutPeak = <S extends Sequence<unknown>>(samples: ReadonlyArray<S>, greedy: S,
  tau = 2): ReadonlyArray<S> =>
{
  const seen = new Set<string>()
  return samples.filter((sample) => {
    const key = JSON.stringify(Array.from(sample))
    if (seen.has(key)) return false
    seen.add(key)
    return editDistance(sample, greedy) > tau
  })
}

/**
 * How good a prompt is that must not give the target away ("Alpaca against Vicuna", Kassem et al. 2024): half of beta times
 * the ROUGE-L F1 of what it brought forth against the target, less gamma times the prompt's own.
 */
export const promptScore = <A>(
  { output, prompt, target }: {
    readonly output: Sequence<A>
    readonly prompt: Sequence<A>
    readonly target: Sequence<A>
  },
  beta = 0.5,
  gamma = 0.5
): number => (beta * rougeL(output, target).f1 - gamma * rougeL(prompt, target).f1) / 2
