/** `memsinks serve`: a checkpoint behind OpenAI's completions API, until a signal, which lets it finish what it has begun. */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Runtime from "effect/Runtime"
import { createHash } from "node:crypto"
import { appendFileSync, existsSync, readFileSync, unwatchFile, watchFile } from "node:fs"
import { basename, dirname, join } from "node:path"
import { parseId } from "../Batch.ts"
import { openCheckpoint } from "../checkpoints/OpenCheckpoint.ts"
import { because, DataError } from "../Errors.ts"
import { Device } from "../gpu/Device.ts"
import { parseJson } from "../Json.ts"
import * as Decode from "../model/Decode.ts"
import type { ModelConfig } from "../model/ModelConfig.ts"
import * as Pages from "../model/Pages.ts"
import { isLoopback } from "../runs/Prometheus.ts"
import type { Served } from "../serve/Completions.ts"
import * as Engine from "../serve/Engine.ts"
import { isLarge, searchOf, searchOnDevice } from "../serve/Search.ts"
import { type Holder, serve } from "../serve/Server.ts"
import { denyList, denyMore, denyThese, type States, type Told } from "../serve/State.ts"
import { plural } from "../Terminal.ts"
import { formatBytes } from "../train/MemoryPlan.ts"
import type { ServeOptions } from "./commands/serve.ts"
import * as Edge from "./Edge.ts"
import { openSeeker } from "./routing.ts"

/** Milliseconds that what was begun has to come to its end. */
const GRACE = 30_000

/** Milliseconds between two looks at a file that may change. */
const LOOK = 500

/** The lines of a file that say something; what is behind a # is a remark. */
const linesOf = (path: string): Effect.Effect<ReadonlyArray<string>, DataError> =>
  Effect.try({
    try: () => readFileSync(path, "utf8").split(/\r?\n/).map((line) => line.replace(/(^|\s)#.*$/, "").trim()),
    catch: (cause) => new DataError({ path, detail: `cannot be read: ${because(cause)}`, cause })
  }).pipe(Effect.map((lines) => lines.filter((line) => line !== "")))

/** The lists that the server was given files of. */
const lists = ["deny", "exclude"] as const

type Files = { readonly [list in typeof lists[number]]: string | undefined }

/**
 * Reads the files of what is off into the server's list. Fails with a DataError, and leaves that as it is, for a source that
 * no model knows.
 */
const readLists = (files: Files, models: ReadonlyArray<States>) =>
  Effect.gen(function*() {
    const [deny, exclude] = yield* Effect.forEach(lists,
      (list) => files[list] === undefined ? Effect.succeed([]) : linesOf(files[list]))
    const path = lists.flatMap((list) => files[list] ?? []).join(", ")
    yield* Effect.mapError(denyThese(models, "file", { deny: deny!.map(toldOf), exclude: exclude!.map(toldOf) }),
      ({ detail }) => new DataError({ path, detail }))
  })

/** What a line of these files names: in quotation marks, as JSON has them, a name; else an id or a name. */
const toldOf = (line: string): Told => {
  const quoted = line.startsWith("\"") ? Option.getOrUndefined(Either.getRight(parseJson(line))) : undefined
  return typeof quoted === "string" ? { source: quoted } : line
}

/** The line of a source that `toldOf` reads as the same. */
const lineOf = (told: Told): string => {
  if (typeof told === "object" && "id" in told) return told.id
  const name = typeof told === "string" ? told : told.source
  const isPlain = typeof told === "string" || parseId(name) === undefined
  return isPlain && name !== "" && name === name.trim() && !/[\r\n#]|^"/.test(name)
    ? name
    : JSON.stringify(name).replaceAll("#", "\\u0023")
}

/** Adds the sources to a file of them that it does not hold. */
const append = (path: string, sources: ReadonlyArray<Told>) =>
  Effect.gen(function*() {
    const held = new Set(yield* Effect.orElseSucceed(linesOf(path), () => []))
    const lines = [...new Set(sources.map(lineOf))].filter((line) => !held.has(line))
    if (lines.length === 0) return
    yield* Effect.try({
      try: () => appendFileSync(path, `\n${lines.join("\n")}\n`),
      catch: (cause) => new DataError({ path, detail: `cannot be written: ${because(cause)}`, cause })
    })
  })

/** Of a checkpoint: the hash of its manifest, which holds those of its files; the path of what has none. */
const digestOf = (path: string): string => {
  const file = join(path, "manifest.json")
  return existsSync(file) ? createHash("sha256").update(readFileSync(file)).digest("hex") : path
}

/** `runs/a/seed-1/sinks/step-00000100`, `runs/a/step-00000100` and `runs/a/checkpoints/step-100` are called `a`. */
const nameOf = (path: string): string => {
  let folder = path
  if (/^step-\d+$/.test(basename(folder))) folder = dirname(folder)
  if (basename(folder) === "checkpoints") folder = dirname(folder)
  if (/^seed-\d+$/.test(basename(dirname(folder)))) folder = dirname(dirname(folder))
  return basename(folder) || "model"
}

/** `NAME=PATH`, or a path alone. */
const namedPath = (text: string): { readonly name?: string; readonly path: string } => {
  const [, name, path] = /^([\w.-]+)=(.+)$/.exec(text) ?? []
  return name === undefined || existsSync(text) ? { path: text } : { name, path: path! }
}

/** Pages of a model's cache: as many as fit the memory that it is given, or a buffer of the adapter. */
const pagesOf = (options: ServeOptions, config: ModelConfig, maxLength: number, buffer: number) =>
  Effect.gen(function*() {
    const each = Pages.pagesOf(maxLength)
    const bytes = Decode.pageBytes(config, options.precision)
    if (Option.isNone(options.cache)) {
      return Math.max(each, Math.min(options.parallel * each, Math.floor(buffer / bytes)))
    }
    const pages = Math.floor(options.cache.value / (config.numHiddenLayers * bytes))
    if (pages >= each) return pages
    return yield* Effect.fail(Edge.usage({
      message:
        `--cache ${formatBytes(options.cache.value)} holds ${
          plural(pages * Pages.PAGE, "token")
        }, and a sequence has up to ` +
        `${maxLength}: give it ${formatBytes(each * config.numHiddenLayers * bytes)}, or a smaller --max-length`
    }))
  })

/** Opens a checkpoint and begins to continue texts with it. */
const open = (
  options: ServeOptions,
  { name: named, path }: { readonly name?: string; readonly path: string },
  routers: ReadonlyArray<{ readonly name?: string; readonly path: string }>,
  device: Context.Context<Device>,
  say: (line: string) => Effect.Effect<void>
) =>
  Effect.gen(function*() {
    const checkpoint = yield* openCheckpoint(path, { precision: options.precision })
    const { config, ends, names, tokenizer } = checkpoint
    const name = named ?? Option.getOrElse(options.name, () => nameOf(checkpoint.path))
    for (const note of checkpoint.notes) yield* say(`note: ${name}: ${note}`)
    const context = yield* Effect.provide(Layer.build(checkpoint.layer), device)
    const maxLength = Option.getOrElse(options.maxLength, () => config.maxPositionEmbeddings)
    const { limits } = Context.get(device, Device)
    const pages = yield* pagesOf(options, config, maxLength, limits.maxStorageBufferBindingSize)
    const engine = yield* Engine.make({ slots: options.parallel, maxLength, queue: options.queue, pages }).pipe(
      Effect.provide(Context.merge(device, context))
    )
    const file = routers.find((router) => router.name === name || router.name === undefined)
    const router = file === undefined ? undefined : yield* Effect.provide(
      openSeeker(file.path, checkpoint, options,
        (router) => isLarge(router) ? searchOnDevice(router) : Effect.succeed(searchOf(router))),
      device
    )
    if (router !== undefined) yield* say(`${name}: ${plural(router.sources, "source")} to find the nearest among`)
    const denied = denyList(config.sinks, names, options.shared)
    const served: Served = {
      name,
      names,
      denied,
      router: router?.seek,
      engine,
      digest: digestOf(checkpoint.path),
      vocabSize: config.vocabSize,
      tokenizer,
      ends,
      created: Math.floor(Date.now() / 1000),
      timeout: options.timeout * 1000
    }
    return { checkpoint, served }
  })

/** Serves until it is interrupted; fails where the device does. */
export const runServe = (options: ServeOptions) =>
  Effect.scoped(Effect.gen(function*() {
    const say = (line: string) => options.quiet ? Effect.void : Effect.sync(() => Edge.complain(line))
    const keys = Option.isNone(options.apiKeyFile) ? [] : yield* linesOf(options.apiKeyFile.value)
    if (Option.isSome(options.apiKeyFile) && keys.length === 0) {
      return yield* new DataError({ path: options.apiKeyFile.value, detail: "holds no key: write one a line" })
    }
    const misused = (message: string) => Effect.fail(Edge.usage({ message }))
    if (options.port < 0 || options.port > 65_535) {
      return yield* misused(`--port is a number from 0 to 65535, got ${options.port}`)
    }
    const [checkpoints, routers] = [options.checkpoint.map(namedPath), options.router.map(namedPath)]
    if (checkpoints.length > 1 && Option.isSome(options.name)) {
      return yield* misused("--name is of one checkpoint: name several with --checkpoint NAME=FOLDER")
    }
    if (routers.length > 0 && checkpoints.length > 1 && routers.some(({ name }) => name === undefined)) {
      return yield* misused("of several checkpoints, say whose router it is: --router NAME=FILE")
    }
    const files = { deny: Option.getOrUndefined(options.deny), exclude: Option.getOrUndefined(options.exclude) }
    // who asks already is told that the models are not there yet
    const holder: Holder = { served: undefined }
    const port = yield* serve(holder, {
      host: options.host,
      port: options.port,
      keys,
      ...Edge.given({ cors: options.cors }),
      timeout: options.timeout * 1000,
      deny: (models, sources) =>
        Effect.gen(function*() {
          yield* denyMore(models, "admin", sources)
          const asked = lists.filter((list) => sources[list].length > 0)
          // the files are of all models
          const kept = models.length === holder.served!.length && asked.every((list) => files[list] !== undefined)
          if (kept) yield* Effect.forEach(asked, (list) => append(files[list]!, sources[list]))
          return kept
        })
    })
    if (keys.length === 0 && !isLoopback(options.host)) {
      yield* say("note: whoever reaches this address may ask, and deny sources to all: see --api-key-file")
    }
    const runtime = yield* Edge.runtime
    const device = yield* Layer.build(runtime.layer(Edge.given({ adapter: options.adapter })))
    const opened = yield* Effect.forEach(checkpoints, (checkpoint) => open(options, checkpoint, routers, device, say))
    const models = opened.map(({ served }) => served) as [Served, ...Array<Served>]
    const names = models.map(({ name }) => name)
    const twice = names.find((name, i) => names.indexOf(name) !== i)
    if (twice !== undefined) {
      return yield* misused(`two models are called ${twice}: name them with --checkpoint NAME=FOLDER`)
    }
    const stray = routers.find(({ name }) => name !== undefined && !names.includes(name))
    if (stray !== undefined) {
      return yield* misused(`--router ${stray.name}=${stray.path} is of no model: they are called ${names.join(", ")}`)
    }
    const failed = yield* Deferred.make<never, Effect.Effect.Error<Engine.Engine["run"]>>()
    for (const { engine } of models) {
      yield* Effect.forkScoped(Effect.onExit(engine.run, (exit) => Deferred.done(failed, exit)))
    }
    const watched = lists.flatMap((list) => files[list] ?? [])
    if (watched.length > 0) {
      yield* readLists(files, models)
      const run = Runtime.runFork(yield* Effect.runtime())
      const told = () =>
        models.map(({ denied, name }) => `${name}: ${plural(denied.size, "source")}, ${denied.version}`).join("; ")
      const again = () =>
        void run(readLists(files, models).pipe(
          Effect.matchEffect({
            onFailure: ({ message }) => {
              holder.staleSince ??= new Date()
              return Effect.logError(`the deny-list stays as it was: ${message}`)
            },
            onSuccess: () => {
              holder.staleSince = undefined
              return say(`deny-list read again: ${told()}`)
            }
          })
        ))
      for (const file of watched) {
        yield* Effect.acquireRelease(
          Effect.sync(() => watchFile(file, { interval: LOOK }, again)),
          () => Effect.sync(() => unwatchFile(file, again))
        )
      }
      yield* Edge.onReload(again)
    }
    holder.served = models
    const where = options.host.includes(":") ? `[${options.host}]` : options.host
    for (const { checkpoint: { path, step }, served: { name } } of opened) {
      yield* say(`${name}: ${path}${step === undefined ? "" : `, step ${step}`}`)
    }
    const states = models.flatMap(({ denied: { sinks }, name, router }) => [
      name,
      ...(sinks === undefined ? [] : [`${name}:off`, `${name}:own:SOURCE`, `${name}:placebo`]),
      ...(router === undefined ? [] : [`${name}:nearest`])
    ])
    yield* say(
      `${Context.get(device, Device).name}\nserving ${states.join(", ")} on http://${where}:${port}/v1 (see /docs)`
    )
    // before the scope closes: what was begun may need more memory of the device
    const finish = Effect.gen(function*() {
      const left = models.reduce((sum, { engine: { counts } }) => sum + counts.running + counts.waiting, 0)
      if (left > 0) yield* say(`finishing ${plural(left, "sequence")}`)
      yield* Effect.forEach(models, ({ engine }) => engine.drain(GRACE), { concurrency: "unbounded" })
    })
    return yield* Effect.onInterrupt(Deferred.await(failed), () => finish)
  }))
