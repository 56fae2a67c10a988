import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberId from "effect/FiberId"
import { spawn } from "node:child_process"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { afterAll, describe, expect, it, vi } from "vitest"
import { parse } from "yaml"
import type { PretrainReport } from "../../pipelines/pretrain/Report.ts"
import { merge, override, readConfig } from "../../src/cli/config.ts"
import * as Edge from "../../src/cli/Edge.ts"
import { DataError } from "../../src/Errors.ts"
import { memsinksHere } from "../support/stdout.ts"

const root = fileURLToPath(new URL("../..", import.meta.url))
const folder = mkdtempSync(join(tmpdir(), "memsinks-cli-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

interface Result {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** The command line in a process of its own, in pipes; `watch` sees stderr grow and may send signals. */
const memsinks = (
  args: ReadonlyArray<string>,
  { env = {}, watch = () => {} }: {
    readonly env?: Record<string, string>
    readonly watch?: (stderr: string, kill: (signal: NodeJS.Signals) => void) => void
  } = {}
): Promise<Result> => {
  const { CI, FORCE_COLOR, NO_COLOR, ...inherited } = process.env
  const child = spawn(process.execPath, ["--import", "tsx", "src/cli.ts", ...args], {
    cwd: root,
    env: { ...inherited, ...env },
    stdio: ["ignore", "pipe", "pipe"]
  })
  let [stdout, stderr] = ["", ""]
  child.stdout.on("data", (data) => void (stdout += data))
  child.stderr.on("data", (data) => {
    stderr += data
    watch(stderr, (signal) => child.kill(signal))
  })
  return new Promise((resolve, reject) => {
    child.on("error", reject)
    child.on("close", (code) => resolve({ code, stdout, stderr }))
  })
}

/** Small enough for seconds. */
const small = [
  "data.tokenizer=bytes",
  "data.seqLen=32",
  "data.repeatedSequences=2",
  "data.repeats=4",
  "data.singleSequences=8",
  "data.heldOutSequences=2",
  "model.hiddenSize=16",
  "model.numHiddenLayers=1",
  "model.numAttentionHeads=1",
  "model.intermediateSize=64",
  "model.sinks.pool=32",
  "model.sinks.active=16"
]

/** A text to train on, so that no test needs the optional corpus. */
const text = join(folder, "text.txt")
writeFileSync(
  text,
  Array.from({ length: 200 }, (_, i) => `Line ${i} of a text that says ${i * i} things, ${i % 7} of them twice.\n`)
    .join("")
)

describe("help", () => {
  it.each([
    ["help", ["--help"]],
    ["help-pretrain", ["pretrain", "--help"]],
    ["help-isolate", ["isolate", "--help"]],
    ["help-dynamics", ["dynamics", "--help"]],
    ["help-study", ["study", "--help"]],
    ["help-plan", ["plan", "--help"]],
    ["help-profile", ["profile", "--help"]],
    ["help-doctor", ["doctor", "--help"]],
    ["help-runs", ["runs", "--help"]],
    ["help-inspect", ["inspect", "--help"]]
  ])("%s is plain text on stdout", async (name, args) => {
    // even where colours are forced: help has none
    const { code, stderr, stdout } = await memsinksHere(args, { FORCE_COLOR: "1" })
    expect([code, stderr]).toEqual([0, ""])
    expect(stdout).not.toContain("\u001b")
    // a screen
    const lines = stdout.split("\n")
    expect([lines.length <= 40, lines.every((line) => line.length <= 110)]).toEqual([true, true])
    await expect(stdout).toMatchFileSnapshot(`../fixtures/${name}.txt`)
  })
})

describe("profile", () => {
  it("times a step's kernels, writes a trace, and prints one JSON object", async () => {
    const trace = join(folder, "step.json")
    const shape = ["model.numHiddenLayers=1", "model.hiddenSize=32", "model.numAttentionHeads=1"]
    const { code, stdout } = await memsinks(
      ["profile", "--batch", "1", "--seq", "16", "--steps", "1", "--json", "--trace", trace, ...shape]
    )
    expect(code).toBe(0)
    const found = JSON.parse(stdout) as { rows: number; seqLen: number; dispatches: ReadonlyArray<{ label: string }> }
    expect(found).toMatchObject({ rows: 1, seqLen: 16, precision: "f32" })
    const events =
      (JSON.parse(readFileSync(trace, "utf8")) as { traceEvents: ReadonlyArray<{ name: string }> }).traceEvents
    expect(events.slice(2).map(({ name }) => name)).toEqual(found.dispatches.map(({ label }) => label))
  }, 60_000)
})

describe("wrong usage", () => {
  const file = join(folder, "config.yaml")
  writeFileSync(file, "training:\n  optimiser:\n    learningRate: 1.0e-3\n")
  it.each<readonly [what: string, args: ReadonlyArray<string>, message: RegExp]>([
    ["an unknown arm", ["isolate", "--arms", "standard,neverRepeated,sink"], /^error: [^]*Did you mean sinks\?\n$/],
    ["an unknown arm of dynamics", ["dynamics", "--arms", "standard,sink"], /^error: [^]*Did you mean sinks\?\n$/],
    [
      "a field of the configuration for a run that was made",
      ["dynamics", "--from", folder, "probeEvery=4"],
      /^error: --from looks at a run as it is: leave .* fields of the configuration out\n$/
    ],
    ["arms for a run that was made", ["dynamics", "--from", folder, "--arms", "sinks"],
      /^error: --from .*--arms.* out\n$/],
    [
      "an id that is missing between commas",
      ["dynamics", "--from", folder, "--ids", "1,,2"],
      /^error: --ids takes numbers or names, with commas between them .*; got 1,,2\n$/
    ],
    ["ids of no run", ["dynamics", "--ids", "1"],
      /^error: --ids chooses among the sequences of a run: name it with --from\n$/],
    [
      "exposures further apart than the run is long, with the group",
      ["dynamics", "--preset", "quick", "groups=[{name: often, sequences: 2, every: 9999}]"],
      /^error: .*\n {2}groups: often: every is 9999 steps, but .* between steps 0 and (\d+) of \1: lower every, or raise .*\n$/
    ],
    ["rows a batch below 1", ["generate", "--checkpoint", "x", "--prompt", "a", "--batch", "-1"],
      /^error: --batch must be a whole number of at least 1, got -1\n$/],
    ["no arm at once", ["dynamics", "--jobs", "0"], /^error: --jobs must be a whole number of at least 1, got 0\n$/],
    ["more than all", ["generate", "--checkpoint", "a", "--prompt", "b", "--least", "2"],
      /^error: --least must be a number from 0 to 1, got 2\n$/],
    ["no step", ["pretrain", "--steps", "0"], /^error: --steps must be a whole number of at least 1, got 0\n$/],
    ["half of a comparison", ["isolate", "--checkpoint", "x"], /^error: --checkpoint and --against go together.*\n$/],
    ["an unknown option", ["pretrain", "--outdir", "x"], /^error: .* --outdir\. Did you mean --out-dir\?\n$/],
    ["an option without its value", ["pretrain", "--seeds"], /^error: the option --seeds needs a value\n$/],
    ["an unknown command", ["pretrian"], /^error: there is no command pretrian\. Did you mean pretrain\?\n$/],
    ["a word that sets nothing", ["pretrain", "steps"], /^error: expected key=value, e\.g\. .*, got "steps"\n$/],
    ["a seed that is no number", ["pretrain", "--seed", "x"], /^error: --seed expects a whole number, got "x"\n$/],
    ["a shape that nobody named", ["plan", "--preset", "smol-2b"],
      /^error: --preset expects tiny, smol-135m, .* or nulls-1b, got "smol-2b"\n$/],
    ["a size that is none", ["plan", "--memory", "80 G"],
      /^error: --memory expects a size, e\.g\. 2GiB, .*, got "80 G"\n$/],
    [
      "rows longer than the model's context",
      ["plan", "--preset", "tiny", "--seq", "4096"],
      /^error: rows of 4096 tokens exceed the model's maxPositionEmbeddings of 2048\n$/
    ],
    [
      "an unknown key, with the known one",
      ["pretrain", "training.optimizer.learningrate=1"],
      /^error: .*:\n {2}training\.optimizer\.learningrate: is not a known key\. Did you mean learningRate\?\n$/
    ],
    [
      "an unknown key in a file",
      ["pretrain", "--config", file],
      /^error: .*:\n {2}training\.optimiser: is not a known key\. Did you mean optimizer\?\n$/
    ]
  ])("names %s once and exits with 2", async (_, args, message) => {
    const { code, stderr, stdout } = await memsinksHere(args)
    expect(stderr).toMatch(message)
    expect([code, stdout]).toEqual([2, ""])
  })

  it("does so in a process of its own", async () => {
    const { code, stderr, stdout } = await memsinks(["pretrain", "--outdir", "x"])
    expect(stderr).toMatch(/^error: .* --outdir\. Did you mean --out-dir\?\n$/)
    expect([code, stdout]).toEqual([2, ""])
  })
})

describe("failures", () => {
  it("of data exit with 1 and one message, red where colour is wanted", async () => {
    const missing = join(folder, "missing.txt")
    const { code, stderr, stdout } = await memsinks(
      ["pretrain", "--data", missing, "--out-dir", join(folder, "missing"), "-q"],
      { env: { FORCE_COLOR: "1" } }
    )
    expect([code, stdout]).toEqual([1, ""])
    const errors = stderr.split("\n").filter((line) => line.includes("error"))
    expect(errors).toHaveLength(1)
    expect(errors[0]).toMatch(new RegExp(`^\u001b\\[31merror:\u001b\\[39m ${missing}: there is no such file`))
    expect(stderr).not.toMatch(/^\s+at /m)
  })

  it("to find a run to replay exit with 1 and leave nothing behind", async () => {
    const outDir = join(folder, "replayed")
    const { code, stderr, stdout } = await memsinksHere(["dynamics", "--from", folder, "--out-dir", outDir, "-q"])
    expect([code, stdout]).toEqual([1, ""])
    expect(stderr).toBe(
      `error: ${folder}: there is no run: neither it nor a folder above it has a run.json. ` +
        "Name the folder of a run of memsinks pretrain or memsinks dynamics\n"
    )
    expect(existsSync(outDir)).toBe(false)
  })

  it("to resume where there is nothing exit with 1", async () => {
    const { code, stderr } = await memsinksHere(["pretrain", "--resume", "--out-dir", folder])
    expect(stderr).toMatch(/^error: .*holds no run to resume: leave --resume out to start one there.*\n$/)
    expect(code).toBe(1)
  })
})

describe("the plan", () => {
  // an adapter that does not exist: opening one would fail
  const env = { MEMSINKS_ADAPTER: "no such thing" }

  it("prints what a run takes, from options, presets and the keys of a run, without a GPU", async () => {
    const { code, stderr, stdout } = await memsinksHere(
      ["plan", "--preset", "smol-1.7b", "--batch", "8", "--seq", "2048", "training.gradientAccumulation=2"],
      env
    )
    expect([code, stderr]).toEqual([0, ""])
    expect(stdout.split("\n").slice(0, 3)).toEqual([
      "smol-1.7b: 1,711,376,384 parameters; f32; of a vocabulary of 49,152, and a run takes that of its data",
      "a step: 2 batches of 8 rows of 2,048 tokens, 32,768 tokens",
      ""
    ])
    const lines = ["weights +6\\.38", "gradients +6\\.38", "optimizer +12\\.75", "activations +\\d+", "peak +\\d+"]
    for (const line of lines) {
      expect(stdout).toMatch(new RegExp(`^${line}.* GiB$`, "m"))
    }
    expect(stdout).toMatch(/\nlargest buffer: .*, \d\.\d\d GiB\n$/)
  })

  it("takes precision and recomputation as options, and exits with 0 where a limit holds all", async () => {
    const activations = async (...more: ReadonlyArray<string>) => {
      const { code, stderr, stdout } = await memsinksHere(["plan", "--preset", "smol-135m", "--json", ...more], env)
      expect([code, stderr]).toEqual([0, ""])
      const { bytes, limits, pass } = JSON.parse(stdout)
      return { bytes: bytes.activations as number, fits: limits?.fits, pass }
    }
    const plain = await activations("--limit", "2GiB")
    const small = await activations("--precision", "f16", "--recompute")
    expect([plain.fits, small.fits]).toEqual([true, undefined])
    expect(plain.pass).toMatchObject({ precision: "f32", recompute: false })
    expect(small.pass).toMatchObject({ precision: "f16", recompute: true })
    expect(small.bytes).toBeLessThan(plain.bytes)
    // as a key of the run it is the same, and the last one counts
    expect(await activations("--precision", "f32", "precision=f16", "recompute=true")).toEqual(small)
  })

  it("says which buffers exceed a limit and what would fit, in words, and exits with 1", async () => {
    const { code, stderr, stdout } = await memsinksHere(
      ["plan", "--preset", "tiny", "--batch", "8", "--seq", "64", "--memory", "1GiB", "--limit", "1e6"],
      env
    )
    expect(code).toBe(1)
    expect(stderr).toBe(
      "error: the run does not fit: layers.*.gateUp takes 1.09 MiB, a buffer holds 0.95 MiB [device: Limit]\n"
    )
    const [, table, sentence] = /^limit: 0\.95 MiB .*\n(tensor[\s\S]*)\n(The nearest .*)\n$/m.exec(stdout)!
    expect(table).toMatch(/^tensor +size +limit\nlayers\.\*\.gateUp f32\[4480, 64\] +1\.1 MiB +976\.6 KiB$/)
    expect(sentence).toBe(
      "The nearest setting that fits: sinks.pool 1760, intermediateSize 1952 (512 tokens a step as before)."
    )
  })

  it("prints one JSON object, of which a limit and the nearest setting are a part", async () => {
    const model = ["model.sinks.pool=512", "model.intermediateSize=704"]
    const args = ["plan", "--preset", "tiny", "--batch", "8", "--json", ...model]
    const object = async (exit: number, ...more: ReadonlyArray<string>) => {
      const { code, stderr, stdout } = await memsinksHere([...args, ...more], env)
      expect(code, stderr).toBe(exit)
      expect(stdout.split("\n")).toHaveLength(2)
      return JSON.parse(stdout)
    }
    const gathered = await object(0)
    expect(gathered).toMatchObject({
      model: { intermediateSize: 704, sinks: { pool: 512 } },
      parameters: 319_808,
      pass: { rows: 8, seqLen: 64, precision: "f32", recompute: false },
      tokensPerStep: 512,
      bytes: { weights: 319_808 * 4, gradients: 319_808 * 4, optimizer: 2 * 319_808 * 4 },
      largest: { name: "layers.0.gate_up", bytes: 512 * 2 * (192 + 32) * 4 },
      limits: null
    })
    const masked = await object(1, "compute=masked", "--limit", "300KiB")
    expect(masked.bytes.activations).toBeGreaterThan(gathered.bytes.activations)
    expect(masked.limits).toMatchObject({
      adapter: null,
      buffer: 300 * 1024,
      memory: null,
      fits: false,
      // a token's 592 gates and ups: 64 of them and the weights of as many are just below the limit
      nearest: { batchSize: 1, seqLen: 64, gradientAccumulation: 8, pool: 400, intermediateSize: 592 }
    })
    expect(masked.limits.tooLarge[0]).toEqual({
      name: "layers.*.gate_up",
      shape: [512, 1408],
      type: "f32",
      bytes: 512 * 1408 * 4
    })
  })

  it("takes the limit of an adapter, and refuses f16 where that has none", async () => {
    const args = ["plan", "--preset", "tiny", "--json", "--adapter"]
    const { code, stderr, stdout } = await memsinksHere([...args, "null"])
    expect(code, stderr).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({
      limits: { adapter: "null backend", buffer: 2 ** 27, memory: null, fits: true, tooLarge: [] }
    })
    const f16 = await memsinksHere([...args, "swiftshader", "precision=f16"])
    expect([f16.code, f16.stdout]).toEqual([1, ""])
    expect(f16.stderr).toMatch(/^error: SwiftShader.* does not compute in f16: .*shader-f16/m)
    const run = await memsinksHere(["pretrain", "--adapter", "swiftshader", "--out-dir", join(folder, "f16"),
      "precision=f16"])
    expect([run.code, run.stdout]).toEqual([1, ""])
    expect(run.stderr).toMatch(/^error: SwiftShader.* does not compute in f16: .*shader-f16/m)
    expect(existsSync(join(folder, "f16"))).toBe(false)
  })
})

describe("the doctor", () => {
  it("prints one JSON object about the adapter that is taken", async () => {
    const { code, stderr, stdout } = await memsinksHere(["doctor", "--json", "--adapter", "software"])
    expect(code, stderr).toBe(0)
    expect(stdout.split("\n")).toHaveLength(2)
    expect(JSON.parse(stdout)).toMatchObject({ adapter: { kind: "software" }, kernel: { correct: true } })
  })

  it("exits with 1 and advice where there is no such adapter", async () => {
    const { code, stderr, stdout } = await memsinksHere(["doctor", "--adapter", "no such thing"])
    expect([code, stdout]).toEqual([1, ""])
    expect(stderr).toMatch(/^error: .*no such thing/m)
  })
})

describe("a run", () => {
  it("prints one JSON object, takes its configuration from file, options and arguments, leaves a report", async () => {
    const config = join(folder, "run.yaml")
    writeFileSync(config, "training: { steps: 4, logEvery: 2 }\ndata: { seed: 5, batchSize: 1 }\nevaluations: 1\n")
    const outDir = join(folder, "json")
    const { code, stderr, stdout } = await memsinks([
      "pretrain",
      ...small,
      "training.logEvery=3",
      "--json",
      "--seeds",
      "2",
      "--seed",
      "7",
      "--config",
      config,
      "--data",
      text,
      "--out-dir",
      outDir
    ])
    expect(code, stderr).toBe(0)
    expect(stdout.endsWith("}\n") && stdout.split("\n").length === 2).toBe(true)
    const report = JSON.parse(stdout) as PretrainReport
    expect(report.seeds).toEqual([7, 8])
    expect(report.config).toMatchObject({
      seeds: 2,
      // options go over the file, arguments over both, and what nobody names keeps its default
      data: { seed: 7, data: text, batchSize: 1, seqLen: 32 },
      training: { steps: 4, logEvery: 3, gradientAccumulation: 1 }
    })
    expect(report.versions["memsinks"]).toMatch(/^\d+\.\d+\.\d+/)
    expect(stderr).toContain(`results go to ${outDir}`)
    expect(stderr).toContain("sinks 5/6 (seed 8): finished 4 steps")
    expect(stderr).not.toMatch(/[\r\u001b]/)
    expect(JSON.parse(readFileSync(join(outDir, "report.json"), "utf8"))).toEqual(report)
    expect(readFileSync(join(outDir, "report.md"), "utf8")).toContain("| repeated |")
    expect(readFileSync(join(outDir, "report.html"), "utf8")).toContain("<svg")
    const record = JSON.parse(readFileSync(join(outDir, "run.json"), "utf8"))
    expect(record).toMatchObject({ state: "finished", seeds: [7, 8], arms: ["standard", "sinks", "deduplicated"] })
    expect(record).toMatchObject({ versions: report.versions, adapter: report.adapter, config: report.config })
    expect(parse(readFileSync(join(outDir, "config.resolved.yaml"), "utf8"))).toEqual(report.config)
    for (const arm of record.arms) {
      const files = readdirSync(join(outDir, "seed-8", arm))
      expect(files.filter((file) => file.startsWith("events.out.tfevents."))).toHaveLength(1)
    }
  })

  it("says nothing on stderr but warnings of the driver when quiet", async () => {
    const outDir = join(folder, "quiet")
    const { code, stderr, stdout } = await memsinks(
      ["pretrain", ...small, "training.steps=2", "-q", "--data", text, "--out-dir", outDir]
    )
    expect([code, stderr.replace(/^Warning: .*\n/gm, "")]).toEqual([0, ""])
    expect(stdout).toMatch(
      /^Pretraining with memorization sinks\nSwitching the sinks off [^]*\nloss, nats a token +standard +own sinks +sinks off +placebo/
    )
    expect(stdout).not.toContain("\u001b")
  })

  it.each([["SIGINT", 130], ["SIGTERM", 143], ["SIGHUP", 129]] as const)(
    "that gets %s saves, tells how to go on, exits with %i",
    async (signal, expected) => {
      const outDir = join(folder, signal)
      let sent = false
      const args = ["pretrain", ...small, "training.steps=1000000", "evaluations=0", "--data", text, "--out-dir",
        outDir]
      const { code, stderr, stdout } = await memsinks(args, {
        watch: (soFar, kill) => {
          if (sent || !soFar.includes("step 10/1000000")) return
          sent = true
          kill(signal)
        }
      })
      expect(code, stderr).toBe(expected)
      expect(stdout).toBe("")
      expect(stderr).toContain(`interrupted; go on with: memsinks pretrain --resume --out-dir ${outDir}\n`)
      expect(stderr).not.toContain("error")
      expect(existsSync(join(outDir, "seed-1", "standard", "latest"))).toBe(true)
      const left = (file: string) => existsSync(join(outDir, file))
      expect([JSON.parse(readFileSync(join(outDir, "run.json"), "utf8")).state, left("lock")]).toEqual(["interrupted",
        false])
    }
  )
})

describe("the edge", () => {
  const codeOf = (cause: Cause.Cause<unknown>) => {
    let code: number | undefined
    Edge.teardown(Exit.failCause(cause), (it) => void (code = it))
    return code
  }

  it("turns what became of a command into an exit code", () => {
    const interrupted = Cause.interrupt(FiberId.none)
    expect(codeOf(Cause.fail(new DataError({ detail: "x" })))).toBe(1)
    expect(codeOf(Cause.fail(Edge.usage({ message: "x" })))).toBe(2)
    expect(codeOf(Cause.die("x"))).toBe(1)
    expect(codeOf(interrupted)).toBe(130)
    // saving failed on the way out: that must not look like a plain interruption
    expect(codeOf(Cause.sequential(interrupted, Cause.die("x")))).toBe(1)
  })

  it("shows a bug with a short stack and asks to report it", async () => {
    let told = ""
    const write = vi.spyOn(process.stderr, "write").mockImplementation((chunk) => {
      told += String(chunk)
      return true
    })
    try {
      await Effect.runPromiseExit(Edge.run(Effect.die(new Error("boom"))))
    } finally {
      write.mockRestore()
    }
    expect(told).toMatch(/error:.* boom\n( +at .*\n){1,5}This is a bug in memsinks: please report it/)
  })
})

describe("configuration sources", () => {
  it("are merged field by field, whole where one of the two is no struct", () => {
    const merged = merge({ a: { b: 1, c: 2 }, d: [1, 2] }, { a: { c: 3, e: 4 }, d: [5] })
    expect(merged).toEqual({ a: { b: 1, c: 3, e: 4 }, d: [5] })
    expect(merge({ a: 1 }, { a: { b: 2 } })).toEqual({ a: { b: 2 } })
    // a key that names no field must stay one, to be refused with the others
    expect(Object.keys(merge({}, JSON.parse("{\"__proto__\": 1}")) as object)).toEqual(["__proto__"])
  })

  it("take key=value with dotted keys and YAML values", () => {
    const value = (text: string) => Effect.runSync(override(text))
    expect(value("training.optimizer.learningRate=1e-3")).toEqual({ training: { optimizer: { learningRate: 0.001 } } })
    expect(value("data.data=a/b=c.txt")).toEqual({ data: { data: "a/b=c.txt" } })
    expect(value("arms=[sinks]")).toEqual({ arms: ["sinks"] })
    for (const wrong of ["seeds", "=1", "a..b=1", "seeds=[1"]) {
      expect(Exit.isFailure(Effect.runSyncExit(override(wrong)))).toBe(true)
    }
  })

  it("may be files of YAML or JSON, and nothing else", async () => {
    const read = (content: string) => {
      const file = join(folder, "source")
      writeFileSync(file, content)
      return Effect.runPromise(readConfig(file).pipe(Effect.provide(NodeFileSystem.layer), Effect.either))
    }
    expect(await read("{\"seeds\": 2}")).toMatchObject({ _tag: "Right", right: { seeds: 2 } })
    expect(await read("seeds: 2\n")).toMatchObject({ _tag: "Right", right: { seeds: 2 } })
    expect(await read("")).toMatchObject({ _tag: "Right", right: {} })
    const refusal = (text: string) => ({ _tag: "Left", left: { message: expect.stringContaining(text) } })
    expect(await read("just words")).toMatchObject(refusal("must hold fields"))
    expect(await read("a: [")).toMatchObject(refusal("is neither YAML nor JSON"))
  })
})
