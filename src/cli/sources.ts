/** `memsinks sources`: what a model was trained on, a line an id, and what was deleted from it. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import process from "node:process"
import { loadInitial } from "../checkpoints/Import.ts"
import { csvField } from "../Csv.ts"
import * as Corpus from "../data/Corpus.ts"
import { contentHash } from "../data/identity/Identity.ts"
import { type NamedId, namesFile } from "../data/identity/Names.ts"
import { makeNearIndex } from "../data/identity/NearDuplicates.ts"
import { type HeldByOthers, nearSources } from "../data/identity/NearSources.ts"
import * as Tokenizer from "../data/tokens/Tokenizer.ts"
import * as TokenShards from "../data/tokens/TokenShards.ts"
import { CheckpointError, DataError } from "../Errors.ts"
import * as Sink from "../Sink.ts"
import { columns, count, oneLine, plural } from "../Terminal.ts"
import { inTurns } from "../Turns.ts"
import type { SourcesOptions } from "./commands/sources.ts"
import * as Edge from "./Edge.ts"

/** The web site of a name that is an address. */
const siteOf = (name: string): string | undefined =>
  /^https?:\/\/(?:[^/?#@]*@)?([^/?#:]+)/i.exec(name)?.[1]?.toLowerCase()

/** Sites, owners and licences that a summary names at least. */
const GROUPS = 20

interface Sums {
  ids: number
  documents: number
  tokens: number
}

const none = (): Sums => ({ ids: 0, documents: 0, tokens: 0 })

const addTo = (sums: Sums, { documents, tokens }: NamedId): void => {
  sums.ids++
  sums.documents += documents
  sums.tokens += tokens
}

/** Sums by what a public report names. */
const kinds = { sites: "web site", owners: "owner", licences: "licence" } as const
type Kind = keyof typeof kinds

const valuesOf: Readonly<Record<Kind, (one: NamedId) => ReadonlyArray<string>>> = {
  sites: ({ name }) => {
    const site = siteOf(name)
    return site === undefined ? [] : [site]
  },
  owners: ({ owners = [] }) => owners,
  licences: ({ licences = [] }) => licences
}

/** Those with most tokens, as they are offered one by one. */
const largest = (most: number) => {
  const top: Array<NamedId> = []
  const before = (a: NamedId, b: NamedId) => a.tokens !== b.tokens ? a.tokens > b.tokens : a.name < b.name
  return {
    offer: (one: NamedId): void => {
      if (top.length === most && !before(one, top[most - 1]!)) return
      let [from, to] = [0, top.length]
      while (from < to) {
        const at = (from + to) >>> 1
        if (before(top[at]!, one)) from = at + 1
        else to = at
      }
      top.splice(from, 0, one)
      if (top.length > most) top.pop()
    },
    top
  }
}

/** Clusters of near-duplicates in token shards, which may not know them: then the texts are compared here. */
const clustersOf = (corpus: TokenShards.TokenShards) =>
  Effect.gen(function*() {
    if (corpus.near !== undefined) return corpus.near
    if (corpus.tokenizer === undefined) {
      return yield* new DataError({ path: corpus.path,
        detail: "has no tokenizer.json, by which its texts could be compared" })
    }
    const tokenizer = yield* Tokenizer.fromJSON(corpus.tokenizer)
    const { bos, eos } = corpus.dataset ?? {}
    const index = makeNearIndex()
    yield* inTurns((function*() {
      for (let d = 0; d < corpus.documents; d++) {
        const tokens = corpus.read(d, 0, corpus.length(d))
        const [from, to] = [tokens[0] === bos ? 1 : 0, tokens.length - (tokens.at(-1) === eos ? 1 : 0)]
        index.add(tokenizer.decode(tokens.subarray(from, to)))
        yield
      }
    })())
    const { near } = index.clusters(0)
    return (document: number) => near[document]!
  })

/** The hash of a text, and the sources of a corpus that hold a document of it. */
const hashed = (file: string, corpus: TokenShards.TokenShards | undefined) =>
  Effect.gen(function*() {
    const hash = contentHash((yield* Corpus.readText(file)).trim())
    const holders = new Set<string>()
    if (corpus?.content !== undefined) {
      for (let d = 0; d < corpus.documents; d++) {
        if (corpus.content(d) === hash) holders.add(corpus.sources[corpus.source(d)]!)
      }
    }
    return { document: hash.toString(16).padStart(16, "0"), heldBy: [...holders] }
  })

/** Fields of CSV besides id, name, documents, tokens and whether it was deleted. */
const more = ["owners", "licences", "nearDuplicates", "nearSources", "sinks", "sharedSinks", "exposures", "firstStep",
  "lastStep"] as const

const csvLine = (one: NamedId, deleted: boolean): string =>
  [`${one.id}`, one.name, `${one.documents}`, `${one.tokens}`, `${deleted}`, ...more.map((field) => {
    const value = one[field]
    return typeof value === "object" ? value.join("; ") : `${value ?? ""}`
  })].map(csvField).join()

/** How often training went over it. */
const passesOf = ({ exposures, tokens }: Pick<NamedId, "exposures" | "tokens">): number | undefined =>
  exposures === undefined || tokens === 0 ? undefined : exposures / tokens

/** A column of the list on a terminal that is shown where one of its lines has something in it. */
const optional: ReadonlyArray<readonly [title: string, of: (one: NamedId) => string]> = [
  ["passes", (one) => passesOf(one)?.toFixed(2) ?? ""],
  ["steps", ({ firstStep, lastStep }) => firstStep === undefined ? "" : `${firstStep}-${lastStep}`],
  ["blocks", ({ sharedSinks, sinks }) => sinks === undefined ? "" : `${sinks}, ${sharedSinks} shared`],
  ["near", ({ nearDuplicates = 0 }) => nearDuplicates === 0 ? "" : count(nearDuplicates)],
  ["owner", ({ owners = [] }) =>
    owners.length === 0
      ? ""
      : oneLine(owners[0]!) + (owners.length > 1 ? ` and ${owners.length - 1}` : "")]
]

/** Lines of a page that are not for sources. */
const FRAME = 7

/** Prints the sources. Fails with a CheckpointError where the checkpoint does not list them. */
export const runSources = (options: SourcesOptions) =>
  Effect.gen(function*() {
    if (options.csv && options.json) {
      return yield* Effect.fail(Edge.usage({ message: "--csv and --json are two outputs: leave one out" }))
    }
    const corpus = Option.isNone(options.data)
      ? undefined
      : yield* Effect.acquireRelease(TokenShards.open(options.data.value), ({ close }) => Effect.sync(close))
    if (Option.isSome(options.hash)) {
      const { document, heldBy } = yield* hashed(options.hash.value, corpus)
      return yield* Edge.print(
        options.json
          ? JSON.stringify(corpus === undefined ? { document } : { document, heldBy })
          : [document, ...(corpus === undefined ? [] : heldBy.map((name) => `held by ${oneLine(name)}`))].join("\n")
      )
    }
    const { config, names, path } = yield* loadInitial(options.checkpoint)
    if (names === undefined) {
      return yield* new CheckpointError({
        reason: "Missing",
        path,
        detail:
          `holds no ${namesFile}: only models with sinks list what they were trained on, of which ids are few enough`
      })
    }
    const { sinks } = config
    const isDeleted = (id: bigint) => sinks !== undefined && Sink.isDenied(sinks, id)
    const wanted = Option.map(options.search, (text) => text.toLowerCase())
    const matches = ({ name, owners = [] }: NamedId) =>
      Option.isNone(wanted) || [name, ...owners].some((text) => text.toLowerCase().includes(wanted.value))

    let held: ReadonlyMap<string, HeldByOthers> | undefined
    if (corpus !== undefined) {
      if (names.identity !== "source") {
        const detail =
          `its ids do not stand for sources, one is a ${names.identity}: nobody else can hold what is theirs`
        return yield* new CheckpointError({ reason: "Mismatch", path, detail })
      }
      const of = nearSources(corpus, yield* clustersOf(corpus))
      held = new Map(corpus.sources.map((name, s) => [name, of(s)]))
    }
    const known = (one: NamedId): NamedId => ({ ...one, ...held?.get(one.name) })

    const page = Option.getOrElse(options.top,
      () => process.stdout.isTTY === true && !options.json ? Math.max(5, (process.stdout.rows || 24) - FRAME) : 20)
    const list = largest(options.summary || options.csv ? 1 : page * options.page)
    const total = { ...none(), deleted: 0, exposures: 0, counted: 0 }
    const groups = { sites: new Map<string, Sums>(), owners: new Map<string, Sums>(),
      licences: new Map<string, Sums>() }
    /** Of those that no site, owner or licence is known of. */
    const unnamed = { sites: none(), owners: none(), licences: none() }
    if (options.csv && !options.summary) {
      yield* Edge.print(["id,name,documents,tokens,deleted", ...more].join(), true)
    }
    yield* names.eachGroup((rows) =>
      Effect.suspend(() => {
        const lines: Array<string> = []
        for (const one of rows) {
          if (!matches(one)) continue
          addTo(total, one)
          if (isDeleted(one.id)) total.deleted++
          if (one.exposures !== undefined) {
            total.exposures += one.exposures
            total.counted += one.tokens
          }
          if (options.csv && !options.summary) {
            lines.push(csvLine(known(one), isDeleted(one.id)))
            continue
          }
          list.offer(one)
          for (const kind of Object.keys(kinds) as Array<Kind>) {
            const values = valuesOf[kind](one)
            if (values.length === 0) addTo(unnamed[kind], one)
            for (const value of values) {
              const sums = groups[kind].get(value) ?? none()
              groups[kind].set(value, sums)
              addTo(sums, one)
            }
          }
        }
        return lines.length === 0 ? Effect.void : Edge.print(lines.join("\n"), true)
      })
    )
    if (options.csv && !options.summary) return

    const share = (tokens: number) => tokens / Math.max(1, total.tokens)
    const sorted = (kind: Kind) =>
      Array.from(groups[kind], ([name, sums]) => ({ name, ...sums, share: share(sums.tokens) }))
        .sort((a, b) => b.tokens - a.tokens || (a.name < b.name ? -1 : 1))
    const all = { sites: sorted("sites"), owners: sorted("owners"), licences: sorted("licences") }
    if (options.csv) {
      return yield* Edge.print([
        "kind,name,ids,documents,tokens,share",
        ["all", "", total.ids, total.documents, total.tokens, 1].join(),
        ...(Object.keys(kinds) as Array<Kind>).flatMap((kind) =>
          all[kind].map(({ documents, ids, name, share, tokens }) =>
            [kinds[kind], csvField(name), ids, documents, tokens, share].join()
          ).concat(
            unnamed[kind].ids === 0
              ? []
              : [`no ${kinds[kind]}`, "", ...Object.values(unnamed[kind]), share(unnamed[kind].tokens)].join()
          )
        )
      ].join("\n"), true)
    }
    // a tenth of the domains is what reports on training content are to name
    const most = <A>(some: ReadonlyArray<A>) => some.slice(0, Math.max(GROUPS, Math.ceil(some.length / 10)))
    const shown = list.top.slice(page * (options.page - 1)).map(known)
    const { counted, exposures, ...sums } = total
    const passes = counted === 0 ? undefined : exposures / counted
    if (options.json) {
      return yield* Edge.print(JSON.stringify({
        checkpoint: path,
        identity: names.identity,
        ...sums,
        ...(passes === undefined ? {} : { exposures, passes }),
        sites: most(all.sites).map(({ name, ...one }) => ({ site: name, ...one })),
        owners: most(all.owners),
        licences: most(all.licences),
        unnamed,
        ...(options.summary
          ? {}
          : {
            largest: shown.map((one) => ({
              ...one,
              id: `${one.id}`,
              share: share(one.tokens),
              passes: passesOf(one),
              deleted: isDeleted(one.id)
            }))
          })
      }))
    }
    const percent = (tokens: number) => `${(100 * share(tokens)).toFixed(1)} %`
    const extra = optional.filter(([, of]) => shown.some((one) => of(one) !== ""))
    const table = (kind: Kind) =>
      all[kind].length === 0 ? [] : [
        "",
        ...columns([[kinds[kind], "ids", "documents", "tokens", "share"], ...all[kind].slice(0, GROUPS).map((
          { documents, ids, name, tokens }
        ) => [oneLine(name), count(ids), count(documents), count(tokens), percent(tokens)]), ...(unnamed[kind].ids === 0
          ? []
          : [[`(no ${kinds[kind]})`, ...Object.values(unnamed[kind]).map(count), percent(unnamed[kind].tokens)]])]),
        ...(all[kind].length > GROUPS ? [`and ${count(all[kind].length - GROUPS)} more: --csv`] : [])
      ]
    const [first, last] = [page * (options.page - 1) + 1, page * (options.page - 1) + shown.length]
    yield* Edge.print([
      `${path}: ${plural(total.ids, "id")}, one a ${names.identity}; ${plural(total.documents, "document")}, ${
        plural(total.tokens, "token")
      } an epoch` + (passes === undefined ? "" : `, trained on ${passes.toFixed(2)} times`) +
      (total.deleted === 0 ? "" : `; ${count(total.deleted)} deleted`),
      ...(sinks === undefined
        ? []
        : [
          `each lights ${count(sinks.active)} of ${count(sinks.pool)} sinks in every MLP, in blocks of ${
            count(sinks.block)
          }, by ${sinks.assignment}`
        ]),
      ...(options.summary
        ? [...table("sites"), ...table("owners"), ...table("licences")]
        : shown.length === 0
        ? total.ids === 0
          ? Option.match(options.search, { onNone: () => [],
            onSome: (text) => [`no name and no owner holds ${JSON.stringify(text)}`] })
          : [`page ${options.page} is beyond the last`]
        : [
          "",
          ...columns([["id", "documents", "tokens", "share", ...extra.map(([title]) => title), "name"], ...shown.map((
            one
          ) => [`${one.id}`, count(one.documents), count(one.tokens), percent(one.tokens),
            ...extra.map(([, of]) => of(one)), `${oneLine(one.name)}${isDeleted(one.id) ? " (deleted)" : ""}`]
          )], (column) => column === 0 || column >= 4 + extra.length),
          ...(total.ids > shown.length
            ? [`${count(first)} to ${count(last)} of ${count(total.ids)}` +
              `${last < total.ids ? ` (--page ${options.page + 1} goes on)` : ""}; also --top, --search, --csv`]
            : [])
        ])
    ].join("\n"))
  }).pipe(Effect.scoped)
