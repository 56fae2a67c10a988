/**
 * Who is to be forgotten: requests by name, owner, the beginning of names, document, or id, a few of them or a file of
 * thousands, and the ids of the model that they mean.
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import { parseId } from "../Batch.ts"
import { nearer } from "../Config.ts"
import { csvRecords } from "../Csv.ts"
import { documentIds, sourceHash } from "../data/identity/Identity.ts"
import { foreignIds, kinds, type NamedId, type Names } from "../data/identity/Names.ts"
import type { TokenDocuments } from "../data/Pieces.ts"
import { DataError } from "../Errors.ts"
import { isObject, parseJson } from "../Json.ts"
import { count } from "../Terminal.ts"

/** What a request names somebody by. */
export const fields = ["source", "owner", "prefix", "document", "id"] as const
export type Field = typeof fields[number]

/** One that is asked for. */
export interface Request {
  /**
   * - `source`: the whole name of what an id stands for;
   * - `owner`: whoever a source is of, by what the training's data said: all of theirs;
   * - `prefix`: the beginning of any number of names;
   * - `document`: the hash of a text, 16 hexadecimal digits (`memsinks sources --hash FILE` prints it): whoever holds it;
   * - `id`: a number.
   */
  readonly by: Field
  readonly value: string
  /** What whoever asked calls it, such as the number of a ticket. */
  readonly reference?: string
}

/** Somebody who is to be forgotten, and the requests that ask for it, as places in their list. */
export interface Resolved extends NamedId {
  readonly requests: ReadonlyArray<number>
}

/** What is wrong with the name of a field. */
const unknownField = (names: ReadonlyArray<string>): string | undefined => {
  const unknown = names.find((name) => name !== "reference" && !(fields as ReadonlyArray<string>).includes(name))
  return unknown && `has the field ${JSON.stringify(unknown)}; known: ${fields.join(", ")}, reference`
}

const requestOf = (given: Readonly<Record<string, unknown>>): Either.Either<Request, string> => {
  const named = fields.filter((field) => given[field] !== undefined && given[field] !== "")
  const unknown = unknownField(Object.keys(given))
  if (unknown !== undefined) return Either.left(unknown)
  const [by, more] = named
  if (by === undefined || more !== undefined) {
    return Either.left(
      `must have exactly one of ${fields.join(", ")}, got ${named.length === 0 ? "none" : named.join(", ")}`
    )
  }
  const { [by]: value, reference } = given
  if (typeof value !== "string") {
    return Either.left(
      `has ${/^[aeiou]/.test(by) ? "an" : "a"} ${by} that is no text${
        by === "id" ? ": write ids as texts, JSON's numbers are rounded" : ""
      }`
    )
  }
  if (reference !== undefined && typeof reference !== "string") return Either.left("has a reference that is no text")
  return Either.right({ by, value, ...(reference === undefined || reference === "" ? {} : { reference }) })
}

/**
 * Requests out of a file: JSON Lines of `{"source": ..., "reference": ...}` (or `owner`, `prefix`, `document`, `id`), or CSV
 * with these names in its first line (`path` ends with .csv). Fails with a DataError that names the line; also for a file
 * without a request.
 */
export const parseRequests = (text: string, path: string): Effect.Effect<ReadonlyArray<Request>, DataError> =>
  Effect.gen(function*() {
    const wrong = (line: number, detail: string) => new DataError({ path, detail: `line ${line} ${detail}` })
    const csv = /\.csv$/i.test(path)
    const plain = text.replace(/^\uFEFF/, "")
    const requests = csv
      ? yield* Either.gen(function*() {
        const [head, ...records] = yield* Either.mapLeft(csvRecords(plain), ({ detail, line }) => wrong(line, detail))
        const names = (head?.fields ?? []).map((name) => name.trim())
        const twice = names.find((name, i) => names.indexOf(name) < i)
        const fault = twice !== undefined
          ? `names ${JSON.stringify(twice)} twice`
          : unknownField(names) ??
            (names.length > 0 && names.every((name) => name === "reference")
              ? `must name at least one of ${fields.join(", ")}`
              : undefined)
        if (fault !== undefined) return yield* Either.left(wrong(head!.line, fault))
        return yield* Either.all(records.map(({ fields, line }) =>
          fields.length === names.length
            ? Either.mapLeft(requestOf(Object.fromEntries(names.map((name, i) => [name, fields[i]!]))), (detail) =>
              wrong(line, detail))
            : Either.left(wrong(line, `has ${fields.length} fields, the first line names ${names.length}`))
        ))
      })
      : yield* Effect.forEach(plain.split(/\r?\n/).entries(), ([at, line]) =>
        Either.gen(function*() {
          if (line.trim() === "") return []
          const value = yield* Either.mapLeft(parseJson(line), (detail) => wrong(at + 1, `is no request: it ${detail}`))
          if (!isObject(value)) return yield* Either.left(wrong(at + 1, "is no request: it is no JSON object"))
          return [yield* Either.mapLeft(requestOf(value), (detail) => wrong(at + 1, detail))]
        })).pipe(Effect.map((all) => all.flat()))
    if (requests.length > 0) return requests
    return yield* new DataError({
      path,
      detail: `holds no request: write one a line, ${
        csv
          ? `with ${fields.slice(0, -1).join(", ")} or id in the first line`
          : "such as {\"source\": \"Genesis\", \"reference\": \"ticket 7\"}"
      }`
    })
  })

/** What is not known is told of so many at most. */
const TOLD = 5

/** A hash of 64 bits as it is written. */
const hashText = (hash: bigint): string => hash.toString(16).padStart(16, "0")

/** 16 hexadecimal digits, or the 64 of a whole SHA-256, of which they are the first. */
const parseHash = (text: string): bigint | undefined => {
  const [, digits] = /^\s*(?:0x)?([0-9a-f]{16})(?:[0-9a-f]{48})?\s*$/i.exec(text) ?? []
  return digits === undefined ? undefined : BigInt(`0x${digits}`)
}

/** Places in the list of requests by what they ask for. */
const placesOf = <A>(
  requests: ReadonlyArray<Request>,
  by: Field,
  keyOf: (value: string) => A | undefined
): ReadonlyMap<A, ReadonlyArray<number>> => {
  const places = new Map<A, Array<number>>()
  for (const [i, request] of requests.entries()) {
    const key = request.by === by ? keyOf(request.value) : undefined
    if (key === undefined) continue
    const known = places.get(key)
    if (known === undefined) places.set(key, [i])
    else known.push(i)
  }
  return places
}

/** The ids, with the names that they should have, of those who hold documents of these hashes. */
const holdersOf = (
  hashes: ReadonlyMap<bigint, ReadonlyArray<number>>,
  names: Names,
  corpus: TokenDocuments | undefined
): Effect.Effect<ReadonlyArray<readonly [id: bigint, name: string | undefined, requests: ReadonlyArray<number>]>,
  DataError> =>
  Effect.gen(function*() {
    const { identity } = names
    if (hashes.size === 0) return []
    // of content an id is the hash itself
    if (identity === "content") return Array.from(hashes, ([hash, requests]) => [hash, undefined, requests] as const)
    if (identity !== "source" && identity !== "document") {
      return yield* new DataError({
        detail:
          `ids of this model each stand for ${
            kinds[identity]
          }, of which a document does not tell the number: name it with ` +
          "--id or --source, as memsinks sources lists them"
      })
    }
    if (corpus === undefined) {
      return yield* new DataError({
        detail: "documents are looked for among the training's texts: name its token shards with --data"
      })
    }
    const { content, name, source, sources } = corpus
    if (content === undefined) {
      return yield* new DataError({
        detail: "--data keeps no hashes of its documents: tokenize it with memsinks tokenize"
      })
    }
    const idOf = documentIds(identity, corpus, yield* foreignIds(names, sources))!
    const found = new Map<string, readonly [bigint, string, ReadonlyArray<number>]>()
    for (let d = 0; d < corpus.documents; d++) {
      const requests = hashes.get(content(d))
      if (requests === undefined) continue
      const id = idOf(d)
      found.set(`${id} ${content(d)}`, [id, identity === "source" ? sources[source(d)]! : name(d), requests])
    }
    return [...found.values()]
  })

/**
 * The ids that requests mean, rising, each once. `corpus`: the training's documents, for requests by `document`.
 *
 * Takes one look at every id of the model at most, and of the corpus at every document. Fails with a DataError for any that the
 * model was not trained with, which names the nearest, since their deletion would silently not happen, and for requests that
 * leave nobody: that is another model, not a deletion.
 */
export const resolve = (
  requests: ReadonlyArray<Request>,
  names: Names,
  corpus?: TokenDocuments
): Effect.Effect<ReadonlyArray<Resolved>, DataError> =>
  Effect.gen(function*() {
    const { identity } = names
    const found = new Map<bigint, { readonly one: NamedId; readonly requests: Array<number> }>()
    const met = new Uint8Array(requests.length)
    const add = (one: NamedId, asking: ReadonlyArray<number> | undefined) => {
      if (asking === undefined) return
      const known = found.get(one.id) ?? { one, requests: [] }
      found.set(one.id, known)
      for (const request of asking) {
        known.requests.push(request)
        met[request] = 1
      }
    }
    const ids = placesOf(requests, "id", parseId)
    const bySource = placesOf(requests, "source", (name) => name)
    const byOwner = placesOf(requests, "owner", (name) => name)
    const byPrefix = placesOf(requests, "prefix", (text) => text === "" ? undefined : text)
    const holders = yield* holdersOf(placesOf(requests, "document", parseHash), names, corpus)

    // by rising id, so that no group of rows is decoded twice; the id of a source follows from its name
    const direct = [
      ...Array.from(ids, ([id, asking]) => ({ id, asking, name: undefined })),
      ...holders.map(([id, name, asking]) => ({ id, asking, name })),
      ...identity === "source"
        ? Array.from(bySource, ([name, asking]) => ({ id: sourceHash(name), asking, name }))
        : []
    ].sort((a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0))
    for (const { asking, id, name } of direct) {
      const one = yield* names.get(id)
      if (one !== undefined && (name === undefined || one.name === name)) add(one, asking)
    }
    // a canary has an id of its own
    const called = [...bySource].filter(([, asking]) => met[asking[0]!] === 0)
    if (called.length + byOwner.size + byPrefix.size > 0) {
      const left = new Map(called)
      const lengths = new Set(Array.from(byPrefix.keys(), ({ length }) => length))
      yield* names.each((one) => {
        add(one, left.get(one.name))
        for (const owner of new Set(one.owners)) add(one, byOwner.get(owner))
        for (const length of lengths) {
          if (length <= one.name.length) add(one, byPrefix.get(one.name.slice(0, length)))
        }
      })
    }
    const unknown = requests.flatMap((request, i) => met[i] === 1 ? [] : [request])
    if (unknown.length > 0) {
      return yield* new DataError({
        detail:
          `the model was not trained with ${count(unknown.length)} of the ${
            count(requests.length)
          } to be forgotten, and nothing was done:\n` +
          (yield* advice(unknown.slice(0, TOLD), names, corpus)).map((told, i) =>
            `  ${unknown[i]!.by} ${JSON.stringify(unknown[i]!.value)}: ${told}`
          ).join("\n") +
          (unknown.length > TOLD ? `\n  and ${count(unknown.length - TOLD)} more` : "")
      })
    }
    const resolved = Array.from(found.values(), ({ one, requests }): Resolved => ({
      ...one,
      requests: [...new Set(requests)].sort((a, b) => a - b)
    })).sort((a, b) => (a.id < b.id ? -1 : 1))
    if (resolved.length >= names.count) {
      return yield* new DataError({
        detail:
          `these requests would delete all ${count(names.count)} ids of the model, and nobody's sinks would be left: ` +
          "to use it without any sinks, switch them off, as by memsinks export --sinks off"
      })
    }
    return resolved
  })

/** What may have been meant by requests that nothing answers to. */
const advice = (
  requests: ReadonlyArray<Request>,
  names: Names,
  corpus: TokenDocuments | undefined
): Effect.Effect<ReadonlyArray<string>, DataError> =>
  Effect.gen(function*() {
    const searches = requests.map(({ value }) => nearer(value.trim()))
    const of = (by: Field) => searches.filter((_, i) => requests[i]!.by === by)
    const [sources, owners, documents] = [of("source"), of("owner"), of("document")]
    let owned = false
    if (sources.length + owners.length > 0) {
      yield* names.each((one) => {
        for (const { offer } of sources) offer(one.name)
        for (const owner of one.owners ?? []) {
          owned = true
          for (const { offer } of owners) offer(owner)
        }
      })
    }
    if (documents.length > 0 && corpus?.content !== undefined) {
      for (let d = 0; d < corpus.documents; d++) {
        const text = hashText(corpus.content(d))
        for (const { offer } of documents) offer(text)
      }
    }
    return requests.map(({ by, value }, i) => {
      const meant = searches[i]!.best()
      switch (by) {
        case "prefix":
          return "no name begins with it"
        case "id":
          return parseId(value) === undefined ? "it is no id: a whole number below 2^64" : "there is none"
        case "document":
          return parseHash(value) === undefined
            ? "it is no hash of a text: 16 hexadecimal digits"
            : meant === hashText(parseHash(value)!)
            ? "no source that was trained on holds it"
            : meant === undefined
            ? "no document has this hash"
            : `did you mean ${meant}?`
        case "owner":
          return !owned
            ? "the model does not say whose its sources are: its data was read without ownerField (--owner-field)"
            : meant === undefined
            ? "nobody is called so"
            : `did you mean ${JSON.stringify(meant)}?`
        case "source":
          return meant !== undefined
            ? `did you mean ${JSON.stringify(meant)}?`
            : names.identity === "source"
            ? "there is none"
            : `there is none; ids of this model each stand for ${kinds[names.identity]}`
      }
    })
  })
