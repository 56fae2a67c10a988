import { spawn } from "node:child_process"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import process from "node:process"
import { fileURLToPath } from "node:url"
import { afterAll, describe, expect, it } from "vitest"
import { parseShardSize } from "../../src/cli/commands/tokenize.ts"
import { memsinksHere } from "../support/stdout.ts"

const root = fileURLToPath(new URL("../..", import.meta.url))
const folder = mkdtempSync(join(tmpdir(), "memsinks-tokenize-cli-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** In a process of its own, which gets a signal when its progress says something. */
const stopped = (args: ReadonlyArray<string>, signal: NodeJS.Signals, at: RegExp) => {
  const { CI, FORCE_COLOR, NO_COLOR, ...env } = process.env
  const child = spawn(process.execPath, ["--import", "tsx", "src/cli.ts", ...args], {
    cwd: root,
    env,
    stdio: ["ignore", "pipe", "pipe"]
  })
  let [stdout, stderr] = ["", ""]
  let signalled = false
  child.stdout.on("data", (data) => void (stdout += data))
  child.stderr.on("data", (data) => {
    stderr += data
    // once: a second one ends the process at once
    if (signalled || !at.test(stderr)) return
    signalled = true
    child.kill(signal)
  })
  return new Promise<{ code: number | null; stdout: string; stderr: string }>((resolve, reject) => {
    child.on("error", reject)
    child.on("close", (code) => resolve({ code, stdout, stderr }))
  })
}

const [one, two] = [join(folder, "one.jsonl"), join(folder, "two.jsonl")]
const record = (i: number) => ({
  title: `t${i}`,
  site: `site${i % 3}`,
  body: i === 5
    ? "The fourth of all texts, once more."
    : `Text ${i} says ${i * i} things, ${i % 7} of them twice. `.repeat(20)
})
const lines = Array.from({ length: 60 }, (_, i) => JSON.stringify(record(i)))
writeFileSync(one, lines.slice(0, 40).join("\n"))
writeFileSync(two, [...lines.slice(40), lines[5], lines[5]].join("\n"))
const command = ["tokenize", "--data", one, "--data", two, "--text-field", "body", "--id-field", "title",
  "--source-field", "site", "--tokenizer", "bpe", "--vocab-size", "600", "--shard-size", "500", "--near", "0.8"]

describe("memsinks tokenize", () => {
  it("goes on where SIGINT stopped it, tells what repeats, and is done the second time", async () => {
    const out = join(folder, "out")
    const first = await stopped([...command, "--out", out], "SIGINT", /shard-00001\.bin/)
    expect([first.code, first.stdout]).toEqual([130, ""])
    expect(existsSync(join(out, "dataset.json"))).toBe(false)
    expect(readdirSync(out).filter((name) => /lock|\.tmp$/.test(name))).toEqual([])

    const { code, stderr, stdout } = await memsinksHere([...command, "--out", out])
    expect(stderr).toMatch(/^going on behind \d+ finished shards: /)
    expect(stderr).toMatch(/\nlooking for near-duplicates among 62 documents\n.* MB\/s .* tokens\/s\n$/)
    expect(stdout).toMatch(/^62 documents of 3 sources, 0\.05 MB of text\n[\d,]+ tokens, 0\.\d{3} a byte, of a voc/)
    expect(stdout).toMatch(/ vocabulary of \d{3} \(of 600 asked for: this text has no more to merge\)\n/)
    expect(stdout).toMatch(/identity near: .*\n.*1 of them repeated/)
    expect(stdout).toMatch(/ t5: The fourth of all texts, once more\.\n/)
    expect(stdout).toContain(`\nshards: ${out}; `)
    expect(code).toBe(0)
    const dataset = JSON.parse(readFileSync(join(out, "dataset.json"), "utf8"))
    expect(dataset).toMatchObject({ sources: ["site0", "site1", "site2"], documents: 62, near: { documents: 3 } })

    const again = await memsinksHere([...command, "--out", out, "--json"])
    expect([again.code, again.stderr]).toEqual([0, "all of it was tokenized before\n"])
    expect(JSON.parse(again.stdout)).toMatchObject({
      folder: out,
      documents: 62,
      tokens: dataset.tokens,
      speed: null,
      dataset: { sources: 3, vocabSize: dataset.vocabSize },
      identity: { identity: "near", repeatedIds: 1 }
    })
  })

  it("explains wrong usage with exit code 2, and bad data with 1", async () => {
    const results = [
      await memsinksHere(["tokenize", "--out", join(folder, "a")]),
      await memsinksHere([...command, "--out", join(folder, "a"), "--workers", "0"]),
      await memsinksHere(["tokenize", "--data", one, "--out", join(folder, "b"), "-q"])
    ] as const
    expect(results.map(({ code, stdout }) => [code, stdout])).toEqual([[2, ""], [2, ""], [1, ""]])
    expect(results[0].stderr).toMatch(/^error: give --data: /)
    expect(results[1].stderr).toMatch(/^error: --workers must be a whole number of at least 1, got 0\n$/)
    const noTokenizer = await memsinksHere(["tokenize", "--data", one, "--tokenizer", folder, "--bos", "none", "--out",
      join(folder, "c")])
    expect([noTokenizer.code, existsSync(join(folder, "c"))]).toEqual([1, false])
    expect(results[2].stderr).toMatch(/^error: .*one\.jsonl.*line 1 .*"text".*title, site, body/)
  })

  it("has help that fits a screen", async () => {
    const { code, stdout } = await memsinksHere(["tokenize", "--help"])
    expect(code).toBe(0)
    expect(stdout.split("\n").length).toBeLessThanOrEqual(40)
    expect(stdout.split("\n").every((line) => line.length <= 110)).toBe(true)
    await expect(stdout).toMatchFileSnapshot("../fixtures/help-tokenize.txt")
  })

  it("takes sizes of shards in tokens or in bytes", () => {
    for (const [text, size] of [["100M", 1e8], ["5e7", 5e7], ["1.5 k", 1500], ["64", 64]] as const) {
      expect(parseShardSize(text)).toEqual({ shardTokens: size })
    }
    for (const [text, size] of [["200MB", 2e8], ["1MiB", 1 << 20]] as const) {
      expect(parseShardSize(text)).toEqual({ shardBytes: size })
    }
    for (const text of ["many", "0", "-1", "0.5", "1e400", "5G", "3GiB", "1.2.3MB"]) {
      expect(parseShardSize(text), text).toBe(undefined)
    }
  })
})
