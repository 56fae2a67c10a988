/** `memsinks router`: which source a text is most like, learned from the texts of all, or from vectors of theirs. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { parseId } from "../Batch.ts"
import { loadInitial } from "../checkpoints/Import.ts"
import { sourceHash } from "../data/identity/Identity.ts"
import { type Names, namesFile } from "../data/identity/Names.ts"
import { encodeRouter, holdOut, judgeRouter, makeRouter, type Routed, type Router, tallied, vectorRouter,
  writeRouter } from "../data/identity/Router.ts"
import type { TokenDocuments } from "../data/Pieces.ts"
import { fingerprint, sameTokenizer } from "../data/tokens/SameTokenizer.ts"
import * as Tokenizer from "../data/tokens/Tokenizer.ts"
import * as TokenShards from "../data/tokens/TokenShards.ts"
import { attempt, CheckpointError, DataError } from "../Errors.ts"
import { bootstrapIndices, type Interval, shareInterval } from "../measures/Statistics.ts"
import { type Embed, readVectors } from "../serve/Embeddings.ts"
import type { SinkConfig } from "../Sink.ts"
import { bytes, oneLine, plural } from "../Terminal.ts"
import { inTurns } from "../Turns.ts"
import type { RouterOptions } from "./commands/router.ts"
import * as Edge from "./Edge.ts"
import { embedOf } from "./routing.ts"

/** Gives the ids of what a model was trained with and still has, by name. Millions of them are numbers in one array. */
const idsOf = (names: Names, sinks: SinkConfig | undefined) =>
  Effect.gen(function*() {
    const trained = new BigUint64Array(names.count)
    /** Those whose ids do not follow from their names. */
    const others = new Map<string, bigint>()
    let count = 0
    yield* names.each(({ id, name }) => {
      trained[count++] = id
      if (names.identity !== "source" || sourceHash(name) !== id) others.set(name, id)
    })
    // of what was deleted a router would hold the words
    const denied = new Set(sinks?.denied?.map(BigInt))
    const has = (id: bigint): boolean => {
      let [low, high] = [0, count]
      while (low < high) {
        const middle = (low + high) >>> 1
        if (trained[middle]! < id) low = middle + 1
        else high = middle
      }
      return trained[low] === id
    }
    const alive = trained.reduce((sum, id) => sum + (denied.has(id) ? 0 : 1), 0)
    const of = (id: bigint | undefined) => id !== undefined && has(id) && !denied.has(id) ? id : undefined
    return {
      alive,
      byName: (name: string) => of(others.get(name) ?? sourceHash(name)),
      byNumber: (text: string) => of(parseId(text))
    }
  })

/** A router of the vectors in a file, and how many of these are of nobody whom the model was trained with. */
const fromVectors = (path: string, namesPath: string | undefined,
  ids: Effect.Effect.Success<ReturnType<typeof idsOf>>) =>
  Effect.gen(function*() {
    const { names, vector, width } = yield* readVectors(path, namesPath)
    const rows = new Map<bigint, number>()
    for (const [row, name] of names.entries()) {
      const id = ids.byName(name) ?? ids.byNumber(name)
      if (id === undefined) continue
      const before = rows.get(id)
      if (before !== undefined) {
        const detail = `has two vectors of ${JSON.stringify(name)}, the ${before + 1}th and the ${
          row + 1
        }th: leave one out`
        return yield* new DataError({ path, detail })
      }
      rows.set(id, row)
    }
    const places = Uint32Array.from(rows.values())
    const router = yield* attempt(
      () => vectorRouter(BigUint64Array.from(rows.keys()), width, (i) => vector(places[i]!)),
      DataError
    )
    return { router, unknown: names.length - rows.size }
  })

/** How often the vectors of held-out passages find their source. */
const judgeVectors = (
  router: ReturnType<typeof vectorRouter>,
  corpus: TokenDocuments,
  idOf: (name: string) => bigint | undefined,
  embed: Embed,
  decode: (tokens: Uint32Array) => string
) =>
  Effect.gen(function*() {
    const passages = holdOut(corpus, idOf).passages
      .map((one) => ({ ...one, text: decode(one.tokens) })).filter(({ text }) => text.trim() !== "")
    const vectors = yield* embed(passages.map(({ text }) => text))
    const other = vectors.find(({ length }) => length !== router.width)
    if (other !== undefined) {
      return yield* new DataError({
        detail: `passages are given vectors of ${other.length} numbers, and those of the sources have ${router.width}`
      })
    }
    return tallied(passages, vectors.map((vector) => router.nearest(vector)?.id))
  })

/** The share of passages that find their source, its interval by drawing sources, whose passages are alike; Wilson's at least. */
const shareOf = ({ bySource, passages, right }: Routed): Interval | undefined => {
  if (passages === 0) return undefined
  const alone = shareInterval(right, passages)
  const drawn = bootstrapIndices(bySource.length, (indices) => {
    let [of, found] = [0, 0]
    for (const i of indices) {
      of += bySource[i]!.passages
      found += bySource[i]!.right
    }
    return found / of
  })
  return { value: alone.value, low: Math.min(alone.low, drawn.low), high: Math.max(alone.high, drawn.high) }
}

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`

/** Writes the router, and prints how often held-out passages find their source. */
export const runRouter = (options: RouterOptions) =>
  Effect.gen(function*() {
    const embeddings = Option.getOrUndefined(options.embeddings)
    const usage = (message: string) => Effect.fail(Edge.usage({ message }))
    if (embeddings === undefined) {
      if (Option.isNone(options.data)) return yield* usage("name the texts of the sources with --data, or --embeddings")
      if (Option.isSome(options.embeddingsUrl) || Option.isSome(options.names)) {
        return yield* usage("--embeddings-url and --names are for --embeddings")
      }
    } else if (Option.isSome(options.features)) return yield* usage("--features are of words: leave --embeddings out")
    const embed = yield* embedOf(options)
    const { config, names, path, tokenizer } = yield* loadInitial(options.checkpoint)
    const lacks = (detail: string) => new CheckpointError({ reason: "Missing", path, detail })
    if (names === undefined) return yield* lacks(`holds no ${namesFile}, so nobody knows which sources it has`)
    if (tokenizer === undefined) return yield* lacks("holds no tokenizer.json, by which prompts are read")
    const ids = yield* idsOf(names, config.sinks)
    const corpus = Option.isNone(options.data)
      ? undefined
      : yield* Effect.acquireRelease(TokenShards.open(options.data.value), ({ close }) => Effect.sync(close))
    if (corpus?.tokenizer !== undefined && !sameTokenizer(corpus.tokenizer, tokenizer)) {
      return yield* new DataError({
        path: Option.getOrThrow(options.data),
        detail: "was made with another tokenizer than the model's"
      })
    }
    const nobody = (where: string) =>
      new DataError({ path: where,
        detail: "holds none of the sources that the model was trained with and that were not deleted from it" })
    let router: Router
    let judged: Routed | undefined
    let unknown = 0
    if (embeddings === undefined) {
      const how = { ...Edge.given({ features: options.features }), tokenizer: fingerprint(tokenizer) }
      if (!corpus!.sources.some((name) => ids.byName(name) !== undefined)) {
        return yield* nobody(Option.getOrThrow(options.data))
      }
      // first, and not beside the router that is written: of millions of sources there is memory for one
      judged = yield* inTurns(judgeRouter(corpus!, ids.byName, how))
      router = yield* inTurns(makeRouter(corpus!, ids.byName, how))
    } else {
      const made = yield* fromVectors(embeddings, Option.getOrUndefined(options.names), ids)
      if (made.router.sources === 0) return yield* nobody(embeddings)
      router = made.router
      unknown = made.unknown
      if (corpus !== undefined && embed !== undefined) {
        const reading = yield* Tokenizer.fromJSON(tokenizer)
        const there = new Set(made.router.arrays.ids)
        const idOf = (name: string) => {
          const id = ids.byName(name)
          return id !== undefined && there.has(id) ? id : undefined
        }
        judged = yield* judgeVectors(made.router, corpus, idOf, embed, (tokens) => reading.decode(tokens))
      }
    }
    yield* writeRouter(options.out, router)
    const size = encodeRouter(router).reduce((sum, part) => sum + part.length, 0)
    const missing = ids.alive - router.sources
    const share = judged === undefined ? undefined : shareOf(judged)
    if (options.json) {
      const { bySource = [], ...all } = judged ?? {}
      return yield* Edge.print(JSON.stringify({
        out: options.out,
        kind: router.kind,
        sources: router.sources,
        missing,
        ...(embeddings === undefined ? {} : { unknown }),
        bytes: size,
        ...(judged === undefined ? {} : { judged: { ...all, share, sources: bySource.length, worst: bySource[0] } })
      }))
    }
    const worst = judged?.bySource[0]
    yield* Edge.print([
      `${options.out}: ${plural(router.sources, "source")}, ${bytes(size)}`,
      ...(missing === 0 ? [] : [`not in it, and never found: ${plural(missing, "source")} of the model`]),
      ...(unknown === 0 ? [] : [`left out, of nobody whom the model has: ${plural(unknown, "vector")}`]),
      judged === undefined
        ? "how often it is right is not known: name texts with --data, and who gives their vectors with --embeddings-url"
        : share === undefined
        ? "how often it is right is not known: no source has two documents of 64 tokens"
        : `of ${plural(judged.passages, "held-out passage")} of 64 tokens, ${percent(share.value)} ` +
          `[${percent(share.low).replace(" %", "")}, ${
            percent(share.high).replace(" %", "")
          }] find their source among ` +
          `${plural(router.sources, "source")}; fewest of ${oneLine(worst!.source)}: ${
            percent(worst!.right / worst!.passages)
          }`
    ].join("\n"))
  }).pipe(Effect.scoped)
