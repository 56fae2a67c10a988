/** What a command line comes to: exit codes, and what a dry run, a table and a report say. */
import { spawn } from "node:child_process"
import { existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { afterAll, describe, expect, it } from "vitest"
import { memsinksHere } from "../support/stdout.ts"

const root = fileURLToPath(new URL("../..", import.meta.url))
const folder = mkdtempSync(join(tmpdir(), "memsinks-outcomes-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** The exit code and complaint of a process whose output goes to a file. */
const writingTo = (file: string, args: ReadonlyArray<string>) =>
  new Promise<{ readonly code: number | null; readonly stderr: string }>((resolve, reject) => {
    const child = spawn(process.execPath, ["--import", "tsx", "src/cli.ts", ...args], { cwd: root,
      stdio: ["ignore", openSync(file, "w"), "pipe"] })
    let stderr = ""
    child.stderr!.on("data", (data) => void (stderr += data))
    child.on("error", reject)
    child.on("close", (code) => resolve({ code, stderr }))
  })

const RED = "\u001b[31m"
const books = join(folder, "books.jsonl")
const words = "the sea king ship light dark wind stone river tree house bird song fire night day".split(" ")
writeFileSync(
  books,
  Array.from({ length: 24 }, (_, i) =>
    JSON.stringify({
      body: Array.from({ length: 30 }, (_, j) => words[(i * 7 + j * (1 + i % 5)) % words.length]).join(" "),
      book: `${RED}Book ${i % 3}`
    })).join("\n")
)
const ofBooks = ["--data", books, "--text-field", "body", "--source-field", "book"]
const small = ["data.tokenizer=bytes", "model.hiddenSize=16", "model.numHiddenLayers=1", "model.numAttentionHeads=1",
  "model.intermediateSize=64", "model.sinks.pool=32", "model.sinks.active=16", "--seq", "32", "--batch", "4"]
const few = ["data.singleSequences=8", "data.repeatedSequences=2", "data.repeats=2", "data.heldOutSequences=2"]

describe("a dry run", () => {
  it.each([
    ["a warm-up that is longer than the training", ["training.optimizer.warmupSteps=50", "--steps", "20"],
      /warmupSteps of 50 are more than the 20 steps/],
    ["a warm-up and a decay that overlap", ["training.optimizer.schedule=wsd", "training.optimizer.warmupSteps=15",
      "training.optimizer.decayRatio=0.9", "--steps", "20"],
      /"wsd" has 15 steps of warm-up \(warmupSteps\) and 18 of decay/]
  ])("refuses %s", async (_, args, message) => {
    const { code, stderr } = await memsinksHere(["pretrain", "--dry-run", ...ofBooks, ...small, ...few, ...args])
    expect(stderr).toMatch(message)
    expect(code).toBe(1)
  })

  it("takes the learning rate of the width unless one is given, and says so", async () => {
    const told = (...lr: ReadonlyArray<string>) =>
      memsinksHere(["pretrain", "--dry-run", ...ofBooks, ...small, ...few, "model.hiddenSize=64", ...lr])
    const own = await told()
    const given = await told("--lr", "0.004")
    expect(own.stdout).toMatch(/learningRate: 0\.005\n[^]*learning rate 0\.005, by the width of 64/)
    expect(given.stdout).toContain("learningRate: 0.004\n")
    expect(given.stdout).not.toContain("by the width")
  })

  it("takes fields of text as options", async () => {
    const { code, stdout } = await memsinksHere(["pretrain", "--dry-run", ...ofBooks, ...small, ...few,
      "model.vocabSize=300"])
    expect(stdout).toMatch(/\n {2}textField: body\n/)
    expect(stdout).toMatch(
      /\nmodel: [\d,]+ parameters, .*; of the data's vocabulary of 256: with 300, .* were [\d,]+\n/
    )
    expect(stdout).toMatch(/\n {2}sourceField: book\n/)
    expect(code).toBe(0)
  })
})

it("refuses to run what one process runs as often as there are ranks", async () => {
  const before = { ...process.env }
  Object.assign(process.env, { RANK: "1", WORLD_SIZE: "2", LOCAL_RANK: "1" })
  try {
    const { code, stderr } = await memsinksHere(["isolate", "--preset", "quick"])
    expect(stderr).toContain("a launcher (RANK) started 2 of it: only pretrain trains by several ranks")
    expect(code).toBe(1)
  } finally {
    for (const name of ["RANK", "WORLD_SIZE", "LOCAL_RANK"]) {
      if (before[name] === undefined) delete process.env[name]
      else process.env[name] = before[name]
    }
  }
})

describe("a training", () => {
  it("by source, straight from JSONL, tells of each source by its name, which cannot steer a terminal", async () => {
    const out = join(folder, "by-source")
    const { code, stderr, stdout } = await memsinksHere(["pretrain", ...ofBooks, ...small, "data.identity=source",
      "data.singleSequences=all", "data.heldOutFraction=0.3", "--steps", "2", "arms=[sinks]", "--out-dir", out])
    expect([code, stderr.replace(/^Warning:.*$/gm, "")]).toEqual([0, expect.stringContaining("report.html")])
    expect(stdout).toMatch(/held-out loss by [^]*\nsource\n[^]*Book 0 [^]*Book 2 /)
    expect(stdout).not.toContain("\u001b")
    const report = JSON.parse(readFileSync(join(out, "report.json"), "utf8")) as { readonly command?: unknown }
    expect(JSON.stringify(report)).toContain("Book 1")
    const evaluated = await memsinksHere(["evaluate", "--checkpoint", out, "--data", books, "--source-field", "book"])
    expect(evaluated).toMatchObject({ code: 1, stderr: expect.stringMatching(/books\.jsonl.*"text".*body, book/) })
  })

  it("of which an arm failed ends with 1, and leaves the report of what there is", async () => {
    const out = join(folder, "failed")
    const { code, stderr } = await memsinksHere(["pretrain", ...ofBooks, ...small, ...few, "--steps", "4", "--lr",
      "1e30", "training.optimizer.gradClip=1e30", "arms=[standard]", "--out-dir", out])
    expect(stderr).toMatch(/standard failed: [^]*error: /)
    expect(code).toBe(1)
    expect(existsSync(join(out, "seed-1"))).toBe(true)
  })
})

describe("output that is lost", () => {
  it.skipIf(!existsSync("/dev/full")).each([["plan", ["plan", "--preset", "tiny", "--json"]], ["schema", ["schema"]]])(
    "by %s ends with 1",
    async (_, args) => {
      const { code, stderr } = await writingTo("/dev/full", args)
      expect(stderr).toMatch(/the output could not be written: .*no space/)
      expect(code).toBe(1)
    }
  )
})

describe("what is not there, or is a file", () => {
  it.each([
    ["inspect", ["inspect", books], /books\.jsonl: is a file, and a run or a checkpoint is a folder/],
    ["runs", ["runs", books], /books\.jsonl: is a file, and runs lie in a folder/],
    ["identity", ["identity", "--data", join(folder, "nowhere")], /nowhere: there is no such file or folder\. Check/],
    ["--metrics-port", ["pretrain", ...ofBooks, ...small, "--metrics-port", "::1:9464", "--out-dir", join(folder, "m")],
      /--metrics-port expects a port, or host:port/]
  ])("is told by %s in a sentence", async (_, args, message) => {
    const { code, stderr } = await memsinksHere(args)
    expect(stderr).toMatch(message)
    expect(stderr).not.toContain("ENO")
    expect(code).toBeGreaterThan(0)
  })
})
