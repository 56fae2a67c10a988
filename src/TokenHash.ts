/** 32 well-mixed bits of tokens in their order (MurmurHash3), one token at a time, so that beginnings are hashed once. */

/** A hash that has absorbed one more token; it begins as any seed. */
export const absorb = (h: number, token: number): number => {
  let k = Math.imul(token, 0xcc9e2d51)
  k = Math.imul((k << 15) | (k >>> 17), 0x1b873593)
  h ^= k
  return Math.imul((h << 13) | (h >>> 19), 5) + 0xe6546b64 | 0
}

/** Its bits, from 0 to 2^32 - 1. */
export const finish = (h: number): number => {
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return (h ^ (h >>> 16)) >>> 0
}
