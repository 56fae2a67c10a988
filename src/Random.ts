/**
 * Seeded random numbers that are the same in every process and on every runtime. A stream is named by a 64-bit seed
 * and any number of keys, so each use ("rows", or "order" of epoch 3) draws from its own numbers and adding one use
 * never shifts another.
 */

/** A stream of random numbers; every call moves it on. */
export interface Random {
  /** 32 random bits. */
  readonly bits: () => number
  /** Uniform in [0, 1), 53 random bits. */
  readonly uniform: () => number
  /** An unbiased integer in [0, bound), for 0 < bound <= 2^32. */
  readonly below: (bound: number) => number
  /** Permutes an array in place, every order equally likely, and returns it. */
  readonly shuffle: <A extends Uint32Array | Array<any>>(array: A) => A
}

const u64 = (x: bigint): bigint => BigInt.asUintN(64, x)

/** One output of SplitMix64 at state `x`: a bijection of 64 bits in which every input bit moves every output bit. */
const mix64 = (x: bigint): bigint => {
  let z = u64(x + 0x9e3779b97f4a7c15n)
  z = u64((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n)
  z = u64((z ^ (z >> 27n)) * 0x94d049bb133111ebn)
  return z ^ (z >> 31n)
}

const rotateLeft = (x: number, by: number): number => (x << by) | (x >>> (32 - by))

/**
 * The stream of a seed and its keys (xoshiro128**, seeded through SplitMix64). Numbers must be integers; a seed counts
 * modulo 2^64.
 */
export const random = (seed: number | bigint, ...keys: ReadonlyArray<number | bigint | string>): Random => {
  let state = mix64(u64(BigInt(seed)))
  // Quotes and commas keep ["a", "b"], ["ab"], ["1"] and [1] apart.
  const name = keys.map((key) => typeof key === "string" ? JSON.stringify(key) : String(key)).join()
  for (let i = 0; i < name.length; i++) state = mix64(state ^ BigInt(name.charCodeAt(i)))
  // An all-zero state would stay zero; mix64 is a bijection, so two different inputs are not both 0.
  const low = mix64(state)
  const high = mix64(u64(state + 1n))
  let a = Number(low & 0xffffffffn)
  let b = Number(low >> 32n)
  let c = Number(high & 0xffffffffn)
  let d = Number(high >> 32n)

  const bits = (): number => {
    const result = Math.imul(rotateLeft(Math.imul(b, 5), 7), 9) >>> 0
    const t = b << 9
    c ^= a
    d ^= b
    b ^= c
    a ^= d
    c ^= t
    d = rotateLeft(d, 11)
    return result
  }
  const below = (bound: number): number => {
    // The largest multiple of the bound: numbers from there on would favour small results.
    const limit = 0x100000000 - (0x100000000 % bound)
    let x = bits()
    while (x >= limit) x = bits()
    return x % bound
  }
  return {
    bits,
    below,
    uniform: () => ((bits() >>> 5) * 0x4000000 + (bits() >>> 6)) / 0x20000000000000,
    shuffle: (array) => {
      for (let i = array.length - 1; i > 0; i--) {
        const j = below(i + 1)
        const kept = array[i]
        array[i] = array[j]
        array[j] = kept
      }
      return array
    }
  }
}

/** A number of the standard normal distribution, from two draws; its last digits are those of the runtime's cosine. */
export const normal = (draw: Random): number =>
  Math.sqrt(-2 * Math.log(1 - draw.uniform())) * Math.cos(2 * Math.PI * draw.uniform())
