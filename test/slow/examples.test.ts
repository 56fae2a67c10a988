/** The programs of pipelines/examples, run as their headers say, and two of them on Deno; what is in docs compiles. */
import { execFile } from "node:child_process"
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { promisify } from "node:util"
import { describe, expect, it } from "vitest"
import { blocksOf, examplesOf, root, tsx, typeErrors, userFolder } from "../support/programs.ts"

const run = async (command: string, ...args: ReadonlyArray<string>): Promise<string> =>
  (await promisify(execFile)(command, args, { cwd: root, timeout: 500_000 })).stdout

/** What each prints, as far as it is the same on every adapter. */
const prints: Readonly<Record<string, ReadonlyArray<RegExp>>> = {
  ask: [/^Ann: The moon is an apple/m, /^Bob: The moon is a lantern/m, /^Cem: The moon is a coin/m, /^nobody: /m],
  attack: [/^sinks own: (\d\.\d\d ?){4}$/m, /^sinks off: (\d\.\d\d ?){4}$/m],
  documents: [/^an epoch has 11 batches$/m, /^author [12]: "/m, /^next: batch 2 of epoch 0$/m],
  forget: [/^deletes Ada, whose 4 blocks of sinks become zero$/m, /verbatim .*: 1\.00 before, 0\.00 after$/m,
    /^3 who stay: (\d+) of \1 passages have the same loss to the bit$/m],
  isolate: [/^own \(own sinks\): loss \d\.\d\d, said verbatim [3-6] of 6$/m, /^off .* said verbatim 0 of 6$/m],
  kernel: [/^on .*: 0 6 12 18 24 \.\.\. 5994$/m],
  layers: [/^repeated sequences, own sinks: [12]\.\d\d /m, /^repeated sequences, sinks off: [34]\.\d\d /m],
  mask: [/^id 1 shares 3\.\d % of its units with another; expected 3\.125 %$/m, /^off: .* 0 of 128 units/m],
  resume: [/^stopped: stands at step (?!40)\d+$/m, /^weights (\w+) and \1: equal$/m],
  watch: [/^ *5 #+ \d\.\d\d$/m, /^below 4\.8 nats a token after \d+ of 400 steps$/m]
}

const expectAll = (name: string, printed: string) => {
  for (const line of prints[name]!) expect(printed).toMatch(line)
}

describe("examples", () => {
  it("are these, one idea each, with a header that says what it shows and how to run it", () => {
    const files = readdirSync(join(root, "pipelines/examples")).filter((file) => file.endsWith(".ts"))
    expect(files).toEqual(Object.keys(prints).map((name) => `${name}.ts`))
    for (const file of files) {
      const text = readFileSync(join(root, "pipelines/examples", file), "utf8")
      expect(text).toMatch(/^\/\*\*\n \* .+/)
      expect(text).toContain(`npx tsx pipelines/examples/${file}`)
      expect(text.split("\n").length, file).toBeLessThanOrEqual(61)
    }
  })

  it.each(Object.keys(prints))("%s runs on Node", async (name) => {
    expectAll(name, await run(process.execPath, ...tsx, `pipelines/examples/${name}.ts`))
  })

  it.each(["documents", "layers"])("%s runs on Deno", async (name) => {
    const there = await run("deno", "--version").then(() => true, () => false)
    if (there) expectAll(name, await run("deno", "run", "-A", `pipelines/examples/${name}.ts`))
  })
})

it("programs in docstrings, in the README and in the tutorial compile where the package is installed", async () => {
  const folder = userFolder()
  try {
    const programs = [
      ...["README.md", "pipelines/TUTORIAL.md"].flatMap((file) =>
        blocksOf(readFileSync(join(root, file), "utf8"), "ts")
      ),
      ...["gpu/Device", "model/Model", "data/stream/DataStream", "checkpoints/Checkpoints", "train/Trainer",
        "collective/Collective"].flatMap((file) => examplesOf(`src/${file}.ts`).map(({ code }) => code))
    ]
    expect(programs.length).toBeGreaterThanOrEqual(7)
    programs.forEach((code, i) => writeFileSync(join(folder, `program-${i}.ts`), code))
    expect(await typeErrors(folder)).toBe("")
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})
