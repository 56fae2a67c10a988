/**
 * Which texts are the same: the ids by which documents share sinks.
 */
import { hash64, normalize } from "../Normalize.ts"
import type { TokenDocuments } from "../Pieces.ts"

export { type Bands, bandsFor, collisionProbability, makeNearIndex, makeSigner, type NearClusters, NearConfig,
  type NearIndex, type NearOptions, type NearPair, type Signer } from "./NearDuplicates.ts"
export { hash64, normalize }

/**
 * Who shares sinks:
 * - `row`: nobody, every piece of a document has an id of its own;
 * - `document`: the pieces of a document;
 * - `source`: the documents of a source;
 * - `content`: documents of equal normalized text, that is exact repeats;
 * - `near`: near-duplicates, too.
 */
export type Identity = "row" | "document" | "source" | "content" | "near"

/** All identities, in the order in which tables show them. */
export const identities: ReadonlyArray<Identity> = ["row", "document", "source", "content", "near"]

/**
 * The id of a text for identity `content`: 64 bits of the SHA-256 of the normalized text. Equal for exact repeats; of n
 * different texts two share an id with probability n^2 / 2^65, which is 3e-8 for a million.
 */
export const contentHash = (text: string): bigint => hash64(normalize(text))

/** The id of a source for identity `source`: 64 bits of the SHA-256 of its name, as it is written. */
export const sourceHash = (name: string): bigint => hash64(name)

/**
 * Gives a document's id, or undefined where the corpus does not know what it takes. None depends on how documents are
 * stored: 1 + number for `document`, 1 + number of the cluster's first document for `near`, hashes for the others. `foreign`: ids
 * of sources that do not follow from their names.
 */
export const documentIds = (
  identity: Exclude<Identity, "row">,
  corpus: TokenDocuments,
  foreign: ReadonlyMap<string, bigint> = new Map()
): ((document: number) => bigint) | undefined => {
  const { content, near, source, sources } = corpus
  switch (identity) {
    case "document":
      return (document) => BigInt(document + 1)
    case "source": {
      const hashes = sources.map((name) => foreign.get(name) ?? sourceHash(name))
      return (document) => hashes[source(document)]!
    }
    case "content":
      return content
    case "near":
      return near === undefined ? undefined : (document) => BigInt(near(document) + 1)
  }
}
