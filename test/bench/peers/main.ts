/**
 * Our training step beside other people's: `npm run bench:peers` (`-- --quick` for under five minutes, `-- --save` to
 * keep the lines in ../results/).
 *
 * The standard model runs beside jax-js and TensorFlow.js on the same WebGPU adapter (MEMSINKS_ADAPTER chooses it), the
 * model with sinks beside PyTorch on the processor, where python3 has torch. Each library has a process of its own,
 * shows first that its loss falls, and then takes turns with ours, window by window. JSON lines on stdout, a table on
 * stderr.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { createRequire } from "node:module"
import process from "node:process"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import type { Line, Ready, Window } from "./compare.ts"
import { fileName, interleave, lineOf, lossProblem, table, windowsFor } from "./compare.ts"
import peers from "./package.json" with { type: "json" }
import { sinks, toggles } from "./step.ts"

const here = fileURLToPath(new URL(".", import.meta.url))
const root = fileURLToPath(new URL("../../..", import.meta.url))
const quick = process.argv.includes("--quick")
const windows = quick ? 5 : 11
const seconds = quick ? 2 : 4

const tell = (text: string): void => void process.stderr.write(`${text}\n`)

const versionIn = (folder: string, name: string): string | undefined => {
  try {
    const text = readFileSync(`${folder}/node_modules/${name}/package.json`, "utf8")
    return (JSON.parse(text) as { version: string }).version
  } catch {
    return undefined
  }
}

const install = (): void => {
  if (Object.entries(peers.dependencies).every(([name, version]) => versionIn(here, name) === version)) return
  tell(`Installing ${Object.entries(peers.dependencies).map((pin) => pin.join(" ")).join(", ")} in ${here} ...`)
  const { status } = spawnSync("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"], {
    cwd: here,
    stdio: ["ignore", 2, 2],
    shell: process.platform === "win32"
  })
  if (status !== 0) throw new Error(`npm ci failed in ${here}; see above`)
}

/** A library at work in a process of its own. */
interface Runner {
  readonly ready: Ready
  readonly run: (steps: number) => Promise<Window>
  readonly close: () => void
}

const start = async (command: string, parameters: ReadonlyArray<string>): Promise<Runner> => {
  const child: ChildProcess = spawn(command, parameters, {
    cwd: root,
    stdio: "pipe",
    // threads that wait for each other by spinning come to a stop on a shared machine
    env: { OMP_WAIT_POLICY: "passive", ...process.env }
  })
  const errors: Array<string> = []
  createInterface({ input: child.stderr! }).on("line", (line) => {
    if (!line.startsWith("Warning: max")) errors.push(line)
  })
  const ended = new Promise<never>((_, reject) => {
    child.once("error", reject)
    child.once("close",
      (code, signal) =>
        reject(new Error(`it ended (${signal ?? `exit status ${code}`}):\n${errors.slice(-20).join("\n")}`)))
  })
  // a process that has been told to end may
  ended.catch(() => {})
  const answers = createInterface({ input: child.stdout! })[Symbol.asyncIterator]()
  const answer = async <A>(): Promise<A> => {
    const next = await Promise.race([answers.next(), ended])
    return next.done === true ? await ended : JSON.parse(next.value) as A
  }
  const close = (): void => void child.stdin!.end()
  try {
    return {
      ready: await answer<Ready>(),
      run: (steps) => {
        child.stdin!.write(`${JSON.stringify({ steps })}\n`)
        return answer<Window>()
      },
      close
    }
  } catch (error) {
    close()
    throw error
  }
}

const module = (name: string, ...parameters: ReadonlyArray<string>): Promise<Runner> =>
  start(process.execPath, ["--import", "tsx", `${here}${name}`, ...parameters])

const lines: Array<Line> = []
let refused = 0

const checked = async (opening: Promise<Runner>): Promise<Runner> => {
  const runner = await opening
  const problem = lossProblem(runner.ready.losses)
  if (problem === undefined) return runner
  runner.close()
  throw new Error(`${runner.ready.name}: ${problem}`)
}

/** Compare our step for a model with a peer's; what goes wrong costs this line and no other. */
const compare = async (
  bench: string,
  model: "dense" | "sinks",
  name: string,
  open: () => Promise<Runner>,
  sameAdapter: boolean
): Promise<void> => {
  tell(`${bench}: warming up memsinks and ${name} ...`)
  const runners: Array<Runner> = []
  try {
    const ours = await checked(module("ours.ts", model))
    runners.push(ours)
    const peer = await checked(open())
    runners.push(peer)
    if (sameAdapter && peer.ready.adapter !== ours.ready.adapter) {
      throw new Error(`it runs on ${peer.ready.adapter}, ours on ${ours.ready.adapter}`)
    }
    const turns = windowsFor(windows, seconds, peer.ready.secondsPerStep)
    tell(`${bench}: ${turns} windows of about ${seconds} s of each, in turn ...`)
    const measured = await interleave(turns, seconds, {
      ours: { secondsPerStep: ours.ready.secondsPerStep, run: ours.run },
      peer: { secondsPerStep: peer.ready.secondsPerStep, run: peer.run }
    })
    lines.push(lineOf(bench, { ours: ours.ready, peer: peer.ready }, measured))
  } catch (error) {
    refused++
    tell(`${bench}: no line for ${name}: ${error instanceof Error ? error.message : String(error)}`)
  } finally {
    for (const runner of runners) runner.close()
  }
}

const hasTorch = (python: string): boolean => spawnSync(python, ["-c", "import torch"]).status === 0

install()
await compare("dense step", "dense", "jax-js", () => module("jax.ts"), true)
await compare("dense step", "dense", "tfjs", () => module("tfjs.ts"), true)

const python = ["python3", "/usr/bin/python3"].find(hasTorch)
if (python === undefined) {
  tell("sink step: no python3 here has torch, so there is no line for it. On Debian and Ubuntu: " +
    "apt-get install python3-torch libopenblas0-pthread; elsewhere: pip install torch.")
} else {
  const options = ["--preset", "tiny", "--batch", `${sinks.rows}`, "--seq", `${sinks.seqLen}`, "--threads", "2"]
  const open = () => start(python, [`${here}torch_seqtd.py`, "--serve", ...options])
  await compare("sink step", "sinks", "PyTorch", open, false)
}

const stamp = {
  node: process.versions.node,
  webgpu: (createRequire(import.meta.url)("webgpu/package.json") as { version: string }).version,
  toggles,
  windowSeconds: seconds
}
const text = lines.map((line) => `${JSON.stringify({ ...line, ...stamp })}\n`).join("")
process.stdout.write(text)
if (lines.length > 0) tell(`\n${table(lines)}`)
if (process.argv.includes("--save") && lines.length > 0) {
  const folder = new URL("../results/", import.meta.url)
  mkdirSync(folder, { recursive: true })
  writeFileSync(new URL(fileName(lines[0]!.adapter), folder), text)
}
if (refused > 0) process.exitCode = 1
