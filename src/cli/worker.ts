/** `memsinks worker`: does jobs of experiments that others ask for. */
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import process from "node:process"
import * as Worker from "../../pipelines/experiment/Worker.ts"
import * as Progress from "../terminal/Progress.ts"
import type { WorkerOptions } from "./commands/worker.ts"
import * as Edge from "./Edge.ts"
import { makeWorks } from "./works.ts"

/** Works until it is stopped, or idle for long enough. */
export const runWorker = (options: WorkerOptions) =>
  Effect.gen(function*() {
    const progress = yield* Progress.scoped({ output: process.stderr, env: process.env, quiet: options.quiet })
    yield* Edge.onSignal(() =>
      Effect.runSync(
        progress.log("stopping after this step, saving, and giving the job back; once more to stop at once")
      )
    )
    const logger = Logger.make<unknown, void>((line) => Effect.runSync(progress.log(Edge.logLine(line))))
    const ended = yield* Worker.work({
      store: options.store,
      queue: options.queue,
      device: options.hostOnly
        ? undefined
        : (yield* Edge.runtime).layer(Edge.given({ adapter: options.adapter })),
      works: makeWorks(),
      version: Edge.version,
      concurrency: options.concurrency,
      lease: options.lease,
      ...Edge.given({ untilIdle: options.untilIdle }),
      onEvent: progress.event
    }).pipe(Effect.provide(Logger.replace(Edge.logger, logger)))
    yield* progress.clear
    if (!options.quiet) Edge.complain(`no more jobs: ${ended} ended`)
  }).pipe(Effect.scoped)
