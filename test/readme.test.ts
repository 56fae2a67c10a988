import { readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { expect, it } from "vitest"
import { blocksOf, root, runProgram, userFolder } from "./support/programs.ts"

it("the README's program runs as it is printed, and again to go on from where it was", async () => {
  const program = blocksOf(readFileSync(join(root, "README.md"), "utf8"), "ts")
    .find((text) => text.includes("NodeRuntime.runMain"))
  expect(program).toBeDefined()
  const folder = userFolder()
  try {
    writeFileSync(join(folder, "program.ts"), program!)
    const run = () => runProgram(folder, "program.ts")
    const first = await run()
    expect(first).toMatch(/training [\d,]+ parameters .* for 40 steps/)
    expect(first).toMatch(/step 40\/40 {2}loss \d\.\d+/)
    expect(first).toMatch(/repeated sequences: loss \d\.\d\d with their sinks, \d\.\d\d without/)
    // finished: it has nothing left to train, loads its checkpoint and measures the same
    const second = await run()
    expect(second).toContain("from step 40 of 40 steps")
    const measured = (text: string) => /repeated sequences: .*/.exec(text)?.[0]
    expect(measured(second)).toBe(measured(first))
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}, 240_000)
