/** `memsinks tokenize`: text to token shards, once, and what their ids would be. */
import * as FileSystem from "@effect/platform/FileSystem"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as Option from "effect/Option"
import { join } from "node:path"
import process from "node:process"
import { takenBack } from "../BegunFolder.ts"
import { type Identity, sourceHash } from "../data/identity/Identity.ts"
import { encodeRouter, makeRouter, routerFile, writeRouter } from "../data/identity/Router.ts"
import { missingTexts } from "../data/Source.ts"
import { missing } from "../data/source/Files.ts"
import { isHub } from "../data/source/Hub.ts"
import { formatIdentityReport, identityReport } from "../data/stream/IdentityReport.ts"
import { fingerprint } from "../data/tokens/SameTokenizer.ts"
import { readTokenizer, type Speed, tokenize, type TokenizeEvent, type TokenizeInput,
  type TokenizeReport } from "../data/tokens/Tokenize.ts"
import * as Tokenizer from "../data/tokens/Tokenizer.ts"
import * as TokenShards from "../data/tokens/TokenShards.ts"
import { attempt, because, DataError } from "../Errors.ts"
import * as RunLock from "../runs/RunLock.ts"
import { count, isInteractive, plural, printable, truncate } from "../Terminal.ts"
import { clock } from "../terminal/Progress.ts"
import { inTurns } from "../Turns.ts"
import type { TokenizeOptions } from "./commands/tokenize.ts"
import * as Edge from "./Edge.ts"

const configOf = (options: TokenizeOptions): Effect.Effect<TokenizeInput, DataError> =>
  Effect.gen(function*() {
    const { idField, licenceField, onMissingText, ownerField, sourceField, split, textField } = options
    const [first, ...more] = options.data.map((path) => ({
      path,
      ...Edge.given({ textField, idField, sourceField, ownerField, licenceField, onMissingText,
        maxDocumentBytes: options.maxDocument, split })
    }))
    if (first === undefined) {
      const detail = "give --data: a text, JSONL or Parquet file, a folder of them, or hf://datasets/..."
      return yield* new DataError({ detail })
    }
    if (Option.isSome(options.vocabSize) && Option.getOrElse(options.tokenizer, () => "gpt2") !== "bpe") {
      return yield* new DataError({ detail: "--vocab-size is for --tokenizer bpe: any other has the size it has" })
    }
    if (Option.isSome(options.shingle) && Option.isNone(options.near)) {
      return yield* new DataError({ detail: "--shingle says how near-duplicates are found: give --near, too" })
    }
    return {
      data: [first, ...more] as const,
      ...Edge.given({ tokenizer: options.tokenizer, vocabSize: options.vocabSize, bos: options.bos, eos: options.eos }),
      ...(options.specialAsText ? { specialAsText: true } : {}),
      ...(Option.isSome(options.near)
        ? { near: { threshold: options.near.value, ...Edge.given({ shingle: options.shingle }) } }
        : {}),
      ...(Option.isSome(options.shardSize) ? options.shardSize.value : {})
    }
  })

const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 2 : 1)} MB`

const speedOf = ({ bytesPerSecond, tokensPerSecond }: Speed): string =>
  `${megabytes(bytesPerSecond)}/s  ${count(tokensPerSecond)} tokens/s`

/** Least time between two lines of progress, ms. */
const interval = { interactive: 100, plain: 2000 }

/** Shows how far it is: one line that is rewritten on a terminal, plain lines elsewhere. */
const progress = (quiet: boolean) => {
  const output = process.stderr
  const interactive = isInteractive(output, process.env)
  let drawn = false
  let shown = -Infinity
  let began: number | undefined
  const clear = () => {
    if (drawn) output.write("\r\u001b[K")
    drawn = false
  }
  const stay = (line: string) => {
    clear()
    output.write(`${printable(line, false)}\n`)
  }
  const pass = (line: string) => {
    const now = performance.now()
    if (now - shown < (interactive ? interval.interactive : interval.plain)) return
    shown = now
    if (!interactive) return stay(line)
    clear()
    output.write(truncate(printable(line, false), (output.columns || 80) - 1))
    drawn = true
  }
  const training = (entries: number, vocabSize: number) => {
    const now = performance.now()
    if (entries === 0) {
      began = now
      return stay(`training a tokenizer of ${count(vocabSize)} entries`)
    }
    const done = entries / vocabSize
    const left = clock((now - (began ??= now)) / 1000 * (1 - done) / done)
    const bar = interactive ? `[${"=".repeat(Math.round(24 * done)).padEnd(24, "-")}] ` : ""
    const percent = String(Math.floor(100 * done)).padStart(3)
    pass(`${bar}${percent} %  ${count(entries)} of ${count(vocabSize)} entries  ${left} left`)
  }
  const show = (event: TokenizeEvent) => {
    switch (event._tag) {
      case "Training":
        return training(event.entries, event.vocabSize)
      case "Resumed":
        return stay(
          `going on behind ${count(event.shards)} finished shards: their ${count(event.documents)} documents are ` +
            "read again, not tokenized"
        )
      case "Progress":
        return pass(`${plural(event.documents, "document")}  ${count(event.tokens)} tokens  ${speedOf(event)}`)
      case "Shard":
        return stay(`${event.file}: ${plural(event.documents, "document")}, ${count(event.tokens)} tokens`)
      case "Clustering":
        return stay(`looking for near-duplicates among ${plural(event.documents, "document")}`)
    }
  }
  return { show: quiet ? () => {} : show, clear, stay, say: (line: string) => quiet ? clear() : stay(line) }
}

/** Tokens of which the beginning of a text is shown. */
const BEGINNING = 60

/** Writes which source a text is most like; tells how large that is, and what it took. */
const routerOf = (folder: string) =>
  Effect.gen(function*() {
    const began = performance.now()
    const shards = yield* Effect.acquireRelease(TokenShards.open(folder), ({ close }) => Effect.sync(close))
    const router = yield* inTurns(makeRouter(shards, sourceHash, { tokenizer: fingerprint(shards.tokenizer!) }))
    const path = join(folder, routerFile)
    yield* writeRouter(path, router)
    const bytes = encodeRouter(router).reduce((sum, part) => sum + part.length, 0)
    return { path, sources: router.sources, bytes, seconds: (performance.now() - began) / 1000 }
  }).pipe(Effect.scoped)

const identityOf = (folder: string) =>
  Effect.gen(function*() {
    const shards = yield* TokenShards.open(folder)
    const tokenizer = yield* Tokenizer.fromJSON(shards.tokenizer!)
    const { bos, eos } = shards.dataset!
    const beginning = (document: number): string =>
      tokenizer.decode(
        shards.read(document, 0, Math.min(BEGINNING, shards.length(document))).filter((id) => id !== bos && id !== eos)
      )
    const identity: Identity = shards.near === undefined ? "content" : "near"
    return yield* attempt(() => identityReport(shards, { identity, text: beginning }), DataError).pipe(
      Effect.ensuring(Effect.sync(shards.close))
    )
  })

/** `asked`: entries that a trained tokenizer was to have. */
export const summary = (
  { blanks, bytes, dataset, documents, missing, tokens, tokensPerByte }: TokenizeReport,
  asked: number | undefined
): string =>
  [
    `${plural(documents, "document")} of ${plural(dataset.sources.length, "source")}, ${megabytes(bytes)} of text` +
    (blanks === 0 ? "" : `, ${count(blanks)} blank ones left out`) +
    (missing === 0 ? "" : `, ${missingTexts(missing)}`),
    `${count(tokens)} tokens, ${tokensPerByte.toFixed(3)} a byte, of a vocabulary of ${count(dataset.vocabSize)}` +
    (asked === undefined || dataset.vocabSize >= asked
      ? ""
      : ` (of ${count(asked)} asked for: this text has no more to merge)`)
  ].join("\n")

/** Tokenizes, and prints the report. */
export const runTokenize = (options: TokenizeOptions) =>
  Effect.gen(function*() {
    const config = yield* Effect.mapError(configOf(options), Edge.usage)
    const { out } = options
    const fs = yield* FileSystem.FileSystem
    // a folder is made only for what is there
    const named = ["gpt2", "bpe", "bytes"].includes(config.tokenizer ?? "gpt2") ? [] : [config.tokenizer!]
    for (const path of [...config.data.map(({ path }) => path), ...named]) {
      if (!isHub(path)) yield* Effect.mapError(fs.stat(path), missing(path))
    }
    yield* Effect.forEach(named, readTokenizer)
    yield* takenBack(out)
    yield* Effect.mapError(fs.makeDirectory(out, { recursive: true }),
      (cause) => new DataError({ path: out, detail: `cannot be made: ${because(cause)}`, cause }))
    yield* RunLock.hold(out)
    const shown = yield* Effect.acquireRelease(
      Effect.sync(() => progress(options.quiet)),
      ({ clear }) => Effect.sync(clear)
    )
    // A warning goes above the line of progress.
    const logger = Logger.make<unknown, void>((line) => shown.stay(Edge.logLine(line)))
    const report = yield* tokenize(config, { out, onEvent: shown.show, ...Edge.given({ workers: options.workers }) })
      .pipe(
        Effect.provide(Logger.replace(Edge.logger, logger))
      )
    const { dataset, speed, ...told } = report
    shown.say(speed === undefined ? "all of it was tokenized before" : `${clock(speed.seconds)}  ${speedOf(speed)}`)
    const identity = yield* identityOf(out)
    const router = options.router ? yield* routerOf(out) : undefined
    if (router !== undefined) {
      shown.say(
        `${router.path}: ${plural(router.sources, "source")}, ${megabytes(router.bytes)}, ${clock(router.seconds)}`
      )
    }
    if (options.json) {
      // sources may be as many as documents; the file has them, and checksums
      const { sha256: _, sources, ...about } = dataset
      const json = { ...told, speed: speed ?? null, dataset: { ...about, sources: sources.length } }
      yield* Edge.print(
        JSON.stringify({ ...json, identity: identity ?? null, ...(router === undefined ? {} : { router }) })
      )
    } else {
      yield* Edge.print(
        [summary(report, config.vocabSize), ...(identity === undefined ? [] : ["", formatIdentityReport(identity)])]
          .join("\n")
      )
      yield* Edge.print(`\nshards: ${out}; more on ids and sinks: memsinks identity --data ${out}`)
    }
  }).pipe(Effect.scoped)
