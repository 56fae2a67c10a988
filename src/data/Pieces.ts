/**
 * Tokenized documents, and the pieces that sequences are made of. A piece is two numbers, a document and an offset, so
 * that millions of them are planned without reading a token. Pure, but for `read` of documents that lie on disk.
 */
import { toId } from "../Batch.ts"

/**
 * Tokenized documents that can be read at any place; token shards on disk are such. Documents count from 0 in an order
 * that does not depend on how they are stored.
 */
export interface TokenDocuments {
  /** How many there are. */
  readonly documents: number
  /** Tokens of a document. */
  readonly length: (document: number) => number
  /** `length` tokens from `offset` on, into `into` if it is given. Throws where they cannot be read. */
  readonly read: (document: number, offset: number, length: number, into?: Uint32Array) => Uint32Array
  /** For messages and reports. */
  readonly name: (document: number) => string
  /** Names of the sources, and which one a document comes from, as an index into them. */
  readonly sources: ReadonlyArray<string>
  /** The source of a document, as a place in `sources`. */
  readonly source: (document: number) => number
  /** Whose the documents of a source are, and their licences, by its place in `sources`. Absent: not known. */
  readonly owners?: ((source: number) => ReadonlyArray<string>) | undefined
  /** Licences of the documents of a source, by its place in `sources`. Absent: not known. */
  readonly licences?: ((source: number) => ReadonlyArray<string>) | undefined
  /** 64-bit hash of the normalized text: equal for exact repeats. Absent: not known. */
  readonly content?: ((document: number) => bigint) | undefined
  /** The smallest document of its cluster of near-duplicates, itself where it has none. Absent: not known. */
  readonly near?: ((document: number) => number) | undefined
  /** The document's own id, whatever the identity says; undefined where it has none. Absent: none has one. */
  readonly id?: ((document: number) => bigint | undefined) | undefined
  /** A document's first token that is scored; those before it are only read. Absent: 1 for all. */
  readonly scoredFrom?: ((document: number) => number) | undefined
}

/** Several corpora as one, their documents one after the other. Sources of one name are one source. */
export const join = (corpora: ReadonlyArray<TokenDocuments>): TokenDocuments => {
  if (corpora.length === 1) return corpora[0]!
  const firsts = [0]
  for (const { documents } of corpora) firsts.push(firsts[firsts.length - 1]! + documents)
  const sources = [...new Set(corpora.flatMap((corpus) => corpus.sources))]
  const places = new Map(sources.map((name, i) => [name, i]))
  const renumbered = corpora.map((corpus) => Uint32Array.from(corpus.sources, (name) => places.get(name)!))
  const partOf = (document: number): number => {
    let part = 0
    while (document >= firsts[part + 1]!) part++
    return part
  }
  const at = <A>(document: number, use: (corpus: TokenDocuments, document: number, part: number) => A): A => {
    const part = partOf(document)
    return use(corpora[part]!, document - firsts[part]!, part)
  }
  const told = (what: "owners" | "licences") => {
    if (corpora.every((corpus) => corpus[what] === undefined)) return undefined
    const all = sources.map((): ReadonlyArray<string> => [])
    for (const [part, corpus] of corpora.entries()) {
      for (const [own, place] of renumbered[part]!.entries()) {
        const more = corpus[what]?.(own) ?? []
        if (more.length > 0) all[place] = [...new Set([...all[place]!, ...more])]
      }
    }
    return (source: number) => all[source]!
  }
  return {
    documents: firsts[corpora.length]!,
    length: (document) => at(document, (corpus, own) => corpus.length(own)),
    read: (document, offset, length, into) => at(document, (corpus, own) => corpus.read(own, offset, length, into)),
    name: (document) => at(document, (corpus, own) => corpus.name(own)),
    sources,
    source: (document) => at(document, (corpus, own, part) => renumbered[part]![corpus.source(own)]!),
    owners: told("owners"),
    licences: told("licences"),
    content: corpora.every((corpus) => corpus.content !== undefined)
      ? (document) => at(document, (corpus, own) => corpus.content!(own))
      : undefined,
    near: corpora.every((corpus) => corpus.near !== undefined)
      ? (document) => at(document, (corpus, own, part) => firsts[part]! + corpus.near!(own))
      : undefined,
    id: corpora.some((corpus) => corpus.id !== undefined)
      ? (document) => at(document, (corpus, own) => corpus.id?.(own))
      : undefined,
    scoredFrom: corpora.some((corpus) => corpus.scoredFrom !== undefined)
      ? (document) => at(document, (corpus, own) => corpus.scoredFrom?.(own) ?? 1)
      : undefined
  }
}

/** What is told of sources, gathered from their documents in the order in which these come. */
export const gather = () => {
  const all = new Map<string, { readonly owners: Set<string>; readonly licences: Set<string> }>()
  const of =
    (what: "owners" | "licences") =>
    (sources: ReadonlyArray<string>): ReadonlyArray<ReadonlyArray<string>> | undefined =>
      Array.from(all.values()).some((one) => one[what].size > 0)
        ? sources.map((source) => [...all.get(source)?.[what] ?? []])
        : undefined
  return {
    add: (source: string, { licence, owner }: { readonly owner?: string; readonly licence?: string }): void => {
      if (owner === undefined && licence === undefined) return
      const one = all.get(source) ?? { owners: new Set<string>(), licences: new Set<string>() }
      all.set(source, one)
      if (owner !== undefined) one.owners.add(owner)
      if (licence !== undefined) one.licences.add(licence)
    },
    owners: of("owners"),
    licences: of("licences")
  }
}

/** An array of tokens that is a document. */
export interface TokenArray {
  readonly tokens: ArrayLike<number>
  /** Whose sinks its tokens light. Default: as the identity of the configuration says. */
  readonly id?: number | bigint
  /** Default: its place in the list. */
  readonly name?: string
  /** Default `memory`. */
  readonly source?: string
}

/**
 * Arrays of tokens as documents to train on, each with its id where it has one; arrays may share an id. Throws a
 * RangeError for an id that is not one of 64 bits.
 *
 * @example
 * ```ts
 * const corpus = documentsOf([{ tokens: ours, id: 7, name: "ours" }, { tokens: theirs, id: 8 }])
 * const data = DataStream.layerTokens(corpus, tokenizer, { singleSequences: "all" })
 * ```
 */
export const documentsOf = (arrays: ReadonlyArray<TokenArray>): TokenDocuments => {
  const tokens = arrays.map((one) => Uint32Array.from(one.tokens))
  const ids = arrays.map(({ id }) => id === undefined ? undefined : toId(id))
  const sources = [...new Set(arrays.map(({ source = "memory" }) => source))]
  const places = new Map(sources.map((name, i) => [name, i]))
  return {
    documents: arrays.length,
    length: (document) => tokens[document]!.length,
    read: (document, offset, length, into) => {
      const part = tokens[document]!.subarray(offset, offset + length)
      if (into === undefined) return part
      into.set(part)
      return into.subarray(0, part.length)
    },
    name: (document) => arrays[document]!.name ?? `${document + 1}`,
    sources,
    source: (document) => places.get(arrays[document]!.source ?? "memory")!,
    id: ids.some((id) => id !== undefined) ? (document) => ids[document] : undefined
  }
}

/** Pieces of documents, in typed arrays of one length: 8 bytes a piece. */
export interface Pieces {
  readonly document: Uint32Array
  /** First token, counted from the beginning of the document. */
  readonly offset: Uint32Array
}

/** Pieces by number, in the order of the numbers. */
export const pick = ({ document, offset }: Pieces, numbers: Uint32Array): Pieces => ({
  document: numbers.map((n) => document[n]!),
  offset: numbers.map((n) => offset[n]!)
})

/** How documents are cut. */
export interface Cutting {
  /** Tokens of a piece at most: one more than its targets. */
  readonly width: number
  /** Tokens from the beginning of a piece to that of the next. */
  readonly stride: number
  /** A piece with fewer tokens is left out. */
  readonly shortest: number
}

/** Pieces that a document of so many tokens gives. */
export const piecesOf = (length: number, { shortest, stride }: Cutting): number =>
  length < shortest ? 0 : 1 + Math.floor((length - shortest) / stride)

/** All pieces of documents, in the order given (default: from first to last). */
export const cut = (
  corpus: Pick<TokenDocuments, "documents" | "length">,
  cutting: Cutting,
  order?: Uint32Array
): Pieces => {
  const documents = order?.length ?? corpus.documents
  const at = (i: number): number => order === undefined ? i : order[i]!
  let total = 0
  for (let i = 0; i < documents; i++) total += piecesOf(corpus.length(at(i)), cutting)
  const pieces = { document: new Uint32Array(total), offset: new Uint32Array(total) }
  let next = 0
  for (let i = 0; i < documents; i++) {
    const document = at(i)
    const count = piecesOf(corpus.length(document), cutting)
    for (let k = 0; k < count; k++, next++) {
      pieces.document[next] = document
      pieces.offset[next] = k * cutting.stride
    }
  }
  return pieces
}
