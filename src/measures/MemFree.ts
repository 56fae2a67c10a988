/**
 * MemFree decoding (Ippolito et al. 2023): the n-grams of protected texts in a Bloom filter, and a decoder that never says
 * a token which would complete one. Exact copies stop; nothing is removed from the model, and approximate copies go on.
 *
 * A filter never misses an n-gram that was put in. It takes a small share of others for protected, which costs a token
 * that was free, and no more.
 *
 * The file, all numbers little-endian:
 *
 *     0    8 bytes   "MEMFREE\n"
 *     8    u32       version, 1
 *     12   u32       n
 *     16   u64       different n-grams that were put in
 *     24   u64       bits of the filter, a multiple of 64
 *     32   u32       bits that are set for an n-gram
 *     36   u32       0
 *     40   32 bytes  fingerprint of the tokenizer (SHA-256 of all that decides ids)
 *     72   32 bytes  SHA-256 of the 72 bytes before it and of all behind it
 *     104            the filter: bit i is bit i mod 8 of byte i / 8
 */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import { createHash } from "node:crypto"
import * as AtomicFile from "../AtomicFile.ts"
import { missing } from "../data/source/Files.ts"
import { attempt, because, DataError } from "../Errors.ts"
import { shortKey } from "../Key.ts"
import { absorb, finish } from "../TokenHash.ts"

/** What a decoder asks: the n-grams of protected texts. */
export interface NgramFilter {
  /** Tokens of an n-gram. */
  readonly n: number
  /** Of tokens that were said, a test of what may follow: whether a token would complete a protected n-gram. */
  readonly after: (previous: ArrayLike<number>) => (token: number) => boolean
}

/** A filter that can be kept in a file. */
export interface BloomFilter extends NgramFilter {
  /** Different n-grams that were put in. */
  readonly ngrams: number
  /** Bits that are set for an n-gram. */
  readonly hashes: number
  /** The bits, 32 a number. */
  readonly bits: Uint32Array
  /** Fingerprint of the tokenizer whose tokens the n-grams are, 64 hexadecimal digits. */
  readonly tokenizer: string
}

/** Which copies are stopped, and how often others are stopped by mistake. */
export interface BloomOptions {
  /** Tokens of an n-gram, at least 2: shorter copies are allowed. Default 10. */
  readonly n?: number
  /** Share of other n-grams that are taken for protected, between 0 and 1. Default 0.01: 9.6 bits an n-gram. */
  readonly falsePositives?: number
  /** `fingerprint` of the tokenizer. Default: zeros, for tokens of no tokenizer. */
  readonly tokenizer?: string
}

const NO_TOKENIZER = "0".repeat(64)

/** Seeds of the two hashes of an n-gram, from which all its bits follow. */
const SEEDS = [0x6d656d66, 0x72656521] as const

/** Bits that two hashes of 32 bits reach. */
const MOST_BITS = 2 ** 32

/** Places of an n-gram's bits, by enhanced double hashing; whether `visit` was true of all. */
const everyBit = (a: number, b: number, hashes: number, size: number, visit: (bit: number) => boolean): boolean => {
  let [at, step] = [a % size, b % size]
  for (let i = 1; i <= hashes; i++) {
    if (!visit(at)) return false
    at = (at + step) % size
    step = (step + i) % size
  }
  return true
}

const filterOf = (parts: Omit<BloomFilter, "after">): BloomFilter => {
  const { bits, hashes, n } = parts
  const size = 32 * bits.length
  const isSet = (bit: number) => (bits[Math.floor(bit / 32)]! >>> (bit % 32) & 1) === 1
  return {
    ...parts,
    after: (previous) => {
      const from = previous.length - n + 1
      if (from < 0) return () => false
      let [a, b]: [number, number] = [...SEEDS]
      for (let i = from; i < previous.length; i++) [a, b] = [absorb(a, previous[i]!), absorb(b, previous[i]!)]
      return (token) => everyBit(finish(absorb(a, token)), finish(absorb(b, token)), hashes, size, isSet)
    }
  }
}

/** A filter in the making. */
export interface BloomBuilder {
  /** Protects a text's n-grams. */
  readonly add: (text: ArrayLike<number>) => void
  /** Throws a DataError where no text has n tokens, and for more n-grams than a filter of 2^32 bits holds. */
  readonly build: () => BloomFilter
}

/** Collects n-grams, 8 bytes each, repeated ones too. Throws a DataError for an option out of range. */
export const bloomBuilder = (
  { falsePositives = 0.01, n = 10, tokenizer = NO_TOKENIZER }: BloomOptions = {}
): BloomBuilder => {
  if (!(Number.isInteger(n) && n >= 2 && n <= 65535)) {
    throw new DataError({ detail: `n must be a whole number of tokens from 2 to 65535, got ${n}` })
  }
  if (!(falsePositives > 0 && falsePositives < 1)) {
    throw new DataError({ detail: `falsePositives must be above 0 and below 1, got ${falsePositives}` })
  }
  let pairs = new Uint32Array(1 << 12)
  let [count, longest] = [0, 0]
  const add = (text: ArrayLike<number>): void => {
    longest = Math.max(longest, text.length)
    for (let from = 0; from + n <= text.length; from++) {
      let [a, b]: [number, number] = [...SEEDS]
      for (let i = from; i < from + n; i++) [a, b] = [absorb(a, text[i]!), absorb(b, text[i]!)]
      if (2 * count === pairs.length) {
        const more = new Uint32Array(2 * pairs.length)
        more.set(pairs)
        pairs = more
      }
      pairs[2 * count] = finish(a)
      pairs[2 * count + 1] = finish(b)
      count++
    }
  }
  const build = (): BloomFilter => {
    if (count === 0) {
      throw new DataError({
        detail:
          `there is no ${n}-gram to protect: the longest text has ${longest} tokens. Lower n, or give longer texts`
      })
    }
    const sorted = new BigUint64Array(pairs.buffer, 0, count).sort()
    let ngrams = 0
    for (let i = 0; i < count; i++) if (i === 0 || sorted[i] !== sorted[ngrams - 1]) sorted[ngrams++] = sorted[i]!
    const size = 64 * Math.ceil(ngrams * -Math.log(falsePositives) / Math.LN2 ** 2 / 64)
    if (size > MOST_BITS) {
      throw new DataError({
        detail: `${ngrams} n-grams at ${falsePositives} false positives need ${size} bits, a filter has ${MOST_BITS} ` +
          "at most: allow more false positives, or protect less"
      })
    }
    const hashes = Math.max(1, Math.round((size / ngrams) * Math.LN2))
    const bits = new Uint32Array(size / 32)
    for (let i = 0; i < ngrams; i++) {
      everyBit(pairs[2 * i]!, pairs[2 * i + 1]!, hashes, size, (bit) => {
        bits[Math.floor(bit / 32)]! |= 1 << (bit % 32)
        return true
      })
    }
    return filterOf({ n, ngrams, hashes, bits, tokenizer })
  }
  return { add, build }
}

/** The filter of texts; throws what `bloomBuilder` and its `build` throw. */
export const bloomFilter = (texts: Iterable<ArrayLike<number>>, options?: BloomOptions): BloomFilter => {
  const builder = bloomBuilder(options)
  for (const text of texts) builder.add(text)
  return builder.build()
}

/** The share of other n-grams that a filter takes for protected. */
export const falsePositiveRate = ({ bits, hashes, ngrams }: Pick<BloomFilter, "bits" | "hashes" | "ngrams">): number =>
  (1 - Math.exp(-hashes * ngrams / (32 * bits.length))) ** hashes

// ---------------------------------------------------------------------------------------------------------------
// Files

const MAGIC = "MEMFREE\n"
const HEADER = 104
const SUM = 72

const checksum = (bytes: Uint8Array): Buffer =>
  createHash("sha256").update(bytes.subarray(0, SUM)).update(bytes.subarray(HEADER)).digest()

/** A filter as the bytes of its file. */
export const toBytes = ({ bits, hashes, n, ngrams, tokenizer }: Omit<BloomFilter, "after">): Uint8Array => {
  const bytes = new Uint8Array(HEADER + 4 * bits.length)
  const view = new DataView(bytes.buffer)
  bytes.set(new TextEncoder().encode(MAGIC))
  view.setUint32(8, 1, true)
  view.setUint32(12, n, true)
  view.setBigUint64(16, BigInt(ngrams), true)
  view.setBigUint64(24, BigInt(32 * bits.length), true)
  view.setUint32(32, hashes, true)
  bytes.set(Buffer.from(tokenizer, "hex"), 40)
  bits.forEach((word, i) => view.setUint32(HEADER + 4 * i, word, true))
  bytes.set(checksum(bytes), SUM)
  return bytes
}

/** The filter of a file's bytes. Throws a DataError, without a path, that says what is wrong with them. */
export const fromBytes = (bytes: Uint8Array): BloomFilter => {
  const refuse = (detail: string): never => {
    throw new DataError({ detail })
  }
  if (bytes.length < HEADER || new TextDecoder("latin1").decode(bytes.subarray(0, 8)) !== MAGIC) {
    return refuse("is no filter of MemFree decoding: make one with memsinks memfree")
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const version = view.getUint32(8, true)
  if (version !== 1) return refuse(`has version ${version}, this program reads 1: use the one that wrote it`)
  const size = Number(view.getBigUint64(24, true))
  if (bytes.length - HEADER !== size / 8) {
    return refuse(`has ${bytes.length} bytes, its header speaks of ${HEADER + size / 8}: it was cut off, or damaged`)
  }
  if (!checksum(bytes).equals(bytes.subarray(SUM, HEADER))) {
    return refuse("is not as it was written (its checksum is another): it is damaged")
  }
  const [n, hashes, none] = [view.getUint32(12, true), view.getUint32(32, true), view.getUint32(36, true)]
  const ngrams = Number(view.getBigUint64(16, true))
  const within = (value: number, least: number, most: number) => value >= least && value <= most
  const makesSense = within(n, 2, 65535) && within(hashes, 1, 1024) && within(size, 64, MOST_BITS) && size % 64 === 0 &&
    within(ngrams, 1, Number.MAX_SAFE_INTEGER) && none === 0
  if (!makesSense) {
    return refuse(`has a header that makes no sense: ${ngrams} n-grams, n ${n}, ${hashes} bits each, ${size} bits`)
  }
  const bits = Uint32Array.from({ length: size / 32 }, (_, i) => view.getUint32(HEADER + 4 * i, true))
  return filterOf({ n, ngrams, hashes, bits, tokenizer: Buffer.from(bytes.subarray(40, SUM)).toString("hex") })
}

/** Writes a filter, whole or not at all. Fails with a DataError that names the file. */
export const write = (path: string, filter: BloomFilter): Effect.Effect<void, DataError> =>
  Effect.try({
    try: () => AtomicFile.write(path, toBytes(filter)),
    catch: (cause) => new DataError({ path, detail: `cannot be written: ${because(cause)}`, cause })
  })

/**
 * Reads a filter. With the fingerprint of a tokenizer it must be that of the filter: of other tokens it would protect
 * nothing. Fails with a DataError that names the file: missing, damaged, of another version, or of another tokenizer.
 */
export const read = (
  path: string,
  tokenizer?: string
): Effect.Effect<BloomFilter, DataError, FileSystem.FileSystem> =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const bytes = yield* Effect.mapError(fs.readFile(path), missing(path))
    const filter = yield* Effect.mapError(attempt(() => fromBytes(bytes), DataError),
      ({ detail }) => new DataError({ path, detail }))
    if (tokenizer !== undefined && filter.tokenizer !== tokenizer) {
      return yield* new DataError({
        path,
        detail:
          `holds n-grams of another tokenizer's tokens (fingerprint ${shortKey(filter.tokenizer)}, the model's is ` +
          `${shortKey(tokenizer)}) and would protect nothing: make it with the model's own`
      })
    }
    return filter
  })
