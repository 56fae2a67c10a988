/** `memsinks memfree`: the n-grams of protected texts as a file for `memsinks generate --memfree`. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as Source from "../data/Source.ts"
import { fingerprint } from "../data/tokens/SameTokenizer.ts"
import { readTokenizer } from "../data/tokens/Tokenize.ts"
import * as TokenShards from "../data/tokens/TokenShards.ts"
import { attempt, DataError } from "../Errors.ts"
import * as MemFree from "../measures/MemFree.ts"
import { count, plural } from "../Terminal.ts"
import type { MemfreeOptions } from "./commands/memfree.ts"
import * as Edge from "./Edge.ts"

/** Collects, writes the file, and says what is in it. */
export const runMemfree = (options: MemfreeOptions) =>
  Effect.gen(function*() {
    if (options.data.length === 0) {
      return yield* Effect.fail(Edge.usage({ message: "give --data: protected texts, or token shards" }))
    }
    const named = yield* Effect.transposeOption(Option.map(options.tokenizer, readTokenizer))
    /** Fingerprint of the tokenizer, and what is known to have it. */
    let known = Option.getOrUndefined(
      Option.map(named, (it) => ({ print: fingerprint(it.toJSON()), by: Option.getOrThrow(options.tokenizer) }))
    )
    const { falsePositives, ngram: n } = options
    const builder = yield* Effect.mapError(
      attempt(() => MemFree.bloomBuilder({ n, falsePositives }), DataError),
      ({ detail }) => Edge.usage({ message: detail.replace("falsePositives", "--false-positives") })
    )
    let documents = 0
    for (const path of options.data) {
      if (yield* TokenShards.isTokens(path)) {
        const shards = yield* Effect.acquireRelease(TokenShards.open(path), ({ close }) => Effect.sync(close))
        const print = shards.tokenizer === undefined ? known?.print : fingerprint(shards.tokenizer)
        if (print === undefined) {
          return yield* new DataError({ path,
            detail: "does not say which tokenizer made it: name it with --tokenizer" })
        }
        known ??= { print, by: path }
        if (print !== known.print) {
          return yield* new DataError({
            path,
            detail: `was made with another tokenizer than ${known.by}: a filter is of one, that of the model`
          })
        }
        yield* attempt(() => {
          for (let i = 0; i < shards.documents; i++) builder.add(shards.read(i, 0, shards.length(i)))
        }, DataError)
        documents += shards.documents
        continue
      }
      if (Option.isNone(named)) {
        return yield* new DataError({ path, detail: "is text: name the model's tokenizer.json with --tokenizer" })
      }
      yield* Stream.runForEach(
        Source.stream({ path, ...Edge.given({ textField: options.textField, onMissingText: options.onMissingText }) }),
        ({ text }) =>
          attempt(() => {
            builder.add(named.value.encode(text))
            documents++
          }, DataError)
      )
    }
    const built = yield* attempt(() => builder.build(), DataError)
    const filter = { ...built, tokenizer: known!.print }
    yield* MemFree.write(options.out, filter)
    const about = {
      file: options.out,
      documents,
      n,
      ngrams: filter.ngrams,
      bytes: MemFree.toBytes(filter).length,
      falsePositives: MemFree.falsePositiveRate(filter),
      tokenizer: filter.tokenizer
    }
    if (options.json) return yield* Edge.print(JSON.stringify(about))
    if (options.quiet) return
    yield* Edge.print(
      `${about.file}: ${count(about.ngrams)} ${n}-grams of ${plural(documents, "document")} in ${
        count(about.bytes)
      } bytes; ` +
        `${(100 * about.falsePositives).toPrecision(2)} % of others are kept from being said, too`
    )
  }).pipe(Effect.scoped)
