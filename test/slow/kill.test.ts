/** The 50 kills of a release are in test/bench/kill50.ts. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { expect, it } from "vitest"
import { killAtRandom } from "./kill.ts"

it("a run killed at five random moments leaves every checkpoint, curve and number of an undisturbed one", async () => {
  const root = mkdtempSync(join(tmpdir(), "memsinks-kill-"))
  try {
    const { compared, finished, kills, problems } = await killAtRandom(root, 5, 1)
    expect(problems).toEqual([])
    expect([kills, finished >= 1]).toEqual([5, true])
    // every checkpoint of one run, 10 of each of its two models, but those that a kill kept from being told
    expect(compared).toBeGreaterThanOrEqual(20 - kills)
  } finally {
    rmSync(root, { recursive: true, force: true })
  }
}, 300_000)
