/** Asks a store for a thing that takes a while: `store.child.ts FOLDER NAME MILLISECONDS`. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { fileStore } from "../../pipelines/experiment/Store.ts"

const [folder, name, wait] = process.argv.slice(2)
const compute = Effect.gen(function*() {
  console.log(`computing ${name}`)
  yield* Effect.sleep(Math.min(Number(wait), 60_000))
  return name
})
const store = await Effect.runPromise(Effect.provide(fileStore(folder!), NodeContext.layer))
console.log(
  `found ${await Effect.runPromise(
    store.once("models", { of: 1 }, compute, { alone: true, of: { arm: "a", seed: 3 } })
  )}`
)
