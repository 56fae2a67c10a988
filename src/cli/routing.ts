/** Opening what `memsinks router` made. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { readFileSync } from "node:fs"
import type { OpenCheckpoint } from "../checkpoints/OpenCheckpoint.ts"
import { readRouter, type Router } from "../data/identity/Router.ts"
import { fingerprint } from "../data/tokens/SameTokenizer.ts"
import { because, DataError } from "../Errors.ts"
import { type Embed, embedder } from "../serve/Embeddings.ts"
import { type Search, searchOf } from "../serve/Search.ts"
import { type Seeker, seekerOf, vectorSeekerOf } from "../serve/State.ts"
import * as Edge from "./Edge.ts"

/** The options that say who gives vectors. */
export interface EmbeddingOptions {
  readonly embeddingsUrl: Option.Option<string>
  readonly embeddingsModel: Option.Option<string>
  readonly embeddingsKeyFile: Option.Option<string>
}

/** The server that gives vectors, if one is named. */
export const embedOf = (options: EmbeddingOptions): Effect.Effect<Embed | undefined, DataError | Edge.Usage> =>
  Effect.gen(function*() {
    const { embeddingsKeyFile, embeddingsModel, embeddingsUrl } = options
    if (Option.isNone(embeddingsUrl)) {
      const [name] = Object.entries({ model: embeddingsModel, "key-file": embeddingsKeyFile })
        .find(([, value]) => Option.isSome(value)) ?? []
      if (name === undefined) return undefined
      return yield* Effect.fail(Edge.usage({ message: `--embeddings-${name} is for --embeddings-url` }))
    }
    const url = embeddingsUrl.value
    if (!/^https?:$/.test(URL.canParse(url) ? new URL(url).protocol : "")) {
      const message = `--embeddings-url is an address such as http://127.0.0.1:8080/v1/embeddings, got ${url}`
      return yield* Effect.fail(Edge.usage({ message }))
    }
    const key = yield* Effect.transposeOption(Option.map(embeddingsKeyFile, (path) =>
      Effect.try({
        try: () => readFileSync(path, "utf8").trim(),
        catch: (cause) => new DataError({ path, detail: `cannot be read: ${because(cause)}`, cause })
      }).pipe(Effect.filterOrFail(
        (key) => /^[\x21-\x7e]+$/.test(key),
        () => new DataError({ path, detail: "holds no key: expected one line without spaces" })
      ))))
    return embedder({ url, ...Edge.given({ model: embeddingsModel, key }) })
  })

/** The options by which `generate` and `serve` seek. */
export interface SeekOptions extends EmbeddingOptions {
  readonly least: number
}

/**
 * What finds the source that a prompt is most like, by a router's file, and among how many; `searching` compares it with all
 * of them, by default the host.
 */
export const openSeeker = <E = never, R = never>(
  file: string,
  { names, path, tokenizer }: OpenCheckpoint,
  options: SeekOptions,
  searching: (router: Router) => Effect.Effect<Search, E, R> = (router) => Effect.succeed(searchOf(router))
): Effect.Effect<{ readonly sources: number; readonly seek: Seeker }, DataError | Edge.Usage | E, R> =>
  Effect.gen(function*() {
    const router = yield* readRouter(file)
    const embed = yield* embedOf(options)
    const called = new Map<bigint, string>()
    yield* names?.each(({ id, name }) => void called.set(id, name)) ?? Effect.void
    const nameOf = (id: bigint) => called.get(id) ?? `${id}`
    const { sources } = router
    const wrong = (detail: string) => new DataError({ path: file, detail })
    if (router.kind === "vectors") {
      if (embed === undefined) {
        return yield* wrong("holds vectors: name with --embeddings-url who gives those of prompts")
      }
      const textOf = (tokens: ArrayLike<number>) => tokenizer?.decode(Array.from(tokens)) ?? ""
      return { sources,
        seek: vectorSeekerOf(yield* searching(router), router.width, embed, textOf, nameOf, options.least) }
    }
    if (embed !== undefined) return yield* wrong("compares words: leave --embeddings-url out")
    if (tokenizer === undefined || router.tokenizer !== fingerprint(tokenizer.toJSON())) {
      return yield* wrong(`was made with another tokenizer than that of ${path}`)
    }
    return { sources, seek: seekerOf(yield* searching(router), nameOf, options.least) }
  })
