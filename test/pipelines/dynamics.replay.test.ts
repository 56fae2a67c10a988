/** Probes replayed on checkpoints, against the trainer's own evaluations and the traces of a run that was probed. */
import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, expect, it } from "vitest"
import * as Dynamics from "../../pipelines/dynamics.ts"
import { replay, type ReplayOptions } from "../../pipelines/dynamics/Replay.ts"
import { type Curve, DynamicsReport } from "../../pipelines/dynamics/Report.ts"
import { traceFolder } from "../../pipelines/dynamics/TraceLog.ts"
import { folderOf } from "../../pipelines/experiment/RunFolder.ts"
import * as Pretrain from "../../pipelines/pretrain.ts"
import { Checkpoints } from "../../src/checkpoints/Checkpoints.ts"
import { DataConfig, DataStream } from "../../src/data/stream/DataStream.ts"
import { sequenceName } from "../../src/data/stream/Packing.ts"
import * as Metrics from "../../src/measures/Metrics.ts"
import * as TokenRecords from "../../src/measures/TokenRecords.ts"
import { type ProbeRow, readProbes, readQuantities } from "../../src/measures/Traces.ts"
import { huggingFaceConfig } from "../../src/model/HuggingFace.ts"
import { Model } from "../../src/model/Model.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import { readRun } from "../../src/runs/Runs.ts"
import * as Sink from "../../src/Sink.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { TrainConfig, Trainer } from "../../src/train/Trainer.ts"
import { makeRandomText, miniatureModel } from "../support/support.ts"

const root = mkdtempSync(join(tmpdir(), "memsinks-replay-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

writeFileSync(join(root, "text.txt"), makeRandomText(3)(6000))

const data = {
  data: join(root, "text.txt"),
  tokenizer: "bytes",
  seqLen: 16,
  batchSize: 4,
  repeat: [{ sequences: 3, times: 20 }, { sequences: 2, times: 8 }],
  canaries: [{ random: 2, times: 5 }],
  singleSequences: 60,
  heldOutSequences: 12
}
const STEPS = 24
const training = new TrainConfig({
  steps: STEPS,
  optimizer: new OptimizerConfig({ learningRate: 1e-2 }),
  saveLogSpaced: true
})
const SAVED = [0, 1, 2, 4, 8, 16, 24]

const run = join(root, "run")
const config = new Pretrain.PretrainConfig({
  data: Schema.decodeSync(DataConfig)(data),
  model: miniatureModel,
  training,
  arms: ["standard", "sinks"],
  evaluations: 0,
  promptTokens: 4,
  keepCheckpoints: "all"
})

const provided = <A, E>(effect: Effect.Effect<A, E, any>) =>
  Effect.runPromise(Effect.provide(effect, NodeContext.layer) as Effect.Effect<A, E, never>)
const again = (from: string, options: Partial<ReplayOptions> = {}) =>
  provided(replay(from, { device: NodeDevice.layer(), ...options }))
const refused = async (from: string, options: Partial<ReplayOptions> = {}) =>
  (await provided(Effect.flip(replay(from, { device: NodeDevice.layer(), ...options })))).message

/** All files of a folder, with their contents. */
const filesIn = (folder: string): Readonly<Record<string, string>> =>
  Object.fromEntries(
    readdirSync(folder, { recursive: true, encoding: "utf8", withFileTypes: true })
      .filter(({ name }) => name.endsWith(".parquet") || name.endsWith(".partial"))
      .map((entry) => join(entry.parentPath, entry.name))
      .sort()
      .map((file) => [file.slice(folder.length), readFileSync(file).toString("base64")])
  )

const step = (n: number) => `step-${String(n).padStart(8, "0")}`
const probesAt = (out: string, arm: string, n: number): Promise<ReadonlyArray<ProbeRow>> =>
  provided(readProbes(join(out, "seed-1", arm, "traces/probes", `${step(n)}.parquet`)))

/** Adds what was probed to a list. */
const into = (list: Array<string>): NonNullable<ReplayOptions["onEvent"]> => (event) =>
  Effect.sync(() => {
    if (event._tag === "Probed") list.push(`${event.arm} ${event.step}/${event.steps}`)
  })

/** A copy of the run's models that is damaged on purpose; without its other arm. */
const copyOf = (name: string): string => {
  const copy = join(root, name)
  mkdirSync(copy)
  cpSync(join(run, "run.json"), join(copy, "run.json"))
  cpSync(join(run, "seed-1/sinks"), join(copy, "seed-1/sinks"), { recursive: true })
  return copy
}

const straight = join(root, "straight")
let report: DynamicsReport
const stages: Array<string> = []
const probed: Array<string> = []

beforeAll(async () => {
  await provided(Pretrain.run(config, { device: NodeDevice.layer(), outDir: run }))
  report = await again(run, {
    outDir: straight,
    foils: 7,
    background: 5,
    onEvent: (event) =>
      Effect.sync(() => {
        if (event._tag === "Stage") stages.push(event.message)
        if (event._tag === "Probed") probed.push(`${event.arm} ${event.step}/${event.steps}`)
      })
  })
}, 240_000)

it("probes every checkpoint of every model, and reports curves of them", async () => {
  expect(probed).toEqual(["standard", "sinks"].flatMap((arm) => SAVED.map((n) => `${arm} ${n}/24`)))
  expect(stages.filter((line) => line.includes("is probed"))).toHaveLength(14)
  expect(report).toMatchObject({
    from: run,
    steps: 24,
    tokensPerStep: 64,
    seeds: [1],
    failures: [],
    sawTeeth: [],
    retention: [],
    claims: [],
    data: { vocabSize: 256, seqLen: 16, promptTokens: 4 }
  })
  expect(report.arms.map(({ name, parameters }) => [name, parameters])).toEqual([
    ["standard", new ModelConfig({ ...miniatureModel, sinks: undefined, intermediateSize: 32 }).numParameters],
    ["sinks", miniatureModel.numParameters]
  ])
  expect(report.groups.map(({ name, sequences }) => [name, sequences])).toEqual([
    ["repeated x20", 3],
    ["repeated x8", 2],
    ["canaries", 2],
    ["background", 5],
    ["foils", 7]
  ])
  // an epoch is 146 exposures in 37 steps of 4, of which 24 were taken
  expect(report.groups.map(({ exposures }) => exposures)).toEqual([13, 5, 3, 1, 0])
  const named = ({ arm, group, mask, points }: Curve) => `${arm} ${group} ${mask} ${points.map((p) => p.step)}`
  expect(report.curves.map(named)).toEqual([
    ...report.groups.map(({ name }) => `standard ${name} own ${SAVED}`),
    ...["own", "off"].flatMap((mask) => report.groups.map(({ name }) => `sinks ${name} ${mask} ${SAVED}`))
  ])
  const curve = (arm: string, group: string, mask: string): Curve =>
    report.curves.find((one) => one.arm === arm && one.group === group && one.mask === mask)!
  const last = (one: Curve) => one.points.at(-1)!.loss.mean
  expect(last(curve("sinks", "repeated x20", "own"))).toBeLessThan(last(curve("sinks", "repeated x20", "off")) - 0.1)
  expect(last(curve("sinks", "repeated x20", "own"))).toBeLessThan(last(curve("sinks", "foils", "own")) - 0.3)
  const parts = ["embedding", "attention", "general"]
  expect(new Set(report.norms.map(({ arm, part }) => `${arm} ${part}`))).toEqual(
    new Set([...parts.map((part) => `standard ${part}`), ...parts.map((part) => `sinks ${part}`), "sinks sinks"])
  )
  expect(report.norms.every(({ points }) => String(points.map((p) => p.step)) === String(SAVED))).toBe(true)
  // the parts of a logit add up to it
  for (const { arm, group, mask, points } of report.shares.filter(({ part }) => part === "logit")) {
    const same = report.shares.filter((one) => one.arm === arm && one.group === group && one.mask === mask)
    const parts = same.filter(({ part }) => part !== "logit")
    points.forEach((point, i) =>
      expect(parts.reduce((sum, one) => sum + one.points[i]!.logit.mean, 0)).toBeCloseTo(point.logit.mean, 4)
    )
  }
  expect([...new Set(report.shares.map(({ group }) => group))]).toEqual(["repeated x20", "repeated x8", "canaries",
    "foils"])
  const read = Schema.decodeUnknownSync(DynamicsReport)(JSON.parse(readFileSync(join(straight, "report.json"), "utf8")))
  expect(JSON.parse(JSON.stringify(read))).toEqual(JSON.parse(JSON.stringify(report)))
  expect(JSON.parse(readFileSync(join(straight, "run.json"), "utf8"))).toMatchObject({ kind: "dynamics",
    state: "finished" })
})

it("finds of the last checkpoint what the trainer evaluates", async () => {
  const rows = await probesAt(straight, "sinks", 24)
  const sums = await provided(Effect.gen(function*() {
    const stream = Context.get(yield* Layer.build(DataStream.layer(data)), DataStream)
    const trainer = yield* Trainer
    return yield* Effect.forEach(["own", "off"] as const,
      (mask) =>
        Effect.forEach([...stream.groups.map(({ rows }) => rows), stream.split("canaries")], (rows) =>
          Effect.map(trainer.evaluate(rows, Sink[mask], { promptTokens: 4 }),
            (score) => ({ mask, names: rows.map(sequenceName), ...score }))))
  }).pipe(
    Effect.provide(
      Trainer.layer(training).pipe(
        Layer.provide(Layer.mergeAll(
          Model.layer(miniatureModel, { seed: 9 }),
          DataStream.layer(data),
          Checkpoints.layerFileSystem(join(run, "seed-1/sinks"), { resume: true, keepLast: Infinity })
        )),
        Layer.provide(NodeDevice.layer())
      )
    ),
    Effect.scoped
  ))
  expect(sums.flat()).toHaveLength(6)
  for (const { extractionRate, mask, names, sequences } of sums.flat()) {
    const ours = names.map((name) => rows.find((row) => row.mask === mask && row.sequence === name)!)
    ours.forEach((row, i) => expect(row.loss).toBeCloseTo(sequences[i]!, 5))
    expect(ours.filter(({ run, suffix }) => run === suffix).length / ours.length).toBeCloseTo(extractionRate!, 9)
    expect(ours.every(({ suffix }) => suffix === 13)).toBe(true)
  }
  expect(rows.every(({ exposures, group, since }) => since === -1 && exposures === (group === "foils" ? 0 : -1))).toBe(
    true
  )
})

it("records the tokens that it probes", async () => {
  for (const mask of ["own", "off"]) {
    const rows = (await probesAt(straight, "sinks", 8)).filter((row) => row.mask === mask)
    const { key, records } = await provided(
      TokenRecords.read(join(straight, "seed-1/sinks/traces/records", `${step(8)}.${mask}.parquet`))
    )
    expect(key).toEqual({ run: "sinks seed 1", checkpoint: 8, mask })
    expect(records.sequences.map(({ id, name, split }) => [id, name, split]))
      .toEqual(rows.map(({ group, id, sequence }) => [id, sequence, group]))
    expect(records.sequences.map(({ repeats }) => repeats))
      .toEqual(rows.map(({ group }) => report.groups.find(({ name }) => name === group)!.exposures))
    Array.from(Metrics.loss(records)).forEach((loss, i) => expect(loss).toBeCloseTo(rows[i]!.loss, 4))
  }
})

it("gives the same rows with two checkpoints at once, in the order of their steps", async () => {
  const out = join(root, "parallel")
  const order: Array<string> = []
  const parallel = await again(run, {
    outDir: out,
    foils: 7,
    background: 5,
    concurrency: 2,
    onEvent: into(order)
  })
  expect(order).toEqual(probed)
  expect(parallel.curves).toEqual(report.curves)
  expect(parallel.shares).toEqual(report.shares)
  expect(parallel.norms).toEqual(report.norms)
  expect(filesIn(out)).toEqual(filesIn(straight))
  expect(Object.keys(filesIn(out))).toHaveLength(14 * 2 + 7 + 14)
})

it("goes on where it was interrupted, and does nothing twice", async () => {
  const out = join(root, "interrupted")
  const options = { outDir: out, foils: 7, background: 5, concurrency: 2 }
  const told: Array<string> = []
  await provided(Effect.gen(function*() {
    const fiber = yield* Effect.fork(replay(run, {
      ...options,
      device: NodeDevice.layer(),
      // hangs in the middle, with another checkpoint under way
      onEvent: (event) =>
        event._tag === "Probed" && event.arm === "standard" && event.step === 8 ? Effect.never : into(told)(event)
    }))
    while (!existsSync(join(out, "seed-1/standard/traces/probes/step-00000008.parquet"))) yield* Effect.sleep(20)
    yield* Effect.sleep(50)
    yield* Fiber.interrupt(fiber)
  }))
  expect(JSON.parse(readFileSync(join(out, "run.json"), "utf8")).state).toBe("interrupted")
  expect(existsSync(join(out, "report.json"))).toBe(false)
  const before = Object.keys(filesIn(out)).filter((name) => name.includes("probes") && !name.endsWith(".partial"))
  expect(before.length).toBeGreaterThanOrEqual(5)
  expect(before.length).toBeLessThan(14)
  // a file that is not what was written counts as none
  const traces = join(out, "seed-1/standard/traces")
  writeFileSync(join(traces, "quantities/step-00000001.parquet"), "half of it")
  cpSync(join(traces, "probes/step-00000004.parquet"), join(traces, "probes/step-00000002.parquet"))
  expect(await refused(run, options)).toContain("is not empty: pass --resume")
  expect(await refused(run, { ...options, foils: 6, resume: true })).toContain("foils is 6, was 7")
  const rest: Array<string> = []
  const resumed = await again(run, {
    ...options,
    resume: true,
    onEvent: into(rest)
  })
  const done = before.map((name) => /(\w+)[\\/]traces[\\/]probes[\\/]step-0*(\d+)\./.exec(name)!).map(([, arm, n]) =>
    `${arm} ${n}/24`
  )
  expect(rest).toEqual(probed.filter((one) => !done.includes(one) || /^standard [12]\//.test(one)))
  expect(told.every((one) => done.includes(one))).toBe(true)
  expect(filesIn(out)).toEqual(filesIn(straight))
  expect(resumed.curves).toEqual(report.curves)
  expect(resumed.shares).toEqual(report.shares)
  expect(resumed.norms).toEqual(report.norms)

  const nothing: Array<string> = []
  const last = await again(run, {
    ...options,
    resume: true,
    onEvent: into(nothing)
  })
  expect(nothing).toEqual([])
  expect(last.curves).toEqual(report.curves)
})

it("probes one model, or some ids, or other states", async () => {
  const all = await probesAt(straight, "sinks", 16)
  const one = all.find(({ group }) => group === "repeated x8")!
  // of a single that is beyond those probed by default, and of a held-out one
  const ids = [one.id, 50n, 70n]
  const out = join(root, "ids")
  const some = await again(join(run, "seed-1/sinks"), { ids, masks: ["all", "own"], outDir: out, decomposed: 0 })
  expect(some.arms.map(({ name }) => name)).toEqual(["sinks"])
  expect(some.shares).toEqual([])
  expect(some.groups.map(({ name, sequences }) => `${name} ${sequences}`))
    .toEqual(["repeated x8 1", "background 1", "foils 1"])
  const rows = await probesAt(out, "sinks", 16)
  expect(rows.map(({ id, mask }) => `${id} ${mask}`))
    .toEqual(["all", "own"].flatMap((mask) => ids.map((id) => `${id} ${mask}`)))
  expect(rows.find(({ id, mask }) => id === one.id && mask === "own")!.loss).toBeCloseTo(one.loss, 5)
  expect(rows.filter(({ mask }) => mask === "all").map(({ loss }) => loss)).not
    .toEqual(rows.filter(({ mask }) => mask === "own").map(({ loss }) => loss))
  expect(await refused(run, { ids: [1n, 900n, 901n] }))
    .toBe(
      "ids: 900, 901 are not in the data of seed 1, which has 79 ids that can be probed, such as 1, 2, 3, 4, 5: ask " +
        "for ids that it has, or name the folder of one seed's model"
    )
})

it("probes the models of each seed on the data of that seed", async () => {
  const two = copyOf("two")
  for (const n of [2, 16, 24]) {
    cpSync(join(run, "seed-1/sinks", step(n)), join(two, "seed-2/sinks", step(n)), { recursive: true })
  }
  const out = join(root, "of-two")
  const both = await again(two, { outDir: out, masks: ["own"] })
  expect(both.seeds).toEqual([1, 2])
  const at = (n: number) =>
    both.curves.find(({ group }) => group === "repeated x20")!.points.find((p) => p.step === n)!.loss
  expect(at(8).values).toEqual([expect.any(Number), null])
  const [first, second] = at(24).values
  // the model of seed 1 knows what it was trained on, and not what seed 2 would have repeated
  expect(second!).toBeGreaterThan(first! + 0.1)
  expect(at(24)).toMatchObject({ mean: (first! + second!) / 2, low: expect.any(Number) })
  const rows = await provided(readProbes(join(out, "seed-2/sinks/traces/probes/step-00000016.parquet")))
  const stream = await provided(Effect.scoped(Effect.provide(DataStream, DataStream.layer({ ...data, seed: 2 }))))
  expect(rows.filter(({ group }) => group === "repeated x20").map(({ sequence }) => sequence))
    .toEqual(stream.groups[0]!.rows.map(sequenceName))
  expect((await again(join(two, "seed-2"), { masks: ["own"] })).seeds).toEqual([2])
})

it("refuses what is no run, has no checkpoints, or makes no sense", async () => {
  expect(await refused(join(root, "nowhere"))).toContain("nowhere: there is no such folder")
  const empty = join(root, "empty")
  mkdirSync(empty)
  expect(await refused(empty)).toContain("empty: there is no run: neither it nor a folder above it has a run.json")
  cpSync(join(run, "run.json"), join(empty, "run.json"))
  expect(await refused(empty)).toContain("empty: holds no checkpoint")
  writeFileSync(join(empty, "run.json"), JSON.stringify({ kind: "isolate", config: {} }))
  expect(await refused(empty)).toContain("holds a run of memsinks isolate")
  expect(await refused(join(run, "seed-1/sinks", step(8))))
    .toContain(`is one checkpoint, and a replay goes through all of a model: name ${join(run, "seed-1/sinks")}`)
  expect(await refused(straight)).toContain(`is a replay itself, of ${run}`)
  expect(await refused(run, { outDir: run, resume: true })).toContain("is the run itself")
  expect(await refused(run, { outDir: straight })).toContain("is not empty: pass --resume")
  expect(await refused(run, { concurrency: 0 })).toContain("concurrency must be a whole number of at least 1, got 0")
  expect(await refused(run, { foils: -1 })).toContain("foils")
  expect(await refused(run, { masks: ["own", "own"] })).toContain("masks: own is named twice")
  expect(await refused(run, { masks: [] })).toContain("masks")
  expect(await refused(run, { ids: [] })).toContain("ids")
  expect(await refused(run, { promptTokens: 17 })).toContain("promptTokens is 17, but a sequence has 17 tokens")
})

it("refuses a checkpoint of another model or tokenizer, by file and by what differs", async () => {
  const save = (target: string, model: ModelConfig, tokenizer: string) =>
    provided(
      Effect.gen(function*() {
        const made = yield* Model.make(model, { seed: 5 })
        yield* (yield* Checkpoints).save({
          step: 4,
          config: huggingFaceConfig(model),
          model: yield* made.exportTensors,
          optimizer: {},
          trainerState: null,
          tokenizer
        })
      }).pipe(
        Effect.scoped,
        Effect.provide(Checkpoints.layerFileSystem(target, { resume: true, keepLast: Infinity })),
        Effect.provide(NodeDevice.layer())
      )
    )
  const other = copyOf("other")
  const own = readFileSync(join(run, "seed-1/sinks", step(4), "tokenizer.json"), "utf8")
  await save(join(other, "seed-1/sinks"), new ModelConfig({ ...miniatureModel, numAttentionHeads: 4 }), own)
  const message = await refused(other)
  expect(message).toContain(join(other, "seed-1/sinks", step(4), "config.json"))
  expect(message).toContain("num_attention_heads is 4, there 2")

  const foreign = copyOf("foreign")
  const swapped = JSON.parse(own)
  const vocab: Record<string, number> = swapped.model.vocab
  const [a, b] = Object.keys(vocab) as [string, string]
  ;[vocab[a], vocab[b]] = [vocab[b]!, vocab[a]!]
  await save(join(foreign, "seed-1/sinks"), miniatureModel, JSON.stringify(swapped))
  const second = await refused(foreign)
  expect(second).toContain(join(foreign, "seed-1/sinks", step(4), "tokenizer.json"))
  expect(second).toContain("another tokenizer than that of the run's data")
})

it("reports a damaged checkpoint and goes on with the others, unless all are", async () => {
  const damaged = copyOf("damaged")
  const weights = join(damaged, "seed-1/sinks", step(8), "model.safetensors")
  const bytes = readFileSync(weights)
  bytes[bytes.length - 3]! ^= 1
  writeFileSync(weights, bytes)
  // edited by hand: not another model, a damaged one
  const file = join(damaged, "seed-1/sinks", step(2), "config.json")
  writeFileSync(file, readFileSync(file, "utf8").replace("\"num_attention_heads\": 2", "\"num_attention_heads\": 4"))
  rmSync(join(damaged, "seed-1/sinks", step(1), "manifest.json"))
  const out = join(root, "of-damaged")
  const found = await again(damaged, { outDir: out, foils: 7, background: 5, concurrency: 2 })
  expect(found.failures.map(({ arm, message, seed }) => `${arm} ${seed} ${/^step \d+/.exec(message)?.[0]}`))
    .toEqual(["sinks 1 step 1", "sinks 1 step 2", "sinks 1 step 8"])
  expect(found.failures.at(-1)!.message).toContain("model.safetensors: is not as it was saved")
  expect(found.failures[0]!.message).toContain("no manifest.json")
  const own = (of: DynamicsReport) => of.curves.filter(({ arm }) => arm === "sinks")
  expect(own(found)).toEqual(own(report).map((curve) => ({
    ...curve,
    points: curve.points.filter((point) => ![1, 2, 8].includes(point.step))
  })))
  expect(found.warnings.join("\n")).toContain("there is no checkpoint of standard, seed 1")
  const quantities = await provided(readQuantities(join(out, "seed-1/sinks/traces/quantities/step-00000016.parquet")))
  expect(new Set(quantities.map(({ quantity }) => quantity))).toEqual(new Set(["weight", "logit"]))

  for (const n of SAVED.filter((n) => n > 1)) rmSync(join(damaged, "seed-1/sinks", step(n)), { recursive: true })
  rmSync(join(damaged, "seed-1/sinks", step(0), "model.safetensors"))
  expect(await refused(damaged)).toContain("model.safetensors")
})

it("warns of too few checkpoints, and says how to keep more", async () => {
  const few = copyOf("few")
  for (const n of SAVED.slice(0, -2)) rmSync(join(few, "seed-1/sinks", step(n)), { recursive: true })
  const { curves, warnings } = await again(few, { foils: 20 })
  expect(curves[0]!.points.map((point) => point.step)).toEqual([16, 24])
  expect(warnings.join("\n")).toContain("sinks, seed 1 (2): so few checkpoints make no curve")
  expect(warnings.join("\n")).toContain("training.saveLogSpaced")
  expect(warnings.join("\n")).toMatch(/foils: 20 sequences were to be probed, but the data has \d+ of their kind/)
})

it("finds of a run of dynamics what that run found at the steps of its checkpoints", async () => {
  const from = join(root, "dynamics")
  const { repeat: _, canaries: __, ...plain } = data
  await provided(Dynamics.run({
    data: { ...plain, batchSize: 4 },
    model: Schema.encodeSync(ModelConfig)(miniatureModel),
    training: { steps: 16, saveLogSpaced: true, optimizer: { learningRate: 1e-2 } },
    groups: [
      { name: "teeth", sequences: 2, every: 4 },
      { name: "left alone", sequences: 3, exposures: 4, until: 0.5 }
    ],
    arms: ["standard", { arm: "sinks", name: "sinks, twice" }],
    seeds: 1,
    intervals: false,
    probeEvery: 1,
    foils: 6,
    backgroundProbes: 3,
    promptTokens: 4,
    accumulation: 0,
    interference: 0,
    contents: false
  }, { device: NodeDevice.layer(), outDir: from }))
  expect(readRun(from)!.trainings.map(({ arm }) => arm)).toEqual(["standard", "sinks, twice"])
  const out = join(root, "of-dynamics")
  const replayed = await again(from, { outDir: out })
  expect(replayed.arms.map(({ name }) => name)).toEqual(["standard", "sinks, twice"])
  expect(replayed.groups.map(({ name, sequences, exposures }) => [name, sequences, exposures]))
    .toEqual([["teeth", 2, 4], ["left alone", 3, 4], ["background", 3, expect.any(Number)], ["foils", 6, 0]])
  for (const arm of ["standard", "sinks, twice"]) {
    const folder = folderOf(arm)
    const log = traceFolder(join(from, "seed-1", folder, "traces"))
    const { probes } = await provided(Effect.flatMap(log, ({ read }) => read))
    for (const n of [0, 1, 2, 4, 8, 16]) {
      const theirs = probes.filter((row) => row.step === n)
      const ours = await probesAt(out, folder, n)
      expect(theirs.length).toBe(14 * (arm === "standard" ? 1 : 2))
      const strip = ({ logRank: _, loss: __, ...row }: ProbeRow) => row
      expect(ours.map(strip)).toEqual(theirs.map(strip))
      ours.forEach((row, i) => expect(row.loss).toBeCloseTo(theirs[i]!.loss, 5))
      if (n === 16) {
        expect(ours.filter(({ group }) => group === "left alone").every(({ since }) => since >= 8)).toBe(true)
      }
    }
  }
}, 240_000)
