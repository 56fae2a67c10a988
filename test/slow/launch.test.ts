/** Several ranks as a user starts them: over TCP, and over the MPI that is there; killed, interrupted, and gone on with. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { afterAll, describe, expect, it } from "vitest"

const root = fileURLToPath(new URL("../..", import.meta.url))
const folder = mkdtempSync(join(tmpdir(), "memsinks-launch-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const config = ["data.tokenizer=bytes", "model.hiddenSize=16", "model.numHiddenLayers=1", "model.numAttentionHeads=1",
  "model.intermediateSize=64", "model.sinks.pool=32", "model.sinks.active=16", "--seq", "32", "--batch", "2",
  "data.singleSequences=8", "data.repeatedSequences=2", "data.repeats=2", "data.heldOutSequences=2", "arms=[sinks]",
  "training.gradientAccumulation=4", "training.saveEvery=5"]

const pretrain = (out: string, ...more: ReadonlyArray<string>) => [
  "pretrain",
  "--share-adapter",
  "--json",
  "--quiet",
  ...(more.includes("--resume") ? [] : config),
  "--out-dir",
  join(folder, out),
  ...more
]

interface Ended {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

const start = (words: ReadonlyArray<string>) => {
  const child = spawn(process.execPath, ["--import", "tsx", "src/cli.ts", ...words], { cwd: root })
  let [stdout, stderr] = ["", ""]
  child.stdout.on("data", (data) => void (stdout += data))
  child.stderr.on("data", (data) => void (stderr += data))
  const ended = new Promise<Ended>((resolve) => child.on("close", (code) => resolve({ code, stdout, stderr })))
  return { child, ended }
}

const run = (words: ReadonlyArray<string>) => start(words).ended

interface Report {
  readonly repeated: Readonly<Record<string, number>>
  readonly ranks?: ReadonlyArray<{ readonly rank: number; readonly tokens: number }>
}

/** What is computed when it is first asked for. */
const once = <A>(compute: () => A): () => A => {
  let known: { readonly value: A } | undefined
  return () => (known ??= { value: compute() }).value
}

const reportOf = ({ code, stderr, stdout }: Ended): Report => {
  expect(stderr).not.toContain("error")
  expect(code).toBe(0)
  return JSON.parse(stdout) as Report
}

const checkpoints = (out: string) => {
  const arm = join(folder, out, "seed-1", "sinks")
  return existsSync(arm) ? readdirSync(arm).filter((name) => name.startsWith("step-")) : []
}

/** Until a run has saved. */
const saved = async (out: string) => {
  while (checkpoints(out).length === 0) await new Promise((resolve) => setTimeout(resolve, 50))
}

/** The process of a rank that a launcher started, by its environment. */
const pidOfRank = (launcher: ChildProcess, rank: number): number => {
  const { stdout } = spawnSync("ps", ["-eo", "pid="], { encoding: "utf8" })
  const mine = stdout.split("\n").map((line) => line.trim()).filter((line) => line !== "").find((pid) => {
    try {
      const environment = readFileSync(`/proc/${pid}/environ`, "utf8").split("\0")
      const stat = readFileSync(`/proc/${pid}/cmdline`, "utf8")
      return stat.includes("pretrain") && !stat.includes("\0launch\0") && environment.includes(`RANK=${rank}`) &&
        readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]!.split(" ")[1] === String(launcher.pid)
    } catch {
      return false
    }
  })
  expect(mine).toBeDefined()
  return Number(mine)
}

const transports = spawnSync("mpirun", ["--version"]).error === undefined ? ["tcp", "mpi"] : ["tcp"]

describe.each(transports)("two ranks over %s", (transport) => {
  const launch = ["launch", "-n", "2", "--transport", transport, "--"]

  it("tell once what is wrong for all", async () => {
    // one that is found before ranks meet, and one that is found after
    const [code, message, words] = transport === "tcp"
      ? [2, "there is no option --no-such", ["--no-such"]] as const
      : [1, "nowhere.txt: there is no such file", ["--data", "nowhere.txt"]] as const
    const ended = await run([...launch, ...pretrain(`${transport}-wrong`, ...words)])
    expect(ended.stderr.match(/^.*error:.*$/mg), ended.stderr).toEqual([expect.stringContaining(message)])
    expect(ended.code).toBe(code)
  })

  it("train what one process trains", async () => {
    const alone = reportOf(await run(pretrain(`${transport}-alone`, "--steps", "12")))
    const two = reportOf(await run([...launch, ...pretrain(`${transport}-two`, "--steps", "12")]))
    expect(two.ranks?.map(({ rank }) => rank)).toEqual([0, 1])
    expect(alone.ranks).toBeUndefined()
    for (const [state, loss] of Object.entries(alone.repeated)) expect(two.repeated[state]).toBeCloseTo(loss, 3)
  })

  it("train slices of the pool of sinks that are their own, as one process trains both", async () => {
    const sharded = ["model.intermediateSize=96", "model.sinks.pool=64", "model.sinks.shards=2", "--steps", "6"]
    const alone = reportOf(await run(pretrain(`${transport}-sharded-alone`, ...sharded)))
    const two = reportOf(await run([...launch, ...pretrain(`${transport}-sharded`, ...sharded)]))
    expect(two.ranks?.map(({ rank }) => rank)).toEqual([0, 1])
    for (const [state, loss] of Object.entries(alone.repeated)) expect(two.repeated[state]).toBeCloseTo(loss, 3)
  })

  it("stop together when they are interrupted, saved, and one process goes on", async () => {
    const out = `${transport}-stopped`
    const { child, ended } = start([...launch, ...pretrain(out, "--steps", "5000")])
    await saved(out)
    child.kill("SIGINT")
    const { code, stderr } = await ended
    expect(code, stderr).toBe(130)
    expect(stderr).toMatch(/interrupted after step \d+ of 5000, which is saved/)
    const at = Number(/interrupted after step (\d+)/.exec(stderr)![1])
    expect(checkpoints(out)).toContain(`step-${String(at).padStart(8, "0")}`)
  })
})

it.skipIf(process.platform !== "linux")("say which rank was killed, and go on from what was saved", async () => {
  const { child, ended } = start(["launch", "-n", "2", "--transport", "tcp", "--",
    ...pretrain("killed", "--steps", "60")])
  await saved("killed")
  process.kill(pidOfRank(child, 1), "SIGKILL")
  const { code, stderr } = await ended
  expect(code).not.toBe(0)
  expect(stderr).toMatch(/rank 1/)
  const after = reportOf(await run(pretrain("killed", "--resume")))
  expect(after.repeated["own"]).toBeGreaterThan(0)
})

const inShards = ["model.intermediateSize=192", "model.sinks.pool=128", "model.sinks.active=16", "model.sinks.shards=2",
  "--steps", "120"]

describe.skipIf(process.platform !== "linux")("two ranks with sinks of their own", () => {
  const launch = ["launch", "-n", "2", "--transport", "tcp", "--"]
  const straight = once(() => run([...launch, ...pretrain("straight", ...inShards)]))

  it.each([0, 1])("lose the steps since the last checkpoint where rank %i is killed, and nothing else",
    async (killed) => {
      const whole = reportOf(await straight()).repeated
      const out = `shards-${killed}`
      const { child, ended } = start([...launch, ...pretrain(out, ...inShards)])
      await saved(out)
      process.kill(pidOfRank(child, killed), "SIGKILL")
      const at = performance.now()
      const { code, stderr } = await ended
      expect(performance.now() - at).toBeLessThan(30_000)
      expect(code).not.toBe(0)
      expect(stderr).toMatch(new RegExp(`rank ${killed}`))
      expect(checkpoints(out)).not.toContain("step-00000120")
      cpSync(join(folder, out), join(folder, `${out}-alone`), { recursive: true })
      const alone = reportOf(await run(pretrain(`${out}-alone`, "--resume")))
      const two = reportOf(await run([...launch, ...pretrain(out, "--resume")]))
      expect([alone.ranks, two.ranks?.length]).toEqual([undefined, 2])
      for (const { repeated } of [alone, two]) {
        for (const [state, loss] of Object.entries(whole)) expect(repeated[state], state).toBeCloseTo(loss, 2)
      }
    })
})
