/** `memsinks serve`: a checkpoint behind OpenAI's completions API, until a signal, which lets it finish what it has begun. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Runtime from "effect/Runtime"
import { createHash } from "node:crypto"
import { appendFileSync, existsSync, readFileSync, unwatchFile, watchFile } from "node:fs"
import { basename, dirname, join } from "node:path"
import { openCheckpoint } from "../checkpoints/OpenCheckpoint.ts"
import { because, DataError, type DeviceError } from "../Errors.ts"
import { Device } from "../gpu/Device.ts"
import { isLoopback } from "../runs/Prometheus.ts"
import * as Engine from "../serve/Engine.ts"
import { type Holder, serve } from "../serve/Server.ts"
import { deniedIds, denyList, denyMore, type States } from "../serve/State.ts"
import { plural } from "../Terminal.ts"
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

/** Reads a deny-list into the server's. Fails with a DataError, and leaves that as it is, for a source that is not known. */
const readDenied = (path: string, states: States) =>
  Effect.gen(function*() {
    const ids = yield* Effect.mapError(deniedIds(states, yield* linesOf(path)),
      ({ detail }) => new DataError({ path, detail }))
    states.denied.set("file", ids)
  })

/** Of a checkpoint: the hash of its manifest, which holds those of its files; the path of what has none. */
const digestOf = (path: string): string => {
  const file = join(path, "manifest.json")
  return existsSync(file) ? createHash("sha256").update(readFileSync(file)).digest("hex") : path
}

/** `runs/a/checkpoints/step-100` is called `a`. */
const nameOf = (path: string): string => {
  const folders = [path, dirname(path), dirname(dirname(path))].map((folder) => basename(folder))
  return (folders[1] === "checkpoints" ? folders[2] : folders[0]) || "model"
}

/** Serves until it is interrupted; fails where the device does. */
export const runServe = (options: ServeOptions) =>
  Effect.scoped(Effect.gen(function*() {
    const say = (line: string) => options.quiet ? Effect.void : Effect.sync(() => Edge.complain(line))
    const keys = Option.isNone(options.apiKeyFile) ? [] : yield* linesOf(options.apiKeyFile.value)
    if (Option.isSome(options.apiKeyFile) && keys.length === 0) {
      return yield* new DataError({ path: options.apiKeyFile.value, detail: "holds no key: write one a line" })
    }
    if (options.port < 0 || options.port > 65_535) {
      return yield* Effect.fail(Edge.usage({ message: `--port is a number from 0 to 65535, got ${options.port}` }))
    }
    const file = Option.getOrUndefined(options.deny)
    // who asks already is told that the model is not there yet
    const holder: Holder = { served: undefined }
    const port = yield* serve(holder, {
      host: options.host,
      port: options.port,
      keys,
      ...Edge.given({ cors: options.cors }),
      timeout: options.timeout * 1000,
      ...(file === undefined ? {} : {
        deny: (sources) =>
          Effect.gen(function*() {
            const wide = sources.find((one) => /[\r\n#]/.test(one))
            if (wide !== undefined) {
              return yield* new DataError({
                path: file,
                detail: `a line cannot hold ${JSON.stringify(wide)}: give its id`
              })
            }
            yield* denyMore(holder.served!, "admin", sources)
            yield* Effect.try({
              try: () => appendFileSync(file, `\n${sources.join("\n")}\n`),
              catch: (cause) => new DataError({ path: file, detail: `cannot be written: ${because(cause)}`, cause })
            })
            return true
          })
      })
    })
    const checkpoint = yield* openCheckpoint(options.checkpoint, { precision: options.precision })
    const { config, ends, names, tokenizer } = checkpoint
    if (keys.length === 0 && !isLoopback(options.host)) {
      yield* say("note: whoever reaches this address may ask, and deny sources to all: see --api-key-file")
    }
    for (const note of checkpoint.notes) yield* say(`note: ${note}`)
    const name = Option.getOrElse(options.name, () => nameOf(checkpoint.path))
    const runtime = yield* Edge.runtime
    const device = runtime.layer(Edge.given({ adapter: options.adapter }))
    const context = yield* Layer.build(Layer.provideMerge(checkpoint.layer, device))
    const maxLength = Option.getOrElse(options.maxLength, () => config.maxPositionEmbeddings)
    const engine = yield* Effect.provide(
      Engine.make({ slots: options.parallel, maxLength, queue: options.queue }),
      context
    )
    const failed = yield* Deferred.make<never, Effect.Effect.Error<typeof engine.run> | DeviceError>()
    yield* Effect.forkScoped(Effect.onExit(engine.run, (exit) => Deferred.done(failed, exit)))
    const router = Option.isNone(options.router)
      ? undefined
      : yield* openSeeker(options.router.value, checkpoint, options)
    if (router !== undefined) yield* say(`${plural(router.sources, "source")} to find the nearest among`)
    const states = { name, sinks: config.sinks, names, denied: denyList(config.sinks), router: router?.seek }
    if (file !== undefined) {
      yield* readDenied(file, states)
      const run = Runtime.runFork(yield* Effect.runtime())
      const again = () =>
        void run(readDenied(file, states).pipe(
          Effect.matchEffect({
            onFailure: ({ message }) => Effect.logError(`the deny-list stays as it was: ${message}`),
            onSuccess: () =>
              say(`deny-list read again: ${plural(states.denied.size, "source")}, ${states.denied.version}`)
          })
        ))
      yield* Effect.acquireRelease(
        Effect.sync(() => watchFile(file, { interval: LOOK }, again)),
        () => Effect.sync(() => unwatchFile(file, again))
      )
      yield* Edge.onReload(again)
    }
    holder.served = {
      ...states,
      engine,
      digest: digestOf(checkpoint.path),
      vocabSize: config.vocabSize,
      tokenizer,
      ends,
      created: Math.floor(Date.now() / 1000),
      timeout: options.timeout * 1000
    }
    const { name: adapter } = yield* Effect.provide(Device, context)
    const where = options.host.includes(":") ? `[${options.host}]` : options.host
    yield* say(
      `${checkpoint.path}${checkpoint.step === undefined ? "" : `, step ${checkpoint.step}`}; ${adapter}\n` +
        `serving ${name}${
          config.sinks === undefined
            ? ""
            : `, ${name}:off, ${name}:own:SOURCE, ${name}:placebo${router === undefined ? "" : `, ${name}:nearest`}`
        } on http://${where}:${port}/v1 (see /docs)`
    )
    // before the scope closes: what was begun may need more memory of the device
    const finish = Effect.gen(function*() {
      const { running, waiting } = engine.counts
      if (running + waiting > 0) yield* say(`finishing ${plural(running + waiting, "sequence")}`)
      yield* engine.drain(GRACE)
    })
    return yield* Effect.onInterrupt(Deferred.await(failed), () => finish)
  }))
