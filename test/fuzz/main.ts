/**
 * Runs every fuzzer of this folder: `npm run fuzz`, `npm run fuzz -- --seed 7 --inputs 10000 --only tokenizer`. The same
 * seed makes the same inputs, on Node and on Deno, and what they came to has the same digest. Exits with 1 when one of them
 * went wrong.
 */
import { createHash } from "node:crypto"
import * as fs from "node:fs"
import process from "node:process"
import { parseArgs } from "node:util"
import { makeRandom } from "../reference/random.ts"
import type { Fuzzer } from "./fuzz.ts"

const { values } = parseArgs({
  options: {
    seed: { type: "string", default: String(Date.now() % 2 ** 31) },
    inputs: { type: "string", default: "10000" },
    only: { type: "string", default: "" }
  }
})
const seed = Number(values.seed)
const inputs = Number(values.inputs)
if (!Number.isSafeInteger(seed) || !Number.isSafeInteger(inputs) || inputs < 1) {
  console.error("fuzz: --seed and --inputs are whole numbers")
  process.exit(2)
}

const here = new URL(".", import.meta.url)
const files = fs.readdirSync(here).filter((file) => file.endsWith(".ts") && !["fuzz.ts", "main.ts"].includes(file))
  .sort()
const fuzzers: Array<Fuzzer> = []
for (const file of files) {
  const found = (await import(new URL(file, here).href)) as { readonly fuzzers: ReadonlyArray<Fuzzer> }
  for (const fuzzer of found.fuzzers) {
    const name = `${file.slice(0, -3)}: ${fuzzer.name}`
    if (name.includes(values.only)) fuzzers.push({ ...fuzzer, name })
  }
}
if (fuzzers.length === 0) {
  console.error(`fuzz: no fuzzer's name contains "${values.only}"`)
  process.exit(2)
}

console.log(`seed ${seed}`)
let bad = 0
for (const { name, run } of fuzzers) {
  const began = performance.now()
  // numbers of its own for each, so that --only makes the same inputs as a run of all
  const own = createHash("sha256").update(`${seed} ${name}`).digest().readInt32LE()
  const random = makeRandom(own)
  const count = Math.ceil(inputs / fuzzers.length)
  const digest = createHash("sha256")
  let noted = 0
  const note = (outcome: string) => {
    digest.update(`${outcome}\n`)
    noted++
  }
  const failures = await run(() => random.uniform(), count, note).catch((error: unknown) => [
    `threw ${error instanceof Error ? error.stack : String(error)}`
  ])
  bad += failures.length
  const seconds = ((performance.now() - began) / 1000).toFixed(1)
  const came = noted === 0 ? "" : `, came to ${digest.digest("hex").slice(0, 12)}`
  console.log(`${name}: ${count} inputs${came}, ${failures.length} went wrong, ${seconds} s`)
  for (const line of failures.slice(0, 10)) console.log(`  ${line.slice(0, 1000)}`)
  if (failures.length > 10) console.log(`  and ${failures.length - 10} more`)
}
console.log(`seed ${seed}: ${bad === 0 ? "nothing went wrong" : `${bad} inputs went wrong`}`)
process.exit(bad === 0 ? 0 : 1)
