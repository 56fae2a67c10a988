/** Worker threads that tokenize. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { createRequire } from "node:module"
import { pathToFileURL } from "node:url"
import { Worker } from "node:worker_threads"
import { DataError } from "../../Errors.ts"
import type { EncodedTexts, WorkerReply, WorkerRequest, WorkerSetup } from "./TokenizeWorker.ts"

export interface Pool {
  /** Texts that may be under way at once without a worker being idle. */
  readonly concurrency: number
  readonly encode: (texts: ReadonlyArray<string>) => Effect.Effect<EncodedTexts, DataError>
}

/** This file's own extension: `.ts` from sources, `.js` in the package, perhaps `.mjs` in what a bundler made. */
const extension = /\.m?[jt]s$/.exec(new URL(import.meta.url).pathname)![0]

const open = (workerData: WorkerSetup): Worker => {
  const url = new URL(`./TokenizeWorker${extension}`, import.meta.url)
  if (extension !== ".ts" || "Deno" in globalThis) return new Worker(url, { workerData })
  // Node must be told in each thread how TypeScript is read, and tsx does not hear of it from the options of a worker.
  const tsx = new URL("./esm/api/index.mjs", pathToFileURL(createRequire(import.meta.url).resolve("tsx")))
  const [api, file] = [tsx.href, url.href].map((one) => JSON.stringify(one))
  const code = `import(${api}).then(({ register }) => { register(); return import(${file}) })`
  return new Worker(code, { eval: true, workerData })
}

type Resume = (result: Effect.Effect<EncodedTexts, DataError>) => void

/** One worker, and who waits for which of its batches. */
const start = (setup: WorkerSetup) => {
  const worker = open(setup)
  const waiting = new Map<number, Resume>()
  let batches = 0
  let broken: DataError | undefined
  const fail = (detail: string, cause?: unknown): void => {
    broken ??= new DataError({ detail: `a tokenizing worker stopped: ${detail}`, cause })
    for (const resume of waiting.values()) resume(Effect.fail(broken))
    waiting.clear()
  }
  worker.on("error", (cause) => fail(cause.message, cause))
  worker.on("exit", (code) => fail(`exit code ${code}`))
  worker.on("message", (reply: WorkerReply) => {
    const resume = waiting.get(reply.batch)
    waiting.delete(reply.batch)
    resume?.(
      reply.error === undefined
        ? Effect.succeed(reply)
        : Effect.fail(new DataError({ detail: `a text cannot be tokenized: ${reply.error}` }))
    )
  })
  return {
    waiting: () => waiting.size,
    encode: (texts: ReadonlyArray<string>) =>
      Effect.async<EncodedTexts, DataError>((resume) => {
        if (broken !== undefined) return resume(Effect.fail(broken))
        const request: WorkerRequest = { batch: batches++, texts }
        waiting.set(request.batch, resume)
        worker.postMessage(request)
      }),
    stop: Effect.promise(() => worker.terminate())
  }
}

/** Workers that live as long as the scope. */
export const makePool = (setup: WorkerSetup, workers: number): Effect.Effect<Pool, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.sync(() => Array.from({ length: workers }, () => start(setup))),
      (all) => Effect.forEach(all, ({ stop }) => stop, { concurrency: "unbounded", discard: true })
    ),
    (all): Pool => ({
      // one under way and one that waits, for each
      concurrency: 2 * workers,
      encode: (texts) => Effect.suspend(() => all.reduce((a, b) => b.waiting() < a.waiting() ? b : a).encode(texts))
    })
  )
