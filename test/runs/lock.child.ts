/** Takes the lock of a folder when told `take <folder>`, tells what came of it, and gives it back when told `drop`. */
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import { createInterface } from "node:readline"
import * as RunLock from "../../src/runs/RunLock.ts"

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]()
const next = Effect.promise(async () => (await lines.next()).value as string | undefined)
const say = (line: string) => Effect.sync(() => void process.stdout.write(`${line}\n`))

await Effect.gen(function*() {
  yield* say("ready")
  for (let line = yield* next; line?.startsWith("take "); line = yield* next) {
    yield* RunLock.hold(line.slice("take ".length)).pipe(
      Effect.matchEffect({
        onFailure: (error) => say(`refused ${error.message}`),
        onSuccess: () => say("held")
      }),
      Effect.zipRight(next),
      Effect.scoped
    )
    yield* say("dropped")
  }
}).pipe(Effect.provide(Logger.replace(Logger.defaultLogger, Logger.none)), Effect.runPromise)
process.exit(0)
