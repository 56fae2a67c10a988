/** The package as a user gets it: packed, installed in an empty folder, and used from Node, Deno and TypeScript. */
import { execFile } from "node:child_process"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { afterAll, beforeAll, describe, expect, it } from "vitest"

const root = fileURLToPath(new URL("../..", import.meta.url))
const folder = mkdtempSync(join(tmpdir(), "memsinks-package-"))
const installed = join(folder, "node_modules/memsinks")

const run = promisify(execFile)

// the driver that is itself part of what npm installs, and needs no time to warm up
const env = { ...process.env, MEMSINKS_ADAPTER: "swiftshader" }

/** Runs a command in the user's folder; what it writes to standard error is part of the failure. */
const inFolder = async (command: string, ...args: ReadonlyArray<string>): Promise<string> =>
  (await run(command, args, { cwd: folder, timeout: 110_000, env })).stdout

const filesIn = (path: string): ReadonlyArray<string> => readdirSync(path, { recursive: true, encoding: "utf8" })

const kernels = readdirSync(join(root, "kernels"))
  .filter((file) => file.endsWith(".wgsl"))
  .sort()
// the experiments themselves; what they are made of stays inside
const pipelines = readdirSync(join(root, "pipelines"))
  .filter((file) => file.endsWith(".ts"))
  .map((file) => file.slice(0, -3))
  .sort()

beforeAll(async () => {
  await run("npm", ["pack", "--pack-destination", folder], { cwd: root })
  writeFileSync(join(folder, "package.json"), JSON.stringify({ private: true, type: "module" }))
  const tarball = readdirSync(folder).find((file) => file.endsWith(".tgz"))!
  await run(
    "npm",
    ["install", "--prefix", folder, "--prefer-offline", "--no-audit", "--no-fund", join(folder, tarball)],
    {
      cwd: folder
    }
  )
}, 240_000)

afterAll(() => rmSync(folder, { recursive: true, force: true }))

const everyExport = `
import { readFileSync } from "node:fs"
const kernels = ${JSON.stringify(kernels)}
const modules = ["", "/node", "/deno", ...${JSON.stringify(pipelines)}.map((name) => "/pipelines/" + name)]
const names = {}
for (const module of modules) names[module] = Object.keys(await import("memsinks" + module)).sort()
const sources = kernels.map((file) => readFileSync(new URL(import.meta.resolve("memsinks/kernels/" + file)), "utf8"))
const { Kernel } = await import("memsinks")
const own = kernels.map((file) => Kernel.source(Kernel.make({ file: file.slice(0, -5), entry: "", bindings: {} })))
console.log(JSON.stringify({ names, sources, same: JSON.stringify(sources) === JSON.stringify(own) }))
`

const expectEveryExport = (output: string): void => {
  const { names, same, sources } = JSON.parse(output) as {
    readonly names: Readonly<Record<string, ReadonlyArray<string>>>
    readonly sources: ReadonlyArray<string>
    readonly same: boolean
  }
  expect(names[""]).toEqual([
    "Attacks",
    "Calibration",
    "Certificate",
    "CheckpointError",
    "Checkpoints",
    "Collective",
    "CollectiveError",
    "DataConfig",
    "DataError",
    "DataStream",
    "Decode",
    "Depth",
    "Device",
    "DeviceError",
    "Diverged",
    "Extraction",
    "Facts",
    "Foils",
    "Forget",
    "Generate",
    "Goldfish",
    "GradientMass",
    "Gradients",
    "IGNORE",
    "Identity",
    "Kernel",
    "KernelError",
    "Localizers",
    "MemFree",
    "Membership",
    "MemoryPlan",
    "Metrics",
    "Model",
    "ModelConfig",
    "Names",
    "NearVerbatim",
    "OptimizerConfig",
    "Otlp",
    "Probe",
    "Program",
    "Prometheus",
    "Relearn",
    "Retention",
    "RunLock",
    "RunMetrics",
    "RunRecord",
    "Runs",
    "Sink",
    "SinkConfig",
    "Source",
    "Statistics",
    "Styles",
    "Synthetic",
    "Tensor",
    "TensorBoard",
    "TextMetrics",
    "Theory",
    "Timetable",
    "TokenInfluence",
    "TokenRecords",
    "TokenShards",
    "TokenizeConfig",
    "Tokenizer",
    "Traces",
    "TrainConfig",
    "TrainEvent",
    "Trainer",
    "Truth",
    "Unlearners",
    "batchOf",
    "clozeRows",
    "decodeConfig",
    "decompose",
    "documentsOf",
    "exportModel",
    "formatIdentityReport",
    "fuse",
    "fuseCheckpoints",
    "identityReport",
    "importModel",
    "inspectCheckpoint",
    "kinship",
    "learningRateAt",
    "loadFolder",
    "loadInitial",
    "loadModel",
    "makePatcher",
    "makeTuner",
    "neuronGates",
    "openCheckpoint",
    "parseId",
    "patchedDrops",
    "presets",
    "prune",
    "quantized",
    "recordRows",
    "residualStreams",
    "rowsOf",
    "saveModel",
    "scoreClozes",
    "sinkContents",
    "toId",
    "tokenize",
    "withSinks"
  ])
  for (const runtime of ["/node", "/deno"]) expect(names[runtime]).toEqual(["layer", "listAdapters", "openGpu"])
  expect(names["/pipelines/pretrain"]).toEqual(expect.arrayContaining(["PretrainConfig", "run"]))
  expect(sources).toEqual(kernels.map((file) => readFileSync(join(root, "kernels", file), "utf8")))
  expect(same).toBe(true)
}

const training = `
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { writeFileSync } from "node:fs"
import { Checkpoints, DataStream, Model, ModelConfig, SinkConfig, TrainConfig, Trainer, TrainEvent } from "memsinks"
import * as NodeDevice from "memsinks/node"

writeFileSync("tiny.txt", Array.from({ length: 200 }, (_, i) => "Line " + i + " says " + i * i).join(". "))
const config = new ModelConfig({
  vocabSize: 256,
  hiddenSize: 32,
  numHiddenLayers: 1,
  numAttentionHeads: 2,
  intermediateSize: 64 + 64,
  sinks: new SinkConfig({ pool: 64, active: 16 })
})
const data = {
  tokenizer: "bytes",
  seqLen: 32,
  repeatedSequences: 2,
  repeats: 4,
  singleSequences: 16,
  heldOutSequences: 4
}
const app = Trainer.layer(new TrainConfig({ steps: 3, logEvery: 1, evalEvery: 3 })).pipe(
  Layer.provide(Model.layer(config)),
  Layer.provide(DataStream.layerText("tiny.txt", data)),
  Layer.provide(Checkpoints.layerFileSystem("runs/a")),
  Layer.provide(NodeDevice.layer()),
  Layer.provide(NodeContext.layer)
)
const main = Effect.gen(function*() {
  const trainer = yield* Trainer
  const print = (event) => Effect.sync(() => process.stdout.write(TrainEvent.toJsonLine(event)))
  yield* trainer.run.pipe(Stream.runForEach(print))
})
await Effect.runPromise(main.pipe(Effect.provide(app)))
`

const typed = `
import { type Batch, Checkpoints, DataStream, Model, ModelConfig, presets, Sink } from "memsinks"
import { TrainConfig, TrainEvent, Trainer } from "memsinks"
import * as DenoDevice from "memsinks/deno"
import * as NodeDevice from "memsinks/node"
import { PretrainConfig } from "memsinks/pipelines/pretrain"
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"

const app = Trainer.layer(new TrainConfig({ steps: 3 })).pipe(
  Layer.provide(Model.layer(presets.tiny)),
  Layer.provide(DataStream.layerText("tiny.txt")),
  Layer.provide(Checkpoints.layerFileSystem("runs/a")),
  Layer.provide(NodeDevice.layer()),
  Layer.provide(NodeContext.layer)
)
const main = Effect.gen(function*() {
  const trainer = yield* Trainer
  yield* trainer.run.pipe(Stream.tap(TrainEvent.log), Stream.runDrain)
})
export const finished: Promise<void> = Effect.runPromise(main.pipe(Effect.provide(app)))
export const units = (batch: Batch): Uint32Array => Sink.unitsOf(presets.tiny.sinks!, batch.ids[0]!)
export const width: number = new ModelConfig(presets.tiny).hiddenSize
export const config = PretrainConfig
// an error, unless GPU is a type
// @ts-expect-error
DenoDevice.layer({ gpu: "none" })
`

describe("the package", () => {
  it("holds what runs, its types and the kernels, and nothing else of the repository", () => {
    const files = filesIn(installed).filter((file) => file.includes("."))
    const expected = [
      /^(package\.json|README\.md|LICENSE|CHANGELOG\.md)$/,
      /^dist\/(src|pipelines)\/.+\.(js|d\.ts)$/,
      /^dist\/kernels\/([a-z_]+\.wgsl|README\.md)$/,
      /^dist\/pipelines\/((isolate|dynamics|sweep)\.config|pretrain|isolation|dynamics|sweep|study|studies)\.schema\.json$/,
      /^dist\/man\/memsinks(-[a-z]+)?\.1$/,
      /^dist\/src\/data\/corpora\/state-of-the-union\.jsonl\.gz$/
    ]
    expect(files.filter((file) => !expected.some((pattern) => pattern.test(file)))).toEqual([])
    expect(
      readdirSync(join(installed, "dist/kernels"))
        .filter((file) => file.endsWith(".wgsl"))
        .sort()
    ).toEqual(kernels)
  })

  it("comes with one copy of effect, so that there is one set of tags", () => {
    const copies = filesIn(join(folder, "node_modules")).filter((file) =>
      /(^|node_modules[\\/])effect[\\/]package\.json$/.test(file)
    )
    expect(copies).toHaveLength(1)
  })

  it("gives every export on Node, kernels included", async () => {
    writeFileSync(join(folder, "exports.mjs"), everyExport)
    expectEveryExport(await inFolder(process.execPath, "exports.mjs"))
  })

  it("gives every export on Deno, kernels included", async (context) => {
    const version = await inFolder("deno", "--version").catch(() => undefined)
    if (version === undefined) return context.skip("there is no deno on the PATH")
    writeFileSync(join(folder, "exports.mjs"), everyExport)
    expectEveryExport(await inFolder("deno", "run", "-A", "exports.mjs"))
  })

  it("trains three steps through its public names on Node, and the process ends by itself", async () => {
    writeFileSync(join(folder, "train.mjs"), training)
    const events = (await inFolder(process.execPath, "train.mjs"))
      .trim()
      .split("\n")
      .map(
        (line) =>
          JSON.parse(line) as {
            readonly _tag: string
            readonly step: number
            readonly loss?: number
          }
      )
    expect(events.map(({ _tag, step }) => `${_tag} ${step}`)).toEqual([
      "Started 0",
      "Stepped 1",
      "Stepped 2",
      "Stepped 3",
      "Evaluated 3",
      "Saved 3",
      "Finished 3"
    ])
    // a fresh model of 256 bytes knows nothing: ln 256 = 5.55 nats
    expect(Math.abs(events[1]!.loss! - Math.log(256))).toBeLessThan(0.5)
    expect(existsSync(join(folder, "runs/a/step-00000003/model.safetensors"))).toBe(true)
  })

  it("type-checks where it is used, strictly and with the types of its dependencies", async () => {
    writeFileSync(join(folder, "use.ts"), typed)
    const compilerOptions = { noEmit: true, strict: true, module: "nodenext", target: "es2022", types: [] }
    writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions, files: ["use.ts"] }))
    await inFolder(process.execPath, join(root, "node_modules/typescript/bin/tsc"), "-p", ".").catch(
      (error: { stdout: string }) => expect.fail(error.stdout)
    )
  })

  it("has a command that explains itself", async () => {
    expect(await inFolder("npx", "--no-install", "memsinks", "--help")).toContain("pretrain")
  })
})
