import * as NodeContext from "@effect/platform-node/NodeContext"
import { it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs"
import { hostname, tmpdir } from "node:os"
import { basename, join } from "node:path"
import { afterAll, beforeAll, describe, expect } from "vitest"
import { Checkpoints } from "../../src/checkpoints/Checkpoints.ts"
import type { InspectOptions } from "../../src/cli/commands/inspect.ts"
import { inspect, sparkline } from "../../src/cli/inspect.ts"
import { ago, runs } from "../../src/cli/runs.ts"
import { huggingFaceConfig } from "../../src/model/HuggingFace.ts"
import * as RunLock from "../../src/runs/RunLock.ts"
import * as Runs from "../../src/runs/Runs.ts"
import { bytes as size } from "../../src/Terminal.ts"
import { Evaluated, Finished, Started, Stepped, toJsonLine } from "../../src/train/TrainEvent.ts"
import { printedBy } from "../support/stdout.ts"
import { miniatureModel } from "../support/support.ts"

const root = mkdtempSync(join(tmpdir(), "memsinks-runs-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

const started = (steps: number) =>
  new Started({ step: 0, steps, parameters: 100, activeParameters: 50, tokensPerStep: 64, adapter: "test" })
const stepped = (step: number, loss: number) =>
  new Stepped({ step, steps: 40, loss, gradNorm: 1, learningRate: 1, tokens: 64 * step, tokensPerSecond: 1234 })
const evaluated = (step: number, off: number) =>
  new Evaluated({ step, losses: { "repeated.own": 1, "heldOut.own": off + 1, "heldOut.off": off } })

/** A run's folder as a process leaves it; `state` is what it says of itself. */
const makeRun = (name: string, state: string, fields: object = {}) => {
  const folder = join(root, name)
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, "run.json"), JSON.stringify({
    kind: "pretrain",
    state,
    versions: { memsinks: "9" },
    seeds: [3],
    arms: ["standard", "sinks"],
    config: { some: "thing" },
    ...fields
  }))
  return folder
}
const makeTraining = (run: string, arm: string, text: string) => {
  const folder = join(run, "seed-3", arm)
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, "metrics.jsonl"), text)
  return folder
}

const save = (folder: string, step: number) =>
  Effect.flatMap(Checkpoints, (checkpoints) =>
    checkpoints.save({
      step,
      config: huggingFaceConfig(miniatureModel),
      model: {
        "model.layers.0.mlp.up_proj.weight": { shape: [96, 32], data: new Float32Array(96 * 32) },
        "model.layers.1.mlp.up_proj.weight": { shape: [96, 32], data: new Float32Array(96 * 32) },
        "model.norm.weight": { shape: [32], data: new Float32Array(32) }
      },
      optimizer: { "model.norm.weight.exp_avg": { shape: [32], data: new Float32Array(32) } },
      trainerState: {
        step,
        steps: 40,
        cursor: { epoch: 1, batch: 17 },
        config: { optimizer: { learningRate: 0.25, schedule: "wsd", sinks: "lazy" } }
      },
      tokenizer: undefined,
      loss: 2.5
    })).pipe(
      Effect.provide(Checkpoints.layerFileSystem(folder, { resume: true })),
      Effect.provide(NodeContext.layer),
      Effect.runPromise
    )

const live = join(root, "a")
const finished = join(root, "deeper", "b")
const killed = join(root, "c")
const failed = join(root, "d")
beforeAll(async () => {
  makeRun("a", "running", { started: "2020-01-04T00:00:00.000Z" })
  makeTraining(live, "standard",
    [started(40), stepped(40, 2), new Finished({ step: 40, seconds: 1, tokensPerSecond: 1 })].map(toJsonLine).join(""))
  // the process is in the middle of a line
  const sinks = makeTraining(live, "sinks",
    [started(40), stepped(10, 3), evaluated(20, 2.5), stepped(20, 2.75), evaluated(30, 2.75)]
      .map(toJsonLine).join("") + "{\"_tag\": \"Step")
  await save(sinks, 10)
  await save(sinks, 20)
  makeRun("deeper/b", "finished", { started: "2020-01-03T00:00:00.000Z", finished: "2020-01-03T01:00:00.000Z" })
  makeRun("c", "running", { started: "2020-01-02T00:00:00.000Z" })
  const dead = { pid: 2 ** 22 + 9, host: hostname(), since: "2020-01-02T00:00:00.000Z", token: "x", boot: "another" }
  writeFileSync(join(killed, "lock"), JSON.stringify(dead))
  makeRun("d", "failed", { started: "2020-01-01T00:00:00.000Z", error: "no such file\nat line 2" })
  makeRun("e", "running", { started: "2019-01-01T00:00:00.000Z" })
  writeFileSync(join(root, "e", "lock"), JSON.stringify({ ...dead, host: "elsewhere" }))
  mkdirSync(join(root, "no run"))
})

/** What a command prints. */
const printed = (command: Effect.Effect<void, unknown, never>) =>
  Effect.promise(() => printedBy(() => Effect.runPromise(command)))

const inspected = (options: Partial<InspectOptions> & { readonly path: string }) =>
  inspect({ html: Option.none(), json: false, ...options }).pipe(Effect.provide(NodeContext.layer))

describe("the list of runs", () => {
  it.effect("has all in a folder and below, newest first, with states that hold whatever a process died of", () =>
    Effect.gen(function*() {
      yield* Effect.scoped(Effect.gen(function*() {
        yield* RunLock.hold(live)
        expect(Runs.listRuns(root).map((run) => [run.path, run.state])).toEqual([
          [live, "running"],
          [finished, "finished"],
          [killed, "interrupted"],
          [failed, "failed"],
          // on another machine: nobody here can say that it does not run
          [join(root, "e"), "running"]
        ])
      }))
      // its process left without a word
      expect(Runs.readRun(live)!.state).toBe("interrupted")
      expect(Runs.listRuns(live).map((run) => run.path)).toEqual([live])
      expect(Runs.listRuns(join(root, "no run"))).toEqual([])
    }))

  it("finds the models of an experiment in its store, and counts a finished one as such", () =>
    Effect.runPromise(Effect.gen(function*() {
      const folder = join(root, "..", `${basename(root)}-isolate`)
      const models = join(folder, "store", "models")
      mkdirSync(join(models, "0123", "step-00000008"), { recursive: true })
      const begun = { kind: "isolate", state: "finished", started: "2026-01-01T00:00:00Z", seeds: [1, 2],
        arms: ["standard", "sinks"] }
      writeFileSync(join(folder, "run.json"), JSON.stringify(begun))
      writeFileSync(join(models, "0123", "metrics.jsonl"), [
        { _tag: "Evaluated", step: 4, losses: { "heldOut.own": 1.5, "heldOut.off": 2.75 } },
        { _tag: "Evaluated", step: 8, losses: { "heldOut.own": 1.25, "heldOut.off": 2.5 } }
      ].map((line) => `${JSON.stringify(line)}\n`).join(""))
      writeFileSync(join(models, "0123.json"), JSON.stringify({ key: { seed: 2 }, value: { name: "sinks" } }))
      const run = Runs.readRun(folder)!
      expect(run.trainings.map(({ arm, finished, seed }) => [arm, finished, seed])).toEqual([["sinks", true, 2]])
      const table = yield* printed(runs({ folder: Option.some(folder), json: false }))
      expect(table).toContain(" 4/4 ")
      // the state that reports speak of, and its name, not the lowest of all
      expect(table).toContain("2.500 off")
      // one that is not finished says whose it is in its own folder, and one of an older version does not
      for (const name of ["4567", "89ab"]) {
        mkdirSync(join(models, name))
        writeFileSync(join(models, name, "metrics.jsonl"), JSON.stringify({ _tag: "Evaluated", step: 2, losses: {} }))
      }
      writeFileSync(join(models, "4567", "job.json"), JSON.stringify({ arm: "standard", seed: 1 }))
      expect(Runs.readRun(folder)!.trainings.map(({ arm, finished, seed }) => [arm, finished, seed])).toEqual([
        ["89ab", false, undefined],
        ["standard", false, 1],
        ["sinks", true, 2]
      ])
      rmSync(join(models, "0123"), { recursive: true })
      writeFileSync(join(folder, "run.json"), JSON.stringify({ ...begun, state: "interrupted" }))
      expect(yield* printed(runs({ folder: Option.some(folder), json: false }))).toContain(" standard of seed 1 2/4 ")
      rmSync(folder, { recursive: true })
    })))

  it("tells how far each training came, and its losses", () => {
    const run = Runs.readRun(live)!
    expect(run).toMatchObject({ count: 2, record: { config: { some: "thing" } } })
    // arms in the order they run, not in that of their names
    const [standard, sinks] = run.trainings
    expect(standard).toMatchObject({ arm: "standard", finished: true, step: 40, steps: 40, loss: 2, best: { loss: 2 } })
    expect(sinks).toMatchObject({
      arm: "sinks",
      seed: 3,
      finished: false,
      step: 20,
      steps: 40,
      parameters: 100,
      loss: 2.75,
      best: { name: "heldOut.off", step: 20, loss: 2.5 },
      tokensPerSecond: 1234,
      checkpoints: ["step-00000010", "step-00000020"]
    })
    expect(sinks!.curves.map(({ name, points }) => [name, points.map(({ step, tokens }) => [step, tokens])])).toEqual([
      ["train", [[10, 640], [20, 1280]]],
      ["repeated.own", [[20, 1280], [30, 1920]]],
      ["heldOut.own", [[20, 1280], [30, 1920]]],
      ["heldOut.off", [[20, 1280], [30, 1920]]]
    ])
    const [file, step] = ["metrics.jsonl", "step-00000010/model.safetensors"].map((name) =>
      statSync(join(sinks!.path, name)).size
    )
    expect(run.bytes).toBeGreaterThan(file! + 2 * step!)
  })

  it.effect("is printed as a table or as JSON", () =>
    Effect.gen(function*() {
      const options = { folder: Option.some(root), json: false }
      const table = (yield* printed(runs(options))).split("\n")
      expect(table[0]).toMatch(/^run +state +training +step +loss +best held out +tokens\/s +age +size$/)
      expect(table[1]).toMatch(
        new RegExp(`^${live} +interrupted +sinks 2/2 +20/40 +2\\.750 +2\\.500 off +1,234 +\\d+ s +\\d+ KiB$`)
      )
      expect(table.slice(6)).toEqual([`${failed}: no such file`, ""])
      const found = JSON.parse(yield* printed(runs({ ...options, json: true })))
      expect(found.map((run: Runs.Run) => run.path)).toEqual(Runs.listRuns(root).map((run) => run.path))
      expect(found[0]).toMatchObject({ state: "interrupted",
        trainings: [{ arm: "standard" }, { step: 20, steps: 40 }] })
      expect(found[0].trainings[1].curves).toBeUndefined()

      const none = { folder: Option.some(join(root, "no run")), json: false }
      expect(yield* printed(runs(none))).toBe(`no runs in ${join(root, "no run")}\n`)
      expect(yield* printed(runs({ ...none, json: true }))).toBe("[]\n")
      const gone = yield* Effect.flip(runs({ folder: Option.some(join(root, "gone")), json: false }))
      expect(gone).toMatchObject({ _tag: "CheckpointError", reason: "Missing" })
    }))

  it("says how long ago and how large in few characters", () => {
    expect([0, 89_000, 300_000, 7_200_000, 9e8].map(ago)).toEqual(["0 s", "89 s", "5 min", "2 h", "10 d"])
    expect([0, 1023, 1024, 15 * 1024, 1.5 * 2 ** 30].map((n) => size(n))).toEqual(["0 B", "1023 B", "1.0 KiB", "15 KiB",
      "1.5 GiB"])
  })
})

describe("inspect", () => {
  it.effect("shows a run's curves and what its last checkpoints hold", () =>
    Effect.gen(function*() {
      const text = yield* printed(inspected({ path: live }))
      for (const line of [
        /^state +interrupted, last written \d+ s ago$/,
        /^trained +1 of 2$/,
        /^sinks, seed 3: step 20 of 40, a damaged line of metrics.jsonl left out$/,
        /^train +█▁ +3\.000 +2\.750 +2\.750$/,
        /^heldOut\.off +▁█ +2\.500 +2\.750 +2\.500$/,
        /^step +20 of 40, loss 2\.5000$/,
        /^data +epoch 1, 17 of its batches taken$/,
        /^model +llama: 1 layers of width 32, 2 heads \(2 of keys and values\) of 16, vocabulary 256, context 2,048$/,
        /^parameters +6,176, 24 KiB as F32$/,
        /^MLP +32 general neurons, 64 sinks, of which an id lights 16 \(25\.0 %\) in blocks of 16 by permutation, seed 0$/,
        /^optimizer +AdamW, learning rate 0\.25 \(wsd\), lazy sinks; 1 moments, 128 B$/,
        /^model\.layers\.\*\.mlp\.up_proj\.weight +2 +F32 +\[96, 32\] +24 KiB$/
      ]) {
        expect(text).toMatch(new RegExp(line.source, "m"))
      }
      expect(text).toContain(join(live, "seed-3", "sinks", "step-00000020"))
      expect(text).not.toContain("step-00000010")
      expect(text).not.toContain("\u001b")
    }))

  it.effect("shows one checkpoint with the curves around it, and one training", () =>
    Effect.gen(function*() {
      const folder = join(live, "seed-3", "sinks")
      const one = JSON.parse(yield* printed(inspected({ path: join(folder, "step-00000010"), json: true })))
      expect(one.run).toBeUndefined()
      expect(one.trainings).toMatchObject([{ arm: "sinks", step: 20 }])
      expect(one.checkpoints).toMatchObject([{
        step: 10,
        steps: 40,
        loss: 2.5,
        cursor: { epoch: 1, batch: 17 },
        parameters: 6176,
        optimizer: { tensors: 1, bytes: 128 }
      }])
      expect(yield* printed(inspected({ path: folder }))).toContain("step-00000020")
    }))

  it.effect("writes one page that needs nothing else", () =>
    Effect.gen(function*() {
      const file = join(root, "page.html")
      yield* printed(inspected({ path: live, html: Option.some(file) }))
      const html = readFileSync(file, "utf8")
      expect(html.match(/<svg[^>]* class="marks"/g)).toHaveLength(2)
      expect(html).toContain("epoch 1, 17 of its batches taken")
      expect(html).toContain("&quot;some&quot;: &quot;thing&quot;")
      // the namespaces of SVG are names, not addresses that are loaded
      expect(html.replace(/xmlns(:\w+)?="[^"]*"/g, "")).not.toMatch(/https?:|<script|<link/)
      const failure = yield* Effect.flip(inspected({ path: live, html: Option.some(join(root, "gone", "x.html")) }))
      expect(failure).toMatchObject({ _tag: "CheckpointError", reason: "Write" })
    }))

  it.effect("names what is no checkpoint, and which file is damaged", () =>
    Effect.gen(function*() {
      const refusal = (path: string) => Effect.map(Effect.flip(inspected({ path })), (error) => error.message)
      expect(yield* refusal(join(root, "gone"))).toMatch(/gone: there is no such folder \[checkpoint: Missing\]$/)
      expect(yield* refusal(join(root, "no run"))).toContain("is neither a run nor a checkpoint")
      const folder = join(root, "damaged")
      yield* Effect.promise(() => save(folder, 1))
      const at = (file: string) => join(folder, "step-00000001", file)
      const header = Number(readFileSync(at("model.safetensors")).readBigUInt64LE(0))
      truncateSync(at("model.safetensors"), header)
      expect(yield* refusal(folder)).toContain("model.safetensors: its header cannot be read: states a header of")
      yield* Effect.promise(() => save(folder, 1))
      writeFileSync(at("trainer_state.json"), "{")
      expect(yield* refusal(folder)).toContain("trainer_state.json: is not JSON")
    }))

  it("draws a curve in as many characters as there are", () => {
    expect(sparkline([8, 7, 6, 5, 4, 3, 2, 1], 8)).toBe("█▇▆▅▄▃▂▁")
    expect(sparkline([4, 2, 3, 1], 2)).toBe("█▁")
    expect(sparkline([1, 1, 1], 9)).toBe("▁▁▁")
  })
})
