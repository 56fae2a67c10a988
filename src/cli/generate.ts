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
import { denyList, type Lit, litBy, type Sought, type States } from "../serve/State.ts"
import * as Sink from "../Sink.ts"
import { hasColor, oneLine, painter, plural, printable, stripAnsi } from "../Terminal.ts"
import type { GenerateOptions } from "./commands/generate.ts"
import * as Edge from "./Edge.ts"
import { openSeeker } from "./routing.ts"

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
  ids: ReadonlyArray<Whose | "nearest" | undefined>
): Effect.Effect<Sink.SinkMode, Edge.Usage> => {
  const named = ids.some((id) => id !== undefined)
  const asked = Option.getOrUndefined(options.sinks) ?? (named ? "own" : "off")
  if (!hasSinks && (named || asked !== "off")) {
    return wrong("the model has no sinks: leave --id, --source and --sinks out")
  }
  if (asked === "own" && ids.some((id) => id === undefined)) {
    return wrong("own sinks are those of an id: name it with --id <number or name> or --source <name>")
  }
  if (options.allow.length + options.deny.length > 0 && (asked === "all" || asked === "placebo")) {
    return wrong(`--allow and --deny say whose own sinks may be lit, and --sinks ${asked} lights those of others`)
  }
  return Effect.succeed(Sink[asked])
}

/** What `--route` asks for of prompts that do not say whose sinks they light: `nearest`, an id, or undefined for none. */
const routeOf = ({ id, route, router, source }: GenerateOptions): Effect.Effect<
  "nearest" | Whose | undefined,
  Edge.Usage
> => {
  const asked = Option.getOrElse(route, () => (Option.isSome(router) ? "nearest" : "none"))
  if (Option.isSome(route) && (Option.isSome(id) || Option.isSome(source))) {
    return wrong("--route says whose sinks are lit, and so do --id and --source: leave one out")
  }
  if (asked === "nearest" && Option.isNone(router)) {
    return wrong("--route nearest needs what finds it: name with --router a file that memsinks router made")
  }
  return Effect.succeed(asked === "nearest" ? asked : asked === "none" ? undefined : { id: asked })
}

/** A prompt in tokens, and whose sinks it lights. */
interface Lighted {
  readonly prompt: string
  readonly tokens: Uint32Array
  readonly sinks: Sink.SinkMode
  readonly id?: bigint
  readonly name?: string
  readonly lit: Lit
}

/** Whose sinks each prompt lights, by the rules of the server: what is denied never is. */
const lightAll = (
  checkpoint: OpenCheckpoint,
  options: GenerateOptions,
  prompts: ReadonlyArray<{
    readonly prompt: string
    readonly tokens: Uint32Array
    readonly whose: Whose | "nearest" | undefined
  }>,
  mode: Sink.SinkMode
) =>
  Effect.gen(function*() {
    const { config: { sinks }, names } = checkpoint
    const seeker = Option.isSome(options.router) && prompts.some(({ whose }) => whose === "nearest")
      ? yield* openSeeker(options.router.value, checkpoint, options)
      : undefined
    const states: States = { name: "the model", names, denied: denyList(sinks), router: seeker?.seek }
    const { allow, deny } = options
    const by = (route: string, some: ReadonlyArray<Sought>) =>
      litBy(states, undefined, { route, deny, ...(allow.length === 0 ? {} : { allow }) }).pipe(
        Effect.flatMap((light) => light(some)),
        Effect.mapError(({ message }) => new DataError({ detail: message }))
      )
    // all that seek at once: what finds them may be asked over a network
    const seeking = prompts.flatMap(({ prompt, tokens, whose }) =>
      whose === "nearest" ? [{ text: prompt, tokens }] : []
    )
    const found = [...(seeking.length === 0 ? [] : yield* by("nearest", seeking))]
    // names that nobody knows would silently deny nothing
    if (seeking.length === 0) yield* by("none", [])
    return yield* Effect.forEach(prompts, ({ prompt, tokens, whose }) =>
      Effect.gen(function*() {
        const none: Lighted = { prompt, tokens, sinks: mode.mode === "own" ? Sink.off : mode,
          lit: { state: "off", sinks: Sink.off, id: 0n } }
        if (whose === undefined) return none
        let lit: Lit
        if (whose === "nearest") {
          lit = found.shift()!
          if (lit.state !== "own") return { ...none, sinks: mode.mode === "all" ? mode : Sink.off }
        } else {
          const one = yield* resolveWhose(whose, names)
          const { id, name } = one
          if (mode.mode !== "own") return { ...none, id, ...(name === undefined ? {} : { name }) }
          if (Sink.isDenied(sinks!, id)) return yield* deleted(one)
          lit = (yield* by(`${id}`, [{ tokens }]))[0]!
        }
        const { id, source } = lit
        return { prompt, tokens, sinks: mode.mode === "own" ? lit.sinks : mode, id,
          ...(source === undefined || source === `${id}` ? {} : { name: source }), lit } satisfies Lighted
      }))
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

/** `sinks own of Psalms`, `sinks off`: what is lit. */
const litAs = (mode: Sink.SinkMode, asked: ReadonlyArray<Lighted>): string => {
  if (mode.mode === "off" || mode.mode === "all") return `sinks ${mode.mode}`
  const whose = new Set(asked.map(({ id, name }) => name ?? id))
  const dark = asked.filter(({ sinks }) => sinks.mode === "off").length
  if (dark === asked.length) return "sinks off"
  whose.delete(undefined)
  const [one] = whose
  if (one === undefined) return `sinks ${mode.mode}`
  return `sinks ${mode.mode} of ${whose.size === 1 ? oneLine(`${one}`) : plural(whose.size, "source")}` +
    (dark === 0 ? "" : `, off for ${plural(dark, "prompt")}`)
}

/** Generates, and prints texts, or with --json one object, on stdout. */
export const runGenerate = (options: GenerateOptions) =>
  Effect.gen(function*() {
    const given = yield* ownId(options)
    const route = yield* routeOf(options)
    const written = (yield* promptsOf(options)).map(({ prompt, whose }) => ({
      prompt,
      whose: whose ?? given ?? route
    }))
    const checkpoint = yield* openCheckpoint(options.checkpoint, { precision: options.precision })
    const { config, ends, names, tokenizer } = checkpoint
    const mode = yield* modeOf(options, config.sinks !== undefined, written.map(({ whose }) => whose))
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
    const asked = yield* lightAll(checkpoint, options, written.map(({ prompt, whose }) => ({
      prompt,
      whose,
      // what the tokenizer puts before a text, as the model was trained with
      tokens: Uint32Array.from([
        ...(ends.addBos ? [ends.bos!] : []),
        ...tokenizer.encode(prompt, { specialAsText: options.specialAsText })
      ])
    })), mode)
    const routed = Option.isSome(options.route) || Option.isSome(options.router) || options.allow.length > 0 ||
      options.deny.length > 0
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
          `${config.sinks === undefined ? "" : `${litAs(mode, asked)}; `}${device.name}`
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
      const results = asked.map(({ id, lit: { similarity = null, source = null }, name, prompt, sinks }) => ({
        prompt,
        ...(id === undefined ? {} : { id: `${id}` }),
        ...(name === undefined ? {} : { name }),
        ...(routed ? { lit: { state: sinks.mode, source, similarity } } : {}),
        text: "",
        tokens: [] as Array<number>,
        ...(options.logProbs ? { logProbs: [] as Array<number> } : {}),
        finish: "" as Generate.Finish | ""
      }))
      const began = performance.now()
      // prompts whose sinks are off beside those with sinks of their own
      for (const sinks of new Set(asked.map(({ sinks }) => sinks))) {
        const places = asked.flatMap((one, i) => one.sinks === sinks ? [i] : [])
        const prompts = places.map((i) => {
          const { id, tokens } = asked[i]!
          return { tokens, ...(id === undefined ? {} : { id }) }
        })
        yield* Generate.generate(prompts, {
          maxNewTokens: options.maxNewTokens,
          temperature: options.temperature,
          topP: options.topP,
          ...Edge.given({ topK: options.topK }),
          seed: options.seed,
          sinks,
          ...memFree,
          stop: options.stop.map(unescape),
          stopTokens: ends.eos,
          tokenizer,
          logProbs: options.logProbs,
          batchSize: options.batch
        }).pipe(Stream.runForEach((one) =>
          Effect.sync(() => {
            const prompt = places[one.prompt]!
            const result = results[prompt]!
            result.text += one.text
            result.tokens.push(one.token)
            if (one.logProb !== undefined) result.logProbs?.push(one.logProb)
            result.finish = one.finish ?? ""
            show({ ...one, prompt, ...(process.stdout.isTTY === true ? { text: plain(one.text) } : {}) })
          })
        ))
      }
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
          router: Option.getOrUndefined(options.router),
          results,
          seconds,
          tokensPerSecond: count / seconds
        }))
      }
      yield* say(`${count} tokens in ${seconds.toFixed(1)} s, ${(count / seconds).toFixed(1)} tokens/s`)
    }).pipe(Effect.provide(checkpoint.layer), Effect.provide(runtime.layer(Edge.given({ adapter: options.adapter }))))
  })
