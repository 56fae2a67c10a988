/**
 * Which texts are the same: the ids by which documents share sinks.
 */
import { hash64, normalize } from "./Normalize.ts"

export {
  type Bands,
  bandsFor,
  collisionProbability,
  makeNearIndex,
  makeSigner,
  type NearClusters,
  NearConfig,
  type NearIndex,
  type NearOptions,
  type NearPair,
  type Signer
} from "./NearDuplicates.ts"
export { hash64, normalize }

/**
 * The id of a text for identity `content`: 64 bits of the SHA-256 of the normalized text. Equal for exact repeats; of n
 * different texts two share an id with probability n^2 / 2^65, which is 3e-8 for a million.
 */
export const contentHash = (text: string): bigint => hash64(normalize(text))

/** The id of a source for identity `source`: 64 bits of the SHA-256 of its name, as it is written. */
export const sourceHash = (name: string): bigint => hash64(name)
