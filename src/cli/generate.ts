/** `memsinks generate`: texts from a checkpoint, on stdout as they come, with the sinks of any id. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import process from "node:process"
import { type OpenCheckpoint, openCheckpoint } from "../checkpoints/OpenCheckpoint.ts"
import * as Corpus from "../data/Corpus.ts"
import { deleted } from "../data/identity/Names.ts"
import { resolveWhose, type Whose, whoseOf } from "../data/identity/Whose.ts"
import { fingerprint } from "../data/tokens/SameTokenizer.ts"
import { CheckpointError, DataError } from "../Errors.ts"
import { Device } from "../gpu/Device.ts"
import { isObject, parseJson } from "../Json.ts"
import * as MemFree from "../measures/MemFree.ts"
import * as Generate from "../model/Generate.ts"
import * as Sink from "../Sink.ts"
import { hasColor, oneLine, painter, printable, stripAnsi } from "../Terminal.ts"
import type { GenerateOptions } from "./commands/generate.ts"
import * as Edge from "./Edge.ts"
import { openRouter } from "./routing.ts"

/** A text to continue, and whose sinks it asks for. */
interface Asked {
  readonly prompt: string
  readonly whose: Whose | undefined
}

const wrong = (message: string): Effect.Effect<never, Edge.Usage> => Effect.fail(Edge.usage({ message }))

/** `\n`, `\t` and `\\` as they are meant: a shell hands them on as they are written. */
const unescape = (text: string): string =>
  text.replace(/\\([nt\\])/g, (_, letter: string) => (letter === "n" ? "\n" : letter === "t" ? "\t" : "\\"))

/** One line of a .jsonl file of prompts: a text, or `{"prompt": ..., "id": ... | "source": ...}`. */
const parseLine = (path: string, line: string, number: number): Effect.Effect<Asked, DataError> =>
  Effect.mapError(
    Effect.gen(function*() {
      const value = yield* parseJson(line)
      if (typeof value === "string") return { prompt: value, whose: undefined }
      const fields = isObject(value) ? value : {}
      if (typeof fields.prompt !== "string") return yield* Effect.fail("has no field prompt with a text")
      return { prompt: fields.prompt, whose: yield* whoseOf(fields) }
    }),
    (detail) => new DataError({ path, detail: `line ${number} is no prompt: it ${detail}` })
  )

/** The prompts of the command line, and those of the file: a line each. */
const promptsOf = (options: GenerateOptions) =>
  Effect.gen(function*() {
    const asked: Array<Asked> = options.prompt.map((prompt) => ({ prompt: unescape(prompt), whose: undefined }))
    if (Option.isSome(options.prompts)) {
      const path = options.prompts.value
      const lines = (yield* Corpus.readText(path)).split(/\r?\n/).map((line, i) => [line, i + 1] as const)
      for (const [line, number] of lines) {
        if (line.trim() === "") continue
        const plain = { prompt: unescape(line), whose: undefined }
        asked.push(/\.(jsonl|ndjson)$/.test(path) ? yield* parseLine(path, line, number) : plain)
      }
      if (asked.length === 0) return yield* new DataError({ path, detail: "holds no prompt: write one a line" })
    }
    if (asked.length === 0) return yield* wrong("give a text to continue: --prompt <text>, or --prompts <file>")
    return asked
  })

/** The id of the command line, if it names one. */
const ownId = (options: GenerateOptions): Effect.Effect<Whose | undefined, Edge.Usage> => {
  if (Option.isSome(options.id) && Option.isSome(options.source)) {
    return wrong("--id and --source name an id each: leave one out")
  }
  if (Option.isSome(options.source)) return Effect.succeed({ source: options.source.value })
  return Effect.succeed(Option.isNone(options.id) ? undefined : { id: options.id.value })
}

/** Which sinks are on: what was asked for, else those of the ids that were named, else none. */
const modeOf = (
  options: GenerateOptions,
  hasSinks: boolean,
  ids: ReadonlyArray<Whose | undefined>
): Effect.Effect<Sink.SinkMode, Edge.Usage> => {
  const named = ids.some((id) => id !== undefined)
  const asked = Option.getOrUndefined(options.sinks) ?? (named ? "own" : "off")
  if (!hasSinks && (named || asked !== "off")) {
    return wrong("the model has no sinks: leave --id, --source and --sinks out")
  }
  if (asked === "own" && ids.some((id) => id === undefined)) {
    return wrong("own sinks are those of an id: name it with --id <number or name> or --source <name>")
  }
  return Effect.succeed(Sink[asked])
}

/** The source that a prompt is most like, of those that were not deleted. */
const routeOf = (file: string, checkpoint: OpenCheckpoint, { specialAsText }: GenerateOptions) =>
  Effect.gen(function*() {
    const { config, names, tokenizer } = checkpoint
    const router = yield* openRouter(file, checkpoint)
    return (prompt: string) =>
      Effect.gen(function*() {
        const found = router.nearest(tokenizer!.encode(prompt, { specialAsText }), {
          denied: (id) => config.sinks !== undefined && Sink.isDenied(config.sinks, id)
        })
        if (found === undefined) {
          const detail = `no source shares anything with ${
            JSON.stringify(prompt)
          }: name one with --source, or leave --router out`
          return yield* new DataError({ detail })
        }
        const name = names === undefined ? undefined : (yield* names.get(found.id))?.name
        return { id: found.id, ...(name === undefined ? {} : { name }) }
      })
  })

/** Writes texts one behind the other, in their order, each as it comes as soon as it is its turn. */
const inOrder = (count: number, write: (text: string) => void, title: (prompt: number) => string) => {
  const waiting = Array.from({ length: count }, () => "")
  const done = new Set<number>()
  let turn = 0
  write(title(0))
  return ({ finish, prompt, text }: Generate.Generated): void => {
    waiting[prompt] += text
    if (finish !== undefined) done.add(prompt)
    while (turn < count) {
      write(waiting[turn]!)
      waiting[turn] = ""
      if (!done.has(turn)) return
      write("\n")
      if (++turn < count) write(title(turn))
    }
  }
}

/** ` of Psalms`, where all prompts are of one id. */
const ofWhom = (
  asked: ReadonlyArray<{ readonly id: bigint | undefined; readonly name: string | undefined }>
): string => {
  const whose = new Set(asked.map(({ id, name }) => name ?? id))
  const [one] = whose
  return whose.size !== 1 || one === undefined ? "" : ` of ${oneLine(`${one}`)}`
}

/** Generates, and prints texts, or with --json one object, on stdout. */
export const runGenerate = (options: GenerateOptions) =>
  Effect.gen(function*() {
    const given = yield* ownId(options)
    const written = (yield* promptsOf(options)).map(({ prompt, whose }) => ({ prompt, whose: whose ?? given }))
    const checkpoint = yield* openCheckpoint(options.checkpoint, { precision: options.precision })
    const { config, ends, names, tokenizer } = checkpoint
    const route = Option.isNone(options.router) ? undefined : yield* routeOf(options.router.value, checkpoint, options)
    const asksFor = written.map(({ whose }) => whose ?? (route === undefined ? undefined : { source: "" }))
    const mode = yield* modeOf(options, config.sinks !== undefined, asksFor)
    const asked = yield* Effect.forEach(written, ({ prompt, whose }) =>
      Effect.gen(function*() {
        const one = whose !== undefined
          ? yield* resolveWhose(whose, names)
          : route === undefined
          ? undefined
          : yield* route(prompt)
        if (one !== undefined && config.sinks !== undefined && Sink.isDenied(config.sinks, one.id) &&
          mode.mode === "own")
        {
          return yield* deleted(one)
        }
        return { prompt, id: one?.id, name: one?.name }
      }))
    if (tokenizer === undefined) {
      return yield* new CheckpointError({
        reason: "Missing",
        path: checkpoint.path,
        detail: "holds no tokenizer.json, and a prompt needs one: put that which it was trained with beside config.json"
      })
    }
    const memFree = Option.isNone(options.memfree)
      ? {}
      : { memFree: yield* MemFree.read(options.memfree.value, fingerprint(tokenizer.toJSON())) }
    const prompts = asked.map(({ id, prompt }) => ({
      // what the tokenizer puts before a text, as the model was trained with
      tokens: Uint32Array.from([
        ...(ends.addBos ? [ends.bos!] : []),
        ...tokenizer.encode(prompt, { specialAsText: options.specialAsText })
      ]),
      ...(id === undefined ? {} : { id })
    }))
    const runtime = yield* Edge.runtime
    const say = (line: string) => options.quiet ? Effect.void : Effect.sync(() => Edge.complain(line))

    yield* Effect.gen(function*() {
      const device = yield* Device
      for (const note of checkpoint.notes) yield* say(`note: ${note}`)
      if (names === undefined && config.sinks !== undefined && asked.some(({ id }) => id !== undefined)) {
        yield* say(
          "note: the checkpoint does not list the ids it was trained with: sinks of one that it never saw are noise"
        )
      }
      yield* say(
        `${checkpoint.path}${checkpoint.step === undefined ? "" : `, step ${checkpoint.step}`}; ` +
          `${config.sinks === undefined ? "" : `sinks ${mode.mode}${ofWhom(asked)}; `}${device.name}`
      )
      const paint = painter(hasColor(process.stdout, process.env))
      // what a model says must not steer somebody's terminal
      const plain = (text: string) => printable(stripAnsi(text))
      const write = (text: string) => void process.stdout.write(text)
      // a single prompt is known to whoever gave it: only a person at a terminal reads on from it
      const shown = asked.length > 1 || process.stdout.isTTY === true
      const show = options.json
        ? () => {}
        : inOrder(asked.length, write, (i) => shown ? paint("dim", asked[i]!.prompt) : "")
      const results = asked.map(({ id, name, prompt }) => ({
        prompt,
        ...(id === undefined ? {} : { id: `${id}` }),
        ...(name === undefined ? {} : { name }),
        text: "",
        tokens: [] as Array<number>,
        ...(options.logProbs ? { logProbs: [] as Array<number> } : {}),
        finish: "" as Generate.Finish | ""
      }))
      const began = performance.now()
      yield* Generate.generate(prompts, {
        maxNewTokens: options.maxNewTokens,
        temperature: options.temperature,
        topP: options.topP,
        ...Edge.given({ topK: options.topK }),
        seed: options.seed,
        sinks: mode,
        ...memFree,
        stop: options.stop.map(unescape),
        stopTokens: ends.eos,
        tokenizer,
        logProbs: options.logProbs,
        batchSize: options.batch
      }).pipe(Stream.runForEach((one) =>
        Effect.sync(() => {
          const result = results[one.prompt]!
          result.text += one.text
          result.tokens.push(one.token)
          if (one.logProb !== undefined) result.logProbs?.push(one.logProb)
          result.finish = one.finish ?? ""
          show(process.stdout.isTTY === true ? { ...one, text: plain(one.text) } : one)
        })
      ))
      const seconds = (performance.now() - began) / 1000
      const count = results.reduce((sum, { tokens }) => sum + tokens.length, 0)
      if (options.json) {
        const { path, step } = checkpoint
        yield* Edge.print(JSON.stringify({
          checkpoint: path,
          step,
          adapter: device.name,
          sinks: config.sinks === undefined ? undefined : mode.mode,
          seed: options.seed,
          memfree: Option.getOrUndefined(options.memfree),
          results,
          seconds,
          tokensPerSecond: count / seconds
        }))
      }
      yield* say(`${count} tokens in ${seconds.toFixed(1)} s, ${(count / seconds).toFixed(1)} tokens/s`)
    }).pipe(Effect.provide(checkpoint.layer), Effect.provide(runtime.layer(Edge.given({ adapter: options.adapter }))))
  })
