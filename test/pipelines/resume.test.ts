import * as NodeContext from "@effect/platform-node/NodeContext"
import { it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { existsSync, readFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect } from "vitest"
import { PretrainConfig, run } from "../../pipelines/pretrain.ts"
import { optionsOf, readWords } from "../../src/cli/arguments.ts"
import { pretrain } from "../../src/cli/commands/pretrain.ts"
import { dryRun } from "../../src/cli/dryRun.ts"
import { whereOf } from "../../src/cli/resume.ts"
import { DataConfig } from "../../src/data/stream/DataConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import { printedBy } from "../support/stdout.ts"
import { makeRandomText, miniatureModel } from "../support/support.ts"

const root = mkdtempSync(join(tmpdir(), "memsinks-resume-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

describe("--resume", () => {
  it("may stand alone, before options and keys, or name a run", () => {
    const read = (...words: ReadonlyArray<string>) => {
      const read = readWords(words, optionsOf(pretrain))
      return "_tag" in read ? read.message : [read.options.get("--resume"), read.options.has("--json"), read.positional]
    }
    expect(read("--resume")).toEqual([["latest"], false, []])
    expect(read("--resume", "--json")).toEqual([["latest"], true, []])
    expect(read("--resume", "seeds=2")).toEqual([["latest"], false, ["seeds=2"]])
    expect(read("--resume", "auto")).toEqual([["auto"], false, []])
    expect(read("--resume", "runs/p=0.3")).toEqual([["runs/p=0.3"], false, []])
    expect(read("--resume=runs/a", "--json")).toEqual([["runs/a"], true, []])
  })

  const where = (resume: string | undefined, outDir: string | undefined, runs: string) =>
    whereOf({ resume: Option.fromNullable(resume), outDir: Option.fromNullable(outDir) }, "pretrain", runs).pipe(
      Effect.provide(NodeContext.layer)
    )
  const makeRun = (folder: string, state: string) => {
    mkdirSync(folder, { recursive: true })
    writeFileSync(join(folder, "run.json"), JSON.stringify({ kind: "pretrain", state }))
    return folder
  }

  it.effect("finds the run that is meant, and tells a missing one from one to begin", () =>
    Effect.gen(function*() {
      const runs = join(root, "runs")
      const fresh = { folder: expect.stringMatching(/runs\/pretrain-\d{4}-/), resume: false }
      expect(yield* where(undefined, undefined, runs)).toEqual(fresh)
      expect(yield* where(undefined, "a", runs)).toEqual({ folder: "a", resume: false })
      expect(yield* where("auto", undefined, runs)).toEqual(fresh)
      const missing = yield* Effect.flip(where("latest", undefined, runs))
      expect(missing).toMatchObject({ _tag: "CheckpointError", reason: "Missing" })

      const older = makeRun(join(runs, "pretrain-2020"), "running")
      const latest = makeRun(join(runs, "pretrain-2021"), "finished")
      expect(yield* where("latest", undefined, runs)).toEqual({ folder: latest, resume: true })
      // what is finished needs no going on
      expect(yield* where("auto", undefined, runs)).toEqual({ folder: older, resume: true })
      expect(yield* where("auto", latest, runs)).toEqual({ folder: latest, resume: true })
      expect(yield* where("auto", join(runs, "new"), runs)).toEqual({ folder: join(runs, "new"), resume: false })
      // whoever says latest does not want to begin
      expect(yield* where("latest", join(runs, "new"), runs)).toEqual({ folder: join(runs, "new"), resume: true })
      expect(yield* where("some/where", undefined, runs)).toEqual({ folder: "some/where", resume: true })
      expect(yield* Effect.flip(where("some/where", "else", runs))).toMatchObject({ _tag: "Usage" })
    }))
})

describe("a finished run", () => {
  const text = join(root, "long.txt")
  writeFileSync(text, makeRandomText(3)(8000))
  const config = (steps: number, schedule: "constant" | "cosine", more: object = {}) =>
    new PretrainConfig({
      data: {
        data: text,
        tokenizer: "bytes",
        seqLen: 16,
        batchSize: 2,
        repeatedSequences: 4,
        repeats: 3,
        singleSequences: 40,
        heldOutSequences: 10
      },
      model: miniatureModel,
      training: { steps, optimizer: { schedule, warmupSteps: 1, ...more } },
      arms: ["sinks"],
      evaluations: 0
    })
  const train = (config: PretrainConfig, folder: string, resume: boolean) =>
    run(config, { device: NodeDevice.layer(), outDir: join(root, folder), resume }).pipe(
      Effect.provide(NodeContext.layer),
      Effect.exit
    )
  const weights = (folder: string) =>
    readFileSync(join(root, folder, "seed-1", "sinks", "step-00000006", "model.safetensors"))

  it("goes on for more steps, at a constant rate as if it had been asked for them at once", async () => {
    expect(Exit.isSuccess(await Effect.runPromise(train(config(4, "constant"), "longer", false)))).toBe(true)
    const longer = await Effect.runPromise(train(config(6, "constant"), "longer", true))
    expect(Exit.isSuccess(longer) && longer.value.arms[0]!.steps).toBe(6)
    expect(Exit.isSuccess(await Effect.runPromise(train(config(6, "constant"), "whole", false)))).toBe(true)
    expect(weights("longer").equals(weights("whole"))).toBe(true)
    // neither shorter, nor another rate
    const shorter = await Effect.runPromise(train(config(5, "constant"), "longer", true))
    expect(JSON.stringify(shorter)).toContain("training.steps is 5, was 6")
    const other = await Effect.runPromise(train(config(8, "constant", { learningRate: 1 }), "longer", true))
    expect(JSON.stringify(other)).toContain("training.optimizer.learningRate is 1")
  }, 60_000)

  it("needs its data before there is a folder", async () => {
    const missing = new PretrainConfig({ data: { data: join(root, "nowhere.txt") } })
    const failed = await Effect.runPromise(train(missing, "unmade", false))
    expect(JSON.stringify(failed)).toContain("there is no such file")
    expect(existsSync(join(root, "unmade"))).toBe(false)
  })
})

describe("a dry run", () => {
  const text = join(root, "text.txt")
  writeFileSync(text, makeRandomText(3)(8000))
  const config = new PretrainConfig({
    data: new DataConfig({
      data: text,
      tokenizer: "bytes",
      seqLen: 16,
      batchSize: 2,
      repeatedSequences: 4,
      repeats: 3,
      singleSequences: 40,
      heldOutSequences: 10
    }),
    model: miniatureModel
  })
  const printed = (json: boolean) =>
    printedBy(() => Effect.runPromise(dryRun(config, json).pipe(Effect.provide(NodeContext.layer))))

  it("tells configuration, data, steps and memory, without a GPU", async () => {
    const told = await printed(false)
    expect(told).toContain("  seqLen: 16\n")
    expect(told).toContain(
      "an epoch: 26 batches of 2 rows of 16 tokens; 52 sequences, 832 tokens scored, 0.0 % padding\n"
    )
    expect(told).toContain("ids: 44, one a row; 4 sequences 3 times\n")
    expect(told).toContain("training: 26 steps, 832 tokens, 1.00 epochs\n")
    expect(told).toMatch(/\npeak +0\.\d\d MiB\n/)
  })

  it("is one JSON object on request", async () => {
    const told = await printed(true)
    expect(told.split("\n")).toHaveLength(2)
    expect(JSON.parse(told)).toMatchObject({
      config: { data: { seqLen: 16 }, seeds: 1 },
      data: { batchesPerEpoch: 26, distinctIds: 44 },
      steps: 26,
      tokens: 832,
      parameters: miniatureModel.numParameters,
      // the norms' weights, three of 128 bytes, begin at multiples of 256
      memory: { weights: miniatureModel.numParameters * 4 + 3 * 128 }
    })
  })
})
