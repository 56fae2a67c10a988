/** The tutorial from top to bottom, as a newcomer runs it: its blocks of shell and TypeScript, in order, in one folder. */
import { execFile } from "node:child_process"
import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { promisify } from "node:util"
import { expect, it } from "vitest"
import { blocksOf, root, tsx, userFolder } from "../support/programs.ts"

/** A line without its numbers, bars and spaces, which differ from adapter to adapter. */
const shape = (line: string): string =>
  line.replace(/[-+]?[\d,]*\.?\d+/g, "#").replace(/[▁-█]/g, "").replace(/\s+/g, " ").trim()

it("the tutorial runs from top to bottom, and prints what it shows", async () => {
  const text = readFileSync(join(root, "pipelines/TUTORIAL.md"), "utf8")
  const folder = userFolder()
  try {
    // what stands in for the clone: its command, its corpus, its tsx
    const scripts = { memsinks: `node ${tsx.join(" ")} ${join(root, "src/cli.ts")}` }
    writeFileSync(join(folder, "package.json"), JSON.stringify({ type: "module", scripts }))
    symlinkSync(join(root, "src"), join(folder, "src"))
    symlinkSync(join(root, "node_modules/tsx"), join(folder, "node_modules/tsx"))
    mkdirSync(join(folder, "node_modules/.bin"), { recursive: true })
    symlinkSync(join(root, "node_modules/tsx/dist/cli.mjs"), join(folder, "node_modules/.bin/tsx"))
    for (const code of blocksOf(text, "ts")) {
      const file = join(folder, /^\/\/ (runs\/tutorial\/\S+\.ts)\n/.exec(code)![1]!)
      mkdirSync(dirname(file), { recursive: true })
      writeFileSync(file, code)
    }
    const shell = blocksOf(text, "sh")
    expect(shell.length).toBeGreaterThan(8)
    const { stderr, stdout } = await promisify(execFile)("bash", ["-c", `set -eu\n${shell.join("\n")}`], {
      cwd: folder,
      timeout: 550_000,
      maxBuffer: 2 ** 26
    }).catch((error: { readonly stderr: string; readonly stdout: string }) =>
      expect.fail(error.stdout.slice(-2000) + error.stderr.slice(-4000))
    )
    const printed = new Set(`${stdout}\n${stderr}`.split("\n").map(shape))
    // blocks of `text` are what is printed, but for "..."; those of `txt` hold what a model says
    const shown = blocksOf(text, "text").flatMap((block) => block.split("\n")).filter((line) => !line.includes("..."))
    expect(shown.filter((line) => !printed.has(shape(line)))).toEqual([])
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})
