/** `npx tsx test/bench/kill50.ts [kills] [seed]`: 50 processes of a run killed at random moments; see test/slow/kill.ts. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { killAtRandom } from "../slow/kill.ts"

const [kills = 50, seed = 1] = process.argv.slice(2).map(Number)
const root = mkdtempSync(join(tmpdir(), "memsinks-kill-"))
const began = performance.now()
const found = await killAtRandom(root, kills, seed, (line) => console.log(line))
console.log(
  `seed ${seed}, ${((performance.now() - began) / 1000).toFixed(0)} s: ${JSON.stringify(found, undefined, 2)}`
)
if (found.problems.length === 0) rmSync(root, { recursive: true, force: true })
process.exitCode = found.problems.length === 0 && found.kills === kills ? 0 : 1
