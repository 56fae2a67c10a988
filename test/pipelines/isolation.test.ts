import * as NodeContext from "@effect/platform-node/NodeContext"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it, vi } from "vitest"
import type { Job, Runner } from "../../pipelines/experiment/Job.ts"
import { fileStore, memoryStore } from "../../pipelines/experiment/Store.ts"
import * as Isolation from "../../pipelines/isolation.ts"
import { compare } from "../../pipelines/isolation/Compare.ts"
import { planOf } from "../../pipelines/isolation/Config.ts"
import { heldOutLoss, metricName, metricsFor, nameOf, repeatedLoss, sample,
  windowsOf } from "../../pipelines/isolation/Metrics.ts"
import { choose } from "../../pipelines/isolation/PostHoc.ts"
import { type SeedFindings, summarize } from "../../pipelines/isolation/Summary.ts"
import { view } from "../../pipelines/isolation/view.ts"
import { toMarkdown } from "../../pipelines/report/render.ts"
import { attacks } from "../../src/attacks/index.ts"
import { DataConfig } from "../../src/data/stream/DataConfig.ts"
import { DataError } from "../../src/Errors.ts"
import { keyOf } from "../../src/Key.ts"
import { ModelConfig } from "../../src/model/ModelConfig.ts"
import * as NodeDevice from "../../src/node.ts"
import { SinkConfig } from "../../src/Sink.ts"
import type { ProgressEvent } from "../../src/terminal/Progress.ts"
import { OptimizerConfig } from "../../src/train/Optimizer.ts"
import { TrainConfig } from "../../src/train/Trainer.ts"
import { metricOf } from "../support/isolationReport.ts"
import { makeRandomText } from "../support/support.ts"
import { recordsOf, toyModel } from "../support/toyModel.ts"

const root = mkdtempSync(join(tmpdir(), "memsinks-isolation-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))
writeFileSync(join(root, "text.txt"), makeRandomText(5)(9000))

const config = (overrides: object = {}) =>
  new Isolation.IsolateConfig({
    world: {
      world: "text",
      data: new DataConfig({
        data: join(root, "text.txt"),
        tokenizer: "bytes",
        seqLen: 16,
        batchSize: 8,
        repeat: [{ sequences: 8, times: 60 }],
        singleSequences: 128,
        heldOutSequences: 32
      })
    },
    model: new ModelConfig({
      vocabSize: 256,
      hiddenSize: 32,
      numHiddenLayers: 1,
      numAttentionHeads: 2,
      intermediateSize: 64 + 512,
      sinks: new SinkConfig({ pool: 512, active: 32, block: 8 })
    }),
    training: new TrainConfig({
      optimizer: new OptimizerConfig({ learningRate: 1e-2, sinks: "lazy", sinkLearningRateRatio: 4 }),
      evalSequences: 4
    }),
    arms: ["standard", "neverRepeated", "sinks"],
    localizers: [],
    unlearners: ["gradientAscent"],
    unlearnRates: [2e-3],
    unlearnSteps: 8,
    relearnRates: [2e-3],
    relearnSteps: 16,
    seeds: 2,
    evaluations: 2,
    interference: [1],
    ...overrides
  })

/** Models are trained once for all of the tests: that is what a store is for. */
const store = join(root, "store")

const run = (c: unknown, options: Partial<Isolation.IsolateOptions> = {}) =>
  Isolation.run(c, { device: NodeDevice.layer(), store, ...options }).pipe(Effect.provide(NodeContext.layer))

const trainings = (events: ReadonlyArray<ProgressEvent>) =>
  events.flatMap((event) =>
    event._tag === "Training" && event.event._tag === "Finished" ? [`${event.seed} ${event.arm}`] : []
  )

const withEvents = async (c: unknown, options: Partial<Isolation.IsolateOptions> = {}) => {
  const events: Array<ProgressEvent> = []
  const report = await Effect.runPromise(
    run(c, { ...options, onEvent: (event) => Effect.sync(() => void events.push(event)) })
  )
  return { report, trained: trainings(events) }
}

/** A report without what depends on the clock. */
const timeless = (report: Isolation.IsolationReport) =>
  JSON.parse(Isolation.toJson({ ...report, seconds: 0, arms: [] }))

/** Where a store keeps the model of an arm, of any seed. */
const folderOf = (arm: string, of = store): string => {
  const models = join(of, "models")
  const name = readdirSync(models).find((file) =>
    file.endsWith(".json") && JSON.parse(readFileSync(join(models, file), "utf8")).value.name === arm
  )!
  return join(models, name.replace(/\.json$/, ""))
}

describe("the experiment", () => {
  it("says undecided where two seeds do not tell, and not isolated where one does, and trains no model twice", async () => {
    const first = await withEvents(config({ subject: "standard" }))
    expect(first.trained).toEqual(["1 standard", "1 neverRepeated", "1 sinks", "2 standard", "2 neverRepeated",
      "2 sinks"])
    // a model without sinks, in which there is nothing to switch off
    // two seeds do not tell, be it ever so plain in both: Student's interval of two is twelve times as wide as they differ
    expect(first.report.word).toBe("undecided")
    expect(first.report.decidedBy).toMatch(
      /recovery of natural\..* about \d+ seeds in all would decide it; undecided, too: /
    )
    expect(first.report.failures).toEqual([])

    // a model that never saw the data
    const oracle = await withEvents(config({ subject: "neverRepeated" }))
    expect(oracle.trained).toEqual([])
    expect(oracle.report.word).toBe("undecided")
    expect(oracle.report.verdicts[0]!.checks.filter(({ result }) => result === "fail")).toEqual([])

    // a model that only hides it: what it no longer says, it has learned again after very few steps
    const hidden = await withEvents(config({ subject: "gradientAscent" }))
    expect(hidden.trained).toEqual([])
    expect(hidden.report.word).toBe("undecided")
    const relearned = hidden.report.relearning.find(({ arm }) => arm === "gradientAscent")!
    expect(relearned.recovered.mean).toBeGreaterThan(0.5)

    // one seed tells of its own model, by its sequences
    const single = await withEvents(config({ subject: "standard", seeds: 1, intervals: false }))
    expect(single.trained).toEqual([])
    expect(single.report.word).toBe("not isolated")
    expect(single.report.decidedBy).toContain("recovery of natural.")
    expect(metricOf(single.report.subjects[0]!, "natural.loss").value).toMatchObject({ method: "sequences",
      kind: "loss" })

    for (const { report } of [first, oracle, hidden, single]) {
      expect(report.verdicts.find(({ arm }) => arm === report.subject)!.word).toBe(report.word)
    }
  })

  it("measures every state of every arm, and what it says follows from what it holds", async () => {
    const { report } = await withEvents(config())
    expect(report.subject).toBe("sinks")
    const states = (arm: string) => report.subjects.filter((one) => one.arm === arm).map(({ state }) => state)
    expect(states("standard")).toEqual(["own"])
    expect(states("sinks")).toEqual(["own", "off", "calibrated", "placebo", "all", "pruned"])
    const at = (arm: string, state: string, metric: string) =>
      metricOf(report.subjects.find((one) => one.arm === arm && one.state === state)!, metric).value
    // the pool cut out is the pool switched off
    for (const metric of ["natural.loss", "heldOut.loss", "natural.extractionStrength"]) {
      expect(at("sinks", "pruned", metric).mean).toBeCloseTo(at("sinks", "off", metric).mean, 4)
    }
    expect(at("sinks", "own", "natural.loss").mean).toBeLessThan(at("sinks", "off", "natural.loss").mean - 0.5)
    expect(at("standard", "own", "natural.extractionStrength").mean).toBeGreaterThan(
      at("neverRepeated", "own", "natural.extractionStrength").mean + 0.2
    )
    const standard = report.subjects.find(({ arm }) => arm === "standard")!
    const oracle = report.subjects.find(({ arm }) => arm === "neverRepeated")!
    expect(metricOf(standard, "natural.loss").recovery!.values).toEqual([1, 1])
    expect(metricOf(oracle, "natural.loss").recovery!.values).toEqual([0, 0])
    // the numbers of a seed are those of its arms
    const [off, one, zero] = [at("sinks", "off", "natural.loss"), at("standard", "own", "natural.loss"),
      at("neverRepeated", "own", "natural.loss")]
    const removed = report.subjects.find(({ arm, state }) => arm === "sinks" && state === "off")!
    const recovery = metricOf(removed, "natural.loss").recovery!
    off.values.forEach((value, s) =>
      expect(recovery.values[s]).toBeCloseTo((value! - zero.values[s]!) / (one.values[s]! - zero.values[s]!), 10)
    )
    expect(report.relearning.map(({ arm }) => arm)).toEqual(["neverRepeated", "standard", "sinks", "gradientAscent"])
    expect(report.hygiene.map(({ arm, seed }) => `${arm} ${seed}`)).toEqual(["sinks 1", "sinks 2"])
    expect(report.hygiene.flatMap(({ checks }) => checks.filter(({ passed }) => !passed))).toEqual([])
    expect(report.tradeoffs.map(({ arm }) => arm)).toEqual(["gradientAscent", "neverRepeated", "sinks"])
    expect(report.theory.every(({ holds }) => holds)).toBe(true)
    expect(report.data.splits).toMatchObject({ seen: 4, scored: 4, validation: 16, heldOut: 16 })
  })

  it("is jobs that could be written down, which leave nothing to do where all is known", async () => {
    const kinds: Array<string> = []
    const elsewhere: Runner = (jobs, work) =>
      Effect.forEach(jobs, (job, i) => {
        kinds.push((job as Job).kind)
        return work(JSON.parse(JSON.stringify(job)) as typeof job, i)
      })
    const here = await withEvents(config())
    const there = await withEvents(config(), { runner: elsewhere })
    expect(there.trained).toEqual([])
    expect(timeless(there.report)).toEqual(timeless(here.report))
    expect(new Set(kinds)).toEqual(
      new Set(["models", "losses", "unlearning", "looks", "relearning", "hygiene", "interference"])
    )
  })

  it("attacks every model in the states that are asked for, the oracle beside; what fails costs itself alone", async () => {
    const spied = vi.spyOn(attacks.shortestContext, "run")
    const attacked = config({
      attacks: [
        { attack: "shortestContext", length: 4, contexts: [4, 13] },
        { attack: "shortestContext", name: "of the end", length: 1, contexts: [8], states: ["off"], sequences: 2,
          models: ["standard", "neverRepeated", "sinks"] }
      ]
    })
    const { report } = await withEvents(attacked)
    const of = (arm: string, state: string, metric: string) =>
      report.subjects.find((one) => one.arm === arm && one.state === state)?.metrics.find((one) =>
        one.metric === metric
      )
    const found = (arm: string, state: string) => of(arm, state, "shortestContext.found")
    // planted by repeating, and absent where nothing was repeated
    expect(found("standard", "own")!.value.mean).toBeGreaterThan(found("neverRepeated", "own")!.value.mean + 0.3)
    expect(found("sinks", "own")!.value.mean).toBeGreaterThan(found("sinks", "placebo")!.value.mean)
    expect(found("standard", "own")!.value).toMatchObject({ kind: "share", method: "beta-binomial" })
    expect(found("neverRepeated", "own")!.recovery!.values).toContain(0)
    expect(found("gradientAscent", "own")).toBeDefined()
    expect(found("sinks", "calibrated")).toBeUndefined()
    expect(of("sinks", "own", "of the end.found")).toBeUndefined()
    expect(of("sinks", "off", "of the end.found")).toBeDefined()
    expect(of("gradientAscent", "own", "of the end.found")).toBeUndefined()
    expect(spied.mock.calls.filter(([, { length }]) => length === 1).every(([{ rows }]) => rows.length <= 2)).toBe(true)
    expect(report.metrics.find(({ metric }) => metric === "of the end.found")).toMatchObject({ attack: "of the end",
      unit: "share" })
    expect(report.attacks!.map(({ options }) => options)).toEqual([{ length: 4, contexts: [4, 13] }, { length: 1,
      contexts: [8] }])
    // what removal left by an attack's first metric, beside the oracle; the standard model is none after removal
    const left = report.attacks![0]!.left
    expect(left.map(({ arm, metric, state }) => [arm, state, metric])).toEqual([
      ["sinks", "off", "shortestContext.found"],
      ["gradientAscent", "own", "shortestContext.found"]
    ])
    expect(left[0]!.value).toEqual(found("sinks", "off")!.value)
    expect(left[0]!.oracle).toEqual(found("neverRepeated", "own")!.value)
    const markdown = toMarkdown(view(report))
    expect(markdown).toContain("what removal did")
    expect(markdown).toContain("shortest own context")
    // all else is as it is without attacks
    const without = timeless((await withEvents(config())).report)
    expect(without.attacks).toBeUndefined()
    expect(without.verdicts).toEqual(timeless(report).verdicts)

    // kept, and not done again
    spied.mockClear()
    expect(timeless((await withEvents(attacked)).report)).toEqual(timeless(report))
    // nor under another name
    const renamed = (await withEvents(config({
      attacks: [{ attack: "shortestContext", name: "again", length: 4, contexts: [4, 13] }]
    }))).report
    expect(spied).not.toHaveBeenCalled()
    const again = renamed.subjects.find((one) => one.arm === "sinks" && one.state === "own")!.metrics
    expect(again.find(({ metric }) => metric === "again.found")!.value).toEqual(found("sinks", "own")!.value)
    spied.mockImplementation(() => Effect.fail(new DataError({ detail: "no prompt fits" })))
    const failed = (await withEvents(config({
      attacks: [{ attack: "shortestContext", length: 2, models: ["sinks"], states: ["off"] }]
    }))).report
    spied.mockRestore()
    expect(failed.failures).toEqual(
      [1, 2].map((seed) => ({ arm: "sinks", seed, message: "attack shortestContext, sinks off: no prompt fits" }))
    )
    expect(failed.verdicts).toEqual(report.verdicts)
  })

  it("looks inside models beside the oracle and the standard model", async () => {
    const attacks = ["selfInfluence", { attack: "tokenInfluence", draws: 1, sets: 1, sequences: 1, models: ["sinks"],
      states: ["own"] }, { attack: "hiddenProbe", prompt: 8, steps: 20 }, { attack: "unlearningDepth", prompt: 8 }]
    const { report } = await withEvents(config({ attacks, seeds: 1, intervals: false }))
    expect(report.failures).toEqual([])
    const uds = (arm: string, state = "own") =>
      report.subjects.find((one) => one.arm === arm && one.state === state)!.metrics.find((one) =>
        one.metric === "unlearningDepth.uds"
      )!.value.mean
    expect(uds("standard")).toBeLessThan(0.02)
    expect(uds("neverRepeated")).toBeGreaterThan(0.98)
    expect(uds("sinks")).toBeLessThan(0.02)
    expect(uds("sinks", "off")).toBeGreaterThan(0.1)
    // ascent spoils what it starts from, which is the standard model
    expect(uds("gradientAscent")).toBeGreaterThan(0)
  })

  it("averages models that were trained with other parts of the repeated sequences, and looks at the average", async () => {
    const three = { arm: "fused", name: "three", models: 3 }
    const arms = ["standard", "neverRepeated", "sinks", three, { ...three, name: "fisher", fusion: "fisher" }, {
      ...three,
      name: "last",
      fusionWeights: [0, 0, 1],
      fusionLayers: { 0: [0, 0, 2] }
    }]
    const { report, trained } = await withEvents(config({ arms, unlearners: [], seeds: 1, intervals: false }))
    expect(report.failures).toEqual([])
    expect(trained.filter((one) => one.endsWith("three"))).toHaveLength(3)
    const value = (arm: string, group: string, metric: string) =>
      report.subjects.find((one) => one.arm === arm && one.state === "own")!.metrics.find((one) =>
        one.metric === metric && one.group === group
      )!.value.mean
    const loss = (arm: string, group: string) => value(arm, group, "loss")
    // each knew a third; the average knows less than the one that saw all, and its like is no worse known for it
    expect(loss("three", "natural")).toBeGreaterThan(loss("standard", "natural") + 0.3)
    expect(loss("three", "natural")).toBeLessThan(loss("neverRepeated", "natural") + 1)
    const ratio = (arm: string) => value(arm, "natural", "likelihoodRatio")
    expect(ratio("neverRepeated")).toBe(1)
    expect(ratio("standard")).toBeLessThan(0.4)
    expect(ratio("three")).toBeGreaterThan(0.8)
    // the same models, averaged in another way, and one of them alone
    expect(Math.abs(loss("fisher", "natural") - loss("three", "natural"))).toBeGreaterThan(1e-3)
    expect(Math.abs(loss("fisher", "heldOut") - loss("three", "heldOut"))).toBeLessThan(0.5)
    expect(loss("last", "natural")).not.toBe(loss("three", "natural"))
    const cost = (name: string) => report.arms.find((one) => one.name === name)!
    expect(cost("three").tokens).toBe(3 * cost("standard").tokens)
    const wrong = await Effect.runPromise(
      Effect.flip(run(config({ arms: [...arms, { arm: "sinks", name: "two", models: 2 }] })))
    )
    expect(wrong.message).toContain("models is of arm fused, and this is sinks")
    const refused = (more: object) =>
      Effect.runPromise(
        Effect.map(Effect.flip(run(config({ arms: [...arms, { arm: "fused", name: "two", ...more }] }))),
          ({ message }) => message)
      )
    expect(await refused({ arm: "sinks", fusion: "fisher" })).toContain("fusion is of arm fused, and this is sinks")
    expect(await refused({ fusionWeights: [1] })).toContain(
      "arms: two: models cannot be fused: weights are 1 numbers for 2"
    )
    expect(await refused({ fusionWeights: [2, -1], fusion: "fisher" })).toContain("must not be negative beside fisher")
    expect(await refused({ fusionLayers: { 7: [1, 1] } })).toMatch(/two: .*there is no block 7: there are 0 to \d/)
    expect(() => config({ arms: [{ arm: "fused", name: "two", fusionLayers: { last: [1, 1] } }] })).toThrow(
      "fusionLayers.last"
    )
  })

  it("goes on where it was interrupted, to the same report", async () => {
    const outDir = join(root, "interrupted")
    const options = { outDir, store: join(outDir, "store") }
    const events: Array<ProgressEvent> = []
    const fiber = Effect.runFork(run(config(), {
      ...options,
      onEvent: (event) => Effect.sync(() => void events.push(event))
    }))
    while (!trainings(events).includes("1 neverRepeated")) await new Promise((resolve) => setTimeout(resolve, 5))
    await Effect.runPromise(Fiber.interrupt(fiber))
    const done = trainings(events)
    expect(done.length).toBeLessThan(6)

    const { report, trained } = await withEvents(config(), { ...options, resume: true })
    expect([...done, ...trained]).toEqual(["1 standard", "1 neverRepeated", "1 sinks", "2 standard", "2 neverRepeated",
      "2 sinks"])
    expect(timeless(report)).toEqual(timeless((await withEvents(config())).report))
    expect(JSON.parse(readFileSync(join(outDir, "report.json"), "utf8")).word).toBe(report.word)
    // a model's records are there for other programs
    expect(readdirSync(join(outDir, "store", "records")).some((name) => name.endsWith(".parquet"))).toBe(true)
  })

  it("reports an arm that fails, and does not let it take the others with it", async () => {
    const damaged = join(root, "damaged-store")
    cpSync(store, damaged, { recursive: true })
    const folder = folderOf("sinks", damaged)
    rmSync(`${folder}.json`)
    const step = readdirSync(folder).find((name) => name.startsWith("step-"))!
    writeFileSync(join(folder, step, "model.safetensors"), "nothing")
    const { report, trained } = await withEvents(config({ subject: "standard" }), { store: damaged })
    expect(trained).toEqual([])
    expect(report.failures).toHaveLength(1)
    expect(report.failures[0]).toMatchObject({ arm: "sinks" })
    expect(report.failures[0]!.message).toContain("model.safetensors")
    // the other seed's is there
    const off = report.subjects.find(({ arm, state }) => arm === "sinks" && state === "off")!
    expect(metricOf(off, "natural.loss").value.values.filter((value) => value === null)).toHaveLength(1)
    expect(metricOf(report.subjects.find(({ arm }) => arm === "standard")!, "natural.loss").value.values).not.toContain(
      null
    )
  })
})

describe("a configuration", () => {
  const problem = (c: unknown) => Effect.runPromise(Effect.flip(planOf(c))).then(({ message }) => message)
  it("is refused before any training, with the name that was meant", async () => {
    expect(await problem(config({ arms: ["standard", "neverRepeated", "sink"] }))).toContain("Did you mean sinks?")
    expect(await problem(config({ localizers: ["zeroout"] }))).toContain("Did you mean zeroOut?")
    expect(await problem(config({ unlearners: ["nop"] }))).toContain("Did you mean npo?")
    expect(await problem(config({ subject: "goldfisch" }))).toContain("subject: there is no \"goldfisch\"")
    expect(await problem(config({ arms: ["standard", "sinks"] }))).toContain("neverRepeated is missing")
    expect(await problem(config({ arms: ["standard", "neverRepeated", "standard"] }))).toContain("named twice")
    expect(await problem(config({ attacks: ["shortestcontext"] }))).toContain("Did you mean shortestContext?")
    expect(await problem(config({ attacks: [{ attack: "shortestContext", lenght: 3 }] }))).toContain(
      "attacks: shortestContext: lenght: is not a known key. Did you mean length?"
    )
    expect(await problem(config({ attacks: [{ attack: "shortestContext", length: 0 }] }))).toMatch(
      /shortestContext: length: expected .*, got 0/
    )
    expect(await problem(config({ attacks: ["shortestContext", "shortestContext"] }))).toContain("named twice")
    expect(await problem(config({ attacks: [{ attack: "shortestContext", models: ["sink"] }] }))).toContain(
      "attacks: shortestContext: models: there is no \"sink\". Did you mean sinks?"
    )
    expect(await problem({ armz: ["standard"] })).toContain("Did you mean arms?")
    const arms = ["standard", "neverRepeated", { arm: "sinks", name: "thin", hiddenSize: 30 }]
    expect(await problem(config({ arms }))).toMatch(/arms: thin: .*hiddenSize/)
  })
  it("asks for two seeds where intervals are asked for", async () => {
    expect(await problem(config({ seeds: 1 }))).toContain("an interval needs at least 2")
    const plan = await Effect.runPromise(planOf(config({ seeds: 1, intervals: false })))
    expect(plan.arms).toHaveLength(3)
  })
  it("whose attacks ask for more than there is is refused", async () => {
    const attacked = { attack: "shortestContext", length: 10, contexts: [8] }
    const error = await Effect.runPromise(Effect.flip(run(config({ attacks: [attacked] }))))
    expect(error.message).toContain("attacks: shortestContext: contexts of 8 tokens and 10")
    const sums = config({ world: { world: "modular" as const }, attacks: ["styles"] })
    const text = await Effect.runPromise(Effect.flip(run(sums)))
    expect(text.message).toContain("attacks: styles: it needs text, and this world consists of tokens alone")
  })
  it("whose data repeats nothing is refused", async () => {
    const data = new DataConfig({
      data: join(root, "text.txt"),
      tokenizer: "bytes",
      seqLen: 16,
      repeatedSequences: 0,
      singleSequences: 32,
      heldOutSequences: 8
    })
    const error = await Effect.runPromise(Effect.flip(run(config({ world: { world: "text", data } }))))
    expect(error.message).toContain("repeats nothing")
  })
})

describe("the store", () => {
  it("computes a thing once, whatever the order of its key's fields, also when asked twice at a time", async () => {
    for (const one of [memoryStore(),
      await Effect.runPromise(fileStore(join(root, "once")).pipe(Effect.provide(NodeContext.layer)))])
    {
      let computed = 0
      const compute = Effect.promise(async () => {
        computed++
        await new Promise((resolve) => setTimeout(resolve, 5))
        return { value: [1, NaN, -Infinity] }
      })
      const both = await Effect.runPromise(Effect.all(
        [one.once("a", { x: 1, y: [2] }, compute), one.once("a", { y: [2], x: 1 }, compute)],
        { concurrency: 2 }
      ))
      // null, which JSON has in their place, would be added up as 0
      expect(both).toEqual([{ value: [1, NaN, -Infinity] }, { value: [1, NaN, -Infinity] }])
      expect(computed).toBe(1)
      await Effect.runPromise(one.once("a", { x: 2, y: [2] }, compute))
      await Effect.runPromise(one.once("b", { x: 1, y: [2] }, compute))
      expect(computed).toBe(3)
    }
  })
  it("computes again what cannot be read, and keeps nothing of what fails", async () => {
    const folder = join(root, "damaged")
    const one = await Effect.runPromise(fileStore(folder).pipe(Effect.provide(NodeContext.layer)))
    expect(await Effect.runPromise(Effect.flip(one.once("a", 1, Effect.fail("no"))))).toBe("no")
    expect(existsSync(join(folder, "a"))).toBe(false)
    expect(await Effect.runPromise(one.once("a", 1, Effect.succeed("first")))).toBe("first")
    expect(await Effect.runPromise(one.once("a", 1, Effect.succeed("second")))).toBe("first")
    writeFileSync(join(folder, "a", `${keyOf(1)}.json`), "{")
    expect(await Effect.runPromise(one.once("a", 1, Effect.succeed("third")))).toBe("third")
  })
  it("computes again what has the right key and another value than was written", async () => {
    const folder = join(root, "changed")
    const one = await Effect.runPromise(fileStore(folder).pipe(Effect.provide(NodeContext.layer)))
    const value = { losses: [1.5, NaN], name: "sinks" }
    const ask = (now: unknown) => Effect.runPromise(one.once("a", { seed: 1 }, Effect.succeed(now)))
    expect(await ask(value)).toEqual(value)
    const file = join(folder, "a", `${keyOf({ seed: 1 })}.json`)
    const text = readFileSync(file, "utf8")
    const kept = JSON.parse(text)
    for (
      const damaged of [
        text.replace("1.5", "2.5"),
        text.replace(`"name":"sinks"`, `"name":null`),
        JSON.stringify({ ...kept, value: {} }),
        JSON.stringify({ ...kept, value: null }),
        JSON.stringify({ key: kept.key, value: kept.value }),
        JSON.stringify({ key: kept.key, sha256: kept.sha256 }),
        "[]",
        "null"
      ]
    ) {
      writeFileSync(file, damaged)
      expect(await ask(`instead of ${damaged}`)).toBe(`instead of ${damaged}`)
      // and that is kept
      expect(await ask("anew")).toBe(`instead of ${damaged}`)
    }
    writeFileSync(file, text)
    expect(await ask("anew")).toEqual(value)
  })
})

describe("metrics", () => {
  const seqLen = 8
  const windows = windowsOf(undefined, seqLen)
  const toy = toyModel(3, 11, 1)
  const measured = (spread: number) => {
    const model = spread === 1 ? toy : toyModel(3, 11, spread)
    const tokens = Array.from({ length: 3 },
      (_, s) => Array.from({ length: seqLen + 1 }, (_, t) => (s * 5 + t * 3) % 11))
    return recordsOf(model, tokens)
  }
  it("have names of their own, and each is measured where it can be", () => {
    const definitions = metricsFor(windows)
    const names = definitions.map(metricName)
    expect(new Set(names).size).toBe(names.length)
    const measure = (...of: Parameters<typeof sample>) =>
      Object.fromEntries(sample(...of).map((one) => [metricName(one), one.value]))
    const records = measured(1)
    const texts = ["a", "b", "c"]
    const without = measure(definitions, "natural", { records, texts, others: records, otherTexts: texts, windows })
    const all = measure(definitions, "natural", {
      records,
      texts,
      others: records,
      otherTexts: texts,
      windows,
      reference: { records, others: records },
      said: [{ text: [1, 2], truth: [1, 2] }, { text: [1, 3], truth: [1, 2] }]
    })
    expect(Object.keys(all).sort()).toEqual([...names].sort())
    expect(Object.keys(without).sort()).toEqual(
      names.filter((name) => !/^said|reference|wbc|^prism|^likelihoodRatio/.test(name)).sort()
    )
    // members and others are the same: guessing
    for (const name of names.filter((name) => name.endsWith(".auc"))) expect(all[name]).toBeCloseTo(0.5, 12)
    expect(all["likelihoodRatio"]).toBe(1)
    expect([all["prism"], all["prism.gap"]]).toEqual([expect.closeTo(1, 12), 0])
    expect(all["said.approximate"]).toBe(0.5)
  })
  it("ask for a continuation to the end, after a quarter and a half", () => {
    expect(windows).toEqual([{ context: 2, length: 7 }, { context: 4, length: 5 }])
    expect(windowsOf([3, 30], seqLen)).toEqual([{ context: 3, length: 6 }])
  })
})

describe("where a sweep stops", () => {
  const point = (seen: number, validation: number, series: unknown = "") => ({
    setting: "",
    series: String(series),
    losses: { seen, validation, scored: seen }
  })
  const oracle = { seen: 3 }
  it("is the first point at which the seen half is unknown, of several rates the cheapest one", () => {
    expect(choose([point(1, 2), point(3.1, 2.1), point(4, 2.2)], oracle, "seen")).toBe(1)
    expect(choose([point(1, 2, 1), point(3.1, 9, 1), point(1, 2, 2), point(3.2, 3, 2)], oracle, "seen")).toBe(3)
  })
  it("is where most is forgotten when none gets there, and never a model that has diverged", () => {
    expect(choose([point(1, 2), point(2.5, 2.1), point(2, 2.2)], oracle, "seen")).toBe(1)
    expect(choose([point(1, 2), point(NaN, NaN), point(2, 2.2)], oracle, "seen")).toBe(2)
    expect(choose([point(1, 2), point(Infinity, Infinity), point(3.5, 2.2)], oracle, "seen")).toBe(2)
    expect(choose([point(1, 2), point(Infinity, Infinity), point(2.5, 2.2)], oracle, "seen")).toBe(2)
  })
})

describe("a summary over seeds", () => {
  const losses = (natural: number, heldOut?: number) => [
    { ...repeatedLoss, value: natural },
    ...(heldOut === undefined ? [] : [{ ...heldOutLoss, value: heldOut }])
  ]
  const seed = (n: number, off: number | undefined): SeedFindings => ({
    seed: n,
    found: [
      { arm: "standard", kind: "trained", state: "own", metrics: losses(1, 3) },
      { arm: "neverRepeated", kind: "trained", state: "own", metrics: losses(5, 3) },
      ...(off === undefined
        ? []
        : [{ arm: "sinks", kind: "trained" as const, state: "off" as const, metrics: losses(off) }])
    ],
    curves: [],
    tradeoffs: [],
    relearning: [],
    interference: [],
    hygiene: [],
    localizers: [],
    costs: [],
    extraction: [{
      arm: "standard",
      state: "own",
      panel: "natural",
      by: "repeats",
      metric: "greedy",
      points: [{ x: 1, value: 0.1 }, { x: 4, value: 0.5 }, { x: 16, value: 0.9 }]
    }]
  })
  const names = { standard: "standard", oracle: "neverRepeated" }
  it("has means with intervals, and what is between the oracle and the standard model", () => {
    const { extraction, subjects } = summarize([seed(1, 4), seed(2, 5), seed(3, undefined)], names)
    const sinks = subjects.find(({ arm }) => arm === "sinks")!
    expect(metricOf(sinks, "natural.loss").value.values).toEqual([4, 5, null])
    expect(metricOf(sinks, "natural.loss").value.mean).toBe(4.5)
    expect(metricOf(sinks, "natural.loss").recovery!.values).toEqual([0.25, 0, null])
    expect(metricOf(sinks, "natural.loss").value.low).toBeLessThan(4)
    // held-out loss is no memory
    expect(metricOf(subjects[0]!, "heldOut.loss").recovery).toBeUndefined()
    const { fit } = extraction[0]!
    expect(fit!.slope).toBeCloseTo(0.2, 12)
    expect(fit!.intercept).toBeCloseTo(0.1, 12)
    expect(fit!.r2).toBeCloseTo(1, 12)
  })
})

describe("two checkpoints", () => {
  const compared = (one: string, other: string) =>
    compare(one, other, { device: NodeDevice.layer() }).pipe(Effect.provide(NodeContext.layer))
  it("are compared on what the first was trained on, in every state of its sinks", async () => {
    const { differences, metrics, sequences } = await Effect.runPromise(
      compared(folderOf("sinks"), folderOf("neverRepeated"))
    )
    expect(sequences).toMatchObject({ natural: 8, heldOut: 16 })
    const difference = (state: string) => differences.find((one) => one.state === state && one.split === "natural")!
    expect(difference("own").high).toBeLessThan(0)
    expect(difference("off").value).toBeGreaterThan(difference("own").value + 0.5)
    const strength = metrics.filter((one) => nameOf(one) === "natural.extractionStrength")
    expect(strength.map(({ state }) => state)).toEqual(["own", "off", "placebo", "all"])
    expect(strength[0]!.value).toBeGreaterThan(strength[1]!.value)
    expect(new Set(strength.map(({ against }) => against)).size).toBe(1)
  })
  it("with different tokenizers are refused", async () => {
    const other = join(root, "other")
    cpSync(folderOf("neverRepeated"), other, { recursive: true })
    const step = readdirSync(other).find((name) => name.startsWith("step-"))!
    const file = join(other, step, "tokenizer.json")
    const changed = JSON.parse(readFileSync(file, "utf8"))
    changed.version = "2.0"
    writeFileSync(file, JSON.stringify(changed))
    const error = await Effect.runPromise(Effect.flip(compared(folderOf("sinks"), join(other, step))))
    expect(error.message).toMatch(/tokenizer/)
  })
})
