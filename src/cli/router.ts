/** `memsinks router`: which source a text is most like, learned from the texts of all. */
import * as Effect from "effect/Effect"
import * as AtomicFile from "../AtomicFile.ts"
import { loadInitial } from "../checkpoints/Import.ts"
import { namesFile } from "../data/identity/Names.ts"
import { judgeRouter, makeRouter } from "../data/identity/Router.ts"
import { fingerprint, sameTokenizer } from "../data/tokens/SameTokenizer.ts"
import * as TokenShards from "../data/tokens/TokenShards.ts"
import { because, CheckpointError, DataError } from "../Errors.ts"
import { isDenied } from "../Sink.ts"
import { bytes, oneLine, plural } from "../Terminal.ts"
import { inTurns } from "../Turns.ts"
import type { RouterOptions } from "./commands/router.ts"
import * as Edge from "./Edge.ts"

/** Writes the router, and prints how often held-out passages find their source. */
export const runRouter = (options: RouterOptions) =>
  Effect.gen(function*() {
    const { config, names, path, tokenizer } = yield* loadInitial(options.checkpoint)
    const lacks = (detail: string) => new CheckpointError({ reason: "Missing", path, detail })
    if (names === undefined) return yield* lacks(`holds no ${namesFile}, so nobody knows which sources it has`)
    if (tokenizer === undefined) return yield* lacks("holds no tokenizer.json, by which prompts are read")
    const corpus = yield* Effect.acquireRelease(TokenShards.open(options.data), ({ close }) => Effect.sync(close))
    if (corpus.tokenizer !== undefined && !sameTokenizer(corpus.tokenizer, tokenizer)) {
      return yield* new DataError({ path: options.data, detail: "was made with another tokenizer than the model's" })
    }
    const ids = new Map<string, bigint>()
    for (const name of corpus.sources) {
      const one = yield* names.find(name)
      // of what was deleted the router would hold the words
      if (one !== undefined && !(config.sinks !== undefined && isDenied(config.sinks, one.id))) ids.set(name, one.id)
    }
    if (ids.size === 0) {
      return yield* new DataError({ path: options.data,
        detail: "holds none of the sources that the model was trained with and that were not deleted from it" })
    }
    const how = { ...Edge.given({ features: options.features }), tokenizer: fingerprint(tokenizer) }
    const idOf = (name: string) => ids.get(name)
    const router = yield* inTurns(makeRouter(corpus, idOf, how))
    const judged = yield* inTurns(judgeRouter(corpus, idOf, how))
    const parts = router.encode()
    yield* Effect.try({
      try: () => {
        const file = AtomicFile.begin(options.out)
        try {
          parts.forEach(file.write)
          file.finish()
        } finally {
          file.abandon()
        }
      },
      catch: (cause) => new DataError({ path: options.out, detail: because(cause), cause })
    })
    const size = parts.reduce((sum, part) => sum + part.length, 0)
    if (options.json) {
      return yield* Edge.print(JSON.stringify({ out: options.out, sources: router.sources, bytes: size, judged }))
    }
    const share = ({ passages, right }: { readonly passages: number; readonly right: number }) =>
      `${(100 * right / passages).toFixed(1)} %`
    yield* Edge.print([
      `${options.out}: ${plural(router.sources, "source")}, ${bytes(size)}`,
      judged.passages === 0
        ? "how often it is right is not known: no source has two documents of 64 tokens"
        : `of ${plural(judged.passages, "held-out passage")} of 64 tokens, ${share(judged)} find their source among ` +
          `${plural(judged.sources, "source")}` +
          (judged.worst === undefined ? "" : `; fewest of ${oneLine(judged.worst.source)}: ${share(judged.worst)}`)
    ].join("\n"))
  }).pipe(Effect.scoped)
