/**
 * All that a machine with a GPU should tell in its first quarter of an hour, the most informative first: each stage is a process
 * of its own under its own limit, so that one that hangs or dies costs itself alone. In the folder that the environment variable
 * OUT names (default: session), NAME.jsonl is what a stage printed, NAME.log what it complained of; session.jsonl has a line a
 * stage, which stdout has, too, and a summary at the end. Without an adapter it stops after the loader's own log.
 *
 * `node --import tsx test/bench/session.ts`, or packed into one file beside cases, gpu, parity and ../../src/cli. `--small` takes
 * sizes for a software adapter, `--only=cases,parity` some stages, `--data=FILE` a text to train on, `--torch=FILE` a program
 * that prints what PyTorch reaches.
 */
import { spawn, spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import process from "node:process"
import { fileURLToPath } from "node:url"

const small = process.argv.includes("--small")
const option = (name: string): string | undefined =>
  process.argv.find((argument) => argument.startsWith(`--${name}=`))?.slice(name.length + 3)
const only = option("only")?.split(",")
const out = path.resolve(process.env["OUT"] || "session")
fs.mkdirSync(out, { recursive: true })

const packed = import.meta.url.endsWith(".mjs")
/** A program of this repository, packed or as it stands. */
const program = (file: string, ...args: ReadonlyArray<string>): ReadonlyArray<string> => [
  process.execPath,
  ...(packed ? [] : ["--import", "tsx"]),
  fileURLToPath(new URL(`${file}.${packed ? "mjs" : "ts"}`, import.meta.url)),
  ...args
]
const cli = (...args: ReadonlyArray<string>): ReadonlyArray<string> => program("../../src/cli", ...args)

interface Stage {
  readonly name: string
  /** Seconds after which it is killed. */
  readonly limit: number
  readonly command: ReadonlyArray<string>
  readonly environment?: Readonly<Record<string, string>>
  /** Killed once its folder's metrics tell of this step. */
  readonly killAt?: { readonly folder: string; readonly step: number }
  /** Nothing after it can work where it fails. */
  readonly needed?: boolean
  /** Why it is left out. */
  readonly skip?: string | undefined
}

const shape = (preset: string, batch: number, seq: number, precision = "f32"): ReadonlyArray<string> =>
  small
    ? ["--preset", "tiny", "--batch", "2", "--seq", "32", "--precision", precision]
    : ["--preset", preset, "--batch", String(batch), "--seq", String(seq), "--precision", precision]

const profile = (preset: string, precision: string, ...toggles: ReadonlyArray<string>): Stage => ({
  name: ["profile", preset, precision, ...toggles].join("-"),
  limit: 60,
  command: cli("profile", "--json", "--trace",
    path.join(out, `${[preset, precision, ...toggles].join("-")}.trace.json`),
    ...toggles.flatMap((toggle) => ["--toggle", toggle]), ...shape(preset, 8, 1024, precision))
})

const torchFile = option("torch")
const torch = (preset: string): Stage => ({
  name: `torch-${preset}`,
  limit: 60,
  skip: torchFile === undefined
    ? "no --torch"
    : spawnSync("python3", ["-c", "import torch"]).status === 0
    ? undefined
    : "python3 has no torch",
  command: ["python3", torchFile ?? "", "--preset", small ? "tiny" : preset, ...(small
    ? ["--batch", "2", "--seq", "32", "--device", "cpu"]
    : ["--batch", "8", "--seq", "1024", "--device", "cuda", "--dtype", "bf16", "--compile"])]
})

const run = path.join(out, "run")
const data = option("data")
const [killed, steps] = small ? [4, 8] : [30, 60]
const pretrain = [
  "pretrain",
  ...(data === undefined ? [] : ["--data", data]),
  "--steps",
  String(steps),
  `training.saveEvery=${small ? 2 : 20}`,
  `training.logEvery=${small ? 1 : 5}`
]

const stages: ReadonlyArray<Stage> = [
  {
    name: "machine",
    limit: 20,
    command: ["sh", "-c",
      "nvidia-smi; uname -a; nproc; free -g; ls -l /dev/nvidia* /usr/share/vulkan/icd.d /etc/vulkan/icd.d " +
      "/usr/local/nvidia/share/vulkan/icd.d; ldconfig -p | grep -i -e vulkan -e nvidia; env | grep -e VK_ -e NVIDIA_; exit 0"]
  },
  { name: "doctor", limit: 60, command: cli("doctor", "--json"), needed: true },
  { name: "adapter", limit: 30, command: program("gpu", "--only=adapter") },
  {
    name: "cases",
    limit: small ? 60 : 110,
    command: program("cases", `--deadline=${small ? 15 : 90}`, ...(small ? ["--only=swiglu"] : []))
  },
  { name: "products", limit: 60, command: program("gpu", "--only=products,attention", ...(small ? ["--small"] : [])) },
  profile("nulls-1b", "f16"),
  profile("smol-360m", "f16"),
  profile("smol-360m", "f32"),
  profile("smol-360m", "f16", "disable_robustness"),
  torch("smol-360m"),
  torch("nulls-1b"),
  { name: "parity", limit: 60, command: program("parity") },
  {
    name: "pretrain-killed",
    limit: 90,
    command: cli(...pretrain, "--out-dir", run, ...(small ? ["--preset", "tiny", "--batch", "2", "--seq", "32"] : [
      "--preset",
      "smol-135m",
      "--batch",
      "8",
      "--seq",
      "1024"
    ]), "arms=[standard]", "precision=f16"),
    killAt: { folder: run, step: killed }
  },
  { name: "pretrain-resumed", limit: 90, command: cli("pretrain", "--resume", run, "--force") },
  {
    name: "generate",
    limit: 40,
    command: cli("generate", "--checkpoint", path.join(run, "seed-1", "standard"), "--prompt", "The state of",
      "--max-new-tokens", "32")
  }
]

const files = (folder: string): ReadonlyArray<string> =>
  fs.existsSync(folder)
    ? fs.readdirSync(folder, { recursive: true, encoding: "utf8" }).map((file) => path.join(folder, file))
    : []

/** Whether any metrics below a folder tell of a step. */
const reached = (folder: string, step: number): boolean =>
  files(folder).filter((file) => file.endsWith("metrics.jsonl")).some((file) =>
    fs.readFileSync(file, "utf8").split("\n").some((line) => {
      try {
        const event = JSON.parse(line) as { readonly _tag: string; readonly step: number }
        return event._tag === "Stepped" && event.step >= step
      } catch {
        return false
      }
    })
  )

interface Outcome {
  readonly code: number | null
  readonly seconds: number
  readonly end: "ended" | "timed out" | "killed as planned"
  readonly lines: number
}

const perform = ({ command, environment, killAt, limit, name }: Stage): Promise<Outcome> =>
  new Promise((resolve) => {
    const began = performance.now()
    const seconds = (): number => (performance.now() - began) / 1000
    const output = path.join(out, `${name}.jsonl`)
    const [stdout, stderr] = [fs.openSync(output, "w"), fs.openSync(path.join(out, `${name}.log`), "w")]
    // a group of its own, so that what it starts ends with it
    const child = spawn(command[0]!, command.slice(1), {
      stdio: ["ignore", stdout, stderr],
      detached: true,
      env: { ...process.env, ...environment }
    })
    let end: Outcome["end"] = "ended"
    const kill = (why: Outcome["end"]): void => {
      end = why
      try {
        process.kill(-child.pid!, "SIGKILL")
      } catch {
        // it ended by itself meanwhile
      }
    }
    const watch = setInterval(() => {
      if (seconds() > limit) kill("timed out")
      else if (killAt !== undefined && reached(killAt.folder, killAt.step)) kill("killed as planned")
    }, 200)
    const close = (code: number | null): void => {
      clearInterval(watch)
      fs.closeSync(stdout)
      fs.closeSync(stderr)
      const lines = fs.readFileSync(output, "utf8").split("\n").filter((line) => line !== "").length
      resolve({ code, seconds: seconds(), end, lines })
    }
    child.on("error", () => close(null))
    child.on("exit", close)
  })

const told = path.join(out, "session.jsonl")
fs.writeFileSync(told, "")
const tell = (line: object): void => {
  const text = `${JSON.stringify(line)}\n`
  fs.appendFileSync(told, text)
  process.stdout.write(text)
}

const started = performance.now()
const bad: Array<string> = []
let done = 0
for (const stage of stages) {
  const { name, needed = false, skip } = stage
  if (only !== undefined && !only.includes(name)) continue
  if (skip !== undefined) {
    tell({ bench: "stage", name, skipped: skip })
    continue
  }
  const outcome = await perform(stage)
  const good = outcome.code === 0 || outcome.end === "killed as planned"
  tell({ bench: "stage", name, good, ...outcome })
  done++
  if (good) continue
  bad.push(name)
  if (!needed) continue
  const loader = await perform({
    ...stage,
    name: `${name}-loader`,
    environment: { VK_LOADER_DEBUG: "all" }
  })
  tell({ bench: "stage", name: `${name}-loader`, good: loader.code === 0, ...loader })
  break
}
/** What a stage found, where it is a few numbers. */
const findings = (name: string): ReadonlyArray<object> =>
  fs.readFileSync(path.join(out, `${name}.jsonl`), "utf8").split("\n").flatMap((text) => {
    try {
      const line = JSON.parse(text) as Readonly<Record<string, unknown>>
      const pick = (
        ...fields: ReadonlyArray<string>
      ) => [Object.fromEntries(fields.map((field) => [field, line[field]]))]
      if ("stepSeconds" in line) {
        return pick("adapter", "kernels", "precision", "parameters", "stepSeconds", "tokensPerSecond", "kernelSeconds",
          "bestProduct", "bestCopy")
      }
      return name.startsWith("torch-") || ["cases", "parity", "transfer"].includes(String(line["bench"])) ? [line] : []
    } catch {
      return []
    }
  })
for (const { name } of stages) {
  if (!fs.existsSync(path.join(out, `${name}.jsonl`))) continue
  for (const finding of findings(name)) tell({ stage: name, ...finding })
}
tell({ bench: "session", stages: done, bad, seconds: (performance.now() - started) / 1000 })
process.exitCode = bad.length > 0 ? 1 : 0
