/** Deletes the sources of a file of requests from every checkpoint of a run, and says when it begins. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import { readFileSync } from "node:fs"
import * as Forget from "../../src/forget/Forget.ts"
import { parseRequests } from "../../src/forget/Request.ts"

const [from, file, out] = process.argv.slice(2) as [string, string, string]
process.stdout.write("up\n")
const began = performance.now()
await Effect.gen(function*() {
  const requests = yield* parseRequests(readFileSync(file, "utf8"), file)
  return yield* Forget.forget(from, { requests, shared: "take" }, { out, allCheckpoints: true })
}).pipe(Effect.provide(NodeContext.layer), Effect.runPromise)
const { heapUsed, rss } = process.memoryUsage()
process.stdout.write(`${JSON.stringify({ ms: performance.now() - began, heapUsed, rss })}\n`)
