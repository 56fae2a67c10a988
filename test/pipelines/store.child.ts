/**
 * Asks a store for things that take a while, each once: `store.child.ts FOLDER LOG MILLISECONDS NAME...`. Says in the log what it
 * begins and ends, and prints what it found.
 */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { appendFileSync } from "node:fs"
import { fileStore } from "../../pipelines/experiment/Store.ts"

const [folder, log, wait, ...names] = process.argv.slice(2) as [string, string, string, ...Array<string>]
const say = (what: string, name: string) => Effect.sync(() => appendFileSync(log, `${what} ${name} ${process.pid}\n`))

await Effect.gen(function*() {
  const store = yield* fileStore(folder)
  for (const name of names) {
    const compute = Effect.gen(function*() {
      yield* say("begin", name)
      yield* Effect.sleep(Math.min(Number(wait), 60_000))
      yield* say("end", name)
      return { name, value: name.length / 3 }
    })
    const found = yield* store.once("models", { of: name }, compute, { alone: true, of: { arm: "a", seed: 3 } })
    console.log(`found ${JSON.stringify(found)}`)
  }
}).pipe(Effect.provide(NodeContext.layer), Effect.runPromise)
