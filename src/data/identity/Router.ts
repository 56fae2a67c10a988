/**
 * Which source a text is most like. A router chooses whose sinks a prompt lights where nobody says it; sources that are denied
 * are never chosen. There are two kinds:
 *
 * - of words: a vector for every source of how often it has which tokens and pairs of tokens, weighed by how few sources have
 *   them (TF-IDF), hashed, of which the strongest are kept;
 * - of vectors that somebody else's model of embeddings gave for every source, rounded to 8 bits.
 *
 * `router.bin` holds the bytes `MSRTR1\n`, a line of JSON (sources, and of words the features a source and the fingerprint of
 * the tokenizer, of vectors their width), and then, little endian: ids u64 [sources], scales f32 [sources]; of words the
 * logarithms of how rare a feature is f32 [buckets], places u32 [sources, features] and weights u8 [sources, features],
 * strongest first, filled up with weights of 0; of vectors i8 [sources, width]. A feature takes 5 bytes: 64 of each of 6.4
 * million sources two gigabytes.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { closeSync, fstatSync, openSync, readSync, statSync } from "node:fs"
import { join } from "node:path"
import * as AtomicFile from "../../AtomicFile.ts"
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

export interface Choice {
  readonly denied?: (id: bigint) => boolean
  /** How near a source must be, from 0 to 1. Default 0: any that shares something. */
  readonly least?: number
}

/** A router of words. */
export interface WordRouter {
  readonly kind: "words"
  readonly sources: number
  /** Of the tokenizer that its tokens are of: see `fingerprint`. */
  readonly tokenizer: string
  /**
   * The source that a text is most like, the one with the lowest id of equals; none where all are below `least` or denied.
   * Looks at every source: 6.4 million take about a second.
   */
  readonly nearest: (tokens: ArrayLike<number>, choice?: Choice) => Route | undefined
  /** How near a text is to the source of a place. */
  readonly similarity: (tokens: ArrayLike<number>, source: number) => number
  /** A text as a vector of length 1 over the buckets, all 0 where it has no feature. */
  readonly query: (tokens: ArrayLike<number>) => Float32Array
  /** What it is made of. */
  readonly arrays: WordArrays
}

/** A router of vectors. */
export interface VectorRouter {
  readonly kind: "vectors"
  readonly sources: number
  readonly width: number
  /** The same, of a text's vector of that width. */
  readonly nearest: (vector: ArrayLike<number>, choice?: Choice) => Route | undefined
  readonly similarity: (vector: ArrayLike<number>, source: number) => number
  readonly arrays: VectorArrays
}

export type Router = WordRouter | VectorRouter

/** A router as arrays: see the file. */
export interface WordArrays {
  /** Rising. */
  readonly ids: BigUint64Array
  readonly scales: Float32Array
  readonly rare: Float32Array
  readonly places: Uint32Array
  readonly weights: Uint8Array
}

export interface VectorArrays {
  /** Rising. */
  readonly ids: BigUint64Array
  readonly scales: Float32Array
  readonly codes: Int8Array
}

const Header = Schema.Union(
  Schema.Struct({
    sources: natural,
    features: positive,
    buckets: Schema.Literal(BUCKETS),
    tokenizer: Schema.String
  }),
  Schema.Struct({ sources: natural, width: positive })
)

const MAGIC = "MSRTR1\n"

/** The best of all sources by a similarity: the first of equals. */
const bestOf = (
  ids: BigUint64Array,
  similarityOf: (source: number) => number,
  { denied = () => false, least = 0 }: Choice
): Route | undefined => {
  let best: Route | undefined
  for (let s = 0; s < ids.length; s++) {
    const similarity = similarityOf(s)
    if (similarity > 0 && similarity >= least && similarity > (best?.similarity ?? 0) && !denied(ids[s]!)) {
      best = { id: ids[s]!, similarity }
    }
  }
  return best
}

const ofWords = (arrays: WordArrays, features: number, tokenizer: string): WordRouter => {
  const { ids, places, rare, scales, weights } = arrays
  const query = new Float32Array(BUCKETS)
  /** Fills the query, and gives what empties it. */
  const fill = (tokens: ArrayLike<number>) => {
    const counts = countsOf(tokens)
    let squares = 0
    for (const [place, count] of counts) squares += ((1 + Math.log(count)) * rare[place]!) ** 2
    const norm = squares === 0 ? 1 : Math.sqrt(squares)
    for (const [place, count] of counts) query[place] = (1 + Math.log(count)) * rare[place]! / norm
    return () => {
      for (const place of counts.keys()) query[place] = 0
    }
  }
  const product = (s: number): number => {
    let sum = 0
    for (let k = s * features; k < (s + 1) * features; k++) sum += weights[k]! * query[places[k]!]!
    return sum * scales[s]!
  }
  return {
    kind: "words",
    sources: ids.length,
    tokenizer,
    arrays,
    query: (tokens) => {
      const clear = fill(tokens)
      const copy = query.slice()
      clear()
      return copy
    },
    nearest: (tokens, choice = {}) => {
      const clear = fill(tokens)
      const best = bestOf(ids, product, choice)
      clear()
      return best
    },
    similarity: (tokens, source) => {
      const clear = fill(tokens)
      const similarity = product(source)
      clear()
      return similarity
    }
  }
}

/** A vector of length 1; of one that is all 0 itself. */
export const unitOf = (vector: ArrayLike<number>): Float32Array => {
  let squares = 0
  for (let i = 0; i < vector.length; i++) squares += vector[i]! ** 2
  return Float32Array.from(vector, (x) => x / (Math.sqrt(squares) || 1))
}

const ofVectors = (arrays: VectorArrays, width: number): VectorRouter => {
  const { codes, ids, scales } = arrays
  const product = (query: Float32Array, s: number): number => {
    let sum = 0
    for (let k = 0; k < width; k++) sum += codes[s * width + k]! * query[k]!
    return sum * scales[s]!
  }
  return {
    kind: "vectors",
    sources: ids.length,
    width,
    arrays,
    nearest: (vector, choice = {}) => {
      const query = unitOf(vector)
      return bestOf(ids, (s) => product(query, s), choice)
    },
    similarity: (vector, source) => product(unitOf(vector), source)
  }
}

/**
 * A router of vectors, for different ids in any order: `vectorOf` gives that of the i-th, of `width` finite numbers that are
 * not all 0.
 */
export const vectorRouter = (
  given: BigUint64Array,
  width: number,
  vectorOf: (i: number) => ArrayLike<number>
): VectorRouter => {
  const order = Uint32Array.from(given.keys()).sort((a, b) => (given[a]! < given[b]! ? -1 : 1))
  const scales = new Float32Array(given.length)
  const codes = new Int8Array(given.length * width)
  order.forEach((i, s) => {
    const unit = unitOf(vectorOf(i))
    const step = unit.reduce((most, x) => Math.max(most, Math.abs(x)), 0) / 127
    // by the length of what was rounded: a source is as near to itself as can be
    let squares = 0
    unit.forEach((x, k) => {
      const code = Math.round(x / step)
      codes[s * width + k] = code
      squares += code ** 2
    })
    scales[s] = 1 / Math.sqrt(squares)
  })
  return ofVectors({ ids: BigUint64Array.from(order, (i) => given[i]!), scales, codes }, width)
}

/** The bytes of `router.bin`, in parts. */
export const encodeRouter = (router: Router): ReadonlyArray<Uint8Array> => {
  const { sources } = router
  const header: typeof Header.Type = router.kind === "vectors"
    ? { sources, width: router.width }
    : { sources, features: featuresIn(router), buckets: BUCKETS, tokenizer: router.tokenizer }
  const { arrays } = router
  const parts = "codes" in arrays
    ? [arrays.ids, arrays.scales, arrays.codes]
    : [arrays.ids, arrays.scales, arrays.rare, arrays.places, arrays.weights]
  return [
    new TextEncoder().encode(`${MAGIC}${JSON.stringify(header)}\n`),
    ...parts.map(({ buffer, byteLength, byteOffset }) => new Uint8Array(buffer, byteOffset, byteLength))
  ]
}

/** Writes `router.bin`, whole or not at all; one that is there is replaced. */
export const writeRouter = (path: string, router: Router): Effect.Effect<void, DataError> =>
  Effect.try({
    try: () => {
      const file = AtomicFile.begin(path)
      try {
        encodeRouter(router).forEach(file.write)
        file.finish()
      } finally {
        file.abandon()
      }
    },
    catch: (cause) => new DataError({ path, detail: `cannot be written: ${because(cause)}`, cause })
  })

export interface RouterOptions {
  /** Features that are kept of a source. Default: as many as make two gigabytes in all, from 64 to 8,192. */
  readonly features?: number
  /** The documents that are looked at. Default: all. */
  readonly includes?: (document: number) => boolean
  /** See `Router.tokenizer`. */
  readonly tokenizer: string
}

/** The documents of each source: those of source s are order[start[s] .. start[s + 1]). */
const documentsBySource = (corpus: TokenDocuments, includes: (document: number) => boolean) => {
  const start = new Uint32Array(corpus.sources.length + 1)
  for (let d = 0; d < corpus.documents; d++) if (includes(d)) start[corpus.source(d) + 1]!++
  for (let s = 0; s < corpus.sources.length; s++) start[s + 1]! += start[s]!
  const next = start.slice()
  const order = new Uint32Array(start.at(-1)!)
  for (let d = 0; d < corpus.documents; d++) if (includes(d)) order[next[corpus.source(d)]!++] = d
  return { order, start }
}

/**
 * Makes a router of the words of a corpus, for the sources that have an id; yields after every document. The documents are
 * read twice: once to learn which features are rare, once to weigh them.
 */
export function* makeRouter(
  corpus: TokenDocuments,
  idOf: (source: string) => bigint | undefined,
  { features: asked, includes = () => true, tokenizer }: RouterOptions
): Generator<void, WordRouter> {
  // millions of sources are numbers in arrays: objects would take more memory than what is made of them
  const idBySource = new BigUint64Array(corpus.sources.length)
  const known = Uint32Array.from(corpus.sources.keys()).filter((s) => {
    const id = idOf(corpus.sources[s]!)
    if (id !== undefined) idBySource[s] = id
    return id !== undefined
  })
  // sources by rising id, so that equal corpora make equal routers
  known.sort((a, b) => (idBySource[a]! < idBySource[b]! ? -1 : 1))
  const features = asked ?? Math.max(64, Math.min(8192, Math.floor(2 ** 31 / 5 / Math.max(1, known.length))))
  const { order, start } = documentsBySource(corpus, includes)
  const countsIn = function*(s: number): Generator<void, Map<number, number>> {
    const counts = new Map<number, number>()
    for (const d of order.subarray(start[s], start[s + 1])) {
      countsOf(corpus.read(d, 0, corpus.length(d)), counts)
      yield
    }
    return counts
  }

  const holders = new Uint32Array(BUCKETS)
  for (const s of known) for (const place of (yield* countsIn(s)).keys()) holders[place]!++
  const rare = Float32Array.from(holders, (n) => Math.log((1 + known.length) / (1 + n)) + 1)
  const arrays: WordArrays = {
    ids: BigUint64Array.from(known, (s) => idBySource[s]!),
    scales: new Float32Array(known.length),
    rare,
    places: new Uint32Array(known.length * features),
    weights: new Uint8Array(known.length * features)
  }
  for (const [i, s] of known.entries()) {
    const weighed = Array.from(yield* countsIn(s),
      ([place, count]) => ({ place, weight: (1 + Math.log(count)) * rare[place]! }))
    const norm = Math.sqrt(weighed.reduce((sum, { weight }) => sum + weight ** 2, 0))
    const strongest = weighed.sort((a, b) => b.weight - a.weight || a.place - b.place).slice(0, features)
    const unit = (strongest[0]?.weight ?? 0) / 255
    arrays.scales[i] = norm === 0 ? 0 : unit / norm
    strongest.forEach(({ place, weight }, k) => {
      arrays.places[i * features + k] = place
      arrays.weights[i * features + k] = Math.round(weight / unit)
    })
  }
  return ofWords(arrays, features, tokenizer)
}

/** Features that are kept of a source. */
const featuresIn = ({ arrays: { places }, sources }: WordRouter): number => Math.max(1, places.length / (sources || 1))

/**
 * The router without sources: what was kept of them is gone, and features that nobody else keeps are as rare as any. Ids that it does not have are passed over; where it has none of them it is the same router. How rare the
 * other features are still counts the sources that are gone: only a router made anew knows nothing of them.
 */
export const withoutSources = <R extends Router>(router: R, gone: Iterable<bigint>): R => {
  const { ids, scales } = router.arrays
  const lost = new Set(gone)
  const kept = Uint32Array.from(ids.keys()).filter((s) => !lost.has(ids[s]!))
  if (kept.length === ids.length) return router
  /** The rows that are kept. */
  const rows = <A extends BigUint64Array | Float32Array | Uint32Array | Uint8Array | Int8Array>(from: A,
    width = 1): A =>
  {
    const to = new (from.constructor as new(length: number) => A)(kept.length * width)
    kept.forEach((s, i) => to.set(from.subarray(s * width, (s + 1) * width) as never, i * width))
    return to
  }
  const common = { ids: rows(ids), scales: rows(scales) }
  if (router.kind === "vectors") {
    const { arrays: { codes }, width } = router
    return ofVectors({ ...common, codes: rows(codes, width) }, width) as Router as R
  }
  const { arrays: { places, rare, weights }, tokenizer } = router
  const features = featuresIn(router)
  const arrays: WordArrays = { ...common, rare: rare.slice(), places: rows(places, features),
    weights: rows(weights, features) }
  const held = new Uint8Array(BUCKETS)
  arrays.places.forEach((place, k) => {
    if (arrays.weights[k]! > 0) held[place] = 1
  })
  const unknown = rare.reduce((most, one) => Math.max(most, one), 0)
  places.forEach((place, k) => {
    if (weights[k]! > 0 && held[place] === 0) arrays.rare[place] = unknown
  })
  return ofWords(arrays, features, tokenizer) as Router as R
}

/** Bytes that are looked through for the line of JSON. */
const LONGEST_HEADER = 4096

/** A router out of what `read` puts into arrays, from a place on. */
const routerFrom = (
  size: number,
  read: (into: Uint8Array, at: number) => void,
  path: string
): Effect.Effect<Router, DataError> =>
  Effect.gen(function*() {
    const wrong = (detail: string) => new DataError({ path, detail: `is no router of memsinks: ${detail}` })
    const reading = (into: Uint8Array, at: number) =>
      Effect.try({ try: () => read(into, at),
        catch: (cause) => new DataError({ path, detail: because(cause), cause }) })
    const head = new Uint8Array(Math.min(size, LONGEST_HEADER))
    yield* reading(head, 0)
    const end = head.indexOf(10, MAGIC.length)
    if (new TextDecoder().decode(head.subarray(0, MAGIC.length)) !== MAGIC || end < 0) {
      return yield* wrong("it begins otherwise")
    }
    const json = yield* Effect.mapError(parseJson(new TextDecoder().decode(head.subarray(MAGIC.length, end))), wrong)
    const header = yield* Effect.mapError(decodeWith(Header, json), (lines) => wrong(lines.slice(0, 3).join("; ")))
    const { sources } = header
    const row = "width" in header ? header.width : 5 * header.features
    const whole = end + 1 + sources * (12 + row) + ("width" in header ? 0 : 4 * BUCKETS)
    if (size !== whole) {
      return yield* wrong(
        `it has ${size} bytes where ${sources} sources of ${
          "width" in header ? `vectors of ${header.width}` : `${header.features} features`
        } have ${whole}`
      )
    }
    let at = end + 1
    const next = <A extends BigUint64Array | Float32Array | Uint32Array | Uint8Array | Int8Array>(into: A) => {
      const bytes = new Uint8Array(into.buffer)
      return Effect.as(reading(bytes, (at += bytes.length) - bytes.length), into)
    }
    return yield* Effect.gen(function*() {
      const ids = yield* next(new BigUint64Array(sources))
      const scales = yield* next(new Float32Array(sources))
      if (ids.some((id, s) => s > 0 && id <= ids[s - 1]!)) return yield* wrong("its ids do not rise")
      if ("width" in header) {
        return ofVectors({ ids, scales, codes: yield* next(new Int8Array(sources * header.width)) }, header.width)
      }
      const rare = yield* next(new Float32Array(BUCKETS))
      const places = yield* next(new Uint32Array(sources * header.features))
      const weights = yield* next(new Uint8Array(sources * header.features))
      const outside = places.findIndex((place) => place >= BUCKETS)
      if (outside >= 0) return yield* wrong(`feature ${outside} lies at ${places[outside]}, of ${BUCKETS} places`)
      return ofWords({ ids, scales, rare, places, weights }, header.features, header.tokenizer)
    }).pipe(Effect.catchAllDefect((cause) => new DataError({ path, detail: because(cause), cause })))
  })

/** Reads the bytes of `router.bin`. Fails with a DataError that names `path` where they are something else. */
export const decodeRouter = (bytes: Uint8Array, path: string): Effect.Effect<Router, DataError> =>
  routerFrom(bytes.length, (into, at) => into.set(bytes.subarray(at, at + into.length)), path)

/** Bytes that are read at once. */
const CHUNK = 2 ** 26

/** What a router is called in a folder of token shards. */
export const routerFile = "router.bin"

/** The same of a file, or of that in a folder, each array straight into its place: a router of gigabytes is in memory once. */
export const readRouter = (path: string): Effect.Effect<Router, DataError> =>
  Effect.acquireUseRelease(
    Effect.try({
      try: () => openSync(statSync(path).isDirectory() ? join(path, routerFile) : path, "r"),
      catch: (cause) => new DataError({ path, detail: because(cause), cause })
    }),
    (handle) =>
      routerFrom(fstatSync(handle).size, (into, from) => {
        for (let at = 0; at < into.length;) {
          const read = readSync(handle, into, at, Math.min(CHUNK, into.length - at), from + at)
          if (read === 0) throw new Error("it ended while it was read")
          at += read
        }
      }, path),
    (handle) => Effect.sync(() => closeSync(handle))
  )

/** A passage of a document that is held out of a router that is judged. */
export interface Passage {
  /** Of its source. */
  readonly id: bigint
  readonly source: string
  readonly tokens: Uint32Array
}

/** How often held-out passages are routed to their own source. */
export interface Routed {
  readonly passages: number
  readonly right: number
  /** The same of every source with passages, the one that is found least often first. */
  readonly bySource: ReadonlyArray<{ readonly source: string; readonly passages: number; readonly right: number }>
}

/** Documents that are held out: one in so many of each source. */
const HELD = 8

/** Passages that are asked at most. */
const ASKED = 2000

/**
 * The documents that are held out, every eighth of each source of two or more, and passages of `length` tokens of them, at
 * most 2,000, spread evenly.
 */
export const holdOut = (
  corpus: TokenDocuments,
  idOf: (source: string) => bigint | undefined,
  length = 64
): { readonly isHeld: (document: number) => boolean; readonly passages: ReadonlyArray<Passage> } => {
  const places = new Uint32Array(corpus.sources.length)
  const held = new Uint8Array(corpus.documents)
  let all = 0
  for (let d = 0; d < corpus.documents; d++) {
    if (places[corpus.source(d)]!++ % HELD !== 1) continue
    held[d] = 1
    all += Math.floor(corpus.length(d) / length)
  }
  const stride = Math.max(1, Math.ceil(all / ASKED))
  const passages: Array<Passage> = []
  let place = 0
  held.forEach((is, d) => {
    for (let offset = 0; is === 1 && offset + length <= corpus.length(d); offset += length) {
      if (place++ % stride !== 0) continue
      const source = corpus.sources[corpus.source(d)]!
      const id = idOf(source)
      if (id !== undefined) passages.push({ id, source, tokens: corpus.read(d, offset, length) })
    }
  })
  return { isHeld: (d) => held[d] === 1, passages }
}

/** How often passages were found to be of their source. */
export const tallied = (passages: ReadonlyArray<Passage>, found: ReadonlyArray<bigint | undefined>): Routed => {
  const by = new Map<string, { passages: number; right: number }>()
  passages.forEach(({ id, source }, i) => {
    const one = by.get(source) ?? { passages: 0, right: 0 }
    one.passages++
    if (found[i] === id) one.right++
    by.set(source, one)
  })
  const bySource = [...by].map(([source, one]) => ({ source, ...one }))
    .sort((a, b) => a.right / a.passages - b.right / b.passages || (a.source < b.source ? -1 : 1))
  return { passages: passages.length, right: bySource.reduce((sum, { right }) => sum + right, 0), bySource }
}

/** Judges how a corpus can be routed by words: by a router of all documents but those that are held out. */
export function* judgeRouter(
  corpus: TokenDocuments,
  idOf: (source: string) => bigint | undefined,
  options: Pick<RouterOptions, "features" | "tokenizer"> & { readonly length?: number }
): Generator<void, Routed> {
  const { isHeld, passages } = holdOut(corpus, idOf, options.length)
  const router = yield* makeRouter(corpus, idOf, { ...options, includes: (d) => !isHeld(d) })
  const found: Array<bigint | undefined> = []
  for (const { tokens } of passages) {
    found.push(router.nearest(tokens)?.id)
    yield
  }
  return tallied(passages, found)
}
