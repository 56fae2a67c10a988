/**
 * Near-duplicates among millions of texts: MinHash signatures of their shingles, compared only where locality-sensitive
 * hashing (LSH) finds something in common, joined to clusters.
 *
 * - A shingle is `shingle` words in a row. How alike two texts are is the Jaccard index of their sets of shingles: the
 *   share that both have of those that either has. With a share e of the words replaced here and there, a share
 *   f = (1 - e)^shingle of the shingles survives, and the index is f / (2 - f): .82 for e = 2 %, .63 for 5 %, .42 for
 *   10 %. A text of fewer words is one shingle: it is like its exact repeats and nothing else. In scripts written
 *   without spaces (Chinese, Japanese, Thai, Lao, Burmese, Khmer) every character is a word.
 * - A signature has `numHashes` slots, each equal in two texts with a probability of their Jaccard index. Slots are
 *   filled in rounds (fast similarity sketching, Dahlgaard, Knudsen and Thorup, 2017): a round hashes every shingle
 *   once, which falls in one slot, and the smallest stays; slots still empty wait for the next round. A long text takes
 *   a single round, where the classical way hashes each shingle `numHashes` times. Of a slot's 32 bits 8 are kept:
 *   unlike slots agree by accident once in 256 times, and the estimate allows for it.
 * - The slots are cut into `bands` of `rows`; texts that agree in a whole band are compared. A pair of Jaccard index s
 *   does with probability 1 - (1 - s^rows)^bands, an S-curve. See `bandsFor`.
 * - Pairs whose estimated index reaches the threshold are joined, and so are friends of friends. The id of a cluster is
 *   the number of its first document.
 *
 * Memory: `numHashes` bytes a document, and 24 more while clusters are made. The result depends on the texts and their
 * numbers only, never on batches or on which worker made a signature.
 */
import * as Schema from "effect/Schema"
import { normalize } from "../Normalize.ts"

/** A Jaccard index from which on texts may be called near-duplicates. */
export const nearThreshold = Schema.Number.pipe(Schema.between(0.1, 1))

/** Words that a shingle may have. */
export const nearShingle = Schema.Int.pipe(Schema.between(1, 64))

/** How near-duplicates are found. */
export class NearConfig extends Schema.Class<NearConfig>("NearConfig")({
  /** Jaccard index of shingles from which on two texts are near-duplicates. Default .8. */
  threshold: Schema.optionalWith(nearThreshold, { default: () => 0.8 }).annotations({
    description: "Jaccard index from which on texts are near-duplicates"
  }),
  /**
   * Slots of a signature, and bytes of memory a document. The estimate of a Jaccard index s has a standard error of
   * sqrt(s (1 - s) / numHashes): .035 for s = .8. Default 128.
   */
  numHashes: Schema.optionalWith(Schema.Int.pipe(Schema.between(8, 4096)), { default: () => 128 }).annotations({
    description: "slots of a signature, bytes a document"
  }),
  /** Words of a shingle. Fewer are kinder to scattered edits, more to reordered sentences. Default 5. */
  shingle: Schema.optionalWith(nearShingle, { default: () => 5 }).annotations({
    description: "words of a shingle"
  })
}) {}

/** How near is near. What is left out has the default of a NearConfig. */
export interface NearOptions {
  readonly threshold?: number
  readonly numHashes?: number
  readonly shingle?: number
}

/** Slots cut into `bands` of `rows`. */
export interface Bands {
  readonly bands: number
  readonly rows: number
}

/** Probability that texts of Jaccard index s agree in at least one band: 1 - (1 - s^rows)^bands. */
export const collisionProbability = (s: number, { bands, rows }: Bands): number => 1 - (1 - s ** rows) ** bands

/** What a pair that is missed weighs against one that is compared for nothing: that costs a tenth of a microsecond. */
const MISSED = 0.99

/**
 * The bands for a threshold: of all of two rows or more that fit into `numHashes` slots, those of the least
 *
 *     .99 * (mean of 1 - P(s) over s from the threshold to 1) * (1 - threshold)
 *   + .01 * (mean of P(s) over s from 0 to the threshold) * threshold
 *
 * with P the collision probability: areas beside the ideal step, on either side of the threshold. What is compared for
 * nothing is found out by the estimate, what is missed is not, hence the weights.
 */
export const bandsFor = (threshold: number, numHashes: number): Bands => {
  const STEPS = 500
  let best: Bands = { bands: 1, rows: numHashes }
  let least = Infinity
  // a single slot of 8 bits has far too much in common with others
  for (let rows = 2; rows <= numHashes; rows++) {
    const candidate = { bands: Math.floor(numHashes / rows), rows }
    let cost = 0
    for (let i = 0; i < STEPS; i++) {
      const s = (i + 0.5) / STEPS
      const p = collisionProbability(s, candidate)
      cost += s < threshold ? (1 - MISSED) * p : MISSED * (1 - p)
    }
    if (cost < least) [best, least] = [candidate, cost]
  }
  return best
}

/** A bijection of 32 bits in which every bit of the input moves about half of the output. */
const mix = (x: number): number => {
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b)
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35)
  return (x ^ (x >>> 16)) >>> 0
}

/** Scripts that put no spaces between words, as far as they are single UTF-16 units. */
const isSpaceless = (code: number): boolean =>
  code >= 0x0e00 &&
  (code < 0x0f00 || (code >= 0x1000 && code < 0x10a0) || (code >= 0x1780 && code < 0x1800) ||
    (code >= 0x2e80 && code < 0xa000) || (code >= 0xf900 && code < 0xfb00))

const SPACE = 0x20
const EMPTY = 0xffffffff
const FACTOR = 0x9e3779b1

/** Makes signatures: `numHashes` bytes for a text. Pure but for scratch memory, which grows with the longest text. */
export type Signer = (normalized: string) => Uint8Array

/**
 * A maker of signatures. It takes what `normalize` gave, which the content hash needs as well; the bytes are the
 * caller's. Works the same in any worker.
 */
export const makeSigner = (options: NearOptions = {}): Signer => {
  const { numHashes, shingle } = new NearConfig(options)
  // a round hashes with a key of its own; from round numHashes on, a round fills the one slot it stands for
  const keys = Uint32Array.from({ length: 2 * numHashes }, (_, round) => mix(mix(round + 1) ^ 0x6e656172))
  let highest = 1
  for (let i = 1; i < shingle; i++) highest = Math.imul(highest, FACTOR)

  let scratch = new Uint32Array(1 << 12)
  const slots = new Uint32Array(numHashes)
  const filledIn = new Uint16Array(numHashes)

  /** Hashes of the words into the scratch memory; how many there are. */
  const hashWords = (text: string): number => {
    let count = 0
    let hash = 0
    let inWord = false
    const push = () => {
      if (count === scratch.length) {
        const larger = new Uint32Array(2 * count)
        larger.set(scratch)
        scratch = larger
      }
      scratch[count++] = hash
      hash = 0
      inWord = false
    }
    for (let i = 0; i < text.length; i++) {
      const code = text.charCodeAt(i)
      if (code === SPACE) {
        if (inWord) push()
      } else if (isSpaceless(code)) {
        if (inWord) push()
        hash = Math.imul(code + 1, 0x01000193)
        push()
      } else {
        inWord = true
        hash = Math.imul(hash ^ (code + 1), 0x01000193)
        hash ^= hash >>> 15
      }
    }
    if (inWord) push()
    return count
  }

  /** Hashes of the shingles over those of the words; how many there are, at least 1. */
  const hashShingles = (words: number): number => {
    const width = Math.min(shingle, words)
    let hash = width
    for (let i = 0; i < width; i++) hash = (Math.imul(hash, FACTOR) + scratch[i]!) | 0
    if (words <= shingle) {
      scratch[0] = hash
      return 1
    }
    // Each shingle comes from the one before it: its first word leaves, a word is added. What `width` put in stays; it
    // tells texts that are shorter than a shingle from longer ones.
    const start = Math.imul(width, Math.imul(highest, FACTOR))
    const shingles = words - shingle + 1
    for (let i = 0; i + 1 < shingles; i++) {
      const leaving = scratch[i]!
      scratch[i] = hash
      hash = (Math.imul(hash - start - Math.imul(leaving, highest), FACTOR) + start + scratch[i + shingle]!) | 0
    }
    scratch[shingles - 1] = hash
    return shingles
  }

  return (normalized) => {
    let count = hashShingles(hashWords(normalized))
    let shingles: Uint32Array = scratch
    slots.fill(EMPTY)
    filledIn.fill(EMPTY)
    let empty = numHashes
    const scale = numHashes / 2 ** 32
    for (let round = 0; empty > 0; round++) {
      const key = keys[round]!
      if (round < numHashes) {
        for (let i = 0; i < count; i++) {
          const hash = mix(shingles[i]! ^ key)
          const slot = (hash * scale) | 0
          if (hash < slots[slot]! && filledIn[slot]! >= round) {
            if (slots[slot] === EMPTY) empty--
            slots[slot] = hash
            filledIn[slot] = round
          }
        }
      } else if (slots[round - numHashes] === EMPTY) {
        let least = EMPTY
        for (let i = 0; i < count; i++) least = Math.min(least, mix(shingles[i]! ^ key))
        slots[round - numHashes] = least
        empty--
      }
      if (round === 0 && empty > 0 && count > 32 * numHashes) {
        // many shingles that leave slots empty are few shingles many times over
        shingles = Uint32Array.from(new Set(shingles.subarray(0, count)))
        count = shingles.length
      }
    }
    return Uint8Array.from(slots)
  }
}

/** Two documents that were joined, and their estimated Jaccard index. */
export interface NearPair {
  readonly a: number
  readonly b: number
  readonly jaccard: number
}

/** Which documents are near-duplicates of which, and how that was found. */
export interface NearClusters {
  /** The number of the first document of each document's cluster: its own where it has no near-duplicate before it. */
  readonly near: Uint32Array
  /** Pairs that joined clusters: one fewer than documents in each cluster, equal ones first, at most `maxPairs`. */
  readonly pairs: ReadonlyArray<NearPair>
  /** Pairs of signatures that were compared. */
  readonly compared: number
}

/** Documents found through the same band are compared with so many unequal ones before them, at most. */
const WINDOW = 64
/** Documents whose signatures lie in one piece of memory. */
const CHUNK = 1 << 14

/** Finds the set of an element, halving paths on the way. */
const find = (parent: Uint32Array, x: number): number => {
  while (parent[x] !== x) x = parent[x] = parent[parent[x]!]!
  return x
}

/** Sorts `order` by the keys of what it names, in two passes of 16 bits. Stable: equal keys keep their order. */
const sortBy = (keys: Uint32Array, order: Uint32Array, spare: Uint32Array): void => {
  let [from, to] = [order, spare]
  for (const shift of [0, 16]) {
    const starts = new Uint32Array(65537)
    for (const one of from) starts[((keys[one]! >>> shift) & 0xffff) + 1]!++
    for (let i = 0; i < 65536; i++) starts[i + 1]! += starts[i]!
    for (const one of from) to[starts[(keys[one]! >>> shift) & 0xffff]!++] = one
    ;[from, to] = [to, from]
  }
}

/** Finds near-duplicates among documents that are added one by one. */
export interface NearIndex {
  /** What it works with. */
  readonly config: NearConfig
  readonly bands: Bands
  /** Adds the next document, numbered from 0. */
  readonly add: (text: string) => void
  /** Adds the signature of the next document, or of several, one behind the other, by a signer of the same options. */
  readonly addSignature: (signature: Uint8Array) => void
  /** Documents added. */
  readonly size: () => number
  /** The estimated Jaccard index of two documents, by their numbers. */
  readonly similarity: (a: number, b: number) => number
  /** Compares and joins all that were added. More may be added after it, and clusters made anew. */
  readonly clusters: (maxPairs?: number) => NearClusters
}

/**
 * Collects signatures and makes clusters of near-duplicates. Throws where an option is out of range (see `NearConfig`)
 * or a signature has another length.
 *
 * A band that very many unlike documents have in common (a licence, a form) is not searched in full: each document is
 * compared with the 64 before it that have other signatures, so time stays linear in the number of documents.
 */
export const makeNearIndex = (options: NearOptions = {}): NearIndex => {
  const config = new NearConfig(options)
  const { numHashes, threshold } = config
  const bands = bandsFor(threshold, numHashes)
  const signer = makeSigner(options)
  const chunks: Array<Uint8Array> = []
  let size = 0

  const addSignature = (signature: Uint8Array): void => {
    if (signature.length === 0 || signature.length % numHashes !== 0) {
      throw new RangeError(
        `a signature has ${signature.length} bytes, expected ${numHashes}, or a multiple: was numHashes changed?`
      )
    }
    for (let offset = 0; offset < signature.length; offset += numHashes) {
      const place = size % CHUNK
      if (place === 0) chunks.push(new Uint8Array(CHUNK * numHashes))
      chunks.at(-1)!.set(signature.subarray(offset, offset + numHashes), place * numHashes)
      size++
    }
  }

  const chunkOf = (document: number): Uint8Array => chunks[Math.floor(document / CHUNK)]!
  const startOf = (document: number): number => (document % CHUNK) * numHashes

  const matches = (a: number, b: number): number => {
    const [left, right] = [chunkOf(a), chunkOf(b)]
    let [i, j] = [startOf(a), startOf(b)]
    let count = 0
    for (const end = i + numHashes; i < end; i++, j++) if (left[i] === right[j]) count++
    return count
  }
  /** Unlike slots agree once in 256 times. */
  const estimate = (matching: number): number => Math.max(0, (matching / numHashes - 1 / 256) / (255 / 256))

  const hashOf = (document: number, from: number, to: number): number => {
    const chunk = chunkOf(document)
    const start = startOf(document)
    let hash = 0
    for (let i = start + from; i < start + to; i++) {
      hash = Math.imul(hash ^ (chunk[i]! + 1), 0x01000193)
      hash ^= hash >>> 15
    }
    return mix(hash)
  }

  const clusters = (maxPairs = 1000): NearClusters => {
    const parent = Uint32Array.from({ length: size }, (_, i) => i)
    const pairs: Array<NearPair> = []
    const keys = new Uint32Array(size)
    const spare = new Uint32Array(size)
    let compared = 0

    /** Calls `visit` for the documents of each group that share a key, in the order of their numbers. */
    const groups = (
      members: Uint32Array,
      keyOf: (document: number) => number,
      visit: (group: Uint32Array) => void
    ): void => {
      for (const document of members) keys[document] = keyOf(document)
      // a copy: hashing in the order that is left by a sort would jump about in memory
      const order = members.slice()
      sortBy(keys, order, spare.subarray(0, order.length))
      for (let from = 0, to: number; from < order.length; from = to) {
        for (to = from + 1; to < order.length && keys[order[to]!] === keys[order[from]!];) to++
        if (to > from + 1) visit(order.subarray(from, to))
      }
    }
    const join = (a: number, b: number, matching: number): void => {
      const [x, y] = [find(parent, a), find(parent, b)]
      parent[Math.max(x, y)] = Math.min(x, y)
      if (pairs.length < maxPairs) {
        pairs.push({ a: Math.min(a, b), b: Math.max(a, b), jaccard: estimate(matching) })
      }
    }

    // Equal signatures first: exact repeats are the most common, and one of them stands for all from here on.
    groups(parent.slice(), (document) => hashOf(document, 0, numHashes), (group) => {
      const heads: Array<number> = []
      for (const document of group) {
        const head = heads.find((one) => matches(one, document) === numHashes)
        if (head === undefined) heads.push(document)
        else join(head, document, numHashes)
      }
    })
    const unlike = Uint32Array.from(parent.keys()).filter((document) => parent[document] === document)

    const enough = Math.ceil(numHashes * (threshold * 255 / 256 + 1 / 256) - 1e-9)
    for (let band = 0; band < bands.bands; band++) {
      const from = band * bands.rows
      groups(unlike, (document) => hashOf(document, from, from + bands.rows), (group) => {
        for (let i = 1; i < group.length; i++) {
          for (let j = i - 1; j >= Math.max(0, i - WINDOW); j--) {
            if (find(parent, group[i]!) === find(parent, group[j]!)) continue
            compared++
            const matching = matches(group[i]!, group[j]!)
            if (matching >= enough) join(group[j]!, group[i]!, matching)
          }
        }
      })
    }
    const near = parent
    for (let i = 0; i < size; i++) near[i] = find(parent, i)
    return { near, pairs, compared }
  }

  return {
    config,
    bands,
    add: (text) => addSignature(signer(normalize(text))),
    addSignature,
    size: () => size,
    similarity: (a, b) => estimate(matches(a, b)),
    clusters
  }
}
