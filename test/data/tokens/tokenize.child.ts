/** Tokenizes in a process of its own, to be killed: a line of stdout for every event. */
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as Effect from "effect/Effect"
import { writeSync } from "node:fs"
import process from "node:process"
import { tokenize } from "../../../src/data/tokens/Tokenize.ts"

const [out, config] = process.argv.slice(2) as [string, string]
const onEvent = ({ _tag }: { readonly _tag: string }) => void writeSync(1, `${_tag}\n`)

Effect.runPromise(
  Effect.provide(tokenize(JSON.parse(config), { out, workers: 1, batch: 5000, onEvent }), NodeFileSystem.layer)
)
  .then(() => process.exit(0), (error) => {
    console.error(error)
    process.exit(1)
  })
