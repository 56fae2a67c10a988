/**
 * Which source a text is most like: a vector for every source of how often it has which tokens and pairs of tokens, weighed by
 * how few sources have them (TF-IDF), hashed, of which the strongest are kept. A router chooses whose sinks a prompt lights
 * where nobody says it; sources that are denied are never chosen.
 *
 * `router.bin` holds the bytes `MSRTR1\n`, a line of JSON (sources, features a source, the fingerprint of the tokenizer), and
 * then, little endian: ids u64 [sources], scales f32 [sources], the logarithms of how rare a feature is f32 [buckets], places
 * u32 [sources, features] and weights u8 [sources, features], strongest first, filled up with weights of 0. A feature takes 5
 * bytes: 64 of each of 6.4 million sources two gigabytes.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { decodeWith, natural, positive } from "../../Config.ts"
import { because, DataError } from "../../Errors.ts"
import { parseJson } from "../../Json.ts"
import { absorb, finish } from "../../TokenHash.ts"
import type { TokenDocuments } from "../Pieces.ts"

/** Places that features are hashed to. */
const BUCKETS = 2 ** 20

/** Tokens and pairs of tokens, as places. */
const featuresOf = function*(tokens: ArrayLike<number>): Generator<number> {
  for (let i = 0; i < tokens.length; i++) {
    const one = absorb(1, tokens[i]!)
    yield finish(one) % BUCKETS
    if (i + 1 < tokens.length) yield finish(absorb(one, tokens[i + 1]!)) % BUCKETS
  }
}

const countsOf = (tokens: ArrayLike<number>, counts = new Map<number, number>()): Map<number, number> => {
  for (const place of featuresOf(tokens)) counts.set(place, (counts.get(place) ?? 0) + 1)
  return counts
}

/** A source that was chosen. */
export interface Route {
  readonly id: bigint
  /** Cosine between the text and what was kept of the source, from 0 to 1. */
  readonly similarity: number
}

export interface Router {
  readonly sources: number
  /** Of the tokenizer that its tokens are of: see `fingerprint`. */
  readonly tokenizer: string
  /**
   * The source that a text is most like, the one with the lowest id of equals; none where all are below `least` (default 0: none
   * that shares nothing) or denied. Looks at every source: 6.4 million take about a second.
   */
  readonly nearest: (
    tokens: ArrayLike<number>,
    options?: { readonly denied?: (id: bigint) => boolean; readonly least?: number }
  ) => Route | undefined
  /** The bytes of `router.bin`. */
  readonly encode: () => ReadonlyArray<Uint8Array>
  /** What it is made of. */
  readonly arrays: Arrays
}

/** A router as arrays: see the file. */
interface Arrays {
  /** Rising. */
  readonly ids: BigUint64Array
  readonly scales: Float32Array
  readonly rare: Float32Array
  readonly places: Uint32Array
  readonly weights: Uint8Array
}

const Header = Schema.Struct({
  sources: natural,
  features: positive,
  buckets: Schema.Literal(BUCKETS),
  tokenizer: Schema.String
})

const MAGIC = "MSRTR1\n"

const of = (arrays: Arrays, features: number, tokenizer: string): Router => {
  const { ids, places, rare, scales, weights } = arrays
  const query = new Float32Array(BUCKETS)
  return {
    sources: ids.length,
    tokenizer,
    arrays,
    nearest: (tokens, { denied = () => false, least = 0 } = {}) => {
      const counts = countsOf(tokens)
      let norm = 0
      for (const [place, count] of counts) {
        query[place] = (1 + Math.log(count)) * rare[place]!
        norm += query[place]! ** 2
      }
      let best: Route | undefined
      for (let s = 0; s < ids.length; s++) {
        let sum = 0
        for (let k = s * features; k < (s + 1) * features; k++) sum += weights[k]! * query[places[k]!]!
        const similarity = norm === 0 ? 0 : sum * scales[s]! / Math.sqrt(norm)
        if (similarity > 0 && similarity >= least && similarity > (best?.similarity ?? 0) && !denied(ids[s]!)) {
          best = { id: ids[s]!, similarity }
        }
      }
      for (const place of counts.keys()) query[place] = 0
      return best
    },
    encode: () => {
      const header: typeof Header.Type = { sources: ids.length, features, buckets: BUCKETS, tokenizer }
      const bytes = ({ buffer, byteLength, byteOffset }: ArrayBufferView) =>
        new Uint8Array(buffer, byteOffset, byteLength)
      return [new TextEncoder().encode(`${MAGIC}${JSON.stringify(header)}\n`),
        ...[ids, scales, rare, places, weights].map(bytes)]
    }
  }
}

export interface RouterOptions {
  /** Features that are kept of a source. Default: as many as make two gigabytes in all, from 64 to 8,192. */
  readonly features?: number
  /** The documents that are looked at. Default: all. */
  readonly includes?: (document: number) => boolean
  /** See `Router.tokenizer`. */
  readonly tokenizer: string
}

/**
 * Makes a router of a corpus, for the sources that have an id; yields after every document. The documents are read twice:
 * once to learn which features are rare, once to weigh them.
 */
export function* makeRouter(
  corpus: TokenDocuments,
  idOf: (source: string) => bigint | undefined,
  { features: asked, includes = () => true, tokenizer }: RouterOptions
): Generator<void, Router> {
  // sources by rising id, so that equal corpora make equal routers
  const known = corpus.sources.flatMap((name, s) => {
    const id = idOf(name)
    return id === undefined ? [] : [{ id, s }]
  }).sort((a, b) => (a.id < b.id ? -1 : 1))
  const features = asked ?? Math.max(64, Math.min(8192, Math.floor(2 ** 31 / 5 / Math.max(1, known.length))))
  const documents = new Map<number, Array<number>>(known.map(({ s }) => [s, []]))
  for (let d = 0; d < corpus.documents; d++) if (includes(d)) documents.get(corpus.source(d))?.push(d)
  const tokensOf = (d: number) => corpus.read(d, 0, corpus.length(d))

  const holders = new Uint32Array(BUCKETS)
  for (const { s } of known) {
    const counts = new Map<number, number>()
    for (const d of documents.get(s)!) {
      countsOf(tokensOf(d), counts)
      yield
    }
    for (const place of counts.keys()) holders[place]!++
  }
  const rare = Float32Array.from(holders, (n) => Math.log((1 + known.length) / (1 + n)) + 1)
  const arrays: Arrays = {
    ids: BigUint64Array.from(known, ({ id }) => id),
    scales: new Float32Array(known.length),
    rare,
    places: new Uint32Array(known.length * features),
    weights: new Uint8Array(known.length * features)
  }
  for (const [i, { s }] of known.entries()) {
    const counts = new Map<number, number>()
    for (const d of documents.get(s)!) {
      countsOf(tokensOf(d), counts)
      yield
    }
    const weighed = Array.from(counts, ([place, count]) => ({ place, weight: (1 + Math.log(count)) * rare[place]! }))
    const norm = Math.sqrt(weighed.reduce((sum, { weight }) => sum + weight ** 2, 0))
    const strongest = weighed.sort((a, b) => b.weight - a.weight || a.place - b.place).slice(0, features)
    const unit = (strongest[0]?.weight ?? 0) / 255
    arrays.scales[i] = norm === 0 ? 0 : unit / norm
    strongest.forEach(({ place, weight }, k) => {
      arrays.places[i * features + k] = place
      arrays.weights[i * features + k] = Math.round(weight / unit)
    })
  }
  return of(arrays, features, tokenizer)
}

/**
 * The router without sources: what was kept of them is gone, and features that nobody else keeps are as rare as any. Ids that it does not have are passed over; where it has none of them it is the same router. How rare the
 * other features are still counts the sources that are gone: only a router made anew knows nothing of them.
 */
export const withoutSources = (router: Router, gone: Iterable<bigint>): Router => {
  const { ids, places, rare, scales, weights } = router.arrays
  const features = places.length / Math.max(1, ids.length)
  const lost = new Set(gone)
  const kept = Uint32Array.from(ids.keys()).filter((s) => !lost.has(ids[s]!))
  if (kept.length === ids.length) return router
  const arrays: Arrays = {
    ids: new BigUint64Array(kept.length),
    scales: new Float32Array(kept.length),
    rare: rare.slice(),
    places: new Uint32Array(kept.length * features),
    weights: new Uint8Array(kept.length * features)
  }
  kept.forEach((s, i) => {
    arrays.ids[i] = ids[s]!
    arrays.scales[i] = scales[s]!
    arrays.places.set(places.subarray(s * features, (s + 1) * features), i * features)
    arrays.weights.set(weights.subarray(s * features, (s + 1) * features), i * features)
  })
  const held = new Uint8Array(BUCKETS)
  arrays.places.forEach((place, k) => {
    if (arrays.weights[k]! > 0) held[place] = 1
  })
  const unknown = rare.reduce((most, one) => Math.max(most, one), 0)
  places.forEach((place, k) => {
    if (weights[k]! > 0 && held[place] === 0) arrays.rare[place] = unknown
  })
  return of(arrays, features, router.tokenizer)
}

/** Reads the bytes of `router.bin`. Fails with a DataError that names `path` where they are something else. */
export const decodeRouter = (bytes: Uint8Array, path: string): Effect.Effect<Router, DataError> =>
  Effect.suspend(() => {
    const wrong = (detail: string) => new DataError({ path, detail: `is no router of memsinks: ${detail}` })
    const end = bytes.indexOf(10, MAGIC.length)
    if (new TextDecoder().decode(bytes.subarray(0, MAGIC.length)) !== MAGIC || end < 0) {
      return Effect.fail(wrong("it begins otherwise"))
    }
    return Effect.gen(function*() {
      const json = yield* Effect.mapError(parseJson(new TextDecoder().decode(bytes.subarray(MAGIC.length, end))), wrong)
      const { features, sources, tokenizer } = yield* Effect.mapError(decodeWith(Header, json), (lines) =>
        wrong(lines.slice(0, 3).join("; ")))
      const sizes = [8 * sources, 4 * sources, 4 * BUCKETS, 4 * sources * features, sources * features]
      const whole = end + 1 + sizes.reduce((sum, size) => sum + size, 0)
      if (bytes.length !== whole) {
        return yield* wrong(
          `it has ${bytes.length} bytes where ${sources} sources of ${features} features have ${whole}`
        )
      }
      let at = end + 1
      // typed arrays begin at multiples of their size, which the line of JSON does not care for
      const [ids, scales, rare, places, weights] = sizes.map((size) =>
        new Uint8Array(bytes.subarray(at, at += size)).buffer
      )
      const arrays: Arrays = {
        ids: new BigUint64Array(ids!),
        scales: new Float32Array(scales!),
        rare: new Float32Array(rare!),
        places: new Uint32Array(places!),
        weights: new Uint8Array(weights!)
      }
      const outside = arrays.places.findIndex((place) => place >= BUCKETS)
      if (outside >= 0) {
        return yield* wrong(`feature ${outside} lies at ${arrays.places[outside]}, of ${BUCKETS} places`)
      }
      return yield* Effect.try({
        try: () => of(arrays, features, tokenizer),
        catch: (cause) => wrong(because(cause))
      })
    })
  })

/** How often held-out passages are routed to their own source. */
export interface Routed {
  readonly passages: number
  readonly right: number
  /** Sources with passages, and the worst of them. */
  readonly sources: number
  readonly worst: { readonly source: string; readonly passages: number; readonly right: number } | undefined
}

/** Documents that are held out of a router that is judged: one in so many of each source. */
const HELD = 8

/** Passages that are asked at most. */
const ASKED = 2000

/**
 * Judges how a corpus can be routed: every eighth document of a source is held out, a router is made of the others, and
 * passages of `length` tokens of those held out are routed, at most 2,000. Sources of fewer than two documents are not asked.
 */
export function* judgeRouter(
  corpus: TokenDocuments,
  idOf: (source: string) => bigint | undefined,
  options: Pick<RouterOptions, "features" | "tokenizer"> & { readonly length?: number }
): Generator<void, Routed> {
  const { length = 64 } = options
  const places = new Map<number, number>()
  const held = new Uint8Array(corpus.documents)
  for (let d = 0; d < corpus.documents; d++) {
    const place = places.get(corpus.source(d)) ?? 0
    places.set(corpus.source(d), place + 1)
    if (place % HELD === 1) held[d] = 1
  }
  const router = yield* makeRouter(corpus, idOf, { ...options, includes: (d) => held[d] === 0 })
  const all: Array<readonly [document: number, offset: number]> = []
  held.forEach((is, d) => {
    for (let offset = 0; is === 1 && offset + length <= corpus.length(d); offset += length) all.push([d, offset])
  })
  const stride = Math.max(1, Math.ceil(all.length / ASKED))
  const found = new Map<string, { passages: number; right: number }>()
  for (let i = 0; i < all.length; i += stride) {
    const [document, offset] = all[i]!
    const source = corpus.sources[corpus.source(document)]!
    const id = idOf(source)
    if (id === undefined) continue
    const one = found.get(source) ?? { passages: 0, right: 0 }
    one.passages++
    if (router.nearest(corpus.read(document, offset, length))?.id === id) one.right++
    found.set(source, one)
    yield
  }
  const entries = [...found].map(([source, one]) => ({ source, ...one }))
    .sort((a, b) => a.right / a.passages - b.right / b.passages || (a.source < b.source ? -1 : 1))
  return {
    passages: entries.reduce((sum, { passages }) => sum + passages, 0),
    right: entries.reduce((sum, { right }) => sum + right, 0),
    sources: entries.length,
    worst: entries[0]
  }
}
