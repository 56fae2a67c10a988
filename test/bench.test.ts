/** The bookkeeping of the benchmarks: no adapter, no peer and no clock needed. */
import { spawn } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import process from "node:process"
import { fileURLToPath } from "node:url"
import { describe, expect, it } from "vitest"
import { presets } from "../src/model/ModelConfig.ts"
import { cards, pairsOf, predict, reached, stepOf } from "./bench/model.ts"
import { fileName, interleave, lineOf, lossProblem, type Ready, stepsFor, table, turns, type Window,
  windowsFor } from "./bench/peers/compare.ts"
import { withResults } from "./bench/readme.ts"
import { markdown, summary } from "./bench/table.ts"

const ready = (overrides: Partial<Ready>): Ready => ({
  name: "memsinks",
  version: "0.1.0",
  adapter: "some GPU (1.0)",
  parameters: 1000,
  tokens: 512,
  losses: [6.1, 3, 1.23456],
  secondsPerStep: 1,
  ...overrides
})
const peer = ready({ name: "peerling", version: "2.3.4", note: "without RoPE", parameters: 999, losses: [6, 2] })

/** One step that took so many seconds. */
const window = (wall: number, cpu = wall, steps = 1): Window => ({ steps, wall, cpu })

describe("taking turns", () => {
  it("puts every window of the peer between two of ours", () => {
    expect(turns(2)).toEqual(["ours", "peer", "ours", "peer", "ours"])
  })

  it("fills a window with whole steps, with one where a step is longer than the window", () => {
    expect([stepsFor(2, 0.3), stepsFor(2, 0.9), stepsFor(2, 8)]).toEqual([7, 2, 1])
  })

  it("gives a peer whose step is longer than a window fewer windows, but three", () => {
    const windows = (secondsPerStep: number) => windowsFor(5, 2, secondsPerStep)
    expect([windows(0.1), windows(2.5), windows(8), windowsFor(2, 2, 8)]).toEqual([5, 4, 3, 2])
  })

  it("runs one side at a time and sizes its window by its fastest steps so far", async () => {
    const log: Array<string> = []
    let running = 0
    const side = (name: string, secondsPerStep: number, takes: ReadonlyArray<number>) => {
      let turn = 0
      const run = async (steps: number) => {
        expect(++running).toBe(1)
        await Promise.resolve()
        running--
        log.push(`${name} ${steps}`)
        return window(takes[turn++]! * steps, 0, steps)
      }
      return { secondsPerStep, run }
    }
    const measured = await interleave(2, 4, { ours: side("ours", 2, [0.5, 4, 1]), peer: side("peer", 8, [8, 8]) })
    expect(log).toEqual(["ours 2", "peer 1", "ours 8", "peer 1", "ours 8"])
    expect(measured.ours.map(({ wall }) => wall)).toEqual([1, 32, 8])
    expect(measured.peer.map(({ wall }) => wall)).toEqual([8, 8])
  })
})

describe("what counts as training", () => {
  it("takes a loss that falls by a tenth", () => {
    expect(lossProblem([6, 5.8, 5.4])).toBeUndefined()
  })

  it("refuses one that stands still, rises, is no number, or was never measured", () => {
    expect(lossProblem([6.012, 6.011, 6.007])).toContain("from 6.012 to 6.007 in 3 steps")
    expect(lossProblem([5, 7])).toContain("does not learn")
    expect(lossProblem([6, NaN, 1])).toContain("no numbers: 6, NaN, 1")
    expect(lossProblem([])).toContain("no numbers")
  })
})

describe("what is written down", () => {
  const line = lineOf("dense step", { ours: ready({}), peer }, {
    // 512, 128 and 256 tokens a second, and twice the processor
    ours: [window(1, 2), window(4, 8), window(4, 8, 2)],
    peer: [window(4), window(16)]
  })

  it("is a line with the median and best rates of both, their ratios, and what they are rates of", () => {
    expect(line).toEqual({
      bench: "dense step",
      adapter: "some GPU (1.0)",
      unit: "tokens/s",
      ours: 256,
      peer: 80,
      ratio: 3.2,
      oursBest: 512,
      peerBest: 128,
      ratioBest: 4,
      oursCpu: 128,
      peerCpu: 80,
      ratioCpu: 1.6,
      peerName: "peerling",
      peerVersion: "2.3.4",
      peerAdapter: "some GPU (1.0)",
      note: "without RoPE",
      parameters: 1000,
      peerParameters: 999,
      tokens: 512,
      losses: [6.1, 1.235],
      peerLosses: [6, 2],
      windows: 2
    })
  })

  it("is a Markdown table that names a peer's adapter where it is another", () => {
    const elsewhere = { ...line, bench: "sink step", peerAdapter: "CPU, 2 threads" }
    expect(table([line, elsewhere]).split("\n")).toEqual([
      "| step | adapter | peer | ours, tokens/s | peer, tokens/s | ratio | of best windows | of processor time |",
      "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
      "| dense step | some GPU (1.0) | peerling 2.3.4 | 256 | 80 | 3.20x | 4.00x | 1.60x |",
      "| sink step | some GPU (1.0) | peerling 2.3.4 (CPU, 2 threads) | 256 | 80 | 3.20x | 4.00x | 1.60x |"
    ])
  })

  it("goes into a file named after the adapter", () => {
    expect(fileName("llvmpipe (LLVM 15.0.6, 256 bits)")).toBe("llvmpipe-llvm-15-0-6-256-bits.peers.jsonl")
  })
})

describe("the peers", () => {
  const read = <A>(file: string): A =>
    JSON.parse(readFileSync(new URL(`bench/peers/${file}`, import.meta.url), "utf8")) as A

  it("are pinned exactly, in a lock file that agrees and names no registry", () => {
    const { dependencies } = read<{ dependencies: Record<string, string> }>("package.json")
    const { packages } = read<{ packages: Record<string, { version: string; resolved?: string }> }>("package-lock.json")
    expect(Object.keys(dependencies)).toHaveLength(3)
    for (const [name, version] of Object.entries(dependencies)) {
      expect(version).toMatch(/^\d+\.\d+\.\d+$/)
      expect(packages[`node_modules/${name}`]?.version).toBe(version)
    }
    expect(Object.values(packages).filter((one) => one.resolved !== undefined)).toEqual([])
  })
})

describe("tables", () => {
  it("have a column for every field that some line of a benchmark has", () => {
    const lines = [
      { bench: "step", name: "a", tokensPerSecond: 1234.5 },
      { bench: "step", name: "b", ratio: 0.12345 },
      { bench: "pool", name: "c", count: 1024 }
    ]
    expect(markdown(lines)).toBe([
      "### step",
      "",
      "| name | tokensPerSecond | ratio |",
      "| --- | --- | --- |",
      "| a | 1,235 |  |",
      "| b |  | 0.123 |",
      "",
      "### pool",
      "",
      "| name | count |",
      "| --- | --- |",
      "| c | 1,024 |"
    ].join("\n"))
  })

  it("sum results up by adapter, and leave out what none has measured", () => {
    const results = new Map([
      ["one", [
        { bench: "matmul", name: "nn 1x1x1 f32 plain", gflops: 3 },
        { bench: "matmul", name: "nn 1x1x1 f32 software", gflops: 12.34 },
        { bench: "matmul", name: "nn 1x1x1 f16 software", gflops: 99 },
        { bench: "pool", name: "of 32768", ratio: 0.91 }
      ]],
      ["two", [{ bench: "dense step", name: "x", peerName: "peerling", unit: "tokens/s", ratio: 3.456 }]]
    ])
    expect(summary(results)).toBe([
      "|  | one | two |",
      "| --- | --- | --- |",
      "| best matmul, f32 | 12.3 GFLOP/s | – |",
      "| pool of 32,768 against 1,024, step | 0.910x | – |",
      "| dense step, against peerling | – | 3.46x |"
    ].join("\n"))
  })

  it("of the README are those of the committed results", () => {
    const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8")
    expect(readme).toBe(withResults(readme))
  })
})

/** Runs a program of test/bench; the lines that it printed. */
const bench = async (name: string, args: ReadonlyArray<string>, env: Readonly<Record<string, string>> = {}) => {
  const script = fileURLToPath(new URL(`bench/${name}.ts`, import.meta.url))
  const child = spawn(process.execPath, ["--import", "tsx", script, ...args], { env: { ...process.env, ...env } })
  let out = ""
  child.stdout.on("data", (data) => void (out += data))
  const code = await new Promise((resolve) => child.on("close", resolve))
  return { code, lines: out.trim().split("\n").map((line) => JSON.parse(line) as Record<string, unknown>) }
}

describe("programs for a machine without a test runner", () => {
  it.concurrent("tell kernel cases one a line, and sum them up in the last", async ({ expect }) => {
    const { code, lines } = await bench("cases", ["--only=swiglu forward: 1 rows", "--types=f32", "--families=plain"])
    expect(lines[0]).toMatchObject({ bench: "case", family: "plain", type: "f32", correct: true })
    expect(lines.slice(1)).toEqual([
      expect.objectContaining({ bench: "cases", passed: 1, failed: 0, skipped: 0, left: 0 })
    ])
    expect(code).toBe(0)
  }, 60_000)

  it.concurrent("stop at a deadline, and say how many cases are left", async ({ expect }) => {
    const { lines } = await bench("cases", ["--only=swiglu", "--deadline=0"])
    expect(lines).toEqual([expect.objectContaining({ bench: "cases", passed: 0 })])
    expect(lines[0]!["left"]).toBeGreaterThan(8)
  }, 60_000)

  it.concurrent("go through their stages, and end with the loader's log where there is no adapter",
    async ({ expect }) => {
      const folder = mkdtempSync(join(tmpdir(), "memsinks-session-"))
      try {
        const env = { OUT: folder, MEMSINKS_ADAPTER: "no such card" }
        const { code, lines } = await bench("session", ["--small", "--only=machine,doctor,cases"], env)
        expect(lines.map(({ good, name }) => [name, good])).toEqual([
          ["machine", true],
          ["doctor", false],
          ["doctor-loader", false],
          [undefined, undefined]
        ])
        expect(lines.at(-1)).toMatchObject({ bench: "session", stages: 2, bad: ["doctor"] })
        expect(code).toBe(1)
        expect(readFileSync(join(folder, "doctor.log"), "utf8")).toContain("no GPU adapter for \"no such card\"")
      } finally {
        rmSync(folder, { recursive: true, force: true })
      }
    }, 60_000)
})

describe("the roofline on paper", () => {
  const [card] = cards
  const gpu = { family: "gpu", subgroupSize: 32 } as const
  const shape = { rows: 4, seqLen: 256, precision: "f32" } as const
  const pairs = pairsOf(4, 256)

  it("counts a step's products and attention as by hand", () => {
    const config = presets["smol-135m"]
    const { flops } = predict(stepOf(config, shape, gpu), pairs, card!)
    // embedding and head are one matrix, which tokens are multiplied with once; norms are no products
    const norms = (2 * config.numHiddenLayers + 1) * config.hiddenSize
    const products = 6 * 4 * 256 * (config.numParameters - norms)
    const attention = 18 * pairs * config.numHiddenLayers * config.numAttentionHeads * config.headSize
    expect(flops / (products + attention)).toBeCloseTo(1, 12)
  })

  it("takes as long as its classes together, and no less than gaps, arithmetic and traffic each alone", () => {
    const tiny = stepOf(presets.tiny, shape, gpu)
    const { bytes, classes, dispatches, flops, seconds } = predict(tiny, pairs, card!)
    expect(Object.values(classes).reduce((sum, one) => sum + one, 0)).toBeCloseTo(seconds, 12)
    expect(seconds).toBeGreaterThan(dispatches * reached.gap)
    expect(seconds).toBeGreaterThan(flops / (card!.float * reached.float))
    expect(seconds).toBeGreaterThan(bytes / (card!.bandwidth * reached.bandwidth))
    const fast = { ...card!, bandwidth: 1e30, float: 1e30 }
    expect(predict(tiny, pairs, fast).seconds).toBeCloseTo(dispatches * reached.gap, 12)
  })

  it("takes no more dispatches than a budget allows: each has a price on a GPU, and one on the host", () => {
    const dispatches = (name: "smol-360m" | "nulls-1b") => {
      const target = { family: "tensor", subgroupSize: 32, matrices: true, workgroupBytes: 49152 } as const
      const programs = stepOf(presets[name], { rows: 8, seqLen: 1024, precision: "f16" }, target)
      return programs.reduce((sum, program) => sum + program.dispatches.length, 0)
    }
    // 971 and 1,284 when this was written
    expect(dispatches("smol-360m")).toBeLessThan(1000)
    expect(dispatches("nulls-1b")).toBeLessThan(1300)
  })
})
