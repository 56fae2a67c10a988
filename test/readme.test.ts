import { execFile } from "node:child_process"
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { promisify } from "node:util"
import { expect, it } from "vitest"

const root = new URL("..", import.meta.url).pathname

it("the README's program runs as it is printed, and again to go on from where it was", async () => {
  const readme = readFileSync(join(root, "README.md"), "utf8")
  const programs = [...readme.matchAll(/```ts\n([\s\S]*?)```/g)].map(([, text]) => text!)
  const program = programs.find((text) => text.includes("NodeRuntime.runMain"))
  expect(program).toBeDefined()
  const folder = mkdtempSync(join(tmpdir(), "memsinks-readme-"))
  try {
    // the package's own exports lead to dist/; here its sources stand in, so that the test needs no build
    mkdirSync(join(folder, "node_modules", "memsinks"), { recursive: true })
    writeFileSync(
      join(folder, "node_modules", "memsinks", "package.json"),
      JSON.stringify({
        name: "memsinks",
        type: "module",
        exports: { ".": "./source/src/index.ts", "./node": "./source/src/node.ts" }
      })
    )
    symlinkSync(root, join(folder, "node_modules", "memsinks", "source"))
    for (const name of ["effect", "@effect"]) {
      symlinkSync(join(root, "node_modules", name), join(folder, "node_modules", name))
    }
    writeFileSync(join(folder, "package.json"), "{\"type\":\"module\"}")
    writeFileSync(join(folder, "program.ts"), program!)
    const run = async () => {
      const { stderr, stdout } = await promisify(execFile)(
        process.execPath,
        ["--import", join(root, "node_modules/tsx/dist/esm/index.mjs"), "program.ts"],
        { cwd: folder, timeout: 110_000 }
      )
      return stdout + stderr
    }
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
