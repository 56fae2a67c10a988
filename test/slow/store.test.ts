/** One store that several processes share, which are killed and stopped at random. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, expect, it } from "vitest"
import { random } from "../../src/Random.ts"
import { shareStore } from "../support/shareStore.ts"

const root = mkdtempSync(join(tmpdir(), "memsinks-share-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

for (const processes of [2, 4]) {
  const jobs = 8 * processes
  it(`${processes} processes do ${jobs} jobs, each once unless its process was killed or stopped, and find the same`,
    async () => {
      const draw = random(processes)
      const { harmed, problems } = await shareStore(join(root, String(processes)), {
        processes,
        jobs,
        wait: 400,
        lease: 2,
        harm: { kills: 3, stops: 2, random: () => draw.uniform() }
      })
      expect(problems).toEqual([])
      // the others may have done all of it while one was stopped
      expect(harmed).toBeGreaterThanOrEqual(3)
    }, 300_000)
}
